//! Processes that a killed `run` left: its app has died with it, as a rule, but what the app had started may go on writing to the data.
//!
//! A process is ended here only if it is proven to be one of these, by something that no other user can forge. Numbers of processes are
//! used again, so a number alone proves nothing:
//!
//! - Numbers mean something only in the boot and in the namespace in which they were written down ([`ProcessSpace`]). In another
//!   container, or after a boot, nothing is proven and nothing is ended.
//! - A process is told from others of its number by when it began ([`ProcessIdentity`]).
//! - The app gets a [mark](super::mark) in its environment, which everything that it starts inherits, also what leaves its process group
//!   and whatever closes inherited descriptors, as Python's `subprocess` does. A process can only forge its own. The mark names the data
//!   directory, so that nothing has to be left of that.
//! - A mark is not seen where the environment is emptied, is overwritten by a program that changes its title, or cannot be read: root
//!   reads that of another user's process only with `CAP_SYS_PTRACE`, which Docker does not give. So `run` looks for such processes while
//!   the app runs, and writes down which they are ([`unmarked`]), and which process the app is: one of them is proven as long as it lives.
//!   What is written down proves something only if nobody but this user can write there ([`super::lock::RunRecord`]): whoever can could
//!   have root end any process. Elsewhere it only [names](RunProof::named) processes, which keep an app from being started.
//! - In the app's group and session all are taken for proven as soon as one of them is, or the app's zombie is there: the group has had a
//!   member ever since then, and is the same one.
//! - What a proven process has started is proven: the parent of a process is the one that started it, or one that orphans of its own
//!   descendants came to.
//! - By its group or its parent a process of another user is proven only if that proof is of this user's process. One that anybody could
//!   mark as its own, and that could join a group, proves nothing about somebody else's.
//!
//! A process that stays unknown has no mark that can be read, was started after the last look, its parent is gone, and no proven process is
//! in its group. Nothing that the kernel keeps proves it. The numbers of the group and the session are used again as soon as neither has a
//! member, and a process may have begun before the group of its number did. A session of the app's own would say more; but a program that
//! leads a session takes any terminal that it opens for its own, and gets that one's signals. A cgroup of the app's own cannot be made in a
//! container as a rule, and that of the container has others in it. Descriptors that are inherited are closed by what empties the
//! environment, too. It is left, since to end a process of somebody else is worse.
//!
//! A signal goes to a descriptor of the process, which is proven once more while that is held. Where the system has no such
//! descriptors, nothing gets a signal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::mark::{RunMark, mark, marks_of};
use super::process::{Process, ProcessIdentity, ProcessSpace, ancestors, processes, real_user, still_runs, this};
use crate::fs::holders::program;

/// How often it is looked for processes while they end.
const STEP: Duration = Duration::from_millis(50);
/// How long processes that were killed are waited for: those that wait for a disk end later.
const KILLED: Duration = Duration::from_secs(5);

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
    /// The app. `None` before it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<ProcessIdentity>,
    /// `None` before the app has started, and where it is in the group of `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<AppGroup>,
    /// What the app has started without its mark: the numbers, and when each began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unmarked: Vec<(u32, u64)>,
}

impl RunProof {
    /// By what this process is known. `None` where the system tells too little.
    pub fn of_this() -> Option<Self> {
        let run = Process::look(this())?.identity;
        Some(RunProof {
            space: ProcessSpace::here()?,
            run,
            mark: mark().ok()?.to_owned(),
            app: None,
            group: None,
            unmarked: Vec::new(),
        })
    }

    /// Adds the app.
    pub fn with_app(self, pid: u32) -> Self {
        let app = Process::look(pid);
        let leads = app.filter(|app| app.group == pid);
        let group = leads.map(|app| AppGroup { app: app.identity, session: app.session });
        RunProof { app: app.map(|app| app.identity), group, unmarked: Vec::new(), ..self }
    }

    /// Has these be what the app has started without its mark: the oldest of them, if they are more than `most`. Returns whether that is
    /// news.
    pub fn set_unmarked(&mut self, processes: &[ProcessIdentity], most: usize) -> bool {
        let mut unmarked: Vec<_> = processes.iter().map(|found| (found.pid, found.start)).collect();
        unmarked.sort_unstable_by_key(|&(pid, start)| (start, pid));
        unmarked.truncate(most);
        let is_news = self.unmarked != unmarked;
        self.unmarked = unmarked;
        is_news
    }

    /// Whether that `run` has ended, which is known only where its number means something.
    pub fn is_gone(&self) -> bool {
        ProcessSpace::here().as_ref() == Some(&self.space) && !still_runs(self.run)
    }

    /// The data directory, by its [key](super::mark::data_key). `None` if that is not known.
    pub fn data(&self) -> Option<String> {
        RunMark::parse(&self.mark).map(|mark| mark.data)
    }

    /// The `run`, while it runs. `None` if it is this process, or if its number means nothing here.
    pub fn other_run(&self) -> Option<u32> {
        let is_here = ProcessSpace::here().as_ref() == Some(&self.space) && still_runs(self.run);
        (is_here && self.run.pid != this()).then_some(self.run.pid)
    }

    /// The living processes that it names as the app and as what that has started, if the `run` has ended itself. This process, and those
    /// that it descends from, are not among them.
    pub fn named(&self) -> Vec<ProcessIdentity> {
        if !self.is_gone() {
            return Vec::new();
        }
        let unmarked = self.unmarked.iter().map(|&(pid, start)| ProcessIdentity { pid, start });
        let unmarked = unmarked.filter(|found| self.app != Some(*found));
        let mut named: Vec<_> = self.app.into_iter().chain(unmarked).filter(|found| still_runs(*found)).collect();
        if !named.is_empty() {
            let line = ancestors(this(), &processes().collect::<Vec<_>>());
            named.retain(|found| !line.contains(&found.pid));
        }
        named
    }

    /// Only what it says of marks, which prove something by themselves.
    #[must_use]
    pub fn marks_only(self) -> Self {
        RunProof { app: None, group: None, unmarked: Vec::new(), ..self }
    }
}

/// Tells what a `run` that was killed may have left.
pub struct Remains<'r> {
    /// The [key](super::mark::data_key) of the data directory that it ran on. `None`: only the proof counts.
    pub data: Option<&'r str>,
    /// The proof that it has written down. Nobody but this user can have written it, unless it is about [marks only](RunProof::marks_only).
    pub proof: Option<&'r RunProof>,
}

impl Remains<'_> {
    /// Returns the processes that are proven to be left, and are there.
    pub fn left(&self) -> Vec<ProcessIdentity> {
        let proof = self.proof.filter(|proof| proof.is_gone());
        if proof.is_none() && self.data.is_none() {
            return Vec::new();
        }
        let all: Vec<_> = processes().collect();
        let is_of = |text: &String| {
            let is_written = proof.is_some_and(|proof| proof.mark == *text);
            match RunMark::parse(text) {
                Some(mark) => (is_written || self.data == Some(&mark.data)) && mark.is_gone(),
                // It is random alone where the system told no more, and known to whoever has written it down.
                None => is_written,
            }
        };
        let is_known = |found: &&Process| {
            let identity = found.identity;
            let is_written = proof.is_some_and(|proof| {
                proof.app == Some(identity) || proof.unmarked.contains(&(identity.pid, identity.start))
            });
            !found.zombie && (is_written || marks_of(identity.pid).iter().any(is_of))
        };
        let known: Vec<_> = all.iter().filter(is_known).copied().collect();
        proven(proof.and_then(|proof| proof.group), &all, &known, &ancestors(this(), &all), speaks_for)
    }

    /// Ends what is [left](Self::left): with SIGTERM, and after a time with SIGKILL. Returns what was there, for people.
    ///
    /// # Errors
    /// What is there all the same, for people; all that is there at a stop.
    pub fn end(&self, time: Duration, stop: &AtomicBool) -> Result<Vec<String>, Vec<String>> {
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
                    true => [Signal::TERM, Signal::CONT].into_iter().for_each(|signal| send(*found, signal)),
                    false => send(*found, Signal::KILL),
                }
            }
            told.extend(left.iter().filter(|found| !told.contains(found)).copied().collect::<Vec<_>>());
            std::thread::sleep(STEP);
        }
    }
}

/// Sends a signal to a process that was proven.
fn send(to: ProcessIdentity, signal: Signal) {
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

/// Returns those of the app's processes that do not have its mark, or whose environment cannot be read. `family` tells the numbers of all
/// that it has started: twice, since a number may become another process's after it was told.
pub fn unmarked(family: impl Fn() -> Vec<u32>) -> Vec<ProcessIdentity> {
    let Ok(mark) = mark() else { return Vec::new() };
    let look = |pid| Process::look(pid).filter(|found| !found.zombie).map(|found| found.identity);
    let is_bare = |pid: &u32| !has_mark(*pid, mark);
    let bare: Vec<_> = family().into_iter().filter(is_bare).filter_map(look).collect();
    if bare.is_empty() {
        return bare;
    }
    let again = family();
    bare.into_iter().filter(|found| again.contains(&found.pid) && look(found.pid) == Some(*found)).collect()
}

/// Whether a process has a mark in its environment.
fn has_mark(pid: u32, mark: &str) -> bool {
    marks_of(pid).iter().any(|found| found == mark)
}

/// Whether what proves a process proves another one, too: the other one is of the same user, or the first is of this one.
fn speaks_for(proof: u32, other: u32) -> bool {
    let user = real_user(proof);
    user.is_some() && (user == Some(geteuid().as_raw()) || user == real_user(other))
}

/// Returns the living processes that are proven: those that are `known`, those in the app's group if one of that is, and what these have
/// started, if they [speak for](speaks_for) it. `but` are not ended.
fn proven(
    group: Option<AppGroup>,
    all: &[Process],
    known: &[Process],
    but: &[u32],
    speaks_for: impl Fn(u32, u32) -> bool,
) -> Vec<ProcessIdentity> {
    let in_group =
        |found: &&Process| group.is_some_and(|group| (found.group, found.session) == (group.app.pid, group.session));
    let proves = |found: &&Process| {
        known.contains(found) || found.zombie && group.is_some_and(|group| found.identity == group.app)
    };
    let proofs: Vec<_> = all.iter().filter(in_group).filter(proves).map(|found| found.identity.pid).collect();
    let may_be = |found: &&Process| !found.zombie && !but.contains(&found.identity.pid);
    let is_left = |found: &&Process| {
        let by_group = || in_group(found) && proofs.iter().any(|proof| speaks_for(*proof, found.identity.pid));
        known.contains(found) || by_group()
    };
    let mut left: Vec<_> = all.iter().filter(may_be).filter(is_left).map(|found| found.identity).collect();
    loop {
        let is_new = |found: &&Process| {
            let by =
                |parent: &ProcessIdentity| parent.pid == found.parent && speaks_for(parent.pid, found.identity.pid);
            !left.contains(&found.identity) && left.iter().any(by)
        };
        let more: Vec<_> = all.iter().filter(may_be).filter(is_new).map(|found| found.identity).collect();
        if more.is_empty() {
            return left;
        }
        left.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;
    use crate::run::mark::MARK;

    fn process(pid: u32, parent: u32, group: u32) -> Process {
        let identity = ProcessIdentity { pid, start: u64::from(pid) };
        Process { identity, parent, group, session: 7, zombie: false }
    }

    #[test]
    fn a_group_is_proven_by_one_of_its_members_alone() {
        let app = ProcessIdentity { pid: 10, start: 10 };
        let group = Some(AppGroup { app, session: 7 });
        let (marked, bare, other) = (process(11, 1, 10), process(12, 1, 10), process(13, 1, 13));
        let elsewhere = Process { session: 8, ..process(14, 1, 10) };
        let all = [marked, bare, other, elsewhere, process(20, 19, 10), process(19, 1, 10)];
        let anybody = |_, _| true;
        let numbers = |found: Vec<ProcessIdentity>| found.into_iter().map(|identity| identity.pid).collect::<Vec<_>>();
        assert_eq!(numbers(proven(group, &all, &[marked], &[], anybody)), [11, 12, 20, 19]);
        assert_eq!(numbers(proven(group, &all, &[marked], &ancestors(20, &all), anybody)), [11, 12]);
        // No member is known: the group may be another one under the same number.
        assert_eq!(numbers(proven(group, &all, &[], &[], anybody)), [0; 0]);
        assert_eq!(numbers(proven(group, &all, &[other], &[], anybody)), [13]);
        assert_eq!(numbers(proven(None, &all, &[marked], &[], anybody)), [11]);
        // What a proven process has started is proven, but not through one that this program descends from.
        let started = [process(30, 13, 30), process(31, 30, 31)];
        let all = [&all[..], &started].concat();
        assert_eq!(numbers(proven(group, &all, &[other], &[], anybody)), [13, 30, 31]);
        assert_eq!(numbers(proven(group, &all, &[other], &[13], anybody)), [0; 0]);
        // A process that anybody could mark as its own proves nothing about somebody else's.
        let same = |proof: u32, other: u32| (proof < 12) == (other < 12);
        let child = process(15, 11, 15);
        assert_eq!(numbers(proven(group, &[marked, bare, child], &[marked], &[], same)), [11]);
        // The app's zombie keeps its number, which another process of that number does not.
        let zombie = Process { zombie: true, ..process(10, 1, 10) };
        assert_eq!(numbers(proven(group, &[zombie, bare], &[], &[], anybody)), [12]);
        let another = Process { identity: ProcessIdentity { pid: 10, start: 99 }, ..process(10, 1, 10) };
        assert_eq!(numbers(proven(group, &[another, bare], &[], &[], anybody)), [0; 0]);
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
        let mut proof = RunProof { space, run, mark: "of nobody".into(), app: None, group: None, unmarked: Vec::new() };
        assert!(proof.set_unmarked(&seen, 9) && !proof.set_unmarked(&seen, 9));
        assert!(left(&proof).contains(&seen[0]) && proof.named() == seen);
        // So is the app itself.
        let app = proof.clone().with_app(pid);
        assert!(app.unmarked.is_empty() && left(&app).contains(&seen[0]) && app.named() == seen);
        // What others may write proves nothing.
        assert_eq!((left(&app.clone().marks_only()), left(&proof.clone().marks_only())), (Vec::new(), Vec::new()));
        proof.set_unmarked(&[ProcessIdentity { start: seen[0].start + 1, ..seen[0] }], 9);
        assert_eq!((left(&proof), proof.named()), (Vec::new(), Vec::new()));
        bare.kill().unwrap();
        bare.wait().unwrap();
    }

    #[test]
    fn of_many_processes_the_oldest_are_written_down() {
        let mut proof = RunProof::of_this().unwrap();
        let many: Vec<_> = (0..200).map(|n| ProcessIdentity { pid: 5000 + n, start: u64::from(1000 - n) }).collect();
        assert!(proof.set_unmarked(&many, 100));
        assert_eq!((proof.unmarked.len(), proof.unmarked[0]), (100, (5199, 801)));
    }

    fn left(proof: &RunProof) -> Vec<ProcessIdentity> {
        Remains { data: None, proof: Some(proof) }.left()
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
        let key = format!("of test {}", this());
        let own = Process::look(this()).unwrap().identity;
        let here = ProcessSpace::here().unwrap();
        let mark = |run: ProcessIdentity, space: &ProcessSpace, key: &str| {
            let clocks = space.clocks.map(|clocks| clocks.to_string()).unwrap_or_default();
            format!("x:{}:{}:{}:{clocks}:{}:{key}", run.pid, run.start, space.namespace, space.boot)
        };
        let dead = ProcessIdentity { start: own.start + 1, ..own };
        let (elsewhere, booted) = (
            ProcessSpace { namespace: here.namespace + 1, ..here.clone() },
            ProcessSpace { boot: "another".into(), ..here.clone() },
        );
        let others = [
            mark(own, &here, &key),
            mark(dead, &elsewhere, &key),
            mark(dead, &booted, &key),
            mark(dead, &ProcessSpace { clocks: Some(1), ..here.clone() }, &key),
            mark(dead, &here, "of another directory"),
        ];
        let mark = mark(dead, &here, &key);
        let (mut one, mut deaf, other) =
            (sleeper(Some(&mark), false), sleeper(Some(&mark), true), sleeper(None, false));
        let foreign: Vec<_> = others.iter().map(|mark| sleeper(Some(mark), false)).collect();
        let (time, never) = (Duration::from_millis(300), AtomicBool::new(false));
        let by_directory = Remains { data: Some(&key), proof: None };
        // The shell has its environment only when it is executed.
        let wait = Instant::now() + Duration::from_secs(10);
        let shells = [one.id(), deaf.id()];
        // What they have started at the moment is left, too.
        let of_shells = |left: Vec<ProcessIdentity>| left.iter().filter(|found| shells.contains(&found.pid)).count();
        while of_shells(by_directory.left()) < 2 {
            assert!(Instant::now() < wait);
            std::thread::sleep(STEP);
        }
        // What was written down names the mark as well, of which it says itself that its `run` is gone.
        let proof = |run, space: &ProcessSpace, mark: &str| RunProof {
            space: space.clone(),
            run,
            mark: mark.to_owned(),
            app: None,
            group: None,
            unmarked: Vec::new(),
        };
        assert_eq!(of_shells(left(&proof(dead, &here, &mark))), 2);
        for proof in [
            proof(own, &here, &mark),
            proof(dead, &elsewhere, &mark),
            proof(dead, &booted, &mark),
            proof(dead, &here, &others[0]),
        ] {
            assert_eq!(left(&proof), []);
            assert_eq!(Remains { data: None, proof: Some(&proof) }.end(time, &never), Ok(Vec::new()));
        }
        assert!(one.try_wait().unwrap().is_none() && deaf.try_wait().unwrap().is_none());
        // Their statuses are taken meanwhile: a zombie is not left.
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| (one.wait().unwrap(), deaf.wait().unwrap()));
            by_directory.end(time, &never)
        });
        assert!(ended.as_ref().is_ok_and(|ended| ended.len() >= 2), "{ended:?}");
        for mut child in foreign.into_iter().chain([other]) {
            assert!(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
