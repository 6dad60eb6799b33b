//! Tests reading databases live while other processes use them.

mod elsewhere;
mod rights;
mod rollback;
mod unreadable;
mod wal;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::at::at;
use super::error::ReadError;
use super::fd_registry::{self, InodeLock};
use super::live::{Live, LiveOptions, TransactionState};
use super::peer::Peer;

/// Makes a database use a write-ahead log.
const WAL: &str = "pragma journal_mode = wal";
static GO_ON: AtomicBool = AtomicBool::new(false);
/// A patience longer than any test waits for something that is going to happen.
const PATIENT: LiveOptions = LiveOptions { patience: Duration::from_secs(120), stop: &GO_ON };
/// A patience for something that is not going to happen.
pub const HASTY: LiveOptions = LiveOptions { patience: Duration::from_millis(20), stop: &GO_ON };

/// Takes a file's inode lock as soon as nobody else has it.
pub fn hold(device: u64, inode: u64) -> InodeLock {
    fd_registry::lock_inode(device, inode, &GO_ON).unwrap()
}

/// The path of a file beside a database.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    at(path).path_beside(ending)
}

/// The status of what is at a path.
pub fn status(path: &Path) -> Result<Option<rustix::fs::Stat>, rustix::io::Errno> {
    at(path).status("")
}

/// A folder with a database of a table `t` whose column `x` has 100 in each of 100 rows.
fn database(setup: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("app.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(setup).unwrap();
    connection
        .execute_batch(
            "create table t(id integer primary key, x, padding);
             create table junk(id integer primary key autoincrement, b);
             with recursive n(n) as (select 1 union all select n + 1 from n where n < 100)
             insert into t select n, 100, randomblob(700) from n;",
        )
        .unwrap();
    connection.close().unwrap();
    (folder, path)
}

pub fn try_open<'a>(path: &Path, options: LiveOptions<'a>) -> Result<Live<'a>, ReadError> {
    let stat = fs::symlink_metadata(path).unwrap();
    Live::open(Arc::new(at(path)), hold(stat.dev(), stat.ino()), options)
}

fn opened(path: &Path) -> Live<'static> {
    try_open(path, PATIENT).unwrap()
}

/// The state's bytes, read as a backup reads them.
pub fn taken(live: &Live, state: &TransactionState) -> Vec<u8> {
    let size = state.page_size as usize;
    let mut bytes = vec![0; size * usize::try_from(state.pages).unwrap()];
    for (page, number) in bytes.chunks_mut(size).zip(1..) {
        if state.in_wal.contains(number) {
            live.page(number, page).unwrap();
        } else {
            live.file().read_exact_at(page, u64::from(number - 1) * size as u64).unwrap();
        }
    }
    bytes
}

/// The state's bytes as SQLite gives them.
fn through_sqlite(live: &Live, state: &TransactionState) -> Vec<u8> {
    let mut bytes = vec![0; state.page_size as usize * usize::try_from(state.pages).unwrap()];
    for (page, number) in bytes.chunks_mut(state.page_size as usize).zip(1..) {
        live.page(number, page).unwrap();
    }
    bytes
}

/// Checks that the state of a database that nobody has open is its file, for every page size, and that reading it leaves
/// nothing behind.
fn the_file_is_the_state(setup: &str, logged: bool) {
    for size in [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536] {
        let (folder, path) = database(&format!("pragma page_size = {size}; {setup}"));
        let before = Peer::start().look(folder.path());
        assert_eq!(before.len(), 1);
        let mut live = opened(&path);
        let state = live.begin().unwrap();
        assert_eq!((state.page_size, state.logged), (size, logged));
        assert!(state.in_wal.is_empty() && state.wal.is_none() && state.journal.is_none());
        let bytes = taken(&live, &state);
        assert_eq!(bytes, through_sqlite(&live, &state));
        live.end().unwrap();
        drop(live);
        assert_eq!(bytes, fs::read(&path).unwrap(), "{size}");
        assert_eq!(before, Peer::start().look(folder.path()));
    }
}

/// Checks some states, one after the other, while other programs move amounts between rows.
fn each_state_is_consistent(live: &mut Live, context: &str) {
    for _ in 0..15 {
        let state = live.begin().unwrap();
        let bytes = taken(live, &state);
        assert_eq!(bytes, through_sqlite(live, &state), "{context}");
        live.end().unwrap();
        assert_eq!(restored(&bytes), (100 * 100, 100), "{context}");
    }
}

/// The sum and the count of `x` in a state that stood to its end.
fn state_of(live: &mut Live) -> (i64, i64) {
    let state = live.begin().unwrap();
    let found = restored(&taken(live, &state));
    assert!(live.end().unwrap());
    found
}

/// Returns the sum and the count of `x`; fails unless these bytes are a sound database.
pub fn restored(bytes: &[u8]) -> (i64, i64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("restored.db");
    fs::write(&path, bytes).unwrap();
    let connection = Connection::open(&path).unwrap();
    let check: String = connection.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    connection.query_row("select sum(x), count(*) from t", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

fn raw_because(error: ReadError, what: &str) {
    match error {
        ReadError::Raw(why) => assert!(why.contains(what), "{why}"),
        other => panic!("{other:?}"),
    }
}
