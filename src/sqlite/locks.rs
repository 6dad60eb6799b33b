//! Reads and takes the locks of a database as SQLite does on Unix (`os_unix.c`, "Posix Advisory Locking").
//!
//! A program that reads a database has `SHARED` locked for reading, and a program that has it to itself has it locked
//! for writing. A program that uses a write-ahead log reads the database for as long as it has it open, and its `-shm`
//! too.

use std::ffi::{c_int, c_short};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The first byte that SQLite's readers lock, and how many bytes they lock.
const SHARED: (i64, i64) = (0x4000_0002, 510);
/// The bytes that a backup unlocks again: the first one is enough to keep out a writer that wants them all.
const OTHERS: (i64, i64) = (SHARED.0 + 1, SHARED.1 - 1);
/// The first of `OTHERS`: a byte that every reader of a database has locked, except backups.
pub const READING: i64 = OTHERS.0;
/// The byte of a `-shm` that every program that has it open has locked, and how many bytes that is.
pub const OPEN: (i64, i64) = (128, 1);

/// Tells who else has a database locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockHolder {
    /// Nobody whose lock can be seen.
    No,
    /// Programs that read it, or that use it with a log; the process number of one of them, if that is known.
    Reading(Option<u32>),
    /// A program that has it to itself; its process number, if that is known.
    Alone(Option<u32>),
}

/// Tells who else has a database locked. Other backups do not count, since each calls [`shrink_read_lock`]. Where a
/// filesystem does not tell, nobody has.
pub fn lock_holder(file: &File) -> LockHolder {
    let mut lock = lock(libc::F_WRLCK, OTHERS);
    // The system tells of one lock that is in the way: if there are several readers, the one that came first.
    if control(file, libc::F_GETLK, &mut lock).is_err() {
        return LockHolder::No;
    }
    let pid = u32::try_from(lock.l_pid).ok().filter(|pid| *pid > 0);
    match c_int::from(lock.l_type) {
        libc::F_WRLCK => LockHolder::Alone(pid),
        libc::F_RDLCK if (lock.l_start, lock.l_len) == SHARED => LockHolder::Reading(pid),
        _ => LockHolder::No,
    }
}

/// Whether another process has a `-shm` open as SQLite does. Nobody has if a filesystem does not tell.
pub fn is_open(shm: &File) -> bool {
    let mut lock = lock(libc::F_WRLCK, OPEN);
    control(shm, libc::F_GETLK, &mut lock).is_ok() && c_int::from(lock.l_type) != libc::F_UNLCK
}

/// Unlocks this process's reader's lock except for its first byte, so that other backups can still see whether a
/// program has the database open.
///
/// # Errors
/// An error of the system.
pub fn shrink_read_lock(file: &File) -> io::Result<()> {
    control(file, libc::F_SETLK, &mut lock(libc::F_UNLCK, OTHERS))
}

fn lock(kind: c_int, (start, length): (i64, i64)) -> libc::flock {
    // SAFETY: all of its fields are numbers.
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
