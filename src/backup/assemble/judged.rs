//! What a capture is judged by besides its sums: databases that shrank, and files that became others.

use std::collections::{BTreeSet, HashMap};

use super::Assembly;
use crate::path::EntryPath;
use crate::vault::entry::{Entry, EntryKind};

/// Of fewer files it says nothing that most have another content: an app may write to all that it has.
pub const MANY: u64 = 100;

/// Files that the last snapshot has, too.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ComparedFiles {
    /// Of the same content.
    pub(super) same: u64,
    /// Of another one.
    pub(super) changed: u64,
}

impl ComparedFiles {
    pub(super) fn count(&mut self, same: bool) {
        *(if same { &mut self.same } else { &mut self.changed }) += 1;
    }
}

/// What a capture is judged by.
#[derive(Default)]
pub struct Judged {
    /// How many of the last complete snapshot's databases have had their turn.
    pub(super) watched: usize,
    /// The sizes of the files that are where those were.
    pub sizes: HashMap<EntryPath, u64>,
    /// Entries that are no folders.
    pub leaves: u64,
    /// Where something was mounted that is not any more, and entries are there all the same.
    pub inhabited: BTreeSet<EntryPath>,
    /// What became of files that were known.
    pub(super) known: ComparedFiles,
    /// Files that were read, or are unchanged as far as their times tell.
    pub(super) live: u64,
}

impl Assembly<'_> {
    /// How many known files have another content now.
    pub fn rewritten(&self) -> u64 {
        self.judged.known.changed
    }

    /// That most of the files that were known have another content now, if they are many.
    pub fn mostly_changed(&self) -> Option<String> {
        let ComparedFiles { same, changed } = self.judged.known;
        (same + changed >= MANY && changed > same).then(|| {
            format!("{changed} of {} known files have another content than in the last snapshot", same + changed)
        })
    }

    /// Remembers the size of what the last complete snapshot has as a database.
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
