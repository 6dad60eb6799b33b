//! Answers that are not what they look like: each is believed as far as it goes, and told in Google's own words.

use serde_json::{Value, json};

use crate::support::cloud::server::{Answer, Fault, Kind, Request, Server, When};
use crate::support::cloud::{SHORT, VAULT, assert_sound, fails, small, snapshots, vault_in};
use crate::support::{World, id, number};

fn names<'r>(requests: &'r [Request], part: &str) -> Vec<&'r str> {
    requests.iter().filter_map(|request| request.name.as_deref()).filter(|name| name.contains(part)).collect()
}

#[test]
fn an_answer_that_says_it_exists_is_believed_only_where_it_does() {
    let policy = "Request violates constraint 'constraints/storage.publicAccessPrevention'";
    // With the status, and the reason, of an object that exists.
    let forbidden = Answer::error(412, "conditionNotMet", policy);
    let held = Answer::error(
        403,
        "retentionPolicyNotMet",
        "Object 'b/o' is subject to bucket's retention policy or object retention and cannot be deleted or overwritten until 2027.",
    );
    let server = Server::start();
    let world = World::with_files().on(&server.url(), VAULT);
    server.script(When::create("vault.json").always(), Fault::Answer(forbidden.clone()));
    world.run(["init"]).ended(1).says(policy).says("An organisation policy forbids it");
    server.heal();
    world.run(["init"]).ended(0);
    let report = world.backup();
    let reported = snapshots(&world);
    for (answer, said) in [(&forbidden, policy), (&held, "subject to bucket's retention policy")] {
        for name in ["packs/", "index/", "snapshots/"] {
            server.script(When::create(name).always(), Fault::Answer(answer.clone()));
            let ran = fails(&server, &world, &reported);
            ran.says(said);
            assert!(!ran.stderr.contains("exists already"), "{ran:?}");
        }
    }
    // It does: an attempt whose answer was lost stored it.
    server.forget();
    for name in ["packs/", "index/", "snapshots/"] {
        server.script(When::create(name), Fault::DoneBut(503));
        server.script(When::create(name), Fault::Answer(held.clone()));
    }
    world.write("more", "more");
    let second = world.backup();
    assert_eq!(server.faults(), 6);
    assert_sound(&server, &world, &[id(&second).to_owned(), id(&report).to_owned()]);
    // A checksum that is wrong is one of what came, and passes.
    let damaged = "Provided CRC32C \"AAAAAA==\" doesn't match calculated CRC32C \"BBBBBB==\".";
    server.script(When::create("packs/"), Fault::Answer(Answer::error(412, "conditionNotMet", damaged)));
    world.write("more", "and more");
    world.run(["backup", "-v"]).ended(0).says("trying again");
}

#[test]
fn after_a_lost_upload_only_the_look_at_it_is_repeated() {
    let (server, world) = small();
    for name in ["packs/", "index/", "snapshots/"] {
        server.script(When::create(name), Fault::DoneBut(503));
        server.script(When::describe(name).times(2), Fault::status(503));
    }
    world.write("new.bin", "new");
    let report = world.backup();
    assert_eq!(server.faults(), 9);
    for name in ["packs/", "index/", "snapshots/"] {
        let created = server.requests_of(Kind::Create);
        assert_eq!(names(&created, name).len(), 2, "{created:#?}");
        assert_eq!(names(&server.requests_of(Kind::Describe), name).len(), 3);
    }
    assert_eq!(number(&report, "retries"), 9);
}

#[test]
fn what_google_refuses_is_told_with_what_to_do() {
    let (server, world) = small();
    let reported = snapshots(&world);
    for (status, reason, said, todo) in [
        (400, "required", "Bucket is requester pays bucket but no user project provided.", "--user-project"),
        (403, "UserProjectAccessDenied", "w does not have serviceusage.services.use access.", "serviceUsageConsumer"),
        (
            403,
            "accountDisabled",
            "The billing account for the owning project is disabled in state absent",
            "billing is off",
        ),
        (
            403,
            "accessNotConfigured",
            "Cloud Storage JSON API has not been used in project 7 before or it is disabled.",
            "gcloud services enable storage.googleapis.com",
        ),
        (
            403,
            "forbidden",
            "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: eYhDkfYCu",
            "VPC Service Controls",
        ),
        (403, "forbidden", "Permission denied on Cloud KMS key. Please ensure that your", "--authorize-cmek"),
        (403, "quotaExceeded", "Quota exceeded for quota metric 'Write requests'", "A quota of the project"),
    ] {
        for when in [When::create("packs/"), When::list("snapshots/")] {
            server.script(when.always(), Fault::Answer(Answer::error(status, reason, said)));
            let ran = fails(&server, &world, &reported);
            ran.says(said).says(todo);
            assert!(!ran.stderr.contains("trying again"), "{ran:?}");
        }
    }
}

#[test]
fn every_request_names_the_project_that_is_billed() {
    let (server, world) = vault_in(World::with_files());
    for (world, args) in [(world.with("LASTGOOD_USER_PROJECT", "payer"), &[][..])] {
        server.forget();
        for command in [&["backup"][..], &["restore", "out"], &["verify", "--read-data"], &["doctor"]] {
            world.run(command.iter().chain(args)).ended(0);
        }
        let asked = server.requests();
        let unnamed: Vec<_> =
            asked.iter().filter(|r| r.target.contains("/b/") && !r.target.contains("userProject=payer")).collect();
        assert!(asked.len() > 20 && unnamed.is_empty(), "{unnamed:#?}");
    }
    let world = World::with_files().on(&server.url(), VAULT);
    server.forget();
    world.run(["list", "--user-project", "other"]).ended(0);
    assert!(server.requests().iter().all(|r| r.target.contains("userProject=other")), "{:#?}", server.requests());
}

#[test]
fn a_listing_that_repeats_an_object_has_it_once() {
    let (server, world) = small();
    let listed = |prefix: &str| -> Vec<Value> {
        let there = server.names().into_iter().filter(|name| name.starts_with(&format!("app/state/{prefix}")));
        let created = "2026-11-21T10:00:00Z";
        let size = |name: &str| server.object(name).unwrap().len().to_string();
        there.map(|name| json!({"name": name, "size": size(&name), "timeCreated": created})).collect()
    };
    for prefix in ["snapshots/", "packs/", "index/"] {
        let twice: Vec<_> = [listed(prefix), listed(prefix)].concat();
        let answer = Answer::json(200, &json!({"kind": "storage#objects", "items": twice}));
        server.script(When::list(prefix).always(), Fault::Answer(answer));
    }
    assert_eq!(snapshots(&world).len(), 1);
    let verified = world.json(["verify", "--read-data"], 0);
    server.heal();
    let once = world.json(["verify", "--read-data"], 0);
    for field in ["snapshots", "packs", "bytes"] {
        assert_eq!(verified[field], once[field], "{field}");
    }
}

#[test]
fn an_error_in_an_answer_that_says_it_is_none_is_an_error() {
    let (server, world) = small();
    let reported = snapshots(&world);
    let error = |code: u16, message: &str| Answer::json(200, &json!({"error": {"code": code, "message": message}}));
    let passing = [error(503, "Try again."), Answer::json(200, &json!({})), Answer::json(200, &json!({"error": {}}))];
    for answer in &passing {
        for when in [When::list("snapshots/"), When::list("packs/"), When::create("packs/"), When::create("snapshots/")]
        {
            server.script(when, Fault::Answer(answer.clone()));
        }
        world.write("new.bin", format!("{answer:?}"));
        server.forget();
        world.run(["backup", "-v"]).ended(0).says("trying again");
        assert_eq!(server.faults(), 4, "{answer:?}");
    }
    let reported = [&snapshots(&world)[..passing.len()], &reported[..]].concat();
    server.script(When::list("snapshots/").always(), Fault::Answer(error(403, "Not for you.")));
    fails(&server, &world, &reported).says("Not for you.").says("Grant roles/");
    // Nothing is taken for an empty vault.
    for answer in passing {
        server.script(When::list("snapshots/").always(), Fault::Answer(answer));
        let ran = world.run(["restore", "out", SHORT]);
        ran.ended(1).says("tried ");
        assert!(!ran.stderr.contains("no snapshot"), "{ran:?}");
        server.heal();
    }
    let report = world.backup();
    assert_sound(&server, &world, &[&[id(&report).to_owned()], &reported[..]].concat());
}

#[test]
fn a_restore_by_a_wrong_clock_leaves_nothing() {
    let (server, world) = small();
    for seconds in [-600, 600] {
        server.skew(seconds);
        server.forget();
        world.run(["restore", "out"]).ended(1).says("clock").says("Set the clock");
        assert_eq!(names(&server.requests_of(Kind::Read), "packs/"), [""; 0]);
        let left: Vec<_> = std::fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["data"], "{left:?}");
    }
}
