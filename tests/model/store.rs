//! A vault as the engine is given it: its clock may be far ahead of the machine's, and it may be away, or full.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use lastgood::store::local::LocalStore;
use lastgood::store::testing::fault::FaultStore;
use lastgood::store::{FreeSpace, Meta, Result, Staging, Store};
use serde::{Deserialize, Serialize};

/// A fault of a vault during one backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VaultFault {
    /// Nothing.
    None,
    /// It does not answer.
    Unreachable,
    /// Every call fails.
    Broken,
    /// Something else lies in its place, as where a volume is not mounted: nothing.
    Unmounted,
    /// Calls begin to fail after this many objects were created: the disk is full.
    Full(u64),
    /// Its disk really has only this many bytes left.
    Tight(u64),
}

/// Where a vault is, and what is wrong with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Location {
    /// Its folder.
    pub folder: PathBuf,
    /// Its fault.
    pub fault: VaultFault,
}

impl Location {
    /// Returns its address in reports.
    pub fn url(&self) -> String {
        self.folder.display().to_string()
    }

    /// Opens its store, whose clock is this many seconds ahead.
    pub fn open(&self, ahead: i64) -> Box<dyn Store> {
        let store = Ahead { store: LocalStore::new(&self.folder), ahead: SignedDuration::from_secs(ahead) };
        match self.fault {
            VaultFault::None | VaultFault::Unmounted | VaultFault::Tight(_) => Box::new(store),
            VaultFault::Unreachable => Box::new(FaultStore::new(store, |_, _| true).unreachable()),
            VaultFault::Broken => Box::new(FaultStore::new(store, |_, _| true)),
            VaultFault::Full(room) => {
                let created = AtomicU64::new(0);
                let full =
                    move |verb: &str, _: &str| verb == "create" && created.fetch_add(1, Ordering::Relaxed) >= room;
                Box::new(FaultStore::new(store, full))
            }
        }
    }
}

/// A folder whose clock is ahead. Files' times are the machine's all the same: the engine's own clock, by which it trusts
/// them, stays as it is.
struct Ahead {
    store: LocalStore,
    ahead: SignedDuration,
}

impl Store for Ahead {
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
    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        self.store.other_than(known)
    }
    fn staging(&self) -> Box<dyn Staging + '_> {
        self.store.staging()
    }
    fn set_aside(&self, keep: u64) -> Option<FreeSpace> {
        self.store.set_aside(keep)
    }
    fn now(&self) -> Result<Timestamp> {
        let now = Timestamp::now();
        Ok(now.checked_add(self.ahead).unwrap_or(now))
    }
    fn forget(&self, name: &str) {
        self.store.forget(name);
    }
}
