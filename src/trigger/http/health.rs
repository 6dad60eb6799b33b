//! How the state is that lastgood keeps: [`Health`], looked at now and then, however often it is asked for.
//!
//! **Unhealthy** (503) is what loses data when the machine goes away now:
//! - no vault can be opened, or none of them has a good snapshot;
//! - the newest good snapshot is older than `--max-age`;
//! - the data directory is not there, or a critical file is not in it.
//!
//! **Degraded** (200) is what somebody should look at:
//! - one of several vaults cannot be opened;
//! - the last run failed, or its snapshot is not good or not in each vault;
//! - the newest good snapshot is not whole;
//! - backups are switched off;
//! - nothing in the data directory is younger than `DATA_FRESHNESS`: the app has stopped writing, or writes elsewhere.
//!
//! All else is **healthy**. A look at a very large directory ends after some seconds; what was not seen then is not held against
//! it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

pub use super::health_data::Place;
use super::health_data::{self, Seen};
use crate::error::{Kind, Result};
use crate::monitor::Context;
use crate::report::{self, Outcome, RunId};
use crate::restore::select;
use crate::store::Store;
use crate::trigger::desk::{Desk, Last};
use crate::vault::Vault;
use crate::vault::root::SnapshotName;

/// How old what is told may be.
const FRESH: Duration = Duration::from_secs(30);
/// For how long somebody who asks waits for a look.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is healthy.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How old the newest good snapshot may be.
    pub max_age: Duration,
    /// How old the newest file in the data directory may be.
    pub freshness: Duration,
    /// Why no backup is taken, if none is.
    pub backups_off: Option<String>,
    /// The data directory, and what has to be in it.
    pub place: Place,
}

/// How it is.
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
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// How the state is that lastgood keeps.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// In a word.
    pub status: Status,
    /// What is wrong.
    pub why: Vec<String>,
    /// When it was looked at.
    pub checked: Timestamp,
    /// Each vault, and whether it can be opened.
    pub vaults: Vec<Opened>,
    /// The newest good snapshot.
    pub snapshot: Option<Newest>,
    /// How old it may be.
    pub max_age_seconds: u64,
    /// The data directory.
    pub data: Data,
    /// The last run that is known of.
    pub last_run: Option<Last>,
    /// What went wrong in it.
    pub last_error: Option<String>,
}

/// A vault.
#[derive(Debug, Clone, Serialize)]
pub struct Opened {
    /// Its address.
    pub vault: String,
    /// Whether it can be opened.
    pub reachable: bool,
    /// Why not.
    pub error: Option<String>,
}

/// The newest good snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Newest {
    /// Which it is.
    pub id: SnapshotName,
    /// When it was committed.
    pub created: Timestamp,
    /// How old it was when it was looked at.
    pub age_seconds: u64,
    /// Whether all of it is what was there: nothing is missing, carried over from an older snapshot, or torn.
    pub whole: bool,
}

/// The data directory.
#[derive(Debug, Clone, Serialize)]
pub struct Data {
    /// Whether it is there and can be read.
    pub present: bool,
    /// When its newest file was changed.
    pub newest: Option<Timestamp>,
    /// How long ago that was.
    pub age_seconds: Option<u64>,
    /// How long ago it may be.
    pub freshness_seconds: u64,
    /// Whether all of it was looked at.
    pub whole: bool,
    /// What has to be in it, and whether it is; not told where that was not seen in time.
    pub critical_files: Vec<Critical>,
}

/// A file that has to be there.
#[derive(Debug, Clone, Serialize)]
pub struct Critical {
    /// Its name, or a pattern.
    pub pattern: String,
    /// Whether there is one.
    pub present: Option<bool>,
}

/// What a look at the vaults gave.
struct Vaults {
    opened: Vec<Opened>,
    snapshot: Result<Option<Newest>>,
    last: Option<Last>,
}

/// What was seen, and when.
struct Seeing {
    at: Instant,
    /// The run that had ended last.
    after: Option<RunId>,
    health: Arc<Health>,
}

/// Looks, and keeps what it saw for a while, or until a run has ended.
pub struct Checkup(Arc<Inner>);

struct Inner {
    desk: Arc<Desk>,
    settings: Settings,
    seen: watch::Sender<Option<Seeing>>,
    looking: AtomicBool,
    /// What the vault said of the last run before this process: asked for once.
    before: Mutex<Option<Option<Last>>>,
}

impl Checkup {
    /// One that has not looked yet.
    pub fn new(desk: Arc<Desk>, settings: Settings) -> Self {
        let (seen, _) = watch::channel(None);
        Checkup(Arc::new(Inner { desk, settings, seen, looking: AtomicBool::new(false), before: Mutex::default() }))
    }

    /// How it is, as it was seen half a minute ago at most, and since the last run ended. Whatever hangs, the answer comes within some seconds.
    pub async fn health(&self) -> Arc<Health> {
        let mut seen = self.0.seen.subscribe();
        let (asked, ended) = (Instant::now(), self.0.ended());
        let young = |seen: &Option<Seeing>| {
            let seen = seen.as_ref().filter(|seen| seen.at.elapsed() < FRESH && seen.after == ended);
            seen.map(|seen| seen.health.clone())
        };
        if let Some(health) = young(&seen.borrow()) {
            return health;
        }
        if !self.0.looking.swap(true, Ordering::AcqRel) {
            let inner = self.0.clone();
            // It goes on when who asked hangs up, and nobody else begins another one meanwhile.
            tokio::spawn(async move {
                let (looker, after) = (inner.clone(), inner.ended());
                let looked = tokio::task::spawn_blocking(move || looker.desk.context(|ctx| looker.look(ctx))).await;
                let health = looked.unwrap_or_else(|_| inner.settings.unknown("the look at it ended early".into()));
                inner.seen.send_replace(Some(Seeing { at: Instant::now(), after, health: Arc::new(health) }));
                inner.looking.store(false, Ordering::Release);
            });
        }
        // A look that ends from now on serves, also one that somebody else began.
        let new = |seen: &Option<Seeing>| young(seen).is_some() || seen.as_ref().is_some_and(|seen| seen.at >= asked);
        if let Ok(Ok(seen)) = tokio::time::timeout(PATIENCE, seen.wait_for(new)).await
            && let Some(seen) = &*seen
        {
            return seen.health.clone();
        }
        let why = format!("the vault and the data were not seen within {} s", PATIENCE.as_secs());
        Arc::new(self.0.settings.unknown(why))
    }
}

impl Inner {
    /// The run that ended last.
    fn ended(&self) -> Option<RunId> {
        self.desk.last().map(|last| last.run)
    }

    fn look(&self, ctx: &Context) -> Health {
        let vaults = self.vaults(ctx);
        let data = health_data::look(&self.settings.place, ctx.stop);
        let last = self.desk.last().or(vaults.last.clone());
        self.settings.judge(vaults, data, last, Timestamp::now())
    }

    fn vaults(&self, ctx: &Context) -> Vaults {
        let vaults = self.desk.vaults();
        let mut seen = Vaults { opened: Vec::new(), snapshot: Ok(None), last: None };
        let mut first: Option<Vault> = None;
        match vaults.sites(false) {
            Ok(sites) => {
                for site in sites {
                    let vault = site.url.clone();
                    let (opened, error) = match site.vault() {
                        Ok(opened) => (Some(opened), None),
                        Err(why) => (None, Some(why.what())),
                    };
                    seen.opened.push(Opened { vault, reachable: opened.is_some(), error });
                    first = first.or(opened);
                }
            }
            Err(why) => seen.snapshot = Err(why),
        }
        let Some(vault) = first else { return seen };
        // By the store's clock, as snapshots are; this machine's serves where that one does not answer.
        let now = vault.store.now().unwrap_or_else(|_| Timestamp::now());
        seen.snapshot = newest_good(&vault, now);
        seen.last = self.before(&*vault.store, ctx);
        seen
    }

    /// The last run before this process.
    fn before(&self, store: &dyn Store, ctx: &Context) -> Option<Last> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*before {
            return known.clone();
        }
        let read = report::list(store).and_then(|named| {
            let newest = named.first();
            newest.map(|named| report::read(store, &named.object)).transpose()
        });
        match read {
            Ok(report) => before.insert(report.as_ref().and_then(last)).clone(),
            Err(why) => {
                ctx.monitor.warn(&format!("the last run cannot be told: {}", why.what()));
                None
            }
        }
    }
}

/// What a report says of its run.
fn last(report: &Value) -> Option<Last> {
    let part = |name: &str| report[name].clone();
    Some(Last {
        run: serde_json::from_value(part("run")).ok()?,
        action: serde_json::from_value(part("action")).ok()?,
        result: serde_json::from_value(part("result")).ok()?,
        finished: serde_json::from_value(part("finished")).ok()?,
        error: report["error"]["error"].as_str().map(str::to_owned),
    })
}

fn newest_good(vault: &Vault, now: Timestamp) -> Result<Option<Newest>> {
    let names = vault.snapshots()?;
    match select::newest_good(vault, &names, "the newest good snapshot") {
        Ok(choice) => {
            let (id, created, whole) = (choice.name, choice.root.finished, choice.root.whole());
            Ok(Some(Newest { id, created, age_seconds: age(created, now), whole }))
        }
        Err(why) if why.of_store() || why.kind() == Kind::Unreachable => Err(why),
        Err(_) => Ok(None),
    }
}

/// Seconds, none for what lies ahead.
fn age(time: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(time).as_secs()).unwrap_or_default()
}

impl Settings {
    /// What is told when nothing could be seen.
    fn unknown(&self, why: String) -> Health {
        Health {
            status: Status::Unhealthy,
            why: vec![why],
            checked: Timestamp::now(),
            vaults: Vec::new(),
            snapshot: None,
            max_age_seconds: self.max_age.as_secs(),
            data: Data {
                present: false,
                newest: None,
                age_seconds: None,
                freshness_seconds: self.freshness.as_secs(),
                whole: false,
                critical_files: Vec::new(),
            },
            last_run: None,
            last_error: None,
        }
    }

    /// Makes of what was seen what it means. `now` is this machine's clock, for its files.
    fn judge(&self, vaults: Vaults, seen: Seen, last: Option<Last>, now: Timestamp) -> Health {
        let (mut bad, mut odd) = (Vec::new(), Vec::from_iter(self.backups_off.clone()));
        let opened = vaults.opened.iter().filter(|vault| vault.reachable).count();
        for Opened { vault, error, .. } in &vaults.opened {
            if let Some(error) = error {
                let told = format!("the vault {vault} cannot be opened: {error}");
                if opened == 0 { bad.push(told) } else { odd.push(told) }
            }
        }
        let snapshot = match vaults.snapshot {
            Ok(snapshot) => snapshot,
            Err(why) => {
                bad.push(format!("the snapshots cannot be told: {}", why.what()));
                None
            }
        };
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
        if let Some(last) = last.as_ref().filter(|last| last.result != Outcome::Complete) {
            odd.push(format!("the last run, {} {}, is {}", last.action.name(), last.run, last.result));
        }
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
            data: Data {
                present: seen.error.is_none(),
                newest: seen.newest,
                age_seconds,
                freshness_seconds: self.freshness.as_secs(),
                whole: seen.whole,
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
    use crate::error::Error;
    use crate::report::Action;
    use crate::vault::hex::Hex;

    const NOW: i64 = 1_800_000_000;

    fn at(ago: i64) -> Timestamp {
        Timestamp::from_second(NOW - ago).unwrap()
    }

    fn vaults(ago: Option<i64>, reachable: &[bool]) -> Vaults {
        let opened = reachable.iter().map(|&reachable| Opened {
            vault: "gs://b/app".into(),
            reachable,
            error: (!reachable).then(|| "it does not answer".into()),
        });
        let id = SnapshotName { seq: 1, time: at(0), id: Hex([0; 8]) };
        let newest = |ago| Newest { id, created: at(ago), age_seconds: age(at(ago), at(0)), whole: true };
        Vaults { opened: opened.collect(), snapshot: Ok(ago.map(newest)), last: None }
    }

    fn seen(ago: Option<i64>) -> Seen {
        Seen { newest: ago.map(at), whole: true, error: None, critical: Vec::new() }
    }

    fn run(result: Outcome) -> Last {
        Last { run: Hex([1; 8]), action: Action::Backup, result, finished: at(1), error: Some("it failed".into()) }
    }

    #[test]
    fn what_is_unhealthy_and_what_is_degraded() {
        let settings = Settings {
            max_age: Duration::from_secs(3600),
            freshness: Duration::from_secs(7200),
            backups_off: None,
            place: Place::default(),
        };
        let judge = |vaults, seen, last| {
            let health = settings.judge(vaults, seen, last, at(0));
            assert_eq!(health.why.is_empty(), health.status == Status::Healthy, "{health:?}");
            (health.status.name(), health.why.join("; "))
        };
        let fine = || (vaults(Some(3600), &[true]), seen(Some(7200)));
        assert_eq!(judge(fine().0, fine().1, None).0, "healthy");
        assert_eq!(judge(fine().0, fine().1, Some(run(Outcome::Complete))).0, "healthy");
        let critical = |present| Seen { critical: vec![Critical { pattern: "*.db".into(), present }], ..fine().1 };
        assert_eq!(judge(fine().0, critical(Some(true)), None).0, "healthy");
        assert_eq!(judge(fine().0, critical(None), None).0, "healthy");
        // Not all of it was seen: what is missing may be in the rest.
        assert_eq!(judge(fine().0, Seen { whole: false, ..seen(None) }, None).0, "healthy");

        let mut stale = fine().0;
        let newest = stale.snapshot.as_mut().unwrap().as_mut().unwrap();
        newest.whole = false;
        for (vaults, seen, last, why) in [
            (vaults(Some(3600), &[true, false]), fine().1, None, "gs://b/app cannot be opened"),
            (fine().0, seen(Some(7201)), None, "the newest file"),
            (fine().0, seen(None), None, "there is no file"),
            (fine().0, fine().1, Some(run(Outcome::Failed)), "the last run"),
            (fine().0, fine().1, Some(run(Outcome::Suspect)), "suspect"),
            (stale, fine().1, None, "not all could be read"),
        ] {
            let told = judge(vaults, seen, last);
            assert!(told.0 == "degraded" && told.1.contains(why), "{told:?}");
        }
        let failed = |why: Error| Vaults { snapshot: Err(why), ..fine().0 };
        for (vaults, seen, last, why) in [
            (vaults(None, &[false, false]), fine().1, None, "cannot be opened"),
            (vaults(None, &[true]), fine().1, None, "no good snapshot"),
            (vaults(Some(3601), &[true]), fine().1, Some(run(Outcome::Failed)), "3601 s old"),
            (failed(Error::unreachable("list", "no answer")), fine().1, None, "cannot be told"),
            (fine().0, critical(Some(false)), None, "*.db is not in"),
            (fine().0, Seen { error: Some("it is not there".into()), ..seen(None) }, None, "it is not there"),
        ] {
            let told = judge(vaults, seen, last);
            assert!(told.0 == "unhealthy" && told.1.contains(why), "{told:?}");
        }
    }

    #[test]
    fn a_report_says_what_its_run_came_to() {
        let report = serde_json::json!({
            "run": "0101010101010101", "action": "backup", "result": "failed", "finished": "2026-11-21T10:00:00Z",
            "error": { "error": "it failed", "kind": "failed" },
        });
        let last = last(&report).unwrap();
        assert_eq!((last.result, last.error.as_deref()), (Outcome::Failed, Some("it failed")));
        assert!(super::last(&serde_json::json!({ "run": "0101010101010101" })).is_none());
    }
}
