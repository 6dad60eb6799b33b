//! What is in the data directory now, in path order.
//!
//! Folders are listed ahead of the walk by several threads, since on a network mount every answer takes its time; entries
//! still come in order, and no more than a bounded number wait. The largest single folder is held whole.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, open, statat};
use rustix::io::Errno;

use super::select::Select;
use super::sqlite::beside;
use crate::error::{Error, Result};
use crate::monitor::{Moment, Monitor};
use crate::vault::entry::{Kind, Side};
use crate::vault::path::EntryPath;

/// Listed entries that may wait for the walk.
const AHEAD: usize = 32_768;

/// How often a folder is tried again that has disappeared since it was seen.
const AGAIN: u32 = 5;

/// The marker of a folder that a restore in place has not finished filling.
pub const HALF_RESTORED: &str = ".lastgood-in-place";

/// What to do about a missing data directory.
pub const MISSING: &str =
    "Name the directory (`lastgood backup DIR`, or LASTGOOD_DATA). If it was lost, `lastgood restore` brings it back.";

/// One thing that the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path below the data directory.
    pub path: EntryPath,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content; 0 unless it is a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// ns since 1970.
    pub mtime: i64,
    /// ns since 1970.
    pub ctime: i64,
    /// The device that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Whether other names lead to it.
    pub linked: bool,
    /// Whether it takes less space than its size needs: it may have holes.
    pub sparse: bool,
    /// What it is to the files beside it.
    pub role: Role,
}

/// What a file is to the files beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Nothing that is known of.
    #[default]
    Alone,
    /// A database by its content, with a WAL or a rollback journal beside it.
    Database {
        /// Its `-wal`.
        wal: Option<Side>,
        /// Its `-journal`.
        journal: Option<Side>,
    },
    /// A `-wal`, `-journal` or `-shm` beside a database: a part of that.
    Side,
}

/// What the walk meets.
#[derive(Debug, PartialEq, Eq)]
pub enum Met {
    /// An entry for the snapshot.
    Entry(Found),
    /// Something that no snapshot holds, and why.
    Skipped(EntryPath, &'static str),
    /// Something that should be in the snapshot and cannot be read, and why.
    Failed(EntryPath, String),
}

/// Nanoseconds since 1970, as far as 64 bits reach (the year 2262).
pub fn nanos(seconds: i64, nanos: u64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add_unsigned(nanos)
}

impl Found {
    /// What `stat` says of `path`; none for what no snapshot holds.
    pub fn new(path: EntryPath, stat: &Stat) -> Option<Found> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            _ => return None,
        };
        let size = if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        Some(Found {
            path,
            kind,
            size,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: nanos(stat.st_mtime, stat.st_mtime_nsec),
            ctime: nanos(stat.st_ctime, stat.st_ctime_nsec),
            device: stat.st_dev,
            inode: stat.st_ino,
            linked: kind == Kind::File && stat.st_nlink > 1,
            sparse: kind == Kind::File && u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size,
            role: Role::Alone,
        })
    }

    /// The name of its hard-link group, if it has one.
    pub fn link(&self) -> Option<String> {
        self.linked.then(|| format!("{:x}-{:x}", self.device, self.inode))
    }
}

/// The children of one folder, by name.
type Listing = Vec<Met>;

#[derive(Default)]
struct Ahead {
    /// Folders that nobody has begun to list.
    waiting: BTreeSet<EntryPath>,
    /// Folders that a thread lists (none yet) or has listed.
    listed: HashMap<EntryPath, Option<std::result::Result<Listing, Errno>>>,
    /// Entries in listings that are done.
    entries: usize,
    over: bool,
}

struct Shared<'a> {
    data: &'a Path,
    select: &'a Select,
    monitor: &'a dyn Monitor,
    ahead: Mutex<Ahead>,
    changed: Condvar,
}

/// Walks `data` depth first, names in the order of their bytes, and calls `take` with all that it meets. The data directory
/// itself comes first.
///
/// # Errors
/// A data directory that is missing, cannot be read, is no folder or is half restored; those of `take`.
pub fn walk(
    data: &Path,
    select: &Select,
    threads: usize,
    monitor: &dyn Monitor,
    mut take: impl FnMut(Met) -> Result<()>,
) -> Result<()> {
    let doing = || format!("read the data directory {}", data.display());
    let stat = rustix::fs::stat(data).map_err(|why| match why {
        Errno::NOENT => Error::failed(doing(), "it does not exist").hint(MISSING),
        why => Error::io(doing(), &why.into()),
    })?;
    let root = Found::new(EntryPath::root(), &stat).filter(|found| found.kind == Kind::Folder);
    let root = root.ok_or_else(|| Error::failed(doing(), "it is not a directory"))?;
    if data.join(HALF_RESTORED).symlink_metadata().is_ok() {
        let why = format!("a restore in place has not been finished (there is {HALF_RESTORED})");
        return Err(Error::failed(doing(), why).hint("Run `lastgood restore --in-place` again; it goes to the end."));
    }
    let shared = Shared { data, select, monitor, ahead: Mutex::default(), changed: Condvar::new() };
    let listing = shared.list(&EntryPath::root()).map_err(|why| Error::io(doing(), &why.into()))?;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| shared.list_ahead());
        }
        let done = descend(&shared, root, listing, &mut take);
        shared.lock().over = true;
        shared.changed.notify_all();
        done
    })
}

fn descend(shared: &Shared, root: Found, listing: Listing, take: &mut impl FnMut(Met) -> Result<()>) -> Result<()> {
    take(Met::Entry(root))?;
    shared.announce(&listing);
    let mut open = vec![listing.into_iter()];
    while let Some(folder) = open.last_mut() {
        let Some(met) = folder.next() else {
            open.pop();
            continue;
        };
        let below = match &met {
            Met::Entry(found) if found.kind == Kind::Folder => Some(found.path.clone()),
            _ => None,
        };
        take(met)?;
        let Some(below) = below else { continue };
        match shared.take(&below).or_else(|why| shared.again(&below, why)) {
            Ok(listing) => open.push(listing.into_iter()),
            Err(Errno::NOENT) => take(Met::Skipped(below, "it disappeared before its entries were listed"))?,
            Err(why) => take(Met::Failed(below, format!("its entries could not be listed: {why}")))?,
        }
    }
    Ok(())
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a folder's entries, by name.
    fn list(&self, folder: &EntryPath) -> std::result::Result<Listing, Errno> {
        self.monitor.reached(Moment::Listing, folder);
        let path = self.data.join(folder.as_path());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let nofollow = if folder.is_root() { OFlags::empty() } else { OFlags::NOFOLLOW };
        let fd = open(&path, flags | nofollow, Mode::empty())?;
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        // A filesystem that is changed while it is listed may give a name twice.
        names.dedup();
        self.monitor.reached(Moment::Named, folder);
        let databases = match self.select.sqlite {
            true => beside::databases(&fd, &names),
            false => Default::default(),
        };
        let mut listing = Vec::with_capacity(names.len());
        for name in names {
            let path = folder.join(&name);
            let stat = match statat(&fd, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(why) => {
                    listing.push(Met::Failed(path, why.to_string()));
                    continue;
                }
            };
            match Found::new(path.clone(), &stat) {
                Some(found) if databases.is_side(&name) && found.kind == Kind::File => {
                    listing.push(Met::Entry(Found { role: Role::Side, ..found }));
                }
                Some(found) if self.select.takes(&found) => {
                    let role = databases.role(&name);
                    listing.push(Met::Entry(Found { role, ..found }));
                }
                Some(_) => {}
                None => listing.push(Met::Skipped(path, what(stat.st_mode))),
            }
        }
        self.monitor.reached(Moment::Listed, folder);
        Ok(listing)
    }

    /// Tries a folder again that was not there when it was listed: it may have been renamed and put back.
    fn again(&self, folder: &EntryPath, mut why: Errno) -> std::result::Result<Listing, Errno> {
        for _ in 0..AGAIN {
            if !matches!(why, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            match self.list(folder) {
                Ok(listing) => {
                    self.announce(&listing);
                    return Ok(listing);
                }
                Err(next) => why = next,
            }
        }
        Err(why)
    }

    /// Makes the folders of a listing known to the listing threads.
    fn announce(&self, listing: &Listing) {
        let mut ahead = self.lock();
        for met in listing {
            if let Met::Entry(found) = met
                && found.kind == Kind::Folder
            {
                ahead.waiting.insert(found.path.clone());
            }
        }
        drop(ahead);
        self.changed.notify_all();
    }

    /// One listing thread: the first folder that waits, as long as not too much is ahead of the walk.
    fn list_ahead(&self) {
        let mut ahead = self.lock();
        while !ahead.over {
            let next = if ahead.entries < AHEAD { ahead.waiting.pop_first() } else { None };
            let Some(path) = next else {
                ahead = self.changed.wait(ahead).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            ahead.listed.insert(path.clone(), None);
            drop(ahead);
            let listing = self.list(&path);
            if let Ok(listing) = &listing {
                self.announce(listing);
            }
            ahead = self.lock();
            ahead.entries += listing.as_ref().map_or(0, Vec::len);
            ahead.listed.insert(path, Some(listing));
            self.changed.notify_all();
        }
    }

    /// The listing of the folder that the walk has come to; lists it here if no thread has begun.
    fn take(&self, path: &EntryPath) -> std::result::Result<Listing, Errno> {
        let mut ahead = self.lock();
        if ahead.waiting.remove(path) {
            drop(ahead);
            let listing = self.list(path)?;
            self.announce(&listing);
            return Ok(listing);
        }
        loop {
            match ahead.listed.remove(path) {
                Some(Some(listing)) => {
                    ahead.entries -= listing.as_ref().map_or(0, Vec::len);
                    drop(ahead);
                    self.changed.notify_all();
                    return listing;
                }
                Some(None) => {
                    ahead.listed.insert(path.clone(), None);
                    ahead = self.changed.wait(ahead).unwrap_or_else(PoisonError::into_inner);
                }
                // Every folder is announced before the walk comes to it.
                None => return self.list(path),
            }
        }
    }
}

fn what(mode: u32) -> &'static str {
    match FileType::from_raw_mode(mode) {
        FileType::Socket => "it is a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "it is a device",
        _ => "it is of a kind that lastgood does not know",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;
    use std::fs;

    fn paths(data: &Path, select: &Select, threads: usize) -> Vec<String> {
        let mut out = Vec::new();
        walk(data, select, threads, &Silent, |met| {
            match met {
                Met::Entry(found) => out.push(found.path.to_string()),
                Met::Skipped(path, why) => out.push(format!("{path}: {why}")),
                Met::Failed(path, why) => out.push(format!("{path} failed: {why}")),
            }
            Ok(())
        })
        .unwrap();
        out
    }

    fn tree() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        for folder in ["a", "a/deep/er", "a.d", "b", "data.replaced-20261121T101112Z", "b.replaced-now"] {
            fs::create_dir_all(data.path().join(folder)).unwrap();
        }
        for file in ["a/x.csv", "a/deep/er/y.json", "a.d/z", "a b", "b/w.csv", "data.replaced-20261121T101112Z/old"] {
            fs::write(data.path().join(file), file).unwrap();
        }
        data
    }

    #[test]
    fn all_in_path_order_whatever_the_threads() {
        let data = tree();
        let all = Select::new(Path::new("data"), &[], &[], &[], true).unwrap();
        let expected = [
            ".",
            "a",
            "a/deep",
            "a/deep/er",
            "a/deep/er/y.json",
            "a/x.csv",
            "a b",
            "a.d",
            "a.d/z",
            "b",
            "b/w.csv",
            "b.replaced-now",
        ];
        for threads in [0, 1, 4] {
            assert_eq!(paths(data.path(), &all, threads), expected);
        }
    }

    #[test]
    fn what_is_selected() {
        let data = tree();
        let some = Select::new(
            data.path(),
            &["*.csv".into(), "a/**/y.json".into()],
            &["b".into()],
            &[data.path().join("a.d")],
            true,
        )
        .unwrap();
        let expected = [".", "a", "a/deep", "a/deep/er", "a/deep/er/y.json", "a/x.csv", "b.replaced-now"];
        assert_eq!(paths(data.path(), &some, 2), expected);
        for pattern in ["a[", "", "/", ".", "./", "..", "a/../b", "!a"] {
            let said = Select::new(data.path(), &[], &[pattern.into()], &[], true).unwrap_err();
            assert_eq!(said.kind(), crate::error::Kind::Usage, "{pattern}");
        }
        for pattern in ["./a", "/a", "a/", data.path().join("a").to_str().unwrap()] {
            let select = Select::new(data.path(), &[], &[pattern.into()], &[], true).unwrap();
            let found = paths(data.path(), &select, 1);
            assert!(
                found.contains(&"b/w.csv".into()) && !found.iter().any(|p| p.starts_with("a/")),
                "{pattern}: {found:?}"
            );
        }
    }

    #[test]
    fn sockets_are_skipped_and_missing_data_is_an_error() {
        let data = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(data.path().join("s")).unwrap();
        let all = Select::new(Path::new("data"), &[], &[], &[], true).unwrap();
        assert_eq!(paths(data.path(), &all, 1), [".", "s: it is a socket"]);
        let said = walk(&data.path().join("none"), &all, 1, &Silent, |_| Ok(())).unwrap_err().to_string();
        assert!(said.contains("does not exist") && said.contains("lastgood restore"), "{said}");
        let said = walk(&data.path().join("s"), &all, 1, &Silent, |_| Ok(())).unwrap_err().to_string();
        assert!(said.contains("not a directory"), "{said}");
        fs::write(data.path().join(HALF_RESTORED), "").unwrap();
        assert!(walk(data.path(), &all, 1, &Silent, |_| Ok(())).is_err());
    }
}
