//! The files beside a database: what they are, and removing those that exist only because it was read.
//!
//! SQLite creates `-wal` and `-shm` for a reader too, and leaves the removal to the last connection that may write. When
//! that was closed before, we are the last. They are removed as SQLite does it: under an exclusive lock of the database, which
//! nobody gets while another connection in WAL mode has it open, and nobody opens one while it is held.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, Stat, fcntl_lock, fstat, lstat, open, unlink};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};

/// A file's device and inode.
pub type Id = (u64, u64);

/// The byte of a `-shm` file that every connection has a lock on while it has the file open.
const IN_USE: u64 = 128;

/// Which file a status is of.
pub fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

/// The path of a file beside a database: its name and an ending such as `-wal`.
pub fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(ending);
    PathBuf::from(name)
}

/// The status of what is at a path; none where there is nothing.
///
/// # Errors
/// What the system refuses.
pub fn status(path: &Path) -> Result<Option<Stat>, Errno> {
    match lstat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Side files that appeared when we read the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Created {
    /// The `-wal`.
    pub wal: Option<Id>,
    /// The `-shm`.
    pub shm: Option<Id>,
}

impl Created {
    /// Removes them if they are still the same, hold nothing, and nobody uses the database `file` at `path`; otherwise they
    /// are somebody else's by now, who will remove them. The caller holds the database, and no connection to it is open.
    ///
    /// # Errors
    /// Why files had to be left that nobody else uses.
    pub fn remove(self, path: &Path, file: &File) -> Result<(), String> {
        if self == Created::default() {
            return Ok(());
        }
        self.remove_locked(path, file).map_err(|why| {
            let name = path.display();
            format!("{name}-wal and {name}-shm were created to read the database and are left there, which is harmless: {why}")
        })
    }

    fn remove_locked(self, path: &Path, file: &File) -> Result<(), Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A lock for writing needs a descriptor for writing; nothing is written.
        let locked = match open(path, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(()),
            Err(why) => return Err(why),
        };
        if id(&fstat(&locked)?) != id(&fstat(file)?) {
            return Ok(());
        }
        // Of the whole file, so also of the bytes that SQLite's locks are about.
        match fcntl_lock(&locked, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(()),
            Err(why) => return Err(why),
        }
        let (wal, shm) = (beside(path, "-wal"), beside(path, "-shm"));
        if is_in_use(&shm)? {
            return Ok(());
        }
        let ours = |path: &Path, ours: Option<Id>| {
            let now = status(path)?;
            Ok::<_, Errno>(now.filter(|now| ours.is_some_and(|ours| ours == id(now))))
        };
        if ours(&shm, self.shm)?.is_some() {
            unlink(&shm)?;
        }
        if ours(&wal, self.wal)?.is_some_and(|now| now.st_size == 0) {
            unlink(&wal)?;
        }
        Ok(())
        // The lock goes with its descriptor.
    }
}

/// Whether another process has this `-shm` open. Its lock of the database tells that too, but is gone where that process has
/// closed any other descriptor of the database.
fn is_in_use(shm: &Path) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let shm = match open(shm, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Ok(false),
        Err(why) => return Err(why),
    };
    let wanted = Flock { start: IN_USE, length: 1, ..Flock::from(FlockType::WriteLock) };
    Ok(fcntl_getlk(&shm, &wanted)?.is_some())
}
