//! What `lastgood run` costs beside its app: requests at a start, and memory. How long a start takes is in `benches/README.md`.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::World;
use crate::support::cloud::server::Server;
use crate::support::cloud::{VAULT, vault_in};
use crate::support::counter::without_terminal;
use crate::support::process::Running;
use crate::support::tree::set_mtime;

/// Requests of a start on data that is as the newest snapshot, and of one that restores it.
const FRESH: usize = 19 + EARLIER;
const MISSING: usize = 25 + EARLIER;
/// Of these, those that are made when the app runs, by which `run` knows how long backups take: a listing of reports, and two reports.
const EARLIER: usize = 3;
/// The most bytes of memory beside the app, without the program's own file, of which a release build has 16 MiB in memory.
const MEMORY: u64 = 15 << 20;

/// A vault in a bucket with some snapshots, and a directory that is as the newest of them.
fn fresh() -> (Server, World) {
    let (server, world) = vault_in(World::with_files());
    for name in ["a.txt", "logs/app.log", "uploads/x/y.bin"] {
        set_mtime(&world.data().join(name), 1_700_000_000, 5);
    }
    for _ in 0..3 {
        world.run(["run", "--every", "off", "--", "true"]).ended(0);
    }
    (server, world)
}

/// Starts `lastgood run` around an app that does nothing, and waits until its start is over.
fn idle(world: &World, server: &Server) -> Running {
    server.forget();
    let command = world.command(["run", "--handover-poll", "60s", "--", "sleep", "60"]);
    let run = Running::start(without_terminal(&command), "");
    run.log_with("the app has started");
    sleep(Duration::from_millis(500));
    run
}

#[test]
fn a_start_on_fresh_data_makes_few_requests() {
    let (server, world) = fresh();
    let mut run = idle(&world, &server);
    let requests = server.requests();
    assert!(run.log().contains(" is fresh"), "{}", run.log());
    assert!(run.own_memory() < MEMORY, "{} bytes of memory", run.own_memory());
    assert_eq!(run.end(Signal::TERM).0, Some(143), "{}", run.log());
    eprintln!("{} requests", requests.len());
    assert!(requests.len() <= FRESH, "{} requests: {requests:#?}", requests.len());
}

#[test]
fn a_start_without_data_makes_few_more() {
    let (server, world) = fresh();
    fs::remove_dir_all(world.data()).unwrap();
    let mut run = idle(&world, &server);
    let requests = server.requests();
    assert!(run.own_memory() < MEMORY, "{} bytes of memory", run.own_memory());
    assert_eq!(run.end(Signal::TERM).0, Some(143), "{}", run.log());
    eprintln!("{} requests", requests.len());
    assert!(requests.len() <= MISSING, "{} requests: {requests:#?}", requests.len());
}

/// What was read before the epoch is not read again, but for this: a vault that is gone has no snapshots either.
#[test]
fn a_vault_that_is_gone_meanwhile_is_no_first_start() {
    let (server, world) = vault_in(World::new());
    let start = |data: &str, app: &str| {
        let mut command = world.command(["run", "--every", "off", "--handover-poll", "200ms", "--", "sh", "-c", app]);
        command.env("LASTGOOD_DATA", world.path(data));
        Running::start(without_terminal(&command), "")
    };
    let mut a = start("a", "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done");
    a.log_with("the app has started");
    let mut b = start("b", "touch started");
    b.log_with("waiting for the end of epoch 1");
    server.remove(&format!("{}/vault.json", VAULT.rsplit_once("test-bucket/").unwrap().1));
    let code = b.wait().0;
    assert!(code == Some(1) && b.log().contains("there is no vault"), "{code:?} {}", b.log());
    assert!(!world.path("started").exists(), "{}", b.log());
    a.end(Signal::KILL);
}
