//! Reads a database that uses a write-ahead log, while nobody has it open.
//!
//! SQLite would create `-wal` and `-shm` for us too. Whatever user they then belong to, there is a moment, or a
//! machine, in which an app cannot write to them; and to remove them again, somebody has to keep the app away. None of
//! that is needed:
//!
//! - A program that has such a database open has a reader's lock on it, and has its `-shm` open, which a lock shows
//!   too. A `-shm` that was left and that nobody has open belongs to nobody, and is left alone.
//! - So where no lock is seen, all there is is the file and its log, and any program that writes to them changes their
//!   times. They are read without a lock of our own; if nobody is seen at the end either, and the times are what they
//!   were, it was one state. This keeps nobody from anything: an app may open the database, write, close it as the last
//!   one and rename it.
//! - If a program came, what was read is of several states, and the database is read once more: together with a program
//!   that comes again within a moment, if one does. If one comes each time and is never met, a lock of ours makes sure
//!   that what it shares stays there until the pass is over.
//!
//! A log is rarely there then: after a crash, or a restore. Its index, which `-shm` is for, is made in memory; for that
//! SQLite takes a reader's lock while it reads.

use std::ffi::{c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags, ffi};

use super::handle::file;

/// The characters that a path in a URI may hold as they are.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/');

/// Opens a database by its absolute path, so that SQLite takes its file for all there is: SQLite looks at nothing
/// beside it, and takes no lock.
pub fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_URI;
    let path = percent_encode(path.as_os_str().as_bytes(), PLAIN);
    Connection::open_with_flags(format!("file://{path}?immutable=1"), flags)
}

/// Makes a connection that has read nothing yet keep the log's index in its own memory: it is told what SQLite is told
/// if there is a `-shm` that it may not write to, and that nobody uses.
pub fn index_log_itself(connection: &Connection) -> rusqlite::Result<()> {
    static METHODS: OnceLock<ffi::sqlite3_io_methods> = OnceLock::new();
    // SAFETY: the file is the connection's, which this thread alone has; the methods that replace its own are never
    // freed.
    unsafe {
        let (file, methods) = file(connection, ffi::SQLITE_FCNTL_FILE_POINTER)
            .map_err(|code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))?;
        // All files that SQLite opens with its default VFS have the same methods.
        (*file).pMethods = METHODS.get_or_init(|| ffi::sqlite3_io_methods {
            xShmMap: Some(map),
            xShmLock: Some(lock),
            xShmBarrier: Some(barrier),
            xShmUnmap: Some(unmap),
            ..*methods
        });
    }
    Ok(())
}

unsafe extern "C" fn map(_: *mut ffi::sqlite3_file, _: c_int, _: c_int, _: c_int, to: *mut *mut c_void) -> c_int {
    // SAFETY: SQLite passes a place where it wants the pointer.
    unsafe { to.write(ptr::null_mut()) };
    ffi::SQLITE_READONLY_CANTINIT
}

unsafe extern "C" fn lock(_: *mut ffi::sqlite3_file, _: c_int, _: c_int, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn barrier(_: *mut ffi::sqlite3_file) {}

unsafe extern "C" fn unmap(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}
