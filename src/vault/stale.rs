//! Which entries of a snapshot are older than it: what a root lists as stale, looked up by path.

use std::collections::{BTreeMap, HashMap};

use super::entry::Entry;
use super::read::PackReader;
use super::root::{Root, Stale};
use crate::error::Result;
use crate::path::EntryPath;

/// What a snapshot carried over from older ones.
#[derive(Debug, Default)]
pub struct StaleBook {
    items: BTreeMap<EntryPath, Stale>,
    /// Files beside carried databases that came, and these databases, as long as the files can still come.
    sides: HashMap<EntryPath, EntryPath>,
}

impl StaleBook {
    /// Reads what a root says.
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn read(packs: &PackReader, root: &Root) -> Result<Self> {
        let items = packs.all(&root.stale)?.into_iter().map(|item| (item.path.clone(), item)).collect();
        Ok(StaleBook { items, sides: HashMap::new() })
    }

    /// What is said of an entry, of the nearest folder above it, or of the database that it lies beside and came before it.
    pub fn of(&mut self, entry: &Entry) -> Option<&Stale> {
        if self.items.is_empty() {
            return None;
        }
        let path = self.sides.remove(&entry.path).unwrap_or_else(|| entry.path.clone());
        let item = path.nearest_in(&self.items)?;
        self.sides.extend(entry.sides().into_iter().map(|side| (side, path.clone())));
        Some(item)
    }

    /// What is said of a path, or of the nearest folder above it.
    pub fn at(&self, path: &EntryPath) -> Option<&Stale> {
        path.nearest_in(&self.items)
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
