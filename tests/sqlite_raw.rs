//! Databases that SQLite cannot read safely are taken as they lie, said to be so, and recovered by SQLite afterwards as it
//! would have recovered the original.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use crate::support::World;
use crate::support::compare::{assert_same, differences};
use crate::support::database::{
    assert_recovers_same, beside, copy, dump, leftover_wal, orders, run, seen, table, taken,
};
use crate::support::database_process::Other;
use crate::support::requirements::{Mounted, as_nobody};
use crate::support::tree::{noise, set_mode};

/// Asserts that a report says of these databases, and of no others, that they were taken raw, and why.
#[track_caller]
fn assert_raw(report: &Value, databases: &[&str]) {
    let raw: Vec<_> = taken(report).into_iter().filter(|(_, taken)| *taken == "raw").map(|(path, _)| path).collect();
    assert_eq!(raw, databases, "{report}");
    let warnings: Vec<_> = report["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    for database in databases {
        assert!(warnings.iter().any(|w| w.contains(database) && w.contains("raw, unchecked")), "{database}: {report}");
        let found = report["databases"].as_array().unwrap().iter().find(|d| d["path"] == *database).unwrap();
        assert!(found["why"].as_str().is_some_and(|why| !why.is_empty()), "{report}");
    }
}

/// Leaves a transaction that was killed while it was being written into the database: the journal must be played back.
fn hot_journal(path: &Path) {
    run(path, &table(2000, 1000));
    let mut app = Other::serving(path, "PRAGMA journal_mode=DELETE; PRAGMA cache_size=10");
    app.ask("BEGIN IMMEDIATE");
    app.ask("UPDATE t SET x = randomblob(1000)");
    app.kill();
    assert!(beside(path, "-journal").metadata().unwrap().len() > 100_000);
}

#[test]
fn a_hot_journal() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let path = world.data().join("app.db");
    hot_journal(&path);
    run(&world.data().join("other.db"), &table(3, 100));
    let before = seen(&world.data());
    for round in 0..2 {
        let report = world.backup();
        assert_raw(&report, &["app.db"]);
        assert_eq!(report["good"], true, "{report}");
        assert_eq!(seen(&world.data()), before);
        let target = format!("back{round}");
        world.restore(&target);
        assert_same(&world.data(), &world.path(&target));
        assert_recovers_same(&world.data(), &world.path(&target), "app.db");
    }
    // Recovery gives the state before the transaction, not half of it.
    assert_eq!(dump(&world.path("back0/app.db")).unwrap()["t"].0, 2000);

    // When SQLite has recovered the original, it is a live database again, and its journal is gone: half of the bytes, and
    // nothing is suspect about that.
    run(&path, "DELETE FROM t WHERE id > 1000");
    let report = world.backup();
    assert_raw(&report, &[]);
    world.restore("recovered");
    assert_same(&world.data(), &world.path("recovered"));
}

#[test]
fn a_hot_journal_with_filters() {
    for args in [["--include", "*.db"], ["--exclude", "*-journal"]] {
        let world = World::new();
        fs::create_dir_all(world.data()).unwrap();
        hot_journal(&world.data().join("app.db"));
        assert_raw(&world.json(["backup", args[0], args[1]], 0), &["app.db"]);
        world.restore("back");
        assert_recovers_same(&world.data(), &world.path("back"), "app.db");
    }
}

#[test]
fn a_read_only_mount() {
    let world = World::new();
    let Some(mount) = Mounted::new(world.data(), "64m") else { return };
    leftover_wal(&world.data().join("left.db"));
    run(&world.data().join("closed.db"), &format!("PRAGMA journal_mode=WAL; {}", table(300, 1000)));
    hot_journal(&world.data().join("hot.db"));
    run(&world.data().join("plain.db"), &table(300, 1000));
    mount.remount("ro");
    let before = seen(&world.data());
    let report = world.backup();
    let found = taken(&report);
    // Nothing has to be created to read the others.
    assert_raw(&report, &["hot.db"]);
    assert_eq!(found.len(), 4);
    assert_eq!(seen(&world.data()), before);
    world.restore("back");
    for database in ["left.db", "closed.db", "hot.db", "plain.db"] {
        assert_recovers_same(&world.data(), &world.path("back"), database);
    }
    // Nothing has changed: nothing to send but the root.
    let again = world.backup();
    assert_eq!(taken(&again), found);
    assert!(again["uploaded_bytes"].as_u64().unwrap() < 20_000, "{again}");
}

#[test]
fn a_folder_that_is_not_writable_needs_nothing_raw() {
    let world = World::new();
    let folder = world.data().join("closed");
    fs::create_dir_all(&folder).unwrap();
    leftover_wal(&folder.join("left.db"));
    run(&folder.join("at rest.db"), &format!("PRAGMA journal_mode=WAL; {}", table(300, 1000)));
    run(&folder.join("plain.db"), &table(300, 1000));
    for name in ["left.db", "left.db-wal", "at rest.db", "plain.db"] {
        set_mode(&folder.join(name), 0o444);
    }
    set_mode(&folder, 0o555);
    let before = seen(&folder);
    let Some(ran) = as_nobody(&world, &["backup", "--json"]) else { return };
    let report: Value = serde_json::from_slice(&ran.ended(0).stdout).unwrap();
    assert_raw(&report, &[]);
    assert_eq!(seen(&folder), before);
    world.restore("back");
    for database in ["left.db", "at rest.db", "plain.db"] {
        assert_recovers_same(&folder, &world.path("back/closed"), database);
    }
}

#[test]
fn another_users_wal_in_a_folder_that_all_may_write_to() {
    let world = World::new();
    let data = world.data();
    run(&data.join("at rest.db"), &format!("PRAGMA journal_mode=WAL; {}", table(300, 1000)));
    run(&data.join("plain.db"), &table(300, 1000));
    leftover_wal(&data.join("left.db"));
    let first = format!("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; {}", table(300, 1000));
    let mut app = Other::serving(&data.join("used.db"), &first);
    set_mode(&data, 0o777);
    let before = seen(&data);
    let Some(ran) = as_nobody(&world, &["backup", "--json"]) else { return };
    let report: Value = serde_json::from_slice(&ran.ended(0).stdout).unwrap();
    // Files that this user would create beside them, their own user could not write to, and this user could not remove.
    assert_raw(&report, &[]);
    assert_eq!(seen(&data), before);
    app.ask("INSERT INTO t(x) VALUES ('after')");
    world.restore("back");
    for database in ["at rest.db", "left.db", "plain.db"] {
        assert_recovers_same(&data, &world.path("back"), database);
    }
    app.ask("DELETE FROM t WHERE x = 'after'");
    assert_recovers_same(&data, &world.path("back"), "used.db");
    app.close();
}

/// Overwrites a part of a file.
fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn encrypted_with_a_header_in_the_clear() {
    let world = World::new();
    let path = world.data().join("encrypted.db");
    run(&path, &table(500, 1000));
    // As SQLCipher leaves it with `plaintext_header_size` 32: all after that looks like noise.
    let size = path.metadata().unwrap().len();
    overwrite(&path, 32, &noise(1, size as usize - 32));
    // And one that keeps nothing but the magic.
    world.write("magic.db", [&b"SQLite format 3\0"[..], &noise(2, 300_000)].concat());
    world.write("only the magic", b"SQLite format 3\0");
    let before = seen(&world.data());
    let report = world.backup();
    assert_raw(&report, &["encrypted.db", "magic.db", "only the magic"]);
    assert_eq!(seen(&world.data()), before);
    world.restore("back");
    assert_same(&world.data(), &world.path("back"));
    assert!(world.json(["verify", "--read-data"], 0)["damage"].as_array().unwrap().is_empty());
}

#[test]
fn damaged() {
    let world = World::new();
    let data = world.data();
    fs::create_dir_all(&data).unwrap();
    orders(&data.join("leaf.db"), 4096, 2 << 20);
    for name in ["schema.db", "short.db", "odd.db", "interior.db"] {
        copy(&data.join("leaf.db"), &data.join(name));
    }
    let size = data.join("leaf.db").metadata().unwrap().len();
    overwrite(&data.join("leaf.db"), size - 8192, &noise(1, 4096));
    overwrite(&data.join("schema.db"), 100, &noise(2, 3996));
    // Page 2 is the root of the table.
    overwrite(&data.join("interior.db"), 4096, &noise(3, 4096));
    let cut =
        |name: &str, to: u64| fs::OpenOptions::new().write(true).open(data.join(name)).unwrap().set_len(to).unwrap();
    cut("short.db", size / 2 / 4096 * 4096);
    cut("odd.db", size - 1000);
    let before = seen(&data);
    let report = world.backup();
    let found = taken(&report);
    assert_eq!(found.len(), 5, "{report}");
    // SQLite itself cannot begin to read these. The others have a state, if a broken one, and it is kept as it is.
    assert_eq!((found["schema.db"], found["short.db"]), ("raw", "raw"), "{report}");
    assert_eq!(seen(&data), before);
    world.restore("back");
    // SQLite reads the missing end of a file's last page as zeros.
    let others: Vec<_> =
        differences(&data, &world.path("back")).into_iter().filter(|d| !d.starts_with("\"odd.db\"")).collect();
    assert_eq!(others, [""; 0]);
    for database in found.keys() {
        assert_recovers_same(&data, &world.path("back"), database);
    }
}

#[test]
fn a_wal_that_ends_in_the_middle_of_a_frame() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let path = world.data().join("app.db");
    leftover_wal(&path);
    let wal = beside(&path, "-wal");
    let size = wal.metadata().unwrap().len();
    fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(size - 1000).unwrap();
    let before = seen(&world.data());
    let report = world.backup();
    assert_eq!(seen(&world.data()), before, "{report}");
    world.restore("back");
    assert_recovers_same(&world.data(), &world.path("back"), "app.db");
}
