//! Backups that fail or are told to stop in the middle, and where the next one goes on from.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::backup::options::{BeforeCommit, LastWords};
use crate::store::testing::fault::FaultStore;
use std::time::Duration;

/// Opens the world's vault through a store that fails as `plan` says.
fn failing(world: &World, plan: impl Fn(&'static str, &str) -> bool + Send + Sync + 'static) -> Vault {
    Vault::open(Box::new(FaultStore::new(world.store.clone(), plan))).unwrap()
}

/// Twenty files of 1 MB, a few in each pack.
fn twenty() -> World {
    let mut world = World::new();
    (0..20).for_each(|n| world.write(&format!("{n:02}"), &noise(n, 1_000_000)));
    world.monitor = Arc::new(CollectingMonitor::default());
    world
}

/// Returns why a backup into `vault` fails, which it must.
fn fails(world: &World, vault: &Vault, options: &BackupOptions) -> Error {
    let ctx = Context { random: &system_random, threads: 2, parallel: 8, stop: &world.stop, monitor: &*world.monitor };
    let why = backup(vault, options, &ctx).unwrap_err();
    assert_eq!(world.vault.snapshots().unwrap(), []);
    why
}

/// Returns the bytes that the next backup after a failed one reads. It must be whole.
fn next_reads(world: &World) -> u64 {
    let ctx = Context { random: &system_random, threads: 2, parallel: 8, stop: &world.stop, monitor: &*world.monitor };
    let damage = || crate::verify::verify(&world.vault, &Default::default(), &ctx).unwrap().damage;
    assert_eq!(damage(), []);
    let report = world.backup();
    assert_eq!((report.state, report.files, damage()), (SnapshotState::Complete, 20, vec![]));
    for (entry, content) in world.entries(report.snapshot).iter().filter(|(entry, _)| entry.kind == EntryKind::File) {
        assert!(*content == noise(entry.path.to_string().parse().unwrap(), 1_000_000), "{}", entry.path);
    }
    report.read_bytes
}

#[test]
fn the_next_backup_goes_on_from_what_was_stored_before_a_pack_failed() {
    // How much goes into a pack depends on how fast frames are compressed. So names tell in which order packs were
    // begun, the one that fails is chosen by its number, and what the packs before it hold is counted.
    let number = |name: &str| u64::from_str_radix(&name["packs/".len()..][..16], 16).unwrap();
    let (mut failed, mut gone_on_from) = (0, 0);
    for chosen in 0..8 {
        let world = twenty();
        let drawn = AtomicU64::new(0);
        let random = |buffer: &mut [u8]| {
            system_random(buffer)?;
            buffer[..8].copy_from_slice(&drawn.fetch_add(1, Ordering::SeqCst).to_be_bytes());
            Ok(())
        };
        let vault =
            failing(&world, move |verb, name| verb == "create" && name.starts_with("packs/") && number(name) == chosen);
        let ctx = Context { random: &random, threads: 2, parallel: 8, stop: &world.stop, monitor: &*world.monitor };
        let Err(why) = backup(&vault, &world.options, &ctx) else { continue };
        assert!(why.to_string().contains("injected fault"), "{why}");
        // A pack that fails makes the later packs useless, even the stored ones.
        let packs = world.store.list("packs/").unwrap();
        let before: u64 = packs.iter().filter(|pack| number(&pack.name) < chosen).map(|pack| pack.size).sum();
        let read = next_reads(&world);
        assert!(read <= 20_000_000 - before.saturating_sub(2_000_000), "{chosen}: {read}, {before} stored before");
        failed += 1;
        gone_on_from += u32::from(read < 20_000_000);
    }
    // Twenty megabytes that cannot be compressed make at least two packs.
    assert!(failed >= 2 && gone_on_from >= 1, "{failed} {gone_on_from}");
}

#[test]
fn an_index_that_cannot_be_stored_is_stored_once_more() {
    for folder in ["index/", "snapshots/", "checkpoints/"] {
        let world = twenty();
        let count = AtomicU64::new(0);
        let vault = failing(&world, move |verb, name| {
            verb == "create" && name.starts_with(folder) && count.fetch_add(1, Ordering::SeqCst) == 0
        });
        // Without it the next backup starts from the beginning, but nothing is lost.
        let mut options = world.options.clone();
        if folder == "checkpoints/" {
            options.before_commit =
                Some(BeforeCommit::new(|| Err(Error::failed("commit", "injected fault").from_store())));
        }
        let why = fails(&world, &vault, &options);
        assert!(why.to_string().contains("injected fault"), "{why}");
        assert_eq!(next_reads(&world), if folder == "checkpoints/" { 20_000_000 } else { 0 }, "{folder}");
    }
}

#[test]
fn a_store_that_fails_for_good_leaves_no_checkpoint() {
    let world = twenty();
    let count = AtomicU64::new(0);
    let vault = failing(&world, move |verb, _| verb == "create" && count.fetch_add(1, Ordering::SeqCst) >= 2);
    fails(&world, &vault, &world.options);
    assert_eq!(next_reads(&world), 20_000_000);
}

/// Tells a backup to stop when it has opened the file `at`, after a pack of the earlier files, if there are any, was
/// stored.
struct StopsAt {
    stop: &'static AtomicBool,
    at: &'static str,
    store: Shared,
}

impl Monitor for StopsAt {
    fn reached(&self, moment: Moment, path: &EntryPath) {
        if matches!(moment, Moment::Opened) && path.to_string() == self.at {
            while self.at != "00" && self.store.list("packs/").unwrap().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(300));
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn the_next_backup_goes_on_from_one_that_was_told_to_stop() {
    // A store that gives up when it is told to, and one that does not.
    for gives_up in [true, false] {
        let mut world = twenty();
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let told = failing(&world, move |_, _| gives_up && stop.load(Ordering::Relaxed));
        let mut options = world.options.clone();
        let last = world.store.clone();
        options.last_words =
            Some(LastWords::new(move |_| gives_up.then(|| Ok(Box::new(last.clone()) as Box<dyn Store>))));
        world.monitor = Arc::new(StopsAt { stop, at: "15", store: world.store.clone() });
        let ctx = Context { random: &system_random, threads: 2, parallel: 8, stop, monitor: &*world.monitor };
        let why = backup(&told, &options, &ctx).unwrap_err();
        assert!(why.to_string().contains("told to stop") || gives_up, "{why}");
        assert_eq!(world.vault.checkpoints().unwrap().len(), 1, "{why}");
        world.monitor = Arc::new(CollectingMonitor::default());
        let report = world.backup();
        // At least the first pack is kept, which holds five megabytes; any part of it that does not end with a file
        // is read again.
        assert!(report.read_bytes <= 16_000_000 && report.files == 20, "{report:?}");
        // A backup that is stopped before it comes this far does not replace the checkpoint.
        world.write("00", b"new");
        let before = world.vault.checkpoints().unwrap();
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let monitor = StopsAt { stop, at: "00", store: world.store.clone() };
        let ctx = Context { random: &system_random, threads: 2, parallel: 8, stop, monitor: &monitor };
        backup(&world.vault, &world.options, &ctx).unwrap_err();
        assert!(world.vault.checkpoints().unwrap().len() <= before.len() + 1);
    }
}

/// Tells a backup to stop when it has begun to read a file, and counts the pieces that it reads.
struct StopsWhileReading(&'static AtomicBool, AtomicU64);

impl Monitor for StopsWhileReading {
    fn reached(&self, moment: Moment, _: &EntryPath) {
        if matches!(moment, Moment::Reading) {
            self.0.store(true, Ordering::Relaxed);
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_large_file_is_not_read_to_its_end_when_it_is_to_stop() {
    let world = World::new();
    world.write("large", &noise(1, 60_000_000));
    let stop: &'static AtomicBool = Box::leak(Box::default());
    let monitor = StopsWhileReading(stop, AtomicU64::new(0));
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop, monitor: &monitor };
    let why = backup(&world.vault, &world.options, &ctx).unwrap_err();
    assert!(why.to_string().contains("told to stop"), "{why}");
    assert!(monitor.1.into_inner() <= 2);
    assert_eq!(world.vault.snapshots().unwrap(), []);
}
