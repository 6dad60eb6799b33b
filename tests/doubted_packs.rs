//! Packs that are damaged: who doubts them, who reads them before acting on a doubt, and what comes of that.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::compare::assert_same_but_folder_times as assert_same;
use crate::support::database;
use crate::support::requirements::as_nobody;
use crate::support::tree::{noise, open_to_all, set_mode, set_mtime};
use crate::support::{World, id, short};

/// Returns the largest object in a folder of a vault.
fn largest(vault: &Path, folder: &str) -> PathBuf {
    let objects = fs::read_dir(vault.join(folder)).unwrap().map(|entry| entry.unwrap());
    objects.max_by_key(|object| object.metadata().unwrap().len()).unwrap().path()
}

/// Spoils a byte of an object, or puts it right again.
fn spoil(object: &Path) {
    let mut bytes = fs::read(object).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0xff;
    fs::write(object, bytes).unwrap();
}

fn doubts(vault: &Path) -> Vec<String> {
    let names = fs::read_dir(vault.join("doubts")).into_iter().flatten();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn files(world: &World) {
    for n in 0..4 {
        world.write(&format!("f{n}"), noise(n, 300_000));
    }
}

fn touch(world: &World, seconds: i64) {
    for n in 0..4 {
        set_mtime(&world.data().join(format!("f{n}")), seconds, 5);
    }
}

#[test]
fn the_snapshot_after_a_pack_was_found_damaged_is_whole() {
    for folder in ["packs", "index"] {
        let world = World::new();
        files(&world);
        let database = world.data().join("app.db");
        database::run(&database, &database::table(2000, 300));
        world.backup();
        // Its map has layers in more than one pack then.
        database::run(&database, "UPDATE t SET x = randomblob(300) WHERE id % 50 = 0");
        let first = world.backup();
        let object = largest(&world.vault(), folder);
        spoil(&object);
        let verified = world.json(["verify", "--read-data"], 4);
        let name = format!("{folder}/{}", object.file_name().unwrap().to_str().unwrap());
        assert_eq!(verified["doubts"][0]["packs"][0]["name"], json!(name), "{verified}");
        assert_eq!(verified["doubts"][0]["packs"][0]["state"], "damaged");
        let made = doubts(&world.vault());
        assert_eq!(made.len(), 1, "{made:?}");
        let doubt: Value =
            serde_json::from_slice(&fs::read(world.vault().join("doubts").join(&made[0])).unwrap()).unwrap();
        assert_eq!((&doubt["action"], doubt["run"].is_string()), (&json!("verify"), true), "{doubt}");
        // No flood: it is doubted already.
        let text = world.run(["verify"]);
        assert!(text.ended(4).text().contains("stays a doubt:"), "{text:?}");
        assert!(text.text().contains("the newest good snapshot, is HURT"), "{text:?}");
        assert_eq!(doubts(&world.vault()), made);
        world.run(["doctor", "data"]).ended(0);
        let doctor = world.run(["doctor", "data"]);
        assert!(doctor.text().contains("the newest good snapshot needs it"), "{doctor:?}");

        // Nothing changed, and the content of the pack is stored again.
        let second = world.run(["backup", "--verify-content", "--json"]);
        second.ended(0).says("is not what was stored");
        touch(&world, 1_700_000_000);
        let third = world.json(["backup", "--verify-content"], 0);
        assert_eq!(third["warnings"], json!([]), "nothing is built on it any more");
        let restored = world.restore("out");
        assert_eq!(id(&restored), id(&third));
        assert_same(&world.data(), &world.path("out"));
        // The damaged pack stays damaged, and `verify` reports it.
        let verified = world.json(["verify"], 4);
        assert!(verified["damage"][0]["snapshots"].to_string().contains(id(&first)), "{verified}");
        assert!(!verified["damage"].to_string().contains(id(&third)), "{verified}");
        assert_eq!(verified["newest_good"], json!({"snapshot": third["snapshot"], "hurt": false}));
        assert!(world.run(["verify"]).ended(4).text().contains("the newest good snapshot, is not hurt"));
        world.run(["list"]).ended(0).says("may be damaged").says("needs nothing of that");
    }
}

#[test]
fn a_restore_takes_an_older_snapshot_in_place_of_a_damaged_one_aloud() {
    let world = World::new();
    files(&world);
    let first = world.backup();
    world.run(["restore", "before"]).ended(0);
    world.write("new", noise(9, 400_000));
    let known: Vec<_> = fs::read_dir(world.vault().join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let second = world.backup();
    let packs = fs::read_dir(world.vault().join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let new: Vec<_> = packs.filter(|path| !known.contains(path)).collect();
    spoil(&new[0]);

    // Found while it is read, and then known.
    for (target, doubted) in [("one", 0), ("two", 1)] {
        assert_eq!(doubts(&world.vault()).len(), doubted);
        let report = world.json(["restore", target], 3);
        assert_eq!((id(&report), report["instead_of"].as_str()), (id(&first), Some(id(&second))));
        assert_eq!(report["passed_over"][0]["snapshot"].as_str(), Some(id(&second)), "{report}");
        assert!(report["passed_over"][0]["why"].as_str().unwrap().contains("damaged"), "{report}");
        assert_same(&world.path("before"), &world.path(target));
    }
    let text = world.run(["restore", "three"]);
    assert!(text.ended(3).says("is passed over").text().contains("OLDER"), "{text:?}");

    // By name there is no other one, and what can be got out can be got out.
    world.run(["restore", "named", "--snapshot", short(&second)]).ended(4).says("--snapshot latest");
    assert!(!world.path("named").exists());
    let report = world.json(["restore", "got", "--skip-damaged"], 3);
    assert_eq!((id(&report), report["not_restored"].as_array().unwrap().len()), (id(&second), 1));
    // A file that the pack does not hold.
    let report = world.json(["restore", "part", "--path", "f1"], 0);
    assert_eq!(id(&report), id(&second));

    // It is put right, and nobody doubts it any more.
    spoil(&new[0]);
    let report = world.json(["restore", "right"], 0);
    assert_eq!(id(&report), id(&second));
    let left = doubts(&world.vault());
    assert!(left.len() == 2 && left.iter().any(|name| name.ends_with(".lifted.json")), "{left:?}");
    assert_eq!(world.json(["verify"], 0)["doubts"], json!([]));
}

#[test]
fn a_backup_finds_damage_by_itself_and_builds_on_it_no_more() {
    let world = World::new();
    files(&world);
    world.backup();
    let object = largest(&world.vault(), "packs");
    spoil(&object);
    // One of two packs is looked at each time, at random: sixty times the wrong one is not to be expected.
    let found = (0..60).any(|_| {
        let report = world.backup();
        report["warnings"].to_string().contains("is not what was stored")
    });
    assert!(found);
    assert_eq!(doubts(&world.vault()).len(), 1);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn another_replica_gives_what_is_damaged_in_one() {
    let world = World::new();
    files(&world);
    let both = ["--vault", "one", "--vault", "two"];
    let with = |args: &[&'static str]| [args, &both[..]].concat();
    let taken = world.json(with(&["backup", "--init"]), 0);
    let one = world.path("one");
    let object = largest(&one, "packs");
    spoil(&object);
    world.json(with(&["verify"]), 4);
    assert_eq!((doubts(&one).len(), doubts(&world.path("two")).len()), (1, 0));
    // Doubted in one, and sound in the other.
    let ran = world.run(with(&["restore", "out", "--json"]));
    ran.ended(0).says("does not give");
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((id(&report), report["vault"].as_str()), (id(&taken), world.path("two").to_str()));
    assert_same(&world.data(), &world.path("out"));

    // A copy takes it from a configured vault; without one the snapshot is named.
    let copied = world.json(["copy", "--init", "--from", "one", "--to", "three", "--vault", "one"], 4);
    assert_eq!(copied["not_copied"][0]["snapshot"].as_str(), Some(id(&taken)), "{copied}");
    let ran = world.run(["copy", "--from", "one", "--to", "three", "--vault", "one", "--vault", "two"]);
    ran.ended(0).says("it is taken from");
    assert_eq!(world.json(["verify", "--read-data", "--vault", "three"], 0)["damage"], json!([]));
    assert_eq!(doubts(&world.path("three")), [""; 0]);

    // Both are damaged: the older snapshot of one of them.
    world.write("new", noise(9, 400_000));
    let newer = world.json(with(&["backup"]), 0);
    let name = |vault: &str| {
        let packs = fs::read_dir(world.path(vault).join("packs")).unwrap().map(|entry| entry.unwrap());
        let newest = packs.max_by_key(|pack| pack.metadata().unwrap().modified().unwrap());
        newest.unwrap().path()
    };
    let newest = [name("one"), name("two")];
    spoil(&object);
    newest.iter().for_each(|pack| spoil(pack));
    let ran = world.run(with(&["restore", "older", "--json"]));
    ran.ended(3).says("which is older");
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((id(&report), report["instead_of"].as_str()), (id(&taken), Some(id(&newer))));
}

#[test]
fn who_may_not_write_to_the_vault_says_what_it_found() {
    let world = World::new();
    files(&world);
    let first = world.backup();
    world.write("f0", noise(20, 300_000));
    world.backup();
    let packs = || fs::read_dir(world.vault().join("packs")).unwrap().map(|entry| entry.unwrap());
    spoil(&packs().max_by_key(|pack| pack.metadata().unwrap().modified().unwrap()).unwrap().path());
    open_to_all(&world.vault());
    let Some(ran) = as_nobody(&world, &["verify", "--vault", "backups"]) else { return };
    ran.ended(4).says("could not be noted");
    let ran = as_nobody(&world, &["restore", "out", "--json"]).unwrap();
    ran.ended(3).says("could not be noted");
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(id(&report), id(&first));
    assert_eq!(doubts(&world.vault()), [""; 0]);
}

#[test]
fn a_path_is_restored_from_the_newest_snapshot_though_a_pack_of_another_is_missing() {
    let world = World::new();
    world.write("b", noise(1, 300_000));
    world.write("a", "a1");
    set_mtime(&world.data().join("b"), 1_700_000_000, 5);
    world.backup();
    world.write("a", "a2");
    let second = world.backup();
    fs::remove_file(largest(&world.vault(), "packs")).unwrap();
    let restored = world.json(["restore", "out", "--path", "a"], 0);
    assert_eq!(restored["snapshot"], second["snapshot"]);
    assert_eq!(fs::read_to_string(world.path("out/a")).unwrap(), "a2");
    world.run(["restore", "out", "--path", "b"]).ended(4);
}

#[test]
fn what_only_a_doubted_and_damaged_pack_has_is_not_carried_over() {
    let world = World::new();
    world.write("f.bin", noise(1, 60_000));
    world.write("g.csv", "x");
    for folder in ["", "data"] {
        set_mode(&world.path(folder), 0o777);
    }
    let Some(first) = as_nobody(&world, &["backup", "data", "--vault", "backups"]) else { return };
    first.ended(0);
    let pack = largest(&world.vault(), "packs");
    let narrow = ["backup", "data", "--vault", "backups", "--include", "*.csv", "--accept-shrink"];
    as_nobody(&world, &narrow).unwrap().ended(0);
    spoil(&pack);
    as_nobody(&world, &["verify", "--read-data", "--vault", "backups"]).unwrap().ended(4);
    set_mode(&world.data().join("f.bin"), 0o600);
    let ran = as_nobody(&world, &["backup", "data", "--vault", "backups", "--json"]).unwrap();
    let report: Value = serde_json::from_slice(&ran.ended(3).stdout).unwrap();
    assert_eq!((&report["good"], &report["errors"][0]["path"]), (&json!(true), &json!("f.bin")), "{report}");
    world.restore("out");
    assert_eq!(fs::read_to_string(world.path("out/g.csv")).unwrap(), "x");
}
