//! A data directory and a vault in memory, for tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::compare::{Compared, Comparison, MOST_READ, Until};
use super::facts::directory;
use crate::backup::{BackupOptions, BackupReport, Trust, backup};
use crate::fs::beneath::Directory;
use crate::monitor::system_random;
use crate::replicas::Site;
use crate::restore::options::RestoreOptions;
use crate::restore::restore;
use crate::restore::sample::context;
use crate::store::testing::memory::MemoryStore;
use crate::vault::Vault;
use crate::vault::root::{Root, SnapshotName};

/// The boot ID of tests.
pub const BOOT: &str = "boot";

pub struct World {
    pub folder: tempfile::TempDir,
    pub data: PathBuf,
    pub store: &'static MemoryStore,
    pub options: BackupOptions,
}

impl World {
    pub fn new() -> Self {
        let store: &'static MemoryStore = Box::leak(Box::default());
        Vault::init(Box::new(store), system_random).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        // New files count as trusted as old ones do, whatever filesystem holds the temporary files.
        let trust = Trust { writeback: 0, shows_stores: |_| true, ..Trust::default() };
        let options = BackupOptions { data: data.clone(), boot: BOOT.into(), trust, ..BackupOptions::default() };
        World { folder, data, store, options }
    }

    pub fn vault(&self) -> Vault {
        Vault::open(Box::new(self.store)).unwrap()
    }

    pub fn site(&self) -> Site {
        Site::probe("/vault".into(), false, Ok(Box::new(self.store)))
    }

    /// Writes a file that was last changed some minutes ago.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        write(&self.data.join(path), bytes, 600);
    }

    pub fn backup(&self) -> BackupReport {
        backup(&self.vault(), &self.options, &context()).unwrap()
    }

    pub fn root(&self, name: SnapshotName) -> Root {
        self.vault().root(name).unwrap()
    }

    pub fn restore(&self, spec: &str) {
        let options = RestoreOptions { snapshot: spec.into(), ..RestoreOptions::latest(self.data.clone()) };
        restore(&self.vault(), &options, &context()).unwrap();
    }

    pub fn compare(&self, name: SnapshotName, until: Until) -> Comparison {
        self.compare_reading(name, until, MOST_READ)
    }

    pub fn compare_reading(&self, name: SnapshotName, until: Until, most_read: u64) -> Comparison {
        self.compare_with(name, until, most_read, false)
    }

    /// Compares all that a restore brings back.
    pub fn compare_strictly(&self, name: SnapshotName) -> Comparison {
        self.compare_with(name, Until::Different, MOST_READ, true)
    }

    fn compare_with(&self, name: SnapshotName, until: Until, most_read: u64, strict: bool) -> Comparison {
        let root = Directory::open(&self.data).unwrap();
        let place = directory::place(&self.data, BOOT, &root).unwrap();
        let (place, numbered, ctx) = (&place.identity, place.numbered, &context());
        let compared = Compared { root: &root, place, numbered, not_walked: &[], sqlite: true, most_read, strict, ctx };
        compared.with(&self.vault(), &self.root(name), until).unwrap()
    }

    /// Puts a copy in the place of the directory, which is another place then.
    pub fn becomes_a_copy(&self) {
        let aside = self.aside("original");
        copy(&aside, &self.data);
        fs::remove_dir_all(aside).unwrap();
    }

    /// Moves the directory away.
    pub fn aside(&self, name: &str) -> PathBuf {
        let aside = self.folder.path().join(name);
        fs::rename(&self.data, &aside).unwrap();
        aside
    }
}

/// Writes a file that was last changed this many seconds ago.
pub fn write(path: &Path, bytes: &[u8], ago: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    changed(path, ago);
}

/// Sets when a file was last changed.
pub fn changed(path: &Path, ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(ago);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Copies a directory as `cp -a` does.
pub fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").args([from, to]));
}

pub fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
