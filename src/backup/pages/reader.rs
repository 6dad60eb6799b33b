//! Reads a database: through SQLite, in one or more passes, or as plain files.

mod raw;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use rustix::fs::Stat;
use rustix::io::Errno;

use super::compaction::victims;
use super::known::Stack;
use super::scan::{Interrupted, PASSES, Scanner};
use crate::backup::message::{CapturedDatabase, CapturedFile, Disconnected, ReadEvent, ScanResult, SettledLayer, Why};
use crate::backup::parent::Parent;
use crate::fs::beneath::{Directory, FileIdentity};
use crate::fs::is_file;
use crate::fs::times::mtime;
use crate::monitor::{Context, Moment};
use crate::source::extra::extra_of_file;
use crate::source::found::SourceEntry;
use crate::source::select::Select;
use crate::source::stable::Trust;
use crate::sqlite::at::DatabaseLocation;
use crate::sqlite::check::Checked;
use crate::sqlite::error::ReadError;
use crate::sqlite::fd_registry::{self, InodeLock};
use crate::sqlite::live::{self, Live};
use crate::sqlite::side_files::side_of;
use crate::sqlite::source::{DatabaseState, PageSource, block_of};
use crate::vault::entry::{CaptureMethod, CheckKind, Database, DatabaseCheck, Entry, known_pages};

/// How often a database that was replaced is started again.
pub(crate) const AGAIN: u32 = 4;

/// How often a database is started again because the pages it is compared with do not fit.
pub(crate) const RESTARTS: u32 = 8;

/// Most passes of a live read: the last of [`PASSES`] was already within one transaction, and its state was gone
/// before the end, which only side files that come and go can cause.
pub(crate) const LIVE_PASSES: u32 = 2 * PASSES;

/// How databases are read.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    /// Whether files that are databases by their content are treated as such.
    pub enabled: bool,
    /// How SQLite checks each database, in the transaction in which it is read. `None` if it checks
    /// only databases that were found damaged before.
    pub check: Option<CheckKind>,
    /// How long a database may stay locked before it is read raw.
    pub patience: Duration,
    /// The vault's key for tags.
    pub key: [u8; 32],
    /// Which files may be taken over without reading them.
    pub trust: Trust,
}

/// How a database is to be read.
#[derive(Debug)]
pub enum ReadMethod {
    /// Through SQLite if possible, under this lock of its inode.
    Live(InodeLock),
    /// Raw, and why.
    Raw(&'static str),
}

/// Reads databases and sends their content.
pub struct DatabaseReader<'a> {
    /// The data directory.
    pub root: &'a Directory,
    /// The parent snapshot.
    pub base: &'a Parent<'a>,
    /// Which entries of the data directory are selected.
    pub select: &'a Select,
    /// How databases are read.
    pub settings: &'a DatabaseOptions,
    /// Where the content is sent.
    pub to: &'a Sender<Vec<ReadEvent>>,
    /// Number of threads, and the monitor for progress.
    pub ctx: &'a Context<'a>,
}

/// A database that is being read.
pub(crate) struct DatabaseCapture<'a> {
    at: Arc<DatabaseLocation>,
    found: &'a SourceEntry,
    known: Option<&'a Entry>,
    /// The sum of all passes since the last start.
    scanned: ScanResult,
    over_known: bool,
    /// How often it was started again because what it was compared with did not fit.
    restarts: u32,
}

impl<'a> DatabaseReader<'a> {
    /// Reads the database that was found. Calls `begin` before the first event is sent; all events but the last,
    /// which is returned, have gone into the channel when this returns. The inner error says why a database was not
    /// begun.
    ///
    /// # Errors
    /// Fails if the receiver is gone.
    pub fn take(
        &self,
        found: &SourceEntry,
        known: Option<&Entry>,
        how: ReadMethod,
        begin: &mut dyn FnMut() -> Result<(), Disconnected>,
    ) -> Result<Result<ReadEvent, ReadError>, Disconnected> {
        let options = || live::LiveOptions { patience: self.settings.patience, stop: self.ctx.stop };
        let at = match DatabaseLocation::beneath(self.root, &found.path) {
            Ok(at) => Arc::new(at),
            Err(_) => return Ok(Err(ReadError::Replaced)),
        };
        let mut capture =
            DatabaseCapture { at, found, known, scanned: ScanResult::default(), over_known: false, restarts: 0 };
        let failed = |why: ReadError| ReadEvent::Failed(found.path.clone(), why.to_string(), found.size);
        let raw = match how {
            ReadMethod::Live(_) => None,
            ReadMethod::Raw(why) => Some(why),
        };
        let mut opened = match how {
            ReadMethod::Live(hold) => Live::open(capture.at.clone(), hold, options()),
            ReadMethod::Raw(why) => Err(ReadError::Raw(why.into())),
        };
        if let Err(why) = &opened
            && !matches!(why, ReadError::Raw(_) | ReadError::Busy(_))
        {
            return Ok(Err(why.clone()));
        }
        begin()?;
        for _ in 0..AGAIN {
            let taken = match opened {
                Ok(live) => self.live(live, &mut capture)?,
                Err(why) => Err(why),
            };
            let taken = match taken {
                Err(ReadError::Raw(why)) => {
                    self.to.send(vec![ReadEvent::Again]).map_err(|_| Disconnected)?;
                    self.raw(why, false, &mut capture)?
                }
                Err(ReadError::Busy(why)) => {
                    self.to.send(vec![ReadEvent::Again]).map_err(|_| Disconnected)?;
                    self.raw(why, true, &mut capture)?
                }
                taken => taken,
            };
            match taken {
                Ok(part) => return Ok(Ok(part)),
                // Another file has taken its place: that file is the database now.
                Err(ReadError::Replaced) => {}
                Err(why) => return Ok(Ok(failed(why))),
            }
            self.to.send(vec![ReadEvent::Again]).map_err(|_| Disconnected)?;
            let now = DatabaseLocation::beneath(self.root, &found.path).and_then(|at| Ok((at.status("")?, at)));
            opened = match now {
                Ok((Some(now), at)) if is_file(&now) => {
                    capture.at = Arc::new(at);
                    match fd_registry::lock_inode(now.st_dev, now.st_ino, self.ctx.stop) {
                        // A replacement is read in the way that was asked for.
                        Ok(_) if raw.is_some() => Err(ReadError::Raw(raw.unwrap_or_default().into())),
                        Ok(hold) => Live::open(capture.at.clone(), hold, options()),
                        Err(Errno::TIMEDOUT) => return Ok(Ok(ReadEvent::Later(found.path.clone(), Why::Unread))),
                        Err(_) => Err(ReadError::Stopped),
                    }
                }
                // A file that is gone was deleted: that is no problem.
                Ok((None, _)) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    return Ok(Ok(ReadEvent::Later(found.path.clone(), Why::Gone)));
                }
                Ok(_) => Err(ReadError::Failed("what has its name now is not a file".into())),
                Err(why) => Err(ReadError::Failed(why.to_string())),
            };
        }
        Ok(Ok(failed(ReadError::Failed("it is replaced again and again".into()))))
    }

    fn live(&self, live: Live, capture: &mut DatabaseCapture) -> Result<Result<ReadEvent, ReadError>, Disconnected> {
        let damaged = capture.known.and_then(|k| k.database.as_ref()?.check.as_ref()).filter(|c| c.failed.is_some());
        // A database that was found damaged is checked until it is sound again.
        let check = self.settings.check.or(damaged.map(|check| check.kind));
        let mut source = Through { live, trust: self.settings.trust, check, found: None, unknown: None, seen: None };
        let scanned = self.passes(&mut source, capture)?;
        let ended = scanned.and_then(|()| source.ended(capture));
        if let Some(why) = source.unknown.take() {
            let what = format!("{} could not be checked: {why}", capture.found.path);
            self.to.send(vec![ReadEvent::Warn(what)]).map_err(|_| Disconnected)?;
        }
        Ok(ended.map(|ended| ReadEvent::DatabaseEnd(Box::new(ended))))
    }

    /// Reads the database until one state of it is stored.
    fn passes(
        &self,
        source: &mut dyn PageSource,
        capture: &mut DatabaseCapture,
    ) -> Result<Result<(), ReadError>, Disconnected> {
        let mut stack = self.stack(capture);
        let mut number = 1;
        loop {
            let scanned = match self.scanner().scan(source, &stack, number) {
                Ok(scanned) => scanned,
                Err(cut) => match self.cut(cut, &mut stack, capture, &mut number)? {
                    Ok(()) => continue,
                    Err(why) => return Ok(Err(why)),
                },
            };
            let steady = scanned.steady;
            capture.add(scanned);
            self.ctx.monitor.reached(Moment::Scanned, &capture.found.path);
            if steady {
                return Ok(Ok(()));
            }
            if number == LIVE_PASSES {
                return Ok(Err(ReadError::Busy(live::ELSEWHERE.into())));
            }
            number += 1;
            self.settle(&mut stack, capture)?;
        }
    }

    fn scanner(&self) -> Scanner<'a> {
        Scanner { base: self.base, key: &self.settings.key, to: self.to, ctx: self.ctx }
    }

    /// Returns the known pages to compare with.
    fn stack(&self, capture: &mut DatabaseCapture) -> Stack<'a> {
        let map = capture.known.and_then(known_pages);
        capture.over_known = map.is_some();
        let Some(map) = map else { return Stack::empty(&self.base.packs, 0) };
        Stack {
            map: map.clone(),
            size: capture.known.map_or(0, |known| known.size),
            victims: victims(map),
            ..Stack::empty(&self.base.packs, map.block)
        }
    }

    /// Handles a pass that broke off: starts again without the known pages, if that helps.
    fn cut(
        &self,
        cut: Interrupted,
        stack: &mut Stack<'a>,
        capture: &mut DatabaseCapture,
        number: &mut u32,
    ) -> Result<Result<(), ReadError>, Disconnected> {
        let (block, again) = match cut {
            Interrupted::Disconnected => return Err(Disconnected),
            Interrupted::Failed(why) => return Ok(Err(why)),
            Interrupted::Changed if *number == LIVE_PASSES => return Ok(Err(ReadError::Busy(live::ELSEWHERE.into()))),
            Interrupted::Changed => {
                self.to.send(vec![ReadEvent::Again]).map_err(|_| Disconnected)?;
                (capture.scanned, *number) = (ScanResult::default(), *number + 1);
                *stack = self.stack(capture);
                return Ok(Ok(()));
            }
            Interrupted::Resized(block) => (block, "the size of its pages changes again and again".to_owned()),
            Interrupted::Unknown(why) => {
                let what = format!(
                    "{}: blocks of an earlier snapshot cannot be looked up, and are stored again: {why}",
                    capture.found.path
                );
                self.to.send(vec![ReadEvent::Warn(what)]).map_err(|_| Disconnected)?;
                (stack.map.block, format!("what it is compared with cannot be read, again and again: {why}"))
            }
        };
        capture.restarts += 1;
        if capture.restarts > RESTARTS {
            return Ok(Err(ReadError::Failed(again)));
        }
        self.to.send(vec![ReadEvent::Again]).map_err(|_| Disconnected)?;
        (capture.over_known, capture.scanned, *number) = (false, ScanResult::default(), 1);
        *stack = Stack::empty(&self.base.packs, block);
        Ok(Ok(()))
    }

    /// Turns what a pass has sent into a layer that the next pass is compared with.
    fn settle(&self, stack: &mut Stack<'a>, capture: &DatabaseCapture) -> Result<(), Disconnected> {
        let (reply, settled) = bounded(1);
        self.to.send(vec![ReadEvent::Settle(reply)]).map_err(|_| Disconnected)?;
        let SettledLayer { layer, packs } = settled.recv().map_err(|_| Disconnected)?;
        stack.own = Some(self.base.packs.with(packs));
        stack.map.layers.extend(layer);
        stack.size = capture.scanned.size;
        Ok(())
    }
}

impl DatabaseCapture<'_> {
    fn add(&mut self, scanned: ScanResult) {
        let all = &mut self.scanned;
        for (pack, blocks) in scanned.freed {
            *all.freed.entry(pack).or_default() += blocks;
        }
        all.changed += scanned.changed;
        all.moved += scanned.moved;
        all.read += scanned.read;
        (all.steady, all.size, all.block, all.hash) = (scanned.steady, scanned.size, scanned.block, scanned.hash);
    }
}

/// Returns the file's identity, if it has several names.
pub(crate) fn identity_of(file: &std::fs::File, stat: &Stat) -> Result<Option<FileIdentity>, Errno> {
    if stat.st_nlink > 1 { FileIdentity::of_file(file).map(Some) } else { Ok(None) }
}

/// A database that is read through SQLite.
pub(crate) struct Through<'a> {
    live: Live<'a>,
    trust: Trust,
    check: Option<CheckKind>,
    /// The result of the check; `unknown` holds why there was none.
    found: Option<DatabaseCheck>,
    unknown: Option<String>,
    seen: Option<StateFingerprint>,
}

/// The files when the state that is being stored was first seen.
pub(crate) struct StateFingerprint {
    version: i64,
    began: i64,
    stat: Stat,
    wal: Option<Stat>,
    journal: Option<Stat>,
    pending: bool,
}

impl PageSource for Through<'_> {
    fn begin(&mut self) -> Result<DatabaseState, ReadError> {
        let began = (self.trust.now)();
        let live::TransactionState { page_size, pages, version, in_wal, stat, wal, journal, pending, .. } =
            self.live.begin()?;
        if pages == 0 {
            // It is closed next; what matters is that it cannot be read.
            let _ = self.live.end();
            return Err(ReadError::Raw("it is too short to have a page".into()));
        }
        let block = block_of(page_size);
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            self.seen = Some(StateFingerprint { version, began, stat, wal, journal, pending });
        }
        Ok(DatabaseState { block, page: page_size, size: pages * u64::from(page_size), version, elsewhere: in_wal })
    }

    fn file(&self) -> Arc<std::fs::File> {
        self.live.file()
    }

    fn page(&mut self, number: u32, out: &mut [u8]) -> Result<(), ReadError> {
        self.live.page(number, out)
    }

    fn settled(&mut self) -> Result<(), ReadError> {
        let Some(kind) = self.check else { return Ok(()) };
        let checked = self.live.check(kind);
        if !matches!(checked, Err(ReadError::Stopped)) && !self.live.stands()? {
            // The check ran over several states; the next pass checks one.
            return Ok(());
        }
        (self.found, self.unknown) = match checked? {
            Checked::Sound => (Some(DatabaseCheck { kind, failed: None }), None),
            Checked::Damaged(what) => (Some(DatabaseCheck { kind, failed: Some(what) }), None),
            Checked::Unknown(why) => (None, Some(why)),
        };
        Ok(())
    }

    fn end(&mut self) -> Result<bool, ReadError> {
        self.live.end()
    }
}

impl Through<'_> {
    fn ended(&mut self, capture: &mut DatabaseCapture) -> Result<CapturedDatabase, ReadError> {
        let nothing = || ReadError::Failed("it was not read".into());
        let seen = self.seen.take().ok_or_else(nothing)?;
        let scanned = std::mem::take(&mut capture.scanned);
        let hash = scanned.hash.ok_or_else(nothing)?;
        let failed = |why: Errno| ReadError::Failed(why.to_string());
        let found = SourceEntry::new(capture.found.path.clone(), &seen.stat).ok_or(ReadError::Replaced)?;
        let racy = [Some(&seen.stat), seen.wal.as_ref(), seen.journal.as_ref()]
            .into_iter()
            .flatten()
            .any(|stat| self.trust.is_racy(mtime(stat), seen.began))
            || seen.pending;
        let content = CapturedFile {
            found: SourceEntry { size: scanned.size, ..found },
            extra: extra_of_file(&self.live.file()),
            hash,
            racy,
            note: None,
            torn: false,
            identity: identity_of(&self.live.file(), &seen.stat).map_err(failed)?,
        };
        let database = Database {
            taken: CaptureMethod::Live,
            wal: seen.wal.as_ref().map(side_of),
            journal: seen.journal.as_ref().map(side_of),
            check: self.found.take(),
        };
        Ok(CapturedDatabase { content, database, why: None, over_known: capture.over_known, scanned })
    }
}
