//! Processes as `/proc` shows them, told from others that have their numbers at another time.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};
use serde::{Deserialize, Serialize};

/// Where in `/proc/<pid>/stat`, after the name, the time is at which a process began.
const START: usize = 19;

/// A process, told from all others that have its number at another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    pub boot: String,
    /// The number of the namespace of processes.
    pub namespace: u64,
    /// The number of the namespace of clocks, by which the times are counted at which processes began. `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<u64>,
}

/// A process as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Which it is.
    pub identity: ProcessIdentity,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Whether it has ended, and only its status is left.
    pub zombie: bool,
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

/// Whether a process is there and has not ended. One of which nothing is shown (`hidepid`) is taken to be there if its number is in use.
pub fn still_runs(process: ProcessIdentity) -> bool {
    let in_use = || {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(Errno::SRCH)))
    };
    Process::look(process.pid).map_or_else(in_use, |now| now.identity == process && !now.zombie)
}

/// The user who started a process, also where it acts as another one by now (set-user-ID). `None` if it is not there.
///
/// The owner of its folder in `/proc` is root for a process that has changed its user and executed nothing since.
pub fn real_user(pid: u32) -> Option<u32> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// The number of this process.
pub fn this() -> u32 {
    getpid().as_raw_nonzero().get().cast_unsigned()
}

/// Returns a process and those that it descends from: an app's remains may have started this very program again.
pub fn ancestors(of: u32, all: &[Process]) -> Vec<u32> {
    let mut line = vec![of];
    while let Some(found) = line.last().and_then(|last| all.iter().find(|found| found.identity.pid == *last))
        && !line.contains(&found.parent)
    {
        line.push(found.parent);
    }
    line
}

/// Returns all processes that can be seen.
pub fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| Process::look(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

impl Process {
    /// Looks at a process. `None` if there is none.
    pub fn look(pid: u32) -> Option<Process> {
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
    use super::*;

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
        assert!(still_runs(own.identity) && !still_runs(ProcessIdentity { start: 1, ..own.identity }));
        assert_eq!(real_user(this()), Some(rustix::process::getuid().as_raw()));
    }
}
