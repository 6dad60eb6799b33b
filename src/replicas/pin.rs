//! Pins a snapshot in several vaults.

use jiff::{SignedDuration, Timestamp};

use super::Site;
use crate::error::Result;
use crate::monitor::Context;
use crate::vault::pins::{self, Pin};
use crate::vault::root::SnapshotName;

/// How long a snapshot is pinned that holds what was replaced, or that was the newest before another one was made so: 90 days.
pub const PINNED: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Pins a snapshot in every vault that can be written to, for 90 days. Returns until when.
///
/// # Errors
/// No vault takes the pin.
pub fn pin(sites: Vec<Site>, name: SnapshotName, why: &str, ctx: &Context) -> Result<Timestamp> {
    let until = Timestamp::now().saturating_add(PINNED).unwrap_or(Timestamp::MAX);
    let pin = Pin::new(name, until, why, None);
    let (mut failure, mut pinned) = (None, false);
    for site in sites {
        match site.vault().and_then(|vault| pins::store(&vault, &pin, ctx.random)) {
            Ok(_) => pinned = true,
            Err(why) => failure = Some(why),
        }
    }
    match failure {
        Some(why) if !pinned => return Err(why),
        Some(why) => ctx.monitor.warn(&format!("the snapshot {name} is not pinned in every vault: {}", why.what())),
        None => {}
    }
    Ok(until)
}
