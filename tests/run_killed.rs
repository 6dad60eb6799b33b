//! `lastgood run` and its app are killed at random moments: what comes back is never older than what was acknowledged.
//!
//! ```text
//! LASTGOOD_SOAK=1 cargo test --test all run_killed -- --nocapture
//! ```
//!
//! kills 200 times instead of 5. `LASTGOOD_RUN_SEED` repeats a run that failed, as far as chance goes.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::World;
use crate::support::counter::{Counters, Said, WITHIN, gone};
use crate::support::process::Running;
use crate::support::seeded_random::Dice;
use crate::support::strace::killed_at;

const OPTIONS: [&str; 4] = ["--every", "1s", "--handover-poll", "100ms"];
/// How often a world is killed before there is a new one.
const KILLS: u32 = 8;
/// An instance whose end nobody knows is waited for longer and longer if many start one after the other. So the directory, which
/// tells that it is gone, is missing for the first of them only.
const FIRST: u32 = 2;

/// An app that is killed again and again, and what has to be there.
struct Killed {
    counters: Counters,
    /// The count in the last snapshot that was acknowledged.
    acknowledged: u64,
    /// The count in the directory after the last kill. `None` if the directory was deleted, or not looked at.
    written: Option<u64>,
    /// How often `lastgood run` was started.
    started: u32,
}

impl Killed {
    fn new(dice: &mut Dice) -> Self {
        let mut killed = Killed { counters: Counters::new(), acknowledged: 0, written: None, started: 0 };
        let mut run = killed.start();
        killed.begun(1, &run);
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        killed.acknowledged = killed.counters.stopped("a");
        killed.written = Some(killed.acknowledged);
        killed.delete_sometimes(dice, true);
        killed
    }

    /// Starts `lastgood run`; what was found by the app.
    fn start(&mut self) -> Running {
        self.started += 1;
        self.counters.start("a", "data", &OPTIONS)
    }

    /// Waits for the app's start, and looks at what it finds.
    fn begun(&self, times: usize, run: &Running) -> Said {
        let app = self.counters.begun("a", times, run);
        let (found, log) = (app.count, run.log());
        assert!(found >= self.acknowledged, "{found} is older than {}, acknowledged: {log}", self.acknowledged);
        if let Some(written) = self.written {
            assert!(found >= written, "{found} is older than {written} in the directory: {log}");
        }
        app
    }

    /// Kills something at a random moment.
    fn kill(&mut self, dice: &mut Dice) {
        let (starts, said) = (self.counters.starts("a"), self.counters.said("a").len());
        let may_be_early = self.started < FIRST || self.counters.world.data().exists();
        let mut run = self.start();
        match dice.roll(6) {
            0 if may_be_early => sleep(Duration::from_millis(dice.roll(200))),
            1 if may_be_early => {
                run.log_with("the data in ");
                sleep(Duration::from_millis(dice.roll(100)));
            }
            _ => {
                let app = self.begun(starts + 1, &run);
                sleep(Duration::from_millis(dice.roll(1800)));
                return self.kill_running(dice, &mut run, &app);
            }
        }
        eprintln!("  run, early");
        // Perhaps before its app has started, or just then: whatever that writes is more.
        run.end(Signal::KILL);
        if let Some(app) = self.counters.said("a").get(said) {
            gone(app.pid);
        }
        self.take_acknowledged(&run);
        self.delete_sometimes(dice, false);
    }

    fn kill_running(&mut self, dice: &mut Dice, run: &mut Running, app: &Said) {
        let kill_app = || kill_process(Pid::from_raw(app.pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        let what = dice.roll(4);
        eprintln!("  {}", ["the app", "run", "the app, then run", "run, then the app"][what as usize]);
        match what {
            0 => {
                kill_app();
                assert_eq!(run.wait().0, Some(137), "{}", run.log());
            }
            1 => assert_eq!(run.end(Signal::KILL).0, None),
            2 => {
                kill_app();
                assert_eq!(run.end(Signal::KILL).0, None);
            }
            _ => {
                run.signal(Signal::KILL);
                // It may be gone already, with `lastgood run`.
                let _ = kill_process(Pid::from_raw(app.pid.cast_signed()).unwrap(), Signal::KILL);
                run.wait();
            }
        }
        gone(app.pid);
        let data = self.counters.world.data();
        self.written = data.join("n").exists().then(|| self.counters.count("data"));
        self.take_acknowledged(run);
        if what == 0 {
            // All that the app had written is saved before `lastgood run` ends.
            assert_eq!(Some(self.acknowledged), self.written.or(Some(0)), "{}", run.log());
        }
        self.delete_sometimes(dice, what == 0);
    }

    /// Reads the last snapshot that was acknowledged in a log.
    fn take_acknowledged(&mut self, run: &Running) {
        let log = run.log();
        let mut complete = log.lines().filter(|line| line.contains("backup is complete"));
        let Some(line) = complete.next_back() else { return };
        let (_, rest) = line.split_once("snapshot=\"").unwrap();
        let (snapshot, _) = rest.split_once('"').unwrap();
        let count = self.counters.saved_in(snapshot);
        assert!(count >= self.acknowledged, "{count} after {}: {log}", self.acknowledged);
        let newest = self.counters.saved();
        assert!(newest >= count, "the newest has {newest}, and {count} was acknowledged: {log}");
        self.acknowledged = newest;
    }

    fn delete_sometimes(&mut self, dice: &mut Dice, is_ended: bool) {
        if dice.roll(3) != 0 || !is_ended && self.started > FIRST {
            return;
        }
        eprintln!("  the directory is deleted");
        let began = Instant::now();
        // A process that is being killed may write a last time.
        while let Err(why) = fs::remove_dir_all(self.counters.world.data()) {
            if why.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            assert!(began.elapsed() < WITHIN, "{why}");
        }
        self.written = None;
    }

    /// Starts it a last time, and ends it.
    fn finish(mut self) {
        let starts = self.counters.starts("a");
        let mut run = self.start();
        self.begun(starts + 1, &run);
        assert_eq!(run.end(Signal::TERM).0, Some(0), "{}", run.log());
        assert_eq!(self.counters.saved(), self.counters.stopped("a"));
        self.counters.nothing_is_set_aside();
        self.counters.world.run(["verify", "--read-data"]).ended(0);
    }
}

#[test]
fn killed_at_random_moments() {
    let kills = if std::env::var_os("LASTGOOD_SOAK").is_some() { 200 } else { 5 };
    let given = std::env::var("LASTGOOD_RUN_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let seed = given.unwrap_or_else(now);
    eprintln!("LASTGOOD_RUN_SEED={seed}");
    let mut dice = Dice(seed);
    let mut killed = Killed::new(&mut dice);
    for round in 0..kills {
        if killed.started > KILLS {
            std::mem::replace(&mut killed, Killed::new(&mut dice)).finish();
        }
        eprintln!("kill {round}");
        killed.kill(&mut dice);
    }
    killed.finish();
}

#[test]
fn killed_at_each_step_of_a_start_and_an_end() {
    let world = World::new();
    world.write("0", "0");
    world.run(["run", "--init", "--", "true"]).ended(0);
    // The snapshots' files are in another place from now on.
    fs::remove_dir_all(world.data()).unwrap();
    world.run(["run", "--", "true"]).ended(0);
    let mut round = 0;
    let mut kills = 0;
    for call in ["renameat", "renameat2", "linkat"] {
        for n in 1.. {
            // What an app wrote that was killed with `lastgood run`, and what it deleted.
            fs::remove_file(world.data().join(round.to_string())).unwrap();
            round += 1;
            world.write(&round.to_string(), round.to_string());
            let run = world.command(["run", "--every", "off", "--", "true"]);
            let Some(is_ended) = killed_at(&run, call, n) else { return };
            // The data is not replaced: it comes from the newest snapshot.
            world.run(["state"]).ended(0);
            if is_ended {
                break;
            }
            kills += 1;
            assert!(kills < 100, "it is killed at each {call}");
        }
    }
    assert!(kills > 10, "only {kills} kills");
    world.run(["verify", "--read-data"]).ended(0);
}
