//! Names of staging folders, and how ours are told from others'.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::fstat;
use rustix::process::geteuid;

use crate::fs::{DEEP_TREE, Folder, WRITE_OF_OTHERS};
use crate::source::marker::DRAFT;
use crate::vault::hex::Hash;

/// The part of a staging folder's name that comes after the target's name and before the random digits.
pub const STAGING: &str = ".lastgood-restoring-";

/// Number of random digits.
pub(crate) const DIGITS: usize = 16;

/// The longest name that a filesystem of Linux has, in bytes.
pub(crate) const LONGEST_NAME: usize = 255;

/// Whether a name is the prefix and the digits that [`StagingFolder::make`](super::stage::StagingFolder::make) gives.
pub(crate) fn is_staging(name: &OsStr, prefix: &OsStr) -> bool {
    let digits = name.as_bytes().strip_prefix(prefix.as_bytes());
    digits.is_some_and(|d| d.len() == DIGITS && d.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')))
}

/// Returns a name, or a substitute if it would be too long together with `beside` more bytes: its beginning, and a hash
/// of all of it.
pub fn shortened(name: &OsStr, beside: usize) -> OsString {
    let longest = LONGEST_NAME.saturating_sub(beside);
    if name.len() <= longest {
        return name.to_owned();
    }
    let hash = format!("~{}", &Hash::of(name.as_bytes()).to_string()[..DIGITS]);
    let text = name.to_string_lossy();
    let fits = text.floor_char_boundary(longest.saturating_sub(hash.len()));
    [&text[..fits], &hash].concat().into()
}

/// The prefix of the names of staging folders for the target `name`.
pub(crate) fn prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::new();
    if !name.is_empty() {
        prefix.push(".");
        prefix.push(shortened(name, ".".len() + STAGING.len() + DIGITS));
    }
    prefix.push(STAGING);
    prefix
}

/// Whether `entry` is the name of a staging folder for the target `name`.
pub fn is_left(entry: &OsStr, name: &OsStr) -> bool {
    is_staging(entry, &prefix(name))
}

/// Says why a folder is not one that a restore of this user made, whatever its name says: a user who may write around
/// it can give it any name. `None` if it may be one.
///
/// # Errors
/// A folder that cannot be read.
pub fn why_foreign(folder: &Folder) -> rustix::io::Result<Option<String>> {
    let stat = fstat(folder)?;
    if stat.st_uid != geteuid().as_raw() {
        return Ok(Some(format!("it belongs to another user ({})", stat.st_uid)));
    }
    if stat.st_mode & WRITE_OF_OTHERS != 0 {
        return Ok(Some("others may write in it".to_owned()));
    }
    let names = folder.names()?;
    let foreign = names.iter().find(|name| !is_of_a_restore(name));
    Ok(foreign.map(|name| format!("no restore makes what is in it: {}", Path::new(name).display())))
}

/// Whether a restore makes something of that name in its staging folder.
pub(crate) fn is_of_a_restore(name: &OsStr) -> bool {
    let own = [TREE, GROUPS, PROBE, MOVED, UNPLACED, NOTE, DRAFT];
    own.iter().any(|own| name == *own) || name.as_bytes().starts_with(DEEP_TREE.as_bytes())
}

/// The folder in a staging folder that becomes the target.
pub(crate) const TREE: &str = "tree";

/// The folder in a staging folder for hard links.
pub(crate) const GROUPS: &str = "groups";

/// The name in a staging folder for probes: of whether folders can be renamed, and of the time there.
pub(crate) const PROBE: &str = "probe";

/// The name that the folder [`PROBE`] is renamed to.
pub(crate) const MOVED: &str = "moved";

/// The name in a staging folder for what a killed restore had not put into place, before it is removed.
pub(crate) const UNPLACED: &str = "unplaced";

/// The note's name in a staging folder.
pub const NOTE: &str = "moving";
