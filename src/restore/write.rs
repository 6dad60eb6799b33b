//! Makes the entries of a snapshot in a fresh folder that nobody else can enter.
//!
//! Every entry lies in a folder that was made here before it ([`TreeCheck`](crate::vault::tree::TreeCheck)), nothing that
//! exists is ever opened for creation, and no symlink is followed. So nothing is made outside, whatever the vault says.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags, chmodat, chownat, fallocate, fchmod, fchown, fsetxattr, fstat, ftruncate, futimens, linkat, lsetxattr,
    mkdirat, mknodat, openat, renameat, renameat_with, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, retry_on_intr};

use super::attributes::remove_others;
use super::capabilities::{kept, sync};
use super::content::ContentSink;
use super::file_book::FileBook;
use super::open_files::{OpenFile, OpenFiles};
use crate::error::{Doing, Result};
use crate::fs::filesystem::remote;
use crate::fs::{SAFE, open_folder};
use crate::path::EntryPath;
use crate::vault::entry::{Entry, EntryKind, Map};
use crate::vault::hex::Hash;
use crate::vault::root::Problem;

/// Most bytes of a path that is passed to the kernel at once, which takes 4,095; longer paths are walked in parts.
const LONG: usize = 4000;

/// Counts what could not be given to entries.
#[derive(Debug, Default)]
pub struct Shortfall {
    /// Entries whose owner or group could not be set.
    pub owners: AtomicU64,
    /// Files that lost their set-user-id and set-group-id bits with their owner.
    pub set_id: AtomicU64,
    /// Extended attributes that could not be set.
    pub xattrs: AtomicU64,
    /// Entries whose mode or time could not be set.
    pub attributes: AtomicU64,
    /// Hard links that are copies.
    pub links: AtomicU64,
    /// Symlinks and fifos that the filesystem does not support.
    pub left_out: Mutex<Vec<Problem>>,
}

impl Shortfall {
    fn count(&self, entry: &Entry, owned: bool, attributes_set: bool) {
        self.owners.fetch_add((!owned).into(), Ordering::Relaxed);
        self.set_id.fetch_add((entry.mode != mode(entry, owned)).into(), Ordering::Relaxed);
        self.attributes.fetch_add((!attributes_set).into(), Ordering::Relaxed);
    }
}

/// A tree that is being made.
pub struct Tree {
    root: OwnedFd,
    /// The path of the folder that is made, in the snapshot.
    top: EntryPath,
    /// One link of the first member of each hard-link group, by group.
    groups: OwnedFd,
    /// Where there are no hard links: the first member of each group.
    firsts: Mutex<HashMap<Hash, EntryPath>>,
    /// Files of which only a part has come.
    open_files: OpenFiles,
    /// Whether the filesystem is remote: there, a failed write may only be reported when the file is closed.
    remote: bool,
    made: CreationDefaults,
    /// Notes the files, if they are made for another tree.
    book: Option<Arc<FileBook>>,
    /// Counts of what could not be set.
    pub shortfall: Shortfall,
}

/// The attributes that a new file has by itself: owner, group, and which permission bits survive the umask.
#[derive(Debug, Clone, Copy)]
struct CreationDefaults {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// The bits by which a program runs as the user and group who own it, whoever starts it.
const SET_ID: u32 = 0o6000;

/// The mode that an entry gets. A file that could not be given its owner would run as somebody else, so it loses these
/// bits, as with `cp -p`. A folder's bits only say which group its new files get.
fn mode(entry: &Entry, owned: bool) -> u32 {
    if owned || entry.kind == EntryKind::Folder { entry.mode } else { entry.mode & !SET_ID }
}

/// A folder in which names are looked up.
enum ParentFolder<'t> {
    Root(BorrowedFd<'t>),
    Deep(OwnedFd),
}

impl AsFd for ParentFolder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ParentFolder::Root(fd) => *fd,
            ParentFolder::Deep(fd) => fd.as_fd(),
        }
    }
}

fn times(mtime: i64) -> Timestamps {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    let modified = Timespec { tv_sec: mtime.div_euclid(1_000_000_000), tv_nsec: mtime.rem_euclid(1_000_000_000) as _ };
    Timestamps { last_access: omit, last_modification: modified }
}

impl Tree {
    /// Begins a tree in the empty folder `root`, which becomes the entry `top` of the snapshot; `groups` is another
    /// empty folder of the same filesystem.
    ///
    /// # Errors
    /// A folder in which no file can be made.
    pub fn new(root: OwnedFd, top: EntryPath, groups: OwnedFd) -> Result<Tree> {
        let doing = || "make a file in the staging folder";
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let probe = openat(&groups, "probe", flags, Mode::from_raw_mode(0o777)).doing(doing)?;
        let stat = fstat(&probe).doing(doing)?;
        unlinkat(&groups, "probe", AtFlags::empty()).doing(doing)?;
        let remote = remote(&root).doing(|| "look at the filesystem of the staging folder")?.is_some();
        let made = CreationDefaults { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o777 };
        Ok(Tree {
            root,
            top,
            groups,
            firsts: Mutex::default(),
            open_files: OpenFiles::default(),
            remote,
            made,
            book: None,
            shortfall: Shortfall::default(),
        })
    }

    /// Returns the tree, in which only files are made, and the folders that they lie in, for another tree to [take](Tree::take).
    pub fn ahead(self, book: Arc<FileBook>) -> Tree {
        Tree { book: Some(book), ..self }
    }

    /// Whether the files are made for another tree.
    pub fn is_ahead(&self) -> bool {
        self.book.is_some()
    }

    /// Takes a file from a tree that was made [ahead](Tree::ahead), if nothing was done to it after `made`. Returns whether it did.
    ///
    /// # Errors
    /// A system call that fails. The file is not taken then.
    pub fn take(&self, ahead: &Tree, entry: &Entry, made: (i64, i64)) -> rustix::io::Result<bool> {
        let (from, name) = ahead.at(&entry.path)?;
        let is = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let modified = i128::from(is.st_mtime) * 1_000_000_000 + i128::from(is.st_mtime_nsec);
        let is_same = FileType::from_raw_mode(is.st_mode) == FileType::RegularFile
            && (is.st_nlink, is.st_uid, is.st_gid) == (1, entry.uid, entry.gid)
            && u64::try_from(is.st_size).is_ok_and(|size| size == entry.size)
            && is.st_mode & 0o7777 == entry.mode & 0o7777
            && modified == i128::from(entry.mtime)
            && (is.st_ctime, is.st_ctime_nsec as i64) <= made;
        if is_same {
            let (to, to_name) = self.at(&entry.path)?;
            match renameat_with(&from, name, &to, to_name, RenameFlags::NOREPLACE) {
                // Nothing has that name: this is the first entry of its path, and nobody else makes any here.
                Err(Errno::INVAL | Errno::NOSYS) => renameat(&from, name, &to, to_name)?,
                done => done?,
            }
        }
        Ok(is_same)
    }

    /// Returns the folder, and the name in it, by which a path is reached.
    fn at<'p>(&self, path: &'p EntryPath) -> rustix::io::Result<(ParentFolder<'_>, &'p OsStr)> {
        let mut folder = ParentFolder::Root(self.root.as_fd());
        let mut rest = match self.top.is_root() {
            true => path.bytes(),
            // The separator is not part of what follows.
            false => path.bytes().get(self.top.bytes().len() + 1..).unwrap_or_default(),
        };
        if rest.is_empty() {
            rest = b".";
        }
        while rest.len() > LONG {
            // A name has at most 255 bytes, so a stretch of this length has a separator, or the kernel would refuse it.
            let end = rest[..LONG].iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
            folder = ParentFolder::Deep(open_folder(&folder, OsStr::from_bytes(&rest[..end]))?);
            rest = &rest[end + 1..];
        }
        Ok((folder, OsStr::from_bytes(rest)))
    }

    /// Makes a folder, closed to everybody else until [`Tree::leave`].
    ///
    /// # Errors
    /// A system call that fails.
    pub fn folder(&self, entry: &Entry) -> Result<()> {
        if self.top.is_in(&entry.path) {
            return Ok(());
        }
        let make = || {
            let (folder, name) = self.at(&entry.path)?;
            mkdirat(folder, name, Mode::RWXU)
        };
        make().doing(|| format!("make the folder {}", entry.path))
    }

    /// Gives a folder its owner, mode, attributes and time, once nothing more goes into it.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn leave(&self, entry: &Entry) -> Result<()> {
        let leave = || {
            let (folder, name) = self.at(&entry.path)?;
            self.finish(&open_folder(folder, name)?, entry, None)
        };
        leave().doing(|| format!("set the mode and times of the folder {}", entry.path))
    }

    /// Gives a folder outside the tree the metadata that the snapshot has for an entry, and removes the attributes that
    /// the snapshot does not have.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn set_metadata(&self, folder: &OwnedFd, entry: &Entry) -> Result<()> {
        let set = remove_others(folder, &entry.xattrs).and_then(|()| self.finish(folder, entry, None));
        set.doing(|| "set the mode and times of the target")
    }

    /// Makes a symlink or a fifo, or notes that the filesystem does not support it.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn other(&self, entry: &Entry) -> Result<()> {
        self.make_other(entry).doing(|| format!("make {}", entry.path))
    }

    fn make_other(&self, entry: &Entry) -> rustix::io::Result<()> {
        let (folder, name) = self.at(&entry.path)?;
        let made = match &entry.target {
            Some(target) => symlinkat(OsStr::from_bytes(&target.0), &folder, name),
            None => mknodat(&folder, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0),
        };
        if !kept(made)? {
            let what = if entry.target.is_some() { "symbolic links" } else { "named pipes" };
            let why = format!("the filesystem there has no {what}");
            let mut left_out = self.shortfall.left_out.lock().unwrap_or_else(PoisonError::into_inner);
            left_out.push(Problem::new(entry.path.clone(), why));
            return Ok(());
        }
        let owned = self.owner(entry, |uid, gid| chownat(&folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        if !entry.xattrs.is_empty() {
            // There is no lsetxattrat: the folder's descriptor stands for its path.
            let path: PathBuf = Path::new("/proc/self/fd").join(folder.as_fd().as_raw_fd().to_string()).join(name);
            self.xattrs(entry, |name, value| lsetxattr(&path, name, value, XattrFlags::empty()))?;
        }
        let mut attributes_set = true;
        if entry.kind == EntryKind::Fifo {
            attributes_set = kept(chmodat(&folder, name, Mode::from_raw_mode(mode(entry, owned)), AtFlags::empty()))?;
        }
        attributes_set &= kept(utimensat(&folder, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW))?;
        self.shortfall.count(entry, owned, attributes_set);
        Ok(())
    }

    /// Keeps a link of a file for the further members of its group.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn first_link(&self, group: &Hash, entry: &Entry) -> Result<()> {
        let link = || {
            let (folder, name) = self.at(&entry.path)?;
            linkat(folder, name, &self.groups, group.to_string(), AtFlags::empty())
        };
        if !kept(link()).doing(|| format!("keep a link of {}", entry.path))? {
            self.firsts().insert(*group, entry.path.clone());
        }
        Ok(())
    }

    fn firsts(&self) -> MutexGuard<'_, HashMap<Hash, EntryPath>> {
        self.firsts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Links a further member of a group, or copies it where hard links are not possible. `false` if the group's first
    /// member is not there.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn link(&self, group: &Hash, entry: &Entry) -> Result<bool> {
        let first = self.firsts().get(group).cloned();
        if let Some(first) = first {
            return self.copy(&first, entry).doing(|| format!("copy {first} to {}", entry.path)).map(|()| true);
        }
        let link = || {
            let (folder, name) = self.at(&entry.path)?;
            linkat(&self.groups, group.to_string(), folder, name, AtFlags::empty())
        };
        match link() {
            Err(Errno::NOENT) => Ok(false),
            // This filesystem allows fewer names of one file than the one that the file came from.
            Err(Errno::MLINK) => {
                let first = openat(&self.groups, group.to_string(), SAFE | OFlags::RDONLY, Mode::empty());
                let copied = first.map_err(io::Error::from).and_then(|first| self.copy_from(File::from(first), entry));
                copied.doing(|| format!("copy another name of it to {}", entry.path)).map(|()| true)
            }
            done => done.doing(|| format!("make the hard link {}", entry.path)).map(|()| true),
        }
    }

    fn copy(&self, first: &EntryPath, entry: &Entry) -> io::Result<()> {
        let (folder, name) = self.at(first)?;
        self.copy_from(File::from(openat(folder, name, SAFE | OFlags::RDONLY, Mode::empty())?), entry)
    }

    fn copy_from(&self, mut from: File, entry: &Entry) -> io::Result<()> {
        let mut to = File::from(self.create(entry, 0o600)?);
        io::copy(&mut from, &mut to)?;
        self.finish(&to, entry, None)?;
        self.settle(&to)?;
        self.shortfall.links.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Finds out, before a file is closed, whether it could be written: afterwards nobody is told.
    fn settle(&self, file: &File) -> rustix::io::Result<()> {
        if self.remote { sync(file) } else { Ok(()) }
    }

    /// Makes a file with this mode, open for writing.
    fn create(&self, entry: &Entry, mode: u32) -> rustix::io::Result<OwnedFd> {
        let (folder, name) = self.at(&entry.path)?;
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        openat(folder, name, flags, Mode::from_raw_mode(mode))
    }

    /// Keeps a file open for its next pieces; another one may be closed to make room for it.
    fn keep_open(&self, entry: &Entry, file: File) -> Result<Arc<OpenFile>> {
        let (file, closed) = self.open_files.keep(&entry.path, file);
        if let Some((path, closed)) = closed {
            self.settle(&closed.file).doing(|| format!("write {path}"))?;
        }
        Ok(file)
    }

    /// Reserves the space of a database, whose pages come in any order: every write is then cheaper. Returns whether
    /// that was done.
    fn reserve(&self, file: &OwnedFd, entry: &Entry) -> rustix::io::Result<bool> {
        // A range of zeros that is in no pack stays a hole.
        let pages = entry.map.as_ref().and_then(Map::pages);
        let full =
            pages.is_some_and(|map| map.live.iter().map(|used| used.live).sum::<u64>() == map.blocks(entry.size));
        if !full || self.remote {
            return Ok(false);
        }
        kept(retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, entry.size)))
    }

    fn open(&self, entry: &Entry, access: OFlags) -> rustix::io::Result<File> {
        let (folder, name) = self.at(&entry.path)?;
        openat(folder, name, SAFE | access, Mode::empty()).map(File::from)
    }

    /// Sets owner, attributes, mode and time, in an order in which none undoes another. `created` is the mode that the
    /// entry was created with, if that may already be right.
    fn finish(&self, fd: impl AsFd, entry: &Entry, created: Option<u32>) -> rustix::io::Result<()> {
        let mut owned = self.owner(entry, |uid, gid| fchown(&fd, uid, gid))?;
        let has_xattrs = self.xattrs(entry, |name, value| fsetxattr(&fd, name, value, XattrFlags::empty()))?;
        let mut attributes_set = true;
        let wanted = mode(entry, owned);
        if created.map(|mode| mode & self.made.mode) != Some(wanted) {
            attributes_set = kept(fchmod(&fd, Mode::from_raw_mode(wanted)))?;
        }
        attributes_set &= kept(futimens(&fd, &times(entry.mtime)))?;
        if self.remote {
            // Some remote filesystems accept a change and do nothing. Times may be coarser than the snapshot's.
            let is = fstat(&fd)?;
            owned &= (is.st_uid, is.st_gid) == (entry.uid, entry.gid);
            let wanted = mode(entry, owned);
            let too_much = is.st_mode & SET_ID & !wanted;
            if too_much != 0 {
                kept(fchmod(&fd, Mode::from_raw_mode(wanted)))?;
            }
            attributes_set &= (is.st_mode & 0o7777) ^ too_much == wanted
                && is.st_mtime.abs_diff(entry.mtime.div_euclid(1_000_000_000)) < 2;
        }
        self.shortfall.count(entry, owned, attributes_set);
        if let Some(book) = self.book.as_ref().filter(|_| owned && has_xattrs && attributes_set) {
            book.note(entry);
        }
        Ok(())
    }

    /// Sets owner and group. Returns whether that could be done.
    fn owner(
        &self,
        entry: &Entry,
        set: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<bool> {
        if (entry.uid, entry.gid) == (self.made.uid, self.made.gid) {
            return Ok(true);
        }
        // To the system, the number -1 means no change: no file has it.
        let uid = (entry.uid != u32::MAX).then(|| Uid::from_raw(entry.uid));
        let gid = (entry.gid != u32::MAX).then(|| Gid::from_raw(entry.gid));
        kept(set(uid, gid))
    }

    /// Sets extended attributes. Returns whether all could be set.
    fn xattrs(&self, entry: &Entry, set: impl Fn(&OsStr, &[u8]) -> rustix::io::Result<()>) -> rustix::io::Result<bool> {
        let mut all = true;
        for (name, value) in &entry.xattrs {
            match set(OsStr::from_bytes(&name.0), &value.0) {
                // A filesystem may hold fewer or smaller attributes than the one that they came from.
                Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => {
                    _ = self.shortfall.xattrs.fetch_add(1, Ordering::Relaxed);
                    all = false;
                }
                done => done?,
            }
        }
        Ok(all)
    }
}

impl ContentSink for Tree {
    fn whole(&self, entry: &Entry, bytes: &[u8]) -> Result<()> {
        let doing = || format!("write {}", entry.path);
        // An attribute needs write permission on the file; without any, the mode can be right from the start.
        let mode = if entry.xattrs.is_empty() { entry.mode & 0o777 } else { 0o600 };
        let mut file = File::from(self.create(entry, mode).doing(doing)?);
        file.write_all(bytes).doing(doing)?;
        self.finish(&file, entry, Some(mode)).doing(doing)?;
        self.settle(&file).doing(doing)
    }

    fn begin(&self, entry: &Entry) -> Result<()> {
        let make = || {
            let file = self.create(entry, 0o600)?;
            if !self.reserve(&file, entry)? {
                ftruncate(&file, entry.size)?;
            }
            rustix::io::Result::Ok(file)
        };
        let file = make().doing(|| format!("make the file {} of {} bytes", entry.path, entry.size))?;
        self.keep_open(entry, file.into()).map(|_| ())
    }

    fn pieces(&self, entry: &Entry, pieces: &[(u64, &[u8])]) -> Result<()> {
        let file = match self.open_files.get(&entry.path) {
            Some(file) => file,
            None => {
                let again = self.open(entry, OFlags::WRONLY).doing(|| format!("open {} again", entry.path))?;
                self.keep_open(entry, again)?
            }
        };
        // One thread at a time: otherwise they would wait for each other at every page.
        let _turn = file.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, bytes) in pieces {
            file.file
                .write_all_at(bytes, *at)
                .doing(|| format!("write {} bytes at {at} of {}", bytes.len(), entry.path))?;
        }
        Ok(())
    }

    fn end(&self, entry: &Entry) -> Result<()> {
        let end = |file: &File| {
            self.finish(file, entry, None)?;
            self.settle(file)
        };
        let done = match self.open_files.take(&entry.path) {
            Some(open) => end(&open.file),
            None => self.open(entry, OFlags::WRONLY).and_then(|file| end(&file)),
        };
        done.doing(|| format!("finish {}", entry.path))
    }

    fn discard(&self, entry: &Entry) -> Result<()> {
        self.open_files.take(&entry.path);
        let remove = || {
            let (folder, name) = self.at(&entry.path)?;
            unlinkat(folder, name, AtFlags::empty())
        };
        remove().doing(|| format!("remove what there is of {}", entry.path))
    }
}
