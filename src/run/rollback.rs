//! `lastgood rollback`: makes an older snapshot the newest one, for an app that `run` runs, from any machine.
//!
//! It is an instance without an app: it takes an epoch and waits until the one that runs has stopped its app, saved and ended. In its
//! epoch it commits the snapshot again: one root that names the packs as they are, and ends the epoch. Whoever waits comes back then, and
//! finds a newer snapshot than its own last one: it restores that. Whatever an older instance still commits has a lower number.
//!
//! A vault that lacks the snapshot gets it first, from one that has it, so that all of them have it as their newest. One in which that
//! is not so, since it does not answer, is told with the command that brings it there.
//!
//! Nothing is lost: the newest snapshot after the handover is pinned before the new root is made, and going back is a rollback to it.
//! One that is told to stop ends its epoch, so that whoever waits comes back at once. If it is killed before the root, nothing has changed
//! but that an epoch has to be ended by the next instance; after it, the same with the new data.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::epochs::clock::SystemClock;
use crate::epochs::driver::{Commit, EpochDriver, EpochOptions, Start};
use crate::error::{Code, Error, Kind, Result};
use crate::job;
use crate::lineage;
use crate::monitor::Context;
use crate::replicas;
use crate::replicas::copy::copy;
use crate::replicas::pin::pin;
use crate::replicas::pool::VaultPool;
use crate::replicas::recommit::{NewRoot, ROLLBACK, acceptable, recommit};
use crate::replicas::{Site, SiteState, none_serves};
use crate::restore::select::LATEST;
use crate::run::epoch_end::end_epoch;
use crate::store::address::argument;
use crate::vault::read::{PackReader, absent};
use crate::vault::root::SnapshotName;
use crate::verify;

/// How often an epoch without an app is said to look at its successors: who comes after a rollback that was killed waits twice as long.
const POLL: Duration = Duration::from_secs(5);

/// The settings of a rollback.
#[derive(Debug, Clone)]
pub struct RollbackSettings {
    /// The snapshot: an id or the beginning of one, or a time.
    pub snapshot: String,
    /// Whether a suspect one will do.
    pub accept_suspect: bool,
    /// Whether nothing is done.
    pub dry_run: bool,
    /// The app's service.
    pub service: Option<String>,
    /// Whether the vault may be another service's.
    pub take_over: bool,
    /// How long an instance that runs may take to save and end.
    pub handover: Duration,
    /// The host's name.
    pub host: String,
}

/// The result of a rollback.
#[derive(Debug, Clone, Serialize)]
pub struct RollbackReport {
    /// The snapshot that was gone back to.
    pub snapshot: SnapshotName,
    /// When it was taken.
    pub taken: Timestamp,
    /// The snapshot that was the newest good one. `None` if there was none.
    pub before: Option<SnapshotName>,
    /// Until when that is kept at least.
    pub pinned_until: Option<Timestamp>,
    /// The snapshot's new name, which is the newest. `None` if nothing was done.
    pub committed_as: Option<SnapshotName>,
    /// The epoch in which it was committed. `None` if nothing was done.
    pub epoch: Option<u32>,
    /// Vaults that do not have it, and go on giving an older state as their newest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<VaultBehind>,
}

/// A vault in which a rollback is not done.
#[derive(Debug, Clone, Serialize)]
pub struct VaultBehind {
    /// Its address.
    pub vault: String,
    /// Why it does not have the snapshot.
    pub why: String,
    /// The command that brings it there.
    pub command: String,
}

/// Makes a snapshot the newest.
///
/// # Errors
/// No such snapshot, or one that is not good; the vault is of another service; the handover or a store fails.
pub fn rollback(settings: &RollbackSettings, vaults: &VaultPool, ctx: &Context) -> Result<RollbackReport> {
    let doing = || format!("roll back to {}", settings.snapshot);
    if settings.snapshot == LATEST {
        return Err(Error::usage(doing(), "that is the newest already").with_code(Code::UnknownSnapshot));
    }
    // Looked up before anybody is asked to hand over, and by its name from then on.
    let (name, taken) = replicas::restore::newest_of(vaults.sites(false)?, &settings.snapshot, ctx)?;
    let root = acceptable(vaults.sites(false)?, name)?;
    if !root.good() && !settings.accept_suspect {
        let why = root.diverged.or(root.suspect).unwrap_or_else(|| format!("it is {}", root.state));
        return Err(Error::failed(doing(), format!("the snapshot {name} is not good: {why}"))
            .with_code(Code::NoGoodSnapshot)
            .hint("`--accept-suspect` takes it all the same: it counts as good from then on."));
    }
    check_whole(vaults.sites(false)?, name, ctx).map_err(|why| why.within(doing()))?;
    let mut report = RollbackReport {
        snapshot: name,
        taken,
        before: newest(vaults, ctx)?,
        pinned_until: None,
        committed_as: None,
        epoch: None,
        behind: Vec::new(),
    };
    if settings.dry_run {
        return Ok(report);
    }
    // Before anybody is asked to hand over, as it may take long.
    let lacking = spread(vaults.sites(false)?, name, ctx)?;
    let options = EpochOptions {
        handover: settings.handover,
        poll: POLL,
        service: settings.service.clone(),
        revision: None,
        host: settings.host.clone(),
        locked: None,
        lock_runs: Vec::new(),
        // Somebody at a terminal is who rolls back.
        on_terminal: false,
        take_over: settings.take_over,
        is_rollback: true,
        run: job::new_run(ctx)?,
    };
    let driver = EpochDriver::new(vaults.sites(false)?, options.clone(), Arc::new(SystemClock));
    let lost = |by: u32| {
        let why = format!("the instance of epoch {by} has taken over meanwhile");
        Error::failed(doing(), why).with_code(Code::OtherWriter).hint("Try again.")
    };
    let begun = match driver.begin(ctx) {
        Ok(Start::Begun(begun)) => begun,
        Ok(Start::Superseded { by }) => {
            _ = end(&driver, None, vaults, ctx);
            return Err(lost(by));
        }
        Err(why) => {
            // It may have been taken all the same, and an instance have stopped its app for it.
            _ = end(&driver, None, vaults, ctx);
            return Err(match why.code() {
                Code::OtherWriter => {
                    why.hint("Name the app's service, `--service NAME`; `--take-over` goes on all the same.")
                }
                _ => why,
            });
        }
    };
    let (mut is_committing, mut committed_as) = (false, None);
    let committed = (|| {
        // The instance that ran has saved once more.
        report.before = newest(vaults, ctx)?;
        if let Some(before) = report.before {
            let why = format!("it was the newest before a rollback to {name}");
            report.pinned_until = Some(pin(vaults.sites(false)?, before, &why, ctx)?);
        }
        if let Commit::Diverged { by } = driver.before_commit(ctx)? {
            return Err(lost(by));
        }
        let new = NewRoot {
            epoch: begun.epoch,
            serial: lineage::new_serial(ctx)?,
            origin: ROLLBACK,
            run: options.run,
            host: settings.host.clone(),
            accepted: settings.accept_suspect,
        };
        is_committing = true;
        let anew = recommit(vaults.sites(false)?, name, &new, ctx)?;
        committed_as = Some(anew);
        match driver.after_commit(ctx)? {
            Commit::Good => Ok(anew),
            Commit::Diverged { by } => Err(lost(by)),
        }
    })();
    // Also if it failed: the next instance is to wait for nobody.
    let ended = end(&driver, committed_as.or(report.before), vaults, ctx);
    let anew = committed.map_err(|why| match (why.code(), committed_as, ended) {
        (Code::Stopped, Some(_), Some(Commit::Diverged { by })) => lost(by),
        // An epoch that ends by itself was not ended by another one before: what was committed in it counts.
        (Code::Stopped, Some(anew), Some(Commit::Good)) => {
            why.hint(format!("{name} was committed again, as {anew}: the rollback is done, and need not be repeated."))
        }
        (Code::Stopped, Some(anew), None) => why.hint(format!(
            "{name} was committed again, as {anew}. Whether another instance has taken over before is not known: `lastgood list` shows \
             whether it is the newest."
        )),
        (Code::Stopped, None, _) if is_committing => why.hint(format!(
            "Whether {name} was committed again is not known: `lastgood list` shows it. If not, roll back once more."
        )),
        _ => why,
    })?;
    (report.committed_as, report.epoch) = (Some(anew), Some(begun.epoch));
    report.behind = behind(vaults.sites(false)?, anew, &lacking);
    match ended {
        Some(Commit::Diverged { by }) => Err(lost(by)),
        Some(Commit::Good) | None => Ok(report),
    }
}

/// Ends the epoch of a rollback that is over, or given up. `None` if that could not be told, which is a warning.
fn end(driver: &EpochDriver, last: Option<SnapshotName>, vaults: &VaultPool, ctx: &Context) -> Option<Commit> {
    let ended = end_epoch(driver, last, vaults, ctx);
    if let Err(why) = &ended {
        let what = why.what();
        ctx.monitor.warn(&format!(
            "the end of the epoch was not told: an instance that starts waits for it, and one that has stopped its app for the rollback \
             comes back after its --handover and 240 s: {what}"
        ));
    }
    ended.ok()
}

/// Copies a snapshot into the vaults that do not hold it whole, so that it can be made the newest there, too. Returns which of them could
/// not get it, and why.
///
/// # Errors
/// Being told to stop.
fn spread(sites: Vec<Site>, name: SnapshotName, ctx: &Context) -> Result<HashMap<String, String>> {
    let (mut holders, mut others) = (Vec::new(), Vec::new());
    for Site { url, found, .. } in sites {
        // One that is not there or does not answer is told in the end, if it still does not.
        let SiteState::Vault(vault) = found else { continue };
        let is_whole = || -> Result<bool> {
            let root = vault.root(name)?;
            let packs = PackReader::for_root(&*vault.store, &root)?;
            Ok(absent(&*vault.store, packs.book().values())?.is_empty())
        };
        if is_whole().unwrap_or(false) {
            holders.push(vault);
        } else {
            others.push((url, vault));
        }
    }
    let mut lacking = HashMap::new();
    for (url, vault) in others {
        let mut why = None;
        for holder in &holders {
            ctx.check("copy the snapshot into all vaults")?;
            why = match copy(holder, &vault, &[name], ctx) {
                Ok(done) => done.not_copied.into_iter().chain(done.hurt).next().map(|over| over.why),
                Err(why) => Some(why.what()),
            };
            if why.is_none() {
                break;
            }
        }
        lacking.extend(why.map(|why| (url, why)));
    }
    Ok(lacking)
}

/// Returns the vaults that do not have a snapshot which was just committed; `lacking` tells why some could not get its content.
fn behind(sites: Vec<Site>, name: SnapshotName, lacking: &HashMap<String, String>) -> Vec<VaultBehind> {
    let (mut from, mut behind) = (None, Vec::new());
    for site in sites {
        let url = site.url.clone();
        match site.vault().and_then(|vault| vault.snapshots()) {
            Ok(names) if names.contains(&name) => from = from.or(Some(url)),
            Ok(_) => {
                let why = lacking.get(&url).map_or("it could not be committed there", String::as_str);
                behind.push((url, why.to_owned()));
            }
            Err(why) => behind.push((url, why.what())),
        }
    }
    let from = from.unwrap_or_default();
    let command = |to: &str| format!("lastgood copy --from {} --to {}", argument(&from), argument(to));
    behind.into_iter().map(|(vault, why)| VaultBehind { command: command(&vault), vault, why }).collect()
}

/// Reads all that a snapshot needs, until one vault is found that has it whole: no app is stopped for what could not be restored.
///
/// # Errors
/// No vault has it whole.
fn check_whole(sites: Vec<Site>, name: SnapshotName, ctx: &Context) -> Result<()> {
    let mut failures = Vec::new();
    for Site { url, found, .. } in sites {
        let SiteState::Vault(vault) = found else { continue };
        let whole = (|| {
            let root = vault.root(name)?;
            let reader = PackReader::for_root(&*vault.store, &root)?;
            let packs: Vec<_> = reader.book().values().collect();
            match verify::check_objects(&*vault.store, &packs, ctx).into_iter().next() {
                Some((_, why)) => Err(why),
                None => Ok(()),
            }
        })();
        match whole {
            Ok(()) => return Ok(()),
            Err(why) => failures.push((url, why)),
        }
    }
    Err(none_serves(&format!("read the snapshot {name}"), failures))
}

/// Returns the newest good snapshot. `None` if there is none.
fn newest(vaults: &VaultPool, ctx: &Context) -> Result<Option<SnapshotName>> {
    match replicas::restore::newest_of(vaults.sites(false)?, LATEST, ctx) {
        Ok((name, _)) => Ok(Some(name)),
        Err(why) if why.kind() == Kind::NothingYet || why.code() == Code::NoGoodSnapshot => Ok(None),
        Err(why) => Err(why),
    }
}
