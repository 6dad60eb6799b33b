//! Backups that fail or are told to stop in the middle, and what the next one goes on from.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::store::fault::FaultStore;

/// A vault in a store that fails as `plan` says, beside the world's.
fn failing(world: &World, plan: impl Fn(&'static str, &str) -> bool + Send + Sync + 'static) -> Vault {
    Vault::open(Box::new(FaultStore::new(world.store.clone(), plan))).unwrap()
}

/// Twenty files of 1 MB; of their packs, each holds a few. One is a database with a journal.
fn twenty() -> World {
    let mut world = World::new();
    (0..20).for_each(|n| world.write(&format!("{n:02}"), &noise(n, 1_000_000)));
    world.monitor = Arc::new(Collect::default());
    world
}

/// Ends a backup into `vault`, which must fail, and gives what the next one reads, which must be whole.
fn next_reads(world: &World, vault: &Vault, options: &Options) -> (u64, Error) {
    let ctx = Context { random: &system_random, threads: 2, parallel: 8, stop: &world.stop, monitor: &*world.monitor };
    let why = backup(vault, options, &ctx).unwrap_err();
    assert_eq!(world.vault.snapshots().unwrap(), []);
    world.stop.store(false, Ordering::Relaxed);
    let damage = || crate::verify::verify(&world.vault, &Default::default(), &ctx).unwrap().damage;
    assert_eq!(damage(), []);
    let report = world.backup();
    assert_eq!((report.state, report.files, damage()), (State::Complete, 20, vec![]));
    for (entry, content) in world.entries(report.snapshot).iter().filter(|(entry, _)| entry.kind == Kind::File) {
        assert!(*content == noise(entry.path.to_string().parse().unwrap(), 1_000_000), "{}", entry.path);
    }
    (report.read_bytes, why)
}

#[test]
fn what_is_stored_when_a_pack_cannot_be_is_gone_on_from() {
    // The first packs hold whole files. One that fails takes those after it with it, also those that are stored.
    for (lets_through, most) in [(0, 20_000_000), (2, 15_000_000), (3, 11_000_000)] {
        let world = twenty();
        let count = AtomicU64::new(0);
        let vault = failing(&world, move |verb, name| {
            verb == "create" && name.starts_with("packs/") && count.fetch_add(1, Ordering::SeqCst) == lets_through
        });
        let (read, why) = next_reads(&world, &vault, &world.options);
        assert!(why.to_string().contains("injected fault"), "{why}");
        assert!(read <= most, "{lets_through}: {read}");
    }
}

#[test]
fn an_index_that_cannot_be_stored_is_stored_once_more() {
    for folder in ["index/", "snapshots/", "checkpoints/"] {
        let world = twenty();
        let count = AtomicU64::new(0);
        let vault = failing(&world, move |verb, name| {
            verb == "create" && name.starts_with(folder) && count.fetch_add(1, Ordering::SeqCst) == 0
        });
        // Without it nothing is gone on from, and nothing is lost either.
        let mut options = world.options.clone();
        if folder == "checkpoints/" {
            options.before_commit =
                Some(BeforeCommit::new(|| Err(Error::failed("commit", "injected fault").from_store())));
        }
        let (read, why) = next_reads(&world, &vault, &options);
        assert!(why.to_string().contains("injected fault"), "{why}");
        assert_eq!(read, if folder == "checkpoints/" { 20_000_000 } else { 0 }, "{folder}");
    }
}

#[test]
fn a_store_that_fails_for_good_leaves_no_checkpoint() {
    let world = twenty();
    let count = AtomicU64::new(0);
    let vault = failing(&world, move |verb, _| verb == "create" && count.fetch_add(1, Ordering::SeqCst) >= 2);
    assert_eq!(next_reads(&world, &vault, &world.options).0, 20_000_000);
}

/// Tells a backup to stop when it has opened a file, after those before it were stored.
struct StopsAt(&'static AtomicBool, &'static str);

impl Monitor for StopsAt {
    fn reached(&self, moment: Moment, path: &EntryPath) {
        if matches!(moment, Moment::Opened) && path.to_string() == self.1 {
            std::thread::sleep(Duration::from_millis(300));
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_backup_that_is_told_to_stop_is_gone_on_from() {
    // A store that gives up when it is told to, and one that does not.
    for gives_up in [true, false] {
        let mut world = twenty();
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let told = failing(&world, move |_, _| gives_up && stop.load(Ordering::Relaxed));
        let mut options = world.options.clone();
        let last = world.store.clone();
        options.last_words =
            Some(LastWords::new(move |_| gives_up.then(|| Ok(Box::new(last.clone()) as Box<dyn Store>))));
        world.monitor = Arc::new(StopsAt(stop, "15"));
        let ctx = Context { random: &system_random, threads: 2, parallel: 8, stop, monitor: &*world.monitor };
        let why = backup(&told, &options, &ctx).unwrap_err();
        assert!(why.to_string().contains("told to stop") || gives_up, "{why}");
        assert_eq!(world.vault.checkpoints().unwrap().len(), 1, "{why}");
        world.monitor = Arc::new(Collect::default());
        let report = world.backup();
        assert!(report.read_bytes <= 12_000_000 && report.files == 20, "{report:?}");
        // One that is stopped before it comes so far does not take that place.
        world.write("00", b"new");
        let before = world.vault.checkpoints().unwrap();
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let monitor = StopsAt(stop, "00");
        let ctx = Context { random: &system_random, threads: 2, parallel: 8, stop, monitor: &monitor };
        backup(&world.vault, &world.options, &ctx).unwrap_err();
        assert!(world.vault.checkpoints().unwrap().len() <= before.len() + 1);
    }
}
