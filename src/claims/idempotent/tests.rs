use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::backup;
use crate::error::Kind;
use crate::gcp::cloud::Cloud;
use crate::job::{self, Job};
use crate::monitor::{CollectingMonitor, system_random};
use crate::report::{self, Channel, Outcome};
use crate::vault::hex::Hex;
use crate::vault::root::SnapshotName;

/// A claim that is held.
pub fn held() -> Arc<HeldClaim> {
    World::made().take(1, LIMIT)
}

const LIMIT: Duration = Duration::from_secs(600);
const NO_TIME: Duration = Duration::from_nanos(1);

/// A data directory, and folders for vaults.
struct World {
    folder: tempfile::TempDir,
    vaults: VaultPool,
    stop: AtomicBool,
    heard: CollectingMonitor,
}

impl World {
    fn new(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addresses = names.iter().map(|name| Address::Folder(folder.path().join(name))).collect();
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("data/a"), "one").unwrap();
        let vaults = VaultPool::new(addresses, Cloud::default(), Arc::default());
        World { folder, vaults, stop: AtomicBool::new(false), heard: CollectingMonitor::default() }
    }

    /// A world whose first vault exists.
    fn made() -> Self {
        let world = World::new(&["one"]);
        world.make(0);
        world
    }

    fn make(&self, at: usize) {
        Vault::init(self.vaults.store(&self.vaults.addresses()[at]).unwrap(), system_random).unwrap();
    }

    fn ctx(&self) -> Context<'_> {
        Context { random: &system_random, threads: 1, parallel: 2, stop: &self.stop, monitor: &self.heard }
    }

    fn job(&self) -> Job {
        let options = backup::options::BackupOptions {
            data: self.folder.path().join("data"),
            ..backup::options::BackupOptions::default()
        };
        Job::Backup { options: Box::new(options), init: true }
    }

    fn work(&self, n: u8, before: Option<BeforeCommit>) -> FinishedJob {
        job::run(run(n), &self.job().with_before_commit(before), cause(), &self.vaults, &self.ctx())
    }

    fn once(&self, n: u8, timeout: Duration) -> EventOutcome {
        once(&self.vaults, &claimant(n, timeout), &cause(), &self.ctx(), |before| self.work(n, before)).unwrap()
    }

    fn take(&self, n: u8, timeout: Duration) -> Arc<HeldClaim> {
        match take(&self.vaults, &claimant(n, timeout), &cause(), &self.ctx()).unwrap() {
            ClaimAttempt::Held(held) => held,
            ClaimAttempt::Not(_) | ClaimAttempt::NoVault => panic!("it is not free"),
        }
    }

    fn snapshots(&self) -> Vec<SnapshotName> {
        self.vaults.first(&self.ctx()).unwrap().snapshots().unwrap()
    }

    fn claims(&self) -> PathBuf {
        let folder = self.vaults.addresses()[0].absolute();
        let mut folders = fs::read_dir(Path::new(&folder).join("claims")).unwrap();
        folders.next().unwrap().unwrap().path()
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn run(n: u8) -> RunId {
    Hex([n; 8])
}

fn cause() -> Origin {
    Origin { way: Channel::Http, ..Origin::default() }
}

fn claimant(n: u8, timeout: Duration) -> Claimant {
    let identity = ClaimIdentity::Event("it".into());
    Claimant { identity, action: Action::Backup, run: run(n), host: "host".into(), timeout, promise: None }
}

#[track_caller]
fn now(answer: EventOutcome) -> Box<FinishedJob> {
    match answer {
        EventOutcome::Now(ran) => ran,
        EventOutcome::Before(before) => panic!("{before:?}"),
        EventOutcome::Elsewhere { run, .. } => panic!("{run}"),
    }
}

#[track_caller]
fn before(answer: EventOutcome) -> ServedBefore {
    match answer {
        EventOutcome::Before(before) => before,
        EventOutcome::Now(ran) => panic!("{:?}", ran.report),
        EventOutcome::Elsewhere { run, .. } => panic!("{run}"),
    }
}

/// Work that must not be run.
fn not_again(_: Option<BeforeCommit>) -> FinishedJob {
    panic!("it is run again")
}

#[test]
fn a_redelivery_gets_the_same_report() {
    let world = World::made();
    let ran = now(world.once(1, LIMIT));
    assert_eq!(ran.report.result, Outcome::Complete);
    let again = once(&world.vaults, &claimant(2, LIMIT), &cause(), &world.ctx(), not_again).unwrap();
    let again = before(again);
    assert_eq!((again.run, Some((again.vault, again.object))), (run(1), ran.stored));
    let report = again.report.unwrap().value();
    assert_eq!(report["snapshot"], ran.report.snapshot.unwrap().to_string());
    let names = world.snapshots();
    assert_eq!(names.len(), 1);
    let root = world.vaults.first(&world.ctx()).unwrap().root(names[0]).unwrap();
    assert_eq!(root.run, Some(run(1)));
    // A lost report changes nothing about that.
    fs::remove_dir_all(world.folder.path().join("one/runs")).unwrap();
    assert!(before(world.once(3, LIMIT)).report.is_none());
}

#[test]
fn what_failed_is_run_again_at_once() {
    let world = World::made();
    let data = world.folder.path().join("data");
    fs::rename(&data, world.folder.path().join("away")).unwrap();
    assert_eq!(now(world.once(1, LIMIT)).report.result, Outcome::Failed);
    assert!(world.claims().join("1.failed.json").exists());
    fs::rename(world.folder.path().join("away"), &data).unwrap();
    assert_eq!(now(world.once(2, LIMIT)).report.result, Outcome::Complete);
    assert!(world.claims().join("done.json").exists());
    assert_eq!(before(world.once(3, LIMIT)).run, run(2));
}

#[test]
fn a_backup_that_is_refused_or_finds_damage_is_not_served() {
    let world = World::made();
    let labels = [("k".to_owned(), "v".repeat(2000))].into();
    let Job::Backup { mut options, init } = world.job() else { panic!() };
    options.labels = labels;
    let job = Job::Backup { options, init };
    let work = |_| job::run(run(1), &job, cause(), &world.vaults, &world.ctx());
    let ran = now(once(&world.vaults, &claimant(1, LIMIT), &cause(), &world.ctx(), work).unwrap());
    assert_eq!(ran.report.result, Outcome::Refused);
    // The configuration is put right.
    assert_eq!(now(world.once(2, LIMIT)).report.result, Outcome::Complete);
    assert_eq!(world.snapshots().len(), 1);
    // A run that would only come to the same again counts as served.
    for (action, stays) in [(Action::Backup, false), (Action::Restore, true), (Action::Verify, true)] {
        for outcome in [Outcome::Damaged, Outcome::Refused] {
            assert_eq!(outcome.stays(action), stays);
        }
    }
}

#[test]
fn a_superseded_run_commits_nothing() {
    let world = World::made();
    let held = world.take(1, LIMIT);
    // The run is taken for lost, and another one does all of it while this one works.
    let second = now(world.once(2, NO_TIME));
    let why = second.error.unwrap();
    assert!(why.what().contains("longer than its limit") && why.word() == "stopped", "{why}");
    assert_eq!(world.snapshots(), []);
    let third = now(world.once(3, LIMIT));
    let ran = world.work(1, Some(held.before_commit()));
    assert!(ran.error.as_ref().unwrap().what().contains("taken over"), "{:?}", ran.report);
    assert!(fs::read_dir(world.folder.path().join("one/packs")).unwrap().count() > 0);
    assert_eq!(world.snapshots(), [third.report.snapshot.unwrap()]);
    // The answer is that of the run that took over.
    assert_eq!(before(held.settle(ran, &world.vaults, &world.ctx())).run, run(3));
}

#[test]
fn a_superseded_run_whose_successor_works_is_told_to_wait() {
    let world = World::made();
    let held = world.take(1, LIMIT);
    fs::write(world.claims().join("1.failed.json"), "{}").unwrap();
    let next = world.take(2, LIMIT);
    assert!(held.check_may_commit().is_err() && next.check_may_commit().is_ok());
    let ran = world.work(1, Some(held.before_commit()));
    match held.settle(ran, &world.vaults, &world.ctx()) {
        EventOutcome::Elsewhere { run: other, retry_after } => {
            assert!(other == run(2) && retry_after <= LIMIT && retry_after > LIMIT / 2);
        }
        _ => panic!("not elsewhere"),
    }
}

#[test]
fn a_snapshot_whose_run_was_killed_is_found() {
    for (lost, reported) in [(&[][..], 1), (&["runs"], 2)] {
        let world = World::made();
        let held = world.take(1, LIMIT);
        let ran = world.work(1, Some(held.before_commit()));
        // The process does no more.
        drop(held);
        for folder in lost {
            fs::remove_dir_all(world.folder.path().join("one").join(folder)).unwrap();
        }
        let found = before(once(&world.vaults, &claimant(2, NO_TIME), &cause(), &world.ctx(), not_again).unwrap());
        let (report, name) = (found.report.unwrap().value(), ran.report.snapshot.unwrap().to_string());
        assert_eq!((&report["snapshot"], &report["result"]), (&name.into(), &"complete".into()));
        assert_eq!((report["run"].as_str(), world.snapshots().len()), (Some(&*run(reported).to_string()), 1));
        assert_eq!(report["way"], "http");
        // From now on it is as if nothing had happened.
        assert_eq!(before(world.once(3, LIMIT)).object, found.object);
    }
}

#[test]
fn a_claim_that_is_entered_and_not_held_is_given_up() {
    let world = World::made();
    drop(world.take(1, LIMIT));
    // It cannot be seen whether the first run committed.
    let snapshots = world.folder.path().join("one/snapshots");
    fs::write(&snapshots, "no folder").unwrap();
    let taken = take(&world.vaults, &claimant(2, NO_TIME), &cause(), &world.ctx());
    assert!(taken.err().unwrap().of_store());
    assert!(world.claims().join("2.failed.json").exists());
    // The claim was given up, so that the next run need not wait for its time to be over.
    fs::remove_file(&snapshots).unwrap();
    assert_eq!(now(world.once(3, LIMIT)).report.result, Outcome::Complete);
    assert_eq!(find_served(&world.vaults, "it").unwrap().unwrap().run, run(3));
    assert!(find_served(&world.vaults, "another").unwrap().is_none());
    fs::write(world.claims().join("done.json"), "[]").unwrap();
    assert_eq!(find_served(&world.vaults, "it").unwrap_err().kind(), Kind::Damage);
}

#[test]
fn a_snapshot_of_another_run_is_not_taken_for_its_own() {
    let world = World::made();
    drop(world.take(1, LIMIT));
    drop(world.work(9, None));
    assert_eq!(now(world.once(2, NO_TIME)).report.result, Outcome::Failed);
    assert_eq!(now(world.once(3, LIMIT)).report.result, Outcome::Complete);
    assert_eq!(world.snapshots().len(), 2);
}

#[test]
fn the_first_backup_of_all_is_noted_when_there_is_a_vault() {
    let world = World::new(&["one"]);
    assert_eq!(now(world.once(1, LIMIT)).report.result, Outcome::Complete);
    assert_eq!(before(world.once(2, LIMIT)).run, run(1));
    // A run that fails makes no vault by its claim.
    let world = World::new(&["one"]);
    fs::remove_dir_all(world.folder.path().join("data")).unwrap();
    assert_eq!(now(world.once(1, LIMIT)).report.result, Outcome::Failed);
    assert!(!world.folder.path().join("one").exists());
}

#[test]
fn who_is_told_to_stop_says_so_in_the_claim() {
    let world = World::made();
    let work = |before| {
        world.stop.store(true, Ordering::Relaxed);
        world.work(1, before)
    };
    let ran = now(once(&world.vaults, &claimant(1, LIMIT), &cause(), &world.ctx(), work).unwrap());
    assert!(ran.error.unwrap().what().contains("told to stop"));
    assert!(world.claims().join("1.failed.json").exists());
    world.stop.store(false, Ordering::Relaxed);
    assert_eq!(now(world.once(2, LIMIT)).report.result, Outcome::Complete);
}

#[test]
fn of_two_instances_that_get_the_same_event_one_serves_it() {
    for _ in 0..4 {
        let world = World::made();
        let answers = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=3)
                .map(|n| {
                    let world = &world;
                    scope.spawn(move || world.once(n, LIMIT))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(answers.iter().filter(|answer| matches!(answer, EventOutcome::Now(_))).count(), 1);
        assert_eq!(world.snapshots().len(), 1);
    }
}

#[test]
fn the_claim_is_in_the_first_vault_that_opens() {
    let world = World::new(&["one", "two"]);
    world.make(0);
    assert_eq!(now(world.once(1, LIMIT)).report.result, Outcome::Complete);
    assert_eq!(before(world.once(2, LIMIT)).vault, world.vaults.addresses()[0]);
    // With that vault away, nobody knows of the claim.
    let (one, away) = (world.folder.path().join("one"), world.folder.path().join("away"));
    fs::rename(&one, &away).unwrap();
    fs::write(&one, "no folder").unwrap();
    assert_eq!(now(world.once(3, LIMIT)).report.result, Outcome::IncompleteCopies);
    assert_eq!(before(world.once(4, LIMIT)).vault, world.vaults.addresses()[1]);
}

#[test]
fn a_report_by_which_a_run_was_done_counts_in_whichever_vault_it_is() {
    let world = World::new(&["one", "two"]);
    [0, 1].into_iter().for_each(|at| world.make(at));
    let put = |at: usize, name: &str| {
        let store = world.vaults.store(&world.vaults.addresses()[at]).unwrap();
        let report = format!("{{\"run\":\"{}\",\"finished\":\"2026-11-21T10:00:00Z\",\"says\":\"{name}\"}}", run(7));
        store.create(&format!("runs/{}.json", name.replace("RUN", &run(7).to_string())), &[report.as_bytes()]).unwrap();
    };
    let counts =
        || report_of(run(7), &world.vaults, &world.ctx()).unwrap().map(|kept| kept.report.value()["says"].clone());
    assert!(counts().is_none());
    put(0, "20261121T100000Z-RUN-restore-failed");
    put(0, "20261121T110000Z-RUN-restore-failed");
    assert_eq!(counts(), Some("20261121T110000Z-RUN-restore-failed".into()));
    put(1, "20261121T090000Z-RUN-restore-partial");
    assert_eq!(counts(), Some("20261121T090000Z-RUN-restore-partial".into()));
    put(0, "20261121T080000Z-RUN-restore-complete");
    assert_eq!(counts(), Some("20261121T080000Z-RUN-restore-complete".into()));
    let vault = world.vaults.first(&world.ctx()).unwrap();
    let found = report::find(&*vault.store, &run(7).to_string()[..6]).unwrap();
    assert_eq!(found["says"], "20261121T080000Z-RUN-restore-complete");
}

#[test]
fn a_restore_whose_report_is_in_another_vault_than_its_claim_is_not_done_again() {
    let world = World::new(&["one", "two"]);
    drop(world.work(99, None));
    let [one, two, away] = ["one", "two", "away"].map(|name| world.folder.path().join(name));
    let restore = |n, timeout| {
        let claimant = Claimant { action: Action::Restore, ..claimant(n, timeout) };
        take(&world.vaults, &claimant, &cause(), &world.ctx())
    };
    assert!(matches!(restore(1, LIMIT).unwrap(), ClaimAttempt::Held(_)));
    // The vault of its claim is away meanwhile, and it does not live to settle that claim.
    fs::rename(&one, &away).unwrap();
    let job = Job::Restore(crate::restore::options::RestoreOptions::latest(world.folder.path().join("restored")));
    let ran = job::run(run(1), &job, cause(), &world.vaults, &world.ctx());
    assert!(ran.report.result.stays(Action::Restore), "{:?}", ran.report);
    assert_eq!(ran.stored.as_ref().map(|(vault, _)| vault), Some(&world.vaults.addresses()[1]));
    fs::rename(&away, &one).unwrap();
    // As long as that cannot be seen, nobody restores, however often it is asked for.
    fs::rename(&two, &away).unwrap();
    for n in 2..30 {
        let why = restore(n, if n == 2 { NO_TIME } else { LIMIT }).err().expect("it cannot be seen");
        assert!(!why.of_store() && why.what().contains("whether a run before has done this restore"), "{why}");
    }
    fs::rename(&away, &two).unwrap();
    let ClaimAttempt::Not(answer) = restore(30, LIMIT).unwrap() else { panic!("it is done again") };
    let found = before(answer);
    assert_eq!((found.run, &found.vault), (run(30), &world.vaults.addresses()[0]));
    assert_eq!(found.report.unwrap().run(), Some(run(1)));
    assert_eq!(count(&two.join("claims")), 0);
}

#[test]
fn a_restore_that_failed_is_done_though_another_vault_is_away() {
    let world = World::new(&["one", "two"]);
    [0, 1].into_iter().for_each(|at| world.make(at));
    let restore = |n| Claimant { action: Action::Restore, ..claimant(n, LIMIT) };
    let ClaimAttempt::Held(held) = take(&world.vaults, &restore(1), &cause(), &world.ctx()).unwrap() else { panic!() };
    held.give_up(&world.vaults, &world.ctx());
    fs::rename(world.folder.path().join("two"), world.folder.path().join("away")).unwrap();
    let again = take(&world.vaults, &restore(2), &cause(), &world.ctx()).unwrap();
    assert!(matches!(again, ClaimAttempt::Held(held) if held.claim().earlier()[0].failed));
}
