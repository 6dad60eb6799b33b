//! One failure is told once in a log that people read: not in the log and again as the error at the end, nor in several of its lines.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::cloud::server::{Fault, Kind, Server, When};
use crate::support::counter::without_terminal;
use crate::support::doctor::complaints;
use crate::support::http::Service;
use crate::support::requirements::{as_nobody, free_port};
use crate::support::terminal::{lines, on_terminal};
use crate::support::{Ran, World};

const ONCE: [&str; 5] = ["run", "--every", "off", "--store-timeout", "1s"];

/// Runs an app that does nothing.
fn run(world: &World, more: &[&str]) -> Ran {
    Ran::of(without_terminal(&world.command([&ONCE[..], more, &["--", "true"]].concat())))
}

/// A world whose bucket does not answer.
fn away(world: World) -> World {
    world.on(&format!("http://127.0.0.1:{}", free_port()), "gs://some-bucket/app")
}

/// The lines that tell of it, without those of attempts that go on.
fn telling<'r>(ran: &'r Ran, what: &str) -> Vec<&'r str> {
    ran.stderr.lines().filter(|line| line.contains(what) && !line.contains("trying again")).collect()
}

#[test]
fn a_vault_that_is_away_is_told_once_at_the_start_and_once_at_the_end() {
    for (world, what) in [
        (away(World::with_files()), "Connection refused"),
        (
            World::with_files()
                .with("LASTGOOD_VAULT", "gs://some-bucket/app")
                .with("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file"),
            "/no/such/file",
        ),
    ] {
        for more in [&[][..], &["--init"]] {
            let ran = run(&world, more);
            let told = telling(&ran, what);
            // Whether a vault is to be made is not known without credentials.
            if !more.is_empty() && what.starts_with('/') {
                assert!(told.len() == 1 && told[0].contains("lastgood: could not "), "{ran:?}");
                continue;
            }
            ran.ended(0);
            let [first, last] = told[..] else { panic!("{told:#?}\n{ran:?}") };
            assert!(first.contains("ERROR no epoch can be taken"), "{ran:?}");
            assert!(last.contains("ERROR the last snapshot could not be taken"), "{ran:?}");
        }
        // A replica that is away, too, has a line of its own.
        let ran = run(&world, &["--vault", "gs://some-bucket/app", "--vault", "gs://some-bucket/other"]);
        let told = telling(ran.ended(0), what);
        let of_other: Vec<_> = told.iter().filter(|line| !line.contains("some-bucket/app")).collect();
        assert!(of_other.len() == 1 && of_other[0].contains("WARN the vault gs://some-bucket/other"), "{ran:?}");
        assert_eq!(told.len(), 3, "{ran:?}");
        // JSON is for programs: the line of the run has the error, too.
        let ran = run(&world, &["--log-format", "json"]);
        let parsed = ran.ended(0).stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let ended = parsed.into_iter().find(|line| line["message"] == "run ended: backup is failed").unwrap();
        assert!(ended["error"].as_str().unwrap().contains(what) && ended["code"].is_string(), "{ended}");
    }
}

#[test]
fn a_start_that_fails_is_told_once() {
    let world = away(World::new());
    for more in [&[][..], &["--on-unreachable", "fail"], &["--detached"]] {
        let ran = run(&world, more);
        let told = telling(ran.ended(1), "Connection refused");
        let [line] = told[..] else { panic!("{more:?}: {ran:?}") };
        assert!(line.contains(" lastgood: could not "), "{ran:?}");
    }
    // A restore that fails: its run has a line, and the reason is the error at the end.
    let world = World::with_files();
    world.backup();
    fs::remove_dir_all(world.data()).unwrap();
    for pack in fs::read_dir(world.vault().join("packs")).unwrap() {
        fs::write(pack.unwrap().path(), "no pack").unwrap();
    }
    let ran = run(&world, &[]);
    let ended = telling(&ran, "run ended: restore is ");
    assert!(ended.len() == 1 && ended[0].contains("code=\"damage\"") && !ended[0].contains("error="), "{ran:?}");
    let last = ran.stderr.lines().find(|line| line.contains(" lastgood: could not ")).unwrap();
    let why = last.split(": ").last().unwrap().trim_end_matches(" [damage]");
    assert_eq!(ran.stderr.matches(why).count(), 1, "{why}: {ran:?}");
}

#[test]
fn on_a_terminal_it_is_told_once_too() {
    let world = away(World::with_files());
    let ran = on_terminal(&world.command([&ONCE[..], &["--", "true"]].concat()), 400, &[]);
    let shown = lines(ran.ended(0).text());
    let told: Vec<_> =
        shown.iter().filter(|line| line.contains("Connection refused") && !line.contains("trying again")).collect();
    assert_eq!(told.len(), 2, "{shown:#?}");
}

#[test]
fn a_failed_run_of_a_service_is_told_once() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    let service = Service::start(&world, ["data", "--auth", "none", "--before-backup", "false"]);
    service.post("/backup/trigger", "");
    let log = service.log_with(" ended as failed: ");
    assert_eq!(log.matches("exit code 1").count(), 1, "{log}");
    assert!(log.contains("run ended: backup is failed") && log.contains("code=\"hook-failed\""), "{log}");
}

#[test]
fn what_a_directory_is_without_its_vault_is_told_once() {
    let world = away(World::with_files());
    let ran = world.run(["state", "--store-timeout", "1s"]);
    let told = [telling(&ran, "Connection refused").len(), ran.text().matches("Connection refused").count()];
    assert_eq!(told, [0, 1], "{ran:?}");
    let report = world.json(["state", "--store-timeout", "1s"], ran.code.unwrap());
    assert!(report["warnings"][0].as_str().unwrap().contains("Connection refused"), "{report}");
}

#[test]
fn a_pattern_that_chooses_nothing_is_told_once() {
    let world = World::with_files();
    for (patterns, lines) in [(&["--include", "nosuch"][..], 1), (&["--include", "no,such"], 2)] {
        let ran = world.run([&["backup"][..], patterns].concat());
        let told = ran.ended(3).stderr.matches(patterns[1]).count();
        assert_eq!(told, lines, "{ran:?}");
        ran.says(&format!("nothing in the data directory is chosen by --include {}", patterns[1]));
    }
}

#[test]
fn an_address_stands_once_in_an_error() {
    let world = away(World::with_files());
    for command in [&["list"][..], &["backup"], &["verify"], &["runs"]] {
        let ran = world.run([command, &["--store-timeout", "1s"]].concat());
        assert_ne!(ran.code, Some(0), "{ran:?}");
        let told: Vec<_> = ran.stderr.lines().filter(|line| line.contains(" lastgood: could not ")).collect();
        let [line] = told[..] else { panic!("{ran:?}") };
        assert_eq!(line.matches("gs://some-bucket/app").count(), 1, "{line}");
    }
}

#[test]
fn what_keeps_doctor_out_of_a_vault_is_one_problem() {
    let world = World::with_files();
    world.backup();
    let mode = |mode| fs::set_permissions(world.vault(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0);
    let ran = as_nobody(&world, &["doctor"]);
    mode(0o755);
    let Some(ran) = ran else { return };
    let shown = ran.text();
    let told: Vec<_> = shown
        .lines()
        .filter(|line| ["PROBLEM  folder", "PROBLEM  vault"].iter().any(|what| line.contains(what)))
        .collect();
    assert!(told.len() == 1 && told[0].contains("it cannot be read"), "{ran:?}");
    assert!(
        ["belongs to", "not looked for, because it may not be read", "chgrp"].iter().all(|what| shown.contains(what)),
        "{shown}"
    );
}

#[test]
fn a_bucket_that_refuses_is_one_problem_to_doctor() {
    let server = Server::start();
    server.demand_tokens();
    server.grant(&[]);
    let world = World::with_files()
        .with("LASTGOOD_STORAGE_ENDPOINT", server.url())
        .with("GCE_METADATA_HOST", server.host())
        .with("LASTGOOD_VAULT", "gs://test-bucket/app");
    // What is permitted cannot be asked for, so that the vault itself is looked for.
    server.script(When::kind(Kind::Permissions).always(), Fault::status(404));
    let report = world.json(["doctor"], 1);
    let told: Vec<_> = complaints(&report).into_iter().filter(|(_, outcome)| *outcome == "problem").collect();
    assert_eq!(told, [("bucket", "problem")], "{report:#}");
}
