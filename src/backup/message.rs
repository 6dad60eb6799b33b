//! What the reading threads hand on: entries, and the content of files piece by piece.

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
    /// Its metadata as of the reading, with as many bytes as were read.
    pub found: SourceEntry,
    /// Its attributes.
    pub extra: Extra,
    /// Of all its bytes.
    pub hash: Hash,
    /// Whether it may have changed since without any time showing it.
    pub racy: bool,
    /// What happened to it while it was read, for people.
    pub note: Option<String>,
    /// Whether it may be a mixture of what the file was before and after that.
    pub torn: bool,
    /// Which file it was, if other names lead to it.
    pub identity: Option<FileIdentity>,
}

impl CapturedFile {
    /// Says of a file that was read alone whether a log lies beside it now, without which it is not what it was.
    pub fn came_to_be_a_database(&mut self, has_log: bool) {
        if has_log {
            self.torn = true;
            self.note = Some("a log of SQLite's came to lie beside it while it was read".into());
        }
    }
}

/// Why an entry is to be looked at once more at the end of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was gone when it was to be read.
    Gone,
    /// So was this one, which had come into being, or been written to, since the capture began.
    NewAndGone,
    /// Nothing was read of it, or what was read may be a mixture.
    Unread,
    /// It was read from what had this inode number, which is not what was listed: what is there at the end is to be that too.
    Read(u64),
}

/// What is known of an entry after it was looked at; of a large file, one after the other.
#[derive(Debug)]
pub enum ReadEvent {
    /// The entry is copied.
    Keep(Box<Entry>),
    /// It stands in what this run has written already.
    Written(Box<Entry>),
    /// An entry that could not be read anew is as this run has written it already; it comes next.
    Stays(EntryPath),
    /// The entry's content is kept, its metadata is new. Which file it was, if other names lead to it.
    Adopt(SourceEntry, Box<Entry>, Extra, Option<FileIdentity>),
    /// Another name, it seems, of a file that came before, and which file it leads to.
    Link(SourceEntry, FileIdentity),
    /// A folder, symlink or fifo.
    Other(SourceEntry, Option<Box<Entry>>, Extra),
    /// A whole file, its bytes, the known entry and whether that looked unchanged.
    File(Box<CapturedFile>, Vec<u8>, Option<Box<Entry>>, bool),
    /// A large file begins; what follows is its content.
    Begin(Option<Box<Entry>>, bool),
    /// Bytes and the blocks that they are.
    Blocks(Vec<u8>, Vec<(u32, Hash)>),
    /// A hole of so many bytes.
    Hole(u64),
    /// The file changed: what came since its beginning is void.
    Again,
    /// The file's end.
    End(CapturedFile),
    /// A database begins; what follows is its content.
    Database(Option<Box<Entry>>, bool),
    /// Blocks of a database, one after the other, and which they are.
    Pages(PageBlocks),
    /// What came since the beginning, or the last of these, is a layer for itself; whoever waits is told how to read it.
    Settle(Sender<SettledLayer>),
    /// A file beside a raw database begins; what follows is its content.
    Side,
    /// Its end.
    SideEnd(Box<CapturedFile>),
    /// All files beside the raw database are void.
    SidesAgain,
    /// The database's end.
    DatabaseEnd(Box<CapturedDatabase>),
    /// Something that the user should know.
    Warn(String),
    /// It cannot be read, why, and how many bytes it has, as far as is known.
    Failed(EntryPath, String, u64),
    /// It is to be looked at once more at the end, and why.
    Later(EntryPath, Why),
    /// A file is smaller than it was when it was listed: what was in it may have gone into a new one.
    Shrank,
    /// Who reads has panicked: what comes of these steps is not all.
    Broken,
}

/// Consecutive blocks that are sent.
#[derive(Debug)]
pub struct PageBlocks {
    /// Bytes of a block; only a file's last one may have fewer.
    pub size: u32,
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// Number and tag of each.
    pub blocks: Vec<(u64, Tag)>,
}

/// The other side of a channel went away: the run has failed elsewhere.
#[derive(Debug)]
pub struct Disconnected;

/// The outcome of reading a file, from its metadata before and after.
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

/// A database's end, after all its blocks.
#[derive(Debug)]
pub struct CapturedDatabase {
    /// What was read.
    pub content: CapturedFile,
    /// How it was taken.
    pub database: Database,
    /// Why it was taken raw.
    pub why: Option<String>,
    /// Whether the blocks that were sent lie over those that the known entry has.
    pub over_known: bool,
    /// What the passes did.
    pub swept: ScanResult,
}

/// What is needed to read the layer that a pass left behind.
#[derive(Debug)]
pub struct SettledLayer {
    /// The layer; none if nothing was sent.
    pub layer: Option<crate::vault::list::List<crate::vault::entry::MapFrame>>,
    /// The packs that became durable with it.
    pub packs: Vec<PackInfo>,
}

/// What came of a pass, or of several.
#[derive(Debug, Default)]
pub struct ScanResult {
    /// All of it was one state of the database.
    pub steady: bool,
    /// Bytes of the database.
    pub size: u64,
    /// Bytes of a block.
    pub block: u32,
    /// The BLAKE3 of the whole, of a steady pass.
    pub hash: Option<Hash>,
    /// Blocks that do not lie any more where they lay, by pack.
    pub freed: HashMap<PackId, u64>,
    /// Blocks that were sent because they are not what is known.
    pub changed: u64,
    /// Blocks that were sent to empty the packs that they lay in.
    pub moved: u64,
    /// Bytes that were read.
    pub read: u64,
}
