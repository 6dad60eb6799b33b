//! Runs that this program asked for itself: those of an app that it runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Runner, lock};
use crate::error::Code;
use crate::job::FinishedJob;
use crate::monitor::Context;
use crate::report::Channel;
use crate::runner::answer::{self, Answer, RunProgress};
use crate::runner::queue::QueuedRequest;
use crate::runner::rules::Rules;
use crate::vault::root::BackupReason;

/// Whether a run for these requests may be cut short for one that follows at once: this program asked for it, and not because
/// something went wrong.
pub(super) fn may_be_cut_short(group: &[QueuedRequest]) -> bool {
    let may_be = |waiting: &QueuedRequest| {
        waiting.way == Channel::Run && !waiting.at_once && waiting.request.reason != BackupReason::Critical
    };
    group.iter().all(may_be)
}

impl Runner {
    /// Ends the run that is under way, if it may be cut short: it leaves a checkpoint, from which the next backup goes on.
    /// Returns whether it may.
    pub fn cut_short(&self) -> bool {
        let state = lock(&self.state);
        let cut = state.cut.as_ref().filter(|_| state.running.is_some());
        cut.iter().for_each(|cut| cut.store(true, Ordering::Relaxed));
        cut.is_some()
    }

    /// Whether a run failed because it was cut short.
    pub(super) fn was_cut_short(&self, ran: &FinishedJob) -> bool {
        let is_cut = lock(&self.state).cut.as_ref().is_some_and(|cut| cut.load(Ordering::Relaxed));
        is_cut && ran.error.as_ref().is_some_and(|why| why.code() == Code::Stopped)
    }

    /// Answers what this program itself asked for, before anybody is told of the run: at the end of the app, the next backup is not to
    /// wait for a webhook.
    pub(super) fn end_own(&self, mine: impl Iterator<Item = QueuedRequest>, ran: FinishedJob, done: &Arc<Answer>) {
        let is_cut = self.was_cut_short(&ran);
        {
            let mut state = lock(&self.state);
            state.running = None;
            state.know(ran.report.run, RunProgress::Over(done.clone()));
        }
        mine.for_each(|waiting| answer::tell(waiting.answer, done));
        // The one that follows tells how it ended.
        if is_cut {
            return;
        }
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
