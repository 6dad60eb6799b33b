//! A store that records what is asked of it, so that tests can assert the order and number of calls.

use std::sync::{Mutex, PoisonError};

use crate::store::{Meta, Result, Store, pass_on};

/// One call, recorded after it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `create`, `get`, `range` or `list`.
    pub verb: &'static str,
    /// The object or folder.
    pub name: String,
    /// Bytes sent or received; for a listing, the number of objects.
    pub amount: u64,
    /// Whether it succeeded.
    pub ok: bool,
}

/// Passes every call on and remembers it.
#[derive(Debug)]
pub struct RecordingStore<S> {
    inner: S,
    calls: Mutex<Vec<Call>>,
}

impl<S: Store> RecordingStore<S> {
    /// Returns a store that records the calls to `inner`.
    pub fn new(inner: S) -> Self {
        RecordingStore { inner, calls: Mutex::default() }
    }

    /// Returns the store that answers.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Returns the calls since the last call of this, in the order in which they were answered.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note<T>(&self, verb: &'static str, name: &str, answer: Result<T>, amount: impl Fn(&T) -> u64) -> Result<T> {
        let call = Call {
            verb,
            name: name.into(),
            amount: answer.as_ref().map(amount).unwrap_or_default(),
            ok: answer.is_ok(),
        };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        answer
    }
}

impl<S: Store> Store for RecordingStore<S> {
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        let size = body.iter().map(|c| c.len() as u64).sum();
        self.note("create", name, self.inner.create(name, body), |_| size)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.note("get", name, self.inner.get(name, limit), |b| b.len() as u64)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.note("range", name, self.inner.get_range(name, offset, length), |b| b.len() as u64)
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        self.note("list", folder, self.inner.list(folder), |l| l.len() as u64)
    }
    fn list_from(&self, folder: &str, from: &str) -> Result<Vec<Meta>> {
        self.note("list", folder, self.inner.list_from(folder, from), |l| l.len() as u64)
    }
    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        self.note("list", "", self.inner.other_than(known), |found| u64::from(found.is_some()))
    }

    pass_on! {
        self.inner;
        fn url(&self) -> String;
        fn now(&self) -> Result<jiff::Timestamp>;
        fn request_worth(&self) -> u64;
        fn traffic(&self) -> Option<crate::store::Traffic>;
        fn forget(&self, name: &str);
        fn may_answer_better(&self, name: &str, wrong: u32) -> bool;
    }
}
