//! The requests that listing many snapshots and runs in a bucket takes, and the order of their numbers.

use std::collections::BTreeSet;

use lastgood::backup::options::BackupOptions;
use lastgood::store::Store;
use lastgood::store::local::LocalStore;

use crate::support::cloud::server::{Kind, Request, Server};
use crate::support::cloud::vault_in;
use crate::support::tree::{noise, set_mtime};
use crate::support::{World, id, slow};

/// Creates a vault in a bucket with this many snapshots.
fn with_snapshots(count: u64) -> (Server, World) {
    let (server, world) = vault_in(World::with_files());
    for n in 0..count {
        world.write("changes", noise(n, 2000));
        world.backup();
    }
    server.forget();
    (server, world)
}

/// Returns the names that requests of a kind are about, those of one folder.
fn asked(server: &Server, kind: Kind, folder: &str) -> Vec<String> {
    let in_folder =
        |request: &Request| request.name.clone().filter(|name| name.starts_with(&format!("app/state/{folder}")));
    server.requests_of(kind).iter().filter_map(in_folder).collect()
}

#[test]
fn a_list_reads_the_roots_that_it_shows() {
    let (server, world) = with_snapshots(5);
    let all = world.json(["list"], 0).as_array().unwrap().clone();
    assert_eq!(all.len(), 5);
    server.forget();
    let ran = world.run(["list", "--limit", "2", "--json"]);
    let some: Vec<serde_json::Value> =
        serde_json::from_slice(&ran.ended(0).says("3 older snapshots are not listed").stdout).unwrap();
    assert_eq!(some, all[..2]);
    assert_eq!(asked(&server, Kind::List, "snapshots/").len(), 1);
    assert_eq!(asked(&server, Kind::Read, "snapshots/").len(), 2);
    assert_eq!(world.run(["list", "--limit", "5"]).ended(0).stderr, "");
    let help = world.run(["list", "--help"]);
    assert!(help.ended(0).text().contains("[default: 50]"), "{help:?}");
}

#[test]
fn a_verification_reads_each_root_once() {
    let (server, world) = with_snapshots(5);
    world.run(["verify"]).ended(0);
    let read = asked(&server, Kind::Read, "snapshots/");
    let different: BTreeSet<_> = read.iter().collect();
    assert_eq!((read.len(), different.len()), (5, 5), "{read:#?}");
}

#[test]
fn a_backup_without_changes_makes_eleven_requests_at_most() {
    let (server, world) = with_snapshots(8);
    // A file that has just changed is recorded again once it has come to rest.
    for name in ["a.txt", "changes", "logs/app.log", "uploads/x/y.bin"] {
        set_mtime(&world.data().join(name), 1_700_000_000, 5);
    }
    (0..2).for_each(|_| _ = world.backup());
    for _ in 0..3 {
        server.forget();
        world.backup();
        let requests = server.requests();
        assert!(requests.len() <= 11, "{} requests: {requests:#?}", requests.len());
    }
    // A page of a listing more is a request more.
    server.forget();
    server.pages_of(6);
    world.backup();
    let pages = server.requests_of(Kind::List).len();
    let others = server.requests().len() - pages;
    let first_pages = server.requests_of(Kind::List).iter().filter(|r| !r.target.contains("pageToken")).count();
    assert!(others + first_pages <= 11, "{:#?}", server.requests());
}

/// With `LASTGOOD_SOAK` there are a thousand packs.
#[test]
fn a_backup_without_changes_makes_no_more_requests_for_all_its_packs() {
    let packs = if std::env::var_os("LASTGOOD_SOAK").is_some() { 1000 } else { 60 };
    let (server, world) = vault_in(World::new());
    let folder = world.path("copy");
    let vault = slow::vault(LocalStore::new(&folder));
    for n in 0..packs {
        let name = format!("{n:04}");
        world.write(&name, noise(n, 500));
        // A file that has just changed is read again once it has come to rest.
        set_mtime(&world.data().join(&name), 1_700_000_000, 5);
        slow::backup_as(&vault, BackupOptions { data: world.data(), ..BackupOptions::default() });
    }
    let store = LocalStore::new(&folder);
    let objects = store.list("").unwrap();
    assert!(objects.iter().filter(|object| object.name.starts_with("packs/")).count() as u64 >= packs);
    server.names().iter().for_each(|name| server.remove(name));
    for object in objects {
        server.put(&format!("app/state/{}", object.name), store.get(&object.name, u64::MAX).unwrap());
    }
    // The records of the files' folders come to rest.
    (0..2).for_each(|_| _ = world.backup());
    server.forget();
    world.backup();
    let requests = server.requests();
    // A thousand snapshots are more than a page, and the list of as many packs has frames of its own: each is a request more.
    let pages = requests.iter().filter(|request| request.target.contains("pageToken")).count();
    let frames = asked(&server, Kind::Read, "index/").len();
    assert!(frames == 1 || packs > 200, "{frames} frames");
    assert!(requests.len() - pages - frames <= 10, "{} requests: {requests:#?}", requests.len());
}

#[test]
fn the_newest_runs_are_asked_for_and_not_all_before_them() {
    let (server, world) = with_snapshots(3);
    for n in 0..30 {
        server.put(&format!("app/state/runs/20200101T0000{n:02}Z-{n:016x}.json"), "{}");
    }
    let runs = world.json(["runs", "--limit", "3"], 0);
    assert_eq!(runs.as_array().unwrap().len(), 3);
    let lists = server.requests_of(Kind::List);
    let of_runs: Vec<_> = lists.iter().filter(|r| r.name.as_deref() == Some("app/state/runs/")).collect();
    assert!(of_runs.len() == 1 && of_runs[0].target.contains("startOffset=app%2Fstate%2Fruns%2F2"), "{of_runs:#?}");
    // Names say what the runs were for and how they ended.
    let names: Vec<_> = server
        .names()
        .into_iter()
        .filter(|name| name.starts_with("app/state/runs/") && !name.contains("/2020"))
        .collect();
    assert!(names.len() == 3 && names.iter().all(|name| name.ends_with("-backup-complete.json")), "{names:?}");
    // Runs of early versions of the program are listed too.
    assert_eq!(world.json(["runs", "--limit", "100"], 0).as_array().unwrap().len(), 33);
}

#[test]
fn the_newest_is_that_of_the_greatest_number_however_many_digits_it_has() {
    let world = World::with_files();
    let vault = slow::vault(LocalStore::new(world.vault()));
    let mut taken = Vec::new();
    for epoch in [0u64, 1, 2, 30, 3_000_000_000] {
        world.write("epoch", epoch.to_string());
        let options = BackupOptions { data: world.data(), numbers: vec![epoch << 32], ..BackupOptions::default() };
        taken.push(slow::backup_as(&vault, options).snapshot.to_string());
    }
    let mut as_names = taken.clone();
    as_names.sort();
    assert_ne!(as_names, taken, "their order as names is another one");
    let digits: Vec<_> = taken.iter().map(|name| name.find('-').unwrap()).collect();
    assert_eq!(digits, [10, 10, 11, 12, 20]);
    taken.reverse();
    let listed = world.json(["list"], 0);
    assert_eq!(listed.as_array().unwrap().iter().map(id_of).collect::<Vec<_>>(), taken);
    assert_eq!(id(&world.restore("out")), taken[0]);
    assert_eq!(std::fs::read_to_string(world.path("out/epoch")).unwrap(), "3000000000");
    let next = world.backup();
    assert_eq!(next["parent"].as_str(), Some(taken[0].as_str()));
    assert!(id(&next).starts_with("128849"), "{next}");
    let two = world.json(["list", "--limit", "2"], 0);
    assert_eq!(two.as_array().unwrap().iter().map(id_of).collect::<Vec<_>>(), [id(&next), &taken[0]]);
    world.run(["verify", "--read-data"]).ended(0);
}

fn id_of(listed: &serde_json::Value) -> &str {
    listed["id"].as_str().unwrap()
}
