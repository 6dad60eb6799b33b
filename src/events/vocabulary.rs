//! The words by which events are told apart, and the error of an event that cannot be read.

/// The type of a CloudEvent that asks for a backup.
pub const BACKUP_REQUESTED: &str = "dev.lastgood.backup.requested";

/// The type of a CloudEvent that tells of an app's critical error, and so asks for a backup.
pub const CRITICAL: &str = "dev.lastgood.critical";

/// The type of a CloudEvent that asks for a restore.
pub const RESTORE_REQUESTED: &str = "dev.lastgood.restore.requested";

/// The type of a CloudEvent that asks for a verification of the vault.
pub const VERIFY_REQUESTED: &str = "dev.lastgood.verify.requested";

/// The label with which lastgood marks the lines of its own log: a line that tells of a failed run must not start another one.
pub const WRITER: &str = "dev.lastgood/writer";

/// The label that says what of an event could not be read.
pub const UNREAD: &str = "unread";

/// A request that cannot be understood; it never quotes the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not read {part}: {why}")]
pub struct Unreadable {
    /// The part of the request that cannot be read: `the body`, `message.data`.
    pub part: String,
    /// The fault in it.
    pub why: String,
    /// Whether the only fault is that there are several events in one request.
    pub(crate) several: bool,
}

impl Unreadable {
    pub(crate) fn new(part: impl Into<String>, why: impl ToString) -> Self {
        Unreadable { part: part.into(), why: crate::text::one_line(&why.to_string(), 300), several: false }
    }
}

/// The carrier of an event that has no envelope.
pub(crate) const PLAIN: &str = "request";

/// The most bytes of an event's message.
pub const MAX_MESSAGE: usize = 8 << 10;

/// An event's severity, as far as it matters. The names and numbers are those of Cloud Logging, and the words that loggers and
/// syslog have for their worst.
/// <https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry#logseverity>
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// `ERROR` and above.
    Serious,
    /// Below `ERROR`.
    Slight,
    /// No severity, or a word that says nothing.
    Unknown,
}

impl Severity {
    /// The severity that a word or a number stands for.
    pub fn of(severity: &str) -> Self {
        match severity.to_ascii_uppercase().as_str() {
            "ERROR" | "ERR" | "SEVERE" | "CRITICAL" | "CRIT" | "ALERT" | "EMERGENCY" | "EMERG" | "FATAL" | "PANIC" => {
                Severity::Serious
            }
            "DEFAULT" | "TRACE" | "VERBOSE" | "DEBUG" | "INFO" | "INFORMATION" | "INFORMATIONAL" | "NOTICE"
            | "WARNING" | "WARN" => Severity::Slight,
            // Other numbers mean one thing to one logger, and another to the next.
            "500" | "600" | "700" | "800" => Severity::Serious,
            "0" | "100" | "200" | "300" | "400" => Severity::Slight,
            _ => Severity::Unknown,
        }
    }
}
