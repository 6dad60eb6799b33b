//! How much room a filesystem has.

use std::io;
use std::path::Path;

use indicatif::BinaryBytes;
use rustix::fs::{Access, access, statvfs};

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// The folder itself where it exists, or the next one above it that does.
pub fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"))
}

/// How many bytes may be written in a folder that exists; none where its filesystem does not say.
///
/// # Errors
/// What the system says.
pub fn free(folder: &Path) -> io::Result<Option<u64>> {
    let told = statvfs(folder)?;
    Ok((told.f_blocks > 0).then(|| told.f_bavail.saturating_mul(told.f_frsize)))
}

/// Whether entries can be made and removed in a folder that exists.
///
/// # Errors
/// What stands against it: the permissions, a filesystem that is mounted read-only.
pub fn writable(folder: &Path) -> io::Result<()> {
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}
