//! The data of a request or a message: JSON fields, text, nothing; and the envelopes that may be found in it.

use serde_json::{Map, Value};

use super::lenient;
use super::vocabulary::Unreadable;

/// How many messages and events may be nested in one another.
const MAX_DEPTH: usize = 4;

/// Data, as far as it is understood.
#[derive(Debug, Clone, PartialEq)]
pub enum EventData {
    /// No data.
    Nothing,
    /// A JSON object.
    Fields(Map<String, Value>),
    /// Text that is not JSON, or a JSON value that is not an object.
    Text(String),
    /// Text where JSON was to be expected: text for a reader that takes any text, else an error.
    NotJson(String, Unreadable),
    /// Data that nothing is read from.
    Opaque,
}

impl EventData {
    /// Reads data. `json` says that it is declared as JSON, and `part` names it in errors. Data that is not JSON is text: a log
    /// line may well begin with a bracket.
    pub fn of(data: &[u8], json: bool, part: &str) -> Self {
        let data = data.strip_prefix(BYTE_ORDER_MARK).unwrap_or(data).trim_ascii();
        if data.is_empty() {
            return EventData::Nothing;
        }
        let value = serde_json::from_slice::<Value>(data);
        match value.or_else(|why| lenient::json(data).and_then(|data| serde_json::from_slice(&data).ok()).ok_or(why)) {
            Ok(value) => EventData::from(value),
            Err(why) => {
                // Text in another encoding than UTF-8 can mostly be guessed.
                let text = String::from_utf8_lossy(data).into_owned();
                match json || matches!(data[0], b'{' | b'[') {
                    true => EventData::NotJson(text, Unreadable::new(part, format!("it is not JSON: {why}"))),
                    false if data.contains(&0) => EventData::Opaque,
                    false => EventData::Text(text),
                }
            }
        }
    }
}

/// The bytes with which some editors and shells begin UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl From<Value> for EventData {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => EventData::Nothing,
            Value::Object(fields) => EventData::Fields(fields),
            Value::String(text) => EventData::Text(text),
            Value::Array(_) | Value::Bool(_) | Value::Number(_) => EventData::Text(value.to_string()),
        }
    }
}

/// A media type without its parameters, in lower case: `application/json`.
pub fn media(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a media type is JSON.
pub fn is_json(media: &str) -> bool {
    matches!(media, "application/json" | "text/json") || media.ends_with("+json")
}

/// Whether a media type is that of CloudEvents, one or several, in any format.
pub fn is_cloud_event(media: &str) -> bool {
    media.starts_with("application/cloudevents")
}

/// The next depth, or an error if that is too deep.
pub fn deeper(depth: usize) -> Result<usize, Unreadable> {
    match depth {
        0..MAX_DEPTH => Ok(depth + 1),
        _ => Err(Unreadable::new("the message", "messages and events are nested too deep")),
    }
}

/// A header's value as text.
pub fn header(name: &str, value: &http::HeaderValue) -> Result<String, Unreadable> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err(Unreadable::new(format!("the header {name}"), "it is not UTF-8")),
    }
}
