//! Takes back what a restore has done when one of its steps fails.
//!
//! Meanwhile programs may have found what was put into place, including programs of another container, which a restore
//! does not see. Whatever they have changed is theirs and stays; the previous content then stays aside. Nor is a
//! database moved to or from a name beside which a program has made a log: SQLite plays that into whatever has the
//! database's name.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::in_use::users;
use super::killed::is_changed_within;
use super::steps::{FileStamp, StepPath, Steps, UndoStep, stamp};
use crate::error::Error;
use crate::fs::Spot;
use crate::fs::rename::{exchange, rename};
use crate::sqlite::header::MAGIC;
use crate::sqlite::side_files::{MARKS, SUFFIXES, may_begin_with};

/// How an undo ended.
pub struct Undone {
    /// The error that caused it; its advice says what stays where it is.
    pub why: Error,
    /// Whether everything is as it was.
    pub whole: bool,
}

/// Most things left where they are that the advice names.
const NAMED: usize = 8;
const TAKEN: &str = "something else has taken its place";

fn errno_text(why: Errno) -> String {
    std::io::Error::from(why).to_string()
}

/// The names of the side files of a database of this name.
fn sides(at: &StepPath) -> impl Iterator<Item = StepPath> {
    SUFFIXES.iter().map(|side| {
        let mut name = at.as_os_str().to_owned();
        name.push(side);
        StepPath::from(name)
    })
}

impl Steps {
    /// Undoes all steps, the last first, because of the error `why`. A step that touches a name of one that could not
    /// be undone is not undone either: that would lose something.
    pub fn undo(mut self, why: Error) -> Undone {
        let used = self.used();
        let mut stays = Vec::new();
        let mut stuck: HashSet<StepPath> = HashSet::new();
        while let Some(step) = self.done.pop() {
            let touches = step.touches(&stuck);
            let refused = match touches {
                true => Some("something else could not be moved back".to_owned()),
                false => self.take_back(&step, &used).err(),
            };
            if let Some(refused) = refused {
                // On its way into place, the new content passed through the name of the previous content.
                let told = if touches && self.placed(&step).is_some() { None } else { self.describe(&step) };
                stays.extend(told.map(|told| format!("{told}: {refused}.")));
                stuck.extend(step.names().cloned());
            }
        }
        if stuck.is_empty() {
            return Undone { why, whole: true };
        }
        let more = stays.len().saturating_sub(NAMED);
        stays.truncate(NAMED);
        if more > 0 {
            stays.push(format!("The same is true of {more} more."));
        }
        stays.splice(0..0, why.advice().map(str::to_owned));
        Undone { why: why.hint(stays.join(" ")), whole: false }
    }

    fn spot(&self, at: &StepPath) -> Result<Spot, String> {
        let above = at.parent().unwrap_or(Path::new(""));
        let folder = self.base.enter_all(above).map_err(errno_text)?;
        Ok(Spot::new(&Arc::new(folder), at.file_name().unwrap_or_default()))
    }

    /// Returns where a step has put something that was staged, and its stamp. `None` if it put nothing there.
    fn placed<'s>(&self, step: &'s UndoStep) -> Option<(&'s StepPath, &'s FileStamp)> {
        let is_staged = |at: &StepPath| self.staged.as_ref().is_some_and(|(staging, _)| at.starts_with(staging));
        match step {
            UndoStep::Moved(from, to, stamp) => is_staged(from).then_some((to, stamp)),
            UndoStep::Exchanged(_, at, stamp) | UndoStep::Covered(_, at, _, stamp) => Some((at, stamp)),
            UndoStep::Made(_) | UndoStep::Opened(..) | UndoStep::Removed(..) => None,
        }
    }

    /// The files of what was put into place that programs have open, as far as this process may know.
    fn used(&self) -> Vec<PathBuf> {
        let placed = self.done.iter().filter_map(|step| self.placed(step));
        let is_there = |at: &StepPath, placed: &FileStamp| {
            self.spot(at).is_ok_and(|at| stamp(&at).is_ok_and(|now| now.is_same_file(placed)))
        };
        let placed = placed.filter(|(at, placed)| is_there(at, placed));
        let placed: Vec<_> = placed.map(|(at, _)| self.base.path().join(at)).collect();
        users(&placed).into_iter().map(|user| user.file).collect()
    }

    /// Fails unless what was put at a name is still there, unchanged, and no program is seen to use it.
    fn is_as_placed(&self, at: &StepPath, placed: &FileStamp, used: &[PathBuf]) -> Result<(), String> {
        let spot = self.spot(at)?;
        let now = stamp(&spot).map_err(errno_text)?;
        if !now.is_same_file(placed) {
            return Err(TAKEN.to_owned());
        }
        let changed = |(_, since): &(StepPath, (i64, i64))| is_changed_within(&spot, *since);
        if now != *placed || self.staged.as_ref().is_some_and(changed) {
            return Err("it was changed there".to_owned());
        }
        let path = spot.path();
        match used.iter().find(|file| file.starts_with(&path)) {
            Some(file) => Err(format!("a program uses {}", file.display())),
            None => Ok(()),
        }
    }

    /// Fails if a side file lies beside a database of this name that no restore put there, or that was changed since.
    /// `file` is the file that has the name, or had it.
    fn has_own_sides(&self, at: &StepPath, file: &Spot, used: &[PathBuf]) -> Result<(), String> {
        for side in sides(at) {
            let spot = self.spot(&side)?;
            if spot.look().map_err(errno_text)?.is_none()
                || !(may_begin_with(file, &[MAGIC]) || may_begin_with(&spot, &MARKS))
            {
                continue;
            }
            let put = self.done.iter().rev().find(|step| matches!(step, UndoStep::Moved(_, to, _) if *to == side));
            let Some(UndoStep::Moved(_, _, put_there)) = put else {
                return Err(format!("a program has made {} beside it", spot.path().display()));
            };
            match put.and_then(|step| self.placed(step)) {
                Some((side, placed)) => self.is_as_placed(side, placed, used)?,
                None if stamp(&spot).is_ok_and(|now| now.is_same_file(put_there)) => {}
                None => return Err(format!("a program has made {} beside it", spot.path().display())),
            }
        }
        Ok(())
    }

    /// Undoes a step.
    fn take_back(&self, step: &UndoStep, used: &[PathBuf]) -> Result<(), String> {
        if let Some((at, placed)) = self.placed(step) {
            self.is_as_placed(at, placed, used)?;
            self.has_own_sides(at, &self.spot(at)?, used)?;
        }
        match step {
            UndoStep::Made(at) => {
                let at = self.spot(at)?;
                at.folder.remove_folder(&at.name).map_err(errno_text)
            }
            UndoStep::Moved(at, to, moved) => {
                let (from, to) = (self.spot(at)?, self.spot(to)?);
                // Whatever took its place meanwhile is not ours to move.
                if !stamp(&to).map_err(errno_text)?.is_same_file(moved) {
                    return Err(TAKEN.to_owned());
                }
                self.has_own_sides(at, &to, used)?;
                rename(&to, &from).map_err(errno_text)
            }
            UndoStep::Exchanged(new, old, _) => exchange(&self.spot(new)?, &self.spot(old)?).map_err(errno_text),
            UndoStep::Covered(was, is, attributes, _) => {
                let (was, is) = (self.spot(was)?, self.spot(is)?);
                rename(&is, &was).map_err(errno_text)?;
                let made = is.folder.make(&is.name, 0o700);
                made.and_then(|made| attributes.apply_to(&made)).map_err(errno_text)
            }
            UndoStep::Opened(at, attributes) => {
                self.base.enter_all(at).and_then(|folder| attributes.apply_to(&folder)).map_err(errno_text)
            }
            UndoStep::Removed(at, attributes) => {
                let at = self.spot(at)?;
                let made = at.folder.make(&at.name, 0o700);
                made.and_then(|made| attributes.apply_to(&made)).map_err(errno_text)
            }
        }
    }

    /// Describes what it means if a step is not undone. `None` if that does not matter.
    fn describe(&self, step: &UndoStep) -> Option<String> {
        let shown = |at: &StepPath| self.base.path().join(at).display().to_string();
        let moved = |was, is| Some(format!("{} is now {} and was not moved back", shown(was), shown(is)));
        match step {
            UndoStep::Made(_) | UndoStep::Opened(..) => None,
            // The entry that was at the second name is the one that somebody looks for.
            UndoStep::Exchanged(is, was, _) => moved(was, is),
            UndoStep::Moved(_, at, _) if self.placed(step).is_some() => {
                Some(format!("{} was restored and stays", shown(at)))
            }
            UndoStep::Moved(was, is, _) => moved(was, is),
            UndoStep::Covered(_, at, ..) | UndoStep::Removed(at, _) => {
                Some(format!("{} could not be made again as it was", shown(at)))
            }
        }
    }
}

impl UndoStep {
    /// The names that the step changed.
    fn names(&self) -> impl Iterator<Item = &StepPath> {
        let (first, second) = match self {
            UndoStep::Made(at) | UndoStep::Opened(at, _) | UndoStep::Removed(at, _) => (at, None),
            UndoStep::Moved(from, to, _) | UndoStep::Exchanged(from, to, _) | UndoStep::Covered(from, to, ..) => {
                (from, Some(to))
            }
        };
        std::iter::once(first).chain(second)
    }

    /// Whether one of its names, or the database that one lies beside, is among the names of steps that could not be
    /// undone. A log that came to lie beside another database would be played into that.
    fn touches(&self, stuck: &HashSet<StepPath>) -> bool {
        let is_stuck = |at: &StepPath| {
            let database = |side: &&str| {
                let name = at.as_os_str().as_bytes().strip_suffix(side.as_bytes())?;
                stuck.get(Path::new(OsStr::from_bytes(name)))
            };
            stuck.contains(at) || SUFFIXES.iter().find_map(database).is_some()
        };
        self.names().any(is_stuck)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::fs::Folder;
    use crate::restore::steps::{FolderAttributes, outwards};

    #[test]
    fn all_is_undone_in_reverse_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = Arc::new(Folder::open(folder.path()).unwrap());
        let spot = |name: &str| Spot::new(&at, name);
        fs::create_dir_all(folder.path().join("image/deep")).unwrap();
        fs::write(folder.path().join("image/deep/file"), "deep").unwrap();
        for name in ["a", "b", "c"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("empty")).unwrap();
        fs::set_permissions(folder.path().join("empty"), fs::Permissions::from_mode(0o751)).unwrap();
        let mut steps = Steps::below(&at);
        let made = steps.make(&spot("made")).unwrap();
        steps.rename(&spot("a"), &Spot::new(&made, "a")).unwrap();
        steps.exchange(&spot("b"), &spot("c")).unwrap();
        let attributes = FolderAttributes::read(&spot("empty").enter().unwrap()).unwrap();
        at.remove_folder("empty").unwrap();
        steps.done.push(UndoStep::Removed("empty".into(), attributes));
        // As a folder that its filesystem does not rename: entry by entry, then it is removed.
        let (old, new) = (Arc::new(spot("image").enter().unwrap()), steps.make(&spot("shifted")).unwrap());
        let attributes = FolderAttributes::read(&old).unwrap();
        steps.rename(&Spot::new(&old, "deep"), &Spot::new(&new, "deep")).unwrap();
        at.remove_folder("image").unwrap();
        steps.done.push(UndoStep::Removed("image".into(), attributes));
        let Undone { why, whole } = steps.undo(Error::failed("put it", "no"));
        assert!(whole && why.advice().is_none());
        for name in ["a", "b", "c"] {
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), name);
        }
        assert_eq!(fs::metadata(folder.path().join("empty")).unwrap().permissions().mode() & 0o777, 0o751);
        assert!(!folder.path().join("made").exists() && !folder.path().join("shifted").exists());
        assert_eq!(fs::read(folder.path().join("image/deep/file")).unwrap(), b"deep");
    }

    #[test]
    fn what_cannot_be_moved_back_is_told_and_no_log_goes_beside_another_database() {
        let folder = tempfile::tempdir().unwrap();
        let at = Arc::new(Folder::open(folder.path()).unwrap());
        let spot = |name: &str| Spot::new(&at, name);
        for name in ["a", "a-wal", "b"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let mut steps = Steps::below(&at);
        for name in outwards(&at).unwrap() {
            let mut aside = name.clone();
            aside.push(".aside");
            steps.rename(&Spot::new(&at, &name), &Spot::new(&at, aside)).unwrap();
        }
        fs::write(folder.path().join("a"), "another").unwrap();
        let Undone { why, whole } = steps.undo(Error::failed("put it", "no").hint("Do that."));
        assert!(!whole);
        let advice = why.advice().unwrap();
        assert!(
            advice.starts_with("Do that.") && advice.contains("a.aside") && advice.contains("a-wal.aside"),
            "{advice}"
        );
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"another");
        assert!(folder.path().join("b").exists() && !folder.path().join("a-wal").exists());
        // Nothing is replaced.
        assert_eq!(Steps::below(&at).rename(&spot("b"), &spot("a")), Err(Errno::EXIST));
    }

    /// Everything that was put in the place of something, or of nothing, is looked at before it is taken back.
    #[test]
    fn what_a_program_has_changed_or_uses_stays_where_it_was_put() {
        let magic = |text: &str| [MAGIC.as_slice(), text.as_bytes()].concat();
        type Meanwhile<'a> = &'a dyn Fn(&Path) -> Option<std::process::Child>;
        let quietly = |done: std::io::Result<()>| {
            done.unwrap();
            None
        };
        let opened = |at: &Path| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "exec 3<\"$1\"; echo y; read x", "sh"]).arg(at);
            let child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = child.spawn().unwrap();
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 2]).unwrap();
            Some(child)
        };
        let cases: [(&str, bool, Meanwhile); 8] = [
            ("file", true, &|_| None),
            ("file", false, &|at| quietly(fs::write(at.join("file"), "of the app"))),
            ("folder", true, &|_| None),
            ("folder", false, &|at| quietly(fs::write(at.join("folder/of the app"), ""))),
            ("folder", false, &|at| quietly(fs::write(at.join("folder/deep/file"), "of the app"))),
            ("folder", false, &|at| opened(&at.join("folder/deep/file"))),
            ("app.db", false, &|at| quietly(fs::write(at.join("app.db-wal"), ""))),
            ("file", true, &|at| quietly(fs::write(at.join("file-wal"), "no log"))),
        ];
        for (n, (name, whole, meanwhile)) in cases.iter().enumerate() {
            for there in [false, true] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().canonicalize().unwrap();
                let make = |at: &str, text: &str| {
                    fs::create_dir_all(path.join(at).join("folder/deep")).unwrap();
                    fs::write(path.join(at).join("folder/deep/file"), text).unwrap();
                    fs::write(path.join(at).join("file"), text).unwrap();
                    fs::write(path.join(at).join("app.db"), magic(text)).unwrap();
                };
                make("staging", "new");
                fs::create_dir(path.join("data")).unwrap();
                if there {
                    make("data", "old");
                }
                let base = Arc::new(Folder::open(&path).unwrap());
                let inside = |at: &str| Spot::new(&Arc::new(base.enter(at).unwrap()), *name);
                let (new, at, aside) = (inside("staging"), inside("data"), Spot::new(&base, "aside"));
                let settled = fs::metadata(path.join("staging/folder/deep/file")).unwrap();
                let since = std::os::unix::fs::MetadataExt::ctime_nsec(&settled);
                let since = (std::os::unix::fs::MetadataExt::ctime(&settled), since + 1);
                std::thread::sleep(std::time::Duration::from_millis(20));
                let mut steps = Steps::below(&base);
                steps.staged = Some(("staging".into(), since));
                if there {
                    steps.rename(&new, &aside).unwrap();
                    steps.exchange(&aside, &at).unwrap();
                } else {
                    steps.rename(&new, &at).unwrap();
                }
                let user = meanwhile(&path.join("data"));
                let undone = steps.undo(Error::failed("put it", "no"));
                if let Some(mut user) = user {
                    user.kill().unwrap();
                    user.wait().unwrap();
                }
                assert_eq!(undone.whole, *whole, "{n} {there}: {}", undone.why);
                // Nothing that a program may have found moves back into the staging folder, which is emptied.
                assert_eq!(new.look().unwrap().is_some(), *whole, "{n} {there}");
                assert_eq!(at.look().unwrap().is_some(), there || !whole, "{n} {there}");
                assert_eq!(aside.look().unwrap().is_some(), there && !whole, "{n} {there}");
                if !whole {
                    let advice = undone.why.advice().unwrap();
                    assert!(advice.contains(&*at.path().to_string_lossy()), "{advice}");
                }
            }
        }
    }

    /// The previous content stays aside if the app has replaced the new content meanwhile, and nothing of either is
    /// lost.
    #[test]
    fn what_came_meanwhile_is_not_moved_and_what_was_there_is_kept() {
        for removed in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let at = Arc::new(Folder::open(folder.path()).unwrap());
            let spot = |name: &str| Spot::new(&at, name);
            for (name, content) in [("a", "old"), ("staged", "new"), ("a-wal", "old log")] {
                fs::write(folder.path().join(name), content).unwrap();
            }
            let mut steps = Steps::below(&at);
            steps.rename(&spot("a-wal"), &spot("aside-wal")).unwrap();
            steps.rename(&spot("staged"), &spot("aside")).unwrap();
            steps.exchange(&spot("aside"), &spot("a")).unwrap();
            fs::remove_file(folder.path().join("a")).unwrap();
            if !removed {
                fs::write(folder.path().join("a"), "the app's").unwrap();
            }
            let Undone { why, whole } = steps.undo(Error::failed("put it", "no"));
            assert!(!whole && why.advice().unwrap().contains("a is now"), "{why}");
            assert_eq!(fs::read(folder.path().join("aside")).unwrap(), b"old");
            assert_eq!(fs::read(folder.path().join("aside-wal")).unwrap(), b"old log");
            assert!(!folder.path().join("staged").exists());
            assert_eq!(folder.path().join("a").exists(), !removed);
        }
    }
}
