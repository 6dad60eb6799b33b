//! Where a vault's objects are kept. An object is created once, read whole or by range, listed, and never changed.
//!
//! The trait is blocking. The engine is threads with bounded channels, a local disk has no asynchronous interface, and a
//! network store needs only a handful of requests in flight: one of the engine's threads each. A store whose client is
//! asynchronous enters its runtime inside these methods, so the border between the two worlds is that store's file.

pub mod fault;
pub mod local;
pub mod memory;
pub mod record;

#[cfg(test)]
mod contract;

use std::io;

use jiff::Timestamp;

use crate::error;

/// What a listing tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The object's name inside the vault, with forward slashes: `packs/….tar.zst`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No object has that name.
    #[error("{name} does not exist")]
    NotFound {
        /// The object asked for.
        name: String,
    },
    /// An object of that name exists; it was not touched.
    #[error("{name} exists already")]
    AlreadyExists {
        /// The object that was to be created.
        name: String,
    },
    /// The object is not as long as it was asked to be.
    #[error("{name} has {size} bytes, and {wanted} were asked for")]
    OutOfRange {
        /// The object asked for.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// The end of the range, or the limit that it exceeds, in bytes.
        wanted: u64,
    },
    /// The medium failed.
    #[error("{doing}: {source}")]
    Failed {
        /// What was being done, to which object or path.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Says for the crate's error what the store was asked to do. What is missing or short is damage: only names that a
    /// root or a listing gave are ever asked for.
    pub fn while_doing(self, doing: impl Into<String>) -> error::Error {
        match self {
            Error::Failed { doing: inner, source } => error::Error::io(inner, &source).within(doing),
            Error::AlreadyExists { .. } => error::Error::failed(doing, self),
            Error::NotFound { .. } | Error::OutOfRange { .. } => error::Error::damage(doing, self),
        }
    }
}

/// A store's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A place for immutable objects. Names are relative, made of `[A-Za-z0-9._-]` and `/`.
///
/// Every implementation runs the suite in `contract.rs`.
pub trait Store: Send + Sync {
    /// The store's address, for messages.
    fn url(&self) -> String;

    /// Creates an object of the given chunks, one after the other. When it returns, the object is durable and whole; when
    /// it fails, no object of that name came to be through this call. An existing one is left alone: `AlreadyExists`.
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()>;

    /// An object of at most `limit` bytes, whole.
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>>;

    /// Exactly `length` bytes from `offset`.
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>>;

    /// All objects whose names start with `folder`, which ends in `/`, in the order of their names' bytes.
    fn list(&self, folder: &str) -> Result<Vec<Meta>>;

    /// The store's time; vaults know no other.
    fn now(&self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }
}

impl<S: Store + ?Sized> Store for &S {
    fn url(&self) -> String {
        (**self).url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        (**self).create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        (**self).get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        (**self).get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        (**self).list(folder)
    }
    fn now(&self) -> Result<Timestamp> {
        (**self).now()
    }
}
