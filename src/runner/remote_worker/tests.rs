//! Executions of a job that come for a dispatch request, in one process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::claims::idempotent::ClaimAttempt;
use crate::gcp::cloud::Cloud;
use crate::monitor::{CollectingMonitor, system_random};
use crate::notify::{Notifier, Webhook, WebhookFilter};
use crate::report::{self, Action, Channel, Event, Outcome, RunEnvironment, RunId};
use crate::vault::hex::Hex;
use crate::vault::root::BackupReason;

const LIMIT: Duration = Duration::from_secs(600);
const RUN: RunId = Hex([7; 8]);

/// A data directory, a vault in a folder, and a dispatch request of two events.
struct World {
    folder: tempfile::TempDir,
    vaults: VaultPool,
    heard: CollectingMonitor,
    dispatch_request: DispatchRequest,
}

fn event(id: &str) -> Event {
    Event { identity: Some(id.into()), message: Some("disk full".into()), ..Event::default() }
}

fn claimant(id: &str, run: RunId, dispatch_request: &DispatchRequest) -> Claimant {
    let (identity, host) = (ClaimIdentity::Event(id.into()), "service".into());
    Claimant {
        identity,
        action: dispatch_request.action,
        run,
        host,
        timeout: dispatch_request.timeout(),
        promise: None,
    }
}

impl World {
    fn new() -> Self {
        World::of(Action::Backup, LIMIT)
    }

    fn of(action: Action, timeout: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("data/a"), "one").unwrap();
        let vaults =
            VaultPool::new(vec![Address::Folder(folder.path().join("vault"))], Cloud::default(), Arc::default());
        Vault::init(vaults.store(&vaults.addresses()[0]).unwrap(), system_random).unwrap();
        let labels = BTreeMap::from([("service".to_owned(), "shop".to_owned())]);
        let chosen = RunRequest { action, reason: BackupReason::Critical, labels, snapshot: None, event: event("a") };
        let mut dispatch_request = DispatchRequest::new(RUN, chosen, Channel::Http, timeout);
        dispatch_request.events = vec![event("a"), event("b")];
        let mut world = World { folder, vaults, heard: CollectingMonitor::default(), dispatch_request };
        for id in ["a", "b"] {
            let name = world.held(id, RUN).claim().name();
            world.dispatch_request.claims.push(name);
        }
        world.dispatch_request.write(&*world.vault().store).unwrap();
        world
    }

    /// Claims an event, as the service does.
    fn held(&self, id: &str, run: RunId) -> Arc<HeldClaim> {
        let stop = AtomicBool::new(false);
        match idempotent::take(
            &self.vaults,
            &claimant(id, run, &self.dispatch_request),
            &Origin::default(),
            &self.ctx(&stop),
        )
        .unwrap()
        {
            ClaimAttempt::Held(held) => held,
            ClaimAttempt::Not(_) | ClaimAttempt::NoVault => panic!("{id} is not held"),
        }
    }

    fn ctx<'c>(&'c self, stop: &'c AtomicBool) -> Context<'c> {
        Context { random: &system_random, threads: 1, parallel: 2, stop, monitor: &self.heard }
    }

    fn vault(&self) -> Vault {
        Vault::open(self.vaults.store(&self.vaults.addresses()[0]).unwrap()).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn rules(&self, execution: &str, attempt: u32) -> Rules {
        let place = RunEnvironment {
            execution: Some(execution.to_owned()),
            attempt: Some(attempt.to_string()),
            ..RunEnvironment::default()
        };
        // The settings by which the service decides have no meaning here.
        let (run_timeout, coalesce) = (Duration::from_secs(1), Duration::ZERO);
        Rules { run_timeout, coalesce, critical_max: 1, place, ..Rules::plain(self.data()) }
    }

    fn try_run(&self, execution: &str, attempt: u32) -> Result<WorkerOutcome> {
        let stop = AtomicBool::new(false);
        run(&self.dispatch_request.claims[0], &self.rules(execution, attempt), &self.vaults, &self.ctx(&stop))
    }

    fn run(&self, execution: &str, attempt: u32) -> WorkerOutcome {
        self.try_run(execution, attempt).unwrap()
    }

    /// The objects of the first event's claims.
    fn objects(&self) -> Vec<String> {
        let folder = self.dispatch_request.claims[0].folder();
        let list = self.vault().store.list(&folder).unwrap();
        list.into_iter().map(|object| object.name.strip_prefix(&folder).unwrap().to_owned()).collect()
    }

    fn snapshots(&self) -> usize {
        self.vault().snapshots().unwrap().len()
    }

    /// The answers to a redelivery of both events.
    fn redelivered(&self) -> Vec<Value> {
        let stop = AtomicBool::new(false);
        let ctx = self.ctx(&stop);
        let again = |id| match idempotent::take(
            &self.vaults,
            &claimant(id, Hex([9; 8]), &self.dispatch_request),
            &Origin::default(),
            &ctx,
        ) {
            Ok(ClaimAttempt::Not(idempotent::EventOutcome::Before(before))) => before.report.unwrap().value(),
            _ => panic!("{id} is not served"),
        };
        ["a", "b"].map(again).into()
    }

    /// Removes objects, as if the process that wrote them had been killed before.
    fn lose(&self, names: &[&str]) {
        for name in names {
            fs::remove_file(self.folder.path().join("vault").join(name)).unwrap();
        }
    }

    fn done(&self, at: usize) -> String {
        format!("{}done.json", self.dispatch_request.claims[at].folder())
    }
}

#[track_caller]
fn ran(came: WorkerOutcome) -> FinishedJob {
    match came {
        WorkerOutcome::Ran(ran) => *ran,
        WorkerOutcome::Before(before) => panic!("served before: {before:?}"),
        WorkerOutcome::Nothing(why) => panic!("nothing: {why}"),
    }
}

#[track_caller]
fn nothing(came: WorkerOutcome) -> String {
    match came {
        WorkerOutcome::Nothing(why) => why,
        WorkerOutcome::Before(before) => panic!("served before: {before:?}"),
        WorkerOutcome::Ran(ran) => panic!("ran: {:?}", ran.report),
    }
}

#[test]
fn one_execution_does_what_the_order_says_and_settles_all_its_claims() {
    let world = World::new();
    let done = ran(world.run("long-abcde", 0));
    let report = &done.report;
    assert_eq!((report.run, report.result, report.way), (RUN, Outcome::Complete, Channel::Http));
    assert_eq!((report.events.len(), report.place.execution.as_deref()), (2, Some("long-abcde")));
    let root = world.vault().root(report.snapshot.unwrap()).unwrap();
    assert_eq!((root.run, root.reason, &*root.labels["service"]), (Some(RUN), BackupReason::Critical, "shop"));
    assert_eq!(world.objects(), ["1.json", "1.order.json", "1.taken.json", "done.json"]);
    let told = serde_json::to_value(report).unwrap();
    assert_eq!(world.redelivered(), [told.clone(), told]);
    // Another execution, as when the start's answer was lost; and another attempt of this one.
    assert!(nothing(world.run("long-fghij", 0)).contains("long-abcde/0"));
    for attempt in [0, 1] {
        assert!(matches!(world.run("long-abcde", attempt), WorkerOutcome::Before(before) if before.run == RUN));
    }
    assert_eq!(world.snapshots(), 1);
}

#[test]
fn an_attempt_after_one_that_was_killed_goes_on_where_that_was() {
    let world = World::new();
    // Killed before the commit: nothing is there but the claims and the object that says who has taken them.
    let taker = TakenBy { run: RUN, by: "long-abcde/0".into() };
    taker.take(&*world.vault().store, &world.dispatch_request.claims[0]).unwrap();
    let report = ran(world.run("long-abcde", 1)).report;
    assert_eq!((report.run, report.place.attempt.as_deref()), (RUN, Some("1")));
    // Killed after the commit, between the claims; before them; and before the report.
    world.lose(&[&world.done(1)]);
    assert!(matches!(world.run("long-abcde", 2), WorkerOutcome::Before(_)));
    assert_eq!(world.redelivered().len(), 2);
    for lost in [vec![], vec![report.object()]] {
        world.lose(&[&world.done(0), &world.done(1)]);
        world.lose(&lost.iter().map(String::as_str).collect::<Vec<_>>());
        let WorkerOutcome::Before(before) = world.run("long-abcde", 3) else { panic!("it did something") };
        let told = before.report.unwrap().value();
        assert_eq!(
            (&told["result"], &told["snapshot"]),
            (&"complete".into(), &report.snapshot.unwrap().to_string().into())
        );
        assert_eq!(world.redelivered(), [told.clone(), told]);
    }
    assert_eq!(world.snapshots(), 1);
}

#[test]
fn an_attempt_after_one_that_failed_enters_the_next_claims() {
    let world = World::new();
    fs::rename(world.data(), world.folder.path().join("away")).unwrap();
    let failed = ran(world.run("long-abcde", 0));
    assert_eq!(failed.report.result, Outcome::Failed);
    assert_eq!(world.objects(), ["1.failed.json", "1.json", "1.order.json", "1.taken.json"]);
    fs::rename(world.folder.path().join("away"), world.data()).unwrap();
    // The first attempt again does nothing: it cannot know that the failed one was its own.
    assert!(nothing(world.run("long-abcde", 0)).contains("given up"));
    let done = ran(world.run("long-abcde", 1)).report;
    assert_eq!((done.run, done.result), (RUN, Outcome::Complete));
    assert!(world.objects().contains(&"2.json".into()) && world.objects().contains(&"done.json".into()));
    assert_eq!(world.redelivered()[0]["place"]["attempt"], "1");
    // Both left a report, and the newer one is the run's.
    let (store, run) = (world.vault().store, RUN.to_string());
    let reports = report::list(&*store).unwrap();
    assert_eq!((reports.len(), reports.iter().all(|named| named.run == RUN)), (2, true));
    assert_eq!(report::find(&*store, &run).unwrap()["place"]["attempt"], "1");
}

#[test]
fn who_is_told_to_stop_says_so_in_every_claim() {
    let (world, stop) = (World::new(), AtomicBool::new(true));
    let told = run(&world.dispatch_request.claims[0], &world.rules("long-abcde", 0), &world.vaults, &world.ctx(&stop))
        .unwrap();
    let failed = ran(told).report;
    assert!(failed.result == Outcome::Failed && failed.error.unwrap().error.contains("told to stop"));
    assert!(world.objects().contains(&"1.failed.json".into()));
    assert_eq!(ran(world.run("long-abcde", 1)).report.result, Outcome::Complete);
    assert_eq!(world.redelivered().len(), 2);
}

#[test]
fn what_was_given_up_or_taken_over_is_left_alone() {
    let world = World::new();
    let stop = AtomicBool::new(false);
    // One of two claims is lost: the other is served all the same.
    world.held("a", RUN).give_up(&world.vaults, &world.ctx(&stop));
    let other = world.held("a", Hex([8; 8]));
    assert_eq!(other.claim().number(), 2);
    let done = ran(world.run("long-abcde", 0));
    assert_eq!(done.report.result, Outcome::Complete);
    assert!(!world.objects().contains(&"done.json".into()));
    assert!(
        world.heard.warnings().iter().any(|said| said.contains("0808080808080808")),
        "{:?}",
        world.heard.warnings()
    );
    other.check_may_commit().unwrap();
    let world = World::new();
    world.held("a", RUN).give_up(&world.vaults, &world.ctx(&stop));
    world.held("b", RUN).give_up(&world.vaults, &world.ctx(&stop));
    assert!(nothing(world.run("long-abcde", 0)).contains("given up"));
    // A run that may not commit any more is not begun, either.
    let world = World::of(Action::Backup, Duration::from_secs(1));
    std::thread::sleep(Duration::from_millis(1100));
    assert!(nothing(world.run("long-abcde", 0)).contains("time limit"));
    assert_eq!(world.snapshots(), 0);
}

#[test]
fn a_restore_has_to_be_allowed_here_too() {
    let world = World::of(Action::Restore, LIMIT);
    let refused = ran(world.run("long-abcde", 0));
    assert_eq!(refused.report.result, Outcome::Refused);
    assert!(refused.report.error.unwrap().error.contains("--allow-restore"));
    assert_eq!(world.redelivered()[0]["result"], "refused");
    // A wrong dispatch request has no effect, either.
    let world = World::new();
    let name = world.dispatch_request.claims[0].object("order");
    world.lose(&[&name]);
    let why = world.try_run("long-abcde", 0).err().unwrap().to_string();
    assert!(why.contains("no vault has it") && why.contains("LASTGOOD_VAULT"), "{why}");
    world.vault().store.create(&name, &[b"{}"]).unwrap();
    assert_eq!(world.try_run("long-abcde", 0).err().unwrap().kind(), Kind::Damage);
}

#[test]
fn a_claim_that_is_damaged_does_not_stop_the_others() {
    let world = World::new();
    let name = format!("claims/{}.json", world.dispatch_request.claims[0]);
    world.lose(&[&name]);
    world.vault().store.create(&name, &[b"no claim"]).unwrap();
    assert_eq!(ran(world.run("long-abcde", 0)).report.result, Outcome::Complete);
    world.lose(&[&world.done(1), &format!("claims/{}.json", world.dispatch_request.claims[1])]);
    assert_eq!(ran(world.run("long-abcde", 1)).error.unwrap().kind(), Kind::Damage);
}

#[test]
fn claims_that_are_held_say_that_the_run_failed_if_another_one_cannot_be_entered() {
    let world = World::new();
    let stop = AtomicBool::new(false);
    // The attempt before has failed, and said so for one of them only. Its next number cannot be made.
    world.held("b", RUN).give_up(&world.vaults, &world.ctx(&stop));
    let next = world.dispatch_request.claims[1].folder() + "2.json";
    fs::create_dir(world.folder.path().join("vault").join(next)).unwrap();
    let failed = ran(world.run("long-abcde", 1));
    assert_eq!(failed.report.result, Outcome::Failed);
    assert_ne!(failed.error.unwrap().kind(), Kind::Damage);
    assert!(world.objects().contains(&"1.failed.json".into()), "{:?}", world.objects());
    assert_eq!(world.snapshots(), 0);
}

/// Listens as a webhook, and hands on the body of each post.
fn webhook() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, posted) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).unwrap() > 2 {
                let value = line.to_ascii_lowercase().strip_prefix("content-length: ").map(|n| n.trim().to_owned());
                length = value.map_or(length, |value| value.parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            sender.send(serde_json::from_slice(&body).unwrap()).unwrap();
            reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    (url, posted)
}

#[test]
fn a_run_whose_claims_cannot_be_taken_is_told_as_one_that_failed() {
    let (url, posted) = webhook();
    let stop = AtomicBool::new(false);
    let failed = |world: &World, attempt: u32, result: Outcome| {
        let webhook = Webhook::new(&url, WebhookFilter::All).unwrap();
        let notify = Notifier::new("//lastgood.dev/jobs/long".into(), None, Some(webhook), None);
        let rules = Rules { notify, ..world.rules("long-abcde", attempt) };
        let failed =
            ran(run(&world.dispatch_request.claims[0], &rules, &world.vaults, &world.ctx(&stop)).unwrap()).report;
        assert_eq!((failed.run, failed.result, failed.events.len()), (RUN, result, 2));
        let told = posted.try_recv().unwrap();
        assert_eq!((&told["event"]["id"], &told["event"]["result"]), (&RUN.to_string().into(), &result.name().into()));
        let kept = report::find(&*world.vault().store, &RUN.to_string()).unwrap();
        assert_eq!(kept, serde_json::to_value(&failed).unwrap());
    };
    // The request cannot be taken.
    let world = World::new();
    let taken = world.folder.path().join("vault").join(world.dispatch_request.claims[0].object("taken"));
    fs::create_dir(&taken).unwrap();
    failed(&world, 0, Outcome::Damaged);
    fs::remove_dir(&taken).unwrap();
    // The next attempt does the run.
    assert_eq!(ran(world.run("long-abcde", 1)).report.result, Outcome::Complete);
    assert!(posted.try_recv().is_err());
}
