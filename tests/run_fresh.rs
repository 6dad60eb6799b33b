//! `lastgood run` tells when the app stops writing, and when a critical file vanishes.

use std::fs;

use serde_json::json;

use crate::support::World;
use crate::support::counter::{WITHIN, until, without_terminal};
use crate::support::process::Running;

/// Starts an app that writes while there is a file `go`, and ends when there is `end`.
fn writer(world: &World, options: &[&str]) -> Running {
    fs::write(world.path("go"), "").unwrap();
    let app = "mkdir -p data; echo a > data/prices.csv; n=0; while [ ! -e end ]; do \
               if [ -e go ]; then n=$((n+1)); echo $n > data/n; fi; sleep 0.05; done";
    let run = world.command([&["run", "--init", "--every", "off"], options, &["--", "sh", "-c", app]].concat());
    let run = Running::start(without_terminal(&run), "the app has started");
    until("data", WITHIN, || run.log(), || world.path("data/n").exists().then_some(()));
    run
}

#[test]
fn an_app_that_stops_writing_is_told_of_and_saved_and_so_is_its_recovery() {
    let world = World::new();
    let mut run = writer(&world, &["--data-freshness", "2s", "--critical-on-stale"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(!run.log().contains("nothing was written"), "{}", run.log());
    fs::remove_file(world.path("go")).unwrap();
    run.log_with("nothing was written to the data directory for more than 2 s");
    run.log_with("backup is complete");
    fs::write(world.path("go"), "").unwrap();
    run.log_with("the data directory is written to again");
    fs::write(world.path("end"), "").unwrap();
    assert_eq!(run.wait().0, Some(0), "{}", run.log());
    assert_eq!(run.log().matches("nothing was written to").count(), 1, "{}", run.log());
    let list = world.json(["list"], 0);
    let reasons: Vec<_> = list.as_array().unwrap().iter().map(|snapshot| &snapshot["reason"]).collect();
    assert_eq!(reasons, [&json!("shutdown"), &json!("critical")]);
    let runs = world.json(["runs"], 0);
    let reports = runs.as_array().unwrap().iter().map(|run| world.json(["runs", run["run"].as_str().unwrap()], 0));
    assert!(reports.into_iter().any(|report| report.to_string().contains("nothing was written")), "{runs}");
}

#[test]
fn a_critical_file_that_vanishes_or_is_emptied_is_an_error_in_the_log() {
    let world = World::new().with("CRITICAL_FILES", "*.csv, n").with("DATA_FRESHNESS", "2s");
    let mut run = writer(&world, &[]);
    // It has been seen.
    std::thread::sleep(std::time::Duration::from_secs(1));
    fs::write(world.path("data/prices.csv"), "").unwrap();
    run.log_with("the critical file *.csv is empty, and was not before");
    fs::write(world.path("data/prices.csv"), "b").unwrap();
    run.log_with("the critical file *.csv is there again");
    fs::rename(world.path("data/prices.csv"), world.path("data/prices.old")).unwrap();
    let log = run.log_with("the critical file *.csv is gone");
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("is gone")), "{log}");
    fs::write(world.path("end"), "").unwrap();
    assert_eq!(run.wait().0, Some(0), "{}", run.log());
    assert!(!run.log().contains("nothing was written"), "{}", run.log());
    let list = world.json(["list"], 0);
    assert_eq!(list.as_array().unwrap().len(), 1, "no snapshot was asked for: {list}");
    let bare = World::new();
    bare.run(["run", "--critical-on-stale", "--", "true"]).ended(2).says("nothing is watched");
}
