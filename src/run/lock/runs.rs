//! The epochs that holders of a lock have taken, as its file names them.
//!
//! An instance is known to be dead if another process has the lock that it held. That it held this very lock is told by nothing but the
//! file: an app may remove `.lastgood`, as `git clean -fdx` does, and its `run` then holds a lock without a name until it has made the
//! next file. Another process may make that meanwhile, and end. So each holder writes down the runs of its epochs. A file that was copied
//! from elsewhere, or is of another boot, names none.

use std::fs::File;

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use crate::run::process::ProcessSpace;
use crate::vault::hex::Hex;

/// The most runs that a file names.
const MAX_RUNS: usize = 8;

/// The runs of epochs whose instances have held the lock of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRuns {
    /// The boot and the number of the file in which they were written down.
    boot: String,
    inode: u64,
    /// The newest one is last.
    runs: Vec<Hex<8>>,
}

impl LockRuns {
    /// None yet, in a file. `None` where the system does not tell the boot.
    pub fn of(file: &File) -> Option<Self> {
        Some(LockRuns { boot: ProcessSpace::here()?.boot, inode: fstat(file).ok()?.st_ino, runs: Vec::new() })
    }

    /// Whether they were written down in this file, and not in one that it is a copy of.
    pub fn is_of(&self, file: &File) -> bool {
        LockRuns::of(file).is_some_and(|here| (&here.boot, here.inode) == (&self.boot, self.inode))
    }

    /// Adds one. The oldest one goes if they are too many.
    pub fn add(&mut self, run: Hex<8>) {
        self.runs.retain(|other| *other != run);
        self.runs.push(run);
        self.runs.drain(..self.runs.len().saturating_sub(MAX_RUNS));
    }

    /// Returns them.
    pub fn into_runs(self) -> Vec<Hex<8>> {
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_are_of_one_file() {
        let (file, copy) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut runs = LockRuns::of(&file).unwrap();
        (0..10).for_each(|run| runs.add(Hex([run; 8])));
        runs.add(Hex([3; 8]));
        assert!(runs.is_of(&file) && !runs.is_of(&copy));
        assert!(!LockRuns { boot: "another".into(), ..runs.clone() }.is_of(&file));
        assert_eq!(runs.into_runs(), [2, 4, 5, 6, 7, 8, 9, 3].map(|run| Hex([run; 8])));
    }
}
