//! Plans the archive frame by frame: the entries' extents in order, cut where frames of packs begin and end.
//!
//! A header that says all that the entry does is taken from the vault, and so is a whole frame of small files. Other headers are
//! made here, and so are those of names that bsdtar would cut: vaults have them as older versions wrote them.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use super::holes::{HoleFinder, SparseMap, is_full};
use super::{ArchiveFormat, DOING, FrameRequest, PendingFrame, pax};
use crate::error::{Code, Error, Result};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::restore::missing;
use crate::vault::entry::{Entry, Extent, cut, padding};
use crate::vault::hex::{Hash, PackId};
use crate::vault::pack::{self, FrameAt, PackKind, SeekTable};
use crate::vault::read::PackReader;
use crate::vault::root::Root;
use crate::vault::tar::{self, Member};
use crate::vault::tree::{self, Remark, TreeItem};

/// The most content of a frame that is compressed for the archive, in bytes.
const FRAME: u64 = pack::MAX_FRAME as u64;
/// The most extents of a file that are kept after they were searched for holes; of a file with more, they are read again.
const KEPT: usize = 4096;

/// The kind of a stretch of the stream, for the check of files' hashes.
pub enum StreamMark {
    /// A file's content begins.
    Begin(EntryPath, Hash),
    /// This many bytes of its content.
    Content(u64),
    /// This many bytes of its content, which are a hole: the stream does not have them.
    Hole(u64),
    /// This many bytes of headers and padding.
    Other(u64),
    /// The file's content ends.
    End,
}

/// A piece of the stream that is not a whole frame of a pack.
pub enum StreamPiece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// This many zero bytes.
    Zeros(u64),
    /// A part of a frame's content.
    Part(PartOfFrame),
}

/// Consecutive bytes of a frame's content.
pub struct PartOfFrame {
    /// The pack.
    pub pack: PackId,
    /// Its frame.
    pub frame: FrameAt,
    /// Where the part begins in the frame's content, in bytes.
    pub from: u64,
    /// Where the part ends in the frame's content, in bytes.
    pub to: u64,
}

impl PartOfFrame {
    fn is_whole(&self) -> bool {
        self.from == 0 && self.to == u64::from(self.frame.length)
    }
}

/// The work that makes a frame.
pub enum FrameTask {
    /// Copies a frame as it is stored.
    Copy(PackId, FrameAt),
    /// Makes a frame of the pieces.
    Compress(Vec<StreamPiece>),
}

/// A frame of the archive, to be made.
pub struct FrameJob {
    /// How to make the frame.
    pub task: FrameTask,
    /// The stretches of the frame's content, from its first byte to its last.
    pub marks: Vec<StreamMark>,
    /// Length of the content, in bytes.
    pub length: u64,
}

/// Turns entries into jobs.
pub struct ExportPlanner<'a> {
    packs: &'a PackReader<'a>,
    format: ArchiveFormat,
    jobs: Sender<FrameRequest>,
    outcomes: Sender<PendingFrame>,
    /// Pieces that are being collected to be compressed in one frame.
    pieces: Vec<StreamPiece>,
    length: u64,
    marks: Vec<StreamMark>,
    /// A part of one frame that may yet become the whole frame, and what its bytes are.
    part: Option<(PartOfFrame, Vec<StreamMark>)>,
    /// The first path of every hard-link group.
    first: HashMap<Hash, EntryPath>,
    /// The seek table that was used last.
    table: Option<(PackId, Arc<SeekTable>)>,
}

impl<'a> ExportPlanner<'a> {
    /// Makes a planner that sends its jobs to `jobs`, and the receivers of their frames, in order, to `outcomes`.
    pub fn new(
        packs: &'a PackReader<'a>,
        format: ArchiveFormat,
        jobs: Sender<FrameRequest>,
        outcomes: Sender<PendingFrame>,
    ) -> Self {
        let (pieces, marks) = (Vec::new(), Vec::new());
        ExportPlanner {
            packs,
            format,
            jobs,
            outcomes,
            pieces,
            length: 0,
            marks,
            part: None,
            first: HashMap::new(),
            table: None,
        }
    }

    /// Plans the whole stream. Returns the number of entries.
    ///
    /// # Errors
    /// A store that fails; damage; nobody takes the jobs any more.
    pub fn run(mut self, root: &Root, ctx: &Context) -> Result<u64> {
        let mut entries = 0;
        let mut remarks = Vec::new();
        tree::each_step(self.packs, root, |step| {
            ctx.check(DOING)?;
            match step {
                TreeItem::Entry(entry) => {
                    entries += 1;
                    self.entry(*entry)
                }
                TreeItem::Remark(remark) => {
                    let made = match &remark {
                        Remark::NoFolder(path) => self.folder(path),
                        _ => Ok(()),
                    };
                    remarks.push(remark);
                    made
                }
            }
        })?;
        missing::warnings(&remarks).iter().for_each(|text| ctx.monitor.warn(text));
        self.bytes(tar::END.to_vec())?;
        self.send_pieces()?;
        Ok(entries)
    }

    /// Adds a folder for which the snapshot has no entry.
    fn folder(&mut self, path: &EntryPath) -> Result<()> {
        let folder = missing::folder(path.clone(), missing::LEFT_OUT);
        self.bytes(tar::header(&folder))
    }

    fn entry(&mut self, entry: Entry) -> Result<()> {
        let group = tree::link_group(&entry);
        let stored = tar::records(&entry);
        let records = match self.format {
            ArchiveFormat::Pax => pax::records(&entry),
            ArchiveFormat::Plain => stored.clone(),
        };
        if let Some(first) = group.and_then(|group| self.first.get(&group)) {
            return self.bytes(tar::member(&entry, Member::LinkTo(first), &records));
        }
        let (runs, map) = match self.format {
            ArchiveFormat::Pax => self.holes(&entry)?,
            ArchiveFormat::Plain => (None, None),
        };
        if let Some(map) = &map {
            let text = map.text();
            let records = [pax::sparse_records(&entry, map), records].concat();
            let member = Member::Sparse(text.len() as u64 + map.data());
            self.bytes([tar::member(&entry, member, &records), text].concat())?;
        } else if records == stored && !tar::is_cut_by_bsdtar(&entry.path) {
            for extent in entry.header_extents() {
                self.extent(&extent, StreamMark::Other)?;
            }
        } else {
            self.bytes(tar::member(&entry, Member::Whole, &records))?;
        }
        if let Some(hash) = entry.hash {
            self.mark(StreamMark::Begin(entry.path.clone(), hash));
            let packs = self.packs;
            let (mut at, mut holes) = (0, map.as_ref().map_or(&[][..], SparseMap::holes));
            let mut take = |extent: Extent| {
                at += extent.length;
                match extent.pack {
                    None if !holes.is_empty() => self.zeros_and_holes(at - extent.length, at, &mut holes),
                    _ => self.extent(&extent, StreamMark::Content),
                }
            };
            match runs {
                Some(runs) => runs.into_iter().try_for_each(take)?,
                None => each_extent(packs, &entry, &mut take)?,
            }
            self.mark(StreamMark::End);
        }
        match &map {
            Some(map) => self.zeros(padding(map.data()), StreamMark::Other)?,
            None => {
                let content = if entry.map.is_some() { 0 } else { entry.size };
                for extent in cut(&entry.extents, entry.header + content, u64::MAX) {
                    self.extent(&extent, StreamMark::Other)?;
                }
            }
        }
        if let Some(group) = group {
            self.first.insert(group, entry.path);
        }
        Ok(())
    }

    /// Looks for the holes of a file. Returns the extents of its content too, if they were read and are few.
    fn holes(&self, entry: &Entry) -> Result<(Option<Vec<Extent>>, Option<SparseMap>)> {
        if entry.hash.is_none() || is_full(entry) {
            return Ok((None, None));
        }
        let (mut finder, mut runs) = (HoleFinder::new(), Some(Vec::new()));
        each_extent(self.packs, entry, |extent| {
            finder.extent(&extent);
            match &mut runs {
                Some(kept) if kept.len() < KEPT => kept.push(extent),
                _ => runs = None,
            }
            Ok(())
        })?;
        Ok((runs, finder.finish()))
    }

    /// Adds the zeros of a file from the byte `at` to the byte `end`, but for those of them that are in holes. `holes` begins with
    /// the first hole that may be there.
    fn zeros_and_holes(&mut self, mut at: u64, end: u64, holes: &mut &[(u64, u64)]) -> Result<()> {
        while at < end {
            let next = match holes.split_first() {
                Some(((_, to), others)) if *to <= at => {
                    *holes = others;
                    continue;
                }
                Some(((from, to), _)) if *from <= at => {
                    let next = end.min(*to);
                    self.mark(StreamMark::Hole(next - at));
                    next
                }
                first => {
                    let next = first.map_or(end, |((from, _), _)| end.min(*from));
                    self.zeros(next - at, StreamMark::Content)?;
                    next
                }
            };
            at = next;
        }
        Ok(())
    }

    fn mark(&mut self, mark: StreamMark) {
        self.part.as_mut().map_or(&mut self.marks, |(_, marks)| marks).push(mark);
    }

    fn extent(&mut self, extent: &Extent, mark: fn(u64) -> StreamMark) -> Result<()> {
        let Some(pack) = extent.pack else { return self.zeros(extent.length, mark) };
        let table = self.table(pack)?;
        let range = table.covering(extent.offset, extent.length).ok_or_else(|| {
            let name = pack::name(PackKind::Data, pack);
            Error::damage(format!("read {name}"), "an entry refers to bytes beyond its end")
        })?;
        for frame in &table.frames()[range] {
            let from = extent.offset.saturating_sub(frame.offset);
            let to = (extent.end() - frame.offset).min(u64::from(frame.length));
            match &mut self.part {
                Some((part, _)) if part.pack == pack && part.frame.at == frame.at && part.to == from => part.to = to,
                _ => {
                    self.take_part()?;
                    self.part = Some((PartOfFrame { pack, frame: *frame, from, to }, Vec::new()));
                }
            }
            self.mark(mark(to - from));
            if to == u64::from(frame.length) {
                self.take_part()?;
            }
        }
        Ok(())
    }

    fn table(&mut self, pack: PackId) -> Result<Arc<SeekTable>> {
        match &self.table {
            Some((last, table)) if *last == pack => Ok(table.clone()),
            _ => {
                let table = self.packs.table(pack, PackKind::Data)?;
                self.table = Some((pack, table.clone()));
                Ok(table)
            }
        }
    }

    /// Ends the part of a frame, which will not grow further: the frame is copied if the part is all of it.
    fn take_part(&mut self) -> Result<()> {
        let Some((part, marks)) = self.part.take() else { return Ok(()) };
        if part.is_whole() {
            self.send_pieces()?;
            let length = u64::from(part.frame.length);
            // Files may have begun or ended since the last byte that was sent.
            let marks = self.marks.drain(..).chain(marks).collect();
            return self.send(FrameJob { task: FrameTask::Copy(part.pack, part.frame), marks, length });
        }
        let length = part.to - part.from;
        self.room_for(length)?;
        self.marks.extend(marks);
        self.add(StreamPiece::Part(part), length);
        Ok(())
    }

    fn zeros(&mut self, mut length: u64, mark: fn(u64) -> StreamMark) -> Result<()> {
        self.take_part()?;
        while length > 0 {
            self.room_for(1)?;
            let now = length.min(FRAME - self.length);
            self.marks.push(mark(now));
            self.add(StreamPiece::Zeros(now), now);
            length -= now;
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.take_part()?;
        for bytes in bytes.chunks(pack::MAX_FRAME) {
            let length = bytes.len() as u64;
            self.room_for(length)?;
            self.marks.push(StreamMark::Other(length));
            self.add(StreamPiece::Bytes(bytes.to_vec()), length);
        }
        Ok(())
    }

    fn add(&mut self, piece: StreamPiece, length: u64) {
        self.pieces.push(piece);
        self.length += length;
    }

    /// Sends what was collected, if `length` more bytes would be too much.
    fn room_for(&mut self, length: u64) -> Result<()> {
        if self.length + length > FRAME { self.send_pieces() } else { Ok(()) }
    }

    fn send_pieces(&mut self) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let task = FrameTask::Compress(std::mem::take(&mut self.pieces));
        let (marks, length) = (std::mem::take(&mut self.marks), std::mem::take(&mut self.length));
        self.send(FrameJob { task, marks, length })
    }

    fn send(&self, job: FrameJob) -> Result<()> {
        let (done, outcome) = bounded(1);
        // The error of the thread that stopped is the one that is reported.
        let stopped = || Error::failed(DOING, "it stopped early").with_code(Code::Stopped);
        self.jobs.send((job, done)).map_err(|_| stopped())?;
        self.outcomes.send(outcome).map_err(|_| stopped())
    }
}

/// Calls `take` with every extent of a file's content, in order.
fn each_extent(packs: &PackReader, entry: &Entry, mut take: impl FnMut(Extent) -> Result<()>) -> Result<()> {
    // One of the two is empty.
    entry.content_extents().into_iter().try_for_each(&mut take)?;
    tree::each_run(packs, entry, take)
}
