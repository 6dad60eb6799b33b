//! Assembles a snapshot in path order: content becomes tar headers and blocks in packs, entries become hunks.

mod carried;
mod database;
mod ends;
mod judged;
mod large;
mod not_kept;
mod put;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::carry::Carry;
use super::dedup::BlockIndex;
use super::index::IndexWriter;
use super::merge::link_name;
use super::message::{CapturedFile, ReadEvent, Why};
use super::packer::{PackWriter, Packer};
use super::parent::Parent;
use super::writer::{SnapshotWriter, WrittenHunks};
use crate::error::{Code, Error, Result};
use crate::fs::beneath::FileIdentity;
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::source::extra::Extra;
use crate::source::flags::InodeFlags;
use crate::source::found::SourceEntry;
use crate::source::select::Select;
use crate::store::Staging;
use crate::vault::entry::{Entry, EntryKind, Extent, padding};
use crate::vault::hex::{Hash, PackId};
use crate::vault::pack::{PackInfo, PackKind};
use crate::vault::root::{DatabaseRecord, PackBook, Problem, Stale};
use crate::vault::tar;

/// Smallest file, in bytes, that is looked up among this run's blocks: for a smaller one, a separate extent would
/// cost as much.
const WORTH_FINDING: usize = 4096;
static ZEROS: [u8; 512] = [0; 512];

use self::carried::{Lacking, TOLD};
use self::judged::Judged;
pub use self::judged::MANY;
use self::not_kept::NotKept;

/// Puts a snapshot together from what the readers send.
pub struct Assembly<'a> {
    data: PackWriter<'a>,
    /// Writes hunks, maps and lists.
    pub index: IndexWriter<'a>,
    block_index: BlockIndex<'a>,
    writer: SnapshotWriter,
    /// The first name of each file that has several, by device and inode.
    links: HashMap<(u64, u64), FirstLink>,
    /// Path, device and inode, and identity of the next entry to be put, if its file has several names.
    pending_link: Option<(EntryPath, (u64, u64), FileIdentity)>,
    /// Entries that are to be looked at once more after all others.
    later: BTreeMap<EntryPath, Why>,
    /// Whether a file is smaller than when it was listed.
    pub shrank: bool,
    /// A folder that could not be recorded; what is in it cannot be either.
    refused: Option<EntryPath>,
    /// Bytes that were read from files.
    pub read_bytes: u64,
    /// Entries that so far are missing, carried over or torn.
    pub lacking: Lacking,
    /// The previous such records of entries that a round takes again.
    lacking_before: Lacking,
    /// The counts by which the snapshot is judged.
    pub judged: Judged,
    /// Carries over what cannot be read.
    carry: Option<Carry<'a>>,
    /// Packs that hold content that was carried over.
    carried: PackBook,
    /// Side files that were carried over with a raw database.
    carried_sides: HashSet<EntryPath>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// What no snapshot can hold of its entries.
    not_kept: NotKept,
    /// How each database was taken.
    pub database_records: Vec<DatabaseRecord>,
    /// Paths that exist and could not be read, with their sizes in bytes.
    pub unread: BTreeMap<EntryPath, u64>,
    /// Packs that this run has stored.
    pub stored: PackBook,
    /// The hunks that a round at the end of the capture started from: all of them are stored.
    earlier: Option<WrittenHunks>,
    /// Databases that were read and may still be followed by side files.
    databases: Vec<EntryPath>,
    /// Databases in the snapshot that may still be followed by side files, each with the side files that were taken
    /// with it.
    beside: Vec<(EntryPath, Vec<EntryPath>)>,
    /// The raw ones among these databases.
    raw: Vec<EntryPath>,
    /// Side files of raw databases, until their place in path order comes.
    waiting_sides: BTreeMap<EntryPath, Box<Entry>>,
    /// Why databases were taken raw, until that is recorded.
    reasons: HashMap<EntryPath, String>,
    base: &'a Parent<'a>,
    packer: &'a Packer<'a>,
    /// Where packs are kept until a root names them.
    staging: &'a dyn Staging,
    ctx: &'a Context<'a>,
}

/// The findings about a snapshot that was put together.
#[derive(Debug)]
pub struct Assembled {
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Entries that are missing.
    pub missing: Vec<Problem>,
    /// Entries that were carried over.
    pub stale: Vec<Stale>,
    /// Entries that were taken although they never came to rest.
    pub torn: Vec<Problem>,
    /// How each database was taken.
    pub databases: Vec<DatabaseRecord>,
    /// Bytes that were read from files.
    pub read_bytes: u64,
}

/// The first name of a file that has several.
struct FirstLink {
    identity: FileIdentity,
    entry: Box<Entry>,
}

impl<'a> Assembly<'a> {
    /// Starts a snapshot that builds on `base` and writes through `packer`.
    ///
    /// # Errors
    /// Fails if there is no memory for a decoder.
    pub fn new(
        base: &'a Parent<'a>,
        select: &'a Select,
        (packer, staging): (&'a Packer<'a>, &'a dyn Staging),
        ctx: &'a Context<'a>,
    ) -> Result<Self> {
        Ok(Assembly {
            data: PackWriter::new(packer, PackKind::Data),
            index: IndexWriter::new(packer, base),
            block_index: BlockIndex::new(base)?,
            writer: SnapshotWriter::default(),
            links: HashMap::new(),
            pending_link: None,
            later: BTreeMap::new(),
            shrank: false,
            refused: None,
            read_bytes: 0,
            lacking: Lacking::default(),
            lacking_before: Lacking::default(),
            judged: Judged::default(),
            carry: Some(Carry::new(base, select)),
            carried: PackBook::new(),
            carried_sides: HashSet::new(),
            warnings: Vec::new(),
            not_kept: NotKept::default(),
            database_records: Vec::new(),
            unread: BTreeMap::new(),
            stored: PackBook::new(),
            earlier: None,
            databases: Vec::new(),
            beside: Vec::new(),
            raw: Vec::new(),
            waiting_sides: BTreeMap::new(),
            reasons: HashMap::new(),
            base,
            packer,
            staging,
            ctx,
        })
    }

    /// Takes all events of one batch of steps.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn take(&mut self, mut events: impl Iterator<Item = ReadEvent>) -> Result<()> {
        while let Some(event) = events.next() {
            match event {
                ReadEvent::Keep(entry) => self.keep(entry)?,
                ReadEvent::Written(entry) => self.written(entry)?,
                ReadEvent::Stays(path) => self.stays(&path),
                ReadEvent::Adopt(found, known, extra, identity) => self.adopt(found, known, extra, identity)?,
                ReadEvent::Link(found, identity) => self.link(found, identity)?,
                ReadEvent::Broken => {
                    return Err(
                        Error::failed("read the data directory", "a thread ended in a panic").with_code(Code::Internal)
                    );
                }
                ReadEvent::Later(path, why) => _ = self.later.insert(path, why),
                ReadEvent::Shrank => self.shrank = true,
                ReadEvent::Other(found, known, extra) => self.other(found, known, extra)?,
                ReadEvent::File(content, bytes, known, sampled) => self.file(*content, &bytes, known, sampled)?,
                ReadEvent::Begin(known, sampled) => self.large(known, sampled, &mut events)?,
                ReadEvent::Database(known, sampled) => self.database(known, sampled, &mut events)?,
                ReadEvent::Warn(what) => self.warn(what),
                ReadEvent::Failed(path, why, size) => self.unreadable(path, why, size)?,
                ReadEvent::Blocks(..)
                | ReadEvent::Hole(_)
                | ReadEvent::Again
                | ReadEvent::End(_)
                | ReadEvent::Pages(_)
                | ReadEvent::Settle(_)
                | ReadEvent::Side
                | ReadEvent::SideEnd(_)
                | ReadEvent::SidesAgain
                | ReadEvent::DatabaseEnd(_) => {
                    return Err(Error::failed(
                        "put the snapshot together",
                        "content without a file came from a reader",
                    )
                    .with_code(Code::Internal));
                }
            }
        }
        Ok(())
    }

    /// Warns the user and keeps the warning for the report.
    pub fn warn(&mut self, what: String) {
        self.ctx.monitor.warn(&what);
        self.warnings.push(what);
    }

    /// Records an entry as missing in the snapshot.
    pub fn failed(&mut self, path: EntryPath, why: String) {
        self.ctx.monitor.warn(&format!("{path} is not in the snapshot: {why}"));
        self.lacking.problems.insert(path.clone(), Problem::new(path, why));
    }

    fn keep(&mut self, entry: Box<Entry>) -> Result<()> {
        self.not_kept.look(&entry.path, InodeFlags::default(), entry.mtime);
        self.ctx.monitor.advance(entry.size);
        if entry.kind == EntryKind::File {
            self.judged.live += 1;
            self.judged.known.count(true);
        }
        self.add(entry)
    }

    /// Takes an entry whose content is unchanged; everything else about it is read again.
    fn adopt(
        &mut self,
        found: SourceEntry,
        known: Box<Entry>,
        extra: Extra,
        identity: Option<FileIdentity>,
    ) -> Result<()> {
        self.ctx.monitor.advance(found.size);
        if found.kind == EntryKind::File {
            self.judged.live += 1;
            self.judged.known.count(true);
        }
        self.pending_link = identity.map(|identity| (found.path.clone(), (found.device, found.inode), identity));
        let mut entry = self.entry_of(found, extra, known.hash);
        // The file's own size differs if part of the database is in its WAL.
        entry.size = known.size;
        entry.map = known.map.clone();
        entry.database = known.database.clone();
        entry.extents = known.content_extents();
        let entry = self.place(entry, Some(&known))?;
        self.add(entry)
    }

    fn other(&mut self, found: SourceEntry, known: Option<Box<Entry>>, extra: Extra) -> Result<()> {
        let entry = self.entry_of(found, extra, None);
        let entry = self.place(entry, known.as_deref())?;
        self.add(entry)
    }

    /// Takes another name of a file if it is proven to be one: an inode's number may have been given to another file,
    /// and the first name may have been deleted before it was read. A name for which that is not proven is read like
    /// any other file.
    fn link(&mut self, found: SourceEntry, identity: FileIdentity) -> Result<()> {
        let first = self.links.get(&(found.device, found.inode)).filter(|first| first.identity == identity);
        let Some(mut entry) = first.map(|first| first.entry.clone()) else {
            self.later.insert(found.path, Why::Unread);
            return Ok(());
        };
        self.ctx.monitor.advance(entry.size);
        entry.path = found.path;
        entry.extents = entry.content_extents();
        let entry = self.place(entry, None)?;
        self.add(entry)
    }

    fn file(&mut self, content: CapturedFile, bytes: &[u8], known: Option<Box<Entry>>, sampled: bool) -> Result<()> {
        self.read_bytes += bytes.len() as u64;
        let hash = content.hash;
        let torn = content.note.clone().filter(|_| content.torn);
        let Some(mut entry) = self.read(content, known.as_deref(), sampled)? else { return Ok(()) };
        if let Some(known) = known.as_ref().filter(|k| k.hash == entry.hash && k.size == entry.size && k.map.is_none())
        {
            entry.extents = known.content_extents();
        } else if bytes.len() >= WORTH_FINDING {
            let found = self.block_index.recent(&hash, bytes.len() as u32);
            match found {
                Some(extent) => entry.extents = vec![extent],
                None => {
                    let whole = self.whole(&entry, bytes)?;
                    let content = Extent { offset: whole.offset + tar::header(&entry).len() as u64, ..whole };
                    self.block_index.remember(hash, Extent { length: bytes.len() as u64, ..content });
                    entry.header = content.offset - whole.offset;
                    entry.extents = vec![whole];
                    return self.add_read(entry, Vec::new(), torn);
                }
            }
        } else if !bytes.is_empty() {
            entry.header = tar::header(&entry).len() as u64;
            entry.extents = vec![self.whole(&entry, bytes)?];
            return self.add_read(entry, Vec::new(), torn);
        }
        let entry = self.place(entry, known.as_deref())?;
        self.add_read(entry, Vec::new(), torn)
    }

    /// Stores header, content and padding in one piece, so that the file is a piece of a tar stream in its pack.
    fn whole(&mut self, entry: &Entry, bytes: &[u8]) -> Result<Extent> {
        self.data.append(&[&tar::header(entry), bytes, &ZEROS[..padding(entry.size) as usize]])
    }

    /// Returns the entry of a file that was read. `None` if it equals the known entry, which is then added.
    fn read(&mut self, content: CapturedFile, known: Option<&Entry>, sampled: bool) -> Result<Option<Box<Entry>>> {
        if let Some(note) = content.note.as_ref().filter(|_| !content.torn) {
            self.warn(format!("{}: {note}; taken as it stood, {} bytes", content.found.path, content.found.size));
        }
        if sampled && let Some(known) = known {
            if known.hash == Some(content.hash) && known.size == content.found.size && content.note.is_none() {
                self.judged.live += 1;
                self.judged.known.count(true);
                // An older program may have trusted it although writes through a memory map leave no trace there.
                self.add(Box::new(Entry { racy: content.racy, ..known.clone() }))?;
                return Ok(None);
            }
            if known.mtime == content.found.mtime {
                self.warn(format!(
                    "{} has changed although its modification time has not; it is stored again",
                    content.found.path
                ));
            }
        }
        self.judged.live += 1;
        if let Some(known) = known.filter(|known| known.kind == EntryKind::File) {
            self.judged.known.count(known.hash == Some(content.hash));
        }
        let CapturedFile { found, extra, hash, identity, .. } = content;
        self.pending_link = identity.map(|identity| (found.path.clone(), (found.device, found.inode), identity));
        let mut entry = self.entry_of(found, extra, Some(hash));
        entry.racy |= content.racy;
        Ok(Some(entry))
    }

    /// Creates an entry without extents.
    fn entry_of(&mut self, found: SourceEntry, extra: Extra, hash: Option<Hash>) -> Box<Entry> {
        let mut xattrs = extra.xattrs;
        if let Some(why) = extra.refused {
            let mut why = format!("its extended attributes cannot be read: {why}");
            // If the store fails here, the run's next request fails as well.
            let known = self.carry.as_mut().and_then(|carry| carry.xattrs(&found.path, found.kind).ok().flatten());
            if let Some(known) = known {
                why = format!("{why}; those of the last good snapshot are kept");
                xattrs = known;
            }
            self.without_attributes(&found.path, why);
        }
        self.not_kept.look(&found.path, extra.flags, found.mtime);
        let link = hash.as_ref().and_then(|hash| link_name(&found, hash));
        Box::new(Entry {
            path: found.path,
            kind: found.kind,
            size: found.size,
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            mtime: found.mtime,
            ctime: found.ctime,
            inode: found.inode,
            target: extra.target,
            xattrs,
            hash,
            link,
            racy: extra.racy || extra.refused.is_some(),
            header: 0,
            extents: Vec::new(),
            map: None,
            database: None,
        })
    }

    /// Records that an entry's extended attributes are not in the snapshot, although the entry is.
    fn without_attributes(&mut self, path: &EntryPath, why: String) {
        self.ctx.monitor.warn(&format!("{path}: {why}"));
        self.lacking.problems.insert(path.clone(), Problem::new(path.clone(), why));
    }

    /// Returns what is to be reported when all is done.
    pub fn outcome(mut self) -> Assembled {
        if self.lacking.stale.len() > TOLD {
            self.warn(format!(
                "{} more could not be read, and are in the snapshot as they were before",
                self.lacking.stale.len() - TOLD
            ));
        }
        for warning in self.not_kept.warnings() {
            self.warn(warning);
        }
        Assembled {
            warnings: self.warnings,
            missing: self.lacking.problems.into_values().collect(),
            stale: self.lacking.stale.into_values().collect(),
            torn: self.lacking.torn.into_values().collect(),
            databases: self.database_records,
            read_bytes: self.read_bytes,
        }
    }

    /// Counts the databases that failed their check, except torn ones if there is a good snapshot already.
    pub fn failed_checks(&self) -> u64 {
        let failed = self.database_records.iter().filter(|record| record.failed());
        failed.filter(|record| !self.lacking.torn.contains_key(&record.path)).count() as u64
    }

    /// Returns a pack that this run stored, or that holds content that was carried over.
    pub fn pack(&self, id: PackId) -> Option<PackInfo> {
        self.stored.get(&id).or_else(|| self.carried.get(&id)).copied()
    }
}

/// The error that a reader stopped in the middle of a file without saying why.
fn ended_early() -> Error {
    Error::failed("put the snapshot together", "a reader ended in the middle of a file").with_code(Code::Internal)
}
