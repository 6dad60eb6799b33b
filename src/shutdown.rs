//! The end of a program that serves: one deadline for everything that has to be finished when it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Cloud Run sends SIGTERM and, ten seconds later, SIGKILL: a shutdown may take 9 s.
/// <https://cloud.google.com/run/docs/container-contract#instance-shutdown>
pub const TIME: Duration = Duration::from_secs(9);

/// Shared by all that serves, whatever the channel: clones tell of the same end.
#[derive(Clone)]
pub struct Shutdown {
    stop: Arc<AtomicBool>,
    time: Duration,
    deadline: Arc<watch::Sender<Option<Instant>>>,
}

impl Shutdown {
    /// A shutdown that has not begun; when it does, it sets `stop`.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self::within(stop, TIME)
    }

    /// A shutdown that may take `time`.
    pub fn within(stop: Arc<AtomicBool>, time: Duration) -> Self {
        Shutdown { stop, time, deadline: Arc::new(watch::Sender::new(None)) }
    }

    /// The flag that runs look at.
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// Begins the shutdown: no more is taken, runs are told to stop, and the time begins. Further calls change nothing.
    pub fn begin(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.deadline.send_if_modified(|deadline| {
            let first = deadline.is_none();
            deadline.get_or_insert_with(|| Instant::now() + self.time);
            first
        });
    }

    /// Waits until the shutdown has begun, and returns its deadline.
    pub async fn wait_until_begun(&self) -> Instant {
        let mut seen = self.deadline.subscribe();
        loop {
            if let Some(deadline) = *seen.borrow_and_update() {
                return deadline;
            }
            // The sender lives as long as `self`.
            let _ = seen.changed().await;
        }
    }

    /// Waits until the shutdown has begun and its time is over.
    pub async fn wait_until_over(&self) {
        tokio::time::sleep_until(self.wait_until_begun().await).await;
    }

    /// How much of its time is left; all of it before the shutdown has begun.
    pub fn remaining(&self) -> Duration {
        let deadline = *self.deadline.borrow();
        deadline.map_or(self.time, |deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_hear_of_one_deadline() {
        let ending = Shutdown::within(Arc::default(), Duration::from_millis(200));
        let other = ending.clone();
        assert!(tokio::time::timeout(Duration::from_millis(10), other.wait_until_begun()).await.is_err());
        let waiting = tokio::spawn(async move { other.wait_until_begun().await });
        ending.begin();
        let deadline = ending.wait_until_begun().await;
        ending.begin();
        assert_eq!((ending.wait_until_begun().await, waiting.await.unwrap()), (deadline, deadline));
        assert!(ending.stop().load(Ordering::Relaxed) && ending.remaining() <= Duration::from_millis(200));
        ending.wait_until_over().await;
        assert!(Instant::now() >= deadline && ending.remaining().is_zero());
    }
}
