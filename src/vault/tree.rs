//! Reads a snapshot's entries, one after the other, and checks that they form a tree.
//!
//! The order is that of a depth-first walk, every entry lies in a folder that came before it, and no path comes twice.
//! So a reader that makes folders, files and links in this order never reaches a path through anything but folders that
//! it made itself, whatever a hostile vault says. If a faulty writer left out the entry of a folder, readers make that
//! folder.

mod check;
mod salvaged;

pub use self::check::{HunkSummary, Remark, SnapshotCheck, TreeCheck, link_group};
pub use self::salvaged::{HunksLeft, SalvagedHunk, hunks_left, read_left};
use super::decoder::Decoder;
use super::entry::{Entry, Extent, MapForm, MapFrame};
use super::frame::FrameRef;
use super::hunk;
use super::list::List;
use super::map::{self, BlockRun};
use super::pack::{self, PackKind};
use super::pages::Layered;
use super::read::PackReader;
use super::root::{HunkRef, Root};
use crate::error::{Error, Result};

/// Reads one hunk's entries.
///
/// # Errors
/// The store fails; damage.
pub fn read_hunk(packs: &PackReader, hunk: &HunkRef, decoder: &mut Decoder) -> Result<Vec<Entry>> {
    let entries = read_frame(packs, &hunk.frame, decoder)?;
    if entries.len() as u64 != hunk.entries || entries.first().is_some_and(|e| e.path != hunk.first) {
        let why = format!("the hunk of {} does not hold what the root says", hunk.first);
        return Err(Error::damage(format!("read {}", pack::name(PackKind::Index, hunk.frame.pack)), why));
    }
    Ok(entries)
}

/// Reads the entries of a hunk's frame, whatever a root says of it.
///
/// # Errors
/// The store fails; damage.
pub fn read_frame(packs: &PackReader, frame: &FrameRef, decoder: &mut Decoder) -> Result<Vec<Entry>> {
    let bytes = packs.index_frame(frame, decoder)?;
    let damage = |why: String| Error::damage(format!("read {}", pack::name(PackKind::Index, frame.pack)), why);
    hunk::parse(&bytes).map_err(damage)
}

/// Returns all hunks of a snapshot, in order.
///
/// # Errors
/// The store fails; damage.
pub fn hunks(packs: &PackReader, root: &Root) -> Result<Vec<HunkRef>> {
    packs.all(&root.hunks)
}

/// An item that a reader of a whole snapshot meets.
#[derive(Debug)]
pub enum TreeItem {
    /// The next entry.
    Entry(Box<Entry>),
    /// Something that is wrong with the snapshot. A missing folder comes before the entries in it.
    Remark(Remark),
}

/// Calls `take` with every entry of a snapshot, in order and checked to form a tree, and with everything that is wrong
/// but need not stop a reader.
///
/// # Errors
/// The store fails; damage; the errors of `take`.
pub fn each_step(packs: &PackReader, root: &Root, mut take: impl FnMut(TreeItem) -> Result<()>) -> Result<()> {
    let mut check = SnapshotCheck::default();
    let mut decoder = Decoder::new()?;
    packs.each(&root.hunks, |hunk: HunkRef| {
        for entry in read_hunk(packs, &hunk, &mut decoder)? {
            check.next(&entry)?.into_iter().map(TreeItem::Remark).try_for_each(&mut take)?;
            take(TreeItem::Entry(Box::new(entry)))?;
        }
        Ok(())
    })?;
    check.finish().into_iter().map(TreeItem::Remark).try_for_each(take)
}

/// Calls `take` with every entry of a snapshot, and accepts only what writers make: every remark of [`each_step`]
/// counts as damage.
///
/// # Errors
/// The store fails; damage; the errors of `take`.
pub fn each_entry(packs: &PackReader, root: &Root, mut take: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    each_step(packs, root, |step| match step {
        TreeItem::Entry(entry) => take(*entry),
        TreeItem::Remark(remark) if remark.is_damage() => Err(Error::damage("read the entries of a snapshot", remark)),
        TreeItem::Remark(_) => Ok(()),
    })
}

/// Calls `take` with every frame of a map, in order.
///
/// # Errors
/// The store fails; damage; the errors of `take`.
pub fn each_map_frame(
    packs: &PackReader,
    frames: &List<MapFrame>,
    mut take: impl FnMut(FrameRef, u64) -> Result<()>,
) -> Result<()> {
    packs.each(frames, |part| take(part.frame, part.content))
}

/// Calls `take` with every extent of a file's map, in the order of the file, and checks that they add up to the file's
/// size.
///
/// # Errors
/// The store fails; damage; the errors of `take`.
pub fn each_run(packs: &PackReader, entry: &Entry, mut take: impl FnMut(Extent) -> Result<()>) -> Result<()> {
    let wrong = || Error::damage(format!("read the map of {}", entry.path), "it does not add up to the file's size");
    let mut left = entry.size;
    match entry.map.as_ref().map(|map| &map.form) {
        None => return Ok(()),
        Some(MapForm::Blocks(frames)) => {
            let mut decoder = Decoder::new()?;
            each_map_frame(packs, frames, |frame, content| {
                let runs = read_map_frame(packs, &frame, &mut decoder)?;
                covers(entry, runs_length(&runs), content)?;
                left = left.checked_sub(content).ok_or_else(wrong)?;
                runs.into_iter().try_for_each(|run| take(run.extent))
            })?;
        }
        Some(MapForm::Pages(map)) => {
            let mut layers = Layered::without_tags(packs, map, entry.size)?;
            let mut next = 0;
            // Runs of two layers may lie right behind each other in one pack.
            let mut last: Option<Extent> = None;
            while let Some((block, extent)) = layers.next_run()? {
                if block != next {
                    let why = format!("no layer says where the block {next} is");
                    return Err(Error::damage(format!("read the map of {}", entry.path), why));
                }
                next = block + extent.length.div_ceil(u64::from(map.block));
                left = left.checked_sub(extent.length).ok_or_else(wrong)?;
                last = match last {
                    Some(last) if last.continued_by(&extent) => {
                        Some(Extent { length: last.length + extent.length, ..last })
                    }
                    Some(last) => {
                        take(last)?;
                        Some(extent)
                    }
                    None => Some(extent),
                };
            }
            last.map_or(Ok(()), &mut take)?;
        }
    }
    if left == 0 { Ok(()) } else { Err(wrong()) }
}

/// Returns how many bytes of a file these runs hold.
pub fn runs_length(runs: &[BlockRun]) -> u64 {
    runs.iter().fold(0, |sum, run| sum.saturating_add(run.extent.length))
}

/// Checks that a frame of a file's map covers as many bytes (`length`) as the map says (`content`).
///
/// # Errors
/// Damage: it does not.
pub fn covers(entry: &Entry, length: u64, content: u64) -> Result<()> {
    if length == content {
        return Ok(());
    }
    let why = format!("it does not add up: a frame covers {length} bytes where {content} belong");
    Err(Error::damage(format!("read the map of {}", entry.path), why))
}

/// Reads the runs of one frame of a map.
///
/// # Errors
/// The store fails; damage.
pub fn read_map_frame(packs: &PackReader, frame: &FrameRef, decoder: &mut Decoder) -> Result<Vec<BlockRun>> {
    let bytes = packs.index_frame(frame, decoder)?;
    map::parse(&bytes).map_err(|why| Error::damage(format!("read {}", pack::name(PackKind::Index, frame.pack)), why))
}
