//! Few layers instead of many: neighbouring layers of a page map written as one.
//!
//! Every layer is read whenever the file's blocks are, and most of it is hidden when it is old. So a writer joins the newest
//! layers when together they outweigh the one below; each block is written again a few times at most.

use super::entry::{FrameRef, MapFrame, PageMap};
use super::layered::{Layered, length, wrong_length};
use super::map::MapPart;
use super::pages::{LayerBuilder, Placed};
use super::read::PackReader;
use crate::error::Result;

/// The first of the layers that are to be one, up to the newest; none if they stay as they are. `blocks` says how many
/// blocks each layer has, the oldest first.
///
/// All layers become one when the newer ones have half the blocks of the oldest, which is the whole file at least once; the
/// layers from another one on when those after it have three times its blocks. So the number of layers grows with the
/// logarithm of the file's size, and so does how often a block is written.
pub fn suffix_to_fold(blocks: &[u64]) -> Option<usize> {
    let mut after: u128 = blocks.iter().copied().map(u128::from).sum();
    blocks.iter().enumerate().take(blocks.len().saturating_sub(1)).find_map(|(number, &own)| {
        let own = u128::from(own);
        after -= own;
        let enough = if number == 0 { 2 * after >= own } else { after >= 3 * own };
        enough.then_some(number)
    })
}

/// How many blocks each layer of a map has, for [`suffix_to_fold`].
///
/// # Errors
/// A store that fails; damage.
pub fn blocks_of_layers(packs: &PackReader, map: &PageMap) -> Result<Vec<u64>> {
    let block = u64::from(map.block.max(1));
    map.layers
        .iter()
        .map(|layer| {
            let mut blocks = 0u64;
            packs.each(layer, |frame: MapFrame| {
                blocks = blocks.saturating_add(frame.content.div_ceil(block));
                Ok(())
            })?;
            Ok(blocks)
        })
        .collect()
}

/// A layer that takes the place of the newest ones of a map, and of a newer one that comes in block by block.
pub struct Fold<'a> {
    older: Layered<'a>,
    /// The next block of the older layers, once it was read.
    next: Option<Placed>,
    builder: LayerBuilder,
    frames: Vec<MapFrame>,
    block: u32,
    size: u64,
}

impl<'a> Fold<'a> {
    /// Takes the place of the layer of number `oldest` and all newer ones, for a file that has `size` bytes now.
    ///
    /// # Errors
    /// No memory for a decoder.
    pub fn new(packs: &'a PackReader<'a>, map: &PageMap, oldest: usize, size: u64) -> Result<Self> {
        Ok(Fold {
            older: Layered::hidden(packs, map, oldest, size)?,
            next: None,
            builder: LayerBuilder::new(map.block),
            frames: Vec::new(),
            block: map.block.max(1),
            size,
        })
    }

    /// Adds the next block of the newer layer, after the older ones' blocks before it; it hides theirs. `store` stores
    /// frames.
    ///
    /// # Errors
    /// Those of `store`; a store that fails; damage.
    pub fn push(&mut self, newer: &Placed, store: &mut impl FnMut(&MapPart) -> Result<FrameRef>) -> Result<()> {
        self.older_before(newer.block, store)?;
        self.next = self.next.filter(|older| older.block != newer.block);
        self.add(newer, store)
    }

    /// Adds the older blocks that are left; gives the layer's frames.
    ///
    /// # Errors
    /// As [`Fold::push`].
    pub fn finish(mut self, store: &mut impl FnMut(&MapPart) -> Result<FrameRef>) -> Result<Vec<MapFrame>> {
        self.older_before(u64::MAX, store)?;
        if let Some(part) = self.builder.finish() {
            self.frames.push(MapFrame { frame: store(&part)?, content: part.content });
        }
        Ok(self.frames)
    }

    fn older_before(&mut self, end: u64, store: &mut impl FnMut(&MapPart) -> Result<FrameRef>) -> Result<()> {
        loop {
            self.next = match self.next {
                None => self.older.next()?,
                known => known,
            };
            let Some(older) = self.next.filter(|older| older.block < end) else { return Ok(()) };
            if older.extent.length != length(older.block, older.block + 1, self.block, self.size) {
                return Err(wrong_length(older.block));
            }
            self.add(&older, store)?;
            self.next = None;
        }
    }

    fn add(&mut self, placed: &Placed, store: &mut impl FnMut(&MapPart) -> Result<FrameRef>) -> Result<()> {
        if let Some(part) = self.builder.push(placed) {
            self.frames.push(MapFrame { frame: store(&part)?, content: part.content });
        }
        Ok(())
    }
}

/// Writes the layer of number `oldest` and all newer ones as one; gives its frames, which `store` stored.
///
/// # Errors
/// As [`Fold::push`].
pub fn fold(
    packs: &PackReader,
    map: &PageMap,
    oldest: usize,
    size: u64,
    mut store: impl FnMut(&MapPart) -> Result<FrameRef>,
) -> Result<Vec<MapFrame>> {
    Fold::new(packs, map, oldest, size)?.finish(&mut store)
}
