//! The health, the metrics and the description of its interface that `lastgood serve` serves.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::World;
use crate::support::cloud::{self, vault_in};
use crate::support::http::Service;

#[test]
fn what_health_says() {
    let world = World::with_files();
    let health = |args: &[&str]| {
        let service = Service::start(&world, args.iter().copied());
        let answer = service.get("/health");
        assert_eq!(answer.status == 503, answer.json()["status"] == "unhealthy", "{}", answer.text());
        (answer.text().to_owned(), answer.json()["why"].to_string())
    };
    let (text, why) = health(&[]);
    assert!(text.starts_with(r#"{"status":"unhealthy","#) && why.contains("cannot be opened"), "{text}");
    let backup = world.backup();
    let (text, why) = health(&["--critical-file", "a.txt", "--critical-file", "**/*.bin"]);
    assert!(text.starts_with(r#"{"status":"healthy","#) && why == "[]", "{text}");
    let (text, why) = health(&["--critical-file", "*.db"]);
    assert!(text.contains(r#""status":"unhealthy""#) && why.contains("*.db is not in"), "{text}");
    std::thread::sleep(Duration::from_secs(3));
    let (text, why) = health(&["--max-age", "1s"]);
    assert!(text.contains(r#""status":"unhealthy""#) && why.contains("newest good snapshot"), "{text}");
    let (text, why) = health(&["--data-freshness", "1s"]);
    assert!(text.contains(r#""status":"degraded""#) && why.contains("newest file"), "{text}");

    let service = Service::start(&world, []);
    let told = service.get("/health").is(200);
    assert_eq!(told["snapshot"]["id"], backup["snapshot"]);
    assert_eq!((&told["last_run"]["action"], &told["last_run"]["result"]), (&json!("backup"), &json!("complete")));
    // The observation is kept: the vault is not looked at again within half a minute.
    fs::rename(world.vault(), world.path("away")).unwrap();
    assert_eq!(service.get("/health").is(200)["checked"], told["checked"]);
    assert_eq!(service.get("/backup/status").is(200)["running"], Value::Null);
    fs::rename(world.data(), world.path("gone")).unwrap();
    let failed = service.post("/events/backup", "");
    assert!(failed.status == 503 && failed.json()["result"] == "failed", "{}", failed.text());
    drop(service);
    let (text, _) = health(&[]);
    assert!(text.contains(r#""present":false"#), "{text}");
}

#[test]
fn what_health_says_while_a_vault_is_away() {
    let (server, world) = vault_in(World::with_files());
    let backup = world.backup();
    let service = Service::start(&world, [cloud::SHORT, "--critical-file", "a.txt"]);
    let told = service.get("/health").is(200);
    assert_eq!((&told["status"], &told["vaults"][0]["seen_seconds_ago"]), (&json!("healthy"), &json!(0)));
    server.latency(Duration::from_secs(60));
    // When the run has failed, it is looked at again.
    assert_eq!(service.post("/backup/trigger", "").status, 503);
    let told = service.get("/health").is(200);
    assert_eq!(told["status"], "degraded", "{told}");
    let vault = &told["vaults"][0];
    assert!(vault["reachable"] == false && vault["error"].is_string() && vault["seen_seconds_ago"].is_u64(), "{told}");
    assert_eq!((&told["snapshot"]["id"], &told["data"]["present"]), (&backup["snapshot"], &json!(true)));
    assert!(told["why"].to_string().contains("and not now"), "{told}");
    // One that never answered is not known to hold anything; the data is seen all the same.
    let new = Service::start(&world, [cloud::SHORT]);
    let told = new.get("/health").is(503);
    assert_eq!((&told["status"], &told["vaults"][0]["seen_seconds_ago"]), (&json!("unhealthy"), &Value::Null));
    assert_eq!((&told["snapshot"], &told["data"]["present"]), (&Value::Null, &json!(true)), "{told}");
}

#[test]
fn metrics_and_the_document() {
    let world = World::with_files();
    let service = Service::start(&world, []);
    service.post("/backup/trigger", "").is(200);
    let metrics = service.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut typed = Vec::new();
    for line in metrics.text().lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed.push(rest.split(' ').next().unwrap().to_owned());
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.split('{').next().unwrap();
            assert!(typed.last().is_some_and(|typed| typed == name), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    let says = |line: &str| metrics.text().lines().any(|said| said.starts_with(line));
    for line in [
        r#"lastgood_runs_total{action="backup",result="complete"} 1"#,
        "lastgood_newest_good_snapshot_age_seconds ",
        r#"lastgood_last_success_timestamp_seconds{action="backup"} "#,
        r#"lastgood_health{status="healthy"} 1"#,
    ] {
        assert!(says(line), "{line}: {}", metrics.text());
    }
    let document = service.get("/openapi.json").is(200);
    assert_eq!(document["openapi"], "3.1.0");
    // Every path that it names is served: with a wrong method it says which there are.
    for (path, methods) in document["paths"].as_object().unwrap() {
        let refused = service.connect().ask("PATCH", &path.replace("{id}", "x"), "", b"").unwrap();
        let allowed = refused.header("allow").unwrap().to_ascii_lowercase();
        for method in methods.as_object().unwrap().keys() {
            assert!(refused.status == 405 && allowed.contains(method), "{method} {path}: {allowed}");
        }
    }
}
