//! How the engine reports what it is doing. It never prints: it calls a [`Monitor`], and the caller decides what that does.

use std::sync::{Mutex, PoisonError};

use crate::error::{Code, Error, Result};
use crate::path::EntryPath;
use crate::text::printable;

/// A moment of a backup between two accesses to the data directory, when an app may do anything to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// A folder is about to be listed.
    Listing,
    /// The names of a folder are known, and none of them has been looked at.
    Named,
    /// A folder is listed.
    Listed,
    /// A file, folder or symlink is about to be opened or looked at.
    Opening,
    /// A file is open, and nothing of it has been read.
    Opened,
    /// A part of a file has been read.
    Reading,
    /// All of a file has been read, and it has not yet been compared with what it was.
    Read,
    /// All of a database has been read, and it is not yet known whether it stood still meanwhile.
    Scanned,
    /// A folder is about to be looked at once more, at the end of a capture.
    Looking,
    /// The findings so far are about to be committed, as a checkpoint or as the snapshot.
    Committing,
}

/// Receives progress and warnings. It is called from several threads.
pub trait Monitor: Send + Sync {
    /// A part of the work begins; its size is given, in bytes, where it is known.
    fn begin(&self, _what: &str, _bytes: Option<u64>) {}
    /// The total number of bytes of the current part has become known.
    fn total(&self, _bytes: u64) {}
    /// More bytes are done; their number is given.
    fn advance(&self, _bytes: u64) {}
    /// All bytes are done, and something else takes the time: `what` is done now.
    fn finishing(&self, _what: &str) {}
    /// All bytes are done; what is left is to have them written to disks and to commit the work.
    fn syncing(&self) {
        self.finishing("syncing");
    }
    /// Warns the user of something that does not stop the work.
    fn warn(&self, _what: &str) {}
    /// The backup has reached a moment at a path. This is called from several threads; the work goes on when it returns.
    fn reached(&self, _moment: Moment, _path: &EntryPath) {}
    /// Whether it is worth finding out the amount of work beforehand.
    fn wants_total(&self) -> bool {
        false
    }
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentMonitor;

impl Monitor for SilentMonitor {}

/// Logs warnings, and nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogMonitor;

impl Monitor for LogMonitor {
    fn warn(&self, what: &str) {
        // The text has names of files in it, which can contain control characters.
        tracing::warn!("{}", printable(what));
    }
}

/// Collects the warnings, for tests.
#[derive(Debug, Default)]
pub struct CollectingMonitor {
    warnings: Mutex<Vec<String>>,
}

impl CollectingMonitor {
    /// Returns the warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Monitor for CollectingMonitor {
    fn warn(&self, what: &str) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_owned());
    }
}

/// The things that the engine gets from its caller: nothing in it asks the environment.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Fills a buffer with random bytes.
    pub random: &'a (dyn Fn(&mut [u8]) -> Result<()> + Sync),
    /// The number of threads for each kind of work that uses all cores.
    pub threads: usize,
    /// The most uploads, and the most reads, in flight at the same time.
    pub parallel: usize,
    /// Set from outside to stop the work; it ends with an error soon after, and nothing is committed.
    pub stop: &'a std::sync::atomic::AtomicBool,
    /// Receives progress and warnings.
    pub monitor: &'a dyn Monitor,
}

impl Context<'_> {
    /// Fails when the work was told to stop.
    ///
    /// # Errors
    /// The work was told to stop.
    pub fn check(&self, doing: &str) -> Result<()> {
        if self.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::failed(doing, "it was told to stop").with_code(Code::Stopped));
        }
        Ok(())
    }
}

/// Fills a buffer with random bytes from the system.
///
/// # Errors
/// The system has none.
pub fn system_random(buffer: &mut [u8]) -> Result<()> {
    getrandom::fill(buffer).map_err(|e| Error::failed("get random bytes", e))
}
