//! The events that the reading threads send: entries, and the content of files piece by piece.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use crossbeam_channel::Sender;
use rustix::fs::Stat;

use crate::fs::beneath::FileIdentity;
use crate::path::EntryPath;
use crate::source::extra::{Extra, extra_of_file};
use crate::source::found::SourceEntry;
use crate::source::stable::Happened;
use crate::vault::entry::{Database, Entry};
use crate::vault::hex::{Hash, PackId};
use crate::vault::pack::PackInfo;
use crate::vault::pages::Tag;

/// A file that was read.
#[derive(Debug)]
pub struct CapturedFile {
    /// Its metadata when it was read; the size is the number of bytes that were read.
    pub found: SourceEntry,
    /// Its attributes.
    pub extra: Extra,
    /// The hash of all its bytes.
    pub hash: Hash,
    /// Whether it may have changed since without any time showing it.
    pub racy: bool,
    /// Tells people what happened to the file while it was read.
    pub note: Option<String>,
    /// Whether it may be a mixture of states from before and after that.
    pub torn: bool,
    /// The file's identity, if it has other names.
    pub identity: Option<FileIdentity>,
}

impl CapturedFile {
    /// Marks a file that was read alone as torn if a log now lies beside it, since it is incomplete without that.
    pub fn became_database(&mut self, has_log: bool) {
        if has_log {
            self.torn = true;
            self.note = Some("SQLite put a log beside it while it was read".into());
        }
    }
}

/// Why an entry is to be looked at once more at the end of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was gone when it was to be read.
    Gone,
    /// It was gone, too, and had been created, or written to, since the capture began.
    NewAndGone,
    /// Nothing of it was read, or what was read may be a mixture.
    Unread,
    /// It was read under this inode number, which is not the listed one: the same inode has to be there at the end.
    Read(u64),
}

/// The result of looking at an entry; for a large file or a database, a sequence of events.
#[derive(Debug)]
pub enum ReadEvent {
    /// The entry is copied.
    Keep(Box<Entry>),
    /// This run has written the entry already.
    Written(Box<Entry>),
    /// An entry that could not be read again stays as this run has written it; that comes next.
    Stays(EntryPath),
    /// The entry's content is kept, its metadata is new. The identity is set if the file has other names.
    Adopt(SourceEntry, Box<Entry>, Extra, Option<FileIdentity>),
    /// Apparently another name of a file that came before, and the identity of the file it leads to.
    Link(SourceEntry, FileIdentity),
    /// A folder, symlink or fifo.
    Other(SourceEntry, Option<Box<Entry>>, Extra),
    /// A whole file: its bytes, the known entry, and whether it looked unchanged.
    File(Box<CapturedFile>, Vec<u8>, Option<Box<Entry>>, bool),
    /// A large file begins, with the known entry and whether it looked unchanged; its content follows.
    Begin(Option<Box<Entry>>, bool),
    /// Bytes, and the length and hash of each block in them.
    Blocks(Vec<u8>, Vec<(u32, Hash)>),
    /// A hole of this many bytes.
    Hole(u64),
    /// The file changed: everything since its beginning is void.
    Again,
    /// The end of the file.
    End(CapturedFile),
    /// A database begins, with the known entry and whether it looked unchanged; its content follows.
    Database(Option<Box<Entry>>, bool),
    /// Consecutive blocks of a database, with their numbers and tags.
    Pages(PageBlocks),
    /// Everything since the beginning, or since the last such event, becomes a layer of its own; the sender learns
    /// how to read it.
    Settle(Sender<SettledLayer>),
    /// A side file of a raw database begins; its content follows.
    Side,
    /// The end of the side file.
    SideEnd(Box<CapturedFile>),
    /// All side files of the raw database are void.
    SidesAgain,
    /// The end of the database.
    DatabaseEnd(Box<CapturedDatabase>),
    /// A warning for the user.
    Warn(String),
    /// The entry cannot be read; the reason, and its size in bytes as far as it is known.
    Failed(EntryPath, String, u64),
    /// The entry is to be looked at once more at the end, and why.
    Later(EntryPath, Why),
    /// A file is smaller than when it was listed: its content may have moved into a new file.
    Shrank,
    /// The reading thread panicked: the results of these steps are incomplete.
    Broken,
}

/// Consecutive blocks of a database.
#[derive(Debug)]
pub struct PageBlocks {
    /// Bytes of a block; only a file's last block may have fewer.
    pub size: u32,
    /// The bytes of all blocks.
    pub bytes: Vec<u8>,
    /// Number and tag of each block.
    pub blocks: Vec<(u64, Tag)>,
}

/// The other end of a channel is gone: the run has failed elsewhere.
#[derive(Debug)]
pub struct Disconnected;

/// Returns the outcome of reading a file, from its metadata and what happened to it meanwhile.
pub(crate) fn finish(
    file: &File,
    path: &EntryPath,
    stat: &Stat,
    read: u64,
    racy: bool,
    hash: Hash,
    happened: Option<Happened>,
) -> io::Result<CapturedFile> {
    let found = SourceEntry::new(path.clone(), stat).ok_or_else(|| io::Error::other("it is not a file any more"))?;
    let extra = extra_of_file(file);
    let torn = happened.as_ref().is_some_and(|happened| happened.torn);
    let note = happened.map(|happened| happened.what);
    let identity = if found.linked { Some(FileIdentity::of_file(file)?) } else { None };
    Ok(CapturedFile { found: SourceEntry { size: read, ..found }, extra, hash, racy, note, torn, identity })
}

/// The end of a database, after all its blocks.
#[derive(Debug)]
pub struct CapturedDatabase {
    /// The file as it was read.
    pub content: CapturedFile,
    /// How the database was taken.
    pub database: Database,
    /// Why it was taken raw, if it was.
    pub why: Option<String>,
    /// Whether the blocks that were sent lie over the known entry's blocks.
    pub over_known: bool,
    /// The sum of all passes.
    pub scanned: ScanResult,
}

/// Everything needed to read the layer that a pass left behind.
#[derive(Debug)]
pub struct SettledLayer {
    /// The layer; `None` if nothing was sent.
    pub layer: Option<crate::vault::list::List<crate::vault::entry::MapFrame>>,
    /// All packs that this run has stored so far.
    pub packs: Vec<PackInfo>,
}

/// The result of one or several passes.
#[derive(Debug, Default)]
pub struct ScanResult {
    /// Whether all of it was one state of the database.
    pub steady: bool,
    /// Size of the database in bytes.
    pub size: u64,
    /// Size of a block in bytes.
    pub block: u32,
    /// The BLAKE3 hash of the whole database, after a steady pass.
    pub hash: Option<Hash>,
    /// Number of blocks that are no longer used where they were, by pack.
    pub freed: HashMap<PackId, u64>,
    /// Blocks that were sent because they differ from the known ones.
    pub changed: u64,
    /// Blocks that were sent to empty their packs.
    pub moved: u64,
    /// Bytes that were read.
    pub read: u64,
}
