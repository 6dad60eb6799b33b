//! The pages of a database: where blocks of one size are, by position, in layers of which a newer one hides older ones.
//!
//! A layer is a list of index frames of kind `pages`, in ascending order of blocks. A line of a frame is a stretch of a
//! pack's content, with the numbers of the blocks whose bytes lie there one after the other. [`Layered`] joins the
//! layers of a file.

use std::borrow::Cow;
use std::collections::HashMap;

use blake3::hazmat::ChainingValue;
use serde::{Deserialize, Serialize};

use super::entry::Extent;
use super::hex::{Hex, PackId};
use super::lines::{FrameBuilder, Lines, PackNumbers};
use super::map::MapPart;

pub use super::layers::Layered;

/// The most blocks of a frame.
pub const MAX_BLOCKS: u64 = 8192;
/// The greatest number that a block can have.
const MAX_BLOCK_NUMBER: u64 = 1 << 54;
/// The number of hex digits of a tag.
const DIGITS: usize = 16;

/// Tells blocks apart: short, and keyed so that nobody can make two blocks that pass for one.
pub type Tag = Hex<8>;

/// Returns the tag of a block whose chaining value in its file's hash is `value`; `key` is the vault's `hash_key`.
pub fn tag(key: &[u8; 32], value: &ChainingValue) -> Tag {
    let hash = blake3::keyed_hash(key, value);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    Hex(first)
}

/// A block and where its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The block's number in the file: it begins at this many times the block size.
    pub block: u64,
    /// Where its bytes are; shorter than a block only at the file's end.
    pub extent: Extent,
    /// The block's tag.
    pub tag: Tag,
}

/// Consecutive blocks of the file whose bytes lie consecutively in a pack. It is kept small: a large database has very
/// many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The first block.
    pub block: u64,
    /// Where the first block begins in the pack's content, in bytes.
    offset: u64,
    count: u32,
    /// The length of the last block in bytes; all others are whole.
    last: u32,
    /// The index of the pack in `Pieces::packs`; for zeros, an index beyond its end.
    pack: u32,
    /// The index of the first block's tag in `Pieces::tags`.
    tags: u32,
}

impl Piece {
    /// Returns the number of the block after its last one.
    pub fn end(&self) -> u64 {
        self.block + u64::from(self.count)
    }
}

/// The content of a frame.
#[derive(Debug, Default)]
pub struct Pieces {
    /// The pieces in ascending order of blocks, without overlaps.
    pub list: Vec<Piece>,
    packs: Vec<PackId>,
    /// The blocks' tags, line by line; empty if they were not asked for.
    tags: Vec<Tag>,
}

impl Pieces {
    /// Returns where the blocks `from..to` of `piece` are; a whole block has `block` bytes.
    pub fn extent(&self, piece: &Piece, from: u64, to: u64, block: u32) -> Extent {
        let pack = self.packs.get(piece.pack as usize).copied();
        let offset = if pack.is_some() { piece.offset + (from - piece.block) * u64::from(block) } else { 0 };
        let short = if to == piece.end() { block - piece.last } else { 0 };
        Extent { pack, offset, length: (to - from) * u64::from(block) - u64::from(short) }
    }

    /// Returns the block `number`, which lies in `piece`; a whole block has `block` bytes.
    pub fn placed(&self, piece: &Piece, number: u64, block: u32) -> Placed {
        let tag = self.tags.get(piece.tags as usize + (number - piece.block) as usize);
        let extent = self.extent(piece, number, number + 1, block);
        Placed { block: number, extent, tag: tag.copied().unwrap_or(Hex([0; DIGITS / 2])) }
    }

    /// Returns how many bytes all pieces hold together; a whole block has `block` bytes.
    pub fn content(&self, block: u32) -> u64 {
        self.list.iter().map(|piece| self.extent(piece, piece.block, piece.end(), block).length).sum()
    }
}

#[derive(Serialize, Deserialize)]
struct WireLine<'a> {
    extent: (Option<u32>, u64, u64),
    places: Vec<u64>,
    #[serde(borrow)]
    tags: Cow<'a, str>,
}

/// A line that is being collected.
#[derive(Debug)]
struct Line {
    extent: Extent,
    places: Vec<u64>,
    /// The block after the last one.
    end: u64,
    tags: String,
}

/// Collects blocks until a frame is full.
#[derive(Debug)]
pub struct LayerBuilder {
    block: u32,
    lines: Vec<Line>,
    /// The lines that can be continued, by the pack and the offset at which the next block would have to lie.
    open: HashMap<(Option<PackId>, u64), usize>,
    blocks: u64,
}

impl LayerBuilder {
    /// Returns a builder for blocks of `block` bytes.
    pub fn new(block: u32) -> Self {
        LayerBuilder { block, lines: Vec::new(), open: HashMap::new(), blocks: 0 }
    }

    /// Adds the next block, whose number is greater than all before it. Returns the frame if it ends with this block.
    pub fn push(&mut self, placed: &Placed) -> Option<MapPart> {
        let Placed { block, extent, tag } = placed;
        let key = |at| (extent.pack, if extent.pack.is_some() { at } else { 0 });
        let line = match self.open.remove(&key(extent.offset)) {
            Some(number) => number,
            None => {
                let start = Extent { length: 0, ..*extent };
                self.lines.push(Line { extent: start, places: Vec::new(), end: 0, tags: String::new() });
                self.lines.len() - 1
            }
        };
        let going_on = &mut self.lines[line];
        match going_on.places.last_mut() {
            Some(count) if going_on.end == *block => *count += 1,
            _ => going_on.places.extend([block - going_on.end, 1]),
        }
        going_on.end = block + 1;
        going_on.extent.length += extent.length;
        push_hex(tag, &mut going_on.tags);
        // A short block is the last of its line.
        if extent.length == u64::from(self.block) {
            self.open.insert(key(extent.end()), line);
        }
        self.blocks += 1;
        if self.blocks >= MAX_BLOCKS { self.finish() } else { None }
    }

    /// Returns the frame of what was added since the last one; `None` if nothing was.
    pub fn finish(&mut self) -> Option<MapPart> {
        let lines = std::mem::replace(self, LayerBuilder::new(self.block)).lines;
        if lines.is_empty() {
            return None;
        }
        let mut frame = FrameBuilder::new("pages");
        let mut packs = PackNumbers::default();
        let mut content = 0;
        for line in lines {
            content += line.extent.length;
            let wire = WireLine {
                extent: (line.extent.pack.map(|p| packs.of(p)), line.extent.offset, line.extent.length),
                places: line.places,
                tags: Cow::Owned(line.tags),
            };
            // Numbers, and strings of hex digits, are always JSON.
            frame.line(&serde_json::to_vec(&wire).unwrap_or_default());
        }
        Some(MapPart { bytes: frame.finish(packs.packs()), content, packs: packs.packs().to_vec() })
    }
}

fn push_hex(tag: &Tag, text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in tag.0 {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Returns the blocks of a `pages` frame, in ascending order; a whole block has `block` bytes.
///
/// # Errors
/// A text that says what is wrong with the bytes.
pub fn parse(bytes: &[u8], block: u32) -> Result<Vec<Placed>, String> {
    let pieces = parse_pieces(bytes, block, true)?;
    let mut placed = Vec::new();
    for piece in &pieces.list {
        placed.extend((piece.block..piece.end()).map(|number| pieces.placed(piece, number, block)));
    }
    Ok(placed)
}

/// Returns the pieces of a `pages` frame, with the blocks' tags or without them.
///
/// # Errors
/// A text that says what is wrong with the bytes.
pub fn parse_pieces(bytes: &[u8], block: u32, with_tags: bool) -> Result<Pieces, String> {
    let (lines, packs) = Lines::parse("pages", bytes)?;
    let mut pieces = Pieces { packs, ..Pieces::default() };
    let (mut blocks, mut number) = (0, 0);
    for line in lines {
        number += 1;
        let wire: WireLine = serde_json::from_slice(line).map_err(|e| format!("a line of a page map: {e}"))?;
        let before = blocks;
        parse_line(&wire, block.max(1), &mut blocks, &mut pieces)?;
        if wire.tags.len() != (blocks - before) as usize * DIGITS {
            return Err("a page map: not one tag for every block".into());
        }
        if with_tags {
            for digits in wire.tags.as_bytes().as_chunks::<DIGITS>().0 {
                pieces.tags.push(unhex(digits).ok_or("a page map: a tag that is not 16 lowercase hex digits")?);
            }
        }
    }
    // The blocks of one line ascend; those of several lines interleave.
    if number > 1 {
        pieces.list.sort_by_key(|piece| piece.block);
    }
    match pieces.list.windows(2).find(|pair| pair[1].block < pair[0].end()) {
        Some(pair) => Err(format!("a page map: the block {} twice in one frame", pair[1].block)),
        None => Ok(pieces),
    }
}

/// Adds the pieces of a line to `pieces`; `blocks` counts the blocks of the frame.
fn parse_line(wire: &WireLine, block: u32, blocks: &mut u32, pieces: &mut Pieces) -> Result<(), String> {
    let (number, mut offset, length) = wire.extent;
    if let Some(number) = number.filter(|n| *n as usize >= pieces.packs.len()) {
        return Err(format!("a page map: pack number {number} of {}", pieces.packs.len()));
    }
    let in_range = |end| if number.is_some() { end <= 1 << 48 } else { offset == 0 };
    if !offset.checked_add(length).is_some_and(in_range) {
        return Err("a page map: an extent out of range".into());
    }
    let (places, odd) = wire.places.as_chunks::<2>();
    if places.is_empty() || !odd.is_empty() {
        return Err("a page map: a line without places".into());
    }
    let (mut at, mut left) = (0u64, length);
    for &[skip, count] in places {
        let first = at.checked_add(skip).filter(|first| *first <= MAX_BLOCK_NUMBER);
        let first = first.ok_or("a page map: a block beyond every file")?;
        if count == 0 || count > MAX_BLOCKS - u64::from(*blocks) || left == 0 {
            return Err("a page map: places that do not fit their extent, or too many".into());
        }
        // All blocks of the line are whole but the last one, which has at least one byte.
        let whole = (count - 1) * u64::from(block);
        if left <= whole {
            return Err("a page map: blocks that do not add up to their extent".into());
        }
        let last = (left - whole).min(u64::from(block));
        pieces.list.push(Piece {
            block: first,
            offset,
            count: count as u32,
            last: last as u32,
            pack: number.unwrap_or(u32::MAX),
            tags: *blocks,
        });
        at = first + count;
        left -= whole + last;
        offset += whole + last;
        *blocks += count as u32;
    }
    if left == 0 { Ok(()) } else { Err("a page map: blocks that do not add up to their extent".into()) }
}

/// For every byte, the value of the hex digit that it is; 255 if it is not one.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut n = 0;
    while n < 16 {
        values[b"0123456789abcdef"[n] as usize] = n as u8;
        n += 1;
    }
    values
};

fn unhex(digits: &[u8; DIGITS]) -> Option<Tag> {
    let (mut tag, mut all) = ([0; DIGITS / 2], 0);
    for (byte, &[high, low]) in tag.iter_mut().zip(digits.as_chunks::<2>().0) {
        let (high, low) = (VALUES[usize::from(high)], VALUES[usize::from(low)]);
        all |= high | low;
        *byte = high << 4 | low & 15;
    }
    (all < 16).then_some(Hex(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(block: u64, pack: u8, offset: u64, length: u64) -> Placed {
        let tag = Hex(block.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        Placed { block, extent: Extent { pack: (pack > 0).then_some(Hex([pack; 16])), offset, length }, tag }
    }

    fn text(part: &MapPart) -> String {
        String::from_utf8(part.bytes.clone()).unwrap()
    }

    #[test]
    fn blocks_come_back_and_interleaved_sources_make_few_lines() {
        let mut builder = LayerBuilder::new(1024);
        let blocks: Vec<_> = (0..20_000u64)
            .filter(|n| n % 7 != 3)
            .map(|n| match n {
                19_999 => placed(n, 1, 900 << 10, 1000),
                _ if n % 100 == 50 => placed(n, 0, 0, 1024),
                _ => placed(n, 1 + (n % 2) as u8, (n / 2) << 10, 1024),
            })
            .collect();
        let mut parts: Vec<MapPart> = blocks.iter().filter_map(|placed| builder.push(placed)).collect();
        parts.extend(builder.finish());
        assert!(builder.finish().is_none());
        assert_eq!(parts.iter().map(|p| p.content).sum::<u64>(), blocks.iter().map(|b| b.extent.length).sum::<u64>());
        let back: Vec<_> = parts.iter().flat_map(|part| parse(&part.bytes, 1024).unwrap()).collect();
        assert_eq!(back, blocks);

        let mut builder = LayerBuilder::new(1024);
        for n in 0..6 {
            assert!(builder.push(&placed(10 + n, 1 + (n % 2) as u8, 5000 + (n / 2) * 1024, 1024)).is_none());
        }
        let part = builder.finish().unwrap();
        assert_eq!((text(&part).lines().count(), part.packs.len()), (3, 2));
        assert!(text(&part).contains(r#"{"extent":[0,5000,3072],"places":[10,1,1,1,1,1],"tags":"#), "{}", text(&part));
    }

    #[test]
    fn lies_are_refused() {
        let frame = |lines: &str| format!("{{\"lastgood\":\"pages\",\"packs\":[\"{}\"]}}\n{lines}\n", "0".repeat(32));
        let line = |extent: &str, places: &str, tags: usize| {
            format!(r#"{{"extent":{extent},"places":{places},"tags":"{}"}}"#, "0123456789abcdef".repeat(tags))
        };
        let whole = line("[0,0,2048]", "[5,1,3,1]", 2);
        assert_eq!(parse(frame(&whole).as_bytes(), 1024).unwrap()[1].block, 9);
        let max = u64::MAX;
        for (lines, why) in [
            (line("[1,0,5]", "[0,1]", 1), "pack number 1"),
            (line(&format!("[0,{max},5]"), "[0,1]", 1), "out of range"),
            (line("[null,7,5]", "[0,1]", 1), "out of range"),
            (line("[0,0,0]", "[0,1]", 1), "do not fit"),
            (line("[0,0,5]", "[]", 0), "without places"),
            (line("[0,0,5]", "[0]", 0), "without places"),
            (line("[0,0,5]", "[0,0]", 0), "do not fit"),
            (line("[0,0,5]", &format!("[{max},1]"), 1), "beyond every file"),
            (line("[0,0,2048]", &format!("[5,1,{max},1]"), 2), "beyond every file"),
            (line("[0,0,2048]", &format!("[0,{max}]"), 1), "too many"),
            (line("[0,0,8389632]", "[0,8193]", 8193), "too many"),
            (line("[0,0,1024]", "[0,2]", 2), "add up"),
            (line("[0,0,1025]", "[0,1]", 1), "add up"),
            (line("[0,0,1000]", "[0,1,1,1]", 2), "do not fit"),
            (line("[0,0,2048]", "[0,2]", 1), "one tag"),
            (line("[0,0,1024]", "[0,1]", 1).replace("abcdef", "ABCDEF"), "hex"),
            (line("[0,0,1024]", "[0,1]", 1).replace("abcdef", "µµµ"), "hex"),
            (format!("{whole}\n{}", line("[0,8192,1024]", "[9,1]", 1)), "twice"),
        ] {
            let said = parse(frame(&lines).as_bytes(), 1024).unwrap_err();
            assert!(said.contains(why), "{lines:.200}: {said}");
        }
    }

    #[test]
    fn a_tag_depends_on_the_key_and_the_whole_value() {
        assert_ne!(tag(&[1; 32], &[0; 32]), tag(&[2; 32], &[0; 32]));
        assert_ne!(tag(&[1; 32], &[0; 32]), tag(&[1; 32], &[1; 32]));
    }
}
