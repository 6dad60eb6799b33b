//! The queue of requests: what waits, and what the next run serves. Pure: the caller passes the time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::answer::Answer;
use crate::claims::dispatch_request::ROOM;
use crate::claims::idempotent::HeldClaim;
use crate::events::decoded::RunRequest;
use crate::report::{Action, Channel, RunId};
use crate::vault::root::BackupReason;

/// How many requests may wait, and how many promised critical events beside them.
pub const WAITING: usize = 1000;
/// The period over which runs for critical events are counted.
pub const COUNTED: Duration = Duration::from_secs(3600);

/// A request that waits for its run.
pub struct QueuedRequest {
    /// The run that will serve it.
    pub run: RunId,
    /// What is asked for.
    pub request: RunRequest,
    /// How it was asked for.
    pub way: Channel,
    /// Whether it is never put off, however critical it is.
    pub at_once: bool,
    /// Bytes that it takes of the room in its run's report.
    pub bytes: usize,
    /// Where the answer is sent.
    pub answer: oneshot::Sender<Arc<Answer>>,
    /// Whether it was looked up, since the last run ended, if its event is served already.
    pub looked: bool,
    /// Whether its sender was promised a run.
    pub promise: PromiseState,
}

/// Whether the sender of a request was promised a run.
pub enum PromiseState {
    /// No: the sender waits for the answer.
    None,
    /// About to be: a claim is being entered, and until the outcome is clear no run begins with the request, nor is it put off.
    Claiming,
    /// Yes, and the sender went away: nobody sends the request again. The claim for it is held.
    Made(Arc<HeldClaim>),
}

impl QueuedRequest {
    /// Whether its sender tells of it if its run does not end as it should: `run`, of its last backup and of one after a crash.
    pub fn is_told_of(&self) -> bool {
        self.at_once && self.way == Channel::Run
    }

    /// Whether the request is of the kind that may come in bursts.
    fn is_critical(&self) -> bool {
        is_critical(&self.request) && !self.at_once
    }

    /// The claim, if the request's sender was promised a run.
    pub fn promised(&self) -> Option<&Arc<HeldClaim>> {
        match &self.promise {
            PromiseState::Made(held) => Some(held),
            PromiseState::None | PromiseState::Claiming => None,
        }
    }

    /// Whether the request's claim is being entered.
    fn is_claiming(&self) -> bool {
        matches!(self.promise, PromiseState::Claiming)
    }
}

/// The next thing to do.
pub enum NextStep {
    /// A run for these: one request, or all backups that wait.
    Run(Vec<QueuedRequest>),
    /// This request is to be told to come again after the duration: there have been this many runs for critical events.
    PutOff(Box<QueuedRequest>, usize, Duration),
    /// Nothing before this time, unless something else is asked for. `None` if no time is known.
    Nothing(Option<Instant>),
}

/// A run for critical events.
struct CriticalRun {
    run: RunId,
    at: Instant,
    /// Whether it is one of the runs whose number is limited.
    counts: bool,
}

/// Requests in the order in which they came, and the times at which runs for critical events began.
pub struct Queue {
    /// How long further critical events wait after a run for one, to share the next.
    coalesce: Duration,
    /// How many runs for critical events there may be in an hour.
    critical_max: usize,
    waiting: VecDeque<QueuedRequest>,
    critical: VecDeque<CriticalRun>,
    /// A run that is due, and waits for the claims of its requests to be entered.
    claiming: Option<RunId>,
}

impl Queue {
    /// Returns an empty queue. Critical events within `coalesce` share a run, and at most `critical_max` runs for them begin
    /// within an hour.
    pub fn new(coalesce: Duration, critical_max: usize) -> Self {
        Queue { coalesce, critical_max, waiting: VecDeque::new(), critical: VecDeque::new(), claiming: None }
    }

    /// Whether no more requests like this one may wait. Critical events that were promised a run may have to wait for an hour
    /// each; they keep nothing else out, such as a backup by hand, which takes them all along.
    pub fn is_full(&self, request: &RunRequest, promise: &PromiseState) -> bool {
        let is_long = is_critical(request) && !matches!(promise, PromiseState::None);
        let long = self.promised_critical();
        let others = self.waiting.len() - long;
        (if is_long { long } else { others }) >= WAITING
    }

    /// How many critical events wait that were promised a run, or are about to be.
    pub fn promised_critical(&self) -> usize {
        let is_long =
            |waiting: &&QueuedRequest| waiting.is_critical() && !matches!(waiting.promise, PromiseState::None);
        self.waiting.iter().filter(is_long).count()
    }

    /// The run that a request of this kind would share. All backups that wait share one, as long as its report has room for what
    /// asks for them. The exception is a run that is due and waits only for claims: else one promise after the other would keep
    /// it from beginning. Requests of other kinds share no run.
    pub fn run_to_share(&self, action: Action, bytes: usize) -> Option<RunId> {
        let open = |waiting: &&QueuedRequest| is_backup(waiting) && self.claiming != Some(waiting.run);
        let mut runs: Vec<(RunId, usize)> = Vec::new();
        for waiting in self.waiting.iter().filter(open) {
            match runs.iter_mut().find(|(run, _)| *run == waiting.run) {
                Some((_, taken)) => *taken = taken.saturating_add(waiting.bytes),
                None => runs.push((waiting.run, waiting.bytes)),
            }
        }
        let fits = |(_, taken): &&(RunId, usize)| taken.saturating_add(bytes) <= ROOM;
        runs.iter().find(fits).filter(|_| action == Action::Backup).map(|(run, _)| *run)
    }

    /// Adds a request at the end.
    pub fn push(&mut self, waiting: QueuedRequest) {
        self.waiting.push_back(waiting);
    }

    /// Puts a request back that was due and is not served by the run that began: it comes next.
    pub fn put_back(&mut self, waiting: QueuedRequest) {
        self.waiting.push_front(waiting);
    }

    /// Takes all requests off the queue.
    pub fn clear(&mut self) -> impl Iterator<Item = QueuedRequest> + use<> {
        std::mem::take(&mut self.waiting).into_iter()
    }

    /// Whether some request waits for this run.
    pub fn awaits(&self, run: RunId) -> bool {
        self.waiting.iter().any(|waiting| waiting.run == run)
    }

    /// The identity of an event that waits and has not been looked up yet, to see whether it is served already; it counts as
    /// looked up from now on. Requests with a claim are left out, as the claim itself will tell.
    pub fn next_unlooked(&mut self) -> Option<String> {
        let identity = |waiting: &QueuedRequest| waiting.request.event.identity.clone();
        let unclaimed = |waiting: &&QueuedRequest| !waiting.looked && matches!(waiting.promise, PromiseState::None);
        let found = self.waiting.iter().filter(unclaimed).find_map(identity)?;
        for waiting in &mut self.waiting {
            waiting.looked |= waiting.request.event.identity.as_ref() == Some(&found);
        }
        Some(found)
    }

    /// Notes of all requests that they have been looked up or, if `again`, that they are to be looked up again, as after a run.
    pub fn look(&mut self, again: bool) {
        self.waiting.iter_mut().for_each(|waiting| waiting.looked = !again);
    }

    /// Notes what came of a claim that was being entered for a run, by an event of this identity. Returns whether the request
    /// still waits; it does, unless all that waits was answered.
    pub fn claimed(&mut self, run: RunId, identity: &str, promise: PromiseState) -> bool {
        let found = self.waiting.iter_mut().find(|waiting| is_claiming_for(waiting, run, identity));
        found.map(|waiting| waiting.promise = promise).is_some()
    }

    /// Takes a request off the queue for which a claim was being entered.
    pub fn withdraw(&mut self, run: RunId, identity: &str) -> Option<QueuedRequest> {
        let at = self.waiting.iter().position(|waiting| is_claiming_for(waiting, run, identity))?;
        self.waiting.remove(at)
    }

    /// Takes all requests by an event of this identity off the queue, except one that is being claimed, as its claim gives the
    /// answer.
    pub fn take_by_identity(&mut self, identity: &str) -> Vec<QueuedRequest> {
        let is = |waiting: &QueuedRequest| {
            !waiting.is_claiming() && waiting.request.event.identity.as_deref() == Some(identity)
        };
        let (taken, rest): (Vec<_>, Vec<_>) = self.clear().partition(is);
        self.waiting = rest.into();
        taken
    }

    /// Forgets that a run began, since nothing was run: others serve the events or did.
    pub fn forget_run(&mut self, run: RunId) {
        self.critical.retain(|begun| begun.run != run);
    }

    /// Notes that a run took no snapshot: it no longer counts among the runs that are limited, so that a failure that passes does
    /// not keep later events from being served. Further events wait for the window all the same, so that what fails at once is
    /// not run again for each. Not to be called for a run for events that may themselves tell of runs that failed.
    pub fn uncount(&mut self, run: RunId) {
        self.critical.iter_mut().filter(|begun| begun.run == run).for_each(|begun| begun.counts = false);
    }

    /// Decides what is to be done now; `may` says whether a run of a kind may begin.
    pub fn next(&mut self, now: Instant, may: impl Fn(Action) -> bool) -> NextStep {
        let kept = COUNTED.max(self.coalesce);
        while self.critical.front().is_some_and(|begun| now.duration_since(begun.at) >= kept) {
            self.critical.pop_front();
        }
        let window = self.critical.back().map(|begun| begun.at + self.coalesce).filter(|end| *end > now);
        let is_due =
            |waiting: &QueuedRequest| may(waiting.request.action) && !(waiting.is_critical() && window.is_some());
        // Any other backup that is due takes the critical ones along, at no cost.
        let alone = !self.waiting.iter().any(|waiting| is_due(waiting) && is_backup(waiting) && !waiting.is_critical());
        let age = |begun: &CriticalRun| now.duration_since(begun.at);
        let mut counted = self.critical.iter().filter(|begun| begun.counts && age(begun) < COUNTED);
        let (free, others) = (counted.next().map(|begun| COUNTED.saturating_sub(age(begun))), counted.count());
        let runs = others + usize::from(free.is_some());
        let (full, free) = (alone && runs >= self.critical_max, free.unwrap_or(COUNTED));
        // Nobody would come again for one that was promised: it waits here.
        let is_promise = |waiting: &QueuedRequest| !matches!(waiting.promise, PromiseState::None);
        let stays = |waiting: &QueuedRequest| full && waiting.is_critical() && is_promise(waiting);
        let due = self.waiting.iter().find(|waiting| !full && is_due(waiting) && is_backup(waiting));
        let is_claiming = |run: &RunId| self.waiting.iter().any(|waiting| waiting.run == *run && waiting.is_claiming());
        self.claiming = due.map(|waiting| waiting.run).filter(is_claiming);
        let may_begin = |waiting: &QueuedRequest| match is_backup(waiting) {
            true => self.claiming.is_none(),
            false => !waiting.is_claiming(),
        };
        let next = |waiting: &QueuedRequest| is_due(waiting) && !stays(waiting) && may_begin(waiting);
        let Some(at) = self.waiting.iter().position(next) else {
            let waits = self.waiting.iter().any(QueuedRequest::is_critical);
            let until = window.or_else(|| self.waiting.iter().any(stays).then(|| now + free));
            return NextStep::Nothing(until.filter(|_| waits));
        };
        if self.waiting[at].request.action != Action::Backup {
            return NextStep::Run(self.waiting.remove(at).into_iter().collect());
        }
        if full && let Some(waiting) = self.waiting.remove(at) {
            return NextStep::PutOff(waiting.into(), runs, free);
        }
        let run = self.waiting[at].run;
        let (group, rest): (Vec<_>, Vec<_>) = self.clear().partition(|waiting| waiting.run == run);
        self.waiting = rest.into();
        if let Some(first) = group.first().filter(|_| group.iter().any(QueuedRequest::is_critical)) {
            self.critical.push_back(CriticalRun { run: first.run, at: now, counts: true });
        }
        NextStep::Run(group)
    }
}

fn is_backup(waiting: &QueuedRequest) -> bool {
    waiting.request.action == Action::Backup
}

fn is_critical(request: &RunRequest) -> bool {
    request.action == Action::Backup && request.reason == BackupReason::Critical
}

fn is_claiming_for(waiting: &QueuedRequest, run: RunId, identity: &str) -> bool {
    waiting.is_claiming() && waiting.run == run && waiting.request.event.identity.as_deref() == Some(identity)
}

#[cfg(test)]
mod tests;
