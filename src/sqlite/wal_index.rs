//! Reads a `-shm`, the index of a write-ahead log, and tells whether it is the index of the log that lies beside it.
//!
//! Programs that use a log find its frames through the `-shm`. A log that was emptied, or replaced, while they have it
//! open is not the one that they write to; SQLite does not notice, and reads whatever the two happen to say. But the
//! index tells up to which frame the log goes, and that frame's checksum, which depends on all frames before it. That
//! frame was written before the index said so, and disappears only after the index has begun again: so it is in the
//! log, with that checksum.
//!
//! More frames may follow: those of a transaction that is rolled back, or whose writer died, and those of one that is
//! being committed. Such a commit is first written, then reaches the disk safely, however long that takes, and is
//! entered into the index last, when it changes nothing that a later look at the log would show.
//!
//! <https://www.sqlite.org/walformat.html#the_wal_index_file_format>

use std::fs::File;
use std::os::unix::fs::FileExt;

use rusqlite::ffi;

use super::wal::{self, FRAME, HEADER, WalFrames, WalReadError, number};
use crate::fs::read_some;

/// Length of the index's header, in bytes; the file holds it twice.
const INDEX: usize = 48;
/// The only version of indexes that there is.
const VERSION: u32 = 3_007_000;
/// How often index and log are compared while the index goes on changing, as it does only if it is the one that is in
/// use.
const LOOKS: u32 = 100;

/// The fields of an index that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    page_size: u32,
    /// Number of frames in the log.
    frames: u32,
    /// Checksum of the last frame.
    sums: (u32, u32),
    /// Salts of the log.
    salts: [u8; 8],
}

impl Index {
    /// Reads the index as it is; `None` if it has not been made yet, or is being changed right now. Its numbers are in
    /// this machine's byte order.
    pub fn read(shm: &File) -> Option<Index> {
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

    /// Whether a log has the end of a transaction that is not in the index.
    pub fn lacks(&self, log: WalFrames) -> bool {
        // Until the first commit to an empty log the index knows no salts; an index that has begun again knows those of
        // the log to come.
        let unknown = self.frames == 0 && self.salts == [0; 8];
        match self.salts == log.salts || unknown {
            true => log.committed > self.frames.into(),
            false => self.frames > 0 || log.committed > 0 && !self.follows(log),
        }
    }

    /// Whether the index has begun again after a log that is in the database by now, and that nobody has written over
    /// yet: then the first of its salts is the next number (`walRestartHdr` in SQLite's `wal.c`). A program that never
    /// restarted a log itself makes up both salts when it begins one, and they come into the index with its first
    /// commit.
    fn follows(&self, log: WalFrames) -> bool {
        number(&self.salts, 0) == number(&log.salts, 0).wrapping_add(1)
    }

    /// Whether a log has all frames of the index, up to its last one.
    pub fn is_whole(&self, log: WalFrames) -> bool {
        self.frames == 0 || self.salts != log.salts || log.number >= self.frames.into()
    }

    /// Whether the index covers everything that is committed in a log, and nothing else.
    fn is_all_of(&self, log: WalFrames) -> bool {
        self.frames > 0 && self.salts == log.salts && log.committed == u64::from(self.frames)
    }

    /// The offset at which a frame begins; the first frame is 1.
    fn place(&self, frame: u32) -> u64 {
        HEADER as u64 + (u64::from(frame) - 1) * (FRAME as u64 + u64::from(self.page_size))
    }
}

/// How a log that lies beside an index relates to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexFit {
    /// It is not the log that the index is of.
    None,
    /// It is the log that the index is of, or the two cannot be told apart.
    Some,
    /// It is that log, and everything that is committed in it is in the index.
    All,
}

/// Compares the index in a `-shm` with a log.
pub fn fit(shm: &File, log: &File) -> IndexFit {
    let read = |at, out: &mut [u8]| match read_some(log, at, out) {
        Ok(read) => Ok(read == out.len()),
        Err(_) => Err(WalReadError::Failed(ffi::SQLITE_IOERR)),
    };
    let index = Index::read(shm);
    let is_of = is_of(shm, read);
    let frames = index.and_then(|index| wal::frames(index.page_size, read).ok().flatten());
    match (index, frames, is_of) {
        (_, _, Ok(false)) => IndexFit::None,
        (Some(index), Some(frames), _) if !index.is_whole(frames) => IndexFit::None,
        (Some(index), Some(frames), Ok(true)) if index.is_all_of(frames) => IndexFit::All,
        _ => IndexFit::Some,
    }
}

/// Whether the index in a `-shm` is that of the log from which `read` fills the buffer from an offset, returning
/// whether there were as many bytes. A log that cannot be told apart from the index's counts as its own.
///
/// # Errors
/// The errors of `read`.
pub fn is_of<E>(shm: &File, read: impl Fn(u64, &mut [u8]) -> Result<bool, E>) -> Result<bool, E> {
    for _ in 0..LOOKS {
        let Some(index) = Index::read(shm) else { return Ok(true) };
        let fits = has_last_frame(&index, &read)?;
        // About an index that has changed meanwhile, nothing is known yet.
        if fits || Index::read(shm) == Some(index) {
            return Ok(fits);
        }
    }
    Ok(true)
}

/// Whether the log has the last frame of the index, with its checksum.
fn has_last_frame<E>(index: &Index, read: impl Fn(u64, &mut [u8]) -> Result<bool, E>) -> Result<bool, E> {
    if index.frames == 0 {
        return Ok(true);
    }
    let (mut header, mut frame) = ([0; HEADER], [0; FRAME]);
    let at = index.place(index.frames);
    Ok(read(0, &mut header)?
        && header[16..24] == index.salts
        && read(at, &mut frame)?
        && frame[8..16] == index.salts
        && (number(&frame, 16), number(&frame, 20)) == index.sums
        && read(at + FRAME as u64 + u64::from(index.page_size) - 1, &mut [0])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_is_not_in_the_index_is_told_from_what_is_in_the_database() {
        let salts = |first: u32| [first.to_be_bytes(), *b"rand"].concat().try_into().unwrap();
        let index = |frames, salts| Index { page_size: 4096, frames, sums: (0, 0), salts };
        let log = |committed, salts| WalFrames { salts, number: committed + 1, committed };
        let lacks = |index: Index, log| index.lacks(log);
        // An index of the same log.
        assert!(lacks(index(3, salts(7)), log(4, salts(7))) && !lacks(index(3, salts(7)), log(3, salts(7))));
        // An index from before the first commit to an empty log.
        assert!(lacks(index(0, [0; 8]), log(1, salts(7))) && !lacks(index(0, [0; 8]), log(0, salts(7))));
        // An index of a log that is to be restarted, while the one before still lies there.
        for first in [7, u32::MAX] {
            assert!(!lacks(index(0, salts(first.wrapping_add(1))), log(4, salts(first))));
        }
        assert!(lacks(index(0, salts(8)), log(1, salts(8))));
        // An index of another log, by a program that made up its salts: only what is committed counts.
        for other in [5, 8, 0x0600_0000, u32::MAX] {
            let index = index(0, salts(7));
            assert!(lacks(index, log(1, salts(other))) && !lacks(index, log(0, salts(other))), "{other}");
        }
        assert!(lacks(index(3, salts(8)), log(0, salts(7))));
    }
}
