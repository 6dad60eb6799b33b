//! Google's Pub/Sub emulator pushes to `lastgood serve`.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::World;
use crate::support::compare::assert_same;
use crate::support::http::Service;
use crate::support::pubsub::{PubSub, cloud_event};
use crate::support::tree::noise;

const BACKUP: &str = "dev.lastgood.backup.requested";
const CRITICAL: &str = "dev.lastgood.critical";
/// The longest time of a delivery and its run, on a machine that is busy.
const SOON: Duration = Duration::from_secs(120);

fn world() -> World {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    world
}

/// Returns the settings of a subscription that pushes to a service, with `more` settings.
fn pushes_to(service: &Service, mut more: Value) -> Value {
    more["pushConfig"]["pushEndpoint"] = format!("http://{}/", service.address).into();
    more
}

#[test]
fn messages_come_wrapped_and_as_they_are() {
    let Some(pubsub) = PubSub::shared() else { return };
    let world = world();
    let service = Service::start(&world, ["--coalesce", "100ms"]);
    let bare = json!({ "pushConfig": { "noWrapper": { "writeMetadata": true } } });
    for (round, (name, more)) in [("wrapped", json!({})), ("bare", bare)].into_iter().enumerate() {
        let topic = pubsub.topic(name);
        let subscription = pubsub.subscription(name, &topic, pushes_to(&service, more));
        let said = json!({ "severity": "CRITICAL", "message": "grüße", "service": name, "order": "17" }).to_string();
        pubsub.publish(&topic, said.as_bytes(), cloud_event(CRITICAL, name));
        service.log_with_within("answered: 200", 2 * round + 1, SOON);
        let snapshot = world.snapshots_once(2 * round + 1, SOON)[0].clone();
        assert_eq!(snapshot["reason"], "critical");
        let labels = json!({ "severity": "CRITICAL", "message": "grüße", "service": name, "order": "17" });
        assert_eq!(snapshot["labels"], labels);
        // One without an envelope is known by the message's own id.
        let message = pubsub.publish(&topic, br#"{"action":"backup"}"#, json!({ "reason": "schedule" }));
        service.log_with_within("answered: 200", 2 * round + 2, SOON);
        let snapshot = world.snapshots_once(2 * round + 2, SOON)[0].clone();
        assert_eq!(snapshot["reason"], "schedule");
        let runs = world.json(["runs"], 0);
        for identity in [format!("pubsub {subscription} {message}"), format!("cloudevent //test/app {name}")] {
            let told = runs.as_array().unwrap().iter().find(|run| run["events"][0]["identity"] == *identity);
            assert!(told.is_some_and(|run| run["way"] == "http"), "no {identity} in {runs}");
        }
    }
    // Neither of them came twice, or as anything else.
    assert_eq!(world.snapshots_once(4, SOON).len(), 4);
    assert!(!service.log().contains("answered: 4") && !service.log().contains("answered: 5"), "{}", service.log());
}

#[test]
fn a_run_that_failed_is_delivered_again_and_makes_one_snapshot() {
    let Some(pubsub) = PubSub::shared() else { return };
    let world = world();
    fs::rename(world.data(), world.path("gone")).unwrap();
    let service = Service::start(&world, []);
    let topic = pubsub.topic("delivered-again");
    pubsub.subscription("delivered-again", &topic, pushes_to(&service, json!({})));
    pubsub.publish(&topic, b"{}", cloud_event(BACKUP, "1"));
    service.log_with_within("answered: 503", 1, SOON);
    fs::rename(world.path("gone"), world.data()).unwrap();
    service.log_with_within("answered: 200", 1, SOON);
    // The same event, published by somebody who did not hear that it was taken.
    pubsub.publish(&topic, b"{}", cloud_event(BACKUP, "1"));
    pubsub.publish(&topic, b"", json!({ "action": "verify" }));
    service.log_with_within("verify is complete", 1, SOON);
    assert_eq!(world.snapshots_once(1, SOON).len(), 1);
    world.restore("out");
    assert_same(&world.data(), &world.path("out"));
}

#[test]
fn what_keeps_failing_becomes_a_dead_letter_and_what_is_refused_does_not() {
    let Some(pubsub) = PubSub::shared() else { return };
    let world = world();
    fs::rename(world.data(), world.path("gone")).unwrap();
    let service = Service::start(&world, []);
    let (topic, dead) = (pubsub.topic("push-fails"), pubsub.topic("push-dead"));
    let letters = pubsub.subscription("push-letters", &dead, json!({}));
    let policy = json!({ "deadLetterPolicy": { "deadLetterTopic": dead, "maxDeliveryAttempts": 5 } });
    pubsub.subscription("push-fails", &topic, pushes_to(&service, policy));
    pubsub.publish(&topic, b"", json!({ "action": "restore" }));
    service.log_with_within("an event is refused", 1, SOON);
    pubsub.publish(&topic, b"{}", cloud_event(BACKUP, "1"));
    let taken = pubsub.take(&letters, SOON);
    assert_eq!((taken.len(), &taken[0].1["ce-id"]), (1, &json!("1")));
    // Its log may come after the letter.
    let log = service.log_with_within("answered: 503", 5, SOON);
    assert_eq!(log.matches("answered: 503").count(), 5, "{log}");
}

#[test]
fn two_services_that_get_one_event_at_once_make_one_snapshot() {
    let Some(pubsub) = PubSub::shared() else { return };
    let world = world();
    world.write("a.bin", noise(1, 20 << 20));
    let services = [Service::start(&world, []), Service::start(&world, [])];
    let topic = pubsub.topic("two");
    for (name, service) in ["two-a", "two-b"].iter().zip(&services) {
        pubsub.subscription(name, &topic, pushes_to(service, json!({})));
    }
    pubsub.publish(&topic, b"{}", cloud_event(BACKUP, "1"));
    for service in &services {
        service.log_with_within("answered: 200", 1, SOON);
        println!("a service:\n{}", service.log());
    }
    assert_eq!(world.snapshots_once(1, SOON).len(), 1);
}
