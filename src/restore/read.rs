//! Reads the content of a window: each frame once, neighbouring frames in one read, decoded on all cores.
//!
//! Fetching threads claim reads in order and read ahead, as many at a time as the context allows; before each read one of
//! them fetches the seek table of a pack that comes later. Decoding threads take frames in the same order. The pieces of a
//! file may come in any order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::coalesce::{Coalescer, Read, SlicedFrame};
use super::content::ContentSink;
use super::window::{FrameSlice, Item, ROOM, Window, WindowLimits};
use crate::error::{Code, Error, Kind, Result};
use crate::monitor::Context;
use crate::panics;
use crate::parallel::budget::{ByteBudget, ReservedBytes};
use crate::vault::decoder::Decoder;
use crate::vault::hex::PackId;
use crate::vault::pack::PackKind;
use crate::vault::read::PackReader;

/// Most seek tables that are fetched ahead: small packs come with their tables, and there is little room for them to
/// wait in.
const TABLES: usize = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compressed bytes of frames.
struct FetchedBytes<'w> {
    bytes: Vec<u8>,
    /// Where they begin in the object.
    from: u64,
    pack: PackId,
    _reserved: ReservedBytes<'w>,
}

/// A read that is under way or done.
struct PendingRead<'w> {
    read: Read,
    bytes: Receiver<Result<FetchedBytes<'w>>>,
}

/// Whether none of the file's pieces are in this window.
fn is_empty(item: &Item) -> bool {
    item.left.load(Ordering::Acquire) == 0
}

/// Reads the content of windows into a [`ContentSink`].
pub struct ContentReader<'a> {
    /// Reads the packs.
    pub packs: &'a PackReader<'a>,
    /// The size of reads.
    pub limits: WindowLimits,
    /// Whether a damaged file is given up. Otherwise damage ends all of the work.
    pub skip_damaged: bool,
    /// The number of threads, and the monitor that hears of progress.
    pub ctx: &'a Context<'a>,
}

/// State that the threads of one window share.
struct ReaderShared<'w> {
    window: &'w Window,
    output: &'w dyn ContentSink,
    budget: &'w ByteBudget,
    /// The reads that are still to come, and the channel to the decoders, which the last fetcher drops.
    coalescer: Mutex<(Coalescer<'w>, Option<Sender<PendingRead<'w>>>)>,
    /// The index, among the window's packs, of the pack that is read now, and of the next pack whose table is fetched.
    pack: AtomicUsize,
    next_table: AtomicUsize,
    /// The read whose frames are handed out, its bytes, and the next frame.
    current: Mutex<FrameFeed<'w>>,
    /// The files without pieces, and how many of them are taken.
    empty: Vec<u32>,
    next_empty: AtomicUsize,
    failed: Mutex<Option<Error>>,
    stop: AtomicBool,
}

struct FrameFeed<'w> {
    reads: Receiver<PendingRead<'w>>,
    frames: std::vec::IntoIter<SlicedFrame>,
    bytes: Option<Arc<FetchedBytes<'w>>>,
}

impl FrameFeed<'_> {
    /// Ends the feed: nothing more is handed out.
    fn close(&mut self) {
        *self = FrameFeed { reads: bounded(0).1, frames: Vec::new().into_iter(), bytes: None };
    }
}

/// One frame for a decoding thread.
struct DecodeTask<'w> {
    frame: SlicedFrame,
    bytes: Arc<FetchedBytes<'w>>,
}

impl ContentReader<'_> {
    /// Hands all content of a window to `output`. Afterwards every file that ends in it is there, or `lost`.
    ///
    /// # Errors
    /// A write that fails; a store that fails; damage, unless it is passed over.
    pub fn read(&self, window: &Window, output: &dyn ContentSink) -> Result<()> {
        let parallel = self.ctx.parallel.max(1);
        let (ready, reads) = bounded(parallel);
        let budget = &ByteBudget::new(ROOM);
        let shared = ReaderShared {
            window,
            output,
            budget,
            coalescer: Mutex::new((Coalescer::new(self.packs, window, self.limits), Some(ready))),
            pack: AtomicUsize::new(0),
            next_table: AtomicUsize::new(0),
            current: Mutex::new(FrameFeed { reads, frames: Vec::new().into_iter(), bytes: None }),
            empty: (0..window.items.len() as u32).filter(|&n| is_empty(&window.items[n as usize])).collect(),
            next_empty: AtomicUsize::new(0),
            failed: Mutex::new(None),
            stop: AtomicBool::new(false),
        };
        let decoders = (0..self.ctx.threads.max(1)).map(|_| Decoder::new()).collect::<Result<Vec<_>>>()?;
        let fetching = AtomicUsize::new(parallel);
        std::thread::scope(|scope| {
            for _ in 0..parallel {
                scope.spawn(|| {
                    self.guard(&shared, || self.fetch(&shared));
                    if fetching.fetch_sub(1, Ordering::AcqRel) == 1 {
                        // The last fetcher lets go of the channel, which ends the decoders.
                        lock(&shared.coalescer).1 = None;
                    }
                });
            }
            for mut decoder in decoders {
                let shared = &shared;
                scope.spawn(move || {
                    if !self.guard(shared, || self.decode(shared, &mut decoder)) {
                        // Fetchers must not wait for decoders that are gone.
                        lock(&shared.current).close();
                    }
                });
            }
        });
        match shared.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    /// Does a thread's work. Returns whether it came to its end. If it panics, all threads stop.
    fn guard(&self, shared: &ReaderShared, work: impl FnOnce()) -> bool {
        let done = catch_unwind(AssertUnwindSafe(work));
        done.map_err(|panic| self.fail(shared, panics::error("read the vault", &*panic))).is_ok()
    }

    fn fetch(&self, shared: &ReaderShared) {
        while !shared.stop.load(Ordering::Acquire) {
            self.fetch_table(shared);
            let (send, bytes) = bounded(1);
            let (pack, span, reserved) = {
                let mut coalescer = lock(&shared.coalescer);
                let Some(read) = coalescer.0.next_read() else { return };
                shared.pack.store(read.number as usize, Ordering::Relaxed);
                let (pack, span) = (read.pack, read.span());
                let length = span.last().map_or(0, |last| last.end() - span[0].at);
                // In order, because the lock is held; it waits here when the decoders are behind.
                let reserved = shared.budget.reserve(length);
                match &coalescer.1 {
                    Some(decoders) if decoders.send(PendingRead { read, bytes }).is_ok() => {}
                    _ => return,
                }
                (pack, span, reserved)
            };
            let read = self.packs.compressed(pack, PackKind::Data, &span);
            let from = span.first().map_or(0, |first| first.at);
            // Nobody waits for it any more if the work was stopped.
            let _ = send.send(read.map(|bytes| FetchedBytes { bytes, from, pack, _reserved: reserved }));
        }
    }

    /// Fetches the seek table of a pack that is read soon. Damage to it is reported when the pack's turn comes.
    fn fetch_table(&self, shared: &ReaderShared) {
        let reach =
            (shared.pack.load(Ordering::Relaxed) + self.ctx.parallel.min(TABLES)).min(shared.window.packs.len());
        let next =
            shared.next_table.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < reach).then_some(n + 1));
        if let Ok(next) = next
            && let Err(why) = self.packs.table(shared.window.packs[next], PackKind::Data)
            && why.kind() != Kind::Damage
        {
            self.fail(shared, why);
        }
    }

    fn decode(&self, shared: &ReaderShared, decoder: &mut Decoder) {
        while let Some(&n) = shared.empty.get(shared.next_empty.fetch_add(1, Ordering::Relaxed))
            && !shared.stop.load(Ordering::Acquire)
        {
            self.end(shared, &shared.window.items[n as usize]);
        }
        let mut content = Vec::new();
        while let Some(task) = self.next(shared) {
            if let Err(why) = self.ctx.check("restore") {
                self.fail(shared, why);
            }
            let (frame, FetchedBytes { bytes, from, pack, .. }) = (&task.frame.at, &*task.bytes);
            let decoded = match shared.stop.load(Ordering::Acquire) {
                true => Err(Error::failed("restore", "it was stopped").with_code(Code::Stopped)),
                false => {
                    let compressed = frame.within(bytes, *from);
                    self.packs.decode((*pack, PackKind::Data), frame, compressed, decoder, &mut content)
                }
            };
            match decoded {
                Ok(()) => self.hand_out(shared, &task.frame.cuts, &content),
                Err(why) => {
                    let cuts = task.frame.cuts.iter().map(|cut| (cut.item, u64::from(cut.length)));
                    self.lose(shared, cuts, why);
                }
            }
        }
    }

    /// Takes the next frame. `None` when all are handed out.
    fn next<'w>(&self, shared: &ReaderShared<'w>) -> Option<DecodeTask<'w>> {
        let mut feed = lock(&shared.current);
        loop {
            if let Some(bytes) = feed.bytes.clone()
                && let Some(frame) = feed.frames.next()
            {
                return Some(DecodeTask { frame, bytes });
            }
            feed.bytes = None;
            let fetched = feed.reads.recv().ok()?;
            if let Some((pieces, why)) = fetched.read.lost {
                self.lose(shared, pieces.iter().map(|p| (p.item, p.length)), why);
            }
            let gone = |_| Error::failed("read the vault", "a reading thread ended early").with_code(Code::Internal);
            match fetched.bytes.recv().map_err(gone).flatten() {
                Ok(bytes) => {
                    feed.bytes = Some(Arc::new(bytes));
                    feed.frames = fetched.read.frames.into_iter();
                }
                Err(why) => {
                    let cuts = fetched.read.frames.iter().flat_map(|f| &f.cuts);
                    self.lose(shared, cuts.map(|cut| (cut.item, u64::from(cut.length))), why);
                }
            }
        }
    }

    fn hand_out(&self, shared: &ReaderShared, cuts: &[FrameSlice], content: &[u8]) {
        let mut bytes = 0;
        for cuts in cuts.chunk_by(|a, b| a.item == b.item) {
            let item = &shared.window.items[cuts[0].item as usize];
            let length = cuts.iter().map(|cut| u64::from(cut.length)).sum();
            if item.lost.get().is_none() {
                // A cut lies in its frame, whose content has the length that its table says: the decoder checked.
                if let Err(why) = item.take(cuts, content, shared.output) {
                    self.give_up(shared, item, why);
                }
                bytes += length;
            }
            self.count(shared, item, length);
        }
        self.ctx.monitor.advance(bytes);
    }

    fn lose(&self, shared: &ReaderShared, parts: impl Iterator<Item = (u32, u64)>, why: Error) {
        let text = why.to_string();
        if !self.skip_damaged || why.kind() != Kind::Damage {
            self.fail(shared, why);
        }
        for (item, length) in parts {
            let item = &shared.window.items[item as usize];
            item.lose(text.clone());
            self.count(shared, item, length);
        }
    }

    /// Counts down what is to come of a file, and ends it after the last piece.
    fn count(&self, shared: &ReaderShared, item: &Item, length: u64) {
        if item.left.fetch_sub(length, Ordering::AcqRel) == length {
            self.end(shared, item);
        }
    }

    fn end(&self, shared: &ReaderShared, item: &Item) {
        if item.needs_end()
            && let Err(why) = item.end(shared.output, self.ctx)
        {
            self.give_up(shared, item, why);
        }
        if item.last
            && item.lost.get().is_some()
            && let Err(why) = item.discard(shared.output)
        {
            self.fail(shared, why);
        }
    }

    fn give_up(&self, shared: &ReaderShared, item: &Item, why: Error) {
        item.lose(why.to_string());
        if !self.skip_damaged || why.kind() != Kind::Damage {
            self.fail(shared, why);
        }
    }

    /// Stops all threads; the first reason is the one that is reported.
    fn fail(&self, shared: &ReaderShared, why: Error) {
        lock(&shared.failed).get_or_insert(why);
        shared.stop.store(true, Ordering::Release);
    }
}
