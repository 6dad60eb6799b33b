//! Google's own Python client of Pub/Sub.

use serde_json::Value;

use super::pubsub::PubSub;
use super::{Ran, python};

/// <https://github.com/googleapis/google-cloud-python/tree/main/packages/google-cloud-pubsub>
const PACKAGE: &str = "google-cloud-pubsub==2.44.0";

/// Publishes data and attributes to a topic, given by its full name.
const PUBLISH: &str = "
import json, sys
from google.cloud import pubsub_v1
topic, data, attributes = sys.argv[1], sys.argv[2].encode(), json.loads(sys.argv[3])
print(pubsub_v1.PublisherClient().publish(topic, data, **attributes).result(timeout=60))
";

/// Publishes a message; its id. `None`, after printing why, if the client is not available.
pub fn publish(pubsub: &PubSub, topic: &str, data: &str, attributes: &Value) -> Option<String> {
    let mut python = python::with(&[PACKAGE])?;
    python.args(["-c", PUBLISH, topic, data, &attributes.to_string()]);
    python.env("PUBSUB_EMULATOR_HOST", pubsub.host());
    let ran = Ran::of(python);
    ran.ended(0);
    Some(ran.text().trim().to_owned())
}
