//! Restores one snapshot: the target is checked, the snapshot's content is made in a staging folder, and that is put into
//! place.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::damaged::{self, RestoreFailure};
use super::fill_staging::{fill_staging, shortfall};
use super::locate::locate;
use super::lock::lock_target;
use super::options::RestoreOptions;
use super::plan::Planner;
use super::report::RestoreReport;
use super::select::{self, Choice, LATEST};
use super::standing::{self, FileUser};
use super::target::{Replaced, RestoreTarget};
use super::window::WindowLimits;
use super::{apart, in_use, killed, occupants};
use crate::error::{Code, Error, Kind, Result};
use crate::lineage::{self, Lineage};
use crate::monitor::{Context, Monitor};
use crate::path::EntryPath;
use crate::vault::doubt::{Doubts, in_all, told};
use crate::vault::read::PackReader;
use crate::vault::root::{Problem, Root, SnapshotState, Stale};
use crate::vault::stale::StaleBook;
use crate::vault::{Vault, seq};

const OTHERS: &str = "`--snapshot latest` takes the newest good snapshot that is whole, and `--skip-damaged` restores what can be read of \
                      this one; `lastgood verify` lists all damage.";
const SKIP: &str = "`lastgood restore --skip-damaged` restores what can be read; `lastgood verify` lists all damage.";

/// How a restore treats a snapshot that needs a pack known to be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damaged {
    /// Nothing of it is read.
    PassedOver,
    /// It is read as far as possible, because no other snapshot is left: the parts that are needed may be sound. All
    /// content is checked as always.
    Read,
}

/// Restores one snapshot, in windows of this size.
///
/// # Errors
/// As [`restore`](super::restore).
pub(crate) fn attempt(
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
    if let Some(own) = paths.iter().find(|path| lineage::is_own(path)) {
        let why = "lastgood keeps there what the directory comes from: it is not part of the data";
        let error = Error::usage(format!("restore {own} to {}", options.target.display()), why);
        let hint = "An older snapshot may have it all the same: `lastgood ls` and `lastgood cat` show what is in it.";
        return Err(error.with_code(Code::UnknownPath).hint(hint).into());
    }
    let mut place = RestoreTarget::check(&options.target, options.how(&root), paths)?;
    apart::check(&place.target, paths, &options.vaults)?;
    let from = vault.store.url();
    (place.snapshot, place.vault) = (Some(name), Some(from.clone()));
    let target = place.target.clone();
    // Held to the end: a backup that begins meanwhile waits, and then finds what has been put into place.
    let (_locked, unlocked) = lock_target(&target, ctx)?;
    // A volume in it may be a data directory of its own.
    let own = (!place.within().is_root()).then(|| lock_target(&place.folder(), ctx)).transpose()?;
    let mut report = RestoreReport::begun(name, target.clone(), passed_over);
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
            wrong = damaged::confirm_suspects(vault, packs, doubts, ctx);
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
            let what = "it is not known which entries of the snapshot are older than it, missing or torn";
            report.warnings.push(format!("{what}: {}", why.what()));
        }
        Err(why) => return Err(failed(why, &packs, doubts)),
    }
    // If only some files are restored, damage is found while they are read.
    let tests = all && !options.skip_damaged && known == Damaged::PassedOver;
    let wrong = damaged::find(vault, &packs, tests, doubts, ctx)?;
    let (wrong, spare) = damaged::without_spare(&packs, &root, wrong)?;
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
        let sides = locate(&packs, &root, paths, options.skip_damaged).map_err(|why| place.explain_unknown_path(why));
        place.add_side_files(sides.map_err(|why| failed(why, &packs, doubts))?)?;
    }
    report.warnings.extend(place.interrupted_restores());

    let bytes = all.then_some(root.totals.bytes);
    ctx.monitor.begin("restoring", bytes);
    // Asked before anything is made, so that nothing is left behind if the store cannot tell the time.
    let now = vault.store.now().map_err(|e| e.while_doing("ask the store for the time"))?;
    if all {
        place.lineage = Some(Lineage {
            format: lineage::FORMAT,
            vault: vault.config.id,
            snapshot: Some(name),
            epoch: seq::epoch(name.seq),
            serial: lineage::new_serial(ctx)?,
            chosen: options.snapshot != LATEST && !options.unasked,
            written: now,
        });
    }
    let elsewhere = killed::leftovers_outside(&target, Some(&place.base()));
    let (staging, mut left) = place.stage(ctx)?;
    left.extend(elsewhere.iter().map(killed::Leftover::to_string));
    let mut left = LeftoverMessages { messages: left, monitor: ctx.monitor };
    let before = options.before_exchange.as_ref();
    place.before = before.filter(|_| all).cloned();
    let ahead = options.ahead.as_deref().filter(|_| all && !place.keeps_target());
    let (wanted, skip_damaged) = (place.wanted(), options.skip_damaged);
    let planner = Planner { packs: &packs, wanted, limits, skip_damaged, ahead, ctx };
    let filled = staging.begin(place.within()).and_then(|tree| {
        // While the tree is still this user's and can be written to.
        place.stage_lineage(&staging, before)?;
        let made = fill_staging(&planner, &root, tree, &place, &mut report)?;
        place.hand_over_lineage(&staging)?;
        Ok(made)
    });
    let filled = filled.and_then(|made| ctx.check("restore").map(|()| made));
    let (tree, top, reserved) = match filled {
        Ok(made) => made,
        Err(why) => {
            staging.abandon();
            return Err(failed(why, &packs, doubts));
        }
    };
    ctx.monitor.syncing();
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
    let set_metadata = |target: &OwnedFd| top.as_ref().map_or(Ok(()), |entry| tree.set_metadata(target, entry));
    let replaced = place.put(staging, now, ctx, &ready, &set_metadata).map_err(|why| match why.kind() {
        Kind::Unneeded => why,
        _ => within(why),
    })?;
    report.in_use = in_use.take();
    report_replaced(&mut report, &place, replaced);
    shortfall(tree, &mut report);
    report.not_restored.extend(reserved);
    report.warnings.extend(packs.mended().into_values());
    if !packs.mended().is_empty() || !packs.suspects().is_empty() {
        damaged::confirm_suspects(vault, &packs, doubts, ctx);
    }
    report.warnings.extend(doubts.warnings());
    report.warnings.append(&mut left.messages);
    report.seconds = began.elapsed().as_secs_f64();
    report.traffic = vault.store.traffic();
    Ok(report)
}

/// Adds to the report where the previous content is now, and what was not done when the new one was put into place.
fn report_replaced(report: &mut RestoreReport, place: &RestoreTarget, replaced: Replaced) {
    (report.moved_aside, report.moved_beside) = (replaced.aside, replaced.beside);
    if place.is_stood_in() && report.moved_aside.is_some() {
        report.warnings.push(standing::FILLED.into());
    }
    report.kept = place.kept_there();
    for path in &replaced.left_out {
        report.warnings.push(format!("{path} belongs to the filesystem there, and stays as it is"));
    }
    if let Some(left) = &replaced.unfinished {
        report.warnings.push(format!("the target stays marked: a restore of {left} is not finished"));
    }
    if replaced.without_attributes > 0 {
        let what = "folders in which something is mounted could not get their owner, mode or time";
        report.warnings.push(format!("{} {what}", replaced.without_attributes));
    }
}

/// Messages about what killed restores left, which nothing will repeat: they go into the report, or, if there is none,
/// into the log.
struct LeftoverMessages<'a> {
    messages: Vec<String>,
    monitor: &'a dyn Monitor,
}

impl Drop for LeftoverMessages<'_> {
    fn drop(&mut self) {
        self.messages.iter().for_each(|what| self.monitor.warn(what));
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
    let users = occupants::users_of(place);
    let standing = occupants::moved(place);
    match standing.first() {
        _ if options.while_in_use => {}
        Some(first) => return Err(standing::refusal(&place.target, first)),
        None if users.is_empty() => {}
        None => return Err(in_use::refusal(&place.target, &users)),
    }
    Ok(users.into_iter().chain(standing).collect())
}
