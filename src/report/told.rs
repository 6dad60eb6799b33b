//! A report's JSON as it is handed on.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::stored::{RunSummary, StoredReport};
use super::{Action, Outcome, Report, ReportedError, RunId};
use crate::error::{Error, Result};

/// A report's JSON, encoded once however many are sent it, as it may have 16 MiB; and the little of it that the program itself
/// goes by, parsed once.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedReport {
    json: Bytes,
    stored: Arc<StoredReport>,
}

impl EncodedReport {
    /// Encodes a run's report.
    pub fn of(report: &Report) -> Self {
        let encoded = report.encode().and_then(|json| Self::parse(json, report.trouble()).map_err(super::not_encoded));
        // Never an error, for what a run makes.
        encoded.unwrap_or_else(|why| {
            let error = ReportedError::from(&why);
            let stored = StoredReport {
                run: Some(report.run),
                action: Some(report.action),
                result: Some(report.result),
                error: Some((&error).into()),
                ..StoredReport::default()
            };
            let json = json!({ "run": report.run, "error": error });
            EncodedReport { json: json.to_string().into(), stored: stored.into() }
        })
    }

    /// Stands in for the report of a run of which nothing but its id is known.
    pub fn bare(run: RunId) -> Self {
        let stored = StoredReport { run: Some(run), ..StoredReport::default() };
        EncodedReport { json: json!({ "run": run }).to_string().into(), stored: stored.into() }
    }

    /// Reads a report that was stored.
    ///
    /// # Errors
    /// It is no JSON document.
    pub fn read(json: Vec<u8>) -> serde_json::Result<Self> {
        Self::parse(json, None)
    }

    fn parse(json: Vec<u8>, trouble: Option<String>) -> serde_json::Result<Self> {
        let stored = StoredReport { trouble, ..serde_json::from_slice(&json)? };
        Ok(EncodedReport { json: json.into(), stored: stored.into() })
    }

    /// The JSON.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// All of it, to be looked into.
    pub fn value(&self) -> Value {
        // It was read, or written, before.
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The parts that a list shows, in the words of the program that wrote it.
    ///
    /// # Errors
    /// Damage: a part is there twice.
    pub fn summary(&self) -> Result<RunSummary> {
        serde_json::from_slice(&self.json).map_err(|why| Error::damage("read the summary of a report", why))
    }

    /// What it says of its run.
    pub fn stored(&self) -> &StoredReport {
        &self.stored
    }

    /// The run that it is about.
    pub fn run(&self) -> Option<RunId> {
        self.stored.run
    }

    /// How the run ended, and what it was for; `None` if it does not say.
    pub fn ended(&self) -> Option<(Outcome, Action)> {
        self.stored.result.zip(self.stored.action)
    }

    /// What is not as it should be about the snapshot that was taken.
    pub fn trouble(&self) -> Option<&str> {
        self.stored.trouble.as_deref()
    }

    /// The error that it names.
    pub fn error(&self) -> Option<&str> {
        let error = self.stored.error.as_ref()?;
        Some(error.error.as_deref().unwrap_or("its report says why"))
    }

    /// Whether the run may succeed when what it was for is asked for again.
    pub fn retry(&self) -> bool {
        self.ended().is_some_and(|(outcome, action)| !outcome.stays(action))
    }
}
