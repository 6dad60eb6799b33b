//! The runner: decides which requests wait, which share a run, and which are answered with a run that was done before.
//!
//! One worker thread runs one job at a time. A request is served by a run that starts after it arrived; all backups that wait
//! when a run starts share it. A burst of critical events makes one snapshot at once and at most one more when the window of
//! [`Rules::coalesce`] is over. A client that hangs up takes nothing back: its run goes on.

mod broken;
mod claimed;
mod own;
mod promised;
mod state;
mod unclaimed;
mod unsettled;
mod remote;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::oneshot;

use self::claimed::Claimed;
pub use self::promised::NotPromised;
use self::state::RunnerState;
use self::unsettled::UnsettledRun;
pub use super::answer::{Answer, RunProgress, Ticket};
pub use super::dispatch::{Dispatch, StartJob};
pub use super::queue::WAITING;
use super::queue::{NextStep, PromiseState, Queue, QueuedRequest};
pub use super::rules::Rules;
use super::rules::gravest;
use super::stats::EndedRun;
pub use super::stats::{LastRun, RunStats};
use crate::backup::options::BeforeCommit;
use crate::claims::{dispatch_request, idempotent};
use crate::deadline;
use crate::error::{Code, Error, Result};
use crate::events::decoded::RunRequest;
use crate::job::{self, FinishedJob, Job, Origin};
use crate::monitor::{Context, Monitor};
use crate::replicas::pool::VaultPool;
use crate::report::{Action, Channel, Event, Outcome, Report, RunId};
use crate::runner::answer;

/// Takes requests and runs jobs.
pub struct Runner {
    rules: Rules,
    vaults: Arc<VaultPool>,
    monitor: Arc<dyn Monitor>,
    random: fn(&mut [u8]) -> Result<()>,
    stop: Arc<AtomicBool>,
    state: Mutex<RunnerState>,
    changed: Condvar,
    stats: Mutex<RunStats>,
    /// Threads that tell of runs of this program's own.
    telling: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the program to stop if it is dropped by a panic.
struct StopOnPanic<'s>(&'s AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Runner {
    /// A runner with an empty queue. It takes requests until `stop` is set.
    pub fn new(
        rules: Rules,
        vaults: Arc<VaultPool>,
        monitor: Arc<dyn Monitor>,
        random: fn(&mut [u8]) -> Result<()>,
        stop: Arc<AtomicBool>,
    ) -> Runner {
        let state = Mutex::new(RunnerState::new(Queue::new(rules.coalesce, rules.critical_max)));
        Runner {
            rules,
            vaults,
            monitor,
            random,
            stop,
            state,
            changed: Condvar::new(),
            stats: Mutex::default(),
            telling: Mutex::default(),
        }
    }

    /// The vaults that the runs work on.
    pub fn vaults(&self) -> &Arc<VaultPool> {
        &self.vaults
    }

    /// The rules that the configuration sets.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Statistics of the runs so far.
    pub fn stats(&self) -> RunStats {
        lock(&self.stats).clone()
    }

    /// Why an event tells of something that this service did itself, and so starts no run. `None` for every other event.
    pub fn is_own(&self, event: &Event) -> Option<&'static str> {
        self.rules.is_own(event, self.vaults.addresses())
    }

    /// The run that is under way, here or elsewhere.
    pub fn running(&self) -> Option<RunId> {
        let state = lock(&self.state);
        state.running.or_else(|| state.remote.first())
    }

    /// The last run that ended.
    pub fn last(&self) -> Option<LastRun> {
        lock(&self.state).last.clone()
    }

    /// The last backup that ended.
    pub fn last_backup(&self) -> Option<LastRun> {
        lock(&self.state).last_backup.clone()
    }

    /// A warning when at least nine tenths of the `WAITING` critical events that may wait with a promise of a run do so; else
    /// `None`.
    pub fn overload_warning(&self) -> Option<String> {
        let long = lock(&self.state).queue.promised_critical();
        let says = || {
            format!(
                "{long} critical events wait for a snapshot, and {WAITING} may wait at most: a backup by hand serves them all"
            )
        };
        (long >= WAITING / 10 * 9).then(says)
    }

    /// How far a run is, as long as that is remembered.
    pub fn progress(&self, run: RunId) -> Option<RunProgress> {
        lock(&self.state).known.get(&run).cloned()
    }

    /// Calls `work` with a context for work beside the runs, such as looking into the vault.
    pub fn context<T>(&self, work: impl FnOnce(&Context) -> T) -> T {
        self.within(&self.stop, work)
    }

    /// The same, for work that ends when `stop` is set.
    pub fn within<T>(&self, stop: &AtomicBool, work: impl FnOnce(&Context) -> T) -> T {
        let Rules { threads, parallel, .. } = self.rules;
        work(&Context { random: &self.random, threads, parallel, stop, monitor: &*self.monitor })
    }

    /// Takes a request, to be served by a run that begins after now.
    ///
    /// # Errors
    /// The answer, if it is clear already.
    pub fn submit(&self, request: RunRequest, way: Channel) -> Result<Ticket, Answer> {
        self.enqueue(received(request), (way, false), PromiseState::None)
    }

    /// Takes a request as [`Runner::submit`] does, which is never put off: the app has ended, and with it, perhaps, its disk.
    ///
    /// # Errors
    /// The answer, if it is clear already.
    pub fn submit_last(&self, request: RunRequest, way: Channel) -> Result<Ticket, Answer> {
        self.enqueue(received(request), (way, true), PromiseState::None)
    }

    fn enqueue(
        &self,
        request: RunRequest,
        (way, at_once): (Channel, bool),
        promise: PromiseState,
    ) -> Result<Ticket, Answer> {
        if let Some(why) = self.rules.refusal(&request) {
            return Err(Answer::Refused(why));
        }
        let app = self.rules.app().filter(|_| way != Channel::Run && request.action != Action::Verify);
        if let Some(why) = app.and_then(|app| app.status().refuses()) {
            return Err(Answer::Later(why.into(), Duration::from_secs(10)));
        }
        let bytes = dispatch_request::size(&request.event);
        if bytes > dispatch_request::ROOM {
            return Err(Answer::Refused("the event is too large for the run's report".into()));
        }
        let new = self.context(job::new_run).map_err(|why| Answer::Later(why.what(), Duration::from_secs(10)))?;
        let mut state = lock(&self.state);
        if state.closed || self.stop.load(Ordering::Relaxed) {
            return Err(Answer::shutting_down());
        }
        if state.queue.is_full(&request, &promise) {
            return Err(Answer::Later(format!("{WAITING} requests are waiting already"), Duration::from_secs(60)));
        }
        let (answer, receiver) = oneshot::channel();
        let run = state.queue.run_to_share(request.action, bytes).unwrap_or(new);
        state.know(run, RunProgress::Waiting);
        state.queue.push(QueuedRequest { run, request, way, at_once, bytes, answer, looked: false, promise });
        drop(state);
        self.changed.notify_all();
        Ok(Ticket { run, answer: receiver })
    }

    /// Runs what is asked for, one job after the other, until it is told to stop; then answers what still waits. Returns whether
    /// a vault has the report of every run that was promised, and of every restore that was done.
    pub fn work(&self) -> bool {
        std::thread::scope(|scope| {
            if let Some(dispatch) = &self.rules.dispatch {
                scope.spawn(|| {
                    // If that thread panicked, nobody would hear of runs that are away: so the service ends, and another one
                    // begins.
                    let _end = StopOnPanic(&self.stop);
                    self.observe_remote_runs(dispatch);
                });
            }
            scope.spawn(|| self.watch_promises());
            while let Some(group) = self.next() {
                self.serve(group);
            }
        });
        self.settle_all()
    }

    /// Waits for the requests that the next run serves. `None` when it is told to stop.
    fn next(&self) -> Option<Vec<QueuedRequest>> {
        let mut state = lock(&self.state);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                drop(state);
                let ended = self.close();
                self.tell_and_keep(ended);
                return None;
            }
            let now = Instant::now();
            let RunnerState { queue, remote, .. } = &mut *state;
            match queue.next(now, |action| remote.may(action)) {
                NextStep::Run(group) => {
                    state.running = group.first().map(|waiting| waiting.run);
                    state.cut = own::may_be_cut_short(&group).then(Arc::default);
                    return Some(group);
                }
                NextStep::PutOff(waiting, runs, after) => {
                    drop(state);
                    let identity = waiting.request.event.identity.as_deref().filter(|_| !waiting.looked);
                    let before = identity.and_then(|identity| self.served_before(identity));
                    let answer = before.unwrap_or_else(|| {
                        let why = format!(
                            "within an hour, {} for critical events began (--critical-max)",
                            crate::text::count_of(runs as u64, "run")
                        );
                        tracing::error!("a critical event is put off for {:.0} s: {why}", after.as_secs_f64());
                        Arc::new(Answer::Later(why, after))
                    });
                    state = lock(&self.state);
                    state.dismiss(*waiting, &answer);
                }
                NextStep::Nothing(until) => {
                    // An event that was served before need not wait for the run that it would share.
                    if let Some(identity) = state.queue.next_unlooked() {
                        drop(state);
                        let before = self.served_before(&identity);
                        state = lock(&self.state);
                        if let Some(answer) = before {
                            let taken = state.queue.take_by_identity(&identity);
                            state
                                .obligations
                                .taken
                                .extend(taken.iter().filter_map(|waiting| self.watched_promise(waiting)));
                            taken.into_iter().for_each(|waiting| state.dismiss(waiting, &answer));
                        }
                        continue;
                    }
                    // A signal that sets `stop` does not wake this thread, so it looks again soon.
                    let tick = Duration::from_millis(100);
                    let wait = until.map_or(tick, |until| tick.min(until.saturating_duration_since(now)));
                    state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Takes no more requests, and answers all that wait. Requests that were promised a run end with reports, which are returned:
    /// nobody has been told of them yet.
    fn close(&self) -> Vec<UnsettledRun> {
        let (answer, mut promised) = (Arc::new(Answer::shutting_down()), Vec::new());
        {
            let mut state = lock(&self.state);
            state.closed = true;
            for mut waiting in state.queue.clear() {
                state.know(waiting.run, RunProgress::Over(answer.clone()));
                let (nobody, _) = oneshot::channel();
                answer::tell(std::mem::replace(&mut waiting.answer, nobody), &answer);
                promised.push(waiting);
            }
        }
        let why = Error::failed("serve a request", "the service was told to stop before the run began")
            .with_code(Code::Stopped)
            .hint("Nobody sends it again: ask for it once more if it is still wanted (`lastgood backup` takes a snapshot now).");
        self.break_promises(promised, &why)
    }

    /// Serves requests of one kind by one run, except those that are served already or elsewhere.
    fn serve(&self, group: Vec<QueuedRequest>) {
        let deadline = Instant::now() + self.rules.run_timeout;
        let cut = lock(&self.state).cut.clone();
        let is_cut = || cut.as_ref().is_some_and(|cut| cut.load(Ordering::Relaxed));
        let is_over = || self.stop.load(Ordering::Relaxed) || Instant::now() >= deadline || is_cut();
        deadline::until(is_over, |over| self.within(over, |ctx| self.serve_within(group, deadline, ctx)));
        let mut state = lock(&self.state);
        state.running = None;
        state.queue.look(true);
    }

    /// The answer for an event that is served already. `None` also if that cannot be found out now: then its claim will tell.
    fn served_before(&self, identity: &str) -> Option<Arc<Answer>> {
        if let Some(before) = self.done_here(identity) {
            return Some(Arc::new(before));
        }
        let before = idempotent::find_served(&self.vaults, identity).unwrap_or_else(|why| {
            tracing::warn!("cannot see whether an event was served already: {}", why.what());
            // Each of the others would have to wait again for a store that is away.
            lock(&self.state).queue.look(false);
            None
        });
        before.map(|before| Arc::new(idempotent::EventOutcome::Before(before).into()))
    }

    fn serve_within(&self, group: Vec<QueuedRequest>, deadline: Instant, ctx: &Context) {
        let Some(QueuedRequest { run, way, .. }) = group.first() else { return };
        let (run, way) = (*run, *way);
        self.know(run, RunProgress::Running);
        let group = self.still_allowed(group);
        let (claims, failed) = self.claim_all(run, &group, ctx);
        let (mut mine, mut others) = (Vec::<(QueuedRequest, Claimed)>::with_capacity(group.len()), Vec::new());
        for (waiting, claim) in group.into_iter().zip(claims) {
            match claim {
                Ok(claim) => mine.push((waiting, claim)),
                Err(answer) => others.push((waiting, answer)),
            }
        }
        // Before its senders hear of it: with the answer an instance may lose its CPU.
        let failed = failed.filter(|_| mine.is_empty());
        let told = failed.and_then(|why| self.report_unclaimed((run, way), &others, why, ctx));
        let other = self.answer_all(others);
        if mine.is_empty() {
            let mut state = lock(&self.state);
            state.queue.forget_run(run);
            if let Some(answer) = told.or(other) {
                state.know(run, RunProgress::Over(answer));
            }
            return;
        }
        if self.rules.dispatch.is_some() {
            mine = self.keep_one_vault(mine, ctx);
        }
        let Some(job) = self.job(&mine, deadline) else { return };
        let cause = self.cause(way, events_of(&mine));
        let ran = match &self.rules.dispatch {
            None => match (self.rules.app(), &job) {
                (Some(app), Job::Restore(options)) => app.restore(run, options, cause, ctx),
                _ => job::run(run, &job, cause, &self.vaults, ctx),
            },
            Some(dispatch) => match self.dispatch(dispatch, (run, way), (&job, &cause), &mut mine, ctx) {
                Ok(()) => return,
                Err(why) => job::not_run(run, &job, cause, why, &self.vaults, ctx),
            },
        };
        if ctx.stop.load(Ordering::Relaxed) && Instant::now() >= deadline && !self.stop.load(Ordering::Relaxed) {
            tracing::error!(
                "the run {run} took longer than {:?} (--run-timeout) and was ended",
                self.rules.run_timeout
            );
        }
        self.log(&ran, mine.iter().any(|(waiting, _)| waiting.is_told_of()));
        self.count((&ran.report).into());
        let done = Arc::new(Answer::from_job(&ran));
        if mine.iter().all(|(waiting, _)| waiting.way == Channel::Run) {
            return self.end_own(mine.into_iter().map(|(waiting, _)| waiting), ran, &done);
        }
        if let Some(app) = self.rules.app().filter(|_| ran.report.action == Action::Backup) {
            app.saved(run, &done);
        }
        let settled = self.close_all(&mine, &ran, ctx);
        // Once it is told to stop, there is little time: everything that ends gets its report before anybody is told of any.
        let ended = if self.stop.load(Ordering::Relaxed) { self.close() } else { Vec::new() };
        job::tell_all(std::iter::once(&ran).chain(ended.iter().map(|ended| &ended.ran)), ctx);
        {
            let mut state = lock(&self.state);
            if !ran.report.result.stays(ran.report.action) && !self.is_of_own(&ran.report.events) {
                state.queue.uncount(run);
            }
            // Before anybody hears of it, so that whoever asks then finds it so.
            state.running = None;
            state.know(run, RunProgress::Over(done.clone()));
        }
        let promised = mine.iter().any(|(waiting, _)| waiting.promised().is_some());
        let (others, left): (Vec<_>, Vec<_>) = settled.into_iter().unzip();
        ended.into_iter().for_each(|ended| self.keep(ended));
        self.keep(UnsettledRun { ran, claims: left.into_iter().flatten().collect(), promised });
        for ((waiting, _), other) in mine.into_iter().zip(others) {
            answer::tell(waiting.answer, &other.map_or_else(|| done.clone(), |other| Arc::new(other.into())));
        }
    }

    /// Whether everything that asked for a run is about this service: alerts and errors that its failed runs give rise to are,
    /// and each would ask for the next run.
    fn is_of_own(&self, events: &[Event]) -> bool {
        !events.is_empty() && events.iter().all(|event| self.rules.is_about_own(event))
    }

    /// Logs that a run did not end as it should, unless whoever asked for it does. The line that is logged for every run raises no alarm.
    fn log(&self, ran: &FinishedJob, told: bool) {
        let Report { run, result, .. } = &ran.report;
        let why = ran.report.trouble().map(|why| format!(": {why}")).unwrap_or_default();
        match &ran.error {
            _ if told => {}
            Some(why) if self.stop.load(Ordering::Relaxed) || self.was_cut_short(ran) => {
                tracing::warn!(code = why.word(), "the run {run} ended as {result}: {why}");
            }
            Some(why) => tracing::error!(code = why.word(), "the run {run} ended as {result}: {why}"),
            None if *result != Outcome::Complete => {
                tracing::error!("the run {run} ended as {result}{why}; `lastgood runs {run}` says more");
            }
            None => {}
        }
    }

    /// The origin of a run for these events.
    fn cause(&self, way: Channel, events: Vec<Event>) -> Origin {
        Origin {
            way,
            events,
            place: self.rules.place.clone(),
            notify: self.rules.notify.clone(),
            hooks: self.rules.hooks.clone(),
        }
    }

    fn know(&self, run: RunId, progress: RunProgress) {
        lock(&self.state).know(run, progress);
    }

    /// The job that serves these requests, which are of one kind.
    fn job(&self, group: &[(QueuedRequest, Claimed)], deadline: Instant) -> Option<Job> {
        let chosen = gravest(group.iter().map(|(waiting, _)| &waiting.request))?;
        // A request without a contested claim is served by nobody else: such a run asks no claim before it commits.
        let held: Option<Vec<_>> = group.iter().map(|(_, claim)| claim.contested()).collect();
        let before = BeforeCommit::new(move || {
            if Instant::now() >= deadline {
                let why = "the run has taken longer than it may (--run-timeout)";
                return Err(Error::failed("commit the snapshot", why).with_code(Code::Stopped));
            }
            held.as_deref().map_or(Ok(()), idempotent::check_any)
        });
        let mut job = self.rules.job(chosen, Some(before));
        // At the end of an app there is no time for a check that nobody asked for.
        if let Job::Backup { options, .. } = &mut job
            && group.iter().any(|(waiting, _)| waiting.at_once)
        {
            options.check = self.rules.backup.check;
        }
        Some(job)
    }

    fn count(&self, ended: EndedRun) {
        let last = lock(&self.stats).count(ended);
        let mut state = lock(&self.state);
        if last.action == Action::Backup {
            state.last_backup = Some(last.clone());
        }
        state.last = Some(last);
    }
}

/// A request that has just come in. One that does not say when it was sent was sent now; it may wait for long.
fn received(mut request: RunRequest) -> RunRequest {
    request.event.time.get_or_insert_with(Timestamp::now);
    request
}

/// The events of requests that share a run, each once.
fn events_of(group: &[(QueuedRequest, Claimed)]) -> Vec<Event> {
    let mut seen = HashSet::new();
    let events = group.iter().map(|(waiting, _)| &waiting.request.event);
    events.filter(|event| event.identity.as_ref().is_none_or(|identity| seen.insert(identity))).cloned().collect()
}

#[cfg(test)]
mod tests;
