//! Looks up in the vaults what they know of runs that are over.

use super::lease::{self, DoneRecord};
use crate::error::Result;
use crate::monitor::Context;
use crate::replicas::pool::VaultPool;
use crate::report::{self, EncodedReport, RunId};
use crate::store::address::Address;
use crate::store::{self, Store};
use crate::vault::Vault;

/// How an event was served. `None` if no vault knows that it was. Claims nothing.
///
/// # Errors
/// A store that fails, or a `done.json` that is damaged, if no other vault knows.
pub fn find_served(vaults: &VaultPool, identity: &str) -> Result<Option<ServedBefore>> {
    let mut failed = None;
    for address in vaults.addresses() {
        let found = vaults.store(address).and_then(|store| {
            let served = lease::find_served(&*store, identity)?;
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

/// A run's report in a vault.
pub struct FoundReport {
    /// The vault.
    pub vault: Address,
    /// The report's object.
    pub object: String,
    /// The report.
    pub report: EncodedReport,
}

/// The report that counts of a run, in one of the vaults: in which one depends on which opened when the run ended. If one vault
/// says that the run failed, another may hold a report by which it was done. `None` if no vault has a report.
///
/// # Errors
/// A vault that does not open, or a store that fails, if no other vault has the report.
pub fn report_of(run: RunId, vaults: &VaultPool, ctx: &Context) -> Result<Option<FoundReport>> {
    let (mut undone, mut failed) = (None, None);
    for address in vaults.addresses() {
        ctx.check("find a run")?;
        let found = vaults.store(address).and_then(Vault::open).and_then(|vault| {
            let mut found = report::list(&*vault.store)?;
            found.retain(|named| named.run == run);
            let Some(named) = report::that_counts(&found) else { return Ok(None) };
            let (object, report) = (named.object.clone(), report::told(&*vault.store, &named.object)?);
            Ok(Some((named.stays(), FoundReport { vault: address.clone(), object, report })))
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

/// How an event was served before.
#[derive(Debug)]
pub struct ServedBefore {
    /// The run that served it.
    pub run: RunId,
    /// The vault that holds its report.
    pub vault: Address,
    /// The report's object.
    pub object: String,
    /// The report; `None` if it has been lost.
    pub report: Option<EncodedReport>,
}

pub(crate) fn before(served: DoneRecord, store: &dyn Store, address: &Address) -> Result<ServedBefore> {
    let DoneRecord { run, report: object } = served;
    let report = match report::told(store, &object) {
        Ok(report) => Some(report),
        // The event was served all the same.
        Err(why) if !why.of_store() => {
            tracing::warn!("the report of the run {run} is lost: {}", why.what());
            None
        }
        Err(why) => return Err(why),
    };
    Ok(ServedBefore { run, vault: address.clone(), object, report })
}

/// Stores a copy of a report in the vault of the claim that names it.
pub(crate) fn copy_report(store: &dyn Store, report: &[u8], object: &str) -> Result<()> {
    match store.create(object, &[report]) {
        Ok(()) | Err(store::StoreError::AlreadyExists { .. }) => Ok(()),
        Err(why) => Err(why.while_doing(format!("store {object}"))),
    }
}
