//! Takes a snapshot of a data directory.
//!
//! [`walk`] and [`parent`] (the known entries) meet in [`merge`], path by path; what is new or changed is [`read`] by
//! several threads and [`assemble`]d in order: headers and blocks go through the [`packer`] into packs, entries into
//! hunks, and when everything is durable, [`commit`] writes the root. At its end a [`capture`] looks once more at the
//! [folders](crate::source::folders) that it went through, and takes what was moved meanwhile. Packs that may be damaged are [`doubted`],
//! and not built upon. Each stage is one or several threads, the channels between them hold little, and nothing holds
//! the whole of a snapshot.
//!
//! The modules are listed in the order of flow: what a backup starts from, the capture, reading, assembly, the commit.

pub mod options;
pub mod lost;
pub mod doubted;
pub mod descent;
pub mod parent;
pub mod newer_format;
pub mod unread;
pub mod capture;
pub mod merge;
pub mod patch;
pub mod read;
pub mod message;
pub mod large;
pub mod block;
pub mod pages;
pub mod assemble;
pub mod carry;
pub mod dedup;
pub mod writer;
pub mod index;
pub mod packer;
pub mod suspect;
pub mod commit;
pub mod rescue;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use self::assemble::Assembly;
use self::capture::Capture;
pub use self::capture::{LookedAgain, NEVER_RESTS};
use self::commit::{BackupRun, CommitOutcome};
pub use self::commit::{MAX_LABEL, MAX_LABELS, check_labels};
use self::descent::Descent;
use self::lost::LostPacks;
pub use self::options::BackupOptions;
use self::options::doing;
use self::packer::with_packer;
use self::parent::Parent;
use crate::error::{Code, Doing, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::{filesystem, lock, pseudo};
use crate::lineage;
use crate::monitor::{Context, Moment};
use crate::path::EntryPath;
use crate::source::select::Select;
pub use crate::source::stable::Trust;
use crate::source::{place, walk};
use crate::store::Traffic;
use crate::text::printable;
use crate::vault::doubt::{Doubts, Finding};
use crate::vault::hex::PackId;
use crate::vault::pack::PackInfo;
use crate::vault::root::{DatabaseRecord, Mount, Problem, SnapshotName, SnapshotState, SourceIdentity, Stale};
use crate::vault::state::{PackState, Tested};
use crate::vault::{Vault, seq};

/// Most entries that a report lists of each kind: missing, stale and torn.
const REPORTED: usize = 10_000;

/// The report of a backup.
#[derive(Debug, Serialize)]
pub struct BackupReport {
    /// The snapshot that was taken.
    pub snapshot: SnapshotName,
    /// The snapshot that it builds on.
    pub parent: Option<SnapshotName>,
    /// How much of the directory it holds.
    pub state: SnapshotState,
    /// Why it is suspect, if it is.
    pub suspect: Option<String>,
    /// Whether it is suspect because its data has diverged from that of the newest good snapshot.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub diverged: bool,
    /// Whether it may be restored without being asked for by name: it is complete, and no database failed its check.
    pub good: bool,
    /// Whether it equals the data directory: nothing is missing, carried over or torn.
    pub whole: bool,
    /// Number of its entries of every kind.
    pub entries: u64,
    /// Number of its files.
    pub files: u64,
    /// Bytes of the content of all its files.
    pub bytes: u64,
    /// Bytes that were read from files.
    pub read_bytes: u64,
    /// Bytes of all objects that were created.
    pub uploaded_bytes: u64,
    /// Number of packs that were created.
    pub new_packs: u64,
    /// The result of the look at the end of the capture.
    pub looked_again: LookedAgain,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Whether what it lacks is new since the last good snapshot, or has lasted for a day, a week or a month.
    pub news: bool,
    /// Notices that somebody should get, however good the snapshot is.
    pub notices: Vec<String>,
    /// Entries that are missing: they could not be read, and no older snapshot had them.
    pub errors: Vec<Problem>,
    /// Entries that could not be read and were carried over from an older snapshot.
    pub stale: Vec<Stale>,
    /// Entries that were taken although they never came to rest.
    pub torn: Vec<Problem>,
    /// How each database was taken.
    pub databases: Vec<DatabaseRecord>,
    /// Paths in the directory at which something was mounted and was read: a restore of all leaves them as they are then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<EntryPath>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Requests to the store since it was opened, if they are counted: they are for a bucket.
    #[serde(flatten)]
    pub traffic: Option<Traffic>,
}

impl BackupReport {
    /// What is not as it should be about the snapshot, for people. `None` if all is.
    pub fn trouble(&self) -> Option<String> {
        let of = |problem: Option<&Problem>| problem.map(|problem| format!("{}: {}", problem.path, problem.why));
        let suspect = |counts: bool| self.suspect.clone().filter(|_| counts);
        // What has diverged is suspect whatever it holds.
        suspect(!self.diverged)
            .or_else(|| of(self.errors.first()))
            .or_else(|| self.stale.first().map(|stale| format!("{}: {}", stale.path, stale.why)))
            .or_else(|| of(self.torn.first()))
            .or_else(|| {
                let failed = self.databases.iter().find(|database| database.failed())?;
                Some(format!("the database {} failed its check", failed.path))
            })
            .or_else(|| suspect(self.diverged))
    }
}

/// Takes a snapshot of a data directory into a vault.
///
/// # Errors
/// Fails if the data directory is missing, cannot be listed, is being restored or is exchanged again and again; if
/// the store fails; if options make no sense; and if `before_commit` refuses. Without a report there is no snapshot,
/// and all good snapshots are as they were.
pub fn backup(vault: &Vault, options: &BackupOptions, ctx: &Context) -> Result<BackupReport> {
    let clock = Instant::now();
    check_labels(&options.labels)?;
    let select = Select::by(&options.data, &options.filters(), &options.not_walked, options.sqlite)?;
    let (mut lost, mut doubts) =
        (LostPacks { elsewhere: options.spoiled_elsewhere.clone(), ..LostPacks::default() }, None);
    let mut exchanged = false;
    loop {
        match attempt(vault, options, &select, (&mut lost, &mut doubts), clock, ctx)? {
            Attempt::Done(report) => return Ok(*report),
            Attempt::Damaged(packs) => {
                for (pack, tested) in &packs {
                    lost.add(pack, tested).into_iter().for_each(|what| ctx.monitor.warn(&what));
                }
                // Missing packs show in a listing anyway.
                let damaged = packs.into_iter().filter(|(_, tested)| tested.state != PackState::Absent);
                let damaged: Vec<_> = damaged.map(|(pack, tested)| (pack, tested.state.to_string())).collect();
                let doubts = doubts.get_or_insert_default();
                doubts.doubt(vault, &damaged, (Finding::Backup, &doubted::user(options)), ctx.random);
                for what in doubts.warnings() {
                    ctx.monitor.warn(&what);
                    lost.warnings.push(what);
                }
            }
            Attempt::Absent(more) => {
                let known = lost.missing.len();
                lost.missing.extend(more);
                if lost.missing.len() == known {
                    return Err(Error::failed(doing(options), "packs vanish from the vault while they are written")
                        .with_code(Code::Vanishing)
                        .hint("Something else deletes objects there: a lifecycle rule, a cleanup script. Stop it."));
                }
            }
            Attempt::Exchanged if exchanged => {
                return Err(Error::failed(doing(options), "another directory has taken its place, twice")
                    .hint("Let the app, or a restore, finish what it does there, and run this again."));
            }
            Attempt::Exchanged => {
                ctx.monitor.warn("another directory has taken the data directory's place: the backup begins again");
                exchanged = true;
            }
        }
    }
}

/// How one attempt at a backup ended.
enum Attempt {
    Done(Box<BackupReport>),
    /// Packs that earlier snapshots name are missing: the next attempt does without them.
    Absent(HashSet<PackId>),
    /// Packs that earlier snapshots name were read and are damaged: the next attempt does without them.
    Damaged(Vec<(PackInfo, Tested)>),
    /// The data directory's path now leads to another directory.
    Exchanged,
}

/// How a capture ended.
enum CaptureOutcome {
    /// It went as far as the commit.
    Ended(CommitOutcome),
    /// Packs that it may have built upon are damaged.
    Damaged(Vec<(PackInfo, Tested)>),
    /// It is a capture of another directory.
    Exchanged,
}

fn attempt(
    vault: &Vault,
    options: &BackupOptions,
    select: &Select,
    (lost, doubts): (&mut LostPacks, &mut Option<Doubts>),
    clock: Instant,
    ctx: &Context,
) -> Result<Attempt> {
    let url = vault.store.url();
    let (root, unlocked) = open_locked(options, &url, ctx)?;
    // Without /proc, nothing is known of mounts.
    let all_mounted = filesystem::mounted().ok();
    let mounted = all_mounted.as_deref().unwrap_or_default();
    let remote = filesystem::remote(root.folder()).doing(|| doing(options))?;
    let place = match options.past {
        // Where an archive was unpacked says nothing of any data directory.
        Some(_) => SourceIdentity::default(),
        None => place::identify(&options.data, &options.boot, &root, remote.is_some(), mounted)?,
    };
    let early_warnings = Mutex::new(lost.warnings.clone());
    let warn = |what: String| {
        ctx.monitor.warn(&what);
        early_warnings.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    };
    unlocked.into_iter().for_each(warn);
    if !lost.missing.is_empty() {
        let what = "packs are missing in the vault: what they held is stored again. `lastgood verify` names the snapshots that need them";
        warn(format!("{} {what}", lost.missing.len()));
    }
    let data = options.recorded_data();
    let of = (&*data, options.service.as_deref());
    let lineage = match options.past {
        Some(_) => Ok(None),
        None => lineage::read_in(root.folder()),
    };
    if let Err(unclear) = &lineage {
        warn(format!("nobody knows what the data directory comes from: {unclear}"));
    }
    let by = (options, &lineage);
    // Packs that the previous attempt found damaged are not tested again, and doubts are not read twice.
    let (first, looked) = (doubts.is_none(), !lost.damaged.is_empty());
    let (found, read) = std::thread::scope(|scope| {
        // This listing runs at the same time as the others: each costs a request.
        let reading = first.then(|| scope.spawn(|| Doubts::read(&*vault.store)));
        let found = Parent::find(vault, of, by, &place, remote.is_none(), lost, warn);
        (found, reading.map(std::thread::ScopedJoinHandle::join))
    });
    let mut base = found?;
    if let Some(read) = read {
        *doubts =
            Some(read.map_err(|_| {
                Error::failed("read the doubts", "a thread of it ended early").with_code(Code::Internal)
            })?);
    }
    let doubts = doubts.get_or_insert_default();
    while doubted::closed(vault, &base, lost, warn) || doubted::test(vault, &base, doubts, lost, options, ctx, warn)? {
        base = Parent::find(vault, of, by, &place, remote.is_none(), lost, warn)?;
    }
    doubts.warnings().into_iter().for_each(warn);
    base.doubted = doubts.untested();
    let now = vault.store.now().map_err(|e| e.while_doing(doing(options)))?;
    base.seq = number(&base.descent, options.clock().max(now), options, warn)?;
    let started = options.past.as_ref().map_or(now, |past| past.time);
    let mounts = all_mounted.as_deref().map(|all| suspect::mounts_below(root.path(), all));
    let before = base.measure.as_ref().map_or(&[][..], |measure| &measure.mounts);
    let pseudo = mounts.iter().flatten().chain(before).filter(|mount| pseudo::is_type(&mount.filesystem));
    let pseudo: Vec<_> = pseudo.map(|mount| mount.path.clone()).collect();
    let walked = |mount: &Mount| {
        let at = root.path().join(mount.path.as_path());
        let excluded = select.excludes(&mount.path) || select.excludes_above(&mount.path);
        let apart = options.one_file_system || pseudo.iter().any(|above| mount.path.is_in(above));
        !excluded
            && !apart
            && !options.not_walked.iter().any(|folder| at.starts_with(folder) || folder.starts_with(&at))
    };
    let mounts: Option<Vec<_>> = mounts.map(|mounts| mounts.into_iter().filter(walked).collect());
    if let Some(measure) = &mut base.measure {
        measure.mounts.retain(walked);
        let there = |was: &&Mount| mounts.as_ref().is_none_or(|mounts| mounts.iter().any(|is| is.path == was.path));
        base.unmounted = measure.mounts.iter().filter(|was| !there(was)).map(|was| was.path.clone()).collect();
    }
    base.filters = options.filters();
    let mounted: Vec<_> = mounts.iter().flatten().map(|mount| mount.path.clone()).collect();
    let staging = &*vault.store.staging();
    let mut reserved = vault.store.set_aside(rescue::KEPT);
    let free = reserved.as_ref().map(|reserved| reserved.free);
    let serial = lineage.ok().flatten().map(|lineage| lineage.serial);
    let unread = Default::default();
    let run = BackupRun { vault, options, base: &base, place, mounts, unread, started, serial, staging, free };
    let began = (options.trust.now)();
    let capture = Capture { run: &run, vault: &url, root: &root, select, began, remote, warn: &warn, ctx };
    let doubts = &*doubts;
    let (outcome, assembled, looked_again) = std::thread::scope(|scope| {
        // This runs while the directory is read, since it takes a request.
        let looking = (!looked).then(|| scope.spawn(|| doubted::glance(vault, &base, doubts, ctx)));
        with_packer(staging, options.level, ctx, |packer| {
            let mut assembly = Assembly::new(&base, select, (packer, staging), ctx)?;
            let taken = capture.take(&mut assembly, packer).and_then(|(written, looked_again)| {
                ctx.monitor.reached(Moment::Committing, &EntryPath::root());
                if !root.is_at(&options.data) {
                    return Ok((CaptureOutcome::Exchanged, looked_again));
                }
                let mut damaged = doubted::met(vault, &base);
                // If it panicked, it found nothing.
                damaged.extend(looking.and_then(|looking| looking.join().ok().flatten()));
                if !damaged.is_empty() {
                    return Ok((CaptureOutcome::Damaged(damaged), looked_again));
                }
                // The space reserved for a last checkpoint is the snapshot's now: little is left to be written.
                drop(reserved.take());
                ctx.monitor.syncing();
                Ok((CaptureOutcome::Ended(run.commit(&mut assembly, packer, written, false)?), looked_again))
            });
            if let Err(why) = &taken {
                rescue::rescue(&run, &mut assembly, packer, reserved.take(), why, ctx);
            }
            let (outcome, looked_again) = taken?;
            Ok((outcome, assembly.outcome(), looked_again))
        })
    })?;
    let committed = match outcome {
        CaptureOutcome::Ended(CommitOutcome::Committed(committed)) => committed,
        CaptureOutcome::Ended(CommitOutcome::NoCheckpoint(why)) => return Err(why),
        CaptureOutcome::Ended(CommitOutcome::Absent(packs)) => return Ok(Attempt::Absent(packs)),
        CaptureOutcome::Damaged(packs) => return Ok(Attempt::Damaged(packs)),
        CaptureOutcome::Exchanged => return Ok(Attempt::Exchanged),
    };
    select.left_out_mounts.told().into_iter().for_each(warn);
    // A snapshot in which nothing is chosen says by which patterns.
    let is_told = committed.suspect.as_ref().is_some_and(|why| why.starts_with(suspect::NOTHING_CHOSEN));
    let unmet = select.unmet().into_iter().filter(|(what, wrong)| !is_told || !wrong || what.contains("; the comma"));
    for (what, wrong) in unmet.chain(select.left_out(&root)) {
        if wrong { warn(what) } else { tracing::info!("{}", printable(&what)) }
    }
    let mut warnings = early_warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
    warnings.extend(assembled.warnings);
    Ok(Attempt::Done(Box::new(BackupReport {
        snapshot: committed.name,
        parent: base.parent.as_ref().map(|(name, _)| *name),
        state: committed.state,
        suspect: committed.suspect,
        diverged: base.descent.diverged.is_some(),
        good: committed.good,
        whole: committed.whole,
        entries: committed.totals.entries,
        files: committed.totals.files,
        bytes: committed.totals.bytes,
        read_bytes: assembled.read_bytes,
        uploaded_bytes: committed.uploaded_bytes,
        new_packs: committed.totals.new_packs,
        looked_again,
        warnings,
        news: committed.news,
        notices: committed.notices,
        errors: some(assembled.missing),
        stale: some(assembled.stale),
        torn: some(assembled.torn),
        databases: assembled.databases,
        mounts: mounted,
        seconds: clock.elapsed().as_secs_f64(),
        traffic: vault.store.traffic(),
    })))
}

/// Returns the number of a snapshot whose capture begins now.
fn number(descent: &Descent, clock: Timestamp, options: &BackupOptions, warn: impl FnOnce(String)) -> Result<u64> {
    let Some(number) = descent.number(clock) else {
        let why = match options.epoch {
            Some(epoch) => format!("no number is left in epoch {epoch}"),
            None => format!("no number is greater than {}, which is that of a snapshot", descent.greatest()),
        };
        return Err(Error::failed(doing(options), why).hint(
            "Numbers are times, in seconds since 1970, so that a very wrong clock, or a fault, must have given this one. Look at \
             `lastgood list`, and move the root of that snapshot (snapshots/, in each of the vaults) to another place.",
        ));
    };
    if let Some(time) = seq::ahead(number, clock).filter(|_| descent.diverged.is_none()) {
        let (time, clock) = (time.strftime(SECONDS), clock.strftime(SECONDS));
        warn(format!(
            "the newest snapshot's number is a time in the future, {time}, and it is {clock}: a clock was wrong when it was taken, \
             or is now. The numbers of new snapshots go on from there, and a vault that is away does not know it: what it takes \
             meanwhile counts as older"
        ));
    }
    Ok(number)
}

/// Format of times in warnings.
const SECONDS: &str = "%Y-%m-%dT%H:%M:%SZ";

/// Opens the data directory and locks it against a restore. Returns a note if it cannot be locked.
fn open_locked(options: &BackupOptions, vault: &str, ctx: &Context) -> Result<(Directory, Option<String>)> {
    loop {
        let root = walk::open(&options.data)?;
        let note = lock::lock(&root, lock::LockKind::Shared, lock::BACKUP_WAITS, ctx.stop)?;
        // The restore that was waited for may have put another directory there. Anything it left unfinished it will no
        // longer finish.
        if root.is_at(&options.data) {
            walk::check_finished(&options.data, &root, vault)?;
            walk::check_above(&options.data)?;
            return Ok((root, note));
        }
        ctx.check(&doing(options))?;
    }
}

/// Returns as much of a list as a report holds: all of it is in the root.
fn some<T>(mut list: Vec<T>) -> Vec<T> {
    list.truncate(REPORTED);
    list
}

#[cfg(test)]
mod tests;
