//! Finds who uses a target: programs that have files of it open, and programs that stand in it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::in_use::users;
use super::standing::{FileUser, below};
use super::target::RestoreTarget;
use crate::fs::holders::program;
use crate::path::EntryPath;

/// Returns the programs that use what a restore to `place` replaces.
pub fn users_of(place: &RestoreTarget) -> Vec<FileUser> {
    let mut users = users(&place.replaces());
    users.retain(|user| !place.kept().iter().any(|kept| user.file.starts_with(place.target.join(kept.as_path()))));
    users
}

/// Returns this process and its ancestors as far as they work in a folder that a restore to `place` moves away, or puts
/// something else in the place of.
pub fn moved(place: &RestoreTarget) -> Vec<FileUser> {
    let below = below(&place.target);
    below
        .filter(|(_, folder)| !stays(place, folder))
        .map(|(pid, file)| FileUser { pid, program: program(pid), file })
        .collect()
}

pub(crate) fn stays(place: &RestoreTarget, folder: &Path) -> bool {
    let path = folder.strip_prefix(&place.target).ok().map(|path| EntryPath::new(path.as_os_str().as_bytes()));
    match path {
        Some(Ok(path)) => place.stays(&path),
        // The target itself.
        _ => place.stays(&EntryPath::root()),
    }
}
