//! The walk beside the known entries, both in path order: what is unchanged is copied, the rest is read.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;

use super::base::Known;
use super::sqlite::beside::database_of;
use super::walk::{Found, Role};
use crate::vault::entry::{CheckKind, Entry, Kind, Taken};
use crate::vault::hex::Hash;
use crate::vault::path::EntryPath;

/// What is to be done about one entry.
#[derive(Debug)]
pub enum Step {
    /// Nothing changed: the entry is copied as it is.
    Keep(Entry),
    /// Its content is as it was, but the directory is in another place: times and numbers are taken anew.
    Adopt(Found, Entry),
    /// It is new, or changed, or may have: it is read. The known entry of its path, if there is one.
    Read(Found, Option<Entry>),
    /// It looks unchanged and is read to make sure.
    Sample(Found, Entry),
    /// Another name of a file that came before.
    Link(Found),
    /// It is a part of a database that is taken as a whole.
    Part,
    /// It cannot be in the snapshot, and why.
    Failed(EntryPath, String),
}

/// How the merge decides.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Trust nothing: read every file.
    pub verify_content: bool,
    /// Of the files that look unchanged, one in so many is read all the same.
    pub sample: u64,
    /// The snapshot's number, which turns the sample.
    pub seq: u64,
    /// Whether databases are told from other files.
    pub sqlite: bool,
    /// How databases are to be checked: one that was not is read.
    pub check: Option<CheckKind>,
}

/// Joins what is found with what is known.
pub struct Merge<K: Iterator<Item = Known>> {
    known: Peekable<K>,
    rule: Rule,
    /// Files with several names, of which one has come.
    links: HashSet<(u64, u64)>,
    /// Databases that may still have something beside them, and whether that is copied: they are raw and unchanged.
    databases: Vec<(EntryPath, Beside)>,
    /// What is known of an entry that the parent could not read.
    missed: HashMap<EntryPath, Known>,
}

impl<K: Iterator<Item = Known>> Merge<K> {
    /// A merge with `known`, which is in path order.
    pub fn new(known: K, rule: Rule) -> Self {
        let (links, databases, missed) = (HashSet::new(), Vec::new(), HashMap::new());
        Merge { known: known.peekable(), rule, links, databases, missed }
    }

    /// Adds what older snapshots say of entries that the parent could not read.
    pub fn with_missed(self, missed: HashMap<EntryPath, Known>) -> Self {
        Merge { missed, ..self }
    }

    /// What is to be done about the next entry of the walk.
    pub fn next(&mut self, found: Found) -> Step {
        while self.known.next_if(|known| known.entry.path < found.path).is_some() {}
        let known = self.known.next_if(|known| known.entry.path == found.path);
        let known = known.or_else(|| self.missed.remove(&found.path));
        if found.role == Role::Side {
            return self.side(found, known);
        }
        let step = self.step(found, known);
        if let Some((path, beside)) = beside(&step) {
            self.databases.retain(|(database, _)| path.bytes().starts_with(database.bytes()));
            self.databases.push((path, beside));
        }
        step
    }

    /// What lies beside a database goes its way.
    fn side(&mut self, found: Found, known: Option<Known>) -> Step {
        let database = database_of(found.path.bytes()).unwrap_or_default();
        let beside = self.databases.iter().find(|(path, _)| path.bytes() == database).map(|(_, beside)| *beside);
        match (beside, known) {
            (Some(Beside::Copied), Some(known)) => match self.compare(&found, &known) {
                Sameness::Entry => Step::Keep(known.entry),
                Sameness::Content => Step::Adopt(found, known.entry),
                // Its size and time are those that its database knows it by.
                Sameness::None => Step::Read(found, Some(known.entry)),
            },
            (Some(Beside::Alone), known) if !found.path.bytes().ends_with(b"-shm") => {
                Step::Read(found, known.map(|known| known.entry))
            }
            _ => Step::Part,
        }
    }

    fn step(&mut self, found: Found, known: Option<Known>) -> Step {
        let again = found.linked && !self.links.insert((found.device, found.inode));
        let Some(known) = known else {
            return if again { Step::Link(found) } else { Step::Read(found, None) };
        };
        match self.compare(&found, &known) {
            Sameness::Entry if self.sampled(&found) => Step::Sample(found, known.entry),
            Sameness::Entry => Step::Keep(known.entry),
            _ if again => Step::Link(found),
            Sameness::Content if self.sampled(&found) => Step::Read(found, Some(known.entry)),
            Sameness::Content => Step::Adopt(found, known.entry),
            Sameness::None => Step::Read(found, Some(known.entry)),
        }
    }

    fn compare(&self, found: &Found, known: &Known) -> Sameness {
        let Known { entry, same_place, whole } = known;
        // A part of a live database may be in its WAL alone: then its size is not its file's, and the WAL's tells.
        let sized = entry.size == found.size || is_logged(entry);
        let looks_same = entry.kind == found.kind && sized && entry.mtime == found.mtime;
        if !whole || !looks_same || entry.racy || (self.rule.verify_content && found.kind == Kind::File) {
            return Sameness::None;
        }
        if !self.same_database(found, entry) {
            return Sameness::None;
        }
        if !same_place {
            // A time in whole seconds was set by a program (an image's layer, an archive): two files may share it. What
            // an app wrote, or a restore put back, has nanoseconds.
            let telling = found.kind != Kind::File || found.mtime % 1_000_000_000 != 0;
            return if telling { Sameness::Content } else { Sameness::None };
        }
        let same = entry.ctime == found.ctime
            && entry.inode == found.inode
            && (entry.mode, entry.uid, entry.gid) == (found.mode, found.uid, found.gid)
            && entry.link == found.link();
        if same { Sameness::Entry } else { Sameness::None }
    }

    /// Whether a database is as it was with what lies beside it, and was checked as it is to be.
    fn same_database(&self, found: &Found, entry: &Entry) -> bool {
        let beside = match found.role {
            Role::Database { wal, journal } => Some((wal, journal)),
            Role::Alone | Role::Side => None,
        };
        let Some(database) = &entry.database else { return beside.is_none() };
        if !self.rule.sqlite {
            // What lies beside it is an entry of its own now.
            return false;
        }
        let checked = match (&database.check, self.rule.check) {
            // What was damaged may have been mended without a trace, and must not be taken for good before it is known.
            (Some(check), _) if check.failed.is_some() => false,
            // A full check is a quick one, and more.
            (_, None) | (Some(_), Some(CheckKind::Quick)) => true,
            (Some(check), Some(CheckKind::Full)) => check.kind == CheckKind::Full,
            // A raw one cannot be checked.
            (None, Some(_)) => database.taken == Taken::Raw,
        };
        checked && beside.unwrap_or_default() == (database.wal, database.journal)
    }

    fn sampled(&self, found: &Found) -> bool {
        // All names of a file together: their entries must not come to differ.
        let hash = match found.link() {
            Some(link) => Hash::of(link.as_bytes()).0,
            None => Hash::of(found.path.bytes()).0,
        };
        let sample = self.rule.sample.max(1);
        found.kind == Kind::File && u64::from(hash[0]) % sample == self.rule.seq % sample
    }
}

/// Whether an entry is a live database with something in its WAL.
fn is_logged(entry: &Entry) -> bool {
    let database = entry.database.as_ref().filter(|database| database.taken == Taken::Live);
    database.and_then(|database| database.wal).is_some_and(|wal| wal.size > 0)
}

/// How what lies beside a database is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// It is copied, as the database is.
    Copied,
    /// By who reads the database.
    Part,
    /// As an ordinary file: the database is read under another of its names, and this may belong to it all the same.
    Alone,
}

/// Of a file that may be a database: its path, and how what lies beside it is taken.
fn beside(step: &Step) -> Option<(EntryPath, Beside)> {
    let raw = |entry: &Entry| match &entry.database {
        Some(database) if database.taken == Taken::Raw => Beside::Copied,
        _ => Beside::Part,
    };
    let database = |found: &Found| matches!(found.role, Role::Database { .. });
    match step {
        Step::Keep(entry) if entry.kind == Kind::File => Some((entry.path.clone(), raw(entry))),
        Step::Adopt(found, entry) if found.kind == Kind::File => Some((found.path.clone(), raw(entry))),
        Step::Read(found, _) | Step::Sample(found, _) if database(found) => Some((found.path.clone(), Beside::Part)),
        Step::Link(found) if database(found) => Some((found.path.clone(), Beside::Alone)),
        _ => None,
    }
}

enum Sameness {
    /// All that is compared is equal.
    Entry,
    /// Type, size and time are equal; the rest means nothing in another place.
    Content,
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::entry::Extent;

    fn found(path: &str, mtime: i64, inode: u64) -> Found {
        Found {
            path: EntryPath::new(path).unwrap(),
            kind: Kind::File,
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

    fn entry(found: &Found) -> Entry {
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
            link: found.link(),
            racy: false,
            header: 512,
            extents: vec![Extent::zeros(1024)],
            map: None,
            database: None,
        }
    }

    fn steps(known: Vec<(Found, bool, bool)>, now: Vec<Found>, rule: Rule) -> String {
        let known = known.into_iter().map(|(found, same_place, racy)| Known {
            entry: Entry { racy, ..entry(&found) },
            same_place,
            whole: true,
        });
        let mut merge = Merge::new(known, rule);
        now.into_iter()
            .map(|found| match merge.next(found) {
                Step::Keep(_) => 'k',
                Step::Adopt(..) => 'a',
                Step::Read(_, Some(_)) => 'r',
                Step::Read(_, None) => 'n',
                Step::Sample(..) => 's',
                Step::Link(_) => 'l',
                Step::Part => 'p',
                Step::Failed(..) => 'f',
            })
            .collect()
    }

    /// A sequence number at which none of the paths is sampled.
    const RULE: Rule = Rule { verify_content: false, sample: 64, seq: 63, sqlite: true, check: None };

    #[test]
    fn what_is_kept_and_what_is_read() {
        let (a, b, c) = (found("a", 1, 1), found("b", 1, 2), found("c", 1, 3));
        let here = |f: &Found| (f.clone(), true, false);
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
        assert_eq!(steps(vec![here(&a)], vec![Found { mode: 0o600, ..a.clone() }], RULE), "r");
        assert_eq!(steps(vec![here(&a)], vec![Found { kind: Kind::Fifo, ..a }], RULE), "r");
    }

    #[test]
    fn links_are_read_once() {
        let link = |path| Found { linked: true, ..found(path, 1, 7) };
        let here = |f: Found| (f, true, false);
        assert_eq!(steps(vec![], vec![link("a"), link("b")], RULE), "nl");
        assert_eq!(steps(vec![here(link("a")), here(link("b"))], vec![link("a"), link("b")], RULE), "kk");
        assert_eq!(steps(vec![(link("a"), false, false)], vec![link("a"), link("b")], RULE), "al");
    }

    #[test]
    fn every_file_is_sampled_once_in_64_backups() {
        let a = found("some/file", 1, 1);
        let all: String =
            (0..64).map(|seq| steps(vec![(a.clone(), true, false)], vec![a.clone()], Rule { seq, ..RULE })).collect();
        assert_eq!(all.matches('s').count(), 1);
        assert_eq!(all.matches('k').count(), 63);
    }
}
