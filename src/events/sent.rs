//! An event to be sent as a Pub/Sub message, which the rest of this module reads:
//! <https://github.com/google/knative-gcp/blob/main/docs/spec/pubsub-protocol-binding.md>, binary mode.

use std::collections::BTreeMap;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

/// The characters that need no escape in a part of a URI.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A CloudEvent.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudEvent {
    /// Its type, such as [`super::vocabulary::CRITICAL`].
    pub kind: &'static str,
    /// The event's sender: [`source`].
    pub source: String,
    /// The event's id. The same source and id are the same event.
    pub id: String,
    /// When it happened.
    pub time: Timestamp,
    /// The event's fields, which are its data.
    pub fields: Map<String, Value>,
}

/// The source of events about a service at a host.
pub fn source(host: &str, service: Option<&str>) -> String {
    let part = |text| utf8_percent_encode(text, PLAIN);
    format!("//{}/{}", part(host), part(service.unwrap_or("lastgood")))
}

impl CloudEvent {
    /// The message's attributes.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let time = self.time.to_string();
        let pairs = [
            ("ce-specversion", "1.0"),
            ("ce-type", self.kind),
            ("ce-source", &self.source),
            ("ce-id", &self.id),
            ("ce-time", &time),
            ("content-type", "application/json"),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The message's data.
    pub fn data(&self) -> Vec<u8> {
        Value::Object(self.fields.clone()).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_message;
    use super::*;
    use crate::events::decoded::EventDecision;
    use crate::events::vocabulary::{CRITICAL, RESTORE_REQUESTED};
    use crate::report::Action;
    use crate::vault::root::BackupReason;
    use serde_json::json;

    fn read(sent: &CloudEvent) -> crate::events::decoded::RunRequest {
        match read_message(&sent.data(), &sent.attributes(), "17", None, "projects/p/subscriptions/s").unwrap() {
            EventDecision::Run(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let fields = json!({"severity": "CRITICAL", "message": "täglich\n100 %", "service": "shop",
                            "labels": {"action": "restore", "order": "17"}});
        let mut sent = CloudEvent {
            kind: CRITICAL,
            source: source("web 1/ä", Some("shop & co")),
            id: "1 %".into(),
            time: "2026-11-05T02:00:00Z".parse().unwrap(),
            fields: fields.as_object().unwrap().clone(),
        };
        assert_eq!(sent.source, "//web%201%2F%C3%A4/shop%20%26%20co");
        let request = read(&sent);
        assert_eq!((request.action, request.reason), (Action::Backup, BackupReason::Critical));
        let event = &request.event;
        assert_eq!((event.kind.as_deref(), event.time), (Some(CRITICAL), Some(sent.time)));
        assert_eq!(
            event.identity.as_deref(),
            Some("cloudevent //web%25201%252F%25C3%25A4/shop%2520%2526%2520co 1%20%25")
        );
        assert_eq!((event.message.as_deref(), event.service.as_deref()), (Some("täglich\\n100 %"), Some("shop")));
        // A label is a label, whatever its name.
        assert_eq!((&*request.labels["action"], &*request.labels["order"]), ("restore", "17"));
        assert_eq!((&*request.labels["severity"], &*request.labels["service"]), ("CRITICAL", "shop"));

        (sent.kind, sent.fields) = (RESTORE_REQUESTED, Map::new());
        let request = read(&sent);
        assert_eq!((request.action, request.snapshot), (Action::Restore, None));
        sent.fields.insert("snapshot".into(), "latest".into());
        assert_eq!(read(&sent).snapshot.as_deref(), Some("latest"));
    }
}
