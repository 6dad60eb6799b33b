//! Counts what a capture is judged by besides its sums: databases that shrank, and files whose content changed.

use std::collections::{BTreeSet, HashMap};

use super::Assembly;
use crate::path::EntryPath;
use crate::vault::entry::{Entry, EntryKind};

/// Fewest files of which it is told that most have changed: an app may write to all of a few files.
pub const MANY: u64 = 100;

/// Counts of files that the last snapshot has, too.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ComparedFiles {
    /// Files with the same content.
    pub(super) same: u64,
    /// Files with other content.
    pub(super) changed: u64,
}

impl ComparedFiles {
    pub(super) fn count(&mut self, same: bool) {
        *(if same { &mut self.same } else { &mut self.changed }) += 1;
    }
}

/// The counts that a capture is judged by.
#[derive(Default)]
pub struct Judged {
    /// How many of the last complete snapshot's databases have been passed in path order.
    pub(super) watched: usize,
    /// The sizes in bytes of the files at the paths of these databases.
    pub sizes: HashMap<EntryPath, u64>,
    /// Number of entries that are not folders.
    pub leaves: u64,
    /// Former mount points where nothing is mounted any more, and that have entries all the same.
    pub inhabited: BTreeSet<EntryPath>,
    /// How the content of known files compares.
    pub(super) known: ComparedFiles,
    /// Number of files that were read, or are unchanged as far as their times show.
    pub(super) live: u64,
}

impl Assembly<'_> {
    /// Returns how many known files have other content now.
    pub fn rewritten(&self) -> u64 {
        self.judged.known.changed
    }

    /// Returns a notice if most of the known files have other content now, and there are many.
    pub fn mostly_changed(&self) -> Option<String> {
        let ComparedFiles { same, changed } = self.judged.known;
        (same + changed >= MANY && changed > same).then(|| {
            format!("{changed} of {} known files have other content than in the last snapshot", same + changed)
        })
    }

    /// Remembers the size of a file that is a database in the last complete snapshot.
    pub(super) fn watch(&mut self, entry: &Entry) {
        let databases = self.base.measure.as_ref().map_or(&[][..], |measure| &measure.databases);
        // Both are in path order.
        while databases.get(self.judged.watched).is_some_and(|database| database.path < entry.path) {
            self.judged.watched += 1;
        }
        if entry.kind == EntryKind::File
            && databases.get(self.judged.watched).is_some_and(|database| database.path == entry.path)
        {
            self.judged.sizes.insert(entry.path.clone(), entry.size);
        }
    }
}
