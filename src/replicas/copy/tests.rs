//! Tests what a copy sends, in which order, and what it leaves out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::monitor::{CollectingMonitor, system_random};
use crate::restore::sample::{SampleVault, context};
use crate::restore::tests::{damages, noise};
use crate::store::testing::fault::FaultStore;
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::recording::{Call, RecordingStore};
use crate::store::{Meta, Store};
use crate::vault::root::SnapshotState;
use crate::vault::{CONFIG, README};
use crate::verify::{self, verify};

/// Keeps a store beyond the life of the vault in it.
fn kept<S>(store: S) -> &'static S {
    Box::leak(Box::new(store))
}

/// Makes two snapshots that share most of their content.
fn two() -> (SampleVault, Vec<SnapshotName>) {
    let mut sample = SampleVault::new();
    sample.file("a", &noise(1000, 1));
    sample.file("b", &noise(50, 2));
    sample.database("d");
    let first = sample.commit(SnapshotState::Complete);
    sample.file("e", &noise(700, 3));
    let second = sample.commit(SnapshotState::Complete);
    (sample, vec![first, second])
}

fn copy_all(from: &Vault, to: &Vault) -> Result<CopyReport> {
    copy(from, to, &lacking(from, to)?, &context())
}

fn creates(calls: &[Call]) -> Vec<&str> {
    calls.iter().filter(|call| call.verb == "create").map(|call| &*call.name).collect()
}

#[track_caller]
fn assert_sound(vault: &Vault) {
    let report = verify(vault, &verify::VerifyOptions { read_data: Some(100.0), databases: None }, &context()).unwrap();
    assert_eq!(report.damage, []);
}

#[test]
fn a_replica_becomes_the_same_byte_for_byte_and_nothing_is_sent_twice() {
    let (sample, names) = two();
    let store = kept(RecordingStore::new(MemoryStore::default()));
    let to = sample.vault.replicate(Box::new(store)).unwrap();
    assert_eq!(creates(&store.take()), [README, CONFIG]);
    let report = copy_all(&sample.vault, &to).unwrap();
    assert_eq!(*store.inner().objects(), *sample.store.objects());
    assert_eq!((&report.snapshots, report.snapshots_there), (&names, 0));
    assert_eq!(report.objects as usize + 2, sample.store.objects().len());
    let sent = sample.store.objects().iter().filter(|(name, _)| name.contains('/')).map(|(_, b)| b.len() as u64).sum();
    assert_eq!((report.bytes, report.objects_there, report.not_copied.len()), (sent, 0, 0));

    // Every pack comes first, then a listing, then the roots, the oldest first.
    let calls = store.take();
    let first_root = calls.iter().position(|call| call.name.starts_with(SNAPSHOTS) && call.verb == "create").unwrap();
    let roots: Vec<_> = names.iter().map(|name| name.object(SNAPSHOTS)).collect();
    assert_eq!(creates(&calls[first_root..]), roots);
    assert_eq!(creates(&calls).len() as u64, report.objects);
    let listed = calls[..first_root].iter().rev().take_while(|call| call.verb == "list").count();
    assert_eq!(listed, 2, "{calls:?}");
    assert_sound(&to);

    store.take();
    let again = copy_all(&sample.vault, &to).unwrap();
    assert_eq!((again.objects, again.bytes, again.snapshots_there, again.objects_there), (0, 0, 0, 0));
    // If snapshots are given by name, their packs are looked at, and are there.
    let named = copy(&sample.vault, &to, &names, &context()).unwrap();
    assert_eq!((named.objects, named.snapshots_there, named.objects_there), (0, 2, report.objects - 2));
    assert_eq!(creates(&store.take()), [""; 0]);
}

#[test]
fn a_chosen_snapshot_comes_with_what_it_needs_and_no_more() {
    let (mut sample, names) = two();
    sample.entries.truncate(1);
    let shrunk = sample.commit(SnapshotState::Complete);
    let to = sample.vault.replicate(Box::new(kept(MemoryStore::default()))).unwrap();
    let report = copy(&sample.vault, &to, &names[..1], &context()).unwrap();
    assert_eq!((&report.snapshots[..], &to.snapshots().unwrap()[..]), (&names[..1], &names[..1]));
    assert_eq!(verify(&to, &verify::VerifyOptions::default(), &context()).unwrap().unused, 0);
    // The packs of the first snapshot are there.
    let report = copy(&sample.vault, &to, &[shrunk, names[1], shrunk], &context()).unwrap();
    assert_eq!(report.snapshots, [names[1], shrunk]);
    assert!(report.objects_there > 0 && report.objects < 8, "{report:?}");
    assert_sound(&to);
}

#[test]
fn a_copy_that_was_cut_off_goes_on_where_it_was() {
    let (sample, names) = two();
    let whole = sample.store.objects().len() - 2;
    for failing in 0..whole as u64 {
        let store = kept(RecordingStore::new(MemoryStore::default()));
        drop(sample.vault.replicate(Box::new(store)).unwrap());
        store.take();
        let count = AtomicU64::new(0);
        let fault =
            FaultStore::new(store, move |verb, _| verb == "create" && count.fetch_add(1, Ordering::Relaxed) >= failing);
        let to = Vault::open(Box::new(fault)).unwrap();
        let why = copy_all(&sample.vault, &to).unwrap_err();
        assert!(why.of_store() && why.advice() == Some(AGAIN), "{why}");
        let to = Vault::open(Box::new(store)).unwrap();
        // Every snapshot that can be seen is whole.
        assert_sound(&to);
        let report = copy_all(&sample.vault, &to).unwrap();
        assert_eq!(to.snapshots().unwrap(), names);
        assert_eq!(*store.inner().objects(), *sample.store.objects());
        let calls = store.take();
        let mut created = creates(&calls);
        created.sort_unstable();
        let count = created.len();
        created.dedup();
        assert_eq!((created.len(), count), (whole, whole), "{failing}: each is sent once");
        assert!(report.objects < whole as u64 || failing == 0);
    }
}

#[test]
fn what_is_damaged_is_named_and_not_copied_and_the_rest_is() {
    for (how, damage) in damages() {
        for what in ["shared pack", "pack", "index", "root"] {
            if (how, what) == ("delete", "root") {
                continue;
            }
            let (sample, names) = two();
            let (object, hurt) = match what {
                "shared pack" => (sample.packs[0].name(), 2),
                "pack" => (sample.packs.last().unwrap().name(), 1),
                "index" => (sample.index_pack(), 1),
                _ => (names[1].object(SNAPSHOTS), 1),
            };
            damage(&sample, &object);
            let store = kept(MemoryStore::default());
            let to = sample.vault.replicate(Box::new(store)).unwrap();
            let heard = CollectingMonitor::default();
            let ctx = Context { monitor: &heard, ..context() };
            let report = copy(&sample.vault, &to, &names, &ctx).unwrap();
            let lost: Vec<_> = report.not_copied.iter().map(|lost| lost.snapshot).collect();
            assert_eq!((lost, &report.snapshots[..]), (names[2 - hurt..].to_vec(), &names[..2 - hurt]), "{how} {what}");
            let said = &report.not_copied.last().unwrap().why;
            assert!(what == "root" || said.contains(&object), "{how} {what}: {said}");
            assert_eq!(heard.warnings().len(), hurt);
            assert!(!store.objects().contains_key(&object), "{how} {what}");
            assert_sound(&to);
        }
    }
}

#[test]
fn other_vaults_are_refused() {
    let (sample, names) = two();
    let other = Vault::init(Box::new(kept(MemoryStore::default())), system_random).unwrap();
    let why = copy(&sample.vault, &other, &names, &context()).unwrap_err();
    let ids = [sample.vault.config.id, other.config.id].map(|id| id.to_string());
    assert!(why.kind() == Kind::Usage && ids.iter().all(|id| why.to_string().contains(id)), "{why}");
    assert_eq!(other.snapshots().unwrap(), []);

    let (sample, names) = two();
    let mut other = sample.vault.replicate(Box::new(kept(MemoryStore::default()))).unwrap();
    other.config.hash_key.0[0] ^= 1;
    assert!(copy(&sample.vault, &other, &names, &context()).unwrap_err().to_string().contains("keys differ"));

    // Neither is a replica made over another vault.
    let store = kept(MemoryStore::default());
    Vault::init(Box::new(store), system_random).unwrap();
    let before = store.objects().clone();
    assert_eq!(sample.vault.replicate(Box::new(store)).err().map(|why| why.kind()), Some(Kind::Usage));
    assert_eq!(*store.objects(), before);
}

#[test]
fn what_the_replica_has_lost_comes_back_and_what_is_wrong_there_is_named() {
    let (sample, names) = two();
    let store = kept(MemoryStore::default());
    let to = sample.vault.replicate(Box::new(store)).unwrap();
    copy_all(&sample.vault, &to).unwrap();
    let (lost, short) = (sample.packs[0].name(), sample.packs.last().unwrap().name());
    store.objects().remove(&lost).unwrap();
    let report = copy(&sample.vault, &to, &names, &context()).unwrap();
    assert_eq!((report.objects, report.bytes, report.snapshots_there), (1, sample.packs[0].size, 2));
    assert_sound(&to);
    store.objects().get_mut(&short).unwrap().pop();
    store.objects().remove(&names[1].object(SNAPSHOTS)).unwrap();
    let report = copy(&sample.vault, &to, &names, &context()).unwrap();
    assert_eq!((report.objects, report.snapshots_there, report.not_copied.len()), (0, 1, 1));
    assert!(report.not_copied[0].snapshot == names[1] && report.not_copied[0].why.contains(&short), "{report:?}");
    assert_eq!(to.snapshots().unwrap(), names[..1]);
}

#[test]
fn what_is_damaged_here_comes_from_another_replica_and_is_doubted_here() {
    for (how, damage) in damages() {
        let (sample, names) = two();
        let other = sample.vault.replicate(Box::new(kept(MemoryStore::default()))).unwrap();
        copy_all(&sample.vault, &other).unwrap();
        let object = sample.packs[0].name();
        damage(&sample, &object);
        let store = kept(MemoryStore::default());
        let to = sample.vault.replicate(Box::new(store)).unwrap();
        let elsewhere = |pack: &PackInfo| from_any([&sample.vault, &other], pack);
        let report =
            copy_with(&sample.vault, (&to, &mut Doubts::default()), &names, Some(&elsewhere), &context()).unwrap();
        assert_eq!((&report.snapshots, report.not_copied.len()), (&names, 0), "{how}: {report:?}");
        assert_sound(&to);
        // A doubt is about one vault, and a missing pack needs none.
        let doubted: Vec<_> = Doubts::read(&*sample.vault.store).packs().into_iter().collect();
        assert_eq!(doubted, if how == "delete" { vec![] } else { vec![object] }, "{how}");
        assert!(Doubts::read(&*to.store).packs().is_empty());
    }
}

#[test]
fn what_is_copied_onto_a_damaged_pack_is_named() {
    let (sample, names) = two();
    let store = kept(MemoryStore::default());
    let to = sample.vault.replicate(Box::new(store)).unwrap();
    copy(&sample.vault, &to, &names[..1], &context()).unwrap();
    let pack = sample.packs[0];
    let spoil = || store.objects().get_mut(&pack.name()).unwrap()[20] ^= 1;
    spoil();
    let as_who = (Finding::Verify, &to.user);
    Doubts::default().doubt(&to, &[(pack, "it is wrong".into())], as_who, &crate::monitor::system_random);
    let report = copy(&sample.vault, &to, &names[1..], &context()).unwrap();
    assert_eq!((&report.snapshots[..], report.not_copied.len(), report.hurt.len()), (&names[1..], 0, 1));
    assert!(report.hurt[0].why.contains("is damaged in memory:"), "{:?}", report.hurt);
    // A doubt that is wrong has no effect.
    spoil();
    assert_eq!(copy(&sample.vault, &to, &names[1..], &context()).unwrap().hurt, []);
}

/// A store in which some objects exist and are in no listing, like released ones.
struct Hiding(&'static MemoryStore, String);

impl Store for Hiding {
    fn url(&self) -> String {
        self.0.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> store::Result<()> {
        self.0.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> store::Result<Vec<u8>> {
        self.0.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> store::Result<Vec<u8>> {
        self.0.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> store::Result<Vec<Meta>> {
        Ok(self.0.list(folder)?.into_iter().filter(|object| object.name != self.1).collect())
    }
}

#[test]
fn no_root_is_created_over_a_pack_that_is_not_listed() {
    let (sample, names) = two();
    let object = sample.packs.last().unwrap().name();
    let store = kept(MemoryStore::default());
    store.create(&object, &[&sample.store.objects()[&object]]).unwrap();
    let to = sample.vault.replicate(Box::new(Hiding(store, object.clone()))).unwrap();
    let report = copy_all(&sample.vault, &to).unwrap();
    assert_eq!((&report.snapshots[..], to.snapshots().unwrap()), (&names[..1], names[..1].to_vec()));
    let lost = &report.not_copied[0];
    assert!(lost.snapshot == names[1] && lost.why.contains(&object) && lost.why.contains("missing"), "{report:?}");
}

#[test]
fn being_told_to_stop_stops_between_objects() {
    let (sample, _) = two();
    let stop: &'static AtomicBool = kept(AtomicBool::new(false));
    let store = kept(MemoryStore::default());
    drop(sample.vault.replicate(Box::new(store)).unwrap());
    let telling = FaultStore::new(store, |verb, _| {
        stop.store(verb == "create", Ordering::Relaxed);
        false
    });
    let to = Vault::open(Box::new(telling)).unwrap();
    let ctx = Context { stop, parallel: 1, ..context() };
    let why = copy(&sample.vault, &to, &lacking(&sample.vault, &to).unwrap(), &ctx).unwrap_err();
    assert!(why.what().contains("told to stop") && why.advice() == Some(AGAIN), "{why}");
    assert_eq!(store.objects().len(), 3, "one pack beside README.md and vault.json");
}

#[test]
fn one_listing_serves_many_roots() {
    let mut sample = SampleVault::new();
    let names: Vec<_> = (0..2 * GROUP_ROOTS + 1).map(|_| sample.commit(SnapshotState::Complete)).collect();
    let store = kept(RecordingStore::new(MemoryStore::default()));
    let to = sample.vault.replicate(Box::new(store)).unwrap();
    let report = copy(&sample.vault, &to, &names, &context()).unwrap();
    assert_eq!(report.snapshots, names);
    let lists = store.take().iter().filter(|call| call.verb == "list").count();
    // Doubts, packs, index packs and roots are listed at the beginning, then packs and index packs for each of three
    // groups.
    assert_eq!(lists, 4 + 3 * 2);
}
