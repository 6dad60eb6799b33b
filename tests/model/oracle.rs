//! The oracle: it says what must be true of a snapshot, given the history of the directory.
//!
//! That hard links of one another in a restore had one content follows from what is checked of each: no two files ever
//! held the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lastgood::backup::NEVER_RESTS;
use lastgood::vault::hex::Hash;
use lastgood::vault::parts::Parts;
use rusqlite::Connection;
use serde_json::Value;

use super::app::SECRET;
use super::databases::SUM;
use super::history::{Capture, History, Id, What, is_in, since, split};

/// Endings of what belongs to a database.
const SIDES: [&str; 3] = ["-journal", "-shm", "-wal"];

/// A kind of mistake in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A backup does not end.
    Hangs,
    /// A backup fails though nothing stands in its way.
    Fails,
    /// A good snapshot cannot be restored.
    NotRestorable,
    /// A snapshot that is not good cannot be restored at all.
    PartialNotRestorable,
    /// A snapshot that could be restored before cannot be any more, or differently.
    OlderDamaged,
    /// The snapshot has content from outside the data directory.
    Outside,
    /// A file holds what another one did that had the same inode number.
    ReusedInode,
    /// A file holds what no file of that name did while the snapshot was taken.
    Foreign,
    /// A file holds what it did before the snapshot was begun.
    OldContent,
    /// A file holds what no file ever did.
    Torn,
    /// Something has a kind, or a target, that it did not have.
    WrongKind,
    /// Two data directories are mixed in a good snapshot.
    Mixed,
    /// Two data directories are mixed in a snapshot that is not good.
    PartialMixed,
    /// Something is missing that was in its place all the time.
    Missing,
    /// A file that was there all the time, in folders that moved, is missing.
    MovedFolder,
    /// A file that was there all the time, under several names, is missing.
    MovedFile,
    /// The same of something that had three names or more: it was moved again and again.
    MovedAgain,
    /// A database is damaged, or never was in that state.
    DatabaseBroken,
    /// A database that was left behind by an app that died, and lay there all the time, comes back without what lay
    /// beside it.
    RawBroken,
    /// The same of one that was moved, removed or replaced meanwhile.
    RawMovedBroken,
    /// The same where it was said that what lay beside it had gone.
    RawApart,
    /// A database is in a state that it was in before the snapshot was begun.
    DatabaseOld,
    /// An entry that is listed as stale is not as it was before.
    Stale,
    /// Content that was taken over unread in another place is not what was there, and nothing says that it was not read.
    Unread,
    /// A snapshot is suspect and has no reason to be, or has one and is not.
    Suspect,
    /// `latest` is not the newest good snapshot.
    Latest,
    /// Vaults hold something else than they should, or than is said.
    Replicas,
    /// Something is missing that the last good snapshot has, and that is there.
    Worse,
    /// A snapshot is not good although one was before, of the same directory.
    StandsStill,
    /// The app's own database does not work any more.
    AppBroken,
    /// The script by hand gives something else.
    ByHand,
    /// Verification finds damage.
    Verify,
}

/// Something that is wrong.
#[derive(Debug, Clone)]
pub struct Wrong {
    /// The kind of mistake.
    pub class: Class,
    /// A description of it.
    pub what: String,
}

impl Wrong {
    /// Creates a mistake of a class.
    pub fn new(class: Class, what: impl Into<String>) -> Self {
        Wrong { class, what: what.into() }
    }
}

/// A snapshot that is compared with what was.
pub struct Oracle<'a> {
    /// The history of the directory.
    pub history: &'a History,
    /// Observations while the snapshot was taken.
    pub capture: &'a Capture,
    /// The engine's report of it.
    pub report: &'a Value,
    /// Where it was restored.
    pub restored: &'a Path,
    /// The files of the last good snapshot of the same directory as they were restored, before anything opened them.
    pub before: Option<&'a BTreeMap<String, Hash>>,
    /// The parts of the files that it says were not read since the directory is where it is.
    pub unread: Parts,
    /// Whether it is suspect.
    pub suspect: bool,
}

/// The content of a restored directory.
#[derive(Default)]
struct Restored {
    /// Hash and inode number of each file that is no database.
    files: BTreeMap<String, (Hash, u64)>,
    /// Paths of folders.
    folders: BTreeSet<String>,
    /// Targets of symlinks.
    symlinks: BTreeMap<String, String>,
    /// Number and serial of each database, or what is wrong with it.
    databases: BTreeMap<String, Result<(i64, i64), String>>,
    /// Paths that are as they were before.
    stale: BTreeSet<String>,
}

impl Oracle<'_> {
    /// Returns all mistakes.
    pub fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        self.advances(&mut wrong);
        let restored = self.read(&mut wrong);
        let torn = self.torn(&restored);
        self.contents(&restored, &torn, &mut wrong);
        self.kinds(&restored, &mut wrong);
        self.databases(&restored, &mut wrong);
        if self.capture.roots.len() > 1 {
            self.unmixed(&restored, &mut wrong);
        } else if self.report["good"] == true || self.suspect {
            self.complete(&restored, &torn, &mut wrong);
        }
        wrong
    }

    fn warnings(&self) -> impl Iterator<Item = &str> {
        self.report["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    fn led(&self, path: &str) -> &[Id] {
        self.capture.led.get(path).map_or(&[], Vec::as_slice)
    }

    /// Returns the paths of a list of the report.
    fn listed(&self, list: &str) -> impl Iterator<Item = &str> {
        let items = self.report[list].as_array().into_iter().flatten();
        items.filter_map(|item| item["path"].as_str()).map(|path| if path == "." { "" } else { path })
    }

    /// Checks that a good snapshot follows a good one, and has what that had and is still there.
    fn advances(&self, wrong: &mut Vec<Wrong>) {
        let Some(before) = self.before else { return };
        if self.report["good"] != true && !self.suspect {
            let why = format!("it is {} and not good: {}", self.report["state"], self.report["databases"]);
            wrong.push(Wrong::new(Class::StandsStill, why));
        }
        for problem in self.report["errors"].as_array().into_iter().flatten() {
            let (path, why) = (problem["path"].as_str().unwrap(), problem["why"].as_str().unwrap());
            let side = SIDES.iter().any(|side| path.ends_with(side));
            if before.contains_key(path) && !side && !why.contains("extended attributes") {
                wrong.push(Wrong::new(Class::Worse, format!("{path} is missing ({why}), and was there before")));
            }
        }
    }

    /// Whether something is said to be as it was before.
    fn is_stale(&self, path: &str) -> bool {
        let beside = |item: &str| SIDES.iter().any(|side| path.strip_suffix(side) == Some(item));
        self.listed("stale").any(|item| is_in(path, item) || beside(item))
    }

    /// Reads what was restored.
    fn read(&self, wrong: &mut Vec<Wrong>) -> Restored {
        let (mut restored, mut open) = (Restored::default(), vec![String::new()]);
        while let Some(folder) = open.pop() {
            for found in fs::read_dir(self.restored.join(&folder)).unwrap() {
                let found = found.unwrap();
                if found.path() == self.restored.join(".lastgood") {
                    continue;
                }
                let path = super::history::join(&folder, found.file_name().to_str().unwrap());
                let meta = found.metadata().unwrap();
                if self.is_stale(&path) {
                    restored.stale.insert(path.clone());
                    match meta.is_dir() {
                        true => open.push(path),
                        false if !meta.is_symlink() => {
                            let hash = Hash::of(&fs::read(found.path()).unwrap());
                            if self.before.is_some_and(|before| before.get(&path) != Some(&hash)) {
                                wrong.push(Wrong::new(Class::Stale, format!("{path} is not what it was before")));
                            }
                        }
                        false => {}
                    }
                } else if meta.is_dir() {
                    open.push(path.clone());
                    restored.folders.insert(path);
                } else if meta.is_symlink() {
                    let target = fs::read_link(found.path()).unwrap().display().to_string();
                    restored.symlinks.insert(path, target);
                } else {
                    let bytes = fs::read(found.path()).unwrap();
                    if bytes.starts_with(SECRET.as_bytes()) {
                        wrong.push(Wrong::new(Class::Outside, format!("{path} holds the secret")));
                        continue;
                    }
                    let hash = Hash::of(&bytes);
                    let is_database = |id: &Id| self.history.database(*id).is_some();
                    let odd = self.history.contents.contains_key(&hash);
                    if bytes.starts_with(b"SQLite format 3\0") && !odd && self.led(&path).iter().any(is_database) {
                        restored.databases.insert(path, Ok((0, 0)));
                    } else {
                        restored.files.insert(path, (hash, meta.ino()));
                    }
                }
            }
        }
        for (path, state) in &mut restored.databases {
            *state = state_of(&self.restored.join(path));
        }
        restored
    }

    /// Returns the files that are listed as torn, and their other names.
    fn torn(&self, restored: &Restored) -> HashSet<String> {
        let named = |path: &str| self.listed("torn").any(|torn| torn == path);
        let inodes: HashSet<u64> =
            restored.files.iter().filter(|(path, _)| named(path)).map(|(_, (_, inode))| *inode).collect();
        restored.files.iter().filter(|(_, (_, inode))| inodes.contains(inode)).map(|(path, _)| path.clone()).collect()
    }

    /// Checks that each file holds what a file of that name held while the snapshot was taken.
    fn contents(&self, restored: &Restored, torn: &HashSet<String>, wrong: &mut Vec<Wrong>) {
        for (path, (hash, _)) in restored.files.iter().filter(|(path, _)| !torn.contains(*path)) {
            let led = self.led(path);
            if led.iter().any(|id| self.history.held(*id, hash, self.capture.began)) {
                continue;
            }
            let whose = self.history.contents.get(hash).copied();
            if let Some(parts) = self.is_unseen(path, hash) {
                if self.unread.is_empty() || parts.is_some_and(|parts| !self.unread.has(parts)) {
                    let what = format!("{path} was changed unseen, and nothing says that it was not read");
                    wrong.push(Wrong::new(Class::Unread, what));
                }
                continue;
            }
            // Files beside a database are a part of it; and the engine may have been killed while it had the database open.
            if whose.is_none() && SIDES.iter().any(|side| path.ends_with(side)) {
                continue;
            }
            let inode = |id: Id| self.history.objects[id].inode;
            let class = match whose {
                None => Class::Torn,
                Some(id) if led.contains(&id) => Class::OldContent,
                Some(id) if led.iter().any(|other| inode(*other) == inode(id)) => Class::ReusedInode,
                Some(_) => Class::Foreign,
            };
            let all: Vec<_> = led.iter().map(|id| (*id, inode(*id))).collect();
            let names = whose.and_then(|id| self.capture.names.get(&id));
            let theirs = format!("of {whose:?} (inode {:?}), which was {names:?}", whose.map(inode));
            wrong.push(Wrong::new(class, format!("{path} led to {all:?} and has the content {theirs}")));
        }
    }

    /// Whether a file came back with what it held before it was changed so that nothing shows it; the parts that must be said
    /// not to have been read, unless they go by inode numbers since there are other names.
    fn is_unseen(&self, path: &str, hash: &Hash) -> Option<Option<Parts>> {
        let unseen = |id: &Id| self.history.unseen.get(id).is_some_and(|all| all.contains(hash));
        let id = self.led(path).iter().find(|id| unseen(id))?;
        // A file beside a database is read with it, when its turn comes, and by itself if the database goes before that.
        let is_raw = |path: &&str| {
            let mut all = self.report["databases"].as_array().into_iter().flatten();
            all.any(|record| record["path"] == *path && record["taken"] == "raw")
        };
        let unit = SIDES.iter().filter_map(|side| path.strip_suffix(side)).find(is_raw);
        let units = unit.map_or(&[][..], |unit| self.led(unit)).iter().chain([id]);
        // One that had another name when it was come to goes by its number, though it may have lost that name since.
        let had_one = |id: &Id| self.capture.names.get(id).is_none_or(|names| names.len() == 1);
        let alone = units.into_iter().all(|id| self.history.objects[*id].names == 1 && had_one(id));
        let part = |path: &str| Parts::of(Hash::of(path.as_bytes()).0[0]);
        Some(alone.then(|| unit.map_or(Parts::NONE, part).with(part(path))))
    }

    /// Returns how many files came back with what they held before they were changed unseen.
    pub fn taken_unread(&self) -> u64 {
        let files = super::tree::Tree::read(self.restored).files;
        files.iter().filter(|(path, hash)| self.is_unseen(path, hash).is_some()).count() as u64
    }

    /// Folders and symlinks were such.
    fn kinds(&self, restored: &Restored, wrong: &mut Vec<Wrong>) {
        for path in &restored.folders {
            if !self.led(path).iter().any(|id| self.history.children(*id).is_some()) {
                wrong.push(Wrong::new(Class::WrongKind, format!("{path} is a folder and never was one")));
            }
        }
        for (path, target) in &restored.symlinks {
            let was = |id: &Id| matches!(&self.history.objects[*id].what, What::Symlink(led) if led == target);
            if !self.led(path).iter().any(was) {
                wrong.push(Wrong::new(Class::WrongKind, format!("{path} is a symlink to {target} and never was")));
            }
        }
    }

    /// Checks that each database is whole, and in a state that it was in while the snapshot was taken.
    fn databases(&self, restored: &Restored, wrong: &mut Vec<Wrong>) {
        let record = |path: &str| {
            let all = self.report["databases"].as_array().into_iter().flatten();
            all.clone().find(|record| record["path"] == path).cloned().unwrap_or_default()
        };
        for (path, state) in &restored.databases {
            let record = record(path);
            let databases = || self.led(path).iter().filter_map(|id| self.history.database(*id));
            match state {
                // It was said that it is not sound.
                Err(_) if !record["check"]["failed"].is_null() => {}
                Err(why) => {
                    let raw = record["taken"] == "raw" || databases().any(|database| database.cut_off);
                    let class = if raw { self.raw_broken(path) } else { Class::DatabaseBroken };
                    wrong.push(Wrong::new(class, format!("{path}: {why}; it was taken so: {record}")));
                }
                Ok((number, serial)) => {
                    let Some(database) = databases().find(|database| database.number == *number) else {
                        wrong.push(Wrong::new(Class::Foreign, format!("{path} is another database, {number}")));
                        continue;
                    };
                    if !since(&database.commits, self.capture.began).any(|commit| commit == serial) {
                        let old = database.commits.iter().any(|(_, commit)| commit == serial);
                        let class = match old {
                            true => Class::DatabaseOld,
                            false if record["taken"] == "raw" => self.raw_broken(path),
                            false => Class::DatabaseBroken,
                        };
                        let said = format!("{path} is in the state {serial} of {:?}: {record}", database.commits);
                        wrong.push(Wrong::new(class, said));
                    }
                }
            }
        }
    }

    fn raw_broken(&self, path: &str) -> Class {
        let said = |side| self.warnings().any(|said| said.starts_with(&format!("{path}{side} ")));
        match () {
            () if SIDES.iter().any(said) => Class::RawApart,
            () if self.capture.stable.contains_key(path) => Class::RawBroken,
            () => Class::RawMovedBroken,
        }
    }

    /// Checks that everything in it comes from one data directory.
    fn unmixed(&self, restored: &Restored, wrong: &mut Vec<Wrong>) {
        let mut owners: HashMap<Id, Vec<&str>> = HashMap::new();
        let empty = Hash::of(b"");
        for (path, (hash, _)) in restored.files.iter().filter(|(_, (hash, _))| *hash != empty) {
            let owner = self.history.contents.get(hash).and_then(|id| self.capture.owner.get(id));
            owner.into_iter().for_each(|owner| owners.entry(*owner).or_default().push(path));
        }
        if owners.len() > 1 {
            let class = if self.report["good"] == true { Class::Mixed } else { Class::PartialMixed };
            wrong.push(Wrong::new(class, format!("it comes from {} data directories: {owners:?}", owners.len())));
        }
    }

    /// Checks that everything is there that was there all the time.
    fn complete(&self, restored: &Restored, torn: &HashSet<String>, wrong: &mut Vec<Wrong>) {
        let Capture { began, stable, present, names, .. } = self.capture;
        let restless: Vec<_> = self
            .warnings()
            .filter(|said| said.contains(NEVER_RESTS))
            .filter_map(|said| said.split(": ").next())
            .map(|folder| if folder == "." { "" } else { folder })
            .collect();
        let missing: HashSet<_> = self.listed("errors").collect();
        let told = |path: &str| restored.stale.contains(path) || missing.iter().any(|item| is_in(path, item));
        let excused = |path: &str| told(path) || restless.iter().any(|folder| is_in(path, folder));
        let there = |path: &str, id: Id| match &self.history.objects[id].what {
            What::Folder(_) => path.is_empty() || restored.folders.contains(path),
            What::Symlink(target) => restored.symlinks.get(path) == Some(target),
            What::File(_) => match restored.files.get(path) {
                Some((hash, _)) => {
                    let held = || self.history.held(id, hash, *began);
                    torn.contains(path) || held() || self.is_unseen(path, hash).is_some()
                }
                None => false,
            },
            // The file that holds it was looked at already.
            What::Database(_) => restored.databases.contains_key(path),
        };
        for (path, id) in stable.iter().filter(|(path, id)| !there(path, **id) && !excused(path)) {
            // A file beside a database follows the decision for its database.
            if self.beside(path) || restored.files.contains_key(path) {
                continue;
            }
            let warned: Vec<_> = self.warnings().filter(|said| said.starts_with(path.as_str())).collect();
            let what = format!("{path} (object {id}) was there all the time and is missing; warnings: {warned:?}");
            wrong.push(Wrong::new(Class::Missing, what));
        }
        for id in present.iter().filter(|id| self.history.children(**id).is_none()) {
            let Some(names) = names.get(id).filter(|names| names.len() > 1) else { continue };
            let moved = !names.iter().any(|path| stable.get(path) == Some(id));
            let unchanged = self.history.unchanged(*id, *began);
            if !moved || !unchanged || names.iter().any(|path| there(path, *id) || excused(path) || self.beside(path)) {
                continue;
            }
            let whole = names.iter().map(|path| split(path).1).collect::<BTreeSet<_>>().len() == 1;
            let class = match names.len() {
                3.. => Class::MovedAgain,
                _ if whole => Class::MovedFolder,
                _ => Class::MovedFile,
            };
            let inode = self.history.objects[*id].inode;
            let what = format!("object {id} (inode {inode}) was there all the time, as {names:?}, and is missing");
            wrong.push(Wrong::new(class, what));
        }
    }

    /// Whether a path is that of something beside what is, or was, a database.
    fn beside(&self, path: &str) -> bool {
        SIDES.iter().filter_map(|side| path.strip_suffix(side)).any(|database| !self.led(database).is_empty())
    }
}

/// Returns the number and the serial of a database, after SQLite has recovered it.
pub fn state_of(path: &Path) -> Result<(i64, i64), String> {
    let db = Connection::open(path).map_err(|why| why.to_string())?;
    let ask = || -> rusqlite::Result<(String, i64, i64, i64)> {
        let said = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let sum = db.query_row("SELECT sum(x) FROM accounts", [], |row| row.get(0))?;
        let (number, serial) =
            db.query_row("SELECT number, serial FROM state", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((said, sum, number, serial))
    };
    match ask().map_err(|why| why.to_string())? {
        (said, ..) if said != "ok" => Err(said.chars().take(200).collect()),
        (_, sum, ..) if sum != SUM => Err(format!("its accounts hold {sum}")),
        (_, _, number, serial) => Ok((number, serial)),
    }
}
