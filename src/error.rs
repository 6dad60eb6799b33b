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

/// Declares the codes and their words in one table.
macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $word:literal,)*) => {
        /// What went wrong, as one of a few fixed words: finer than [`Kind`], for scripts, alerts and searches.
        ///
        /// A word never gets another meaning and is never removed. `docs/exit-codes-and-errors.md` explains each one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $code,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &[Code] = &[$(Code::$code,)*];

            /// Returns the word for it in JSON documents and on stderr.
            pub fn word(self) -> &'static str {
                match self {
                    $(Code::$code => $word,)*
                }
            }
        }
    };
}

codes! {
    /// The request itself is wrong in a way that no other code names.
    Usage = "usage",
    /// An option, an environment variable, a pattern or the configuration file says something that cannot be used.
    BadSetting = "bad-setting",
    /// No snapshot, or more than one, has the name that was given.
    UnknownSnapshot = "unknown-snapshot",
    /// The snapshot has no such path.
    UnknownPath = "unknown-path",
    /// No run, or more than one, has the id that was given.
    UnknownRun = "unknown-run",
    /// The store, the disk or the source refused or failed in a way that no other code names.
    Failed = "failed",
    /// A fault of lastgood itself: a thread ended early, or a value could not be encoded.
    Internal = "internal",
    /// A signal, or the end of the time for it, stopped the work before it was done.
    Stopped = "stopped",
    /// A file or folder does not exist.
    NotFound = "not-found",
    /// A file, a folder or a vault exists where a new one was to be made.
    AlreadyExists = "already-exists",
    /// The system does not permit this user to read or write a file or folder.
    PermissionDenied = "permission-denied",
    /// A disk or a quota is full.
    DiskFull = "disk-full",
    /// A filesystem is mounted read-only.
    ReadOnly = "read-only",
    /// The data directory does not exist, is not a directory, or has nothing in it that can be read.
    NoData = "no-data",
    /// An earlier restore of the directory was cut off, and has to be finished first.
    Unfinished = "unfinished-restore",
    /// Another backup or restore, or a program such as flock(1), locks the directory.
    Locked = "locked",
    /// Programs use files in the directory that is to be replaced.
    InUse = "in-use",
    /// Another service, or another machine, runs the app on the vault.
    OtherWriter = "other-writer",
    /// The app is not started: what its data directory is does not allow it.
    NotStarted = "not-started",
    /// A mount point stands where something is to be renamed.
    MountPoint = "mount-point",
    /// Nothing can be restored to that place: it is the vault, not a folder, or below a file.
    BadTarget = "bad-target",
    /// A command that the user set to be run before or after the work failed.
    HookFailed = "hook-failed",
    /// Backups are switched off by `BACKUP_ENABLED`.
    BackupsOff = "backups-off",
    /// There is no vault at the address.
    NoVault = "no-vault",
    /// The place of a new vault has something else in it.
    NotEmpty = "not-empty",
    /// Vaults that are used together are not replicas of one another.
    DifferentVaults = "different-vaults",
    /// A newer version of lastgood wrote it.
    NewerFormat = "newer-format",
    /// The bucket does not exist.
    NoBucket = "no-bucket",
    /// No credentials of Google Cloud were found, or those that were found cannot be used.
    NoCredentials = "no-credentials",
    /// Google Cloud, or a webhook, does not permit what was asked for.
    AccessDenied = "access-denied",
    /// Something else deletes the vault's objects.
    Vanishing = "vanishing-objects",
    /// The store, or another service, did not answer; a later attempt may succeed.
    Unreachable = "unreachable",
    /// What is stored is not what was stored.
    Damage = "damage",
    /// The vault has no snapshot yet.
    NoSnapshots = "no-snapshots",
    /// The vault has snapshots, and none of them is good.
    NoGoodSnapshot = "no-good-snapshot",
    /// Nothing has to be done: the condition that the request depends on does not hold.
    Unneeded = "unneeded",
}

impl Code {
    /// Whether it says no more than the kind of the error.
    pub fn is_general(self) -> bool {
        matches!(self, Code::Usage | Code::Failed)
    }
}

/// The code of an error that has no finer one.
impl From<Kind> for Code {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Usage => Code::Usage,
            Kind::Failed => Code::Failed,
            Kind::Unreachable => Code::Unreachable,
            Kind::Damage => Code::Damage,
            Kind::NothingYet => Code::NoSnapshots,
            Kind::Unneeded => Code::Unneeded,
        }
    }
}

/// An error with what was being done, why it failed and, where something can be done, what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not {doing}: {why}{}", hint.as_ref().map(|h| format!("\n  {h}")).unwrap_or_default())]
pub struct Error {
    kind: Kind,
    code: Code,
    doing: String,
    why: String,
    hint: Option<Cow<'static, str>>,
    of_store: bool,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: Kind, doing: impl Into<String>, why: impl ToString) -> Self {
        Error { kind, code: kind.into(), doing: doing.into(), why: why.to_string(), hint: None, of_store: false }
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

    /// Creates the error of a failed system call, with the code and a hint that fit its error number.
    pub fn io(doing: impl Into<String>, source: &io::Error) -> Self {
        let (code, hint) = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                Code::DiskFull,
                Some("The disk is full. Free some space and run it again; nothing that was stored is lost."),
            ),
            io::ErrorKind::ReadOnlyFilesystem => {
                (Code::ReadOnly, Some("That filesystem is read-only. Remount it for writing or name another place."))
            }
            io::ErrorKind::PermissionDenied => (
                Code::PermissionDenied,
                Some("Run it as a user who may, or change the owner or mode of what is named above."),
            ),
            io::ErrorKind::NotFound => (Code::NotFound, None),
            io::ErrorKind::AlreadyExists => (Code::AlreadyExists, None),
            _ => (Code::Failed, None),
        };
        Error { code, hint: hint.map(Cow::Borrowed), ..Self::new(Kind::Failed, doing, source) }
    }

    /// Adds a hint: what the user can do about it.
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds to the reason, in brackets.
    pub fn note(mut self, more: &str) -> Self {
        self.why = format!("{} ({more})", self.why);
        self
    }

    /// Gives it a code that says more than its kind.
    pub fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// Notes that it was the vault's store that failed or refused.
    pub fn from_store(mut self) -> Self {
        self.of_store = true;
        self
    }

    /// Notes the larger work in which it happened; the reason and the hint stay.
    pub fn within(mut self, doing: impl Into<String>) -> Self {
        let doing = doing.into();
        self.why = format!("{}: {}", without_place(&self.doing, &doing), self.why);
        self.doing = doing;
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

    /// Takes it apart into what was being done and why it failed.
    pub fn into_doing_and_why(self) -> (String, String) {
        (self.doing, self.why)
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

    /// Returns what went wrong, as a code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether a newer version of lastgood wrote what was to be read.
    pub fn is_newer_format(&self) -> bool {
        self.code == Code::NewerFormat
    }

    /// Whether the store gave what was asked for, and this program cannot use it: it is damaged or of a newer format.
    pub fn is_unusable_content(&self) -> bool {
        self.kind == Kind::Damage || self.is_newer_format()
    }

    /// Returns the word for what went wrong.
    pub fn word(&self) -> &'static str {
        self.code.word()
    }

    /// Returns what was being done, why it failed and, where the code says more than the exit code does, the code.
    pub fn what_with_code(&self) -> String {
        if self.code.is_general() { self.what() } else { format!("{} [{}]", self.what(), self.word()) }
    }

    /// Returns what it means for the caller.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// Returns what was being done without its place, as in "read vault.json of PLACE", if the larger work ends with that place.
fn without_place<'d>(doing: &'d str, larger: &str) -> &'d str {
    let parts = [" of ", " in "].into_iter().filter_map(|word| doing.split_once(word));
    let ends = |place: &str| larger.strip_suffix(place).is_some_and(|before| before.ends_with(' '));
    parts.filter(|(_, place)| ends(place)).map(|(what, _)| what).min_by_key(|what| what.len()).unwrap_or(doing)
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

    #[test]
    fn a_place_stands_once_in_an_error() {
        let vault = "open the vault gs://bucket/app";
        for (doing, larger, said) in [
            (
                "read vault.json of gs://bucket/app",
                vault,
                "could not open the vault gs://bucket/app: read vault.json: no",
            ),
            (
                "create x in /a folder of b",
                "make a vault in /a folder of b",
                "could not make a vault in /a folder of b: create x: no",
            ),
            (
                "read x of gs://bucket/ap",
                vault,
                "could not open the vault gs://bucket/app: read x of gs://bucket/ap: no",
            ),
            ("read x of app", vault, "could not open the vault gs://bucket/app: read x of app: no"),
        ] {
            assert_eq!(Error::failed(doing, "no").within(larger).what(), said);
        }
    }

    #[test]
    fn an_error_has_the_code_of_its_cause_or_else_of_its_kind() {
        let full = Error::io("write packs/ab", &io::Error::from(io::ErrorKind::StorageFull)).within("take a snapshot");
        assert_eq!(full.what_with_code(), format!("{} [disk-full]", full.what()));
        let failed = Error::failed("read it", "it is broken");
        assert_eq!((failed.word(), failed.what_with_code()), ("failed", failed.what()));
        assert_eq!(failed.with_code(Code::NoVault).what_with_code(), "could not read it: it is broken [no-vault]");
        let words: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(words.len(), Code::ALL.len(), "a word is used twice");
    }
}
