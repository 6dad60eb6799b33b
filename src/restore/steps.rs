//! The steps by which a restored tree is put into place, noted so that they can be taken back (`undo.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Gid, Mode, Stat, StatxFlags, Timespec, Timestamps, Uid, fchmod, fchown, fstat, futimens, makedev, statx,
};
use rustix::io::{Errno, Result as SystemResult};

use super::attributes::Attributes;
use super::capabilities::{kept, moves_files_only};
use crate::error::{Code, Doing, Error, Result};
use crate::fs::rename::{exchange, rename, rename_over};
use crate::fs::{Folder, Spot, is_folder};

/// A folder's owner, mode, times and extended attributes, to be given to another folder.
pub struct FolderAttributes {
    stat: Stat,
    attributes: Attributes,
}

impl FolderAttributes {
    /// Reads them from a folder.
    ///
    /// # Errors
    /// A folder that may not be read.
    pub fn read(folder: &Folder) -> SystemResult<FolderAttributes> {
        let open = folder.readable()?;
        Ok(FolderAttributes { stat: fstat(&open)?, attributes: Attributes::read(&open)? })
    }

    /// Gives a folder this owner, mode, times and attributes, as far as its filesystem keeps such things.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn apply_to(&self, to: &Folder) -> SystemResult<()> {
        let (folder, was) = (to.readable()?, &self.stat);
        let now = fstat(&folder)?;
        if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid) {
            kept(fchown(&folder, Some(Uid::from_raw(was.st_uid)), Some(Gid::from_raw(was.st_gid))))?;
        }
        self.attributes.apply_to(&folder)?;
        kept(fchmod(&folder, Mode::from_raw_mode(was.st_mode & 0o7777)))?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: was.st_atime as _, tv_nsec: was.st_atime_nsec as _ },
            last_modification: Timespec { tv_sec: was.st_mtime as _, tv_nsec: was.st_mtime_nsec as _ },
        };
        kept(futimens(&folder, &times)).map(|_| ())
    }
}

/// A path below the folder that all is done in. Its folder is looked up again whenever it is needed, since it may be
/// another one by then.
pub(super) type StepPath = PathBuf;

/// Which file has a name: its device, its inode, and when that was made, in seconds and nanoseconds since 1970, where
/// its filesystem says so: inode numbers are soon used again.
pub type InodeIdentity = (u64, u64, i64, u32);

/// Which file has a name, and when it was last changed. A folder's content is not looked at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp {
    identity: InodeIdentity,
    /// When it was last modified, in seconds and nanoseconds since 1970.
    changed: (i64, u32),
    /// In bytes.
    size: u64,
}

impl FileStamp {
    /// Whether it is the same file, changed or not.
    pub(super) fn is_same_file(&self, other: &FileStamp) -> bool {
        self.identity == other.identity
    }
}

/// Something that was done, and can be undone.
pub(super) enum UndoStep {
    /// A folder was made.
    Made(StepPath),
    /// The entry that was at the first name is at the second now.
    Moved(StepPath, StepPath, FileStamp),
    /// The entries at two names were exchanged; the one with this stamp is at the second now.
    Exchanged(StepPath, StepPath, FileStamp),
    /// The entry that was at the first name, with this stamp, took the place of the empty folder at the second, which
    /// had these attributes.
    Covered(StepPath, StepPath, FolderAttributes, FileStamp),
    /// A folder that had these attributes was made writable.
    Opened(StepPath, FolderAttributes),
    /// An empty folder that had these attributes was removed.
    Removed(StepPath, FolderAttributes),
}

/// The steps that were taken so far below one folder, in order. Nothing is ever replaced or removed except empty
/// folders.
pub struct Steps {
    pub(super) base: Arc<Folder>,
    pub(super) done: Vec<UndoStep>,
    /// The staging folder, and a time after which only others changed anything in it, in seconds and nanoseconds since
    /// 1970.
    pub(super) staged: Option<(StepPath, (i64, i64))>,
    /// Whether something was not moved because it would have gone to another filesystem.
    pub crossed: bool,
}

impl Steps {
    /// Begins without steps; all of them will be below `base`.
    pub fn below(base: &Arc<Folder>) -> Self {
        Steps { base: base.clone(), done: Vec::new(), staged: None, crossed: false }
    }

    /// The number of steps so far.
    pub fn count(&self) -> usize {
        self.done.len()
    }

    fn at(&self, path: &Path) -> StepPath {
        path.strip_prefix(self.base.path()).unwrap_or(path).to_owned()
    }

    fn note(&mut self, step: impl FnOnce(&Self) -> UndoStep) {
        let step = step(self);
        self.done.push(step);
    }

    /// Makes a folder writable for the time that something moves out of it or into it, if it is not.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn open_up(&mut self, folder: &Folder) -> SystemResult<()> {
        let mode = folder.mode()?;
        if mode & 0o700 != 0o700 {
            let attributes = FolderAttributes::read(folder)?;
            folder.set_mode(mode | 0o700)?;
            self.note(|steps| UndoStep::Opened(steps.at(folder.path()), attributes));
        }
        Ok(())
    }

    /// Makes a folder, which must not exist.
    ///
    /// # Errors
    /// As `mkdirat`.
    pub fn make(&mut self, at: &Spot) -> SystemResult<Arc<Folder>> {
        let made = at.folder.make(&at.name, 0o700);
        if made.is_ok() || matches!(made, Err(why) if why != Errno::EXIST && matches!(at.look(), Ok(Some(_)))) {
            self.note(|steps| UndoStep::Made(steps.at(&at.path())));
        }
        made.map(Arc::new)
    }

    /// Renames without replacing anything.
    ///
    /// # Errors
    /// As `renameat`, and if `to` exists.
    pub fn rename(&mut self, from: &Spot, to: &Spot) -> SystemResult<()> {
        let done = rename(from, to);
        // A folder that could not be given its mode back was moved all the same, and over a network an answer may be
        // lost.
        let moved = || matches!((from.look(), to.look()), (Ok(None), Ok(Some(_))));
        if done.is_ok() || done != Err(Errno::EXIST) && moved() {
            // An entry that cannot be told from another one is not moved back.
            let stamp = stamp(to).unwrap_or_default();
            self.note(|steps| UndoStep::Moved(steps.at(&from.path()), steps.at(&to.path()), stamp));
        }
        done
    }

    /// Takes back the last rename.
    ///
    /// # Errors
    /// As [`Steps::rename`]; it is still noted then.
    pub fn rename_back(&mut self, from: &Spot, to: &Spot) -> SystemResult<()> {
        rename(to, from)?;
        self.done.pop_if(|step| matches!(step, UndoStep::Moved(..)));
        Ok(())
    }

    /// Exchanges what lies under two names.
    ///
    /// # Errors
    /// As `renameat2`.
    pub fn exchange(&mut self, new: &Spot, old: &Spot) -> SystemResult<()> {
        let stamp = stamp(new)?;
        match exchange(new, old) {
            // Over a network an answer may be lost, and a folder that could not be given its mode back was exchanged
            // all the same.
            Err(why) if identity(old) != Ok(stamp.identity) => return Err(why),
            _ => {}
        }
        self.note(|steps| UndoStep::Exchanged(steps.at(&new.path()), steps.at(&old.path()), stamp));
        Ok(())
    }

    /// Puts a folder into the place of an empty one.
    ///
    /// # Errors
    /// As `renameat`; a folder in the place that is not empty is refused.
    pub fn cover(&mut self, folder: &Spot, empty: &Spot) -> SystemResult<()> {
        let (attributes, stamp) = (FolderAttributes::read(&empty.enter()?)?, stamp(folder)?);
        rename_over(folder, empty)?;
        self.note(|steps| UndoStep::Covered(steps.at(&folder.path()), steps.at(&empty.path()), attributes, stamp));
        Ok(())
    }

    /// Moves an entry to a free name. A folder that its filesystem does not rename, such as one of a container's image,
    /// is moved entry by entry.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn shift(&mut self, from: &Spot, to: &Spot) -> Result<()> {
        let doing = || format!("move {} to {}", from.path().display(), to.path().display());
        let why = match self.rename(from, to) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        let folder = matches!(from.look().doing(doing)?, Some(stat) if is_folder(&stat));
        if !folder || !(why == Errno::XDEV || moves_files_only(why)) {
            self.crossed |= why == Errno::XDEV;
            return Err(why).doing(doing);
        }
        let old = Arc::new(from.enter().doing(doing)?);
        if old.is_mount().unwrap_or(false) {
            return Err(Error::failed(doing(), "a filesystem is mounted there").with_code(Code::MountPoint));
        }
        let attributes = FolderAttributes::read(&old).doing(doing)?;
        self.open_up(&old).doing(doing)?;
        let new = self.make(to).doing(doing)?;
        for name in outwards(&old)? {
            self.shift(&Spot::new(&old, &name), &Spot::new(&new, &name))?;
        }
        attributes.apply_to(&new).doing(doing)?;
        from.folder.remove_folder(&from.name).doing(doing)?;
        self.note(|steps| UndoStep::Removed(steps.at(&from.path()), attributes));
        Ok(())
    }
}

/// Looks up which file has a name.
///
/// # Errors
/// Nothing is there; a system call that fails.
pub fn identity(spot: &Spot) -> SystemResult<InodeIdentity> {
    stamp(spot).map(|stamp| stamp.identity)
}

/// Looks up which file has a name, and when it was last changed.
///
/// # Errors
/// As [`identity`].
pub(super) fn stamp(spot: &Spot) -> SystemResult<FileStamp> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    match statx(&spot.folder, &spot.name, AtFlags::SYMLINK_NOFOLLOW, flags) {
        Ok(found) => {
            let device = makedev(found.stx_dev_major, found.stx_dev_minor);
            Ok(FileStamp {
                identity: (device, found.stx_ino, found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
                changed: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
                size: found.stx_size,
            })
        }
        Err(Errno::NOSYS) => {
            let stat = spot.look()?.ok_or(Errno::NOENT)?;
            Ok(FileStamp {
                identity: (stat.st_dev, stat.st_ino, 0, 0),
                changed: (stat.st_mtime, stat.st_mtime_nsec as u32),
                size: u64::try_from(stat.st_size).unwrap_or(0),
            })
        }
        Err(why) => Err(why),
    }
}

/// The names in a folder in the order in which they are moved out: side files before their database. A program that
/// opens the database meanwhile finds none, rather than an older one without its log.
///
/// # Errors
/// A folder that cannot be read.
pub fn outwards(folder: &Folder) -> Result<Vec<std::ffi::OsString>> {
    let mut names = folder.names().doing(|| format!("read the folder {}", folder.path().display()))?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}
