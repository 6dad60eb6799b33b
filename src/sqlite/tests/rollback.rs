//! Tests databases with a rollback journal.

use std::thread;

use super::*;
use crate::sqlite::fd_registry::try_lock_inode;

#[test]
fn the_file_is_the_state_for_every_page_size() {
    the_file_is_the_state("", false);
}

#[test]
fn a_writer_waits_from_begin_to_end_and_no_longer() {
    let (folder, path) = database("");
    let mut writer = Peer::with(&path);
    let write = "update t set x = x + 1";
    let mut live = opened(&path);
    writer.run(write).unwrap();
    let first = live.begin().unwrap();
    assert!(writer.run(write).unwrap_err().contains("locked"));
    assert_eq!(restored(&taken(&live, &first)), (101 * 100, 100));
    live.end().unwrap();
    writer.run(write).unwrap();
    let second = live.begin().unwrap();
    assert_ne!(first.version, second.version);
    assert_eq!(restored(&taken(&live, &second)), (102 * 100, 100));
    live.end().unwrap();
    let third = live.begin().unwrap();
    assert_eq!(second.version, third.version);
    drop(live);
    writer.run(write).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_locked_database_is_waited_for_with_a_limit() {
    let (_folder, path) = database("");
    let mut writer = Peer::with(&path);
    writer.run("begin exclusive").unwrap();
    let mut live = try_open(&path, HASTY).unwrap();
    let ReadError::Busy(why) = live.begin().unwrap_err() else { panic!("it is busy") };
    assert!(why.contains("another program keeps it locked"), "{why}");
    drop(live);
    let mut live = opened(&path);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| live.begin().map(|state| state.pages));
        writer.run("update t set x = 0; commit").unwrap();
        assert!(waiting.join().unwrap().unwrap() > 0);
    });
}

#[test]
fn a_reader_that_is_told_to_stop_stops_waiting() {
    let (_folder, path) = database("");
    let mut writer = Peer::with(&path);
    writer.run("begin exclusive").unwrap();
    let stop = AtomicBool::new(false);
    let mut live = try_open(&path, LiveOptions { stop: &stop, ..PATIENT }).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| live.begin().unwrap_err());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(waiting.join().unwrap(), ReadError::Stopped);
    });
}

#[test]
fn states_are_consistent_while_another_program_writes() {
    for setup in ["", "pragma page_size = 512", "pragma auto_vacuum = full"] {
        let (_folder, path) = database(setup);
        let mut writer = Peer::start();
        writer.hammer(&path, None);
        let mut live = opened(&path);
        each_state_is_consistent(&mut live, setup);
        drop(live);
        writer.rest();
    }
}

/// The reason for the registry. If this failed, no registry would be needed.
#[test]
fn closing_any_descriptor_of_a_database_drops_its_locks() {
    let (_folder, path) = database("");
    let mut writer = Peer::with(&path);
    let mut live = opened(&path);
    live.begin().unwrap();
    writer.run("update t set x = 0").unwrap_err();
    drop(fs::File::open(&path).unwrap());
    writer.run("update t set x = 0").unwrap();
}

#[test]
fn the_registry_keeps_others_away_while_a_transaction_is_open() {
    let (_folder, path) = database("");
    let stat = fs::metadata(&path).unwrap();
    let mut writer = Peer::with(&path);
    let mut live = opened(&path);
    live.begin().unwrap();
    assert!(try_lock_inode(stat.dev(), stat.ino()).is_none());
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let _held = hold(stat.dev(), stat.ino());
            fs::read(&path).unwrap()
        });
        for _ in 0..10 {
            writer.run("update t set x = 0").unwrap_err();
            thread::sleep(Duration::from_millis(2));
        }
        assert!(!other.is_finished());
        drop(live);
        other.join().unwrap();
    });
    writer.run("update t set x = 0").unwrap();
}

#[test]
fn a_page_size_may_change_between_transactions() {
    let (_folder, path) = database("pragma page_size = 1024");
    let mut live = opened(&path);
    assert_eq!(live.begin().unwrap().page_size, 1024);
    live.end().unwrap();
    Peer::with(&path).run("pragma page_size = 8192; vacuum").unwrap();
    let state = live.begin().unwrap();
    assert_eq!(state.page_size, 8192);
    assert_eq!(taken(&live, &state), through_sqlite(&live, &state));
    assert_eq!(restored(&taken(&live, &state)), (100 * 100, 100));
}

#[test]
fn a_database_may_get_a_log_and_lose_it_between_transactions() {
    let (folder, path) = database("");
    let mut live = opened(&path);
    let first = live.begin().unwrap();
    live.end().unwrap();
    let mut writer = Peer::with(&path);
    assert_eq!(writer.ask("pragma journal_mode = wal"), "wal");
    writer.run("update t set x = 1").unwrap();
    let second = live.begin().unwrap();
    assert!(second.logged && !first.logged && first.version != second.version);
    assert_eq!(restored(&taken(&live, &second)), (100, 100));
    live.end().unwrap();
    drop(live);
    let mut live = opened(&path);
    assert_eq!(writer.ask("pragma journal_mode = delete"), "delete");
    let third = live.begin().unwrap();
    assert!(!third.logged);
    assert_eq!(restored(&taken(&live, &third)), (100, 100));
    drop(live);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_lies_beyond_the_state_in_the_file_is_no_part_of_it() {
    let (_folder, path) = database("");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], &[7; 10_000]].concat()).unwrap();
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!(taken(&live, &state), whole);
}

/// A sparse file: its header says how many pages there are, and SQLite looks only at those that it is asked for.
#[test]
fn the_page_of_the_locks_is_read_from_the_file() {
    let (_folder, path) = database("pragma page_size = 65536");
    let pages: u32 = 16_390;
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(u64::from(pages) * 65_536).unwrap();
    file.write_all_at(&pages.to_be_bytes(), 28).unwrap();
    drop(file);
    let mut live = opened(&path);
    let state = live.begin().unwrap();
    assert_eq!(state.pages, u64::from(pages));
    assert!(state.in_wal.is_empty());
    let mut page = vec![1; 65_536];
    live.page(16_385, &mut page).unwrap();
    assert_eq!(page, vec![0; 65_536]);
    let ReadError::Failed(why) = live.page(pages + 1, &mut page).unwrap_err() else { panic!("there is no such page") };
    assert!(why.contains("no page"), "{why}");
}

#[test]
fn odd_names_are_names() {
    use std::os::unix::ffi::OsStrExt;
    let (folder, path) = database("");
    let content = fs::read(&path).unwrap();
    let names: [&[u8]; 6] = [b"file:a?mode=rw", b"a%20b?c", b":memory:", b" ", b"\xff\xfe", "ä\n\"'".as_bytes()];
    for name in names {
        let odd = path.with_file_name(std::ffi::OsStr::from_bytes(name));
        fs::write(&odd, &content).unwrap();
        let mut live = opened(&odd);
        let state = live.begin().unwrap();
        assert_eq!(taken(&live, &state), content, "{odd:?}");
        drop(live);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 7);
}
