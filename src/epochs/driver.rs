//! Drives the [`protocol`](super::protocol) against vaults: makes its calls, and tells `run` what to do.
//!
//! Holding an epoch costs two reads of small objects for each poll, and no listing: with an interval of 5 s that is
//! 1.04 million reads a month, which Google Cloud Storage counts as class B operations (0.41 dollars at 0.40 dollars a
//! million, its price of 2026 for standard storage in one region).

mod calls;
mod ends;
mod looks;
mod watched;
mod words;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::admission::{Admission, Newcomer, admit};
use super::clock::{Clock, pause_after};
use super::protocol::{Action, Input, LONGEST_POLL, Phase, State};
use crate::error::{Code, Error, Kind, Result};
use crate::monitor::Context;
use crate::replicas::Site;
use crate::store::Store;
use crate::text::one_line;
use crate::vault::epochs::of_snapshot;
use crate::vault::root::{SnapshotName, SourceIdentity};
use calls::{EpochSite, Patience, Survey};
pub use words::{Begun, Commit, EpochOptions, Go, Hold, Start};

/// How often an instance that waits for its predecessors looks at them.
const LOOK: Duration = Duration::from_secs(1);
/// For how long it is asked again whether the app may be started, or a snapshot may be committed, or counts.
const ASKED: Duration = Duration::from_secs(30);
/// The most bytes of an error that a warning shows.
const SHOWN: usize = 500;

/// Holds epochs for one instance of an app. Its methods may be called from several threads; each waits for the others.
pub struct EpochDriver {
    sites: Vec<EpochSite>,
    options: EpochOptions,
    clock: Arc<dyn Clock>,
    progress: Mutex<Progress>,
    /// The first vault's store for last words, once the program is told to stop.
    last_words: OnceLock<Arc<dyn Store>>,
}

/// The part that changes.
struct Progress {
    state: State,
    /// Actions of the protocol that no caller has got yet.
    told: Vec<Action>,
    /// The greatest epoch of a snapshot that was seen.
    newest: u32,
    row: u32,
    /// The snapshot that is named in the end.
    last: Option<SnapshotName>,
    /// The directory of the app, once it runs.
    place: Option<SourceIdentity>,
    superseded: Option<u32>,
    /// When [`EpochDriver::tick`] was called last, and when it looked.
    ticked: Duration,
    looked: Duration,
    /// Since when the vault has not answered the looks, and why not.
    failing: Option<(Duration, String)>,
    /// What could not be told, and was reported.
    reported: Vec<String>,
    /// Vaults whose epochs are not known, which was reported.
    silent: Vec<usize>,
    /// Objects that may not have been created, which was reported.
    uncreated: Vec<String>,
    /// How long the calls may take.
    patience: Patience,
    /// Whether nothing was done for a while, and no look has succeeded since: another instance may have begun meanwhile.
    is_doubtful: bool,
    /// The epoch of another instance that ran when that was looked at last, before this one's epoch.
    live: Option<u32>,
    /// Numbers that were ignored and reported.
    ignored: Vec<u32>,
    /// What was seen just now, for the begin that follows.
    surveyed: Option<Survey>,
    /// Whether no app has run in the epoch that was begun last.
    is_unused: bool,
    /// Whether this instance has waited for its return.
    has_waited: bool,
}

impl Progress {
    /// Notes that something was done now.
    fn touch(&mut self, now: Duration) {
        (self.ticked, self.looked) = (now, now);
    }
}

/// The answer to an input.
struct Answered {
    actions: Vec<Action>,
    /// Whether every call was answered.
    all: Result<()>,
}

/// The result of entering an epoch once.
enum Entered {
    Started(Start),
    Again,
    Refused,
}

impl EpochDriver {
    /// Takes the places of one vault. Epochs are made in the first one, and read in all that hold the vault and answer.
    /// One that does not answer now is passed over for as long as the driver lives.
    pub fn new(sites: Vec<Site>, mut options: EpochOptions, clock: Arc<dyn Clock>) -> Self {
        // No successor waits for a longer one.
        options.poll = options.poll.min(LONGEST_POLL);
        let progress = Progress {
            state: State::new(options.handover),
            told: Vec::new(),
            newest: 0,
            row: 0,
            last: None,
            place: None,
            superseded: None,
            ticked: clock.now(),
            looked: clock.now(),
            failing: None,
            reported: Vec::new(),
            silent: Vec::new(),
            uncreated: Vec::new(),
            patience: Patience::Long,
            is_doubtful: false,
            live: None,
            ignored: Vec::new(),
            surveyed: None,
            is_unused: false,
            has_waited: false,
        };
        let sites = sites.into_iter().map(EpochSite::new).collect();
        EpochDriver { sites, options, clock, progress: Mutex::new(progress), last_words: OnceLock::new() }
    }

    /// Returns the same driver, which looks at an epoch that is held by these stores, one for each vault. Each of their calls ends
    /// within the time of a poll or, with short ones, 2.5 s, and each is made. A successor counts on that, as it takes a holder for dead
    /// that has not seen it after two polls and 5 s.
    #[must_use]
    pub fn with_quick_looks(mut self, stores: &[Option<Arc<dyn Store>>]) -> Self {
        self.sites.iter_mut().zip(stores).for_each(|(site, store)| site.quick = store.clone());
        self
    }

    fn lock(&self, patience: Patience) -> MutexGuard<'_, Progress> {
        // The state is replaced as a whole.
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.patience = patience;
        progress
    }

    /// Returns the number of the epoch that is held, or was held last.
    pub fn epoch(&self) -> Option<u32> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.state.epoch().map(|key| key.number)
    }

    /// Returns the epoch of another instance that ran when that was looked at last, if one did.
    pub fn saw_live(&self) -> Option<u32> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).live
    }

    fn newcomer(&self) -> Newcomer<'_> {
        Newcomer {
            service: self.options.service.as_deref(),
            host: &self.options.host,
            on_terminal: self.options.on_terminal,
            take_over: self.options.take_over,
            is_rollback: self.options.is_rollback,
        }
    }

    /// Whether an epoch that is begun now would have to wait for another one to end. `false` if none may be begun. Is to be asked
    /// just before [`EpochDriver::begin`], which goes by the same look if there is nobody to wait for.
    ///
    /// # Errors
    /// The first vault does not answer.
    pub fn would_wait(&self, ctx: &Context) -> Result<bool> {
        let mut progress = self.lock(Patience::Long);
        let seen = self.survey(&mut progress, ctx)?;
        let is_admitted = !matches!(admit(&seen.standing, &self.newcomer(), seen.now), Admission::Refuse(_));
        let waits = is_admitted && seen.standing.live.is_some();
        progress.surveyed = Some(seen).filter(|_| !waits);
        Ok(waits)
    }

    /// Begins an epoch, and returns when all older ones have ended.
    ///
    /// # Errors
    /// [`Code::OtherWriter`]: another service or machine runs. The first vault, or one in which an older epoch has not
    /// ended, does not answer. Being told to stop.
    pub fn begin(&self, ctx: &Context) -> Result<Start> {
        let mut progress = self.lock(Patience::Long);
        // While two instances want to run at once: the greatest epoch that was seen, and until when this one waits.
        let mut waiting: Option<(u32, Duration)> = None;
        loop {
            let waits = |until: Duration| self.clock.now() < until;
            let seen = match progress.surveyed.take() {
                Some(seen) => seen,
                None => match (self.survey(&mut progress, ctx), waiting) {
                    // What was seen before holds for as long as it is waited anyway, also if the vault refuses to answer just now.
                    (Err(why), Some((_, until))) if is_of_vault(&why) && waits(until) => {
                        self.pause_until(until, ctx)?;
                        continue;
                    }
                    (seen, _) => seen?,
                },
            };
            progress.row = match admit(&seen.standing, &self.newcomer(), seen.now) {
                Admission::Admit { row } => row,
                Admission::Wait { time, row, why } => {
                    let until = match waiting {
                        Some((greatest, until)) if greatest == seen.greatest => until,
                        _ => {
                            ctx.monitor.warn(&why);
                            self.clock.now() + time
                        }
                    };
                    waiting = Some((seen.greatest, until));
                    if waits(until) {
                        self.pause_until(until, ctx)?;
                        continue;
                    }
                    row
                }
                Admission::Refuse(error) => return Err(*error),
            };
            // An epoch that is taken now would only have to be ended, and whoever ends this driver's may have done that already.
            ctx.check("begin an epoch")?;
            let input = Input::Begin { greatest: seen.greatest, site: 0, asks: false };
            if let Entered::Started(start) = self.enter(&mut progress, input, ctx)? {
                return Ok(start);
            }
        }
    }

    /// Begins an epoch once.
    fn enter(&self, progress: &mut Progress, input: Input, ctx: &Context) -> Result<Entered> {
        (progress.superseded, progress.last, progress.place) = (None, None, None);
        progress.is_unused = true;
        progress.reported.clear();
        progress.uncreated.clear();
        let mut failing = None;
        let mut told: Option<usize> = None;
        let mut answer = self.drive(progress, input, ctx);
        loop {
            // What is known counts, also if something else could not be read.
            for action in answer.actions {
                match action {
                    Action::Decide { forced } => {
                        let epoch = progress.state.epoch().map_or(0, |key| key.number);
                        progress.touch(self.clock.now());
                        return Ok(Entered::Started(Start::Begun(Begun { epoch, forced })));
                    }
                    Action::Superseded { by } => {
                        self.abandon(progress, ctx);
                        return Ok(Entered::Started(Start::Superseded { by }));
                    }
                    Action::Ended { by } => return Ok(Entered::Started(Start::Superseded { by })),
                    Action::Again { .. } => return Ok(Entered::Again),
                    Action::Refused => return Ok(Entered::Refused),
                    _ => {}
                }
            }
            match answer.all {
                Ok(()) => failing = None,
                // A vault that is away for a moment does not end the wait, as it does not end the predecessor.
                Err(why) => {
                    let since = *failing.get_or_insert(self.clock.now());
                    if why.kind() != Kind::Unreachable || self.clock.now() >= since + self.options.handover {
                        self.abandon(progress, ctx);
                        return Err(why);
                    }
                }
            }
            let awaited: Vec<_> = progress.state.awaited().map(|key| key.number.to_string()).collect();
            if told != Some(awaited.len()) && !awaited.is_empty() {
                tracing::info!("waiting for the end of epoch {}", awaited.join(", "));
            }
            told = Some(awaited.len());
            if let Err(why) = self.pause(LOOK, ctx) {
                self.abandon(progress, ctx);
                return Err(why);
            }
            answer = self.drive(progress, Input::Look, ctx);
        }
    }

    /// Asks whether the app may be started, now that the directory is as it is to be. `newest` is the newest snapshot that
    /// was listed for that decision.
    ///
    /// An answer that was long under way says too little: a successor may have ended this epoch since. So the calls are cut as those of
    /// a look are, and are made again for a while.
    ///
    /// # Errors
    /// The vault does not answer.
    pub fn decided(&self, newest: Option<SnapshotName>, ctx: &Context) -> Result<Go> {
        let mut progress = self.lock(Patience::Poll);
        progress.touch(self.clock.now());
        let newest = newest.map_or(0, of_snapshot);
        progress.newest = progress.newest.max(newest);
        let until = self.clock.now() + ASKED;
        let actions = loop {
            let Answered { actions, all } = self.drive(&mut progress, Input::Decided { newest }, ctx);
            let Some(why) = all.err().filter(|_| actions.is_empty()) else { break actions };
            if why.kind() != Kind::Unreachable || self.clock.now() >= until {
                return Err(why);
            }
            // The lock stays held: another call would take what is told for its own.
            self.pause(LOOK, ctx)?;
        };
        // A look meanwhile may have told it already.
        if let Some(by) = progress.state.ended_by().or(progress.superseded) {
            self.abandon(&mut progress, ctx);
            return Ok(Go::Superseded { by });
        }
        for action in actions {
            match action {
                Action::StartApp => return Ok(Go::Start),
                Action::Again { .. } => return Ok(Go::Again),
                _ => {}
            }
        }
        Err(Error::failed("start the app", "its epoch is not at that point").with_code(Code::Internal))
    }

    /// Tells that the app was started; `place` is its directory now, if that is on a filesystem of this machine.
    pub fn running(&self, place: Option<SourceIdentity>, ctx: &Context) {
        let mut progress = self.lock(Patience::Poll);
        progress.touch(self.clock.now());
        (progress.place, progress.is_unused) = (place, false);
        if let Err(why) = self.drive(&mut progress, Input::Started, ctx).all {
            ctx.monitor.warn(&format!("the vault was not told that the app runs: {}", why.what()));
        }
    }

    /// Asked before each root is committed.
    ///
    /// # Errors
    /// The vault does not answer, so that it is not known whether the snapshot would be diverged.
    pub fn before_commit(&self, ctx: &Context) -> Result<Commit> {
        self.about_commit(Input::BeforeCommit, ctx)
    }

    /// Asked after each root was committed: only then may the snapshot be reported as the app's. An epoch may have been
    /// ended between the last look and the commit.
    ///
    /// # Errors
    /// The vault does not answer, so that it is not known whether the snapshot is diverged.
    pub fn after_commit(&self, ctx: &Context) -> Result<Commit> {
        self.about_commit(Input::Committed, ctx)
    }

    /// Asks again for a while if there is no other vault. The lock is let go meanwhile, so that the epoch is looked at.
    fn about_commit(&self, input: Input, ctx: &Context) -> Result<Commit> {
        let until = self.clock.now() + ASKED;
        loop {
            match self.ask_of_commit(input.clone(), ctx) {
                Err(why) if why.kind() == Kind::Unreachable && self.sites.len() == 1 && self.clock.now() < until => {
                    self.pause(LOOK, ctx)?;
                }
                answer => return answer,
            }
        }
    }

    fn ask_of_commit(&self, input: Input, ctx: &Context) -> Result<Commit> {
        let mut progress = self.lock(Patience::Poll);
        if progress.state.phase() != Phase::Over {
            self.drive(&mut progress, input, ctx).all?;
        }
        let own = progress.state.epoch().map_or(0, |key| key.number);
        Ok(match progress.state.phase() {
            Phase::Over => Commit::Diverged { by: progress.state.ended_by().unwrap_or(own) },
            _ => Commit::Good,
        })
    }

    /// Tells that a snapshot of a greater epoch was found, as a copy from another replica brings one. The history goes on
    /// there: this epoch is over, and what is saved from now on is diverged.
    pub fn outnumbered(&self, newest: SnapshotName, ctx: &Context) -> Hold {
        let mut progress = self.lock(Patience::Poll);
        let newest = of_snapshot(newest);
        let own = progress.state.epoch().map_or(0, |key| key.number);
        if newest > own {
            _ = self.drive(&mut progress, Input::Outnumbered { newest }, ctx);
            return Hold::Ended { by: newest };
        }
        Hold::Held
    }

    /// Waits, without an app, until this instance is needed again, and begins an epoch then: when all other epochs have
    /// ended, when a successor does not start its app in time, or when the one that runs does not answer.
    ///
    /// # Errors
    /// The errors of [`EpochDriver::begin`]; above all, being told to stop.
    pub fn wait_for_return(&self, ctx: &Context) -> Result<Begun> {
        let mut progress = self.lock(Patience::Poll);
        progress.has_waited = true;
        let (mut input, mut refused, mut failed) = (Input::Watch, String::new(), 0);
        // Whether an epoch that was begun here may not have ended: others wait for it.
        let mut unended = false;
        loop {
            let ended = if unended { self.end_begun(&mut progress, ctx) } else { Ok(()) };
            let Answered { actions, all } = match ended {
                Ok(()) => self.drive(&mut progress, input.clone(), ctx),
                Err(why) => Answered { actions: Vec::new(), all: Err(why) },
            };
            match all {
                Err(why) if actions.is_empty() => {
                    let what = one_line(&why.what(), SHOWN);
                    if progress.failing.is_none() {
                        ctx.monitor.warn(&format!("the epochs cannot be watched, and are watched on: {what}"));
                    }
                    progress.failing = Some((self.clock.now(), what));
                }
                _ => {
                    (progress.failing, input, unended) = (None, Input::Look, false);
                    for action in actions {
                        let Action::Return { greatest, asks } = action else { continue };
                        progress.patience = Patience::Long;
                        let started = match asks {
                            Some(site) => {
                                let input = Input::Begin { greatest, site, asks: true };
                                self.enter(&mut progress, input, ctx)
                            }
                            None => {
                                drop(progress);
                                let started = self.begin(ctx);
                                progress = self.lock(Patience::Poll);
                                started.map(Entered::Started)
                            }
                        };
                        progress.patience = Patience::Poll;
                        match started {
                            Ok(Entered::Started(Start::Begun(begun))) => return Ok(begun),
                            Ok(_) => failed = 0,
                            Err(why) if matches!(why.code(), Code::Stopped | Code::OtherWriter) => return Err(why),
                            // It does not run, and loses nothing by going on to wait.
                            Err(why) => {
                                let what = one_line(&why.what(), SHOWN);
                                if refused != what {
                                    let what = format!("no epoch could be begun, and it is tried again: {what}");
                                    ctx.monitor.warn(&what);
                                }
                                refused = what;
                                failed += 1;
                                unended = true;
                            }
                        }
                        input = Input::Watch;
                    }
                }
            }
            self.pause(pause_after(self.options.poll, failed), ctx)?;
        }
    }

    /// Waits for a poll, or less where this is nearer, unless the program is told to stop.
    fn pause_until(&self, until: Duration, ctx: &Context) -> Result<()> {
        self.pause(until.saturating_sub(self.clock.now()).min(self.options.poll), ctx)
    }

    /// Waits, unless the program is told to stop.
    fn pause(&self, time: Duration, ctx: &Context) -> Result<()> {
        let until = self.clock.now() + time;
        loop {
            if ctx.stop.load(Ordering::Relaxed) {
                return Err(Error::failed("wait for an epoch", "it was told to stop").with_code(Code::Stopped));
            }
            let left = until.saturating_sub(self.clock.now());
            if left.is_zero() {
                return Ok(());
            }
            self.clock.sleep(left.min(LOOK));
        }
    }
}

/// Whether a vault does not answer, or refuses to just now. Being told to stop is neither.
fn is_of_vault(why: &Error) -> bool {
    (why.kind() == Kind::Unreachable || why.of_store()) && why.code() != Code::Stopped
}

#[cfg(test)]
mod tests;
