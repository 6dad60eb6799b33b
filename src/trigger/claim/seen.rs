//! What an event's folder holds, by the names of its objects.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::read_claim;
use crate::error::Result;
use crate::store::Store;

/// Which objects an event's folder holds.
#[derive(Debug, Default)]
pub struct Seen {
    pub claims: BTreeSet<u64>,
    pub failed: BTreeSet<u64>,
    pub done: bool,
}

impl Seen {
    pub fn of(store: &dyn Store, folder: &str) -> Result<Seen> {
        let objects = store.list(folder).map_err(|why| why.while_doing(format!("list {folder} of {}", store.url())))?;
        let mut seen = Seen::default();
        for object in objects {
            if let Some(name) = object.name.strip_prefix(folder) {
                seen.add(name);
            }
        }
        Ok(seen)
    }

    /// Takes in an object by its name in the folder.
    pub fn add(&mut self, name: &str) {
        let Some(name) = name.strip_suffix(".json") else { return };
        match name.strip_suffix(".failed").map(str::parse) {
            Some(Ok(n)) => _ = self.failed.insert(n),
            Some(Err(_)) => {}
            None if name == "done" => self.done = true,
            None => self.claims.extend(name.parse::<u64>()),
        }
    }

    /// Whether nobody has ever served the event.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty() && !self.done
    }

    /// When the event was first served, where that can be read.
    pub fn begun(&self, store: &dyn Store, folder: &str) -> Result<Option<Timestamp>> {
        let Some(first) = self.claims.first() else { return Ok(None) };
        Ok(read_claim(store, folder, *first)?.map(|body| body.started))
    }
}
