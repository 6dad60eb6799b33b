//! Deals with what the filesystem of a target may not do: mounted buckets and other machines' folders know no links or
//! modes, do not rename folders, and do not make them durable.

use std::os::fd::AsFd;

use rustix::fs::fsync;
use rustix::io::Errno;

use crate::error::{Doing, Result};
use crate::fs::Folder;

/// Whether an error means that a filesystem does not support such an operation at all.
pub fn not_done(why: Errno) -> bool {
    matches!(why, Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL)
}

/// Whether an error of renaming a folder means that its files have to be renamed one by one. GCS FUSE reports too many
/// open files if it would have to copy too many.
pub fn moves_files_only(why: Errno) -> bool {
    matches!(why, Errno::MFILE | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// The result of a change of an attribute: `false` if the filesystem does not keep it.
///
/// # Errors
/// Any other error of the change.
pub fn kept(done: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match done {
        Err(why) if not_done(why) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Makes an open file durable where that can be asked for.
///
/// # Errors
/// A disk that fails.
pub fn sync(fd: impl AsFd) -> rustix::io::Result<()> {
    match fsync(fd) {
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        done => done,
    }
}

/// Makes a folder's names durable.
///
/// # Errors
/// A disk that fails.
pub fn sync_folder(folder: &Folder) -> Result<()> {
    let synced = folder.readable().and_then(sync);
    synced.doing(|| format!("write the folder {} to the disk", folder.path().display()))
}
