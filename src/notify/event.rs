//! A run's end as a CloudEvent.
//!
//! Its data is the run's report. As a message it is in binary mode: the event's attributes are the message's, with `ce-` before
//! their names (<https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md>). `action`, `result` and
//! `reason` are its extensions, and in a message they are attributes by these plain names, so that a subscription's filter needs
//! no quotes: `attributes.result = "failed"`.

use cloudevents::event::ExtensionValue;
use cloudevents::{Event, EventBuilder, EventBuilderV10};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::report::{Outcome, Report, RunEnvironment};
use crate::vault::root::BackupReason;

/// The most bytes of a report that is told. Eventarc takes events of 512 KB, and an event that is pushed to it is in base64
/// (<https://docs.cloud.google.com/eventarc/docs/quotas>). The report in the vault is whole.
pub const MAX_DATA: usize = 256 << 10;
/// The characters of a URI that need no escape in a part of its path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The type of the data.
const JSON: &str = "application/json";

/// The source of a place's events: always the same for a Cloud Run service, for a Cloud Run job (of this name), else for a host.
pub fn source(place: &RunEnvironment, job: Option<&str>) -> String {
    let (kind, name) = match (&place.service, job) {
        (Some(service), _) => ("services", service.as_str()),
        (None, Some(job)) => ("jobs", job),
        (None, None) => ("hosts", place.host.as_str()),
    };
    let name = if name.is_empty() { "unknown" } else { name };
    format!("//lastgood.dev/{kind}/{}", utf8_percent_encode(name, PLAIN))
}

/// The last part of an event's type.
pub fn ended(result: Outcome) -> &'static str {
    match result {
        Outcome::Complete => "completed",
        Outcome::Stale | Outcome::IncompleteCopies | Outcome::Partial | Outcome::Suspect | Outcome::Unsound => {
            "partial"
        }
        Outcome::Damaged | Outcome::Failed | Outcome::Refused => "failed",
    }
}

/// A message: its data and attributes.
pub type TopicMessage = (Vec<u8>, Vec<(String, String)>);

/// The event that tells of a run.
pub struct Notification {
    event: Event,
    data: Value,
}

impl Notification {
    /// The event of a run with this report.
    ///
    /// # Errors
    /// The event cannot be made; that of a run always can.
    pub fn new(report: &Report, reason: Option<BackupReason>, source: &str) -> Result<Self> {
        let mut data = serde_json::to_value(report).map_err(not_encoded)?;
        // An app's output may hold anything: it is read in the vault, by those who may read the data itself.
        for event in data["events"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            event.remove("output");
        }
        let data = fit(data);
        let mut event = EventBuilderV10::new()
            .id(report.run.to_string())
            .source(source)
            .ty(format!("dev.lastgood.{}.{}", report.action.name(), ended(report.result)))
            .time(report.finished.to_string())
            .extension("action", report.action.name())
            .extension("result", report.result.name());
        if let Some(snapshot) = report.snapshot {
            event = event.subject(snapshot.to_string());
        }
        if let Some(reason) = reason {
            event = event.extension("reason", reason.to_string());
        }
        let event = event.data(JSON, data.clone()).build().map_err(not_encoded)?;
        Ok(Notification { event, data })
    }

    /// The event as a message, in binary mode.
    ///
    /// # Errors
    /// The report cannot be written as JSON; that of a run always can.
    pub fn message(&self) -> Result<TopicMessage> {
        let data = serde_json::to_vec(&self.data).map_err(not_encoded)?;
        let mut attributes: Vec<(String, String)> = Vec::new();
        for (name, value) in self.event.iter_attributes() {
            let name = if name == "datacontenttype" { "content-type".into() } else { format!("ce-{name}") };
            attributes.push((name, value.to_string()));
        }
        for (name, value) in self.event.iter_extensions() {
            let ExtensionValue::String(value) = value else { continue };
            attributes.push((name.to_owned(), value.clone()));
        }
        Ok((data, attributes))
    }

    /// The event as JSON, in structured mode.
    ///
    /// # Errors
    /// The event cannot be written as JSON; that of a run always can.
    pub fn structured(&self) -> Result<Value> {
        serde_json::to_value(&self.event).map_err(not_encoded)
    }
}

/// The error of an event that has no JSON form.
fn not_encoded(why: impl ToString) -> Error {
    Error::failed("encode the event that tells how the run ended", why).with_code(Code::Internal)
}

/// Leaves the longest lists out of a report that is too long with them; `left_out` names those.
fn fit(mut report: Value) -> Value {
    let mut left_out = Vec::new();
    while size(&report) > MAX_DATA
        && let Some(list) = longest_list(&report)
    {
        remove(&mut report, &list);
        left_out.push(Value::String(list.join(".")));
        if let Value::Object(members) = &mut report {
            members.insert("left_out".into(), left_out.clone().into());
        }
    }
    report
}

fn size(value: &Value) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

/// The path of the longest list, in the report itself or in what was done.
fn longest_list(report: &Value) -> Option<Vec<String>> {
    let lists = |members: &Map<String, Value>, of: Option<&str>| -> Vec<(usize, Vec<String>)> {
        let lists = members.iter().filter(|(name, value)| value.is_array() && *name != "left_out");
        let path = |name: &String| of.map(str::to_owned).into_iter().chain([name.clone()]).collect();
        lists.map(|(name, value)| (size(value), path(name))).collect()
    };
    let members = report.as_object()?;
    let mut found = lists(members, None);
    for (name, value) in members {
        found.extend(value.as_object().map(|inner| lists(inner, Some(name))).unwrap_or_default());
    }
    found.into_iter().max().map(|(_, path)| path)
}

fn remove(report: &mut Value, path: &[String]) {
    let Some((name, above)) = path.split_last() else { return };
    let inner = above.iter().try_fold(report, |value, name| value.get_mut(name));
    if let Some(Value::Object(members)) = inner {
        members.remove(name);
    }
}
