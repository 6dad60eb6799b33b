//! A store that several runs share, as one of them sees it: its traffic begins with the run.

use std::sync::Arc;

use jiff::Timestamp;

use super::{FreeSpace, Meta, Result, Staging, Store, Traffic};

/// A shared store that counts its traffic from now on.
pub struct MeteredStore {
    store: Arc<dyn Store>,
    before: Option<Traffic>,
}

impl MeteredStore {
    /// Returns the store with its traffic counted from now on.
    pub fn new(store: Arc<dyn Store>) -> Self {
        MeteredStore { before: store.traffic(), store }
    }
}

impl Store for MeteredStore {
    fn url(&self) -> String {
        self.store.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        self.store.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.store.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.store.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        self.store.list(folder)
    }
    fn list_from(&self, folder: &str, from: &str) -> Result<Vec<Meta>> {
        self.store.list_from(folder, from)
    }
    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        self.store.other_than(known)
    }
    fn prepare(&self) -> Result<()> {
        self.store.prepare()
    }
    fn open_to_others(&self) -> Option<u32> {
        self.store.open_to_others()
    }
    fn closed(&self, name: &str) -> Option<super::StoreError> {
        self.store.closed(name)
    }
    fn unshared(&self) -> Option<super::Unshared> {
        self.store.unshared()
    }
    fn staging(&self) -> Box<dyn Staging + '_> {
        self.store.staging()
    }
    fn room(&self, keep: u64) -> Option<FreeSpace> {
        self.store.room(keep)
    }
    fn now(&self) -> Result<Timestamp> {
        self.store.now()
    }
    fn request_worth(&self) -> u64 {
        self.store.request_worth()
    }
    fn traffic(&self) -> Option<Traffic> {
        let now = self.store.traffic()?;
        Some(self.before.map_or(now, |before| now - before))
    }
    fn forget(&self, name: &str) {
        self.store.forget(name);
    }
    fn may_answer_better(&self, name: &str, wrong: u32) -> bool {
        self.store.may_answer_better(name, wrong)
    }
}
