//! Tests databases with a write-ahead log.

use std::thread;

use super::*;
use crate::sqlite::fd_registry::try_lock_inode;
use crate::sqlite::side_files::id;

#[test]
fn a_closed_database_is_its_file_and_nothing_stays_beside_it() {
    the_file_is_the_state(WAL, true);
}

#[test]
fn a_writer_never_waits_and_what_it_does_is_not_seen() {
    let (folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    let write = "update t set x = x + 1";
    writer.run(write).unwrap();
    let mut live = opened(&path);
    let first = live.begin().unwrap();
    writer.run(write).unwrap();
    assert_eq!(restored(&taken(&live, &first)), (101 * 100, 100));
    live.end().unwrap();
    let second = live.begin().unwrap();
    assert_ne!(first.version, second.version);
    live.end().unwrap();
    let third = live.begin().unwrap();
    assert_eq!(second.version, third.version);
    assert_eq!(restored(&taken(&live, &third)), (102 * 100, 100));
    drop(live);
    // All three files are the writer's.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    writer.run(write).unwrap();
    assert_eq!(writer.ask("pragma integrity_check"), "ok");
}

#[test]
fn states_are_consistent_while_others_write_and_checkpoint() {
    for (setup, checkpoint) in [
        ("", Some("truncate")),
        ("", Some("restart")),
        ("pragma page_size = 512", Some("passive")),
        ("pragma page_size = 65536", None),
        ("pragma auto_vacuum = full", Some("truncate")),
    ] {
        let (_folder, path) = database(&format!("{setup}; {WAL}"));
        let (mut writer, mut other) = (Peer::start(), Peer::start());
        writer.hammer(&path, checkpoint);
        other.hammer(&path, None);
        let mut live = opened(&path);
        each_state_is_consistent(&mut live, &format!("{setup} {checkpoint:?}"));
        drop(live);
        assert!(writer.rest() + other.rest() > 0);
    }
}

#[test]
fn pages_that_only_the_log_has_are_read_from_it() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("pragma wal_autocheckpoint = 0; insert into junk(b) values (zeroblob(3000000))").unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    let size = fs::metadata(&path).unwrap().len();
    assert!(state.pages * u64::from(state.page_size) > size + 2_900_000);
    let bytes = taken(&live, &state);
    assert_eq!(bytes, through_sqlite(&live, &state));
    assert_eq!(restored(&bytes), (100 * 100, 100));
    // Not everything comes through SQLite.
    assert!((1..=u32::try_from(state.pages).unwrap()).any(|page| !state.in_wal.contains(page)));
    assert!(state.wal.unwrap().st_size > 2_900_000);
}

#[test]
fn a_state_may_be_smaller_than_the_file() {
    let (_folder, path) = database(&format!("pragma auto_vacuum = full; {WAL}"));
    let mut writer = Peer::with(&path);
    writer.run("insert into junk(b) values (zeroblob(3000000))").unwrap();
    assert_eq!(writer.ask("pragma wal_checkpoint(truncate)"), "0");
    writer.run("pragma wal_autocheckpoint = 0; delete from junk").unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert!(state.pages * u64::from(state.page_size) + 2_900_000 < fs::metadata(&path).unwrap().len());
    let bytes = taken(&live, &state);
    assert_eq!(bytes, through_sqlite(&live, &state));
    assert_eq!(restored(&bytes), (100 * 100, 100));
}

#[test]
fn checkpoints_wait_for_the_transaction_and_writers_do_not() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("update t set x = x + 1").unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    writer.run("update t set x = x + 1").unwrap();
    assert_eq!(writer.ask("pragma wal_checkpoint(truncate)"), "1");
    assert_eq!(restored(&taken(&live, &state)), (101 * 100, 100));
    live.end().unwrap();
    assert_eq!(writer.ask("pragma wal_checkpoint(truncate)"), "0");
    // The log is empty now: this transaction is on mark 0, and the log begins again while it lasts.
    let state = live.begin().unwrap();
    writer.run("update t set x = x + 1").unwrap();
    assert_eq!(restored(&taken(&live, &state)), (102 * 100, 100));
    assert_eq!(taken(&live, &state), through_sqlite(&live, &state));
    drop(live);
}

#[test]
fn the_log_of_a_killed_writer_is_read_and_left_as_it_is() {
    let (folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("update t set x = x + 1; begin; update t set x = 0").unwrap();
    writer.kill();
    let (wal, shm) = (beside(&path, "-wal"), beside(&path, "-shm"));
    for with_shm in [true, false] {
        if !with_shm {
            fs::remove_file(&shm).unwrap();
        }
        let before = Peer::start().look(folder.path());
        let mut live = opened(&path);
        let state = live.begin().unwrap();
        assert!(state.wal.is_some());
        assert_eq!(restored(&taken(&live, &state)), (101 * 100, 100));
        drop(live);
        let mut after = Peer::start().look(folder.path());
        assert_eq!(after.len(), before.len());
        if with_shm {
            // The first program that comes after a crash rebuilds the `-shm`.
            after.insert(b"app.db-shm".to_vec(), before[&b"app.db-shm"[..]].clone());
        }
        assert_eq!(before, after);
        assert!(fs::metadata(&wal).unwrap().len() > 0);
    }
    assert_eq!(Peer::with(&path).ask("select sum(x) from t"), "10100");
}

#[test]
fn dropping_it_in_a_transaction_leaves_nothing_either() {
    let (folder, path) = database(WAL);
    let before = Peer::start().look(folder.path());
    let mut live = opened(&path);
    live.begin().unwrap();
    assert_eq!(before, Peer::start().look(folder.path()));
    drop(live);
    assert_eq!(before, Peer::start().look(folder.path()));
    let panicked = thread::spawn({
        let path = path.clone();
        move || {
            let mut live = opened(&path);
            live.begin().unwrap();
            panic!("on purpose");
        }
    });
    assert!(panicked.join().is_err());
    assert_eq!(before, Peer::start().look(folder.path()));
    drop(opened(&path));
}

#[test]
fn side_files_that_others_came_to_use_stay() {
    let (folder, path) = database(WAL);
    let mut live = opened(&path);
    live.begin().unwrap();
    let mut writer = Peer::with(&path);
    writer.ask("select count(*) from t");
    drop(live);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    writer.run("update t set x = 1").unwrap();
    // Now the same happens with a program that has written, and is gone when we are.
    let mut live = opened(&path);
    live.begin().unwrap();
    writer.run("update t set x = 2").unwrap();
    drop(writer);
    drop(live);
    assert!(fs::metadata(beside(&path, "-wal")).unwrap().len() > 0);
    assert_eq!(Peer::with(&path).ask("select sum(x) from t"), "200");
}

#[test]
fn a_database_at_rest_keeps_nobody_from_having_it_alone() {
    let (folder, path) = database(WAL);
    let mut live = opened(&path);
    live.begin().unwrap();
    // The last program to close the database puts its log into it, and may then rename it.
    let mut writer = Peer::with(&path);
    writer.run("update t set x = 3").unwrap();
    writer.close();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(!live.end().unwrap());
    drop(live);
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    let mut writer = Peer::with(&path);
    assert_eq!(writer.ask("pragma journal_mode = delete"), "delete");
    writer.run("pragma locking_mode = exclusive; update t set x = 4").unwrap();
    assert_eq!(state.page_size, 4096);
    assert!(!live.end().unwrap());
}

#[test]
fn a_log_that_was_written_meanwhile_is_never_removed() {
    let (_folder, path) = database(WAL);
    let mut first = Peer::with(&path);
    first.run("update t set x = 2").unwrap();
    let mut live = opened(&path);
    live.begin().unwrap();
    let mut writer = Peer::with(&path);
    writer.run("update t set x = 3").unwrap();
    // Neither program removes the log, since we have the database open.
    first.close();
    writer.close();
    assert!(live.end().unwrap());
    drop(live);
    assert!(fs::metadata(beside(&path, "-wal")).unwrap().len() > 0);
    let mut next = Peer::with(&path);
    assert_eq!(next.ask("select sum(x) from t"), "300");
    next.close();
    assert!(!beside(&path, "-wal").exists() && !beside(&path, "-shm").exists());
}

#[test]
fn what_is_left_of_shared_memory_is_nobodys() {
    let (folder, path) = database(WAL);
    let mut dead = Peer::with(&path);
    dead.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
    dead.kill();
    let before = Peer::start().look(folder.path());
    assert_eq!(before.len(), 3);
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!(restored(&taken(&live, &state)), (101 * 100, 100));
    assert!(live.end().unwrap());
    assert_eq!(before, Peer::start().look(folder.path()));
    // A program that comes takes the database for itself.
    let again = live.begin().unwrap();
    assert_eq!(state.version, again.version);
    let mut writer = Peer::with(&path);
    writer.run("update t set x = x + 1").unwrap();
    assert!(!live.end().unwrap());
    let state = live.begin().unwrap();
    assert_eq!(restored(&taken(&live, &state)), (102 * 100, 100));
    assert!(live.end().unwrap());
}

#[test]
fn the_shared_memory_is_held_while_it_is_open() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("update t set x = 5").unwrap();
    let shm = id(&status(&beside(&path, "-shm")).unwrap().unwrap());
    let held = try_lock_inode(shm.0, shm.1).unwrap();
    let mut live = try_open(&path, HASTY).unwrap();
    assert!(matches!(live.begin().unwrap_err(), ReadError::Busy(why) if why.contains("-shm")));
    drop(live);
    let mut live = opened(&path);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| live.begin().map(|state| state.pages));
        drop(held);
        assert!(waiting.join().unwrap().unwrap() > 0);
    });
    assert!(try_lock_inode(shm.0, shm.1).is_none());
    live.end().unwrap();
    assert!(try_lock_inode(shm.0, shm.1).is_none());
    drop(live);
    drop((try_lock_inode(shm.0, shm.1).unwrap(), writer));
}

#[test]
fn what_a_program_left_is_never_made_anew_by_a_backup() {
    let (_folder, path) = database(WAL);
    let mut live = try_open(&path, HASTY).unwrap();
    let disturbed = |live: &mut Live, sum: &str| {
        live.begin().unwrap();
        let mut writer = Peer::with(&path);
        writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
        assert_eq!(writer.ask("select sum(x) from t"), sum);
        writer.kill();
        assert!(!live.end().unwrap());
        fs::metadata(beside(&path, "-shm")).unwrap().modified().unwrap()
    };
    let made_anew = |left| fs::metadata(beside(&path, "-shm")).unwrap().modified().unwrap() != left;
    let left = disturbed(&mut live, "10100");
    assert_eq!((state_of(&mut live), made_anew(left)), ((101 * 100, 100), false));
    // The index is used where programs come each time, and none is met, and then as it is.
    let left = disturbed(&mut live, "10200");
    assert_eq!((state_of(&mut live), made_anew(left)), ((102 * 100, 100), false));
    let mut writer = Peer::with(&path);
    writer.run("pragma busy_timeout = 0; update t set x = x + 1").unwrap();
    assert_eq!(state_of(&mut live), (103 * 100, 100));
}

#[test]
fn who_comes_to_a_database_at_rest_is_noticed_and_never_waits() {
    for left_log in [false, true] {
        let (folder, path) = database(WAL);
        if left_log {
            let mut writer = Peer::with(&path);
            writer.run("pragma wal_autocheckpoint = 0; update t set padding = randomblob(700)").unwrap();
            writer.kill();
            fs::remove_file(beside(&path, "-shm")).unwrap();
        }
        let mut live = opened(&path);
        let first = live.begin().unwrap();
        assert_eq!((first.logged, first.in_wal.is_empty()), (true, !left_log));
        assert_eq!(restored(&taken(&live, &first)), (100 * 100, 100));
        assert!(live.end().unwrap());
        let again = live.begin().unwrap();
        assert_eq!(first.version, again.version);
        // A program even writes to the file itself, and goes again.
        let mut writer = Peer::with(&path);
        writer.run("update t set x = x + 1").unwrap();
        assert_eq!(writer.ask("pragma wal_checkpoint(truncate)"), "0");
        writer.run("update t set x = x + 1").unwrap();
        writer.close();
        assert!(!live.stands().unwrap() && !live.end().unwrap());
        // A program is awaited, and comes too late, twice.
        for sum in [102, 103] {
            let next = live.begin().unwrap();
            assert_ne!(next.version, again.version);
            assert_eq!(restored(&taken(&live, &next)), (sum * 100, 100));
            let mut writer = Peer::with(&path);
            writer.run("update t set x = x + 1").unwrap();
            writer.close();
            // The second time, what the program has beside the database stays as long as we need it, as it does while a
            // log is read.
            let shared = left_log && sum == 103;
            assert_eq!(live.end().unwrap(), shared);
            assert_eq!(beside(&path, "-shm").exists(), left_log || sum == 103);
        }
        let last = live.begin().unwrap();
        let shm = id(&status(&beside(&path, "-shm")).unwrap().unwrap());
        assert!(try_lock_inode(shm.0, shm.1).is_none());
        assert_eq!(restored(&taken(&live, &last)), (104 * 100, 100));
        let mut writer = Peer::with(&path);
        writer.run("update t set x = x + 1").unwrap();
        assert_eq!(restored(&taken(&live, &last)), (104 * 100, 100));
        assert!(live.end().unwrap());
        drop(live);
        assert_eq!(writer.ask("select sum(x) from t"), "10500");
        writer.close();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_only_lies_there_of_a_log_is_not_looked_through() {
    let (_folder, path) = database(WAL);
    fs::write(beside(&path, "-shm"), "").unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!(restored(&taken(&live, &state)), (100 * 100, 100));
    drop(live);
    fs::remove_file(beside(&path, "-shm")).unwrap();
    fs::write(beside(&path, "-wal"), "").unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!(restored(&taken(&live, &state)), (100 * 100, 100));
}

#[test]
fn what_is_left_of_an_index_says_nothing_of_a_log_that_nobody_has_open() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1; update t set x = x + 1").unwrap();
    writer.kill();
    // A power cut took the last commit from the log, and left the index that knows about it.
    let wal = fs::File::options().write(true).open(beside(&path, "-wal")).unwrap();
    wal.set_len(wal.metadata().unwrap().len() - 4096).unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!((restored(&taken(&live, &state)), state.pending), ((101 * 100, 100), false));
    assert!(live.end().unwrap());
}

#[test]
fn an_index_that_lacks_what_its_log_has_is_not_read_by() {
    let (_folder, path) = database(WAL);
    let mut live = try_open(&path, HASTY).unwrap();
    // Programs come each time, and none is met.
    for sum in ["10100", "10200"] {
        live.begin().unwrap();
        let mut writer = Peer::with(&path);
        writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
        assert_eq!(writer.ask("select sum(x) from t"), sum);
        writer.kill();
        assert!(!live.end().unwrap());
    }
    // A program that has the database to itself needs no index. It works on a copy, whose log is then taken, since we
    // read.
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("app.db");
    let log = beside(&path, "-wal");
    fs::copy(&path, &copy).unwrap();
    fs::copy(&log, elsewhere.path().join("app.db-wal")).unwrap();
    let mut alone = Peer::with(&copy);
    alone.run("pragma locking_mode = exclusive; pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
    alone.kill();
    fs::write(&log, fs::read(elsewhere.path().join("app.db-wal")).unwrap()).unwrap();
    assert_eq!(state_of(&mut live), (103 * 100, 100));
    // The next program that comes finds all of it.
    assert_eq!(Peer::with(&path).ask("select sum(x) from t"), "10300");
}

#[test]
fn an_index_that_a_machine_left_is_not_read_by() {
    let (_folder, path) = database(WAL);
    let mut writer = Peer::with(&path);
    writer.run("pragma wal_autocheckpoint = 0; update t set x = x + 1").unwrap();
    writer.kill();
    // The index has two halves; the one by which frames are found did not reach the disk.
    let shm = fs::File::options().write(true).open(beside(&path, "-shm")).unwrap();
    shm.write_all_at(&[0; 16 << 10], 16 << 10).unwrap();
    let mut live = try_open(&path, HASTY).unwrap();
    for _ in 0..4 {
        let state = live.begin().unwrap();
        assert_eq!(restored(&taken(&live, &state)), (101 * 100, 100));
        // Something that is not one of the database's programs changes the file's status.
        fs::set_permissions(&path, fs::metadata(&path).unwrap().permissions()).unwrap();
        assert!(!live.end().unwrap());
    }
    assert_eq!(state_of(&mut live), (101 * 100, 100));
    // A program that comes makes the index again.
    assert_eq!(Peer::with(&path).ask("select sum(x) from t"), "10100");
}
