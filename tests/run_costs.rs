//! What `lastgood run` costs beside its app: requests at a start, and memory. How long a start takes is in `benches/README.md`.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::World;
use crate::support::cloud::server::Server;
use crate::support::cloud::vault_in;
use crate::support::counter::without_terminal;
use crate::support::process::Running;
use crate::support::tree::set_mtime;

/// Requests of a start on data that is as the newest snapshot, and of one that restores it.
const FRESH: usize = 29 + EARLIER;
const MISSING: usize = 36 + EARLIER;
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
