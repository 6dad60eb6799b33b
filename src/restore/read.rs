//! Reading the content of a window: each frame once, neighbouring frames in one read, decoded on all cores.
//!
//! Fetching threads claim reads in order and read ahead; decoding threads take frames in the same order. The pieces of a
//! file may come in any order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::content::{Cut, Output};
use super::plan::{Item, Limits, Piece, Window};
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::vault::hex::PackId;
use crate::vault::pack::{self, FrameAt, PackKind, SeekTable};
use crate::vault::read::{Decoder, PackReader};

/// Threads that fetch, and reads that are ahead of the decoders.
const AHEAD: usize = 2;
/// A read ends when so many pieces lie in its frames.
const CUTS: usize = 32 << 10;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frame and the pieces that lie in it.
struct Frame {
    at: FrameAt,
    cuts: Vec<Cut>,
}

/// Frames that are fetched in one read.
struct Read {
    pack: PackId,
    frames: Vec<Frame>,
    /// Pieces that cannot be read at all, and why.
    lost: Option<(Vec<Piece>, Error)>,
}

/// A read that is under way or done.
struct Fetched {
    read: Read,
    bytes: Receiver<Result<Vec<u8>>>,
}

/// Cuts a window into reads, lazily: pieces over very many tiny frames take no memory ahead of time.
struct Gather<'w> {
    packs: &'w PackReader<'w>,
    limits: Limits,
    window: &'w Window,
    /// The piece that is next.
    next: usize,
    table: Option<Arc<SeekTable>>,
    /// The next frame of the pack, and the pieces that reach into it from before.
    frame: usize,
    open: Vec<Piece>,
}

impl Gather<'_> {
    fn new<'w>(packs: &'w PackReader<'w>, window: &'w Window, limits: Limits) -> Gather<'w> {
        Gather { packs, limits, window, next: 0, table: None, frame: 0, open: Vec::new() }
    }

    /// The next read; none when the window's pieces are all handed out.
    fn next(&mut self) -> Option<Read> {
        let number = match (self.open.first(), self.window.pieces.get(self.next)) {
            (Some(piece), _) => piece.pack,
            (None, Some(piece)) => {
                if self.next == 0 || self.window.pieces[self.next - 1].pack != piece.pack {
                    self.table = None;
                }
                piece.pack
            }
            (None, None) => return None,
        };
        let pack = self.window.packs[number as usize];
        let table = match &self.table {
            Some(table) => table.clone(),
            None => match self.packs.table(pack, PackKind::Data) {
                Ok(table) => {
                    self.frame = 0;
                    self.table.insert(table).clone()
                }
                Err(why) => {
                    let all = self.window.pieces[self.next..].iter().take_while(|p| p.pack == number);
                    let lost: Vec<_> = all.copied().collect();
                    self.next += lost.len();
                    return Some(Read { pack, frames: Vec::new(), lost: Some((lost, why)) });
                }
            },
        };
        Some(self.in_pack(pack, number, &table))
    }

    fn in_pack(&mut self, pack: PackId, number: u32, table: &SeekTable) -> Read {
        let mut read = Read { pack, frames: Vec::new(), lost: None };
        let (mut cuts, mut from) = (0, 0);
        loop {
            let next = self.window.pieces.get(self.next).filter(|p| p.pack == number);
            if self.open.is_empty() {
                let Some(piece) = next else { break };
                // Nothing reaches over: go on at the frame where the next piece begins.
                match table.covering(piece.offset, piece.length) {
                    Some(range) => self.frame = range.start,
                    None => {
                        let name = pack::name(PackKind::Data, pack);
                        let why = Error::damage(format!("read {name}"), "an entry refers to what lies beyond its end");
                        if read.frames.is_empty() {
                            read.lost = Some((vec![*piece], why));
                            self.next += 1;
                        }
                        break;
                    }
                }
            }
            // A piece in range always has its frames; without one there is nothing left to cut.
            let Some(&at) = table.frames().get(self.frame) else { break };
            let end = at.offset + u64::from(at.length);
            if let Some(last) = read.frames.last().map(|f: &Frame| f.at.at + u64::from(f.at.compressed)) {
                let far = at.at - last > self.limits.gap;
                if far || at.at + u64::from(at.compressed) - from > self.limits.read || cuts >= CUTS {
                    break;
                }
            } else {
                from = at.at;
            }
            while let Some(piece) = self.window.pieces.get(self.next).filter(|p| p.pack == number && p.offset < end) {
                if table.covering(piece.offset, piece.length).is_none() {
                    break;
                }
                self.open.push(*piece);
                self.next += 1;
            }
            let frame = Frame { at, cuts: self.open.iter().map(|piece| Self::cut(piece, &at)).collect() };
            self.open.retain(|piece| piece.offset + piece.length > end);
            cuts += frame.cuts.len();
            read.frames.push(frame);
            self.frame += 1;
        }
        read
    }

    /// The part of a piece that lies in a frame.
    fn cut(piece: &Piece, frame: &FrameAt) -> Cut {
        let start = piece.offset.max(frame.offset);
        let end = (piece.offset + piece.length).min(frame.offset + u64::from(frame.length));
        let at = piece.at + (start - piece.offset);
        Cut { item: piece.item, from: (start - frame.offset) as u32, length: (end - start) as u32, at }
    }
}

/// Whether no piece of this window is the file's.
fn is_empty(item: &Item) -> bool {
    item.left.load(Ordering::Acquire) == 0
}

/// Reads the content of windows into an [`Output`].
pub struct Reader<'a> {
    /// Reads the packs.
    pub packs: &'a PackReader<'a>,
    /// The size of reads.
    pub limits: Limits,
    /// Whether a damaged file is given up, or all of the work.
    pub skip_damaged: bool,
    /// Threads, and who hears of progress.
    pub ctx: &'a Context<'a>,
}

/// What the threads of one window share.
struct Shared<'w> {
    window: &'w Window,
    output: &'w dyn Output,
    /// What is still to be read, and where the decoders get it; the last fetcher takes that away.
    gather: Mutex<(Gather<'w>, Option<Sender<Fetched>>)>,
    /// The read whose frames are handed out, its bytes, and the next frame.
    current: Mutex<Feed>,
    /// The files without pieces, and how many of them are taken.
    empty: Vec<u32>,
    next_empty: AtomicUsize,
    failed: Mutex<Option<Error>>,
    stop: AtomicBool,
}

struct Feed {
    reads: Receiver<Fetched>,
    frames: std::vec::IntoIter<Frame>,
    bytes: Arc<Vec<u8>>,
    from: u64,
    pack: PackId,
}

/// One frame for a decoding thread.
struct Task {
    frame: Frame,
    bytes: Arc<Vec<u8>>,
    from: u64,
    pack: PackId,
}

impl Reader<'_> {
    /// Hands all content of a window to `output`. Afterwards every file that ends in it is there, or `lost`.
    ///
    /// # Errors
    /// What could not be written; a store that fails; damage, unless it is passed over.
    pub fn read(&self, window: &Window, output: &dyn Output) -> Result<()> {
        let (ready, reads) = bounded(AHEAD);
        let feed =
            Feed { reads, frames: Vec::new().into_iter(), bytes: Arc::default(), from: 0, pack: PackId::of(&[]) };
        let shared = Shared {
            window,
            output,
            gather: Mutex::new((Gather::new(self.packs, window, self.limits), Some(ready))),
            current: Mutex::new(feed),
            empty: (0..window.items.len() as u32).filter(|&n| is_empty(&window.items[n as usize])).collect(),
            next_empty: AtomicUsize::new(0),
            failed: Mutex::new(None),
            stop: AtomicBool::new(false),
        };
        let decoders = (0..self.ctx.threads.max(1)).map(|_| Decoder::new()).collect::<Result<Vec<_>>>()?;
        let fetching = AtomicUsize::new(AHEAD);
        std::thread::scope(|scope| {
            for _ in 0..AHEAD {
                scope.spawn(|| {
                    self.fetch(&shared);
                    if fetching.fetch_sub(1, Ordering::AcqRel) == 1 {
                        // The last fetcher lets go of the channel, which ends the decoders.
                        lock(&shared.gather).1 = None;
                    }
                });
            }
            for mut decoder in decoders {
                let shared = &shared;
                scope.spawn(move || self.decode(shared, &mut decoder));
            }
        });
        match shared.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    fn fetch(&self, shared: &Shared) {
        while !shared.stop.load(Ordering::Acquire) {
            let (send, bytes) = bounded(1);
            let wanted = {
                let mut gather = lock(&shared.gather);
                let Some(read) = gather.0.next() else { return };
                let span: Vec<_> = read.frames.first().into_iter().chain(read.frames.last()).map(|f| f.at).collect();
                let pack = read.pack;
                // In order, because the lock is held; it waits here when the decoders are behind.
                match &gather.1 {
                    Some(decoders) if decoders.send(Fetched { read, bytes }).is_ok() => {}
                    _ => return,
                }
                (pack, span)
            };
            let read = self.packs.compressed(wanted.0, PackKind::Data, &wanted.1);
            // Nobody waits for it any more when the work was stopped.
            let _ = send.send(read);
        }
    }

    fn decode(&self, shared: &Shared, decoder: &mut Decoder) {
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
            let damage = |why| Error::damage(format!("read {}", pack::name(PackKind::Data, task.pack)), why);
            let at = (task.frame.at.at - task.from) as usize;
            let compressed = task.bytes.get(at..at + task.frame.at.compressed as usize).unwrap_or_default();
            let decoded = match shared.stop.load(Ordering::Acquire) {
                true => Err(Error::failed("restore", "it was stopped")),
                false => decoder.frame(compressed, task.frame.at.length, &mut content).map_err(damage),
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

    /// The next frame; none when all are handed out.
    fn next(&self, shared: &Shared) -> Option<Task> {
        let mut feed = lock(&shared.current);
        loop {
            if let Some(frame) = feed.frames.next() {
                return Some(Task { frame, bytes: feed.bytes.clone(), from: feed.from, pack: feed.pack });
            }
            feed.bytes = Arc::default();
            let fetched = feed.reads.recv().ok()?;
            if let Some((pieces, why)) = fetched.read.lost {
                self.lose(shared, pieces.iter().map(|p| (p.item, p.length)), why);
            }
            let gone = |_| Error::failed("read the vault", "a reading thread ended early");
            match fetched.bytes.recv().map_err(gone).flatten() {
                Ok(bytes) => {
                    feed.from = fetched.read.frames.first().map_or(0, |f| f.at.at);
                    feed.bytes = Arc::new(bytes);
                    feed.pack = fetched.read.pack;
                    feed.frames = fetched.read.frames.into_iter();
                }
                Err(why) => {
                    let cuts = fetched.read.frames.iter().flat_map(|f| &f.cuts);
                    self.lose(shared, cuts.map(|cut| (cut.item, u64::from(cut.length))), why);
                }
            }
        }
    }

    fn hand_out(&self, shared: &Shared, cuts: &[Cut], content: &[u8]) {
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

    fn lose(&self, shared: &Shared, parts: impl Iterator<Item = (u32, u64)>, why: Error) {
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
    fn count(&self, shared: &Shared, item: &Item, length: u64) {
        if item.left.fetch_sub(length, Ordering::AcqRel) == length {
            self.end(shared, item);
        }
    }

    fn end(&self, shared: &Shared, item: &Item) {
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

    fn give_up(&self, shared: &Shared, item: &Item, why: Error) {
        item.lose(why.to_string());
        if !self.skip_damaged || why.kind() != Kind::Damage {
            self.fail(shared, why);
        }
    }

    /// Stops all threads; the first reason is the one that is told.
    fn fail(&self, shared: &Shared, why: Error) {
        lock(&shared.failed).get_or_insert(why);
        shared.stop.store(true, Ordering::Release);
    }
}
