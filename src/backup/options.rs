//! The options of a backup: what to take a snapshot of, and how.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::packer;
use crate::error::Result;
use crate::source::stable::Trust;
use crate::store::Store;
use crate::vault::entry::CheckKind;
use crate::vault::hex::{Hex, PackId};
use crate::vault::root::{BackupReason, Filters, SnapshotName};

use jiff::{SignedDuration, Timestamp};

/// Asks, directly before a snapshot's root is created and when everything else is stored, whether the run may commit
/// at all: another run may have taken its place meanwhile. It is not asked about checkpoints, which only save time.
#[derive(Clone)]
pub struct BeforeCommit(Arc<dyn Fn() -> Result<()> + Send + Sync>);

impl BeforeCommit {
    /// Wraps a function; if it returns an error, nothing is committed.
    pub fn new(ask: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        BeforeCommit(Arc::new(ask))
    }

    /// Asks the function.
    ///
    /// # Errors
    /// Returns why nothing may be committed.
    pub fn ask(&self) -> Result<()> {
        (self.0)()
    }
}

impl fmt::Debug for BeforeCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeCommit")
    }
}

/// Hears of a snapshot directly after its root is created: what follows, as a report and copies, may take long or never end. It does not
/// hear of checkpoints.
#[derive(Clone)]
pub struct AfterCommit(Arc<dyn Fn(Option<Hex<8>>, SnapshotName, bool) + Send + Sync>);

impl AfterCommit {
    /// Wraps a function, which is given the run, the snapshot and whether that is good.
    pub fn new(hear: impl Fn(Option<Hex<8>>, SnapshotName, bool) + Send + Sync + 'static) -> Self {
        AfterCommit(Arc::new(hear))
    }

    /// Tells the function of a snapshot of a run.
    pub fn tell(&self, run: Option<Hex<8>>, snapshot: SnapshotName, good: bool) {
        (self.0)(run, snapshot, good);
    }
}

impl fmt::Debug for AfterCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AfterCommit")
    }
}

/// The state of a data directory at an earlier time, which another directory holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The data directory that it is a state of.
    pub data: PathBuf,
    /// When it was that.
    pub time: Timestamp,
}

/// The options of a backup: what to take a snapshot of, and how.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The data directory.
    pub data: PathBuf,
    /// The reason for the backup.
    pub reason: BackupReason,
    /// Labels that the user attaches.
    pub labels: BTreeMap<String, String>,
    /// Patterns of which a file must match one; if there are none, all files are taken.
    pub include: Vec<String>,
    /// Patterns of entries that are left out.
    pub exclude: Vec<String>,
    /// Whether everything is left out that is mounted below the data directory.
    pub one_file_system: bool,
    /// Whether every file is read, whatever its times say.
    pub verify_content: bool,
    /// Whether an empty or halved directory is meant to be so.
    pub accept_shrink: bool,
    /// Whether entries that cannot be read may be missing, although no older snapshot has them.
    pub accept_missing: bool,
    /// The app that the data belongs to; `None` if that was not given.
    pub service: Option<String>,
    /// Whether files that are SQLite databases by their content are taken as such.
    pub sqlite: bool,
    /// How SQLite checks every database, in the transaction in which it is read. `None` if it checks only
    /// databases that were found damaged before.
    pub check: Option<CheckKind>,
    /// How long a database may stay locked before it is read raw.
    pub busy_timeout: Duration,
    /// Which files may be taken over without reading them.
    pub trust: Trust,
    /// zstd's level.
    pub level: i32,
    /// How often the work so far is secured by a checkpoint for the next backup.
    pub checkpoint_every: Duration,
    /// The numbers of the snapshots in the vault's replicas: the newest snapshot gets a number that makes it the newest
    /// in each of them.
    pub numbers: Vec<u64>,
    /// The epoch of the instance that takes the snapshot: it is numbered in this epoch, and builds on none of a greater
    /// one. `None` for that of the greatest number known, unless the directory has diverged.
    pub epoch: Option<u32>,
    /// On which occasion the snapshot is taken, beyond the reason: `start`.
    pub origin: Option<String>,
    /// What the directory brings along, if that is not its own state but one of another time: an archive's. The snapshot counts as
    /// older than every one that was taken of the data itself, and builds on none but earlier imports.
    pub past: Option<Past>,
    /// Why the data has diverged from the newest good snapshot. The snapshot is suspect then, and never the newest.
    pub diverged: Option<String>,
    /// Whether the directory counts as the one that goes on, whatever it comes from.
    pub take_over: bool,
    /// Whether a first place without the vault that others hold is passed over, as one that does not answer is.
    pub first_may_be_missing: bool,
    /// How far the fastest clock of the vault's replicas is ahead of this machine's: snapshots' numbers are times.
    pub clock_ahead: SignedDuration,
    /// Packs that are damaged in another replica: the snapshot names none of them, as far as anything else has their
    /// content, so that it is whole in every replica.
    pub spoiled_elsewhere: HashSet<PackId>,
    /// The run that takes the snapshot, which is recorded in it.
    pub run: Option<Hex<8>>,
    /// Asked before the snapshot is committed.
    pub before_commit: Option<BeforeCommit>,
    /// Hears of the snapshot.
    pub after_commit: Option<AfterCommit>,
    /// Opens the store for the last checkpoint of a backup that is told to stop.
    pub last_words: Option<LastWords>,
    /// Folders that are not data, such as a vault inside the data directory.
    pub not_walked: Vec<PathBuf>,
    /// The host's name, for people.
    pub host: String,
    /// The kernel's boot ID; empty if there is none.
    pub boot: String,
}

impl Default for BackupOptions {
    fn default() -> Self {
        BackupOptions {
            data: PathBuf::from("data"),
            reason: BackupReason::Manual,
            labels: BTreeMap::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            one_file_system: false,
            verify_content: false,
            accept_shrink: false,
            accept_missing: false,
            service: None,
            sqlite: true,
            check: None,
            busy_timeout: Duration::from_secs(10),
            trust: Trust::default(),
            level: packer::DEFAULT_LEVEL,
            checkpoint_every: Duration::from_secs(600),
            numbers: Vec::new(),
            epoch: None,
            origin: None,
            past: None,
            diverged: None,
            take_over: false,
            first_may_be_missing: false,
            clock_ahead: SignedDuration::ZERO,
            spoiled_elsewhere: HashSet::new(),
            run: None,
            before_commit: None,
            after_commit: None,
            last_words: None,
            not_walked: Vec::new(),
            host: String::new(),
            boot: String::new(),
        }
    }
}

impl BackupOptions {
    /// Returns which entries are taken.
    pub fn filters(&self) -> Filters {
        let (include, exclude) = (self.include.clone(), self.exclude.clone());
        Filters { include, exclude, one_file_system: self.one_file_system }
    }

    /// Returns the data directory of which the snapshot is a state, as it is recorded.
    pub fn recorded_data(&self) -> PathBuf {
        absolute(self.past.as_ref().map_or(&self.data, |past| &past.data))
    }

    /// Returns the time by the fastest clock of this machine and the vault's replicas.
    pub fn clock(&self) -> Timestamp {
        let machine = Timestamp::from_nanosecond(i128::from((self.trust.now)())).unwrap_or(Timestamp::UNIX_EPOCH);
        machine.checked_add(self.clock_ahead.max(SignedDuration::ZERO)).unwrap_or(machine)
    }
}

pub(crate) fn doing(options: &BackupOptions) -> String {
    format!("take a snapshot of {}", options.data.display())
}

/// Returns the data directory's path as it is recorded in a snapshot.
pub(crate) fn absolute(data: &Path) -> PathBuf {
    std::path::absolute(data).unwrap_or_else(|_| data.to_owned())
}

/// Opens a store, by its address, that works for some more seconds after the previous one was told to stop. Returns
/// `None` if the previous one goes on: a folder does, and so do all stores if only the backup was told to stop.
#[derive(Clone)]
pub struct LastWords(pub(super) Arc<StoreOpener>);

impl LastWords {
    /// Creates it from a function that opens stores.
    pub fn new(open: impl Fn(&str) -> Option<Result<Box<dyn Store>>> + Send + Sync + 'static) -> Self {
        LastWords(Arc::new(open))
    }
}

impl fmt::Debug for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastWords")
    }
}

pub(crate) type StoreOpener = dyn Fn(&str) -> Option<Result<Box<dyn Store>>> + Send + Sync;
