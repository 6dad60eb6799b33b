//! The locks that other programs have of a database, as SQLite takes them on Unix (`os_unix.c`, "Posix Advisory Locking").
//!
//! Whoever reads a database has [`SHARED`] locked for reading, and whoever has it to himself for writing. A program that uses a
//! write-ahead log reads it for as long as it is open. So a database with such a reader and no `-shm` beside it is open under
//! another path: in a container that has this one file mounted, by another hard link, or with its log renamed or removed. What
//! that program has committed may then lie in a log that is not here.

use std::ffi::{OsStr, c_int, c_short};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rustix::fs::{OFlags, Stat, fstat, lstat};
use rustix::io::Errno;

use super::at::At;
use super::header::Header;
use super::registry::{hold_opened, try_hold};
use super::side::{id, is_file};
use crate::backup::found::Found;
use crate::beneath::Directory;

/// The first byte that SQLite's readers lock, and how many they are.
const SHARED: (i64, i64) = (0x4000_0002, 510);
/// Those that a backup lets go again: the first one is enough to keep a writer out that wants them all.
const OTHERS: (i64, i64) = (SHARED.0 + 1, SHARED.1 - 1);
/// The byte of a `-shm` that whoever has it open has locked.
const OPEN: (i64, i64) = (128, 1);

/// Who else has a database locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nobody whose lock can be seen.
    No,
    /// Programs that read it, or that use it with a log; one of them, where its number is known.
    Reading(Option<u32>),
    /// One that has it to itself.
    Alone,
}

/// Who else has a database locked; other backups do not count, as they [`let_go`]. Where a filesystem does not tell, nobody has.
pub fn held(file: &File) -> Held {
    let mut lock = lock(libc::F_WRLCK, OTHERS);
    // The system tells of one lock in the way: of several readers, the one that came first.
    if control(file, libc::F_GETLK, &mut lock).is_err() {
        return Held::No;
    }
    match c_int::from(lock.l_type) {
        libc::F_WRLCK => Held::Alone,
        libc::F_RDLCK if (lock.l_start, lock.l_len) == SHARED => {
            Held::Reading(u32::try_from(lock.l_pid).ok().filter(|pid| *pid > 0))
        }
        _ => Held::No,
    }
}

/// Under which names a program has the file open whose status is `of`, by the logs that it has open beside them and as far as this
/// process may know.
pub fn names_in_use(pid: u32, of: &Stat) -> impl Iterator<Item = PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let logs = open.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    logs.filter_map(|log| {
        let database = PathBuf::from(OsStr::from_bytes(log.as_os_str().as_bytes().strip_suffix(b"-wal")?));
        lstat(&database).is_ok_and(|found| id(&found) == id(of)).then_some(database)
    })
}

/// Whether another process has a `-shm` open as SQLite does. Where a filesystem does not tell, nobody has.
pub fn is_open(shm: &File) -> bool {
    let mut lock = lock(libc::F_WRLCK, OPEN);
    control(shm, libc::F_GETLK, &mut lock).is_ok() && c_int::from(lock.l_type) != libc::F_UNLCK
}

/// Whether the log of a program lies here that has the database open: a `-wal`, and a `-shm` that it has open; one of which that
/// cannot be asked may be so.
///
/// # Errors
/// What the system refuses.
pub fn is_log_here(at: &At) -> Result<bool, Errno> {
    let here = |ending| Ok(at.status(ending)?.filter(is_file));
    let (Some(_), Some(shm)) = (here("-wal")?, here("-shm")?) else { return Ok(false) };
    let Some(hold) = try_hold(shm.st_dev, shm.st_ino) else { return Ok(true) };
    let Ok(file) = at.open("-shm", OFlags::RDONLY).map(File::from) else { return Ok(true) };
    let open = is_open(&file);
    match fstat(&file) {
        Ok(now) if id(&now) == id(&shm) => drop((file, hold)),
        // Closed under a hold of its own, or not at all.
        Ok(now) => {
            drop(hold);
            drop(hold_opened(file, &now, &AtomicBool::new(false)));
        }
        Err(_) => std::mem::forget(file),
    }
    Ok(open)
}

/// Whether a program has a database open that uses a log, and the log is not here: then what it has committed shows in no file of
/// this folder. What cannot be asked is read, which finds out.
pub fn is_used_elsewhere(root: &Directory, found: &Found) -> bool {
    let Ok(at) = At::beneath(root, &found.path) else { return true };
    let Some(hold) = try_hold(found.device, found.inode) else { return true };
    let Ok(file) = at.open("", OFlags::RDONLY).map(File::from) else { return true };
    match fstat(&file) {
        Ok(now) if id(&now) == (found.device, found.inode) => {}
        Ok(now) => {
            drop(hold);
            drop(hold_opened(file, &now, &AtomicBool::new(false)));
            return true;
        }
        Err(_) => {
            std::mem::forget(file);
            return true;
        }
    }
    let used = match held(&file) {
        Held::No => false,
        Held::Reading(_) => Header::read(&file).ok().flatten().is_none_or(|header| header.wal),
        Held::Alone => true,
    };
    // Closed before its hold is given back.
    drop((file, hold));
    used && !is_log_here(&at).unwrap_or(false)
}

/// Lets the reader's lock of this process go but for its first byte, so that other backups see through it whether a program has
/// the database open.
///
/// # Errors
/// What the system refuses.
pub fn let_go(file: &File) -> io::Result<()> {
    control(file, libc::F_SETLK, &mut lock(libc::F_UNLCK, OTHERS))
}

fn lock(kind: c_int, (start, length): (i64, i64)) -> libc::flock {
    // SAFETY: all of it are numbers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence) = (kind as c_short, libc::SEEK_SET as c_short);
    (lock.l_start, lock.l_len) = (start, length);
    lock
}

fn control(file: &File, operation: c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the lock lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), operation, &raw mut *lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
