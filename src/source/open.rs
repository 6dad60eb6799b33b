//! Opens files of the data directory, whatever other programs do to them.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::found::SourceEntry;
use crate::fs::LEASE;
use crate::fs::beneath::Directory;
use crate::path::EntryPath;
use crate::sqlite::fd_registry::{self, LockedFile};

/// Opens a file. If another program has a lease on it, as file servers do, opening begins to take the lease away, and
/// is tried again until it is gone.
fn open(root: &Directory, path: &EntryPath, stop: &AtomicBool) -> Result<OwnedFd, Errno> {
    let began = Instant::now();
    loop {
        match root.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::AGAIN) if began.elapsed() < LEASE && !stop.load(Relaxed) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Opens the file that has the path of the entry that was found, under its inode lock.
///
/// # Errors
/// As `open`; `LOOP` for a symlink.
pub fn open_under_lock(root: &Directory, found: &SourceEntry, stop: &AtomicBool) -> Result<LockedFile, Errno> {
    let hold = fd_registry::lock_inode(found.device, found.inode, stop)?;
    fd_registry::open(hold, stop, || open(root, &found.path, stop))
}
