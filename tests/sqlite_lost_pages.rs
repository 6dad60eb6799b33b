//! Databases whose pages, or whose map, the vault has lost: the next backup stores what is missing, and only that.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::compare::assert_same_but_folder_times;
use crate::support::database::{orders, run};
use crate::support::{World, number};

/// Makes a vault of a database with three backups, between which pages changed; and what each backup added to the vault.
fn backed_up() -> (World, Vec<Vec<PathBuf>>) {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let path = world.data().join("orders.db");
    orders(&path, 4096, 12_000_000);
    let mut known = BTreeMap::new();
    let added = (0..3).map(|round| {
        if round > 0 {
            run(&path, &format!("UPDATE orders SET amount = {round} WHERE id % 500 = {round}"));
        }
        world.backup();
        let mut added = Vec::new();
        for folder in ["packs", "index"] {
            for entry in fs::read_dir(world.vault().join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if known.insert(path.clone(), ()).is_none() {
                    added.push(path);
                }
            }
        }
        added
    });
    let added = added.collect();
    (world, added)
}

fn is_mended(world: &World, report: &Value) {
    assert_eq!(report["good"], true, "{report}");
    world.restore("back");
    assert_same_but_folder_times(&world.data(), &world.path("back"));
    let again = world.backup();
    assert!(number(&again, "uploaded_bytes") < 10_000, "{again}");
}

#[test]
fn lost_pages_are_stored_again_and_no_others() {
    // The entry's header lies in one of them.
    for round in [1, 2] {
        let (world, added) = backed_up();
        let pack = added[round].iter().find(|path| path.to_string_lossy().ends_with(".tar.zst")).unwrap();
        let lost = fs::metadata(pack).unwrap().len();
        fs::remove_file(pack).unwrap();
        // An older snapshot is whole.
        world.run(["restore", "other"]).ended(3);
        let report = world.json(["backup"], 0);
        let sent = number(&report, "uploaded_bytes");
        assert!(sent < 2 * lost + 20_000, "{sent} bytes sent for a lost pack of {lost}: {report}");
        is_mended(&world, &report);
    }
}

#[test]
fn a_map_that_is_lost_or_damaged_is_made_anew() {
    for lose in [true, false] {
        let (world, added) = backed_up();
        for path in added[0].iter().filter(|path| path.to_string_lossy().ends_with(".jsonl.zst")) {
            if lose {
                fs::remove_file(path).unwrap();
            } else {
                let mut bytes = fs::read(path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle..middle + 8].iter_mut().for_each(|byte| *byte ^= 0x55);
                fs::write(path, bytes).unwrap();
            }
        }
        // Something has changed, so that it is read.
        run(&world.data().join("orders.db"), "UPDATE orders SET amount = 9 WHERE id % 500 = 9");
        let report = world.json(["backup"], 0);
        assert!(report["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty()), "{report}");
        is_mended(&world, &report);
    }
}
