//! `lastgood run` with two vaults of which one hangs, which takes every call and answers none; and with one that hangs or refuses when
//! there is little time.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::World;
use crate::support::cloud::VAULT;
use crate::support::cloud::server::{Fault, Kind, Point, Server, When};
use crate::support::counter::{Counters, WITHIN, until, without_terminal};
use crate::support::process::Running;

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);
const OPTIONS: [&str; 4] = ["--every", "off", "--handover-poll", "200ms"];

/// A bucket and a folder, both with a vault, in the order of `first`.
fn two(bucket_first: bool) -> (Server, Counters) {
    let server = Server::start();
    let world = World::new();
    let folder = world.vault().display().to_string();
    let both = if bucket_first { format!("{VAULT},{folder}") } else { format!("{folder},{VAULT}") };
    let world = world.on(&server.url(), &both);
    world.run(["init"]).ended(0);
    (server, Counters::within(world))
}

/// The count of the newest snapshot in the folder alone.
fn saved_in_folder(counters: &Counters) -> u64 {
    let out = counters.world.path("of-folder");
    let _ = std::fs::remove_dir_all(&out);
    let folder = counters.world.vault().display().to_string();
    counters.world.run(["restore", "--vault", &folder, "of-folder"]).ended(0);
    std::fs::read_to_string(out.join("n")).unwrap().parse().unwrap()
}

#[test]
fn the_last_snapshot_is_committed_in_the_vault_that_answers_whichever_hangs() {
    for bucket_first in [true, false] {
        let (server, counters) = two(bucket_first);
        let mut run = counters.started_and_saved("a", "data", &OPTIONS);
        server.latency(FOR_EVER);
        let (code, took) = run.end(Signal::TERM);
        assert_eq!(code, Some(0), "{}", run.log());
        // The time of `--grace`, and no more; a machine that is busy adds to it.
        assert!(took < Duration::from_secs(14), "{took:?}: {}", run.log());
        run.log_with("the last snapshot is taken, and is not as it should be");
        run.log_with("incomplete-copies");
        assert_eq!(saved_in_folder(&counters), counters.stopped("a"), "{}", run.log());
    }
}

#[test]
fn a_signal_during_a_backup_that_waits_for_a_hung_vault_leaves_that_out() {
    let (server, counters) = two(true);
    let mut run = counters.started_and_saved("a", "data", &["--every", "1s", "--handover-poll", "200ms"]);
    server.latency(FOR_EVER);
    let before = server.requests().len();
    // The next backup by time has begun, and waits.
    until("a request", WITHIN, || run.log(), || (server.requests().len() > before + 2).then_some(()));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    assert_eq!(saved_in_folder(&counters), counters.stopped("a"), "{}", run.log());
}

#[test]
fn a_backup_by_time_is_committed_where_one_vault_answers() {
    let (server, counters) = two(true);
    let run = counters.started_and_saved(
        "a",
        "data",
        &["--every", "1s", "--handover-poll", "200ms", "--store-timeout", "2s"],
    );
    server.latency(FOR_EVER);
    let hung = counters.count("data");
    let began = Instant::now();
    run.log_with_within("incomplete-copies", 2, Duration::from_secs(100));
    assert!(saved_in_folder(&counters) > hung, "{}", run.log());
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
}

#[test]
fn one_request_that_is_refused_for_long_does_not_cost_the_last_snapshot() {
    let (server, counters) = Counters::in_bucket();
    let mut run = counters.started_and_saved("a", "data", &OPTIONS);
    server.script(When::kind(Kind::Create), Fault::retry_after(503, 20));
    let (code, took) = run.end(Signal::TERM);
    assert_eq!((code, server.faults()), (Some(0), 1), "{}", run.log());
    assert!(took < Duration::from_secs(9), "{took:?}: {}", run.log());
    run.log_with("the last snapshot of the app's data is taken");
    assert_eq!(counters.saved(), counters.stopped("a"));
}

#[test]
fn a_last_snapshot_whose_report_hangs_is_taken_and_ends_the_epoch() {
    let (server, counters) = Counters::in_bucket();
    let mut run = counters.started_and_saved("a", "data", &OPTIONS);
    server.script(When::create("runs/").always(), Fault::Stall(Point::Upload(0), FOR_EVER));
    let (code, took) = run.end(Signal::TERM);
    assert_eq!(code, Some(0), "{}", run.log());
    assert!(took < Duration::from_secs(12), "{took:?}: {}", run.log());
    run.log_with("the last snapshot is taken, and is not as it should be: its report or its copies");
    assert!(!run.log().contains("is only in"), "{}", run.log());
    assert!(server.names().iter().any(|name| name.ends_with("epochs/1.end.json")), "{:?}", server.names());
    server.heal();
    assert_eq!(counters.saved(), counters.stopped("a"));
}

#[test]
fn the_end_of_the_epoch_that_cannot_be_told_keeps_nobody_from_ending() {
    let (server, counters) = Counters::in_bucket();
    let mut run = counters.started_and_saved("a", "data", &OPTIONS);
    server.script(When::create(".end.json").always(), Fault::Stall(Point::Upload(0), FOR_EVER));
    let (code, took) = run.end(Signal::TERM);
    assert_eq!(code, Some(0), "{}", run.log());
    assert!(took < Duration::from_secs(12), "{took:?}: {}", run.log());
    run.log_with("the end of the epoch was not written in time");
    server.heal();
    assert_eq!(counters.saved(), counters.stopped("a"));
}

#[test]
fn the_time_for_the_end_begins_with_the_signal_also_during_a_handover() {
    let (server, counters) = Counters::in_bucket();
    let stubborn = "trap '' TERM; echo a > data/n; while :; do sleep 0.05; done";
    let options =
        ["run", "--every", "off", "--handover-poll", "200ms", "--handover", "40s", "--", "sh", "-c", stubborn];
    fs::create_dir_all(counters.world.data()).unwrap();
    let mut run = Running::start(without_terminal(&counters.world.command(options)), "the app has started");
    let successor = counters.start("b", "other-data", &OPTIONS);
    run.log_with("another instance takes over");
    std::thread::sleep(Duration::from_millis(300));
    server.latency(FOR_EVER);
    let (_, took) = run.end(Signal::TERM);
    assert!(took < Duration::from_millis(11_500), "{took:?}: {}", run.log());
    drop(successor);
}

#[test]
fn an_app_waits_once_for_a_vault_that_is_away() {
    let (server, counters) = Counters::in_bucket();
    let mut run = counters.started_and_saved("a", "data", &OPTIONS);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    server.script(When::any().always(), Fault::status(503));
    let began = Instant::now();
    // It is looked for before the epoch, and where the directory is decided about.
    let run = counters.start("a", "data", &["--every", "off", "--store-timeout", "8s"]);
    counters.begun("a", 2, &run);
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}: {}", began.elapsed(), run.log());
    run.log_with("the app runs without an epoch");
}

#[test]
fn an_app_is_started_on_its_data_with_init_although_the_vault_is_away() {
    let (server, counters) = Counters::in_bucket();
    let mut run = counters.started_and_saved("a", "data", &OPTIONS);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    let last = counters.stopped("a");
    server.script(When::any().always(), Fault::status(503));
    let mut run = counters.start("a", "data", &["--every", "off", "--store-timeout", "1s"]);
    assert_eq!(counters.begun("a", 2, &run).count, last, "{}", run.log());
    run.log_with("the app runs without an epoch");
    server.heal();
    run.log_with_within("the vault answers", 1, Duration::from_secs(60));
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
}
