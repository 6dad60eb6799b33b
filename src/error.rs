//! The one error of the program: what was being done, why it failed, and what to do about it.
//!
//! Callers act on its [`Kind`]: the command line turns it into an exit code. The parts that are only for people are text.

use std::borrow::Cow;
use std::io;

/// The meaning of an error for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request itself is wrong: an unknown snapshot, a bad pattern.
    Usage,
    /// The store, the disk or the source refused or failed.
    Failed,
    /// The store could not be reached: another one may serve, and a later attempt may succeed.
    Unreachable,
    /// The stored data is not what was stored: it is missing, cut short, altered, or made to do harm.
    Damage,
    /// The vault is there and has no snapshot yet, as before the first backup.
    NothingYet,
    /// Nothing has to be done: the condition that the request depends on does not hold.
    Unneeded,
}

impl Kind {
    /// Returns the word for it in JSON documents.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Failed => "failed",
            Kind::Unreachable => "unreachable",
            Kind::Damage => "damage",
            Kind::NothingYet => "nothing-yet",
            Kind::Unneeded => "unneeded",
        }
    }
}

/// An error with what was being done, why it failed and, where something can be done, what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not {doing}: {why}{}", hint.as_ref().map(|h| format!("\n  {h}")).unwrap_or_default())]
pub struct Error {
    kind: Kind,
    doing: String,
    why: String,
    hint: Option<Cow<'static, str>>,
    of_store: bool,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: Kind, doing: impl Into<String>, why: impl ToString) -> Self {
        Error { kind, doing: doing.into(), why: why.to_string(), hint: None, of_store: false }
    }

    /// Creates the error that the request is wrong.
    pub fn usage(doing: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Kind::Usage, doing, why)
    }

    /// Creates the error that something outside refused or failed.
    pub fn failed(doing: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Kind::Failed, doing, why)
    }

    /// Creates the error that the store does not answer.
    pub fn unreachable(doing: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Kind::Unreachable, doing, why)
    }

    /// Creates the error that stored bytes are not what they should be.
    pub fn damage(doing: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Kind::Damage, doing, why)
    }

    /// Creates the error that there is no snapshot yet.
    pub fn nothing_yet(doing: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Kind::NothingYet, doing, why)
    }

    /// Creates the error that nothing has to be done.
    pub fn unneeded(doing: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Kind::Unneeded, doing, why)
    }

    /// Creates the error of a failed system call, with a hint that fits its error number.
    pub fn io(doing: impl Into<String>, source: &io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Some("The disk is full. Free some space and run it again; nothing that was stored is lost.")
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                Some("That filesystem is read-only. Remount it for writing or name another place.")
            }
            io::ErrorKind::PermissionDenied => {
                Some("Run it as a user who may, or change the owner or mode of what is named above.")
            }
            _ => None,
        };
        Error { hint: hint.map(Cow::Borrowed), ..Self::new(Kind::Failed, doing, source) }
    }

    /// Adds a hint: what the user can do about it.
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Notes that it was the vault's store that failed or refused.
    pub fn from_store(mut self) -> Self {
        self.of_store = true;
        self
    }

    /// Notes the larger work in which it happened; the reason and the hint stay.
    pub fn within(mut self, doing: impl Into<String>) -> Self {
        self.why = format!("{}: {}", self.doing, self.why);
        self.doing = doing.into();
        self
    }

    /// Returns what was being done and why it failed, without the hint.
    pub fn what(&self) -> String {
        format!("could not {}: {}", self.doing, self.why)
    }

    /// Returns why it failed, without what was being done.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Returns the hint, where something can be done.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether it was the vault's store that failed or refused, and not the source, the target or the request: another
    /// vault may serve.
    pub fn of_store(&self) -> bool {
        self.of_store
    }

    /// Returns what it means for the caller.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// Names what was being done when a system call failed.
pub trait Doing<T> {
    /// Turns the failure into an [`Error`]; `what` continues "could not …".
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::io(what(), &e))
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::io(what(), &e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let said = Error::io("write packs/ab", &full).within("take a snapshot of ./data").to_string();
        assert!(said.starts_with("could not take a snapshot of ./data: write packs/ab: "), "{said}");
        assert!(said.contains("Free some space"), "{said}");
    }
}
