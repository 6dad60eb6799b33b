//! What a request or a message says once its envelope is off, and the words for it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::content::EventData;
use super::identity::EventIdentity;
use super::labels;
use super::vocabulary::{PLAIN, UNREAD, Unreadable};
use crate::report::{Action, Event};
use crate::vault::root::BackupReason;

/// What came of reading a request.
#[derive(Debug, Clone, PartialEq)]
pub enum EventDecision {
    /// A run.
    Run(RunRequest),
    /// Nothing, and that is as it should be. The text says why.
    Ignored(String),
    /// It was understood, and will never be served. The text says why; then the identity, where it has one.
    Refused(String, Option<String>),
}

/// A run that is asked for. Nothing in it names a place.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRequest {
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: BackupReason,
    /// What is attached to the snapshot: the event's labels, severity, service and message, within a snapshot's limits.
    pub labels: BTreeMap<String, String>,
    /// The snapshot to restore: `latest`, an id, a name or a time. Never set for a backup.
    pub snapshot: Option<String>,
    /// What asked for it.
    pub event: Event,
}

impl RunRequest {
    /// Notes what of it could not be read.
    pub fn note(&mut self, why: &str) {
        for labels in [&mut self.labels, &mut self.event.labels] {
            let noted = [(UNREAD.to_owned(), why.to_owned())];
            *labels = labels::fit(noted.into_iter().chain(std::mem::take(labels)), 0);
        }
    }

    /// What of it could not be read, if that was noted.
    pub fn unread(&self) -> Option<&str> {
        self.event.labels.get(UNREAD).map(String::as_str)
    }
}

/// What was said, whatever carried it.
pub struct DecodedEvent {
    /// A CloudEvent's type.
    pub(super) kind: Option<String>,
    /// What carried it, in words.
    pub(super) carrier: &'static str,
    /// Extension attributes of a CloudEvent, attributes of a message.
    pub(super) attributes: BTreeMap<String, String>,
    /// The data.
    pub(super) content: EventData,
    /// What the data tells of, apart from what it says.
    pub(super) about: Significance,
    /// What makes a redelivery known.
    pub(super) identity: Option<EventIdentity>,
    /// When it was sent.
    pub(super) time: Option<Timestamp>,
    /// What could not be read, which matters to no backup.
    pub(super) unread: Option<Unreadable>,
}

impl DecodedEvent {
    pub(super) fn plain(content: EventData) -> Self {
        let (kind, attributes, carrier, about) = (None, BTreeMap::new(), PLAIN, Significance::Anything);
        DecodedEvent { kind, carrier, attributes, content, about, identity: None, time: None, unread: None }
    }

    /// What is known to be critical, and cannot be read as what it should be: text.
    pub(super) fn critical(body: &[u8], unread: Unreadable) -> Self {
        let text = body.trim_ascii();
        let content = match text.is_empty() || text.contains(&0) {
            true => EventData::Nothing,
            false => EventData::Text(String::from_utf8_lossy(text).into_owned()),
        };
        DecodedEvent { unread: Some(unread), ..DecodedEvent::plain(content) }
    }
}

/// What data tells of, apart from what it says.
pub enum Significance {
    /// Whatever it says.
    Anything,
    /// Trouble: a critical event, where the path says that it is one.
    Trouble(&'static str),
    /// Nothing that asks for anything, for this reason.
    Nothing(String),
}

/// What a path alone says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathHint {
    /// Nothing.
    Any,
    /// A backup.
    Backup,
    /// A backup, for a critical event.
    Critical,
    /// A restore.
    Restore,
    /// A look at the vault.
    Verify,
}

impl PathHint {
    /// The door at a path, with or without a query and a slash at its end.
    pub(super) fn at(path: &str) -> Option<Self> {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        match path.strip_suffix('/').unwrap_or(path) {
            "" | "/events" => Some(PathHint::Any),
            "/events/backup" => Some(PathHint::Backup),
            "/events/critical" => Some(PathHint::Critical),
            "/events/restore" => Some(PathHint::Restore),
            "/events/verify" => Some(PathHint::Verify),
            _ => None,
        }
    }
}
