//! A round at the end of a capture: what has been written, joined with what is taken once more.
//!
//! Nothing that was captured whole is given up for what may not be. What is found again takes the place of what was written
//! only when it has been read, but for databases that were taken with what lies beside them; and what was in a folder stays
//! beside what is in it now.

use std::iter::Peekable;

use super::base::{Known, recorded_sides};
use super::found::{Found, Role};
use super::merge::{Merge, Step};
use super::sqlite::beside::database_of;
use crate::vault::entry::{Entry, Kind};
use crate::vault::path::EntryPath;

/// Joins written entries with found ones, both in path order.
pub struct Patch<W: Iterator<Item = Box<Entry>>> {
    written: Peekable<W>,
    merge: Merge<std::iter::Empty<Known>>,
    /// Databases that stay as they were written, and may have something beside them.
    stay: Vec<EntryPath>,
}

impl<W: Iterator<Item = Box<Entry>>> Patch<W> {
    /// Joins what was `written`; `merge` decides about what is found, of which it knows nothing.
    pub fn new(written: W, merge: Merge<std::iter::Empty<Known>>) -> Self {
        Patch { written: written.peekable(), merge, stay: Vec::new() }
    }

    /// What is to be done about the next found entry, and about all that was written before it.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn next<E>(&mut self, found: Found, mut take: impl FnMut(Step) -> Result<(), E>) -> Result<(), E> {
        self.until(&found.path, &mut take)?;
        let Some(written) = self.written.next_if(|entry| entry.path == found.path) else {
            return take(self.merge.next(found));
        };
        let folders = (written.kind == Kind::Folder, found.kind == Kind::Folder);
        if found.role == Role::Side {
            // It comes with its database, if that is taken; and if that stays, so does this.
            let database = database_of(found.path.bytes()).unwrap_or_default();
            if self.stay.iter().any(|path| path.bytes() == database) {
                return take(Step::Written(written));
            }
            return match self.merge.next(found) {
                Step::Part => Ok(()),
                step => take(Step::Instead(Box::new(step), written)),
            };
        }
        if folders == (false, true) {
            return take(self.merge.next(found));
        }
        let was = (written.size, written.mtime, written.ctime, written.inode);
        let same = was == (found.size, found.mtime, found.ctime, found.inode) && !written.racy;
        if same && written.kind == found.kind && found.kind != Kind::Folder {
            // It came with a folder that is another one now, and is what was captured.
            if written.database.is_some() {
                self.stay.retain(|path| written.path.bytes().starts_with(path.bytes()));
                self.stay.push(written.path.clone());
            }
            return take(Step::Written(written));
        }
        if !recorded_sides(&written).is_empty() {
            // What was taken with it goes with it, should it not be there any more.
            return take(self.merge.next(found));
        }
        if folders == (true, false) {
            // What was in the folder is where that is now, and taken there.
            while self.written.next_if(|entry| entry.path.is_in(&found.path)).is_some() {}
        }
        let step = self.merge.next(found);
        take(Step::Instead(Box::new(step), written))
    }

    /// What is to be done about an entry that cannot be looked at, and about all that was written before it.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn failed<E>(
        &mut self,
        path: EntryPath,
        why: String,
        mut take: impl FnMut(Step) -> Result<(), E>,
    ) -> Result<(), E> {
        self.until(&path, &mut take)?;
        match self.written.peek() {
            // It comes next, as it was captured before.
            Some(written) if written.path.is_in(&path) => Ok(()),
            _ => take(Step::Failed(path, why)),
        }
    }

    /// What was written before `path`.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn until<E>(&mut self, path: &EntryPath, take: &mut impl FnMut(Step) -> Result<(), E>) -> Result<(), E> {
        while let Some(entry) = self.written.next_if(|entry| entry.path < *path) {
            take(Step::Written(entry))?;
        }
        Ok(())
    }

    /// All that is left of what was written.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn rest<E>(self, take: impl FnMut(Step) -> Result<(), E>) -> Result<(), E> {
        self.written.map(Step::Written).try_for_each(take)
    }
}
