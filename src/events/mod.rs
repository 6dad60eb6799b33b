//! Decides what a request, or a pulled message, asks for. Pure: no clock, no store, no configuration.
//!
//! ```text
//! request ──► what carries it: CloudEvent, Pub/Sub message, Cloud Scheduler, plain JSON
//!         ──► what it says: attributes and data ──► what it asks for
//! ```
//!
//! **The decision** what a request asks for is made by the first of these that says something:
//! 1. a CloudEvent of a type `dev.lastgood.…` that is not one of the four below (such as the result of a run) is ignored,
//!    whatever else it holds; so are a run's report that has lost its event, the body that is posted to a webhook, and a line of
//!    lastgood's own log: no result starts a run. Ignored, too, is whatever tells of no trouble: an incident that is closed, a
//!    build that has not failed. And so is, if the path says nothing, a CloudEvent of a type `google.…` other than a published
//!    message;
//! 2. the attribute or field `action`: `backup`, `restore` or `verify`; any other value is refused, and so are an attribute and a
//!    field that differ, except for a critical event: there it is a word of the app's own, and a label;
//! 3. the CloudEvent's type: [`BACKUP_REQUESTED`], [`CRITICAL`], [`RESTORE_REQUESTED`] or [`VERIFY_REQUESTED`];
//! 4. the path: `/events/backup`, `/events/critical`, `/events/restore` or `/events/verify`;
//! 5. Cloud Scheduler: a backup;
//! 6. a severity of `ERROR` or above, also a log entry's: a backup for a critical event. An event with a lower severity is
//!    ignored, and a message without a severity says nothing: logs and alerts of all kinds are published as messages, and few of
//!    them are a reason for a backup.
//!
//! **Text.** Data that is not JSON is text, whatever it begins with and is said to be, and becomes the message of a backup. It is
//! an error if JSON was to be expected and only JSON could say what is meant, which is so for restores and verifications and if
//! nothing else says anything.
//!
//! JSON with the small faults that programs often write is read if it is clear what was meant: `lenient.rs`.
//!
//! **A critical event is not refused for how it is written.** Whoever operates an app wants the snapshot: what is wrong with the
//! event is noted in the label [`UNREAD`], and in the log, and can be put right later. So a time that cannot be read is left out
//! of an event that asks for a backup, since only a restore depends on it. If the path or the type says that the event is
//! critical and the envelope of a CloudEvent or a Pub/Sub message cannot be read, the whole body becomes text; so it does if
//! nothing but the body, broken as it is, has that type or a severity of `ERROR` or above. If a body is too large, the caller
//! gives its beginning. The following is still refused or ignored, since it is no matter of text: another method, a sender who
//! may not ask, several events at once (whoever delivers them is told to send each by itself, and sends them again), whatever
//! tells how a run ended, and trouble that is over.
//!
//! Nothing else in a request is acted on. The configuration alone says where data comes from and goes to: a field `vault`, `data`
//! or `target` is a label like any other.
//!
//! **The reason** is `critical` for a critical event (by its type, else by the path, or by its severity), else what the attribute
//! or field `reason` says if it is one of the four, else `schedule` for Cloud Scheduler, else `manual`.
//!
//! **Identity**, by which a redelivery is known: the innermost CloudEvent's source and id, else a log entry's own, else the
//! innermost Pub/Sub message's subscription and id, else none. For a request of Cloud Scheduler it is always the job's name and
//! the time that it was scheduled for: a body that was configured once has the same CloudEvent id every night.
//! [`identity::EventIdentity`] says how it is written.

mod content;
pub mod identity;
pub mod labels;
mod lenient;
pub mod sent;
pub mod classify;
pub mod decoded;
pub mod envelope;
pub mod vocabulary;

use std::collections::BTreeMap;

use http::HeaderMap;
use jiff::Timestamp;

use self::content::EventData;
use self::identity::EventIdentity;
use crate::report::Event;

use self::decoded::{DecodedEvent, PathHint};
pub use self::decoded::{EventDecision, RunRequest};
pub use self::envelope::google::{AGENT, AUDIT, BUCKET, LOG, LOG_ENTRY, METHOD, RESOURCE};
pub use self::vocabulary::{
    BACKUP_REQUESTED, CRITICAL, RESTORE_REQUESTED, UNREAD, Unreadable, VERIFY_REQUESTED, WRITER,
};
use crate::events::envelope::{cloud, pubsub};

/// Decides what a request to an events' path asks for. The caller limits the body's size.
///
/// # Errors
/// A part that cannot be understood, unless the event is known to be critical: not a POST, an incomplete CloudEvent, invalid JSON
/// where only JSON says what is meant, invalid base64, several events at once, messages nested too deep.
pub fn read(method: &str, path: &str, headers: &HeaderMap, body: &[u8]) -> Result<EventDecision, Unreadable> {
    if method != "POST" {
        return Err(Unreadable::new("the request", "events are sent with POST"));
    }
    let Some(hint) = PathHint::for_path(path) else {
        return Ok(EventDecision::Refused("this path takes no events".into(), None));
    };
    read_at(hint, headers, body).or_else(|why| {
        let critical =
            hint == PathHint::Critical || says_critical(headers) || hint == PathHint::Any && is_critical_body(body);
        as_critical(critical, body, why)
    })
}

/// Whether a body that cannot be read says that it is a critical event; it may be cut off.
pub fn is_critical_body(body: &[u8]) -> bool {
    lenient::says_critical(body)
}

/// Whether headers alone say that an event is critical.
pub fn says_critical(headers: &HeaderMap) -> bool {
    headers.get("ce-type").is_some_and(|kind| kind == CRITICAL)
}

/// Decides on an event that cannot be read: if it is known to be critical, as on a critical event with the body as its text.
fn as_critical(critical: bool, body: &[u8], why: Unreadable) -> Result<EventDecision, Unreadable> {
    match critical && !why.several {
        true => classify::classify_event(DecodedEvent::critical(body, why), PathHint::Critical, false),
        false => Err(why),
    }
}

fn read_at(hint: PathHint, headers: &HeaderMap, body: &[u8]) -> Result<EventDecision, Unreadable> {
    let schedule = Schedule::of(headers)?;
    let media = match headers.get(http::header::CONTENT_TYPE) {
        Some(value) => content::media(&content::header("Content-Type", value)?),
        None => String::new(),
    };
    let mut event = if content::is_cloud_event(&media) {
        crate::events::envelope::envelope(&media, body, "the body", 0)?
    } else if pubsub::is_unwrapped(headers) {
        pubsub::unwrapped(headers, body)?
    } else if cloud::in_headers(headers) {
        cloud::binary(cloud::attributes(headers)?, &media, body, 0)?
    } else {
        plain(&media, body, schedule.is_some())?
    };
    let scheduled = schedule.is_some();
    if let Some(schedule) = schedule {
        event.carrier = "Cloud Scheduler job";
        event.time = schedule.time.or(event.time);
        event.identity = schedule.identity;
    }
    classify::classify_event(event, hint, scheduled)
}

/// Whether the sender of a request would send it again if it were not served: a system that delivers events does, and somebody's
/// program with a `curl` in it does not.
pub fn is_redelivered(headers: &HeaderMap, event: &Event) -> bool {
    let deliverers = ["google-cloud-scheduler", "cloudpubsub-google", "apis-google"];
    let agent =
        headers.get(http::header::USER_AGENT).map(|agent| agent.as_bytes().to_ascii_lowercase()).unwrap_or_default();
    let marks = [cloud::PREFIX, pubsub::HEADERS, "x-cloudscheduler"];
    event.identity.is_some()
        || event.kind.as_deref() == Some(pubsub::CARRIER)
        || deliverers.iter().any(|deliverer| agent.starts_with(deliverer.as_bytes()))
        || headers.keys().any(|name| marks.iter().any(|mark| name.as_str().starts_with(mark)))
}

/// Decides what a pulled message asks for; `subscription` is the full name, `projects/P/subscriptions/S`.
///
/// # Errors
/// Like [`read`].
pub fn read_message(
    data: &[u8],
    attributes: &BTreeMap<String, String>,
    message_id: &str,
    publish_time: Option<Timestamp>,
    subscription: &str,
) -> Result<EventDecision, Unreadable> {
    let envelope = pubsub::Envelope { subscription, id: message_id, time: publish_time, unread: None };
    let asked = pubsub::message(data, attributes.clone(), &envelope, 0);
    let asked = asked.and_then(|event| classify::classify_event(event, PathHint::Any, false));
    asked.or_else(|why| as_critical(is_critical(attributes), data, why))
}

/// Whether the attributes of a message alone say that it is critical.
pub fn is_critical(attributes: &BTreeMap<String, String>) -> bool {
    attributes.iter().any(|(name, value)| name.eq_ignore_ascii_case("ce-type") && value == CRITICAL)
}

/// A body without any envelope in its headers. Cloud Scheduler may send any body.
fn plain(media: &str, body: &[u8], scheduled: bool) -> Result<DecodedEvent, Unreadable> {
    let content = match EventData::of(body, content::is_json(media), "the body") {
        EventData::Fields(fields) => return crate::events::envelope::unfold(fields, 0),
        _ if scheduled => EventData::Nothing,
        EventData::Text(text) if media != "text/plain" => {
            EventData::NotJson(text, Unreadable::new("the body", "it is neither empty nor a JSON object"))
        }
        content => content,
    };
    Ok(DecodedEvent::plain(content))
}

/// The facts that Cloud Scheduler gives in its headers.
/// <https://docs.cloud.google.com/scheduler/docs/reference/rpc/google.cloud.scheduler.v1#httptarget>
struct Schedule {
    /// Job and time, if both are given.
    identity: Option<EventIdentity>,
    /// When the run was due.
    time: Option<Timestamp>,
}

impl Schedule {
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Unreadable> {
        let get = |name: &str| headers.get(name).map(|value| content::header(name, value)).transpose();
        let (job, time) = (get("x-cloudscheduler-jobname")?, get("x-cloudscheduler-scheduletime")?);
        let agent = headers.get(http::header::USER_AGENT).map(|agent| agent.as_bytes().to_ascii_lowercase());
        let agent = agent.is_some_and(|agent| agent.starts_with(b"google-cloud-scheduler"));
        if job.is_none() && time.is_none() && !agent && !headers.contains_key("x-cloudscheduler") {
            return Ok(None);
        }
        // The same moment may be sent in UTC or with an offset.
        let parsed: Option<Timestamp> = time.as_ref().and_then(|time| time.parse().ok());
        let written = parsed.map(|time| time.to_string()).or(time);
        let identity = job.zip(written).map(|(job, time)| EventIdentity::Schedule { job, time });
        Ok(Some(Schedule { identity, time: parsed }))
    }
}

#[cfg(test)]
mod tests;
