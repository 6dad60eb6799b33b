//! Maps of large files, block by block: where each block is and what it hashes to.
//!
//! A map is a list of index frames, each of which covers a run of the content. Frames hold no positions in the file,
//! and end where the hash of a block says so: a file that grew, or got a byte at its start, shares all but a few frames
//! with what it was.

use serde::{Deserialize, Serialize};

use super::entry::{Extent, MAX_SIZE};
use super::hex::{Hash, PackId};
use super::lines::{FrameBuilder, Lines, PackNumbers};

/// A frame ends after a block whose hash is zero under this mask: every 512th, on average.
const CUT_MASK: u16 = 0x1ff;
/// A frame also ends after this many blocks, or runs of one extent.
const MAX_BLOCKS: usize = 4096;

/// Consecutive blocks whose bytes lie consecutively in one pack; or a hole, which has no blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRun {
    /// Where the bytes are.
    pub extent: Extent,
    /// The length in bytes and the hash of each block; the lengths add up to the extent's.
    pub blocks: Vec<(u32, Hash)>,
}

#[derive(Serialize, Deserialize)]
struct WireRun {
    extent: (Option<u32>, u64, u64),
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sizes: Vec<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hashes: String,
}

/// Collects blocks until a frame is full.
#[derive(Debug, Default)]
pub struct MapBuilder {
    runs: Vec<BlockRun>,
    blocks: usize,
}

/// A finished frame of a map.
#[derive(Debug)]
pub struct MapPart {
    /// The frame's content.
    pub bytes: Vec<u8>,
    /// Bytes of the file that it covers.
    pub content: u64,
    /// The packs that hold these bytes.
    pub packs: Vec<PackId>,
}

impl MapBuilder {
    /// Adds the next block. Returns the frame if it ends with this block.
    pub fn push(&mut self, extent: Extent, hash: Hash) -> Option<MapPart> {
        self.blocks += 1;
        let block = (extent.length as u32, hash);
        match self.runs.last_mut() {
            Some(run)
                if !run.blocks.is_empty() && run.extent.pack == extent.pack && run.extent.end() == extent.offset =>
            {
                run.extent.length += extent.length;
                run.blocks.push(block);
            }
            _ => self.runs.push(BlockRun { extent, blocks: vec![block] }),
        }
        let ends = u16::from_le_bytes([hash.0[0], hash.0[1]]) & CUT_MASK == 0;
        self.end_if(ends)
    }

    /// Adds a hole of `length` bytes. Returns the frame if it ends with this hole.
    pub fn push_hole(&mut self, length: u64) -> Option<MapPart> {
        self.blocks += 1;
        self.runs.push(BlockRun { extent: Extent::zeros(length), blocks: Vec::new() });
        self.end_if(false)
    }

    fn end_if(&mut self, ends: bool) -> Option<MapPart> {
        if ends || self.blocks >= MAX_BLOCKS { self.finish() } else { None }
    }

    /// Returns the frame of what was added since the last one; `None` if nothing was.
    pub fn finish(&mut self) -> Option<MapPart> {
        self.blocks = 0;
        let runs = std::mem::take(&mut self.runs);
        if runs.is_empty() {
            return None;
        }
        let mut frame = FrameBuilder::new("map");
        let mut packs = PackNumbers::default();
        let mut content = 0;
        for run in runs {
            content += run.extent.length;
            let wire = WireRun {
                extent: (run.extent.pack.map(|p| packs.of(p)), run.extent.offset, run.extent.length),
                sizes: run.blocks.iter().map(|(length, _)| *length).collect(),
                hashes: run.blocks.iter().map(|(_, hash)| hash.to_string()).collect(),
            };
            // Numbers, and strings of hex digits, are always JSON.
            frame.line(&serde_json::to_vec(&wire).unwrap_or_default());
        }
        Some(MapPart { bytes: frame.finish(packs.packs()), content, packs: packs.packs().to_vec() })
    }
}

/// Returns the runs of a map's frame.
///
/// # Errors
/// A text that says what is wrong with the bytes.
pub fn parse(bytes: &[u8]) -> Result<Vec<BlockRun>, String> {
    let (lines, packs) = Lines::parse("map", bytes)?;
    lines.map(|line| parse_run(line, &packs)).collect()
}

fn parse_run(line: &[u8], packs: &[PackId]) -> Result<BlockRun, String> {
    let wire: WireRun = serde_json::from_slice(line).map_err(|e| format!("a run of a map: {e}"))?;
    let (number, offset, length) = wire.extent;
    let pack = match number {
        Some(n) => Some(*packs.get(n as usize).ok_or_else(|| format!("a map: pack number {n} of {}", packs.len()))?),
        None => None,
    };
    if length == 0 || length > MAX_SIZE || offset.checked_add(length).is_none_or(|end| pack.is_some() && end > 1 << 48)
    {
        return Err("a map: an extent out of range".into());
    }
    if wire.sizes.contains(&0) || wire.sizes.is_empty() != pack.is_none() {
        return Err("a map: a block of nothing, or content without blocks".into());
    }
    if pack.is_some() && wire.sizes.iter().map(|&s| u64::from(s)).sum::<u64>() != length {
        return Err("a map: blocks that do not add up to their extent".into());
    }
    if !wire.hashes.is_ascii() || wire.hashes.len() != 32 * wire.sizes.len() {
        return Err("a map: not one hash for every block".into());
    }
    let hashes = wire.hashes.as_bytes().chunks_exact(32).map(|hex| String::from_utf8_lossy(hex).parse::<Hash>());
    let blocks = wire.sizes.iter().zip(hashes).map(|(size, hash)| Ok((*size, hash?)));
    Ok(BlockRun { extent: Extent { pack, offset, length }, blocks: blocks.collect::<Result<_, String>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hex::Hex;

    #[test]
    fn blocks_come_back_and_the_end_of_a_frame_depends_on_content() {
        let block = |n: u32| (Hash::of(&n.to_le_bytes()), 1000 + n % 7);
        let frames = |from: u32, to: u32| {
            let mut builder = MapBuilder::default();
            let mut at = 0;
            let mut parts = Vec::new();
            for n in from..to {
                let (hash, length) = block(n);
                let extent =
                    Extent { pack: Some(Hex([1; 16])), offset: u64::from(n) * 2000, length: u64::from(length) };
                parts.extend(builder.push(extent, hash));
                at += u64::from(length);
            }
            parts.extend(builder.push_hole(1 << 40));
            parts.extend(builder.finish());
            assert_eq!(parts.iter().map(|p| p.content).sum::<u64>(), at + (1 << 40));
            parts
        };
        let whole = frames(0, 6000);
        let runs: Vec<BlockRun> = whole.iter().flat_map(|p| parse(&p.bytes).unwrap()).collect();
        let hashes: Vec<_> = runs.iter().flat_map(|r| &r.blocks).map(|(_, h)| *h).collect();
        assert_eq!(hashes, (0..6000).map(|n| block(n).0).collect::<Vec<_>>());
        assert_eq!(runs.last().unwrap().extent, Extent::zeros(1 << 40));

        let shifted = frames(1, 6000);
        let new = shifted.iter().filter(|p| !whole.iter().any(|w| w.bytes == p.bytes)).count();
        assert!(whole.len() > 4 && new == 1, "{new} of {} frames are new", shifted.len());
    }

    #[test]
    fn lies_are_refused() {
        let frame = |line: &str| format!("{{\"lastgood\":\"map\",\"packs\":[\"{}\"]}}\n{line}\n", "0".repeat(32));
        let hash = "ab".repeat(16);
        for (line, why) in [
            (r#"{"extent":[1,0,5]}"#.into(), "pack number 1"),
            (r#"{"extent":[0,18446744073709551615,5]}"#.into(), "out of range"),
            (r#"{"extent":[null,0,0]}"#.into(), "out of range"),
            (format!(r#"{{"extent":[null,0,{}]}}"#, 1u64 << 60), "out of range"),
            (r#"{"extent":[0,0,5]}"#.into(), "without blocks"),
            (format!(r#"{{"extent":[0,0,5],"sizes":[5,0],"hashes":"{hash}{hash}"}}"#), "block of nothing"),
            (format!(r#"{{"extent":[0,0,5],"sizes":[4],"hashes":"{hash}"}}"#), "add up"),
            (format!(r#"{{"extent":[0,0,5],"sizes":[4,1],"hashes":"{hash}"}}"#), "one hash"),
            (format!(r#"{{"extent":[0,0,5],"sizes":[5],"hashes":"{}"}}"#, "x".repeat(32)), "hex"),
        ] {
            let line: String = line;
            let said = parse(frame(&line).as_bytes()).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
    }
}
