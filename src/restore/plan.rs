//! Cuts a snapshot's entries into windows: each is as much of the tree as fits into bounded memory, in order.
//!
//! A window's content pieces may be read in any order. Everything that a window makes lies in folders of the same or an
//! earlier window, and a folder is left (its times are set) in the window after which nothing more goes into it.

mod left;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::ahead::FilledAhead;
use super::missing;
use super::window::{Item, Window, WindowLimits, WindowPiece};
use crate::error::{Kind, Result};
use crate::lineage;
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{self, Entry, Extent};
use crate::vault::hex::Hash;
use crate::vault::read::PackReader;
use crate::vault::root::{Problem, Root};
use crate::vault::subtree::SMALLEST;
use crate::vault::tree::{self, Remark, SnapshotCheck};

/// How many pieces a piece counts as if it does not begin at a multiple of [`SMALLEST`] bytes in its file.
pub const LOOSE: usize = 8;

/// Selects the entries that are wanted.
#[derive(Clone, Copy, Default)]
pub struct EntrySelection<'a> {
    /// These paths, everything in them, and the folders above. `None` for all.
    pub paths: Option<&'a [EntryPath]>,
    /// Not these paths, nor anything in them.
    pub but: &'a [EntryPath],
    /// Nor these paths, which are reported: what they would say in the target is not true.
    pub never: &'a [EntryPath],
    /// Nor lastgood's own folder at the top: a snapshot has it only if it is older than that use of the name.
    pub without_own: bool,
}

impl EntrySelection<'_> {
    /// Whether an entry is wanted, or a folder above one that is.
    pub fn selects(&self, entry: &EntryPath) -> bool {
        let leads_there = |paths: &[EntryPath]| paths.iter().any(|path| path.is_in(entry));
        self.holds(entry) || self.paths.is_some_and(leads_there) && !self.spares(entry)
    }

    /// Whether an entry is wanted itself.
    pub fn holds(&self, entry: &EntryPath) -> bool {
        self.paths.is_none_or(|paths| paths.iter().any(|path| entry.is_in(path))) && !self.spares(entry)
    }

    fn spares(&self, entry: &EntryPath) -> bool {
        self.but.iter().any(|not| entry.is_in(not)) || self.without_own && lineage::is_own(entry)
    }

    /// Whether an entry is left out only because it is, or lies in, lastgood's own folder.
    fn leaves_out_own(&self, entry: &EntryPath) -> bool {
        let with_own = EntrySelection { without_own: false, ..*self };
        self.without_own && lineage::is_own(entry) && with_own.holds(entry)
    }

    /// Whether entries from `first` on and before `next` may be wanted.
    pub fn touches(&self, first: &EntryPath, next: Option<&EntryPath>) -> bool {
        let Some(paths) = self.paths else { return true };
        let before_end = |path: &EntryPath| next.is_none_or(|next| path < next);
        paths.iter().any(|path| {
            // The folders above the path come before it, and the entries in it directly after.
            first.is_in(path) || path.and_folders().any(|p| *first <= p && before_end(&p))
        })
    }
}

/// Reads a snapshot's entries and cuts them into windows.
pub struct Planner<'a> {
    /// Reads the packs.
    pub packs: &'a PackReader<'a>,
    /// Which entries are wanted.
    pub wanted: EntrySelection<'a>,
    /// The size of windows.
    pub limits: WindowLimits,
    /// Whether damaged hunks and maps are passed over.
    pub skip_damaged: bool,
    /// Files that are there already, and need not be read.
    pub ahead: Option<&'a FilledAhead>,
    /// Checked for a request to stop.
    pub ctx: &'a Context<'a>,
}

/// State that is carried from entry to entry.
pub struct Walk<F> {
    window: Window,
    check: SnapshotCheck,
    open: Vec<Arc<Entry>>,
    groups: HashSet<u64>,
    findings: SnapshotFindings,
    take: F,
}

/// Findings about a snapshot that was read.
#[derive(Debug, Default)]
pub struct SnapshotFindings {
    /// Paths that could not be read, and why.
    pub not_read: Vec<Problem>,
    /// Entries that no restore puts into a target, because of their name.
    pub reserved: Vec<Problem>,
    /// Whether entries were left out since they lie where lastgood keeps its own files.
    pub own: bool,
    /// Other faults of the snapshot.
    pub remarks: Vec<Remark>,
}

impl Planner<'_> {
    /// Calls `take` with every window, in order. Returns what could not be read and what is wrong.
    ///
    /// # Errors
    /// A store that fails; damage, unless it is passed over; any error of `take`.
    pub fn each_window(&self, root: &Root, take: impl FnMut(Window) -> Result<()>) -> Result<SnapshotFindings> {
        let mut walk = Walk::new(take);
        if self.skip_damaged {
            left::each_entry(self, root, &mut walk)?;
            return walk.finish();
        }
        let hunks = tree::hunks(self.packs, root)?;
        let mut decoder = Decoder::new()?;
        for (n, hunk) in hunks.iter().enumerate() {
            self.ctx.check("read the snapshot's entries")?;
            if self.wanted.touches(&hunk.first, hunks.get(n + 1).map(|h| &h.first)) {
                for entry in tree::read_hunk(self.packs, hunk, &mut decoder)? {
                    self.next(entry, missing::LEFT_OUT, &mut walk)?;
                }
            }
        }
        walk.finish()
    }

    /// Takes the next entry, if it is wanted. Folders that are missing above it are made, with this `mode`.
    ///
    /// # Errors
    /// As [`Planner::each_window`]; damage, even where that is passed over, if the entry may not stand there: it is not
    /// taken then.
    pub fn next<F: FnMut(Window) -> Result<()>>(&self, entry: Entry, mode: u32, walk: &mut Walk<F>) -> Result<()> {
        if !self.wanted.selects(&entry.path) {
            walk.findings.own |= self.wanted.leaves_out_own(&entry.path);
            return Ok(());
        }
        if entry.path.is_in_one_of(self.wanted.never) {
            let why = "its name is the one by which a restore marks what it has not finished";
            walk.findings.reserved.push(Problem::new(entry.path, why));
            return Ok(());
        }
        for remark in walk.check.next(&entry)? {
            if let Remark::NoFolder(path) = &remark {
                self.entry(missing::folder(path.clone(), mode), walk)?;
            }
            walk.findings.remarks.push(remark);
        }
        self.entry(entry, walk)
    }

    fn entry<F: FnMut(Window) -> Result<()>>(&self, entry: Entry, walk: &mut Walk<F>) -> Result<()> {
        walk.leave(&entry.path);
        if entry.kind != entry::EntryKind::File {
            walk.make_room(&entry, &self.limits)?;
        }
        match entry.kind {
            entry::EntryKind::Folder => walk.folder(entry),
            entry::EntryKind::Symlink | entry::EntryKind::Fifo => walk.window.others.push(entry),
            entry::EntryKind::File => return self.file(entry, walk),
        }
        Ok(())
    }

    /// Adds a file and its content.
    ///
    /// # Errors
    /// As [`Planner::each_window`].
    pub fn file<F: FnMut(Window) -> Result<()>>(&self, entry: Entry, walk: &mut Walk<F>) -> Result<()> {
        walk.make_room(&entry, &self.limits)?;
        let group = tree::link_group(&entry);
        if let Some(group) = group {
            let short = group.0.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            if !walk.groups.insert(short) {
                walk.window.links.push((group, entry));
                return Ok(());
            }
        }
        if self.ahead.is_some_and(|ahead| ahead.holds(&entry)) {
            walk.window.ahead.push((group, entry));
            return Ok(());
        }
        let entry = Arc::new(entry);
        walk.item(&entry, group);
        let mut at = 0;
        if entry.map.is_none() {
            for extent in entry.content_extents() {
                self.piece(extent, &mut at, walk)?;
            }
        } else {
            let read = tree::each_run(self.packs, &entry, |extent| {
                self.ctx.check("read the snapshot's entries")?;
                self.piece(extent, &mut at, walk)
            });
            if let Err(why) = read {
                if !self.skip_damaged || why.kind() != Kind::Damage {
                    return Err(why);
                }
                if let Some(item) = walk.window.items.last() {
                    // A file that is lost already keeps its first reason.
                    let _ = item.lost.set(why.to_string());
                }
            }
        }
        if let Some(item) = walk.window.items.last_mut() {
            (item.until, item.last) = (item.entry.size, true);
        }
        Ok(())
    }

    /// Adds a range of the content of the window's last file; a file that does not fit goes on in the next window.
    fn piece<F: FnMut(Window) -> Result<()>>(&self, extent: Extent, at: &mut u64, walk: &mut Walk<F>) -> Result<()> {
        if let Some(pack) = extent.pack {
            if walk.window.weight >= self.limits.pieces {
                walk.go_on(*at)?;
            }
            let window = &mut walk.window;
            let item = window.items.len().saturating_sub(1);
            if let Some(item) = window.items.last() {
                item.left.fetch_add(extent.length, Ordering::Relaxed);
            }
            let pack = window.pack(pack);
            let piece = WindowPiece { pack, item: item as u32, offset: extent.offset, length: extent.length, at: *at };
            match window.pieces.last_mut() {
                Some(last) if last.continued_by(&piece) => last.length += piece.length,
                _ => {
                    window.weight += if at.is_multiple_of(SMALLEST) { 1 } else { LOOSE };
                    window.pieces.push(piece);
                }
            }
        }
        *at += extent.length;
        Ok(())
    }
}

impl<F: FnMut(Window) -> Result<()>> Walk<F> {
    /// Begins with an empty window; full ones are given to `take`.
    pub fn new(take: F) -> Self {
        Walk {
            window: Window::default(),
            check: SnapshotCheck::default(),
            open: Vec::new(),
            groups: HashSet::new(),
            findings: SnapshotFindings::default(),
            take,
        }
    }

    /// Passes on the last window. Returns the findings about the whole snapshot.
    ///
    /// # Errors
    /// Any error of the function that takes windows.
    pub fn finish(mut self) -> Result<SnapshotFindings> {
        while let Some(folder) = self.open.pop() {
            self.window.left.push(folder);
        }
        self.flush()?;
        self.findings.remarks.extend(self.check.finish());
        Ok(self.findings)
    }

    /// Records something that could not be read.
    pub fn not_read(&mut self, path: EntryPath, why: String) {
        self.findings.not_read.push(Problem::new(path, why));
    }

    /// Begins a new window when the last one is full, and counts the entry's memory.
    fn make_room(&mut self, entry: &Entry, limits: &WindowLimits) -> Result<()> {
        if self.window.is_full(limits) {
            self.flush()?;
        }
        let extras = entry.xattrs.iter().map(|(name, value)| 96 + name.0.len() + value.0.len()).sum::<usize>();
        let map = entry.map.as_ref().map_or(0, |m| 16 * m.packs.len() + 1024);
        self.window.memory += 384 + entry.path.bytes().len() + 40 * entry.extents.len() + extras + map;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut window = std::mem::take(&mut self.window);
        // Packs in the order of their first piece, so that content comes roughly in the order of the files.
        window.pieces.sort_unstable_by_key(|p| (p.pack, p.offset, p.item, p.at));
        (self.take)(window)
    }

    fn item(&mut self, entry: &Arc<Entry>, group: Option<Hash>) {
        let (progress, lost) = (OnceLock::new(), Arc::default());
        self.window.items.push(Item::new(entry.clone(), group, progress, lost));
    }

    /// Ends the window in the middle of its last file, after `at` bytes of it.
    fn go_on(&mut self, at: u64) -> Result<()> {
        let Some(item) = self.window.items.last_mut() else { return self.flush() };
        item.until = at;
        let (entry, group) = (item.entry.clone(), item.group);
        let progress = item.progress().clone();
        let lost = item.lost.clone();
        self.flush()?;
        self.window.items.push(Item::new(entry, group, OnceLock::from(progress), lost));
        Ok(())
    }

    fn folder(&mut self, entry: Entry) {
        let entry = Arc::new(entry);
        self.window.folders.push(entry.clone());
        self.open.push(entry);
    }

    /// Leaves the folders that `next` is not in.
    fn leave(&mut self, next: &EntryPath) {
        while let Some(folder) = self.open.pop_if(|folder| !next.is_in(&folder.path)) {
            self.window.left.push(folder);
        }
    }
}
