//! Several instances of the service at one vault in a bucket: each event is served by one of them, whatever becomes of the
//! others.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::World;
use crate::support::cloud::server::Server;
use crate::support::cloud::{VAULT, assert_sound, snapshots, vault_in};
use crate::support::http::{Answer, Service};
use crate::support::tree::noise;

/// Delivers an event, as a message of a push subscription.
fn deliver(service: &Service, id: &str) -> Answer {
    let push = json!({ "message": { "messageId": id, "attributes": { "action": "backup" } }, "subscription": "projects/p/subscriptions/s" });
    service.post("/", &push.to_string())
}

#[test]
fn an_event_that_two_get_at_once_is_served_by_one() {
    let (server, world) = vault_in(World::with_files());
    let services = [(); 2].map(|()| Service::start(&world, []));
    let mut reported = Vec::new();
    for round in 1..=4 {
        world.write("changed", noise(round, 1000));
        let id = round.to_string();
        let mut answers: Vec<_> = thread::scope(|scope| {
            let asked = services.each_ref().map(|service| scope.spawn(|| deliver(service, &id)));
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        answers.sort_by_key(|answer| answer.status);
        let report = answers[0].is(200);
        match answers[1].status {
            200 => assert_eq!(answers[1].json(), report),
            status => assert!(status == 409 && answers[1].header("retry-after").is_some(), "{status}"),
        }
        for service in &services {
            assert_eq!(deliver(service, &id).is(200), report);
        }
        reported.insert(0, report["snapshot"].as_str().unwrap().to_owned());
    }
    assert_sound(&server, &world, &reported);
}

#[test]
fn a_first_event_that_two_get_at_once_makes_one_vault_and_one_snapshot() {
    let deliver_to_two = |world: &World, args: &[&str]| {
        let services = [(); 2].map(|()| Service::start(world, args.iter().copied()));
        let answers = thread::scope(|scope| {
            let asked = services.each_ref().map(|service| scope.spawn(|| deliver(service, "1")));
            asked.map(|asked| asked.join().unwrap())
        });
        assert!(answers.iter().any(|answer| answer.status == 200), "{answers:?}");
        let reports = services.each_ref().map(|service| deliver(service, "1").is(200));
        assert_eq!(reports[0], reports[1]);
        assert_eq!(snapshots(world).len(), 1, "{answers:?}");
    };
    for _ in 0..3 {
        deliver_to_two(&World::with_files(), &[]);
        let server = Server::start();
        deliver_to_two(&World::with_files().on(&server.url(), VAULT), &["--init"]);
    }
}

#[test]
fn an_event_of_one_that_is_killed_is_served_by_another_when_its_time_is_over() {
    let (server, world) = vault_in(World::new());
    for n in 0..12 {
        world.write(&format!("{n}.bin"), noise(n, 1_000_000));
    }
    let killed = Service::start(&world, ["--run-timeout", "10s"]);
    let other = Service::start(&world, ["--run-timeout", "10s"]);
    server.bandwidth(1 << 20);
    let asked = Instant::now();
    let mut client = killed.connect();
    let push = json!({ "message": { "messageId": "1", "attributes": { "action": "backup" } }, "subscription": "projects/p/subscriptions/s" });
    client.request("POST", "/", "Content-Type: application/json\r\n", push.to_string().as_bytes()).unwrap();
    while !server.names().iter().any(|name| name.contains("/packs/")) {
        assert!(asked.elapsed() < Duration::from_secs(60), "{}", killed.log());
        thread::sleep(Duration::from_millis(10));
    }
    // Dropped, it is killed.
    drop(killed);
    assert!(client.answer(false).is_err());
    server.bandwidth(0);
    let report = loop {
        let answer = deliver(&other, "1");
        if answer.status == 200 {
            break answer.json();
        }
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert!(asked.elapsed() < Duration::from_secs(60), "{}", other.log());
        let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=10).contains(&after), "{after}");
        assert_eq!(snapshots(&world), [""; 0]);
        thread::sleep(Duration::from_millis(500));
    };
    assert!(asked.elapsed() >= Duration::from_secs(9), "{:?}", asked.elapsed());
    assert_eq!(report["result"], "complete");
    assert_eq!(deliver(&other, "1").is(200), report);
    assert_sound(&server, &world, &[report["snapshot"].as_str().unwrap().to_owned()]);
}
