//! What cannot be read is carried over from the newest good snapshot of the same data, as it was then.
//!
//! An entry is carried over with all that belongs to it: of a folder, what was in it; of a raw database, what lay beside it.
//! Only what the vault still has whole is carried over, and only what today's filters take. Where the newest good snapshot
//! cannot tell, since its filters did not take the entry, since it was missing there, or since what the vault has of it is
//! damaged, older ones are asked: one backup with a narrow filter must not cost what all others have.
//!
//! A carried entry is *racy*, so that every later backup reads it anew instead of comparing times, and its group of hard links
//! has a name that no group has whose names were read: see [`carried`].

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use jiff::Timestamp;

use super::merge::content_mark;
use super::parent::Parent;
use crate::error::{Kind as ErrorKind, Result};
use crate::path::{EntryPath, EscapedBytes};
use crate::source::select::Select;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::pack::PackInfo;
use crate::vault::root::{Problem, Root, SnapshotName, Stale};

mod source;

use self::source::{CarrySource, Has, Lacks};

/// So many good snapshots are asked, the newest one among them.
const ASKED: usize = 8;
/// So many roots are read to find them.
const LOOKED_AT: usize = 64;

/// The newest good snapshots of the same data.
pub struct Carry<'a> {
    base: &'a Parent<'a>,
    select: &'a Select,
    /// Those that were asked, newest first.
    sources: Vec<CarrySource<'a>>,
    /// How many of the roots that are older than the newest good one were read.
    looked_at: usize,
    over: bool,
}

/// Whether an entry lies beside the raw database that came before it, and has its place in the order of paths later.
#[derive(Debug, Clone, Copy)]
pub struct Beside(pub bool);

/// What a snapshot was known to lack.
pub struct KnownGaps<'s> {
    /// When its capture began.
    pub started: Timestamp,
    lacks: &'s Lacks,
}

impl KnownGaps<'_> {
    /// Since when a path was lacking; none where it was not.
    pub fn since(&self, path: &EntryPath) -> Option<Timestamp> {
        let Lacks { stale, torn, missing } = self.lacks;
        let carried = stale.get(path).map(|stale| stale.since);
        let other = torn.get(path).or_else(|| missing.get(path)).map(|lack| lack.since.unwrap_or(self.started));
        carried.or(other)
    }
}

/// What comes of carrying something over.
#[derive(Debug, Default)]
pub struct Carried {
    /// What is to be told in the root, the thing itself first.
    pub stale: Vec<Stale>,
    /// What of it was torn when it was read.
    pub torn: Vec<Problem>,
    /// What was in it and is missing.
    pub lost: Vec<Problem>,
    /// Packs that are reached.
    pub packs: Vec<PackInfo>,
}

impl<'a> Carry<'a> {
    /// What `base` knows of good snapshots; of them, what `select` takes.
    pub fn new(base: &'a Parent<'a>, select: &'a Select) -> Self {
        Carry { base, select, sources: Vec::new(), looked_at: 0, over: false }
    }

    /// Whether there is a good snapshot of the same data at all.
    pub fn exists(&self) -> bool {
        self.base.good.is_some()
    }

    /// What the newest good snapshot was known to lack; none where there is none.
    ///
    /// # Errors
    /// A store that fails.
    pub fn told(&mut self) -> Result<Option<KnownGaps<'_>>> {
        Ok(if self.find(0)? {
            self.sources.first().map(|source| KnownGaps { started: source.started, lacks: &source.lacks })
        } else {
            None
        })
    }

    /// Whether there is a file at `path` to be carried over that was at rest when it was read.
    ///
    /// # Errors
    /// A store that fails.
    pub fn has_file(&mut self, path: &EntryPath) -> Result<bool> {
        let Some((at, Has::Unit(unit))) = self.newest(path, 0)? else { return Ok(false) };
        let file = unit.first().is_some_and(|entry| entry.kind == EntryKind::File);
        Ok(file && !self.sources[at].lacks.torn.contains_key(path))
    }

    /// The extended attributes that the newest good snapshot has of `path`.
    ///
    /// # Errors
    /// A store that fails.
    pub fn xattrs(&mut self, path: &EntryPath, kind: EntryKind) -> Result<Option<Vec<(EscapedBytes, EscapedBytes)>>> {
        if !self.find(0)? {
            return Ok(None);
        }
        Ok(self.sources[0].entry(path)?.filter(|entry| entry.kind == kind).map(|entry| entry.xattrs))
    }

    /// Carries over what was at `path` and what belongs to it: calls `take` with each entry, in path order. With `below` only
    /// what is below it, since it has been put itself. Gives nothing, and takes nothing, where nothing was there that can be
    /// carried over.
    ///
    /// # Errors
    /// A store that fails; those of `take`.
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
                // Of a file that was no database then, what lay beside it is named for itself.
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
        // What lies beside raw databases, and whether it goes with them.
        let mut sides: HashMap<EntryPath, bool> = HashMap::new();
        // Of some entries only the extended attributes were.
        let mut missing: BTreeMap<_, _> =
            within(&self.sources[at].lacks.missing, path).map(|item| (item.path.clone(), item.clone())).collect();
        for hunk in self.sources[at].hunks_of(path) {
            let Some(entries) = self.sources[at].read(hunk)? else {
                let why =
                    format!("what the vault says of it from {} on is damaged", self.sources[at].hunks[hunk].first);
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
                if !self.select.takes_path(&entry.path, entry.kind) {
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

    /// Carries over from an older snapshot what the vault has lost of a newer one.
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

    /// The newest snapshot, from the one of this number on, that can tell what was at `path`, and what that was.
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

    /// Whether there are so many snapshots, and one more, that can be asked.
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

    /// The next older good snapshot of the same data.
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
                Err(why) if why.kind() == ErrorKind::Damage => {}
                Err(why) => return Err(why),
            }
        }
        Ok(None)
    }
}

/// What lies at a path and below it.
fn within<'m, T>(all: &'m BTreeMap<EntryPath, T>, path: &EntryPath) -> impl Iterator<Item = &'m T> {
    let path = path.clone();
    all.range(path.clone()..).take_while(move |(at, _)| at.is_in(&path)).map(|(_, item)| item)
}

/// What the name of a group of hard links begins with that was carried over.
const KEPT: &str = "kept-";

/// An entry as it is carried over from the snapshot `from`.
///
/// Times do not tell whether it is still that, so that nobody trusts it unread. Its group of hard links is not that of names
/// which were read: what they hold may be something else by now. Names that were carried over from one snapshot stay one
/// file: that is told by the name of the group, which says when it was carried over first.
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
