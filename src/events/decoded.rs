//! The content of a request or a message once its envelope is off.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::content::EventData;
use super::identity::EventIdentity;
use super::labels;
use super::vocabulary::{PLAIN, UNREAD, Unreadable};
use crate::report::{Action, Event};
use crate::vault::root::BackupReason;

/// The outcome of reading a request.
#[derive(Debug, Clone, PartialEq)]
pub enum EventDecision {
    /// A run is asked for.
    Run(RunRequest),
    /// Nothing is asked for, and that is as it should be. The text says why.
    Ignored(String),
    /// The event was understood, and will never be served. The text says why; then comes the identity, if the event has one.
    Refused(String, Option<String>),
}

/// A run that is asked for. Nothing in it names where data comes from or goes to.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRequest {
    /// The action to do.
    pub action: Action,
    /// The reason for the run.
    pub reason: BackupReason,
    /// The labels that are attached to the snapshot: the event's labels, severity, service and message, within a snapshot's
    /// limits.
    pub labels: BTreeMap<String, String>,
    /// The snapshot to restore: `latest`, an id, a name or a time. Never set for a backup.
    pub snapshot: Option<String>,
    /// The event that asked for it.
    pub event: Event,
}

impl RunRequest {
    /// Notes what part of the event could not be read.
    pub fn note(&mut self, why: &str) {
        for labels in [&mut self.labels, &mut self.event.labels] {
            let noted = [(UNREAD.to_owned(), why.to_owned())];
            *labels = labels::fit(noted.into_iter().chain(std::mem::take(labels)), 0);
        }
    }

    /// The note about what could not be read. `None` if there is none.
    pub fn unread(&self) -> Option<&str> {
        self.event.labels.get(UNREAD).map(String::as_str)
    }
}

/// An event, whatever carried it.
pub struct DecodedEvent {
    /// A CloudEvent's type.
    pub(super) kind: Option<String>,
    /// The carrier, in words.
    pub(super) carrier: &'static str,
    /// Extension attributes of a CloudEvent, attributes of a message.
    pub(super) attributes: BTreeMap<String, String>,
    /// The data.
    pub(super) content: EventData,
    /// The significance that the data has by its kind, apart from its words.
    pub(super) about: Significance,
    /// The identity by which a redelivery is known.
    pub(super) identity: Option<EventIdentity>,
    /// When it was sent.
    pub(super) time: Option<Timestamp>,
    /// The part that could not be read, which matters to no backup.
    pub(super) unread: Option<Unreadable>,
}

impl DecodedEvent {
    pub(super) fn plain(content: EventData) -> Self {
        let (kind, attributes, carrier, about) = (None, BTreeMap::new(), PLAIN, Significance::Anything);
        DecodedEvent { kind, carrier, attributes, content, about, identity: None, time: None, unread: None }
    }

    /// An event that is known to be critical but cannot be read as what it should be: its body becomes text.
    pub(super) fn critical(body: &[u8], unread: Unreadable) -> Self {
        let text = body.trim_ascii();
        let content = match text.is_empty() || text.contains(&0) {
            true => EventData::Nothing,
            false => EventData::Text(String::from_utf8_lossy(text).into_owned()),
        };
        DecodedEvent { unread: Some(unread), ..DecodedEvent::plain(content) }
    }
}

/// The significance that data has by its kind, apart from its words.
pub enum Significance {
    /// Anything: its words decide.
    Anything,
    /// Trouble: a critical event, if the path says that it is one.
    Trouble(&'static str),
    /// Nothing that asks for anything, for this reason.
    Nothing(String),
}

/// The hint that a path alone gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathHint {
    /// No hint.
    Any,
    /// A backup.
    Backup,
    /// A backup, for a critical event.
    Critical,
    /// A restore.
    Restore,
    /// A verification of the vault.
    Verify,
}

impl PathHint {
    /// The hint of a path, with or without a query and a slash at its end. `None` if no events are taken there.
    pub(super) fn for_path(path: &str) -> Option<Self> {
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
