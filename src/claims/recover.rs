//! Finds what a run committed that did not live to tell of it.

use jiff::{SignedDuration, Timestamp};

use super::ended_runs::{ServedBefore, copy_report};
use crate::claims::lease::EarlierRun;
use crate::error::{Error, Result};
use crate::job::{self, Origin};
use crate::report::{self, Action, EncodedReport, Outcome, Report, RunId, StoredReport};
use crate::store::Store;
use crate::vault::Vault;
use crate::vault::root::{BackupReason, Root, SnapshotName, SnapshotState};

/// How far apart the clocks of machines that share a vault may be.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// The report of a snapshot that one of the runs before committed.
pub struct RecoveredReport {
    /// The report's object.
    pub object: String,
    /// The report and why the snapshot was taken, if the report is stored only now and nobody has been told of it yet.
    pub new: Option<(Report, BackupReason)>,
}

/// The report of a snapshot that one of the runs before committed: that run's own, else one that is stored now in the name of
/// `run`. `None` if they committed nothing.
///
/// # Errors
/// A store that fails.
pub fn report(vault: &Vault, earlier: &[EarlierRun], run: RunId, cause: &Origin) -> Result<Option<RecoveredReport>> {
    let Some((by, name, root)) = committed(vault, earlier)? else { return Ok(None) };
    match good_report(&*vault.store, by, name)? {
        Some(object) => Ok(Some(RecoveredReport { object, new: None })),
        None => store(&*vault.store, run, cause, (name, &root)).map(Some),
    }
}

/// A snapshot that one of the runs before committed without living to tell. Every root names its run.
fn committed(vault: &Vault, earlier: &[EarlierRun]) -> Result<Option<(RunId, SnapshotName, Root)>> {
    let Some(begun) = earlier.iter().map(|earlier| earlier.started).min() else { return Ok(None) };
    let begun = begun.saturating_sub(CLOCKS).unwrap_or(begun);
    for name in vault.snapshots()?.into_iter().filter(|name| name.time >= begun) {
        match vault.root(name) {
            Ok(root) => {
                if let Some(run) = root.run.filter(|run| earlier.iter().any(|earlier| earlier.run == *run)) {
                    return Ok(Some((run, name, root)));
                }
            }
            Err(why) if why.is_unusable_content() => {
                tracing::warn!("the snapshot {name} is passed over: {}", why.what());
            }
            Err(why) => return Err(why),
        }
    }
    Ok(None)
}

/// The object of the report by which one of the runs before did what was asked for, without living to note it in its claim.
///
/// # Errors
/// A store that fails.
pub fn done(store: &dyn Store, earlier: &[EarlierRun]) -> Result<Option<String>> {
    if earlier.is_empty() {
        return Ok(None);
    }
    let by_one = |named: &report::ReportName| named.stays() && earlier.iter().any(|earlier| earlier.run == named.run);
    Ok(report::list(store)?.into_iter().find(by_one).map(|named| named.object))
}

/// A report. `None` if it is damaged, as its name alone says how its run ended.
pub(super) fn kept(store: &dyn Store, object: &str) -> Result<Option<EncodedReport>> {
    match report::told(store, object) {
        Err(why) if !why.of_store() => {
            tracing::warn!("a report is not copied: {}", why.what());
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// The error by which a claim is not held whose event may be served already. For a restore, which must not be done twice, it is
/// no failure of the store that would let another vault take the claim: that vault knows less.
pub fn unseen(action: Action, why: Error) -> Error {
    if action != Action::Restore {
        return why;
    }
    Error::failed("see whether a run before has done this restore", why.what()).with_code(why.code()).hint(
        "Every vault is asked. If one is gone for good, look into the data directory, and ask for the restore by another event or by \
         `lastgood restore`.",
    )
}

/// The object of a run's report. `None` if none of its reports tells of the snapshot.
fn good_report(store: &dyn Store, run: RunId, snapshot: SnapshotName) -> Result<Option<String>> {
    for named in report::list(store)?.into_iter().filter(|named| named.run == run) {
        match report::told(store, &named.object) {
            Ok(report) if report.stored().snapshot == Some(snapshot) => {
                return Ok(Some(named.object));
            }
            Ok(_) => {}
            Err(why) if why.of_store() => return Err(why),
            Err(why) => tracing::warn!("a report is passed over: {}", why.what()),
        }
    }
    Ok(None)
}

/// Stores a report of a promised run that was not done because another run had served its request: it ends as that one did.
///
/// # Errors
/// A store that fails; a report of that other run that cannot be read.
pub fn served_by(
    store: &dyn Store,
    before: &ServedBefore,
    run: RunId,
    action: Action,
    cause: &Origin,
) -> Result<Report> {
    // The request was served even if its report is gone.
    let (result, snapshot) = match before.report.as_ref().map(EncodedReport::stored) {
        None => (Outcome::Complete, None),
        Some(&StoredReport { result: Some(result), snapshot, .. }) => (result, snapshot),
        Some(_) => {
            return Err(Error::damage(format!("read {}", before.object), "it does not say how its run ended"));
        }
    };
    let report = bare(store, (run, action, result, snapshot), cause)?;
    copy_report(store, &report.encode()?, &report.object())?;
    job::log(&report, 0.0);
    Ok(report)
}

/// A report of a run that has just begun and ended.
fn bare(
    store: &dyn Store,
    (run, action, result, snapshot): (RunId, Action, Outcome, Option<SnapshotName>),
    cause: &Origin,
) -> Result<Report> {
    let now: Timestamp = store.now().map_err(|why| why.while_doing("ask the store for the time"))?;
    let (way, events, place) = (cause.way, cause.events.clone(), cause.place.clone());
    let (format, started, finished, error, done) = (Report::format(), now, now, None, None);
    let hook_failures = Vec::new();
    Ok(Report {
        format,
        run,
        action,
        result,
        way,
        events,
        place,
        started,
        finished,
        snapshot,
        error,
        hook_failures,
        done,
    })
}

/// Stores a report of a run that found what another had committed.
fn store(
    store: &dyn Store,
    run: RunId,
    cause: &Origin,
    (name, root): (SnapshotName, &Root),
) -> Result<RecoveredReport> {
    let result = match root.state {
        SnapshotState::Partial => Outcome::Partial,
        SnapshotState::Suspect => Outcome::Suspect,
        SnapshotState::Complete if root.good() && !root.whole() => Outcome::Stale,
        SnapshotState::Complete if root.good() => Outcome::Complete,
        SnapshotState::Complete => Outcome::Unsound,
    };
    let report = bare(store, (run, Action::Backup, result, Some(name)), cause)?;
    let object = report.object();
    copy_report(store, &report.encode()?, &object)?;
    job::log(&report, 0.0);
    Ok(RecoveredReport { object, new: Some((report, root.reason)) })
}
