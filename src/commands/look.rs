//! `list`, `ls`, `cat` and `diff`: looking into a vault.

use jiff::Timestamp;
use lastgood::error::Result;
use lastgood::inspect::UnreadRoots;
use lastgood::monitor::Context;
use lastgood::path::EntryPath;
use lastgood::replicas::pool::VaultPool;
use lastgood::restore::select;
use lastgood::text::count_of;
use lastgood::vault::Vault;
use lastgood::vault::doubt::Doubts;
use lastgood::{inspect, view};

use crate::ProgramOutcome;
use crate::console::Console;

/// Lists the newest `limit` snapshots of a vault.
///
/// # Errors
/// A store that fails; a list that cannot be written.
pub fn list(vault: &Vault, limit: usize, console: &mut Console, ctx: &Context) -> Result<ProgramOutcome> {
    let names = vault.snapshots()?;
    let unread = if console.on_terminal() {
        let mut all = Vec::new();
        let unread = inspect::newest_of(
            vault,
            &names,
            limit,
            |listed| {
                all.push(listed);
                Ok(())
            },
            ctx,
        )?;
        console.print(&(), || view::snapshots_short(&all, view::distinct(&names), Timestamp::now()))?;
        unread
    } else {
        let mut items = console.items();
        items.head(&view::list_head())?;
        let unread = inspect::newest_of(vault, &names, limit, |listed| items.item(&listed, view::listed), ctx)?;
        items.end()?;
        unread
    };
    if names.len() > limit {
        let left = names.len() - limit;
        let are = if left == 1 { "is" } else { "are" };
        tracing::warn!(
            "{} {are} not listed: --limit {} lists all",
            count_of(left as u64, "older snapshot"),
            names.len()
        );
    }
    // This is a hint only: it changes nothing in the list.
    let doubts = Doubts::read(&*vault.store);
    let doubted = doubts.packs().len();
    if doubted > 0 {
        let newest = select::newest_good(vault, &names, "the newest good snapshot").ok();
        let newest =
            match newest.and_then(|newest| Some((newest.name.id, doubts.concern(&*vault.store, &newest.root).ok()?))) {
                Some((id, true)) => format!("the newest good snapshot, {id}, needs what may be damaged"),
                Some((id, false)) => format!("the newest good snapshot, {id}, needs nothing of that"),
                None => "whether a good snapshot needs that is not known".into(),
            };
        let packs = count_of(doubted as u64, "pack");
        tracing::warn!(
            "{packs} may be damaged, as runs found; {newest}. `lastgood verify` names the snapshots that are hurt"
        );
    }
    if unread.newer_format > 0 {
        let snapshots = count_of(unread.newer_format, "snapshot");
        tracing::error!("{snapshots} of a newer format: a newer version of lastgood reads what it wrote");
    }
    if unread.damaged > 0 {
        tracing::error!("{} with a damaged root; `lastgood verify` says more", count_of(unread.damaged, "snapshot"));
    }
    Ok(match unread {
        UnreadRoots { damaged: 1.., .. } => ProgramOutcome::Damage,
        UnreadRoots { newer_format: 1.., .. } => ProgramOutcome::Failed,
        UnreadRoots { .. } => ProgramOutcome::Done,
    })
}

/// Lists what is in a folder of a snapshot.
///
/// # Errors
/// No such snapshot or folder; damage; a list that cannot be written.
pub fn ls(
    vaults: &VaultPool,
    snapshot: &str,
    path: &EntryPath,
    recursive: bool,
    console: &mut Console,
    ctx: &Context,
) -> Result<ProgramOutcome> {
    let (vault, root) = vaults.find(snapshot, ctx)?;
    let mut items = console.items();
    inspect::ls(&vault, &root, path, recursive, |entry| items.item(&entry, view::entry), ctx)?;
    items.end()?;
    Ok(ProgramOutcome::Done)
}

/// Writes a file of a snapshot to stdout; with `torn`, also one that changed while it was read.
///
/// # Errors
/// No such snapshot or file; damage; an output that cannot be written.
pub fn cat(
    vaults: &VaultPool,
    snapshot: &str,
    path: &EntryPath,
    torn: bool,
    console: &mut Console,
    ctx: &Context,
) -> Result<ProgramOutcome> {
    let (vault, root) = vaults.find(snapshot, ctx)?;
    match torn {
        true => inspect::cat_torn(&vault, &root, path, console.out(), ctx)?,
        false => inspect::cat(&vault, &root, path, console.out(), ctx)?,
    }
    Ok(ProgramOutcome::Done)
}

/// Lists what differs between two snapshots of one vault.
///
/// # Errors
/// No such snapshot; damage; a list that cannot be written.
pub fn diff(vaults: &VaultPool, (a, b): (&str, &str), console: &mut Console, ctx: &Context) -> Result<ProgramOutcome> {
    let vault = vaults.first(ctx)?;
    let ((_, a), (_, b)) = (select::find(&vault, a)?, select::find(&vault, b)?);
    let mut items = console.items();
    inspect::diff(&vault, &a, &b, |difference| items.item(&difference, view::difference), ctx)?;
    items.end()?;
    Ok(ProgramOutcome::Done)
}
