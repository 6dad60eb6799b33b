//! Databases with a rollback journal, compared by their bytes: a reader's lock would keep an app from writing.

use super::{SideBySide, of_sqlite};
use crate::path::EntryPath;
use crate::source::found::SourceEntry;
use crate::sqlite::side_files::{Role, SideFound};
use crate::vault::entry::Entry;

impl SideBySide<'_> {
    /// Whether a database that was taken raw, with the files beside it, is there as it was taken. The bytes tell, so that nobody is kept
    /// from anything. `None` if that could not be told, which is noted.
    pub(super) fn is_equal_raw(&mut self, found: &SourceEntry, entry: &Entry, sides: &[Entry]) -> Option<bool> {
        let (Role::Database { wal, journal, .. }, Some(hash)) = (found.role, entry.hash) else { return Some(false) };
        if (entry.size, entry.mtime) != (found.size, found.mtime) || sides.len() != entry.sides().len() {
            return Some(false);
        }
        let mut files = vec![(found.path.clone(), found.inode, found.size, hash)];
        for (ending, now) in [("-journal", journal), ("-wal", wal)] {
            let then = sides.iter().find(|side| side.path.bytes().ends_with(ending.as_bytes()));
            match (then, now) {
                (None, now) if now.is_none_or(|now| now.side.size == 0) => {}
                (Some(Entry { path, size, hash: Some(hash), .. }), Some(now)) if *size == now.side.size => {
                    files.push((path.clone(), now.inode, *size, *hash));
                }
                _ => return Some(false),
            }
        }
        for (path, inode, size, hash) in files {
            match self.has_hash(found, (&path, inode, size), hash) {
                Some(true) => {}
                told => return told,
            }
        }
        self.sides = sides.to_vec();
        Some(true)
    }

    /// Whether the journal beside a database belongs to no transaction; `false` if that cannot be told.
    pub(super) fn is_at_rest(&self, found: &SourceEntry, journal: &SideFound) -> bool {
        let path = EntryPath::new([found.path.bytes(), b"-journal"].concat()).ok();
        let opened = path.and_then(|path| self.open(&path, (found.device, journal.inode)).ok());
        opened.is_some_and(|opened| of_sqlite::is_journal_at_rest(&opened.file).unwrap_or(false))
    }
}
