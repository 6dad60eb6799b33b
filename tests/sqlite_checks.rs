//! Databases that are checked while they are taken, what a failed check means, and checks of what was stored.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::compare::{assert_same, assert_same_but_folder_times};
use crate::support::database::{run, table, taken};
use crate::support::tree::noise;
use crate::support::{World, id, short};

/// Makes a database whose index is not what its table says. Only the full check looks.
fn wrong_index(path: &Path) {
    run(path, &table(500, 100));
    run(
        path,
        "ALTER TABLE t ADD COLUMN a INTEGER; ALTER TABLE t ADD COLUMN b INTEGER;
         UPDATE t SET a = id, b = 1000 - id;
         CREATE INDEX i ON t(a);
         PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t(b)' WHERE name = 'i';",
    );
}

/// Puts noise where a leaf of the table was. Every check sees it, and reading the pages does not.
fn wrong_page(path: &Path) {
    run(path, &table(500, 1000));
    let pages = path.metadata().unwrap().len() / 4096;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&noise(1, 4096), (pages - 3) * 4096).unwrap();
}

/// Returns what a report says about a database's check: its kind, and whether it failed.
#[track_caller]
fn check<'a>(report: &'a Value, path: &str) -> Option<(&'a str, bool)> {
    let databases = report["databases"].as_array().unwrap();
    let found = databases.iter().find(|d| d["path"] == path).unwrap_or_else(|| panic!("no {path} in {report}"));
    let check = found.get("check").filter(|check| !check.is_null())?;
    Some((check["kind"].as_str().unwrap(), check.get("failed").is_some_and(|failed| !failed.is_null())))
}

#[test]
fn only_when_told_to_or_when_it_is_critical() {
    for (args, expected) in [
        (&["backup"][..], None),
        (&["backup", "--check-databases=off"], None),
        (&["backup", "--check-databases=quick"], Some(("quick", false))),
        (&["backup", "--check-databases=full"], Some(("full", false))),
        (&["backup", "--reason", "critical"], Some(("quick", false))),
        (&["backup", "--reason", "critical", "--check-databases=off"], None),
        (&["backup", "--reason", "critical", "--check-databases", "full"], Some(("full", false))),
    ] {
        let world = World::new();
        run(&world.data().join("app.db"), &table(100, 1000));
        run(&world.data().join("wal.db"), &format!("PRAGMA journal_mode=WAL; {}", table(100, 1000)));
        let report = world.json(args, 0);
        for path in ["app.db", "wal.db"] {
            assert_eq!(check(&report, path), expected, "{args:?}: {report}");
        }
        assert_eq!(report["good"], true, "{args:?}: {report}");
        world.restore("back");
        assert_same_but_folder_times(&world.data(), &world.path("back"));
    }
    let world = World::with_files();
    world.run(["backup", "--check-databases=thorough"]).ended(2);
}

#[test]
fn unchanged_databases_are_checked_too() {
    let world = World::new();
    let path = world.data().join("app.db");
    run(&path, &table(100, 1000));
    crate::support::tree::set_mtime(&path, 1_700_000_000, 5);
    for _ in 0..2 {
        assert_eq!(check(&world.backup(), "app.db"), None);
    }
    let report = world.json(["backup", "--check-databases=full"], 0);
    assert_eq!(check(&report, "app.db"), Some(("full", false)), "{report}");
}

#[test]
fn a_wrong_index_is_found_by_the_full_check_and_not_by_the_quick_one() {
    let world = World::new();
    wrong_index(&world.data().join("app.db"));
    let quick = world.json(["backup", "--check-databases=quick"], 0);
    assert_eq!((check(&quick, "app.db"), &quick["good"]), (Some(("quick", false)), &json!(true)));
    let full = world.json(["backup", "--check-databases=full"], 3);
    assert_eq!((check(&full, "app.db"), &full["good"]), (Some(("full", true)), &json!(false)));
    let said = full["databases"][0]["check"]["failed"].as_str().unwrap();
    assert!(said.contains("index i") || said.contains("row"), "{said}");
    assert!(!said.contains('\n'), "{said:?}");
}

#[test]
fn a_failed_check_is_kept_and_passed_over_until_it_is_mended() {
    let world = World::new();
    let path = world.data().join("app.db");
    run(&path, &table(500, 1000));
    run(&world.data().join("sound.db"), &table(10, 100));
    let good = world.backup();
    let was = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    wrong_page(&path);

    let ran = world.run(["backup", "--check-databases=quick"]);
    ran.ended(3).says("app.db");
    let failed = world.json(["backup", "--check-databases=quick"], 3);
    assert_eq!(taken(&failed)["app.db"], "live");
    assert_eq!((check(&failed, "app.db"), check(&failed, "sound.db")), (Some(("quick", true)), Some(("quick", false))));
    assert_eq!((&failed["state"], &failed["good"]), (&json!("complete"), &json!(false)));
    let said = failed["databases"][0]["check"]["failed"].as_str().unwrap();
    assert!(said.contains("page") && !said.contains('\n'), "one line that says what was found: {said:?}");

    // It is kept, and whoever asks for it gets it.
    let list = world.json(["list"], 0);
    assert_eq!(list.as_array().unwrap().len(), 3, "{list}");
    world.restore_snapshot(short(&failed), "failed");
    assert_same(&world.data(), &world.path("failed"));
    // The newest good one is another.
    let restored = world.restore("back");
    assert_eq!(restored["snapshot"], good["snapshot"]);
    let over = restored["passed_over"].as_array().unwrap();
    assert_eq!(over.len(), 2, "{restored}");
    assert!(over.iter().any(|over| over.to_string().contains(id(&failed))), "{restored}");
    let ran = world.run(["restore", "back", "--quiet", "--snapshot", "latest"]);
    ran.ended(0);
    let ran = world.run(["restore", "again"]);
    assert!(ran.ended(0).text().contains("check") || ran.stderr.contains("check"), "{ran:?}");

    // Without being told to, the next one looks again: the fault is still there.
    let unasked = world.json(["backup"], 3);
    assert_eq!((check(&unasked, "app.db").map(|c| c.1), &unasked["good"]), (Some(true), &json!(false)), "{unasked}");
    assert_eq!(check(&unasked, "sound.db"), None, "{unasked}");

    // Mended, it is good again, and no longer looked at unasked after that.
    fs::write(&path, &was).unwrap();
    let mended = world.backup();
    assert_eq!((check(&mended, "app.db").map(|c| c.1), &mended["good"]), (Some(false), &json!(true)), "{mended}");
    assert_eq!(world.restore("mended")["snapshot"], mended["snapshot"]);
    assert_eq!(check(&world.backup(), "app.db"), None);
}

#[test]
fn what_was_stored_can_be_checked_later() {
    let world = World::new();
    run(&world.data().join("a/app.db"), &table(500, 1000));
    run(&world.data().join("wal.db"), &format!("PRAGMA journal_mode=WAL; {}", table(500, 1000)));
    world.write("notes.txt", "not a database");
    let sound = world.backup();
    let verified = world.json(["verify", "--databases"], 0);
    let databases = verified["databases"].as_array().unwrap();
    let paths: Vec<_> = databases.iter().map(|d| (d["path"].as_str().unwrap(), d["taken"].as_str().unwrap())).collect();
    assert_eq!(paths, [("a/app.db", "live"), ("wal.db", "live")]);
    assert!(databases.iter().all(|d| d["snapshot"] == sound["snapshot"] && d.get("failed").is_none()), "{verified}");

    wrong_index(&world.data().join("wrong.db"));
    let wrong = world.backup();
    let verified = world.json(["verify", "--databases"], 4);
    let failed: Vec<_> =
        verified["databases"].as_array().unwrap().iter().filter(|d| d.get("failed").is_some()).collect();
    assert_eq!(failed.len(), 1, "{verified}");
    assert_eq!((&failed[0]["path"], &failed[0]["snapshot"]), (&json!("wrong.db"), &wrong["snapshot"]), "{verified}");
    let ran = world.run(["verify", "--databases"]);
    assert!(ran.ended(4).text().contains("wrong.db"), "{ran:?}");
    // The one before it is as sound as it was.
    world.json(["verify", &format!("--databases={}", short(&sound))], 0);
    world.run(["verify", "--databases=no-such"]).ended(2);
}

#[test]
fn what_was_taken_raw_is_recovered_and_checked() {
    let world = World::new();
    fs::create_dir_all(world.data()).unwrap();
    let path = world.data().join("app.db");
    run(&path, &table(2000, 1000));
    let mut app = crate::support::database_process::Other::serving(&path, "PRAGMA cache_size=10");
    app.ask("BEGIN IMMEDIATE");
    app.ask("UPDATE t SET x = randomblob(1000)");
    app.kill();
    let report = world.backup();
    assert_eq!(taken(&report)["app.db"], "raw");
    let verified = world.json(["verify", "--databases"], 0);
    assert_eq!(verified["databases"][0]["taken"], "raw", "{verified}");
    // Its journal lies beside it in the scratch folder too, and is played back there.
    assert!(verified["databases"][0].get("failed").is_none(), "{verified}");
}
