//! Reads files and databases with several threads, and sends the results in the order of the walk.
//!
//! Small files are read whole, many in a batch. A large one is sent in pieces, cut into blocks and hashed here,
//! through a channel that holds only a few. A file that changes while it is read is read once more, then taken as it
//! is.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;

use super::block;
use super::large::Large;
use super::merge::MergeStep;
use super::message::{CapturedFile, Disconnected, ReadEvent, Why, finish};
use super::pages::reader::ReadMethod;
use super::parent::Parent;
use crate::error::Result;
use crate::fs::beneath::{Directory, FileIdentity};
use crate::fs::read_some;
use crate::fs::times::{mtime, settled};
use crate::monitor::{Context, Moment};
use crate::path::EntryPath;
use crate::source::extra::{Extra, extra_of};
use crate::source::found::SourceEntry;
use crate::source::open::open_held;
use crate::source::select::Select;
use crate::source::stable::{Trust, compare, is_beyond_its_size};
use crate::sqlite::error::ReadError;
use crate::sqlite::fd_registry::LockedFile;
use crate::sqlite::header::{Header, SMALLEST_PAGE};
use crate::sqlite::side_files::{self, Role};
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::Hash;

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
    desk: ReadContext<'e>,
) -> (StepQueue, Receiver<Receiver<Vec<ReadEvent>>>) {
    let ctx = desk.ctx;
    let (jobs, to_do) = bounded::<ReadJob>(ctx.threads);
    let (order, in_order) = bounded(2 * ctx.threads + 2);
    for _ in 0..ctx.threads {
        let to_do = to_do.clone();
        scope.spawn(move || {
            for ReadJob { steps, to } in to_do {
                // If the receiver is gone, its thread has failed and reports that itself.
                if catch_unwind(AssertUnwindSafe(|| take_steps(desk, steps, &to))).is_err() {
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

fn take_steps(desk: ReadContext, steps: Vec<MergeStep>, to: &Sender<Vec<ReadEvent>>) -> Result<(), Disconnected> {
    let mut parts = Vec::with_capacity(steps.len());
    for step in steps {
        if let Some(part) = take_step(desk, step, to, &mut parts)? {
            parts.push(part);
        }
    }
    to.send(parts).map_err(|_| Disconnected)
}

/// Takes one step. Its result follows everything in `before`, which follows everything already sent into the channel.
fn take_step(
    desk: ReadContext,
    step: MergeStep,
    to: &Sender<Vec<ReadEvent>>,
    before: &mut Vec<ReadEvent>,
) -> Result<Option<ReadEvent>, Disconnected> {
    Ok(Some(match step {
        MergeStep::Keep(entry) => ReadEvent::Keep(entry),
        MergeStep::Written(entry) => ReadEvent::Written(entry),
        MergeStep::Instead(step, written) => match take_step(desk, *step, to, before)? {
            Some(failed @ (ReadEvent::Failed(..) | ReadEvent::Later(..))) => {
                before.extend(Some(failed).filter(|part| matches!(part, ReadEvent::Later(..))));
                before.push(ReadEvent::Stays(written.path.clone()));
                ReadEvent::Written(written)
            }
            part => return Ok(part),
        },
        MergeStep::Link(found) => match desk.root.identity_at(&found.path) {
            Ok(identity) => ReadEvent::Link(found, identity),
            Err(why) => gone_or_failed(desk, found, why),
        },
        MergeStep::Stays(path) => ReadEvent::Stays(path),
        MergeStep::Part => return Ok(None),
        MergeStep::Failed(path, why) => ReadEvent::Failed(path, why, 0),
        MergeStep::Later(path, why) => ReadEvent::Later(path, why),
        MergeStep::Adopt(found, entry) if found.role == Role::Side => {
            // A side file of a database that is taken over stays with it, even if its app has just removed it.
            let kept = || Extra { xattrs: entry.xattrs.clone(), ..Extra::default() };
            let extra = extra_of(desk.root, &found.path, found.kind).unwrap_or_else(|_| kept());
            ReadEvent::Adopt(found, entry, extra, None)
        }
        MergeStep::Adopt(found, entry) => match adopted(desk, &found) {
            Ok((mut extra, identity)) => {
                if found.kind == EntryKind::Symlink {
                    before.extend(replaced(desk, &found, &mut extra));
                }
                ReadEvent::Adopt(found, entry, extra, identity)
            }
            Err(_) => look_at(desk, found, Some(entry), false, to, before)?,
        },
        MergeStep::Read(found, known) => look_at(desk, found, known, false, to, before)?,
        MergeStep::Sample(found, known) => look_at(desk, found, Some(known), true, to, before)?,
    }))
}

fn adopted(desk: ReadContext, found: &SourceEntry) -> Result<(Extra, Option<FileIdentity>), Errno> {
    let extra = extra_of(desk.root, &found.path, found.kind)?;
    let identity = if found.linked { Some(desk.root.identity_at(&found.path)?) } else { None };
    Ok((extra, identity))
}

/// Marks an entry as racy, and returns an event to look at it again, if something else had the name when its
/// attributes, or a symlink's target, were read; for a folder the walk reports that. The metadata of one inode and
/// the content of another must not be taken for one entry by a later backup, which may find the first one unchanged.
fn replaced(desk: ReadContext, found: &SourceEntry, extra: &mut Extra) -> Option<ReadEvent> {
    if !desk.numbers_tell {
        return None;
    }
    let now = || desk.root.stat_at(&found.path).ok().map(|now| now.st_ino);
    let inode = extra.inode.or_else(now).filter(|inode| *inode != found.inode)?;
    extra.racy = true;
    (found.kind != EntryKind::Folder).then(|| ReadEvent::Later(found.path.clone(), Why::Read(inode)))
}

/// The event for an entry that is no longer there.
fn gone(desk: ReadContext, found: SourceEntry) -> ReadEvent {
    ReadEvent::Later(found.path, if found.mtime >= desk.began { Why::NewAndGone } else { Why::Gone })
}

/// The event for an entry that cannot be looked at. If its name is gone, it was deleted, which is no problem; if a
/// folder above it was moved away, the look at the end shows that.
fn gone_or_failed(desk: ReadContext, found: SourceEntry, why: Errno) -> ReadEvent {
    match desk.root.stat_at(&found.path) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => gone(desk, found),
        _ => ReadEvent::Failed(found.path, why.to_string(), found.size),
    }
}

/// Looks at an entry. The side files of a database come with it; if it turns out not to be a database, or cannot be
/// taken as one, they are looked at later.
fn look_at(
    desk: ReadContext,
    found: SourceEntry,
    known: Option<Box<Entry>>,
    sampled: bool,
    to: &Sender<Vec<ReadEvent>>,
    before: &mut Vec<ReadEvent>,
) -> Result<ReadEvent, Disconnected> {
    let sides: Vec<_> = crate::source::found::sides(&found).collect();
    let part = look(desk, found, known, sampled, to, before)?;
    // Side files are of no use without a database that can be read.
    if !matches!(part, ReadEvent::DatabaseEnd(_) | ReadEvent::Failed(..)) {
        before.extend(sides.into_iter().map(|side| ReadEvent::Later(side, Why::Unread)));
    }
    Ok(part)
}

/// Looks at an entry as what it was found to be or, if something else has taken its place, as what it is now.
fn look(
    desk: ReadContext,
    mut found: SourceEntry,
    known: Option<Box<Entry>>,
    sampled: bool,
    to: &Sender<Vec<ReadEvent>>,
    before: &mut Vec<ReadEvent>,
) -> Result<ReadEvent, Disconnected> {
    for _ in 0..AGAIN {
        desk.ctx.monitor.reached(Moment::Opening, &found.path);
        let began = (desk.trust.now)();
        let why = match found.kind {
            EntryKind::File => match read_file(desk, &found, &known, sampled, to, before)? {
                Ok(part) => return Ok(part),
                Err(why) => why,
            },
            kind => match extra_of(desk.root, &found.path, kind) {
                Ok(mut extra) => {
                    // The number of a deleted inode may be given to a new one at once.
                    extra.racy = kind == EntryKind::Symlink && desk.trust.is_racy(found.mtime, began);
                    before.extend(replaced(desk, &found, &mut extra));
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
        if !replaced && matches!(desk.root.stat_at(&found.path), Err(Errno::NOENT)) {
            // On a remote filesystem, access to a deleted file may be refused before it is seen to be gone.
            return Ok(gone(desk, found));
        }
        if !replaced {
            return Ok(ReadEvent::Failed(found.path, why.to_string(), found.size));
        }
        let now = match desk.root.stat_at(&found.path) {
            Ok(stat) => SourceEntry::new(found.path.clone(), &stat),
            Err(why) => return Ok(gone_or_failed(desk, found, why)),
        };
        match now {
            // The entries of a new folder were not walked.
            Some(now) if now.kind == EntryKind::Folder => return Ok(ReadEvent::Later(now.path, Why::Unread)),
            Some(now) => {
                if desk.numbers_tell && now.inode != found.inode {
                    // The record of its folder holds what was listed: if that is back at the end, it is still not
                    // what was read.
                    before.push(ReadEvent::Later(now.path.clone(), Why::Read(now.inode)));
                }
                found = now;
            }
            // Its place is taken by something that snapshots do not hold.
            None => return Ok(gone(desk, found)),
        }
    }
    Ok(ReadEvent::Failed(found.path, "it is replaced again and again".into(), found.size))
}

/// Why a database that is recognized only by its side files is taken raw.
const ENCRYPTED: &str = "it does not begin as a database, and what lies beside it is one's: it is encrypted";

/// Reads a file. A small one is returned as one event; of a large one or a database, everything but the end has been
/// sent into the channel when this returns.
fn read_file(
    desk: ReadContext,
    found: &SourceEntry,
    known: &Option<Box<Entry>>,
    sampled: bool,
    to: &Sender<Vec<ReadEvent>>,
    before: &mut Vec<ReadEvent>,
) -> Result<Result<ReadEvent, Errno>, Disconnected> {
    let (path, ctx) = (&found.path, desk.ctx);
    // Variables are dropped in reverse order of declaration: the file is closed before its lock is released.
    let hold;
    let (file, stat);
    LockedFile { file, stat, hold } = match open_held(desk.root, found, desk.ctx.stop) {
        Ok(opened) => opened,
        Err(why) => return Ok(Err(why)),
    };
    let Some(opened) = SourceEntry::new(path.clone(), &stat).filter(|opened| opened.kind == EntryKind::File) else {
        return Ok(Err(Errno::LOOP));
    };
    if desk.numbers_tell && (opened.device, opened.inode) != (found.device, found.inode) {
        // It was replaced; or folders were exchanged for a moment, and this file belongs to another name.
        before.push(ReadEvent::Later(path.clone(), Why::Read(opened.inode)));
    }
    ctx.monitor.reached(Moment::Opened, path);
    let mut first = [0; 100];
    let begins = if desk.databases.enabled { read_some(&file, 0, &mut first).unwrap_or(0) } else { 0 };
    // An encrypted database does not say that it is one, but the side files that SQLite leaves show it. If a file's
    // size is 0, SQLite reads nothing, whatever is in it.
    let plain = opened.size > 0 && Header::parse(&first[..begins]).is_some();
    let pages = begins == first.len() && opened.size.is_multiple_of(SMALLEST_PAGE.into());
    let own = (opened.device, opened.inode);
    let encrypted = || !plain && pages && side_files::has_log(desk.root, path, own, ctx.stop);
    if plain || encrypted() {
        drop(file);
        let mut begin = || {
            let mut first = std::mem::take(before);
            first.push(ReadEvent::Database(known.clone(), sampled));
            to.send(first).map_err(|_| Disconnected)
        };
        let reader = crate::backup::pages::reader::DatabaseReader {
            root: desk.root,
            base: desk.base,
            select: desk.select,
            settings: desk.databases,
            to,
            ctx,
        };
        let how = match plain {
            true => ReadMethod::Live(hold),
            false => {
                // It is locked again together with its side files.
                drop(hold);
                ReadMethod::Raw(ENCRYPTED)
            }
        };
        return match reader.take(&opened, known.as_deref(), how, &mut begin)? {
            Ok(part) => {
                if let ReadEvent::DatabaseEnd(ended) = &part
                    && desk.numbers_tell
                    && ended.content.found.inode != found.inode
                {
                    // Earlier events have been sent already; this one only concerns the look at the end.
                    before.push(ReadEvent::Later(path.clone(), Why::Read(ended.content.found.inode)));
                }
                Ok(Ok(part))
            }
            Err(ReadError::Replaced) => Ok(Err(Errno::NOENT)),
            Err(trouble) => Ok(Ok(ReadEvent::Failed(path.clone(), trouble.to_string(), opened.size))),
        };
    }
    let holes = opened.sparse && !matches!(seek(&file, SeekFrom::Hole(0)), Ok(at) if at >= opened.size);
    if opened.size <= SMALL && !holes {
        match read_small(&file, path, desk) {
            Ok(Some((mut content, bytes))) => {
                content.came_to_be_a_database(encrypted());
                ctx.monitor.advance(bytes.len() as u64);
                before.extend(aftermath(&file, found, known.as_deref(), &content));
                return Ok(Ok(ReadEvent::File(Box::new(content), bytes, known.clone(), sampled)));
            }
            // It is read again from its beginning, in pieces.
            Ok(None) => {}
            Err(why) => {
                return Ok(Ok(ReadEvent::Failed(path.clone(), format!("it cannot be read: {why}"), opened.size)));
            }
        }
    }
    // Earlier events are sent first; this thread stays with the file to its end.
    let mut first = std::mem::take(before);
    first.push(ReadEvent::Begin(known.clone(), sampled));
    to.send(first).map_err(|_| Disconnected)?;
    Ok(Ok(match Large::new(&file, path, to, ctx).read(desk.trust)? {
        Ok(mut content) => {
            content.came_to_be_a_database(encrypted());
            before.extend(aftermath(&file, found, known.as_deref(), &content));
            ReadEvent::End(content)
        }
        Err(why) => ReadEvent::Failed(path.clone(), format!("it cannot be read: {why}"), opened.size),
    }))
}

/// Returns what must follow at the end because of what happened to a file since it was listed.
fn aftermath(file: &File, listed: &SourceEntry, known: Option<&Entry>, content: &CapturedFile) -> Vec<ReadEvent> {
    let mut out = Vec::new();
    if content.torn && fstat(file).is_ok_and(|now| now.st_nlink == 0) {
        // The file that has its name now may be whole.
        out.push(ReadEvent::Later(listed.path.clone(), Why::Unread));
    }
    if content.found.size < listed.size || known.is_some_and(|known| content.found.size < known.size) {
        out.push(ReadEvent::Shrank);
    }
    out
}

/// Reads a small file, and once more if it changed. `None` if it has become a large one, or does not report its size.
/// A file that only grew is taken up to its first length, as [`Large::read`] does.
fn read_small(file: &File, path: &EntryPath, desk: ReadContext) -> io::Result<Option<(CapturedFile, Vec<u8>)>> {
    let mut grown: Option<(Stat, Vec<u8>)> = None;
    for last in [false, true] {
        let (stat, began) = settled(file, desk.trust.now)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > SMALL {
            return Ok(None);
        }
        let length = size as usize;
        let mut bytes = vec![0; length + 1];
        let read = read_some(file, 0, &mut bytes)?;
        if read > length && is_beyond_its_size(file, size)? {
            return Ok(None);
        }
        let read = read.min(length);
        bytes.truncate(read);
        desk.ctx.monitor.reached(Moment::Read, path);
        let after = fstat(file)?;
        let happened = compare(&stat, &after, read as u64);
        let torn = happened.as_ref().is_some_and(|happened| happened.torn);
        if torn
            && let Some((first, before)) = grown.take()
            && bytes.starts_with(&before)
        {
            let (hash, read) = (Hash::of(&before), before.len() as u64);
            return Ok(Some((finish(file, path, &first, read, true, hash, None)?, before)));
        }
        if last || !torn {
            let hash = Hash::of(&bytes);
            let racy = happened.is_some() || desk.trust.is_file_racy(file, mtime(&stat), began);
            return Ok(Some((finish(file, path, &stat, read as u64, racy, hash, happened)?, bytes)));
        }
        if happened.is_some_and(|happened| happened.grew) {
            grown = Some((stat, bytes));
        }
    }
    Err(io::Error::other("it keeps changing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{SilentMonitor, system_random};
    use crate::path::EscapedBytes;
    use crate::store::testing::memory::MemoryStore;
    use crate::vault::Vault;
    use crate::vault::root::SourceIdentity;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    /// Runs `work` with a context that reads `data`.
    fn at_desk<T>(data: &Path, work: impl FnOnce(ReadContext) -> T) -> T {
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 1, parallel: 2, stop: &stop, monitor: &SilentMonitor };
        let vault = Vault::init(Box::<MemoryStore>::default(), system_random).unwrap();
        let place = SourceIdentity::default();
        let base = Parent::find(&vault, (Path::new("/data"), None), &place, true, &Default::default(), |_| {}).unwrap();
        let databases = crate::backup::pages::reader::DatabaseOptions {
            enabled: true,
            check: None,
            patience: Duration::ZERO,
            key: [0; 32],
            trust: Trust::default(),
        };
        let root = Directory::open(data).unwrap();
        let select = Select::new(data, &[], &[], &[], true).unwrap();
        let desk = ReadContext {
            root: &root,
            select: &select,
            began: i64::MAX,
            numbers_tell: true,
            base: &base,
            databases: &databases,
            trust: Trust::default(),
            ctx: &ctx,
        };
        work(desk)
    }

    /// Returns the event for a path that was listed as a file of `size` bytes.
    fn looked(data: &Path, name: &str, size: u64) -> ReadEvent {
        let stat = rustix::fs::stat(data.join("file")).unwrap();
        let found = SourceEntry { size, ..SourceEntry::new(EntryPath::new(name).unwrap(), &stat).unwrap() };
        let (to, from) = bounded(4);
        at_desk(data, |desk| take_steps(desk, vec![MergeStep::Read(found, None)], &to).unwrap());
        // It may be preceded by paths to look at once more.
        from.recv().unwrap().pop().unwrap()
    }

    #[test]
    fn a_small_file_that_becomes_large_before_it_is_read_is_not_read_as_a_small_one() {
        let data = tempfile::tempdir().unwrap();
        let file = File::create(data.path().join("file")).unwrap();
        // The clock has moved on when it is read.
        file.set_len(1 << 40).unwrap();
        let path = EntryPath::new("file").unwrap();
        let read = at_desk(data.path(), |desk| read_small(&file, &path, desk));
        assert!(read.unwrap().is_none());
    }

    #[test]
    fn a_file_that_does_not_know_its_size_is_read_to_its_end() {
        let data = Path::new("/proc/sys/kernel/random");
        let stat = rustix::fs::stat(data.join("boot_id")).unwrap();
        assert_eq!(stat.st_size, 0);
        let found = SourceEntry::new(EntryPath::new("boot_id").unwrap(), &stat).unwrap();
        let (to, from) = bounded(8);
        at_desk(data, |desk| take_steps(desk, vec![MergeStep::Read(found, None)], &to).unwrap());
        drop(to);
        let expected = fs::read(data.join("boot_id")).unwrap();
        let parts: Vec<_> = from.iter().flatten().collect();
        let [ReadEvent::Begin(None, false), ReadEvent::Blocks(bytes, _), ReadEvent::End(content)] = &parts[..] else {
            panic!()
        };
        assert_eq!((bytes, content.found.size, content.hash), (&expected, 37, Hash::of(&expected)));
        assert!(!content.torn && content.note.is_none());
    }

    #[test]
    fn what_took_the_place_of_a_file_is_taken_as_what_it_is() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("file"), "content").unwrap();
        symlink("elsewhere", data.path().join("link")).unwrap();
        fs::create_dir(data.path().join("folder")).unwrap();
        let ReadEvent::File(content, bytes, None, false) = looked(data.path(), "file", 3) else { panic!("a file") };
        assert_eq!((content.found.size, &bytes[..], content.hash), (7, &b"content"[..], Hash::of(b"content")));
        let ReadEvent::Other(found, None, extra) = looked(data.path(), "link", 3) else { panic!("a symlink") };
        assert_eq!((found.kind, extra.target), (EntryKind::Symlink, Some(EscapedBytes(b"elsewhere".to_vec()))));
        assert!(matches!(looked(data.path(), "folder", 3), ReadEvent::Later(_, Why::Unread)));
        assert!(matches!(looked(data.path(), "none", 3), ReadEvent::Later(_, Why::Gone)));
    }
}
