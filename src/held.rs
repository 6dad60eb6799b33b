//! Who holds what, as the kernel tells: locks of files (`/proc/locks`), and the names of processes.

use std::fs;

use rustix::fs::{Stat, major, minor};

/// A file, by what the kernel calls it there: the device's two numbers, and the inode.
pub type Inode = (u32, u32, u64);

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// `FLOCK`, `POSIX` or `LEASE`.
    pub kind: String,
    /// The process that holds it.
    pub pid: u32,
    /// What is locked.
    pub inode: Inode,
}

/// The inode of a file of which this is known.
pub fn inode(stat: &Stat) -> Inode {
    (major(stat.st_dev), minor(stat.st_dev), stat.st_ino)
}

/// All locks that are held, as far as they are shown.
pub fn locks() -> Vec<Lock> {
    fs::read_to_string("/proc/locks").unwrap_or_default().lines().filter_map(parse).collect()
}

/// Reads a line: `1: POSIX  ADVISORY  WRITE 1234 08:01:131 0 EOF`. One that waits for a lock has `->` after the number, and is none.
fn parse(line: &str) -> Option<Lock> {
    let mut fields = line.split_whitespace().skip(1);
    let kind = fields.next().filter(|kind| *kind != "->")?.to_owned();
    let pid = fields.nth(2)?.parse().ok()?;
    let mut file = fields.next()?.split(':');
    let mut device = || u32::from_str_radix(file.next()?, 16).ok();
    let device = (device()?, device()?);
    Some(Lock { kind, pid, inode: (device.0, device.1, file.next()?.parse().ok()?) })
}

/// A process's name, as `ps` shows it; empty where it is not known.
pub fn program(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_as_the_kernel_writes_them() {
        let lock = |kind: &str, pid, inode| Some(Lock { kind: kind.into(), pid, inode });
        assert_eq!(parse("1: POSIX  ADVISORY  WRITE 1234 08:01:131 0 EOF"), lock("POSIX", 1234, (8, 1, 131)));
        assert_eq!(parse("2: FLOCK  ADVISORY  READ  7 fd:0a:9 0 EOF"), lock("FLOCK", 7, (0xfd, 10, 9)));
        for none in
            ["3: -> FLOCK  ADVISORY  WRITE 8 08:01:131 0 EOF", "4: OFDLCK ADVISORY READ -1 08:01:131 0 EOF", "", "5:"]
        {
            assert_eq!(parse(none), None, "{none}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        rustix::fs::flock(file.as_file(), rustix::fs::FlockOperation::LockExclusive).unwrap();
        let own = inode(&rustix::fs::fstat(file.as_file()).unwrap());
        let held = locks().into_iter().any(|lock| lock.pid == std::process::id() && lock.inode == own);
        assert!(held || !std::path::Path::new("/proc/locks").exists());
        assert!(program(u32::MAX).is_empty());
    }
}
