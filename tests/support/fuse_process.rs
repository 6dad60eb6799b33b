//! A mounted folder that can hang: the process that serves it is stopped by SIGSTOP, as a server is that is gone.
//!
//! It has to be another process, which takes no request while it is stopped: a request that a server has taken cannot be given up even
//! by a process that is killed, which then never ends. That process is the tests' own binary, which is started with one test,
//! [`SERVER`]; it is stopped between two requests, by the kernel's count of those that are not answered.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::bucket::SHARE;
use super::counter::{state, until};
use super::fuse::GcsFuse;
use super::requirements::Mounted;

/// The test that serves where these variables say so.
const SERVER: &str = "support::fuse_process::serves_a_folder_for_another_test";
const BEHIND: &str = "TESTS_FUSE_BEHIND";
const AT: &str = "TESTS_FUSE_AT";

/// A folder that another process serves; unmounted when dropped.
pub struct StoppableFuse {
    at: PathBuf,
    server: Child,
    /// The file of the kernel's count of its requests that are not answered.
    unanswered: PathBuf,
    /// Where that is mounted.
    _connections: Mounted,
}

impl StoppableFuse {
    /// Mounts the folder `behind` at the folder `at`. None where that cannot be had, which in CI is a failure.
    pub fn mount(behind: &Path, at: &Path) -> Option<Self> {
        // Where it cannot be had, that is told here, by the test's own name.
        drop(GcsFuse::mount(behind, at, SHARE)?);
        let connections = at.with_extension("connections");
        let connections_at = Mounted::of("fusectl", connections.clone())?;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", SERVER, "--ignored"]).env(BEHIND, behind).env(AT, at);
        let server = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut served =
            StoppableFuse { at: at.to_owned(), server, unanswered: PathBuf::new(), _connections: connections_at };
        let device = |path: &Path| rustix::fs::stat(path).unwrap().st_dev;
        let here = device(behind);
        until("mount", Duration::from_secs(60), String::new, || (device(at) != here).then_some(()));
        served.unanswered = connections.join(rustix::fs::minor(device(at)).to_string()).join("waiting");
        Some(served)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).unwrap();
    }

    /// Has it hang: nothing is answered from now on.
    ///
    /// # Panics
    /// It is asked for something all the time.
    pub fn hang(&self) {
        until("moment without a request", Duration::from_secs(20), String::new, || {
            self.signal(Signal::STOP);
            self.is_stopped();
            let unanswered = fs::read_to_string(&self.unanswered).unwrap();
            if unanswered.trim() == "0" {
                return Some(());
            }
            // It has taken one, or one came after it was stopped.
            self.signal(Signal::CONT);
            None
        });
    }

    /// Waits until all of its threads are.
    fn is_stopped(&self) {
        let tasks = || fs::read_dir(format!("/proc/{}/task", self.server.id())).unwrap();
        until("stop of the server", Duration::from_secs(20), String::new, || {
            tasks().all(|task| state(&task.unwrap().path()).is_none_or(|state| state == "T")).then_some(())
        });
    }

    /// Has it go on: all that was asked meanwhile is answered.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for StoppableFuse {
    fn drop(&mut self) {
        self.go_on();
        let done = Command::new("umount").arg("--lazy").arg(&self.at).status();
        if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("{} stays mounted: {done:?}", self.at.display());
        }
        // It ends with its input.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

#[test]
#[ignore = "other tests start it, in a process of its own"]
fn serves_a_folder_for_another_test() {
    let (Some(behind), Some(at)) = (std::env::var_os(BEHIND), std::env::var_os(AT)) else { return };
    let mounted = GcsFuse::mount(Path::new(&behind), Path::new(&at), SHARE).expect("it was mounted before");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    // The other process has unmounted it.
    std::mem::forget(mounted);
}
