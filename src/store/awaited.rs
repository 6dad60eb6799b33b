//! Stores of which one may hang: a call that is not answered in time is given up, so that the others can be used, and so that the
//! program ends when it is told to.
//!
//! A blocking call cannot be taken back: a mount point whose server is gone keeps it for as long as it likes. So each call
//! runs on a thread of its own, which is left alone when the caller goes on without it; the program's end does not wait
//! for it. Until such a call is answered after all, further calls to that store fail at once.
//!
//! How long a call may take depends on what the time is needed for:
//!
//! | time | a call that only looks | a call that moves much |
//! |---|---|---|
//! | ordinarily, in a folder | 60 s | 10 min |
//! | ordinarily, in a bucket | as long as that takes, which ends by itself | |
//! | little is left ([`Awaiting::hurry`]) | a quarter of what is left, 10 s at most | half of it |
//! | the program is told to stop | 3 s | 3 s |
//!
//! A store whose last call ended without an answer, as those to buckets end, is not asked again for 30 s if another one
//! answers: a backup asks several times, and each would take that long.
//!
//! Calls that look whether an epoch is still this instance's have limits of their own ([`Awaiting::within`]): another instance
//! counts on it that they are made again and again, and answered as soon as the store answers.
//!
//! While little time is left, a store is given up only if another one answers, and for all of that time: the last one is
//! waited for to the end, whatever it does.

mod staging;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use jiff::Timestamp;

use self::staging::AwaitedStaging;
use super::{FreeSpace, Meta, Result, Staging, Store, StoreError, Traffic, Unshared};
use crate::retry::Haste;

/// How long a folder may take for a call that only looks.
const LOOK: Duration = Duration::from_secs(60);
/// How long a folder may take for a call that moves much.
const MUCH: Duration = Duration::from_secs(600);
/// The longest share of the time that is left for a call that only looks.
const SHARE: Duration = Duration::from_secs(10);
/// How long any store may take once the program is told to stop.
const STOPPED: Duration = Duration::from_secs(3);
/// How long a store that did not answer is not asked again.
const AGAIN: Duration = Duration::from_secs(30);
/// How often a caller looks whether its call is to be given up.
const TICK: Duration = Duration::from_millis(50);
/// How many calls to a store that ends them by itself may be without an answer at a time where each has a limit.
const UNANSWERED: usize = 8;
/// A body of more bytes than this moves much.
const SMALL: usize = 1 << 20;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    Look,
    Much,
}

/// How long a look is not answered until its store counts as silent: it takes much less where that answers.
const SILENT: Duration = Duration::from_secs(1);

/// A call that is not answered.
struct Pending {
    since: Instant,
    effort: Effort,
    /// Whether the caller has gone on without it.
    given_up: bool,
}

/// One of the stores.
struct StoreCalls {
    pending: BTreeMap<u64, Pending>,
    /// Whether its last call was answered.
    answers: bool,
    /// When its last call ended without an answer.
    failed: Option<Instant>,
    /// Whether it is given up for as long as little time is left.
    left_out: bool,
    /// Whether its calls end by themselves.
    ends: bool,
}

/// The time that is left for everything.
#[derive(Clone, Copy)]
struct Hurry {
    since: Instant,
    until: Instant,
}

#[derive(Default)]
struct AwaitingState {
    stores: Vec<StoreCalls>,
    hurry: Option<Hurry>,
    /// How long any call may take at most, whatever else holds, and whether other stores answer or not.
    within: Option<Duration>,
    /// When it was noticed that the program is told to stop.
    stopped: Option<Instant>,
    serial: u64,
    /// What the stores themselves go by.
    haste: Haste,
}

impl AwaitingState {
    /// How long a call may take, from when on, as things are. `None` if it ends by itself.
    fn limit(&self, store: &StoreCalls, call: &Pending) -> Option<(Instant, Duration)> {
        if let Some(stopped) = self.stopped {
            return Some((call.since.max(stopped), STOPPED));
        }
        if let Some(within) = self.within {
            let left = self.hurry.map(|hurry| hurry.until.saturating_duration_since(call.since) / 4);
            return Some((call.since, left.map_or(within, |left| left.min(within))));
        }
        if let Some(hurry) = self.hurry {
            let since = call.since.max(hurry.since);
            let left = hurry.until.saturating_duration_since(since);
            return Some((since, if call.effort == Effort::Look { (left / 4).min(SHARE) } else { left / 2 }));
        }
        let ordinary = if call.effort == Effort::Look { LOOK } else { MUCH };
        (!store.ends).then_some((call.since, ordinary))
    }

    fn is_overdue(&self, store: &StoreCalls, call: &Pending, now: Instant) -> bool {
        call.given_up
            || self.limit(store, call).is_some_and(|(since, limit)| now.saturating_duration_since(since) >= limit)
    }

    fn others_answer(&self, at: usize, now: Instant) -> bool {
        self.stores.iter().enumerate().any(|(other, store)| other != at && self.answers(store, now))
    }

    fn answers(&self, store: &StoreCalls, now: Instant) -> bool {
        store.answers && !store.left_out && !store.pending.values().any(|call| self.is_overdue(store, call, now))
    }
}

/// The calls to several stores, and how long each may take.
pub struct Awaiting {
    stop: Arc<AtomicBool>,
    state: Mutex<AwaitingState>,
}

impl Awaiting {
    /// Calls that get little time once `stop` is set.
    pub fn new(stop: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Awaiting { stop, state: Mutex::default() })
    }

    /// The same calls, of which none takes longer than this, and none is left out since one before was not answered.
    pub fn within(stop: Arc<AtomicBool>, within: Duration) -> Arc<Self> {
        let state = AwaitingState { within: Some(within), ..AwaitingState::default() };
        Arc::new(Awaiting { stop, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, AwaitingState> {
        // Each change is whole before anything that might panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has stores go by the time that is left, too, which shorten their own pauses then.
    pub fn with_haste(self: Arc<Self>, haste: Haste) -> Arc<Self> {
        self.state().haste = haste;
        self
    }

    /// All is to be done until then: calls that are under way get their share of that time, too. If that was said before,
    /// the earlier end counts.
    pub fn hurry(&self, until: Instant) {
        let mut state = self.state();
        state.haste.begin(until);
        match &mut state.hurry {
            Some(hurry) => hurry.until = hurry.until.min(until),
            None => state.hurry = Some(Hurry { since: Instant::now(), until }),
        }
    }

    /// There is time again: a store that was left out is asked again.
    pub fn take_time(&self) {
        let mut state = self.state();
        state.hurry = None;
        state.haste.end();
        state.stores.iter_mut().for_each(|store| (store.left_out, store.failed) = (false, None));
    }

    /// Whether a look into one of the stores is not answered, for [`SILENT`] at least.
    pub fn is_unanswered(&self) -> bool {
        let (now, state) = (Instant::now(), self.state());
        let waits = |call: &Pending| call.effort == Effort::Look && now.saturating_duration_since(call.since) >= SILENT;
        let is_silent =
            |store: &StoreCalls| state.within.is_some() && store.failed.is_some() || store.pending.values().any(waits);
        state.stores.iter().any(is_silent)
    }

    /// Returns a store whose calls are awaited here; `ends` says that they end by themselves.
    pub fn store(self: &Arc<Self>, inner: Arc<dyn Store>, ends: bool) -> AwaitedStore {
        let mut state = self.state();
        let (pending, answers, failed, left_out) = (BTreeMap::new(), false, None, false);
        state.stores.push(StoreCalls { pending, answers, failed, left_out, ends });
        AwaitedStore { inner, calls: self.clone(), at: state.stores.len() - 1 }
    }

    /// Notes a call. Returns its number.
    ///
    /// # Errors
    /// Why the store is not asked.
    fn begin(&self, at: usize, effort: Effort) -> Result<u64, String> {
        let now = Instant::now();
        let mut state = self.state();
        state.serial += 1;
        let serial = state.serial;
        let (others_answer, within) = (state.others_answer(at, now), state.within);
        let store = &mut state.stores[at];
        if store.left_out {
            return Err("it did not answer, and is left out of what has to be done in a short time".into());
        }
        // A connection may hang for longer than its server does; what hangs in the kernel goes on when its server does.
        let may_be_asked = within.is_some() && store.ends && store.pending.len() < UNANSWERED;
        if let Some(stuck) = store.pending.values().find(|call| call.given_up).filter(|_| !may_be_asked) {
            let long = now.saturating_duration_since(stuck.since).as_secs();
            return Err(format!("it has not answered for {long} s"));
        }
        let ago = store.failed.map(|failed| now.saturating_duration_since(failed));
        if let Some(ago) = ago.filter(|ago| within.is_none() && *ago < AGAIN && others_answer) {
            return Err(format!("it did not answer {:.1} s ago", ago.as_secs_f64()));
        }
        store.pending.insert(serial, Pending { since: now, effort, given_up: false });
        Ok(serial)
    }

    /// Notes the answer to a call.
    fn end(&self, at: usize, serial: u64, answers: bool) {
        let mut state = self.state();
        let store = &mut state.stores[at];
        store.pending.remove(&serial);
        store.answers = answers;
        store.failed = (!answers).then(Instant::now);
    }

    /// Whether a call is to be given up now, and why.
    fn given_up(&self, at: usize, serial: u64, doing: &dyn Fn() -> String) -> Option<StoreError> {
        let now = Instant::now();
        let mut state = self.state();
        if self.stop.load(Ordering::Relaxed) {
            state.stopped.get_or_insert(now);
        }
        let store = &state.stores[at];
        let call = store.pending.get(&serial)?;
        if !state.is_overdue(store, call, now) {
            return None;
        }
        let long = now.saturating_duration_since(call.since).as_secs_f64();
        let (is_stop, is_hurry) = (state.stopped.is_some(), state.hurry.is_some() && state.within.is_none());
        if is_hurry && !is_stop && !state.others_answer(at, now) {
            return None;
        }
        let store = &mut state.stores[at];
        store.left_out |= is_hurry;
        store.pending.get_mut(&serial)?.given_up = true;
        let doing = doing();
        Some(match is_stop {
            true => StoreError::Stopped { doing },
            false => StoreError::Unreachable { doing, why: format!("no answer within {long:.1} s") },
        })
    }

    /// Waits for an answer.
    fn wait<T>(&self, at: usize, serial: u64, answer: &Receiver<T>, doing: &dyn Fn() -> String) -> Result<T> {
        loop {
            match answer.recv_timeout(TICK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) => self.given_up(at, serial, doing).map_or(Ok(()), Err)?,
                Err(RecvTimeoutError::Disconnected) => {
                    self.end(at, serial, false);
                    return Err(failed(doing(), "its thread ended"));
                }
            }
        }
    }
}

fn failed(doing: String, why: impl Into<String>) -> StoreError {
    StoreError::Failed { doing, source: io::Error::other(why.into()) }
}

/// Whether an answer shows that the store can be reached.
fn shows<T>(answer: &Result<T>) -> bool {
    !matches!(answer, Err(StoreError::Unreachable { .. } | StoreError::Stopped { .. }))
}

/// A store whose calls are given up when they take too long.
pub struct AwaitedStore {
    inner: Arc<dyn Store>,
    calls: Arc<Awaiting>,
    at: usize,
}

impl AwaitedStore {
    fn doing(&self, what: &str) -> String {
        format!("{what} in {}", self.inner.url())
    }

    /// Makes a call.
    fn call<T: Send + 'static>(
        &self,
        (effort, what): (Effort, &str),
        ask: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let doing = || self.doing(what);
        let at = self.at;
        let unreachable = |why| StoreError::Unreachable { doing: doing(), why };
        let serial = self.calls.begin(at, effort).map_err(unreachable)?;
        let (tell, answer) = bounded(1);
        let (inner, calls) = (self.inner.clone(), self.calls.clone());
        let work = move || {
            let answer = ask(&*inner);
            calls.end(at, serial, shows(&answer));
            // The caller may have gone on without it.
            let _ = tell.send(answer);
        };
        if let Err(why) = thread::Builder::new().name("store".into()).spawn(work) {
            self.calls.end(at, serial, true);
            return Err(StoreError::Failed { doing: doing(), source: why });
        }
        self.calls.wait(at, serial, &answer, &doing)?
    }

    /// Makes a call that has no error. `None` if it is given up.
    fn look<T: Send + 'static>(&self, what: &str, ask: impl FnOnce(&dyn Store) -> T + Send + 'static) -> Option<T> {
        self.call((Effort::Look, what), |store| Ok(ask(store))).ok()
    }
}

/// How much a body is.
fn effort(body: &[u8]) -> Effort {
    if body.len() > SMALL { Effort::Much } else { Effort::Look }
}

impl Store for AwaitedStore {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        let (name, body) = (name.to_owned(), body.concat());
        let what = format!("create {name}");
        self.call((effort(&body), &what), move |store| store.create(&name, &[&body]))
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (name, what) = (name.to_owned(), format!("read {name}"));
        self.call((Effort::Look, &what), move |store| store.get(&name, limit))
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        let (name, what) = (name.to_owned(), format!("read {name}"));
        self.call((Effort::Look, &what), move |store| store.get_range(&name, offset, length))
    }

    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        let (folder, what) = (folder.to_owned(), format!("list {folder}"));
        self.call((Effort::Much, &what), move |store| store.list(&folder))
    }

    fn list_from(&self, folder: &str, from: &str) -> Result<Vec<Meta>> {
        let (folder, from, what) = (folder.to_owned(), from.to_owned(), format!("list {folder}"));
        self.call((Effort::Much, &what), move |store| store.list_from(&folder, &from))
    }

    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        let known: Vec<String> = known.iter().map(|known| (*known).to_owned()).collect();
        self.call((Effort::Look, "list all"), move |store| {
            store.other_than(&known.iter().map(String::as_str).collect::<Vec<_>>())
        })
    }

    fn prepare(&self) -> Result<()> {
        self.call((Effort::Look, "prepare a vault"), |store| store.prepare())
    }

    fn open_to_others(&self) -> Option<u32> {
        self.look("look at the modes", |store| store.open_to_others()).flatten()
    }

    fn unshared(&self) -> Option<Unshared> {
        self.look("look at the modes", |store| store.unshared()).flatten()
    }

    fn denied(&self, name: &str) -> Option<StoreError> {
        let name = name.to_owned();
        self.look("look at the modes", move |store| store.denied(&name)).flatten()
    }

    fn staging(&self) -> Box<dyn Staging + '_> {
        Box::new(AwaitedStaging::new(self))
    }

    fn set_aside(&self, keep: u64) -> Option<FreeSpace> {
        self.look("set space aside", move |store| store.set_aside(keep)).flatten()
    }

    fn now(&self) -> Result<Timestamp> {
        self.call((Effort::Look, "ask for the time"), |store| store.now())
    }

    fn request_worth(&self) -> u64 {
        self.inner.request_worth()
    }

    fn traffic(&self) -> Option<Traffic> {
        self.inner.traffic()
    }

    fn forget(&self, name: &str) {
        let name = name.to_owned();
        self.look("drop what is cached", move |store| store.forget(&name));
    }

    fn may_answer_better(&self, name: &str, wrong: u32) -> bool {
        let name = name.to_owned();
        self.look("wait for a better answer", move |store| store.may_answer_better(&name, wrong)).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
