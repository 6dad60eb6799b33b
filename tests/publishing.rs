//! The Pub/Sub client against Google's emulator.

use std::time::Duration;

use lastgood::pubsub::{Publisher, Topic};
use lastgood::store::cloud::Cloud;

use crate::support::pubsub::PubSub;
use serde_json::json;

#[test]
fn what_is_published_arrives_and_a_topic_that_is_not_there_is_told() {
    let Some(pubsub) = PubSub::start() else { return };
    let topic = pubsub.topic("events");
    let subscription = pubsub.subscription("look", &topic, json!({}));
    let cloud = Cloud { pubsub_emulator: Some(format!("http://{}", pubsub.host())), ..Cloud::default() };
    let publisher = Publisher::new(&cloud, Topic::new("events", Some("demo")).unwrap()).unwrap();
    let (within, attributes) = (Duration::from_secs(20), [("ce-type".to_owned(), "dev.lastgood.critical".to_owned())]);
    let id = publisher.publish(b"{}".to_vec(), attributes, within).unwrap();
    assert!(!id.is_empty());
    let taken = pubsub.take(&subscription, within);
    assert_eq!(taken, [(b"{}".to_vec(), json!({ "ce-type": "dev.lastgood.critical" }))]);

    let nowhere = Publisher::new(&cloud, Topic::new("nowhere", Some("demo")).unwrap()).unwrap();
    let why = nowhere.publish(Vec::new(), [], within).unwrap_err();
    assert!(why.what().starts_with("could not publish to projects/demo/topics/nowhere: "), "{why}");
    assert!(why.advice().unwrap().contains("roles/pubsub.publisher"));
}
