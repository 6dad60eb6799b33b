//! The lock of the one `run` that a data directory has: `flock` on `.lastgood/run.lock` in it.
//!
//! The app inherits the lock. So it ends when both are gone: an app that lives on after its `run` was killed keeps another one from
//! starting a second app on the same data. The lock that a backup and a restore take ([`crate::fs::lock`]) is another one, on the
//! directory itself, which is held only while they work.
//!
//! What is in the file is for people: which process made the lock. It says nothing about whether that still holds it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Doing, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::holders::{Locks, program};
use crate::fs::{SAFE, is_file, what};
use crate::text::one_line;

/// The folder of lastgood in a data directory.
pub const FOLDER: &str = ".lastgood";
/// The file in it that is locked.
pub const FILE: &str = "run.lock";
/// The sleep between two attempts to lock.
const STEP: Duration = Duration::from_millis(100);
/// The time after which the user is told that the lock is waited for.
const TELL: Duration = Duration::from_secs(1);
/// The most bytes of the file that are read.
const MAX_FILE: u64 = 4096;
/// The most bytes of a host's name that are shown.
const MAX_HOST: usize = 100;

/// The process that made a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Its number, as it is seen there.
    pub pid: u32,
    /// The host's name.
    pub host: String,
    /// When it took the lock.
    pub since: Timestamp,
}

/// The lock, until this and the app are gone.
#[derive(Debug)]
pub struct RunLock {
    /// `None` if the filesystem has no locks.
    file: Option<File>,
    path: PathBuf,
}

/// Who waits for the lock, and how.
pub struct LockWait<'w> {
    /// The name of this host.
    pub host: &'w str,
    /// How long to wait for another process to let it go.
    pub patience: Duration,
    /// Ends the waiting.
    pub stop: &'w AtomicBool,
}

impl RunLock {
    /// Locks a data directory for this `run`. Makes the folder `.lastgood` and the file if they are not there; no symlink is
    /// followed. Where the filesystem has no locks, there is none, and a warning says so.
    ///
    /// # Errors
    /// Another process holds the lock for longer than that is waited for: [`Code::Locked`]; a stop; something else is where the
    /// file should be; the directory cannot be written to.
    pub fn take(directory: &Directory, wait: &LockWait) -> Result<RunLock> {
        let path = directory.path().join(FOLDER).join(FILE);
        let doing = || format!("lock {}", path.display());
        let folder = folder(directory).doing(doing)?;
        let began = Instant::now();
        let mut told = false;
        loop {
            let file = open(&folder).map_err(|why| not_opened(&path, &why))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Somebody may have removed the file, and another process locked the next one.
                Ok(()) if is_there(&folder, &file) => {
                    let mut lock = RunLock { file: Some(file), path };
                    lock.note(wait.host);
                    return Ok(lock);
                }
                Ok(()) => continue,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(why) => {
                    let what = "nothing keeps two `lastgood run` from running on it at the same time";
                    tracing::warn!("{} cannot be locked ({why}): {what}", path.display());
                    return Ok(RunLock { file: None, path });
                }
            }
            if wait.stop.load(Ordering::Relaxed) {
                return Err(Error::failed(doing(), "it was told to stop").with_code(Code::Stopped));
            }
            if began.elapsed() >= wait.patience {
                let (who, time) = (holder(&file), wait.patience.as_secs());
                return Err(Error::failed(doing(), format!("{who} holds the lock, and did not let it go within {time} s"))
                    .with_code(Code::Locked)
                    .hint("One `lastgood run` at a time runs on a directory. If that one was killed, an app that it had started may live on and hold the lock: end it first."));
            }
            if !told && began.elapsed() >= TELL {
                tracing::warn!(
                    "{} is locked by {}: waiting up to {} s for it",
                    path.display(),
                    holder(&file),
                    wait.patience.as_secs()
                );
                told = true;
            }
            std::thread::sleep(STEP.min(wait.patience.saturating_sub(began.elapsed())));
        }
    }

    /// Whether this is the lock of a directory: a restore may have put another one in its place. Always, where the filesystem has no
    /// locks.
    pub fn is_of(&self, directory: &Directory) -> bool {
        let flags = SAFE | OFlags::DIRECTORY | OFlags::RDONLY;
        let folder = openat(directory.folder(), FOLDER, flags, Mode::empty());
        self.file.as_ref().is_none_or(|file| folder.is_ok_and(|folder| is_there(&folder, file)))
    }

    /// The locked file, which the app inherits. `None` if the filesystem has no locks.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Where the lock was when it was taken.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down who holds it. That is only for people: an error is not told.
    fn note(&mut self, host: &str) {
        let Some(file) = &mut self.file else { return };
        let holder = LockHolder { pid: std::process::id(), host: host.to_owned(), since: Timestamp::now() };
        let _ = serde_json::to_vec(&holder).map_err(io::Error::from).and_then(|text| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&text)
        });
    }
}

/// Opens the folder in the directory; makes it if it is not there.
fn folder(directory: &Directory) -> rustix::io::Result<OwnedFd> {
    let open = || openat(directory.folder(), FOLDER, SAFE | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
    match open() {
        Err(Errno::NOENT) => match mkdirat(directory.folder(), FOLDER, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(why) => Err(why),
        },
        opened => opened,
    }
}

/// Opens the file; makes it if it is not there.
fn open(folder: &OwnedFd) -> io::Result<File> {
    // A fifo does not block it.
    let flags = SAFE | OFlags::CREATE | OFlags::RDWR | OFlags::NONBLOCK;
    let file: File = openat(folder, FILE, flags, Mode::RUSR | Mode::WUSR)?.into();
    let stat = fstat(&file)?;
    match is_file(&stat) {
        true => Ok(file),
        false => Err(io::Error::other(format!("it is {}", what(&stat)))),
    }
}

fn not_opened(path: &Path, why: &io::Error) -> Error {
    let doing = format!("open {}", path.display());
    match why.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => {
            Error::failed(doing, "it is a symbolic link").hint("Remove it: lastgood makes a file there.")
        }
        _ => Error::io(doing, why),
    }
}

/// Whether the file is the one that has its name.
fn is_there(folder: &OwnedFd, file: &File) -> bool {
    let (Ok(there), Ok(file)) = (statat(folder, FILE, AtFlags::SYMLINK_NOFOLLOW), fstat(file)) else { return false };
    (there.st_dev, there.st_ino) == (file.st_dev, file.st_ino)
}

/// Names what holds the lock, as far as it is known.
fn holder(mut file: &File) -> String {
    let locks = Locks::read();
    let seen = locks.of(file).into_iter().find(|lock| lock.kind == "FLOCK").map(|lock| lock.pid);
    let mut text = Vec::new();
    let noted = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(MAX_FILE).read_to_end(&mut text));
    let noted = noted.ok().and_then(|_| serde_json::from_slice::<LockHolder>(&text).ok());
    let made = noted.map(|LockHolder { pid, host, since }| {
        let (host, since) = (one_line(&host, MAX_HOST), since.strftime("%F %TZ"));
        format!("process {pid} on {host} since {since}")
    });
    match (seen, made) {
        // The kernel tells the process that took the lock, also after its end; the app may be left.
        (Some(pid), made) if !program(pid).is_empty() => {
            let noted = made.map(|made| format!(" ({made})")).unwrap_or_default();
            format!("process {pid} {}{noted}", program(pid))
        }
        (_, Some(made)) => made,
        (Some(pid), None) => format!("process {pid}"),
        (None, None) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn take(folder: &Path, patience: u64, stop: bool) -> Result<RunLock> {
        let wait = LockWait { host: "web-1", patience: Duration::from_millis(patience), stop: &AtomicBool::new(stop) };
        RunLock::take(&Directory::open(folder).unwrap(), &wait)
    }

    #[test]
    fn one_holds_it_at_a_time_and_is_named() {
        let data = tempfile::tempdir().unwrap();
        let lock = take(data.path(), 0, false).unwrap();
        assert_eq!(lock.path(), data.path().canonicalize().unwrap().join(".lastgood/run.lock"));
        let why = take(data.path(), 200, false).unwrap_err();
        let this = std::process::id();
        assert_eq!(why.code(), Code::Locked);
        assert!(
            why.to_string().contains(&format!("process {this}")) && why.to_string().contains("on web-1 since"),
            "{why}"
        );
        assert_eq!(take(data.path(), 5000, true).unwrap_err().code(), Code::Stopped);
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| take(data.path(), 60_000, false));
            std::thread::sleep(Duration::from_millis(250));
            assert!(!waiting.is_finished());
            drop(lock);
            waiting.join().unwrap()
        });
        // The file that is locked has been removed: the next one is another.
        fs::remove_file(data.path().join(".lastgood/run.lock")).unwrap();
        let next = take(data.path(), 0, false).unwrap();
        drop(waiting);
        assert!(take(data.path(), 0, false).is_err());
        drop(next);
        take(data.path(), 0, false).unwrap();
    }

    #[test]
    fn what_is_planted_is_not_followed() {
        let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(other.path(), data.path().join(FOLDER)).unwrap();
        take(data.path(), 0, false).unwrap_err();
        fs::remove_file(data.path().join(FOLDER)).unwrap();
        fs::create_dir(data.path().join(FOLDER)).unwrap();
        symlink(other.path().join("made"), data.path().join(".lastgood/run.lock")).unwrap();
        let why = take(data.path(), 0, false).unwrap_err();
        assert!(why.to_string().contains("it is a symbolic link"), "{why}");
        fs::remove_file(data.path().join(".lastgood/run.lock")).unwrap();
        fs::create_dir(data.path().join(".lastgood/run.lock")).unwrap();
        take(data.path(), 0, false).unwrap_err();
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    }
}
