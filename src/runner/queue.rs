//! What waits, and what the next run serves. Pure: the time is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::runner::Answer;
use crate::claims::dispatch_request::ROOM;
use crate::claims::idempotent::HeldClaim;
use crate::events::decoded::RunRequest;
use crate::report::{Action, Channel, RunId};
use crate::vault::root::BackupReason;

/// Requests that may wait, and promised critical events beside them.
pub const WAITING: usize = 1000;
/// In what time runs for critical events are counted.
pub const COUNTED: Duration = Duration::from_secs(3600);

/// A request that waits for its run.
pub struct QueuedRequest {
    /// The run that will serve it.
    pub run: RunId,
    pub request: RunRequest,
    pub way: Channel,
    /// How much of the room in its run's report it takes.
    pub bytes: usize,
    /// Whom to tell.
    pub answer: oneshot::Sender<Arc<Answer>>,
    /// Whether it has been looked, since the last run ended, if it is served already.
    pub looked: bool,
    /// Whether its sender was promised a run.
    pub promise: PromiseState,
}

/// Whether the sender of a request was promised a run.
pub enum PromiseState {
    /// He waits for the answer.
    None,
    /// He is about to be: a claim is being entered, and until that is clear no run begins with the request, nor is it put off.
    Claiming,
    /// He was, and went away: nobody sends the request again. The claim for it is held.
    Made(Arc<HeldClaim>),
}

impl QueuedRequest {
    /// Whether it is one of those that may come in bursts.
    fn is_critical(&self) -> bool {
        is_critical(&self.request)
    }

    /// The claim, if its sender was promised a run.
    pub fn promised(&self) -> Option<&Arc<HeldClaim>> {
        match &self.promise {
            PromiseState::Made(held) => Some(held),
            PromiseState::None | PromiseState::Claiming => None,
        }
    }

    /// Whether its claim is being entered.
    fn is_claiming(&self) -> bool {
        matches!(self.promise, PromiseState::Claiming)
    }
}

/// What is to be done next.
pub enum NextStep {
    /// A run for these: one request, or all backups that wait.
    Run(Vec<QueuedRequest>),
    /// This one is to be told to come again after a while: there have been so many runs for critical events.
    PutOff(Box<QueuedRequest>, usize, Duration),
    /// Nothing before this time, unless something else is asked for.
    Nothing(Option<Instant>),
}

/// A run for critical events.
struct CriticalRun {
    run: RunId,
    at: Instant,
    /// Whether it is one of those whose number is limited.
    counts: bool,
}

/// Requests in the order in which they came, and when runs for critical events began.
pub struct Queue {
    /// After a run for a critical event, further ones wait for so long, to share one.
    coalesce: Duration,
    /// Runs for critical events in an hour.
    critical_max: usize,
    waiting: VecDeque<QueuedRequest>,
    critical: VecDeque<CriticalRun>,
    /// A run that is due, and waits for the claims of its requests to be entered.
    claiming: Option<RunId>,
}

impl Queue {
    pub fn new(coalesce: Duration, critical_max: usize) -> Self {
        Queue { coalesce, critical_max, waiting: VecDeque::new(), critical: VecDeque::new(), claiming: None }
    }

    /// Whether no more requests like this one may wait. Critical events that were promised a run may have to wait for an hour, each; they
    /// keep nothing else from being let in, such as a backup by hand, which takes them all along.
    pub fn is_full(&self, request: &RunRequest, promise: &PromiseState) -> bool {
        let is_long = is_critical(request) && !matches!(promise, PromiseState::None);
        let long = self.long();
        let others = self.waiting.len() - long;
        (if is_long { long } else { others }) >= WAITING
    }

    /// How many critical events wait that were promised a run.
    pub fn long(&self) -> usize {
        let is_long =
            |waiting: &&QueuedRequest| waiting.is_critical() && !matches!(waiting.promise, PromiseState::None);
        self.waiting.iter().filter(is_long).count()
    }

    /// The run that a request of this kind would share. All backups that wait share one, as long as its report has room for what
    /// asks for them; but for a run that is due and waits for claims only: else one promise after the other would keep it from
    /// beginning. Nothing else shares any.
    pub fn shared(&self, action: Action, bytes: usize) -> Option<RunId> {
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

    pub fn push(&mut self, waiting: QueuedRequest) {
        self.waiting.push_back(waiting);
    }

    /// What was due and is not served by the run that began: it comes next.
    pub fn put_back(&mut self, waiting: QueuedRequest) {
        self.waiting.push_front(waiting);
    }

    /// All that waits, which does so no longer.
    pub fn clear(&mut self) -> impl Iterator<Item = QueuedRequest> + use<> {
        std::mem::take(&mut self.waiting).into_iter()
    }

    /// Whether somebody waits for this run.
    pub fn awaits(&self, run: RunId) -> bool {
        self.waiting.iter().any(|waiting| waiting.run == run)
    }

    /// The identity of an event that waits, of which it has not been looked whether it is served already; from now on it has.
    /// A claim says so by itself.
    pub fn unlooked(&mut self) -> Option<String> {
        let identity = |waiting: &QueuedRequest| waiting.request.event.identity.clone();
        let unclaimed = |waiting: &&QueuedRequest| !waiting.looked && matches!(waiting.promise, PromiseState::None);
        let found = self.waiting.iter().filter(unclaimed).find_map(identity)?;
        for waiting in &mut self.waiting {
            waiting.looked |= waiting.request.event.identity.as_ref() == Some(&found);
        }
        Some(found)
    }

    /// Says of all that waits that it has been looked for, or is to be looked for again, as after a run.
    pub fn look(&mut self, again: bool) {
        self.waiting.iter_mut().for_each(|waiting| waiting.looked = !again);
    }

    /// Says what came of a claim that was being entered for a run, by an event of this identity. Tells whether the request waits
    /// still; it does, unless all that waits was answered.
    pub fn claimed(&mut self, run: RunId, identity: &str, promise: PromiseState) -> bool {
        let found = self.waiting.iter_mut().find(|waiting| is_claiming_for(waiting, run, identity));
        found.map(|waiting| waiting.promise = promise).is_some()
    }

    /// A request for which a claim was being entered, which waits no longer.
    pub fn withdraw(&mut self, run: RunId, identity: &str) -> Option<QueuedRequest> {
        let at = self.waiting.iter().position(|waiting| is_claiming_for(waiting, run, identity))?;
        self.waiting.remove(at)
    }

    /// All that waits by an event of this identity, which does so no longer; but what is being claimed, as that gives the answer.
    pub fn take(&mut self, identity: &str) -> Vec<QueuedRequest> {
        let is = |waiting: &QueuedRequest| {
            !waiting.is_claiming() && waiting.request.event.identity.as_deref() == Some(identity)
        };
        let (taken, rest): (Vec<_>, Vec<_>) = self.clear().partition(is);
        self.waiting = rest.into();
        taken
    }

    /// Nothing was run, since others serve the events or did: it is as if the run had not begun.
    pub fn not_run(&mut self, run: RunId) {
        self.critical.retain(|begun| begun.run != run);
    }

    /// A run took no snapshot: it is none of those that are limited, lest what passes keeps later events from being served.
    /// Further ones wait for the window all the same, lest what fails at once is run again for each. Not to be said of a run for events
    /// that may tell of runs that failed.
    pub fn failed(&mut self, run: RunId) {
        self.critical.iter_mut().filter(|begun| begun.run == run).for_each(|begun| begun.counts = false);
    }

    /// What is to be done now; `may` says of which kinds a run may begin.
    pub fn next(&mut self, now: Instant, may: impl Fn(Action) -> bool) -> NextStep {
        let kept = COUNTED.max(self.coalesce);
        while self.critical.front().is_some_and(|begun| now.duration_since(begun.at) >= kept) {
            self.critical.pop_front();
        }
        let window = self.critical.back().map(|begun| begun.at + self.coalesce).filter(|end| *end > now);
        let is_due =
            |waiting: &QueuedRequest| may(waiting.request.action) && !(waiting.is_critical() && window.is_some());
        // Whatever else is due takes the critical ones along, at no cost.
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
