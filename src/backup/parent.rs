//! What a backup starts from: the parent snapshot and, before it, the checkpoint of a backup that did not finish.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crossbeam_channel::Sender;

use super::lost::LostPacks;
use super::suspect::{EarlierSuspect, Measure};
use super::unread;
use crate::error::{Error, Kind, Result};
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

/// The entries that are known, and where their bytes are.
pub struct Parent<'v> {
    /// The snapshot that this one continues.
    pub parent: Option<(SnapshotName, Root)>,
    /// The vault.
    pub vault: &'v Vault,
    /// All its snapshots, in their order.
    pub names: Vec<SnapshotName>,
    /// The newest good snapshot of the same data, from which what cannot be read is carried over.
    pub good: Option<(SnapshotName, Root)>,
    /// Packs that may be damaged, and were not read: whoever would name them reads them first.
    pub doubted: HashSet<PackId>,
    /// Which entries this snapshot is to have.
    pub filters: Filters,
    /// Where something was mounted in the last complete snapshot, and is not any more.
    pub unmounted: Vec<EntryPath>,
    /// What the last complete snapshot had: by that it is judged whether this one is suspect.
    pub measure: Option<Measure>,
    /// The suspect ones since, newest first.
    pub suspects: Vec<EarlierSuspect>,
    /// What the last complete snapshot is of, where that is not what this one is of.
    pub other_data: Option<String>,
    /// The greatest number in the vault; 0 where there is none. Snapshots that cannot be read count too: the newest snapshot must
    /// be the newest.
    pub known: u64,
    /// This snapshot's number, once it is given.
    pub seq: u64,
    /// Turns the sample of the files that are read though they look unchanged.
    pub turn: u64,
    /// Reads what parent and checkpoint reach.
    pub packs: PackReader<'v>,
    /// The hunks of both.
    pub hunks: Vec<HunkRef>,
    /// The last path of what a checkpoint gives.
    pub covered: Option<EntryPath>,
    sections: Vec<Section>,
    /// The newest suspect snapshot, if it is newer than the parent: what it has need not be sent again.
    suspect: Vec<Section>,
    /// What it takes to read all that is known, in bytes.
    weight: u64,
    /// What older snapshots know of entries that the parent could not read.
    missed: Vec<ParentEntry>,
    /// What the parent read of large files that never came to rest, beside what it carried over in their place.
    torn_reads: HashMap<EntryPath, Box<Entry>>,
    /// Packs that a snapshot names and this vault has lost or has damaged.
    gone: HashSet<PackId>,
    /// These, and those that another replica has damaged: what lies in them counts as unknown, and is stored anew.
    avoided: HashSet<PackId>,
}

/// So many older snapshots are asked.
const OLDER: usize = 8;

/// A good snapshot of the same data is looked for among so many, where others are of something else.
const LOOKED_AT: usize = 256;

/// A root's packs and hunks.
type Loaded = (Vec<PackInfo>, Vec<HunkRef>);

/// A run of known entries.
struct Section {
    hunks: Vec<HunkRef>,
    /// Only paths after this one count.
    after: Option<EntryPath>,
    terms: Terms,
}

/// A known entry.
#[derive(Debug, Clone)]
pub struct ParentEntry {
    /// As it was stored.
    pub entry: Box<Entry>,
    /// Whether its inode number and change time can be compared.
    pub same_place: bool,
    /// The parts of files that may have been taken over unread, from another place.
    pub unread: Parts,
    /// Whether all of it is in the vault. Of a database, pages may have been lost; the others are not sent again.
    pub whole: bool,
    /// What was taken with it: the files beside a raw database.
    pub sides: Vec<Entry>,
}

impl<'v> Parent<'v> {
    /// Finds the parent (the newest snapshot that is not suspect and whose lists can be read) and a checkpoint that is
    /// newer.
    ///
    /// A partial snapshot serves too: what it lacks is read as new, and a directory with one file that can never be read
    /// would otherwise be sent whole at every backup. What is damaged is passed over with a warning, and so are checkpoints that cannot be
    /// listed.
    ///
    /// In the same place, inode numbers are compared, unless they are not `comparable` on its filesystem. What cannot be read
    /// is carried over from a good snapshot `of` the same data path and service.
    ///
    /// # Errors
    /// A store that fails.
    pub fn find(
        vault: &'v Vault,
        of: (&Path, Option<&str>),
        place: &SourceIdentity,
        comparable: bool,
        lost: &LostPacks,
        mut warn: impl FnMut(String),
    ) -> Result<Parent<'v>> {
        // Both listings at once: each costs a request.
        let (names, checkpoints) = std::thread::scope(|scope| {
            let checkpoints = scope.spawn(|| vault.checkpoints());
            (vault.snapshots(), checkpoints.join())
        });
        let names = names?;
        let checkpoints = match checkpoints {
            Ok(Ok(names)) => names,
            // They only save work, and those of another user may be closed.
            Ok(Err(why)) if why.kind() != Kind::Unreachable => {
                warn(format!("no checkpoint is built upon: {why}"));
                Vec::new()
            }
            Ok(Err(why)) => return Err(why),
            Err(_) => return Err(Error::failed("list the checkpoints", "a thread of it ended early")),
        };
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
            known: names.last().map_or(0, |name| name.seq),
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
        let mut suspect_turn = None;
        for (number, name) in names.iter().rev().copied().enumerate() {
            let root = match vault.root(name) {
                Ok(root) => root,
                Err(why) if why.kind() == Kind::Damage => {
                    warn(format!("the snapshot {name} is passed over: {why}"));
                    continue;
                }
                Err(why) => return Err(why),
            };
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
            // Where nothing is known of this data, what there was of another loses it.
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
        if let Some((name, root)) = newest_checkpoint(vault, &checkpoints, parent, &mut warn)?
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
            // Suspect ones since had turns too.
            base.turn = next_turn(vault, name, &root)?.max(suspect_turn.map_or(0, |turn| turn.wrapping_add(1)));
            base.parent = Some((name, root));
        }
        // What may be carried over from another one is named as well, and to be tested if it is doubted.
        if let Some((name, root)) = base.good.as_ref().filter(|(name, _)| Some(*name) != parent) {
            let loaded = base.load(root, &format!("the snapshot {name}"), &mut warn)?;
            base.packs.learn(loaded.into_iter().flat_map(|(packs, _)| packs));
        }
        base.names = names;
        // Lists were read for what they say, and are checked by their hashes; maps would be named again.
        base.packs = base.packs.without(base.avoided.clone());
        Ok(base)
    }

    /// What a snapshot is compared with.
    fn measured(&self, root: &Root) -> Result<Measure> {
        let listed = match &root.databases {
            List::Items(items) => Ok(items.clone()),
            List::Frames(_) => self.packs.for_another(root).and_then(|packs| packs.all(&root.databases)),
        };
        let databases = match listed {
            // Without the list, which is told when the snapshot is built upon, nothing is said of databases that are gone.
            Err(why) if why.kind() == Kind::Damage => Vec::new(),
            listed => listed?,
        };
        let (entries, bytes) = (root.totals.entries, root.totals.bytes.saturating_sub(root.totals.beside));
        let (place, mounts, filters) = (root.place.clone(), root.mounts.clone(), root.filters.clone());
        Ok(Measure { entries, bytes, place, mounts, databases, filters })
    }

    /// Reads a root's lists; none, with a warning, where they are damaged.
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

    /// Sends all known entries in path order, a hunk or so at a time, until nobody listens any more. A hunk that cannot be read
    /// makes its entries unknown: they are read and stored anew, which mends the vault for the future.
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
                // Of what both have, the suspect snapshot knows the newer state.
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
    /// The parts of files whose turn to be read it is, if they were taken over unread.
    pub fn due(&self, turn: u64, at_least: u64) -> Parts {
        let sections = self.sections.iter().chain(&self.suspect);
        let unread = sections.fold(Parts::NONE, |all, section| all.with(section.terms.unread));
        unread::due(unread, turn, self.weight, at_least)
    }

    /// Whether what lies in a pack can be built upon.
    pub fn has(&self, pack: PackId) -> bool {
        !self.avoided.contains(&pack)
    }

    /// A reader of a snapshot from which something is to be carried over.
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn source(&self, root: &Root) -> Result<PackReader<'v>> {
        self.packs.with([]).without(self.gone.clone()).for_another(root)
    }

    /// Whether a pack may be named by a new snapshot. One that is damaged in another replica may, where nothing but it has what
    /// is to be carried over.
    pub fn may_name(&self, pack: PackId) -> bool {
        !self.gone.contains(&pack)
    }

    /// Whether the content of an extent is in the vault, as far as is known.
    pub fn has_extent(&self, extent: &Extent) -> bool {
        extent.pack.is_none_or(|pack| self.has(pack))
    }

    /// What is known of an entry; nothing, where it lies in packs that are lost.
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

/// What is remembered of a suspect snapshot.
fn earlier(root: &Root) -> EarlierSuspect {
    let Totals { entries, bytes, beside, changed, .. } = root.totals;
    let bytes = bytes.saturating_sub(beside);
    EarlierSuspect { started: root.started, entries, bytes, changed, mounts: root.mounts.clone() }
}

/// What a snapshot is of, for people.
fn told(root: &Root) -> String {
    match &root.service {
        Some(service) => format!("{} of {service} on {}", root.data, root.host),
        None => format!("{} on {}", root.data, root.host),
    }
}

/// Gives raw databases, among known entries in path order, what was taken with them. One of which a part is not there is read
/// anew: that a part is not known does not mean that it is not needed.
fn join_units(known: &mut [ParentEntry]) {
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

/// The turn after that of a parent. Where the parent has none, an early program took it: those before it are asked, since such
/// programs and this one may back up by turns, and this one is to get round by itself. If none has one, the parent's number
/// counted its turns.
fn next_turn(vault: &Vault, name: SnapshotName, parent: &Root) -> Result<u64> {
    let (mut turn, mut before) = (parent.turn, parent.parent);
    for _ in 0..OLDER {
        let Some(name) = before.filter(|_| turn.is_none()) else { break };
        match vault.root(name) {
            Ok(root) => (turn, before) = (root.turn, root.parent),
            // It is gone, or damaged, which is said when the vault is verified.
            Err(why) if why.kind() == Kind::Damage => break,
            Err(why) => return Err(why),
        }
    }
    Ok(turn.unwrap_or(name.seq).wrapping_add(1))
}

/// The newest checkpoint, if it is newer than the parent and was made from it.
fn newest_checkpoint(
    vault: &Vault,
    names: &[SnapshotName],
    parent: Option<SnapshotName>,
    warn: &mut impl FnMut(String),
) -> Result<Option<(SnapshotName, Root)>> {
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
