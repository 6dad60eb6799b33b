//! Backups under fire: writers in processes of their own move money as fast as they can, with checkpoints and VACUUMs in
//! between, and every snapshot is one committed state from the time of its backup.

use std::ops::RangeInclusive;

use crate::support::bank::{ACCOUNTS, COUNTER, audit, create};
use crate::support::database::{assert_recovers_same, taken};
use crate::support::database_process::{Other, Transfers};
use crate::support::{World, id};

/// Long enough for the lock on a busy database on a busy machine.
const PATIENT: [&str; 3] = ["backup", "--busy-timeout", "120s"];

/// Writers that contend: each syncs in another way, and so takes another time for its transactions.
fn writers(world: &World, mode: &str, round: u64) -> Vec<Other> {
    let path = world.data().join("bank.db");
    let start = |n: u64| {
        // The mode is a connection's own, except for WAL.
        let mode = if mode == "WAL" { String::new() } else { format!("PRAGMA journal_mode={mode}; ") };
        let first = format!("{mode}PRAGMA synchronous={}", ["OFF", "NORMAL", "OFF"][n as usize]);
        Other::transferring(&path, &first, Transfers { seed: round * 10 + n, upkeep: n == 0, ..Transfers::default() })
    };
    (0..3).map(start).collect()
}

fn under_fire(mode: &str) {
    let world = World::new();
    let path = world.data().join("bank.db");
    create(&path, mode, ACCOUNTS, 600);
    let writers = writers(&world, mode, 1);
    let mut watcher = Other::serving(&path, "");
    let mut snapshots: Vec<(String, RangeInclusive<i64>)> = Vec::new();
    // On a busy machine it takes longer for enough to happen.
    for round in 0..100 {
        let before = watcher.ask(COUNTER);
        if round >= 12 && before > 400 {
            break;
        }
        let report = world.json(PATIENT, 0);
        let after = watcher.ask(COUNTER);
        assert_eq!(taken(&report).get("bank.db"), Some(&"live"), "{mode}, round {round}: {report}");
        snapshots.push((id(&report).to_owned(), before..=after));
    }
    let done: Vec<_> = writers.into_iter().map(Other::finish).collect();
    assert!(done.iter().map(|done| done.commits).sum::<u64>() > 400, "{done:?}");
    assert!(done[0].vacuums > 0 && (done[0].checkpoints > 0 || mode != "WAL"), "{done:?}");
    watcher.close();
    for (n, (snapshot, span)) in snapshots.iter().enumerate() {
        let target = format!("back{n}");
        world.restore_snapshot(snapshot, &target);
        let counter = audit(&world.path(target).join("bank.db"));
        assert!(span.contains(&counter), "{mode}, round {n}: {counter} transfers, not {span:?}");
    }
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn in_wal_mode() {
    under_fire("WAL");
}

#[test]
fn in_delete_mode() {
    under_fire("DELETE");
}

#[test]
fn in_truncate_mode() {
    under_fire("TRUNCATE");
}

#[test]
fn in_persist_mode() {
    under_fire("PERSIST");
}

#[test]
fn after_writers_were_killed() {
    let (mut live, mut raw) = (0, 0);
    for mode in ["WAL", "DELETE", "TRUNCATE", "PERSIST"] {
        let world = World::new();
        let path = world.data().join("bank.db");
        create(&path, mode, ACCOUNTS, 600);
        for round in 0..4 {
            let mut writers = writers(&world, mode, round);
            if mode != "WAL" && round % 2 == 1 {
                // A large transaction that spills into the file: killed now, it leaves a journal that must be played back.
                let first = format!("PRAGMA journal_mode={mode}; PRAGMA synchronous=OFF; PRAGMA cache_size=10");
                let mut large = Other::serving(&path, &first);
                large.ask("BEGIN IMMEDIATE");
                large.ask("UPDATE account SET balance = balance + 1, note = randomblob(600)");
                writers.push(large);
            }
            writers.into_iter().rev().for_each(Other::kill);
            let report = world.json(PATIENT, 0);
            match taken(&report)["bank.db"] {
                "live" => live += 1,
                _ => raw += 1,
            }
            let target = format!("back{round}");
            world.restore(&target);
            assert_recovers_same(&world.data(), &world.path(&target), "bank.db");
            audit(&world.path(target).join("bank.db"));
        }
    }
    assert!(live > 0 && raw > 0, "{live} live, {raw} raw");
}
