//! A stored report as far as this program knows its form. Other versions write reports, too, and so may anybody who may write to
//! the vault: what is missing, or is not of its kind, is `None`, and what is not known is passed over.

use jiff::Timestamp;
use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Action, Outcome, RunId};
use crate::vault::root::SnapshotName;

/// What a stored report says of its run.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StoredReport {
    /// The run.
    #[serde(deserialize_with = "known")]
    pub run: Option<RunId>,
    /// What it was for.
    #[serde(deserialize_with = "known")]
    pub action: Option<Action>,
    /// How it ended.
    #[serde(deserialize_with = "known")]
    pub result: Option<Outcome>,
    /// When it began.
    #[serde(deserialize_with = "known")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(deserialize_with = "known")]
    pub finished: Option<Timestamp>,
    /// The snapshot that it is about.
    #[serde(deserialize_with = "known")]
    pub snapshot: Option<SnapshotName>,
    /// Why it failed.
    #[serde(deserialize_with = "known")]
    pub error: Option<StoredError>,
    /// What a backup did.
    #[serde(deserialize_with = "known")]
    pub backup: Option<StoredBackup>,
}

/// Why a run failed, by its report.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StoredError {
    /// What was being done and why it failed.
    #[serde(deserialize_with = "known")]
    pub error: Option<String>,
}

/// What a backup did, by its report.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StoredBackup {
    /// Bytes that were written to the vault.
    #[serde(deserialize_with = "known")]
    pub uploaded_bytes: Option<u64>,
    /// Requests that failed and were made again. It stands beside the other fields, as [`Traffic`](crate::store::Traffic) is
    /// flattened into a report.
    #[serde(deserialize_with = "known")]
    pub retries: Option<u64>,
    /// Whether the snapshot is good.
    #[serde(deserialize_with = "known")]
    pub good: Option<bool>,
    /// Whether everything in it is as it was at that time.
    #[serde(deserialize_with = "known")]
    pub whole: Option<bool>,
    /// The vaults, where there are several.
    #[serde(deserialize_with = "known")]
    pub vaults: Option<Vec<StoredCopy>>,
}

/// One of several vaults after a backup.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StoredCopy {
    /// Whether it holds the snapshot.
    #[serde(deserialize_with = "known")]
    pub holds: Option<bool>,
}

impl StoredReport {
    /// What it says, of a report that was read.
    pub fn of(report: &Value) -> Self {
        StoredReport::deserialize(report).unwrap_or_default()
    }

    /// Why the run failed.
    pub fn why(&self) -> Option<&str> {
        self.error.as_ref()?.error.as_deref()
    }

    /// All that the run is short of, the worst first; `outcome` is how it ended.
    pub fn shortcomings(&self, outcome: Outcome) -> Vec<Outcome> {
        let mut short = vec![outcome];
        if let Some(backup) = &self.backup {
            if backup.vaults.iter().flatten().any(|copy| copy.holds == Some(false)) {
                short.push(Outcome::IncompleteCopies);
            }
            if (backup.good, backup.whole) == (Some(true), Some(false)) {
                short.push(Outcome::Stale);
            }
        }
        short.retain(|short| *short != Outcome::Complete);
        short
    }
}

/// The parts of a report that a list shows, in the words of the program that wrote it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunSummary {
    /// The run's id.
    #[serde(deserialize_with = "known")]
    pub run: Option<String>,
    /// What it was for.
    #[serde(deserialize_with = "known")]
    pub action: Option<String>,
    /// How it ended.
    #[serde(deserialize_with = "known")]
    pub result: Option<String>,
    /// How it was asked for.
    #[serde(deserialize_with = "known")]
    pub way: Option<String>,
    /// When it began.
    #[serde(deserialize_with = "known")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(deserialize_with = "known")]
    pub finished: Option<String>,
    /// The snapshot that it is about.
    #[serde(deserialize_with = "known")]
    pub snapshot: Option<String>,
    /// Why it failed.
    #[serde(deserialize_with = "why")]
    pub error: Option<String>,
}

impl RunSummary {
    /// Of a report that was read.
    pub fn of(report: &Value) -> Self {
        RunSummary::deserialize(report).unwrap_or_default()
    }
}

/// A value of its kind; `None` for any other.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(from)?).ok())
}

/// The text of a report's error.
fn why<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(known::<D, StoredError>(from)?.and_then(|error| error.error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_of_its_kind_says_nothing_and_all_else_counts() {
        let report = json!({
            "run": "0011223344556677", "action": "polish", "result": 7, "finished": "2026-11-30T10:00:00Z", "error": { "error": "no" },
            "backup": { "uploaded_bytes": 5, "retries": "many", "vaults": [{ "holds": false }, {}], "good": true, "whole": false },
        });
        let read = StoredReport::of(&report);
        assert_eq!((read.run.map(|run| run.to_string()), read.action), (Some("0011223344556677".into()), None));
        assert_eq!((read.result, read.why(), read.snapshot), (None, Some("no"), None));
        let backup = read.backup.as_ref().unwrap();
        assert_eq!((backup.uploaded_bytes, backup.retries), (Some(5), None));
        assert_eq!(read.shortcomings(Outcome::Complete), [Outcome::IncompleteCopies, Outcome::Stale]);
        for nothing in [json!(null), json!([1]), json!("text")] {
            assert_eq!(StoredReport::of(&nothing), StoredReport::default());
        }
        let summary = RunSummary::of(&report);
        assert_eq!(
            (summary.action.as_deref(), summary.result, summary.error.as_deref()),
            (Some("polish"), None, Some("no"))
        );
    }
}
