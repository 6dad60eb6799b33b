//! Which snapshot a directory comes from, and what becomes of a directory that was left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lastgood::backup::BackupOptions;
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;
use lastgood::vault::root::SnapshotName;
use serde_json::Value;

use crate::restore_by_hand;
use crate::support::compare::assert_same;
use crate::support::{World, id, slow};

fn state(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join(".lastgood/state.json")).unwrap()).unwrap()
}

/// Takes a snapshot of the data directory as an instance of this epoch does.
fn instance(world: &World, epoch: u32) -> String {
    let vault = Vault::open(Box::new(LocalStore::new(world.vault()))).unwrap();
    let options =
        BackupOptions { data: world.data(), epoch: Some(epoch), accept_shrink: true, ..BackupOptions::default() };
    slow::backup_as(&vault, options).snapshot.to_string()
}

fn name(report: &Value) -> SnapshotName {
    id(report).parse().unwrap()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Moves the data into another directory of the same name, as it is after an rsync.
fn elsewhere(world: &World) {
    fs::rename(world.data(), world.path("moved")).unwrap();
    copy(&world.path("moved"), &world.data());
    fs::remove_dir_all(world.path("moved")).unwrap();
}

#[test]
fn a_forgotten_job_on_an_old_machine_does_not_become_the_newest() {
    let world = World::with_files();
    let first = world.backup();
    world.restore("data");
    assert_eq!(state(&world.data())["snapshot"], first["snapshot"]);
    copy(&world.data(), &world.path("old machine"));
    world.restore("data");
    let newest = instance(&world, 2);
    fs::rename(world.data(), world.path("new machine")).unwrap();
    fs::rename(world.path("old machine"), world.data()).unwrap();
    world.write("late", "a row that nobody asked for");
    for _ in 0..3 {
        let ran = world.run(["backup"]);
        ran.ended(3).says("has diverged").says("is of epoch 0").says("--take-over").says("lastgood restore");
    }
    let report = world.json(["backup", "--accept-shrink"], 3);
    assert_eq!((&report["state"], &report["diverged"]), (&"suspect".into(), &true.into()), "{report}");
    assert!(name(&report) < newest.parse().unwrap(), "{report}");
    let list = world.json(["list"], 0);
    let states: Vec<_> = list.as_array().unwrap().iter().map(|listed| listed["diverged"].is_string()).collect();
    assert_eq!(states, [false, true, true, true, true, false], "{list}");
    let shown = world.run(["list"]);
    assert!(shown.ended(0).text().contains("diverged"), "{shown:?}");
    world.run(["verify", "--read-data"]).ended(0);
    assert_eq!(id(&world.restore("out")), newest);
    assert!(!world.path("out/late").exists());
    world.run(["restore", "--snapshot", id(&report), "by id"]).ended(0);
    assert!(world.path("by id/late").exists());
    assert_eq!(state(&world.path("by id"))["chosen"], true);

    let taken = world.json(["backup", "--take-over"], 0);
    assert_eq!((&taken["good"], taken["diverged"].is_null()), (&true.into(), true), "{taken}");
    assert!(name(&taken) > newest.parse().unwrap(), "{taken}");
    // From now on it is the directory of the newest good one.
    world.write("later", "a row");
    assert_eq!(world.backup()["good"], true);
}

#[test]
fn a_restored_directory_goes_on_wherever_it_is_copied_with_its_lineage() {
    let world = World::with_files();
    world.backup();
    world.restore("data");
    instance(&world, 4);
    // The newest snapshot records the serial: an rsync of the whole directory to a new machine.
    elsewhere(&world);
    world.write("more", "rows");
    let report = world.json(["backup"], 0);
    assert_eq!((&report["good"], name(&report).seq >> 32), (&true.into(), 4));
    // The restore of another snapshot into it is of the greatest epoch then, with a serial of its own.
    let serial = state(&world.data())["serial"].clone();
    world.run(["restore"]).ended(0);
    let restored = state(&world.data());
    assert_ne!(restored["serial"], serial);
    assert_eq!((&restored["epoch"], &restored["snapshot"]), (&4.into(), &report["snapshot"]));
}

/// Restores the newest snapshot with a vault's script, and returns where to.
fn by_hand(world: &World, script: &str, name: &str) -> PathBuf {
    fs::write(world.path("restore.py"), script).unwrap();
    let target = world.path(name);
    let mut python = Command::new("python3");
    let ran = python.arg(world.path("restore.py")).arg(world.vault()).arg(&target).env("TMPDIR", world.path(""));
    let ran = ran.output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    target
}

#[test]
fn the_script_of_a_vault_that_exists_takes_the_newest_good_one_among_diverged_ones() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vaults/1");
    let world = World::with_files();
    copy(&sample, &world.vault());
    let script = restore_by_hand::script(&sample);
    world.restore("latest");
    let good = state(&world.path("latest"))["snapshot"].clone();
    restore_by_hand::same(&world.path("latest"), &by_hand(&world, &script, "by hand"));
    let diverged = |epoch: Option<u32>| {
        let vault = Vault::open(Box::new(LocalStore::new(world.vault()))).unwrap();
        let diverged = Some("another instance had taken over".to_owned());
        let options = BackupOptions { data: world.data(), epoch, diverged, ..BackupOptions::default() };
        assert!(slow::backup_as(&vault, options).diverged);
    };
    // Of no epoch, and of one that is greater than the newest good snapshot's.
    [None, Some(0), Some(9)].into_iter().for_each(diverged);
    assert_eq!(world.json(["list"], 0).as_array().unwrap()[0]["id"], good);
    restore_by_hand::same(&world.path("latest"), &by_hand(&world, &script, "by hand again"));
    assert_eq!(world.restore("again")["snapshot"], good);
    assert_same(&world.path("latest"), &world.path("again"));

    let newest = instance(&world, 3);
    diverged(Some(2));
    diverged(None);
    restore_by_hand::same(&world.data(), &by_hand(&world, &script, "the instance's"));
    assert_eq!(id(&world.restore("the same")), newest);
}

#[test]
fn several_vaults_hold_what_diverged_and_give_back_the_newest_good_one() {
    let world = World::with_files();
    let both = ["--vault", "one", "--vault", "two"];
    let run = |args: &[&str], code: i32| world.json([args, &both[..]].concat(), code);
    run(&["backup", "--init"], 0);
    // One vault alone has the newest: the other was away.
    let vault = Vault::open(Box::new(LocalStore::new(world.path("two")))).unwrap();
    let options = BackupOptions { data: world.data(), epoch: Some(5), ..BackupOptions::default() };
    let newest = slow::backup_as(&vault, options).snapshot.to_string();
    elsewhere(&world);
    world.write("late", "a row");
    let report = run(&["backup"], 3);
    assert_eq!((&report["diverged"], &report["state"]), (&true.into(), &"suspect".into()), "{report}");
    let holds: Vec<_> = report["vaults"].as_array().unwrap().iter().map(|vault| vault["holds"].clone()).collect();
    assert_eq!(holds, [true, true], "{report}");
    for vaults in [&both[..], &both[..2], &both[2..]] {
        let out = format!("out of {}", vaults.join(" "));
        let restored = world.json([&["restore", &out], vaults].concat(), 0);
        assert_eq!(id(&restored), newest, "{vaults:?}");
        assert_eq!(state(&world.path(&out))["epoch"], 5);
    }
    let taken = run(&["backup", "--take-over"], 0);
    assert!(name(&taken) > newest.parse().unwrap(), "{taken}");
}
