//! Writes the entries of a snapshot: every entry goes through here, and one that a reader would not accept is
//! refused.
//!
//! Readers require that entries come in the order of a depth-first walk, each in a folder that came before; that all
//! names of a hard-link group have the same content; that a raw database has the side files it was taken with; and
//! that the numbers in the root are sums over the entries. All of this is checked here while a snapshot is written,
//! since what a reader finds later can no longer be mended.
//!
//! A raw database and its side files belong together: they are a *unit*. A hunk ends between units, and a checkpoint
//! covers whole units.

use std::collections::{BTreeSet, HashSet};

use super::index::IndexWriter;
use super::merge::content_mark;
use crate::error::{Code, Error, Result};
use crate::path::EntryPath;
use crate::sqlite::side_files::database_of;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::PackId;
use crate::vault::hunk::{Hunk, HunkBuilder, parse};
use crate::vault::root::{HunkRef, Totals};
use crate::vault::tree::TreeCheck;

/// Writes entries into hunks.
#[derive(Debug, Default)]
pub struct SnapshotWriter {
    builder: HunkBuilder,
    tree: TreeCheck,
    /// The finished hunks.
    hunks: Vec<HunkRef>,
    /// Every pack that the finished hunks name.
    reached: HashSet<PackId>,
    totals: Totals,
    /// How many of the hunks end between units, and the last entry of these hunks.
    whole: (usize, EntryPath),
    /// For each hunk, its additions to the ones before it.
    ends: Vec<HunkEnd>,
    /// The last entry before the open unit, if there is one.
    before: EntryPath,
    /// Side files of open units that have not come yet.
    open: BTreeSet<EntryPath>,
}

/// The additions of a hunk to the ones before it.
#[derive(Debug)]
struct HunkEnd {
    /// The packs that this hunk is the first to name.
    packs: Vec<PackId>,
    /// Its last entry, if it ends between units.
    whole: Option<EntryPath>,
}

/// The hunks that were written, for a root.
#[derive(Debug, Clone)]
pub struct WrittenHunks {
    /// The hunks, in order.
    pub hunks: Vec<HunkRef>,
    /// Every pack that the hunks name.
    pub reached: HashSet<PackId>,
    /// Sums over their entries.
    pub totals: Totals,
    /// The path of the last entry.
    pub until: EntryPath,
}

/// Why an entry was not put.
#[derive(Debug)]
pub enum PutError {
    /// No reader would accept this entry, and why. Others can still be put.
    Entry(String),
    /// The snapshot cannot be written.
    Failed(Error),
}

impl From<Error> for PutError {
    fn from(why: Error) -> Self {
        PutError::Failed(why)
    }
}

impl SnapshotWriter {
    /// Puts the next entry in path order.
    ///
    /// # Errors
    /// Fails if readers would refuse the entry, if it does not fit the entries before it, or if the store fails.
    pub fn put(&mut self, entry: &Entry, index: &mut IndexWriter) -> Result<(), PutError> {
        let wrong = |why: &str| {
            let doing = format!("put {} into the snapshot", entry.path);
            Err(PutError::Failed(fault(doing, why)))
        };
        if let Some(side) = self.open.first().filter(|side| **side < entry.path) {
            return wrong(&format!("{side}, which belongs to a database before it, is missing"));
        }
        if let (Some(link), Some(hash)) = (&entry.link, &entry.hash)
            && !link.ends_with(&content_mark(hash))
        {
            return wrong("the name of its group of hard links is not that of its content");
        }
        let mut open = self.open.clone();
        open.remove(&entry.path);
        open.extend(entry.sides());
        let begins = self.open.is_empty() && !open.is_empty();
        let hunk =
            self.builder.push_within(entry, begins, !open.is_empty()).map_err(|why| PutError::Entry(why.what()))?;
        if begins {
            self.before = self.tree.last();
        }
        // Checks that refuse only this entry come first: this one already records the path, beside all that came before.
        let missing = self.tree.next(&entry.path, entry.kind == EntryKind::Folder);
        let missing = missing
            .map_err(|why| PutError::Failed(Error::failed("write the snapshot", why).with_code(Code::Internal)))?;
        if let Some(missing) = missing.first() {
            return wrong(&format!("the folder {missing} is missing"));
        }
        if let Some(side) = Some(&entry.path).filter(|path| self.open.contains(*path))
            && entry.kind != EntryKind::File
        {
            return wrong(&format!("{side} is no file, and belongs to a database"));
        }
        self.open = open;
        self.totals.entries += 1;
        self.totals.files += u64::from(entry.kind == EntryKind::File);
        self.totals.bytes += entry.size;
        if entry.kind == EntryKind::File {
            self.totals.changed = self.totals.changed.max(entry.mtime);
        }
        if let Some(hunk) = hunk {
            self.hunk(hunk, index, self.open.is_empty().then(|| self.tree.last()))?;
            self.between_units();
        }
        Ok(())
    }

    fn between_units(&mut self) {
        if self.open.is_empty() {
            self.whole = (self.hunks.len(), self.tree.last());
        }
    }

    /// Returns the path of the entry that was put last.
    pub fn last(&self) -> EntryPath {
        self.tree.last()
    }

    /// Whether an entry at `path` may come next: it comes after all others, its folder is there, and no side file
    /// that belongs before it is still to come.
    pub fn has_place_for(&self, path: &EntryPath) -> bool {
        let open = self.open.first().is_none_or(|side| side >= path);
        open && self.tree.clone().next(path, false).is_ok_and(|missing| missing.is_empty())
    }

    /// Counts the bytes of a side file of a raw database.
    pub fn count_beside(&mut self, bytes: u64) {
        self.totals.beside += bytes;
    }

    fn hunk(&mut self, hunk: Hunk, index: &mut IndexWriter, whole: Option<EntryPath>) -> Result<()> {
        let frame = index.store(&hunk.bytes)?;
        let reached = &mut self.reached;
        let packs = hunk.packs.iter().chain([&frame.pack]).copied().filter(|pack| reached.insert(*pack)).collect();
        self.ends.push(HunkEnd { packs, whole });
        self.hunks.push(HunkRef { frame, entries: hunk.entries, first: hunk.first, maps: hunk.maps });
        Ok(())
    }

    /// Returns what a checkpoint may cover so far. `None` if that is nothing.
    ///
    /// It covers whole units only: a program that built upon a database without its journal would take the database
    /// for unchanged, and would ignore the journal. While a unit is open, entries that come between its files in path
    /// order wait with it.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn checkpoint(&mut self, index: &mut IndexWriter) -> Result<Option<WrittenHunks>> {
        if self.open.is_empty() {
            if let Some(hunk) = self.builder.finish() {
                self.hunk(hunk, index, Some(self.tree.last()))?;
            }
            self.between_units();
        } else if let Some(hunk) = self.builder.finish_marked() {
            // The hunks before it ended with whole units, and so does this one.
            self.hunk(hunk, index, Some(self.before.clone()))?;
            self.whole = (self.hunks.len(), self.before.clone());
        }
        let (count, until) = self.whole.clone();
        let hunks = self.hunks[..count].to_vec();
        let written = WrittenHunks { hunks, reached: self.reached.clone(), totals: self.totals, until };
        Ok((count > 0).then_some(written))
    }

    /// Returns what a checkpoint may cover if not everything written is in the vault: the longest run of whole units
    /// for which `has` says that all their packs are there. `None` if that is nothing. `read` reads a hunk back.
    /// Nothing can be put afterwards.
    ///
    /// # Errors
    /// Fails if the store or `read` does.
    pub fn durable(
        &mut self,
        index: &mut IndexWriter,
        mut has: impl FnMut(PackId) -> bool,
        read: impl FnOnce(&HunkRef) -> Result<Vec<Entry>>,
    ) -> Result<Option<WrittenHunks>> {
        let there = self.ends.iter().take_while(|end| end.packs.iter().all(|pack| has(*pack))).count();
        let whole = |count: usize| self.ends[..count].iter().rposition(|end| end.whole.is_some());
        let count = whole(there).map_or(0, |last| last + 1);
        let mut until = self.ends[..count].last().and_then(|end| end.whole.clone()).unwrap_or_default();
        self.reached = self.ends[..count].iter().flat_map(|end| &end.packs).copied().collect();
        // The first entries of the next hunk may be durable.
        let mut next = Vec::new();
        if count == there {
            next = match self.hunks.get(there) {
                Some(hunk) if has(hunk.frame.pack) => read(hunk)?,
                Some(_) => Vec::new(),
                None => match self.builder.finish() {
                    Some(hunk) => parse(&hunk.bytes)
                        .map_err(|why| Error::failed("end a checkpoint", why).with_code(Code::Internal))?,
                    None => Vec::new(),
                },
            };
        }
        next.truncate(whole_units(&next, has));
        self.hunks.truncate(count);
        self.ends.truncate(count);
        if let Some(last) = next.last() {
            until = last.path.clone();
        }
        let mut builder = HunkBuilder::default();
        for entry in &next {
            if let Some(hunk) = builder.push_within(entry, false, true)? {
                self.hunk(hunk, index, None)?;
            }
        }
        if let Some(hunk) = builder.finish() {
            self.hunk(hunk, index, None)?;
        }
        let (hunks, reached) = (self.hunks.clone(), self.reached.clone());
        Ok((!hunks.is_empty()).then_some(WrittenHunks { hunks, reached, totals: self.totals, until }))
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// Fails if the snapshot is incomplete, which readers would refuse, or if the store fails.
    pub fn finish(&mut self, index: &mut IndexWriter) -> Result<WrittenHunks> {
        let wrong = |why: String| Err(fault("end the snapshot", &why));
        if let Some(side) = self.open.first() {
            return wrong(format!("{side}, which belongs to a database, is missing"));
        }
        if let Some(hunk) = self.builder.finish() {
            self.hunk(hunk, index, Some(self.tree.last()))?;
        }
        let entries: u64 = self.hunks.iter().map(|hunk| hunk.entries).sum();
        if entries == 0 || entries != self.totals.entries {
            return wrong(format!("{entries} entries are in its hunks, and {} were put", self.totals.entries));
        }
        let (hunks, reached, until) = (self.hunks.clone(), self.reached.clone(), self.tree.last());
        Ok(WrittenHunks { hunks, reached, totals: self.totals, until })
    }
}

/// The error that readers would refuse what lastgood was about to write.
fn fault(doing: impl Into<String>, why: &str) -> Error {
    Error::failed(doing, format!("{why}; this is a fault of lastgood"))
        .with_code(Code::Internal)
        .hint("Please report it. The snapshots before are as they were.")
}

/// Counts how many of these entries, which start between units, form whole units whose packs are all there.
fn whole_units(entries: &[Entry], mut has: impl FnMut(PackId) -> bool) -> usize {
    let (mut open, mut whole) = (BTreeSet::new(), 0);
    for (n, entry) in entries.iter().enumerate() {
        let mut packs = entry.extents.iter().filter_map(|extent| extent.pack);
        if !packs.all(&mut has) || !entry.map.iter().flat_map(|map| &map.packs).all(|pack| has(*pack)) {
            break;
        }
        open.remove(&entry.path);
        open.extend(entry.sides());
        if open.is_empty() {
            whole = n + 1;
        }
    }
    whole
}

/// Whether a file is a side file of a database at one of these paths.
pub fn is_beside(entry: &Entry, databases: &[EntryPath]) -> bool {
    database_of(entry.path.bytes()).is_some_and(|path| databases.iter().any(|database| database.bytes() == path))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::backup::BackupOptions;
    use crate::backup::packer::with_packer;
    use crate::backup::parent::Parent;
    use crate::monitor::{Context, SilentMonitor, system_random};
    use crate::store::testing::memory::MemoryStore;
    use crate::vault::Vault;
    use crate::vault::entry::{CaptureMethod, Database, Extent, Side};
    use crate::vault::hex::Hash;
    use crate::vault::root::SourceIdentity;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry {
            path: EntryPath::new(path).unwrap(),
            kind,
            size: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            ctime: 0,
            inode: 0,
            target: None,
            xattrs: vec![],
            hash: (kind == EntryKind::File).then(|| Hash::of(b"")),
            link: None,
            racy: false,
            header: 512,
            extents: vec![Extent::zeros(512)],
            map: None,
            database: None,
        }
    }

    fn file(path: &str) -> Entry {
        entry(path, EntryKind::File)
    }

    /// A raw database that was taken with its journal.
    fn raw(path: &str) -> Entry {
        let journal = Some(Side { size: 0, mtime: 0 });
        Entry { database: Some(Database { taken: CaptureMethod::Raw, wal: None, journal, check: None }), ..file(path) }
    }

    /// Runs `work` with a writer that already has the data directory's own entry.
    fn writing<T>(work: impl FnOnce(&mut SnapshotWriter, &mut IndexWriter) -> T) -> T {
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 1, parallel: 2, stop: &stop, monitor: &SilentMonitor };
        let vault = Vault::init(Box::<MemoryStore>::default(), system_random).unwrap();
        let place = SourceIdentity::default();
        let options = BackupOptions::default();
        let of = (Path::new("/data"), None);
        let base = Parent::find(&vault, of, (&options, &Ok(None)), &place, true, &Default::default(), |_| {}).unwrap();
        let done = with_packer(&*vault.store.staging(), 1, &ctx, |packer| {
            let mut index = IndexWriter::new(packer, &base);
            let mut writer = SnapshotWriter::default();
            writer.put(&entry(".", EntryKind::Folder), &mut index).unwrap();
            Ok(work(&mut writer, &mut index))
        });
        done.unwrap()
    }

    fn refused(entries: &[Entry]) -> String {
        writing(|writer, index| {
            let (last, first) = entries.split_last().unwrap();
            first.iter().for_each(|entry| writer.put(entry, index).unwrap());
            match writer.put(last, index) {
                Err(PutError::Failed(why)) => why.to_string(),
                other => panic!("{other:?}"),
            }
        })
    }

    #[test]
    fn what_readers_refuse_is_not_written() {
        assert!(refused(&[file("b"), file("a")]).contains("comes after b"));
        assert!(refused(&[file("b"), file("b")]).contains("comes after b"));
        assert!(refused(&[file("folder/a")]).contains("the folder folder is missing"));
        assert!(refused(&[file("a"), file("a/b")]).contains("a/b"));
        assert!(refused(&[raw("app.db"), file("b")]).contains("app.db-journal, which belongs to a database before it"));
        let folder = entry("app.db-journal", EntryKind::Folder);
        assert!(refused(&[raw("app.db"), folder]).contains("is no file"));
        let link = Entry { link: Some("1-2".into()), ..file("a") };
        assert!(refused(&[link]).contains("hard links"));
        let mark = content_mark(&Hash::of(b""));
        writing(|writer, index| {
            writer.put(&Entry { link: Some(format!("1-2-{mark}")), ..file("a") }, index).unwrap();
            writer.put(&raw("b"), index).unwrap();
            assert!(writer.finish(index).unwrap_err().to_string().contains("b-journal"));
            writer.put(&file("b-journal"), index).unwrap();
            let written = writer.finish(index).unwrap();
            assert_eq!((written.totals.entries, written.totals.files), (4, 3));
            assert_eq!(written.until.to_string(), "b-journal");
        });
    }

    #[test]
    fn an_entry_that_no_reader_takes_leaves_the_others() {
        writing(|writer, index| {
            let impossible = Entry { mode: 0o10_000, ..file("a") };
            assert!(matches!(writer.put(&impossible, index), Err(PutError::Entry(_))));
            writer.put(&file("a"), index).unwrap();
            assert_eq!(writer.finish(index).unwrap().totals.entries, 2);
        });
    }

    #[test]
    fn a_checkpoint_covers_whole_units() {
        writing(|writer, index| {
            let names = |written: Option<WrittenHunks>| written.map(|w| (w.until.to_string(), w.hunks.len())).unwrap();
            for path in ["a", "b"] {
                writer.put(&file(path), index).unwrap();
            }
            writer.put(&raw("db"), index).unwrap();
            assert_eq!(names(writer.checkpoint(index).unwrap()), ("b".into(), 1));
            // Entries between a database and its journal wait with them, however often a checkpoint is asked for.
            writer.put(&entry("db (copy)", EntryKind::Folder), index).unwrap();
            writer.put(&raw("db (copy)/inner"), index).unwrap();
            assert_eq!(names(writer.checkpoint(index).unwrap()), ("b".into(), 1));
            writer.put(&file("db (copy)/inner-journal"), index).unwrap();
            assert_eq!(names(writer.checkpoint(index).unwrap()), ("b".into(), 1));
            writer.put(&file("db-journal"), index).unwrap();
            assert_eq!(names(writer.checkpoint(index).unwrap()), ("db-journal".into(), 2));
            writer.put(&file("z"), index).unwrap();
            let written = writer.finish(index).unwrap();
            let entries: Vec<_> = written.hunks.iter().map(|hunk| (hunk.first.to_string(), hunk.entries)).collect();
            assert_eq!(entries, [(".".into(), 3), ("db".into(), 5), ("z".into(), 1)]);
        });
    }

    #[test]
    fn a_hunk_does_not_end_within_a_unit_unless_that_is_very_long() {
        let many: Vec<_> = (0..3000).map(|n| file(&format!("db (copies)/{n:05}"))).collect();
        writing(|writer, index| {
            writer.put(&raw("db"), index).unwrap();
            writer.put(&entry("db (copies)", EntryKind::Folder), index).unwrap();
            many.iter().for_each(|entry| writer.put(entry, index).unwrap());
            writer.put(&file("db-journal"), index).unwrap();
            let written = writer.finish(index).unwrap();
            assert!(written.hunks[0].entries >= 3004, "{:?}", written.hunks[0]);
        });
        let long = "x".repeat(200);
        writing(|writer, index| {
            writer.put(&raw("db"), index).unwrap();
            writer.put(&entry("db (copies)", EntryKind::Folder), index).unwrap();
            (0..20_000).for_each(|n| writer.put(&file(&format!("db (copies)/{n:05} {long}")), index).unwrap());
            writer.put(&file("db-journal"), index).unwrap();
            let written = writer.finish(index).unwrap();
            assert!(written.hunks.len() > 2 && written.hunks.iter().all(|hunk| hunk.frame.length < 4 << 20));
            assert_eq!(written.totals.entries, 20_004);
        });
    }
}
