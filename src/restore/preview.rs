//! Previews a restore: compares the snapshot's entries with what is in the target, by kind, size and time. No content
//! is read, and nothing is written, not in the vault either.

use std::path::PathBuf;

use crossbeam_channel::bounded;
use serde::Serialize;

use super::locate::locate;
use super::options::RestoreOptions;
use super::select::{Choice, PassedOver};
use super::standing::{self, FileUser};
use super::target::RestoreTarget;
use super::{apart, occupants, side_files};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::source::found::SourceEntry;
use crate::source::select::Select;
use crate::source::walk::{self, Met, Walker};
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::read::{PackReader, absent};
use crate::vault::root::SnapshotName;
use crate::vault::{Vault, tree};

/// Most paths of each kind of change, and most warnings about the target, that are named.
const NAMED: usize = 20;
/// Most entries of the target that are listed ahead.
const AHEAD: usize = 4096;

/// Describes what a restore would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The snapshot that it would restore.
    pub snapshot: SnapshotName,
    /// When its capture began.
    pub begun: jiff::Timestamp,
    /// The target.
    pub target: PathBuf,
    /// Entries that are not in the target.
    pub added: Changes,
    /// Entries that are there but differ in kind, size or time.
    pub changed: Changes,
    /// Entries that are there already, as far as kind, size and time tell.
    pub unchanged: Changes,
    /// Entries that are there and not in the snapshot; they move aside with the rest.
    pub gone: Changes,
    /// Paths that would move aside.
    pub moves_aside: Vec<PathBuf>,
    /// Paths that stay as they are, with everything in them, because something is mounted there.
    pub kept: Vec<EntryPath>,
    /// Programs that have files open there: the restore is refused without `--while-in-use`.
    pub in_use: Vec<FileUser>,
    /// Newer snapshots that are not good or are damaged.
    pub passed_over: Vec<PassedOver>,
    /// Warnings: what stands in the way, or should be known.
    pub warnings: Vec<String>,
}

/// Entries that a restore would deal with in the same way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Number of entries of every kind.
    pub entries: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// The paths of the first of them.
    pub first: Vec<EntryPath>,
}

impl Changes {
    fn add(&mut self, path: &EntryPath, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
        if self.first.len() < NAMED {
            self.first.push(path.clone());
        }
    }
}

/// Says what restoring a snapshot would do.
///
/// # Errors
/// Anything that would keep the restore from beginning: a target that cannot be restored to, a path that the snapshot
/// does not have. A store that fails; damage to the snapshot's lists.
pub fn preview(vault: &Vault, options: &RestoreOptions, choice: Choice, ctx: &Context) -> Result<Preview> {
    let Choice { name, root, passed_over, .. } = choice;
    let all = options.paths.is_empty() || options.paths.iter().any(EntryPath::is_root);
    let paths = if all { &[][..] } else { &options.paths };
    let mut place = RestoreTarget::check(&options.target, options.how(&root), paths)?;
    place.vault = Some(vault.store.url());
    apart::check(&place.target, paths, &options.vaults)?;
    let packs = PackReader::for_root(&*vault.store, &root)?;
    let missing = absent(&*vault.store, packs.book().values())?;
    if !all {
        place.add_side_files(locate(&packs, &root, paths, options.skip_damaged)?)?;
    }
    let mut preview = Preview {
        snapshot: name,
        begun: root.started,
        target: place.target.clone(),
        added: Changes::default(),
        changed: Changes::default(),
        unchanged: Changes::default(),
        gone: Changes::default(),
        moves_aside: place.replaces().into_iter().filter(|path| path.symlink_metadata().is_ok()).collect(),
        kept: place.kept_there(),
        in_use: occupants::users_of(&place).into_iter().chain(occupants::moved(&place)).collect(),
        passed_over,
        warnings: place.interrupted_restores(),
    };
    place.check_writable()?;
    if place.is_stood_in() {
        preview.warnings.push(standing::FILLED.into());
    }
    if let Some((pack, state)) = missing.first() {
        let what = "so the snapshot cannot be restored whole from this vault";
        preview.warnings.push(format!(
            "packs are missing or damaged ({} in all), {what}: {}: {state}",
            missing.len(),
            pack.name()
        ));
    }
    if let Some(why) = packs.book().values().find_map(|pack| vault.store.denied(&pack.name())) {
        preview.warnings.push(format!("{why}: the files that need it cannot be restored from this vault"));
    }
    let wanted = place.wanted();
    let target = &place.target;
    std::thread::scope(|scope| {
        let (send, listed) = bounded::<SourceEntry>(AHEAD);
        let walking = scope.spawn(move || list(target, &|found| send.send(found).is_ok(), ctx));
        let there = listed.into_iter().filter(|found| wanted.holds(&found.path) && !place.is_marker(&found.path));
        let mut there = there.peekable();
        let compared = tree::each_entry(&packs, &root, |entry| {
            ctx.check("compare the target")?;
            if !wanted.holds(&entry.path) {
                return Ok(());
            }
            while let Some(found) = there.next_if(|found| found.path < entry.path) {
                preview.gone.add(&found.path, size(found.kind, found.size));
            }
            let changes = match there.next_if(|found| found.path == entry.path) {
                None => &mut preview.added,
                Some(found) if is_same(&entry, &found) => &mut preview.unchanged,
                Some(_) => &mut preview.changed,
            };
            changes.add(&entry.path, size(entry.kind, entry.size));
            if entry.kind == EntryKind::File && place.paths().contains(&entry.path) {
                let at = target.join(entry.path.as_path());
                preview.moves_aside.extend(side_files::would_move(&at, entry.database.is_some()));
            }
            Ok(())
        });
        if compared.is_ok() {
            there.for_each(|found| preview.gone.add(&found.path, size(found.kind, found.size)));
        } else {
            drop(there);
        }
        let warnings = walking.join().map_err(|panic| crate::panics::error("look at the target", &*panic))?;
        compared?;
        preview.warnings.extend(warnings?);
        Ok(())
    })
    .map_err(|why: Error| match why.kind() {
        ErrorKind::Damage => why.within(format!("compare the snapshot {name} with {}", target.display())),
        _ => why,
    })?;
    // A log that is also put back by itself is among them twice.
    preview.moves_aside.sort();
    preview.moves_aside.dedup();
    Ok(preview)
}

/// Lists what is in the target for as long as `take` wants more. Returns warnings about what could not be looked at.
fn list(target: &std::path::Path, take: &dyn Fn(SourceEntry) -> bool, ctx: &Context) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if target.symlink_metadata().is_err() {
        return Ok(warnings);
    }
    let root = match walk::open(target) {
        Ok(root) => root,
        Err(why) => return Ok(vec![why.what()]),
    };
    let select = Select::new(target, &[], &[], &[], false)?;
    let mut over = false;
    let walked = Walker::quiet(&root, &select, ctx.stop).whole(|met| {
        match met {
            Met::Entry(found) => over |= !take(found),
            Met::Failed(path, why) if warnings.len() < NAMED => {
                warnings.push(format!("{path} cannot be read: {why}"));
            }
            Met::Failed(..) => {}
            Met::Listed(_) | Met::Away(_) | Met::Skipped(..) => {}
        }
        if over { Err(Error::failed("look at the target", "it is over")) } else { Ok(()) }
    });
    // If `take` wants no more, the comparison has failed, and says why.
    if over { Ok(warnings) } else { walked.map(|()| warnings) }
}

fn size(kind: EntryKind, size: u64) -> u64 {
    if kind == EntryKind::File { size } else { 0 }
}

fn is_same(entry: &Entry, found: &SourceEntry) -> bool {
    entry.kind == found.kind
        && (entry.kind == EntryKind::Folder
            || entry.mtime == found.mtime && (entry.kind != EntryKind::File || entry.size == found.size))
}
