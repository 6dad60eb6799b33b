//! Compacts layers: neighbouring layers of a page map are written as one.
//!
//! Every layer is read whenever the file's blocks are, and most of an old layer is hidden. So a writer joins the newest
//! layers when together they outweigh the one below; each block is written again a few times at most.

use crate::error::Result;
use crate::vault::entry::{MapFrame, PageMap};
use crate::vault::frame::FrameRef;
use crate::vault::map::MapPart;
use crate::vault::pages::{LayerBuilder, Layered};
use crate::vault::read::PackReader;

/// Returns the number of the oldest layer that is to be joined with all newer ones; `None` if the layers stay as they
/// are. `blocks` says how many blocks each layer has, the oldest first.
///
/// All layers become one when the newer ones together have half the blocks of the oldest, which has at least the whole
/// file. Another layer and all after it become one when those after it have three times its blocks. So the number of
/// layers grows with the logarithm of the file's size, and so does how often a block is written.
pub fn suffix_to_compact(blocks: &[u64]) -> Option<usize> {
    let mut after: u128 = blocks.iter().copied().map(u128::from).sum();
    blocks.iter().enumerate().take(blocks.len().saturating_sub(1)).find_map(|(number, &own)| {
        let own = u128::from(own);
        after -= own;
        let enough = if number == 0 { 2 * after >= own } else { after >= 3 * own };
        enough.then_some(number)
    })
}

/// Returns how many blocks each layer of a map has, for [`suffix_to_compact`].
///
/// # Errors
/// The store fails; damage.
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

/// Writes layer number `oldest` and all newer ones as one, for a file of `size` bytes. Returns the frames of the new
/// layer, which `store` stored. Blocks that are hidden, and those beyond the file's end, are left out.
///
/// # Errors
/// The errors of `store`; the vault's store fails; damage.
pub fn compact_layers(
    packs: &PackReader,
    map: &PageMap,
    oldest: usize,
    size: u64,
    mut store: impl FnMut(&MapPart) -> Result<FrameRef>,
) -> Result<Vec<MapFrame>> {
    let mut blocks = Layered::newest(packs, map, oldest, size)?;
    let (mut builder, mut frames) = (LayerBuilder::new(map.block), Vec::new());
    let mut take = |part: MapPart| -> Result<()> {
        frames.push(MapFrame { frame: store(&part)?, content: part.content });
        Ok(())
    };
    while let Some(placed) = blocks.next()? {
        builder.push(&placed).map_or(Ok(()), &mut take)?;
    }
    builder.finish().map_or(Ok(()), take)?;
    Ok(frames)
}
