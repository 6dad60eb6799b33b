//! The time limit of a run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the thread checks whether the work has to end.
const TICK: Duration = Duration::from_millis(50);

/// Does work that ends when the flag that it is given is set: when the program is told to stop, or at the deadline.
pub fn with_deadline<T>(deadline: Instant, stop: &AtomicBool, work: impl FnOnce(&AtomicBool) -> T) -> T {
    until(|| stop.load(Ordering::Relaxed) || Instant::now() >= deadline, work)
}

/// Does work that ends when the flag that it is given is set: soon after `is_over` says so.
pub fn until<T>(is_over: impl Fn() -> bool + Sync, work: impl FnOnce(&AtomicBool) -> T) -> T {
    /// Sets the flag also when the work panics, so that the panic is heard of.
    struct SetOnDrop<'e>(&'e AtomicBool);
    impl Drop for SetOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    // Asked here too: the work may begin, and even end, before the thread does.
    let (over, ended) = (AtomicBool::new(is_over()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                if is_over() {
                    over.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(TICK);
            }
        });
        let _end = SetOnDrop(&ended);
        work(&over)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_goes_on_until_the_deadline_or_a_stop() {
        let (far, stop) = (Instant::now() + Duration::from_secs(600), AtomicBool::new(false));
        assert_eq!(with_deadline(far, &stop, |over| (1, over.load(Ordering::Relaxed))), (1, false));
        let wait = |over: &AtomicBool| {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let soon = || Instant::now() + Duration::from_millis(20);
        with_deadline(soon(), &stop, wait);
        assert!(with_deadline(Instant::now(), &stop, |over| over.load(Ordering::Relaxed)));
        stop.store(true, Ordering::Relaxed);
        assert!(with_deadline(far, &stop, |over| over.load(Ordering::Relaxed)));
        let panics = || with_deadline(far, &stop, |_| panic!("work"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    }
}
