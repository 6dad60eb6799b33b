//! Snapshots of which a pack is damaged: how a restore finds that out before it begins, and which snapshot it takes then.

use super::select::{self, Choice, PassedOver};
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::vault::Vault;
use crate::vault::doubt::{Doubts, Finding, told};
use crate::vault::pack::PackInfo;
use crate::vault::read::{PackReader, absent};
use crate::vault::root::SnapshotName;
use crate::vault::state::PackState;

/// Packs that seemed damaged to a reader and are read whole to be sure, at most.
const SUSPECTS: usize = 64;

/// Why a restore did not take place.
#[derive(Debug)]
pub struct Failure {
    /// The error.
    pub why: Error,
    /// Whether it is one of the snapshot's packs, so that an older snapshot may serve: what is wrong with them; empty where it
    /// is not.
    pub packs: Vec<String>,
}

impl From<Error> for Failure {
    fn from(why: Error) -> Self {
        Failure { why, packs: Vec::new() }
    }
}

/// That a snapshot is passed over for what is wrong with its packs; none where nothing is.
pub fn passed_over(snapshot: SnapshotName, packs: &[String]) -> Option<PassedOver> {
    let (first, more) = packs.split_first()?;
    let more = if more.is_empty() { String::new() } else { format!(" ({} packs in all)", packs.len()) };
    Some(PassedOver { snapshot, why: format!("it is damaged: {first}{more}") })
}

/// Looks whether the snapshot's packs are there with their sizes, and reads those whole that are doubted, if `all` of them are
/// needed. Gives those that are not what was stored. A pack of which only the seek table is damaged serves.
///
/// # Errors
/// A store that fails; being told to stop.
pub fn look(
    vault: &Vault,
    packs: &PackReader,
    all: bool,
    doubts: &mut Doubts,
    ctx: &Context,
) -> Result<Vec<(PackInfo, PackState)>> {
    let mut wrong = absent(&*vault.store, packs.book().values())?;
    for (pack, state) in &mut wrong {
        *state = std::mem::replace(state, PackState::Absent).explained(&*vault.store, pack);
    }
    if all {
        let go_on = || ctx.check("test packs that are doubted");
        let tested = doubts.test_doubted(vault, packs.book(), (Finding::Restore, &vault.user), &go_on)?;
        for (pack, tested) in tested {
            if !tested.readable && !wrong.iter().any(|(known, _)| known.id == pack.id) {
                wrong.push((pack, tested.state));
            }
        }
    }
    Ok(wrong)
}

/// Reads the packs whole that seemed damaged to a reader, and doubts those that are. Gives what to tell of those that cannot
/// be read.
pub fn found(vault: &Vault, packs: &PackReader, doubts: &mut Doubts, ctx: &Context) -> Vec<String> {
    let mended = packs.mended();
    let table =
        packs.book().values().filter(|pack| mended.contains_key(&pack.name())).map(|pack| (*pack, String::new()));
    let suspects = packs.suspects().into_iter().filter(|(pack, _)| !mended.contains_key(&pack.name()));
    let (mut damaged, mut told_of) = (Vec::new(), Vec::new());
    for (pack, _) in suspects.chain(table).take(SUSPECTS) {
        // What cannot be asked now is no more than suspected.
        let Ok(tested) = doubts.test(&*vault.store, &pack, &|| ctx.check("restore")) else { continue };
        if tested.is_sound() {
            continue;
        }
        if !tested.readable {
            told_of.push(told(&pack, &tested.state));
        }
        // That it is missing, a listing tells.
        if let PackState::Damaged(why) = &tested.state {
            damaged.push((pack, why.clone()));
        }
    }
    doubts.doubt(vault, &damaged, (Finding::Restore, &vault.user), ctx.random);
    told_of
}

/// The newest good snapshot that is older than `than`, for a restore that may choose; none where there is none.
///
/// # Errors
/// A store that fails.
pub fn older(vault: &Vault, than: SnapshotName) -> Result<Option<Choice>> {
    let mut names = vault.snapshots()?;
    names.retain(|name| *name < than);
    match select::newest_good(vault, &names, "an older good snapshot") {
        Ok(choice) => Ok(Some(choice)),
        Err(why) if why.of_store() || why.kind() == Kind::Unreachable => Err(why),
        Err(_) => Ok(None),
    }
}
