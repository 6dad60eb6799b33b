//! Databases that are in use where the backup does not see it: never taken for good by halves.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::World;
use crate::support::database::{beside, number as count, table, taken};
use crate::support::database_process::Other;

fn not_good(world: &World, way: &str) {
    let report: Value = world.json(["backup", "--busy-timeout", "500ms"], 3);
    assert_eq!((&report["good"], taken(&report)["app.db"]), (&false.into(), "raw"), "{way}: {report}");
    let check = report["databases"][0]["check"].to_string();
    assert!(check.contains("is not here") || check.contains("half of a transaction"), "{way}: {report}");
}

fn rows(world: &World, out: &str) -> i64 {
    world.restore(out);
    count(&world.path(out).join("app.db"), "SELECT count(*) FROM t")
}

/// Part of the log is in the database file, and part is not.
fn checkpointed_by_halves(database: &Path) -> Other {
    let mut app = Other::serving(database, &format!("PRAGMA journal_mode=WAL; {}", table(300, 1000)));
    let mut reader = Other::serving(database, "");
    reader.ask("BEGIN");
    reader.ask("SELECT count(*) FROM t");
    app.ask("UPDATE t SET x = 'later'");
    app.ask("PRAGMA wal_checkpoint(passive)");
    reader.kill();
    app
}

#[test]
fn one_whose_log_was_moved_away_under_its_app() {
    let world = World::new();
    world.write("other.txt", "x");
    let path = world.data().join("app.db");
    let mut app = checkpointed_by_halves(&path);
    app.ask("INSERT INTO t(x) VALUES ('last')");
    for ending in ["-wal", "-shm"] {
        fs::rename(beside(&path, ending), world.path(format!("aside{ending}"))).unwrap();
    }
    not_good(&world, "moved away");
    app.close();
    assert_eq!(world.json(["backup"], 0)["whole"], true);
    assert_eq!(rows(&world, "out"), 301);
}

#[test]
fn one_that_is_used_by_another_name() {
    for journal in [None, Some("")] {
        let world = World::new();
        world.write("other.txt", "x");
        let path = world.data().join("app.db");
        fs::create_dir(world.path("app")).unwrap();
        let app = checkpointed_by_halves(&world.path("app/app.db"));
        fs::hard_link(world.path("app/app.db"), &path).unwrap();
        if let Some(content) = journal {
            fs::write(beside(&path, "-journal"), content).unwrap();
        }
        not_good(&world, "a log by another name");
        app.close();
        assert_eq!(world.json(["backup"], 0)["whole"], true, "{journal:?}");
        assert_eq!(rows(&world, "out"), 300);
    }
}

#[test]
fn one_by_another_name_in_the_middle_of_a_transaction() {
    let world = World::new();
    world.write("other.txt", "x");
    let path = world.data().join("app.db");
    fs::create_dir(world.path("app")).unwrap();
    let mut app = Other::serving(&world.path("app/app.db"), &format!("PRAGMA cache_size=5; {}", table(300, 1000)));
    fs::hard_link(world.path("app/app.db"), &path).unwrap();
    app.ask("BEGIN");
    // Pages go into the file before there is a commit, since the cache is small.
    app.ask("UPDATE t SET x = randomblob(1000)");
    not_good(&world, "a journal by another name");
    app.ask("ROLLBACK");
    assert_eq!(world.json(["backup"], 0)["whole"], true);
    app.close();
}

#[test]
fn one_by_another_name_that_is_not_in_the_snapshot() {
    let world = World::new();
    world.write("other.txt", "x");
    let path = world.data().join("app.db");
    fs::create_dir(world.data().join("cache")).unwrap();
    let app = checkpointed_by_halves(&world.data().join("cache/app.db"));
    fs::hard_link(world.data().join("cache/app.db"), &path).unwrap();
    let report: Value = world.json(["backup", "--exclude", "cache"], 3);
    assert!(report["databases"][0]["check"].to_string().contains("is not here"), "{report}");
    // With both names, the one with the log is restored whole.
    assert_eq!(world.json(["backup"], 0)["good"], true);
    world.restore("out");
    assert_eq!(count(&world.path("out/cache/app.db"), "SELECT count(*) FROM t WHERE x = 'later'"), 300);
    app.close();
}

#[test]
fn one_whose_log_was_emptied_or_replaced_under_its_app() {
    for emptied in [true, false] {
        let world = World::new();
        world.write("other.txt", "x");
        let path = world.data().join("app.db");
        let mut app = checkpointed_by_halves(&path);
        let wal = beside(&path, "-wal");
        if emptied {
            fs::File::options().write(true).open(&wal).unwrap().set_len(0).unwrap();
        } else {
            fs::rename(&wal, world.path("aside")).unwrap();
            fs::write(&wal, "").unwrap();
            app.ask("INSERT INTO t(x) VALUES ('last')");
        }
        not_good(&world, "emptied or replaced");
        app.kill();
    }
}

#[test]
fn one_that_an_app_has_to_itself_beside_what_another_left_there() {
    let world = World::new();
    world.write("other.txt", "x");
    let path = world.data().join("app.db");
    fs::create_dir(world.path("app")).unwrap();
    Other::serving(&path, &format!("PRAGMA journal_mode=WAL; {}", table(9, 100))).close();
    fs::hard_link(&path, world.path("app/app.db")).unwrap();
    let alone = "PRAGMA locking_mode=EXCLUSIVE; SELECT count(*) FROM t";
    let mut app = Other::serving(&world.path("app/app.db"), alone);
    app.ask("INSERT INTO t(x) VALUES ('last')");
    fs::write(beside(&path, "-wal"), "").unwrap();
    not_good(&world, "a log by another name, and an empty one here");
    app.close();
    // The one here is its own, and empty before its first commit.
    let mut app = Other::serving(&path, alone);
    assert_eq!(world.json(["backup", "--busy-timeout", "500ms"], 0)["good"], true);
    app.ask("INSERT INTO t(x) VALUES ('last')");
    assert_eq!(world.json(["backup", "--busy-timeout", "500ms"], 0)["good"], true);
    app.close();
    assert_eq!(rows(&world, "out"), 11);
}
