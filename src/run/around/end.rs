//! The end of a term: the app is stopped, what it leaves is saved, and the epoch is ended.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use rustix::process::Signal;

use super::backups::{BackupCause, SavedBackup};
use super::serve::{TermEnd, TermState, tell_left};
use super::term::HoldEvent;
use super::{Around, RunEvent};
use crate::children::ProgramEnd;
use crate::epochs::driver::EpochDriver;
use crate::error::Error;
use crate::run::app::App;
use crate::run::epoch_end;
use crate::run::fit::LAST;
use crate::run::settings::OnSuperseded;
use crate::run::signals::SignalMeaning;
use crate::runner::answer::Answer;
use crate::runner::beside::AppState;
use crate::vault::root::SnapshotName;

/// How long an app that is told to stop is waited for before a backup begins beside it: one that ends at once needs one backup, not
/// two.
const ENDS_AT_ONCE: Duration = Duration::from_millis(400);
/// How long after a signal of the terminal another one says that nothing is to be waited for. Supervisors and `timeout` send one
/// signal twice, to the process and to its group.
const IMPATIENT: Duration = Duration::from_secs(1);
/// How often it is looked whether the time for the last writes is over.
const TICK: Duration = Duration::from_millis(50);
/// What this program itself needs of the time of `--grace` to end.
const OWN_END: Duration = Duration::from_millis(150);
/// The exit code of an app that could not be ended.
pub(super) const KILLED: u8 = 137;
/// The exit code of an app that could not be started again.
const NOT_STARTED: u8 = 1;

/// When the last snapshot is to be taken, if all is to be over then.
fn before_last(until: Instant) -> Instant {
    until.checked_sub(LAST).unwrap_or(until)
}

impl Around {
    /// Ends after a signal: within the time of `--grace`, a backup begins while the app stops, and another one takes what the app
    /// wrote last.
    pub(super) fn stop_by_signal(&self, state: &mut TermState, signal: Option<Signal>) -> TermEnd {
        // A restore may have been under way.
        let now = *state.stopping.get_or_insert_with(|| self.told_to_stop());
        let grace = self.settings.grace;
        let saved = if self.settings.detached { "" } else { " and its data saved" };
        tracing::info!("told to stop: the app is stopped{saved}, within {grace:.0?}");
        let until = now + grace;
        self.vaults.hurry(before_last(until));
        let end = self.stop_running(state, signal, until);
        self.save_last(Some(until), BackupCause::Shutdown, state);
        TermEnd::Exit(end.map_or(KILLED, ProgramEnd::code))
    }

    /// Ends after the app has ended by itself.
    pub(super) fn end_after(&self, app: &App, end: ProgramEnd, state: &mut TermState) -> TermEnd {
        let cause = match end.is_success() || state.was_told() {
            true => {
                tracing::info!("the app has ended: {end}");
                BackupCause::Shutdown
            }
            false => {
                tracing::error!("the app has failed after {:.0?}: {end}", app.age());
                BackupCause::Crash(format!("the app has failed: {end}"))
            }
        };
        tell_left(&app.stop(None, self.settings.stop_timeout).left);
        self.save_last(None, cause, state);
        TermEnd::Exit(end.code())
    }

    /// Ends since the app cannot be started again.
    pub(super) fn not_again(&self, state: &mut TermState, why: &Error) -> TermEnd {
        tracing::error!("the app cannot be started again: {why}");
        self.save_last(None, BackupCause::Shutdown, state);
        TermEnd::Exit(NOT_STARTED)
    }

    /// Ends because another instance takes over, or has.
    pub(super) fn hand_over(&self, state: &mut TermState, by: u32) -> TermEnd {
        tracing::warn!("another instance takes over (epoch {by}): the app is stopped and its data saved");
        let until = Instant::now() + self.settings.handover;
        self.vaults.hurry(before_last(until));
        if self.runner.cut_short() {
            tracing::info!(
                "the backup that is under way is cut short: the last snapshot goes on from what it has stored"
            );
        }
        self.stop_running(state, Some(Signal::TERM), until);
        self.save_last(Some(until), BackupCause::Shutdown, state);
        match self.settings.on_superseded {
            OnSuperseded::Wait if state.stopping.is_none() => {
                self.vaults.take_time();
                TermEnd::Superseded
            }
            OnSuperseded::Wait | OnSuperseded::Exit | OnSuperseded::Keep => TermEnd::Exit(0),
        }
    }

    /// Stops the app, if it runs. Returns how it ended, now or before; `None` if that is not known.
    pub(super) fn stop_running(
        &self,
        state: &mut TermState,
        signal: Option<Signal>,
        until: Instant,
    ) -> Option<ProgramEnd> {
        match state.app.take() {
            None => state.ended,
            Some(app) => self.stop_app(&app, signal, until),
        }
    }

    /// Stops the app, and has a backup begin beside it if that takes a while.
    fn stop_app(&self, app: &App, signal: Option<Signal>, until: Instant) -> Option<ProgramEnd> {
        self.beside.set(AppState::Ending);
        // The last snapshot needs time as well.
        let time = self.settings.stop_timeout.min(until.saturating_duration_since(Instant::now()) / 2);
        let stopped = std::thread::scope(|scope| {
            let stopping = scope.spawn(|| app.stop(signal, time));
            let begins = Instant::now() + ENDS_AT_ONCE.min(time);
            while Instant::now() < begins && !stopping.is_finished() {
                std::thread::sleep(Duration::from_millis(10));
            }
            if !stopping.is_finished() && !self.settings.detached && self.has_data() {
                self.back_up(BackupCause::Shutdown);
            }
            stopping.join()
        });
        let stopped = match stopped {
            Ok(stopped) => stopped,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        app.finish_output(Duration::from_millis(500).min(until.saturating_duration_since(Instant::now())));
        if stopped.killed {
            tracing::warn!("the app did not end within {time:.1?}, and was killed (--stop-timeout)");
        }
        tell_left(&stopped.left);
        stopped.end
    }

    /// Takes the last snapshot of the term and ends the epoch.
    fn save_last(&self, until: Option<Instant>, cause: BackupCause, state: &mut TermState) {
        self.beside.set(AppState::Ending);
        state.watch = None;
        if self.settings.detached {
            return self.term.leave_directory();
        }
        let until = until.map(before_last);
        let unused = self.stop_seeking();
        // An app that has failed before it wrote anything, or has its data elsewhere.
        let nothing_to_save = state.is_empty && !self.has_data();
        let mut saved = match nothing_to_save && self.settings.data.exists() {
            // A snapshot of nothing would be suspect, and keep the next start from being the first.
            true => None,
            // The error that there is no directory is told to whom the configuration names.
            false => self.save_once(until, cause.clone(), state),
        };
        // The epoch was ended while it was saved: it is saved once more, as what it is now. All packs are there.
        if self.term.is_lost() && saved.as_ref().is_some_and(|saved| !saved.is_committed()) {
            saved = self.save_once(until, cause, state);
        }
        match &saved {
            saved if nothing_to_save && saved.as_ref().is_none_or(|saved| saved.trouble().is_some()) => {
                let data = self.settings.data.display();
                let what = match self.settings.data.exists() {
                    true => format!("has written nothing to {data}"),
                    false => format!("has made no data directory {data}"),
                };
                tracing::warn!(
                    "there is nothing to save: the app {what}. If its data is elsewhere, say where: --data DIR"
                );
            }
            Some(saved) if saved.is_committed() => match saved.trouble() {
                None => tracing::info!("the last snapshot of the app's data is taken"),
                Some(trouble) => tracing::error!("the last snapshot is taken, and is not as it should be: {trouble}"),
            },
            Some(saved) => tracing::error!(
                "the last snapshot could not be taken; what the app wrote since the one before is only in {}: {}",
                self.settings.data.display(),
                saved.trouble().unwrap_or_default()
            ),
            None => tracing::error!(
                "the last snapshot was not finished in time; what the app wrote since the one before is only in {}{}",
                self.settings.data.display(),
                self.advice_on_time(until, state.stopping.is_some())
            ),
        }
        if let Some(snapshot) = saved.as_ref().and_then(SavedBackup::good_snapshot) {
            self.in_time("the lineage of the last snapshot", move |around| around.write_last_lineage(snapshot));
        }
        if let Some(snapshot) = saved.as_ref().and_then(SavedBackup::snapshot).filter(|_| self.is_beside()) {
            // It may be the only copy of what the app wrote last.
            let why = match self.term.is_lost() {
                true => "another instance had taken over before it was saved",
                false => "it is the last one of an instance that had no epoch",
            };
            self.in_time("the pin of the last snapshot", move |around| {
                if let Err(why) = around.runner.context(|ctx| around.pin(snapshot, why, ctx)) {
                    tracing::warn!("the snapshot {snapshot} is not pinned: {}", why.what());
                }
            });
        }
        if let Some(by) = self.term.lost() {
            self.in_time("the pin of a snapshot before the last one", move |around| around.pin_unasked(by));
        }
        self.term.unwatch();
        self.term.leave_directory();
        if let Some(driver) = unused {
            self.end_epoch(&driver, None);
        }
        // Without the last snapshot, and while one may still be committed, the successor is to wait, to use force, and so to commit
        // its own. Where there was never any data, there is nothing to wait for.
        let is_saved = nothing_to_save || saved.as_ref().is_some_and(SavedBackup::is_committed);
        let is_over = is_saved
            && (self.runner.running().is_none() || saved.as_ref().is_some_and(|saved| saved.unfinished.is_some()));
        if let Some(driver) = self.term.driver().filter(|_| is_over && !self.term.is_lost()) {
            self.end_epoch(&driver, saved.as_ref().and_then(SavedBackup::snapshot));
        }
    }

    /// Returns what makes a last snapshot fit into its time; empty where it had no limit.
    fn advice_on_time(&self, until: Option<Instant>, is_stopping: bool) -> String {
        if self.term.is_without_epoch() || self.vaults.is_unanswered() {
            return ". A vault does not answer: no time is long enough while that is so".into();
        }
        let longer = match (until, is_stopping) {
            (None, _) => return String::new(),
            (Some(_), true) => "--grace",
            // The instance that takes over waits no longer than that.
            (Some(_), false) => "--handover",
        };
        let time = self.settings.grace.saturating_sub(LAST);
        let fits = self.fit.lock().unwrap_or_else(PoisonError::into_inner).one_interval_fits(time);
        match (self.settings.every, fits) {
            (None, _) => format!(". A longer {longer}, and backups while the app runs (--every), make it fit"),
            (Some(_), true) => format!(". A longer {longer}, and backups more often (--every), make it fit"),
            // What is written in one interval takes longer already, and may take as long in a shorter one.
            (Some(_), false) => {
                format!(". A longer {longer} makes it fit, or leaving out what need not be saved (--exclude)")
            }
        }
    }

    /// Whether what is saved now is beside the line of snapshots, and never restored by itself.
    fn is_beside(&self) -> bool {
        self.term.is_lost() || self.term.is_without_epoch()
    }

    /// Ends an epoch in which no app ran: who comes next need not wait for it.
    pub(super) fn end_unused_epoch(&self) {
        self.term.unwatch();
        self.term.leave_directory();
        let Some(driver) = self.term.driver() else { return };
        self.tell_end(&driver, None);
    }

    fn tell_end(&self, driver: &EpochDriver, last: Option<SnapshotName>) {
        match self.runner.context(|ctx| epoch_end::end_epoch(driver, last, &self.vaults, ctx)) {
            Ok(_) => tracing::debug!("the epoch is ended"),
            Err(why) => {
                tracing::warn!("the end of the epoch was not told, and the next instance waits for it: {}", why.what());
            }
        }
    }

    pub(super) fn end_epoch(&self, driver: &Arc<EpochDriver>, last: Option<SnapshotName>) {
        let driver = driver.clone();
        self.in_time("the end of the epoch", move |around| around.tell_end(&driver, last));
    }

    /// Does something in the vaults on a thread of its own, and waits until it is done or, once this program is told to stop, the time of
    /// `--grace` is over: a vault that hangs never keeps it from ending.
    fn in_time(&self, what: &str, work: impl FnOnce(&Around) + Send + 'static) {
        let Some(around) = self.me.upgrade() else { return };
        let (done, is_done) = bounded(1);
        let work = move || {
            work(&around);
            // It may not be waited for any more.
            let _ = done.send(());
        };
        if let Err(why) = thread::Builder::new().name("last".into()).spawn(work) {
            return tracing::warn!("{what} is not written, since there is no thread for it: {why}");
        }
        loop {
            let end = self.at_most(TICK);
            match is_done.recv_deadline(end) {
                Err(RecvTimeoutError::Timeout) if self.is_late() => {
                    return tracing::warn!("{what} was not written in time: the vault does not answer");
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// When this program was told to stop first, which is now if nobody has noted it.
    pub(super) fn told_to_stop(&self) -> Instant {
        *self.told.get_or_init(Instant::now)
    }

    /// When so much time is over and, once this program is told to stop, `--grace` at the latest.
    pub(super) fn at_most(&self, time: Duration) -> Instant {
        let end = Instant::now() + time;
        self.told.get().map_or(end, |told| end.min(*told + self.settings.grace))
    }

    /// Whether the program was told to stop, and has little more than the time for its own end.
    fn is_late(&self) -> bool {
        self.told.get().is_some_and(|told| told.elapsed() + OWN_END >= self.settings.grace)
    }

    pub(super) fn save_once(
        &self,
        until: Option<Instant>,
        cause: BackupCause,
        state: &mut TermState,
    ) -> Option<SavedBackup> {
        let run = self.back_up(cause.clone())?;
        let saved = self.wait_for_backup(run, until, state);
        if saved.is_none()
            && let Some(unfinished) = self.term.committed(run)
        {
            // What cannot be written any more, such as its report and copies, is less than the snapshot.
            let answer = Arc::new(Answer::Refused("its report or its copies were not written in time".into()));
            return Some(SavedBackup { run, cause, answer, unfinished: Some(unfinished) });
        }
        if saved.is_none() && state.stopping.is_some() {
            self.stop.store(true, Ordering::SeqCst);
        }
        saved
    }

    /// Waits until a backup is over. `None` if the time is over before, or a user says at the terminal that it is not to be waited for:
    /// then what is under way gives up, and leaves a checkpoint.
    fn wait_for_backup(
        &self,
        run: crate::report::RunId,
        mut until: Option<Instant>,
        state: &mut TermState,
    ) -> Option<SavedBackup> {
        loop {
            let event = match until {
                Some(until) => self.events.recv_deadline(until).ok(),
                None => self.events.recv().ok(),
            };
            let Some(event) = event else { break };
            match event {
                RunEvent::Saved(saved) => {
                    self.saved(&saved, state);
                    if saved.run == run {
                        return Some(saved);
                    }
                }
                RunEvent::Signal(SignalMeaning::Stop(_) | SignalMeaning::AppWasTold(_)) if state.stopping.is_none() => {
                    let now = self.told_to_stop();
                    state.stopping = Some(now);
                    let grace = now + self.settings.grace.saturating_sub(LAST);
                    self.vaults.hurry(grace);
                    until = Some(until.map_or(grace, |until| until.min(grace)));
                }
                RunEvent::Signal(SignalMeaning::AppWasTold(_))
                    if state.stopping.is_some_and(|since| since.elapsed() > IMPATIENT) =>
                {
                    tracing::warn!("told to stop again: the last snapshot is given up");
                    break;
                }
                RunEvent::Hold(HoldEvent::Ended { by }) => self.lose(by),
                // A restore that is asked for now is not done: its sender hears of it.
                RunEvent::Hold(_)
                | RunEvent::App(_)
                | RunEvent::Signal(_)
                | RunEvent::Sought
                | RunEvent::Data(_)
                | RunEvent::Restore(_) => {}
            }
        }
        None
    }
}
