//! A restore that is asked for while the app runs: by `POST /backup/restore`, or by an event.
//!
//! One at a time, and never under the running app: the [`Runner`](crate::runner::runner::Runner) hands every restore over to here, and
//! begins no other run before it is over.
//!
//! 1. The snapshot is looked up by its name, which `latest` becomes before anything is saved: the newest is another one afterwards.
//! 2. The data is backed up while the app runs. Nothing was stopped yet if that fails.
//! 3. The app is stopped, and what it wrote since is backed up: that snapshot is the way back. It is in the report, and pinned.
//! 4. The snapshot is restored. The epoch is still this instance's, or nothing is exchanged.
//! 5. It is committed again, so that it is the newest at once, also for a machine without this disk, and the lineage names it.
//! 6. The epoch is ended and another one taken, as at any start, and the app is started ([`begin`](super::begin)).
//!
//! The run is over when the app runs again, or the program knows that it will not.
//!
//! Whatever ends it early leaves either the old data or the new one whole:
//!
//! | what happens | before the exchange | after it |
//! |---|---|---|
//! | an unknown snapshot, or one that is not whole | nothing is done, the app runs on | |
//! | a backup fails, a full disk, a damaged snapshot, a program in the way | the app is started on the old data, in the same epoch | |
//! | SIGTERM | as always: the app is stopped, its data saved, exit with its code | the new data is the newest; exit with 0, without the app |
//! | another instance takes over | as always: the app is stopped, its data saved | the epoch is ended, and that instance restores the new data |
//! | the epoch is ended by force | as always: what is saved is diverged | the new data is in the directory only, and the report says so |
//! | the app crashes meanwhile | in step 2: the restore goes on, and where it fails the crash is treated as always | |
//! | the app or what it started cannot be killed | the app, if it has ended, is started on the old data | |
//! | a restore in place cannot be taken back | the directory is marked; the next start restores the newest, the way back | |
//! | this program is killed | the next start finds the old data, whose last snapshot is the newest or the last but one | before step 5 the lineage says that the snapshot was chosen, and the next start makes it the newest; after it, it is |
//!
//! A disk that is lost with the machine between steps 4 and 5 comes back as the way back.
//!
//! An older snapshot that is restored by name so becomes what is saved next, as a rollback. One that is suspect counts as accepted then:
//! somebody has named it. One in which entries are missing or a database failed its check is refused, since what is committed again
//! would not be good either, and so not the newest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustix::process::Signal;

use super::serve::{TermEnd, TermState, tell_left};
use super::term::HoldEvent;
use super::{Around, RunEvent};
use crate::backup::options::BackupOptions;
use crate::children::ProgramEnd;
use crate::deadline;
use crate::epochs::driver::{Commit, EpochDriver, Hold};
use crate::error::{Code, Error, Result};
use crate::fs::filesystem;
use crate::job::{self, FinishedJob, Job, Origin};
use crate::lineage;
use crate::monitor::Context;
use crate::notify::Notifier;
use crate::replicas;
use crate::replicas::recommit::{NewRoot, acceptable, recommit};
use crate::replicas::restore::ReplicatedRestoreReport;
use crate::report::{JobOutput, RunId};
use crate::restore::options::RestoreOptions;
use crate::run::app::{App, AppEvent};
use crate::run::epoch_end;
use crate::run::fit::LAST;
use crate::run::settings::OnSuperseded;
use crate::run::signals::SignalMeaning;
use crate::runner::beside::AppState;
use crate::source::marker::Unfinished;
use crate::start::late::HeldBy;
use crate::vault::root::{BackupReason, SnapshotName};

/// The occasion that is recorded in snapshots that such a restore takes, and commits again.
const RESTORE: &str = "restore";
/// How often it is looked whether the restore is over.
const STEP: Duration = Duration::from_millis(20);

/// A restore that is asked for.
pub struct RestoreAsk {
    /// The run that does it.
    pub run: RunId,
    /// Which snapshot, and how it is put back.
    pub options: RestoreOptions,
    /// Why it is done, and who is told.
    pub cause: Origin,
    /// Takes the run when it is over.
    pub answer: Sender<FinishedJob>,
}

/// A restore that is over, whose run is told to the runner when it is clear whether the app runs.
pub struct UntoldRestore {
    ran: FinishedJob,
    answer: Sender<FinishedJob>,
}

/// How far a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The app is not touched.
    Before,
    /// The app is stopped, or about to be. The old data is there.
    Stopped(Option<ProgramEnd>),
    /// The new data is there, or what is there is marked as unfinished.
    Exchanged,
}

/// Events that came while it was restored.
#[derive(Debug, Default, Clone, Copy)]
struct Heard {
    /// Whether another instance takes over, or has.
    superseded: bool,
    /// Whether the app had ended before it was to be stopped.
    crashed: bool,
    /// Whether somebody said at the terminal that it is to end, when it was being stopped already.
    told: bool,
}

/// State that the thread that restores shares with the one that hears of events.
struct Progress {
    stage: Mutex<Stage>,
    /// Set when the restore is to end as soon as possible.
    interrupted: AtomicBool,
}

impl Progress {
    fn reach(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Around {
    /// Restores what was asked for. Returns how the term ended; `None` if it goes on.
    pub(super) fn restore(&self, asked: &Mutex<Option<RestoreAsk>>, state: &mut TermState) -> Result<Option<TermEnd>> {
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It was withdrawn.
        let Some(asked) = asked else { return Ok(None) };
        self.beside.set(AppState::Restoring);
        let app = state.app.take();
        let progress = Progress { stage: Mutex::new(Stage::Before), interrupted: AtomicBool::new(false) };
        let mut heard = Heard::default();
        let ran = thread::scope(|scope| {
            let work = || self.run_restore(&asked, app.as_ref(), &progress);
            let work = match thread::Builder::new().name("restore".into()).spawn_scoped(scope, work) {
                Ok(work) => work,
                Err(why) => return Err(why),
            };
            heard = self.hear_while(|| !work.is_finished(), app.as_ref(), &progress, state);
            match work.join() {
                Ok(ran) => Ok(ran),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        let RestoreAsk { run, options, cause, answer } = asked;
        let ran = ran.unwrap_or_else(|why| {
            let why = Error::io("start the thread that restores", &why);
            self.runner.context(|ctx| job::not_run(run, &Job::Restore(options), cause, why, &self.vaults, ctx))
        });
        let last = match &ran.report.done {
            Some(JobOutput::Restore(done)) => done.restored.committed_as.or(done.restored.way_back),
            _ => None,
        };
        *self.untold.lock().unwrap_or_else(PoisonError::into_inner) = Some(UntoldRestore { ran, answer });
        let is_ending = state.stopping.is_some() || heard.superseded || heard.told;
        let had_app = app.is_some();
        let end = match progress.stage() {
            Stage::Before => {
                state.app = app;
                None
            }
            // It is stopped as always, when what has happened is taken.
            Stage::Stopped(Some(end)) if is_ending => {
                state.ended = Some(end);
                None
            }
            Stage::Stopped(Some(_)) if !heard.crashed => self.start_again(state),
            // Its end is taken as always: it had ended by itself, or ends some time after SIGKILL.
            Stage::Stopped(_) => {
                state.app = app;
                None
            }
            Stage::Exchanged => self.go_on_with_new_data(state, heard.superseded, had_app, last),
        };
        if end.is_none() {
            self.beside.set(AppState::Running);
            self.tell_restore();
        }
        Ok(end)
    }

    /// Tells the runner that a restore is over, if one is: it begins the next run then.
    pub(super) fn tell_restore(&self) {
        let untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(UntoldRestore { ran, answer }) = untold {
            // The runner waits for it, unless it has ended.
            let _ = answer.send(ran);
        }
    }

    /// Starts the app in the same epoch.
    fn start_again(&self, state: &mut TermState) -> Option<TermEnd> {
        match self.start_app() {
            Ok(app) => {
                tracing::warn!("the app is started again, on the data that it had");
                state.app = Some(app);
                None
            }
            Err(why) => Some(self.not_again(state, &why)),
        }
    }

    /// Ends the epoch, and has the next term start the app, unless another instance does.
    fn go_on_with_new_data(
        &self,
        state: &mut TermState,
        superseded: bool,
        had_app: bool,
        last: Option<SnapshotName>,
    ) -> Option<TermEnd> {
        if self.settings.on_superseded == OnSuperseded::Keep && superseded {
            // It goes on beside the other instance, whose epoch it must not end.
            return if had_app { self.start_again(state) } else { None };
        }
        self.term.unwatch();
        // An instance that has begun since the last look waits for this one, and is not to be overtaken by it.
        let look = |driver: Arc<EpochDriver>| self.runner.context(|ctx| driver.look(ctx));
        let superseded =
            superseded || matches!(self.term.driver().map(look), Some(Hold::Superseded { .. } | Hold::Ended { .. }));
        if let Some(driver) = self.term.driver().filter(|_| !self.term.is_lost())
            && let Err(why) = self.runner.context(|ctx| epoch_end::end_epoch(&driver, last, &self.vaults, ctx))
        {
            tracing::warn!("the end of the epoch was not told: {}", why.what());
        }
        Some(match (superseded, self.settings.on_superseded) {
            (false, _) => TermEnd::Restored,
            (true, OnSuperseded::Wait) if state.stopping.is_none() => {
                self.term.leave_directory();
                TermEnd::Superseded
            }
            (true, _) => TermEnd::Exit(0),
        })
    }

    /// Hears of what happens while `goes_on` says that the restore does. What ends the term or asks for backups is put back, to be
    /// taken when the restore is over.
    fn hear_while(
        &self,
        goes_on: impl Fn() -> bool,
        app: Option<&App>,
        progress: &Progress,
        state: &mut TermState,
    ) -> Heard {
        let (mut later, mut heard, mut give_up) = (Vec::new(), Heard::default(), None);
        while goes_on() {
            if give_up.is_some_and(|at| at <= Instant::now()) {
                // A vault does not answer: it is waited for no longer.
                self.stop.store(true, Ordering::SeqCst);
            }
            let Ok(event) = self.events.recv_timeout(STEP) else { continue };
            match &event {
                RunEvent::Saved(saved) => {
                    self.saved(saved, state);
                    continue;
                }
                RunEvent::Signal(SignalMeaning::PassOn(signal)) => {
                    app.filter(|_| progress.stage() == Stage::Before).iter().for_each(|app| app.signal(*signal));
                    continue;
                }
                // That of the app that is stopped here.
                RunEvent::App(AppEvent::Exited { .. }) if progress.stage() != Stage::Before => continue,
                RunEvent::App(AppEvent::Exited { pid, .. }) => {
                    heard.crashed |= app.is_some_and(|app| app.pid() == *pid);
                }
                RunEvent::Signal(SignalMeaning::Stop(_)) => {
                    let now = *state.stopping.get_or_insert_with(|| self.told_to_stop());
                    give_up = Some(now + self.patience_with_stores());
                    progress.interrupted.store(true, Ordering::SeqCst);
                }
                RunEvent::Signal(SignalMeaning::AppWasTold(_)) => {
                    heard.told |= progress.stage() != Stage::Before;
                    progress.interrupted.store(true, Ordering::SeqCst);
                }
                RunEvent::Hold(HoldEvent::Superseded { .. }) => {
                    heard.superseded = true;
                    if self.settings.on_superseded != OnSuperseded::Keep {
                        progress.interrupted.store(true, Ordering::SeqCst);
                    }
                }
                RunEvent::Hold(HoldEvent::Ended { by }) => {
                    self.lose(*by);
                    heard.superseded = true;
                    progress.interrupted.store(true, Ordering::SeqCst);
                }
                RunEvent::Signal(SignalMeaning::BackUp)
                | RunEvent::App(_)
                | RunEvent::Sought
                | RunEvent::Data(_)
                | RunEvent::Hold(HoldEvent::Gap(_))
                | RunEvent::Restore(_) => {}
            }
            later.push(event);
        }
        // The receiver lives as long as the program.
        later.into_iter().for_each(|event| _ = self.send.send(event));
        heard
    }

    /// How long after a signal the stores of a restore that is under way may take, before all of them are told to give up.
    fn patience_with_stores(&self) -> Duration {
        let grace = self.settings.grace;
        match self.vaults.are_several() {
            // One that hangs was left out before ([`hurry`](crate::replicas::pool::VaultPool::hurry)), and the last snapshot needs the others.
            true => grace.saturating_sub(LAST),
            false => grace / 2,
        }
    }

    /// Does the run.
    fn run_restore(&self, asked: &RestoreAsk, app: Option<&App>, progress: &Progress) -> FinishedJob {
        let job = Job::Restore(asked.options.clone());
        let until = Instant::now() + self.settings.rules.run_timeout;
        deadline::with_deadline(until, &progress.interrupted, |over| {
            self.runner.within(over, |ctx| {
                job::run_as(asked.run, &job, asked.cause.clone(), &self.vaults, ctx, || {
                    self.exchange(&asked.options, app, progress, ctx).map(|done| JobOutput::Restore(Box::new(done)))
                })
            })
        })
    }

    /// Saves the data, stops the app and restores.
    fn exchange(
        &self,
        options: &RestoreOptions,
        app: Option<&App>,
        progress: &Progress,
        ctx: &Context,
    ) -> Result<ReplicatedRestoreReport> {
        let target = options.target.display();
        let doing = || format!("restore to {target}");
        if self.settings.detached {
            let why = "with --detached nothing is saved, and so nothing replaced";
            return Err(Error::usage(doing(), why));
        }
        let driver = self.term.driver().filter(|_| !self.term.is_lost()).ok_or_else(|| {
            let why = "this instance has no epoch, so that what it restores would not be the newest";
            Error::failed(doing(), why).with_code(Code::OtherWriter).hint("Start it again, once the vault answers.")
        })?;
        let (name, _) = replicas::restore::newest_of(self.vaults.sites(false)?, &options.snapshot, ctx)?;
        acceptable(self.vaults.sites(false)?, name)?;
        self.save_before(ctx)?;
        ctx.check(&doing())?;
        if let Some(app) = app {
            tracing::warn!("the app is stopped: the snapshot {name} is restored in the place of its data");
            progress.reach(Stage::Stopped(None));
            let stopped = app.stop(Some(Signal::TERM), self.settings.stop_timeout);
            progress.reach(Stage::Stopped(stopped.end));
            tell_left(&stopped.left);
            if stopped.end.is_none() || !stopped.left.is_empty() {
                let why = "the app, or something that it had started, could not be ended, and may write to the data";
                return Err(Error::failed(doing(), why).with_code(Code::InUse));
            }
        }
        let way_back = self.save_before(ctx)?;
        if let Some(way_back) = way_back {
            self.pin(way_back, "it was the newest before a restore that was asked for", ctx)?;
        }
        if let Commit::Diverged { by } = driver.before_commit(ctx)? {
            let why = format!("the instance of epoch {by} has taken over");
            return Err(Error::failed(doing(), why).with_code(Code::OtherWriter));
        }
        let mut options = RestoreOptions { snapshot: name.to_string(), ..options.clone() };
        // A mount point cannot be renamed.
        options.in_place |= filesystem::is_mount(&options.target).unwrap_or(false);
        let exchange = self.prepare_exchange(&mut options)?;
        let restored = replicas::restore::restore(self.vaults.sites(false)?, &options, ctx);
        if restored.is_ok() || is_unfinished(&options.target) {
            progress.reach(Stage::Exchanged);
        }
        let mut done = restored?;
        done.restored.way_back = way_back;
        done.restored.warnings.extend(self.end_exchange(&exchange));
        // From here on it is to be finished: the data is there.
        match self.runner.context(|ctx| self.commit_restored(name, &driver, ctx)) {
            Ok(anew) => done.restored.committed_as = Some(anew),
            Err(why) => {
                let why = format!("the snapshot is restored, and is not the newest one in the vault: {}", why.what());
                tracing::error!("{why}");
                done.restored.warnings.push(why);
            }
        }
        let why = "it was written before a restore that was asked for";
        let held = way_back.map_or(HeldBy::Restored(name), HeldBy::Taken);
        let late = self.save_late(held, done.restored.moved_aside.as_deref(), why, ctx);
        done.restored.warnings.extend(late);
        Ok(done)
    }

    /// Takes a snapshot of what is there. `None` if nothing is there.
    fn save_before(&self, ctx: &Context) -> Result<Option<SnapshotName>> {
        if !self.has_data() {
            return Ok(None);
        }
        let rules = &self.settings.rules;
        let mut options = BackupOptions { reason: BackupReason::Manual, accept_missing: true, ..rules.backup.clone() };
        self.term.set(&mut options);
        options.origin = Some(RESTORE.into());
        let job = Job::Backup { options: Box::new(options), init: rules.init };
        // The restore's end tells of it: a webhook would make the time without the app longer.
        let notify = Notifier::default();
        let origin = Origin { place: rules.place.clone(), hooks: rules.hooks.clone(), notify, ..Origin::default() };
        let origin = Origin { way: crate::report::Channel::Run, ..origin };
        match job::run(job::new_run(ctx)?, &job, origin, &self.vaults, ctx).into_output()? {
            JobOutput::Backup(done) => {
                if !done.taken.whole {
                    tracing::warn!(
                        "not everything could be read for the snapshot {}: the rest is only in the directory that is moved aside",
                        done.taken.snapshot
                    );
                }
                Ok(Some(done.taken.snapshot))
            }
            JobOutput::Restore(_) | JobOutput::Verify(_) => {
                Err(Error::failed("save the data", "the run was another one").with_code(Code::Internal))
            }
        }
    }

    /// Makes a snapshot that was restored the newest one, and writes that into the directory's lineage.
    fn commit_restored(&self, name: SnapshotName, driver: &EpochDriver, ctx: &Context) -> Result<SnapshotName> {
        let lost = |by: u32| {
            let why = format!("the instance of epoch {by} has taken over");
            Error::failed(format!("commit {name} again"), why).with_code(Code::OtherWriter)
        };
        if let Commit::Diverged { by } = driver.before_commit(ctx)? {
            return Err(lost(by));
        }
        let (epoch, serial) = (self.term.epoch().unwrap_or_default(), lineage::new_serial(ctx)?);
        let new = NewRoot {
            epoch,
            serial,
            origin: RESTORE,
            run: job::new_run(ctx)?,
            host: self.settings.rules.backup.host.clone(),
            accepted: true,
        };
        let anew = recommit(self.vaults.sites(false)?, name, &new, ctx)?;
        if let Commit::Diverged { by } = driver.after_commit(ctx)? {
            self.lose(by);
            return Err(lost(by));
        }
        lineage::write(&self.settings.data, &self.lineage(Some(anew), (epoch, serial), ctx)?)?;
        Ok(anew)
    }
}

/// Whether a restore in place has left a directory that is neither the old one nor the new one.
fn is_unfinished(target: &std::path::Path) -> bool {
    !matches!(Unfinished::at(target), Ok(None))
}
