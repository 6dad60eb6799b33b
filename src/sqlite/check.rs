//! Checks whether a database is sound, as SQLite sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, Error, ffi};

use crate::vault::entry::CheckKind;

/// How often the watcher of a check looks whether it is to stop.
const WATCH: Duration = Duration::from_millis(50);

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// No problem was found.
    Sound,
    /// The first problem that was found.
    Damaged(String),
    /// It cannot be told, for this reason: a collation that only the app has, for example.
    Unknown(String),
}

/// Checks the database as a connection sees it, until it is told to stop.
///
/// # Errors
/// A file that cannot be read; an interruption.
pub fn check(connection: &Connection, kind: CheckKind, stop: &AtomicBool) -> rusqlite::Result<Checked> {
    let sql = match kind {
        CheckKind::Quick => "pragma quick_check(1)",
        CheckKind::Full => "pragma integrity_check(1)",
    };
    let interrupt = connection.get_interrupt_handle();
    let over = AtomicBool::new(false);
    /// Ends the watcher, also in a panic.
    struct WatchGuard<'o>(&'o AtomicBool, thread::Thread);
    impl Drop for WatchGuard<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
            self.1.unpark();
        }
    }
    let answer = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                if stop.load(Ordering::Relaxed) {
                    interrupt.interrupt();
                }
                thread::park_timeout(WATCH);
            }
        });
        let _over = WatchGuard(&over, watcher.thread().clone());
        connection.query_row(sql, [], |row| row.get::<_, String>(0))
    });
    match answer {
        Ok(answer) if answer == "ok" => Ok(Checked::Sound),
        Ok(answer) => {
            // A heading that names the database may come before the first problem.
            let first = answer.lines().find(|line| !line.starts_with("*** in database"));
            Ok(Checked::Damaged(first.unwrap_or(&answer).to_owned()))
        }
        Err(Error::SqliteFailure(code, why)) => match code.extended_code & 0xff {
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => Ok(Checked::Damaged(why.unwrap_or_else(|| code.to_string()))),
            ffi::SQLITE_ERROR => Ok(Checked::Unknown(why.unwrap_or_else(|| code.to_string()))),
            _ => Err(Error::SqliteFailure(code, why)),
        },
        Err(why) => Err(why),
    }
}
