//! Files that are taken over without being read, and when each of them has its turn to be read all the same.

use super::*;

#[test]
fn a_file_is_trusted_once_all_stores_into_it_show() {
    let mut world = World::new();
    world.write("old", b"old");
    fs::write(world.data.path().join("new"), b"new").unwrap();
    let racy = |world: &World, report: &BackupReport| -> Vec<String> {
        let entries = world.entries(report.snapshot);
        entries.into_iter().filter(|(entry, _)| entry.racy).map(|(entry, _)| entry.path.to_string()).collect()
    };
    world.options.trust = Trust { window: 0, sample: 1 << 40, ..world.options.trust };
    world.options.trust.writeback = WRITEBACK;
    let report = world.backup();
    assert_eq!((report.read_bytes, racy(&world, &report)), (6, vec!["new".to_owned()]));
    world.options.trust.writeback = 0;
    let report = world.backup();
    assert_eq!((report.read_bytes, racy(&world, &report)), (3, vec![]));
    assert_eq!(world.backup().read_bytes, 0);

    // An older program trusted them although times do not tell: that is found out when the sample reaches them.
    world.options.trust = Trust { sample: 1, shows_stores: |_| false, ..world.options.trust };
    let report = world.backup();
    assert_eq!((report.read_bytes, racy(&world, &report).len()), (6, 2));
    world.options.trust.sample = 1 << 40;
    // The first time, what is read is stored in another form.
    for new_packs in [1, 0, 0] {
        let report = world.backup();
        assert_eq!((report.read_bytes, report.new_packs, racy(&world, &report).len()), (6, new_packs, 2));
    }
}

/// Writes to a file as tools do that set its time back.
fn edit(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    let stamp = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.set_modified(stamp).unwrap();
}

#[test]
fn what_is_taken_over_in_another_place_is_read_in_sixteen_backups() {
    let mut world = World::new();
    for n in 0..200 {
        world.write(&format!("f{n}"), &noise(n, 1000));
    }
    fs::hard_link(world.data.path().join("f0"), world.data.path().join("link")).unwrap();
    // As if the directory were very large.
    world.options.trust = Trust { at_least: 0, sample: 1 << 40, ..world.options.trust };
    world.backup();
    (0..200).for_each(|n| edit(&world.data.path().join(format!("f{n}")), 3, b"edited"));
    world.elsewhere();
    let edited = |world: &World, report: &BackupReport| {
        let entries = world.entries(report.snapshot);
        entries
            .iter()
            .filter(|(entry, bytes)| entry.kind == EntryKind::File && bytes[3..].starts_with(b"edited"))
            .count()
    };
    let mut read = 0;
    let mut unread = Vec::new();
    for n in 0..16 {
        // The content is the same, whatever place it came from.
        let report = world.backup();
        read += report.read_bytes;
        assert!((1..40_000).contains(&report.read_bytes), "{report:?}");
        assert!(edited(&world, &report) as u64 >= read / 1000, "{n}: {report:?}");
        let root = world.vault.root(report.snapshot).unwrap();
        unread.push(root.unread.unwrap().bits().count_ones());
    }
    assert_eq!(unread, (0..16).rev().collect::<Vec<_>>());
    let report = world.backup();
    assert!(report.read_bytes <= 3000, "a few have their turn in the sample: {report:?}");
    assert_eq!((report.new_packs, edited(&world, &report)), (0, 201));

    // Files that are found unchanged change nothing in the vault except the root.
    world.elsewhere();
    let packs: Vec<_> = (0..16).map(|_| world.backup().new_packs).collect();
    assert!(packs[1..].iter().all(|packs| *packs == 0), "{packs:?}");

    // Each file has its turn even if every backup is made in a new place.
    (0..200).for_each(|n| edit(&world.data.path().join(format!("f{n}")), 3, b"EDITED"));
    let mut report = None;
    for _ in 0..16 {
        world.elsewhere();
        report = Some(world.backup());
    }
    let entries = world.entries(report.unwrap().snapshot);
    let lost = |(entry, bytes): &&(Entry, Vec<u8>)| {
        entry.kind == EntryKind::File && entry.link.is_none() && !bytes[3..].starts_with(b"EDITED")
    };
    assert_eq!(entries.iter().filter(lost).count(), 0);
}

#[test]
fn a_journal_that_was_taken_over_unread_is_read_though_its_database_is_none_any_more() {
    let databases = || (0..24).map(|n| format!("{n}.db"));
    let removed = |world: &mut World| {
        databases().for_each(|name| fs::remove_file(world.data.path().join(name)).unwrap());
    };
    let overwritten = |world: &mut World| databases().for_each(|name| world.write(&name, b"no database"));
    let without_sqlite = |world: &mut World| world.options.sqlite = false;
    for (what, change) in [
        ("removed", &removed as &dyn Fn(&mut World)),
        ("overwritten", &overwritten),
        ("not told from other files", &without_sqlite),
    ] {
        let mut world = World::new();
        for (n, name) in databases().enumerate() {
            // SQLite cannot read them, so they are taken raw.
            let mut bytes = noise(n as u64, 8192);
            bytes[..24].copy_from_slice(b"SQLite format 3\0\x10\0\x01\x01\0\x40\x20\x20");
            world.write(&name, &bytes);
            world.write(&format!("{name}-journal"), &noise(100 + n as u64, 1000));
        }
        world.options.accept_shrink = true;
        // As if the directory were very large.
        world.options.trust = Trust { at_least: 0, sample: 1 << 40, ..world.options.trust };
        world.backup();
        databases().for_each(|name| edit(&world.data.path().join(format!("{name}-journal")), 3, b"edited"));
        world.elsewhere();
        let mut stale = Vec::new();
        for n in 0..18 {
            // One part is read while the journals still belong to databases.
            if n == 1 {
                change(&mut world);
            }
            let report = world.backup();
            let unread = world.vault.root(report.snapshot).unwrap().unread.unwrap();
            let entries = world.entries(report.snapshot).into_iter();
            let journals = entries.filter(|(entry, _)| entry.path.to_string().ends_with("-journal"));
            let old: Vec<_> = journals.filter(|(_, bytes)| !bytes[3..].starts_with(b"edited")).collect();
            for (Entry { path, .. }, _) in &old {
                let part = Parts::of(Hash::of(path.bytes()).0[0]);
                assert!(unread.has(part), "{what}, backup {n}: {path} was not read, and only {unread:?} is unread");
            }
            stale.push(old.len());
        }
        assert!(stale[0] > 12 && stale[1] > 12 && stale[17] == 0, "{what}: {stale:?}");
    }
}

#[test]
fn what_an_older_program_took_over_counts_as_unread() {
    let mut world = World::new();
    world.options.trust.sample = 1 << 40;
    world.write("file", &noise(1, 1000));
    let first = world.backup();
    assert_eq!(world.backup().read_bytes, 0);
    let newer = first.snapshot.seq + 1000;
    let older = Root { unread: None, seq: newer, ..world.vault.root(first.snapshot).unwrap() };
    let (name, bytes) = older.encode().unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("unread"));
    world.store.create(&name.object("snapshots/"), &[&bytes]).unwrap();
    let report = world.backup();
    assert_eq!((report.parent, report.read_bytes, report.new_packs), (Some(name), 1000, 0));
    assert_eq!(world.backup().read_bytes, 0);
}

#[test]
fn the_sample_turns_beside_programs_that_count() {
    let world = World::new();
    world.write("a", b"1");
    let turn = |name| world.vault.root(name).unwrap().turn;
    let first = world.backup().snapshot;
    assert_eq!(turn(first), Some(0));
    assert_eq!(turn(world.backup().snapshot), Some(1));
    // Another program, whose roots have no turn, makes every second snapshot, or a few in between.
    let mut turns = Vec::new();
    for round in 0..6 {
        for _ in 0..=round {
            let name = world.backup().snapshot;
            rewrite(&world, name, |root| root.turn = None);
        }
        turns.push(turn(world.backup().snapshot).unwrap());
    }
    assert_eq!(turns, [2, 3, 4, 5, 6, 7]);
    // If no root has a turn, the snapshot's number counts.
    let old = World::new();
    old.write("a", b"1");
    let name = old.backup().snapshot;
    rewrite(&old, name, |root| (root.seq, root.turn) = (41, None));
    assert_eq!(old.vault.root(old.backup().snapshot).unwrap().turn, Some(42));
}
