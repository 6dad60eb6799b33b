//! The app's acts on SQLite databases. Each database has accounts whose sum is the same in every committed state, and the
//! serial of that state.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::app::{App, DATABASES};
use super::files::{inode, wait_since};
use super::history::{Database, Id, What, is_in, join};

/// Accounts of each database.
const ACCOUNTS: u64 = 20;
/// The sum of all accounts of a database.
pub const SUM: i64 = 2000;
/// Databases that it keeps.
const KEPT: usize = 4;
/// The endings of the files beside a database.
pub const SIDES: [&str; 3] = ["-journal", "-wal", "-shm"];

/// Connections and their open transactions.
#[derive(Default)]
pub struct Databases {
    open: HashMap<Id, Connection>,
    /// The serial that an open transaction will commit.
    pending: HashMap<Id, i64>,
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::ZERO)?;
    db.execute_batch("PRAGMA synchronous=OFF; PRAGMA cache_size=5; PRAGMA wal_autocheckpoint=0")?;
    Ok(db)
}

/// Whether somebody else is in the way, who will go.
fn is_busy(why: &rusqlite::Error) -> bool {
    matches!(why.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Returns where a file beside a database is.
pub fn beside(path: &Path, side: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(side);
    name.into()
}

impl App {
    fn create_sql(&mut self, mode: &str, number: i64, rows: u64) -> String {
        format!(
            "PRAGMA page_size={}; PRAGMA journal_mode={mode}; BEGIN;
             CREATE TABLE accounts(id INTEGER PRIMARY KEY, x INTEGER NOT NULL);
             CREATE TABLE state(number INTEGER, serial INTEGER);
             CREATE TABLE filler(id INTEGER PRIMARY KEY, b BLOB);
             WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < {ACCOUNTS})
             INSERT INTO accounts SELECT id, {} FROM ids;
             INSERT INTO state VALUES ({number}, 0);
             WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < {rows})
             INSERT INTO filler SELECT id, randomblob(3000) FROM ids;
             COMMIT;",
            [1024, 4096][self.dice.roll(2) as usize],
            SUM / ACCOUNTS as i64,
        )
    }

    /// Moves money; `wide` changes most pages.
    fn change_sql(&mut self, serial: i64, wide: bool) -> String {
        let (from, to) = (1 + self.dice.roll(ACCOUNTS), 1 + self.dice.roll(ACCOUNTS));
        let rows = if wide { 1 } else { 2 + self.dice.roll(20) };
        format!(
            "UPDATE accounts SET x = x - 7 WHERE id = {from}; UPDATE accounts SET x = x + 7 WHERE id = {to};
             UPDATE state SET serial = {serial};
             UPDATE filler SET b = randomblob(3000) WHERE id % {rows} = 0;"
        )
    }

    fn pick_database(&mut self, cut_off: Option<bool>) -> Option<(String, Id)> {
        let fits = |database: &Database| cut_off.is_none_or(|cut_off| database.cut_off == cut_off);
        let all = self.all(|_, what| matches!(what, What::Database(database) if fits(database)));
        self.pick(all)
    }

    /// Returns a path for a database.
    fn pick_database_path(&mut self) -> Option<String> {
        let (folder, id) = self.pick_folder(true)?;
        let name = DATABASES[self.dice.roll(DATABASES.len() as u64) as usize];
        let taken = |name: &str| self.history.children(id).is_some_and(|children| children.contains_key(name));
        let beside = SIDES.iter().any(|side| taken(&format!("{name}{side}")));
        (!taken(name) && !beside).then(|| join(&folder, name))
    }

    fn full(&self) -> bool {
        self.all(|_, what| matches!(what, What::Database(_))).len() >= KEPT
    }

    fn add_database(&mut self, path: &str, number: i64, serial: i64, cut_off: bool) -> Id {
        let commits = vec![(self.history.now, serial)];
        let database = Database { number, commits, cut_off, at: Instant::now() };
        let id = self.history.add(What::Database(database), inode(&self.at(path)));
        self.history.put(path, id);
        id
    }

    /// Makes a database in some journal mode; of too many, one goes instead.
    pub fn database_create(&mut self) -> Option<String> {
        if self.full() {
            return self.database_remove();
        }
        let path = self.pick_database_path()?;
        let mode = ["delete", "truncate", "persist", "wal"][self.dice.roll(4) as usize];
        let rows = self.dice.roll(150);
        let number = self.serial() as i64;
        let sql = self.create_sql(mode, number, rows);
        // It is made elsewhere, so that it is whole when it comes.
        let made = self.base.join("new.db");
        connect(&made).and_then(|db| db.execute_batch(&sql)).unwrap();
        self.remove_sides(&path);
        fs::rename(&made, self.at(&path)).unwrap();
        let id = self.add_database(&path, number, 0, false);
        self.open(&path, id);
        Some(format!("{path} in mode {mode} with {rows} rows"))
    }

    /// Opens a database, unless it is.
    fn open(&mut self, path: &str, id: Id) {
        if !self.databases.open.contains_key(&id) {
            match connect(&self.at(path)) {
                Ok(db) => drop(self.databases.open.insert(id, db)),
                Err(why) if is_busy(&why) => {}
                Err(why) => self.fault(path, &why),
            }
        }
    }

    fn fault(&mut self, path: &str, why: &rusqlite::Error) {
        self.faults.push(format!("the app's own database {path} does not work any more: {why}"));
    }

    /// Runs SQL over a database's connection; whether that went well.
    fn sql(&mut self, path: &str, id: Id, sql: &str) -> bool {
        self.open(path, id);
        let Some(db) = self.databases.open.get(&id) else { return false };
        let done = db.execute_batch(sql);
        self.history.database_mut(id).at = Instant::now();
        match done {
            Ok(()) => true,
            Err(why) => {
                if !is_busy(&why) {
                    self.fault(path, &why);
                }
                false
            }
        }
    }

    /// Ends a transaction without a trace, unless there is none.
    fn roll_back(&mut self, id: Id) {
        self.databases.pending.remove(&id);
        if let Some(db) = self.databases.open.get(&id)
            && !db.is_autocommit()
        {
            // SQLite may have rolled it back itself.
            let _ = db.execute_batch("ROLLBACK");
        }
    }

    fn committed(&mut self, id: Id, serial: i64) {
        self.history.now += 1;
        let now = self.history.now;
        self.history.database_mut(id).commits.push((now, serial));
    }

    /// Commits a transaction.
    pub fn database_write(&mut self) -> Option<String> {
        let (path, id) = self.pick_database(Some(false))?;
        if self.databases.pending.contains_key(&id) {
            return self.end(&path, id);
        }
        let serial = self.serial() as i64;
        let wide = self.dice.roll(4) == 0;
        let change = self.change_sql(serial, wide);
        let done = self.sql(&path, id, &format!("BEGIN IMMEDIATE; {change} COMMIT"));
        match done {
            true => self.committed(id, serial),
            false => self.roll_back(id),
        }
        done.then(|| format!("{path} serial {serial}"))
    }

    /// Begins a transaction that stays open, with pages that have gone to the file already.
    pub fn database_begin(&mut self) -> Option<String> {
        let (path, id) = self.pick_database(Some(false))?;
        if self.databases.pending.contains_key(&id) {
            return None;
        }
        let serial = self.serial() as i64;
        let kind = ["IMMEDIATE", "IMMEDIATE", "EXCLUSIVE"][self.dice.roll(3) as usize];
        let change = self.change_sql(serial, true);
        if !self.sql(&path, id, &format!("BEGIN {kind}; {change}")) {
            self.roll_back(id);
            return None;
        }
        self.databases.pending.insert(id, serial);
        Some(format!("{path} serial {serial}"))
    }

    /// Ends an open transaction.
    pub fn database_end(&mut self) -> Option<String> {
        let mut all = self.all(|_, what| matches!(what, What::Database(_)));
        all.retain(|(_, id)| self.databases.pending.contains_key(id));
        let (path, id) = self.pick(all)?;
        self.end(&path, id)
    }

    fn end(&mut self, path: &str, id: Id) -> Option<String> {
        if self.dice.roll(3) == 0 {
            self.roll_back(id);
            return Some(format!("{path} is rolled back"));
        }
        // A reader in the way leaves the transaction open.
        if !self.sql(path, id, "COMMIT") {
            return None;
        }
        let serial = self.databases.pending.remove(&id)?;
        self.committed(id, serial);
        Some(format!("{path} serial {serial} is committed"))
    }

    /// Ends all transactions that others may be waiting for.
    pub fn end_all(&mut self) {
        let mut all = self.all(|_, what| matches!(what, What::Database(_)));
        all.retain(|(_, id)| self.databases.pending.contains_key(id));
        for (path, id) in all {
            if self.end(&path, id).is_none() {
                self.roll_back(id);
            }
        }
    }

    /// Has SQLite do something to a database as a whole.
    pub fn database_upkeep(&mut self, sql: &str) -> Option<String> {
        let (path, id) = self.pick_database(Some(false))?;
        if self.databases.pending.contains_key(&id) {
            return None;
        }
        self.open(&path, id);
        let done = match self.databases.open.get(&id)?.query_row(sql, [], |_| Ok(())) {
            Ok(()) | Err(rusqlite::Error::QueryReturnedNoRows) => true,
            Err(why) if is_busy(&why) => false,
            Err(why) => {
                self.fault(&path, &why);
                false
            }
        };
        self.roll_back(id);
        done.then_some(path)
    }

    /// Closes a connection.
    pub fn database_close(&mut self) -> Option<String> {
        let (path, id) = self.pick_database(Some(false))?;
        self.roll_back(id);
        self.databases.open.remove(&id)?;
        Some(path)
    }

    /// Removes a database.
    pub fn database_remove(&mut self) -> Option<String> {
        let (path, _) = self.pick_database(None)?;
        self.remove_database(&path);
        Some(path)
    }

    /// Removes a database, and then what lies beside it.
    pub fn remove_database(&mut self, path: &str) {
        self.close_in(path);
        fs::remove_file(self.at(path)).unwrap();
        self.history.take(path);
        self.remove_sides(path);
    }

    /// Removes what lies beside a database.
    pub fn remove_sides(&mut self, path: &str) {
        for side in SIDES {
            // Mostly there is none.
            let _ = fs::remove_file(beside(&self.at(path), side));
        }
    }

    /// Closes the databases that lie in a folder, which is moved or removed next.
    pub fn close_in(&mut self, folder: &str) {
        for (_, id) in self.all(|path, what| is_in(path, folder) && matches!(what, What::Database(_))) {
            self.roll_back(id);
            self.databases.open.remove(&id);
        }
    }

    /// Has an app die in the middle of a transaction, which leaves a database with its journal or log.
    pub fn database_crash(&mut self) -> Option<String> {
        if self.full() {
            return self.database_remove();
        }
        let path = self.pick_database_path()?;
        let mode = ["delete", "delete", "persist", "wal"][self.dice.roll(4) as usize];
        Some(self.leave_cut_off(&path, mode))
    }

    /// Leaves a database at a free path, with the journal or log of a transaction that was cut off.
    pub fn leave_cut_off(&mut self, path: &str, mode: &str) -> String {
        let rows = 60 + self.dice.roll(100);
        let number = self.serial() as i64;
        let (create, committed, cut) =
            (self.create_sql(mode, number, rows), self.serial() as i64, self.serial() as i64);
        let (first, second) = (self.change_sql(committed, false), self.change_sql(cut, true));
        let (made, copy) = (self.base.join("died.db"), self.base.join("copy.db"));
        let side = if mode == "wal" { "-wal" } else { "-journal" };
        {
            let db = connect(&made).unwrap();
            db.execute_batch(&format!("{create} BEGIN; {first} COMMIT; BEGIN; {second}")).unwrap();
            fs::copy(&made, &copy).unwrap();
            fs::copy(beside(&made, side), beside(&copy, side)).unwrap();
            db.execute_batch("ROLLBACK").unwrap();
        }
        for left in ["", "-journal", "-wal", "-shm"] {
            // Some are there, by the mode.
            let _ = fs::remove_file(beside(&made, left));
        }
        // Without its journal it would be broken: that comes first.
        self.remove_sides(path);
        fs::rename(beside(&copy, side), beside(&self.at(path), side)).unwrap();
        fs::rename(&copy, self.at(path)).unwrap();
        self.add_database(path, number, committed, true);
        format!("{path} in mode {mode} with {rows} rows, serial {committed}")
    }

    /// Has an app open what another one left behind.
    pub fn database_recover(&mut self) -> Option<String> {
        let (path, id) = self.pick_database(Some(true))?;
        wait_since(self.history.database(id)?.at);
        if !self.sql(&path, id, "SELECT count(*) FROM state") {
            self.databases.open.remove(&id);
            return None;
        }
        self.history.database_mut(id).cut_off = false;
        Some(path)
    }

    /// Makes a file that begins as a database does, and is none that SQLite can read; sometimes with something beside it.
    pub fn database_odd(&mut self) -> Option<String> {
        if self.crowded() {
            return None;
        }
        let path = self.pick_database_path()?;
        self.remove_sides(&path);
        let length = 5_000 + self.dice.roll(400_000) as usize;
        let mut bytes = self.content(length);
        bytes[..24].copy_from_slice(b"SQLite format 3\0\x10\0\x01\x01\0\x40\x20\x20");
        if self.dice.roll(2) == 0 {
            let journal = self.content(2_000);
            self.make(&format!("{path}-journal"), journal);
        }
        self.make(&path, bytes);
        Some(path)
    }
}
