//! Registers which files of the data directory this process may have open, and lets one thread at a time have each of
//! them.
//!
//! POSIX locks belong to the process, not to a descriptor: when *any* descriptor of a file is closed, all locks that
//! the process has on that file are gone, including those that SQLite took through another one and relies on. So every
//! file of a data directory is opened under an [`InodeLock`], there is one such lock per file at a time, and a live
//! database keeps those of its files until SQLite has closed them. Files are known by device and inode: a hard link is
//! the same file.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Stat, fstat};
use rustix::io::Errno;

/// How long to wait for the lock of a file that another thread has.
///
/// That thread may itself be waiting for what it read to be taken, which is done in the order of paths, and so for the
/// thread that waits here, if the file was renamed to a name that comes before. Then one of the two has to give up.
const LONGEST: Duration = Duration::from_secs(2);
/// How often a waiting thread checks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// The locked files, by device and inode; for each, the descriptors that others have opened, which may be closed only
/// when it is unlocked.
type Files = HashMap<(u64, u64), Vec<File>>;

/// The files that are locked.
static HELD: LazyLock<Mutex<Files>> = LazyLock::new(Mutex::default);
static GIVEN_BACK: Condvar = Condvar::new();

fn registry() -> MutexGuard<'static, Files> {
    // A panic elsewhere cannot leave a map half changed.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to open and close one file; released when it is dropped, after every descriptor of the file.
#[derive(Debug)]
#[must_use = "the file may be opened only while this lives"]
pub struct InodeLock {
    device: u64,
    inode: u64,
}

impl InodeLock {
    /// The file's device and inode.
    pub fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

impl Drop for InodeLock {
    fn drop(&mut self) {
        let mut files = registry();
        // Nobody has the lock now, so no lock on the file is lost by closing these.
        drop(files.remove(&(self.device, self.inode)));
        drop(files);
        // All threads are woken, since each waits for one file among many.
        GIVEN_BACK.notify_all();
    }
}

/// Takes a file's inode lock, and waits until nobody in this process has it.
///
/// # Errors
/// `CANCELED` when the work is told to stop; `TIMEDOUT` after `LONGEST`: the caller tries the file again when others
/// are done.
pub fn lock_inode(device: u64, inode: u64, stop: &AtomicBool) -> Result<InodeLock, Errno> {
    let began = Instant::now();
    let mut files = registry();
    while !add(&mut files, (device, inode)) {
        if stop.load(Ordering::Relaxed) {
            return Err(Errno::CANCELED);
        }
        if began.elapsed() > LONGEST {
            return Err(Errno::TIMEDOUT);
        }
        files = GIVEN_BACK.wait_timeout(files, LOOK).unwrap_or_else(PoisonError::into_inner).0;
    }
    Ok(InodeLock { device, inode })
}

/// Adds a file if nobody has its lock. Returns whether it was added.
fn add(files: &mut Files, file: (u64, u64)) -> bool {
    let free = !files.contains_key(&file);
    if free {
        files.insert(file, Vec::new());
    }
    free
}

/// Takes a file's inode lock if nobody in this process has it; `None` otherwise.
pub fn try_lock_inode(device: u64, inode: u64) -> Option<InodeLock> {
    let free = add(&mut registry(), (device, inode));
    // It is made only if the file is free: an [`InodeLock`] that is made is also released.
    free.then(|| InodeLock { device, inode })
}

/// A file that was opened under its inode lock.
#[derive(Debug)]
pub struct LockedFile {
    /// The file; it is closed before its lock is released.
    pub file: File,
    /// The file's status.
    pub stat: Stat,
    /// The inode lock.
    pub inode_lock: InodeLock,
}

/// Opens the file that `inode_lock` locks; if another file has its name by now, that one is locked instead.
///
/// # Errors
/// The errors of opening, and as [`lock_inode`]. A file that cannot be locked is closed when the thread that has its
/// lock releases it, since closing it before would take SQLite's locks away.
pub fn open(
    inode_lock: InodeLock,
    stop: &AtomicBool,
    open: impl FnOnce() -> Result<OwnedFd, Errno>,
) -> Result<LockedFile, Errno> {
    let file = File::from(open()?);
    let stat = match fstat(&file) {
        Ok(stat) => stat,
        Err(why) => {
            // Nobody can tell which file it is, and so whose locks closing it would drop.
            std::mem::forget(file);
            return Err(why);
        }
    };
    if (stat.st_dev, stat.st_ino) == inode_lock.id() {
        return Ok(LockedFile { file, stat, inode_lock });
    }
    // Nobody waits for one inode lock while having another.
    drop(inode_lock);
    match lock_inode(stat.st_dev, stat.st_ino, stop) {
        Ok(inode_lock) => Ok(LockedFile { file, stat, inode_lock }),
        Err(why) => {
            match registry().get_mut(&(stat.st_dev, stat.st_ino)) {
                Some(others) => others.push(file),
                // Nobody can take its lock before it is closed here.
                None => drop(file),
            }
            Err(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// A device that no filesystem has.
    const DEVICE: u64 = u64::MAX;
    static GO_ON: AtomicBool = AtomicBool::new(false);

    #[test]
    fn who_waits_hears_that_it_is_to_stop() {
        let stop = AtomicBool::new(false);
        let _held = lock_inode(DEVICE, 5, &stop).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock_inode(DEVICE, 5, &stop).err());
            stop.store(true, Ordering::Relaxed);
            assert_eq!(waiting.join().unwrap(), Some(Errno::CANCELED));
        });
    }

    #[test]
    fn a_file_is_held_once_and_again_when_it_is_given_back() {
        let first = try_lock_inode(DEVICE, 1).unwrap();
        assert_eq!(first.id(), (DEVICE, 1));
        assert!(try_lock_inode(DEVICE, 1).is_none());
        let other = try_lock_inode(DEVICE, 2).unwrap();
        drop(first);
        assert!(try_lock_inode(DEVICE, 2).is_none());
        drop((try_lock_inode(DEVICE, 1).unwrap(), other));
    }

    #[test]
    fn who_waits_gets_the_file_after_it_was_given_back() {
        let released = AtomicBool::new(false);
        let first = lock_inode(DEVICE, 3, &GO_ON).unwrap();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let _mine = lock_inode(DEVICE, 3, &GO_ON).unwrap();
                        released.load(Ordering::SeqCst)
                    })
                })
                .collect();
            released.store(true, Ordering::SeqCst);
            drop(first);
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        });
        drop(try_lock_inode(DEVICE, 3).unwrap());
    }

    #[test]
    fn what_could_not_be_held_is_closed_when_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let file = File::create(&path).unwrap();
        let stat = fstat(&file).unwrap();
        let first = lock_inode(stat.st_dev, stat.st_ino, &GO_ON).unwrap();
        let stop = AtomicBool::new(true);
        let mut opened = None;
        let late = open(try_lock_inode(DEVICE, 6).unwrap(), &stop, || {
            let file = File::open(&path).unwrap();
            opened = Some(file.as_raw_fd());
            Ok(file.into())
        });
        assert_eq!(late.map(|_| ()), Err(Errno::CANCELED));
        let link = format!("/proc/self/fd/{}", opened.unwrap());
        assert_eq!(std::fs::read_link(&link).unwrap(), path);
        drop((file, first));
        assert_ne!(std::fs::read_link(&link).ok(), Some(path));
    }

    #[test]
    fn a_panic_gives_back_what_was_held() {
        let panicked = std::thread::spawn(|| {
            let _mine = lock_inode(DEVICE, 4, &GO_ON).unwrap();
            panic!("on purpose");
        })
        .join();
        assert!(panicked.is_err());
        drop(try_lock_inode(DEVICE, 4).unwrap());
    }
}
