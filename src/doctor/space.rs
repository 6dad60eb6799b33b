//! How much space a filesystem has, and whether a folder can be written to.

use std::io;
use std::path::Path;

use indicatif::BinaryBytes;
use rustix::fs::{Access, access};

pub use crate::fs::filesystem::{existing, free};

/// Returns a number of bytes as people read it.
pub fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Checks whether entries can be made and removed in a folder that exists.
///
/// # Errors
/// They cannot: for want of permissions, or because the filesystem is mounted read-only.
pub fn writable(folder: &Path) -> io::Result<()> {
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}
