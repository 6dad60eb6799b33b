//! Backups into several vaults: which one takes the snapshot, and what the others get.

use super::*;
use crate::replicas::backup::ReplicaReport;

#[test]
fn all_hold_the_snapshot_and_any_gives_it_back() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    let first = world.backup();
    assert_eq!((first.vault.as_str(), holds(&first)), ("one", vec![true, true]));
    assert!(first.vaults.iter().all(|held| held.made && held.why.is_none()));
    assert_eq!(*one.store.objects(), *two.store.objects());
    world.write("b", 2);
    let second = world.backup();
    let ReplicaReport { copied_snapshots, copied_objects, copied_bytes, made, .. } = second.vaults[1].clone();
    assert_eq!((copied_snapshots, copied_objects, made), (1, second.taken.new_packs + 1, false));
    assert_eq!((copied_bytes, second.vaults[0].copied_bytes), (second.taken.uploaded_bytes, 0));
    assert_eq!(*one.store.objects(), *two.store.objects());
    assert_eq!((second.taken.warnings.len(), world.heard.warnings().len()), (0, 0));

    world.comes_back("one", 1);
    one.store.objects().clear();
    world.comes_back("two", 1);
    assert!(world.heard.warnings().last().unwrap().contains("no vault.json"));
    // The place that lost everything becomes a replica again, with what matters most: the newest snapshot.
    let third = world.backup();
    assert_eq!((third.vault.as_str(), third.taken.parent), ("two", Some(second.taken.snapshot)));
    assert_eq!((holds(&third), one.names()), (vec![true, true], vec![third.taken.snapshot]));
    [one, two].iter().for_each(|place| place.is_sound());
    world.comes_back("one", 1);
}

#[test]
fn the_next_vault_takes_over_wherever_the_first_one_fails() {
    let calls = [
        ("get", CONFIG),
        ("list", SNAPSHOTS),
        ("get", SNAPSHOTS),
        ("range", "index/"),
        ("create", "packs/"),
        ("create", "index/"),
        ("create", SNAPSHOTS),
    ];
    for (unreachable, (verb, name)) in [false, true].into_iter().flat_map(|away| calls.map(|call| (away, call))) {
        // Content that merely cannot be read from the parent is stored again.
        if (unreachable, verb) == (false, "range") {
            continue;
        }
        let mut world = World::new();
        world.places[0].unreachable = unreachable;
        let [one, two] = &world.places[..] else { panic!() };
        let first = world.backup();
        world.write("b", 2);
        one.fails(verb, name);
        let second = world.backup();
        assert_eq!((second.vault.as_str(), holds(&second)), ("two", vec![false, true]), "{verb} {name}");
        let why = second.vaults[0].why.as_ref().unwrap();
        assert!(why.contains("injected fault"), "{why}");
        // It is reported at once, and again at the end.
        let told = |text: &&String| text.contains("the vault one");
        assert_eq!(world.heard.warnings().iter().filter(told).count(), 1, "{:?}", world.heard.warnings());
        assert_eq!(second.taken.warnings.iter().filter(told).count(), 2, "{:?}", second.taken.warnings);
        assert_eq!(second.taken.parent, Some(first.taken.snapshot));
        assert!(second.taken.snapshot.seq > first.taken.snapshot.seq);
        assert_eq!(one.names(), [first.taken.snapshot]);
        two.is_sound();
        one.away(false);
        one.is_sound();
        let third = world.backup();
        // The backup goes to the vault that has the newest snapshot.
        assert_eq!((third.vault.as_str(), holds(&third)), ("two", vec![true, true]));
        assert!(third.taken.snapshot > second.taken.snapshot);
        assert_eq!(world.comes_back("one", 1).restored.snapshot, third.taken.snapshot);
    }
}

#[test]
fn what_is_wrong_with_the_first_vault_is_an_error_and_with_another_one_a_warning() {
    let mut world = World::new();
    world.backup();
    let healthy = world.places[0].store.objects().clone();
    // The vault is damaged, has lost its vault.json, has something else in its place, or may not be made unasked.
    type Break = fn(&mut Place);
    let breaks: [(Break, &str); 4] = [
        (|place| place.spoil(CONFIG), "vault.json: "),
        (|place| drop(place.store.objects().remove(CONFIG)), "vault.json is missing"),
        (
            |place| {
                place.store.objects().clear();
                place.store.create("thesis.tex", &[b"alone"]).unwrap();
            },
            "thesis.tex",
        ),
        (
            |place| {
                place.store.objects().clear();
                place.may_make = false;
            },
            "no vault.json",
        ),
    ];
    for at in [0, 1] {
        for (spoil, what) in breaks {
            world.places.iter_mut().for_each(|place| {
                *place.store.objects() = healthy.clone();
                place.may_make = true;
            });
            spoil(&mut world.places[at]);
            let before = world.places[at].store.objects().clone();
            let done = world.try_backup();
            assert_eq!(*world.places[at].store.objects(), before, "{at} {what}");
            match (at, done) {
                (0, Err(why)) => says(&why, &[what]),
                (1, Ok(report)) => {
                    assert_eq!(holds(&report), [true, false]);
                    assert!(report.vaults[1].why.as_ref().unwrap().contains(what), "{report:?}");
                }
                (_, done) => panic!("{at} {what}: {done:?}"),
            }
        }
    }
}

#[test]
fn an_error_of_the_source_does_not_go_on_to_the_next_vault() {
    let world = World::new();
    world.backup();
    std::fs::remove_dir_all(world.folder.path().join("data")).unwrap();
    let why = world.try_backup().unwrap_err();
    says(&why, &["does not exist"]);
    assert!(world.heard.warnings().is_empty());
    world.places.iter().for_each(|place| assert_eq!(place.names().len(), 1));
}

/// A store that tells the program to stop when a pack is to be created in it, and then creates the pack or does not.
struct Stopping(&'static MemoryStore, &'static AtomicBool, bool);

impl Store for Stopping {
    fn url(&self) -> String {
        self.0.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> crate::store::Result<()> {
        if name.starts_with("packs/") {
            self.1.store(true, Ordering::Relaxed);
            if self.2 {
                let source = std::io::Error::other("it was told to stop");
                return Err(crate::store::StoreError::Failed { doing: format!("create {name}"), source });
            }
        }
        self.0.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> crate::store::Result<Vec<u8>> {
        self.0.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> crate::store::Result<Vec<u8>> {
        self.0.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> crate::store::Result<Vec<crate::store::Meta>> {
        self.0.list(folder)
    }
}

#[test]
fn a_backup_that_is_stopped_while_it_is_copied_has_been_taken() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    let stop: &'static AtomicBool = Box::leak(Box::default());
    let options = engine::options::BackupOptions {
        data: world.folder.path().join("data"),
        ..engine::options::BackupOptions::default()
    };
    let stopping = |fails| Site::probe("two".into(), true, Ok(Box::new(Stopping(two.store, stop, fails))));
    let report = back_up(vec![one.site(), stopping(false)], &options, &Context { stop, ..context() }).unwrap();
    assert_eq!(holds(&report), [true, false]);
    assert!(report.vaults[1].why.as_ref().unwrap().contains("told to stop"), "{report:?}");
    assert_eq!((one.names(), two.names()), (vec![report.taken.snapshot], vec![]));

    // While the snapshot is taken, being told to stop is an error, and no reason to take the next vault.
    stop.store(false, Ordering::Relaxed);
    world.write("b", 7);
    let first = Site::probe("one".into(), true, Ok(Box::new(Stopping(one.store, stop, true))));
    let why = back_up(vec![first, two.site()], &options, &Context { stop, ..context() }).unwrap_err();
    says(&why, &["told to stop"]);
    assert_eq!((one.names().len(), two.names().len()), (1, 0));
}
