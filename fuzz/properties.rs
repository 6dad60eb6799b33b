//! What must hold for arbitrary bytes, one function for each parser of the format: it never panics, and what it takes is
//! what it says it is. The fuzz targets and `tests/fuzz_corpus.rs` both call these functions; they panic where it does not hold.

use std::fmt::Debug;
use std::path::{Component, Path};

use lastgood::path::{EntryPath, EscapedBytes, escape, unescape};
use lastgood::vault::entry::{Entry, Extent, MAX_HEADER, MapFrame, TAR_BLOCK, padding};
use lastgood::vault::hex::{Hash, PackId};
use lastgood::vault::lines::FrameBuilder;
use lastgood::vault::map::{self, BlockRun, MapBuilder};
use lastgood::vault::pack::{MAX_FRAME, PackInfo, SeekTable, Tail, write_table};
use lastgood::vault::pages::{self, LayerBuilder, Placed};
use lastgood::vault::root::{DatabaseRecord, FORMAT, HunkRef, Problem, Root};
use lastgood::vault::{hunk, list, tar};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A root that is taken is of this format, and is the same after it was written again.
pub fn root(bytes: &[u8]) {
    let Ok(root) = Root::parse_bytes(bytes) else { return };
    assert_eq!(root.format, FORMAT);
    let (name, again) = root.encode().unwrap();
    assert_eq!(Root::parse(name, &again).unwrap(), root);
    assert!(Root::parse(name, &again[1..]).is_err(), "the name does not guard the bytes");
}

/// The entries of a hunk stay in the target, have extents that add up, and are the same after they were written again.
pub fn hunk(bytes: &[u8]) {
    let Ok(entries) = hunk::parse(bytes) else { return };
    for entry in &entries {
        stays_inside(&entry.path);
        adds_up(entry);
        assert_eq!(tar::header(entry).len() as u64 % TAR_BLOCK, 0);
    }
    let mut builder = hunk::HunkBuilder::default();
    let mut hunks = Vec::new();
    for entry in &entries {
        hunks.extend(builder.push(entry).unwrap());
    }
    hunks.extend(builder.finish());
    let again: Vec<Entry> = hunks.iter().flat_map(|h| hunk::parse(&h.bytes).unwrap()).collect();
    assert_eq!(again, entries);
}

fn adds_up(entry: &Entry) {
    let sum = |extents: &[Extent]| extents.iter().map(|e| u128::from(e.length)).sum::<u128>();
    assert!(entry.header > 0 && entry.header <= MAX_HEADER);
    assert_eq!(sum(&entry.header_extents()), u128::from(entry.header));
    let content = if entry.map.is_some() { 0 } else { entry.size };
    assert_eq!(sum(&entry.content_extents()), u128::from(content));
    assert_eq!(sum(&entry.extents), u128::from(entry.header + content + padding(entry.size)));
}

/// The runs of a map are not empty, their blocks add up, and are the same after they were written again.
pub fn map(bytes: &[u8]) {
    let Ok(runs) = map::parse(bytes) else { return };
    for run in &runs {
        assert!(run.extent.length > 0);
        let blocks: u64 = run.blocks.iter().map(|(length, _)| u64::from(*length)).sum();
        assert!(run.blocks.is_empty() || blocks == run.extent.length);
    }
    // No writer makes these, and a builder has no form for them: content without hashes, blocks of nothing, and more
    // bytes than the largest file has.
    let odd = |run: &BlockRun| match run.blocks.is_empty() {
        true => run.extent.pack.is_some(),
        false => run.blocks.iter().any(|(length, _)| *length == 0),
    };
    let total = runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.extent.length));
    if total.is_none() || runs.iter().any(odd) {
        return;
    }
    let mut builder = MapBuilder::default();
    let mut parts = Vec::new();
    for run in &runs {
        let mut offset = run.extent.offset;
        for (length, hash) in &run.blocks {
            let length = u64::from(*length);
            parts.extend(builder.push(Extent { offset, length, ..run.extent }, *hash));
            offset += length;
        }
        if run.blocks.is_empty() {
            parts.extend(builder.push_hole(run.extent.length));
        }
    }
    parts.extend(builder.finish());
    assert_eq!(Some(parts.iter().map(|p| p.content).sum()), total);
    let again = parts.iter().flat_map(|p| map::parse(&p.bytes).unwrap()).collect::<Vec<_>>();
    assert_eq!(blocks(&again), blocks(&runs));
}

/// Every block of a map with where it is, however the blocks are joined to runs.
fn blocks(runs: &[BlockRun]) -> Vec<(Option<PackId>, u64, u64, Option<Hash>)> {
    let mut out = Vec::new();
    for run in runs {
        let mut offset = run.extent.offset;
        let mut add = |length: u64, hash| {
            out.push((run.extent.pack, if run.extent.pack.is_some() { offset } else { 0 }, length, hash));
            offset += length;
        };
        run.blocks.iter().for_each(|(length, hash)| add(u64::from(*length), Some(*hash)));
        if run.blocks.is_empty() {
            add(run.extent.length, None);
        }
    }
    out
}

/// The blocks of a frame of a page map ascend, are not empty and not longer than a block, and are the same after they were
/// written again.
pub fn pages(bytes: &[u8]) {
    for block in [1024, 4096] {
        let Ok(blocks) = pages::parse(bytes, block) else { continue };
        assert!(blocks.len() as u64 <= pages::MAX_BLOCKS);
        assert!(blocks.windows(2).all(|pair| pair[0].block < pair[1].block));
        for Placed { extent, .. } in &blocks {
            assert!((1..=u64::from(block)).contains(&extent.length));
            assert!(if extent.pack.is_some() { extent.end() <= 1 << 48 } else { extent.offset == 0 });
        }
        let pieces = pages::parse_pieces(bytes, block, false).unwrap();
        assert_eq!(pieces.list, pages::parse_pieces(bytes, block, true).unwrap().list);
        let mut builder = LayerBuilder::new(block);
        let mut parts: Vec<_> = blocks.iter().filter_map(|placed| builder.push(placed)).collect();
        parts.extend(builder.finish());
        let content = blocks.iter().map(|placed| placed.extent.length).sum::<u64>();
        assert_eq!(parts.iter().map(|part| part.content).sum::<u64>(), content);
        let again: Vec<_> = parts.iter().flat_map(|part| pages::parse(&part.bytes, block).unwrap()).collect();
        assert_eq!(again, blocks);
    }
}

/// A seek table of an object whose size is the first 8 bytes, little-endian, and whose end is the rest: what is taken is
/// the one table with these frames, they follow each other, and a range is covered by the frames that it needs.
pub fn seek_table(bytes: &[u8]) {
    let Some((size, tail)) = bytes.split_first_chunk() else { return };
    let size = u64::from_le_bytes(*size);
    let table = match SeekTable::parse(tail, size) {
        Ok(Tail::Table(table)) => table,
        Ok(Tail::Longer(wanted)) => return assert!(wanted > tail.len() as u64 && wanted <= size),
        Err(_) => return,
    };
    let written = write_table(table.frames().iter().map(|f| (f.compressed, f.length)));
    assert!(tail.ends_with(&written));
    let (mut at, mut offset) = (0, 0);
    for (n, frame) in table.frames().iter().enumerate() {
        assert_eq!((frame.at, frame.offset), (at, offset));
        assert!(frame.length as usize <= MAX_FRAME);
        assert_eq!(table.covering(offset, u64::from(frame.length)), Some(n..n + 1));
        at += u64::from(frame.compressed);
        offset += u64::from(frame.length);
    }
    assert_eq!(at + written.len() as u64, size);
    assert_eq!(table.content(), offset);
    assert_eq!(table.covering(0, offset), Some(0..table.frames().len()));
    assert_eq!(table.covering(0, offset + 1), None);
    assert_eq!(table.covering(u64::MAX, 1), None);
}

/// The items of a list frame, of each type that lists have, are the same after they were written again.
pub fn list(bytes: &[u8]) {
    items::<HunkRef>(bytes);
    items::<PackInfo>(bytes);
    items::<MapFrame>(bytes);
    items::<Problem>(bytes);
    items::<DatabaseRecord>(bytes);
}

fn items<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(items) = list::parse::<T>(bytes) else { return };
    let mut frame = FrameBuilder::new("list");
    items.iter().for_each(|item| frame.line(&serde_json::to_vec(item).unwrap()));
    assert_eq!(list::parse::<T>(&frame.finish(&[])).unwrap(), items);
}

/// Any bytes have one spelling that says them; any text that is taken for a spelling says some bytes; and what is taken for
/// a path stays below the folder that it is joined to.
pub fn entry_path(bytes: &[u8]) {
    assert_eq!(unescape(&escape(bytes)).unwrap(), bytes);
    let json = serde_json::to_string(&EscapedBytes(bytes.to_vec())).unwrap();
    assert_eq!(serde_json::from_str::<EscapedBytes>(&json).unwrap().0, bytes);
    if let Ok(said) = unescape(&String::from_utf8_lossy(bytes)) {
        assert_eq!(unescape(&escape(&said)).unwrap(), said);
        taken_as_path(said);
    }
    taken_as_path(bytes.to_vec());
    // As JSON: what a hostile hunk can say.
    if let Ok(path) = serde_json::from_slice::<EntryPath>(bytes) {
        stays_inside(&path);
    }
}

fn taken_as_path(bytes: Vec<u8>) {
    let Ok(path) = EntryPath::new(bytes) else { return };
    stays_inside(&path);
    let json = serde_json::to_string(&path).unwrap();
    assert_eq!(serde_json::from_str::<EntryPath>(&json).unwrap(), path);
}

fn stays_inside(path: &EntryPath) {
    let target = Path::new("/target");
    let joined = target.join(path.as_path());
    let below = joined.strip_prefix(target).unwrap();
    assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    assert_eq!(below.components().count(), path.as_path().components().count());
    assert!(!path.bytes().contains(&0) && path.is_in(&EntryPath::root()));
    assert_eq!(path.is_root(), below.as_os_str().is_empty());
}
