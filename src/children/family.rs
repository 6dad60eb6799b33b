//! Which processes descend from which, as `/proc` shows it.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, getpid};

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: Pid,
    pub parent: Option<Pid>,
    /// The process that leads its process group.
    pub group: Option<Pid>,
    /// Whether it has ended, and only its status is left.
    pub zombie: bool,
}

/// Returns all processes that can be seen.
pub fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let read = |name: &str| {
        let pid = Pid::from_raw(name.parse().ok()?)?;
        parse(pid, &fs::read_to_string(format!("/proc/{name}/stat")).ok()?)
    };
    entries.filter_map(|entry| read(entry.ok()?.file_name().to_str()?)).collect()
}

/// Parses `1234 (any (name) S 1 1234 …`.
fn parse(pid: Pid, stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    // 0 is a process of another namespace, and a process that is about to go is in the group -1.
    let mut number = || fields.next()?.parse::<i32>().ok().map(|number| number.max(0));
    let (parent, group) = (Pid::from_raw(number()?), Pid::from_raw(number()?));
    Some(Process { pid, parent, group, zombie })
}

/// Returns the zombies among the children of this program.
pub fn zombies() -> Vec<Pid> {
    let this = Some(getpid());
    processes().into_iter().filter(|found| found.zombie && found.parent == this).map(|found| found.pid).collect()
}

/// Which children of this program, if it did not start them, were left to it by programs that it started. A library may start
/// some, for credentials, and these are in this program's process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    None,
    /// Those that are in another group.
    OfOtherGroups,
    All,
}

/// Returns the living processes that descend from `program`, are in its process group, or were left to this program, except for
/// what descends from another program that was `started` here, or from one that was left to this program and `is_foreign`.
pub fn of(
    program: Pid,
    started: &[Pid],
    adopted: Adopted,
    is_foreign: impl Fn(Pid) -> bool,
    processes: &[Process],
) -> Vec<Pid> {
    let this = getpid();
    // `None` where its group is one of another namespace.
    let group = processes.iter().find(|found| found.pid == this).and_then(|found| found.group);
    let was_left = |found: &Process| match adopted {
        Adopted::None => false,
        Adopted::OfOtherGroups => found.group != group,
        Adopted::All => true,
    };
    let is_root = |found: &&Process| {
        let is_adopted = || found.parent == Some(this) && !started.contains(&found.pid) && was_left(found);
        found.pid == program || found.group == Some(program) || is_adopted() && !is_foreign(found.pid)
    };
    let mut known: HashSet<Pid> = processes.iter().filter(is_root).map(|found| found.pid).collect();
    known.insert(program);
    known.remove(&this);
    loop {
        let is_new = |found: &&Process| {
            found.parent.is_some_and(|parent| known.contains(&parent)) && !known.contains(&found.pid)
        };
        let more: Vec<Pid> = processes.iter().filter(is_new).map(|found| found.pid).collect();
        if more.is_empty() {
            break;
        }
        known.extend(more);
    }
    let alive = |found: &&Process| !found.zombie && found.pid != program && known.contains(&found.pid);
    processes.iter().filter(alive).map(|found| found.pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn a_name_may_hold_anything() {
        let found = parse(pid(7), "7 (a) S 9 9 (b) Z 1 6 6 0 -1 4194560").unwrap();
        assert_eq!(found, Process { pid: pid(7), parent: Some(pid(1)), group: Some(pid(6)), zombie: true });
        assert_eq!(parse(pid(1), "1 (init) S 0 1 1").unwrap().parent, None);
        assert_eq!(parse(pid(7), "7 (cut"), None);
        assert_eq!(parse(pid(7), "7 (goes) X 0 -1 -1 0 -1").unwrap().group, None);
    }

    #[test]
    fn this_program_is_found() {
        assert!(processes().iter().any(|found| found.pid == getpid() && !found.zombie));
    }

    #[test]
    fn a_family_is_what_descends_and_what_was_left() {
        let this = getpid();
        let process = |number, parent, group| Process {
            pid: pid(number),
            parent: Some(parent),
            group: Some(pid(group)),
            zombie: false,
        };
        const APP: i32 = 2_000_000_001;
        const HOOK: i32 = 2_000_000_005;
        let all = [
            Process { pid: this, parent: None, group: Some(this), zombie: false },
            process(APP, this, APP),
            process(APP + 1, pid(APP), APP),
            process(APP + 2, pid(APP + 1), 2_000_000_100),
            process(HOOK, this, HOOK),
            process(HOOK + 1, pid(HOOK), HOOK),
            // Its parent has ended, and this program is its parent now.
            process(2_000_000_010, this, 2_000_000_010),
            // Left to somebody else, in the app's group.
            process(2_000_000_011, pid(2_000_000_000), APP),
            Process { zombie: true, ..process(2_000_000_012, pid(APP), APP) },
            process(2_000_000_020, pid(2_000_000_000), 2_000_000_020),
            // Started by a library.
            Process { group: Some(this), ..process(2_000_000_021, this, APP) },
        ];
        let started = [pid(APP), pid(HOOK)];
        let nobody = |_| false;
        let of = |program, started: &[Pid], all: &[Process]| of(program, started, Adopted::OfOtherGroups, nobody, all);
        let numbers = |found: Vec<Pid>| found.iter().map(|pid| pid.as_raw_nonzero().get()).collect::<Vec<_>>();
        let left = [APP + 1, APP + 2, 2_000_000_010, 2_000_000_011];
        assert_eq!(numbers(of(pid(APP), &started, &all)), left);
        assert_eq!(
            numbers(super::of(pid(APP), &started, Adopted::None, nobody, &all)),
            [APP + 1, APP + 2, 2_000_000_011]
        );
        assert_eq!(super::of(pid(APP), &started, Adopted::All, nobody, &all).len(), 5);
        // One that was left by somebody else, as process 1 gets them. A descendant of the app is never asked about.
        let foreign = |found| found != pid(2_000_000_021);
        assert_eq!(
            numbers(super::of(pid(APP), &started, Adopted::All, foreign, &all)),
            [APP + 1, APP + 2, 2_000_000_011, 2_000_000_021]
        );
        // The app has ended, and its status is taken.
        let without: Vec<_> = all.into_iter().filter(|found| found.pid != pid(APP)).collect();
        let adopted: Vec<_> = without
            .into_iter()
            .map(|found| Process { parent: found.parent.map(|at| if at == pid(APP) { this } else { at }), ..found })
            .collect();
        assert_eq!(numbers(of(pid(APP), &[pid(HOOK)], &adopted)), left);
    }
}
