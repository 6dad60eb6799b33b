//! Backups within the test's own process, into stores that it chooses: slow ones, several at once.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lastgood::backup::options::BackupOptions;
use lastgood::backup::{self, BackupReport};
use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::store::local::LocalStore;
use lastgood::store::{Meta, Result, Store};
use lastgood::vault::Vault;

/// A folder behind a line of limited bandwidth.
pub struct Slow {
    inner: LocalStore,
    /// Bytes per second that can be sent.
    rate: f64,
    /// When the line is free again.
    free: Mutex<Instant>,
}

impl Slow {
    /// Creates a line of `rate` bytes per second to `folder`.
    pub fn new(folder: &Path, rate: u64) -> Self {
        Slow { inner: LocalStore::new(folder), rate: rate as f64, free: Mutex::new(Instant::now()) }
    }
}

impl Store for Slow {
    fn url(&self) -> String {
        self.inner.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        let size: usize = body.iter().map(|part| part.len()).sum();
        let sent = {
            let mut free = self.free.lock().unwrap();
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(size as f64 / self.rate);
            *free
        };
        std::thread::sleep(sent.saturating_duration_since(Instant::now()));
        self.inner.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.inner.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.inner.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        self.inner.list(folder)
    }
}

/// Creates a new vault in a store.
pub fn vault(store: impl Store + 'static) -> Vault {
    Vault::init(Box::new(store), system_random).unwrap()
}

/// Takes a backup by a thread of this process, which must succeed. A machine that is busy makes it wait for locks, not fail.
pub fn backup(vault: &Vault, data: &Path) -> BackupReport {
    backup_as(vault, BackupOptions { data: data.into(), ..BackupOptions::default() })
}

/// Takes one with options; how long it waits for locks is not for them to say.
pub fn backup_as(vault: &Vault, options: BackupOptions) -> BackupReport {
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor };
    let options = BackupOptions { busy_timeout: Duration::from_secs(120), ..options };
    backup::backup(vault, &options, &ctx).unwrap()
}
