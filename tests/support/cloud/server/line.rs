//! A line of limited bandwidth, which all connections share.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// No limit until one is set.
#[derive(Default)]
pub struct Line(Mutex<Option<(u64, Instant)>>);

impl Line {
    /// Sets the limit, in bytes per second; 0 is none.
    pub fn limit(&self, rate: u64) {
        *self.0.lock().unwrap() = (rate > 0).then(|| (rate, Instant::now()));
    }

    /// Waits as long as these bytes take, behind all that came before them.
    pub fn pass(&self, bytes: usize) {
        let free = match &mut *self.0.lock().unwrap() {
            None => return,
            Some((rate, free)) => {
                *free = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / *rate as f64);
                *free
            }
        };
        // A sleep takes longer than what few bytes take: they are waited for with others.
        let wait = free.saturating_duration_since(Instant::now());
        if wait >= Duration::from_millis(1) {
            std::thread::sleep(wait);
        }
    }
}
