//! Entries that cannot be read are in the next snapshot as they were before, are named, and hold nothing back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::restore_by_hand;
use crate::support::compare::assert_same;
use crate::support::database::{beside, leftover_wal, run};
use crate::support::requirements::as_nobody;
use crate::support::tree::set_mode;
use crate::support::{World, paths};

/// Takes a backup as a user who owns nothing; `None` if that is not available.
fn backup(world: &World, args: &[&str], code: i32) -> Option<Value> {
    let all = [&["backup", "data", "--vault", "backups", "--json"], args].concat();
    let ran = as_nobody(world, &all)?;
    ran.ended(code);
    Some(serde_json::from_slice(&ran.stdout).unwrap())
}

/// Creates a world whose data anybody may read.
fn world() -> World {
    let world = World::new();
    for (path, content) in [("a.txt", "one"), ("closed/b.txt", "one"), ("closed/deep/c.txt", "one"), ("d.txt", "one")] {
        world.write(path, content);
    }
    for folder in ["", "data", "data/closed", "data/closed/deep"] {
        set_mode(&world.path(folder), 0o777);
    }
    world
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Returns the paths of a list in a report.
fn listed(report: &Value, list: &str) -> Vec<String> {
    report[list].as_array().unwrap().iter().map(|item| item["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn it_is_as_it_was_before_until_it_can_be_read_again() {
    let world = world();
    let Some(first) = backup(&world, &[], 0) else { return };
    assert_eq!((&first["good"], &first["whole"]), (&Value::Bool(true), &Value::Bool(true)));
    let since = world.json(["list"], 0)[0]["created"].as_str().unwrap()[..16].to_owned();

    for round in ["two", "three"] {
        world.write("a.txt", round);
        world.write("closed/b.txt", round);
        world.write("closed/deep/c.txt", round);
        world.write("d.txt", round);
        set_mode(&world.data().join("a.txt"), 0o000);
        set_mode(&world.data().join("closed"), 0o700);
        let report = backup(&world, &[], 3).unwrap();
        assert_eq!(
            (&report["state"], &report["good"], &report["whole"]),
            (&"complete".into(), &true.into(), &false.into())
        );
        assert_eq!(listed(&report, "stale"), ["a.txt", "closed"]);
        assert_eq!(listed(&report, "errors"), [""; 0]);
        // The newest is what a restore takes, and in no entry worse than the one before.
        world.restore(&format!("out {round}"));
        let out = |path: &str| read(&world.path(format!("out {round}")).join(path));
        assert_eq!([out("a.txt"), out("closed/b.txt"), out("closed/deep/c.txt")], ["one"; 3]);
        assert_eq!(out("d.txt"), round);
        for item in report["stale"].as_array().unwrap() {
            assert!(item["since"].as_str().unwrap().starts_with(&since), "{item}: {since}");
            assert!(item["why"].as_str().unwrap().contains("Permission denied"), "{item}");
        }
        world.run(["verify", "--read-data"]).ended(0);
    }
    let list = world.run(["list"]);
    assert_eq!(list.text().lines().nth(1).unwrap().split_whitespace().nth(4), Some("stale"), "{list:?}");
    let ls = world.json(["ls", "latest", "--recursive"], 0);
    let stale: Vec<_> = ls.as_array().unwrap().iter().filter(|entry| entry["stale_since"].is_string()).collect();
    assert_eq!(stale.len(), 5, "{ls}");
    assert!(world.run(["ls", "latest"]).text().contains("(as of "));
    world.run(["cat", "latest", "closed/deep/c.txt"]).ended(0).says("and not as it was");
    assert!(!world.run(["cat", "latest", "d.txt"]).stderr.contains("and not as it was"));
    let restored = world.run(["restore", "told"]);
    assert!(restored.ended(0).text().contains("a.txt is as of"), "{restored:?}");

    // The script that vaults of today carry, which knows nothing of stale entries, gives the same.
    let today = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vaults/1");
    fs::write(world.path("restore.py"), restore_by_hand::script(&today)).unwrap();
    let mut python = Command::new("python3");
    python.arg(world.path("restore.py")).arg(world.vault()).arg(world.path("by hand")).env("TMPDIR", world.path(""));
    assert!(python.status().unwrap().success());
    restore_by_hand::same(&world.path("told"), &world.path("by hand"));

    set_mode(&world.data().join("a.txt"), 0o644);
    set_mode(&world.data().join("closed"), 0o777);
    let last = backup(&world, &[], 0).unwrap();
    assert_eq!(last["whole"], true);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn what_nothing_is_known_of_is_missing_and_holds_nothing_back() {
    let world = world();
    world.write("never.txt", "secret");
    set_mode(&world.data().join("never.txt"), 0o600);
    let Some(first) = backup(&world, &[], 3) else { return };
    assert_eq!((&first["state"], &first["good"]), (&"partial".into(), &false.into()));
    let accepted = backup(&world, &["--accept-missing"], 3).unwrap();
    assert_eq!(
        (&accepted["state"], &accepted["good"], &accepted["whole"]),
        (&"complete".into(), &true.into(), &false.into())
    );
    // From then on it says so itself.
    for day in ["two", "three"] {
        world.write("d.txt", day);
        let report = backup(&world, &[], 3).unwrap();
        assert_eq!((&report["good"], listed(&report, "errors")), (&true.into(), vec!["never.txt".to_owned()]));
        world.restore(&format!("out {day}"));
        assert_eq!(read(&world.path(format!("out {day}")).join("d.txt")), day);
    }
    backup(&world, &["--exit-zero-on", "stale"], 0).unwrap();
    // All that a run is short of has to be accepted.
    fs::write(world.path("no-folder"), "").unwrap();
    for (accepted, code) in [("stale", 3), ("incomplete-copies", 3), ("stale,incomplete-copies", 0)] {
        backup(&world, &["--vault", "no-folder", "--exit-zero-on", accepted], code).unwrap();
    }
    let told = world.run(["restore", "told"]);
    assert!(told.ended(0).text().contains("missing  never.txt: Permission denied"), "{told:?}");
}

#[test]
fn a_list_of_what_is_missing_that_is_damaged_stops_no_backup() {
    let world = world();
    let Some(_) = backup(&world, &[], 0) else { return };
    for n in 0..400 {
        let name = format!("an unreadable file with a long name {n:04}");
        world.write(&name, "x");
        set_mode(&world.data().join(&name), 0o000);
    }
    let known: Vec<_> = fs::read_dir(world.vault().join("index")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(listed(&backup(&world, &[], 3).unwrap(), "errors").len(), 400);
    let packs = fs::read_dir(world.vault().join("index")).unwrap().map(|entry| entry.unwrap().path());
    for pack in packs.filter(|path| !known.contains(path)) {
        let mut bytes = fs::read(&pack).unwrap();
        let at = bytes.len() / 3;
        bytes[at] ^= 1;
        set_mode(&pack, 0o600);
        fs::write(&pack, bytes).unwrap();
        set_mode(&pack, 0o644);
    }
    for text in ["two", "three"] {
        world.write("a.txt", text);
        let report = backup(&world, &[], 3).unwrap();
        assert_eq!((&report["good"], listed(&report, "errors").len()), (&Value::Bool(true), 400));
        world.restore(text);
        assert_eq!(read(&world.path(text).join("a.txt")), text);
    }
}

/// Leaves a WAL that SQLite cannot read, since the `-shm` beside it is open to its owner alone: the database is taken raw.
fn leftover_wal_of_others(database: &Path) {
    leftover_wal(database);
    fs::write(beside(database, "-shm"), "").unwrap();
    set_mode(&beside(database, "-shm"), 0);
}

#[test]
fn a_database_is_carried_over_with_what_lay_beside_it() {
    let world = world();
    let database = world.data().join("app.db");
    leftover_wal_of_others(&database);
    set_mode(&world.data(), 0o755);
    let Some(first) = backup(&world, &[], 0) else { return };
    assert_eq!(first["databases"][0]["taken"], "raw", "{first}");
    world.restore("before");
    // The app goes on, and nobody else may read the database: what lies beside it now is not its old log.
    run(&database, "PRAGMA wal_autocheckpoint=0; INSERT INTO t(x) VALUES ('more')");
    fs::write(world.data().join("app.db-wal"), "of another time").unwrap();
    set_mode(&database, 0o600);
    let report = backup(&world, &[], 3).unwrap();
    assert_eq!(listed(&report, "stale"), ["app.db"]);
    world.run(["verify"]).ended(0);
    world.restore("out");
    for name in ["app.db", "app.db-wal"] {
        assert_eq!(fs::read(world.path("before").join(name)).unwrap(), fs::read(world.path("out").join(name)).unwrap());
    }
    let ls = world.json(["ls", "latest"], 0);
    let stale: Vec<_> = ls.as_array().unwrap().iter().filter(|entry| entry["stale_since"].is_string()).collect();
    assert_eq!(stale.len(), 2, "{ls}");
    // A folder has the log's place now.
    fs::remove_file(world.data().join("app.db-wal")).unwrap();
    world.write("app.db-wal/file", "x");
    let report = backup(&world, &[], 3).unwrap();
    assert_eq!(listed(&report, "stale"), ["app.db"]);
    world.run(["verify"]).ended(0);
    world.restore("out2");
    assert!(world.path("out2/app.db-wal").is_file());
}

#[test]
fn a_folder_that_cannot_be_listed_is_carried_over_with_the_databases_in_it() {
    let world = world();
    let inner = world.data().join("closed/app.db");
    leftover_wal_of_others(&inner);
    world.write("closed/app.db (copies)/x", "x");
    for path in ["closed", "closed/app.db (copies)"] {
        set_mode(&world.data().join(path), 0o755);
    }
    let Some(first) = backup(&world, &[], 0) else { return };
    assert_eq!(first["databases"][0]["taken"], "raw", "{first}");
    world.restore("before");
    set_mode(&world.data().join("closed"), 0o700);
    for round in 0..2 {
        world.write("d.txt", format!("{round}"));
        let report = backup(&world, &[], 3).unwrap();
        assert_eq!((listed(&report, "stale"), listed(&report, "errors")), (vec!["closed".to_owned()], vec![]));
        let out = format!("out{round}");
        world.restore(&out);
        assert_same(&world.path("before/closed/deep"), &world.path(&out).join("closed/deep"));
        for name in ["app.db", "app.db-wal", "app.db (copies)/x"] {
            let read = |from: &Path| fs::read(from.join("closed").join(name)).unwrap();
            assert_eq!(read(&world.path("before")), read(&world.path(&out)), "{name}");
        }
    }
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn a_database_that_was_taken_as_a_file_is_carried_over_with_its_log() {
    let world = world();
    leftover_wal(&world.data().join("app.db"));
    let Some(first) = backup(&world, &["--no-sqlite"], 0) else { return };
    assert_eq!(first["databases"].as_array().unwrap().len(), 0);
    world.restore("before");
    set_mode(&world.data().join("app.db"), 0o600);
    let report = backup(&world, &[], 3).unwrap();
    assert_eq!(listed(&report, "stale"), ["app.db", "app.db-wal"]);
    world.restore("out");
    for name in ["app.db", "app.db-wal"] {
        assert_eq!(fs::read(world.path("before").join(name)).unwrap(), fs::read(world.path("out").join(name)).unwrap());
    }
}

#[test]
fn another_name_of_a_carried_log_has_what_is_there_now() {
    let world = world();
    let log = world.data().join("app.db-wal");
    world.write("app.db", vec![7; 8192]);
    let mut old = vec![0x37, 0x7f, 0x06, 0x83];
    old.extend([1; 3000]);
    fs::write(&log, old).unwrap();
    fs::hard_link(&log, world.data().join("zlink")).unwrap();
    let Some(_) = backup(&world, &[], 0) else { return };
    set_mode(&world.data().join("app.db"), 0o600);
    world.write("zlink", "what is there now");
    for _ in 0..2 {
        let report = backup(&world, &[], 3).unwrap();
        assert!(listed(&report, "stale").contains(&"app.db".to_owned()), "{report}");
        assert_eq!(world.run(["cat", "latest", "zlink"]).ended(0).text(), "what is there now");
    }
}

#[test]
fn what_the_newest_of_two_vaults_has_is_carried_over() {
    let world = world();
    let both = ["backup", "data", "--init", "--vault", "one", "--vault", "two", "--json"];
    let Some(first) = as_nobody(&world, &both) else { return };
    first.ended(0);
    // One is away.
    fs::rename(world.path("one"), world.path("away")).unwrap();
    fs::write(world.path("one"), "no vault").unwrap();
    world.write("a.txt", "two");
    as_nobody(&world, &both).unwrap().ended(3);
    fs::remove_file(world.path("one")).unwrap();
    fs::rename(world.path("away"), world.path("one")).unwrap();
    set_mode(&world.data().join("a.txt"), 0o000);
    world.write("d.txt", "three");
    as_nobody(&world, &both).unwrap().ended(3);
    for vault in ["one", "two"] {
        let cat = |path: &str| world.run(["cat", "--vault", vault, "latest", path]).ended(0).text().to_owned();
        assert_eq!((cat("a.txt"), cat("d.txt")), ("two".to_owned(), "three".to_owned()), "{vault}");
    }
}

#[test]
fn what_a_narrow_backup_did_not_take_is_not_lost() {
    let world = world();
    let Some(_) = backup(&world, &[], 0) else { return };
    backup(&world, &["--include", "d.txt", "--accept-shrink"], 0).unwrap();
    set_mode(&world.data().join("a.txt"), 0o000);
    let report = backup(&world, &[], 3).unwrap();
    assert_eq!((listed(&report, "stale"), listed(&report, "errors")), (vec!["a.txt".to_owned()], vec![]));
    // Nor what was in a folder.
    set_mode(&world.data().join("a.txt"), 0o644);
    backup(&world, &["--exclude", "closed", "--accept-shrink"], 0).unwrap();
    set_mode(&world.data().join("closed/b.txt"), 0o000);
    let report = backup(&world, &[], 3).unwrap();
    assert_eq!((listed(&report, "stale"), listed(&report, "errors")), (vec!["closed/b.txt".to_owned()], vec![]));
    backup(&world, &["--include", "*.csv", "--include", "d.txt", "--accept-shrink"], 0).unwrap();
    set_mode(&world.data().join("closed"), 0o700);
    let report = backup(&world, &[], 3).unwrap();
    assert_eq!(
        (listed(&report, "stale"), listed(&report, "errors")),
        (vec!["closed".to_owned(), "closed/b.txt".to_owned()], vec![])
    );
    assert_eq!(world.run(["cat", "latest", "closed/deep/c.txt"]).ended(0).text(), "one");
    set_mode(&world.data().join("closed"), 0o777);
    set_mode(&world.data().join("closed/b.txt"), 0o644);
    backup(&world, &[], 0).unwrap();
    set_mode(&world.data().join("a.txt"), 0o000);
    // Entries that are excluded today are not carried over, nor are they missed.
    set_mode(&world.data().join("closed"), 0o700);
    let report = backup(&world, &["--exclude", "a.txt", "--exclude", "deep"], 3).unwrap();
    assert_eq!((listed(&report, "stale"), listed(&report, "errors")), (vec!["closed".to_owned()], vec![]));
    assert_eq!(paths(&world.json(["ls", "latest", "--recursive"], 0)), ["closed", "closed/b.txt", "d.txt"]);
}

#[test]
fn names_of_one_file_stay_one_file() {
    let world = world();
    fs::hard_link(world.data().join("closed/b.txt"), world.data().join("closed/e.txt")).unwrap();
    fs::hard_link(world.data().join("closed/b.txt"), world.data().join("f.txt")).unwrap();
    let Some(_) = backup(&world, &[], 0) else { return };
    set_mode(&world.data().join("closed"), 0o700);
    world.write("f.txt", "two");
    backup(&world, &[], 3).unwrap();
    world.restore("out");
    let inode = |path: &str| fs::metadata(world.path("out").join(path)).unwrap().ino();
    assert_eq!(inode("closed/b.txt"), inode("closed/e.txt"));
    assert_ne!(inode("closed/b.txt"), inode("f.txt"));
    assert_eq!((read(&world.path("out/closed/e.txt")), read(&world.path("out/f.txt"))), ("one".into(), "two".into()));
}

#[test]
fn a_directory_of_which_nothing_can_be_read_is_an_error() {
    let world = World::new();
    world.write("only.txt", "one");
    set_mode(&world.path("data"), 0o777);
    set_mode(&world.path(""), 0o777);
    let Some(_) = backup(&world, &[], 0) else { return };
    set_mode(&world.data().join("only.txt"), 0o000);
    let ran = as_nobody(&world, &["backup", "data", "--vault", "backups"]).unwrap();
    ran.ended(1).says("no file in it can be read").says("only.txt: Permission denied");
    assert_eq!(world.json(["list"], 0).as_array().unwrap().len(), 1);
    set_mode(&world.data(), 0o700);
    as_nobody(&world, &["backup", "data", "--vault", "backups"]).unwrap().ended(1).says("Permission denied");
}

#[test]
fn a_log_that_grows_all_the_time_is_whole() {
    let world = world();
    let log = world.data().join("busy.log");
    fs::write(&log, vec![b'x'; 3_000_000]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write;
            let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"line\n").unwrap();
            }
        });
        for round in 0..3 {
            let report = world.backup();
            assert_eq!((&report["whole"], report["warnings"].as_array().unwrap().len()), (&true.into(), 0), "{report}");
            world.restore(&format!("out{round}"));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let now = fs::read(&log).unwrap();
    for round in 0..3 {
        let then = fs::read(world.path(format!("out{round}/busy.log"))).unwrap();
        assert!(then.len() >= 3_000_000 && now.starts_with(&then));
    }
}
