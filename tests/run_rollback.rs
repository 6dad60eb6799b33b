//! `lastgood rollback`: an app comes back with an older snapshot, wherever it runs.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::support::World;
use crate::support::counter::Counters;

const OPTIONS: [&str; 4] = ["--every", "off", "--handover-poll", "100ms"];

#[test]
fn an_app_that_runs_comes_back_with_the_old_data() {
    let counters = Counters::new();
    let mut run = counters.started("a", "data", &OPTIONS);
    run.signal(Signal::USR1);
    run.log_with("backup is complete");
    let old = counters.snapshots()[0]["id"].as_str().unwrap().to_owned();
    let then = counters.saved_in(&old);
    counters.counted_beyond("data", then + 20, &run);

    let would = counters.world.run(["rollback", &old, "--dry-run"]);
    assert!(would.ended(0).text().contains("Would roll back"), "{would:?}");
    assert_eq!(counters.starts("a"), 1);
    let report = counters.world.json(["rollback", &old], 0);
    assert_eq!((&report["snapshot"], &report["epoch"]), (&json!(old), &json!(2)), "{report}");
    assert_eq!(counters.begun("a", 2, &run).count, then, "{}", run.log());
    assert_eq!(counters.saved(), then);
    // What it had written last is kept, and is the way back.
    let before = report["before"].as_str().unwrap();
    assert_eq!(counters.saved_in(before), counters.stopped("a"));
    let pins = fs::read_dir(counters.world.vault().join("pins")).unwrap();
    assert!(pins.into_iter().all(|pin| pin.unwrap().file_name().to_str().unwrap().starts_with(before)), "{report}");

    let last = counters.stopped("a");
    let undone = counters.world.run(["rollback", before]);
    assert!(undone.ended(0).text().contains("undo     lastgood rollback"), "{undone:?}");
    assert_eq!(counters.begun("a", 3, &run).count, last, "{}", run.log());
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    assert_eq!(counters.saved(), counters.stopped("a"));
}

#[test]
fn a_rollback_holds_for_the_directory_that_the_snapshot_was_taken_in() {
    let world = World::new();
    world.write("a", "old");
    let old = world.backup()["snapshot"].as_str().unwrap().to_owned();
    world.write("a", "broken");
    world.backup();
    world.run(["rollback", &old]).ended(0);
    let seen = world.run(["run", "--every", "off", "--", "cat", "data/a"]);
    assert_eq!(seen.ended(0).text(), "old", "{seen:?}");
}

#[test]
fn where_nobody_runs_the_next_start_has_the_old_data() {
    let counters = Counters::within(World::new().with("LASTGOOD_SERVICE", "shop"));
    let mut run = counters.started("a", "data", &OPTIONS);
    run.signal(Signal::USR1);
    run.log_with("backup is complete");
    let old = counters.snapshots()[0]["id"].as_str().unwrap().to_owned();
    let then = counters.saved_in(&old);
    counters.counted_beyond("data", then + 20, &run);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    let (last, snapshots) = (counters.stopped("a"), counters.snapshots());

    // A snapshot that could not be restored stops no app.
    let packs = fs::read_dir(counters.world.vault().join("packs")).unwrap().map(|pack| pack.unwrap().path());
    let whole: Vec<_> = packs.map(|pack| (fs::read(&pack).unwrap(), pack)).collect();
    whole.iter().for_each(|(bytes, pack)| fs::write(pack, vec![0; bytes.len()]).unwrap());
    counters.world.run(["rollback", &old, "--service", "shop"]).ended(4).says("[damage]");
    whole.iter().for_each(|(bytes, pack)| fs::write(pack, bytes).unwrap());
    assert_eq!(counters.snapshots(), snapshots);

    // Refusals change nothing: another service's vault, and names of no snapshot that could be older.
    counters.world.run(["rollback", &old, "--service", "blog"]).ended(1).says("other-writer").says("--take-over");
    counters.world.run(["rollback", "0123456789abcdef"]).ended(2).says("unknown-snapshot");
    counters.world.run(["rollback", "latest"]).ended(2);
    assert_eq!(counters.snapshots(), snapshots);

    counters.world.run(["rollback", &old]).ended(0);
    assert_eq!(counters.saved(), then);
    // In a directory that was left as it was, and on a machine without a disk.
    for data in ["data", "elsewhere"] {
        let starts = counters.starts("a");
        let mut run = counters.start("a", data, &OPTIONS);
        let begun = counters.begun("a", starts + 1, &run).count;
        assert!(begun == then || data == "elsewhere" && begun == counters.saved(), "{begun}: {}", run.log());
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        assert!(counters.saved() < last, "{last}");
    }
}

#[test]
fn a_diverged_snapshot_is_taken_where_it_is_accepted() {
    let counters = Counters::new();
    let mut run = counters.started("a", "data", &OPTIONS);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    fs::remove_dir_all(counters.world.data()).unwrap();
    counters.world.write("n", "1000000");
    let mut run = counters.start("a", "data", &OPTIONS);
    counters.begun("a", 2, &run);
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
    let snapshots = counters.snapshots();
    let diverged = snapshots.iter().find(|snapshot| snapshot["good"] == false).unwrap();
    let diverged = diverged["id"].as_str().unwrap();
    counters.world.run(["rollback", diverged]).ended(1).says("no-good-snapshot").says("--accept-suspect");
    assert!(counters.saved() < 1_000_000);
    counters.world.run(["rollback", diverged, "--accept-suspect"]).ended(0);
    assert_eq!(counters.saved(), 1_000_000);
    assert_eq!(counters.snapshots()[0]["state"], "complete");
}

#[test]
fn vaults_that_lack_the_snapshot_get_it_and_one_that_is_away_is_named() {
    let world = World::new();
    let (one, other) = (world.path("one").display().to_string(), world.path("other").display().to_string());
    let both = ["--vault", &one, "--vault", &other];
    world.run([&["init"][..], &both].concat()).ended(0);
    world.write("a", "old");
    // The other one was away.
    let old = world.json(["backup", "--vault", &one], 0)["snapshot"].as_str().unwrap().to_owned();
    world.write("a", "broken");
    world.json([&["backup"][..], &both].concat(), 0);
    let ran = world.run([&["rollback", &old][..], &both].concat());
    assert!(!ran.ended(0).stderr.contains("[damage]") && !ran.text().contains("behind"), "{ran:?}");
    for vault in [&one, &other] {
        world.run(["restore", "--vault", vault, "out"]).ended(0);
        assert_eq!(fs::read_to_string(world.path("out/a")).unwrap(), "old", "{vault}");
    }

    world.write("a", "newer");
    let newer = world.json(["backup", "--take-over", "--vault", &one, "--vault", &other], 0);
    fs::rename(&other, world.path("gone")).unwrap();
    let ran = world.run([&["rollback", &old][..], &both].concat());
    let command = format!("lastgood copy --from {one} --to {other}");
    assert!(ran.ended(0).text().contains("behind") && ran.text().contains(&command), "{ran:?} {newer}");
    fs::rename(world.path("gone"), &other).unwrap();
    world.run(command.split(' ').skip(1)).ended(0);
    world.run(["restore", "--vault", &other, "out"]).ended(0);
    assert_eq!(fs::read_to_string(world.path("out/a")).unwrap(), "old");
}
