//! Fills a folder that stays: what is in it moves aside, and the new content moves in, entry by entry.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx, syncfs};
use rustix::io::Errno;

use super::{Putting, USE_IN_PLACE};
use crate::error::{Code, Doing, Error, Result};
use crate::fs::{Folder, Spot, is_folder};
use crate::lineage::OWN_FOLDER;
use crate::path::EntryPath;
use crate::restore::in_place::{is_marker, is_reserved};
use crate::restore::mounts::is_of_the_filesystem;
use crate::restore::steps::{FolderAttributes, outwards};

/// Most immovable entries that an error names.
const NAMED: usize = 3;

impl Putting<'_> {
    /// Fills the folder `at`, which stays, with what is in the folder `new`. Returns whether something was moved aside.
    pub(super) fn fill(&mut self, new: &Spot, at: &Spot, path: &EntryPath) -> Result<bool> {
        let (from, to) = (new.enter(), at.enter());
        let (Ok(from), Ok(to)) = (from, to) else {
            let (was, is) = (at.path(), new.path());
            let why = format!(
                "{} has to stay, and only a folder can take the place of a folder: {}",
                was.display(),
                is.display()
            );
            return Err(Error::usage("fill it", why)
                .with_code(Code::MountPoint)
                .hint("Restore to another folder, or unmount what is mounted there."));
        };
        let (from, to) = (Arc::new(from), Arc::new(to));
        let attributes = FolderAttributes::read(&from).doing(|| format!("look at {}", from.path().display()))?;
        if path.is_root() {
            self.before_fill.iter().for_each(|call| call(&to));
        }
        let moved = self.fill_folder(&from, &to, path)?;
        self.pending_attributes.push((to, attributes));
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
                let attributes =
                    FolderAttributes::read(&folder).doing(|| format!("look at {}", folder.path().display()))?;
                self.pending_attributes.push((folder.clone(), attributes));
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
                    let why = "something appeared there in the meantime";
                    return Err(Error::failed(format!("move {} into place", at.path().display()), why)
                        .with_code(Code::InUse)
                        .hint("A program is using the folder: stop it, and run it again."));
                }
                Some(_) => {
                    let Ok(folder) = new.enter() else {
                        let why = format!("{} stays, and the snapshot has no folder there", at.path().display());
                        return Err(Error::usage("fill it", why)
                            .with_code(Code::MountPoint)
                            .hint("Restore to another folder, or unmount what is mounted there."));
                    };
                    let (folder, stays) = (Arc::new(folder), Arc::new(at.enter().doing(|| doing(to))?));
                    let attributes = FolderAttributes::read(&folder).doing(|| doing(&folder))?;
                    self.inward(&folder, &stays, &child)?;
                    self.pending_attributes.retain(|(folder, _)| folder.path() != stays.path());
                    self.pending_attributes.push((stays, attributes));
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
            // `run` may hold a lock in lastgood's own folder.
            let is_ours = is_reserved(name) || name == OWN_FOLDER;
            let is_ours = || is_marker(name) || is_ours && !self.incoming.contains(name) && is_folder();
            let reserved = path.is_root() && is_ours() || own && is_of_the_filesystem(name);
            !reserved && !self.kept.contains(&child)
        });
        Ok(names)
    }

    /// Makes a folder writable while something moves out of it or into it.
    fn open_up(&mut self, folder: &Arc<Folder>) -> Result<()> {
        self.steps.open_up(folder).doing(|| format!("open {}", folder.path().display()))
    }

    /// Checks, before anything is moved, that the system will not refuse to move any of it.
    fn check_movable(&self, at: &Folder, path: &EntryPath) -> Result<()> {
        let mut fixed = Vec::new();
        self.find_fixed(at, path, &mut fixed)?;
        refuse_fixed(&fixed, || format!("move aside what is in {}", at.path().display()))
    }

    fn find_fixed(&self, at: &Folder, path: &EntryPath, fixed: &mut Vec<PathBuf>) -> Result<()> {
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
}

/// Fails if there are entries that the system lets nobody move.
///
/// # Errors
/// Failed: some of them are named.
pub(crate) fn refuse_fixed(fixed: &[PathBuf], doing: impl FnOnce() -> String) -> Result<()> {
    if fixed.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = fixed.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    let more = match fixed.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = format!("{}{more} cannot be moved: immutable or append-only", named.join(", "));
    Err(Error::failed(doing(), why)
        .with_code(Code::PermissionDenied)
        .hint("`lsattr -d` shows such entries as i or a, and `chattr -i -a` makes them movable. Nothing was changed."))
}

/// Whether an entry is immutable or append-only, so that the system lets nobody move it.
pub(crate) fn is_fixed(folder: &Folder, name: &OsStr) -> rustix::io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let found = match statx(folder, Path::new(name), flags, StatxFlags::BASIC_STATS) {
        // An old system does not say.
        Err(Errno::NOSYS | Errno::NOENT) => return Ok(false),
        found => found?,
    };
    Ok(found.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND))
}
