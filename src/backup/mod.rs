//! Taking a snapshot.
//!
//! [`walk`] and [`base`] (what is known) meet in [`merge`], path by path; what is new or changed is [`read`] by several
//! threads and [`assemble`]d in order: headers and blocks go through the [`packer`] into packs, entries into hunks, and
//! when all is durable, [`commit`] writes the root. Each stage is a thread or several, the channels between them hold
//! little, and nothing holds the whole of a snapshot.

pub mod assemble;
pub mod base;
pub mod block;
pub mod commit;
pub mod extra;
pub mod index;
pub mod large;
pub mod merge;
pub mod packer;
pub mod part;
pub mod read;
pub mod seen;
pub mod select;
pub mod sqlite;
pub mod walk;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::Serialize;

use self::assemble::Assembly;
use self::base::{Base, Known};
use self::commit::{BeforeCommit, Outcome, Run};
pub use self::commit::{MAX_LABEL, MAX_LABELS, check_labels};
use self::merge::{Merge, Rule, Step};
use self::packer::with_packer;
use self::part::Part;
use self::read::{Desk, Feed, Over};
use self::select::Select;
use self::walk::{Met, walk};
use crate::error::{Doing, Error, Result};
use crate::filesystem;
use crate::monitor::{Context, Moment, Silent};
use crate::store::Traffic;
use crate::vault::Vault;
use crate::vault::entry::CheckKind;
use crate::vault::hex::{Hex, PackId};
use crate::vault::path::EntryPath;
use crate::vault::root::{DatabaseRecord, Place, Problem, Reason, SnapshotName, State};

/// When a file counts as unchanged though it was not read.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    /// A file that changed this shortly before it was read may change again without its time moving, in ns.
    pub window: i64,
    /// Of the files that look unchanged, one in so many is read all the same, another one at each backup: a store through a
    /// memory map may change a file without any time showing it.
    pub sample: u64,
    /// The machine's clock, in ns since 1970.
    pub now: fn() -> i64,
}

impl Default for Trust {
    fn default() -> Self {
        Trust { window: 2_000_000_000, sample: 64, now: read::now }
    }
}

impl Trust {
    /// Whether a file of this mtime may be written to once more, after it was looked at at `began`, without its time moving.
    pub fn is_racy(&self, mtime: i64, began: i64) -> bool {
        mtime >= began - self.window
    }
}

/// What to take a snapshot of, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub data: PathBuf,
    /// What started it.
    pub reason: Reason,
    /// What the user attaches.
    pub labels: BTreeMap<String, String>,
    /// Only files that match one of these; all, when there is none.
    pub include: Vec<String>,
    /// Nothing that matches one of these.
    pub exclude: Vec<String>,
    /// Read every file, whatever its times say.
    pub verify_content: bool,
    /// An empty or halved directory is meant to be so.
    pub accept_shrink: bool,
    /// Take files that are SQLite databases by their content as such.
    pub sqlite: bool,
    /// Have SQLite check every database in the transaction in which it is read.
    pub check: Option<CheckKind>,
    /// How long a database may stay locked before it is given up.
    pub busy_timeout: Duration,
    /// What is taken over unread.
    pub trust: Trust,
    /// zstd's level.
    pub level: i32,
    /// How often what is done so far is secured for the next backup.
    pub checkpoint_every: Duration,
    /// The snapshot's number is greater than this one, too: the greatest that the vault's replicas have, so that the newest
    /// snapshot is the newest in each of them.
    pub seq_after: u64,
    /// The run that takes the snapshot, to be kept with it.
    pub run: Option<Hex<8>>,
    /// Asked before the snapshot is committed.
    pub before_commit: Option<BeforeCommit>,
    /// Folders that are no data, such as a vault inside the data directory.
    pub not_walked: Vec<PathBuf>,
    /// The host's name, for people.
    pub host: String,
    /// The kernel's boot id; empty where there is none.
    pub boot: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            data: PathBuf::from("data"),
            reason: Reason::Manual,
            labels: BTreeMap::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            verify_content: false,
            accept_shrink: false,
            sqlite: true,
            check: None,
            busy_timeout: Duration::from_secs(10),
            trust: Trust::default(),
            level: packer::DEFAULT_LEVEL,
            checkpoint_every: Duration::from_secs(600),
            seq_after: 0,
            run: None,
            before_commit: None,
            not_walked: Vec::new(),
            host: String::new(),
            boot: String::new(),
        }
    }
}

/// What a backup did.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The snapshot that was taken.
    pub snapshot: SnapshotName,
    /// The one that it builds on.
    pub parent: Option<SnapshotName>,
    /// How much of the directory it holds.
    pub state: State,
    /// Whether it may be restored without being asked for by name: it is complete, and no database failed its check.
    pub good: bool,
    /// Its entries of every kind.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of all files' content.
    pub bytes: u64,
    /// Bytes that were read from files.
    pub read_bytes: u64,
    /// Bytes of all objects that were created.
    pub uploaded_bytes: u64,
    /// Packs among them.
    pub new_packs: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What could not be read.
    pub errors: Vec<Problem>,
    /// How each database was taken.
    pub databases: Vec<DatabaseRecord>,
    /// How long it took.
    pub seconds: f64,
    /// What was asked of the store since it was opened, where that is counted: of a bucket.
    #[serde(flatten)]
    pub traffic: Option<Traffic>,
}

fn doing(options: &Options) -> String {
    format!("take a snapshot of {}", options.data.display())
}

/// Takes a snapshot of a data directory into a vault.
///
/// # Errors
/// A data directory that is missing or cannot be listed; a store that fails; options that make no sense; what
/// `before_commit` says. Without a report
/// there is no snapshot, and all that was good before is as it was.
pub fn backup(vault: &Vault, options: &Options, ctx: &Context) -> Result<Report> {
    let clock = Instant::now();
    check_labels(&options.labels)?;
    let select = Select::new(&options.data, &options.include, &options.exclude, &options.not_walked, options.sqlite)?;
    let mut absent = HashSet::new();
    loop {
        match attempt(vault, options, &select, &absent, clock, ctx)? {
            Attempt::Done(report) => return Ok(*report),
            Attempt::Absent(more) => {
                let known = absent.len();
                absent.extend(more);
                if absent.len() == known {
                    return Err(Error::failed(doing(options), "packs vanish from the vault while they are written")
                        .hint("Something else deletes objects there: a lifecycle rule, a cleanup script. Stop it."));
                }
            }
        }
    }
}

/// How one attempt at a backup ended.
enum Attempt {
    Done(Box<Report>),
    /// Packs that earlier snapshots name are missing: the next attempt does without them.
    Absent(HashSet<PackId>),
}

fn attempt(
    vault: &Vault,
    options: &Options,
    select: &Select,
    absent: &HashSet<PackId>,
    clock: Instant,
    ctx: &Context,
) -> Result<Attempt> {
    let place = place(options)?;
    let early = Mutex::new(Vec::new());
    let warn = |what: String| {
        ctx.monitor.warn(&what);
        early.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    };
    if !absent.is_empty() {
        let what =
            "packs are missing in the vault; what they held is stored anew. `lastgood verify` tells whom it hurts";
        warn(format!("{} {what}", absent.len()));
    }
    let mut base = Base::find(vault, &place, is_local(options)?, absent.clone(), warn)?;
    base.seq = base.seq.max(options.seq_after.saturating_add(1));
    let started = vault.store.now().map_err(|e| e.while_doing(doing(options)))?;
    let run = Run { vault, options, base: &base, place, started };
    let (outcome, assembled) = with_packer(&*vault.store, options.level, ctx, |packer| {
        let mut assembly = Assembly::new(&base, packer, ctx)?;
        let mut secured = Instant::now();
        ctx.monitor.begin("backup", None);
        through(&run, select, warn, ctx, |parts| {
            assembly.take(parts)?;
            if secured.elapsed() >= options.checkpoint_every {
                let covers = assembly.last.clone();
                ctx.monitor.reached(Moment::Committing, &covers);
                // Packs that are found missing here are found missing at the end too.
                run.commit(&mut assembly, packer, Some(covers))?;
                secured = Instant::now();
            }
            ctx.check(&doing(options))
        })?;
        assembly.end()?;
        ctx.monitor.reached(Moment::Committing, &EntryPath::root());
        let outcome = run.commit(&mut assembly, packer, None)?;
        Ok((outcome, assembly.outcome()))
    })?;
    let committed = match outcome {
        Outcome::Committed(committed) => committed,
        Outcome::Absent(packs) => return Ok(Attempt::Absent(packs)),
    };
    let (later, errors, databases, read_bytes) = assembled;
    let mut warnings = early.into_inner().unwrap_or_else(PoisonError::into_inner);
    warnings.extend(later);
    Ok(Attempt::Done(Box::new(Report {
        snapshot: committed.name,
        parent: base.parent.as_ref().map(|(name, _)| *name),
        state: committed.state,
        good: committed.good,
        entries: committed.totals.entries,
        files: committed.totals.files,
        bytes: committed.totals.bytes,
        read_bytes,
        uploaded_bytes: committed.uploaded_bytes,
        new_packs: committed.totals.new_packs,
        warnings,
        errors,
        databases,
        seconds: clock.elapsed().as_secs_f64(),
        traffic: vault.store.traffic(),
    })))
}

/// Sends the whole directory through walk, merge and readers; `take` gets what comes of it, batch by batch, in path order.
fn through(
    run: &Run,
    select: &Select,
    warn: impl Fn(String) + Sync,
    ctx: &Context,
    mut take: impl FnMut(&mut dyn Iterator<Item = Part>) -> Result<()>,
) -> Result<()> {
    let Run { options, base, .. } = run;
    let Options { verify_content, sqlite, check, trust, .. } = **options;
    let rule = Rule { verify_content, sample: trust.sample, seq: base.seq, sqlite, check };
    let databases = &sqlite::Settings {
        enabled: options.sqlite,
        check: options.check,
        patience: options.busy_timeout,
        key: run.vault.config.hash_key.0,
        trust,
    };
    let over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Two hunks ahead keep the merge busy.
        let (known_to, known) = bounded::<Vec<Known>>(2);
        let warn = &warn;
        let sender = scope.spawn(move || base.send(&known_to, warn));
        let (feed, in_order) = read::start(scope, Desk { data: &options.data, base, databases, trust, ctx });
        let merge = Merge::new(known.into_iter().flatten(), rule).with_missed(base.missed());
        let walker = scope.spawn(move || merge_walk(options, select, merge, feed, over, warn, ctx));
        if ctx.monitor.wants_total() {
            scope.spawn(move || count(options, select, over, ctx));
        }
        let mut taken = Ok(());
        // After a failure the channel is emptied all the same: a reader or the walk may be waiting to send into it.
        for batch in in_order {
            if taken.is_ok() {
                taken = take(&mut batch.into_iter().flatten());
                over.store(taken.is_err(), Ordering::Relaxed);
            }
        }
        // What made this thread give up comes first; the others then only say that they ended early.
        let ended = |joined: std::thread::Result<Result<()>>| {
            joined.unwrap_or_else(|_| Err(Error::failed(doing(options), "a thread ended in a panic")))
        };
        let (walked, sent) = (ended(walker.join()), ended(sender.join()));
        taken.and(walked).and(sent)
    })
}

/// Walks the directory beside what is known, and hands on what is to be done, until it is `over`.
fn merge_walk(
    options: &Options,
    select: &Select,
    mut merge: Merge<impl Iterator<Item = Known>>,
    mut feed: Feed,
    over: &AtomicBool,
    warn: &(impl Fn(String) + Sync),
    ctx: &Context,
) -> Result<()> {
    let early = |_| Error::failed(doing(options), "it ended early");
    walk(&options.data, select, ctx.threads, ctx.monitor, |met| {
        match met {
            Met::Entry(found) => feed.push(merge.next(found)).map_err(early)?,
            Met::Failed(path, why) => feed.push(Step::Failed(path, why)).map_err(early)?,
            Met::Skipped(path, why) => warn(format!("{path} is skipped: {why}")),
        }
        if over.load(Ordering::Relaxed) {
            return Err(early(Over));
        }
        ctx.check(&doing(options))
    })?;
    feed.flush().map_err(early)
}

/// Finds out how much there is, for whoever watches.
fn count(options: &Options, select: &Select, over: &AtomicBool, ctx: &Context) {
    let mut bytes = 0;
    let counted = walk(&options.data, select, 1, &Silent, |met| {
        if let Met::Entry(found) = met {
            bytes += found.size;
        }
        if over.load(Ordering::Relaxed) {
            return Err(Error::failed("count", "it is over"));
        }
        ctx.check("count")
    });
    // A failure shows in the backup itself.
    if counted.is_ok() {
        ctx.monitor.total(bytes);
    }
}

/// Whether the data directory is on a filesystem of this machine: on another's, inode numbers mean nothing.
fn is_local(options: &Options) -> Result<bool> {
    let doing = || format!("ask for the filesystem of {}", options.data.display());
    let folder = std::fs::File::open(&options.data).doing(doing)?;
    Ok(filesystem::remote(&folder).doing(doing)?.is_none())
}

/// Where the data directory is now.
fn place(options: &Options) -> Result<Place> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let doing = || format!("read the data directory {}", options.data.display());
    match statx(CWD, &options.data, AtFlags::empty(), flags) {
        Ok(stat) => Ok(Place {
            boot: options.boot.clone(),
            device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            inode: stat.stx_ino,
            born: (stat.stx_mask & StatxFlags::BTIME.bits() != 0)
                .then(|| walk::nanos(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec.into())),
        }),
        Err(rustix::io::Errno::NOENT) => Err(Error::failed(doing(), "it does not exist").hint(walk::MISSING)),
        Err(why) => Err(why).doing(doing),
    }
}

#[cfg(test)]
mod tests;
