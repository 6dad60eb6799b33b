//! One round: the app does something, time passes, a backup is taken while the app does more, and what came of it is
//! looked at.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lastgood::monitor::{Context, Silent, system_random};
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;
use lastgood::vault::hex::Hash;
use lastgood::vault::pack::PackInfo;
use lastgood::vault::read::PackReader;
use lastgood::verify::Damage;
use lastgood::{restore, verify};
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::app::{Act, App, MOVES};
use super::engine::{Engine, Heard, Order};
use super::history::Capture;
use super::oracle::{Class, Oracle, Tree, Wrong};
use crate::by_hand::script;
use crate::support::compare::differences;

/// What is wrong, as the oracle says it.
pub type Found = Wrong;

/// A file that changed so shortly before it was read is not trusted.
const WINDOW: Duration = Duration::from_millis(20);
/// A backup that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20);
/// Silence after which the app goes on by itself: the engine may be waiting for it.
const SILENCE: Duration = Duration::from_millis(30);
const SILENT: &str = "the engine is silent";
/// Good snapshots that are restored again later.
const OLDER: usize = 6;

impl Class {
    /// Whether what is wrong with one snapshot does not go over to the next ones.
    pub fn passes(self) -> bool {
        use Class::{Missing, Mixed, MovedAgain, MovedFile, MovedFolder};
        use Class::{NotRestorable, PartialMixed, PartialNotRestorable};
        let moved = matches!(self, MovedAgain | MovedFile | MovedFolder);
        moved || matches!(self, Missing | Mixed | NotRestorable | PartialMixed | PartialNotRestorable)
    }
}

/// How a backup ended.
enum Ended {
    Report(Value),
    Failed(String),
    Killed,
    Hangs,
}

/// How a backup is disturbed.
struct Manner {
    /// How likely the app does something at a moment, in percent.
    busy: u64,
    /// Whether it only moves things then.
    restless: bool,
    /// When the engine is killed.
    death: Death,
}

/// When the engine is killed.
#[derive(Clone, Copy)]
enum Death {
    /// Never.
    None,
    /// After so many moments.
    After(u64),
    /// So many moments after a checkpoint, or directly before the snapshot is committed.
    Checkpoint(u64),
}

impl Death {
    /// Whether it is now.
    fn comes(&mut self, moment: &str, path: &str) -> bool {
        let last = moment == "Committing" && path == ".";
        match self {
            Death::None => false,
            Death::After(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            Death::Checkpoint(_) if last => true,
            Death::Checkpoint(_) if moment == "Committing" => {
                let Death::Checkpoint(left) = *self else { return false };
                *self = Death::After(left + 1);
                false
            }
            Death::Checkpoint(_) => false,
        }
    }
}

/// A history.
pub struct Rounds {
    folder: Option<TempDir>,
    /// Where the vault and what is restored lie: on a filesystem that is fast, as they are no part of what is looked at.
    fast: PathBuf,
    /// The app.
    pub app: App,
    engine: Option<Engine>,
    vault: Vault,
    seed: u64,
    round: u64,
    boot: u64,
    /// Good snapshots, and what they were restored to.
    good: Vec<(String, u64)>,
    /// The files of the last good snapshot, and the directory that it is of.
    before: Option<(PathBuf, Tree)>,
    /// Whether the newest good snapshot cannot be restored.
    spoilt: bool,
    /// Whether an object of the vault was damaged.
    damaged: bool,
    /// Files of which something was read in this backup.
    opened: HashSet<String>,
}

impl Rounds {
    /// A new one.
    pub fn new(seed: u64, fast: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("lastgood-model-").tempdir().unwrap();
        let fast = fast.join(seed.to_string());
        fs::create_dir(&fast).unwrap();
        let app = App::new(folder.path().to_owned(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let store = LocalStore::new(fast.join("vault"));
        let vault = Vault::init(Box::new(store), system_random).unwrap();
        fs::write(folder.path().join("restore.py"), script(&fast.join("vault"))).unwrap();
        Rounds {
            folder: Some(folder),
            fast,
            app,
            engine: None,
            vault,
            seed,
            round: 0,
            boot: 0,
            good: Vec::new(),
            before: None,
            spoilt: false,
            damaged: false,
            opened: HashSet::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.fast.join(name)
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.app.dice.roll(below)
    }

    /// One round; what is wrong with what came of it.
    pub fn next(&mut self) -> Vec<Wrong> {
        self.round += 1;
        self.app.log.push(format!("round {}", self.round));
        let mut manner = self.manner();
        let moved = self.between(&mut manner);
        let order = self.order(&manner);
        let resumes = self.resumes();
        self.app.log.push(format!("backup {order:?}"));
        self.app.history.begin();
        let ended = self.capture(&order, &mut manner);
        self.app.engine = None;
        self.app.focus = None;
        self.app.may_exchange_data = false;
        let capture = self.app.history.end();
        self.app.counters.count("backups");
        let mut wrong: Vec<_> = self.app.faults.drain(..).map(|why| Wrong::new(Class::AppBroken, why)).collect();
        match ended {
            Ended::Report(report) => {
                self.app.log.push(format!("report {report}"));
                if resumes {
                    self.app.counters.count("backups resumed");
                }
                wrong.extend(self.look(&report, &capture, moved));
            }
            Ended::Killed => self.app.counters.count("killed"),
            Ended::Failed(why) => {
                self.app.log.push(format!("failed: {why}"));
                self.app.counters.count("failed");
                match order.room {
                    Some(_) => self.app.counters.count("full disks"),
                    // It may say that it was not there for a moment, or is another one now.
                    None if capture.roots.len() > 1 => {}
                    None => wrong.push(Wrong::new(Class::Fails, why)),
                }
            }
            Ended::Hangs => wrong.push(Wrong::new(Class::Hangs, format!("it takes longer than {LIMIT:?}"))),
        }
        wrong.extend(self.older());
        wrong
    }

    fn manner(&mut self) -> Manner {
        let death = match self.roll(10) {
            0 => Death::After(1 + self.roll(150)),
            1 | 2 => Death::Checkpoint(self.roll(12)),
            _ => Death::None,
        };
        let few = self.resumes() && self.roll(2) == 0;
        let busy = if few { 0 } else { [0, 2, 5, 10, 25][self.roll(5) as usize] };
        // Now and then all that happens is that things move, so that they move past the looks at the end as well.
        let restless = busy > 0 && (self.roll(8) == 0 || std::env::var_os(super::MOVES).is_some());
        Manner { busy: if restless { [10, 25, 60][self.roll(3) as usize] } else { busy }, restless, death }
    }

    /// What happens between two backups; whether the directory is in another place after it.
    fn between(&mut self, manner: &mut Manner) -> bool {
        for _ in 0..self.roll(6) {
            self.app.act("between");
        }
        // What is large, or has something beside it, is where a checkpoint can go wrong.
        if matches!(manner.death, Death::Checkpoint(_)) && self.roll(3) > 0 {
            for act in [Act::DatabaseCrash, Act::DatabaseCrash, Act::CreateLarge] {
                self.app.act_as(act, "between");
            }
        }
        if self.roll(8) == 0 {
            self.app.prepare_exchange();
            // Who mixes two directories often notices that something else changed, if something does.
            manner.busy = [0, 0, manner.busy][self.roll(3) as usize];
        }
        if self.roll(25) == 0 {
            self.damage();
        }
        let moved = self.roll(8) == 0;
        if moved {
            self.app.move_data();
        }
        // A boot alone makes no other place.
        if self.roll(8) == 0 {
            self.boot += 1;
        }
        std::thread::sleep(WINDOW + Duration::from_millis(5));
        moved
    }

    /// Damages a pack that the newest snapshot names, and has that found: the next snapshot must be whole all the same.
    fn damage(&mut self) {
        let Some(newest) = self.vault.snapshots().unwrap().pop() else { return };
        let packs = PackReader::for_root(&*self.vault.store, &self.vault.root(newest).unwrap()).unwrap();
        let mut names: Vec<_> = packs.book().values().map(PackInfo::name).collect();
        names.sort();
        let chosen = self.roll(names.len() as u64) as usize;
        let path = self.path("vault").join(&names[chosen]);
        let mut bytes = fs::read(&path).unwrap();
        let at = self.roll(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << self.roll(8);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        self.app.log.push(format!("{} is damaged at {at}", names[chosen]));
        self.app.counters.count("damaged packs");
        let found = self.verify().unwrap();
        assert!(found.damage.iter().any(|damage| damage.object == names[chosen]), "{:?}", found.damage);
        // What was good before, and what was carried over from it, may be lost with it.
        (self.damaged, self.spoilt, self.before) = (true, true, None);
        self.good.clear();
    }

    fn verify(&self) -> lastgood::error::Result<verify::Report> {
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &Silent };
        let options = verify::Options { read_data: Some(100.0), databases: None };
        verify::verify(&self.vault, &options, &ctx)
    }

    fn order(&mut self, manner: &Manner) -> Order {
        let often = matches!(manner.death, Death::Checkpoint(_));
        Order {
            vault: self.path("vault"),
            data: self.app.data.clone(),
            checkpoint_every: if often { 0 } else { [0, 0, 1000, 600_000_000][self.roll(4) as usize] },
            busy: [50, 200, 1000][self.roll(3) as usize],
            verify_content: self.roll(6) == 0,
            check: self.roll(6) == 0,
            window: WINDOW.as_nanos() as i64,
            sample: [1 << 40, 1 << 40, 1 << 40, 5][self.roll(4) as usize],
            room: (self.roll(15) == 0).then(|| self.app.dice.roll(4)),
            boot: self.boot.to_string(),
        }
    }

    /// Whether a checkpoint is there that the next backup goes on from.
    fn resumes(&self) -> bool {
        let newest = |names: Vec<lastgood::vault::root::SnapshotName>| names.last().map_or(0, |name| name.seq);
        newest(self.vault.checkpoints().unwrap()) > newest(self.vault.snapshots().unwrap())
    }

    /// A backup, and what the app does meanwhile.
    fn capture(&mut self, order: &Order, manner: &mut Manner) -> Ended {
        let mut engine = self.engine.take().unwrap_or_else(Engine::start);
        self.app.engine = Some(engine.process());
        self.opened.clear();
        engine.begin(order);
        let begin = Instant::now();
        let ended = loop {
            match engine.hear(SILENCE) {
                Heard::Ended(Ok(report)) => break Ended::Report(report),
                Heard::Ended(Err(why)) => break Ended::Failed(why),
                Heard::Reached(moment, path) => {
                    if manner.death.comes(&moment, &path) {
                        self.app.log.push(format!("killed at {moment} {path}"));
                        engine.kill();
                        return Ended::Killed;
                    }
                    self.moment(manner, &moment, &path);
                    engine.go();
                }
                Heard::Nothing if begin.elapsed() > LIMIT => {
                    self.app.log.push(stacks(engine.process()));
                    engine.kill();
                    return Ended::Hangs;
                }
                Heard::Nothing => {
                    if self.app.log.last().is_none_or(|line| line != SILENT) {
                        self.app.log.push(SILENT.into());
                    }
                    if self.roll(2) == 0 {
                        self.app.end_all();
                    }
                }
            }
        };
        self.engine = Some(engine);
        ended
    }

    fn moment(&mut self, manner: &Manner, moment: &str, path: &str) {
        let path = if path == "." { "" } else { path };
        if moment == "Opened" {
            self.opened.insert(path.to_owned());
        }
        let when = format!("at {moment} {path}");
        // It is rarely allowed, and then to happen.
        if self.app.may_exchange_data && self.roll(25) == 0 {
            self.app.act_as(Act::ExchangeData, &when);
        }
        if self.roll(100) >= manner.busy {
            return;
        }
        self.app.focus = Some(path.to_owned());
        for _ in 0..1 + self.roll(2) {
            match manner.restless {
                true => self.app.act_of(&MOVES, &when),
                false => self.app.act(&when),
            }
        }
    }

    /// Looks at a snapshot.
    fn look(&mut self, report: &Value, capture: &Capture, moved: bool) -> Vec<Wrong> {
        let name = report["snapshot"].as_str().unwrap().to_owned();
        let good = report["good"] == true;
        self.app.counters.count(if good { "good" } else { "partial" });
        for problem in report["errors"].as_array().into_iter().flatten() {
            let why: String = problem["why"].as_str().unwrap().chars().take(60).collect();
            self.app.counters.count(&format!("problem: {why}"));
        }
        for database in report["databases"].as_array().into_iter().flatten() {
            self.app.counters.count(&format!("databases {}", database["taken"].as_str().unwrap()));
        }
        let out = self.path("out");
        if let Err(why) = self.restore(&name, &out) {
            self.spoilt |= good;
            let class = if good { Class::NotRestorable } else { Class::PartialNotRestorable };
            return vec![Wrong::new(class, format!("{name}: {why}"))];
        }
        for list in ["stale", "torn"] {
            let count = report[list].as_array().unwrap().len() as u64;
            self.app.counters.add(list, count);
        }
        let files = files(&out);
        let before = self.before.as_ref().filter(|(data, _)| *data == self.app.data).map(|(_, files)| files);
        let oracle = Oracle { history: &self.app.history, capture, report, restored: &out, before };
        let mut wrong = Vec::new();
        if self.round.is_multiple_of(10) {
            wrong.extend(self.by_hand(&name, &out));
            self.app.counters.count("by hand");
        }
        let print = print(&out);
        wrong.extend(oracle.check());
        let (kept, linked) = (self.kept(&out), print.1);
        self.app.counters.add(if moved { "entries adopted" } else { "entries kept" }, kept);
        self.app.counters.add("entries linked", linked);
        if good {
            self.before = Some((self.app.data.clone(), files));
            self.spoilt = false;
            self.good.push((name, print.0));
            if self.good.len() > OLDER {
                let chosen = self.roll(OLDER as u64) as usize;
                self.good.remove(chosen);
            }
        }
        if wrong.is_empty() {
            remove(&out);
        }
        wrong
    }

    /// Files of a snapshot of which nothing was read.
    fn kept(&self, out: &Path) -> u64 {
        walk(out).iter().filter(|path| out.join(path).is_file() && !self.opened.contains(path.as_str())).count() as u64
    }

    fn restore(&mut self, snapshot: &str, target: &Path) -> Result<(), String> {
        remove(target);
        self.app.counters.count("restores");
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &Silent };
        let options = restore::Options {
            snapshot: snapshot.to_owned(),
            target: target.to_owned(),
            paths: Vec::new(),
            in_place: false,
            skip_damaged: false,
        };
        restore::restore(&self.vault, &options, &ctx).map(drop).map_err(|why| why.to_string())
    }

    /// A snapshot that was good before is so still, and so is the whole vault.
    fn older(&mut self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if self.round.is_multiple_of(5) && !self.good.is_empty() {
            let chosen = self.roll(self.good.len() as u64) as usize;
            let (name, was) = self.good[chosen].clone();
            let out = self.path("older");
            self.app.counters.count("older restores");
            match self.restore(&name, &out) {
                Ok(()) if print(&out).0 == was => {}
                Ok(()) => wrong.push(Wrong::new(Class::OlderDamaged, format!("{name} is not what it was"))),
                Err(why) => wrong.push(Wrong::new(Class::OlderDamaged, format!("{name}: {why}"))),
            }
            // One that could not be restored from the beginning was told of.
            if !self.spoilt
                && let Err(why) = self.restore("latest", &out)
            {
                wrong.push(Wrong::new(Class::OlderDamaged, format!("latest: {why}")));
            }
            remove(&out);
        }
        if self.round.is_multiple_of(20) {
            self.app.counters.count("verified");
            let newest = self.good.last().map(|(name, _)| name.clone());
            match self.verify() {
                Ok(report) => {
                    let hurts = |damage: &&Damage| damage.snapshots.iter().any(|name| Some(name.to_string()) == newest);
                    let found: Vec<_> = report.damage.iter().filter(|damage| !self.damaged || hurts(damage)).collect();
                    if !found.is_empty() {
                        wrong.push(Wrong::new(Class::Verify, format!("{found:?}")));
                    }
                }
                Err(why) => wrong.push(Wrong::new(Class::Verify, why.to_string())),
            }
        }
        wrong
    }

    /// What the script by hand gives, compared with a restore.
    fn by_hand(&self, name: &str, out: &Path) -> Option<Wrong> {
        let target = self.path("by-hand");
        remove(&target);
        let mut python = Command::new("python3");
        python.arg(self.app.base.join("restore.py")).args([&self.path("vault"), &target]).arg(name);
        let done = python.output().unwrap();
        if !done.status.success() {
            return Some(Wrong::new(Class::ByHand, String::from_utf8_lossy(&done.stderr)));
        }
        let mut all = differences(out, &target);
        all.retain(|difference| !difference.contains(": holes: "));
        remove(&target);
        (!all.is_empty()).then(|| Wrong::new(Class::ByHand, format!("{all:?}")))
    }

    /// Tells what was found and what came before it, and keeps everything.
    pub fn explain(&mut self, found: &[Wrong]) {
        let kept = self.folder.take().map(TempDir::keep);
        let log = self.app.log.join("\n");
        fs::write(self.app.base.join("log"), &log).unwrap();
        let copied = Command::new("cp").arg("-a").arg(&self.fast).arg(self.app.base.join("fast")).status().unwrap();
        assert!(copied.success());
        println!("seed {}, round {}; kept in {kept:?}, with all of the log", self.seed, self.round);
        let from = self.app.log.iter().rposition(|line| line.starts_with("round ")).unwrap_or(0);
        let last = &self.app.log[from..];
        last.iter().skip(last.len().saturating_sub(60)).for_each(|line| println!("  {}", cut(line)));
        found.iter().take(10).for_each(|wrong| println!("  {:?}: {}", wrong.class, cut(&wrong.what)));
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        // Nobody needs what is left of it.
        let _ = fs::remove_dir_all(&self.fast);
    }
}

/// Where the threads of a process are, as far as a debugger is there to tell.
fn stacks(process: Pid) -> String {
    let mut debugger = Command::new("gdb");
    debugger.args(["-batch", "-ex", "thread apply all backtrace 25", "-p", &process.as_raw_nonzero().to_string()]);
    match debugger.output() {
        Ok(done) => String::from_utf8_lossy(&done.stdout).into_owned(),
        Err(why) => format!("gdb: {why}"),
    }
}

/// The beginning of a long line.
fn cut(line: &str) -> String {
    line.chars().take(600).collect()
}

fn remove(folder: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
}

/// All paths beneath a folder.
fn walk(folder: &Path) -> Vec<String> {
    let (mut all, mut open) = (Vec::new(), vec![String::new()]);
    while let Some(at) = open.pop() {
        for found in fs::read_dir(folder.join(&at)).unwrap() {
            let found = found.unwrap();
            let path = super::history::join(&at, found.file_name().to_str().unwrap());
            if found.file_type().unwrap().is_dir() {
                open.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    all
}

/// The contents of a tree's files.
fn files(folder: &Path) -> Tree {
    let all = walk(folder).into_iter();
    let files = all.filter(|path| fs::symlink_metadata(folder.join(path)).unwrap().is_file());
    files
        .map(|path| (Hash::of(&fs::read(folder.join(&path)).unwrap()), path))
        .map(|(hash, path)| (path, hash))
        .collect()
}

/// A number that stands for a tree's names and contents, and how many of its names are links.
fn print(folder: &Path) -> (u64, u64) {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::MetadataExt;
    let (mut hasher, mut linked) = (DefaultHasher::new(), 0);
    for path in walk(folder) {
        let meta = fs::symlink_metadata(folder.join(&path)).unwrap();
        path.hash(&mut hasher);
        if meta.is_file() {
            fs::read(folder.join(&path)).unwrap().hash(&mut hasher);
            linked += u64::from(meta.nlink() > 1);
        }
    }
    (hasher.finish(), linked)
}
