//! What is in a target that is filled in place: the marker, and names that are ours.
//!
//! A marker file says that the folder is being filled. A target with the marker is *broken*; the next restore of all completes it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::stage::STAGING;
use crate::backup::select::is_ours;
use crate::fs::{Folder, SAFE, what};

pub use crate::backup::select::{MARKER, OWN as REPLACED};

/// Whether a name in the target is ours: it is not moved aside, and no entry may have it.
pub fn is_reserved(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == MARKER.as_bytes() || is_ours(name) && [STAGING, REPLACED].iter().any(|own| name.starts_with(own.as_bytes()))
}

/// Marks a folder. `false`: it was already.
///
/// # Errors
/// What the system refuses; something else under that name.
pub fn mark(target: &Folder) -> io::Result<bool> {
    let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let mut marker = match openat(target, MARKER, flags, Mode::from_raw_mode(0o600)) {
        // An earlier restore left it. It is not written again: it may be another name of some other file.
        Err(Errno::EXIST) => {
            return match target.look(MARKER)? {
                Some(there) if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile => {
                    Err(io::Error::other(format!("{MARKER} in it is {}; remove that first", what(&there))))
                }
                _ => Ok(false),
            };
        }
        made => File::from(made?),
    };
    let text = b"lastgood is filling this folder, or was stopped while it did. Restore again to complete it.\n";
    if let Err(why) = marker.write_all(text).and_then(|()| marker.sync_all()) {
        // Nothing was moved yet: an empty marker would say what is not true.
        target.remove_file(MARKER)?;
        return Err(why);
    }
    Ok(true)
}
