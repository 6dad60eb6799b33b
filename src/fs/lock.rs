//! Lets a backup and a restore of one directory exclude each other: `flock` on the directory itself, shared and
//! exclusive.
//!
//! The lock leaves no file behind, needs no right to write, and ends with its process. Where a filesystem refuses it
//! (NFS, some FUSE mounts), or another machine or sandbox does not see it, the work goes on: a backup then sees at its
//! end whether the directory is still the one that it began with.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Code, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::holders::{Locks, program};

/// How long a backup waits for a restore to end.
pub const BACKUP_WAITS: Duration = Duration::from_secs(60);
/// How long a restore waits for a backup to end.
pub const RESTORE_WAITS: Duration = Duration::from_secs(30);
/// The time after which the user is told that a lock is waited for.
const TELL: Duration = Duration::from_secs(1);
/// The sleep between two attempts to lock.
const STEP: Duration = Duration::from_millis(50);

/// Which lock is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Together with others that only read.
    Shared,
    /// Alone.
    Exclusive,
}

/// Locks a directory until it is closed. Returns a note if its filesystem has no such locks.
///
/// # Errors
/// Another process keeps the directory locked for longer than `patience`; a `stop`.
pub fn lock(folder: &Directory, kind: LockKind, patience: Duration, stop: &AtomicBool) -> Result<Option<String>> {
    let doing = || format!("lock the directory {}", folder.path().display());
    let wanted = match kind {
        LockKind::Shared => FlockOperation::NonBlockingLockShared,
        LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let began = Instant::now();
    let mut warned = false;
    loop {
        match flock(folder.folder(), wanted) {
            Ok(()) => return Ok(None),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(why) => return Ok(Some(not_locked(folder.path(), &why))),
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Error::failed(doing(), "it was told to stop").with_code(Code::Stopped));
        }
        let who = || holder(folder.folder()).unwrap_or_else(|| "another process".to_owned());
        if !warned && began.elapsed() >= TELL {
            let name = folder.path().display();
            tracing::warn!("{name} is locked by {}: waiting up to {} s for it", who(), patience.as_secs());
            warned = true;
        }
        if began.elapsed() >= patience {
            let who = who();
            let what = match kind {
                LockKind::Shared => "A restore into it may be under way",
                LockKind::Exclusive => "A backup of it may be under way",
            };
            let why = format!("{who} has kept it locked for {} s", patience.as_secs());
            let other =
                "a program that locks the directory itself, such as flock(1), has to use a file of its own for that";
            return Err(Error::failed(doing(), why)
                .with_code(Code::Locked)
                .hint(format!("{what}: then run this again when it has ended. Otherwise {other}.")));
        }
        std::thread::sleep(STEP);
    }
}

/// The note that a directory cannot be locked.
pub fn not_locked(folder: &Path, why: &Errno) -> String {
    let what = "nothing keeps a backup and a restore of it from running at the same time";
    format!("{} cannot be locked ({why}): {what}", folder.display())
}

/// Names the process that has a lock on the directory, as far as the kernel tells.
fn holder(folder: impl AsFd) -> Option<String> {
    let locks = Locks::read();
    let process = locks.of(folder).into_iter().find(|lock| lock.kind == "FLOCK")?.pid;
    let name = program(process);
    Some(if name.is_empty() { format!("process {process}") } else { format!("process {process} ({name})") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let open = || Directory::open(folder.path()).unwrap();
        let (a, b, c) = (open(), open(), open());
        let lock = |root: &Directory, kind| lock(root, kind, Duration::ZERO, &stop);
        assert_eq!(lock(&a, LockKind::Shared).unwrap(), None);
        assert_eq!(lock(&b, LockKind::Shared).unwrap(), None);
        let said = lock(&c, LockKind::Exclusive).unwrap_err().to_string();
        assert!(said.contains("process") && said.contains("for 0 s"), "{said}");
        drop((a, b));
        assert_eq!(lock(&c, LockKind::Exclusive).unwrap(), None);
        assert!(lock(&open(), LockKind::Shared).is_err());
    }

    #[test]
    fn waiting_for_a_lock_can_be_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (Directory::open(folder.path()).unwrap(), Directory::open(folder.path()).unwrap());
        let stop = AtomicBool::new(true);
        lock(&a, LockKind::Exclusive, Duration::ZERO, &stop).unwrap();
        let said = lock(&b, LockKind::Shared, BACKUP_WAITS, &stop).unwrap_err().to_string();
        assert!(said.contains("told to stop"), "{said}");
    }
}
