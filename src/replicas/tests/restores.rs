//! Restores from several vaults: which one serves, and which snapshot.

use super::*;
use crate::vault::root::{FORMAT, Root};

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

    let why = world.restore(&world.options("2001-01-01T00:00:00Z")).unwrap_err();
    assert_eq!((why.kind(), why.word()), (Kind::Usage, "unknown-snapshot"));
    says(&why, &["one: ", "two: ", "not after 2001"]);
    one.away(true);
    two.store.objects().clear();
    let why = world.restore(&world.options("latest")).unwrap_err();
    says(&why, &["injected fault", "no vault.json"]);
    assert!(!world.target().exists());
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
    assert!(report.restored.warnings.iter().any(|what| what.contains("its root could not be read")), "{report:?}");
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
fn no_vault_gives_back_what_is_older_than_a_newer_format_in_another() {
    let world = World::new();
    let [one, two] = &world.places[..] else { panic!() };
    let oldest = world.backup().taken.snapshot;
    tick();
    tick();
    two.away(true);
    world.write("a", 2);
    let newest = world.backup().taken.snapshot;
    two.away(false);
    // Between the two, in the vault that lacks the newest one, and in the one that has it.
    for (place, word) in [(one, "damage"), (two, "newer-format")] {
        let root = place.vault().root(oldest).unwrap();
        let root = Root { format: FORMAT + 1, seq: oldest.seq + 1, ..root };
        let (between, bytes) = root.encode().unwrap();
        assert!(oldest < between && between < newest);
        place.store.create(&between.object(SNAPSHOTS), &[&bytes]).unwrap();
        assert_eq!(world.restore(&world.options("latest")).unwrap().restored.snapshot, newest);
        std::fs::remove_dir_all(world.target()).unwrap();
        let healthy = one.store.objects().clone();
        let known: Vec<_> = two.store.objects().keys().cloned().collect();
        let packs = healthy.keys().filter(|name| name.starts_with("packs/") && !known.contains(name));
        packs.for_each(|name| one.spoil(name));
        let why = world.restore(&world.options("latest")).unwrap_err();
        assert_eq!(why.word(), word, "{why}");
        says(&why, &["read packs/"]);
        assert!(!world.target().exists());
        let warned = world.heard.warnings();
        let warned =
            warned.iter().any(|what| what.contains("no older snapshot") && what.contains(&between.to_string()));
        assert!(warned, "{word}");
        *one.store.objects() = healthy;
        place.store.objects().remove(&between.object(SNAPSHOTS));
    }
}
