//! Reads a large file in pieces, cuts it into blocks and hashes them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crossbeam_channel::Sender;
use rustix::fs::{SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;

use super::block;
use super::message::{CapturedFile, Disconnected, ReadEvent, finish};
use crate::error::Result;
use crate::fs::filesystem::may_invent_holes;
use crate::fs::read_some;
use crate::fs::times::{changed, mtime, settled};
use crate::monitor::{Context, Moment};
use crate::path::EntryPath;
use crate::source::stable::{Trust, compare, is_beyond_its_size};
use crate::vault::entry::MAX_SIZE;
use crate::vault::hex::Hash;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Sends a file's content once, as it is. The result describes what was read, whatever the file has become since.
///
/// # Errors
/// Fails if the receiver is gone; the inner error says what cannot be read.
pub fn stream(
    file: &File,
    path: &EntryPath,
    stat: &Stat,
    to: &Sender<Vec<ReadEvent>>,
    ctx: &Context,
    trust: Trust,
) -> Result<io::Result<CapturedFile>, Disconnected> {
    let mut large = Large::new(file, path, to, ctx);
    let began = (trust.now)();
    let trusted = trusts_holes(file, stat, began);
    Ok(match large.whole(u64::try_from(stat.st_size).unwrap_or(0), trusted)? {
        Ok(read) => {
            let racy = trust.is_file_racy(file, mtime(stat), began);
            finish(file, path, stat, read, racy, Hash::from(&large.hash.finalize()), None)
        }
        Err(why) => Err(why),
    })
}

/// Holes of a file that was written to within this many ns are read if the filesystem may invent them.
const HOLES_SETTLE: i64 = 60_000_000_000;

/// Whether what the filesystem reports as a hole is one.
pub(super) fn trusts_holes(file: &File, stat: &Stat, began: i64) -> bool {
    changed(stat) < began - HOLES_SETTLE || !may_invent_holes(file)
}

/// A large file that is being read.
pub(super) struct Large<'a> {
    file: &'a File,
    path: &'a EntryPath,
    to: &'a Sender<Vec<ReadEvent>>,
    /// Bytes that were read and are not part of a block yet.
    uncut: Vec<u8>,
    hash: blake3::Hasher,
    ctx: &'a Context<'a>,
}

impl<'a> Large<'a> {
    /// Creates a reader for the file that sends into `to`.
    pub(super) fn new(
        file: &'a File,
        path: &'a EntryPath,
        to: &'a Sender<Vec<ReadEvent>>,
        ctx: &'a Context<'a>,
    ) -> Self {
        Large { file, path, to, uncut: Vec::new(), hash: blake3::Hasher::new(), ctx }
    }

    fn send(&self, part: ReadEvent) -> Result<(), Disconnected> {
        self.to.send(vec![part]).map_err(|_| Disconnected)
    }

    /// Sends the file's content, and once more if it changed.
    ///
    /// A file that only grew, as a log does, is taken up to its first length: read again up to there, it must be the
    /// same. Then this was the file's content between both reads.
    pub(super) fn read(&mut self, trust: Trust) -> Result<io::Result<CapturedFile>, Disconnected> {
        let mut grown: Option<(Stat, u64, Hash)> = None;
        let mut passes_left = 2;
        loop {
            let (stat, began) = match settled(self.file, trust.now) {
                Ok(settled) => settled,
                Err(why) => return Ok(Err(why)),
            };
            self.hash.reset();
            self.uncut.clear();
            let trusted = trusts_holes(self.file, &stat, began);
            let read = match &grown {
                Some((_, length, _)) => self.content(*length, trusted)?,
                None => self.whole(u64::try_from(stat.st_size).unwrap_or(0), trusted)?,
            };
            let read = match read {
                Ok(read) => read,
                Err(why) => return Ok(Err(why)),
            };
            self.ctx.monitor.reached(Moment::Read, self.path);
            let after = match fstat(self.file) {
                Ok(after) => after,
                Err(why) => return Ok(Err(why.into())),
            };
            let hash = Hash::from(&self.hash.finalize());
            passes_left -= 1;
            if let Some((first, length, before)) = grown.take() {
                if (read, hash) == (length, before) {
                    return Ok(finish(self.file, self.path, &first, read, true, hash, None));
                }
                // The earlier part changed as well: all of the file is read.
                passes_left = 1;
            } else {
                let happened = compare(&stat, &after, read);
                if passes_left == 0 || happened.as_ref().is_none_or(|happened| !happened.torn) {
                    let racy = happened.is_some() || trust.is_file_racy(self.file, mtime(&stat), began);
                    return Ok(finish(self.file, self.path, &stat, read, racy, hash, happened));
                }
                grown = happened.filter(|happened| happened.grew).map(|_| (stat, read, hash));
            }
            self.send(ReadEvent::Again)?;
        }
    }

    /// Sends all content of a file that reports `size` bytes. Returns how many bytes there were.
    fn whole(&mut self, size: u64, holes: bool) -> Result<io::Result<u64>, Disconnected> {
        let read = match self.content(size, holes)? {
            Ok(read) if read == size => read,
            done => return Ok(done),
        };
        let more =
            read_some(self.file, size, &mut [0]).and_then(|more| Ok(more > 0 && is_beyond_its_size(self.file, size)?));
        match more {
            Ok(false) => Ok(Ok(read)),
            Ok(true) => Ok(self.data(size, u64::MAX)?.map(|more| read + more)),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Sends up to `size` bytes of content, as data and, if they are trusted, holes. Returns how many bytes there
    /// were.
    fn content(&mut self, size: u64, holes: bool) -> Result<io::Result<u64>, Disconnected> {
        if size > MAX_SIZE {
            return Ok(Err(io::Error::other(format!(
                "its size is given as {size} bytes, and files of more than {MAX_SIZE} bytes are not read"
            ))));
        }
        if !holes {
            return self.data(0, size);
        }
        let mut at = 0;
        while at < size {
            let data = match seek(self.file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                // A filesystem that does not know holes has none.
                Err(_) => at,
            };
            if data > at {
                if data == size && fstat(self.file).is_ok_and(|now| (now.st_size as u64) < size) {
                    break;
                }
                self.hole(data - at)?;
                at = data;
                continue;
            }
            let end = match seek(self.file, SeekFrom::Hole(at)) {
                Ok(hole) if hole > at => hole.min(size),
                _ => size,
            };
            let wanted = end - at;
            match self.data(at, wanted)? {
                Ok(read) if read == wanted => at = end,
                Ok(read) => return Ok(Ok(at + read)),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(at))
    }

    fn hole(&mut self, length: u64) -> Result<(), Disconnected> {
        let mut left = length;
        while left > 0 && !self.ctx.stop.load(std::sync::atomic::Ordering::Relaxed) {
            let now = left.min(ZEROS.len() as u64);
            self.hash.update(&ZEROS[..now as usize]);
            left -= now;
        }
        self.ctx.monitor.advance(length);
        self.send(ReadEvent::Hole(length))
    }

    /// Sends `length` bytes from `at`, or as many as there are.
    fn data(&mut self, at: u64, length: u64) -> Result<io::Result<u64>, Disconnected> {
        let mut read = 0;
        loop {
            if self.ctx.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Ok(Err(io::Error::new(io::ErrorKind::Interrupted, "it was told to stop")));
            }
            let wanted = (PIECE as u64).min(length - read) as usize;
            let begin = self.uncut.len();
            self.uncut.resize(begin + wanted, 0);
            let got = loop {
                match self.file.read_at(&mut self.uncut[begin..], at + read) {
                    Ok(got) => break got,
                    Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                    Err(why) => return Ok(Err(why)),
                }
            };
            self.uncut.truncate(begin + got);
            self.ctx.monitor.reached(Moment::Reading, self.path);
            self.hash.update(&self.uncut[begin..]);
            read += got as u64;
            let end = got == 0 || read == length;
            let lengths = block::cut(&self.uncut, end);
            let cut: usize = lengths.iter().sum();
            if cut > 0 {
                let rest = self.uncut.split_off(cut);
                let bytes = std::mem::replace(&mut self.uncut, rest);
                let mut from = 0;
                let hashed = |length: usize| {
                    from += length;
                    (length as u32, Hash::of(&bytes[from - length..from]))
                };
                let blocks = lengths.into_iter().map(hashed).collect();
                self.ctx.monitor.advance(cut as u64);
                self.send(ReadEvent::Blocks(bytes, blocks))?;
            }
            if end {
                return Ok(Ok(read));
            }
        }
    }
}
