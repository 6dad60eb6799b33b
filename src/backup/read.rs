//! Reads files and databases with several threads, and sends the results in the order of the walk.
//!
//! Small files are read whole, many in a batch. A large one is sent in pieces, cut into blocks and hashed here,
//! through a channel that holds only a few. A file that changes while it is read is read once more, then taken as it
//! is.

mod file;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::io::Errno;

use self::file::read_file;
use super::block;
use super::merge::MergeStep;
use super::message::{Disconnected, ReadEvent, Why};
use super::parent::Parent;
use crate::error::Result;
use crate::fs::beneath::{Directory, FileIdentity};
use crate::monitor::{Context, Moment};
use crate::source::extra::{Extra, extra_of};
use crate::source::found::SourceEntry;
use crate::source::select::Select;
use crate::source::stable::Trust;
use crate::sqlite::side_files::Role;
use crate::vault::entry::{Entry, EntryKind};

/// Largest file, in bytes, that is read whole and stored as one block.
pub const SMALL: u64 = block::MAX as u64;
/// Most content of one batch of small files, in bytes.
const BATCH_BYTES: u64 = 1 << 20;
/// Most entries of one batch.
const BATCH: usize = 256;
/// How often an entry is looked at again if something else has taken its place.
const AGAIN: u32 = 4;

/// Steps for one thread, and the channel for their results.
struct ReadJob {
    steps: Vec<MergeStep>,
    to: Sender<Vec<ReadEvent>>,
}

/// Collects steps in order and hands them to the reading threads in batches.
pub struct StepQueue {
    jobs: Sender<ReadJob>,
    order: Sender<Receiver<Vec<ReadEvent>>>,
    steps: Vec<MergeStep>,
    bytes: u64,
}

/// Everything that the reading threads share.
#[derive(Clone, Copy)]
pub struct ReadContext<'a> {
    /// The data directory.
    pub root: &'a Directory,
    /// Which entries of it are selected.
    pub select: &'a Select,
    /// When the capture began, in ns since 1970.
    pub began: i64,
    /// Whether inode numbers are reliable on the data directory's filesystem.
    pub numbers_tell: bool,
    /// The parent snapshot.
    pub base: &'a Parent<'a>,
    /// How databases are read.
    pub databases: &'a crate::backup::pages::reader::DatabaseOptions,
    /// Which files may be taken over without reading them.
    pub trust: Trust,
    /// Number of threads, and the monitor for progress.
    pub ctx: &'a Context<'a>,
}

/// Starts the reading threads in `scope`. Steps go into the returned queue; their results come out of the receivers,
/// one per batch, in the order of the steps.
pub fn start<'s, 'e: 's>(
    scope: &'s std::thread::Scope<'s, 'e>,
    reading: ReadContext<'e>,
) -> (StepQueue, Receiver<Receiver<Vec<ReadEvent>>>) {
    let ctx = reading.ctx;
    let (jobs, to_do) = bounded::<ReadJob>(ctx.threads);
    let (order, in_order) = bounded(2 * ctx.threads + 2);
    for _ in 0..ctx.threads {
        let to_do = to_do.clone();
        scope.spawn(move || {
            for ReadJob { steps, to } in to_do {
                // If the receiver is gone, its thread has failed and reports that itself.
                if catch_unwind(AssertUnwindSafe(|| take_steps(reading, steps, &to))).is_err() {
                    let _ = to.send(vec![ReadEvent::Broken]);
                }
            }
        });
    }
    (StepQueue { jobs, order, steps: Vec::new(), bytes: 0 }, in_order)
}

impl StepQueue {
    /// Adds the next step, and hands on the batch if it is full.
    ///
    /// # Errors
    /// Fails if the receiver is gone.
    pub fn push(&mut self, step: MergeStep) -> Result<(), Disconnected> {
        if matches!(step, MergeStep::Part) {
            return Ok(());
        }
        let size = match &step {
            MergeStep::Read(found, _) | MergeStep::Sample(found, _) => found.size,
            _ => 0,
        };
        if size > SMALL {
            self.flush()?;
        }
        self.bytes += size;
        self.steps.push(step);
        if self.bytes >= BATCH_BYTES || self.steps.len() >= BATCH || size > SMALL {
            self.flush()?;
        }
        Ok(())
    }

    /// Hands on the steps collected so far.
    ///
    /// # Errors
    /// Fails if the receiver is gone.
    pub fn flush(&mut self) -> Result<(), Disconnected> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let (to, from) = bounded(2);
        self.bytes = 0;
        self.order.send(from).map_err(|_| Disconnected)?;
        self.jobs.send(ReadJob { steps: std::mem::take(&mut self.steps), to }).map_err(|_| Disconnected)
    }
}

fn take_steps(reading: ReadContext, steps: Vec<MergeStep>, to: &Sender<Vec<ReadEvent>>) -> Result<(), Disconnected> {
    let mut events = Vec::with_capacity(steps.len());
    for step in steps {
        if let Some(event) = take_step(reading, step, to, &mut events)? {
            events.push(event);
        }
    }
    to.send(events).map_err(|_| Disconnected)
}

/// Takes one step. Its result follows everything in `before`, which follows everything already sent into the channel.
fn take_step(
    reading: ReadContext,
    step: MergeStep,
    to: &Sender<Vec<ReadEvent>>,
    before: &mut Vec<ReadEvent>,
) -> Result<Option<ReadEvent>, Disconnected> {
    Ok(Some(match step {
        MergeStep::Keep(entry) => ReadEvent::Keep(entry),
        MergeStep::Written(entry) => ReadEvent::Written(entry),
        MergeStep::Instead(step, written) => match take_step(reading, *step, to, before)? {
            Some(failed @ (ReadEvent::Failed(..) | ReadEvent::Later(..))) => {
                before.extend(Some(failed).filter(|event| matches!(event, ReadEvent::Later(..))));
                before.push(ReadEvent::Stays(written.path.clone()));
                ReadEvent::Written(written)
            }
            event => return Ok(event),
        },
        MergeStep::Link(found) => match reading.root.identity_at(&found.path) {
            Ok(identity) => ReadEvent::Link(found, identity),
            Err(why) => gone_or_failed(reading, found, why),
        },
        MergeStep::Stays(path) => ReadEvent::Stays(path),
        MergeStep::Part => return Ok(None),
        MergeStep::Failed(path, why) => ReadEvent::Failed(path, why, 0),
        MergeStep::Later(path, why) => ReadEvent::Later(path, why),
        MergeStep::Adopt(found, entry) if found.role == Role::Side => {
            // A side file of a database that is taken over stays with it, even if its app has just removed it.
            let kept = || Extra { xattrs: entry.xattrs.clone(), ..Extra::default() };
            let extra = extra_of(reading.root, &found.path, found.kind).unwrap_or_else(|_| kept());
            ReadEvent::Adopt(found, entry, extra, None)
        }
        MergeStep::Adopt(found, entry) => match adopted(reading, &found) {
            Ok((mut extra, identity)) => {
                if found.kind == EntryKind::Symlink {
                    before.extend(replaced(reading, &found, &mut extra));
                }
                ReadEvent::Adopt(found, entry, extra, identity)
            }
            Err(_) => look_at(reading, found, Some(entry), false, to, before)?,
        },
        MergeStep::Read(found, known) => look_at(reading, found, known, false, to, before)?,
        MergeStep::Sample(found, known) => look_at(reading, found, Some(known), true, to, before)?,
    }))
}

fn adopted(reading: ReadContext, found: &SourceEntry) -> Result<(Extra, Option<FileIdentity>), Errno> {
    let extra = extra_of(reading.root, &found.path, found.kind)?;
    let identity = if found.linked { Some(reading.root.identity_at(&found.path)?) } else { None };
    Ok((extra, identity))
}

/// Marks an entry as racy, and returns an event to look at it again, if something else had the name when its
/// attributes, or a symlink's target, were read; for a folder the walk reports that. The metadata of one inode and
/// the content of another must not be taken for one entry by a later backup, which may find the first one unchanged.
fn replaced(reading: ReadContext, found: &SourceEntry, extra: &mut Extra) -> Option<ReadEvent> {
    if !reading.numbers_tell {
        return None;
    }
    let now = || reading.root.stat_at(&found.path).ok().map(|now| now.st_ino);
    let inode = extra.inode.or_else(now).filter(|inode| *inode != found.inode)?;
    extra.racy = true;
    (found.kind != EntryKind::Folder).then(|| ReadEvent::Later(found.path.clone(), Why::Read(inode)))
}

/// The event for an entry that is no longer there.
fn gone(reading: ReadContext, found: SourceEntry) -> ReadEvent {
    ReadEvent::Later(found.path, if found.mtime >= reading.began { Why::NewAndGone } else { Why::Gone })
}

/// The event for an entry that cannot be looked at. If its name is gone, it was deleted, which is no problem; if a
/// folder above it was moved away, the look at the end shows that.
fn gone_or_failed(reading: ReadContext, found: SourceEntry, why: Errno) -> ReadEvent {
    match reading.root.stat_at(&found.path) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => gone(reading, found),
        _ => ReadEvent::Failed(found.path, why.to_string(), found.size),
    }
}

/// Looks at an entry. The side files of a database come with it; if it turns out not to be a database, or cannot be
/// taken as one, they are looked at later.
fn look_at(
    reading: ReadContext,
    found: SourceEntry,
    known: Option<Box<Entry>>,
    sampled: bool,
    to: &Sender<Vec<ReadEvent>>,
    before: &mut Vec<ReadEvent>,
) -> Result<ReadEvent, Disconnected> {
    let sides: Vec<_> = crate::source::found::sides(&found).collect();
    let event = look(reading, found, known, sampled, to, before)?;
    // Side files are of no use without a database that can be read.
    if !matches!(event, ReadEvent::DatabaseEnd(_) | ReadEvent::Failed(..)) {
        before.extend(sides.into_iter().map(|side| ReadEvent::Later(side, Why::Unread)));
    }
    Ok(event)
}

/// Looks at an entry as what it was found to be or, if something else has taken its place, as what it is now.
fn look(
    reading: ReadContext,
    mut found: SourceEntry,
    known: Option<Box<Entry>>,
    sampled: bool,
    to: &Sender<Vec<ReadEvent>>,
    before: &mut Vec<ReadEvent>,
) -> Result<ReadEvent, Disconnected> {
    for _ in 0..AGAIN {
        reading.ctx.monitor.reached(Moment::Opening, &found.path);
        let began = (reading.trust.now)();
        let why = match found.kind {
            EntryKind::File => match read_file(reading, &found, &known, sampled, to, before)? {
                Ok(event) => return Ok(event),
                Err(why) => why,
            },
            kind => match extra_of(reading.root, &found.path, kind) {
                Ok(mut extra) => {
                    // The number of a deleted inode may be given to a new one at once.
                    extra.racy = kind == EntryKind::Symlink && reading.trust.is_racy(found.mtime, began);
                    before.extend(replaced(reading, &found, &mut extra));
                    return Ok(ReadEvent::Other(found, known, extra));
                }
                Err(why) => why,
            },
        };
        if why == Errno::TIMEDOUT && found.kind == EntryKind::File {
            return Ok(ReadEvent::Later(found.path, Why::Unread));
        }
        let replaced = matches!(why, Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::INVAL | Errno::NOTDIR);
        if found.kind == EntryKind::Folder && replaced {
            // It was listed, and the entries in it come next: it is kept as it was then.
            return Ok(ReadEvent::Other(found, known, Extra::default()));
        }
        if found.kind == EntryKind::Folder {
            // The entries in it can be read all the same.
            return Ok(ReadEvent::Other(found, known, Extra { refused: Some(why), ..Extra::default() }));
        }
        // It is no longer what it was: a link was swapped, or a name was given up and taken again.
        if !replaced && matches!(reading.root.stat_at(&found.path), Err(Errno::NOENT)) {
            // On a remote filesystem, access to a deleted file may be refused before it is seen to be gone.
            return Ok(gone(reading, found));
        }
        if !replaced {
            return Ok(ReadEvent::Failed(found.path, why.to_string(), found.size));
        }
        let now = match reading.root.stat_at(&found.path) {
            Ok(stat) => SourceEntry::new(found.path.clone(), &stat),
            Err(why) => return Ok(gone_or_failed(reading, found, why)),
        };
        match now {
            // The entries of a new folder were not walked.
            Some(now) if now.kind == EntryKind::Folder => return Ok(ReadEvent::Later(now.path, Why::Unread)),
            Some(now) => {
                if reading.numbers_tell && now.inode != found.inode {
                    // The record of its folder holds what was listed: if that is back at the end, it is still not
                    // what was read.
                    before.push(ReadEvent::Later(now.path.clone(), Why::Read(now.inode)));
                }
                found = now;
            }
            // Its place is taken by something that snapshots do not hold.
            None => return Ok(gone(reading, found)),
        }
    }
    Ok(ReadEvent::Failed(found.path, "it is replaced again and again".into(), found.size))
}

#[cfg(test)]
mod tests;
