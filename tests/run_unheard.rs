//! `lastgood run` while the newest snapshot is damaged in one vault, and the other one, which has it whole, cannot be asked.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::World;
use crate::support::cloud::VAULT;
use crate::support::cloud::server::Server;

const RUN: [&str; 6] = ["run", "--every", "off", "--handover-poll", "100ms", "--handover=2s"];

/// Most bytes of a pack.
const SEED: usize = 300_000;

/// Two vaults, `first` and `second` in this order. The newest snapshot, in which `a` is `v2`, is damaged in the first one; in the one
/// before, `a` is `v1`.
fn damaged_in_the_first(second: &str, server: Option<&Server>) -> World {
    let world = World::new();
    let first = world.path("first").display().to_string();
    let both = match server {
        Some(_) => format!("{first},{second}"),
        None => format!("{first},{}", world.path(second).display()),
    };
    let world = match server {
        Some(server) => world.on(&server.url(), &both),
        None => world.with("LASTGOOD_VAULT", both),
    };
    world.run(["init"]).ended(0);
    world.write("a", "v1");
    start(&world, &[], "true").ended(0);
    let packs = || -> Vec<PathBuf> {
        fs::read_dir(world.path("first/packs")).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let before = packs();
    // More than what fits beside other content.
    let noise: Vec<u8> = (0..SEED as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    fs::write(world.path("noise"), noise).unwrap();
    start(&world, &[], "echo v2 > data/a; cp noise data/noise").ended(0);
    for pack in packs().iter().filter(|pack| !before.contains(pack)) {
        let mut bytes = fs::read(pack).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 0xff;
        fs::write(pack, bytes).unwrap();
    }
    world
}

fn start(world: &World, options: &[&str], script: &str) -> crate::support::Ran {
    let args = [&RUN[..], options, &["--", "sh", "-c", script]].concat();
    let mut command = world.command(args);
    command.env("LASTGOOD_DATA", world.data());
    crate::support::Ran::of(command)
}

/// The snapshots that are pinned in a vault.
fn pinned(world: &World, vault: &str) -> usize {
    fs::read_dir(world.path(vault).join("pins")).map_or(0, Iterator::count)
}

#[test]
fn nothing_older_is_started_while_a_vault_may_have_the_newest_whole() {
    // Not mounted, and a link that leads nowhere.
    for is_link in [false, true] {
        let world = damaged_in_the_first("second", None);
        let away = || {
            fs::rename(world.path("second"), world.path("away")).unwrap();
            if is_link {
                std::os::unix::fs::symlink("second", world.path("second")).unwrap();
            }
        };
        let back = || {
            let _ = fs::remove_file(world.path("second"));
            fs::rename(world.path("away"), world.path("second")).unwrap();
        };
        away();
        fs::remove_dir_all(world.data()).unwrap();
        let refused = start(&world, &[], "cat data/a");
        refused.ended(4).says("may have the snapshot whole").says("[unreachable]").says("--on-unreachable start");
        assert!(refused.text().is_empty() && !world.data().exists());
        // Over data that is older, too.
        fs::create_dir(world.data()).unwrap();
        world.write("mine", "m");
        let refused = start(&world, &[], "cat data/a");
        refused.ended(4).says("may have the snapshot whole");
        assert!(refused.text().is_empty() && world.data().join("mine").exists());
        back();
        let ran = start(&world, &[], "cat data/a");
        assert_eq!(ran.ended(0).text(), "v2\n", "{ran:?}");
    }
}

#[test]
fn somebody_may_ask_to_go_back_all_the_same_and_the_damaged_snapshot_is_pinned() {
    let world = damaged_in_the_first("second", None);
    fs::rename(world.path("second"), world.path("away")).unwrap();
    fs::remove_dir_all(world.data()).unwrap();
    let ran = start(&world, &["--on-unreachable", "start"], "cat data/a");
    assert_eq!(ran.ended(0).text(), "v1", "{ran:?}");
    ran.says("which could not be asked, can give").says("could not be had whole");
    assert_eq!(pinned(&world, "first"), 1, "{ran:?}");
}

#[test]
fn a_bucket_that_hangs_may_have_the_newest_whole() {
    let server = Server::start();
    let world = damaged_in_the_first(VAULT, Some(&server));
    server.latency(Duration::from_secs(600));
    let patience = ["--store-timeout", "2s"];
    // Over data that is older as well as where there is none.
    for is_there in [true, false] {
        fs::remove_dir_all(world.data()).unwrap();
        if is_there {
            world.write("mine", "m");
        }
        let refused = start(&world, &patience, "cat data/a");
        refused.ended(4).says("may have the snapshot whole");
        assert!(refused.text().is_empty() && world.data().exists() == is_there);
    }
    // The same with a choice.
    world.write("mine", "m");
    let ran = start(&world, &[&patience[..], &["--on-unreachable", "start"]].concat(), "cat data/a");
    assert_eq!(ran.ended(0).text(), "v1", "{ran:?}");
}

#[test]
fn nothing_older_is_started_where_the_root_of_the_newest_is_damaged_either() {
    let world = damaged_in_the_first("second", None);
    let roots = fs::read_dir(world.path("first/snapshots")).unwrap().map(|entry| entry.unwrap().path());
    let number = |root: &PathBuf| -> u64 {
        root.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().parse().unwrap()
    };
    let newest = roots.max_by_key(number).unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[50] ^= 0xff;
    fs::write(&newest, bytes).unwrap();
    fs::rename(world.path("second"), world.path("away")).unwrap();
    fs::remove_dir_all(world.data()).unwrap();
    let refused = start(&world, &[], "cat data/a");
    refused.ended(4).says("its root is damaged").says("may have the snapshot whole").says("[unreachable]");
    assert!(!world.data().exists());
    // Over data, too, and nobody takes an epoch for that.
    fs::create_dir(world.data()).unwrap();
    world.write("mine", "m");
    let refused = start(&world, &[], "cat data/a");
    refused.ended(4).says("may have the snapshot whole").says("[unreachable]");
    assert!(!refused.stderr.contains("this instance is of epoch"), "{refused:?}");
    // With a choice, it goes on in an epoch as ever, and the damaged one is kept.
    fs::remove_dir_all(world.data()).unwrap();
    let ran = start(&world, &["--on-unreachable", "start"], "cat data/a; echo more >> data/a");
    assert_eq!(ran.ended(0).text(), "v1", "{ran:?}");
    ran.says("this instance is of epoch");
    assert_eq!(pinned(&world, "first"), 1, "{ran:?}");
    fs::remove_dir_all(world.data()).unwrap();
    let ran = start(&world, &["--on-unreachable", "start"], "cat data/a");
    assert_eq!(ran.ended(0).text(), "v1more\n", "{ran:?}");
}
