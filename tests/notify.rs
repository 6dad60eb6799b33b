//! Notifications of how runs ended, which never change the result of a run.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::http::Service;
use crate::support::pubsub::{PROJECT, PubSub};
use crate::support::webhook::{Step, Webhook};
use crate::support::{Ran, World, id, python};

/// How long a message may take through the emulator.
const WITHIN: Duration = Duration::from_secs(60);

/// Returns the report of a run as the vault keeps it.
fn kept(world: &World, run: &Value) -> Value {
    world.json(["runs", run.as_str().unwrap()], 0)
}

fn snapshots(world: &World) -> usize {
    world.json(["list"], 0).as_array().unwrap().len()
}

/// Asserts that nothing secret about a webhook's address is in the output.
#[track_caller]
fn says_no_secret(said: &str) {
    assert!(!said.contains("secret") && !said.contains("/services/"), "{said}");
}

#[test]
fn a_webhook_is_told_of_every_run_and_of_nothing_else() {
    let hook = Webhook::new(&[]);
    let world = World::with_files().with("LASTGOOD_WEBHOOK", hook.url());
    let backup = world.json(["backup", "--reason", "schedule"], 0);
    world.json(["restore", "again"], 0);
    world.json(["verify"], 0);
    world.json(["list"], 0);
    fs::rename(world.data(), world.path("away")).unwrap();
    world.run(["backup"]).ended(1).says("does not exist");
    world.run(["restore", "again", "--vault", "none"]).ended(1);
    let posts = hook.posts();
    let told: Vec<Value> = posts.iter().map(|post| post.json()["event"].clone()).collect();
    let kinds: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "dev.lastgood.backup.completed",
            "dev.lastgood.restore.completed",
            "dev.lastgood.verify.completed",
            "dev.lastgood.backup.failed",
            "dev.lastgood.restore.failed",
        ]
    );
    let post = &posts[0];
    assert_eq!(post.target, "/services/T0/secret?key=secret");
    assert!(post.headers.contains("content-type: application/json\r\n"), "{}", post.headers);
    let event = &told[0];
    assert_eq!((&event["specversion"], &event["id"]), (&json!("1.0"), &event["data"]["run"]));
    assert_eq!((&event["subject"], &event["reason"]), (&backup["snapshot"], &json!("schedule")));
    assert!(event["source"].as_str().unwrap().starts_with("//lastgood.dev/hosts/"), "{event}");
    assert!(told.iter().all(|other| other["source"] == event["source"]));
    let text = |at: usize| posts[at].json()["text"].as_str().unwrap().to_owned();
    let short = id(&backup).rsplit('-').next().unwrap().to_owned();
    assert!(text(0).starts_with("The backup on ") && text(0).contains(" is complete: snapshot "), "{}", text(0));
    assert!(text(0).contains(&short) && text(0).contains("3 files"), "{}", text(0));
    assert!(text(1).contains("/again: 3 files, "), "{}", text(1));
    assert!(text(2).contains("1 snapshot, "), "{}", text(2));
    assert!(text(3).contains(" failed after ") && text(3).contains("it does not exist"), "{}", text(3));
    for event in &told[..4] {
        assert_eq!(event["data"], kept(&world, &event["id"]), "{event}");
    }
    // Where there is no vault the report is kept nowhere, and told all the same.
    assert_eq!((&told[4]["data"]["result"], &told[4]["data"]["action"]), (&json!("failed"), &json!("restore")));
}

#[test]
fn a_webhook_may_be_told_of_failures_only() {
    let (hook, other) = (Webhook::new(&[]), Webhook::new(&[]));
    let world = World::with_files().with("LASTGOOD_WEBHOOK", hook.url()).with("LASTGOOD_WEBHOOK_ON", "failure");
    world.backup();
    world.run(["backup", "nowhere"]).ended(1);
    assert_eq!(hook.posts().len(), 1);
    // A vault that never gets anything, whatever the exit code.
    fs::write(world.path("no folder"), "").unwrap();
    let (url, vaults) = (other.url(), ["--vault", "backups", "--vault", "no folder"]);
    for (args, code) in [(&[][..], 3), (&["--exit-zero-on=incomplete-copies"][..], 0)] {
        let args = [&["backup", "--webhook", &*url], args, &vaults[..]].concat();
        world.run(args).ended(code);
        let told = other.posts().pop().unwrap().json();
        assert_eq!(told["event"]["result"], json!("incomplete-copies"));
        assert!(
            told["text"].as_str().unwrap().contains("It is not in ")
                && told["text"].as_str().unwrap().contains("no folder"),
            "{told}"
        );
    }
    let other = Webhook::new(&[]);
    // An empty directory is suspect. Flags win over the environment.
    fs::remove_dir_all(world.data()).unwrap();
    fs::create_dir(world.data()).unwrap();
    world.run(["backup", "--webhook", &other.url()]).ended(3);
    let told = other.posts()[0].json();
    assert_eq!(
        (&told["event"]["type"], &told["event"]["result"]),
        (&json!("dev.lastgood.backup.partial"), &json!("suspect"))
    );
    assert!(
        told["text"].as_str().unwrap().contains("It looks like an accident: the data directory is empty"),
        "{told}"
    );
    assert_eq!(hook.posts().len(), 1);
    world.run(["backup", "--webhook", "http://example.com/secret"]).ended(2).says("--webhook");
    world.run(["backup", "--results-topic", "results"]).ended(2).says("GOOGLE_CLOUD_PROJECT");
}

/// Takes a backup with a webhook that answers so; returns the run and the webhook.
fn backup_with(script: &[Step]) -> (Ran, Webhook) {
    let hook = Webhook::new(script);
    let world = World::with_files();
    // With all that can be logged.
    let ran = world.run(["backup", "--json", "-vvv", "--webhook", &hook.url()]);
    ran.ended(0);
    says_no_secret(&ran.stderr);
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["state"], "complete");
    assert_eq!(snapshots(&world), 1);
    (ran, hook)
}

#[test]
fn a_webhook_in_trouble_is_asked_again_and_changes_nothing() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (ran, hook) = backup_with(&[Step::Answer(500, ""), Step::Answer(503, "")]);
            let posts = hook.posts();
            assert_eq!(posts.len(), 3);
            assert!(posts.iter().all(|post| post.body == posts[0].body));
            assert!(!ran.stderr.contains("could not be told"), "{ran:?}");
        });
        scope.spawn(|| {
            let (ran, hook) = backup_with(&[Step::Answer(429, "Retry-After: 2\r\n")]);
            let posts = hook.posts();
            assert_eq!(posts.len(), 2);
            assert!(posts[1].at - posts[0].at >= Duration::from_secs(2));
            assert!(!ran.stderr.contains("could not be told"), "{ran:?}");
        });
        scope.spawn(|| {
            let (ran, hook) = backup_with(&[Step::Answer(404, "")]);
            assert_eq!(hook.posts().len(), 1);
            ran.says("could not be told: could not post to the webhook at http://127.0.0.1:").says("it answered 404");
        });
        scope.spawn(|| {
            let (ran, hook) = backup_with(&[Step::Answer(307, "Location: /services/elsewhere\r\n")]);
            assert_eq!(hook.posts().len(), 1);
            ran.says("it answered 307");
        });
        scope.spawn(|| {
            let (ran, hook) = backup_with(&[Step::Hang; 20]);
            assert!(hook.posts().len() > 1);
            ran.says("could not be told").says("no answer came within");
        });
        scope.spawn(|| {
            let world = World::with_files();
            // Whoever asks for a free port next gets another one, for a while.
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let ran = world.run(["backup", "--webhook", &format!("http://{free}/secret")]);
            ran.ended(0).says("could not be told: could not post to the webhook at http://127.0.0.1:").says("tried ");
            says_no_secret(&ran.stderr);
        });
    });
}

#[test]
fn a_service_tells_before_it_answers_and_ignores_what_it_told() {
    let hook = Webhook::new(&[Step::Answer(500, "")]);
    let world = World::with_files().with("LASTGOOD_WEBHOOK", hook.url());
    let service = Service::start(&world, []);
    let report = service.post("/backup/trigger", r#"{"reason":"critical","message":"disk <full>"}"#).is(200);
    let posts = hook.posts();
    assert_eq!(posts.len(), 2);
    let told = posts[1].json();
    assert_eq!((&told["event"]["data"], &told["event"]["reason"]), (&report, &json!("critical")));
    let text = told["text"].as_str().unwrap();
    assert!(text.contains("critical event") && text.contains("disk &lt;full&gt;"), "{text}");

    for path in ["/", "/events/backup", "/events/critical"] {
        for body in [told.to_string(), told["event"].to_string(), report.to_string()] {
            assert_eq!(service.post(path, &body).is(200)["status"], "ignored", "{path} {body}");
        }
    }
    service.post("/events/verify", "").is(200);
    fs::rename(world.data(), world.path("away")).unwrap();
    assert_eq!(service.post("/events/backup", "").is(503)["result"], "failed");
    let kinds: Vec<_> = hook.posts()[2..].iter().map(|post| post.json()["event"]["type"].clone()).collect();
    assert_eq!(kinds, ["dev.lastgood.verify.completed", "dev.lastgood.backup.failed"]);
    assert_eq!(snapshots(&world), 1);
    says_no_secret(&service.log());
}

#[test]
fn a_service_whose_webhook_hangs_ends_in_time() {
    let hook = Webhook::new(&[Step::Hang; 20]);
    let world = World::with_files().with("LASTGOOD_WEBHOOK", hook.url());
    let mut service = Service::start(&world, []);
    let mut client = service.connect();
    client.request("POST", "/events/backup", "", b"").unwrap();
    hook.wait_for(1);
    let (code, took) = service.end(Signal::TERM);
    println!("it ended {took:?} after SIGTERM");
    assert!(code == Some(0) && took < Duration::from_secs(10), "{code:?} {took:?}: {}", service.log());
    // The run is what it was.
    assert_eq!(client.answer(false).unwrap().is(200)["result"], "complete");
    service.log_with("could not be told");
    says_no_secret(&service.log());
}

/// An attempt of a Cloud Run job that was killed between its commit and its end told nobody: the next one does.
#[test]
fn a_run_that_did_not_live_to_tell_is_told_of_by_the_next() {
    let hook = Webhook::new(&[]);
    let world = World::with_files().with("CLOUD_RUN_JOB", "nightly").with("CLOUD_RUN_EXECUTION", "nightly-abcde");
    world.run(["init"]).ended(0);
    let attempt = |number: &str, hook: &Webhook| {
        let mut command = world.command(["backup", "data", "--json", "--reason", "schedule"]);
        command.env("CLOUD_RUN_TASK_ATTEMPT", number).env("LASTGOOD_WEBHOOK", hook.url());
        let ran = Ran::of(command);
        ran.ended(0);
        serde_json::from_slice::<Value>(&ran.stdout).unwrap()
    };
    let first = attempt("0", &Webhook::new(&[]));
    let claims = fs::read_dir(world.vault().join("claims")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(claims.join("done.json")).unwrap();
    fs::remove_dir_all(world.vault().join("runs")).unwrap();
    attempt("1", &hook);
    let told = hook.posts()[0].json();
    let event = &told["event"];
    assert_eq!(
        (&event["type"], &event["source"]),
        (&json!("dev.lastgood.backup.completed"), &json!("//lastgood.dev/jobs/nightly"))
    );
    assert_eq!((&event["subject"], &event["reason"]), (&first["snapshot"], &json!("schedule")));
    assert!(told["text"].as_str().unwrap().starts_with("The backup by the job execution nightly-abcde is complete"));
    attempt("2", &hook);
    assert_eq!((hook.posts().len(), snapshots(&world)), (1, 1));
}

#[test]
fn a_topic_is_told_and_what_comes_back_from_it_starts_nothing() {
    let Some(pubsub) = PubSub::shared() else { return };
    let topic = pubsub.topic("results");
    let subscription = pubsub.subscription("results", &topic, json!({}));
    let (hook, world) = (Webhook::new(&[]), World::with_files());
    let world = world.with("PUBSUB_EMULATOR_HOST", pubsub.host()).with("GOOGLE_CLOUD_PROJECT", PROJECT);
    let ran = world.run(["backup", "--json", "--results-topic", "results", "--webhook", &hook.url()]);
    ran.ended(0);
    assert!(!ran.stderr.contains("could not be told"), "{ran:?}");
    let [(data, attributes)] = &pubsub.take(&subscription, WITHIN)[..] else { panic!("not one message") };
    let told = hook.posts()[0].json();
    assert_eq!(serde_json::from_slice::<Value>(data).unwrap(), kept(&world, &told["event"]["id"]));
    let [kind, result] = ["ce-type", "result"].map(|name| attributes[name].as_str().unwrap());
    assert_eq!((kind, result), ("dev.lastgood.backup.completed", "complete"));
    read_by_others(data, attributes, &told["event"]);

    // A topic that is not there.
    let began = Instant::now();
    world.run(["verify", "--results-topic", "projects/demo/topics/none"]).ended(0).says("roles/pubsub.publisher");
    assert!(began.elapsed() < Duration::from_secs(60));

    // A service whose results are pushed to itself, in any form, wherever that asks for a backup.
    let world = world.with("LASTGOOD_RESULTS_TOPIC", &*topic);
    let service = Service::start(&world, ["-vv"]);
    let push = |path: &str| format!("http://{}{path}", service.address);
    for (id, config) in [
        ("results-wrapped", json!({ "pushEndpoint": push("/events/backup") })),
        (
            "results-metadata",
            json!({ "pushEndpoint": push("/events/critical"), "noWrapper": { "writeMetadata": true } }),
        ),
        ("results-bare", json!({ "pushEndpoint": push("/events/backup"), "noWrapper": { "writeMetadata": false } })),
    ] {
        pubsub.subscription(id, &topic, json!({ "pushConfig": config }));
    }
    service.post("/backup/trigger", "").is(200);
    let began = Instant::now();
    while service.log().matches("an event is ignored").count() < 3 {
        assert!(began.elapsed() < WITHIN, "{}", service.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(snapshots(&world), 2);
}

/// Asserts that the SDK of the CloudEvents project for Python reads both modes as the same event.
fn read_by_others(data: &[u8], attributes: &Value, structured: &Value) {
    let Some(mut python) = python::with(&["cloudevents==2.2.0"]) else { return };
    let script = "
import json, sys
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
given = json.load(sys.stdin)
def read(headers, body):
    event = from_http_event(HTTPMessage(headers, body.encode()))
    names = ['id', 'source', 'type', 'specversion', 'subject', 'datacontenttype']
    read = {name: event.get_attributes()[name] for name in names}
    return {**read, 'time': event.get_time().timestamp(), 'data': event.get_data()}
binary = read(given['attributes'], given['data'])
structured = read({'content-type': 'application/cloudevents+json'}, json.dumps(given['structured']))
assert binary == structured, (binary, structured)
print(json.dumps(binary))
";
    let given = json!({ "attributes": attributes, "data": String::from_utf8_lossy(data), "structured": structured });
    python.args(["-c", script]);
    let mut python = assert_cmd::Command::from_std(python);
    let done = python.write_stdin(given.to_string()).timeout(Duration::from_secs(120)).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let read: BTreeMap<String, Value> = serde_json::from_slice(&done.stdout).unwrap();
    for name in ["id", "source", "type", "specversion", "subject", "datacontenttype", "data"] {
        assert_eq!(read[name], structured[name], "{name}");
    }
}

#[test]
fn a_service_whose_vault_takes_no_claims_tells_of_it_once_until_it_does_again() {
    let (hook, ping, world) = (Webhook::new(&[]), Webhook::new(&[]), World::with_files());
    world.backup();
    let world = world.with("LASTGOOD_WEBHOOK", hook.url()).with("LASTGOOD_PING", ping.url());
    let claims = world.vault().join("claims");
    let service = Service::start(&world, []);
    let deliver = |id: &str| {
        let headers = format!(
            "ce-specversion: 1.0\r\nce-id: {id}\r\nce-source: //test/app\r\nce-type: dev.lastgood.backup.requested\r\n"
        );
        service.connect().ask("POST", "/", &headers, b"").unwrap()
    };
    let results = || -> Vec<String> {
        let posts = hook.posts();
        posts.iter().map(|post| post.json()["event"]["result"].as_str().unwrap().to_owned()).collect()
    };
    // It opens, and takes reports and snapshots.
    fs::write(&claims, "").unwrap();
    for _ in 0..3 {
        let later = deliver("1").is(503);
        assert_eq!(later["status"], "later", "{later}");
    }
    assert_eq!((results(), ping.posts().len()), (vec!["failed".to_owned()], 1));
    let told = hook.posts()[0].json()["event"]["data"].clone();
    assert_eq!(told, kept(&world, &told["run"]));
    assert!(told["error"]["error"].as_str().unwrap().contains("claims/"), "{told}");
    assert_eq!(told["events"][0]["identity"], "cloudevent //test/app 1", "{told}");
    let health = service.get("/health").is(200);
    assert_eq!((&health["status"], &health["last_run"]["result"]), (&json!("degraded"), &json!("failed")), "{health}");
    let run = service.get(&format!("/runs/{}", told["run"].as_str().unwrap())).is(200);
    assert_eq!((&run["status"], &run["report"]), (&json!("over"), &told));
    assert!(ping.posts()[0].target.contains("/fail?"), "{:?}", ping.posts());
    // The redelivery is served; the next outage is told.
    fs::remove_file(&claims).unwrap();
    deliver("1").is(200);
    fs::rename(&claims, world.path("claims")).unwrap();
    fs::write(&claims, "").unwrap();
    for _ in 0..2 {
        deliver("2").is(503);
    }
    assert_eq!(results(), ["failed", "complete", "failed"]);
    assert_eq!((snapshots(&world), world.json(["runs"], 0).as_array().unwrap().len()), (2, 4));
}
