//! How a tree of files is stored, and how little of it is read and sent again.

use super::*;

#[test]
fn a_tree_is_stored_and_an_unchanged_one_sends_a_root() {
    let world = World::new();
    world.write("a/empty", b"");
    world.write("a/small.json", b"{}");
    world.write("b/medium", &noise(1, 200_000));
    world.write("b/large.bin", &noise(2, 3_000_000));
    fs::create_dir(world.data.path().join("c")).unwrap();
    fs::set_permissions(world.data.path().join("c"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../nowhere", world.data.path().join("a/link")).unwrap();
    fs::hard_link(world.data.path().join("b/large.bin"), world.data.path().join("c/same.bin")).unwrap();

    let first = world.backup();
    assert_eq!((first.state, first.entries, first.files, first.parent), (SnapshotState::Complete, 10, 5, None));
    assert_eq!((first.warnings.len(), first.errors.len()), (0, 0));
    let entries = world.entries(first.snapshot);
    let paths: Vec<_> = entries.iter().map(|(e, _)| e.path.to_string()).collect();
    let expected = [".", "a", "a/empty", "a/link", "a/small.json", "b", "b/large.bin", "b/medium", "c", "c/same.bin"];
    assert_eq!(paths, expected);
    assert_eq!(entries[9].1, noise(2, 3_000_000));
    assert!(entries[6].0.link.is_some() && entries[6].0.link == entries[9].0.link);
    // The link's content is not stored twice.
    assert!(first.uploaded_bytes < 3_300_000, "{}", first.uploaded_bytes);

    world.calls();
    let second = world.backup();
    let created: Vec<_> = world.calls().into_iter().filter(|c| c.verb == "create").map(|c| c.name).collect();
    assert_eq!(created, [second.snapshot.object("snapshots/")]);
    assert_eq!((second.parent, second.new_packs), (Some(first.snapshot), 0));
    assert_eq!(world.entries(second.snapshot), entries);
}

#[test]
fn only_what_changed_is_read() {
    let mut world = World::new();
    for n in 0..50 {
        world.write(&format!("f{n}"), &noise(n, 1000));
    }
    world.write("big", &noise(99, 1_000_000));
    world.backup();
    world.write("f7", b"changed");
    let second = world.backup();
    // The changed file, and the files of the sample.
    let sampled = (0..50).filter(|n| u64::from(Hash::of(format!("f{n}").as_bytes()).0[0]) % 64 == 2).count() as u64;
    let big = if Hash::of(b"big").0[0] % 64 == 2 { 1_000_000 } else { 0 };
    assert_eq!(second.read_bytes, 7 + 1000 * sampled + big);
    assert_eq!(world.content(second.snapshot, "f7"), b"changed");

    // A reboot changes nothing.
    world.options.boot = "another".into();
    let third = world.backup();
    assert!(third.read_bytes <= 1_003_000 && third.new_packs == 0, "{third:?}");
    // In another place times and inodes mean nothing: as much is read as takes a moment, which here is everything.
    world.elsewhere();
    let third = world.backup();
    assert!(third.read_bytes == 49 * 1000 + 7 + 1_000_000 && third.uploaded_bytes < 20_000, "{third:?}");
    assert_eq!(world.entries(third.snapshot).len(), 52);
    assert_eq!(world.vault.root(third.snapshot).unwrap().unread, Some(Parts::NONE));

    world.options.verify_content = true;
    let fourth = world.backup();
    assert_eq!(fourth.read_bytes, 49 * 1000 + 7 + 1_000_000);
    assert_eq!(fourth.new_packs, 0);
}

#[test]
fn shifted_grown_and_moved_files_send_a_few_blocks() {
    let world = World::new();
    let log = noise(5, 24 << 20);
    world.write("app.log", &log);
    world.write("other", &noise(6, 300_000));
    world.backup();
    world.sent();

    let shifted = [b"x", &log[..]].concat();
    world.write("app.log", &shifted);
    let second = world.backup();
    assert!(world.sent() < 500_000);
    assert_eq!(world.content(second.snapshot, "app.log"), shifted);

    fs::rename(world.data.path().join("app.log"), world.data.path().join("app.log.1")).unwrap();
    world.write("app.log", &noise(7, 400_000));
    world.write("z/app.log.copy", &[&shifted, &b"more"[..]].concat());
    let third = world.backup();
    let sent = world.sent();
    assert!((400_000..1_200_000).contains(&sent), "{sent}");
    assert!(world.content(third.snapshot, "app.log.1") == shifted);
    assert_eq!(world.content(third.snapshot, "z/app.log.copy").len(), shifted.len() + 4);
}

#[test]
fn holes_are_stored_as_holes() {
    let world = World::new();
    let path = world.data.path().join("sparse");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"begin").unwrap();
    file.seek(SeekFrom::Start(40 << 20)).unwrap();
    file.write_all(b"end").unwrap();
    file.set_len(50 << 20).unwrap();
    drop(file);
    age(&path);
    let report = world.backup();
    assert!(report.uploaded_bytes < 10_000, "{}", report.uploaded_bytes);
    let root = world.vault.root(report.snapshot).unwrap();
    let packs = PackReader::for_root(&world.store, &root).unwrap();
    let mut holes = 0;
    tree::each_entry(&packs, &root, |entry| {
        tree::each_run(&packs, &entry, |extent| {
            holes += if extent.pack.is_none() { extent.length } else { 0 };
            Ok(())
        })
    })
    .unwrap();
    assert!(holes > 49 << 20, "{holes}");
    assert_eq!(world.content(report.snapshot, "sparse").len(), 50 << 20);
}

/// Hashing its holes would take years.
#[test]
fn a_file_without_an_end_is_named_and_holds_nothing_up() {
    let mut world = World::new();
    // A filesystem in memory does not limit the size of files.
    world.data = tempfile::tempdir_in("/dev/shm").unwrap();
    world.options.data = world.data.path().to_path_buf();
    world.write("a.txt", b"content");
    for name in ["endless", "another", "a third", "many"] {
        File::create(world.data.path().join(name)).unwrap().set_len(1 << 62).unwrap();
    }
    let report = world.backup();
    assert_eq!(report.state, SnapshotState::Partial);
    let told: Vec<_> = report.errors.iter().map(|problem| &problem.why).collect();
    assert!(told.len() == 4 && told.iter().all(|told| told.contains("4611686018427387904 bytes")), "{told:?}");
    assert_eq!(world.content(report.snapshot, "a.txt"), b"content");
}

#[test]
fn long_lists_are_cut_and_reused() {
    let world = World::new();
    for n in 0..60_000u64 {
        let path = world.data.path().join(format!("{:03}", n % 300));
        if n < 300 {
            fs::create_dir(&path).unwrap();
        }
        fs::write(path.join(format!("{n}")), n.to_le_bytes()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(2100));
    let first = world.backup();
    world.write("007/extra", b"one more");
    let second = world.backup();
    world.write("200/extra", b"one more");
    let third = world.backup();
    assert_eq!(world.vault.root(third.snapshot).unwrap().totals.files, 60_002);
    // A hunk or two, the list's frame, a header and eight bytes.
    assert!(third.uploaded_bytes < first.uploaded_bytes / 20, "{} {}", first.uploaded_bytes, third.uploaded_bytes);
    let root = world.vault.root(second.snapshot).unwrap();
    let packs = PackReader::for_root(&world.store, &root).unwrap();
    let mut entries = 0;
    tree::each_entry(&packs, &root, |_| {
        entries += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(entries, 60_302);

    // When all lists are lost, the next snapshot is whole, and it is the newest.
    world.store.inner().objects().retain(|name, _| !name.starts_with("index/"));
    let fourth = world.backup();
    assert!(fourth.snapshot > third.snapshot);
    assert_eq!((fourth.parent, fourth.files), (None, 60_002));
    assert_eq!(fourth.read_bytes, first.read_bytes + 16);
    let fifth = world.backup();
    assert!(fifth.snapshot > fourth.snapshot);
    assert_eq!((fifth.parent, fifth.new_packs), (Some(fourth.snapshot), 0));
}
