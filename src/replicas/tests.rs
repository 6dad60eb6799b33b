//! Tests what several vaults hold after various failures, and which of them serves.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::backup::back_up;
use super::*;
use crate::monitor::CollectingMonitor;
use crate::restore::sample::context;
use crate::restore::tests::noise;
use crate::store::testing::fault::FaultStore;
use crate::store::testing::memory::MemoryStore;
use crate::vault::CONFIG;
use crate::vault::root::{SNAPSHOTS, SnapshotName};
use crate::{backup as engine, restore as restoring, verify};

mod backups;
mod copies;
mod opened;
mod restores;

/// The calls that fail at a place: those with this verb whose object names have this prefix; an empty verb stands for
/// all verbs.
type Faults = Arc<Mutex<Option<(&'static str, &'static str)>>>;

/// A place in memory that a test breaks.
struct Place {
    url: &'static str,
    store: &'static MemoryStore,
    faults: Faults,
    may_make: bool,
    /// Whether the place does not answer, instead of failing.
    unreachable: bool,
}

impl Place {
    fn new(url: &'static str) -> Self {
        Place { url, store: Box::leak(Box::default()), faults: Faults::default(), may_make: true, unreachable: false }
    }

    fn open(&self) -> Box<dyn Store> {
        let faults = self.faults.clone();
        let store = FaultStore::new(self.store, move |verb, name| {
            faults
                .lock()
                .unwrap()
                .is_some_and(|(bad, prefix)| (bad.is_empty() || bad == verb) && name.starts_with(prefix))
        });
        Box::new(if self.unreachable { store.unreachable() } else { store })
    }

    fn site(&self) -> Site {
        Site::probe(self.url.into(), self.may_make, Ok(self.open()))
    }

    fn fails(&self, verb: &'static str, prefix: &'static str) {
        *self.faults.lock().unwrap() = Some((verb, prefix));
    }

    fn away(&self, away: bool) {
        *self.faults.lock().unwrap() = away.then_some(("", ""));
    }

    fn vault(&self) -> Vault {
        Vault::open(Box::new(self.store)).unwrap()
    }

    fn names(&self) -> Vec<SnapshotName> {
        self.vault().snapshots().unwrap()
    }

    /// Spoils one byte in the middle of every object whose name has this prefix.
    fn spoil(&self, prefix: &str) {
        for (_, bytes) in self.store.objects().iter_mut().filter(|(name, _)| name.starts_with(prefix)) {
            let at = bytes.len() / 2;
            bytes[at] ^= 0xff;
        }
    }

    #[track_caller]
    fn is_sound(&self) {
        let all = verify::VerifyOptions { read_data: Some(100.0), databases: None };
        assert_eq!(verify::verify(&self.vault(), &all, &context()).unwrap().damage, []);
    }
}

/// A data directory, and places for its vaults.
struct World {
    folder: tempfile::TempDir,
    places: Vec<Place>,
    heard: CollectingMonitor,
    stop: AtomicBool,
}

impl World {
    fn new() -> Self {
        let places = vec![Place::new("one"), Place::new("two")];
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let world = World { folder, places, heard: CollectingMonitor::default(), stop: AtomicBool::new(false) };
        world.write("a", 1);
        world
    }

    fn write(&self, name: &str, seed: u64) {
        std::fs::write(self.folder.path().join("data").join(name), noise(20_000, seed)).unwrap();
    }

    fn context(&self) -> Context<'_> {
        Context { monitor: &self.heard, stop: &self.stop, ..context() }
    }

    fn sites(&self) -> Vec<Site> {
        self.places.iter().map(Place::site).collect()
    }

    fn try_backup(&self) -> Result<backup::ReplicatedBackupReport> {
        let options = engine::options::BackupOptions {
            data: self.folder.path().join("data"),
            ..engine::options::BackupOptions::default()
        };
        back_up(self.sites(), &options, &self.context())
    }

    fn backup(&self) -> backup::ReplicatedBackupReport {
        self.try_backup().unwrap()
    }

    fn options(&self, spec: &str) -> restoring::options::RestoreOptions {
        restoring::options::RestoreOptions {
            snapshot: spec.into(),
            ..restoring::options::RestoreOptions::latest(self.target())
        }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn restore(&self, options: &restoring::options::RestoreOptions) -> Result<restore::ReplicatedRestoreReport> {
        let _ = std::fs::remove_dir_all(self.target());
        restore::restore(self.sites(), options, &self.context())
    }

    /// Asserts that the newest good snapshot comes back from the place `url`, with the file `a` of this seed.
    #[track_caller]
    fn comes_back(&self, url: &str, seed: u64) -> restore::ReplicatedRestoreReport {
        let report = self.restore(&self.options("latest")).unwrap();
        assert_eq!(report.vault, url, "{report:?}");
        assert!(std::fs::read(self.target().join("a")).unwrap() == noise(20_000, seed));
        report
    }
}

/// Lets a second pass, so that numbers of two vaults that do not know each other differ.
fn tick() {
    std::thread::sleep(std::time::Duration::from_millis(1001));
}

fn holds(report: &backup::ReplicatedBackupReport) -> Vec<bool> {
    report.vaults.iter().map(|held| held.holds).collect()
}

#[track_caller]
fn says(why: &Error, what: &[&str]) {
    what.iter().for_each(|what| assert!(why.to_string().contains(what), "no {what:?} in {why}"));
}
