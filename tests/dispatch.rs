//! A service that starts a Cloud Run job for each run: from the event to the job's snapshot and back to the answer.

use std::fs;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::cloud::{credentials, snapshots, vault_in};
use crate::support::cloud_run::{CloudRun, Fault, JOB};
use crate::support::http::{Answer, Client, Service};
use crate::support::tree::noise;
use crate::support::{Ran, World, id};

/// A vault, a service and its job.
struct Place {
    world: World,
    cloud: CloudRun,
    service: Service,
}

impl Place {
    fn new() -> Self {
        Self::with(World::with_files(), &["data"], 0, &[])
    }

    /// Makes it with these arguments of the job and the service, and this many attempts after the first.
    fn with(world: World, job: &[&str], retries: u32, service: &[&str]) -> Self {
        world.run(["init"]).ended(0);
        let cloud = CloudRun::with(&world.command([&["dispatched"], job].concat()), retries);
        let service = serve(&world, &cloud, service);
        Place { world, cloud, service }
    }

    fn snapshots(&self) -> Vec<Value> {
        self.world.json(["list"], 0).as_array().unwrap().clone()
    }
}

fn serve(world: &World, cloud: &CloudRun, args: &[&str]) -> Service {
    let dispatch = format!("job={JOB}");
    let mut command = world.command([&["serve", "--listen", "127.0.0.1:0", "--dispatch", &dispatch], args].concat());
    command.env("LASTGOOD_RUN_ENDPOINT", cloud.endpoint());
    Service::of(command)
}

/// Sends an event; its answer is still to be read.
fn send(service: &Service, kind: &str, id: &str, body: &str) -> Client {
    let headers = format!(
        "ce-specversion: 1.0\r\nce-id: {id}\r\nce-source: //test/app\r\nce-type: dev.lastgood.{kind}\r\n\
         Content-Type: application/json\r\n"
    );
    let mut client = service.connect();
    client.request("POST", "/", &headers, body.as_bytes()).unwrap();
    client
}

fn event(service: &Service, kind: &str, id: &str, body: &str) -> Answer {
    send(service, kind, id, body).answer(false).unwrap()
}

fn backup(service: &Service, id: &str) -> Answer {
    event(service, "backup.requested", id, "{}")
}

/// Sends an event again until it is not being served elsewhere any more.
fn until_served(service: &Service, id: &str) -> Answer {
    let began = Instant::now();
    loop {
        let answer = backup(service, id);
        if answer.status != 409 {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{}", service.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what}: it does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_event_is_served_by_a_job_under_its_own_claim() {
    let place = Place::new();
    let body = r#"{"severity":"CRITICAL","service":"shop","message":"disk full","order":"17"}"#;
    let report = event(&place.service, "critical", "1", body).is(200);
    assert_eq!((&report["result"], &report["way"]), (&json!("complete"), &json!("http")));
    assert_eq!((&report["place"]["execution"], &report["place"]["attempt"]), (&json!("long-00001"), &json!("0")));
    assert_eq!(report["events"][0]["message"], "disk full");
    let snapshots = place.snapshots();
    assert_eq!(
        (snapshots.len(), &snapshots[0]["id"], &snapshots[0]["reason"]),
        (1, &report["snapshot"], &json!("critical"))
    );
    assert_eq!((&snapshots[0]["labels"]["service"], &snapshots[0]["labels"]["order"]), (&json!("shop"), &json!("17")));
    // The one call overrides the one variable.
    let calls = place.cloud.calls();
    let claim = calls[0].body["overrides"]["containerOverrides"][0]["env"][0]["value"].as_str().unwrap().to_owned();
    assert_eq!((calls.len(), calls[0].path.as_str()), (1, &*format!("/v2/{JOB}:run")));
    let variable = json!({ "name": "LASTGOOD_CLAIM", "value": claim });
    assert_eq!(calls[0].body, json!({ "overrides": { "containerOverrides": [{ "env": [variable] }] } }));
    assert_eq!(calls[0].authorization, None);
    assert!(place.world.vault().join(format!("claims/{claim}.order.json")).is_file());
    // Known by its run, here and afterwards; and a redelivery starts nothing.
    let run = report["run"].as_str().unwrap();
    let polled = place.service.get(&format!("/runs/{run}")).is(200);
    assert_eq!((&polled["status"], &polled["report"]), (&json!("over"), &report));
    assert_eq!(place.world.json(["runs", run], 0), report);
    assert_eq!(event(&place.service, "critical", "1", body).is(200), report);
    assert_eq!(place.cloud.calls().len(), 1);
    let attempt = &place.cloud.attempts(1)[0];
    assert_eq!(attempt.code, Some(0), "{}", attempt.said);
    assert!(attempt.said.contains(&format!("\"{run}\"")), "{}", attempt.said);
    assert!(
        place.service.get("/metrics").text().contains(r#"lastgood_runs_total{action="backup",result="complete"} 1"#)
    );
    // A request without an identity is dispatched as well, and so is a verification.
    let asked = place.service.post("/backup/trigger", r#"{"labels":{"who":"ann"}}"#).is(200);
    assert_eq!(place.snapshots()[0]["labels"], json!({ "who": "ann" }));
    assert_eq!(place.service.post("/backup/verify", "").is(200)["action"], "verify");
    assert!(asked["run"] != report["run"] && place.cloud.calls().len() == 3);
    // An execution by hand for the same claim does nothing.
    let mut again = place.world.command(["dispatched", "data"]);
    again.env("LASTGOOD_CLAIM", &claim).env("CLOUD_RUN_EXECUTION", "long-99999");
    Ran::of(again).ended(0).says("long-00001/0 has taken the dispatch request");
    assert_eq!(place.snapshots().len(), 2);
}

#[test]
fn a_vault_in_a_bucket_needs_no_more_of_a_writer() {
    let (server, world) = vault_in(World::with_files());
    let cloud = CloudRun::with(&world.command(["dispatched", "data"]), 0);
    let service = serve(&world, &cloud, &[]);
    let report = backup(&service, "1").is(200);
    assert_eq!((id(&report), cloud.calls().len()), (&*snapshots(&world)[0], 1));
    assert_eq!(backup(&service, "1").is(200), report);
    assert_eq!(server.refused(), [""; 0]);
}

#[test]
fn the_call_carries_a_token_for_the_platform() {
    let world = World::with_files();
    let Some(key) = credentials::key_file(&world.path("")) else { return };
    let place = Place::with(world.with("GOOGLE_APPLICATION_CREDENTIALS", key), &["data"], 0, &[]);
    backup(&place.service, "1").is(200);
    let token = place.cloud.calls()[0].authorization.clone().unwrap();
    let claims = token.strip_prefix("Bearer ").unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
    assert!(!place.service.log().contains(&token[7..]));
}

#[test]
fn who_cannot_wait_so_long_comes_again() {
    let place = Place::with(World::with_files(), &["data"], 0, &["--dispatch-wait", "1s"]);
    place.cloud.hold();
    let first = backup(&place.service, "1");
    assert_eq!((first.status, first.header("retry-after")), (409, Some("60")));
    assert_eq!(first.json()["status"], "elsewhere");
    // A redelivery while it runs; and what comes meanwhile shares the next one, which is not started yet.
    let accepted = place.service.post("/backup/trigger?wait=false", "").is(202);
    let poll = accepted["poll"].as_str().unwrap().to_owned();
    for id in ["1", "2", "3"] {
        assert_eq!(backup(&place.service, id).status, 409);
    }
    assert_eq!(place.service.get(&poll).is(200)["status"], "waiting");
    let status = place.service.get("/backup/status").is(200);
    assert!(status["running"].is_string() && status["running"] != accepted["run"], "{status}");
    assert_eq!(place.cloud.calls().len(), 1);
    place.cloud.let_go();
    let first = until_served(&place.service, "1").is(200);
    let second = until_served(&place.service, "2").is(200);
    assert_eq!(until_served(&place.service, "3").is(200), second);
    assert!(first["run"] != second["run"] && second["run"] == accepted["run"], "{first} {second}");
    wait_for("the end", || place.service.get(&poll).is(200)["status"] == "over");
    assert_eq!(place.service.get(&poll).is(200)["report"], second);
    // Each of the three, the request without an identity, and the redelivery of the first were one run's.
    assert_eq!((place.snapshots().len(), place.cloud.calls().len()), (2, 2));
}

#[test]
fn a_restore_is_allowed_by_both_or_not_done() {
    let place = Place::with(World::with_files(), &["data"], 1, &["--allow-restore"]);
    backup(&place.service, "1").is(200);
    place.world.write("a.txt", "changed");
    let refused = event(&place.service, "restore.requested", "2", "{}").is(200);
    assert_eq!(refused["result"], "refused");
    assert!(refused["error"]["error"].as_str().unwrap().contains("--allow-restore"), "{refused}");
    // Nor does another attempt make a success of it.
    let attempts = place.cloud.attempts(3);
    assert_eq!((attempts[1].code, attempts[2].code), (Some(2), Some(1)), "{attempts:?}");
    assert!(attempts[2].said.contains("ended for good"), "{}", attempts[2].said);
    assert_eq!(event(&place.service, "restore.requested", "2", "{}").is(200), refused);
    assert_eq!(fs::read_to_string(place.world.data().join("a.txt")).unwrap(), "changed");

    let place = Place::with(World::with_files(), &["data", "--allow-restore"], 0, &[]);
    backup(&place.service, "1").is(200);
    place.world.write("a.txt", "changed");
    assert_eq!(event(&place.service, "restore.requested", "2", "{}").is(200)["status"], "refused");
    assert_eq!(place.cloud.calls().len(), 1);
    let service = serve(&place.world, &place.cloud, &["--allow-restore"]);
    let restored = event(&service, "restore.requested", "3", "{}").is(200);
    assert_eq!((&restored["action"], &restored["result"]), (&json!("restore"), &json!("complete")));
    assert_eq!(fs::read_to_string(place.world.data().join("a.txt")).unwrap(), "first\n");
}

#[test]
fn a_job_that_cannot_be_started_is_told_and_tried_again() {
    let place = Place::new();
    for (status, hint) in [(403, "roles/run.jobsExecutorWithOverrides"), (404, "gcloud run jobs list")] {
        place.cloud.faults([Fault::Status(status)]);
        let failed = backup(&place.service, "1").is(503);
        let said = failed["error"]["error"].as_str().unwrap();
        assert!(said.contains(JOB) && said.contains(&status.to_string()), "{said}");
        assert!(failed["error"]["hint"].as_str().unwrap().contains(hint), "{failed}");
        place.service.log_with(hint);
    }
    assert_eq!((place.cloud.calls().len(), place.snapshots().len()), (2, 0));
    // The service waits until a passing fault is over.
    place.cloud.faults([Fault::Status(401), Fault::Status(503), Fault::Status(429)]);
    backup(&place.service, "1").is(200);
    place.service.log_with("again");
    assert_eq!((place.cloud.calls().len(), place.snapshots().len()), (6, 1));
    // Without a vault there is nothing to tell a job by.
    let world = World::with_files();
    let service = serve(&world, &place.cloud, &[]);
    let failed = backup(&service, "2").is(503);
    assert!(failed["error"]["hint"].as_str().unwrap().contains("lastgood init"), "{failed}");
    assert_eq!(place.cloud.calls().len(), 6);
}

#[test]
fn a_job_that_was_started_twice_does_it_once() {
    let place = Place::new();
    place.cloud.faults([Fault::Lost]);
    let report = backup(&place.service, "1").is(200);
    let attempts = place.cloud.attempts(2);
    assert!(attempts.iter().all(|attempt| attempt.code == Some(0)), "{attempts:?}");
    let idle = attempts.iter().filter(|attempt| attempt.said.contains("nothing is done")).count();
    let done = attempts.iter().find(|attempt| !attempt.said.contains("nothing is done")).unwrap();
    assert_eq!((idle, &report["place"]["execution"]), (1, &json!(done.execution)), "{attempts:?}");
    assert_eq!((place.snapshots().len(), place.cloud.calls().len()), (1, 2));
}

#[test]
fn a_job_that_is_killed_is_tried_again_by_its_next_attempt() {
    let world = World::new();
    for n in 0..40 {
        world.write(&format!("{n:02}.bin"), noise(n, 1_000_000));
    }
    let place = Place::with(world, &["data", "--checkpoint-every", "1ms"], 1, &[]);
    let checkpoints = place.world.vault().join("checkpoints");
    place.cloud.kill_when(move || fs::read_dir(&checkpoints).map_or(0, Iterator::count) >= 4);
    let report = backup(&place.service, "1").is(200);
    let attempts = place.cloud.attempts(2);
    assert_eq!((attempts[0].code, attempts[1].code, attempts[1].number), (None, Some(0), 1), "{attempts:?}");
    assert_eq!((&report["place"]["attempt"], &report["result"]), (&json!("1"), &json!("complete")));
    assert_eq!((place.snapshots().len(), place.cloud.calls().len()), (1, 1));
    assert_eq!(id(&report), place.snapshots()[0]["id"]);
    // The answer says that the run failed; the first one to try again takes it.
    fs::rename(place.world.data(), place.world.path("away")).unwrap();
    let failed = backup(&place.service, "2").is(503);
    assert!(failed["error"]["error"].as_str().unwrap().contains("does not exist"), "{failed}");
    place.cloud.attempts(4);
    fs::rename(place.world.path("away"), place.world.data()).unwrap();
    until_served(&place.service, "2").is(200);
    assert_eq!(place.snapshots().len(), 2);
}

#[test]
fn a_job_that_never_begins_holds_nobody_up_for_ever() {
    let place = Place::with(World::with_files(), &["data"], 0, &["--run-timeout", "3s"]);
    place.cloud.faults([Fault::Nothing]);
    let given_up = backup(&place.service, "1").is(503);
    assert!(given_up["error"]["error"].as_str().unwrap().contains("time limit"), "{given_up}");
    assert_eq!(place.world.json(["runs", given_up["run"].as_str().unwrap()], 0), given_up);
    let service = serve(&place.world, &place.cloud, &[]);
    let began = Instant::now();
    let report = loop {
        let answer = backup(&service, "1");
        if answer.status == 200 {
            break answer.json();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{}", answer.text());
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((&report["result"], place.snapshots().len()), (&json!("complete"), 1));
}

#[test]
fn when_the_service_ends_the_job_goes_on() {
    let mut place = Place::new();
    place.cloud.hold();
    let mut waiting = send(&place.service, "backup.requested", "1", "{}");
    wait_for("the start", || place.service.log().contains("is done by"));
    let (code, took) = place.service.end(Signal::TERM);
    assert!(code == Some(0) && took < Duration::from_secs(10), "{code:?} {took:?} {}", place.service.log());
    let answer = waiting.answer(false).unwrap();
    assert_eq!((answer.status, answer.json()["status"].as_str()), (409, Some("elsewhere")));
    // Another instance: first the job has not ended, then its report is there.
    let service = serve(&place.world, &place.cloud, &[]);
    assert_eq!(backup(&service, "1").status, 409);
    place.cloud.let_go();
    let report = until_served(&service, "1").is(200);
    assert_eq!((&report["result"], &report["place"]["execution"]), (&json!("complete"), &json!("long-00001")));
    assert_eq!((place.snapshots().len(), place.cloud.calls().len()), (1, 1));
}

#[test]
fn the_command_of_the_job_says_how_it_is_meant() {
    let world = World::with_files();
    world.run(["dispatched"]).ended(2).says("LASTGOOD_CLAIM").says("--dispatch job=");
    let wrong = |value: &str| {
        let mut command = world.command(["dispatched", "data"]);
        command.env("LASTGOOD_CLAIM", value);
        Ran::of(command)
    };
    wrong("../vault.json").ended(2).says("32 hex digits");
    wrong(&format!("{}/1", "0".repeat(32))).ended(1).says("there is no vault");
    world.run(["init"]).ended(0);
    wrong(&format!("{}/1", "0".repeat(32))).ended(1).says("no vault has it").says("the same vaults");
    world.run(["serve", "--listen", "127.0.0.1:0", "--dispatch", "job=long"]).ended(2).says("projects/PROJECT");
}
