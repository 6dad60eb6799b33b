//! Copies snapshots from a vault to a replica of it: only what is missing there, and packs before the roots that name
//! them.
//!
//! ```text
//! roots, oldest first ──► their packs ──► those that `to` lacks: read, compared with the root's list, created; several
//!                                         at once ──► all listed in `to` ──► the roots, oldest first
//! ```
//!
//! Everything is create-only, and a pack that `to` lists with the right size is not sent again: a copy that was cut off
//! goes on where it was, and several may run at once. A pack that is damaged or missing in `from` is taken from another
//! replica if one is known that has it; otherwise it is named and not copied, and neither are the snapshots that need
//! it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use serde::Serialize;

use crate::error::{Kind, Result};
use crate::monitor::Context;
use crate::parallel::ordered::map_ordered;
use crate::restore::select::PassedOver;
use crate::store;
use crate::vault::Vault;
use crate::vault::doubt::{Doubts, Finding};
use crate::vault::hex::PackId;
use crate::vault::pack::{MAX_PACK, PackInfo};
use crate::vault::read::{PackReader, absent, listed};
use crate::vault::root::{SNAPSHOTS, SnapshotName};

mod send;

pub use self::send::{from_any, right_bytes};

/// Bytes of new packs at which a group of roots ends. Roots are created in groups, so that one listing of `to` serves
/// many.
const GROUP_BYTES: u64 = 256 << 20;
/// Number of roots at which a group ends.
const GROUP_ROOTS: usize = 64;
/// Number of listed packs, which are held in memory, at which a group ends.
const GROUP_LISTED: usize = 1 << 17;

const AGAIN: &str = "What was copied stays, and is not sent again: run the same copy again to go on.";

/// The result of a copy.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CopyReport {
    /// Snapshots that `to` lacked and has now, oldest first.
    pub snapshots: Vec<SnapshotName>,
    /// Number of snapshots that `to` had already.
    pub snapshots_there: u64,
    /// Number of objects that were created, packs and roots.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Number of packs of the snapshots that `to` had already.
    pub objects_there: u64,
    /// Bytes of these packs.
    pub bytes_there: u64,
    /// Snapshots that could not be copied, because something is damaged, or a newer lastgood wrote them.
    pub not_copied: Vec<PassedOver>,
    /// Snapshots that `to` has and cannot give back whole: a pack that they need is damaged there.
    pub hurt: Vec<PassedOver>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// The snapshots of `from` that `to` lacks, oldest first.
///
/// # Errors
/// A store that fails.
pub fn lacking(from: &Vault, to: &Vault) -> Result<Vec<SnapshotName>> {
    let there: HashSet<_> = to.snapshots()?.into_iter().collect();
    Ok(from.snapshots()?.into_iter().filter(|name| !there.contains(name)).collect())
}

/// Returns the bytes of a pack from another replica, and that replica's address; `None` if no other replica gives them.
pub type PackFallback<'a> = dyn Fn(&PackInfo) -> Option<(Vec<u8>, String)> + Sync + 'a;

/// Copies snapshots. If `to` has a snapshot already and has lost some of its packs, those are sent again.
///
/// # Errors
/// As [`copy_with`].
pub fn copy(from: &Vault, to: &Vault, names: &[SnapshotName], ctx: &Context) -> Result<CopyReport> {
    copy_with(from, (to, &mut Doubts::read(&*to.store)), names, None, ctx)
}

/// As [`copy`]. Packs that are damaged or missing in `from` are taken from `elsewhere`, and doubted in `from`. Packs
/// that are in `to` already and doubted there are read whole: a snapshot that needs one that is damaged is copied all
/// the same, since `to` then has the rest of it, and is named in the report.
///
/// # Errors
/// Usage: the vaults are not replicas of one. A store that fails; being told to stop. Everything that was copied until
/// then stays. Damage is not an error, nor is a snapshot of a newer format: they are in the report.
pub fn copy_with(
    from: &Vault,
    (to, doubts): (&Vault, &mut Doubts),
    names: &[SnapshotName],
    elsewhere: Option<&PackFallback>,
    ctx: &Context,
) -> Result<CopyReport> {
    let began = Instant::now();
    from.check_same(to)?;
    let (source, target) = (from.store.url(), to.store.url());
    let doing = || format!("copy from {source} to {target}");
    let done = (|| -> Result<CopyReport> {
        let mut copying = Copying::new(from, (to, doubts), elsewhere, ctx)?;
        let names: Vec<_> = names.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        ctx.monitor.begin("copying", None);
        map_ordered(
            &names,
            ctx.parallel,
            |name| read(from, *name),
            |name, read| {
                ctx.check(&doing())?;
                match read {
                    Ok(snapshot) => copying.add(snapshot),
                    Err(why) if why.is_unusable_content() => {
                        copying.pass_over(*name, why.what(), why.kind() == Kind::Damage);
                        Ok(())
                    }
                    Err(why) => Err(why),
                }
            },
        )?;
        copying.flush()?;
        copying.doubt();
        Ok(copying.report)
    })();
    match done {
        Ok(report) => Ok(CopyReport { seconds: began.elapsed().as_secs_f64(), ..report }),
        Err(why) => {
            let why = why.within(doing());
            Err(if why.advice().is_none() { why.hint(AGAIN) } else { why })
        }
    }
}

/// A snapshot that is to be copied.
struct Snapshot {
    name: SnapshotName,
    root: Vec<u8>,
    packs: Vec<PackInfo>,
}

/// Reads a root and its list of packs.
fn read(from: &Vault, name: SnapshotName) -> Result<Snapshot> {
    let (root, bytes) = from.root_as_stored(name)?;
    let reader = PackReader::for_root(&*from.store, &root)?;
    let mut packs: Vec<_> = reader.book().values().copied().collect();
    packs.sort_by_key(|pack| pack.id);
    Ok(Snapshot { name, root: bytes, packs })
}

struct Copying<'a> {
    from: &'a Vault,
    to: &'a Vault,
    /// The doubts of `to`; `doubted` is the packs that they name.
    doubts: &'a mut Doubts,
    doubted: HashSet<PackId>,
    elsewhere: Option<&'a PackFallback<'a>>,
    ctx: &'a Context<'a>,
    /// The packs that `from` (`here`) and `to` (`there`) had when the copy began, by name with their size; `there` also
    /// gets those that were sent since.
    here: HashMap<String, u64>,
    there: HashMap<String, u64>,
    roots_there: HashSet<SnapshotName>,
    /// Packs that were found damaged, and how.
    damaged: HashMap<PackId, String>,
    /// Packs that `to` has and that are damaged there, and how.
    spoilt_there: HashMap<PackId, String>,
    /// Packs of `from` that were read whole and are not what was stored.
    spoiled: Vec<(PackInfo, String)>,
    /// Packs that the report already counts as having been there.
    counted: HashSet<PackId>,
    group: Vec<Snapshot>,
    /// The packs that the group needs and `to` lacks.
    missing: BTreeMap<PackId, PackInfo>,
    missing_bytes: u64,
    /// Bytes that were sent or will be, as far as is known.
    planned: u64,
    report: CopyReport,
}

impl<'a> Copying<'a> {
    fn new(
        from: &'a Vault,
        (to, doubts): (&'a Vault, &'a mut Doubts),
        elsewhere: Option<&'a PackFallback<'a>>,
        ctx: &'a Context,
    ) -> Result<Self> {
        Ok(Copying {
            from,
            to,
            doubted: doubts.ids(),
            doubts,
            elsewhere,
            ctx,
            here: listed(&*from.store)?,
            there: listed(&*to.store)?,
            roots_there: to.snapshots()?.into_iter().collect(),
            damaged: HashMap::new(),
            spoilt_there: HashMap::new(),
            spoiled: Vec::new(),
            counted: HashSet::new(),
            group: Vec::new(),
            missing: BTreeMap::new(),
            missing_bytes: 0,
            planned: 0,
            report: CopyReport::default(),
        })
    }

    fn pass_over(&mut self, snapshot: SnapshotName, why: String, damaged: bool) {
        self.ctx.monitor.warn(&format!("the snapshot {snapshot} is not copied: {why}"));
        self.report.not_copied.push(PassedOver { snapshot, why, damaged });
    }

    /// Adds a snapshot to the group, unless it is known that it cannot be copied.
    fn add(&mut self, snapshot: Snapshot) -> Result<()> {
        let mut missing = Vec::new();
        for pack in &snapshot.packs {
            self.test(pack)?;
            match self.look_at(pack) {
                Ok(true) => missing.push(*pack),
                Ok(false) => {}
                Err(why) => {
                    self.pass_over(snapshot.name, why, true);
                    return Ok(());
                }
            }
        }
        for pack in &snapshot.packs {
            if self.there.contains_key(&pack.name()) && self.counted.insert(pack.id) {
                self.report.objects_there += 1;
                self.report.bytes_there += pack.size;
            }
        }
        for pack in missing {
            if self.missing.insert(pack.id, pack).is_none() {
                self.missing_bytes += pack.size;
                self.planned += pack.size;
            }
        }
        self.ctx.monitor.total(self.planned);
        self.group.push(snapshot);
        let listed: usize = self.group.iter().map(|snapshot| snapshot.packs.len()).sum();
        let full = self.missing_bytes >= GROUP_BYTES || self.group.len() >= GROUP_ROOTS || listed >= GROUP_LISTED;
        if full { self.flush() } else { Ok(()) }
    }

    /// Reads a pack whole if `to` has it and it is doubted there. It cannot be replaced: objects are never changed.
    fn test(&mut self, pack: &PackInfo) -> Result<()> {
        if !self.doubted.contains(&pack.id) || self.there.get(&pack.name()) != Some(&pack.size) {
            return Ok(());
        }
        let tested = self.doubts.test(&*self.to.store, pack, &|| self.ctx.check("test packs that are doubted"))?;
        if !tested.readable {
            let why = format!("{} is damaged in {}: {}", pack.name(), self.to.store.url(), tested.state);
            self.spoilt_there.insert(pack.id, why);
        }
        Ok(())
    }

    /// Returns whether a pack is to be sent, or why it cannot be.
    fn look_at(&self, pack: &PackInfo) -> Result<bool, String> {
        let name = pack.name();
        let wrong = |vault: &Vault, size: u64| {
            format!("{name} has {size} bytes in {}, and {} were stored", vault.store.url(), pack.size)
        };
        if let Some(why) = self.damaged.get(&pack.id) {
            return Err(why.clone());
        }
        if self.missing.get(&pack.id).is_some_and(|other| other != pack) {
            return Err(format!("snapshots do not agree on the size, kind or checksum of {name}"));
        }
        match (self.there.get(&name), self.here.get(&name)) {
            (Some(size), _) if *size == pack.size => Ok(false),
            // It cannot be replaced: objects are never changed.
            (Some(size), _) => Err(wrong(self.to, *size)),
            (None, Some(size)) if *size == pack.size && pack.size <= MAX_PACK => Ok(true),
            // Another replica may have it.
            (None, _) if self.elsewhere.is_some() && pack.size <= MAX_PACK => Ok(true),
            (None, Some(size)) => Err(wrong(self.from, *size)),
            (None, None) => Err(format!("{name} is missing in {}", self.from.store.url())),
        }
    }

    /// Sends the group's missing packs, checks that everything the group needs is there, and creates its roots.
    fn flush(&mut self) -> Result<()> {
        let missing: Vec<_> = std::mem::take(&mut self.missing).into_values().collect();
        self.missing_bytes = 0;
        self.send(&missing)?;
        if !self.group.is_empty() {
            self.ctx.monitor.finishing("committing the snapshots");
        }
        let mut whole = Vec::new();
        for snapshot in std::mem::take(&mut self.group) {
            match snapshot.packs.iter().find_map(|pack| self.damaged.get(&pack.id)) {
                Some(why) => self.pass_over(snapshot.name, why.clone(), true),
                None => whole.push(snapshot),
            }
        }
        if whole.is_empty() {
            return Ok(());
        }
        let needed: BTreeMap<_, _> =
            whole.iter().flat_map(|snapshot| &snapshot.packs).map(|pack| (pack.id, pack)).collect();
        let absent: HashMap<_, _> = absent(&*self.to.store, needed.into_values())?
            .into_iter()
            .map(|(pack, why)| (pack.id, (pack, why)))
            .collect();
        for snapshot in whole {
            self.ctx.check("create the roots of the snapshots")?;
            match snapshot.packs.iter().find_map(|pack| absent.get(&pack.id)) {
                Some((pack, why)) => {
                    let why = format!("{} in {}: {why}", pack.name(), self.to.store.url());
                    self.pass_over(snapshot.name, why, true);
                }
                None => self.commit(&snapshot)?,
            }
        }
        Ok(())
    }

    fn commit(&mut self, snapshot: &Snapshot) -> Result<()> {
        let object = snapshot.name.object(SNAPSHOTS);
        let there = self.roots_there.contains(&snapshot.name)
            || match self.to.store.create(&object, &[&snapshot.root]) {
                Ok(()) => false,
                // The root's name says what its bytes are: another copy made it.
                Err(store::StoreError::AlreadyExists { .. }) => true,
                Err(why) => return Err(why.while_doing(format!("create {object} in {}", self.to.store.url()))),
            };
        if let Some(why) = snapshot.packs.iter().find_map(|pack| self.spoilt_there.get(&pack.id)) {
            let why = why.clone();
            self.ctx.monitor.warn(&format!(
                "the snapshot {} is copied, but cannot be restored whole from there: {why}",
                snapshot.name
            ));
            self.report.hurt.push(PassedOver { snapshot: snapshot.name, why, damaged: true });
        }
        if there {
            self.report.snapshots_there += 1;
        } else {
            self.report.snapshots.push(snapshot.name);
            self.report.objects += 1;
            self.report.bytes += snapshot.root.len() as u64;
        }
        Ok(())
    }

    /// Doubts, in `from`, the packs that were found damaged there: a doubt is about one vault.
    fn doubt(&mut self) {
        if self.spoiled.is_empty() {
            return;
        }
        let mut doubts = Doubts::read(&*self.from.store);
        doubts.doubt(self.from, &self.spoiled, (Finding::Copy, &self.from.user), self.ctx.random);
        doubts.warnings().iter().for_each(|what| self.ctx.monitor.warn(what));
    }
}

impl CopyReport {
    /// Whether something that is damaged kept a snapshot from being copied, or from being whole there.
    pub fn damaged(&self) -> bool {
        self.not_copied.iter().chain(&self.hurt).any(|over| over.damaged)
    }
}

/// The result of a copy, and where it came from and went to.
#[derive(Serialize)]
pub struct Copied {
    /// Address of the vault that it came from.
    pub from: String,
    /// Address of the vault that has it now too.
    pub to: String,
    /// Whether the vault at `to` was made for the copy.
    pub made: bool,
    /// The result of the copy.
    #[serde(flatten)]
    pub report: CopyReport,
}

#[cfg(test)]
mod tests;
