//! Reads Pub/Sub messages: pushed in JSON, pushed as they are with their attributes as headers, pulled.
//! <https://docs.cloud.google.com/pubsub/docs/push>, <https://docs.cloud.google.com/pubsub/docs/payload-unwrapping>,
//! <https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md>

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::cloud;
use crate::events::content::{self, EventData};
use crate::events::decoded::DecodedEvent;
use crate::events::identity::EventIdentity;
use crate::events::vocabulary::{CRITICAL, Unreadable};

/// The prefix of the headers of a message that is pushed as it is.
pub const HEADERS: &str = "x-goog-pubsub-";
/// The carrier of an event that came as a message.
pub const CARRIER: &str = "Pub/Sub message";
/// Headers of HTTP itself and of proxies: they are not attributes. So an attribute of such a name is not seen when it comes as a
/// header.
const HTTP: [&str; 29] = [
    "authorization",
    "b3",
    "baggage",
    "cache-control",
    "connection",
    "cookie",
    "date",
    "dnt",
    "early-data",
    "expect",
    "forwarded",
    "from",
    "host",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "priority",
    "range",
    "referer",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "warning",
];
/// Prefixes of further such headers.
const HTTP_BEGINS: [&str; 9] =
    ["accept", "access-control-", "cdn-", "cf-", "content-", "grpc-", "if-", "proxy-", "sec-"];

/// The fields of a message.
const FIELDS: [&str; 8] =
    ["data", "attributes", "messageId", "message_id", "publishTime", "publish_time", "orderingKey", "ordering_key"];

/// The facts that come with every message.
pub struct Envelope<'a> {
    /// The subscription's full name; empty if it is not known.
    pub subscription: &'a str,
    /// The message's id; empty if it is not known.
    pub id: &'a str,
    /// When it was published.
    pub time: Option<Timestamp>,
    /// Why that time could not be read.
    pub unread: Option<Unreadable>,
}

/// Whether a request is a message that is pushed as it is.
pub fn is_unwrapped(headers: &HeaderMap) -> bool {
    headers.contains_key("x-goog-pubsub-message-id")
}

/// Whether JSON is a message as Pub/Sub pushes it. An app's own `message` is text, or an object with fields of its own.
pub fn is_wrapped(fields: &Map<String, Value>) -> bool {
    let Some(Value::Object(message)) = fields.get("message") else { return false };
    let has = |names: &[&str]| names.iter().any(|name| message.contains_key(*name));
    let subscribed = fields.get("subscription").is_some_and(Value::is_string);
    let holds = has(&["data", "attributes", "publishTime", "publish_time"]);
    match has(&["messageId", "message_id"]) {
        // Whatever else Pub/Sub may come to send, it sends with these.
        true if subscribed && holds => true,
        true => (subscribed || holds) && message.keys().all(|name| FIELDS.contains(&&**name)),
        false => subscribed && (message.is_empty() || holds && message.keys().all(|name| FIELDS.contains(&&**name))),
    }
}

/// Reads a message that is pushed as it is.
pub fn unwrapped(headers: &HeaderMap, body: &[u8]) -> Result<DecodedEvent, Unreadable> {
    let mut attributes = BTreeMap::new();
    let mut own = BTreeMap::new();
    for (name, value) in headers {
        let name = name.as_str();
        let (place, key) = match name.strip_prefix(HEADERS) {
            Some(key) => (&mut own, key),
            None if name == "content-type" => (&mut attributes, name),
            None if name.starts_with("x-") || HTTP.contains(&name) => continue,
            None if HTTP_BEGINS.iter().any(|begin| name.starts_with(begin)) => continue,
            None => (&mut attributes, name),
        };
        let mut value = content::header(name, value)?;
        if name.starts_with(cloud::PREFIX) {
            value = cloud::decode(name, &value)?;
        }
        if place.insert(key.to_owned(), value).is_some() {
            return Err(Unreadable::new(format!("the header {name}"), "it is there more than once"));
        }
    }
    let get = |name: &str| own.get(name).map(String::as_str);
    let (time, unread) = publish_time("x-goog-pubsub-publish-time", get("publish-time"));
    let (subscription, id) = (get("subscription-name").unwrap_or_default(), get("message-id").unwrap_or_default());
    message(body, attributes, &Envelope { subscription, id, time, unread }, 0)
}

/// Reads a message in JSON: `{"subscription": …, "message": {"data": …, "attributes": …, "messageId": …, "publishTime": …}}`.
/// Names with underscores are an older spelling, and are sent beside the others.
pub fn wrapped(fields: &Map<String, Value>, depth: usize) -> Result<DecodedEvent, Unreadable> {
    let Some(Value::Object(inner)) = fields.get("message") else {
        return Err(Unreadable::new("message", "it is not an object"));
    };
    let subscription = text(fields, &["subscription"], "")?.unwrap_or_default();
    let id = text(inner, &["messageId", "message_id"], "message.")?.unwrap_or_default();
    let time = text(inner, &["publishTime", "publish_time"], "message.")?;
    let (time, unread) = publish_time("message.publishTime", time.as_deref().filter(|time| !time.is_empty()));
    let data = base64(&text(inner, &["data"], "message.")?.unwrap_or_default())?;
    let mut attributes = BTreeMap::new();
    match inner.get("attributes") {
        None | Some(Value::Null) => {}
        Some(Value::Object(pairs)) => {
            for (name, value) in pairs {
                match value {
                    Value::Null => {}
                    Value::String(value) => _ = attributes.insert(name.clone(), value.clone()),
                    _ => return Err(Unreadable::new("message.attributes", "an attribute's value is not text")),
                }
            }
        }
        Some(_) => return Err(Unreadable::new("message.attributes", "it is not an object")),
    }
    message(&data, attributes, &Envelope { subscription: &subscription, id: &id, time, unread }, depth)
}

/// Reads a message: its attributes and data may be a CloudEvent, in binary or structured mode, or speak for themselves.
pub fn message(
    data: &[u8],
    attributes: BTreeMap<String, String>,
    envelope: &Envelope<'_>,
    depth: usize,
) -> Result<DecodedEvent, Unreadable> {
    let part = "data of the message";
    let depth = content::deeper(depth)?;
    let (mut media, mut event, mut others) = (String::new(), BTreeMap::new(), BTreeMap::new());
    for (name, value) in attributes {
        let lower = name.to_ascii_lowercase();
        if lower == "content-type" {
            media = content::media(&value);
        } else if let Some(attribute) = lower.strip_prefix(cloud::PREFIX) {
            event.insert(attribute.to_owned(), value);
        } else if !lower.starts_with("googclient_") && lower != "traceparent" && lower != "tracestate" {
            others.insert(name, value);
        }
    }
    let mut decoded = if content::is_cloud_event(&media) {
        crate::events::envelope::envelope(&media, data, part, depth)?
    } else if ["specversion", "type", "source", "id"].iter().any(|name| event.contains_key(*name)) {
        let critical = event.get("type").is_some_and(|kind| kind == CRITICAL);
        match cloud::binary(event, &media, data, depth) {
            Err(why) if critical && !why.several => {
                DecodedEvent { kind: Some(CRITICAL.to_owned()), ..DecodedEvent::critical(data, why) }
            }
            decoded => decoded?,
        }
    } else {
        match EventData::of(data, content::is_json(&media), part) {
            EventData::Fields(fields) => crate::events::envelope::unfold(fields, depth)?,
            other => DecodedEvent::plain(other),
        }
    };
    for (name, value) in others {
        decoded.attributes.entry(name).or_insert(value);
    }
    if decoded.kind.is_none() && decoded.carrier == crate::events::vocabulary::PLAIN {
        decoded.carrier = CARRIER;
    }
    if !envelope.id.is_empty() {
        let (subscription, id) = (envelope.subscription.to_owned(), envelope.id.to_owned());
        decoded.identity =
            EventIdentity::innermost(decoded.identity, Some(EventIdentity::Message { subscription, id }));
    }
    decoded.time = decoded.time.or(envelope.time);
    decoded.unread = decoded.unread.or_else(|| envelope.unread.clone());
    Ok(decoded)
}

/// Reads a time. If it cannot be read, returns what is wrong with it.
fn publish_time(part: &str, time: Option<&str>) -> (Option<Timestamp>, Option<Unreadable>) {
    match time.map(str::parse) {
        None => (None, None),
        Some(Ok(time)) => (Some(time), None),
        Some(Err::<_, jiff::Error>(_)) => {
            (None, Some(Unreadable::new(part, "it is not a time of the form of RFC 3339")))
        }
    }
}

/// The first of some fields that is there; a number counts as its digits.
fn text(fields: &Map<String, Value>, names: &[&str], within: &str) -> Result<Option<String>, Unreadable> {
    for name in names {
        match fields.get(*name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => return Ok(Some(text.clone())),
            Some(Value::Number(number)) => return Ok(Some(number.to_string())),
            Some(_) => return Err(Unreadable::new(format!("{within}{name}"), "it is not text")),
        }
    }
    Ok(None)
}

/// Decodes bytes as Google's services write them in JSON: either alphabet, with or without padding.
/// <https://protobuf.dev/programming-guides/json/>
fn base64(text: &str) -> Result<Vec<u8>, Unreadable> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let decoded = GeneralPurpose::new(alphabet, config).decode(text);
    decoded.map_err(|why| Unreadable::new("message.data", format!("it is not base64: {why}")))
}
