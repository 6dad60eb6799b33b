//! Which entries of a snapshot are older than it: what a root lists as stale, looked up by path.

use std::collections::{BTreeMap, HashSet};

use super::entry::{Entry, Taken};
use super::path::EntryPath;
use super::read::PackReader;
use super::root::{Root, Stale};
use crate::error::Result;

/// What a snapshot carried over from older ones.
#[derive(Debug, Default)]
pub struct StaleBook {
    items: BTreeMap<EntryPath, Stale>,
    /// Files beside carried databases that came, as long as they can still come.
    sides: HashSet<EntryPath>,
}

impl StaleBook {
    /// Reads what a root says.
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn read(packs: &PackReader, root: &Root) -> Result<Self> {
        let mut items = BTreeMap::new();
        packs.each(&root.stale, |item: Stale| {
            items.insert(item.path.clone(), item);
            Ok(())
        })?;
        Ok(StaleBook { items, sides: HashSet::new() })
    }

    /// What is said of an entry, of the nearest folder above it, or of the database that it lies beside and came before it.
    pub fn of(&mut self, entry: &Entry) -> Option<&Stale> {
        if self.items.is_empty() {
            return None;
        }
        let mut path = entry.path.clone();
        if self.sides.remove(&path) {
            let end = if path.bytes().ends_with(b"-wal") { "-wal" } else { "-journal" };
            let database = path.bytes().strip_suffix(end.as_bytes()).and_then(|path| EntryPath::new(path).ok());
            path = database.unwrap_or(path);
        }
        let item = self.at(&path).map(|item| item.path.clone())?;
        if let Some(database) = entry.database.as_ref().filter(|database| database.taken == Taken::Raw) {
            let ends = [("-journal", database.journal.is_some()), ("-wal", database.wal.is_some())];
            let there = ends.iter().filter(|(_, there)| *there);
            self.sides
                .extend(there.filter_map(|(end, _)| EntryPath::new([path.bytes(), end.as_bytes()].concat()).ok()));
        }
        self.items.get(&item)
    }

    /// What is said of a path, or of the nearest folder above it.
    pub fn at(&self, path: &EntryPath) -> Option<&Stale> {
        let mut above = std::iter::successors(Some(path.clone()), EntryPath::folder);
        above.find_map(|path| self.items.get(&path))
    }

    /// All that is said, in path order.
    pub fn into_items(self) -> Vec<Stale> {
        self.items.into_values().collect()
    }

    /// Whether nothing is stale.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}
