//! The permissions of a vault in a folder: it has copies of files that were closed to others.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use serde_json::Value;

use crate::support::requirements::{as_nobody, skipped};
use crate::support::tree::{noise, open_to_all, set_mode};
use crate::support::{World, is_root};

/// Runs the program with an umask.
fn with_umask(world: &World, umask: &str, args: &str) {
    let program = world.command::<&str>([]);
    let mut shell = std::process::Command::new("sh");
    shell.current_dir(world.path("")).args(["-c", &format!("umask {umask}; exec \"$0\" {args}")]);
    shell.arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    crate::support::Ran::of(shell).ended(0);
}

/// Returns all that lies in a folder, itself too: the path, whether it is a folder, and what is known of it.
fn all(folder: &Path) -> Vec<(String, fs::Metadata)> {
    let mut found = vec![(folder.display().to_string(), folder.metadata().unwrap())];
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                open.push(path.clone());
            }
            found.push((path.display().to_string(), meta));
        }
    }
    found
}

#[test]
fn nobody_else_may_look_into_a_vault_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        let world = World::with_files();
        set_mode(&world.data().join("a.txt"), 0o600);
        fs::create_dir(world.path("there")).unwrap();
        set_mode(&world.path("there"), 0o755);
        with_umask(&world, umask, "backup");
        with_umask(&world, umask, "init --vault there");
        with_umask(&world, umask, "backup --vault there");
        with_umask(&world, umask, "copy --from backups --to copied/twice --init");
        with_umask(&world, umask, "verify");
        with_umask(&world, umask, "export latest -o all.tar.zst");
        for vault in ["backups", "there", "copied/twice", "all.tar.zst"] {
            let found = if world.path(vault).is_dir() {
                all(&world.path(vault))
            } else {
                vec![(vault.to_owned(), world.path(vault).metadata().unwrap())]
            };
            for (path, meta) in found {
                let expected = if meta.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(meta.mode() & 0o7777, expected, "{path} with umask {umask}");
            }
        }
    }
}

#[test]
fn a_vault_that_is_open_to_everybody_is_told_of() {
    let world = World::with_files();
    let closed = world.backup();
    assert_eq!(closed["warnings"], serde_json::json!([]));
    // As early programs made it.
    open_to_all(&world.vault());
    let ran = world.run(["backup"]);
    ran.ended(0).says("WARN").says("everybody on this machine may look into the vault").says("chmod go-rwx");
    let ran = world.run(["doctor", "data", "--json"]);
    let report: Value = serde_json::from_slice(&ran.ended(0).stdout).unwrap();
    let access = |report: &Value| {
        let checks = report["parts"][0]["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "access").cloned()
    };
    let open = access(&report).unwrap();
    assert_eq!(open["outcome"], "warning");
    // The command that doctor names closes the vault, and the vault can be used as before.
    let command = open["commands"][0].as_str().unwrap();
    assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success());
    let ran = world.run(["backup"]);
    assert_eq!(ran.ended(0).stderr, "");
    assert_eq!(access(&world.json(["doctor", "data"], 0)), None);
    assert_eq!(world.json(["list"], 0).as_array().unwrap().len(), 3);
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn what_may_not_be_read_is_somebody_elses_and_no_damage() {
    if !is_root() {
        return skipped("root", "only root can be somebody else");
    }
    let world = World::with_files();
    world.backup();
    // As early programs made it: the app's user restores from it.
    open_to_all(&world.vault());
    fs::create_dir(world.path("home")).unwrap();
    set_mode(&world.path("home"), 0o777);
    let restore = |to: &str| as_nobody(&world, &["restore", "--vault", "backups", to]);
    let Some(before) = restore("home/before") else { return };
    before.ended(0);
    world.write("a.txt", "second\n");
    world.run(["backup"]).ended(0).says("what is stored from now on is closed to others").says("chgrp -R GROUP");
    restore("home/after")
        .unwrap()
        .ended(1)
        .says("may not be read")
        .says("belongs to the user 0")
        .says("chgrp -R GROUP");
    assert!(!world.path("home/after").exists());
    for args in [&["verify", "--read-data"][..], &["list"], &["backup", "data", "--init"]] {
        let ran = as_nobody(&world, &[args, &["--vault", "backups"]].concat()).unwrap();
        ran.ended(1).says("may not be read");
    }
    assert_eq!(fs::read_dir(world.vault().join("doubts")).map_or(0, Iterator::count), 0);

    // The commands that doctor names share the vault.
    set_mode(&world.vault(), 0o2770);
    chown(world.vault(), None, Some(65_534)).unwrap();
    let access = || {
        let report = world.run(["doctor", "data", "--json"]);
        let report: Value = serde_json::from_slice(&report.ended(0).stdout).unwrap();
        let checks = report["parts"][0]["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == "access")
    };
    let told = access().unwrap()["advice"].as_str().unwrap().replace("GROUP", "65534");
    world.run(["backup"]).ended(0).says("may not use all of it (");
    let commands: Vec<_> = told.split('`').skip(1).step_by(2).collect();
    assert_eq!(commands.len(), 2, "{told}");
    commands.iter().for_each(|command| _ = world.shell(command).ended(0));
    assert_eq!(access(), None);
    restore("home/after").unwrap().ended(0);
    assert_eq!(fs::read(world.path("home/after/a.txt")).unwrap(), b"second\n");
    as_nobody(&world, &["backup", "data", "--vault", "backups"]).unwrap().ended(0);
    assert_eq!(world.run(["backup"]).ended(0).stderr, "");
}

#[test]
fn nothing_is_built_upon_what_may_not_be_read() {
    if !is_root() {
        return skipped("root", "only root can be somebody else");
    }
    let world = World::with_files();
    world.write("large", noise(7, 300_000));
    world.backup();
    // Several users write into it.
    open_to_all(&world.vault());
    for (folder, meta) in all(&world.vault()) {
        if meta.is_dir() {
            set_mode(Path::new(&folder), 0o777);
        }
    }
    fs::create_dir(world.path("home")).unwrap();
    set_mode(&world.path("home"), 0o777);
    let pack = fs::read_dir(world.vault().join("packs")).unwrap().next().unwrap().unwrap().path();
    set_mode(&pack, 0o600);
    let asked = |args: &[&str]| as_nobody(&world, &[args, &["--vault", "backups"]].concat());
    let Some(ran) = asked(&["restore", "home/x", "--dry-run"]) else { return };
    assert!(ran.ended(0).text().contains("may not be read"), "{ran:?}");
    let told = asked(&["doctor", "data"]).unwrap();
    assert!(told.ended(1).text().contains("may not be read"), "{told:?}");
    let ran = asked(&["backup", "data"]).unwrap();
    ran.ended(0).says("belongs to the user 0").says("stored again").says("chgrp -R GROUP");
    asked(&["restore", "home/all"]).unwrap().ended(0);
    // Owners are only given by root.
    assert_eq!(fs::read(world.path("home/all/large")).unwrap(), noise(7, 300_000));
    assert!(!asked(&["backup", "data"]).unwrap().ended(0).stderr.contains("stored again"));

    // A folder of the vault: whose it is, and what to do.
    for folder in ["packs", "snapshots"] {
        set_mode(&world.vault().join(folder), 0o700);
        let ran = asked(&["verify"]).unwrap();
        ran.ended(1).says("may not be read").says("belongs to the user 0").says("chgrp -R GROUP");
        set_mode(&world.vault().join(folder), 0o777);
    }
}

#[test]
fn what_root_makes_in_somebodys_vault_and_cannot_give_away_is_told_of() {
    if !is_root() {
        return skipped("root", "only root can be somebody else");
    }
    let world = World::with_files();
    fs::create_dir(world.vault()).unwrap();
    chown(world.vault(), Some(1234), Some(1234)).unwrap();
    set_mode(&world.vault(), 0o700);
    let without =
        |args: &str| world.shell(&format!("exec setpriv --bounding-set -chown --inh-caps -chown $LASTGOOD {args}"));
    if without("--version").code != Some(0) {
        return skipped("capabilities", "no capability can be dropped here");
    }
    without("init").ended(0);
    let ran = without("backup");
    ran.ended(0).says("it belongs to the user 1234, who may not use all of it").says("chown -R 1234");
    let told = world.run(["doctor", "data"]);
    assert!(told.ended(0).text().contains("it belongs to the user 1234, who may not use all of it"), "{told:?}");
    world.shell("chown -R 1234 backups").ended(0);
    assert_eq!(world.run(["backup"]).ended(0).stderr, "");
}

#[test]
fn a_vault_that_a_group_shares_stays_the_groups() {
    if !is_root() {
        return skipped("root", "only root can give folders away");
    }
    let world = World::with_files();
    world.backup();
    for (mode, folder, file) in [(0o2770, 0o2770, 0o660), (0o770, 0o770, 0o660), (0o750, 0o750, 0o640)] {
        fs::remove_dir_all(world.vault()).unwrap();
        fs::create_dir(world.vault()).unwrap();
        chown(world.vault(), Some(1234), Some(4321)).unwrap();
        set_mode(&world.vault(), mode);
        with_umask(&world, "022", "init");
        with_umask(&world, "022", "backup");
        for (path, meta) in all(&world.vault()) {
            let expected = if meta.is_dir() { folder } else { file };
            assert_eq!(meta.mode() & 0o7777, expected, "{path}: {:o}", meta.mode());
            // Root writes into somebody's vault: that one can still read it.
            assert_eq!((meta.uid(), meta.gid()), (1234, 4321), "{path}");
        }
        world.run(["verify", "--read-data"]).ended(0);
    }
}

#[test]
fn a_vault_is_made_only_where_nothing_else_is() {
    for (name, there, refused) in [
        ("thesis.txt", "mine", true),
        ("photos/1.jpg", "mine", true),
        (".git/config", "", true),
        ("README.md", "# My program\n", true),
        ("packs/00000000000000000000000000000000.tar.zst", "", true),
        ("lost+found/x", "", false),
        // An `init` that was cut short left it.
        ("tmp/00000000000000aa-0", "", false),
        ("README.md", "# This folder is a backup\n\nOf an earlier version.\n", false),
    ] {
        let world = World::with_files();
        let file = world.vault().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, there).unwrap();
        set_mode(&world.vault(), 0o755);
        let commands: [&[&str]; 3] = [&["init"], &["init", "--vault", "other", "--vault", "backups"], &["backup"]];
        for command in commands {
            let ran = world.run(command);
            if refused {
                let first = name.split('/').next().unwrap();
                ran.ended(1).says("it is not empty").says(first).says("lastgood init --vault ");
                assert!(!world.path("other").exists(), "{name}");
                assert_eq!(world.vault().metadata().unwrap().mode() & 0o777, 0o755, "{name}");
                assert_eq!(fs::read_dir(world.vault()).unwrap().count(), 1, "{name}");
            } else {
                ran.ended(0);
                break;
            }
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), there, "{name}");
    }
}

#[test]
fn in_cloud_run_a_vault_on_the_instances_disk_is_told_of() {
    let world = World::with_files().with("CLOUD_RUN_JOB", "job");
    let ran = world.run(["backup", "data", "--log-format", "text"]);
    ran.ended(0).says("is on the disk of a Cloud Run instance").says("keep it in a bucket");
    let world = World::with_files();
    assert_eq!(world.run(["backup"]).ended(0).stderr, "");
}
