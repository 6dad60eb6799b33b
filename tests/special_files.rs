//! A fifo or a device where a file is expected: nothing waits for it, and what can be done without it is done.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::support::cloud::VAULT;
use crate::support::compare::assert_same;
use crate::support::{LASTGOOD, Ran, World, id};

/// Puts a fifo, into which nobody ever writes, in the place of what is there.
fn fifo(at: &Path) {
    if at.is_dir() {
        fs::remove_dir_all(at).unwrap();
    } else {
        let _ = fs::remove_file(at);
    }
    mkfifoat(CWD, at, Mode::RUSR | Mode::WUSR).unwrap();
}

/// Returns the one file of a folder of the vault that was made last.
fn newest(world: &World, folder: &str) -> std::path::PathBuf {
    let files = fs::read_dir(world.vault().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap()
}

#[test]
fn a_fifo_in_a_vault_holds_nobody_up() {
    for (name, restored) in [
        ("vault.json", None),
        ("README.md", Some(1)),
        ("snapshots", Some(0)),
        ("packs", Some(0)),
        ("index", Some(0)),
        ("doubts", Some(1)),
        ("checkpoints", Some(1)),
        ("tmp", Some(1)),
        ("runs", Some(1)),
    ] {
        let world = World::with_files();
        let mut taken = vec![world.backup()];
        world.write("more", "more");
        taken.push(world.backup());
        let at = world.vault().join(name);
        match name {
            "vault.json" | "README.md" | "tmp" => fifo(&at),
            "doubts" | "checkpoints" => {
                fs::create_dir_all(&at).unwrap();
                fifo(&at.join(format!("{}.json", id(&taken[1]))));
                fifo(&at.join("0123456789abcdef.json"));
            }
            _ => fifo(&newest(&world, name)),
        }
        let ran = world.run(["restore", "out", "--json"]);
        match restored {
            None => assert!(ran.code != Some(0) && !world.path("out").exists(), "{name}: {ran:?}"),
            Some(which) => {
                let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
                assert_eq!(report["snapshot"], taken[which]["snapshot"], "{name}: {ran:?}");
                if which == 1 {
                    assert_same(&world.data(), &world.path("out"));
                }
            }
        }
        for command in [&["list"][..], &["runs"], &["verify", "--read-data"], &["doctor"], &["backup"]] {
            let ran = world.run(command);
            assert!(ran.code.is_some(), "{name}: {ran:?}");
        }
    }
}

#[test]
fn a_fifo_or_a_device_among_what_is_configured_is_an_error() {
    let world = World::with_files();
    world.backup();
    fifo(&world.path("pipe"));
    for path in ["pipe", "/dev/zero", "data"] {
        let ran = world.run(["serve", "--auth", "token", "--token-file", path]);
        ran.ended(if path == "pipe" { 2 } else { 1 }).says("the token file");
        let credentials = World::with_files().with("GOOGLE_APPLICATION_CREDENTIALS", world.path(path));
        for command in ["list", "doctor"] {
            let ran = credentials.run([command, "--vault", VAULT]);
            let said = format!("{}{}", ran.ended(1).text(), ran.stderr);
            assert!(said.contains("it is not a file"), "{ran:?}");
        }
    }
    // The data directory, the target and the vault.
    for command in
        [&["backup", "pipe"][..], &["backup", "--vault", "pipe"], &["doctor", "pipe"], &["doctor", "--vault", "pipe"]]
    {
        assert_eq!(world.run(command).code, Some(1), "{command:?}");
    }
    world.run(["restore", "pipe"]).ended(2).says("it is not a folder");
}

#[test]
fn a_token_may_come_through_a_pipe() {
    let world = World::new();
    let mut bash = Command::new("bash");
    bash.args(["-c", "exec \"$0\" serve --auth token --token-file <(sleep 0.2; echo short)", LASTGOOD]);
    bash.current_dir(world.path(""));
    Ran::of(bash).ended(2).says("it has 5 characters");
}
