//! Calls that are made while an app runs, and are given up once the epoch is known to have been ended.
//!
//! A call that hangs is cut at its limit, which is a poll or more. A successor that was not seen because of it may have ended the epoch
//! meanwhile and be about to start its app. So the own end is read beside a call that takes long. An end never vanishes: one that is read
//! beside a call counts, however long that call takes. That there is none says nothing, and the protocol asks for it all the same.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::calls::Patience;
use super::{EpochDriver, Progress};
use crate::epochs::protocol::{EpochKey, Phase};
use crate::store::{Store, StoreError};
use crate::vault::epochs::{EpochMark, EpochRecord, MAX_EPOCH};

/// How long a call may take until the own end is read beside it, and how often it is read then.
const SLOW: Duration = Duration::from_millis(500);

impl EpochDriver {
    /// How long a call may take now.
    pub(super) fn patience(progress: &Progress) -> Patience {
        match progress.state.epoch().filter(|_| progress.state.phase() == Phase::Holding) {
            Some(own) if progress.patience == Patience::Poll => Patience::Holding(own),
            _ => progress.patience,
        }
    }

    /// Returns the epoch that a call is to be given up with, and the store that the call is made through. `None` if it is just made.
    pub(super) fn watched(&self, site: usize, patience: Patience) -> Option<(EpochKey, Arc<dyn Store>)> {
        match patience {
            Patience::Holding(own) => Some((own, self.sites.get(site)?.quick.clone()?)),
            Patience::Long | Patience::Poll | Patience::LastWords => None,
        }
    }

    /// Makes a call on a thread of its own, and waits for its answer, unless the epoch turns out to have been ended by another one.
    pub(super) fn while_held<T: Send + 'static>(
        &self,
        own: EpochKey,
        store: Arc<dyn Store>,
        make: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (send, answer) = bounded(1);
        let (maker, url) = (store.clone(), store.url());
        let work = move || {
            // It may not be waited for any more.
            let _ = send.send(make(&*maker));
        };
        let given_up = |why: String| StoreError::Unreachable { doing: format!("use {url}"), why };
        if let Err(why) = thread::Builder::new().name("epoch".into()).spawn(work) {
            return Err(given_up(format!("there is no thread for it: {why}")));
        }
        loop {
            match answer.recv_timeout(SLOW) {
                Ok(answer) => return answer,
                Err(why) if why.is_disconnected() => return Err(given_up("the call came to no end".into())),
                Err(_) if self.was_ended(own) => return Err(given_up("the epoch was ended before the answer".into())),
                Err(_) => {}
            }
        }
    }

    /// Whether an epoch is known to have been ended by another one.
    fn was_ended(&self, own: EpochKey) -> bool {
        let Some(store) = self.sites.get(own.site).and_then(|site| site.quick.as_ref()) else { return false };
        let end = store.get(&EpochRecord::End.object(own.number), MAX_EPOCH);
        end.is_ok_and(|bytes| EpochMark::parse(&bytes).is_none_or(|mark| mark.by != own.number))
    }
}
