//! One database, read live: a read-only connection and one read transaction at a time.
//!
//! The state that [`Live::begin`] names is that of one commit: `pages` pages, of which those in `in_wal` come from
//! [`Live::page`] and all others are the same bytes in [`Live::file`] until [`Live::end`]; beyond the file's end, the page of
//! SQLite's locks is zeros. Writers are never blocked in WAL mode, and in rollback mode from `begin` to `end`.
//!
//! Nothing of the source is changed: a read-only connection neither rolls back nor checkpoints, and what SQLite creates
//! beside the database for reading it is removed by [`Live::close`]. While a WAL database is open here, its last writer to
//! close it leaves the log as it is; the next to open it goes on from there.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{OFlags, Stat, fstat};
use rustix::io::Errno;

use super::at::At;
use super::check;
use super::check::Checked;
use super::filesystem::unfit;
use super::handle::{has_moved, system_errno};
use super::header::{Header, is_page_size};
use super::registry::{Hold, try_hold};
use super::side::{Created, Id, creates_as_owner, id, is_file};
use super::trouble::{Meaning, Trouble, meaning};
use super::wal::{Ended, PageSet, pages_in_wal};
use crate::vault::entry::CheckKind;

/// The longest path that SQLite takes, with a side file's ending, in bytes.
pub const LONGEST_PATH: usize = 504;
/// The sleep between two attempts. A program that commits without pause leaves the database open to others for a moment of
/// each commit only, and that has to be met.
const STEP: Duration = Duration::from_millis(1);
/// How often the same journal must be met, with sleeps between, before it is nobody's.
const HOT: u32 = 3;
const LOCKED: &str = "another program keeps it locked";
const IN_USE_HERE: &str = "the file beside it that its programs share (-shm) is being read";
const SEVERAL: &str =
    "it has several names (hard links), and what its app left beside one of them is not seen from another";
const ANOTHERS: &str =
    "it has a write-ahead log and belongs to another user, who could not write to the files that reading it creates";
const CUT_OFF: &str =
    "a transaction was cut off: a journal lies beside it that no program has rolled back (hot journal)";

/// How to deal with a database that others use.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// How long to wait for locks, in all.
    pub patience: Duration,
    /// Set from outside to stop.
    pub stop: &'a AtomicBool,
}

/// What a transaction sees.
#[derive(Debug)]
pub struct State {
    /// In bytes.
    pub page_size: u32,
    /// How many pages the database has.
    pub pages: u64,
    /// Equal in two transactions of one [`Live`]: nothing was committed between them.
    pub version: i64,
    /// Whether there is a write-ahead log, so that no writer waits for the transaction's end.
    pub logged: bool,
    /// Pages to be read through SQLite.
    pub in_wal: PageSet,
    /// Of the database, as it was just before the transaction began.
    pub stat: Stat,
    /// Of its `-wal`, likewise.
    pub wal: Option<Stat>,
    /// Of its `-journal`, likewise.
    pub journal: Option<Stat>,
}

/// A database that is open for reading.
pub struct Live<'a> {
    // SQLite's descriptors are closed before ours, since that drops the locks; the holds go when both are closed.
    connection: Option<Connection>,
    file: Arc<File>,
    /// Of the `-shm`, since before the connection opened it.
    shm: Option<Hold>,
    hold: Hold,
    at: Arc<At>,
    options: Options<'a>,
    /// Patience that is left.
    left: Duration,
    /// Connections so far, since SQLite's version means something within one only.
    generation: i64,
    begun: bool,
    created: Created,
}

/// Why one attempt to begin came to nothing.
enum Refused {
    /// Whom to wait for.
    Busy(&'static str),
    Journal,
    /// SQLite has a `-shm` file open that was not held before.
    Unheld,
    Trouble(Trouble),
}

/// What SQLite sees in a transaction.
struct Seen {
    version: i64,
    page_size: u32,
    pages: u64,
    logged: bool,
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        Refused::Trouble(trouble)
    }
}

fn failed(what: impl std::fmt::Display) -> Trouble {
    Trouble::Failed(what.to_string())
}

impl<'a> Live<'a> {
    /// Opens the database at its place, which must be the file that the caller holds.
    ///
    /// # Errors
    /// Why it cannot be read so; nothing has been created then.
    pub fn open(at: Arc<At>, hold: Hold, options: Options<'a>) -> Result<Self, Trouble> {
        let file = match at.open("", OFlags::RDONLY) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Err(Trouble::Replaced),
            Err(why) => return Err(failed(format!("it cannot be opened: {why}"))),
        };
        let stat = fstat(&file).map_err(failed)?;
        if id(&stat) != hold.id() {
            return Err(Trouble::Replaced);
        }
        let used = |ending| at.status(ending).map(|stat| stat.is_some());
        if stat.st_nlink > 1 && !used("-wal").map_err(failed)? && !used("-journal").map_err(failed)? {
            return Err(Trouble::Raw(SEVERAL.into()));
        }
        let Some(header) = Header::read(&file).map_err(|why| failed(format!("it cannot be read: {why}")))? else {
            return Err(Trouble::Raw("it is no SQLite database any more".into()));
        };
        if let Some(why) =
            unfit(&file, header.wal).map_err(|why| failed(format!("its filesystem is unknown: {why}")))?
        {
            return Err(Trouble::Raw(why));
        }
        if at.path().as_os_str().len() > LONGEST_PATH {
            return Err(Trouble::Raw(format!("its path is longer than the {LONGEST_PATH} bytes that SQLite takes")));
        }
        let mut live = Live {
            connection: None,
            file: Arc::new(file),
            shm: None,
            hold,
            at,
            options,
            left: options.patience,
            generation: 0,
            begun: false,
            created: Created::default(),
        };
        live.connect()?;
        Ok(live)
    }

    /// Our own descriptor of the database, for reading pages with `pread`. It is let go before this is closed or dropped:
    /// whoever closes it takes away SQLite's locks.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// Why there is none; locks are waited for as long as patience lasts.
    pub fn begin(&mut self) -> Result<State, Trouble> {
        if self.begun {
            return Err(failed("a transaction is open already"));
        }
        let (mut journal, mut met, mut unheld) = (None, 0, 0);
        loop {
            let refused = match self.attempt() {
                Ok(state) => {
                    self.begun = true;
                    return Ok(state);
                }
                Err(refused) => refused,
            };
            self.rollback();
            let why = match refused {
                Refused::Busy(why) => why,
                Refused::Journal => {
                    // A journal that its commit deletes at this moment looks like one whose program died. That one stays.
                    let now = self.beside("-journal")?.map(|s| (id(&s), s.st_mtime, s.st_mtime_nsec, s.st_size));
                    let another = journal.is_some() && now != journal;
                    met = if now.is_some() && !another { met + 1 } else { 0 };
                    journal = now;
                    if met == HOT {
                        return Err(Trouble::Raw(CUT_OFF.into()));
                    }
                    if met > 0 {
                        thread::sleep(STEP);
                        continue;
                    }
                    LOCKED
                }
                Refused::Unheld => {
                    // The next attempt holds the file first.
                    self.connection = None;
                    unheld += 1;
                    if unheld < 3 {
                        continue;
                    }
                    "the file beside it that its programs share (-shm) is replaced again and again"
                }
                Refused::Trouble(trouble) => return Err(self.replaced_or(trouble)),
            };
            self.wait(why)?;
        }
    }

    /// Reads a page of the transaction's state, the first being 1, through SQLite. `out` is one page long.
    ///
    /// # Errors
    /// A page that is not there; a transaction that has ended; a file that cannot be read.
    pub fn page(&self, number: u32, out: &mut [u8]) -> Result<(), Trouble> {
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
            Err(why) => Err(self.trouble(&why)),
        }
    }

    /// Checks the transaction's state.
    ///
    /// # Errors
    /// A check that was stopped, or that could not read the file.
    pub fn check(&mut self, kind: CheckKind) -> Result<Checked, Trouble> {
        check::check(self.transaction()?, kind, self.options.stop).map_err(|why| self.trouble(&why))
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// One that cannot be ended; the connection is closed then, which ends it too.
    pub fn end(&mut self) -> Result<(), Trouble> {
        self.transaction()?;
        self.begun = false;
        let Some(connection) = &self.connection else { return Ok(()) };
        connection.execute_batch("rollback").map_err(|why| {
            let trouble = self.trouble(&why);
            self.connection = None;
            trouble
        })
    }

    /// Closes the database and removes what was created beside it, unless others use it by now.
    ///
    /// # Errors
    /// What had to be left beside it, and why.
    pub fn close(mut self) -> Result<(), String> {
        self.shut()
    }

    fn shut(&mut self) -> Result<(), String> {
        self.begun = false;
        self.connection = None;
        std::mem::take(&mut self.created).remove(&self.at, self.hold.id())
    }

    fn transaction(&self) -> Result<&Connection, Trouble> {
        match &self.connection {
            Some(connection) if self.begun => Ok(connection),
            _ => Err(failed("no transaction is open")),
        }
    }

    fn trouble(&self, why: &rusqlite::Error) -> Trouble {
        let errno = self.connection.as_ref().map_or(0, system_errno);
        match meaning(why, errno) {
            Meaning::Busy => Trouble::Busy(LOCKED.into()),
            Meaning::Journal => Trouble::Raw(CUT_OFF.into()),
            Meaning::Trouble(trouble) => trouble,
        }
    }

    /// A file beside the database. SQLite will find it by its path: that must lead to the same.
    fn beside(&self, ending: &str) -> Result<Option<Stat>, Trouble> {
        let cannot = |why| failed(format!("its {ending} file cannot be looked at: {why}"));
        let found = self.at.status(ending).map_err(cannot)?;
        let by_path = self.at.status_by_path(ending).map_err(cannot)?;
        if found.as_ref().map(id) != by_path.as_ref().map(id) {
            // It comes or goes at this moment; unless the folder is another one now.
            self.still_there()?;
        }
        match found {
            Some(stat) if !is_file(&stat) => {
                Err(Trouble::Raw(format!("what lies beside it under the name of its {ending} file is no file")))
            }
            found => Ok(found),
        }
    }

    /// Fails when the path does not lead to our file any more, or leads there through another folder.
    fn still_there(&self) -> Result<(), Trouble> {
        let cannot = |why| Trouble::Raw(format!("its path, which SQLite needs, cannot be followed: {why}"));
        let ours = |stat: Option<Stat>| stat.is_some_and(|stat| id(&stat) == self.hold.id());
        let same = self.at.is_where_the_path_leads().map_err(cannot)?
            && ours(self.at.status("").map_err(cannot)?)
            && ours(self.at.status_by_path("").map_err(cannot)?);
        if same { Ok(()) } else { Err(Trouble::Replaced) }
    }

    /// What went wrong, or that it did because the path does not lead to our file any more.
    fn replaced_or(&self, trouble: Trouble) -> Trouble {
        match self.still_there() {
            Err(Trouble::Replaced) => Trouble::Replaced,
            _ => trouble,
        }
    }

    /// Opens a connection; SQLite takes no lock yet, and creates nothing.
    fn connect(&mut self) -> Result<(), Trouble> {
        self.still_there()?;
        // Without a symlink in the path there is none to be swapped.
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let opened = Connection::open_with_flags(self.at.path(), flags).and_then(|connection| {
            connection.busy_timeout(Duration::ZERO)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            connection.execute_batch("pragma mmap_size = 0")?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => self.connection = Some(connection),
            Err(why) => return Err(self.replaced_or(self.trouble(&why))),
        }
        self.generation += 1;
        self.same()
    }

    /// Fails when SQLite has another file open than we have.
    fn same(&self) -> Result<(), Trouble> {
        // Were the path another file between the two, one of three looks would show it.
        self.still_there()?;
        if self.connection.as_ref().is_none_or(has_moved) {
            return Err(Trouble::Replaced);
        }
        self.still_there()
    }

    /// Tries once to begin a transaction.
    fn attempt(&mut self) -> Result<State, Refused> {
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(Trouble::Stopped.into());
        }
        // SQLite must not open it before we hold it: somebody here who then closed it would take SQLite's locks away.
        if let Some(now) = self.beside("-shm")?.as_ref().map(id)
            && !self.holds_shm(now)
        {
            self.connection = None;
            self.shm = None;
            self.shm = Some(try_hold(now.0, now.1).ok_or(Refused::Busy(IN_USE_HERE))?);
        }
        if self.connection.is_none() {
            self.connect()?;
        }
        let stat = fstat(&self.file).map_err(failed)?;
        if stat.st_size == 0 {
            // SQLite deletes a log beside an empty file.
            return Err(Trouble::Raw("it has become empty".into()).into());
        }
        let (mut wal, journal) = (self.beside("-wal")?, self.beside("-journal")?);
        let shm = self.beside("-shm")?;
        if (wal.is_none() || shm.is_none()) && !creates_as_owner(&stat) && self.is_logged()? {
            return Err(Trouble::Raw(ANOTHERS.into()).into());
        }
        let read = self.read();
        let (wal_now, shm_now) = (self.beside("-wal")?, self.beside("-shm")?);
        for (before, now, created) in [(&wal, &wal_now, &mut self.created.wal), (&shm, &shm_now, &mut self.created.shm)]
        {
            if let (None, Some(now)) = (before, now) {
                *created = Some(id(now));
            }
        }
        let Seen { version, page_size, pages, logged } = read?;
        if logged && !shm_now.is_some_and(|now| self.holds_shm(id(&now))) {
            return Err(Refused::Unheld);
        }
        // The log was found by its path.
        self.same()?;
        let whole = u64::try_from(fstat(&self.file).map_err(failed)?.st_size).unwrap_or(0) / u64::from(page_size);
        let go_on = || !self.options.stop.load(Ordering::Relaxed);
        let connection = self.connection.as_ref().ok_or_else(|| failed("its connection is gone"))?;
        let in_wal = pages_in_wal(connection, logged, page_size, pages, whole, &go_on).map_err(|why| match why {
            Ended::Stopped => Trouble::Stopped,
            Ended::Failed(code) => failed(format!("its write-ahead log cannot be read: SQLite's error {code}")),
        })?;
        // One that is only there because an attempt before this created it is not there.
        wal = wal.filter(|wal| wal.st_size > 0 || self.created.wal != Some(id(wal)));
        Ok(State { page_size, pages, version: self.generation << 32 | version, logged, in_wal, stat, wal, journal })
    }

    /// Whether the file says that readers must use a log.
    fn is_logged(&self) -> Result<bool, Trouble> {
        let header = Header::read(&self.file).map_err(|why| failed(format!("it cannot be read: {why}")))?;
        Ok(header.is_some_and(|header| header.wal))
    }

    fn holds_shm(&self, now: Id) -> bool {
        self.shm.as_ref().is_some_and(|held| held.id() == now)
    }

    /// Begins SQLite's transaction, and looks at what it sees.
    fn read(&self) -> Result<Seen, Refused> {
        let Some(connection) = &self.connection else { return Err(failed("its connection is gone").into()) };
        let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let read = || {
            connection.execute_batch("begin")?;
            // This one takes the locks: it needs no schema, which may be what is damaged.
            let version = number("pragma data_version")?;
            let (page_size, pages) = (number("pragma page_size")?, number("pragma page_count")?);
            let logged =
                connection.query_row("pragma journal_mode", [], |row| Ok(row.get_ref(0)?.as_str()? == "wal"))?;
            Ok((version, page_size, pages, logged))
        };
        let (version, page_size, pages, logged) =
            read().map_err(|why| match meaning(&why, system_errno(connection)) {
                Meaning::Busy => Refused::Busy(LOCKED),
                Meaning::Journal => Refused::Journal,
                Meaning::Trouble(trouble) => Refused::Trouble(trouble),
            })?;
        match (u32::try_from(page_size), u64::try_from(pages)) {
            (Ok(page_size), Ok(pages)) if is_page_size(page_size) && pages > 0 => {
                Ok(Seen { version, page_size, pages, logged })
            }
            _ => Err(Trouble::Raw(format!("SQLite sees {pages} pages of {page_size} bytes in it")).into()),
        }
    }

    /// Ends what was begun; a connection that cannot is closed.
    fn rollback(&mut self) {
        if self.connection.as_ref().is_some_and(|c| !c.is_autocommit() && c.execute_batch("rollback").is_err()) {
            self.connection = None;
        }
    }

    fn wait(&mut self, why: &str) -> Result<(), Trouble> {
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(Trouble::Stopped);
        }
        if self.left.is_zero() {
            return Err(Trouble::Busy(format!("{why}, for {:?} now", self.options.patience)));
        }
        let clock = Instant::now();
        thread::sleep(STEP.min(self.left));
        self.left = self.left.saturating_sub(clock.elapsed());
        Ok(())
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        // Who wants to know what was left beside it calls `close`; after that there is nothing to remove.
        let _ = self.shut();
    }
}
