//! The files beside a database: what they are, and removing those that exist only because it was read.
//!
//! SQLite creates `-wal` and `-shm` for a reader too, and leaves the removal to the last connection that may write. When
//! that was closed before, we are the last. They are removed as SQLite does it: under an exclusive lock of the database, which
//! nobody gets while another connection in WAL mode has it open, and nobody opens one while it is held.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat, fcntl_lock, fstat, lstat, open, unlink};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk, geteuid};

use super::registry::try_hold;

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
        // Nothing has a name that is too long.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Whether it is a regular file.
pub fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether files that SQLite creates beside a database belong to the database's owner: root gives them to that user.
pub fn creates_as_owner(database: &Stat) -> bool {
    let user = geteuid();
    user.is_root() || user.as_raw() == database.st_uid
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
    /// Removes them if they are still the same, hold nothing, and nobody uses the database at `path`; otherwise they are
    /// somebody else's by now, who will remove them. The caller holds the database `held`, and has no connection to it.
    ///
    /// # Errors
    /// Why files had to be left that nobody else uses.
    pub fn remove(self, path: &Path, held: Id) -> Result<(), String> {
        if self == Created::default() {
            return Ok(());
        }
        self.remove_locked(path, held).map_err(|why| {
            let name = path.display();
            format!(
                "{name}-wal and {name}-shm, created to read the database, are left there, which does no harm: {why}"
            )
        })
    }

    fn remove_locked(self, path: &Path, held: Id) -> Result<(), String> {
        let said = |why: Errno| why.to_string();
        // Another database may have come to the path, with our files beside it.
        let Some(now) = status(path).map_err(said)? else { return Err("the database is gone".into()) };
        let _other = if id(&now) == held {
            None
        } else {
            Some(try_hold(now.st_dev, now.st_ino).ok_or("another database is at its path, and in use")?)
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A lock for writing needs a descriptor for writing; nothing is written. It is closed before the hold goes.
        let locked = open(path, flags, Mode::empty()).map_err(said)?;
        if id(&fstat(&locked).map_err(said)?) != id(&now) {
            return Err("the database is being replaced".into());
        }
        // Of the whole file, so also of the bytes that SQLite's locks are about.
        match fcntl_lock(&locked, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(()),
            Err(why) => return Err(why.to_string()),
        }
        self.remove_unused(path).map_err(said)
        // The lock goes with its descriptor.
    }

    fn remove_unused(self, path: &Path) -> Result<(), Errno> {
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

#[cfg(test)]
mod tests {
    use super::super::peer::Peer;
    use super::super::registry::hold;
    use super::*;
    use std::fs;

    /// A folder with a database and empty files beside it, as they are after reading one.
    fn created() -> (tempfile::TempDir, PathBuf, Created, Id) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("pragma journal_mode = wal; create table t(x)").unwrap();
        drop(connection);
        let now = |ending| {
            fs::write(beside(&path, ending), "").unwrap();
            status(&beside(&path, ending)).unwrap().map(|stat| id(&stat))
        };
        let created = Created { wal: now("-wal"), shm: now("-shm") };
        let held = id(&status(&path).unwrap().unwrap());
        (folder, path, created, held)
    }

    fn count(folder: &tempfile::TempDir) -> usize {
        fs::read_dir(folder.path()).unwrap().count()
    }

    #[test]
    fn what_nobody_uses_is_removed() {
        let (folder, path, created, held) = created();
        let _hold = hold(held.0, held.1);
        Created::default().remove(&path, held).unwrap();
        assert_eq!(count(&folder), 3);
        Created { wal: None, ..created }.remove(&path, held).unwrap();
        assert_eq!(count(&folder), 2);
        created.remove(&path, held).unwrap();
        assert_eq!(count(&folder), 1);
    }

    #[test]
    fn a_log_with_content_and_files_of_others_stay() {
        let (folder, path, created, held) = created();
        let _hold = hold(held.0, held.1);
        fs::write(beside(&path, "-wal"), "content").unwrap();
        let other = Created { shm: created.wal, ..created };
        other.remove(&path, held).unwrap();
        assert_eq!(count(&folder), 3);
        created.remove(&path, held).unwrap();
        assert_eq!(count(&folder), 2);
        assert_eq!(fs::read(beside(&path, "-wal")).unwrap(), b"content");
    }

    #[test]
    fn what_another_process_uses_stays() {
        let (folder, path, created, held) = created();
        let _hold = hold(held.0, held.1);
        let mut peer = Peer::with(&path);
        peer.ask("select count(*) from t");
        created.remove(&path, held).unwrap();
        assert_eq!(count(&folder), 3);
        // It has dropped its lock of the database by mistake, and still uses both files.
        peer.touch(&path);
        created.remove(&path, held).unwrap();
        assert_eq!(count(&folder), 3);
        drop(peer);
        created.remove(&path, held).unwrap();
        assert_eq!(count(&folder), 1);
    }

    #[test]
    fn beside_a_database_that_came_later_they_are_removed_too() {
        let (folder, path, created, held) = created();
        let _hold = hold(held.0, held.1);
        let other = folder.path().join("other.db");
        fs::copy(&path, &other).unwrap();
        fs::rename(&other, &path).unwrap();
        let now = id(&status(&path).unwrap().unwrap());
        let in_use = hold(now.0, now.1);
        assert!(created.remove(&path, held).unwrap_err().contains("in use"));
        drop(in_use);
        created.remove(&path, held).unwrap();
        assert_eq!(count(&folder), 1);
        fs::write(beside(&path, "-wal"), "").unwrap();
        fs::remove_file(&path).unwrap();
        assert!(created.remove(&path, held).unwrap_err().contains("is gone"));
    }
}
