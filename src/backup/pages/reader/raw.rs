//! Reads a database that SQLite must not open: the file, its WAL and its rollback journal as plain files.
//!
//! If none of them changed while they were read, SQLite recovers the last committed state from them. So all are read
//! again until none changed. SQLite rebuilds the `-shm`, which is never stored.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{OFlags, Stat, fstat};
use rustix::io::Errno;

use crate::backup::large::stream;
use crate::backup::message::{CapturedDatabase, CapturedFile, Disconnected, ReadEvent, ScanResult};
use crate::backup::pages::reader::{DatabaseCapture, DatabaseReader, identity_of};
use crate::backup::pages::scan::PASSES;
use crate::fs::holders::has_open;
use crate::fs::times::{mtime, wait_a_tick};
use crate::fs::{is_file, read_some};
use crate::monitor::Moment;
use crate::path::EntryPath;
use crate::source::extra::extra_of_file;
use crate::source::found::SourceEntry;
use crate::source::stable::Trust;
use crate::sqlite::at::DatabaseLocation;
use crate::sqlite::error::ReadError;
use crate::sqlite::fd_registry::{self, LockedFile};
use crate::sqlite::header::{Header, is_log};
use crate::sqlite::live::{ELSEWHERE, STEP, UNINDEXED};
use crate::sqlite::locks::{LockHolder, lock_holder};
use crate::sqlite::side_files::{StatFingerprint, id, looks, looks_so, side_of};
use crate::sqlite::source::{DatabaseState, PageSource, block_of};
use crate::sqlite::usage::{is_log_here, is_only_read, names_in_use};
use crate::sqlite::wal::PageSet;
use crate::vault::entry::{CaptureMethod, CheckKind, Database, DatabaseCheck};

/// Block size in bytes if the header does not tell the page size.
const BLOCK: u32 = 4096;

/// A database file that is read as it is.
struct Raw {
    file: Arc<File>,
    page: u32,
    /// Whether commits go into a WAL. `None` if the header does not tell.
    wal: Option<bool>,
    version: i64,
    last: Option<StatFingerprint>,
    /// The lock, released after the file is closed.
    hold: fd_registry::InodeLock,
}

impl PageSource for Raw {
    fn begin(&mut self) -> Result<DatabaseState, ReadError> {
        let now = fstat(&*self.file).map_err(refused)?;
        let look = looks(&now);
        if self.last.replace(look).is_some_and(|last| last != look) {
            self.version += 1;
        }
        let size = u64::try_from(now.st_size).unwrap_or(0);
        let block = block_of(self.page);
        Ok(DatabaseState { block, page: block, size, version: self.version, elsewhere: PageSet::default() })
    }

    fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    fn page(&mut self, number: u32, _: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError::Failed(format!("page {number} of a plain file was looked for elsewhere")))
    }

    fn settled(&mut self) -> Result<(), ReadError> {
        Ok(())
    }

    fn end(&mut self) -> Result<bool, ReadError> {
        Ok(true)
    }
}

impl Raw {
    /// Whether the side files bring the last committed state back. A journal without a header does not, unless it was
    /// changed last, as happens if the app keeps the file for the next transaction: otherwise it may have been left
    /// there before the app began to keep its journals in memory.
    fn logged(&self, at: &DatabaseLocation, set: &DatabaseStats, used: Used, stop: &AtomicBool) -> bool {
        let begins = |found: &Option<Stat>, ending: &str| {
            let open = || at.open(ending, OFlags::RDONLY);
            found.as_ref().is_some_and(|found| looks_so(found, open, stop, is_log))
        };
        let last = set.journal.as_ref().is_some_and(|found| found.st_size > 0 && mtime(found) >= mtime(&set.database));
        last || begins(&set.journal, "-journal")
            || match (self.wal, &set.wal) {
                (Some(true), Some(wal)) => match used {
                    // Before its first commit the log is empty. So is one that was left behind by a program whose log
                    // is elsewhere.
                    Used::Alone(pid) => pid.and_then(|pid| has_open(pid, id(wal))).unwrap_or(wal.st_size > 0),
                    Used::Seen | Used::Elsewhere => true,
                },
                (Some(_), _) => false,
                (None, _) => begins(&set.wal, "-wal"),
            }
    }
}

/// How other programs use a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    /// Not at all, or in a way that is visible here.
    Seen,
    /// With a log that is not here.
    Elsewhere,
    /// One program has it to itself; its process ID, if that is known.
    Alone(Option<u32>),
}

fn not_held(why: Errno) -> ReadError {
    match why {
        Errno::CANCELED => ReadError::Stopped,
        _ => ReadError::Busy("another part of this backup reads it, under another name".into()),
    }
}

fn refused(why: Errno) -> ReadError {
    ReadError::Failed(why.to_string())
}

/// Returns the status of a database or of a side file, if it exists; SQLite ignores anything else with that name.
fn look(at: &DatabaseLocation, ending: &str) -> Result<Option<Stat>, ReadError> {
    match at.status(ending) {
        Ok(found) => Ok(found.filter(is_file)),
        Err(why) => Err(ReadError::Failed(format!("{}: {why}", at.path_beside(ending).display()))),
    }
}

/// The files of a database at one moment.
struct DatabaseStats {
    database: Stat,
    journal: Option<Stat>,
    wal: Option<Stat>,
}

impl DatabaseStats {
    fn of(at: &DatabaseLocation) -> Result<DatabaseStats, ReadError> {
        Ok(DatabaseStats {
            database: look(at, "")?.ok_or(ReadError::Replaced)?,
            journal: look(at, "-journal")?,
            wal: look(at, "-wal")?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Stat> {
        [Some(&self.database), self.journal.as_ref(), self.wal.as_ref()].into_iter().flatten()
    }

    fn looks(&self) -> [Option<StatFingerprint>; 3] {
        [Some(looks(&self.database)), self.journal.as_ref().map(looks), self.wal.as_ref().map(looks)]
    }
}

impl DatabaseReader<'_> {
    /// Tells how other programs use a database: they may keep its side files elsewhere, or beside another of its
    /// names that is in the snapshot too.
    fn used(&self, source: &Raw, at: &DatabaseLocation) -> Result<Used, ReadError> {
        for _ in 0..UNINDEXED {
            let pid = match lock_holder(&source.file) {
                LockHolder::Alone(pid) => return Ok(Used::Alone(pid)),
                LockHolder::Reading(pid) if source.wal == Some(true) => pid,
                LockHolder::Reading(_) | LockHolder::No => return Ok(Used::Seen),
            };
            let stat = fstat(&*source.file).map_err(refused)?;
            let is_taken = |name: PathBuf| {
                let below = name.strip_prefix(self.root.path()).ok();
                let path = below.and_then(|below| EntryPath::new(below.as_os_str().as_bytes()).ok());
                path.is_some_and(|path| self.select.selects_file(&path))
            };
            let another_name =
                || stat.st_nlink > 1 && pid.into_iter().flat_map(|pid| names_in_use(pid, &stat)).any(is_taken);
            if is_log_here(at).map_err(refused)? || is_only_read(at, &*source.file, pid) || another_name() {
                return Ok(Used::Seen);
            }
            // Programs that are opening it at this moment are about to share it.
            std::thread::sleep(STEP);
        }
        Ok(Used::Elsewhere)
    }

    /// Reads a database and its side files as plain files.
    ///
    /// A database that another program keeps `locked` may be in the middle of a transaction, however long it stands
    /// still: it is whole only with a log from which SQLite gets the last committed state back, a WAL or a rollback
    /// journal.
    pub(super) fn raw(
        &self,
        why: String,
        locked: bool,
        capture: &mut DatabaseCapture,
    ) -> Result<Result<ReadEvent, ReadError>, Disconnected> {
        match self.read_raw(why, locked, capture) {
            Ok(part) => Ok(Ok(part)),
            Err(RawError::Disconnected) => Err(Disconnected),
            Err(RawError::Failed(why)) => Ok(Err(why)),
        }
    }

    fn read_raw(&self, why: String, locked: bool, capture: &mut DatabaseCapture) -> Result<ReadEvent, RawError> {
        capture.scanned = ScanResult::default();
        let mut source = open_raw(&capture.at, self.ctx.stop)?;
        let mut stack = self.stack(capture);
        let mut number = 1;
        loop {
            let now = self.settings.trust.now;
            let began = now();
            let mut before = DatabaseStats::of(&capture.at)?;
            // Each file may just have been written to.
            if before.all().fold(false, |waited, stat| wait_a_tick(stat, now()) | waited) {
                before = DatabaseStats::of(&capture.at)?;
            }
            if id(&before.database) != source.hold.id() {
                return Err(ReadError::Replaced.into());
            }
            // This is asked before and after: a program that came in between may have changed what had been read.
            let used = self.used(&source, &capture.at)?;
            let scanned = match self.scanner().scan(&mut source, &stack, number) {
                Ok(scanned) => scanned,
                Err(cut) => {
                    self.cut(cut, &mut stack, capture, &mut number)??;
                    continue;
                }
            };
            let steady = scanned.steady;
            capture.add(scanned);
            self.ctx.monitor.reached(Moment::Scanned, &capture.found.path);
            let sides = self.sides(capture, &source.file, &before)?;
            let after = DatabaseStats::of(&capture.at)?;
            let used_after = self.used(&source, &capture.at)?;
            let stable = steady && sides && before.looks() == after.looks() && used == used_after;
            if !stable && number < PASSES {
                number += 1;
                self.to.send(vec![ReadEvent::SidesAgain]).map_err(|_| Disconnected)?;
                self.settle(&mut stack, capture)?;
                continue;
            }
            let torn = match () {
                () if !stable => Some("it was written to while it was read, again and again, and may be torn"),
                () if used == Used::Elsewhere => Some(ELSEWHERE),
                () if (locked || matches!(used, Used::Alone(_)))
                    && !source.logged(&capture.at, &before, used, self.ctx.stop) =>
                {
                    Some(
                        "another program keeps it locked, and no log lies beside it: it may hold half of a transaction",
                    )
                }
                () => None,
            };
            return Ok(ended(why, torn, began, self.settings.trust, &source.file, &before, capture)?);
        }
    }

    /// Sends the side files of a database, which is open as `database`. Reports whether each was as it had been
    /// found.
    fn sides(&self, capture: &DatabaseCapture, database: &File, set: &DatabaseStats) -> Result<bool, RawError> {
        let mut as_found = true;
        for (suffix, found) in [("-journal", &set.journal), ("-wal", &set.wal)] {
            let Some(found) = found else { continue };
            let path = [capture.found.path.bytes(), suffix.as_bytes()].concat();
            let path = EntryPath::new(path).map_err(ReadError::Failed)?;
            let cannot = |why: Errno| ReadError::Failed(format!("{path}: {why}"));
            // A side file that is a link to the database is locked and open already.
            let opened = match id(found) == id(&set.database) {
                true => None,
                false => {
                    let hold = fd_registry::lock_inode(found.st_dev, found.st_ino, self.ctx.stop).map_err(not_held)?;
                    match fd_registry::open(hold, self.ctx.stop, || capture.at.open(suffix, OFlags::RDONLY)) {
                        Ok(opened) => Some(opened),
                        Err(Errno::NOENT | Errno::TIMEDOUT) => {
                            as_found = false;
                            continue;
                        }
                        Err(Errno::CANCELED) => return Err(ReadError::Stopped.into()),
                        Err(why) => return Err(cannot(why).into()),
                    }
                }
            };
            let file = opened.as_ref().map_or(database, |opened| &opened.file);
            let stat = fstat(file).map_err(cannot)?;
            as_found &= looks(&stat) == looks(found);
            if !is_file(&stat) {
                as_found = false;
                continue;
            }
            self.ctx.monitor.reached(Moment::Opened, &path);
            self.to.send(vec![ReadEvent::Side]).map_err(|_| Disconnected)?;
            let content = stream(file, &path, &stat, self.to, self.ctx, self.settings.trust)?;
            let content = content.map_err(|why| ReadError::Failed(format!("{path}: {why}")))?;
            self.to.send(vec![ReadEvent::SideEnd(Box::new(content))]).map_err(|_| Disconnected)?;
        }
        Ok(as_found)
    }
}

/// Why a raw read ended early.
enum RawError {
    /// The receiver is gone.
    Disconnected,
    Failed(ReadError),
}

impl From<Disconnected> for RawError {
    fn from(_: Disconnected) -> Self {
        RawError::Disconnected
    }
}

impl From<ReadError> for RawError {
    fn from(why: ReadError) -> Self {
        RawError::Failed(why)
    }
}

fn open_raw(at: &DatabaseLocation, stop: &AtomicBool) -> Result<Raw, ReadError> {
    let found = look(at, "")?.ok_or(ReadError::Replaced)?;
    let hold = fd_registry::lock_inode(found.st_dev, found.st_ino, stop).map_err(not_held)?;
    let opened = fd_registry::open(hold, stop, || at.open("", OFlags::RDONLY)).map_err(|why| match why {
        Errno::NOENT | Errno::LOOP => ReadError::Replaced,
        Errno::CANCELED | Errno::TIMEDOUT => not_held(why),
        why => refused(why),
    })?;
    if opened.inode_lock.id() != id(&found) {
        return Err(ReadError::Replaced);
    }
    let LockedFile { file, inode_lock: hold, .. } = opened;
    let mut first = [0; 100];
    let length = read_some(&file, 0, &mut first).map_err(|why| ReadError::Failed(why.to_string()))?;
    let header = Header::parse(&first[..length]);
    let page = header.and_then(|header| header.page_size).unwrap_or(BLOCK);
    let wal = header.map(|header| header.wal);
    Ok(Raw { file: Arc::new(file), page, wal, version: 0, last: None, hold })
}

fn ended(
    why: String,
    torn: Option<&str>,
    began: i64,
    trust: Trust,
    file: &File,
    set: &DatabaseStats,
    capture: &mut DatabaseCapture,
) -> Result<ReadEvent, ReadError> {
    let scanned = std::mem::take(&mut capture.scanned);
    let hash = scanned.hash.ok_or_else(|| ReadError::Failed("it was not read".into()))?;
    let found = SourceEntry::new(capture.found.path.clone(), &set.database).ok_or(ReadError::Replaced)?;
    let extra = extra_of_file(file);
    let recent = |stat: &Stat| trust.is_file_racy(file, mtime(stat), began);
    let racy = torn.is_some() || set.all().any(recent);
    let database = Database {
        taken: CaptureMethod::Raw,
        wal: set.wal.as_ref().map(side_of),
        journal: set.journal.as_ref().map(side_of),
        // A database that may be torn is kept, and never taken for a good one.
        check: torn.map(|torn| DatabaseCheck { kind: CheckKind::Quick, failed: Some(torn.into()) }),
    };
    let identity = identity_of(file, &set.database).map_err(refused)?;
    let found = SourceEntry { size: scanned.size, ..found };
    let note = torn.map(str::to_owned);
    let content = CapturedFile { found, extra, hash, racy, torn: note.is_some(), note, identity };
    Ok(ReadEvent::DatabaseEnd(Box::new(CapturedDatabase {
        content,
        database,
        why: Some(why),
        over_known: capture.over_known,
        scanned,
    })))
}
