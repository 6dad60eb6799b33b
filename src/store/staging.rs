//! Packs that nothing names yet.
//!
//! A backup stores packs for as long as it runs, and only its root, or a checkpoint, names them. If it fails before that, they are
//! garbage that nobody may delete: an object in a vault may be somebody else's. In a folder they are therefore not objects until
//! something is about to name them: they wait in `tmp/`, whole and durable, and get their names all at once. What a failed backup
//! leaves behind there is its own, and removed; what a killed one leaves is swept a day later. So a full disk does not stay full of
//! what nothing needs. A bucket does not run full, and its objects cannot be renamed: there, packs are objects at once.

use std::fs::File;

use super::{Result, Store};

/// Takes objects that nothing names yet. Those that were not published are gone when it is dropped, unless they are objects
/// already.
pub trait Staging: Send + Sync {
    /// Stores an object, as [`Store::create`] does; it need not be seen in the store until it is published.
    ///
    /// # Errors
    /// As [`Store::create`].
    fn put(&self, name: &str, body: &[&[u8]]) -> Result<()>;

    /// Makes those that wait and are `wanted` objects of the store. They are durable when it returns.
    ///
    /// # Errors
    /// As [`Store::create`]. Some of them may be objects then.
    fn publish(&self, wanted: &dyn Fn(&str) -> bool) -> Result<()>;
}

/// What is put is an object at once.
pub struct Direct<'s, S: ?Sized>(pub &'s S);

impl<S: Store + ?Sized> Staging for Direct<'_, S> {
    fn put(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        self.0.create(name, body)
    }

    fn publish(&self, _: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }
}

/// How much room a filesystem has.
#[derive(Debug)]
pub struct Room {
    /// Bytes that were free, those that are kept among them.
    pub free: u64,
    /// A file without a name that takes the bytes that are kept; they are free again when it is closed, however the process ends.
    pub kept: Option<File>,
}
