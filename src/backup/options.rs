//! What a backup is told: what to take a snapshot of, and how.

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
use crate::vault::root::BackupReason;

use jiff::{SignedDuration, Timestamp};

/// Asked directly before a snapshot's root is created, when all else is stored: whether the run may commit at all. Another
/// one may have taken its place meanwhile. Checkpoints are not asked about: they do no more than save time.
#[derive(Clone)]
pub struct BeforeCommit(Arc<dyn Fn() -> Result<()> + Send + Sync>);

impl BeforeCommit {
    /// Asks a function; its error means that nothing is committed.
    pub fn new(ask: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        BeforeCommit(Arc::new(ask))
    }

    /// Asks.
    ///
    /// # Errors
    /// Why nothing may be committed.
    pub fn ask(&self) -> Result<()> {
        (self.0)()
    }
}

impl fmt::Debug for BeforeCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeCommit")
    }
}

/// What to take a snapshot of, and how.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The data directory.
    pub data: PathBuf,
    /// What started it.
    pub reason: BackupReason,
    /// What the user attaches.
    pub labels: BTreeMap<String, String>,
    /// Only files that match one of these; all, when there is none.
    pub include: Vec<String>,
    /// Nothing that matches one of these.
    pub exclude: Vec<String>,
    /// Read every file, whatever its times say.
    pub verify_content: bool,
    /// An empty or halved directory is meant to be so.
    pub accept_shrink: bool,
    /// What cannot be read may be missing, although no older snapshot has it.
    pub accept_missing: bool,
    /// The app that the data belongs to; none if that was not told.
    pub service: Option<String>,
    /// Take files that are SQLite databases by their content as such.
    pub sqlite: bool,
    /// Have SQLite check every database in the transaction in which it is read.
    pub check: Option<CheckKind>,
    /// How long a database may stay locked before it is given up.
    pub busy_timeout: Duration,
    /// What is taken over unread.
    pub trust: Trust,
    /// zstd's level.
    pub level: i32,
    /// How often what is done so far is secured for the next backup.
    pub checkpoint_every: Duration,
    /// The snapshot's number is greater than this one, too: the greatest that the vault's replicas have, so that the newest
    /// snapshot is the newest in each of them.
    pub seq_after: u64,
    /// By how much the fastest clock of the vault's replicas is ahead of this machine's: snapshots' numbers are times.
    pub clock_ahead: SignedDuration,
    /// Packs that another replica has damaged: as far as anything else has what they hold, the snapshot names none of them, so that
    /// it is whole in every replica.
    pub spoiled_elsewhere: HashSet<PackId>,
    /// The run that takes the snapshot, to be kept with it.
    pub run: Option<Hex<8>>,
    /// Asked before the snapshot is committed.
    pub before_commit: Option<BeforeCommit>,
    /// Opens the store for the last checkpoint of a backup that is told to stop.
    pub last_words: Option<LastWords>,
    /// Folders that are no data, such as a vault inside the data directory.
    pub not_walked: Vec<PathBuf>,
    /// The host's name, for people.
    pub host: String,
    /// The kernel's boot id; empty where there is none.
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
            seq_after: 0,
            clock_ahead: SignedDuration::ZERO,
            spoiled_elsewhere: HashSet::new(),
            run: None,
            before_commit: None,
            last_words: None,
            not_walked: Vec::new(),
            host: String::new(),
            boot: String::new(),
        }
    }
}

impl BackupOptions {
    /// The time by the fastest clock of this machine and the vault's replicas.
    pub fn clock(&self) -> Timestamp {
        let machine = Timestamp::from_nanosecond(i128::from((self.trust.now)())).unwrap_or(Timestamp::UNIX_EPOCH);
        machine.checked_add(self.clock_ahead.max(SignedDuration::ZERO)).unwrap_or(machine)
    }
}

pub(crate) fn doing(options: &BackupOptions) -> String {
    format!("take a snapshot of {}", options.data.display())
}

/// The data directory's path as it is kept with a snapshot.
pub(crate) fn absolute(data: &Path) -> PathBuf {
    std::path::absolute(data).unwrap_or_else(|_| data.to_owned())
}

/// Opens a store that answers for some seconds, where the one from before was told to stop; by its address. None where that
/// goes on: a folder does, and so do all when only the backup was told to stop.
#[derive(Clone)]
pub struct LastWords(pub(super) Arc<StoreOpener>);

impl LastWords {
    /// Opens stores so.
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
