//! Tells whether a file beside a database is what its name says: no snapshot holds it, or only what SQLite reads from it.

use std::fs::File;

use rustix::io::Errno;

use crate::fs::read_some;

/// Length of the index's header, in bytes; the file holds it twice.
const INDEX: usize = 48;
/// The version at the beginning of each, in bytes; there is no other.
const VERSION: u32 = 3_007_000;

/// How a write-ahead log begins, after which comes the byte order of its checksums.
const LOG: [u8; 3] = [0x37, 0x7f, 0x06];
/// How a rollback journal begins.
const JOURNAL: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Length of a journal's header, in bytes: zeros, where SQLite keeps the journal of a transaction that has ended.
const HEADER: usize = 28;

/// Whether a file begins as a write-ahead log or a rollback journal.
///
/// # Errors
/// An error of the system.
pub fn is_log(log: &File) -> Result<bool, Errno> {
    let mut begin = [1; HEADER];
    let read = read_some(log, 0, &mut begin).map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
    let is_over = read == HEADER && begin == [0; HEADER];
    Ok(is_over || begin.starts_with(&JOURNAL) || begin.starts_with(&LOG) && matches!(begin[3], 0x82 | 0x83))
}

/// Whether a file beside a database is a rollback journal that belongs to no transaction: it begins with zeros, as SQLite leaves it with
/// `journal_mode = persist`, and says nothing of the database.
///
/// # Errors
/// An error of the system.
pub fn is_journal_at_rest(journal: &File) -> Result<bool, Errno> {
    let mut begin = [1; HEADER];
    let read = read_some(journal, 0, &mut begin).map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
    Ok(begin[..read].iter().all(|&byte| byte == 0))
}

/// Whether a file begins as the index that SQLite makes of a write-ahead log, or has no content yet.
///
/// # Errors
/// An error of the system.
pub fn is_index(shm: &File) -> Result<bool, Errno> {
    let mut part = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let read = read_some(shm, at, &mut part).map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
        let part = &part[..read];
        if at == 0 && [0, INDEX].iter().any(|&copy| part.get(copy..copy + 4).is_some_and(is_version)) {
            return Ok(true);
        }
        if part.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
        at += read as u64;
    }
}

/// Whether these bytes are the version, in the byte order of whatever machine wrote them.
fn is_version(bytes: &[u8]) -> bool {
    bytes == VERSION.to_le_bytes() || bytes == VERSION.to_be_bytes()
}
