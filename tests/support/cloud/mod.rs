//! What stands for Google Cloud Storage in tests: a server of our own that is strict and fails on demand, and an emulator.

pub mod credentials;
pub mod emulator;
pub mod server;

use serde_json::Value;

use super::World;
use server::Server;

/// Where in the server's bucket the vault of a test is.
pub const VAULT: &str = "gs://test-bucket/app/state";

/// A server with a new, empty vault, and a world whose vault that is.
pub fn vault_in(world: World) -> (Server, World) {
    let server = Server::start();
    let world = world.on(&server.url(), VAULT);
    world.run(["init"]).ended(0);
    (server, world)
}

/// The names of the snapshots of a world's vault, newest first.
#[track_caller]
pub fn snapshots(world: &World) -> Vec<String> {
    let ran = world.run(["list", "--json"]);
    ran.ended(0);
    let list: Value = serde_json::from_slice(&ran.stdout).unwrap();
    list.as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}
