//! What another program writes to a directory between the snapshot that `lastgood run` takes of it and the restore that replaces it.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::World;
use crate::support::counter::without_terminal;
use crate::support::http::Service;

const RUN: [&str; 5] = ["run", "--every", "off", "--handover-poll", "100ms"];

/// The diverged snapshots that have a file of this content.
fn saved_with(world: &World, path: &str, content: &str) -> usize {
    let list = world.json(["list"], 0);
    let diverged = list.as_array().unwrap().iter().filter(|snapshot| snapshot["good"] == false);
    let has = |snapshot: &&Value| {
        let id = snapshot["id"].as_str().unwrap();
        let ran = world.run(["cat", id, path]);
        ran.code == Some(0) && ran.text() == content
    };
    diverged.filter(has).count()
}

fn pins(world: &World) -> usize {
    fs::read_dir(world.vault().join("pins")).map_or(0, Iterator::count)
}

/// A directory that comes from nowhere, and a vault with another one.
fn unknown() -> World {
    let world = World::new();
    world.write("a", "good");
    world.run(["backup", "--init"]).ended(0);
    fs::remove_dir_all(world.data()).unwrap();
    ["a", "sub/b"].iter().for_each(|path| world.write(path, "image"));
    world
}

#[test]
fn it_is_saved_and_a_directory_that_nobody_writes_to_is_saved_once() {
    for in_place in [false, true] {
        for late in ["", "echo late > data/sub/late", "echo changed > data/a"] {
            let world = unknown();
            let hook = format!("true {late}").replace("true echo", "echo");
            let place = if in_place { &["--in-place"][..] } else { &[] };
            let run = world.run([&RUN[..], place, &["--before-restore", &hook, "--", "cat", "data/a"]].concat());
            assert_eq!(run.ended(0).text(), "good", "{run:?}");
            let at = format!("{in_place} {late:?}: {run:?}");
            assert_eq!(saved_with(&world, "sub/b", "image"), if late.is_empty() { 1 } else { 2 }, "{at}");
            assert_eq!(pins(&world), if late.is_empty() { 1 } else { 2 }, "{at}");
            assert!(run.stderr.contains("which is never restored by itself"), "{at}");
            assert_eq!(run.stderr.contains("may have been, after"), !late.is_empty(), "{at}");
            let (path, content) = if late.contains("late") { ("sub/late", "late\n") } else { ("a", "changed\n") };
            assert_eq!(saved_with(&world, path, content), usize::from(!late.is_empty()), "{at}");
        }
    }
}

#[test]
fn it_is_saved_and_named_where_a_restore_was_asked_for() {
    let world = World::new();
    world.write("a", "good");
    let backup = world.json(["backup", "--init"], 0);
    world.write("a", "newer");
    let hook = "test ! -e armed || echo late >> data/late";
    let options = ["--listen", "127.0.0.1:0", "--allow-restore", "--after-backup", hook, "--", "sleep", "600"];
    let mut command = world.command([&RUN[..], &options].concat());
    command.env("LASTGOOD_DATA", world.data()).env("PORT", "1");
    let mut run = Service::of(without_terminal(&command));
    run.log_with("the app has started");
    run.log_with("backup is complete");
    fs::write(world.path("armed"), "").unwrap();
    let asked = format!("{{\"snapshot\":{}}}", backup["snapshot"]);
    let report = run.post("/backup/restore?wait=true", &asked).is(200);
    fs::remove_file(world.path("armed")).unwrap();
    assert!(report.to_string().contains("may have been, after"), "{report}");
    // Once before the app was stopped, and once after that.
    assert_eq!(saved_with(&world, "late", "late\nlate\n"), 1, "{report}");
    assert_eq!(fs::read_to_string(world.data().join("a")).unwrap(), "good");
    run.end(Signal::TERM);
}
