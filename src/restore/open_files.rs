//! Files that stay open between their pieces: a database that has changed often comes in very many.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::path::EntryPath;

/// Most files that are open at once.
const OPEN: usize = 16;

/// A file that is open for writing.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: File,
    /// Held by the thread that writes.
    pub turn: Mutex<()>,
}

/// The files that were opened last.
#[derive(Debug, Default)]
pub struct OpenFiles(Mutex<VecDeque<(EntryPath, Arc<OpenFile>)>>);

impl OpenFiles {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(EntryPath, Arc<OpenFile>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an open file. `None` if it is not kept open.
    pub fn get(&self, path: &EntryPath) -> Option<Arc<OpenFile>> {
        self.lock().iter().find(|(open, _)| open == path).map(|(_, file)| file.clone())
    }

    /// Keeps a file open, or takes the one that another thread opened meanwhile. Also returns the file that was opened
    /// first if that is one too many.
    pub fn keep(&self, path: &EntryPath, file: File) -> (Arc<OpenFile>, Option<(EntryPath, Arc<OpenFile>)>) {
        let mut files = self.lock();
        if let Some((_, open)) = files.iter().find(|(open, _)| open == path) {
            return (open.clone(), None);
        }
        let file = Arc::new(OpenFile { file, turn: Mutex::new(()) });
        files.push_back((path.clone(), file.clone()));
        let closed = if files.len() > OPEN { files.pop_front() } else { None };
        (file, closed)
    }

    /// Returns an open file, which is not kept any longer. `None` if it is not kept open.
    pub fn take(&self, path: &EntryPath) -> Option<Arc<OpenFile>> {
        let mut files = self.lock();
        let at = files.iter().position(|(open, _)| open == path)?;
        files.remove(at).map(|(_, file)| file)
    }
}
