//! Single requests to a store: each method makes one, and may fail.

use jiff::Timestamp;

use super::{Meta, Result};
use crate::retry::Fault;

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes; `None` means to the object's end.
    pub length: Option<u64>,
    /// The most bytes that it may have.
    pub limit: u64,
}

/// The part of a span that has been read so far.
#[derive(Debug, Default)]
pub struct PartialRead {
    /// The bytes from its beginning.
    pub bytes: Vec<u8>,
    /// The object's generation that the bytes belong to.
    pub generation: Option<u64>,
    /// The size of the whole object.
    pub size: Option<u64>,
    /// The CRC32C of the whole object.
    pub crc32c: Option<u32>,
}

/// A description of an object, got without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// Its size in bytes.
    pub size: u64,
    /// Its CRC32C, if the store tells it.
    pub crc32c: Option<u32>,
}

/// A page of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects that are not released, by their names in the vault.
    pub objects: Vec<Meta>,
    /// The token that asks for the next page; `None` on the last one.
    pub next: Option<String>,
}

/// Single requests to a store: each method makes one, and waits until it is over.
pub trait Requests: Send + Sync {
    /// Returns the vault's address, for messages.
    fn url(&self) -> String;

    /// Creates an object. If there is one already, the fault is [`Fault::Exists`].
    ///
    /// # Errors
    /// Any fault. One that may pass leaves open whether the object was created.
    fn create(&self, name: &str, body: &[&[u8]], crc32c: u32) -> Result<(), Fault>;

    /// Reads the bytes of `span` that `part` does not have yet. The bytes that came before a fault stay in `part`.
    ///
    /// # Errors
    /// Any fault.
    fn read(&self, name: &str, span: Span, part: &mut PartialRead) -> Result<(), Fault>;

    /// Describes an object without reading it.
    ///
    /// # Errors
    /// Any fault.
    fn describe(&self, name: &str) -> Result<Described, Fault>;

    /// Returns a page of the objects whose names begin with `folder` and do not come before `from`: the first page, or
    /// the one that `next` asks for.
    ///
    /// # Errors
    /// Any fault.
    fn page(&self, folder: &str, from: &str, next: Option<&str>) -> Result<Page, Fault>;

    /// Returns the store's time, counted on from its last answer; `None` before the first one.
    ///
    /// # Errors
    /// The local clock is wrong.
    fn time(&self) -> Result<Option<Timestamp>, Fault>;
}
