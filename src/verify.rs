//! Verifies that everything that any snapshot needs is in the vault, and is what was stored.
//!
//! Every pack that a root or checkpoint lists is read and compared with its size and CRC32C; every hunk, map and list
//! is decoded, compared with its hash, and must name only packs that its root lists. The entries of every snapshot are
//! checked as a restore checks them, by the same code. Everything that snapshots share is read once. With `read_data`,
//! files are decoded and hashed too. Damage is collected: one broken object hides no other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::parallel::ordered::map_ordered;
use crate::store::{Store, Traffic};
use crate::vault::doubt::Doubts;
use crate::vault::frame::FrameRef;
use crate::vault::hex::PackId;
use crate::vault::pack::PackInfo;
use crate::vault::read::{PackReader, absent_of, listed};
use crate::vault::root::{CHECKPOINTS, MAX_ROOT, PackBook, Root, SNAPSHOTS, SnapshotName};
use crate::vault::state::{self, PackState};
use crate::vault::tree::HunkSummary;
use crate::vault::{CONFIG, Vault, VaultUser};

mod data;
mod databases;
mod doubts;
mod entries;
mod found;
mod objects;

pub use self::databases::Restored;
pub use self::doubts::{DoubtedPack, Looked, StandingDoubt};
pub use self::found::Damage;
use self::found::DamageBook;
pub use self::objects::check as check_objects;

/// Bytes of roots, as they are stored, that are kept until their entries are checked; further roots are read again.
const KEPT: u64 = 32 << 20;

/// How thoroughly to verify.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VerifyOptions {
    /// Decode and hash this percentage of the files, chosen at random.
    pub read_data: Option<f64>,
    /// Restore the databases of this snapshot to a temporary folder, and have SQLite check them.
    pub databases: Option<String>,
}

/// The newest good snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NewestGood {
    /// Its name.
    pub snapshot: SnapshotName,
    /// Whether some damage concerns it.
    pub hurt: bool,
}

/// The root of a snapshot or checkpoint that a newer lastgood wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewerFormat {
    /// The name of its object.
    pub object: String,
    /// The format that it has, and the one that this program reads.
    pub why: String,
}

/// The result of verifying a vault.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Number of snapshots.
    pub snapshots: u64,
    /// Number of checkpoints: what unfinished backups left for the next one.
    pub checkpoints: u64,
    /// The newest good snapshot of those that can be read, which is the one that a restore takes. `None` if there is none, or
    /// if a newer snapshot is of a newer format: it may be good, and a restore refuses to take an older one.
    pub newest_good: Option<NewestGood>,
    /// Number of objects that they reach, including the roots and `vault.json`.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Number of files that were decoded and hashed.
    pub files_read: u64,
    /// Number of packs that no root and no checkpoint names: from backups that are under way or broke off, and from
    /// roots that cannot be read. They are not damage.
    pub unused: u64,
    /// Bytes of these packs.
    pub unused_bytes: u64,
    /// Snapshots that others were made from and that are not here: let go, lost, or never copied here. They are not
    /// damage: no other snapshot needs them.
    pub gaps: Vec<SnapshotName>,
    /// Roots that a newer lastgood wrote. Nothing that they reach was verified.
    pub newer_format: Vec<NewerFormat>,
    /// The damage that was found.
    pub damage: Vec<Damage>,
    /// The doubts that stand in the vault at the end: hints that packs are damaged; those that were found wrong have
    /// been lifted.
    pub doubts: Vec<StandingDoubt>,
    /// The databases that were restored and checked.
    pub databases: Vec<Restored>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The requests and bytes of the store since it was opened, if they are counted, as they are for a bucket.
    #[serde(flatten)]
    pub traffic: Option<Traffic>,
}

/// Verifies the vault in `store`, which may be one that cannot be opened: a damaged or missing `vault.json` is reported
/// as damage.
///
/// # Errors
/// As [`verify`]; and if there is no vault at all.
pub fn verify_store(store: Box<dyn Store>, options: &VerifyOptions, ctx: &Context) -> Result<VerifyReport> {
    verify_store_for(&VaultUser::default(), store, options, ctx)
}

/// As [`verify_store`], for `user`, whose name goes into what is written down about the vault's packs.
///
/// # Errors
/// As [`verify_store`].
pub fn verify_store_for(
    user: &VaultUser,
    store: Box<dyn Store>,
    options: &VerifyOptions,
    ctx: &Context,
) -> Result<VerifyReport> {
    let began = Instant::now();
    // Opening takes the store away, even when it fails; verifying reads `vault.json` once more for its text.
    let names: Vec<_> = store.list(SNAPSHOTS).map(|l| l.into_iter().map(|o| o.name).collect()).unwrap_or_default();
    match Vault::open(store) {
        Ok(vault) => verify(&Vault { user: user.clone(), ..vault }, options, ctx),
        Err(why) if why.kind() == Kind::Damage => {
            let snapshots = names.iter().filter_map(|name| SnapshotName::parse_object(SNAPSHOTS, name)).collect();
            let damage = vec![Damage { object: CONFIG.into(), why: why.what(), snapshots }];
            let seconds = began.elapsed().as_secs_f64();
            Ok(VerifyReport { objects: 1, damage, seconds, ..VerifyReport::default() })
        }
        Err(why) => Err(why),
    }
}

/// Verifies everything that any snapshot or checkpoint reaches. Packs whose bytes are wrong are doubted, so that the
/// next backup stores their content again and builds on them no more, and doubts that are wrong are lifted where that is
/// permitted.
///
/// # Errors
/// Failed: a store that cannot be read. Damage is not an error, nor is a root of a newer format: they are in the report.
pub fn verify(vault: &Vault, options: &VerifyOptions, ctx: &Context) -> Result<VerifyReport> {
    let began = Instant::now();
    let mut state = Verifier {
        vault,
        ctx,
        found: DamageBook::default(),
        reader: PackReader::new(&*vault.store, PackBook::default()),
        packs: PackBook::default(),
        disputed: BTreeMap::new(),
        spoiled: Vec::new(),
        hunks: HashMap::new(),
        maps: HashMap::new(),
        sample: data::FileSampler::new(options.read_data, ctx)?,
        files_read: 0,
    };
    state.config()?;
    let before = Doubts::read(&*vault.store);
    let (mut snapshots, mut checkpoints, mut objects, mut bytes) = (0, 0, 1, 0);
    let (mut roots, mut newest_good, mut complete) = (Vec::new(), None, true);
    let (mut there, mut parents) = (HashSet::new(), BTreeSet::new());
    let (mut newer_format, mut newest_unread) = (Vec::new(), None);
    let (mut known, mut kept) = (HashMap::new(), 0);
    for folder in [SNAPSHOTS, CHECKPOINTS] {
        let listed = vault.store.list(folder).map_err(|e| e.while_doing(format!("list {folder}")))?;
        let (mut names, mut sizes) = (Vec::new(), HashMap::new());
        for object in listed {
            let Some(name) = SnapshotName::parse_object(folder, &object.name) else { continue };
            there.insert(object.name);
            (objects, bytes) = (objects + 1, bytes + object.size);
            sizes.insert(name, object.size);
            names.push((folder, name));
        }
        *(if folder == SNAPSHOTS { &mut snapshots } else { &mut checkpoints }) = names.len() as u64;
        each_root(vault, &names, ctx, |name, root| match root {
            Ok(root) => {
                parents.extend(root.parent.filter(|_| folder == SNAPSHOTS));
                if folder == SNAPSHOTS && root.good() {
                    newest_good = newest_good.max(Some(name));
                }
                if !state.record_packs(name, &root)? {
                    complete = false;
                    return Ok(());
                }
                roots.push((folder, name));
                let size = sizes.get(&name).copied().unwrap_or(MAX_ROOT);
                if kept + size <= KEPT {
                    kept += size;
                    known.insert((folder, name), root);
                }
                Ok(())
            }
            Err(why) if why.is_newer_format() => {
                complete = false;
                newest_unread = newest_unread.max(Some(name).filter(|_| folder == SNAPSHOTS));
                newer_format.push(NewerFormat { object: name.object(folder), why: why.why().to_owned() });
                Ok(())
            }
            Err(why) => {
                complete = false;
                state.found.add(&name.object(folder), [name], why)
            }
        })?;
    }
    parents.retain(|parent: &SnapshotName| !there.contains(&parent.object(SNAPSHOTS)));
    let gaps: Vec<_> = parents.into_iter().collect();
    if !gaps.is_empty() {
        let what = "snapshots that later ones were made from are not in the vault: let go, lost, or never copied here";
        ctx.monitor.warn(&format!("{} {what}", gaps.len()));
    }
    state.settle_disputes()?;
    let (unused, unused_bytes) = state.objects()?;
    ctx.monitor.finishing("checking the entries");
    let read = |(folder, name): &(&str, SnapshotName)| match known.contains_key(&(*folder, *name)) {
        true => None,
        false => Some(read_root(vault, folder, *name)),
    };
    if state.sample.selects_any() {
        // How many bytes these files have shows only when their entries are read.
        ctx.monitor.begin("reading files", None);
    }
    map_ordered(&roots, ctx.parallel, read, |at, again| {
        ctx.check("verify the vault")?;
        match again {
            Some(root) => state.entries(at.1, &root?),
            None => known.get(at).map_or(Ok(()), |root| state.entries(at.1, root)),
        }
    })?;
    objects += state.packs.len() as u64;
    bytes += state.packs.values().map(|pack| pack.size).sum::<u64>();
    let files_read = state.files_read;
    for (object, what) in state.reader.mended() {
        if !state.found.has(&object) {
            ctx.monitor.warn(&what);
        }
    }
    let sound: Vec<_> = match before.standing() {
        [] => Vec::new(),
        _ => state.packs.values().filter(|pack| !state.found.has(&pack.name())).copied().collect(),
    };
    let doubts = doubts::settle(vault, (&state.packs, complete), &before, (&sound, &state.spoiled), ctx)?;
    let damage = state.into_damage(&roots);
    let is_hurt = |name| damage.iter().any(|damage| damage.snapshots.contains(&name));
    let newest_good = newest_good.filter(|snapshot| newest_unread < Some(*snapshot));
    let newest_good = newest_good.map(|snapshot| NewestGood { snapshot, hurt: is_hurt(snapshot) });
    let databases = match &options.databases {
        Some(snapshot) => match databases::check(vault, snapshot, ctx) {
            Err(why) if why.is_newer_format() => {
                ctx.monitor.warn(&format!("no databases are checked: {}", why.what()));
                Vec::new()
            }
            checked => checked?,
        },
        None => Vec::new(),
    };
    let (seconds, traffic) = (began.elapsed().as_secs_f64(), vault.store.traffic());
    Ok(VerifyReport {
        snapshots,
        checkpoints,
        newest_good,
        objects,
        bytes,
        files_read,
        unused,
        unused_bytes,
        gaps,
        newer_format,
        damage,
        doubts,
        databases,
        seconds,
        traffic,
    })
}

/// Calls `take` with every root of these folders and names, in order, or with the reason why it cannot be read; the
/// next roots are read meanwhile.
fn each_root(
    vault: &Vault,
    names: &[(&str, SnapshotName)],
    ctx: &Context,
    mut take: impl FnMut(SnapshotName, Result<Root>) -> Result<()>,
) -> Result<()> {
    map_ordered(
        names,
        ctx.parallel,
        |(folder, name)| read_root(vault, folder, *name),
        |(_, name), root| {
            ctx.check("verify the vault")?;
            take(*name, root)
        },
    )
}

fn read_root(vault: &Vault, folder: &str, name: SnapshotName) -> Result<Root> {
    match folder {
        SNAPSHOTS => vault.root(name),
        _ => vault.checkpoint(name),
    }
}

struct Verifier<'a> {
    vault: &'a Vault,
    ctx: &'a Context<'a>,
    found: DamageBook,
    /// Keeps what roots share.
    reader: PackReader<'a>,
    packs: PackBook,
    /// Other roots' claims about some of these packs.
    disputed: BTreeMap<PackId, Vec<PackInfo>>,
    /// Packs that were read whole and are not what was stored.
    spoiled: Vec<(PackInfo, String)>,
    /// The hunks that were read.
    hunks: HashMap<FrameRef, CheckedHunk>,
    /// For each frame of a map that was read: how many bytes of a file it covers, and the packs that it names.
    maps: HashMap<FrameRef, (u64, Box<[PackId]>)>,
    /// Decides which files are read.
    sample: data::FileSampler,
    files_read: u64,
}

/// The facts about a hunk that has been read.
struct CheckedHunk {
    /// The packs that it names.
    packs: Box<[PackId]>,
    summary: HunkSummary,
}

impl VerifyReport {
    /// Whether everything that was verified is as it should be.
    pub fn sound(&self) -> bool {
        self.damage.is_empty() && self.databases.iter().all(|database| database.failed.is_none())
    }
}

impl Verifier<'_> {
    fn config(&mut self) -> Result<()> {
        let doing = "read vault.json";
        let bytes = match self.vault.store.get(CONFIG, MAX_ROOT) {
            Ok(bytes) => bytes,
            Err(why) => return self.found.add(CONFIG, self.vault.snapshots()?, why.while_doing(doing)),
        };
        match crate::vault::VaultConfig::parse(&bytes) {
            Ok(_) => Ok(()),
            Err(why) => self.found.add(CONFIG, self.vault.snapshots()?, why.while_doing(doing)),
        }
    }

    /// Records the packs that a root lists. Returns whether the list can be read.
    fn record_packs(&mut self, name: SnapshotName, root: &Root) -> Result<bool> {
        let packs = match self.reader.for_another(root) {
            Ok(packs) => packs,
            Err(why) => {
                root.holders().for_each(|pack| _ = self.packs.entry(pack.id).or_insert(*pack));
                // Which object is damaged shows when the holders are read; the root is hurt in any case.
                let object = root.packs.holders.first().map_or(name.object(SNAPSHOTS), PackInfo::name);
                self.found.add(&object, [name], why)?;
                return Ok(false);
            }
        };
        for (id, info) in packs.book() {
            let known = self.packs.entry(*id).or_insert(*info);
            if known != info {
                let others = self.disputed.entry(*id).or_default();
                if !others.contains(info) {
                    others.push(*info);
                }
            }
        }
        Ok(true)
    }

    /// Finds out which root is right where roots do not agree on the size, kind or checksum of a pack: the other roots
    /// are wrong, and the pack is not.
    fn settle_disputes(&mut self) -> Result<()> {
        for (id, others) in &self.disputed {
            let mut claims = self.packs.get(id).into_iter().chain(others);
            let right = claims.try_fold(None, |right, claim| -> Result<_> {
                self.ctx.check("verify the vault")?;
                Ok(match right {
                    None if state::test(&*self.vault.store, claim)?.is_sound() => Some(*claim),
                    right => right,
                })
            })?;
            self.packs.extend(right.map(|right| (*id, right)));
        }
        Ok(())
    }

    /// Reads every pack whole. Returns the number of packs that no root names, and their bytes.
    fn objects(&mut self) -> Result<(u64, u64)> {
        let store = &*self.vault.store;
        let listed = listed(store)?;
        let is_unused =
            |(name, size): &(&String, &u64)| PackState::of_object(name, **size, &self.packs) == PackState::Orphan;
        let unused = listed.iter().filter(is_unused);
        let unused = unused.fold((0, 0), |(count, bytes), (_, size)| (count + 1, bytes + size));
        let absent = absent_of(&listed, self.packs.values());
        let skip: HashSet<PackId> = absent.iter().map(|(info, _)| info.id).collect();
        for (info, state) in absent {
            let why = state.explained(store, &info);
            self.found.add(&info.name(), [], Error::damage(format!("verify {}", info.name()), why))?;
        }
        let mut packs: Vec<_> = self.packs.values().filter(|info| !skip.contains(&info.id)).collect();
        packs.sort_by_key(|info| info.id);
        for (info, why) in objects::check(store, &packs, self.ctx) {
            let why = self.explained(info, why)?;
            self.spoiled.push((*info, why.what()));
            self.found.add(&info.name(), [], why)?;
        }
        Ok(unused)
    }

    /// Explains what is wrong with a pack, and whether a restore gets its content all the same.
    fn explained(&self, info: &PackInfo, why: Error) -> Result<Error> {
        if why.kind() != Kind::Damage {
            return Ok(why);
        }
        match self.reader.with([*info]).table(info.id, info.kind) {
            Err(other) if other.kind() != Kind::Damage => return Err(other),
            _ => {}
        }
        Ok(match self.reader.mended().remove(&info.name()) {
            Some(mended) => Error::damage(format!("verify {}", info.name()), mended),
            None => why,
        })
    }

    /// Returns the damage, each with all snapshots that it hurts.
    fn into_damage(mut self, roots: &[(&str, SnapshotName)]) -> Vec<Damage> {
        let broken: Vec<(PackId, String)> = self
            .packs
            .values()
            .filter(|info| self.found.has(&info.name()))
            .map(|info| (info.id, info.name()))
            .collect();
        if !broken.is_empty() {
            for (folder, name) in roots {
                let root = if *folder == SNAPSHOTS { self.vault.root(*name) } else { self.vault.checkpoint(*name) };
                let Ok(packs) = root.and_then(|root| self.reader.for_another(&root)) else { continue };
                for (_, object) in broken.iter().filter(|(id, _)| packs.book().contains_key(id)) {
                    self.found.hurts(object, *name);
                }
            }
        }
        self.found.damage()
    }
}

#[cfg(test)]
mod tests;
