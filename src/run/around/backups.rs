//! The backups of a term: what asks for them, and how they ended.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{Around, RunEvent};
use crate::error::{Doing, Result};
use crate::events::decoded::RunRequest;
use crate::events::labels;
use crate::report::{Action, Channel, Event, Outcome, RunId};
use crate::restore::report::RestoreReport;
use crate::run::fit::LAST;
use crate::run::freshness::{FreshnessNews, FreshnessWatch};
use crate::runner::answer::Answer;
use crate::vault::root::{BackupReason, SnapshotName};

/// What asks for a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupCause {
    /// The app has just started on data that is newer than the newest snapshot.
    Start,
    /// It was time.
    Schedule,
    /// SIGUSR1.
    Signal,
    /// The app failed; how.
    Crash(String),
    /// A line of the app's output.
    Output(String),
    /// The app has stopped writing, or a critical file is gone.
    Stale(String),
    /// The end of the app, of this program, of the term or of its epoch.
    Shutdown,
    /// Somebody else, by a request or a message. The runner has it from there.
    Request,
}

/// A backup that is over.
pub struct SavedBackup {
    /// The run.
    pub run: RunId,
    /// What asked for it.
    pub cause: BackupCause,
    /// How it ended.
    pub answer: Arc<Answer>,
    /// The snapshot that is committed, and whether it is good, if that is all that is known: it is not over.
    pub unfinished: Option<(SnapshotName, bool)>,
}

impl SavedBackup {
    /// Whether a snapshot was committed.
    pub fn is_committed(&self) -> bool {
        self.unfinished.is_some()
            || matches!(&*self.answer, Answer::Done { outcome, .. } if outcome.stays(Action::Backup))
    }

    /// The snapshot that was committed.
    pub fn snapshot(&self) -> Option<SnapshotName> {
        match &*self.answer {
            Answer::Done { report, .. } if self.is_committed() => report.stored().snapshot,
            _ => self.unfinished.map(|(snapshot, _)| snapshot),
        }
    }

    /// The snapshot, if it is good.
    pub fn good_snapshot(&self) -> Option<SnapshotName> {
        match &*self.answer {
            Answer::Done { outcome: Outcome::Complete | Outcome::Stale | Outcome::IncompleteCopies, .. } => {
                self.snapshot()
            }
            _ => self.unfinished.filter(|(_, good)| *good).map(|(snapshot, _)| snapshot),
        }
    }

    /// How long it took, if a snapshot was committed.
    fn took(&self) -> Option<Duration> {
        let Answer::Done { report, .. } = &*self.answer else { return None };
        report.stored().took().filter(|_| self.is_committed())
    }

    /// Why none was, or what is wrong with it. `None` if all is well.
    pub fn trouble(&self) -> Option<String> {
        match &*self.answer {
            Answer::Done { outcome: Outcome::Complete, .. } | Answer::Before(_) => None,
            Answer::Done { outcome, report, .. } => {
                let why = report.error().or(report.trouble()).map(|why| format!(": {why}")).unwrap_or_default();
                Some(format!("the run {} ended as {outcome}{why}", self.run))
            }
            Answer::Elsewhere(_) => Some("another instance serves it".into()),
            Answer::Later(why, _) | Answer::Refused(why) => Some(why.clone()),
        }
    }
}

impl BackupCause {
    fn reason(&self) -> BackupReason {
        match self {
            BackupCause::Start | BackupCause::Request => BackupReason::Manual,
            BackupCause::Schedule => BackupReason::Schedule,
            BackupCause::Signal | BackupCause::Crash(_) | BackupCause::Output(_) | BackupCause::Stale(_) => {
                BackupReason::Critical
            }
            BackupCause::Shutdown => BackupReason::Shutdown,
        }
    }

    /// The type of the event that asks for it.
    fn kind(&self) -> &'static str {
        match self {
            BackupCause::Start => "dev.lastgood.run.start",
            BackupCause::Schedule => "dev.lastgood.run.schedule",
            BackupCause::Signal => "dev.lastgood.run.signal",
            BackupCause::Crash(_) => "dev.lastgood.run.crash",
            BackupCause::Output(_) => "dev.lastgood.run.output",
            BackupCause::Stale(_) => "dev.lastgood.run.stale",
            BackupCause::Shutdown => "dev.lastgood.run.shutdown",
            BackupCause::Request => "dev.lastgood.run.request",
        }
    }

    fn message(&self) -> Option<&str> {
        match self {
            BackupCause::Crash(message) | BackupCause::Output(message) | BackupCause::Stale(message) => Some(message),
            BackupCause::Signal => Some("SIGUSR1"),
            BackupCause::Start | BackupCause::Schedule | BackupCause::Shutdown | BackupCause::Request => None,
        }
    }
}

impl Around {
    /// Asks for a backup that begins after now; its end is a [`RunEvent::Saved`]. Returns the run that will take it. `None`, with an
    /// error in the log, if none can be taken.
    pub(super) fn back_up(&self, cause: BackupCause) -> Option<RunId> {
        let reason = cause.reason();
        let message = cause.message().map(str::to_owned);
        let output = self.output.as_ref().filter(|_| reason == BackupReason::Critical);
        let output = output.map(|output| output.last_lines().join("\n")).filter(|lines| !lines.is_empty());
        let attached = message.iter().map(|message| ("message".to_owned(), message.clone()));
        let event = Event {
            kind: Some(cause.kind().into()),
            time: Some(Timestamp::now()),
            severity: (reason == BackupReason::Critical).then(|| "CRITICAL".into()),
            message: message.clone(),
            service: self.settings.rules.backup.service.clone(),
            output,
            ..Event::default()
        };
        let labels = labels::fit(attached, 0);
        let request = RunRequest { action: Action::Backup, reason, labels, snapshot: None, event };
        let last = matches!(cause, BackupCause::Crash(_) | BackupCause::Shutdown);
        let submitted = match last {
            true => self.runner.submit_last(request, Channel::Run),
            false => self.runner.submit(request, Channel::Run),
        };
        match submitted {
            Ok(ticket) => {
                let run = ticket.run;
                match self.await_backup(run, cause, ticket.into_receiver()) {
                    Ok(()) => Some(run),
                    Err(why) => {
                        tracing::error!("{why}");
                        None
                    }
                }
            }
            Err(answer) => {
                tracing::error!("no snapshot is taken: {}", answer.why());
                None
            }
        }
    }

    /// Tells what is wrong with a backup that is over, if the runner leaves that to this: of the one after the app's crash.
    pub(super) fn tell_trouble(&self, saved: &SavedBackup) {
        if let (BackupCause::Crash(_), Some(trouble)) = (&saved.cause, saved.trouble()) {
            tracing::error!("the backup after the app's crash is not as it should be: {trouble}");
        }
    }

    /// Warns, once, if a last snapshot will take longer than there is time for it.
    pub(super) fn watch_time(&self, saved: &SavedBackup) {
        let Some(took) = saved.took() else { return };
        let time = self.settings.grace.saturating_sub(LAST);
        let mut fit = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        fit.backup_took(took, time).iter().for_each(|warning| tracing::warn!("{warning}"));
    }

    /// Warns, once, if a start with such a restore will take longer than Cloud Run gives it.
    pub(super) fn watch_start(&self, restored: &RestoreReport) {
        if self.settings.rules.place.service.is_none() {
            return;
        }
        let took = Duration::try_from_secs_f64(restored.seconds).unwrap_or_default();
        let mut fit = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        let warning = fit.restore_took(took, restored.bytes, self.settings.handover);
        warning.iter().for_each(|warning| tracing::warn!("{warning}"));
    }

    /// Watches the data while the app runs.
    pub(super) fn watch_data(&self) -> Option<FreshnessWatch> {
        let send = self.send.clone();
        // The receiver lives as long as the program.
        let tell = move |news| _ = send.send(RunEvent::Data(news));
        FreshnessWatch::begin(&self.settings.freshness, tell).unwrap_or_else(|why| {
            tracing::error!("nobody watches whether the app writes: {why}");
            None
        })
    }

    /// Takes news of the data.
    pub(super) fn data_news(&self, news: FreshnessNews) {
        match news {
            FreshnessNews::Wrong(what) => {
                tracing::error!("{what}");
                if self.settings.freshness.saves && !self.settings.detached {
                    self.back_up(BackupCause::Stale(what));
                }
            }
            FreshnessNews::Well(what) => tracing::info!("{what}"),
        }
    }

    /// Waits for the end of a backup on a thread of its own.
    fn await_backup(&self, run: RunId, cause: BackupCause, answer: oneshot::Receiver<Arc<Answer>>) -> Result<()> {
        let (send, term) = (self.send.clone(), self.term.clone());
        let wait = move || {
            let answer = answer.blocking_recv().unwrap_or_else(|_| Arc::new(Answer::shutting_down()));
            let saved = SavedBackup { run, cause, answer, unfinished: None };
            // Asked here: a vault that does not answer must not keep the app's events waiting.
            if saved.is_committed() {
                // One that was known to be diverged looks like no other.
                term.look_after_commit(if term.is_lost() { saved.good_snapshot() } else { saved.snapshot() });
            }
            // The receiver lives as long as the program.
            let _ = send.send(RunEvent::Saved(saved));
        };
        thread::Builder::new().name("saved".into()).spawn(wait).doing(|| "start a thread that waits for a backup")?;
        Ok(())
    }
}
