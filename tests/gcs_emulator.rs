//! Vaults on an emulator that others wrote, and what Google's own tools make of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::crash;
use crate::restore_by_hand;
use crate::support::bank::{self, ACCOUNTS};
use crate::support::cloud::emulator::{BUCKET, Emulator};
use crate::support::cloud::snapshots;
use crate::support::compare::assert_same;
use crate::support::database::{self, taken};
use crate::support::database_process::{Other, Transfers};
use crate::support::tree::set_mtime;
use crate::support::{Ran, World, id, number, paths, short};

/// A prefix with what is odd in a URL and allowed in a name.
const PREFIX: &str = "backups of/app+1/état%20";

/// Starts an emulator with a new vault, and a world whose vault that is.
fn vault_in(world: World) -> Option<(Emulator, World)> {
    let emulator = Emulator::start()?;
    let world = world.on(&emulator.url(), &format!("gs://{BUCKET}/{PREFIX}"));
    world.run(["init"]).ended(0);
    Some((emulator, world))
}

/// Returns the objects under a folder, by their names there.
fn objects(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_kind_of_entry_comes_back() {
    let Some((_emulator, world)) = vault_in(World::with_everything()) else { return };
    let first = world.backup();
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
    world.write("more", "more");
    fs::remove_dir_all(world.data().join("names")).unwrap();
    let second = world.backup();
    assert_eq!(second["parent"], first["snapshot"]);
    world.restore("again");
    assert_same(&world.data(), &world.path("again"));
    world.restore_snapshot(id(&first), "first");
    assert_same(&world.path("out"), &world.path("first"));
}

#[test]
fn a_database_under_transfers_comes_back_in_one_state() {
    let Some((_emulator, world)) = vault_in(World::new()) else { return };
    let path = world.data().join("bank.db");
    bank::create(&path, "WAL", ACCOUNTS, 600);
    let writer = Other::transferring(&path, "", Transfers { seed: 1, rest: 200, ..Transfers::default() });
    let mut counted = Vec::new();
    for round in 0..4 {
        let report = world.json(["backup", "--check-databases", "quick", "--busy-timeout", "120s"], 0);
        assert_eq!(taken(&report)["bank.db"], "live", "{report}");
        let target = format!("out{round}");
        world.restore_snapshot(id(&report), &target);
        counted.push(bank::audit(&world.path(target).join("bank.db")));
    }
    assert!(writer.finish().commits > 0);
    assert!(counted.is_sorted() && counted[0] < counted[3], "{counted:?}");
    world.run(["verify", "--read-data", "--databases"]).ended(0);
}

#[test]
fn every_command_works() {
    let Some((_emulator, world)) = vault_in(World::with_files()) else { return };
    database::orders(&world.data().join("app.db"), 4096, 1 << 20);
    world.run(["init"]).ended(1).says("a vault exists there already");
    let first = world.backup();
    world.write("logs/app.log", "one\ntwo\nthree\n");
    let second = world.json(["backup", "--reason", "critical", "--label", "why=test"], 0);

    assert_eq!(snapshots(&world), [id(&second), id(&first)]);
    let listed = world.json(["ls", "latest", "--recursive"], 0);
    assert!(paths(&listed).contains(&"uploads/x/y.bin"), "{listed}");
    assert_eq!(world.run(["cat", short(&first), "logs/app.log"]).ended(0).text(), "one\ntwo\n");
    let difference = world.json(["diff", short(&first), short(&second)], 0);
    assert!(paths(&difference).contains(&"logs/app.log"), "{difference}");
    world.run(["export", "latest", "-o", "snapshot.tar.zst"]).ended(0);
    let mut tar = Command::new("tar");
    tar.arg("--zstd").arg("-tf").arg(world.path("snapshot.tar.zst"));
    assert!(Ran::of(tar).ended(0).text().contains("uploads/x/y.bin"));
    world.run(["verify"]).ended(0);
    world.run(["verify", "--read-data", "--databases"]).ended(0);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
    fs::write(world.data().join("a.txt"), "spoilt").unwrap();
    let report = world.restore("data");
    assert!(report["moved_aside"].is_string(), "{report}");
    assert_same(&world.path("out"), &world.data());
    world.run(["restore", "in-place", "--in-place"]).ended(0);
    world.run(["restore", "part", "--path", "logs"]).ended(0);
    assert_eq!(fs::read_to_string(world.path("part/logs/app.log")).unwrap(), "one\ntwo\nthree\n");
}

#[test]
fn a_killed_backup_harms_nothing() {
    let Some((emulator, world)) = vault_in(World::new()) else { return };
    let vault = emulator.objects().join(PREFIX);
    crash::kill_backups(&world, &vault, &format!("gs://{BUCKET}/elsewhere"));
}

#[test]
fn a_backup_goes_on_from_the_last_checkpoint() {
    let Some((emulator, world)) = vault_in(World::new()) else { return };
    let vault = emulator.objects().join(PREFIX);
    crash::go_on_from_a_checkpoint(&world, &vault);
    // Packs that were sent before are not sent again: apart from those under way, the 40 files are there once.
    let sent: usize = objects(&vault.join("packs")).values().map(Vec::len).sum();
    assert!((40_000_000..57_000_000).contains(&sent), "{sent} bytes");
    // Nothing of it is changed by what comes after.
    let before = objects(&vault);
    for n in 0..40 {
        set_mtime(&world.data().join(format!("{n:02}.bin")), 1_700_000_005, 0);
    }
    let report = world.backup();
    assert!(number(&report, "uploaded_bytes") < 1_000_000, "{report}");
    let after = objects(&vault);
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)));
}

#[test]
fn what_is_missing_has_three_messages() {
    let Some((emulator, world)) = vault_in(World::with_files()) else { return };
    let commands: [&[&str]; 4] = [&["restore", "out"], &["list"], &["verify"], &["backup"]];
    for command in commands {
        let at = |vault: &str| world.run(command.iter().chain(&["--vault", vault]));
        at("gs://another-bucket/x").ended(1).says("there is no bucket another-bucket");
        at(&format!("gs://{BUCKET}/backups")).ended(1).says("there is no vault (no vault.json)");
    }
    world.run(["restore", "out"]).ended(5).says("no snapshot");
    assert!(!world.path("out").exists());
    let names: Vec<_> = objects(&emulator.objects()).into_keys().filter(|name| !name.contains("/runs/")).collect();
    assert_eq!(names, [format!("{PREFIX}/README.md"), format!("{PREFIX}/vault.json")]);
}

#[test]
fn googles_tools_and_a_script_restore_what_lastgood_wrote() {
    let Some((emulator, world)) = vault_in(World::with_everything()) else { return };
    database::orders(&world.data().join("app.db"), 4096, 1 << 20);
    world.backup();
    world.write("more", "more");
    world.backup();
    let vault = format!("gs://{BUCKET}/{PREFIX}");
    let gcloud = |args: &[&str]| -> Option<Ran> {
        let ran = Ran::of(emulator.gcloud(args)?);
        ran.ended(0);
        Some(ran)
    };
    let Some(listed) = gcloud(&["ls", "--recursive", "--json", &vault]) else { return };
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let listed: Vec<_> = listed.as_array().unwrap().iter().filter(|entry| entry["type"] == "cloud_object").collect();
    let of = |entry: &Value| (entry["metadata"]["name"].clone(), entry["metadata"]["contentType"].clone());
    let types: BTreeMap<_, _> = listed.iter().map(|entry| of(entry)).map(|(a, b)| (a.to_string(), b)).collect();
    let there = objects(&emulator.objects().join(PREFIX));
    assert_eq!(types.len(), there.len(), "{types:?}");
    assert!(types.iter().any(|(name, kind)| name.contains("vault.json") && kind == "application/json"), "{types:?}");
    assert!(types.iter().any(|(name, kind)| name.contains("/packs/") && kind == "application/zstd"), "{types:?}");
    let config = gcloud(&["cat", &format!("{vault}/vault.json")]).unwrap();
    assert_eq!(config.stdout, there["vault.json"]);

    fs::create_dir(world.path("fetched")).unwrap();
    let fetched = world.path("fetched");
    gcloud(&["cp", "--recursive", &format!("{vault}/*"), fetched.to_str().unwrap()]).unwrap();
    assert_eq!(objects(&fetched), there);
    // By hand, with the script of the vault's own README.md; and by lastgood, as a vault in a folder.
    fs::write(world.path("restore.py"), restore_by_hand::script(&fetched)).unwrap();
    let mut script = Command::new("python3");
    script.arg(world.path("restore.py")).arg(&fetched).arg(world.path("by-hand")).env("TMPDIR", world.path(""));
    Ran::of(script).ended(0);
    restore_by_hand::same(&world.data(), &world.path("by-hand"));
    world.run(["restore", "by-lastgood", "--vault", "fetched"]).ended(0);
    assert_same(&world.data(), &world.path("by-lastgood"));
    world.run(["verify", "--read-data", "--vault", "fetched"]).ended(0);
}
