//! Takes one capture of the data directory: walks through it, and looks at it once more at the end.
//!
//! [`walk`](crate::source::walk) and the parent's entries meet in [`merge`](super::merge); several threads
//! [`read`](super::read); the [`assembly`](super::assemble) puts the results together. Then the
//! [`folders`](crate::source::folders) are looked at once more. Lacking entries are walked and read in the same way,
//! and joined with what was written ([`patch`](super::patch)), which is read back from the vault's store; that is a
//! *round*. There are at most `ROUNDS`, and after the first none begins if the rounds so far took more than a tenth
//! of the capture's time, and more than a second. The capture always ends with a look: what is lacking then is
//! reported. A look during which a folder changed is followed by another one, since an entry may move past it; the
//! folders that changed during the last one are reported as well, if anything was moved during the capture.

mod pass;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::pass::Pass;
use super::assemble::Assembly;
use super::commit::{BackupRun, CommitOutcome};
use super::message::Why;
use super::options::{BackupOptions, doing};
use super::packer::Packer;
use super::writer::WrittenHunks;
use crate::error::Result;
use crate::fs::beneath::Directory;
use crate::fs::times::TICK;
use crate::monitor::{Context, Moment};
use crate::path::EntryPath;
use crate::source::folders::{FolderRecheck, Folders, ToTake, is_newborn};
use crate::source::found::SourceEntry;
use crate::source::select::Select;
use crate::vault::entry::EntryKind;

/// Most rounds at the end of a capture.
const ROUNDS: u32 = 3;
/// How often the folders are looked at before a round, and at the end, as long as they keep changing: an entry that
/// is moved about may be in none of the folders when that folder is looked at.
const LOOKS: u32 = 3;
/// Time that the rounds may take even if the capture was short.
const ROUNDS_TIME: Duration = Duration::from_secs(1);
/// Most names in a warning about many entries.
const NAMED: usize = 3;
/// The warning about a folder that kept changing at the end of a capture: an entry that was moved into it, and
/// existed under another name all the time, may be missing.
pub const NEVER_RESTS: &str = "it did not come to rest while the snapshot was taken";

/// Findings and cost of the look at the end of a capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LookedAgain {
    /// Folders that were listed once more.
    pub folders: u64,
    /// Entries that were taken once more, each with everything in it.
    pub taken: u64,
    /// Rounds that were needed.
    pub rounds: u32,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Entries that are to be looked at once more.
type Later = BTreeMap<EntryPath, Why>;

/// Everything that a capture works with.
#[derive(Clone, Copy)]
pub struct Capture<'a> {
    /// The run it belongs to.
    pub run: &'a BackupRun<'a>,
    /// The vault's address.
    pub vault: &'a str,
    /// The data directory.
    pub root: &'a Directory,
    /// Which entries of it are selected.
    pub select: &'a Select,
    /// When the capture began, in ns since 1970.
    pub began: i64,
    /// Name of the data directory's filesystem if another machine, or another program, provides it.
    pub remote: Option<&'static str>,
    /// Warns the user.
    pub warn: &'a (dyn Fn(String) + Sync),
    /// Number of threads, and the monitor for progress.
    pub ctx: &'a Context<'a>,
}

impl Capture<'_> {
    /// Takes the whole directory into the assembly.
    ///
    /// # Errors
    /// Fails if the data directory cannot be read, if the store fails, or if the run is stopped.
    pub fn take(&self, assembly: &mut Assembly, packer: &Packer) -> Result<(WrittenHunks, LookedAgain)> {
        let (clock, ctx) = (Instant::now(), self.ctx);
        let (mut secured, mut takes_checkpoints) = (Instant::now(), true);
        ctx.monitor.begin("backup", None);
        let folders = self.run_pass(&Pass::Whole, |events| {
            assembly.take(events)?;
            let due = takes_checkpoints && secured.elapsed() >= self.run.options.checkpoint_every;
            if due && packer.stored_bytes() <= self.run.may_keep() {
                ctx.monitor.reached(Moment::Committing, &EntryPath::root());
                if let Some(written) = assembly.checkpoint()? {
                    // Packs that are missing now will be found missing at the end too.
                    if let CommitOutcome::NoCheckpoint(why) = self.run.commit(assembly, packer, written, true)? {
                        let what = "no checkpoint could be written, and if this backup is cut off the next one begins from the start";
                        (self.warn)(format!("{what}: {why}"));
                        takes_checkpoints = false;
                    }
                }
                secured = Instant::now();
            }
            ctx.check(&doing(self.run.options))
        })?;
        let written = assembly.finish()?;
        self.look_again(assembly, folders, written, clock.elapsed())
    }

    /// Looks at all folders once more, and takes what is lacking.
    fn look_again(
        &self,
        assembly: &mut Assembly,
        mut folders: Folders,
        mut written: WrittenHunks,
        capture: Duration,
    ) -> Result<(WrittenHunks, LookedAgain)> {
        let clock = Instant::now();
        let mut done = LookedAgain::default();
        let mut rounds_took = Duration::ZERO;
        // Whether an entry may have left its place without being noticed.
        let stirred = folders.stirred || assembly.shrank || self.remote.is_some();
        let mut moved = false;
        let mut later = Later::new();
        loop {
            later.extend(assembly.take_later());
            let mut to_take = ToTake::default();
            for look in 0..LOOKS {
                if look > 0 {
                    // A change during the last look must not count as a change during this one.
                    std::thread::sleep(Duration::from_nanos(TICK as u64));
                }
                folders = self.recheck_folders(folders, &mut later, &mut to_take)?;
                if to_take.restless.is_empty() {
                    break;
                }
            }
            done.folders += to_take.listed;
            // Entries that a round took are to be looked at once more after it.
            let old = |why: &Why| matches!(why, Why::Gone | Why::Read(_));
            moved |= !to_take.lacking.is_empty() || done.rounds == 0 && later.values().any(old);
            if done.rounds > 0 || !moved && !stirred {
                // An entry that has just been created need not be in the snapshot, and must not keep the capture from
                // ending; unless it may be what disappeared elsewhere: a log that was compressed into another folder
                // and deleted before its own was listed, or copied and emptied.
                to_take.newborn.clear();
            }
            if !moved {
                // The folders changed only because files are saved again, or come and go.
                to_take.restless.clear();
            }
            let taken = to_take.paths();
            let enough = done.rounds == ROUNDS || rounds_took > ROUNDS_TIME.max(capture / 10);
            if taken.is_empty() || done.rounds > 0 && enough {
                self.report(assembly, &to_take, &later, &done, clock.elapsed());
                let unread = later.iter().filter(|(path, why)| **why == Why::Unread && to_take.lacking.contains(*path));
                let unread: Vec<_> = unread.map(|(path, _)| path.clone()).collect();
                if !unread.is_empty() {
                    written = self.close(assembly, &written, &unread)?;
                }
                done.seconds = clock.elapsed().as_secs_f64();
                return Ok((written, done));
            }
            let round = Instant::now();
            done.rounds += 1;
            done.taken += taken.len() as u64;
            later.retain(|path, _| !path.is_in_one_of(&taken));
            let reader = assembly.begin_again(&taken, &written)?;
            let pass = Pass::Round { taken: &taken, new: &to_take.newborn, written: &written, reader: &reader };
            let new = self.run_pass(&pass, |events| {
                assembly.take(events)?;
                self.ctx.check(&doing(self.run.options))
            })?;
            folders = self.join_records(folders, new)?;
            written = assembly.finish()?;
            rounds_took += round.elapsed();
        }
    }

    /// Carries over entries that exist but could never be read, or reports them as missing.
    fn close(&self, assembly: &mut Assembly, written: &WrittenHunks, unread: &[EntryPath]) -> Result<WrittenHunks> {
        let reader = assembly.begin_again(&[], written)?;
        self.run_pass(&Pass::Close { unread, written, reader: &reader }, |events| {
            assembly.take(events)?;
            self.ctx.check(&doing(self.run.options))
        })?;
        assembly.finish()
    }

    fn is_newborn(&self, found: &SourceEntry) -> bool {
        let born = self.root.born_at(&found.path);
        found.kind != EntryKind::Folder && is_newborn(found, born, self.began, self.run.options.trust.now)
    }

    /// Looks at all folders, one after the other, and at the entries in `later`.
    fn recheck_folders(&self, folders: Folders, later: &mut Later, to_take: &mut ToTake) -> Result<Folders> {
        let BackupOptions { trust, .. } = self.run.options;
        let recheck = FolderRecheck {
            root: self.root,
            select: self.select,
            window: trust.window,
            began: self.began,
            since: (trust.now)(),
            now: trust.now,
            times_tell: self.remote.is_none(),
            stop: self.ctx.stop,
        };
        to_take.restless.clear();
        let mut looked = Folders::default();
        folders.each(|record| {
            self.ctx.check(&doing(self.run.options))?;
            self.ctx.monitor.reached(Moment::Looking, &record.path);
            looked.push(&recheck.recheck_folder(record, to_take));
            Ok(())
        })?;
        later.retain(|path, why| {
            // Its folder's record holds what was listed; that may have been back for a while, and gone again before
            // it is looked at here.
            recheck.note_left(path, to_take);
            let now = self.root.stat_at(path).ok().and_then(|stat| SourceEntry::new(path.clone(), &stat));
            let Some(now) = now.filter(|now| self.select.selects(now)) else { return true };
            let newborn = self.is_newborn(&now);
            match why {
                // A file that is saved all the time: what was read is one of its states.
                Why::Read(_) if newborn => return false,
                Why::Read(inode) if *inode == now.inode => {}
                Why::Gone | Why::NewAndGone if newborn => _ = to_take.newborn.insert(path.clone()),
                _ => _ = to_take.lacking.insert(path.clone()),
            }
            true
        });
        Ok(looked)
    }

    /// Returns the records of the folders after a round.
    fn join_records(&self, folders: Folders, new: Folders) -> Result<Folders> {
        let mut joined = Folders::default();
        folders.each(|record| match new.has(&record.path) {
            true => Ok(()),
            // A folder that was not listed in the round is unchanged, or gone: its record is still valid.
            false => {
                joined.push(&record);
                Ok(())
            }
        })?;
        new.each(|record| {
            joined.push(&record);
            Ok(())
        })?;
        Ok(joined)
    }

    fn report(&self, assembly: &mut Assembly, to_take: &ToTake, later: &Later, done: &LookedAgain, took: Duration) {
        let gone = |(path, why): &(&EntryPath, &Why)| **why == Why::Gone && self.root.stat_at(path).is_err();
        let vanished: Vec<_> = later.iter().filter(gone).map(|(path, _)| path).collect();
        let first: Vec<_> = vanished.iter().take(NAMED).map(|path| path.to_string()).collect();
        match vanished.len().saturating_sub(first.len()) {
            _ if first.is_empty() => {}
            0 => assembly.warn(format!("deleted or moved before it was read: {}", first.join(", "))),
            more => assembly.warn(format!("deleted or moved before it was read: {} and {more} more", first.join(", "))),
        }
        let mut folders = to_take.restless.clone();
        folders.extend(to_take.lacking.iter().map(|path| path.folder().unwrap_or_default()));
        for folder in folders {
            assembly.warn(format!("{folder}: {NEVER_RESTS}; what was moved in it may be missing"));
        }
        for path in &to_take.remounted {
            let what = "another filesystem has been there since it was listed; what had been read before stays in the snapshot";
            assembly.warn(format!("{path}: {what}"));
        }
        if let Some(name) = self.remote {
            let seconds = took.as_secs_f64();
            tracing::info!("{} folders on {name} were listed once more, in {seconds:.1} s", done.folders);
        }
    }
}
