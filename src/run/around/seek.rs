//! An instance without an epoch: its first vault did not answer, or was not there, when its app was started on what was there.
//!
//! A thread asks for the vault, every poll interval at first and once a minute at last. When it answers, the thread takes an epoch while
//! the app runs, and the directory is decided about anew. If it goes on from the newest snapshot, the app goes on as well, and backups
//! follow in the epoch. Otherwise the app is stopped, what it leaves is saved beside the line of snapshots, and a new term begins in the
//! epoch: that saves, restores, adopts or refuses as at any start.
//!
//! The thread does all that asks the vaults. It leaves what it found in [`Seek`], for the thread that decides: a term that ends
//! meanwhile takes the epoch for its last snapshot, or ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::backups::{BackupCause, SavedBackup};
use super::end;
use super::serve::{TermEnd, TermState};
use super::{Around, RunEvent};
use crate::children::ProgramEnd;
use crate::epochs::clock::pause_after;
use crate::epochs::driver::{Begun, EpochDriver, Go, Start};
use crate::error::{Code, Kind, Result};
use crate::monitor::Context;
use crate::replicas::SiteState;
use crate::run::settings::OnSuperseded;
use crate::start::decide::{Decision, StartAction};
use crate::start::facts::{Gathered, StartOptions};
use crate::start::known::VaultFacts;

/// The time between two looks at whether the attempts are to end.
const STEP: Duration = Duration::from_millis(50);
/// How long the end of a term waits for an attempt that is under way.
const PATIENCE: Duration = Duration::from_millis(500);

/// The result of the attempts to take an epoch while the app ran.
pub enum Found {
    /// One was taken.
    Epoch {
        /// What holds it.
        driver: Arc<EpochDriver>,
        /// The epoch.
        begun: Begun,
        /// What is done with it.
        then: Then,
    },
    /// The app is not to run on this directory, for this reason. No epoch was taken: it would stop another instance's app in vain.
    Refused(Box<Decision>),
}

/// What is done with it.
pub enum Then {
    /// The directory goes on from the newest snapshot, which is committed in the epoch.
    GoOn,
    /// The directory is something else: the app has to be stopped first.
    Anew(Box<Decision>),
    /// Another instance has taken over meanwhile.
    Superseded(u32),
}

/// The attempts to take an epoch.
#[derive(Default)]
pub struct Seek {
    stop: AtomicBool,
    state: Mutex<SeekState>,
}

#[derive(Default)]
struct SeekState {
    found: Option<Found>,
    /// What takes an epoch, or has tried to. It may have begun one when nothing is found yet.
    taking: Option<Arc<EpochDriver>>,
    /// Whether nothing more is tried.
    is_over: bool,
    /// Whether nobody takes what is found from now on.
    is_given_up: bool,
}

impl Seek {
    fn state(&self) -> MutexGuard<'_, SeekState> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits, until `stop` is set at most. Returns whether it was not.
pub(super) fn pause(time: Duration, stop: &AtomicBool) -> bool {
    let until = Instant::now() + time;
    while !stop.load(Ordering::SeqCst) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(STEP));
    }
    false
}

/// Whether all vaults answer that count.
pub(super) fn is_decidable(gathered: &Gathered) -> bool {
    !matches!(gathered.facts.vault, VaultFacts::Unreachable { .. } | VaultFacts::NoVault(_))
}

impl Around {
    /// Takes an epoch as soon as the vault answers.
    pub(super) fn seek_epoch(self: &Arc<Self>) {
        tracing::error!(
            "the app runs without an epoch: until the vault answers, what is saved is diverged, and is never restored by itself"
        );
        let (around, seek) = (self.clone(), Arc::new(Seek::default()));
        *self.sought() = Some(seek.clone());
        let work = move || {
            let found = around.until_found(&seek);
            let mut state = seek.state();
            state.is_over = true;
            match found {
                None => {}
                Some(found) if state.is_given_up => {
                    drop(state);
                    if let Found::Epoch { driver, .. } = found {
                        around.end_epoch(&driver, None);
                    }
                }
                Some(found) => {
                    state.found = Some(found);
                    // The receiver lives as long as the program.
                    let _ = around.send.send(RunEvent::Sought);
                }
            }
        };
        if let Err(why) = thread::Builder::new().name("seek".into()).spawn(work) {
            tracing::error!("no epoch is taken when the vault answers, since there is no thread for it: {why}");
        }
    }

    fn sought(&self) -> MutexGuard<'_, Option<Arc<Seek>>> {
        // Nothing panics while it holds the lock.
        self.seek.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until_found(&self, seek: &Seek) -> Option<Found> {
        let (mut failed, mut told) = (0, String::new());
        while pause(pause_after(self.settings.handover_poll, failed), &seek.stop) {
            let tried = self.runner.context(|ctx| self.try_epoch(seek, &Context { stop: &seek.stop, ..*ctx }));
            match tried {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(why) if why.kind() == Kind::Unreachable || why.code() == Code::Stopped => {}
                Err(why) if why.what() == told => {}
                Err(why) => {
                    tracing::error!("no epoch can be taken, and it is tried again: {why}");
                    told = why.what();
                }
            }
            failed += 1;
        }
        None
    }

    /// Takes an epoch, and decides about the directory. `None` if the vault is still away.
    fn try_epoch(&self, seek: &Seek, ctx: &Context) -> Result<Option<Found>> {
        let sites = self.vaults.sites(false)?;
        if !sites.first().is_some_and(|site| matches!(site.found, SiteState::Vault(_))) {
            return Ok(None);
        }
        // An epoch in which nothing could be decided would be of no use.
        let (decision, gathered) = self.look_beforehand(ctx)?;
        if !is_decidable(&gathered) || gathered.damaged.as_ref().is_some_and(|damaged| damaged.unheard.is_some()) {
            return Ok(None);
        }
        if matches!(decision.action, StartAction::Refuse { .. }) {
            return Ok(Some(Found::Refused(Box::new(decision))));
        }
        // Locked since its app was started, or to be locked as soon as there is data: both go on. If the lock is this instance's,
        // whoever ran here before is gone.
        let options = self.epoch_options(self.locked_place()?, ctx)?;
        self.term.name_run(options.run);
        let driver = Arc::new(self.epoch_driver(sites, options));
        seek.state().taking = Some(driver.clone());
        let begun = match driver.begin(ctx)? {
            Start::Begun(begun) => begun,
            Start::Superseded { by } => {
                let begun = Begun { epoch: driver.epoch().unwrap_or_default(), forced: false };
                return Ok(Some(Found::Epoch { driver, begun, then: Then::Superseded(by) }));
            }
        };
        tracing::info!("the vault answers: this instance is of epoch {}", begun.epoch);
        match self.decide_in_place(&driver, begun, ctx) {
            Ok(Some(then)) => Ok(Some(Found::Epoch { driver, begun, then })),
            other => {
                self.end_epoch(&driver, None);
                other.map(|_| None)
            }
        }
    }

    /// Decides about the directory in which the app runs, and goes on from the newest snapshot where that may be. `None` if it cannot be
    /// told now.
    fn decide_in_place(&self, driver: &EpochDriver, begun: Begun, ctx: &Context) -> Result<Option<Then>> {
        // The app uses its databases.
        let look = StartOptions { check: None, ..self.settings.look.clone() };
        let (decision, gathered) = self.decide_by(&look, ctx)?;
        let was_chosen = gathered.lineage.as_ref().is_some_and(|lineage| lineage.chosen);
        // It is a first start if the vault has nothing but what was saved of this very app since.
        let is_first = match gathered.facts.vault {
            VaultFacts::NoneGood { newest, .. } => Some(newest) == self.term.beside(),
            _ => false,
        };
        match decision.action {
            _ if !is_decidable(&gathered) => return Ok(None),
            _ if is_first => {}
            // What somebody chose is to become the newest whatever it looks like: that is done where no app runs.
            StartAction::Start { save } if !(was_chosen && save) => {}
            _ => return Ok(Some(Then::Anew(Box::new(decision)))),
        }
        let newest = match gathered.facts.vault {
            VaultFacts::Good(name) => Some(name),
            _ => None,
        };
        if let Some((damaged, _)) = self.damaged_root(&gathered)? {
            self.pin_damaged(damaged, Some(begun), ctx)?;
        }
        let newest = self.commit_anew(driver, (newest, true), begun, ctx)?;
        match driver.decided(newest, ctx)? {
            Go::Start => {
                driver.running(self.place()?, ctx);
                Ok(Some(Then::GoOn))
            }
            Go::Again => Ok(None),
            Go::Superseded { by } => Ok(Some(Then::Superseded(by))),
        }
    }

    /// Takes the news that an epoch was taken. Returns how the term ended; `None` if it goes on.
    pub(super) fn found_epoch(&self, state: &mut TermState) -> Option<TermEnd> {
        let seek = self.sought().clone()?;
        let found = seek.state().found.take();
        let found = found?;
        *self.sought() = None;
        let (driver, begun, then) = match found {
            Found::Epoch { driver, begun, then } => (driver, begun, then),
            Found::Refused(decision) => return Some(self.stop_refused(state, &decision)),
        };
        match then {
            Then::GoOn => {
                self.term.hold(driver, begun);
                if let Err(why) = self.term.watch(self.send.clone()) {
                    tracing::error!("nobody looks whether another instance takes over: {why}");
                }
                // What was saved so far is beside the line.
                self.back_up(BackupCause::Start);
                None
            }
            Then::Superseded(by) => {
                self.term.hold(driver, begun);
                self.lose(by);
                match self.settings.on_superseded {
                    OnSuperseded::Keep => None,
                    OnSuperseded::Wait | OnSuperseded::Exit => Some(self.hand_over(state, by)),
                }
            }
            Then::Anew(decision) => Some(self.begin_anew(state, driver, begun, &decision)),
        }
    }

    /// Stops an app that runs on data which is not the newest, and saves what it leaves. The term that follows decides anew.
    fn begin_anew(
        &self,
        state: &mut TermState,
        driver: Arc<EpochDriver>,
        begun: Begun,
        decision: &Decision,
    ) -> TermEnd {
        // The next instance is not to take this one for dead meanwhile.
        self.term.hold_beside(driver.clone());
        if let Err(why) = self.term.watch(self.send.clone()) {
            tracing::error!("nobody looks whether another instance takes over: {why}");
        }
        let end = self.stop_and_pin(state, decision);
        if state.stopping.is_some() {
            self.term.unwatch();
            self.term.leave_directory();
            self.end_epoch(&driver, None);
            return TermEnd::Exit(end.map_or(end::KILLED, ProgramEnd::code));
        }
        self.term.hold(driver, begun);
        TermEnd::Anew(begun)
    }

    /// Stops an app that is not to run on its data, and saves what it leaves. The term that follows refuses to start it.
    fn stop_refused(&self, state: &mut TermState, decision: &Decision) -> TermEnd {
        let end = self.stop_and_pin(state, decision);
        self.term.leave_directory();
        match state.stopping {
            Some(_) => TermEnd::Exit(end.map_or(end::KILLED, ProgramEnd::code)),
            None => TermEnd::Again,
        }
    }

    /// Stops the app, saves what it leaves, and pins that. Returns how the app ended.
    fn stop_and_pin(&self, state: &mut TermState, decision: &Decision) -> Option<ProgramEnd> {
        tracing::error!(
            "the vault answers, and the data that the app was started on is {}: the app is stopped ({})",
            decision.state,
            decision.why
        );
        let until = Instant::now() + self.settings.handover;
        let end = self.stop_running(state, Some(Signal::TERM), until);
        let saved = self.save_once(Some(until), BackupCause::Shutdown, state);
        if let Some(snapshot) = saved.as_ref().and_then(SavedBackup::snapshot)
            && let Err(why) = self.runner.context(|ctx| self.pin(snapshot, &decision.why, ctx))
        {
            tracing::warn!("the snapshot {snapshot} is not pinned: {}", why.what());
        }
        end
    }

    /// Ends the attempts to take an epoch, at the end of a term. One that was taken meanwhile is held, if the directory goes on from the
    /// newest snapshot. Otherwise it is returned, and is to be ended, as one that is still being taken.
    pub(super) fn stop_seeking(&self) -> Option<Arc<EpochDriver>> {
        let seek = self.sought().take()?;
        seek.stop.store(true, Ordering::SeqCst);
        let until = Instant::now() + PATIENCE;
        while !seek.state().is_over && Instant::now() < until {
            thread::sleep(STEP);
        }
        let mut state = seek.state();
        state.is_given_up = true;
        let (driver, begun, then) = match state.found.take() {
            Some(Found::Epoch { driver, begun, then }) => (driver, begun, then),
            Some(Found::Refused(_)) | None => return state.taking.take(),
        };
        match then {
            Then::GoOn => {
                self.term.hold(driver, begun);
                None
            }
            Then::Superseded(by) => {
                self.term.hold(driver, begun);
                self.lose(by);
                None
            }
            Then::Anew(_) => Some(driver),
        }
    }
}
