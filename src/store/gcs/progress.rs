//! Watches whether an upload still moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::RequestTimeouts;
use crate::retry::Fault;

/// When a byte of a body was last taken.
pub struct BodyProgress {
    limits: RequestTimeouts,
    begin: Instant,
    /// Milliseconds since the beginning; the highest bit says that the whole body was taken.
    last: AtomicU64,
}

impl BodyProgress {
    const ALL: u64 = 1 << 63;

    /// Starts to watch now.
    pub fn new(limits: RequestTimeouts) -> Self {
        BodyProgress { limits, begin: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Notes that a chunk was taken.
    pub fn note(&self) {
        self.last.store(self.begin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Notes that the last chunk was taken.
    pub fn all(&self) {
        self.last.store(self.begin.elapsed().as_millis() as u64 | Self::ALL, Ordering::Relaxed);
    }

    /// Waits until nothing has happened for too long, and returns that fault.
    pub async fn watch(&self) -> Fault {
        loop {
            let last = self.last.load(Ordering::Relaxed);
            let (limit, what) = match last & Self::ALL {
                0 => (self.limits.stall, "the upload stands still"),
                _ => (self.limits.answer, "no answer to the upload"),
            };
            let due = Duration::from_millis(last & !Self::ALL) + limit;
            match due.checked_sub(self.begin.elapsed()) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
                _ => return stalled(what, limit),
            }
        }
    }
}

/// Returns the fault that nothing came for `time`.
pub fn stalled(what: &str, time: Duration) -> Fault {
    Fault::passing(format!("{what} for {:.0} s", time.as_secs_f64()))
}
