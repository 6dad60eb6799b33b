//! A model of an app and its data directory, against which the engine runs.
//!
//! The engine takes snapshots in a process of its own ([`engine`]). At moments of a backup the app ([`app`]) does something
//! to the directory; what was when is taken down ([`history`]). Each snapshot is restored and compared with that
//! ([`oracle`]).
//!
//! Between backups there are accidents ([`accidents`]): the directory is emptied, loses most of what it held, or moves into a
//! new one. Whether a snapshot is suspect then, the rules say ([`suspect`]); the vaults' clock runs ahead, so that days pass in
//! a moment. Every second history has two vaults, which are away, full or damaged in turn ([`vaults`]).
//!
//! ```text
//! LASTGOOD_SOAK=600 LASTGOOD_MODEL_SEED=1 cargo test --test all model::long -- --exact --ignored --nocapture
//! ```
//!
//! runs for so many seconds, over histories of ascending seeds from that one on, and stops at the first thing that is wrong;
//! its seed, the last operations and a folder with everything are told then. With `LASTGOOD_MODEL_HUNT=1` it goes on, and
//! tells at the end what it found first with which seed. With `LASTGOOD_MODEL_MOVES=1` the app only moves things during most
//! backups. The engine has several threads, so that a seed finds the same again often, not always.

mod accidents;
mod app;
mod counters;
mod databases;
mod engine;
mod files;
mod folders;
mod history;
mod oracle;
mod rounds;
mod store;
mod suspect;
mod tree;
mod vaults;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use counters::Counters;
use oracle::Class;
use rounds::{Found, Rounds};
use tempfile::TempDir;

/// Rounds of one history.
const ROUNDS: u64 = 60;
/// After this many rounds everything must have happened. A machine that is too slow for them is not judged.
const ENOUGH: u64 = 2 * ROUNDS;
/// After this many rounds the rare events must have happened, too.
const LONG: u64 = 10 * ROUNDS;
/// How long the short test runs. Its seeds are the same each time: others are for the long one, which nobody's change waits
/// for.
const SHORT: Duration = Duration::from_secs(65);

/// Set if the app only moves things during most backups.
const MOVES: &str = "LASTGOOD_MODEL_MOVES";

/// Returns a number from the environment.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Histories of ascending seeds until the time is over.
struct Run {
    began: Instant,
    time: Duration,
    hunt: bool,
    counters: Counters,
    rounds: u64,
    /// By class: its first seed, rounds and seconds until then, and how often it was found.
    found: BTreeMap<Class, (u64, u64, f64, u64)>,
    fast: Fast,
    /// Whether vaults had disks that can be full.
    disk: bool,
}

/// A folder for what only costs time to write to a disk: in memory, where that can be had.
struct Fast {
    folder: TempDir,
    mounted: bool,
}

impl Fast {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("lastgood-model-fast-").tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=512m", "tmpfs"]).arg(folder.path()).output();
        Fast { folder, mounted: mount.is_ok_and(|done| done.status.success()) }
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        }
    }
}

impl Run {
    fn new(time: Duration, hunt: bool) -> Self {
        Run {
            began: Instant::now(),
            time,
            hunt,
            counters: Counters::default(),
            rounds: 0,
            found: BTreeMap::new(),
            fast: Fast::new(),
            disk: false,
        }
    }

    fn over(&self) -> bool {
        self.began.elapsed() >= self.time
    }

    /// Histories of ascending seeds until the time is over.
    fn histories(&mut self, first: u64) {
        let mut seed = first;
        while !self.over() {
            self.history(seed);
            seed += 1;
        }
    }

    /// Runs one history.
    fn history(&mut self, seed: u64) {
        let mut rounds = Rounds::new(seed, self.fast.folder.path());
        self.disk = rounds.vaults.has_disk();
        println!("seed {seed}");
        for _ in 0..ROUNDS {
            if self.over() {
                break;
            }
            self.rounds += 1;
            let found = rounds.next();
            if !found.is_empty() && self.take(seed, &mut rounds, &found) {
                break;
            }
        }
        self.counters.join(&rounds.app.counters);
    }

    /// Takes down what was found; whether the history ends with it.
    fn take(&mut self, seed: u64, rounds: &mut Rounds, found: &[Found]) -> bool {
        let mut new = false;
        for one in found {
            let seconds = self.began.elapsed().as_secs_f64();
            let first = self.found.entry(one.class).or_insert((seed, self.rounds, seconds, 0));
            first.3 += 1;
            if first.3 == 1 {
                new = true;
                println!("FOUND {:?} with seed {seed} after {} rounds, {seconds:.0} s", one.class, self.rounds);
            }
        }
        if new || !self.hunt {
            rounds.explain(found);
        }
        // A capture looks again in a limited number of rounds: what is moved again and again may slip through each of them.
        let grave = found.iter().find(|one| one.class != Class::MovedAgain);
        if let Some(grave) = grave.filter(|_| !self.hunt) {
            panic!("seed {seed}: {:?}: {}", grave.class, grave.what);
        }
        // A file that is missing in one snapshot spoils no later one.
        new || !found.iter().all(|one| one.class.passes())
    }

    fn end(&self) {
        println!("{} rounds in {:.0} s: {}", self.rounds, self.began.elapsed().as_secs_f64(), self.counters);
        for (class, (seed, rounds, seconds, times)) in &self.found {
            println!("{class:?}: seed {seed}, {rounds} rounds, {seconds:.0} s, {times} times in all");
        }
        let missing = self.counters.missing(self.disk, self.rounds >= LONG);
        if self.rounds < ENOUGH {
            println!("only {} rounds; these never happened: {missing:?}", self.rounds);
        } else if std::env::var_os(MOVES).is_none() {
            assert_eq!(missing, [""; 0], "these never happened");
        }
    }
}

#[test]
fn short() {
    let mut run = Run::new(SHORT, false);
    run.histories(1);
    run.end();
}

#[test]
#[ignore = "it runs for as many seconds as LASTGOOD_SOAK says"]
fn long() {
    let seconds = variable("LASTGOOD_SOAK").filter(|seconds| *seconds > 1).unwrap_or(600);
    let mut run = Run::new(Duration::from_secs(seconds), variable("LASTGOOD_MODEL_HUNT").is_some());
    run.histories(variable("LASTGOOD_MODEL_SEED").unwrap_or(1));
    run.end();
}
