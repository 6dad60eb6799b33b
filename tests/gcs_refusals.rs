//! Refusals of a store, and missing things: permissions, credentials, buckets, prefixes, objects in the way.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lastgood::backup::backup;
use lastgood::backup::options::BackupOptions;
use lastgood::gcp::cloud::Cloud;
use lastgood::monitor::{Context, SilentMonitor};
use lastgood::store;
use lastgood::store::address::Address;
use lastgood::vault::Vault;
use serde_json::Value;

use crate::support::cloud::server::{Answer, BUCKET, Fault, Kind, Point, Server, WRITER, When};
use crate::support::cloud::{VAULT, credentials, snapshots, vault_in};
use crate::support::compare::assert_same;
use crate::support::tree::noise;
use crate::support::{World, id, short};

#[test]
fn three_permissions_are_all_that_is_needed() {
    let (server, world) = vault_in(World::with_everything());
    let first = world.backup();
    world.write("more", "more");
    let second = world.backup();
    world.run(["list"]).ended(0);
    world.run(["ls", "latest", "--recursive"]).ended(0);
    assert_eq!(world.run(["cat", "latest", "more"]).ended(0).stdout, b"more");
    world.run(["diff", short(&first), short(&second)]).ended(0);
    world.run(["export", "latest", "-o", "snapshot.tar.zst"]).ended(0);
    world.run(["verify"]).ended(0);
    world.run(["verify", "--read-data"]).ended(0);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
    world.run(["restore", "in-place", "--in-place"]).ended(0);
    world.run(["init"]).ended(1).says("a vault exists there already");
    assert_eq!(server.refused(), [""; 0]);
    for request in server.requests() {
        let asked = matches!(request.kind, Kind::Create | Kind::Read | Kind::Describe | Kind::List);
        assert!(asked, "{request:?}");
        assert!(request.kind != Kind::Create || request.if_generation_match.as_deref() == Some("0"), "{request:?}");
    }
}

#[test]
fn a_permission_that_is_missing_is_named() {
    let (server, world) = vault_in(World::with_files());
    let report = world.backup();
    let begin = Instant::now();
    for missing in WRITER {
        let held: Vec<_> = WRITER.into_iter().filter(|permission| *permission != missing).collect();
        server.grant(&held);
        world.write("more", missing);
        let ran = world.run(["backup"]);
        ran.ended(1).says("403 Forbidden").says(missing).says("Grant roles/storage.objectCreator");
        assert!(!ran.stderr.contains("trying again"), "{ran:?}");
        if missing != "storage.objects.create" {
            world.run(["restore", "out"]).ended(1).says(missing);
            world.run(["list"]).ended(1).says(missing);
        }
        server.grant(&WRITER);
        assert_eq!(snapshots(&world), [id(&report)]);
    }
    // Without the right to list, 403 is all that is said of what is not there.
    server.grant(&["storage.objects.get", "storage.objects.create"]);
    world.run(["list", "--vault", &format!("gs://{BUCKET}/elsewhere")]).ended(1).says("storage.objects.list");
    assert!(begin.elapsed() < Duration::from_secs(60), "what is refused is asked for again and again");
}

#[test]
fn a_bucket_a_vault_and_a_snapshot_that_are_missing_are_three_things() {
    let (server, world) = vault_in(World::with_files());
    let other_bucket = "gs://another-bucket/app/state";
    let other_prefix = format!("gs://{BUCKET}/app/stat");
    let commands: [&[&str]; 5] = [&["restore", "out"], &["list"], &["verify"], &["ls", "latest"], &["backup"]];
    for command in commands {
        let at = |vault: &str| world.run(command.iter().chain(&["--vault", vault]));
        at(other_bucket).ended(1).says("there is no bucket another-bucket").says("gcloud storage buckets create");
        at(&other_prefix).ended(1).says("there is no vault (no vault.json)").says("lastgood init");
    }
    world.run(["init", "--vault", other_bucket]).ended(1).says("there is no bucket another-bucket");
    // An empty vault is a vault.
    world.run(["restore", "out"]).ended(5).says("no snapshot");
    world.run(["list"]).ended(0);
    assert!(!world.path("out").exists());
    // Nothing came to be by asking, but for reports in the vault that there is.
    let names: Vec<_> = server.names().into_iter().filter(|name| !name.starts_with("app/state/runs/")).collect();
    assert_eq!(names, ["app/state/README.md", "app/state/vault.json"]);
    assert_eq!(server.refused(), [""; 0]);

    // Snapshots without their vault.json are not an empty place.
    let report = world.backup();
    server.remove("app/state/vault.json");
    for command in [["restore", "out"], ["backup", "data"], ["list", "--json"]] {
        world.run(command).ended(4).says("vault.json is missing");
    }
    let init = world.run(["init"]);
    init.ended(4).says("vault.json is missing");
    assert!(server.names().iter().any(|name| name.contains(id(&report))));

    // The bucket vanishes under a restore: that is no damage. And under a backup.
    let gone = Answer::text(404, "The specified bucket does not exist.");
    let (server, world) = vault_in(World::with_files());
    world.backup();
    server.script(When::read("packs/").always(), Fault::Answer(gone));
    world.run(["restore", "out"]).ended(1).says("there is no bucket test-bucket");
    world.run(["verify", "--read-data"]).ended(1).says("there is no bucket test-bucket");
    let (server, world) = vault_in(World::with_files());
    server.script(When::create("packs/").always(), Fault::status(404));
    world.run(["backup"]).ended(1).says("there is no bucket test-bucket");
    server.heal();
    server.bucket_exists(false);
    world.run(["backup"]).ended(1).says("there is no bucket test-bucket");
}

/// A backup by a thread of this process whose random numbers begin at `seed`.
fn backup_with(vault: &Vault, data: &Path, seed: u64) -> lastgood::error::Result<lastgood::backup::BackupReport> {
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
    NEXT.set(seed);
    let random = |bytes: &mut [u8]| {
        NEXT.set(NEXT.get() + 1);
        bytes.copy_from_slice(&noise(NEXT.get(), bytes.len()));
        Ok(())
    };
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &random, threads: 1, parallel: 2, stop: &stop, monitor: &SilentMonitor };
    backup(vault, &BackupOptions { data: data.into(), ..BackupOptions::default() }, &ctx)
}

#[test]
fn an_object_that_is_in_the_way_stays_and_is_named() {
    for forbidden_at_once in [false, true] {
        let (server, world) = vault_in(World::with_files());
        if forbidden_at_once {
            server.check_delete_before_precondition();
        }
        let address = Address::parse(VAULT.as_ref()).unwrap();
        let cloud = Cloud { emulator: Some(server.url()), ..Cloud::default() };
        let open =
            || Vault::open(store::open::open(&address, &cloud, Arc::new(AtomicBool::new(false))).unwrap()).unwrap();
        let first = backup_with(&open(), &world.data(), 1).unwrap();
        let before: Vec<_> = server.names().into_iter().map(|name| (server.object(&name), name)).collect();
        // The same random numbers: the same names, for other bytes.
        world.write("more", noise(7, 100_000));
        let in_the_way = || {
            let why = backup_with(&open(), &world.data(), 1).unwrap_err().to_string();
            let named = why.split(' ').find(|word| word.starts_with("packs/") || word.starts_with("index/"));
            let named = named.unwrap_or_else(|| panic!("{why}")).trim_end_matches(':');
            assert!(why.contains(&format!("{named} exists already")), "{why}");
            assert!(server.object(&format!("app/state/{named}")).is_some(), "{why}");
        };
        in_the_way();
        // So it is when the first answer was lost on the way, and the second one says that it exists.
        for name in ["packs/", "index/"] {
            server.script(When::create(name), Fault::status(503));
        }
        in_the_way();
        server.heal();
        for (content, name) in &before {
            assert_eq!(&server.object(name), content, "{name}");
        }
        assert_eq!(snapshots(&world), [first.snapshot.to_string()]);
        world.run(["verify", "--read-data"]).ended(0);
        let second = world.backup();
        assert_eq!(snapshots(&world), [id(&second).to_owned(), first.snapshot.to_string()]);
    }
}

/// Creates a vault that is reached as Google's is: with credentials.
fn with_credentials(server: &Server) -> World {
    server.demand_tokens();
    World::with_files().with("LASTGOOD_STORAGE_ENDPOINT", server.url()).with("LASTGOOD_VAULT", VAULT)
}

/// Returns the same with a person's login.
fn with_login(server: &Server, refresh_token: &str) -> World {
    let world = with_credentials(server);
    let file = credentials::person_file(&world.path(""), server, refresh_token);
    world.with("GOOGLE_APPLICATION_CREDENTIALS", file)
}

#[test]
fn every_kind_of_credentials_opens_a_vault() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let metadata = with_credentials(&server).with("GCE_METADATA_HOST", server.host());
    let mut worlds = vec![(metadata, "metadata")];
    for (file, issued) in [
        (Some(credentials::person_file(at, &server, "good")), "oauth"),
        (Some(credentials::workload_file(at, &server)), "sts"),
        (Some(credentials::impersonation_file(at, &server)), "impersonation"),
        // A key signs its own tokens.
        (credentials::key_file(at), ""),
    ] {
        let world = with_credentials(&server);
        worlds.extend(file.map(|file| (world.with("GOOGLE_APPLICATION_CREDENTIALS", file), issued)));
    }
    for (world, issued) in worlds {
        server.bucket_exists(true);
        server.forget();
        world.run(["init"]).ended(0);
        let report = world.backup();
        world.restore("out");
        assert_same(&world.data(), &world.path("out"));
        assert!(issued.is_empty() || server.tokens_issued().last() == Some(&issued), "{issued}");
        assert!(server.requests().iter().all(|r| r.status != Some(401)), "{:?}", server.requests());

        // The token is good no more: another one is fetched, once.
        let before = server.tokens_issued().len();
        for when in [When::create("packs/"), When::read("vault.json")] {
            server.script(when, Fault::status(401));
        }
        world.write("more", "more");
        // What is asked again is no warning.
        let second = world.run(["backup", "--json", "--verbose"]);
        second.ended(0).says("401 Unauthorized");
        assert!(issued.is_empty() || server.tokens_issued().len() > before + 1);
        let second: Value = serde_json::from_slice(&second.stdout).unwrap();
        assert_eq!(snapshots(&world), [id(&second), id(&report)]);
        world.run(["verify", "--read-data"]).ended(0);
        world.run(["restore", "again"]).ended(0);
        assert_same(&world.data(), &world.path("again"));
        assert_eq!(server.refused(), [""; 0]);
    }
}

#[test]
fn tokens_that_run_out_or_are_taken_back_under_way_are_replaced() {
    let server = Server::start();
    let world = with_login(&server, "good");
    world.run(["init"]).ended(0);
    for n in 0..30 {
        world.write(&format!("{n}.bin"), noise(n, 1_000_000));
    }
    server.forget();
    server.tokens_open(6);
    let before = server.tokens_issued().len();
    world
        .run(["backup", "--checkpoint-every", "1ms", "--parallel", "2", "--verbose"])
        .ended(0)
        .says("401 Unauthorized");
    let refused = server.requests().iter().filter(|r| r.status == Some(401)).count();
    let issued = server.tokens_issued().len() - before;
    assert!(refused >= 5 && issued >= 5, "{refused} requests refused, {issued} tokens issued");
    server.tokens_open(usize::MAX);
    world.run(["verify", "--read-data"]).ended(0);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn an_endpoint_of_tokens_that_fails_for_a_moment_is_asked_again() {
    let server = Server::start();
    let metadata = with_credentials(&server).with("GCE_METADATA_HOST", server.host());
    for world in [metadata, with_login(&server, "good")] {
        server.bucket_exists(true);
        for fault in [Fault::status(503), Fault::status(429), Fault::Reset(Point::Answer)] {
            server.forget();
            server.script(When::kind(Kind::Token).times(2), fault.clone());
            let made = world.run(["backup", "--init"]);
            assert_eq!((made.code, server.faults()), (Some(0), 2), "{fault:?}: {made:?}");
        }
        world.run(["verify", "--read-data"]).ended(0);
    }
}

#[test]
fn credentials_that_do_not_work_are_said_to() {
    let server = Server::start();
    let world = with_credentials(&server);
    let begin = Instant::now();
    world.run(["init"]).ended(1).says("no credentials were found").says("gcloud auth application-default login");
    let world = with_credentials(&server);
    fs::write(world.path("empty.json"), r#"{"type": "authorized_user"}"#).unwrap();
    let world = world.with("GOOGLE_APPLICATION_CREDENTIALS", "empty.json");
    world.run(["init"]).ended(1).says("it has no `client_id`");
    let world = with_login(&server, "revoked");
    world.run(["init"]).ended(1).says("invalid_grant").says("expired or revoked");
    let world = with_credentials(&server).with("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json");
    world.run(["init"]).ended(1).says("GOOGLE_APPLICATION_CREDENTIALS").says("/nowhere/key.json");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(server.names(), [""; 0]);

    // Refused for ever, with whatever token.
    let world = with_credentials(&server).with("GCE_METADATA_HOST", server.host());
    world.run(["init"]).ended(0);
    let report = world.backup();
    for kind in [Kind::Create, Kind::Read, Kind::List, Kind::Describe] {
        server.script(When::kind(kind).always(), Fault::status(401));
    }
    world.write("more", "more");
    world.run(["backup"]).ended(1).says("401 Unauthorized").says("The store refuses these credentials");
    assert!(server.faults() <= 4, "{} requests", server.faults());
    server.heal();
    assert_eq!(snapshots(&world), [id(&report)]);
}

#[test]
fn a_clock_that_is_wrong_is_an_error() {
    let (server, world) = vault_in(World::with_files());
    let report = world.backup();
    for (seconds, direction) in [(-600, "ahead of"), (600, "behind")] {
        server.skew(seconds);
        world.write("more", direction);
        world.run(["backup"]).ended(1).says("clock").says(direction).says("Set the clock");
        let elsewhere = format!("gs://{BUCKET}/new/{}", direction.replace(' ', "-"));
        world.run(["init", "--vault", &elsewhere]).ended(1).says("clock");
    }
    server.skew(-120);
    assert_eq!(snapshots(&world), [id(&report)]);
    // Time is the store's.
    let second = world.backup();
    let taken = id(&second).split('-').nth(1).unwrap().to_owned();
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    assert!(taken < now, "taken at {taken}, and here it is {now}");
    let minute_ago = (jiff::Timestamp::now() - Duration::from_secs(60)).strftime("%Y%m%dT%H%M%SZ").to_string();
    assert!(taken < minute_ago, "taken at {taken}, though the store is two minutes behind {now}");
    assert_eq!(server.names().iter().filter(|name| name.contains("/new/")).count(), 0, "{:?}", server.names());
}

#[test]
fn what_was_released_counts_as_absent() {
    let (server, world) = vault_in(World::with_files());
    world.write("large.bin", noise(1, 400_000));
    let first = world.backup();
    world.write("more", "more");
    let second = world.backup();
    let time = "2026-01-02T03:04:05.678Z";
    let of = |part: &str| server.names().into_iter().find(|name| name.contains(part)).unwrap();
    server.release(&of(id(&second)), time);
    assert_eq!(snapshots(&world), [id(&first)]);
    // A pack that is about to vanish does not count: its content is sent again, and `verify` says why it is in no listing.
    let packs: Vec<_> = server.names().into_iter().filter(|name| name.contains("packs/")).collect();
    packs.iter().for_each(|pack| server.release(pack, time));
    let damage = world.run(["verify"]);
    assert!(damage.ended(4).text().contains("it is released"), "{damage:?}");
    let third = world.backup();
    packs.iter().for_each(|pack| server.remove(pack));
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
    assert_eq!(snapshots(&world), [id(&third), id(&first)]);
    assert_eq!(server.refused(), [""; 0]);
}

#[test]
fn both_of_two_that_make_a_vault_or_a_snapshot_have_it() {
    let server = Server::start();
    let world = World::with_files().on(&server.url(), VAULT);
    let mut both = [0; 2].map(|_| world.command(["init"]).spawn().unwrap());
    let ended = both.iter_mut().map(|child| child.wait().unwrap().success()).filter(|good| *good).count();
    assert_eq!(ended, 1, "one makes it, the other one is told that it exists");
    let mut both = [0; 2].map(|_| world.command(["backup"]).spawn().unwrap());
    assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
    let all = snapshots(&world);
    assert_eq!(all.len(), 2);
    world.run(["verify", "--read-data"]).ended(0);
    for (n, name) in all.iter().enumerate() {
        let target = format!("out{n}");
        world.restore_snapshot(name, &target);
        assert_same(&world.data(), &world.path(&target));
    }
}
