//! What vaults know of runs that are over.

use super::{Before, before};
use crate::error::Result;
use crate::monitor::Context;
use crate::replicas::vaults::Vaults;
use crate::report::{self, RunId, Told};
use crate::store::address::Address;
use crate::trigger::claim;
use crate::vault::Vault;

/// How an event was served, if one of the vaults knows that it was. Claims nothing.
///
/// # Errors
/// A store that fails, or a `done.json` that is damaged, where no other vault knows.
pub fn find_served(vaults: &Vaults, identity: &str) -> Result<Option<Before>> {
    let mut failed = None;
    for address in vaults.addresses() {
        let found = vaults.store(address).and_then(|store| {
            let served = claim::find_served(&*store, identity)?;
            served.map(|served| before(served, &*store, address)).transpose()
        });
        match found {
            Ok(Some(before)) => return Ok(Some(before)),
            Ok(None) => {}
            Err(why) => failed = Some(why),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// A run's report that is in a vault.
pub struct Kept {
    /// The vault.
    pub vault: Address,
    /// The report's object.
    pub object: String,
    /// The report.
    pub report: Told,
}

/// The report of a run that counts, in one of the vaults: in which depends on which opened when it ended. Where one says that the run
/// failed, another may hold a report by which it was done.
///
/// # Errors
/// A vault that does not open, or a store that fails, where no other one has it.
pub fn report_of(run: RunId, vaults: &Vaults, ctx: &Context) -> Result<Option<Kept>> {
    let (mut undone, mut failed) = (None, None);
    for address in vaults.addresses() {
        ctx.check("find a run")?;
        let found = vaults.store(address).and_then(Vault::open).and_then(|vault| {
            let mut found = report::list(&*vault.store)?;
            found.retain(|named| named.run == run);
            let Some(named) = report::that_counts(&found) else { return Ok(None) };
            let (object, report) = (named.object.clone(), report::told(&*vault.store, &named.object)?);
            Ok(Some((named.stays(), Kept { vault: address.clone(), object, report })))
        });
        match found {
            Ok(Some((true, kept))) => return Ok(Some(kept)),
            Ok(Some((false, kept))) => undone = undone.or(Some(kept)),
            Ok(None) => {}
            Err(why) => failed = Some(why),
        }
    }
    match (undone, failed) {
        (None, Some(why)) => Err(why),
        (undone, _) => Ok(undone),
    }
}
