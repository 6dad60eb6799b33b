//! A file's content on its way out: where it goes, and whether it is what was stored.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::window::{FileProgress, FrameSlice, Item};
use crate::error::{Error, Result};
use crate::monitor::Context;
use crate::vault::entry::Entry;
use crate::vault::hex::Hash;
use crate::vault::scattered::{self, Scattered};

/// Takes the content of files. Called from several threads; for one file, never twice at once for the same bytes.
pub trait ContentSink: Sync {
    /// Takes a file's whole content, which is known to be what was stored.
    ///
    /// # Errors
    /// A write that fails.
    fn whole(&self, entry: &Entry, bytes: &[u8]) -> Result<()>;
    /// Begins a file whose content comes in pieces; what no piece covers is zeros.
    ///
    /// # Errors
    /// A file that cannot be made.
    fn begin(&self, entry: &Entry) -> Result<()>;
    /// Takes pieces of a file that has begun, each with where it begins in the file, in bytes.
    ///
    /// # Errors
    /// A write that fails.
    fn pieces(&self, entry: &Entry, pieces: &[(u64, &[u8])]) -> Result<()>;
    /// Ends a file that came in pieces and is what was stored.
    ///
    /// # Errors
    /// A write that fails.
    fn end(&self, entry: &Entry) -> Result<()>;
    /// Discards a file that began and cannot be whole.
    ///
    /// # Errors
    /// A file that cannot be removed.
    fn discard(&self, entry: &Entry) -> Result<()>;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of a file whose bytes were all there and are not what was stored: one of its packs is not the one that was
/// stored.
pub fn not_the_same(entry: &Entry) -> Error {
    let mut packs: Vec<_> = entry.content_extents().iter().filter_map(|extent| extent.pack).collect();
    packs.extend(entry.map.iter().flat_map(|map| &map.packs));
    packs.dedup();
    let more = if packs.len() > 3 { " and others" } else { "" };
    let names: Vec<_> = packs.iter().take(3).map(|pack| pack.to_string()).collect();
    let why = format!("its content is not what was stored (its hash differs); it is in {}{more}", names.join(", "));
    Error::damage(format!("read {}", entry.path), why)
}

impl Item {
    /// Returns the progress of the file, as one that comes in pieces.
    pub fn progress(&self) -> &Arc<FileProgress> {
        self.progress.get_or_init(|| {
            Arc::new(FileProgress { began: Mutex::new(false), hash: Mutex::new(Scattered::new(self.entry.size)) })
        })
    }

    /// Takes pieces of the file, which lie in `content`.
    ///
    /// # Errors
    /// Damage; a write that fails.
    pub fn take(&self, cuts: &[FrameSlice], content: &[u8], output: &dyn ContentSink) -> Result<()> {
        let size = self.entry.size;
        let pieces = cuts.iter().map(|cut| (cut.at, &content[cut.from as usize..(cut.from + cut.length) as usize]));
        let pieces: Vec<(u64, &[u8])> = pieces.collect();
        if let [(0, bytes)] = pieces[..]
            && bytes.len() as u64 == size
        {
            if Some(Hash::of(bytes)) != self.entry.hash {
                return Err(not_the_same(&self.entry));
            }
            output.whole(&self.entry, bytes)?;
            self.done.store(true, Ordering::Release);
            return Ok(());
        }
        let progress = self.progress();
        self.begin(progress, output)?;
        // Without the lock, so that all threads hash.
        let hashed: Vec<_> = pieces.iter().map(|(at, bytes)| scattered::hash(bytes, *at, size)).collect();
        output.pieces(&self.entry, &pieces)?;
        let mut hash = lock(&progress.hash);
        hashed.iter().for_each(|piece| hash.add(piece));
        Ok(())
    }

    fn begin(&self, progress: &FileProgress, output: &dyn ContentSink) -> Result<()> {
        let mut began = lock(&progress.began);
        if !*began {
            output.begin(&self.entry)?;
            *began = true;
        }
        Ok(())
    }

    /// Gives the file up, for the reason `why`.
    pub fn lose(&self, why: String) {
        // The first reason stays.
        let _ = self.lost.set(why);
    }

    /// Ends the file's part in a window when all pieces of the window have come, unless the file is given up; in its
    /// last window, this checks the file's hash.
    ///
    /// # Errors
    /// Damage; a write that fails.
    pub fn end(&self, output: &dyn ContentSink, ctx: &Context) -> Result<()> {
        if self.entry.size == 0 {
            return match Some(Hash::of(&[])) == self.entry.hash {
                true => output.whole(&self.entry, &[]),
                false => Err(not_the_same(&self.entry)),
            };
        }
        let progress = self.progress();
        let mut hash = lock(&progress.hash);
        // Whatever has not come by now is a hole.
        hash.fill(self.until, &|| ctx.check("restore a hole"))?;
        if !self.last {
            return Ok(());
        }
        if hash.finish() != self.entry.hash {
            return Err(not_the_same(&self.entry));
        }
        self.begin(progress, output)?;
        output.end(&self.entry)
    }

    /// Whether [`Item::end`] has to be called when all pieces have come.
    pub fn needs_end(&self) -> bool {
        self.lost.get().is_none() && !self.done.load(Ordering::Acquire)
    }

    /// Removes what there is of a file that was given up.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn discard(&self, output: &dyn ContentSink) -> Result<()> {
        match self.progress.get().is_some_and(|progress| *lock(&progress.began)) {
            true => output.discard(&self.entry),
            false => Ok(()),
        }
    }
}
