//! Whether a `-shm` is the index of the log that lies beside it.
//!
//! Programs that use a log find its frames through the `-shm`. A log that was emptied, or replaced, while they have it open is not
//! the one that they write to; nor is a `-shm` that came later the one that they share. SQLite notices neither, and reads what the two
//! happen to say. But the index tells up to which frame the log goes, and that frame's checksum, which depends on all that come before:
//!
//! - That frame is in the log, with that checksum. It was written before the index said so, and goes only after the index has begun
//!   anew.
//! - No whole transaction follows it, unless somebody has the lock of who writes to the log.
//!
//! <https://www.sqlite.org/walformat.html#the_wal_index_file_format>

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::header::is_page_size;
use super::locks::is_being_written;
use super::wal::{self, FRAME, HEADER, Sums, checksum, number, sums_at};

/// The header of the index, in bytes; it is there twice.
const INDEX: usize = 48;
/// The only version of indexes.
const VERSION: u32 = 3_007_000;
/// How often the two are compared while the index goes on changing, as it does only when this is the one that is in use.
const LOOKS: u32 = 100;

/// What is compared of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Index {
    page_size: u32,
    /// Frames of the log.
    frames: u32,
    /// The last one's.
    sums: Sums,
    /// Of the log.
    salts: [u8; 8],
}

impl Index {
    /// The index as it is; none while it has not been made, or is just being changed. Its numbers are in this machine's byte order.
    fn read(shm: &File) -> Option<Index> {
        let mut both = [0; 2 * INDEX];
        shm.read_exact_at(&mut both, 0).ok()?;
        let (first, second) = both.split_at(INDEX);
        let word = |at: usize| first.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes);
        let half = |at: usize| first.get(at..at + 2).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes);
        if first != second || word(0)? != VERSION || first[12] == 0 {
            return None;
        }
        // The largest size does not fit into 16 bits.
        let page_size = u32::from(half(14)?);
        let page_size = page_size & 0xFE00 | (page_size & 1) << 16;
        let salts = first.get(32..40)?.try_into().ok()?;
        Some(Index { page_size, frames: word(16)?, sums: (word(24)?, word(28)?), salts })
    }
}

/// Whether the index in a `-shm` is one of the log from which `read` gives the bytes at an offset, and tells whether there were as
/// many. One that cannot be told from it is.
///
/// # Errors
/// Those of `read`.
pub fn is_of<E>(shm: &File, read: impl Fn(u64, &mut [u8]) -> Result<bool, E>) -> Result<bool, E> {
    for _ in 0..LOOKS {
        let Some(index) = Index::read(shm) else { return Ok(true) };
        let fits = fits(&index, &read)? && (is_being_written(shm) || !goes_on(&index, &read)?);
        // Of an index that has changed meanwhile, nothing is known yet.
        if fits || Index::read(shm) == Some(index) {
            return Ok(fits);
        }
    }
    Ok(true)
}

/// Where a frame begins, the first being 1.
fn place(index: &Index, frame: u64) -> u64 {
    HEADER as u64 + (frame - 1) * (FRAME as u64 + u64::from(index.page_size))
}

/// Whether the log has the last frame of the index.
fn fits<E>(index: &Index, read: impl Fn(u64, &mut [u8]) -> Result<bool, E>) -> Result<bool, E> {
    if index.frames == 0 {
        return Ok(true);
    }
    let mut header = [0; HEADER];
    let mut frame = [0; FRAME];
    let end = place(index, u64::from(index.frames) + 1);
    Ok(read(0, &mut header)?
        && header[16..24] == index.salts
        && read(place(index, index.frames.into()), &mut frame)?
        && frame[8..16] == index.salts
        && sums_at(&frame, 16) == index.sums
        && read(end - 1, &mut [0])?)
}

/// Whether a whole transaction follows the last frame of the index.
fn goes_on<E>(index: &Index, read: impl Fn(u64, &mut [u8]) -> Result<bool, E>) -> Result<bool, E> {
    let mut header = [0; HEADER];
    if !read(0, &mut header)? || !wal::begins(&header) || number(&header, 8) != index.page_size && index.frames > 0 {
        return Ok(false);
    }
    // An index of an empty log knows neither its salts nor its pages' size.
    let unknown = index.frames == 0 && index.salts == [0; 8];
    let index = if unknown { Index { page_size: number(&header, 8), ..*index } } else { *index };
    let salts = &header[16..24];
    if !is_page_size(index.page_size) || !unknown && *salts != index.salts {
        return Ok(false);
    }
    let of_log = |frame: &[u8]| frame[8..16] == *salts && number(frame, 0) != 0;
    let (mut at, mut frame) = (u64::from(index.frames) + 1, [0; FRAME]);
    // Frames that no transaction has ended yet are many, and whole ones rare: the contents are read of those alone.
    let last = loop {
        if !read(place(&index, at), &mut frame)? || !of_log(&frame) {
            return Ok(false);
        }
        if number(&frame, 4) != 0 {
            break at;
        }
        at += 1;
    };
    let mut sums = if index.frames == 0 { sums_at(&header, 24) } else { index.sums };
    let mut whole = vec![0; FRAME + index.page_size as usize];
    for at in u64::from(index.frames) + 1..=last {
        if !read(place(&index, at), &mut whole)? {
            return Ok(false);
        }
        sums = checksum(&whole[..8], wal::is_big_endian(&header), sums);
        sums = checksum(&whole[FRAME..], wal::is_big_endian(&header), sums);
        if !of_log(&whole) || sums != sums_at(&whole, 16) {
            return Ok(false);
        }
    }
    Ok(true)
}
