//! Whether only this user can have written what a file says.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{RawMode, fstat};
use rustix::process::geteuid;

use crate::fs::{WRITE_OF_OTHERS, is_file};

/// The mode bit of folders in which nobody may rename and remove what is another user's.
const STICKY: u32 = 0o1000;

/// Whether a file is of this user, no other user may write to it, and it has no other name, which might be the true one.
pub fn is_own(file: &File) -> bool {
    fstat(file).is_ok_and(|stat| {
        let others: RawMode = stat.st_mode & WRITE_OF_OTHERS;
        is_file(&stat) && stat.st_uid == geteuid().as_raw() && stat.st_nlink == 1 && others == 0
    })
}

/// Whether nobody but this user and root can put another entry where a path leads.
pub fn is_own_place(path: &Path) -> bool {
    let own = |folder: &Path| {
        folder.metadata().is_ok_and(|found| {
            let is_closed = found.mode() & WRITE_OF_OTHERS == 0 || found.mode() & STICKY != 0;
            is_closed && (found.uid() == 0 || found.uid() == geteuid().as_raw())
        })
    };
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder.is_some_and(|folder| folder.ancestors().all(own))
}
