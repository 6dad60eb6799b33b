//! The app: it does to the data directory what comes to its mind, at any moment, and takes down what it did.

use std::collections::HashMap;
use std::path::PathBuf;

use rustix::process::Pid;

use super::accidents::Aside;
use super::counters::Counters;
use super::databases::Databases;
use super::files::inode;
use super::history::{History, Id, What, is_in, join, split};
use crate::support::seeded_random::Dice;
use crate::support::tree::noise;

/// An act of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Makes a small file.
    Create,
    /// Makes a file that takes several reads.
    CreateLarge,
    /// Writes into a file.
    Overwrite,
    /// Writes at its end.
    Append,
    /// Cuts it off.
    Truncate,
    /// Renames a new file over it.
    Replace,
    /// Writes into it through a memory map.
    MapWrite,
    /// Renames it.
    RenameFile,
    /// Gives it one more name.
    Link,
    /// Takes a name away.
    Unlink,
    /// Removes linked files, and makes others with the same inode numbers.
    Relink,
    /// Makes a symlink.
    Symlink,
    /// Changes permissions.
    Chmod,
    /// Sets an extended attribute.
    Xattr,
    /// Makes a folder.
    MakeFolder,
    /// Puts many files into a folder.
    Fill,
    /// Removes a folder with all that is in it.
    RemoveTree,
    /// Moves a folder.
    RenameFolder,
    /// Exchanges two folders.
    ExchangeFolders,
    /// Exchanges a folder with a symlink that leads out of the data directory.
    ExchangeLink,
    /// Exchanges the data directory with another one.
    ExchangeData,
    /// Takes a move or an exchange back.
    Undo,
    /// Makes a database.
    DatabaseCreate,
    /// Commits a transaction.
    DatabaseWrite,
    /// Begins one that stays open.
    DatabaseBegin,
    /// Ends it.
    DatabaseEnd,
    /// Puts a log into its database.
    DatabaseCheckpoint,
    /// Writes a database again.
    DatabaseVacuum,
    /// Closes a connection.
    DatabaseClose,
    /// Removes a database.
    DatabaseRemove,
    /// Leaves a database with the journal or log of a transaction that was cut off.
    DatabaseCrash,
    /// Opens such a one.
    DatabaseRecover,
    /// Makes a file that looks like a database.
    DatabaseOdd,
}

/// How often it does what, in proportion.
const WEIGHTS: [(Act, u64); 33] = [
    (Act::Create, 14),
    (Act::CreateLarge, 2),
    (Act::Overwrite, 8),
    (Act::Append, 5),
    (Act::Truncate, 3),
    (Act::Replace, 5),
    (Act::MapWrite, 3),
    (Act::RenameFile, 6),
    (Act::Link, 5),
    (Act::Unlink, 6),
    (Act::Relink, 8),
    (Act::Symlink, 2),
    (Act::Chmod, 2),
    (Act::Xattr, 2),
    (Act::MakeFolder, 5),
    (Act::Fill, 1),
    (Act::RemoveTree, 1),
    (Act::RenameFolder, 8),
    (Act::ExchangeFolders, 5),
    (Act::ExchangeLink, 6),
    (Act::ExchangeData, 2),
    (Act::Undo, 16),
    (Act::DatabaseCreate, 1),
    (Act::DatabaseWrite, 6),
    (Act::DatabaseBegin, 2),
    (Act::DatabaseEnd, 4),
    (Act::DatabaseCheckpoint, 1),
    (Act::DatabaseVacuum, 1),
    (Act::DatabaseClose, 1),
    (Act::DatabaseRemove, 1),
    (Act::DatabaseCrash, 2),
    (Act::DatabaseRecover, 1),
    (Act::DatabaseOdd, 1),
];

/// The acts that only give things other names.
pub const MOVES: [Act; 5] = [Act::RenameFile, Act::RenameFolder, Act::ExchangeFolders, Act::ExchangeLink, Act::Undo];

/// Names of files. Some come, in the order of bytes, between a database and what lies beside it.
const FILES: [&str; 14] =
    ["a", "app.db!x", "app.db-a", "app.db-k", "b", "f", "k.db!", "log", "m", "n.csv", "token", "x!", "zz", "é"];
/// Names of folders, some of them those of files as well.
const FOLDERS: [&str; 9] = ["a", "a b", "a.d", "app.db-d", "b", "m", "x", "y", "z"];
/// Names of databases.
pub const DATABASES: [&str; 3] = ["app.db", "k.db", "x"];
/// Files that it keeps in the tree, about.
const MANY: usize = 45;
/// The content of a file outside the data directory, which no snapshot may hold.
pub const SECRET: &str = "TOP SECRET, OUTSIDE OF THE DATA DIRECTORY";

/// A data directory: which it is, and how often it was moved into a new folder.
pub type Place = (Id, u64);

/// A change that can be taken back.
#[derive(Debug, Clone)]
pub enum Change {
    /// From the first path to the second one.
    Renamed(String, String),
    /// These two paths were exchanged.
    Exchanged(String, String),
}

/// The app.
pub struct App {
    /// The history of the data directory.
    pub history: History,
    /// Its chance.
    pub dice: Dice,
    /// Its folder: all that it touches lies in it.
    pub base: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// A directory that may take its place, and what it is.
    pub next: Option<Id>,
    /// Whether it may do so now.
    pub may_exchange_data: bool,
    /// The engine, while it may be reading.
    pub engine: Option<Pid>,
    /// The app's acts and their times.
    pub log: Vec<String>,
    /// How often it did what while the engine was looking.
    pub counters: Counters,
    /// Faults that the app did not cause.
    pub faults: Vec<String>,
    /// Its databases.
    pub databases: Databases,
    /// Where the engine is.
    pub focus: Option<String>,
    /// Changes that the app may take back.
    pub changes: Vec<Change>,
    /// Content that an accident took away, and that may come back.
    pub aside: Vec<Aside>,
    /// How often each data directory was moved into a new folder.
    pub moves: HashMap<Id, u64>,
    serial: u64,
}

impl App {
    /// Creates one with a small data directory in `base`.
    pub fn new(base: PathBuf, seed: u64) -> Self {
        let mut app = App {
            history: History::new(),
            dice: Dice(seed),
            data: base.join("data"),
            base,
            next: None,
            may_exchange_data: false,
            engine: None,
            log: Vec::new(),
            counters: Counters::default(),
            faults: Vec::new(),
            databases: Databases::default(),
            focus: None,
            changes: Vec::new(),
            aside: Vec::new(),
            moves: HashMap::new(),
            serial: 0,
        };
        std::fs::create_dir_all(&app.data).unwrap();
        app.history.objects[app.history.root].inode = inode(&app.data);
        let secret = app.base.join("secret");
        std::fs::create_dir_all(&secret).unwrap();
        for name in FILES {
            std::fs::write(secret.join(name), format!("{SECRET}: {name}\n")).unwrap();
        }
        app.settle();
        app
    }

    /// Fills an empty data directory.
    pub fn settle(&mut self) {
        for _ in 0..5 {
            self.perform(Act::MakeFolder);
        }
        for _ in 0..20 + self.dice.roll(15) {
            self.perform(Act::Create);
        }
        for act in [Act::Link, Act::Link, Act::CreateLarge, Act::DatabaseCreate, Act::DatabaseCrash, Act::Symlink] {
            self.perform(act);
        }
    }

    /// Does something, if it can.
    pub fn act(&mut self, when: &str) {
        self.act_of(&WEIGHTS.map(|(act, _)| act), when);
    }

    /// Does one of these things, if it can.
    pub fn act_of(&mut self, acts: &[Act], when: &str) {
        let weights: Vec<_> = WEIGHTS.into_iter().filter(|(act, _)| acts.contains(act)).collect();
        let sum: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut rolled = self.dice.roll(sum);
        let chosen = weights.iter().find(|(_, weight)| {
            let here = rolled < *weight;
            rolled = rolled.saturating_sub(*weight);
            here
        });
        let act = chosen.map_or(Act::Create, |(act, _)| *act);
        self.act_as(act, when);
    }

    /// Does a certain thing, if it can, and takes that down.
    pub fn act_as(&mut self, act: Act, when: &str) {
        if let Some(did) = self.perform(act) {
            if self.engine.is_some() {
                self.counters.count(&format!("{act:?}"));
            }
            self.log.push(format!("{when}: {act:?} {did}"));
        }
    }

    /// Does it; tells what it did, if it could be done.
    pub fn perform(&mut self, act: Act) -> Option<String> {
        match act {
            Act::Create => self.create(false),
            Act::CreateLarge => self.create(true),
            Act::Overwrite => self.overwrite(),
            Act::Append => self.append(),
            Act::Truncate => self.truncate(),
            Act::Replace => self.replace(),
            Act::MapWrite => self.map_write(),
            Act::RenameFile => self.rename_file(),
            Act::Link => self.link(),
            Act::Unlink => self.unlink_one(),
            Act::Relink => self.relink(),
            Act::Symlink => self.symlink(),
            Act::Chmod => self.chmod(),
            Act::Xattr => self.xattr(),
            Act::MakeFolder => self.make_folder(),
            Act::Fill => self.fill(),
            Act::RemoveTree => self.remove_tree(),
            Act::RenameFolder => self.rename_folder(),
            Act::ExchangeFolders => self.exchange_folders(),
            Act::ExchangeLink => self.exchange_link(),
            Act::ExchangeData => self.exchange_data(),
            Act::Undo => self.undo(),
            Act::DatabaseCreate => self.database_create(),
            Act::DatabaseWrite => self.database_write(),
            Act::DatabaseBegin => self.database_begin(),
            Act::DatabaseEnd => self.database_end(),
            Act::DatabaseCheckpoint => self.database_upkeep("PRAGMA wal_checkpoint(TRUNCATE)"),
            Act::DatabaseVacuum => self.database_upkeep("VACUUM"),
            Act::DatabaseClose => self.database_close(),
            Act::DatabaseRemove => self.database_remove(),
            Act::DatabaseCrash => self.database_crash(),
            Act::DatabaseRecover => self.database_recover(),
            Act::DatabaseOdd => self.database_odd(),
        }
    }

    /// Returns the place of one of these data directories, which has this inode number.
    pub fn place(&self, roots: &[Id], inode: u64) -> Option<Place> {
        let root = roots.iter().find(|root| self.history.objects[**root].inode == inode)?;
        Some((*root, self.moves.get(root).copied().unwrap_or(0)))
    }

    /// Returns where a path of the data directory is.
    pub fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.data.clone() } else { self.data.join(path) }
    }

    /// Returns a number that was never given before.
    pub fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Returns content that never was before: in each 4 KiB of it.
    pub fn content(&mut self, length: usize) -> Vec<u8> {
        let serial = self.serial();
        let mut bytes = noise(serial ^ self.dice.0, length);
        for (n, block) in bytes.chunks_mut(4096).enumerate() {
            let mark = format!("<{serial}.{n}>");
            let length = mark.len().min(block.len());
            block[..length].copy_from_slice(&mark.as_bytes()[..length]);
        }
        bytes
    }

    /// Returns all paths that lead to what `fits`.
    pub fn all(&self, fits: impl Fn(&str, &What) -> bool) -> Vec<(String, Id)> {
        let mut all = Vec::new();
        self.history.walk(&mut |path, id| {
            if fits(path, &self.history.objects[id].what) {
                all.push((path.to_owned(), id));
            }
        });
        all
    }

    /// Returns one of them, often one near to where the engine is.
    pub fn pick(&mut self, all: Vec<(String, Id)>) -> Option<(String, Id)> {
        if all.is_empty() {
            return None;
        }
        let near: Vec<_> = match &self.focus {
            Some(focus) if self.dice.roll(100) < 50 => {
                let beside = |path: &str| !path.is_empty() && (is_in(focus, path) || split(path).0 == split(focus).0);
                all.iter().filter(|(path, _)| beside(path)).cloned().collect()
            }
            _ => Vec::new(),
        };
        let from = if near.is_empty() { all } else { near };
        let chosen = self.dice.roll(from.len() as u64) as usize;
        from.into_iter().nth(chosen)
    }

    /// Returns a file.
    pub fn pick_file(&mut self) -> Option<(String, Id)> {
        let all = self.all(|_, what| matches!(what, What::File(_)));
        self.pick(all)
    }

    /// Returns a folder; the data directory itself only where it is asked for.
    pub fn pick_folder(&mut self, itself: bool) -> Option<(String, Id)> {
        let all = self.all(|path, what| matches!(what, What::Folder(_)) && (itself || !path.is_empty()));
        self.pick(all)
    }

    /// Returns a path in some folder that leads nowhere, for a file or for a folder.
    pub fn pick_free(&mut self, folder: bool) -> Option<String> {
        let above = loop {
            let (above, _) = self.pick_folder(true)?;
            if above.matches('/').count() < 2 {
                break above;
            }
        };
        let names: &[&str] = if folder { &FOLDERS } else { &FILES };
        let children = self.history.children(self.history.look(&above)?)?;
        let free: Vec<_> = names.iter().filter(|name| !children.contains_key(**name)).collect();
        let mut name = match free.len() {
            0 => format!("f{}", self.serial()),
            n => (*free[self.dice.roll(n as u64) as usize]).to_owned(),
        };
        // The name of what lies beside a database is not for others.
        if self.history.children(self.history.look(&above)?)?.contains_key(&name) {
            name = format!("g{}", self.serial());
        }
        Some(join(&above, &name))
    }

    /// Whether there are more files than it wants.
    pub fn crowded(&self) -> bool {
        self.all(|_, what| matches!(what, What::File(_))).len() > MANY
    }
}
