//! A snapshot's files in a staging folder, made before it is known which snapshot will be restored.
//!
//! An instance that waits until another one has ended uses that time: it restores the newest snapshot of then, and puts nothing into
//! place. The restore that follows makes a tree of its own, and takes over by renaming each file that is the same in its snapshot: the
//! path, the content by its hash, owner, mode, time and extended attributes. All other entries are made as always. A file was verified
//! when it was made, lies in a folder that nobody else can enter, and is taken only if its change time says that nothing was done to
//! it since.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::file_book::FileBook;
use super::stage::StagingFolder;
use super::write::Tree;
use crate::vault::entry::Entry;
use crate::vault::root::SnapshotName;

/// The files of a snapshot in a staging folder. It is removed when this is dropped.
pub struct FilledAhead {
    /// The snapshot.
    pub snapshot: SnapshotName,
    staging: Mutex<Option<StagingFolder>>,
    tree: Tree,
    book: Arc<FileBook>,
    /// The last change time of what was made, in seconds and nanoseconds since 1970.
    made: (i64, i64),
    /// Files and bytes that were taken.
    files: AtomicU64,
    bytes: AtomicU64,
}

impl FilledAhead {
    /// Takes a tree that was filled in `staging`, with the files that are noted in `book`. Nothing in it was changed after `made`.
    pub fn new(
        snapshot: SnapshotName,
        (staging, tree): (StagingFolder, Tree),
        book: Arc<FileBook>,
        made: (i64, i64),
    ) -> Self {
        let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        FilledAhead { snapshot, staging: Mutex::new(Some(staging)), tree, book, made, files, bytes }
    }

    /// Whether it has the file that an entry describes.
    pub fn holds(&self, entry: &Entry) -> bool {
        self.book.holds(entry)
    }

    /// Moves a file into another tree of the same filesystem. `false` if it cannot be had; it is not held any more then.
    pub fn move_to(&self, tree: &Tree, entry: &Entry) -> bool {
        let moved = tree.take(&self.tree, entry, self.made);
        self.book.forget(&entry.path);
        match moved {
            Ok(true) => {
                self.files.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(entry.size, Ordering::Relaxed);
                true
            }
            Ok(false) => {
                tracing::debug!("{} was restored beforehand and is not as it was", entry.path);
                false
            }
            Err(why) => {
                tracing::debug!("{} was restored beforehand and cannot be used: {why}", entry.path);
                false
            }
        }
    }

    /// The number of files that were moved into another tree, and their bytes.
    pub fn taken(&self) -> (u64, u64) {
        (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Removes it from the disk.
    pub fn remove(&self) {
        let staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(staging) = staging {
            staging.abandon();
        }
    }
}

impl Drop for FilledAhead {
    fn drop(&mut self) {
        self.remove();
    }
}

impl fmt::Debug for FilledAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilledAhead({})", self.snapshot)
    }
}
