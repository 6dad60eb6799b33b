//! Reads SQLite databases into snapshots: one committed state of each, taken while its app writes to it.
//!
//! Copying a database that is being written to gives a broken copy. So a file that is a database by its content is read
//! [`live`]: through SQLite, in a read transaction, page by page and without a copy anywhere. Where that cannot be done
//! safely it is taken raw ([`reader`](crate::backup::pages::reader)): the file and what its app left beside it, as they
//! lie on the disk, for SQLite to recover after a restore. Either way it is compared block by block with what the vault
//! has ([`known`](crate::backup::pages::known), [`scan`](crate::backup::pages::scan)), so that a change of one page
//! sends one page.
//!
//! POSIX locks vanish when any descriptor of a file is closed in the process: every file of a data directory is opened
//! under an inode lock of the [`fd_registry`].
//!
//! The modules are listed in the order of flow: each may use those below it.

pub mod source;
pub mod live;
pub mod check;
pub mod usage;
pub mod filesystem;
pub mod wal_index;
pub mod wal;
pub mod at_rest;
mod handle;
pub mod system_calls;
pub mod locks;
pub mod side_files;
pub mod fd_registry;
pub mod header;
pub mod at;
pub mod error;

#[cfg(test)]
#[allow(missing_docs, reason = "for tests alone")]
pub mod peer;
#[cfg(test)]
mod tests;
