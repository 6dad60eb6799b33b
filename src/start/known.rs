//! What is known of a data directory and of its vaults: all that decides what is done before an app starts.

use serde::Serialize;

use crate::path::EntryPath;
use crate::vault::root::SnapshotName;

/// What is in the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryContent {
    /// Nothing is mounted at the directory, and `--require-mount` asks for a mount.
    NotMounted,
    /// There is no directory.
    Absent,
    /// It holds nothing, or only what a filesystem or a repository puts into an empty folder.
    Empty,
    /// A restore of all of it was cut off.
    HalfRestored,
    /// A restore of some paths in it, or of a folder around it, was cut off, or a restore's marker cannot be read.
    Unfinished {
        /// What was not finished.
        why: String,
        /// How it is completed.
        advice: String,
    },
    /// It holds data.
    Filled,
}

/// The mark of data that an image brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedMark {
    /// There is no mark.
    None,
    /// The data is what it was when it was marked.
    Untouched,
    /// The data was changed after it was marked.
    Changed,
}

/// What the directory's own file says of where its content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownLineage {
    /// There is no such file.
    None,
    /// The file cannot be understood, and why.
    Unclear(String),
    /// The file is about another vault.
    OtherVault,
    /// The file is about this vault.
    Here {
        /// The snapshot that the content was restored from, or last saved as. `None` if it names none.
        snapshot: Option<SnapshotName>,
        /// Whether somebody chose that snapshot.
        chosen: Chosen,
    },
}

/// Whether a directory holds a snapshot that somebody chose, in place of the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// Nobody chose it.
    No,
    /// It was chosen, and no backup of another directory has begun since.
    Yes,
    /// It was chosen, and a good snapshot of another directory was begun afterwards.
    Superseded,
}

/// What the vaults have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultFacts {
    /// There is no vault, and why that is known.
    NoVault(String),
    /// The first vault did not answer, or is not where it should be although another place has it; or one did not answer that may have
    /// snapshots where the others have none.
    Unreachable {
        /// Why.
        why: String,
        /// The newest good snapshot in the replicas that did answer.
        good: Option<SnapshotName>,
    },
    /// They have no snapshot at all.
    NoSnapshot,
    /// They have snapshots, and none of them is good.
    NoneGood {
        /// The newest of them, with which the directory was compared.
        newest: SnapshotName,
        /// What is wrong with it.
        why: String,
    },
    /// The newest good snapshot.
    Good(SnapshotName),
}

/// How the directory is known to come from the newest good snapshot (or from the newest one, where none is good). The
/// first that is true holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Likeness {
    /// Its lineage names the snapshot.
    NamesIt,
    /// The snapshot records the serial that lies in the directory: it was taken from it.
    RecordsSerial,
    /// The directory equals the snapshot, by metadata.
    Equal,
    /// The snapshot was taken in this very directory, by device, inode and birth time, and no lineage says otherwise.
    SamePlace,
    /// None of these.
    No,
}

/// An entry that shows that the directory is older than a snapshot that was taken from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PutBack {
    /// The entry.
    pub path: EntryPath,
    /// What is older about it.
    pub why: &'static str,
}

/// A database that did not pass its check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedDatabase {
    /// The database.
    pub path: EntryPath,
    /// What the check found.
    pub why: String,
}

/// The snapshot that `--snapshot` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedSnapshot {
    /// It is there.
    Found(SnapshotName),
    /// It is not, and why.
    NotFound(String),
}

/// All that decides what is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What is in the data directory.
    pub content: DirectoryContent,
    /// The mark of data that an image brings along.
    pub seed: SeedMark,
    /// Where the content comes from.
    pub lineage: KnownLineage,
    /// What the vaults have.
    pub vault: VaultFacts,
    /// How the directory is known to come from the newest good snapshot.
    pub likeness: Likeness,
    /// Whether something changed since the snapshot that the directory comes from: the one of `likeness`, otherwise the
    /// one that the lineage names. `None` if that cannot be told.
    pub changed: Option<bool>,
    /// An entry that shows that the directory is older than the snapshot of `likeness`.
    pub put_back: Option<PutBack>,
    /// A database that failed the check that `--check-at-start` asks for.
    pub failed_database: Option<FailedDatabase>,
    /// The snapshot that `--snapshot` names, if it is given.
    pub named: Option<NamedSnapshot>,
    /// What was compared, and what was found, for people.
    pub compared: Vec<String>,
}

impl Facts {
    /// Whether the directory holds what an image brought along and nothing else, and was never saved or restored.
    pub fn is_seed(&self) -> bool {
        self.seed == SeedMark::Untouched && self.lineage == KnownLineage::None
    }
}
