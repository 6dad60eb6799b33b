//! Extended attributes and access control lists of folders: what a restore must neither take over from around it nor leave.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{XattrFlags, fremovexattr, fsetxattr};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::lacking::not_done;
use crate::backup::extra::extra_of_file;
use crate::vault::path::Bytes;

/// What new files and folders in a folder get as their access control list (acl(5)).
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// What the system itself gives to everything, or a filesystem keeps for its own use: labels of SELinux, the numbers of Gluster.
const OF_THE_SYSTEM: [&[u8]; 2] = [b"security.", b"trusted."];

/// Takes a folder's default access control list away, so that what is made in it has only what it is given: the lists of the
/// folder around it would open what the snapshot closes.
///
/// # Errors
/// What the system refuses.
pub fn pass_nothing_on(folder: impl AsFd) -> rustix::io::Result<()> {
    match fremovexattr(folder, DEFAULT_ACL) {
        Err(why) if why == Errno::NODATA || not_done(why) => Ok(()),
        done => done,
    }
}

/// Takes away the attributes of an open folder that `kept` has not.
///
/// # Errors
/// What the system refuses.
pub fn remove_others(folder: impl AsFd, kept: &[(Bytes, Bytes)]) -> rustix::io::Result<()> {
    for (name, _) in all_of(&folder)? {
        let is_kept = kept.iter().any(|(kept, _)| *kept == name);
        if is_kept || OF_THE_SYSTEM.iter().any(|system| name.0.starts_with(system)) {
            continue;
        }
        match fremovexattr(&folder, OsStr::from_bytes(&name.0)) {
            Err(why) if why == Errno::NODATA || not_done(why) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Gives an open folder these attributes and no others, as far as its filesystem has such things.
///
/// # Errors
/// What the system refuses.
pub fn set(to: impl AsFd, attributes: &[(Bytes, Bytes)]) -> rustix::io::Result<()> {
    remove_others(&to, attributes)?;
    for (name, value) in attributes {
        match fsetxattr(&to, OsStr::from_bytes(&name.0), &value.0, XattrFlags::empty()) {
            Err(why) if not_done(why) => {}
            done => done?,
        }
    }
    Ok(())
}

/// The attributes of an open folder, by name; none where they may not be read.
///
/// # Errors
/// Too many open files.
pub fn all_of(folder: impl AsFd) -> rustix::io::Result<Vec<(Bytes, Bytes)>> {
    Ok(extra_of_file(&File::from(fcntl_dupfd_cloexec(folder, 0)?)).xattrs)
}
