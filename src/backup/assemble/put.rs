//! Puts entries into the snapshot, each in its place in path order.

use super::{Assembly, FirstLink};
use crate::backup::merge::{MAX_LINKS, content_mark};
use crate::backup::writer::{PutError, is_beside};
use crate::error::Result;
use crate::path::EntryPath;
use crate::sqlite::side_files::database_of;
use crate::vault::entry::{CaptureMethod, Entry, EntryKind, Extent, padding};
use crate::vault::root::DatabaseRecord;
use crate::vault::tar;

impl Assembly<'_> {
    /// Gives an entry, whose extents cover only its content, its header and padding. The known entry's header is used
    /// again if it is the same.
    pub(super) fn place(&mut self, mut entry: Box<Entry>, known: Option<&Entry>) -> Result<Box<Entry>> {
        let header = tar::header(&entry);
        let content = std::mem::take(&mut entry.extents);
        entry.header = header.len() as u64;
        let same = |known: &&Entry| known.header == entry.header && tar::header(known) == header;
        // A database may be known although packs are lost, perhaps including the one with its header.
        let there = |extents: &Vec<Extent>| extents.iter().all(|extent| self.base.has_extent(extent));
        entry.extents = match known.filter(same).map(Entry::header_extents).filter(there) {
            Some(extents) => extents,
            None => vec![self.data.append(&[&header])?],
        };
        content.into_iter().for_each(|extent| extent.push(&mut entry.extents));
        Extent::zeros(padding(entry.size)).push(&mut entry.extents);
        Ok(entry)
    }

    /// Adds an entry, preceded by the side files whose place is before it.
    pub(super) fn add(&mut self, entry: Box<Entry>) -> Result<()> {
        self.add_waiting_sides(Some(&entry.path))?;
        if entry.kind != EntryKind::File
            && let Some(side) = self.waiting_sides.remove(&entry.path)
        {
            // A side file of a database that is carried over has this path.
            let (path, folder) = (entry.path, entry.kind == EntryKind::Folder);
            self.put(side)?;
            self.refused = folder.then(|| path.clone()).or(self.refused.take());
            self.failed(path, "a file of a database that is carried over has its place in the snapshot".into());
            return Ok(());
        }
        // Only a file can belong to a database, whatever the name.
        let file = entry.kind == EntryKind::File;
        let database = database_of(entry.path.bytes()).filter(|_| file).unwrap_or_default();
        // It was listed as a file of its own, and its database was taken with everything that belongs to it.
        if !database.is_empty() && self.databases.iter().any(|path| path.bytes() == database) {
            // The side file in its place does not have the content of this file's other names.
            self.pending_link.take_if(|(path, ..)| *path == entry.path);
            return Ok(());
        }
        self.put(entry)
    }

    pub(super) fn add_waiting_sides(&mut self, before: Option<&EntryPath>) -> Result<()> {
        while let Some(first) = self.waiting_sides.first_entry()
            && before.is_none_or(|path| first.key() < path)
        {
            let side = first.remove();
            self.put(side)?;
        }
        Ok(())
    }

    pub(super) fn put(&mut self, mut entry: Box<Entry>) -> Result<()> {
        if let Some(refused) = self.refused.as_ref().filter(|refused| entry.path.is_in(refused)) {
            let why = format!("the folder {refused} could not be recorded");
            self.failed(entry.path, why);
            return Ok(());
        }
        if let (Some(link), Some(hash)) = (&mut entry.link, &entry.hash) {
            // Older programs gave a group a name that another file may have as well.
            let mark = content_mark(hash);
            if !link.ends_with(&mark) {
                link.push('-');
                link.push_str(&mark);
            }
        }
        if entry.kind == EntryKind::File
            && let Some(database) = database_of(entry.path.bytes())
            && let Some((_, sides)) = self.beside.iter().find(|(path, _)| path.bytes() == database)
            && !sides.contains(&entry.path)
        {
            // SQLite would take it for the database's own, and its content is from another time.
            return Ok(());
        }
        match self.writer.put(&entry, &mut self.index) {
            Ok(()) => {}
            Err(PutError::Failed(why)) => return Err(why),
            Err(PutError::Entry(why)) if entry.xattrs.is_empty() => {
                if entry.kind == EntryKind::Folder {
                    self.refused = Some(entry.path.clone());
                }
                self.failed(entry.path, why);
                return Ok(());
            }
            // The content of the entry, or what is in the folder, is worth more than its attributes.
            Err(PutError::Entry(why)) => {
                let why = format!("its extended attributes are not in the snapshot: {why}");
                self.without_attributes(&entry.path, why);
                entry.xattrs.clear();
                // The next backup must not take it for complete.
                entry.racy = true;
                entry.extents = entry.content_extents();
                let bare = self.place(entry, None)?;
                return self.put(bare);
            }
        }
        self.watch(&entry);
        self.judged.leaves += u64::from(entry.kind != EntryKind::Folder);
        let inhabits = |mount: &&EntryPath| entry.path.is_in(mount) && entry.path != **mount;
        self.judged.inhabited.extend(self.base.unmounted.iter().filter(inhabits).cloned());
        if is_beside(&entry, &self.raw) {
            self.writer.count_beside(entry.size);
        }
        if let Some(database) = &entry.database {
            self.beside.retain(|(path, _)| entry.path.bytes().starts_with(path.bytes()));
            self.beside.push((entry.path.clone(), entry.sides()));
            if database.taken == CaptureMethod::Raw {
                self.raw.retain(|path| entry.path.bytes().starts_with(path.bytes()));
                self.raw.push(entry.path.clone());
            }
            let why = self.reasons.get(&entry.path).filter(|_| database.taken == CaptureMethod::Raw).cloned();
            let (path, check) = (entry.path.clone(), database.check.clone());
            let size = Some(entry.size);
            self.database_records.push(DatabaseRecord { path, taken: database.taken, why, check, size });
        }
        if let Some((path, file, identity)) = self.pending_link.take() {
            if path != entry.path {
                self.pending_link = Some((path, file, identity));
            } else if self.links.len() < MAX_LINKS && !is_with_sides(&entry) {
                self.links.entry(file).or_insert(FirstLink { identity, entry });
            }
        }
        Ok(())
    }
}

/// Whether a database was taken with side files: then another name of the same file has different content.
fn is_with_sides(entry: &Entry) -> bool {
    entry.database.as_ref().is_some_and(|database| database.wal.is_some() || database.journal.is_some())
}
