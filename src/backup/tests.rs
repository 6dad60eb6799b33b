//! Backs up real directories into a store in memory, and reads them back by the format's rules alone.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::options::BeforeCommit;
use super::*;
use crate::monitor::{CollectingMonitor, Monitor, SilentMonitor, system_random};
use crate::source::marker;
use crate::source::stable::WRITEBACK;
use crate::store::Store;
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::recording::{Call, RecordingStore};
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::{Hash, Hex};
use crate::vault::parts::Parts;
use crate::vault::read::PackReader;
use crate::vault::root::Root;
use crate::vault::tree;
use jiff::SignedDuration;
use std::time::Duration;

mod changing;
mod commit;
mod content;
mod damage;
mod diverged;
mod moments;
mod trust;
mod unfinished;

/// A store that a test can inspect while a vault owns it.
type Shared = Arc<RecordingStore<MemoryStore>>;

struct World {
    data: tempfile::TempDir,
    store: Shared,
    vault: Vault,
    stop: AtomicBool,
    monitor: Arc<dyn Monitor>,
    options: BackupOptions,
}

impl World {
    fn new() -> Self {
        let store = Shared::new(RecordingStore::new(MemoryStore::default()));
        let vault = Vault::init(Box::new(store.clone()), system_random).unwrap();
        let data = tempfile::tempdir().unwrap();
        // New files count as trusted as old ones do, whatever filesystem holds the temporary files.
        let trust = Trust { writeback: 0, shows_stores: |_| true, ..Trust::default() };
        let options =
            BackupOptions { data: data.path().to_path_buf(), boot: "boot".into(), trust, ..BackupOptions::default() };
        World {
            data,
            store,
            vault,
            stop: AtomicBool::new(false),
            monitor: Arc::new(CollectingMonitor::default()),
            options,
        }
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.data.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        age(&path);
    }

    fn try_backup(&self) -> Result<BackupReport> {
        let ctx =
            Context { random: &system_random, threads: 2, parallel: 2, stop: &self.stop, monitor: &*self.monitor };
        backup(&self.vault, &self.options, &ctx)
    }

    fn backup(&self) -> BackupReport {
        self.try_backup().unwrap()
    }

    /// Moves the data into a new directory at the same path, which is another place.
    fn elsewhere(&self) {
        let data = self.data.path();
        let new = tempfile::tempdir_in(data.parent().unwrap()).unwrap().keep();
        for entry in fs::read_dir(data).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), new.join(entry.file_name())).unwrap();
        }
        fs::rename(new, data).unwrap();
    }

    fn calls(&self) -> Vec<Call> {
        self.store.take()
    }

    /// Returns the entries of a snapshot with their content, read by the format's rules; checks the tar bytes on the
    /// way.
    fn entries(&self, name: SnapshotName) -> Vec<(Entry, Vec<u8>)> {
        let root = self.vault.root(name).unwrap();
        let packs = PackReader::for_root(&self.store, &root).unwrap();
        let mut decoder = Decoder::new().unwrap();
        let mut out = Vec::new();
        tree::each_entry(&packs, &root, |entry| {
            let mut bytes = |extents: &[crate::vault::entry::Extent]| -> Result<Vec<u8>> {
                let parts =
                    extents.iter().map(|e| packs.extent(e, 1 << 30, &mut decoder)).collect::<Result<Vec<_>>>()?;
                Ok(parts.concat())
            };
            assert_eq!(bytes(&entry.header_extents())?, crate::vault::tar::header(&entry), "{}", entry.path);
            let mut content = bytes(&entry.content_extents())?;
            tree::each_run(&packs, &entry, |extent| {
                content.extend(bytes(&[extent])?);
                Ok(())
            })?;
            if entry.kind == EntryKind::File {
                assert_eq!(Some(Hash::of(&content)), entry.hash, "{}", entry.path);
            }
            out.push((entry, content));
            Ok(())
        })
        .unwrap();
        assert_eq!(out.len() as u64, root.totals.entries);
        out
    }

    fn content(&self, name: SnapshotName, path: &str) -> Vec<u8> {
        self.entries(name).into_iter().find(|(e, _)| e.path.to_string() == path).unwrap().1
    }

    /// Returns the bytes of the data packs that were created since the calls were last taken.
    fn sent(&self) -> u64 {
        self.calls().iter().filter(|c| c.verb == "create" && c.name.starts_with("packs/")).map(|c| c.amount).sum()
    }
}

/// Makes a file old enough to be trusted by the next backup.
fn age(path: &Path) {
    let old = SystemTime::now() - Duration::from_secs(3600);
    File::open(path).unwrap().set_modified(old).unwrap();
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Writes to a file whenever something was read.
struct Always(std::path::PathBuf, fn(&Path));

impl Monitor for Always {
    fn advance(&self, _: u64) {
        (self.1)(&self.0);
    }
}

/// Writes into a file of more than 5.9 MB.
fn never_rests(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&crate::fs::times::now().to_le_bytes(), 5_900_000).unwrap();
}

/// Replaces a snapshot's root by a changed one. Returns its name.
fn rewrite(world: &World, name: SnapshotName, change: impl FnOnce(&mut Root)) -> SnapshotName {
    let mut root = world.vault.root(name).unwrap();
    change(&mut root);
    let (new, bytes) = root.encode().unwrap();
    let mut objects = world.store.inner().objects();
    objects.remove(&name.object("snapshots/")).unwrap();
    objects.insert(new.object("snapshots/"), bytes);
    new
}
