//! The settings of the doctor, and the results of its checks.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::network::Proxy;
use crate::error::Error;
use crate::gcp::cloud::Cloud;
use crate::store::address::Address;

/// The settings of the doctor: what is checked.
#[derive(Debug, Clone)]
pub struct DoctorSettings {
    /// The vaults, the preferred one first.
    pub vaults: Vec<VaultLocation>,
    /// How buckets are reached.
    pub cloud: Cloud,
    /// The proxy that the environment names for https.
    pub proxy: Option<Proxy>,
    /// The data directory as it was named.
    pub data: PathBuf,
    /// Where that is: absolute, symlinks followed as far as it exists.
    pub data_at: PathBuf,
    /// Why no backup is taken; `None` if backups are taken.
    pub backups_off: Option<String>,
    /// How old the newest good snapshot may be.
    pub max_age: Duration,
    /// Whether that age is all that is checked.
    pub only_age: bool,
}

/// A vault, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultLocation {
    /// Its address.
    pub address: Address,
    /// Where a folder is: absolute, symlinks followed as far as it exists.
    pub at: Option<PathBuf>,
}

impl VaultLocation {
    /// Returns the address as people are told it, and as a command takes it from any working directory.
    pub(super) fn shown(&self) -> String {
        match &self.at {
            Some(at) => at.display().to_string(),
            None => self.address.to_string(),
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// All is as it should be.
    Ok,
    /// It could not be checked, or need not be.
    Skipped,
    /// Nothing is stopped, but somebody should look.
    Warning,
    /// This stops a backup or a restore.
    Problem,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorCheck {
    /// Its name, which is unique within its section of the report.
    pub name: &'static str,
    /// Its result.
    pub outcome: CheckStatus,
    /// A description of what was found.
    pub found: String,
    /// Advice on what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The commands to do it with, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

impl DoctorCheck {
    pub(super) fn new(name: &'static str, outcome: CheckStatus, found: impl Into<String>) -> Self {
        DoctorCheck { name, outcome, found: found.into(), advice: None, commands: Vec::new() }
    }

    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Ok, found)
    }

    pub(super) fn skipped(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Skipped, found)
    }

    pub(super) fn warning(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Warning, found)
    }

    pub(super) fn problem(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Problem, found)
    }

    /// The problem that a check failed with an error. If it was told to stop, the error says no more than that.
    pub(super) fn error(name: &'static str, why: &Error, stop: &AtomicBool) -> Self {
        if stop.load(Ordering::Relaxed) {
            return Self::problem(name, "not known: the time for all of this was up before it answered").advice(
                "The network or the store is very slow. Run it again; `lastgood list` waits for longer (--store-timeout).",
            );
        }
        Self::problem(name, why.what()).advice(why.advice().unwrap_or_default())
    }

    /// Adds advice on what to do about it. The hints of errors send people to the doctor; that part is cut off, since here they
    /// are at the doctor.
    pub(super) fn advice(self, advice: impl Into<String>) -> Self {
        let mut advice = advice.into();
        if let Some(at) = advice.find("`lastgood doctor`") {
            advice.truncate(at);
            advice.truncate(advice.trim_end_matches([' ', ';', ',']).len());
            if !advice.is_empty() && !advice.ends_with(['.', '?', '!']) {
                advice.push('.');
            }
        }
        DoctorCheck { advice: Some(advice).filter(|advice| !advice.is_empty()), ..self }
    }

    pub(super) fn run(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }
}

/// Returns a length of time in its two largest units, as text.
pub(crate) fn span(time: Duration) -> String {
    let (seconds, minutes) = (time.as_secs(), time.as_secs() / 60);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds} s"),
        (0, m) => format!("{m} min"),
        (48.., _) => format!("{} d {} h", minutes / 1440, minutes / 60 % 24),
        (h, 0) => format!("{h} h"),
        (h, m) => format!("{h} h {m} min"),
    }
}
