//! A backup leaves the databases that it reads as they were, as another process sees them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::World;
use crate::support::database::{assert_recovers_same, beside, run, seen, table, taken};
use crate::support::database_process::Other;

/// One way for a database to lie there, and the process that uses it meanwhile.
struct Case {
    name: &'static str,
    make: fn(&Path) -> Option<Other>,
    /// The side files that there are, after the backup as before.
    beside: &'static [&'static str],
}

fn served(path: &Path, first: &str) -> Other {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Other::serving(path, &format!("{first}; PRAGMA wal_autocheckpoint=0; {}", table(200, 1500)))
}

fn left(path: &Path, mode: &str) -> Option<Other> {
    run(path, &format!("PRAGMA journal_mode={mode}; {}", table(200, 1500)));
    run(path, &format!("PRAGMA journal_mode={mode}; DELETE FROM t WHERE id % 3 = 0"));
    None
}

const CASES: [Case; 10] = [
    Case {
        name: "a WAL in use, its writer idle",
        make: |path| Some(served(path, "PRAGMA journal_mode=WAL")),
        beside: &["-shm", "-wal"],
    },
    Case {
        name: "a WAL in use that was checkpointed and not reset",
        make: |path| {
            let mut app = served(path, "PRAGMA journal_mode=WAL");
            app.ask("PRAGMA wal_checkpoint(FULL)");
            Some(app)
        },
        beside: &["-shm", "-wal"],
    },
    Case {
        name: "a WAL in use that was truncated",
        make: |path| {
            let mut app = served(path, "PRAGMA journal_mode=WAL");
            app.ask("PRAGMA wal_checkpoint(TRUNCATE)");
            Some(app)
        },
        beside: &["-shm", "-wal"],
    },
    Case { name: "a WAL closed cleanly", make: |path| left(path, "WAL"), beside: &[] },
    Case {
        name: "a WAL that a killed writer left",
        make: |path| {
            served(path, "PRAGMA journal_mode=WAL").kill();
            fs::remove_file(beside(path, "-shm")).unwrap();
            None
        },
        beside: &["-wal"],
    },
    Case {
        name: "a WAL and its shared memory that a killed writer left",
        make: |path| {
            served(path, "PRAGMA journal_mode=WAL").kill();
            None
        },
        beside: &["-shm", "-wal"],
    },
    Case { name: "DELETE", make: |path| left(path, "DELETE"), beside: &[] },
    Case { name: "TRUNCATE", make: |path| left(path, "TRUNCATE"), beside: &["-journal"] },
    Case { name: "PERSIST", make: |path| left(path, "PERSIST"), beside: &["-journal"] },
    Case {
        name: "DELETE, a transaction not committed",
        make: |path| {
            let mut app = served(path, "PRAGMA journal_mode=DELETE");
            app.ask("BEGIN IMMEDIATE");
            app.ask("DELETE FROM t");
            Some(app)
        },
        beside: &["-journal"],
    },
];

/// Returns the side files that are there.
fn side_files(path: &Path) -> Vec<&'static str> {
    ["-journal", "-shm", "-wal"].into_iter().filter(|side| beside(path, side).exists()).collect()
}

#[test]
fn a_backup_modifies_nothing() {
    for case in CASES {
        let name = case.name;
        let world = World::new();
        let path = world.data().join("app.db");
        let app = (case.make)(&path);
        assert_eq!(side_files(&path), case.beside, "{name}");
        let folder_time = || {
            let meta = world.data().metadata().unwrap();
            (meta.mtime(), meta.mtime_nsec())
        };
        let (before, time) = (seen(&world.data()), folder_time());
        for args in [&["backup"][..], &["backup", "--verify-content"], &["backup", "--check-databases=full"]] {
            let report = world.json(args, 0);
            assert_eq!(taken(&report).get("app.db"), Some(&"live"), "{name}: {args:?}");
            assert_eq!(seen(&world.data()), before, "{name}: {args:?}");
            assert_eq!(folder_time(), time, "{name}: {args:?}: the folder's time moved");
        }
        world.restore("back");
        assert_recovers_same(&world.data(), &world.path("back"), "app.db");
        // The app goes on as if nothing had been.
        if let Some(mut app) = app {
            app.ask("INSERT INTO t(x) VALUES ('after')");
            app.close();
        }
    }
}

#[test]
fn a_wal_database_that_is_closed_during_the_backup_loses_nothing() {
    // Whoever closes it last here may be the backup, which leaves the log to whoever opens it next.
    let world = World::new();
    let path = world.data().join("app.db");
    for round in 0..10 {
        let app = if round == 0 {
            served(&path, "PRAGMA journal_mode=WAL")
        } else {
            Other::serving(&path, "UPDATE t SET x = randomblob(1500) WHERE id % 7 = 0")
        };
        let mut backup = world.command(["backup", "--json"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round * 5));
        app.close();
        assert!(backup.wait().unwrap().success(), "round {round}");
        let restored = world.restore(&format!("back{round}"));
        assert_recovers_same(&world.data(), &world.path(format!("back{round}")), "app.db");
        assert_eq!(restored["warnings"], serde_json::json!([]), "round {round}");
    }
}
