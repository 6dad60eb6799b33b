//! The one way into a snapshot's entries: what is put here is what every reader requires, or it is refused.
//!
//! Readers require that entries come in the order of a depth-first walk, each in a folder that came before; that what is
//! called a link of one file has one content; that a raw database has the files beside it that it was taken with; and that
//! the numbers in the root are those of the entries. All of it is checked here while a snapshot is written, since what a
//! reader finds later cannot be mended any more.
//!
//! What belongs together, a raw database and the files beside it, is a *unit*. A hunk ends between units, and a checkpoint
//! covers whole units.

use std::collections::{BTreeSet, HashSet};

use super::base::recorded_sides;
use super::index::IndexWriter;
use super::merge::content_mark;
use super::sqlite::beside::database_of;
use crate::error::{Error, Result};
use crate::vault::entry::{Entry, Kind};
use crate::vault::hex::PackId;
use crate::vault::hunk::{Hunk, HunkBuilder};
use crate::vault::path::EntryPath;
use crate::vault::root::{HunkRef, Totals};
use crate::vault::tree::TreeCheck;

/// Writes entries into hunks.
#[derive(Debug, Default)]
pub struct SnapshotWriter {
    builder: HunkBuilder,
    tree: TreeCheck,
    /// The finished hunks.
    hunks: Vec<HunkRef>,
    /// Every pack that they reach.
    reached: HashSet<PackId>,
    totals: Totals,
    /// The last entry.
    last: EntryPath,
    /// How many of the hunks end between units, and the last entry of those.
    whole: (usize, EntryPath),
    /// The last entry before the unit that is open, if one is.
    before: EntryPath,
    /// Files that belong to units whose first file was put, and have not come.
    open: BTreeSet<EntryPath>,
}

/// What was written, for a root.
#[derive(Debug, Clone)]
pub struct Written {
    /// The hunks, in order.
    pub hunks: Vec<HunkRef>,
    /// Every pack that they reach.
    pub reached: HashSet<PackId>,
    /// Sums over their entries.
    pub totals: Totals,
    /// The path of the last entry.
    pub until: EntryPath,
}

/// Why an entry was not put.
#[derive(Debug)]
pub enum Refused {
    /// No reader would take this entry, and why: all others can be.
    Entry(String),
    /// The snapshot cannot be written.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(why: Error) -> Self {
        Refused::Failed(why)
    }
}

impl SnapshotWriter {
    /// Puts the next entry in path order.
    ///
    /// # Errors
    /// An entry that readers would refuse, or that does not fit to those before it; a store that fails.
    pub fn put(&mut self, entry: &Entry, index: &mut IndexWriter) -> Result<(), Refused> {
        let wrong = |why: &str| {
            let doing = format!("put {} into the snapshot", entry.path);
            Err(Refused::Failed(Error::failed(doing, format!("{why}; this is a fault of lastgood"))))
        };
        if let Some(side) = self.open.first().filter(|side| **side < entry.path) {
            return wrong(&format!("{side}, which belongs to a database before it, is missing"));
        }
        if let (Some(link), Some(hash)) = (&entry.link, &entry.hash)
            && !link.ends_with(&content_mark(hash))
        {
            return wrong("the name of its group of hard links is not that of its content");
        }
        let mut open = self.open.clone();
        open.remove(&entry.path);
        open.extend(recorded_sides(entry));
        let begins = self.open.is_empty() && !open.is_empty();
        let hunk =
            self.builder.push_within(entry, begins, !open.is_empty()).map_err(|why| Refused::Entry(why.what()))?;
        // Whatever could be taken back is checked before, this by all that came.
        let missing = self.tree.next(&entry.path, entry.kind == Kind::Folder);
        match missing.map_err(|why| Refused::Failed(Error::failed("write the snapshot", why)))?.first() {
            Some(missing) => return wrong(&format!("the folder {missing} is missing")),
            None => {}
        }
        if let Some(side) = Some(&entry.path).filter(|path| self.open.contains(*path))
            && entry.kind != Kind::File
        {
            return wrong(&format!("{side} is no file, and belongs to a database"));
        }
        if begins {
            self.before = self.last.clone();
        }
        self.open = open;
        self.totals.entries += 1;
        self.totals.files += u64::from(entry.kind == Kind::File);
        self.totals.bytes += entry.size;
        self.last = entry.path.clone();
        if let Some(hunk) = hunk {
            self.hunk(hunk, index)?;
            self.between_units();
        }
        Ok(())
    }

    fn between_units(&mut self) {
        if self.open.is_empty() {
            self.whole = (self.hunks.len(), self.last.clone());
        }
    }

    /// Counts the bytes of a file that lies beside a raw database.
    pub fn count_beside(&mut self, bytes: u64) {
        self.totals.beside += bytes;
    }

    fn hunk(&mut self, hunk: Hunk, index: &mut IndexWriter) -> Result<()> {
        let frame = index.store(&hunk.bytes)?;
        self.reached.extend(hunk.packs.iter().chain([&frame.pack]));
        self.hunks.push(HunkRef { frame, entries: hunk.entries, first: hunk.first, maps: hunk.maps });
        Ok(())
    }

    /// What a checkpoint may say is done. None if that is nothing.
    ///
    /// It covers whole units only: a program that built upon a database without its journal would take it for unchanged, and
    /// the journal for nothing. While a unit is open, entries that come between its files in the order of paths wait with it.
    ///
    /// # Errors
    /// A store that fails.
    pub fn checkpoint(&mut self, index: &mut IndexWriter) -> Result<Option<Written>> {
        if self.open.is_empty() {
            if let Some(hunk) = self.builder.finish() {
                self.hunk(hunk, index)?;
            }
            self.between_units();
        } else if let Some(hunk) = self.builder.finish_marked() {
            // The hunks before it ended with whole units, and so does this one.
            self.hunk(hunk, index)?;
            self.whole = (self.hunks.len(), self.before.clone());
        }
        let (count, until) = self.whole.clone();
        let hunks = self.hunks[..count].to_vec();
        let written = Written { hunks, reached: self.reached.clone(), totals: self.totals, until };
        Ok((count > 0).then_some(written))
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// One that is not whole: readers would refuse it. A store that fails.
    pub fn finish(&mut self, index: &mut IndexWriter) -> Result<Written> {
        let wrong = |why: String| Err(Error::failed("end the snapshot", format!("{why}; this is a fault of lastgood")));
        if let Some(side) = self.open.first() {
            return wrong(format!("{side}, which belongs to a database, is missing"));
        }
        if let Some(hunk) = self.builder.finish() {
            self.hunk(hunk, index)?;
        }
        let entries: u64 = self.hunks.iter().map(|hunk| hunk.entries).sum();
        if entries == 0 || entries != self.totals.entries {
            return wrong(format!("{entries} entries are in its hunks, and {} were put", self.totals.entries));
        }
        let (hunks, reached, until) = (self.hunks.clone(), self.reached.clone(), self.last.clone());
        Ok(Written { hunks, reached, totals: self.totals, until })
    }
}

/// Whether a file lies beside a database at one of these paths.
pub fn is_beside(entry: &Entry, databases: &[EntryPath]) -> bool {
    database_of(entry.path.bytes()).is_some_and(|path| databases.iter().any(|database| database.bytes() == path))
}
