//! The files beside a database while it is backed up: they come and go with apps that open and close it, with
//! other backups, with changes of the journal mode, with kills.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bank::{COUNTER, audit, create};
use crate::support::database::taken;
use crate::support::database_process::{Other, Transfers, open, patiently};
use crate::support::{Ran, World, id};

/// Returns how many transfers there were, over a connection for this moment.
fn counter(path: &Path) -> i64 {
    let db = open(path);
    patiently(|| db.query_row(COUNTER, [], |row| row.get(0)))
}

/// Takes snapshots with writers beside, several processes at a time; every snapshot must be one committed state.
fn with(mode: &str, writers: &[Transfers], at_once: usize) -> Vec<u64> {
    let world = World::new();
    let path = world.data().join("bank.db");
    create(&path, mode, 1000, 600);
    let start = |transfers: &Transfers| Other::transferring(&path, "PRAGMA synchronous=OFF", transfers.clone());
    let writers: Vec<_> = writers.iter().map(start).collect();
    let mut snapshots = Vec::new();
    for round in 0..15 {
        let before = counter(&path);
        let start = |n: usize| {
            let vault = format!("vault{n}");
            let mut command =
                world.command(["backup", "--json", "--busy-timeout", "120s", "--init", "--vault", &vault]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let running: Vec<_> = (0..at_once).map(start).collect();
        for (n, child) in running.into_iter().enumerate() {
            let ended = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
            let ran = Ran { code: ended.status.code(), stdout: ended.stdout, stderr };
            let report: Value = serde_json::from_slice(&ran.ended(0).stdout).unwrap();
            assert_eq!(taken(&report)["bank.db"], "live", "round {round}: {report}");
            assert_eq!(report["warnings"], json!([]), "round {round}");
            snapshots.push((n, id(&report).to_owned(), before..=counter(&path)));
        }
    }
    let done: Vec<_> = writers.into_iter().map(Other::finish).collect();
    for (nth, (n, snapshot, span)) in snapshots.iter().enumerate() {
        let target = format!("back{nth}");
        let vault = format!("vault{n}");
        world.json(["restore", &target, "--vault", &vault, "--snapshot", snapshot], 0);
        let counter = audit(&world.path(target).join("bank.db"));
        assert!(span.contains(&counter), "{nth}: {counter} transfers, not {span:?}");
    }
    audit(&path);
    done.iter().map(|done| done.switches).collect()
}

/// Starts a writer that opens the database for each transaction and closes it again: in WAL mode the side files come and go.
fn short_lived(seed: u64) -> Transfers {
    Transfers { seed, reopens: true, rest: 200, ..Transfers::default() }
}

#[test]
fn connections_that_live_for_one_transaction() {
    with("WAL", &[short_lived(1)], 1);
}

#[test]
fn several_backups_and_short_connections() {
    with("WAL", &[short_lived(2), short_lived(3)], 3);
}

#[test]
fn a_journal_mode_that_changes() {
    let switches = Transfers { seed: 4, switches: true, rest: 200, ..Transfers::default() };
    let done = with("WAL", &[switches], 2);
    assert!(done[0] > 0, "the mode never changed");
}

#[test]
fn killed_backups_harm_no_database() {
    let world = World::new();
    let path = world.data().join("bank.db");
    for (round, mode) in ["WAL", "DELETE"].into_iter().enumerate() {
        let _ = std::fs::remove_dir_all(world.data());
        create(&path, mode, 4000, 600);
        // At first nobody uses it: what the killed ones leave beside it is all there is.
        for n in 0..12 {
            let writer = (n >= 6).then(|| {
                let transfers = Transfers { seed: n, upkeep: true, ..Transfers::default() };
                Other::transferring(&path, "PRAGMA synchronous=OFF", transfers)
            });
            let mut command = world.command(["backup", "--verify-content"]);
            let mut backup = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(3 * (n % 6) + 2));
            backup.kill().unwrap();
            backup.wait().unwrap();
            writer.map(Other::finish);
        }
        let report = world.backup();
        assert_eq!(taken(&report)["bank.db"], "live", "{report}");
        let target = format!("back{round}");
        world.restore(&target);
        assert_eq!(audit(&world.path(target).join("bank.db")), audit(&path));
    }
}
