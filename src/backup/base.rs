//! What a backup starts from: the parent snapshot and, before it, the checkpoint of a backup that did not finish.

use std::collections::HashSet;

use crossbeam_channel::Sender;

use crate::error::{Kind, Result};
use crate::store::Store;
use crate::vault::Vault;
use crate::vault::entry::{Entry, Extent};
use crate::vault::hex::PackId;
use crate::vault::path::EntryPath;
use crate::vault::read::{Decoder, PackReader};
use crate::vault::root::{HunkRef, Place, Root, SnapshotName, State};
use crate::vault::tree;

/// The entries that are known, and where their bytes are.
pub struct Base<'v> {
    /// The snapshot that this one continues.
    pub parent: Option<(SnapshotName, Root)>,
    /// What a good snapshot looked like last: this one is suspect if it is less than half of it.
    pub measure: Option<(u64, u64)>,
    /// Reads what parent and checkpoint reach.
    pub packs: PackReader<'v>,
    /// The hunks of both.
    pub hunks: Vec<HunkRef>,
    sections: Vec<Section>,
    /// Packs that a snapshot names and the vault has lost: what lies in them counts as unknown, and is stored anew.
    absent: HashSet<PackId>,
}

/// A run of known entries.
struct Section {
    hunks: Vec<HunkRef>,
    /// Only paths after this one count.
    after: Option<EntryPath>,
    /// Whether inode numbers and change times mean what they meant then.
    same_place: bool,
}

/// A known entry.
#[derive(Debug)]
pub struct Known {
    /// As it was stored.
    pub entry: Entry,
    /// Whether its inode number and change time can be compared.
    pub same_place: bool,
}

impl<'v> Base<'v> {
    /// Finds the parent (the newest snapshot that is not suspect) and a checkpoint that is newer.
    ///
    /// A partial snapshot serves too: what it lacks is read as new, and a directory with one file that can never be read
    /// would otherwise be sent whole at every backup. A root that is damaged is passed over with a warning.
    ///
    /// # Errors
    /// A store that fails.
    pub fn find(
        vault: &'v Vault,
        place: &Place,
        absent: HashSet<PackId>,
        mut warn: impl FnMut(String),
    ) -> Result<Base<'v>> {
        let mut parent = None;
        let mut measure = None;
        for name in vault.snapshots()?.into_iter().rev() {
            let root = match vault.root(name) {
                Ok(root) => root,
                Err(why) if why.kind() == Kind::Damage => {
                    warn(format!("the snapshot {name} is passed over: {why}"));
                    continue;
                }
                Err(why) => return Err(why),
            };
            let totals = (root.totals.entries, root.totals.bytes);
            if root.good() {
                measure = Some(totals);
            }
            if parent.is_none() && root.state != State::Suspect {
                parent = Some((name, root));
            }
            if measure.is_some() {
                break;
            }
        }
        let measure = measure.or(parent.as_ref().map(|(_, root)| (root.totals.entries, root.totals.bytes)));
        let mut base = Base {
            parent: None,
            measure,
            packs: PackReader::new(&*vault.store, Default::default()),
            hunks: Vec::new(),
            sections: Vec::new(),
            absent,
        };
        let mut covered = None;
        if let Some((name, root)) = newest_checkpoint(vault, parent.as_ref(), &mut warn)?
            && base.add(&*vault.store, &root, place, None, &format!("the checkpoint {name}"), &mut warn)
        {
            covered = root.covers;
        }
        if let Some((name, root)) = parent
            && base.add(&*vault.store, &root, place, covered, &format!("the snapshot {name}"), &mut warn)
        {
            base.parent = Some((name, root));
        }
        Ok(base)
    }

    /// Adds a root's entries; says whether it could be read.
    fn add(
        &mut self,
        store: &'v dyn Store,
        root: &Root,
        place: &Place,
        after: Option<EntryPath>,
        what: &str,
        warn: &mut impl FnMut(String),
    ) -> bool {
        let read = || -> Result<_> {
            let packs = PackReader::for_root(store, root)?;
            let hunks = tree::hunks(&packs, root)?;
            Ok((packs, hunks))
        };
        match read() {
            Ok((packs, mut hunks)) => {
                hunks.retain(|hunk| !self.absent.contains(&hunk.frame.pack));
                self.packs.learn(packs.book().values().copied());
                self.hunks.extend(hunks.iter().cloned());
                self.sections.push(Section { hunks, after, same_place: root.place == *place });
                true
            }
            Err(why) => {
                warn(format!("{what} cannot be built upon, and what it holds is read anew: {why}"));
                false
            }
        }
    }

    /// Sends all known entries in path order, a hunk at a time, until nobody listens any more. A hunk that cannot be read
    /// makes its entries unknown: they are read and stored anew, which mends the vault for the future.
    pub fn send(&self, to: &Sender<Vec<Known>>, warn: impl Fn(String)) -> Result<()> {
        let mut decoder = Decoder::new()?;
        for section in &self.sections {
            for (n, hunk) in section.hunks.iter().enumerate() {
                let next = section.hunks.get(n + 1).map(|next| &next.first);
                if let (Some(after), Some(next)) = (&section.after, next)
                    && next <= after
                {
                    continue;
                }
                let entries = match tree::read_hunk(&self.packs, hunk, &mut decoder) {
                    Ok(entries) => entries,
                    Err(why) => {
                        warn(format!("what the parent says from {} on is read anew: {why}", hunk.first));
                        continue;
                    }
                };
                let known = entries
                    .into_iter()
                    .filter(|entry| self.holds(entry))
                    .filter(|entry| section.after.as_ref().is_none_or(|after| entry.path > *after))
                    .map(|entry| Known { entry, same_place: section.same_place })
                    .collect();
                if to.send(known).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Base<'_> {
    /// Whether a pack may be named by a new snapshot.
    pub fn has(&self, pack: PackId) -> bool {
        !self.absent.contains(&pack)
    }

    /// Whether the content of an extent is in the vault, as far as is known.
    pub fn has_extent(&self, extent: &Extent) -> bool {
        extent.pack.is_none_or(|pack| self.has(pack))
    }

    fn holds(&self, entry: &Entry) -> bool {
        let mut packs = entry.map.iter().flat_map(|map| &map.packs);
        self.absent.is_empty() || (entry.extents.iter().all(|e| self.has_extent(e)) && packs.all(|p| self.has(*p)))
    }
}

/// The newest checkpoint, if it is newer than the parent and was made from it.
fn newest_checkpoint(
    vault: &Vault,
    parent: Option<&(SnapshotName, Root)>,
    warn: &mut impl FnMut(String),
) -> Result<Option<(SnapshotName, Root)>> {
    let names = vault.checkpoints()?;
    let parent = parent.map(|(name, _)| *name);
    let Some(last) = names.last().filter(|last| parent.is_none_or(|parent| parent.seq < last.seq)) else {
        return Ok(None);
    };
    let mut best = None;
    // Those of one second are told apart by how far they reach.
    for name in names.iter().rev().take_while(|name| (name.seq, name.time) == (last.seq, last.time)) {
        match vault.checkpoint(*name) {
            Ok(root) if root.parent == parent && root.covers.is_some() => {
                if best.as_ref().is_none_or(|(_, best): &(_, Root)| best.covers < root.covers) {
                    best = Some((*name, root));
                }
            }
            Ok(_) => {}
            Err(why) if why.kind() == Kind::Damage => warn(format!("the checkpoint {name} is passed over: {why}")),
            Err(why) => return Err(why),
        }
    }
    Ok(best)
}
