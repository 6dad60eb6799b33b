//! Reads what Google's services publish as plain JSON, without any envelope that says what it is: log entries that a sink routes,
//! incidents of Cloud Monitoring, errors of Error Reporting, builds of Cloud Build.
//!
//! A log entry has a severity, which decides as any other does. The others tell of trouble without saying how grave it is;
//! posting them to `/events/critical` says it. The content of all of these becomes no more than a message and labels: whoever can
//! write a log must not be able to ask for a restore.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::events::content::EventData;
use crate::events::decoded::{DecodedEvent, Significance};
use crate::events::identity::EventIdentity;
use crate::events::vocabulary::WRITER;

/// The carrier of an event that came as a log entry.
pub const LOG_ENTRY: &str = "log entry";
/// The label that names the log of an entry.
pub const LOG: &str = "log";
/// The prefix of the names of audit logs. <https://docs.cloud.google.com/logging/docs/audit>
pub const AUDIT: &str = "cloudaudit.googleapis.com/";
/// Label of an entry of an audit log: the bucket that it is about.
pub const BUCKET: &str = "bucket";
/// Label of an entry of an audit log: the resource that it is about, and its project.
pub const RESOURCE: &str = "resourceName";
/// Label of an entry of an audit log: what was to be done.
pub const METHOD: &str = "method";
/// Label of an entry of an audit log: the program that asked for it.
pub const AGENT: &str = "userAgent";
/// The labels of a monitored resource that name the app, the best first.
/// <https://docs.cloud.google.com/logging/docs/api/v2/resource-list>
const SERVICES: [&str; 7] =
    ["service_name", "job_name", "worker_pool_name", "function_name", "module_id", "container_name", "service"];

/// Reads JSON that one of these services has published. Returns the JSON itself if it is of none of them.
pub fn read(fields: Map<String, Value>) -> Result<DecodedEvent, Map<String, Value>> {
    let is = |name: &str, is: fn(&Value) -> bool| fields.get(name).is_some_and(is);
    if is("logName", Value::is_string)
        && ["textPayload", "jsonPayload", "protoPayload", "insertId"].iter().any(|name| fields.contains_key(*name))
    {
        return Ok(log_entry(&fields));
    }
    if is("incident", Value::is_object) && is("version", Value::is_string) {
        return Ok(incident(&fields["incident"]));
    }
    if is("subject", Value::is_string) && is("group_info", Value::is_object) && is("event_info", Value::is_object) {
        return Ok(error(&fields));
    }
    if is("projectId", Value::is_string)
        && is("status", Value::is_string)
        && is("id", Value::is_string)
        && is("steps", Value::is_array)
    {
        return Ok(build(&fields));
    }
    Err(fields)
}

/// <https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry>
fn log_entry(entry: &Map<String, Value>) -> DecodedEvent {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let payload = entry.get("jsonPayload").and_then(Value::as_object);
    // If an agent does not know of this label, it stays in the payload, where it was written.
    let marked = |labels: Option<&Value>| labels.is_some_and(|labels| labels.get(WRITER).is_some());
    if marked(entry.get("labels")) || marked(payload.and_then(|payload| payload.get("logging.googleapis.com/labels"))) {
        return DecodedEvent {
            about: Significance::Nothing("a line of lastgood's own log asks for nothing".into()),
            ..DecodedEvent::plain(EventData::Nothing)
        };
    }
    let of_payload = |names: &[&str]| names.iter().find_map(|name| payload?.get(*name)?.as_str()).map(str::to_owned);
    let proto = |pointer: &str| entry.get("protoPayload").and_then(|payload| payload.pointer(pointer)?.as_str());
    let request = || {
        let part = |name: &str| {
            entry
                .get("httpRequest")?
                .get(name)
                .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
        };
        Some(format!("{} {}: {}", part("requestMethod")?, part("requestUrl")?, part("status")?))
    };
    let message = text("textPayload").map(str::to_owned);
    let message = message.or_else(|| of_payload(&["message", "msg", "stack_trace"]));
    let message = message.or_else(|| payload.map(|payload| Value::Object(payload.clone()).to_string()));
    let message = message.or_else(|| proto("/status/message").or_else(|| proto("/methodName")).map(str::to_owned));
    let message = message.or_else(request);
    let resource = entry.get("resource");
    let kind = resource.and_then(|resource| resource.get("type")?.as_str());
    let service = service(resource).or_else(|| payload?.get("serviceContext")?.get("service")?.as_str());
    // The labels that the app gives come first; those that do not fit are counted.
    let mut labels = payload.cloned().unwrap_or_default();
    labels.retain(|name, value| {
        name != "message" && !name.starts_with("logging.googleapis.com/") && !value.is_object() && !value.is_array()
    });
    labels.extend(entry.get("labels").and_then(Value::as_object).cloned().unwrap_or_default());
    let log = text("logName").map(|log| log.rsplit_once("/logs/").map_or(log, |(_, log)| log).replace("%2F", "/"));
    if log.as_ref().is_some_and(|log| log.starts_with(AUDIT)) {
        let bucket = resource.and_then(|resource| resource.pointer("/labels/bucket_name")?.as_str());
        let agent = proto("/requestMetadata/callerSuppliedUserAgent");
        let (name, method) = (proto("/resourceName"), proto("/methodName"));
        let audit = [(BUCKET, bucket), (RESOURCE, name), (METHOD, method), (AGENT, agent)];
        labels.extend(audit.map(|(name, value)| (name.to_owned(), json!(value))));
    }
    labels.extend([
        (LOG.into(), json!(log)),
        ("resource".into(), json!(kind)),
        ("insertId".into(), json!(text("insertId"))),
    ]);
    // Cloud Logging itself takes two entries of a project for the same if both are: <…/LogEntry#FIELDS.insert_id>.
    let identity = text("insertId").zip(text("logName")).map(|(id, log)| {
        let (log, id) = (log.to_owned(), format!("{} {id}", text("timestamp").unwrap_or_default()));
        EventIdentity::LogEntry { log, id }
    });
    let severity = entry.get("severity").cloned().unwrap_or_else(|| "DEFAULT".into());
    let time = text("timestamp").and_then(|time| time.parse().ok());
    let fields = json!({ "severity": severity, "message": message, "service": service.or(kind), "labels": labels });
    DecodedEvent { carrier: LOG_ENTRY, identity, time, ..of(fields, Significance::Anything) }
}

/// <https://docs.cloud.google.com/monitoring/support/notification-options#schema-pubsub>
fn incident(incident: &Value) -> DecodedEvent {
    let text = |name: &str| incident[name].as_str();
    let about = match text("state") {
        Some(state) if state.eq_ignore_ascii_case("closed") => {
            Significance::Nothing("an incident that is closed asks for nothing".into())
        }
        _ => Significance::Trouble("a Cloud Monitoring incident"),
    };
    let message = text("summary").filter(|summary| !summary.is_empty()).or(text("condition_name"));
    let service = service(incident.get("resource")).or_else(|| incident["policy_user_labels"]["service"].as_str());
    let labels = json!({
        "incident": text("incident_id"),
        "policy": text("policy_name"),
        "condition": text("condition_name"),
        "severity": text("severity"),
        "url": text("url"),
    });
    let time = incident["started_at"].as_i64().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let fields = json!({ "message": message, "service": service.or(text("resource_name")), "labels": labels });
    DecodedEvent { carrier: "Cloud Monitoring incident", time, ..of(fields, about) }
}

/// <https://docs.cloud.google.com/error-reporting/docs/notifications>
fn error(fields: &Map<String, Value>) -> DecodedEvent {
    let text = |part: &str, name: &str| {
        fields.get(part).and_then(|part| part.get(name)?.as_str()).filter(|text| !text.is_empty())
    };
    let message = text("exception_info", "message").or(text("event_info", "log_message"));
    let labels = json!({
        "exception": text("exception_info", "type"),
        "version": text("event_info", "version"),
        "url": text("group_info", "detail_link"),
    });
    let fields = json!({
        "message": message.or(fields.get("subject").and_then(Value::as_str)),
        "service": text("event_info", "service"),
        "labels": labels,
    });
    DecodedEvent { carrier: "Error Reporting", ..of(fields, Significance::Trouble("an error of Error Reporting")) }
}

/// <https://docs.cloud.google.com/build/docs/api/reference/rest/v1/projects.builds>
fn build(build: &Map<String, Value>) -> DecodedEvent {
    let text = |name: &str| build.get(name).and_then(Value::as_str);
    let (id, status) = (text("id").unwrap_or_default(), text("status").unwrap_or_default());
    let about = match status {
        "FAILURE" | "INTERNAL_ERROR" | "TIMEOUT" | "EXPIRED" => Significance::Trouble("a failure of Cloud Build"),
        _ => Significance::Nothing("a build that has not failed asks for nothing".into()),
    };
    let detail = build.get("failureInfo").and_then(|failure| failure.get("detail")?.as_str()).or(text("statusDetail"));
    let message = format!("the build {id} ended as {status}");
    let trigger = build.get("substitutions").and_then(|of| of.get("TRIGGER_NAME")?.as_str());
    let labels = json!({ "build": id, "project": text("projectId"), "url": text("logUrl") });
    let fields = json!({ "message": detail.map_or(message.clone(), |detail| format!("{message}: {detail}")), "service": trigger, "labels": labels });
    DecodedEvent { carrier: "Cloud Build", ..of(fields, about) }
}

/// The app, as the labels of a monitored resource name it.
fn service(resource: Option<&Value>) -> Option<&str> {
    let labels = resource?.get("labels")?;
    SERVICES.iter().find_map(|name| labels.get(*name)?.as_str()).filter(|name| !name.is_empty())
}

fn of(fields: Value, about: Significance) -> DecodedEvent {
    DecodedEvent { about, ..DecodedEvent::plain(fields.into()) }
}
