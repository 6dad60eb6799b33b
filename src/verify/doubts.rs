//! Settles doubts once every pack has been read: damaged packs are doubted, and packs that were doubted and are sound
//! are so no longer.

use serde::Serialize;

use crate::error::Result;
use crate::monitor::Context;
use crate::vault::Vault;
use crate::vault::doubt::{Doubts, Finding, UnliftedDoubt};
use crate::vault::pack::PackInfo;
use crate::vault::root::PackBook;
use crate::vault::state::Tested;

/// A doubt that stands in the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StandingDoubt {
    /// The object that holds the doubt.
    pub object: String,
    /// The packs that it names.
    pub packs: Vec<DoubtedPack>,
}

/// A pack that a doubt names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoubtedPack {
    /// The pack's object.
    pub name: String,
    /// The reason that the doubt gives.
    pub why: String,
    /// The result of reading the pack.
    pub state: Looked,
}

/// The result of reading a doubted pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Looked {
    /// It is missing or not what was stored.
    Damaged,
    /// It is what was stored. Another pack that the doubt names is not, or the doubt may not be lifted.
    Sound,
    /// No snapshot that can be read names it, so nothing says what was stored.
    Unnamed,
}

/// Settles the doubts about the packs of `book`, all of which were read; the packs in `sound` are sound. Doubts those
/// in `spoiled`, and lifts doubts about packs of `book` that are wrong. If `book` is `complete`, also lifts the doubts
/// whose packs nothing names, among those that stood `before` it was begun. Returns the doubts that stand then.
///
/// # Errors
/// A store that fails while a doubted pack is read; being told to stop.
pub fn settle(
    vault: &Vault,
    (book, complete): (&PackBook, bool),
    before: &Doubts,
    (sound, spoiled): (&[PackInfo], &[(PackInfo, String)]),
    ctx: &Context,
) -> Result<Vec<StandingDoubt>> {
    let mut doubts = Doubts::read(&*vault.store);
    let as_who = (Finding::Verify, &vault.user);
    doubts.know_sound(sound);
    doubts.test_doubted(vault, book, as_who, &|| ctx.check("verify the vault"))?;
    // A pack that was read whole once and found damaged may have been found sound by a second reading.
    let is_wrong = |pack: &PackInfo| doubts.tested(pack).is_none_or(|tested| !tested.is_sound());
    let damaged: Vec<_> = spoiled.iter().filter(|(pack, _)| is_wrong(pack)).cloned().collect();
    doubts.doubt(vault, &damaged, as_who, ctx.random);
    if complete {
        doubts.lift_unneeded(vault, (book, before), as_who);
    }
    doubts.warnings().iter().for_each(|what| ctx.monitor.warn(what));
    let shown = |standing: &UnliftedDoubt| StandingDoubt {
        object: standing.object.clone(),
        packs: standing
            .doubt
            .packs
            .iter()
            .map(|doubted| {
                let known = book.get(&doubted.id).filter(|pack| pack.kind == doubted.kind);
                let state = match known {
                    None => Looked::Unnamed,
                    Some(pack) if doubts.tested(pack).is_some_and(Tested::is_sound) => Looked::Sound,
                    Some(_) => Looked::Damaged,
                };
                DoubtedPack { name: doubted.name(), why: doubted.why.clone(), state }
            })
            .collect(),
    };
    Ok(doubts.standing().iter().map(shown).collect())
}
