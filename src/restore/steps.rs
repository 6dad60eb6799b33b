//! The steps by which a restored tree is put into place, and how they are undone when one of them fails.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid, fchmod, fchown, fstat, futimens};
use rustix::io::{Errno, Result as SystemResult};

use super::attributes;
use super::lacking::{kept, moves_files_only};
use crate::backup::sqlite::beside::SUFFIXES;
use crate::error::{Doing, Error, Result};
use crate::fs::{Folder, Spot, exchange, is_folder, is_mount, rename, rename_over};
use crate::vault::path::Bytes;

/// What a folder looks like, to be given to another one.
pub struct Looks {
    stat: Stat,
    attributes: Vec<(Bytes, Bytes)>,
}

impl Looks {
    /// Those of a folder.
    ///
    /// # Errors
    /// A folder that may not be read.
    pub fn of(folder: &Folder) -> SystemResult<Looks> {
        let open = folder.readable()?;
        Ok(Looks { stat: fstat(&open)?, attributes: attributes::all_of(&open)? })
    }

    /// Gives a folder the owner, attributes, mode and time of another, as far as its filesystem keeps such things.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn give(&self, to: &Folder) -> SystemResult<()> {
        let (folder, was) = (to.readable()?, &self.stat);
        let now = fstat(&folder)?;
        if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid) {
            kept(fchown(&folder, Some(Uid::from_raw(was.st_uid)), Some(Gid::from_raw(was.st_gid))))?;
        }
        attributes::set(&folder, &self.attributes)?;
        kept(fchmod(&folder, Mode::from_raw_mode(was.st_mode & 0o7777)))?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: was.st_atime as _, tv_nsec: was.st_atime_nsec as _ },
            last_modification: Timespec { tv_sec: was.st_mtime as _, tv_nsec: was.st_mtime_nsec as _ },
        };
        kept(futimens(&folder, &times)).map(|_| ())
    }
}

/// Something that was done, and can be undone.
enum Step {
    /// A folder was made.
    Made(Spot),
    /// What was at the first name is at the second one.
    Moved(Spot, Spot),
    /// What was at two names is at the other one.
    Exchanged(Spot, Spot),
    /// An empty folder was removed, which looked like this.
    Removed(Spot, Looks),
    /// What was at the first name took the place of an empty folder, which looked like this.
    Covered(Spot, Spot, Looks),
    /// A folder looked like this, and was made writable.
    Opened(Arc<Folder>, Looks),
}

/// What was done so far, in order. Nothing is ever replaced or removed but folders that are empty.
#[derive(Default)]
pub struct Steps(Vec<Step>);

impl Steps {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Makes a folder writable for the time that something moves out of it or into it, if it is not.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn open_up(&mut self, folder: &Arc<Folder>) -> SystemResult<()> {
        let mode = folder.mode()?;
        if mode & 0o700 != 0o700 {
            let looks = Looks::of(folder)?;
            folder.set_mode(mode | 0o700)?;
            self.0.push(Step::Opened(folder.clone(), looks));
        }
        Ok(())
    }

    /// Makes a folder, which must not exist.
    ///
    /// # Errors
    /// As `mkdirat`.
    pub fn make(&mut self, at: &Spot) -> SystemResult<Arc<Folder>> {
        let made = at.folder.make(&at.name, 0o700);
        if made.is_ok() || matches!(made, Err(why) if why != Errno::EXIST && matches!(at.look(), Ok(Some(_)))) {
            self.0.push(Step::Made(at.clone()));
        }
        made.map(Arc::new)
    }

    /// Renames without replacing anything.
    ///
    /// # Errors
    /// As `renameat`; and when `to` exists.
    pub fn rename(&mut self, from: &Spot, to: &Spot) -> SystemResult<()> {
        let done = rename(from, to);
        // What cannot be given its mode back was moved all the same, and over a network an answer may be lost.
        let moved = || matches!((from.look(), to.look()), (Ok(None), Ok(Some(_))));
        if done.is_ok() || done != Err(Errno::EXIST) && moved() {
            self.0.push(Step::Moved(from.clone(), to.clone()));
        }
        done
    }

    /// Exchanges what lies under two names.
    ///
    /// # Errors
    /// As `renameat2`.
    pub fn exchange(&mut self, one: &Spot, other: &Spot) -> SystemResult<()> {
        exchange(one, other)?;
        self.0.push(Step::Exchanged(one.clone(), other.clone()));
        Ok(())
    }

    /// Puts a folder into the place of an empty one.
    ///
    /// # Errors
    /// As `renameat`; one that is not empty is refused.
    pub fn cover(&mut self, folder: &Spot, empty: &Spot) -> SystemResult<()> {
        let looks = Looks::of(&empty.enter()?)?;
        rename_over(folder, empty)?;
        self.0.push(Step::Covered(folder.clone(), empty.clone(), looks));
        Ok(())
    }

    /// Moves an entry to a free name; a folder that its filesystem does not rename, as one of a container's image, entry by entry.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn shift(&mut self, from: &Spot, to: &Spot) -> Result<()> {
        let doing = || format!("move {} to {}", from.path().display(), to.path().display());
        let why = match self.rename(from, to) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        let folder = matches!(from.look().doing(doing)?, Some(stat) if is_folder(&stat));
        if !folder || !(why == Errno::XDEV || moves_files_only(why)) {
            return Err(why).doing(doing);
        }
        let old = Arc::new(from.enter().doing(doing)?);
        if is_mount(&old).unwrap_or(false) {
            return Err(Error::failed(doing(), "a filesystem is mounted there"));
        }
        let looks = Looks::of(&old).doing(doing)?;
        self.open_up(&old).doing(doing)?;
        let new = self.make(to).doing(doing)?;
        for name in outwards(&old)? {
            self.shift(&Spot::new(&old, &name), &Spot::new(&new, &name))?;
        }
        looks.give(&new).doing(doing)?;
        from.folder.remove_folder(&from.name).doing(doing)?;
        self.0.push(Step::Removed(from.clone(), looks));
        Ok(())
    }

    /// Undoes all, the last first. Gives `why`, for which that is done, with what stays where it is; and whether nothing does.
    pub fn undo(self, why: Error) -> (Error, bool) {
        let mut stays = Vec::new();
        let mut failed: HashSet<PathBuf> = HashSet::new();
        for step in self.0.iter().rev() {
            let (done, told) = step.undo(&failed);
            if let Err(refused) = done {
                let refused = std::io::Error::from(refused);
                stays.push(format!("{told}: {refused}."));
                if let Step::Moved(from, _) = step {
                    failed.insert(from.path());
                }
            }
        }
        if stays.is_empty() {
            return (why, true);
        }
        let places = stays.join("\n  ");
        let both = why.advice().map(|advice| format!("{advice}\n  {places}")).unwrap_or(places);
        (why.hint(both), false)
    }
}

impl Step {
    /// Undoes it, unless a database was in the way that could not be put back; with what it means if that is not done.
    fn undo(&self, failed: &HashSet<PathBuf>) -> (SystemResult<()>, String) {
        match self {
            Step::Made(at) => {
                let done = at.folder.remove_folder(&at.name);
                (done, format!("{} was made and could not be removed", at.path().display()))
            }
            Step::Moved(from, to) => {
                // Beside another database, what belongs to this one would be played into that.
                let alone = SUFFIXES.iter().any(|side| {
                    let database = from.name.as_bytes().strip_suffix(side.as_bytes());
                    database.is_some_and(|name| failed.contains(&from.folder.path().join(OsStr::from_bytes(name))))
                });
                let done = if alone { Err(Errno::EXIST) } else { rename(to, from) };
                let (was, is) = (from.path(), to.path());
                (done, format!("{} is now {} and could not be moved back", was.display(), is.display()))
            }
            Step::Exchanged(one, other) => {
                let (was, is) = (other.path(), one.path());
                let done = exchange(one, other);
                (done, format!("{} is now {} and could not be moved back", was.display(), is.display()))
            }
            Step::Covered(was, is, looks) => {
                let made = rename(is, was).and_then(|()| is.folder.make(&is.name, 0o700));
                (
                    made.and_then(|made| looks.give(&made)),
                    format!("{} could not be made as it was", is.path().display()),
                )
            }
            Step::Opened(folder, looks) => {
                (looks.give(folder), format!("{} could not get its mode back", folder.path().display()))
            }
            Step::Removed(at, looks) => {
                let made = at.folder.make(&at.name, 0o700);
                let done = made.and_then(|made| looks.give(&made));
                (done, format!("{} could not be made anew as it was", at.path().display()))
            }
        }
    }
}

/// The names in a folder in the order in which they leave it: what lies beside a database before the database. Whoever opens one
/// without its log meanwhile finds no database there, and not an older one.
///
/// # Errors
/// A folder that cannot be read.
pub fn outwards(folder: &Folder) -> Result<Vec<std::ffi::OsString>> {
    let mut names = folder.names().doing(|| format!("read the folder {}", folder.path().display()))?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn all_is_undone_in_reverse_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = Arc::new(Folder::open(folder.path()).unwrap());
        let spot = |name: &str| Spot::new(&at, name);
        for name in ["a", "b", "c"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("empty")).unwrap();
        fs::set_permissions(folder.path().join("empty"), fs::Permissions::from_mode(0o751)).unwrap();
        let mut steps = Steps::default();
        let made = steps.make(&spot("made")).unwrap();
        steps.rename(&spot("a"), &Spot::new(&made, "a")).unwrap();
        steps.exchange(&spot("b"), &spot("c")).unwrap();
        let looks = Looks::of(&spot("empty").enter().unwrap()).unwrap();
        at.remove_folder("empty").unwrap();
        steps.0.push(Step::Removed(spot("empty"), looks));
        let (why, whole) = steps.undo(Error::failed("put it", "no"));
        assert!(whole && why.advice().is_none());
        for name in ["a", "b", "c"] {
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), name);
        }
        assert_eq!(fs::metadata(folder.path().join("empty")).unwrap().permissions().mode() & 0o777, 0o751);
        assert!(!folder.path().join("made").exists());
    }

    #[test]
    fn what_cannot_be_moved_back_is_told_and_no_log_goes_beside_another_database() {
        let folder = tempfile::tempdir().unwrap();
        let at = Arc::new(Folder::open(folder.path()).unwrap());
        let spot = |name: &str| Spot::new(&at, name);
        for name in ["a", "a-wal", "b"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let mut steps = Steps::default();
        for name in outwards(&at).unwrap() {
            let mut aside = name.clone();
            aside.push(".aside");
            steps.rename(&Spot::new(&at, &name), &Spot::new(&at, aside)).unwrap();
        }
        fs::write(folder.path().join("a"), "another").unwrap();
        let (why, whole) = steps.undo(Error::failed("put it", "no").hint("Do that."));
        assert!(!whole);
        let advice = why.advice().unwrap();
        assert!(
            advice.starts_with("Do that.") && advice.contains("a.aside") && advice.contains("a-wal.aside"),
            "{advice}"
        );
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"another");
        assert!(folder.path().join("b").exists() && !folder.path().join("a-wal").exists());
        // Nothing is replaced.
        assert_eq!(Steps::default().rename(&spot("b"), &spot("a")), Err(Errno::EXIST));
    }
}
