//! Lists the names in a folder of the data directory, with the status of each.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Stat, statat};
use rustix::io::Errno;

/// A folder's names, in the order of their bytes.
pub(crate) fn names(folder: &OwnedFd) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    // A filesystem that changes while it is listed may give a name twice.
    names.dedup();
    Ok(names)
}

/// The status of a name in a folder; a symlink is not followed.
pub(crate) fn status(folder: &OwnedFd, name: &[u8]) -> std::result::Result<Stat, Errno> {
    statat(folder, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
}
