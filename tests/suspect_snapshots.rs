//! A snapshot that looks like an accident is kept and never restored unasked; intended changes are good.

use std::fs;

use serde_json::Value;

use crate::support::World;
use crate::support::database::{run, table};
use crate::support::requirements::Mounted;
use crate::support::tree::noise;

fn text(report: &Value, field: &str) -> String {
    report[field].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_log_that_is_rotated_away_holds_nothing_back() {
    let world = World::new();
    world.write("log", noise(1, 3_000_000));
    for n in 0..3 {
        world.write(&format!("f{n}"), "v1");
    }
    world.backup();
    fs::remove_file(world.data().join("log")).unwrap();
    for day in 1..=3 {
        world.write("f1", format!("day {day}"));
        let report = world.json(["backup", "--reason", "schedule"], 0);
        let told = report["warnings"].as_array().unwrap().len();
        assert_eq!((&report["good"], told), (&true.into(), usize::from(day == 1)), "{report}");
    }
    world.restore("out");
    assert_eq!(fs::read_to_string(world.path("out/f1")).unwrap(), "day 3");
}

#[test]
fn a_database_that_is_gone_or_was_emptied_is_suspect() {
    let world = World::new();
    world.write("other", noise(1, 2_000_000));
    let path = world.data().join("app.db");
    run(&path, &table(300, 1000));
    world.backup();
    run(&path, "DELETE FROM t; VACUUM");
    let report = world.json(["backup"], 3);
    assert!(text(&report, "suspect").contains("app.db has less than a tenth"), "{report}");
    fs::remove_file(&path).unwrap();
    let report = world.json(["backup"], 3);
    assert!(text(&report, "suspect").contains("app.db is gone"), "{report}");
    let ran = world.run(["restore", "out"]);
    assert!(ran.ended(0).text().contains("was passed over: it is suspect: the database app.db is gone"), "{ran:?}");
    assert!(world.path("out/app.db").is_file());
    world.json(["backup", "--accept-shrink"], 0);
    world.restore("out2");
    assert!(!world.path("out2/app.db").exists());
}

#[test]
fn a_filesystem_that_is_not_mounted_any_more_is_suspect() {
    let world = World::new();
    for n in 0..20 {
        world.write(&format!("f{n}"), noise(n, 10_000));
    }
    {
        let Some(_mounted) = Mounted::new(world.data().join("uploads"), "4m") else { return };
        world.write("uploads/one", "one");
        world.backup();
    }
    let report = world.json(["backup"], 3);
    assert!(text(&report, "suspect").contains("(tmpfs) is not mounted at uploads any more"), "{report}");
    // A mount that is excluded, or in an excluded folder, is not missed, nor is one whose content was copied to its place.
    world.json(["backup", "--exclude", "uploads"], 0);
    world.write("uploads/one", "one");
    world.json(["backup"], 0);
}

#[test]
fn another_directory_is_told_and_what_it_loses_counts() {
    let world = World::new();
    for n in 0..20 {
        world.write(&format!("f{n}"), noise(n, 10_000));
    }
    world.backup();
    fs::create_dir(world.path("other")).unwrap();
    for n in 0..20 {
        fs::write(world.path("other").join(format!("g{n}")), noise(100 + n, 10_000)).unwrap();
    }
    let report = world.json(["backup", "other"], 0);
    let warned = report["warnings"].to_string();
    assert!(warned.contains("the last complete snapshot is of") && warned.contains("/data on "), "{report}");
    let list = world.json(["list"], 0);
    assert!(text(&list[0], "data").ends_with("/other"), "{list}");
    // Each is compared with its own.
    world.backup();
    fs::create_dir(world.path("third")).unwrap();
    fs::write(world.path("third/one"), "one").unwrap();
    let report = world.json(["backup", "third"], 3);
    assert!(text(&report, "suspect").contains("not the directory of the last"), "{report}");
}

#[test]
fn a_filter_that_takes_a_part_is_told() {
    let world = World::new();
    for n in 0..40 {
        world.write(&format!("f{n}"), noise(n, 1000));
    }
    world.write("uploads/1", "1");
    world.backup();
    let report = world.json(["backup", "--include", "uploads/**"], 3);
    assert!(text(&report, "suspect").contains("less than a tenth"), "{report}");
    let report = world.json(["backup", "--include", "f1*"], 0);
    let warned = report["warnings"].to_string();
    assert!(warned.contains("less than half") && warned.contains("--include f1*, and before all of them"), "{report}");
    // One that chooses nothing, by mistake, makes no good snapshot, whatever was before.
    for vault in ["backups", "new"] {
        let report = world.json(["backup", "--init", "--vault", vault, "--include", "typo"], 3);
        assert!(text(&report, "suspect").contains("chosen by --include typo"), "{report}");
    }
    let list = world.json(["list"], 0);
    assert_eq!(list[1]["filters"]["include"], serde_json::json!(["f1*"]));
}

#[test]
fn the_service_is_kept() {
    let world = World::with_files();
    world.json(["backup", "--service", "shop"], 0);
    world.backup();
    let list = world.json(["list"], 0);
    assert_eq!((&list[1]["service"], &list[0]["service"]), (&"shop".into(), &Value::Null));
    let world = World::with_files().with("LASTGOOD_SERVICE", "till").with("K_SERVICE", "not this");
    world.json(["backup", "data"], 0);
    assert_eq!(world.json(["list"], 0)[0]["service"], "till");
}
