//! Where a vault is made, unasked or with `--init`, and where none is.

use std::fs;

use serde_json::Value;

use crate::support::{Ran, World, paths};

#[test]
fn a_missing_vault_is_an_error_but_for_backup_and_init() {
    let world = World::with_files();
    for args in [&["restore"][..], &["list"], &["ls", "latest"], &["verify"], &["export", "latest", "-o", "x"]] {
        world.run(args).ended(1).says("no vault");
    }
    assert!(!world.vault().exists());
    world.run(["init"]).ended(0);
    world.run(["init"]).ended(1).says("exists");
    world.run(["restore"]).ended(5);
    world.backup();
}

#[test]
fn a_vault_is_made_unasked_at_the_default_place_only() {
    let world = World::with_files();
    let absolute = world.path("elsewhere").display().to_string();
    for vault in ["elsewhere", "deep/elsewhere", &absolute, &format!("file://{absolute}")] {
        let ran = world.run(["backup", "--vault", vault]);
        ran.ended(1).says("there is no vault").says("is that mounted").says("lastgood backup --init");
        let mut command = world.command(["backup"]);
        command.env("LASTGOOD_VAULT", vault);
        Ran::of(command).ended(1).says("there is no vault");
    }
    for typo in ["gs:/bucket/app", "gs//bucket/app", "s3://bucket/app", "gs:bucket", "az://account/app", "nas:/backups"]
    {
        for args in [&["backup", "--init"][..], &["init"], &["restore", "out"], &["doctor"]] {
            world.run(args.iter().chain(&["--vault", typo])).ended(2).says(typo);
        }
        world.run(["copy", "--from", typo, "--to", "copied"]).ended(2).says(typo);
        world.run(["copy", "--from", "backups", "--to", typo]).ended(2).says(typo);
    }
    // Nothing came to be by any of it.
    let left: Vec<_> = fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["data"]);
    // The default place is that, however it is named; another one is made when that is asked for.
    for vault in ["./backups", "backups", &world.vault().display().to_string()] {
        world.run(["backup", "--vault", vault]).ended(0);
        fs::remove_dir_all(world.vault()).unwrap();
    }
    world.run(["backup", "--init", "--vault", "elsewhere"]).ended(0);
    world.run(["backup", "--vault", "elsewhere"]).ended(0);
    world.run(["init", "--vault", "./gs:/odd"]).ended(0);
    // A replica that is not mounted is not made again either.
    let both = ["--vault", "elsewhere", "--vault", "replica"];
    let ran = world.run([&["backup", "--json"], &both[..]].concat());
    let report: Value = serde_json::from_slice(&ran.ended(3).stdout).unwrap();
    assert!(report["vaults"][1]["why"].as_str().unwrap().contains("there is no vault"), "{report}");
    assert!(!world.path("replica").exists());
    world.run([&["backup", "--init"], &both[..]].concat()).ended(0);
    assert!(world.path("replica/vault.json").exists());
}

#[test]
fn no_vault_is_made_unasked_among_other_things() {
    let world = World::with_files();
    fs::create_dir(world.vault()).unwrap();
    fs::write(world.vault().join("thesis.tex"), "").unwrap();
    world.run(["backup"]).ended(1).says("thesis.tex");
    assert_eq!(fs::read_dir(world.vault()).unwrap().count(), 1);
    world.run(["init"]).ended(1).says("thesis.tex");
    world.run(["backup", "--init", "--vault", "backups/lastgood"]).ended(0);
}

#[test]
fn no_vault_is_made_unasked_in_the_data_directory() {
    let world = World::with_files();
    let ran = world.shell("cd data; $LASTGOOD backup .");
    ran.ended(2).says("would be lost with it").says(&format!("`--vault {} --init`", world.vault().display()));
    world.shell("cd data; $LASTGOOD backup ..").ended(2);
    world.shell("cd data; $LASTGOOD serve --listen 127.0.0.1:0 .").ended(2).says("would be lost with it");
    let looked = world.shell("cd data; $LASTGOOD doctor . || true");
    assert!(!looked.ended(0).text().contains("The first `lastgood backup` makes one"), "{looked:?}");
    assert!(!world.path("data/backups").exists());
    // Where it is asked for, and where it is, it serves.
    world.shell("cd data; $LASTGOOD backup . --init; $LASTGOOD backup .; $LASTGOOD list").ended(0);
    assert!(world.path("data/backups/vault.json").exists());
}

#[test]
fn a_vault_in_the_data_directory_is_not_part_of_the_snapshot() {
    let world = World::with_files();
    for _ in 0..2 {
        world.run(["backup", "--init", "--vault", "data/deep/vault"]).ended(0);
    }
    let all = world.json(["ls", "-R", "latest", "--vault", "data/deep/vault"], 0);
    assert!(paths(&all).contains(&"a.txt") && !paths(&all).iter().any(|p| p.starts_with("deep/vault/")), "{all}");
    world.run(["restore", "--vault", "data/deep/vault"]).ended(2).says("move aside");
    world.run(["restore", "back", "--vault", "data/deep/vault"]).ended(0);
    assert_eq!(fs::read_to_string(world.path("back/a.txt")).unwrap(), "first\n");
}
