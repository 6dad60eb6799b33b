//! What snapshots leave out of a directory that `lastgood run` restores, and what a killed `lastgood run` leaves.

use std::fs;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::counter::{Counters, WITHIN, gone, until, without_terminal};
use crate::support::process::Running;

const OPTIONS: [&str; 8] = ["--every", "off", "--handover-poll", "100ms", "--exclude", "cache", "--exclude", "*.tmp"];

/// Runs the counter once, and puts a directory in the place of its own that comes from nowhere and has entries that are left out.
fn unknown() -> (Counters, u64) {
    let counters = Counters::new();
    let mut run = counters.started("a", "data", &OPTIONS);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    fs::remove_dir_all(counters.world.data()).unwrap();
    for (path, text) in [("n", "100000"), ("cache/deep/x", "cached"), ("sub/y.tmp", "left out"), ("sub/z", "data")] {
        fs::create_dir_all(counters.world.data().join(path).parent().unwrap()).unwrap();
        counters.world.write(path, text);
    }
    let last = counters.stopped("a");
    (counters, last)
}

#[test]
fn what_snapshots_leave_out_comes_over_where_run_restores() {
    for in_place in [false, true] {
        let (counters, last) = unknown();
        let options = [&OPTIONS[..], if in_place { &["--in-place"] } else { &[] }].concat();
        let mut run = counters.start("a", "data", &options);
        assert_eq!(counters.begun("a", 2, &run).count, last, "{}", run.log());
        let data = counters.world.data();
        let read = |path: &str| fs::read_to_string(data.join(path)).unwrap();
        assert_eq!((read("cache/deep/x"), read("sub/y.tmp")), ("cached".into(), "left out".into()), "{in_place}");
        assert!(!data.join("sub/z").exists() && !data.join(".lastgood/carry.json").exists(), "{in_place}");
        let aside = until("what was moved aside", WITHIN, || run.log(), || find_aside(&data, in_place));
        assert!(aside.join("sub/z").exists() && !aside.join("cache").exists() && !aside.join("sub/y.tmp").exists());
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        // None of it went into a snapshot.
        assert_eq!(counters.saved(), counters.stopped("a"));
        assert!(!counters.world.path("out/cache").exists() && !counters.world.path("out/sub/y.tmp").exists());
    }
}

#[test]
fn what_an_older_snapshot_left_out_is_saved_where_other_options_say_so_now() {
    let poll = ["--every", "off", "--handover-poll", "100ms"];
    let before = [&poll[..], &["--exclude", "uploads"]].concat();
    for (now, is_saved) in [(&[][..], true), (&["--exclude", "*.log"], true), (&["--exclude", "uploads"], false)] {
        let counters = Counters::new();
        fs::create_dir_all(counters.world.path("data/uploads")).unwrap();
        counters.world.write("uploads/photo", "photo");
        counters.world.write("kept", "kept");
        let mut run = counters.started("a", "data", &before);
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        let mut run = counters.started("b", "elsewhere", &before);
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        // It is stale by the snapshot that it comes from, which does not have all of it.
        let mut run = counters.start("a", "data", &[&poll[..], now].concat());
        assert_eq!(counters.begun("a", 2, &run).count, counters.stopped("b"), "{}", run.log());
        assert!(run.log().contains(" is stale: "), "{}", run.log());
        let list = counters.snapshots();
        let saved: Vec<_> = list.iter().filter(|snapshot| snapshot["state"] == "suspect").collect();
        assert_eq!(saved.len(), usize::from(is_saved), "{list:?}");
        match saved.first() {
            Some(saved) => {
                counters.world.restore_snapshot(saved["id"].as_str().unwrap(), "saved");
                assert_eq!(fs::read_to_string(counters.world.path("saved/uploads/photo")).unwrap(), "photo");
            }
            None => {
                let photo = fs::read_to_string(counters.world.path("data/uploads/photo"));
                assert_eq!(photo.unwrap(), "photo", "it is carried over");
            }
        }
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    }
}

/// Finds where a directory's old content is.
fn find_aside(data: &Path, in_place: bool) -> Option<std::path::PathBuf> {
    let folder = if in_place { data } else { data.parent().unwrap() };
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found = names.filter(|path| path.file_name().unwrap().to_string_lossy().contains(".replaced-"));
    found.next()
}

/// The process of the app that the lock of the directory names.
fn app_in_lock(counters: &Counters) -> Option<u64> {
    let text = fs::read(counters.world.data().join(".lastgood/run.lock")).ok()?;
    serde_json::from_slice::<Value>(&text).ok()?["proof"]["group"]["app"]["pid"].as_u64()
}

#[test]
fn what_an_app_had_started_is_ended_before_the_next_one_starts() {
    let counters = Counters::new();
    let world = &counters.world;
    // Python's `subprocess` closes the lock, and the counter leaves the app's group.
    let app = "import subprocess, sys; subprocess.call(sys.argv[1:], start_new_session=True)";
    let start = || {
        let options = ["run", "--init", "--every", "off", "--handover-poll", "100ms", "--"];
        let counter = ["python3", "-I", "-S", "counter.py", "a", "0"];
        let mut command = world.command([&options[..], &["python3", "-I", "-S", "-c", app], &counter].concat());
        command.env("LASTGOOD_DATA", world.data());
        Running::start(without_terminal(&command), "")
    };
    let mut run = start();
    let first = counters.begun("a", 1, &run);
    counters.counted_beyond("data", 3, &run);
    // The directory was empty, and is locked only now.
    until("app in the lock", WITHIN, || run.log(), || app_in_lock(&counters));
    assert_eq!(run.end(Signal::KILL).0, None);
    counters.counted_beyond("data", counters.count("data"), &run);
    let mut run = start();
    counters.begun("a", 2, &run);
    gone(first.pid);
    let said: Vec<_> = counters.said("a").into_iter().map(|said| said.what).collect();
    assert_eq!(said, ["begins", "stops", "begins"], "{}", run.log());
    run.log_with("is left of a `lastgood run` that was killed");
    // The app itself does nothing about the signal.
    assert_eq!(run.end(Signal::TERM).0, Some(143), "{}", run.log());
}

#[test]
fn what_was_started_with_an_empty_environment_is_ended_as_well() {
    let counters = Counters::new();
    let world = &counters.world;
    world.write("n", "0");
    let bare = format!("while :; do echo x >> {}/bare; sleep 0.05; done", world.data().display());
    let app = "import subprocess, sys, time
bare = subprocess.Popen(['/bin/sh', '-c', sys.argv[1]], env={}, start_new_session=True)
open('bare-pid', 'w').write(str(bare.pid) + '\\n')
time.sleep(1000)";
    let options = ["run", "--init", "--every", "off", "--", "python3", "-I", "-S", "-c", app, &bare];
    let mut run = Running::start(without_terminal(&world.command(options)), "");
    let read = || fs::read_to_string(world.path("bare-pid")).ok()?.strip_suffix('\n')?.parse::<u32>().ok();
    let pid = until("a process of the app", WITHIN, || run.log(), read);
    let is_noted = || {
        let text = fs::read(world.data().join(".lastgood/run.lock")).ok()?;
        let noted = serde_json::from_slice::<Value>(&text).ok()?["proof"]["unmarked"].clone();
        noted.as_array()?.iter().any(|found| found[0] == pid).then_some(())
    };
    until("process in the lock", WITHIN, || run.log(), is_noted);
    assert_eq!(run.end(Signal::KILL).0, None);
    // Its app is gone.
    let size = || fs::metadata(world.path("data/bare")).map_or(0, |found| found.len());
    let before = size();
    until("a write after that", WITHIN, String::new, || (size() > before).then_some(()));
    let next = world.command(["run", "--every", "off", "--", "true"]);
    crate::support::Ran::of(without_terminal(&next)).ended(0).says("is left of a `lastgood run` that was killed");
    gone(pid);
}

#[test]
fn what_an_app_had_started_beside_an_empty_directory_is_ended_too() {
    let counters = Counters::new();
    let world = &counters.world;
    fs::create_dir(world.data()).unwrap();
    // What it starts writes only later.
    let app = "import subprocess, sys, time
late = subprocess.Popen(['/bin/sh', '-c', sys.argv[1]], start_new_session=True)
open('late-pid', 'w').write(str(late.pid) + '\\n')
time.sleep(1000)";
    let late = "while ! test -e go; do sleep 0.05; done; echo late > data/late; sleep 1000";
    let options = ["run", "--init", "--every", "off", "--", "python3", "-I", "-S", "-c", app, late];
    let mut run = Running::start(without_terminal(&world.command(options)), "");
    let read = || fs::read_to_string(world.path("late-pid")).ok()?.strip_suffix('\n')?.parse::<u32>().ok();
    let pid = until("a process of the app", WITHIN, || run.log(), read);
    assert_eq!(run.end(Signal::KILL).0, None);
    assert_eq!(fs::read_dir(world.data()).unwrap().count(), 0);
    let script = "touch go; sleep 0.3; ls data";
    let next = world.command(["run", "--every", "off", "--", "sh", "-c", script]);
    let next = crate::support::Ran::of(without_terminal(&next));
    next.ended(0).says("is left of a `lastgood run` that was killed");
    gone(pid);
    assert_eq!(fs::read_dir(world.data()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_was_empty_is_locked_once_the_app_has_written_to_it() {
    let counters = Counters::new();
    fs::create_dir(counters.world.data()).unwrap();
    let mut run = counters.start("a", "data", &["--every", "off"]);
    let app = counters.begun("a", 1, &run);
    let is_locked = || {
        let file = fs::File::open(counters.world.data().join(".lastgood/run.lock")).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_err().then_some(())
    };
    until("lock", WITHIN, || run.log(), is_locked);
    assert_eq!(until("app in the lock", WITHIN, || run.log(), || app_in_lock(&counters)), u64::from(app.pid));
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    assert!(is_locked().is_none());
}
