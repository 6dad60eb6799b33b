//! Files and folders that are moved or exchanged while the walk and the readers are at work.

use super::*;

#[test]
fn a_folder_that_moves_ahead_of_the_walk_or_behind_it_is_taken() {
    for (from, to) in [("zz", "aa"), ("aa", "zz")] {
        for moment in [Moment::Listing, Moment::Named, Moment::Listed] {
            let mut world = World::new();
            (0..20).for_each(|n| world.write(&format!("{from}/{n}"), format!("file {n}").as_bytes()));
            world.write("m/file", b"x");
            let report = world.backup_while(moment, "m", move |data| {
                fs::rename(data.join(from), data.join(to)).unwrap();
            });
            assert!(report.good, "{report:?}");
            let paths = world.paths(&report);
            let moved = |n: &i32| [from, to].iter().any(|at| paths.contains(&format!("{at}/{n}")));
            assert!((0..20).all(|n| moved(&n)), "{moment:?} {from}: {paths:?}");
            assert!(paths.contains(&"m/file".to_owned()));
        }
    }
}

#[test]
fn folders_that_are_exchanged_lose_nothing() {
    for moment in [Moment::Listing, Moment::Listed, Moment::Opening] {
        let mut world = World::new();
        for (folder, content) in [("current", "v0"), ("next", "v1")] {
            (0..10).for_each(|n| world.write(&format!("{folder}/{content}-{n}"), content.as_bytes()));
        }
        let report = world.backup_while(moment, "next", |data| exchange(data.join("current"), data.join("next")));
        assert!(report.good);
        let paths = world.paths(&report);
        for (name, n) in ["v0", "v1"].iter().flat_map(|name| (0..10).map(move |n| (name, n))) {
            let there = ["current", "next"].iter().any(|folder| paths.contains(&format!("{folder}/{name}-{n}")));
            assert!(there, "{moment:?}: {name}-{n} in {paths:?}");
        }
    }
}

#[test]
fn files_that_are_exchanged_between_their_reads_are_both_there() {
    let mut world = World::new();
    world.write("a", b"first");
    world.write("b", b"second");
    let report = world.backup_while(Moment::Opening, "b", |data| {
        // The first file has been read by then, or is being read.
        std::thread::sleep(Duration::from_millis(20));
        exchange(data.join("a"), data.join("b"));
    });
    let mut contents: Vec<_> = ["a", "b"].map(|name| world.content(report.snapshot, name)).into();
    contents.sort();
    assert_eq!(contents, [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn a_snapshot_is_of_one_directory_though_another_takes_its_place() {
    let mut world = World::new();
    let other = tempfile::tempdir().unwrap();
    for n in 0..50 {
        world.write(&format!("d{}/{n}", n % 7), b"old");
        let path = other.path().join(format!("d{}/{n}", n % 7));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "new").unwrap();
    }
    let path = other.path().to_path_buf();
    let report = world.backup_while(Moment::Opening, "d3/3", move |data| exchange(data, path.clone()));
    let files: Vec<_> = world.entries(report.snapshot).into_iter().filter(|(e, _)| e.kind == EntryKind::File).collect();
    assert_eq!(files.len(), 50);
    assert!(files.iter().all(|(_, content)| content == b"new"));

    let path = other.path().to_path_buf();
    let said = world.try_backup_while(Moment::Committing, ".", move |data| {
        exchange(data, path.clone());
        false
    });
    let said = said.unwrap_err().to_string();
    assert!(said.contains("another directory has taken its place, twice"), "{said}");
}

#[test]
fn nothing_outside_is_read_through_a_symlink_that_took_a_folders_place() {
    for moment in [Moment::Opening, Moment::Opened] {
        let mut world = World::new();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("token"), "SECRET").unwrap();
        world.write("x/token", b"mine");
        world.write("w", b"w");
        symlink(outside.path(), world.data.path().join("y")).unwrap();
        let report = world.backup_while(moment, "x/token", |data| exchange(data.join("x"), data.join("y")));
        let entries = world.entries(report.snapshot);
        assert!(entries.iter().all(|(_, content)| content != b"SECRET"));
        assert!(entries.iter().any(|(_, content)| content == b"mine"), "{moment:?}: {:?}", world.paths(&report));
        assert!(report.good);
    }
}

#[test]
fn a_folder_that_is_gone_when_its_attributes_are_read_keeps_its_children() {
    let mut world = World::new();
    (0..10).for_each(|n| world.write(&format!("f/{n}"), b"x"));
    let first = world.backup();
    assert!(first.good);
    // The folder's entry changes, and its children do not.
    fs::set_permissions(world.data.path().join("f"), fs::Permissions::from_mode(0o700)).unwrap();
    let report = world.backup_while(Moment::Opening, "f", |data| {
        fs::rename(data.join("f"), data.with_extension("aside")).unwrap();
    });
    let paths = world.paths(&report);
    assert!(report.good && paths.contains(&"f".to_owned()), "{paths:?}");
    fs::remove_dir_all(world.data.path().with_extension("aside")).unwrap();
}

#[test]
fn files_of_folders_that_were_exchanged_for_a_moment_are_their_own() {
    let mut world = World::new();
    for name in ["one", "two"] {
        (0..4).for_each(|n| world.write(&format!("{name}/{n}"), format!("{name} {n}").as_bytes()));
    }
    let data = world.data.path().to_path_buf();
    let action: Action = Box::new(move |moment, path| {
        if path == "one/2" && (moment == Moment::Opening || moment == Moment::Opened) {
            exchange(data.join("one"), data.join("two"));
        }
        path == "one/2" && moment == Moment::Opened
    });
    world.monitor = Arc::new(App(Mutex::new(Some(action))));
    let report = world.backup();
    for name in ["one", "two"] {
        (0..4).for_each(|n| {
            let content = world.content(report.snapshot, &format!("{name}/{n}"));
            assert_eq!(String::from_utf8_lossy(&content), format!("{name} {n}"));
        });
    }
}

#[test]
fn what_takes_a_folders_place_is_taken_in_its_new_form() {
    let mut world = World::new();
    world.write("m/file", b"x");
    world.write("zz/current/old", b"old");
    world.write("zz/release2/new", b"new");
    fs::create_dir(world.data.path().join("zz/state")).unwrap();
    let report = world.backup_while(Moment::Listed, "zz", |data| {
        fs::remove_dir_all(data.join("zz/current")).unwrap();
        symlink("release2", data.join("zz/current")).unwrap();
        fs::remove_dir(data.join("zz/state")).unwrap();
        fs::write(data.join("zz/state"), "now a file").unwrap();
    });
    let entries = world.entries(report.snapshot);
    let kind = |name: &str| entries.iter().find(|(e, _)| e.path.to_string() == name).map(|(e, _)| e.kind);
    assert_eq!(kind("zz/current"), Some(EntryKind::Symlink), "{report:?}");
    assert_eq!(kind("zz/state"), Some(EntryKind::File), "{report:?}");
}

#[test]
fn what_was_something_else_only_while_it_was_read_is_taken() {
    let mut world = World::new();
    world.write("a/x", b"x");
    world.write("f", b"there all the time");
    world.write("zz/last", b"x");
    let data = world.data.path().to_path_buf();
    let (away, mut moved) = (data.join("a/f"), false);
    let action: Action = Box::new(move |moment, path| {
        if (moment, path) == (Moment::Opening, "f") && !moved {
            // Its folder has been listed, and so has the other one.
            fs::rename(data.join("f"), &away).unwrap();
            symlink("elsewhere", data.join("f")).unwrap();
            moved = true;
        } else if (moment, path) == (Moment::Opening, "zz/last") {
            std::thread::sleep(Duration::from_millis(50));
            fs::rename(&away, data.join("f")).unwrap();
            return true;
        }
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(action))));
    let report = world.backup();
    assert!(report.good, "{report:?}");
    assert_eq!(world.content(report.snapshot, "f"), b"there all the time", "{report:?}");
}
