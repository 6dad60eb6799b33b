//! From requests to runs: what waits, what shares a run, what is answered with what was done before.
//!
//! One worker thread runs one job at a time. A request is served by a run that starts after it arrived; all backups that wait
//! when a run starts share it. A burst of critical events makes one snapshot at once and at most one more when the window of
//! [`Rules::coalesce`] is over. A client that hangs up takes back nothing: its run goes on.

mod answer;
mod queue;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::oneshot;

pub use self::answer::{Answer, Progress, Ticket};
use self::queue::{Next, Queue, WAITING, Waiting};
use super::claim::{Asker, Identity};
use super::event::{Request, labels};
use super::once::{self, Held, Taken};
use crate::backup;
use crate::backup::commit::BeforeCommit;
use crate::error::{Error, Result};
use crate::job::{self, Cause, Job};
use crate::monitor::{Context, Monitor};
use crate::notify::Notify;
use crate::replicas::vaults::Vaults;
use crate::report::{Action, Event, Outcome, Place, Report, RunId, Way};
use crate::vault::root::Reason;
use crate::{restore, verify};

/// Answers that are kept for whoever asks for a run by its id; older ones are in the vault.
const KEPT: usize = 256;

/// What the configuration says of runs that others ask for.
#[derive(Clone)]
pub struct Rules {
    /// How backups are taken.
    pub backup: backup::Options,
    /// Whether a vault may be made in a bucket that has none.
    pub init: bool,
    /// Where and how snapshots are restored; the snapshot is the request's.
    pub restore: restore::Options,
    /// How vaults are verified.
    pub verify: verify::Options,
    /// Whether a restore may be asked for.
    pub allow_restore: bool,
    /// A restore that was asked for longer ago than this is refused: by now it may do harm.
    pub restore_age: Duration,
    /// A run that takes longer ends, and another one may take over its event.
    pub run_timeout: Duration,
    /// After a run for a critical event, further ones wait for so long, to share one.
    pub coalesce: Duration,
    /// Runs for critical events in an hour.
    pub critical_max: usize,
    /// Where runs take place.
    pub place: Place,
    /// Who is told how they ended.
    pub notify: Notify,
    /// Threads for each kind of work, and uploads or reads at the same time.
    pub threads: usize,
    pub parallel: usize,
}

/// What keeps others from serving an event meanwhile.
enum Claimed {
    /// A claim.
    Held(Arc<Held>),
    /// Nothing, as there was no vault: it is claimed when there is one.
    Late(Asker),
    /// Nothing, as it could not be told from another event.
    Nothing,
}

impl Claimed {
    fn held(&self) -> Option<Arc<Held>> {
        match self {
            Claimed::Held(held) => Some(held.clone()),
            Claimed::Late(_) | Claimed::Nothing => None,
        }
    }
}

struct State {
    queue: Queue,
    known: HashMap<RunId, Progress>,
    order: VecDeque<RunId>,
    running: Option<RunId>,
    last: Option<Last>,
    closed: bool,
}

/// The last run.
#[derive(Debug, Clone, Serialize)]
pub struct Last {
    /// Which it was.
    pub run: RunId,
    /// What it was for.
    pub action: Action,
    /// How it ended.
    pub result: Outcome,
    /// When.
    pub finished: Timestamp,
    /// What went wrong.
    pub error: Option<String>,
}

/// What has been run so far, for metrics.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Runs by what they were for and how they ended.
    pub runs: BTreeMap<(&'static str, &'static str), u64>,
    /// Seconds that they took, by what they were for.
    pub seconds: BTreeMap<&'static str, f64>,
    /// Bytes that backups created.
    pub uploaded: u64,
    /// Requests to stores that were made again.
    pub retries: u64,
    /// When an action last succeeded.
    pub success: BTreeMap<&'static str, Timestamp>,
}

/// Takes requests and runs jobs.
pub struct Desk {
    rules: Rules,
    vaults: Arc<Vaults>,
    monitor: Arc<dyn Monitor>,
    random: fn(&mut [u8]) -> Result<()>,
    stop: Arc<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
    tally: Mutex<Tally>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn know(&mut self, run: RunId, progress: Progress) {
        if self.known.insert(run, progress).is_none() {
            self.order.push_back(run);
        }
        while self.order.len() > KEPT {
            let Some(at) = self.order.iter().position(|run| matches!(self.known.get(run), Some(Progress::Over(_))))
            else {
                return;
            };
            if let Some(old) = self.order.remove(at) {
                self.known.remove(&old);
            }
        }
    }
}

impl Desk {
    /// A desk at which nothing waits. It takes requests until `stop` is set.
    pub fn new(
        rules: Rules,
        vaults: Arc<Vaults>,
        monitor: Arc<dyn Monitor>,
        random: fn(&mut [u8]) -> Result<()>,
        stop: Arc<AtomicBool>,
    ) -> Desk {
        let state = Mutex::new(State {
            queue: Queue::new(rules.coalesce, rules.critical_max),
            known: HashMap::new(),
            order: VecDeque::new(),
            running: None,
            last: None,
            closed: false,
        });
        Desk { rules, vaults, monitor, random, stop, state, changed: Condvar::new(), tally: Mutex::default() }
    }

    /// The vaults that it works on.
    pub fn vaults(&self) -> &Arc<Vaults> {
        &self.vaults
    }

    /// What the configuration says.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What has been run so far.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// The run that is under way.
    pub fn running(&self) -> Option<RunId> {
        lock(&self.state).running
    }

    /// The last run that ended.
    pub fn last(&self) -> Option<Last> {
        lock(&self.state).last.clone()
    }

    /// How far a run is, as long as that is remembered.
    pub fn progress(&self, run: RunId) -> Option<Progress> {
        lock(&self.state).known.get(&run).cloned()
    }

    /// A context for work beside the runs: for looking into the vault.
    pub fn context<T>(&self, work: impl FnOnce(&Context) -> T) -> T {
        self.within(&self.stop, work)
    }

    fn within<T>(&self, stop: &AtomicBool, work: impl FnOnce(&Context) -> T) -> T {
        let Rules { threads, parallel, .. } = self.rules;
        work(&Context { random: &self.random, threads, parallel, stop, monitor: &*self.monitor })
    }

    /// Takes a request, to be served by a run that begins after now.
    ///
    /// # Errors
    /// The answer, where it is clear already.
    pub fn ask(&self, request: Request, way: Way) -> Result<Ticket, Answer> {
        if request.action == Action::Restore {
            if !self.rules.allow_restore {
                return Err(Answer::Refused("restores may not be asked for here (--allow-restore)".into()));
            }
            let limit = SignedDuration::try_from(self.rules.restore_age).unwrap_or(SignedDuration::MAX);
            if let Some(age) = request.event.time.map(|time| Timestamp::now().duration_since(time))
                && age > limit
            {
                let (age, limit) =
                    (SignedDuration::from_secs(age.as_secs()), SignedDuration::from_secs(limit.as_secs()));
                let why = format!("the restore was asked for {age:#} ago, and more than {limit:#} is too long");
                return Err(Answer::Refused(why));
            }
        }
        if let Err(why) = backup::commit::check_labels(&request.labels) {
            return Err(Answer::Refused(why.what()));
        }
        let new = self.context(job::new_run).map_err(|why| Answer::Later(why.what(), Duration::from_secs(10)))?;
        let mut state = lock(&self.state);
        if state.closed || self.stop.load(Ordering::Relaxed) {
            return Err(Answer::ends());
        }
        if state.queue.is_full() {
            return Err(Answer::Later(format!("{WAITING} requests wait already"), Duration::from_secs(60)));
        }
        let (answer, receiver) = oneshot::channel();
        let run = state.queue.shared(request.action).unwrap_or(new);
        state.know(run, Progress::Waiting);
        state.queue.push(Waiting { run, request, way, answer });
        drop(state);
        self.changed.notify_all();
        Ok(Ticket { run, answer: receiver })
    }

    /// Runs what is asked for, one job after the other, until it is told to stop; then answers what still waits.
    pub fn work(&self) {
        while let Some(group) = self.next() {
            self.serve(group);
        }
    }

    /// What the next run serves; it waits for that. None when it is told to stop.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut state = lock(&self.state);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                state.closed = true;
                let answer = Arc::new(Answer::ends());
                for waiting in state.queue.clear() {
                    state.know(waiting.run, Progress::Over(answer.clone()));
                    answer::tell(waiting.answer, &answer);
                }
                return None;
            }
            let now = Instant::now();
            match state.queue.next(now, |_| true) {
                Next::Run(group) => {
                    state.running = group.first().map(|waiting| waiting.run);
                    return Some(group);
                }
                Next::PutOff(waiting, runs, after) => {
                    let why = format!("there were {runs} runs for critical events within an hour");
                    tracing::error!("a critical event is put off for {:.0} s: {why}", after.as_secs_f64());
                    let answer = Arc::new(Answer::Later(why, after));
                    // Others may wait for the same run.
                    if state.queue.shared(Action::Backup).is_none() {
                        state.know(waiting.run, Progress::Over(answer.clone()));
                    }
                    answer::tell(waiting.answer, &answer);
                }
                Next::Nothing(until) => {
                    // Told to stop, it looks up soon; a signal does not wake it.
                    let tick = Duration::from_millis(100);
                    let wait = until.map_or(tick, |until| tick.min(until.saturating_duration_since(now)));
                    state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Serves requests of one kind by one run, those that are not served already or elsewhere.
    fn serve(&self, group: Vec<Waiting>) {
        let over = Arc::new(AtomicBool::new(false));
        let deadline = Instant::now() + self.rules.run_timeout;
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (watched, ended) = (over.clone(), &ended);
            scope.spawn(move || {
                while !ended.load(Ordering::Acquire) {
                    if self.stop.load(Ordering::Relaxed) || Instant::now() >= deadline {
                        watched.store(true, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            self.within(&over, |ctx| self.serve_within(group, deadline, ctx));
            ended.store(true, Ordering::Release);
        });
        lock(&self.state).running = None;
    }

    fn serve_within(&self, group: Vec<Waiting>, deadline: Instant, ctx: &Context) {
        let Some(Waiting { run, way, .. }) = group.first() else { return };
        let (run, way) = (*run, *way);
        self.know(run, Progress::Running);
        let (mut mine, mut other) = (Vec::with_capacity(group.len()), None);
        for waiting in group {
            match self.claim(run, &waiting, ctx) {
                Ok(claim) => mine.push((waiting, claim)),
                Err(answer) => {
                    let answer = Arc::new(answer);
                    answer::tell(waiting.answer, &answer);
                    other = Some(answer);
                }
            }
        }
        if mine.is_empty() {
            if let Some(answer) = other {
                self.know(run, Progress::Over(answer));
            }
            return;
        }
        let events = mine.iter().map(|(waiting, _)| waiting.request.event.clone()).collect();
        let cause = self.cause(way, events);
        let ran = job::run(run, &self.job(&mine, deadline), cause, &self.vaults, ctx);
        if ctx.stop.load(Ordering::Relaxed) && Instant::now() >= deadline && !self.stop.load(Ordering::Relaxed) {
            tracing::error!(
                "the run {run} took longer than {:.0} s and was ended",
                self.rules.run_timeout.as_secs_f64()
            );
        }
        self.count(&ran.report);
        let done = Arc::new(Answer::of(&ran));
        let close = |(waiting, claim): (Waiting, Claimed)| {
            let other = match claim {
                Claimed::Held(held) => held.close(&ran, &self.vaults, ctx),
                Claimed::Late(asker) => once::late(&ran, &self.vaults, &asker, &self.own_cause(&waiting), ctx),
                Claimed::Nothing => None,
            };
            (waiting.answer, other.map_or_else(|| done.clone(), |other| Arc::new(other.into())))
        };
        let closed: Vec<_> = mine.into_iter().map(close).collect();
        self.know(run, Progress::Over(done.clone()));
        closed.into_iter().for_each(|(to, answer)| answer::tell(to, &answer));
    }

    /// Claims the event of a request for a run.
    ///
    /// # Errors
    /// The answer, where the run is not to serve it.
    fn claim(&self, run: RunId, waiting: &Waiting, ctx: &Context) -> Result<Claimed, Answer> {
        let Some(identity) = waiting.request.event.identity.clone() else { return Ok(Claimed::Nothing) };
        let asker = Asker {
            identity: Identity::Event(identity),
            action: waiting.request.action,
            run,
            host: self.rules.place.host.clone(),
            timeout: self.rules.run_timeout,
        };
        match once::take(&self.vaults, &asker, &self.own_cause(waiting), ctx) {
            Ok(Taken::Held(held)) => Ok(Claimed::Held(held)),
            Ok(Taken::NoVault) => Ok(Claimed::Late(asker)),
            Ok(Taken::Not(answer)) => Err(answer.into()),
            Err(why) => Err(Answer::Later(why.what(), Duration::from_secs(30))),
        }
    }

    /// Why a run for these events is run.
    fn cause(&self, way: Way, events: Vec<Event>) -> Cause {
        Cause { way, events, place: self.rules.place.clone(), notify: self.rules.notify.clone() }
    }

    /// Why a request's own run would be run.
    fn own_cause(&self, waiting: &Waiting) -> Cause {
        self.cause(waiting.way, vec![waiting.request.event.clone()])
    }

    fn know(&self, run: RunId, progress: Progress) {
        lock(&self.state).know(run, progress);
    }

    /// The job that serves these requests, which are of one kind.
    fn job(&self, group: &[(Waiting, Claimed)], deadline: Instant) -> Job {
        let request = &group[0].0.request;
        match request.action {
            Action::Verify => Job::Verify(self.rules.verify.clone()),
            Action::Restore => {
                let mut options = self.rules.restore.clone();
                options.snapshot = request.snapshot.clone().unwrap_or(options.snapshot);
                Job::Restore(options)
            }
            Action::Backup => {
                let mut options = self.rules.backup.clone();
                // The gravest of the reasons, with its labels; what each event said is in the run's report.
                let rank = |reason: Reason| match reason {
                    Reason::Critical => 0,
                    Reason::Shutdown => 1,
                    Reason::Schedule => 2,
                    Reason::Manual => 3,
                };
                let gravest = group.iter().min_by_key(|(waiting, _)| rank(waiting.request.reason));
                if let Some((Waiting { request, .. }, _)) = gravest {
                    options.reason = request.reason;
                    options.labels = labels::fit(options.labels.into_iter().chain(request.labels.clone()), 0);
                }
                if options.reason == Reason::Critical && options.sqlite {
                    options.check = options.check.or(Some(crate::vault::entry::CheckKind::Quick));
                }
                let held: Option<Vec<_>> = group.iter().map(|(_, claim)| claim.held()).collect();
                options.before_commit = Some(BeforeCommit::new(move || {
                    if Instant::now() >= deadline {
                        return Err(Error::failed("commit the snapshot", "the run has taken longer than it may"));
                    }
                    held.as_deref().map_or(Ok(()), any_is_ours)
                }));
                Job::Backup { options: Box::new(options), init: self.rules.init }
            }
        }
    }

    fn count(&self, report: &Report) {
        let (action, result) = (report.action.name(), report.result.name());
        let mut tally = lock(&self.tally);
        *tally.runs.entry((action, result)).or_default() += 1;
        let seconds = report.finished.duration_since(report.started).as_secs_f64();
        *tally.seconds.entry(action).or_default() += seconds;
        if report.result == Outcome::Complete {
            tally.success.insert(action, report.finished);
        }
        if let Some(crate::report::Done::Backup(done)) = &report.done {
            tally.uploaded += done.taken.uploaded_bytes;
            tally.retries += done.taken.traffic.map_or(0, |traffic| traffic.retries);
        }
        drop(tally);
        let error = report.error.as_ref().map(|failure| failure.error.clone());
        let last =
            Last { run: report.run, action: report.action, result: report.result, finished: report.finished, error };
        lock(&self.state).last = Some(last);
    }
}

/// Fails when no event that a run serves is its own any more. A request without a claim is served by nobody else.
fn any_is_ours(held: &[Arc<Held>]) -> Result<()> {
    let mut lost = Ok(());
    for held in held {
        lost = held.check();
        if lost.is_ok() {
            break;
        }
    }
    lost
}

#[cfg(test)]
mod tests;
