//! A snapshot's entries, one after the other, checked to be a tree.
//!
//! The order is that of a depth-first walk, every entry lies in a folder that came before it, and no path comes twice. So
//! a reader that makes folders, files and links in this order never reaches a path through anything but folders that it
//! made itself, whatever a hostile vault says.

use super::entry::{Entry, Extent, FrameRef, Kind, MapForm, MapFrame};
use super::hunk;
use super::list::List;
use super::map::{self, Run};
use super::pack::{self, PackKind};
use super::pages::Layered;
use super::path::EntryPath;
use super::read::{Decoder, PackReader};
use super::root::{HunkRef, Root};
use crate::error::{Error, Result};

/// Checks that entries come as a depth-first walk gives them.
#[derive(Debug, Default)]
pub struct TreeCheck {
    last: Option<EntryPath>,
    /// The folders above the last entry, outermost first.
    open: Vec<EntryPath>,
}

impl TreeCheck {
    /// Takes the next entry.
    ///
    /// # Errors
    /// Damage: an entry out of order, twice, or not in a folder.
    pub fn next(&mut self, entry: &Entry) -> Result<()> {
        let wrong = |why: &str| Err(Error::damage("read the entries of a snapshot", format!("{} {why}", entry.path)));
        match &self.last {
            Some(last) if *last >= entry.path => return wrong(&format!("comes after {last}, where it cannot be")),
            None if !entry.path.is_root() => return wrong("comes first, before the data directory itself"),
            _ => {}
        }
        if let Some(parent) = entry.path.parent() {
            while self.open.last().is_some_and(|folder| folder.bytes() != parent) {
                self.open.pop();
            }
            if self.open.is_empty() {
                return wrong("is not in a folder");
            }
        }
        if entry.kind == Kind::Folder {
            self.open.push(entry.path.clone());
        }
        self.last = Some(entry.path.clone());
        Ok(())
    }
}

/// Reads one hunk's entries.
///
/// # Errors
/// A store that fails; damage.
pub fn read_hunk(packs: &PackReader, hunk: &HunkRef, decoder: &mut Decoder) -> Result<Vec<Entry>> {
    let bytes = packs.index_frame(&hunk.frame, decoder)?;
    let damage = |why: String| Error::damage(format!("read {}", pack::name(PackKind::Index, hunk.frame.pack)), why);
    let entries = hunk::parse(&bytes).map_err(damage)?;
    if entries.len() as u64 != hunk.entries || entries.first().is_some_and(|e| e.path != hunk.first) {
        return Err(damage(format!("the hunk of {} does not hold what the root says", hunk.first)));
    }
    Ok(entries)
}

/// All hunks of a snapshot, in order.
///
/// # Errors
/// A store that fails; damage.
pub fn hunks(packs: &PackReader, root: &Root) -> Result<Vec<HunkRef>> {
    let mut hunks = Vec::new();
    packs.each(&root.hunks, |hunk| {
        hunks.push(hunk);
        Ok(())
    })?;
    Ok(hunks)
}

/// Calls `take` with every entry of a snapshot, in order, checked to be a tree.
///
/// # Errors
/// A store that fails; damage; those of `take`.
pub fn each_entry(packs: &PackReader, root: &Root, mut take: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut check = TreeCheck::default();
    let mut decoder = Decoder::new()?;
    packs.each(&root.hunks, |hunk: HunkRef| {
        for entry in read_hunk(packs, &hunk, &mut decoder)? {
            check.next(&entry)?;
            take(entry)?;
        }
        Ok(())
    })
}

/// Calls `take` with every frame of a map, in order.
///
/// # Errors
/// A store that fails; damage; those of `take`.
pub fn each_map_frame(
    packs: &PackReader,
    frames: &List<MapFrame>,
    mut take: impl FnMut(FrameRef, u64) -> Result<()>,
) -> Result<()> {
    packs.each(frames, |part| take(part.frame, part.content))
}

/// Calls `take` with every extent of a file's map, in the order of the file, and checks that they add up to it.
///
/// # Errors
/// A store that fails; damage; those of `take`.
pub fn each_run(packs: &PackReader, entry: &Entry, mut take: impl FnMut(Extent) -> Result<()>) -> Result<()> {
    let wrong = || Error::damage(format!("read the map of {}", entry.path), "it does not add up to the file's size");
    let mut left = entry.size;
    match entry.map.as_ref().map(|map| &map.form) {
        None => return Ok(()),
        Some(MapForm::Blocks(frames)) => {
            let mut decoder = Decoder::new()?;
            each_map_frame(packs, frames, |frame, content| {
                let mut sum = 0u64;
                for run in read_map_frame(packs, &frame, &mut decoder)? {
                    sum = sum.saturating_add(run.extent.length);
                    left = left.checked_sub(run.extent.length).ok_or_else(wrong)?;
                    take(run.extent)?;
                }
                if sum == content { Ok(()) } else { Err(wrong()) }
            })?;
        }
        Some(MapForm::Pages(map)) => {
            let mut layers = Layered::without_tags(packs, map, entry.size)?;
            let mut next = 0;
            // Runs of two layers may lie one after the other in one pack.
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

/// Reads the runs of one frame of a map.
///
/// # Errors
/// A store that fails; damage.
pub fn read_map_frame(packs: &PackReader, frame: &FrameRef, decoder: &mut Decoder) -> Result<Vec<Run>> {
    let bytes = packs.index_frame(frame, decoder)?;
    map::parse(&bytes).map_err(|why| Error::damage(format!("read {}", pack::name(PackKind::Index, frame.pack)), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: EntryPath::new(path).unwrap(),
            kind,
            size: 0,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            ctime: 0,
            inode: 0,
            target: None,
            xattrs: vec![],
            hash: None,
            link: None,
            racy: false,
            header: 512,
            extents: vec![],
            map: None,
            database: None,
        }
    }

    fn check(paths: &[(&str, Kind)]) -> Result<()> {
        let mut check = TreeCheck::default();
        paths.iter().try_for_each(|(path, kind)| check.next(&entry(path, *kind)))
    }

    #[test]
    fn only_trees_pass() {
        use Kind::{File, Folder, Symlink};
        let root = (".", Folder);
        assert!(check(&[root, ("a", Folder), ("a/b", Folder), ("a/b/c", File), ("a/d", File), ("b", File)]).is_ok());
        for bad in [
            &[("a", File)][..],
            &[root, root],
            &[root, ("a", File), ("a", File)],
            &[root, ("b", File), ("a", File)],
            &[root, ("a/b", File)],
            &[root, ("a", Symlink), ("a/b", File)],
            &[root, ("a", File), ("a/b", File)],
            &[root, ("a", Folder), ("b", Folder), ("a/c", File)],
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
