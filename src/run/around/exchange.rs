//! What `run` does around a restore of its data directory, beside the restore itself: the new directory is locked before it is in
//! place, and what snapshots leave out of the old one comes back.
//!
//! `run` moves nothing aside that no snapshot holds, and what `--exclude` and `--include` leave out is in none. Saving it first would
//! break what these options are for: it may be a cache larger than the data, or a secret that must not leave the machine. So it is
//! carried over after the exchange ([`carry`](super::carry)).

use std::sync::{Arc, Mutex, PoisonError};

use super::Around;
use super::carry::{CarryNote, carry};
use crate::error::Result;
use crate::fs::Folder;
use crate::restore::before_exchange::BeforeExchange;
use crate::restore::options::RestoreOptions;
use crate::run::lock::RunLock;

/// A restore of the data directory that is under way.
pub(super) struct Exchange {
    /// The lock of the new directory. `None` until that is about to be put into place, and where the old one stays.
    staged: Arc<Mutex<Option<RunLock>>>,
}

impl Around {
    /// Prepares a restore: its new directory is to have a lock and a note from its first moment on.
    pub(super) fn prepare_exchange(&self, options: &mut RestoreOptions) -> Result<Exchange> {
        let backup = &self.settings.rules.backup;
        let note = CarryNote::of(backup);
        let staged = Arc::new(Mutex::new(None));
        let (slot, host, target) = (staged.clone(), backup.host.clone(), self.settings.data.clone());
        let term = self.term.clone();
        let before = BeforeExchange::new(move |own| {
            let lock = RunLock::take_staged(own, &target, &host)?;
            term.run().into_iter().for_each(|run| lock.note_epoch_run(run));
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
            Ok(())
        });
        options.before_exchange = Some(before.telling_aside(move |directory, aside| note.keep(directory, aside)));
        Ok(Exchange { staged })
    }

    /// Ends a restore that went well: takes over the lock of the new directory, and carries over what snapshots leave out. Returns what
    /// was not done of it: the data is restored in any case.
    pub(super) fn end_exchange(&self, exchange: &Exchange) -> Vec<String> {
        let staged = exchange.staged.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The directory itself stays where it was filled in place. If it cannot be opened now, the next look takes the lock.
        if let Ok(directory) = Folder::open(&self.settings.data)
            && let Some(lock) = staged.filter(|lock| lock.is_of(&directory))
        {
            self.term.set_lock(Some(Arc::new(lock)));
        }
        self.finish_carrying()
    }

    /// Carries over what a restore has left to do, also one of a `run` that was killed. Returns what is not done, which the log says, too.
    pub(super) fn finish_carrying(&self) -> Vec<String> {
        let warnings = carry(&self.settings.data);
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        warnings
    }
}
