//! How much room a filesystem has.

use std::io;
use std::path::Path;

use indicatif::BinaryBytes;
use rustix::fs::{Access, access};

pub use crate::filesystem::free;

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// The folder itself where it exists, or the next one above it that does.
pub fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"))
}

/// Whether entries can be made and removed in a folder that exists.
///
/// # Errors
/// What stands against it: the permissions, a filesystem that is mounted read-only.
pub fn writable(folder: &Path) -> io::Result<()> {
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}
