//! `lastgood run` whose vault fails in the middle of a start, after it has told that other data is newer or another instance runs.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::World;
use crate::support::cloud::server::{Fault, Point, When};
use crate::support::counter::{Counters, WITHIN, until, without_terminal};
use crate::support::process::Running;
use crate::support::requirements::Mounted;

const OPTIONS: [&str; 4] = ["--every", "off", "--handover-poll", "200ms"];

#[test]
fn no_app_is_started_on_older_data_whose_vault_fails_after_it_has_told_that() {
    for explicit in [false, true] {
        let (server, counters) = Counters::in_bucket();
        let mut b = counters.started("b", "b", &OPTIONS);
        assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
        let mut a = counters.started_and_saved("a", "a", &OPTIONS);
        // The instance that runs lists no epochs.
        server.script(When::list("epochs/").always(), Fault::status(503));
        let more: &[&str] = if explicit { &["--on-unreachable", "start"] } else { &[] };
        let mut b = counters.start("b", "b", &[&OPTIONS[..], &["--store-timeout", "1s"], more].concat());
        if explicit {
            counters.begun("b", 2, &b);
            assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
        } else {
            assert_eq!(b.wait().0, Some(1), "{}", b.log());
            assert_eq!(counters.starts("b"), 1, "{}", b.log());
            b.log_with("a snapshot was to be restored, since the state of the data was `stale`");
        }
        server.heal();
        assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    }
}

#[test]
fn no_app_is_started_beside_one_that_ran_whose_vault_fails_once_the_epoch_is_taken() {
    let (server, counters) = Counters::in_bucket();
    // A first deploy: the vault has no snapshot.
    let mut a = counters.started("a", "a", &OPTIONS);
    fs::create_dir(counters.world.path("b")).unwrap();
    fs::write(counters.world.path("b/n"), "1000000").unwrap();
    server.script(When::create("epochs/2.json"), Fault::Stall(Point::Answer, Duration::from_secs(1)));
    let mut b = counters.start("b", "b", &[&OPTIONS[..], &["--store-timeout", "1s", "--handover", "3s"]].concat());
    let taken = || server.names().iter().any(|name| name.ends_with("epochs/2.json")).then_some(());
    until("epoch 2", WITHIN, || b.log(), taken);
    server.script(When::list("snapshots/").always(), Fault::status(503));
    assert_eq!(b.wait().0, Some(1), "{}", b.log());
    assert_eq!(counters.starts("b"), 0, "{}", b.log());
    b.log_with("the instance of epoch 1 had not told its end");
    server.heal();
    counters.begun("a", 2, &a);
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}

#[test]
fn no_app_is_started_beside_another_one_because_the_vault_cannot_be_written_to() {
    let world = World::new();
    let Some(mounted) = Mounted::new(world.path("small"), "4m") else { return };
    let world = world.with("LASTGOOD_VAULT", "small/v");
    world.run(["init"]).ended(0);
    let counters = Counters::within(world);
    let mut a = counters.started_and_saved("a", "a", &OPTIONS);
    let small = counters.world.path("small");
    mounted.remount("ro");
    let mut b = counters.start("b", "b", &OPTIONS);
    assert_eq!(b.wait().0, Some(1), "{}", b.log());
    assert_eq!(counters.starts("b"), 0, "{}", b.log());
    b.log_with("the instance of epoch 1 had not told its end");
    mounted.remount("rw");
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    // Where nobody runs, the app is started on the newest snapshot.
    let fill = small.join("fill");
    let mut size = 4 << 20;
    while size > 0 && fs::write(&fill, vec![0; size]).is_err() {
        size -= 4096;
    }
    let mut b = counters.start("b", "b", &OPTIONS);
    assert_eq!(counters.begun_within("b", 1, &b, WITHIN).count, counters.stopped("a"), "{}", b.log());
    fs::remove_file(fill).unwrap();
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
}

#[test]
fn an_instance_that_comes_back_starts_no_app_on_what_it_had_before() {
    let (server, counters) = Counters::in_bucket();
    let mut a = counters.started("a", "a", &[&OPTIONS[..], &["--store-timeout", "1s"]].concat());
    let mut b = counters.started("b", "b", &OPTIONS);
    a.log_with("this one waits until that has ended");
    // The vault fails as soon as the epoch is taken.
    server.script(When::create("epochs/3.json"), Fault::Stall(Point::Answer, Duration::from_secs(1)));
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    let last = counters.stopped("b");
    let taken = || server.names().iter().any(|name| name.ends_with("epochs/3.json")).then_some(());
    until("epoch 3", WITHIN, || a.log(), taken);
    server.script(When::list("snapshots/").always(), Fault::status(503));
    a.log_with("the app could not be started, and that is tried again");
    assert_eq!(counters.starts("a"), 1, "{}", a.log());
    server.heal();
    assert_eq!(counters.begun("a", 2, &a).count, last, "{}", a.log());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
}

#[test]
fn an_instance_that_does_not_wait_and_cannot_start_its_app_has_failed() {
    let (server, counters) = Counters::in_bucket();
    for name in ["a", "b"] {
        let mut run = counters.started(name, name, &OPTIONS);
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    }
    // It is stale, which nobody tells it.
    server.script(When::any().always(), Fault::status(503));
    let mut a =
        counters.start("a", "a", &[&OPTIONS[..], &["--store-timeout", "1s", "--on-superseded", "exit"]].concat());
    counters.begun("a", 2, &a);
    server.heal();
    server.script(When::read("packs/").always(), Fault::status(403));
    assert_eq!(a.wait().0, Some(1), "{}", a.log());
    assert!(!a.log().contains("tried again in"), "{}", a.log());
    server.heal();
}

#[test]
fn an_app_is_not_started_again_after_a_pause_in_which_another_instance_began() {
    let counters = Counters::new();
    let world = &counters.world;
    // It fails at its first start, and not within the time that counts as an orderly run.
    let app = "mkdir -p \"$LASTGOOD_DATA\"; echo x >> starts; echo $$ > \"$LASTGOOD_DATA/n0\"; exit 3";
    let options = ["run", "--init", "--every", "off", "--handover-poll", "200ms", "--restart", "on-failure"];
    let mut command = world.command([&options[..], &["--", "sh", "-c", app]].concat());
    command.env("LASTGOOD_DATA", world.path("a"));
    let mut a = Running::start(without_terminal(&command), "");
    // Each restart waits longer than the one before.
    a.log_with("the app is started again (2)");
    a.log_with_within("the app has failed", 3, WITHIN);
    a.signal(Signal::STOP);
    let starts = || fs::read_to_string(world.path("starts")).unwrap().lines().count();
    let before = starts();
    let mut b = counters.started("b", "b", &OPTIONS);
    std::thread::sleep(Duration::from_secs(6));
    a.signal(Signal::CONT);
    a.log_with("another instance takes over");
    assert_eq!(starts(), before, "{}", a.log());
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    a.end(Signal::TERM);
}

#[test]
fn an_instance_that_is_told_to_stop_before_its_app_runs_tells_the_end_of_its_epoch() {
    for at_restore in [true, false] {
        let (server, counters) = Counters::in_bucket();
        let mut a = counters.started_and_saved("a", "a", &OPTIONS);
        if at_restore {
            server.script(When::read("packs/").always(), Fault::Stall(Point::Head, Duration::from_secs(8)));
        } else {
            a.signal(Signal::STOP);
        }
        let mut b = counters.start("b", "b", &OPTIONS);
        b.log_with(if at_restore { "this instance is of epoch 2" } else { "waiting for the end of epoch 1" });
        std::thread::sleep(Duration::from_millis(300));
        let (code, took) = b.end(Signal::TERM);
        assert_eq!(code, Some(0), "{}", b.log());
        assert!(took < Duration::from_secs(6), "{took:?}: {}", b.log());
        assert!(server.names().iter().any(|name| name.ends_with("epochs/2.end.json")), "{}", b.log());
        server.heal();
        if at_restore {
            counters.begun("a", 2, &a);
        } else {
            a.signal(Signal::CONT);
        }
        assert_eq!(counters.starts("b"), 0);
        assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    }
}
