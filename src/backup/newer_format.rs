//! Keeps a backup from building on what is older than a snapshot of a newer format: the new snapshot would become the
//! newest, and restores would take it for the last state of what is in the one that could not be read.

use std::collections::{BTreeSet, HashSet};

use crate::error::{Error, Result};
use crate::vault::root::SnapshotName;
use crate::vault::{Vault, seq};

/// The vault at an address, and the names of its snapshots, oldest first.
pub type NamedVault<'v> = (&'v str, &'v Vault, &'v [SnapshotName]);

/// Checks that no vault of several holds a snapshot of a newer format that is newer than the newest good one of all
/// of them: a backup builds on one vault and sees what is in that one only. Snapshots of later epochs than `epoch` do
/// not count. The vaults are asked in this order, normally for one root in all.
///
/// A vault whose store fails is not asked further: it counts as away. A damaged root counts as nothing, unless another
/// vault has it whole.
///
/// # Errors
/// Failed, with the code of a newer format: there is such a snapshot.
pub fn check_all(vaults: &[NamedVault<'_>], epoch: Option<u32>) -> Result<()> {
    let names = vaults.iter().flat_map(|(.., names)| names.iter().copied());
    let names: BTreeSet<_> = names.filter(|name| epoch.is_none_or(|epoch| seq::epoch(name.seq) <= epoch)).collect();
    let mut away = HashSet::new();
    for name in names.into_iter().rev() {
        for (url, vault, held) in vaults {
            if away.contains(url) || held.binary_search(&name).is_err() {
                continue;
            }
            match vault.root(name) {
                Ok(root) if root.good() && root.diverged.is_none() => return Ok(()),
                Ok(_) => break,
                Err(why) if why.is_newer_format() => return Err(refusal(why, &format!(" of the vault {url}"))),
                Err(why) => {
                    tracing::debug!("whether the snapshot {name} is of a newer format is not known: {}", why.what());
                    if why.of_store() {
                        away.insert(url);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Returns the error that nothing is built on snapshots older than one of a newer format. `place` ends the name of what
/// the backup would have built on.
pub fn refusal(why: Error, place: &str) -> Error {
    let advice = why.advice().unwrap_or_default();
    let hint = format!(
        "{advice} No snapshot was taken: it would be built upon an older one and count as newer. To go on with this version all the \
         same, use a new vault."
    );
    why.within(format!("build on the newest snapshot{place}")).hint(hint)
}
