//! A store that lets one wait: it asks to, stands still, or answers before all was said.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lastgood::backup::options::BackupOptions;
use lastgood::backup::{self};
use lastgood::gcp::cloud::Cloud;
use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::restore;
use lastgood::retry::Backoff;
use lastgood::store::gcs::{GcsBucket, RequestTimeouts};
use lastgood::store::retrying::RetryStore;
use lastgood::store::{Store, StoreError};
use lastgood::vault::Vault;

use crate::support::cloud::server::{BUCKET, Fault, Kind, Point, Server, When};
use crate::support::cloud::{assert_sound, fails, small, snapshots};
use crate::support::compare::assert_same;
use crate::support::tree::noise;
use crate::support::{Ran, id};

#[test]
fn a_store_that_asks_to_wait_is_waited_for() {
    let (server, world) = small();
    let mut reported = snapshots(&world);
    world.write("new.bin", noise(5, 400_000));
    server.script(When::create("packs/"), Fault::retry_after(429, 2));
    let date = (jiff::Timestamp::now() + Duration::from_secs(10)).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    server.script(When::create("snapshots/"), Fault::Status(503, vec![("Retry-After", date)]));
    reported.insert(0, id(&world.backup()).to_owned());
    for (name, seconds) in [("packs/", 2.0), ("snapshots/", 1.0)] {
        let all = server.requests_of(Kind::Create);
        let tries: Vec<_> = all.iter().filter(|r| r.name.as_ref().unwrap().contains(name)).collect();
        assert_eq!(tries.len(), 2, "{tries:?}");
        let waited = tries[1].at.duration_since(tries[0].at).as_secs_f64();
        assert!(waited >= seconds, "{name}: {waited} s");
    }
    // It would be waited for longer than the time that is given: that is said at once.
    server.script(When::create("packs/"), Fault::retry_after(429, 3600));
    let begin = Instant::now();
    fails(&server, &world, &reported).says("429").says("3600 s");
    assert!(begin.elapsed() < Duration::from_secs(30));
    world.write("not.stored", "");
    reported.insert(0, id(&world.backup()).to_owned());
    assert_sound(&server, &world, &reported);
}

#[test]
fn an_answer_that_comes_before_all_was_sent_is_heard() {
    let (server, world) = small();
    let reported = snapshots(&world);
    world.write("new.bin", noise(3, 8_000_000));
    server.script(When::create("packs/"), Fault::Early(503));
    let begin = Instant::now();
    let report = world.backup();
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let reported = [&[id(&report).to_owned()], &reported[..]].concat();
    world.write("new.bin", noise(4, 8_000_000));
    server.script(When::create("packs/"), Fault::Early(403));
    world.run(["backup"]).ended(1).says("403 Forbidden");
    assert!(begin.elapsed() < Duration::from_secs(16), "{:?}", begin.elapsed());
    world.write("new.bin", noise(3, 8_000_000));
    let last = world.backup();
    assert_sound(&server, &world, &[&[id(&last).to_owned()], &reported[..]].concat());
}

/// Returns a store whose limits are such that a test need not wait long.
fn hasty(server: &Server, patience: Duration) -> RetryStore<GcsBucket> {
    let cloud = Cloud { emulator: Some(server.url()), ..Cloud::default() };
    let limits = RequestTimeouts { stall: Duration::from_millis(300), answer: Duration::from_millis(600) };
    let stop = Arc::new(AtomicBool::new(false));
    let bucket = GcsBucket::new(&cloud, BUCKET, "app/state", limits, stop.clone()).unwrap();
    let pace = Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(50), patience };
    RetryStore::new(bucket, pace, stop)
}

#[test]
fn a_store_that_stands_still_is_asked_again() {
    let (server, world) = small();
    let vault = || Vault::open(Box::new(hasty(&server, Duration::from_secs(20)))).unwrap();
    let long = Duration::from_secs(60);
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor };
    for (round, point) in
        [Point::Upload(0), Point::Upload(300_000), Point::Answer, Point::Head, Point::Body(10)].into_iter().enumerate()
    {
        let vault = vault();
        world.write("new.bin", noise(100 + round as u64, 2_000_000));
        let upload = matches!(point, Point::Upload(1..));
        for name in ["packs/", "index/", "snapshots/"] {
            server.script(When::create(name), Fault::Stall(point, long));
        }
        if !upload {
            server.script(When::list("packs/"), Fault::Stall(point, long));
            server.script(When::read("snapshots/"), Fault::Stall(point, long));
        }
        let begin = Instant::now();
        let report =
            backup::backup(&vault, &BackupOptions { data: world.data(), ..BackupOptions::default() }, &ctx).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(15), "{point:?}: {:?}", begin.elapsed());
        assert_eq!(server.faults(), if upload { 3 } else { 5 }, "{point:?}");
        server.heal();
        let target = world.path(format!("out{round}"));
        server.script(When::read("packs/"), Fault::Stall(point, long));
        let options = restore::options::RestoreOptions {
            snapshot: report.snapshot.to_string(),
            ..restore::options::RestoreOptions::latest(target.clone())
        };
        restore::restore(&vault, &options, &ctx).unwrap();
        assert_same(&world.data(), &target);
        server.forget();
    }
    // For ever.
    server.script(When::read("vault.json").always(), Fault::Stall(Point::Head, long));
    let told = hasty(&server, Duration::from_secs(1)).get("vault.json", 1 << 20).unwrap_err();
    assert!(matches!(&told, StoreError::Unreachable { why, .. } if why.contains("no bytes")), "{told:?}");
}

/// The one test that waits for the real limit, which nothing configures.
#[test]
fn ten_seconds_without_a_byte_are_enough() {
    let (server, world) = small();
    world.write("new.bin", noise(9, 300_000));
    for when in [When::create("packs/"), When::list("packs/")] {
        server.script(when, Fault::Stall(Point::Body(5), Duration::from_secs(120)));
    }
    let begin = Instant::now();
    let mut command = world.command(["backup", "--json"]);
    command.arg("--verbose");
    let ran = Ran::of(command);
    ran.ended(0).says("trying again");
    assert!((19..60).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    let report = serde_json::from_slice(&ran.stdout).unwrap();
    let second = snapshots(&world).pop().unwrap();
    assert_sound(&server, &world, &[id(&report).to_owned(), second]);
}
