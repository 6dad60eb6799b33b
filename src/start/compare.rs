//! Compares a data directory with a snapshot: both in path order, side by side, and neither is ever held whole.
//!
//! What counts as unchanged is decided by the backup's own [`Merge`], on the same terms of place. Where that would read
//! a file again because its times do not tell enough (a time in whole seconds, a change just before the snapshot, a
//! database that was restored without its log), the file is read here, and compared by its hash. Two things count less
//! than in a backup, since they say nothing about the data: times of folders, and in another place than the snapshot's
//! modes and owners. Extended attributes are compared where a change time is not the recorded one.

mod attributes;
mod known;
mod links;
mod of_sqlite;
mod raw;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{OFlags, readlinkat};
use rustix::io::Errno;
use serde::Serialize;

use self::attributes::{Counted, may_be_too_much};
use self::known::{KnownEntries, Recorded};
use self::links::Links;
use super::known::PutBack;
use crate::backup::merge::{Merge, MergeStep, Rule};
use crate::error::{Code, Error, Result};
use crate::fs::beneath::Directory;
use crate::lineage::is_own;
use crate::monitor::Context;
use crate::path::{EntryPath, EscapedBytes};
use crate::source::extra::{extra_of, extra_of_file};
use crate::source::found::SourceEntry;
use crate::source::place::Terms;
use crate::source::select::Select;
use crate::source::walk::{Met, Walker};
use crate::sqlite::at::DatabaseLocation;
use crate::sqlite::error::ReadError;
use crate::sqlite::fd_registry::{self, LockedFile};
use crate::sqlite::live::{Live, LiveOptions};
use crate::sqlite::side_files::Role;
use crate::sqlite::usage::UsageFinder;
use crate::vault::Vault;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::Hash;
use crate::vault::read::PackReader;
use crate::vault::root::{Root, SourceIdentity};

/// Most differences that are named.
pub const NAMED: usize = 3;
/// Most bytes that are read in one comparison to find out whether files changed whose times do not tell. About two
/// seconds on a slow disk.
pub const MOST_READ: u64 = 256 << 20;
/// No file is chosen to be read although it looks unchanged: hashes of paths are chosen by their remainder.
const NO_SAMPLE: u64 = u64::MAX;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the directory has it.
    Added,
    /// Only the snapshot has it.
    Removed,
    /// Both have it, and it differs.
    Modified,
}

/// How far a comparison goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until it is known that something differs, and what the first differences are.
    Different,
    /// To the end, to find out whether the directory is older than the snapshot.
    End,
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Comparison {
    /// Entries of the directory that were compared.
    pub entries: u64,
    /// The first differences.
    pub differences: Vec<(EntryPath, Change)>,
    /// The first entry of which it could not be told whether it differs, and why.
    pub unsure: Option<(EntryPath, String)>,
    /// An entry that shows that the directory is older than the snapshot; only looked for to the end.
    pub put_back: Option<PutBack>,
    /// Whether it ended before all was compared.
    pub cut_short: bool,
}

impl Comparison {
    /// Whether something differs; `None` if that could not be told.
    pub fn changed(&self) -> Option<bool> {
        match (self.differences.is_empty(), &self.unsure) {
            (false, _) => Some(true),
            (true, Some(_)) => None,
            (true, None) => Some(false),
        }
    }
}

/// A data directory, for comparisons with snapshots.
#[derive(Clone, Copy)]
pub struct Compared<'a> {
    /// The directory.
    pub root: &'a Directory,
    /// Where it is.
    pub place: &'a SourceIdentity,
    /// Whether inode numbers mean something on its filesystem.
    pub numbered: bool,
    /// Folders that are not data.
    pub not_walked: &'a [PathBuf],
    /// Whether databases are told from other files.
    pub sqlite: bool,
    /// Most bytes that are read where times do not tell.
    pub most_read: u64,
    /// Whether everything is to be equal that a restore brings back, whatever times say: files are read, and owners, modes, links and
    /// attributes compared, but for the system's own attributes. A database with a log is read through SQLite, also where that keeps an
    /// app from writing. What lies beside a database is to be SQLite's.
    pub strict: bool,
    /// Number of threads, and when to stop.
    pub ctx: &'a Context<'a>,
}

impl Compared<'_> {
    /// Compares it with a snapshot of a vault, by the patterns that the snapshot was taken with.
    ///
    /// # Errors
    /// A directory that cannot be read, or in which a restore was not finished; a store that fails; damage; a stop.
    pub fn with(&self, vault: &Vault, root: &Root, until: Until) -> Result<Comparison> {
        let filters = &root.filters;
        let (data, sqlite) = (self.root.path(), self.sqlite);
        let select = Select::by(data, filters, self.not_walked, sqlite)?;
        let packs = PackReader::for_root(&*vault.store, root)?;
        let terms = Terms::of(root, self.place, self.numbered);
        let (recorded, failed) = (RefCell::new(VecDeque::new()), RefCell::new(None));
        let mut known = KnownEntries::new(&packs, root, terms, (&recorded, &failed))?;
        let rule = Rule { verify_content: self.strict, sample: NO_SAMPLE, turn: NO_SAMPLE - 1, sqlite, check: None };
        let used = UsageFinder::default();
        let elsewhere = |found: &SourceEntry| used.is_used(self.root, &found.path, (found.device, found.inode));
        let mut merge = Merge::new(&mut known, rule).asking(&elsewhere);
        let mut side_by_side = SideBySide::new(*self, terms.same_place);
        let enough = Cell::new(false);
        let vault = vault.store.url();
        let walker = Walker {
            threads: self.ctx.threads,
            restored_from: Some(&vault),
            ..Walker::quiet(self.root, &select, self.ctx.stop)
        };
        let walked = walker.whole(|met| {
            self.ctx.check("compare the data directory with a snapshot")?;
            match met {
                Met::Entry(found) if !is_own(&found.path) => {
                    side_by_side.removed(&recorded, Some(&found.path));
                    let step = merge.next(found.clone());
                    side_by_side.removed(&recorded, Some(&found.path));
                    let matched = recorded.borrow_mut().pop_front_if(|entry| entry.path == found.path);
                    side_by_side.entry(&found, matched.as_ref(), step);
                }
                Met::Failed(path, why) => side_by_side.unsure(path, why),
                _ => {}
            }
            if let Some(why) = failed.borrow_mut().take() {
                return Err(why);
            }
            enough.set(until == Until::Different && side_by_side.result.differences.len() >= NAMED);
            match enough.get() {
                true => Err(Error::failed("compare", "enough is known").with_code(Code::Stopped)),
                false => Ok(()),
            }
        });
        if enough.get() {
            side_by_side.result.cut_short = true;
            return Ok(side_by_side.result);
        }
        walked?;
        drop(merge);
        while known.next().is_some() {
            side_by_side.removed(&recorded, None);
        }
        side_by_side.removed(&recorded, None);
        failed.into_inner().map_or(Ok(()), Err)?;
        Ok(side_by_side.end(until))
    }
}

/// What a comparison has found so far.
struct SideBySide<'a> {
    compared: Compared<'a>,
    same_place: bool,
    result: Comparison,
    /// Bytes that may still be read.
    left: u64,
    /// Whether an entry is the very one that the snapshot recorded, so that the directory is no copy of another one.
    original: bool,
    /// An entry whose change time is older than recorded.
    older_change: Option<EntryPath>,
    /// A file whose modification time is older than recorded.
    older: Option<EntryPath>,
    absent: Option<EntryPath>,
    links: Links,
    /// The files beside the last database that was taken with them, if their content is there.
    sides: Vec<Entry>,
}

impl<'a> SideBySide<'a> {
    fn new(compared: Compared<'a>, same_place: bool) -> Self {
        let (older_change, older, absent) = (None, None, None);
        let result = Comparison::default();
        SideBySide {
            compared,
            same_place,
            result,
            left: compared.most_read,
            original: false,
            older_change,
            older,
            absent,
            links: Links::default(),
            sides: Vec::new(),
        }
    }

    fn differs(&mut self, path: &EntryPath, change: Change) {
        if self.result.differences.len() < NAMED {
            self.result.differences.push((path.clone(), change));
        }
    }

    fn unsure(&mut self, path: EntryPath, why: String) {
        // Only its owner may look into it, and nothing in it is the app's.
        if path.name() != b"lost+found" {
            self.result.unsure.get_or_insert((path, why));
        }
    }

    /// Notes what the snapshot has before `next`, and the directory does not have.
    fn removed(&mut self, recorded: &RefCell<VecDeque<Recorded>>, next: Option<&EntryPath>) {
        let is_before = |entry: &mut Recorded| next.is_none_or(|next| entry.path < *next);
        while let Some(entry) = recorded.borrow_mut().pop_front_if(is_before) {
            self.absent.get_or_insert(entry.path.clone());
            self.differs(&entry.path, Change::Removed);
        }
    }

    fn entry(&mut self, found: &SourceEntry, matched: Option<&Recorded>, step: MergeStep) {
        self.result.entries += 1;
        let strict = self.compared.strict;
        let Some(recorded) = matched else {
            // What lies beside a database belongs to it, and is compared with it.
            if found.role != Role::Side || strict && !self.is_of_sqlite(found) {
                self.differs(&found.path, Change::Added);
            }
            return;
        };
        self.note_times(found, recorded);
        let is_other_file = !matches!(step, MergeStep::Link(_)) && self.links.compared(found, recorded);
        let equal = match step {
            _ if strict && is_other_file => Some(false),
            _ if strict && found.role == Role::Side => Some(self.was_compared(found)),
            MergeStep::Read(found, Some(entry)) => self.is_equal(&found, &entry, recorded),
            // Another name of a file that is compared under its first one.
            MergeStep::Link(found) => Some(self.links.is_name(&found, recorded, strict)),
            // Times tell nothing of where it points: programs that set them set those of symlinks alike.
            MergeStep::Adopt(found, entry) if found.kind == EntryKind::Symlink || strict => {
                self.is_equal(&found, &entry, recorded)
            }
            MergeStep::Adopt(found, entry) => Some(self.has_its_attributes(&found, &entry)),
            MergeStep::Keep(entry) if strict => self.is_equal(found, &entry, recorded),
            _ => Some(true),
        };
        if equal == Some(false) {
            self.differs(&found.path, Change::Modified);
        }
    }

    /// Notes what the times of an entry say about the age of the directory.
    fn note_times(&mut self, found: &SourceEntry, recorded: &Recorded) {
        self.original |= (found.inode, found.ctime) == (recorded.inode, recorded.ctime);
        if found.ctime < recorded.ctime {
            self.older_change.get_or_insert(found.path.clone());
        }
        if found.kind == EntryKind::File && found.mtime < recorded.mtime {
            self.older.get_or_insert(found.path.clone());
        }
    }

    /// Whether an entry that a backup would read is what the snapshot has. `None` if that could not be told, which is
    /// noted.
    fn is_equal(&mut self, found: &SourceEntry, entry: &Entry, recorded: &Recorded) -> Option<bool> {
        let same_owner = (entry.mode, entry.uid, entry.gid) == (found.mode, found.uid, found.gid);
        if entry.kind != found.kind || (self.same_place || self.compared.strict) && !same_owner {
            return Some(false);
        }
        if self.compared.strict && entry.link.is_some() != found.linked || !self.has_its_attributes(found, entry) {
            return Some(false);
        }
        match found.kind {
            EntryKind::Folder | EntryKind::Fifo => return Some(true),
            EntryKind::Symlink => return Some(self.target(found).is_some_and(|now| Some(now) == entry.target)),
            EntryKind::File => {}
        }
        if !entry.sides().is_empty() {
            return self.is_equal_raw(found, entry, &recorded.sides);
        }
        let (has_wal, has_journal) = match &found.role {
            Role::Database { wal, journal, .. } => (
                wal.is_some_and(|wal| wal.side.size > 0),
                journal.is_some_and(|journal| journal.side.size > 0 && !self.is_at_rest(found, &journal)),
            ),
            Role::Alone | Role::Side => (false, false),
        };
        let logged = has_wal || has_journal;
        // Reading keeps an app from writing where there is a rollback journal.
        let may_read = has_wal || logged && self.compared.strict;
        if let (true, Some(hash)) = (may_read, entry.hash) {
            return match self.hash_with_log(found) {
                Ok(now) => Some(now == hash),
                Err(why) => {
                    self.unsure(found.path.clone(), why.to_string());
                    None
                }
            };
        }
        let looks_same = (entry.size, entry.mtime) == (found.size, found.mtime);
        let Some(hash) = entry.hash.filter(|_| looks_same && !logged) else {
            return Some(false);
        };
        self.has_hash(found, (&found.path, found.inode, found.size), hash)
    }

    /// Whether a file beside a database was compared with it, and is as it was taken with it. Otherwise it was a file of its own, and is
    /// none now.
    fn was_compared(&mut self, found: &SourceEntry) -> bool {
        let is_same = |side: &&Entry| {
            (&side.path, side.mode, side.uid, side.gid) == (&found.path, found.mode, found.uid, found.gid)
        };
        let same = self.sides.iter().find(is_same).cloned();
        same.is_some_and(|side| self.has_its_attributes(found, &side))
    }

    /// Whether a file, which is `found` or lies beside it, has this content. `None` if that could not be told, which is noted.
    fn has_hash(
        &mut self,
        found: &SourceEntry,
        (path, inode, size): (&EntryPath, u64, u64),
        hash: Hash,
    ) -> Option<bool> {
        let Some(left) = self.left.checked_sub(size) else {
            self.unsure(found.path.clone(), "its times do not tell, and it is too large to be read here".into());
            return None;
        };
        self.left = left;
        match self.hash(path, (found.device, inode)) {
            Ok(now) => Some(now == hash),
            Err(why) => {
                self.unsure(found.path.clone(), why);
                None
            }
        }
    }

    /// Whether an entry has the extended attributes that the snapshot has; also if that cannot be told, which is noted.
    fn has_its_attributes(&mut self, found: &SourceEntry, entry: &Entry) -> bool {
        let counted = match self.compared.strict {
            true => Counted::All,
            // The kernel moves the change time when an attribute is set.
            false if found.ctime == entry.ctime => return true,
            false if self.same_place => Counted::Here,
            false => Counted::InCopy,
        };
        let Some(now) = self.attributes(found) else { return true };
        let is_not_recorded = entry.racy && entry.xattrs.is_empty() && may_be_too_much(&now);
        !counted.differ(&now, &entry.xattrs) || !self.compared.strict && is_not_recorded
    }

    /// The extended attributes of an entry. `None` if they cannot be read, which is noted.
    fn attributes(&mut self, found: &SourceEntry) -> Option<Vec<(EscapedBytes, EscapedBytes)>> {
        let extra = match extra_of(self.compared.root, &found.path, found.kind) {
            // Without /proc, a file is to be open for that.
            Err(Errno::NOSYS) => {
                self.open(&found.path, (found.device, found.inode)).map(|opened| extra_of_file(&opened.file))
            }
            extra => extra,
        };
        match extra.and_then(|extra| extra.refused.map_or(Ok(extra.xattrs), Err)) {
            Ok(xattrs) => Some(xattrs),
            Err(why) => {
                self.unsure(found.path.clone(), format!("its extended attributes cannot be read: {why}"));
                None
            }
        }
    }

    /// Whether a file beside a database, which the snapshot does not have, holds nothing but what SQLite makes itself. `true` if that
    /// cannot be told, which is noted. A log is read with its database, whose content it changes.
    fn is_of_sqlite(&mut self, found: &SourceEntry) -> bool {
        match self.attributes(found) {
            Some(now) if Counted::All.differ(&now, &[]) => return false,
            Some(_) => {}
            None => return true,
        }
        if found.size == 0 {
            return true;
        }
        let is_index = found.path.bytes().ends_with(b"-shm");
        let look = if is_index { of_sqlite::is_index } else { of_sqlite::is_log };
        match self.open(&found.path, (found.device, found.inode)).and_then(|opened| look(&opened.file)) {
            Ok(is_sqlites) => is_sqlites,
            Err(why) => {
                self.unsure(found.path.clone(), why.to_string());
                true
            }
        }
    }

    /// Hashes a database and what its log holds, as a backup takes them: through SQLite.
    fn hash_with_log(&mut self, found: &SourceEntry) -> Result<Hash, ReadError> {
        let failed = |why: Errno| ReadError::Failed(std::io::Error::from(why).to_string());
        let stop = self.compared.ctx.stop;
        let at = Arc::new(DatabaseLocation::beneath(self.compared.root, &found.path).map_err(failed)?);
        let lock = fd_registry::lock_inode(found.device, found.inode, stop).map_err(failed)?;
        let mut live = Live::open(at, lock, LiveOptions { patience: Duration::ZERO, stop })?;
        let state = live.begin()?;
        let size = state.pages.saturating_mul(state.page_size.into());
        self.left = self.left.checked_sub(size).ok_or(ReadError::Failed("it is too large to be read here".into()))?;
        let (mut hasher, mut page) = (blake3::Hasher::new(), vec![0; state.page_size as usize]);
        for number in 1..=state.pages {
            let number = u32::try_from(number).map_err(|why| ReadError::Failed(why.to_string()))?;
            live.page(number, &mut page)?;
            hasher.update(&page);
        }
        match live.end()? {
            true => Ok(Hash::from(&hasher.finalize())),
            false => Err(ReadError::Failed("it was written to meanwhile".into())),
        }
    }

    /// Where a symlink points; `None` if it cannot be read.
    fn target(&self, found: &SourceEntry) -> Option<EscapedBytes> {
        let (above, name) = self.compared.root.parent(&found.path).ok()?;
        let target = readlinkat(&above, OsStr::from_bytes(&name), Vec::new()).ok()?;
        Some(EscapedBytes(target.into_bytes()))
    }

    /// Opens a file of this device and inode.
    fn open(&self, path: &EntryPath, (device, inode): (u64, u64)) -> Result<LockedFile, Errno> {
        let (stop, root) = (self.compared.ctx.stop, self.compared.root);
        let lock = fd_registry::lock_inode(device, inode, stop)?;
        fd_registry::open(lock, stop, || root.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK))
    }

    fn hash(&self, path: &EntryPath, file: (u64, u64)) -> Result<Hash, String> {
        let opened = self.open(path, file).map_err(|why| std::io::Error::from(why).to_string())?;
        let mut hasher = blake3::Hasher::new();
        let mut file: &File = &opened.file;
        std::io::copy(&mut file, &mut hasher).map_err(|why| why.to_string())?;
        Ok(Hash::from(&hasher.finalize()))
    }

    /// Tells whether the directory is older than the snapshot, which was taken from it or from what it is a copy of.
    ///
    /// A disk that was put back has old change times: in files that changed, and in folders that got or lost entries. A
    /// copy has new ones and new inode numbers everywhere, so an absent file counts, which in the directory itself an
    /// app may have deleted, and so does an older modification time, which copies keep. The directory itself is known by
    /// its own inode and birth time as well, also when the app has replaced every file in it.
    fn end(mut self, until: Until) -> Comparison {
        let older_change = self.older_change.map(|path| (path, "has an older change time than the snapshot says"));
        let of_copy = || {
            let absent = self
                .absent
                .filter(|_| !self.same_place)
                .map(|path| (path, "is not there, in what is a copy of the directory"));
            absent
                .or(self.older.map(|path| (path, "is older than in the snapshot, in what is a copy of the directory")))
        };
        let shown = older_change.or_else(|| if self.original { None } else { of_copy() });
        self.result.put_back = shown.filter(|_| until == Until::End).map(|(path, why)| PutBack { path, why });
        self.result
    }
}

#[cfg(test)]
mod tests;
