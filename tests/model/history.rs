//! The history of the data directory: every object that ever was in it, its content, and the names that led to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use lastgood::vault::hex::Hash;

use super::databases::SIDES;

/// An object's number; none is given twice, unlike inode numbers.
pub type Id = usize;

/// A file, folder, symlink or database.
#[derive(Debug)]
pub struct Object {
    /// What it is.
    pub what: What,
    /// Its inode number.
    pub inode: u64,
    /// How many names lead to it.
    pub names: u32,
}

/// The kind of an object, with its content.
#[derive(Debug)]
pub enum What {
    /// Its entries, by name.
    Folder(BTreeMap<String, Id>),
    /// A file.
    File(File),
    /// Where it leads.
    Symlink(String),
    /// A SQLite database, with what lies beside it.
    Database(Database),
}

/// A file.
#[derive(Debug)]
pub struct File {
    /// Its content now.
    pub bytes: Vec<u8>,
    /// Its contents, and when each came to be.
    pub versions: Vec<(u64, Hash)>,
    /// When that was last, by the machine's clock.
    pub at: Instant,
}

/// A database.
#[derive(Debug)]
pub struct Database {
    /// The number that it carries in its content.
    pub number: i64,
    /// The serial of each state that was committed, and when.
    pub commits: Vec<(u64, i64)>,
    /// Whether it was left behind by an app that died.
    pub cut_off: bool,
    /// When something was last written to it, by the machine's clock.
    pub at: Instant,
}

/// Observations during one backup.
#[derive(Debug, Default)]
pub struct Capture {
    /// When it began.
    pub began: u64,
    /// All that each path led to.
    pub led: HashMap<String, Vec<Id>>,
    /// Paths that led to the same object all the time.
    pub stable: HashMap<String, Id>,
    /// Objects that were beneath the data directory all the time.
    pub present: HashSet<Id>,
    /// The paths that each object had.
    pub names: HashMap<Id, BTreeSet<String>>,
    /// The data directories that there were.
    pub roots: Vec<Id>,
    /// The data directory that each object was in.
    pub owner: HashMap<Id, Id>,
}

/// Everything that was.
#[derive(Debug)]
pub struct History {
    /// All objects.
    pub objects: Vec<Object>,
    /// The data directory.
    pub root: Id,
    /// A clock that goes on with each operation.
    pub now: u64,
    /// Whose content something is.
    pub contents: HashMap<Hash, Id>,
    /// Contents of files before changes that neither length nor time showed.
    pub unseen: HashMap<Id, Vec<Hash>>,
    /// The backup that is under way.
    capture: Option<Capture>,
}

/// Returns a path's folder and its name there.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Returns the path of a name in a folder.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Whether a path is `above` or lies in it.
pub fn is_in(path: &str, above: &str) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl History {
    /// Creates an empty data directory.
    pub fn new() -> Self {
        let root = Object { what: What::Folder(BTreeMap::new()), inode: 0, names: 1 };
        History {
            objects: vec![root],
            root: 0,
            now: 1,
            contents: HashMap::new(),
            unseen: HashMap::new(),
            capture: None,
        }
    }

    /// Adds an object that no name leads to yet.
    pub fn add(&mut self, what: What, inode: u64) -> Id {
        self.objects.push(Object { what, inode, names: 0 });
        self.objects.len() - 1
    }

    /// Returns the object that a path leads to.
    pub fn look(&self, path: &str) -> Option<Id> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(self.root, |id, name| self.children(id)?.get(name).copied())
    }

    /// Returns the entries of a folder.
    pub fn children(&self, id: Id) -> Option<&BTreeMap<String, Id>> {
        match &self.objects[id].what {
            What::Folder(children) => Some(children),
            _ => None,
        }
    }

    /// Returns a file.
    pub fn file(&self, id: Id) -> Option<&File> {
        match &self.objects[id].what {
            What::File(file) => Some(file),
            _ => None,
        }
    }

    /// Returns a database.
    pub fn database(&self, id: Id) -> Option<&Database> {
        match &self.objects[id].what {
            What::Database(database) => Some(database),
            _ => None,
        }
    }

    /// Returns a database, to be changed.
    pub fn database_mut(&mut self, id: Id) -> &mut Database {
        match &mut self.objects[id].what {
            What::Database(database) => database,
            other => panic!("{other:?} is no database"),
        }
    }

    /// Calls `see` with each path and what it leads to, folders before what is in them.
    pub fn walk(&self, see: &mut dyn FnMut(&str, Id)) {
        self.walk_in(String::new(), self.root, see);
    }

    fn walk_in(&self, path: String, id: Id, see: &mut dyn FnMut(&str, Id)) {
        see(&path, id);
        for (name, below) in self.children(id).into_iter().flatten() {
            self.walk_in(join(&path, name), *below, see);
        }
    }

    /// Makes a name lead to an object; returns the object that it led to before.
    pub fn put(&mut self, path: &str, id: Id) -> Option<Id> {
        let before = self.set(path, Some(id));
        self.note();
        before
    }

    /// Removes a name.
    pub fn take(&mut self, path: &str) -> Id {
        let id = self.set(path, None).unwrap();
        self.note();
        id
    }

    /// Exchanges what two names lead to.
    pub fn exchange(&mut self, a: &str, b: &str) {
        let (x, y) = (self.look(a).unwrap(), self.look(b).unwrap());
        self.set(a, Some(y));
        self.set(b, Some(x));
        self.note();
    }

    /// Renames something; returns the object that the new name led to before.
    pub fn rename(&mut self, from: &str, to: &str) -> Option<Id> {
        let id = self.look(from).unwrap();
        let before = self.set(to, Some(id));
        self.set(from, None);
        self.note();
        before
    }

    /// Whether a path is that of what lies beside a database.
    pub fn is_beside_database(&self, path: &str) -> bool {
        let is_database = |path: &str| self.look(path).is_some_and(|id| self.database(id).is_some());
        SIDES.iter().filter_map(|side| path.strip_suffix(side)).any(is_database)
    }

    /// Makes a name lead to an object or, with `None`, to nothing; returns the object that it led to before.
    ///
    /// What lies beside a database is SQLite's: an app that puts a file of its own there breaks the database, and no snapshot
    /// can hold it whole.
    fn set(&mut self, path: &str, id: Option<Id>) -> Option<Id> {
        if let Some(id) = id {
            let beside = || SIDES.iter().any(|side| self.look(&format!("{path}{side}")).is_some());
            assert!(
                self.database(id).is_none() || !beside(),
                "the app has a file where the database {path} has its log"
            );
            assert!(!self.is_beside_database(path), "the app's file {path} lies where a database has its log");
        }
        let (folder, name) = split(path);
        let folder = self.look(folder).unwrap();
        let What::Folder(children) = &mut self.objects[folder].what else { panic!("{path} is in no folder") };
        let before = match id {
            Some(id) => children.insert(name.to_owned(), id),
            None => children.remove(name),
        };
        if let Some(id) = id {
            self.objects[id].names += 1;
        }
        if let Some(before) = before {
            self.objects[before].names -= 1;
            if let (0, What::File(file)) = (self.objects[before].names, &mut self.objects[before].what) {
                file.bytes = Vec::new();
            }
        }
        before
    }

    /// Records that a file has new content.
    pub fn write(&mut self, id: Id, bytes: Vec<u8>) {
        self.now += 1;
        let (now, hash) = (self.now, Hash::of(&bytes));
        let What::File(file) = &mut self.objects[id].what else { panic!("{id} is no file") };
        file.versions.push((now, hash));
        (file.bytes, file.at) = (bytes, Instant::now());
        self.contents.insert(hash, id);
    }

    /// Records that a file has new content, and that nothing shows it.
    pub fn change_unseen(&mut self, id: Id, bytes: Vec<u8>) {
        let before = self.file(id).and_then(|file| file.versions.last()).map(|(_, hash)| *hash);
        self.unseen.entry(id).or_default().extend(before);
        self.write(id, bytes);
    }

    /// Takes something away that keeps its content, as it may come back.
    pub fn put_aside(&mut self, path: &str) -> Id {
        let id = self.look(path).unwrap();
        self.objects[id].names += 1;
        self.take(path)
    }

    /// Puts it back.
    pub fn bring_back(&mut self, path: &str, id: Id) {
        self.objects[id].names -= 1;
        self.put(path, id);
    }

    /// Returns how many entries something is, with all that is in it.
    pub fn size(&self, id: Id) -> u64 {
        1 + self.children(id).into_iter().flatten().map(|(_, below)| self.size(*below)).sum::<u64>()
    }

    /// Begins to observe a backup.
    pub fn begin(&mut self) {
        let mut capture = Capture { began: self.now, ..Capture::default() };
        self.walk(&mut |path, id| {
            capture.stable.insert(path.to_owned(), id);
            capture.present.insert(id);
        });
        self.capture = Some(capture);
        self.note();
    }

    /// Ends the observation, and returns it.
    pub fn end(&mut self) -> Capture {
        let mut capture = self.capture.take().unwrap();
        // Entries of a folder that was not the same all the time were not there all the time either.
        let stable = capture.stable.clone();
        let folders = |path: &str| (0..path.len()).filter(|at| path.as_bytes()[*at] == b'/').collect::<Vec<_>>();
        capture.stable.retain(|path, _| {
            stable.contains_key("") && folders(path).iter().all(|at| stable.contains_key(&path[..*at]))
        });
        capture
    }

    /// Puts another data directory in the place of the one before.
    pub fn exchange_root(&mut self, root: Id) {
        self.root = root;
        self.note();
    }

    /// Takes down what is where.
    fn note(&mut self) {
        self.now += 1;
        let Some(mut capture) = self.capture.take() else { return };
        let (mut seen, mut there) = (HashMap::new(), HashSet::new());
        self.walk(&mut |path, id| {
            there.insert(id);
            if capture.stable.get(path) == Some(&id) {
                seen.insert(path.to_owned(), id);
            }
            match capture.led.get_mut(path) {
                Some(led) if led.contains(&id) => {}
                Some(led) => led.push(id),
                None => drop(capture.led.insert(path.to_owned(), vec![id])),
            }
            let names = capture.names.entry(id).or_default();
            if !names.contains(path) {
                names.insert(path.to_owned());
            }
            capture.owner.insert(id, self.root);
        });
        capture.stable = seen;
        capture.present.retain(|id| there.contains(id));
        if !capture.roots.contains(&self.root) {
            capture.roots.push(self.root);
        }
        self.capture = Some(capture);
    }

    /// Whether a file held exactly this at some time since `began`.
    pub fn held(&self, id: Id, hash: &Hash, began: u64) -> bool {
        let Some(file) = self.file(id) else { return false };
        since(&file.versions, began).any(|version| version == hash)
    }

    /// Whether a file holds what it held when the capture began.
    pub fn unchanged(&self, id: Id, began: u64) -> bool {
        match &self.objects[id].what {
            What::File(file) => file.versions.last().is_some_and(|(at, _)| *at <= began),
            What::Database(database) => database.commits.last().is_some_and(|(at, _)| *at <= began),
            _ => true,
        }
    }
}

/// Returns the versions that held at some time since `began`.
pub fn since<T>(versions: &[(u64, T)], began: u64) -> impl Iterator<Item = &T> {
    let first = versions.iter().rposition(|(at, _)| *at <= began).unwrap_or(0);
    versions[first..].iter().map(|(_, version)| version)
}
