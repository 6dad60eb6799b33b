//! What is mounted below the data directory and not walked: pseudo filesystems always, and every other one if only the data
//! directory's own filesystem is wanted.
//!
//! A folder at which such a filesystem is mounted is in the snapshot, empty: what was mounted there can be mounted there again. A
//! file that is mounted is not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::found::SourceEntry;
use crate::fs::{filesystem, is_mount_at, pseudo};
use crate::path::EntryPath;
use crate::text::entry_name;

/// Most paths that are named in a message.
const NAMED: usize = 3;

/// Tells in one walk what is mounted and not walked.
#[derive(Debug, Default)]
pub struct Apart {
    /// Whether everything is left out that is mounted below the data directory.
    one_file_system: bool,
    /// Where something is mounted below the data directory, as the system lists it. A mount may be hidden by another one.
    listed: BTreeSet<EntryPath>,
    /// Devices that are no pseudo filesystems. The files of an overlay may each be on another device than their folder.
    data: Mutex<BTreeSet<u64>>,
}

impl Apart {
    /// Prepares a walk of a data directory.
    pub fn new(data: &Path, one_file_system: bool) -> Self {
        let listed = if one_file_system { listed_below(data) } else { BTreeSet::new() };
        Apart { one_file_system, listed, data: Mutex::default() }
    }

    /// Returns what is mounted at an entry and not walked; `name` is its name in the open `folder`, which is on `device`.
    pub fn mounted(&self, folder: BorrowedFd, device: u64, name: &[u8], found: &SourceEntry) -> Option<Mounted> {
        let name = OsStr::from_bytes(name);
        let crosses = found.device != device;
        if self.one_file_system {
            // A subvolume of Btrfs has a device of its own and is not mounted.
            let is_mount = || is_mount_at(folder, Path::new(name)).ok().flatten() != Some(false);
            return ((crosses || self.listed.contains(&found.path)) && is_mount()).then_some(Mounted::Other);
        }
        if !crosses || lock(&self.data).contains(&found.device) {
            return None;
        }
        let kind = pseudo::of_name(folder.as_fd(), name);
        if kind.is_none() {
            lock(&self.data).insert(found.device);
        }
        kind.map(Mounted::Pseudo)
    }
}

/// Where something is mounted below a directory, as the system lists it.
fn listed_below(data: &Path) -> BTreeSet<EntryPath> {
    let (at, mounted) = (data.canonicalize(), filesystem::mounted().unwrap_or_default());
    let below = |at: &Path, mount: &Path| EntryPath::new(mount.strip_prefix(at).ok()?.as_os_str().as_bytes()).ok();
    at.iter().flat_map(|at| mounted.iter().filter_map(|mount| below(at, &mount.at))).collect()
}

/// Tells the same as [`Apart`] to a look that goes by path and holds no folder open.
#[derive(Debug)]
pub struct ApartPaths<'d> {
    data: &'d Path,
    device: Option<u64>,
    /// Where something is mounted. `None` if only pseudo filesystems are left out.
    listed: Option<BTreeSet<EntryPath>>,
}

impl<'d> ApartPaths<'d> {
    /// Prepares a look at a data directory.
    pub fn new(data: &'d Path, one_file_system: bool) -> Self {
        let device = data.metadata().ok().map(|about| about.dev());
        ApartPaths { data, device, listed: one_file_system.then(|| listed_below(data)) }
    }

    /// Whether something is mounted at a path below the data directory that no backup walks; `device` is what the path is on now.
    pub fn has(&self, path: &Path, device: u64) -> bool {
        let (at, crosses) = (self.data.join(path), self.device != Some(device));
        match &self.listed {
            Some(listed) => {
                let is_listed = || EntryPath::new(path.as_os_str().as_bytes()).is_ok_and(|path| listed.contains(&path));
                (crosses || is_listed()) && filesystem::is_mount(&at).unwrap_or(true)
            }
            None => crosses && pseudo::at(&at).is_some(),
        }
    }

    /// Whether a path below the data directory lies in something that no backup walks, or is that.
    pub fn has_or_is_above(&self, path: &Path) -> bool {
        let above: Vec<_> = path.ancestors().filter(|above| !above.as_os_str().is_empty()).collect();
        let device = |path: &Path| self.data.join(path).symlink_metadata().ok().map(|about| about.dev());
        above.into_iter().rev().any(|above| device(above).is_some_and(|device| self.has(above, device)))
    }
}

/// What is mounted at a path and not walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// A pseudo filesystem, of this type.
    Pseudo(&'static str),
    /// Anything, where only the data directory's own filesystem is wanted.
    Other,
}

/// The mounts that were not walked, in all walks of a backup.
#[derive(Debug, Default)]
pub struct LeftOutMounts(Mutex<BTreeMap<EntryPath, Mounted>>);

impl LeftOutMounts {
    /// Remembers one.
    pub fn add(&self, path: EntryPath, mounted: Mounted) {
        lock(&self.0).insert(path, mounted);
    }

    /// Tells what was left out, in one sentence for each reason.
    pub fn told(&self) -> Vec<String> {
        let all = lock(&self.0);
        let (mut shown, mut kinds, mut others) = (Vec::new(), BTreeSet::new(), Vec::new());
        for (path, mounted) in &*all {
            match mounted {
                Mounted::Pseudo(kind) => {
                    kinds.insert(*kind);
                    shown.push(path);
                }
                Mounted::Other => others.push(path),
            }
        }
        let kinds: Vec<_> = kinds.into_iter().collect();
        let pseudo = format!("what is mounted there ({}) is the system's state and no data", kinds.join(", "));
        let other = "something is mounted there, and --one-file-system is set";
        let sentence = |paths: Vec<&EntryPath>, what: &str| {
            let named: Vec<_> = paths.iter().take(NAMED).map(|path| entry_name(path.bytes())).collect();
            let (named, more) = (named.join(", "), paths.len().saturating_sub(NAMED));
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let empty = if paths.len() == 1 { "its folder is there, empty" } else { "their folders are there, empty" };
            (!paths.is_empty()).then(|| format!("{named}{more}: left out, since {what}; {empty}"))
        };
        sentence(shown, &pseudo).into_iter().chain(sentence(others, other)).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The sets are whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once() {
        let left = LeftOutMounts::default();
        assert!(left.told().is_empty());
        for (path, mounted) in [
            ("proc", Mounted::Pseudo("proc")),
            ("sys", Mounted::Pseudo("sysfs")),
            ("sys/fs", Mounted::Pseudo("cgroup2")),
            ("z", Mounted::Pseudo("proc")),
            ("up\nloads", Mounted::Other),
        ] {
            left.add(EntryPath::new(path).unwrap(), mounted);
            left.add(EntryPath::new(path).unwrap(), mounted);
        }
        let told = left.told();
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("proc, sys, sys/fs and 1 more: left out, since "), "{told:?}");
        assert!(told[0].contains("(cgroup2, proc, sysfs)"), "{told:?}");
        assert!(told[1].starts_with("up\\x0aloads: left out, ") && told[1].contains("--one-file-system"), "{told:?}");
    }
}
