//! Restoring the newest snapshot that any of several vaults has.

use std::cmp::Reverse;

use serde::Serialize;

use super::{Failure, Site, check_same, none_serves, passed_over};
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::restore::{self, Options, select};
use crate::vault::Vault;
use crate::vault::root::SnapshotName;

/// What was restored, and from where.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The vault that it came from.
    pub vault: String,
    /// What was restored.
    #[serde(flatten)]
    pub restored: restore::Report,
}

/// A vault that has a snapshot that fits.
struct Fit {
    url: String,
    vault: Vault,
    name: SnapshotName,
}

/// Restores the newest good snapshot that fits and that any vault has, from the first vault that has it. When it turns out to be
/// damaged there, or the store fails, the next vault that has it takes over, then those that have an older one, aloud; what is
/// damaged is skipped only where no vault has it whole.
///
/// # Errors
/// Usage: the vaults are not replicas of one. No vault serves; the error tells of each, why. As [`restore::restore`].
pub fn restore(mut sites: Vec<Site>, options: &Options, ctx: &Context) -> Result<Report> {
    if sites.len() == 1
        && let Some(site) = sites.pop()
    {
        let vault = site.url.clone();
        let restored = restore::restore(&site.vault()?, options, ctx)?;
        restored.warnings.iter().for_each(|what| ctx.monitor.warn(what));
        return Ok(Report { vault, restored });
    }
    check_same(&sites)?;
    let mut warnings = Vec::new();
    let mut warn = |what: String| {
        ctx.monitor.warn(&what);
        warnings.push(what);
    };
    let (mut fits, mut failures) = choose_all(sites, &options.snapshot)?;
    failures.iter().for_each(|(url, why)| warn(passed_over(url, why)));
    // The newest there is, in the first vault that has it. The others only come when it cannot be had.
    let first = fits.first().map(|fit| (fit.url.clone(), fit.name));
    fits.sort_by_key(|fit| Reverse(fit.name));
    if let (Some((first, older)), Some(Fit { url, name, .. })) = (first, fits.first())
        && older < *name
    {
        warn(format!("the newest good snapshot, {name}, is in {url}; the newest that {first} has is {older}"));
    }
    // First those that give all of it.
    let passes = if options.skip_damaged { &[false, true][..] } else { &[false] };
    for skip_damaged in passes {
        let options = Options { skip_damaged: *skip_damaged, ..options.clone() };
        failures.retain(|(url, _)| !fits.iter().any(|fit| fit.url == *url));
        for (at, fit) in fits.iter().enumerate() {
            match restore::restore(&fit.vault, &options, ctx) {
                Ok(mut restored) => {
                    restored.warnings.iter().for_each(|what| ctx.monitor.warn(what));
                    restored.warnings.splice(..0, warnings);
                    return Ok(Report { vault: fits.swap_remove(at).url, restored });
                }
                Err(why) if why.kind() != Kind::Damage && !why.of_store() => return Err(why),
                Err(why) => {
                    ctx.check("restore")?;
                    warn(format!("the vault {} does not give {} back: {}", fit.url, fit.name, why.what()));
                    failures.push((fit.url.clone(), why));
                }
            }
        }
    }
    Err(none_serves(&format!("restore to {}", options.target.display()), failures))
}

/// Looks in all vaults at the same time for the snapshot that is meant.
fn choose_all(sites: Vec<Site>, spec: &str) -> Result<(Vec<Fit>, Vec<Failure>)> {
    let choose = |site: Site| {
        let url = site.url.clone();
        match site.vault().and_then(|vault| select::find(&vault, spec).map(|(name, _)| (vault, name))) {
            Ok((vault, name)) => Ok(Fit { url, vault, name }),
            Err(why) => Err((url, why)),
        }
    };
    let (mut fits, mut failures) = (Vec::new(), Vec::new());
    let chosen: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = sites.into_iter().map(|site| scope.spawn(move || choose(site))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for chosen in chosen {
        match chosen.map_err(|_| Error::failed("look into the vaults", "a thread ended in a panic"))? {
            Ok(fit) => fits.push(fit),
            Err(failure) => failures.push(failure),
        }
    }
    Ok((fits, failures))
}
