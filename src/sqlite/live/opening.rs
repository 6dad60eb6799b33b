//! Opens the connections that read a database, and makes sure that they read this one.

use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use super::super::handle::{has_moved, lock_shared, system_errno};
use super::super::header::Header;
use super::super::{at_rest, locks, system_calls};
use super::{AccessMode, BeginError, IN_USE_HERE, LOCKED, Live, failed};
use crate::fs::is_file;
use crate::sqlite::error::{Meaning, ReadError, classify};
use crate::sqlite::fd_registry::{self, try_lock_inode};
use crate::sqlite::side_files::{Id, id};

impl Live<'_> {
    /// The status of a file beside the database; `None` if there is none. SQLite will find the file by its path, which
    /// must lead to the same one.
    pub(super) fn beside(&self, ending: &str) -> Result<Option<Stat>, ReadError> {
        let cannot = |why| failed(format!("its {ending} file cannot be looked at: {why}"));
        let found = self.at.status(ending).map_err(cannot)?;
        let by_path = self.at.status_by_path(ending).map_err(cannot)?;
        if found.as_ref().map(id) != by_path.as_ref().map(id) {
            // It comes or goes at this moment, unless the folder is another one now.
            self.still_there()?;
        }
        match found {
            Some(stat) if !is_file(&stat) => {
                Err(ReadError::Raw(format!("what has the name of its {ending} file is not a file")))
            }
            found => Ok(found),
        }
    }

    /// Fails if the path does not lead to our file any more, or leads there through another folder.
    pub(super) fn still_there(&self) -> Result<(), ReadError> {
        let cannot = |why| ReadError::Raw(format!("its path, which SQLite needs, cannot be followed: {why}"));
        let ours = |stat: Option<Stat>| stat.is_some_and(|stat| id(&stat) == self.inode_lock.id());
        let same = self.at.is_where_the_path_leads().map_err(cannot)?
            && ours(self.at.status("").map_err(cannot)?)
            && ours(self.at.status_by_path("").map_err(cannot)?);
        if same { Ok(()) } else { Err(ReadError::Replaced) }
    }

    /// Returns what went wrong, or that the path does not lead to our file any more, if that is so.
    pub(super) fn replaced_or(&self, error: ReadError) -> ReadError {
        match self.still_there() {
            Err(ReadError::Replaced) => ReadError::Replaced,
            _ => error,
        }
    }

    /// Opens a connection. SQLite takes no lock yet, and creates nothing.
    pub(super) fn connect(&mut self) -> Result<(), ReadError> {
        self.still_there()?;
        // If there is no symlink in the path, none can be swapped.
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let own_index = self.mode == AccessMode::AtRest { log: true };
        let open = || {
            let connection = Connection::open_with_flags(self.at.path(), flags)?;
            if own_index {
                at_rest::index_log_itself(&connection)?;
            }
            configured(connection)
        };
        match system_calls::changing_nothing(open) {
            Ok(connection) => self.connection = Some(connection),
            Err(why) => return Err(self.replaced_or(self.read_error(&why))),
        }
        self.generation += 1;
        self.attached = false;
        self.same(self.connection.as_ref())
    }

    /// Opens a connection for which the file is all there is.
    fn alone(&self) -> Result<Connection, BeginError> {
        self.still_there()?;
        let opened = system_calls::changing_nothing(|| at_rest::open_file(self.at.path()).and_then(configured));
        let connection = opened.map_err(|why| refused(&why, 0))?;
        self.same(Some(&connection))?;
        Ok(connection)
    }

    /// Prepares reading the file alone.
    pub(super) fn read_alone(&mut self) -> Result<(), BeginError> {
        if self.alone.is_none() {
            self.alone = Some(self.alone()?);
            self.generation += 1;
        }
        Ok(())
    }

    /// Takes a reader's lock, so that what the database's programs share stays there. The lock belongs to a connection
    /// of its own, which outlives the transaction of the connection that reads.
    pub(super) fn lock(&mut self) -> Result<(), BeginError> {
        let connection = self.alone()?;
        lock_shared(&connection).map_err(|why| refused(&why, system_errno(&connection)))?;
        self.shrink_read_lock()?;
        self.lock = Some(connection);
        Ok(())
    }

    /// As [`locks::shrink_read_lock`].
    pub(super) fn shrink_read_lock(&self) -> Result<(), ReadError> {
        locks::shrink_read_lock(&self.file).map_err(|why| failed(format!("its lock cannot be released in part: {why}")))
    }

    /// Whether a program has the `-shm` open that was found, or is about to again. From now on it is open here, under
    /// its inode lock.
    pub(super) fn is_shared(&mut self, shm: Id) -> Result<bool, BeginError> {
        // SQLite must not open it before we have its inode lock: another thread here that then closed it would take
        // SQLite's locks away.
        if self.shm.as_ref().is_none_or(|open| open.inode_lock.id() != shm) {
            (self.connection, self.shm) = (None, None);
            let hold = try_lock_inode(shm.0, shm.1).ok_or(BeginError::Busy(IN_USE_HERE))?;
            let opened = match fd_registry::open(hold, self.options.stop, || self.at.open("-shm", OFlags::RDONLY)) {
                Ok(opened) if opened.inode_lock.id() == shm => opened,
                Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::TIMEDOUT | Errno::CANCELED) => {
                    return Err(BeginError::Changed);
                }
                // The programs of the user that it belongs to may be using it.
                Err(Errno::ACCESS | Errno::PERM) => return Ok(true),
                Err(why) => return Err(failed(format!("its -shm file cannot be opened: {why}")).into()),
            };
            self.shm = Some(opened);
        }
        if self.shm.as_ref().is_none_or(|shm| locks::is_open(&shm.file)) {
            return Ok(true);
        }
        // A program that comes now finds it open here.
        let ours = self.attached && self.connection.is_some();
        if ours {
            self.is_nobodys()?;
        }
        Ok(ours)
    }

    /// Fails if SQLite has another file open than we have.
    pub(super) fn same(&self, connection: Option<&Connection>) -> Result<(), ReadError> {
        // If the path had led to another file in between, one of three checks would show it.
        self.still_there()?;
        if connection.is_none_or(has_moved) {
            return Err(ReadError::Replaced);
        }
        self.still_there()
    }

    /// Whether the file says that readers must use a log.
    pub(super) fn is_logged(&self) -> Result<bool, ReadError> {
        let header = Header::read(&self.file).map_err(|why| failed(format!("it cannot be read: {why}")))?;
        Ok(header.is_some_and(|header| header.wal))
    }
}

/// Tells what SQLite's refusal means for an attempt to begin.
pub(super) fn refused(why: &rusqlite::Error, errno: i32) -> BeginError {
    match classify(why, errno) {
        Meaning::Busy => BeginError::Busy(LOCKED),
        Meaning::Journal => BeginError::Journal,
        Meaning::Index(why) => BeginError::Index(why),
        Meaning::Fatal(error) => BeginError::Fatal(error),
    }
}

/// Configures a connection through which nothing has been read yet.
fn configured(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.execute_batch("pragma mmap_size = 0")?;
    Ok(connection)
}
