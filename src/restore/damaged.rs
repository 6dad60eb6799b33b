//! Handles snapshots with a damaged pack: how a restore finds that out before it begins, and which snapshot it takes
//! instead.

use std::collections::HashSet;

use super::select::{self, Choice, NewerFormat, PassedOver, Unchosen};
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::vault::decoder::Decoder;
use crate::vault::doubt::{Doubts, Finding, in_all, told};
use crate::vault::hex::PackId;
use crate::vault::list::List;
use crate::vault::pack::PackInfo;
use crate::vault::read::{PackReader, absent};
use crate::vault::root::{HunkRef, Root, SnapshotName};
use crate::vault::state::{PackState, Tested};
use crate::vault::{Vault, tree};

/// Most packs that are read whole to be sure because they seemed damaged to a reader.
const SUSPECTS: usize = 64;

/// Packs that are not what was stored, and their state.
type DamagedPacks = Vec<(PackInfo, PackState)>;

/// Why a restore did not take place.
#[derive(Debug)]
pub struct RestoreFailure {
    /// The error.
    pub why: Error,
    /// Faults of the snapshot's packs, or of the snapshot itself, because of which an older one may serve; empty if
    /// there are no such faults.
    pub wrong: Vec<String>,
    /// Whether these were known before anything of the packs was read: the parts that are needed may be sound.
    pub untried: bool,
}

impl From<Error> for RestoreFailure {
    fn from(why: Error) -> Self {
        RestoreFailure { why, wrong: Vec::new(), untried: false }
    }
}

/// Says that a snapshot is passed over because of what is wrong with it or with its packs. `None` if nothing is wrong.
pub fn passed_over(snapshot: SnapshotName, wrong: &[String]) -> Option<PassedOver> {
    let (first, more) = (wrong.first()?, in_all(wrong.len()));
    Some(PassedOver { snapshot, why: format!("it is damaged: {first}{more}"), damaged: true })
}

/// Checks that the snapshot's packs are there with their sizes, and reads the doubted ones whole if `all` of them are
/// needed. Returns the packs that are not what was stored. A pack of which only the seek table is damaged serves.
///
/// # Errors
/// A store that fails; being told to stop.
pub fn find(vault: &Vault, packs: &PackReader, all: bool, doubts: &mut Doubts, ctx: &Context) -> Result<DamagedPacks> {
    // Older snapshots mostly name the same packs: once one is known to be damaged, each snapshot costs no more than its
    // lists.
    let unreadable = |(pack, tested): (PackInfo, Tested)| (!tested.readable).then_some((pack, tested.state));
    let known: Vec<_> = doubts.damaged(packs.book()).into_iter().filter_map(unreadable).collect();
    if all && !known.is_empty() {
        return Ok(known);
    }
    let mut wrong = absent(&*vault.store, packs.book().values())?;
    for (pack, state) in &mut wrong {
        *state = std::mem::replace(state, PackState::Absent).explained(&*vault.store, pack);
    }
    if all {
        let go_on = || ctx.check("test packs that are doubted");
        let tested = doubts.test_doubted(vault, packs.book(), (Finding::Restore, &vault.user), &go_on)?;
        for (pack, state) in tested.into_iter().filter_map(unreadable) {
            if !wrong.iter().any(|(known, _)| known.id == pack.id) {
                wrong.push((pack, state));
            }
        }
    }
    Ok(wrong)
}

/// Takes out of `wrong` the packs that hold no more than what was read of files that never came to rest: they are no
/// part of the tree, and a restore of all of it can do without them. Returns the other packs, and warnings about the
/// ones that were taken out.
///
/// # Errors
/// A store that fails.
pub fn without_spare(packs: &PackReader, root: &Root, wrong: DamagedPacks) -> Result<(DamagedPacks, Vec<String>)> {
    if wrong.is_empty() || root.torn_reads == List::default() {
        return Ok((wrong, Vec::new()));
    }
    let named = |hunks: Vec<HunkRef>| -> Result<HashSet<PackId>> {
        let (mut named, mut decoder) = (HashSet::new(), Decoder::new()?);
        for hunk in hunks {
            named.insert(hunk.frame.pack);
            tree::read_hunk(packs, &hunk, &mut decoder)?.iter().for_each(|entry| named.extend(entry.packs()));
        }
        Ok(named)
    };
    let both =
        packs.all(&root.torn_reads).and_then(named).and_then(|torn| Ok((torn, named(tree::hunks(packs, root)?)?)));
    let (torn, tree) = match both {
        Ok(both) => both,
        // Then it is not known which files need them.
        Err(why) if why.kind() == Kind::Damage => return Ok((wrong, Vec::new())),
        Err(why) => return Err(why),
    };
    let (spare, wrong): (Vec<_>, Vec<_>) =
        wrong.into_iter().partition(|(pack, _)| torn.contains(&pack.id) && !tree.contains(&pack.id));
    let what = "it holds no more than reads of files that never came to rest";
    Ok((wrong, spare.iter().map(|(pack, state)| format!("{}; {what}", told(pack, state))).collect()))
}

/// Reads whole the packs that seemed damaged to a reader, and records doubts about the ones that are. Returns
/// descriptions of the ones that cannot be read.
pub fn confirm_suspects(vault: &Vault, packs: &PackReader, doubts: &mut Doubts, ctx: &Context) -> Vec<String> {
    let mended = packs.mended();
    let table =
        packs.book().values().filter(|pack| mended.contains_key(&pack.name())).map(|pack| (*pack, String::new()));
    let suspects = packs.suspects().into_iter().filter(|(pack, _)| !mended.contains_key(&pack.name()));
    let (mut damaged, mut told_of) = (Vec::new(), Vec::new());
    for (pack, _) in suspects.chain(table).take(SUSPECTS) {
        // A pack that cannot be tested now remains suspected, no more.
        let Ok(tested) = doubts.test(&*vault.store, &pack, &|| ctx.check("restore")) else { continue };
        if tested.is_sound() {
            continue;
        }
        if !tested.readable {
            told_of.push(told(&pack, &tested.state));
        }
        // A missing pack needs no doubt: a listing tells that it is missing.
        if let PackState::Damaged(why) = &tested.state {
            damaged.push((pack, why.clone()));
        }
    }
    doubts.doubt(vault, &damaged, (Finding::Restore, &vault.user), ctx.random);
    told_of
}

/// Returns the newest good snapshot that is older than `than`, for a restore that may choose. If there is no such snapshot,
/// returns what ended the search where that is of a newer format: it may be good, and nothing older is taken.
///
/// # Errors
/// A store that fails.
pub fn older(vault: &Vault, than: SnapshotName) -> Result<Result<Choice, Option<NewerFormat>>> {
    let mut names = vault.snapshots()?;
    names.retain(|name| *name < than);
    match select::search_good(vault, &names, "an older good snapshot") {
        Ok(choice) => Ok(Ok(choice)),
        Err(Unchosen { why, .. }) if why.of_store() || why.kind() == Kind::Unreachable => Err(why),
        Err(Unchosen { newer_format, .. }) => Ok(Err(newer_format.map(|at| *at))),
    }
}

/// Says that no older snapshot is restored in place of `damaged`.
pub fn nothing_older(damaged: SnapshotName, newer_format: NewerFormat) -> String {
    let what = match newer_format {
        NewerFormat::Snapshot(name) => format!("the snapshot {name}"),
        NewerFormat::Vault => "one of the vaults".to_owned(),
    };
    format!(
        "no older snapshot is restored in place of {damaged}: {what} was written by a newer lastgood, and may hold a newer state"
    )
}
