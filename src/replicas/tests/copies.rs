//! What vaults get from one another, after they were away or were made later.

use super::*;

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
            true => Site::probe(place.url.into(), true, Ok(Box::new(released(place)))),
            false => place.site(),
        };
        let report = back_up(vec![site(one, at == 0), site(two, at == 1)], &options, &world.context()).unwrap();
        assert_eq!(holds(&report), [true, true]);
        assert_eq!(report.vaults.iter().map(|held| held.copied_snapshots).sum::<u64>(), 1, "{report:?}");
    }
    assert_eq!(world.heard.warnings(), [""; 0]);
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
    let what = format!("{away} is copied, but cannot be restored whole from there: packs/");
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
