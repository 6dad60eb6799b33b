//! `lastgood run`: the app's data is there before it starts, and is saved while it runs, at a crash and at its end.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::counter::{Counters, WITHIN, kill, until, without_terminal};
use crate::support::process::Running;
use crate::support::webhook::Webhook;
use crate::support::{Ran, World, id};

/// The time between two backups is too long for a test to see one.
const NEVER: [&str; 2] = ["--every", "off"];
const EVERY: [&str; 2] = ["--every", "1s"];

/// Runs an app that is a script of the shell; how `lastgood run` ended.
fn script(world: &World, options: &[&str], script: &str) -> Ran {
    let command = world.command([&["run", "--init"], options, &["--", "sh", "-c", script]].concat());
    Ran::of(without_terminal(&command))
}

/// Waits until this many runs have ended well.
fn backed_up(run: &Running, times: usize) {
    run.log_with_within("backup is complete", times, WITHIN);
}

#[test]
fn an_app_that_starts_in_an_empty_directory_is_saved_by_time_and_at_its_end() {
    let counters = Counters::new();
    fs::create_dir(counters.world.data()).unwrap();
    let mut run = counters.start_with_code("a", "data", &EVERY, 5);
    assert_eq!(counters.begun("a", 1, &run).count, 0);
    backed_up(&run, 2);
    assert_eq!(run.end(Signal::TERM).0, Some(5), "{}", run.log());
    let snapshots = counters.snapshots();
    let reasons: Vec<_> = snapshots.iter().map(|snapshot| snapshot["reason"].as_str().unwrap()).collect();
    assert!(reasons.len() > 2, "{reasons:?}");
    let (last, before) = reasons.split_first().unwrap();
    assert_eq!(*last, "shutdown", "{reasons:?}");
    // An app that takes long to stop is saved while it does.
    assert!(before.iter().all(|reason| ["schedule", "shutdown"].contains(reason)), "{reasons:?}");
    assert!(before.iter().filter(|reason| **reason == "schedule").count() >= 2, "{reasons:?}");
    assert_eq!(counters.saved(), counters.stopped("a"));
    counters.nothing_is_set_aside();
}

#[test]
fn a_directory_that_is_gone_comes_back_with_the_last_count() {
    let counters = Counters::new();
    let mut run = counters.start("a", "data", &NEVER);
    assert_eq!(counters.begun("a", 1, &run).count, 0);
    counters.counted_beyond("data", 5, &run);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    let last = counters.stopped("a");
    for (round, empty) in [(2, false), (3, true)] {
        fs::remove_dir_all(counters.world.data()).unwrap();
        if empty {
            fs::create_dir(counters.world.data()).unwrap();
        }
        let last = if round == 2 { last } else { counters.stopped("a") };
        let mut run = counters.start("a", "data", &NEVER);
        assert_eq!(counters.begun("a", round, &run).count, last, "{}", run.log());
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    }
    // What is there is not restored.
    let mut run = counters.start("a", "data", &NEVER);
    assert_eq!(counters.begun("a", 4, &run).count, counters.stopped("a"));
    assert!(!run.log().contains("restore is complete"), "{}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    // A directory that was empty is all that a restore has replaced.
    for name in counters.aside() {
        assert_eq!(fs::read_dir(counters.world.path(&name)).unwrap().count(), 0, "{name}");
    }
    let snapshots = counters.snapshots();
    assert!(snapshots.iter().all(|snapshot| snapshot["state"] == "complete"), "{snapshots:?}");
}

#[test]
fn an_app_dies_with_run_and_the_next_one_goes_on_from_what_it_wrote_or_saved() {
    let counters = Counters::new();
    let options = [&EVERY[..], &["--handover-poll", "100ms"]].concat();
    let mut run = counters.start("a", "data", &options);
    let app = counters.begun("a", 1, &run);
    backed_up(&run, 1);
    counters.counted_beyond("data", counters.count("data") + 5, &run);
    kill(&mut run, &app);
    let (written, saved) = (counters.count("data"), counters.saved());
    assert!(written >= saved, "{written} {saved}");

    let mut run = counters.start("a", "data", &options);
    let app = counters.begun("a", 2, &run);
    assert_eq!(app.count, written, "{}", run.log());
    counters.counted_beyond("data", written + 5, &run);
    backed_up(&run, 2);
    kill(&mut run, &app);
    let saved = counters.saved();
    fs::remove_dir_all(counters.world.data()).unwrap();

    let mut run = counters.start("a", "data", &options);
    assert_eq!(counters.begun("a", 3, &run).count, saved, "{}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    counters.nothing_is_set_aside();
}

/// Runs the counter once, and puts a directory in the place of its own that comes from nowhere.
fn unknown() -> (Counters, u64) {
    let counters = Counters::new();
    let mut run = counters.started("a", "data", &NEVER);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    fs::remove_dir_all(counters.world.data()).unwrap();
    counters.world.write("n", "100000");
    counters.world.write("mine", "nobody else has this");
    let last = counters.stopped("a");
    (counters, last)
}

#[test]
fn an_unknown_directory_is_saved_and_pinned_before_it_is_replaced() {
    let (counters, last) = unknown();
    let world = &counters.world;
    let mut run = counters.start("a", "data", &NEVER);
    assert_eq!(counters.begun("a", 2, &run).count, last, "{}", run.log());
    assert!(!world.path("data/mine").exists());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    let snapshots = counters.snapshots();
    let apart: Vec<_> = snapshots.iter().filter(|snapshot| snapshot["good"] == false).collect();
    let [diverged] = apart[..] else { panic!("{snapshots:?}") };
    assert_eq!((&diverged["state"], &diverged["reason"]), (&json!("suspect"), &json!("manual")), "{diverged}");
    assert!(world.run(["list"]).text().contains("diverged"));
    assert_eq!(counters.saved(), counters.stopped("a"));
    assert_eq!(counters.saved_in(diverged["id"].as_str().unwrap()), 100_000);
    assert_eq!(fs::read_to_string(world.path("out/mine")).unwrap(), "nobody else has this");
    let pins: Vec<_> = fs::read_dir(world.vault().join("pins")).unwrap().map(|pin| pin.unwrap().path()).collect();
    let [pin] = &pins[..] else { panic!("{pins:?}") };
    let pin: Value = serde_json::from_slice(&fs::read(pin).unwrap()).unwrap();
    assert_eq!(pin["snapshot"], diverged["id"], "{pin}");
    assert_eq!(counters.aside().len(), 1, "{:?}", counters.aside());
}

#[test]
fn an_unknown_directory_is_adopted_where_that_is_asked_for() {
    let (counters, last) = unknown();
    let newest = counters.snapshots()[0]["id"].clone();
    let mut run = counters.start("a", "data", &["--every", "off", "--on-unknown", "keep"]);
    assert_eq!(counters.begun("a", 2, &run).count, 100_000, "{}", run.log());
    assert!(counters.world.path("data/mine").exists());
    // It is the newest good one before the app writes anything.
    assert!(counters.saved() >= 100_000);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
    assert_eq!(counters.saved_in(newest.as_str().unwrap()), last);
    let pins = fs::read_dir(counters.world.vault().join("pins")).unwrap();
    let pins: Vec<_> = pins.map(|pin| fs::read_to_string(pin.unwrap().path()).unwrap()).collect();
    assert!(pins.len() == 1 && pins[0].contains(newest.as_str().unwrap()), "{pins:?}");
}

#[test]
fn an_unknown_directory_is_left_as_it_is_where_that_is_an_error() {
    let (counters, _) = unknown();
    let snapshots = counters.snapshots();
    let mut run = counters.start("a", "data", &["--every", "off", "--on-unknown", "fail"]);
    assert_eq!(run.wait().0, Some(1), "{}", run.log());
    run.log_with("not-started");
    assert_eq!(counters.starts("a"), 1);
    assert_eq!(counters.count("data"), 100_000);
    assert!(counters.world.path("data/mine").exists());
    assert_eq!(counters.snapshots(), snapshots);
    counters.nothing_is_set_aside();
    // The epoch that it took is over: the next one waits for nobody.
    let run = counters.start("a", "elsewhere", &["--every", "off", "--handover-poll", "60s"]);
    assert!(counters.begun("a", 2, &run).count > 0);
}

#[test]
fn a_crash_is_saved_with_the_masked_output_in_the_report_and_none_of_it_in_the_webhook() {
    let hook = Webhook::new(&[]);
    let world = World::new().with("LASTGOOD_WEBHOOK", hook.url());
    let crash = "mkdir -p data; echo 7 > data/n; echo all is well; echo 'Traceback: password=hunter2' >&2; exit 3";
    let ran = script(&world, &NEVER, crash);
    ran.ended(3).says("the app has failed").says("Traceback: password=hunter2");
    assert_eq!(ran.text(), "all is well\n");
    let snapshots = world.json(["list"], 0);
    assert_eq!(snapshots.as_array().unwrap().len(), 1, "{snapshots}");
    assert_eq!((&snapshots[0]["reason"], &snapshots[0]["good"]), (&json!("critical"), &json!(true)));
    let runs = world.json(["runs"], 0);
    let report = world.json(["runs", runs[0]["run"].as_str().unwrap()], 0);
    let output = report["events"][0]["output"].as_str().unwrap_or_else(|| panic!("{report}"));
    assert!(output.contains("all is well") && output.contains("Traceback: password="), "{output}");
    assert!(!report.to_string().contains("hunter2"), "{report}");
    for post in hook.wait_for(1) {
        let body = String::from_utf8(post.body).unwrap();
        assert!(body.contains("critical"), "{body}");
        assert!(!["hunter2", "Traceback", "all is well"].iter().any(|line| body.contains(line)), "{body}");
    }
    // A signal that ends the app is a crash, too.
    script(&world, &NEVER, "kill -KILL $$").ended(137).says("the app has failed");
    // With --no-output nothing is kept.
    script(&world, &["--every", "off", "--no-output"], "echo all is well; exit 4").ended(4);
    // Runs of the same second are in no order.
    let runs = world.json(["runs"], 0);
    let crashed = |run: &&Value| run["events"][0]["message"] == "the app has failed: exit code 4";
    let crash = runs.as_array().unwrap().iter().find(crashed).unwrap_or_else(|| panic!("{runs}"));
    assert!(crash["events"][0]["output"].is_null(), "{crash}");
}

#[test]
fn an_app_that_fails_is_started_again_as_often_as_asked_for_and_saved_each_time() {
    let world = World::new();
    let crash = "mkdir -p data; echo x >> data/starts; exit 3";
    script(&world, &["--every", "off", "--restart", "on-failure:2"], crash).ended(3);
    assert_eq!(fs::read_to_string(world.path("data/starts")).unwrap(), "x\nx\nx\n");
    let list = world.json(["list"], 0);
    let (list, restored) = (list.as_array().unwrap(), world.restore("out"));
    assert_eq!(list.iter().map(|snapshot| &snapshot["reason"]).collect::<Vec<_>>(), ["critical"; 3], "{list:?}");
    assert_eq!(id(&restored), list[0]["id"].as_str().unwrap());
    assert_eq!(fs::read_to_string(world.path("out/starts")).unwrap(), "x\nx\nx\n");
    // An app that ends well is not started again.
    script(&world, &["--every", "off", "--restart", "on-failure:2"], "echo y >> data/starts").ended(0);
    assert_eq!(fs::read_to_string(world.path("data/starts")).unwrap(), "x\nx\nx\ny\n");
}

#[test]
fn a_signal_and_lines_of_the_output_have_the_data_saved() {
    let counters = Counters::new();
    let run = counters.started("a", "data", &NEVER);
    run.signal(Signal::USR1);
    backed_up(&run, 1);
    let saved = counters.snapshots();
    assert_eq!((saved.len(), &saved[0]["reason"]), (1, &json!("critical")));
    drop(run);

    let world = World::new();
    let options = ["--every", "off", "--critical-on", "^ERROR", "--critical-count", "2"];
    let waits = "mkdir data; echo 1 > data/n; echo ERROR one; echo fine; echo ERROR two; \
                 while [ ! -e backups/snapshots ] || [ -z \"$(ls backups/snapshots)\" ]; do sleep 0.05; done";
    script(&world, &options, waits).ended(0).says("2 lines of the app's output matched ^ERROR");
    let list = world.json(["list"], 0);
    let reasons: Vec<_> = list.as_array().unwrap().iter().map(|snapshot| &snapshot["reason"]).collect();
    assert_eq!(reasons, ["shutdown", "critical"]);
}

#[test]
fn with_backups_off_the_app_runs_and_nothing_else_is_done() {
    let counters = Counters::within(World::new().with("BACKUP_ENABLED", "false"));
    let mut run = counters.start_with_code("a", "data", &EVERY, 7);
    assert_eq!(counters.begun("a", 1, &run).count, 0);
    run.log_with("BACKUP_ENABLED is false: the app runs, nothing is restored and no snapshot is taken");
    counters.counted_beyond("data", 60, &run);
    assert_eq!(run.end(Signal::TERM).0, Some(7), "{}", run.log());
    assert!(!counters.world.vault().exists());
    assert!(!counters.world.path("data/.lastgood").exists());
    script(&counters.world, &[], "exit 9").ended(9);
}

#[test]
fn a_job_beside_run_on_the_same_directory_has_nothing_set_aside() {
    // As the first snapshot of all, and after one of `run`.
    for own_first in [false, true] {
        let counters = Counters::new();
        let options = [&NEVER[..], &["--handover-poll", "100ms"]].concat();
        let mut run = counters.start("a", "data", &options);
        let app = counters.begun("a", 1, &run);
        counters.counted_beyond("data", 3, &run);
        if own_first {
            run.signal(Signal::USR1);
            backed_up(&run, 1);
        }
        let report = counters.world.backup();
        assert_eq!(report["good"], true, "{report}");
        counters.counted_beyond("data", counters.count("data") + 5, &run);
        kill(&mut run, &app);
        let written = counters.count("data");

        let mut run = counters.start("a", "data", &options);
        assert_eq!(counters.begun("a", 2, &run).count, written, "{}", run.log());
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        assert_eq!(counters.saved(), counters.stopped("a"));
        counters.nothing_is_set_aside();
    }
}

#[test]
fn a_second_run_on_one_directory_takes_over_from_the_first() {
    let counters = Counters::new();
    let options = ["--every", "off", "--handover-poll", "200ms", "--on-superseded", "exit"];
    let mut first = counters.start("a", "data", &options);
    counters.begun("a", 1, &first);
    counters.counted_beyond("data", 5, &first);
    let mut second = counters.start("b", "data", &options);
    let begun = counters.begun("b", 1, &second);
    assert_eq!(begun.count, counters.stopped("a"), "{}", second.log());
    assert_eq!(first.wait().0, Some(0), "{}", first.log());
    assert_eq!(second.end(Signal::TERM).0, Some(0), "{}", second.log());
    assert_eq!(counters.saved(), counters.stopped("b"));
    counters.nothing_is_set_aside();
}

#[test]
fn output_signals_and_input_pass_through() {
    let world = World::new();
    let through = r#"printf 'a\0b\377no newline' | setsid "$LASTGOOD" run --init -- sh -c 'cat; echo told >&2'"#;
    let out = world.shell(through);
    assert_eq!(out.ended(0).stdout, b"a\0b\xffno newline");
    assert!(out.stderr.lines().any(|line| line == "told"), "{out:?}");

    let trap = "trap 'echo again > again' HUP; trap 'exit 6' INT; echo > ready; while :; do sleep 0.05; done";
    let run = world.command(["run", "--init", "--", "sh", "-c", trap]);
    let mut run = Running::start(without_terminal(&run), "the app has started");
    let there = |name: &str| until(name, WITHIN, || run.log(), || world.path(name).exists().then_some(()));
    there("ready");
    run.signal(Signal::HUP);
    there("again");
    let (code, time) = run.end(Signal::INT);
    assert_eq!(code, Some(6), "{}", run.log());
    assert!(time < Duration::from_secs(15), "{time:?}");
}
