//! Processes that a killed `run` left: its app has died with it, but what the app had started may go on writing to the data.
//!
//! A process is ended here only if it is proven to be one of these. Numbers of processes are used again, so a number alone proves
//! nothing:
//!
//! - Numbers mean something only in the boot and in the namespace in which they were written down ([`ProcessSpace`]). In another
//!   container, or after a boot, nothing is proven and nothing is ended.
//! - A process is told from others of its number by when it began ([`ProcessIdentity`]).
//! - The app gets a random mark in its environment ([`MARK`]), which everything that it starts inherits, also what leaves its
//!   process group and whatever closes inherited descriptors, as Python's `subprocess` does. The app itself and its process group are
//!   no proof: the app is dead, and a group may be formed again under its number.
//! - A program may overwrite its environment to change its title. So in the app's group and session all are taken for proven as soon as
//!   one of them is, or the app's zombie is there: the group has had a member ever since then, and is the same one.
//! - A program may be started with an emptied environment. `run` looks for such processes while the app runs, and writes down which
//!   they are ([`unmarked`]): one of them is proven as long as it lives, by its number and when it began.
//! - What a proven process has started is proven: the parent of a process is the one that started it, or one that orphans of its own
//!   descendants came to.
//! - All of them are of this user.
//!
//! What stays unknown has an emptied environment, was started after the last look, its parent is gone, and no proven process is in its
//! group. Nothing that the kernel keeps proves it. The numbers of the group and the session are used again as soon as neither has a
//! member, and a process may have begun before the group of its number did. A session of the app's own would say more; but a program
//! that leads a session takes any terminal that it opens for its own, and gets that one's signals. A cgroup of the app's own cannot be
//! made in a container as a rule, and that of the container has others in it. Descriptors that are inherited are closed by what empties
//! the environment, too. It is left, since to end a process of somebody else is worse.
//!
//! A signal goes to a descriptor of the process, which is proven once more while that is held. Where the system has no such
//! descriptors, nothing gets a signal.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, geteuid, getpid, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fs::holders::program;
use crate::monitor::system_random;
use crate::vault::hex::Hex;

/// The variable in the app's environment by which what it started is known.
pub const MARK: &str = "LASTGOOD_RUN_MARK";
/// How often it is looked for processes while they end.
const STEP: Duration = Duration::from_millis(50);
/// How long processes that were killed are waited for: those that wait for a disk end later.
const KILLED: Duration = Duration::from_secs(5);
/// The most processes without the mark that are written down.
const MAX_UNMARKED: usize = 100;
/// Where in `/proc/<pid>/stat`, after the name, the time is at which a process began.
const START: usize = 19;

/// A process, told from all others that have its number at another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its number.
    pub pid: u32,
    /// When it began, in clock ticks since the boot.
    pub start: u64,
}

/// Where the number of a process stands for that process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpace {
    /// The id of the boot.
    boot: String,
    /// The number of the namespace of processes.
    namespace: u64,
    /// The number of the namespace of clocks, by which the times are counted at which processes began. `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clocks: Option<u64>,
}

/// The leader of a process group, and the session that it was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppGroup {
    /// The leader: the app.
    app: ProcessIdentity,
    /// The number of the session.
    session: u32,
}

/// By what a `run`, and what its app has started, are known to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProof {
    space: ProcessSpace,
    run: ProcessIdentity,
    mark: String,
    /// `None` before the app has started, and where it is in the group of `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<AppGroup>,
    /// What the app has started without its mark: the numbers, and when each began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unmarked: Vec<(u32, u64)>,
}

/// What `/proc` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    identity: ProcessIdentity,
    parent: u32,
    group: u32,
    session: u32,
    /// Whether it has ended, and only its status is left.
    zombie: bool,
}

impl ProcessSpace {
    /// The one that this process is in. `None` where the system does not tell.
    pub fn here() -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
        let clocks = fs::metadata("/proc/self/ns/time").ok().map(|found| found.ino());
        (!boot.is_empty()).then_some(ProcessSpace { boot, namespace, clocks })
    }
}

impl RunProof {
    /// By what this process is known. `None` where the system tells too little.
    pub fn of_this() -> Option<Self> {
        let run = Process::look(this())?.identity;
        Some(RunProof {
            space: ProcessSpace::here()?,
            run,
            mark: mark().ok()?.to_owned(),
            group: None,
            unmarked: Vec::new(),
        })
    }

    /// Adds the app, if it leads a process group.
    pub fn with_app(self, pid: u32) -> Self {
        let app = Process::look(pid).filter(|app| app.group == pid);
        RunProof { group: app.map(|app| AppGroup { app: app.identity, session: app.session }), ..self }
    }

    /// Has these be what the app has started without its mark: the oldest of them, if they are many. Returns whether that is news.
    pub fn set_unmarked(&mut self, processes: &[ProcessIdentity]) -> bool {
        let mut unmarked: Vec<_> = processes.iter().map(|found| (found.pid, found.start)).collect();
        unmarked.sort_unstable_by_key(|&(pid, start)| (start, pid));
        unmarked.truncate(MAX_UNMARKED);
        let is_news = self.unmarked != unmarked;
        self.unmarked = unmarked;
        is_news
    }

    /// Whether that `run` has ended, which is known only where its number means something.
    pub fn is_gone(&self) -> bool {
        ProcessSpace::here().as_ref() == Some(&self.space) && !still_runs(self.run)
    }

    /// Returns the processes that its app has started and that are there, if it has ended itself.
    pub fn left(&self) -> Vec<ProcessIdentity> {
        if !self.is_gone() {
            return Vec::new();
        }
        let all: Vec<_> = processes().filter(|found| is_ours(found.identity.pid)).collect();
        let is_known = |found: &&Process| {
            let ProcessIdentity { pid, start } = found.identity;
            self.unmarked.contains(&(pid, start)) || has_mark(pid, &self.mark)
        };
        let known: Vec<_> = all.iter().filter(is_known).copied().collect();
        proven(self.group, &all, &known, &ancestors(this(), &all))
    }

    /// Ends what is [left](Self::left): with SIGTERM, and after a time with SIGKILL. Returns what was there, for people.
    ///
    /// # Errors
    /// What is there all the same, for people; all that is there at a stop.
    pub fn end_left(&self, time: Duration, stop: &AtomicBool) -> Result<Vec<String>, Vec<String>> {
        let (term, kill) = (Instant::now() + time, Instant::now() + time + KILLED);
        let mut told: Vec<ProcessIdentity> = Vec::new();
        let mut names = Vec::new();
        loop {
            let mut left = self.left();
            // What was proven once stays so: the zombie that proved a group may be gone.
            left.extend(
                told.iter().filter(|found| !left.contains(found) && still_runs(**found)).copied().collect::<Vec<_>>(),
            );
            for found in left.iter().filter(|found| !told.contains(found)) {
                let name = format!("{} {}", found.pid, program(found.pid));
                tracing::warn!("process {name} is left of a `lastgood run` that was killed: it is ended");
                names.push(name);
            }
            let now = Instant::now();
            match left.is_empty() {
                true => return Ok(names),
                false if now >= kill || stop.load(Ordering::Relaxed) => {
                    return Err(left.iter().map(|left| format!("{} {}", left.pid, program(left.pid))).collect());
                }
                false => {}
            }
            for found in &left {
                match now < term {
                    true if told.contains(found) => {}
                    // A process that is stopped does nothing with a signal.
                    true => [Signal::TERM, Signal::CONT].into_iter().for_each(|signal| self.send(*found, signal)),
                    false => self.send(*found, Signal::KILL),
                }
            }
            told.extend(left.iter().filter(|found| !told.contains(found)).copied().collect::<Vec<_>>());
            std::thread::sleep(STEP);
        }
    }

    /// Sends a signal to a process that was proven.
    fn send(&self, to: ProcessIdentity, signal: Signal) {
        let Some(pid) = i32::try_from(to.pid).ok().and_then(Pid::from_raw) else { return };
        let sent = pidfd_open(pid, PidfdFlags::empty()).and_then(|held| {
            // Its number may have become another process's before it was held.
            match Process::look(to.pid).map(|now| now.identity) == Some(to) {
                true => pidfd_send_signal(&held, signal),
                false => Ok(()),
            }
        });
        if let Err(why) = sent {
            tracing::debug!("no signal was sent to process {}: {why}", to.pid);
        }
    }
}

/// Whether a process is there and has not ended.
fn still_runs(process: ProcessIdentity) -> bool {
    Process::look(process.pid).is_some_and(|now| now.identity == process && !now.zombie)
}

/// The mark of what this process runs.
///
/// # Errors
/// The system gives no random bytes.
pub fn mark() -> Result<&'static str> {
    static OWN: OnceLock<String> = OnceLock::new();
    if OWN.get().is_none() {
        let mut random = [0; 16];
        system_random(&mut random)?;
        // Another thread may have been faster.
        let _ = OWN.set(Hex(random).to_string());
    }
    Ok(OWN.get().map_or("", String::as_str))
}

/// The app that this process runs, if that leads a process group.
pub fn app_of_this() -> Option<u32> {
    let mark = mark().ok()?;
    let leads = |found: &Process| found.parent == this() && found.group == found.identity.pid && !found.zombie;
    processes().filter(leads).map(|found| found.identity.pid).find(|pid| has_mark(*pid, mark))
}

/// Returns those of the app's processes that do not have its mark. `family` tells the numbers of all that it has started: twice, since a
/// number may become another process's after it was told.
pub fn unmarked(family: impl Fn() -> Vec<u32>) -> Vec<ProcessIdentity> {
    let Ok(mark) = mark() else { return Vec::new() };
    let look = |pid| Process::look(pid).filter(|found| !found.zombie).map(|found| found.identity);
    let is_bare = |pid: &u32| is_ours(*pid) && !has_mark(*pid, mark);
    let bare: Vec<_> = family().into_iter().filter(is_bare).filter_map(look).collect();
    if bare.is_empty() {
        return bare;
    }
    let again = family();
    bare.into_iter().filter(|found| again.contains(&found.pid) && look(found.pid) == Some(*found)).collect()
}

/// Whether a process has a mark in its environment.
fn has_mark(pid: u32, mark: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entry = format!("{MARK}={mark}").into_bytes();
    environment.split(|&byte| byte == 0).any(|variable| variable == entry)
}

fn this() -> u32 {
    getpid().as_raw_nonzero().get().cast_unsigned()
}

/// Whether a process is of this user.
fn is_ours(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == geteuid().as_raw())
}

/// Returns the living processes that are proven: those that are `known`, those in the app's group if one of that is, and what these have
/// started.
fn proven(group: Option<AppGroup>, all: &[Process], known: &[Process], but: &[u32]) -> Vec<ProcessIdentity> {
    let group = group.filter(|group| {
        let is_member = |found: &Process| (found.group, found.session) == (group.app.pid, group.session);
        all.iter().any(|found| is_member(found) && (found.identity == group.app || known.contains(found)))
    });
    let in_group =
        |found: &Process| group.is_some_and(|group| (found.group, found.session) == (group.app.pid, group.session));
    let may_be = |found: &&Process| !found.zombie && !but.contains(&found.identity.pid);
    let is_left = |found: &&Process| known.contains(found) || in_group(found);
    let mut left: Vec<_> = all.iter().filter(may_be).filter(is_left).map(|found| found.identity).collect();
    loop {
        let is_new =
            |found: &&Process| !left.contains(&found.identity) && left.iter().any(|parent| parent.pid == found.parent);
        let more: Vec<_> = all.iter().filter(may_be).filter(is_new).map(|found| found.identity).collect();
        if more.is_empty() {
            return left;
        }
        left.extend(more);
    }
}

/// Returns a process and those that it descends from: an app's remains may have started this very program again.
fn ancestors(of: u32, all: &[Process]) -> Vec<u32> {
    let mut line = vec![of];
    while let Some(found) = line.last().and_then(|last| all.iter().find(|found| found.identity.pid == *last))
        && !line.contains(&found.parent)
    {
        line.push(found.parent);
    }
    line
}

/// Returns all processes that can be seen.
fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| Process::look(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

impl Process {
    /// Looks at a process. `None` if there is none.
    fn look(pid: u32) -> Option<Process> {
        let text: io::Result<Vec<u8>> = fs::read(format!("/proc/{pid}/stat"));
        Process::parse(pid, &String::from_utf8_lossy(&text.ok()?))
    }

    /// Parses `1234 (any (name) S 1 1234 1234 …`.
    fn parse(pid: u32, stat: &str) -> Option<Process> {
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
        let start = fields.get(START)?.parse().ok()?;
        Some(Process {
            identity: ProcessIdentity { pid, start },
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            zombie: matches!(*fields.first()?, "Z" | "X"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    fn process(pid: u32, parent: u32, group: u32) -> Process {
        let identity = ProcessIdentity { pid, start: u64::from(pid) };
        Process { identity, parent, group, session: 7, zombie: false }
    }

    #[test]
    fn a_stat_is_read_as_the_kernel_writes_it() {
        let text = "42 (a) Z (b) S 1 40 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 99";
        let identity = ProcessIdentity { pid: 42, start: 12345 };
        assert_eq!(
            Process::parse(42, text),
            Some(Process { identity, parent: 1, group: 40, session: 7, zombie: false })
        );
        assert_eq!(Process::parse(42, "42 (cut) S 1 40"), None);
        let own = Process::look(this()).unwrap();
        assert!(own.identity.start > 0 && Process::look(this()) == Some(own));
    }

    #[test]
    fn a_group_is_proven_by_one_of_its_members_alone() {
        let app = ProcessIdentity { pid: 10, start: 10 };
        let group = Some(AppGroup { app, session: 7 });
        let (marked, bare, other) = (process(11, 1, 10), process(12, 1, 10), process(13, 1, 13));
        let elsewhere = Process { session: 8, ..process(14, 1, 10) };
        let all = [marked, bare, other, elsewhere, process(20, 19, 10), process(19, 1, 10)];
        let numbers = |found: Vec<ProcessIdentity>| found.into_iter().map(|identity| identity.pid).collect::<Vec<_>>();
        assert_eq!(numbers(proven(group, &all, &[marked], &[])), [11, 12, 20, 19]);
        assert_eq!(numbers(proven(group, &all, &[marked], &ancestors(20, &all))), [11, 12]);
        // No member is known: the group may be another one under the same number.
        assert_eq!(numbers(proven(group, &all, &[], &[])), [0; 0]);
        assert_eq!(numbers(proven(group, &all, &[other], &[])), [13]);
        assert_eq!(numbers(proven(None, &all, &[marked], &[])), [11]);
        // What a proven process has started is proven, but not through one that this program descends from.
        let started = [process(30, 13, 30), process(31, 30, 31)];
        let all = [&all[..], &started].concat();
        assert_eq!(numbers(proven(group, &all, &[other], &[])), [13, 30, 31]);
        assert_eq!(numbers(proven(group, &all, &[other], &[13])), [0; 0]);
        // The app's zombie keeps its number, which another process of that number does not.
        let zombie = Process { zombie: true, ..process(10, 1, 10) };
        assert_eq!(numbers(proven(group, &[zombie, bare], &[], &[])), [12]);
        let another = Process { identity: ProcessIdentity { pid: 10, start: 99 }, ..process(10, 1, 10) };
        assert_eq!(numbers(proven(group, &[another, bare], &[], &[])), [0; 0]);
    }

    #[test]
    fn what_has_no_mark_is_known_once_it_was_seen() {
        let own = Process::look(this()).unwrap().identity;
        let mut bare = sleeper(None, false);
        let pid = bare.id();
        let seen = unmarked(|| vec![pid]);
        assert_eq!(seen, [Process::look(pid).unwrap().identity]);
        let calls = std::cell::Cell::new(0);
        let once = || (0..u32::from(calls.replace(1) == 0)).map(|_| pid).collect();
        assert_eq!(unmarked(once), []);
        let run = ProcessIdentity { pid: own.pid, start: own.start + 1 };
        let space = ProcessSpace::here().unwrap();
        let mut proof = RunProof { space, run, mark: "of nobody".into(), group: None, unmarked: Vec::new() };
        assert!(proof.set_unmarked(&seen) && !proof.set_unmarked(&seen));
        assert!(proof.left().contains(&seen[0]));
        proof.set_unmarked(&[ProcessIdentity { start: seen[0].start + 1, ..seen[0] }]);
        assert_eq!(proof.left(), []);
        bare.kill().unwrap();
        bare.wait().unwrap();
    }

    #[test]
    fn of_many_processes_the_oldest_are_written_down() {
        let mut proof = RunProof::of_this().unwrap();
        let many: Vec<_> = (0..200).map(|n| ProcessIdentity { pid: 5000 + n, start: u64::from(1000 - n) }).collect();
        assert!(proof.set_unmarked(&many));
        assert_eq!((proof.unmarked.len(), proof.unmarked[0]), (MAX_UNMARKED, (5199, 801)));
    }

    /// A process that ignores SIGTERM if it is to, with a mark or without.
    fn sleeper(mark: Option<&str>, deaf: bool) -> Child {
        let trap = if deaf { "trap '' TERM; " } else { "" };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{trap}while :; do sleep 0.05; done")]).process_group(0);
        if let Some(mark) = mark {
            command.env(MARK, mark);
        }
        command.spawn().unwrap()
    }

    #[test]
    fn only_what_is_proven_is_ended_and_only_after_the_run_has() {
        let mark = format!("test-{}", this());
        let proof = |pid: u32, start: u64| RunProof {
            space: ProcessSpace::here().unwrap(),
            run: ProcessIdentity { pid, start },
            mark: mark.clone(),
            group: None,
            unmarked: Vec::new(),
        };
        let own = Process::look(this()).unwrap().identity;
        let (mut one, mut deaf, mut other) =
            (sleeper(Some(&mark), false), sleeper(Some(&mark), true), sleeper(None, false));
        let mut foreign = sleeper(Some("of another run"), false);
        let (time, never) = (Duration::from_millis(300), AtomicBool::new(false));
        let wait = Instant::now() + Duration::from_secs(10);
        let gone = proof(own.pid, own.start + 1);
        // The shell has its environment only when it is executed.
        while gone.left().len() < 2 {
            assert!(Instant::now() < wait);
            std::thread::sleep(STEP);
        }
        // That run is there; it is of another boot; of another container; its clocks are others.
        let elsewhere = |space| RunProof { space, ..proof(own.pid, own.start + 1) };
        let here = ProcessSpace::here().unwrap();
        for proof in [
            proof(own.pid, own.start),
            elsewhere(ProcessSpace { boot: "another".into(), ..here.clone() }),
            elsewhere(ProcessSpace { namespace: here.namespace + 1, ..here.clone() }),
            elsewhere(ProcessSpace { clocks: Some(1), ..here }),
        ] {
            assert_eq!((proof.left(), proof.end_left(time, &never)), (Vec::new(), Ok(Vec::new())));
        }
        assert!(one.try_wait().unwrap().is_none() && deaf.try_wait().unwrap().is_none());
        // Their statuses are taken meanwhile: a zombie is not left.
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| (one.wait().unwrap(), deaf.wait().unwrap()));
            gone.end_left(time, &never)
        });
        assert!(ended.as_ref().is_ok_and(|ended| ended.len() >= 2), "{ended:?}");
        assert!(other.try_wait().unwrap().is_none() && foreign.try_wait().unwrap().is_none());
        for mut child in [other, foreign] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
