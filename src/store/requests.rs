//! Single requests to a store: each method makes one, and may fail.

use jiff::Timestamp;

use super::{Meta, Result};
use crate::retry::Fault;

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is; to the object's end where none is given.
    pub length: Option<u64>,
    /// How long it may be at most.
    pub limit: u64,
}

/// What has been read of a span.
#[derive(Debug, Default)]
pub struct PartialRead {
    /// The bytes from its beginning.
    pub bytes: Vec<u8>,
    /// The generation that they are of.
    pub generation: Option<u64>,
    /// The size of the whole object.
    pub size: Option<u64>,
    /// Its CRC32C.
    pub crc32c: Option<u32>,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// Its size in bytes.
    pub size: u64,
    /// Its CRC32C, where the store tells it.
    pub crc32c: Option<u32>,
}

/// A page of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects that are not released, by their names in the vault.
    pub objects: Vec<Meta>,
    /// What asks for the next page.
    pub next: Option<String>,
}

/// A store's answers to single requests: each method makes one, and waits for its end.
pub trait Requests: Send + Sync {
    /// The vault's address, for messages.
    fn url(&self) -> String;

    /// Creates an object, unless there is one: [`Fault::Exists`].
    ///
    /// # Errors
    /// Any fault. One that may pass leaves open whether the object was created.
    fn create(&self, name: &str, body: &[&[u8]], crc32c: u32) -> Result<(), Fault>;

    /// Reads what is missing in `part` of a span. What came before a fault stays in it.
    ///
    /// # Errors
    /// Any fault.
    fn read(&self, name: &str, span: Span, part: &mut PartialRead) -> Result<(), Fault>;

    /// What is known of an object.
    ///
    /// # Errors
    /// Any fault.
    fn describe(&self, name: &str) -> Result<Described, Fault>;

    /// The objects whose names begin with `folder` and do not come before `from`: the first page, or that which `next` asks for.
    ///
    /// # Errors
    /// Any fault.
    fn page(&self, folder: &str, from: &str, next: Option<&str>) -> Result<Page, Fault>;

    /// The store's time as its last answer told it; none before the first one.
    ///
    /// # Errors
    /// A local clock that is wrong.
    fn time(&self) -> Result<Option<Timestamp>, Fault>;
}
