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

use rustix::fs::syncfs;
use rustix::io::Errno;

use super::capabilities::{moves_files_only, sync_folder};
use super::killed::{self, Moving};
use super::lock::lock_target;
use super::steps::{FolderAttributes, Steps};
use super::undo::Undone;
use crate::error::{Code, Doing, Error, Result};
use crate::fs::beneath::Directory;
use crate::fs::{Folder, Spot, is_folder};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::source::marker::{self, MARKER, Unfinished};
use crate::vault::root::SnapshotName;

mod fill;

pub(super) use self::fill::{is_fixed, refuse_fixed};

/// Advice if the marker of a restore of single paths cannot be made.
const MARKS: &str = "Until several paths are all put back, a file in that folder says so, which keeps a backup from taking half of them: \
                     make the folder writable, or restore the paths one at a time. Nothing was changed.";

/// Something that is done with a folder before it is filled.
pub type BeforeFill<'a> = dyn Fn(&Folder) + 'a;

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
    pending_attributes: Vec<(Arc<Folder>, FolderAttributes)>,
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
    /// Called with a target that was to be exchanged as a whole, before it is filled instead.
    pub before_fill: Option<Box<BeforeFill<'a>>>,
    /// The lock of a target that has appeared meanwhile.
    _locked: Option<Directory>,
    ctx: &'a Context<'a>,
}

impl<'a> Putting<'a> {
    /// Begins with nothing done.
    pub fn new(aside: Spot, kept: Vec<EntryPath>, paths: Vec<EntryPath>, ctx: &'a Context<'a>) -> Self {
        let steps = Steps::below(&aside.folder);
        let (pending_attributes, left_out) = (Vec::new(), Vec::new());
        Putting {
            steps,
            aside,
            snapshot: None,
            notes: None,
            sides: Vec::new(),
            within: None,
            kept,
            incoming: HashSet::new(),
            pending_attributes,
            left_out,
            paths,
            damaged: Vec::new(),
            marked: None,
            filled: false,
            before_fill: None,
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
            self.pending_attributes.push((target.clone(), FolderAttributes::read(target).doing(doing)?));
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
                Err(Error::failed("exchange it", "it is a mount point").with_code(Code::MountPoint).hint(USE_IN_PLACE))
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

    /// Whether something that stays lies deeper in a folder.
    fn leads_to_kept(&self, path: &EntryPath) -> bool {
        self.kept.iter().any(|kept| kept != path && kept.is_in(path))
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
    pub fn apply_pending_attributes(&mut self) -> u64 {
        let refused =
            self.pending_attributes.drain(..).filter(|(folder, attributes)| attributes.apply_to(folder).is_err());
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
