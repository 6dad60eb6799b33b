//! Looks up which entries of a snapshot are older than it: what a root lists as stale, by path.

use std::collections::{BTreeMap, HashMap};

use super::entry::Entry;
use super::read::PackReader;
use super::root::{Root, Stale};
use crate::error::Result;
use crate::path::EntryPath;

/// The entries that a snapshot carried over from older ones.
#[derive(Debug, Default)]
pub struct StaleBook {
    items: BTreeMap<EntryPath, Stale>,
    /// Side files of the carried databases that have come, with the path of the database, as long as the file can still
    /// come.
    sides: HashMap<EntryPath, EntryPath>,
}

impl StaleBook {
    /// Reads a root's list of stale entries.
    ///
    /// # Errors
    /// The store fails; damage.
    pub fn read(packs: &PackReader, root: &Root) -> Result<Self> {
        let items = packs.all(&root.stale)?.into_iter().map(|item| (item.path.clone(), item)).collect();
        Ok(StaleBook { items, sides: HashMap::new() })
    }

    /// Returns what the root says of an entry, of the nearest folder above it, or of the database whose side file it
    /// is; that database has to come first.
    pub fn of(&mut self, entry: &Entry) -> Option<&Stale> {
        if self.items.is_empty() {
            return None;
        }
        let path = self.sides.remove(&entry.path).unwrap_or_else(|| entry.path.clone());
        let item = path.nearest_in(&self.items)?;
        self.sides.extend(entry.sides().into_iter().map(|side| (side, path.clone())));
        Some(item)
    }

    /// Returns what the root says of a path, or of the nearest folder above it.
    pub fn at(&self, path: &EntryPath) -> Option<&Stale> {
        path.nearest_in(&self.items)
    }

    /// Returns all stale entries, in path order.
    pub fn into_items(self) -> Vec<Stale> {
        self.items.into_values().collect()
    }

    /// Whether nothing is stale.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}
