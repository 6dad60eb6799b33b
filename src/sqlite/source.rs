//! Defines where a database is read from: through SQLite while its app writes to it, or as plain files.

use std::fs::File;
use std::sync::Arc;

use super::error::ReadError;
use super::wal::PageSet;

/// One state of a database, as a transaction shows it.
#[derive(Debug)]
pub struct DatabaseState {
    /// Length of a block in bytes: a page, or two pages of 512 bytes.
    pub block: u32,
    /// Length of a page, in bytes.
    pub page: u32,
    /// Length of the database, in bytes.
    pub size: u64,
    /// If it is equal in two transactions, nothing changed between them.
    pub version: i64,
    /// The pages that differ from the bytes at their place in the file.
    pub elsewhere: PageSet,
}

/// A source of a database's pages.
pub trait PageSource {
    /// Begins a transaction: until it ends, the database stays as it is.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn begin(&mut self) -> Result<DatabaseState, ReadError>;

    /// The database file, which stays open as long as the source does. The bytes at the place of a page are that page,
    /// except for the pages that are elsewhere.
    fn file(&self) -> Arc<File>;

    /// Reads a page within a transaction; the first page is 1.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn page(&mut self, number: u32, out: &mut [u8]) -> Result<(), ReadError>;

    /// Does, within the transaction, what is to be done with the state that will be stored.
    ///
    /// # Errors
    /// Why the database cannot be read.
    fn settled(&mut self) -> Result<(), ReadError>;

    /// Ends the transaction. Returns whether its state stood to the end; if not, what was read is of several states.
    ///
    /// # Errors
    /// Why the database cannot be read.
    fn end(&mut self) -> Result<bool, ReadError>;
}

/// The length of a block in bytes, for pages of `page` bytes.
pub fn block_of(page: u32) -> u32 {
    page.max(crate::vault::subtree::SMALLEST as u32)
}
