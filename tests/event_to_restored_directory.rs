//! The whole way: an app's event, published by a client that others wrote, becomes a snapshot in a bucket, and that a new
//! machine's data directory.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::support::World;
use crate::support::cloud::emulator::{BUCKET, Emulator};
use crate::support::compare::assert_same;
use crate::support::google_python_client;
use crate::support::http::Service;
use crate::support::pubsub::{PubSub, cloud_event};

const SOON: Duration = Duration::from_secs(120);

#[test]
fn from_a_critical_event_to_a_restored_directory() {
    let Some(pubsub) = PubSub::shared() else { return };
    let Some(storage) = Emulator::start() else { return };
    let world = World::with_everything().on(&storage.url(), &format!("gs://{BUCKET}/shop"));
    world.run(["init"]).ended(0);
    let service = Service::start(&world, []);
    let topic = pubsub.topic("way-through");
    let push = json!({ "pushConfig": { "pushEndpoint": format!("http://{}/", service.address) } });
    pubsub.subscription("way-through", &topic, push);

    let said =
        json!({ "severity": "CRITICAL", "message": "orders.db: disk I/O error", "service": "shop", "order": 17 });
    let event = cloud_event("dev.lastgood.critical", "crash-1");
    if google_python_client::publish(&pubsub, &topic, &said.to_string(), &event).is_none() {
        return;
    }
    let snapshot = world.snapshots_once(1, SOON)[0].clone();
    service.log_with("answered: 200");
    assert_eq!(snapshot["reason"], "critical");
    let labels =
        json!({ "severity": "CRITICAL", "message": "orders.db: disk I/O error", "service": "shop", "order": "17" });
    assert_eq!(snapshot["labels"], labels);

    // The machine goes away with its data, and a new one comes.
    fs::rename(world.data(), world.path("before")).unwrap();
    let restored = world.json(["restore"], 0);
    assert_eq!(restored["snapshot"], snapshot["id"]);
    assert_same(&world.path("before"), &world.data());
}
