//! Shared parts of the tests of the whole program: a place of their own, the compiled program, trees and their comparison.

pub mod bank;
pub mod bucket;
pub mod cloud;
pub mod cloud_run;
pub mod compare;
pub mod counter;
pub mod database;
pub mod database_process;
pub mod doctor;
pub mod fuse;
pub mod fuse_process;
pub mod google_python_client;
pub mod http;
pub mod process;
pub mod pubsub;
pub mod python;
pub mod requirements;
pub mod rust;
pub mod seeded_random;
pub mod skipped;
pub mod slow;
pub mod strace;
pub mod terminal;
pub mod tree;
pub mod webhook;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The compiled program.
pub const LASTGOOD: &str = env!("CARGO_BIN_EXE_lastgood");

/// The text of the marker in a directory that is half restored as a whole.
pub const MARKED: &str =
    "lastgood is filling this folder, or was stopped while it did. Restore again to complete it.\n";

/// A run that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Beginnings of the names of variables that the program or its libraries read; none comes from outside into a test, so
/// that no test finds credentials.
const VARIABLES: [&str; 27] = [
    "LASTGOOD_",
    "K_SERVICE",
    "PORT",
    "BACKUP_INTERVAL_MINUTES",
    "DATA_FRESHNESS",
    "CRITICAL_FILES",
    "PUBSUB_",
    "CLOUD_RUN_",
    "RUST_LOG",
    "GOOGLE_",
    "GCLOUD_",
    "GCP_",
    "GCS_",
    "GCE_",
    "BACKUP_BUCKET_NAME",
    "STORAGE_",
    "CLOUDSDK_",
    "AWS_",
    "SSL_CERT_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// Where no metadata server is: a port of this machine that nothing listens on.
const NO_METADATA_SERVER: &str = "127.0.0.1:9";

/// A folder of its own, which is the working directory of all commands: data in `data`, vault in `backups`.
pub struct World {
    folder: TempDir,
    variables: Vec<(String, OsString)>,
}

impl World {
    /// Creates an empty one.
    pub fn new() -> Self {
        World { folder: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// Returns the same with a variable in the environment of all commands.
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Returns the same with its vault in a bucket of a server that stands for Google Cloud Storage, for all commands.
    pub fn on(self, server: &str, vault: &str) -> Self {
        self.with("STORAGE_EMULATOR_HOST", server).with("LASTGOOD_VAULT", vault)
    }

    /// Creates one with a data directory of every kind of entry.
    pub fn with_everything() -> Self {
        let world = World::new();
        tree::everything(&world.data());
        world
    }

    /// Creates one with a data directory of a few ordinary files.
    pub fn with_files() -> Self {
        let world = World::new();
        for (path, content) in
            [("a.txt", "first\n"), ("logs/app.log", "one\ntwo\n"), ("uploads/x/y.bin", "\0\u{1}\u{2}")]
        {
            world.write(path, content);
        }
        world
    }

    /// Returns a path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the data directory.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Returns the vault's folder.
    pub fn vault(&self) -> PathBuf {
        self.path("backups")
    }

    /// Writes a file of the data directory, with the folders above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.data().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Returns the program with arguments, to be spawned.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.clean(LASTGOOD);
        command.args(args);
        command
    }

    /// Runs a shell script, in which `$LASTGOOD` is the program.
    pub fn shell(&self, script: &str) -> Ran {
        let mut command = self.clean("sh");
        command.args(["-euc", script]).env("LASTGOOD", LASTGOOD);
        Ran::of(command)
    }

    /// Returns a program that knows nothing of the surroundings of the tests.
    fn clean(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path());
        for (name, _) in std::env::vars_os() {
            if VARIABLES.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes())) {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.folder.path()).env("GCE_METADATA_HOST", NO_METADATA_SERVER);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(args))
    }

    /// Returns the JSON document of a run, which must end with `code`.
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, code: i32) -> Value {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).chain(["--json".into()]);
        let ran = self.run(args);
        ran.ended(code);
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
    }

    /// Backs up `data` into `backups`, which must succeed; the report.
    pub fn backup(&self) -> Value {
        self.json(["backup"], 0)
    }

    /// Restores the newest good snapshot into the new folder `target`, which must succeed; the report.
    pub fn restore(&self, target: &str) -> Value {
        self.json(["restore", target], 0)
    }

    /// Returns the snapshots, newest first, once there are at least this many.
    #[track_caller]
    pub fn snapshots_once(&self, at_least: usize, within: Duration) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let list = self.json(["list"], 0).as_array().unwrap().clone();
            if list.len() >= at_least {
                return list;
            }
            assert!(began.elapsed() < within, "{} snapshots after {within:?}", list.len());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Restores one snapshot of `backups` into the new folder `target`, which must succeed; the report.
    pub fn restore_snapshot(&self, snapshot: &str, target: &str) -> Value {
        self.json(["restore", target, "--snapshot", snapshot], 0)
    }
}

/// How a run ended and what it wrote.
#[derive(Clone)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    /// Runs a command to its end.
    pub fn of(command: Command) -> Self {
        let Output { status, stdout, stderr } =
            assert_cmd::Command::from_std(command).timeout(TIMEOUT).output().unwrap();
        Ran { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn ended(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Returns standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Asserts that stderr says something.
    #[track_caller]
    pub fn says(&self, what: &str) -> &Self {
        assert!(self.stderr.contains(what), "no {what:?} in {self:?}");
        self
    }
}

impl std::fmt::Debug for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4000)]);
        write!(f, "exit code {:?}\nstdout: {shown}\nstderr: {}", self.code, self.stderr)
    }
}

/// Whether the tests run as root, who may read, own and chown everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the name of the snapshot that a report is about.
pub fn id(report: &Value) -> &str {
    report["snapshot"].as_str().unwrap()
}

/// Returns the part of that name that people type.
pub fn short(report: &Value) -> &str {
    id(report).rsplit('-').next().unwrap()
}

/// Returns a number of a report.
pub fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} of {report}"))
}

/// Returns the paths of an `ls --json` or `diff --json`.
pub fn paths(listing: &Value) -> Vec<&str> {
    listing.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect()
}
