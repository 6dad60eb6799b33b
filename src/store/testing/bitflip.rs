//! A store whose bits flip on the way, for tests.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::store::{Meta, Result, Store, pass_on};

/// Flips a bit in the first ranges that are read of each object.
pub struct BitflipStore<S> {
    inner: S,
    from_end: usize,
    times: usize,
    flipped: Mutex<HashMap<String, usize>>,
    worth: u64,
}

impl<S: Store> BitflipStore<S> {
    /// Returns a store that flips a bit in the first `times` ranges that are read of each object: in the byte that is
    /// followed by `from_end` bytes in the range, or in the first one. A request is worth `worth` bytes.
    pub fn new(inner: S, from_end: usize, times: usize, worth: u64) -> Self {
        BitflipStore { inner, from_end, times, flipped: Mutex::default(), worth }
    }
}

impl<S: Store> Store for BitflipStore<S> {
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = self.inner.get_range(name, offset, length)?;
        let at = bytes.len().saturating_sub(self.from_end + 1);
        let mut flipped = self.flipped.lock().unwrap_or_else(PoisonError::into_inner);
        let times = flipped.entry(name.to_owned()).or_default();
        if let Some(byte) = bytes.get_mut(at).filter(|_| *times < self.times) {
            *byte ^= 4;
            *times += 1;
        }
        Ok(bytes)
    }
    fn request_worth(&self) -> u64 {
        self.worth
    }

    pass_on! {
        self.inner;
        fn url(&self) -> String;
        fn create(&self, name: &str, body: &[&[u8]]) -> Result<()>;
        fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>>;
        fn list(&self, folder: &str) -> Result<Vec<Meta>>;
        fn now(&self) -> Result<jiff::Timestamp>;
        fn traffic(&self) -> Option<crate::store::Traffic>;
        fn forget(&self, name: &str);
        fn may_answer_better(&self, name: &str, wrong: u32) -> bool;
    }
}
