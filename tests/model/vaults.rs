//! The vaults of a history, which are replicas of one: what is wrong with them, and what they hold.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use jiff::SignedDuration;
use lastgood::error::Kind;
use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::replicas::{self, Site};
use lastgood::restore;
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;
use lastgood::vault::pack::PackInfo;
use lastgood::vault::read::PackReader;
use lastgood::vault::root::{Root, SnapshotName};
use lastgood::verify::{self, Damage};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::Value;

use super::counters::Counters;
use super::oracle::{Class, Wrong};
use super::store::{Location, VaultFault};
use super::tree::remove;
use crate::support::requirements::skipped;
use crate::support::seeded_random::Dice;

/// Backups hand on to a vault the snapshots that it lacks and that are not older than 7 days; a bit less, as clocks go on.
const HANDED_ON: SignedDuration = SignedDuration::from_hours(7 * 24 - 1);

/// One of the vaults.
struct Replica {
    folder: PathBuf,
    vault: Vault,
    /// Its fault during this backup.
    fault: VaultFault,
    /// The snapshots that it had before this backup.
    before: Vec<SnapshotName>,
    /// Its packs that are damaged.
    damaged: HashSet<String>,
}

/// All of them, in the order in which they are named.
pub struct Vaults {
    all: Vec<Replica>,
    /// Whether each has something that the other one lacks.
    apart: bool,
    /// The disk of the last one, where it can have one of its own.
    disk: Option<Disk>,
    /// Packs that were damaged, or looked so.
    damages: u64,
    /// The packs that each snapshot names.
    named: HashMap<SnapshotName, HashSet<String>>,
    /// By how much their clock is ahead, in seconds.
    pub ahead: i64,
}

/// A small disk.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts one at `folder`, if that may be done.
    fn new(folder: PathBuf) -> Option<Self> {
        fs::create_dir(&folder).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256m", "tmpfs"]).arg(&folder).output();
        if mount.as_ref().is_ok_and(|done| done.status.success()) {
            return Some(Disk { folder });
        }
        skipped("mount", &format!("no small disk can be mounted: {mount:?}"));
        None
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Leaves room for this many bytes.
    fn fill(&self, left: u64) {
        let ballast = fs::File::create(self.ballast()).unwrap();
        let stat = statvfs(&self.folder).unwrap();
        let free = (stat.f_bavail * stat.f_frsize).saturating_sub(left);
        if free > 0 {
            fallocate(&ballast, FallocateFlags::empty(), 0, free).unwrap();
        }
    }

    fn clear(&self) {
        if self.ballast().exists() {
            fs::remove_file(self.ballast()).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nobody needs it any more.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

fn context(stop: &AtomicBool) -> Context<'_> {
    Context { random: &system_random, threads: 2, parallel: 2, stop, monitor: &SilentMonitor }
}

fn away(folder: &Path) -> PathBuf {
    folder.with_extension("away")
}

impl Vaults {
    /// Makes `count` new vaults.
    pub fn new(folder: &Path, count: u64) -> Self {
        let mut all: Vec<Replica> = Vec::new();
        let disk = Disk::new(folder.join("disk"));
        for n in 0..count {
            let folder = if n + 1 == count { folder.join("disk") } else { folder.to_owned() };
            let folder = folder.join(format!("vault{n}"));
            let store = Box::new(LocalStore::new(&folder));
            let vault = match all.first() {
                None => Vault::init(store, system_random).unwrap(),
                Some(first) => first.vault.replicate(store).unwrap(),
            };
            all.push(Replica { folder, vault, fault: VaultFault::None, before: Vec::new(), damaged: HashSet::new() });
        }
        Vaults { all, apart: false, disk, damages: 0, named: HashMap::new(), ahead: 0 }
    }

    /// Returns the folder of the first one.
    pub fn folder(&self) -> &Path {
        &self.all[0].folder
    }

    /// Returns how many there are.
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// Returns the locations as the engine is given them.
    pub fn locations(&self) -> Vec<Location> {
        self.all.iter().map(|at| Location { folder: at.folder.clone(), fault: at.fault }).collect()
    }

    /// Whether a backup may fail, since the only vault has a fault, and the counter of that.
    pub fn may_fail(&self) -> Option<&'static str> {
        match self.all[..] {
            [Replica { fault: VaultFault::Tight(_), .. }] => Some("disks without room"),
            [Replica { fault: VaultFault::Full(_), .. }] => Some("full disks"),
            _ => None,
        }
    }

    /// Whether disks can really be full.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Whether a checkpoint is there that the next backup goes on from.
    pub fn resumes(&self) -> bool {
        let newest = |names: Vec<SnapshotName>| names.last().map_or(0, |name| name.seq);
        let resumes = |at: &Replica| newest(at.vault.checkpoints().unwrap()) > newest(at.vault.snapshots().unwrap());
        self.all.iter().any(resumes)
    }

    /// Chooses the faults during the next backup; `full`: a disk is full in any case; `undisturbed`: there is no other fault.
    pub fn choose_faults(&mut self, full: bool, undisturbed: bool, dice: &mut Dice, counters: &mut Counters) {
        for at in &mut self.all {
            at.fault = VaultFault::None;
        }
        let mut chosen = dice.roll(self.count()) as usize;
        let fault = match dice.roll(30) {
            _ if full => VaultFault::Full(dice.roll(2)),
            _ if undisturbed => VaultFault::None,
            0 => VaultFault::Full(dice.roll(4)),
            1 | 2 if self.disk.is_some() => {
                chosen = self.all.len() - 1;
                VaultFault::Tight(dice.roll(200) * 4096)
            }
            2..=6 if self.count() > 1 => VaultFault::Unreachable,
            7..=11 if self.count() > 1 => VaultFault::Broken,
            12..=16 if self.count() > 1 => VaultFault::Unmounted,
            _ => VaultFault::None,
        };
        self.all[chosen].fault = fault;
        for at in &mut self.all {
            at.before = at.vault.snapshots().unwrap();
            if at.fault == VaultFault::Unmounted {
                fs::rename(&at.folder, away(&at.folder)).unwrap();
                at.before.clear();
            }
        }
        if let (VaultFault::Tight(left), Some(disk)) = (fault, &self.disk) {
            disk.fill(left);
        }
        match fault {
            VaultFault::None | VaultFault::Full(_) | VaultFault::Tight(_) => {}
            VaultFault::Unmounted => counters.count("vaults not mounted"),
            VaultFault::Unreachable | VaultFault::Broken => counters.count("vaults away"),
        }
    }

    /// Ends the faults.
    pub fn mend(&mut self, counters: &mut Counters) {
        self.disk.iter().for_each(Disk::clear);
        for at in &mut self.all {
            if std::mem::replace(&mut at.fault, VaultFault::None) == VaultFault::Unmounted {
                remove(&at.folder);
                fs::rename(away(&at.folder), &at.folder).unwrap();
            }
        }
        let lacking = self.lacking();
        let all_lack = lacking.iter().all(|lacking| !lacking.is_empty());
        match (self.apart, all_lack) {
            (false, true) if self.count() > 1 => counters.count("vaults apart"),
            (true, _) if lacking.iter().all(Vec::is_empty) => counters.count("vaults together again"),
            _ => {}
        }
        self.apart = all_lack || self.apart && !lacking.iter().all(Vec::is_empty);
    }

    /// Returns the snapshots that each lacks and the others have, and that it has to get with the next backup when all are
    /// there. A vault that is new, or was away for long, does not get older ones; damaged ones are not handed on either.
    fn lacking(&self) -> Vec<Vec<SnapshotName>> {
        let held: Vec<Vec<_>> = self.all.iter().map(|at| names(&at.vault)).collect();
        let (all, first) = (self.names(), held.iter().filter_map(|names| names.first()).max());
        let lost = |name: &SnapshotName| self.all.iter().any(|at| self.is_spoilt(at, *name));
        let recent =
            |name: &SnapshotName| all.last().is_some_and(|last| last.time.duration_since(name.time) < HANDED_ON);
        let due: Vec<_> = all.iter().filter(|name| Some(*name) >= first && recent(name) && !lost(name)).collect();
        let lacks = |held: &Vec<_>| due.iter().filter(|name| !held.contains(**name)).map(|name| **name).collect();
        held.iter().map(lacks).collect()
    }

    /// Returns all snapshots that any of them has.
    pub fn names(&self) -> Vec<SnapshotName> {
        let mut all: Vec<_> = self.all.iter().flat_map(|at| names(&at.vault)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Returns the snapshots that a vault had before this backup, oldest first, if this backup's report says that it took
    /// that one; whether something was damaged under each.
    pub fn before(&self, report: &Value) -> Vec<(SnapshotName, bool)> {
        let taken = self.all.iter().find(|at| report["vault"] == at.folder.display().to_string()).unwrap();
        taken.before.iter().map(|name| (*name, self.is_spoilt(taken, *name))).collect()
    }

    /// Whether a snapshot names a pack that is damaged in this vault.
    fn is_spoilt(&self, at: &Replica, name: SnapshotName) -> bool {
        self.named.get(&name).is_some_and(|named| !named.is_disjoint(&at.damaged))
    }

    /// Whether a vault holds a snapshot under which nothing was damaged.
    pub fn is_sound(&self, name: SnapshotName) -> bool {
        self.all.iter().any(|at| !self.is_spoilt(at, name) && names(&at.vault).contains(&name))
    }

    /// Returns a snapshot's root.
    pub fn root(&self, name: SnapshotName) -> Root {
        self.all.iter().find_map(|at| at.vault.root(name).ok()).unwrap()
    }

    /// Returns the folder of a vault that has all of a snapshot.
    pub fn with(&self, name: SnapshotName) -> Option<&Path> {
        let sound = |at: &&Replica| names(&at.vault).contains(&name) && !self.is_spoilt(at, name);
        self.all.iter().find(sound).map(|at| &*at.folder)
    }

    /// Restores what a name stands for, as with all vaults; gives which snapshot that was.
    pub fn restore(&self, snapshot: &str, target: &Path) -> Result<SnapshotName, String> {
        remove(target);
        let stop = AtomicBool::new(false);
        let look = |at: &Replica| {
            let url = at.folder.display().to_string();
            Site::probe(url, false, Ok(Box::new(LocalStore::new(&at.folder))))
        };
        let options = restore::options::RestoreOptions {
            snapshot: snapshot.to_owned(),
            ..restore::options::RestoreOptions::latest(target.to_owned())
        };
        let sites = self.all.iter().map(look).collect();
        let done = replicas::restore::restore(sites, &options, &context(&stop));
        done.map(|report| report.restored.snapshot).map_err(|why| why.to_string())
    }

    fn verify_one(&self, at: usize) -> lastgood::error::Result<verify::VerifyReport> {
        let stop = AtomicBool::new(false);
        let options = verify::VerifyOptions { read_data: Some(100.0), databases: None };
        verify::verify(&self.all[at].vault, &options, &context(&stop))
    }

    /// Verifies all, and tells what is damaged that nobody damaged.
    pub fn verify(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for (n, at) in self.all.iter().enumerate() {
            let held = names(&at.vault);
            let hurts = |damage: &&Damage| {
                let found = |name: &&SnapshotName| held.contains(name) && !self.is_spoilt(at, **name);
                at.damaged.is_empty() || damage.snapshots.iter().any(|name| found(&name))
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

    /// Damages a pack that the newest snapshot of a vault names, and has that found: the next snapshot must be whole all
    /// the same. Every second time the pack is what it was again before the next backup: the doubt is wrong then, and
    /// nothing is lost.
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
        self.damages += 1;
        if self.damages.is_multiple_of(2) {
            put(sound);
            counters.count("wrong doubts");
            return Some(format!("{name} of vault {chosen} was read as damaged at {at}, and is not"));
        }
        counters.count("damaged packs");
        self.all[chosen].damaged.insert(name.clone());
        Some(format!("{name} of vault {chosen} is damaged at {at}"))
    }

    /// Checks which snapshots the vaults hold after a backup: as its report says it, and as it must be.
    pub fn held(&mut self, name: SnapshotName, report: &Value, counters: &mut Counters) -> Vec<Wrong> {
        let taker = self.all.iter().find(|at| report["vault"] == at.folder.display().to_string()).unwrap();
        let packs = PackReader::for_root(&*taker.vault.store, &taker.vault.root(name).unwrap()).unwrap();
        self.named.insert(name, packs.book().values().map(PackInfo::name).collect());
        let mut wrong = Vec::new();
        let mut tell = |what: String| wrong.push(Wrong::new(Class::Replicas, what));
        let before = self.all.iter().flat_map(|at| &at.before).max();
        if before.is_some_and(|before| *before >= name) {
            tell(format!("{name} is not newer than {before:?}"));
        }
        let quiet = self.all.iter().all(|at| at.fault == VaultFault::None);
        let held: Vec<Vec<_>> = self.all.iter().map(|at| names(&at.vault)).collect();
        // Where another one was made in its place, nothing is damaged.
        let is_spoilt = |at: &Replica| at.fault != VaultFault::Unmounted && self.is_spoilt(at, name);
        for (n, _) in self.all.iter().enumerate().filter(|(_, at)| is_spoilt(at)) {
            // Entries that are carried over may have no other pack to be in; then the report says that the vault does not
            // hold all.
            match report["vaults"][n]["holds"] == true {
                true => tell(format!("{name} needs what is doubted, and damaged, in vault {n}")),
                false => counters.count("copied onto damage"),
            }
        }
        for (n, at) in self.all.iter().enumerate() {
            let said = &report["vaults"][n];
            match at.fault {
                VaultFault::Tight(_) if said["holds"] == false => counters.count("disks without room"),
                VaultFault::Full(_) if said["holds"] == false => counters.count("full disks"),
                _ => {}
            }
            let away = matches!(at.fault, VaultFault::Unreachable | VaultFault::Broken);
            let holds = held[n].contains(&name) && !is_spoilt(at);
            if said["holds"] != holds || away && said["holds"] == true {
                tell(format!("vault {n}, {:?}: {said}, and it has {:?}", at.fault, held[n].last()));
            }
            if at.fault == VaultFault::None && said["holds"] != true && !self.is_spoilt(at, name) {
                tell(format!("vault {n} lacks {name}: {said}"));
            }
        }
        for (n, lacking) in self.lacking().iter().enumerate().filter(|(_, lacking)| quiet && !lacking.is_empty()) {
            tell(format!("vault {n} lacks {lacking:?} after all were there"));
        }
        wrong
    }
}

/// Returns the snapshots of a vault, oldest first; none of one that is away.
fn names(vault: &Vault) -> Vec<SnapshotName> {
    match vault.snapshots() {
        Err(why) if why.kind() == Kind::Unreachable => Vec::new(),
        found => found.unwrap(),
    }
}
