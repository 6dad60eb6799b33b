//! What has been run so far, for metrics and for the health.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::report::{Action, JobOutput, Outcome, Report, RunId};

/// The last run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastRun {
    /// Which it was.
    pub run: RunId,
    /// What it was for.
    pub action: Action,
    /// How it ended.
    pub result: Outcome,
    /// When.
    pub finished: Timestamp,
    /// What went wrong.
    pub error: Option<String>,
}

/// What has been run so far, for metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunStats {
    /// Runs by what they were for and how they ended.
    pub runs: BTreeMap<(&'static str, &'static str), u64>,
    /// Seconds that they took, by what they were for.
    pub seconds: BTreeMap<&'static str, f64>,
    /// Bytes that backups created.
    pub uploaded: u64,
    /// Requests to stores that were made again.
    pub retries: u64,
    /// When an action last succeeded.
    pub success: BTreeMap<&'static str, Timestamp>,
}

/// What is counted of a run that ended.
#[derive(Debug, PartialEq)]
pub struct EndedRun {
    last: LastRun,
    started: Timestamp,
    uploaded: u64,
    retries: u64,
}

impl From<&Report> for EndedRun {
    fn from(report: &Report) -> Self {
        let &Report { run, action, result, started, finished, .. } = report;
        let error = report.error.as_ref().map(|failure| failure.error.clone());
        let (uploaded, retries) = match &report.done {
            Some(JobOutput::Backup(done)) => {
                (done.taken.uploaded_bytes, done.taken.traffic.map_or(0, |traffic| traffic.retries))
            }
            Some(JobOutput::Restore(_) | JobOutput::Verify(_)) | None => (0, 0),
        };
        EndedRun { last: LastRun { run, action, result, finished, error }, started, uploaded, retries }
    }
}

impl EndedRun {
    /// Of a report that another process wrote; none where it is no report.
    pub fn read(report: &Value) -> Option<Self> {
        #[derive(Deserialize)]
        struct StoredRun {
            run: RunId,
            action: Action,
            result: Outcome,
            started: Timestamp,
            finished: Timestamp,
        }
        let StoredRun { run, action, result, started, finished } = StoredRun::deserialize(report).ok()?;
        let error = report["error"]["error"].as_str().map(str::to_owned);
        let backup = &report["backup"];
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let (uploaded, retries) = (number(&backup["uploaded_bytes"]), number(&backup["traffic"]["retries"]));
        Some(EndedRun { last: LastRun { run, action, result, finished, error }, started, uploaded, retries })
    }

    /// How it ended, and what it was for.
    pub fn outcome(&self) -> (Outcome, Action) {
        (self.last.result, self.last.action)
    }
}

impl RunStats {
    /// Counts a run; gives what is kept of it.
    pub fn count(&mut self, ended: EndedRun) -> LastRun {
        let EndedRun { last, started, uploaded, retries } = ended;
        let action = last.action.name();
        *self.runs.entry((action, last.result.name())).or_default() += 1;
        *self.seconds.entry(action).or_default() += last.finished.duration_since(started).as_secs_f64();
        if last.result == Outcome::Complete {
            self.success.insert(action, last.finished);
        }
        self.uploaded = self.uploaded.saturating_add(uploaded);
        self.retries = self.retries.saturating_add(retries);
        last
    }
}
