//! Files, links and symlinks that change between their listing and the end of their reading.

use super::*;

#[test]
fn inode_numbers_that_are_used_again_make_no_links() {
    let mut world = World::new();
    for n in 0..40 {
        world.write(&format!("a/{n}"), format!("old {n}").as_bytes());
        fs::hard_link(world.data.path().join(format!("a/{n}")), world.data.path().join(format!("a/{n}.link"))).unwrap();
    }
    world.write("m/file", b"x");
    fs::create_dir(world.data.path().join("z")).unwrap();
    let report = world.backup_while(Moment::Listing, "z", |data| {
        // All of `a` has been listed, and some of it read.
        fs::remove_dir_all(data.join("a")).unwrap();
        for n in 0..40 {
            fs::write(data.join(format!("z/{n}")), format!("new {n}, another one")).unwrap();
            fs::hard_link(data.join(format!("z/{n}")), data.join(format!("z/{n}.link"))).unwrap();
        }
    });
    assert!(report.good && report.errors.is_empty(), "{report:?}");
    let entries = world.entries(report.snapshot);
    for n in 0..40 {
        for name in [format!("z/{n}"), format!("z/{n}.link")] {
            let (entry, content) = entries.iter().find(|(entry, _)| entry.path.to_string() == name).unwrap();
            assert_eq!(String::from_utf8_lossy(content), format!("new {n}, another one"));
            let named = |other: &Entry| other.link.is_some() && other.link == entry.link;
            assert!(entries.iter().filter(|(other, _)| named(other)).all(|(_, other)| other == content));
        }
    }
    // They are links again, not copies: both have one group name.
    let link = |name: &str| entries.iter().find(|(e, _)| e.path.to_string() == name).unwrap().0.link.clone();
    assert!(link("z/7").is_some() && link("z/7") == link("z/7.link"));
}

#[test]
fn links_that_vanish_are_no_problem() {
    let mut world = World::new();
    world.write("m", b"x");
    for n in 0..20 {
        world.write(&format!("z/{n}"), b"content");
        fs::hard_link(world.data.path().join(format!("z/{n}")), world.data.path().join(format!("z/{n}.link"))).unwrap();
    }
    let report = world.backup_while(Moment::Opening, "z/3", |data| fs::remove_dir_all(data.join("z")).unwrap());
    assert!(report.good && report.errors.is_empty(), "{report:?}");
}

#[test]
fn what_is_appended_and_overwritten_between_opening_and_reading_is_no_state_of_its_own() {
    for length in [1000, 3_000_000] {
        let mut world = World::new();
        world.write("log", &vec![b'1'; length]);
        let report = world.backup_while(Moment::Opened, "log", move |data| {
            let file = fs::OpenOptions::new().write(true).open(data.join("log")).unwrap();
            file.write_all_at(b"end", length as u64).unwrap();
            file.write_all_at(b"new", 500).unwrap();
        });
        let content = world.content(report.snapshot, "log");
        assert!(content == fs::read(world.data.path().join("log")).unwrap(), "{} bytes", content.len());
        assert!(report.good);
    }
}

#[test]
fn a_large_file_that_takes_an_earlier_name_while_it_is_read_makes_nobody_wait_for_ever() {
    let mut world = World::new();
    world.write("a", b"small");
    world.write("z", &noise(3, 8 << 20));
    let report = world.backup_while(Moment::Opening, "a", |data| {
        // By then the other thread is reading it, and waits until everything before it is taken.
        std::thread::sleep(Duration::from_millis(300));
        fs::rename(data.join("z"), data.join("a")).unwrap();
    });
    assert!(report.good, "{report:?}");
    assert!(world.content(report.snapshot, "a") == noise(3, 8 << 20));
}

#[test]
fn a_file_that_is_written_to_and_then_replaced_while_it_is_read_is_no_mixture() {
    let size = 5_000_000;
    let mut world = World::new();
    world.write("f", &vec![b'A'; size]);
    let report = world.backup_while(Moment::Reading, "f", move |data| {
        File::options().write(true).open(data.join("f")).unwrap().write_all(&vec![b'B'; size]).unwrap();
        fs::write(data.join("new"), vec![b'C'; size]).unwrap();
        fs::rename(data.join("new"), data.join("f")).unwrap();
    });
    let content = world.content(report.snapshot, "f");
    assert!(report.good && content.len() == size && content.iter().all(|byte| *byte == content[0]), "{report:?}");
}

#[test]
fn a_symlink_is_trusted_only_once_its_times_can_be() {
    let mut world = World::new();
    symlink("target", world.data.path().join("link")).unwrap();
    let report = world.backup();
    let racy = |(entry, _): &(Entry, Vec<u8>)| entry.racy.then(|| entry.path.to_string());
    let told: Vec<_> = world.entries(report.snapshot).iter().filter_map(racy).collect();
    assert_eq!(told, ["link"]);
    world.options.trust.window = 0;
    let report = world.backup();
    assert_eq!(world.entries(report.snapshot).iter().filter_map(racy).count(), 0);
}

#[test]
fn a_symlink_that_was_another_one_when_it_was_read_is_read_again() {
    // Each time it is looked at, another symlink has its name at that moment, since their folders change places.
    let mut world = World::new();
    for name in ["a", "b"] {
        fs::create_dir(world.data.path().join(name)).unwrap();
        let path = world.data.path().join(name).join("link");
        std::os::unix::fs::symlink(format!("to {name}"), &path).unwrap();
        let old = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 5 };
        let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
        rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    world.write("c", b"c");
    let (data, mut swapped) = (world.data.path().to_path_buf(), false);
    world.monitor = Arc::new(App(Mutex::new(Some(Box::new(move |moment, path| {
        if swapped || matches!((moment, path), (Moment::Opening, "a/link")) {
            renameat_with(CWD, data.join("a"), CWD, data.join("b"), RenameFlags::EXCHANGE).unwrap();
            swapped = !swapped;
        }
        false
    })))));
    world.backup();
    world.monitor = Arc::new(SilentMonitor);
    let report = world.backup();
    for (entry, _) in world.entries(report.snapshot).iter().filter(|(entry, _)| entry.kind == EntryKind::Symlink) {
        let target = entry.target.as_ref().map(|target| String::from_utf8_lossy(&target.0).into_owned());
        assert_eq!(target, entry.path.folder().map(|folder| format!("to {folder}")));
    }
}
