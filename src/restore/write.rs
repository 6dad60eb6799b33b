//! Making the entries of a snapshot in a fresh folder that nobody else can enter.
//!
//! Every entry lies in a folder that was made here before it ([`TreeCheck`](crate::vault::tree::TreeCheck)), nothing that
//! exists is ever opened for creation, and no symlink is followed. So nothing is made outside, whatever the vault says.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat, fchmod,
    fchown, fsetxattr, fstat, ftruncate, futimens, linkat, lsetxattr, mkdirat, mknodat, openat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::content::Output;
use super::open_files::OpenFiles;
use crate::error::{Doing, Result};
use crate::vault::entry::{Entry, Kind};
use crate::vault::hex::Hash;
use crate::vault::path::EntryPath;

/// Paths of more bytes are walked in parts: the kernel takes 4,095.
const LONG: usize = 4000;
/// Never follow a symlink, and never give a descriptor to a child.
const SAFE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// What could not be given to entries, counted.
#[derive(Debug, Default)]
pub struct Shortfall {
    /// Entries whose owner or group could not be set.
    pub owners: AtomicU64,
    /// Extended attributes that could not be set.
    pub xattrs: AtomicU64,
}

/// A tree that is being made.
pub struct Tree {
    root: OwnedFd,
    /// One link of the first member of each hard-link group, by group.
    groups: OwnedFd,
    /// Files that came in part.
    open_files: OpenFiles,
    made: Made,
    /// What could not be set.
    pub shortfall: Shortfall,
}

/// What a new file has by itself: owner, group, and which permission bits survive the umask.
#[derive(Debug, Clone, Copy)]
struct Made {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// A folder in which names are looked up.
enum Folder<'t> {
    Root(BorrowedFd<'t>),
    Deep(OwnedFd),
}

impl AsFd for Folder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Folder::Root(fd) => *fd,
            Folder::Deep(fd) => fd.as_fd(),
        }
    }
}

/// Opens a folder in a folder, for reading its names.
///
/// # Errors
/// As `openat`; what is not a folder is refused.
pub fn open_folder(at: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(at, name, SAFE | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
}

fn times(mtime: i64) -> Timestamps {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    let modified = Timespec { tv_sec: mtime.div_euclid(1_000_000_000), tv_nsec: mtime.rem_euclid(1_000_000_000) as _ };
    Timestamps { last_access: omit, last_modification: modified }
}

impl Tree {
    /// A tree in the empty folder `root`; `groups` is another empty folder of the same filesystem.
    ///
    /// # Errors
    /// A folder in which no file can be made.
    pub fn new(root: OwnedFd, groups: OwnedFd) -> Result<Tree> {
        let doing = || "make a file in the staging folder";
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let probe = openat(&groups, "probe", flags, Mode::from_raw_mode(0o777)).doing(doing)?;
        let stat = fstat(&probe).doing(doing)?;
        unlinkat(&groups, "probe", AtFlags::empty()).doing(doing)?;
        let made = Made { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o777 };
        Ok(Tree { root, groups, open_files: OpenFiles::default(), made, shortfall: Shortfall::default() })
    }

    /// The folder and the name in it by which a path is reached.
    fn at<'p>(&self, path: &'p EntryPath) -> rustix::io::Result<(Folder<'_>, &'p OsStr)> {
        let mut folder = Folder::Root(self.root.as_fd());
        let mut rest = path.bytes();
        if rest.is_empty() {
            rest = b".";
        }
        while rest.len() > LONG {
            // A name has at most 255 bytes, so a stretch of this length has a separator, or the kernel would refuse it.
            let end = rest[..LONG].iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
            folder = Folder::Deep(open_folder(&folder, OsStr::from_bytes(&rest[..end]))?);
            rest = &rest[end + 1..];
        }
        Ok((folder, OsStr::from_bytes(rest)))
    }

    /// Makes a folder, closed to everybody else until [`Tree::leave`].
    ///
    /// # Errors
    /// What the system refuses.
    pub fn folder(&self, entry: &Entry) -> Result<()> {
        if entry.path.is_root() {
            return Ok(());
        }
        let make = || {
            let (folder, name) = self.at(&entry.path)?;
            mkdirat(folder, name, Mode::RWXU)
        };
        make().doing(|| format!("make the folder {}", entry.path))
    }

    /// Gives a folder that is filled its owner, mode, attributes and time.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn leave(&self, entry: &Entry) -> Result<()> {
        let leave = || {
            let (folder, name) = self.at(&entry.path)?;
            self.finish(&open_folder(folder, name)?, entry, None)
        };
        leave().doing(|| format!("set the mode and times of the folder {}", entry.path))
    }

    /// Gives a folder that is not in the tree what the snapshot says of an entry.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn dress(&self, folder: &OwnedFd, entry: &Entry) -> Result<()> {
        self.finish(folder, entry, None).doing(|| "set the mode and times of the target")
    }

    /// Makes a symlink or a fifo.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn other(&self, entry: &Entry) -> Result<()> {
        self.make_other(entry).doing(|| format!("make {}", entry.path))
    }

    fn make_other(&self, entry: &Entry) -> rustix::io::Result<()> {
        let (folder, name) = self.at(&entry.path)?;
        match &entry.target {
            Some(target) => symlinkat(OsStr::from_bytes(&target.0), &folder, name)?,
            None => mknodat(&folder, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
        }
        self.owner(entry, |uid, gid| chownat(&folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        if !entry.xattrs.is_empty() {
            // There is no lsetxattrat: the folder's descriptor stands for its path.
            let path: PathBuf = Path::new("/proc/self/fd").join(folder.as_fd().as_raw_fd().to_string()).join(name);
            self.xattrs(entry, |name, value| lsetxattr(&path, name, value, XattrFlags::empty()))?;
        }
        if entry.kind == Kind::Fifo {
            chmodat(&folder, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        utimensat(&folder, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Keeps a file for the links of its group that follow.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn first_link(&self, group: &Hash, entry: &Entry) -> Result<()> {
        let link = || {
            let (folder, name) = self.at(&entry.path)?;
            linkat(folder, name, &self.groups, group.to_string(), AtFlags::empty())
        };
        link().doing(|| format!("keep a link of {}", entry.path))
    }

    /// Links a further member of a group; `false` when the group's first is not there.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn link(&self, group: &Hash, entry: &Entry) -> Result<bool> {
        let link = || {
            let (folder, name) = self.at(&entry.path)?;
            linkat(&self.groups, group.to_string(), folder, name, AtFlags::empty())
        };
        match link() {
            Err(Errno::NOENT) => Ok(false),
            done => done.doing(|| format!("make the hard link {}", entry.path)).map(|()| true),
        }
    }

    /// Makes a file; `None` for the mode when it is set later.
    fn create(&self, entry: &Entry, mode: u32) -> rustix::io::Result<OwnedFd> {
        let (folder, name) = self.at(&entry.path)?;
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        openat(folder, name, flags, Mode::from_raw_mode(mode))
    }

    fn open(&self, entry: &Entry, access: OFlags) -> rustix::io::Result<File> {
        let (folder, name) = self.at(&entry.path)?;
        openat(folder, name, SAFE | access, Mode::empty()).map(File::from)
    }

    /// Owner, attributes, mode and time, in the order in which none undoes another. `created` is the mode that the entry
    /// was created with, where that may already be right.
    fn finish(&self, fd: impl AsFd, entry: &Entry, created: Option<u32>) -> rustix::io::Result<()> {
        self.owner(entry, |uid, gid| fchown(&fd, uid, gid))?;
        self.xattrs(entry, |name, value| fsetxattr(&fd, name, value, XattrFlags::empty()))?;
        if created.map(|mode| mode & self.made.mode) != Some(entry.mode) {
            fchmod(&fd, Mode::from_raw_mode(entry.mode))?;
        }
        futimens(&fd, &times(entry.mtime))
    }

    fn owner(
        &self,
        entry: &Entry,
        set: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        if (entry.uid, entry.gid) == (self.made.uid, self.made.gid) {
            return Ok(());
        }
        // The number -1 means no change to the system: no file has it.
        let uid = (entry.uid != u32::MAX).then(|| Uid::from_raw(entry.uid));
        let gid = (entry.gid != u32::MAX).then(|| Gid::from_raw(entry.gid));
        match set(uid, gid) {
            Err(Errno::PERM | Errno::INVAL | Errno::NOTSUP) => {
                self.shortfall.owners.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            done => done,
        }
    }

    fn xattrs(&self, entry: &Entry, set: impl Fn(&OsStr, &[u8]) -> rustix::io::Result<()>) -> rustix::io::Result<()> {
        for (name, value) in &entry.xattrs {
            match set(OsStr::from_bytes(&name.0), &value.0) {
                // A filesystem may hold fewer or smaller ones than the one that they came from.
                Err(Errno::PERM | Errno::NOTSUP | Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => {
                    _ = self.shortfall.xattrs.fetch_add(1, Ordering::Relaxed)
                }
                done => done?,
            }
        }
        Ok(())
    }
}

impl Output for Tree {
    fn whole(&self, entry: &Entry, bytes: &[u8]) -> Result<()> {
        let doing = || format!("write {}", entry.path);
        // An attribute needs write permission on the file; without any, the mode can be right from the start.
        let mode = if entry.xattrs.is_empty() { entry.mode & 0o777 } else { 0o600 };
        let mut file = File::from(self.create(entry, mode).doing(doing)?);
        file.write_all(bytes).doing(doing)?;
        self.finish(&file, entry, Some(mode)).doing(doing)
    }

    fn begin(&self, entry: &Entry) -> Result<()> {
        let make = || {
            let file = self.create(entry, 0o600)?;
            ftruncate(&file, entry.size)?;
            rustix::io::Result::Ok(file)
        };
        let file = make().doing(|| format!("make the file {} of {} bytes", entry.path, entry.size))?;
        self.open_files.keep(&entry.path, Arc::new(file.into()));
        Ok(())
    }

    fn pieces(&self, entry: &Entry, pieces: &[(u64, &[u8])]) -> Result<()> {
        let file = match self.open_files.get(&entry.path) {
            Some(file) => file,
            None => {
                let again = self.open(entry, OFlags::WRONLY).doing(|| format!("open {} again", entry.path))?;
                let again = Arc::new(again);
                self.open_files.keep(&entry.path, again.clone());
                again
            }
        };
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).doing(|| format!("write {} bytes at {at} of {}", bytes.len(), entry.path))?;
        }
        Ok(())
    }

    fn end(&self, entry: &Entry) -> Result<()> {
        let end = || {
            let file = match self.open_files.take(&entry.path) {
                Some(file) => file,
                None => Arc::new(self.open(entry, OFlags::WRONLY)?),
            };
            self.finish(&file, entry, None)
        };
        end().doing(|| format!("set the mode and times of {}", entry.path))
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
