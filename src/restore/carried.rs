//! Brings back what snapshots leave out of a directory that a restore has replaced: `--exclude` and `--include` say that it is not
//! part of the data, so a restore of the data is not to take it away.
//!
//! It is done after the exchange and not before: until then the directory is as it was, whatever happens. Each entry moves by one
//! rename that replaces nothing, so at any moment it is in one of the two directories, and whoever begins again ends it. What the
//! snapshot has brought under the same name stays, and so does the other one, where it was moved aside.
//!
//! Entries that are left out as a whole, such as a folder of caches, are one rename, however large they are. A folder that is not left
//! out itself is made if the snapshot does not have it: under another name, until it has the attributes that it had. Where nothing is
//! left out, nothing is looked at but the names at the top.
//!
//! An error about one folder or entry leaves that one aside, with the reason, and the others come back. What folders had before they
//! are changed is told beforehand ([`ChangedFolder`]): a program that is killed leaves it to the next call to give it back.
//!
//! **Side files** of databases (`-wal`, `-journal`, `-shm`) never come back beside a database that the snapshot has brought: an old
//! log would be played into it. They go with their database, even if a pattern says `*-wal`, or names the database alone. Nor does a
//! database come back beside a log that the snapshot has brought, which it has where databases are not told from other files.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Stat;
use rustix::io::{Errno, Result as SystemResult};

use self::changed::{FolderBefore, MAKING, OPEN};
use super::steps::FolderAttributes;
use crate::error::{Doing, Result};
use crate::fs::rename::{rename, rename_free};
use crate::fs::{Folder, Spot, is_file, is_folder};
use crate::lineage::OWN_FOLDER;
use crate::path::{EntryPath, EscapedBytes};
use crate::source::marker::MARKER;
use crate::source::select::Select;
use crate::sqlite::side_files::SUFFIXES;
use crate::vault::entry::EntryKind;

mod changed;

pub use self::changed::ChangedFolder;

/// What was brought back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CarriedOver {
    /// The number of entries that were moved; a folder with all that is in it is one.
    pub moved: u64,
    /// Entries that stay aside, since something else has their names, or since they cannot be moved or looked into: each with the
    /// reason.
    pub stays: Vec<(EntryPath, String)>,
}

/// Moves back from `aside`, which was the content of `target`, what `select` leaves out of snapshots. Each folder is told to `tell`
/// before it is changed; `before` is the last one that a call told that was killed.
///
/// # Errors
/// One of the two directories cannot be opened. What is not moved is where it was.
pub fn carry_over(
    aside: &Path,
    target: &Path,
    select: &Select,
    before: Option<&ChangedFolder>,
    tell: &mut dyn FnMut(&ChangedFolder),
) -> Result<CarriedOver> {
    let open = |path: &Path| Folder::straight(path).doing(|| format!("open {}", path.display()));
    let (aside, target) = (Arc::new(open(aside)?), Arc::new(open(target)?));
    if let Some(before) = before {
        before.recover(&aside, &target);
    }
    let done = CarriedOver::default();
    let mut carrying = Carrying { aside, target, select, before, tell, done, last: None, told: None };
    let mut waiting = vec![Waiting { path: EntryPath::root(), left_out: false, blocked: None }];
    while let Some(next) = waiting.pop() {
        if let Err(why) = carrying.folder(&next, &mut waiting) {
            carrying.stays(next.path, &why.to_string());
        }
    }
    Ok(carrying.done)
}

/// A folder that is still to be looked into.
struct Waiting {
    path: EntryPath,
    /// Whether all that is in it is left out.
    left_out: bool,
    /// The folder above it, or itself, in whose place the snapshot has something else.
    blocked: Option<EntryPath>,
}

/// A folder of both directories that is open.
#[derive(Clone)]
struct OpenPair {
    from: Arc<Folder>,
    /// `None` if the restored directory does not have it.
    to: Option<Arc<Folder>>,
}

struct Carrying<'c> {
    aside: Arc<Folder>,
    target: Arc<Folder>,
    select: &'c Select,
    before: Option<&'c ChangedFolder>,
    tell: &'c mut dyn FnMut(&ChangedFolder),
    done: CarriedOver,
    /// The folder that was opened last: what is in it is opened from there, and not from the top.
    last: Option<(EntryPath, OpenPair)>,
    /// The last folder of which it was said that something is in its place.
    told: Option<EntryPath>,
}

impl Carrying<'_> {
    /// Moves what is left out of one folder. Folders in it that are to be looked into are added to `waiting`.
    fn folder(&mut self, at: &Waiting, waiting: &mut Vec<Waiting>) -> SystemResult<()> {
        if at.blocked.is_some() && at.blocked == self.told {
            return Ok(());
        }
        let pair = self.open(at)?;
        let mut names = pair.from.names()?;
        // Side files before their database: a program that is killed in between leaves none that has lost its log.
        names.sort_unstable_by(|a, b| b.cmp(a));
        let walks = self.select.leaves_out_by_pattern();
        let mut moves = Vec::new();
        for name in names {
            if at.path.is_root() && (name == OWN_FOLDER || name == MARKER) {
                continue;
            }
            let child = at.path.join(name.as_bytes());
            let there = pair.to.as_ref().map_or(Ok(None), |to| to.look(&name));
            let (stat, there) = match (pair.from.look(&name), there) {
                (Ok(None), _) => continue,
                (Ok(Some(stat)), Ok(there)) => (stat, there),
                (Err(why), _) | (_, Err(why)) => {
                    self.stays(child, &why.to_string());
                    continue;
                }
            };
            let left_out = at.left_out
                || !self.select.selects_path(&child, kind(&stat))
                || is_file(&stat) && self.is_side_of_left_out(&pair, &name, &at.path);
            if is_folder(&stat) && (!left_out || there.as_ref().is_some_and(is_folder)) {
                let is_blocked = there.as_ref().is_some_and(|there| !is_folder(there));
                let blocked = at.blocked.clone().or_else(|| is_blocked.then(|| child.clone()));
                if walks || left_out {
                    waiting.push(Waiting { path: child, left_out, blocked });
                }
                continue;
            }
            if !left_out {
                continue;
            }
            if let Some(blocked) = &at.blocked {
                self.stays(blocked.clone(), "the snapshot has something else of that name");
                self.told = Some(blocked.clone());
                return Ok(());
            }
            match self.why_it_stays(&pair, (&name, &stat), there.is_some(), at) {
                Some(why) => self.stays(child, &why),
                None => moves.push((name, stat)),
            }
        }
        let moves = self.with_their_databases(&pair, moves, &at.path);
        if moves.is_empty() {
            return Ok(());
        }
        self.move_all(pair, &moves, &at.path)
    }

    /// Opens a folder in both directories.
    fn open(&mut self, at: &Waiting) -> SystemResult<OpenPair> {
        let below = |folder: &Folder, name: &OsStr| folder.enter(name).map(Arc::new);
        let within = |directory: &Folder| directory.enter_all(at.path.as_path()).map(Arc::new);
        let there = |opened: SystemResult<Arc<Folder>>| match opened {
            Err(Errno::NOENT) => Ok(None),
            opened => opened.map(Some),
        };
        let name = OsStr::from_bytes(at.path.name());
        let pair = match &self.last {
            Some((above, last)) if at.path.folder().as_ref() == Some(above) => OpenPair {
                from: below(&last.from, name)?,
                to: match &last.to {
                    Some(to) if at.blocked.is_none() => there(below(to, name))?,
                    _ => None,
                },
            },
            _ => OpenPair {
                from: within(&self.aside)?,
                to: if at.blocked.is_none() { there(within(&self.target))? } else { None },
            },
        };
        self.last = Some((at.path.clone(), pair.clone()));
        Ok(pair)
    }

    fn stays(&mut self, path: EntryPath, why: &str) {
        self.done.stays.push((path, why.to_owned()));
    }

    /// Returns why an entry that is left out is not brought back. `None` if it is.
    fn why_it_stays(
        &self,
        pair: &OpenPair,
        (name, stat): (&OsStr, &Stat),
        is_taken: bool,
        at: &Waiting,
    ) -> Option<String> {
        if is_taken {
            return Some("the snapshot has something of that name".into());
        }
        if !is_file(stat) {
            return None;
        }
        if let Some(base) = base_of(name) {
            // If it cannot be looked at, it may be one.
            let is_in = |folder: &Folder| match folder.look(OsStr::from_bytes(base)) {
                Ok(found) => found.as_ref().is_some_and(is_file),
                Err(_) => true,
            };
            let shown = Path::new(OsStr::from_bytes(base)).display();
            if pair.to.as_ref().is_some_and(|to| is_in(to)) {
                return Some(format!("by its name it belongs to {shown}, which the snapshot has brought"));
            }
            let is_data = !at.left_out && self.select.selects_path(&at.path.join(base), EntryKind::File);
            if is_data && is_in(&pair.from) {
                return Some(format!("by its name it belongs to {shown}, which is data and stays there"));
            }
        }
        self.meets_a_log(pair, name, &at.path)
            .then(|| "the snapshot has a log of that name, which would be played into it".into())
    }

    /// Leaves out of `moves` the side files whose database is left out and stays all the same.
    fn with_their_databases(
        &mut self,
        pair: &OpenPair,
        moves: Vec<(OsString, Stat)>,
        above: &EntryPath,
    ) -> Vec<(OsString, Stat)> {
        let moving: HashSet<_> = moves.iter().map(|(name, _)| name.clone()).collect();
        let (moves, stay): (Vec<_>, Vec<_>) = moves.into_iter().partition(|(name, stat)| {
            let base = base_of(name).filter(|_| is_file(stat)).map(OsStr::from_bytes);
            base.is_none_or(|base| {
                moving.contains(base)
                    || !matches!(pair.from.look(base), Ok(found) if found.as_ref().is_some_and(is_file))
            })
        });
        for (name, _) in stay {
            self.stays(above.join(name.as_bytes()), "by its name it belongs to a file that stays there");
        }
        moves
    }

    /// Moves entries of one folder, which is made where the restored directory does not have it.
    fn move_all(&mut self, pair: OpenPair, moves: &[(OsString, Stat)], path: &EntryPath) -> SystemResult<()> {
        let mut made = Vec::new();
        let to = match pair.to {
            Some(to) => to,
            None => match self.make(path, &mut made) {
                Ok(to) => to,
                Err(why) => {
                    self.remove(made);
                    return Err(why);
                }
            },
        };
        let from = pair.from;
        self.last = Some((path.clone(), OpenPair { from: from.clone(), to: Some(to.clone()) }));
        let names: HashSet<_> = moves.iter().map(|(name, _)| name.as_bytes()).collect();
        let bytes = |name: &OsStr| EscapedBytes(name.as_bytes().to_vec());
        let is_closed = |stat: &Stat| is_folder(stat) && stat.st_mode & OPEN != OPEN;
        let sides = moves.iter().filter(|(name, _)| base_of(name).is_some_and(|base| names.contains(base)));
        let changed = ChangedFolder {
            path: EscapedBytes(path.bytes().to_vec()),
            from: FolderBefore::read(&from),
            to: FolderBefore::read(&to),
            entries: moves
                .iter()
                .filter(|(_, stat)| is_closed(stat))
                .map(|(name, stat)| (bytes(name), FolderBefore::of(stat)))
                .collect(),
            sides: self.sides_before(path).iter().cloned().chain(sides.map(|(name, _)| bytes(name))).collect(),
        };
        (self.tell)(&changed);
        open_up(&from);
        open_up(&to);
        let moved = self.move_groups((&from, &to), moves, &names, path);
        changed.give_back(Some(&from), Some(&to));
        if moved == 0 {
            self.remove(made);
        }
        Ok(())
    }

    /// Moves entries; a database and its side files all or none. Returns how many were moved.
    fn move_groups(
        &mut self,
        (from, to): (&Arc<Folder>, &Arc<Folder>),
        moves: &[(OsString, Stat)],
        names: &HashSet<&[u8]>,
        path: &EntryPath,
    ) -> u64 {
        let group = |name: &OsStr| match base_of(name) {
            Some(base) if names.contains(base) => base.to_vec(),
            _ => name.as_bytes().to_vec(),
        };
        let (mut moved, mut broken) = (Vec::new(), HashSet::new());
        for (name, _) in moves {
            let (group_of, child) = (group(name), path.join(name.as_bytes()));
            if broken.contains(&group_of) {
                self.stays(child, "a file that belongs to it cannot be moved");
                continue;
            }
            match rename(&Spot::new(from, name), &Spot::new(to, name)) {
                Ok(()) => moved.push(name),
                Err(why) => {
                    self.stays(child, &why.to_string());
                    moved.retain(|other: &&OsString| {
                        if group(other) != group_of || rename(&Spot::new(to, *other), &Spot::new(from, *other)).is_err()
                        {
                            return true;
                        }
                        self.stays(path.join(other.as_bytes()), "a file that belongs to it cannot be moved");
                        false
                    });
                    broken.insert(group_of);
                }
            }
        }
        let moved = moved.len() as u64;
        self.done.moved += moved;
        moved
    }

    /// Makes a folder in the restored directory, and those above it that are not there: each is in its place only when it has the
    /// owner, mode, times and attributes of the one aside. Adds to `made` which are new: their names, and where they are.
    fn make(&mut self, path: &EntryPath, made: &mut Vec<(Spot, EntryPath)>) -> SystemResult<Arc<Folder>> {
        let (mut from, mut to, mut above) = (self.aside.clone(), self.target.clone(), EntryPath::root());
        for part in path.as_path() {
            from = Arc::new(from.enter(part)?);
            let spot = Spot::new(&to, part);
            to = match spot.enter() {
                Err(Errno::NOENT) => {
                    let new = self.change(&to, &above, || make_like(&from, &spot))?;
                    made.push((spot, above.clone()));
                    Arc::new(new)
                }
                found => Arc::new(found?),
            };
            above = above.join(part.as_bytes());
        }
        Ok(to)
    }

    /// Removes folders that were made in vain.
    fn remove(&mut self, made: Vec<(Spot, EntryPath)>) {
        for (spot, above) in made.into_iter().rev() {
            // One that is not empty has got something meanwhile.
            let _ = self.change(&spot.folder, &above, || spot.folder.remove_folder(&spot.name));
        }
        self.last = None;
    }

    /// Changes a folder of the restored directory, and gives it its mode and times back.
    fn change<T>(
        &mut self,
        folder: &Arc<Folder>,
        path: &EntryPath,
        change: impl FnOnce() -> SystemResult<T>,
    ) -> SystemResult<T> {
        let path = EscapedBytes(path.bytes().to_vec());
        let changed = ChangedFolder { path, to: FolderBefore::read(folder), ..ChangedFolder::default() };
        (self.tell)(&changed);
        open_up(folder);
        let done = change();
        changed.give_back(None, Some(folder));
        done
    }

    /// Side files in a folder that a killed call had moved before their database.
    fn sides_before(&self, path: &EntryPath) -> &[EscapedBytes] {
        self.before.filter(|before| before.path.0 == path.bytes()).map_or(&[], |before| &before.sides)
    }

    /// Whether a file is the side file of a database that is left out: it is left out with that, whatever the patterns say of it.
    fn is_side_of_left_out(&self, pair: &OpenPair, name: &OsStr, above: &EntryPath) -> bool {
        let Some(base) = base_of(name) else { return false };
        let is_in = |folder: &Folder| matches!(folder.look(OsStr::from_bytes(base)), Ok(found) if found.as_ref().is_some_and(is_file));
        !self.select.selects_path(&above.join(base), EntryKind::File)
            && (is_in(&pair.from) || pair.to.as_ref().is_some_and(|to| is_in(to)))
    }

    /// Whether the snapshot may have brought a log that a database would take for its own. Where databases are told from other files,
    /// no snapshot has the log of one that is left out.
    fn meets_a_log(&self, pair: &OpenPair, name: &OsStr, above: &EntryPath) -> bool {
        let Some(to) = pair.to.as_ref().filter(|_| !self.select.sqlite) else { return false };
        SUFFIXES.iter().any(|side| {
            let beside = [name.as_bytes(), side.as_bytes()].concat();
            let is_brought = self.select.selects_path(&above.join(&beside), EntryKind::File)
                && !matches!(to.look(OsStr::from_bytes(&beside)), Ok(None));
            is_brought && !self.sides_before(above).contains(&EscapedBytes(beside))
        })
    }
}

/// Makes a folder with the owner, mode, times and attributes of another one. Returns it once it has its name.
fn make_like(like: &Folder, spot: &Spot) -> SystemResult<Folder> {
    let staged = Spot::new(&spot.folder, MAKING);
    match staged.folder.remove_folder(MAKING) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(why) => return Err(why),
    }
    let made = staged.folder.make(MAKING, OPEN)?;
    let done = match FolderAttributes::read(like).and_then(|attributes| attributes.apply_to(&made)) {
        // Another user's: it is this user's then, as what a restore makes is.
        Err(Errno::PERM) => like.mode().and_then(|mode| made.set_mode(mode & 0o777)),
        done => done,
    };
    // Within one folder: a folder that is not writable could not be moved into another one.
    match done.and_then(|()| rename_free(&staged, spot)) {
        Ok(()) => spot.enter(),
        Err(why) => {
            let _ = staged.folder.remove_folder(MAKING);
            Err(why)
        }
    }
}

/// Makes a folder writable if it is not. If that is refused, the moves show whether it was needed.
fn open_up(folder: &Folder) {
    if let Ok(mode) = folder.mode()
        && mode & OPEN != OPEN
    {
        let _ = folder.set_mode(mode | OPEN);
    }
}

/// The name of the database that a file may be the side file of.
fn base_of(name: &OsStr) -> Option<&[u8]> {
    let base = SUFFIXES.iter().find_map(|side| name.as_bytes().strip_suffix(side.as_bytes()));
    base.filter(|base| !base.is_empty())
}

/// The kind of an entry, as far as a selection asks for it.
fn kind(stat: &Stat) -> EntryKind {
    if is_folder(stat) { EntryKind::Folder } else { EntryKind::File }
}

#[cfg(test)]
mod tests;
