//! What a restore reports.

use std::path::PathBuf;

use serde::Serialize;

use super::select::PassedOver;
use super::standing::FileUser;
use crate::path::EntryPath;
use crate::store::Traffic;
use crate::vault::root::{Problem, SnapshotName, Stale};

/// The result of a restore.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestoreReport {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// Where it is now.
    pub target: PathBuf,
    /// Entries of every kind.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Where the previous content was moved. `None` if there was none.
    pub moved_aside: Option<PathBuf>,
    /// Side files that lay beside restored databases and were moved aside too.
    pub moved_beside: Vec<EntryPath>,
    /// Paths that stayed as they were because other filesystems are mounted there.
    pub kept: Vec<EntryPath>,
    /// Programs that had files of the target open when it was replaced: they go on with the old ones until they are restarted.
    pub in_use: Vec<FileUser>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Entries that could not be restored: damaged ones, with `skip_damaged`, ones that the target's filesystem does
    /// not support, and ones with the name by which a restore marks what it has not finished.
    pub not_restored: Vec<Problem>,
    /// Entries that are older than the snapshot: they could not be read when it was taken, and were carried over.
    pub stale: Vec<Stale>,
    /// Entries that are missing in the snapshot: they could not be read when it was taken. For some, only extended
    /// attributes are missing.
    pub missing: Vec<Problem>,
    /// Entries that may be torn: they were written to all the while that the snapshot was taken.
    pub torn: Vec<Problem>,
    /// Newer snapshots that were not chosen because they are not good, or because a pack that they need is damaged or missing.
    pub passed_over: Vec<PassedOver>,
    /// The newest snapshot that would have been restored, as far as is known, had it not been damaged; the one that was
    /// restored is older. `None` if there was no such snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<SnapshotName>,
    /// The snapshot that was taken of what was there before. `None` if none was: only `run` takes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_back: Option<SnapshotName>,
    /// The name under which the snapshot was committed again, so that it is the newest. `None` if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed_as: Option<SnapshotName>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The traffic with the store since it was opened. `None` where it is not counted: only a bucket's is.
    #[serde(flatten)]
    pub traffic: Option<Traffic>,
}

impl RestoreReport {
    /// Returns the report of a restore that has done nothing yet.
    pub(crate) fn begun(snapshot: SnapshotName, target: PathBuf, passed_over: Vec<PassedOver>) -> Self {
        RestoreReport {
            snapshot,
            target,
            entries: 0,
            files: 0,
            bytes: 0,
            moved_aside: None,
            moved_beside: Vec::new(),
            kept: Vec::new(),
            in_use: Vec::new(),
            warnings: Vec::new(),
            not_restored: Vec::new(),
            stale: Vec::new(),
            missing: Vec::new(),
            torn: Vec::new(),
            passed_over,
            instead_of: None,
            way_back: None,
            committed_as: None,
            seconds: 0.0,
            traffic: None,
        }
    }
}
