//! The vaults of a history, which are replicas of one: what is wrong with them, and what they hold.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use jiff::SignedDuration;
use lastgood::monitor::{Context, Silent, system_random};
use lastgood::replicas::Site;
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;
use lastgood::vault::pack::PackInfo;
use lastgood::vault::read::PackReader;
use lastgood::vault::root::{Root, SnapshotName};
use lastgood::verify::Damage;
use lastgood::{replicas, restore, verify};
use serde_json::Value;

use super::counters::Counters;
use super::oracle::{Class, Wrong};
use super::store::{Location, Trouble};
use super::tree::remove;
use crate::support::dice::Dice;

/// What a vault lacks is handed on to it by backups if it is not older than 7 days; a bit less, as clocks go on.
const HANDED_ON: SignedDuration = SignedDuration::from_hours(7 * 24 - 1);

/// One of the vaults.
struct Replica {
    folder: PathBuf,
    vault: Vault,
    /// What is wrong with it during this backup.
    trouble: Trouble,
    /// The snapshots that it had before this backup.
    before: Vec<SnapshotName>,
    /// The snapshots in it that an object was damaged under.
    spoilt: HashSet<SnapshotName>,
}

/// All of them, in the order in which they are named.
pub struct Vaults {
    all: Vec<Replica>,
    /// The one that was away last, and whether each had something then that the other one lacks.
    apart: bool,
    /// By how much their clock is ahead, in seconds.
    pub ahead: i64,
}

fn context(stop: &AtomicBool) -> Context<'_> {
    Context { random: &system_random, threads: 2, parallel: 2, stop, monitor: &Silent }
}

fn away(folder: &Path) -> PathBuf {
    folder.with_extension("away")
}

impl Vaults {
    /// So many new ones.
    pub fn new(folder: &Path, count: u64) -> Self {
        let mut all: Vec<Replica> = Vec::new();
        for n in 0..count {
            let folder = folder.join(format!("vault{n}"));
            let store = Box::new(LocalStore::new(&folder));
            let vault = match all.first() {
                None => Vault::init(store, system_random).unwrap(),
                Some(first) => first.vault.replicate(store).unwrap(),
            };
            all.push(Replica { folder, vault, trouble: Trouble::None, before: Vec::new(), spoilt: HashSet::new() });
        }
        Vaults { all, apart: false, ahead: 0 }
    }

    /// The folder of the first one.
    pub fn folder(&self) -> &Path {
        &self.all[0].folder
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// As the engine is given them.
    pub fn locations(&self) -> Vec<Location> {
        self.all.iter().map(|at| Location { folder: at.folder.clone(), trouble: at.trouble }).collect()
    }

    /// Whether a backup may fail: the only vault is in trouble.
    pub fn may_fail(&self) -> bool {
        self.all.iter().all(|at| at.trouble != Trouble::None)
    }

    /// Whether a checkpoint is there that the next backup goes on from.
    pub fn resumes(&self) -> bool {
        let newest = |names: Vec<SnapshotName>| names.last().map_or(0, |name| name.seq);
        let resumes = |at: &Replica| newest(at.vault.checkpoints().unwrap()) > newest(at.vault.snapshots().unwrap());
        self.all.iter().any(resumes)
    }

    /// What is wrong during the next backup.
    pub fn trouble(&mut self, dice: &mut Dice, counters: &mut Counters) {
        for at in &mut self.all {
            at.trouble = Trouble::None;
        }
        let chosen = dice.roll(self.count()) as usize;
        let trouble = match dice.roll(30) {
            0 | 1 => Trouble::Full(dice.roll(4)),
            2..=6 if self.count() > 1 => Trouble::Unreachable,
            7..=11 if self.count() > 1 => Trouble::Broken,
            12..=16 if self.count() > 1 => Trouble::Unmounted,
            _ => Trouble::None,
        };
        self.all[chosen].trouble = trouble;
        for at in &mut self.all {
            at.before = at.vault.snapshots().unwrap();
            if at.trouble == Trouble::Unmounted {
                fs::rename(&at.folder, away(&at.folder)).unwrap();
                at.before.clear();
            }
        }
        match trouble {
            Trouble::None | Trouble::Full(_) => {}
            Trouble::Unmounted => counters.count("vaults not mounted"),
            Trouble::Unreachable | Trouble::Broken => counters.count("vaults away"),
        }
    }

    /// The trouble is over.
    pub fn mend(&mut self, counters: &mut Counters) {
        for at in &mut self.all {
            if std::mem::replace(&mut at.trouble, Trouble::None) == Trouble::Unmounted {
                remove(&at.folder);
                fs::rename(away(&at.folder), &at.folder).unwrap();
            }
        }
        let names: Vec<HashSet<_>> = self.all.iter().map(|at| names(&at.vault).into_iter().collect()).collect();
        let lacks = |one: &HashSet<_>| names.iter().any(|other| !other.is_subset(one));
        match (std::mem::replace(&mut self.apart, names.iter().all(lacks)), self.apart) {
            (false, true) => counters.count("vaults apart"),
            (true, false) if names.windows(2).all(|two| two[0] == two[1]) => counters.count("vaults together again"),
            _ => {}
        }
    }

    /// All snapshots that any of them has.
    pub fn names(&self) -> Vec<SnapshotName> {
        let mut all: Vec<_> = self.all.iter().flat_map(|at| names(&at.vault)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The snapshots that a vault had before this backup, oldest first, if this backup's report says that it took that one;
    /// whether something was damaged under each.
    pub fn before(&self, report: &Value) -> Vec<(SnapshotName, bool)> {
        let taken = self.all.iter().find(|at| report["vault"] == at.folder.display().to_string()).unwrap();
        taken.before.iter().map(|name| (*name, taken.spoilt.contains(name))).collect()
    }

    /// Whether a vault holds a snapshot under which nothing was damaged.
    pub fn is_sound(&self, name: SnapshotName) -> bool {
        self.all.iter().any(|at| !at.spoilt.contains(&name) && names(&at.vault).contains(&name))
    }

    /// A snapshot's root.
    pub fn root(&self, name: SnapshotName) -> Root {
        self.all.iter().find_map(|at| at.vault.root(name).ok()).unwrap()
    }

    /// A folder of a vault that has a snapshot.
    pub fn with(&self, name: SnapshotName) -> &Path {
        &self.all.iter().find(|at| names(&at.vault).contains(&name)).unwrap().folder
    }

    /// Restores what a name stands for, as with all vaults; gives which snapshot that was.
    pub fn restore(&self, snapshot: &str, target: &Path) -> Result<SnapshotName, String> {
        remove(target);
        let stop = AtomicBool::new(false);
        let look = |at: &Replica| {
            let url = at.folder.display().to_string();
            Site::look(url, false, Ok(Box::new(LocalStore::new(&at.folder))))
        };
        let options = restore::Options {
            snapshot: snapshot.to_owned(),
            target: target.to_owned(),
            paths: Vec::new(),
            in_place: false,
            skip_damaged: false,
        };
        let sites = self.all.iter().map(look).collect();
        let done = replicas::restore::restore(sites, &options, &context(&stop));
        done.map(|report| report.restored.snapshot).map_err(|why| why.to_string())
    }

    fn verify_one(&self, at: usize) -> lastgood::error::Result<verify::Report> {
        let stop = AtomicBool::new(false);
        let options = verify::Options { read_data: Some(100.0), databases: None };
        verify::verify(&self.all[at].vault, &options, &context(&stop))
    }

    /// Verifies all, and tells what is damaged that nobody damaged.
    pub fn verify(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for (n, at) in self.all.iter().enumerate() {
            let held = names(&at.vault);
            let hurts = |damage: &&Damage| {
                at.spoilt.is_empty() || damage.snapshots.iter().any(|name| held.contains(name) && !at.spoilt.contains(name))
            };
            match self.verify_one(n) {
                Ok(report) => {
                    let found: Vec<_> = report.damage.iter().filter(hurts).collect();
                    if !found.is_empty() {
                        wrong.push(Wrong::new(Class::Verify, format!("vault {n}: {found:?}")));
                    }
                }
                Err(why) => wrong.push(Wrong::new(Class::Verify, format!("vault {n}: {why}"))),
            }
        }
        wrong
    }

    /// Damages a pack that the newest snapshot of a vault names, and has that found: the next snapshot must be whole all the
    /// same. Now and then the pack is what it was again before the next backup: the doubt is wrong then, and nothing is lost.
    pub fn damage(&mut self, dice: &mut Dice, counters: &mut Counters) -> Option<String> {
        let chosen = dice.roll(self.count()) as usize;
        let vault = &self.all[chosen].vault;
        let newest = names(vault).pop()?;
        let packs = PackReader::for_root(&*vault.store, &vault.root(newest).unwrap()).unwrap();
        let mut all: Vec<_> = packs.book().values().map(PackInfo::name).collect();
        all.sort();
        let name = all.swap_remove(dice.roll(all.len() as u64) as usize);
        let path = self.all[chosen].folder.join(&name);
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        let at = dice.roll(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << dice.roll(8);
        let put = |bytes: Vec<u8>| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        };
        put(bytes);
        let found = self.verify_one(chosen).unwrap();
        assert!(found.damage.iter().any(|damage| damage.object == name), "{:?}", found.damage);
        if dice.roll(3) == 0 {
            put(sound);
            counters.count("wrong doubts");
            return Some(format!("{name} of vault {chosen} was read as damaged at {at}, and is not"));
        }
        counters.count("damaged packs");
        let held = names(&self.all[chosen].vault);
        self.all[chosen].spoilt.extend(held);
        Some(format!("{name} of vault {chosen} is damaged at {at}"))
    }

    /// What the vaults hold after a backup, as its report says it and as it must be.
    pub fn held(&self, name: SnapshotName, report: &Value) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let mut tell = |what: String| wrong.push(Wrong::new(Class::Replicas, what));
        let before = self.all.iter().flat_map(|at| &at.before).max();
        if before.is_some_and(|before| *before >= name) {
            tell(format!("{name} is not newer than {before:?}"));
        }
        let quiet = self.all.iter().all(|at| at.trouble == Trouble::None);
        let held: Vec<Vec<_>> = self.all.iter().map(|at| names(&at.vault)).collect();
        for (n, at) in self.all.iter().enumerate() {
            let said = &report["vaults"][n];
            let away = matches!(at.trouble, Trouble::Unreachable | Trouble::Broken);
            if said["holds"] != held[n].contains(&name) || away && said["holds"] == true {
                tell(format!("vault {n}, {:?}: {said}, and it has {:?}", at.trouble, held[n].last()));
            }
            if at.trouble == Trouble::None && said["holds"] != true {
                tell(format!("vault {n} lacks {name}: {said}"));
            }
        }
        // What one that is new, or was away for long, lacks of older ones is not handed on; nor is what is damaged.
        let first = held.iter().filter_map(|names| names.first()).max();
        let lost = |name: &SnapshotName| self.all.iter().any(|at| at.spoilt.contains(name));
        let shared = |held: &SnapshotName| {
            Some(held) >= first && name.time.duration_since(held.time) < HANDED_ON && !lost(held)
        };
        for other in self.names().into_iter().filter(|name| quiet && shared(name)) {
            if let Some(n) = held.iter().position(|names| !names.contains(&other)) {
                tell(format!("vault {n} lacks {other} after all were there"));
            }
        }
        wrong
    }
}

/// The snapshots of a vault, oldest first.
fn names(vault: &Vault) -> Vec<SnapshotName> {
    vault.snapshots().unwrap()
}
