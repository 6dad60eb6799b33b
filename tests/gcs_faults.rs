//! Faults of the network and of the store: each one is survived, or ends in a clear error that harms nothing.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::cloud::server::{Answer, Fault, Kind, Point, Request, Server, When};
use crate::support::cloud::{SHORT, VAULT, assert_sound, fails, small, snapshots, vault_in};
use crate::support::compare::assert_same;
use crate::support::tree::{noise, set_mtime};
use crate::support::{World, id, number};

/// Asserts that a report counts the requests that the server saw.
#[track_caller]
fn assert_counted(server: &Server, report: &Value) {
    for (kind, name) in
        [(Kind::Create, "create"), (Kind::Read, "read"), (Kind::List, "list"), (Kind::Describe, "describe")]
    {
        // The report itself is stored when it is complete.
        let report_itself = |r: &Request| kind == Kind::Create && r.name.as_ref().unwrap().contains("/runs/");
        let mut seen = server.requests_of(kind);
        seen.retain(|request| !report_itself(request));
        assert_eq!(number(&report["requests"], name), seen.len() as u64, "{name} in {report}\n{seen:#?}");
    }
}

/// Returns the faults that may pass: the next answer may be right.
fn passing() -> Vec<Fault> {
    let mut faults: Vec<Fault> = [408, 429, 500, 502, 503, 504].map(Fault::status).into();
    faults.push(Fault::retry_after(503, 1));
    faults.extend([Point::Upload(0), Point::Answer, Point::Head, Point::Body(10)].map(Fault::Reset));
    faults.push(Fault::Cut(10));
    faults.push(Fault::Answer(Answer::text(200, "<html>A page of some proxy</html>")));
    faults
}

#[test]
fn what_fails_once_is_survived() {
    let (server, world) = small();
    let mut reported = snapshots(&world);
    server.forget();
    let damaged = "Provided CRC32C \"AAAAAA==\" doesn't match calculated CRC32C \"BBBBBB==\".";
    let mut uploads = passing();
    uploads.extend([Fault::Reset(Point::Upload(200_000)), Fault::DoneBut(503), Fault::DoneBut(408)]);
    uploads.push(Fault::Answer(Answer::error(400, "invalid", damaged)));
    let reads = &passing();
    let (mut up, mut down) = (uploads.iter().cycle(), reads.iter().cycle());
    for round in 0..6 {
        world.write("new.bin", noise(round, 600_000));
        for name in ["packs/", "index/", "snapshots/"] {
            server.script(When::create(name), up.next().unwrap().clone());
        }
        for when in [When::list("snapshots/"), When::list("packs/"), When::list("index/"), When::read("vault.json")] {
            server.script(when, down.next().unwrap().clone());
        }
        let ran = world.run(["backup", "--json", "-v"]);
        ran.ended(0).says("trying again");
        assert_eq!(server.faults(), 7, "{ran:?}");
        let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_counted(&server, &report);
        assert_eq!(number(&report, "retries"), 7);
        reported.insert(0, id(&report).to_owned());
        server.forget();

        for name in ["vault.json", "snapshots/", "index/", "packs/"] {
            server.script(When::read(name), down.next().unwrap().clone());
        }
        server.script(When::list("snapshots/"), down.next().unwrap().clone());
        world.run(["restore", "again", "-v"]).ended(0).says("trying again");
        assert_eq!(server.faults(), 5);
        assert_same(&world.data(), &world.path("again"));
        fs::remove_dir_all(world.path("again")).unwrap();
        server.forget();
    }
    assert_sound(&server, &world, &reported);
}

#[test]
fn what_fails_for_ever_is_an_error_that_harms_nothing() {
    let (server, world) = small();
    let reported = snapshots(&world);
    let (unavailable, reset) = (Fault::status(503), Fault::Reset(Point::Upload(0)));
    for (when, fault, what) in [
        (When::create("packs/"), &unavailable, "503 Service Unavailable"),
        (When::create("index/"), &reset, "reset"),
        (When::create("snapshots/"), &unavailable, "commit snapshots/"),
        (When::list("packs/"), &unavailable, "list packs/"),
        (When::list("snapshots/"), &reset, "list snapshots/"),
        (When::read("vault.json"), &unavailable, "read vault.json"),
        (When::any(), &Fault::status(429), "429 Too Many Requests"),
    ] {
        server.script(when.always(), fault.clone());
        fails(&server, &world, &reported).says(what).says("tried ");
    }
    world.write("target/old", "old");
    fs::rename(world.data().join("target"), world.path("target")).unwrap();
    for name in ["vault.json", "snapshots/", "index/", "packs/"] {
        server.script(When::read(name).always(), unavailable.clone());
        world.run(["restore", "target", SHORT]).ended(1).says("503 Service Unavailable").says(name);
        server.heal();
        assert_eq!(fs::read_to_string(world.path("target/old")).unwrap(), "old");
        assert_eq!(fs::read_dir(world.path("target")).unwrap().count(), 1);
    }
    let report = world.backup();
    assert_sound(&server, &world, &[&[id(&report).to_owned()], &reported[..]].concat());
}

#[test]
fn a_store_that_is_not_there_is_unreachable() {
    let (server, world) = small();
    drop(server);
    let ran = world.run(["backup", SHORT]);
    ran.ended(1).says("tried ").says("refused").says(VAULT);
    world.run(["list", SHORT]).ended(1).says("refused");
}

#[test]
fn an_upload_whose_answer_is_lost_is_known_again() {
    for forbidden_at_once in [false, true] {
        let server = Server::start();
        if forbidden_at_once {
            server.check_delete_before_precondition();
        }
        let world = World::with_files().on(&server.url(), VAULT);
        let lost = |name| server.script(When::create(name), Fault::Reset(Point::Answer));
        ["README.md", "vault.json"].into_iter().for_each(lost);
        world.run(["init"]).ended(0);
        world.run(["init"]).ended(1).says("a vault exists there already");

        ["packs/", "index/", "snapshots/"].into_iter().for_each(lost);
        server.script(When::describe("packs/"), Fault::status(503));
        let report = world.backup();
        assert_eq!(server.faults(), 6);
        let of_roots: Vec<_> = server.requests().into_iter().filter(|r| r.target.contains("snapshots%2F1")).collect();
        assert!(of_roots.iter().any(|r| r.kind == Kind::Describe), "the root was not looked at: {of_roots:?}");
        server.script(When::create("snapshots/"), Fault::DoneBut(503));
        world.write("more", "more");
        let second = world.backup();
        // Reported once each, and there once each.
        let reported = [id(&second).to_owned(), id(&report).to_owned()];
        server.forget();
        assert_sound(&server, &world, &reported);

        // Stored, and never confirmed: not reported, and yet a snapshot like any other.
        server.script(When::create("snapshots/"), Fault::Reset(Point::Answer));
        server.script(When::create("snapshots/").always(), Fault::status(503));
        world.write("more", "even more");
        world.run(["backup", SHORT]).ended(1).says("commit snapshots/");
        server.heal();
        let found = snapshots(&world);
        assert_eq!(found[1..], reported);
        assert_sound(&server, &world, &found);
    }
}

#[test]
fn a_stream_that_breaks_goes_on_where_it_broke() {
    let (server, world) = small();
    let per_answer = 200_000;
    server.script(When::read("packs/").always(), Fault::Cut(per_answer));
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
    // No byte comes twice.
    let reads = server.requests_of(Kind::Read);
    let of_packs: Vec<_> = reads.iter().filter(|r| r.name.as_ref().unwrap().contains("packs/")).collect();
    let packs = server.names().into_iter().filter(|name| name.contains("packs/"));
    let size: u64 = packs.map(|name| server.object(&name).unwrap().len() as u64).sum();
    let sent: u64 = of_packs.iter().map(|r| r.sent).sum();
    let tails = 16 << 10;
    assert!(
        of_packs.len() > 7 && sent <= size + tails,
        "{} reads of {sent} bytes, and {size} are there",
        of_packs.len()
    );
    // The first one says of what generation the rest has to be.
    let resumed: Vec<_> = of_packs.iter().filter(|r| r.generation.is_some()).collect();
    assert!(resumed.len() >= 6, "{of_packs:#?}");
}

#[test]
fn what_cannot_be_right_is_asked_for_again_and_what_stays_wrong_is_told() {
    let (server, world) = small();
    let first = snapshots(&world);
    world.write("first.bin", noise(2, 1_500_000));
    let newest = id(&world.backup()).to_owned();
    let restored = |code| {
        let report = world.json(["restore", "out", "-q"], code);
        fs::remove_dir_all(world.path("out")).unwrap();
        report
    };
    let hash = [("x-goog-hash", "crc32c=AAAAAA==".to_owned())];
    let page = Answer::text(200, "<html>A page of some proxy</html>").with(&hash);
    let nothing = Answer::text(200, "").with(&hash);
    for name in ["vault.json", newest.as_str()] {
        for fault in [Fault::Answer(page.clone()), Fault::Answer(nothing.clone()), Fault::status(404), Fault::Flip(40)]
        {
            server.script(When::read(name).times(3), fault.clone());
            let report = restored(0);
            assert_eq!((id(&report), &report["passed_over"]), (newest.as_str(), &Value::Array(vec![])), "{fault:?}");
            assert_eq!(server.faults(), 3, "{name}: {fault:?}");
            server.forget();
        }
    }
    for fault in [Fault::status(404), Fault::Flip(40)] {
        server.script(When::read(&newest).always(), fault);
        let report = restored(3);
        assert_eq!((id(&report), report["instead_of"].as_str()), (first[0].as_str(), Some(newest.as_str())));
        world.run(["restore", "out", "-q"]).ended(3).says("is older than");
        world.run(["restore", "out"]).ended(3).says(&format!("{newest} is passed over: its root is damaged"));
        fs::remove_dir_all(world.path("out")).unwrap();
        server.heal();
    }
}

#[test]
fn wrong_bytes_never_arrive() {
    let (server, world) = small();
    for (name, at) in [("vault.json", 40), ("snapshots/", 100), ("index/", 30), ("packs/", 700_000)] {
        for always in [false, true] {
            let when = if always { When::read(name).always() } else { When::read(name) };
            server.script(when, Fault::Flip(at));
            let ran = world.run(["restore", "out"]);
            match ran.code {
                Some(0) => {
                    assert_same(&world.data(), &world.path("out"));
                    fs::remove_dir_all(world.path("out")).unwrap();
                }
                _ => {
                    ran.ended(4);
                    assert!(ran.stderr.contains(name) || ran.stderr.contains("first.bin"), "{ran:?}");
                    assert!(!world.path("out").exists());
                }
            }
            assert!(!always || ran.code != Some(0), "{name}: {ran:?}");
            let names_its_sum = ["vault.json", "snapshots/"].contains(&name);
            assert!(always || !names_its_sum || ran.code == Some(0), "{name}: {ran:?}");
            server.heal();
        }
    }
    // The answer to an upload and a listing may be wrong, too.
    for at in [3, 15, 30, 75, 150] {
        let before = snapshots_healed(&server, &world);
        for when in [When::list("packs/"), When::list("index/"), When::create("packs/"), When::create("snapshots/")] {
            server.script(when, Fault::Flip(at));
        }
        world.write("new.bin", noise(at, 100_000));
        let ran = world.run(["backup", SHORT]);
        let after = snapshots_healed(&server, &world);
        assert!(after.ends_with(&before), "{before:?} before, {after:?} after");
        assert!(ran.code != Some(0) || after.len() == before.len() + 1, "{ran:?}");
        let report = world.backup();
        assert_sound(&server, &world, &[&[id(&report).to_owned()], &after[..]].concat());
    }
    // A backup on top of what cannot be read: either it is as good as any, or there is none.
    for name in ["vault.json", "snapshots/", "index/"] {
        server.script(When::read(name).always(), Fault::Flip(60));
        let before = snapshots_healed(&server, &world);
        server.script(When::read(name).always(), Fault::Flip(60));
        let ran = world.run(["backup", "--json"]);
        let after = snapshots_healed(&server, &world);
        assert_eq!(after.len() - before.len(), usize::from(ran.code == Some(0)), "{ran:?}");
        assert_sound(&server, &world, &after);
    }
}

fn snapshots_healed(server: &Server, world: &World) -> Vec<String> {
    server.heal();
    snapshots(world)
}

#[test]
fn a_store_that_keeps_other_bytes_is_not_believed() {
    let (server, world) = small();
    let reported = snapshots(&world);
    let other = Answer::new(200, "application/json", r#"{"size": "300000", "crc32c": "AAAAAA=="}"#);
    server.script(When::create("packs/").always(), Fault::Answer(other));
    fails(&server, &world, &reported).says("keeps other bytes than those that were sent");
}

#[test]
fn a_listing_is_whole_or_an_error() {
    let (server, world) = small();
    for n in 0..4 {
        world.write(&format!("{n}.bin"), noise(n, 50_000));
        world.backup();
    }
    let all = snapshots(&world);
    assert_eq!(all.len(), 5);
    server.pages_of(2);
    server.forget();
    for fault in [Fault::status(503), Fault::Cut(30), Fault::Reset(Point::Body(50))] {
        server.script(When::list("snapshots/").later_pages(), fault);
        assert_eq!(snapshots(&world), all);
    }
    assert_eq!(server.faults(), 3);
    // An object that a page of the listing leaves out is not taken for missing.
    for prefix in ["packs/", "index/"] {
        server.script(When::list(prefix).later_pages().always(), Fault::status(503));
        world.run(["verify", SHORT]).ended(1).says(&format!("list {prefix}"));
        fails(&server, &world, &all).says(&format!("list {prefix}"));
        server.heal();
    }
    server.script(When::list("snapshots/").later_pages().always(), Fault::status(503));
    world.run(["restore", "out", SHORT]).ended(1).says("list snapshots/");
    assert!(!world.path("out").exists());
    server.heal();
    let report = world.backup();
    let expected: Vec<_> = std::iter::once(id(&report).to_owned()).chain(all).collect();
    assert_sound(&server, &world, &expected);
}

#[test]
fn a_backup_that_was_stopped_sends_only_the_rest() {
    let (server, world) = vault_in(World::new());
    for n in 0..40 {
        let path = format!("{n:02}.bin");
        world.write(&path, noise(n, 1_000_000));
        set_mtime(&world.data().join(path), 1_700_000_000, 0);
    }
    server.bandwidth(20_000_000);
    for (round, signal) in ["KILL", "TERM"].into_iter().enumerate() {
        let sent = |server: &Server| -> u64 {
            let uploads = server.requests_of(Kind::Create);
            uploads.iter().filter(|r| r.name.as_ref().unwrap().contains("packs/")).map(|r| r.media).sum()
        };
        let mut backup = world.command(["backup", "--checkpoint-every", "1ms"]).spawn().unwrap();
        let begin = Instant::now();
        let checkpoints = |server: &Server| server.names().iter().filter(|name| name.contains("checkpoints/")).count();
        let before = checkpoints(&server);
        while checkpoints(&server) < before + 8 {
            assert!(begin.elapsed() < Duration::from_secs(60), "no checkpoints appear");
            assert!(backup.try_wait().unwrap().is_none(), "it ended before it could be stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
        let kill = std::process::Command::new("kill").args(["-s", signal, &backup.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert!(!backup.wait().unwrap().success());
        let first = sent(&server);
        assert!(first > 4_000_000, "{first}");
        assert_eq!(snapshots(&world).len(), round);
        let report = world.backup();
        let both = sent(&server);
        // At most the packs that were under way are sent again.
        assert!(both <= 40_100_000 + 17_000_000, "{first} bytes were sent before, {both} in all");
        assert!(both - first <= 40_100_000 - 4_000_000, "{first} bytes were sent before, {both} in all");
        assert!(number(&report, "uploaded_bytes") < 40_000_000);
        server.heal();
        world.restore("out");
        assert_same(&world.data(), &world.path("out"));
        fs::remove_dir_all(world.path("out")).unwrap();
        for n in 0..40 {
            let path = format!("{n:02}.bin");
            world.write(&path, noise(1000 + n, 1_000_000));
            set_mtime(&world.data().join(path), 1_700_000_001, 0);
        }
        server.forget();
    }
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn nothing_is_sent_twice_and_nothing_overwritten() {
    let (server, world) = vault_in(World::with_everything());
    server.forget();
    let report = world.backup();
    let uploads = server.requests_of(Kind::Create);
    let mut names: Vec<_> = uploads.iter().map(|r| r.name.clone().unwrap()).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(uploads.iter().all(|r| r.if_generation_match.as_deref() == Some("0") && r.status == Some(200)));
    let of_report = |r: &Request| r.name.as_ref().unwrap().contains("/runs/");
    assert_eq!(uploads.iter().filter(|r| of_report(r)).count(), 1);
    let media: u64 = uploads.iter().filter(|r| !of_report(r)).map(|r| r.media).sum();
    assert_eq!(media, number(&report, "uploaded_bytes"));
    // Not one listing or object more than asked for, and nobody's credentials go to an emulator.
    assert!(server.requests().iter().all(|r| r.authorization.is_none()));
    assert!(server.requests().iter().all(|r| r.agent.as_ref().unwrap().starts_with("lastgood/")));
    assert!(server.requests_of(Kind::List).iter().all(|r| r.target.contains("fields=")));
    assert_counted(&server, &report);
    assert_eq!((number(&report, "retries"), number(&report, "sent")), (0, media));
    assert_sound(&server, &world, &[id(&report).to_owned()]);
}
