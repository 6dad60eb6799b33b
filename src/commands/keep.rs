//! `pin`, `unpin` and `prune`: what is kept, and what a policy would let go.

use jiff::Timestamp;
use lastgood::error::Result;
use lastgood::monitor::Context;
use lastgood::replicas::Site;
use lastgood::replicas::keep::VaultPins;
use lastgood::replicas::pool::VaultPool;
use lastgood::restore::select;
use lastgood::retention::{gather, plan::plan};
use lastgood::text::printable;
use lastgood::vault::Vault;
use lastgood::vault::root::SnapshotName;
use lastgood::view;
use serde::Serialize;

use crate::ProgramOutcome;
use crate::config::ConfiguredPolicy;
use crate::console::Console;

/// The report of `pin` and `unpin`.
#[derive(Debug, Serialize)]
struct PinReport<'v> {
    snapshot: SnapshotName,
    vaults: &'v [VaultPins],
}

/// Finds a snapshot in the first vault that opens, and does something about its pins in each vault.
///
/// # Errors
/// No such snapshot; the only vault fails, or the one that is named in the error.
pub fn pin(
    vaults: &VaultPool,
    snapshot: &str,
    work: impl FnOnce(Vec<Site>, SnapshotName) -> Vec<VaultPins>,
    console: &mut Console,
    ctx: &Context,
) -> Result<ProgramOutcome> {
    let (name, _) = select::find(&vaults.first(ctx)?, snapshot)?;
    let mut done = work(vaults.sites(false)?, name);
    if let [VaultPins { failure: failure @ Some(_), .. }] = &mut done[..] {
        return failure.take().map_or(Ok(ProgramOutcome::Failed), Err);
    }
    let failed = done.iter().filter_map(|vault| Some((vault, vault.error.as_deref()?)));
    for (vault, why) in failed {
        let hint = vault.hint.as_deref().map(|hint| format!(". {hint}")).unwrap_or_default();
        tracing::error!("{}: {}{}", printable(&vault.vault), printable(why), printable(&hint));
    }
    console.report(&PinReport { snapshot: name, vaults: &done }, || view::pins(name, &done));
    Ok(if done.iter().any(|vault| vault.error.is_some()) { ProgramOutcome::Failed } else { ProgramOutcome::Done })
}

/// Shows what a policy would let go of a vault.
///
/// # Errors
/// A store that fails; an output that cannot be written.
pub fn prune(
    vault: &Vault,
    configured: &ConfiguredPolicy,
    console: &mut Console,
    ctx: &Context,
) -> Result<ProgramOutcome> {
    let gathered = gather::gather(vault, ctx)?;
    let policy = &configured.policy;
    let now: Timestamp = vault.store.now().map_err(|why| why.while_doing("ask for the store's time"))?;
    let plan = plan(&gathered.snapshots, policy, now);
    let bytes = gathered.stored_bytes(&plan);
    let stops = plan.stops(bytes, None);
    if let Some(last) = configured.max_local_backups {
        tracing::warn!("{}", plan.max_local_backups(last));
    }
    let text = (!policy.is_empty()).then(|| policy.to_string());
    let done = view::Pruning::new(vault.store.url(), &plan, text, bytes, &stops, gathered.unreadable.clone());
    console.answer(&done, || view::pruning(&done))?;
    let damaged = done.unreadable.iter().any(|object| object.damaged);
    Ok(match done.unreadable.is_empty() {
        true => ProgramOutcome::Done,
        false if damaged => ProgramOutcome::Damage,
        false => ProgramOutcome::Failed,
    })
}
