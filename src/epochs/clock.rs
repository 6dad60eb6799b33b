//! The clock by which an instance waits and polls.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A clock that never goes back.
pub trait Clock: Send + Sync {
    /// Returns the time since some moment in the past.
    fn now(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The system's clock, which goes on while the machine sleeps, so that an instance knows how long it was away.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        // The time since the machine was started is not negative.
        Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The longest pause between two attempts, unless the poll interval is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Returns how long to wait for the next attempt after so many that failed: a poll interval, which doubles with each.
pub fn pause_after(poll: Duration, failures: u32) -> Duration {
    poll.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE.max(poll))
}
