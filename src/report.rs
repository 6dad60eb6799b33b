//! What a run did, as the vault keeps it under `runs/`: a failed run leaves a report, too.

mod in_store;
#[cfg(test)]
pub mod sample;
mod stored;
mod told;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Kind, Result};
use crate::replicas;
use crate::vault::hex::Hex;
use crate::vault::root::{SnapshotName, SnapshotState};

pub use self::in_store::{ReportName, find, list, newest, read, recent, that_counts, told};
pub use self::stored::{RunDetails, RunSummary, StoredError, StoredReport, WorkDetails};
pub use self::told::EncodedReport;

/// The folder of reports.
pub const RUNS: &str = "runs/";
/// The version of a report's form.
const FORMAT: u32 = 1;
/// The most bytes of one.
pub const MAX_REPORT: u64 = 16 << 20;
/// The bytes of reports that are read at the same time for a list of them.
pub const AT_ONCE: u64 = 2 * MAX_REPORT;

/// A run's random name.
pub type RunId = Hex<8>;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Take a snapshot.
    Backup,
    /// Put one back.
    Restore,
    /// Look whether all is there.
    Verify,
}

impl Action {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Action::Backup => "backup",
            Action::Restore => "restore",
            Action::Verify => "verify",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All of it was done, and what there is is good.
    Complete,
    /// A good snapshot that is not whole: something in it could not be read, and is as it was before, or missing.
    Stale,
    /// A good snapshot that one of several vaults does not hold.
    #[serde(rename = "incomplete-copies")]
    IncompleteCopies,
    /// A snapshot without some entries, or a restore that left something out, or took an older snapshot than it should have
    /// because the newer one is damaged.
    Partial,
    /// A snapshot that looks like an unmounted volume.
    Suspect,
    /// A snapshot with a database that failed its check.
    Unsound,
    /// The vault, or what was to be read of it, is damaged.
    Damaged,
    /// It was not done; the error says why.
    Failed,
    /// It will never be done: what asked for it may not, or asks for what cannot be.
    Refused,
}

impl Outcome {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Stale => "stale",
            Outcome::IncompleteCopies => "incomplete-copies",
            Outcome::Partial => "partial",
            Outcome::Suspect => "suspect",
            Outcome::Unsound => "unsound",
            Outcome::Damaged => "damaged",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
        }
    }

    /// Whether what a run came to stays so, and is not to be tried again: it was done, or would come to the same again. Of a
    /// backup, only what left a snapshot is done. Whatever else it came to, it is no fault of what asked for it: a vault can
    /// be mended, a configuration be put right.
    pub fn stays(self, action: Action) -> bool {
        match self {
            Outcome::Complete
            | Outcome::Stale
            | Outcome::IncompleteCopies
            | Outcome::Partial
            | Outcome::Suspect
            | Outcome::Unsound => true,
            Outcome::Damaged | Outcome::Refused => action != Action::Backup,
            Outcome::Failed => false,
        }
    }

    /// How an error ends a run.
    pub fn of(why: &Error) -> Self {
        match why.kind() {
            Kind::Damage => Outcome::Damaged,
            Kind::Usage => Outcome::Refused,
            Kind::Failed | Kind::Unreachable | Kind::NothingYet => Outcome::Failed,
            Kind::Unneeded => Outcome::Complete,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The way by which a run was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Somebody's shell, or a script.
    #[default]
    CommandLine,
    /// A Cloud Run job.
    CloudRunJob,
    /// A request to `lastgood serve`.
    Http,
    /// A message that `lastgood listen` pulled.
    PubSub,
    /// `lastgood run`: the start, the time, the end or a crash of the app.
    Run,
}

/// What asked for a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What makes a redelivery of it known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Its type, or what kind of message it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// When it was sent, or came in if it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// What the app says of the error: `CRITICAL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// And in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Whatever else it carries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The last lines that the app wrote before it, with what looks like a secret masked. It is kept in the vault, and in no
    /// notification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// Where a run took place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnvironment {
    /// The host's name.
    pub host: String,
    /// The program and its version.
    pub writer: String,
    /// `CLOUD_RUN_EXECUTION`: the execution of a Cloud Run job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
    /// `CLOUD_RUN_TASK_INDEX`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// `CLOUD_RUN_TASK_ATTEMPT`: 0 for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// `K_SERVICE`: the Cloud Run service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `K_REVISION`: its revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// An error, as a report keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedError {
    /// What was being done and why it failed.
    pub error: String,
    /// `usage`, `failed`, `unreachable`, `damage` or `nothing-yet`.
    pub kind: String,
    /// The word for what went wrong: [`crate::error::Code`]. Empty in reports of programs that had no codes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Error> for ReportedError {
    fn from(why: &Error) -> Self {
        ReportedError {
            error: why.what(),
            kind: why.kind().name().to_owned(),
            code: why.word().to_owned(),
            hint: why.advice().map(str::to_owned),
        }
    }
}

/// A command that was to be run after the work, and failed. What was done stays done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookFailure {
    /// `after-backup`, `after-restore` or `on-failure`.
    pub hook: String,
    /// Why it failed.
    pub error: String,
}

/// What was done, in full.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobOutput {
    /// A snapshot was taken.
    Backup(Box<replicas::backup::ReplicatedBackupReport>),
    /// One was put back.
    Restore(Box<replicas::restore::ReplicatedRestoreReport>),
    /// Vaults were verified.
    Verify(Vec<replicas::verify::Verified>),
}

impl JobOutput {
    /// The snapshot that it is about.
    pub fn snapshot(&self) -> Option<SnapshotName> {
        match self {
            JobOutput::Backup(report) => Some(report.taken.snapshot),
            JobOutput::Restore(report) => Some(report.restored.snapshot),
            JobOutput::Verify(_) => None,
        }
    }

    /// Bytes of the objects that a backup created.
    pub fn uploaded_bytes(&self) -> Option<u64> {
        match self {
            JobOutput::Backup(report) => Some(report.taken.uploaded_bytes),
            JobOutput::Restore(_) | JobOutput::Verify(_) => None,
        }
    }

    /// All that keeps it from being complete, the worst first.
    pub fn shortcomings(&self) -> Vec<Outcome> {
        match (self, self.outcome()) {
            (JobOutput::Backup(report), _) => short_of(report),
            (_, Outcome::Complete) => Vec::new(),
            (_, outcome) => vec![outcome],
        }
    }

    /// What is not as it should be about the snapshot that was taken, for people. `None` if all is, or if none was taken.
    pub fn trouble(&self) -> Option<String> {
        let JobOutput::Backup(report) = self else { return None };
        report.taken.trouble().or_else(|| {
            let absent = report.vaults.iter().find(|copy| !copy.holds)?;
            Some(format!(
                "{} does not hold it: {}",
                absent.vault,
                absent.why.as_deref().unwrap_or("its report says why")
            ))
        })
    }

    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        match self {
            JobOutput::Backup(report) => short_of(report).first().copied().unwrap_or(Outcome::Complete),
            JobOutput::Restore(report) => match (report.restored.not_restored.is_empty(), report.restored.instead_of) {
                (true, None) => Outcome::Complete,
                _ => Outcome::Partial,
            },
            JobOutput::Verify(vaults) if vaults.iter().any(replicas::verify::Verified::damaged) => Outcome::Damaged,
            JobOutput::Verify(vaults) if vaults.iter().any(replicas::verify::Verified::incomplete) => Outcome::Failed,
            JobOutput::Verify(_) => Outcome::Complete,
        }
    }
}

/// What keeps a backup from being complete, the worst first.
fn short_of(report: &replicas::backup::ReplicatedBackupReport) -> Vec<Outcome> {
    let of_snapshot = match (report.taken.state, report.taken.good) {
        (SnapshotState::Partial, _) => Some(Outcome::Partial),
        (SnapshotState::Suspect, _) => Some(Outcome::Suspect),
        (SnapshotState::Complete, false) => Some(Outcome::Unsound),
        (SnapshotState::Complete, true) => None,
    };
    let copies = report.vaults.iter().any(|held| !held.holds).then_some(Outcome::IncompleteCopies);
    let stale = (report.taken.good && !report.taken.whole).then_some(Outcome::Stale);
    [of_snapshot, copies, stale].into_iter().flatten().collect()
}

/// What a run did.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of this form.
    pub format: u32,
    /// The run.
    pub run: RunId,
    /// What it was for.
    pub action: Action,
    /// How it ended.
    pub result: Outcome,
    /// How it was asked for.
    pub way: Channel,
    /// What asked for it; several, where they came while another run was under way and were served by one.
    pub events: Vec<Event>,
    /// Where it took place.
    pub place: RunEnvironment,
    /// When it began, by the store's clock where that could be asked.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// The snapshot that it is about.
    pub snapshot: Option<SnapshotName>,
    /// Why it failed.
    pub error: Option<ReportedError>,
    /// Commands of the user that failed after the work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hook_failures: Vec<HookFailure>,
    /// What was done.
    #[serde(flatten)]
    pub done: Option<JobOutput>,
}

impl Report {
    /// What is not as it should be about the snapshot that was taken, for people.
    pub fn trouble(&self) -> Option<String> {
        self.done.as_ref().and_then(JobOutput::trouble)
    }

    /// The name of its object.
    pub fn object(&self) -> String {
        let (started, run) = (self.started.strftime(in_store::TIME), self.run);
        format!("{RUNS}{started}-{run}-{}-{}.json", self.action.name(), self.result)
    }

    /// A report's JSON.
    ///
    /// # Errors
    /// Never, for what a run makes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).map_err(not_encoded)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The version that is written.
    pub fn format() -> u32 {
        FORMAT
    }
}

/// The error of a report that has no JSON form.
fn not_encoded(why: serde_json::Error) -> Error {
    Error::failed("encode the run's report", why).with_code(Code::Internal)
}

#[cfg(test)]
mod tests;
