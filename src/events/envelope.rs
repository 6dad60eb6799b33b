//! Takes off envelopes: CloudEvents, Pub/Sub messages, and the plain JSON that Google's services publish.

pub(super) mod cloud;
pub(super) mod google;
pub(super) mod pubsub;

use serde_json::{Map, Value};

use super::content::{self, EventData};
use super::decoded::DecodedEvent;
use super::identity::EventIdentity;
use super::vocabulary::{CRITICAL, Unreadable};

/// Reads data whose media type is one of CloudEvents, see `content::is_cloud_event`.
pub fn envelope(media: &str, data: &[u8], part: &str, depth: usize) -> Result<DecodedEvent, Unreadable> {
    match media {
        "application/cloudevents+json" => cloud::structured(data, part, depth),
        _ if media.starts_with("application/cloudevents-batch") => {
            let why = Unreadable::new(part, "batches of events are not taken: send each event by itself");
            Err(Unreadable { several: true, ..why })
        }
        _ => Err(Unreadable::new(
            "the content type",
            "the only form of CloudEvents that is understood is application/cloudevents+json",
        )),
    }
}

/// JSON fields, or what they turn out to be: a wrapped Pub/Sub message, a CloudEvent that was sent as plain JSON, the JSON that
/// one of Google's services publishes.
pub fn unfold(fields: Map<String, Value>, depth: usize) -> Result<DecodedEvent, Unreadable> {
    if pubsub::is_wrapped(&fields) {
        return pubsub::wrapped(&fields, depth);
    }
    let is_event = ["specversion", "type", "source", "id"].iter().all(|name| fields.contains_key(*name));
    if is_event || fields.get("type").is_some_and(|kind| kind == CRITICAL) {
        return cloud::of_fields(fields, depth);
    }
    Ok(google::read(fields).unwrap_or_else(|fields| DecodedEvent::plain(EventData::Fields(fields))))
}

/// The event in a CloudEvent that says that a message was published. The message decides, and may itself carry an event.
fn published(event: DecodedEvent, depth: usize) -> Result<DecodedEvent, Unreadable> {
    let message = match &event.content {
        EventData::Fields(fields) if fields.contains_key("message") => {
            pubsub::wrapped(fields, content::deeper(depth)?)?
        }
        _ => return Err(Unreadable::new(cloud::DATA, "it holds no Pub/Sub message")),
    };
    let identity = EventIdentity::innermost(message.identity, event.identity);
    Ok(DecodedEvent { identity, time: message.time.or(event.time), unread: message.unread.or(event.unread), ..message })
}
