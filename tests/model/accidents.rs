//! Accidents of the data directory, without the app: it is emptied, moved, mounted again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::app::App;
use super::databases::{SIDES, beside};
use super::files::inode;
use super::history::{Id, What, split};
use super::oracle::state_of;

/// Something that takes most of the data directory away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// Nothing is left.
    Emptied,
    /// Less than a tenth of the entries is left.
    Tenth,
    /// A database is gone.
    Database,
    /// The directory is another one, which has less than half of the entries.
    Half,
}

/// Content that an accident took away.
#[derive(Debug)]
pub struct Aside {
    path: String,
    id: Id,
    /// Where it lies.
    at: PathBuf,
}

impl App {
    /// Makes an accident happen; returns what it took, or `None` if there is nothing that it could take.
    pub fn befall(&mut self, accident: Accident) -> Option<String> {
        self.close_in("");
        match accident {
            Accident::Emptied => self.keep_only(1),
            Accident::Tenth => {
                let count = self.all(|_, _| true).len();
                self.keep_only((count as u64 / 10).max(2));
            }
            Accident::Half => {
                self.move_data(false);
                let count = self.all(|_, _| true).len();
                self.keep_only((count as u64 / 2).max(2));
            }
            Accident::Database => {
                let all = self.all(|_, what| matches!(what, What::Database(_)));
                let (path, _) = self.pick(all)?;
                self.put_aside(&path);
            }
        }
        Some(format!("{accident:?} takes {:?}", self.aside.iter().map(|aside| &aside.path).collect::<Vec<_>>()))
    }

    /// Puts aside what is at the top, until fewer entries than `fewer` are left, or only the directory itself. Small things
    /// stay rather than large ones, and files, which somebody may use, rather than others of their size.
    fn keep_only(&mut self, fewer: u64) {
        let top: Vec<_> = self.history.children(self.history.root).into_iter().flatten().collect();
        let rank = |id: Id| (self.history.size(id), self.history.file(id).is_none());
        let mut top: Vec<_> = top.into_iter().map(|(name, id)| (rank(*id), name.clone())).collect();
        top.sort();
        let mut left = 1;
        for ((size, _), name) in top {
            match left + size < fewer {
                true => left += size,
                false => self.put_aside(&name),
            }
        }
        // Files that the engine, or an app that died, has left beside databases go as well.
        for found in fs::read_dir(&self.data).unwrap() {
            let found = found.unwrap();
            if found.file_name() == ".lastgood" {
                continue;
            }
            if self.history.look(found.file_name().to_str().unwrap()).is_none() && self.is_leftover(&found.path()) {
                fs::remove_file(found.path()).unwrap();
            }
        }
    }

    /// Whether something that no act made lies beside no database.
    fn is_leftover(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap();
        !SIDES.iter().any(|side| name.strip_suffix(side).is_some_and(|database| self.history.look(database).is_some()))
    }

    fn put_aside(&mut self, path: &str) {
        let folder = self.base.join("aside");
        fs::create_dir_all(&folder).unwrap();
        let at = folder.join(self.serial().to_string());
        let id = self.history.look(path).unwrap();
        fs::rename(self.at(path), &at).unwrap();
        if matches!(self.history.objects[id].what, What::Database(_)) {
            for side in SIDES {
                // Mostly there is none.
                let _ = fs::rename(beside(&self.at(path), side), beside(&at, side));
            }
        }
        self.history.put_aside(path);
        self.aside.push(Aside { path: path.to_owned(), id, at });
    }

    /// Puts back what was taken away, as far as nothing else is in its place by now.
    pub fn bring_back(&mut self) -> String {
        let mut back = Vec::new();
        for Aside { path, id, at } in std::mem::take(&mut self.aside) {
            let above = self.history.look(split(&path).0).is_some_and(|id| self.history.children(id).is_some());
            let taken = |path: &str| self.history.look(path).is_some();
            let database = matches!(self.history.objects[id].what, What::Database(_));
            let sides = || SIDES.iter().any(|side| taken(&format!("{path}{side}")));
            // The file would take the place of the journal of a database that came meanwhile, which is broken without it.
            let is_beside = || self.history.is_beside_database(&path);
            if !above || taken(&path) || database && sides() || is_beside() {
                continue;
            }
            if database {
                self.remove_sides(&path);
                for side in SIDES {
                    // As above.
                    let _ = fs::rename(beside(&at, side), beside(&self.at(&path), side));
                }
            }
            fs::rename(at, self.at(&path)).unwrap();
            self.history.bring_back(&path, id);
            back.push(path);
        }
        format!("{back:?} is there again")
    }

    /// Moves all to another folder, as onto another machine or volume: names, contents and times stay, numbers do not. `aside`:
    /// its path is another one, too.
    pub fn move_data(&mut self, aside: bool) {
        self.close_in("");
        let name = format!("data{}", self.serial());
        let to = self.base.join(name);
        let copied = Command::new("cp").arg("-a").arg(&self.data).arg(&to).status().unwrap();
        assert!(copied.success());
        match aside {
            true => {
                fs::remove_dir_all(&self.data).unwrap();
                self.data = to;
            }
            false => {
                // The one before is there until the new one is, and lends it no inode number.
                let before = self.base.join("before");
                fs::rename(&self.data, &before).unwrap();
                fs::rename(&to, &self.data).unwrap();
                fs::remove_dir_all(before).unwrap();
            }
        }
        *self.moves.entry(self.history.root).or_default() += 1;
        for (path, id) in self.all(|_, _| true) {
            self.history.objects[id].inode = inode(&self.at(&path));
        }
    }

    /// Changes a file so that neither its length nor its time shows it, as tools do that set times back.
    pub fn change_unseen(&mut self) -> Option<String> {
        let mut all = self.all(|_, what| matches!(what, What::File(file) if !file.bytes.is_empty()));
        all.retain(|(_, id)| self.history.objects[*id].names == 1);
        let (path, id) = self.pick(all)?;
        let whole = self.at(&path);
        let before = self.history.file(id)?.bytes.len();
        let modified = fs::metadata(&whole).unwrap().modified().unwrap();
        let bytes = self.content(before);
        fs::write(&whole, &bytes).unwrap();
        fs::File::options().write(true).open(&whole).unwrap().set_modified(modified).unwrap();
        self.history.change_unseen(id, bytes);
        Some(format!("{path} is changed unseen"))
    }

    /// Has somebody use the directory: a file gets the current time, by a clock that is this many seconds ahead.
    pub fn touch(&mut self, ahead: i64) -> Option<String> {
        let (path, _) = self.pick_file()?;
        let now = SystemTime::now() + Duration::from_secs(ahead.unsigned_abs());
        fs::File::options().write(true).open(self.at(&path)).unwrap().set_modified(now).unwrap();
        Some(format!("{path} is touched"))
    }
}

#[test]
fn what_comes_back_leaves_databases_their_journals() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = App::new(folder.path().to_owned(), 1);
    app.befall(Accident::Emptied);
    app.aside.clear();
    for name in ["k.db", "k.db-journal", "x", "x-journal"] {
        let bytes = app.content(2_000);
        app.make(name, bytes);
    }
    app.befall(Accident::Emptied);
    app.leave_cut_off("x", "delete");
    app.bring_back();
    let database = app.history.database(app.history.look("x").unwrap()).unwrap();
    let (_, committed) = database.commits[0];
    assert_eq!(state_of(&app.at("x")), Ok((database.number, committed)));
    let there = |name: &str| app.history.look(name).is_some() && app.at(name).exists();
    assert!(there("k.db") && there("k.db-journal") && app.history.look("x-journal").is_none());
}
