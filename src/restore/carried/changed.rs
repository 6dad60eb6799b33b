//! What folders had before entries move out of them or into them, noted so that a program that is killed meanwhile leaves it to the
//! next one to give it back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, Stat, Timespec, Timestamps, fchmod, fstat, futimens};
use rustix::io::Result as SystemResult;
use serde::{Deserialize, Serialize};

use crate::fs::{Folder, is_folder};
use crate::path::EscapedBytes;
use crate::restore::capabilities::kept;

/// The name under which a folder is made, until it has its owner, mode, times and attributes. No snapshot has a folder of such a name.
pub(super) const MAKING: &str = ".lastgood-restoring-carry";

/// The mode bits that a folder's owner needs to move something out of it or into it.
pub(super) const OPEN: u32 = 0o700;

/// A folder's mode and times, and which folder has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FolderBefore {
    /// Device and inode.
    inode: (u64, u64),
    mode: u32,
    /// In seconds and ns since 1970.
    accessed: (i64, i64),
    modified: (i64, i64),
}

impl FolderBefore {
    pub(super) fn of(stat: &Stat) -> Self {
        FolderBefore {
            inode: (stat.st_dev, stat.st_ino),
            mode: stat.st_mode & 0o7777,
            accessed: (stat.st_atime, stat.st_atime_nsec as i64),
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
        }
    }

    pub(super) fn read(folder: &Folder) -> Option<Self> {
        fstat(folder).ok().map(|stat| Self::of(&stat))
    }

    fn is_of(&self, stat: &Stat) -> bool {
        self.inode == (stat.st_dev, stat.st_ino)
    }

    /// Gives a folder its mode and times back, if it is this one: its times above all, by which the next look compares it with the
    /// snapshot. A mode is changed only if it is the one that the folder got to be open.
    fn give_back(&self, folder: &Folder) -> SystemResult<()> {
        let stat = fstat(folder)?;
        if !self.is_of(&stat) {
            return Ok(());
        }
        let was_opened = stat.st_mode & 0o7777 != self.mode && stat.st_mode & 0o7777 == self.mode | OPEN;
        let Ok(open) = folder.readable() else {
            return if was_opened { folder.set_mode(self.mode) } else { Ok(()) };
        };
        if was_opened {
            kept(fchmod(&open, Mode::from_raw_mode(self.mode)))?;
        }
        let time = |(tv_sec, nanos): (i64, i64)| Timespec { tv_sec, tv_nsec: nanos as _ };
        let times = Timestamps { last_access: time(self.accessed), last_modification: time(self.modified) };
        kept(futimens(&open, &times)).map(|_| ())
    }
}

/// A folder that is about to be changed in both directories, or in one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFolder {
    /// Its path below both of them.
    pub(super) path: EscapedBytes,
    /// What the one has from which entries are moved.
    pub(super) from: Option<FolderBefore>,
    /// What the one has that gets them.
    pub(super) to: Option<FolderBefore>,
    /// Folders among the entries that have to be opened to be moved.
    pub(super) entries: Vec<(EscapedBytes, FolderBefore)>,
    /// Side files that are moved with their databases.
    pub(super) sides: Vec<EscapedBytes>,
}

impl ChangedFolder {
    /// Gives the open folders back what they had.
    pub(super) fn give_back(&self, from: Option<&Arc<Folder>>, to: Option<&Arc<Folder>>) {
        for (folder, before) in [(from, &self.from), (to, &self.to)] {
            let (Some(folder), Some(before)) = (folder, before) else { continue };
            if let Err(why) = before.give_back(folder) {
                tracing::warn!("{} did not get its mode and times back: {why}", folder.path().display());
            }
        }
    }

    /// Does what a program that was killed had not done: `aside` and `target` are the directories that it worked in.
    pub(super) fn recover(&self, aside: &Folder, target: &Folder) {
        let path = Path::new(OsStr::from_bytes(&self.path.0));
        let open = |directory: &Folder| directory.enter_all(path).ok().map(Arc::new);
        let (from, to) = (open(aside), open(target));
        if let Some(to) = &to
            && matches!(to.look(MAKING), Ok(Some(stat)) if is_folder(&stat))
        {
            // Nothing was put into it under that name.
            let _ = to.remove_folder(MAKING);
        }
        for (name, before) in &self.entries {
            let name = OsStr::from_bytes(&name.0);
            for folder in [&from, &to].into_iter().flatten().filter_map(|folder| folder.enter(name).ok()) {
                if let Err(why) = before.give_back(&folder) {
                    tracing::warn!("{} did not get its mode back: {why}", folder.path().display());
                }
            }
        }
        self.give_back(from.as_ref(), to.as_ref());
    }
}
