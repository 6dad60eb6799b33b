//! Why a single request failed, and how long to wait before the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Code, Error};

/// Why a single request did not do what it was meant to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It may work another time, but not before `after`.
    Passing {
        /// A description of what happened.
        why: String,
        /// How long to wait, if the answer said so.
        after: Option<Duration>,
    },
    /// The token was refused. It has been dropped; another one may work.
    Token {
        /// The store's answer.
        why: String,
    },
    /// There is no such object.
    NotFound,
    /// There seems to be such an object already: a look at it will tell.
    Exists {
        /// The store's answer.
        why: String,
        /// A hint at what to do about it, if there is no such object after all.
        hint: String,
        /// The code of the error, if there is no such object after all.
        code: Code,
    },
    /// The object is shorter than the range asked for, or longer than the limit.
    OutOfRange {
        /// Its size in bytes.
        size: u64,
    },
    /// It will not work, however often it is tried.
    Refused {
        /// The answer.
        why: String,
        /// A hint at what to do about it; empty if there is none.
        hint: String,
        /// The code of the error; [`Code::Failed`] where no other one fits.
        code: Code,
    },
    /// The program was told to stop.
    Stopped,
}

impl Fault {
    /// Returns a fault that may pass.
    pub fn passing(why: impl Into<String>) -> Self {
        Fault::Passing { why: why.into(), after: None }
    }

    /// Returns a fault that stays.
    pub fn refused(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Fault::Refused { why: why.into(), hint: hint.into(), code: Code::Failed }
    }

    /// Gives a fault that stays a code that says more than [`Code::Failed`].
    pub fn with_code(self, code: Code) -> Self {
        match self {
            Fault::Refused { why, hint, .. } => Fault::Refused { why, hint, code },
            Fault::Exists { why, hint, .. } => Fault::Exists { why, hint, code },
            other => other,
        }
    }

    /// Turns it into the crate's error; `doing` says what the request was for.
    pub fn while_doing(self, doing: impl Into<String>) -> Error {
        match self {
            Fault::Refused { why, hint, code } => {
                let error = Error::failed(doing, why).with_code(code);
                if hint.is_empty() { error } else { error.hint(hint) }
            }
            Fault::Token { why } => Error::failed(doing, why)
                .with_code(Code::NoCredentials)
                .hint("`lastgood doctor` shows which credentials are used."),
            Fault::Passing { why, .. } => Error::unreachable(doing, why),
            Fault::Stopped => Error::failed(doing, "it was told to stop").with_code(Code::Stopped),
            Fault::NotFound | Fault::Exists { .. } | Fault::OutOfRange { .. } => {
                Error::failed(doing, format!("the answer does not fit the request: {self:?}"))
            }
        }
    }
}

/// How long the pauses between attempts are.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first pause is at most this long, and each further one at most twice as long as the one before.
    pub first: Duration,
    /// No pause is longer than this.
    pub longest: Duration,
    /// Attempts are given up after this time without success.
    pub patience: Duration,
}

impl Backoff {
    /// Returns the pauses that Google recommends, with this patience.
    pub fn new(patience: Duration) -> Self {
        Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(20), patience }
    }

    /// Returns the pause after this many failures: between zero and a limit that doubles with each failure, as `random`
    /// decides.
    pub(crate) fn pause(&self, failures: u32, random: u64) -> Duration {
        let limit = self.first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        // A float holds 53 bits.
        limit.min(self.longest).mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// The longest share of the time that is left for everything that one pause takes.
const SHARE: u32 = 5;
/// What a pause may always take.
const SHORT: Duration = Duration::from_millis(200);

/// The time by which everything is to be done, where there is little: pauses are short then, whatever was asked for. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Haste(Arc<Mutex<Option<Instant>>>);

impl Haste {
    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All is to be done until then. If that was said before, the earlier end counts.
    pub fn begin(&self, until: Instant) {
        let mut known = self.until();
        *known = Some(known.map_or(until, |known| known.min(until)));
    }

    /// There is time again.
    pub fn end(&self) {
        *self.until() = None;
    }

    /// The longest pause that there is time for now. `None`: any.
    pub fn longest(&self) -> Option<Duration> {
        let until = *self.until();
        until.map(|until| (until.saturating_duration_since(Instant::now()) / SHARE).max(SHORT))
    }
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the pause is the longest possible one, which does no harm.
    getrandom::fill(&mut bytes).map_or(u64::MAX, |()| u64::from_ne_bytes(bytes))
}
