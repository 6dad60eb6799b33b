//! Tests databases of other users, with few rights.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Makes a database, and a process that may do with it and its folder what these modes allow.
fn shared(setup: &str, folder_mode: u32, mode: u32) -> (TempDir, TempDir, PathBuf, Peer) {
    let program = tempfile::tempdir().unwrap();
    fs::set_permissions(program.path(), Permissions::from_mode(0o755)).unwrap();
    let (folder, path) = database(setup);
    let peer = Peer::nobody(program.path());
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(folder_mode)).unwrap();
    (program, folder, path, peer)
}

#[test]
fn a_journal_needs_no_right_but_to_read() {
    let (_program, _folder, path, mut peer) = shared("", 0o555, 0o444);
    assert_eq!(peer.live(&path).unwrap(), "(10000, 100) false true");
}

/// Gives a file to the user that [`Peer::nobody`] runs as.
fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
    }
}

#[test]
fn a_log_that_nobody_has_open_needs_no_right_but_to_read() {
    for (folder_mode, mode, theirs) in
        [(0o777, 0o666, false), (0o777, 0o666, true), (0o777, 0o444, true), (0o555, 0o444, true)]
    {
        for left_log in [false, true] {
            let (_program, folder, path, mut peer) = shared(WAL, 0o755, 0o644);
            if left_log {
                let mut writer = Peer::with(&path);
                writer.run("update t set x = x + 1").unwrap();
                writer.kill();
                fs::remove_file(beside(&path, "-shm")).unwrap();
                fs::set_permissions(beside(&path, "-wal"), Permissions::from_mode(mode)).unwrap();
            }
            if theirs {
                give(&path);
            }
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(folder.path(), Permissions::from_mode(folder_mode)).unwrap();
            let before = Peer::start().look(folder.path());
            let sum = if left_log { 10_100 } else { 10_000 };
            assert_eq!(
                peer.live(&path).unwrap(),
                format!("({sum}, 100) true true"),
                "{folder_mode:o} {mode:o} {theirs}"
            );
            assert_eq!(before, Peer::start().look(folder.path()));
        }
    }
}

#[test]
fn what_others_have_beside_it_stays_theirs() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("update t set x = x + 1").unwrap();
    assert_eq!(writer.ask("pragma wal_checkpoint(truncate)"), "0");
    // The side files belong to another group, which may do more with them than with the database.
    for ending in ["-wal", "-shm"] {
        fs::set_permissions(beside(&path, ending), Permissions::from_mode(0o660)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(beside(&path, ending), Some(1234), Some(1234)).unwrap();
        }
    }
    let look = || {
        ["-wal", "-shm"].map(|ending| {
            let meta = fs::metadata(beside(&path, ending)).unwrap();
            (meta.mode(), meta.uid(), meta.gid(), meta.ctime(), meta.ctime_nsec())
        })
    };
    let before = look();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!(restored(&taken(&live, &state)), (101 * 100, 100));
    drop(live);
    // The times of the shared memory are left out, since it is written to.
    let times_aside = |all: [(u32, u32, u32, i64, i64); 2]| (all[0], (all[1].0, all[1].1, all[1].2));
    assert_eq!(times_aside(look()), times_aside(before));
}

#[test]
fn the_log_of_a_living_writer_needs_no_right_but_to_read() {
    let (_program, folder, path, mut peer) = shared(WAL, 0o755, 0o644);
    let mut writer = Peer::with(&path);
    writer.run("update t set x = x + 1").unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).unwrap();
    for ending in ["", "-wal", "-shm"] {
        fs::set_permissions(beside(&path, ending), Permissions::from_mode(0o444)).unwrap();
    }
    assert_eq!(peer.live(&path).unwrap(), "(10100, 100) true true");
    writer.run("update t set x = x + 1").unwrap();
    // Nobody is left who would keep the shared memory: SQLite rebuilds the index in its own.
    writer.kill();
    assert_eq!(peer.live(&path).unwrap(), "(10200, 100) true true");
}

#[test]
fn what_may_not_be_read_fails() {
    let (_program, _folder, path, mut peer) = shared("", 0o777, 0o000);
    let why = peer.live(&path).unwrap_err();
    assert!(why.starts_with("Failed(") && why.contains("Permission denied"), "{why}");
}
