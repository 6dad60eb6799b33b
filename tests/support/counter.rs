//! An app for `lastgood run` that counts in its data directory, and tells where it begins and stops.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::World;
use super::cloud::server::Server;
use super::cloud::vault_in;
use super::process::Running;

/// How long anything may take that is waited for.
pub const WITHIN: Duration = Duration::from_secs(25);

/// Counts in `$LASTGOOD_DATA/n`, where every count is on the disk as a whole. Each start and each orderly end is a line of
/// `said-NAME`; the count of the last line is on the disk. After SIGTERM it ends with the code of its second argument.
const COUNTER: &str = r#"
import os, signal, sys, time
name, code, data = sys.argv[1], int(sys.argv[2]), os.environ["LASTGOOD_DATA"]
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
def say(what):
    out = os.open("said-" + name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(out, f"{os.getpid()} {what} {n}\n".encode())
    os.close(out)
os.makedirs(data, exist_ok=True)
path = os.path.join(data, "n")
n = int(open(path).read()) if os.path.exists(path) else 0
say("begins")
while not stopped:
    n += 1
    with open(path + ".new", "w") as file:
        file.write(str(n))
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    time.sleep(0.02)
say("stops")
sys.exit(code)
"#;

/// Instances of the counter in one world, which share its vault.
pub struct Counters {
    pub world: World,
}

/// A line that an instance said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub pid: u32,
    pub what: String,
    pub count: u64,
}

impl Counters {
    /// Creates a world with none.
    pub fn new() -> Self {
        Counters::within(World::new())
    }

    /// Has a world run the counter.
    pub fn within(world: World) -> Self {
        fs::write(world.path("counter.py"), COUNTER).unwrap();
        Counters { world }
    }

    /// Creates a world with none, whose vault is in a bucket.
    pub fn in_bucket() -> (Server, Self) {
        let (server, world) = vault_in(World::new());
        (server, Counters::within(world))
    }

    /// Starts `lastgood run` with these options around the counter, in the data directory `data`.
    pub fn start(&self, name: &str, data: &str, options: &[&str]) -> Running {
        self.start_with_code(name, data, options, 0)
    }

    /// Starts it as [`start`](Self::start) does, and waits until it counts.
    #[track_caller]
    pub fn started(&self, name: &str, data: &str, options: &[&str]) -> Running {
        let run = self.start(name, data, options);
        self.counts(name, data, &run);
        run
    }

    /// Starts it as [`started`](Self::started) does, and has all vaults take a snapshot.
    #[track_caller]
    pub fn started_and_saved(&self, name: &str, data: &str, options: &[&str]) -> Running {
        let run = self.started(name, data, options);
        run.signal(Signal::USR1);
        run.log_with("backup is complete");
        run
    }

    /// Waits until the first instance of a name has begun, and counts.
    #[track_caller]
    pub fn counts(&self, name: &str, data: &str, run: &Running) {
        self.begun(name, 1, run);
        self.counted_beyond(data, 3, run);
    }

    /// Starts it as [`start`](Self::start) does, with the exit code of the counter.
    pub fn start_with_code(&self, name: &str, data: &str, options: &[&str], code: u8) -> Running {
        let code = code.to_string();
        let app = ["--", "python3", "-I", "-S", "counter.py", name, &code];
        let mut command = self.world.command([&["run", "--init"], options, &app].concat());
        command.env("LASTGOOD_DATA", self.world.path(data));
        Running::start(without_terminal(&command), "")
    }

    /// Returns what all instances of a name have said.
    pub fn said(&self, name: &str) -> Vec<Said> {
        let text = fs::read_to_string(self.world.path(format!("said-{name}"))).unwrap_or_default();
        let parse = |line: &str| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap().to_owned();
            Said { pid: next().parse().unwrap(), what: next(), count: next().parse().unwrap() }
        };
        // The last line may be on its way.
        text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|line| parse(line.trim_end())).collect()
    }

    fn of(&self, name: &str, what: &str) -> Vec<Said> {
        self.said(name).into_iter().filter(|said| said.what == what).collect()
    }

    /// Returns how often the instances of a name have begun.
    pub fn starts(&self, name: &str) -> usize {
        self.of(name, "begins").len()
    }

    /// Waits until the instances of a name have begun this often; the last one.
    #[track_caller]
    pub fn begun(&self, name: &str, times: usize, run: &Running) -> Said {
        self.begun_within(name, times, run, WITHIN)
    }

    /// The same, with another time for it.
    #[track_caller]
    pub fn begun_within(&self, name: &str, times: usize, run: &Running, within: Duration) -> Said {
        until(
            &format!("start {times} of {name}"),
            within,
            || run.log(),
            || self.of(name, "begins").get(times - 1).cloned(),
        )
    }

    /// Returns the count at the last orderly end of a name's instances.
    #[track_caller]
    pub fn stopped(&self, name: &str) -> u64 {
        self.of(name, "stops").last().expect("it did not stop").count
    }

    /// Returns the count in a data directory.
    #[track_caller]
    pub fn count(&self, data: &str) -> u64 {
        count(&self.world.path(data))
    }

    /// Waits until the count in a data directory is greater than `than`.
    #[track_caller]
    pub fn counted_beyond(&self, data: &str, than: u64, run: &Running) {
        let read = || fs::read_to_string(self.world.path(data).join("n")).ok()?.parse::<u64>().ok();
        until(&format!("a count over {than}"), WITHIN, || run.log(), || read().filter(|n| *n > than));
    }

    /// Returns the count in the newest good snapshot.
    #[track_caller]
    pub fn saved(&self) -> u64 {
        self.saved_in("latest")
    }

    /// Returns the count in a snapshot.
    #[track_caller]
    pub fn saved_in(&self, snapshot: &str) -> u64 {
        let out = self.world.path("out");
        let _ = fs::remove_dir_all(&out);
        self.world.restore_snapshot(snapshot, "out");
        // Before its first count an app has none.
        if out.join("n").exists() { count(&out) } else { 0 }
    }

    /// Returns the snapshots, newest first.
    pub fn snapshots(&self) -> Vec<Value> {
        self.world.json(["list"], 0).as_array().unwrap().clone()
    }

    /// Asserts that nothing was set aside, beside the directory or in the vault.
    #[track_caller]
    pub fn nothing_is_set_aside(&self) {
        assert!(self.aside().is_empty(), "{:?}", self.aside());
        let snapshots = self.snapshots();
        assert!(snapshots.iter().all(|snapshot| snapshot["state"] == "complete"), "{snapshots:?}");
        assert!(!self.world.vault().join("pins").exists());
    }

    /// Returns the names of what lies aside, where it was replaced.
    pub fn aside(&self) -> Vec<String> {
        let names = fs::read_dir(self.world.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name.contains(".replaced-")).collect()
    }
}

fn count(data: &Path) -> u64 {
    fs::read_to_string(data.join("n")).unwrap().parse().unwrap()
}

/// Returns a command that has no terminal, wherever the tests are run: the app would share its signals.
pub fn without_terminal(command: &Command) -> Command {
    let mut alone = Command::new("setsid");
    alone.arg(command.get_program()).args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => alone.env(name, value),
            None => alone.env_remove(name),
        };
    }
    alone
}

/// Waits until there is something.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, log: impl Fn() -> String, find: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(began.elapsed() < within, "no {what} after {within:?}: {}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the letter of the state of a process or a thread, by its folder in `/proc`. None if it is gone.
pub fn state(process: &Path) -> Option<String> {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit(')').next()?.split_whitespace().next().map(str::to_owned)
}

/// Waits until a process is gone: one that has ended and is waited for by nobody counts as gone.
#[track_caller]
pub fn gone(pid: u32) {
    let ended =
        || state(Path::new(&format!("/proc/{pid}"))).is_none_or(|state| state == "Z" || state == "X").then_some(());
    until(&format!("end of process {pid}"), WITHIN, String::new, ended);
}

/// Kills `lastgood run` (SIGKILL), and waits until its app is gone, too.
#[track_caller]
pub fn kill(run: &mut Running, app: &Said) {
    assert_eq!(run.end(Signal::KILL).0, None);
    gone(app.pid);
}
