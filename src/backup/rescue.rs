//! What a backup leaves behind that fails, or is told to stop, in the middle: a last checkpoint, from which the next one goes on.
//!
//! It names whole units of which every pack is stored. One of several packs that were being stored at the same time may have
//! failed while the others, and those after it, did not, so this is found out pack by pack. The index comes first: of it nothing is
//! given up, and on a folder some room is kept for it, which is given back here.
//!
//! A full disk is not to stay full for it. A checkpoint names packs that take no more than half of the room that there was, and none
//! where the backup itself went on from a checkpoint and has filled the disk all the same: what that one names is in the vault, and
//! may be of no use any more. Packs that are not named go ([`staging`](crate::store::staging)), so a backup that needs less has
//! the rest.

use std::sync::Arc;

use super::assemble::Assembly;
use super::commit::{BackupRun, CommitOutcome};
use super::packer::Packer;
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::store::{FreeSpace, Store};
use crate::vault::Vault;

/// Bytes that are kept on a folder's filesystem for the last checkpoint.
pub const KEPT: u64 = 4 << 20;
/// With less room than this a disk counts as full: no pack is larger.
const FULL: u64 = 32 << 20;

/// Names what is stored by a checkpoint, if `why` is a store that failed or a stop, and tells of it.
pub fn rescue(
    run: &BackupRun,
    assembly: &mut Assembly,
    packer: &Packer,
    kept: Option<FreeSpace>,
    why: &Error,
    ctx: &Context,
) {
    let stopped = ctx.check("").is_err();
    // What is damaged is not gone on with, and where a store does not answer, nothing can be created either.
    if !stopped && (!why.of_store() || matches!(why.kind(), Kind::Damage | Kind::Unreachable)) {
        return;
    }
    drop(kept);
    match checkpoint(run, assembly, packer) {
        Ok(Some(until)) => ctx.monitor.warn(&format!(
            "what was stored until then, up to {until}, is kept: the next backup of this directory goes on from there"
        )),
        Ok(None) => {}
        Err(why) => tracing::info!("what was stored until then is not kept for the next backup: {}", why.what()),
    }
}

/// Writes the checkpoint; gives the last path that it covers. None where there is nothing new to name.
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
    let full = run.vault.store.room(0).is_some_and(|room| room.free < FULL);
    if full && run.base.covered.is_some() {
        return Ok(None);
    }
    let Some(written) = assembly.rescue(run.may_keep())? else { return Ok(None) };
    // One that covers less would be taken in place of the one that this backup went on from.
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
