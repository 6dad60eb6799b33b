//! `lastgood run` that does again what it did: what was saved is not saved twice.

use std::fs;
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::World;
use crate::support::counter::without_terminal;
use crate::support::database;
use crate::support::process::Running;
use crate::support::requirements::skipped;
use crate::support::{Ran, id};

/// Runs an app that is a script of the shell; how `lastgood run` ended.
fn script(world: &World, script: &str) -> Ran {
    Ran::of(without_terminal(&world.command(["run", "--init", "--every", "off", "--", "sh", "-c", script])))
}

/// Puts the content of an image into the data directory, as the start of a container does: all inodes are new.
fn from_image(world: &World) {
    fs::remove_dir_all(world.data()).unwrap();
    let copied = Command::new("cp").arg("-a").args([world.path("image"), world.data()]).status().unwrap();
    assert!(copied.success());
}

#[test]
fn a_new_machine_knows_how_long_backups_took() {
    let world = World::new();
    for text in ["1", "2"] {
        world.write("n", text);
        world.backup();
    }
    for entry in fs::read_dir(world.vault().join("runs")).unwrap() {
        let path = entry.unwrap().path();
        let mut report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let finished = report["finished"].as_str().unwrap().parse::<Timestamp>().unwrap();
        report["finished"] = (finished + SignedDuration::from_secs(60)).to_string().into();
        fs::write(&path, report.to_string()).unwrap();
    }
    fs::remove_dir_all(world.data()).unwrap();
    let run = world.command(["run", "--every", "off", "--", "sleep", "60"]);
    let mut run = Running::start(without_terminal(&run), "");
    run.log_with("a last snapshot will not fit into --grace: the last two backups took 6");
    assert_eq!(run.end(Signal::TERM).0, Some(143), "{}", run.log());
}

#[test]
fn an_app_that_fails_at_each_start_on_one_image_leaves_one_pinned_snapshot_of_it() {
    let world = World::new();
    script(&world, "mkdir data; echo 1 > data/n; echo 2 > data/m").ended(0);
    fs::create_dir_all(world.path("image/templates")).unwrap();
    fs::write(world.path("image/n"), "of the image").unwrap();
    fs::write(world.path("image/templates/page.html"), "<p>").unwrap();
    for start in 0..3 {
        from_image(&world);
        let ran = script(&world, "test -e data/m; exit 7");
        ran.ended(7);
        match start {
            0 => ran.says("is saved as the snapshot"),
            _ => ran.says("was saved before, as the snapshot"),
        };
        assert_eq!(fs::read_to_string(world.path("data/n")).unwrap(), "1\n", "it is restored each time");
    }
    let list = world.json(["list"], 0);
    let apart: Vec<_> = list.as_array().unwrap().iter().filter(|snapshot| snapshot["good"] == false).collect();
    assert_eq!(apart.len(), 1, "{list}");
    let pins: Vec<_> = fs::read_dir(world.vault().join("pins")).unwrap().map(|pin| pin.unwrap().file_name()).collect();
    assert_eq!(pins.len(), 1, "{pins:?}");
    // It is the image.
    let snapshot = apart[0]["id"].as_str().unwrap();
    world.restore_snapshot(snapshot, "out");
    assert_eq!(fs::read_to_string(world.path("out/templates/page.html")).unwrap(), "<p>");
    // Another image is saved, too.
    fs::write(world.path("image/n"), "of a new image").unwrap();
    from_image(&world);
    script(&world, "exit 7").ended(7).says("is saved as the snapshot");
    let list = world.json(["list"], 0);
    let apart = list.as_array().unwrap().iter().filter(|snapshot| snapshot["good"] == false).count();
    assert_eq!(apart, 2, "{list}");
    // Its database has a log that is not empty: the two are one.
    database::leftover_wal(&world.path("image/app.db"));
    assert!(fs::metadata(world.path("image/app.db-wal")).unwrap().len() > 0);
    for said in ["is saved as the snapshot", "was saved before, as the snapshot", "was saved before, as the snapshot"] {
        from_image(&world);
        script(&world, "exit 7").ended(7).says(said);
    }
    assert!(!id(&world.restore("newest")).is_empty());
}

#[test]
fn a_stale_directory_of_which_only_an_attribute_changed_is_saved_before_it_is_replaced() {
    let world = World::new();
    script(&world, "mkdir -p data; echo 1 > data/n").ended(0);
    if rustix::fs::setxattr(world.path("data/n"), "user.label", b"x", rustix::fs::XattrFlags::empty()).is_err() {
        return skipped("xattrs", "the filesystem of the tests has no extended attributes");
    }
    let mut other = world.command(["run", "--every", "off", "--", "sh", "-c", "echo 2 > other/n"]);
    other.env("LASTGOOD_DATA", world.path("other"));
    Ran::of(without_terminal(&other)).ended(0);
    script(&world, "true").ended(0).says("is diverged").says("is saved as the snapshot");
    assert_eq!(fs::read_to_string(world.path("data/n")).unwrap(), "2\n");
    let list = world.json(["list"], 0);
    let saved = list.as_array().unwrap().iter().find(|snapshot| snapshot["good"] == false).unwrap();
    world.restore_snapshot(saved["id"].as_str().unwrap(), "out");
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(world.path("out/n"), "user.label", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"x");
}
