//! `lastgood run` on data that is older than the newest snapshot, which is damaged: nobody goes back further than that makes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::json;

use crate::support::counter::Counters;
use crate::support::process::Running;

const NEVER: [&str; 2] = ["--every", "off"];

/// The packs of the vault.
fn packs(counters: &Counters) -> BTreeSet<PathBuf> {
    fs::read_dir(counters.world.vault().join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect()
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
/// the count in the newest that is whole.
fn older_than_damaged(counters: &Counters, between: bool) -> u64 {
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
    spoil(counters, &before);
    count
}

#[test]
fn data_that_is_newer_than_all_that_is_whole_becomes_the_newest_snapshot() {
    // Unchanged since its last snapshot, and changed.
    for changed in [false, true] {
        let counters = Counters::new();
        let mut count = older_than_damaged(&counters, false);
        let damaged = counters.snapshots()[0]["id"].clone();
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
        let list = counters.snapshots();
        assert_eq!((&list[0]["good"], &list[0]["state"]), (&json!(true), &json!("complete")), "{list:?}");
        assert_eq!(counters.saved(), count);
        let pins = fs::read_dir(counters.world.vault().join("pins")).unwrap();
        let pins: Vec<_> = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap()).collect();
        let pinned = |id: &str| pins.iter().any(|pin| pin.contains(id.rsplit('-').next().unwrap()));
        assert!(pinned(damaged.as_str().unwrap()), "{pins:?}");
        end(&mut run);
        assert_eq!(counters.saved(), counters.stopped("a"));
    }
}

#[test]
fn data_that_is_older_than_a_whole_snapshot_is_saved_and_replaced_by_it() {
    let counters = Counters::new();
    let count = older_than_damaged(&counters, true);
    let old = counters.stopped("a");
    let mut run = counters.start("a", "data", &NEVER);
    assert_eq!(counters.begun("a", 2, &run).count, count, "{}", run.log());
    assert!(run.log().contains("the app starts with the snapshot"), "{}", run.log());
    assert_eq!(counters.saved(), count, "that snapshot is the newest");
    let list = counters.snapshots();
    let saved: Vec<_> = list.iter().filter(|snapshot| snapshot["state"] == "suspect").collect();
    assert_eq!(saved.len(), 1, "{list:?}");
    assert_eq!(counters.saved_in(saved[0]["id"].as_str().unwrap()), old);
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
    assert_eq!((counters.starts("a"), counters.count("data")), (1, 7));
}
