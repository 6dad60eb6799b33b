//! Reads a file's content in order, a stretch at a time.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::monitor::Context;
use crate::parallel::ordered::map_ordered;
use crate::restore::window::WindowLimits;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, Extent};
use crate::vault::hex::PackId;
use crate::vault::pack::{self, FrameAt, PackKind, SeekTable};
use crate::vault::read::PackReader;
use crate::vault::tree;

/// Bytes of content that are put together at a time. A database's pages jump back and forth between the frames of many
/// backups; each frame is decoded once for a stretch.
const STRETCH: u64 = 32 << 20;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Most extents that are looked up together.
const TOGETHER: usize = 4096;

/// Calls `take` with every piece of a file's content, in order.
///
/// # Errors
/// A store that fails; damage; those of `take`.
pub fn each_piece(
    packs: &PackReader,
    entry: &Entry,
    ctx: &Context,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut stretch = ContentStretch {
        packs,
        ctx,
        decoder: Decoder::new()?,
        waiting: Vec::new(),
        waiting_length: 0,
        parts: Vec::new(),
        length: 0,
        content: Vec::new(),
    };
    match entry.map {
        Some(_) => tree::each_run(packs, entry, |extent| stretch.extent(extent, &mut take))?,
        None => entry.content_extents().into_iter().try_for_each(|extent| stretch.extent(extent, &mut take))?,
    }
    stretch.look_up(&mut take)?;
    stretch.finish(&mut take)
}

/// A part of a frame, and where it belongs in the stretch.
struct FrameRange {
    pack: PackId,
    frame: FrameAt,
    from: u64,
    to: u64,
    at: u64,
}

/// The stretch of content that is being put together.
struct ContentStretch<'p> {
    packs: &'p PackReader<'p>,
    ctx: &'p Context<'p>,
    decoder: Decoder,
    /// The extents that come next, and have not been looked up in the packs' seek tables yet.
    waiting: Vec<Extent>,
    waiting_length: u64,
    parts: Vec<FrameRange>,
    length: u64,
    content: Vec<u8>,
}

fn beyond(pack: PackId) -> Error {
    let name = pack::name(PackKind::Data, pack);
    Error::damage(format!("read {name}"), "an entry refers to bytes beyond its end")
}

impl ContentStretch<'_> {
    fn extent(&mut self, extent: Extent, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.waiting.push(extent);
        self.waiting_length = self.waiting_length.saturating_add(extent.length);
        if self.waiting_length >= STRETCH || self.waiting.len() >= TOGETHER { self.look_up(take) } else { Ok(()) }
    }

    /// Finds the frames of all waiting extents.
    fn look_up(&mut self, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.waiting_length = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let mut packs: Vec<PackId> = waiting.iter().filter_map(|extent| extent.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        let mut tables = HashMap::with_capacity(packs.len());
        let table = |pack: &PackId| self.packs.table(*pack, PackKind::Data);
        map_ordered(&packs, self.ctx.parallel, table, |pack, table| {
            tables.insert(*pack, table?);
            Ok(())
        })?;
        waiting.into_iter().try_for_each(|extent| match extent.pack.and_then(|pack| Some((pack, tables.get(&pack)?))) {
            Some((pack, table)) => self.data(pack, table, &extent, take),
            None => self.hole(extent.length, take),
        })
    }

    fn hole(&mut self, length: u64, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let long = length > ZEROS.len() as u64;
        if long || self.length >= STRETCH {
            self.finish(take)?;
        }
        if long {
            return zeros(length, take);
        }
        self.length += length;
        Ok(())
    }

    fn data(
        &mut self,
        pack: PackId,
        table: &SeekTable,
        extent: &Extent,
        take: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let range = table.covering(extent.offset, extent.length);
        for frame in &table.frames()[range.ok_or_else(|| beyond(pack))?] {
            // A stretch ends with a frame, so that what comes after it does not begin that frame again.
            if self.length >= STRETCH {
                self.finish(take)?;
            }
            let from = extent.offset.saturating_sub(frame.offset);
            let to = (extent.end() - frame.offset).min(u64::from(frame.length));
            self.parts.push(FrameRange { pack, frame: *frame, from, to, at: self.length });
            self.length += to - from;
        }
        Ok(())
    }

    /// Reads the stretch, with several reads at a time, and hands it out.
    fn finish(&mut self, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.parts.sort_by_key(|part| (part.pack, part.frame.offset));
        self.content.clear();
        self.content.resize(self.length as usize, 0);
        let (limits, packs) = (WindowLimits::suiting(self.packs.store(), self.ctx), self.packs);
        let reads = reads(&self.parts, &limits);
        let fetch = |parts: &&[FrameRange]| match **parts {
            [ref first, .., ref last] => packs.compressed(first.pack, PackKind::Data, &[first.frame, last.frame]),
            [ref only] => packs.compressed(only.pack, PackKind::Data, &[only.frame]),
            [] => Ok(Vec::new()),
        };
        let mut decoded = Vec::new();
        map_ordered(&reads, self.ctx.parallel, fetch, |parts, fetched| {
            let compressed = fetched?;
            for of_frame in parts.chunk_by(|a, b| a.frame.at == b.frame.at) {
                let FrameRange { pack, frame, .. } = &of_frame[0];
                let stored = frame.within(&compressed, parts[0].frame.at);
                packs.decode((*pack, PackKind::Data), frame, stored, &mut self.decoder, &mut decoded)?;
                for part in of_frame {
                    let (at, end) = (part.at as usize, (part.at + part.to - part.from) as usize);
                    self.content[at..end].copy_from_slice(&decoded[part.from as usize..part.to as usize]);
                }
            }
            Ok(())
        })?;
        self.parts.clear();
        self.length = 0;
        if self.content.is_empty() { Ok(()) } else { take(&self.content) }
    }
}

/// Groups parts, which are in order, into those that are read together.
fn reads<'p>(mut parts: &'p [FrameRange], limits: &WindowLimits) -> Vec<&'p [FrameRange]> {
    let mut reads = Vec::new();
    while let Some(first) = parts.first() {
        let (mut end, until) = (first.frame.end(), first.frame.at + limits.read.max(first.frame.compressed.into()));
        let more = parts.iter().take_while(|part| {
            let near = part.pack == first.pack && part.frame.at <= end.saturating_add(limits.gap);
            end = part.frame.end();
            near && end <= until
        });
        let (now, later) = parts.split_at(more.count().max(1));
        reads.push(now);
        parts = later;
    }
    reads
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
    use crate::restore::sample::{SampleVault, context};
    use crate::restore::tests::noise;
    use crate::vault::hex::Hash;
    use crate::vault::root::SnapshotState;

    /// More than a stretch of content, by turns from the frames of two packs, with a long hole and short ones.
    #[test]
    fn content_comes_in_order_from_frames_in_any_order() {
        let mut sample = SampleVault::new();
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
        let name = sample.commit(SnapshotState::Complete);
        let packs = PackReader::for_root(sample.store, &sample.vault.root(name).unwrap()).unwrap();
        for entry in &sample.entries[1..] {
            let (mut hasher, mut longest) = (blake3::Hasher::new(), 0);
            let take = |piece: &[u8]| {
                hasher.update(piece);
                longest = longest.max(piece.len());
                context().check("read")
            };
            each_piece(&packs, entry, &context(), take).unwrap();
            assert_eq!(Some(Hash::from(&hasher.finalize())), entry.hash);
            assert!(longest as u64 <= STRETCH + (5 << 20), "{longest}");
        }
    }
}
