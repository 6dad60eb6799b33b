//! The end of an epoch, also of one of which it is not known whether it was created.
//!
//! An instance that is told to stop gives up what it has asked for. If that was the creation of its epoch, the object may be there all the
//! same, or come a moment later: the instance that runs stops its app for it, and comes back at once only if the end is told. So the
//! object is read first and, where it is absent, created as that of an instance that only asks, for which nobody stops an app. A creation
//! that is still under way then finds it there.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::calls::Patience;
use super::{Commit, EpochDriver, Progress};
use crate::epochs::protocol::{Answer, Call, Content, EpochKey, Input, Phase, State, step};
use crate::error::{Code, Kind, Result};
use crate::monitor::Context;
use crate::store::Store;
use crate::vault::epochs::EpochRecord;
use crate::vault::root::SnapshotName;

/// Returns the epoch whose creation was not answered, or not yet.
fn being_created(state: &State) -> Option<EpochKey> {
    let is_at_it = state.epoch().is_none() && state.phase() == Phase::Idle;
    match state.asked().filter(|_| is_at_it) {
        Some(Call::Create(EpochRecord::Epoch, key, _) | Call::Read(EpochRecord::Epoch, key)) => Some(*key),
        _ => None,
    }
}

/// Whether there is an epoch to end, or may be.
fn is_begun(state: &State) -> bool {
    state.phase() != Phase::Over && (state.epoch().is_some() || being_created(state).is_some())
}

impl EpochDriver {
    /// Whether an epoch is held, or being taken, that has not ended. Also one of which it is not known whether it was created.
    pub fn is_begun(&self) -> bool {
        is_begun(&self.progress.lock().unwrap_or_else(PoisonError::into_inner).state)
    }

    /// Whether that is so, and no app has run in the epoch.
    pub fn has_unused(&self) -> bool {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.is_unused && is_begun(&progress.state)
    }

    /// Ends the epoch, after the app was stopped and its last snapshot committed. If there was nothing to save, `last` is
    /// the newest snapshot. Must not be called if the last snapshot failed: the successor then waits, and uses force.
    ///
    /// # Errors
    /// The vault does not answer.
    pub fn end(&self, last: Option<SnapshotName>, ctx: &Context) -> Result<Commit> {
        self.end_with(Patience::Long, last, ctx)
    }

    /// Ends the epoch as [`EpochDriver::end`] does, through this store of the first vault: other stores give up once the program is
    /// told to stop.
    ///
    /// # Errors
    /// The vault does not answer.
    pub fn end_through(&self, store: Arc<dyn Store>, last: Option<SnapshotName>, ctx: &Context) -> Result<Commit> {
        _ = self.last_words.set(store);
        self.end_with(Patience::LastWords, last, ctx)
    }

    fn end_with(&self, patience: Patience, last: Option<SnapshotName>, ctx: &Context) -> Result<Commit> {
        let mut progress = self.lock(patience);
        progress.last = last;
        self.end_begun(&mut progress, ctx)?;
        Ok(progress.state.ended_by().map_or(Commit::Good, |by| Commit::Diverged { by }))
    }

    /// Ends what was begun, if anything was.
    pub(super) fn end_begun(&self, progress: &mut Progress, ctx: &Context) -> Result<()> {
        if !is_begun(&progress.state) {
            return Ok(());
        }
        self.settle(progress, ctx)?;
        self.drive(progress, Input::Saved, ctx).all
    }

    /// Ends an epoch in which no app ran. If that fails, the next instance waits for it in vain, and ends it.
    pub(super) fn abandon(&self, progress: &mut Progress, ctx: &Context) {
        // A vault that does not answer was asked for long enough.
        if being_created(&progress.state).is_some() && !ctx.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(why) = self.end_begun(progress, ctx) {
            tracing::info!("the end of an epoch could not be told: {}", why.what());
        }
    }

    /// Learns whether an epoch is there whose creation was not answered: it is this instance's then, and to be ended.
    fn settle(&self, progress: &mut Progress, ctx: &Context) -> Result<()> {
        let Some(key) = being_created(&progress.state) else { return Ok(()) };
        let read = Call::Read(EpochRecord::Epoch, key);
        let mut found = self.call(progress, &read, &mut true, ctx)?;
        if found == Answer::Absent {
            let create = Call::Create(EpochRecord::Epoch, key, Content::Epoch { asks: true });
            match self.call(progress, &create, &mut true, ctx) {
                Ok(_) => found = self.call(progress, &read, &mut true, ctx)?,
                // It refuses this creation, and so it refused that one.
                Err(why) if why.kind() != Kind::Unreachable && why.code() != Code::Stopped => {}
                Err(why) => return Err(why),
            }
        }
        if !matches!(found, Answer::Epoch { mine: true, .. }) {
            return Ok(());
        }
        // The protocol reads what it could not create.
        let unknown = matches!(progress.state.asked(), Some(Call::Create(..))).then_some(Answer::Unknown);
        for answer in unknown.into_iter().chain([found]) {
            // Its next call is not made: all that is left to do is to end the epoch.
            (progress.state, _) = step(progress.state.clone(), self.clock.now(), Input::Answer(answer));
        }
        Ok(())
    }
}
