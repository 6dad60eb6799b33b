//! Carries over what cannot be read from the newest good snapshot of the same data, as it was then.
//!
//! An entry is carried over with everything that belongs to it: a folder with what was in it, a raw database with its
//! side files. Only what the vault still has whole is carried over, and only what today's filters select. If the
//! newest good snapshot cannot tell, because its filters did not select the entry, because it was missing there, or
//! because what the vault has of it is damaged, older ones are asked: one backup with a narrow filter must not cost
//! what all others have.
//!
//! A carried entry is *racy*, so that every later backup reads it again instead of comparing times, and its hard-link
//! group has a name that no group of names that were read has: see `carried`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use jiff::Timestamp;

use super::merge::content_mark;
use super::parent::Parent;
use crate::error::Result;
use crate::path::{EntryPath, EscapedBytes};
use crate::source::select::Select;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::pack::PackInfo;
use crate::vault::root::{Problem, Root, SnapshotName, Stale};

mod source;

use self::source::{CarrySource, Has, Lacks};

/// Most good snapshots that are asked, including the newest one.
const ASKED: usize = 8;
/// Most roots that are read to find them.
const LOOKED_AT: usize = 64;

/// The newest good snapshots of the same data.
pub struct Carry<'a> {
    base: &'a Parent<'a>,
    select: &'a Select,
    /// The snapshots that were loaded, newest first.
    sources: Vec<CarrySource<'a>>,
    /// How many roots were looked at: the newest good one, and the older ones that were read.
    looked_at: usize,
    over: bool,
}

/// Whether an entry is a side file of the raw database that came before it; its place in path order comes later.
#[derive(Debug, Clone, Copy)]
pub struct Beside(pub bool);

/// The known gaps of a snapshot.
pub struct KnownGaps<'s> {
    /// When its capture began.
    pub started: Timestamp,
    lacks: &'s Lacks,
}

impl KnownGaps<'_> {
    /// Returns since when a path was lacking. `None` if it was not.
    pub fn since(&self, path: &EntryPath) -> Option<Timestamp> {
        let Lacks { stale, torn, missing } = self.lacks;
        let carried = stale.get(path).map(|stale| stale.since);
        let other = torn.get(path).or_else(|| missing.get(path)).map(|lack| lack.since.unwrap_or(self.started));
        carried.or(other)
    }
}

/// The result of carrying something over.
#[derive(Debug, Default)]
pub struct Carried {
    /// The stale entries for the root, with the requested path first.
    pub stale: Vec<Stale>,
    /// Carried entries that were torn when they were read.
    pub torn: Vec<Problem>,
    /// Entries that were below the path and are missing.
    pub lost: Vec<Problem>,
    /// Packs that hold the carried content.
    pub packs: Vec<PackInfo>,
}

impl<'a> Carry<'a> {
    /// Creates a `Carry` from the good snapshots that `base` knows; only what `select` selects is carried over.
    pub fn new(base: &'a Parent<'a>, select: &'a Select) -> Self {
        Carry { base, select, sources: Vec::new(), looked_at: 0, over: false }
    }

    /// Whether there is a good snapshot of the same data at all.
    pub fn exists(&self) -> bool {
        self.base.good.is_some()
    }

    /// Returns what the newest good snapshot was known to lack. `None` if there is no such snapshot.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn known_gaps(&mut self) -> Result<Option<KnownGaps<'_>>> {
        Ok(if self.find(0)? {
            self.sources.first().map(|source| KnownGaps { started: source.started, lacks: &source.lacks })
        } else {
            None
        })
    }

    /// Whether a file can be carried over at `path` that was at rest when it was read.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn has_file(&mut self, path: &EntryPath) -> Result<bool> {
        let Some((at, Has::Unit(unit))) = self.newest(path, 0)? else { return Ok(false) };
        let file = unit.first().is_some_and(|entry| entry.kind == EntryKind::File);
        Ok(file && !self.sources[at].lacks.torn.contains_key(path))
    }

    /// Returns the extended attributes that the newest good snapshot has of `path`.
    ///
    /// # Errors
    /// Fails if the store does.
    pub fn xattrs(&mut self, path: &EntryPath, kind: EntryKind) -> Result<Option<Vec<(EscapedBytes, EscapedBytes)>>> {
        if !self.find(0)? {
            return Ok(None);
        }
        Ok(self.sources[0].entry(path)?.filter(|entry| entry.kind == kind).map(|entry| entry.xattrs))
    }

    /// Carries over what was at `path` and what belongs to it: calls `take` with each entry, in path order. With
    /// `below`, only what was below it, since it has been put itself. Returns `None`, and takes nothing, if nothing
    /// was there that can be carried over.
    ///
    /// # Errors
    /// Fails if the store or `take` does.
    pub fn over(
        &mut self,
        path: &EntryPath,
        below: bool,
        why: &str,
        mut take: impl FnMut(Box<Entry>, Beside) -> Result<()>,
    ) -> Result<Option<Carried>> {
        let Some((at, has)) = self.newest(path, 0)? else { return Ok(None) };
        let source = &self.sources[at];
        let mut done = Carried { stale: vec![source.stale(path, why)], ..Carried::default() };
        done.torn.extend(within(&source.lacks.torn, path).cloned());
        let folder = match has {
            // Something else has its place now, and was put.
            Has::Unit(_) if below => return Ok(None),
            Has::Unit(unit) => {
                done.packs = source.packs_of(&unit);
                // For a file that was not a database then, the side files are named as entries of their own.
                let plain = unit.iter().skip(1).filter(|_| unit[0].sides().is_empty());
                done.stale.extend(plain.map(|side| source.stale(&side.path, why)));
                for (n, entry) in unit.into_iter().enumerate() {
                    take(carried(entry, source.name), Beside(n > 0))?;
                }
                return Ok(Some(done));
            }
            Has::Folder(folder, _) => folder,
            Has::Nothing | Has::Unknown => return Ok(None),
        };
        done.stale.extend(within(&source.lacks.stale, path).filter(|stale| stale.path != *path).cloned());
        if !below {
            done.packs.extend(source.packs_of([&*folder]));
            take(carried(*folder, source.name), Beside(false))?;
        }
        self.folder(at, path, &mut done, &mut take)?;
        Ok(Some(done))
    }

    /// Carries over what was in a folder.
    fn folder(
        &mut self,
        at: usize,
        path: &EntryPath,
        done: &mut Carried,
        take: &mut impl FnMut(Box<Entry>, Beside) -> Result<()>,
    ) -> Result<()> {
        let mut passed: Option<EntryPath> = None;
        // Side files of raw databases, and whether they are carried over with them.
        let mut sides: HashMap<EntryPath, bool> = HashMap::new();
        // Paths that were missing; for some of them only the extended attributes were.
        let mut missing: BTreeMap<_, _> =
            within(&self.sources[at].lacks.missing, path).map(|item| (item.path.clone(), item.clone())).collect();
        for hunk in self.sources[at].hunks_of(path) {
            let Some(entries) = self.sources[at].read(hunk)? else {
                let why =
                    format!("its entries in the vault are damaged from {} on", self.sources[at].hunks[hunk].first);
                done.lost.push(Problem::new(path.clone(), why));
                continue;
            };
            for entry in entries {
                let outside = !entry.path.is_in(path) || entry.path == *path;
                if outside || passed.as_ref().is_some_and(|passed| entry.path.is_in(passed)) {
                    continue;
                }
                missing.remove(&entry.path);
                if let Some(goes) = sides.remove(&entry.path) {
                    if goes {
                        take(carried(entry, self.sources[at].name), Beside(true))?;
                    }
                    continue;
                }
                let recorded = entry.sides();
                if !self.select.selects_path(&entry.path, entry.kind) {
                    sides.extend(recorded.into_iter().map(|side| (side, false)));
                    passed = (entry.kind == EntryKind::Folder).then_some(entry.path);
                    continue;
                }
                let path = entry.path.clone();
                let unit = self.sources[at].unit(self.base, entry)?;
                sides.extend(recorded.into_iter().map(|side| (side, unit.is_some())));
                match unit {
                    Some(mut unit) => {
                        done.packs.extend(self.sources[at].packs_of(&unit));
                        take(carried(unit.swap_remove(0), self.sources[at].name), Beside(false))?;
                    }
                    None => self.older(at + 1, path, done, take)?,
                }
            }
        }
        done.lost.extend(missing.into_values());
        Ok(())
    }

    /// Carries over from an older snapshot an entry of a newer one that the vault has lost.
    fn older(
        &mut self,
        from: usize,
        path: EntryPath,
        done: &mut Carried,
        take: &mut impl FnMut(Box<Entry>, Beside) -> Result<()>,
    ) -> Result<()> {
        let damaged = "it could not be read, and what the vault has of it is damaged";
        let Some((at, Has::Unit(unit))) = self.newest(&path, from)? else {
            done.lost.push(Problem::new(path, damaged));
            return Ok(());
        };
        let source = &self.sources[at];
        done.packs.extend(source.packs_of(&unit));
        done.stale.push(source.stale(&path, damaged));
        for (n, entry) in unit.into_iter().enumerate() {
            take(carried(entry, source.name), Beside(n > 0))?;
        }
        Ok(())
    }

    /// Returns the newest snapshot, from the one with this number on, that can tell what was at `path`, and what that
    /// was.
    fn newest(&mut self, path: &EntryPath, from: usize) -> Result<Option<(usize, Has)>> {
        let mut damaged = None;
        for at in from..ASKED {
            if !self.find(at)? {
                break;
            }
            match self.sources[at].has(path, self.base, self.select)? {
                Has::Nothing => break,
                Has::Unknown => {}
                has @ Has::Folder(_, false) => _ = damaged.get_or_insert((at, has)),
                has => return Ok(Some((at, has))),
            }
        }
        Ok(damaged)
    }

    /// Whether a snapshot with this number, counted from 0, can be asked; loads it if needed.
    fn find(&mut self, number: usize) -> Result<bool> {
        while self.sources.len() <= number && !self.over {
            let (base, first) = (self.base, self.sources.is_empty() && self.looked_at == 0);
            let next = match (&base.good, first) {
                (Some((name, root)), true) => Some((*name, root.clone())),
                (None, _) => None,
                (Some(_), false) => self.older_root()?,
            };
            let Some((name, root)) = next else {
                self.over = true;
                break;
            };
            self.looked_at = self.looked_at.max(1);
            self.sources.extend(CarrySource::load(base, name, &root)?);
        }
        Ok(self.sources.len() > number)
    }

    /// Returns the next older good snapshot of the same data.
    fn older_root(&mut self) -> Result<Option<(SnapshotName, Root)>> {
        let Some((newest, good)) = &self.base.good else { return Ok(None) };
        let older = self.base.names.iter().rev().filter(|name| *name < newest).skip(self.looked_at - 1);
        for name in older.take(LOOKED_AT.saturating_sub(self.looked_at)) {
            self.looked_at += 1;
            match self.base.vault.root(*name) {
                Ok(root) if root.good() && root.is_of(Path::new(&good.data), good.service.as_deref()) => {
                    return Ok(Some((*name, root)));
                }
                Ok(_) => {}
                // The good snapshot is newer, so no more is lost than its own damage costs.
                Err(why) if why.is_unusable_content() => {}
                Err(why) => return Err(why),
            }
        }
        Ok(None)
    }
}

/// Returns what is at a path and below it.
fn within<'m, T>(all: &'m BTreeMap<EntryPath, T>, path: &EntryPath) -> impl Iterator<Item = &'m T> {
    let path = path.clone();
    all.range(path.clone()..).take_while(move |(at, _)| at.is_in(&path)).map(|(_, item)| item)
}

/// Prefix of the name of a hard-link group that was carried over.
const KEPT: &str = "kept-";

/// Returns an entry as it is carried over from the snapshot `from`.
///
/// Times do not tell whether the file is still like this, so it must not be trusted without reading it. Its hard-link
/// group differs from the groups of names that were read: their content may have changed by now. Names that were
/// carried over from one snapshot stay one file: their group's name tells that, since it says when they were first
/// carried over.
fn carried(mut entry: Entry, from: SnapshotName) -> Box<Entry> {
    entry.racy = true;
    if let (Some(link), Some(hash)) = (&mut entry.link, &entry.hash)
        && !link.starts_with(KEPT)
    {
        let mark = content_mark(hash);
        let name = link.strip_suffix(&mark).map_or(link.as_str(), |name| name.trim_end_matches('-'));
        *link = format!("{KEPT}{}-{name}-{mark}", from.seq);
    }
    Box::new(entry)
}
