//! The lock of the one `run` that a data directory has: `flock` on `.lastgood/run.lock` in it.
//!
//! The app inherits the lock. So it ends when both are gone: an app that lives on after its `run` was killed keeps another one from
//! starting a second app on the same data. The lock that a backup and a restore take ([`crate::fs::lock`]) is another one, on the
//! directory itself, which is held only while they work.
//!
//! What the app starts may not inherit it: Python's `subprocess` closes what it is not told to keep. If `run` is killed, the app dies
//! with it, the lock is free, and such processes go on writing. So the file says by what they are known ([`RunProof`]), and the next
//! one that locks it ends them first ([`super::left`]). It does the same if the lock is held by what a dead `run` has left. A
//! [`RunRecord`] outside of the directory says the same, and is what is believed: the app's user may write to the file here. Whom that
//! names is ended only if nobody else could write it. Otherwise only marks count, and whoever is named beyond that keeps the app from
//! being started, with an error that says who that is.

mod open;
mod record;
mod runs;
mod trust;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock, fstat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::left::{Remains, RunProof};
use super::process::ProcessIdentity;
use crate::error::{Code, Doing, Error, Result};
use crate::fs::Folder;
use crate::fs::holders::{Locks, has_open, program};
use crate::lineage::{OWN_FOLDER, RUN_LOCK, own_folder};
use crate::text::one_line;
use crate::vault::hex::Hex;

use self::open::{not_opened, open};
pub use self::record::RunRecord;
use self::runs::LockRuns;

/// The sleep between two attempts to lock.
const STEP: Duration = Duration::from_millis(100);
/// The time after which the user is told that the lock is waited for.
const TELL: Duration = Duration::from_secs(1);
/// The most bytes of the file that are read.
const MAX_FILE: u64 = 4096;
/// The bytes of the file: always as many, so that one write replaces all that it says.
const FILE: usize = 4096;
/// The most bytes of a host's name that are shown.
const MAX_HOST: usize = 100;
/// The most processes without the mark that the file names.
const MAX_UNMARKED: usize = 100;

/// The process that made a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Its number, as it is seen there.
    pub pid: u32,
    /// The host's name.
    pub host: String,
    /// When it took the lock.
    pub since: Timestamp,
    /// By what it and what its app starts are known. `None` where the system tells too little, or an older version made the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<RunProof>,
    /// The epochs that it and those before it have taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epochs: Option<LockRuns>,
}

/// The lock, until this and the app are gone.
#[derive(Debug)]
pub struct RunLock {
    /// `None` if the filesystem has no locks.
    file: Option<File>,
    path: PathBuf,
    /// Held while the file is read and written anew.
    writing: Mutex<()>,
}

/// Who waits for the lock, and how.
pub struct LockWait<'w> {
    /// The name of this host.
    pub host: &'w str,
    /// How long to wait for another process to let it go.
    pub patience: Duration,
    /// The time that processes may take to end that a killed `run` has left, before they are killed.
    pub stop_timeout: Duration,
    /// Ends the waiting.
    pub stop: &'w AtomicBool,
}

impl RunLock {
    /// Locks a data directory for this `run`. Makes the folder `.lastgood` and the file if they are not there; no symlink is
    /// followed. What a `run` that was killed has left is ended first. Where the filesystem has no locks, there is none, and a warning
    /// says so.
    ///
    /// # Errors
    /// Another process holds the lock for longer than that is waited for, or is left of a killed `run` and does not end:
    /// [`Code::Locked`]; a stop; something else is where the file should be; the directory cannot be written to.
    pub fn take(directory: &Folder, wait: &LockWait) -> Result<RunLock> {
        let path = directory.path().join(OWN_FOLDER).join(RUN_LOCK);
        let doing = || format!("lock {}", path.display());
        let began = Instant::now();
        let (mut told, mut ended) = (false, false);
        loop {
            // A restore may exchange the directory while its lock is waited for, and the new one has another lock.
            let directory = Folder::open(directory.path()).doing(doing)?;
            let folder = own_folder(&directory).map_err(|why| why.within(doing()))?;
            let file = open(&folder).map_err(|why| not_opened(&path, &why))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Somebody may have removed the file, and another process locked the next one.
                Ok(()) if is_there(&folder, &file) && is_in_place(&directory) => {
                    // Another name of the file may be anything, and is not to be written to.
                    if fstat(&file).is_ok_and(|stat| stat.st_nlink > 1) {
                        folder.remove_file(RUN_LOCK).map_err(|why| not_opened(&path, &why.into()))?;
                        continue;
                    }
                    end_left(&file, &path, wait).map_err(|why| why.into_error(doing()))?;
                    let lock = RunLock { file: Some(file), path, writing: Mutex::default() };
                    lock.note(wait.host);
                    return Ok(lock);
                }
                Ok(()) => continue,
                // The lock was inherited by what a dead `run` has left.
                Err(Errno::WOULDBLOCK | Errno::INTR) if !ended && noted(&file).is_some_and(|noted| noted.is_gone()) => {
                    ended = true;
                    // What does not end is waited for, and named at the end.
                    let _ = end_left(&file, &path, wait);
                    continue;
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(why) => {
                    let what = "nothing keeps two `lastgood run` from running on it at the same time";
                    tracing::warn!("{} cannot be locked ({why}): {what}", path.display());
                    return Ok(RunLock { file: None, path, writing: Mutex::default() });
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

    /// Locks a directory that is about to take the place of `target`, of which `own` is lastgood's folder: so the target has a lock at
    /// any time. Nobody else has a lock in a directory that is being made.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn take_staged(own: &Folder, target: &Path, host: &str) -> Result<RunLock> {
        let path = target.join(OWN_FOLDER).join(RUN_LOCK);
        let file = open(own).map_err(|why| not_opened(&own.path().join(RUN_LOCK), &why))?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let lock = RunLock { file: locked.is_ok().then_some(file), path, writing: Mutex::default() };
        lock.note(host);
        Ok(lock)
    }

    /// Whether this is the lock of a directory: a restore may have put another one in its place. Always, where the filesystem has no
    /// locks.
    pub fn is_of(&self, directory: &Folder) -> bool {
        let own = directory.enter(OWN_FOLDER);
        self.file.as_ref().is_none_or(|file| own.is_ok_and(|own| is_there(&own, file)))
    }

    /// The runs of epochs whose instances have held this very lock: those of others are dead, or have let it go.
    pub fn epoch_runs(&self) -> Vec<Hex<8>> {
        self.file.as_ref().and_then(noted_runs).map_or_else(Vec::new, LockRuns::into_runs)
    }

    /// Writes down the run of an epoch that its holder takes, or has.
    pub fn note_epoch_run(&self, run: Hex<8>) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((noted, file)) = self.file.as_ref().and_then(|file| Some((noted(file)?, file))) else { return };
        let mut epochs = noted_runs(file).or_else(|| LockRuns::of(file));
        epochs.iter_mut().for_each(|epochs| epochs.add(run));
        self.write(&LockHolder { epochs, ..noted });
    }

    /// The locked file, which the app inherits. `None` if the filesystem has no locks.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Where the lock was when it was taken.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down the app that holds the lock together with this program.
    pub fn note_app(&self, pid: u32) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(noted) = self.file.as_ref().and_then(noted) else { return };
        self.write(&LockHolder { proof: noted.proof.map(|proof| proof.with_app(pid)), ..noted });
    }

    /// Writes down what the app has started without its mark, if that is news.
    pub fn note_unmarked(&self, processes: &[ProcessIdentity]) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut noted) = self.file.as_ref().and_then(noted) else { return };
        if noted.proof.as_mut().is_some_and(|proof| proof.set_unmarked(processes, MAX_UNMARKED)) {
            self.write(&noted);
        }
    }

    /// Writes down who holds it.
    fn note(&self, host: &str) {
        let epochs = self.file.as_ref().and_then(noted_runs);
        self.write(&LockHolder { epochs, ..LockHolder::this(host) });
    }

    /// Writes what the file says, in one step. An error is not told: the lock is held all the same.
    fn write(&self, holder: &LockHolder) {
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec(holder).map_err(io::Error::from).and_then(|mut text| {
            text.resize(text.len().max(FILE - 1), b' ');
            text.push(b'\n');
            file.write_all_at(&text, 0)
        });
        if let Err(why) = written {
            tracing::debug!("{} does not say who holds it: {why}", self.path.display());
        }
    }
}

impl LockHolder {
    /// This process, from now on.
    fn this(host: &str) -> LockHolder {
        let (pid, since, host) = (std::process::id(), Timestamp::now(), one_line(host, MAX_HOST));
        LockHolder { pid, host, since, proof: RunProof::of_this(), epochs: None }
    }

    /// Whether it is known to have ended.
    fn is_gone(&self) -> bool {
        self.proof.as_ref().is_some_and(RunProof::is_gone)
    }
}

/// Tells what keeps an app from being started, for people.
#[derive(Debug)]
enum StillThere {
    /// Processes that are proven to be left, and do not end.
    Left(String),
    /// Processes that a file says to be left, which others than this user may have written.
    Named { processes: String, by: PathBuf },
}

impl StillThere {
    /// The error that something could not be done because of that.
    fn into_error(self, doing: String) -> Error {
        match self {
            StillThere::Left(left) => {
                Error::failed(doing, format!("a `lastgood run` that was killed has left processes: {left}"))
                    .hint("They may write to the data: end them first.")
            }
            StillThere::Named { processes, by } => {
                let by = by.display();
                Error::failed(doing, format!("a `lastgood run` that was killed has left processes, by what {by} says: {processes}"))
                    .hint(format!(
                        "Other users can write that file, so they are not ended because of it. If they are of the app, end them. If they are \
                         not, remove {by}."
                    ))
            }
        }
        .with_code(Code::Locked)
    }
}

/// Ends what is left of a `run` that was killed.
///
/// # Errors
/// What is left all the same.
fn end_remains(remains: &Remains, wait: &LockWait) -> Result<(), StillThere> {
    remains.end(wait.stop_timeout, wait.stop).map(drop).map_err(|left| StillThere::Left(left.join(", ")))
}

/// Ends what the last holder of a lock has left, if that was killed.
///
/// # Errors
/// Processes are left all the same, or cannot be proven to be left.
fn end_left(file: &File, path: &Path, wait: &LockWait) -> Result<(), StillThere> {
    let Some(proof) = noted(file).and_then(|noted| noted.proof) else { return Ok(()) };
    if trust::is_own(file) && trust::is_own_place(path) {
        return end_remains(&Remains { data: None, proof: Some(&proof) }, wait);
    }
    end_remains(&Remains { data: None, proof: Some(&proof.clone().marks_only()) }, wait)?;
    let named: Vec<_> = proof.named().iter().map(|found| format!("{} {}", found.pid, program(found.pid))).collect();
    match named.is_empty() {
        true => Ok(()),
        false => Err(StillThere::Named { processes: named.join(", "), by: path.to_owned() }),
    }
}

/// What the file says of who holds it. `None` if that cannot be understood.
fn noted(file: &File) -> Option<LockHolder> {
    let mut text = vec![0; usize::try_from(MAX_FILE).ok()?];
    let length = file.read_at(&mut text, 0).ok()?;
    text.truncate(length);
    serde_json::from_slice(&text).ok()
}

/// The epochs that holders of the lock of this file have taken.
fn noted_runs(file: &File) -> Option<LockRuns> {
    noted(file)?.epochs.filter(|epochs| epochs.is_of(file))
}

/// Whether the file is the one that has its name.
fn is_there(folder: &Folder, file: &File) -> bool {
    let (Ok(Some(there)), Ok(file)) = (folder.look(RUN_LOCK), fstat(file)) else { return false };
    (there.st_dev, there.st_ino) == (file.st_dev, file.st_ino)
}

/// Whether a directory is the one that its path leads to.
fn is_in_place(directory: &Folder) -> bool {
    let (Ok(there), Ok(stat)) = (Folder::open(directory.path()).and_then(fstat), fstat(directory)) else {
        return false;
    };
    (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)
}

/// Names what holds the lock, as far as it is known: a process that is there, rather than the one that made the lock and is dead.
fn holder(file: &File) -> String {
    let locks = Locks::read();
    let seen = locks.of(file).into_iter().find(|lock| lock.kind == "FLOCK").map(|lock| lock.pid);
    let noted = noted(file);
    let is_gone = noted.as_ref().is_some_and(LockHolder::is_gone);
    let named = noted.as_ref().and_then(|noted| noted.proof.as_ref()?.named().first().map(|found| found.pid));
    let made = noted.map(|LockHolder { pid, host, since, .. }| {
        let (host, since) = (one_line(&host, MAX_HOST), since.strftime("%F %TZ"));
        format!("process {pid} on {host} since {since}")
    });
    match (seen, made) {
        // The kernel tells the process that took the lock, also after its end.
        (Some(pid), made) if !is_gone && !program(pid).is_empty() => {
            let noted = made.map(|made| format!(" ({made})")).unwrap_or_default();
            format!("process {pid} {}{noted}", program(pid))
        }
        (_, Some(made)) => match heir(file).or(named) {
            Some(heir) => format!("process {heir} {}, left by {made},", program(heir)),
            None => made,
        },
        (Some(pid), None) => format!("process {pid}"),
        (None, None) => "another process".to_owned(),
    }
}

/// A process that has the file open and is not one that waits for the lock, as this one does.
fn heir(file: &File) -> Option<u32> {
    let file = fstat(file).ok()?;
    let waits = program(std::process::id());
    let numbers = std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut others = numbers.filter(|pid: &u32| program(*pid) != waits);
    others.find(|pid| has_open(*pid, (file.st_dev, file.st_ino)) == Some(true))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn take(folder: &Path, patience: u64, stop: bool) -> Result<RunLock> {
        let (patience, stop_timeout) = (Duration::from_millis(patience), Duration::from_millis(500));
        let wait = LockWait { host: "web-1", patience, stop_timeout, stop: &AtomicBool::new(stop) };
        RunLock::take(&Folder::open(folder).unwrap(), &wait)
    }

    #[test]
    fn one_holds_it_at_a_time_and_is_named() {
        let data = tempfile::tempdir().unwrap();
        let lock = take(data.path(), 0, false).unwrap();
        assert_eq!(lock.path(), data.path().join(".lastgood/run.lock"));
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
        let waiting = waiting.unwrap();
        waiting.note_epoch_run(Hex([1; 8]));
        waiting.note_app(std::process::id());
        assert_eq!(waiting.epoch_runs(), [Hex([1; 8])]);
        // The file that is locked has been removed: the next one is another, and says nothing of who holds the first.
        fs::remove_file(data.path().join(".lastgood/run.lock")).unwrap();
        let next = take(data.path(), 0, false).unwrap();
        assert_eq!(next.epoch_runs(), []);
        next.note_epoch_run(Hex([3; 8]));
        drop(waiting);
        assert!(take(data.path(), 0, false).is_err());
        drop(next);
        assert_eq!(take(data.path(), 0, false).unwrap().epoch_runs(), [Hex([3; 8])]);
        // One that was copied here names no epoch of this lock.
        let (lock, copy) = (data.path().join(".lastgood/run.lock"), data.path().join(".lastgood/copy"));
        fs::copy(&lock, &copy).unwrap();
        fs::rename(&copy, &lock).unwrap();
        assert_eq!(take(data.path(), 0, false).unwrap().epoch_runs(), []);
    }

    #[test]
    fn a_directory_is_locked_before_it_is_in_place() {
        let scratch = tempfile::tempdir().unwrap();
        let (staged, data) = (scratch.path().join("staged"), scratch.path().join("data"));
        fs::create_dir(&staged).unwrap();
        fs::create_dir(&data).unwrap();
        let old = take(&data, 0, false).unwrap();
        let own = own_folder(&Folder::open(&staged).unwrap()).unwrap();
        let lock = RunLock::take_staged(&own, &data, "web-1").unwrap();
        fs::rename(&data, scratch.path().join("aside")).unwrap();
        fs::rename(&staged, &data).unwrap();
        let directory = Folder::open(&data).unwrap();
        assert!(lock.is_of(&directory) && !old.is_of(&directory) && lock.path() == old.path());
        drop(old);
        assert_eq!(take(&data, 0, false).unwrap_err().code(), Code::Locked);
        lock.note_app(std::process::id());
        drop(lock);
        take(&data, 0, false).unwrap();
    }

    #[test]
    fn a_file_that_has_another_name_as_well_is_not_written_to() {
        let data = tempfile::tempdir().unwrap();
        let (lock, app) = (data.path().join(".lastgood/run.lock"), data.path().join("orders"));
        fs::create_dir(data.path().join(OWN_FOLDER)).unwrap();
        fs::write(&app, "of the app").unwrap();
        fs::hard_link(&app, &lock).unwrap();
        let held = take(data.path(), 0, false).unwrap();
        assert_eq!(fs::read_to_string(&app).unwrap(), "of the app");
        assert!(fs::read_to_string(&lock).unwrap().contains("web-1"));
        assert!(held.is_of(&Folder::open(data.path()).unwrap()));
        assert_eq!(take(data.path(), 0, false).unwrap_err().code(), Code::Locked);
    }

    #[test]
    fn what_is_planted_is_not_followed() {
        let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(other.path(), data.path().join(OWN_FOLDER)).unwrap();
        take(data.path(), 0, false).unwrap_err();
        fs::remove_file(data.path().join(OWN_FOLDER)).unwrap();
        fs::create_dir(data.path().join(OWN_FOLDER)).unwrap();
        symlink(other.path().join("made"), data.path().join(".lastgood/run.lock")).unwrap();
        let why = take(data.path(), 0, false).unwrap_err();
        assert!(why.to_string().contains("it is a symbolic link"), "{why}");
        fs::remove_file(data.path().join(".lastgood/run.lock")).unwrap();
        fs::create_dir(data.path().join(".lastgood/run.lock")).unwrap();
        take(data.path(), 0, false).unwrap_err();
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    }
}
