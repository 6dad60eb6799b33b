//! The entries of a snapshot as a merge takes them, with a note of each for whoever watches the merge.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::backup::parent::{ParentEntry, join_units};
use crate::error::{Error, Result};
use crate::lineage::is_own;
use crate::path::EntryPath;
use crate::source::place::Terms;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::Hash;
use crate::vault::parts::Parts;
use crate::vault::read::PackReader;
use crate::vault::root::{HunkRef, Root};
use crate::vault::tree;

/// The part of an entry that shows in a folder.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub path: EntryPath,
    pub kind: EntryKind,
    pub size: u64,
    pub mtime: i64,
    pub ctime: i64,
    pub inode: u64,
    /// The hash of a file's content.
    pub hash: Option<Hash>,
    /// The group of names of one file that it belongs to.
    pub link: Option<String>,
    /// The side files of a database that was taken raw.
    pub sides: Vec<Entry>,
}

impl From<&Entry> for Recorded {
    fn from(entry: &Entry) -> Self {
        let Entry { kind, size, mtime, ctime, inode, hash, .. } = *entry;
        Recorded {
            path: entry.path.clone(),
            kind,
            size,
            mtime,
            ctime,
            inode,
            hash,
            link: entry.link.clone(),
            sides: Vec::new(),
        }
    }
}

/// Streams the entries of a snapshot, a hunk at a time. A merge drops what it does not find, so each entry that it
/// takes is noted; an error is kept, and ends the stream.
pub struct KnownEntries<'a> {
    packs: &'a PackReader<'a>,
    hunks: std::vec::IntoIter<HunkRef>,
    ready: std::vec::IntoIter<ParentEntry>,
    decoder: Decoder,
    terms: Terms,
    recorded: &'a RefCell<VecDeque<Recorded>>,
    failed: &'a RefCell<Option<Error>>,
}

impl<'a> KnownEntries<'a> {
    pub fn new(
        packs: &'a PackReader<'a>,
        root: &Root,
        terms: Terms,
        (recorded, failed): (&'a RefCell<VecDeque<Recorded>>, &'a RefCell<Option<Error>>),
    ) -> Result<Self> {
        let (hunks, ready) = (tree::hunks(packs, root)?.into_iter(), Vec::new().into_iter());
        Ok(KnownEntries { packs, hunks, ready, decoder: Decoder::new()?, terms, recorded, failed })
    }

    fn read(&mut self) -> Result<bool> {
        let Some(hunk) = self.hunks.next() else { return Ok(false) };
        let entries = tree::read_hunk(self.packs, &hunk, &mut self.decoder)?.into_iter();
        let known = |entry: Entry| ParentEntry {
            entry: Box::new(entry),
            same_place: self.terms.same_place,
            unread: Parts::NONE,
            whole: true,
            sides: Vec::new(),
        };
        let mut known: Vec<_> = entries.filter(|entry| !is_own(&entry.path)).map(known).collect();
        join_units(&mut known);
        self.ready = known.into_iter();
        Ok(true)
    }
}

impl Iterator for KnownEntries<'_> {
    type Item = ParentEntry;

    fn next(&mut self) -> Option<ParentEntry> {
        loop {
            if let Some(known) = self.ready.next() {
                let recorded = Recorded { sides: known.sides.clone(), ..Recorded::from(&*known.entry) };
                self.recorded.borrow_mut().push_back(recorded);
                return Some(known);
            }
            match self.read() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(why) => {
                    *self.failed.borrow_mut() = Some(why);
                    return None;
                }
            }
        }
    }
}
