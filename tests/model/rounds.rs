//! One round: the app does something, time passes, a backup is taken while the app does more, and what came of it is
//! looked at.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lastgood::vault::root::{SnapshotName, State};
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::accidents::Accident;
use super::app::{Act, App, MOVES};
use super::engine::{Engine, Heard, Order};
use super::history::Capture;
use super::oracle::{Class, Oracle, Wrong};
use super::suspect::{Snapshot, Verdict, verdict};
use super::tree::{Tree, remove, walk};
use super::vaults::Vaults;
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
/// Good snapshots that are restored again later, of the newest ones.
const OLDER: usize = 6;
/// A minute, in seconds.
const MINUTE: u64 = 60;
/// Rounds that an accident lasts at most: it is accepted meanwhile, if it can be.
const LASTS: u64 = 7;

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
    /// Where the vaults and what is restored lie: on a filesystem that is fast, as they are no part of what is looked at.
    fast: PathBuf,
    /// The app.
    pub app: App,
    engine: Option<Engine>,
    vaults: Vaults,
    seed: u64,
    round: u64,
    boot: u64,
    /// All snapshots, and what they were restored to. One that could not be restored is not among them.
    taken: BTreeMap<SnapshotName, Snapshot>,
    /// Whether the newest good snapshot cannot be restored.
    spoilt: bool,
    /// How many rounds an accident still lasts, and whether it is over before it can be accepted.
    accident: Option<(u64, bool)>,
    /// Whether a directory that lost most of what it held is meant to be so.
    meant: bool,
    /// Files of which something was read in this backup.
    opened: HashSet<String>,
}

impl Rounds {
    /// A new one; every second one has two vaults.
    pub fn new(seed: u64, fast: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("lastgood-model-").tempdir().unwrap();
        let fast = fast.join(seed.to_string());
        fs::create_dir(&fast).unwrap();
        let app = App::new(folder.path().to_owned(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let vaults = Vaults::new(&fast, 1 + seed % 2);
        fs::write(folder.path().join("restore.py"), script(vaults.folder())).unwrap();
        Rounds {
            folder: Some(folder),
            fast,
            app,
            engine: None,
            vaults,
            seed,
            round: 0,
            boot: 0,
            taken: BTreeMap::new(),
            spoilt: false,
            accident: None,
            meant: true,
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
        let resumes = self.vaults.resumes();
        self.vaults.trouble(&mut self.app.dice, &mut self.app.counters);
        let order = self.order(&manner);
        let there = self.vaults.names();
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
            _ if self.vaults.names() != there => {
                wrong.push(Wrong::new(Class::Fails, "it ended without a report, and there is a snapshot"));
            }
            Ended::Killed => self.app.counters.count("killed"),
            Ended::Failed(why) => {
                self.app.log.push(format!("failed: {why}"));
                self.app.counters.count("failed");
                match self.vaults.may_fail() {
                    true => self.app.counters.count("full disks"),
                    // It may say that it was not there for a moment, or is another one now.
                    false if capture.roots.len() > 1 => {}
                    false => wrong.push(Wrong::new(Class::Fails, why)),
                }
            }
            Ended::Hangs => wrong.push(Wrong::new(Class::Hangs, format!("it takes longer than {LIMIT:?}"))),
        }
        self.vaults.mend(&mut self.app.counters);
        wrong.extend(self.older());
        wrong
    }

    fn manner(&mut self) -> Manner {
        let death = match self.roll(10) {
            0 => Death::After(1 + self.roll(150)),
            1 | 2 => Death::Checkpoint(self.roll(12)),
            _ => Death::None,
        };
        let few = self.vaults.resumes() && self.roll(2) == 0;
        let busy = if few { 0 } else { [0, 2, 5, 10, 25][self.roll(5) as usize] };
        // Now and then all that happens is that things move, so that they move past the looks at the end as well.
        let restless = busy > 0 && (self.roll(8) == 0 || std::env::var_os(super::MOVES).is_some());
        Manner { busy: if restless { [10, 25, 60][self.roll(3) as usize] } else { busy }, restless, death }
    }

    /// What happens between two backups; whether the directory is in another place after it.
    fn between(&mut self, manner: &mut Manner) -> bool {
        let suffers = self.accident.is_some();
        for _ in 0..self.roll(if suffers { 2 } else { 6 }) {
            self.app.act("between");
        }
        // What is large, or has something beside it, is where a checkpoint can go wrong.
        if matches!(manner.death, Death::Checkpoint(_)) && self.roll(3) > 0 && !suffers {
            for act in [Act::DatabaseCrash, Act::DatabaseCrash, Act::CreateLarge] {
                self.app.act_as(act, "between");
            }
        }
        if self.roll(8) == 0 && !suffers {
            self.app.prepare_exchange();
            // Who mixes two directories often notices that something else changed, if something does.
            manner.busy = [0, 0, manner.busy][self.roll(3) as usize];
        }
        if self.roll(25) == 0
            && let Some(what) = self.vaults.damage(&mut self.app.dice, &mut self.app.counters)
        {
            self.app.log.push(what);
        }
        let moved = self.roll(8) == 0;
        if moved {
            let aside = self.roll(2) == 0;
            self.app.move_data(aside);
            self.app.log.push(format!("moved to {}", self.app.data.display()));
            for _ in 0..self.roll(3) {
                let changed = self.app.change_unseen();
                self.app.counters.add("changed unseen", changed.is_some().into());
                self.app.log.extend(changed);
            }
        }
        self.suffer(manner);
        // A boot alone makes no other place.
        if self.roll(8) == 0 {
            self.boot += 1;
        }
        std::thread::sleep(WINDOW + Duration::from_millis(5));
        moved
    }

    /// An accident begins, goes on or is over; time passes.
    fn suffer(&mut self, manner: &mut Manner) {
        let begins = self.round > 2 && self.roll(9) == 0;
        let said = match self.accident {
            None if begins => {
                let all = [Accident::Emptied, Accident::Tenth, Accident::Database, Accident::Half];
                let accident = all[self.roll(4) as usize];
                let long = self.roll(2) == 0;
                self.accident = Some((if long { LASTS } else { 1 + self.roll(3) }, !long));
                self.app.counters.count(&format!("{accident:?}"));
                self.app.befall(accident)
            }
            None => None,
            Some((0, _)) => {
                self.accident = None;
                Some(self.app.bring_back())
            }
            Some((left, short)) => {
                self.accident = Some((left - 1, short));
                None
            }
        };
        self.app.log.extend(said);
        // Days go by while it lasts, and somebody uses what is there, mostly.
        self.vaults.ahead += match self.accident {
            Some(_) => 25 * 60 + self.roll(20 * 60),
            None => 1 + self.roll(200),
        } as i64
            * MINUTE as i64;
        self.meant = match self.accident {
            Some((_, short)) => short && self.roll(6) == 0,
            None => self.roll(4) > 0,
        };
        if self.accident.is_some() {
            if self.roll(4) > 0 {
                (manner.busy, manner.restless) = (0, false);
            }
            if self.roll(8) > 0 {
                let used = self.app.touch(self.vaults.ahead);
                self.app.log.extend(used);
            }
        }
    }

    fn order(&mut self, manner: &Manner) -> Order {
        let often = matches!(manner.death, Death::Checkpoint(_));
        Order {
            vaults: self.vaults.locations(),
            ahead: self.vaults.ahead,
            data: self.app.data.clone(),
            checkpoint_every: if often { 0 } else { [0, 0, 1000, 600_000_000][self.roll(4) as usize] },
            busy: [50, 200, 1000][self.roll(3) as usize],
            verify_content: self.roll(6) == 0,
            check: self.roll(6) == 0,
            window: WINDOW.as_nanos() as i64,
            sample: [1 << 40, 1 << 40, 1 << 40, 5][self.roll(4) as usize],
            accept_shrink: self.meant,
            boot: self.boot.to_string(),
        }
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
        let name: SnapshotName = report["snapshot"].as_str().unwrap().parse().unwrap();
        let good = report["good"] == true;
        self.app.counters.count(if good { "good" } else { report["state"].as_str().unwrap() });
        for problem in report["errors"].as_array().into_iter().flatten() {
            let why: String = problem["why"].as_str().unwrap().chars().take(60).collect();
            self.app.counters.count(&format!("problem: {why}"));
        }
        for database in report["databases"].as_array().into_iter().flatten() {
            self.app.counters.count(&format!("databases {}", database["taken"].as_str().unwrap()));
        }
        let mut wrong = self.vaults.held(name, report);
        let out = self.path("out");
        // What is good is what comes back unasked.
        let asked = if good { "latest".to_owned() } else { name.to_string() };
        match self.restore(&asked, &out) {
            Ok(came) if came == name => {}
            Ok(came) => {
                wrong.push(Wrong::new(Class::Latest, format!("{name} is good, and latest is {came}")));
                return wrong;
            }
            Err(why) => {
                self.spoilt |= good;
                let class = if good { Class::NotRestorable } else { Class::PartialNotRestorable };
                wrong.push(Wrong::new(class, format!("{name}: {why}")));
                return wrong;
            }
        }
        for list in ["stale", "torn"] {
            let count = report[list].as_array().unwrap().len() as u64;
            self.app.counters.add(list, count);
        }
        let root = self.vaults.root(name);
        let place = self.app.place(&capture.roots, root.place.inode);
        let snapshot = Snapshot::new(&root, report, place, Tree::read(&out));
        wrong.extend(self.judge(&snapshot, report));
        let earlier = self.vaults.before(report);
        let before = earlier.iter().rev().find_map(|(name, spoilt)| match self.taken.get(name) {
            Some(was) if was.good && was.data == self.app.data => Some((!spoilt).then_some(&was.tree.files)),
            Some(_) => None,
            None => Some(None),
        });
        let is_suspect = snapshot.state == State::Suspect;
        let oracle = Oracle {
            history: &self.app.history,
            capture,
            report,
            restored: &out,
            before: before.flatten(),
            unread: root.unread.unwrap_or_default(),
            suspect: is_suspect,
        };
        if self.round.is_multiple_of(10) {
            wrong.extend(self.by_hand(name, &out));
            self.app.counters.count("by hand");
        }
        wrong.extend(oracle.check());
        let taken = oracle.taken_unread();
        self.app.counters.add("taken over unread", taken);
        let (kept, linked) = (self.kept(&out), snapshot.tree.linked);
        self.app.counters.add(if moved { "entries adopted" } else { "entries kept" }, kept);
        self.app.counters.add("entries linked", linked);
        self.spoilt &= !good;
        self.taken.insert(name, snapshot);
        if wrong.is_empty() {
            remove(&out);
        }
        if is_suspect {
            self.app.counters.count("latest passes a suspect one over");
            wrong.extend(self.latest());
        }
        wrong
    }

    /// Whether a snapshot is suspect exactly if it has to be.
    fn judge(&mut self, snapshot: &Snapshot, report: &Value) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if snapshot.place.is_none() {
            wrong.push(Wrong::new(Class::Suspect, "it is said to be of a directory that was not there"));
        }
        if report["entries"] != snapshot.tree.entries {
            wrong.push(Wrong::new(Class::Suspect, format!("it has {} entries", snapshot.tree.entries)));
        }
        let is_suspect = snapshot.state == State::Suspect;
        if self.meant {
            if is_suspect {
                wrong.push(Wrong::new(Class::Suspect, "it was meant, and is suspect"));
            }
            return wrong;
        }
        // What cannot be read has not gone, and how much it was is not told.
        let unread = ["errors", "stale"].iter().any(|list| report[list].as_array().is_some_and(|all| !all.is_empty()));
        let before = self.vaults.before(report);
        let earlier: Option<Vec<_>> = before.iter().rev().map(|(name, _)| self.taken.get(name)).collect();
        let Some(earlier) = earlier.filter(|_| !unread) else {
            self.app.counters.count("not judged");
            return wrong;
        };
        let verdict = verdict(snapshot, earlier.iter().copied());
        let accepted = report["notices"].to_string().contains("this was suspect since");
        if is_suspect != (verdict == Verdict::Suspect) || accepted != (verdict == Verdict::Accepted) {
            let said = format!("{verdict:?} is due, and it is {}: {}", snapshot.state, report["suspect"]);
            wrong.push(Wrong::new(Class::Suspect, said));
        }
        let follows = earlier.first().is_some_and(|last| last.state == State::Suspect);
        match verdict {
            Verdict::Suspect => {}
            Verdict::Accepted => self.app.counters.count("accepted"),
            Verdict::Sound if follows => self.app.counters.count("good after suspect"),
            Verdict::Sound => {}
        }
        wrong
    }

    /// `latest` is the newest good snapshot.
    fn latest(&mut self) -> Option<Wrong> {
        let newest = self.taken.iter().rfind(|(_, taken)| taken.good);
        let (name, print) = newest.map(|(name, taken)| (*name, taken.tree.print))?;
        // One that could not be restored from the beginning was told of.
        if self.spoilt || !self.vaults.is_sound(name) {
            return None;
        }
        let out = self.path("older");
        let wrong = match self.restore("latest", &out) {
            Ok(came) if came != name => Some(Wrong::new(Class::Latest, format!("{name} is due, and {came} came"))),
            Ok(_) if Tree::read(&out).print == print => None,
            Ok(_) => Some(Wrong::new(Class::OlderDamaged, format!("latest, {name}, is not what it was"))),
            Err(why) => Some(Wrong::new(Class::OlderDamaged, format!("latest, {name}: {why}"))),
        };
        remove(&out);
        wrong
    }

    /// Files of a snapshot of which nothing was read.
    fn kept(&self, out: &Path) -> u64 {
        walk(out).iter().filter(|path| out.join(path).is_file() && !self.opened.contains(path.as_str())).count() as u64
    }

    fn restore(&mut self, snapshot: &str, target: &Path) -> Result<SnapshotName, String> {
        self.app.counters.count("restores");
        self.vaults.restore(snapshot, target)
    }

    /// A snapshot that was good before is so still, and so are whole vaults.
    fn older(&mut self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if self.round.is_multiple_of(5) {
            let good = self.taken.iter().rev().filter(|(name, taken)| taken.good && self.vaults.is_sound(**name));
            let good: Vec<_> = good.take(OLDER).map(|(name, taken)| (*name, taken.tree.print)).collect();
            if !good.is_empty() {
                let (name, was) = good[self.roll(good.len() as u64) as usize];
                let out = self.path("older");
                self.app.counters.count("older restores");
                match self.restore(&name.to_string(), &out) {
                    Ok(_) if Tree::read(&out).print == was => {}
                    Ok(_) => wrong.push(Wrong::new(Class::OlderDamaged, format!("{name} is not what it was"))),
                    Err(why) => wrong.push(Wrong::new(Class::OlderDamaged, format!("{name}: {why}"))),
                }
                remove(&out);
            }
            wrong.extend(self.latest());
        }
        if self.round.is_multiple_of(20) {
            self.app.counters.count("verified");
            wrong.extend(self.vaults.verify());
        }
        wrong
    }

    /// What the script by hand gives, compared with a restore.
    fn by_hand(&self, name: SnapshotName, out: &Path) -> Option<Wrong> {
        let target = self.path("by-hand");
        remove(&target);
        let mut python = Command::new("python3");
        python.arg(self.app.base.join("restore.py")).args([self.vaults.with(name), &target]).arg(name.to_string());
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
