//! Joins what has been written with what is taken once more, in a round at the end of a capture.
//!
//! Nothing that was captured whole is given up for something that may not be. An entry that is found again replaces what was
//! written only when it has been read, except for databases that were taken with side files; and what was in a folder
//! stays beside what is in it now.

use std::iter::Peekable;

use super::merge::{Merge, MergeStep};
use super::message::Why;
use super::parent::ParentEntry;
use crate::path::EntryPath;
use crate::source::found::SourceEntry;
use crate::sqlite::side_files::{Role, database_of};
use crate::vault::entry::{Entry, EntryKind};

/// Joins written entries with found ones, both in path order.
pub struct Patch<W: Iterator<Item = Box<Entry>>> {
    written: Peekable<W>,
    merge: Merge<'static, std::iter::Empty<ParentEntry>>,
    /// Databases that stay as they were written, and may be followed by side files.
    stay: Vec<EntryPath>,
    /// The folders that may contain the next entry: they were handed on already.
    folders: Vec<EntryPath>,
    /// The folder that was found last, if it had been captured as one.
    again: Option<EntryPath>,
}

impl<W: Iterator<Item = Box<Entry>>> Patch<W> {
    /// Joins what was `written` with found entries; `merge`, which has no known entries, decides about these.
    pub fn new(written: W, merge: Merge<'static, std::iter::Empty<ParentEntry>>) -> Self {
        Patch { written: written.peekable(), merge, stay: Vec::new(), folders: Vec::new(), again: None }
    }

    /// Hands on the steps for the next found entry, and before it everything that was written before that entry.
    ///
    /// # Errors
    /// Returns the errors of `take`.
    pub fn next<E>(&mut self, found: SourceEntry, mut take: impl FnMut(MergeStep) -> Result<(), E>) -> Result<(), E> {
        self.until(&found.path, &mut take)?;
        if let Some(missing) = self.missing(&found.path) {
            // It was something else when it was captured, and is a folder again: the next look takes it, or reports
            // it.
            return take(MergeStep::Later(missing, Why::Unread));
        }
        let written = self.written.next_if(|entry| entry.path == found.path);
        let database = database_of(found.path.bytes()).unwrap_or_default();
        if written.is_some() && self.stay.iter().any(|path| path.bytes() == database) {
            // Its database stays, and so does this file. If something else has its name now, that is reported.
            let other = (found.kind != EntryKind::File).then_some(found.path);
            written.into_iter().try_for_each(|written| self.stays(written, &mut take))?;
            return other.into_iter().try_for_each(|path| take(MergeStep::Later(path, Why::Unread)));
        }
        if found.kind == EntryKind::Folder {
            self.folders.push(found.path.clone());
        }
        let Some(written) = written else { return take(self.merge.next(found)) };
        let folders = (written.kind == EntryKind::Folder, found.kind == EntryKind::Folder);
        if folders == (true, false) {
            // The folder's entries are elsewhere now, and are taken there.
            while self.written.next_if(|entry| entry.path.is_in(&found.path)).is_some() {}
        }
        if found.role == Role::Side {
            // It comes with its database, if that is taken.
            return match self.merge.next(found) {
                MergeStep::Part => Ok(()),
                step => take(MergeStep::Instead(Box::new(step), written)),
            };
        }
        if folders == (true, true) {
            self.again = Some(found.path.clone());
        }
        if folders == (false, true) {
            return take(self.merge.next(found));
        }
        let was = (written.size, written.mtime, written.ctime, written.inode);
        let same = was == (found.size, found.mtime, found.ctime, found.inode) && !written.racy;
        if same && written.kind == found.kind && found.kind != EntryKind::Folder {
            // It came with a folder that has been replaced, and is what was captured.
            return self.stays(written, &mut take);
        }
        if !written.sides().is_empty() {
            // The side files that were taken with it go with it, even if they are no longer there.
            return take(self.merge.next(found));
        }
        let step = self.merge.next(found);
        take(MergeStep::Instead(Box::new(step), written))
    }

    /// Returns the topmost folder above a path that was not handed on.
    fn missing(&mut self, path: &EntryPath) -> Option<EntryPath> {
        while self.folders.pop_if(|folder| !path.is_in(folder)).is_some() {}
        let there = self.folders.last();
        path.folders().take_while(|above| there != Some(above)).last()
    }

    /// Hands on an entry that stays as it was written.
    fn stays<E>(&mut self, written: Box<Entry>, take: &mut impl FnMut(MergeStep) -> Result<(), E>) -> Result<(), E> {
        if written.database.is_some() {
            self.stay.retain(|path| written.path.bytes().starts_with(path.bytes()));
            self.stay.push(written.path.clone());
        }
        if written.kind == EntryKind::Folder {
            while self.folders.pop_if(|folder| !written.path.is_in(folder)).is_some() {}
            self.folders.push(written.path.clone());
        }
        take(MergeStep::Written(written))
    }

    /// Hands on the step for an entry that cannot be looked at, and before it everything that was written before that
    /// entry.
    ///
    /// # Errors
    /// Returns the errors of `take`.
    pub fn failed<E>(
        &mut self,
        path: EntryPath,
        why: String,
        mut take: impl FnMut(MergeStep) -> Result<(), E>,
    ) -> Result<(), E> {
        self.until(&path, &mut take)?;
        match self.written.peek() {
            // It comes next, as it was captured before.
            Some(written) if written.path.is_in(&path) => take(MergeStep::Stays(path)),
            // It was listed when it was captured, and nothing was in it.
            _ if self.again.as_ref() == Some(&path) => take(MergeStep::Stays(path)),
            _ => take(MergeStep::Failed(path, why)),
        }
    }

    /// Hands on everything that was written before `path`.
    ///
    /// # Errors
    /// Returns the errors of `take`.
    pub fn until<E>(&mut self, path: &EntryPath, take: &mut impl FnMut(MergeStep) -> Result<(), E>) -> Result<(), E> {
        while let Some(entry) = self.written.next_if(|entry| entry.path < *path) {
            self.stays(entry, take)?;
        }
        Ok(())
    }

    /// Hands on everything that is left of what was written.
    ///
    /// # Errors
    /// Returns the errors of `take`.
    pub fn rest<E>(self, take: impl FnMut(MergeStep) -> Result<(), E>) -> Result<(), E> {
        self.written.map(MergeStep::Written).try_for_each(take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::merge::Rule;
    use crate::backup::merge::tests::{entry, found};
    use crate::vault::entry::{CaptureMethod, Database, Side};

    /// Returns the steps for written and found entries: each path, with what is to be done about it.
    fn patched(written: Vec<Entry>, now: Vec<SourceEntry>) -> Vec<String> {
        let rule = Rule { verify_content: false, sample: 64, turn: 63, sqlite: true, check: None };
        let mut patch = Patch::new(written.into_iter().map(Box::new), Merge::new(std::iter::empty(), rule));
        let mut out = Vec::new();
        let mut take = |step| {
            out.push(match step {
                MergeStep::Written(entry) => format!("{} stays", entry.path),
                MergeStep::Read(found, _) => format!("{} is read", found.path),
                MergeStep::Instead(_, written) => format!("{} is read, or stays", written.path),
                MergeStep::Later(path, Why::Unread) => format!("{path} later"),
                other => panic!("{other:?}"),
            });
            Ok::<_, ()>(())
        };
        now.into_iter().for_each(|found| patch.next(found, &mut take).unwrap());
        patch.rest(take).unwrap();
        out
    }

    fn folder(path: &str) -> SourceEntry {
        SourceEntry { kind: EntryKind::Folder, ..found(path, 1, 9) }
    }

    fn root() -> Entry {
        Entry { path: EntryPath::root(), hash: None, ..entry(&folder("x")) }
    }

    #[test]
    fn what_lies_in_a_folder_that_was_captured_as_something_else_waits_for_it() {
        let written = || vec![root(), entry(&found("a", 1, 1)), entry(&found("y", 1, 2)), entry(&found("z", 1, 3))];
        let found = vec![found("y/deep/file", 2, 4)];
        assert_eq!(patched(written(), found.clone()), [". stays", "a stays", "y stays", "y later", "z stays"]);
        // Together with its folders it is taken.
        let all = vec![folder("y"), folder("y/deep"), found[0].clone()];
        let done = [". stays", "a stays", "y is read", "y/deep is read", "y/deep/file is read", "z stays"];
        assert_eq!(patched(written(), all), done);
        let folders = vec![root(), entry(&folder("y")), entry(&folder("y/deep"))];
        assert_eq!(patched(folders, found), [". stays", "y stays", "y/deep stays", "y/deep/file is read"]);
    }

    #[test]
    fn what_lies_beside_a_database_that_stays_stays() {
        let journal = Some(Side { size: 10, mtime: 1 });
        let database = Some(Database { taken: CaptureMethod::Raw, wal: None, journal, check: None });
        let raw = Entry { database, ..entry(&found("app.db", 1, 1)) };
        let written = vec![root(), raw, entry(&found("app.db-journal", 1, 2))];
        // The database is gone, so this is a file of its own, and not the one that was captured.
        let other = vec![found("app.db-journal", 2, 7)];
        assert_eq!(patched(written.clone(), other), [". stays", "app.db stays", "app.db-journal stays"]);
        // A folder has the journal's place.
        let other = vec![folder("app.db-journal"), found("app.db-journal/x", 2, 8)];
        let later = "app.db-journal later";
        assert_eq!(patched(written, other), [". stays", "app.db stays", "app.db-journal stays", later, later]);
    }

    #[test]
    fn a_folder_that_gives_way_takes_what_is_in_it_with_it() {
        let written = vec![root(), entry(&folder("a-wal")), entry(&found("a-wal/x", 1, 3)), entry(&found("b", 1, 4))];
        let other = vec![SourceEntry { role: Role::Side, ..found("a-wal", 2, 7) }];
        assert_eq!(patched(written.clone(), other), [". stays", "b stays"]);
        assert_eq!(patched(written, vec![found("a-wal", 2, 7)]), [". stays", "a-wal is read, or stays", "b stays"]);
    }
}
