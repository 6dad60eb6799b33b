//! SQLite databases as a test makes, changes, reads and watches them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use serde_json::Value;

use super::database_process::Other;
use super::seeded_random::Dice;

/// Opens a database, which need not exist, runs SQL, and closes it.
#[track_caller]
pub fn run(path: &Path, sql: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let db = Connection::open(path).unwrap();
    db.execute_batch(sql).unwrap_or_else(|e| panic!("{e}: {sql}"));
    db.close().unwrap();
}

/// Returns the first number that a query gives.
#[track_caller]
pub fn number(path: &Path, sql: &str) -> i64 {
    let db = Connection::open(path).unwrap();
    db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{e}: {sql}"))
}

/// Returns SQL that makes a table `t` of `rows` rows of `width` random bytes.
pub fn table(rows: u64, width: u64) -> String {
    format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
         WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < {rows})
         INSERT INTO t SELECT id, randomblob({width}) FROM ids;"
    )
}

/// Makes a table `orders` of about `size` bytes that compresses as an app's data does.
pub fn orders(path: &Path, page: u32, size: u64) {
    let mut db = Connection::open(path).unwrap();
    db.execute_batch(&format!("PRAGMA page_size={page}; PRAGMA synchronous=OFF;")).unwrap();
    db.execute_batch("CREATE TABLE orders(id INTEGER PRIMARY KEY, customer TEXT, note TEXT, amount REAL, at INTEGER)")
        .unwrap();
    let mut dice = Dice(size);
    let words: Vec<String> =
        (0..5000).map(|n| (0..3 + n % 9).map(|_| char::from(b'a' + dice.roll(26) as u8)).collect()).collect();
    let change = db.transaction().unwrap();
    for at in 0..size / 320 {
        let note: Vec<&str> = (0..40).map(|_| &*words[dice.roll(5000) as usize]).collect();
        let amount = dice.roll(1_000_000_000) as f64 / 1e5;
        change
            .prepare_cached("INSERT INTO orders VALUES (NULL, ?1, ?2, ?3, ?4)")
            .unwrap()
            .execute(params![
                format!("c{:06}", dice.roll(1_000_000)),
                note.join(" "),
                amount,
                1_700_000_000 + at as i64
            ])
            .unwrap();
    }
    change.commit().unwrap();
    db.close().unwrap_or_else(|(_, why)| panic!("{why}"));
}

/// Returns all that can be read of a database, as SQLite opens it: for each table the number of its rows and their hash.
/// Opening recovers what a crash left, so this is for copies.
///
/// # Errors
/// SQLite's message about a damaged one.
pub fn dump(path: &Path) -> Result<BTreeMap<String, (u64, String)>, String> {
    let read = || -> rusqlite::Result<_> {
        let db = Connection::open(path)?;
        let mut tables = vec!["sqlite_schema".to_owned()];
        let mut names = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
        for name in names.query_map([], |row| row.get(0))? {
            tables.push(name?);
        }
        let mut found = BTreeMap::new();
        for table in tables {
            let mut statement = db.prepare(&format!("SELECT rowid, * FROM \"{table}\" ORDER BY rowid"))?;
            let columns = statement.column_count();
            let mut rows = statement.query([])?;
            let (mut count, mut hasher) = (0, blake3::Hasher::new());
            while let Some(row) = rows.next()? {
                count += 1;
                (0..columns).try_for_each(|column| row.get_ref(column).map(|value| digest(value, &mut hasher)))?;
            }
            found.insert(table, (count, hasher.finalize().to_hex()[..16].to_owned()));
        }
        Ok(found)
    };
    read().map_err(|why| why.to_string())
}

fn digest(value: ValueRef, hasher: &mut blake3::Hasher) {
    let (kind, bytes) = match value {
        ValueRef::Null => (0, Vec::new()),
        ValueRef::Integer(n) => (1, n.to_le_bytes().to_vec()),
        ValueRef::Real(x) => (2, x.to_bits().to_le_bytes().to_vec()),
        ValueRef::Text(text) => (3, text.to_vec()),
        ValueRef::Blob(bytes) => (4, bytes.to_vec()),
    };
    hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
}

/// Copies a file or folder with everything about it, by another process: a descriptor that this one closed would drop
/// the locks of connections that it has.
#[track_caller]
pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Asserts that two folders' databases, each recovered as SQLite does it, hold the same, and in something. Both are copied
/// first, so neither folder changes.
#[track_caller]
pub fn assert_recovers_same(original: &Path, restored: &Path, database: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let [a, b] = [(original, "a"), (restored, "b")].map(|(folder, name)| {
        let to = scratch.path().join(name);
        copy(folder, &to);
        dump(&to.join(database))
    });
    assert_eq!(a, b, "{database} of {} and of {}", original.display(), restored.display());
}

/// Returns what a process sees of a folder: for each file its size, times, mode, inode and content; for a `-shm` only that
/// it is there: it is memory that readers write to.
pub fn seen(folder: &Path) -> BTreeMap<PathBuf, String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let describe = |path: PathBuf| {
        if path.to_str().unwrap().ends_with("-shm") {
            let inode = path.metadata().unwrap().ino();
            return (path, format!("inode {inode}"));
        }
        let meta = path.metadata().unwrap();
        let hash = if meta.is_file() { blake3::hash(&fs::read(&path).unwrap()).to_string() } else { "no file".into() };
        let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        (path, format!("{} bytes, {time}, {:o}, inode {}, {hash}", meta.len(), meta.mode(), meta.ino()))
    };
    entries.map(describe).collect()
}

/// Returns how each database of a report was taken, by path.
pub fn taken(report: &Value) -> BTreeMap<&str, &str> {
    let databases = report["databases"].as_array().unwrap_or_else(|| panic!("no databases in {report}"));
    databases.iter().map(|d| (d["path"].as_str().unwrap(), d["taken"].as_str().unwrap())).collect()
}

/// Returns a side file's path: `side` is `-wal`, `-shm` or `-journal`.
pub fn beside(database: &Path, side: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(side);
    name.into()
}

/// Leaves a WAL of a killed writer.
pub fn leftover_wal(path: &Path) {
    Other::serving(path, &format!("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; {}", table(300, 1000))).kill();
    fs::remove_file(beside(path, "-shm")).unwrap();
}
