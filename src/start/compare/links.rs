//! Compares the names of files that have several: a name that leads to another file than before may look as it did, since two files
//! may have the same size and times.

use std::collections::HashMap;

use super::known::Recorded;
use crate::backup::merge::MAX_LINKS;
use crate::source::found::SourceEntry;
use crate::sqlite::side_files::Role;
use crate::vault::hex::Hash;

/// The files with several names of which one was compared.
#[derive(Default)]
pub struct Links {
    /// What the first name of a file was compared with, by device and inode.
    first: HashMap<(u64, u64), (Option<Hash>, Option<String>)>,
    /// The file that a group of the snapshot is, by the group's name.
    files: HashMap<String, (u64, u64)>,
}

impl Links {
    /// Notes a name that is compared by itself. Returns whether its group has been another file so far.
    pub fn compared(&mut self, found: &SourceEntry, recorded: &Recorded) -> bool {
        // The names of a database are each compared by themselves.
        if !found.linked || matches!(found.role, Role::Database { .. }) {
            return false;
        }
        let file = (found.device, found.inode);
        if self.first.len() < MAX_LINKS {
            self.first.entry(file).or_insert_with(|| (recorded.hash, recorded.link.clone()));
        }
        let Some(link) = &recorded.link else { return false };
        match self.files.get(link) {
            Some(other) => *other != file,
            None => {
                if self.files.len() < MAX_LINKS {
                    self.files.insert(link.clone(), file);
                }
                false
            }
        }
    }

    /// Whether another name of a file is recorded as what the file's first name is. Only a `strict` comparison needs the snapshot
    /// to know the two as one file: otherwise it is enough if they have the same content.
    pub fn is_name(&self, found: &SourceEntry, recorded: &Recorded, strict: bool) -> bool {
        if (found.kind, found.size, found.mtime) != (recorded.kind, recorded.size, recorded.mtime) {
            return false;
        }
        match self.first.get(&(found.device, found.inode)) {
            Some((hash, link)) => {
                *hash == recorded.hash && (!strict || recorded.link.is_some() && *link == recorded.link)
            }
            // Its first name is not in the snapshot, which is a difference already, or too many files have several names.
            None => !strict,
        }
    }
}
