//! Files that stay open between their pieces: a database that has changed often comes in very many.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::vault::path::EntryPath;

/// Files that are open at once.
const OPEN: usize = 16;

/// The files that were used last.
#[derive(Debug, Default)]
pub struct OpenFiles(Mutex<VecDeque<(EntryPath, Arc<File>)>>);

impl OpenFiles {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(EntryPath, Arc<File>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open file.
    pub fn get(&self, path: &EntryPath) -> Option<Arc<File>> {
        self.lock().iter().find(|(open, _)| open == path).map(|(_, file)| file.clone())
    }

    /// Keeps a file open; the one that was opened first may be closed.
    pub fn keep(&self, path: &EntryPath, file: Arc<File>) {
        let mut files = self.lock();
        if files.iter().any(|(open, _)| open == path) {
            // Two threads opened it again at once.
            return;
        }
        if files.len() >= OPEN {
            files.pop_front();
        }
        files.push_back((path.clone(), file));
    }

    /// An open file, which is not kept any longer.
    pub fn take(&self, path: &EntryPath) -> Option<Arc<File>> {
        let mut files = self.lock();
        let at = files.iter().position(|(open, _)| open == path)?;
        files.remove(at).map(|(_, file)| file)
    }
}
