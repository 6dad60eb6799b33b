//! Hunks: a run of entries as the content of one index frame.
//!
//! Hunks end where the hash of a path says so. Thus an added or removed file changes one hunk and not all that follow,
//! and a hunk whose entries did not change has the same bytes again, which is how it is found and reused.

mod map;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use self::map::WireMap;
use super::entry::{Database, Entry, EntryKind, Extent};
use super::hex::{Hash, PackId};
use super::lines::{FrameBuilder, Lines, PackNumbers};
use crate::error::{Code, Error, Result};
use crate::path::{EntryPath, EscapedBytes};

/// A hunk ends after an entry whose path hashes to zero under this mask: every 512th, on average.
const CUT_MASK: u16 = 0x1ff;
/// A hunk also ends after the entry with which it exceeds this many bytes.
const MAX_HUNK: usize = 1 << 20;
/// Among entries that belong together, a hunk ends only after it exceeds this many bytes: even with the longest line on
/// top, it is still an index frame.
const MAX_UNIT: usize = (3 << 20) / 2;
/// The longest line of an entry in bytes, so that a hunk with it is still an index frame.
const MAX_LINE: usize = 2 << 20;

type WireExtent = (Option<u32>, u64, u64);
fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn one_block() -> u64 {
    super::entry::TAR_BLOCK
}

fn is_one_block(value: &u64) -> bool {
    *value == one_block()
}

/// An entry as it is written; see `format.md`.
#[derive(Serialize, Deserialize)]
struct WireEntry<'a> {
    path: Cow<'a, EntryPath>,
    #[serde(rename = "type")]
    kind: EntryKind,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    ctime: i64,
    inode: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, EscapedBytes>>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    xattrs: Cow<'a, [(EscapedBytes, EscapedBytes)]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_false")]
    racy: bool,
    #[serde(default = "one_block", skip_serializing_if = "is_one_block")]
    header: u64,
    extents: Vec<WireExtent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    map: Option<WireMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    database: Option<Cow<'a, Database>>,
}

/// Collects entries until a hunk is full.
#[derive(Debug)]
pub struct HunkBuilder {
    frame: FrameBuilder,
    packs: PackNumbers,
    entries: u64,
    maps: u64,
    first: EntryPath,
    line: Vec<u8>,
    /// Whether the hunk ends as soon as it may.
    due: bool,
    /// The place at which the hunk can be split.
    mark: Option<CutPoint>,
}

/// A place between two entries of a hunk.
#[derive(Debug)]
struct CutPoint {
    bytes: usize,
    entries: u64,
    maps: u64,
    /// The path of the first entry after the place.
    next: EntryPath,
}

/// A finished hunk.
#[derive(Debug)]
pub struct Hunk {
    /// The frame's content.
    pub bytes: Vec<u8>,
    /// How many entries it holds.
    pub entries: u64,
    /// How many of them have maps.
    pub maps: u64,
    /// The path of its first entry.
    pub first: EntryPath,
    /// Every pack that its entries and their maps reach.
    pub packs: Vec<PackId>,
}

impl Default for HunkBuilder {
    fn default() -> Self {
        HunkBuilder {
            frame: FrameBuilder::new("hunk"),
            packs: PackNumbers::default(),
            entries: 0,
            maps: 0,
            first: EntryPath::root(),
            line: Vec::new(),
            due: false,
            mark: None,
        }
    }
}

impl HunkBuilder {
    /// Adds the next entry in path order. Returns the hunk if it ends with this entry.
    ///
    /// # Errors
    /// No reader would take the entry, for example because it has too many extended attributes; it is not added.
    pub fn push(&mut self, entry: &Entry) -> Result<Option<Hunk>> {
        self.push_within(entry, false, false)
    }

    /// Like [`HunkBuilder::push`], but if the entry is `within` entries that belong together, the hunk does not end
    /// after it, unless it is very long. With `mark`, the hunk can be split before this entry as long as it has not
    /// ended.
    ///
    /// # Errors
    /// The errors of [`HunkBuilder::push`].
    pub fn push_within(&mut self, entry: &Entry, mark: bool, within: bool) -> Result<Option<Hunk>> {
        let refused = |why: String| Error::failed(format!("record the entry {}", entry.path), why);
        entry.check().map_err(refused)?;
        let wire = to_wire(entry, &mut self.packs);
        self.line.clear();
        serde_json::to_writer(&mut self.line, &wire).map_err(|e| refused(e.to_string()).with_code(Code::Internal))?;
        if self.line.len() > MAX_LINE {
            let why = format!(
                "its metadata takes {} bytes, and at most {MAX_LINE} can be stored; \
                does it have very many or large extended attributes?",
                self.line.len()
            );
            return Err(refused(why));
        }
        if self.entries == 0 {
            self.first = entry.path.clone();
        }
        if mark {
            let (bytes, entries, maps) = (self.frame.len(), self.entries, self.maps);
            self.mark = Some(CutPoint { bytes, entries, maps, next: entry.path.clone() });
        }
        self.entries += 1;
        self.maps += u64::from(entry.map.is_some());
        self.frame.line(&self.line);
        let hash = Hash::of(entry.path.bytes()).0;
        self.due |= u16::from_le_bytes([hash[0], hash[1]]) & CUT_MASK == 0 || self.frame.len() > MAX_HUNK;
        let ends = self.due && !within || self.frame.len() > MAX_UNIT;
        Ok(if ends { self.finish() } else { None })
    }

    /// Returns the hunk of what was added since the last one, up to the marked place; what came after that begins the
    /// next hunk. `None` if nothing is marked, or nothing was added before the mark.
    pub fn finish_marked(&mut self) -> Option<Hunk> {
        let mark = self.mark.take()?;
        if mark.entries == 0 {
            return None;
        }
        let rest = self.frame.split_off(mark.bytes);
        let done = std::mem::replace(&mut self.frame, rest);
        let packs = self.packs.packs().to_vec();
        let first = std::mem::replace(&mut self.first, mark.next);
        (self.entries, self.maps) = (self.entries - mark.entries, self.maps - mark.maps);
        // The numbers of packs go on, so the second part names the packs of the first one, too.
        Some(Hunk { bytes: done.finish(&packs), entries: mark.entries, maps: mark.maps, first, packs })
    }

    /// Returns the hunk of what was added since the last one; `None` if nothing was.
    pub fn finish(&mut self) -> Option<Hunk> {
        if self.entries == 0 {
            return None;
        }
        let done = std::mem::take(self);
        let packs = done.packs.packs().to_vec();
        Some(Hunk {
            bytes: done.frame.finish(&packs),
            entries: done.entries,
            maps: done.maps,
            first: done.first,
            packs,
        })
    }
}

fn to_wire<'a>(entry: &'a Entry, packs: &mut PackNumbers) -> WireEntry<'a> {
    let extents = entry.extents.iter().map(|e| (e.pack.map(|p| packs.of(p)), e.offset, e.length)).collect();
    let map = entry.map.as_ref().map(|map| WireMap::of(map, packs));
    WireEntry {
        path: Cow::Borrowed(&entry.path),
        kind: entry.kind,
        size: entry.size,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        ctime: entry.ctime,
        inode: entry.inode,
        target: entry.target.as_ref().map(Cow::Borrowed),
        xattrs: Cow::Borrowed(&entry.xattrs),
        hash: entry.hash,
        link: entry.link.as_deref().map(Cow::Borrowed),
        racy: entry.racy,
        header: entry.header,
        extents,
        map,
        database: entry.database.as_ref().map(Cow::Borrowed),
    }
}

fn from_wire(wire: WireEntry, packs: &[PackId]) -> Result<Entry, String> {
    let pack = |n: u32| {
        packs.get(n as usize).copied().ok_or_else(|| format!("{}: pack number {n} of {}", wire.path, packs.len()))
    };
    let extents = wire
        .extents
        .iter()
        .map(|&(number, offset, length)| Ok(Extent { pack: number.map(pack).transpose()?, offset, length }));
    let map = wire.map.as_ref().map(|map| map.read(packs).map_err(|why| format!("{}: {why}", wire.path)));
    let entry = Entry {
        extents: extents.collect::<Result<_, String>>()?,
        map: map.transpose()?,
        path: wire.path.into_owned(),
        kind: wire.kind,
        size: wire.size,
        mode: wire.mode,
        uid: wire.uid,
        gid: wire.gid,
        mtime: wire.mtime,
        ctime: wire.ctime,
        inode: wire.inode,
        target: wire.target.map(Cow::into_owned),
        xattrs: wire.xattrs.into_owned(),
        hash: wire.hash,
        link: wire.link.map(Cow::into_owned),
        racy: wire.racy,
        header: wire.header,
        database: wire.database.map(Cow::into_owned),
    };
    entry.check()?;
    Ok(entry)
}

/// Returns the entries of a hunk.
///
/// # Errors
/// A text that says what is wrong with the bytes.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let (lines, packs) = Lines::parse("hunk", bytes)?;
    lines
        .map(|line| {
            let wire = serde_json::from_slice::<WireEntry>(line).map_err(|e| format!("an entry: {e}"))?;
            from_wire(wire, &packs)
        })
        .collect()
}

#[cfg(test)]
#[allow(missing_docs, reason = "for tests alone")]
pub mod tests {
    use super::*;
    use crate::vault::entry::{
        CaptureMethod, CheckKind, DatabaseCheck, Map, MapForm, MapFrame, PackUse, PageMap, Side,
    };
    use crate::vault::frame::FrameRef;
    use crate::vault::hex::Hex;
    use crate::vault::list::List;
    use proptest::prelude::*;

    /// Returns a strategy for entries of every shape that the format has.
    pub fn any_entry() -> impl Strategy<Value = Entry> {
        let name = prop::collection::vec(prop_oneof![Just(b'a'), Just(b'\\'), 1..=255u8], 1..20);
        let path = name.prop_filter_map("a path", |bytes| EntryPath::new(bytes).ok().filter(|p| !p.is_root()));
        let numbers = (any::<i64>(), any::<i64>(), any::<u64>(), 0..=0o7777u32, any::<u32>(), any::<bool>());
        let shape = (0..4u8, 0..2_000_000u64, any::<bool>(), prop::collection::vec(any::<u8>(), 0..9));
        (path, numbers, shape).prop_map(|(path, (mtime, ctime, inode, mode, uid, racy), (kind, size, long, value))| {
            let kind = [EntryKind::File, EntryKind::Folder, EntryKind::Symlink, EntryKind::Fifo][usize::from(kind)];
            let is_file = kind == EntryKind::File;
            let size = if is_file { size } else { 0 };
            let pack = |n| Hex([n; 16]);
            let mapped = is_file && size > 1_000_000;
            let mut extents = Vec::new();
            Extent { pack: Some(pack(1)), offset: size, length: 512 }.push(&mut extents);
            if !mapped {
                Extent { pack: Some(pack(2)), offset: 0, length: size }.push(&mut extents);
            }
            Extent::zeros(crate::vault::entry::padding(size)).push(&mut extents);
            let frame = FrameRef { pack: pack(3), offset: 7, length: 9, hash: Hash::of(b"frame") };
            let frames =
                if long { List::Frames(vec![frame]) } else { List::Items(vec![MapFrame { frame, content: size }]) };
            let paged = mapped && racy;
            let form = if paged {
                let live = vec![PackUse { pack: pack(2), live: size / 4096, stored: size }];
                let layers = vec![frames.clone(), List::Items(vec![]), frames];
                MapForm::Pages(PageMap { block: 4096, layers, live, credit: inode })
            } else {
                MapForm::Blocks(frames)
            };
            let check = DatabaseCheck { kind: CheckKind::Full, failed: long.then(|| "row 1 missing".to_owned()) };
            let database = Database {
                taken: if long { CaptureMethod::Live } else { CaptureMethod::Raw },
                wal: long.then_some(Side { size, mtime }),
                journal: (!long).then_some(Side { size: 0, mtime }),
                check: (size & 1 == 0).then_some(check),
            };
            Entry {
                path,
                kind,
                size,
                mode,
                uid,
                gid: uid ^ 1,
                mtime,
                ctime,
                inode,
                target: (kind == EntryKind::Symlink).then(|| EscapedBytes(b"../\xff\\".to_vec())),
                xattrs: if value.is_empty() {
                    vec![]
                } else {
                    vec![(EscapedBytes(b"user.x".to_vec()), EscapedBytes(value))]
                },
                hash: is_file.then(|| Hash::of(b"content")),
                link: (is_file && long).then(|| "2a-77".to_owned()),
                racy,
                header: 512,
                extents,
                map: mapped.then(|| Map { form, packs: vec![pack(2), pack(3)] }),
                database: paged.then_some(database),
            }
        })
    }

    proptest! {
        #[test]
        fn entries_come_back(entries in prop::collection::vec(any_entry(), 1..20)) {
            let mut builder = HunkBuilder::default();
            let mut hunks = Vec::new();
            for entry in &entries {
                hunks.extend(builder.push(entry).unwrap());
            }
            hunks.extend(builder.finish());
            let back: Vec<_> = hunks.iter().flat_map(|h| parse(&h.bytes).unwrap()).collect();
            prop_assert_eq!(back, entries);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), entry in any_entry(), at in any::<prop::sample::Index>(), byte: u8) {
            let _ = parse(&bytes);
            let mut builder = HunkBuilder::default();
            let mut hunk = builder.push(&entry).unwrap().or_else(|| builder.finish()).unwrap().bytes;
            let at = at.index(hunk.len());
            hunk[at] = byte;
            let _ = parse(&hunk);
        }
    }

    #[test]
    fn an_entry_that_is_too_long_is_refused_and_the_hunk_goes_on() {
        let entry = |name: &str, xattr: usize| {
            let path = EntryPath::new(name).unwrap();
            let extents = vec![Extent { pack: Some(Hex([1; 16])), offset: 0, length: 512 }];
            let xattrs = vec![(EscapedBytes(b"user.x".to_vec()), EscapedBytes(vec![0xff; xattr]))];
            Entry {
                path,
                kind: EntryKind::Folder,
                size: 0,
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: 0,
                ctime: 0,
                inode: 1,
                target: None,
                xattrs,
                hash: None,
                link: None,
                racy: false,
                header: 512,
                extents,
                map: None,
                database: None,
            }
        };
        let mut builder = HunkBuilder::default();
        assert!(builder.push(&entry("a", 100)).unwrap().is_none());
        let said = builder.push(&entry("b", 1 << 20)).unwrap_err().to_string();
        assert!(said.contains("extended attributes"), "{said}");
        assert!(builder.push(&entry("c", 100)).unwrap().is_none());
        let hunk = builder.finish().unwrap();
        let names: Vec<_> = parse(&hunk.bytes).unwrap().iter().map(|e| e.path.to_string()).collect();
        assert_eq!((names, hunk.entries), (vec!["a".to_owned(), "c".to_owned()], 2));
    }

    #[test]
    fn what_the_head_does_not_number_is_refused() {
        let bytes = b"{\"lastgood\":\"hunk\",\"packs\":[]}\n{\"path\":\"a\",\"type\":\"folder\",\"mode\":493,\"uid\":0,\"gid\":0,\
            \"mtime\":0,\"ctime\":0,\"inode\":1,\"extents\":[[0,0,512]]}\n";
        assert!(parse(bytes).unwrap_err().contains("pack number 0 of 0"));
    }

    /// In some years the hash of such a hole would turn out to be wrong.
    #[test]
    fn a_hole_without_an_end_is_refused() {
        let parsed = |size: u64| {
            let (pack, hash) = ("0".repeat(32), "ab".repeat(16));
            let line = format!(
                "{{\"lastgood\":\"hunk\",\"packs\":[\"{pack}\"]}}\n{{\"path\":\"a\",\"type\":\"file\",\"size\":{size},\
                 \"mode\":420,\"uid\":0,\"gid\":0,\"mtime\":0,\"ctime\":0,\"inode\":1,\"hash\":\"{hash}\",\
                 \"extents\":[[0,0,512],[null,0,{size}]]}}\n"
            );
            parse(line.as_bytes()).map(|entries| entries[0].size)
        };
        assert_eq!(parsed(1 << 48), Ok(1 << 48));
        assert!(parsed((1 << 48) + 512).unwrap_err().contains("impossible size"));
        assert!(parsed(1 << 60).unwrap_err().contains("impossible size"));
    }
}
