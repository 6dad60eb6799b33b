//! The layers of a page map, joined: for every block what the newest layer says that has it.

use std::collections::VecDeque;
use std::vec::IntoIter;

use super::entry::{Extent, FrameRef, MapFrame, PageMap};
use super::hex::Hex;
use super::list::{self, List};
use super::pack::{self, PackKind};
use super::pages::{self, Piece, Pieces, Placed};
use super::read::{Decoder, PackReader};
use crate::error::{Error, Result};

/// Goes through the blocks of a file in order. Of each layer one frame is held.
pub struct Layered<'a> {
    packs: &'a PackReader<'a>,
    decoder: Decoder,
    block: u32,
    size: u64,
    with_tags: bool,
    /// Newest first.
    layers: Vec<Layer>,
    /// Blocks up to here were given or are in no layer.
    at: u64,
    /// What [`Layered::next`] gives block by block.
    run: Run,
}

/// Consecutive blocks that lie consecutively in the first piece of a layer.
#[derive(Debug, Clone, Copy)]
struct Run {
    layer: usize,
    from: u64,
    to: u64,
}

#[derive(Debug)]
struct Layer {
    /// List frames that were not read yet.
    lists: IntoIter<FrameRef>,
    /// Frames that were not read yet, of those lists that were.
    frames: VecDeque<MapFrame>,
    pieces: Pieces,
    /// The piece that is looked at.
    next: usize,
}

impl<'a> Layered<'a> {
    /// The blocks of a file of `size` bytes, with their tags.
    ///
    /// # Errors
    /// No memory for a decoder.
    pub fn new(packs: &'a PackReader<'a>, map: &PageMap, size: u64) -> Result<Self> {
        Self::of(packs, map, 0, size, true)
    }

    /// The blocks without their tags, for [`Layered::next_run`].
    ///
    /// # Errors
    /// No memory for a decoder.
    pub fn without_tags(packs: &'a PackReader<'a>, map: &PageMap, size: u64) -> Result<Self> {
        Self::of(packs, map, 0, size, false)
    }

    /// The blocks that the layer of number `oldest` and all newer ones have.
    ///
    /// # Errors
    /// No memory for a decoder.
    pub fn newest(packs: &'a PackReader<'a>, map: &PageMap, oldest: usize, size: u64) -> Result<Self> {
        Self::of(packs, map, oldest, size, true)
    }

    fn of(packs: &'a PackReader<'a>, map: &PageMap, oldest: usize, size: u64, with_tags: bool) -> Result<Self> {
        let layers = map.layers.iter().skip(oldest).rev().map(Layer::of).collect();
        let run = Run { layer: 0, from: 0, to: 0 };
        Ok(Layered { packs, decoder: Decoder::new()?, block: map.block.max(1), size, with_tags, layers, at: 0, run })
    }

    /// The next block that some layer has and the file has too.
    ///
    /// # Errors
    /// A store that fails; damage.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and `?` belongs to the caller")]
    pub fn next(&mut self) -> Result<Option<Placed>> {
        if self.run.from >= self.run.to {
            match self.step()? {
                Some(run) => self.run = run,
                None => return Ok(None),
            }
        }
        let Run { layer, from: block, .. } = self.run;
        self.run.from += 1;
        let Layer { pieces, next, .. } = &self.layers[layer];
        let piece = &pieces.list[*next];
        let tag = pieces.tags.get(piece.tags + (block - piece.block) as usize).copied().unwrap_or(Hex([0; 8]));
        Ok(Some(Placed { block, extent: piece.part(block, block + 1, self.block), tag }))
    }

    /// The next blocks that lie together, as the number of the first and where they are. Not to be mixed with
    /// [`Layered::next`].
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn next_run(&mut self) -> Result<Option<(u64, Extent)>> {
        let Some(run) = self.step()? else { return Ok(None) };
        let Layer { pieces, next, .. } = &self.layers[run.layer];
        Ok(Some((run.from, pieces.list[*next].part(run.from, run.to, self.block))))
    }

    fn step(&mut self) -> Result<Option<Run>> {
        let blocks = self.size.div_ceil(u64::from(self.block));
        let mut found: Option<Run> = None;
        for (number, layer) in self.layers.iter_mut().enumerate() {
            let front = layer.front(self.at, self.packs, &mut self.decoder, (self.block, self.with_tags))?;
            let Some(piece) = front else { continue };
            let from = piece.block.max(self.at);
            match &mut found {
                // A newer layer has these blocks, at least until this one begins.
                Some(newer) if newer.from <= from => {}
                Some(newer) => *newer = Run { layer: number, from, to: newer.from.min(piece.end()) },
                None => found = Some(Run { layer: number, from, to: piece.end() }),
            }
        }
        let Some(mut run) = found.filter(|run| run.from < blocks) else { return Ok(None) };
        run.to = run.to.min(blocks);
        self.at = run.to;
        let layer = &self.layers[run.layer];
        let extent = layer.pieces.list[layer.next].part(run.from, run.to, self.block);
        let block = u64::from(self.block);
        if extent.length != (run.to * block).min(self.size) - run.from * block {
            let why = format!("the blocks from {} to {} are not as long as they have to be", run.from, run.to - 1);
            return Err(Error::damage("read the map of a database", why));
        }
        Ok(Some(run))
    }
}

impl Layer {
    fn of(list: &List<MapFrame>) -> Self {
        let (items, lists) = match list {
            List::Items(items) => (items.iter().copied().collect(), Vec::new()),
            List::Frames(lists) => (VecDeque::new(), lists.clone()),
        };
        Layer { lists: lists.into_iter(), frames: items, pieces: Pieces::default(), next: 0 }
    }

    /// The first piece that ends after block `at`; reads frames until there is one.
    fn front(
        &mut self,
        at: u64,
        packs: &PackReader,
        decoder: &mut Decoder,
        (block, with_tags): (u32, bool),
    ) -> Result<Option<&Piece>> {
        loop {
            while self.pieces.list.get(self.next).is_some_and(|piece| piece.end() <= at) {
                self.next += 1;
            }
            if self.next < self.pieces.list.len() {
                return Ok(self.pieces.list.get(self.next));
            }
            let Some(frame) = self.next_frame(packs, decoder)? else { return Ok(None) };
            let damage = |why| Error::damage(format!("read {}", pack::name(PackKind::Index, frame.frame.pack)), why);
            let bytes = packs.index_frame(&frame.frame, decoder)?;
            let pieces = pages::parse_pieces(&bytes, block, with_tags).map_err(damage)?;
            let content = pieces.list.iter().map(|piece| piece.extent.length).sum::<u64>();
            if content != frame.content {
                return Err(damage(format!("a frame holds {content} bytes of a file, not {}", frame.content)));
            }
            let end = self.pieces.list.last().map_or(0, Piece::end);
            if pieces.list.first().is_some_and(|first| first.block < end) {
                return Err(damage("the frames of a layer are out of order".into()));
            }
            (self.pieces, self.next) = (pieces, 0);
        }
    }

    fn next_frame(&mut self, packs: &PackReader, decoder: &mut Decoder) -> Result<Option<MapFrame>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(Some(frame));
            }
            let Some(list) = self.lists.next() else { return Ok(None) };
            let bytes = packs.index_frame(&list, decoder)?;
            let damage = |why| Error::damage(format!("read {}", pack::name(PackKind::Index, list.pack)), why);
            self.frames = list::parse(&bytes).map_err(damage)?.into();
        }
    }
}
