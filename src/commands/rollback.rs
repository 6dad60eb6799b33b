//! `rollback`: an older snapshot becomes the newest one.

use std::fmt::Write;

use lastgood::error::Result;
use lastgood::monitor::Context;
use lastgood::replicas::pool::VaultPool;
use lastgood::run::rollback::{self, RollbackReport, RollbackSettings};

use crate::ProgramOutcome;
use crate::console::Console;

/// Makes a snapshot the newest, and tells how that is undone.
///
/// # Errors
/// As [`rollback::rollback`].
pub fn rollback(
    settings: &RollbackSettings,
    vaults: &VaultPool,
    console: &mut Console,
    ctx: &Context,
) -> Result<ProgramOutcome> {
    let done = rollback::rollback(settings, vaults, ctx)?;
    console.report(&done, || text(&done));
    Ok(ProgramOutcome::Done)
}

fn text(done: &RollbackReport) -> String {
    let taken = done.taken.strftime("%F %TZ");
    let mut text = match done.committed_as {
        Some(_) => format!("Rolled back to snapshot {} of {taken}\n", done.snapshot.id),
        None => format!("Would roll back to snapshot {} of {taken}\n", done.snapshot.id),
    };
    // Writing to a string does not fail.
    if let Some(anew) = done.committed_as {
        let _ = writeln!(text, "  newest   {}: its content, committed again", anew.id);
    }
    match (done.before, done.pinned_until) {
        (Some(before), Some(until)) => {
            let _ = writeln!(text, "  before   {}, which is kept until {} at least", before.id, until.strftime("%F"));
            let _ = writeln!(text, "  undo     lastgood rollback {}", before.id);
        }
        (Some(before), None) => {
            let _ = writeln!(text, "  newest   {}, and what is saved before an app is stopped for it", before.id);
        }
        (None, _) => {
            let _ = writeln!(text, "  before   no snapshot was good");
        }
    }
    for behind in &done.behind {
        let _ = writeln!(text, "  behind   {} does not have it: {}", behind.vault, behind.why);
        let _ = writeln!(text, "           Its newest is the state before. Bring it there: {}", behind.command);
    }
    if done.committed_as.is_some() {
        let _ = writeln!(text, "  next     an instance of `lastgood run` that waits comes back with it");
    }
    text
}
