//! The side files of a database that lie in the target: moved aside before a restored database takes the old one's place.
//!
//! SQLite plays a `-wal` or a hot `-journal` that it finds beside a database into it, and does not ask whether they belong
//! together. One that is left over beside a restored database brings the old data back, and `integrity_check` says ok.
//! Where a whole folder is exchanged, or a target filled in place, they go with everything else; this is for the files
//! that are put back one by one.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, openat};

use super::lacking::sync_folder;
use crate::backup::sqlite::beside::SUFFIXES;
use crate::backup::sqlite::header::MAGIC;
use crate::error::{Doing, Error, Result};
use crate::fs::{SAFE, Spot, rename};
use crate::vault::path::EntryPath;

/// How its side files begin: a journal that is hot, and write-ahead logs of both byte orders.
const MARKS: [&[u8]; 3] =
    [&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7], &[0x37, 0x7f, 0x06, 0x82], &[0x37, 0x7f, 0x06, 0x83]];

/// The entries that are side files of the database `path`, if it is one.
pub fn sides(path: &EntryPath) -> impl Iterator<Item = EntryPath> {
    // A name that grows too long for an entry is none's.
    SUFFIXES.iter().filter_map(|side| EntryPath::new([path.bytes(), side.as_bytes()].concat()).ok())
}

/// What was moved aside for one database, and can be moved back as long as the database is not there.
#[derive(Debug)]
pub struct Cleared {
    database: OsString,
    /// Where each was and is.
    moved: Vec<(Spot, Spot)>,
}

impl Cleared {
    /// Whether nothing was moved.
    pub fn is_empty(&self) -> bool {
        self.moved.is_empty()
    }

    /// Where each side file was.
    pub fn sides(&self) -> impl Iterator<Item = PathBuf> {
        self.moved.iter().filter(|(from, _)| from.name != self.database).map(|(from, _)| from.path())
    }

    /// Moves all back, the first of them last. Adds to `why`, for which it is done, what stays where it is.
    pub fn undo(self, mut why: Error) -> Error {
        for (from, to) in self.moved.iter().rev() {
            if let Err(stays) = rename(to, from) {
                let (was, is) = (from.path(), to.path());
                let stays = std::io::Error::from(stays);
                let place = format!("{} is now {} and could not be moved back: {stays}.", was.display(), is.display());
                why = match why.advice() {
                    Some(advice) => {
                        let both = format!("{advice}\n  {place}");
                        why.hint(both)
                    }
                    None => why.hint(place),
                };
            }
        }
        why
    }
}

/// Moves the side files of the database `at` to beside `aside`, which is where that database itself will go, if the file
/// `new` that takes its place is a database, or one of them is SQLite's by its content. With `itself`, `at` is moved as
/// well: for a database that brings side files of its own, which must not lie beside the old one for a moment.
///
/// # Errors
/// What the system refuses; nothing is moved then.
pub fn clear(new: &Spot, at: &Spot, aside: &dyn Fn() -> Result<Spot>, itself: bool) -> Result<Cleared> {
    let named = |of: &Spot, side: &str| {
        let mut name = of.name.clone();
        name.push(side);
        Spot::new(&of.folder, name)
    };
    let mut wanted: Vec<_> = SUFFIXES.to_vec();
    if itself {
        wanted.push("");
    }
    wanted.retain(|side| matches!(named(at, side).look(), Ok(Some(_))));
    let mut cleared = Cleared { database: at.name.clone(), moved: Vec::new() };
    let is_database =
        || may_begin_with(new, &[MAGIC]) || wanted.iter().any(|side| may_begin_with(&named(at, side), &MARKS));
    if wanted.is_empty() || !is_database() {
        return Ok(cleared);
    }
    let aside = aside()?;
    for side in wanted {
        let (from, to) = (named(at, side), named(&aside, side));
        let doing = || format!("move {} aside, which belongs to the database that was there", from.path().display());
        if let Err(why) = rename(&from, &to).doing(doing) {
            return Err(cleared.undo(why));
        }
        cleared.moved.push((from, to));
    }
    // In this order: a crash leaves them in one of both folders, and never beside the new database.
    for folder in [&aside.folder, &at.folder] {
        if let Err(why) = sync_folder(folder) {
            return Err(cleared.undo(why));
        }
    }
    Ok(cleared)
}

/// Whether a file begins with one of `marks`; of a file that cannot be read it is taken that it does.
fn may_begin_with(file: &Spot, marks: &[&[u8]]) -> bool {
    // Opening a fifo would wait for somebody to write into it.
    let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
    if !file.look().is_ok_and(|stat| stat.is_some_and(|stat| is_file(stat.st_mode))) {
        return false;
    }
    let begin = || -> io::Result<Vec<u8>> {
        let mut begin = Vec::with_capacity(MAGIC.len());
        let file = openat(&file.folder, &file.name, SAFE | OFlags::RDONLY, Mode::empty())?;
        File::from(file).take(MAGIC.len() as u64).read_to_end(&mut begin)?;
        Ok(begin)
    };
    begin().map_or(true, |begin| marks.iter().any(|mark| begin.starts_with(mark)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::fs::Folder;
    use crate::restore::sample::{Sample, context};
    use crate::restore::tests::options;
    use crate::restore::{Options, restore};
    use crate::vault::entry::{Database, Taken};
    use crate::vault::root::State;

    const DATABASE: &[u8] = MAGIC;

    /// A target with a database `a` and all side files, and an empty folder for what moves aside.
    fn target() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("target/a");
        fs::create_dir(folder.path().join("target")).unwrap();
        for name in ["a", "a-journal", "a-wal", "a-shm", "a-walrus", "b-wal"] {
            fs::write(at.with_file_name(name), name).unwrap();
        }
        let aside = folder.path().join("aside/deep/a");
        (folder, at, aside)
    }

    fn spot(path: &Path) -> Spot {
        Spot::new(&Arc::new(Folder::open(path.parent().unwrap()).unwrap()), path.file_name().unwrap())
    }

    /// As the restore does it: the folders above what moves aside are made.
    fn clear_at(new: &Path, at: &Path, aside: &Path, itself: bool) -> Result<Cleared> {
        let make = || {
            fs::create_dir_all(aside.parent().unwrap()).unwrap();
            Ok(spot(aside))
        };
        clear(&spot(new), &spot(at), &make, itself)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).map(|entries| entries.map(|e| e.unwrap().file_name()).collect::<Vec<_>>());
        let mut names: Vec<_> = entries.unwrap_or_default().iter().map(|n| n.to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_belongs_to_a_database_is_moved() {
        for (content, mark, itself, moved) in [
            (DATABASE, &b"x"[..], false, &["a-journal", "a-shm", "a-wal"][..]),
            (DATABASE, b"x", true, &["a", "a-journal", "a-shm", "a-wal"]),
            (b"some text", b"x", false, &[]),
            (b"some text", MARKS[1], false, &["a-journal", "a-shm", "a-wal"]),
        ] {
            let (folder, at, aside) = target();
            let new = folder.path().join("new");
            fs::write(&new, content).unwrap();
            fs::write(at.with_file_name("a-wal"), mark).unwrap();
            let before = names(at.parent().unwrap());
            let cleared = clear_at(&new, &at, &aside, itself).unwrap();
            assert_eq!(names(aside.parent().unwrap()), moved);
            assert_eq!(cleared.sides().count(), moved.len() - usize::from(itself));
            let why = cleared.undo(Error::failed("put it", "no"));
            assert_eq!((names(at.parent().unwrap()), why.advice()), (before, None));
        }
    }

    #[test]
    fn what_cannot_be_moved_is_told_and_the_rest_moved_back() {
        let (folder, at, aside) = target();
        let new = folder.path().join("new");
        fs::write(&new, DATABASE).unwrap();
        let before = names(at.parent().unwrap());
        fs::create_dir_all(aside.parent().unwrap()).unwrap();
        fs::write(aside.with_file_name("a-shm"), "in the way").unwrap();
        let said = clear_at(&new, &at, &aside, false).unwrap_err().to_string();
        assert!(said.contains("a-shm"), "{said}");
        assert_eq!(names(at.parent().unwrap()), before);

        fs::remove_file(aside.with_file_name("a-shm")).unwrap();
        let cleared = clear_at(&new, &at, &aside, false).unwrap();
        fs::write(at.with_file_name("a-wal"), "a new one").unwrap();
        let why = cleared.undo(Error::failed("put it", "no").hint("Do that."));
        let advice = why.advice().unwrap();
        assert!(advice.starts_with("Do that.") && advice.contains("aside/deep/a-wal"), "{advice}");
        assert_eq!(names(aside.parent().unwrap()), ["a-wal"]);
    }

    #[test]
    fn side_files_of_the_snapshot_come_with_their_database() {
        let mut sample = Sample::new();
        for (name, content) in [("a", [DATABASE, b"new"].concat()), ("a-wal", b"new".to_vec()), ("b", b"new".to_vec())]
        {
            sample.file(name, &content);
        }
        for (raw, paths) in [(false, &["b", "a-wal", "a"][..]), (true, &["b", "a"])] {
            let database = Database { taken: Taken::Raw, wal: None, journal: None, check: None };
            sample.entries[1].database = raw.then_some(database);
            sample.commit(State::Complete);
            come_together(&sample, paths);
        }
    }

    fn come_together(sample: &Sample, paths: &[&str]) {
        let (folder, at, _) = target();
        let target = at.parent().unwrap();
        let paths = paths.iter().map(|path| EntryPath::new(*path).unwrap()).collect();
        let report = restore(&sample.vault, &Options { paths, ..options(target) }, &context()).unwrap();
        assert_eq!(names(target), ["a", "a-wal", "a-walrus", "b", "b-wal"]);
        for name in ["a", "a-wal", "b"] {
            assert!(fs::read(target.join(name)).unwrap().ends_with(b"new"), "{name}");
        }
        assert_eq!(names(&report.moved_aside.unwrap()), ["a", "a-journal", "a-shm", "a-wal"]);
        let told: Vec<_> = report.moved_beside.iter().map(EntryPath::to_string).collect();
        assert_eq!(told, ["a-journal", "a-shm", "a-wal"]);
        assert_eq!(names(folder.path()).len(), 2, "staging is left");
    }
}
