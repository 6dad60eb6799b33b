//! A file's content in order, a stretch at a time.

use crate::error::{Error, Result};
use crate::vault::entry::{Entry, Extent};
use crate::vault::hex::PackId;
use crate::vault::pack::{self, FrameAt, PackKind};
use crate::vault::read::{Decoder, PackReader};
use crate::vault::tree;

/// Content that is put together at a time, in bytes. A database's pages go back and forth between the frames of many
/// backups; each frame is decoded once for a stretch.
const STRETCH: u64 = 32 << 20;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Calls `take` with every piece of a file's content, in order.
///
/// # Errors
/// A store that fails; damage; those of `take`.
pub fn each_piece(packs: &PackReader, entry: &Entry, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut stretch = Stretch { packs, decoder: Decoder::new()?, parts: Vec::new(), length: 0, content: Vec::new() };
    match entry.map {
        Some(_) => tree::each_run(packs, entry, |extent| stretch.extent(extent, &mut take))?,
        None => entry.content_extents().into_iter().try_for_each(|extent| stretch.extent(extent, &mut take))?,
    }
    stretch.finish(&mut take)
}

/// A part of a frame, and where in the stretch it belongs.
struct Part {
    pack: PackId,
    frame: FrameAt,
    from: u64,
    to: u64,
    at: u64,
}

/// The content that is being put together.
struct Stretch<'p> {
    packs: &'p PackReader<'p>,
    decoder: Decoder,
    parts: Vec<Part>,
    length: u64,
    content: Vec<u8>,
}

fn damaged(pack: PackId, why: String) -> Error {
    Error::damage(format!("read {}", pack::name(PackKind::Data, pack)), why)
}

impl Stretch<'_> {
    fn extent(&mut self, extent: Extent, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(pack) = extent.pack else {
            let long = extent.length > ZEROS.len() as u64;
            if long || self.length >= STRETCH {
                self.finish(take)?;
            }
            if long {
                return zeros(extent.length, take);
            }
            self.length += extent.length;
            return Ok(());
        };
        let table = self.packs.table(pack, PackKind::Data)?;
        let range = table.covering(extent.offset, extent.length);
        let beyond = || damaged(pack, "an entry refers to what lies beyond its end".into());
        for frame in &table.frames()[range.ok_or_else(beyond)?] {
            // It ends with a frame, which is not begun again then by what goes on behind it.
            if self.length >= STRETCH {
                self.finish(take)?;
            }
            let from = extent.offset.saturating_sub(frame.offset);
            let to = (extent.end() - frame.offset).min(u64::from(frame.length));
            self.parts.push(Part { pack, frame: *frame, from, to, at: self.length });
            self.length += to - from;
        }
        Ok(())
    }

    /// Reads the stretch and hands it out.
    fn finish(&mut self, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.parts.sort_by_key(|part| (part.pack, part.frame.offset));
        self.content.clear();
        self.content.resize(self.length as usize, 0);
        let mut decoded = Vec::new();
        let of_a_frame = |a: &Part, b: &Part| (a.pack, a.frame.offset) == (b.pack, b.frame.offset);
        for parts in self.parts.chunk_by(of_a_frame) {
            let Some(Part { pack, frame, .. }) = parts.first() else { continue };
            let compressed = self.packs.compressed(*pack, PackKind::Data, std::slice::from_ref(frame))?;
            self.decoder.frame(&compressed, frame.length, &mut decoded).map_err(|why| damaged(*pack, why))?;
            for part in parts {
                let (at, end) = (part.at as usize, (part.at + part.to - part.from) as usize);
                self.content[at..end].copy_from_slice(&decoded[part.from as usize..part.to as usize]);
            }
        }
        self.parts.clear();
        self.length = 0;
        if self.content.is_empty() { Ok(()) } else { take(&self.content) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::sample::{Sample, context};
    use crate::restore::tests::noise;
    use crate::vault::hex::Hash;
    use crate::vault::root::State;

    /// More than a stretch, by turns from the frames of two packs, with a long hole and short ones.
    #[test]
    fn content_comes_in_order_from_frames_in_any_order() {
        let mut sample = Sample::new();
        sample.frame = 1 << 20;
        let size = 18 << 20;
        let packs = [noise(size, 1), noise(size, 2)];
        let stored = [sample.put(&packs[0]), sample.put(&packs[1])];
        let (mut content, mut extents) = (Vec::new(), Vec::new());
        for n in 0..(2 * size) >> 18 {
            let (pack, from) = (n % 2, size - ((n / 2 + 1) << 18));
            extents.push(Extent { offset: from as u64, length: 1 << 18, ..stored[pack] });
            content.extend_from_slice(&packs[pack][from..from + (1 << 18)]);
            let hole = [0, 10, 1 << 20][n % 3];
            if hole > 0 {
                extents.push(Extent::zeros(hole));
                content.resize(content.len() + hole as usize, 0);
            }
        }
        sample.mapped("a", &content, &extents);
        sample.database("b");
        let name = sample.commit(State::Complete);
        let packs = PackReader::for_root(sample.store, &sample.vault.root(name).unwrap()).unwrap();
        for entry in &sample.entries[1..] {
            let (mut hasher, mut longest) = (blake3::Hasher::new(), 0);
            let take = |piece: &[u8]| {
                hasher.update(piece);
                longest = longest.max(piece.len());
                context().check("read")
            };
            each_piece(&packs, entry, take).unwrap();
            assert_eq!(Some(Hash::from(&hasher.finalize())), entry.hash);
            assert!(longest as u64 <= STRETCH + (5 << 20), "{longest}");
        }
    }
}
