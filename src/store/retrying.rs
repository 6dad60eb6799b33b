//! Tries again: makes a store out of single requests, each of which may fail.
//!
//! A fault says whether it may pass. If it may, the request is repeated after a pause that grows (exponential backoff
//! with full jitter, as <https://docs.cloud.google.com/storage/docs/retry-strategy> asks for; `Retry-After` is
//! honoured), until nothing has worked for as long as the store's patience. A read goes on at the byte at which it
//! broke, pinned to the generation that it began with. Where little time is left for everything, as for a last snapshot, no pause takes
//! more than a fifth of it, whatever the store asks for: one refused request must not cost the snapshot.
//!
//! It is safe to create an object again because nothing is ever overwritten. That an object exists is believed only
//! after a look at it, since stores say other things in the same way; if the look fails, it alone is repeated. An
//! object that is found after an attempt whose answer was lost is our own if its size and CRC32C are those of our
//! bytes. That is enough: objects that two writers could write alike carry a random id.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::requests::{Described, PartialRead, Requests, Span};
use super::{CONFIG, Meta, RequestCounts, Result, Store, StoreError, Traffic};
use crate::error::Code;
use crate::retry::{Backoff, Fault, Haste, random};
use crate::text::count_of;

/// The number of times that a whole object is read before a wrong CRC32C counts as corruption.
const FLIPPED: u32 = 3;
/// How many wrong answers for one object are accepted: proxies and caches that give them mostly do so for a few
/// seconds.
const WRONG: u32 = 4;
/// After this long without success a warning says that it is still tried. Until then, only `-v` tells of attempts.
const LONG: Duration = Duration::from_secs(10);
/// A read that got this many more bytes has made progress: the store works, though its streams break.
const PROGRESS: usize = 64 << 10;

#[derive(Default)]
struct Counters {
    create: AtomicU64,
    read: AtomicU64,
    list: AtomicU64,
    describe: AtomicU64,
    retries: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// A store made of single requests.
pub struct RetryStore<R> {
    requests: R,
    backoff: Backoff,
    stop: Arc<AtomicBool>,
    haste: Haste,
    counters: Counters,
}

/// How a series of attempts ended without success.
enum RetryFailure {
    NotFound,
    Exists,
    OutOfRange(u64),
    Other(StoreError),
}

impl<R: Requests> RetryStore<R> {
    /// Returns a store that asks through `requests`, and stops asking once `stop` is set.
    pub fn new(requests: R, backoff: Backoff, stop: Arc<AtomicBool>) -> Self {
        RetryStore { requests, backoff, stop, haste: Haste::default(), counters: Counters::default() }
    }

    /// Returns the same store, whose pauses are short where little time is left.
    #[must_use]
    pub fn in_haste(self, haste: Haste) -> Self {
        RetryStore { haste, ..self }
    }

    /// Returns what makes the requests.
    pub fn requests(&self) -> &R {
        &self.requests
    }

    /// Makes attempts until one succeeds or it gives up. With each answer, `once` also returns how many bytes there are
    /// so far.
    fn attempt<T>(&self, doing: &str, mut once: impl FnMut() -> (Result<T, Fault>, usize)) -> Result<T, RetryFailure> {
        let (mut failures, mut since, mut reached, mut tokens) = (0u32, Instant::now(), 0, 0);
        let (mut tried, mut told) = (0u32, false);
        let other = |error| Err(RetryFailure::Other(error));
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return other(stopped(doing));
            }
            let (answer, bytes) = once();
            tried += 1;
            let (why, after, at_once) = match answer {
                Ok(done) => return Ok(done),
                Err(Fault::Passing { why, after }) => (why, after, false),
                Err(Fault::Token { why }) if tokens == 0 => {
                    tokens += 1;
                    (why, None, true)
                }
                Err(Fault::Token { why }) => {
                    let hint =
                        "The store refuses these credentials: are they revoked, or of another project? `lastgood \
                                doctor` shows which are used."
                            .into();
                    return other(StoreError::Refused { doing: doing.into(), why, hint, code: Code::NoCredentials });
                }
                Err(Fault::NotFound) => return Err(RetryFailure::NotFound),
                Err(Fault::Exists { .. }) => return Err(RetryFailure::Exists),
                Err(Fault::OutOfRange { size }) => return Err(RetryFailure::OutOfRange(size)),
                Err(Fault::Refused { why, hint, code }) => {
                    return other(StoreError::Refused { doing: doing.into(), why, hint, code });
                }
                Err(Fault::Stopped) => return other(stopped(doing)),
            };
            if failures == 0 || bytes >= reached + PROGRESS {
                (failures, since, reached) = (0, Instant::now(), bytes);
            }
            failures += 1;
            let pause = match at_once {
                true => Duration::ZERO,
                false => self.backoff.pause(failures, random()).max(after.unwrap_or_default()),
            };
            let longest = self.haste.longest();
            let pause = longest.map_or(pause, |longest| pause.min(longest));
            let passed = since.elapsed();
            if passed + pause > self.backoff.patience {
                let long = match after.filter(|after| longest.is_none() && *after > self.backoff.patience) {
                    Some(after) => format!(" (it asks to wait for {} s)", after.as_secs()),
                    None => String::new(),
                };
                let why = format!(
                    "{why}{long}; tried {} in {:.1} s",
                    count_of(u64::from(tried), "time"),
                    passed.as_secs_f64()
                );
                return other(StoreError::Unreachable { doing: doing.into(), why });
            }
            self.counters.retries.fetch_add(1, Ordering::Relaxed);
            // Most faults pass at once, and one that does not ends in an error, which says the same. In between, somebody may wait.
            match passed >= LONG && !told {
                true => tracing::warn!(
                    "could not {doing} for {} s: {why}; trying again for up to {} s",
                    passed.as_secs(),
                    self.backoff.patience.as_secs()
                ),
                false => tracing::info!("could not {doing}: {why}; trying again in {:.1} s", pause.as_secs_f64()),
            }
            told |= passed >= LONG;
            self.sleep(pause);
        }
    }

    fn sleep(&self, pause: Duration) {
        let mut until = Instant::now() + pause;
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
            && !self.stop.load(Ordering::Relaxed)
        {
            // A pause that is under way when time becomes short ends soon, too.
            if let Some(longest) = self.haste.longest() {
                until = until.min(Instant::now() + longest);
            }
            std::thread::sleep(rest.min(Duration::from_millis(50)));
        }
    }

    fn read(&self, name: &str, span: Span) -> Result<PartialRead> {
        let mut flipped = 0;
        loop {
            let mut part = PartialRead::default();
            let doing = format!("read {name} of {}", self.requests.url());
            let done = self.attempt(&doing, || {
                count(&self.counters.read);
                let before = part.bytes.len();
                let answer = self.requests.read(name, span, &mut part);
                self.counters.received.fetch_add((part.bytes.len() - before) as u64, Ordering::Relaxed);
                (answer, part.bytes.len())
            });
            let wanted = span.length.map_or(span.limit, |length| span.offset.saturating_add(length));
            match done {
                Ok(()) => {}
                Err(RetryFailure::NotFound) => return Err(StoreError::NotFound { name: name.into() }),
                Err(RetryFailure::OutOfRange(size)) => {
                    return Err(StoreError::OutOfRange { name: name.into(), size, wanted });
                }
                Err(RetryFailure::Exists) => return Err(senseless_answer(&doing)),
                Err(RetryFailure::Other(why)) => return Err(why),
            }
            let whole = span.offset == 0 && part.size == Some(part.bytes.len() as u64);
            match part.crc32c.filter(|_| whole) {
                Some(crc32c) if crc32c != crc32c::crc32c(&part.bytes) => {
                    flipped += 1;
                    let why = "the bytes that came do not have the object's CRC32C";
                    if flipped == FLIPPED {
                        return Err(StoreError::Corrupt { name: name.into() });
                    }
                    self.counters.retries.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!("could not {doing}: {why}; reading it again");
                }
                _ => return Ok(part),
            }
        }
    }
}

impl<R: Requests> RetryStore<R> {
    /// Passes the pages of a listing to `take`, for as long as that returns `true`.
    fn pages(&self, folder: &str, from: &str, mut take: impl FnMut(Vec<Meta>) -> bool) -> Result<()> {
        let what = if folder.is_empty() { "all" } else { folder };
        let doing = format!("list {what} of {}", self.requests.url());
        let (mut next, mut asked) = (None::<String>, HashSet::new());
        loop {
            let page = self.attempt(&doing, || {
                count(&self.counters.list);
                (self.requests.page(folder, from, next.as_deref()), 0)
            });
            let page = page.map_err(|end| match end {
                RetryFailure::Other(why) => why,
                RetryFailure::NotFound | RetryFailure::Exists | RetryFailure::OutOfRange(_) => senseless_answer(&doing),
            })?;
            if !take(page.objects) || page.next.is_none() {
                return Ok(());
            }
            next = page.next;
            // A page token that comes again would lead round and round.
            if next.as_ref().is_some_and(|next| !asked.insert(next.clone())) {
                return Err(senseless_answer(&doing));
            }
        }
    }
}

impl<R: Requests> RetryStore<R> {
    fn described(&self, name: &str) -> Result<Described, Fault> {
        count(&self.counters.describe);
        self.requests.describe(name)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn stopped(doing: &str) -> StoreError {
    StoreError::Stopped { doing: doing.into() }
}

/// Returns the error for an answer that such a request cannot have.
fn senseless_answer(doing: &str) -> StoreError {
    StoreError::Failed { doing: doing.into(), source: std::io::Error::other("the store's answer makes no sense") }
}

impl<R: Requests> Store for RetryStore<R> {
    fn url(&self) -> String {
        self.requests.url()
    }

    fn create(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        let crc32c = body.iter().fold(0, |crc, chunk| crc32c::crc32c_append(crc, chunk));
        let size = body.iter().map(|chunk| chunk.len() as u64).sum();
        let doing = format!("create {name} in {}", self.requests.url());
        let ours = Described { size, crc32c: Some(crc32c) };
        // `sent`: an earlier attempt may have stored the object. `refusal`: the answer that it exists.
        let (mut sent, mut refusal) = (false, None);
        let done = self.attempt(&doing, || {
            let (why, hint, code) = match refusal.clone() {
                Some(refusal) => refusal,
                None => {
                    count(&self.counters.create);
                    self.counters.sent.fetch_add(size, Ordering::Relaxed);
                    match self.requests.create(name, body, crc32c) {
                        Err(Fault::Exists { why, hint, code }) => refusal.insert((why, hint, code)).clone(),
                        answer => {
                            sent |= matches!(answer, Err(Fault::Passing { .. }));
                            return (answer, 0);
                        }
                    }
                }
            };
            let answer = match self.described(name) {
                Ok(found) if sent && found == ours => Ok(()),
                Ok(_) => Err(Fault::Exists { why, hint, code }),
                Err(Fault::NotFound) => Err(Fault::Refused { why, hint, code }),
                Err(fault) => Err(fault),
            };
            (answer, 0)
        });
        match done {
            Ok(()) => Ok(()),
            Err(RetryFailure::Exists) => Err(StoreError::AlreadyExists { name: name.into() }),
            Err(RetryFailure::NotFound | RetryFailure::OutOfRange(_)) => Err(senseless_answer(&doing)),
            Err(RetryFailure::Other(why)) => Err(why),
        }
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.read(name, Span { offset: 0, length: None, limit }).map(|part| part.bytes)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        if length > 0 {
            let span = Span { offset, length: Some(length), limit: length };
            return self.read(name, span).map(|part| part.bytes);
        }
        // A range header cannot ask for zero bytes, but whether the object reaches that far can be told.
        let doing = format!("look at {name} of {}", self.requests.url());
        match self.attempt(&doing, || (self.described(name), 0)) {
            Ok(found) if offset <= found.size => Ok(Vec::new()),
            Ok(found) => Err(StoreError::OutOfRange { name: name.into(), size: found.size, wanted: offset }),
            Err(RetryFailure::NotFound) => Err(StoreError::NotFound { name: name.into() }),
            Err(RetryFailure::Other(why)) => Err(why),
            Err(RetryFailure::Exists | RetryFailure::OutOfRange(_)) => Err(senseless_answer(&doing)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Meta>> {
        self.list_from(folder, "")
    }

    fn list_from(&self, folder: &str, from: &str) -> Result<Vec<Meta>> {
        let mut objects = Vec::new();
        self.pages(folder, from, |page| {
            objects.extend(page);
            true
        })?;
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        // An object that is in two pages, or twice in a page, is kept once.
        objects.dedup_by(|a, b| a.name == b.name);
        Ok(objects)
    }

    fn other_than(&self, known: &[&str]) -> Result<Option<String>> {
        let mut found = None;
        self.pages("", "", |page| {
            found = page.into_iter().map(Meta::at_top).find(|name| !known.contains(&name.as_str()));
            found.is_none()
        })?;
        Ok(found)
    }

    fn may_answer_better(&self, _name: &str, wrong: u32) -> bool {
        if wrong >= WRONG || self.stop.load(Ordering::Relaxed) {
            return false;
        }
        self.counters.retries.fetch_add(1, Ordering::Relaxed);
        self.sleep(self.backoff.first.saturating_mul(1 << wrong.saturating_sub(1)).min(self.backoff.longest));
        true
    }

    fn now(&self) -> Result<Timestamp> {
        if let Ok(Some(time)) = self.requests.time() {
            return Ok(time);
        }
        let doing = format!("ask {} for the time", self.requests.url());
        let time = self.attempt(&doing, || {
            // Any answer tells the time, even the one that there is no such object: `vault.json` is as good as any other.
            let answer = match self.described(CONFIG) {
                Ok(_) | Err(Fault::NotFound) => self.requests.time(),
                Err(why) => Err(why),
            };
            (answer, 0)
        });
        match time {
            Ok(Some(time)) => Ok(time),
            Err(RetryFailure::Other(why)) => Err(why),
            Ok(None) | Err(_) => Err(senseless_answer(&doing)),
        }
    }

    fn request_worth(&self) -> u64 {
        1 << 20
    }

    fn traffic(&self) -> Option<Traffic> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let of = &self.counters;
        Some(Traffic {
            requests: RequestCounts {
                create: read(&of.create),
                read: read(&of.read),
                list: read(&of.list),
                describe: read(&of.describe),
            },
            retries: read(&of.retries),
            sent: read(&of.sent),
            received: read(&of.received),
        })
    }
}

#[cfg(test)]
mod tests;
