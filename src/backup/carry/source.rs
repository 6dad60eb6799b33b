//! Looks up the entries of a good snapshot, one by one or by folder.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use jiff::Timestamp;

use crate::backup::parent::Parent;
use crate::error::{Kind as ErrorKind, Result};
use crate::path::EntryPath;
use crate::source::select::Select;
use crate::sqlite::side_files::database_of;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, EntryKind, Extent};
use crate::vault::hex::PackId;
use crate::vault::pack::PackInfo;
use crate::vault::read::PackReader;
use crate::vault::root::{Filters, HunkRef, Problem, Root, SnapshotName, Stale};
use crate::vault::{state, tree};

/// A good snapshot whose entries can be looked up.
pub(super) struct CarrySource<'a> {
    pub(super) name: SnapshotName,
    pub(super) started: Timestamp,
    pub(super) packs: PackReader<'a>,
    pub(super) hunks: Vec<HunkRef>,
    /// Selects what its filters selected; `None` if it had no filters.
    pub(super) select: Option<Select>,
    pub(super) filters: Filters,
    pub(super) lacks: Lacks,
    /// Doubted packs that were read, and whether they are sound.
    pub(super) tested: HashMap<PackId, bool>,
    pub(super) decoder: Decoder,
    /// The hunk that was read last, and its entries; `None` if it is damaged.
    pub(super) last: Option<(usize, Option<Vec<Entry>>)>,
}

/// The gaps of a snapshot, by path.
#[derive(Debug, Default)]
pub(super) struct Lacks {
    /// Entries that it had carried over itself.
    pub(super) stale: BTreeMap<EntryPath, Stale>,
    /// Entries that it holds torn.
    pub(super) torn: BTreeMap<EntryPath, Problem>,
    /// Entries that were missing in it.
    pub(super) missing: BTreeMap<EntryPath, Problem>,
}

/// The content of a snapshot at a path.
pub(super) enum Has {
    /// There was nothing, or nothing that can be carried over.
    Nothing,
    /// It cannot tell.
    Unknown,
    /// An entry, with its side files if it is a raw database.
    Unit(Vec<Entry>),
    /// A folder, and whether everything that the snapshot says of its contents can be read.
    Folder(Box<Entry>, bool),
}

impl<'a> CarrySource<'a> {
    /// Reads a snapshot's lists. `None` if they are damaged, which a verify run reports.
    pub(super) fn load(base: &Parent<'a>, name: SnapshotName, root: &Root) -> Result<Option<Self>> {
        let load = || -> Result<_> {
            let packs = base.source(root)?;
            let hunks = tree::hunks(&packs, root)?;
            let stale = packs.all(&root.stale)?.into_iter().map(|item| (item.path.clone(), item)).collect();
            let by_path = |list| -> Result<BTreeMap<_, _>> {
                let all = packs.all(list)?;
                Ok(all.into_iter().map(|problem: Problem| (problem.path.clone(), problem)).collect())
            };
            let (torn, missing) = (by_path(&root.torn)?, by_path(&root.problems)?);
            // The recorded patterns were accepted by an earlier run, so they are valid.
            let filters = Some(&root.filters).filter(|filters| !filters.is_empty());
            let select = filters.and_then(|filters| Select::by(Path::new(&root.data), filters, &[], true).ok());
            let (started, decoder) = (root.started, Decoder::new()?);
            let lacks = Lacks { stale, torn, missing };
            let filters = root.filters.clone();
            Ok(CarrySource {
                name,
                started,
                packs,
                hunks,
                select,
                filters,
                lacks,
                tested: HashMap::new(),
                decoder,
                last: None,
            })
        };
        match load() {
            Ok(source) => Ok(Some(source)),
            Err(why) if why.kind() == ErrorKind::Damage => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Returns what the snapshot has at a path.
    pub(super) fn has(&mut self, path: &EntryPath, base: &Parent, select: &Select) -> Result<Has> {
        let Some(entry) = self.entry(path)? else {
            // It cannot tell either if that hunk is damaged.
            let readable = self.last.as_ref().is_none_or(|(_, entries)| entries.is_some());
            let taken = |kind| {
                let takes = |select: &Select| select.selects_path(path, kind) && !select.excludes_above(path);
                self.select.as_ref().is_none_or(takes)
            };
            // It does not say where something was mounted that it left out.
            let walked = base.filters.one_file_system || !self.filters.one_file_system;
            let knows = readable
                && walked
                && !self.lacks.missing.contains_key(path)
                && taken(EntryKind::File)
                && taken(EntryKind::Folder);
            return Ok(if knows { Has::Nothing } else { Has::Unknown });
        };
        // A file that belonged to a database would be taken for another database's.
        if !select.selects_path(path, entry.kind) || self.is_side(path)? {
            return Ok(Has::Nothing);
        }
        if entry.kind == EntryKind::Folder {
            // If other entries were selected, it may have had more.
            let mut whole = self.select.is_none() || self.filters == base.filters;
            for at in self.hunks_of(path) {
                whole &= self.read(at)?.is_some();
            }
            return Ok(Has::Folder(Box::new(entry), whole));
        }
        Ok(self.unit(base, entry)?.map_or(Has::Unknown, Has::Unit))
    }

    /// Returns a hunk's entries. `None` if it is damaged.
    pub(super) fn read(&mut self, at: usize) -> Result<Option<Vec<Entry>>> {
        if let Some((_, entries)) = self.last.as_ref().filter(|(last, _)| *last == at) {
            return Ok(entries.clone());
        }
        let entries = match tree::read_hunk(&self.packs, &self.hunks[at], &mut self.decoder) {
            Ok(entries) => Some(entries),
            Err(why) if why.kind() == ErrorKind::Damage => None,
            Err(why) => return Err(why),
        };
        self.last = Some((at, entries.clone()));
        Ok(entries)
    }

    /// Returns the hunk that holds the entry at a path, if there is one.
    pub(super) fn hunk_of(&self, path: &EntryPath) -> Option<usize> {
        self.hunks.partition_point(|hunk| hunk.first <= *path).checked_sub(1)
    }

    pub(super) fn entry(&mut self, path: &EntryPath) -> Result<Option<Entry>> {
        let Some(at) = self.hunk_of(path) else { return Ok(None) };
        if self.last.as_ref().is_none_or(|(last, _)| *last != at) {
            self.read(at)?;
        }
        let entries = self.last.as_ref().and_then(|(_, entries)| entries.as_deref()).unwrap_or_default();
        let found = entries.binary_search_by(|entry| entry.path.cmp(path)).ok();
        Ok(found.map(|at| entries[at].clone()))
    }

    /// Returns the hunks that may hold the entries at `path` and below it.
    pub(super) fn hunks_of(&self, path: &EntryPath) -> Range<usize> {
        let after = self.hunks.partition_point(|hunk| hunk.first <= *path || hunk.first.is_in(path));
        self.hunk_of(path).unwrap_or(after)..after
    }

    /// Whether the entry at `path` was taken as a part of a database.
    pub(super) fn is_side(&mut self, path: &EntryPath) -> Result<bool> {
        let database = database_of(path.bytes()).and_then(|bytes| EntryPath::new(bytes).ok());
        let Some(database) = database else { return Ok(false) };
        Ok(self.entry(&database)?.is_some_and(|entry| entry.sides().contains(path)))
    }

    /// Returns an entry, with its side files if it is a raw database. `None` if the vault does not have all of the
    /// content.
    pub(super) fn unit(&mut self, base: &Parent, entry: Entry) -> Result<Option<Vec<Entry>>> {
        let sides = entry.sides();
        let plain = entry.kind == EntryKind::File && entry.database.is_none();
        let mut unit = vec![entry];
        for side in &sides {
            match self.entry(side)? {
                Some(side) if side.kind == EntryKind::File => unit.push(side),
                _ => return Ok(None),
            }
        }
        // It may have been a database that was taken as a file: it needs its log to be what it was.
        for side in ["-journal", "-wal"].into_iter().filter(|_| plain) {
            if let Ok(side) = EntryPath::new([unit[0].path.bytes(), side.as_bytes()].concat()) {
                unit.extend(self.entry(&side)?.filter(|side| side.kind == EntryKind::File && side.database.is_none()));
            }
        }
        for entry in &unit {
            for pack in packs_of(entry, &entry.content_extents()) {
                if !base.may_name(pack) || !self.is_sound(pack, base)? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(unit))
    }

    /// Whether a pack is as it was stored: a doubted pack is read to find out, once.
    pub(super) fn is_sound(&mut self, pack: PackId, base: &Parent) -> Result<bool> {
        if !base.doubted.contains(&pack) {
            return Ok(true);
        }
        if let Some(sound) = self.tested.get(&pack) {
            return Ok(*sound);
        }
        let Some(info) = self.packs.book().get(&pack) else { return Ok(false) };
        let sound = state::test(&*base.vault.store, info)?.is_sound();
        self.tested.insert(pack, sound);
        Ok(sound)
    }

    /// Returns the packs that hold the entries' content.
    pub(super) fn packs_of<'e>(&self, entries: impl IntoIterator<Item = &'e Entry>) -> Vec<PackInfo> {
        let mut packs = Vec::new();
        for entry in entries {
            packs.extend(packs_of(entry, &entry.extents).filter_map(|pack| self.packs.book().get(&pack)).copied());
        }
        packs
    }

    /// Returns the record of an entry that is carried over.
    pub(super) fn stale(&self, path: &EntryPath, why: &str) -> Stale {
        let before = path.nearest_in(&self.lacks.stale);
        Stale { path: path.clone(), since: before.map_or(self.started, |before| before.since), why: why.to_owned() }
    }
}

/// Returns the packs of an entry's map, and of the given extents.
pub(super) fn packs_of<'e>(entry: &'e Entry, extents: &'e [Extent]) -> impl Iterator<Item = PackId> {
    let extents = extents.iter().filter_map(|extent| extent.pack);
    extents.chain(entry.map.iter().flat_map(|map| map.packs.iter().copied()))
}
