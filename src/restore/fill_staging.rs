//! Makes a snapshot's entries in the staging folder, window by window.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use super::missing;
use super::plan::{Planner, Walk};
use super::read::ContentReader;
use super::report::RestoreReport;
use super::target::RestoreTarget;
use super::window::Window;
use super::write::Tree;
use crate::error::{Code, Error, Result};
use crate::lineage::OWN_FOLDER;
use crate::panics;
use crate::vault::entry::Entry;
use crate::vault::root::{Problem, Root};

const READING: &str = "read the snapshot's entries";

/// Makes all wanted entries in the staging folder. Returns the tree, the entry of the folder that is worked in, and the
/// entries that have the marker's name, which no entry may have.
pub(crate) fn fill_staging(
    planner: &Planner,
    root: &Root,
    tree: Tree,
    place: &RestoreTarget,
    report: &mut RestoreReport,
) -> Result<(Tree, Option<Arc<Entry>>, Vec<Problem>)> {
    let mut top = None;
    let findings = std::thread::scope(|scope| {
        let (send, windows) = crossbeam_channel::bounded(0);
        // The next entries are read while the previous window is written.
        let planning = scope.spawn(move || {
            planner.each_window(root, |window| {
                // The error of the window that could not be written is the one that is reported.
                send.send(window)
                    .map_err(|_| Error::failed(READING, "the restore was stopped").with_code(Code::Stopped))
            })
        });
        let written =
            windows.iter().try_for_each(|window| write_window(planner, &window, &tree, place, report, &mut top));
        drop(windows);
        let planned = planning.join().map_err(|panic| panics::error(READING, &*panic))?;
        written.and(planned)
    })?;
    report.not_restored.extend(findings.not_read);
    report.warnings.extend(missing::warnings(&findings.remarks));
    if findings.own {
        let what = "which the snapshot has, is left out: lastgood keeps its own files there. `lastgood ls` and `lastgood cat` show it";
        report.warnings.push(format!("{OWN_FOLDER}, {what}"));
    }
    report.not_restored.sort_by(|a, b| a.path.cmp(&b.path));
    if report.files == 0 && !report.not_restored.is_empty() {
        let first = &report.not_restored[0];
        return Err(Error::damage("get any file out of the snapshot", format!("{}: {}", first.path, first.why)));
    }
    Ok((tree, top, findings.reserved))
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
    if !tree.is_ahead() {
        window.others.iter().try_for_each(|entry| tree.other(entry))?;
    }
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
                // Each name of a file that is made ahead is a file of its own.
                let group = item.group.iter().filter(|_| !tree.is_ahead());
                group.into_iter().try_for_each(|group| tree.first_link(group, &item.entry))?;
                report.files += 1;
                report.bytes += item.entry.size;
            }
        }
    }
    if tree.is_ahead() {
        return Ok(());
    }
    let mut not_there = Vec::new();
    for (group, entry) in &window.ahead {
        if planner.ahead.is_some_and(|ahead| ahead.move_to(tree, entry)) {
            group.iter().try_for_each(|group| tree.first_link(group, entry))?;
            planner.ctx.monitor.advance(entry.size);
            report.files += 1;
            report.bytes += entry.size;
        } else {
            not_there.push(entry);
        }
    }
    if !not_there.is_empty() {
        let mut alone = Walk::new(|window: Window| write_window(planner, &window, tree, place, report, top));
        not_there.into_iter().try_for_each(|entry| planner.file(entry.clone(), &mut alone))?;
        alone.finish()?;
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
pub(crate) fn shortfall(tree: Tree, report: &mut RestoreReport) {
    report.entries += report.files;
    if !report.not_restored.is_empty() {
        let places: BTreeSet<_> = report.not_restored.iter().map(|problem| &problem.path).collect();
        report.warnings.push(format!("the snapshot is damaged: {} paths could not be restored", places.len()));
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
    warn(left_out.len() as u64, "entries could not be made: the filesystem there does not support their kind");
    report.entries -= left_out.len() as u64;
    report.not_restored.extend(left_out);
    report.not_restored.sort_by(|a, b| a.path.cmp(&b.path));
}
