//! Tells how other programs use a database, as far as their locks and open files show it.
//!
//! A program that uses a write-ahead log has the database locked for reading as long as it has it open ([`locks`]). If
//! the `-shm` of such a program is not the one beside the database, the program has the database open under another
//! path: in a container that has this one file mounted, by another hard link, or with its log renamed or removed. Its
//! commits may then lie in a log that is not here.
//!
//! The system's list of locks (`/proc/locks`) says which programs have what locked, and `/proc/PID/fd` which files they
//! have open. In a container neither tells of programs outside: then all that is known is what asking for a lock
//! oneself shows, namely that some program has it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, Stat, lstat};
use rustix::io::Errno;

use super::at::DatabaseLocation;
use super::fd_registry::{self, try_lock_inode};
use super::header::Header;
use super::locks::{self, LockHolder, OPEN, READING, lock_holder};
use super::side_files::{Id, id};
use super::wal_index::{self, IndexFit};
use crate::fs::beneath::Directory;
use crate::fs::holders::{Locks, has_open, open_files};
use crate::fs::is_file;
use crate::path::EntryPath;

/// How long a list of locks is good enough for a first look.
const MOMENT: Duration = Duration::from_secs(1);
/// A stop flag that is never set: nothing here waits for the files that it looks at.
static GO_ON: AtomicBool = AtomicBool::new(false);

/// Returns the names under which a program has open the file whose status is `of`, judged by the logs that it has open
/// beside them, as far as this process may know.
pub fn names_in_use(pid: u32, of: &Stat) -> impl Iterator<Item = PathBuf> {
    let logs = open_files(pid).filter_map(|descriptor| fs::read_link(descriptor).ok());
    logs.filter_map(|log| {
        let database = PathBuf::from(OsStr::from_bytes(log.as_os_str().as_bytes().strip_suffix(b"-wal")?));
        lstat(&database).is_ok_and(|found| id(&found) == id(of)).then_some(database)
    })
}

/// Whether the log of a program that has the database open lies here: a `-shm` that the program has open, and the
/// `-wal` that this is the index of. A log that cannot be examined counts as one.
///
/// # Errors
/// An error of the system.
pub fn is_log_here(at: &DatabaseLocation) -> Result<bool, Errno> {
    is_log_here_by(at, || Rc::new(Locks::read()))
}

/// As [`is_log_here`], as far as this list of locks tells.
fn is_log_here_by(at: &DatabaseLocation, locks: impl FnOnce() -> Rc<Locks>) -> Result<bool, Errno> {
    let here = |ending| Ok(at.status(ending)?.filter(is_file));
    let (Some(wal), Some(shm)) = (here("-wal")?, here("-shm")?) else { return Ok(false) };
    let open = |stat: &Stat, ending| {
        let hold = try_lock_inode(stat.st_dev, stat.st_ino)?;
        fd_registry::open(hold, &GO_ON, || at.open(ending, OFlags::RDONLY)).ok()
    };
    let Some(shm) = open(&shm, "-shm") else { return Ok(true) };
    if !locks::is_open(&shm.file) {
        return Ok(false);
    }
    let Some(wal) = open(&wal, "-wal") else { return Ok(true) };
    // Closing a descriptor that was opened as a path only takes no locks away.
    let (Some(_), Ok(database)) = (here("")?, at.open("", OFlags::PATH)) else { return Ok(false) };
    let another = is_another_log_used(&locks(), at, database, &wal.stat, &shm.file);
    Ok(!another && wal_index::fit(&shm.file, &wal.file) != IndexFit::None)
}

/// Whether some program that has a database open uses another log than the one that lies here, or finds its way in it
/// by another `-shm`, since it has no lock on the one that is here. Anything that cannot be known about a program does
/// not count.
pub fn is_another_log_used(
    locks: &Locks,
    at: &DatabaseLocation,
    database: impl AsFd,
    wal: &Stat,
    shm: impl AsFd,
) -> bool {
    let here = holders(locks, shm, OPEN.0);
    let elsewhere = |pid: u32| has_open(pid, id(wal)) == Some(false) || has_lost_its_index(at, pid);
    holders(locks, database, READING).into_iter().filter(|pid| !here.contains(pid)).any(elsewhere)
}

/// Whether all programs that have a database open have open the log that lies here, and none has its `-shm` open: they
/// only read, and may not write to the `-shm`. One of them is `pid`.
pub fn is_only_read(at: &DatabaseLocation, database: impl AsFd, pid: Option<u32>) -> bool {
    let Ok(Some(wal)) = at.status("-wal") else { return false };
    let shm = match at.open("-shm", OFlags::PATH) {
        Ok(shm) => Some(shm),
        Err(Errno::NOENT) => None,
        Err(_) => return false,
    };
    let locks = Locks::read();
    let readers = holders(&locks, database, READING);
    shm.is_none_or(|shm| holders(&locks, shm, OPEN.0).is_empty())
        && pid.is_some_and(|pid| readers.contains(&pid))
        && readers.iter().all(|pid| has_open(*pid, id(&wal)) == Some(true))
}

/// Whether the `-shm` that a program has open was removed, or another file has its name.
fn has_lost_its_index(at: &DatabaseLocation, pid: u32) -> bool {
    let Some(mut lost) = at.path_beside("-shm").file_name().map(OsStr::to_os_string) else { return false };
    // The system shows an open file without a name like this.
    lost.push(" (deleted)");
    let mut links = open_files(pid).filter_map(|descriptor| fs::read_link(descriptor).ok());
    links.any(|link| link.file_name() == Some(&lost))
}

/// The other programs that have a byte of a file locked.
fn holders(locks: &Locks, file: impl AsFd, byte: i64) -> Vec<u32> {
    let mut locks = locks.of(file);
    locks.retain(|lock| lock.kind == "POSIX" && (lock.first..=lock.last).contains(&byte));
    locks.into_iter().map(|lock| lock.pid).filter(|pid| *pid != std::process::id()).collect()
}

/// Finds, among many databases, those that are used elsewhere. The list of locks is as long as there are databases in
/// use, so it is not read for each of them.
#[derive(Debug, Default)]
pub struct UsageFinder(RefCell<Option<(Instant, Rc<Locks>)>>);

impl UsageFinder {
    /// Whether a program has open a database that uses a log, and that log is not here: then the program's commits show
    /// in no file of this folder. A database that cannot be examined counts as used; reading it finds out.
    pub fn is_used(&self, root: &Directory, path: &EntryPath, (device, inode): Id) -> bool {
        let Ok(at) = DatabaseLocation::beneath(root, path) else { return true };
        let Some(hold) = try_lock_inode(device, inode) else { return true };
        let used = match fd_registry::open(hold, &GO_ON, || at.open("", OFlags::RDONLY)) {
            Ok(opened) if opened.inode_lock.id() == (device, inode) => match lock_holder(&opened.file) {
                LockHolder::No => false,
                LockHolder::Reading(pid) => {
                    let logged = Header::read(&opened.file).ok().flatten().is_none_or(|header| header.wal);
                    let here = || is_log_here_by(&at, || self.locks()).unwrap_or(false);
                    logged && !here() && !is_only_read(&at, &opened.file, pid)
                }
                LockHolder::Alone(_) => true,
            },
            _ => return true,
        };
        // By a list that is a moment old, a database that has just been opened or closed may seem used.
        used && !is_log_here(&at).unwrap_or(false)
    }

    /// The locks that were held at most [`MOMENT`] ago.
    fn locks(&self) -> Rc<Locks> {
        let mut last = self.0.borrow_mut();
        if let Some((_, locks)) = last.as_ref().filter(|(read, _)| read.elapsed() < MOMENT) {
            return locks.clone();
        }
        // The list counts as being as old as the beginning of its reading.
        let began = Instant::now();
        let locks = Rc::new(Locks::read());
        *last = Some((began, locks.clone()));
        locks
    }
}
