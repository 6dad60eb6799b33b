//! How the engine tells what it is doing. It never prints: it calls a [`Monitor`], and the caller decides what that does.

use std::sync::{Mutex, PoisonError};

use crate::path::EntryPath;

/// A moment of a backup between two looks at the data directory, when an app may do anything to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// A folder is listed next.
    Listing,
    /// The names of a folder are known, and none of them has been looked at.
    Named,
    /// A folder is listed.
    Listed,
    /// A file, folder or symlink is opened or looked at next.
    Opening,
    /// A file is open, and nothing of it is read.
    Opened,
    /// A part of a file has been read.
    Reading,
    /// All of a file has been read, and it is not yet compared with what it was.
    Read,
    /// All of a database has been read, and it is not yet known whether it stood still meanwhile.
    Swept,
    /// A folder is looked at once more next, at the end of a capture.
    Looking,
    /// What was found so far is committed next, as a checkpoint or as the snapshot.
    Committing,
}

/// Hears of progress. Called from several threads.
pub trait Monitor: Send + Sync {
    /// A part of the work begins, over so many bytes where that is known.
    fn begin(&self, _what: &str, _bytes: Option<u64>) {}
    /// It has become known over how many bytes the part goes.
    fn total(&self, _bytes: u64) {}
    /// More bytes are done.
    fn advance(&self, _bytes: u64) {}
    /// Something that the user should know, and that does not stop the work.
    fn warn(&self, _what: &str) {}
    /// The backup has come to such a moment at a path. Called from several threads; the work goes on when this returns.
    fn reached(&self, _moment: Moment, _path: &EntryPath) {}
    /// Whether it is worth finding out how much work there is before it is done.
    fn wants_total(&self) -> bool {
        false
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentMonitor;

impl Monitor for SilentMonitor {}

/// Tells the log of warnings, and of nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogMonitor;

impl Monitor for LogMonitor {
    fn warn(&self, what: &str) {
        // Names of files are in it, in which control characters can be.
        let shown: String =
            what.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
        tracing::warn!("{shown}");
    }
}

/// Keeps the warnings, for tests.
#[derive(Debug, Default)]
pub struct CollectingMonitor {
    warnings: Mutex<Vec<String>>,
}

impl CollectingMonitor {
    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Monitor for CollectingMonitor {
    fn warn(&self, what: &str) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_owned());
    }
}

/// What the engine is given from outside: nothing in it asks the environment.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Fills a buffer with random bytes.
    pub random: &'a (dyn Fn(&mut [u8]) -> crate::error::Result<()> + Sync),
    /// Threads for each kind of work that uses all cores.
    pub threads: usize,
    /// Uploads, and reads, that are in flight at the same time.
    pub parallel: usize,
    /// Set from outside to stop the work; it ends with an error soon after, and nothing is committed.
    pub stop: &'a std::sync::atomic::AtomicBool,
    /// Hears of progress.
    pub monitor: &'a dyn Monitor,
}

impl Context<'_> {
    /// Fails when the work was told to stop.
    ///
    /// # Errors
    /// That it was.
    pub fn check(&self, doing: &str) -> crate::error::Result<()> {
        if self.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(crate::error::Error::failed(doing, "it was told to stop"));
        }
        Ok(())
    }
}

/// Random bytes from the system.
///
/// # Errors
/// A system that has none.
pub fn system_random(buffer: &mut [u8]) -> crate::error::Result<()> {
    getrandom::fill(buffer).map_err(|e| crate::error::Error::failed("get random bytes", e))
}
