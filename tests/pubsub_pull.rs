//! `lastgood listen` and `serve --subscription` against Google's Pub/Sub emulator.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::cloud::server::{Fault, Point, When};
use crate::support::cloud::{self, vault_in};
use crate::support::google_python_client;
use crate::support::http::Service;
use crate::support::process::Running;
use crate::support::pubsub::{PubSub, cloud_event};
use crate::support::tree::noise;
use crate::support::{World, id};

const BACKUP: &str = "dev.lastgood.backup.requested";
const CRITICAL: &str = "dev.lastgood.critical";
/// The longest time of a run or a redelivery, on a machine that is busy.
const SOON: Duration = Duration::from_secs(150);
/// Cloud Run's time from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// Creates a world with files and a vault, whose commands use the emulator.
fn world(pubsub: &PubSub) -> World {
    let world = World::with_files().with("PUBSUB_EMULATOR_HOST", pubsub.host());
    world.run(["init"]).ended(0);
    world
}

/// Returns the emulator, a topic and a subscription of that name.
fn subscribed(name: &str, more: Value) -> Option<(Arc<PubSub>, String, String)> {
    let pubsub = PubSub::shared()?;
    let topic = pubsub.topic(name);
    let subscription = pubsub.subscription(name, &topic, more);
    Some((pubsub, topic, subscription))
}

fn listen(world: &World, subscription: &str, args: &[&str]) -> Running {
    let fixed = ["listen", "--subscription", subscription];
    let quick: &[&str] = if args.contains(&"--hold") { &[] } else { &["--hold", "300ms"] };
    Running::start(world.command([&fixed, quick, args].concat()), "pulling from ")
}

/// Returns the runs that the vault has reports of; those of one second are in no order.
fn runs(world: &World) -> Vec<Value> {
    world.json(["runs"], 0).as_array().unwrap().clone()
}

#[track_caller]
fn ends_in_time(running: &mut Running) {
    let (code, took) = running.end(Signal::TERM);
    println!("it ended {took:?} after SIGTERM");
    assert!(code == Some(0) && took < GRACE, "{code:?} after {took:?}: {}", running.log());
}

#[test]
fn what_is_pulled_is_done_and_what_comes_twice_is_done_once() {
    let Some((pubsub, topic, subscription)) = subscribed("pulled", json!({})) else { return };
    let world = world(&pubsub).with("RUST_LOG", "info,lastgood=debug");
    let mut listener = listen(&world, &subscription, &["--coalesce", "100ms"]);
    let said = json!({ "severity": "CRITICAL", "service": "shop", "message": "two\nlines", "order": 17 }).to_string();
    pubsub.publish(&topic, said.as_bytes(), cloud_event(CRITICAL, "1"));
    listener.log_with_within("acknowledged: its run is over", 1, SOON);
    let snapshot = world.snapshots_once(1, SOON)[0].clone();
    assert_eq!(snapshot["reason"], "critical");
    assert_eq!(snapshot["labels"]["service"], "shop");
    assert_eq!(snapshot["labels"]["order"], "17");
    let run = &runs(&world)[0];
    assert_eq!((&run["way"], &run["snapshot"]), (&json!("pub_sub"), &snapshot["id"]));
    assert_eq!((&run["events"][0]["kind"], &run["events"][0]["message"]), (&json!(CRITICAL), &json!("two\\nlines")));

    // The same event, published once more, has another message's id.
    pubsub.publish(&topic, said.as_bytes(), cloud_event(CRITICAL, "1"));
    listener.log_with_within("acknowledged: it was served before", 1, SOON);
    // A message without an envelope is known by its own id.
    pubsub.publish(&topic, br#"{"action":"verify"}"#, json!({}));
    listener.log_with_within("verify is complete", 1, SOON);

    // A message that will never be served is acknowledged, and is logged without its content.
    for (data, attributes, told) in [
        (&br#"{"severity":"INFO"}"#[..], json!({}), "a message is ignored: its severity is below ERROR"),
        (br#"{"action":"destroy"}"#, json!({}), "a message is given up: its action"),
        (b"{", json!({ "content-type": "application/json" }), "a message is given up: could not read"),
        (b"", json!({ "action": "restore" }), "a message is given up: restores are not allowed here (--allow-restore)"),
        (&vec![b' '; (1 << 20) + 1], json!({ "action": "backup" }), "a message is given up: it has 1048589 bytes"),
    ] {
        pubsub.publish(&topic, data, attributes);
        listener.log_with_within(told, 1, SOON);
    }
    let log = listener.log();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("given up")), "{log}");
    assert!(!log.contains("destroy") && !log.contains("two"), "{log}");
    ends_in_time(&mut listener);
    assert!(!listener.log().contains("given back"), "{}", listener.log());
    assert_eq!(world.snapshots_once(1, SOON).len(), 1);
}

#[test]
fn a_message_of_a_foreign_client_is_read() {
    let Some((pubsub, topic, subscription)) = subscribed("foreign", json!({})) else { return };
    let world = world(&pubsub);
    let said = r#"{"message":"disk full – naïve ☃"}"#;
    let attributes = json!({ "severity": "ALERT", "service": "web" });
    let Some(message) = google_python_client::publish(&pubsub, &topic, said, &attributes) else { return };
    let listener = listen(&world, &subscription, &[]);
    listener.log_with_within("acknowledged", 1, SOON);
    let snapshot = world.snapshots_once(1, SOON)[0].clone();
    assert_eq!(snapshot["reason"], "critical");
    let labels = json!({ "message": "disk full – naïve ☃", "severity": "ALERT", "service": "web" });
    assert_eq!(snapshot["labels"], labels);
    let identity = format!("pubsub {subscription} {message}");
    assert_eq!(runs(&world)[0]["events"][0]["identity"], identity);
}

#[test]
fn a_restore_is_done_where_it_is_allowed() {
    let Some((pubsub, topic, subscription)) = subscribed("restore", json!({})) else { return };
    let world = world(&pubsub);
    let backup = world.backup();
    world.write("a.txt", "changed");
    let _listener = listen(&world, &subscription, &["--allow-restore"]);
    let args = ["publish", "restore", "--snapshot", id(&backup), "--topic", &topic];
    world.run(args).ended(0);
    let began = Instant::now();
    while fs::read_to_string(world.data().join("a.txt")).unwrap_or_default() != "first\n" {
        assert!(began.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_run_that_failed_is_tried_again_and_makes_one_snapshot() {
    let Some((pubsub, topic, subscription)) = subscribed("again", json!({})) else { return };
    let world = world(&pubsub);
    fs::rename(world.data(), world.path("gone")).unwrap();
    let listener = listen(&world, &subscription, &[]);
    pubsub.publish(&topic, b"{}", cloud_event(BACKUP, "1"));
    let log = listener.log_with_within("a message is not served", 1, SOON);
    assert!(log.contains("ERROR") && log.contains(" ended as failed: "), "{log}");
    // Each delivery has a run of its own, whose failure is told once.
    assert_eq!(log.matches("it does not exist").count(), log.matches(" ended as failed: ").count(), "{log}");
    fs::rename(world.path("gone"), world.data()).unwrap();
    listener.log_with_within("acknowledged: its run is over", 1, SOON);
    assert_eq!(world.snapshots_once(1, SOON).len(), 1);
    let runs = runs(&world);
    let complete = runs.iter().filter(|run| run["result"] == "complete").count();
    let failed = runs.iter().filter(|run| run["result"] == "failed").count();
    assert!(complete == 1 && failed >= 1 && runs.len() == 1 + failed, "{runs:?}");
}

#[test]
fn what_keeps_failing_becomes_a_dead_letter() {
    let Some(pubsub) = PubSub::shared() else { return };
    let (topic, dead) = (pubsub.topic("fails"), pubsub.topic("dead"));
    let letters = pubsub.subscription("letters", &dead, json!({}));
    let policy = json!({ "deadLetterPolicy": { "deadLetterTopic": dead, "maxDeliveryAttempts": 5 } });
    let subscription = pubsub.subscription("fails", &topic, policy);
    let world = world(&pubsub);
    fs::rename(world.data(), world.path("gone")).unwrap();
    let listener = listen(&world, &subscription, &[]);
    pubsub.publish(&topic, br#"{"order":17}"#, cloud_event(BACKUP, "1"));
    let taken = pubsub.take(&letters, SOON);
    let (data, attributes) = &taken[0];
    assert_eq!((taken.len(), &**data, &attributes["ce-id"]), (1, &br#"{"order":17}"#[..], &json!("1")));
    // Its log may come after the letter.
    let log = listener.log_with_within("a message is not served", 5, SOON);
    assert_eq!(log.matches("a message is not served").count(), 5, "{log}");
    fs::rename(world.path("gone"), world.data()).unwrap();
    // Whoever takes it up again has the same event.
    pubsub.publish(&topic, data, attributes.clone());
    assert_eq!(world.snapshots_once(1, SOON).len(), 1);
}

#[test]
fn sigterm_in_the_middle_of_a_run_leaves_the_message_to_the_next() {
    let Some((pubsub, topic, subscription)) = subscribed("sigterm", json!({})) else { return };
    let next = pubsub.subscription("sigterm-next", &topic, json!({}));
    let (server, world) = vault_in(World::with_files().with("PUBSUB_EMULATOR_HOST", pubsub.host()));
    server.script(When::create("packs/").always(), Fault::Stall(Point::Upload(0), Duration::from_secs(600)));
    let mut listener = listen(&world, &subscription, &["--hold", "1h"]);
    // One is under way, and two wait for their turn.
    pubsub.publish(&topic, b"{}", cloud_event(BACKUP, "1"));
    let began = Instant::now();
    while server.faults() == 0 {
        assert!(began.elapsed() < SOON, "{}", listener.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    pubsub.publish(&topic, b"{}", cloud_event(BACKUP, "2"));
    pubsub.publish(&topic, b"{}", cloud_event("dev.lastgood.verify.requested", "3"));
    std::thread::sleep(Duration::from_secs(1));
    ends_in_time(&mut listener);
    assert!(listener.log().contains("given back") && !listener.log().contains("acknowledged"), "{}", listener.log());
    assert_eq!(cloud::snapshots(&world), [""; 0]);
    server.heal();
    // The emulator goes on sending to a client that has gone, and gives back what it sent a minute later, perhaps to the same.
    // The next one has the same events from another subscription.
    let listener = listen(&world, &next, &[]);
    listener.log_with_within("acknowledged", 3, SOON);
    // One or two, as they came together or not.
    let snapshots = cloud::snapshots(&world).len();
    assert!((1..=2).contains(&snapshots), "{snapshots} snapshots: {}", listener.log());
    world.run(["verify", "--read-data"]).ended(0);
}

#[test]
fn a_service_and_a_listener_that_get_one_event_make_one_snapshot() {
    let Some((pubsub, topic, subscription)) = subscribed("both", json!({})) else { return };
    let world = world(&pubsub);
    world.write("a.bin", noise(1, 20 << 20));
    let service = Service::start(&world, []);
    let push = json!({ "pushConfig": { "pushEndpoint": format!("http://{}/", service.address) } });
    pubsub.subscription("both-push", &topic, push);
    let listener = listen(&world, &subscription, &[]);
    pubsub.publish(&topic, b"{}", cloud_event(BACKUP, "1"));
    service.log_with_within("answered: 200", 1, SOON);
    listener.log_with_within("acknowledged", 1, SOON);
    assert_eq!(world.snapshots_once(1, SOON).len(), 1);
    println!("the service:\n{}\nthe listener:\n{}", service.log(), listener.log());
}

#[test]
fn a_service_may_pull_too() {
    let Some((pubsub, topic, subscription)) = subscribed("serves", json!({})) else { return };
    let world = world(&pubsub).with("LASTGOOD_SUBSCRIPTION", "serves").with("GOOGLE_CLOUD_PROJECT", "demo");
    let mut service = Service::start(&world, ["--hold", "300ms"]);
    pubsub.publish(&topic, b"", cloud_event(BACKUP, "1"));
    assert_eq!(world.snapshots_once(1, SOON).len(), 1);
    service.log_with(&format!("pulling from {subscription}"));
    service.log_with("acknowledged");
    let report = service.post("/events/backup", "").is(200);
    assert_eq!(report["way"], "http");
    let metrics = service.get("/metrics");
    assert!(
        metrics.text().contains(r#"lastgood_runs_total{action="backup",result="complete"} 2"#),
        "{}",
        metrics.text()
    );
    ends_in_time(&mut service);
}

#[test]
fn a_subscription_that_went_away_is_waited_for() {
    let Some((pubsub, topic, subscription)) = subscribed("comes-back", json!({})) else { return };
    let world = world(&pubsub);
    let mut listener = listen(&world, &subscription, &[]);
    pubsub.publish(&topic, b"", cloud_event(BACKUP, "1"));
    listener.log_with_within("acknowledged", 1, SOON);
    pubsub.remove(&subscription);
    listener.log_with_within("trying again in", 1, SOON);
    pubsub.subscription("comes-back", &topic, json!({}));
    pubsub.publish(&topic, b"", cloud_event(BACKUP, "2"));
    assert_eq!(world.snapshots_once(2, SOON).len(), 2);
    ends_in_time(&mut listener);
}

#[test]
fn an_emulator_that_starts_again_is_found_again() {
    let Some(mut pubsub) = PubSub::start() else { return };
    let name = "restarted";
    let topic = pubsub.topic(name);
    let subscription = pubsub.subscription(name, &topic, json!({}));
    let world = world(&pubsub);
    let listener = listen(&world, &subscription, &[]);
    pubsub.publish(&topic, b"", cloud_event(BACKUP, "1"));
    assert_eq!(world.snapshots_once(1, SOON).len(), 1);
    pubsub.restart();
    pubsub.topic(name);
    pubsub.subscription(name, &topic, json!({}));
    pubsub.publish(&topic, b"", cloud_event(BACKUP, "2"));
    assert_eq!(world.snapshots_once(2, SOON).len(), 2, "{}", listener.log());
}

#[test]
fn what_cannot_be_pulled_from_at_the_start_is_an_error() {
    let Some((pubsub, topic, _)) = subscribed("wrong", json!({})) else { return };
    let world = world(&pubsub);
    let nowhere = "projects/demo/subscriptions/nowhere";
    let ran = world.run(["listen", "--subscription", nowhere]);
    ran.ended(1).says(&format!("could not pull from {nowhere}")).says("gcloud pubsub subscriptions create");
    let ran = world.run(["serve", "--listen", "127.0.0.1:0", "--subscription", nowhere]);
    ran.ended(1).says(nowhere);
    let push = json!({ "pushConfig": { "pushEndpoint": "http://127.0.0.1:9/" } });
    let pushed = pubsub.subscription("wrong-push", &topic, push);
    world.run(["listen", "--subscription", &pushed]).ended(1).says("it is a push subscription").says("lastgood serve");
    world.run(["listen"]).ended(2).says("LASTGOOD_SUBSCRIPTION");

    // A server that does not answer may do so yet: that is logged, and is no reason to end.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = world.command(["listen", "--subscription", nowhere]);
    command.env("PUBSUB_EMULATOR_HOST", silent.local_addr().unwrap().to_string());
    let mut listener = Running::start(command, "pulling from ");
    let log = listener.log();
    assert!(log.contains("is asked again. Is the emulator running") && log.contains("as soon as"), "{log}");
    ends_in_time(&mut listener);
}
