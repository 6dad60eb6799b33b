//! What a database is read from: through SQLite while its app writes to it, or as plain files.

use std::fs::File;
use std::sync::Arc;

use super::error::ReadError;
use super::wal::PageSet;

/// One state of a database, as a transaction shows it.
#[derive(Debug)]
pub struct DatabaseState {
    /// Bytes of a block: a page, or two pages of 512 bytes.
    pub block: u32,
    /// Bytes of a page.
    pub page: u32,
    /// Bytes of the database.
    pub size: u64,
    /// Equal in two transactions when nothing changed between them.
    pub version: i64,
    /// The pages that are not what the file has at their place.
    pub elsewhere: PageSet,
}

/// Where the bytes come from.
pub trait PageSource {
    /// Begins a transaction: until it ends, the database stays as it is.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn begin(&mut self) -> Result<DatabaseState, ReadError>;

    /// The database file, which stays open as long as the source is. What it has at the place of a page is the page, but for those that are
    /// elsewhere.
    fn file(&self) -> Arc<File>;

    /// Reads a page, of which the first is 1, within a transaction.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn page(&mut self, number: u32, out: &mut [u8]) -> Result<(), ReadError>;

    /// Does within the transaction what is to be done with the state that will be stored.
    ///
    /// # Errors
    /// Why the database cannot be read.
    fn settled(&mut self) -> Result<(), ReadError>;

    /// Ends the transaction. Says whether its state was there to the end; if not, what was read is of several states.
    ///
    /// # Errors
    /// Why the database cannot be read.
    fn end(&mut self) -> Result<bool, ReadError>;
}

/// Bytes of a block where a page has so many.
pub fn block_of(page: u32) -> u32 {
    page.max(crate::vault::subtree::SMALLEST as u32)
}
