//! Locates a database: by the folder that was opened beneath the data directory, its name there, and the path that
//! SQLite takes.
//!
//! SQLite opens files by path, and what a path leads to can change at any moment. So what it opened is compared with
//! what the folder's descriptor leads to, before and after.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, lstat, openat, statat};
use rustix::io::Errno;

use crate::fs::beneath::Directory;
use crate::path::EntryPath;

/// Where a database is.
#[derive(Debug)]
pub struct DatabaseLocation {
    folder: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl DatabaseLocation {
    /// Locates an entry of the data directory.
    ///
    /// # Errors
    /// An error of the system; `NOENT`, `NOTDIR` or `LOOP` if its folder is not there any more.
    pub fn beneath(root: &Directory, path: &EntryPath) -> Result<DatabaseLocation, Errno> {
        let (folder, name) = root.parent(path)?;
        Ok(DatabaseLocation { folder, name: OsString::from_vec(name), path: root.path().join(path.as_path()) })
    }

    /// The path for SQLite: absolute, and without a symlink in it unless it is being replaced.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, ending: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(ending);
        name
    }

    /// The path of the file beside the database with this ending.
    pub fn path_beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        PathBuf::from(path)
    }

    /// The status of the database, or of the file beside it with this ending; `None` if there is nothing.
    ///
    /// # Errors
    /// An error of the system.
    pub fn status(&self, ending: &str) -> Result<Option<Stat>, Errno> {
        found(statat(&self.folder, self.name(ending), AtFlags::SYMLINK_NOFOLLOW))
    }

    /// As [`DatabaseLocation::status`], for what the path leads to.
    ///
    /// # Errors
    /// An error of the system.
    pub fn status_by_path(&self, ending: &str) -> Result<Option<Stat>, Errno> {
        found(lstat(self.path_beside(ending)))
    }

    /// Whether the path leads to the same folder as the descriptor, for the database and what lies beside it.
    ///
    /// # Errors
    /// An error of the system.
    pub fn is_where_the_path_leads(&self) -> Result<bool, Errno> {
        let above = self.path.parent().unwrap_or(Path::new("/"));
        let (here, there) = (fstat(&self.folder)?, found(lstat(above))?);
        Ok(there.is_some_and(|there| (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)))
    }

    /// Opens the database, or the file beside it with this ending, without following a symlink and without waiting.
    ///
    /// # Errors
    /// An error of the system; `LOOP` for a symlink.
    pub fn open(&self, ending: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(&self.folder, self.name(ending), flags, Mode::empty())
    }
}

fn found(result: Result<Stat, Errno>) -> Result<Option<Stat>, Errno> {
    match result {
        Ok(stat) => Ok(Some(stat)),
        // A file with a name that is too long does not exist.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
        Err(why) => Err(why),
    }
}

/// For tests: locates a file.
#[cfg(test)]
pub fn at(path: &Path) -> DatabaseLocation {
    let root = Directory::open(path.parent().unwrap()).unwrap();
    DatabaseLocation::beneath(&root, &EntryPath::new(path.file_name().unwrap().as_encoded_bytes()).unwrap()).unwrap()
}
