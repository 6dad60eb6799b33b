//! Promises of runs: requests that are noted in a vault for senders who go away, and what their claims come to when their runs
//! begin.

use std::sync::Arc;
use std::time::Duration;

use super::claimed::{ClaimResult, Claimed, FirstClaimFindings};
use super::{Answer, Runner, Ticket, lock, received};
use crate::claims::folder::Promise;
use crate::claims::idempotent::{self, ClaimAttempt, ClaimStatus, HeldClaim};
use crate::claims::lease::Claimant;
use crate::events::decoded::RunRequest;
use crate::job;
use crate::monitor::Context;
use crate::report::{Action, Channel, RunId};
use crate::runner::queue::{PromiseState, Queue, QueuedRequest};

/// The prefix of the identities that are given to requests without one: nobody else can have the same.
const OWN: &str = "lastgood-request:";

/// A request that was not noted in a vault.
pub enum NotPromised {
    /// The request was not taken at all.
    Answered(Answer),
    /// The request was taken, and its answer has to be waited for.
    Waits(Ticket),
}

impl From<Answer> for NotPromised {
    fn from(answer: Answer) -> Self {
        NotPromised::Answered(answer)
    }
}

impl From<Ticket> for NotPromised {
    fn from(ticket: Ticket) -> Self {
        NotPromised::Waits(ticket)
    }
}

/// A request whose claim is being entered. When this is dropped, also in a panic, the request becomes one like any other: nothing
/// waits for its claim.
struct ClaimingGuard<'d> {
    runner: &'d Runner,
    run: RunId,
    identity: &'d str,
}

impl ClaimingGuard<'_> {
    /// Notes the claim that is held for the request. Returns whether the request still waits.
    fn made(self, held: Arc<HeldClaim>) -> bool {
        self.over(|queue, run, identity| queue.claimed(run, identity, PromiseState::Made(held)))
    }

    /// Takes the request off the queue.
    fn withdraw(self) -> Option<QueuedRequest> {
        self.over(|queue, run, identity| queue.withdraw(run, identity))
    }

    fn over<T>(self, end: impl FnOnce(&mut Queue, RunId, &str) -> T) -> T {
        let ended = self.end(end);
        std::mem::forget(self);
        ended
    }

    fn end<T>(&self, end: impl FnOnce(&mut Queue, RunId, &str) -> T) -> T {
        let ended = end(&mut lock(&self.runner.state).queue, self.run, self.identity);
        self.runner.changed.notify_all();
        ended
    }
}

impl Drop for ClaimingGuard<'_> {
    fn drop(&mut self) {
        self.end(|queue, run, identity| queue.claimed(run, identity, PromiseState::None));
    }
}

impl Runner {
    /// Goes on with the claim of a promise whose run begins now. It may have waited for so long that another instance has
    /// reported it as not served, or has taken it over as it got the event as well; then the runner looks later for what becomes
    /// of it, for the report that its sender may ask for.
    pub(super) fn begin_promised(&self, held: &Arc<HeldClaim>, waiting: &QueuedRequest, ctx: &Context) -> ClaimResult {
        let Some(identity) = waiting.request.event.identity.clone() else { return Ok(Claimed::Promised(held.clone())) };
        // Nobody else can have taken it over.
        let is_own = identity.starts_with(OWN);
        let later = |why: String| Answer::Later(why, Duration::from_secs(30));
        let claimant = self.promised_claimant(identity, held.claim().run(), &waiting.request, waiting.way);
        let taken = held.status().and_then(|standing| match standing {
            ClaimStatus::Failed => Ok(Err(later("another instance has reported it as failed".into()))),
            ClaimStatus::Done(before) => Ok(Err(idempotent::EventOutcome::Before(before).into())),
            ClaimStatus::Running if is_own => Ok(Ok(Claimed::Promised(self.renewed(held, waiting)))),
            ClaimStatus::Running | ClaimStatus::Elsewhere => {
                let taken = held.reacquire(&claimant, &self.own_cause(waiting), &self.vaults, ctx)?;
                Ok(match taken {
                    ClaimAttempt::Held(held) => Ok(Claimed::Held(held)),
                    ClaimAttempt::Not(answer) => Err(self.answer_by_claim(answer)),
                    ClaimAttempt::NoVault => Err(later("the vault does not open".into())),
                })
            }
        });
        let answer = match taken {
            Ok(Ok(claimed)) => return Ok(claimed),
            Ok(Err(answer)) => answer,
            // A backup asks again before it commits, and a verification does no harm.
            Err(why) if waiting.request.action != Action::Restore => {
                tracing::warn!("cannot see whether another run serves an event: {}", why.what());
                return Ok(if is_own { Claimed::Promised(held.clone()) } else { Claimed::Held(held.clone()) });
            }
            Err(why) => later(why.what()),
        };
        tracing::warn!("the run {}, which was promised, is not begun: {}", waiting.run, answer.why());
        Err(Arc::new(answer))
    }

    /// The claim of a promise whose run begins now, renewed if a job does the runs; nobody else can have taken it over. A job
    /// counts its time from the claim on, and the request may have had to wait for long.
    fn renewed(&self, held: &Arc<HeldClaim>, waiting: &QueuedRequest) -> Arc<HeldClaim> {
        let event = &waiting.request.event;
        let Some(identity) = event.identity.clone().filter(|_| self.rules.dispatch.is_some()) else {
            return held.clone();
        };
        let claimant = self.promised_claimant(identity, held.claim().run(), &waiting.request, waiting.way);
        match held.renew(&claimant, &self.vaults) {
            Ok(Some(renewed)) => Arc::new(renewed),
            Ok(None) => held.clone(),
            Err(why) => {
                tracing::warn!(
                    "the claim {} could not be renewed, and keeps its age: {}",
                    held.claim().name(),
                    why.what()
                );
                held.clone()
            }
        }
    }

    /// The claimant of an event for a run that is promised.
    pub(super) fn promised_claimant(
        &self,
        identity: String,
        run: RunId,
        request: &RunRequest,
        way: Channel,
    ) -> Claimant {
        let (action, reason, event) = (request.action, request.reason, request.event.clone());
        let promise = Promise { action, reason, way, event, seconds: self.rules.longest_wait().as_secs() };
        Claimant { promise: Some(Box::new(promise)), ..self.claimant(identity, action, run) }
    }

    /// Takes a request from somebody who does not wait for its run, and whom nothing makes ask again. Once this returns the run's
    /// id, the request is noted in a vault, and whatever becomes of it has a report. It blocks until then. Meanwhile the request
    /// waits for nobody but this call, so that it is neither served nor answered otherwise.
    ///
    /// # Errors
    /// If the request is not noted: the answer, or the ticket to wait for it with.
    pub fn promise(&self, request: RunRequest, way: Channel) -> Result<RunId, NotPromised> {
        let mut request = received(request);
        if request.event.identity.is_none() {
            let id = self.context(job::new_run).map_err(|why| Answer::Later(why.what(), Duration::from_secs(10)))?;
            request.event.identity = Some(format!("{OWN}{id}"));
        }
        let asked = request.clone();
        let Some(identity) = asked.event.identity.clone() else { return Err(self.submit(request, way)?.into()) };
        if let Some(before) = self.done_here(&identity) {
            return Err(before.into());
        }
        let ticket = self.enqueue(request, (way, false), PromiseState::Claiming)?;
        let claiming = ClaimingGuard { runner: self, run: ticket.run, identity: &identity };
        let claimant = self.promised_claimant(identity.clone(), ticket.run, &asked, way);
        let cause = self.cause(way, vec![asked.event]);
        match self.context(|ctx| self.take(&claimant, &cause, &FirstClaimFindings::default(), ctx)) {
            Ok(ClaimAttempt::Held(held)) => {
                if claiming.made(held.clone()) {
                    return Ok(ticket.run);
                }
                // The service was told to stop meanwhile, and has answered all that waited.
                self.context(|ctx| held.give_up(&self.vaults, ctx));
                Err(Answer::shutting_down().into())
            }
            Ok(ClaimAttempt::Not(answer)) => {
                let answer = self.answer_by_claim(answer);
                if let Some(waiting) = claiming.withdraw() {
                    lock(&self.state).dismiss(waiting, &Arc::new(answer.clone()));
                }
                Err(answer.into())
            }
            Ok(ClaimAttempt::NoVault) => Err(ticket.into()),
            Err(why) => {
                tracing::warn!("a request could not be noted in a vault before its run: {}", why.what());
                Err(ticket.into())
            }
        }
    }
}
