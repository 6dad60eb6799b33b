//! A desk at a folder: what shares a run, and what each request is told.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Barrier;
use std::thread;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::*;
use crate::monitor::{Log, system_random};
use crate::notify::Notify;
use crate::report::{Event, Outcome, Place};
use crate::store::address::Address;
use crate::store::cloud::Cloud;
use crate::vault::Vault;
use crate::vault::root::Reason;
use crate::{backup, restore, verify};

const LONG: Duration = Duration::from_secs(600);

/// A data directory, and a folder for the vault.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// One without a vault.
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

    fn vaults(&self) -> Vaults {
        Vaults::new(vec![Address::Folder(self.folder.path().join("vault"))], Cloud::default(), Arc::default())
    }

    fn desk(&self) -> Desk {
        self.desk_within(LONG)
    }

    /// A desk whose runs may take so long: an instance of the service.
    fn desk_within(&self, run_timeout: Duration) -> Desk {
        let data = self.folder.path().join("data");
        let rules = Rules {
            backup: backup::Options { data: data.clone(), ..backup::Options::default() },
            init: false,
            restore: restore::Options {
                snapshot: "latest".into(),
                target: data,
                paths: Vec::new(),
                in_place: false,
                skip_damaged: false,
            },
            verify: verify::Options { read_data: None, databases: None },
            allow_restore: false,
            restore_age: LONG,
            run_timeout,
            coalesce: Duration::from_secs(60),
            critical_max: 20,
            dispatch: None,
            place: Place::default(),
            notify: Notify::default(),
            threads: 1,
            parallel: 2,
        };
        Desk::new(rules, Arc::new(self.vaults()), Arc::new(Log), system_random, Arc::default())
    }

    fn snapshots(&self) -> usize {
        self.count("snapshots")
    }

    fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.folder.path().join("vault").join(folder)).map_or(0, Iterator::count)
    }
}

/// A request by an event of this id; by none where it is empty.
fn request(id: &str) -> Request {
    let identity = Some(id.to_owned()).filter(|id| !id.is_empty());
    Request {
        action: Action::Backup,
        reason: Reason::Manual,
        labels: BTreeMap::new(),
        snapshot: None,
        event: Event { identity, ..Event::default() },
    }
}

fn labelled(id: &str, reason: Reason, labels: &[(&str, &str)]) -> Request {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Request { reason, labels, ..request(id) }
}

fn ask(desk: &Desk, request: Request) -> Ticket {
    desk.ask(request, Way::Http).unwrap_or_else(|answer| panic!("{answer:?}"))
}

/// Lets a desk work until all of these have their answers.
fn served(desk: &Desk, tickets: Vec<Ticket>) -> Vec<Arc<Answer>> {
    thread::scope(|scope| {
        scope.spawn(|| desk.work());
        let answers = tickets.into_iter().map(|ticket| ticket.answer.blocking_recv().unwrap()).collect();
        desk.stop.store(true, Ordering::Relaxed);
        answers
    })
}

/// The same for one request at a new desk.
fn serve(desk: &Desk, request: Request) -> Arc<Answer> {
    served(desk, vec![ask(desk, request)]).remove(0)
}

#[track_caller]
fn report(answer: &Answer) -> &Value {
    match answer {
        Answer::Done { report, .. } | Answer::Before(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_waits_shares_a_run_and_every_event_is_known_by_it_afterwards() {
    let world = World::new();
    let desk = world.desk();
    let manual = labelled("1", Reason::Manual, &[("who", "ann")]);
    let critical = labelled("2", Reason::Critical, &[("message", "disk")]);
    let tickets = vec![ask(&desk, manual.clone()), ask(&desk, critical.clone()), ask(&desk, request(""))];
    let run = tickets[0].run;
    assert!(tickets.iter().all(|ticket| ticket.run == run));
    assert!(matches!(desk.progress(run), Some(Progress::Waiting)));
    let answers = served(&desk, tickets);
    let told = report(&answers[0]);
    assert!(answers.iter().all(|answer| report(answer) == told));
    assert_eq!((&told["result"], told["events"].as_array().unwrap().len()), (&"complete".into(), 3));
    assert_eq!(told["run"], run.to_string());
    assert!(matches!(desk.progress(run), Some(Progress::Over(_))));
    assert_eq!((world.snapshots(), world.count("runs"), world.count("claims")), (1, 1, 2));
    // The gravest reason, with its labels.
    let vault = world.desk().context(|ctx| world.vaults().first(ctx)).unwrap();
    let root = vault.root(vault.snapshots().unwrap()[0]).unwrap();
    assert_eq!((root.reason, root.labels.len(), &*root.labels["message"]), (Reason::Critical, 1, "disk"));

    // Redelivered to another instance, one by one and with one that is new.
    for known in [manual, critical.clone()] {
        let answer = serve(&world.desk(), known);
        assert!(matches!(&*answer, Answer::Before(before) if before == told), "{answer:?}");
    }
    assert_eq!((world.snapshots(), world.count("runs")), (1, 1));
    let desk = world.desk();
    let tickets = vec![ask(&desk, critical), ask(&desk, request("3"))];
    let run = tickets[1].run;
    let answers = served(&desk, tickets);
    assert!(matches!(&*answers[0], Answer::Before(before) if before == told));
    assert_eq!((&report(&answers[1])["run"], world.snapshots()), (&run.to_string().into(), 2));
    assert!(matches!(desk.progress(run), Some(Progress::Over(over)) if report(&over)["run"] == run.to_string()));
}

#[test]
fn labels_of_a_request_never_take_the_place_of_those_configured() {
    let world = World::new();
    let mut desk = world.desk();
    desk.rules.backup.labels = BTreeMap::from([("app".into(), "shop".into())]);
    let many: Vec<_> = (0..40).map(|n| format!("label{n:02}")).collect();
    let mut labels: Vec<_> = many.iter().map(|name| (&**name, "v")).take(31).collect();
    labels.push(("app", "other"));
    let answer = serve(&desk, labelled("1", Reason::Manual, &labels));
    assert_eq!(report(&answer)["result"], "complete");
    let vault = desk.context(|ctx| desk.vaults.first(ctx)).unwrap();
    let root = vault.root(vault.snapshots().unwrap()[0]).unwrap();
    assert_eq!((root.labels.len(), &*root.labels["app"], &*root.labels["left_out"]), (32, "shop", "2"));
}

#[test]
fn a_run_that_takes_too_long_commits_nothing_and_is_asked_for_again() {
    let world = World::new();
    for id in ["1", ""] {
        let desk = world.desk_within(Duration::from_nanos(1));
        let answer = serve(&desk, request(id));
        let Answer::Done { outcome: Outcome::Failed, retry: true, report } = &*answer else { panic!("{answer:?}") };
        assert!(report["error"]["error"].is_string(), "{report}");
        assert_eq!(world.snapshots(), 0);
        assert!(desk.tally().runs[&("backup", "failed")] == 1 && desk.last().unwrap().error.is_some());
    }
    let answer = serve(&world.desk(), request("1"));
    assert_eq!((&report(&answer)["result"], world.snapshots()), (&"complete".into(), 1));
}

#[test]
fn the_first_backup_of_all_is_known_when_it_is_redelivered() {
    let world = World::bare();
    let first = serve(&world.desk(), request("1"));
    assert_eq!(report(&first)["result"], "complete");
    let again = serve(&world.desk(), request("1"));
    assert!(matches!(&*again, Answer::Before(before) if before == report(&first)), "{again:?}");
    assert_eq!(world.snapshots(), 1);
}

#[test]
fn told_to_stop_it_runs_nothing_more_and_answers_what_waits() {
    let world = World::new();
    let desk = world.desk();
    let tickets: Vec<_> = ["1", "2"].map(|id| ask(&desk, request(id))).into();
    let run = tickets[0].run;
    desk.stop.store(true, Ordering::Relaxed);
    assert!(served(&desk, tickets).iter().all(|answer| matches!(&**answer, Answer::Later(_, _))));
    assert!(matches!(desk.progress(run), Some(Progress::Over(_))));
    assert!(matches!(desk.ask(request("3"), Way::Http), Err(Answer::Later(_, _))));
    assert_eq!((world.snapshots(), world.count("runs"), world.count("claims")), (0, 0, 0));
    // Nothing was begun, so that another instance begins at once.
    assert_eq!(report(&serve(&world.desk(), request("1")))["result"], "complete");
}

#[test]
fn of_two_instances_that_get_the_same_event_at_once_one_serves_it() {
    let world = World::new();
    for round in 1..=8 {
        let (id, barrier) = (round.to_string(), Barrier::new(2));
        let serve = || {
            let desk = world.desk();
            let ticket = ask(&desk, request(&id));
            barrier.wait();
            served(&desk, vec![ticket]).remove(0)
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
    assert_eq!(report(&serve(&world.desk(), request("1")))["result"], "complete");
    let restore = |age: Option<i64>| {
        let mut request = Request { action: Action::Restore, ..request("") };
        request.event.time = age.map(|age| Timestamp::now() - SignedDuration::from_secs(age));
        request
    };
    let refused = |desk: &Desk, age| matches!(desk.ask(restore(age), Way::Http), Err(Answer::Refused(_)));
    assert!(refused(&world.desk(), None));
    let mut desk = world.desk();
    desk.rules.allow_restore = true;
    assert!(refused(&desk, Some(700)));
    let before = Request { action: Action::Backup, ..request("") };
    let tickets = vec![ask(&desk, restore(Some(10))), ask(&desk, restore(None)), ask(&desk, before)];
    assert!(tickets[0].run != tickets[1].run);
    fs::write(world.folder.path().join("data/a"), "two").unwrap();
    let answers = served(&desk, tickets);
    let actions: Vec<_> = answers.iter().map(|answer| report(answer)["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["restore", "restore", "backup"]);
    assert_eq!(fs::read_to_string(world.folder.path().join("data/a")).unwrap(), "one");
}
