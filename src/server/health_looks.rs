//! Looks at things that may hang: each is apart from the others, has its own time, and what it gave last is kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::watch;

use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::parallel::budget::ByteBudget;
use crate::parallel::ordered::map_ordered;
use crate::report::{self, Outcome, RunId};
use crate::restore::select;
use crate::runner::runner::{LastRun, Runner};
use crate::store::Store;
use crate::store::address::Address;
use crate::vault::Vault;
use crate::vault::root::SnapshotName;

/// What a look gave, and when.
pub struct ProbeResult<T> {
    /// When the look ended.
    pub at: Instant,
    /// What it gave.
    pub value: Arc<T>,
}

impl<T> Clone for ProbeResult<T> {
    fn clone(&self) -> Self {
        ProbeResult { at: self.at, value: self.value.clone() }
    }
}

/// Something that is looked at now and then, by one at a time.
pub struct Probe<T> {
    seen: watch::Sender<Option<ProbeResult<T>>>,
    looking: AtomicBool,
}

impl<T> Default for Probe<T> {
    fn default() -> Self {
        Probe { seen: watch::channel(None).0, looking: AtomicBool::new(false) }
    }
}

impl<T: Send + Sync + 'static> Probe<T> {
    /// Looks, or waits for the look that is under way, for so long at most. Gives what was seen last, and whether that is new.
    pub async fn look(
        self: &Arc<Self>,
        time: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> (Option<ProbeResult<T>>, bool) {
        let (asked, mut seen) = (Instant::now(), self.seen.subscribe());
        if !self.looking.swap(true, Ordering::AcqRel) {
            let look = self.clone();
            tokio::spawn(async move {
                let value = tokio::task::spawn_blocking(work).await;
                // First: whoever asks from now on, and finds that what was seen is older, begins another look.
                look.looking.store(false, Ordering::Release);
                // A look that ended in a panic gave nothing.
                if let Ok(value) = value {
                    look.seen.send_replace(Some(ProbeResult { at: Instant::now(), value: Arc::new(value) }));
                }
            });
        }
        let new = |seen: &Option<ProbeResult<T>>| seen.as_ref().is_some_and(|seen| seen.at >= asked);
        let is_new = matches!(tokio::time::timeout(time, seen.wait_for(new)).await, Ok(Ok(_)));
        (self.seen.borrow().clone(), is_new)
    }
}

/// The newest good snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NewestSnapshot {
    /// Which it is.
    pub id: SnapshotName,
    /// When it was committed.
    pub created: Timestamp,
    /// How old it was when it was looked at.
    pub age_seconds: u64,
    /// Whether all of it is what was there: nothing is missing, carried over from an older snapshot, or torn.
    pub whole: bool,
}

/// What a vault answered.
#[derive(Clone, Default)]
pub struct VaultReply {
    /// The newest good snapshot.
    pub snapshot: Option<NewestSnapshot>,
    /// Why none may be restored, if that is because a newer lastgood wrote the newest that may be good.
    pub refused: Option<String>,
    /// The runs that began last, whoever ran them.
    pub runs: Vec<LastRun>,
    /// What is dated ahead of the clock.
    pub ahead: Option<String>,
}

/// A run that a vault tells of.
struct ReportedRun {
    /// The report's object.
    object: String,
    /// `None` if neither the report nor its name says anything.
    last: Option<LastRun>,
}

/// How far clocks may be apart.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);
/// Among so many runs, those that began last, the one that ended last is looked for.
const RECENT: usize = 50;

/// A vault, and what was heard of it.
pub struct VaultProbe {
    /// Where the vault is.
    pub address: Address,
    look: Arc<Probe<Result<VaultReply>>>,
    known: Mutex<Option<(Instant, VaultReply)>>,
    /// The runs of which it has told.
    told: Mutex<Vec<ReportedRun>>,
}

/// How a vault stands.
pub struct VaultStatus {
    /// Why it does not answer as it should.
    pub error: Option<String>,
    /// What counts: what it answers, or answered last, and how long ago that was. `None` if there never was an answer, or it is
    /// another one now than that it is away.
    pub counts: Option<(VaultReply, Duration)>,
}

impl VaultProbe {
    /// One of which nothing is known.
    pub fn new(address: Address) -> Arc<Self> {
        let (look, known, told) = Default::default();
        Arc::new(VaultProbe { address, look, known, told })
    }

    /// Asks the vault, for so long at most.
    pub async fn probe(self: &Arc<Self>, runner: &Arc<Runner>, time: Duration) -> VaultStatus {
        let (vault, asker) = (self.clone(), runner.clone());
        let (seen, new) = self.look.look(time, move || asker.context(|ctx| vault.open(&asker, ctx))).await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ProbeResult { at, value }) = &seen {
            match &**value {
                Ok(answered) => *known = Some((*at, answered.clone())),
                Err(why) if why.kind() == Kind::Unreachable => {}
                // It is there, and is not what it was.
                Err(_) => *known = None,
            }
        }
        let counts = known.as_ref().map(|(at, answered)| (answered.clone(), at.elapsed()));
        let error = match seen {
            _ if !new => Some(format!("it has not answered within {} s", time.as_secs())),
            Some(seen) => seen.value.as_ref().as_ref().err().map(Error::what),
            None => None,
        };
        VaultStatus { error, counts }
    }

    fn open(&self, runner: &Runner, ctx: &Context) -> Result<VaultReply> {
        let vault = runner.vaults().probe(&self.address, false).vault()?;
        // By the store's clock, as snapshots are; this machine's serves where that one does not answer.
        let now = vault.store.now().unwrap_or_else(|_| Timestamp::now());
        let runs = self.runs(&*vault.store, ctx);
        let (names, ahead) = in_time(vault.snapshots()?, now);
        let (snapshot, refused) = match newest_good(&vault, &names, now) {
            Err(why) if why.is_newer_format() => (None, Some(format!("could not {}", why.why()))),
            newest => (newest?, None),
        };
        Ok(VaultReply { snapshot, refused, runs, ahead })
    }

    /// The last runs by what the vault holds now: other instances and jobs have theirs, too.
    fn runs(&self, store: &dyn Store, ctx: &Context) -> Vec<LastRun> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match report::newest(store, RECENT).and_then(|named| tell(&named, store, &mut told, ctx)) {
            Ok(now) => *told = now,
            Err(why) => ctx.monitor.warn(&format!("cannot see the last runs: {}", why.what())),
        }
        told.iter().filter_map(|told| told.last.clone()).collect()
    }
}

/// What can be told of these runs. Names say when they began; when they ended, only their reports do, and a long run may end after many
/// that began later. So all are read, each once: what is known already is not read again.
fn tell(
    named: &[report::ReportName],
    store: &dyn Store,
    known: &mut Vec<ReportedRun>,
    ctx: &Context,
) -> Result<Vec<ReportedRun>> {
    let is_known = |named: &report::ReportName| known.iter().any(|told| told.object == named.object);
    let new: Vec<_> = named.iter().filter(|named| !is_known(named)).collect();
    let mut read = Vec::with_capacity(new.len());
    let room = ByteBudget::new(report::AT_ONCE);
    let doing = |named: &&report::ReportName| {
        let _room = room.reserve(named.size);
        report::told(store, &named.object).map(|report| LastRun::read(report.stored()))
    };
    map_ordered(&new, ctx.parallel, doing, |named, told| {
        ctx.check("look at the last runs")?;
        let told = match told {
            Err(why) if why.kind() == Kind::Unreachable => return Err(why),
            Err(why) => {
                tracing::warn!(
                    "only the name of the report of the run {} counts, as the report cannot be read: {}",
                    named.run,
                    why.what()
                );
                None
            }
            Ok(told) => told,
        };
        read.push(ReportedRun { object: named.object.clone(), last: told.or_else(|| by_name(named)) });
        Ok(())
    })?;
    known.retain(|told| named.iter().any(|named| named.object == told.object));
    read.append(known);
    Ok(read)
}

/// What the name of a report's object says of its run.
fn by_name(named: &report::ReportName) -> Option<LastRun> {
    let (action, result) = (named.action?, named.result?);
    let error = Some("its report cannot be read".to_owned()).filter(|_| result != Outcome::Complete);
    Some(LastRun { run: named.run, action, result, finished: named.started, error, code: None })
}

fn newest_good(vault: &Vault, names: &[SnapshotName], now: Timestamp) -> Result<Option<NewestSnapshot>> {
    match select::newest_good(vault, names, "the newest good snapshot") {
        Ok(choice) => {
            let (id, created, whole) = (choice.name, choice.root.finished, choice.root.whole());
            Ok(Some(NewestSnapshot { id, created, age_seconds: age(created, now), whole }))
        }
        Err(why) if why.of_store() || why.kind() == Kind::Unreachable || why.is_newer_format() => Err(why),
        Err(_) => Ok(None),
    }
}

/// Something that is dated.
pub trait Dated {
    /// When it was.
    fn date(&self) -> Timestamp;
    /// What it is, for people.
    fn called(&self) -> String;
}

impl Dated for SnapshotName {
    fn date(&self) -> Timestamp {
        self.time
    }
    fn called(&self) -> String {
        format!("the snapshot {}", self.id)
    }
}

impl Dated for LastRun {
    fn date(&self) -> Timestamp {
        self.finished
    }
    fn called(&self) -> String {
        format!("the run {}", self.run)
    }
}

/// Parts what is dated ahead of the clock, as a clock was that was set since: it would be the newest for as long, and never old. Says so of
/// the one that is ahead most.
pub fn in_time<T: Dated>(all: Vec<T>, now: Timestamp) -> (Vec<T>, Option<String>) {
    let soon = now.saturating_add(CLOCKS).unwrap_or(now);
    let (ahead, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|dated| dated.date() > soon);
    let said = |ahead: &T| {
        let (called, date) = (ahead.called(), ahead.date());
        format!("{called} is dated {date}, ahead of the clock: it counts neither as new nor as the last one")
    };
    (all, ahead.iter().max_by_key(|ahead| ahead.date()).map(said))
}

/// The run that ended last. If two reports tell of one run, the one counts by which it was done: another instance that could not see
/// that may have reported it as failed.
pub fn last_of(runs: impl IntoIterator<Item = LastRun>) -> Option<LastRun> {
    let mut ended: BTreeMap<RunId, LastRun> = BTreeMap::new();
    let weight = |last: &LastRun| (last.result.stays(last.action), last.finished);
    for last in runs {
        match ended.get_mut(&last.run) {
            Some(other) if weight(other) >= weight(&last) => {}
            Some(other) => *other = last,
            None => _ = ended.insert(last.run, last),
        }
    }
    // Stores' clocks may tell no more than seconds: of those that ended in one, what went wrong is told.
    ended.into_values().max_by_key(|last| (last.finished, last.result != Outcome::Complete))
}

/// Seconds, none for what lies ahead.
pub fn age(time: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(time).as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::monitor::{CollectingMonitor, system_random};
    use crate::report::StoredReport;
    use crate::store::local::LocalStore;
    use crate::store::testing::memory::MemoryStore;
    use crate::store::testing::recording::RecordingStore;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_hangs_is_not_waited_for_and_what_was_seen_stays() {
        let look = Arc::new(Probe::default());
        let (first, new) = look.look(LONG, || 1).await;
        assert!(new && *first.unwrap().value == 1);
        let (go_on, hangs) = mpsc::channel::<()>();
        let (seen, new) = look.look(Duration::from_millis(20), move || hangs.recv().map_or(0, |()| 2)).await;
        assert!(!new && *seen.unwrap().value == 1);
        // Nobody begins another one meanwhile, and whoever waits for it has what it gives.
        let (seen, new) = look.look(Duration::from_millis(20), || 3).await;
        assert!(!new && *seen.unwrap().value == 1);
        go_on.send(()).unwrap();
        let (seen, new) = look.look(LONG, || 4).await;
        assert!(new && [2, 4].contains(&*seen.unwrap().value));
    }

    #[test]
    fn a_report_says_what_its_run_came_to() {
        let report = serde_json::json!({
            "run": "0101010101010101", "action": "backup", "result": "failed", "finished": "2026-11-21T10:00:00Z",
            "error": { "error": "it failed", "kind": "failed", "code": "disk-full" },
        });
        let last = LastRun::read(&StoredReport::of(&report)).unwrap();
        assert_eq!((last.result, last.error.as_deref()), (report::Outcome::Failed, Some("it failed")));
        assert_eq!(serde_json::to_value(&last).unwrap()["code"], "disk-full");
        assert!(LastRun::read(&StoredReport::of(&serde_json::json!({ "run": "0101010101010101" }))).is_none());
    }

    #[test]
    fn the_last_runs_are_those_that_the_vault_holds_now() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path());
        let (stop, heard) = (AtomicBool::new(false), CollectingMonitor::default());
        let ctx = Context { random: &system_random, threads: 1, parallel: 1, stop: &stop, monitor: &heard };
        let look = VaultProbe::new(Address::Folder(folder.path().into()));
        let put = |time: &str, run: u8, words: &str, readable: bool| {
            let run = format!("{run:02x}").repeat(8);
            let (action, result) = words.split_once('-').unwrap();
            let finished = time.parse::<Timestamp>().unwrap();
            let report = serde_json::json!({ "run": run, "action": action, "result": result, "finished": finished });
            let body = if readable { report.to_string() } else { "{".to_owned() };
            let time = finished.strftime("%Y%m%dT%H%M%SZ");
            store.create(&format!("runs/{time}-{run}-{words}.json"), &[body.as_bytes()]).unwrap();
        };
        let seen = || {
            let runs = look.runs(&store, &ctx);
            let backups = runs.iter().filter(|last| last.action == report::Action::Backup).cloned();
            [last_of(runs.clone()), last_of(backups)].map(|last| last.map(|last| (last.run.0[0], last.result)))
        };
        assert_eq!(seen(), [None, None]);
        put("2026-11-21T10:00:00Z", 1, "backup-complete", true);
        assert_eq!(seen(), [Some((1, Outcome::Complete)); 2]);
        put("2026-11-21T11:00:00Z", 2, "verify-damaged", true);
        assert_eq!(seen(), [Some((2, Outcome::Damaged)), Some((1, Outcome::Complete))]);
        // One that cannot be read tells by its name, and one whose name says nothing hides nothing.
        put("2026-11-21T12:00:00Z", 3, "backup-failed", false);
        store.create("runs/20261121T130000Z-0404040404040404.json", &[b"{"]).unwrap();
        store.create("runs/20261121T140000Z-0505050505050505-backup-splendid.json", &[b"{}"]).unwrap();
        assert_eq!(seen(), [Some((3, Outcome::Failed)); 2]);
        assert_eq!(heard.warnings(), [""; 0]);
        // What cannot be told now is as it was.
        std::fs::rename(folder.path().join("runs"), folder.path().join("away")).unwrap();
        std::os::unix::fs::symlink("away", folder.path().join("runs")).unwrap();
        assert_eq!((seen(), heard.warnings().len()), ([Some((3, Outcome::Failed)); 2], 1));
    }

    #[test]
    fn the_last_run_is_the_one_that_ended_last() {
        let store = RecordingStore::new(MemoryStore::default());
        let (stop, heard) = (AtomicBool::new(false), CollectingMonitor::default());
        let ctx = Context { random: &system_random, threads: 1, parallel: 4, stop: &stop, monitor: &heard };
        let look = VaultProbe::new(Address::Folder("vault".into()));
        let put = |began: &str, ended: &str, run: u8, result: &str| {
            let run = format!("{run:02x}").repeat(8);
            let finished = format!("2026-11-21T{ended}Z");
            let report = serde_json::json!({ "run": run, "action": "backup", "result": result, "finished": finished });
            let name = format!("runs/20261121T{began}Z-{run}-backup-{result}.json");
            store.create(&name, &[report.to_string().as_bytes()]).unwrap();
        };
        let seen = || {
            store.take();
            let last = last_of(look.runs(&store, &ctx)).unwrap();
            let read = store.take().iter().filter(|call| call.verb == "get").count();
            (last.run.0[0], last.result, read)
        };
        // Began in one second, whatever the order of their names.
        put("100000", "10:00:00.5", 1, "failed");
        put("100000", "10:00:00.2", 2, "complete");
        assert_eq!(seen(), (1, Outcome::Failed, 2));
        put("110000", "11:00:01", 3, "complete");
        put("120000", "12:00:01", 4, "complete");
        assert_eq!(seen(), (4, Outcome::Complete, 2));
        // Began before the others, and has ended by failing only now.
        put("090000", "13:00:00", 5, "failed");
        assert_eq!((seen(), seen()), ((5, Outcome::Failed, 1), (5, Outcome::Failed, 0)));
        put("130000", "13:00:00", 6, "complete");
        assert_eq!(seen(), (5, Outcome::Failed, 1));
        // Reported as failed by an instance that did not know that it was done.
        put("140000", "14:00:00", 6, "failed");
        assert_eq!(seen(), (5, Outcome::Failed, 1));
    }
    #[test]
    fn what_is_dated_ahead_is_neither_young_nor_the_last() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let run = |n: u8, seconds: i64| {
            let (run, action, result) = (crate::vault::hex::Hex([n; 8]), report::Action::Backup, Outcome::Complete);
            let finished = now + SignedDuration::from_secs(seconds);
            LastRun { run, action, result, finished, error: None, code: None }
        };
        let (runs, ahead) = in_time(vec![run(1, -5), run(2, 300), run(3, 301), run(4, 7_776_000), run(5, 302)], now);
        assert_eq!(last_of(runs).unwrap().run.0[0], 2);
        assert!(ahead.unwrap().starts_with("the run 0404040404040404 is dated 2027-04-15"));
        let name = |ahead| SnapshotName { seq: 1, time: now + SignedDuration::from_hours(ahead), id: run(6, 0).run };
        let (names, ahead) = in_time(vec![name(0), name(1)], now);
        assert!(names == [name(0)] && ahead.unwrap().contains("the snapshot 0606060606060606"));
        assert!(in_time(names, now).1.is_none());
    }
}
