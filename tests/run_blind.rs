//! `lastgood run` whose vault does not answer for a while: the instance sees in time who takes over, and keeps what it has.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::World;
use crate::support::cloud::VAULT;
use crate::support::cloud::server::{Fault, Point, Server, When};
use crate::support::counter::{Counters, WITHIN, until, without_terminal};
use crate::support::process::Running;

/// A successor waits for two polls and 5 s, and then ends the epoch of one that has not seen it.
const OPTIONS: [&str; 4] = ["--every", "off", "--handover-poll", "500ms"];

fn bucket(vaults: &str) -> (Server, Counters) {
    let server = Server::start();
    let world = World::new().on(&server.url(), vaults);
    world.run(["init"]).ended(0);
    (server, Counters::within(world))
}

/// Starts a second instance, and shows that the first has handed over to it before its app has begun.
#[track_caller]
fn hands_over(counters: &Counters, a: &Running) {
    let mut b = counters.start("b", "b", &OPTIONS);
    let begun = counters.begun("b", 1, &b);
    assert_eq!(begun.count, counters.stopped("a"), "{}\nthe second one:\n{}", a.log(), b.log());
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
}

#[test]
fn an_instance_whose_bucket_tells_it_to_wait_for_long_sees_its_successor_all_the_same() {
    let (server, counters) = bucket(VAULT);
    let mut a = counters.started("a", "data", &OPTIONS);
    server.script(When::read("epochs/2.json"), Fault::retry_after(503, 60));
    until("poll that fails", WITHIN, || a.log(), || (server.faults() > 0).then_some(()));
    hands_over(&counters, &a);
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}

#[test]
fn an_instance_of_two_vaults_whose_first_was_away_for_a_moment_sees_its_successor() {
    let world = World::new();
    let (server, counters) = bucket(&format!("{VAULT},{}", world.vault().display()));
    let mut a = counters.started("a", "data", &[&OPTIONS[..], &["--store-timeout", "1s"]].concat());
    server.script(When::any().always(), Fault::status(503));
    std::thread::sleep(Duration::from_secs(4));
    server.heal();
    hands_over(&counters, &a);
    // It was the vault that did not answer.
    assert!(!a.log().contains("it got no processor time"), "{}", a.log());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}

#[test]
fn an_epoch_that_has_ended_and_cannot_be_read_keeps_no_app_away() {
    for object in ["epochs/1.json", "epochs/1.end.json"] {
        let (server, counters) = bucket(VAULT);
        let mut a = counters.started("a", "data", &OPTIONS);
        assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
        server.script(When::read(object).always(), Fault::status(403));
        let mut b = counters.start("b", "b", &OPTIONS);
        let begun = counters.begun("b", 1, &b);
        assert_eq!(begun.count, counters.stopped("a"), "{object}: {}", b.log());
        assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    }
}

#[test]
fn an_instance_that_cannot_write_stops_its_app_when_its_successor_shows() {
    let (server, counters) = bucket(VAULT);
    let mut a = counters.started("a", "data", &OPTIONS);
    // What only the first one creates from now on.
    for name in ["epochs/1.", "snapshots/", "packs/", "runs/"] {
        server.script(When::create(name).always(), Fault::status(403));
    }
    let mut b = counters.start("b", "b", &OPTIONS);
    a.log_with("another instance takes over (epoch 2)");
    a.log_with("other instances are not told how this one stands");
    until("end of its app", WITHIN, || a.log(), || (counters.said("a").len() == 2).then_some(()));
    // That one waits for two polls and 5 s.
    assert_eq!(counters.starts("b"), 0, "{}", a.log());
    assert!(!a.log().contains("has not been known"), "{}", a.log());
    b.end(Signal::TERM);
    a.end(Signal::TERM);
}

#[test]
fn an_instance_whose_bucket_is_slower_than_its_poll_hands_over() {
    let (server, counters) = bucket(VAULT);
    let options = ["--every", "off", "--handover-poll", "300ms"];
    let mut a = counters.started("a", "data", &options);
    server.latency(Duration::from_millis(500));
    hands_over(&counters, &a);
    assert!(a.log().contains("the last snapshot of the app's data is taken"), "{}", a.log());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}

#[test]
fn a_snapshot_that_the_successor_may_not_have_seen_is_pinned() {
    let (server, counters) = bucket(VAULT);
    let mut a = counters.started("a", "data", &["--every", "1s", "--handover-poll", "500ms"]);
    let roots = || server.names().into_iter().filter(|name| name.contains("/snapshots/")).collect::<Vec<_>>();
    server.script(When::create("snapshots/"), Fault::Stall(Point::Answer, Duration::from_secs(1)));
    let before = roots();
    let unasked = || roots().into_iter().find(|name| !before.contains(name));
    let unasked = until("root", WITHIN, || a.log(), unasked);
    // It has committed this one, and has not yet asked whether its epoch still holds.
    a.signal(Signal::STOP);
    let mut b = counters.start("b", "b", &OPTIONS);
    counters.begun("b", 1, &b);
    // No vault that does not answer makes the end of the app later.
    server.script(When::read("vault.json").always(), Fault::status(503));
    a.signal(Signal::CONT);
    a.log_with("has taken over without waiting for this one any longer");
    until(
        "end of the app",
        Duration::from_secs(5),
        || a.log(),
        || counters.said("a").iter().any(|said| said.what == "stops").then_some(()),
    );
    server.heal();
    let (_, id) = unasked.rsplit_once('/').unwrap();
    let log = a.log_with("is pinned: the instance of epoch 2 may have taken over before it was saved");
    assert!(log.contains(&format!("the snapshot {} is pinned", id.trim_end_matches(".json"))), "{unasked}: {log}");
    assert!(server.names().iter().any(|name| name.contains("/pins/")), "{:?}", server.names());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
}

#[test]
fn an_instance_that_waits_comes_back_although_its_vault_fails_just_then() {
    let (server, counters) = bucket(VAULT);
    let mut a = counters.started("a", "data", &[&OPTIONS[..], &["--store-timeout", "1s"]].concat());
    let mut b = counters.start("b", "b", &OPTIONS);
    counters.begun("b", 1, &b);
    a.log_with("this one waits until that has ended");
    // It is not to see the end before the vault fails.
    a.signal(Signal::STOP);
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    server.script(When::list("snapshots/").always(), Fault::status(503));
    a.signal(Signal::CONT);
    a.log_with("no epoch could be begun, and it is tried again");
    server.heal();
    assert_eq!(counters.begun("a", 2, &a).count, counters.stopped("b"), "{}", a.log());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}

#[test]
fn a_directory_that_was_empty_is_locked_although_the_vault_is_back_before_there_is_data() {
    let counters = Counters::new();
    let world = &counters.world;
    world.run(["init", "--vault", "first", "--vault", "second"]).ended(0);
    std::fs::create_dir(world.data()).unwrap();
    std::fs::rename(world.path("first"), world.path("away")).unwrap();
    let late =
        "import time, os; time.sleep(4); open(os.environ['LASTGOOD_DATA'] + '/n', 'w').write('1'); time.sleep(600)";
    let options = ["run", "--vault", "first", "--vault", "second", "--on-unreachable", "start", "--handover", "1s"];
    let app = ["--", "python3", "-I", "-S", "-c", late];
    let start = || {
        let mut command = world.command([&options[..], &OPTIONS, &app].concat());
        command.env("LASTGOOD_DATA", world.data());
        Running::start(without_terminal(&command), "")
    };
    let mut run = start();
    run.log_with("the app runs without an epoch");
    std::fs::rename(world.path("away"), world.path("first")).unwrap();
    run.log_with("the vault answers");
    let locked = || world.path("data/.lastgood/run.lock").exists().then_some(());
    until("lock", WITHIN, || run.log(), locked);
    // The epoch cannot keep a second one from the directory now.
    std::fs::rename(world.path("first"), world.path("away")).unwrap();
    let mut second = start();
    assert_eq!(second.wait().0, Some(1), "{}", second.log());
    second.log_with("[locked]");
    run.end(Signal::TERM);
}
