//! Statistics of the runs so far, for metrics and for the health.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::report::{Action, JobOutput, Outcome, Report, RunId, StoredError, StoredReport};

/// The last run that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastRun {
    /// The run's id.
    pub run: RunId,
    /// The action that the run was for.
    pub action: Action,
    /// How the run ended.
    pub result: Outcome,
    /// When the run ended.
    pub finished: Timestamp,
    /// The error; `None` if there was none.
    pub error: Option<String>,
    /// The error's code; `None` if there was no error, or its report has no code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Statistics of the runs so far, for metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunStats {
    /// How many runs ended, by action and result.
    pub runs: BTreeMap<(&'static str, &'static str), u64>,
    /// Seconds that the runs took, by action.
    pub seconds: BTreeMap<&'static str, f64>,
    /// Bytes that backups created.
    pub uploaded: u64,
    /// Requests to stores that were repeated.
    pub retries: u64,
    /// When each action last succeeded.
    pub success: BTreeMap<&'static str, Timestamp>,
}

/// The facts about an ended run that are counted.
#[derive(Debug, PartialEq)]
pub struct EndedRun {
    last: LastRun,
    started: Timestamp,
    uploaded: u64,
    retries: u64,
}

impl LastRun {
    /// Reads a stored report. `None` if it does not say which run ended how, and when.
    pub fn read(report: &StoredReport) -> Option<Self> {
        let (error, code) = report.error.clone().map(|error| (error.error, error.code)).unwrap_or_default();
        let &StoredReport { run, action, result, finished, .. } = report;
        Some(LastRun { run: run?, action: action?, result: result?, finished: finished?, error, code })
    }
}

impl From<&Report> for EndedRun {
    fn from(report: &Report) -> Self {
        let &Report { run, action, result, started, finished, .. } = report;
        let error = report.error.as_ref().map(StoredError::from);
        let (error, code) = error.map(|error| (error.error, error.code)).unwrap_or_default();
        let (uploaded, retries) = match &report.done {
            Some(JobOutput::Backup(done)) => {
                (done.taken.uploaded_bytes, done.taken.traffic.map_or(0, |traffic| traffic.retries))
            }
            Some(JobOutput::Restore(_) | JobOutput::Verify(_)) | None => (0, 0),
        };
        EndedRun { last: LastRun { run, action, result, finished, error, code }, started, uploaded, retries }
    }
}

impl EndedRun {
    /// Reads a report that another process stored. `None` if it does not say which run ended how, and when.
    pub fn read(report: &StoredReport) -> Option<Self> {
        let (last, backup) = (LastRun::read(report)?, report.backup.as_ref());
        let uploaded = backup.and_then(|backup| backup.uploaded_bytes).unwrap_or(0);
        let retries = backup.and_then(|backup| backup.retries).unwrap_or(0);
        Some(EndedRun { last, started: report.started?, uploaded, retries })
    }

    /// How the run ended, and what it was for.
    pub fn outcome(&self) -> (Outcome, Action) {
        (self.last.result, self.last.action)
    }
}

impl RunStats {
    /// Counts a run; returns it as the last run.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{BackupOptions, backup};
    use crate::error::{Code, Error};
    use crate::monitor::system_random;
    use crate::replicas::backup::ReplicatedBackupReport;
    use crate::report::{EncodedReport, sample};
    use crate::restore::sample::context;
    use crate::store::testing::memory::MemoryStore;
    use crate::store::{RequestCounts, Traffic};
    use crate::vault::Vault;

    #[test]
    fn a_run_that_failed_has_the_same_error_and_code_by_its_report_as_by_its_stored_report() {
        let why = Error::failed("write it", "the disk is full").with_code(Code::DiskFull);
        let failed = Report { error: Some((&why).into()), ..sample::report(Action::Backup, Outcome::Failed) };
        let here = EndedRun::from(&failed);
        let (error, code) = (here.last.error.as_deref(), here.last.code.as_deref());
        assert_eq!((error, code), (Some("could not write it: the disk is full"), Some("disk-full")));
        assert_eq!(EndedRun::read(EncodedReport::of(&failed).stored()), Some(here));
        // A program that had no codes wrote none.
        let stored = String::from_utf8(failed.encode().unwrap()).unwrap().replace(r#","code":"disk-full""#, "");
        let last = LastRun::read(EncodedReport::read(stored.into()).unwrap().stored()).unwrap();
        assert!(last.error.is_some() && last.code.is_none(), "{last:?}");
        assert!(!serde_json::to_string(&last).unwrap().contains("code"));
    }

    #[test]
    fn a_run_counts_the_same_by_its_report_as_by_its_stored_report() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("a"), "content").unwrap();
        let vault = Vault::init(Box::new(MemoryStore::default()), system_random).unwrap();
        let options = BackupOptions { data: data.path().to_path_buf(), ..BackupOptions::default() };
        let mut taken = backup(&vault, &options, &context()).unwrap();
        let requests = RequestCounts { create: 4, ..RequestCounts::default() };
        taken.traffic = Some(Traffic { requests, retries: 3, sent: 9, received: 0 });
        let snapshot = Some(taken.snapshot);
        let done = ReplicatedBackupReport { taken, vault: "memory".into(), vaults: Vec::new() };
        let done = Some(JobOutput::Backup(Box::new(done)));
        let report = Report { snapshot, done, ..sample::report(Action::Backup, Outcome::Complete) };
        let here = EndedRun::from(&report);
        assert!(here.retries == 3 && here.uploaded > 0);
        // A run that a job did is known by the report that it stored.
        let stored = EncodedReport::read(report.encode().unwrap()).unwrap();
        assert_eq!(EndedRun::read(stored.stored()), Some(here));
    }
}
