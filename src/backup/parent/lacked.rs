//! Finds what older snapshots know of entries that the parent could not read, or not at rest.

use std::collections::HashMap;

use super::{OLDER, Parent, ParentEntry, join_units};
use crate::error::{Kind, Result};
use crate::path::EntryPath;
use crate::source::place::Terms;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, MapFrame};
use crate::vault::list::List;
use crate::vault::root::{Problem, Root, SnapshotName, SnapshotState};
use crate::vault::{Vault, tree};

/// Most entries that the parent could not read and that are looked for in older snapshots.
const MISSED: usize = 1000;

impl Parent<'_> {
    /// Looks in older snapshots for the entries that the parent could not read, so that a large file that was locked
    /// once is not sent whole the next time.
    pub(super) fn find_missed(
        &mut self,
        vault: &Vault,
        names: &[SnapshotName],
        parent: SnapshotName,
        root: &Root,
        terms: impl Fn(&Root) -> Terms,
        warn: &mut impl FnMut(String),
    ) -> Result<()> {
        let mut wanted: Vec<EntryPath> = Vec::new();
        let mut loaded = Vec::new();
        match self.packs.all(&root.problems) {
            Ok(problems) => wanted.extend(problems.into_iter().map(|problem: Problem| problem.path).take(MISSED)),
            // The list only saves reading.
            Err(why) if why.kind() == Kind::Damage => {
                warn(format!("the list of what the snapshot {parent} lacks cannot be read: {why}"));
            }
            Err(why) => return Err(why),
        }
        for name in names.iter().rev().filter(|name| **name < parent).take(OLDER) {
            if wanted.is_empty() {
                break;
            }
            let root = match vault.root(*name) {
                Ok(root) if root.state != SnapshotState::Suspect => root,
                Ok(_) => continue,
                // This was reported when the parent was looked for, or a verify run reports it.
                Err(why) if why.is_unusable_content() => continue,
                Err(why) => return Err(why),
            };
            let Some((packs, hunks)) = self.load(&root, &format!("the snapshot {name}"), warn)? else {
                continue;
            };
            let reader = self.packs.with(packs);
            let mut decoder = Decoder::new()?;
            let (mut read, mut left): (Option<(usize, Vec<Entry>)>, Vec<EntryPath>) = (None, Vec::new());
            for path in wanted {
                let Some(at) = hunks.partition_point(|hunk| hunk.first <= path).checked_sub(1) else {
                    left.push(path);
                    continue;
                };
                if read.as_ref().is_none_or(|(number, _)| *number != at) {
                    match tree::read_hunk(&reader, &hunks[at], &mut decoder) {
                        Ok(entries) => read = Some((at, entries)),
                        Err(why) if why.kind() == Kind::Damage => {
                            warn(format!("what the snapshot {name} has of {path} cannot be used: {why}"));
                            left.push(path);
                            continue;
                        }
                        Err(why) => return Err(why),
                    }
                }
                let entry = read.iter().flat_map(|(_, entries)| entries).find(|entry| entry.path == path);
                match entry.and_then(|entry| self.known(entry.clone(), terms(&root))) {
                    Some(mut known) => {
                        join_units(std::slice::from_mut(&mut known));
                        self.missed.push(known);
                        loaded.extend(reader.book().values().copied());
                    }
                    None => left.push(path),
                }
            }
            wanted = left;
        }
        self.packs.learn(loaded);
        Ok(())
    }

    /// Reads the torn reads of the parent: most of a file that never rests is the same as the last time.
    pub(super) fn find_torn_reads(
        &mut self,
        name: SnapshotName,
        root: &Root,
        warn: &mut impl FnMut(String),
    ) -> Result<()> {
        let read = || -> Result<_> {
            let (mut found, mut decoder) = (HashMap::new(), Decoder::new()?);
            for hunk in self.packs.all(&root.torn_reads)?.iter().filter(|hunk| hunk.maps > 0) {
                let entries = tree::read_hunk(&self.packs, hunk, &mut decoder)?.into_iter();
                let large = entries.filter(|entry| entry.map.is_some());
                found.extend(large.map(|entry| (entry.path.clone(), Box::new(entry))));
            }
            Ok(found)
        };
        match read() {
            Ok(found) => self.torn_reads = found,
            Err(why) if why.kind() == Kind::Damage => {
                warn(format!(
                    "what was read of files while they changed, for the snapshot {name}, cannot be used: {why}"
                ));
            }
            Err(why) => return Err(why),
        }
        Ok(())
    }

    /// Returns the map of a large file that the parent read torn.
    pub fn torn_read(&self, path: &EntryPath) -> Option<&List<MapFrame>> {
        self.torn_reads.get(path)?.map.as_ref()?.blocks()
    }

    /// Returns what older snapshots know of entries that the parent could not read.
    pub fn missed(&self) -> HashMap<EntryPath, ParentEntry> {
        self.missed.iter().map(|known| (known.entry.path.clone(), known.clone())).collect()
    }
}
