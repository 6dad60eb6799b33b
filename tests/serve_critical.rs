//! Critical events that are posted to `lastgood serve`: they are answered before their snapshot is taken, and what was promised
//! is done or reported.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::serve::snapshots;
use crate::support::World;
use crate::support::http::Service;

/// Waits until a run is over, and returns its report.
fn over(service: &Service, accepted: &Value) -> Value {
    let began = Instant::now();
    loop {
        let run = service.get(accepted["poll"].as_str().unwrap()).is(200);
        if run["status"] == "over" {
            return run["report"].clone();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{run}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The objects of claims, by the ends of their names.
fn claims(world: &World) -> Vec<String> {
    let folders = fs::read_dir(world.vault().join("claims")).into_iter().flatten();
    let objects = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let mut names: Vec<_> = objects.map(|object| object.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn who_tells_of_a_critical_error_does_not_wait_and_finds_what_came_of_it() {
    let world = World::with_files();
    let mut service = Service::start(&world, ["--coalesce", "1h"]);
    let critical = |service: &Service, message: &str| {
        service.connect().ask("POST", "/events/critical", "", message.as_bytes()).unwrap()
    };
    // There is no vault yet: it is made, so that the claim is in it when the answer comes.
    let first = critical(&service, "[ERROR] disk full").is(202);
    assert_eq!(claims(&world)[0], "1.json");
    let report = over(&service, &first);
    assert_eq!((&report["run"], &report["result"]), (&first["run"], &json!("complete")));
    assert_eq!(report["events"][0]["message"], "[ERROR] disk full");
    assert_eq!(snapshots(&world)[0]["reason"], "critical");
    assert_eq!(claims(&world), ["1.json", "done.json"]);

    // They would wait for an hour.
    let second = critical(&service, "again").is(202);
    let third = critical(&service, "and again").is(202);
    assert_eq!(second["run"], third["run"]);
    assert_eq!(service.get(second["poll"].as_str().unwrap()).is(200)["status"], "waiting");
    assert_eq!(claims(&world), ["1.json", "1.json", "1.json", "done.json"]);
    // A backup that is due takes them along.
    let shared = service.post("/events/backup", "").is(200);
    assert_eq!((&shared["run"], shared["events"].as_array().unwrap().len()), (&second["run"], 3));
    assert_eq!(over(&service, &third), shared);
    assert_eq!(snapshots(&world).len(), 2);

    // A promise that cannot be kept has a report, and no claim that stays open.
    let last = critical(&service, "too late").is(202);
    assert_eq!(service.end(Signal::TERM).0, Some(0));
    let run = last["run"].as_str().unwrap();
    let kept = world.json(["runs", run], 0);
    assert_eq!((&kept["result"], &kept["events"][0]["message"]), (&json!("failed"), &json!("too late")));
    assert!(claims(&world).contains(&"1.failed.json".to_owned()), "{:?}", claims(&world));
    assert!(service.log().contains("with the promise of the run"), "{}", service.log());
}

#[test]
fn what_was_promised_by_one_that_was_killed_is_reported_by_another() {
    let world = World::with_files();
    let service = Service::start(&world, ["--coalesce", "1h"]);
    let first = service.post("/events/critical", "").is(202);
    over(&service, &first);
    let promised = ["one", "two"].map(|message| {
        service.connect().ask("POST", "/events/critical", "", message.as_bytes()).unwrap().is(202)["run"].clone()
    });
    assert_eq!(promised[0], promised[1]);
    // Dropped, it is killed.
    drop(service);
    let claims_of = |text: &str| -> Vec<_> {
        let folders = fs::read_dir(world.vault().join("claims")).unwrap();
        let claims = folders.map(|folder| folder.unwrap().path().join("1.json"));
        claims.filter(|claim| fs::read_to_string(claim).unwrap().contains(text)).collect()
    };
    // The time of one is over.
    let [claim] = &claims_of("\"message\":\"one\"")[..] else { panic!() };
    let text = fs::read_to_string(claim).unwrap();
    let seconds = 3600 + 2 * 3600;
    assert!(text.contains(&format!("\"seconds\":{seconds}")), "{text}");
    fs::write(claim, text.replace(&format!("\"seconds\":{seconds}"), "\"seconds\":0")).unwrap();

    let service = Service::start(&world, []);
    service.log_with("is reported as failed");
    let began = Instant::now();
    while !claims(&world).contains(&"1.failed.json".to_owned()) {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", service.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(claims(&world), ["1.failed.json", "1.json", "1.json", "1.json", "done.json"]);
    let run = promised[0].as_str().unwrap();
    let told = service.get(&format!("/runs/{run}")).is(200)["report"].clone();
    assert_eq!((&told["result"], &told["events"][0]["message"]), (&json!("failed"), &json!("one")));
    assert_eq!(told["events"].as_array().unwrap().len(), 1);
    assert_eq!(world.json(["runs", run], 0), told);
    let health = service.get("/health").is(200);
    assert_eq!((&health["status"], &health["last_run"]["run"]), (&json!("degraded"), &promised[0]));
    assert_eq!(snapshots(&world).len(), 1);
    // It is reported once; the other one's time is not over.
    drop(service);
    let service = Service::start(&world, []);
    service.post("/events/backup", "").is(200);
    assert_eq!(world.json(["runs"], 0).as_array().unwrap().len(), 3);
}

#[test]
fn on_cloud_run_a_critical_error_is_not_answered_before_its_snapshot() {
    let world = World::with_files().with("K_SERVICE", "backup").with("LASTGOOD_DATA", "data");
    let report = Service::start(&world, []).post("/events/critical", "").is(200);
    assert_eq!(report["result"], "complete");
    Service::start(&world, ["--background"]).post("/events/critical", "").is(202);
    let waits = Service::start(&world, ["--background"]).post("/events/critical?wait=true", "").is(200);
    assert_eq!(waits["result"], "complete");
    // A delivered event is acknowledged when there is a snapshot.
    let headers = "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: s\r\nce-type: dev.lastgood.critical\r\n";
    let service = Service::start(&world, ["--background"]);
    let delivered = service.connect().ask("POST", "/events/critical", headers, b"").unwrap().is(200);
    assert_eq!(delivered["result"], "complete");
}
