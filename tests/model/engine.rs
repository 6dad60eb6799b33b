//! The engine in a process of its own, which can be killed at any moment and has no locks in common with the app.
//!
//! Both sides talk over a socket, line by line. At each moment of a backup the engine tells which one it is and waits for
//! leave to go on, one of its threads at a time; the others run until they come to a moment themselves.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lastgood::backup::options::BackupOptions;
use lastgood::monitor::{Context, Moment, Monitor, system_random};
use lastgood::path::EntryPath;
use lastgood::replicas::Site;
use lastgood::replicas::backup::back_up;
use lastgood::source::stable::Trust;
use lastgood::vault::entry::CheckKind;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::Location;

/// Set for the process that is the engine.
const ENGINE: &str = "LASTGOOD_MODEL_ENGINE";

/// One backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupRequest {
    /// The vaults, which are replicas of one.
    pub vaults: Vec<Location>,
    /// By how much the vaults' clock is ahead of the machine's, in seconds: days pass in a moment there.
    pub ahead: i64,
    /// The data directory.
    pub data: PathBuf,
    /// Microseconds between checkpoints.
    pub checkpoint_every: u64,
    /// Milliseconds for which a database may stay locked.
    pub busy: u64,
    /// Whether everything is read.
    pub verify_content: bool,
    /// Whether SQLite checks the databases.
    pub check: bool,
    /// A file that changed so shortly before it was read is not trusted, in ns.
    pub window: i64,
    /// One in this many unchanged files is read all the same.
    pub sample: u64,
    /// Whether a directory that lost most of what it held is meant to be so.
    pub accept_shrink: bool,
    /// The stand-in for the machine's boot id.
    pub boot: String,
}

/// A message of the engine.
pub enum Heard {
    /// It has come to a moment, at a path.
    Reached(String, String),
    /// The backup has ended: its report, or why there is none.
    Ended(Result<Value, String>),
    /// It says nothing at the moment.
    Nothing,
}

/// The other process.
pub struct Engine {
    child: Child,
    line: BufReader<UnixStream>,
    /// The part of a line that has come so far.
    half: String,
}

impl Engine {
    /// Starts one.
    pub fn start() -> Engine {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "model::engine::entry", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ENGINE, "1").stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        Engine { child: command.spawn().unwrap(), line: BufReader::new(ours), half: String::new() }
    }

    /// Begins a backup.
    pub fn begin(&mut self, request: &BackupRequest) {
        self.say(&serde_json::to_string(request).unwrap());
    }

    /// Lets it go on.
    pub fn go(&mut self) {
        self.say("");
    }

    fn say(&mut self, what: &str) {
        self.line.get_mut().write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    /// Waits up to `patience` for its next message.
    pub fn hear(&mut self, patience: Duration) -> Heard {
        self.line.get_ref().set_read_timeout(Some(patience)).unwrap();
        match self.line.read_line(&mut self.half) {
            Ok(0) => panic!("the engine's process ended by itself: {:?}", self.child.wait()),
            Ok(_) => {}
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Heard::Nothing,
            Err(why) => panic!("the engine's process cannot be heard: {why}"),
        }
        let said = std::mem::take(&mut self.half);
        match said.trim_end_matches('\n').split_once(' ').unwrap() {
            ("ended", what) => Heard::Ended(serde_json::from_str(what).unwrap()),
            (moment, path) => Heard::Reached(moment.to_owned(), path.to_owned()),
        }
    }

    /// Ends it with SIGKILL, wherever it is.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Returns its process.
    pub fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does something while all threads of a process stand still, so that it is done in one moment.
pub fn frozen<T>(process: Option<Pid>, act: impl FnOnce() -> T) -> T {
    let Some(process) = process else { return act() };
    kill_process(process, Signal::STOP).unwrap();
    waitpid(Some(process), WaitOptions::UNTRACED).unwrap();
    let done = act();
    kill_process(process, Signal::CONT).unwrap();
    done
}

/// Tells of each moment, and waits.
struct Asking(Mutex<BufReader<UnixStream>>);

impl Monitor for Asking {
    fn reached(&self, moment: Moment, path: &EntryPath) {
        let mut line = self.0.lock().unwrap();
        tell(&mut line, &format!("{moment:?} {path}"));
        hear(&mut line);
    }
}

fn tell(line: &mut BufReader<UnixStream>, what: &str) {
    if line.get_mut().write_all(format!("{what}\n").as_bytes()).is_err() {
        std::process::exit(0);
    }
}

fn hear(line: &mut BufReader<UnixStream>) -> String {
    let mut said = String::new();
    // Without the test there is nothing to do.
    if !matches!(line.read_line(&mut said), Ok(1..)) {
        std::process::exit(0);
    }
    said
}

/// The beginning of the engine's process; in any other process it does nothing.
#[test]
#[ignore = "the beginning of processes that the model starts"]
fn entry() {
    if std::env::var_os(ENGINE).is_none() {
        return;
    }
    let line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let asking = Asking(Mutex::new(BufReader::new(line)));
    loop {
        let request = hear(&mut asking.0.lock().unwrap());
        let done = serve(&serde_json::from_str(&request).unwrap(), &asking);
        tell(&mut asking.0.lock().unwrap(), &format!("ended {}", serde_json::to_string(&done).unwrap()));
    }
}

fn serve(request: &BackupRequest, asking: &Asking) -> Result<Value, String> {
    let look = |at: &Location| Site::probe(at.url(), true, Ok(at.open(request.ahead)));
    let sites = request.vaults.iter().map(look).collect();
    let stop = AtomicBool::new(false);
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: asking };
    let options = BackupOptions {
        data: request.data.clone(),
        verify_content: request.verify_content,
        accept_shrink: request.accept_shrink,
        check: request.check.then_some(CheckKind::Full),
        busy_timeout: Duration::from_millis(request.busy),
        trust: Trust {
            window: request.window,
            writeback: request.window,
            sample: request.sample,
            at_least: 0,
            ..Trust::default()
        },
        checkpoint_every: Duration::from_micros(request.checkpoint_every),
        boot: request.boot.clone(),
        level: 1,
        ..BackupOptions::default()
    };
    let report = back_up(sites, &options, &ctx).map_err(|why| why.to_string())?;
    Ok(serde_json::to_value(report).unwrap())
}
