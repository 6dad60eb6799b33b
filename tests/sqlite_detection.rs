//! Databases are found by their content, side files are part of them, and filters and links do not tear them apart.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::compare::{assert_same, assert_same_but_folder_times};
use crate::support::database::{beside, number, run, seen, table, taken};
use crate::support::database_process::Other;
use crate::support::tree::{fifo, noise};
use crate::support::{World, paths};

/// SQL that leaves 100 rows in the WAL alone.
const IN_THE_WAL: &str = "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; \
    CREATE TABLE t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t SELECT i FROM n;";
const COUNT: &str = "SELECT count(*) FROM t";

#[test]
fn by_content_whatever_the_name() {
    let world = World::new();
    let names = ["app.db", "notes.txt", "no extension", ".hidden", "größe\n.bin", "deep/er/x", "a-journal", "b-wal"];
    for (n, name) in names.iter().enumerate() {
        let mode = if n % 2 == 0 { "DELETE" } else { "WAL" };
        run(&world.data().join(name), &format!("PRAGMA journal_mode={mode}; {}", table(10 + n as u64, 500)));
    }
    world.write("short.db", "SQLite format 3");
    world.write("other.sqlite", "SQLite format 2\0 and more");
    world.write("empty.sqlite3", "");
    world.write("noise.db", noise(1, 100_000));
    let report = world.backup();
    let found = taken(&report);
    assert!(found.values().all(|taken| *taken == "live"), "{found:?}");
    assert_eq!(found.len(), names.len(), "{found:?}");
    assert!(found.contains_key("no extension") && found.contains_key("deep/er/x"), "{found:?}");
    assert_eq!((&report["warnings"], &report["good"]), (&json!([]), &json!(true)));
    world.restore("back");
    assert_same_but_folder_times(&world.data(), &world.path("back"));
}

#[test]
fn without_sqlite_files_are_stored_as_they_are() {
    let world = World::new();
    let (wal, persist) = (world.data().join("wal.db"), world.data().join("persist.db"));
    run(&persist, &format!("PRAGMA journal_mode=PERSIST; {}", table(10, 500)));
    let app = Other::serving(&wal, IN_THE_WAL);
    let before = seen(&world.data());
    let report = world.json(["backup", "--no-sqlite"], 0);
    assert_eq!(report["databases"], json!([]));
    assert_eq!(seen(&world.data()), before);
    world.restore("back");
    assert_same(&world.data(), &world.path("back"));
    assert!(world.path("back/wal.db-shm").exists() && world.path("back/persist.db-journal").exists());
    // And taken as databases right after, they are databases.
    let report = world.json(["backup", "--accept-shrink"], 0);
    assert_eq!(taken(&report).len(), 2);
    assert_eq!(paths(&world.json(["ls", "latest"], 0)), ["persist.db", "wal.db"]);
    app.close();
}

#[test]
fn names_that_sqlite_cannot_have_made() {
    let world = World::new();
    let long = |letter: &str, length: usize| letter.repeat(length);
    // Nothing can lie beside names that are so long; the last ones are no paths for SQLite.
    let deep = [long("d", 200), long("e", 200), long("f", 200), "deep.db".into()].join("/");
    let (full, wal) = (long("x", 255), long("w", 250));
    let odd = OsStr::from_bytes(b"\xff\xfe.db").to_owned();
    let names: Vec<&OsStr> =
        [":memory:", "file:a?mode=rw", "a%20b?cache=shared", &full, &wal, &deep].map(OsStr::new).into();
    for (n, name) in names.into_iter().chain([&*odd]).enumerate() {
        let made = world.path("new.db");
        let mode = if n % 2 == 0 { "DELETE" } else { "WAL" };
        run(&made, &format!("PRAGMA journal_mode={mode}; {}", table(10 + n as u64, 500)));
        let path = world.data().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::rename(made, path).unwrap();
    }
    // Under the names of side files lies what is none.
    for name in ["folder.db", "journal.db", "pipe.db", "link.db"] {
        run(&world.data().join(name), &table(10, 500));
    }
    world.write("folder.db-wal/kept.txt", "kept");
    world.write("journal.db-journal/kept.txt", "kept");
    fifo(&world.data().join("pipe.db-wal"), 0o600);
    symlink("nowhere", world.data().join("link.db-journal")).unwrap();
    let report = world.backup();
    let found = taken(&report);
    assert_eq!(found.len(), 11, "{found:?}");
    let raw: Vec<_> = found.iter().filter(|(_, taken)| **taken == "raw").map(|(path, _)| *path).collect();
    assert_eq!(raw, [&*deep, "folder.db", "journal.db", "link.db", "pipe.db"]);
    world.restore("back");
    assert_same_but_folder_times(&world.data(), &world.path("back"));
}

#[test]
fn side_files_of_a_live_database_are_no_entries() {
    let world = World::new();
    let (wal, persist) = (world.data().join("wal.db"), world.data().join("persist.db"));
    run(&persist, &format!("PRAGMA journal_mode=PERSIST; {}", table(10, 500)));
    let app = Other::serving(&wal, IN_THE_WAL);
    for orphan in ["gone.db-wal", "gone.db-shm", "notes-journal", "a.txt", "a.txt-wal"] {
        world.write(orphan, "an ordinary file");
    }
    let report = world.backup();
    assert_eq!(taken(&report).into_iter().collect::<Vec<_>>(), [("persist.db", "live"), ("wal.db", "live")]);
    assert_eq!(
        paths(&world.json(["ls", "latest"], 0)),
        ["a.txt", "a.txt-wal", "gone.db-shm", "gone.db-wal", "notes-journal", "persist.db", "wal.db"]
    );
    world.restore("back");
    assert_eq!(number(&world.path("back/wal.db"), COUNT), 100);
    assert_eq!(number(&world.path("back/persist.db"), COUNT), 10);
    app.close();
}

#[test]
fn filters_do_not_part_a_database_from_its_wal() {
    for args in [["--include", "*.db"], ["--exclude", "*-wal"], ["--exclude", "*.db-*"]] {
        let world = World::new();
        let app = Other::serving(&world.data().join(made(&world, "app.db")), IN_THE_WAL);
        world.write("other.txt", "not a database");
        let report = world.json(["backup", args[0], args[1]], 0);
        assert_eq!(taken(&report).into_iter().collect::<Vec<_>>(), [("app.db", "live")], "{args:?}");
        world.restore("back");
        let left: BTreeSet<_> =
            fs::read_dir(world.path("back")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.contains("app.db") && !left.contains("app.db-wal"), "{args:?}: {left:?}");
        assert_eq!(number(&world.path("back/app.db"), COUNT), 100, "{args:?}");
        app.close();
    }
}

/// Makes the data directory, for another process to put a database into.
fn made<'a>(world: &World, name: &'a str) -> &'a str {
    fs::create_dir_all(world.data()).unwrap();
    name
}

#[test]
fn a_symlinked_database_is_a_link_and_its_target_a_database() {
    let world = World::new();
    fs::create_dir_all(world.data().join("real")).unwrap();
    symlink("real/app.db", world.data().join("app.db")).unwrap();
    run(&world.path("outside.db"), &table(3, 100));
    symlink("../outside.db", world.data().join("outside.db")).unwrap();
    // Opened by the link's name: SQLite puts the WAL beside the target.
    let app = Other::serving(&world.data().join("app.db"), IN_THE_WAL);
    assert!(world.data().join("real/app.db-wal").exists());
    let report = world.backup();
    assert_eq!(taken(&report).into_iter().collect::<Vec<_>>(), [("real/app.db", "live")]);
    world.restore("back");
    assert!(world.path("back/app.db").is_symlink() && world.path("back/outside.db").is_symlink());
    assert_eq!(number(&world.path("back/app.db"), COUNT), 100);
    app.close();
}

#[test]
fn a_data_directory_behind_a_symlink() {
    let world = World::new();
    fs::create_dir_all(world.path("elsewhere")).unwrap();
    symlink("elsewhere", world.data()).unwrap();
    let app = Other::serving(&world.path("elsewhere/app.db"), IN_THE_WAL);
    let report = world.backup();
    assert_eq!(taken(&report).into_iter().collect::<Vec<_>>(), [("app.db", "live")]);
    world.restore("back");
    assert_eq!(number(&world.path("back/app.db"), COUNT), 100);
    app.close();
}

#[test]
fn a_hard_linked_database_loses_nothing_under_the_name_that_is_used() {
    for used in ["a.db", "z.db"] {
        let world = World::new();
        let database = world.data().join("a.db");
        run(&database, "PRAGMA journal_mode=WAL; CREATE TABLE before(x);");
        fs::hard_link(&database, world.data().join("z.db")).unwrap();
        let app = Other::serving(&world.data().join(used), IN_THE_WAL);
        assert!(beside(&world.data().join(used), "-wal").metadata().unwrap().len() > 0);
        world.backup();
        world.restore("back");
        assert_eq!(number(&world.path("back").join(used), COUNT), 100, "used as {used}");
        app.close();
    }
}

#[test]
fn a_hard_linked_database_at_rest_stays_linked() {
    let world = World::new();
    run(&world.data().join("a.db"), &table(100, 1000));
    fs::hard_link(world.data().join("a.db"), world.data().join("z.db")).unwrap();
    for n in 0..2 {
        world.backup();
        world.restore(&format!("back{n}"));
        assert_same(&world.data(), &world.path(format!("back{n}")));
        run(&world.data().join("a.db"), "UPDATE t SET x = randomblob(900) WHERE id = 50");
    }
}
