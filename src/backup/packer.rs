//! Puts bytes into frames, frames into packs, and packs into the store.
//!
//! Frames are compressed by several threads at once; a pack is stored when its last frame is compressed. The threads live
//! only inside [`with_packer`], and what was written is durable when [`Packer::drain`] returns, so a root that is written
//! after it never names a pack that is not there.
//!
//! When a data pack cannot be stored, the index can still be written: [`Packer::rescue`] gives up the data packs that
//! are not durable, so that the ones that are can still be named.

mod pack_writer;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use zstd::zstd_safe::CParameter;

pub use self::pack_writer::PackWriter;
use crate::error::{Code, Error, Result};
use crate::monitor::Context;
use crate::store::{self, Staging, Store};
use crate::vault::hex::{Hex, PackId};
use crate::vault::pack::{MAX_FRAME, PackInfo, PackKind, write_table};

/// Size of a pack in bytes at which it is closed, about; smaller if many packs are stored at the same time.
const PACK_SIZE: u64 = 16 << 20;
/// Bytes that the packs that are being stored and the one that is being filled may take together.
const PACKS_SIZE: u64 = 48 << 20;
/// Smallest size at which a pack is closed, in bytes: one frame can be as large.
const SMALLEST_PACK: u64 = MAX_FRAME as u64;
/// Largest size of a pack in bytes: it is closed before it can exceed this, however badly the unfinished frames
/// compress.
const PACK_LIMIT: u64 = 30 << 20;
/// Bytes of content at which a pack is closed: even a snapshot of zeros is made of small frames and seek tables.
const PACK_CONTENT: u64 = 1 << 30;
/// zstd's level if none is given.
pub const DEFAULT_LEVEL: i32 = 3;
/// Shortest match in bytes that zstd looks for at the default level, instead of its own 5: short matches cost it time
/// and, in numbers, logs and database pages, gain little. See `benches/README.md`: a third faster on an app's data,
/// and no larger there, on small files or on sources.
const MIN_MATCH: u32 = 6;

/// Returns how many packs are stored at the same time, and about how large each becomes, in bytes.
///
/// The packs that are being stored and the one that is being filled take the same memory, however many they are. Two
/// of 16 MiB keep a disk busy. A network takes more streams to fill, and smaller packs serve it just as well, since
/// none waits for another's request; with more than eleven, each would have to be smaller than a frame can be.
fn uploads(parallel: usize) -> (usize, u64) {
    let size = (PACKS_SIZE / (parallel as u64 + 1)).clamp(SMALLEST_PACK, PACK_SIZE);
    (parallel.clamp(1, (PACKS_SIZE / size) as usize - 1), size)
}

/// A pack that is being filled.
struct OpenPack {
    id: PackId,
    kind: PackKind,
    frames: Mutex<PackFrames>,
    /// Compressed bytes of the finished frames; `content_done` counts the content that they came from.
    compressed: AtomicU64,
    content_done: AtomicU64,
}

#[derive(Default)]
struct PackFrames {
    /// Compressed bytes and length of the content of each frame, in the order of the pack; `None` until it is
    /// compressed.
    done: Vec<Option<(Vec<u8>, u32)>>,
    missing: usize,
    closed: bool,
}

/// One frame to be compressed.
struct CompressJob {
    pack: Arc<OpenPack>,
    place: usize,
    content: Vec<u8>,
}

/// State that all threads of a packer share.
#[derive(Default)]
struct PackerShared {
    state: Mutex<PackerState>,
    changed: Condvar,
    /// Any pack could not be stored.
    failed: AtomicBool,
    /// A data pack could not be stored: the ones that are not durable yet are given up.
    data_failed: AtomicBool,
    /// An index pack could not be stored: only this stops the index.
    index_failed: AtomicBool,
    /// Bytes of all packs stored so far.
    bytes: AtomicU64,
    /// Data packs are no longer stored.
    given_up: AtomicBool,
    /// A thread ended or cannot work: waiting for it would never end.
    broken: AtomicBool,
    /// The store for the last index packs, if the previous one no longer works.
    last: OnceLock<Box<dyn Store>>,
}

#[derive(Default)]
struct PackerState {
    error: Option<Error>,
    /// Packs that are begun and not yet durable.
    pending: HashMap<PackId, PackKind>,
    /// How many packs are being stored.
    storing: usize,
    /// Index packs that could not be stored, with all their frames.
    unsaved: Vec<Arc<OpenPack>>,
    stored: Vec<PackInfo>,
}

/// Counts a pack as being stored for as long as this value lives.
struct Storing<'s>(&'s PackerShared);

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).storing -= 1;
        self.0.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PackerShared {
    /// Does a thread's work. If it panics, whoever waits for the thread's results is told.
    fn guard(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.record_broken(Error::failed("store a pack", "a thread ended in a panic").with_code(Code::Internal));
        }
    }

    /// Records that a thread cannot go on.
    fn record_broken(&self, why: Error) {
        self.broken.store(true, Ordering::Relaxed);
        self.fail(why, PackKind::Index);
    }

    fn fail(&self, why: Error, kind: PackKind) {
        let mut state = lock(&self.state);
        state.error.get_or_insert(why);
        // The flag is set only now, so that whoever sees it finds the error.
        match kind {
            PackKind::Data => &self.data_failed,
            PackKind::Index => &self.index_failed,
        }
        .store(true, Ordering::Relaxed);
        self.failed.store(true, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether a pack is no longer to be stored after a failure. Index packs always are: they may still be needed.
    fn is_lost(&self, pack: &OpenPack) -> bool {
        let lost = self.data_failed.load(Ordering::Relaxed) || self.given_up.load(Ordering::Relaxed);
        pack.kind == PackKind::Data && lost
    }

    /// Counts a pack as being stored. `None` if it is not to be stored any more.
    fn begin(&self, pack: &OpenPack) -> Option<Storing<'_>> {
        let mut state = lock(&self.state);
        if self.is_lost(pack) {
            return None;
        }
        state.storing += 1;
        Some(Storing(self))
    }

    fn check(&self, kind: PackKind) -> Result<()> {
        let failed = match kind {
            PackKind::Data => &self.failed,
            PackKind::Index => &self.index_failed,
        };
        if !failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        // The first caller gets the error itself; any later one learns that there was one.
        let first = lock(&self.state).error.take();
        Err(first.unwrap_or_else(|| Error::failed("store a pack", "an earlier pack could not be stored")))
    }
}

/// Hands frames to the threads and returns which packs became durable. There is one for a whole run.
pub struct Packer<'p> {
    jobs: Sender<CompressJob>,
    packs: Sender<Arc<OpenPack>>,
    shared: &'p PackerShared,
    /// Buffers that the compressing threads hand back for reuse.
    buffers: Receiver<Vec<u8>>,
    /// Size in bytes at which a pack is closed, about.
    pack_size: u64,
    /// Most packs at the same time: the ones that are being stored, one data pack and one index pack that are being
    /// filled.
    max_pending: usize,
    random: &'p (dyn Fn(&mut [u8]) -> Result<()> + Sync),
}

/// Runs `work` with a packer whose threads end when `work` does.
///
/// # Errors
/// Returns the errors of `work`; fails if the store does.
pub fn with_packer<T>(
    store: &dyn Staging,
    level: i32,
    ctx: &Context,
    work: impl FnOnce(&Packer) -> Result<T>,
) -> Result<T> {
    let shared = &PackerShared::default();
    let (uploads, pack_size) = uploads(ctx.parallel);
    std::thread::scope(|scope| {
        // One frame waits for each thread; more would only take memory.
        let (jobs, to_compress) = bounded::<CompressJob>(ctx.threads);
        let (packs, to_store) = bounded::<Arc<OpenPack>>(0);
        let (emptied, buffers) = bounded(2 * ctx.threads + 1);
        for _ in 0..ctx.threads {
            let (jobs, packs, emptied) = (to_compress.clone(), packs.clone(), emptied.clone());
            scope.spawn(move || shared.guard(|| compress_all(&jobs, &packs, &emptied, level, shared)));
        }
        for _ in 0..uploads {
            let packs = to_store.clone();
            scope.spawn(move || shared.guard(|| store_all(&packs, store, shared)));
        }
        drop((to_compress, to_store, emptied));
        work(&Packer { jobs, packs, shared, buffers, pack_size, max_pending: uploads + 2, random: ctx.random })
    })
}

fn compress_all(
    jobs: &Receiver<CompressJob>,
    packs: &Sender<Arc<OpenPack>>,
    emptied: &Sender<Vec<u8>>,
    level: i32,
    shared: &PackerShared,
) {
    let mut compressor = match compressor(level) {
        Ok(compressor) => Some(compressor),
        Err(why) => {
            shared.record_broken(why);
            None
        }
    };
    let mut out = Vec::new();
    for job in jobs {
        let CompressJob { pack, place, mut content } = job;
        let Some(compressor) = compressor.as_mut().filter(|_| !shared.is_lost(&pack)) else { continue };
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(content.len()));
        if let Err(why) = compressor.compress_to_buffer(&content, &mut out) {
            shared.record_broken(Error::failed("compress a frame", why).with_code(Code::Internal));
            continue;
        }
        let length = content.len() as u32;
        pack.compressed.fetch_add(out.len() as u64, Ordering::Relaxed);
        pack.content_done.fetch_add(u64::from(length), Ordering::Relaxed);
        let whole = {
            let mut frames = lock(&pack.frames);
            frames.done[place] = Some((out.as_slice().to_vec(), length));
            frames.missing -= 1;
            frames.closed && frames.missing == 0
        };
        content.clear();
        // A buffer that nobody waits for is simply freed.
        let _ = emptied.try_send(content);
        if whole && packs.send(pack).is_err() {
            shared.record_broken(storing_ended());
        }
    }
}

fn compressor(level: i32) -> Result<zstd::bulk::Compressor<'static>> {
    let start = || -> std::io::Result<_> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        if level == DEFAULT_LEVEL {
            compressor.set_parameter(CParameter::MinMatch(MIN_MATCH))?;
        }
        Ok(compressor)
    };
    start().map_err(|why| Error::failed(format!("start zstd at level {level}"), why))
}

fn store_all(packs: &Receiver<Arc<OpenPack>>, staging: &dyn Staging, shared: &PackerShared) {
    for pack in packs {
        let Some(_storing) = shared.begin(&pack) else { continue };
        let put = |name: &str, body: &[&[u8]]| match shared.last.get() {
            None => staging.put(name, body),
            // The previous attempt may have succeeded.
            Some(last) => match last.create(name, body) {
                Err(store::StoreError::AlreadyExists { .. }) => Ok(()),
                done => done,
            },
        };
        match store_pack(&pack, put) {
            Ok(info) => {
                shared.bytes.fetch_add(info.size, Ordering::Relaxed);
                let mut state = lock(&shared.state);
                state.stored.push(info);
                state.pending.remove(&pack.id);
            }
            Err(why) => {
                let kind = pack.kind;
                if kind == PackKind::Index {
                    lock(&shared.state).unsaved.push(pack);
                }
                shared.fail(why, kind);
            }
        }
    }
}

/// The error that no thread is left to store a pack.
fn storing_ended() -> Error {
    Error::failed("store a pack", "the storing threads ended early").with_code(Code::Internal)
}

/// Stores a pack. If that fails, the pack keeps its frames.
fn store_pack(pack: &OpenPack, put: impl FnOnce(&str, &[&[u8]]) -> store::Result<()>) -> Result<PackInfo> {
    let done = std::mem::take(&mut lock(&pack.frames).done);
    let frames: Vec<&(Vec<u8>, u32)> = done.iter().flatten().collect();
    let table = write_table(frames.iter().map(|(bytes, length)| (bytes.len() as u32, *length)));
    let body: Vec<&[u8]> = frames.iter().map(|(bytes, _)| bytes.as_slice()).chain([table.as_slice()]).collect();
    let info = PackInfo {
        id: pack.id,
        kind: pack.kind,
        size: body.iter().map(|b| b.len() as u64).sum(),
        content: frames.iter().map(|(_, length)| u64::from(*length)).sum(),
        crc32c: body.iter().fold(0, |crc, chunk| crc32c::crc32c_append(crc, chunk)),
    };
    let put = put(&info.name(), &body).map_err(|e| e.while_doing(format!("store {}", info.name())));
    if put.is_err() {
        lock(&pack.frames).done = done;
    }
    put.map(|()| info)
}

impl Packer<'_> {
    /// Waits until all closed packs are durable. Returns the packs that became durable since the last call.
    ///
    /// # Errors
    /// Fails if the store failed.
    pub fn drain(&self) -> Result<Vec<PackInfo>> {
        let mut state = lock(&self.shared.state);
        while !state.pending.is_empty() && !self.shared.failed.load(Ordering::Relaxed) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.shared.check(PackKind::Data)?;
        Ok(std::mem::take(&mut lock(&self.shared.state).stored))
    }

    /// Waits until all data packs are durable, or one of them cannot be stored. No data pack may be open; an index
    /// pack may be open, or may have failed. Returns the packs that became durable since the last call.
    pub fn drain_data(&self) -> Vec<PackInfo> {
        let over = || self.shared.data_failed.load(Ordering::Relaxed) || self.shared.broken.load(Ordering::Relaxed);
        let mut state = lock(&self.shared.state);
        while state.pending.values().any(|kind| *kind == PackKind::Data) && !over() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.stored)
    }

    /// Gives up the data packs that are not durable after a failure. Stores the index packs, including the ones that
    /// failed, into `last` or, if that is `None`, as before. Returns the packs that became durable since the last
    /// [`drain`](Self::drain).
    ///
    /// # Errors
    /// Fails if a thread cannot go on.
    pub fn rescue(&self, last: Option<Box<dyn Store>>) -> Result<Vec<PackInfo>> {
        if let Some(last) = last {
            // A packer is rescued only once.
            let _ = self.shared.last.set(last);
        }
        let mut state = lock(&self.shared.state);
        self.shared.given_up.store(true, Ordering::Relaxed);
        while state.storing > 0 {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if self.shared.broken.load(Ordering::Relaxed) {
            return Err(Error::failed("go on storing the index", "a thread that stores packs ended early")
                .with_code(Code::Internal));
        }
        state.pending.retain(|_, kind| *kind == PackKind::Index);
        state.error = None;
        self.shared.failed.store(false, Ordering::Relaxed);
        self.shared.index_failed.store(false, Ordering::Relaxed);
        let (unsaved, stored) = (std::mem::take(&mut state.unsaved), std::mem::take(&mut state.stored));
        drop(state);
        for pack in unsaved {
            if self.packs.send(pack).is_err() {
                return Err(storing_ended());
            }
        }
        Ok(stored)
    }

    /// Returns the bytes of all packs stored so far.
    pub fn stored_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Whether a data pack could not be stored.
    pub fn data_failed(&self) -> bool {
        self.shared.data_failed.load(Ordering::Relaxed)
    }

    fn open(&self, kind: PackKind) -> Result<Arc<OpenPack>> {
        let mut id = [0; 16];
        (self.random)(&mut id)?;
        let mut state = lock(&self.shared.state);
        // At most one pack of each kind is open, so the others are on their way to the store and become durable
        // without this thread.
        while state.pending.len() >= self.max_pending && !self.shared.failed.load(Ordering::Relaxed) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.pending.insert(Hex(id), kind);
        drop(state);
        self.shared.check(kind)?;
        Ok(Arc::new(OpenPack {
            id: Hex(id),
            kind,
            frames: Mutex::default(),
            compressed: AtomicU64::new(0),
            content_done: AtomicU64::new(0),
        }))
    }
}

#[cfg(test)]
mod tests;
