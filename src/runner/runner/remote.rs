//! Runs that a Cloud Run job does in place of the runner.
//!
//! The runner claims as for any run, leaves a [`DispatchRequest`] beside the claim and starts the job. From then on the run is
//! *away*: one thread looks at the claims of all such runs until the job has settled them, and answers with the report that it
//! left.
//!
//! - While a backup or a restore is away, neither another backup nor a restore begins: as when the runner does them itself, one
//!   at a time is at work on the data directory, and what asks for a backup meanwhile shares the next one. Verifications wait for
//!   one another only. This holds for one process: others see no more than the claims.
//! - A job that has not taken its dispatch request within [`Dispatch::begin`] is given up: its claims are marked failed, so that
//!   it does nothing when it comes after all, and a redelivery starts another one. Without this, a job that never starts would
//!   hold up all others for a whole time limit.
//! - Nothing is known of a job but what its claims say. When the service is told to stop, or dies, the job goes on, and a
//!   redelivery finds the claim.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::unsettled::UnsettledRun;
use super::{Claimed, QueuedRequest, Runner, events_of, lock};
use crate::claims::dispatch_request::{DispatchRequest, TakenBy};
use crate::claims::ended_runs::ServedBefore;
use crate::claims::idempotent::{self, ClaimStatus, HeldClaim};
use crate::error::{Error, Result};
use crate::job::{self, Job, Origin};
use crate::monitor::Context;
use crate::report::{Action, Channel, RunId};
use crate::runner::answer::{self, Answer, RunProgress, how_to_look};
use crate::runner::dispatch::Dispatch;
use crate::runner::queue::PromiseState;
use crate::runner::rules::gravest;
use crate::runner::stats::EndedRun;

/// How many times less often a claim is looked at once [`Dispatch::wait`] is over.
const SELDOM: u32 = 5;
/// How often the thread that looks at claims wakes.
const TICK: Duration = Duration::from_millis(100);

/// Runs that are away.
#[derive(Default)]
pub(super) struct RemoteRuns {
    runs: Vec<(RunId, Action)>,
    /// Runs that the thread which follows them has not seen yet.
    handed: Vec<RemoteRun>,
}

/// A request that a run which is away serves.
struct RemoteWaiter {
    to: oneshot::Sender<Arc<Answer>>,
    held: Arc<HeldClaim>,
    /// Whether its sender was promised the run.
    promised: bool,
}

/// A run that is away, and the requests that wait for it.
struct RemoteRun {
    run: RunId,
    job: Job,
    cause: Origin,
    waiting: VecDeque<RemoteWaiter>,
    /// When the run was handed over.
    since: Instant,
    /// When its claims are to be looked at again.
    next: Instant,
    begun: bool,
    known: bool,
    unreadable: bool,
}

impl RemoteRuns {
    /// Whether a run of this kind may begin.
    pub fn may(&self, action: Action) -> bool {
        let looks_only = |action| action == Action::Verify;
        self.runs.iter().all(|(_, away)| looks_only(*away) != looks_only(action))
    }

    /// The run that has been away for longest.
    pub fn first(&self) -> Option<RunId> {
        self.runs.first().map(|(run, _)| *run)
    }
}

impl Runner {
    /// The requests, out of those that share a run, that one dispatch request can name: their claims are in one vault. The others
    /// are told to come again; a promised one comes next, as the same run, which then has a dispatch request in the other vault.
    pub(super) fn keep_one_vault(
        &self,
        mine: Vec<(QueuedRequest, Claimed)>,
        ctx: &Context,
    ) -> Vec<(QueuedRequest, Claimed)> {
        let Some(first) = mine.iter().find_map(|(_, claim)| claim.held()) else { return mine };
        let mut kept = Vec::with_capacity(mine.len());
        for (mut waiting, claim) in mine {
            let held = claim.held();
            if held.as_ref().is_some_and(|held| held.address() == first.address()) {
                kept.push((waiting, claim));
                continue;
            }
            if let Some(held) = held.clone().filter(|_| waiting.promised().is_some()) {
                waiting.promise = PromiseState::Made(held);
                lock(&self.state).queue.put_back(waiting);
                continue;
            }
            let name = |held: &Arc<HeldClaim>| held.claim().name();
            let same = |(_, kept): &(QueuedRequest, Claimed)| kept.held().as_ref().map(name) == held.as_ref().map(name);
            if let Some(held) = held.as_ref().filter(|_| !kept.iter().any(same)) {
                held.give_up(&self.vaults, ctx);
            }
            answer::tell(waiting.answer, &Arc::new(Answer::run_is_full()));
        }
        kept
    }

    /// Has the job do a run. Once it is started, nobody waits in `mine` any more.
    ///
    /// # Errors
    /// The job was not started.
    pub(super) fn dispatch(
        &self,
        dispatch: &Dispatch,
        (run, way): (RunId, Channel),
        (job, cause): (&Job, &Origin),
        mine: &mut Vec<(QueuedRequest, Claimed)>,
        ctx: &Context,
    ) -> Result<()> {
        let doing = || format!("have the job {} do the run", dispatch.job);
        let held: Option<Vec<_>> = mine.iter().map(|(_, claim)| claim.held()).collect();
        // A request without a claim found no vault that opens.
        let held = held.ok_or_else(|| match self.vaults.first(ctx) {
            Err(why) => why.within(doing()),
            Ok(_) => Error::unreachable(doing(), "the vault did not open when the run was to be claimed"),
        })?;
        let chosen = gravest(mine.iter().map(|(waiting, _)| &waiting.request)).cloned();
        let (Some(first), Some(chosen)) = (held.first(), chosen) else { return Ok(()) };
        let mut dispatch_request = DispatchRequest::new(run, chosen, way, self.rules.run_timeout);
        dispatch_request.events = events_of(mine);
        for held in &held {
            let name = held.claim().name();
            // An event that was delivered twice is named once.
            if !dispatch_request.claims.contains(&name) {
                dispatch_request.claims.push(name);
            }
        }
        dispatch_request.write(first.store()).map_err(|why| why.within(doing()))?;
        let name = first.claim().name();
        match (dispatch.start)(&name, ctx) {
            Ok(execution) => {
                let execution = execution.as_deref().unwrap_or("an execution of unknown name");
                tracing::info!("the run {run} is done by {execution}, under the claim {name}");
            }
            // The answer to the start may have been lost, more than once.
            Err(why) => match TakenBy::of(first.store(), &name) {
                Ok(Some(taker)) => tracing::warn!("{}; but {} has begun", why.what(), taker.by),
                Ok(None) | Err(_) => return Err(why),
            },
        }
        let follower = |((waiting, _), held): ((QueuedRequest, Claimed), Arc<HeldClaim>)| {
            let promised = waiting.promised().is_some();
            RemoteWaiter { to: waiting.answer, held, promised }
        };
        let waiting = mine.drain(..).zip(held).map(follower).collect();
        let (since, job, cause) = (Instant::now(), job.clone(), cause.clone());
        let action = job.action();
        let group =
            RemoteRun { run, job, cause, waiting, since, next: since, begun: false, known: false, unreadable: false };
        let mut state = lock(&self.state);
        state.running = None;
        state.remote.runs.push((run, action));
        state.remote.handed.push(group);
        Ok(())
    }

    /// Looks at runs that are away until the runner is closed.
    pub(super) fn observe_remote_runs(&self, dispatch: &Dispatch) {
        let mut groups: Vec<RemoteRun> = Vec::new();
        loop {
            let closed = {
                let mut state = lock(&self.state);
                groups.append(&mut state.remote.handed);
                state.closed
            };
            if self.stop.load(Ordering::Relaxed) {
                // Their jobs go on.
                groups.drain(..).for_each(|group| self.end(group, Answer::Elsewhere(Duration::from_secs(10))));
            }
            if closed {
                return;
            }
            let now = Instant::now();
            groups = groups.into_iter().filter_map(|group| self.look(group, now, dispatch)).collect();
            std::thread::sleep(TICK.min(dispatch.poll));
        }
    }

    /// Looks at a run if it is time to, and returns it if it is not over.
    fn look(&self, mut group: RemoteRun, now: Instant, dispatch: &Dispatch) -> Option<RemoteRun> {
        if now < group.next {
            return Some(group);
        }
        self.context(|ctx| {
            let (mut told, mut seen) = (Vec::new(), HashMap::new());
            while let Some(RemoteWaiter { held, .. }) = group.waiting.front() {
                let name = held.claim().name();
                if let Some(answer) = seen.get(&name) {
                    told.extend(group.waiting.pop_front().map(|follower| (follower.to, Arc::clone(answer))));
                    continue;
                }
                let answer = match held.status() {
                    Ok(ClaimStatus::Running) => break,
                    Ok(ClaimStatus::Failed) => self.failed(group.run, ctx),
                    Ok(ClaimStatus::Elsewhere) => Answer::not_yet(),
                    Ok(ClaimStatus::Done(before)) => settled(group.run, before),
                    Err(why) => {
                        if !group.unreadable && !self.stop.load(Ordering::Relaxed) {
                            tracing::warn!("cannot see how far the run {} is: {}", group.run, why.what());
                        }
                        group.unreadable = true;
                        break;
                    }
                };
                self.know_of(&mut group, &answer);
                seen.insert(name, Arc::new(answer));
            }
            // Before anybody hears of it, so that whoever asks then finds it so.
            if group.waiting.is_empty() {
                self.remote_run_ended(group.run);
            }
            told.into_iter().for_each(|(to, answer)| answer::tell(to, &answer));
            let RemoteWaiter { held, .. } = group.waiting.front()?;
            if held.claim().age() >= held.claim().timeout() {
                let limit = held.claim().timeout().as_secs();
                let why = format!(
                    "it has not ended within the run's time limit of {limit} s, and it is not known whether it was done"
                );
                let hint = format!(
                    "{}Look at the execution in the console: was it killed because memory or time (`--task-timeout`) ran out?",
                    how_to_look(group.job.action())
                );
                self.give_up_remote_run(group, (why, hint), dispatch, ctx);
                return None;
            }
            if !group.begun && group.since.elapsed() >= dispatch.begin {
                match TakenBy::of(held.store(), &held.claim().name()) {
                    Ok(Some(_)) => group.begun = true,
                    Ok(None) => {
                        let why = format!("it was started {} s ago and has not begun", group.since.elapsed().as_secs());
                        let hint = "Look at the executions of the job in the console: is its argument `dispatched`, can its \
                                    image, its volumes and its vault be reached?";
                        self.give_up_remote_run(group, (why, hint.into()), dispatch, ctx);
                        return None;
                    }
                    // A claim that cannot be read now may be readable later.
                    Err(_) => {}
                }
            }
            let away = group.since.elapsed();
            let often = if away < dispatch.wait { dispatch.poll } else { dispatch.poll * SELDOM };
            // A short run is over soon, so that its claims are looked at more often at first.
            group.next = Instant::now() + often.min(away / 4);
            Some(group)
        })
    }

    /// Gives up a run whose job has not begun, or was killed: by the report that the job left, or by one that says so.
    fn give_up_remote_run(&self, group: RemoteRun, (why, hint): (String, String), dispatch: &Dispatch, ctx: &Context) {
        let kept = idempotent::report_of(group.run, &self.vaults, ctx).unwrap_or_else(|why| {
            tracing::warn!("cannot see whether the run {} left a report: {}", group.run, why.what());
            None
        });
        if let Some(kept) = kept
            && let Some(answer) = Answer::read(kept.report.clone())
        {
            let stays = matches!(answer, Answer::Done { retry: false, .. });
            for held in group.waiting.iter().map(|follower| &follower.held) {
                if let Err(why) = held.record_end_by_report(&kept, stays) {
                    tracing::warn!("the claim {} is not settled: {}", held.claim().name(), why.what());
                }
            }
            return self.end(group, answer);
        }
        let RemoteRun { run, job, cause, waiting, .. } = group;
        let why = Error::failed(format!("have the job {} do the run", dispatch.job), why).hint(hint);
        tracing::error!(code = why.word(), "{why}");
        let ran = job::not_run(run, &job, cause, why, &self.vaults, ctx);
        self.count((&ran.report).into());
        if !self.is_of_own(&ran.report.events) {
            lock(&self.state).queue.uncount(run);
        }
        let done = Arc::new(Answer::from_job(&ran));
        let (mut told, mut claims) = (Vec::new(), Vec::new());
        let any_promised = waiting.iter().any(|follower| follower.promised);
        for RemoteWaiter { to, held, promised } in waiting {
            let (other, left) = self.settled(&held, promised, &ran, ctx);
            told.push((to, other.map_or_else(|| done.clone(), |other| Arc::new(other.into()))));
            claims.extend(left);
        }
        ran.notify(ctx);
        self.know(run, RunProgress::Over(done.clone()));
        self.remote_run_ended(run);
        self.keep(UnsettledRun { ran, claims, promised: any_promised });
        told.into_iter().for_each(|(to, answer)| answer::tell(to, &answer));
    }

    /// The answer for a run whose claims are marked failed.
    fn failed(&self, run: RunId, ctx: &Context) -> Answer {
        let report = idempotent::report_of(run, &self.vaults, ctx).unwrap_or_else(|why| {
            tracing::warn!("the report of the run {run} cannot be read: {}", why.what());
            None
        });
        let nothing = || Answer::Later("the job gave up and left no report".into(), Duration::from_secs(30));
        report.and_then(|kept| Answer::read(kept.report)).unwrap_or_else(nothing)
    }

    /// Remembers how a run ended, when the first of its requests is answered.
    fn know_of(&self, group: &mut RemoteRun, answer: &Answer) {
        if group.known {
            return;
        }
        group.known = true;
        if let Answer::Done { report, .. } = answer
            && let Some(ended) = EndedRun::read(report.stored())
        {
            self.count(ended);
        }
        let is_served = matches!(answer, Answer::Done { retry: false, .. } | Answer::Before(_));
        if !is_served && !self.is_of_own(&group.cause.events) {
            lock(&self.state).queue.uncount(group.run);
        }
        self.know(group.run, RunProgress::Over(Arc::new(answer.clone())));
    }

    /// Sends the same answer to all that wait for a run.
    fn end(&self, mut group: RemoteRun, answer: Answer) {
        self.know_of(&mut group, &answer);
        self.remote_run_ended(group.run);
        let answer = Arc::new(answer);
        group.waiting.into_iter().for_each(|follower| answer::tell(follower.to, &answer));
    }

    /// Marks a run as no longer away, so that others may begin.
    fn remote_run_ended(&self, run: RunId) {
        let mut state = lock(&self.state);
        state.remote.runs.retain(|(away, _)| *away != run);
        state.queue.look(true);
        drop(state);
        self.changed.notify_all();
    }
}

/// The answer for an event that is served, by this run or by another.
fn settled(run: RunId, before: ServedBefore) -> Answer {
    let report = if before.run == run { before.report.clone() } else { None };
    report.and_then(Answer::read).unwrap_or_else(|| idempotent::EventOutcome::Before(before).into())
}

#[cfg(test)]
mod tests;
