//! The app's acts on folders and whole trees.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::app::{App, Change};
use super::files::inode;
use super::history::{Id, What, is_in, join, split};

/// Files that are put into a folder at once.
const FILL: u64 = 250;

/// Exchanges what two paths lead to.
fn swap(a: &Path, b: &Path) {
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

impl App {
    /// Makes a folder, unless there are many.
    pub fn make_folder(&mut self) -> Option<String> {
        if self.all(|_, what| matches!(what, What::Folder(_))).len() > 9 {
            return None;
        }
        let path = self.pick_free(true)?;
        fs::create_dir(self.at(&path)).unwrap();
        let id = self.history.add(What::Folder(Default::default()), inode(&self.at(&path)));
        self.history.put(&path, id);
        Some(path)
    }

    /// Puts many files into a folder.
    pub fn fill(&mut self) -> Option<String> {
        // Once in a while, as each of these files is read and compared.
        if self.crowded() || self.dice.roll(4) > 0 {
            return None;
        }
        let (folder, _) = self.pick_folder(false)?;
        let count = 50 + self.dice.roll(FILL);
        for n in 0..count {
            let path = join(&folder, &format!("n{n:03}"));
            if self.history.look(&path).is_none() {
                // Two with the same size and time could not be told apart in another place; docs/changed-files.md says so.
                let bytes = self.content(40 + n as usize);
                self.make(&path, bytes);
            }
        }
        Some(format!("{folder} with {count} files"))
    }

    /// Removes a folder with all that is in it.
    pub fn remove_tree(&mut self) -> Option<String> {
        let (path, _) = self.pick_folder(false)?;
        self.remove(&path);
        Some(path)
    }

    /// Removes a folder, its names one by one.
    fn remove(&mut self, path: &str) {
        self.close_in(path);
        let mut all = self.all(|other, _| is_in(other, path));
        all.reverse();
        for (path, id) in all {
            match &self.history.objects[id].what {
                What::Folder(_) => {
                    self.remove_folder(&path);
                    self.history.take(&path);
                }
                What::Database(_) => self.remove_database(&path),
                _ => self.unlink(&path),
            }
        }
    }

    /// Removes a folder in which nothing is but what the engine, or one that was killed, has left beside databases.
    fn remove_folder(&mut self, path: &str) {
        let whole = self.at(path);
        for _ in 0..1000 {
            match fs::remove_dir(&whole) {
                Ok(()) => return,
                Err(why) if why.kind() == ErrorKind::DirectoryNotEmpty => {}
                Err(why) => panic!("{}: {why}", whole.display()),
            }
            for left in fs::read_dir(&whole).unwrap() {
                // The engine may have removed it meanwhile.
                let _ = fs::remove_file(left.unwrap().path());
            }
        }
        panic!("{} is never empty", whole.display());
    }

    /// Moves a folder.
    pub fn rename_folder(&mut self) -> Option<String> {
        let (from, _) = self.pick_folder(false)?;
        let to = self.pick_free(true)?;
        if is_in(&to, &from) {
            return None;
        }
        self.move_folder(&from, &to);
        self.changes.push(Change::Renamed(from.clone(), to.clone()));
        Some(format!("{from} to {to}"))
    }

    fn move_folder(&mut self, from: &str, to: &str) {
        self.close_in(from);
        fs::rename(self.at(from), self.at(to)).unwrap();
        self.history.rename(from, to);
    }

    /// Exchanges two folders.
    pub fn exchange_folders(&mut self) -> Option<String> {
        let (a, _) = self.pick_folder(false)?;
        let (b, _) = self.pick_folder(false)?;
        self.exchange(&a, &b)
    }

    /// Exchanges a folder with a symlink that leads out of the data directory.
    pub fn exchange_link(&mut self) -> Option<String> {
        let outside = self.base.join("secret").display().to_string();
        let links = |app: &App| app.all(|_, what| matches!(what, What::Symlink(target) if *target == outside));
        let mut all = links(self);
        if all.is_empty() {
            self.symlink();
            all = links(self);
        }
        let (link, _) = self.pick(all)?;
        let (folder, _) = self.pick_folder(false)?;
        self.exchange(&folder, &link)
    }

    fn exchange(&mut self, a: &str, b: &str) -> Option<String> {
        if is_in(a, b) || is_in(b, a) {
            return None;
        }
        self.close_in(a);
        self.close_in(b);
        swap(&self.at(a), &self.at(b));
        self.history.exchange(a, b);
        self.changes.push(Change::Exchanged(a.to_owned(), b.to_owned()));
        Some(format!("{a} and {b}"))
    }

    /// Takes the newest change back that can be.
    pub fn undo(&mut self) -> Option<String> {
        match self.changes.pop()? {
            Change::Renamed(before, now) => {
                let there = self.history.look(&now).is_some_and(|id| self.history.children(id).is_some());
                let above = self.history.look(split(&before).0).is_some_and(|id| self.history.children(id).is_some());
                if !there || !above || self.history.look(&before).is_some() || is_in(&before, &now) {
                    return None;
                }
                self.move_folder(&now, &before);
                Some(format!("{now} back to {before}"))
            }
            Change::Exchanged(a, b) => {
                let movable = |id: Id| matches!(self.history.objects[id].what, What::Folder(_) | What::Symlink(_));
                let there = |path: &str| self.history.look(path).is_some_and(movable);
                if !there(&a) || !there(&b) {
                    return None;
                }
                let did = self.exchange(&a, &b);
                self.changes.pop();
                did
            }
        }
    }

    /// Makes a directory that may take the place of the data directory.
    pub fn prepare_exchange(&mut self) {
        self.may_exchange_data = true;
        if self.next.is_some() {
            return;
        }
        self.close_in("");
        let (root, data) = (self.history.root, self.data.clone());
        self.data = self.base.join("next");
        fs::create_dir(&self.data).unwrap();
        self.history.root = self.history.add(What::Folder(Default::default()), inode(&self.data));
        self.settle();
        self.close_in("");
        self.next = Some(std::mem::replace(&mut self.history.root, root));
        self.data = data;
    }

    /// Exchanges the data directory with the one that was prepared, where that is allowed.
    pub fn exchange_data(&mut self) -> Option<String> {
        let next = self.next.filter(|_| self.may_exchange_data)?;
        self.close_in("");
        self.changes.clear();
        swap(&self.data, &self.base.join("next"));
        self.next = Some(self.history.root);
        self.history.exchange_root(next);
        Some("data and next".into())
    }
}
