//! Writes a last checkpoint for a backup that fails or is told to stop in the middle, so that the next one goes on
//! from there.
//!
//! It names whole units whose packs are all stored. If several packs were being stored at the same time, one may have
//! failed while the others, and later ones, did not, so this is found out pack by pack. The index comes first:
//! nothing of it is given up, and in a folder some space is reserved for it, which is released here.
//!
//! A full disk must not stay full because of it. A checkpoint names packs that take no more than half of the space
//! that was free, and there is none if the backup itself went on from a checkpoint and has filled the disk all the
//! same: what that checkpoint names is in the vault, and may be of no use any more. Packs that are not named are
//! removed ([`staging`](crate::store::staging)), so a backup that needs less has the rest.

use std::sync::Arc;

use super::assemble::Assembly;
use super::commit::{BackupRun, CommitOutcome};
use super::packer::Packer;
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::store::{FreeSpace, Store};
use crate::vault::Vault;

/// Bytes that are reserved on a folder's filesystem for the last checkpoint.
pub const KEPT: u64 = 4 << 20;
/// Free bytes below which a disk counts as full: no pack is larger.
const FULL: u64 = 32 << 20;

/// Writes a checkpoint for what is stored, if `why` is a stop or a failure of the store, and reports it.
pub fn rescue(
    run: &BackupRun,
    assembly: &mut Assembly,
    packer: &Packer,
    reserved: Option<FreeSpace>,
    why: &Error,
    ctx: &Context,
) {
    let stopped = ctx.check("").is_err();
    // After damage a backup is not continued, and if the store does not answer, nothing can be created either.
    if !stopped && (!why.of_store() || matches!(why.kind(), Kind::Damage | Kind::Unreachable)) {
        return;
    }
    drop(reserved);
    match checkpoint(run, assembly, packer) {
        Ok(Some(until)) => {
            let up_to = if until.is_root() { String::new() } else { format!(", up to {until},") };
            ctx.monitor.warn(&format!(
                "what was stored until then{up_to} is kept: the next backup of this directory goes on from there"
            ));
        }
        Ok(None) => {}
        Err(why) => tracing::info!("what was stored until then is not kept for the next backup: {}", why.what()),
    }
}

/// Writes the checkpoint. Returns the last path that it covers, or `None` if there is nothing new to name.
fn checkpoint(run: &BackupRun, assembly: &mut Assembly, packer: &Packer) -> Result<Option<EntryPath>> {
    if !packer.data_failed() && assembly.flush().is_ok() {
        assembly.stored.extend(packer.drain_data().into_iter().map(|info| (info.id, info)));
    }
    let last = run.options.last_words.as_ref().and_then(|words| (words.0)(&run.vault.store.url())).transpose()?;
    let last: Option<Arc<dyn Store>> = last.map(Arc::from);
    let boxed = || last.clone().map(|store| Box::new(store) as Box<dyn Store>);
    let stored = packer.rescue(boxed())?;
    assembly.stored.extend(stored.into_iter().map(|info| (info.id, info)));
    if assembly.stored.is_empty() {
        return Ok(None);
    }
    let full = run.vault.store.set_aside(0).is_some_and(|space| space.free < FULL);
    if full && run.base.covered.is_some() {
        return Ok(None);
    }
    let Some(written) = assembly.rescue(run.may_keep())? else { return Ok(None) };
    // A checkpoint that covers less would take the place of the one that this backup went on from.
    let until = written.until.clone();
    if run.base.covered.as_ref().is_some_and(|covered| until <= *covered) {
        return Ok(None);
    }
    let last = boxed().map(|store| Vault { store, config: run.vault.config.clone(), user: run.vault.user.clone() });
    let run = BackupRun { vault: last.as_ref().unwrap_or(run.vault), ..run.clone() };
    match run.commit(assembly, packer, written, true)? {
        CommitOutcome::Committed(_) => Ok(Some(until)),
        CommitOutcome::Absent(_) => Ok(None),
        CommitOutcome::NoCheckpoint(why) => Err(why),
    }
}
