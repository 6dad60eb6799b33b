//! Tests databases of programs whose write-ahead log is not where the database is found.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::super::locks::lock_holder;
use super::super::side_files::id;
use super::super::usage::is_log_here;
use super::*;
use crate::fs::beneath::Directory;
use crate::path::EntryPath;
use crate::sqlite::locks::LockHolder;
use crate::sqlite::usage::UsageFinder;

fn remove_what_is_beside(path: &Path) {
    for ending in ["-wal", "-shm"] {
        fs::remove_file(beside(path, ending)).unwrap();
    }
}

#[test]
fn a_program_whose_log_is_not_here_is_known_by_its_lock() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("update t set x = x + 1").unwrap();
    remove_what_is_beside(&path);
    let mut live = opened(&path);
    raw_because(live.begin().unwrap_err(), "its write-ahead log (-wal, -shm) is not here");
    // The writer's last commits come into the file when it closes it.
    writer.close();
    let state = live.begin().unwrap();
    assert_eq!(restored(&taken(&live, &state)), (101 * 100, 100));
    assert!(live.end().unwrap());
}

#[test]
fn another_backup_is_not_taken_for_one() {
    let (_folder, path) = database(WAL);
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    let mut other = Peer::start();
    for _ in 0..2 {
        assert_eq!(other.live(&path).unwrap(), "(10000, 100) true true");
    }
    assert_eq!(restored(&taken(&live, &state)), (100 * 100, 100));
    assert!(live.end().unwrap());
}

#[test]
fn a_lock_of_other_bytes_or_none_is_no_program_of_sqlite() {
    let (_folder, path) = database("");
    let file = fs::File::open(&path).unwrap();
    assert_eq!(lock_holder(&file), LockHolder::No);
    let mut peer = Peer::with(&path);
    assert_eq!(lock_holder(&file), LockHolder::No);
    peer.run("begin; select * from t").unwrap();
    assert_eq!(lock_holder(&file), LockHolder::Reading(Some(peer.pid())));
    peer.run("commit; begin exclusive").unwrap();
    assert_eq!(lock_holder(&file), LockHolder::Alone(Some(peer.pid())));
    peer.run("commit").unwrap();
    assert_eq!(lock_holder(&file), LockHolder::No);
}

#[test]
fn a_change_that_comes_without_shared_memory_is_noticed() {
    for changed in ["", "-wal"] {
        let (_folder, path) = database(WAL);
        let mut writer = Peer::with(&path);
        writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
        writer.kill();
        fs::remove_file(beside(&path, "-shm")).unwrap();
        let mut live = opened(&path);
        let first = live.begin().unwrap();
        assert!(live.stands().unwrap());
        assert!(Command::new("touch").arg(beside(&path, changed)).status().unwrap().success());
        assert!(!live.stands().unwrap() && !live.end().unwrap());
        let second = live.begin().unwrap();
        assert_ne!(first.version, second.version);
        assert_eq!(restored(&taken(&live, &second)), (101 * 100, 100));
        assert!(live.end().unwrap());
        // A change between two transactions is noticed by the next one.
        assert!(Command::new("touch").arg(beside(&path, changed)).status().unwrap().success());
        assert_ne!(second.version, live.begin().unwrap().version);
    }
}

#[test]
fn what_its_programs_share_may_be_removed_while_it_is_read() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("update t set x = x + 1").unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert!(live.stands().unwrap() && !state.in_wal.is_empty());
    remove_what_is_beside(&path);
    assert!(!live.stands().unwrap() && !live.end().unwrap());
    raw_because(live.begin().unwrap_err(), "is not here");
    drop(writer);
}

#[test]
fn what_is_empty_beside_one_of_several_names_does_not_make_it_the_one_in_use() {
    let (folder, path) = database(WAL);
    fs::create_dir(folder.path().join("app")).unwrap();
    let theirs = folder.path().join("app/app.db");
    fs::hard_link(&path, &theirs).unwrap();
    let mut writer = Peer::with(&theirs);
    writer.run("update t set x = x + 1").unwrap();
    for ending in ["-journal", "-wal", "-shm"] {
        let left = beside(&path, ending);
        fs::write(&left, "").unwrap();
        raw_because(opened(&path).begin().unwrap_err(), "is not here");
        fs::remove_file(left).unwrap();
    }
    assert!(opened(&theirs).begin().unwrap().logged);
    drop(writer);
}

#[test]
fn one_with_several_names_is_read_live_while_it_is_written_to() {
    for setup in ["", WAL] {
        let (folder, path) = database(setup);
        fs::hard_link(&path, folder.path().join("other.db")).unwrap();
        let mut writer = Peer::with(&path);
        for n in 1..4 {
            writer.run("update t set x = x + 1").unwrap();
            assert_eq!(state_of(&mut opened(&path)), ((100 + n) * 100, 100));
        }
    }
}

#[test]
fn a_log_that_is_not_the_one_that_its_programs_write_to_is_known_by_their_index() {
    let emptied = |wal: &Path| fs::File::options().write(true).open(wal).unwrap().set_len(0).unwrap();
    let cut = |wal: &Path| {
        let wal = fs::File::options().write(true).open(wal).unwrap();
        wal.set_len(wal.metadata().unwrap().len() - 1).unwrap();
    };
    let replaced = |wal: &Path| {
        fs::remove_file(wal).unwrap();
        fs::write(wal, "").unwrap();
    };
    let by_an_older_copy = |wal: &Path| {
        let stride = 24 + 4096;
        let bytes = fs::read(wal).unwrap();
        fs::remove_file(wal).unwrap();
        fs::write(wal, &bytes[..bytes.len() - stride]).unwrap();
    };
    for change in [&emptied as &dyn Fn(&Path), &cut, &replaced, &by_an_older_copy] {
        let (_folder, path) = database(WAL);
        let mut writer = Peer::with(&path);
        writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
        assert!(is_log_here(&at(&path)).unwrap());
        change(&beside(&path, "-wal"));
        raw_because(opened(&path).begin().unwrap_err(), "is not here");
        assert!(!is_log_here(&at(&path)).unwrap());
        drop(writer);
    }
}

#[test]
fn an_index_that_a_writer_does_not_share_is_known_by_its_own() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
    fs::remove_file(beside(&path, "-shm")).unwrap();
    let mut reader = Peer::with(&path);
    assert_eq!(reader.ask("select sum(x) from t"), "10100");
    // Programs that share the index do not see what the writer commits from now on.
    writer.run("update t set x = x + 1").unwrap();
    raw_because(opened(&path).begin().unwrap_err(), "is not here");
    assert!(!is_log_here(&at(&path)).unwrap());
    drop((writer, reader));
}

#[test]
fn what_follows_in_the_log_is_not_committed_and_is_looked_at_again() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("pragma wal_autocheckpoint = 0; pragma cache_size = 5; update t set x = x + 1").unwrap();
    let mut live = opened(&path);
    assert!(!live.begin().unwrap().pending);
    assert!(live.end().unwrap());
    // Pages go into the log before there is a commit, since the cache is small, and stay there.
    writer.run("begin; update t set padding = randomblob(700); rollback").unwrap();
    let state = live.begin().unwrap();
    assert_eq!((restored(&taken(&live, &state)), state.pending), ((101 * 100, 100), false));
    assert!(live.end().unwrap());
    // The end of a transaction that its writer has not entered into the index, since the transaction is still on its
    // way to the disk, or the writer died.
    let wal = fs::File::options().read(true).write(true).open(beside(&path, "-wal")).unwrap();
    let mut index = [0; 4];
    fs::File::open(beside(&path, "-shm")).unwrap().read_exact_at(&mut index, 16).unwrap();
    let size_of_database = 32 + u64::from(u32::from_ne_bytes(index)) * (24 + 4096) + 4;
    wal.write_all_at(&30u32.to_be_bytes(), size_of_database).unwrap();
    let state = live.begin().unwrap();
    assert_eq!((restored(&taken(&live, &state)), state.pending), ((101 * 100, 100), true));
    assert!(live.end().unwrap());
    writer.run("begin; update t set padding = randomblob(700); update t set x = x + 1; commit").unwrap();
    let state = live.begin().unwrap();
    assert_eq!((restored(&taken(&live, &state)), state.pending), ((102 * 100, 100), false));
    assert!(live.end().unwrap());
    // A log that has begun again has nothing to do with what is left of the one before.
    assert_eq!(writer.ask("pragma wal_checkpoint(restart)"), "0");
    let state = live.begin().unwrap();
    assert_eq!((restored(&taken(&live, &state)), state.pending), ((102 * 100, 100), false));
    assert!(live.end().unwrap());
    writer.close();
}

#[test]
fn the_first_commit_to_an_emptied_log_is_looked_at_again_until_it_is_in_the_index() {
    let (_folder, path) = database(WAL);
    let mut other = Peer::with(&path);
    let mut writer = Peer::with(&path);
    assert_eq!(writer.ask("select sum(x) from t"), "10000");
    other.run("update t set x = x + 1").unwrap();
    assert_eq!(other.ask("pragma wal_checkpoint(truncate)"), "0");
    // The writer has not restarted a log itself: it makes up salts of its own.
    let shm = fs::File::options().read(true).write(true).open(beside(&path, "-shm")).unwrap();
    let mut emptied = [0; 2 * 48];
    shm.read_exact_at(&mut emptied, 0).unwrap();
    writer.run("update t set x = x + 1").unwrap();
    let mut entered = [0; 2 * 48];
    shm.read_exact_at(&mut entered, 0).unwrap();
    for (index, sum, pending) in [(emptied, 101, true), (entered, 102, false)] {
        shm.write_all_at(&index, 0).unwrap();
        let mut live = opened(&path);
        let state = live.begin().unwrap();
        assert_eq!((restored(&taken(&live, &state)), state.pending), ((sum * 100, 100), pending));
        assert!(live.end().unwrap());
    }
    // No commit is left to be entered.
    assert_eq!(writer.ask("pragma wal_checkpoint(truncate)"), "0");
    assert!(!opened(&path).begin().unwrap().pending);
    drop((writer, other));
}

#[test]
fn a_log_that_is_cut_while_it_is_read_is_noticed() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
    let mut live = opened(&path);
    live.begin().unwrap();
    fs::File::options().write(true).open(beside(&path, "-wal")).unwrap().set_len(0).unwrap();
    assert!(!live.end().unwrap());
    drop(writer);
}

#[test]
fn a_hole_in_a_log_is_noticed() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1; update t set x = x + 1").unwrap();
    let wal = fs::File::options().write(true).open(beside(&path, "-wal")).unwrap();
    wal.write_all_at(&[0; 24], 32 + 2 * (24 + 4096)).unwrap();
    raw_because(opened(&path).begin().unwrap_err(), "is not here");
    assert!(!is_log_here(&at(&path)).unwrap());
    drop(writer);
}

#[test]
fn of_two_that_write_to_logs_of_their_own_one_is_elsewhere() {
    let (_folder, path) = database(WAL);
    let mut first = Peer::with(&path);
    first.run("update t set x = x + 1").unwrap();
    remove_what_is_beside(&path);
    let mut second = Peer::with(&path);
    assert_eq!(second.ask("select count(*) from t"), "100");
    raw_because(opened(&path).begin().unwrap_err(), "is not here");
    assert!(!is_log_here(&at(&path)).unwrap());
    drop((first, second));
}

#[test]
fn one_that_is_used_elsewhere_is_found_among_others() {
    let (folder, path) = database(WAL);
    let other = folder.path().join("other.db");
    fs::copy(&path, &other).unwrap();
    let (root, elsewhere) = (Directory::open(folder.path()).unwrap(), UsageFinder::default());
    let is_used = |path: &Path| {
        let name = EntryPath::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
        elsewhere.is_used(&root, &name, id(&status(path).unwrap().unwrap()))
    };
    assert!(!is_used(&path) && !is_used(&other));
    let opened = |path: &Path| {
        let mut peer = Peer::with(path);
        peer.run("update t set x = x + 1").unwrap();
        peer
    };
    let (first, second) = (opened(&path), opened(&other));
    assert!(!is_used(&path) && !is_used(&other));
    // One program follows the other, and the list of locks is still that of a moment ago.
    second.kill();
    let second = opened(&other);
    assert!(!is_used(&path) && !is_used(&other));
    remove_what_is_beside(&path);
    assert!(is_used(&path) && !is_used(&other));
    drop((first, second));
}

#[test]
fn one_that_may_only_read_needs_no_index_and_keeps_nothing_from_being_read() {
    let (folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
    writer.kill();
    for beside in [path.clone(), beside(&path, "-wal"), beside(&path, "-shm"), folder.path().into()] {
        let mode = if beside == folder.path() { 0o555 } else { 0o444 };
        fs::set_permissions(beside, fs::Permissions::from_mode(mode)).unwrap();
    }
    let everybody = tempfile::tempdir().unwrap();
    fs::set_permissions(everybody.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut reader = Peer::nobody(everybody.path());
    reader.open(&path);
    reader.run("begin").unwrap();
    assert_eq!(reader.ask("select sum(x) from t"), "10100");
    assert_eq!(state_of(&mut opened(&path)), (101 * 100, 100));
    drop(reader);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}
