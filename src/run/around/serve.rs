//! A term, from the app's start to its end: backups by time, at signals and at errors.

use std::thread;
use std::time::{Duration, Instant};

use super::backups::{BackupCause, SavedBackup};
use super::term::HoldEvent;
use super::{Around, RunEvent};
use crate::children::ProgramEnd;
use crate::epochs::driver::{Begun, Hold};
use crate::error::Result;
use crate::monitor::system_random;
use crate::report::RunId;
use crate::run::app::{App, AppEvent};
use crate::run::freshness::FreshnessWatch;
use crate::run::restart::RestartDecision;
use crate::run::settings::OnSuperseded;
use crate::run::signals::SignalMeaning;
use crate::runner::beside::AppState;
use crate::vault::root::SnapshotName;

/// How long it is waited for the rest of the app's output after its end.
pub(super) const OUTPUT: Duration = Duration::from_secs(2);
/// An app that ends within this time after a signal of the terminal ends because of it.
const TOLD: Duration = Duration::from_secs(10);
/// How often the restart of an app is put off by one poll while it cannot be asked whether another instance has taken over.
const PUT_OFF: u32 = 3;
/// How far the time between two backups differs from what was asked for, at most, in parts of it: many instances that were started
/// at once are not to ask one bucket at once for ever.
const JITTER: f64 = 0.05;

/// How a term ended.
pub enum TermEnd {
    /// The program ends with this code.
    Exit(u8),
    /// Another instance runs the app now.
    Superseded,
    /// The app is stopped, and a new term begins in this epoch, which is held.
    Anew(Begun),
    /// The data is another one now, and the epoch is ended: a new term starts the app on it, unless another instance has come meanwhile.
    Restored,
    /// The app is not to run on its data: a new term decides about it.
    Again,
}

/// The state of a term while the app runs.
#[derive(Debug, Default)]
pub struct TermState {
    /// The app. `None` between a failure and its restart.
    pub(super) app: Option<App>,
    /// When the next backup is due. `None`: not by time.
    due: Option<Instant>,
    /// Whether there was no data when the term began, and none has been saved since.
    pub(super) is_empty: bool,
    /// Whether a scheduled backup is not over.
    saving: bool,
    /// How often the app was started again in a row.
    restarts: u32,
    /// The restart that waits.
    again: Option<Restart>,
    /// The instance that takes over while the app goes on, and the backup of which it is told as the last one.
    parts: Option<(u32, RunId)>,
    /// When the terminal sent the app a signal.
    told: Option<Instant>,
    /// How the app ended last, before a restart that waits.
    pub(super) ended: Option<ProgramEnd>,
    /// Watches the data, while the app runs.
    pub(super) watch: Option<FreshnessWatch>,
    /// When this program was told to stop first.
    pub(super) stopping: Option<Instant>,
}

impl TermState {
    /// The state of an app that has just started; `is_empty` says that there was no data then.
    pub(super) fn of(app: App, is_empty: bool) -> Self {
        TermState { app: Some(app), is_empty, ..TermState::default() }
    }

    /// Whether a user has just ended the app at the terminal: that is no failure.
    pub(super) fn was_told(&self) -> bool {
        self.told.is_some_and(|at| at.elapsed() < TOLD)
    }
}

/// A restart of the app that waits.
#[derive(Debug, Clone, Copy)]
struct Restart {
    /// Not before this time.
    at: Instant,
    /// The backup that is to be over first: the app might overwrite what explains the crash. `None`: none could be asked for, or it
    /// is over.
    after: Option<RunId>,
    /// How often it was put off since it could not be asked whether another instance has taken over.
    put_off: u32,
}

impl Around {
    /// Runs the app until the term is over.
    ///
    /// # Errors
    /// The app cannot be started again.
    pub(super) fn serve(&self, mut state: TermState) -> Result<TermEnd> {
        state.due = self.next_due()?;
        self.beside.set(AppState::Running);
        self.tell_restore();
        state.watch = self.watch_data();
        loop {
            let again = state.again.filter(|again| again.after.is_none()).map(|again| again.at);
            let event = match state.due.into_iter().chain(again).min() {
                Some(until) => self.events.recv_deadline(until).ok(),
                None => self.events.recv().ok(),
            };
            let now = Instant::now();
            if again.is_some_and(|at| at <= now)
                && let Some(end) = self.restart_if_held(&mut state)
            {
                return Ok(end);
            }
            if state.due.is_some_and(|due| due <= now) {
                // A backup that takes longer than the interval is not followed by all that were due meanwhile.
                if !state.saving {
                    state.saving = self.back_up_data(BackupCause::Schedule, &state).is_some();
                }
                state.due = self.next_due()?;
            }
            let Some(event) = event else { continue };
            if let Some(end) = self.take(event, &mut state)? {
                return Ok(end);
            }
        }
    }

    /// Whether another instance may have taken over while this one was stopped.
    fn is_doubtful(&self) -> bool {
        self.term.driver().is_some_and(|driver| driver.is_doubtful())
    }

    /// Starts the app again, unless another instance has taken over: this program may have been stopped for a while. Returns how the term
    /// ended; `None` if it goes on.
    fn restart_if_held(&self, state: &mut TermState) -> Option<TermEnd> {
        let again = state.again.take()?;
        let keeps = self.settings.on_superseded == OnSuperseded::Keep;
        match self.term.driver().map(|driver| self.runner.context(|ctx| driver.look(ctx))) {
            Some(Hold::Superseded { by }) if !keeps => return Some(self.hand_over(state, by)),
            Some(Hold::Ended { by }) => {
                self.lose(by);
                if !keeps {
                    return Some(self.hand_over(state, by));
                }
            }
            // The app of one that has not been stopped itself would run on as well while its vault is away.
            Some(Hold::Unknown { .. }) if again.put_off < PUT_OFF || self.is_doubtful() => {
                if again.put_off == PUT_OFF {
                    tracing::warn!(
                        "the app is not started again until the vault tells whether another instance runs: this one was stopped for a while"
                    );
                }
                let at = Instant::now() + self.settings.handover_poll;
                state.again = Some(Restart { at, after: None, put_off: again.put_off.saturating_add(1) });
                return None;
            }
            Some(Hold::Held | Hold::Gap(_) | Hold::Superseded { .. } | Hold::Unknown { .. }) | None => {}
        }
        tracing::warn!("the app is started again ({})", state.restarts);
        match self.start_app() {
            Ok(app) => {
                state.app = Some(app);
                state.watch.iter().for_each(|watch| watch.app_runs(true));
                None
            }
            Err(why) => Some(self.not_again(state, &why)),
        }
    }

    /// Takes an event. Returns how the term ended; `None` if it goes on.
    fn take(&self, event: RunEvent, state: &mut TermState) -> Result<Option<TermEnd>> {
        match event {
            RunEvent::Signal(SignalMeaning::BackUp) => _ = self.back_up_data(BackupCause::Signal, state),
            RunEvent::Signal(SignalMeaning::PassOn(signal)) => {
                state.app.iter().for_each(|app| app.signal(signal));
            }
            RunEvent::Signal(SignalMeaning::AppWasTold(_)) => match &state.app {
                Some(_) => state.told = Some(Instant::now()),
                None => return Ok(Some(self.stop_by_signal(state, None))),
            },
            RunEvent::Signal(SignalMeaning::Stop(signal)) => return Ok(Some(self.stop_by_signal(state, Some(signal)))),
            RunEvent::App(AppEvent::Exited { pid, end }) if state.app.as_ref().is_some_and(|app| app.pid() == pid) => {
                return Ok(self.app_ended(end, state));
            }
            RunEvent::App(AppEvent::Exited { .. }) => {}
            RunEvent::App(AppEvent::OutputMatched(told)) => {
                let lines = if told.count == 1 { "a line".into() } else { format!("{} lines", told.count) };
                let what = format!("{lines} of the app's output matched {}", told.pattern);
                tracing::error!("{what}");
                // The line itself is in the report's output, and goes into no notification.
                self.back_up_data(BackupCause::Output(what), state);
            }
            RunEvent::Saved(saved) => {
                self.saved(&saved, state);
                self.tell_trouble(&saved);
            }
            RunEvent::Sought => return Ok(self.found_epoch(state)),
            RunEvent::Restore(asked) => return self.restore(&asked, state),
            RunEvent::Data(news) => self.data_news(news),
            RunEvent::Hold(HoldEvent::Gap(gap)) => tracing::error!(
                "for {gap:.0?} this instance could not ask whether another one takes over: it got no processor time. On Cloud Run, \
                 `--no-cpu-throttling` gives it some at all times"
            ),
            RunEvent::Hold(HoldEvent::Superseded { by }) if self.settings.on_superseded == OnSuperseded::Keep => {
                tracing::error!(
                    "another instance takes over (epoch {by}), and this one goes on (--on-superseded keep): it gets what is saved now, and \
                     what is saved here after that is diverged"
                );
                self.runner.cut_short();
                let last = self.back_up_data(BackupCause::Shutdown, state);
                state.parts = last.map(|run| (by, run));
                if last.is_none() {
                    self.part(by, None);
                }
            }
            RunEvent::Hold(HoldEvent::Superseded { by }) => return Ok(Some(self.hand_over(state, by))),
            RunEvent::Hold(HoldEvent::Ended { by }) => {
                self.lose(by);
                if self.settings.on_superseded != OnSuperseded::Keep {
                    return Ok(Some(self.hand_over(state, by)));
                }
            }
        }
        Ok(None)
    }

    /// Takes the news that another instance has ended this one's epoch.
    pub(super) fn lose(&self, by: u32) {
        self.term.lose_and_tell(by);
        self.pin_unasked_beside(by);
    }

    /// Ends the epoch of an app that goes on although another instance takes over: that one need not wait. On a thread of its own: a vault
    /// that hangs must not keep the app's end from being seen.
    fn part(&self, by: u32, last: Option<SnapshotName>) {
        let (Some(around), Some(driver)) = (self.me.upgrade(), self.term.driver()) else { return };
        if !self.term.lose(by) {
            return;
        }
        let work = move || around.end_epoch(&driver, last);
        if let Err(why) = thread::Builder::new().name("part".into()).spawn(work) {
            tracing::warn!("the end of the epoch is not told, since there is no thread for it: {why}");
        }
    }

    /// Pins the same as [`Around::pin_unasked`] on a thread of its own, where the app goes on. Elsewhere the app is stopped first, and not
    /// after a vault has answered: its last snapshot pins them.
    fn pin_unasked_beside(&self, by: u32) {
        let Some(around) = self.me.upgrade().filter(|_| self.settings.on_superseded == OnSuperseded::Keep) else {
            return;
        };
        if let Err(why) = thread::Builder::new().name("pin".into()).spawn(move || around.pin_unasked(by)) {
            tracing::warn!("a snapshot is not pinned, since there is no thread for it: {why}");
        }
    }

    /// Pins what may hold the only copy of what the app wrote after the successor had restored.
    pub(super) fn pin_unasked(&self, by: u32) {
        let (unasked, why) =
            (self.term.take_unasked(), format!("the instance of epoch {by} may have taken over before it was saved"));
        for snapshot in unasked {
            match self.runner.context(|ctx| self.pin(snapshot, &why, ctx)) {
                Ok(()) => tracing::error!("the snapshot {snapshot} is pinned: {why}"),
                Err(error) => tracing::warn!("the snapshot {snapshot} is not pinned: {}", error.what()),
            }
        }
    }

    /// Asks for a backup as [`Around::back_up`] does, unless the directory was empty and still is: a snapshot of nothing would be suspect,
    /// and keep the next start from being the first.
    fn back_up_data(&self, cause: BackupCause, state: &TermState) -> Option<RunId> {
        if state.is_empty && !self.has_data() {
            tracing::info!("no snapshot is taken: the app has written nothing to {}", self.settings.data.display());
            return None;
        }
        self.back_up(cause)
    }

    /// Takes the end of a backup.
    pub(super) fn saved(&self, saved: &SavedBackup, state: &mut TermState) {
        if saved.cause == BackupCause::Schedule {
            state.saving = false;
        }
        if let Some(again) = state.again.as_mut().filter(|again| again.after == Some(saved.run)) {
            again.after = None;
        }
        if let Some((by, _)) = state.parts.take_if(|(_, run)| *run == saved.run)
            && saved.is_committed()
        {
            self.part(by, saved.snapshot());
        }
        if saved.is_committed() {
            state.is_empty &= saved.good_snapshot().is_none() && !self.has_data();
            self.term.note_commit(saved.snapshot());
        }
        self.watch_time(saved);
        if let Some(by) = self.term.lost() {
            self.pin_unasked_beside(by);
        }
        if let Some(snapshot) = saved.good_snapshot() {
            self.write_first_lineage(snapshot);
        }
    }

    /// When the next backup is due by time.
    fn next_due(&self) -> Result<Option<Instant>> {
        // A look at a copy of the data saves nothing.
        let Some(every) = self.settings.every.filter(|_| !self.settings.detached) else { return Ok(None) };
        let mut random = [0; 2];
        system_random(&mut random)?;
        let part = f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX);
        let factor = 1.0 + JITTER * (2.0 * part - 1.0);
        Ok(Some(Instant::now() + every.mul_f64(factor)))
    }

    /// Takes the end of the app: it is over, or the app is saved and then started again.
    fn app_ended(&self, end: ProgramEnd, state: &mut TermState) -> Option<TermEnd> {
        let app = state.app.take()?;
        app.finish_output(OUTPUT);
        state.watch.iter().for_each(|watch| watch.app_runs(false));
        let age = app.age();
        let again = match end.is_success() || state.was_told() {
            true => RestartDecision::End,
            false => self.settings.restart.after(end, age, state.restarts),
        };
        match again {
            RestartDecision::End => Some(self.end_after(&app, end, state)),
            RestartDecision::After { wait, restart } => {
                tracing::error!("the app has failed after {age:.0?}: {end}");
                // What it left may still write, and hold its ports.
                tell_left(&app.stop(None, self.settings.stop_timeout).left);
                (state.restarts, state.ended) = (restart, Some(end));
                let after = self.back_up_data(BackupCause::Crash(format!("the app has failed: {end}")), state);
                state.again = Some(Restart { at: Instant::now() + wait, after, put_off: 0 });
                None
            }
        }
    }
}

/// Tells of processes that an app left and that did not end.
pub(super) fn tell_left(left: &[u32]) {
    if !left.is_empty() {
        tracing::error!("processes that the app has started are still there, and may write to the data: {left:?}");
    }
}
