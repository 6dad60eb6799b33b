//! When a snapshot is committed, under which number, and with which state.

use super::*;

#[test]
fn an_empty_or_halved_directory_is_suspect_and_no_parent() {
    let mut world = World::new();
    let empty = world.backup();
    assert_eq!(empty.state, SnapshotState::Suspect);
    for n in 0..10 {
        world.write(&format!("f{n}"), &noise(n, 100));
    }
    let good = world.backup();
    assert_eq!((good.state, good.parent), (SnapshotState::Complete, None));
    // In the same place it may become smaller, which is reported.
    for n in 0..7 {
        fs::remove_file(world.data.path().join(format!("f{n}"))).unwrap();
    }
    let halved = world.backup();
    assert_eq!((halved.state, halved.parent), (SnapshotState::Complete, Some(good.snapshot)));
    assert!(halved.warnings[0].contains("less than half"), "{:?}", halved.warnings);
    for n in 0..40 {
        world.write(&format!("g{n}"), &noise(n, 100));
    }
    let good = world.backup();
    for n in 0..40 {
        fs::remove_file(world.data.path().join(format!("g{n}"))).unwrap();
    }
    let mut before = good.snapshot;
    for _ in 0..2 {
        let wiped = world.backup();
        assert_eq!((wiped.state, wiped.parent), (SnapshotState::Suspect, Some(good.snapshot)));
        assert!(wiped.suspect.unwrap().contains("less than a tenth"));
        // It has a turn of its own, so that unread files have their turn even while snapshots are suspect.
        let turn = |name| world.vault.root(name).unwrap().turn.unwrap();
        assert_eq!(turn(wiped.snapshot), turn(before) + 1);
        assert!(before < wiped.snapshot);
        before = wiped.snapshot;
    }
    world.options.accept_shrink = true;
    let meant = world.backup();
    assert_eq!((meant.state, meant.parent), (SnapshotState::Complete, Some(good.snapshot)));
    world.options.accept_shrink = false;
    assert_eq!(world.backup().state, SnapshotState::Complete);

    // Another directory, which holds less than half, was put into its place: it is another place.
    for n in 0..10 {
        world.write(&format!("h{n}"), &noise(n, 100_000));
    }
    world.backup();
    let data = world.data.path();
    fs::rename(data, data.with_extension("was")).unwrap();
    fs::create_dir(data).unwrap();
    for n in 0..5 {
        world.write(&format!("i{n}"), &noise(n, 90_000));
    }
    let other = world.backup();
    assert_eq!(other.state, SnapshotState::Suspect);
    assert!(other.suspect.unwrap().contains("not the directory of the last"));
    // Its content is sent once.
    let again = world.backup();
    assert_eq!((again.state, again.read_bytes < 100_000), (SnapshotState::Suspect, true));
    assert!(again.uploaded_bytes < 20_000, "{}", again.uploaded_bytes);
    fs::remove_dir_all(data.with_extension("was")).unwrap();

    fs::remove_dir_all(world.data.path()).unwrap();
    let said = world.try_backup().unwrap_err().to_string();
    assert!(said.contains("does not exist"), "{said}");
    fs::create_dir(world.data.path()).unwrap();
}

#[test]
fn a_restore_that_is_at_work_is_waited_for_and_one_that_was_killed_is_not() {
    let world = World::new();
    world.write("a", b"a");
    marker::tests::write_all(world.data.path());
    let held = Directory::open(world.data.path()).unwrap();
    lock::lock(&held, lock::LockKind::Exclusive, Duration::ZERO, &world.stop).unwrap();
    let stop = AtomicBool::new(true);
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor };
    let opened = || open_locked(&world.options, "/v", &ctx).map(drop).unwrap_err().to_string();
    assert!(opened().contains("lock the directory"), "{}", opened());
    drop(held);
    assert!(opened().contains("has not been finished"), "{}", opened());
    // The same holds for a restore into a folder around it.
    std::fs::remove_file(world.data.path().join(marker::MARKER)).unwrap();
    let inner = world.data.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let inner = BackupOptions { data: inner, ..world.options.clone() };
    open_locked(&inner, "/v", &ctx).unwrap();
    marker::tests::write_all(world.data.path());
    let said = open_locked(&inner, "/v", &ctx).map(drop).unwrap_err().to_string();
    assert!(said.contains("around it, has not been finished"), "{said}");
}

#[test]
fn a_checkpoint_serves_the_next_backup() {
    let mut world = World::new();
    for n in 0..2000u64 {
        world.write(&format!("{:02}/{n}", n % 40), &noise(n, 3000));
    }
    world.options.checkpoint_every = Duration::ZERO;
    struct StopAt(std::sync::atomic::AtomicU64, Arc<AtomicBool>);
    impl Monitor for StopAt {
        fn advance(&self, bytes: u64) {
            if self.0.fetch_add(bytes, Ordering::Relaxed) > 4_000_000 {
                self.1.store(true, Ordering::Relaxed);
            }
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let monitor = StopAt(Default::default(), stop.clone());
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &monitor };
    let said = backup(&world.vault, &world.options, &ctx).unwrap_err().to_string();
    assert!(said.contains("told to stop"), "{said}");
    assert_eq!(world.vault.snapshots().unwrap(), []);
    assert!(!world.vault.checkpoints().unwrap().is_empty());

    world.options.checkpoint_every = Duration::from_secs(600);
    let report = world.backup();
    assert!(report.read_bytes < 5_900_000 && report.read_bytes > 0, "{}", report.read_bytes);
    assert_eq!((report.state, report.parent, report.files), (SnapshotState::Complete, None, 2000));
    for (entry, content) in world.entries(report.snapshot).iter().filter(|(e, _)| e.kind == EntryKind::File) {
        let n: u64 = String::from_utf8_lossy(entry.path.name()).parse().unwrap();
        assert_eq!(*content, noise(n, 3000));
    }
    // Once there is a snapshot, the checkpoint is no longer used.
    let next = world.backup();
    assert_eq!((next.parent, next.new_packs), (Some(report.snapshot), 0));
}

#[test]
fn numbers_are_times_and_go_on_from_the_greatest() {
    let mut world = World::new();
    world.write("a", b"1");
    const NOW: i64 = 1_990_000_000;
    world.options.trust.now = || NOW * 1_000_000_000;
    let seq = |world: &World| world.backup().snapshot.seq as i64;
    assert_eq!([seq(&world), seq(&world)], [NOW, NOW + 1]);
    // The fastest clock counts: this machine's, the store's, a replica's.
    world.options.clock_ahead = SignedDuration::from_secs(100);
    assert_eq!(seq(&world), NOW + 100);
    world.options.clock_ahead = SignedDuration::from_secs(-100);
    world.options.numbers = vec![NOW as u64 + 200];
    assert_eq!(seq(&world), NOW + 201);
    assert_eq!(world.backup().warnings, [""; 0]);
    let before = Timestamp::now().as_second();
    world.options = BackupOptions { data: world.options.data.clone(), ..BackupOptions::default() };
    let last = world.backup();
    assert_eq!(last.snapshot.seq as i64, NOW + 203);
    assert!(before < NOW && last.warnings[0].contains("a time in the future, 2033-01-"), "{:?}", last.warnings);
    // An epoch is kept, even when its numbers are used up.
    let in_epoch = rewrite(&world, last.snapshot, |root| root.seq = (7 << 32) + 5);
    let next = world.backup().snapshot;
    assert!(next.seq >> 32 == 7 && next.seq & 0xffff_ffff >= before as u64, "{next}");
    assert!(in_epoch < next);
    let end = rewrite(&world, next, |root| root.seq = (8 << 32) - 1);
    let why = world.try_backup().unwrap_err();
    assert!(why.to_string().contains("no number is greater than 34359738367"), "{why}");
    assert_eq!(world.vault.snapshots().unwrap().last(), Some(&end));
}

#[test]
fn the_root_comes_last() {
    let world = World::new();
    world.write("a", &noise(1, 5_000_000));
    world.calls();
    let first = world.backup();
    let creates: Vec<_> = world.calls().into_iter().filter(|c| c.verb == "create").map(|c| c.name).collect();
    assert_eq!(creates.last().unwrap(), &first.snapshot.object("snapshots/"));
    assert_eq!(creates.iter().filter(|name| name.starts_with("snapshots/")).count(), 1);

    assert!(creates.iter().any(|name| name.starts_with("index/")));
}

#[test]
fn before_it_commits_it_asks_and_a_no_leaves_checkpoints_and_packs_only() {
    let mut world = World::new();
    for n in 0..400u64 {
        world.write(&n.to_string(), &noise(n, 3000));
    }
    world.options.checkpoint_every = Duration::ZERO;
    let (store, asked) = (world.store.clone(), Arc::new(std::sync::atomic::AtomicU64::new(0)));
    let count = asked.clone();
    world.options.before_commit = Some(BeforeCommit::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        // Everything is there, and was checked by two requests at the same time.
        let calls = store.take();
        let mut last: Vec<_> = calls.iter().rev().take(2).map(|call| (call.verb, &call.name[..])).collect();
        last.sort();
        assert_eq!(last, [("list", "index/"), ("list", "packs/")]);
        Err(Error::failed("commit", "another run has taken over"))
    }));
    let said = world.try_backup().unwrap_err();
    assert!(said.what().contains("another run has taken over"), "{said}");
    assert_eq!((asked.load(Ordering::Relaxed), world.vault.snapshots().unwrap()), (1, Vec::new()));
    assert!(!world.vault.checkpoints().unwrap().is_empty());
    let count = asked.clone();
    world.options.before_commit = Some(BeforeCommit::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }));
    world.options.run = Some(Hex([7; 8]));
    let report = world.backup();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(world.vault.root(report.snapshot).unwrap().run, Some(Hex([7; 8])));
    assert_eq!(world.entries(report.snapshot).len(), 401);
}
