//! The identity by which an event is the same event when it comes again.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// The most bytes of an identity's parts that are written out.
const MAX: usize = 1024;
/// The characters that would end a part of an identity, or make two identities look alike.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// An event's identity.
///
/// It is written as one line: the kind, then its two parts, each after one space. Spaces, `%`, control characters and everything
/// that is not ASCII are percent-encoded in the parts, so no two identities look alike, of one kind or of two:
///
/// ```text
/// cloudevent //pubsub.googleapis.com/projects/p/topics/t 1096434104173400
/// pubsub projects/p/subscriptions/s 2070443601311540
/// log projects/p/logs/run.googleapis.com%252Fstderr 2026-11-05T10:00:01.749Z%20672b0c01000e8f7a
/// schedule nightly 2026-11-05T02:00:00Z
/// ```
///
/// An identity whose parts have more than 1 KiB is written as its kind and the BLAKE3 of those parts: `cloudevent blake3:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventIdentity {
    /// A CloudEvent: source and id together are unique by its specification.
    CloudEvent {
        /// The event's sender.
        source: String,
        /// The event's id among those of its source.
        id: String,
    },
    /// A Pub/Sub message: its id is unique within its topic, and so within a subscription.
    Message {
        /// The subscription's full name; empty if it was not given.
        subscription: String,
        /// The message's id.
        id: String,
    },
    /// An entry of a log that was routed to a topic.
    LogEntry {
        /// The log's full name.
        log: String,
        /// Its time and its id within the log.
        id: String,
    },
    /// A turn of a Cloud Scheduler job: its retries have the same time.
    Schedule {
        /// The job's name.
        job: String,
        /// When it was due.
        time: String,
    },
}

impl EventIdentity {
    /// The identity that counts, out of that of the content and that of what carried it: the innermost CloudEvent's, else the
    /// innermost.
    pub(super) fn innermost(inner: Option<Self>, outer: Option<Self>) -> Option<Self> {
        match (inner, outer) {
            (Some(EventIdentity::Message { .. }), outer @ Some(EventIdentity::CloudEvent { .. })) => outer,
            (inner, outer) => inner.or(outer),
        }
    }
}

impl fmt::Display for EventIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, one, two) = match self {
            EventIdentity::CloudEvent { source, id } => ("cloudevent", source, id),
            EventIdentity::Message { subscription, id } => ("pubsub", subscription, id),
            EventIdentity::LogEntry { log, id } => ("log", log, id),
            EventIdentity::Schedule { job, time } => ("schedule", job, time),
        };
        let parts = format!("{} {}", utf8_percent_encode(one, ESCAPED), utf8_percent_encode(two, ESCAPED));
        match parts.len() {
            0..=MAX => write!(f, "{kind} {parts}"),
            _ => write!(f, "{kind} blake3:{}", blake3::hash(parts.as_bytes()).to_hex()),
        }
    }
}
