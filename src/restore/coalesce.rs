//! Cuts the pieces of a window into reads: runs of frames of one pack that are fetched together.

use std::sync::Arc;

use super::window::{FrameSlice, Window, WindowLimits, WindowPiece};
use crate::error::Error;
use crate::vault::hex::PackId;
use crate::vault::pack::{self, FrameAt, PackKind, SeekTable};
use crate::vault::read::PackReader;

/// A read ends when this many pieces lie in its frames.
const CUTS: usize = 32 << 10;

/// A frame and the pieces that lie in it.
pub struct SlicedFrame {
    /// Where it is.
    pub at: FrameAt,
    /// The parts of pieces that lie in it.
    pub cuts: Vec<FrameSlice>,
}

/// Frames that are fetched in one read.
pub struct Read {
    /// The pack that they are in.
    pub pack: PackId,
    /// Its place in the window's `packs`.
    pub number: u32,
    /// The frames, in order.
    pub frames: Vec<SlicedFrame>,
    /// Pieces that cannot be read at all, and why.
    pub lost: Option<(Vec<WindowPiece>, Error)>,
}

/// Cuts a window into reads, lazily: pieces over very many tiny frames take no memory ahead of time.
pub struct Coalescer<'w> {
    packs: &'w PackReader<'w>,
    limits: WindowLimits,
    window: &'w Window,
    /// The index of the next piece.
    next: usize,
    table: Option<Arc<SeekTable>>,
    /// The next frame of the pack, and the pieces that reach into it from before.
    frame: usize,
    open: Vec<WindowPiece>,
}

impl Read {
    /// The first and the last frame; everything between them is fetched too.
    pub fn span(&self) -> Vec<FrameAt> {
        self.frames.first().into_iter().chain(self.frames.last()).map(|frame| frame.at).collect()
    }
}

impl Coalescer<'_> {
    /// Begins with the window's first piece.
    pub fn new<'w>(packs: &'w PackReader<'w>, window: &'w Window, limits: WindowLimits) -> Coalescer<'w> {
        Coalescer { packs, limits, window, next: 0, table: None, frame: 0, open: Vec::new() }
    }

    /// Returns the next read. `None` when the window's pieces are all handed out.
    pub fn next_read(&mut self) -> Option<Read> {
        let number = match (self.open.first(), self.window.pieces.get(self.next)) {
            (Some(piece), _) => piece.pack,
            (None, Some(piece)) => {
                if self.next == 0 || self.window.pieces[self.next - 1].pack != piece.pack {
                    self.table = None;
                }
                piece.pack
            }
            (None, None) => return None,
        };
        let pack = self.window.packs[number as usize];
        let table = match &self.table {
            Some(table) => table.clone(),
            None => match self.packs.table(pack, PackKind::Data) {
                Ok(table) => {
                    self.frame = 0;
                    self.table.insert(table).clone()
                }
                Err(why) => {
                    let all = self.window.pieces[self.next..].iter().take_while(|p| p.pack == number);
                    let lost: Vec<_> = all.copied().collect();
                    self.next += lost.len();
                    return Some(Read { pack, number, frames: Vec::new(), lost: Some((lost, why)) });
                }
            },
        };
        Some(self.in_pack(pack, number, &table))
    }

    fn in_pack(&mut self, pack: PackId, number: u32, table: &SeekTable) -> Read {
        let mut read = Read { pack, number, frames: Vec::new(), lost: None };
        let (mut cuts, mut from) = (0, 0);
        loop {
            let next = self.window.pieces.get(self.next).filter(|p| p.pack == number);
            if self.open.is_empty() {
                let Some(piece) = next else { break };
                // No piece reaches over: go on at the frame where the next piece begins.
                match table.covering(piece.offset, piece.length) {
                    Some(range) => self.frame = range.start,
                    None => {
                        let name = pack::name(PackKind::Data, pack);
                        let why = Error::damage(format!("read {name}"), "an entry refers to bytes beyond its end");
                        if read.frames.is_empty() {
                            read.lost = Some((vec![*piece], why));
                            self.next += 1;
                        }
                        break;
                    }
                }
            }
            // A piece in range always has its frames; without one there is nothing left to cut.
            let Some(&at) = table.frames().get(self.frame) else { break };
            let end = at.offset + u64::from(at.length);
            if let Some(last) = read.frames.last().map(|f: &SlicedFrame| f.at.end()) {
                let far = at.at - last > self.limits.gap;
                if far || at.end() - from > self.limits.read || cuts >= CUTS {
                    break;
                }
            } else {
                from = at.at;
            }
            while let Some(piece) = self.window.pieces.get(self.next).filter(|p| p.pack == number && p.offset < end) {
                if table.covering(piece.offset, piece.length).is_none() {
                    break;
                }
                self.open.push(*piece);
                self.next += 1;
            }
            let frame = SlicedFrame { at, cuts: self.open.iter().map(|piece| Self::cut(piece, &at)).collect() };
            self.open.retain(|piece| piece.offset + piece.length > end);
            cuts += frame.cuts.len();
            read.frames.push(frame);
            self.frame += 1;
        }
        read
    }

    /// The part of a piece that lies in a frame.
    fn cut(piece: &WindowPiece, frame: &FrameAt) -> FrameSlice {
        let start = piece.offset.max(frame.offset);
        let end = (piece.offset + piece.length).min(frame.offset + u64::from(frame.length));
        let at = piece.at + (start - piece.offset);
        FrameSlice { item: piece.item, from: (start - frame.offset) as u32, length: (end - start) as u32, at }
    }
}
