//! A file's content on its way out: where it goes, and whether it is what was stored.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::plan::Item;
use crate::error::{Error, Result};
use crate::monitor::Context;
use crate::vault::entry::Entry;
use crate::vault::hex::Hash;

/// Takes the content of files. Called from several threads; of one file never twice at once for the same bytes.
pub trait Output: Sync {
    /// A file's whole content, which is what was stored.
    ///
    /// # Errors
    /// What could not be written.
    fn whole(&self, entry: &Entry, bytes: &[u8]) -> Result<()>;
    /// Begins a file whose content comes in pieces; what no piece covers is zeros.
    ///
    /// # Errors
    /// What could not be made.
    fn begin(&self, entry: &Entry) -> Result<()>;
    /// A piece of a file that has begun.
    ///
    /// # Errors
    /// What could not be written.
    fn piece(&self, entry: &Entry, at: u64, bytes: &[u8]) -> Result<()>;
    /// The hash of a file whose pieces have all come, out of order.
    ///
    /// # Errors
    /// What could not be read.
    fn read_back(&self, entry: &Entry) -> Result<Hash>;
    /// Ends a file that came in pieces and is what was stored.
    ///
    /// # Errors
    /// What could not be written.
    fn end(&self, entry: &Entry) -> Result<()>;
    /// Forgets a file that began and cannot be whole.
    ///
    /// # Errors
    /// What could not be removed.
    fn discard(&self, entry: &Entry) -> Result<()>;
}

/// A file that does not come in one piece.
#[derive(Debug, Default)]
pub struct Progress {
    so_far: Mutex<SoFar>,
    turn: Condvar,
    /// Some piece came after one that lies behind it: the hash has to be made at the end.
    pub disorder: AtomicBool,
    /// Where the last piece that was handed out ends; used by who hands them out.
    pub handed_out: std::sync::atomic::AtomicU64,
}

#[derive(Debug, Default)]
struct SoFar {
    began: bool,
    /// Only while it is used: it is large, and there may be many files.
    hasher: Option<Box<blake3::Hasher>>,
    hashed: u64,
}

impl SoFar {
    fn hasher(&mut self) -> &mut blake3::Hasher {
        self.hasher.get_or_insert_default()
    }
}

/// A piece of content in a decoded frame.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The file's place in the window.
    pub item: u32,
    /// Where it begins in the frame's content, in bytes.
    pub from: u32,
    /// Its length in bytes.
    pub length: u32,
    /// Where it begins in the file.
    pub at: u64,
    /// Where the piece before it ends when the pieces come in order; none when they do not.
    pub after: Option<u64>,
}

/// What is wrong with a file whose bytes were all there. One of its packs is not the one that was stored.
pub fn not_the_same(entry: &Entry) -> Error {
    let mut packs: Vec<_> = entry.content_extents().iter().filter_map(|extent| extent.pack).collect();
    packs.extend(entry.map.iter().flat_map(|map| &map.packs));
    packs.dedup();
    let more = if packs.len() > 3 { " and others" } else { "" };
    let names: Vec<_> = packs.iter().take(3).map(|pack| pack.to_string()).collect();
    let why = format!("its content is not what was stored (its hash differs); it is in {}{more}", names.join(", "));
    Error::damage(format!("read {}", entry.path), why)
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Item {
    /// Takes a piece of the file.
    ///
    /// # Errors
    /// Damage; what could not be written.
    pub fn take(&self, cut: &Cut, bytes: &[u8], output: &dyn Output) -> Result<()> {
        if cut.at == 0 && bytes.len() as u64 == self.entry.size {
            if Some(Hash::of(bytes)) != self.entry.hash {
                return Err(not_the_same(&self.entry));
            }
            output.whole(&self.entry, bytes)?;
            self.done.store(true, Ordering::Release);
            return Ok(());
        }
        let progress = self.progress.get_or_init(Arc::default);
        self.begin(progress, output)?;
        output.piece(&self.entry, cut.at, bytes)?;
        let Some(after) = cut.after else { return Ok(()) };
        // The piece before this one was handed out before it: it is done, or another thread works on it, and tells.
        let mut so_far = progress.lock();
        while so_far.hashed != after && self.lost.get().is_none() {
            so_far = progress.turn.wait(so_far).unwrap_or_else(PoisonError::into_inner);
        }
        if self.lost.get().is_some() {
            return Ok(());
        }
        zeros(so_far.hasher(), cut.at - after);
        so_far.hasher().update(bytes);
        so_far.hashed = cut.at + bytes.len() as u64;
        drop(so_far);
        progress.turn.notify_all();
        Ok(())
    }

    fn begin(&self, progress: &Progress, output: &dyn Output) -> Result<()> {
        let mut so_far = progress.lock();
        if !so_far.began {
            output.begin(&self.entry)?;
            so_far.began = true;
        }
        Ok(())
    }

    /// Gives the file up, and wakes who waits for a piece of it.
    pub fn lose(&self, why: String) {
        let Some(progress) = self.progress.get() else {
            // The first reason stays.
            let _ = self.lost.set(why);
            return;
        };
        let held = progress.lock();
        let _ = self.lost.set(why);
        drop(held);
        progress.turn.notify_all();
    }

    /// Ends a file whose pieces have all come: checks its hash.
    ///
    /// # Errors
    /// Damage; what could not be written.
    pub fn end(&self, output: &dyn Output, ctx: &Context) -> Result<()> {
        if self.entry.size == 0 {
            return match Some(Hash::of(&[])) == self.entry.hash {
                true => output.whole(&self.entry, &[]),
                false => Err(not_the_same(&self.entry)),
            };
        }
        let progress = self.progress.get_or_init(Arc::default);
        self.begin(progress, output)?;
        let hash = if progress.disorder.load(Ordering::Acquire) {
            output.read_back(&self.entry)?
        } else {
            let mut so_far = progress.lock();
            let mut hole = self.entry.size - so_far.hashed;
            while hole > 0 {
                ctx.check("restore a hole")?;
                let step = hole.min(1 << 30);
                zeros(so_far.hasher(), step);
                hole -= step;
            }
            let hash = Hash::from(&so_far.hasher().finalize());
            so_far.hasher = None;
            hash
        };
        if Some(hash) != self.entry.hash {
            return Err(not_the_same(&self.entry));
        }
        output.end(&self.entry)
    }

    /// Whether [`Item::end`] has to be called when the last piece of the last window has come.
    pub fn needs_end(&self) -> bool {
        self.last && self.lost.get().is_none() && !self.done.load(Ordering::Acquire)
    }

    /// Removes what there is of a file that was given up.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn discard(&self, output: &dyn Output) -> Result<()> {
        match self.progress.get().is_some_and(|progress| progress.lock().began) {
            true => output.discard(&self.entry),
            false => Ok(()),
        }
    }
}

/// Hashes so many zeros.
pub fn zeros(hasher: &mut blake3::Hasher, mut length: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while length > 0 {
        let step = length.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..step as usize]);
        length -= step;
    }
}
