//! A report's JSON as it is handed on.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Error;

use super::stored::{RunSummary, StoredReport};
use super::{Action, Outcome, Report, RunId};

/// A report's JSON: encoded once, however many are sent it, as it may have 16 MiB.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedReport {
    json: Bytes,
    run: Option<RunId>,
    ended: Option<(Outcome, Action)>,
    error: Option<String>,
}

/// The fields of a report that say how its run ended. All else is passed over, since it may be many times as large in memory.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ReportHead {
    run: Value,
    action: Value,
    result: Value,
    error: Value,
}

impl EncodedReport {
    /// That of a run.
    pub fn of(report: &Report) -> Self {
        let (run, ended) = (Some(report.run), Some((report.result, report.action)));
        let error = report.error.as_ref().map(|failure| failure.error.clone());
        // Never an error, for what a run makes.
        let said = |why: Error| json!({ "run": report.run, "error": { "error": why.what() } });
        let json = report.encode().unwrap_or_else(|why| said(why).to_string().into());
        EncodedReport { json: json.into(), run, ended, error }
    }

    /// That of a run of which nothing but its id is known.
    pub fn bare(run: RunId) -> Self {
        EncodedReport { json: json!({ "run": run }).to_string().into(), run: Some(run), ended: None, error: None }
    }

    /// One that was stored.
    ///
    /// # Errors
    /// It is no JSON document.
    pub fn read(json: Vec<u8>) -> serde_json::Result<Self> {
        let ReportHead { run, action, result, error } = serde_json::from_slice(&json)?;
        let said = |error: Value| error["error"].as_str().unwrap_or("its report says why").to_owned();
        let error = Some(error).filter(|error| !error.is_null()).map(said);
        let ended = serde_json::from_value(result).ok().zip(serde_json::from_value(action).ok());
        Ok(EncodedReport { json: json.into(), run: serde_json::from_value(run).ok(), ended, error })
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
    pub fn summary(&self) -> RunSummary {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// What it says of its run.
    pub fn stored(&self) -> StoredReport {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// Which run it tells of.
    pub fn run(&self) -> Option<RunId> {
        self.run
    }

    /// How the run ended, and what it was for; `None` if it does not say.
    pub fn ended(&self) -> Option<(Outcome, Action)> {
        self.ended
    }

    /// The error that it names.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether the run may succeed when what it was for is asked for again.
    pub fn retry(&self) -> bool {
        self.ended.is_some_and(|(outcome, action)| !outcome.stays(action))
    }
}
