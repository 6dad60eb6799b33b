//! One pass through walk, merge and readers: the whole directory, or what is taken once more.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Sender, bounded};
use indicatif::BinaryBytes;

use super::Capture;
use crate::backup::commit::BackupRun;
use crate::backup::merge::{Merge, MergeStep, Rule};
use crate::backup::message::{Disconnected, ReadEvent, Why};
use crate::backup::options::{BackupOptions, doing};
use crate::backup::pages::reader::DatabaseOptions;
use crate::backup::parent::ParentEntry;
use crate::backup::patch::Patch;
use crate::backup::read::{self, ReadContext, StepQueue};
use crate::backup::writer::WrittenHunks;
use crate::error::{Code, Error, Result};
use crate::monitor::SilentMonitor;
use crate::path::EntryPath;
use crate::source::folders::Folders;
use crate::source::found::SourceEntry;
use crate::source::walk::{Met, Walker};
use crate::sqlite;
use crate::vault::decoder::Decoder;
use crate::vault::parts::Parts;
use crate::vault::read::PackReader;
use crate::vault::tree;

/// Which entries one pass takes through the threads.
pub(super) enum Pass<'a> {
    /// The whole directory, beside the parent's entries.
    Whole,
    /// The entries in `taken`, beside what was written so far.
    Round {
        taken: &'a [EntryPath],
        new: &'a BTreeSet<EntryPath>,
        written: &'a WrittenHunks,
        reader: &'a PackReader<'a>,
    },
    /// The entries that were written so far, and the ones in `unread`, which could not be read.
    Close { unread: &'a [EntryPath], written: &'a WrittenHunks, reader: &'a PackReader<'a> },
}

impl Capture<'_> {
    /// Sends entries through walk, merge and readers; `take` gets the results, batch by batch, in path order. Returns
    /// the folders that were listed.
    pub(super) fn run_pass(
        &self,
        pass: &Pass,
        mut take: impl FnMut(&mut dyn Iterator<Item = ReadEvent>) -> Result<()>,
    ) -> Result<Folders> {
        let BackupRun { options, base, .. } = self.run;
        let databases = &DatabaseOptions {
            enabled: options.sqlite,
            check: options.check,
            patience: options.busy_timeout,
            key: self.run.vault.config.hash_key.0,
            trust: options.trust,
        };
        let over = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Two hunks ahead keep the merge busy.
            let (known_to, known) = bounded::<Vec<ParentEntry>>(2);
            let sender = scope.spawn(move || match pass {
                Pass::Whole => base.send(&known_to, self.warn),
                Pass::Round { written, reader, .. } | Pass::Close { written, reader, .. } => {
                    send_written(written, reader, &known_to)
                }
            });
            let reading = ReadContext {
                root: self.root,
                select: self.select,
                began: self.began,
                numbers_tell: self.remote.is_none(),
                base,
                databases,
                trust: options.trust,
                ctx: self.ctx,
            };
            let (feed, in_order) = read::start(scope, reading);
            let walker = scope.spawn(move || self.walk(pass, known.into_iter().flatten(), feed, over));
            if self.ctx.monitor.wants_total() && matches!(pass, Pass::Whole) {
                scope.spawn(move || self.count(over));
            }
            let mut taken = Ok(());
            // The channel is emptied even after a failure: a reader or the walk may be waiting to send into it.
            for batch in in_order {
                if taken.is_ok() {
                    taken = take(&mut batch.into_iter().flatten());
                    over.store(taken.is_err(), Ordering::Relaxed);
                }
            }
            let panicked = || Error::failed(doing(options), "a thread ended in a panic").with_code(Code::Internal);
            let walked = walker.join().unwrap_or_else(|_| Err(panicked()));
            let sent = sender.join().unwrap_or_else(|_| Err(panicked()));
            // This thread's own error comes first: after it, the others only report that they ended early.
            taken.and(sent).and(walked)
        })
    }

    fn walker(&self, threads: usize) -> Walker<'_> {
        let BackupOptions { trust, .. } = self.run.options;
        let monitor = self.ctx.monitor;
        Walker {
            root: self.root,
            select: self.select,
            threads,
            now: trust.now,
            stop: self.ctx.stop,
            monitor,
            restored_from: Some(self.vault),
        }
    }

    /// Walks beside the known entries, and hands on the steps, until `over` is set. Returns the folders that were
    /// listed.
    fn walk(
        &self,
        pass: &Pass,
        known: impl Iterator<Item = ParentEntry>,
        mut feed: StepQueue,
        over: &AtomicBool,
    ) -> Result<Folders> {
        let BackupRun { options, base, unread: still_unread, .. } = self.run;
        let BackupOptions { verify_content, sqlite, check, trust, .. } = **options;
        let rule = Rule { verify_content, sample: trust.sample, turn: base.turn, sqlite, check };
        let used = sqlite::usage::UsageFinder::default();
        let elsewhere = |found: &SourceEntry| used.is_used(self.root, &found.path, (found.device, found.inode));
        let mut folders = Folders::default();
        let early = |_| Error::failed(doing(options), "it ended early").with_code(Code::Internal);
        let go_on = || {
            if over.load(Ordering::Relaxed) {
                return Err(early(Disconnected));
            }
            self.ctx.check(&doing(options))
        };
        let walker = self.walker(self.ctx.threads);
        match pass {
            Pass::Whole => {
                let due = base.due(base.turn, trust.at_least);
                let mut merge = Merge::new(known, rule).with_missed(base.missed()).reading(due, still_unread.clone());
                if sqlite {
                    merge = merge.asking(&elsewhere);
                }
                let mut estimate = Estimate { free: self.run.free, new: 0 };
                walker.whole(|met| {
                    match met {
                        Met::Entry(found) => {
                            let step = merge.next(found);
                            estimate.add(&step).map(self.warn);
                            feed.push(step).map_err(early)?;
                        }
                        Met::Listed(record) => {
                            folders.stirred |= record.changed_since(self.began);
                            folders.push(&record);
                        }
                        Met::Failed(path, why) => feed.push(MergeStep::Failed(path, why)).map_err(early)?,
                        Met::Away(path) => feed.push(MergeStep::Later(path, Why::Gone)).map_err(early)?,
                        Met::Skipped(path, why) => (self.warn)(format!("{path} is skipped: {why}")),
                    }
                    go_on()
                })?;
            }
            Pass::Round { taken, new, .. } => {
                let merge = Merge::new(std::iter::empty(), rule);
                let mut patch = Patch::new(known.map(|known| known.entry), merge);
                walker.some(taken, |met| {
                    match met {
                        Met::Entry(found) => {
                            // The entry that was there at the last look may have been moved meanwhile, to a name that
                            // something else had.
                            if self.remote.is_none() && taken.binary_search(&found.path).is_ok() {
                                feed.push(MergeStep::Later(found.path.clone(), Why::Read(found.inode)))
                                    .map_err(early)?;
                            }
                            patch.next(found, |step| feed.push(step)).map_err(early)?;
                        }
                        Met::Listed(record) => folders.push_newer(&record),
                        Met::Failed(path, why) => {
                            patch.failed(path, why, |step| feed.push(step)).map_err(early)?;
                        }
                        // Its name is already in the new listing: unless it is looked for again, it would count as
                        // taken.
                        Met::Away(path) => {
                            let why = if new.contains(&path) { Why::NewAndGone } else { Why::Gone };
                            feed.push(MergeStep::Later(path, why)).map_err(early)?;
                        }
                        Met::Skipped(path, why) => (self.warn)(format!("{path} is skipped: {why}")),
                    }
                    go_on()
                })?;
                patch.rest(|step| feed.push(step)).map_err(early)?;
            }
            Pass::Close { unread, .. } => {
                let merge = Merge::new(std::iter::empty(), rule);
                let mut patch = Patch::new(known.map(|known| known.entry), merge);
                for path in *unread {
                    let why = "it could not be opened, or was replaced again and again".into();
                    patch.failed(path.clone(), why, |step| feed.push(step)).map_err(early)?;
                    go_on()?;
                }
                patch.rest(|step| feed.push(step)).map_err(early)?;
            }
        }
        feed.flush().map_err(early)?;
        Ok(folders)
    }

    /// Counts the bytes of all entries, for whoever watches the progress.
    fn count(&self, over: &AtomicBool) {
        let mut bytes = 0u64;
        let counted = Walker { monitor: &SilentMonitor, ..self.walker(1) }.whole(|met| {
            if let Met::Entry(found) = met {
                bytes = bytes.saturating_add(found.size);
            }
            if over.load(Ordering::Relaxed) {
                return Err(Error::failed("count", "it is over"));
            }
            self.ctx.check("count")
        });
        // A failure shows up in the backup itself.
        if counted.is_ok() {
            self.ctx.monitor.total(bytes);
        }
    }
}

/// Estimates whether new content fits into the vault, judging by sizes.
struct Estimate {
    /// Bytes that were free when the backup began. `None` if that is unknown, or after the warning.
    free: Option<u64>,
    /// Bytes of new files, plus the growth of others.
    new: u64,
}

impl Estimate {
    /// Adds a step's bytes. Returns a warning, once, as soon as they no longer fit.
    fn add(&mut self, step: &MergeStep) -> Option<String> {
        let MergeStep::Read(found, known) = step else { return None };
        if found.sparse {
            return None;
        }
        let more = found.size.saturating_sub(known.as_ref().map_or(0, |known| known.size));
        self.new = self.new.saturating_add(more);
        let free = self.free.take_if(|free| *free < self.new)?;
        let (new, free) = (BinaryBytes(self.new), BinaryBytes(free));
        Some(format!(
            "new files, and what others have grown by, come to {new} so far, and where the vault is {free} are free: unless they \
             compress well, this backup will not fit"
        ))
    }
}

/// Sends what was written, one hunk at a time, until the receiver is gone.
fn send_written(written: &WrittenHunks, reader: &PackReader, to: &Sender<Vec<ParentEntry>>) -> Result<()> {
    let mut decoder = Decoder::new()?;
    let unread = Parts::NONE;
    for hunk in &written.hunks {
        let entries = tree::read_hunk(reader, hunk, &mut decoder)?;
        let known =
            |entry| ParentEntry { entry: Box::new(entry), same_place: true, whole: true, sides: Vec::new(), unread };
        if to.send(entries.into_iter().map(known).collect()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
