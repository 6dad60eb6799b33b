//! Several vaults of which one is in a bucket: which of them serves, what may be made, and copies there and back.

use std::fs;

use serde_json::{Value, json};

use crate::support::cloud::VAULT;
use crate::support::cloud::server::{Fault, Kind, Server, When};
use crate::support::compare::assert_same;
use crate::support::tree::noise;
use crate::support::{Ran, World, id, number};

/// Longer than what a test lets pass, shorter than what somebody waits for.
const SHORT: &str = "--store-timeout=1s";

/// Creates a server with an empty bucket, and a world whose vaults are there and, when that cannot serve, in `folder`.
fn bucket_and_folder() -> (Server, World) {
    let server = Server::start();
    let world = World::with_files().on(&server.url(), &format!("{VAULT},folder"));
    (server, world)
}

fn holds(report: &Value) -> [bool; 2] {
    [0, 1].map(|at| report["vaults"][at]["holds"].as_bool().unwrap())
}

fn list(world: &World, vault: &str) -> Vec<String> {
    let list = world.json(["list", "--vault", vault], 0);
    list.as_array().unwrap().iter().map(|listed| listed["id"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn restores(world: &World, vault: &str) -> Ran {
    let ran = world.run(["restore", "out", SHORT, "--json"]);
    let restored: Value = serde_json::from_slice(&ran.ended(0).stdout).unwrap();
    assert!(restored["vault"].as_str().unwrap().ends_with(vault), "{restored}");
    assert_same(&world.data(), &world.path("out"));
    fs::remove_dir_all(world.path("out")).unwrap();
    ran
}

#[test]
fn when_a_bucket_does_not_answer_a_folder_serves_and_later_both_hold_all() {
    let (server, world) = bucket_and_folder();
    let first = world.json(["backup", "--init"], 0);
    assert_eq!((first["vault"].as_str(), holds(&first)), (Some(VAULT), [true, true]));
    restores(&world, VAULT);

    // It is away from the beginning, or goes when the first pack, or the root, is to be stored.
    let mut taken = vec![id(&first).to_owned()];
    for when in [When::any(), When::create("packs/"), When::create("snapshots/")] {
        server.script(when.always(), Fault::status(503));
        world.write("new.bin", noise(taken.len() as u64, 300_000));
        let ran = world.run(["backup", SHORT, "--json"]);
        ran.ended(3).says("ERROR").says(&format!("the vault {VAULT} does not hold the snapshot"));
        let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!((holds(&report), report["parent"].as_str()), ([false, true], taken.last().map(String::as_str)));
        assert!(report["vaults"][0]["why"].as_str().unwrap().contains("503"), "{report}");
        taken.push(id(&report).to_owned());
        if taken.len() == 2 {
            restores(&world, "folder").says("passed over");
        }
        server.heal();
    }
    // A restore goes on to the folder in the middle, too.
    let second = world.json(["backup"], 0);
    assert_eq!((second["vault"].as_str(), holds(&second)), (world.path("folder").to_str(), [true, true]));
    assert_eq!(number(&second["vaults"][0], "copied_snapshots"), 4);
    taken.push(id(&second).to_owned());
    server.script(When::read("packs/").always(), Fault::status(503));
    restores(&world, "folder").says("does not give");
    server.heal();
    restores(&world, VAULT);
    taken.reverse();
    assert_eq!((list(&world, VAULT), list(&world, "folder")), (taken.clone(), taken));
    let verified = world.json(["verify", "--read-data"], 0);
    assert_eq!(verified["vaults"].as_array().unwrap().iter().map(|v| &v["gaps"]).collect::<Vec<_>>(), [&json!([]); 2]);
    assert_eq!(server.refused(), [""; 0]);
}

#[test]
fn in_a_bucket_a_vault_is_made_only_when_that_is_said() {
    let (server, world) = bucket_and_folder();
    world.run(["backup"]).ended(1).says("no vault.json").says("lastgood init").says("--init");
    assert!(server.names().is_empty() && !world.path("folder").exists());
    // In the second place it is missing, and no reason against the first.
    let swapped = ["--vault", "folder", "--vault", VAULT];
    world.run(["init", "--vault", "folder"]).ended(0);
    let ran = world.run([&["backup", "--json"], &swapped[..]].concat());
    ran.ended(3).says("does not hold the snapshot").says("no vault.json");
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(holds(&report), [true, false]);
    assert_eq!(server.names(), [""; 0]);
    // With other things under the prefix not even then; one page of the listing tells.
    server.pages_of(2);
    for n in 0..5 {
        server.put(&format!("app/state/thesis-{n}.tex"), "of somebody else");
    }
    server.forget();
    let report = world.json([&["backup", "--init"], &swapped[..]].concat(), 3);
    assert!(report["vaults"][1]["why"].as_str().unwrap().contains("thesis-0.tex"), "{report}");
    world.run(["copy", "--init", "--from", "folder", "--to", VAULT]).ended(1).says("thesis-0.tex");
    let all =
        server.requests_of(Kind::List).iter().filter(|request| request.name.as_deref() == Some("app/state/")).count();
    assert_eq!(all, 2, "{:#?}", server.requests_of(Kind::List));
    (0..5).for_each(|n| server.remove(&format!("app/state/thesis-{n}.tex")));
    let report = world.json([&["backup", "--init"], &swapped[..]].concat(), 0);
    assert_eq!((holds(&report), report["vaults"][1]["made"].as_bool()), ([true, true], Some(true)));
    assert_eq!(list(&world, VAULT), [id(&report)]);
}

#[test]
fn snapshots_go_to_a_bucket_and_back() {
    let server = Server::start();
    let world = World::with_everything().on(&server.url(), "backups");
    for round in 0..3 {
        world.write("b.bin", noise(round, 400_000));
        world.backup();
    }
    let names = list(&world, "backups");
    let up = ["copy", "--init", "--from", "backups", "--to", VAULT, "--json"];
    // Cut off, and gone on with; what was stored is not sent again.
    server.script(When::create("packs/").after(2).always(), Fault::status(503));
    world.run([&up[..], &[SHORT]].concat()).ended(1).says("not sent again");
    assert_eq!(list(&world, VAULT), [""; 0]);
    server.heal();
    let before = server.names();
    server.forget();
    let ran = world.run(up);
    let done: Value = serde_json::from_slice(&ran.ended(0).stdout).unwrap();
    assert_eq!((done["made"].as_bool(), done["snapshots"].as_array().unwrap().len()), (Some(false), 3));
    let sent: Vec<_> = server.requests_of(Kind::Create).into_iter().filter_map(|request| request.name).collect();
    assert!(sent.iter().all(|name| !before.contains(name)), "{before:?} {sent:#?}");
    assert_eq!(number(&done, "objects") as usize, sent.len());
    let roots: Vec<_> = sent.iter().skip_while(|name| !name.contains("snapshots/")).collect();
    assert!(roots.len() == 3 && roots.is_sorted(), "{sent:#?}");
    assert_eq!(list(&world, VAULT), names);

    world.json(["copy", "--init", "--from", VAULT, "--to", "back"], 0);
    world.run(["verify", "--read-data", "--vault", "back"]).ended(0);
    world.run(["restore", "out", "--vault", "back"]).ended(0);
    assert_same(&world.data(), &world.path("out"));
    assert_eq!(list(&world, "back"), names);
    // Create, get and list were all that it took.
    assert_eq!(server.refused(), [""; 0]);
}

#[test]
fn what_is_released_in_a_bucket_counts_as_absent() {
    let server = Server::start();
    let world = World::with_files().on(&server.url(), "backups");
    world.backup();
    world.json(["copy", "--init", "--from", "backups", "--to", VAULT], 0);
    let pack = server.names().into_iter().find(|name| name.contains("/packs/")).unwrap();
    let object = pack.strip_prefix("app/state/").unwrap();
    server.release(&pack, "2026-11-20T00:00:00Z");
    // Not there to be copied from, and in the way where it would be copied to.
    for (from, to) in [(VAULT, "elsewhere"), ("backups", VAULT)] {
        // No other vault is configured that might have it.
        let done =
            world.json(["copy", "--init", "--from", from, "--to", to, "--snapshot", "latest", "--vault", from], 4);
        assert!(done["not_copied"][0]["why"].as_str().unwrap().contains(object), "{done}");
    }
    assert_eq!(list(&world, "elsewhere"), [""; 0]);
    // Where another one is, it is asked for, and still there.
    world.run(["copy", "--from", VAULT, "--to", "elsewhere", "--vault", "backups"]).ended(0);
    assert_eq!(list(&world, "elsewhere"), list(&world, "backups"));
}
