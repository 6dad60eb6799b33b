//! A store in memory, for tests of what builds on stores.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::store::{Meta, Result, Store, StoreError};

/// Objects in a map.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    created: Mutex<BTreeMap<String, Timestamp>>,
    ahead: Mutex<SignedDuration>,
}

impl MemoryStore {
    /// Returns the objects themselves, for a test that breaks them.
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // A panic elsewhere leaves the map intact: each change is a single call.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when objects were created, for a test that moves those times. An object that a test put among the objects by itself is
    /// there once it was listed.
    pub fn created(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> Timestamp {
        Timestamp::now() + *self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how far the store's clock is ahead of the machine's.
    pub fn set_ahead(&self, ahead: SignedDuration) {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = ahead;
    }
}

impl Store for MemoryStore {
    fn url(&self) -> String {
        "memory:".into()
    }

    fn now(&self) -> Result<Timestamp> {
        Ok(self.clock())
    }

    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        match self.objects().entry(name.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(StoreError::AlreadyExists { name: name.into() }),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(body.concat());
                self.created().insert(name.to_owned(), self.clock());
                Ok(())
            }
        }
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let objects = self.objects();
        let object = objects.get(name).ok_or_else(|| StoreError::NotFound { name: name.into() })?;
        let size = object.len() as u64;
        if size > limit {
            return Err(StoreError::OutOfRange { name: name.into(), size, wanted: limit });
        }
        Ok(object.clone())
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        let objects = self.objects();
        let object = objects.get(name).ok_or_else(|| StoreError::NotFound { name: name.into() })?;
        let end = offset.saturating_add(length);
        object.get(offset as usize..end as usize).map(<[u8]>::to_vec).ok_or_else(|| StoreError::OutOfRange {
            name: name.into(),
            size: object.len() as u64,
            wanted: end,
        })
    }

    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        let (objects, mut created, now) = (self.objects(), self.created(), self.clock());
        Ok(objects
            .range(folder.to_owned()..)
            .take_while(|(name, _)| name.starts_with(folder))
            .map(|(name, body)| {
                let created = *created.entry(name.clone()).or_insert(now);
                Meta { name: name.clone(), size: body.len() as u64, created }
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        crate::store::testing::contract::run(&|| (Box::new(MemoryStore::default()), Box::new(())));
    }
}
