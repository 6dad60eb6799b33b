//! Classifies what was said: ignored, refused, or a run that is asked for.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::content::EventData;
use super::decoded::{DecodedEvent, EventDecision, PathHint, RunRequest, Significance};
use super::labels;
use super::vocabulary::{
    BACKUP_REQUESTED, CRITICAL, MAX_MESSAGE, RESTORE_REQUESTED, Severity, Unreadable, VERIFY_REQUESTED,
};
use crate::report::{Action, Event};
use crate::vault::root::BackupReason;

/// The most bytes of a snapshot's name or time.
const MAX_SNAPSHOT: usize = 100;
/// The most bytes of a severity or of a service's name, so that each fits in a label.
const MAX_WORD: usize = 512;

/// Decides what a message asks for, by the order in the text of [`super`].
///
/// # Errors
/// The data is not JSON, and only JSON could say what is meant.
pub fn classify_event(decoded: DecodedEvent, hint: PathHint, scheduled: bool) -> Result<EventDecision, Unreadable> {
    let identity = decoded.identity.as_ref().map(ToString::to_string);
    let refused = |why: String| Ok(EventDecision::Refused(why, identity.clone()));
    let shown = decoded.kind.as_ref().map(|kind| crate::text::one_line(kind, MAX_WORD));
    let kind = match decoded.kind.as_deref() {
        Some(BACKUP_REQUESTED) => Some((Action::Backup, false)),
        Some(CRITICAL) => Some((Action::Backup, true)),
        Some(RESTORE_REQUESTED) => Some((Action::Restore, false)),
        Some(VERIFY_REQUESTED) => Some((Action::Verify, false)),
        Some(kind) if kind.starts_with("dev.lastgood.") || hint == PathHint::Any && kind.starts_with("google.") => {
            return Ok(EventDecision::Ignored(format!(
                "an event of the type {} asks for nothing",
                crate::text::one_line(kind, 100)
            )));
        }
        _ => None,
    };
    let trouble = match decoded.about {
        Significance::Nothing(why) if !scheduled => return Ok(EventDecision::Ignored(why)),
        Significance::Trouble(what) => Some(what),
        Significance::Anything | Significance::Nothing(_) => None,
    };
    let (fields, text, not_json) = match decoded.content {
        EventData::Fields(fields) => (fields, None, None),
        EventData::Text(text) => (Map::new(), Some(text), None),
        EventData::NotJson(text, why) => (Map::new(), Some(text), Some(why)),
        EventData::Nothing | EventData::Opaque => (Map::new(), None, None),
    };
    if !scheduled && tells_of_a_run(&fields) {
        return Ok(EventDecision::Ignored("a report of how a run ended asks for nothing".into()));
    }
    let mut words = UnclaimedFields { attributes: decoded.attributes, fields };

    let severity = words.take("severity").map(|severity| crate::text::one_line(severity.trim(), MAX_WORD));
    let service = words.take("service").map(|service| crate::text::one_line(&service, MAX_WORD));
    let message = words.take("message").or(text).map(|message| crate::text::one_line(&message, MAX_MESSAGE));
    let gravity = severity.as_deref().map_or(Severity::Unknown, Severity::of);
    let critical = kind.map_or(hint == PathHint::Critical, |(_, critical)| critical) || gravity == Severity::Serious;

    let named = match words.action() {
        Ok(named) => named,
        // A word of the app's own, no action.
        Err(_) if critical => None,
        Err(why) => return refused(why),
    };
    let by_path = match hint {
        PathHint::Any => None,
        PathHint::Backup | PathHint::Critical => Some(Action::Backup),
        PathHint::Restore => Some(Action::Restore),
        PathHint::Verify => Some(Action::Verify),
    };
    let implied = (scheduled || gravity == Severity::Serious).then_some(Action::Backup);
    let action = match named.or(kind.map(|(action, _)| action)).or(by_path).or(implied) {
        Some(action) => action,
        None if gravity == Severity::Slight => {
            return Ok(EventDecision::Ignored("its severity is below ERROR, and it asks for nothing else".into()));
        }
        None if let Some(why) = not_json => return Err(why),
        None => {
            let taken = trouble.map(|what| format!(": {what} is taken at /events/critical")).unwrap_or_default();
            return refused(format!("nothing says what it asks for{taken}"));
        }
    };
    let unread = decoded.unread;
    if let Some(why) = not_json.or(unread.clone()).filter(|_| action != Action::Backup) {
        return Err(why);
    }
    let snapshot = match action {
        // In a backup, `snapshot` is a word like any other.
        Action::Backup => Ok(None),
        Action::Restore | Action::Verify => words.one("snapshot"),
    };
    let snapshot = match snapshot {
        Ok(Some(name)) if !is_snapshot(&name) => {
            return refused("its snapshot is not an id, a name or a time".into());
        }
        Ok(snapshot) => snapshot,
        Err(why) => return refused(why),
    };

    let reason = match words.reason() {
        _ if critical => BackupReason::Critical,
        Some(reason) => reason,
        None if scheduled => BackupReason::Schedule,
        None => BackupReason::Manual,
    };
    let (free, left_out) = words.rest();
    let about = [("severity", &severity), ("service", &service), ("message", &message)];
    let about = about.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
    let attached = labels::fit(about.chain(free.iter().cloned()), left_out);
    let event = Event {
        identity,
        kind: Some(shown.unwrap_or_else(|| decoded.carrier.to_owned())),
        time: decoded.time,
        severity,
        message,
        service,
        labels: labels::fit(free, left_out),
        output: None,
    };
    let mut request = RunRequest { action, reason, labels: attached, snapshot, event };
    if let Some(why) = unread {
        request.note(&why.to_string());
    }
    Ok(EventDecision::Run(request))
}

/// Whether the fields are a run's report, or the body that is posted to a webhook: a result whose envelope is lost, as when a
/// subscription pushes without metadata. A report has a field `action`, and every run that it started would be followed by
/// another one.
fn tells_of_a_run(fields: &Map<String, Value>) -> bool {
    let report = ["format", "run", "action", "result", "way", "finished"];
    let of_webhook = |event: &Value| {
        let kind = event.get("type").and_then(Value::as_str);
        event.is_object() && kind.is_some_and(|kind| kind.starts_with("dev.lastgood."))
    };
    report.iter().all(|name| fields.contains_key(*name))
        || fields.contains_key("text") && fields.get("event").is_some_and(of_webhook)
}

/// Attributes and fields from which the known ones are taken, so that the others are left.
struct UnclaimedFields {
    attributes: BTreeMap<String, String>,
    fields: Map<String, Value>,
}

impl UnclaimedFields {
    /// Takes a value that may be said only once: as an attribute or a field, or as both in the same words.
    fn one(&mut self, name: &str) -> Result<Option<String>, String> {
        let field = match self.fields.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => return Err(format!("the field {name} is not text")),
        };
        match (self.attributes.remove(name), field) {
            (Some(attribute), Some(field)) if attribute != field => {
                Err(format!("the attribute {name} says one thing and the field another"))
            }
            (attribute, field) => Ok(attribute.or(field)),
        }
    }

    /// Takes the action, if it is one. Other words stay and become a label.
    fn action(&mut self) -> Result<Option<Action>, String> {
        let (attribute, field) = (self.attributes.get("action").cloned(), self.fields.get("action").cloned());
        let named = self.one("action").and_then(|action| match action.as_deref() {
            Some("backup") => Ok(Some(Action::Backup)),
            Some("restore") => Ok(Some(Action::Restore)),
            Some("verify") => Ok(Some(Action::Verify)),
            // The word that it names instead is not told: answers and log lines have nothing of a request's body.
            Some(_) => Err("its action is not one of backup, restore and verify".into()),
            None => Ok(None),
        });
        if named.is_err() {
            self.attributes.extend(attribute.map(|word| ("action".to_owned(), word)));
            self.fields.extend(field.map(|word| ("action".to_owned(), word)));
        }
        named
    }

    /// Takes the field, or else the attribute.
    fn take(&mut self, name: &str) -> Option<String> {
        let attribute = self.attributes.remove(name);
        match self.fields.remove(name) {
            None | Some(Value::Null) => attribute,
            Some(value) => Some(word(&value).unwrap_or_else(|| value.to_string())),
        }
    }

    /// Takes the reason, if it is one. Other words stay and become a label.
    fn reason(&mut self) -> Option<BackupReason> {
        let given = match self.fields.get("reason") {
            None | Some(Value::Null) => self.attributes.get("reason").map(String::as_str),
            Some(value) => value.as_str(),
        };
        let reason = match given? {
            "manual" => BackupReason::Manual,
            "schedule" => BackupReason::Schedule,
            "critical" => BackupReason::Critical,
            "shutdown" => BackupReason::Shutdown,
            _ => return None,
        };
        self.fields.remove("reason");
        self.attributes.remove("reason");
        Some(reason)
    }

    /// All others as labels: fields, the members of the field `labels`, attributes. And how many are left out, as they are not a
    /// single value.
    fn rest(mut self) -> (Vec<(String, String)>, usize) {
        let given = match self.fields.remove("labels") {
            Some(Value::Object(given)) => given,
            Some(Value::Null) | None => Map::new(),
            Some(other) => Map::from_iter([("labels".to_owned(), other)]),
        };
        let (mut labels, mut left_out) = (Vec::new(), 0);
        for (name, value) in self.fields.into_iter().chain(given).filter(|(_, value)| !value.is_null()) {
            match word(&value) {
                Some(value) => labels.push((name, value)),
                None => left_out += 1,
            }
        }
        labels.extend(self.attributes);
        (labels, left_out)
    }
}

/// A single value as text.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether it can be an id, a name or a time, so that it means no more than that wherever it is put.
fn is_snapshot(name: &str) -> bool {
    (1..=MAX_SNAPSHOT).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b':' | b'.' | b'+' | b' '))
}
