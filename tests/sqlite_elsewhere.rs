//! Databases that are in use where the backup does not see it: never taken for good by halves.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::World;
use crate::support::database::{beside, number as count, table, taken};
use crate::support::other::Other;

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
