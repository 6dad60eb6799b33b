//! Makes one attempt to begin a transaction: what lies there, how that is to be read, and what SQLite then sees of it.

use std::sync::atomic::Ordering;

use rustix::fs::{OFlags, Stat, fstat};

use super::super::handle::system_errno;
use super::super::header::{self, is_page_size};
use super::super::system_calls;
use super::super::wal::{self, pages_in_wal};
use super::super::wal_index::Index;
use super::basis::Basis;
use super::opening::refused;
use super::{AccessMode, BeginError, ELSEWHERE, LOCKED, Live, TransactionState, failed};
use crate::sqlite::error::ReadError;
use crate::sqlite::side_files::{self, id};
use crate::sqlite::wal::WalReadError;

/// The status of a database and of what lies beside it.
struct DatabaseFiles {
    database: Stat,
    wal: Option<Stat>,
    journal: Option<Stat>,
    shm: Option<Stat>,
    /// Whether the database file says that readers must use a log.
    logged: bool,
}

/// A database as SQLite sees it in a transaction.
struct TransactionHeader {
    version: i64,
    page_size: u32,
    pages: u64,
    logged: bool,
}

impl Live<'_> {
    /// Tries once to begin a transaction.
    pub(super) fn attempt(&mut self) -> Result<TransactionState, BeginError> {
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(ReadError::Stopped.into());
        }
        let found = self.stat_files()?;
        let (mode, joins, found) = self.choose(found)?;
        self.prepare_connection(mode, &found)?;
        // The rest of a `-shm` that nobody has open says nothing.
        let shared_index = self.shm.as_ref().filter(|_| mode == AccessMode::Shared);
        let index = shared_index.and_then(|shm| Index::read(&shm.file));
        let seen = self.begin_transaction(joins, &found)?;
        self.state(seen, index, joins, found)
    }

    /// Finds what lies there.
    fn stat_files(&self) -> Result<DatabaseFiles, BeginError> {
        let logged = self.is_logged()?;
        let database = fstat(&self.file).map_err(failed)?;
        if database.st_size == 0 {
            // SQLite deletes a log beside an empty file.
            return Err(ReadError::Raw("it has become empty".into()).into());
        }
        // A program that opens the database at this moment creates its `-wal` first: if its `-shm` was found, the
        // `-wal` is there.
        let shm = self.beside("-shm")?;
        Ok(DatabaseFiles { database, wal: self.beside("-wal")?, journal: self.beside("-journal")?, shm, logged })
    }

    /// Chooses how the database is to be read, whether by a `-shm` that was left, and returns what lies there once that
    /// is settled.
    fn choose(&mut self, found: DatabaseFiles) -> Result<(AccessMode, bool, DatabaseFiles), BeginError> {
        let mut shared = match (found.logged, &found.shm) {
            (true, Some(shm)) => self.is_shared(id(shm))?,
            (true, None) => false,
            (false, _) => true,
        };
        let keeps = !shared && self.must_keep_shared_files()?;
        if found.logged && (shared || keeps) && self.lock.is_none() {
            // Once what the programs share stays there, it is looked at again.
            self.lock()?;
            return Err(BeginError::Again);
        }
        let joins = keeps && found.shm.is_some() && self.is_index_whole();
        shared |= joins;
        if shared {
            return match found.logged && found.wal.is_none() {
                true => Err(BeginError::Index(ELSEWHERE.into())),
                false => Ok((AccessMode::Shared, joins, found)),
            };
        }
        let (database, wal, shm) = self.stat_at_rest(found.wal.as_ref())?;
        let mode = AccessMode::AtRest { log: wal.as_ref().is_some_and(|log| self.is_log(log)) };
        Ok((mode, joins, DatabaseFiles { database, wal, shm, ..found }))
    }

    /// Prepares a connection that reads in this mode.
    fn prepare_connection(&mut self, mode: AccessMode, found: &DatabaseFiles) -> Result<(), BeginError> {
        let mode_before = std::mem::replace(&mut self.mode, mode);
        // SQLite does not look at the journal in this mode.
        if mode == (AccessMode::AtRest { log: false })
            && found.journal.as_ref().is_some_and(|journal| self.is_hot(journal))
        {
            return Err(BeginError::Journal);
        }
        let basis = match found.logged {
            true => self.basis_of(&found.database, found.wal.as_ref(), found.shm.as_ref()),
            false => Basis::Locks,
        };
        // SQLite does not check whether a file that it has all to itself has changed.
        if mode != mode_before || mode != AccessMode::Shared && self.basis != basis {
            (self.connection, self.alone) = (None, None);
        }
        self.basis = basis;
        match mode {
            AccessMode::AtRest { log: false } => self.read_alone()?,
            AccessMode::AtRest { log: true } | AccessMode::Shared if self.connection.is_none() => self.connect()?,
            AccessMode::AtRest { log: true } | AccessMode::Shared => {}
        }
        Ok(())
    }

    /// Begins SQLite's transaction, and makes sure that SQLite sees what was found.
    fn begin_transaction(&mut self, joins: bool, found: &DatabaseFiles) -> Result<TransactionHeader, BeginError> {
        let (read, nobody) = match joins {
            true => (system_calls::as_left(|| self.read()), false),
            false => system_calls::after_others(|| self.read()),
        };
        if nobody {
            // The program that had the `-shm` open has just closed it.
            return Err(BeginError::Busy(LOCKED));
        }
        if self.is_logged()? != found.logged || !self.stands()? {
            return Err(BeginError::Changed);
        }
        let logged = self.mode == AccessMode::Shared && found.logged;
        if logged && (!self.is_log_of_index() || self.is_another_log_used(found.wal.as_ref())) {
            return Err(BeginError::Index(ELSEWHERE.into()));
        }
        let seen = read?;
        if self.mode == (AccessMode::AtRest { log: true }) {
            self.shrink_read_lock()?;
        }
        // The log was found by its path.
        self.same(self.reader())?;
        Ok(seen)
    }

    /// Returns the transaction's state. `index` is what the log's index said before the transaction began.
    fn state(
        &mut self,
        seen: TransactionHeader,
        index: Option<Index>,
        joins: bool,
        found: DatabaseFiles,
    ) -> Result<TransactionState, BeginError> {
        let TransactionHeader { version, page_size, pages, logged } = seen;
        let whole = u64::try_from(fstat(&self.file).map_err(failed)?.st_size).unwrap_or(0) / u64::from(page_size);
        let go_on = || !self.options.stop.load(Ordering::Relaxed);
        let connection = self.reader().ok_or_else(|| failed("its connection is gone"))?;
        let (in_wal, frames) = match pages_in_wal(connection, logged, page_size, pages, whole, &go_on) {
            Ok(found) => found,
            Err(WalReadError::Stopped) => return Err(ReadError::Stopped.into()),
            Err(WalReadError::Failed(_)) if !self.stands()? => return Err(BeginError::Changed),
            Err(WalReadError::Failed(code)) => {
                return Err(failed(format!("its write-ahead log cannot be read: SQLite's error {code}")).into());
            }
        };
        let shared = self.mode == AccessMode::Shared;
        let pending = match (index, frames) {
            (Some(index), Some(frames)) if !index.is_whole(frames) => return Err(BeginError::Index(ELSEWHERE.into())),
            // If nobody was there to commit the rest, the index is not of this log after all.
            (Some(index), Some(frames)) if joins && index.lacks(frames) => return Err(BeginError::Changed),
            (Some(index), Some(frames)) => index.lacks(frames),
            (None, Some(_)) => shared,
            (_, None) => false,
        };
        self.attached = shared;
        let DatabaseFiles { database: stat, wal, journal, logged, .. } = found;
        let version = self.generation << 32 | version;
        Ok(TransactionState { page_size, pages, version, logged, in_wal, stat, wal, journal, pending })
    }

    /// Whether a journal beside a database that nobody has open is one that SQLite would roll back.
    fn is_hot(&self, journal: &Stat) -> bool {
        let open = || self.at.open("-journal", OFlags::RDONLY);
        side_files::looks_so(journal, open, self.options.stop, header::is_log)
    }

    /// Whether SQLite reads a log that nobody has open: if the log does not begin like one, SQLite acts as if there
    /// were none.
    fn is_log(&self, log: &Stat) -> bool {
        side_files::looks_so(log, || self.at.open("-wal", OFlags::RDONLY), self.options.stop, wal::begins)
    }

    /// Begins SQLite's transaction, and returns what SQLite sees.
    fn read(&self) -> Result<TransactionHeader, BeginError> {
        let Some(connection) = self.reader() else { return Err(failed("its connection is gone").into()) };
        let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let read = || {
            connection.execute_batch("begin")?;
            // This pragma takes the locks: it needs no schema, which may be the very thing that is damaged.
            let version = number("pragma data_version")?;
            let (page_size, pages) = (number("pragma page_size")?, number("pragma page_count")?);
            let logged =
                connection.query_row("pragma journal_mode", [], |row| Ok(row.get_ref(0)?.as_str()? == "wal"))?;
            Ok((version, page_size, pages, logged))
        };
        let (version, page_size, pages, logged) =
            system_calls::changing_nothing(read).map_err(|why| refused(&why, system_errno(connection)))?;
        match (u32::try_from(page_size), u64::try_from(pages)) {
            (Ok(page_size), Ok(pages)) if is_page_size(page_size) && pages > 0 => {
                Ok(TransactionHeader { version, page_size, pages, logged })
            }
            _ => Err(ReadError::Raw(format!("SQLite sees {pages} pages of {page_size} bytes in it")).into()),
        }
    }
}
