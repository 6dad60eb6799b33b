//! Stand-ins for Google Cloud Storage in tests: a server of our own that is strict and fails on demand, and an emulator.

pub mod credentials;
pub mod emulator;
pub mod server;

use std::fs;

use serde_json::Value;

use super::compare::assert_same;
use super::tree::noise;
use super::{Ran, World};
use server::Server;

/// Where in the server's bucket the vault of a test is.
pub const VAULT: &str = "gs://test-bucket/app/state";

/// Creates a server with a new, empty vault, and a world whose vault that is.
pub fn vault_in(world: World) -> (Server, World) {
    let server = Server::start();
    let world = world.on(&server.url(), VAULT);
    world.run(["init"]).ended(0);
    (server, world)
}

/// Returns the names of the snapshots of a world's vault, newest first.
#[track_caller]
pub fn snapshots(world: &World) -> Vec<String> {
    let ran = world.run(["list", "--json"]);
    ran.ended(0);
    let list: Value = serde_json::from_slice(&ran.stdout).unwrap();
    list.as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

/// Longer than what a test lets pass, shorter than what somebody waits for.
pub const SHORT: &str = "--store-timeout=2s";

/// Creates a vault with one snapshot of a few files and a pack of 1.5 MB.
pub fn small() -> (Server, World) {
    let (server, world) = vault_in(World::with_files());
    world.write("first.bin", noise(1, 1_500_000));
    world.backup();
    server.forget();
    (server, world)
}

/// Asserts that the vault has exactly the snapshots that were reported, that all of them can be read, and that the newest
/// one is the data directory as it is now.
#[track_caller]
pub fn assert_sound(server: &Server, world: &World, reported: &[String]) {
    server.heal();
    assert_eq!(snapshots(world), reported);
    world.run(["verify", "--read-data"]).ended(0);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
    fs::remove_dir_all(world.path("out")).unwrap();
    assert_eq!(server.refused(), [""; 0]);
}

/// Takes a backup that is not to succeed and leaves the vault as it was.
#[track_caller]
pub fn fails(server: &Server, world: &World, before: &[String]) -> Ran {
    world.write("not.stored", noise(server.requests().len() as u64, 300_000));
    let ran = world.run(["backup", SHORT]);
    ran.ended(1);
    assert!(ran.stdout.is_empty(), "{ran:?}");
    server.heal();
    assert_eq!(snapshots(world), before);
    ran
}
