//! How often what happened, so that nobody trusts a model in which something never does.

use std::collections::BTreeMap;
use std::fmt;

/// Events that must have happened in a run of some length.
pub const REQUIRED: [&str; 38] = [
    "backups",
    "good",
    "damaged packs",
    "wrong doubts",
    "Emptied",
    "Tenth",
    "Database",
    "Half",
    "suspect",
    "accepted",
    "changed unseen",
    "taken over unread",
    "vaults away",
    "vaults not mounted",
    "vaults apart",
    "vaults together again",
    "failed",
    "killed",
    "full disks",
    "entries kept",
    "entries adopted",
    "entries linked",
    "backups resumed",
    "databases raw",
    "databases live",
    "restores",
    "older restores",
    "by hand",
    "verified",
    "Append",
    "ExchangeFolders",
    "ExchangeLink",
    "ExchangeData",
    "MapWrite",
    "Relink",
    "RenameFolder",
    "DatabaseCrash",
    "DatabaseBegin",
];

/// The same where a small disk can be mounted.
pub const WITH_A_DISK: &str = "disks without room";

/// Events that must have happened in a long run: each takes several things at once.
pub const RARE: [&str; 2] = ["stale", "good after suspect"];

/// Counts by name.
#[derive(Debug, Default, Clone)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Counts one more.
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// Counts `more` more.
    pub fn add(&mut self, what: &str, more: u64) {
        *self.0.entry(what.to_owned()).or_default() += more;
    }

    /// Returns how often something happened.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds what another history counted.
    pub fn join(&mut self, other: &Counters) {
        other.0.iter().for_each(|(what, more)| self.add(what, *more));
    }

    /// Returns the events that should have happened and never did. `disk`: a small disk could be mounted; `long`: the run was
    /// long.
    pub fn missing(&self, disk: bool, long: bool) -> Vec<&'static str> {
        REQUIRED
            .into_iter()
            .chain(disk.then_some(WITH_A_DISK))
            .chain(RARE.into_iter().filter(|_| long))
            .filter(|what| self.of(what) == 0)
            .collect()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(|(what, count)| format!("{what} {count}")).collect();
        f.write_str(&all.join(", "))
    }
}
