//! Packs: zstd frames one after the other, with a seek table at the end.
//!
//! An object as a whole is a valid `.zst` file. The table is a skippable frame, as the zstd seekable format has it
//! (<https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md>), without
//! its optional checksums, since every frame carries zstd's own.

use serde::{Deserialize, Serialize};

use super::hex::PackId;

/// The most content of one frame, in bytes.
pub const MAX_FRAME: usize = 4 << 20;
/// The most frames that a pack may have.
pub const MAX_FRAMES: u32 = 1 << 20;
/// The largest object that a vault may hold, in bytes.
pub const MAX_PACK: u64 = 64 << 20;

const SKIPPABLE: u32 = 0x184D_2A5E;
const SEEKABLE: u32 = 0x8F92_EAB1;
const FOOTER: usize = 9;
const ENTRY: usize = 8;

/// The kind of content that a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackKind {
    /// Slices of tar streams.
    Data,
    /// Hunks, maps and lists.
    Index,
}

/// A pack, as a root lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackInfo {
    /// The random bits of the pack's name.
    pub id: PackId,
    /// The kind of content that it holds.
    pub kind: PackKind,
    /// The object's size in bytes.
    pub size: u64,
    /// The length of its content in bytes, decompressed.
    pub content: u64,
    /// CRC32C of the object.
    pub crc32c: u32,
}

impl PackInfo {
    /// Returns the name of the pack's object.
    pub fn name(&self) -> String {
        name(self.kind, self.id)
    }
}

/// Returns the name of a pack's object.
pub fn name(kind: PackKind, id: PackId) -> String {
    match kind {
        PackKind::Data => format!("packs/{id}.tar.zst"),
        PackKind::Index => format!("index/{id}.jsonl.zst"),
    }
}

/// One frame: where it is in the object and in the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAt {
    /// Where it begins in the object, in bytes.
    pub at: u64,
    /// Its compressed length in bytes.
    pub compressed: u32,
    /// Where its content begins in the pack's content, in bytes.
    pub offset: u64,
    /// The length of its content in bytes.
    pub length: u32,
}

impl FrameAt {
    /// Returns where it ends in the object, in bytes.
    pub fn end(&self) -> u64 {
        self.at + u64::from(self.compressed)
    }

    /// Returns its compressed bytes, from `bytes` that begin at `from` in the object; an empty slice if they are not in
    /// there.
    pub fn within<'b>(&self, bytes: &'b [u8], from: u64) -> &'b [u8] {
        let at = self.at.saturating_sub(from) as usize;
        bytes.get(at..at.saturating_add(self.compressed as usize)).unwrap_or_default()
    }
}

/// The frames of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekTable {
    frames: Vec<FrameAt>,
}

/// The result of reading the last bytes of an object.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// The whole table.
    Table(SeekTable),
    /// The table has this many bytes, more than were given.
    Longer(u64),
}

/// Returns the seek table of frames with the given (compressed, content) lengths, as the skippable frame that ends a
/// pack.
pub fn write_table(frames: impl ExactSizeIterator<Item = (u32, u32)>) -> Vec<u8> {
    let count = frames.len();
    let mut out = Vec::with_capacity(table_length(count) as usize);
    out.extend_from_slice(&SKIPPABLE.to_le_bytes());
    out.extend_from_slice(&((count * ENTRY + FOOTER) as u32).to_le_bytes());
    for (compressed, content) in frames {
        out.extend_from_slice(&compressed.to_le_bytes());
        out.extend_from_slice(&content.to_le_bytes());
    }
    out.extend_from_slice(&(count as u32).to_le_bytes());
    out.push(0);
    out.extend_from_slice(&SEEKABLE.to_le_bytes());
    out
}

/// Returns the length in bytes of the seek table of this many frames.
pub fn table_length(frames: usize) -> u64 {
    (8 + frames * ENTRY + FOOTER) as u64
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl SeekTable {
    /// Reads the table from `tail`, the last bytes of an object of `size` bytes.
    ///
    /// # Errors
    /// A text that says what is wrong with the bytes.
    pub fn parse(tail: &[u8], size: u64) -> Result<Tail, String> {
        if size > MAX_PACK || tail.len() as u64 > size || tail.len() < FOOTER.min(size as usize) {
            return Err(format!("a pack of {size} bytes, of which {} were read", tail.len()));
        }
        let footer = tail.len().checked_sub(FOOTER).ok_or("it is too short for a seek table")?;
        if u32_at(tail, footer + 5) != Some(SEEKABLE) {
            return Err("it does not end with a seek table".into());
        }
        let count = u32_at(tail, footer).unwrap_or(u32::MAX);
        if tail[footer + 4] != 0 || count > MAX_FRAMES {
            return Err(format!("its seek table has {count} frames, descriptor {:#x}", tail[footer + 4]));
        }
        let length = table_length(count as usize) as usize;
        if length as u64 > size {
            return Err("its seek table is longer than itself".into());
        }
        let Some(start) = tail.len().checked_sub(length) else { return Ok(Tail::Longer(length as u64)) };
        if u32_at(tail, start) != Some(SKIPPABLE) || u32_at(tail, start + 4) != Some((length - 8) as u32) {
            return Err("its seek table does not begin where it should".into());
        }
        let mut frames = Vec::with_capacity(count as usize);
        let (mut at, mut offset) = (0u64, 0u64);
        for n in 0..count as usize {
            let entry = start + 8 + n * ENTRY;
            let compressed = u32_at(tail, entry).unwrap_or_default();
            let content = u32_at(tail, entry + 4).unwrap_or_default();
            if compressed == 0 || content == 0 || content as usize > MAX_FRAME || u64::from(compressed) > size {
                return Err(format!("its seek table claims a frame of {compressed} bytes with {content} of content"));
            }
            frames.push(FrameAt { at, compressed, offset, length: content });
            at += u64::from(compressed);
            offset += u64::from(content);
        }
        if at + length as u64 != size {
            return Err(format!("its frames take {at} bytes and its table {length}, but it has {size}"));
        }
        Ok(Tail::Table(SeekTable { frames }))
    }

    /// Returns the table of frames that were found one after the other.
    pub(super) fn of(frames: Vec<FrameAt>) -> Self {
        SeekTable { frames }
    }

    /// Returns all frames, in order.
    pub fn frames(&self) -> &[FrameAt] {
        &self.frames
    }

    /// Returns the frame whose content begins at `offset`.
    pub fn beginning(&self, offset: u64) -> Option<&FrameAt> {
        let number = self.frames.binary_search_by_key(&offset, |frame| frame.offset).ok()?;
        self.frames.get(number)
    }

    /// Returns the length of the content in bytes.
    pub fn content(&self) -> u64 {
        self.frames.last().map_or(0, |f| f.offset + u64::from(f.length))
    }

    /// Returns the indices of the frames that hold `length` bytes of content from `offset`; `None` if these reach
    /// beyond the content.
    pub fn covering(&self, offset: u64, length: u64) -> Option<std::ops::Range<usize>> {
        let end = offset.checked_add(length).filter(|end| *end <= self.content())?;
        let first = self.frames.partition_point(|f| f.offset + u64::from(f.length) <= offset);
        let last = self.frames.partition_point(|f| f.offset < end);
        Some(first..last.max(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(frames: &[(u32, u32)]) -> (Vec<u8>, u64) {
        let tail = write_table(frames.iter().copied());
        let size = frames.iter().map(|f| u64::from(f.0)).sum::<u64>() + tail.len() as u64;
        (tail, size)
    }

    #[test]
    fn a_table_comes_back() {
        let (tail, size) = table(&[(10, 100), (20, 50), (5, 1)]);
        let Ok(Tail::Table(read)) = SeekTable::parse(&tail, size) else { panic!() };
        assert_eq!(read.frames()[1], FrameAt { at: 10, compressed: 20, offset: 100, length: 50 });
        assert_eq!(read.content(), 151);
        assert_eq!(read.covering(0, 100), Some(0..1));
        assert_eq!(read.covering(99, 2), Some(0..2));
        assert_eq!(read.covering(100, 51), Some(1..3));
        assert_eq!(read.covering(150, 1), Some(2..3));
        assert_eq!(read.covering(150, 2), None);
        assert_eq!(read.covering(u64::MAX, 2), None);
        assert_eq!(SeekTable::parse(&tail[tail.len() - 12..], size), Ok(Tail::Longer(tail.len() as u64)));
    }

    #[test]
    fn lies_are_refused() {
        let (tail, size) = table(&[(10, 100), (20, 50)]);
        assert!(SeekTable::parse(&tail, size + 1).is_err());
        assert!(SeekTable::parse(&tail[..8], 8).is_err());
        assert!(SeekTable::parse(&[], 0).is_err());
        assert!(SeekTable::parse(&table(&[(10, MAX_FRAME as u32 + 1)]).0, 35).is_err());
        for at in 0..tail.len() {
            let mut bad = tail.clone();
            bad[at] ^= 0x40;
            if let Ok(Tail::Table(t)) = SeekTable::parse(&bad, size) {
                // Only a change of a content length leads to no contradiction here; decoding finds that.
                assert_ne!(
                    t,
                    SeekTable::parse(&tail, size)
                        .map(|t| match t {
                            Tail::Table(t) => t,
                            Tail::Longer(_) => panic!(),
                        })
                        .unwrap()
                );
            }
        }
    }

    #[test]
    fn the_zstd_library_reads_a_pack() {
        let contents: [&[u8]; 2] = [b"first frame", b"second"];
        let mut pack = Vec::new();
        let mut sizes = Vec::new();
        for content in contents {
            let frame = zstd::bulk::compress(content, 3).unwrap();
            sizes.push((frame.len() as u32, content.len() as u32));
            pack.extend(frame);
        }
        pack.extend(write_table(sizes.into_iter()));
        assert_eq!(zstd::decode_all(&pack[..]).unwrap(), contents.concat());
    }
}
