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

use rustix::fs::{Stat, lstat};

use super::side::id;

/// The first byte that SQLite's readers lock, and how many they are.
const SHARED: (i64, i64) = (0x4000_0002, 510);
/// The byte behind those, which SQLite never locks.
const OURS: i64 = SHARED.0 + SHARED.1;

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

/// Who else has a database locked; other backups, which are [`mark`]ed, do not count. Where a filesystem does not tell, nobody has.
pub fn held(file: &File) -> Held {
    let mut lock = lock(libc::F_WRLCK, SHARED);
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

/// Makes the reader's lock of this process one that other backups know: it reaches one byte further, until any descriptor of the
/// file is closed.
///
/// # Errors
/// What the system refuses.
pub fn mark(file: &File) -> io::Result<()> {
    control(file, libc::F_SETLK, &mut lock(libc::F_RDLCK, (OURS, 1)))
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
