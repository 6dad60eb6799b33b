//! The answers to requests: how far a run is, and how a request is answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::claims::idempotent;
use crate::job::FinishedJob;
use crate::report::{Action, EncodedReport, Outcome, Report, RunId};

/// How a request was answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A run served it.
    Done {
        /// How it ended.
        outcome: Outcome,
        /// Whether it may succeed if it is asked for again.
        retry: bool,
        /// The report.
        report: EncodedReport,
    },
    /// It was served before, by the run of this report.
    Before(EncodedReport),
    /// Another instance serves it; it may be asked again after this time.
    Elsewhere(Duration),
    /// Not now, for this reason; it may be asked again after this time.
    Later(String, Duration),
    /// Never, for this reason.
    Refused(String),
}

/// How far a run is.
#[derive(Debug, Clone)]
pub enum RunProgress {
    /// It waits for its turn.
    Waiting,
    /// It is under way.
    Running,
    /// It is over.
    Over(Arc<Answer>),
}

impl RunProgress {
    /// How many bytes of a report this keeps.
    pub(super) fn bytes(&self) -> usize {
        match self {
            RunProgress::Over(answer) => answer.bytes(),
            RunProgress::Waiting | RunProgress::Running => 0,
        }
    }
}

/// A request that was taken, and waits for its answer.
pub struct Ticket {
    /// The run that will serve it, unless another one does.
    pub run: RunId,
    pub(super) answer: oneshot::Receiver<Arc<Answer>>,
}

impl Ticket {
    /// The answer, for a thread to wait for.
    pub fn into_receiver(self) -> oneshot::Receiver<Arc<Answer>> {
        self.answer
    }

    /// Waits for the answer.
    pub async fn answer(self) -> Arc<Answer> {
        self.answer.await.unwrap_or_else(|_| Arc::new(Answer::shutting_down()))
    }

    /// Waits for the answer, for at most `limit`: what is left of the time that a request may take where a job does the runs. The
    /// run goes on, and a redelivery finds it.
    pub async fn answer_within(self, limit: Option<Duration>) -> Arc<Answer> {
        match limit {
            None => self.answer().await,
            Some(limit) => {
                tokio::time::timeout(limit, self.answer()).await.unwrap_or_else(|_| Arc::new(Answer::not_yet()))
            }
        }
    }
}

/// Sends `answer` to a request. A sender who hung up does not get it.
pub(super) fn tell(to: oneshot::Sender<Arc<Answer>>, answer: &Arc<Answer>) {
    let _ = to.send(answer.clone());
}

impl From<idempotent::EventOutcome> for Answer {
    fn from(answer: idempotent::EventOutcome) -> Self {
        match answer {
            idempotent::EventOutcome::Before(before) => {
                Answer::Before(before.report.unwrap_or_else(|| EncodedReport::bare(before.run)))
            }
            idempotent::EventOutcome::Elsewhere { retry_after, .. } => Answer::Elsewhere(retry_after),
            idempotent::EventOutcome::Now(ran) => Answer::from_job(&ran),
        }
    }
}

impl Answer {
    /// The answer to a request whose run does not end in time.
    pub fn not_yet() -> Answer {
        Answer::Elsewhere(AGAIN)
    }

    /// The reason for the answer, for people.
    pub fn why(&self) -> String {
        match self {
            Answer::Done { outcome, .. } => format!("it is {outcome}"),
            Answer::Before(report) => {
                let run = report.run().map(|run| run.to_string());
                format!("the run {} has served it", run.unwrap_or_default())
            }
            Answer::Elsewhere(_) => "another run serves it".into(),
            Answer::Later(why, _) | Answer::Refused(why) => why.clone(),
        }
    }

    /// The answer that a finished run gives.
    pub(super) fn from_job(ran: &FinishedJob) -> Self {
        Answer::from_report(&ran.report)
    }

    /// The answer that a run with this report gives.
    pub(super) fn from_report(report: &Report) -> Self {
        Answer::done((report.result, report.action), EncodedReport::of(report))
    }

    /// The answer that a run's stored report gives. `None` if it is not a report.
    pub(super) fn read(report: EncodedReport) -> Option<Self> {
        Some(Answer::done(report.ended()?, report))
    }

    fn done((outcome, action): (Outcome, Action), report: EncodedReport) -> Self {
        Answer::Done { outcome, retry: !outcome.stays(action), report }
    }

    /// How many bytes of a report this keeps.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Answer::Done { report, .. } | Answer::Before(report) => report.json().len(),
            Answer::Elsewhere(_) | Answer::Later(..) | Answer::Refused(_) => 0,
        }
    }

    /// The answer to a request that would share a run with more than the run can take.
    pub(super) fn run_is_full() -> Self {
        Answer::Later("the run that it would share is full".into(), Duration::from_secs(10))
    }

    /// The answer for an event whose run has ended here without serving it, which the vault does not say yet.
    pub(super) fn not_noted(run: RunId) -> Self {
        let why = format!("the run {run} has ended, and its vault cannot be written to, so that nothing says so yet");
        Answer::Later(why, Duration::from_secs(10))
    }

    /// The answer of a service that is told to stop.
    pub fn shutting_down() -> Self {
        Answer::Later("the service ends".into(), Duration::from_secs(10))
    }
}

/// When a request may be repeated whose event is served by a run that is away.
pub(crate) const AGAIN: Duration = Duration::from_secs(60);

/// A hint how to find out whether a run was done that did not live to tell.
pub(crate) fn how_to_look(action: Action) -> &'static str {
    match action {
        Action::Backup => "Look whether there is a snapshot of that time in one of the vaults: `lastgood list`. ",
        Action::Restore => {
            "Look into the data directory: what a restore has replaced lies beside it or in it, in a folder with `.replaced-` and the \
             time in its name. "
        }
        Action::Verify => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn whether_to_try_again_is_the_same_while_a_run_is_remembered_and_from_its_stored_report() {
        let results = [
            Outcome::Complete,
            Outcome::Stale,
            Outcome::IncompleteCopies,
            Outcome::Partial,
            Outcome::Suspect,
            Outcome::Unsound,
            Outcome::Damaged,
            Outcome::Failed,
            Outcome::Refused,
        ];
        for (action, result) in
            results.map(|result| [Action::Backup, Action::Restore, Action::Verify].map(|a| (a, result))).concat()
        {
            let report = sample::report(action, result);
            let stored = EncodedReport::read(report.encode().unwrap()).unwrap();
            let Answer::Done { retry, .. } = Answer::from_report(&report) else { panic!("{report:?}") };
            assert_eq!((stored.retry(), stored.ended()), (retry, Some((result, action))));
            let Some(Answer::Done { retry: again, .. }) = Answer::read(stored) else { panic!("{report:?}") };
            assert_eq!(again, retry, "{action:?} {result:?}");
        }
    }
}
