//! Calls that are made while an app runs, and are given up once the epoch is known to have been ended.
//!
//! A call that hangs is cut at its limit, which is a poll or more. A successor that was not seen because of it may have ended the epoch
//! meanwhile and be about to start its app. So the own end is read beside a call that takes long. An end never vanishes: one that is read
//! beside a call counts, however long that call takes. That there is none says nothing, and the protocol asks for it all the same.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, select};

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
        // The answer is taken as soon as it is there, also where a read of the end hangs.
        let (tell, told) = bounded(1);
        let mut is_reading = false;
        loop {
            select! {
                recv(answer) -> answer => {
                    return answer.unwrap_or_else(|_| Err(given_up("the call came to no end".into())));
                }
                recv(told) -> ended => match ended {
                    Ok(true) => return Err(given_up("the epoch was ended before the answer".into())),
                    _ => is_reading = false,
                },
                default(SLOW) => is_reading = is_reading || self.begin_to_read_end(own, tell.clone()),
            }
        }
    }

    /// Has a thread find out whether an epoch is known to have been ended by another one. Returns whether there is such a thread.
    fn begin_to_read_end(&self, own: EpochKey, tell: Sender<bool>) -> bool {
        let Some(store) = self.sites.get(own.site).and_then(|site| site.quick.clone()) else { return false };
        let read = move || {
            let end = store.get(&EpochRecord::End.object(own.number), MAX_EPOCH);
            let ended = end.is_ok_and(|bytes| EpochMark::parse(&bytes).is_none_or(|mark| mark.by != own.number));
            // The call may have been answered by now.
            let _ = tell.send(ended);
        };
        thread::Builder::new().name("end of the epoch".into()).spawn(read).is_ok()
    }
}
