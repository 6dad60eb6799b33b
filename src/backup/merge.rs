//! Compares the walk with the known entries, both in path order, and decides for each entry whether it is copied or
//! read.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;

use super::message::Why;
use super::parent::ParentEntry;
use super::unread::UnreadParts;
use crate::path::EntryPath;
use crate::source::found::SourceEntry;
use crate::sqlite::side_files::{Role, SideFound, database_of};
use crate::vault::entry::{CaptureMethod, CheckKind, Entry, EntryKind};
use crate::vault::hex::Hash;
use crate::vault::parts::Parts;

/// The decision about one entry.
#[derive(Debug)]
pub enum MergeStep {
    /// Nothing changed: the entry is copied as it is.
    Keep(Box<Entry>),
    /// Its content is unchanged, but the directory is in another place: times and inode numbers are read again.
    Adopt(SourceEntry, Box<Entry>),
    /// It is new, or changed, or may have changed: it is read. The known entry is the one of its path, if there is
    /// one.
    Read(SourceEntry, Option<Box<Entry>>),
    /// It looks unchanged and is read to make sure.
    Sample(SourceEntry, Box<Entry>),
    /// Apparently another name of a file that came before.
    Link(SourceEntry),
    /// This run has written it already.
    Written(Box<Entry>),
    /// Something takes the place of an entry that this run has written, if it can be read.
    Instead(Box<MergeStep>, Box<Entry>),
    /// It is a side file of a database, which is taken as a whole.
    Part,
    /// It cannot be in the snapshot, and why.
    Failed(EntryPath, String),
    /// It cannot be looked at again; the entry that this run has written for it comes next.
    Stays(EntryPath),
    /// It is to be looked at once more at the end.
    Later(EntryPath, Why),
}

/// Most files with several names that are remembered by device and inode at the same time. Beyond that, each name is
/// read like a file of its own.
pub const MAX_LINKS: usize = 65_536;

/// How the merge decides.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Whether every file is read, even if it looks unchanged.
    pub verify_content: bool,
    /// One in this many files that look unchanged is read all the same.
    pub sample: u64,
    /// Selects these files; it grows by one with each backup.
    pub turn: u64,
    /// Whether databases are told from other files.
    pub sqlite: bool,
    /// How databases are to be checked: a database that was not checked in this way is read.
    pub check: Option<CheckKind>,
}

/// A raw database that is copied.
struct CopiedDatabase {
    path: EntryPath,
    /// The side files that were taken with it.
    sides: Vec<Entry>,
    /// Whether it stays unread in this place, and so do its side files.
    unread: bool,
}

/// Joins the entries that are found with the known ones.
pub struct Merge<'a, K: Iterator<Item = ParentEntry>> {
    known: Peekable<K>,
    rule: Rule,
    /// Files with several names of which one has come already, and is read or taken over from another place.
    links: HashSet<(u64, u64)>,
    /// Raw databases that are copied and may still be followed by side files.
    databases: Vec<CopiedDatabase>,
    /// Known entries of paths that the parent could not read.
    missed: HashMap<EntryPath, ParentEntry>,
    /// The parts of files that are read if they were taken over unread; `left` notes the parts that stay unread.
    due: Parts,
    left: UnreadParts,
    /// Whether a database is in use in a way that does not show in its folder.
    elsewhere: &'a dyn Fn(&SourceEntry) -> bool,
}

impl<'a, K: Iterator<Item = ParentEntry>> Merge<'a, K> {
    /// Creates a merge with `known`, which is in path order.
    pub fn new(known: K, rule: Rule) -> Self {
        let (links, databases, missed) = (HashSet::new(), Vec::new(), HashMap::new());
        let (due, left) = (Parts::NONE, UnreadParts::default());
        Merge { known: known.peekable(), rule, links, databases, missed, due, left, elsewhere: &|_| false }
    }

    /// Adds what older snapshots know of entries that the parent could not read.
    pub fn with_missed(self, missed: HashMap<EntryPath, ParentEntry>) -> Self {
        Merge { missed, ..self }
    }

    /// Makes the merge read databases for which `elsewhere` says that changes need not show in their folder.
    pub fn asking(self, elsewhere: &'a dyn Fn(&SourceEntry) -> bool) -> Self {
        Merge { elsewhere, ..self }
    }

    /// Makes the merge read files of the parts that are `due` if they were taken over unread; parts with files that
    /// are not read are noted in `left`.
    pub fn reading(self, due: Parts, left: UnreadParts) -> Self {
        Merge { due, left, ..self }
    }

    /// Returns what is to be done about the next entry of the walk.
    pub fn next(&mut self, found: SourceEntry) -> MergeStep {
        while self.known.next_if(|known| known.entry.path < found.path).is_some() {}
        let known = self.known.next_if(|known| known.entry.path == found.path);
        let known = known.or_else(|| self.missed.remove(&found.path));
        if found.role == Role::Side {
            return self.side(found);
        }
        let raw = known.as_ref().filter(|known| !known.sides.is_empty());
        let raw = raw.map(|known| (known.sides.clone(), known.unread.has(part_of(&found).0)));
        let step = self.step(found, known);
        if let (Some((sides, unread)), MergeStep::Keep(entry) | MergeStep::Adopt(_, entry)) = (raw, &step) {
            self.databases.retain(|database| entry.path.bytes().starts_with(database.path.bytes()));
            self.databases.push(CopiedDatabase { path: entry.path.clone(), sides, unread });
        }
        step
    }

    /// Decides for a side file: it follows the decision for its database.
    fn side(&mut self, found: SourceEntry) -> MergeStep {
        let database = database_of(found.path.bytes()).unwrap_or_default();
        let copied = self.databases.iter_mut().find(|copied| copied.path.bytes() == database);
        let side = copied.and_then(|copied| {
            let at = copied.sides.iter().position(|side| side.path == found.path)?;
            Some((Box::new(copied.sides.swap_remove(at)), copied.unread))
        });
        // Nothing of a `-shm` is kept, and the side files of a database that is read are taken by its reader.
        let Some((side, unread)) = side else { return MergeStep::Part };
        // Once the database goes, or is none any more, the file is one of its own and must not pass for a file that was
        // read.
        if unread {
            self.left.add(part_of(&found).0);
        }
        let same = (side.mode, side.uid, side.gid, side.ctime, side.inode)
            == (found.mode, found.uid, found.gid, found.ctime, found.inode);
        if same { MergeStep::Keep(side) } else { MergeStep::Adopt(found, side) }
    }

    fn step(&mut self, found: SourceEntry, known: Option<ParentEntry>) -> MergeStep {
        let sameness = known.as_ref().map_or(Sameness::None, |known| self.compare(&found, known));
        let again = !matches!(sameness, Sameness::Entry) && self.is_link(&found);
        let Some(known) = known else {
            return if again { MergeStep::Link(found) } else { MergeStep::Read(found, None) };
        };
        match sameness {
            Sameness::Entry | Sameness::Content if known.entry.database.is_some() && (self.elsewhere)(&found) => {
                MergeStep::Read(found, Some(known.entry))
            }
            Sameness::Entry if self.is_read(&found, known.unread) => MergeStep::Sample(found, known.entry),
            Sameness::Entry => MergeStep::Keep(known.entry),
            _ if again => MergeStep::Link(found),
            Sameness::Content if self.is_read(&found, known.unread) => MergeStep::Read(found, Some(known.entry)),
            Sameness::Content => MergeStep::Adopt(found, known.entry),
            Sameness::None => MergeStep::Read(found, Some(known.entry)),
        }
    }

    /// Whether another name of the file has come already.
    fn is_link(&mut self, found: &SourceEntry) -> bool {
        // A database's content depends on the side files of the name: each name that has some is read with them.
        if matches!(found.role, Role::Database { .. }) {
            return false;
        }
        let file = (found.device, found.inode);
        if !found.linked || self.links.contains(&file) {
            return found.linked;
        }
        if self.links.len() < MAX_LINKS {
            self.links.insert(file);
        }
        false
    }

    fn compare(&self, found: &SourceEntry, known: &ParentEntry) -> Sameness {
        let ParentEntry { entry, same_place, whole, .. } = known;
        // Part of a live database may be in its WAL alone: then its size is not its file's, and the WAL shows
        // changes.
        let sized = entry.size == found.size || is_logged(entry);
        let looks_same = entry.kind == found.kind && sized && entry.mtime == found.mtime;
        if !whole || !looks_same || entry.racy || (self.rule.verify_content && found.kind == EntryKind::File) {
            return Sameness::None;
        }
        if !self.same_database(found, entry) || !same_sides(found, known) {
            return Sameness::None;
        }
        if !same_place {
            // A time in whole seconds was set by a program (an image's layer, an archive), and two files may share
            // it. A file that an app wrote, or that a restore put back, has nanoseconds.
            let telling = found.kind != EntryKind::File || found.mtime % 1_000_000_000 != 0;
            return if telling { Sameness::Content } else { Sameness::None };
        }
        let same = entry.ctime == found.ctime
            && entry.inode == found.inode
            && (entry.mode, entry.uid, entry.gid) == (found.mode, found.uid, found.gid)
            && is_group_of(entry.link.as_deref(), found);
        if same { Sameness::Entry } else { Sameness::None }
    }

    /// Whether a database and its side files are unchanged, and it was checked as required.
    fn same_database(&self, found: &SourceEntry, entry: &Entry) -> bool {
        let beside = match found.role {
            Role::Database { wal, journal, .. } => Some((wal, journal)),
            Role::Alone | Role::Side => None,
        };
        let Some(database) = &entry.database else { return beside.is_none() };
        if !self.rule.sqlite {
            // Its side files are entries of their own now.
            return false;
        }
        let beside = beside.map(|(wal, journal)| (wal.map(|found| found.side), journal.map(|found| found.side)));
        let checked = match (&database.check, self.rule.check) {
            // A damaged database may have been repaired without a trace, and must not pass for a good one before it
            // is read.
            (Some(check), _) if check.failed.is_some() => false,
            // A full check includes a quick one.
            (_, None) | (Some(_), Some(CheckKind::Quick)) => true,
            (Some(check), Some(CheckKind::Full)) => check.kind == CheckKind::Full,
            // A raw database cannot be checked.
            (None, Some(_)) => database.taken == CaptureMethod::Raw,
        };
        checked && beside.unwrap_or_default() == (database.wal, database.journal)
    }

    /// Whether a file that looks unchanged is read all the same: as one of the sample, or because it is in one of the
    /// `unread` parts and its turn has come. If its turn has not come, that is noted.
    fn is_read(&self, found: &SourceEntry, unread: Parts) -> bool {
        if found.kind != EntryKind::File {
            return false;
        }
        let (part, mark) = part_of(found);
        let (sample, unread) = (self.rule.sample.max(1), unread.has(part));
        let read = u64::from(mark) % sample == self.rule.turn % sample || unread && self.due.has(part);
        if unread && !read {
            self.left.add(part);
        }
        read
    }
}

/// Whether an entry is a live database with something in its WAL.
fn is_logged(entry: &Entry) -> bool {
    let database = entry.database.as_ref().filter(|database| database.taken == CaptureMethod::Live);
    database.and_then(|database| database.wal).is_some_and(|wal| wal.size > 0)
}

/// Whether the side files of a raw database are the ones taken with it. Their sizes and times are compared with the
/// database's.
fn same_sides(found: &SourceEntry, known: &ParentEntry) -> bool {
    let Role::Database { wal, journal, .. } = found.role else { return true };
    known.sides.iter().all(|entry| {
        let now = if entry.path.bytes().ends_with(b"-wal") { wal } else { journal };
        let same = |now: SideFound| !known.same_place || (now.ctime, now.inode) == (entry.ctime, entry.inode);
        !entry.racy && now.is_some_and(same)
    })
}

/// Returns the part that a file is in, and the first byte of the hash that decides it.
fn part_of(found: &SourceEntry) -> (Parts, u8) {
    // All names of a file are read together: their entries must not come to differ.
    let hash = match found.linked {
        true => Hash::of(link_of(found).as_bytes()).0,
        false => Hash::of(found.path.bytes()).0,
    };
    (Parts::of(hash[0]), hash[0])
}

/// Returns the beginning of the name of a file's hard-link group.
fn link_of(found: &SourceEntry) -> String {
    format!("{:x}-{:x}", found.device, found.inode)
}

/// Returns the name of a file's hard-link group, if the file has other names: device, inode, and a mark of the
/// content, since an inode's number may be given to another file within one run.
pub fn link_name(found: &SourceEntry, hash: &Hash) -> Option<String> {
    found.linked.then(|| format!("{}-{}", link_of(found), content_mark(hash)))
}

/// Returns the end of the name of a hard-link group: the first 16 digits of its content's hash.
pub fn content_mark(hash: &Hash) -> String {
    hash.to_string().chars().take(16).collect()
}

/// Whether a file is still in a hard-link group, or in none. The names that older programs gave have no content mark.
fn is_group_of(link: Option<&str>, found: &SourceEntry) -> bool {
    let begins = link_of(found);
    match link {
        None => !found.linked,
        Some(link) => {
            let rest = link.strip_prefix(begins.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('-'));
            found.linked && rest.is_some()
        }
    }
}

enum Sameness {
    /// Everything that is compared is equal.
    Entry,
    /// Type, size and time are equal; the rest means nothing in another place.
    Content,
    None,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::vault::entry::Extent;

    /// A file as the walk finds it.
    pub fn found(path: &str, mtime: i64, inode: u64) -> SourceEntry {
        SourceEntry {
            apart: false,
            path: EntryPath::new(path).unwrap(),
            kind: EntryKind::File,
            size: 10,
            mode: 0o644,
            uid: 1,
            gid: 1,
            mtime,
            ctime: mtime,
            device: 1,
            inode,
            linked: false,
            sparse: false,
            role: Role::Alone,
        }
    }

    /// The entry of a file.
    pub fn entry(found: &SourceEntry) -> Entry {
        Entry {
            path: found.path.clone(),
            kind: found.kind,
            size: found.size,
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            mtime: found.mtime,
            ctime: found.ctime,
            inode: found.inode,
            target: None,
            xattrs: vec![],
            hash: Some(Hash::of(b"x")),
            link: link_name(found, &Hash::of(b"x")),
            racy: false,
            header: 512,
            extents: vec![Extent::zeros(1024)],
            map: None,
            database: None,
        }
    }

    fn steps(known: Vec<(SourceEntry, bool, bool)>, now: Vec<SourceEntry>, rule: Rule) -> String {
        let known = known.into_iter().map(|(found, same_place, racy)| ParentEntry {
            entry: Box::new(Entry { racy, ..entry(&found) }),
            same_place,
            unread: Parts::NONE,
            whole: true,
            sides: Vec::new(),
        });
        let mut merge = Merge::new(known, rule);
        now.into_iter()
            .map(|found| match merge.next(found) {
                MergeStep::Keep(_) => 'k',
                MergeStep::Adopt(..) => 'a',
                MergeStep::Read(_, Some(_)) => 'r',
                MergeStep::Read(_, None) => 'n',
                MergeStep::Sample(..) => 's',
                MergeStep::Link(_) => 'l',
                MergeStep::Part => 'p',
                MergeStep::Failed(..) => 'f',
                MergeStep::Written(_) | MergeStep::Instead(..) | MergeStep::Stays(_) | MergeStep::Later(..) => {
                    panic!("of a round")
                }
            })
            .collect()
    }

    /// A turn at which none of the paths is sampled.
    const RULE: Rule = Rule { verify_content: false, sample: 64, turn: 63, sqlite: true, check: None };

    #[test]
    fn what_is_kept_and_what_is_read() {
        let (a, b, c) = (found("a", 1, 1), found("b", 1, 2), found("c", 1, 3));
        let here = |f: &SourceEntry| (f.clone(), true, false);
        assert_eq!(steps(vec![here(&a), here(&b), here(&c)], vec![a.clone(), c.clone()], RULE), "kk");
        assert_eq!(steps(vec![here(&b)], vec![a.clone(), b.clone(), c.clone()], RULE), "nkn");
        assert_eq!(steps(vec![here(&a)], vec![found("a", 2, 1)], RULE), "r");
        assert_eq!(steps(vec![here(&a)], vec![found("a", 1, 9)], RULE), "r");
        assert_eq!(steps(vec![(a.clone(), false, false)], vec![found("a", 1, 9)], RULE), "a");
        let whole = found("a", 1_000_000_000, 1);
        assert_eq!(steps(vec![(whole.clone(), false, false)], vec![whole.clone()], RULE), "r");
        assert_eq!(steps(vec![here(&whole)], vec![whole], RULE), "k");
        assert_eq!(steps(vec![(a.clone(), true, true)], vec![a.clone()], RULE), "r");
        assert_eq!(steps(vec![here(&a)], vec![a.clone()], Rule { verify_content: true, ..RULE }), "r");
        assert_eq!(steps(vec![here(&a)], vec![SourceEntry { mode: 0o600, ..a.clone() }], RULE), "r");
        assert_eq!(steps(vec![here(&a)], vec![SourceEntry { kind: EntryKind::Fifo, ..a }], RULE), "r");
    }

    #[test]
    fn links_are_read_once() {
        let link = |path| SourceEntry { linked: true, ..found(path, 1, 7) };
        let here = |f: SourceEntry| (f, true, false);
        assert_eq!(steps(vec![], vec![link("a"), link("b")], RULE), "nl");
        assert_eq!(steps(vec![here(link("a")), here(link("b"))], vec![link("a"), link("b")], RULE), "kk");
        assert_eq!(steps(vec![(link("a"), false, false)], vec![link("a"), link("b")], RULE), "al");
    }

    #[test]
    fn every_file_is_sampled_once_in_64_backups() {
        let a = found("some/file", 1, 1);
        let all: String =
            (0..64).map(|turn| steps(vec![(a.clone(), true, false)], vec![a.clone()], Rule { turn, ..RULE })).collect();
        assert_eq!(all.matches('s').count(), 1);
        assert_eq!(all.matches('k').count(), 63);
    }
}
