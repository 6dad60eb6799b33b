//! What tests ask of the machine, and do not get everywhere: mounts, another user, a free port.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::tree::set_mode;
use super::{LASTGOOD, Ran, World};

/// Says that this test, or a part of it, is skipped, since the machine lacks `what` (a word such as `gcloud`), and `why`.
///
/// Where `LASTGOOD_SKIPPED` names a file, as in `.ci/run`, a line with the word, the test and the reason is added to it, and
/// `.ci/run` lists them all at its end. Without it, `CI=true` makes this a failure unless `LASTGOOD_CI_SKIP` names the word.
pub fn skipped(what: &str, why: &str) {
    let test = thread::current().name().unwrap_or("a thread").to_owned();
    eprintln!("SKIPPED: {test}: {what}: {why}");
    if let Some(list) = std::env::var_os("LASTGOOD_SKIPPED") {
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        // One write for each line: other tests add theirs at the same time.
        let line = format!("{what}\t{test}\t{why}\n");
        let mut list = File::options().append(true).create(true).open(list).unwrap();
        return list.write_all(line.as_bytes()).unwrap();
    }
    let allowed = std::env::var("LASTGOOD_CI_SKIP").unwrap_or_default();
    let allowed = allowed.split(',').any(|word| word.trim() == what);
    assert!(allowed || std::env::var("CI").as_deref() != Ok("true"), "{what} is missing: {why}");
}

/// A port of loopback that nobody listens at.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A filesystem of its own, unmounted at the end.
pub struct Mounted(PathBuf);

impl Mounted {
    /// One in memory of `size`, such as `64m`, at the new folder `at`; none, with a word why, where it cannot be had.
    pub fn new(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        Self::mount(at, &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
    }

    /// An overlay, as a container's root is one, at the new folder `at`, whose layers are in the folder `layers`, made where
    /// they are missing; none, with a word why, where it cannot be had.
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

    /// The file or folder `from` once more at `at`, which is there; none, with a word why, where it cannot be had.
    pub fn bind(from: &Path, at: PathBuf) -> Option<Self> {
        let from = from.display().to_string();
        Self::mount(at, &["--bind", &from])
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

/// The program run by a user who owns nothing; none where this user cannot be had.
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
        // By a process of its own: what this one has open for writing, one that begins meanwhile has too, and nobody may run it.
        assert!(Command::new("cp").arg(LASTGOOD).arg(&program).status().unwrap().success());
        set_mode(&program, 0o755);
    }
    setpriv.arg(program).args(args).current_dir(world.path("")).env_clear();
    Some(Ran::of(setpriv))
}
