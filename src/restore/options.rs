//! What a restore is told.

use std::path::PathBuf;
use std::time::Duration;

use super::target::ReplaceMode;
use crate::path::EntryPath;

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Which snapshot: `latest`, an id or the beginning of one, or a time.
    pub snapshot: String,
    /// The folder that becomes what the data directory was.
    pub target: PathBuf,
    /// Only these entries and what is in them, and the side files of raw databases; none for all.
    pub paths: Vec<EntryPath>,
    /// Fill the target itself, for a mount point.
    pub in_place: bool,
    /// Leave what is mounted in the target as it is, and fill everything around it.
    pub around_mounts: bool,
    /// Replace the target also while other programs have files of it open.
    pub while_in_use: bool,
    /// Get out what can be got, and list what could not.
    pub skip_damaged: bool,
    /// The folders of vaults, which stay as they are: absolute, without symlinks as far as they exist.
    pub vaults: Vec<PathBuf>,
    /// What it depends on. That is asked when the target is locked, and again when all is ready to be put into place.
    pub only: Only,
}

impl RestoreOptions {
    /// How the target is replaced.
    pub(super) fn how(&self) -> ReplaceMode {
        ReplaceMode { in_place: self.in_place, around_mounts: self.around_mounts }
    }

    /// The newest good snapshot, whole, into `target`.
    pub fn latest(target: PathBuf) -> Self {
        RestoreOptions {
            snapshot: "latest".into(),
            target,
            paths: Vec::new(),
            in_place: false,
            around_mounts: false,
            while_in_use: false,
            skip_damaged: false,
            vaults: Vec::new(),
            only: Only::default(),
        }
    }
}

/// When a restore takes place. It always does where neither is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Only {
    /// Where there is no file in the target, or a restore of all in place was cut off.
    pub missing: bool,
    /// Also where no file in the target was changed for this long, and all were before the snapshot was begun.
    pub older: Option<Duration>,
}
