//! An entry of a snapshot (a file, folder, symlink or fifo), and where its tar bytes are.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::frame::FrameRef;
use super::hex::{Hash, PackId};
use super::list::List;
use crate::path::{EntryPath, EscapedBytes};

/// Bytes of a tar block.
pub const TAR_BLOCK: u64 = 512;
/// The largest size of a file, in bytes. Holes cost nothing to store, but are hashed all the same: 256 TiB of them take
/// a day or two, and what a filesystem reports as a file's size may take years.
pub const MAX_SIZE: u64 = 1 << 48;
/// The most bytes that the header of an entry may have: its extended attributes are in there.
pub const MAX_HEADER: u64 = 16 << 20;

/// A range of a pack's uncompressed content, or a number of zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The pack; `None` for zeros (padding, holes).
    pub pack: Option<PackId>,
    /// Where it begins in the pack's content, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Extent {
    /// Returns an extent of `length` zero bytes.
    pub fn zeros(length: u64) -> Self {
        Extent { pack: None, offset: 0, length }
    }

    /// Returns where it ends in the pack's content, in bytes.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Whether `next` lies right after it in the same pack, or both are zeros.
    pub fn continued_by(&self, next: &Extent) -> bool {
        self.pack == next.pack && (self.pack.is_none() || self.end() == next.offset)
    }

    /// Appends the extent to `list`, joined to the last one if it continues that; an empty extent is dropped.
    pub fn push(self, list: &mut Vec<Extent>) {
        if self.length == 0 {
            return;
        }
        match list.last_mut() {
            Some(last) if last.continued_by(&self) => last.length += self.length,
            _ => list.push(self),
        }
    }
}

/// Returns the part of `extents` that covers at most `take` bytes, from byte `skip` on.
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

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file; every member of a hard-link group is one.
    File,
    /// A directory.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
}

/// Where a large file's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The frames that hold the map.
    pub form: MapForm,
    /// Every pack that the map reaches: the packs of its content, of its frames, and the index packs of list frames.
    pub packs: Vec<PackId>,
}

impl Map {
    /// Returns the frames of a map of content-defined blocks; `None` if it is a page map.
    pub fn blocks(&self) -> Option<&List<MapFrame>> {
        match &self.form {
            MapForm::Blocks(frames) => Some(frames),
            MapForm::Pages(_) => None,
        }
    }

    /// Returns the page map; `None` if it is a map of content-defined blocks.
    pub fn pages(&self) -> Option<&PageMap> {
        match &self.form {
            MapForm::Blocks(_) => None,
            MapForm::Pages(pages) => Some(pages),
        }
    }
}

/// The two forms of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapForm {
    /// Frames of kind `map`, in the order of the content: blocks that end where the content says so ([`super::map`]).
    Blocks(List<MapFrame>),
    /// Blocks of one size, by position: a database ([`super::pages`]).
    Pages(PageMap),
}

/// Where the pages of a database are: layers, of which a newer one hides what older ones say of the same blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMap {
    /// The size of a block in bytes: a power of two, from [`SMALLEST_BLOCK`] to [`LARGEST_BLOCK`].
    pub block: u32,
    /// The layers, oldest first: frames of kind `pages`, each layer's in ascending order of blocks.
    pub layers: Vec<List<MapFrame>>,
    /// For every pack that holds live blocks, how many it holds.
    pub live: Vec<PackUse>,
    /// Bytes that the writer may spend on storing again what is spread too thin; only writers read it.
    pub credit: u64,
}

/// The smallest block of a page map, in bytes: the smallest part of a file that is a subtree of its hash.
pub const SMALLEST_BLOCK: u32 = 1024;
/// The largest block of a page map, in bytes: SQLite's largest page.
pub const LARGEST_BLOCK: u32 = 65_536;
/// The most layers of a page map. Writers compact layers long before: 4/3 to the power of this is more than any file
/// has blocks.
pub const MAX_LAYERS: usize = 128;

/// How much of a pack a database uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackUse {
    /// The pack.
    pub pack: PackId,
    /// Blocks of the current file that are there.
    pub live: u64,
    /// Blocks that were ever stored there for this file.
    pub stored: u64,
}

impl PageMap {
    /// Returns how many blocks a file of `size` bytes has.
    pub fn blocks(&self, size: u64) -> u64 {
        size.div_ceil(u64::from(self.block.max(1)))
    }

    /// Checks what no writer gets wrong, for a file of `size` bytes; `packs` are the packs that the map says it
    /// reaches.
    fn check(&self, size: u64, packs: &[PackId]) -> Result<(), String> {
        if !self.block.is_power_of_two() || !(SMALLEST_BLOCK..=LARGEST_BLOCK).contains(&self.block) {
            return Err(format!("has a page map of impossible blocks of {} bytes", self.block));
        }
        if self.layers.len() > MAX_LAYERS || (self.layers.is_empty() && size > 0) {
            return Err(format!("has a page map of {} layers", self.layers.len()));
        }
        let packs: HashSet<_> = packs.iter().collect();
        let (mut seen, mut live) = (HashSet::new(), 0u64);
        for used in &self.live {
            if used.live == 0 || used.live > used.stored || !packs.contains(&used.pack) || !seen.insert(used.pack) {
                return Err(format!("has a page map whose use of the pack {} cannot be", used.pack));
            }
            live = live.saturating_add(used.live);
        }
        // Blocks of zeros count for the file, and are in no pack.
        if live > self.blocks(size) {
            return Err(format!("has a page map with {live} live blocks where the file has {}", self.blocks(size)));
        }
        Ok(())
    }
}

/// Facts about a file that is a SQLite database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// How it was read.
    pub taken: CaptureMethod,
    /// The write-ahead log (`-wal`) next to it, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<Side>,
    /// The rollback journal (`-journal`) next to it, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Side>,
    /// The result of checking it; `None` if it was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<DatabaseCheck>,
}

/// How a database was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMethod {
    /// Through SQLite, in one transaction: one committed state.
    Live,
    /// As a file, with its side files as files of their own.
    Raw,
}

/// A side file of a database as it was when the database was read; only compared. Written as `[size, mtime]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, i64)", into = "(u64, i64)")]
pub struct Side {
    /// Its size in bytes.
    pub size: u64,
    /// The last change of its content, in nanoseconds since 1970.
    pub mtime: i64,
}

impl From<(u64, i64)> for Side {
    fn from((size, mtime): (u64, i64)) -> Self {
        Side { size, mtime }
    }
}

impl From<Side> for (u64, i64) {
    fn from(side: Side) -> Self {
        (side.size, side.mtime)
    }
}

/// A check that SQLite made of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseCheck {
    /// Which check it was.
    pub kind: CheckKind,
    /// The first line of what it found wrong; `None` if the database is sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// How thoroughly a database is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// `PRAGMA quick_check`: everything but indexes against their tables.
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

/// A frame of a map and how many bytes of the file it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFrame {
    /// Where the frame is.
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
    /// The kind of entry that it is.
    pub kind: EntryKind,
    /// The size of its content in bytes; 0 unless it is a file.
    pub size: u64,
    /// Permission bits, with set-id and sticky: at most 0o7777.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
    /// The last change of its content, in nanoseconds since 1970.
    pub mtime: i64,
    /// The last change of content or metadata, in nanoseconds since 1970; only compared, never restored.
    pub ctime: i64,
    /// The inode number; only compared.
    pub inode: u64,
    /// Where a symlink points.
    pub target: Option<EscapedBytes>,
    /// Extended attributes, by name.
    pub xattrs: Vec<(EscapedBytes, EscapedBytes)>,
    /// The hash of a file's whole content.
    pub hash: Option<Hash>,
    /// The name of the hard-link group; equal within a snapshot for links of one file, and meaningless outside of it.
    pub link: Option<String>,
    /// Whether the content may have changed after it was read without any timestamp showing it; such an entry is never
    /// trusted.
    pub racy: bool,
    /// How many bytes of the tar bytes are header.
    pub header: u64,
    /// Where the tar bytes are.
    pub extents: Vec<Extent>,
    /// Where a large file's content is.
    pub map: Option<Map>,
    /// Facts about it, if it is a SQLite database.
    pub database: Option<Database>,
}

/// Returns how many zero bytes follow `size` bytes of content in a tar stream.
pub fn padding(size: u64) -> u64 {
    size.next_multiple_of(TAR_BLOCK) - size
}

impl Entry {
    /// Checks what no writer gets wrong, so that no reader has to.
    ///
    /// # Errors
    /// A text that says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("the entry {} {why}", self.path));
        let is_file = self.kind == EntryKind::File;
        if self.size > MAX_SIZE || (!is_file && self.size != 0) {
            return wrong("has an impossible size");
        }
        if self.mode > 0o7777 {
            return wrong("has an impossible mode");
        }
        if is_file != self.hash.is_some() || (!is_file && (self.map.is_some() || self.link.is_some())) {
            return wrong("has a hash, map or link that does not fit what it is");
        }
        if self.database.is_some() && !is_file {
            return wrong("is called a database and is not a file");
        }
        if let Some(map) = &self.map
            && let MapForm::Pages(pages) = &map.form
            && let Err(why) = pages.check(self.size, &map.packs)
        {
            return wrong(&why);
        }
        if (self.kind == EntryKind::Symlink) != self.target.is_some() {
            return wrong("has a link target that does not fit what it is");
        }
        if self.target.as_ref().is_some_and(|t| t.0.is_empty() || t.0.contains(&0)) {
            return wrong("has an impossible link target");
        }
        if self.path.is_root() && self.kind != EntryKind::Folder {
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

    /// Returns the paths of the side files that were captured with it, if it is a raw database.
    pub fn sides(&self) -> Vec<EntryPath> {
        let Some(database) = self.database.as_ref().filter(|database| database.taken == CaptureMethod::Raw) else {
            return Vec::new();
        };
        let beside = |ending: &str| EntryPath::new([self.path.bytes(), ending.as_bytes()].concat()).ok();
        let journal = database.journal.and_then(|_| beside("-journal"));
        journal.into_iter().chain(database.wal.and_then(|_| beside("-wal"))).collect()
    }

    /// Returns the packs of its extents and those that its map reaches; a pack may come more than once.
    pub fn packs(&self) -> impl Iterator<Item = PackId> {
        let extents = self.extents.iter().filter_map(|extent| extent.pack);
        extents.chain(self.map.iter().flat_map(|map| map.packs.iter().copied()))
    }

    /// Returns the extents of its header.
    pub fn header_extents(&self) -> Vec<Extent> {
        cut(&self.extents, 0, self.header)
    }

    /// Returns the extents of its content; none if it has a map, which has them.
    pub fn content_extents(&self) -> Vec<Extent> {
        if self.map.is_some() { Vec::new() } else { cut(&self.extents, self.header, self.size) }
    }
}

/// Returns the page map of an entry, if it has one.
pub fn known_pages(entry: &Entry) -> Option<&PageMap> {
    match &entry.map.as_ref()?.form {
        MapForm::Pages(pages) => Some(pages),
        MapForm::Blocks(_) => None,
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
