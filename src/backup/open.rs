//! Opening a file of the data directory, whatever other programs do to it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, Stat, fstat};
use rustix::io::Errno;

use super::found::Found;
use super::read::Desk;
use super::sqlite::registry::{self, Hold};
use crate::fs::LEASE;
use crate::vault::path::EntryPath;

/// Opens a file. Where another program has a lease on it, as file servers do, opening begins to take that away, and is tried
/// again until it has gone.
fn open(desk: Desk, path: &EntryPath) -> Result<OwnedFd, Errno> {
    let began = Instant::now();
    loop {
        match desk.root.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::AGAIN) if began.elapsed() < LEASE && !desk.ctx.stop.load(Relaxed) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Opens a file under a hold, and looks at it.
///
/// # Errors
/// As `open`; `LOOP` for what is no regular file.
pub fn open_held(desk: Desk, found: &Found) -> Result<(File, Stat, Hold), Errno> {
    let hold = registry::hold(found.device, found.inode, desk.ctx.stop)?;
    let file = File::from(open(desk, &found.path)?);
    let stat = fstat(&file)?;
    if (stat.st_dev, stat.st_ino) == (found.device, found.inode) {
        return Ok((file, stat, hold));
    }
    // Another file has the name now. Whoever has that one open in this process is waited for before this is closed.
    drop(hold);
    let (file, hold) = registry::hold_opened(file, &stat, desk.ctx.stop)?;
    Ok((file, stat, hold))
}
