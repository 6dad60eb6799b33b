//! Walks the data directory as it is now, in path order.
//!
//! Several threads list folders ahead of the walk, since on a network mount every answer takes its time; entries still
//! come in order, and only a bounded number of them wait. The largest single folder is held whole.

mod unfinished;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;

use self::unfinished::half_restored;
pub use self::unfinished::{check_above, check_finished};
use super::apart::Apart;
use super::folders::FolderRecord;
use super::found::SourceEntry;
use super::listing::{names, status};
use super::marker::{MARKER, Unclear, Unfinished};
use super::select::Select;
use crate::error::{Code, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::filesystem::is_mount;
use crate::fs::times;
use crate::monitor::{Moment, Monitor, SilentMonitor};
use crate::path::EntryPath;
use crate::sqlite::side_files::{self, Role};
use crate::vault::entry::EntryKind;

/// Most listed entries that may wait for the walk.
const AHEAD: usize = 32_768;

/// The advice about a missing data directory.
pub const MISSING: &str =
    "Name the directory (`lastgood backup DIR`, or LASTGOOD_DATA). If it was lost, `lastgood restore` brings it back.";

/// The advice about a data directory that is a file.
const NOT_A_DIRECTORY: &str = "Name the directory that holds the data (`lastgood backup DIR`, or LASTGOOD_DATA).";

/// Something that the walk meets.
#[derive(Debug, PartialEq, Eq)]
pub enum Met {
    /// An entry for the snapshot.
    Entry(SourceEntry),
    /// A folder's names, after its entry, for the recheck at the end.
    Listed(FolderRecord),
    /// An entry that was to be walked again and is not there any more.
    Away(EntryPath),
    /// Something that no snapshot holds, and why.
    Skipped(EntryPath, &'static str),
    /// Something that should be in the snapshot and cannot be read, and why.
    Failed(EntryPath, String),
}

/// A folder that was listed.
#[derive(Debug)]
struct Listing {
    /// The folder itself, as it was just before it was listed.
    folder: SourceEntry,
    /// For the recheck at the end.
    record: FolderRecord,
    /// The folder's children, by name.
    children: Vec<Met>,
    /// The unfinished part of a restore into the folder, if there is a marker.
    unfinished: Option<Result<Unfinished, Unclear>>,
}

#[derive(Default)]
struct Ahead {
    /// Folders that no thread has begun to list.
    waiting: BTreeSet<EntryPath>,
    /// Folders that a thread is listing (`None` so far) or has listed.
    listed: HashMap<EntryPath, Option<std::result::Result<Listing, Errno>>>,
    /// Entries in listings that are done and wait for the walk.
    entries: usize,
    over: bool,
    /// Whether a thread that listed folders ended in a panic: the listing that it had begun will not come.
    broken: bool,
}

struct WalkShared<'a> {
    root: &'a Directory,
    select: &'a Select,
    apart: Apart,
    now: fn() -> i64,
    stop: &'a AtomicBool,
    monitor: &'a dyn Monitor,
    restored_from: Option<&'a str>,
    /// Whether this walk issues the warnings about folders: some of them may be walked again later.
    warns: bool,
    ahead: Mutex<Ahead>,
    changed: Condvar,
}

/// How a walk is done.
#[derive(Clone, Copy)]
pub struct Walker<'a> {
    /// The data directory.
    pub root: &'a Directory,
    /// Which of its entries are taken.
    pub select: &'a Select,
    /// Number of threads that list folders ahead of the walk.
    pub threads: usize,
    /// The machine's clock, in ns since 1970.
    pub now: fn() -> i64,
    /// Set from outside to stop the walk.
    pub stop: &'a AtomicBool,
    /// Is told of each folder.
    pub monitor: &'a dyn Monitor,
    /// The vault from which restores are made. If it is set, a folder (the data directory itself or any in it) with an
    /// unfinished restore is an error.
    pub restored_from: Option<&'a str>,
}

impl Walker<'_> {
    /// A walk by one thread that reports to nobody.
    pub fn quiet<'w>(root: &'w Directory, select: &'w Select, stop: &'w AtomicBool) -> Walker<'w> {
        Walker { root, select, threads: 1, now: times::now, stop, monitor: &SilentMonitor, restored_from: None }
    }

    /// Walks the whole directory depth first, names in the order of their bytes, and calls `take` with everything that
    /// it meets. The data directory itself comes first.
    ///
    /// # Errors
    /// A data directory that cannot be read; a half restored folder, the data directory or one in it, if that matters;
    /// those of `take`.
    pub fn whole(self, mut take: impl FnMut(Met) -> Result<()>) -> Result<()> {
        self.with(true, |shared| {
            let listing = shared.list(&EntryPath::root());
            let listing = listing.map_err(|why| {
                Error::io(format!("list the data directory {}", shared.root.path().display()), &why.into())
            })?;
            descend(shared, listing, &mut take)
        })
    }

    /// Walks these entries and what is below them, and meets them as [`Walker::whole`] would. They are in path order,
    /// and none lies below another.
    ///
    /// # Errors
    /// As [`Walker::whole`].
    pub fn some(self, paths: &[EntryPath], mut take: impl FnMut(Met) -> Result<()>) -> Result<()> {
        self.with(false, |shared| {
            // Other entries may come between those of one folder, so its listing is kept; never for many folders at a time.
            let mut listed: Vec<(EntryPath, Result<Vec<Met>, Errno>)> = Vec::new();
            for path in paths {
                let above = path.folder().unwrap_or_default();
                listed.retain(|(folder, _)| above.is_in(folder));
                if listed.last().is_none_or(|(folder, _)| *folder != above) {
                    let children = match shared.list(&above) {
                        Ok(listing) => Ok(shared.checked(listing)?.children),
                        // If a folder is gone, so is what was in it.
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Vec::new()),
                        Err(why) => Err(why),
                    };
                    listed.push((above, children));
                }
                let children = match listed.last_mut() {
                    Some((_, Ok(children))) => children,
                    Some((folder, Err(why))) => {
                        let why = format!("the entries of {folder} could not be listed: {why}");
                        take(Met::Failed(path.clone(), why))?;
                        continue;
                    }
                    None => continue,
                };
                let Ok(at) = children.binary_search_by(|met| met.path().cmp(path)) else {
                    take(Met::Away(path.clone()))?;
                    continue;
                };
                let met = std::mem::replace(&mut children[at], Met::Away(path.clone()));
                shared.announce(std::slice::from_ref(&met));
                shared.child(met, &mut Vec::new(), &mut take)?;
            }
            Ok(())
        })
    }

    fn with(self, warns: bool, work: impl FnOnce(&WalkShared) -> Result<()>) -> Result<()> {
        let Walker { root, select, threads, now, stop, monitor, restored_from } = self;
        let shared = WalkShared {
            root,
            select,
            apart: Apart::new(root.path(), select.one_file_system),
            now,
            stop,
            monitor,
            restored_from,
            warns,
            ahead: Mutex::default(),
            changed: Condvar::new(),
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| shared.list_ahead());
            }
            let _over = ListingGuard(&shared);
            work(&shared)
        })
    }
}

/// Ends the listing threads when it is dropped, also by a panic.
struct ListingGuard<'a>(&'a WalkShared<'a>);

impl Drop for ListingGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

/// Opens the data directory.
///
/// # Errors
/// A data directory that is missing, cannot be read or is not a folder.
pub fn open(data: &Path) -> Result<Directory> {
    let doing = || format!("read the data directory {}", data.display());
    Directory::open(data).map_err(|why| match why {
        Errno::NOENT => Error::failed(doing(), "it does not exist").with_code(Code::NoData).hint(MISSING),
        Errno::NOTDIR => Error::failed(doing(), "it is not a directory").with_code(Code::NoData).hint(NOT_A_DIRECTORY),
        why => Error::io(doing(), &why.into()),
    })
}

fn descend(shared: &WalkShared, listing: Listing, take: &mut impl FnMut(Met) -> Result<()>) -> Result<()> {
    let mut open = Vec::new();
    shared.enter(listing, &mut open, take)?;
    shared.walk_open(&mut open, take)
}

impl Met {
    /// The path that this is about.
    pub fn path(&self) -> &EntryPath {
        match self {
            Met::Entry(found) => &found.path,
            Met::Listed(record) => &record.path,
            Met::Away(path) | Met::Skipped(path, _) | Met::Failed(path, _) => path,
        }
    }
}

/// Folders that the walk is in, each with the children that are still to come.
type WalkStack = Vec<std::vec::IntoIter<Met>>;

impl WalkShared<'_> {
    fn lock(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Walks everything that is left of the open folders.
    fn walk_open(&self, open: &mut WalkStack, take: &mut impl FnMut(Met) -> Result<()>) -> Result<()> {
        while let Some(folder) = open.last_mut() {
            match folder.next() {
                Some(met) => self.child(met, open, take)?,
                None => _ = open.pop(),
            }
        }
        Ok(())
    }

    /// Takes one child. If no folder is open around it and it is a folder, takes everything in it too.
    fn child(&self, met: Met, open: &mut WalkStack, take: &mut impl FnMut(Met) -> Result<()>) -> Result<()> {
        let folder = match met {
            Met::Entry(found) if found.kind == EntryKind::Folder && !found.apart => found,
            met => return take(met),
        };
        let alone = open.is_empty();
        match self.listing_of(&folder.path)? {
            Ok(listing) => self.enter(listing, open, take)?,
            // The folder went away, or something else has its place: the folder around it is checked again at the end.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => take(Met::Listed(FolderRecord::unlisted(folder)))?,
            Err(why) => {
                let path = folder.path.clone();
                take(Met::Entry(folder))?;
                take(Met::Failed(path, format!("its entries could not be listed: {why}")))?;
            }
        }
        if alone { self.walk_open(open, take) } else { Ok(()) }
    }

    /// Reads a restore's marker in a folder with these names, whatever else of the folder is taken. Any folder may have
    /// been a restore's target by itself, or a volume where the restore ran. Only in the data directory and the roots
    /// of volumes is it an error if something else has the marker's name, or if the marker was written for another
    /// folder: elsewhere an app may have been given a file of that name.
    fn unfinished(
        &self,
        (folder, fd): (&EntryPath, &OwnedFd),
        names: &[Vec<u8>],
    ) -> Option<Result<Unfinished, Unclear>> {
        names.binary_search_by(|name| name.as_slice().cmp(MARKER.as_bytes())).ok()?;
        if folder.is_root() || is_mount(&self.root.path().join(folder.as_path())).unwrap_or(false) {
            return Unfinished::read(fd).transpose();
        }
        let own = Unfinished::read_own(fd).ok().flatten();
        if self.warns && own.is_none() && matches!(Unfinished::read(fd), Ok(Some(_))) {
            let path = folder.join(MARKER.as_bytes());
            self.monitor.warn(&format!("{path} was written by a restore into another folder: it is taken as data"));
        }
        own.map(Ok)
    }

    /// Returns the listing, unless it is of a folder that is half restored.
    fn checked(&self, listing: Listing) -> Result<Listing> {
        match &listing.unfinished {
            Some(unfinished) => match self.restored_from {
                Some(vault) => Err(half_restored((self.root.path(), vault), &listing.folder.path, unfinished)),
                None => Ok(listing),
            },
            None => Ok(listing),
        }
    }

    fn enter(&self, listing: Listing, open: &mut WalkStack, take: &mut impl FnMut(Met) -> Result<()>) -> Result<()> {
        let Listing { folder, record, children, .. } = self.checked(listing)?;
        self.announce(&children);
        take(Met::Entry(folder))?;
        take(Met::Listed(record))?;
        open.push(children.into_iter());
        Ok(())
    }

    /// Lists a folder's entries, by name.
    fn list(&self, folder: &EntryPath) -> std::result::Result<Listing, Errno> {
        self.monitor.reached(Moment::Listing, folder);
        let fd = self.root.open_at(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        // Taken before the names are read: what changes while they are read shows in the folder's times.
        let at = (self.now)();
        let itself = SourceEntry::new(folder.clone(), &fstat(&fd)?).ok_or(Errno::NOTDIR)?;
        let names = names(&fd)?;
        self.monitor.reached(Moment::Named, folder);
        let stats: Vec<_> = names.iter().map(|name| status(&fd, name)).collect();
        let last = SourceEntry::new(folder.clone(), &fstat(&fd)?).ok_or(Errno::NOTDIR)?;
        let record = FolderRecord::new(&itself, at, last.ctime, &names, &stats);
        let unfinished = self.unfinished((folder, &fd), &names);
        let databases = match self.select.sqlite {
            true => side_files::databases(&fd, &names, &stats, self.stop),
            false => Default::default(),
        };
        let mut children = Vec::with_capacity(names.len());
        for (name, stat) in names.iter().zip(stats) {
            let path = folder.join(name);
            let stat = match stat {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(_) if self.select.excludes(&path) => continue,
                Err(why) => {
                    children.push(Met::Failed(path, why.to_string()));
                    continue;
                }
            };
            match SourceEntry::new(path.clone(), &stat) {
                Some(found) if databases.is_side(name) && found.kind == EntryKind::File => {
                    children.push(Met::Entry(SourceEntry { role: Role::Side, ..found }));
                }
                Some(found) if self.select.selects(&found) => {
                    let mounted = self.apart.mounted(fd.as_fd(), itself.device, name, &found);
                    if let Some(mounted) = mounted {
                        self.select.left_out_mounts.add(path, mounted);
                    }
                    let (role, apart) = (databases.role(name), mounted.is_some());
                    if !apart || found.kind == EntryKind::Folder {
                        children.push(Met::Entry(SourceEntry { role, apart, ..found }));
                    }
                }
                Some(_) => {}
                None => children.push(Met::Skipped(path, why_skipped(stat.st_mode))),
            }
        }
        self.monitor.reached(Moment::Listed, folder);
        Ok(Listing { folder: itself, record, children, unfinished })
    }

    /// Makes the folders among these children known to the listing threads.
    fn announce(&self, children: &[Met]) {
        let mut ahead = self.lock();
        for met in children {
            if let Met::Entry(found) = met
                && found.kind == EntryKind::Folder
                && !found.apart
            {
                ahead.waiting.insert(found.path.clone());
            }
        }
        drop(ahead);
        self.changed.notify_all();
    }

    /// Runs one listing thread: it lists the first waiting folder, as long as not too many entries are ahead of the
    /// walk.
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
            let Ok(listing) = catch_unwind(AssertUnwindSafe(|| self.list(&path))) else {
                // The walk must not wait for this folder.
                self.lock().broken = true;
                self.changed.notify_all();
                return;
            };
            if let Ok(listing) = &listing {
                self.announce(&listing.children);
            }
            ahead = self.lock();
            ahead.entries += listing.as_ref().map_or(0, |listing| listing.children.len());
            ahead.listed.insert(path, Some(listing));
            self.changed.notify_all();
        }
    }

    /// Returns the listing of the folder that the walk has come to; lists it here if no thread has begun to.
    ///
    /// # Errors
    /// A thread that ended in a panic.
    fn listing_of(&self, path: &EntryPath) -> Result<std::result::Result<Listing, Errno>> {
        let mut ahead = self.lock();
        if ahead.waiting.remove(path) {
            drop(ahead);
            return Ok(self.list(path));
        }
        loop {
            if ahead.broken {
                return Err(
                    Error::failed("read the data directory", "a thread ended in a panic").with_code(Code::Internal)
                );
            }
            match ahead.listed.remove(path) {
                Some(Some(listing)) => {
                    ahead.entries -= listing.as_ref().map_or(0, |listing| listing.children.len());
                    drop(ahead);
                    self.changed.notify_all();
                    return Ok(listing);
                }
                Some(None) => {
                    ahead.listed.insert(path.clone(), None);
                    ahead = self.changed.wait(ahead).unwrap_or_else(PoisonError::into_inner);
                }
                // Every folder is announced before the walk comes to it.
                None => {
                    drop(ahead);
                    return Ok(self.list(path));
                }
            }
        }
    }
}

fn why_skipped(mode: u32) -> &'static str {
    match FileType::from_raw_mode(mode) {
        FileType::Socket => "it is a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "it is a device",
        _ => "it is of a kind that lastgood does not know",
    }
}

#[cfg(test)]
mod tests;
