//! Finds chosen paths in a snapshot, and the side files of databases among them.

use super::side_files::{self, SideFilePaths};
use crate::error::{Code, Error, Kind, Result};
use crate::path::EntryPath;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{CaptureMethod, Entry, EntryKind};
use crate::vault::read::PackReader;
use crate::vault::root::Root;
use crate::vault::tree::{self, HunksLeft};

/// Checks that the snapshot has all of `paths`. Returns their side files.
pub(crate) fn locate(
    packs: &PackReader,
    root: &Root,
    paths: &[EntryPath],
    skip_damaged: bool,
) -> Result<SideFilePaths> {
    let HunksLeft { hunks, lost } = match skip_damaged {
        true => tree::hunks_left(packs, root)?,
        false => HunksLeft { hunks: tree::hunks(packs, root)?, lost: Vec::new() },
    };
    let mut decoder = Decoder::new()?;
    // Neighbouring paths are mostly in one hunk.
    let mut read: Option<(usize, Vec<Entry>, bool)> = None;
    let mut find = |path: &EntryPath| -> Result<Located> {
        let after = hunks.partition_point(|hunk| hunk.first <= *path);
        if read.as_ref().is_none_or(|(at, ..)| *at != after) {
            let (entries, damaged) = match after.checked_sub(1).map(|n| &hunks[n]) {
                None => (Vec::new(), false),
                Some(hunk) if skip_damaged => match tree::read_left(packs, hunk, &mut decoder) {
                    Ok(left) => (left.entries, !left.bad.is_empty()),
                    Err(why) if why.kind() == Kind::Damage => return Ok(Located::Unknown),
                    Err(why) => return Err(why),
                },
                Some(hunk) => (tree::read_hunk(packs, hunk, &mut decoder)?, false),
            };
            read = Some((after, entries, damaged));
        }
        let (entries, damaged) = read.as_ref().map_or((&[][..], false), |(_, entries, bad)| (&entries[..], *bad));
        // A folder may have no entry of its own; it is made then.
        let holds = entries.iter().any(|entry| entry.path.is_in(path))
            || hunks.get(after).is_some_and(|hunk| hunk.first.is_in(path));
        Ok(match entries.iter().find(|entry| entry.path == *path) {
            Some(entry) => Located::There(Box::new(entry.clone())),
            None if holds || damaged || !lost.is_empty() => Located::Unknown,
            None => Located::Nowhere,
        })
    };
    let mut sides = SideFilePaths::default();
    let of_another = |path: &EntryPath| paths.iter().any(|other| side_files::sides(other).any(|side| side == *path));
    for path in paths {
        let entry = match find(path)? {
            Located::There(entry) => entry,
            // The report will say what is lost.
            Located::Unknown => continue,
            // It belongs to a database as another snapshot has it; this snapshot's database is whole without it.
            Located::Nowhere if of_another(path) => {
                sides.lacking.push(path.clone());
                continue;
            }
            Located::Nowhere => {
                return Err(Error::usage(format!("find {path}"), "the snapshot has no such entry")
                    .with_code(Code::UnknownPath)
                    .hint("`lastgood ls SNAPSHOT` shows what it has."));
            }
        };
        if entry.kind != EntryKind::File {
            continue;
        }
        // If the backup did not look for databases, any file may be one.
        let is_raw = entry.database.is_none_or(|database| database.taken == CaptureMethod::Raw);
        for side in side_files::sides(path) {
            match find(&side)? {
                Located::There(entry) if is_raw && entry.kind == EntryKind::File => sides.there.push(side),
                Located::Nowhere => sides.lacking.push(side),
                Located::There(_) | Located::Unknown => {}
            }
        }
    }
    Ok(sides)
}

/// Whether an entry is in a snapshot.
enum Located {
    There(Box<Entry>),
    /// It has no entry of its own, but entries lie in it, or a part of the entries was lost.
    Unknown,
    Nowhere,
}
