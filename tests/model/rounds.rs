//! One round: the app does something, time passes, a backup is taken while the app does more, and what came of it is
//! looked at.

mod checks;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lastgood::vault::root::SnapshotName;
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::accidents::Accident;
use super::app::{Act, App, MOVES};
use super::databases::SIDES;
use super::engine::{BackupRequest, Engine, Heard};
use super::history::What;
use super::oracle::{Class, Wrong};
use super::suspect::Snapshot;
use super::vaults::Vaults;
use crate::restore_by_hand::script;

/// A mistake, as the oracle describes it.
pub type Found = Wrong;

/// A file that changed so shortly before it was read is not trusted. The kernel's clock for times of files goes in steps of up to 10 ms,
/// and in larger ones on a virtual machine that is not run for a moment.
const WINDOW: Duration = Duration::from_millis(40);
/// A backup that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(180);
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
    /// A file that is replaced whenever the engine has opened it, so that it is never read.
    replaced: Option<String>,
    /// When the engine is killed.
    death: Death,
}

/// When the engine is killed.
#[derive(Clone, Copy)]
enum Death {
    /// Never.
    None,
    /// After this many moments.
    After(u64),
    /// This many moments after a checkpoint, or directly before the snapshot is committed.
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

/// An accident that is not over.
#[derive(Clone, Copy)]
struct Suffered {
    accident: Accident,
    /// How many rounds it still lasts.
    left: u64,
    /// Whether it is over before it can be accepted.
    short: bool,
}

/// A history.
pub struct Rounds {
    folder: Option<TempDir>,
    /// Where the vaults and what is restored lie: on a filesystem that is fast, as they are no part of what is looked at.
    fast: PathBuf,
    /// The app.
    pub app: App,
    engine: Option<Engine>,
    /// The vaults.
    pub vaults: Vaults,
    seed: u64,
    round: u64,
    boot: u64,
    /// All snapshots, and what they were restored to. One that could not be restored is not among them.
    taken: BTreeMap<SnapshotName, Snapshot>,
    /// Whether the newest good snapshot cannot be restored.
    spoilt: bool,
    /// The accident that is not over.
    accident: Option<Suffered>,
    /// Accidents so far.
    accidents: u64,
    /// Whether a directory that lost most of what it held is meant to be so.
    meant: bool,
    /// Files of which something was read in this backup.
    opened: HashSet<String>,
}

impl Rounds {
    /// Creates a new one; every second one has two vaults.
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
            accidents: 0,
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

    /// Does one round, and returns what is wrong with the result.
    pub fn next(&mut self) -> Vec<Wrong> {
        self.round += 1;
        self.app.log.push(format!("round {}", self.round));
        let mut manner = self.manner();
        let moved = self.between(&mut manner);
        let resumes = self.vaults.resumes();
        let undisturbed = self.is_undisturbed();
        self.vaults.choose_faults(self.round % 20 == 7, undisturbed, &mut self.app.dice, &mut self.app.counters);
        let request = self.request(&manner);
        let there = self.vaults.names();
        self.app.log.push(format!("backup {request:?}"));
        self.app.history.begin();
        let ended = self.capture(&request, &mut manner);
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
                    Some(counter) => self.app.counters.count(counter),
                    // It may say that it was not there for a moment, or is another one now.
                    None if capture.roots.len() > 1 => {}
                    None => wrong.push(Wrong::new(Class::Fails, why)),
                }
            }
            Ended::Hangs => wrong.push(Wrong::new(Class::Hangs, format!("it takes longer than {LIMIT:?}"))),
        }
        self.vaults.mend(&mut self.app.counters);
        wrong.extend(self.older());
        wrong
    }

    fn manner(&mut self) -> Manner {
        // At certain rounds in any case, as is more below: nobody waits for it by chance.
        let replaces = self.round % 20 == 15 || self.roll(40) == 0;
        let death = match self.roll(10) {
            _ if replaces => Death::None,
            _ if self.round % 20 == 17 => Death::Checkpoint(self.roll(12)),
            0 => Death::After(1 + self.roll(150)),
            1 | 2 => Death::Checkpoint(self.roll(12)),
            _ => Death::None,
        };
        let few = self.vaults.resumes() && self.roll(2) == 0;
        let busy = if few { 0 } else { [0, 2, 5, 10, 25][self.roll(5) as usize] };
        // Now and then all that happens is that things move, so that they move past the looks at the end as well.
        let restless = busy > 0 && (self.roll(8) == 0 || std::env::var_os(super::MOVES).is_some());
        let busy = if restless { [10, 25, 60][self.roll(3) as usize] } else { busy };
        let replaced = if replaces { self.pick_good() } else { None };
        Manner { busy: if replaces { 0 } else { busy }, restless, replaced, death }
    }

    /// Returns a file that the newest good snapshot has, so that it is carried over where it cannot be read.
    fn pick_good(&mut self) -> Option<String> {
        let newest = self.taken.values().rfind(|taken| taken.good && taken.data == self.app.data)?;
        let mut all = self.app.all(|path, what| matches!(what, What::File(_)) && newest.tree.files.contains_key(path));
        all.retain(|(path, _)| !SIDES.iter().any(|side| path.ends_with(side)));
        self.app.pick(all).map(|(path, _)| path)
    }

    /// Does what happens between two backups; returns whether the directory is in another place after it.
    fn between(&mut self, manner: &mut Manner) -> bool {
        let (suffers, undisturbed) = (self.accident.is_some(), self.is_undisturbed());
        let acts = match self.roll(if suffers { 2 } else { 6 }) {
            _ if undisturbed => 0,
            acts => acts,
        };
        for _ in 0..acts {
            self.app.act("between");
        }
        // Checkpoints can go wrong with large files, and with databases that have files beside them.
        if matches!(manner.death, Death::Checkpoint(_)) && self.roll(3) > 0 && !suffers {
            for act in [Act::DatabaseCrash, Act::DatabaseCrash, Act::CreateLarge] {
                self.app.act_as(act, "between");
            }
        }
        if self.roll(8) == 0 && !suffers {
            self.app.prepare_exchange();
            // An engine that mixes up two directories often notices that something else changed, if something does.
            manner.busy = [0, 0, manner.busy][self.roll(3) as usize];
        }
        if (self.roll(40) == 0 && !undisturbed || self.round % 20 == 10)
            && let Some(what) = self.vaults.damage(&mut self.app.dice, &mut self.app.counters)
        {
            self.app.log.push(what);
        }
        // A copy would part what is aside from its other names.
        let due = self.round % 20 == 13;
        let moved = (self.roll(8) == 0 || due) && !suffers && manner.replaced.is_none();
        if moved {
            let aside = self.roll(2) == 0;
            self.app.move_data(aside);
            self.app.log.push(format!("moved to {}", self.app.data.display()));
            if self.roll(2) == 0 || due {
                (manner.busy, manner.restless, manner.death) = (0, false, Death::None);
            }
            for _ in 0..self.roll(4).max(if due { 2 } else { 0 }) {
                let changed = self.app.change_unseen();
                self.app.counters.add("changed unseen", changed.is_some().into());
                self.app.log.extend(changed);
            }
        }
        self.suffer(manner);
        if let Some(path) = &manner.replaced {
            self.app.replace_again(path, "between");
        }
        // A boot alone makes no other place.
        if self.roll(8) == 0 {
            self.boot += 1;
        }
        std::thread::sleep(WINDOW + Duration::from_millis(5));
        moved
    }

    /// Lets an accident begin, go on or end; time passes.
    fn suffer(&mut self, manner: &mut Manner) {
        let suffered = self.accident.is_some();
        let begins = self.round > 2 && self.roll(40) == 0 || self.round % 20 == 4;
        let said = match self.accident {
            None if begins => {
                let all = [Accident::Emptied, Accident::Tenth, Accident::Database, Accident::Half];
                let accident = all[(self.seed + self.accidents) as usize % all.len()];
                let long = (self.seed / 2 + self.accidents / 2).is_multiple_of(2);
                self.accidents += 1;
                let left = if long { LASTS } else { 1 + self.roll(3) };
                self.accident = Some(Suffered { accident, left, short: !long });
                let did = self.app.befall(accident);
                self.app.counters.add(&format!("{accident:?}"), did.is_some().into());
                did
            }
            None => None,
            Some(Suffered { left: 0, .. }) => {
                self.accident = None;
                Some(self.app.bring_back())
            }
            Some(suffered) => {
                self.accident = Some(Suffered { left: suffered.left - 1, ..suffered });
                None
            }
        };
        self.app.log.extend(said);
        // Days go by while it lasts, and somebody uses what is there, mostly.
        let undisturbed = self.is_undisturbed();
        self.vaults.ahead += match self.accident {
            Some(_) if undisturbed => 37 * 60 + self.roll(8 * 60),
            Some(_) => 25 * 60 + self.roll(20 * 60),
            None => 1 + self.roll(200),
        } as i64
            * MINUTE as i64;
        self.meant = match self.accident {
            Some(suffered) => suffered.short && self.roll(6) == 0,
            // The restored content has to be good by itself.
            None => !suffered && self.roll(4) > 0,
        };
        if self.accident.is_some() {
            if undisturbed {
                *manner = Manner { busy: 0, restless: false, replaced: None, death: Death::None };
            } else if self.roll(4) > 0 {
                (manner.busy, manner.restless) = (0, false);
            }
            if undisturbed && self.app.pick_file().is_none() {
                self.app.act_as(Act::Create, "between");
            }
            if self.roll(8) > 0 || undisturbed {
                let used = self.app.touch(self.vaults.ahead);
                self.app.log.extend(used);
            }
        }
    }

    /// Whether the accident has nothing in its way until it is accepted: kills, faults of vaults and acts of the app can keep
    /// all accidents of a run from it. After the first one that is accepted, the others of the history are disturbed.
    fn is_undisturbed(&self) -> bool {
        let can_be = |suffered: Suffered| !suffered.short && suffered.accident != Accident::Emptied;
        self.accident.is_some_and(can_be) && self.app.counters.of("accepted") == 0
    }

    fn request(&mut self, manner: &Manner) -> BackupRequest {
        let often = matches!(manner.death, Death::Checkpoint(_));
        BackupRequest {
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

    /// Takes a backup, during which the app acts, and returns how it ended.
    fn capture(&mut self, request: &BackupRequest, manner: &mut Manner) -> Ended {
        let mut engine = self.engine.take().unwrap_or_else(Engine::start);
        self.app.engine = Some(engine.process());
        self.opened.clear();
        engine.begin(request);
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
        if moment == "Opened" && manner.replaced.as_deref() == Some(path) {
            self.app.replace_again(path, &when);
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

/// Returns where the threads of a process are, as far as a debugger is there to tell.
fn stacks(process: Pid) -> String {
    let mut debugger = Command::new("gdb");
    debugger.args(["-batch", "-ex", "thread apply all backtrace 25", "-p", &process.as_raw_nonzero().to_string()]);
    match debugger.output() {
        Ok(done) => String::from_utf8_lossy(&done.stdout).into_owned(),
        Err(why) => format!("gdb: {why}"),
    }
}

/// Returns the beginning of a long line.
fn cut(line: &str) -> String {
    line.chars().take(600).collect()
}
