//! Sorts the reasons why a database cannot be read, by what is to be done about them.

use std::ffi::c_int;
use std::fmt;

use rusqlite::ffi;

/// Why a database was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// Other programs kept it locked for as long as the patience lasted.
    Busy(String),
    /// It cannot be read safely through SQLite, for this reason; it can be taken raw.
    Raw(String),
    /// Reading failed.
    Failed(String),
    /// Its path leads to another file by now, or to none.
    Replaced,
    /// The work was told to stop.
    Stopped,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ReadError::Busy(why) | ReadError::Raw(why) | ReadError::Failed(why) => f.write_str(why),
            ReadError::Replaced => f.write_str("it was replaced while it was read"),
            ReadError::Stopped => f.write_str("it was told to stop"),
        }
    }
}

/// The meaning of an error of SQLite for a program that wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Another program has it locked, and waiting may help.
    Busy,
    /// A journal lies beside it, or did for a moment, that no program works on.
    Journal,
    /// Its `-shm` cannot be written to, and its programs have left no index in it to read by, or had not for a moment.
    /// The text says why.
    Index(String),
    /// Waiting does not help.
    Fatal(ReadError),
}

/// Sorts an error by its extended code; `errno` is the system's reason, 0 if there is none.
pub fn classify(error: &rusqlite::Error, errno: i32) -> Meaning {
    let message = match error {
        // The message follows the code and says more than it does.
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    };
    match error {
        rusqlite::Error::SqliteFailure(code, _) => sort(code.extended_code, &message, errno),
        _ => Meaning::Fatal(ReadError::Failed(format!("SQLite's answer makes no sense: {message}"))),
    }
}

fn sort(code: c_int, message: &str, errno: i32) -> Meaning {
    let system = if errno == 0 { String::new() } else { format!(": {}", std::io::Error::from_raw_os_error(errno)) };
    let raw = |why: String| Meaning::Fatal(ReadError::Raw(why));
    let failed = |why: String| Meaning::Fatal(ReadError::Failed(why));
    match code {
        ffi::SQLITE_READONLY_ROLLBACK => return Meaning::Journal,
        ffi::SQLITE_READONLY_RECOVERY | ffi::SQLITE_READONLY_CANTINIT | ffi::SQLITE_READONLY_CANTLOCK => {
            return Meaning::Index(format!("its write-ahead log needs a -shm file that cannot be written to{system}"));
        }
        ffi::SQLITE_READONLY_DIRECTORY => {
            return raw(format!("its write-ahead log needs files beside it that cannot be created{system}"));
        }
        ffi::SQLITE_IOERR_LOCK
        | ffi::SQLITE_IOERR_RDLOCK
        | ffi::SQLITE_IOERR_UNLOCK
        | ffi::SQLITE_IOERR_CHECKRESERVEDLOCK => return raw(format!("its filesystem has no locks{system}")),
        ffi::SQLITE_IOERR_DELETE => return raw("it is empty, and SQLite would delete what lies beside it".into()),
        ffi::SQLITE_IOERR_SHMOPEN
        | ffi::SQLITE_IOERR_SHMSIZE
        | ffi::SQLITE_IOERR_SHMLOCK
        | ffi::SQLITE_IOERR_SHMMAP => {
            return raw(format!("its write-ahead log needs shared memory, which fails{system}"));
        }
        _ => {}
    }
    match code & 0xff {
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => Meaning::Busy,
        ffi::SQLITE_NOTADB => raw(format!("SQLite does not read it: {message}")),
        ffi::SQLITE_CORRUPT => raw(format!("it is damaged: {message}")),
        // The process has run out of some resource; the database is not to blame.
        ffi::SQLITE_CANTOPEN if is_shortage(errno) => failed(format!("SQLite cannot open its files{system}")),
        ffi::SQLITE_CANTOPEN => raw(format!("SQLite cannot open it or a file beside it{system}")),
        ffi::SQLITE_READONLY | ffi::SQLITE_PERM | ffi::SQLITE_AUTH => {
            raw(format!("SQLite may not read it: {message}{system}"))
        }
        // The file has a format that this SQLite does not know.
        ffi::SQLITE_ERROR if message.contains("no such table: sqlite_dbpage") => failed(
            "this program's SQLite cannot show pages: build it with LIBSQLITE3_FLAGS=-DSQLITE_ENABLE_DBPAGE_VTAB=1"
                .into(),
        ),
        ffi::SQLITE_ERROR => raw(format!("SQLite does not understand it: {message}")),
        ffi::SQLITE_INTERRUPT => Meaning::Fatal(ReadError::Stopped),
        _ => failed(format!("SQLite cannot read it: {message}{system}")),
    }
}

fn is_shortage(errno: i32) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM].iter().any(|shortage| shortage.raw_os_error() == errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn sorted(code: c_int, errno: i32) -> Meaning {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("said".into()));
        classify(&error, errno)
    }

    #[test]
    fn locks_are_waited_for_in_all_their_forms() {
        for code in [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_BUSY_RECOVERY,
            ffi::SQLITE_BUSY_SNAPSHOT,
            ffi::SQLITE_BUSY_TIMEOUT,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_PROTOCOL,
        ] {
            assert_eq!(sorted(code, 0), Meaning::Busy);
        }
        assert_eq!(sorted(ffi::SQLITE_READONLY_ROLLBACK, 0), Meaning::Journal);
        let Meaning::Index(why) = sorted(ffi::SQLITE_READONLY_CANTINIT, Errno::ACCESS.raw_os_error()) else {
            panic!("others may fill it")
        };
        assert!(why.contains("-shm file that cannot be written to: Permission denied"), "{why}");
        assert_eq!(sorted(ffi::SQLITE_INTERRUPT, 0), Meaning::Fatal(ReadError::Stopped));
    }

    #[test]
    fn what_sqlite_cannot_read_is_raw_and_says_why() {
        for (code, why) in [
            (ffi::SQLITE_NOTADB, "SQLite does not read it: said"),
            (ffi::SQLITE_CORRUPT_INDEX, "it is damaged: said"),
            (ffi::SQLITE_ERROR, "does not understand it: said"),
            (ffi::SQLITE_CANTOPEN, "beside it: Permission denied"),
            (ffi::SQLITE_READONLY_DIRECTORY, "cannot be created: Permission denied"),
            (ffi::SQLITE_IOERR_RDLOCK, "has no locks: Permission denied"),
            (ffi::SQLITE_IOERR_SHMMAP, "shared memory, which fails: Permission denied"),
        ] {
            let Meaning::Fatal(ReadError::Raw(said)) = sorted(code, Errno::ACCESS.raw_os_error()) else {
                panic!("{why}")
            };
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_another_time_may_read_fails() {
        for (code, errno) in [
            (ffi::SQLITE_IOERR_READ, Errno::IO),
            (ffi::SQLITE_NOMEM, Errno::NOMEM),
            (ffi::SQLITE_CANTOPEN, Errno::MFILE),
        ] {
            assert!(matches!(sorted(code, errno.raw_os_error()), Meaning::Fatal(ReadError::Failed(_))));
        }
        let unreadable = rusqlite::Error::QueryReturnedNoRows;
        assert!(matches!(classify(&unreadable, 0), Meaning::Fatal(ReadError::Failed(_))));
        let Meaning::Fatal(ReadError::Failed(why)) = sort(ffi::SQLITE_ERROR, "no such table: sqlite_dbpage", 0) else {
            panic!("the program was built wrong")
        };
        assert!(why.contains("SQLITE_ENABLE_DBPAGE_VTAB"), "{why}");
    }
}
