//! The claims of requests that share a run: entered before it, settled after it.
//!
//! Several claims are entered or settled at a time: a burst of events may bring hundreds, and between SIGTERM and the end there
//! are only seconds.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::unsettled::UnsettledRun;
use super::{Answer, RunProgress, Runner, events_of};
use crate::claims::idempotent::{self, AT_ONCE, ClaimAttempt, HeldClaim};
use crate::claims::lease::{ClaimIdentity, Claimant};
use crate::error::{Error, Result};
use crate::job::{self, FinishedJob, Origin};
use crate::monitor::Context;
use crate::parallel::ordered::map_ordered;
use crate::replicas;
use crate::report::{Action, Channel, RunId};
use crate::runner::queue::QueuedRequest;

/// How others are kept from serving an event meanwhile.
#[derive(Clone)]
pub(super) enum Claimed {
    /// A claim.
    Held(Arc<HeldClaim>),
    /// A claim for a promised request, which nobody sends again: no other run can take it over, and its age does not matter.
    Promised(Arc<HeldClaim>),
    /// Nothing, as there was no vault: the event is claimed when there is one.
    Late(Claimant),
    /// Nothing, as the event could not be told from another one.
    Nothing,
}

impl Claimed {
    pub fn held(&self) -> Option<Arc<HeldClaim>> {
        match self {
            Claimed::Held(held) | Claimed::Promised(held) => Some(held.clone()),
            Claimed::Late(_) | Claimed::Nothing => None,
        }
    }

    /// The claim that a run checks before it commits, as another run may have taken it over. `None` if no other run can.
    pub fn contested(&self) -> Option<Arc<HeldClaim>> {
        match self {
            Claimed::Promised(_) => None,
            other => other.held(),
        }
    }
}

/// The outcome of settling a claim: the answer, if it is another than the run itself; and the claim, if it does not yet say how
/// the run ended.
pub(super) type Settlement = (Option<idempotent::EventOutcome>, Option<Arc<HeldClaim>>);

/// The outcome of claiming an event: what is held, or the answer if the run is not to serve it.
pub(super) type ClaimResult = Result<Claimed, Arc<Answer>>;

/// Findings of the first of several claims for the others, each of which would otherwise have to wait as long.
#[derive(Default)]
pub(super) struct FirstClaimFindings {
    /// Whether a vault was made, as there was none.
    made: OnceLock<bool>,
    /// Why nothing can be claimed at all: there is no vault (`None`), or none takes a claim (the answer).
    gone: OnceLock<Option<Arc<Answer>>>,
    /// The first error by which a claim was not taken.
    failed: OnceLock<Error>,
}

impl Runner {
    /// Claims the events of requests for a run. An event that was delivered again and again while it waited is claimed once.
    /// Returns what came of each claim, in the order of the requests, and the first error by which one could not be taken.
    pub(super) fn claim_all(
        &self,
        run: RunId,
        group: &[QueuedRequest],
        ctx: &Context,
    ) -> (Vec<ClaimResult>, Option<Error>) {
        let (mut events, mut known) = (Vec::new(), HashMap::new());
        let mut place = |waiting| {
            events.push(waiting);
            events.len() - 1
        };
        let places: Vec<_> = group
            .iter()
            .map(|waiting| *known.entry(&waiting.request.event.identity).or_insert_with(|| place(waiting)))
            .collect();
        let (away, mut claims) = (FirstClaimFindings::default(), Vec::with_capacity(events.len()));
        let ended = map_ordered(
            &events,
            AT_ONCE,
            |waiting| self.claim(run, waiting, &away, ctx),
            |_, claim| {
                claims.push(claim);
                Ok(())
            },
        );
        let lost = || {
            let why = ended.as_ref().err().map_or_else(|| "it was not claimed".to_owned(), |why| why.what());
            Err(Arc::new(Answer::Later(why, Duration::from_secs(30))))
        };
        let claims = places.into_iter().map(|at| claims.get(at).cloned().unwrap_or_else(lost)).collect();
        (claims, away.failed.into_inner())
    }

    fn claim(&self, run: RunId, waiting: &QueuedRequest, away: &FirstClaimFindings, ctx: &Context) -> ClaimResult {
        if let Some(before) = waiting.request.event.identity.as_deref().and_then(|identity| self.done_here(identity)) {
            return Err(Arc::new(before));
        }
        if let Some(held) = waiting.promised() {
            return self.begin_promised(held, waiting, ctx);
        }
        // The request may have waited for long.
        if let Some(why) = self.rules.refusal(&waiting.request) {
            return Err(Arc::new(Answer::Refused(why)));
        }
        let identity = match &waiting.request.event.identity {
            Some(identity) => identity.clone(),
            // A job is told what to do by a claim.
            None if self.rules.dispatch.is_some() => format!("lastgood-run:{run}"),
            None => return Ok(Claimed::Nothing),
        };
        let claimant = self.claimant(identity, waiting.request.action, run);
        if let Some(gone) = away.gone.get() {
            return gone.clone().map_or(Ok(Claimed::Late(claimant)), Err);
        }
        match self.take(&claimant, &self.own_cause(waiting), away, ctx) {
            Ok(ClaimAttempt::Held(held)) => Ok(Claimed::Held(held)),
            Ok(ClaimAttempt::NoVault) => {
                away.gone.get_or_init(|| None);
                Ok(Claimed::Late(claimant))
            }
            Ok(ClaimAttempt::Not(answer)) => Err(Arc::new(self.answer_by_claim(answer))),
            Err(why) => {
                tracing::error!(code = why.word(), "an event cannot be served now: {why}");
                let answer = Arc::new(Answer::Later(why.what(), Duration::from_secs(30)));
                if why.of_store() {
                    away.gone.get_or_init(|| Some(answer.clone()));
                }
                away.failed.get_or_init(|| why);
                Err(answer)
            }
        }
    }

    /// Claims an event. If there is no vault yet, the one that the first backup would make is made before: else each of several
    /// instances that get the event would take a snapshot for it.
    pub(super) fn take(
        &self,
        claimant: &Claimant,
        cause: &Origin,
        away: &FirstClaimFindings,
        ctx: &Context,
    ) -> Result<ClaimAttempt> {
        let settled = self.settled_so_far();
        let taken = match idempotent::take(&self.vaults, claimant, cause, ctx)? {
            ClaimAttempt::NoVault
                if claimant.action == Action::Backup && *away.made.get_or_init(|| self.make_vault(ctx)) =>
            {
                idempotent::take(&self.vaults, claimant, cause, ctx)?
            }
            // The claim is by a run of this instance that is over, which could not be noted when it ended.
            ClaimAttempt::Not(idempotent::EventOutcome::Elsewhere { run, .. })
                if self.settle_again(|over| over == run) || self.settled_so_far() != settled =>
            {
                idempotent::take(&self.vaults, claimant, cause, ctx)?
            }
            taken => taken,
        };
        if let ClaimAttempt::Held(_) = &taken {
            self.claim_is_held();
        }
        Ok(taken)
    }

    /// The claimant of an event for a run.
    pub(super) fn claimant(&self, identity: String, action: Action, run: RunId) -> Claimant {
        let (host, timeout) = (self.rules.place.host.clone(), self.rules.run_timeout);
        Claimant { identity: ClaimIdentity::Event(identity), action, run, host, timeout, promise: None }
    }

    /// The requests of a run about to begin that may still be served: a restore may have waited for too long. A sender who was
    /// promised the run is not there to hear of a refusal, so a report tells of it.
    pub(super) fn still_allowed(&self, group: Vec<QueuedRequest>) -> Vec<QueuedRequest> {
        let mut allowed = Vec::with_capacity(group.len());
        for waiting in group {
            match self.rules.refusal_error(&waiting.request).filter(|_| waiting.promised().is_some()) {
                Some(why) => {
                    let ended = self.break_promises(vec![waiting], &why);
                    self.tell_and_keep(ended);
                }
                None => allowed.push(waiting),
            }
        }
        allowed
    }

    /// Ends requests whose senders were promised a run that will not take place. Each run that was promised has a report of its
    /// own, which is returned since nobody has been told of it yet; and the claims of its requests say that it failed.
    pub(super) fn break_promises(&self, waiting: Vec<QueuedRequest>, why: &Error) -> Vec<UnsettledRun> {
        let mut runs: Vec<(RunId, Vec<(QueuedRequest, Claimed)>)> = Vec::new();
        for waiting in waiting {
            let Some(held) = waiting.promised().cloned() else { continue };
            let (run, promised) = (waiting.run, (waiting, Claimed::Promised(held)));
            match runs.iter_mut().find(|(same, _)| *same == run) {
                Some((_, group)) => group.push(promised),
                None => runs.push((run, vec![promised])),
            }
        }
        for (run, group) in &runs {
            tracing::error!(
                "{} with the promise of the run {run} will not be served: {}",
                crate::text::count_of(group.len() as u64, "request"),
                why.what()
            );
        }
        self.context(|ctx| {
            let report = |(run, group): &(RunId, Vec<(QueuedRequest, Claimed)>)| {
                let job = self.job(group, Instant::now())?;
                let way = group.first().map_or(Channel::Http, |(waiting, _)| waiting.way);
                let cause = self.cause(way, events_of(group));
                Some(job::not_run(*run, &job, cause, why.clone(), &self.vaults, ctx))
            };
            let mut ended = Vec::with_capacity(runs.len());
            let reported = map_ordered(&runs, AT_ONCE, report, |_, ran| {
                ended.push(ran);
                Ok(())
            });
            if let Err(why) = reported {
                ctx.monitor.warn(&format!("not all promises are ended: {}", why.what()));
            }
            let claims: Vec<_> = runs
                .iter()
                .zip(&ended)
                .flat_map(|((_, group), ran)| group.iter().zip(std::iter::repeat(ran)))
                .filter_map(|(promised, ran)| Some((promised, ran.as_ref()?)))
                .collect();
            let settled = self.each_settled(
                &claims,
                |(promised, ran)| self.settle(promised, ran, ctx),
                |(promised, _)| &promised.1,
                ctx,
            );
            let mut left: HashMap<RunId, Vec<Arc<HeldClaim>>> = HashMap::new();
            for ((_, ran), (_, held)) in claims.iter().zip(settled) {
                left.entry(ran.report.run).or_default().extend(held);
            }
            let mut all = Vec::with_capacity(runs.len());
            for ran in ended.into_iter().flatten() {
                self.count((&ran.report).into());
                self.know(ran.report.run, RunProgress::Over(Arc::new(Answer::from_job(&ran))));
                let claims = left.remove(&ran.report.run).unwrap_or_default();
                all.push(UnsettledRun { ran, claims, promised: true });
            }
            all
        })
    }

    /// Tells of promises that have ended.
    pub(super) fn tell_and_keep(&self, ended: Vec<UnsettledRun>) {
        self.context(|ctx| job::tell_all(ended.iter().map(|ended| &ended.ran), ctx));
        ended.into_iter().for_each(|ended| self.keep(ended));
    }

    /// Makes the vault, if one may be made, and returns whether there is one now. The run tells why not. If a job does the runs,
    /// `lastgood init` makes the vault.
    fn make_vault(&self, ctx: &Context) -> bool {
        if self.rules.dispatch.is_some() {
            return false;
        }
        let made = job::check_data(&self.rules.backup)
            .and_then(|()| self.vaults.sites(self.rules.init))
            .and_then(|sites| replicas::backup::make(sites, ctx));
        match made {
            Ok(made) => made,
            Err(why) => {
                tracing::debug!("no vault is made yet: {}", why.what());
                false
            }
        }
    }

    /// Settles the claims of a run that is over, in the order of the requests.
    pub(super) fn close_all(
        &self,
        mine: &[(QueuedRequest, Claimed)],
        ran: &FinishedJob,
        ctx: &Context,
    ) -> Vec<Settlement> {
        self.each_settled(mine, |mine| self.settle(mine, ran, ctx), |(_, claim)| claim, ctx)
    }

    fn each_settled<T: Sync>(
        &self,
        claims: &[T],
        settle: impl Fn(&T) -> Settlement + Sync,
        claim: impl Fn(&T) -> &Claimed,
        ctx: &Context,
    ) -> Vec<Settlement> {
        let mut settled = Vec::with_capacity(claims.len());
        let ended = map_ordered(claims, AT_ONCE, settle, |_, one| {
            settled.push(one);
            Ok(())
        });
        if let Err(why) = ended {
            ctx.monitor.warn(&format!("not all claims are settled: {}", why.what()));
            let rest = claims.iter().skip(settled.len()).map(|one| (None, claim(one).held())).collect::<Vec<_>>();
            settled.extend(rest);
        }
        settled
    }

    fn settle(&self, (waiting, claim): &(QueuedRequest, Claimed), ran: &FinishedJob, ctx: &Context) -> Settlement {
        match claim {
            Claimed::Held(held) | Claimed::Promised(held) => self.settled(held, waiting.promised().is_some(), ran, ctx),
            Claimed::Late(claimant) => {
                (idempotent::late(ran, &self.vaults, claimant, &self.own_cause(waiting), ctx), None)
            }
            Claimed::Nothing => (None, None),
        }
    }

    /// Settles a claim whose request's sender may have been promised the run. A sender who was promised it finds nothing yet if
    /// no vault took the report, and whatever says that the run has ended has to wait for that.
    pub(super) fn settled(
        &self,
        held: &Arc<HeldClaim>,
        promised: bool,
        ran: &FinishedJob,
        ctx: &Context,
    ) -> Settlement {
        if promised && ran.stored.is_none() {
            return (None, Some(held.clone()));
        }
        let noted = held.record_end(ran, &self.vaults, ctx);
        (noted.other, (!noted.is_noted).then(|| held.clone()))
    }

    /// The origin of a run for this request alone.
    pub(super) fn own_cause(&self, waiting: &QueuedRequest) -> Origin {
        self.cause(waiting.way, vec![waiting.request.event.clone()])
    }
}
