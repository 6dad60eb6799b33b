//! Tells which processes hold which files, as the kernel shows it: locks of files (`/proc/locks`), open files, and the
//! names of processes.
//!
//! In its list of locks the kernel names a file by the device of its filesystem and by its inode number. On Btrfs,
//! where each subvolume has a device and inode numbers of its own, and on overlays over several filesystems, `stat`
//! gives another device. The device of the filesystem is told by the file's mount (`/proc/self/mountinfo`), and which
//! subvolume is meant by what the process has open.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use rustix::fs::{Stat, fstat, major, minor, stat};
use rustix::io::Errno;

/// How often the list of locks is read each time.
const READINGS: usize = 3;

/// A device's major and minor number.
type Device = (u32, u32);
/// The devices and inode numbers of the files that a program has open; `None` if this process may not know them.
type OpenInodes = Option<HashSet<(u64, u64)>>;

/// A lock of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// `FLOCK`, `POSIX` or `LEASE`.
    pub kind: String,
    /// The process that holds it.
    pub pid: u32,
    /// The first byte that is locked.
    pub first: i64,
    /// The last byte that is locked.
    pub last: i64,
    /// The device of the file's filesystem.
    device: Device,
}

/// The locks that are held, as far as the kernel shows them.
#[derive(Debug, Default)]
pub struct Locks {
    /// The locks, by the inode number of the file.
    locks: HashMap<u64, Vec<Lock>>,
    /// Devices of filesystems, by the number of the mount.
    mounts: HashMap<u64, Device>,
    /// Open files of the programs that were asked so far, by process.
    open: RefCell<HashMap<u32, OpenInodes>>,
}

impl Locks {
    /// Reads the locks that are held at this moment.
    pub fn read() -> Locks {
        let list = |path| fs::read_to_string(path).unwrap_or_default();
        // While other locks come and go, one reading misses some.
        let locks: String = (0..READINGS).map(|_| list("/proc/locks")).collect();
        Locks::parse(&locks, &list("/proc/self/mountinfo"))
    }

    /// Parses the text of a list of locks and of a list of mounts.
    pub fn parse(locks: &str, mounts: &str) -> Locks {
        let mut all = Locks { mounts: mounts.lines().filter_map(mount).collect(), ..Locks::default() };
        for (inode, lock) in locks.lines().filter_map(lock) {
            all.locks.entry(inode).or_default().push(lock);
        }
        all
    }

    /// Forgets the locks of all processes but those for which `of` is true.
    pub fn retain(&mut self, of: impl Fn(u32) -> bool) {
        self.locks.retain(|_, locks| {
            locks.retain(|lock| of(lock.pid));
            !locks.is_empty()
        });
    }

    /// Whether there are no locks.
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }

    /// Whether some file with this inode number may have a lock.
    pub fn has_inode(&self, inode: u64) -> bool {
        self.locks.contains_key(&inode)
    }

    /// The locks of a file that is open here, even if only as a path.
    pub fn of(&self, file: impl AsFd) -> Vec<&Lock> {
        let Ok(stat) = fstat(&file) else { return Vec::new() };
        let Some(locks) = self.locks.get(&stat.st_ino) else { return Vec::new() };
        let filesystem = self.filesystem(file);
        locks.iter().filter(|lock| self.is_of(lock, &stat, filesystem)).collect()
    }

    /// Whether a lock is on the file with this status, on the filesystem of this device.
    fn is_of(&self, lock: &Lock, file: &Stat, filesystem: Option<Device>) -> bool {
        // In another subvolume another file may have the number.
        let may_have_it = || self.may_have_open(lock.pid, (file.st_dev, file.st_ino));
        lock.device == device(file) || Some(lock.device) == filesystem && may_have_it()
    }

    /// Whether a program may have had a file open when it was first asked. It is asked only once: a program that has
    /// many files open has as many locks.
    fn may_have_open(&self, pid: u32, file: (u64, u64)) -> bool {
        let mut asked = self.open.borrow_mut();
        asked.entry(pid).or_insert_with(|| all_open(pid)).as_ref().is_none_or(|open| open.contains(&file))
    }

    /// The device of the filesystem that an open file is on.
    fn filesystem(&self, file: impl AsFd) -> Option<Device> {
        let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd())).ok()?;
        let mount = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
        self.mounts.get(&mount.trim().parse().ok()?).copied()
    }
}

fn device(stat: &Stat) -> Device {
    (major(stat.st_dev), minor(stat.st_dev))
}

/// Parses a lock, and the inode number of its file: `1: POSIX  ADVISORY  WRITE 1234 08:01:131 0 EOF`. A line with `->`
/// after the number is a process that waits for a lock, and gives `None`.
fn lock(line: &str) -> Option<(u64, Lock)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let kind = fields.next().filter(|kind| *kind != "->")?.to_owned();
    let pid = fields.nth(2)?.parse().ok()?;
    let mut file = fields.next()?.split(':');
    let mut number = || u32::from_str_radix(file.next()?, 16).ok();
    let device = (number()?, number()?);
    let inode = file.next()?.parse().ok()?;
    let first = fields.next()?.parse().ok()?;
    let last = match fields.next()? {
        "EOF" => i64::MAX,
        last => last.parse().ok()?,
    };
    Some((inode, Lock { kind, pid, first, last, device }))
}

/// Parses a mount's number, and the device of its filesystem: `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3
/// /dev/root rw`.
fn mount(line: &str) -> Option<(u64, Device)> {
    let mut fields = line.split_ascii_whitespace();
    let number = fields.next()?.parse().ok()?;
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    Some((number, (major.parse().ok()?, minor.parse().ok()?)))
}

/// Whether a program has a file open, given by its device and inode number; `None` if this process may not know.
pub fn has_open(pid: u32, file: (u64, u64)) -> Option<bool> {
    let mut known = None;
    for found in ids_open(pid) {
        match found {
            Ok(found) if found == file => return Some(true),
            Ok(_) => known = Some(false),
            Err(_) => return None,
        }
    }
    known
}

/// All files that a program has open.
fn all_open(pid: u32) -> OpenInodes {
    let open = ids_open(pid).collect::<Result<HashSet<_>, _>>().ok()?;
    (!open.is_empty()).then_some(open)
}

/// The devices and inode numbers of the files that a program has open, as far as this process may know.
fn ids_open(pid: u32) -> impl Iterator<Item = Result<(u64, u64), Errno>> {
    open_files(pid).filter_map(|descriptor| match stat(&descriptor) {
        // It was closed at this moment.
        Err(Errno::NOENT) => None,
        found => Some(found.map(|found| (found.st_dev, found.st_ino))),
    })
}

/// The `/proc` paths of the files that a program has open.
pub fn open_files(pid: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// A process's name, as `ps` shows it; empty if it is not known.
pub fn program(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{self, Command, Stdio};

    use super::*;

    #[test]
    fn locks_are_read_as_the_kernel_writes_them() {
        let expected = |kind: &str, pid, device, inode, (first, last)| {
            Some((inode, Lock { kind: kind.into(), pid, first, last, device }))
        };
        let line = "1: POSIX  ADVISORY  WRITE 1234 08:01:131 0 EOF";
        assert_eq!(lock(line), expected("POSIX", 1234, (8, 1), 131, (0, i64::MAX)));
        let line = "2: FLOCK  ADVISORY  READ  7 fd:0a:9 1073741826 1073742335";
        assert_eq!(lock(line), expected("FLOCK", 7, (0xfd, 10), 9, (1_073_741_826, 1_073_742_335)));
        for none in [
            "3: -> FLOCK  ADVISORY  WRITE 8 08:01:131 0 EOF",
            "4: OFDLCK ADVISORY READ -1 08:01:131 0 EOF",
            "5: POSIX ADVISORY READ 7 08:01:131 0",
            "",
            "6:",
        ] {
            assert_eq!(lock(none), None, "{none}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        rustix::fs::flock(file.as_file(), rustix::fs::FlockOperation::LockExclusive).unwrap();
        let held = Locks::read().of(&file).iter().any(|lock| lock.pid == process::id() && lock.kind == "FLOCK");
        assert!(held || !std::path::Path::new("/proc/locks").exists());
        assert!(program(u32::MAX).is_empty());
    }

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let line = "36 35 0:98 /sub volume\\040x /mnt rw,noatime master:1 - btrfs /dev/root rw";
        assert_eq!(mount(line), Some((36, (0, 98))));
        for none in ["", "36 35", "36 35 98 / /mnt", "x 35 8:1 /"] {
            assert_eq!(mount(none), None, "{none}");
        }
    }

    #[test]
    fn a_lock_is_of_the_file_on_its_filesystem_that_its_process_has_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (stat, fd) = (fstat(&file).unwrap(), file.as_file().as_raw_fd());
        let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let mount = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap().trim();
        let mut other = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (own, inode) = (device(&stat), stat.st_ino);
        let holders = |mounts: &str| {
            let mut list = String::new();
            for (pid, (major, minor), inode) in [
                (process::id(), (0, 0xfedc), inode),
                (other.id(), (0, 0xfedc), inode),
                (3, (0, 0xfedd), inode),
                (process::id(), (0, 0xfedc), inode + 1),
                (5, own, inode),
            ] {
                list += &format!("1: POSIX  ADVISORY  READ {pid} {major:02x}:{minor:02x}:{inode} 0 EOF\n");
            }
            Locks::parse(&list, mounts).of(&file).into_iter().map(|lock| lock.pid).collect::<Vec<_>>()
        };
        // As `stat` says, or if nothing is known of the mount.
        assert_eq!(holders(&format!("{mount} 1 {}:{} / / rw - ext4 x rw", own.0, own.1)), [5]);
        assert_eq!(holders(""), [5]);
        // As the file's mount says: in another subvolume another file may have the number.
        assert_eq!(holders(&format!("{mount} 1 0:{} / / rw - btrfs x rw", 0xfedc)), [process::id(), 5]);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_program_is_asked_once_what_it_has_open() {
        let (first, second) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let inodes = [&first, &second].map(|file| fstat(file).unwrap().st_ino);
        // The file still exists, so that no other file gets its number, and is not open.
        let second = second.into_temp_path();
        let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", first.as_file().as_raw_fd())).unwrap();
        let mount = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap().trim();
        let lock = |inode| format!("1: POSIX ADVISORY READ {} 00:fedc:{inode} 0 EOF\n", process::id());
        let list = || Locks::parse(&inodes.map(lock).concat(), &format!("{mount} 1 0:{} / / rw", 0xfedc));
        let locks = list();
        assert_eq!(locks.of(&first).len(), 1);
        let second = fs::File::open(&second).unwrap();
        assert_eq!((locks.of(&second).len(), list().of(&second).len()), (0, 1));
    }
}
