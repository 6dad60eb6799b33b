//! Databases that another program keeps to itself, and those that are encrypted: taken raw where that is safe, never by halves.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::World;
use crate::support::database::{beside, number as count, table, taken};
use crate::support::database_process::Other;
use crate::support::tree::noise;

fn backup(world: &World, code: i32) -> Value {
    world.json(["backup", "--busy-timeout", "500ms"], code)
}

#[test]
fn one_that_is_locked_with_its_log_is_taken_raw_and_whole() {
    for mode in ["WAL", "DELETE", "PERSIST"] {
        let world = World::new();
        world.write("other.txt", "x");
        let path = world.data().join("app.db");
        let first = format!("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode={mode}; {}", table(300, 1000));
        let mut app = Other::serving(&path, &first);
        app.ask("INSERT INTO t(x) VALUES ('last')");
        let report = backup(&world, 0);
        assert_eq!((&report["whole"], taken(&report)["app.db"]), (&true.into(), "raw"), "{mode}: {report}");
        // A transaction that is not committed is none.
        app.ask("BEGIN");
        app.ask("UPDATE t SET x = 'not committed'");
        let report = backup(&world, 0);
        assert_eq!((&report["whole"], taken(&report)["app.db"]), (&true.into(), "raw"), "{mode}: {report}");
        app.kill();
        world.restore("out");
        let restored = world.path("out/app.db");
        assert_eq!(count(&restored, "SELECT count(*) FROM t"), 301, "{mode}");
        assert_eq!(count(&restored, "SELECT count(*) FROM t WHERE x = 'not committed'"), 0, "{mode}");
    }
}

#[test]
fn one_that_is_locked_without_any_log_is_as_it_was_before() {
    let world = World::new();
    world.write("other.txt", "x");
    let path = world.data().join("app.db");
    let first = format!("PRAGMA journal_mode=MEMORY; PRAGMA cache_size=5; {}", table(300, 1000));
    let mut app = Other::serving(&path, &first);
    let locked = |app: &mut Other| {
        app.ask("BEGIN EXCLUSIVE");
        // Pages go into the file before there is a commit, since the cache is small.
        app.ask("UPDATE t SET x = randomblob(1000)");
    };
    locked(&mut app);
    // Nothing is known of it: half of a transaction may be in it, so that the snapshot is not good.
    let report = backup(&world, 3);
    assert_eq!((&report["state"], &report["good"]), (&"complete".into(), &false.into()), "{report}");
    app.ask("ROLLBACK");
    let report = backup(&world, 0);
    assert_eq!((&report["whole"], taken(&report)["app.db"]), (&true.into(), "live"));
    world.restore("good");
    locked(&mut app);
    for round in 0..2 {
        world.write("other.txt", format!("{round}"));
        let report = backup(&world, 3);
        assert_eq!((&report["good"], &report["stale"][0]["path"]), (&true.into(), &"app.db".into()), "{report}");
        world.restore(&format!("out{round}"));
        let out = world.path(format!("out{round}"));
        assert_eq!(fs::read(out.join("app.db")).unwrap(), fs::read(world.path("good/app.db")).unwrap());
        assert_eq!(fs::read_to_string(out.join("other.txt")).unwrap(), format!("{round}"));
        world.run(["cat", "latest", "app.db", "--torn"]).ended(0);
    }
    world.run(["verify", "--read-data"]).ended(0);
    app.ask("ROLLBACK");
    assert_eq!(backup(&world, 0)["whole"], true);
    app.close();
}

#[test]
fn an_encrypted_one_is_told_by_its_log_and_taken_with_it() {
    let world = World::new();
    world.write("other.txt", "x");
    let path = world.data().join("app.db");
    // As SQLCipher leaves them: a random salt first in the database, and SQLite's own header in the log.
    let mut log = noise(2, 40_000);
    log[..4].copy_from_slice(&[0x37, 0x7f, 0x06, 0x83]);
    fs::write(&path, noise(1, 409_600)).unwrap();
    fs::write(beside(&path, "-wal"), &log).unwrap();
    let report = backup(&world, 0);
    assert_eq!(taken(&report)["app.db"], "raw", "{report}");
    assert!(report["databases"][0]["why"].as_str().unwrap().contains("encrypted"), "{report}");
    // Once its log is gone it is a file as any other, and a log of nobody's makes no database.
    fs::remove_file(beside(&path, "-wal")).unwrap();
    world.write("text-wal", "a log");
    world.write("text", "a text");
    let report = backup(&world, 0);
    assert_eq!(report["databases"], Value::Array(Vec::new()));
    // One that is written to all the time, with its log, is never taken by halves.
    fs::write(beside(&path, "-wal"), &log).unwrap();
    let (stop, mut taken_again) = (AtomicBool::new(false), false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let open = |path: &std::path::Path| fs::OpenOptions::new().write(true).open(path).unwrap();
            let (database, log) = (open(&path), open(&beside(&path, "-wal")));
            for generation in 0u64.. {
                log.write_all_at(&generation.to_le_bytes(), 100).unwrap();
                database.write_all_at(&generation.to_le_bytes(), 4096).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut ran = world.run(["backup", "--busy-timeout", "500ms", "--json"]);
        // On a busy machine the thread may not write meanwhile; then it is taken as it is now.
        for _ in 0..50 {
            if ran.code != Some(0) {
                break;
            }
            taken_again = true;
            ran = world.run(["backup", "--busy-timeout", "500ms", "--json"]);
        }
        // Whatever came of it: the thread is waited for.
        stop.store(true, Ordering::Relaxed);
        let report: Value = serde_json::from_str(ran.ended(3).text()).unwrap();
        assert_eq!((&report["good"], &report["stale"][0]["path"]), (&true.into(), &"app.db".into()), "{report}");
    });
    world.restore("out");
    if !taken_again {
        assert_eq!(fs::read(world.path("out/app.db")).unwrap(), noise(1, 409_600));
        assert!(!world.path("out/app.db-wal").exists());
    }
}
