//! `lastgood run` on data that is older than the newest snapshot, which is damaged: nobody goes back further than that makes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::counter::Counters;
use crate::support::process::Running;

const NEVER: [&str; 2] = ["--every", "off"];

/// The packs of the vault.
fn packs(counters: &Counters) -> BTreeSet<PathBuf> {
    fs::read_dir(counters.world.vault().join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// What of the newest snapshot is spoiled.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spoiled {
    Packs,
    Root,
}

/// Spoils the root of a snapshot.
fn spoil_root(counters: &Counters, id: &str) {
    let root = counters.world.vault().join(format!("snapshots/{id}.json"));
    let mut bytes = fs::read(&root).unwrap();
    bytes[50] ^= 0xff;
    fs::write(root, bytes).unwrap();
}

/// Returns the snapshots whose roots can be read, newest first.
fn whole_snapshots(counters: &Counters, what: Spoiled) -> Vec<Value> {
    let list = counters.world.json(["list"], if what == Spoiled::Root { 4 } else { 0 });
    list.as_array().unwrap().iter().filter(|snapshot| snapshot["damage"].is_null()).cloned().collect()
}

/// Spoils a byte in each pack that has come since.
fn spoil(counters: &Counters, before: &BTreeSet<PathBuf>) {
    let now = packs(counters);
    let new: Vec<_> = now.difference(before).collect();
    assert!(!new.is_empty());
    for pack in new {
        let mut bytes = fs::read(pack).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 0xff;
        fs::write(pack, bytes).unwrap();
    }
}

fn end(run: &mut Running) {
    assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
}

/// Has the app run in `data`, and then elsewhere, where a snapshot of it is whole if that is wanted, and the last one is damaged. Returns
/// the count in the newest that is whole, and the one that is damaged.
fn older_than_damaged(counters: &Counters, between: bool, what: Spoiled) -> (u64, String) {
    let mut run = counters.start("a", "data", &NEVER);
    counters.begun("a", 1, &run);
    counters.counted_beyond("data", 3, &run);
    end(&mut run);
    let mut other = counters.start("b", "elsewhere", &NEVER);
    let mut count = counters.begun("b", 1, &other).count;
    assert_eq!(count, counters.stopped("a"));
    if between {
        counters.counted_beyond("elsewhere", count + 5, &other);
        other.signal(Signal::USR1);
        other.log_with("backup is complete");
        count = counters.saved();
        assert!(count > counters.stopped("a") + 3);
    }
    counters.counted_beyond("elsewhere", count + 5, &other);
    let before = packs(counters);
    end(&mut other);
    let damaged = counters.snapshots()[0]["id"].as_str().unwrap().to_owned();
    match what {
        Spoiled::Packs => spoil(counters, &before),
        Spoiled::Root => spoil_root(counters, &damaged),
    }
    (count, damaged)
}

#[test]
fn data_that_is_newer_than_all_that_is_whole_becomes_the_newest_snapshot() {
    // Unchanged since its last snapshot, and changed.
    for (changed, what) in
        [(false, Spoiled::Packs), (true, Spoiled::Packs), (false, Spoiled::Root), (true, Spoiled::Root)]
    {
        let counters = Counters::new();
        let (mut count, damaged) = older_than_damaged(&counters, false, what);
        if changed {
            count += 1000;
            fs::write(counters.world.path("data/n"), count.to_string()).unwrap();
        }
        let mut run = counters.start("a", "data", &NEVER);
        assert_eq!(counters.begun("a", 2, &run).count, count, "{}", run.log());
        let log = run.log();
        assert!(log.contains("the app starts on the data in") && log.contains("is damaged"), "{log}");
        assert!(counters.aside().is_empty(), "{:?}", counters.aside());
        // Another machine would go on from it at once, and the damaged one is kept.
        let list = whole_snapshots(&counters, what);
        assert_eq!((&list[0]["good"], &list[0]["state"]), (&json!(true), &json!("complete")), "{list:?}");
        assert_eq!(counters.saved(), count);
        let pins = fs::read_dir(counters.world.vault().join("pins")).unwrap();
        let pins: Vec<_> = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap()).collect();
        let pinned = |id: &str| pins.iter().any(|pin| pin.contains(id.rsplit('-').next().unwrap()));
        assert!(pinned(&damaged), "{pins:?}");
        end(&mut run);
        assert_eq!(counters.saved(), counters.stopped("a"));
    }
}

#[test]
fn data_that_is_older_than_a_whole_snapshot_is_saved_and_replaced_by_it() {
    for what in [Spoiled::Packs, Spoiled::Root] {
        let counters = Counters::new();
        let (count, _) = older_than_damaged(&counters, true, what);
        let old = counters.stopped("a");
        let mut run = counters.start("a", "data", &NEVER);
        assert_eq!(counters.begun("a", 2, &run).count, count, "{}", run.log());
        assert!(run.log().contains("the app starts with the snapshot"), "{}", run.log());
        assert_eq!(counters.saved(), count, "that snapshot is the newest");
        let list = whole_snapshots(&counters, what);
        let saved: Vec<_> = list.iter().filter(|snapshot| snapshot["state"] == "suspect").collect();
        assert_eq!(saved.len(), 1, "{list:?}");
        assert_eq!(counters.saved_in(saved[0]["id"].as_str().unwrap()), old);
        end(&mut run);
    }
}

#[test]
fn a_machine_without_data_starts_with_the_snapshot_before_one_whose_root_is_damaged_and_says_so() {
    let counters = Counters::new();
    let (count, _) = older_than_damaged(&counters, true, Spoiled::Root);
    fs::remove_dir_all(counters.world.data()).unwrap();
    let mut run = counters.start("a", "data", &NEVER);
    assert_eq!(counters.begun("a", 2, &run).count, count, "{}", run.log());
    run.log_with("the app starts with the snapshot");
    assert_eq!(fs::read_dir(counters.world.vault().join("pins")).unwrap().count(), 1);
    end(&mut run);
}

#[test]
fn the_app_is_not_started_where_the_damaged_snapshot_is_the_only_one() {
    let counters = Counters::new();
    let mut run = counters.start("a", "data", &NEVER);
    counters.begun("a", 1, &run);
    counters.counted_beyond("data", 3, &run);
    end(&mut run);
    spoil(&counters, &BTreeSet::new());
    fs::remove_dir_all(counters.world.data()).unwrap();
    fs::create_dir(counters.world.data()).unwrap();
    fs::write(counters.world.path("data/n"), "7").unwrap();
    let mut run = counters.start("a", "data", &NEVER);
    assert_eq!(run.wait().0, Some(4), "{}", run.log());
    // The error at the end is all that tells of it.
    let log = run.log();
    assert!(log.contains("lastgood: could not ") && !log.contains("ERROR"), "{log}");
    assert_eq!((counters.starts("a"), counters.count("data")), (1, 7));
}
