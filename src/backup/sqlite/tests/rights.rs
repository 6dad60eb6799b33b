//! Databases of others, of which little is allowed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::super::peer::Peer;
use super::*;

const WAL: &str = "pragma journal_mode = wal";

/// A database, and a process that may do with it and its folder what these modes say.
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
    assert_eq!(peer.live(&path).unwrap(), "(10000, 100) false Ok(())");
}

/// Gives a file to the user that [`Peer::nobody`] is.
fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
    }
}

#[test]
fn a_log_of_another_user_is_not_read_with_files_that_are_not_theirs() {
    let (_program, folder, path, mut peer) = shared(WAL, 0o777, 0o666);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let why = peer.live(&path).unwrap_err();
    assert!(why.starts_with("Raw(") && why.contains("belongs to another user"), "{why}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_log_needs_files_beside_it() {
    let (_program, folder, path, mut peer) = shared(WAL, 0o555, 0o666);
    give(&path);
    let why = peer.live(&path).unwrap_err();
    assert!(why.starts_with("Raw(") && why.contains("cannot be created"), "{why}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn files_that_cannot_be_removed_safely_are_named() {
    let (_program, folder, path, mut peer) = shared(WAL, 0o777, 0o444);
    give(&path);
    let said = peer.live(&path).unwrap();
    assert!(said.starts_with("(10000, 100) true Err(") && said.contains("does no harm: Permission denied"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
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
    assert_eq!(peer.live(&path).unwrap(), "(10100, 100) true Ok(())");
    writer.run("update t set x = x + 1").unwrap();
    // Nobody is left who would keep the shared memory: SQLite rebuilds it in its own.
    writer.kill();
    assert_eq!(peer.live(&path).unwrap(), "(10200, 100) true Ok(())");
}

#[test]
fn what_may_not_be_read_fails() {
    let (_program, _folder, path, mut peer) = shared("", 0o777, 0o000);
    let why = peer.live(&path).unwrap_err();
    assert!(why.starts_with("Failed(") && why.contains("Permission denied"), "{why}");
}
