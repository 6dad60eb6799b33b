//! The files beside a database: what they are, and removing those that exist only because it was read.
//!
//! SQLite creates `-wal` and `-shm` for a reader too, and leaves the removal to the last connection that may write. When
//! that was closed before, we are the last. They are removed as SQLite does it: under an exclusive lock of the database, which
//! nobody gets while another connection in WAL mode has it open, and nobody opens one while it is held.

use rustix::fs::{FileType, FlockOperation, OFlags, Stat, fcntl_lock, fstat};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk, geteuid};

use super::at::At;
use super::registry::try_hold;

/// A file's device and inode.
pub type Id = (u64, u64);

/// The byte of a `-shm` file that every connection has a lock on while it has the file open.
const IN_USE: u64 = 128;

/// Which file a status is of.
pub fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
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
    /// Removes them if they are still the same, hold nothing, and nobody uses the database; otherwise they are somebody
    /// else's by now, who will remove them. The caller holds the database `held`, and has no connection to it.
    ///
    /// # Errors
    /// Why files had to be left that nobody else uses.
    pub fn remove(self, at: &At, held: Id) -> Result<(), String> {
        if self == Created::default() {
            return Ok(());
        }
        self.remove_locked(at, held).map_err(|why| {
            let name = at.path().display();
            format!(
                "{name}-wal and {name}-shm, created to read the database, are left there, which does no harm: {why}"
            )
        })
    }

    fn remove_locked(self, at: &At, held: Id) -> Result<(), String> {
        let said = |why: Errno| why.to_string();
        // Another database may have come to the path, with our files beside it.
        let Some(now) = at.status("").map_err(said)? else { return Err("the database is gone".into()) };
        let _other = if id(&now) == held {
            None
        } else {
            Some(try_hold(now.st_dev, now.st_ino).ok_or("another database is at its path, and in use")?)
        };
        // A lock for writing needs a descriptor for writing; nothing is written. It is closed before the hold goes.
        let locked = at.open("", OFlags::RDWR).map_err(said)?;
        if id(&fstat(&locked).map_err(said)?) != id(&now) {
            return Err("the database is being replaced".into());
        }
        // Of the whole file, so also of the bytes that SQLite's locks are about.
        match fcntl_lock(&locked, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(()),
            Err(why) => return Err(why.to_string()),
        }
        self.remove_unused(at).map_err(said)
        // The lock goes with its descriptor.
    }

    fn remove_unused(self, at: &At) -> Result<(), Errno> {
        if is_in_use(at)? {
            return Ok(());
        }
        let ours = |ending: &str, ours: Option<Id>| {
            let now = at.status(ending)?;
            Ok::<_, Errno>(now.filter(|now| ours.is_some_and(|ours| ours == id(now))))
        };
        if ours("-shm", self.shm)?.is_some() {
            at.remove("-shm")?;
        }
        if ours("-wal", self.wal)?.is_some_and(|now| now.st_size == 0) {
            at.remove("-wal")?;
        }
        Ok(())
    }
}

/// Whether another process has the `-shm` file open. Its lock of the database tells that too, but is gone where that process
/// has closed any other descriptor of the database.
fn is_in_use(at: &At) -> Result<bool, Errno> {
    let shm = match at.open("-shm", OFlags::RDONLY) {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Ok(false),
        Err(why) => return Err(why),
    };
    let wanted = Flock { start: IN_USE, length: 1, ..Flock::from(FlockType::WriteLock) };
    Ok(fcntl_getlk(&shm, &wanted)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::super::at::at;
    use super::super::peer::Peer;
    use super::super::tests::{beside, hold};
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// A folder with a database and empty files beside it, as they are after reading one.
    fn created() -> (tempfile::TempDir, PathBuf, Created, Id) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("pragma journal_mode = wal; create table t(x)").unwrap();
        drop(connection);
        let now = |ending| {
            fs::write(beside(&path, ending), "").unwrap();
            at(&path).status(ending).unwrap().map(|stat| id(&stat))
        };
        let created = Created { wal: now("-wal"), shm: now("-shm") };
        let held = id(&at(&path).status("").unwrap().unwrap());
        (folder, path, created, held)
    }

    fn count(folder: &tempfile::TempDir) -> usize {
        fs::read_dir(folder.path()).unwrap().count()
    }

    #[test]
    fn what_nobody_uses_is_removed() {
        let (folder, path, created, held) = created();
        let _hold = hold(held.0, held.1);
        Created::default().remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 3);
        Created { wal: None, ..created }.remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 2);
        created.remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 1);
    }

    #[test]
    fn a_log_with_content_and_files_of_others_stay() {
        let (folder, path, created, held) = created();
        let _hold = hold(held.0, held.1);
        fs::write(beside(&path, "-wal"), "content").unwrap();
        let other = Created { shm: created.wal, ..created };
        other.remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 3);
        created.remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 2);
        assert_eq!(fs::read(beside(&path, "-wal")).unwrap(), b"content");
    }

    #[test]
    fn what_another_process_uses_stays() {
        let (folder, path, created, held) = created();
        let _hold = hold(held.0, held.1);
        let mut peer = Peer::with(&path);
        peer.ask("select count(*) from t");
        created.remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 3);
        // It has dropped its lock of the database by mistake, and still uses both files.
        peer.touch(&path);
        created.remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 3);
        drop(peer);
        created.remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 1);
    }

    #[test]
    fn beside_a_database_that_came_later_they_are_removed_too() {
        let (folder, path, created, held) = created();
        let _hold = hold(held.0, held.1);
        let other = folder.path().join("other.db");
        fs::copy(&path, &other).unwrap();
        fs::rename(&other, &path).unwrap();
        let now = id(&at(&path).status("").unwrap().unwrap());
        let in_use = hold(now.0, now.1);
        assert!(created.remove(&at(&path), held).unwrap_err().contains("in use"));
        drop(in_use);
        created.remove(&at(&path), held).unwrap();
        assert_eq!(count(&folder), 1);
        fs::write(beside(&path, "-wal"), "").unwrap();
        fs::remove_file(&path).unwrap();
        assert!(created.remove(&at(&path), held).unwrap_err().contains("is gone"));
    }
}
