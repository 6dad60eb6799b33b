//! Decides where a snapshot belongs among those of its vault: in which epoch it is numbered, which snapshots it may
//! build on, and whether its data has diverged from theirs.
//!
//! The epoch is the upper half of a snapshot's number. `run` is told its own. A backup without one takes that of the
//! greatest number known, unless its directory cannot be shown to go on from the newest good snapshot: then another
//! instance of the app has taken over, and this directory is one that was left behind. What is taken of it is kept, is
//! *diverged*, and never becomes the newest.

use jiff::Timestamp;

use super::options::BackupOptions;
use crate::error::{Kind, Result};
use crate::lineage::{Lineage, OWN_FOLDER, STATE, UnclearLineage};
use crate::source::place::{self, Likeness};
use crate::store::StoreError;
use crate::vault::epochs::{EpochRecord, MAX_EPOCH};
use crate::vault::root::{Root, SnapshotName, SourceIdentity};
use crate::vault::{Vault, pins, seq};

/// What a data directory says of where its content comes from.
pub type KnownLineage = Result<Option<Lineage>, UnclearLineage>;

/// Where a snapshot belongs among those of its vault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descent {
    /// Why its data has diverged; `None` if it has not.
    pub diverged: Option<String>,
    /// The greatest epoch of snapshots that it may build on; `None` for all.
    builds_on: Option<u32>,
    /// The epoch that it is numbered in; `None` for a number right below that of the newest good snapshot.
    epoch: Option<u32>,
    /// The number of the newest good snapshot, if the new one's must be below it.
    below: Option<u64>,
    /// The time of the state that is imported: its number is [`seq::IMPORTED`], and it builds on earlier imports alone.
    imported: Option<Timestamp>,
    /// The numbers of all snapshots that are known.
    numbers: Vec<u64>,
}

impl Descent {
    /// Decides it for a backup of the directory at `place`, into a vault with the snapshots `names`, oldest first.
    /// Inode numbers are compared unless they are not `comparable`.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn judge(
        vault: &Vault,
        names: &[SnapshotName],
        options: &BackupOptions,
        lineage: &KnownLineage,
        (place, comparable): (&SourceIdentity, bool),
    ) -> Result<Descent> {
        if let Some(past) = &options.past {
            return Ok(Descent { imported: Some(past.time), ..Descent::default() });
        }
        let numbers: Vec<u64> = names.iter().map(|name| name.seq).chain(options.numbers.iter().copied()).collect();
        let newest = seq::epoch(numbers.iter().copied().max().unwrap_or(0));
        let lineage = match lineage {
            Ok(Some(lineage)) if lineage.vault == vault.config.id => Ok(lineage),
            Ok(Some(_)) => Err(format!("its {OWN_FOLDER}/{STATE} is of another vault")),
            Ok(None) => Err(format!("it has no {OWN_FOLDER}/{STATE}, which says what it comes from")),
            Err(unclear) => Err(unclear.to_string()),
        };
        let by_itself = options.epoch.is_none() && options.diverged.is_none() && newest > 0 && !options.take_over;
        let good = match by_itself || options.diverged.is_some() {
            true => newest_good(vault, names)?,
            false => None,
        };
        let diverged = match (&options.diverged, &good) {
            (Some(why), _) => Some(why.clone()),
            (None, Some((name, root))) => {
                let is_here = is_place_of(&root.place, place, comparable);
                let why = match &lineage {
                    Ok(lineage) if root.serial == Some(lineage.serial) => None,
                    // A restore writes the newest epoch into every copy: it tells nothing while an instance may run in that epoch.
                    Ok(lineage) if lineage.epoch >= newest && has_ended(vault, newest)? => None,
                    Ok(lineage) if lineage.epoch >= newest => {
                        Some(format!("the instance of epoch {newest} has not ended, and may run elsewhere"))
                    }
                    Ok(lineage) => Some(format!("its {OWN_FOLDER}/{STATE} is of epoch {}", lineage.epoch)),
                    Err(why) => Some(why.clone()),
                };
                let epoch = seq::epoch(name.seq);
                let newer = format!("the newest good snapshot, {} of epoch {epoch}, is of another directory", name.id);
                why.filter(|_| !is_here).map(|why| format!("the data directory has diverged: {why}, and {newer}"))
            }
            (None, None) => None,
        };
        if diverged.is_none() {
            let epoch = options.epoch.unwrap_or(newest);
            let epoch = Some(epoch);
            return Ok(Descent { builds_on: epoch, epoch, numbers, ..Descent::default() });
        }
        let below = good.map(|(name, _)| name.seq);
        let own = options.epoch.or(lineage.ok().map(|lineage| lineage.epoch));
        // Without any good snapshot there is nothing that the number has to be below.
        let epoch = own.or(Some(newest).filter(|_| below.is_none()));
        Ok(Descent { diverged, builds_on: own, epoch, below, imported: None, numbers })
    }

    /// Whether the snapshot may build on another one.
    pub fn builds_on(&self, name: &SnapshotName) -> bool {
        match self.imported {
            Some(time) => name.seq == seq::IMPORTED && name.time <= time,
            None => self.builds_on.is_none_or(|epoch| seq::epoch(name.seq) <= epoch),
        }
    }

    /// Returns the snapshot's number, if its capture begins at the time `clock`. `None` if there is none left.
    pub fn number(&self, clock: Timestamp) -> Option<u64> {
        if self.imported.is_some() {
            return Some(seq::IMPORTED);
        }
        let next = match self.epoch {
            Some(epoch) => Some(seq::next_in(epoch, self.numbers.iter().copied(), clock)?),
            None => None,
        };
        match self.below {
            // Time and id tell it from another snapshot of that number.
            Some(below) => Some(next.filter(|next| *next < below).unwrap_or(below.saturating_sub(1))),
            None => next.or_else(|| seq::next(self.greatest(), clock)),
        }
    }

    /// Returns the greatest number that is known; 0 if there is none.
    pub fn greatest(&self) -> u64 {
        self.numbers.iter().copied().max().unwrap_or(0)
    }
}

/// Whether an epoch has ended, so that no instance of the app runs in it.
fn has_ended(vault: &Vault, epoch: u32) -> Result<bool> {
    let name = EpochRecord::End.object(epoch);
    match vault.store.get(&name, MAX_EPOCH) {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(why) => Err(why.while_doing(format!("read {name}"))),
    }
}

/// Whether a snapshot was taken of the directory that is at `now`.
pub fn is_place_of(then: &SourceIdentity, now: &SourceIdentity, comparable: bool) -> bool {
    match place::compare(then, now, comparable) {
        Likeness::Same => true,
        // A bucket or a server's folder has a name.
        Likeness::Unnumbered => now.source.is_some() && then.is_where(now),
        Likeness::Another => false,
    }
}

/// Returns the newest good snapshot of a vault. Damaged roots are passed over.
fn newest_good(vault: &Vault, names: &[SnapshotName]) -> Result<Option<(SnapshotName, Root)>> {
    vault.newest_good(names, |_, not_good| match not_good {
        // Whoever builds on it or verifies it is told.
        Err(why) if why.kind() != Kind::Damage => Err(why),
        _ => Ok(()),
    })
}

/// Returns the newest whole snapshots of diverged directories that pins keep, newest first, `most` at most. Whether one of
/// them equals a directory is for the caller to find out: then that need not be saved again. Neither a serial nor a place
/// tells: each start of a container has its image's files in a new directory.
///
/// # Errors
/// Fails if the store does.
pub fn saved_before(vault: &Vault, most: usize) -> Result<Vec<(SnapshotName, Root)>> {
    let mut found = Vec::new();
    for name in pins::all_pinned(vault)?.into_iter().rev() {
        if found.len() == most {
            break;
        }
        match vault.root(name) {
            Ok(root) if root.diverged.is_some() && root.whole() => found.push((name, root)),
            Ok(_) => {}
            // It was let go, or is damaged: then it holds nothing safely.
            Err(why) if why.kind() == Kind::Damage => {}
            Err(why) => return Err(why),
        }
    }
    Ok(found)
}
