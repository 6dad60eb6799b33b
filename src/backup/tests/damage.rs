//! Objects that are lost or damaged, and a store that fails.

use super::*;

#[test]
fn nothing_is_built_on_an_index_pack_in_which_damage_was_met() {
    let world = World::new();
    world.write("large", &noise(1, 3_000_000));
    (0..1500).for_each(|n| world.write(&format!("{n:04}"), &noise(n, 20)));
    world.backup();
    let index: Vec<_> = world.store.list("index/").unwrap().into_iter().map(|pack| (pack.name, pack.size)).collect();
    let healthy = world.store.inner().objects().clone();
    let mut met = 0;
    for (name, size) in &index {
        for part in 0..8 {
            *world.store.inner().objects() = healthy.clone();
            let at = (size * part / 8 + size / 16) as usize;
            world.store.inner().objects().get_mut(name).unwrap()[at] ^= 0x55;
            // Its content is unchanged, and is read.
            age(&world.data.path().join("large"));
            let report = world.backup();
            let ctx =
                Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
            let found = crate::verify::verify(&world.vault, &Default::default(), &ctx).unwrap();
            let hurt = found.damage.iter().any(|damage| damage.snapshots.contains(&report.snapshot));
            assert!(!hurt || report.warnings.is_empty(), "{name} at {at}: {:?} {:?}", report.warnings, found.damage);
            met += u32::from(!report.warnings.is_empty());
        }
    }
    assert!(met > 2, "{met}");
}

#[test]
fn one_object_that_cannot_be_read_keeps_nobody_from_a_backup() {
    for folder in ["snapshots/", "checkpoints/", "index/", "packs/", "doubts/"] {
        let mut world = World::new();
        world.write("busy", &noise(3, 6_000_000));
        world.backup();
        let path = world.data.path().join("busy");
        never_rests(&path);
        world.monitor = Arc::new(Always(path, never_rests));
        assert_eq!(world.backup().stale.len(), 1);
        world.monitor = Arc::new(SilentMonitor);
        let fault = crate::store::testing::fault::FaultStore::new(world.store.clone(), move |verb, name| {
            verb != "create" && verb != "list" && name.starts_with(folder)
        });
        let vault = Vault::open(Box::new(fault.unreadable())).unwrap();
        let ctx =
            Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
        let report = backup(&vault, &world.options, &ctx).unwrap();
        assert_eq!((report.state, report.good), (SnapshotState::Complete, true), "{folder}");
    }
}

#[test]
fn checkpoints_that_cannot_be_listed_keep_nobody_from_a_backup() {
    let world = World::new();
    world.write("a", b"a");
    world.backup();
    let plan = |verb: &str, name: &str| verb == "list" && name == "checkpoints/";
    let vault =
        Vault::open(Box::new(crate::store::testing::fault::FaultStore::new(world.store.clone(), plan))).unwrap();
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
    let report = backup(&vault, &world.options, &ctx).unwrap();
    assert!(
        report.good && report.warnings.iter().any(|what| what.contains("no checkpoint is built upon")),
        "{report:?}"
    );
}

#[test]
fn checkpoints_that_cannot_be_written_keep_nobody_from_a_backup() {
    let mut world = World::new();
    for n in 0..200u64 {
        world.write(&format!("{:02}/{n}", n % 40), &noise(n, 3000));
    }
    world.options.checkpoint_every = Duration::ZERO;
    let plan = |verb: &str, name: &str| verb == "create" && name.starts_with("checkpoints/");
    let vault =
        Vault::open(Box::new(crate::store::testing::fault::FaultStore::new(world.store.clone(), plan))).unwrap();
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
    let report = backup(&vault, &world.options, &ctx).unwrap();
    let told = report.warnings.iter().filter(|what| what.contains("commit checkpoints/")).count();
    assert_eq!((report.good, report.files, told), (true, 200, 1), "{report:?}");
}

#[test]
fn content_of_a_lost_pack_is_stored_again() {
    for folder in ["packs/", "index/"] {
        let world = World::new();
        world.write("a", &noise(1, 5_000_000));
        world.write("b", &noise(2, 100));
        let first = world.backup();
        let pack = world.store.list(folder).unwrap()[0].name.clone();
        world.store.inner().objects().remove(&pack);
        world.write("c", b"new");
        let second = world.backup();
        assert_eq!((second.state, second.parent), (SnapshotState::Complete, Some(first.snapshot)));
        assert!(second.warnings.iter().any(|w| w.contains("stored again")), "{:?}", second.warnings);
        assert!(world.content(second.snapshot, "a") == noise(1, 5_000_000));
        assert_eq!(world.content(second.snapshot, "b"), noise(2, 100));
        let third = world.backup();
        assert_eq!((third.parent, third.new_packs, third.warnings.len()), (Some(second.snapshot), 0, 0));
    }
}

#[test]
fn a_store_that_fails_ends_the_backup_and_nothing_waits_for_ever() {
    let world = World::new();
    for n in 0..3000u64 {
        world.write(&format!("{:02}/{n}", n % 50), &noise(n, 12_000));
    }
    world.write("20/large", &noise(1, 20_000_000));
    let packs = |verb: &str, name: &str| verb == "create" && name.starts_with("packs/");
    for _ in 0..10 {
        let store = crate::store::testing::fault::FaultStore::new(world.store.clone(), packs);
        let vault = Vault::open(Box::new(store)).unwrap();
        let ctx =
            Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &*world.monitor };
        let said = backup(&vault, &world.options, &ctx).unwrap_err().to_string();
        assert!(said.contains("injected fault"), "{said}");
        assert_eq!(world.vault.snapshots().unwrap(), []);
    }
    assert_eq!(world.backup().files, 3001);
}
