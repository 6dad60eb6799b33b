//! Databases that others keep to themselves: after a time they are as they were before, or raw with their log.

use std::fs;
use std::process::Stdio;

use crate::support::bank::{COUNTER, audit, create};
use crate::support::database::{assert_recovers_same, beside, number as ask, run, table, taken};
use crate::support::database_process::{Other, Transfers};
use crate::support::{World, number, paths, short};

/// Ways of an app to keep everybody else out: a name, its first SQL, and its SQL after that.
const KEEPERS: [(&str, &str, &str); 3] = [
    ("an exclusive transaction", "", "BEGIN EXCLUSIVE"),
    ("exclusive locking", "PRAGMA locking_mode=EXCLUSIVE", "UPDATE t SET x = x WHERE id = 1"),
    (
        "a WAL without shared memory",
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL",
        "UPDATE t SET x = x WHERE id = 1",
    ),
];

#[test]
fn a_busy_database_is_as_it_was_or_raw_and_the_next_backup_has_it() {
    for (what, first, then) in KEEPERS {
        let world = World::new();
        let path = world.data().join("busy.db");
        run(&path, &table(2000, 1000));
        run(&world.data().join("other.db"), &table(10, 100));
        world.write("a.txt", "text");
        world.backup();

        let mut keeper = Other::serving(&path, first);
        keeper.ask(then);
        // Without a log beside it, half of a transaction may be in it.
        let logged = ["-journal", "-wal"].iter().any(|side| beside(&path, side).exists());
        let code = if logged { 0 } else { 3 };
        let report = world.json(["backup", "--busy-timeout", "300ms", "--verify-content"], code);
        assert_eq!((&report["good"], &report["whole"]), (&true.into(), &logged.into()), "{what}: {report}");
        assert_eq!(report["errors"].as_array().unwrap().len(), 0, "{what}: {report}");
        assert_eq!(report["stale"][0]["path"] == "busy.db", !logged, "{what}: {report}");
        let listing = world.json(["ls", short(&report)], 0);
        assert!(
            ["a.txt", "busy.db", "other.db"].iter().all(|path| paths(&listing).contains(path)),
            "{what}: {listing}"
        );

        keeper.close();
        let report = world.backup();
        assert_eq!(taken(&report)["busy.db"], "live", "{what}: {report}");
        assert!(number(&report, "uploaded_bytes") < 64 << 10, "{what}: {report}");
        world.restore("back");
        assert_recovers_same(&world.data(), &world.path("back"), "busy.db");
    }
}

#[test]
fn a_database_that_is_busy_for_a_while_is_waited_for() {
    let world = World::new();
    let path = world.data().join("busy.db");
    run(&path, &table(100, 1000));
    let mut keeper = Other::serving(&path, "");
    keeper.ask("BEGIN EXCLUSIVE");
    keeper.ask("DELETE FROM t WHERE id <= 50");
    let backup = std::thread::scope(|scope| {
        let backup = scope.spawn(|| world.json(["backup", "--busy-timeout", "120s"], 0));
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert!(!backup.is_finished(), "it did not wait");
        keeper.ask("COMMIT");
        backup.join().unwrap()
    });
    assert_eq!(taken(&backup)["busy.db"], "live");
    world.restore("back");
    assert_eq!(ask(&world.path("back/busy.db"), "SELECT count(*) FROM t"), 50);
}

#[test]
fn a_large_database_that_is_written_to_all_the_time_is_taken_live() {
    let world = World::new();
    let path = world.data().join("app.db");
    world.write("other.txt", "x");
    let mut app = Other::serving(&path, &format!("PRAGMA journal_mode=WAL; {}", table(8000, 4000)));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                app.ask(&format!("UPDATE t SET x = randomblob(4000) WHERE id = {}", 1 + n % 8000));
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        for round in 0..2 {
            let report = world.json(["backup"], 0);
            assert_eq!((&report["whole"], taken(&report)["app.db"]), (&true.into(), "live"), "{report}");
            assert_eq!(report["warnings"].as_array().unwrap().len(), 0, "{report}");
            world.restore(&format!("out{round}"));
            assert_eq!(ask(&world.path(format!("out{round}/app.db")), "SELECT count(*) FROM t"), 8000);
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    app.close();
    world.run(["verify", "--databases"]).ended(0);
}

#[test]
fn many_busy_databases_do_not_add_up() {
    let world = World::new();
    let mut keepers = Vec::new();
    for n in 0..3 {
        let path = world.data().join(format!("{n}.db"));
        run(&path, &table(10, 100));
        keepers.push(Other::serving(&path, "BEGIN EXCLUSIVE"));
    }
    // Nothing good is known of them.
    let report = world.json(["backup", "--busy-timeout", "300ms"], 3);
    let failed: Vec<_> =
        report["databases"].as_array().unwrap().iter().map(|d| d["check"]["failed"].as_str()).collect();
    assert!(failed.len() == 3 && failed.iter().all(|why| why.unwrap().contains("keeps it locked")), "{report}");
    assert_eq!(report["good"], false);
    keepers.into_iter().for_each(Other::close);
    assert_eq!(taken(&world.backup()).len(), 3);
}

#[test]
fn a_database_that_is_replaced_during_the_backup_is_one_or_the_other() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let banks = [world.path("one.db"), world.path("two.db")];
    for (bank, transfers) in banks.iter().zip([3, 7]) {
        create(bank, "DELETE", 3000, 600);
        let mut clerk = Other::serving(bank, "");
        for n in 1..=transfers {
            clerk.ask(&format!("INSERT INTO ledger VALUES ({n}, 1, 2, 1)"));
            clerk.ask("UPDATE counter SET n = n + 1");
            clerk.ask(&format!("UPDATE account SET balance = balance - 1, stamp = {n} WHERE id = 1"));
            clerk.ask(&format!("UPDATE account SET balance = balance + 1, stamp = {n} WHERE id = 2"));
        }
        clerk.close();
    }
    let path = world.data().join("bank.db");
    fs::copy(&banks[0], &path).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let reports = std::thread::scope(|scope| {
        scope.spawn(|| {
            for bank in banks.iter().cycle() {
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                fs::copy(bank, world.path("new.db")).unwrap();
                fs::rename(world.path("new.db"), &path).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        let reports: Vec<_> = (0..12).map(|_| world.run(["backup", "--json", "--verify-content"])).collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        reports
    });
    let mut whole = 0;
    for (n, ran) in reports.iter().enumerate() {
        let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        let lost = report["errors"].as_array().unwrap().iter().any(|e| e["path"] == "bank.db");
        ran.ended(if lost { 3 } else { 0 });
        if lost {
            continue;
        }
        whole += 1;
        let target = format!("back{n}");
        world.restore_snapshot(short(&report), &target);
        let counter = audit(&world.path(target).join("bank.db"));
        assert!([3, 7].contains(&counter), "round {n}: {counter}");
    }
    assert!(whole > 0, "{reports:?}");
    // Replaced for good, it is simply another file.
    assert_eq!(ask(&path, COUNTER), {
        world.backup();
        world.restore("last");
        audit(&world.path("last/bank.db"))
    });
}

#[test]
fn a_database_that_is_deleted_and_made_again_during_the_backup() {
    let world = World::new();
    let path = world.data().join("bank.db");
    for mode in ["DELETE", "WAL"] {
        create(&path, mode, 500, 600);
        let writer =
            Other::transferring(&path, "PRAGMA synchronous=OFF", Transfers { seed: 1, ..Transfers::default() });
        let mut backup = world.command(["backup", "-q"]).stderr(Stdio::null()).spawn().unwrap();
        writer.kill();
        for side in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(crate::support::database::beside(&path, side));
        }
        create(&path, mode, 500, 600);
        // Gone, there, or a problem; what is in the snapshot is one committed state all the same.
        let code = backup.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 3)), "{mode}: {code:?}");
        world.backup();
        let target = format!("back {mode}");
        world.restore(&target);
        assert_eq!(audit(&world.path(target).join("bank.db")), 0, "{mode}");
        fs::remove_dir_all(world.data()).unwrap();
    }
}
