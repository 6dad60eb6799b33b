//! The look at the end of a capture: entries that it finds, and changes that it does not wait for.

use super::*;

#[test]
fn what_is_born_while_it_is_captured_does_not_keep_it_from_ending() {
    let mut world = World::new();
    world.write("a/file", b"x");
    let mut count = 0;
    // Whenever a folder is listed, a new file appears in it and in the folder above.
    let data = world.data.path().to_path_buf();
    let action: Action = Box::new(move |moment, _| {
        if moment == Moment::Listed || moment == Moment::Committing {
            count += 1;
            fs::write(data.join(format!("a/new {count}")), "new").unwrap();
        }
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(action))));
    let report = world.backup();
    assert!(report.good && report.looked_again.rounds <= 1, "{report:?}");
    assert!(!report.warnings.iter().any(|what| what.contains(NEVER_RESTS)), "{report:?}");
}

#[test]
fn a_capture_ends_although_a_folder_never_rests() {
    let mut world = World::new();
    (0..5).for_each(|n| world.write(&format!("here/{n}"), b"x"));
    world.write("there/x", b"x");
    let data = world.data.path().to_path_buf();
    let mut away = false;
    let action: Action = Box::new(move |moment, path| {
        if moment == Moment::Listing && path != "." {
            let (from, to) = if away { ("there/moved", "here/moved") } else { ("here/moved", "there/moved") };
            if !data.join(from).exists() {
                fs::create_dir_all(data.join(from)).unwrap();
                fs::write(data.join(from).join("file"), "moves").unwrap();
            }
            fs::rename(data.join(from), data.join(to)).unwrap();
            away = !away;
        }
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(action))));
    let report = world.backup();
    // It ends, and what stayed where it was is in the snapshot.
    assert!(report.looked_again.rounds <= 3);
    let paths = world.paths(&report);
    assert!((0..5).all(|n| paths.contains(&format!("here/{n}"))) && paths.contains(&"there/x".to_owned()));
}

#[test]
fn a_file_that_is_saved_again_all_the_time_lets_the_capture_end() {
    let mut world = World::new();
    world.write("status.json", b"saved");
    (0..30).for_each(|n| world.write(&format!("f/{n}"), b"x"));
    let data = world.data.path().to_path_buf();
    let action: Action = Box::new(move |_, _| {
        fs::write(data.join("status.new"), "saved").unwrap();
        fs::rename(data.join("status.new"), data.join("status.json")).unwrap();
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(action))));
    let report = world.backup();
    assert!(report.good && report.looked_again.rounds == 0, "{report:?}");
    assert!(!report.warnings.iter().any(|what| what.contains(NEVER_RESTS)), "{report:?}");
    assert_eq!(world.content(report.snapshot, "status.json"), b"saved");
}

/// Moves a file from the first of these names to the next one, and so on, each time that a backup comes to a moment.
fn moving_file(steps: &'static [(Moment, &'static str, &'static str, &'static str)]) -> (World, BackupReport) {
    let mut world = World::new();
    ["a", "b", "c"].iter().for_each(|folder| world.write(&format!("{folder}/stays"), b"x"));
    world.write("b/file", b"there all the time");
    let (data, mut done) = (world.data.path().to_path_buf(), 0);
    let app = Arc::new(App(Mutex::new(Some(Box::new(move |now, at: &str| {
        let (moment, path, from, to) = steps[done];
        if (now, at) == (moment, path) {
            fs::rename(data.join(from), data.join(to)).unwrap();
            done += 1;
        }
        done == steps.len()
    })))));
    world.monitor = app.clone();
    let report = world.backup();
    assert!(app.0.lock().unwrap().is_none(), "it never came to the end: {report:?}");
    (world, report)
}

#[test]
fn what_moves_past_the_look_at_the_end_is_found_by_the_next_one() {
    use Moment::{Looking, Opening};
    let all: [&[_]; 2] = [
        &[
            (Opening, "b/file", "b/file", "a/file"),
            (Looking, "a", "a/file", "c/file"),
            (Looking, "c", "c/file", "a/file"),
        ],
        // The record of its folder has the name.
        &[
            (Opening, "b/file", "b/file", "a/file"),
            (Looking, "a", "a/file", "b/file"),
            (Looking, "c", "b/file", "a/file"),
        ],
    ];
    for steps in all {
        let (world, report) = moving_file(steps);
        assert!(report.good, "{report:?}");
        assert!(world.paths(&report).contains(&"a/file".into()), "{report:?}");
        assert_eq!(world.content(report.snapshot, "a/file"), b"there all the time");
    }
    // It comes back where it was listed, after it was gone when it was to be read and after the first look.
    let (world, report) = moving_file(&[
        (Opening, "b/file", "b/file", "a/file"),
        (Looking, "a", "a/file", "b/file"),
        (Looking, "c", "b/file", "a/file"),
        (Looking, "a", "a/file", "b/file"),
    ]);
    assert_eq!(world.content(report.snapshot, "b/file"), b"there all the time", "{report:?}");
}

#[test]
fn a_folder_out_of_which_a_file_moves_during_every_look_is_reported() {
    let mut world = World::new();
    ["a", "b", "c"].iter().for_each(|folder| world.write(&format!("{folder}/stays"), b"x"));
    world.write("b/file", b"there all the time");
    let data = world.data.path().to_path_buf();
    let action: Action = Box::new(move |moment, path| {
        let (from, to) = match (moment, path) {
            (Moment::Opening, "b/file") => ("b/file", "a/file"),
            (Moment::Looking, "a") => ("a/file", "c/file"),
            (Moment::Looking, "c") => ("c/file", "a/file"),
            _ => return false,
        };
        fs::rename(data.join(from), data.join(to)).unwrap();
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(action))));
    let report = world.backup();
    assert!(report.good && report.looked_again.rounds == 0, "{report:?}");
    assert!(report.warnings.iter().any(|what| what.starts_with(&format!("c: {NEVER_RESTS}"))), "{report:?}");
}

#[test]
fn folders_in_which_nothing_old_moves_are_not_reported() {
    let mut world = World::new();
    ["log", "state"].iter().for_each(|folder| (0..5).for_each(|n| world.write(&format!("{folder}/{n}"), b"x")));
    let (data, mut n) = (world.data.path().to_path_buf(), 0);
    let action: Action = Box::new(move |moment, _| {
        // A file that was listed, and is gone when it is read, may have been moved.
        if moment != Moment::Looking {
            return false;
        }
        n += 1;
        fs::write(data.join(format!("log/new {n}")), "new").unwrap();
        fs::write(data.join("state/lock"), "locked").unwrap();
        fs::write(data.join("state/new"), "state").unwrap();
        fs::rename(data.join("state/new"), data.join("state/3")).unwrap();
        fs::remove_file(data.join("state/lock")).unwrap();
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(action))));
    let report = world.backup();
    assert!(report.good && report.looked_again.rounds <= 1, "{report:?}");
    assert!(!report.warnings.iter().any(|what| what.contains(NEVER_RESTS)), "{report:?}");
}

#[test]
fn what_is_moved_by_a_copy_before_its_folder_is_listed_is_taken() {
    // It is copied to another filesystem, with its time, or compressed.
    for aged in [true, false] {
        let mut world = World::new();
        world.write("z/log", b"there all the time");
        std::thread::sleep(Duration::from_millis(50));
        let report = world.backup_while(Moment::Listing, "z", move |data| {
            fs::copy(data.join("z/log"), data.join("log.1")).unwrap();
            if aged {
                age(&data.join("log.1"));
            }
            fs::remove_file(data.join("z/log")).unwrap();
        });
        assert!(report.good && report.looked_again.rounds == 1, "{report:?}");
        assert_eq!(world.content(report.snapshot, "log.1"), b"there all the time", "{report:?}");
    }
}

#[test]
fn new_files_where_nothing_went_away_need_no_round() {
    let mut world = World::new();
    world.write("z/log", b"x");
    std::thread::sleep(Duration::from_millis(50));
    let report = world.backup_while(Moment::Listing, "z", |data| {
        // The filesystem's clock is a little behind.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(data.join("new"), "new").unwrap();
    });
    assert_eq!(report.looked_again.rounds, 0, "{report:?}");
}

#[test]
fn a_log_that_is_copied_and_emptied_is_under_its_new_name() {
    let mut world = World::new();
    world.write("app.log", b"there all the time");
    world.write("z", b"x");
    std::thread::sleep(Duration::from_millis(50));
    let report = world.backup_while(Moment::Opening, "app.log", |data| {
        std::thread::sleep(Duration::from_millis(20));
        fs::copy(data.join("app.log"), data.join("app.log.1")).unwrap();
        fs::write(data.join("app.log"), "").unwrap();
    });
    assert!(report.good, "{report:?}");
    assert_eq!(world.content(report.snapshot, "app.log.1"), b"there all the time", "{report:?}");
}

#[test]
fn a_log_that_was_emptied_before_it_was_listed_is_under_its_new_name() {
    let mut world = World::new();
    world.write("z/app.log", b"there all the time");
    world.backup();
    std::thread::sleep(Duration::from_millis(50));
    let report = world.backup_while(Moment::Listing, "z", |data| {
        std::thread::sleep(Duration::from_millis(20));
        fs::copy(data.join("z/app.log"), data.join("app.log.1")).unwrap();
        fs::write(data.join("z/app.log"), "").unwrap();
    });
    assert_eq!(world.content(report.snapshot, "app.log.1"), b"there all the time", "{report:?}");
}

#[test]
fn files_that_are_saved_by_another_name_give_no_warning() {
    let mut world = World::new();
    (0..20).for_each(|n| world.write(&format!("s/{n}"), b"x"));
    std::thread::sleep(Duration::from_millis(50));
    let (data, mut n) = (world.data.path().to_path_buf(), 0);
    let action: Action = Box::new(move |_, _| {
        n += 1;
        // At every moment, one file is half saved.
        let (last, now) = (data.join(format!("s/{}.tmp", (n - 1) % 20)), data.join(format!("s/{}.tmp", n % 20)));
        if last.exists() {
            fs::rename(last, data.join(format!("s/{}", (n - 1) % 20))).unwrap();
        }
        fs::write(now, "saved").unwrap();
        let link = data.join("s/link.tmp");
        symlink(format!("target {n}"), &link).unwrap();
        fs::rename(link, data.join("s/current")).unwrap();
        false
    });
    world.monitor = Arc::new(App(Mutex::new(Some(action))));
    let report = world.backup();
    let other = |what: &&String| !what.contains("taken as it stood");
    assert!(report.good && !report.warnings.iter().any(|what| other(&what)), "{report:?}");
}
