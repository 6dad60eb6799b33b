//! A stored report as far as this program knows its form. Other versions write reports, too, and so may anybody who may write to
//! the vault: what is missing, or is not of its kind, is `None`, and what is not known is passed over.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Action, Event, HookFailure, Outcome, ReportedError, RunEnvironment, RunId};
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
    #[serde(deserialize_with = "object")]
    pub error: Option<StoredError>,
    /// What a backup did.
    #[serde(deserialize_with = "object")]
    pub backup: Option<StoredBackup>,
    /// What is not as it should be about the snapshot, for people. `None` of a report that another process stored.
    #[serde(skip)]
    pub trouble: Option<String>,
}

/// Why a run failed, by its report.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StoredError {
    /// What was being done and why it failed.
    #[serde(deserialize_with = "known")]
    pub error: Option<String>,
    /// The word for what went wrong. `None` in reports of programs that had no codes.
    #[serde(deserialize_with = "known")]
    pub code: Option<String>,
}

impl From<&ReportedError> for StoredError {
    fn from(error: &ReportedError) -> Self {
        let code = Some(error.code.clone()).filter(|code| !code.is_empty());
        StoredError { error: Some(error.error.clone()), code }
    }
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
    #[serde(deserialize_with = "objects")]
    pub vaults: Vec<StoredCopy>,
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

    /// How long the run took. `None` if the report does not say when it began and ended.
    pub fn took(&self) -> Option<Duration> {
        Duration::try_from(self.finished?.duration_since(self.started?)).ok()
    }

    /// Why the run failed.
    pub fn why(&self) -> Option<&str> {
        self.error.as_ref()?.error.as_deref()
    }

    /// All that the run is short of, the worst first; `outcome` is how it ended.
    pub fn shortcomings(&self, outcome: Outcome) -> Vec<Outcome> {
        let mut short = vec![outcome];
        if let Some(backup) = &self.backup {
            if backup.vaults.iter().any(|copy| copy.holds == Some(false)) {
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

/// What a person is told of a run, by its stored report.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RunDetails {
    /// Where it took place.
    #[serde(deserialize_with = "known")]
    pub place: Option<RunEnvironment>,
    /// The events that asked for it.
    #[serde(deserialize_with = "known")]
    pub events: Option<Vec<Event>>,
    /// Why it failed.
    #[serde(deserialize_with = "known")]
    pub error: Option<ReportedError>,
    /// Commands after it that failed.
    #[serde(deserialize_with = "known")]
    pub hook_failures: Option<Vec<HookFailure>>,
    /// What a backup did.
    #[serde(deserialize_with = "object")]
    pub backup: Option<WorkDetails>,
    /// What a restore did.
    #[serde(deserialize_with = "object")]
    pub restore: Option<WorkDetails>,
    /// What was verified in each vault.
    #[serde(deserialize_with = "objects")]
    pub verify: Vec<WorkDetails>,
}

/// What a run did, as far as a person is told: backups, restores and verifications have different ones of these.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WorkDetails {
    /// The vault.
    #[serde(deserialize_with = "known")]
    pub vault: Option<String>,
    /// The state of the snapshot.
    #[serde(deserialize_with = "known")]
    pub state: Option<String>,
    /// Whether it is good.
    #[serde(deserialize_with = "known")]
    pub good: Option<bool>,
    /// The number of entries of the snapshot.
    #[serde(deserialize_with = "known")]
    pub entries: Option<u64>,
    /// Bytes of the snapshot, or of what was verified.
    #[serde(deserialize_with = "known")]
    pub bytes: Option<u64>,
    /// Bytes that were written to the vault.
    #[serde(deserialize_with = "known")]
    pub uploaded_bytes: Option<u64>,
    /// The directory that was restored to.
    #[serde(deserialize_with = "known")]
    pub target: Option<String>,
    /// Where what was there before is.
    #[serde(deserialize_with = "known")]
    pub moved_aside: Option<String>,
    /// The number of snapshots that were verified.
    #[serde(deserialize_with = "known")]
    pub snapshots: Option<u64>,
    /// What is damaged.
    #[serde(deserialize_with = "known")]
    pub damage: Option<Vec<serde_json::Value>>,
    /// Why a vault could not be verified.
    #[serde(deserialize_with = "known")]
    pub error: Option<String>,
    /// Warnings.
    #[serde(deserialize_with = "known")]
    pub warnings: Option<Vec<String>>,
}

impl RunDetails {
    /// Of a report that was read.
    pub fn of(report: &Value) -> Self {
        RunDetails::deserialize(report).unwrap_or_default()
    }
}

/// A value of its kind; `None` for any other.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(from)?).ok())
}

/// The text of a report's error.
fn why<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(object::<D, StoredError>(from)?.and_then(|error| error.error))
}

/// An object of the form `T`; `None` for anything else. What `T` does not name is passed over and never kept in memory: a report
/// may have 16 MiB, and many times as much as values.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    from.deserialize_any(ObjectVisitor(PhantomData))
}

/// The objects of the form `T` in a list; no list has none.
fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(ListVisitor(PhantomData))
}

/// Answers for values that are neither a list nor an object.
macro_rules! nothing_of_scalars {
    ($nothing:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($nothing)
        }
    };
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Option<T>;

    nothing_of_scalars!(None);

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Some)
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    nothing_of_scalars!(Vec::new());

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(Element(item)) = list.next_element::<Element<T>>()? {
            found.extend(item);
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Vec::new())
    }
}

/// One of a list.
struct Element<T>(Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        object(from).map(Element)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_of_its_kind_says_nothing_and_all_else_counts() {
        let report = json!({
            "run": "0011223344556677", "action": "polish", "result": 7, "finished": "2026-11-30T10:00:00Z", "error": { "error": "no", "code": 7 },
            "backup": { "uploaded_bytes": 5, "retries": "many", "vaults": [null, 4, { "holds": false, "more": [1] }, {}], "good": true, "whole": false },
        });
        let read = StoredReport::of(&report);
        assert_eq!((read.run.map(|run| run.to_string()), read.action), (Some("0011223344556677".into()), None));
        assert_eq!((read.result, read.why(), read.snapshot), (None, Some("no"), None));
        assert_eq!(read.error.as_ref().unwrap().code, None);
        let backup = read.backup.as_ref().unwrap();
        assert_eq!((backup.uploaded_bytes, backup.retries), (Some(5), None));
        assert_eq!(read.shortcomings(Outcome::Complete), [Outcome::IncompleteCopies, Outcome::Stale]);
        for nothing in [json!(null), json!([1]), json!("text"), json!(-7), json!(1.5), json!(true)] {
            assert_eq!(StoredReport::of(&nothing), StoredReport::default());
            let part = json!({ "error": nothing, "backup": nothing });
            assert_eq!((StoredReport::of(&part).error, StoredReport::of(&part).backup), (None, None));
            let copies = StoredReport::of(&json!({ "backup": { "vaults": nothing } })).backup.unwrap().vaults;
            assert_eq!(copies, []);
        }
        let summary = RunSummary::of(&report);
        assert_eq!(
            (summary.action.as_deref(), summary.result, summary.error.as_deref()),
            (Some("polish"), None, Some("no"))
        );
    }
}
