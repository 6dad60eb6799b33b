//! How well the data is protected: [`Health`], which is checked when it is asked for, at most once in half a minute unless a run
//! has ended.
//!
//! **Unhealthy** (503) means that data is lost if the machine goes away now:
//! - no vault can be opened, or none of them has a good snapshot that may be restored;
//! - the newest good snapshot is older than `--max-age`;
//! - the data directory is not there, or a critical file is not in it.
//!
//! **Degraded** (200) means that somebody should look at it:
//! - one of several vaults cannot be opened, has no snapshot that this version may restore, or answered before and not now;
//! - the run, or the backup, that ended last failed, or its snapshot is not good or not in each vault;
//! - the newest good snapshot is not whole;
//! - backups are switched off;
//! - a snapshot or a run is dated ahead of the clock (apart from this, it is not counted);
//! - nearly as many critical events wait as may wait;
//! - nothing in the data directory is younger than `DATA_FRESHNESS`: the app has stopped writing, or writes elsewhere.
//!
//! The data directory and each vault are checked separately, each with its own time limit: one that hangs hides nothing of the
//! others. The last result of a part that hangs counts, with its age.
//!
//! All else is **healthy**. The check of a very large directory ends after some seconds; what it had not seen by then is not held
//! against the directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

pub use super::health_data::DataProbeSettings;
use super::health_data::{self, CriticalFile, DataFindings};
pub use super::health_looks::NewestSnapshot;
use super::health_looks::{self as looks, Probe, VaultProbe, VaultReply, VaultStatus, age};
use crate::report::{Action, Outcome, RunId};
use crate::runner::runner::{LastRun, Runner};

/// A result that is younger than this is given again, unless a run has ended since.
const FRESH: Duration = Duration::from_secs(30);
/// The longest time for which a request waits for a check.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time limit of each part of a check: of each vault, and of the data directory.
const TIME: Duration = Duration::from_secs(4);

/// The limits of what counts as healthy.
#[derive(Debug, Clone)]
pub struct HealthSettings {
    /// How old the newest good snapshot may be.
    pub max_age: Duration,
    /// How old the newest file in the data directory may be.
    pub freshness: Duration,
    /// Why no backup is taken; `None` if backups are taken.
    pub backups_off: Option<String>,
    /// The data directory, and what has to be in it.
    pub place: DataProbeSettings,
}

/// The health in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Healthy,
    /// Somebody should look.
    Degraded,
    /// Data is lost if the machine goes away now.
    Unhealthy,
}

impl Status {
    /// Returns the word for it, as it is in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// The answer to `/health`: how well the data is protected.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// All of it in one word.
    pub status: Status,
    /// The reasons, if it is not healthy.
    pub why: Vec<String>,
    /// When it was checked.
    pub checked: Timestamp,
    /// Each vault, and whether it can be opened.
    pub vaults: Vec<VaultHealth>,
    /// The newest good snapshot.
    pub snapshot: Option<NewestSnapshot>,
    /// How old the newest good snapshot may be, in seconds.
    pub max_age_seconds: u64,
    /// The data directory.
    pub data: DataHealth,
    /// The run that ended last, of those that are known.
    pub last_run: Option<LastRun>,
    /// The error of `last_run`.
    pub last_error: Option<String>,
}

/// The health of one vault.
#[derive(Debug, Clone, Serialize)]
pub struct VaultHealth {
    /// Its address.
    pub vault: String,
    /// Whether it can be opened.
    pub reachable: bool,
    /// Why it cannot be opened.
    pub error: Option<String>,
    /// How long ago it last answered, in seconds; `None` if it never did, or is not there any more.
    pub seen_seconds_ago: Option<u64>,
}

/// The data directory.
#[derive(Debug, Clone, Serialize)]
pub struct DataHealth {
    /// Whether it is there and can be read.
    pub present: bool,
    /// When its newest file was last modified.
    pub newest: Option<Timestamp>,
    /// How long ago that was, in seconds.
    pub age_seconds: Option<u64>,
    /// How long ago it may be, in seconds.
    pub freshness_seconds: u64,
    /// Whether all of it was seen; a check ends after some seconds.
    pub whole: bool,
    /// How long ago it was last seen, in seconds; `None` if it never was.
    pub seen_seconds_ago: Option<u64>,
    /// The critical files, and whether each is there, as far as that was seen in time.
    pub critical_files: Vec<CriticalFile>,
}

/// The results of the checks of all vaults.
#[derive(Default)]
struct VaultFindings {
    opened: Vec<VaultHealth>,
    snapshot: Option<NewestSnapshot>,
    /// The vaults of which this version may restore nothing, and why.
    refused: Vec<String>,
    runs: Vec<LastRun>,
    ahead: Vec<String>,
}

/// The result of a check, and when it ended.
struct CachedHealth {
    at: Instant,
    /// The run that had ended last.
    after: Option<RunId>,
    health: Arc<Health>,
}

/// Checks the health, and keeps the result for half a minute, or until a run has ended.
pub struct Checkup(Arc<CheckupInner>);

struct CheckupInner {
    runner: Arc<Runner>,
    settings: HealthSettings,
    seen: watch::Sender<Option<CachedHealth>>,
    looking: AtomicBool,
    vaults: Vec<Arc<VaultProbe>>,
    data: Arc<Probe<DataFindings>>,
}

impl Checkup {
    /// Creates a checkup that has not checked anything yet.
    pub fn new(runner: Arc<Runner>, settings: HealthSettings) -> Self {
        let (seen, _) = watch::channel(None);
        let vaults = runner.vaults().addresses().iter().cloned().map(VaultProbe::new).collect();
        let (looking, data) = Default::default();
        Checkup(Arc::new(CheckupInner { runner, settings, seen, looking, vaults, data }))
    }

    /// Returns the health as it was at most half a minute ago, and no earlier than the last run ended. Whatever hangs, the answer
    /// comes within some seconds.
    pub async fn health(&self) -> Arc<Health> {
        let mut seen = self.0.seen.subscribe();
        let (asked, ended) = (Instant::now(), self.0.ended());
        let young = |seen: &Option<CachedHealth>| {
            let seen = seen.as_ref().filter(|seen| seen.at.elapsed() < FRESH && seen.after == ended);
            seen.map(|seen| seen.health.clone())
        };
        if let Some(health) = young(&seen.borrow()) {
            return health;
        }
        if !self.0.looking.swap(true, Ordering::AcqRel) {
            let inner = self.0.clone();
            // The check goes on when the client hangs up, and nobody else starts another one meanwhile.
            tokio::spawn(async move {
                let after = inner.ended();
                let health = inner.look().await;
                inner.seen.send_replace(Some(CachedHealth { at: Instant::now(), after, health: Arc::new(health) }));
                inner.looking.store(false, Ordering::Release);
            });
        }
        // Any check that ends from now on will do, even one that somebody else started.
        let new =
            |seen: &Option<CachedHealth>| young(seen).is_some() || seen.as_ref().is_some_and(|seen| seen.at >= asked);
        if let Ok(Ok(seen)) = tokio::time::timeout(PATIENCE, seen.wait_for(new)).await
            && let Some(seen) = &*seen
        {
            return seen.health.clone();
        }
        let why = format!("the vault and the data were not seen within {} s", PATIENCE.as_secs());
        Arc::new(self.0.settings.unknown(why))
    }
}

impl CheckupInner {
    /// Returns the run that ended last.
    fn ended(&self) -> Option<RunId> {
        self.runner.last().map(|last| last.run)
    }

    /// Checks each vault and the data directory, all at the same time.
    async fn look(&self) -> Health {
        let vaults = join_all(self.vaults.iter().map(|vault| vault.probe(&self.runner, TIME)));
        let (place, stop) = (self.settings.place.clone(), self.runner.clone());
        let data = self.data.look(TIME, move || stop.context(|ctx| health_data::probe_data(&place, ctx.stop)));
        let (stands, (data, new)) = tokio::join!(vaults, data);
        let mut vaults = VaultFindings::default();
        for (vault, stand) in self.vaults.iter().zip(stands) {
            vaults.add(vault.address.absolute(), stand);
        }
        // Another instance, or a job, may have run something since.
        vaults.runs.extend(self.runner.last().into_iter().chain(self.runner.last_backup()));
        self.settings.judge(vaults, data_seen(data, new), self.runner.overload_warning(), Timestamp::now())
    }
}

impl VaultFindings {
    fn add(&mut self, vault: String, stand: VaultStatus) {
        let VaultStatus { error, counts } = stand;
        let (reachable, seen_seconds_ago) = (error.is_none(), counts.as_ref().map(|(_, ago)| ago.as_secs()));
        let told = format!("the vault {vault} has no snapshot that this version may restore");
        self.opened.push(VaultHealth { vault, reachable, error, seen_seconds_ago });
        let Some((VaultReply { snapshot, refused, mut runs, ahead }, ago)) = counts else { return };
        self.refused.extend(refused.map(|why| format!("{told}: {why}")));
        let snapshot =
            snapshot.map(|newest| NewestSnapshot { age_seconds: newest.age_seconds + ago.as_secs(), ..newest });
        self.snapshot = self.snapshot.into_iter().chain(snapshot).max_by_key(|newest| newest.created);
        self.runs.append(&mut runs);
        self.ahead.extend(ahead);
    }
}

/// Returns what counts for the data directory, the new result or the last one, and its age in seconds; `None` if there is none.
fn data_seen(seen: Option<looks::ProbeResult<DataFindings>>, new: bool) -> (DataFindings, Option<u64>) {
    match seen {
        Some(looks::ProbeResult { value, .. }) if new => ((*value).clone(), Some(0)),
        Some(looks::ProbeResult { at, value }) => ((*value).clone(), Some(at.elapsed().as_secs())),
        None => {
            let error = Some(format!("it was not seen within {} s", TIME.as_secs()));
            (DataFindings { error, ..DataFindings::default() }, None)
        }
    }
}

impl HealthSettings {
    /// The answer when nothing could be seen in time.
    fn unknown(&self, why: String) -> Health {
        Health {
            status: Status::Unhealthy,
            why: vec![why],
            checked: Timestamp::now(),
            vaults: Vec::new(),
            snapshot: None,
            max_age_seconds: self.max_age.as_secs(),
            data: DataHealth {
                present: false,
                newest: None,
                age_seconds: None,
                freshness_seconds: self.freshness.as_secs(),
                whole: false,
                seen_seconds_ago: None,
                critical_files: Vec::new(),
            },
            last_run: None,
            last_error: None,
        }
    }

    /// Judges what was seen. `now` is this machine's clock, which the files' times are compared with.
    fn judge(
        &self,
        vaults: VaultFindings,
        (seen, seen_seconds_ago): (DataFindings, Option<u64>),
        crowd: Option<String>,
        now: Timestamp,
    ) -> Health {
        let (mut bad, mut odd) = (Vec::new(), Vec::from_iter(self.backups_off.clone()));
        odd.extend(crowd);
        // A vault that does not answer for a moment still holds what it held.
        let count = vaults.opened.iter().filter(|vault| vault.seen_seconds_ago.is_some()).count();
        for VaultHealth { vault, error, seen_seconds_ago, .. } in &vaults.opened {
            let Some(error) = error else { continue };
            match seen_seconds_ago {
                Some(ago) => odd.push(format!("the vault {vault} answered {ago} s ago, and not now: {error}")),
                None if count == 0 => bad.push(format!("the vault {vault} cannot be opened: {error}")),
                None => odd.push(format!("the vault {vault} cannot be opened: {error}")),
            }
        }
        let snapshot = vaults.snapshot;
        (if snapshot.is_some() { &mut odd } else { &mut bad }).extend(vaults.refused);
        match snapshot {
            Some(newest) if newest.age_seconds > self.max_age.as_secs() => bad.push(format!(
                "the newest good snapshot is {} s old, and {} s is too old",
                newest.age_seconds,
                self.max_age.as_secs()
            )),
            None if bad.is_empty() => bad.push("there is no good snapshot".into()),
            Some(newest) if !newest.whole => odd.push(format!(
                "not all could be read for the newest good snapshot, {}: the rest is as it was before, or missing",
                newest.id.id
            )),
            _ => {}
        }
        let age_seconds = seen.newest.map(|newest| age(newest, now));
        match &seen.error {
            Some(why) => bad.push(format!("the data directory cannot be read: {why}")),
            None => {
                let missing = seen.critical.iter().filter(|critical| critical.present == Some(false));
                bad.extend(missing.map(|critical| format!("{} is not in the data directory", critical.pattern)));
                match age_seconds {
                    Some(age) if age <= self.freshness.as_secs() => {}
                    _ if !seen.whole => {}
                    Some(age) => odd.push(format!("the newest file in the data directory is {age} s old")),
                    None => odd.push("there is no file in the data directory".into()),
                }
            }
        }
        if let Some(ago) = seen_seconds_ago.filter(|ago| *ago > 0) {
            odd.push(format!("the data directory was seen {ago} s ago, and not now"));
        }
        let (runs, ahead) = looks::in_time(vaults.runs, now);
        odd.extend(vaults.ahead.into_iter().chain(ahead));
        let backups = runs.iter().filter(|last| last.action == Action::Backup).cloned();
        let (backup, last) = (looks::last_of(backups), looks::last_of(runs.clone()));
        if let Some(last) = last.as_ref().filter(|last| last.result != Outcome::Complete) {
            odd.push(format!("the last run, {} {}, ended as {}", last.action.name(), last.run, last.result));
        }
        // A run that came after a bad backup and ended well mends nothing: a replica may stay behind, for one.
        let is_last = |backup: &LastRun| last.as_ref().is_some_and(|last| last.run == backup.run);
        let backup = backup.filter(|backup| backup.result != Outcome::Complete && !is_last(backup));
        odd.extend(backup.map(|backup| format!("the last backup, {}, ended as {}", backup.run, backup.result)));
        let status = match (bad.is_empty(), odd.is_empty()) {
            (false, _) => Status::Unhealthy,
            (true, false) => Status::Degraded,
            (true, true) => Status::Healthy,
        };
        bad.append(&mut odd);
        Health {
            status,
            why: bad,
            checked: now,
            vaults: vaults.opened,
            snapshot,
            max_age_seconds: self.max_age.as_secs(),
            data: DataHealth {
                present: seen.error.is_none(),
                newest: seen.newest,
                age_seconds,
                freshness_seconds: self.freshness.as_secs(),
                whole: seen.whole,
                seen_seconds_ago,
                critical_files: seen.critical,
            },
            last_error: last.as_ref().and_then(|last| last.error.clone()),
            last_run: last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hex::Hex;
    use crate::vault::root::SnapshotName;

    const NOW: i64 = 1_800_000_000;

    fn at(ago: i64) -> Timestamp {
        Timestamp::from_second(NOW - ago).unwrap()
    }

    fn vaults(ago: Option<i64>, reachable: &[bool]) -> VaultFindings {
        let opened = reachable.iter().map(|&reachable| VaultHealth {
            vault: "gs://b/app".into(),
            reachable,
            error: (!reachable).then(|| "it does not answer".into()),
            seen_seconds_ago: reachable.then_some(0),
        });
        let id = SnapshotName { seq: 1, time: at(0), id: Hex([0; 8]) };
        let newest = |ago| NewestSnapshot { id, created: at(ago), age_seconds: age(at(ago), at(0)), whole: true };
        VaultFindings { opened: opened.collect(), snapshot: ago.map(newest), ..VaultFindings::default() }
    }

    fn seen(ago: Option<i64>) -> DataFindings {
        DataFindings { newest: ago.map(at), whole: true, ..DataFindings::default() }
    }

    fn run(result: Outcome) -> LastRun {
        let (run, action, error) = (Hex([1; 8]), Action::Backup, Some("it failed".into()));
        LastRun { run, action, result, finished: at(1), error, code: None }
    }

    #[test]
    fn what_is_unhealthy_and_what_is_degraded() {
        let settings = HealthSettings {
            max_age: Duration::from_secs(3600),
            freshness: Duration::from_secs(7200),
            backups_off: None,
            place: DataProbeSettings::default(),
        };
        let judge = |mut vaults: VaultFindings, seen, last: Option<LastRun>| {
            vaults.runs.extend(last);
            let health = settings.judge(vaults, (seen, Some(0)), None, at(0));
            assert_eq!(health.why.is_empty(), health.status == Status::Healthy, "{health:?}");
            (health.status.name(), health.why.join("; "))
        };
        let fine = || (vaults(Some(3600), &[true]), seen(Some(7200)));
        assert_eq!(judge(fine().0, fine().1, None).0, "healthy");
        assert_eq!(judge(fine().0, fine().1, Some(run(Outcome::Complete))).0, "healthy");
        let critical = |present| DataFindings {
            critical: vec![CriticalFile { pattern: "*.db".into(), present, filled: None }],
            ..fine().1
        };
        assert_eq!(judge(fine().0, critical(Some(true)), None).0, "healthy");
        assert_eq!(judge(fine().0, critical(None), None).0, "healthy");
        // Not all of it was seen: the newest files may be in the rest.
        assert_eq!(judge(fine().0, DataFindings { whole: false, ..seen(None) }, None).0, "healthy");

        let crowded = settings.judge(fine().0, (fine().1, Some(0)), Some("many wait".into()), at(0));
        assert_eq!((crowded.status, crowded.why), (Status::Degraded, vec!["many wait".to_owned()]));
        let mut behind = fine().0;
        behind.runs.push(LastRun { finished: at(2), ..run(Outcome::IncompleteCopies) });
        let verified = LastRun { run: Hex([2; 8]), action: Action::Verify, ..run(Outcome::Complete) };
        let mut stale = fine().0;
        let newest = stale.snapshot.as_mut().unwrap();
        newest.whole = false;
        for (vaults, seen, last, why) in [
            (vaults(Some(3600), &[true, false]), fine().1, None, "gs://b/app cannot be opened"),
            (fine().0, seen(Some(7201)), None, "the newest file"),
            (fine().0, seen(None), None, "there is no file"),
            (fine().0, fine().1, Some(run(Outcome::Failed)), "the last run"),
            (fine().0, fine().1, Some(run(Outcome::Suspect)), "suspect"),
            (stale, fine().1, None, "not all could be read"),
            (fine().0, fine().1, Some(LastRun { finished: at(-600), ..run(Outcome::Complete) }), "ahead of the clock"),
            (behind, fine().1, Some(verified), "the last backup, 0101010101010101, ended as incomplete-copies"),
        ] {
            let told = judge(vaults, seen, last);
            assert!(told.0 == "degraded" && told.1.contains(why), "{told:?}");
        }
        for (vaults, seen, last, why) in [
            (vaults(None, &[false, false]), fine().1, None, "cannot be opened"),
            (vaults(None, &[true]), fine().1, None, "no good snapshot"),
            (vaults(Some(3601), &[true]), fine().1, Some(run(Outcome::Failed)), "3601 s old"),
            (fine().0, critical(Some(false)), None, "*.db is not in"),
            (fine().0, DataFindings { error: Some("it is not there".into()), ..seen(None) }, None, "it is not there"),
        ] {
            let told = judge(vaults, seen, last);
            assert!(told.0 == "unhealthy" && told.1.contains(why), "{told:?}");
        }
    }

    #[test]
    fn what_was_known_of_a_vault_counts_with_its_age() {
        let settings = HealthSettings {
            backups_off: None,
            max_age: Duration::from_secs(3600),
            freshness: Duration::from_secs(7200),
            place: DataProbeSettings::default(),
        };
        let answered = |ago: i64| VaultReply { snapshot: vaults(Some(ago), &[]).snapshot, ..VaultReply::default() };
        let away = |counts| VaultStatus { error: Some("it has not answered within 4 s".into()), counts };
        let judged = |stands: Vec<VaultStatus>| {
            let mut all = VaultFindings::default();
            stands.into_iter().for_each(|stand| all.add("gs://b/app".into(), stand));
            let health = settings.judge(all, (seen(Some(0)), Some(0)), None, at(0));
            (health.status.name(), health.snapshot.map(|newest| newest.age_seconds), health.why.join("; "))
        };
        let counts = |ago, since| Some((answered(ago), Duration::from_secs(since)));
        let told = judged(vec![away(counts(100, 500))]);
        assert!(told.0 == "degraded" && told.1 == Some(600) && told.2.contains("answered 500 s ago"), "{told:?}");
        let told = judged(vec![away(counts(100, 5000))]);
        assert!(told.0 == "unhealthy" && told.2.contains("5100 s old"), "{told:?}");
        let told = judged(vec![away(None)]);
        assert!(told.0 == "unhealthy" && told.1.is_none() && told.2.contains("cannot be opened"), "{told:?}");
        // Another vault answers, and has a newer snapshot.
        let fine = VaultStatus { error: None, counts: counts(50, 0) };
        let told = judged(vec![away(None), fine]);
        assert!(told.0 == "degraded" && told.1 == Some(50), "{told:?}");
        let away_data = settings.judge(vaults(Some(0), &[true]), (seen(Some(0)), Some(9)), None, at(0));
        assert!(away_data.status == Status::Degraded && away_data.data.present, "{away_data:?}");
    }
}
