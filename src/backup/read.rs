//! Reading what is to be stored, by several threads, in the order of the walk.
//!
//! Small files are read whole, many in a batch; a large one flows in pieces, cut into blocks and hashed here, through a
//! channel that holds a few. A file that changes while it is read is read once more, then taken as it stands.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{Mode, OFlags, SeekFrom, Stat, fstat, open, seek};
use rustix::io::Errno;

use super::block;
use super::extra::{Extra, extra_of, extra_of_file};
use super::merge::Step;
use super::walk::Found;
use crate::error::Result;
use crate::monitor::Context;
use crate::vault::entry::{Entry, Kind};
use crate::vault::hex::Hash;
use crate::vault::path::EntryPath;

/// Files of at most this size are read whole and are one block, in bytes.
pub const SMALL: u64 = block::MAX as u64;
/// Content that one batch of small files may have, in bytes.
const BATCH_BYTES: u64 = 1 << 20;
/// Entries that one batch may have.
const BATCH: usize = 256;
/// Read at a time from a large file, in bytes.
const PIECE: usize = 1 << 20;
/// A file changed this recently may change again without its time moving, in ns.
const RACY: i64 = 2_000_000_000;
/// How often an entry is looked at again that is not what it was.
const AGAIN: u32 = 4;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A file that was read.
#[derive(Debug)]
pub struct Content {
    /// Its metadata as of the reading, with as many bytes as were read.
    pub found: Found,
    /// Its attributes.
    pub extra: Extra,
    /// Of all its bytes.
    pub hash: Hash,
    /// Whether it may have changed since without any time showing it.
    pub racy: bool,
    /// What happened to it while it was read.
    pub note: Option<String>,
}

/// What is known of an entry after it was looked at; of a large file, one after the other.
#[derive(Debug)]
pub enum Part {
    /// The entry is copied.
    Keep(Entry),
    /// The entry's content is kept, its metadata is new.
    Adopt(Found, Entry, Extra),
    /// Another name of a file that came before.
    Link(Found),
    /// A folder, symlink or fifo.
    Other(Found, Option<Entry>, Extra),
    /// A whole file, its bytes, the known entry and whether that looked unchanged.
    File(Content, Vec<u8>, Option<Entry>, bool),
    /// A large file begins; what follows is its content.
    Begin(Option<Entry>, bool),
    /// Bytes and the blocks that they are.
    Blocks(Vec<u8>, Vec<(u32, Hash)>),
    /// A hole of so many bytes.
    Hole(u64),
    /// The file changed: what came since its beginning is void.
    Again,
    /// The file's end.
    End(Content),
    /// It is not there any more.
    Gone(EntryPath, String),
    /// It cannot be read, and why.
    Failed(EntryPath, String),
}

/// Steps that one thread takes, and where it sends what comes of them.
struct Job {
    steps: Vec<Step>,
    to: Sender<Vec<Part>>,
}

/// Takes steps in order and hands them to the reading threads.
pub struct Feed {
    jobs: Sender<Job>,
    order: Sender<Receiver<Vec<Part>>>,
    steps: Vec<Step>,
    bytes: u64,
}

/// Starts the reading threads in `scope`. Steps go into the feed; what comes of them comes out of the receivers, one per
/// batch, in the order of the steps.
pub fn start<'s, 'e: 's>(
    scope: &'s std::thread::Scope<'s, 'e>,
    data: &'e Path,
    ctx: &'e Context<'e>,
) -> (Feed, Receiver<Receiver<Vec<Part>>>) {
    let (jobs, to_do) = bounded::<Job>(ctx.threads);
    let (order, in_order) = bounded(2 * ctx.threads + 2);
    for _ in 0..ctx.threads {
        let to_do = to_do.clone();
        scope.spawn(move || {
            for Job { steps, to } in to_do {
                // A receiver that is gone has failed, and says why itself.
                let _ = take_steps(data, steps, &to, ctx);
            }
        });
    }
    (Feed { jobs, order, steps: Vec::new(), bytes: 0 }, in_order)
}

/// The other side of a channel went away: the run has failed elsewhere.
#[derive(Debug)]
pub struct Over;

impl Feed {
    /// Takes the next step.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn push(&mut self, step: Step) -> Result<(), Over> {
        let size = match &step {
            Step::Read(found, _) | Step::Sample(found, _) => found.size,
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

    /// Hands on what was taken so far.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn flush(&mut self) -> Result<(), Over> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let (to, from) = bounded(2);
        self.bytes = 0;
        self.order.send(from).map_err(|_| Over)?;
        self.jobs.send(Job { steps: std::mem::take(&mut self.steps), to }).map_err(|_| Over)
    }
}

fn take_steps(data: &Path, steps: Vec<Step>, to: &Sender<Vec<Part>>, ctx: &Context) -> Result<(), Over> {
    let mut parts = Vec::with_capacity(steps.len());
    for step in steps {
        let part = match step {
            Step::Keep(entry) => Part::Keep(entry),
            Step::Link(found) => Part::Link(found),
            Step::Failed(path, why) => Part::Failed(path, why),
            Step::Adopt(found, entry) => match extra_of(&data.join(found.path.as_path()), found.kind) {
                Ok(extra) => Part::Adopt(found, entry, extra),
                Err(_) => look(data, found, Some(entry), false, to, &mut parts, ctx)?,
            },
            Step::Read(found, known) => look(data, found, known, false, to, &mut parts, ctx)?,
            Step::Sample(found, known) => look(data, found, Some(known), true, to, &mut parts, ctx)?,
        };
        parts.push(part);
    }
    to.send(parts).map_err(|_| Over)
}

/// Looks at an entry as what it was found to be and, where something else has taken its place, as what it is now.
fn look(
    data: &Path,
    mut found: Found,
    known: Option<Entry>,
    sampled: bool,
    to: &Sender<Vec<Part>>,
    before: &mut Vec<Part>,
    ctx: &Context,
) -> Result<Part, Over> {
    for _ in 0..AGAIN {
        let path = data.join(found.path.as_path());
        let why = match found.kind {
            Kind::File => match read_file(&path, &found.path, &known, sampled, to, before, ctx)? {
                Ok(part) => return Ok(part),
                Err(why) => why,
            },
            kind => match extra_of(&path, kind) {
                Ok(extra) => return Ok(Part::Other(found, known, extra)),
                Err(why) => why,
            },
        };
        // Not what it was: a link that was swapped, a name that was given away and taken again.
        if !matches!(why, Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::INVAL) {
            return Ok(Part::Failed(found.path, why.to_string()));
        }
        let now = match rustix::fs::lstat(&path) {
            Ok(stat) => Found::new(found.path.clone(), &stat),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Ok(Part::Gone(found.path, "it disappeared before it was read".into()));
            }
            Err(why) => return Ok(Part::Failed(found.path, why.to_string())),
        };
        match now {
            // What is in a new folder was not walked.
            Some(now) if now.kind != Kind::Folder => found = now,
            _ => return Ok(Part::Failed(found.path, "it was replaced by something else before it was read".into())),
        }
    }
    Ok(Part::Failed(found.path, "it is replaced again and again".into()))
}

/// Reads a file: a small one comes back as a part, a large one has gone into the channel when this returns.
fn read_file(
    whole: &Path,
    path: &EntryPath,
    known: &Option<Entry>,
    sampled: bool,
    to: &Sender<Vec<Part>>,
    before: &mut Vec<Part>,
    ctx: &Context,
) -> Result<Result<Part, Errno>, Over> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = open(whole, flags, Mode::empty()).and_then(|file| fstat(&file).map(|stat| (File::from(file), stat)));
    let (file, stat) = match opened {
        Ok(opened) => opened,
        Err(why) => return Ok(Err(why)),
    };
    let Some(opened) = Found::new(path.clone(), &stat).filter(|opened| opened.kind == Kind::File) else {
        return Ok(Err(Errno::LOOP));
    };
    let holes = opened.sparse && !matches!(seek(&file, SeekFrom::Hole(0)), Ok(at) if at >= opened.size);
    if opened.size <= SMALL && !holes {
        return Ok(Ok(match read_small(&file, path, &stat) {
            Ok((content, bytes)) => {
                ctx.monitor.advance(bytes.len() as u64);
                Part::File(content, bytes, known.clone(), sampled)
            }
            Err(why) => Part::Failed(path.clone(), format!("it cannot be read: {why}")),
        }));
    }
    // What came before goes first; this thread stays with the file to its end.
    let mut first = std::mem::take(before);
    first.push(Part::Begin(known.clone(), sampled));
    to.send(first).map_err(|_| Over)?;
    let mut large = Large { file: &file, to, held: Vec::new(), hash: blake3::Hasher::new(), ctx };
    Ok(Ok(match large.read(path, stat)? {
        Ok(content) => Part::End(content),
        Err(why) => Part::Failed(path.clone(), format!("it cannot be read: {why}")),
    }))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX))
}

/// Whether a file is as it was; if not, what happened to it.
fn compare(before: &Stat, after: &Stat, read: u64) -> Option<String> {
    let times = |s: &Stat| (s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec);
    let size = |s: &Stat| u64::try_from(s.st_size).unwrap_or(0);
    let (was, is) = (size(before), size(after));
    if after.st_nlink == 0 {
        // Its bytes are the file's last ones, and whole.
        return Some("it was removed or replaced while it was read".into());
    }
    if was == is && read == was && times(before) == times(after) {
        return None;
    }
    Some(match is.cmp(&was) {
        std::cmp::Ordering::Greater => format!("it grew from {was} to {is} bytes while it was read"),
        std::cmp::Ordering::Less => format!("it shrank from {was} to {is} bytes while it was read"),
        std::cmp::Ordering::Equal => "it was written to while it was read".into(),
    })
}

/// The outcome of reading a file, from its metadata before and after.
fn finish(
    file: &File,
    path: &EntryPath,
    stat: &Stat,
    read: u64,
    began: i64,
    hash: Hash,
    note: Option<String>,
) -> io::Result<Content> {
    let found = Found::new(path.clone(), stat).ok_or_else(|| io::Error::other("it is not a file any more"))?;
    let extra = extra_of_file(file)?;
    let racy = note.is_some() || found.mtime >= began - RACY;
    let note = note.map(|what| format!("{what}; taken as it stood, {read} bytes"));
    Ok(Content { found: Found { size: read, ..found }, extra, hash, racy, note })
}

fn read_small(file: &File, path: &EntryPath, first: &Stat) -> io::Result<(Content, Vec<u8>)> {
    let mut stat = *first;
    for last in [false, true] {
        let began = now();
        let size = usize::try_from(stat.st_size).unwrap_or(0);
        let mut bytes = vec![0; size];
        let mut read = 0;
        while read < size {
            match file.read_at(&mut bytes[read..], read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        bytes.truncate(read);
        let after = fstat(file)?;
        let note = compare(&stat, &after, read as u64);
        if note.is_none() || last || after.st_nlink == 0 || after.st_size as u64 > SMALL {
            let hash = Hash::of(&bytes);
            return Ok((finish(file, path, &stat, read as u64, began, hash, note)?, bytes));
        }
        stat = after;
    }
    Err(io::Error::other("it keeps changing"))
}

/// A large file on its way.
struct Large<'a> {
    file: &'a File,
    to: &'a Sender<Vec<Part>>,
    /// Bytes that are read and not yet a block.
    held: Vec<u8>,
    hash: blake3::Hasher,
    ctx: &'a Context<'a>,
}

impl Large<'_> {
    fn send(&self, part: Part) -> Result<(), Over> {
        self.to.send(vec![part]).map_err(|_| Over)
    }

    /// Sends the file's content, a second time if it changed.
    fn read(&mut self, path: &EntryPath, first: Stat) -> Result<io::Result<Content>, Over> {
        let mut stat = first;
        for last in [false, true] {
            let began = now();
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            self.hash.reset();
            self.held.clear();
            let read = match self.content(size)? {
                Ok(read) => read,
                Err(why) => return Ok(Err(why)),
            };
            let after = match fstat(self.file) {
                Ok(after) => after,
                Err(why) => return Ok(Err(why.into())),
            };
            let note = compare(&stat, &after, read);
            if note.is_none() || last || after.st_nlink == 0 {
                let hash = Hash::from(&self.hash.finalize());
                return Ok(finish(self.file, path, &stat, read, began, hash, note));
            }
            self.send(Part::Again)?;
            stat = after;
        }
        Ok(Err(io::Error::other("it keeps changing")))
    }

    /// Sends up to `size` bytes of content, as data and holes; tells how many there were.
    fn content(&mut self, size: u64) -> Result<io::Result<u64>, Over> {
        let mut at = 0;
        while at < size {
            let data = match seek(self.file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                // A filesystem that knows no holes has none.
                Err(_) => at,
            };
            if data > at {
                if data == size && fstat(self.file).is_ok_and(|now| (now.st_size as u64) < size) {
                    break;
                }
                self.hole(data - at)?;
                at = data;
                continue;
            }
            let end = match seek(self.file, SeekFrom::Hole(at)) {
                Ok(hole) if hole > at => hole.min(size),
                _ => size,
            };
            let wanted = end - at;
            match self.data(at, wanted)? {
                Ok(read) if read == wanted => at = end,
                Ok(read) => return Ok(Ok(at + read)),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(at))
    }

    fn hole(&mut self, length: u64) -> Result<(), Over> {
        let mut left = length;
        while left > 0 && !self.ctx.stop.load(std::sync::atomic::Ordering::Relaxed) {
            let now = left.min(ZEROS.len() as u64);
            self.hash.update(&ZEROS[..now as usize]);
            left -= now;
        }
        self.ctx.monitor.advance(length);
        self.send(Part::Hole(length))
    }

    /// Sends `length` bytes from `at`, or what there is of them.
    fn data(&mut self, at: u64, length: u64) -> Result<io::Result<u64>, Over> {
        let mut read = 0;
        loop {
            let room = (PIECE as u64).min(length - read) as usize;
            let begin = self.held.len();
            self.held.resize(begin + room, 0);
            let got = loop {
                match self.file.read_at(&mut self.held[begin..], at + read) {
                    Ok(got) => break got,
                    Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                    Err(why) => return Ok(Err(why)),
                }
            };
            self.held.truncate(begin + got);
            self.hash.update(&self.held[begin..]);
            read += got as u64;
            let end = got == 0 || read == length;
            let lengths = block::cut(&self.held, end);
            let cut: usize = lengths.iter().sum();
            if cut > 0 {
                let rest = self.held.split_off(cut);
                let bytes = std::mem::replace(&mut self.held, rest);
                let mut from = 0;
                let hashed = |length: usize| {
                    from += length;
                    (length as u32, Hash::of(&bytes[from - length..from]))
                };
                let blocks = lengths.into_iter().map(hashed).collect();
                self.ctx.monitor.advance(cut as u64);
                self.send(Part::Blocks(bytes, blocks))?;
            }
            if end {
                return Ok(Ok(read));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{Silent, system_random};
    use crate::vault::path::Bytes;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::AtomicBool;

    /// What comes of a path that was found to be a file of `size` bytes.
    fn looked(data: &Path, name: &str, size: u64) -> Part {
        let stat = rustix::fs::stat(data.join("file")).unwrap();
        let found = Found { size, ..Found::new(EntryPath::new(name).unwrap(), &stat).unwrap() };
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 1, stop: &stop, monitor: &Silent };
        let (to, from) = bounded(4);
        take_steps(data, vec![Step::Read(found, None)], &to, &ctx).unwrap();
        from.recv().unwrap().remove(0)
    }

    #[test]
    fn what_took_the_place_of_a_file_is_taken_as_what_it_is() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("file"), "content").unwrap();
        symlink("elsewhere", data.path().join("link")).unwrap();
        fs::create_dir(data.path().join("folder")).unwrap();
        let Part::File(content, bytes, None, false) = looked(data.path(), "file", 3) else { panic!("a file") };
        assert_eq!((content.found.size, &bytes[..], content.hash), (7, &b"content"[..], Hash::of(b"content")));
        let Part::Other(found, None, extra) = looked(data.path(), "link", 3) else { panic!("a symlink") };
        assert_eq!((found.kind, extra.target), (Kind::Symlink, Some(Bytes(b"elsewhere".to_vec()))));
        assert!(matches!(looked(data.path(), "folder", 3), Part::Failed(..)));
        assert!(matches!(looked(data.path(), "none", 3), Part::Gone(..)));
    }
}
