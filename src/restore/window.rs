//! A window: as much of a snapshot's tree as fits into bounded memory, and how far its content has come.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use crate::monitor::Context;
use crate::store::Store;
use crate::vault::entry::Entry;
use crate::vault::hex::{Hash, PackId};
use crate::vault::scattered::Scattered;

/// How much a window may hold.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimits {
    /// Number of entries.
    pub entries: usize,
    /// Pieces of content. One that does not begin with a chunk of the file's hash tree counts as
    /// [`LOOSE`](super::plan::LOOSE) pieces, for the memory that its chunk takes until the rest of it comes.
    pub pieces: usize,
    /// Bytes of memory for the entries, approximately.
    pub memory: usize,
    /// Compressed bytes of one read, approximately.
    pub read: u64,
    /// The largest gap between two frames, in bytes, that is read through.
    pub gap: u64,
}

impl Default for WindowLimits {
    fn default() -> Self {
        WindowLimits { entries: 32 << 10, pieces: 256 << 10, memory: 16 << 20, read: 4 << 20, gap: 128 << 10 }
    }
}

impl WindowLimits {
    /// Limits that suit a store and the number of reads that may be under way at the same time: if there are many, each
    /// is smaller, for the memory that they take, but not so small that most of their time would go into the request.
    pub fn suiting(store: &dyn Store, ctx: &Context) -> Self {
        // One is being decoded, and one waits to be.
        let reads = ctx.parallel as u64 + 2;
        WindowLimits { read: (ROOM / reads).clamp(1 << 20, 4 << 20), gap: store.request_worth(), ..Self::default() }
    }
}

/// A file whose content is (partly) in a window.
pub struct Item {
    /// The file.
    pub entry: Arc<Entry>,
    /// The hard-link group that it is the first member of, if any.
    pub group: Option<Hash>,
    /// Where the content that is in this and earlier windows ends, in bytes.
    pub until: u64,
    /// Whether the content ends in this window.
    pub last: bool,
    /// Bytes of pieces of this window that are still to come.
    pub left: AtomicU64,
    /// The file's progress when its content does not come in one piece; shared by its windows.
    pub progress: OnceLock<Arc<FileProgress>>,
    /// Whether it came in one piece and is there.
    pub done: AtomicBool,
    /// Why it could not be read.
    pub lost: Arc<OnceLock<String>>,
}

impl Item {
    pub(super) fn new(
        entry: Arc<Entry>,
        group: Option<Hash>,
        progress: OnceLock<Arc<FileProgress>>,
        lost: Arc<OnceLock<String>>,
    ) -> Self {
        let left = AtomicU64::new(0);
        Item { entry, group, until: 0, last: false, left, progress, done: AtomicBool::new(false), lost }
    }
}

/// A range of a pack's content that belongs to a file.
#[derive(Debug, Clone, Copy)]
pub struct WindowPiece {
    /// The pack's place in the window's `packs`.
    pub pack: u32,
    /// The file's place in the window's `items`.
    pub item: u32,
    /// Where it begins in the pack's content, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Where it begins in the file, in bytes.
    pub at: u64,
}

impl WindowPiece {
    /// Whether `next` comes directly after it, in the pack and in the file.
    pub(super) fn continued_by(&self, next: &WindowPiece) -> bool {
        (self.pack, self.item) == (next.pack, next.item)
            && (self.offset + self.length, self.at + self.length) == (next.offset, next.at)
    }
}

/// A part of a tree that is made in one go.
#[derive(Default)]
pub struct Window {
    /// Folders to make, in order, before anything else.
    pub folders: Vec<Arc<Entry>>,
    /// Symlinks and fifos.
    pub others: Vec<Entry>,
    /// Files.
    pub items: Vec<Item>,
    /// Files that were restored beforehand, each with the hard-link group that it is the first member of.
    pub ahead: Vec<(Option<Hash>, Entry)>,
    /// The files' content, by pack and offset.
    pub pieces: Vec<WindowPiece>,
    /// The packs that the pieces are in, in the order of their first piece.
    pub packs: Vec<PackId>,
    /// Further members of hard-link groups, to be linked when the files are there.
    pub links: Vec<(Hash, Entry)>,
    /// Folders that nothing more goes into, innermost first.
    pub left: Vec<Arc<Entry>>,
    /// How many pieces they count as, each loose one as [`LOOSE`](super::plan::LOOSE).
    pub(super) weight: usize,
    pub(super) memory: usize,
}

impl Window {
    pub(super) fn is_full(&self, limits: &WindowLimits) -> bool {
        let entries = self.folders.len() + self.others.len() + self.items.len() + self.ahead.len() + self.links.len();
        entries >= limits.entries || self.weight >= limits.pieces || self.memory >= limits.memory
    }

    pub(super) fn pack(&mut self, id: PackId) -> u32 {
        // Content nearly always continues in one of the packs that came last.
        let found = self.packs.iter().rposition(|p| *p == id).unwrap_or_else(|| {
            self.packs.push(id);
            self.packs.len() - 1
        });
        found as u32
    }
}

/// A file that does not come in one piece.
#[derive(Debug)]
pub struct FileProgress {
    pub(super) began: Mutex<bool>,
    pub(super) hash: Mutex<Scattered>,
}

/// A piece of content in a decoded frame.
#[derive(Debug, Clone, Copy)]
pub struct FrameSlice {
    /// The file's place in the window.
    pub item: u32,
    /// Where it begins in the frame's content, in bytes.
    pub from: u32,
    /// Its length in bytes.
    pub length: u32,
    /// Where it begins in the file, in bytes.
    pub at: u64,
}

/// Most compressed bytes that are held at the same time: for reads that are under way, that wait, and that are being
/// decoded.
pub const ROOM: u64 = 32 << 20;
