//! Finds the side files of databases: a `-wal`, `-journal` or `-shm` belongs to the database whose name it begins with.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::fd_registry;
use super::header::{self, MAGIC};
use crate::fs::beneath::Directory;
use crate::fs::times::{mtime, nanos};
use crate::fs::{Spot, is_file, open_file, read_some};
use crate::path::EntryPath;
use crate::vault::entry::Side;

/// The endings of the names of side files.
pub const SUFFIXES: [&str; 3] = ["-journal", "-shm", "-wal"];

/// The databases of one folder that have side files.
#[derive(Debug, Default)]
pub struct Databases(HashMap<Vec<u8>, Role>);

impl Databases {
    /// Whether a name is that of a side file of one of these databases.
    pub fn is_side(&self, name: &[u8]) -> bool {
        !self.0.is_empty() && database_of(name).is_some_and(|database| self.0.contains_key(database))
    }

    /// The role of the file with this name.
    pub fn role(&self, name: &[u8]) -> Role {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// The name, or path, of the database that a side file would belong to by its name.
pub fn database_of(name: &[u8]) -> Option<&[u8]> {
    let database = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix.as_bytes()))?;
    if database.is_empty() || database.ends_with(b"/") { None } else { Some(database) }
}

/// Finds the databases of a folder that have side files, among the folder's sorted names and the status of each.
pub fn databases(folder: &OwnedFd, names: &[Vec<u8>], stats: &[Result<Stat, Errno>], stop: &AtomicBool) -> Databases {
    let mut found = HashMap::new();
    let file = |name: &[u8]| {
        let at = names.binary_search_by(|n| n.as_slice().cmp(name)).ok()?;
        let stat = stats.get(at)?.as_ref().ok()?;
        is_file(stat).then_some(stat)
    };
    for name in names {
        let Some(database) = database_of(name).filter(|database| file(database).is_some()) else { continue };
        // Under the same condition as [`has_log`] is called: a file of whole pages.
        let page = i64::from(header::SMALLEST_PAGE);
        let pages = || file(database).is_some_and(|stat| stat.st_size >= page && stat.st_size % page == 0);
        let side = || !name.ends_with(b"-shm") && pages() && is_log(folder, name, stop);
        if !found.contains_key(database) && (is_database(folder, database, stop) || side()) {
            let look = |suffix: &str| {
                let stat = file(&[database, suffix.as_bytes()].concat())?;
                let ctime = nanos(stat.st_ctime, stat.st_ctime_nsec);
                Some(SideFound { side: side_of(stat), ctime, inode: stat.st_ino })
            };
            let (wal, journal, shm) = (look("-wal"), look("-journal"), look("-shm").is_some());
            found.insert(database.to_vec(), Role::Database { wal, journal, shm });
        }
    }
    Databases(found)
}

/// Whether a file is a database by its content; a file that cannot be read is not, and its reader will say why. A file
/// that another thread or program keeps to itself may be one: its reader finds out, and a database must not be taken
/// without its WAL.
fn is_database(folder: &OwnedFd, name: &[u8], stop: &AtomicBool) -> bool {
    begins_with(folder, name, stop, |first| header::Header::parse(first).is_some())
}

/// Whether a side file is SQLite's by its content: then the file that it belongs to is a database even if that does not
/// look like one, as encrypted databases do not.
fn is_log(folder: &OwnedFd, name: &[u8], stop: &AtomicBool) -> bool {
    begins_with(folder, name, stop, header::is_log)
}

/// Whether `are` is true of the first bytes of a file in a folder.
fn begins_with(folder: &OwnedFd, name: &[u8], stop: &AtomicBool, are: fn(&[u8]) -> bool) -> bool {
    let name = OsStr::from_bytes(name);
    let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let open = || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(folder, name, flags, Mode::empty())
    };
    looks_so(&stat, open, stop, are)
}

/// As `is_log`, for the side files of a file of the data directory, which the caller has open: `own` is that file's
/// device and inode.
pub fn has_log(root: &Directory, database: &EntryPath, own: (u64, u64), stop: &AtomicBool) -> bool {
    ["-wal", "-journal"].iter().any(|ending| {
        let Ok(path) = EntryPath::new([database.bytes(), ending.as_bytes()].concat()) else { return false };
        // A side file that is another name of the file itself would only be the file again.
        let Some(stat) = root.stat_at(&path).ok().filter(|stat| (stat.st_dev, stat.st_ino) != own) else {
            return false;
        };
        looks_so(&stat, || root.open_at(&path, OFlags::RDONLY | OFlags::NONBLOCK), stop, header::is_log)
    })
}

/// Whether `are` is true of a file's first bytes, read under its inode lock; also true if another thread or program
/// keeps the file to itself.
pub fn looks_so(
    stat: &Stat,
    open: impl Fn() -> Result<OwnedFd, Errno>,
    stop: &AtomicBool,
    are: fn(&[u8]) -> bool,
) -> bool {
    if !is_file(stat) || stat.st_size == 0 {
        return false;
    }
    let held = fd_registry::lock_inode(stat.st_dev, stat.st_ino, stop);
    match held.and_then(|hold| fd_registry::open(hold, stop, open)) {
        Ok(opened) => {
            let mut first = [0; 100];
            read_some(&opened.file, 0, &mut first).is_ok_and(|n| are(&first[..n]))
        }
        // Another thread has its lock, or another program a lease on it.
        Err(why) => why == Errno::TIMEDOUT || why == Errno::AGAIN,
    }
}

/// The role of a file among the files beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// No database with side files, as far as is known, and no side file.
    #[default]
    Alone,
    /// A database by its content, or a file that could not be looked at, with side files.
    Database {
        /// Its `-wal`.
        wal: Option<SideFound>,
        /// Its `-journal`.
        journal: Option<SideFound>,
        /// Whether it has a `-shm`.
        shm: bool,
    },
    /// A `-wal`, `-journal` or `-shm` of a database, and so a part of it.
    Side,
}

/// A side file, as it was found together with its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SideFound {
    /// Its size and mtime.
    pub side: Side,
    /// Its ctime, in ns since 1970.
    pub ctime: i64,
    /// Its inode number.
    pub inode: u64,
}

pub(crate) fn side_of(stat: &Stat) -> Side {
    Side { size: u64::try_from(stat.st_size).unwrap_or(0), mtime: mtime(stat) }
}

/// A file's device and inode.
pub type Id = (u64, u64);

/// The file that a status is of.
pub fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

/// The fields of a status that show that a file was written to, or that another one has its name.
pub type StatFingerprint = [i64; 6];

/// The fingerprint of a file's status.
pub fn looks(stat: &Stat) -> StatFingerprint {
    let times = [nanos(stat.st_mtime, stat.st_mtime_nsec), nanos(stat.st_ctime, stat.st_ctime_nsec)];
    [stat.st_size, times[0], times[1], stat.st_ino as i64, stat.st_dev as i64, stat.st_nlink as i64]
}

/// The first bytes of side files: a hot journal, and write-ahead logs of both byte orders.
pub(crate) const MARKS: [&[u8]; 3] =
    [&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7], &[0x37, 0x7f, 0x06, 0x82], &[0x37, 0x7f, 0x06, 0x83]];

/// Whether a file begins with one of `marks`; a file that cannot be read counts as one that does.
pub(crate) fn may_begin_with(file: &Spot, marks: &[&[u8]]) -> bool {
    if !file.look().is_ok_and(|stat| stat.as_ref().is_some_and(is_file)) {
        return false;
    }
    let begin = || -> io::Result<Vec<u8>> {
        let mut begin = Vec::with_capacity(MAGIC.len());
        let (file, stat) = open_file(&file.folder, &file.name)?;
        if !is_file(&stat) {
            return Ok(begin);
        }
        file.take(MAGIC.len() as u64).read_to_end(&mut begin)?;
        Ok(begin)
    };
    begin().map_or(true, |begin| marks.iter().any(|mark| begin.starts_with(mark)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn what_another_thread_has_open_for_long_may_be_a_database() {
        let data = tempfile::tempdir().unwrap();
        let names = [b"a".to_vec(), b"a-wal".to_vec()];
        for name in ["a", "a-wal"] {
            fs::write(data.path().join(name), "no database").unwrap();
        }
        let folder = OwnedFd::from(File::open(data.path()).unwrap());
        let stats: Vec<_> = names.iter().map(|name| crate::source::listing::status(&folder, name)).collect();
        let stop = AtomicBool::new(false);
        let is_side = || databases(&folder, &names, &stats, &stop).is_side(b"a-wal");
        let stat = stats[0].unwrap();
        let held = fd_registry::lock_inode(stat.st_dev, stat.st_ino, &stop).unwrap();
        assert!(is_side());
        drop(held);
        assert!(!is_side());
    }
}
