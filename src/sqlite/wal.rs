//! Finds the pages of a database that may be newer in its write-ahead log than in its file.
//!
//! A reader in WAL mode holds one of SQLite's read marks from the beginning of its transaction to the end, and sees the
//! log up to some frame M. The file's content changes meanwhile, and yet a page that no frame up to M names may be read
//! straight from it:
//!
//! - Only a checkpoint writes to the file, since every connection in WAL mode has a shared lock on it. It copies frames up
//!   to the lowest mark that a reader holds, so none after M: the pages that it writes are named by frames up to M. It cuts the
//!   file only when the last frame of all was copied, then to the size of M's commit, and SQLite grows it only to more.
//! - A reader on mark 0 found the whole log copied and ignores it: its state is the file. A checkpoint has to lock mark
//!   0 before it writes, so it waits until there is no such reader; asking SQLite for the pages that frames name is
//!   needless then. (SQLite also takes mark 0 when it may not write to the `-shm`: it then reads the log, from which
//!   frames are found here too, and which cannot begin again before a checkpoint.)
//! - A log begins again, or is cut, only under a lock of all marks but 0. So for any other reader, its frames up to M
//!   stay where they are, and were there before the transaction began: reading their headers after that misses none.
//!   Frames after M, or half-written ones, name pages for which asking SQLite is needless and not wrong.
//! - Where nobody has the database open, there are no marks, and nothing changes ([`at_rest`](super::at_rest)).
//!
//! Frames of the log as it now is carry the salts of its header; SQLite itself stops at the first that does not, and so does
//! this. <https://www.sqlite.org/fileformat.html#the_write_ahead_log>

use std::ffi::c_int;

use rusqlite::Connection;

use super::handle::read_wal;
use super::header::{is_page_size, locks_page};

/// Length of the log's header, in bytes.
pub const HEADER: usize = 32;
/// Length of a frame's header, in bytes; a page follows it.
pub const FRAME: usize = 24;
/// The log's first four bytes; the lowest bit tells the byte order of its checksums.
const MAGIC: u32 = 0x377F_0682;
/// The only version of logs that there is.
const VERSION: u32 = 3_007_000;
/// Bytes to read at a time if frames are small.
const WINDOW: usize = 16 << 10;
/// Number of pages that one piece of a [`PageSet`] covers.
const PIECE: u32 = 1 << 15;

/// A set of page numbers. Its memory grows with the number of pages in it, and hardly with how large the numbers are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet {
    /// One bit per page; a piece without any page is `None`.
    pieces: Vec<Option<Box<[u64; PIECE as usize / 64]>>>,
    /// This page and all that follow are in the set, except `never`.
    from: Option<u32>,
    /// A page that is not in the set, whatever was added.
    never: Option<u32>,
}

impl PageSet {
    /// Whether the page with this number is in the set.
    pub fn contains(&self, page: u32) -> bool {
        if self.never == Some(page) {
            return false;
        }
        if self.from.is_some_and(|from| page >= from) {
            return true;
        }
        let bit = page % PIECE;
        let piece = self.pieces.get((page / PIECE) as usize).and_then(Option::as_ref);
        piece.is_some_and(|piece| piece[(bit / 64) as usize] >> (bit % 64) & 1 != 0)
    }

    /// Whether the set is empty, as it is for most databases.
    pub fn is_empty(&self) -> bool {
        self.from.is_none() && self.pieces.iter().all(Option::is_none)
    }

    fn insert(&mut self, page: u32) {
        let at = (page / PIECE) as usize;
        if self.pieces.len() <= at {
            self.pieces.resize(at + 1, None);
        }
        let piece = self.pieces[at].get_or_insert_with(|| Box::new([0; PIECE as usize / 64]));
        let bit = page % PIECE;
        piece[(bit / 64) as usize] |= 1 << (bit % 64);
    }
}

/// Why the log was not read to its end.
#[derive(Debug)]
pub enum WalReadError {
    /// SQLite failed with this result code.
    Failed(c_int),
    /// The work was told to stop.
    Stopped,
}

/// The frames of a log, as they follow one another with its own salts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalFrames {
    /// The salts in the log's header.
    pub salts: [u8; 8],
    /// Number of frames, whether or not they are committed.
    pub number: u64,
    /// Number of the last frame that ends a transaction; 0 if none does.
    pub committed: u64,
}

/// Returns the pages of a database that are to be read through SQLite, and the frames of its log, if it has any.
/// `logged` tells whether it has a log now. `pages` is its number of pages, and `whole` how many of them the file holds
/// whole: the pages beyond are in the log, or are zeros, as SQLite gives them. The page of SQLite's locks is never
/// among them, since SQLite does not read it.
///
/// # Errors
/// A log that cannot be read.
pub fn pages_in_wal(
    connection: &Connection,
    logged: bool,
    page_size: u32,
    pages: u64,
    whole: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<(PageSet, Option<WalFrames>), WalReadError> {
    let mut set = PageSet { never: u32::try_from(locks_page(page_size)).ok(), ..PageSet::default() };
    let mut frames = None;
    if logged {
        let read = |at, out: &mut [u8]| read_wal(connection, at, out).map_err(WalReadError::Failed);
        frames = add_frames(&mut set, page_size, pages, read, go_on)?;
    }
    if whole < pages {
        set.from = Some(set.from.unwrap_or(u32::MAX).min(u32::try_from(whole + 1).unwrap_or(u32::MAX)));
    }
    Ok((set, frames))
}

/// Whether SQLite takes the first bytes of a file for a log: magic, version, page size and checksum.
pub fn begins(first: &[u8]) -> bool {
    let Some(header) = first.first_chunk::<HEADER>() else { return false };
    let (magic, big) = (number(header, 0), header[3] & 1 == 1);
    let mut sums = (0u32, 0u32);
    for pair in header[..24].chunks_exact(8) {
        let words = [number(pair, 0), number(pair, 4)].map(|word| if big { word } else { word.swap_bytes() });
        sums.0 = sums.0.wrapping_add(words[0]).wrapping_add(sums.1);
        sums.1 = sums.1.wrapping_add(words[1]).wrapping_add(sums.0);
    }
    let (version, page) = (number(header, 4), number(header, 8));
    magic & !1 == MAGIC && version == VERSION && is_page_size(page) && sums == (number(header, 24), number(header, 28))
}

/// Returns the frames of a log with pages of this size, if it has any. `read` fills the buffer from an offset, and
/// returns whether there were as many bytes.
///
/// # Errors
/// A log that cannot be read.
pub fn frames(
    page_size: u32,
    read: impl Fn(u64, &mut [u8]) -> Result<bool, WalReadError>,
) -> Result<Option<WalFrames>, WalReadError> {
    add_frames(&mut PageSet::default(), page_size, 0, read, &|| true)
}

/// Adds the pages that the log's frames name. `read` fills the buffer from an offset, and returns whether there were as
/// many bytes.
fn add_frames(
    set: &mut PageSet,
    page_size: u32,
    pages: u64,
    read: impl Fn(u64, &mut [u8]) -> Result<bool, WalReadError>,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<WalFrames>, WalReadError> {
    let mut header = [0; HEADER];
    if !read(0, &mut header)? || number(&header, 0) & !1 != MAGIC {
        // SQLite takes no frame from such a log either.
        return Ok(None);
    }
    if number(&header, 8) != page_size {
        if is_page_size(number(&header, 8)) {
            // A log in use cannot be like this; SQLite knows better what to make of it.
            set.from = Some(1);
        }
        return Ok(None);
    }
    let mut salts = [0; 8];
    salts.copy_from_slice(&header[16..24]);
    let mut frames = WalFrames { salts, number: 0, committed: 0 };
    let stride = FRAME + page_size as usize;
    let at_once = (WINDOW / stride).max(1);
    // The last page of a window is not needed.
    let mut window = vec![0; (at_once - 1) * stride + FRAME];
    let mut at = HEADER as u64;
    loop {
        if !go_on() {
            return Err(WalReadError::Stopped);
        }
        let mut length = window.len();
        if !read(at, &mut window)? {
            // The log's end lies within the window, or the log was cut: it is read frame by frame from here.
            length = FRAME;
            if !read(at, &mut window[..FRAME])? {
                return Ok(Some(frames));
            }
        }
        for frame in window[..length].chunks(stride) {
            let page = number(frame, 0);
            if frame.len() < FRAME || frame[8..16] != salts || page == 0 {
                return Ok(Some(frames));
            }
            frames.number += 1;
            if number(frame, 4) != 0 {
                frames.committed = frames.number;
            }
            // A page beyond the state's end was there in an earlier commit, or comes with a later one.
            if u64::from(page) <= pages {
                set.insert(page);
            }
            at += stride as u64;
        }
    }
}

/// The big-endian number in the four bytes at an offset; 0 beyond the end.
pub fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALTS: [u8; 8] = *b"salts!!!";

    /// A log with a frame of the current salts for each of `pages`, then frames with older salts for those of `old`.
    fn log(page_size: u32, pages: &[u32], old: &[u32]) -> Vec<u8> {
        let mut log = [MAGIC + 1, 3_007_000, page_size, 0].iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<_>>();
        log.extend(SALTS);
        log.extend([0; 8]);
        for (salts, pages) in [(SALTS, pages), (*b"other!!!", old)] {
            for page in pages {
                log.extend(page.to_be_bytes());
                log.extend([0; 4]);
                log.extend(salts);
                log.extend([0; 8]);
                log.resize(log.len() + page_size as usize, 0xEE);
            }
        }
        log
    }

    fn found(log: &[u8], page_size: u32, pages: u64) -> PageSet {
        let read = |at: u64, out: &mut [u8]| {
            let rest = usize::try_from(at).ok().and_then(|at| log.get(at..)).unwrap_or(&[]);
            let length = rest.len().min(out.len());
            out[..length].copy_from_slice(&rest[..length]);
            // SQLite does the same.
            out[length..].fill(0);
            Ok(length == out.len())
        };
        let mut set = PageSet::default();
        add_frames(&mut set, page_size, pages, read, &|| true).unwrap();
        set
    }

    fn members(set: &PageSet, below: u32) -> Vec<u32> {
        (0..below).filter(|&page| set.contains(page)).collect()
    }

    #[test]
    fn frames_of_this_log_are_found_and_older_ones_are_not() {
        for size in [512, 4096, 65_536] {
            let many: Vec<u32> = (1..=70).rev().collect();
            assert_eq!(members(&found(&log(size, &many, &[80, 81]), size, 90), 100), (1..=70).collect::<Vec<_>>());
            assert!(found(&log(size, &[], &[1, 2]), size, 90).is_empty());
        }
        // A page beyond the state's end belongs to another commit.
        assert_eq!(members(&found(&log(512, &[3, 91, 5, u32::MAX], &[]), 512, 90), 100), [3, 5]);
    }

    #[test]
    fn what_is_no_log_names_nothing() {
        let whole = log(512, &[7], &[]);
        for log in [&b""[..], &whole[..31], &whole[..32], &whole[..55], &[0; 4096][..], &[0xFF; 4096][..]] {
            assert!(found(log, 512, 90).is_empty());
        }
        // The frame's header is enough: its page may still be on its way.
        assert_eq!(members(&found(&whole[..56], 512, 90), 100), [7]);
    }

    #[test]
    fn of_a_log_for_another_page_size_sqlite_knows_better() {
        let set = found(&log(1024, &[7], &[]), 512, 90);
        assert!((1..=90).all(|page| set.contains(page)));
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let read = |_, out: &mut [u8]| {
            out.copy_from_slice(&log(512, &[1], &[])[..out.len()]);
            Ok(true)
        };
        assert!(matches!(add_frames(&mut PageSet::default(), 512, 9, read, &|| false), Err(WalReadError::Stopped)));
        let fails = |_, _: &mut [u8]| Err(WalReadError::Failed(10));
        assert!(matches!(add_frames(&mut PageSet::default(), 512, 9, fails, &|| true), Err(WalReadError::Failed(10))));
    }

    #[test]
    fn a_set_has_an_end_that_is_open_and_a_page_that_is_never_in_it() {
        let mut set = PageSet::default();
        assert!(set.is_empty());
        set.insert(u32::MAX);
        assert!(set.contains(u32::MAX) && !set.is_empty());
        let set = PageSet { from: Some(10), never: Some(12), ..PageSet::default() };
        assert_eq!(members(&set, 15), [10, 11, 13, 14]);
    }

    proptest! {
        #[test]
        fn a_set_has_what_was_put_in(pages in prop::collection::btree_set(0u32..200_000, 0..100)) {
            let mut set = PageSet::default();
            pages.iter().for_each(|&page| set.insert(page));
            prop_assert_eq!(members(&set, 200_000), pages.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_it_fail(start in 0usize..40, noise in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut bytes = log(512, &[1, 2, 3], &[4]);
            bytes.truncate(start * 50);
            bytes.extend(noise);
            found(&bytes, 512, 90);
        }
    }
}
