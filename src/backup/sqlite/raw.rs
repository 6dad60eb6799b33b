//! A database that SQLite cannot be let near: it, its WAL and its rollback journal as plain files.
//!
//! Together they are what SQLite recovers the last committed state from, if none of them changed while they were read. So
//! all are read again until none did. `-shm` is made anew by SQLite and never stored.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{OFlags, Stat, fstat};
use rustix::io::Errno;

use super::at::At;
use super::beside::looks_so;
use super::header::{Header, is_log};
use super::live::{ELSEWHERE, STEP, UNINDEXED};
use super::locks::{self, Held};
use super::side::{self, Looks, id, looks};
use super::source::{Source, State, block_of};
use super::trouble::Trouble;
use super::wal::PageSet;
use super::{Ended, Reader, Taking, identity_of, registry, side_of};
use crate::backup::Trust;
use crate::backup::extra::extra_of_file;
use crate::backup::found::Found;
use crate::backup::large::stream;
use crate::backup::part::{Content, Part};
use crate::backup::read::{Over, read_some};
use crate::backup::sqlite::pass::{PASSES, Swept};
use crate::backup::times::{mtime, wait_a_tick};
use crate::monitor::Moment;
use crate::vault::entry::{Check, CheckKind, Database, Taken};
use crate::vault::path::EntryPath;

/// A block where the header does not tell the size of a page, in bytes.
const BLOCK: u32 = 4096;

/// A database file that is read as it lies there.
struct Raw {
    file: Arc<File>,
    page: u32,
    /// Whether its commits go into a WAL, if it says so.
    wal: Option<bool>,
    version: i64,
    last: Option<Looks>,
    /// Given back after the file is closed.
    hold: registry::Hold,
}

impl Source for Raw {
    fn begin(&mut self) -> Result<State, Trouble> {
        let now = fstat(&*self.file).map_err(refused)?;
        let look = looks(&now);
        if self.last.replace(look).is_some_and(|last| last != look) {
            self.version += 1;
        }
        let size = u64::try_from(now.st_size).unwrap_or(0);
        let block = block_of(self.page);
        Ok(State { block, page: block, size, version: self.version, elsewhere: PageSet::default() })
    }

    fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    fn page(&mut self, number: u32, _: &mut [u8]) -> Result<(), Trouble> {
        Err(Trouble::Failed(format!("page {number} of a plain file was looked for elsewhere")))
    }

    fn settled(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    fn end(&mut self) -> Result<bool, Trouble> {
        Ok(true)
    }
}

impl Raw {
    /// Whether what lies beside it brings its last committed state back. A journal without a beginning does not, unless it was
    /// changed last, as an app does that keeps it for the next transaction: it may have been left there before the app began to keep
    /// its journals in memory.
    fn logged(&self, at: &At, set: &Set, stop: &AtomicBool) -> bool {
        let begins = |found: &Option<Stat>, ending: &str| {
            let open = || at.open(ending, OFlags::RDONLY);
            found.as_ref().is_some_and(|found| looks_so(found, open, stop, is_log))
        };
        let last = set.journal.as_ref().is_some_and(|found| found.st_size > 0 && mtime(found) >= mtime(&set.database));
        last || begins(&set.journal, "-journal")
            || match self.wal {
                // Before its first commit it is empty.
                Some(true) => set.wal.is_some(),
                Some(false) => false,
                None => begins(&set.wal, "-wal"),
            }
    }

    /// How programs use it that have what belongs to it elsewhere than here, or beside another of its names in `root`.
    fn used(&self, at: &At, root: &Path) -> Result<Used, Trouble> {
        for _ in 0..UNINDEXED {
            let pid = match locks::held(&self.file) {
                Held::Alone => return Ok(Used::Alone),
                Held::Reading(pid) if self.wal == Some(true) => pid,
                Held::Reading(_) | Held::No => return Ok(Used::Seen),
            };
            let stat = fstat(&*self.file).map_err(refused)?;
            let another_name = || {
                let mut names = pid.into_iter().flat_map(|pid| locks::names_in_use(pid, &stat));
                stat.st_nlink > 1 && names.any(|name| name.starts_with(root))
            };
            if locks::is_log_here(at).map_err(refused)? || another_name() {
                return Ok(Used::Seen);
            }
            // Those that open it at this moment are about to share it.
            std::thread::sleep(STEP);
        }
        Ok(Used::Elsewhere)
    }
}

/// How other programs use a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    /// Not at all, or as can be seen here.
    Seen,
    /// With a log that is not here.
    Elsewhere,
    /// One has it to itself.
    Alone,
}

fn not_held(why: Errno) -> Trouble {
    match why {
        Errno::CANCELED => Trouble::Stopped,
        _ => Trouble::Busy("another part of this backup reads it, under another name".into()),
    }
}

fn refused(why: Errno) -> Trouble {
    Trouble::Failed(why.to_string())
}

/// A database, or a file beside it, if there is one; whatever else has its name is nothing to SQLite.
fn look(at: &At, ending: &str) -> Result<Option<Stat>, Trouble> {
    match at.status(ending) {
        Ok(found) => Ok(found.filter(side::is_file)),
        Err(why) => Err(Trouble::Failed(format!("{}: {why}", at.path_beside(ending).display()))),
    }
}

/// The files of a database as they are at one moment.
struct Set {
    database: Stat,
    journal: Option<Stat>,
    wal: Option<Stat>,
}

impl Set {
    fn of(at: &At) -> Result<Set, Trouble> {
        Ok(Set {
            database: look(at, "")?.ok_or(Trouble::Replaced)?,
            journal: look(at, "-journal")?,
            wal: look(at, "-wal")?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Stat> {
        [Some(&self.database), self.journal.as_ref(), self.wal.as_ref()].into_iter().flatten()
    }

    fn looks(&self) -> [Option<Looks>; 3] {
        [Some(looks(&self.database)), self.journal.as_ref().map(looks), self.wal.as_ref().map(looks)]
    }
}

impl Reader<'_> {
    /// Takes a database and what lies beside it as plain files.
    ///
    /// One that another program keeps `locked` may be in the middle of a transaction, however long it stands still: it is whole
    /// only with a log from which SQLite gets the last committed state back, a WAL or a rollback journal.
    pub(super) fn raw(&self, why: String, locked: bool, taking: &mut Taking) -> Result<Result<Part, Trouble>, Over> {
        taking.swept = Swept::default();
        let mut source = match open_raw(&taking.at, self.ctx.stop) {
            Ok(opened) => opened,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let mut stack = self.stack(taking);
        let mut number = 1;
        loop {
            let began = (self.settings.trust.now)();
            let mut before = match Set::of(&taking.at) {
                Ok(set) => set,
                Err(trouble) => return Ok(Err(trouble)),
            };
            // Each of them may just have been written to.
            let now = self.settings.trust.now;
            if before.all().fold(false, |waited, stat| wait_a_tick(stat, now()) | waited) {
                before = match Set::of(&taking.at) {
                    Ok(set) => set,
                    Err(trouble) => return Ok(Err(trouble)),
                };
            }
            if id(&before.database) != source.hold.id() {
                return Ok(Err(Trouble::Replaced));
            }
            let used = match source.used(&taking.at, self.root.path()) {
                Ok(used) => used,
                Err(trouble) => return Ok(Err(trouble)),
            };
            let swept = match self.sweeper().sweep(&mut source, &stack, number) {
                Ok(swept) => swept,
                Err(cut) => match self.cut(cut, &mut stack, taking, &mut number)? {
                    Ok(()) => continue,
                    Err(trouble) => return Ok(Err(trouble)),
                },
            };
            let steady = swept.steady;
            taking.add(swept);
            self.ctx.monitor.reached(Moment::Swept, &taking.found.path);
            let sides = match self.sides(taking, &before)? {
                Ok(sides) => sides,
                Err(trouble) => return Ok(Err(trouble)),
            };
            let after = match Set::of(&taking.at) {
                Ok(set) => set,
                Err(trouble) => return Ok(Err(trouble)),
            };
            let used_after = match source.used(&taking.at, self.root.path()) {
                Ok(used) => used,
                Err(trouble) => return Ok(Err(trouble)),
            };
            let stable = steady && sides && before.looks() == after.looks() && used == used_after;
            if !stable && number < PASSES {
                number += 1;
                self.to.send(vec![Part::SidesAgain]).map_err(|_| Over)?;
                self.settle(&mut stack, taking)?;
                continue;
            }
            let torn = match () {
                () if !stable => Some("it was written to while it was read, again and again, and may be torn"),
                () if used == Used::Elsewhere => Some(ELSEWHERE),
                () if (locked || used == Used::Alone) && !source.logged(&taking.at, &before, self.ctx.stop) => Some(
                    "another program keeps it locked, and no log lies beside it: it may hold half of a transaction",
                ),
                () => None,
            };
            return Ok(ended(why, torn, began, self.settings.trust, &source.file, &before, taking));
        }
    }

    /// Sends what lies beside the database. Says whether each file was there as it had been found.
    fn sides(&self, taking: &Taking, set: &Set) -> Result<Result<bool, Trouble>, Over> {
        let mut as_found = true;
        for (suffix, found) in [("-journal", &set.journal), ("-wal", &set.wal)] {
            let Some(found) = found else { continue };
            let path = match EntryPath::new([taking.found.path.bytes(), suffix.as_bytes()].concat()) {
                Ok(path) => path,
                Err(why) => return Ok(Err(Trouble::Failed(why))),
            };
            // One that is a link of the database is held already.
            let own = id(found) == id(&set.database);
            let hold = (!own).then(|| registry::hold(found.st_dev, found.st_ino, self.ctx.stop)).transpose();
            // Both are declared before the file, so that they are given back after that is closed.
            let hold = match hold {
                Ok(hold) => hold,
                Err(why) => return Ok(Err(not_held(why))),
            };
            let _other;
            let mut file = match taking.at.open(suffix, OFlags::RDONLY) {
                Ok(file) => File::from(file),
                Err(Errno::NOENT) => {
                    as_found = false;
                    continue;
                }
                Err(why) => return Ok(Err(Trouble::Failed(format!("{path}: {why}")))),
            };
            let opened = match fstat(&file) {
                Ok(opened) => opened,
                Err(why) => return Ok(Err(Trouble::Failed(format!("{path}: {why}")))),
            };
            if id(&opened) != id(found) && id(&opened) != id(&set.database) {
                drop(hold);
                (file, _other) = match registry::hold_opened(file, &opened, self.ctx.stop) {
                    Ok(held) => held,
                    Err(why) => return Ok(Err(not_held(why))),
                };
            }
            as_found &= looks(&opened) == looks(found);
            if !side::is_file(&opened) {
                as_found = false;
                continue;
            }
            self.ctx.monitor.reached(Moment::Opened, &path);
            self.to.send(vec![Part::Side]).map_err(|_| Over)?;
            match stream(&file, &path, &opened, self.to, self.ctx, self.settings.trust)? {
                Ok(content) => self.to.send(vec![Part::SideEnd(Box::new(content))]).map_err(|_| Over)?,
                Err(why) => return Ok(Err(Trouble::Failed(format!("{path}: {why}")))),
            }
        }
        Ok(Ok(as_found))
    }
}

fn open_raw(at: &At, stop: &AtomicBool) -> Result<Raw, Trouble> {
    let found = look(at, "")?.ok_or(Trouble::Replaced)?;
    let hold = registry::hold(found.st_dev, found.st_ino, stop).map_err(not_held)?;
    let file = File::from(at.open("", OFlags::RDONLY).map_err(|why| match why {
        Errno::NOENT | Errno::LOOP => Trouble::Replaced,
        why => refused(why),
    })?);
    let opened = fstat(&file).map_err(refused)?;
    if id(&opened) != id(&found) {
        drop(hold);
        let _closed = registry::hold_opened(file, &opened, stop).map_err(not_held)?;
        return Err(Trouble::Replaced);
    }
    let mut first = [0; 100];
    let length = read_some(&file, 0, &mut first).map_err(|why| Trouble::Failed(why.to_string()))?;
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
    set: &Set,
    taking: &mut Taking,
) -> Result<Part, Trouble> {
    let swept = std::mem::take(&mut taking.swept);
    let hash = swept.hash.ok_or_else(|| Trouble::Failed("it was not read".into()))?;
    let found = Found::new(taking.found.path.clone(), &set.database).ok_or(Trouble::Replaced)?;
    let extra = extra_of_file(file);
    let recent = |stat: &Stat| trust.is_file_racy(file, mtime(stat), began);
    let racy = torn.is_some() || set.all().any(recent);
    let database = Database {
        taken: Taken::Raw,
        wal: set.wal.as_ref().map(side_of),
        journal: set.journal.as_ref().map(side_of),
        // What may be torn is kept, and never taken for good.
        check: torn.map(|torn| Check { kind: CheckKind::Quick, failed: Some(torn.into()) }),
    };
    let identity = identity_of(file, &set.database).map_err(refused)?;
    let found = Found { size: swept.size, ..found };
    let note = torn.map(str::to_owned);
    let content = Content { found, extra, hash, racy, torn: note.is_some(), note, identity };
    Ok(Part::DatabaseEnd(Box::new(Ended { content, database, why: Some(why), over_known: taking.over_known, swept })))
}
