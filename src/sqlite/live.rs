//! Reads one database live: over a read-only connection, with one read transaction at a time.
//!
//! The state that [`Live::begin`] returns is that of one commit. It has `pages` pages: those in `in_wal` come from
//! [`Live::page`], and all others are the same bytes in [`Live::file`] until [`Live::end`]; beyond the file's end, the
//! page of SQLite's locks is zeros. In WAL mode writers are never blocked, except by their own checkpoints that wait
//! for readers (those that do more than `PASSIVE`); in rollback mode they are blocked from `begin` to `end`.
//!
//! Nothing of the source is changed: a read-only connection neither rolls back nor checkpoints, and SQLite may create
//! nothing beside the database ([`system_calls`]). Where it would have to, because nobody has a WAL database open, the
//! database is read [`at_rest`](super::at_rest). While a WAL database that others use is read here, the last of its
//! writers to close it leaves the log as it is; the next program to open it goes on from there.

mod attempt;
mod basis;
mod opening;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use self::basis::{Basis, written};
use super::at::DatabaseLocation;
use super::check::{self, Checked};
use super::error::{Meaning, ReadError, classify};
use super::fd_registry::{self, InodeLock, LockedFile};
use super::filesystem::unfit;
use super::handle::system_errno;
use super::header::Header;
use super::side_files::{Id, id};
use super::system_calls;
use super::wal::PageSet;
use crate::vault::entry::CheckKind;

/// The longest path that SQLite takes, including a side file's ending, in bytes.
pub const LONGEST_PATH: usize = 504;
/// The sleep between two attempts. A program that commits without pause leaves the database open to others only for a
/// moment at each commit, and an attempt has to meet such a moment.
pub const STEP: Duration = Duration::from_millis(1);
/// How often the same journal must be met, with sleeps in between, before it counts as left by a program that died.
const HOT: u32 = 3;
/// How often a `-shm` that others use must be met with no usable index, with sleeps in between, before that is
/// taken to last.
pub const UNINDEXED: u32 = 200;
const LOCKED: &str = "another program keeps it locked";
/// Why a database cannot be read whose log is not where the database is.
pub const ELSEWHERE: &str = "a program has it open under another path, or without what it left beside it: its write-ahead log (-wal, \
                             -shm) is not here";
const IN_USE_HERE: &str = "the file beside it that its programs share (-shm) is being read";
const COMES_AND_GOES: &str = "the files that its programs share beside it (-wal, -shm) come and go all the time";
const CUT_OFF: &str =
    "a transaction was cut off: a journal lies beside it that no program has rolled back (hot journal)";

/// How to deal with a database that other programs use.
#[derive(Debug, Clone, Copy)]
pub struct LiveOptions<'a> {
    /// How long to wait for locks, in total.
    pub patience: Duration,
    /// Set from outside to stop the work.
    pub stop: &'a AtomicBool,
}

/// The state that a transaction sees.
#[derive(Debug)]
pub struct TransactionState {
    /// Size of a page, in bytes.
    pub page_size: u32,
    /// Number of pages that the database has.
    pub pages: u64,
    /// If it is equal in two transactions of one [`Live`], nothing was committed between them.
    pub version: i64,
    /// Whether the database has a write-ahead log when it is written to, so that no writer waits for the transaction's
    /// end.
    pub logged: bool,
    /// The pages to be read through SQLite.
    pub in_wal: PageSet,
    /// Status of the database, just before the transaction began.
    pub stat: Stat,
    /// Status of its `-wal` at the same time.
    pub wal: Option<Stat>,
    /// Status of its `-journal` at the same time.
    pub journal: Option<Stat>,
    /// Whether the database's log has more than this state does. When the rest is committed, nothing that shows need
    /// change.
    pub pending: bool,
}

/// A database that is open for reading.
pub struct Live<'a> {
    // SQLite's descriptors are closed before ours, since closing drops the locks; the inode locks are released once
    // both are closed.
    connection: Option<Connection>,
    /// For a database that uses a log and is at rest: reads its file alone.
    alone: Option<Connection>,
    /// Holds a reader's lock on a database that uses a log, while others have it open.
    lock: Option<Connection>,
    mode: AccessMode,
    file: Arc<File>,
    /// The `-shm`, open under its inode lock since before the connection opened it.
    shm: Option<LockedFile>,
    inode_lock: InodeLock,
    at: Arc<DatabaseLocation>,
    options: LiveOptions<'a>,
    /// The patience that is left.
    left: Duration,
    /// Number of connections so far; SQLite's version is comparable only within one connection.
    generation: i64,
    /// How often another program came while the database was read at rest.
    met: u32,
    /// Until when such a program is awaited.
    awaited: Option<Instant>,
    /// Whether the connection has the `-shm` open.
    attached: bool,
    /// The `-shm` that lay there at first, and its mtime.
    first_shm: Option<(Id, i64)>,
    /// The basis of the last transaction's state.
    basis: Basis,
    begun: bool,
}

/// How a transaction reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccessMode {
    /// By what the database's programs share beside it.
    Shared,
    /// As a file that nobody has open, with its log if there is one.
    AtRest { log: bool },
}

/// Why one attempt to begin came to nothing.
enum BeginError {
    /// Something else has to be waited for, which the text names.
    Busy(&'static str),
    Journal,
    /// The database's programs have left nothing to read its log by, or have not made it yet.
    Index(String),
    /// The files beside the database are not those that were found there a moment ago.
    Changed,
    /// The files that the database's programs share stay there from now on: the attempt is made again.
    Again,
    /// A program that came before is awaited again.
    Awaited,
    Fatal(ReadError),
}

impl From<ReadError> for BeginError {
    fn from(error: ReadError) -> Self {
        BeginError::Fatal(error)
    }
}

fn failed(what: impl std::fmt::Display) -> ReadError {
    ReadError::Failed(what.to_string())
}

impl<'a> Live<'a> {
    /// Opens the database at its location, which must be the file whose inode lock the caller passes.
    ///
    /// # Errors
    /// Why it cannot be read live; nothing has been created then.
    pub fn open(at: Arc<DatabaseLocation>, inode_lock: InodeLock, options: LiveOptions<'a>) -> Result<Self, ReadError> {
        if !system_calls::replaced() {
            return Err(ReadError::Raw("this program's SQLite would create files beside it".into()));
        }
        let expected = inode_lock.id();
        let opened =
            fd_registry::open(inode_lock, options.stop, || at.open("", OFlags::RDONLY)).map_err(|why| match why {
                Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::TIMEDOUT => ReadError::Replaced,
                Errno::CANCELED => ReadError::Stopped,
                why => failed(format!("it cannot be opened: {why}")),
            })?;
        if opened.inode_lock.id() != expected {
            return Err(ReadError::Replaced);
        }
        let LockedFile { file, inode_lock, .. } = opened;
        if Header::read(&file).map_err(|why| failed(format!("it cannot be read: {why}")))?.is_none() {
            return Err(ReadError::Raw("it is not a SQLite database any more".into()));
        }
        if let Some(why) = unfit(&file).map_err(|why| failed(format!("its filesystem is unknown: {why}")))? {
            return Err(ReadError::Raw(why));
        }
        if at.path().as_os_str().len() > LONGEST_PATH {
            return Err(ReadError::Raw(format!("its path is longer than the {LONGEST_PATH} bytes that SQLite takes")));
        }
        let mut live = Live {
            connection: None,
            alone: None,
            lock: None,
            mode: AccessMode::Shared,
            file: Arc::new(file),
            shm: None,
            inode_lock,
            at,
            options,
            left: options.patience,
            generation: 0,
            met: 0,
            awaited: None,
            attached: false,
            first_shm: None,
            basis: Basis::Locks,
            begun: false,
        };
        live.first_shm = live.beside("-shm")?.as_ref().map(written);
        live.connect()?;
        Ok(live)
    }

    /// This program's own descriptor of the database, for reading pages with `pread`. The caller drops it before this
    /// value is closed or dropped: closing the descriptor takes away SQLite's locks.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// Why none could begin; locks are waited for as long as the patience lasts.
    pub fn begin(&mut self) -> Result<TransactionState, ReadError> {
        if self.begun {
            return Err(failed("a transaction is open already"));
        }
        let (mut journal, mut met, mut changed, mut unindexed) = (None, 0, 0, 0);
        loop {
            let clock = Instant::now();
            let refused = match self.attempt() {
                Ok(state) => {
                    self.begun = true;
                    return Ok(state);
                }
                Err(refused) => refused,
            };
            if !matches!(refused, BeginError::Again | BeginError::Awaited) {
                self.rollback();
            }
            let why = match refused {
                BeginError::Busy(why) => why,
                BeginError::Journal => {
                    // A journal that is being deleted by its commit right now looks like one whose program died; only
                    // the latter stays.
                    let now = self.beside("-journal")?.map(|s| (id(&s), s.st_mtime, s.st_mtime_nsec, s.st_size));
                    let another = journal.is_some() && now != journal;
                    met = if now.is_some() && !another { met + 1 } else { 0 };
                    journal = now;
                    if met == HOT {
                        return Err(ReadError::Raw(CUT_OFF.into()));
                    }
                    if met > 0 {
                        thread::sleep(STEP);
                        continue;
                    }
                    LOCKED
                }
                BeginError::Index(why) => {
                    // Programs that open the database only for a moment each leave it like this in between.
                    unindexed += 1;
                    if unindexed == UNINDEXED {
                        return Err(ReadError::Raw(why));
                    }
                    thread::sleep(STEP);
                    continue;
                }
                BeginError::Again => continue,
                BeginError::Awaited => {
                    thread::sleep(STEP);
                    continue;
                }
                BeginError::Changed => {
                    // The next attempt first takes the inode lock of what SQLite opens.
                    self.connection = None;
                    changed += 1;
                    if changed < 3 {
                        continue;
                    }
                    COMES_AND_GOES
                }
                BeginError::Fatal(error) => return Err(self.replaced_or(error)),
            };
            self.wait(why, clock)?;
        }
    }

    /// Reads a page of the transaction's state through SQLite; the first page is 1. `out` is one page long.
    ///
    /// # Errors
    /// A page that does not exist; a transaction that has ended; a file that cannot be read.
    pub fn page(&self, number: u32, out: &mut [u8]) -> Result<(), ReadError> {
        let connection = self.transaction()?;
        let mut read = || -> rusqlite::Result<bool> {
            let mut statement = connection.prepare_cached("select data from sqlite_dbpage where pgno = ?1")?;
            let mut rows = statement.query([number])?;
            let Some(row) = rows.next()? else { return Ok(false) };
            match row.get_ref(0)?.as_blob() {
                Ok(page) if page.len() == out.len() => out.copy_from_slice(page),
                _ => return Ok(false),
            }
            Ok(true)
        };
        match read() {
            Ok(true) => Ok(()),
            Ok(false) => Err(failed(format!("SQLite has no page {number} of {} bytes", out.len()))),
            Err(why) => Err(self.read_error(&why)),
        }
    }

    /// Has SQLite check the transaction's state.
    ///
    /// # Errors
    /// A check that was stopped, or that could not read the file.
    pub fn check(&mut self, kind: CheckKind) -> Result<Checked, ReadError> {
        check::check(self.transaction()?, kind, self.options.stop).map_err(|why| self.read_error(&why))
    }

    /// Ends the transaction. Returns whether its state stood to the end, and with it everything that was read.
    ///
    /// # Errors
    /// A transaction that cannot be ended; the connection is closed then, which ends it too.
    pub fn end(&mut self) -> Result<bool, ReadError> {
        // A log that was cut meanwhile has not given what was asked of it.
        let logged = self.mode != AccessMode::Shared || self.basis == Basis::Locks || self.is_log_of_index();
        let ended = self.transaction()?.execute_batch("rollback").map_err(|why| self.read_error(&why));
        self.begun = false;
        let stands = self.stands().map(|stands| stands && logged);
        if matches!(stands, Ok(false)) {
            self.somebody_came();
        } else {
            // No program is kept from closing the database while what was read is sent.
            self.lock = None;
        }
        if let Err(why) = ended {
            (self.connection, self.alone) = (None, None);
            // The change may be the very thing that made SQLite fail.
            return if stands? { Err(why) } else { Ok(false) };
        }
        stands
    }

    /// The connection that reads, or is going to.
    fn reader(&self) -> Option<&Connection> {
        match self.mode {
            AccessMode::AtRest { log: false } => self.alone.as_ref(),
            AccessMode::AtRest { log: true } | AccessMode::Shared => self.connection.as_ref(),
        }
    }

    fn transaction(&self) -> Result<&Connection, ReadError> {
        self.reader().filter(|_| self.begun).ok_or_else(|| failed("no transaction is open"))
    }

    fn read_error(&self, why: &rusqlite::Error) -> ReadError {
        let errno = self.reader().map_or(0, system_errno);
        match classify(why, errno) {
            Meaning::Busy => ReadError::Busy(LOCKED.into()),
            Meaning::Journal => ReadError::Raw(CUT_OFF.into()),
            Meaning::Index(why) => ReadError::Raw(why),
            Meaning::Fatal(error) => error,
        }
    }

    /// Ends what was begun; a connection that cannot end it is closed. In shared mode the lock connection is kept: what
    /// others share exists as long as the lock does.
    fn rollback(&mut self) {
        if self.mode != AccessMode::Shared {
            (self.alone, self.lock, self.connection) = (None, None, None);
        }
        if self.connection.as_ref().is_some_and(|c| !c.is_autocommit() && c.execute_batch("rollback").is_err()) {
            self.connection = None;
        }
    }

    /// Sleeps while something is in the way. The patience shrinks by the time since `clock`, as an attempt may take
    /// long by itself.
    fn wait(&mut self, why: &str, clock: Instant) -> Result<(), ReadError> {
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(ReadError::Stopped);
        }
        if self.left.is_zero() {
            return Err(ReadError::Busy(format!("{why}, for {:?} now", self.options.patience)));
        }
        thread::sleep(STEP.min(self.left));
        self.left = self.left.saturating_sub(clock.elapsed());
        Ok(())
    }
}
