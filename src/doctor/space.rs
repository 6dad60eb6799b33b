//! How much room a filesystem has.

use std::io;
use std::path::Path;

use indicatif::BinaryBytes;
use rustix::fs::{Access, access};

pub use crate::fs::filesystem::{existing, free};

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Whether entries can be made and removed in a folder that exists.
///
/// # Errors
/// What stands against it: the permissions, a filesystem that is mounted read-only.
pub fn writable(folder: &Path) -> io::Result<()> {
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}
