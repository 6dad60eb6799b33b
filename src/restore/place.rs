//! Putting a restored tree where it belongs, without destroying what is there.
//!
//! What exists is exchanged for the new in one step, so that the target is the old or the new at every moment; the old one
//! is then found under another name. Only a mount point cannot be exchanged: it is filled in place (see [`fill`]).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags, renameat_with, statx};
use rustix::io::Errno;

use super::lacking::{moves_files_only, sync_folder};
use super::stage::Staging;
use super::{beside, fill};
use crate::error::{Doing, Error, Result};
use crate::monitor::Context;
use crate::vault::path::EntryPath;

const USE_IN_PLACE: &str = "Use --in-place: what is there is then moved into a folder inside the target.";

/// What there was in the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// The folder where it is now; none if there was nothing.
    pub aside: Option<PathBuf>,
    /// Side files among it of databases that were put back one by one.
    pub beside: Vec<EntryPath>,
}

/// Where a restore goes.
#[derive(Debug)]
pub struct Place {
    /// The target, absolute.
    pub target: PathBuf,
    exists: bool,
    in_place: bool,
    /// The entries that are put back; none for all.
    paths: Vec<EntryPath>,
}

impl Place {
    /// Checks that `target` can be restored to, before any work. `paths` are the entries to put back, none for all.
    ///
    /// # Errors
    /// Usage: a target that is no folder, or a mount point without `in_place`; a path below something that is no folder.
    pub fn check(target: &Path, in_place: bool, paths: &[EntryPath]) -> Result<Place> {
        let doing = || format!("restore to {}", target.display());
        let found = match fs::symlink_metadata(target) {
            Ok(meta) => Some(meta),
            Err(why) if why.kind() == io::ErrorKind::NotFound => None,
            Err(why) => return Err(Error::io(doing(), &why)),
        };
        if let Some(meta) = &found
            && !meta.is_dir()
        {
            let what = if meta.is_symlink() { "a symbolic link" } else { "not a folder" };
            return Err(Error::usage(doing(), format!("it is {what}"))
                .hint("Name the folder itself, or one that does not exist yet."));
        }
        let exists = found.is_some();
        let target = match exists {
            true => target.canonicalize().doing(doing)?,
            false => std::path::absolute(target).doing(doing)?,
        };
        if !in_place && exists && is_mount(&target).doing(doing)? {
            return Err(Error::usage(doing(), "it is a mount point, which cannot be exchanged").hint(USE_IN_PLACE));
        }
        if in_place {
            fill::check(&target)?;
        }
        let place = Place { target, exists, in_place, paths: outermost(paths) };
        for path in &place.paths {
            place.missing_from(path)?;
        }
        Ok(place)
    }

    /// Puts back these entries as well, which lie beside others of its paths.
    pub fn also(&mut self, paths: impl IntoIterator<Item = EntryPath>) {
        let all: Vec<_> = self.paths.drain(..).chain(paths).collect();
        self.paths = outermost(&all);
    }

    /// The entries that are put back, none inside another; none for all.
    pub fn paths(&self) -> &[EntryPath] {
        &self.paths
    }

    /// Whether an in-place restore of this target was interrupted.
    pub fn is_broken(&self) -> bool {
        self.target.join(fill::MARKER).symlink_metadata().is_ok()
    }

    /// Whether the snapshot's entry `path` would collide with what an in-place restore needs.
    pub fn is_reserved(&self, path: &EntryPath) -> bool {
        self.in_place && path.parent() == Some(b"") && fill::is_reserved(OsStr::from_bytes(path.name()))
    }

    /// Makes the staging folder. Gives others that may be in use as well, as [`Staging::make`].
    ///
    /// # Errors
    /// What the system refuses; that the target could not be exchanged there.
    pub fn stage(&self, ctx: &Context) -> Result<(Staging, Vec<PathBuf>)> {
        let doing = || format!("make the folder that {} goes into", self.target.display());
        if self.in_place {
            fs::create_dir_all(&self.target).doing(doing)?;
            return Staging::make(&self.target, OsStr::new(""), ctx);
        }
        fs::create_dir_all(self.parent()).doing(doing)?;
        let (staging, left) = Staging::make(self.parent(), self.name()?, ctx)?;
        if !self.keeps_target() && !staging.moves_folders()? {
            staging.remove()?;
            let why = "folders cannot be renamed on that filesystem";
            return Err(Error::usage(format!("restore to {}", self.target.display()), why).hint(USE_IN_PLACE));
        }
        Ok((staging, left))
    }

    fn parent(&self) -> &Path {
        self.target.parent().unwrap_or(Path::new("/"))
    }

    fn name(&self) -> Result<&OsStr> {
        self.target.file_name().ok_or_else(|| {
            Error::usage(format!("restore to {}", self.target.display()), "it has no name").hint(USE_IN_PLACE)
        })
    }

    /// Whether the target itself keeps its place: its metadata is then set at the end, or not at all.
    pub fn keeps_target(&self) -> bool {
        self.in_place || (self.exists && !self.paths.is_empty())
    }

    /// Puts what is in `staging`, which is whole and verified, into place. Says what was there. `dress` gives a target
    /// that is filled in place what the snapshot says of it.
    ///
    /// # Errors
    /// What the system refuses; the target is then as it was, or, filled in place, marked as broken.
    pub fn put(&self, staging: Staging, now: Timestamp, dress: &dyn Fn(&OwnedFd) -> Result<()>) -> Result<Replaced> {
        staging.sync()?;
        let aside = self.aside(now)?;
        let mut beside = Vec::new();
        let moved = if self.in_place && self.paths.is_empty() {
            fill::fill(&self.target, staging, &aside, dress)?
        } else {
            let done = match self.keeps_target() {
                true => self.put_paths(&staging, &aside, &mut beside),
                false => swap(&staging.tree(), &self.target, &aside),
            };
            let removed = staging.remove();
            let moved = done?;
            removed?;
            moved
        };
        sync_folder(&self.target)?;
        sync_folder(self.parent())?;
        Ok(Replaced { aside: (moved || !beside.is_empty()).then_some(aside), beside })
    }

    /// A name that is free, for what was there.
    fn aside(&self, now: Timestamp) -> Result<PathBuf> {
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let stem = match self.in_place {
            true => self.target.join(format!("{}{time}", fill::REPLACED)),
            false => {
                let mut name = OsString::from(self.name()?);
                name.push(format!(".replaced-{time}"));
                self.parent().join(name)
            }
        };
        let numbered = (2..1000).map(|n| {
            let mut name = stem.clone().into_os_string();
            name.push(format!("-{n}"));
            PathBuf::from(name)
        });
        let mut names = std::iter::once(stem.clone()).chain(numbered);
        let free = names.find(|name| name.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
        free.ok_or_else(|| Error::failed("move aside what is there", format!("{} and its like exist", stem.display())))
    }

    /// How much of `path` has to be put in: up to the first folder above it that is missing, or all of it.
    fn missing_from(&self, path: &EntryPath) -> Result<PathBuf> {
        let mut found = PathBuf::new();
        for part in path.as_path().components() {
            found.push(part);
            if found == path.as_path() {
                break;
            }
            let above = self.target.join(&found);
            match fs::symlink_metadata(&above) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => {
                    let why = format!("{} is not a folder, and what is in it cannot be put there", above.display());
                    return Err(Error::usage(format!("restore {path}"), why).hint("Move it away and run it again."));
                }
                Err(why) if why.kind() == io::ErrorKind::NotFound => break,
                Err(why) => return Err(Error::io(format!("look at {}", above.display()), &why)),
            }
        }
        Ok(found)
    }

    fn put_paths(&self, staging: &Staging, aside: &Path, beside: &mut Vec<EntryPath>) -> Result<bool> {
        let mut moved = false;
        for path in &self.paths {
            let part = self.missing_from(path)?;
            moved |= match staging.tree().join(&part).symlink_metadata() {
                Ok(new) if new.is_file() => self.put_file(staging, aside, path, beside)?,
                _ => self.put_part(staging, aside, &part)?,
            };
        }
        Ok(moved)
    }

    /// Puts one file in, and aside what is there, with the side files of a database.
    fn put_file(&self, staging: &Staging, aside: &Path, path: &EntryPath, beside: &mut Vec<EntryPath>) -> Result<bool> {
        let (new, at) = (staging.tree().join(path.as_path()), self.target.join(path.as_path()));
        // Side files that the new one brings come before it, and nothing of the old one is beside any of them.
        let own: Vec<_> = beside::sides(path).filter(|side| self.paths.binary_search(side).is_ok()).collect();
        let cleared = beside::clear(&new, &at, &aside.join(path.as_path()), !own.is_empty())?;
        let put = own.iter().chain([path]).try_fold(!cleared.is_empty(), |moved, path| {
            self.put_part(staging, aside, path.as_path()).map(|some| moved | some)
        });
        match put {
            // What belongs to the old one must not lie beside the new one.
            Err(why) if new.symlink_metadata().is_ok() => Err(cleared.undo(why)),
            done => {
                let gone = cleared.sides().filter_map(|from| from.strip_prefix(&self.target).ok());
                beside.extend(gone.filter_map(|path| EntryPath::new(path.as_os_str().as_bytes()).ok()));
                done
            }
        }
    }

    /// Puts one file or folder in, and aside what is there. Says whether something was.
    fn put_part(&self, staging: &Staging, aside: &Path, part: &Path) -> Result<bool> {
        let (new, at, old) = (staging.tree().join(part), self.target.join(part), aside.join(part));
        // A folder above was missing for an earlier path too, and is in place with all that is selected in it; or the entry
        // was damaged and left out; or it is a side file, and came with its database.
        if new.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(false);
        }
        if at.symlink_metadata().is_ok() {
            let above = old.parent().unwrap_or(aside);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(above);
            made.doing(|| format!("make {}", above.display()))?;
        }
        // The new one leaves a folder that may not be writable, and that is not used itself.
        let from = new.parent().unwrap_or(&new);
        let doing = || format!("open {}", from.display());
        if from.symlink_metadata().doing(doing)?.mode() & 0o700 != 0o700 {
            fs::set_permissions(from, fs::Permissions::from_mode(0o700)).doing(doing)?;
        }
        let moved = swap(&new, &at, &old)?;
        sync_folder(at.parent().unwrap_or(&self.target))?;
        Ok(moved)
    }
}

/// The paths that are in no other one of them.
fn outermost(paths: &[EntryPath]) -> Vec<EntryPath> {
    let mut sorted = paths.to_vec();
    sorted.sort();
    sorted.dedup();
    let mut out: Vec<EntryPath> = Vec::new();
    for path in sorted {
        if !out.last().is_some_and(|above| path.is_in(above)) {
            out.push(path);
        }
    }
    // The data directory itself is all of it.
    out.retain(|path| !path.is_root());
    out
}

/// Puts `new` at `at`, and what was there, if anything, at `aside`, which is free. Says whether something was there.
fn swap(new: &Path, at: &Path, aside: &Path) -> Result<bool> {
    let doing = || format!("put the restored {} into place", at.display());
    match at.symlink_metadata() {
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            move_over(new, at).map_err(|why| why.within(doing()))?;
            return Ok(false);
        }
        found => _ = found.doing(doing)?,
    }
    let why = match rename(new, aside) {
        Ok(()) => {
            let why = match renameat_with(CWD, aside, CWD, at, RenameFlags::EXCHANGE) {
                Ok(()) => return Ok(true),
                Err(why) => why,
            };
            rename(aside, new).doing(doing)?;
            why
        }
        Err(why) if moves_files_only(&why) => Errno::NOSYS,
        Err(why) => return Err(Error::io(doing(), &why)),
    };
    match why {
        // A filesystem that cannot exchange: the target is missing for a moment.
        Errno::INVAL | Errno::NOSYS | Errno::NOTSUP => {
            let moved = move_over(at, aside).and_then(|()| {
                move_over(new, at).map_err(|why| match rename(aside, at) {
                    Ok(()) => why,
                    Err(_) => why.hint(format!("What was there is in {}.", aside.display())),
                })
            });
            moved.map_err(|why| why.within(doing())).map(|()| true)
        }
        Errno::BUSY | Errno::XDEV => Err(Error::failed(doing(), "it is a mount point").hint(USE_IN_PLACE)),
        why => Err(why).doing(doing),
    }
}

/// Renames without replacing anything, folder by folder where a filesystem does not rename them.
fn move_over(from: &Path, to: &Path) -> Result<()> {
    match rename(from, to) {
        Err(why) if moves_files_only(&why) => fill::move_in(from, to),
        done => done.doing(|| format!("move {} to {}", from.display(), to.display())),
    }
}

/// Renames without replacing anything.
///
/// # Errors
/// As `rename`; and when `to` exists.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match rename_free(from, to) {
        // A folder that moves gets a new `..`, for which it must be writable: it is for that moment.
        Err(why @ (Errno::ACCESS | Errno::PERM)) => {
            let meta = from.symlink_metadata()?;
            if !meta.is_dir() || meta.mode() & 0o700 == 0o700 {
                return Err(why.into());
            }
            let modified = meta.permissions();
            fs::set_permissions(from, fs::Permissions::from_mode(meta.mode() & 0o7777 | 0o700))?;
            let moved = rename_free(from, to);
            fs::set_permissions(if moved.is_ok() { to } else { from }, modified)?;
            Ok(moved?)
        }
        done => Ok(done?),
    }
}

fn rename_free(from: &Path, to: &Path) -> rustix::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match to.symlink_metadata() {
            Ok(_) => Err(Errno::EXIST),
            Err(_) => rustix::fs::renameat(CWD, from, CWD, to),
        },
        done => done,
    }
}

/// Whether a folder is where a filesystem is mounted.
///
/// # Errors
/// A folder that cannot be looked at.
pub fn is_mount(folder: &Path) -> io::Result<bool> {
    let told = statx(CWD, folder, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    if let Ok(told) = told
        && told.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return Ok(told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    let Some(parent) = folder.parent() else { return Ok(true) };
    Ok(folder.symlink_metadata()?.dev() != parent.metadata()?.dev())
}
