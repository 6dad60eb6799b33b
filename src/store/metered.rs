//! A store that several runs share, as one of them sees it: its traffic begins with the run.

use std::sync::Arc;

use jiff::Timestamp;

use super::{FreeSpace, Meta, Result, Staging, Store, Traffic, pass_on};

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
    fn traffic(&self) -> Option<Traffic> {
        let now = self.store.traffic()?;
        Some(self.before.map_or(now, |before| now - before))
    }

    pass_on! {
        self.store;
        fn url(&self) -> String;
        fn create(&self, name: &str, body: &[&[u8]]) -> Result<()>;
        fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>>;
        fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>>;
        fn list(&self, folder: &str) -> Result<Vec<Meta>>;
        fn list_from(&self, folder: &str, from: &str) -> Result<Vec<Meta>>;
        fn other_than(&self, known: &[&str]) -> Result<Option<String>>;
        fn prepare(&self) -> Result<()>;
        fn open_to_others(&self) -> Option<u32>;
        fn denied(&self, name: &str) -> Option<super::StoreError>;
        fn unshared(&self) -> Option<super::Unshared>;
        fn staging(&self) -> Box<dyn Staging + '_>;
        fn set_aside(&self, keep: u64) -> Option<FreeSpace>;
        fn now(&self) -> Result<Timestamp>;
        fn request_worth(&self) -> u64;
        fn forget(&self, name: &str);
        fn may_answer_better(&self, name: &str, wrong: u32) -> bool;
    }
}
