//! A vault on a store where every request takes its time: how many there are, and how many of them at once.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lastgood::backup::{self, BackupReport};
use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::path::EntryPath;
use lastgood::store::Store;
use lastgood::store::testing::bitflip::BitflipStore;
use lastgood::store::testing::latency::LatencyStore;
use lastgood::store::testing::memory::MemoryStore;
use lastgood::store::testing::recording::RecordingStore;
use lastgood::vault::Vault;
use lastgood::vault::root::Root;
use lastgood::{export, inspect, restore, verify};

use crate::support::compare::assert_same_but_folder_times;
use crate::support::tree::{noise, set_mtime};
use crate::support::{World, database};

type Far = LatencyStore<RecordingStore<MemoryStore>>;

/// Returns a store that lives as long as the test, in which a vault was made.
fn store(latency: u64) -> &'static Far {
    let store = LatencyStore::new(RecordingStore::new(MemoryStore::default()), Duration::from_millis(latency));
    let store: &'static Far = Box::leak(Box::new(store));
    Vault::init(Box::new(store), system_random).unwrap();
    forget(store);
    store
}

/// Returns a store with the same objects, behind this many milliseconds.
fn delayed(of: &Far, latency: u64) -> Far {
    let objects = MemoryStore::default();
    objects.objects().clone_from(&of.inner().inner().objects());
    LatencyStore::new(RecordingStore::new(objects), Duration::from_millis(latency))
}

/// Returns the same objects, behind a store of which the first requests for objects with `prefix` wait for each other.
fn meeting(of: &Far, prefix: &'static str, count: usize) -> &'static Far {
    Box::leak(Box::new(delayed(of, 0).meeting(prefix, count)))
}

fn forget(store: &Far) {
    store.take();
    store.inner().take();
}

/// Returns the requests since the last time, as `verb folder/`, in order; those of one round in that of their names.
fn requests(store: &Far) -> Vec<String> {
    store.take();
    let of = |name: &str| name.split_inclusive('/').next().unwrap_or_default().to_owned();
    store.inner().take().iter().map(|call| format!("{} {}", call.verb, of(&call.name))).collect()
}

fn with<T>(parallel: usize, work: impl FnOnce(&Context) -> T) -> T {
    let stop = AtomicBool::new(false);
    work(&Context { random: &system_random, threads: 2, parallel, stop: &stop, monitor: &SilentMonitor })
}

/// Opens the vault, as a command does, and takes a snapshot.
fn back_up(store: &'static Far, data: &Path, parallel: usize) -> BackupReport {
    let vault = Vault::open(Box::new(store)).unwrap();
    let options = backup::options::BackupOptions {
        data: data.into(),
        boot: "boot".into(),
        ..backup::options::BackupOptions::default()
    };
    with(parallel, |ctx| backup::backup(&vault, &options, ctx)).unwrap()
}

fn restore(store: &'static Far, target: &Path, parallel: usize) -> restore::RestoreReport {
    let vault = Vault::open(Box::new(store)).unwrap();
    with(parallel, |ctx| restore::restore(&vault, &whole(target), ctx)).unwrap()
}

fn whole(target: &Path) -> restore::options::RestoreOptions {
    restore::options::RestoreOptions::latest(target.into())
}

fn latest(store: &'static Far) -> (Vault, Root) {
    let vault = Vault::open(Box::new(store)).unwrap();
    let (_, root) = restore::select::find(&vault, "latest").unwrap();
    (vault, root)
}

/// Creates a small app's data: files, a log, a database, long unchanged.
fn small() -> World {
    let world = World::new();
    for n in 0..200 {
        world.write(&format!("users/{:02}/{n}.json", n % 20), format!("{{\"id\":{n},\"name\":\"user {n}\"}}"));
    }
    world.write("app.log", "a line like any other\n".repeat(40_000));
    world.write("media/a.jpg", noise(1, 100_000));
    database::run(&world.data().join("app.db"), &database::table(2000, 300));
    age(&world.data());
    world
}

fn age(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path);
        }
        set_mtime(&path, 1_700_000_000, 0);
    }
}

/// Creates a world with this many files of 1 MiB of noise.
fn large(mebibytes: u64) -> World {
    let world = World::new();
    for n in 0..mebibytes {
        world.write(&format!("media/{n}"), noise(n, 1 << 20));
    }
    world
}

#[test]
fn a_small_vault_takes_few_requests() {
    let (world, store) = (small(), store(0));
    let first = back_up(store, &world.data(), 2);
    let mut made = requests(store);
    made.sort();
    let wanted = [
        "create index/",
        "create packs/",
        "create snapshots/",
        "get vault.json",
        "list checkpoints/",
        "list doubts/",
        "list index/",
        "list packs/",
        "list snapshots/",
    ];
    assert_eq!((made.iter().map(String::as_str).collect::<Vec<_>>(), first.new_packs), (wanted.to_vec(), 2));

    // Nothing changed: the root, and what it takes to know that.
    let second = back_up(store, &world.data(), 2);
    let made = requests(store);
    // Two requests are for damage: the list of doubts, and a part of one of the parent's packs, which is small here.
    assert_eq!((made.len(), second.new_packs), (10, 0), "{made:?}");
    assert_eq!(made.iter().filter(|request| request.starts_with("range")).count(), 2, "{made:?}");

    // A change is sent, and what is beside it is not read again.
    world.write("app.log", "a line like any other\n".repeat(40_001));
    let third = back_up(store, &world.data(), 2);
    let made = requests(store);
    assert_eq!((made.len(), third.new_packs), (12, 2), "{made:?}");

    let target = world.path("restored");
    restore(store, &target, 2);
    let made = requests(store);
    // vault.json, the list, the root; the list of doubts; two lists of packs; of each of two backups an index pack and a
    // data pack.
    assert_eq!(made.len(), 10, "{made:?}");
    assert_same_but_folder_times(&world.data(), &target);
}

#[test]
fn the_index_is_read_a_mebibyte_at_a_time() {
    let (world, store) = (World::new(), store(0));
    fs::create_dir(world.data()).unwrap();
    for n in 0..1000 {
        // Their entries in the index cannot be compressed to less than half.
        let target: String = noise(n, 2000).iter().map(|byte| format!("{byte:02x}")).collect();
        symlink(target, world.data().join(n.to_string())).unwrap();
    }
    // Files of the last two seconds would be looked at again.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    back_up(store, &world.data(), 2);
    let objects = store.inner().inner().list("index/").unwrap();
    let size: u64 = objects.iter().map(|object| object.size).sum();
    assert!(objects.len() == 1 && size > 1 << 20, "{objects:?}");
    forget(store);
    let report = back_up(store, &world.data(), 2);
    let made = requests(store);
    let reads = made.iter().filter(|request| request.starts_with("range")).count() as u64;
    // One more looks at a part of a pack, for damage.
    assert_eq!((report.new_packs, reads), (0, size.div_ceil(1 << 20) + 1), "{made:?}");
}

#[test]
fn as_many_packs_are_stored_at_a_time_as_are_allowed() {
    let world = large(64);
    for parallel in [1, 2, 8] {
        let store = meeting(store(0), "packs/", parallel);
        let report = back_up(store, &world.data(), parallel);
        // Three listings are made at once in any case: of snapshots, checkpoints and doubts.
        let most = store.take().1;
        assert!((parallel..=parallel.max(3)).contains(&most), "{parallel}: {most}");
        let packs = store.inner().inner().list("packs/").unwrap();
        // Together they take the same memory, so that many are smaller ones; how large exactly is an estimate.
        let expected = if parallel == 8 { 5..=14 } else { 3..=6 };
        assert!(expected.contains(&packs.len()), "{parallel}: {packs:?}");
        assert_eq!(report.new_packs, packs.len() as u64 + 1);
        let target = world.path(format!("restored {parallel}"));
        restore(store, &target, parallel);
        assert_same_but_folder_times(&world.data(), &target);
    }
}

#[test]
fn as_many_reads_are_under_way_as_are_allowed() {
    let (world, first) = (large(64), store(0));
    back_up(first, &world.data(), 8);
    let packs = first.inner().inner().list("packs/").unwrap().len();
    assert!(packs >= 9, "{packs}");
    // The packs' tables are read at the same time, …
    for parallel in [2, 8] {
        let store = meeting(first, "packs/", parallel);
        restore(store, &world.path(format!("restored {parallel}")), parallel);
        assert_eq!(store.take().1, parallel);
    }
    // … and so is what lies in one.
    let (world, one) = (World::new(), store(100));
    world.write("one", noise(1, 15 << 20));
    back_up(one, &world.data(), 2);
    forget(one);
    let target = world.path("restored");
    restore(one, &target, 4);
    assert_eq!(one.take().1, 4);
    assert_same_but_folder_times(&world.data(), &target);
}

#[test]
fn what_only_looks_reads_several_objects_at_a_time_too() {
    let (world, first) = (World::new(), store(0));
    world.write("large", noise(7, 64 << 20));
    back_up(first, &world.data(), 8);
    for n in 0..10 {
        world.write("small", format!("{n}"));
        back_up(first, &world.data(), 2);
    }
    let parallel = 4;
    let checked = meeting(first, "packs/", parallel);
    let vault = Vault::open(Box::new(checked)).unwrap();
    let report = with(parallel, |ctx| verify::verify(&vault, &verify::VerifyOptions::default(), ctx)).unwrap();
    assert!(report.sound() && report.snapshots == 11, "{report:?}");
    assert_eq!(checked.take().1, parallel);

    let listed = meeting(first, "snapshots/", parallel);
    let vault = Vault::open(Box::new(listed)).unwrap();
    let mut seen = Vec::new();
    let take = |listed: inspect::ListedSnapshot| {
        seen.push(listed.id.seq);
        Ok(())
    };
    assert_eq!(with(parallel, |ctx| inspect::list(&vault, take, ctx)).unwrap(), inspect::UnreadRoots::default());
    assert!(seen.len() == 11 && seen.is_sorted_by(|newer, older| newer > older), "{seen:?}");
    assert_eq!(listed.take(), (13, parallel));

    let shown = meeting(first, "packs/", parallel);
    let (vault, root) = latest(shown);
    let (mut content, path) = (Vec::new(), EntryPath::new("large").unwrap());
    with(parallel, |ctx| inspect::cat(&vault, &root, &path, &mut content, ctx)).unwrap();
    assert!(content == noise(7, 64 << 20));
    assert_eq!(shown.take().1, parallel);

    let exported: &'static Far = Box::leak(Box::new(delayed(first, 50)));
    let (vault, root) = latest(exported);
    let mut archive = Vec::new();
    with(parallel, |ctx| export::export(&vault, &root, export::ArchiveFormat::Pax, &mut archive, ctx)).unwrap();
    assert!(archive.len() > 64 << 20);
    // It plans ahead while it reads.
    let most = exported.take().1;
    assert!((parallel..=parallel + 1).contains(&most), "{most}");
}

#[test]
fn bits_that_flip_on_their_way_harm_nothing() {
    let (world, first) = (small(), store(0));
    world.write("media/large", noise(9, 40 << 20));
    back_up(first, &world.data(), 2);
    // The first range of every object, near and far: of the packs, in the table and in a frame.
    for (n, (from_end, times, worth)) in
        [(0, 1, 1 << 20), (3000, 1, 1 << 20), (3000, 2, 1 << 10), (3_000_000, 1, 1 << 10)].into_iter().enumerate()
    {
        let flipping = || {
            let objects = delayed(first, 0);
            Vault::open(Box::new(BitflipStore::new(objects, from_end, times, worth))).unwrap()
        };
        let target = world.path(format!("restored {n}"));
        with(2, |ctx| restore::restore(&flipping(), &whole(&target), ctx)).unwrap();
        assert_same_but_folder_times(&world.data(), &target);

        let all = verify::VerifyOptions { read_data: Some(100.0), databases: None };
        let report = with(2, |ctx| verify::verify(&flipping(), &all, ctx)).unwrap();
        // An object that is read whole twice has one bad reading at most.
        assert!(report.sound() == (times == 1), "{report:?}");

        let (vault, root) = (flipping(), latest(first).1);
        let (mut content, path) = (Vec::new(), EntryPath::new("media/large").unwrap());
        with(2, |ctx| inspect::cat(&vault, &root, &path, &mut content, ctx)).unwrap();
        assert!(content == noise(9, 40 << 20));
    }
}
