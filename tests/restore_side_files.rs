//! Restores over a database of which a killed app left a write-ahead log or a journal: what is seen afterwards is what was
//! restored.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::World;

/// The journal modes in which a killed app leaves files beside its database.
const KINDS: [&str; 2] = ["wal", "delete"];

/// Makes a database of one table whose rows all say `what`, large enough that a transaction does not fit into the cache.
fn database(path: &Path, mode: &str, what: &str) -> Connection {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!(
        "pragma journal_mode = {mode}; pragma cache_size = 10; pragma cache_spill = 1;
         create table state (id integer primary key, what text, filler blob);"
    ))
    .unwrap();
    let rows = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
                insert into state select i, ?1, randomblob(200) from n";
    db.execute(rows, [what]).unwrap();
    db
}

/// Returns all that the rows say; the database must be sound.
fn says(path: &Path) -> Vec<String> {
    let db = Connection::open(path).unwrap();
    let sound: String = db.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok", "{}", path.display());
    let mut all = db.prepare("select distinct what from state order by what").unwrap();
    all.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Makes `to` what an app leaves that is killed after it committed `new` (wal), or in the middle of it (delete).
fn killed(from: &Path, to: &Path, mode: &str, new: &str) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let with = |path: &Path, side: &str| PathBuf::from(format!("{}{side}", path.display()));
    let db = Connection::open(from).unwrap();
    db.execute_batch(&format!(
        "pragma journal_mode = {mode}; pragma wal_autocheckpoint = 0; pragma cache_size = 10; begin;"
    ))
    .unwrap();
    db.execute("update state set what = ?1, filler = randomblob(200)", [new]).unwrap();
    if mode == "wal" {
        db.execute_batch("commit").unwrap();
    }
    let mut left = Vec::new();
    for side in ["", "-wal", "-journal", "-shm"] {
        if with(from, side).exists() {
            fs::copy(with(from, side), with(to, side)).unwrap();
            left.push(side);
        }
    }
    assert_eq!(left, if mode == "wal" { ["", "-wal", "-shm"].to_vec() } else { ["", "-journal"].to_vec() });
}

/// Creates a snapshot of `data/app.db` and `data/in/app.db` that say `restored`, and a place that holds the same databases as
/// they were when the app was killed.
fn world(mode: &str, target: &str) -> World {
    let world = World::new();
    for name in ["app.db", "in/app.db"] {
        // The killed one begins as the other does, so that its log fits.
        let path = world.data().join(name);
        drop(database(&path, mode, if mode == "wal" { "restored" } else { "the old data" }));
        let before = world.path("before.db");
        fs::copy(&path, &before).unwrap();
        killed(&before, &world.path(target).join(name), mode, "the old data, changed");
        for side in ["", "-wal", "-journal", "-shm"] {
            let _ = fs::remove_file(format!("{}{side}", before.display()));
        }
        let db = Connection::open(&path).unwrap();
        db.execute("update state set what = 'restored'", []).unwrap();
    }
    world.write("notes.txt", "no database");
    world.backup();
    world
}

#[test]
fn a_left_over_log_brings_the_old_data_back_where_nobody_moves_it() {
    // The accident that the tests below are about, shown with plain copies.
    for mode in KINDS {
        let world = world(mode, "old");
        fs::copy(world.data().join("app.db"), world.path("old/app.db")).unwrap();
        let db = Connection::open(world.path("old/app.db")).unwrap();
        let what: Vec<String> = db
            .prepare("select distinct what from state")
            .and_then(|mut all| all.query_map([], |row| row.get(0))?.collect())
            .unwrap_or_default();
        assert_ne!(what, ["restored"], "{mode}");
    }
}

#[test]
fn a_restored_database_is_seen_and_not_the_log_that_lay_there() {
    for mode in KINDS {
        let side = if mode == "wal" { "app.db-wal" } else { "app.db-journal" };
        for (args, both) in [
            (&[][..], true),
            (&["--in-place"], true),
            (&["--path", "app.db"], false),
            (&["--path", "app.db", "--in-place"], false),
            (&["--path", "app.db", "--path", "notes.txt", "--path", "in/app.db"], true),
            (&["--path", "in", "--path", "app.db", "--in-place"], true),
            (&["--path", "./app.db", "--path", "in/"], true),
        ] {
            let world = world(mode, "old");
            let what = format!("{mode} {args:?}");
            let left = fs::read(world.path("old").join(side)).unwrap();
            let report = world.json([&["restore", "old"], args].concat(), 0);
            let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
            assert!(!world.path("old").join(side).exists(), "{what}");
            assert_eq!(says(&world.path("old/app.db")), ["restored"], "{what}");
            if both {
                assert_eq!(says(&world.path("old/in/app.db")), ["restored"], "{what}");
            }
            // Nothing is destroyed: the old database is whole where it is now, with what its log says.
            assert!(fs::read(aside.join(side)).unwrap() == left, "{what}");
            let old = if mode == "wal" { "the old data, changed" } else { "the old data" };
            assert_eq!(says(&aside.join("app.db")), [old], "{what}");
            let told = report["moved_beside"].as_array().unwrap();
            let one_by_one = args.contains(&"app.db") || args.contains(&"./app.db");
            assert_eq!(told.iter().any(|path| path == side), one_by_one, "{what}: {report}");
        }
    }
}

#[test]
fn files_that_are_no_databases_leave_their_neighbours_alone() {
    let world = world("wal", "old");
    for name in ["notes.txt", "notes.txt-wal", "notes.txt-journal"] {
        fs::write(world.path("old").join(name), name).unwrap();
    }
    let report = world.json(["restore", "old", "--path", "notes.txt"], 0);
    assert_eq!(report["moved_beside"], serde_json::json!([]));
    assert_eq!(fs::read(world.path("old/notes.txt-wal")).unwrap(), b"notes.txt-wal");
    assert_eq!(fs::read(world.path("old/notes.txt")).unwrap(), b"no database");
    // The database beside it keeps its log.
    assert_eq!(says(&world.path("old/app.db")), ["the old data, changed"]);
}

#[test]
fn people_are_told_what_was_moved() {
    let world = world("wal", "old");
    let ran = world.run(["restore", "old", "--path", "app.db"]);
    assert!(ran.ended(0).text().contains("app.db-wal is there too"), "{ran:?}");
}
