//! A store that fails when a test says so.

use std::io;

use super::{Error, Meta, Result, Store};

/// Asked before every call with its verb (`create`, `get`, `range`, `list`) and name; `true` makes the call fail.
type Plan = Box<dyn Fn(&'static str, &str) -> bool + Send + Sync>;

/// Passes calls on, except those that its plan lets fail.
pub struct FaultStore<S> {
    inner: S,
    plan: Plan,
}

impl<S: Store> FaultStore<S> {
    /// Fails the calls to `inner` for which `plan(verb, name)` is true.
    pub fn new(inner: S, plan: impl Fn(&'static str, &str) -> bool + Send + Sync + 'static) -> Self {
        FaultStore { inner, plan: Box::new(plan) }
    }

    fn check(&self, verb: &'static str, name: &str) -> Result<()> {
        if !(self.plan)(verb, name) {
            return Ok(());
        }
        Err(Error::Failed { doing: format!("{verb} {name}"), source: io::Error::other("injected fault") })
    }
}

impl<S: Store> Store for FaultStore<S> {
    fn url(&self) -> String {
        self.inner.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        self.check("create", name)?;
        self.inner.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.check("get", name)?;
        self.inner.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.check("range", name)?;
        self.inner.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        self.check("list", folder)?;
        self.inner.list(folder)
    }
    fn now(&self) -> Result<jiff::Timestamp> {
        self.inner.now()
    }
}
