//! The steps by which a restored tree is put into place, and how they are undone when one of them fails.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Gid, Mode, Stat, StatxFlags, Timespec, Timestamps, Uid, fchmod, fchown, fstat, futimens, makedev, statx,
};
use rustix::io::{Errno, Result as SystemResult};

use super::attributes::Attributes;
use super::lacking::{kept, moves_files_only};
use crate::backup::sqlite::beside::SUFFIXES;
use crate::error::{Doing, Error, Result};
use crate::fs::{Folder, Spot, exchange, is_folder, rename, rename_over};

/// What a folder looks like, to be given to another one.
pub struct Looks {
    stat: Stat,
    attributes: Attributes,
}

impl Looks {
    /// Those of a folder.
    ///
    /// # Errors
    /// A folder that may not be read.
    pub fn of(folder: &Folder) -> SystemResult<Looks> {
        let open = folder.readable()?;
        Ok(Looks { stat: fstat(&open)?, attributes: Attributes::of(&open)? })
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
        self.attributes.give(&folder)?;
        kept(fchmod(&folder, Mode::from_raw_mode(was.st_mode & 0o7777)))?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: was.st_atime as _, tv_nsec: was.st_atime_nsec as _ },
            last_modification: Timespec { tv_sec: was.st_mtime as _, tv_nsec: was.st_mtime_nsec as _ },
        };
        kept(futimens(&folder, &times)).map(|_| ())
    }
}

/// A name below the folder that all is done in; the folder is looked up anew when it is needed, since it may be another one by then.
type At = PathBuf;

/// What has a name: its device, its inode, and when that was made, where its filesystem says so: a number soon comes again.
pub type Identity = (u64, u64, i64, u32);

/// Something that was done, and can be undone.
enum Step {
    /// A folder was made.
    Made(At),
    /// What was at the first name is at the second one.
    Moved(At, At, Identity),
    /// What was at two names is at the other one; this was put at the second.
    Exchanged(At, At, Identity),
    /// What was at the first name took the place of an empty folder, which looked like this.
    Covered(At, At, Looks),
    /// A folder looked like this, and was made writable.
    Opened(At, Looks),
    /// An empty folder was removed, which looked like this.
    Removed(At, Looks),
}

/// What was done so far below one folder, in order. Nothing is ever replaced or removed but folders that are empty.
pub struct Steps {
    base: Arc<Folder>,
    done: Vec<Step>,
    /// Whether something was not moved because it would have gone to another filesystem.
    pub crossed: bool,
}

/// How an undo ended.
pub struct Undone {
    /// The reason for it, with what stays where it is.
    pub why: Error,
    /// Whether all is as it was.
    pub whole: bool,
}

/// So many things that stay are named.
const NAMED: usize = 8;

impl Steps {
    /// Nothing is done yet; all of it will be below `base`.
    pub fn below(base: &Arc<Folder>) -> Self {
        Steps { base: base.clone(), done: Vec::new(), crossed: false }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.done.len()
    }

    fn at(&self, path: &Path) -> At {
        path.strip_prefix(self.base.path()).unwrap_or(path).to_owned()
    }

    fn note(&mut self, step: impl FnOnce(&Self) -> Step) {
        let step = step(self);
        self.done.push(step);
    }

    /// Makes a folder writable for the time that something moves out of it or into it, if it is not.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn open_up(&mut self, folder: &Folder) -> SystemResult<()> {
        let mode = folder.mode()?;
        if mode & 0o700 != 0o700 {
            let looks = Looks::of(folder)?;
            folder.set_mode(mode | 0o700)?;
            self.note(|steps| Step::Opened(steps.at(folder.path()), looks));
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
            self.note(|steps| Step::Made(steps.at(&at.path())));
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
            // One that cannot be told from another one is not moved back.
            let what = identity(to).unwrap_or_default();
            self.note(|steps| Step::Moved(steps.at(&from.path()), steps.at(&to.path()), what));
        }
        done
    }

    /// Takes the last rename back.
    ///
    /// # Errors
    /// As [`Steps::rename`]; it is still noted then.
    pub fn rename_back(&mut self, from: &Spot, to: &Spot) -> SystemResult<()> {
        rename(to, from)?;
        self.done.pop_if(|step| matches!(step, Step::Moved(..)));
        Ok(())
    }

    /// Exchanges what lies under two names.
    ///
    /// # Errors
    /// As `renameat2`.
    pub fn exchange(&mut self, new: &Spot, old: &Spot) -> SystemResult<()> {
        let what = identity(new)?;
        match exchange(new, old) {
            // Over a network an answer may be lost, and what cannot be given its mode back was exchanged all the same.
            Err(why) if identity(old) != Ok(what) => return Err(why),
            _ => {}
        }
        self.note(|steps| Step::Exchanged(steps.at(&new.path()), steps.at(&old.path()), what));
        Ok(())
    }

    /// Puts a folder into the place of an empty one.
    ///
    /// # Errors
    /// As `renameat`; one that is not empty is refused.
    pub fn cover(&mut self, folder: &Spot, empty: &Spot) -> SystemResult<()> {
        let looks = Looks::of(&empty.enter()?)?;
        rename_over(folder, empty)?;
        self.note(|steps| Step::Covered(steps.at(&folder.path()), steps.at(&empty.path()), looks));
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
            self.crossed |= why == Errno::XDEV;
            return Err(why).doing(doing);
        }
        let old = Arc::new(from.enter().doing(doing)?);
        if old.is_mount().unwrap_or(false) {
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
        self.note(|steps| Step::Removed(steps.at(&from.path()), looks));
        Ok(())
    }

    /// Undoes all, the last first, because of `why`. What touches a name of a step that could not be undone stays as it is: to move
    /// it would lose something.
    pub fn undo(mut self, why: Error) -> Undone {
        let mut stays = Vec::new();
        let mut stuck: HashSet<At> = HashSet::new();
        while let Some(step) = self.done.pop() {
            let refused = match step.touches(&stuck) {
                true => Some("something else could not be moved back".to_owned()),
                false => step.undo(&self.base).err(),
            };
            if let Some(refused) = refused {
                stays.extend(step.told(self.base.path()).map(|told| format!("{told}: {refused}.")));
                stuck.extend(step.names().cloned());
            }
        }
        if stuck.is_empty() {
            return Undone { why, whole: true };
        }
        let more = stays.len().saturating_sub(NAMED);
        stays.truncate(NAMED);
        if more > 0 {
            stays.push(format!("So it is with {more} more."));
        }
        stays.splice(0..0, why.advice().map(str::to_owned));
        Undone { why: why.hint(stays.join(" ")), whole: false }
    }
}

impl Step {
    /// The names that it changed.
    fn names(&self) -> impl Iterator<Item = &At> {
        let (first, second) = match self {
            Step::Made(at) | Step::Opened(at, _) | Step::Removed(at, _) => (at, None),
            Step::Moved(from, to, _) | Step::Exchanged(from, to, _) | Step::Covered(from, to, _) => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    /// Whether a name of it, or the database that it lies beside, is among the names of what could not be undone. Beside another
    /// database, a log would be played into that.
    fn touches(&self, stuck: &HashSet<At>) -> bool {
        let is_stuck = |at: &At| {
            let database = |side: &&str| {
                let name = at.as_os_str().as_bytes().strip_suffix(side.as_bytes())?;
                stuck.get(Path::new(OsStr::from_bytes(name)))
            };
            stuck.contains(at) || SUFFIXES.iter().find_map(database).is_some()
        };
        self.names().any(is_stuck)
    }

    /// Undoes it.
    fn undo(&self, base: &Folder) -> Result<(), String> {
        let said = |why: Errno| std::io::Error::from(why).to_string();
        let spot = |at: &At| {
            let above = at.parent().unwrap_or(Path::new(""));
            let folder = base.enter_all(above).map_err(said)?;
            Ok::<_, String>(Spot::new(&Arc::new(folder), at.file_name().unwrap_or_default()))
        };
        // Whatever took its place meanwhile is not ours to move.
        let is = |spot: &Spot, what: &Identity| match identity(spot) {
            Ok(there) if there == *what => Ok(()),
            Ok(_) => Err("something else has taken its place".to_owned()),
            Err(why) => Err(said(why)),
        };
        match self {
            Step::Made(at) => {
                let at = spot(at)?;
                at.folder.remove_folder(&at.name).map_err(said)
            }
            Step::Moved(from, to, what) => {
                let (from, to) = (spot(from)?, spot(to)?);
                is(&to, what)?;
                rename(&to, &from).map_err(said)
            }
            Step::Exchanged(new, old, what) => {
                let (new, old) = (spot(new)?, spot(old)?);
                is(&old, what)?;
                exchange(&new, &old).map_err(said)
            }
            Step::Covered(was, is, looks) => {
                let (was, is) = (spot(was)?, spot(is)?);
                rename(&is, &was).map_err(said)?;
                let made = is.folder.make(&is.name, 0o700);
                made.and_then(|made| looks.give(&made)).map_err(said)
            }
            Step::Opened(at, looks) => base.enter_all(at).and_then(|folder| looks.give(&folder)).map_err(said),
            Step::Removed(at, looks) => {
                let at = spot(at)?;
                let made = at.folder.make(&at.name, 0o700);
                made.and_then(|made| looks.give(&made)).map_err(said)
            }
        }
    }

    /// What it means if it is not undone; nothing where that is of no weight.
    fn told(&self, base: &Path) -> Option<String> {
        let shown = |at: &At| base.join(at).display().to_string();
        match self {
            Step::Made(_) | Step::Opened(..) => None,
            Step::Moved(was, is, _) => Some(format!("{} is now {} and was not moved back", shown(was), shown(is))),
            // What was at the second name is what somebody looks for.
            Step::Exchanged(is, was, _) => Some(format!("{} is now {} and was not moved back", shown(was), shown(is))),
            Step::Covered(_, at, _) | Step::Removed(at, _) => {
                Some(format!("{} could not be made anew as it was", shown(at)))
            }
        }
    }
}

/// What has a name.
///
/// # Errors
/// Nothing is there; what the system refuses.
pub fn identity(spot: &Spot) -> SystemResult<Identity> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    match statx(&spot.folder, &spot.name, AtFlags::SYMLINK_NOFOLLOW, flags) {
        Ok(told) => {
            let device = makedev(told.stx_dev_major, told.stx_dev_minor);
            Ok((device, told.stx_ino, told.stx_btime.tv_sec, told.stx_btime.tv_nsec))
        }
        Err(Errno::NOSYS) => spot.look()?.map(|stat| (stat.st_dev, stat.st_ino, 0, 0)).ok_or(Errno::NOENT),
        Err(why) => Err(why),
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
        let looks = Looks::of(&spot("empty").enter().unwrap()).unwrap();
        at.remove_folder("empty").unwrap();
        steps.done.push(Step::Removed("empty".into(), looks));
        // As a folder that its filesystem does not rename: entry by entry, then it is removed.
        let (old, new) = (Arc::new(spot("image").enter().unwrap()), steps.make(&spot("shifted")).unwrap());
        let looks = Looks::of(&old).unwrap();
        steps.rename(&Spot::new(&old, "deep"), &Spot::new(&new, "deep")).unwrap();
        at.remove_folder("image").unwrap();
        steps.done.push(Step::Removed("image".into(), looks));
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

    /// What was exchanged stays aside when the app has replaced the new meanwhile, and nothing of either is lost.
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
