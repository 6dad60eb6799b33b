//! The options of a restore.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::ahead::FilledAhead;
use super::before_exchange::BeforeExchange;
use super::target::ReplaceMode;
use crate::path::EntryPath;
use crate::vault::root::Root;

/// The options of a restore: what to restore, and where to.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Which snapshot: `latest`, an id or the beginning of one, or a time.
    pub snapshot: String,
    /// Whether nobody chose that snapshot: it is the newest good one that a program knows, by its name. The directory does not say then that
    /// it was chosen.
    pub unasked: bool,
    /// The folder that becomes what the data directory was.
    pub target: PathBuf,
    /// Only these entries and what is in them, and the side files of raw databases; empty for all.
    pub paths: Vec<EntryPath>,
    /// Fill the target itself, for a mount point.
    pub in_place: bool,
    /// Leave what is mounted in the target as it is, and fill everything around it.
    pub around_mounts: bool,
    /// Replace the target also while other programs have files of it open.
    pub while_in_use: bool,
    /// Restore whatever can be read, and list what could not be.
    pub skip_damaged: bool,
    /// The folders of vaults, which stay as they are: absolute, without symlinks as far as they exist.
    pub vaults: Vec<PathBuf>,
    /// The condition of the restore. It is checked when the target is locked, and again when everything is ready to be
    /// put into place.
    pub only: Only,
    /// Called before a restored tree takes the target's place.
    pub before_exchange: Option<BeforeExchange>,
    /// What a vault counts for that could not be asked.
    pub unheard: Unheard,
    /// Files that are taken where the snapshot has the same ones, in a staging folder beside the target.
    pub ahead: Option<Arc<FilledAhead>>,
}

impl RestoreOptions {
    /// How the target is replaced.
    pub(super) fn how(&self, root: &Root) -> ReplaceMode {
        let lacks_mounts = root.filters.one_file_system;
        ReplaceMode { in_place: self.in_place, around_mounts: self.around_mounts, lacks_mounts }
    }

    /// Options for the newest good snapshot, whole, into `target`.
    pub fn latest(target: PathBuf) -> Self {
        RestoreOptions {
            snapshot: "latest".into(),
            unasked: false,
            target,
            paths: Vec::new(),
            in_place: false,
            around_mounts: false,
            while_in_use: false,
            skip_damaged: false,
            vaults: Vec::new(),
            only: Only::default(),
            before_exchange: None,
            unheard: Unheard::default(),
            ahead: None,
        }
    }
}

/// What a vault counts for that could not be asked, where the snapshot is damaged in all vaults that could.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unheard {
    /// It is passed over, and an error says that it may serve later.
    #[default]
    PassedOver,
    /// It may have the snapshot whole: nothing older is restored.
    Awaited,
    /// It is passed over, also in what an error says.
    Ignored,
}

/// When a restore takes place. It always does if neither field is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Only {
    /// If there is no file in the target, or an in-place restore of all of it was cut off.
    pub missing: bool,
    /// Also if no file in the target was changed for this long, and all were changed before the snapshot was begun.
    pub older: Option<Duration>,
}
