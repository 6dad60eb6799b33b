//! Finds what a backup builds on: the parent snapshot, and the newer checkpoint of a backup that did not finish.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crossbeam_channel::Sender;

use super::descent::{Descent, KnownLineage};
use super::lost::LostPacks;
use super::options::BackupOptions;
use super::suspect::{EarlierSuspect, Measure};
use super::{newer_format, unread};
use crate::error::{Code, Error, Kind, Result};
use crate::path::EntryPath;
use crate::source::place::Terms;
use crate::vault::entry::{Entry, Extent, known_pages};
use crate::vault::hex::PackId;
use crate::vault::list::List;
use crate::vault::pack::PackInfo;
use crate::vault::parts::Parts;
use crate::vault::read::PackReader;
use crate::vault::root::{Filters, HunkRef, Root, SnapshotName, SnapshotState, SourceIdentity, Totals};
use crate::vault::{Vault, tree};

mod lacked;
mod stream;

use self::stream::{Stream, TOGETHER};

/// The known entries, and where their bytes are.
pub struct Parent<'v> {
    /// The snapshot that this backup continues.
    pub parent: Option<(SnapshotName, Root)>,
    /// The vault.
    pub vault: &'v Vault,
    /// All snapshots of the vault that the new one may build on, oldest first.
    pub names: Vec<SnapshotName>,
    /// The newest good snapshot of the same data, from which entries that cannot be read are carried over.
    pub good: Option<(SnapshotName, Root)>,
    /// Packs that may be damaged and were not read yet: they must be read before a new snapshot names them.
    pub doubted: HashSet<PackId>,
    /// Which entries the new snapshot selects.
    pub filters: Filters,
    /// Paths that were mount points in the last complete snapshot and no longer are.
    pub unmounted: Vec<EntryPath>,
    /// Measure of the last complete snapshot, by which this one is judged suspect or not.
    pub measure: Option<Measure>,
    /// The suspect snapshots since then, newest first.
    pub suspects: Vec<EarlierSuspect>,
    /// A description of the data of the last complete snapshot, if that differs from this backup's.
    pub other_data: Option<String>,
    /// Where the new snapshot belongs among those of the vault.
    pub descent: Descent,
    /// This snapshot's number, once it is assigned.
    pub seq: u64,
    /// Counts backups, so that each samples other files among the ones that look unchanged.
    pub turn: u64,
    /// Reads the packs that parent and checkpoint name.
    pub packs: PackReader<'v>,
    /// The hunks of parent and checkpoint.
    pub hunks: Vec<HunkRef>,
    /// The last path that a checkpoint covers.
    pub covered: Option<EntryPath>,
    sections: Vec<Section>,
    /// Entries of the newest suspect snapshot, if it is newer than the parent: their content need not be sent again.
    suspect: Vec<Section>,
    /// Bytes that reading all known files would take.
    weight: u64,
    /// Entries of older snapshots that the parent could not read.
    missed: Vec<ParentEntry>,
    /// The parent's reads of large files that never came to rest, besides what it carried over in their place.
    torn_reads: HashMap<EntryPath, Box<Entry>>,
    /// Packs that a snapshot names and this vault has lost or has damaged.
    gone: HashSet<PackId>,
    /// `gone`, and the packs that are damaged in another replica: what they hold counts as unknown and is stored
    /// again.
    avoided: HashSet<PackId>,
}

/// Most older snapshots that are read for a turn, or for entries that the parent could not read.
const OLDER: usize = 8;

/// Most snapshots among which a good one of the same data is looked for, if others hold different data.
const LOOKED_AT: usize = 256;

/// The packs and hunks of a root.
type Loaded = (Vec<PackInfo>, Vec<HunkRef>);

/// A range of known entries.
struct Section {
    hunks: Vec<HunkRef>,
    /// Only paths after this one count.
    after: Option<EntryPath>,
    terms: Terms,
}

/// An entry of the parent, or of a checkpoint or suspect snapshot that is newer.
#[derive(Debug, Clone)]
pub struct ParentEntry {
    /// The entry as it was stored.
    pub entry: Box<Entry>,
    /// Whether its inode number and change time can be compared.
    pub same_place: bool,
    /// The parts of files that may have been taken over without reading them, from another place.
    pub unread: Parts,
    /// Whether all of its content is in the vault. Pages of a database may have been lost; the others are not sent
    /// again.
    pub whole: bool,
    /// The side files that were taken with a raw database.
    pub sides: Vec<Entry>,
}

impl<'v> Parent<'v> {
    /// Finds the parent, which is the newest snapshot that is not suspect and whose lists can be read, and a
    /// checkpoint that is newer.
    ///
    /// A partial snapshot can be the parent too: what it lacks is read as new, while otherwise a directory with one
    /// file that can never be read would be sent whole at every backup. Damaged snapshots are skipped with a warning,
    /// and so are checkpoints that cannot be listed.
    ///
    /// A snapshot that a newer lastgood wrote is not skipped: a snapshot that is built upon an older one would become the
    /// newest, and restores would take it for the last state of what is in the skipped one. What is still on the disk waits
    /// for a newer program; what a restore leaves behind is gone. Only one that is older than a good snapshot, of whatever data,
    /// is skipped, since restores do so as well. Checkpoints of a newer format are skipped, since nobody was told that their
    /// content is stored.
    ///
    /// In the same place, inode numbers are compared, unless they are not `comparable` on its filesystem. Entries
    /// that cannot be read are carried over from a good snapshot `of` the same data path and service. `by` are the
    /// backup's options and what the directory says of where it comes from.
    ///
    /// # Errors
    /// Fails if the store does, and if a snapshot that is newer than the newest good one is of a newer format.
    pub fn find(
        vault: &'v Vault,
        of: (&Path, Option<&str>),
        by: (&BackupOptions, &KnownLineage),
        place: &SourceIdentity,
        comparable: bool,
        lost: &LostPacks,
        mut warn: impl FnMut(String),
    ) -> Result<Parent<'v>> {
        // Both listings run at the same time, since each costs a request.
        let (names, checkpoints) = std::thread::scope(|scope| {
            let checkpoints = scope.spawn(|| vault.checkpoints());
            (vault.snapshots(), checkpoints.join())
        });
        let mut names = names?;
        let mut checkpoints = match checkpoints {
            Ok(Ok(names)) => names,
            // Checkpoints only save work, and this user may not be allowed to list them.
            Ok(Err(why)) if why.kind() != Kind::Unreachable => {
                warn(format!("no checkpoint is built upon, since checkpoints cannot be listed: {why}"));
                Vec::new()
            }
            Ok(Err(why)) => return Err(why),
            Err(_) => {
                return Err(
                    Error::failed("list the checkpoints", "a thread of it ended early").with_code(Code::Internal)
                );
            }
        };
        let descent = Descent::judge(vault, &names, by.0, by.1, (place, comparable))?;
        names.retain(|name| descent.builds_on(name));
        checkpoints.retain(|name| descent.builds_on(name));
        let is_diverged = descent.diverged.is_some();
        let mut base = Parent {
            vault,
            names: Vec::new(),
            parent: None,
            good: None,
            doubted: HashSet::new(),
            filters: Filters::default(),
            unmounted: Vec::new(),
            measure: None,
            suspects: Vec::new(),
            other_data: None,
            descent,
            seq: 0,
            turn: 0,
            packs: PackReader::new(&*vault.store, Default::default()).strict(),
            hunks: Vec::new(),
            covered: None,
            sections: Vec::new(),
            suspect: Vec::new(),
            weight: 0,
            missed: Vec::new(),
            torn_reads: HashMap::new(),
            gone: lost.missing.union(&lost.damaged).copied().collect(),
            avoided: lost.all(),
        };
        let (mut found, mut partial, mut suspect, mut other) = (None, None, None, None);
        let (mut suspect_turn, mut seen_good) = (None, false);
        for (number, name) in names.iter().rev().copied().enumerate() {
            let root = match vault.root(name) {
                Ok(root) => root,
                Err(why) if why.kind() == Kind::Damage => {
                    warn(format!("the snapshot {name} is passed over: {why}"));
                    continue;
                }
                // Restores take the good one, which is newer.
                Err(why) if why.is_newer_format() && seen_good => {
                    warn(format!("the snapshot {name} is passed over: {}", why.what()));
                    continue;
                }
                Err(why) if why.is_newer_format() => return Err(newer_format::refusal(why, "")),
                Err(why) => return Err(why),
            };
            // What diverged is another history's: it says nothing of this one's data, and of how long that has been so.
            if root.diverged.is_some() && !is_diverged {
                if found.is_some() && number >= LOOKED_AT {
                    break;
                }
                continue;
            }
            seen_good |= root.good();
            let same = root.is_of(of.0, of.1);
            match root.state {
                SnapshotState::Complete if same && base.measure.is_none() => base.measure = Some(base.measured(&root)?),
                SnapshotState::Complete if other.is_none() => {
                    other = Some((base.measured(&root)?, base.measure.is_none(), told(&root)))
                }
                SnapshotState::Partial if same && partial.is_none() => partial = Some(base.measured(&root)?),
                SnapshotState::Suspect if same && base.measure.is_none() => base.suspects.push(earlier(&root)),
                _ => {}
            }
            if root.state == SnapshotState::Suspect && found.is_none() {
                suspect_turn = suspect_turn.max(root.turn);
            }
            if root.state == SnapshotState::Suspect && found.is_none() && suspect.is_none() && root.totals.entries > 1 {
                let what = format!("the snapshot {name}");
                let terms = Terms::of(&root, place, comparable);
                suspect = base.load(&root, &what, &mut warn)?.map(|loaded| (loaded, terms));
            }
            if base.good.is_none() && root.good() && root.is_of(of.0, of.1) {
                base.good = Some((name, root.clone()));
            }
            if found.is_none() && root.state != SnapshotState::Suspect {
                let what = format!("the snapshot {name}");
                found = base.load(&root, &what, &mut warn)?.map(|loaded| (name, root, loaded));
            }
            let measured = base.good.is_some() && base.measure.is_some();
            if found.is_some() && (measured || number >= LOOKED_AT) {
                break;
            }
        }
        if let Some((measure, newest, told)) = other {
            // Without any snapshot of this data, its loss is measured against the snapshot of other data.
            base.measure = base.measure.or(Some(measure));
            base.other_data = newest.then_some(told);
        }
        base.measure = base.measure.or(partial);
        let terms = |root: &Root| Terms::of(root, place, comparable);
        if let Some(((packs, mut hunks), terms)) = suspect {
            hunks.retain(|hunk| base.has(hunk.frame.pack));
            base.packs.learn(packs);
            base.hunks.extend(hunks.iter().cloned());
            base.suspect = vec![Section { hunks, after: None, terms }];
        }
        let mut covered = None;
        let parent = found.as_ref().map(|(name, ..)| *name);
        if let Some((name, root)) = newest_checkpoint(vault, &checkpoints, parent, is_diverged, &mut warn)?
            && let Some(loaded) = base.load(&root, &format!("the checkpoint {name}"), &mut warn)?
        {
            base.add(loaded, &root, terms(&root), None);
            covered = root.covers;
            base.covered = covered.clone();
        }
        if let Some((name, root, loaded)) = found {
            base.add(loaded, &root, terms(&root), covered);
            base.find_missed(vault, &names, name, &root, terms, &mut warn)?;
            base.find_torn_reads(name, &root, &mut warn)?;
            // Suspect snapshots since the parent had turns too.
            base.turn = next_turn(vault, name, &root)?.max(suspect_turn.map_or(0, |turn| turn.wrapping_add(1)));
            base.parent = Some((name, root));
        }
        // Packs of another snapshot that entries may be carried over from are named as well, and have to be tested if
        // they are doubted.
        if let Some((name, root)) = base.good.as_ref().filter(|(name, _)| Some(*name) != parent) {
            let loaded = base.load(root, &format!("the snapshot {name}"), &mut warn)?;
            base.packs.learn(loaded.into_iter().flat_map(|(packs, _)| packs));
        }
        base.names = names;
        // Lists were only read for their content, which their hashes check; maps would be named again.
        base.packs = base.packs.without(base.avoided.clone());
        Ok(base)
    }

    /// Returns what later snapshots are compared with.
    fn measured(&self, root: &Root) -> Result<Measure> {
        let listed = match &root.databases {
            List::Items(items) => Ok(items.clone()),
            List::Frames(_) => self.packs.for_another(root).and_then(|packs| packs.all(&root.databases)),
        };
        let databases = match listed {
            // Without the list, no missing databases are reported. That the list is damaged is reported when the
            // snapshot is built upon.
            Err(why) if why.kind() == Kind::Damage => Vec::new(),
            listed => listed?,
        };
        let (entries, bytes) = (root.totals.entries, root.totals.bytes.saturating_sub(root.totals.beside));
        let (place, mounts, filters) = (root.place.clone(), root.mounts.clone(), root.filters.clone());
        Ok(Measure { entries, bytes, place, mounts, databases, filters })
    }

    /// Reads a root's lists. `None`, with a warning, if they are damaged.
    fn load(&self, root: &Root, what: &str, warn: &mut impl FnMut(String)) -> Result<Option<Loaded>> {
        let read = || -> Result<_> {
            let packs = self.packs.for_another(root)?;
            let hunks = tree::hunks(&packs, root)?;
            Ok((packs.book().values().copied().collect(), hunks))
        };
        match read() {
            Ok(loaded) => Ok(Some(loaded)),
            Err(why) if why.kind() == Kind::Damage => {
                warn(format!("{what} cannot be built upon: {why}"));
                Ok(None)
            }
            Err(why) => Err(why),
        }
    }

    /// Adds what a root lists, for paths after `after`.
    fn add(&mut self, (packs, mut hunks): Loaded, root: &Root, terms: Terms, after: Option<EntryPath>) {
        self.weight = self.weight.max(unread::weight(&root.totals));
        hunks.retain(|hunk| self.has(hunk.frame.pack));
        self.packs.learn(packs);
        self.hunks.extend(hunks.iter().cloned());
        self.sections.push(Section { hunks, after, terms });
    }

    /// Sends all known entries in path order, about a hunk at a time, until the receiver is gone. The entries of a
    /// hunk that cannot be read become unknown: they are read and stored again, which mends the vault for the future.
    pub fn send(&self, to: &Sender<Vec<ParentEntry>>, warn: impl Fn(String)) -> Result<()> {
        let mut known = Stream::new(self, &self.sections)?;
        if self.suspect.is_empty() {
            while let Some(entries) = known.hunk(&warn)? {
                if to.send(entries).is_err() {
                    return Ok(());
                }
            }
            return Ok(());
        }
        let mut suspect = Stream::new(self, &self.suspect)?;
        loop {
            let mut both = Vec::with_capacity(TOGETHER);
            while both.len() < TOGETHER {
                let (one, other) = (known.peek(&warn)?.cloned(), suspect.peek(&warn)?.cloned());
                // For an entry that both have, the suspect snapshot has the newer state.
                both.extend(match (&one, &other) {
                    (None, None) => break,
                    (Some(one), Some(other)) if one < other => known.next(),
                    (Some(_), None) => known.next(),
                    _ => {
                        if one == other {
                            known.next();
                        }
                        suspect.next()
                    }
                });
            }
            if both.is_empty() || to.send(both).is_err() {
                return Ok(());
            }
        }
    }
}

impl<'v> Parent<'v> {
    /// Returns the parts of files that are to be read at this turn if they were taken over unread.
    pub fn due(&self, turn: u64, at_least: u64) -> Parts {
        let sections = self.sections.iter().chain(&self.suspect);
        let unread = sections.fold(Parts::NONE, |all, section| all.with(section.terms.unread));
        unread::due(unread, turn, self.weight, at_least)
    }

    /// Whether the content of a pack can be built upon.
    pub fn has(&self, pack: PackId) -> bool {
        !self.avoided.contains(&pack)
    }

    /// Returns a reader for a snapshot from which something is to be carried over.
    ///
    /// # Errors
    /// Fails if the store does, or if the snapshot is damaged.
    pub fn source(&self, root: &Root) -> Result<PackReader<'v>> {
        self.packs.with([]).without(self.gone.clone()).for_another(root)
    }

    /// Whether a new snapshot may name a pack. It may name one that is damaged in another replica, if no other pack
    /// has the content to be carried over.
    pub fn may_name(&self, pack: PackId) -> bool {
        !self.gone.contains(&pack)
    }

    /// Whether the content of an extent is in the vault, as far as is known.
    pub fn has_extent(&self, extent: &Extent) -> bool {
        extent.pack.is_none_or(|pack| self.has(pack))
    }

    /// Returns the known entry. `None` if its content lies in packs that are lost.
    fn known(&self, entry: Entry, Terms { same_place, unread }: Terms) -> Option<ParentEntry> {
        let mut packs = entry.map.iter().flat_map(|map| &map.packs);
        let placed = entry.extents.iter().all(|extent| self.has_extent(extent));
        let whole = placed && (self.avoided.is_empty() || packs.all(|pack| self.has(*pack)));
        let sides = Vec::new();
        (whole || known_pages(&entry).is_some()).then(|| ParentEntry {
            entry: Box::new(entry),
            same_place,
            unread,
            whole,
            sides,
        })
    }
}

/// Returns what is remembered of a suspect snapshot.
fn earlier(root: &Root) -> EarlierSuspect {
    let Totals { entries, bytes, beside, changed, .. } = root.totals;
    let bytes = bytes.saturating_sub(beside);
    EarlierSuspect { started: root.started, entries, bytes, changed, mounts: root.mounts.clone() }
}

/// Describes a snapshot's data for people.
fn told(root: &Root) -> String {
    match &root.service {
        Some(service) => format!("{} of {service} on {}", root.data, root.host),
        None => format!("{} on {}", root.data, root.host),
    }
}

/// Gives raw databases, among known entries in path order, the side files that were taken with them. A database with
/// a missing side file is read again: that the file is not known does not mean that it is not needed.
pub fn join_units(known: &mut [ParentEntry]) {
    for at in 0..known.len() {
        let recorded = known[at].entry.sides();
        if recorded.is_empty() {
            continue;
        }
        let find = |path: &EntryPath| known.binary_search_by(|k| k.entry.path.cmp(path)).ok().map(|at| &known[at]);
        let sides = recorded.iter().map(|path| find(path).filter(|side| side.whole).map(|side| (*side.entry).clone()));
        match sides.collect::<Option<Vec<_>>>() {
            Some(sides) => known[at].sides = sides,
            None => known[at].whole = false,
        }
    }
}

/// Returns the turn after the parent's. If the parent has none, an older program made it, and the snapshots before it
/// are asked: such programs and this one may alternate, and this one has to get round by itself. If none of them has
/// one, the parent's number counted the turns.
fn next_turn(vault: &Vault, name: SnapshotName, parent: &Root) -> Result<u64> {
    let (mut turn, mut before) = (parent.turn, parent.parent);
    for _ in 0..OLDER {
        let Some(name) = before.filter(|_| turn.is_none()) else { break };
        match vault.root(name) {
            Ok(root) => (turn, before) = (root.turn, root.parent),
            // It is gone, damaged, which a verify run reports, or of a newer format.
            Err(why) if why.is_unusable_content() => break,
            Err(why) => return Err(why),
        }
    }
    Ok(turn.unwrap_or(name.seq).wrapping_add(1))
}

/// Returns the newest checkpoint, if it is newer than the parent and was made from it.
fn newest_checkpoint(
    vault: &Vault,
    names: &[SnapshotName],
    parent: Option<SnapshotName>,
    diverged: bool,
    warn: &mut impl FnMut(String),
) -> Result<Option<(SnapshotName, Root)>> {
    let Some(last) = names.last().filter(|last| parent.is_none_or(|parent| parent.seq < last.seq)) else {
        return Ok(None);
    };
    let mut best = None;
    // Checkpoints of the same second are told apart by how far they reach.
    for name in names.iter().rev().take_while(|name| (name.seq, name.time) == (last.seq, last.time)) {
        match vault.checkpoint(*name) {
            Ok(root) if root.parent == parent && root.covers.is_some() && root.diverged.is_some() == diverged => {
                if best.as_ref().is_none_or(|(_, best): &(_, Root)| best.covers < root.covers) {
                    best = Some((*name, root));
                }
            }
            Ok(_) => {}
            Err(why) if why.is_unusable_content() => {
                warn(format!("the checkpoint {name} is passed over: {}", why.what()));
            }
            Err(why) => return Err(why),
        }
    }
    Ok(best)
}
