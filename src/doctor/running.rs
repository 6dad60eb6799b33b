//! Runs checks on a thread of their own, and keeps what they have found so far.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::check::{DoctorCheck, span};
use crate::error::{Doing, Result};
use crate::monitor::Context;
use crate::restore::select::NewerFormat;
use crate::vault::hex::Hex;
use crate::vault::root::SnapshotName;

/// How much longer to wait, after its time limit, for a part that was told to stop.
const GRACE: Duration = Duration::from_millis(1500);

/// The findings of the checks.
#[derive(Debug, Clone, Default)]
pub struct CheckFindings {
    /// The checks so far.
    pub checks: Vec<DoctorCheck>,
    /// The id and the key of a vault that could be opened; replicas have both in common.
    pub vault: Option<(Hex<16>, Hex<32>)>,
    /// Whether there is no vault at the address.
    pub missing: bool,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotName>,
    /// The newest of them.
    pub newest: Option<SnapshotName>,
    /// Its newest good one.
    pub good: Option<GoodSnapshot>,
    /// The newest of what a newer lastgood wrote, if this program cannot look behind it for a good one.
    pub newer_format: Option<NewerFormat>,
}

/// The newest good snapshot of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoodSnapshot {
    /// Its name.
    pub name: SnapshotName,
    /// Bytes of all files' content.
    pub bytes: u64,
    /// Bytes of the objects that its backup created.
    pub uploaded: u64,
    /// Whether its backup left out everything that was mounted below the directory.
    pub one_file_system: bool,
}

/// The place where the checks put what they find.
#[derive(Debug, Clone, Default)]
pub struct CheckRecorder(Arc<Mutex<CheckFindings>>);

impl CheckRecorder {
    /// Locks the findings, to be read or written.
    pub fn lock(&self) -> MutexGuard<'_, CheckFindings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a check.
    pub fn add(&self, check: DoctorCheck) {
        self.lock().checks.push(check);
    }
}

/// Checks under way.
pub struct RunningChecks {
    what: &'static str,
    thread: std::io::Result<JoinHandle<()>>,
    recorder: CheckRecorder,
    stop: Arc<AtomicBool>,
    began: Instant,
    limit: Duration,
}

impl RunningChecks {
    /// Starts checks, which are to end when the flag, their second argument, is set.
    pub fn start(
        what: &'static str,
        limit: Duration,
        checks: impl FnOnce(&CheckRecorder, &Arc<AtomicBool>) + Send + 'static,
    ) -> RunningChecks {
        let (recorder, stop) = (CheckRecorder::default(), Arc::<AtomicBool>::default());
        let (to, told) = (recorder.clone(), stop.clone());
        let thread = std::thread::Builder::new().name(what.into()).spawn(move || checks(&to, &told));
        RunningChecks { what, thread, recorder, stop, began: Instant::now(), limit }
    }

    /// Waits until the checks end or their time is over; in the latter case, a check says so.
    ///
    /// # Errors
    /// The program was told to stop, or the system has no threads.
    pub fn wait(self, ctx: &Context) -> Result<CheckFindings> {
        let thread = self.thread.doing(|| format!("start the checks of the {}", self.what))?;
        while !thread.is_finished() {
            ctx.check("run the checks").inspect_err(|_| self.stop.store(true, Ordering::Relaxed))?;
            let passed = self.began.elapsed();
            if passed > self.limit {
                self.stop.store(true, Ordering::Relaxed);
            }
            if passed > self.limit + GRACE {
                let found = format!("no answer for {}: what comes after this was not checked", span(passed));
                let advice = "Is it a network mount whose server is gone? `mount` lists what is mounted; `umount -l` \
                              lets go of what does not answer.";
                self.recorder.add(DoctorCheck::problem("answer", found).advice(advice));
                // The thread hangs in a system call; it ends with the program.
                return Ok(self.recorder.lock().clone());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
        Ok(self.recorder.lock().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{SilentMonitor, system_random};

    fn wait(
        limit: Duration,
        stop: bool,
        checks: impl FnOnce(&CheckRecorder, &Arc<AtomicBool>) + Send + 'static,
    ) -> Result<CheckFindings> {
        let stop = AtomicBool::new(stop);
        let ctx = Context { random: &system_random, threads: 1, parallel: 1, stop: &stop, monitor: &SilentMonitor };
        RunningChecks::start("vault", limit, checks).wait(&ctx)
    }

    fn names(findings: &CheckFindings) -> Vec<&'static str> {
        findings.checks.iter().map(|check| check.name).collect()
    }

    #[test]
    fn what_does_not_come_back_is_left_behind_with_what_was_found() {
        let long = Duration::from_secs(60);
        let done = wait(long, false, |recorder, _| recorder.add(DoctorCheck::ok("a", ""))).unwrap();
        assert_eq!(names(&done), ["a"]);

        let told = wait(Duration::from_millis(20), false, |recorder, stop| {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            recorder.add(DoctorCheck::skipped("told", ""));
        });
        assert_eq!(names(&told.unwrap()), ["told"]);

        let began = Instant::now();
        let gone = wait(Duration::from_millis(20), false, move |recorder, _| {
            recorder.add(DoctorCheck::ok("before", ""));
            std::thread::sleep(long);
        });
        assert_eq!(names(&gone.unwrap()), ["before", "answer"]);
        assert!(began.elapsed() < Duration::from_secs(20));
        assert!(wait(long, true, move |_, _| std::thread::sleep(long)).is_err());
    }
}
