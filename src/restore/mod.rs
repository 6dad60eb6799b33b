//! Gets a snapshot back: chooses it, makes it in a staging folder, verifies every file, and only then puts it in place.
//!
//! ```text
//! select ──► plan: entries to windows ──► read: frames, ahead, each once ──► content: order and hash ──► write: staging
//!                                                                        stage, place, fill: into the target ◄──┘
//! ```

pub mod apart;
pub mod attributes;
pub mod content;
pub mod damaged;
pub mod in_use;
pub mod killed;
pub mod missing;
pub mod mounts;
pub mod needed;
pub mod open_files;
pub mod plan;
pub mod preview;
pub mod put;
pub mod read;
pub mod select;
pub mod stage;
pub mod standing;
pub mod steps;
mod undo;
pub mod write;
pub mod capabilities;
pub mod coalesce;
pub mod in_place;
pub mod lock;
pub mod occupants;
pub mod options;
pub mod side_files;
pub mod staging_names;
pub mod target;
pub mod window;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde::Serialize;

use self::damaged::RestoreFailure;
use self::lock::lock_target;
pub use self::options::RestoreOptions;
use self::plan::{Planner, Walk};
use self::read::ContentReader;
use self::select::{Choice, PassedOver, Unchosen};
use self::side_files::SideFilePaths;
use self::standing::FileUser;
use self::target::RestoreTarget;
use self::window::{Window, WindowLimits};
use self::write::Tree;
use crate::error::{Error, Kind, Result};
use crate::monitor::{Context, Monitor};
use crate::path::EntryPath;
use crate::store::Traffic;
use crate::vault::Vault;
use crate::vault::decoder::Decoder;
use crate::vault::doubt::{Doubts, in_all, told};
use crate::vault::entry::{self, CaptureMethod, Entry};
use crate::vault::read::PackReader;
use crate::vault::root::{Problem, Root, SnapshotName, SnapshotState, Stale};
use crate::vault::stale::StaleBook;
use crate::vault::tree::{self, HunksLeft};

const OTHERS: &str = "`--snapshot latest` takes the newest good snapshot that is whole, and `--skip-damaged` gets out of this one what \
                      can be got; `lastgood verify` names all damage.";
const SKIP: &str = "`lastgood restore --skip-damaged` gets out what can be got; `lastgood verify` names all damage.";

/// The result of a restore.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestoreReport {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// Where it is now.
    pub target: PathBuf,
    /// Entries of every kind.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Where the previous content was moved. `None` if there was none.
    pub moved_aside: Option<PathBuf>,
    /// Side files that lay beside restored databases and were moved aside too.
    pub moved_beside: Vec<EntryPath>,
    /// Paths that stayed as they were because other filesystems are mounted there.
    pub kept: Vec<EntryPath>,
    /// Programs that had files of the target open when it was replaced: they go on with the old ones until they are restarted.
    pub in_use: Vec<FileUser>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Entries that could not be restored: damaged ones, with `skip_damaged`, ones that the target's filesystem does
    /// not support, and ones with the name by which a restore marks what it has not finished.
    pub not_restored: Vec<Problem>,
    /// Entries that are older than the snapshot: they could not be read when it was taken, and were carried over.
    pub stale: Vec<Stale>,
    /// Entries that are missing in the snapshot: they could not be read when it was taken. For some, only extended
    /// attributes are missing.
    pub missing: Vec<Problem>,
    /// Entries that may be torn: they were written to all the while that the snapshot was taken.
    pub torn: Vec<Problem>,
    /// Newer snapshots that were not chosen because they are not good, or because a pack that they need is damaged or missing.
    pub passed_over: Vec<PassedOver>,
    /// The newest snapshot that would have been restored, as far as is known, had it not been damaged; the one that was
    /// restored is older. `None` if there was no such snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<SnapshotName>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The traffic with the store since it was opened. `None` where it is not counted: only a bucket's is.
    #[serde(flatten)]
    pub traffic: Option<Traffic>,
}

/// Restores a snapshot. The target is not touched before every file is there and verified.
///
/// Doubted packs that the snapshot needs are read whole before anything else. If one is damaged or missing, or turns
/// out to be so while it is read, the next older good snapshot whose packs are there is taken, unless the snapshot was
/// named or `skip_damaged` is set; the report says so.
///
/// # Errors
/// Usage: no such snapshot, path or target. Damage, unless it is skipped. Failed: the store or the disk. In all of
/// these the target is as it was, except if an in-place restore was cut off by the disk itself: its marker is there
/// then. Unneeded: the condition in `options.only` is not met; nothing was changed.
pub fn restore(vault: &Vault, options: &RestoreOptions, ctx: &Context) -> Result<RestoreReport> {
    restore_within(vault, options, WindowLimits::suiting(&*vault.store, ctx), ctx)
}

fn restore_within(
    vault: &Vault,
    options: &RestoreOptions,
    limits: WindowLimits,
    ctx: &Context,
) -> Result<RestoreReport> {
    let (mut choice, mut doubts) = begin(vault, &options.snapshot).map_err(|unchosen| unchosen.why)?;
    let newest = choice.clone();
    let mut passed_over = Vec::new();
    tell_of_newer(&choice.passed_over, |what| ctx.monitor.warn(&what));
    let mut instead_of = select::newest_damaged(&choice.passed_over);
    let (mut first, mut first_untried) = (None, None);
    loop {
        let (name, named) = (choice.name, choice.named || options.skip_damaged);
        passed_over.append(&mut choice.passed_over);
        let tested = Damaged::PassedOver;
        let failure = match attempt(vault, options, choice, (&mut doubts, tested), limits, ctx) {
            Ok(report) => {
                if instead_of.is_some() {
                    ctx.monitor.warn(&format!("the snapshot {name} is restored in its place, which is older"));
                }
                return Ok(RestoreReport { passed_over, instead_of, ..report });
            }
            Err(failure) => failure,
        };
        let RestoreFailure { why, wrong, untried } = failure;
        let over = damaged::passed_over(name, &wrong).filter(|_| !named);
        let untried = *first_untried.get_or_insert(untried);
        let next = if over.is_some() { damaged::older(vault, name)? } else { None };
        let (Some(over), Some(next)) = (over, next) else {
            if why.kind() != Kind::Damage {
                return Err(match first {
                    // The older one would go back behind what is there: the reason for doing nothing is that the newest
                    // is damaged.
                    Some(first) if why.kind() == Kind::Unneeded && options.only.older.is_some() => first,
                    _ => why,
                });
            }
            // If several are damaged, the newest is the one that was asked for. The parts of its packs that it needs
            // may be sound.
            if untried {
                ctx.monitor.warn(&format!("{}; it is read all the same: nothing else is left", why.what()));
                let anyway = attempt(vault, options, newest, (&mut doubts, Damaged::Read), limits, ctx);
                return anyway.map_err(|RestoreFailure { why, .. }| match first {
                    Some(first) if why.kind() != Kind::Unneeded => first,
                    _ => why,
                });
            }
            return Err(first.unwrap_or(why));
        };
        // Only the first is warned of here; the report lists the others.
        if instead_of.is_none() {
            ctx.monitor.warn(&format!("the snapshot {name} is passed over, an older one is looked for: {}", over.why));
        }
        passed_over.push(over);
        instead_of.get_or_insert(name);
        first.get_or_insert(why);
        choice = next;
    }
}

/// Warns of newer snapshots that were not chosen: names the newest one, and says how many more there are.
pub fn tell_of_newer(passed_over: &[PassedOver], warn: impl FnOnce(String)) {
    if let Some((newest, more)) = passed_over.split_first() {
        let more = if more.is_empty() { String::new() } else { format!(", and so are {} more", more.len()) };
        warn(format!("the snapshot {} is passed over: {}{more}", newest.snapshot, newest.why));
    }
}

/// Restores one snapshot of a vault and no other. A caller that knows more vaults, or may choose, decides what comes next.
///
/// # Errors
/// As [`restore`]; the [`RestoreFailure`] says whether the snapshot's packs are the reason.
pub fn restore_chosen(
    vault: &Vault,
    options: &RestoreOptions,
    choice: Choice,
    from: (&mut Doubts, Damaged),
    ctx: &Context,
) -> Result<RestoreReport, RestoreFailure> {
    attempt(vault, options, choice, from, WindowLimits::suiting(&*vault.store, ctx), ctx)
}

/// How a restore treats a snapshot that needs a pack known to be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damaged {
    /// Nothing of it is read.
    PassedOver,
    /// It is read as far as possible, because no other snapshot is left: the parts that are needed may be sound. All
    /// content is checked as always.
    Read,
}

/// Chooses the snapshot, and reads the doubts of the vault at the same time.
///
/// # Errors
/// As [`select::search`].
pub fn begin(vault: &Vault, snapshot: &str) -> Result<(Choice, Doubts), Unchosen> {
    let (choice, doubts) = std::thread::scope(|scope| {
        let doubts = scope.spawn(|| Doubts::read(&*vault.store));
        (select::search(vault, snapshot), doubts.join())
    });
    Ok((choice?, doubts.map_err(|_| Error::failed("read the doubts", "a thread of it ended early"))?))
}

fn attempt(
    vault: &Vault,
    options: &RestoreOptions,
    choice: Choice,
    (doubts, known): (&mut Doubts, Damaged),
    limits: WindowLimits,
    ctx: &Context,
) -> Result<RestoreReport, RestoreFailure> {
    let began = Instant::now();
    let Choice { name, root, passed_over, named } = choice;
    let all = options.paths.is_empty() || options.paths.iter().any(EntryPath::is_root);
    let paths = if all { &[][..] } else { &options.paths };
    let mut place = RestoreTarget::check(&options.target, options.how(), paths)?;
    apart::check(&place.target, paths, &options.vaults)?;
    let from = vault.store.url();
    (place.snapshot, place.vault) = (Some(name), Some(from.clone()));
    let target = place.target.clone();
    // Held to the end: a backup that begins meanwhile waits, and then finds what has been put into place.
    let (_locked, unlocked) = lock_target(&target, ctx)?;
    // A volume in it may be a data directory of its own.
    let own = (!place.within().is_root()).then(|| lock_target(&place.folder(), ctx)).transpose()?;
    let mut report = RestoreReport {
        snapshot: name,
        target: place.target.clone(),
        entries: 0,
        files: 0,
        bytes: 0,
        moved_aside: None,
        moved_beside: Vec::new(),
        kept: Vec::new(),
        in_use: Vec::new(),
        warnings: Vec::new(),
        not_restored: Vec::new(),
        stale: Vec::new(),
        missing: Vec::new(),
        torn: Vec::new(),
        passed_over,
        instead_of: None,
        seconds: 0.0,
        traffic: None,
    };
    // This restore may have waited for another one that began at the same time, and an app may have been started since.
    let still_needed = || options.only.check((options, &from), (name, root.started), ctx);
    still_needed()?;
    report.warnings.extend(unlocked);
    report.warnings.extend(own.iter().filter_map(|(_, unlocked)| unlocked.clone()));
    refuse_in_use(&place, options)?;
    place.check_writable()?;
    if root.state != SnapshotState::Complete {
        report.warnings.push(format!("the snapshot {name} is {}", root.state));
    }
    if root.failed_checks > 0 {
        report.warnings.push(format!("the snapshot {name} is not good: {}", select::failed_check(&root)));
    }
    let within = |why: Error| {
        let hint = why.kind() == Kind::Damage && !options.skip_damaged;
        let why = why.within(format!("restore the snapshot {name} to {}", target.display()));
        match hint {
            true if named => why.hint(OTHERS),
            true => why.hint(SKIP),
            false => why,
        }
    };
    let packs = PackReader::new(&*vault.store, Default::default());
    let failed = |why: Error, packs: &PackReader, doubts: &mut Doubts| {
        let mut wrong = Vec::new();
        if why.kind() == Kind::Damage {
            wrong = damaged::found(vault, packs, doubts, ctx);
            if wrong.is_empty() {
                wrong.push(why.what());
            }
        }
        doubts.warnings().iter().for_each(|what| ctx.monitor.warn(what));
        RestoreFailure { why: within(why), wrong, untried: false }
    };
    let packs = packs.for_another(&root).map_err(|why| failed(why, &packs.with(root.holders().copied()), doubts))?;
    match lacks(&packs, &root, if all { &[] } else { paths }) {
        Ok(lacks) => (report.stale, report.missing, report.torn) = lacks,
        // This changes nothing about what is restored.
        Err(why) if why.kind() == Kind::Damage => {
            let what = "what of it is older, missing or torn is not known";
            report.warnings.push(format!("{what}: {}", why.what()));
        }
        Err(why) => return Err(failed(why, &packs, doubts)),
    }
    // If only some files are restored, damage is found while they are read.
    let tests = all && !options.skip_damaged && known == Damaged::PassedOver;
    let wrong = damaged::look(vault, &packs, tests, doubts, ctx)?;
    let (wrong, spare) = damaged::needed(&packs, &root, wrong)?;
    report.warnings.extend(spare);
    match wrong.first() {
        // With single paths, damage to what they need is found when it is read.
        _ if !all => {}
        Some((pack, why)) if !options.skip_damaged => {
            let more = in_all(wrong.len());
            let told = wrong.iter().map(|(pack, state)| told(pack, state)).collect();
            return Err(RestoreFailure {
                why: within(Error::damage(format!("read {}", pack.name()), format!("{why}{more}"))),
                wrong: told,
                untried: true,
            });
        }
        _ => report.warnings.extend(wrong.iter().map(|(pack, why)| format!("{}: {why}", pack.name()))),
    }
    if !all {
        let sides = locate(&packs, &root, paths, options.skip_damaged).map_err(|why| place.lacking(why));
        place.also(sides.map_err(|why| failed(why, &packs, doubts))?)?;
    }
    report.warnings.extend(place.broken());

    let bytes = all.then_some(root.totals.bytes);
    ctx.monitor.begin("restoring", bytes);
    // Asked before anything is made, so that nothing is left behind if the store cannot tell the time.
    let now = vault.store.now().map_err(|e| e.while_doing("ask the store for the time"))?;
    let elsewhere = killed::look_but(&target, Some(&place.base()));
    let (staging, mut left) = place.stage(ctx)?;
    left.extend(elsewhere.iter().map(killed::Leftover::to_string));
    let mut left = Untold { what: left, monitor: ctx.monitor };
    let planner = Planner { packs: &packs, wanted: place.wanted(), limits, skip_damaged: options.skip_damaged, ctx };
    let filled =
        staging.begin(place.within()).and_then(|tree| fill_staging(&planner, &root, tree, &place, &mut report));
    let filled = filled.and_then(|made| ctx.check("restore").map(|()| made));
    let (tree, top, reserved) = match filled {
        Ok(made) => made,
        Err(why) => {
            staging.abandon();
            return Err(failed(why, &packs, doubts));
        }
    };
    // Asked once more when everything is on the disk, which may take long.
    let in_use = RefCell::default();
    let ready = || match refuse_in_use(&place, options) {
        Ok(users) => {
            in_use.replace(users);
            still_needed()
        }
        Err(why) => Err(still_needed().err().unwrap_or(why)),
    };
    if let Err(why) = ready() {
        staging.abandon();
        return Err(why.into());
    }
    let dress = |target: &std::os::fd::OwnedFd| top.as_ref().map_or(Ok(()), |entry| tree.dress(target, entry));
    let replaced = place.put(staging, now, ctx, &ready, &dress).map_err(|why| match why.kind() {
        Kind::Unneeded => why,
        _ => within(why),
    })?;
    report.in_use = in_use.take();
    (report.moved_aside, report.moved_beside) = (replaced.aside, replaced.beside);
    if place.is_stood_in() && report.moved_aside.is_some() {
        report.warnings.push(standing::FILLED.into());
    }
    report.kept = place.kept_there();
    for path in &replaced.left_out {
        report.warnings.push(format!("{path} is the filesystem's own there, and stays as it is"));
    }
    if let Some(left) = &replaced.unfinished {
        report.warnings.push(format!("the target stays marked: a restore of {left} is not finished"));
    }
    if replaced.undressed > 0 {
        let what = "folders in which something is mounted could not get their owner, mode or time";
        report.warnings.push(format!("{} {what}", replaced.undressed));
    }
    shortfall(tree, &mut report);
    report.not_restored.extend(reserved);
    report.warnings.extend(packs.mended().into_values());
    if !packs.mended().is_empty() || !packs.suspects().is_empty() {
        damaged::found(vault, &packs, doubts, ctx);
    }
    report.warnings.extend(doubts.warnings());
    report.warnings.append(&mut left.what);
    report.seconds = began.elapsed().as_secs_f64();
    report.traffic = vault.store.traffic();
    Ok(report)
}

/// Messages about what killed restores left, which nothing will repeat: they go into the report, or, if there is none,
/// into the log.
struct Untold<'a> {
    what: Vec<String>,
    monitor: &'a dyn Monitor,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.what.iter().for_each(|what| self.monitor.warn(what));
    }
}

/// Returns which entries of `paths`, or of all if it is empty, are stale, missing and torn in a snapshot.
fn lacks(packs: &PackReader, root: &Root, paths: &[EntryPath]) -> Result<(Vec<Stale>, Vec<Problem>, Vec<Problem>)> {
    let wanted = |at: &EntryPath| paths.is_empty() || paths.iter().any(|path| at.is_in(path) || path.is_in(at));
    let (mut stale, mut missing, mut torn) =
        (StaleBook::read(packs, root)?.into_items(), packs.all(&root.problems)?, packs.all(&root.torn)?);
    stale.retain(|item| wanted(&item.path));
    missing.retain(|item: &Problem| wanted(&item.path));
    torn.retain(|item: &Problem| wanted(&item.path));
    Ok((stale, missing, torn))
}

/// Returns the programs that use what is to be replaced, if the restore may go on in spite of them.
///
/// # Errors
/// Failed: there are such programs, and `while_in_use` is not set.
fn refuse_in_use(place: &RestoreTarget, options: &RestoreOptions) -> Result<Vec<FileUser>> {
    let users = crate::restore::occupants::users_of(place);
    let standing = crate::restore::occupants::moved(place);
    match standing.first() {
        _ if options.while_in_use => {}
        Some(first) => return Err(standing::refusal(&place.target, first)),
        None if users.is_empty() => {}
        None => return Err(in_use::refusal(&place.target, &users)),
    }
    Ok(users.into_iter().chain(standing).collect())
}

/// Checks that the snapshot has all of `paths`. Returns their side files.
fn locate(packs: &PackReader, root: &Root, paths: &[EntryPath], skip_damaged: bool) -> Result<SideFilePaths> {
    let HunksLeft { hunks, lost } = match skip_damaged {
        true => tree::hunks_left(packs, root)?,
        false => HunksLeft { hunks: tree::hunks(packs, root)?, lost: Vec::new() },
    };
    let mut decoder = Decoder::new()?;
    // Neighbouring paths are mostly in one hunk.
    let mut read: Option<(usize, Vec<Entry>, bool)> = None;
    let mut find = |path: &EntryPath| -> Result<Located> {
        let after = hunks.partition_point(|hunk| hunk.first <= *path);
        if read.as_ref().is_none_or(|(at, ..)| *at != after) {
            let (entries, damaged) = match after.checked_sub(1).map(|n| &hunks[n]) {
                None => (Vec::new(), false),
                Some(hunk) if skip_damaged => match tree::read_left(packs, hunk, &mut decoder) {
                    Ok(left) => (left.entries, !left.bad.is_empty()),
                    Err(why) if why.kind() == Kind::Damage => return Ok(Located::Unknown),
                    Err(why) => return Err(why),
                },
                Some(hunk) => (tree::read_hunk(packs, hunk, &mut decoder)?, false),
            };
            read = Some((after, entries, damaged));
        }
        let (entries, damaged) = read.as_ref().map_or((&[][..], false), |(_, entries, bad)| (&entries[..], *bad));
        // A folder may have no entry of its own; it is made then.
        let holds = entries.iter().any(|entry| entry.path.is_in(path))
            || hunks.get(after).is_some_and(|hunk| hunk.first.is_in(path));
        Ok(match entries.iter().find(|entry| entry.path == *path) {
            Some(entry) => Located::There(Box::new(entry.clone())),
            None if holds || damaged || !lost.is_empty() => Located::Unknown,
            None => Located::Nowhere,
        })
    };
    let mut sides = SideFilePaths::default();
    let of_another = |path: &EntryPath| paths.iter().any(|other| side_files::sides(other).any(|side| side == *path));
    for path in paths {
        let entry = match find(path)? {
            Located::There(entry) => entry,
            // The report will say what is lost.
            Located::Unknown => continue,
            // It belongs to a database as another snapshot has it; this snapshot's database is whole without it.
            Located::Nowhere if of_another(path) => {
                sides.lacking.push(path.clone());
                continue;
            }
            Located::Nowhere => {
                return Err(Error::usage(format!("find {path}"), "the snapshot has no such entry")
                    .hint("`lastgood ls SNAPSHOT` shows what it has."));
            }
        };
        if entry.kind != entry::EntryKind::File {
            continue;
        }
        // If the backup did not look for databases, any file may be one.
        let is_raw = entry.database.is_none_or(|database| database.taken == CaptureMethod::Raw);
        for side in side_files::sides(path) {
            match find(&side)? {
                Located::There(entry) if is_raw && entry.kind == entry::EntryKind::File => sides.there.push(side),
                Located::Nowhere => sides.lacking.push(side),
                Located::There(_) | Located::Unknown => {}
            }
        }
    }
    Ok(sides)
}

/// Whether an entry is in a snapshot.
enum Located {
    There(Box<Entry>),
    /// It has no entry of its own, but entries lie in it, or a part of the entries was lost.
    Unknown,
    Nowhere,
}

/// Makes all wanted entries in the staging folder. Returns the tree, the entry of the folder that is worked in, and the
/// entries that have the marker's name, which no entry may have.
fn fill_staging(
    planner: &Planner,
    root: &Root,
    tree: Tree,
    place: &RestoreTarget,
    report: &mut RestoreReport,
) -> Result<(Tree, Option<Arc<Entry>>, Vec<Problem>)> {
    let mut top = None;
    let told = std::thread::scope(|scope| {
        let (send, windows) = crossbeam_channel::bounded(0);
        // The next entries are read while the previous window is written.
        let planning = scope.spawn(move || {
            planner.each_window(root, |window| {
                send.send(window).map_err(|_| Error::failed("read the snapshot's entries", "the restore was stopped"))
            })
        });
        let written =
            windows.iter().try_for_each(|window| write_window(planner, &window, &tree, place, report, &mut top));
        drop(windows);
        let planned = planning.join().map_err(|_| Error::failed("read the snapshot's entries", "a thread panicked"))?;
        written.and(planned)
    })?;
    report.not_restored.extend(told.not_read);
    report.warnings.extend(missing::warnings(&told.remarks));
    report.not_restored.sort_by(|a, b| a.path.cmp(&b.path));
    if report.files == 0 && !report.not_restored.is_empty() {
        let first = &report.not_restored[0];
        return Err(Error::damage("get any file out of the snapshot", format!("{}: {}", first.path, first.why)));
    }
    Ok((tree, top, told.reserved))
}

fn write_window(
    planner: &Planner,
    window: &Window,
    tree: &Tree,
    place: &RestoreTarget,
    report: &mut RestoreReport,
    top: &mut Option<Arc<Entry>>,
) -> Result<()> {
    let files = || window.items.iter().filter(|item| item.last);
    window.folders.iter().try_for_each(|entry| tree.folder(entry))?;
    window.others.iter().try_for_each(|entry| tree.other(entry))?;
    let reader = ContentReader {
        packs: planner.packs,
        limits: planner.limits,
        skip_damaged: planner.skip_damaged,
        ctx: planner.ctx,
    };
    reader.read(window, tree)?;
    for item in files() {
        match item.lost.get() {
            Some(why) => report.not_restored.push(Problem::new(item.entry.path.clone(), why)),
            None => {
                item.group.iter().try_for_each(|group| tree.first_link(group, &item.entry))?;
                report.files += 1;
                report.bytes += item.entry.size;
            }
        }
    }
    for (group, entry) in &window.links {
        if tree.link(group, entry)? {
            report.files += 1;
            report.bytes += entry.size;
        } else if planner.skip_damaged {
            // Its own record of the content may lead to other places than the first member's.
            let mut alone = Walk::new(|window: Window| write_window(planner, &window, tree, place, report, top));
            planner.file(entry.clone(), &mut alone)?;
            alone.finish()?;
        } else {
            let why = "the file that it is a hard link of could not be restored";
            return Err(Error::damage(format!("restore {}", entry.path), why));
        }
    }
    for entry in &window.left {
        if entry.path == *place.within() {
            *top = Some(entry.clone());
        }
        // A target that stays keeps its own metadata, or gets it at the very end.
        if !place.within().is_in(&entry.path) || !place.keeps_target() {
            tree.leave(entry)?;
        }
    }
    report.entries += (window.folders.len() + window.others.len()) as u64;
    Ok(())
}

/// Adds to the report which entries could not be made, and which metadata could not be set.
fn shortfall(tree: Tree, report: &mut RestoreReport) {
    report.entries += report.files;
    if !report.not_restored.is_empty() {
        let places: BTreeSet<_> = report.not_restored.iter().map(|problem| &problem.path).collect();
        report.warnings.push(format!("the snapshot is damaged: {} places could not be restored", places.len()));
    }
    let short = tree.shortfall;
    let mut warn = |count: u64, text: &str| {
        if count > 0 {
            report.warnings.push(format!("{count} {text}"));
        }
    };
    let owners = "entries could not get their owner or group (this needs root, and a filesystem that keeps them)";
    warn(short.owners.into_inner(), owners);
    let set_id =
        "programs lost their set-user-id and set-group-id bits, with which they would run as somebody else than before";
    warn(short.set_id.into_inner(), set_id);
    warn(
        short.attributes.into_inner(),
        "entries could not get their mode or time: the filesystem there does not keep them",
    );
    let xattrs = "extended attributes could not be set: not allowed, or not supported there";
    warn(short.xattrs.into_inner(), xattrs);
    warn(short.links.into_inner(), "hard links are copies: the filesystem there has no hard links");
    let left_out = short.left_out.into_inner().unwrap_or_else(PoisonError::into_inner);
    warn(left_out.len() as u64, "entries could not be made: the filesystem there has none of their kind");
    report.entries -= left_out.len() as u64;
    report.not_restored.extend(left_out);
    report.not_restored.sort_by(|a, b| a.path.cmp(&b.path));
}

#[cfg(test)]
mod by_hand;

#[cfg(test)]
mod faulty;

#[cfg(test)]
mod hostile;

#[cfg(test)]
#[allow(missing_docs, reason = "for tests alone")]
pub mod sample;

#[cfg(test)]
#[allow(missing_docs, reason = "for tests alone")]
pub mod tests;
