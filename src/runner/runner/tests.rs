//! A runner at a folder: which requests share a run, and what each request is told.

use super::state::KEPT_BYTES;

mod promises;
mod unkept;
mod unsettled;
mod waiting;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::{fs, thread};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::*;
use crate::gcp::cloud::Cloud;
use crate::monitor::{LogMonitor, system_random};
use crate::report::{Action, EncodedReport, Event, Outcome};
use crate::store::address::Address;
use crate::vault::Vault;
use crate::vault::root::BackupReason;

const LONG: Duration = Duration::from_secs(600);

/// A data directory, and a folder for the vault.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// A world without a vault.
    fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("data/a"), "one").unwrap();
        World { folder }
    }

    fn new() -> Self {
        let world = World::bare();
        let vaults = world.vaults();
        Vault::init(vaults.store(&vaults.addresses()[0]).unwrap(), system_random).unwrap();
        world
    }

    fn vaults(&self) -> VaultPool {
        VaultPool::new(vec![Address::Folder(self.vault())], Cloud::default(), Arc::default())
    }

    fn runner(&self) -> Runner {
        self.runner_within(LONG)
    }

    /// A runner whose runs may take this long: an instance of the service.
    fn runner_within(&self, run_timeout: Duration) -> Runner {
        let rules = Rules { run_timeout, init: true, ..Rules::plain(self.folder.path().join("data")) };
        Runner::new(rules, Arc::new(self.vaults()), Arc::new(LogMonitor), system_random, Arc::default())
    }

    fn snapshots(&self) -> usize {
        self.count("snapshots")
    }

    fn count(&self, folder: &str) -> usize {
        count(&self.vault(), folder)
    }

    fn vault(&self) -> PathBuf {
        self.folder.path().join("vault")
    }
}

fn count(vault: &Path, folder: &str) -> usize {
    fs::read_dir(vault.join(folder)).map_or(0, Iterator::count)
}

/// A request by an event of this id, or without an identity if the id is empty.
fn request(id: &str) -> RunRequest {
    let identity = Some(id.to_owned()).filter(|id| !id.is_empty());
    RunRequest {
        action: Action::Backup,
        reason: BackupReason::Manual,
        labels: BTreeMap::new(),
        snapshot: None,
        event: Event { identity, ..Event::default() },
    }
}

fn labelled(id: &str, reason: BackupReason, labels: &[(&str, &str)]) -> RunRequest {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    RunRequest { reason, labels, ..request(id) }
}

fn ask(runner: &Runner, request: RunRequest) -> Ticket {
    runner.submit(request, Channel::Http).unwrap_or_else(|answer| panic!("{answer:?}"))
}

/// Lets a runner work until all of these have their answers.
fn served(runner: &Runner, tickets: Vec<Ticket>) -> Vec<Arc<Answer>> {
    thread::scope(|scope| {
        scope.spawn(|| runner.work());
        let answers = tickets.into_iter().map(|ticket| ticket.answer.blocking_recv().unwrap()).collect();
        runner.stop.store(true, Ordering::Relaxed);
        answers
    })
}

/// Asks a new runner for one request, and lets it work until that has its answer.
fn serve(runner: &Runner, request: RunRequest) -> Arc<Answer> {
    served(runner, vec![ask(runner, request)]).remove(0)
}

/// The report that an answer holds.
#[track_caller]
pub(super) fn report(answer: &Answer) -> Value {
    match answer {
        Answer::Done { report, .. } | Answer::Before(report) => report.value(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_waits_shares_a_run_and_every_event_is_known_by_it_afterwards() {
    let world = World::new();
    let runner = world.runner();
    let manual = labelled("1", BackupReason::Manual, &[("who", "ann")]);
    let critical = labelled("2", BackupReason::Critical, &[("message", "disk")]);
    let tickets = vec![ask(&runner, manual.clone()), ask(&runner, critical.clone()), ask(&runner, request(""))];
    let run = tickets[0].run;
    assert!(tickets.iter().all(|ticket| ticket.run == run));
    assert!(matches!(runner.progress(run), Some(RunProgress::Waiting)));
    let answers = served(&runner, tickets);
    let told = report(&answers[0]);
    assert!(answers.iter().all(|answer| report(answer) == told));
    assert_eq!((&told["result"], told["events"].as_array().unwrap().len()), (&"complete".into(), 3));
    assert_eq!(told["run"], run.to_string());
    assert!(matches!(runner.progress(run), Some(RunProgress::Over(_))));
    assert_eq!((world.snapshots(), world.count("runs"), world.count("claims")), (1, 1, 2));
    // The snapshot has the gravest reason, with its labels.
    let vault = world.runner().context(|ctx| world.vaults().first(ctx)).unwrap();
    let root = vault.root(vault.snapshots().unwrap()[0]).unwrap();
    assert_eq!((root.reason, root.labels.len(), &*root.labels["message"]), (BackupReason::Critical, 1, "disk"));

    // The requests are redelivered to another instance, one by one and together with one that is new.
    for known in [manual, critical.clone()] {
        let answer = serve(&world.runner(), known);
        assert!(matches!(&*answer, Answer::Before(before) if before.value() == told), "{answer:?}");
    }
    assert_eq!((world.snapshots(), world.count("runs")), (1, 1));
    let runner = world.runner();
    let tickets = vec![ask(&runner, critical), ask(&runner, request("3"))];
    let run = tickets[1].run;
    let answers = served(&runner, tickets);
    assert!(matches!(&*answers[0], Answer::Before(before) if before.value() == told));
    assert_eq!((&report(&answers[1])["run"], world.snapshots()), (&run.to_string().into(), 2));
    assert!(matches!(runner.progress(run), Some(RunProgress::Over(over)) if report(&over)["run"] == run.to_string()));
}

#[test]
fn labels_of_a_request_never_take_the_place_of_those_configured() {
    let world = World::new();
    let mut runner = world.runner();
    runner.rules.backup.labels = BTreeMap::from([("app".into(), "shop".into())]);
    let many: Vec<_> = (0..40).map(|n| format!("label{n:02}")).collect();
    let mut labels: Vec<_> = many.iter().map(|name| (&**name, "v")).take(31).collect();
    labels.push(("app", "other"));
    let answer = serve(&runner, labelled("1", BackupReason::Manual, &labels));
    assert_eq!(report(&answer)["result"], "complete");
    let vault = runner.context(|ctx| runner.vaults.first(ctx)).unwrap();
    let root = vault.root(vault.snapshots().unwrap()[0]).unwrap();
    assert_eq!((root.labels.len(), &*root.labels["app"], &*root.labels["left_out"]), (32, "shop", "2"));
}

#[test]
fn a_run_that_takes_too_long_commits_nothing_and_is_asked_for_again() {
    let world = World::new();
    for id in ["1", ""] {
        let runner = world.runner_within(Duration::from_nanos(1));
        let answer = serve(&runner, request(id));
        let Answer::Done { outcome: Outcome::Failed, retry: true, report } = &*answer else { panic!("{answer:?}") };
        assert!(report.error().is_some(), "{report:?}");
        assert_eq!(world.snapshots(), 0);
        assert!(runner.stats().runs[&("backup", "failed")] == 1 && runner.last().unwrap().error.is_some());
    }
    let answer = serve(&world.runner(), request("1"));
    assert_eq!((&report(&answer)["result"], world.snapshots()), (&"complete".into(), 1));
}

#[test]
fn the_first_backup_of_all_is_known_when_it_is_redelivered() {
    let world = World::bare();
    let first = serve(&world.runner(), request("1"));
    assert_eq!(report(&first)["result"], "complete");
    let again = serve(&world.runner(), request("1"));
    assert!(matches!(&*again, Answer::Before(before) if before.value() == report(&first)), "{again:?}");
    assert_eq!(world.snapshots(), 1);
}

#[test]
fn told_to_stop_it_runs_nothing_more_and_answers_what_waits() {
    let world = World::new();
    let runner = world.runner();
    let tickets: Vec<_> = ["1", "2"].map(|id| ask(&runner, request(id))).into();
    let run = tickets[0].run;
    runner.stop.store(true, Ordering::Relaxed);
    assert!(served(&runner, tickets).iter().all(|answer| matches!(&**answer, Answer::Later(_, _))));
    assert!(matches!(runner.progress(run), Some(RunProgress::Over(_))));
    assert!(matches!(runner.submit(request("3"), Channel::Http), Err(Answer::Later(_, _))));
    assert_eq!((world.snapshots(), world.count("runs"), world.count("claims")), (0, 0, 0));
    // Nothing was begun, so that another instance begins at once.
    assert_eq!(report(&serve(&world.runner(), request("1")))["result"], "complete");
}

/// Lets a runner work while `ask` is called.
fn working<T>(runner: &Runner, ask: impl FnOnce() -> T) -> T {
    /// Stops the runner, also when a test fails.
    struct Stop<'d>(&'d Runner);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.stop.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        scope.spawn(|| runner.work());
        let _stop = Stop(runner);
        ask()
    })
}

/// The answer for an event that waits for nothing but the worker.
fn answered(runner: &Runner, request: RunRequest) -> Arc<Answer> {
    let mut ticket = ask(runner, request);
    let began = Instant::now();
    loop {
        if let Ok(answer) = ticket.answer.try_recv() {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "it is not answered");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_redelivery_is_answered_though_others_have_to_wait() {
    let (world, critical) = (World::new(), |id| labelled(id, BackupReason::Critical, &[]));
    let mut runner = world.runner();
    runner.state.get_mut().unwrap().queue = Queue::new(LONG, 2);
    working(&runner, || {
        let first = answered(&runner, critical("1"));
        assert!(matches!(&*first, Answer::Done { outcome: Outcome::Complete, retry: false, .. }), "{first:?}");
        assert_eq!(runner.running(), None);
        let known = |answer: &Answer| matches!(answer, Answer::Before(before) if before.value() == report(&first));
        let again = ask(&runner, critical("1"));
        let run = again.run;
        assert!(known(&again.answer.blocking_recv().unwrap()));
        assert!(matches!(runner.progress(run), Some(RunProgress::Over(over)) if known(&over)));
        // A new event waits for the window; an event that is served already does not wait with it.
        let new = ask(&runner, critical("2"));
        assert!(known(&answered(&runner, critical("1"))));
        assert!(matches!(runner.progress(new.run), Some(RunProgress::Waiting)));
        let manual = answered(&runner, request("3"));
        assert_eq!(report(&new.answer.blocking_recv().unwrap()), report(&manual));
    });
    // Nor is an event that is served already put off because there were too many runs.
    let mut runner = world.runner();
    runner.state.get_mut().unwrap().queue = Queue::new(Duration::ZERO, 1);
    working(&runner, || {
        assert!(matches!(&*answered(&runner, critical("4")), Answer::Done { .. }));
        assert!(matches!(&*answered(&runner, critical("5")), Answer::Later(..)));
        assert!(matches!(&*answered(&runner, critical("4")), Answer::Before(_)));
    });
    assert_eq!(world.snapshots(), 3);
}

#[test]
fn what_took_no_snapshot_does_not_keep_a_critical_event_from_one() {
    let (world, critical) = (World::new(), |id| labelled(id, BackupReason::Critical, &[]));
    assert_eq!(report(&serve(&world.runner(), critical("1")))["result"], "complete");
    let mut runner = world.runner();
    runner.state.get_mut().unwrap().queue = Queue::new(Duration::from_millis(1), 1);
    let (data, away) = (world.folder.path().join("data"), world.folder.path().join("away"));
    working(&runner, || {
        for _ in 0..2 {
            assert!(matches!(&*answered(&runner, critical("1")), Answer::Before(_)));
        }
        fs::rename(&data, &away).unwrap();
        for _ in 0..2 {
            let failed = answered(&runner, critical("2"));
            assert!(matches!(&*failed, Answer::Done { outcome: Outcome::Failed, retry: true, .. }), "{failed:?}");
        }
        fs::rename(&away, &data).unwrap();
        assert_eq!(report(&answered(&runner, critical("2")))["result"], "complete");
        assert!(matches!(&*answered(&runner, critical("3")), Answer::Later(..)));
    });
}

#[test]
fn the_last_backup_is_remembered_apart() {
    let world = World::new();
    let runner = world.runner();
    let backup = ask(&runner, request("1"));
    let verify = ask(&runner, RunRequest { action: Action::Verify, ..request("2") });
    let (first, second) = (backup.run, verify.run);
    served(&runner, vec![backup, verify]);
    let run = |last: Option<LastRun>| last.map(|last| last.run);
    assert_eq!((run(runner.last()), run(runner.last_backup())), (Some(second), Some(first)));
}

#[test]
fn a_backup_that_finds_damage_is_asked_for_again() {
    let world = World::new();
    let config = world.folder.path().join("vault/vault.json");
    let (sound, event) = (fs::read(&config).unwrap(), request("1"));
    fs::write(&config, "{").unwrap();
    let damaged = serve(&world.runner(), event.clone());
    assert!(matches!(&*damaged, Answer::Done { outcome: Outcome::Damaged, retry: true, .. }), "{damaged:?}");
    fs::write(&config, sound).unwrap();
    assert_eq!(report(&serve(&world.runner(), event))["result"], "complete");
}

#[test]
fn a_run_serves_no_more_than_its_report_can_hold() {
    let world = World::new();
    let runner = world.runner();
    let long = |n: usize| {
        let mut request = request(&n.to_string());
        request.event.message = Some("x".repeat(1 << 20));
        request
    };
    // This is so whether they wait for the answer or were promised a run.
    let tickets: Vec<_> = (0..9).map(|n| ask(&runner, long(n))).collect();
    let promised: Vec<_> =
        (9..17).map(|n| runner.promise(long(n), Channel::Http).ok().expect("it is promised")).collect();
    working(&runner, || {
        for ticket in tickets {
            let answer = ticket.answer.blocking_recv().unwrap();
            assert!(matches!(&*answer, Answer::Done { outcome: Outcome::Complete, .. }), "{answer:?}");
        }
        // The last request is served last.
        answered(&runner, RunRequest { action: Action::Verify, ..request("verify") });
    });
    let runner = world.runner();
    let mut runs = Vec::new();
    for (run, n) in promised.iter().zip(9..) {
        // Each is found by the id that was promised, and the report of that run can be read and tells of it.
        let kept = runner
            .context(|ctx| idempotent::report_of(*run, &runner.vaults, ctx))
            .unwrap()
            .expect("a report")
            .report
            .value();
        let events = kept["events"].as_array().unwrap();
        assert!(events.iter().any(|event| event["identity"].as_str() == Some(&*n.to_string())), "{n}");
        if !runs.contains(&(run, events.len())) {
            runs.push((run, events.len()));
        }
    }
    assert_eq!((runs.len(), runs.iter().map(|(_, events)| events).sum::<usize>()), (2, 17), "{runs:?}");
    assert_eq!((world.snapshots(), world.count("claims")), (2, 18));
}

#[test]
fn a_store_that_is_away_is_not_waited_for_by_each() {
    let world = World::new();
    let mut runner = world.runner();
    let bucket = Address::Bucket { bucket: "nobody".into(), prefix: String::new() };
    let patience = Duration::from_secs(1);
    let cloud = Cloud { emulator: Some("http://127.0.0.1:1".into()), patience, ..Cloud::default() };
    runner.vaults = Arc::new(VaultPool::new(vec![bucket], cloud, runner.stop.clone()));
    let tickets: Vec<_> = (0..300).map(|n| ask(&runner, request(&n.to_string()))).collect();
    let began = Instant::now();
    for answer in served(&runner, tickets) {
        assert!(matches!(&*answer, Answer::Done { outcome: Outcome::Failed, retry: true, .. }), "{answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(150), "{:?}", began.elapsed());
}

#[test]
fn of_two_instances_that_get_the_same_event_at_once_one_serves_it() {
    let world = World::new();
    for round in 1..=8 {
        let (id, barrier) = (round.to_string(), Barrier::new(2));
        let serve = || {
            let runner = world.runner();
            let ticket = ask(&runner, request(&id));
            barrier.wait();
            served(&runner, vec![ticket]).remove(0)
        };
        let (one, two) = thread::scope(|scope| {
            let other = scope.spawn(serve);
            (serve(), other.join().unwrap())
        });
        let ran = |answer: &Answer| matches!(answer, Answer::Done { outcome: Outcome::Complete, .. });
        let left = |answer: &Answer| matches!(answer, Answer::Elsewhere(_) | Answer::Before(_));
        assert!(ran(&one) && left(&two) || left(&one) && ran(&two), "{one:?} {two:?}");
        assert_eq!(world.snapshots(), round);
    }
}

#[test]
fn restores_are_asked_for_where_that_is_allowed_and_not_long_ago() {
    let world = World::new();
    assert_eq!(report(&serve(&world.runner(), request("1")))["result"], "complete");
    let restore = |age: Option<i64>| {
        let mut request = RunRequest { action: Action::Restore, ..request("") };
        request.event.time = age.map(|age| Timestamp::now() - SignedDuration::from_secs(age));
        request
    };
    let refused = |runner: &Runner, age| matches!(runner.submit(restore(age), Channel::Http), Err(Answer::Refused(_)));
    assert!(refused(&world.runner(), None));
    let mut runner = world.runner();
    runner.rules.allow_restore = true;
    assert!(refused(&runner, Some(700)));
    let before = RunRequest { action: Action::Backup, ..request("") };
    let tickets = vec![ask(&runner, restore(Some(10))), ask(&runner, restore(None)), ask(&runner, before)];
    assert!(tickets[0].run != tickets[1].run);
    fs::write(world.folder.path().join("data/a"), "two").unwrap();
    let answers = served(&runner, tickets);
    let actions: Vec<_> = answers.iter().map(|answer| report(answer)["action"].clone()).collect();
    assert_eq!(actions, ["restore", "restore", "backup"]);
    assert_eq!(fs::read_to_string(world.folder.path().join("data/a")).unwrap(), "one");
}

#[test]
fn what_its_own_failures_give_rise_to_has_no_run_without_end() {
    let world = World::new();
    let mut runner = world.runner();
    runner.rules.place.service = Some("lastgood".into());
    runner.state.get_mut().unwrap().queue = Queue::new(Duration::from_millis(1), 2);
    fs::rename(world.folder.path().join("data"), world.folder.path().join("away")).unwrap();
    let alert = |id, service: &str| {
        let mut request = labelled(id, BackupReason::Critical, &[]);
        request.event.service = Some(service.into());
        request
    };
    working(&runner, || {
        // An alert about another service is tried again.
        for id in ["1", "2", "3"] {
            assert!(matches!(&*answered(&runner, alert(id, "shop")), Answer::Done { outcome: Outcome::Failed, .. }));
        }
        for id in ["4", "5"] {
            assert!(matches!(
                &*answered(&runner, alert(id, "lastgood")),
                Answer::Done { outcome: Outcome::Failed, .. }
            ));
        }
        assert!(matches!(&*answered(&runner, alert("6", "lastgood")), Answer::Later(..)));
    });
}

#[test]
fn no_more_of_large_reports_is_remembered_than_there_is_room_for() {
    let world = World::bare();
    let runner = world.runner();
    let mut state = lock(&runner.state);
    let run = |n: u8| crate::vault::hex::Hex([n; 8]);
    let large = EncodedReport::read(format!("[\"{}\"]", "x".repeat(KEPT_BYTES / 3)).into()).unwrap();
    state.know(run(0), RunProgress::Running);
    for n in 1..=9 {
        state.know(run(n), RunProgress::Over(Arc::new(Answer::Before(large.clone()))));
        assert!(state.bytes <= KEPT_BYTES);
    }
    // Runs that are not over are never forgotten, and of the others the newest stay.
    assert_eq!(state.oldest_first, [run(0), run(8), run(9)]);
    state.know(run(8), RunProgress::Waiting);
    state.forget(run(9));
    assert_eq!((state.bytes, state.known.len()), (0, 2));
}
