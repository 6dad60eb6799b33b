//! One file, folder, symlink or fifo of a snapshot, and where its tar bytes are.

use serde::{Deserialize, Serialize};

use super::hex::{Hash, PackId};
use super::list::List;
use super::path::{Bytes, EntryPath};

/// Tar works in blocks of this many bytes.
pub const TAR_BLOCK: u64 = 512;
/// The most header bytes that an entry may have: its extended attributes live there.
pub const MAX_HEADER: u64 = 16 << 20;

/// A range of a pack's uncompressed content, or that many zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The pack; none for zeros (padding, holes).
    pub pack: Option<PackId>,
    /// Where it begins in the pack's content, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Extent {
    /// So many zero bytes.
    pub fn zeros(length: u64) -> Self {
        Extent { pack: None, offset: 0, length }
    }

    /// Where it ends in the pack's content.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Appends an extent, joined to the last one where it continues it; an empty one vanishes.
    pub fn push(self, list: &mut Vec<Extent>) {
        if self.length == 0 {
            return;
        }
        match list.last_mut() {
            Some(last) if last.pack == self.pack && (self.pack.is_none() || last.end() == self.offset) => {
                last.length += self.length;
            }
            _ => list.push(self),
        }
    }
}

/// The part of `extents` that covers the bytes from `skip`, at most `take` of them.
pub fn cut(extents: &[Extent], mut skip: u64, mut take: u64) -> Vec<Extent> {
    let mut out = Vec::new();
    for extent in extents {
        let from = skip.min(extent.length);
        skip -= from;
        let length = (extent.length - from).min(take);
        take -= length;
        let offset = if extent.pack.is_some() { extent.offset + from } else { 0 };
        Extent { offset, length, ..*extent }.push(&mut out);
    }
    out
}

/// One frame of an index pack, with the hash that its content must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameRef {
    /// The index pack.
    pub pack: PackId,
    /// Where the frame's content begins in the pack's content, in bytes.
    pub offset: u64,
    /// The length of its content, in bytes.
    pub length: u64,
    /// The BLAKE3 of its content.
    pub hash: Hash,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file; every member of a hard-link group is one.
    File,
    /// A directory.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
}

/// Where a large file's content is: frames that each cover a run of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The frames in the order of the content.
    pub frames: List<MapFrame>,
    /// Every pack that the map reaches: the packs of its content, and the index packs of list frames' frames.
    pub packs: Vec<PackId>,
}

/// A frame of a map and how many bytes of the file it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFrame {
    /// Where it is.
    #[serde(flatten)]
    pub frame: FrameRef,
    /// Bytes of the file's content that it covers.
    pub content: u64,
}

/// One entry of a snapshot.
///
/// Its tar bytes are `header` bytes of header, the content, and padding to a multiple of 512. `extents` cover all of it;
/// with a `map`, the content is in the map and `extents` cover header and padding only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the data directory.
    pub path: EntryPath,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content; 0 unless it is a file.
    pub size: u64,
    /// Permission bits, with set-id and sticky: at most 0o7777.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Last change of content, ns since 1970.
    pub mtime: i64,
    /// Last change of anything, ns since 1970; only compared, never restored.
    pub ctime: i64,
    /// The inode's number; only compared.
    pub inode: u64,
    /// Where a symlink points.
    pub target: Option<Bytes>,
    /// Extended attributes, by name.
    pub xattrs: Vec<(Bytes, Bytes)>,
    /// Of a file's whole content.
    pub hash: Option<Hash>,
    /// Names the hard-link group; equal within a snapshot for links of one file, and only there.
    pub link: Option<String>,
    /// The content may have changed after it was read without any time showing it; never trusted.
    pub racy: bool,
    /// How many bytes of the tar bytes are header.
    pub header: u64,
    /// Where the tar bytes are.
    pub extents: Vec<Extent>,
    /// Where a large file's content is.
    pub map: Option<Map>,
}

/// How many bytes of zeros follow `size` bytes of content in a tar stream.
pub fn padding(size: u64) -> u64 {
    size.next_multiple_of(TAR_BLOCK) - size
}

impl Entry {
    /// Checks what no writer gets wrong, so that no reader has to.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("the entry {} {why}", self.path));
        let is_file = self.kind == Kind::File;
        if self.size > i64::MAX as u64 / 2 || (!is_file && self.size != 0) {
            return wrong("has an impossible size");
        }
        if self.mode > 0o7777 {
            return wrong("has an impossible mode");
        }
        if is_file != self.hash.is_some() || (!is_file && (self.map.is_some() || self.link.is_some())) {
            return wrong("has a hash, map or link that does not fit what it is");
        }
        if (self.kind == Kind::Symlink) != self.target.is_some() {
            return wrong("has a link target that does not fit what it is");
        }
        if self.target.as_ref().is_some_and(|t| t.0.is_empty() || t.0.contains(&0)) {
            return wrong("has an impossible link target");
        }
        if self.path.is_root() && self.kind != Kind::Folder {
            return wrong("is not a folder");
        }
        if self.header == 0 || !self.header.is_multiple_of(TAR_BLOCK) || self.header > MAX_HEADER {
            return wrong("has a header of an impossible size");
        }
        let content = if self.map.is_some() { 0 } else { self.size };
        let expected = self.header + content + padding(self.size);
        let mut total = 0u64;
        for extent in &self.extents {
            if extent.offset.checked_add(extent.length).is_none_or(|end| end > 1 << 48 && extent.pack.is_some()) {
                return wrong("has an extent out of range");
            }
            total = total.saturating_add(extent.length);
        }
        if total != expected {
            return wrong(&format!("has extents of {total} bytes where {expected} are needed"));
        }
        Ok(())
    }

    /// The extents of its header.
    pub fn header_extents(&self) -> Vec<Extent> {
        cut(&self.extents, 0, self.header)
    }

    /// The extents of its content; none with a map, which has them.
    pub fn content_extents(&self) -> Vec<Extent> {
        if self.map.is_some() { Vec::new() } else { cut(&self.extents, self.header, self.size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hex::Hex;

    #[test]
    fn extents_join_and_cut() {
        let pack = Some(Hex([7; 16]));
        let mut list = Vec::new();
        for (offset, length) in [(0, 512), (512, 100), (900, 50)] {
            Extent { pack, offset, length }.push(&mut list);
        }
        Extent::zeros(300).push(&mut list);
        Extent::zeros(0).push(&mut list);
        Extent::zeros(50).push(&mut list);
        let short: Vec<_> = list.iter().map(|e| (e.pack.is_some(), e.offset, e.length)).collect();
        assert_eq!(short, [(true, 0, 612), (true, 900, 50), (false, 0, 350)]);
        let middle: Vec<_> = cut(&list, 512, 200).iter().map(|e| (e.offset, e.length)).collect();
        assert_eq!(middle, [(512, 100), (900, 50), (0, 50)]);
        assert_eq!(cut(&list, 2000, 5), []);
    }
}
