use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::labels::LEFT_OUT;
use super::vocabulary::MAX_MESSAGE;
use super::*;
use crate::backup::{MAX_LABEL, check_labels};
use crate::report::Action;
use crate::vault::root::BackupReason;

mod decisions;
mod envelopes;
mod hostile;
mod identities;
mod texts;
mod unreadable;

/// A request as it is on the wire, after lines that begin with `#`.
struct Wire {
    method: String,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Wire {
    fn parse(text: &str) -> Self {
        let begin = text.split_inclusive('\n').take_while(|line| line.starts_with('#')).map(str::len).sum();
        let (head, body) = text[begin..].split_once("\n\n").unwrap_or((&text[begin..], ""));
        let (first, lines) = head.split_once('\n').unwrap_or((head, ""));
        let mut first = first.split(' ');
        let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
        let mut headers = HeaderMap::new();
        for line in lines.lines() {
            let (name, value) = line.split_once(':').unwrap();
            headers
                .append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.trim().as_bytes()).unwrap());
        }
        Wire { method, path, headers, body: body.as_bytes().to_vec() }
    }

    fn read(&self) -> Result<EventDecision, Unreadable> {
        read(&self.method, &self.path, &self.headers, &self.body)
    }
}

/// Every fixture and its name.
const FIXTURES: [(&str, &str); 21] = [
    ("eventarc-pubsub", include_str!("../../tests/events/eventarc-pubsub.http")),
    ("eventarc-pubsub-cloudevent", include_str!("../../tests/events/eventarc-pubsub-cloudevent.http")),
    ("eventarc-storage", include_str!("../../tests/events/eventarc-storage.http")),
    ("eventarc-audit", include_str!("../../tests/events/eventarc-audit.http")),
    ("scheduler", include_str!("../../tests/events/scheduler.http")),
    ("scheduler-body", include_str!("../../tests/events/scheduler-body.http")),
    ("push-wrapped", include_str!("../../tests/events/push-wrapped.http")),
    ("push-wrapped-cloudevent", include_str!("../../tests/events/push-wrapped-cloudevent.http")),
    ("push-unwrapped", include_str!("../../tests/events/push-unwrapped.http")),
    ("push-unwrapped-cloudevent", include_str!("../../tests/events/push-unwrapped-cloudevent.http")),
    ("cloudevent-binary", include_str!("../../tests/events/cloudevent-binary.http")),
    ("cloudevent-structured", include_str!("../../tests/events/cloudevent-structured.http")),
    ("cloudevent-batch", include_str!("../../tests/events/cloudevent-batch.http")),
    ("push-log-text", include_str!("../../tests/events/push-log-text.http")),
    ("push-log-json", include_str!("../../tests/events/push-log-json.http")),
    ("push-log-request", include_str!("../../tests/events/push-log-request.http")),
    ("push-log-own", include_str!("../../tests/events/push-log-own.http")),
    ("push-incident", include_str!("../../tests/events/push-incident.http")),
    ("webhook-incident", include_str!("../../tests/events/webhook-incident.http")),
    ("push-error-reporting", include_str!("../../tests/events/push-error-reporting.http")),
    ("push-build-failure", include_str!("../../tests/events/push-build-failure.http")),
];

fn fixture(name: &str) -> Wire {
    Wire::parse(FIXTURES.iter().find(|(known, _)| *known == name).unwrap().1)
}

/// Everything that came of a request, line by line.
fn told(asked: Result<EventDecision, Unreadable>) -> String {
    let request = match asked {
        Ok(EventDecision::Run(request)) => request,
        Ok(EventDecision::Ignored(why)) => return format!("ignored: {why}"),
        Ok(EventDecision::Refused(why, None)) => return format!("refused: {why}"),
        Ok(EventDecision::Refused(why, Some(identity))) => return format!("refused: {why}\nid: {identity}"),
        Err(why) => return format!("unreadable: {why}"),
    };
    check_labels(&request.labels).unwrap();
    let event = &request.event;
    let mut out = format!("{} {}", request.action.name(), request.reason);
    for (name, value) in [
        ("kind", event.kind.clone()),
        ("id", event.identity.clone()),
        ("time", event.time.map(|time| time.to_string())),
        ("snapshot", request.snapshot.clone()),
        ("severity", event.severity.clone()),
        ("message", event.message.clone()),
        ("service", event.service.clone()),
    ] {
        if let Some(value) = value {
            write!(out, "\n{name}: {value}").unwrap();
        }
    }
    for (name, value) in &event.labels {
        write!(out, "\n- {name}={value}").unwrap();
    }
    out
}

fn post(path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    told(read("POST", path, &map, body.as_bytes()))
}
