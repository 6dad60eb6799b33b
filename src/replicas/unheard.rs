//! Vaults that could not be asked while a snapshot is damaged in all that could: one of them may have it whole.
//!
//! An app that is started on an older snapshot meanwhile makes that the newest, and so hides the one that was whole. [`Unheard`] says
//! what is done instead.

use super::{SiteFailure, none_serves};
use crate::error::{Code, Error, Kind};
use crate::restore::options::Unheard;
use crate::restore::select::{self, Choice, LATEST};
use crate::vault::Vault;
use crate::vault::root::SnapshotName;

/// Whether an error of a vault that is there leaves open what the vault has: its store did not answer, or refused.
pub(super) fn is_silent(why: &Error) -> bool {
    why.kind() == Kind::Unreachable || why.of_store() && why.kind() != Kind::Damage
}

/// Whether the newest snapshot is damaged in a vault that was asked, and one is awaited that may have it whole.
pub(super) fn awaits(failures: &[SiteFailure], unheard: &[String], rule: Unheard) -> bool {
    rule == Unheard::Awaited && !unheard.is_empty() && failures.iter().any(|failure| is_damaged(failure, unheard))
}

fn is_damaged((url, why): &SiteFailure, unheard: &[String]) -> bool {
    why.kind() == Kind::Damage && !unheard.contains(url)
}

/// The error that no vault gives a snapshot back.
pub(super) fn none_gives(doing: &str, failures: Vec<SiteFailure>, unheard: &[String], rule: Unheard) -> Error {
    if awaits(&failures, unheard, rule) {
        return awaited(none_serves(doing, failures), unheard);
    }
    let has_damage = failures.iter().any(|failure| is_damaged(failure, unheard));
    let counts = |(url, _): &SiteFailure| rule != Unheard::Ignored || !has_damage || !unheard.contains(url);
    none_serves(doing, failures.into_iter().filter(counts).collect())
}

/// Refuses what is older than a snapshot whose root is damaged in one of the vaults that were asked.
///
/// # Errors
/// Damage, with the code of a store that does not answer.
pub(super) fn check_roots<'a>(
    doing: &str,
    vaults: impl Iterator<Item = (&'a Vault, &'a Choice)>,
    unheard: &[String],
    rule: Unheard,
) -> Result<(), Error> {
    if rule != Unheard::Awaited || unheard.is_empty() {
        return Ok(());
    }
    let (mut newest, mut damaged) = (None::<SnapshotName>, None);
    for (vault, choice) in vaults {
        newest = newest.max(Some(choice.name));
        // One that is named passes over nothing.
        let over = match choice.named {
            false => choice.passed_over.clone(),
            true => match select::search(vault, LATEST) {
                Ok(latest) => latest.passed_over,
                Err(unchosen) => unchosen.passed_over,
            },
        };
        let over = over.into_iter().filter(|over| over.damaged).max_by_key(|over| over.snapshot);
        if over.as_ref().map(|over| over.snapshot) > damaged.as_ref().map(|(name, _)| *name) {
            damaged = over.map(|over| (over.snapshot, over.why));
        }
    }
    match damaged {
        Some((name, why)) if Some(name) > newest => {
            Err(awaited(Error::damage(doing, format!("the snapshot {name} is newer: {why}")), unheard))
        }
        _ => Ok(()),
    }
}

fn awaited(why: Error, unheard: &[String]) -> Error {
    let urls = unheard.join(", ");
    let (doing, why) = why.into_doing_and_why();
    let why = format!("{why}. Another vault could not be asked, and may have the snapshot whole: {urls}");
    Error::damage(doing, why).with_code(Code::Unreachable).hint(format!(
        "Start it again when {urls} can be used. With `--on-unreachable start` the newest older snapshot is restored that is whole."
    ))
}
