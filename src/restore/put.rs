//! Puts a staged tree, or a part of one, where something else may be.
//!
//! Existing content is exchanged for the new in one step. Where that cannot be done, as for a mount point, a folder in
//! which something is mounted, or a folder of a container's image, the folder is *filled*: first everything in it moves
//! aside, then the new moves in, entry by entry. All of it is noted in [`Steps`], and undone when a step fails.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx, syncfs};
use rustix::io::Errno;

use super::capabilities::{moves_files_only, sync_folder};
use super::in_place::{is_marker, is_reserved};
use super::killed::{self, Moving};
use super::lock::lock_target;
use super::mounts::is_of_the_filesystem;
use super::steps::{FolderAttributes, Steps, outwards};
use super::undo::Undone;
use crate::error::{Doing, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::{Folder, Spot, is_folder};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::source::marker::{self, MARKER, Unfinished};
use crate::vault::root::SnapshotName;

/// Advice if the marker of a restore of single paths cannot be made.
const MARKS: &str = "What is not put back in one step is marked meanwhile, so that no backup takes the half of it: let that folder be \
                     written to, or restore the paths one after the other. Nothing was changed.";
/// Most immovable entries that an error names.
const NAMED: usize = 3;

/// The work in a target, from its first step to its last.
pub struct Putting<'a> {
    /// The steps that were taken.
    pub steps: Steps,
    /// Where existing content is moved: to this name, which is free, or into a folder of this name.
    pub aside: Spot,
    /// The snapshot that is restored, named for whoever finds the restore half done.
    pub snapshot: Option<SnapshotName>,
    /// The staging folder, which gets a note of what is about to be put in the place of something else.
    pub notes: Option<Arc<Folder>>,
    /// Files that belong to what is about to be replaced and move aside before it: from where, and to where.
    pub sides: Vec<(Spot, Spot)>,
    /// The folder that is worked in, if single paths of it are put back.
    pub within: Option<Arc<Folder>>,
    /// Paths that stay as they are, relative to the folder that is worked in.
    kept: Vec<EntryPath>,
    /// The names that the restored tree has at its top, if a folder is filled as a whole.
    incoming: HashSet<OsString>,
    /// Folders that stay, and the attributes that they are given at the end, innermost first.
    dress: Vec<(Arc<Folder>, FolderAttributes)>,
    /// Entries that were not put in place because the filesystem itself keeps one of that name at its root.
    pub left_out: Vec<EntryPath>,
    /// The paths that are put back, relative to the folder that is worked in; empty for all of it.
    paths: Vec<EntryPath>,
    /// The paths among them that cannot be put back because they are damaged.
    pub damaged: Vec<EntryPath>,
    /// The folder whose marker says meanwhile what is not finished in it, and what the marker said before.
    marked: Option<(Arc<Folder>, Option<Unfinished>)>,
    /// Whether a folder was filled, and not only exchanged.
    pub filled: bool,
    /// The lock of a target that has appeared meanwhile.
    _locked: Option<Directory>,
    ctx: &'a Context<'a>,
}

impl<'a> Putting<'a> {
    /// Begins with nothing done.
    pub fn new(aside: Spot, kept: Vec<EntryPath>, paths: Vec<EntryPath>, ctx: &'a Context<'a>) -> Self {
        let steps = Steps::below(&aside.folder);
        let (dress, left_out) = (Vec::new(), Vec::new());
        Putting {
            steps,
            aside,
            snapshot: None,
            notes: None,
            sides: Vec::new(),
            within: None,
            kept,
            incoming: HashSet::new(),
            dress,
            left_out,
            paths,
            damaged: Vec::new(),
            marked: None,
            filled: false,
            _locked: None,
            ctx,
        }
    }

    /// Locks a target against a backup of it, until the work ends.
    ///
    /// # Errors
    /// A backup that takes too long; a stop.
    pub fn lock(&mut self, target: &Path) -> Result<()> {
        let (locked, note) = lock_target(target, self.ctx)?;
        self._locked = locked;
        if let Some(note) = note {
            self.ctx.monitor.warn(&note);
        }
        Ok(())
    }

    /// Marks the folder that is worked in: from now on, whatever happens, it says that what is put back there is not
    /// all in place yet. This is done before the first step wherever there are several.
    ///
    /// # Errors
    /// A system call that fails; nothing was moved then.
    pub fn mark(&mut self, target: &Arc<Folder>) -> Result<()> {
        if self.marked.is_some() {
            return Ok(());
        }
        let doing = || format!("mark {} as one in which a restore is under way", target.path().display());
        let beside = self.aside.folder.path() != target.path();
        let aside = Path::new(if beside { ".." } else { "" }).join(&self.aside.name);
        let around = !self.kept.is_empty();
        let (paths, snapshot) = (self.paths.clone(), self.snapshot);
        let unfinished = Unfinished { paths, aside: vec![aside], around, snapshot };
        if !self.paths.is_empty() && target.mode().doing(doing)? & 0o700 != 0o700 {
            // The target gets its own attributes back.
            self.dress.push((target.clone(), FolderAttributes::of(target).doing(doing)?));
        }
        let opened = self.steps.open_up(target).map_err(io::Error::from);
        let via = self.notes.as_ref().unwrap_or(target);
        let before = opened.and_then(|()| marker::mark(target, via, &unfinished));
        let crossed = before.as_ref().is_err_and(|why| why.raw_os_error() == Some(Errno::XDEV.raw_os_error()));
        let before = before.doing(doing).map_err(|why| match self.paths.is_empty() {
            _ if crossed => why.hint(USE_IN_PLACE),
            true => why,
            false => why.hint(MARKS),
        })?;
        self.marked = Some((target.clone(), before));
        sync_folder(target)
    }

    /// Marks the folder that is worked in, in which `at` has the path `path`.
    ///
    /// # Errors
    /// As [`Putting::mark`].
    pub fn mark_above(&mut self, at: &Spot, path: &EntryPath) -> Result<()> {
        // A target that is itself put into place is missing meanwhile; its note says so.
        if path.is_root() {
            return Ok(());
        }
        let within = self.within.as_ref().unwrap_or(&at.folder).clone();
        self.mark(&within)
    }

    /// Puts `new` at `at`, which has the path `path` in the folder that is worked in. Returns whether something was
    /// moved aside.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn replace(&mut self, new: &Spot, at: &Spot, path: &EntryPath) -> Result<bool> {
        let doing = || format!("put the restored {} into place", at.path().display());
        let Some(there) = at.look().doing(doing)? else {
            if self.steps.rename(new, at).is_err() {
                // It may have to go there entry by entry.
                self.mark_above(at, path)?;
                self.steps.shift(new, at).map_err(|why| why.within(doing()))?;
            }
            return Ok(false);
        };
        if self.leads_to_kept(path) {
            return self.fill(new, at, path).map_err(|why| why.within(doing()));
        }
        let aside = self.aside_for(path)?;
        self.note(new, at, &aside).map_err(|why| why.within(doing()))?;
        let why = match self.steps.rename(new, &aside) {
            Ok(()) => match self.steps.exchange(&aside, at) {
                Ok(()) => return Ok(true),
                Err(why) => {
                    self.steps.rename_back(new, &aside).doing(doing)?;
                    why
                }
            },
            Err(why) if moves_files_only(why) => Errno::NOSYS,
            Err(why) => return Err(why).doing(doing),
        };
        let done = match why {
            // On a filesystem that cannot exchange, the target is missing for a moment.
            Errno::INVAL | Errno::NOSYS | Errno::NOTSUP => {
                self.mark_above(at, path)?;
                self.steps.shift(at, &aside).and_then(|()| self.steps.shift(new, at)).map(|()| true)
            }
            Errno::BUSY | Errno::XDEV if at.enter().is_ok_and(|at| at.is_mount().unwrap_or(why == Errno::BUSY)) => {
                Err(Error::failed("exchange it", "it is a mount point").hint(USE_IN_PLACE))
            }
            // A folder of a container's image, or of another volume of its filesystem.
            Errno::XDEV if is_folder(&there) => match self.steps.cover(new, at) {
                // An empty one gives way.
                Ok(()) => Ok(false),
                Err(Errno::NOTDIR | Errno::ISDIR) => {
                    self.mark_above(at, path)?;
                    self.steps.shift(at, &aside).and_then(|()| self.steps.shift(new, at)).map(|()| true)
                }
                Err(_) => self.fill(new, at, path),
            },
            why => Err(why).doing(|| "exchange it"),
        };
        done.map_err(|why| why.within(doing()))
    }

    /// Notes that `new` is about to be put at `at`, and what is there at `aside`, for whoever finds the restore half
    /// done.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn note(&self, new: &Spot, at: &Spot, aside: &Spot) -> Result<()> {
        let Some(notes) = &self.notes else { return Ok(()) };
        let doing = || format!("make a note in {}", notes.path().display());
        let moving = Moving::new(&self.aside.folder, new, at, aside, &self.sides).doing(doing)?;
        moving.keep(notes).doing(doing)
    }

    /// Removes the note about what is in place now: if it is found somewhere else later on, somebody has put it there.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn forget(&self) -> Result<()> {
        let Some(notes) = &self.notes else { return Ok(()) };
        killed::forget(notes).doing(|| format!("remove the note in {}", notes.path().display()))
    }

    /// Fills the folder `at`, which stays, with what is in the folder `new`. Returns whether something was moved aside.
    fn fill(&mut self, new: &Spot, at: &Spot, path: &EntryPath) -> Result<bool> {
        let (from, to) = (new.enter(), at.enter());
        let (Ok(from), Ok(to)) = (from, to) else {
            let (was, is) = (at.path(), new.path());
            let why = format!(
                "{} has to stay, and only a folder can take the place of a folder: {}",
                was.display(),
                is.display()
            );
            return Err(
                Error::usage("fill it", why).hint("Restore to another folder, or unmount what is mounted there.")
            );
        };
        let (from, to) = (Arc::new(from), Arc::new(to));
        let looks = FolderAttributes::of(&from).doing(|| format!("look at {}", from.path().display()))?;
        let moved = self.fill_folder(&from, &to, path)?;
        self.dress.push((to, looks));
        Ok(moved)
    }

    /// As `fill`, but the caller sets the metadata of the folder `to` itself. The marker says meanwhile that the folder
    /// is being filled, even if the restore never comes to an end.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn fill_folder(&mut self, from: &Arc<Folder>, to: &Arc<Folder>, path: &EntryPath) -> Result<bool> {
        let doing = || format!("fill {} in place", to.path().display());
        if path.is_root() {
            self.incoming = outwards(from)?.into_iter().collect();
        }
        self.check_movable(to, path)?;
        self.filled = true;
        match (path.is_root(), &self.within) {
            (false, Some(within)) => self.mark(&within.clone())?,
            _ => self.mark(to)?,
        }
        let before = self.steps.count();
        self.outward(to, path).map_err(|why| why.within(doing()))?;
        let moved = self.steps.count() > before;
        // Makes the moves durable: what was there is somewhere, whatever happens.
        syncfs(to.readable().doing(doing)?).doing(doing)?;
        self.inward(from, to, path).map_err(|why| why.within(doing()))?;
        Ok(moved)
    }

    /// Moves aside everything in a folder except what stays.
    fn outward(&mut self, at: &Arc<Folder>, path: &EntryPath) -> Result<()> {
        self.open_up(at)?;
        for name in self.leaving(at, path)? {
            let child = path.join(name.as_bytes());
            self.ctx.check("restore")?;
            if self.leads_to_kept(&child) {
                let folder = at.enter(&name).doing(|| format!("open {}", at.path().join(&name).display()))?;
                let folder = Arc::new(folder);
                // Unless the snapshot has this folder, it gets its own attributes back at the end.
                let looks = FolderAttributes::of(&folder).doing(|| format!("look at {}", folder.path().display()))?;
                self.dress.push((folder.clone(), looks));
                self.outward(&folder, &child)?;
            } else {
                let aside = self.aside_for(&child)?;
                let moved = self.steps.shift(&Spot::new(at, &name), &aside);
                // Beside the target is another filesystem, or another volume of the same one.
                let elsewhere = self.steps.crossed && self.aside.folder.path() != at.path();
                moved.map_err(|why| if elsewhere { why.hint(USE_IN_PLACE) } else { why })?;
            }
        }
        Ok(())
    }

    /// Moves what is in the folder `from` into `to`, in which only folders that stay are left.
    fn inward(&mut self, from: &Arc<Folder>, to: &Arc<Folder>, path: &EntryPath) -> Result<()> {
        let doing = |folder: &Folder| format!("open {}", folder.path().display());
        if from.mode().doing(|| doing(from))? & 0o700 != 0o700 {
            from.set_mode(0o700).doing(|| doing(from))?;
        }
        let mut names = outwards(from)?;
        names.reverse();
        for name in names {
            let (new, at) = (Spot::new(from, &name), Spot::new(to, &name));
            let child = path.join(name.as_bytes());
            match at.look().doing(|| doing(to))? {
                None => self.steps.shift(&new, &at)?,
                Some(_) if path.is_root() && is_of_the_filesystem(&name) && to.is_mount().unwrap_or(false) => {
                    let empty = new.enter().and_then(|folder| folder.names()).is_ok_and(|names| names.is_empty());
                    if !empty {
                        self.left_out.push(child);
                    }
                }
                Some(_) if !self.leads_to_kept(&child) => {
                    let why = "something has come there meanwhile";
                    return Err(Error::failed(format!("move {} in", at.path().display()), why)
                        .hint("A program works in the folder: stop it, and run it again."));
                }
                Some(_) => {
                    let Ok(folder) = new.enter() else {
                        let why = format!("{} stays, and the snapshot has no folder there", at.path().display());
                        return Err(Error::usage("fill it", why)
                            .hint("Restore to another folder, or unmount what is mounted there."));
                    };
                    let (folder, stays) = (Arc::new(folder), Arc::new(at.enter().doing(|| doing(to))?));
                    let looks = FolderAttributes::of(&folder).doing(|| doing(&folder))?;
                    self.inward(&folder, &stays, &child)?;
                    self.dress.retain(|(dressed, _)| dressed.path() != stays.path());
                    self.dress.push((stays, looks));
                }
            }
        }
        Ok(())
    }

    /// The names in a folder that move aside, in the order in which they do, and the names that lead to what stays.
    fn leaving(&self, at: &Folder, path: &EntryPath) -> Result<Vec<OsString>> {
        let mut names = outwards(at)?;
        let own = path.is_root() && at.is_mount().unwrap_or(false);
        names.retain(|name| {
            let child = path.join(name.as_bytes());
            let is_folder = || matches!(at.look(name), Ok(Some(stat)) if is_folder(&stat));
            // An entry that is restored under such a name needs the place.
            let is_ours = || is_marker(name) || is_reserved(name) && !self.incoming.contains(name) && is_folder();
            let reserved = path.is_root() && is_ours() || own && is_of_the_filesystem(name);
            !reserved && !self.kept.contains(&child)
        });
        Ok(names)
    }

    /// Whether something that stays lies deeper in a folder.
    fn leads_to_kept(&self, path: &EntryPath) -> bool {
        self.kept.iter().any(|kept| kept != path && kept.is_in(path))
    }

    /// Makes a folder writable while something moves out of it or into it.
    fn open_up(&mut self, folder: &Arc<Folder>) -> Result<()> {
        self.steps.open_up(folder).doing(|| format!("open {}", folder.path().display()))
    }

    /// Checks, before anything is moved, that the system will not refuse to move any of it.
    fn check_movable(&self, at: &Folder, path: &EntryPath) -> Result<()> {
        let mut fixed = Vec::new();
        self.find_fixed(at, path, &mut fixed)?;
        if fixed.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = fixed.iter().take(NAMED).map(|path| path.display().to_string()).collect();
        let more = match fixed.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let why = format!("{}{more} cannot be moved: immutable or append-only", named.join(", "));
        Err(Error::failed(format!("move aside what is in {}", at.path().display()), why)
            .hint("`lsattr -d` shows it as i or a, and `chattr -i -a` takes it away. Nothing was changed."))
    }

    fn find_fixed(&self, at: &Folder, path: &EntryPath, fixed: &mut Vec<std::path::PathBuf>) -> Result<()> {
        let doing = |name: &OsStr| format!("look at {}", at.path().join(name).display());
        if is_fixed(at, OsStr::new("")).doing(|| doing(OsStr::new("")))? {
            fixed.push(at.path().to_owned());
        }
        for name in self.leaving(at, path)? {
            let child = path.join(name.as_bytes());
            if self.leads_to_kept(&child) {
                self.find_fixed(&at.enter(&name).doing(|| doing(&name))?, &child, fixed)?;
            } else if is_fixed(at, &name).doing(|| doing(&name))? {
                fixed.push(at.path().join(&name));
            }
        }
        Ok(())
    }

    /// Returns where what is at `path` is moved. Makes the folders above that place.
    pub fn aside_for(&mut self, path: &EntryPath) -> Result<Spot> {
        let Some(above) = path.folder() else { return Ok(self.aside.clone()) };
        let mut at = self.made(&self.aside.clone())?;
        for part in above.as_path().components() {
            at = self.made(&Spot::new(&at, part.as_os_str()))?;
        }
        Ok(Spot::new(&at, OsStr::from_bytes(path.name())))
    }

    /// Opens a folder, and makes it if it is not there.
    fn made(&mut self, at: &Spot) -> Result<Arc<Folder>> {
        let doing = || format!("make {}", at.path().display());
        match at.look().doing(doing)? {
            Some(_) => Ok(Arc::new(at.enter().doing(doing)?)),
            None => self.steps.make(at).doing(doing),
        }
    }

    /// Gives the folders that stayed their attributes. Returns how many could not be given theirs.
    pub fn dress(&mut self) -> u64 {
        let refused = self.dress.drain(..).filter(|(folder, looks)| looks.give(folder).is_err());
        refused.count() as u64
    }

    /// Whether a folder is marked as unfinished.
    pub fn is_marked(&self) -> bool {
        self.marked.is_some()
    }

    /// Returns what was unfinished in the folder before this restore; `now` is what its marker says now.
    pub fn was_unfinished<'u>(&'u self, now: Option<&'u Unfinished>) -> Option<&'u Unfinished> {
        match &self.marked {
            Some((_, before)) => before.as_ref(),
            None => now,
        }
    }

    /// Undoes everything because of the error `why`. A target that is not as it was before keeps its marker.
    pub fn undo(self, why: Error) -> Undone {
        let Undone { mut why, whole } = self.steps.undo(why);
        let Some((marked, before)) = self.marked else { return Undone { why, whole } };
        if whole {
            let durable = || -> Result<()> {
                let doing = || format!("write {} to the disk", marked.path().display());
                syncfs(marked.readable().doing(doing)?).doing(doing)?;
                marker::set(&marked, self.notes.as_ref().unwrap_or(&marked), before.as_ref()).doing(doing)
            };
            if let Err(left) = durable() {
                tracing::warn!("{left}");
            }
            return Undone { why, whole };
        }
        let again = format!("{MARKER} marks {} as broken: restore again to complete it.", marked.path().display());
        why = match why.advice().map(|advice| format!("{advice} {again}")) {
            Some(both) => why.hint(both),
            None => why.hint(again),
        };
        Undone { why, whole }
    }
}

/// Whether an entry is immutable or append-only, so that the system lets nobody move it.
pub(super) fn is_fixed(folder: &Folder, name: &OsStr) -> rustix::io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let told = match statx(folder, Path::new(name), flags, StatxFlags::BASIC_STATS) {
        // An old system does not say.
        Err(Errno::NOSYS | Errno::NOENT) => return Ok(false),
        told => told?,
    };
    Ok(told.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND))
}

pub(crate) const USE_IN_PLACE: &str = "Use --in-place: what is there is then moved into a folder inside the target.";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::restore::sample::context;

    /// Fills a target up to a step that fails, and undoes it; `meanwhile` happens in between.
    fn undone(meanwhile: impl FnOnce(&Path)) -> (tempfile::TempDir, Undone) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("data/a", "old"), ("data/b", "old"), ("data/staged/a", "new")] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let data = Arc::new(Folder::open(&folder.path().join("data")).unwrap());
        let staged = Arc::new(data.enter("staged").unwrap());
        let ctx = context();
        let kept = vec![EntryPath::new("staged").unwrap()];
        let mut putting = Putting::new(Spot::new(&data, "aside"), kept, Vec::new(), &ctx);
        assert!(putting.fill_folder(&staged, &data, &EntryPath::root()).unwrap());
        assert!(folder.path().join("data").join(MARKER).exists());
        assert_eq!(fs::read(folder.path().join("data/a")).unwrap(), b"new");
        meanwhile(&folder.path().join("data"));
        let undone = putting.undo(Error::failed("put it", "no"));
        (folder, undone)
    }

    #[test]
    fn what_is_undone_whole_says_no_longer_that_it_is_being_filled() {
        let (folder, Undone { why, whole }) = undone(|_| ());
        assert!(whole && why.advice().is_none());
        let data = folder.path().join("data");
        assert_eq!(fs::read(data.join("a")).unwrap(), b"old");
        assert!(!data.join(MARKER).exists() && !data.join("aside").exists());
    }

    #[test]
    fn what_is_not_undone_whole_goes_on_saying_so() {
        let (folder, Undone { why, whole }) = undone(|data| fs::write(data.join("b"), "the app's").unwrap());
        let data = folder.path().join("data");
        let advice = why.advice().unwrap();
        assert!(!whole && advice.contains("aside/b") && advice.contains("broken"), "{advice}");
        assert!(data.join(MARKER).exists());
        assert_eq!(fs::read(data.join("aside/b")).unwrap(), b"old");
        assert_eq!(
            (fs::read(data.join("a")).unwrap(), fs::read(data.join("b")).unwrap()),
            (b"old".to_vec(), b"the app's".to_vec())
        );
    }
}
