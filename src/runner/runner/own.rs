//! Runs that this program asked for itself: those of an app that it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Runner, lock};
use crate::job::FinishedJob;
use crate::monitor::Context;
use crate::runner::answer::{self, Answer, RunProgress};
use crate::runner::queue::QueuedRequest;
use crate::runner::rules::Rules;

impl Runner {
    /// Answers what this program itself asked for, before anybody is told of the run: at the end of the app, the next backup is not to
    /// wait for a webhook.
    pub(super) fn end_own(&self, mine: impl Iterator<Item = QueuedRequest>, ran: FinishedJob, done: &Arc<Answer>) {
        {
            let mut state = lock(&self.state);
            state.running = None;
            state.know(ran.report.run, RunProgress::Over(done.clone()));
        }
        mine.for_each(|waiting| answer::tell(waiting.answer, done));
        let (Rules { threads, parallel, .. }, random, stop, monitor) =
            (&self.rules, self.random, self.stop.clone(), self.monitor.clone());
        let (threads, parallel) = (*threads, *parallel);
        let tell = move || {
            ran.notify(&Context { random: &random, threads, parallel, stop: &stop, monitor: &*monitor });
        };
        match std::thread::Builder::new().name("notify".into()).spawn(tell) {
            Ok(thread) => {
                let mut telling = lock(&self.telling);
                telling.retain(|thread| !thread.is_finished());
                telling.push(thread);
            }
            Err(why) => self.monitor.warn(&format!("nobody is told how a run ended: {why}")),
        }
    }

    /// Waits until everybody is told of the runs of this program's own, for as long as there is time.
    pub fn wait_until_told(&self, until: Instant) {
        while lock(&self.telling).iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
