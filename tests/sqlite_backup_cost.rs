//! The cost of a backup of a database: only what has changed is read and written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::compare::assert_same_but_folder_times;
use crate::support::database::{assert_recovers_same, number as ask, orders, run, table, taken};
use crate::support::database_process::Other;
use crate::support::seeded_random::Dice;
use crate::support::tree::set_mtime;
use crate::support::{World, number};

/// Bytes that a root, an index and what belongs to them may take beside the pages.
const BESIDE: u64 = 16 << 10;

/// Returns a file's pages that are not as they were, one after the other.
fn changed(was: &[u8], is: &[u8], page: usize) -> Vec<u8> {
    let changed = |n: usize, now: &[u8]| was.get(n * page..).is_none_or(|was| !was.starts_with(now));
    is.chunks(page).enumerate().filter(|(n, now)| changed(*n, now)).flat_map(|(_, now)| now.to_vec()).collect()
}

/// Updates some rows, spread at random.
fn update(path: &Path, rows: u64, seed: u64) {
    let top = ask(path, "SELECT max(id) FROM orders") as u64;
    let mut dice = Dice(seed);
    let mut sql = String::from("PRAGMA synchronous=OFF; BEGIN;");
    for _ in 0..rows {
        let (amount, id) = (dice.roll(1_000_000_000), dice.roll(top) + 1);
        sql.push_str(&format!("UPDATE orders SET amount = {amount} / 1e5 WHERE id = {id};"));
    }
    run(path, &(sql + "COMMIT;"));
}

/// Asserts what one backup sent: the changed pages, compressed as zstd does it by default, and little else.
#[track_caller]
fn assert_small(report: &Value, changed: &[u8]) {
    let compressed = zstd::bulk::compress(changed, 3).unwrap().len() as u64;
    let sent = number(report, "uploaded_bytes");
    assert!(
        sent <= compressed * 3 / 2 + BESIDE,
        "{sent} bytes sent for {} changed ones, {compressed} compressed",
        changed.len()
    );
}

#[test]
fn one_percent_of_the_pages_costs_one_percent() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new();
        fs::create_dir_all(world.data()).unwrap();
        let path = world.data().join("orders.db");
        orders(&path, 4096, 30_000_000);
        run(&path, &format!("PRAGMA journal_mode={mode}"));
        let first = world.backup();
        let size = number(&first, "bytes");
        assert!(size > 25_000_000, "{first}");
        for round in 0..3 {
            let was = fs::read(&path).unwrap();
            update(&path, size / 4096 / 100, round);
            let changed = changed(&was, &fs::read(&path).unwrap(), 4096);
            assert!(changed.len() > 200_000, "{} bytes changed", changed.len());
            let report = world.backup();
            assert_small(&report, &changed);
            // The file once, and nothing of it twice.
            assert!(number(&report, "read_bytes") <= size + size / 10, "{report}");
        }
        world.restore("back");
        assert_same_but_folder_times(&world.data(), &world.path("back"));
        world.run(["verify", "--read-data"]).ended(0);
    }
}

#[test]
fn appended_rows_cost_their_own_pages() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let path = world.data().join("orders.db");
    orders(&path, 4096, 8_000_000);
    world.backup();
    for round in 0..3 {
        let was = fs::read(&path).unwrap();
        run(&path, "INSERT INTO orders SELECT NULL, customer, note, amount, at FROM orders LIMIT 1000");
        let report = world.backup();
        assert_small(&report, &changed(&was, &fs::read(&path).unwrap(), 4096));
        let target = format!("back{round}");
        world.restore(&target);
        assert_same_but_folder_times(&world.data(), &world.path(&target));
    }
}

#[test]
fn an_unchanged_database_is_not_read() {
    let world = World::new();
    let at_rest = ["rollback.db", "closed.db"];
    run(&world.data().join("rollback.db"), &table(1000, 1000));
    run(&world.data().join("closed.db"), &format!("PRAGMA journal_mode=WAL; {}", table(1000, 1000)));
    let used = world.data().join("used.db");
    let first = format!("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; {}", table(1000, 1000));
    let app = Other::serving(&used, &first);
    for name in at_rest.iter().chain(&["used.db", "used.db-wal"]) {
        set_mtime(&world.data().join(name), 1_700_000_000, 5);
    }
    world.backup();
    let read: Vec<_> = (0..6)
        .map(|_| {
            let report = world.backup();
            assert_eq!(taken(&report).len(), 3, "those that were not read are in the report all the same: {report}");
            assert!(number(&report, "uploaded_bytes") < BESIDE, "{report}");
            number(&report, "read_bytes")
        })
        .collect();
    // One backup in 64 reads it all the same, to make sure.
    assert!(read.iter().filter(|read| **read == 0).count() >= 3, "{read:?}");
    world.restore("back");
    assert_recovers_same(&world.data(), &world.path("back"), "used.db");
    app.close();
}

#[test]
fn a_change_in_the_wal_alone_is_seen() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let path = world.data().join("app.db");
    let first = format!("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; {}", table(1000, 1000));
    let mut app = Other::serving(&path, &first);
    app.ask("PRAGMA wal_checkpoint(RESTART)");
    for round in 0..5 {
        set_mtime(&path, 1_700_000_000, 5);
        world.backup();
        // The WAL begins again in its old place: its size stays, and the database is not touched.
        app.ask(&format!("UPDATE t SET x = {round} WHERE id = 500"));
        world.backup();
        let target = format!("back{round}");
        world.restore(&target);
        let found = ask(&world.path(target).join("app.db"), "SELECT x FROM t WHERE id = 500");
        assert_eq!(found, round);
        app.ask("PRAGMA wal_checkpoint(RESTART)");
    }
    app.close();
}

#[test]
fn five_hundred_databases() {
    let world = World::new();
    let path = |n: u64| world.data().join(format!("{:02}/{n}.sqlite", n % 25));
    for n in 0..500 {
        let mode = if n % 5 == 0 { "WAL" } else { "DELETE" };
        run(&path(n), &format!("PRAGMA synchronous=OFF; PRAGMA journal_mode={mode}; {}", table(n % 30 + 1, 300)));
    }
    let first = world.backup();
    assert_eq!(taken(&first).values().filter(|taken| **taken == "live").count(), 500);
    world.restore("back");
    assert_same_but_folder_times(&world.data(), &world.path("back"));
    for n in [3, 100, 250, 251, 499] {
        run(&path(n), "INSERT INTO t(x) VALUES (randomblob(300))");
    }
    let second = world.backup();
    assert_eq!(taken(&second).len(), 500);
    assert!(number(&second, "uploaded_bytes") < 100_000, "{second}");
    world.restore("back2");
    assert_same_but_folder_times(&world.data(), &world.path("back2"));
    let left: BTreeSet<_> = fs::read_dir(world.data().join("00")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 20, "{left:?}");
    world.run(["verify", "--read-data"]).ended(0);
}
