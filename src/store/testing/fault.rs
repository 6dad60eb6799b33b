//! A store that fails when a test says so.

use std::io;

use crate::store::{Meta, Result, Store, StoreError, pass_on};

/// A function that is called before every call, with its verb (`create`, `get`, `range`, `list`) and name; `true` makes
/// the call fail.
type FaultPlan = Box<dyn Fn(&'static str, &str) -> bool + Send + Sync>;

/// Passes calls on, except for those that its plan fails.
pub struct FaultStore<S> {
    inner: S,
    plan: FaultPlan,
    how: FaultKind,
}

/// How a call fails.
#[derive(Clone, Copy)]
enum FaultKind {
    Fails,
    DoesNotAnswer,
    CannotRead,
    Stops,
}

impl<S: Store> FaultStore<S> {
    /// Returns a store that fails the calls to `inner` for which `plan(verb, name)` is `true`.
    pub fn new(inner: S, plan: impl Fn(&'static str, &str) -> bool + Send + Sync + 'static) -> Self {
        FaultStore { inner, plan: Box::new(plan), how: FaultKind::Fails }
    }

    /// Returns the same store, but it does not answer those calls, instead of failing at them.
    pub fn unreachable(self) -> Self {
        FaultStore { how: FaultKind::DoesNotAnswer, ..self }
    }

    /// Returns the same store, but the objects of those calls cannot be read, while others can.
    pub fn unreadable(self) -> Self {
        FaultStore { how: FaultKind::CannotRead, ..self }
    }

    /// Returns the same store, but it was told to stop before it had done those calls.
    pub fn stopped(self) -> Self {
        FaultStore { how: FaultKind::Stops, ..self }
    }

    fn check(&self, verb: &'static str, name: &str) -> Result<()> {
        if !(self.plan)(verb, name) {
            return Ok(());
        }
        let (doing, why) = (format!("{verb} {name}"), "injected fault");
        Err(match self.how {
            FaultKind::Fails => StoreError::Failed { doing, source: io::Error::other(why) },
            FaultKind::DoesNotAnswer => StoreError::Unreachable { doing, why: why.into() },
            FaultKind::CannotRead => StoreError::Unreadable { name: name.into(), why: why.into() },
            FaultKind::Stops => StoreError::Stopped { doing },
        })
    }
}

impl<S: Store> Store for FaultStore<S> {
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
    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        self.check("list", "")?;
        self.inner.other_than(known)
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
