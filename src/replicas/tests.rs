//! Tests what several vaults hold after various failures, and which of them serves.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::backup::{ReplicaReport, back_up};
use super::*;
use crate::monitor::{CollectingMonitor, system_random};
use crate::restore::sample::context;
use crate::restore::tests::noise;
use crate::store::testing::fault::FaultStore;
use crate::store::testing::memory::MemoryStore;
use crate::vault::root::{SNAPSHOTS, SnapshotName};
use crate::vault::{CONFIG, README};
use crate::{backup as engine, restore as restoring, verify};

/// The calls that fail at a place: those with this verb whose object names have this prefix; an empty verb stands for
/// all verbs.
type Trouble = Arc<Mutex<Option<(&'static str, &'static str)>>>;

/// A place in memory that a test breaks.
struct Place {
    url: &'static str,
    store: &'static MemoryStore,
    trouble: Trouble,
    may_make: bool,
    /// Whether the place does not answer, instead of failing.
    unreachable: bool,
}

impl Place {
    fn new(url: &'static str) -> Self {
        Place { url, store: Box::leak(Box::default()), trouble: Trouble::default(), may_make: true, unreachable: false }
    }

    fn open(&self) -> Box<dyn Store> {
        let trouble = self.trouble.clone();
        let store = FaultStore::new(self.store, move |verb, name| {
            trouble
                .lock()
                .unwrap()
                .is_some_and(|(bad, prefix)| (bad.is_empty() || bad == verb) && name.starts_with(prefix))
        });
        Box::new(if self.unreachable { store.unreachable() } else { store })
    }

    fn site(&self) -> Site {
        Site::look(self.url.into(), self.may_make, Ok(self.open()))
    }

    fn fails(&self, verb: &'static str, prefix: &'static str) {
        *self.trouble.lock().unwrap() = Some((verb, prefix));
    }

    fn away(&self, away: bool) {
        *self.trouble.lock().unwrap() = away.then_some(("", ""));
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

fn holds(report: &backup::ReplicatedBackupReport) -> Vec<bool> {
    report.vaults.iter().map(|held| held.holds).collect()
}

#[track_caller]
fn says(why: &Error, what: &[&str]) {
    what.iter().for_each(|what| assert!(why.to_string().contains(what), "no {what:?} in {why}"));
}

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
        // It is told at once, and again at the end.
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
fn what_was_taken_while_a_vault_was_away_comes_to_it_later() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    let mut names = vec![world.backup().taken.snapshot];
    for (away, stays) in [(one, two), (two, one)] {
        away.away(true);
        for seed in 0..2 {
            world.write("b", seed);
            let report = world.backup();
            assert_eq!(report.vault, stays.url);
            names.push(report.taken.snapshot);
        }
        away.away(false);
        assert_eq!(away.names(), names[..names.len() - 2]);
        world.write("c", names.len() as u64);
        let report = world.backup();
        // The backup goes to the vault that has the newest snapshot, and the other one gets what it lacks.
        assert_eq!((report.vault.as_str(), holds(&report)), (stays.url, vec![true, true]));
        let at = world.places.iter().position(|place| place.url == away.url).unwrap();
        assert_eq!(report.vaults[at].copied_snapshots, 3);
        assert_eq!(report.taken.parent, names.last().copied());
        names.push(report.taken.snapshot);
        assert!(names.is_sorted_by(|a, b| a.seq < b.seq), "{names:?}");
        assert_eq!((one.names(), two.names()), (names.clone(), names.clone()));
        [one, two].iter().for_each(|place| place.is_sound());
    }
}

#[test]
fn a_new_replica_begins_with_the_newest_snapshot() {
    let mut world = World::new();
    let two = world.places.pop().unwrap();
    world.backup();
    world.backup();
    world.places.push(two);
    let report = world.backup();
    assert_eq!(world.places[1].names(), [report.taken.snapshot]);
    assert!(report.vaults[1].made && !report.vaults[0].made);
    let all = crate::replicas::copy::lacking(&world.places[0].vault(), &world.places[1].vault()).unwrap();
    assert_eq!(all.len(), 2);
}

/// Lets a second pass, so that numbers of two vaults that do not know each other differ.
fn tick() {
    std::thread::sleep(std::time::Duration::from_millis(1001));
}

#[test]
fn the_newest_is_the_newest_when_two_vaults_were_away_in_turn() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    world.backup();
    two.away(true);
    let mut names = Vec::new();
    for seed in 2..4 {
        tick();
        world.write("a", seed);
        names.push(world.backup().taken.snapshot);
    }
    two.away(false);
    one.away(true);
    tick();
    world.write("a", 4);
    names.push(world.backup().taken.snapshot);
    assert_eq!(two.names().len(), 2);
    one.away(false);
    assert!(names.is_sorted() && names.is_sorted_by_key(|name| name.seq), "{names:?}");
    assert_eq!(world.comes_back("two", 4).restored.snapshot, names[2]);
    // Each vault gets what it lacks, including the first one, whatever newer snapshots it has already.
    let last = world.backup();
    names.push(last.taken.snapshot);
    assert_eq!((last.vault.as_str(), holds(&last)), ("two", vec![true, true]));
    assert_eq!(last.vaults.iter().map(|held| held.copied_snapshots).collect::<Vec<_>>(), [2, 2]);
    assert_eq!((&one.names()[1..], one.names()), (&names[..], two.names()));
    [one, two].iter().for_each(|place| place.is_sound());
    // Nothing is lacking then.
    let last = world.backup();
    assert_eq!(last.vaults.iter().map(|held| held.copied_snapshots).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn copying_both_ways_leaves_the_newest_in_both() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    world.backup();
    for (seed, (away, _)) in (2..).zip([(two, one), (one, two)]) {
        away.away(true);
        tick();
        world.write("a", seed);
        world.backup();
        away.away(false);
    }
    for (from, to) in [(two, one), (one, two)] {
        let (from, to) = (from.vault(), to.vault());
        let names = crate::replicas::copy::lacking(&from, &to).unwrap();
        assert_eq!(crate::replicas::copy::copy(&from, &to, &names, &context()).unwrap().snapshots.len(), 1);
    }
    assert_eq!((one.names(), one.names().len()), (two.names(), 3));
    world.comes_back("one", 3);
}

/// Makes a snapshot that only `place` holds this many days older; returns its new name.
fn aged(place: &Place, name: SnapshotName, days: i64) -> SnapshotName {
    let mut root = place.vault().root(name).unwrap();
    root.finished = root.finished.checked_sub(jiff::SignedDuration::from_hours(24 * days)).unwrap();
    let (new, bytes) = root.encode().unwrap();
    place.store.objects().remove(&name.object(SNAPSHOTS)).unwrap();
    place.store.objects().insert(new.object(SNAPSHOTS), bytes);
    new
}

#[test]
fn a_backup_hands_on_the_last_7_days_from_whichever_vault_has_them() {
    let mut world = World::new();
    world.places.push(Place::new("three"));
    let [one, two, three] = &world.places[..] else { panic!() };
    let first = world.backup().taken.snapshot;
    let mut names = Vec::new();
    for (seed, days) in [(2, 8), (3, 6)] {
        [one, two].iter().for_each(|place| place.away(true));
        world.write("a", seed);
        names.push(aged(three, world.backup().taken.snapshot, days));
        [one, two].iter().for_each(|place| place.away(false));
    }
    let fourth = world.backup();
    assert_eq!((fourth.vault.as_str(), holds(&fourth)), ("three", vec![true, true, true]));
    let new = fourth.taken.snapshot;
    let expected = [first, names[1], new];
    assert_eq!((&one.names()[..], &two.names()[..]), (&expected[..], &expected[..]));
    assert_eq!(three.names(), [first, names[0], names[1], new]);
    // If one vault cannot give a snapshot whole, another one does.
    one.store.objects().remove(&names[1].object(SNAPSHOTS)).unwrap();
    two.spoil(&names[1].object(SNAPSHOTS));
    assert_eq!(world.backup().vaults[0].copied_snapshots, 1);
    assert!(one.names().contains(&names[1]));
    [one, three].iter().for_each(|place| place.is_sound());
}

/// A store in which one object exists and is in no listing, like an object that was let go.
struct Released(Box<dyn Store>, String);

impl Store for Released {
    fn url(&self) -> String {
        self.0.url()
    }
    fn create(&self, name: &str, body: &[&[u8]]) -> crate::store::Result<()> {
        assert!(name != self.1, "it is created anew");
        self.0.create(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> crate::store::Result<Vec<u8>> {
        self.0.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, length: u64) -> crate::store::Result<Vec<u8>> {
        self.0.get_range(name, offset, length)
    }
    fn list(&self, folder: &str) -> crate::store::Result<Vec<crate::store::Meta>> {
        Ok(self.0.list(folder)?.into_iter().filter(|object| object.name != self.1).collect())
    }
}

#[test]
fn what_was_let_go_in_a_vault_does_not_come_back_to_it() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    world.backup();
    world.write("a", 2);
    let second = world.backup().taken.snapshot;
    let options = engine::options::BackupOptions {
        data: world.folder.path().join("data"),
        ..engine::options::BackupOptions::default()
    };
    for at in [0, 1] {
        let released = |place: &Place| Released(place.open(), second.object(SNAPSHOTS));
        let site = |place: &Place, it: bool| match it {
            true => Site::look(place.url.into(), true, Ok(Box::new(released(place)))),
            false => place.site(),
        };
        let report = back_up(vec![site(one, at == 0), site(two, at == 1)], &options, &world.context()).unwrap();
        assert_eq!(holds(&report), [true, true]);
        assert_eq!(report.vaults.iter().map(|held| held.copied_snapshots).sum::<u64>(), 1, "{report:?}");
    }
    assert_eq!(world.heard.warnings(), [""; 0]);
}

#[test]
fn no_vault_is_made_where_another_may_be() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    one.away(true);
    let why = world.try_backup().unwrap_err();
    says(&why, &["not known whether one", "lastgood init --vault two"]);
    assert!(two.store.objects().is_empty());
    // Somebody who knows says so; the first vault becomes a replica when it is back.
    init(vec![two.site()], &context()).unwrap();
    let first = world.backup();
    assert_eq!(holds(&first), [false, true]);
    one.away(false);
    let second = world.backup();
    assert_eq!((second.vault.as_str(), holds(&second)), ("two", vec![true, true]));
    assert_eq!(one.vault().config, two.vault().config);
}

#[test]
fn a_place_that_cannot_be_written_to_is_passed_over() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    one.fails("create", "");
    let report = world.backup();
    assert_eq!((report.vault.as_str(), holds(&report)), ("two", vec![false, true]));
    assert!(one.store.objects().is_empty());
    two.fails("create", "");
    let why = world.try_backup().unwrap_err();
    says(&why, &["none of the 2 vaults", "one: ", "two: ", "injected fault"]);
    assert_eq!(two.names(), [report.taken.snapshot]);
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

#[test]
fn different_vaults_are_refused() {
    let world = World::new();
    for place in &world.places {
        Vault::init(Box::new(place.store), system_random).unwrap();
    }
    let ids: Vec<_> = world.places.iter().map(|place| place.vault().config.id.to_string()).collect();
    let what = ["one by one", &*ids[0], &*ids[1]];
    let refused = |why: Error| {
        assert_eq!(why.kind(), Kind::Usage);
        says(&why, &what);
    };
    refused(world.try_backup().unwrap_err());
    refused(world.restore(&world.options("latest")).unwrap_err());
    refused(init(world.sites(), &context()).err().unwrap());
    world.places.iter().for_each(|place| assert_eq!(place.names(), []));
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
    let stopping = |fails| Site::look("two".into(), true, Ok(Box::new(Stopping(two.store, stop, fails))));
    let report = back_up(vec![one.site(), stopping(false)], &options, &Context { stop, ..context() }).unwrap();
    assert_eq!(holds(&report), [true, false]);
    assert!(report.vaults[1].why.as_ref().unwrap().contains("told to stop"), "{report:?}");
    assert_eq!((one.names(), two.names()), (vec![report.taken.snapshot], vec![]));

    // While the snapshot is taken, being told to stop is an error, and no reason to take the next vault.
    stop.store(false, Ordering::Relaxed);
    world.write("b", 7);
    let first = Site::look("one".into(), true, Ok(Box::new(Stopping(one.store, stop, true))));
    let why = back_up(vec![first, two.site()], &options, &Context { stop, ..context() }).unwrap_err();
    says(&why, &["told to stop"]);
    assert_eq!((one.names().len(), two.names().len()), (1, 0));
}

#[test]
fn a_restore_takes_the_newest_that_any_vault_has() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    let first = world.backup().taken.snapshot;
    one.away(true);
    world.write("a", 2);
    let second = world.backup().taken.snapshot;
    let report = world.comes_back("two", 2);
    assert!(report.restored.warnings[0].contains("one is passed over") && report.restored.snapshot == second);
    one.away(false);
    let report = world.comes_back("two", 2);
    let said = &report.restored.warnings[0];
    assert!(said.contains(&format!("{second}, is in two")) && said.contains(&format!("one has is {first}")), "{said}");
    assert_eq!(world.heard.warnings().iter().filter(|told| *told == said).count(), 1);
    assert_eq!(report.restored.snapshot, second);
    // If the newest cannot be had there, the restore takes an earlier one, with a warning.
    two.fails("range", "packs/");
    let report = world.comes_back("one", 1);
    assert!(report.restored.warnings[1].contains("the vault two does not give"), "{report:?}");
    two.away(false);
    let report = world.restore(&world.options(&second.id.to_string())).unwrap();
    assert_eq!((report.vault.as_str(), report.restored.snapshot), ("two", second));

    let why = world.restore(&world.options("2001-01-01")).unwrap_err();
    assert_eq!(why.kind(), Kind::Usage);
    says(&why, &["one: ", "two: ", "not after 2001"]);
    one.away(true);
    two.store.objects().clear();
    let why = world.restore(&world.options("latest")).unwrap_err();
    says(&why, &["injected fault", "no vault.json"]);
    assert!(!world.target().exists());
}

#[test]
fn a_snapshot_is_whole_also_where_a_pack_of_an_earlier_one_is_damaged() {
    let world = World::new();
    let first = world.backup().taken.snapshot;
    let [one, two] = &world.places[..] else { panic!() };
    one.spoil("packs/");
    assert_eq!(verify::verify(&one.vault(), &verify::VerifyOptions::default(), &context()).unwrap().doubts.len(), 1);
    // A snapshot that is taken while the first vault is away builds on what the other one has.
    one.away(true);
    tick();
    world.write("b", 2);
    let away = world.backup().taken.snapshot;
    one.away(false);
    tick();
    world.write("c", 3);
    let report = world.backup();
    assert_eq!((report.vault.as_str(), holds(&report)), ("two", vec![true, true]));
    let said = report.taken.warnings.iter().filter(|what| what.contains("in one, packs/")).count();
    assert!(said == 1 && report.taken.warnings.len() == 1, "{report:?}");
    // The snapshot that was taken before is copied, with a warning that it cannot be had whole there.
    assert_eq!((one.names(), two.names()), (vec![first, away, report.taken.snapshot], one.names()));
    let what = format!("{away} is copied and cannot be had whole: packs/");
    assert!(world.heard.warnings().iter().any(|heard| heard.contains(&what)), "{:?}", world.heard.warnings());
    let restored = restoring::restore(&one.vault(), &world.options("latest"), &world.context()).unwrap();
    assert_eq!((restored.snapshot, restored.files, restored.instead_of), (report.taken.snapshot, 3, None));
    // After that, the warning does not come again.
    tick();
    world.write("d", 4);
    let report = world.backup();
    assert_eq!((holds(&report), report.taken.warnings), (vec![true, true], vec![]));
    two.is_sound();
}

#[test]
fn a_database_comes_whole_also_where_its_map_is_damaged() {
    let world = World::new();
    let database = rusqlite::Connection::open(world.folder.path().join("data/app.db")).unwrap();
    database.execute_batch("create table t(x); insert into t values (zeroblob(1500000))").unwrap();
    world.backup();
    let [one, _] = &world.places[..] else { panic!() };
    one.spoil("index/");
    verify::verify(&one.vault(), &verify::VerifyOptions::default(), &context()).unwrap();
    one.away(true);
    for row in 0..3 {
        tick();
        database.execute("insert into t values (?1)", [row]).unwrap();
        assert_eq!(holds(&world.backup()), [row > 0, true], "{row}");
        one.away(false);
    }
    let newest = *one.names().last().unwrap();
    let found = verify::verify(&one.vault(), &verify::VerifyOptions::default(), &context()).unwrap();
    assert!(!found.damage.iter().any(|damage| damage.snapshots.contains(&newest)), "{:?}", found.damage);
}

#[test]
fn a_restore_goes_on_to_the_next_vault_when_one_turns_out_to_be_damaged() {
    for object in ["packs/", "index/", SNAPSHOTS, CONFIG] {
        let world = World::new();
        world.backup();
        let healthy = world.places[1].store.objects().clone();
        world.places[0].spoil(object);
        let report = world.comes_back("two", 1);
        assert!(report.restored.warnings.iter().any(|what| what.contains("one")), "{object}: {report:?}");
        assert!(report.restored.not_restored.is_empty());
        // Nothing is skipped that another vault has.
        let skip = restoring::options::RestoreOptions { skip_damaged: true, ..world.options("latest") };
        assert_eq!(world.restore(&skip).unwrap().vault, "two");

        // The store may fail in the middle, too.
        *world.places[0].store.objects() = healthy.clone();
        world.places[0].fails("range", "packs/");
        world.comes_back("two", 1);

        world.places[0].away(false);
        world.places.iter().for_each(|place| place.spoil(object));
        let why = world.restore(&world.options("latest")).unwrap_err();
        says(&why, &["one: ", "two: "]);
        assert!(!world.target().exists());
    }
}

#[test]
fn a_root_that_is_damaged_everywhere_is_not_passed_over_in_silence() {
    let world = World::new();
    let older = world.backup().taken.snapshot;
    tick();
    world.write("b", 2);
    let newest = world.backup().taken.snapshot;
    let [one, two] = &world.places[..] else { panic!() };
    one.spoil(&newest.object(SNAPSHOTS));
    let report = world.comes_back("two", 1);
    assert_eq!((report.restored.snapshot, report.restored.instead_of), (newest, None));
    assert!(report.restored.warnings.iter().any(|what| what.contains("there its root is damaged")), "{report:?}");
    // A snapshot that lies in no other vault may be the one that was meant.
    let root = two.store.objects().remove(&newest.object(SNAPSHOTS)).unwrap();
    let report = world.comes_back("one", 1);
    assert_eq!((report.restored.snapshot, report.restored.instead_of), (older, Some(newest)));
    assert_eq!(report.restored.passed_over.iter().map(|over| over.snapshot).collect::<Vec<_>>(), [newest]);
    two.store.objects().insert(newest.object(SNAPSHOTS), root);
    two.spoil(&newest.object(SNAPSHOTS));
    let report = world.comes_back("one", 1);
    assert_eq!((report.restored.snapshot, report.restored.instead_of), (older, Some(newest)));
    // The same happens with one vault alone.
    let alone = restoring::restore(&one.vault(), &world.options("latest"), &world.context()).unwrap();
    assert_eq!((alone.snapshot, alone.instead_of, alone.passed_over.len()), (older, Some(newest), 1));
    let told = format!("{newest} is passed over: its root is damaged");
    assert!(world.heard.warnings().iter().filter(|what| what.contains(&told)).count() >= 3);
}

#[test]
fn a_restore_that_depends_never_goes_back_behind_what_is_there() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    world.backup();
    let known: Vec<_> = one.store.objects().keys().cloned().collect();
    tick();
    std::fs::create_dir(world.target()).unwrap();
    let there = std::fs::File::create(world.target().join("row")).unwrap();
    there.set_modified(std::time::SystemTime::now()).unwrap();
    tick();
    world.write("b", 2);
    world.backup();
    let new: Vec<_> = one.store.objects().keys().filter(|name| !known.contains(name)).cloned().collect();
    new.iter()
        .filter(|name| name.starts_with("packs/"))
        .for_each(|name| world.places.iter().for_each(|p| p.spoil(name)));
    let only = restoring::options::Only { missing: false, older: Some(std::time::Duration::ZERO) };
    let options = restoring::options::RestoreOptions { only, ..world.options("latest") };
    let several = restore::restore(world.sites(), &options, &world.context()).unwrap_err();
    let alone = restoring::restore(&two.vault(), &options, &world.context()).unwrap_err();
    for why in [several, alone] {
        assert_eq!(why.kind(), Kind::Damage, "{why}");
        assert_eq!(std::fs::read_dir(world.target()).unwrap().count(), 1);
    }
    assert!(
        restore::restore(world.sites(), &world.options("latest"), &context()).unwrap().restored.instead_of.is_some()
    );
}

#[test]
fn a_newest_root_that_only_one_vault_has_and_does_not_give_is_not_passed_over_in_silence() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    let older = world.backup().taken.snapshot;
    two.away(true);
    tick();
    world.write("a", 2);
    let newest = world.backup().taken.snapshot;
    two.away(false);
    world.comes_back("one", 2);
    // Only the first vault lists it, and the roots there cannot be read.
    one.fails("get", SNAPSHOTS);
    let report = world.comes_back("two", 1);
    assert_eq!((report.restored.snapshot, report.restored.instead_of), (older, Some(newest)));
    assert_eq!(report.restored.passed_over.iter().map(|over| over.snapshot).collect::<Vec<_>>(), [newest]);
    assert!(report.restored.warnings.iter().any(|what| what.contains("it could not be looked at")), "{report:?}");
    let (_, preview) = restore::preview(world.sites(), &world.options("latest"), &context()).unwrap();
    assert_eq!(preview.passed_over.len(), 1);
    // A time before it does not mean it, and neither does a name.
    for spec in [older.time.to_string(), older.id.to_string()] {
        assert_eq!(world.restore(&world.options(&spec)).unwrap().restored.instead_of, None, "{spec}");
    }
    // Another vault knows that it is not good; what else the first one has is not known.
    one.away(false);
    std::fs::remove_file(world.folder.path().join("data/a")).unwrap();
    tick();
    let suspect = world.backup().taken;
    assert!(!suspect.good, "{suspect:?}");
    two.store.objects().remove(&newest.object(SNAPSHOTS)).unwrap();
    one.fails("get", SNAPSHOTS);
    let report = world.comes_back("two", 1);
    assert_eq!((report.restored.snapshot, report.restored.instead_of), (older, Some(newest)));
    one.store.objects().remove(&newest.object(SNAPSHOTS)).unwrap();
    assert_eq!(world.comes_back("two", 1).restored.instead_of, None);
    // One vault has no good snapshot at all, and one whose root is damaged.
    one.away(false);
    one.store.objects().retain(|name, _| !name.starts_with(SNAPSHOTS));
    one.store.create(&newest.object(SNAPSHOTS), &[b"damaged"]).unwrap();
    assert_eq!(world.comes_back("two", 1).restored.instead_of, Some(newest));
}

#[test]
fn what_no_vault_has_whole_is_skipped_when_that_is_asked_for() {
    let world = World::new();
    // The file is longer than a frame, so that its end lies in another frame than the file before it.
    std::fs::write(world.folder.path().join("data/b"), noise(5 << 20, 9)).unwrap();
    world.backup();
    for place in &world.places {
        for (_, bytes) in place.store.objects().iter_mut().filter(|(name, _)| name.starts_with("packs/")) {
            let at = bytes.len() - 10_000;
            bytes[at] ^= 0xff;
        }
    }
    let why = world.restore(&world.options("latest")).unwrap_err();
    assert_eq!(why.kind(), Kind::Damage);
    says(&why, &["one: ", "two: ", "--skip-damaged"]);
    let skip = restoring::options::RestoreOptions { skip_damaged: true, ..world.options("latest") };
    let report = world.restore(&skip).unwrap();
    assert_eq!((report.vault.as_str(), report.restored.not_restored.len()), ("one", 1));
    assert!(std::fs::read(world.target().join("a")).unwrap() == noise(20_000, 1));
}

#[test]
fn one_vault_is_made_and_the_others_become_replicas_of_it() {
    let mut world = World::new();
    world.places.push(Place::new("three"));
    let made = |places: &[InitReport]| places.iter().map(|place| place.made).collect::<Vec<_>>();
    world.places[1].away(true);
    assert!(init(world.sites(), &context()).is_err());
    assert!(world.places[0].store.objects().is_empty(), "nothing is made before all were asked");
    world.places[1].away(false);
    let (vault, places) = init(vec![world.places[1].site()], &context()).unwrap();
    assert_eq!(made(&places), [true]);
    let (same, places) = init(world.sites(), &context()).unwrap();
    assert_eq!((same.config, made(&places)), (vault.config, vec![true, false, true]));
    let names: Vec<_> = world.places[2].store.objects().keys().cloned().collect();
    assert_eq!(names, [README, CONFIG]);
    let why = init(world.sites(), &context()).err().unwrap();
    says(&why, &["exists there already"]);
}

#[test]
fn the_first_vault_that_opens_is_used() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    init(world.sites(), &context()).unwrap();
    one.spoil(CONFIG);
    let vault = first(world.sites(), &world.context()).unwrap();
    assert_eq!(vault.config, two.vault().config);
    assert!(world.heard.warnings()[0].contains("the vault one is passed over"));
    // The vaults after it are not asked.
    *one.store.objects() = two.store.objects().clone();
    let mut asked = Vec::new();
    let sites = world.places.iter().map(|place| {
        asked.push(place.url);
        place.site()
    });
    first(sites, &world.context()).unwrap();
    assert_eq!(asked, ["one"]);
    world.places.iter().for_each(|place| place.spoil(CONFIG));
    let why = first(world.sites(), &world.context()).err().unwrap();
    assert_eq!(why.kind(), Kind::Damage);
    says(&why, &["one: ", "two: "]);
}
