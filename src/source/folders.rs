//! Records of the folders of a capture, and the recheck of them at its end.
//!
//! An app goes on while its directory is walked. A file that it moves from a folder that the walk has yet to come to
//! into one that the walk has left would be captured under neither name, and a folder that is replaced meanwhile would
//! be a mixture. So each folder leaves a record of what it was when it was listed, and when everything is read, the
//! folders are checked once more: a folder that is another one by now is taken again, and where a folder's times have
//! moved its names are read again, and new names are taken.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, OFlags, Stat, fstat, statx};
use rustix::io::Errno;

use super::found::SourceEntry;
use super::listing::{names, status};
use super::select::Select;
use crate::error::Doing;
use crate::fs::beneath::{Directory, FileIdentity, born};
use crate::fs::times::{nanos, tick_of};
use crate::path::EntryPath;
use crate::sqlite::side_files;
use crate::vault::entry::EntryKind;

/// Bytes of records that are kept in memory; further records go into a temporary file.
const IN_MEMORY: usize = 16 << 20;

/// Bytes that are written to the file at a time.
const AT_A_TIME: usize = 1 << 20;

/// A folder as it was when it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderRecord {
    /// Its path below the data directory.
    pub path: EntryPath,
    device: u64,
    inode: u64,
    mtime: i64,
    ctime: i64,
    /// When its listing began, in ns since 1970.
    at: i64,
    /// Its ctime when its names had been read, in ns since 1970; not kept in a spool.
    listed: i64,
    /// Its names; `None` if it could not be listed.
    names: Option<Names>,
}

/// Hashes of a folder's names, in order, and what they led to, in the form in which they lie in a spool: for most
/// folders nobody asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names(Vec<u8>);

/// Bytes of one name's hash and of what it led to.
const NAME: usize = 16;

impl Names {
    fn new(mut names: Vec<(u64, u64)>) -> Self {
        names.sort_unstable();
        Names(names.iter().flat_map(|(name, what)| [name.to_le_bytes(), what.to_le_bytes()]).flatten().collect())
    }

    /// Returns what a name led to, found by the name's hash.
    fn get(&self, name: u64) -> Option<u64> {
        let (names, _) = self.0.as_chunks::<NAME>();
        let of = |chunk: &[u8; NAME], half: usize| {
            chunk.as_chunks::<8>().0.get(half).map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let first = names.partition_point(|chunk| of(chunk, 0) < name);
        names.get(first).filter(|chunk| of(chunk, 0) == name).map(|chunk| of(chunk, 1))
    }
}

/// The system's answer for each of a folder's names.
type Stats = [Result<Stat, Errno>];

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish()
}

/// Identifies what a name leads to: the inode's number, with the file type in its upper bits, since a number may be
/// used again for something of another type.
fn what(stat: &Stat) -> u64 {
    stat.st_ino ^ u64::from(stat.st_mode & 0o170_000) << 48
}

/// Whether `what`, which a name led to, has the file type of `stat`.
fn is_same_kind(what: u64, stat: &Stat) -> bool {
    what >> 48 & 0o170_000 == u64::from(stat.st_mode & 0o170_000)
}

impl FolderRecord {
    /// The record of a folder with these names; `at` is when its listing began, and `listed` its ctime after that.
    pub fn new(found: &SourceEntry, at: i64, listed: i64, names: &[Vec<u8>], stats: &Stats) -> Self {
        let inode = |stat: &Result<Stat, Errno>| stat.as_ref().map_or(0, what);
        let names = Names::new(names.iter().zip(stats).map(|(name, stat)| (hash(name), inode(stat))).collect());
        FolderRecord { at, listed, names: Some(names), ..Self::unlisted(found.clone()) }
    }

    /// The record of a folder that was seen, and was gone when it was to be listed.
    pub fn unlisted(found: SourceEntry) -> Self {
        let SourceEntry { path, device, inode, mtime, ctime, .. } = found;
        FolderRecord { path, device, inode, mtime, ctime, at: 0, listed: 0, names: None }
    }

    /// Whether something may have left the folder after the capture `began`, in ns since 1970, and before the folder
    /// was listed.
    pub fn changed_since(&self, began: i64) -> bool {
        // A program can set the mtime, but not the ctime. A folder that was gone when it was to be listed has no names.
        self.names.is_none() || self.listed >= began - tick_of(self.listed)
    }

    fn write(&self, to: &mut Vec<u8>) {
        let path = self.path.bytes();
        to.extend_from_slice(&(path.len() as u32).to_le_bytes());
        to.extend_from_slice(path);
        for number in [self.device, self.inode, self.mtime as u64, self.ctime as u64, self.at as u64] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        let length = self.names.as_ref().map_or(u64::MAX, |names| names.0.len() as u64);
        to.extend_from_slice(&length.to_le_bytes());
        self.names.iter().for_each(|names| to.extend_from_slice(&names.0));
    }

    fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut path = vec![0; u32::from_le_bytes(length) as usize];
        from.read_exact(&mut path)?;
        let path = if path.is_empty() { Ok(EntryPath::root()) } else { EntryPath::new(path) };
        let path = path.map_err(io::Error::other)?;
        let mut number = || {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        let (device, inode) = (number()?, number()?);
        let (mtime, ctime, at) = (number()? as i64, number()? as i64, number()? as i64);
        let names = match number()? {
            u64::MAX => None,
            length => {
                let mut names = vec![0; length as usize];
                from.read_exact(&mut names)?;
                Some(Names(names))
            }
        };
        Ok(FolderRecord { path, device, inode, mtime, ctime, at, listed: 0, names })
    }
}

/// The records of a capture. They are written once and read once, from first to last: what does not fit into a fixed
/// amount of memory lies in a file without a name or, where there is no room for one, in memory all the same.
#[derive(Default)]
pub struct Folders {
    memory: Vec<u8>,
    file: Option<File>,
    /// Bytes of whole records in the file.
    in_file: u64,
    /// Records that come after those in the file.
    tail: Vec<u8>,
    /// Whether the file takes no more.
    full: bool,
    count: u64,
    /// Whether something may have left one of the folders before it was listed.
    pub stirred: bool,
    /// The folders that have a record; kept only for a round, which has few folders.
    paths: HashSet<EntryPath>,
}

impl Folders {
    /// Adds a record of a round, which replaces an older one.
    pub fn push_newer(&mut self, record: &FolderRecord) {
        self.paths.insert(record.path.clone());
        self.push(record);
    }

    /// Adds a record.
    pub fn push(&mut self, record: &FolderRecord) {
        self.count += 1;
        if self.memory.len() < IN_MEMORY {
            return record.write(&mut self.memory);
        }
        record.write(&mut self.tail);
        if self.tail.len() >= AT_A_TIME && !self.full {
            match self.spill() {
                Ok(()) => self.tail.clear(),
                Err(why) => {
                    self.full = true;
                    tracing::debug!("no temporary file takes the records of folders, which stay in memory: {why}");
                }
            }
        }
    }

    /// Writes the tail to the file. The rest of a failed write there does not count.
    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        file.write_all(&self.tail)?;
        self.in_file += self.tail.len() as u64;
        Ok(())
    }

    /// Calls `take` with every record, in the order in which they were added.
    ///
    /// # Errors
    /// A temporary file that cannot be read; those of `take`.
    pub fn each(self, mut take: impl FnMut(FolderRecord) -> crate::error::Result<()>) -> crate::error::Result<()> {
        let doing = || "read the records of the data directory's folders from a temporary file";
        let file = match self.file {
            Some(mut file) => {
                file.rewind().doing(doing)?;
                Some(BufReader::new(file.take(self.in_file)))
            }
            None => None,
        };
        let mut from = self.memory.as_slice().chain(OptionalFile(file)).chain(self.tail.as_slice());
        (0..self.count).try_for_each(|_| take(FolderRecord::read(&mut from).doing(doing)?))
    }

    /// Whether this folder has a record.
    pub fn has(&self, path: &EntryPath) -> bool {
        self.paths.contains(path)
    }
}

/// A file that may be missing, and then reads as an empty one.
struct OptionalFile(Option<BufReader<io::Take<File>>>);

impl Read for OptionalFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(0), |file| file.read(buffer))
    }
}

/// How folders are checked again.
pub struct FolderRecheck<'a> {
    /// The data directory.
    pub root: &'a Directory,
    /// Which of its entries are taken.
    pub select: &'a Select,
    /// If a folder changed at most this long before it was listed, in ns, it may have changed since without its time
    /// moving.
    pub window: i64,
    /// When the capture began, in ns since 1970.
    pub began: i64,
    /// When this recheck began, in ns since 1970.
    pub since: i64,
    /// The machine's clock, in ns since 1970.
    pub now: fn() -> i64,
    /// Whether an unchanged time of a folder says that nothing was put into it or taken out, and inode numbers mean
    /// something.
    pub times_tell: bool,
    /// Set from outside to stop the work.
    pub stop: &'a AtomicBool,
}

/// The entries that are to be taken after a recheck.
#[derive(Debug, Default)]
pub struct ToTake {
    /// Entries that existed before the capture, or may have, and are not in it under the name that they have now.
    pub lacking: BTreeSet<EntryPath>,
    /// New entries: files that were made while the capture went on.
    pub newborn: BTreeSet<EntryPath>,
    /// Folders in whose place another filesystem is mounted now.
    pub remounted: Vec<EntryPath>,
    /// Number of folders whose names were read again.
    pub listed: u64,
    /// Folders that changed during the last recheck. Entries that were moved out of them may have gone to a folder that
    /// had been checked before.
    pub restless: BTreeSet<EntryPath>,
}

impl ToTake {
    /// Everything that is to be taken, in path order, none below another.
    pub fn paths(&self) -> Vec<EntryPath> {
        let mut out: Vec<EntryPath> = Vec::new();
        for path in self.lacking.union(&self.newborn) {
            if !out.last().is_some_and(|above| path.is_in(above)) {
                out.push(path.clone());
            }
        }
        out
    }
}

impl FolderRecheck<'_> {
    /// Checks a folder. Returns its record for the next recheck.
    pub fn recheck_folder(&self, record: FolderRecord, out: &mut ToTake) -> FolderRecord {
        let Some(now) = self.folder(&record.path) else {
            // The folder went away, or a folder above it did, which shows there: its captured content did exist. If
            // something is there now, it is a name in the folder around it, and is checked with that folder.
            self.note_left(&record.path, out);
            return record;
        };
        if now.device != record.device {
            if !out.remounted.contains(&record.path) {
                out.remounted.push(record.path.clone());
            }
            return record;
        }
        let other = self.times_tell && now.inode != record.inode;
        let Some(known) = record.names.as_ref().filter(|_| !other) else {
            out.lacking.insert(record.path.clone());
            return record;
        };
        let moved = (now.mtime, now.ctime) != (record.mtime, record.ctime);
        if self.times_tell && !moved && now.mtime.max(now.ctime) < record.at - self.window {
            return record;
        }
        out.listed += 1;
        self.list_again(&record.path, known, out).unwrap_or_else(|_| {
            // A folder that cannot be listed any more was captured as well as it could be.
            self.note_left(&record.path, out);
            record
        })
    }

    /// The folder that is at a path now; `None` if there is none.
    fn folder(&self, path: &EntryPath) -> Option<SourceEntry> {
        let stat = self.root.stat_at(path).ok()?;
        SourceEntry::new(path.clone(), &stat).filter(|now| now.kind == EntryKind::Folder)
    }

    /// Records the nearest folder around an entry that still exists, if the entry may have left it during this recheck.
    pub fn note_left(&self, path: &EntryPath, out: &mut ToTake) {
        let mut above = path.folder().unwrap_or_default();
        loop {
            if let Some(now) = self.folder(&above) {
                return self.watch(now, out);
            }
            if above.is_root() {
                return;
            }
            above = above.folder().unwrap_or_default();
        }
    }

    /// Records a folder as restless if it changed during this recheck.
    fn watch(&self, now: SourceEntry, out: &mut ToTake) {
        // A program can set the mtime, but not the ctime. A time in the future says nothing.
        let tick = tick_of(now.ctime);
        if self.times_tell && (self.since - tick..=(self.now)() + tick).contains(&now.ctime) {
            out.restless.insert(now.path);
        }
    }

    /// Reads a folder's names again and finds those that are not known.
    fn list_again(&self, path: &EntryPath, known: &Names, out: &mut ToTake) -> Result<FolderRecord, Errno> {
        let folder = self.root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let at = (self.now)();
        let found = SourceEntry::new(path.clone(), &fstat(&folder)?).ok_or(Errno::NOTDIR)?;
        let names = names(&folder)?;
        let stats: Vec<_> = names.iter().map(|name| status(&folder, name)).collect();
        // Checked once more: what is renamed while the names are read may show under neither name.
        self.watch(SourceEntry::new(path.clone(), &fstat(&folder)?).ok_or(Errno::NOTDIR)?, out);
        let databases = match self.select.sqlite {
            // The side files of a database come with it.
            true => side_files::databases(&folder, &names, &stats, self.stop),
            false => Default::default(),
        };
        for (name, stat) in names.iter().zip(&stats) {
            let Some(now) = stat.as_ref().ok().and_then(|stat| SourceEntry::new(path.join(name), stat)) else {
                continue;
            };
            let was = known.get(hash(name));
            let same = was.is_some_and(|was| match self.times_tell {
                true => stat.as_ref().is_ok_and(|stat| what(stat) == was),
                false => true,
            });
            // If another filesystem was mounted there already, its own record tells.
            let mount = was.is_some() && now.kind == EntryKind::Folder && now.device != found.device;
            let side = now.kind == EntryKind::File && databases.is_side(name);
            if same || mount || side || !self.select.selects(&now) {
                continue;
            }
            let now_stat = || statx(&folder, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW, FileIdentity::FLAGS);
            let born = || now_stat().ok().and_then(|stat| born(&stat));
            let new = now.kind != EntryKind::Folder && is_newborn(&now, born(), self.began, self.now);
            match was {
                None if new => _ = out.newborn.insert(now.path),
                // A file or symlink that was saved again under its name: its previous content has been captured.
                Some(was) if new && stat.as_ref().is_ok_and(|stat| is_same_kind(was, stat)) => {}
                // An entry that was there in another form, such as a folder that a symlink has replaced, is not
                // captured in its new form otherwise.
                _ => _ = out.lacking.insert(now.path),
            }
        }
        Ok(FolderRecord::new(&found, at, found.ctime, &names, &stats))
    }
}

/// Whether a file that was made at `born` (seconds and ns since 1970) was made after the capture `began`, in ns since
/// 1970. A file whose content is older was not: it was moved here from another filesystem, or copied up into the upper
/// layer of an overlay.
pub fn is_newborn(found: &SourceEntry, born: Option<(i64, u32)>, began: i64, now: fn() -> i64) -> bool {
    let born = born.map(|(seconds, part)| nanos(seconds, part.into()));
    // After a clock was set back, old files look as if they were made later than now.
    began <= found.mtime && born.is_some_and(|born| began <= born && born <= now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u64) -> FolderRecord {
        let path = if n == 0 { EntryPath::root() } else { EntryPath::new(format!("folder {n}")).unwrap() };
        let names = (!n.is_multiple_of(3)).then(|| Names::new((0..n % 400).map(|name| (name, n)).collect()));
        FolderRecord { path, device: n, inode: n << 40, mtime: -(n as i64), ctime: n as i64, at: 7, listed: 0, names }
    }

    #[test]
    fn names_are_found_by_their_hashes() {
        let names = Names::new(vec![(7, 70), (u64::MAX, 1), (3, 30), (1 << 40, 40)]);
        for (name, what) in [(3, 30), (7, 70), (1 << 40, 40), (u64::MAX, 1)] {
            assert_eq!(names.get(name), Some(what));
        }
        assert!([0, 4, 8, u64::MAX - 1].iter().all(|name| names.get(*name).is_none()));
        assert_eq!(Names::new(vec![]).get(0), None);
    }

    fn back(folders: Folders) -> u64 {
        let mut next = 0;
        folders
            .each(|back| {
                assert_eq!(back, record(next));
                next += 1;
                Ok(())
            })
            .unwrap();
        next
    }

    #[test]
    fn records_come_back_from_memory_and_from_a_file() {
        for count in [0, 1, 100, 20_000] {
            let mut folders = Folders::default();
            (0..count).for_each(|n| folders.push(&record(n)));
            assert_eq!(folders.file.is_some(), count == 20_000);
            assert_eq!(back(folders), count);
        }
    }

    #[test]
    fn records_stay_in_memory_where_there_is_no_room_for_a_file() {
        for full in [0, 12_000] {
            let mut folders = Folders::default();
            for n in 0..20_000 {
                // As if the disk were full from here on.
                folders.full |= n == full;
                folders.push(&record(n));
            }
            assert!(folders.tail.len() > AT_A_TIME);
            assert_eq!(back(folders), 20_000);
        }
    }
}
