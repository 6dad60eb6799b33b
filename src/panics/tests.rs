//! Tests of panics in every kind of thread: the run ends, and says so.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::backup::{self};
use crate::monitor::{Context, Moment, Monitor, SilentMonitor, system_random};
use crate::parallel::ordered::map_ordered;
use crate::path::EntryPath;
use crate::replicas::copy;
use crate::restore::sample::SampleVault;
use crate::restore::tests::{noise, options};
use crate::restore::{self};
use crate::source::stable::Trust;
use crate::store::testing::fault::FaultStore;
use crate::store::testing::memory::MemoryStore;
use crate::vault::Vault;
use crate::vault::root::SnapshotState;
use crate::{export, verify};

const NEVER: &str = "nothing happens any more";
/// The message of the threads that panic here.
const SAID: &str = "a panic that a test wants";

/// The longest time for a run that has nothing to wait for.
const LONG: Duration = Duration::from_secs(120);

/// Does work in a thread, and returns how it failed. Work that does not end fails the test.
#[track_caller]
fn ends(what: &str, work: impl FnOnce(&Context) -> Result<()> + Send + 'static) -> String {
    ends_heard(what, SilentMonitor, work)
}

#[track_caller]
fn ends_heard(
    what: &str,
    monitor: impl Monitor + 'static,
    work: impl FnOnce(&Context) -> Result<()> + Send + 'static,
) -> String {
    let (send, end) = mpsc::channel();
    std::thread::spawn(move || {
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &monitor };
        send.send(caught("do it", || work(&ctx)))
    });
    match end.recv_timeout(LONG) {
        Ok(Err(why)) => why.to_string(),
        Ok(Ok(())) => panic!("{what}: it went well"),
        Err(_) => panic!("{what}: {NEVER}"),
    }
}

#[track_caller]
fn assert_panicked(what: &str, said: &str) {
    // If one thread waited for another one, it says that this one is gone.
    assert!(said.contains("panic") || said.contains("ended early") || said.contains("reader ended"), "{what}: {said}");
}

/// Returns a store that panics at calls of `verb` for names that begin with `begins`.
fn panicking<S: crate::store::Store>(inner: S, verb: &'static str, begins: &'static str) -> FaultStore<S> {
    FaultStore::new(inner, move |called, name| {
        assert!(called != verb || !name.starts_with(begins), "{SAID}");
        false
    })
}

/// A monitor that panics at a moment of a backup.
struct At(Moment, &'static str);

impl Monitor for At {
    fn reached(&self, moment: Moment, path: &EntryPath) {
        assert!(moment != self.0 || path.to_string() != self.1, "{SAID}");
    }
}

/// A monitor that panics when bytes are done.
struct Advancing;

impl Monitor for Advancing {
    fn advance(&self, _bytes: u64) {
        panic!("{SAID}");
    }
}

fn kept<S>(store: S) -> &'static S {
    Box::leak(Box::new(store))
}

/// Creates a directory with small and large files, and a vault with a snapshot of it, if `known`.
fn backed_up(known: bool) -> (tempfile::TempDir, &'static MemoryStore) {
    let (data, store) = (tempfile::tempdir().unwrap(), kept(MemoryStore::default()));
    for (n, size) in [(0u64, 10), (1, 3_000_000), (2, 900), (3, 40_000_000)] {
        let folder = data.path().join(format!("folder-{n}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), noise(size, n)).unwrap();
    }
    let vault = Vault::init(Box::new(store), system_random).unwrap();
    if known {
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor };
        backup::backup(&vault, &of(&data), &ctx).unwrap();
    }
    (data, store)
}

fn of(data: &tempfile::TempDir) -> backup::options::BackupOptions {
    let trust = Trust { writeback: 0, ..Trust::default() };
    backup::options::BackupOptions { data: data.path().into(), trust, ..backup::options::BackupOptions::default() }
}

#[test]
fn threads_of_a_backup() {
    for (what, moment, path) in [
        ("the walk", Moment::Listing, "."),
        ("threads that list folders", Moment::Listing, "folder-2"),
        ("a thread that reads files", Moment::Opening, "folder-0/file"),
        ("a thread that reads a large file", Moment::Reading, "folder-3/file"),
        ("the look at the end", Moment::Looking, "folder-1"),
        ("the run itself", Moment::Committing, "."),
    ] {
        let (data, store) = backed_up(false);
        let said = ends_heard(what, At(moment, path), move |ctx| {
            backup::backup(&Vault::open(Box::new(store))?, &of(&data), ctx).map(drop)
        });
        assert_panicked(what, &said);
        assert_eq!(Vault::open(Box::new(store)).unwrap().snapshots().unwrap(), [], "{what}");
    }
    for (what, verb, begins) in [
        ("uploads of data", "create", "packs/"),
        ("uploads of the index", "create", "index/"),
        ("what tells what is known", "range", "index/"),
        ("what lists checkpoints", "list", "checkpoints/"),
        ("what lists doubts", "list", "doubts/"),
    ] {
        let (data, store) = backed_up(true);
        // All of it is read, and the second is new.
        fs::write(data.path().join("folder-2/file"), noise(3_000_000, 9)).unwrap();
        let said = ends(what, move |ctx| {
            let vault = Vault::open(Box::new(panicking(store, verb, begins)))?;
            backup::backup(&vault, &of(&data), ctx).map(drop)
        });
        assert_panicked(what, &said);
        assert_eq!(Vault::open(Box::new(store)).unwrap().snapshots().unwrap().len(), 1, "{what}");
    }
}

#[test]
fn threads_of_a_restore() {
    let sample = || {
        let mut sample = SampleVault::new();
        for n in 0..60 {
            sample.file(format!("f{n:02}"), &noise(90_000, n));
        }
        sample.commit(SnapshotState::Complete);
        sample.store
    };
    for (what, verb, begins) in
        [("what fetches", "range", "packs/"), ("what reads entries", "range", "index/"), ("doubts", "list", "doubts/")]
    {
        let (store, into) = (sample(), tempfile::tempdir().unwrap());
        let target = into.path().join("back");
        let said = ends(what, move |ctx| {
            let vault = Vault::open(Box::new(panicking(store, verb, begins)))?;
            restore::restore(&vault, &options(&target), ctx).map(drop)
        });
        assert_panicked(what, &said);
        assert!(!into.path().join("back").exists(), "{what}");
    }
    let (store, into) = (sample(), tempfile::tempdir().unwrap());
    let target = into.path().join("back");
    let said = ends_heard("what decodes and writes", Advancing, move |ctx| {
        restore::restore(&Vault::open(Box::new(store))?, &options(&target), ctx).map(drop)
    });
    assert_panicked("what decodes and writes", &said);
    assert_eq!(fs::read_dir(into.path()).unwrap().count(), 0, "it left something behind");
}

#[test]
fn threads_that_verify_copy_and_export() {
    let (_, store) = backed_up(true);
    let all = verify::VerifyOptions { read_data: Some(100.0), databases: None };
    for begins in ["packs/", "index/"] {
        let all = all.clone();
        let said = ends("verify", move |ctx| {
            verify::verify(&Vault::open(Box::new(panicking(store, "range", begins)))?, &all, ctx).map(drop)
        });
        assert_panicked("verify", &said);
    }
    for (from, to) in [("get", "none"), ("none", "create")] {
        let said = ends("copy", move |ctx| {
            let from = Vault::open(Box::new(panicking(store, from, "packs/")))?;
            let to = from.replicate(Box::new(panicking(MemoryStore::default(), to, "packs/")))?;
            copy::copy(&from, &to, &from.snapshots()?, ctx).map(drop)
        });
        assert_panicked("copy", &said);
    }
    for begins in ["packs/", "index/"] {
        let said = ends("export", move |ctx| {
            let vault = Vault::open(Box::new(panicking(store, "range", begins)))?;
            let root = vault.root(vault.snapshots()?[0])?;
            export::export(&vault, &root, export::ArchiveFormat::Pax, &mut std::io::sink(), ctx).map(drop)
        });
        assert_panicked("export", &said);
    }
    let said = ends("requests in order", |_| {
        let asked = |n: &u32| assert!(*n < 5, "{SAID}");
        map_ordered(&(0..20).collect::<Vec<_>>(), 3, asked, |_, ()| Ok(()))
    });
    assert_panicked("requests in order", &said);
}

#[test]
fn an_error_says_what_a_panic_said() {
    let said = caught::<()>("count", || panic!("{} are too many", 3)).unwrap_err().to_string();
    assert!(
        said.contains("could not count") && said.contains("3 are too many") && said.contains("report it"),
        "{said}"
    );
    assert_eq!(caught("count", || Ok(3)).unwrap(), 3);
}
