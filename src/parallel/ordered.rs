//! Runs several requests at a time, and takes their answers in order.

use std::collections::VecDeque;

use crossbeam_channel::{Sender, bounded};

use crate::error::{Code, Error, Result};

/// Calls `ask` with every item, on up to `parallel` threads at a time, and `take` with every item and its answer, in
/// the order of the items, on the caller's thread. At most `parallel` answers are under way or waiting.
///
/// # Errors
/// The errors of `take`, after which nothing more is asked.
pub fn map_ordered<T: Sync, A: Send>(
    items: &[T],
    parallel: usize,
    ask: impl Fn(&T) -> A + Sync,
    mut take: impl FnMut(&T, A) -> Result<()>,
) -> Result<()> {
    let parallel = parallel.min(items.len());
    if parallel < 2 {
        return items.iter().try_for_each(|item| take(item, ask(item)));
    }
    let early =
        || Error::failed("read several objects at a time", "one of the threads ended early").with_code(Code::Internal);
    std::thread::scope(|scope| {
        let (jobs, work) = bounded::<(&T, Sender<A>)>(parallel);
        for _ in 0..parallel {
            let (work, ask) = (work.clone(), &ask);
            scope.spawn(move || {
                for (item, done) in work {
                    // Nobody waits for the answer any more if `take` failed for an earlier one.
                    let _ = done.send(ask(item));
                }
            });
        }
        drop(work);
        let (mut rest, mut waiting) = (items.iter(), VecDeque::with_capacity(parallel));
        loop {
            while waiting.len() < parallel
                && let Some(item) = rest.next()
            {
                let (done, answer) = bounded(1);
                jobs.send((item, done)).map_err(|_| early())?;
                waiting.push_back((item, answer));
            }
            let Some((item, answer)) = waiting.pop_front() else { return Ok(()) };
            take(item, answer.recv().map_err(|_| early())?)?;
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn answers_come_in_order_and_are_asked_for_at_the_same_time() {
        let items: Vec<usize> = (0..40).collect();
        for parallel in [1, 2, 4] {
            // No thread goes on before all of them are there.
            let all = Barrier::new(parallel);
            let ask = |n: &usize| {
                all.wait();
                n * 3
            };
            let mut taken = Vec::new();
            map_ordered(&items, parallel, ask, |n, answer| {
                taken.push((*n, answer));
                Ok(())
            })
            .unwrap();
            assert_eq!(taken, items.iter().map(|n| (*n, n * 3)).collect::<Vec<_>>());
        }
        map_ordered(&[], 4, |n: &usize| *n, |_, _| panic!("nothing was asked")).unwrap();
    }

    #[test]
    fn after_a_failure_little_more_is_asked() {
        let asked = AtomicUsize::new(0);
        let items: Vec<usize> = (0..1000).collect();
        let said = map_ordered(
            &items,
            3,
            |n| {
                asked.fetch_add(1, Ordering::Relaxed);
                *n
            },
            |_, n| if n < 5 { Ok(()) } else { Err(Error::failed("take it", "enough")) },
        );
        assert!(said.unwrap_err().to_string().contains("enough"));
        assert!(asked.load(Ordering::Relaxed) <= 9);
    }
}
