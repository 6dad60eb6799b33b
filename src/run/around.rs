//! `lastgood run`: an app, its data restored before it starts, and saved while it runs, at a crash and at its end.
//!
//! [`Around::run`] goes through *terms*. A term begins when this instance has taken an epoch and all that ran before it have ended
//! ([`begin`]): then the data directory is looked at, what no snapshot holds is saved, and the newest good snapshot is restored where
//! it is needed; without the vault, an app whose data is there starts without an epoch, which is taken later ([`seek`]). While the term
//! lasts ([`serve`]) the app runs, and the [`Runner`] of `serve` takes snapshots: one at a time, by time,
//! at a crash, at a signal. It ends ([`end`]) with the app, a signal, or another instance's epoch, after which this one may wait and
//! come back.
//!
//! The thread that calls [`Around::run`] decides everything. Others watch signals, the app, its output and the epochs, run the backups,
//! and send it [`RunEvent`]s.

mod aside;
mod backups;
mod listen;
mod restored;
mod ahead;
mod begin;
mod go_back;
mod directory;
mod seek;
mod carry;
mod exchange;
mod history;
mod serve;
mod end;
mod term;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use self::begin::Begin;
use self::listen::{Beside, Listening, Opened};
use self::restored::{RestoreAsk, UntoldRestore};
use self::seek::Seek;
use self::serve::TermEnd;
use self::term::{HoldEvent, Term};
use super::app::AppEvent;
use super::command::AppCommand;
use super::fit::{FitWatch, LAST};
use super::freshness::FreshnessNews;
use super::output::Output;
use super::settings::{OnSuperseded, RunSettings};
use super::signals::SignalMeaning;
use crate::children::{self, ProgramEnd};
use crate::epochs::clock::pause_after;
use crate::error::{Code, Doing, Error, Kind, Result};
use crate::monitor::{LogMonitor, system_random};
use crate::replicas::pool::VaultPool;
use crate::runner::beside::AppState;
use crate::runner::runner::Runner;

/// How long the runner is waited for after it was told to stop: for reports that it stores last.
const RUNNER_ENDS: Duration = Duration::from_secs(5);

/// How long it is waited at the end until everybody is told of the last runs.
const TOLD: Duration = Duration::from_secs(2);

/// Whether an error may pass by itself: a decision not to start the app does not.
fn may_pass(why: &Error) -> bool {
    let is_decided = matches!(why.code(), Code::NotStarted | Code::OtherWriter | Code::Stopped | Code::Internal);
    // A damaged snapshot may be whole in a vault that was not heard.
    (matches!(why.kind(), Kind::Unreachable | Kind::Failed) || why.code() == Code::Unreachable) && !is_decided
}

/// What happens while an app is run.
enum RunEvent {
    /// A signal.
    Signal(SignalMeaning),
    /// Something about the app.
    App(AppEvent),
    /// Something about the epoch.
    Hold(HoldEvent),
    /// Something about the data.
    Data(FreshnessNews),
    /// A backup is over.
    Saved(backups::SavedBackup),
    /// The vault answers that did not, and an epoch is taken: [`Around::seek`] has it.
    Sought,
    /// A restore is asked for. `None` in it: no longer.
    Restore(Arc<Mutex<Option<RestoreAsk>>>),
}

/// An app, and all that is done around it.
pub struct Around {
    /// This very thing, for threads that may outlive what they are needed for.
    me: Weak<Around>,
    /// When this program was told to stop first: the time of `--grace` begins then, whatever keeps the thread that takes the event.
    told: Arc<OnceLock<Instant>>,
    settings: RunSettings,
    command: AppCommand,
    output: Option<Arc<Output>>,
    vaults: Arc<VaultPool>,
    runner: Arc<Runner>,
    term: Arc<Term>,
    /// What tries to take an epoch while the app runs without one.
    seek: Mutex<Option<Arc<Seek>>>,
    /// The app, as the runner and requests see it.
    beside: Arc<Beside>,
    /// A restore of which the runner has not been told yet that it is over.
    untold: Mutex<Option<UntoldRestore>>,
    events: Receiver<RunEvent>,
    send: Sender<RunEvent>,
    app_events: Sender<AppEvent>,
    /// Set when stores are to give up: at a signal before the app runs, and when the time after a signal is over.
    stop: Arc<AtomicBool>,
    /// Whether a signal ends everything at once: no app runs.
    idle: Arc<Mutex<bool>>,
    has_terminal: bool,
    fit: Mutex<FitWatch>,
}

impl Around {
    /// Runs the app to its end, and returns the exit code: the app's. `ignored` tells which signals this process was started to
    /// ignore; `stop` is the flag of the `vaults`.
    ///
    /// # Errors
    /// The app could not be started, or is not to be started in that directory; what an app that ran came to is its exit code.
    pub fn run(
        mut settings: RunSettings,
        vaults: Arc<VaultPool>,
        stop: Arc<AtomicBool>,
        path: Option<&std::ffi::OsStr>,
        ignored: impl Fn(i32) -> bool,
    ) -> Result<u8> {
        // Before anything is done: a typing error in the command changes nothing.
        let command = AppCommand::find(&settings.command, path)?;
        let has_terminal = super::app::has_terminal();
        super::mark::set_data(&settings.data);
        let (send, events) = unbounded();
        let idle = Arc::new(Mutex::new(true));
        let term = Arc::new(Term::new(vaults.are_several()));
        let (tell, stops, halts, no_app) = (send.clone(), stop.clone(), term.halt().clone(), idle.clone());
        let (hurried, grace) = (vaults.clone(), settings.grace.saturating_sub(LAST));
        let told = Arc::<OnceLock<Instant>>::default();
        let first = told.clone();
        let on_signal = move |meaning| {
            // Told here, since the thread that takes the event may itself wait for a vault that hangs.
            if matches!(meaning, SignalMeaning::Stop(_)) {
                hurried.hurry(*first.get_or_init(Instant::now) + grace);
            }
            let idle = no_app.lock().unwrap_or_else(PoisonError::into_inner);
            if *idle && matches!(meaning, SignalMeaning::Stop(_) | SignalMeaning::AppWasTold(_)) {
                stops.store(true, Ordering::SeqCst);
                halts.store(true, Ordering::SeqCst);
            }
            // The receiver lives as long as the program.
            let _ = tell.send(RunEvent::Signal(meaning));
        };
        super::signals::watch(has_terminal, ignored, on_signal).doing(|| "watch for signals")?;
        // What the app leaves behind is found then, also where this is not process 1.
        children::adopt_orphans().doing(|| "watch what the app leaves behind")?;
        let beside = Arc::new(Beside::new(term.clone(), vaults.clone(), send.clone()));
        settings.rules.term = Some(term.for_backups().with_app(beside.clone()));
        if settings.detached {
            settings.rules.backups_off = Some("this is a look at a copy of the data (--detached)".into());
        }
        let output = settings.output.take().map(Arc::new);
        let runner =
            Runner::new(settings.rules.clone(), vaults.clone(), Arc::new(LogMonitor), system_random, stop.clone());
        let runner = Arc::new(runner);
        // Before an epoch is taken: an address that is in use stops no other instance's app.
        let opened = match settings.serving.take() {
            Some(serving) if settings.off.is_none() => Some(Opened::open(serving, &runner)?),
            Some(_) => {
                tracing::warn!("nothing is served and no event pulled: backups are switched off");
                None
            }
            None => None,
        };
        let (app_events, of_app) = unbounded();
        let tell = send.clone();
        let forward = move || of_app.into_iter().for_each(|event| _ = tell.send(RunEvent::App(event)));
        thread::Builder::new().name("app".into()).spawn(forward).doing(|| "start the thread that hears of the app")?;
        let around = Arc::new_cyclic(|me| Around {
            me: me.clone(),
            told,
            settings,
            command,
            output,
            vaults,
            runner,
            term,
            seek: Mutex::default(),
            beside,
            untold: Mutex::default(),
            events,
            send,
            app_events,
            stop,
            idle,
            has_terminal,
            fit: Mutex::default(),
        });
        around.all(opened)
    }

    fn all(self: &Arc<Self>, opened: Option<Opened>) -> Result<u8> {
        if let Some(why) = &self.settings.off {
            tracing::warn!("{why}: the app runs, nothing is restored and no snapshot is taken");
            return self.bare();
        }
        let (worker, (ended, over)) = (self.runner.clone(), crossbeam_channel::bounded(1));
        let work = move || _ = ended.send(worker.work());
        thread::Builder::new().name("runner".into()).spawn(work).doing(|| "start the thread of the backups")?;
        let listening = opened.map(Opened::serve).transpose()?;
        let code = self.terms();
        self.beside.set(AppState::Ending);
        self.tell_restore();
        listening.iter().for_each(Listening::begin_end);
        self.runner.wait_until_told(self.at_most(TOLD));
        self.stop.store(true, Ordering::SeqCst);
        // It stores the reports of what it could not finish.
        if over.recv_deadline(self.at_most(RUNNER_ENDS)).is_err() {
            tracing::warn!("a run was not over when the program ended");
        }
        if let Some(listening) = listening {
            listening.end();
        }
        code
    }

    /// Runs one term after the other.
    fn terms(self: &Arc<Self>) -> Result<u8> {
        let (mut returned, mut gives_way) = (None, false);
        // Since it waited for its return: how often the app could not be started. `None` before.
        let mut failures = None;
        let waits = self.settings.on_superseded == OnSuperseded::Wait;
        loop {
            let end = match self.begin(returned.take(), gives_way) {
                Ok(Begin::App(state)) => {
                    failures = None;
                    self.serve(state)?
                }
                Ok(Begin::Stopped) => return Ok(0),
                Ok(Begin::Superseded) => TermEnd::Superseded,
                // It waits until it is told to stop, and no app runs meanwhile. One that does not wait says that it has failed: whoever
                // started it starts it again.
                Err(why) if failures.is_some() && waits && self.term.driver().is_some() && may_pass(&why) => {
                    let failed: u32 = failures.unwrap_or_default();
                    let wait = pause_after(self.settings.handover_poll, failed);
                    tracing::error!("the app could not be started, and that is tried again in {wait:.1?}: {why}");
                    failures = Some(failed + 1);
                    seek::pause(wait, &self.stop);
                    TermEnd::Superseded
                }
                Err(why) => return Err(why),
            };
            gives_way = matches!(end, TermEnd::Restored) && self.settings.on_superseded != OnSuperseded::Keep;
            match end {
                TermEnd::Exit(code) => return Ok(code),
                TermEnd::Anew(begun) => {
                    returned = Some(begun);
                    failures.get_or_insert(0);
                    continue;
                }
                TermEnd::Restored | TermEnd::Again => {
                    // The app ran until somebody asked for a restore.
                    if gives_way {
                        failures.get_or_insert(0);
                    }
                    self.be_idle();
                    // Told to stop meanwhile: an epoch that is taken now would only have to be waited for.
                    if self.stop.load(Ordering::SeqCst) {
                        return Ok(0);
                    }
                    continue;
                }
                TermEnd::Superseded if !waits => return Ok(0),
                TermEnd::Superseded => {}
            }
            let Some(driver) = self.term.driver() else { return Ok(0) };
            if failures.is_none_or(|failed| failed == 0) {
                tracing::info!(
                    "another instance runs the app: this one waits until that has ended (--on-superseded wait)"
                );
            }
            self.be_idle();
            self.beside.set(AppState::Waiting);
            self.tell_restore();
            match self.runner.context(|ctx| driver.wait_for_return(ctx)) {
                Ok(begun) => {
                    tracing::warn!("this instance is needed again, in epoch {}", begun.epoch);
                    self.term.hold(driver, begun);
                    returned = Some(begun);
                    failures.get_or_insert(0);
                }
                Err(why) => {
                    // One that was begun meanwhile. An epoch whose last snapshot is missing is left to be ended by force.
                    if driver.has_unused() {
                        self.end_unused_epoch();
                    }
                    return if self.stop.load(Ordering::SeqCst) { Ok(0) } else { Err(why) };
                }
            }
        }
    }

    /// Runs the app and nothing else.
    fn bare(&self) -> Result<u8> {
        self.be_busy();
        let app = self.start_app()?;
        for event in &self.events {
            match event {
                RunEvent::Signal(SignalMeaning::Stop(signal)) => {
                    let stopped = app.stop(Some(signal), self.settings.stop_timeout);
                    return Ok(stopped.end.map_or(end::KILLED, ProgramEnd::code));
                }
                RunEvent::Signal(SignalMeaning::PassOn(signal)) => app.signal(signal),
                RunEvent::App(AppEvent::Exited { pid, end }) if pid == app.pid() => {
                    app.finish_output(serve::OUTPUT);
                    return Ok(end.code());
                }
                _ => {}
            }
        }
        Err(Error::failed("run the app", "nothing is heard of it any more").with_code(Code::Internal))
    }
}
