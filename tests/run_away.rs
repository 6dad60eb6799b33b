//! `lastgood run` while its first vault is not there: what the other one tells counts, and an epoch follows when it is back.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::counter::{Counters, WITHIN, until, without_terminal};
use crate::support::process::Running;

const VAULTS: [&str; 4] = ["--vault", "backups", "--vault", "second"];
const POLL: [&str; 4] = ["--every", "500ms", "--handover-poll", "100ms"];

/// A counter whose two vaults are there.
fn counters() -> Counters {
    let counters = Counters::new();
    counters.world.run([&["init"], &VAULTS[..]].concat()).ended(0);
    counters
}

/// Starts the counter on `data`. It makes no vault.
fn start(counters: &Counters, options: &[&str]) -> Running {
    let app = ["--", "python3", "-I", "-S", "counter.py", "a", "0"];
    let mut command = counters.world.command([&["run"], &VAULTS[..], &POLL, options, &app].concat());
    command.env("LASTGOOD_DATA", counters.world.data());
    Running::start(without_terminal(&command), "")
}

/// Runs the counter until it has counted on; the count at its end.
fn once(counters: &Counters, times: usize) -> u64 {
    let mut run = start(counters, &[]);
    let begun = counters.begun("a", times, &run);
    counters.counted_beyond("data", begun.count + 5, &run);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    counters.stopped("a")
}

fn rename(counters: &Counters, from: &str, to: &str) {
    fs::rename(counters.world.path(from), counters.world.path(to)).unwrap();
}

fn copy(counters: &Counters, from: &str, to: &str) {
    let mut copy = Command::new("cp");
    copy.arg("-a").args([counters.world.path(from), counters.world.path(to)]);
    assert!(copy.status().unwrap().success());
}

/// The snapshots of a vault, newest first.
fn snapshots(counters: &Counters, vault: &str) -> Vec<Value> {
    counters.world.json(["list", "--vault", vault], 0).as_array().unwrap().clone()
}

fn newest_good(counters: &Counters, vault: &str) -> Value {
    snapshots(counters, vault).into_iter().find(|snapshot| snapshot["good"] == true).unwrap()["id"].clone()
}

#[test]
fn an_app_that_started_without_its_vault_goes_on_in_an_epoch_when_the_vault_is_back() {
    let counters = counters();
    let first = once(&counters, 1);
    let newest = newest_good(&counters, "second");
    rename(&counters, "backups", "away");

    let mut run = start(&counters, &[]);
    assert_eq!(counters.begun("a", 2, &run).count, first, "{}", run.log());
    run.log_with("no epoch can be taken");
    run.log_with("the app runs without an epoch");
    // What is saved meanwhile never hides what the vault may have.
    until(
        "diverged snapshot",
        WITHIN,
        || run.log(),
        || snapshots(&counters, "second").into_iter().find(|snapshot| snapshot["good"] == false),
    );
    assert_eq!(newest_good(&counters, "second"), newest);
    assert!(!counters.world.path("backups").exists(), "{}", run.log());

    rename(&counters, "away", "backups");
    run.log_with("the vault answers: this instance is of epoch 2");
    let counted = counters.count("data");
    let saved = || (counters.saved() > counted).then_some(());
    until("backup in the epoch", WITHIN, || run.log(), saved);
    assert!(counters.world.path("backups/epochs/2.runs.json").exists());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    // It was never stopped.
    assert_eq!(counters.starts("a"), 2, "{}", run.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
    assert!(counters.world.path("backups/epochs/2.end.json").exists());
    assert_eq!(newest_good(&counters, "second"), newest_good(&counters, "backups"));

    // The next one follows without a wait.
    let last = counters.stopped("a");
    assert!(once(&counters, 3) > last);
    assert_eq!(counters.starts("a"), 3);
    assert!(counters.aside().is_empty(), "{:?}", counters.aside());
}

/// Has the first vault go away with a count that the second does not know, and the data be what the second knows; that count, and the
/// older one.
fn behind(counters: &Counters) -> (u64, u64) {
    let older = once(counters, 1);
    copy(counters, "data", "older");
    rename(counters, "second", "second.away");
    let newer = once(counters, 2);
    fs::remove_dir_all(counters.world.data()).unwrap();
    rename(counters, "older", "data");
    rename(counters, "second.away", "second");
    rename(counters, "backups", "away");
    (newer, older)
}

#[test]
fn an_app_on_data_that_the_vault_shows_to_be_older_is_stopped_saved_and_started_on_the_newest() {
    let counters = counters();
    let (newer, older) = behind(&counters);
    let mut run = start(&counters, &[]);
    assert_eq!(counters.begun("a", 3, &run).count, older, "{}", run.log());
    counters.counted_beyond("data", older + 5, &run);
    rename(&counters, "away", "backups");

    assert_eq!(counters.begun("a", 4, &run).count, newer, "{}", run.log());
    run.log_with("the data that the app was started on is diverged: the app is stopped");
    let diverged: Vec<_> = counters.said("a").into_iter().filter(|said| said.what == "stops").collect();
    let diverged = diverged.last().unwrap().count;
    // Nothing of it is lost.
    let pins: Vec<_> =
        fs::read_dir(counters.world.path("backups/pins")).unwrap().map(|pin| pin.unwrap().path()).collect();
    let saved = pins.iter().any(|pin| {
        let pin: Value = serde_json::from_slice(&fs::read(pin).unwrap()).unwrap();
        counters.saved_in(pin["snapshot"].as_str().unwrap().rsplit('-').next().unwrap()) == diverged
    });
    assert!(saved, "{pins:?} {}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
}

#[test]
fn an_app_on_older_data_ends_when_the_vault_is_back_where_that_is_asked_for() {
    let counters = counters();
    let (newer, older) = behind(&counters);
    let mut run = start(&counters, &["--on-diverged", "fail"]);
    assert_eq!(counters.begun("a", 3, &run).count, older, "{}", run.log());
    counters.counted_beyond("data", older + 5, &run);
    rename(&counters, "away", "backups");
    assert_eq!(run.wait().0, Some(1), "{}", run.log());
    run.log_with("--on-diverged fail asks for this");
    // An epoch would have stopped the app of another instance in vain.
    assert!(!counters.world.path("backups/epochs/3.json").exists(), "{}", run.log());
    assert_eq!(counters.saved(), newer);
    assert_eq!(counters.count("data"), counters.stopped("a"));
    assert!(counters.snapshots().iter().any(|snapshot| snapshot["good"] == false), "{}", run.log());
}

#[test]
fn data_that_the_other_vault_shows_to_be_older_is_replaced_while_the_first_is_away() {
    let counters = counters();
    once(&counters, 1);
    copy(&counters, "data", "older");
    let newer = once(&counters, 2);
    fs::remove_dir_all(counters.world.data()).unwrap();
    rename(&counters, "older", "data");
    rename(&counters, "backups", "away");
    // Nothing else has it.
    counters.world.write("mine", "nobody else has this");

    let mut run = start(&counters, &[]);
    assert_eq!(counters.begun("a", 3, &run).count, newer, "{}", run.log());
    run.log_with("is diverged");
    assert!(!counters.world.path("data/mine").exists());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    let is_kept = |snapshot: &Value| {
        let _ = fs::remove_dir_all(counters.world.path("found"));
        let id = snapshot["id"].as_str().unwrap();
        counters.world.run(["restore", "found", "--vault", "second", "--snapshot", id]);
        counters.world.path("found/mine").exists()
    };
    let diverged = |snapshot: &Value| snapshot["good"] == false && is_kept(snapshot);
    assert!(snapshots(&counters, "second").iter().any(diverged), "{}", run.log());
    assert!(!counters.world.path("backups").exists());
}

#[test]
fn no_app_starts_without_its_data_while_the_first_vault_is_away() {
    let counters = counters();
    let last = once(&counters, 1);
    fs::remove_dir_all(counters.world.data()).unwrap();
    rename(&counters, "backups", "away");
    let mut run = start(&counters, &[]);
    assert_eq!(run.wait().0, Some(1), "{}", run.log());
    run.log_with("there is no vault");
    run.log_with("--on-unreachable start");
    assert_eq!(counters.starts("a"), 1);
    let mut run = start(&counters, &["--on-unreachable", "start"]);
    assert_eq!(counters.begun("a", 2, &run).count, last, "{}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    assert!(!counters.world.path("backups").exists());
}

#[test]
fn an_instance_that_is_superseded_while_it_restores_gives_up() {
    let counters = counters();
    once(&counters, 1);
    fs::remove_dir_all(counters.world.data()).unwrap();
    let mut a = start(&counters, &["--before-restore", "touch restoring; sleep 100", "--on-superseded", "exit"]);
    let restoring = counters.world.path("restoring");
    until("restore", WITHIN, || a.log(), || restoring.exists().then_some(()));
    let mut b = counters.start("b", "b", &POLL);
    counters.begun_within("b", 1, &b, Duration::from_secs(20));
    assert_eq!(a.wait().0, Some(0), "{}", a.log());
    a.log_with("another instance takes over (epoch 3) before the app was started");
    assert_eq!(counters.starts("a"), 1);
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
}
