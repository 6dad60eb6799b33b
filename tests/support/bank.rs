//! A database that shows whether it is one committed state, and which: a bank. Money moves between accounts and its sum
//! stays; a ledger names every transfer, so that each account can be computed again from it.

use std::path::Path;

use rusqlite::{Connection, params};

use super::database;
use super::database_process::{Done, Transfers, patiently};
use super::seeded_random::Dice;

/// The balance with which each account begins.
const BALANCE: i64 = 1000;
/// Accounts of the bank that most tests use: together with their notes about 3 MB.
pub const ACCOUNTS: u64 = 4000;

/// Makes a bank in a journal mode, with notes of `note` bytes beside each account.
pub fn create(path: &Path, mode: &str, accounts: u64, note: u64) {
    database::run(
        path,
        &format!(
            "PRAGMA journal_mode={mode};
             PRAGMA synchronous=OFF;
             BEGIN;
             CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, stamp INTEGER, note BLOB);
             CREATE INDEX by_balance ON account(balance, stamp);
             CREATE TABLE counter(n INTEGER);
             INSERT INTO counter VALUES (0);
             CREATE TABLE ledger(n INTEGER PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER);
             WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < {accounts})
             INSERT INTO account SELECT id, {BALANCE}, 0, randomblob({note}) FROM ids;
             COMMIT;"
        ),
    );
}

/// SQL that gives how many transfers there were.
pub const COUNTER: &str = "SELECT n FROM counter";

/// Asserts that a bank's database is whole and one committed state; how many transfers that state has seen.
#[track_caller]
pub fn audit(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    let found: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok", "{}", path.display());
    let number = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(number("SELECT sum(balance) FROM account"), BALANCE * number("SELECT count(*) FROM account"));
    let counter = number(COUNTER);
    assert_eq!(counter, number("SELECT coalesce(max(n), 0) FROM ledger"), "the ledger and the counter differ");
    assert_eq!(counter, number("SELECT count(*) FROM ledger"), "the ledger has gaps");
    let wrong = number(&format!(
        "WITH moved(id, amount, n) AS
           (SELECT source, -amount, n FROM ledger UNION ALL SELECT target, amount, n FROM ledger),
         sums(id, amount, n) AS (SELECT id, sum(amount), max(n) FROM moved GROUP BY id)
         SELECT count(*) FROM account LEFT JOIN sums USING (id)
         WHERE balance <> {BALANCE} + coalesce(amount, 0) OR stamp <> coalesce(n, 0)"
    ));
    assert_eq!(wrong, 0, "accounts that are not what the ledger says");
    counter
}

/// A writer that moves money between accounts.
pub struct Clerk {
    dice: Dice,
    accounts: u64,
}

impl Clerk {
    /// Creates one for the bank that a connection leads to.
    pub fn new(db: &Connection, transfers: &Transfers) -> Self {
        let count = || db.query_row("SELECT count(*) FROM account", [], |row| row.get::<_, i64>(0));
        let all = patiently(count) as u64;
        let accounts = if transfers.among > 0 { transfers.among.min(all) } else { all };
        Clerk { dice: Dice(transfers.seed), accounts }
    }

    /// Moves some money from one account to another, in one transaction.
    pub fn transfer(&mut self, db: &Connection) {
        let dice = &mut self.dice;
        let source = dice.roll(self.accounts);
        let target = (source + 1 + dice.roll(self.accounts - 1)) % self.accounts;
        let amount = dice.roll(100) as i64;
        patiently(|| db.execute_batch("BEGIN IMMEDIATE"));
        let next = || db.query_row("UPDATE counter SET n = n + 1 RETURNING n", [], |row| row.get::<_, i64>(0));
        let n = patiently(next);
        for (account, amount) in [(source, -amount), (target, amount)] {
            let sql =
                "UPDATE account SET balance = balance + ?1, stamp = ?2, note = randomblob(length(note)) WHERE id = ?3";
            patiently(|| db.prepare_cached(sql)?.execute(params![amount, n, account as i64 + 1]));
        }
        let sql = "INSERT INTO ledger VALUES (?1, ?2, ?3, ?4)";
        patiently(|| db.prepare_cached(sql)?.execute(params![n, source as i64 + 1, target as i64 + 1, amount]));
        patiently(|| db.execute_batch("COMMIT"));
    }

    /// A checkpoint after every tenth transaction, a VACUUM after every sixtieth.
    pub fn keep_up(&mut self, db: &Connection, done: &mut Done) {
        if done.commits.is_multiple_of(10) {
            let kind = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.dice.roll(4) as usize];
            // One that others do not let through is left.
            let busy = db.query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |row| row.get::<_, i64>(0));
            done.checkpoints += u64::from(busy == Ok(0));
        }
        if done.commits.is_multiple_of(60) {
            patiently(|| db.execute_batch("VACUUM"));
            done.vacuums += 1;
        }
    }

    /// Goes from a WAL to a rollback journal or back, if others let it; whether they did.
    pub fn switch(&self, db: &Connection) -> bool {
        let mode = |sql: &str| db.query_row(sql, [], |row| row.get::<_, String>(0));
        let was = patiently(|| mode("PRAGMA journal_mode"));
        let other = if was == "wal" { "PRAGMA journal_mode=DELETE" } else { "PRAGMA journal_mode=WAL" };
        mode(other).is_ok_and(|is| is != was)
    }
}
