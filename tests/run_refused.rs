//! `lastgood run` starts no app on bad input, nor after it was told to stop.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::World;
use crate::support::counter::{Counters, kill};

#[test]
fn bad_input_starts_no_app_and_changes_nothing() {
    let counters = Counters::new();
    let world = &counters.world;
    world.run(["init"]).ended(0);
    fs::write(world.path("plain"), "not a program").unwrap();
    let app = ["--", "python3", "counter.py", "a", "0"];
    let before = names(world);
    world.run(["run"]).ended(2).says("<COMMAND>");
    world.run(["run", "--"]).ended(2).says("<COMMAND>");
    world.run(["run", "--", "./nothing"]).ended(2).says("could not start ./nothing: there is no such file");
    world.run(["run", "--", "no-such-program"]).ended(2).says("there is no such program in the folders of PATH");
    world.run(["run", "--", "./plain"]).ended(2).says("./plain may not be executed by this user");
    world.run(["run", "--", "/"]).ended(2).says("/ is a folder");
    world.run([&["run", "--data", "plain"], &app[..]].concat()).ended(1).says("it is not a directory");
    world
        .run([&["run", "--vault", "none"], &app[..]].concat())
        .ended(1)
        .says("could not start the app on")
        .says("there is no vault")
        .says("`lastgood init`, or start with --init");
    world.run([&["run", "--every", "soon"], &app[..]].concat()).ended(2).says("--every");
    world.run([&["run", "--restart", "always"], &app[..]].concat()).ended(2).says("--restart");
    world.run([&["run", "--critical-on", "("], &app[..]].concat()).ended(2).says("--critical-on");
    world.run([&["run", "--exclude", "{a"], &app[..]].concat()).ended(2).says("could not read the pattern");
    assert_eq!(counters.starts("a"), 0);
    assert_eq!(names(world), before);
}

/// Returns every path in the world, with its content.
fn names(world: &World) -> Vec<String> {
    let find = world.shell("find . | sort; find . -type f -exec cat {} +");
    find.text().lines().map(str::to_owned).collect()
}

#[test]
fn an_app_that_fails_before_it_makes_its_data_keeps_the_next_one_waiting_for_nothing() {
    let world = World::new();
    assert!(!world.data().exists());
    for epoch in 1..=4 {
        let ran = world.run(["run", "--init", "--", "false"]);
        ran.ended(1).says("the app has made no data directory");
        assert!(!ran.stderr.contains("could not be taken") && !ran.stderr.contains("two instances"), "{ran:?}");
        assert!(world.vault().join(format!("epochs/{epoch}.end.json")).exists(), "{ran:?}");
    }
    // One that has had data says so when it is gone, and the next one waits for it.
    let ran = world.run([
        "run",
        "--",
        "sh",
        "-c",
        "mkdir data; echo 1 > data/a; kill -USR1 $PPID; sleep 3; rm -r data; false",
    ]);
    ran.ended(1).says("could not be taken");
    assert!(!world.vault().join("epochs/5.end.json").exists(), "{ran:?}");
}

#[test]
fn a_bad_directory_takes_over_from_nobody() {
    let counters = Counters::new();
    let run = counters.start("a", "data", &["--every", "off", "--handover-poll", "200ms"]);
    counters.begun("a", 1, &run);
    fs::write(counters.world.path("plain"), "").unwrap();
    let mut other = counters.start("b", "plain", &[]);
    assert_eq!(other.wait().0, Some(1), "{}", other.log());
    other.log_with("it is not a directory");
    let epochs = fs::read_dir(counters.world.vault().join("epochs")).unwrap();
    let epochs: Vec<_> = epochs.map(|name| name.unwrap().file_name()).filter(|name| name == "2.json").collect();
    assert!(epochs.is_empty(), "{}", other.log());
    assert_eq!((counters.starts("a"), counters.starts("b")), (1, 0));
}

#[test]
fn a_refusal_takes_over_from_nobody() {
    let counters = Counters::new();
    let run = counters.start("a", "data", &["--every", "off", "--handover-poll", "200ms"]);
    counters.begun("a", 1, &run);
    run.signal(Signal::USR1);
    run.log_with("backup is complete");
    fs::create_dir(counters.world.path("b")).unwrap();
    fs::write(counters.world.path("b/mine"), "nobody else has this").unwrap();
    let mut other = counters.start("b", "b", &["--on-unknown", "fail"]);
    assert_eq!(other.wait().0, Some(1), "{}", other.log());
    other.log_with("--on-unknown fail asks for this");
    assert!(!counters.world.vault().join("epochs/2.json").exists(), "{}", other.log());
    assert_eq!((counters.starts("a"), counters.starts("b")), (1, 0));
}

#[test]
fn a_vault_is_made_only_where_that_is_asked_for() {
    let world = World::with_files();
    let app = ["--vault", "new", "--", "sh", "-c", "echo ran >> data/a.txt"];
    world.run([&["run"], &app[..]].concat()).ended(1).says("there is no vault").says("lastgood init");
    assert!(!world.path("new").exists());
    assert_eq!(fs::read_to_string(world.path("data/a.txt")).unwrap(), "first\n");
    world.run([&["run", "--init"], &app[..]].concat()).ended(0);
    let restored = world.json(["restore", "out", "--vault", "new"], 0);
    assert_eq!(restored["snapshot"], world.json(["list", "--vault", "new"], 0)[0]["id"]);
    assert_eq!(fs::read_to_string(world.path("out/a.txt")).unwrap(), "first\nran\n");
}

#[test]
fn a_signal_before_the_app_has_started_ends_the_wait_at_once() {
    let counters = Counters::new();
    let options = ["--every", "off", "--handover-poll", "60s"];
    let mut run = counters.start("a", "a", &options);
    let app = counters.begun("a", 1, &run);
    run.signal(Signal::USR1);
    run.log_with("backup is complete");
    kill(&mut run, &app);

    // Nobody knows whether it still runs, so it would be waited for two minutes.
    for signal in [Signal::TERM, Signal::INT] {
        let mut run = counters.start("b", "b", &options);
        run.log_with("waiting for the end of epoch 1");
        let (code, time) = run.end(signal);
        assert_eq!(code, Some(0), "{}", run.log());
        assert!(time < Duration::from_secs(6), "{time:?}: {}", run.log());
        run.log_with("told to stop before the app was started");
    }
    assert_eq!(counters.starts("b"), 0);
    assert!(!counters.world.path("b").exists());
    assert_eq!(counters.snapshots().len(), 1);
}
