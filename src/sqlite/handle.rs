//! Asks SQLite, by its C interface, about the files that a connection has open.

use std::ffi::{c_int, c_void};
use std::ptr;

use rusqlite::{Connection, ffi};

/// Whether the database's path no longer leads to the file that the connection has open.
pub fn has_moved(connection: &Connection) -> bool {
    let mut moved: c_int = 0;
    // SAFETY: the handle lives as long as the borrow; a null name is the main database; the operation writes one int.
    let result = unsafe {
        let out = (&raw mut moved).cast::<c_void>();
        ffi::sqlite3_file_control(connection.handle(), ptr::null(), ffi::SQLITE_FCNTL_HAS_MOVED, out)
    };
    result != ffi::SQLITE_OK || moved != 0
}

/// The system's reason for the last failure.
pub fn system_errno(connection: &Connection) -> i32 {
    // SAFETY: the handle lives as long as the borrow.
    unsafe { ffi::sqlite3_system_errno(connection.handle()) }
}

/// Reads from the write-ahead log that the connection has open, which no path needs to lead to any more. Returns
/// whether there were as many bytes. The connection must be in WAL mode, and in a transaction.
///
/// # Errors
/// SQLite's result code.
pub fn read_wal(connection: &Connection, at: u64, out: &mut [u8]) -> Result<bool, c_int> {
    let (Ok(length), Ok(at)) = (c_int::try_from(out.len()), i64::try_from(at)) else { return Err(ffi::SQLITE_TOOBIG) };
    // SAFETY: the file is the connection's, which this thread alone has. SQLite seeks before it reads.
    let result = unsafe {
        let (file, methods) = file(connection, ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
        let Some(read) = methods.xRead else { return Err(ffi::SQLITE_MISUSE) };
        read(file, out.as_mut_ptr().cast(), length, at)
    };
    match result {
        ffi::SQLITE_OK => Ok(true),
        ffi::SQLITE_IOERR_SHORT_READ => Ok(false),
        code => Err(code),
    }
}

/// Takes the lock that a reader of the database has, until the connection is closed. It is for a connection that takes
/// none by itself.
///
/// # Errors
/// As SQLite reports them to a reader; busy while others keep the database locked.
pub fn lock_shared(connection: &Connection) -> rusqlite::Result<()> {
    // SAFETY: the file is the connection's, which this thread alone has.
    let result = unsafe {
        file(connection, ffi::SQLITE_FCNTL_FILE_POINTER)
            .and_then(|(file, methods)| Ok(methods.xLock.ok_or(ffi::SQLITE_MISUSE)?(file, ffi::SQLITE_LOCK_SHARED)))
    };
    match result.unwrap_or_else(|code| code) {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Returns a file that a connection has open, and its methods.
///
/// # Safety
/// The connection is used by this thread alone, and outlives both.
pub unsafe fn file(
    connection: &Connection,
    which: c_int,
) -> Result<(*mut ffi::sqlite3_file, &ffi::sqlite3_io_methods), c_int> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the handle lives as long as the borrow; the operation writes one pointer. The file that it leads to is the
    // connection's, and its methods are null while it is not open.
    unsafe {
        let to = (&raw mut file).cast::<c_void>();
        match ffi::sqlite3_file_control(connection.handle(), ptr::null(), which, to) {
            ffi::SQLITE_OK => {}
            code => return Err(code),
        }
        let methods = file.as_ref().and_then(|file| file.pMethods.as_ref()).ok_or(ffi::SQLITE_MISUSE)?;
        Ok((file, methods))
    }
}
