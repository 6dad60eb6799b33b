//! Programs whose write-ahead log is not where their database is found.

use std::process::Command;

use super::super::locks::{Held, held};
use super::super::peer::Peer;
use super::*;

const WAL: &str = "pragma journal_mode = wal";

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
    // Its last commits come into the file when it closes it.
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
    assert_eq!(held(&file), Held::No);
    let mut peer = Peer::with(&path);
    assert_eq!(held(&file), Held::No);
    peer.run("begin; select * from t").unwrap();
    assert_eq!(held(&file), Held::Reading(Some(peer.pid())));
    peer.run("commit; begin exclusive").unwrap();
    assert_eq!(held(&file), Held::Alone);
    peer.run("commit").unwrap();
    assert_eq!(held(&file), Held::No);
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
        // Between two transactions it is noticed by the next one.
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
        raw_because(try_open(&path, HASTY).err().unwrap(), "several names");
        fs::remove_file(left).unwrap();
    }
    assert!(opened(&theirs).begin().unwrap().logged);
    drop(writer);
}
