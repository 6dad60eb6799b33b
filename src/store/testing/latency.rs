//! A store far away, for tests: every request takes its time, any number of requests are answered at once, and it is
//! known how many of them there were.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::{Meta, Result, Store, pass_on};

/// How long requests wait for others at most, in a test that fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Delays every call, and counts the calls that are under way.
pub struct LatencyStore<S> {
    inner: S,
    latency: Duration,
    worth: u64,
    /// Requests for names that begin with the prefix wait until this many of them are there.
    meeting: Option<(&'static str, usize)>,
    state: Mutex<LatencyState>,
    changed: Condvar,
}

#[derive(Default)]
struct LatencyState {
    under_way: usize,
    most: usize,
    requests: u64,
    waiting: usize,
    met: bool,
}

impl<S: Store> LatencyStore<S> {
    /// Returns a store that delays the calls to `inner` by `latency`; a request is worth 1 MiB.
    pub fn new(inner: S, latency: Duration) -> Self {
        LatencyStore { inner, latency, worth: 1 << 20, meeting: None, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Holds back the first requests for objects whose names begin with `prefix` until `count` of them are under way,
    /// so that the machine's load does not decide whether they are.
    #[must_use]
    pub fn meeting(mut self, prefix: &'static str, count: usize) -> Self {
        self.meeting = Some((prefix, count));
        self
    }

    /// Returns the store that answers.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Returns how many requests were made since the last call of this, and how many of them were under way at once.
    pub fn take(&self) -> (u64, usize) {
        let mut state = self.lock();
        (std::mem::take(&mut state.requests), std::mem::take(&mut state.most))
    }

    fn lock(&self) -> MutexGuard<'_, LatencyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn far<T>(&self, name: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        state.requests += 1;
        state.under_way += 1;
        state.most = state.most.max(state.under_way);
        if let Some((_, count)) = self.meeting.filter(|(prefix, _)| name.starts_with(prefix) && name != *prefix) {
            state.waiting += 1;
            state.met |= state.waiting >= count;
            self.changed.notify_all();
            let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| !state.met);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
            // A request that waited in vain has done so for all that come later.
            state.met = true;
        }
        drop(state);
        std::thread::sleep(self.latency);
        let answer = call();
        self.lock().under_way -= 1;
        answer
    }
}

impl<S: Store> Store for LatencyStore<S> {
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        self.far(name, || self.inner.create(name, body))
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.far(name, || self.inner.get(name, limit))
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.far(name, || self.inner.get_range(name, offset, length))
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        self.far(folder, || self.inner.list(folder))
    }
    fn request_worth(&self) -> u64 {
        self.worth
    }

    pass_on! {
        self.inner;
        fn url(&self) -> String;
        fn now(&self) -> Result<jiff::Timestamp>;
        fn traffic(&self) -> Option<crate::store::Traffic>;
        fn forget(&self, name: &str);
        fn may_answer_better(&self, name: &str, wrong: u32) -> bool;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::memory::MemoryStore;

    #[test]
    fn keeps_the_contract() {
        crate::store::testing::contract::run(&|| {
            (Box::new(LatencyStore::new(MemoryStore::default(), Duration::from_millis(1))), Box::new(()))
        });
    }

    #[test]
    fn counts_what_is_under_way_at_once() {
        let store = LatencyStore::new(MemoryStore::default(), Duration::ZERO).meeting("packs/", 5);
        store.create("vault.json", &[b"x"]).unwrap();
        assert_eq!(store.take(), (1, 1));
        std::thread::scope(|scope| {
            for n in 0..5 {
                let store = &store;
                scope.spawn(move || store.create(&format!("packs/{n}"), &[b"x"]).unwrap());
            }
        });
        assert_eq!(store.take(), (5, 5));
    }
}
