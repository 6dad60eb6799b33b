//! Things that tests need of the machine and do not get everywhere: mounts, another user, a free port.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

pub use super::skipped::skipped;
use super::tree::set_mode;
use super::{LASTGOOD, Ran, World};

/// Returns a port of loopback that nobody listens at.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A filesystem of its own, unmounted at the end.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts one in memory of `size`, such as `64m`, at the new folder `at`; `None`, after printing why, if it is not
    /// available.
    pub fn new(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        Self::mount(at, &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
    }

    /// Mounts an overlay, as a container's root is one, at the new folder `at`, whose layers are in the folder `layers`,
    /// made where they are missing; `None`, after printing why, if it is not available.
    pub fn overlay(layers: &Path, at: PathBuf, more: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let layer = |name: &str| {
            let path = layers.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path.display().to_string()
        };
        let layers = format!("lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
        Self::mount(at, &["-t", "overlay", "-o", &format!("{layers}{more}"), "overlay"])
    }

    /// Mounts the file or folder `from` once more at `at`, which is there; `None`, after printing why, if it is not available.
    pub fn bind(from: &Path, at: PathBuf) -> Option<Self> {
        let from = from.display().to_string();
        Self::mount(at, &["--bind", &from])
    }

    /// Mounts a filesystem of a type, such as `proc`, at the new folder `at`; `None`, after printing why, if it is not available.
    pub fn of(kind: &str, at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        Self::mount(at, &["-t", kind, kind])
    }

    /// As [`Mounted::of`], for a type that not every kernel has: `None` skips nothing.
    pub fn try_of(kind: &str, at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let made = Command::new("mount").args(["-t", kind, kind]).arg(&at).output();
        made.is_ok_and(|made| made.status.success()).then_some(Mounted(at))
    }

    fn mount(at: PathBuf, args: &[&str]) -> Option<Self> {
        let made = Command::new("mount").args(args).arg(&at).output();
        if made.as_ref().is_ok_and(|made| made.status.success()) {
            return Some(Mounted(at));
        }
        skipped("mount", &format!("nothing can be mounted with {args:?}: {made:?}"));
        None
    }

    /// Changes its options.
    pub fn remount(&self, options: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{options}")]).arg(&self.0);
        Ran::of(command).ended(0);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Runs the program as a user who owns nothing; `None` if this user is not available.
pub fn as_nobody(world: &World, args: &[&str]) -> Option<Ran> {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let mut probe = Command::new("setpriv");
    let probed = probe.args(setpriv.get_args()).arg("true").output();
    if !probed.as_ref().is_ok_and(|done| done.status.success()) {
        skipped("other-user", &format!("setpriv gives no other user here: {probed:?}"));
        return None;
    }
    // The folder that cargo builds in may be closed to others.
    let program = world.path("lastgood");
    if !program.exists() {
        set_mode(&world.path(""), 0o777);
        // By a process of its own: what this one has open for writing, one that begins meanwhile has too, and nobody may
        // run it.
        assert!(Command::new("cp").arg(LASTGOOD).arg(&program).status().unwrap().success());
        set_mode(&program, 0o755);
    }
    setpriv.arg(program).args(args).current_dir(world.path("")).env_clear();
    Some(Ran::of(setpriv))
}
