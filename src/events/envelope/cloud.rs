//! Reads CloudEvents 1.0, through `cloudevents-sdk`, with what that leaves open: percent-encoded and quoted headers, content
//! types in any case and with parameters, empty ids, data that is declared as JSON and is not.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>

use std::collections::BTreeMap;

use cloudevents::event::SpecVersion;
use cloudevents::message::{BinaryDeserializer, BinarySerializer, MessageAttributeValue};
use cloudevents::{AttributesReader, Data, Event};
use http::HeaderMap;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::events::content::{self, EventData};
use crate::events::decoded::{DecodedEvent, Significance};
use crate::events::identity::EventIdentity;
use crate::events::vocabulary::{CRITICAL, Unreadable};

/// The type of an event that carries a Pub/Sub message.
const PUBLISHED: &str = "google.cloud.pubsub.topic.v1.messagePublished";
/// The prefix of the names of headers and attributes.
pub const PREFIX: &str = "ce-";
/// The name of the event as a part of a request, for errors.
const EVENT: &str = "the CloudEvent";
/// The name of its data, for errors.
pub const DATA: &str = "data of the CloudEvent";
/// Attributes of tracing, which do not become labels.
const TRACING: [&str; 2] = ["traceparent", "tracestate"];

/// Whether a request's headers make it a CloudEvent.
pub fn in_headers(headers: &HeaderMap) -> bool {
    ["ce-specversion", "ce-type", "ce-source", "ce-id"].iter().any(|name| headers.contains_key(*name))
}

/// The attributes in a request's headers, without their prefix.
pub fn attributes(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Unreadable> {
    let mut attributes = BTreeMap::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix(PREFIX) else { continue };
        let value = decode(header.as_str(), &content::header(header.as_str(), value)?)?;
        if attributes.insert(name.to_owned(), value).is_some() {
            return Err(Unreadable::new(format!("the header {header}"), "it is there more than once"));
        }
    }
    Ok(attributes)
}

/// Decodes a header's value as the binding says: first quotes are taken off, then percent-encoding.
pub fn decode(header: &str, value: &str) -> Result<String, Unreadable> {
    let mut plain = String::with_capacity(value.len());
    let text = match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => {
            let mut chars = quoted.chars();
            while let Some(c) = chars.next() {
                plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
            }
            &plain
        }
        None => value,
    };
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| Unreadable::new(format!("the header {header}"), "it is not UTF-8"))
}

/// Reads an event in binary mode: attributes without their prefix, and the data beside them.
pub fn binary(
    attributes: BTreeMap<String, String>,
    media: &str,
    data: &[u8],
    depth: usize,
) -> Result<DecodedEvent, Unreadable> {
    match attributes.get("specversion").map(String::as_str) {
        Some("1.0") => {}
        Some(_) => return Err(Unreadable::new("specversion of the CloudEvent", "it must be 1.0")),
        None => return Err(Unreadable::new("specversion of the CloudEvent", "it is missing")),
    }
    let media = match attributes.get("datacontenttype") {
        Some(own) if media.is_empty() => content::media(own),
        _ => media.to_owned(),
    };
    let read = |attributes: BTreeMap<String, String>| {
        let event = BinaryDeserializer::into_event(Binary { attributes, media: media.clone(), data: data.to_vec() });
        event.map_err(|why| Unreadable::new(EVENT, why))
    };
    let mut timeless = attributes.clone();
    let timed = timeless.remove("time").is_some();
    decode_event(
        read(attributes).map(|event| (event, None)).or_else(|why| without_time(why, timed, || read(timeless))),
        depth,
    )
}

/// Tries to read an event without its time after it could not be read. Returns the first error, `why`, if the time was not the
/// reason.
fn without_time(
    why: Unreadable,
    timed: bool,
    read: impl FnOnce() -> Result<Event, Unreadable>,
) -> Result<(Event, Option<Unreadable>), Unreadable> {
    match timed.then(read) {
        Some(Ok(event)) => Ok((event, Some(why))),
        _ => Err(why),
    }
}

/// The parts that the library makes an event of.
struct Binary {
    attributes: BTreeMap<String, String>,
    media: String,
    data: Vec<u8>,
}

impl BinaryDeserializer for Binary {
    fn deserialize_binary<R: Sized, V: BinarySerializer<R>>(self, visitor: V) -> cloudevents::message::Result<R> {
        let mut visitor = visitor.set_spec_version(SpecVersion::V10)?;
        for (name, value) in self.attributes {
            let value = MessageAttributeValue::String(value);
            visitor = match name.as_str() {
                "specversion" | "datacontenttype" => visitor,
                known if SpecVersion::V10.attribute_names().contains(&known) => visitor.set_attribute(known, value)?,
                extension => visitor.set_extension(extension, value)?,
            };
        }
        if !self.media.is_empty() {
            visitor = visitor.set_attribute("datacontenttype", MessageAttributeValue::String(self.media))?;
        }
        if self.data.is_empty() { visitor.end() } else { visitor.end_with_data(self.data) }
    }
}

/// Reads an event in structured mode.
pub fn structured(data: &[u8], part: &str, depth: usize) -> Result<DecodedEvent, Unreadable> {
    match EventData::of(data, true, part) {
        EventData::Fields(fields) => of_fields(fields, depth),
        EventData::NotJson(_, why) => Err(why),
        _ => Err(Unreadable::new(part, "a CloudEvent is a JSON object")),
    }
}

/// Reads an event in structured mode whose JSON has been parsed.
pub fn of_fields(fields: Map<String, Value>, depth: usize) -> Result<DecodedEvent, Unreadable> {
    let critical = fields.get("type").and_then(Value::as_str) == Some(CRITICAL);
    // A sender that says this much is not sent away for the rest.
    let text = critical.then(|| Value::Object(fields.clone()).to_string());
    read_fields(fields, depth).or_else(|why| match text.filter(|_| !why.several) {
        Some(text) => {
            Ok(DecodedEvent { kind: Some(CRITICAL.to_owned()), ..DecodedEvent::critical(text.as_bytes(), why) })
        }
        None => Err(why),
    })
}

fn read_fields(mut fields: Map<String, Value>, depth: usize) -> Result<DecodedEvent, Unreadable> {
    if fields.get("specversion").and_then(Value::as_str) != Some("1.0") {
        return Err(Unreadable::new("specversion of the CloudEvent", "it must be 1.0"));
    }
    if let Some(Value::String(own)) = fields.get_mut("datacontenttype") {
        *own = content::media(own);
    }
    let read = |fields| Event::deserialize(Value::Object(fields)).map_err(|why| Unreadable::new(EVENT, why));
    // The time is checked beforehand, so that nothing large has to be kept for another try.
    let time = fields.remove("time");
    let odd = match time.as_ref().map(|time| serde_json::from_value::<Timestamp>(time.clone())) {
        Some(Err(why)) if !time.as_ref().is_some_and(Value::is_null) => {
            Some(Unreadable::new("time of the CloudEvent", why))
        }
        _ => None,
    };
    if let Some(time) = time.filter(|_| odd.is_none()) {
        fields.insert("time".into(), time);
    }
    decode_event(read(fields).map(|event| (event, odd)), depth)
}

fn decode_event(
    read: Result<(Event, Option<Unreadable>), Unreadable>,
    depth: usize,
) -> Result<DecodedEvent, Unreadable> {
    let (mut event, mut unread) = read?;
    for (name, value) in [("id", event.id()), ("source", event.source()), ("type", event.ty())] {
        if value.is_empty() {
            return Err(Unreadable::new(format!("{name} of the CloudEvent"), "it is empty"));
        }
    }
    let kind = event.ty().to_owned();
    let identity = Some(EventIdentity::CloudEvent { source: event.source().to_owned(), id: event.id().to_owned() });
    // The library gives a leap second as a second with up to two thousand million nanoseconds.
    let nanos = |nanos: u32| nanos.min(999_999_999).cast_signed();
    let time = event.time().map(|time| Timestamp::new(time.timestamp(), nanos(time.timestamp_subsec_nanos())));
    let time = time.transpose().unwrap_or_else(|why| {
        unread = Some(Unreadable::new("time of the CloudEvent", why));
        None
    });
    let mut attributes: BTreeMap<_, _> =
        event.iter_extensions().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
    attributes.retain(|name, _| !TRACING.contains(&name.as_str()));
    if let Some(subject) = event.subject() {
        attributes.insert("subject".to_owned(), subject.to_owned());
    }

    let (media, _, data) = event.take_data();
    let json = media.is_some_and(|media| content::is_json(&media));
    let foreign = kind.starts_with("google.") && kind != PUBLISHED;
    let content = match data {
        Some(_) if foreign => EventData::Opaque,
        Some(Data::Json(value)) => value.into(),
        Some(Data::String(text)) => EventData::of(text.as_bytes(), json, DATA),
        Some(Data::Binary(data)) => EventData::of(&data, json, DATA),
        None => EventData::Nothing,
    };
    let is_published = kind == PUBLISHED;
    let event = DecodedEvent {
        kind: Some(kind),
        carrier: "CloudEvent",
        attributes,
        content,
        about: Significance::Anything,
        identity,
        time,
        unread,
    };
    if is_published { super::published(event, depth) } else { Ok(event) }
}
