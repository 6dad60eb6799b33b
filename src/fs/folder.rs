//! Open folders, and names in them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, RenameFlags, Stat, StatxFlags, chmod, fchmod, fstat, mkdirat,
    openat, renameat_with, statat, statx, unlinkat,
};
use rustix::io::{Errno, Result, fcntl_dupfd_cloexec};

use super::beneath::born;
use super::{SAFE, is_folder, is_mount_at, single};

/// Most folders of a tree that are open at once while it is removed.
const DEEP: usize = 64;
/// Prefix of the names that deeper folders get when they are moved up into the folder that is being emptied.
pub const DEEP_TREE: &str = ".lastgood-deep-";

/// What a listing tells of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Its size in bytes.
    pub size: u64,
    /// When it was made, in seconds and ns since 1970, or when it was last modified where its filesystem does not tell. The time of
    /// its last change is no substitute: a `chmod`, a link and some renames move it.
    pub born: (i64, u32),
}

/// An open folder. Entering it takes no permission to read it.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Folder {
    /// Opens the folder that a user named; symlinks are followed.
    ///
    /// # Errors
    /// As `open`; anything but a folder is refused.
    pub fn open(path: &Path) -> Result<Folder> {
        let named = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fd = openat(CWD, named, OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?;
        Ok(Folder { fd, path: path.to_owned() })
    }

    /// Opens a folder by a path in which there were no symlinks before; there must be none now either.
    ///
    /// # Errors
    /// As [`Folder::enter`]; a path that is not absolute.
    pub fn straight(path: &Path) -> Result<Folder> {
        let below = path.strip_prefix("/").map_err(|_| Errno::INVAL)?;
        Folder::open(Path::new("/"))?.enter_all(below)
    }

    /// The path by which the folder was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a filesystem is mounted at this folder; `None` where the system does not say.
    pub fn is_mount(&self) -> Option<bool> {
        is_mount_at(self, Path::new("")).ok().flatten()
    }

    /// Opens a folder in this one.
    ///
    /// # Errors
    /// As `openat`; what is not itself a folder is refused with `NOTDIR`.
    pub fn enter(&self, name: impl AsRef<OsStr>) -> Result<Folder> {
        let name = single(name.as_ref())?;
        let fd = openat(self, name, SAFE | OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?;
        Ok(Folder { fd, path: self.path.join(name) })
    }

    /// Opens a folder at any depth in this one, or this one again if the path is empty.
    ///
    /// # Errors
    /// As [`Folder::enter`].
    pub fn enter_all(&self, below: &Path) -> Result<Folder> {
        let mut at = Folder { fd: fcntl_dupfd_cloexec(self, 0)?, path: self.path.clone() };
        for part in below.components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL) };
            at = at.enter(name)?;
        }
        Ok(at)
    }

    /// Makes a folder in this one and opens it; it must not exist yet.
    ///
    /// # Errors
    /// As `mkdirat`.
    pub fn make(&self, name: impl AsRef<OsStr>, mode: RawMode) -> Result<Folder> {
        mkdirat(self, single(name.as_ref())?, Mode::from_raw_mode(mode))?;
        self.enter(name)
    }

    /// Makes the missing folders of a path in this one, and opens the last of them.
    ///
    /// # Errors
    /// As `mkdirat`, and as [`Folder::enter`].
    pub fn make_all(&self, below: &Path, mode: RawMode) -> Result<Folder> {
        let mut at = self.enter_all(Path::new(""))?;
        for part in below.components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL) };
            at = match at.make(name, mode) {
                Err(Errno::EXIST) => at.enter(name)?,
                made => made?,
            };
        }
        Ok(at)
    }

    /// The status of what a name in this folder stands for; `None` if nothing is there.
    ///
    /// # Errors
    /// As `fstatat`.
    pub fn look(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>> {
        match statat(self, single(name.as_ref())?, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some),
        }
    }

    /// What a listing tells of what a name in this folder stands for; `None` if nothing is there.
    ///
    /// # Errors
    /// As `statx`.
    pub fn look_at_birth(&self, name: impl AsRef<OsStr>) -> Result<Option<Listed>> {
        let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        match statx(self, single(name.as_ref())?, AtFlags::SYMLINK_NOFOLLOW, flags) {
            Err(Errno::NOENT) => Ok(None),
            // A kernel, or a sandbox, without this call tells no birth time either.
            Err(Errno::NOSYS) => Ok(self.look(name)?.map(|stat| Listed {
                is_folder: is_folder(&stat),
                size: stat.st_size as u64,
                born: (stat.st_mtime, stat.st_mtime_nsec as u32),
            })),
            looked => looked.map(|stat| {
                let modified = (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
                let is_folder = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
                Some(Listed { is_folder, size: stat.stx_size, born: born(&stat).unwrap_or(modified) })
            }),
        }
    }

    /// The names in this folder.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::new(self.readable()?)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Opens the same folder for more than entering it: to be read, locked, changed or made durable.
    ///
    /// # Errors
    /// A folder that may not be read.
    pub fn readable(&self) -> Result<OwnedFd> {
        openat(self, ".", SAFE | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
    }

    /// The folder's permission bits, without the file type.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn mode(&self) -> Result<RawMode> {
        Ok(fstat(self)?.st_mode & 0o7777)
    }

    /// Sets the folder's permission bits.
    ///
    /// # Errors
    /// As `fchmod`.
    pub fn set_mode(&self, mode: RawMode) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self.readable() {
            Ok(folder) => fchmod(folder, mode),
            // A folder that nobody may read can be opened only to be entered, and fchmod does not work on such a
            // descriptor: the path of the descriptor in `/proc` stands for the folder itself.
            Err(why) => match chmod(format!("/proc/self/fd/{}", self.fd.as_raw_fd()), mode) {
                Err(Errno::NOENT) => Err(why),
                done => done,
            },
        }
    }

    /// Removes a file or a symlink in this folder.
    ///
    /// # Errors
    /// As `unlinkat`.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> Result<()> {
        unlinkat(self, single(name.as_ref())?, AtFlags::empty())
    }

    /// Removes an empty folder in this one.
    ///
    /// # Errors
    /// As `unlinkat`.
    pub fn remove_folder(&self, name: impl AsRef<OsStr>) -> Result<()> {
        unlinkat(self, single(name.as_ref())?, AtFlags::REMOVEDIR)
    }

    /// Removes everything in this folder, including what is in folders without write permission. No symlink is
    /// followed.
    ///
    /// # Errors
    /// Anything that cannot be removed; another filesystem that is mounted inside, from which nothing is removed.
    pub fn empty(&self) -> io::Result<()> {
        let device = fstat(self)?.st_dev;
        let mut levels = vec![Level::new(self.enter_all(Path::new(""))?)?];
        let mut moved = 0;
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                let done = levels.pop();
                if let (Some(done), Some(above)) = (done, levels.last()) {
                    above.folder.remove_folder(done.folder.path.file_name().unwrap_or_default())?;
                }
                continue;
            };
            let Some(stat) = level.folder.look(&name)? else { continue };
            if !is_folder(&stat) {
                level.folder.remove_file(&name)?;
                continue;
            }
            let folder = level.folder.enter(&name)?;
            if fstat(&folder)?.st_dev != device || folder.is_mount().unwrap_or(false) {
                let why = format!("another filesystem is mounted in it, at {}", folder.path.display());
                return Err(io::Error::new(io::ErrorKind::CrossesDevices, why));
            }
            let next = Level::new(folder)?;
            if levels.len() >= DEEP {
                // A tree may be deeper than the number of files that may be open: the rest of it moves up. If it cannot
                // be moved, it stays in place.
                let up = OsString::from(format!("{DEEP_TREE}{moved}"));
                moved += 1;
                let above = &levels[levels.len() - 1].folder;
                if renameat_with(above, &name, &levels[0].folder, &up, RenameFlags::NOREPLACE).is_ok() {
                    levels[0].names.push(up);
                    continue;
                }
            }
            levels.push(next);
        }
        Ok(())
    }

    /// Removes a folder in this one, with everything in it.
    ///
    /// # Errors
    /// As [`Folder::empty`].
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.enter(&name)?.empty()?;
        Ok(self.remove_folder(name)?)
    }
}

/// A folder that is being emptied.
struct Level {
    folder: Folder,
    /// The names that are still to be removed.
    names: Vec<OsString>,
}

impl Level {
    fn new(folder: Folder) -> Result<Level> {
        let mode = fstat(&folder)?.st_mode & 0o7777;
        if mode & 0o700 != 0o700 {
            // Whether that was needed shows in the calls that follow: root needs none of it.
            let _ = folder.set_mode(mode | 0o700);
        }
        let names = folder.names()?;
        Ok(Level { folder, names })
    }
}

/// A name in an open folder.
#[derive(Debug, Clone)]
pub struct Spot {
    /// The open folder.
    pub folder: Arc<Folder>,
    /// The name in it.
    pub name: OsString,
}

impl Spot {
    /// Stands for the name `name` in `folder`.
    pub fn new(folder: &Arc<Folder>, name: impl Into<OsString>) -> Spot {
        Spot { folder: folder.clone(), name: name.into() }
    }

    /// The path by which the spot was reached, for messages.
    pub fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// The status of what is there; `None` if nothing is.
    ///
    /// # Errors
    /// As [`Folder::look`].
    pub fn look(&self) -> Result<Option<Stat>> {
        self.folder.look(&self.name)
    }

    /// Opens the folder that is there.
    ///
    /// # Errors
    /// As [`Folder::enter`].
    pub fn enter(&self) -> Result<Folder> {
        self.folder.enter(&self.name)
    }
}

#[cfg(test)]
mod tests;
