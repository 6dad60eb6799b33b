//! Compares a database with the pages that the vault has of it, and sends the difference.
//!
//! A *pass* goes through the whole file: threads read and hash pieces of it, every block is compared with the known
//! block at the same position, and the blocks that differ wait in a buffer. A slow store must not keep the app
//! waiting, nor let its WAL grow: when the buffer is full the transaction ends, the buffer is sent, and another
//! transaction goes on at the same block. If nothing was committed in between, the pass still shows one state of the
//! database. If something was, its blocks are stored all the same, and another pass compares the database with them:
//! it has little to send. The last pass holds its transaction to the end, whatever it has to send.

use std::sync::atomic::{AtomicBool, Ordering};

use blake3::hazmat::ChainingValue;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::known::{KnownBlocks, Stack};
use crate::backup::message::{Disconnected, PageBlocks, ReadEvent, ScanResult};
use crate::backup::parent::Parent;
use crate::error::{Error, Kind};
use crate::fs::read_some;
use crate::monitor::Context;
use crate::sqlite::error::ReadError;
use crate::sqlite::source::{DatabaseState, PageSource};
use crate::vault::hex::{Hash, PackId};
use crate::vault::pages::{Tag, tag};
use crate::vault::subtree::{self, Subtrees};

/// Most passes over a database; the last one holds one transaction throughout.
pub const PASSES: u32 = 4;
/// Most changed content, in bytes, that waits for the end of a transaction.
const BUFFER: usize = 8 << 20;
/// Bytes that are read and hashed at a time: a multiple of every block size.
const PIECE: u64 = 1 << 20;

/// Why a pass ended early.
#[derive(Debug)]
pub enum Interrupted {
    /// The receiver is gone.
    Disconnected,
    /// The database cannot be read.
    Failed(ReadError),
    /// It could not be read to its end because its side files came or went.
    Changed,
    /// Its blocks have another size than the ones it was compared with; this is the size in bytes.
    Resized(u32),
    /// The known pages are damaged: it is read without them.
    Unknown(String),
}

impl From<Disconnected> for Interrupted {
    fn from(_: Disconnected) -> Self {
        Interrupted::Disconnected
    }
}

impl From<ReadError> for Interrupted {
    fn from(why: ReadError) -> Self {
        Interrupted::Failed(why)
    }
}

/// Compares a database with its known pages, and sends the blocks that differ.
pub struct Scanner<'a> {
    /// The parent snapshot, which knows the lost packs.
    pub base: &'a Parent<'a>,
    /// The vault's key for tags.
    pub key: &'a [u8; 32],
    /// Where the blocks are sent.
    pub to: &'a Sender<Vec<ReadEvent>>,
    /// Number of threads, and the monitor for progress.
    pub ctx: &'a Context<'a>,
}

/// Blocks that wait for the end of the transaction.
#[derive(Default)]
struct Buffer {
    parts: Vec<PageBlocks>,
    bytes: usize,
}

impl Buffer {
    fn push(&mut self, size: u32, block: u64, bytes: &[u8], tag: Tag) {
        if self.parts.last().is_none_or(|part| part.bytes.len() + bytes.len() > PIECE as usize) {
            self.parts.push(PageBlocks { size, bytes: Vec::new(), blocks: Vec::new() });
        }
        if let Some(part) = self.parts.last_mut() {
            part.bytes.extend_from_slice(bytes);
            part.blocks.push((block, tag));
            self.bytes += bytes.len();
        }
    }
}

/// A piece of the file, read and hashed; pages that are elsewhere are left to the transaction's thread.
#[derive(Default)]
struct HashedPiece {
    first: u64,
    bytes: Vec<u8>,
    values: Vec<Option<(ChainingValue, Tag)>>,
    failed: Option<std::io::Error>,
}

/// The progress of a pass.
struct ScanState<'k> {
    known: KnownBlocks,
    stack: &'k Stack<'k>,
    /// The next block.
    at: u64,
    tree: Subtrees,
    buffer: Buffer,
    out: ScanResult,
    number: u32,
}

impl Scanner<'_> {
    /// Goes through the database for the `number`th time, counted from 1; from [`PASSES`] on, one transaction is held
    /// throughout.
    ///
    /// # Errors
    /// Returns why the pass ended early.
    pub fn scan(&self, source: &mut dyn PageSource, stack: &Stack, number: u32) -> Result<ScanResult, Interrupted> {
        std::thread::scope(|scope| {
            let mut pass = ScanState {
                known: KnownBlocks::start(scope, stack),
                stack,
                at: 0,
                tree: Subtrees::default(),
                buffer: Buffer::default(),
                out: ScanResult { steady: true, ..ScanResult::default() },
                number,
            };
            let mut version = None;
            loop {
                let state = source.begin()?;
                pass.out.steady &= *version.get_or_insert(state.version) == state.version;
                (pass.out.size, pass.out.block) = (state.size, state.block);
                let done = self.slice(source, &state, &mut pass);
                let ended = source.end();
                let whole = match (done, &ended) {
                    (Err(Interrupted::Failed(why)), Ok(false)) if !matches!(why, ReadError::Stopped) => {
                        return Err(Interrupted::Changed);
                    }
                    (done, _) => done?,
                };
                pass.out.steady &= ended?;
                self.send(&mut pass.buffer)?;
                if whole {
                    return self.finish(pass);
                }
            }
        })
    }

    fn finish(&self, mut pass: ScanState) -> Result<ScanResult, Interrupted> {
        // Known blocks beyond the file's present end are no longer used.
        while let Some(placed) = pass.known.peek().map_err(unknown)? {
            pass.known.take_block(placed.block).map_err(unknown)?;
            self.free(&mut pass.out, placed.extent.pack);
        }
        if pass.out.steady && pass.out.hash.is_none() {
            pass.out.hash = pass.tree.finish();
        }
        Ok(pass.out)
    }

    fn free(&self, out: &mut ScanResult, pack: Option<PackId>) {
        if let Some(pack) = pack {
            *out.freed.entry(pack).or_default() += 1;
        }
    }

    /// Goes on within one transaction, to the end of the file or until the buffer is full. Returns whether it came to
    /// the end.
    fn slice(
        &self,
        source: &mut dyn PageSource,
        state: &DatabaseState,
        pass: &mut ScanState,
    ) -> Result<bool, Interrupted> {
        if state.block != pass.stack.map.block {
            return Err(Interrupted::Resized(state.block));
        }
        let whole = self.pieces(source, state, pass)?;
        if whole && pass.out.steady {
            source.settled()?;
        }
        Ok(whole)
    }

    fn pieces(
        &self,
        source: &mut dyn PageSource,
        state: &DatabaseState,
        pass: &mut ScanState,
    ) -> Result<bool, Interrupted> {
        let block = u64::from(state.block);
        let blocks = state.size.div_ceil(block);
        let per_piece = PIECE / block;
        let first = pass.at;
        let pieces = blocks.saturating_sub(first).div_ceil(per_piece);
        let threads = (self.ctx.threads.max(1) as u64).min(pieces);
        // This must be the same descriptor: closing any other one would drop SQLite's locks.
        let file = source.file();
        let (over, file) = (&AtomicBool::new(false), &*file);
        std::thread::scope(|scope| {
            let hashed: Vec<(Receiver<HashedPiece>, Sender<HashedPiece>)> = (0..threads)
                .map(|thread| {
                    let (to, from) = bounded(1);
                    let (back, emptied) = bounded::<HashedPiece>(3);
                    scope.spawn(move || {
                        let numbers = (thread..pieces).step_by(threads as usize);
                        for first in numbers.map(|n| first + n * per_piece) {
                            let piece = emptied.try_recv().unwrap_or_default();
                            let piece = self.read(file, state, first, (first + per_piece).min(blocks), piece);
                            if over.load(Ordering::Relaxed) || to.send(piece).is_err() {
                                return;
                            }
                        }
                    });
                    (from, back)
                })
                .collect();
            let mut done = Ok(true);
            for n in 0..pieces {
                let (from, back) = &hashed[(n % threads) as usize];
                let Ok(mut piece) = from.recv() else {
                    done = Err(Interrupted::Failed(ReadError::Failed("a reading thread ended early".into())));
                    break;
                };
                done = self.piece(source, state, pass, &mut piece);
                // A buffer that nobody waits for is simply freed.
                let _ = back.try_send(piece);
                if !matches!(done, Ok(true)) {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
            done
        })
    }

    /// Reads and hashes blocks from `first` to before `end`.
    fn read(
        &self,
        file: &std::fs::File,
        state: &DatabaseState,
        first: u64,
        end: u64,
        mut piece: HashedPiece,
    ) -> HashedPiece {
        let block = u64::from(state.block);
        let (from, to) = (first * block, (end * block).min(state.size));
        piece.first = first;
        piece.failed = None;
        piece.values.clear();
        piece.bytes.resize((to - from) as usize, 0);
        match read_some(file, from, &mut piece.bytes) {
            // Pages beyond the file's end are elsewhere; if a plain file shrank, the next look at it shows that.
            Ok(read) => piece.bytes[read..].fill(0),
            Err(why) => {
                piece.failed = Some(why);
                return piece;
            }
        }
        for (n, bytes) in piece.bytes.chunks(state.block as usize).enumerate() {
            let number = first + n as u64;
            let hashed = !pages(state, number).any(|page| state.elsewhere.contains(page));
            piece.values.push(hashed.then(|| self.value(bytes, number * block)));
        }
        piece
    }

    fn value(&self, bytes: &[u8], at: u64) -> (ChainingValue, Tag) {
        let value = subtree::value(bytes, at);
        (value, tag(self.key, &value))
    }

    /// Compares a piece. Returns whether all that differs fitted into the buffer, or the end was reached.
    fn piece(
        &self,
        source: &mut dyn PageSource,
        state: &DatabaseState,
        pass: &mut ScanState,
        piece: &mut HashedPiece,
    ) -> Result<bool, Interrupted> {
        if self.ctx.stop.load(Ordering::Relaxed) {
            return Err(Interrupted::Failed(ReadError::Stopped));
        }
        if let Some(why) = piece.failed.take() {
            return Err(Interrupted::Failed(ReadError::Failed(why.to_string())));
        }
        let block = u64::from(state.block);
        pass.out.read += piece.bytes.len() as u64;
        if pass.number == 1 {
            self.ctx.monitor.advance(piece.bytes.len() as u64);
        }
        for (n, bytes) in piece.bytes.chunks_mut(state.block as usize).enumerate() {
            let number = piece.first + n as u64;
            let (value, tag) = match piece.values[n] {
                Some(hashed) => hashed,
                None => {
                    for (page, out) in pages(state, number).zip(bytes.chunks_mut(state.page as usize)) {
                        if state.elsewhere.contains(page) {
                            source.page(page, out)?;
                        }
                    }
                    self.value(bytes, number * block)
                }
            };
            if pass.out.steady {
                if state.size <= block {
                    pass.out.hash = Some(Hash::of(bytes));
                } else {
                    pass.tree.push(value);
                }
            }
            self.compare(pass, number, bytes, tag)?;
            pass.at = number + 1;
            if pass.buffer.bytes >= BUFFER {
                if pass.number < PASSES {
                    return Ok(pass.at * block >= state.size);
                }
                self.send(&mut pass.buffer)?;
            }
        }
        Ok(true)
    }

    fn compare(&self, pass: &mut ScanState, number: u64, bytes: &[u8], tag: Tag) -> Result<(), Interrupted> {
        let known = pass.known.take_block(number).map_err(unknown)?;
        if let Some(known) = known {
            let there = self.base.has_extent(&known.extent);
            if there && known.tag == tag && known.extent.length == bytes.len() as u64 {
                if !known.extent.pack.is_some_and(|pack| pass.stack.victims.contains(&pack)) {
                    return Ok(());
                }
                pass.out.moved += 1;
            } else {
                pass.out.changed += 1;
            }
            self.free(&mut pass.out, known.extent.pack);
        } else {
            pass.out.changed += 1;
        }
        pass.buffer.push(pass.stack.map.block, number, bytes, tag);
        Ok(())
    }

    fn send(&self, buffer: &mut Buffer) -> Result<(), Disconnected> {
        for part in std::mem::take(buffer).parts {
            self.to.send(vec![ReadEvent::Pages(part)]).map_err(|_| Disconnected)?;
        }
        Ok(())
    }
}

/// Returns the numbers of the pages in a block.
fn pages(state: &DatabaseState, block: u64) -> std::ops::Range<u32> {
    let per_block = u64::from(state.block / state.page);
    // SQLite's page numbers have 32 bits.
    let first = block * per_block + 1;
    first.min(u64::from(u32::MAX)) as u32..(first + per_block).min(u64::from(u32::MAX)) as u32
}

fn unknown(why: Error) -> Interrupted {
    match why.kind() {
        Kind::Damage => Interrupted::Unknown(why.to_string()),
        _ => Interrupted::Failed(ReadError::Failed(why.to_string())),
    }
}
