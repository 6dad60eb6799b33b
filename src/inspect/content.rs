//! A file's content in order, a piece at a time.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::vault::entry::{Entry, Extent};
use crate::vault::hex::PackId;
use crate::vault::pack::{self, PackKind};
use crate::vault::read::{Decoder, PackReader};
use crate::vault::tree;

/// Decoded frames that are kept, because the extents of a fragmented file go back and forth between a few.
const FRAMES: usize = 4;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Calls `take` with every piece of a file's content, in order.
///
/// # Errors
/// A store that fails; damage; those of `take`.
pub fn each_piece(packs: &PackReader, entry: &Entry, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut frames = Frames { packs, decoder: Decoder::new()?, held: VecDeque::new() };
    match entry.map {
        Some(_) => tree::each_run(packs, entry, |extent| frames.extent(extent, &mut take)),
        None => entry.content_extents().into_iter().try_for_each(|extent| frames.extent(extent, &mut take)),
    }
}

/// The frames that were decoded last.
struct Frames<'p> {
    packs: &'p PackReader<'p>,
    decoder: Decoder,
    /// Pack, where the frame's content begins, and that content; the latest first.
    held: VecDeque<(PackId, u64, Vec<u8>)>,
}

impl Frames<'_> {
    fn extent(&mut self, extent: Extent, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(pack) = extent.pack else { return zeros(extent.length, take) };
        let name = pack::name(PackKind::Data, pack);
        let damage = |why: String| Error::damage(format!("read {name}"), why);
        let table = self.packs.table(pack, PackKind::Data)?;
        let range = table.covering(extent.offset, extent.length);
        let range = range.ok_or_else(|| damage("an entry refers to what lies beyond its end".into()))?;
        for frame in &table.frames()[range] {
            match self.held.iter().position(|(p, offset, _)| (*p, *offset) == (pack, frame.offset)) {
                Some(at) => {
                    if let Some(found) = self.held.remove(at) {
                        self.held.push_front(found);
                    }
                }
                None => {
                    let compressed = self.packs.compressed(pack, PackKind::Data, std::slice::from_ref(frame))?;
                    let oldest = if self.held.len() < FRAMES { None } else { self.held.pop_back() };
                    let mut content = oldest.map(|(_, _, content)| content).unwrap_or_default();
                    self.decoder.frame(&compressed, frame.length, &mut content).map_err(damage)?;
                    self.held.push_front((pack, frame.offset, content));
                }
            }
            let Some((_, _, content)) = self.held.front() else { continue };
            let from = extent.offset.saturating_sub(frame.offset) as usize;
            let to = (extent.end() - frame.offset).min(u64::from(frame.length)) as usize;
            take(&content[from..to])?;
        }
        Ok(())
    }
}

fn zeros(mut length: u64, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while length > 0 {
        let piece = length.min(ZEROS.len() as u64);
        take(&ZEROS[..piece as usize])?;
        length -= piece;
    }
    Ok(())
}
