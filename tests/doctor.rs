//! `lastgood doctor`: it finds what is wrong, says what to do, writes nothing and answers soon.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bucket::GCS;
use crate::support::database::run;
use crate::support::doctor::{assert_check, check, complaints};
use crate::support::fuse::GcsFuse;
use crate::support::requirements::{Mounted, as_nobody};
use crate::support::{MARKED, Ran, World, tree};

#[test]
fn a_laptop_with_nothing_configured() {
    let world = World::with_files();
    let report = world.json(["doctor"], 0);
    assert_eq!(complaints(&report), [("vault", "warning")], "{report:#}");
    assert!(!world.vault().exists());
    world.backup();
    let report = world.json(["doctor"], 0);
    assert_eq!((&report["problems"], &report["warnings"]), (&json!(0), &json!(0)), "{report:#}");
    assert_check(&report, "snapshots", "ok", "1; the newest", "");
    assert_check(&report, "directory", "ok", "6 entries", "");
    let ran = world.run(["doctor"]);
    assert!(ran.ended(0).text().ends_with("Nothing stands in the way of a backup or a restore.\n"), "{ran:?}");
    assert!(ran.stderr.is_empty() && !ran.text().contains('\u{1b}'), "{ran:?}");

    // Where the vault was: another folder.
    std::fs::remove_file(world.vault().join("vault.json")).unwrap();
    let report = world.json(["doctor"], 1);
    assert_check(&report, "vault", "problem", "vault.json is missing", "Put vault.json back");
    std::fs::remove_dir_all(world.vault()).unwrap();
    std::fs::create_dir(world.vault()).unwrap();
    std::fs::write(world.vault().join("thesis.tex"), "").unwrap();
    let report = world.json(["doctor"], 1);
    assert_check(&report, "other files", "problem", "thesis.tex", "lastgood init");
}

#[test]
fn snapshots_that_are_old_or_not_good() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    assert_check(&world.json(["doctor"], 0), "snapshots", "warning", "none yet", "lastgood backup");
    world.backup();
    std::thread::sleep(Duration::from_millis(1100));
    assert_check(&world.json(["doctor", "--max-age", "1s"], 0), "age", "warning", "more than 1 s", "Cloud Scheduler");
    assert_check(&world.json(["doctor"], 0), "age", "ok", "old", "");
    std::fs::remove_dir_all(world.data()).unwrap();
    std::fs::create_dir(world.data()).unwrap();
    world.run(["backup"]).ended(3);
    let report = world.json(["doctor"], 1);
    assert_check(&report, "snapshots", "warning", "it is suspect", "A restore takes");
    assert_check(&report, "directory", "problem", "empty", "lastgood restore --vault");

    let empty = World::new();
    std::fs::create_dir(empty.data()).unwrap();
    assert_check(&empty.json(["doctor"], 0), "directory", "warning", "empty", "volume");
    empty.run(["backup"]).ended(3);
    assert_check(&empty.json(["doctor"], 1), "snapshots", "problem", "its only snapshot is not good", "by its id");
}

#[test]
fn a_data_directory_that_is_missing_broken_or_no_directory() {
    let world = World::with_files();
    world.backup();
    std::fs::rename(world.data(), world.path("lost")).unwrap();
    let report = world.json(["doctor"], 1);
    let vault = world.vault().canonicalize().unwrap();
    let command = format!("lastgood restore --vault {} {}", vault.display(), vault.with_file_name("data").display());
    assert_check(&report, "directory", "problem", "does not exist", &command);
    assert_eq!(complaints(&report), [("directory", "problem")], "{report:#}");
    let report = world.json(["doctor", "lost"], 0);
    assert_eq!(complaints(&report), [], "{report:#}");

    std::fs::write(world.data(), "").unwrap();
    assert_check(&world.json(["doctor"], 1), "directory", "problem", "not a directory", "LASTGOOD_DATA");
    std::fs::write(world.path("lost/.lastgood-in-place"), MARKED).unwrap();
    assert_check(&world.json(["doctor", "lost"], 1), "directory", "problem", "broken", "--in-place");
    for (data, vault) in [("backups", "backups"), ("backups/x", "backups"), (".", "backups")] {
        let report = world.json(["doctor", data, "--vault", vault], 1);
        assert_eq!(check(&report, "apart")["outcome"], "problem", "{report:#}");
    }
}

#[test]
fn what_is_mounted_read_only_is_no_matter_of_owners() {
    let world = World::with_files();
    world.backup();
    let Some(mounted) = Mounted::new(world.path("volume"), "16m") else { return };
    std::fs::create_dir(world.path("volume/data")).unwrap();
    mounted.remount("ro");
    for data in ["volume", "volume/data"] {
        assert_check(&world.json(["doctor", data], 1), "restore", "problem", "written to", "It is mounted read-only");
    }
}

#[test]
fn what_another_user_cannot_read_or_write() {
    let world = World::with_files();
    world.backup();
    tree::open_to_all(&world.vault());
    for path in ["a.txt", "uploads/x"] {
        tree::set_mode(&world.data().join(path), 0);
    }
    let Some(ran) = as_nobody(&world, &["doctor", "--json"]) else { return };
    let report: Value = serde_json::from_slice(&ran.ended(1).stdout).unwrap();
    assert_check(&report, "readable", "problem", "a.txt: Permission denied", "not whole");
    assert_check(&report, "readable", "problem", "uploads/x: Permission denied", "not whole");
    assert_check(&report, "folder", "problem", "cannot write to it", "owner or mode");
    tree::set_mode(&world.path(""), 0o755);
    let Some(ran) = as_nobody(&world, &["doctor", "--json"]) else { return };
    let report: Value = serde_json::from_slice(&ran.ended(1).stdout).unwrap();
    assert_check(&report, "restore", "problem", "cannot be written to", "a user who may");
}

#[test]
fn mounts_and_room() {
    let world = World::new();
    let Some(_small) = Mounted::new(world.path("data"), "8m") else { return };
    world.write("noise", tree::noise(1, 5 << 20));
    world.backup();
    let report = world.json(["doctor"], 1);
    assert_check(&report, "restore", "ok", "a mount point", "");
    assert_check(&report, "space", "ok", "the last good backup wrote", "");
    let space = report["parts"][1]["checks"].as_array().unwrap().iter().find(|check| check["name"] == "space").unwrap();
    assert!(space["outcome"] == "problem" && space["found"].as_str().unwrap().contains("takes 5.0"), "{space}");

    let Some(_full) = Mounted::new(world.path("full"), "64k") else { return };
    let report = world.json(["doctor", "--vault", "full"], 1);
    assert_check(&report, "space", "problem", "full", "--vault");
    let report = world.with("CLOUD_RUN_JOB", "nightly").with("LASTGOOD_DATA", "data").json(["doctor"], 1);
    assert_check(&report, "folder", "warning", "lost with the instance", "gs://");
}

#[test]
fn databases_on_a_mounted_bucket() {
    let world = World::new();
    for name in ["bucket/data", "mnt"] {
        std::fs::create_dir_all(world.path(name)).unwrap();
    }
    let Some(_mounted) = GcsFuse::mount(&world.path("bucket"), &world.path("mnt"), GCS) else { return };
    std::fs::write(world.path("mnt/data/a.csv"), "1,2\n").unwrap();
    let report = world.json(["doctor", "mnt/data"], 0);
    assert_check(&report, "filesystem", "ok", "FUSE", "");
    assert_check(&report, "restore", "ok", "--in-place", "");
    run(&world.path("app.db"), "create table t(a); insert into t values (1)");
    std::fs::copy(world.path("app.db"), world.path("mnt/data/app.db")).unwrap();
    let report = world.json(["doctor", "mnt/data"], 0);
    assert_check(&report, "filesystem", "warning", "SQLite databases are on FUSE", "local disk");
    assert_check(&report, "directory", "ok", "1 SQLite database", "");
}

#[test]
fn wrong_usage() {
    let world = World::with_files();
    for args in [&["doctor", "--max-age", "soon"][..], &["doctor", "a", "b"], &["doctor", "--vault", "s3://x"]] {
        world.run(args).ended(2);
    }
    let ran: Ran = world.with("BACKUP_BUCKET_NAME", "a-1").with("GCS_BUCKET_NAME", "b-1").run(["doctor"]);
    ran.ended(2).says("BACKUP_BUCKET_NAME says a-1");
}

#[test]
fn what_restores_left_is_told_until_it_is_deleted() {
    let world = World::with_files();
    world.backup();
    assert_eq!(complaints(&world.json(["doctor"], 0)), [("", ""); 0]);
    world.write("a.txt", "later");
    world.run(["restore"]).ended(0);
    let report = world.json(["doctor"], 0);
    assert_check(&report, "moved aside", "warning", "data.replaced-", "nothing is missing");
    assert_eq!(complaints(&report), [("moved aside", "warning")], "{report:#}");
    // As a restore leaves it that is killed while it builds the new directory.
    fs::create_dir(world.path(".data.lastgood-restoring-0123456789abcdef")).unwrap();
    let report = world.json(["doctor"], 0);
    assert_check(&report, "staging", "warning", ".data.lastgood-restoring-0123456789abcdef", "next restore");
    let told = world.run(["doctor"]);
    assert!(told.ended(0).text().contains("moved aside") && told.text().contains("staging"), "{told:?}");
    for left in fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap()) {
        if left.file_name().to_str().unwrap().contains("data.") {
            fs::remove_dir_all(left.path()).unwrap();
        }
    }
    assert_eq!(complaints(&world.json(["doctor"], 0)), [("", ""); 0]);
}
