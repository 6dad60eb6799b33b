//! Claims: objects which say that an event is being served, so that a redelivery does nothing twice.
//!
//! An event's claims lie in a folder of their own, `claims/<hash>/`, where the hash is the first 16 bytes of the BLAKE3 of its
//! identity. It has no key, so that whoever knows the identity finds them:
//!
//! - `<n>.json`, n from 1: a run serves the event. The greatest n counts.
//! - `<n>.failed.json`: run n has ended without serving it.
//! - `done.json`: the event is served, and this names the report.
//! - `<n>.order.json` and `<n>.taken.json`: run n is done by a Cloud Run job, see [`super::dispatch_request`].
//!
//! All are created once and never changed, so the store decides every race: whoever creates `<n>.json` holds the claim. The next
//! n may be created when the one before is marked failed or older than the time limit of a run, by the store's clock. Before it
//! commits, a run asks whether it is [superseded](Claim::is_superseded). The store only has to create, get and list.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::execution::Execution;
pub(super) use super::folder::ClaimFolder;
use super::folder::{ClaimRecord, MAX_CLAIM, Promise, folder, read_claim};
pub use super::name::ClaimName;
use crate::error::{Code, Error, Result};
use crate::report::{Action, RunId};
use crate::store::{self, Store};

/// How many times a run tries to be the one that creates the next claim.
const RACES: u32 = 16;
/// How many claims before one's own are read, the last ones: a run that failed so often has not committed in secret. Claims that
/// do not say that they failed come first.
const EARLIER: usize = 16;

/// The identity by which a redelivery is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimIdentity {
    /// An event's identity: two deliveries with the same one are the same event.
    Event(String),
    /// A task of a Cloud Run job.
    Execution(Execution),
}

/// A run that wants to serve an event.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// The event's identity.
    pub identity: ClaimIdentity,
    /// The action that the run is for.
    pub action: Action,
    /// The run that would serve it.
    pub run: RunId,
    /// The host's name, for people.
    pub host: String,
    /// The time limit of a run: a run older than this has ended, or does not commit any more.
    pub timeout: Duration,
    /// The promise to the sender, if it does not wait.
    pub promise: Option<Box<Promise>>,
}

/// How an event stands.
#[derive(Debug)]
pub enum LeaseState {
    /// The asker serves it.
    Mine(Claim),
    /// Another run serves it.
    Running {
        /// That run.
        run: RunId,
        /// After this time at the latest that run has ended.
        retry_after: Duration,
    },
    /// The event is served.
    Done(DoneRecord),
}

/// The content of `done.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneRecord {
    /// The run that served it.
    pub run: RunId,
    /// The name of its report's object.
    pub report: String,
}

/// The part that every object of a claim has, and all there is in `<n>.failed.json`.
#[derive(Serialize, Deserialize)]
struct ClaimMark {
    run: RunId,
}

/// A run that served the event before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierRun {
    /// The run.
    pub run: RunId,
    /// When it entered its claim, by the store's clock.
    pub started: Timestamp,
    /// Whether it said that it failed.
    pub failed: bool,
}

/// A claim that this process holds.
#[derive(Debug)]
pub struct Claim {
    pub(super) folder: String,
    pub(super) n: u64,
    pub(super) run: RunId,
    /// How old it was at `since`.
    pub(super) age: Duration,
    pub(super) since: Instant,
    pub(super) timeout: Duration,
    pub(super) earlier: Vec<EarlierRun>,
}

/// How an event stands, for a caller who may not, or does not want to, serve it now. `None` if nobody serves it.
///
/// # Errors
/// A store that fails; a `done.json` that is damaged.
pub fn peek(store: &dyn Store, claim: &Claim) -> Result<Option<LeaseState>> {
    let now = now(store)?;
    let seen = ClaimFolder::of(store, &claim.folder)?;
    if seen.done {
        return served(store, &claim.folder).map(|served| Some(LeaseState::Done(served)));
    }
    let Some(last) = seen.claims.last().filter(|n| **n != claim.n && !seen.failed.contains(n)) else {
        return Ok(None);
    };
    let body = read_claim(store, &claim.folder, *last)?;
    Ok(body.and_then(|body| running(&body, now, claim.timeout)))
}

/// The run that may still be serving the event of a claim under a later one: it has not ended, nor is its time over. It may be
/// the same run, if it has renewed its claim. `None` if there is no such run.
///
/// # Errors
/// A store that fails.
pub fn later(store: &dyn Store, name: &ClaimName, timeout: Duration) -> Result<Option<RunId>> {
    let now = now(store)?;
    let folder = name.folder();
    let seen = ClaimFolder::of(store, &folder)?;
    let is_open = |n: &&u64| **n > name.number() && !seen.done && !seen.failed.contains(n);
    let Some(last) = seen.claims.last().filter(is_open) else { return Ok(None) };
    let Some(body) = read_claim(store, &folder, *last)? else { return Ok(None) };
    let time = body.promise.as_ref().map_or(timeout, Promise::time);
    Ok(running(&body, now, time).map(|_| body.run))
}

/// How an event was served. `None` if it was not.
///
/// # Errors
/// A store that fails; a `done.json` that is damaged.
pub fn find_served(store: &dyn Store, identity: &str) -> Result<Option<DoneRecord>> {
    read_done(store, &folder(identity))
}

/// Claims an event for a run, unless another one serves it or has done so.
///
/// # Errors
/// A store that fails; a `done.json` that is damaged.
pub fn acquire(store: &dyn Store, claimant: &Claimant) -> Result<LeaseState> {
    let (identity, attempt) = match &claimant.identity {
        ClaimIdentity::Event(identity) => (identity.clone(), None),
        ClaimIdentity::Execution(execution) => (execution.identity(store)?, Some(execution.attempt)),
    };
    let folder = folder(&identity);
    for _ in 0..RACES {
        // Before the clock is asked, so that no claim is older than its run believes.
        let since = Instant::now();
        let now = now(store)?;
        let seen = ClaimFolder::of(store, &folder)?;
        if seen.done {
            return served(store, &folder).map(LeaseState::Done);
        }
        let last = seen.claims.last().copied();
        let claim = |n, age| -> Result<Claim> {
            let (folder, timeout) = (folder.clone(), claimant.timeout);
            let earlier = earlier(store, &folder, &seen, |claim| claim < n)?;
            Ok(Claim { folder, n, run: claimant.run, age, since, timeout, earlier })
        };
        if let Some(n) = last.filter(|n| !seen.failed.contains(n))
            && let Some(body) = read_claim(store, &folder, n)?
        {
            if body.run == claimant.run {
                return claim(n, age(&body, now)).map(LeaseState::Mine);
            }
            let ended = body.attempt.zip(attempt).is_some_and(|(theirs, ours)| theirs < ours);
            if let Some(running) = running(&body, now, claimant.timeout).filter(|_| !ended) {
                return Ok(running);
            }
        }
        let n = last.unwrap_or(0).checked_add(1).ok_or_else(|| {
            Error::damage(format!("enter a claim in {folder}"), "the claim there has the greatest possible number")
        })?;
        let (identity, host, promise) = (identity.clone(), claimant.host.clone(), claimant.promise.as_deref().cloned());
        let body = ClaimRecord { identity, run: claimant.run, started: now, host, attempt, promise };
        // All that may fail comes first: a claim that is entered and not held keeps others from the event.
        let claim = claim(n, Duration::ZERO)?;
        if !create(store, &format!("{folder}{n}.json"), &body, claimant.run)? {
            continue;
        }
        // The run before may have ended well after the folder was listed.
        match last.map_or(Ok(None), |_| read_done(store, &folder)) {
            Ok(None) => return Ok(LeaseState::Mine(claim)),
            Ok(Some(served)) => return Ok(LeaseState::Done(served)),
            Err(why) => {
                if let Err(why) = claim.mark_failed(store) {
                    tracing::warn!("the claim {} is not given up: {}", claim.name(), why.what());
                }
                return Err(why);
            }
        }
    }
    Err(Error::failed(format!("enter a claim in {folder}"), format!("another was faster {RACES} times"))
        .hint("Something asks for the same again and again. Is an event delivered in a loop?"))
}

/// How a claim stands, for another process that is to do its run.
#[derive(Debug)]
pub enum ResumedLease {
    /// The run still holds it, or the next one.
    Mine(Claim),
    /// It was given up: marked as failed.
    GivenUp,
    /// Another run has taken over.
    Taken(RunId),
    /// The event is served.
    Done(DoneRecord),
}

/// How far the run of a claim is.
#[derive(Debug, PartialEq, Eq)]
pub enum LeaseProgress {
    /// It is not over.
    Running,
    /// It ended without serving the event.
    Failed,
    /// Another run has taken over.
    Taken(RunId),
    /// The event is served.
    Done(DoneRecord),
}

/// The event of a claim.
///
/// # Errors
/// A store that fails; a claim that is not there, cannot be read, or is of another event than its name says.
pub fn identity(store: &dyn Store, name: &ClaimName) -> Result<ClaimIdentity> {
    let wrong = |why: &str| Error::damage(format!("read the claim {name}"), why);
    let body = read_claim(store, &name.folder(), name.number())?;
    let body = body.ok_or_else(|| wrong("it is not there, or cannot be read"))?;
    if folder(&body.identity) != name.folder() {
        return Err(wrong("it is of another event"));
    }
    Ok(ClaimIdentity::Event(body.identity))
}

/// Goes on with a claim of an event that the asker's run entered in another process. A claim that was given up stays so, unless
/// this comes `after` an attempt that failed: then the next number is entered.
///
/// # Errors
/// A store that fails; no claim that can be read; a `done.json` that is damaged.
pub fn resume(store: &dyn Store, name: &ClaimName, claimant: &Claimant, after: bool) -> Result<ResumedLease> {
    let since = Instant::now();
    let now = now(store)?;
    let folder = name.folder();
    let seen = ClaimFolder::of(store, &folder)?;
    if seen.done {
        return served(store, &folder).map(ResumedLease::Done);
    }
    let last = seen.claims.last().copied().unwrap_or(name.number());
    let body = read_claim(store, &folder, last)?;
    let body = body.ok_or_else(|| Error::damage(format!("go on with the claim {name}"), "it cannot be read"))?;
    if body.run != claimant.run {
        return Ok(ResumedLease::Taken(body.run));
    }
    if !seen.failed.contains(&last) {
        let (run, age, timeout) = (claimant.run, age(&body, now), claimant.timeout);
        // This run's own claims, too: an attempt before this one may have committed.
        let earlier = earlier(store, &folder, &seen, |_| true)?;
        return Ok(ResumedLease::Mine(Claim { folder, n: last, run, age, since, timeout, earlier }));
    }
    if !after {
        return Ok(ResumedLease::GivenUp);
    }
    Ok(match acquire(store, claimant)? {
        LeaseState::Mine(claim) => ResumedLease::Mine(claim),
        LeaseState::Running { run, .. } => ResumedLease::Taken(run),
        LeaseState::Done(served) => ResumedLease::Done(served),
    })
}

/// How far the run of a claim is, when another process does the run.
///
/// # Errors
/// A store that fails; a `done.json` that is damaged.
pub fn observe(store: &dyn Store, claim: &Claim) -> Result<LeaseProgress> {
    let seen = ClaimFolder::of(store, &claim.folder)?;
    if seen.done {
        return served(store, &claim.folder).map(LeaseProgress::Done);
    }
    let last = seen.claims.last().copied().unwrap_or(claim.n);
    if last != claim.n
        && let Some(body) = read_claim(store, &claim.folder, last)?
        && body.run != claim.run
    {
        return Ok(LeaseProgress::Taken(body.run));
    }
    Ok(if seen.failed.contains(&last) { LeaseProgress::Failed } else { LeaseProgress::Running })
}

impl Claim {
    /// The claim's number.
    pub fn number(&self) -> u64 {
        self.n
    }

    /// The run that holds it.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The name by which another process knows the claim.
    pub fn name(&self) -> ClaimName {
        ClaimName::of(&self.folder, self.n)
    }

    /// The runs that served the event before this one took over, the oldest first; the last 16 of them.
    pub fn earlier(&self) -> &[EarlierRun] {
        &self.earlier
    }

    /// How long its run has been going on, by a clock that cannot be set.
    pub fn age(&self) -> Duration {
        self.age + self.since.elapsed()
    }

    /// The time limit of its run.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether another run has taken over, or has served the event.
    ///
    /// # Errors
    /// A store that fails.
    pub fn is_superseded(&self, store: &dyn Store) -> Result<bool> {
        let seen = ClaimFolder::of(store, &self.folder)?;
        Ok(seen.done || seen.claims.last().is_some_and(|last| *last > self.n))
    }

    /// Notes that its run ended without serving the event: another run may follow at once.
    ///
    /// # Errors
    /// A store that fails.
    pub fn mark_failed(&self, store: &dyn Store) -> Result<()> {
        let name = format!("{}{}.failed.json", self.folder, self.n);
        // Nobody else writes this object: if it is there, it says the same.
        create(store, &name, &ClaimMark { run: self.run }, self.run).map(drop)
    }

    /// Notes that its run served the event, and that `report` is the object that tells how. If another run has said so already,
    /// that one counts. Returns the one that counts.
    ///
    /// # Errors
    /// A store that fails; a `done.json` that is damaged.
    pub fn mark_done(&self, store: &dyn Store, report: &str) -> Result<DoneRecord> {
        let ours = DoneRecord { run: self.run, report: report.to_owned() };
        match create(store, &done_json(&self.folder), &ours, self.run)? {
            true => Ok(ours),
            false => served(store, &self.folder),
        }
    }
}

fn done_json(folder: &str) -> String {
    format!("{folder}done.json")
}

pub(super) fn now(store: &dyn Store) -> Result<Timestamp> {
    store.now().map_err(|why| why.while_doing("ask the store for the time"))
}

pub(super) fn age(body: &ClaimRecord, now: Timestamp) -> Duration {
    // Negative if the clocks differ: then the claim counts as new.
    now.duration_since(body.started).try_into().unwrap_or_default()
}

fn running(body: &ClaimRecord, now: Timestamp, timeout: Duration) -> Option<LeaseState> {
    let left = timeout.checked_sub(age(body, now)).filter(|left| !left.is_zero())?;
    Some(LeaseState::Running { run: body.run, retry_after: left })
}

/// The last of the claims before one's own, [`EARLIER`] at most.
fn earlier(
    store: &dyn Store,
    folder: &str,
    seen: &ClaimFolder,
    is_before: impl Fn(u64) -> bool,
) -> Result<Vec<EarlierRun>> {
    let before = seen.claims.iter().rev().copied().filter(|n| is_before(*n));
    let (failed, open): (Vec<u64>, Vec<u64>) = before.partition(|n| seen.failed.contains(n));
    let mut numbers: Vec<_> = open.into_iter().chain(failed).take(EARLIER).collect();
    numbers.sort_unstable();
    let mut earlier = Vec::with_capacity(numbers.len());
    for n in numbers {
        let entered =
            |body: ClaimRecord| EarlierRun { run: body.run, started: body.started, failed: seen.failed.contains(&n) };
        earlier.extend(read_claim(store, folder, n)?.map(entered));
    }
    Ok(earlier)
}

fn served(store: &dyn Store, folder: &str) -> Result<DoneRecord> {
    let gone = || {
        Error::damage(format!("read {}", done_json(folder)), "it was there a moment ago, and is gone")
            .with_code(Code::Vanishing)
    };
    read_done(store, folder)?.ok_or_else(gone)
}

fn read_done(store: &dyn Store, folder: &str) -> Result<Option<DoneRecord>> {
    let name = done_json(folder);
    let doing = || format!("read {name}");
    match store.get(&name, MAX_CLAIM) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|why| Error::damage(doing(), why)),
        Err(store::StoreError::NotFound { .. }) => Ok(None),
        Err(why) => Err(why.while_doing(doing())),
    }
}

/// Creates an object that names its run. Returns whether the object is there and names this run: a store whose answer was lost
/// may say that an object exists already, or that creating it failed, although it created it at our request.
pub(super) fn create(store: &dyn Store, name: &str, body: &impl Serialize, run: RunId) -> Result<bool> {
    let doing = || format!("create {name}");
    let mut bytes = serde_json::to_vec(body).map_err(|why| Error::failed(doing(), why).with_code(Code::Internal))?;
    bytes.push(b'\n');
    let Err(why) = store.create(name, &[&bytes]) else { return Ok(true) };
    let found = store.get(name, MAX_CLAIM).ok().and_then(|found| serde_json::from_slice::<ClaimMark>(&found).ok());
    match (why, found) {
        (_, Some(mark)) if mark.run == run => Ok(true),
        (store::StoreError::AlreadyExists { .. }, _) => Ok(false),
        (why, _) => Err(why.while_doing(doing())),
    }
}

#[cfg(test)]
mod tests;
