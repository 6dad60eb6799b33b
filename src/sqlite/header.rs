//! Parses the beginning of a database file: whether it is one, and what it says about itself.
//!
//! <https://www.sqlite.org/fileformat.html#the_database_header>

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The first bytes of every database, except encrypted ones.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The first bytes of a write-ahead log, except for the lowest bit, which tells in which byte order its checksums are
/// made. Encryption of a database leaves them as they are. <https://www.sqlite.org/fileformat.html#walformat>
pub const WAL_MAGIC: [u8; 4] = [0x37, 0x7f, 0x06, 0x82];
/// The first bytes of a rollback journal, unless it is at rest.
/// <https://www.sqlite.org/fileformat.html#rollbackjournal>
pub const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// The smallest page that SQLite knows, in bytes.
pub const SMALLEST_PAGE: u32 = 512;
/// The largest page that SQLite knows, in bytes.
pub const LARGEST_PAGE: u32 = 65_536;
/// Offset of SQLite's locks in the file, whatever the page size; the page that this byte lies in holds no data.
pub const LOCKS_AT: u64 = 0x4000_0000;

/// The fields of a database's first bytes that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The page size in bytes; `None` if SQLite knows no such size.
    pub page_size: Option<u32>,
    /// Whether readers must use a write-ahead log.
    pub wal: bool,
}

impl Header {
    /// Reads the beginning of a file, which may be empty; `None` if it is not a database.
    ///
    /// # Errors
    /// The system's reason why it cannot be read.
    pub fn read(file: &File) -> io::Result<Option<Header>> {
        let mut first = [0; 20];
        let mut length = 0;
        while length < first.len() {
            match file.read_at(&mut first[length..], length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(Header::parse(&first[..length]))
    }

    /// Parses the first bytes of a file, at least 20 if the file has that many; `None` if it is not a database.
    pub fn parse(first: &[u8]) -> Option<Header> {
        let rest = first.strip_prefix(MAGIC)?;
        let page_size = match *rest {
            // 65,536 does not fit into the field.
            [0, 1, ..] => Some(LARGEST_PAGE),
            [high, low, ..] => Some(u32::from(u16::from_be_bytes([high, low]))).filter(|&size| is_page_size(size)),
            _ => None,
        };
        // There are two versions; the one for writing says nothing to a reader.
        Some(Header { page_size, wal: rest.get(3) == Some(&2) })
    }
}

/// Whether the first bytes of a file are those of a write-ahead log or of a rollback journal.
pub fn is_log(first: &[u8]) -> bool {
    let wal = first.first_chunk::<4>().is_some_and(|[a, b, c, d]| [*a, *b, *c, d & !1] == WAL_MAGIC);
    wal || first.starts_with(&JOURNAL_MAGIC)
}

/// Whether SQLite knows pages of `size` bytes.
pub fn is_page_size(size: u32) -> bool {
    size.is_power_of_two() && (SMALLEST_PAGE..=LARGEST_PAGE).contains(&size)
}

/// The number of the page that SQLite's locks lie in; the first page is 1.
pub fn locks_page(page_size: u32) -> u64 {
    LOCKS_AT / u64::from(page_size) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(rest: &[u8]) -> Option<Header> {
        Header::parse(&[MAGIC, rest].concat())
    }

    #[test]
    fn page_sizes_are_those_that_sqlite_knows() {
        for (bytes, size) in [([2, 0], 512), ([16, 0], 4096), ([128, 0], 32_768), ([0, 1], 65_536)] {
            let rest = [&bytes[..], &[1, 1, 0, 64, 32, 32]].concat();
            assert_eq!(parsed(&rest), Some(Header { page_size: Some(size), wal: false }));
        }
        for bytes in [[0, 0], [1, 0], [0, 2], [16, 1], [255, 255]] {
            assert_eq!(parsed(&bytes), Some(Header { page_size: None, wal: false }));
        }
    }

    #[test]
    fn a_log_is_what_readers_are_told_to_use() {
        assert!(parsed(&[16, 0, 2, 2]).unwrap().wal);
        assert!(!parsed(&[16, 0, 2, 1]).unwrap().wal);
        assert!(!parsed(&[16, 0, 2]).unwrap().wal);
    }

    #[test]
    fn what_begins_otherwise_is_no_database() {
        assert_eq!(Header::parse(b""), None);
        assert_eq!(Header::parse(b"SQLite format 3"), None);
        assert_eq!(Header::parse(b"SQLite format 4\0\x10\0\x01\x01"), None);
        assert_eq!(parsed(b""), Some(Header { page_size: None, wal: false }));
    }

    #[test]
    fn the_page_of_the_locks_is_where_a_gibibyte_ends() {
        assert_eq!((locks_page(512), locks_page(4096), locks_page(65_536)), (2_097_153, 262_145, 16_385));
    }
}
