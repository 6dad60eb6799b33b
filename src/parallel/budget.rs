//! A byte budget for several requests, so that more of them at a time do not take more memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A byte budget: [`ByteBudget::reserve`] blocks until the bytes fit.
pub struct ByteBudget {
    size: u64,
    taken: Mutex<u64>,
    freed: Condvar,
}

/// Bytes of a budget that are taken until this is dropped.
pub struct ReservedBytes<'r> {
    budget: &'r ByteBudget,
    bytes: u64,
}

impl ByteBudget {
    /// Returns a budget of `size` bytes.
    pub fn new(size: u64) -> Self {
        ByteBudget { size, taken: Mutex::new(0), freed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many bytes are taken.
    pub fn reserved(&self) -> u64 {
        *self.lock()
    }

    /// Waits until the budget has `bytes` bytes left, or until nothing else is taken.
    pub fn reserve(&self, bytes: u64) -> ReservedBytes<'_> {
        let mut taken = self.lock();
        while *taken > 0 && taken.saturating_add(bytes) > self.size {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = taken.saturating_add(bytes);
        ReservedBytes { budget: self, bytes }
    }
}

impl Drop for ReservedBytes<'_> {
    fn drop(&mut self) {
        let mut taken = self.budget.lock();
        *taken = taken.saturating_sub(self.bytes);
        drop(taken);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn no_more_is_held_than_there_is_room_for() {
        let (budget, held, most) = (ByteBudget::new(100), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (budget, held, most) = (&budget, &held, &most);
                scope.spawn(move || {
                    for n in 0..200 {
                        let bytes = 10 + (n * 7 + thread * 13) % 50;
                        let taken = budget.reserve(bytes);
                        most.fetch_max(held.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                        std::thread::yield_now();
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        drop(taken);
                    }
                });
            }
        });
        assert!((60..=100).contains(&most.into_inner()));
        // More than the whole budget fits when nothing else is taken.
        drop(budget.reserve(1000));
        assert_eq!(budget.reserved(), 0);
    }
}
