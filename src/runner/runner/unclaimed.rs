//! Runs that do not take place, as no vault takes a claim on what they were to serve.
//!
//! The answer to each sender has the event delivered again, and the run takes place once a vault takes the claim. So not every
//! delivery is told as a run that failed: a queue would make one of each for as long as a vault is away. But not all senders come
//! again for long: a scheduler tries a few times, a crash handler not at all. And a vault that opens and takes no claim, as after
//! the permission to create objects was revoked, looks well: nothing else would tell of it before the newest snapshot is too old.
//! So the first run of which no claim can be taken is told like any run that failed: by its report, its line in the log, the
//! health and the notifications. Those that follow are errors in the log only, until a claim is held again. A store has by then
//! been tried for all of its retry time: what passes sooner is told to nobody.
//!
//! A run of which some claims are held takes place and is told itself; what it does not serve is delivered again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::unsettled::UnsettledRun;
use super::{Answer, Runner, answer, lock};
use crate::error::Error;
use crate::job;
use crate::monitor::Context;
use crate::report::{Channel, RunId};
use crate::runner::queue::QueuedRequest;
use crate::runner::rules::gravest;

impl Runner {
    /// Reports a run as failed because of `why`, unless such a run was told since a claim was held last, or the service ends.
    /// `others` are its requests and their answers. Returns the answer to whoever asks for the run.
    pub(super) fn report_unclaimed(
        &self,
        (run, way): (RunId, Channel),
        others: &[(QueuedRequest, Arc<Answer>)],
        why: Error,
        ctx: &Context,
    ) -> Option<Arc<Answer>> {
        // A promised request has a claim, and what becomes of that is looked after.
        let failed = |(waiting, answer): &&(QueuedRequest, Arc<Answer>)| {
            matches!(**answer, Answer::Later(..)) && waiting.promised().is_none()
        };
        let failed: Vec<_> = others.iter().filter(failed).map(|(waiting, _)| &waiting.request).collect();
        let chosen = gravest(failed.iter().copied())?;
        if self.stop.load(Ordering::Relaxed)
            || std::mem::replace(&mut lock(&self.state).obligations.told_unclaimed, true)
        {
            return None;
        }
        let cause = self.cause(way, failed.iter().map(|request| request.event.clone()).collect());
        let ran = job::not_run(run, &self.rules.job(chosen, None), cause, why, &self.vaults, ctx);
        self.count((&ran.report).into());
        ran.notify(ctx);
        let answer = Arc::new(Answer::from_job(&ran));
        self.keep(UnsettledRun { ran, claims: Vec::new(), promised: false });
        Some(answer)
    }

    /// Notes that a vault takes claims: the next run of which none can be taken is told.
    pub(super) fn claim_is_held(&self) {
        lock(&self.state).obligations.told_unclaimed = false;
    }

    /// Answers requests that a run does not serve. Returns the last answer.
    pub(super) fn answer_all(&self, others: Vec<(QueuedRequest, Arc<Answer>)>) -> Option<Arc<Answer>> {
        let mut last = None;
        for (waiting, answer) in others {
            let owed = self.watched_promise(&waiting);
            lock(&self.state).obligations.taken.extend(owed);
            answer::tell(waiting.answer, &answer);
            last = Some(answer);
        }
        last
    }
}
