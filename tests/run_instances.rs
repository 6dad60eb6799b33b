//! `lastgood run`: one of several instances on one vault runs the app, and each goes on from where the other stopped.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::counter::{Counters, WITHIN, until};
use crate::support::process::Running;

const POLL: [&str; 4] = ["--every", "1s", "--handover-poll", "200ms"];

/// Starts an instance, and waits until its app has counted.
fn first(counters: &Counters, options: &[&str]) -> Running {
    counters.started("a", "a", options)
}

#[test]
fn an_instance_takes_over_without_loss_and_gives_back_what_it_wrote() {
    let counters = Counters::new();
    let mut a = first(&counters, &POLL);
    let mut b = counters.start("b", "b", &POLL);
    let begun = counters.begun("b", 1, &b);
    assert_eq!(begun.count, counters.stopped("a"), "{}\n{}", a.log(), b.log());
    a.log_with("this one waits until that has ended");
    counters.counted_beyond("b", begun.count + 20, &b);
    b.log_with("backup is complete");
    assert!(!b.log().contains("the last complete snapshot is of"), "{}", b.log());
    assert_eq!(counters.starts("a"), 1);
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());

    let back = counters.begun_within("a", 2, &a, WITHIN);
    assert_eq!(back.count, counters.stopped("b"), "{}", a.log());
    counters.counted_beyond("a", back.count + 5, &a);
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
    // Nothing that an instance wrote is beside the line.
    let snapshots = counters.snapshots();
    assert!(snapshots.iter().all(|snapshot| snapshot["good"] == true), "{snapshots:?}");
}

#[test]
fn a_backup_that_is_under_way_at_a_handover_is_cut_short() {
    let counters = Counters::new();
    // The last snapshot is taken without delay.
    let hold = "test ! -e armed || { rm armed; touch held; sleep 60; }";
    let mut a = first(&counters, &[&POLL[..], &["--before-backup", hold]].concat());
    fs::write(counters.world.path("armed"), "").unwrap();
    until("hook", WITHIN, || a.log(), || counters.world.path("held").exists().then_some(()));
    let began = Instant::now();
    let mut b = counters.start("b", "b", &POLL);
    assert_eq!(counters.begun("b", 1, &b).count, counters.stopped("a"), "{}\n{}", a.log(), b.log());
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}: {}", began.elapsed(), a.log());
    assert!(a.log().contains("the backup that is under way is cut short"), "{}", a.log());
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    a.end(Signal::TERM);
}

#[test]
fn an_instance_that_waits_ends_at_a_signal_without_its_app() {
    let counters = Counters::new();
    let mut a = first(&counters, &POLL);
    let mut b = counters.start("b", "b", &POLL);
    counters.begun("b", 1, &b);
    a.log_with("this one waits until that has ended");
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    assert_eq!((counters.starts("a"), counters.starts("b")), (1, 1));
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    assert_eq!(counters.saved(), counters.stopped("b"));
}

#[test]
fn an_instance_ends_when_it_is_superseded_where_that_is_asked_for() {
    let counters = Counters::new();
    let options = [&POLL[..], &["--on-superseded", "exit"]].concat();
    let mut a = first(&counters, &options);
    let mut b = counters.start("b", "b", &options);
    let begun = counters.begun("b", 1, &b);
    assert_eq!(a.wait().0, Some(0), "{}", a.log());
    assert_eq!(begun.count, counters.stopped("a"), "{}", a.log());
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    assert_eq!((counters.starts("a"), counters.starts("b")), (1, 1));
    assert_eq!(counters.saved(), counters.stopped("b"));
}

#[test]
fn an_instance_that_goes_on_gives_what_it_has_and_lets_the_other_begin() {
    let counters = Counters::new();
    let options = [&POLL[..], &["--handover", "100s", "--on-superseded", "keep"]].concat();
    let mut a = first(&counters, &options);
    let before = counters.count("a");
    let mut b = counters.start("b", "b", &POLL);
    // Far sooner than it would end the other's epoch by force.
    let begun = counters.begun("b", 1, &b);
    assert!(begun.count > before, "{begun:?} after {before}: {}", a.log());
    let handed = a.log_with("it gets what is saved now");
    assert!(!handed.contains("taken over without waiting"), "{handed}");
    counters.counted_beyond("a", begun.count + 20, &a);
    counters.counted_beyond("b", begun.count + 20, &b);
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    assert_eq!((counters.starts("a"), counters.starts("b")), (1, 1));
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    // What the first one wrote after that is beside the line, and the second one's is the newest.
    let snapshots = counters.snapshots();
    let apart = snapshots.iter().find(|snapshot| snapshot["good"] == false).expect("none is apart");
    assert_eq!(counters.saved_in(apart["id"].as_str().unwrap()), counters.stopped("a"), "{snapshots:?}");
    assert_eq!(counters.saved(), counters.stopped("b"));
}

#[test]
fn a_lock_that_the_app_removes_is_made_again() {
    let counters = Counters::new();
    let mut a = first(&counters, &POLL);
    let own = counters.world.path("a/.lastgood");
    let is_locked = || {
        let lock = fs::File::open(own.join("run.lock")).ok()?;
        lock.try_lock().is_err().then_some(())
    };
    // The directory was empty.
    until("lock", WITHIN, || a.log(), is_locked);
    fs::remove_dir_all(&own).unwrap();
    until("new lock", WITHIN, || a.log(), is_locked);
    // It is of this instance, which goes on.
    counters.counted_beyond("a", counters.count("a") + 5, &a);
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    assert!(fs::File::open(own.join("run.lock")).unwrap().try_lock().is_ok());
    assert_eq!(counters.saved(), counters.stopped("a"));
}

#[test]
fn an_instance_that_was_killed_is_followed_from_its_last_snapshot() {
    let counters = Counters::new();
    let mut a = first(&counters, &POLL);
    a.log_with("backup is complete");
    a.end(Signal::KILL);
    let saved = counters.saved();
    // Nothing tells that it is gone: it is waited for, and then ended by force.
    let mut b = counters.start("b", "b", &POLL);
    assert_eq!(counters.begun("b", 1, &b).count, saved, "{}", b.log());
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());

    // The data of the one that was killed is newer than its last snapshot and older than the newest: it is diverged.
    let written = counters.count("a");
    let mut a = counters.start("a", "a", &POLL);
    assert_eq!(counters.begun("a", 2, &a).count, counters.stopped("b"), "{}", a.log());
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    if written > saved {
        let snapshots = counters.snapshots();
        let apart: Vec<_> = snapshots.iter().filter(|snapshot| snapshot["good"] == false).collect();
        assert_eq!(apart.len(), 1, "{snapshots:?}");
        assert_eq!(counters.saved_in(apart[0]["id"].as_str().unwrap()), written);
    }
}

#[test]
fn an_instance_that_was_killed_on_a_directory_that_was_empty_is_not_waited_for_there() {
    let counters = Counters::new();
    let options = ["--every", "off"];
    fs::create_dir(counters.world.path("a")).unwrap();
    let mut a = counters.started_and_saved("a", "a", &options);
    let lock = counters.world.path("a/.lastgood/run.lock");
    let names_epoch = || fs::read_to_string(&lock).ok()?.contains("\"epochs\"").then_some(());
    until("epoch in the lock", WITHIN, || a.log(), names_epoch);
    a.end(Signal::KILL);
    // It would take two polls of 5 s and 5 s more.
    let mut b = counters.start("a", "a", &options);
    counters.begun_within("a", 2, &b, Duration::from_secs(10));
    assert!(!b.log().contains("waiting for the end of epoch"), "{}", b.log());
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
}

#[test]
fn an_instance_that_is_overtaken_while_it_waits_comes_back() {
    let counters = Counters::new();
    let mut a = first(&counters, &POLL);
    a.log_with("backup is complete");
    a.end(Signal::KILL);
    let mut b = counters.start("b", "b", &POLL);
    b.log_with("waiting for the end of epoch 1");
    // A deploy whose app fails.
    let c = counters.world.run(["run", "--data", "c", "--handover-poll", "200ms", "--", "false"]);
    c.ended(1);
    counters.begun_within("b", 1, &b, WITHIN);
    assert_eq!(b.end(Signal::TERM).0, Some(0), "{}", b.log());
    assert_eq!(counters.saved(), counters.stopped("b"));
}

#[test]
fn a_detached_instance_runs_on_a_copy_and_disturbs_nobody() {
    let counters = Counters::new();
    let mut a = first(&counters, &["--every", "off", "--handover-poll", "200ms"]);
    a.signal(Signal::USR1);
    a.log_with("backup is complete");
    // The reports of runs aside, one object more or less is a change.
    let before = listing(&counters.world.vault());
    let mut copy = counters.start_with_code("copy", "copy", &["--detached", "--every", "1s"], 3);
    assert_eq!(counters.begun("copy", 1, &copy).count, counters.saved(), "{}", copy.log());
    counters.counted_beyond("copy", counters.count("copy") + 60, &copy);
    assert!(!copy.log().contains("ERROR"), "{}", copy.log());
    copy.signal(Signal::USR1);
    copy.log_with("no snapshot is taken");
    assert_eq!(copy.end(Signal::TERM).0, Some(3), "{}", copy.log());
    assert_eq!(listing(&counters.world.vault()), before, "{}", copy.log());
    assert_eq!(counters.starts("a"), 1);
    assert_eq!(a.end(Signal::TERM).0, Some(0), "{}", a.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
}

/// Returns the objects of a vault and their sizes, without the reports of restores, which `restore` leaves as well.
fn listing(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, size) = (entry.path(), entry.metadata().unwrap().len());
        if path.is_dir() {
            found.extend(listing(&path));
        } else if !path.to_str().unwrap().ends_with("-restore-complete.json") {
            found.push(format!("{} {size}", path.display()));
        }
    }
    found.sort();
    found
}
