//! Restores the newest snapshot that any of several vaults has.

use std::cmp::Reverse;

use jiff::Timestamp;
use serde::Serialize;

use super::{Site, SiteFailure, check_same, none_serves, passed_over, unheard};
use crate::error::{Kind, Result};
use crate::monitor::{Context, SilentMonitor};
use crate::panics;
use crate::restore::ahead::FilledAhead;
use crate::restore::damaged::{self, RestoreFailure};
use crate::restore::options::RestoreOptions;
use crate::restore::preview::Preview;
use crate::restore::select::{self, Choice, NewerFormat, PassedOver, Unchosen};
use crate::restore::{self, Damaged};
use crate::vault::Vault;
use crate::vault::doubt::Doubts;
use crate::vault::root::SnapshotName;

/// The result of a restore, and from which vault it came.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplicatedRestoreReport {
    /// The vault that it came from.
    pub vault: String,
    /// The result of the restore.
    #[serde(flatten)]
    pub restored: restore::RestoreReport,
}

/// A vault that has a fitting snapshot.
struct RestoreCandidate {
    url: String,
    vault: Vault,
    choice: Choice,
    doubts: Doubts,
    /// Why an older snapshot of this vault may serve: packs of the chosen one are damaged or missing there.
    over: Option<PassedOver>,
    /// The snapshot that was chosen first, if it was not tried because packs of it are known to be damaged.
    untried: Option<Choice>,
}

/// Restores the newest good snapshot that candidates and that any vault has, from the first vault that has it. If it turns
/// out to be damaged there, or the store fails, the next vault that has it takes over. If no vault gives it back whole,
/// what is damaged is skipped if that is wanted; otherwise, unless the snapshot was named, the newest older one that a
/// vault has whole is taken, with a warning.
///
/// What a newer lastgood wrote, in whichever vault, may be good: nothing older is restored unless it is named.
///
/// # Errors
/// Usage: the vaults are not replicas of one. Failed: a newer lastgood wrote a vault, or a snapshot that is newer than all
/// that can be read. No vault serves; the error says why for each. As [`restore::restore`].
pub fn restore(mut sites: Vec<Site>, options: &RestoreOptions, ctx: &Context) -> Result<ReplicatedRestoreReport> {
    if sites.len() == 1
        && let Some(site) = sites.pop()
    {
        let vault = site.url.clone();
        let restored = restore::restore(&site.vault()?, options, ctx)?;
        restored.warnings.iter().for_each(|what| ctx.monitor.warn(what));
        return Ok(ReplicatedRestoreReport { vault, restored });
    }
    check_same(&sites)?;
    let mut warnings = Vec::new();
    let mut warn = |what: String| {
        ctx.monitor.warn(&what);
        warnings.push(what);
    };
    let Chosen { candidates, failures, unknown, newer_format, unheard } = choose_all(sites, &options.snapshot)?;
    failures.iter().for_each(|(url, why)| warn(passed_over(url, why)));
    let doing = format!("restore to {}", options.target.display());
    let chosen = candidates.iter().map(|fit| (&fit.vault, &fit.choice));
    unheard::check_roots(&doing, chosen, &unheard, options.unheard)?;
    let newer = newer(&candidates, unknown);
    restore::tell_of_newer(&newer, &mut warn);
    let ReplicatedRestoreReport { vault, mut restored } =
        restore_one_of(candidates, (failures, unheard, newer_format), options, ctx, &mut warn)?;
    restored.warnings.splice(..0, warnings);
    // A snapshot that is damaged in every vault may be the one that was meant.
    restored.instead_of = select::newest_damaged(&newer).max(restored.instead_of);
    restored.passed_over.extend(newer);
    restored.passed_over.sort_by_key(|over| Reverse(over.snapshot));
    restored.passed_over.dedup_by_key(|over| over.snapshot);
    restored.passed_over.retain(|over| over.snapshot > restored.snapshot);
    Ok(ReplicatedRestoreReport { vault, restored })
}

/// Tells what [`restore()`] would do, from the first vault that has the newest fitting snapshot.
///
/// # Errors
/// As [`restore::preview::preview`]; no vault has a fitting snapshot.
pub fn preview(sites: Vec<Site>, options: &RestoreOptions, ctx: &Context) -> Result<(String, Preview)> {
    let (RestoreCandidate { url, vault, choice, .. }, newer) = newest(sites, &options.snapshot, ctx)?;
    let told = restore::preview::preview(&vault, options, Choice { passed_over: newer, ..choice }, ctx)?;
    Ok((url, told))
}

/// Makes the files of the newest good snapshot in a staging folder beside the target, from the first vault that has it.
///
/// # Errors
/// No vault has one; the errors of [`fill_ahead`](restore::fill_ahead::fill_ahead).
pub fn fill_ahead(sites: Vec<Site>, options: &RestoreOptions, ctx: &Context) -> Result<FilledAhead> {
    // The restore that follows says what is to be said of the others.
    let quiet = &Context { monitor: &SilentMonitor, ..*ctx };
    let (RestoreCandidate { vault, choice, mut doubts, .. }, _) = newest(sites, &options.snapshot, quiet)?;
    restore::fill_ahead::fill_ahead(&vault, options, (choice, &mut doubts), quiet)
}

/// Returns the newest good snapshot that candidates and that any vault has, and when its capture began.
///
/// # Errors
/// No vault has one.
pub fn newest_of(sites: Vec<Site>, spec: &str, ctx: &Context) -> Result<(SnapshotName, Timestamp)> {
    // The restore reports the rest.
    let ctx = &Context { monitor: &SilentMonitor, ..*ctx };
    newest(sites, spec, ctx).map(|(fit, _)| (fit.choice.name, fit.choice.root.started))
}

/// Returns the first vault that has the newest fitting snapshot, and the newer snapshots that are passed over.
fn newest(sites: Vec<Site>, spec: &str, ctx: &Context) -> Result<(RestoreCandidate, Vec<PassedOver>)> {
    check_same(&sites)?;
    let Chosen { candidates, failures, unknown, .. } = choose_all(sites, spec)?;
    let newer = newer(&candidates, unknown);
    let newest = candidates.iter().map(|fit| fit.choice.name).max();
    match candidates.into_iter().find(|fit| Some(fit.choice.name) == newest) {
        Some(fit) => {
            failures.iter().for_each(|(url, why)| ctx.monitor.warn(&passed_over(url, why)));
            restore::tell_of_newer(&newer, |what| ctx.monitor.warn(&what));
            Ok((fit, newer))
        }
        None => Err(none_serves("find a snapshot to restore", failures)),
    }
}

/// Returns the snapshots that are newer than the newest that any of the vaults has to choose, newest first, with the
/// reasons. If one vault knows that a snapshot is not good, it does not matter that it is damaged, or `unknown`, in
/// another.
fn newer(candidates: &[RestoreCandidate], unknown: Vec<PassedOver>) -> Vec<PassedOver> {
    let Some(newest) = candidates.iter().map(|fit| fit.choice.name).max() else { return Vec::new() };
    let known = candidates.iter().flat_map(|fit| fit.choice.passed_over.iter().cloned());
    let mut newer: Vec<_> = known.chain(unknown).filter(|over| over.snapshot > newest).collect();
    newer.sort_by_key(|over| (Reverse(over.snapshot), over.damaged));
    newer.dedup_by_key(|over| over.snapshot);
    newer
}

/// Restores from one of the vaults that have a fitting snapshot.
fn restore_one_of(
    candidates: Vec<RestoreCandidate>,
    (mut failures, mut unheard, newer_format): (Vec<SiteFailure>, Vec<String>, Option<NewerFormat>),
    options: &RestoreOptions,
    ctx: &Context,
    warn: &mut impl FnMut(String),
) -> Result<ReplicatedRestoreReport> {
    // The newest snapshot there is, from the first vault that has it. The others come only if it cannot be had.
    let newest = candidates.iter().map(|fit| fit.choice.name).max();
    if let (Some(first), Some(RestoreCandidate { url, choice, .. })) =
        (candidates.first(), candidates.iter().find(|fit| Some(fit.choice.name) == newest))
        && first.choice.name < choice.name
    {
        let (name, older) = (choice.name, first.choice.name);
        let lost = first.choice.passed_over.iter().find(|over| over.snapshot == name);
        let lost = lost.map(|over| format!(": there {}", over.why)).unwrap_or_default();
        warn(format!(
            "the newest good snapshot, {name}, is in {url}; the newest that {} has is {older}{lost}",
            first.url
        ));
    }
    let (mut candidates, behind): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|fit| Some(fit.choice.name) == newest);
    // Vaults that give all of it come first.
    let passes = if options.skip_damaged { &[false, true][..] } else { &[false] };
    for skip_damaged in passes {
        let options = RestoreOptions { skip_damaged: *skip_damaged, ..options.clone() };
        failures.retain(|(url, _)| !candidates.iter().any(|fit| fit.url == *url));
        unheard.retain(|url| !candidates.iter().any(|fit| fit.url == *url));
        for fit in &mut candidates {
            match fit.restore(&options, ctx) {
                Ok(restored) => {
                    restored.warnings.iter().for_each(|what| ctx.monitor.warn(what));
                    return Ok(ReplicatedRestoreReport { vault: fit.url.clone(), restored });
                }
                Err(RestoreFailure { why, .. }) if why.kind() != Kind::Damage && !why.of_store() => return Err(why),
                Err(failure) => {
                    ctx.check("restore")?;
                    fit.untried = failure.untried.then(|| fit.choice.clone());
                    fit.over = damaged::passed_over(fit.choice.name, &failure.wrong).filter(|_| !fit.choice.named);
                    let why = failure.why;
                    warn(format!("the vault {} does not give {} back: {}", fit.url, fit.choice.name, why.what()));
                    if unheard::is_silent(&why) {
                        unheard.push(fit.url.clone());
                    }
                    failures.push((fit.url.clone(), why));
                }
            }
        }
    }
    let doing = format!("restore to {}", options.target.display());
    if !unheard::awaits(&failures, &unheard, options.unheard) {
        let may = |fit: &mut RestoreCandidate| fit.over.is_some() && !options.skip_damaged;
        let replaceable: Vec<_> = candidates.extract_if(.., may).collect();
        match older((newest, replaceable), (behind, &unheard, newer_format), options, ctx, warn) {
            Ok(Ok(report)) => return Ok(report),
            Ok(Err(left)) => candidates.extend(left),
            // An older snapshot would go back behind what is there; the reason to report is that the newest cannot be had.
            Err(why) if why.kind() == Kind::Unneeded && options.only.older.is_some() => {
                return Err(none_serves(&doing, failures));
            }
            Err(why) => return Err(why),
        }
    }
    for fit in &mut candidates {
        let Some(choice) = fit.untried.take() else { continue };
        warn(format!("{} of {} is read anyway, because nothing else is left to try", choice.name, fit.url));
        match restore::restore_chosen(&fit.vault, options, choice, (&mut fit.doubts, Damaged::Read), ctx) {
            Ok(restored) => {
                restored.warnings.iter().for_each(|what| ctx.monitor.warn(what));
                return Ok(ReplicatedRestoreReport { vault: fit.url.clone(), restored });
            }
            Err(RestoreFailure { why, .. }) if why.kind() == Kind::Unneeded => return Err(why),
            Err(_) => {}
        }
        ctx.check("restore")?;
    }
    Err(unheard::none_gives(&doing, failures, &unheard, options.unheard))
}

impl RestoreCandidate {
    fn restore(&mut self, options: &RestoreOptions, ctx: &Context) -> Result<restore::RestoreReport, RestoreFailure> {
        restore::restore_chosen(&self.vault, options, self.choice.clone(), (&mut self.doubts, Damaged::PassedOver), ctx)
    }
}

/// Restores the newest older snapshot that one of the vaults has whole: from the vaults in which packs of the newest
/// are damaged, and from those `behind`, whose own newest one is older. Nothing is taken that is older than something of a
/// newer format in any vault. Gives back the vaults if there is no such snapshot.
fn older(
    (newest, mut candidates): (Option<SnapshotName>, Vec<RestoreCandidate>),
    (behind, unheard, mut newer_format): (Vec<RestoreCandidate>, &[String], Option<NewerFormat>),
    options: &RestoreOptions,
    ctx: &Context,
    warn: &mut impl FnMut(String),
) -> Result<Result<ReplicatedRestoreReport, Vec<RestoreCandidate>>> {
    let mut left = Vec::new();
    let mut over: Vec<PassedOver> = Vec::new();
    for fit in &mut candidates {
        over.append(&mut fit.choice.passed_over);
        over.extend(fit.over.take());
    }
    let mut below = behind;
    loop {
        for mut fit in candidates.drain(..) {
            match damaged::older(&fit.vault, fit.choice.name) {
                Ok(Ok(choice)) => {
                    fit.choice = choice;
                    below.push(fit);
                }
                Ok(Err(at)) => {
                    newer_format = newer_format.max(at);
                    left.push(fit);
                }
                Err(why) => warn(passed_over(&fit.url, &why)),
            }
        }
        below.sort_by_key(|fit| fit.choice.name);
        let next = below.pop();
        if let (Some(newest), Some(above)) = (newest, newer_format)
            && next.as_ref().is_none_or(|fit| above.is_above(fit.choice.name))
        {
            warn(damaged::nothing_older(newest, above));
            left.extend(next.into_iter().chain(below).filter(|fit| fit.untried.is_some()));
            return Ok(Err(left));
        }
        let Some(mut fit) = next else { return Ok(Err(left)) };
        let name = fit.choice.name;
        match fit.restore(options, ctx) {
            Ok(mut restored) => {
                if let Some(newest) = newest {
                    let none = match unheard {
                        [] => "no vault can give".to_owned(),
                        _ => format!("no vault apart from {}, which could not be asked, can give", unheard.join(", ")),
                    };
                    warn(format!("{none} {newest} back; {name} of {}, which is older, is restored", fit.url));
                }
                restored.warnings.iter().for_each(|what| ctx.monitor.warn(what));
                over.append(&mut restored.passed_over);
                over.sort_by_key(|over| Reverse(over.snapshot));
                over.dedup_by_key(|over| over.snapshot);
                let restored = restore::RestoreReport { passed_over: over, instead_of: newest, ..restored };
                return Ok(Ok(ReplicatedRestoreReport { vault: fit.url, restored }));
            }
            Err(RestoreFailure { why, .. }) if why.kind() != Kind::Damage && !why.of_store() => return Err(why),
            Err(failure) => {
                ctx.check("restore")?;
                match damaged::passed_over(name, &failure.wrong) {
                    // There may be many such snapshots, so the report lists them.
                    Some(passed) => {
                        over.push(passed);
                        candidates.push(fit);
                    }
                    None => warn(format!("the vault {} does not give {name} back: {}", fit.url, failure.why.what())),
                }
            }
        }
    }
}

/// The result of looking in all vaults for the snapshot that is meant.
struct Chosen {
    /// The vaults that have one.
    candidates: Vec<RestoreCandidate>,
    /// Why the others have none.
    failures: Vec<SiteFailure>,
    /// The snapshots of the others, which might have been meant.
    unknown: Vec<PassedOver>,
    /// The newest that only a newer lastgood can read: it is older than the newest candidate. `None` if the snapshot was named.
    newer_format: Option<NewerFormat>,
    /// The vaults that could not be opened or did not answer: what they have is not known.
    unheard: Vec<String>,
}

/// Looks in all vaults at the same time for the snapshot that is meant.
///
/// # Errors
/// Failed: snapshots fit, and something that may be newer than all of them is of a newer format.
fn choose_all(sites: Vec<Site>, spec: &str) -> Result<Chosen> {
    let choose = |site: Site| {
        let (url, mut is_heard) = (site.url.clone(), true);
        let begun = match site.vault() {
            Ok(vault) => restore::choose_with_doubts(&vault, spec).map(|begun| (vault, begun)),
            Err(why) if why.is_newer_format() => {
                let newer_format = Some(Box::new(NewerFormat::Vault));
                Err(Unchosen { why: select::with_way_out(why), passed_over: Vec::new(), newer_format })
            }
            Err(why) => {
                is_heard = false;
                Err(why.into())
            }
        };
        is_heard &= begun.as_ref().err().is_none_or(|unchosen| !unheard::is_silent(&unchosen.why));
        (url, is_heard, begun)
    };
    let (mut candidates, mut failures, mut unknown, mut unheard) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut newest_unread = None;
    let chosen: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = sites.into_iter().map(|site| scope.spawn(move || choose(site))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for chosen in chosen {
        let (url, is_heard, begun) = chosen.map_err(|panic| panics::error("look into the vaults", &*panic))?;
        if !is_heard {
            unheard.push(url.clone());
        }
        match begun {
            Ok((vault, (choice, doubts))) => {
                candidates.push(RestoreCandidate { url, vault, choice, doubts, over: None, untried: None });
            }
            Err(unchosen) => {
                unknown.extend(unchosen.passed_over);
                if let Some(at) = unchosen.newer_format.map(|at| *at)
                    && newest_unread.as_ref().is_none_or(|(newest, _)| *newest < at)
                {
                    newest_unread = Some((at, unchosen.why.clone()));
                }
                failures.push((url, unchosen.why));
            }
        }
    }
    let newest = candidates.iter().filter(|fit| !fit.choice.named).map(|fit| fit.choice.name).max();
    let newer_format = match (newest, newest_unread) {
        (Some(newest), Some((at, why))) if at.is_above(newest) => return Err(why),
        (newest, unread) => newest.and(unread).map(|(at, _)| at),
    };
    Ok(Chosen { candidates, failures, unknown, newer_format, unheard })
}
