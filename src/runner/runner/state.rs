//! What a [`Runner`](super::Runner) knows of its requests and runs, behind one lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::broken::Obligations;
use super::remote::RemoteRuns;
use crate::report::RunId;
use crate::runner::answer::{self, Answer, RunProgress};
use crate::runner::queue::{Queue, QueuedRequest};
use crate::runner::stats::LastRun;

/// Answers that are kept for whoever asks for a run by its id; older ones are in the vault.
const KEPT: usize = 256;
/// Bytes of the reports in the answers that are kept.
pub(super) const KEPT_BYTES: usize = 32 << 20;

/// What a runner knows of its requests and runs.
pub struct RunnerState {
    pub(super) queue: Queue,
    pub(super) known: HashMap<RunId, RunProgress>,
    /// Bytes of the reports in `known`.
    pub(super) bytes: usize,
    pub(super) oldest_first: VecDeque<RunId>,
    pub(super) running: Option<RunId>,
    /// Ends the run that is under way here. `None` if that may not be cut short.
    pub(super) cut: Option<Arc<AtomicBool>>,
    pub(super) remote: RemoteRuns,
    pub(super) last: Option<LastRun>,
    pub(super) last_backup: Option<LastRun>,
    pub(super) obligations: Obligations,
    pub(super) closed: bool,
}

impl RunnerState {
    /// Knows of no run yet.
    pub(super) fn new(queue: Queue) -> Self {
        RunnerState {
            queue,
            known: HashMap::new(),
            bytes: 0,
            oldest_first: VecDeque::new(),
            running: None,
            cut: None,
            remote: RemoteRuns::default(),
            last: None,
            last_backup: None,
            obligations: Obligations::default(),
            closed: false,
        }
    }

    pub(super) fn know(&mut self, run: RunId, progress: RunProgress) {
        self.bytes += progress.bytes();
        match self.known.insert(run, progress) {
            Some(old) => self.bytes -= old.bytes(),
            None => self.oldest_first.push_back(run),
        }
        while self.oldest_first.len() > KEPT || self.bytes > KEPT_BYTES {
            let is_over = |run: &&RunId| matches!(self.known.get(run), Some(RunProgress::Over(_)));
            let Some(old) = self.oldest_first.iter().find(is_over).copied() else { return };
            self.forget(old);
        }
    }

    /// Forgets a run: from now on the vault tells of it.
    pub(super) fn forget(&mut self, run: RunId) {
        self.bytes -= self.known.remove(&run).map_or(0, |known| known.bytes());
        self.oldest_first.retain(|known| *known != run);
    }

    /// Sends `answer` to a request that was just taken off the queue. Others may still wait for the same run.
    pub(super) fn dismiss(&mut self, waiting: QueuedRequest, answer: &Arc<Answer>) {
        if !self.queue.awaits(waiting.run) {
            self.know(waiting.run, RunProgress::Over(answer.clone()));
        }
        answer::tell(waiting.answer, answer);
    }
}
