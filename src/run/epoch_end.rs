//! Tells the end of an epoch, also once the program is told to stop.

use std::sync::atomic::AtomicBool;

use crate::epochs::driver::{Commit, EpochDriver};
use crate::error::Result;
use crate::monitor::Context;
use crate::replicas::pool::VaultPool;
use crate::vault::root::SnapshotName;

/// Ends what an instance has begun, as [`EpochDriver::end`] does. Once the program is told to stop, the vaults' own stores give up, and
/// the end is told through one that does not: an instance that has stopped its app for the epoch comes back only then.
///
/// # Errors
/// The vault does not answer.
pub fn end_epoch(
    driver: &EpochDriver,
    last: Option<SnapshotName>,
    vaults: &VaultPool,
    ctx: &Context,
) -> Result<Commit> {
    if !vaults.stopped() {
        let ended = driver.end(last, ctx);
        if ended.is_ok() || !vaults.stopped() {
            return ended;
        }
    }
    let Some(first) = vaults.addresses().first().filter(|_| driver.is_begun()) else { return driver.end(last, ctx) };
    let store = vaults.store_for_last_words(first)?.into();
    let stop = AtomicBool::new(false);
    driver.end_through(store, last, &Context { stop: &stop, ..*ctx })
}
