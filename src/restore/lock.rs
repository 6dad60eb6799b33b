//! The lock of a target.

use std::path::Path;

use rustix::io::Errno;

use crate::error::Result;
use crate::fs::beneath::Directory;
use crate::fs::lock;
use crate::monitor::Context;

/// Locks the target, if there is one, against a backup of it. Also returns a note if it cannot be locked.
pub(crate) fn lock_target(target: &Path, ctx: &Context) -> Result<(Option<Directory>, Option<String>)> {
    loop {
        let folder = match Directory::open(target) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok((None, None)),
            // A user who may not read it may put something in its place all the same.
            Err(why) => return Ok((None, Some(lock::not_locked(target, &why)))),
        };
        let note = lock::lock(&folder, lock::LockKind::Exclusive, lock::RESTORE_WAITS, ctx.stop)?;
        // The run that was waited for may have put another folder in its place.
        if folder.is_at(target) {
            return Ok((Some(folder), note));
        }
        ctx.check("restore")?;
    }
}
