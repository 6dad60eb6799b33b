//! Exports a snapshot as a `.tar.zst`, streamed: the entries in order, then two zero blocks.
//!
//! ```text
//! plan (entries in order) ──► jobs ──► workers: read, decode, compress ──► written in order, hashes checked
//! ```
//!
//! A frame of a pack whose whole content the stream has in one run is copied as it is stored. Everything else is
//! decoded and compressed again, in frames of at most 4 MiB. The later members of a hard-link group become link
//! headers, so the names stay links of one file; the paths of the first members are all that is held in memory for
//! longer than a few frames.
//!
//! What a header cannot say is in PAX records before it, and a file with holes is a sparse file of GNU tar: [`ArchiveFormat`].
//! Both are made from the snapshot alone, so that each export of it has the same bytes.
//!
//! The checks are these: index frames by their hash, and every file by its BLAKE3 whose content was decoded from end to
//! end. A copied frame is not decoded. It has the place and length that its pack's seek table says, its blocks follow
//! each other, and zstd's own checksum of its content stays in it, so that decompressing the archive finds a flipped
//! bit. Its BLAKE3 is what `verify --read-data` checks. Headers are copied as they are stored, or made of what the entry says; tar
//! programs refuse names that would leave the folder that they extract to.

mod acl;
mod holes;
mod pax;
mod plan;

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use self::plan::{ExportPlanner, FrameJob, FrameTask, PartOfFrame, StreamMark, StreamPiece};
use crate::error::{Code, Doing, Error, Kind, Result};
use crate::monitor::Context;
use crate::panics;
use crate::parallel::ordered::map_ordered;
use crate::path::EntryPath;
use crate::vault::Vault;
use crate::vault::decoder::Decoder;
use crate::vault::hex::{Hash, PackId};
use crate::vault::pack::{self, FrameAt, PackKind};
use crate::vault::read::{PackReader, twice};
use crate::vault::root::Root;

/// The zstd level that frames are compressed with.
const LEVEL: i32 = 3;
/// Number of decoded frames that are kept: an entry's neighbours are often in the same ones.
const DECODED: usize = 6;
/// Most workers: more would hold more memory, and one stream keeps no more of them busy.
const MAX_WORKERS: usize = 4;

/// Frames that a worker may read ahead: more would hold more memory, and one stream keeps no more of them busy.
const READS: usize = 2;

/// The most zeros of a file's holes that are hashed, in bytes. A sparse file may say that it has terabytes of them.
const HASHED_HOLES: u64 = 1 << 30;

const DOING: &str = "export a snapshot";
/// The advice if it is damaged.
const SAVES: &str = "`lastgood restore --skip-damaged` restores what can be read; `lastgood verify` lists all damage.";

/// How an archive says what a tar header cannot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// PAX records for times to the nanosecond, ACLs and all extended attributes; files with holes as GNU tar's sparse files.
    #[default]
    Pax,
    /// The headers that the vault has, with times in whole seconds, and holes as zeros.
    Plain,
}

/// The result of an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Number of entries of every kind.
    pub entries: u64,
    /// Length of the tar stream, in bytes.
    pub bytes: u64,
    /// Length of the archive, in bytes.
    pub written: u64,
    /// Number of frames that are in the archive as they are in the vault.
    pub frames_copied: u64,
    /// Number of frames that were compressed for the archive.
    pub frames_recompressed: u64,
    /// Number of files whose hash was not checked, because frames of their content were copied, or they have large holes.
    pub files_not_hashed: u64,
}

/// A frame of the archive.
struct ArchiveFrame {
    bytes: Vec<u8>,
    /// The frame's content; `None` for a copied frame, which was not decoded.
    content: Option<Vec<u8>>,
    marks: Vec<StreamMark>,
    length: u64,
}

/// Where a frame will be received from.
type PendingFrame = Receiver<Result<ArchiveFrame>>;
/// A job, and where its frame is sent.
type FrameRequest = (FrameJob, Sender<Result<ArchiveFrame>>);

/// Writes the snapshot `root` to `out` as a `.tar.zst`.
///
/// # Errors
/// A store that fails, `out` that fails, damage. Anything written until then is not a whole archive, and some tar
/// programs do not notice that: the caller has to remove it.
pub fn export(
    vault: &Vault,
    root: &Root,
    format: ArchiveFormat,
    out: &mut dyn Write,
    ctx: &Context,
) -> Result<ExportReport> {
    let doing = || {
        format!("export the snapshot of {} from {}", root.started.strftime("%Y-%m-%d %H:%M:%S UTC"), vault.store.url())
    };
    let packs = PackReader::for_root(&*vault.store, root).map_err(|e| e.within(doing()))?;
    ctx.monitor.begin("export", Some(root.totals.bytes));
    // While one worker waits for the store, another one can work.
    let workers = ctx.threads.max(ctx.parallel).clamp(1, MAX_WORKERS);
    let frames = FrameCache { packs: &packs, decoded: Mutex::default(), parallel: (ctx.parallel / workers).min(READS) };
    let (jobs, work) = bounded(workers);
    // The outcomes are queued in the order of the stream, whichever is ready first.
    let (outcomes, line) = bounded(workers);
    let done = std::thread::scope(|scope| {
        for _ in 0..workers {
            let (work, frames) = (work.clone(), &frames);
            scope.spawn(move || run_jobs(&work, frames));
        }
        drop(work);
        let plan = ExportPlanner::new(&packs, format, jobs, outcomes);
        let plan = scope.spawn(|| plan.run(root, ctx));
        // When writing fails, `line` is gone, which stops the plan, which stops the workers.
        let written = write(line, out, ctx);
        let planned = plan.join().map_err(|panic| panics::error(DOING, &*panic))?;
        let (report, entries) = (written?, planned?);
        Ok(ExportReport { entries, ..report })
    });
    packs.mended().values().for_each(|what| ctx.monitor.warn(what));
    done.map_err(|e: Error| match e.kind() {
        Kind::Damage if e.advice().is_none() => e.within(doing()).hint(SAVES),
        _ => e.within(doing()),
    })
}

/// A frame's pack, its offset in the object, and its content.
type Decoded = (PackId, u64, Arc<Vec<u8>>);

/// Decoded frames, shared by the workers.
struct FrameCache<'a> {
    packs: &'a PackReader<'a>,
    decoded: Mutex<VecDeque<Decoded>>,
    /// How many reads each worker may have under way at the same time.
    parallel: usize,
}

/// A frame before it is decoded.
enum FrameBytes {
    Content(Arc<Vec<u8>>),
    Stored(Vec<u8>),
}

impl FrameCache<'_> {
    fn decoded(&self) -> MutexGuard<'_, VecDeque<Decoded>> {
        self.decoded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a frame's content if it is kept, or otherwise its compressed bytes.
    fn fetch(&self, pack: PackId, frame: &FrameAt) -> Result<FrameBytes> {
        if let Some((_, _, content)) = self.decoded().iter().find(|(p, at, _)| (*p, *at) == (pack, frame.at)) {
            return Ok(FrameBytes::Content(content.clone()));
        }
        self.stored(pack, frame).map(FrameBytes::Stored)
    }

    /// Returns a frame's content, and keeps it for a while.
    fn content(
        &self,
        pack: PackId,
        frame: &FrameAt,
        fetched: FrameBytes,
        decoder: &mut Decoder,
    ) -> Result<Arc<Vec<u8>>> {
        let compressed = match fetched {
            FrameBytes::Content(content) => return Ok(content),
            FrameBytes::Stored(compressed) => compressed,
        };
        let mut content = Vec::new();
        self.packs.decode((pack, PackKind::Data), frame, &compressed, decoder, &mut content)?;
        let content = Arc::new(content);
        let mut decoded = self.decoded();
        decoded.truncate(DECODED - 1);
        decoded.push_front((pack, frame.at, content.clone()));
        Ok(content)
    }

    fn stored(&self, pack: PackId, frame: &FrameAt) -> Result<Vec<u8>> {
        self.packs.compressed(pack, PackKind::Data, std::slice::from_ref(frame))
    }

    /// Returns a frame as it is stored: one zstd frame with the length that the table says, as far as its headers tell.
    fn copy(&self, pack: PackId, frame: &FrameAt) -> Result<Vec<u8>> {
        let mut again = false;
        twice(&pack::name(PackKind::Data, pack), || {
            let stored = match std::mem::replace(&mut again, true) {
                false => self.stored(pack, frame)?,
                true => self.packs.read_again((pack, PackKind::Data), frame)?,
            };
            let wrong = |what: &str| Ok(Err(format!("the frame at {} {what}", frame.at)));
            match zstd::zstd_safe::find_frame_compressed_size(&stored) {
                Ok(length) if length == stored.len() => {}
                _ => return wrong("does not end where its pack's table says"),
            }
            match zstd::zstd_safe::get_frame_content_size(&stored) {
                // A frame need not give its content's size.
                Ok(Some(length)) if length != u64::from(frame.length) => {
                    wrong("is not as long as its pack's table says")
                }
                Ok(_) => Ok(Ok(stored)),
                Err(_) => wrong("is not a zstd frame"),
            }
        })
    }
}

/// Runs one worker: makes frames until there are no more jobs.
fn run_jobs(work: &Receiver<FrameRequest>, frames: &FrameCache) {
    let mut tools = None;
    for (job, done) in work {
        // Nobody waits for the outcome any more if writing failed; that error is the one to report.
        let _ = done.send(run_job(job, frames, &mut tools));
    }
}

struct Tools {
    decoder: Decoder,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Tools {
    fn new() -> Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL).and_then(|mut compressor| {
            compressor.include_checksum(true)?;
            Ok(compressor)
        });
        Ok(Tools { decoder: Decoder::new()?, compressor: compressor.doing(|| "start zstd")? })
    }
}

fn run_job(job: FrameJob, frames: &FrameCache, tools: &mut Option<Tools>) -> Result<ArchiveFrame> {
    let FrameJob { task, marks, length } = job;
    let pieces = match task {
        FrameTask::Copy(pack, frame) => {
            return Ok(ArchiveFrame { bytes: frames.copy(pack, &frame)?, content: None, marks, length });
        }
        FrameTask::Compress(pieces) => pieces,
    };
    let tools = match tools {
        Some(tools) => tools,
        None => tools.insert(Tools::new()?),
    };
    let (mut content, mut parts) = (vec![0; length as usize], Vec::new());
    let mut at = 0;
    for piece in pieces {
        let from = at;
        match piece {
            StreamPiece::Bytes(bytes) => {
                at += bytes.len();
                content[from..at].copy_from_slice(&bytes);
            }
            StreamPiece::Zeros(count) => at += count as usize,
            StreamPiece::Part(part) => {
                at += (part.to - part.from) as usize;
                parts.push((from, part));
            }
        }
    }
    // A database's pages jump back and forth between the frames of many backups; sorted, each frame is decoded once.
    parts.sort_by_key(|(_, part)| (part.pack, part.frame.offset));
    let of_frames: Vec<&[(usize, PartOfFrame)]> =
        parts.chunk_by(|(_, a), (_, b)| (a.pack, a.frame.at) == (b.pack, b.frame.at)).collect();
    let fetch = |parts: &&[(usize, PartOfFrame)]| frames.fetch(parts[0].1.pack, &parts[0].1.frame);
    map_ordered(&of_frames, frames.parallel, fetch, |parts, fetched| {
        let PartOfFrame { pack, frame, .. } = &parts[0].1;
        let frame = frames.content(*pack, frame, fetched?, &mut tools.decoder)?;
        for (at, part) in *parts {
            let part = &frame[part.from as usize..part.to as usize];
            content[*at..*at + part.len()].copy_from_slice(part);
        }
        Ok(())
    })?;
    let bytes = tools.compressor.compress(&content).doing(|| "compress a part of the archive")?;
    Ok(ArchiveFrame { bytes, content: Some(content), marks, length })
}

/// Writes the frames as they come, and checks the hash of every file that was decoded as a whole.
fn write(line: Receiver<PendingFrame>, out: &mut dyn Write, ctx: &Context) -> Result<ExportReport> {
    let mut report = ExportReport::default();
    let mut check = HashCheck::default();
    for outcome in line {
        let frame = outcome
            .recv()
            .map_err(|_| Error::failed(DOING, "a thread of it ended early").with_code(Code::Internal))??;
        ctx.check(DOING)?;
        check.frame(&frame, &mut report)?;
        out.write_all(&frame.bytes).doing(|| "write the archive")?;
        report.bytes += frame.length;
        report.written += frame.bytes.len() as u64;
        match frame.content {
            Some(_) => report.frames_recompressed += 1,
            None => report.frames_copied += 1,
        }
        let holes = frame.marks.iter().map(|mark| if let StreamMark::Hole(length) = mark { *length } else { 0 });
        ctx.monitor.advance(frame.length + holes.sum::<u64>());
    }
    out.flush().doing(|| "write the archive")?;
    Ok(report)
}

/// Follows the files through the stream, and checks their hashes.
#[derive(Default)]
struct HashCheck {
    file: Option<(EntryPath, Hash)>,
    /// `None` once bytes of the file went by that were not decoded, or too many zeros.
    hasher: Option<blake3::Hasher>,
    /// Bytes of the file's holes that went by.
    holes: u64,
}

impl HashCheck {
    fn frame(&mut self, frame: &ArchiveFrame, report: &mut ExportReport) -> Result<()> {
        let mut at = 0;
        for mark in &frame.marks {
            match mark {
                StreamMark::Begin(path, hash) => {
                    self.file = Some((path.clone(), *hash));
                    self.hasher = Some(blake3::Hasher::new());
                    self.holes = 0;
                }
                StreamMark::Other(length) => at += *length as usize,
                StreamMark::Content(length) => {
                    let bytes = at..at + *length as usize;
                    at = bytes.end;
                    match (&frame.content, &mut self.hasher) {
                        (Some(content), Some(hasher)) => {
                            hasher.update(&content[bytes]);
                        }
                        _ => self.hasher = None,
                    }
                }
                StreamMark::Hole(length) => self.hole(*length),
                StreamMark::End => self.end(report)?,
            }
        }
        Ok(())
    }

    fn hole(&mut self, length: u64) {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        self.holes = self.holes.saturating_add(length);
        if self.holes > HASHED_HOLES {
            self.hasher = None;
        }
        let Some(hasher) = &mut self.hasher else { return };
        let mut left = length;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            hasher.update(&ZEROS[..now as usize]);
            left -= now;
        }
    }

    fn end(&mut self, report: &mut ExportReport) -> Result<()> {
        match (self.file.take(), self.hasher.take()) {
            (Some((path, hash)), Some(hasher)) if Hash::from(&hasher.finalize()) != hash => {
                Err(Error::damage(format!("export {path}"), "its content is not what was stored")
                    .hint("`lastgood verify` lists all damage."))
            }
            (Some(_), None) => {
                report.files_not_hashed += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
