//! Checks what the entries of a snapshot say of each other: their order, the folders that they lie in, links, and side
//! files.
//!
//! All readers share this check. A reader gives it entry after entry. `verify` gives it a [`HunkSummary`] of each hunk
//! that it has read, so that a hunk of many snapshots is decoded once. That finds the same because of what
//! [`TreeCheck`] remembers: the last entry and nothing else. All folders above that entry are there, or it would not
//! have been taken. So the state that a hunk leaves behind does not depend on what came before the hunk, once its first
//! entry has been taken.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::error::{Error, Result};
use crate::path::EntryPath;
use crate::vault::entry::{CaptureMethod, Entry, EntryKind};
use crate::vault::hex::Hash;

/// The endings of the side files that a database may be recorded with; they follow the database's own name.
const SIDES: [&str; 2] = ["-journal", "-wal"];

/// Checks that entries come in the order of a depth-first walk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeCheck {
    /// The last entry that was taken, and whether it is a folder. All folders above it are there.
    last: Option<(EntryPath, bool)>,
}

impl TreeCheck {
    /// Returns the path of the last entry that was taken; the data directory's if there is none yet.
    pub fn last(&self) -> EntryPath {
        self.last.as_ref().map_or_else(EntryPath::root, |(last, _)| last.clone())
    }

    /// Takes the next entry. Returns the folders above it that have no entry, the outermost first: to go on, a reader
    /// makes them. They are not returned again.
    ///
    /// # Errors
    /// Damage: an entry out of order, twice, or below something that is not a folder. It is not taken.
    pub fn next(&mut self, path: &EntryPath, is_folder: bool) -> Result<Vec<EntryPath>> {
        let wrong = |why: String| Err(Error::damage("read the entries of a snapshot", format!("{path} {why}")));
        match &self.last {
            Some((last, _)) if last >= path => return wrong(format!("comes after {last}, where it cannot be")),
            Some((last, false)) if path.is_in(last) => {
                return wrong(format!("is not in a folder: {last} is not one"));
            }
            _ => {}
        }
        let there = |above: &[u8]| self.last.as_ref().is_some_and(|(last, _)| holds(above, last));
        let missing = match path.parent() {
            Some(parent) if !there(parent) => above(path).filter(|above| !there(above.bytes())).collect(),
            _ => Vec::new(),
        };
        self.last = Some((path.clone(), is_folder));
        Ok(missing)
    }
}

/// Whether `path` is the folder `above` or lies in it.
fn holds(above: &[u8], path: &EntryPath) -> bool {
    let rest = path.bytes().strip_prefix(above);
    rest.is_some_and(|rest| above.is_empty() || rest.first().is_none_or(|&byte| byte == b'/'))
}

/// Returns the folders above a path that is not the data directory, the outermost first.
fn above(path: &EntryPath) -> impl Iterator<Item = EntryPath> {
    let bytes = path.bytes();
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    // The part of a path before a separator is a path.
    std::iter::once(EntryPath::root()).chain(ends.filter_map(|end| EntryPath::new(&bytes[..end]).ok()))
}

/// Something that is wrong with a snapshot as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// An entry that may not stand at its place, and why. No reader takes it.
    Refused(EntryPath, String),
    /// A folder without an entry, although there are entries in it. Readers make it.
    NoFolder(EntryPath),
    /// A file that is recorded as another name of a file whose content differs. Readers keep it as a file of its own.
    OtherContent(EntryPath),
    /// A database that was captured with a side file that is not there: the database, and its side file.
    NoSide(EntryPath, EntryPath),
}

impl Remark {
    /// Returns the path of the entry that it is about.
    pub fn path(&self) -> &EntryPath {
        match self {
            Remark::Refused(path, _) | Remark::NoFolder(path) | Remark::OtherContent(path) => path,
            Remark::NoSide(database, _) => database,
        }
    }

    /// Whether the snapshot is not what was there when it was taken. For a link with another content that cannot be
    /// told: each name has the content that is recorded for it.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Remark::OtherContent(_))
    }

    /// Returns the remark that an entry was refused.
    pub fn refused(entry: &Entry, why: &Error) -> Self {
        Remark::Refused(entry.path.clone(), why.what())
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remark::Refused(_, why) => f.write_str(why),
            Remark::NoFolder(path) => write!(f, "the folder {path} is not in the snapshot, but entries in it are"),
            Remark::OtherContent(path) => {
                write!(
                    f,
                    "{path} is recorded as another name of a file whose content differs; it is taken for a file of its own"
                )
            }
            Remark::NoSide(database, side) => write!(
                f,
                "the database {database} was taken together with {side}, which is not in the snapshot: \
                without it the database may be torn, or lack what was committed"
            ),
        }
    }
}

/// Returns the hard-link group of an entry: links of one name and one content. An entry that claims to be a link but
/// has another content is in a group of its own.
pub fn link_group(entry: &Entry) -> Option<Hash> {
    entry.link.as_ref().map(|link| {
        let content = entry.hash.map(|hash| hash.0).unwrap_or_default();
        Hash::of(&[&content[..], link.as_bytes()].concat())
    })
}

fn short(hash: &Hash) -> u64 {
    hash.0.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Returns an entry's link name and its content, both hashed.
fn link_of(entry: &Entry) -> Option<(u64, u64)> {
    Some((short(&Hash::of(entry.link.as_ref()?.as_bytes())), short(&entry.hash?)))
}

/// A database that needs side files, or one that has several names, any of which may have the side files beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DatabaseWithSides {
    path: EntryPath,
    /// Which of [`SIDES`] it was captured with.
    wants: [bool; 2],
    group: Option<u64>,
}

impl DatabaseWithSides {
    fn of(entry: &Entry) -> Option<DatabaseWithSides> {
        let database = entry.database.as_ref()?;
        let raw = database.taken == CaptureMethod::Raw;
        let wants = [raw && database.journal.is_some(), raw && database.wal.is_some()];
        let group = link_group(entry).as_ref().map(short);
        (wants != [false; 2] || group.is_some()).then(|| DatabaseWithSides { path: entry.path.clone(), wants, group })
    }
}

/// Databases, and the files whose names are those of side files.
#[derive(Debug, Clone, Default)]
struct SideFileCheck {
    bases: Vec<DatabaseWithSides>,
    files: HashSet<EntryPath>,
}

impl SideFileCheck {
    fn add(&mut self, entry: &Entry) {
        self.bases.extend(DatabaseWithSides::of(entry));
        if entry.kind == EntryKind::File && SIDES.iter().any(|side| entry.path.bytes().ends_with(side.as_bytes())) {
            self.files.insert(entry.path.clone());
        }
    }

    fn extend(&mut self, other: &SideFileCheck) {
        self.bases.extend_from_slice(&other.bases);
        self.files.extend(other.files.iter().cloned());
    }

    /// Returns the wanted side files that are not beside the database name `path`.
    fn lacking(&self, path: &EntryPath, wants: [bool; 2]) -> Vec<EntryPath> {
        let wanted = SIDES.iter().zip(wants).filter(|(_, wanted)| *wanted);
        let named = wanted.filter_map(|(side, _)| EntryPath::new([path.bytes(), side.as_bytes()].concat()).ok());
        named.filter(|side| !self.files.contains(side)).collect()
    }

    /// Returns the side files that are missing. If a database has several names, its side files lie beside one of them.
    fn remarks(&self) -> Vec<Remark> {
        let mut names: HashMap<u64, Vec<&EntryPath>> = HashMap::new();
        for base in &self.bases {
            base.group.iter().for_each(|group| names.entry(*group).or_default().push(&base.path));
        }
        let mut remarks = Vec::new();
        for base in &self.bases {
            let lacking = self.lacking(&base.path, base.wants);
            let mut others = base.group.iter().flat_map(|group| &names[group]);
            if lacking.is_empty() || others.any(|name| self.lacking(name, base.wants).is_empty()) {
                continue;
            }
            remarks.extend(lacking.into_iter().map(|side| Remark::NoSide(base.path.clone(), side)));
        }
        remarks
    }
}

/// Checks a snapshot's entries, one by one or a hunk at a time.
#[derive(Debug, Default)]
pub struct SnapshotCheck {
    tree: TreeCheck,
    /// Whether entries were lost just before the next one, and folders above it may be among them.
    gap: bool,
    /// For each link name, the content of the first entry that has it; both hashed.
    links: HashMap<u64, u64>,
    sides: SideFileCheck,
}

impl SnapshotCheck {
    /// Takes the next entry. Remarks about folders that are missing above it come first, the outermost before the
    /// others.
    ///
    /// # Errors
    /// The errors of [`TreeCheck::next`].
    pub fn next(&mut self, entry: &Entry) -> Result<Vec<Remark>> {
        let missing = self.tree.next(&entry.path, entry.kind == EntryKind::Folder)?;
        let mut remarks = self.remarks(missing);
        if let Some((name, content)) = link_of(entry)
            && *self.links.entry(name).or_insert(content) != content
        {
            remarks.push(Remark::OtherContent(entry.path.clone()));
        }
        self.sides.add(entry);
        Ok(remarks)
    }

    fn remarks(&mut self, missing: Vec<EntryPath>) -> Vec<Remark> {
        match std::mem::take(&mut self.gap) {
            true => Vec::new(),
            false => missing.into_iter().map(Remark::NoFolder).collect(),
        }
    }

    /// Notes that entries could not be read here, which has been reported. Folders that are missing above the next
    /// entry are not reported in addition.
    pub fn pass_over(&mut self) {
        self.gap = true;
    }

    /// Takes the entries of a hunk. It calls `entries` to read them only if something is wrong between hunks. Returns
    /// everything that is wrong, as taking entry by entry would.
    ///
    /// # Errors
    /// The errors of `entries`.
    pub fn hunk(&mut self, hunk: &HunkSummary, entries: impl FnOnce() -> Result<Vec<Entry>>) -> Result<Vec<Remark>> {
        let Some(first) = &hunk.first else { return Ok(Vec::new()) };
        let mut tree = self.tree.clone();
        let agree = |(name, content): &(u64, u64)| self.links.get(name).is_none_or(|known| known == content);
        let same = !hunk.mixed && hunk.links.iter().all(agree);
        // Whether the first entry is a folder matters only for those after it, and the summary covers these.
        let Some(missing) = same.then(|| tree.next(first, true).ok()).flatten() else {
            return Ok(self.entries(&entries()?));
        };
        let mut remarks = self.remarks(missing);
        remarks.extend_from_slice(&hunk.remarks);
        self.tree = hunk.end.clone();
        self.links.extend(hunk.links.iter().copied());
        self.sides.extend(&hunk.sides);
        Ok(remarks)
    }

    fn entries(&mut self, entries: &[Entry]) -> Vec<Remark> {
        let mut remarks = Vec::new();
        for entry in entries {
            match self.next(entry) {
                Ok(more) => remarks.extend(more),
                Err(why) => remarks.push(Remark::refused(entry, &why)),
            }
        }
        remarks
    }

    /// Returns what is missing after all entries have come.
    pub fn finish(&self) -> Vec<Remark> {
        self.sides.remarks()
    }
}

/// A summary of what [`SnapshotCheck`] needs to know of a hunk, whichever snapshot it is a part of.
#[derive(Debug)]
pub struct HunkSummary {
    count: u64,
    first: Option<EntryPath>,
    /// Everything that is wrong in the hunk once its first entry is taken.
    remarks: Vec<Remark>,
    end: TreeCheck,
    links: Vec<(u64, u64)>,
    /// Whether one link name stands for two contents in it.
    mixed: bool,
    sides: SideFileCheck,
}

impl HunkSummary {
    /// Returns the summary of a hunk's entries.
    pub fn of(entries: &[Entry]) -> Self {
        let mut check = SnapshotCheck::default();
        // The folders above the first entry come in earlier hunks.
        check.pass_over();
        let mut remarks = check.entries(entries);
        remarks.shrink_to_fit();
        let mixed = remarks.iter().any(|remark| matches!(remark, Remark::OtherContent(_)));
        let SnapshotCheck { tree, links, sides, .. } = check;
        HunkSummary {
            count: entries.len() as u64,
            first: entries.first().map(|entry| entry.path.clone()),
            remarks,
            end: tree,
            links: links.into_iter().collect(),
            mixed,
            sides,
        }
    }

    /// Whether the hunk is what a root says: it has `count` entries, the first of which has the path `first`.
    pub fn fits(&self, count: u64, first: &EntryPath) -> bool {
        self.count == count && self.first.as_ref().is_none_or(|path| path == first)
    }
}

#[cfg(test)]
mod tests;
