//! Handles what could not be read, or never came to rest: it is carried over from an older snapshot, or is missing,
//! and is named.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::Assembly;
use crate::backup::carry::{Beside, Carry};
use crate::error::Result;
use crate::path::EntryPath;
use crate::sqlite::side_files::database_of;
use crate::vault::entry::Entry;
use crate::vault::hex::PackId;
use crate::vault::hunk::HunkBuilder;
use crate::vault::root::{HunkRef, Problem, Stale};

/// Days after which somebody is told again that something still cannot be read.
const TOLD_AFTER: [i64; 3] = [1, 7, 30];
/// Most warnings about entries that were carried over; the report holds all of them.
pub(super) const TOLD: usize = 20;

/// The entries that a snapshot does not hold as they were in the data directory.
#[derive(Default)]
pub struct Lacking {
    /// Entries that were carried over.
    pub(super) stale: BTreeMap<EntryPath, Stale>,
    /// Entries that were taken although they never came to rest.
    pub(super) torn: BTreeMap<EntryPath, Problem>,
    /// The torn versions that were read of files that were carried over.
    pub(super) torn_reads: BTreeMap<EntryPath, Box<Entry>>,
    /// Entries that are missing.
    pub problems: BTreeMap<EntryPath, Problem>,
}

impl Lacking {
    /// Takes out the records of the paths that are read `again`.
    pub(super) fn take(&mut self, again: impl Fn(&EntryPath) -> bool) -> Lacking {
        Lacking {
            stale: self.stale.extract_if(.., |path, _| again(path)).collect(),
            torn: self.torn.extract_if(.., |path, _| again(path)).collect(),
            torn_reads: self.torn_reads.extract_if(.., |path, _| again(path)).collect(),
            problems: self.problems.extract_if(.., |path, _| again(path)).collect(),
        }
    }
}

impl Assembly<'_> {
    /// Takes an entry that cannot be read: it is carried over, or missing, and does not count as deleted.
    pub(super) fn unreadable(&mut self, path: EntryPath, why: String, size: u64) -> Result<()> {
        // A run that was told to stop commits nothing, and reports only that.
        let beside = self.carried_sides.contains(&path);
        if self.ctx.stop.load(Ordering::Relaxed) || beside || self.carry_over(&path, &why)? {
            return Ok(());
        }
        self.unread.insert(path.clone(), size);
        self.failed(path, why);
        Ok(())
    }

    /// Puts what the newest good snapshot has at `path`, with everything that belongs to it. Returns whether it had
    /// anything there.
    fn carry_over(&mut self, path: &EntryPath, why: &str) -> Result<bool> {
        self.add_waiting_sides(Some(path))?;
        // The own entry of a folder that cannot be listed was put just now.
        let below = self.writer.last() == *path;
        // An entry without a place in the tree is missing, and must not keep the snapshot from being taken.
        if !below && !self.writer.has_place_for(path) {
            return Ok(false);
        }
        let Some(mut carry) = self.carry.take() else { return Ok(false) };
        let done = carry.over(path, below, why, |entry, Beside(beside)| self.carried(entry, beside));
        self.carry = Some(carry);
        let Some(carried) = done? else { return Ok(false) };
        // The stale record covers its old attributes as well.
        self.lacking.problems.remove(path);
        self.carried.extend(carried.packs.into_iter().map(|pack| (pack.id, pack)));
        for Problem { path, why, .. } in carried.lost {
            self.failed(path, why);
        }
        if let Some(stale) = carried.stale.first()
            && self.lacking.stale.len() < TOLD
        {
            self.warn(format!("{path} is in the snapshot as of {}, and not as it is now: {why}", stale.since));
        }
        self.lacking.stale.extend(carried.stale.into_iter().map(|stale| (stale.path.clone(), stale)));
        self.lacking.torn.extend(carried.torn.into_iter().map(|torn| (torn.path.clone(), torn)));
        Ok(true)
    }

    /// Puts an entry that is carried over, or keeps it until its place if it is a side file.
    fn carried(&mut self, mut entry: Box<Entry>, beside: bool) -> Result<()> {
        if !entry.extents.iter().all(|extent| self.base.has_extent(extent)) {
            // Its header is lost, and can be written again.
            entry.extents = entry.content_extents();
            entry = self.place(entry, None)?;
        }
        if beside {
            self.carried_sides.insert(entry.path.clone());
            // This holds even if the file was not a database when its log was taken as a file.
            let file = database_of(entry.path.bytes()).and_then(|path| EntryPath::new(path).ok());
            file.into_iter().for_each(|path| self.is_whole(path));
            self.waiting_sides.insert(entry.path.clone(), entry);
            return Ok(());
        }
        self.add_waiting_sides(Some(&entry.path))?;
        if !self.writer.has_place_for(&entry.path) {
            self.failed(entry.path, "its folder in the older snapshot is lost".into());
            return Ok(());
        }
        // Other names of the file that was read under this name have different content.
        self.pending_link.take_if(|(path, ..)| *path == entry.path);
        let path = entry.path.clone();
        let database = entry.database.is_some();
        self.add(entry)?;
        if database {
            self.is_whole(path);
        }
        Ok(())
    }

    /// Notes that a file is complete: what lies beside it now is not stored.
    fn is_whole(&mut self, path: EntryPath) {
        self.databases.retain(|above| path.bytes().starts_with(above.bytes()));
        self.databases.push(path);
    }

    /// Takes an entry that this run has written already, unless it had been carried over with a folder that was
    /// listed now and does not contain it. Anything recorded about it is recorded again.
    pub(super) fn written(&mut self, entry: Box<Entry>) -> Result<()> {
        let is_stale = |stale: &BTreeMap<EntryPath, Stale>| {
            let side = self.carried_sides.contains(&entry.path);
            let database = database_of(entry.path.bytes()).filter(|_| side).and_then(|path| EntryPath::new(path).ok());
            entry.path.and_folders().chain(database).any(|path| stale.contains_key(&path))
        };
        if is_stale(&self.lacking_before.stale) && !is_stale(&self.lacking.stale) {
            return Ok(());
        }
        self.lacking.torn.extend(self.lacking_before.torn.remove_entry(&entry.path));
        self.lacking.torn_reads.extend(self.lacking_before.torn_reads.remove_entry(&entry.path));
        self.lacking.problems.extend(self.lacking_before.problems.remove_entry(&entry.path));
        self.add(entry)
    }

    /// Records that what is at `path` stays as it was written.
    pub(super) fn stays(&mut self, path: &EntryPath) {
        let below = |at: &EntryPath| at.is_in(path);
        let back: Vec<_> =
            self.lacking_before.stale.range(path.clone()..).map(|(at, _)| at.clone()).take_while(below).collect();
        self.lacking.stale.extend(back.iter().filter_map(|at| self.lacking_before.stale.remove_entry(at)));
        // It had been carried over with the folder that it is in.
        let with = path.folder().and_then(|folder| folder.nearest_in(&self.lacking_before.stale));
        if let Some(with) = with.filter(|_| !self.lacking.stale.contains_key(path)) {
            self.lacking.stale.insert(path.clone(), Stale { path: path.clone(), ..with.clone() });
        }
    }

    /// Puts a file that was read, with its side files if it is a raw database. A file that never came to rest is
    /// carried over, if possible, and what was read of it is kept beside the tree.
    pub(super) fn add_read(&mut self, entry: Box<Entry>, sides: Vec<Entry>, torn: Option<String>) -> Result<()> {
        let path = entry.path.clone();
        if let Some(why) = torn {
            let known = self.carry.as_mut().map_or(Ok(false), |carry| carry.has_file(&path))?;
            // Other names of the file do not have the content that is carried over.
            let first = if known { self.pending_link.take() } else { None };
            if known && self.carry_over(&path, &why)? {
                let all = sides.into_iter().map(Box::new).chain([entry]);
                self.lacking.torn_reads.extend(all.map(|entry| (entry.path.clone(), entry)));
                return Ok(());
            }
            self.pending_link = self.pending_link.take().or(first);
            // A database without any good version stays unsound, as long as there is no good snapshot at all.
            if entry.database.is_none() || self.carry.as_ref().is_some_and(Carry::exists) {
                self.lacking.torn.insert(path.clone(), Problem::new(path.clone(), why.clone()));
            }
            self.warn(format!("{path}: {why}; taken as it stood, {} bytes", entry.size));
        }
        self.waiting_sides.extend(sides.into_iter().map(|side| (side.path.clone(), Box::new(side))));
        self.add(entry)
    }

    /// Whether there are files and not one could be read: then nothing was captured.
    pub fn read_nothing(&self) -> bool {
        self.judged.live == 0 && !(self.lacking.stale.is_empty() && self.unread.is_empty())
    }

    /// Returns an entry that could not be read, and why.
    pub fn first_unread(&self) -> Option<(&EntryPath, &str)> {
        let stale = self.lacking.stale.values().map(|stale| (&stale.path, &*stale.why));
        stale.chain(self.lacking.problems.values().map(|problem| (&problem.path, &*problem.why))).next()
    }

    /// Finds since when torn or missing entries have been so. Returns whether what the snapshot lacks is new since
    /// the last good snapshot, or has now lasted for a day, a week or a month: then somebody is told.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn is_news(&mut self, started: Timestamp) -> Result<bool> {
        if self.lacking.stale.is_empty() && self.lacking.torn.is_empty() && self.lacking.problems.is_empty() {
            return Ok(false);
        }
        let Some(carry) = &mut self.carry else { return Ok(true) };
        let Some(before) = carry.known_gaps()? else { return Ok(true) };
        for lack in self.lacking.torn.values_mut().chain(self.lacking.problems.values_mut()) {
            lack.since = before.since(&lack.path);
        }
        let carried = self.lacking.stale.values().map(|stale| (&stale.path, stale.since));
        let others = self.lacking.torn.values().chain(self.lacking.problems.values());
        let others = others.map(|lack| (&lack.path, lack.since.unwrap_or(started)));
        Ok(carried.chain(others).any(|(path, since)| {
            let days = |at: Timestamp| at.duration_since(since).as_hours() / 24;
            let passed = TOLD_AFTER.iter().any(|day| days(before.started) < *day && days(started) >= *day);
            passed || before.since(path).is_none()
        }))
    }

    /// Returns what was carried over, in path order.
    pub fn stale(&self) -> Vec<Stale> {
        self.lacking.stale.values().cloned().collect()
    }

    /// Returns what was taken although it never came to rest, in path order.
    pub fn torn(&self) -> Vec<Problem> {
        self.lacking.torn.values().cloned().collect()
    }

    /// Writes the torn reads into hunks outside of the tree. Returns these hunks, and the packs that they name.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn write_torn_reads(&mut self) -> Result<(Vec<HunkRef>, Vec<PackId>)> {
        let (mut hunks, mut reached, mut builder) = (Vec::new(), Vec::new(), HunkBuilder::default());
        let mut entries = std::mem::take(&mut self.lacking.torn_reads).into_values().peekable();
        while let Some(entry) = entries.next() {
            let full = match builder.push(&entry) {
                Ok(full) => full,
                Err(why) => {
                    self.warn(format!("what was read of {} while it changed is not kept: {why}", entry.path));
                    None
                }
            };
            let last = if entries.peek().is_none() { builder.finish() } else { None };
            for hunk in full.into_iter().chain(last) {
                let frame = self.index.store(&hunk.bytes)?;
                reached.extend(hunk.packs.iter().chain([&frame.pack]));
                hunks.push(HunkRef { frame, entries: hunk.entries, first: hunk.first, maps: hunk.maps });
            }
        }
        Ok((hunks, reached))
    }
}
