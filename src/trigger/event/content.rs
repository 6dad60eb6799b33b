//! The data of whatever came: JSON fields, text, nothing; and the envelopes that may be found in it.

use serde_json::{Map, Value};

use super::{Said, Unreadable, cloud, pubsub};

/// How many messages and events may lie in one another.
const MAX_DEPTH: usize = 4;

/// Data, as far as it is understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// None.
    Nothing,
    /// A JSON object.
    Fields(Map<String, Value>),
    /// Text that is not JSON, or a JSON value that is one word.
    Text(String),
    /// Something that nothing is read from.
    Opaque,
    /// Several CloudEvents at once.
    Batch,
}

impl Content {
    /// Reads data; `json` where it is said to be JSON, `part` names it in errors.
    ///
    /// # Errors
    /// It is said to be JSON, or begins like JSON, and is not; or it is nested too deep.
    pub fn of(data: &[u8], json: bool, part: &str) -> Result<Self, Unreadable> {
        let begin = data.trim_ascii_start();
        if begin.is_empty() {
            return Ok(Content::Nothing);
        }
        match serde_json::from_slice::<Value>(data) {
            Ok(value) => Ok(Content::from(value)),
            Err(why) if json || matches!(begin[0], b'{' | b'[') => {
                Err(Unreadable::new(part, format!("it is not JSON: {why}")))
            }
            Err(_) => Ok(match std::str::from_utf8(data) {
                Ok(text) => Content::Text(text.trim().to_owned()),
                Err(_) => Content::Opaque,
            }),
        }
    }
}

impl From<Value> for Content {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Content::Nothing,
            Value::Object(fields) => Content::Fields(fields),
            Value::String(text) => Content::Text(text),
            Value::Array(_) => Content::Opaque,
            Value::Bool(_) | Value::Number(_) => Content::Text(value.to_string()),
        }
    }
}

/// A media type without its parameters, in lower case: `application/json`.
pub fn media(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a media type is JSON's.
pub fn is_json(media: &str) -> bool {
    matches!(media, "application/json" | "text/json") || media.ends_with("+json")
}

/// Whether a media type is that of CloudEvents, one or several, in any format.
pub fn is_cloud_event(media: &str) -> bool {
    media.starts_with("application/cloudevents")
}

/// Data whose media type [`is_cloud_event`].
pub fn envelope(media: &str, data: &[u8], part: &str, depth: usize) -> Result<Said, Unreadable> {
    match media {
        "application/cloudevents+json" => cloud::structured(data, part, depth),
        _ if media.starts_with("application/cloudevents-batch") => Ok(Said::plain(Content::Batch)),
        _ => Err(Unreadable::new("the content type", "of CloudEvents only application/cloudevents+json is understood")),
    }
}

/// JSON fields, or what they turn out to be: a wrapped Pub/Sub message, a CloudEvent that was sent as plain JSON.
pub fn unfold(fields: Map<String, Value>, depth: usize) -> Result<Said, Unreadable> {
    if pubsub::is_wrapped(&fields) {
        return pubsub::wrapped(&fields, depth);
    }
    if ["specversion", "type", "source", "id"].iter().all(|name| fields.contains_key(*name)) {
        return cloud::of_fields(fields, depth);
    }
    Ok(Said::plain(Content::Fields(fields)))
}

/// One deeper, or an error.
pub fn deeper(depth: usize) -> Result<usize, Unreadable> {
    match depth {
        0..MAX_DEPTH => Ok(depth + 1),
        _ => Err(Unreadable::new("the message", "messages and events lie too deep in one another")),
    }
}

/// A header's value as text.
pub fn header(name: &str, value: &http::HeaderValue) -> Result<String, Unreadable> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err(Unreadable::new(format!("the header {name}"), "it is not UTF-8")),
    }
}
