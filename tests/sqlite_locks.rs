//! The lock that vanishes: closing any descriptor of a database drops all POSIX locks that its process has on it. So several
//! backups of one directory within one process must not get into each other's way.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lastgood::backup::options::BackupOptions;
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;

use crate::support::World;
use crate::support::bank::{ACCOUNTS, COUNTER, audit, create};
use crate::support::database_process::{Other, Transfers};
use crate::support::slow::{backup, backup_as, vault};

/// The act of the other backup of the same directory in the same process.
#[derive(PartialEq)]
enum Beside {
    /// It takes the database live too.
    Live,
    /// It copies database, WAL and shared memory as files.
    Files,
}

/// Takes a snapshot; its name, with the number of transfers before and after.
fn take(vault: &Vault, data: &Path, watcher: &Mutex<Other>) -> (String, i64, i64) {
    let counter = || watcher.lock().unwrap().ask(COUNTER);
    let before = counter();
    let report = backup(vault, data);
    assert!(report.warnings.is_empty() && report.errors.is_empty(), "{report:?}");
    (report.snapshot.to_string(), before, counter())
}

/// Two at once, each again and again; in the end every live snapshot is one committed state.
fn two_at_once(mode: &str, beside: Beside) {
    let world = World::new();
    let path = world.data().join("bank.db");
    create(&path, mode, ACCOUNTS, 600);
    let vaults = ["a", "b"].map(|name| vault(LocalStore::new(world.path(name))));
    let first = if mode == "WAL" { String::new() } else { format!("PRAGMA journal_mode={mode}; ") };
    let writer = |n| {
        // A VACUUM or a checkpoint that goes through in the middle of a read is what a lost lock lets happen.
        let transfers = Transfers { seed: n, upkeep: true, rest: 300, ..Transfers::default() };
        Other::transferring(&path, &format!("{first}PRAGMA synchronous=OFF"), transfers)
    };
    let writers: Vec<_> = (0..2).map(writer).collect();
    let watcher = Mutex::new(Other::serving(&path, ""));
    let over = AtomicBool::new(false);
    let data = world.data();
    let taken = std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            let taken: Vec<_> = (0..16).map(|_| take(&vaults[0], &data, &watcher)).collect();
            over.store(true, Ordering::Relaxed);
            taken
        });
        let (mut other, mut files) = (Vec::new(), 0);
        while !over.load(Ordering::Relaxed) && !one.is_finished() {
            if beside == Beside::Live {
                other.push(take(&vaults[1], &data, &watcher));
                continue;
            }
            let options = BackupOptions {
                data: data.clone(),
                sqlite: false,
                verify_content: true,
                accept_shrink: true,
                ..BackupOptions::default()
            };
            backup_as(&vaults[1], options);
            files += 1;
        }
        assert!(other.len() + files >= 2, "there was nothing beside it");
        [one.join().unwrap(), other]
    });
    let done: Vec<_> = writers.into_iter().map(Other::finish).collect();
    assert!(done.iter().all(|done| done.commits > 0), "{done:?}");
    watcher.into_inner().unwrap().close();
    for (vault, taken) in ["a", "b"].iter().zip(&taken) {
        for (n, (snapshot, before, after)) in taken.iter().enumerate() {
            let target = format!("{vault}{n}");
            world.json(["restore", &target, "--vault", vault, "--snapshot", snapshot], 0);
            let counter = audit(&world.path(target).join("bank.db"));
            assert!((before..=after).contains(&&counter), "{mode}, {vault}{n}: {counter}, not {before} to {after}");
        }
    }
}

#[test]
fn two_live_backups_in_one_process_in_wal_mode() {
    two_at_once("WAL", Beside::Live);
}

#[test]
fn two_live_backups_in_one_process_in_rollback_mode() {
    two_at_once("DELETE", Beside::Live);
}

#[test]
fn a_live_backup_beside_one_of_files_in_wal_mode() {
    two_at_once("WAL", Beside::Files);
}

#[test]
fn a_live_backup_beside_one_of_files_in_rollback_mode() {
    two_at_once("TRUNCATE", Beside::Files);
}
