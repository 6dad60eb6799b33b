//! Moves the side files of a database that lie in the target aside, before a restored database takes the old one's
//! place.
//!
//! SQLite plays a `-wal` or a hot `-journal` that it finds beside a database into it, and does not ask whether they belong
//! together. One that is left over beside a restored database brings the old data back, and `integrity_check` says ok.
//! Where a whole folder is exchanged, or a target filled in place, they go with everything else; this module is for the
//! files that are put back one by one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::capabilities::sync_folder;
use super::put::Putting;
use crate::error::{Doing, Result};
use crate::fs::{Folder, Spot};
use crate::path::EntryPath;
use crate::sqlite::header::MAGIC;
use crate::sqlite::side_files::{MARKS, SUFFIXES, may_begin_with};

/// The paths of the side files that the entry `path` has if it is a database.
pub fn sides(path: &EntryPath) -> impl Iterator<Item = EntryPath> {
    // If a name grows too long for an entry, no entry has it.
    SUFFIXES.iter().filter_map(|side| EntryPath::new([path.bytes(), side.as_bytes()].concat()).ok())
}

/// Returns the side files that a restore of a file to `at` would move aside, as [`clear`] does. `database` says whether
/// the snapshot's file is a database, which is known only if it was captured as one.
pub fn would_move(at: &Path, database: bool) -> Vec<PathBuf> {
    let Some((folder, name)) = at.parent().zip(at.file_name()) else { return Vec::new() };
    let Ok(folder) = Folder::open(folder) else { return Vec::new() };
    let folder = Arc::new(folder);
    let named = |side: &str| {
        let mut name = name.to_owned();
        name.push(side);
        Spot::new(&folder, name)
    };
    let mut sides: Vec<_> = SUFFIXES.iter().map(|side| named(side)).collect();
    sides.retain(|side| matches!(side.look(), Ok(Some(_))));
    let is_database = || database || may_begin_with(&named(""), &[MAGIC]);
    match is_database() || sides.iter().any(|side| may_begin_with(side, &MARKS)) {
        true => sides.iter().map(Spot::path).collect(),
        false => Vec::new(),
    }
}

/// Moves the side files of the database `at` beside `aside`, which is where that database itself will go, if the file
/// `new` that takes its place is a database, or if one of the side files is SQLite's by its content. With `itself`,
/// `at` is moved as well: for a database that brings side files of its own, which must not lie beside the old one even
/// for a moment. Returns the paths that the side files had.
///
/// # Errors
/// A system call that fails.
pub fn clear(putting: &mut Putting, new: &Spot, at: &Spot, path: &EntryPath, itself: bool) -> Result<Vec<PathBuf>> {
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
    let is_database =
        || may_begin_with(new, &[MAGIC]) || wanted.iter().any(|side| may_begin_with(&named(at, side), &MARKS));
    if wanted.is_empty() || !is_database() {
        return Ok(Vec::new());
    }
    let aside = putting.aside_for(path)?;
    let sides = wanted.iter().filter(|side| !side.is_empty());
    putting.sides = sides.map(|side| (named(at, side), named(&aside, side))).collect();
    // From here on the old database is not whole under its name.
    putting.note(new, at, &aside)?;
    putting.mark_above(at, path)?;
    let mut cleared = Vec::new();
    for side in wanted {
        let (from, to) = (named(at, side), named(&aside, side));
        let doing = || format!("move {} aside, which belongs to the database that was there", from.path().display());
        putting.steps.rename(&from, &to).doing(doing)?;
        if !side.is_empty() {
            cleared.push(from.path());
        }
    }
    // In this order: a crash leaves them in one of the two folders, and never beside the new database.
    sync_folder(&aside.folder)?;
    sync_folder(&at.folder)?;
    Ok(cleared)
}

/// The side files of paths that are put back.
#[derive(Debug, Default)]
pub(crate) struct SideFilePaths {
    /// Side files that the snapshot has, of entries that are or may be databases captured as raw files: without its
    /// side files such a database is not what it was.
    pub(super) there: Vec<EntryPath>,
    /// Side files that the snapshot does not have.
    pub(super) lacking: Vec<EntryPath>,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;

    use super::*;
    use crate::error::Error;
    use crate::restore::killed::{self, Leftover};
    use crate::restore::options::RestoreOptions;
    use crate::restore::restore;
    use crate::restore::sample::{SampleVault, context};
    use crate::restore::stage::StagingFolder;
    use crate::restore::tests::options;
    use crate::vault::entry::{CaptureMethod, Database};
    use crate::vault::root::SnapshotState;

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

    /// Clears what lies beside `at`, whose path is `deep/a`: it goes into `folder`'s `aside`.
    fn cleared(folder: &Path, new: &Path, at: &Path, itself: bool, then: impl FnOnce(Putting, Result<Vec<PathBuf>>)) {
        let ctx = context();
        let mut putting = Putting::new(spot(&folder.join("aside")), Vec::new(), Vec::new(), &ctx);
        let done = clear(&mut putting, &spot(new), &spot(at), &EntryPath::new("deep/a").unwrap(), itself);
        then(putting, done);
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
            cleared(folder.path(), &new, &at, itself, |putting, done| {
                assert_eq!(names(aside.parent().unwrap()), moved);
                assert_eq!(done.unwrap().len(), moved.len() - usize::from(itself));
                let why = putting.undo(Error::failed("put it", "no")).why;
                assert_eq!((names(at.parent().unwrap()), why.advice()), (before, None));
                assert!(!folder.path().join("aside").exists());
            });
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
        cleared(folder.path(), &new, &at, false, |putting, done| {
            let said = putting.undo(done.unwrap_err()).why.to_string();
            assert!(said.contains("a-shm"), "{said}");
            assert_eq!(names(at.parent().unwrap()), before);
        });

        fs::remove_file(aside.with_file_name("a-shm")).unwrap();
        cleared(folder.path(), &new, &at, false, |putting, done| {
            done.unwrap();
            fs::write(at.with_file_name("a-wal"), "a new one").unwrap();
            let why = putting.undo(Error::failed("put it", "no").hint("Do that.")).why;
            let advice = why.advice().unwrap();
            assert!(advice.starts_with("Do that.") && advice.contains("aside/deep/a-wal"), "{advice}");
            assert_eq!(names(aside.parent().unwrap()), ["a-wal"]);
        });
    }

    #[test]
    fn what_a_kill_parts_from_its_database_is_told() {
        for itself in [false, true] {
            let (folder, at, _) = target();
            let target = at.parent().unwrap();
            let base = Folder::open(folder.path()).unwrap();
            let (staging, _) = StagingFolder::make(base, OsStr::new("target"), &context()).unwrap();
            let new = Spot::new(&Arc::new(staging.tree().enter().unwrap()), "a");
            fs::write(new.path(), DATABASE).unwrap();
            let (ctx, path) = (context(), EntryPath::new("a").unwrap());
            let name = "target.replaced-20261121T101112Z";
            let mut putting = Putting::new(Spot::new(staging.base(), name), Vec::new(), vec![path.clone()], &ctx);
            putting.notes = Some(staging.folder().clone());
            clear(&mut putting, &new, &spot(&at), &path, itself).unwrap();
            let aside = putting.aside_for(&path).unwrap();
            if !itself {
                putting.note(&new, &spot(&at), &aside).unwrap();
            }
            // Killed here.
            drop((putting, staging));
            let told = || {
                let mut told: Vec<_> = killed::leftovers(target).iter().map(Leftover::to_string).collect();
                told.sort();
                told
            };
            let of = |name: &str| {
                let (at, aside) = (at.with_file_name(name), aside.path().with_file_name(name));
                format!("{} is what was at {} before a restore that was killed", aside.display(), at.display())
            };
            let mut expected = vec![of("a-journal"), of("a-shm"), of("a-wal")];
            if itself {
                expected.insert(0, of("a"));
            }
            assert_eq!(told(), expected);
            let advice =
                killed::leftovers(target).into_iter().filter(|left| left.advice().contains("only with its database"));
            assert_eq!(advice.count(), SUFFIXES.len());
            if !itself {
                // One step later.
                fs::rename(new.path(), aside.path()).unwrap();
                expected.insert(0, Leftover::New(aside.clone()).to_string());
                assert_eq!(told(), expected);
                fs::rename(aside.path(), new.path()).unwrap();
            }
            fs::rename(new.path(), &at).unwrap();
            assert_eq!(told(), [""; 0], "it is in place");
        }
    }

    #[test]
    fn side_files_of_the_snapshot_come_with_their_database() {
        let mut sample = SampleVault::new();
        for (name, content) in [("a", [DATABASE, b"new"].concat()), ("a-wal", b"new".to_vec()), ("b", b"new".to_vec())]
        {
            sample.file(name, &content);
        }
        // A file of a snapshot that looked for no databases may be one all the same.
        for (raw, paths) in [(false, &["b", "a-wal", "a"][..]), (true, &["b", "a"]), (false, &["b", "a"])] {
            let database = Database { taken: CaptureMethod::Raw, wal: None, journal: None, check: None };
            sample.entries[1].database = raw.then_some(database);
            sample.commit(SnapshotState::Complete);
            come_together(&sample, paths);
        }
    }

    #[test]
    fn a_side_file_that_the_snapshot_lacks_keeps_its_database_from_nothing() {
        let mut sample = SampleVault::new();
        sample.file("a", &[DATABASE, b"new"].concat());
        sample.commit(SnapshotState::Complete);
        let (_folder, at, _) = target();
        let target = at.parent().unwrap();
        let of = |paths: &[&str]| {
            let paths = paths.iter().map(|path| EntryPath::new(*path).unwrap()).collect();
            restore(&sample.vault, &RestoreOptions { paths, ..options(target) }, &context())
        };
        assert!(of(&["a-wal"]).unwrap_err().to_string().contains("no such entry"));
        of(&["a", "a-wal"]).unwrap();
        assert!(fs::read(target.join("a")).unwrap().ends_with(b"new"));
        assert!(!target.join("a-wal").exists());
    }

    fn come_together(sample: &SampleVault, paths: &[&str]) {
        let (folder, at, _) = target();
        let target = at.parent().unwrap();
        let paths = paths.iter().map(|path| EntryPath::new(*path).unwrap()).collect();
        let report = restore(&sample.vault, &RestoreOptions { paths, ..options(target) }, &context()).unwrap();
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
