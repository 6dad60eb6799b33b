//! What could not be read, or never came to rest: it is carried over from an older snapshot, or is missing, and is named.

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

/// After so many days somebody is told again that something could not be read for so long.
const TOLD_AFTER: [i64; 3] = [1, 7, 30];
/// So many warnings tell of what was carried over; all of it is in the report.
pub(super) const TOLD: usize = 20;

/// What is not in a snapshot as it is there.
#[derive(Default)]
pub struct Lacking {
    /// What was carried over.
    pub(super) stale: BTreeMap<EntryPath, Stale>,
    /// What was taken although it never came to rest.
    pub(super) torn: BTreeMap<EntryPath, Problem>,
    /// What was read torn of files that were carried over.
    pub(super) torn_reads: BTreeMap<EntryPath, Box<Entry>>,
    /// What is missing.
    pub problems: BTreeMap<EntryPath, Problem>,
}

impl Lacking {
    /// Takes out what is said of the paths that are read `again`.
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
    /// An entry that cannot be read: it is carried over, or missing, and has not gone.
    pub(super) fn unreadable(&mut self, path: EntryPath, why: String, size: u64) -> Result<()> {
        // Whoever was told to stop commits nothing, and says that and no more.
        let beside = self.carried_sides.contains(&path);
        if self.ctx.stop.load(Ordering::Relaxed) || beside || self.carry_over(&path, &why)? {
            return Ok(());
        }
        self.unread.insert(path.clone(), size);
        self.failed(path, why);
        Ok(())
    }

    /// Puts what the newest good snapshot has at `path`, with all that belongs to it. Says whether it had anything there.
    fn carry_over(&mut self, path: &EntryPath, why: &str) -> Result<bool> {
        self.add_held(Some(path))?;
        // Of a folder that cannot be listed, its own entry was put just now.
        let below = self.writer.last() == *path;
        // What cannot have its place in the tree is missing, and must not keep the snapshot from being taken.
        if !below && !self.writer.has_place_for(path) {
            return Ok(false);
        }
        let Some(mut carry) = self.carry.take() else { return Ok(false) };
        let done = carry.over(path, below, why, |entry, Beside(beside)| self.carried(entry, beside));
        self.carry = Some(carry);
        let Some(carried) = done? else { return Ok(false) };
        // That its attributes are as they were, too, is said with that.
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

    /// Puts an entry that is carried over, or has it wait for its place beside its database.
    fn carried(&mut self, mut entry: Box<Entry>, beside: bool) -> Result<()> {
        if !entry.extents.iter().all(|extent| self.base.has_extent(extent)) {
            // Its header is lost, and can be made anew.
            entry.extents = entry.content_extents();
            entry = self.place(entry, None)?;
        }
        if beside {
            self.carried_sides.insert(entry.path.clone());
            // Also of one that was no database when its log was taken as a file.
            let file = database_of(entry.path.bytes()).and_then(|path| EntryPath::new(path).ok());
            file.into_iter().for_each(|path| self.is_whole(path));
            self.held.insert(entry.path.clone(), entry);
            return Ok(());
        }
        self.add_held(Some(&entry.path))?;
        if !self.writer.has_place_for(&entry.path) {
            self.failed(entry.path, "the folder that it was in is lost".into());
            return Ok(());
        }
        // It is not what other names of a file have that was read under its name.
        self.first.take_if(|(path, ..)| *path == entry.path);
        let path = entry.path.clone();
        let database = entry.database.is_some();
        self.add(entry)?;
        if database {
            self.is_whole(path);
        }
        Ok(())
    }

    /// What lies beside a file now is not stored.
    fn is_whole(&mut self, path: EntryPath) {
        self.databases.retain(|above| path.bytes().starts_with(above.bytes()));
        self.databases.push(path);
    }

    /// An entry that this run has written already; unless it had been carried over with a folder, and that was listed now and
    /// does not have it. What was said of it is said again.
    pub(super) fn written(&mut self, entry: Box<Entry>) -> Result<()> {
        let is_stale = |stale: &BTreeMap<EntryPath, Stale>| {
            let side = self.carried_sides.contains(&entry.path);
            let database = database_of(entry.path.bytes()).filter(|_| side).and_then(|path| EntryPath::new(path).ok());
            entry.path.and_folders().chain(database).any(|path| stale.contains_key(&path))
        };
        if is_stale(&self.aside.stale) && !is_stale(&self.lacking.stale) {
            return Ok(());
        }
        self.lacking.torn.extend(self.aside.torn.remove_entry(&entry.path));
        self.lacking.torn_reads.extend(self.aside.torn_reads.remove_entry(&entry.path));
        self.lacking.problems.extend(self.aside.problems.remove_entry(&entry.path));
        self.add(entry)
    }

    /// What is at `path` stays as it was written.
    pub(super) fn stays(&mut self, path: &EntryPath) {
        let below = |at: &EntryPath| at.is_in(path);
        let back: Vec<_> = self.aside.stale.range(path.clone()..).map(|(at, _)| at.clone()).take_while(below).collect();
        self.lacking.stale.extend(back.iter().filter_map(|at| self.aside.stale.remove_entry(at)));
        // It had been carried over with the folder that it is in.
        let with = path.folder().and_then(|folder| folder.nearest_in(&self.aside.stale));
        if let Some(with) = with.filter(|_| !self.lacking.stale.contains_key(path)) {
            self.lacking.stale.insert(path.clone(), Stale { path: path.clone(), ..with.clone() });
        }
    }

    /// Puts a file that was read, and what lies beside it if it is a raw database. One that never came to rest is carried
    /// over, if it can be, and what was read is kept beside the tree.
    pub(super) fn add_read(&mut self, entry: Box<Entry>, sides: Vec<Entry>, torn: Option<String>) -> Result<()> {
        let path = entry.path.clone();
        if let Some(why) = torn {
            let known = self.carry.as_mut().map_or(Ok(false), |carry| carry.has_file(&path))?;
            // What is carried over is not what other names of the file have.
            let first = if known { self.first.take() } else { None };
            if known && self.carry_over(&path, &why)? {
                let all = sides.into_iter().map(Box::new).chain([entry]);
                self.lacking.torn_reads.extend(all.map(|entry| (entry.path.clone(), entry)));
                return Ok(());
            }
            self.first = self.first.take().or(first);
            // A database that nothing good is known of stays unsound, as long as there is no good snapshot at all.
            if entry.database.is_none() || self.carry.as_ref().is_some_and(Carry::exists) {
                self.lacking.torn.insert(path.clone(), Problem::new(path.clone(), why.clone()));
            }
            self.warn(format!("{path}: {why}; taken as it stood, {} bytes", entry.size));
        }
        self.held.extend(sides.into_iter().map(|side| (side.path.clone(), Box::new(side))));
        self.add(entry)
    }

    /// Whether there are files, and none of them could be read: then nothing was captured.
    pub fn read_nothing(&self) -> bool {
        self.judged.live == 0 && !(self.lacking.stale.is_empty() && self.unread.is_empty())
    }

    /// An entry that could not be read, and why.
    pub fn first_unread(&self) -> Option<(&EntryPath, &str)> {
        let stale = self.lacking.stale.values().map(|stale| (&stale.path, &*stale.why));
        stale.chain(self.lacking.problems.values().map(|problem| (&problem.path, &*problem.why))).next()
    }

    /// Finds since when what is torn or missing was so, and whether what it lacks is new since the last good snapshot, or has
    /// lasted for another day, week or month: then somebody is told.
    ///
    /// # Errors
    /// A store that fails.
    pub fn is_news(&mut self, started: Timestamp) -> Result<bool> {
        if self.lacking.stale.is_empty() && self.lacking.torn.is_empty() && self.lacking.problems.is_empty() {
            return Ok(false);
        }
        let Some(carry) = &mut self.carry else { return Ok(true) };
        let Some(before) = carry.told()? else { return Ok(true) };
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

    /// What was carried over, in path order.
    pub fn stale(&self) -> Vec<Stale> {
        self.lacking.stale.values().cloned().collect()
    }

    /// What was taken although it never came to rest, in path order.
    pub fn torn(&self) -> Vec<Problem> {
        self.lacking.torn.values().cloned().collect()
    }

    /// Writes what was read torn into hunks outside of the tree; gives them, and the packs that they reach.
    ///
    /// # Errors
    /// A store that fails.
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
