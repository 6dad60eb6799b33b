//! Putting a restored tree where it belongs, without destroying what is there.
//!
//! What exists is exchanged for the new in one step, so that the target is the old or the new at every moment; the old one
//! is then found under another name. Only a mount point cannot be exchanged: it is filled in place (see [`fill`]).
//!
//! The folder in which that happens is opened once, before the staging folder is made in it, and all names are looked up in
//! it and below it without following links. So nothing elsewhere is renamed or changed, whatever is put in the way.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, FileType, StatxAttributes, StatxFlags, fstat, statx};
use rustix::io::Errno;

use super::lacking::{moves_files_only, sync_folder};
use super::stage::Staging;
use super::{beside, fill};
use crate::error::{Doing, Error, Result};
use crate::fs::{Folder, Spot, exchange, rename};
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
            true => real(target).doing(doing)?,
            false => std::path::absolute(target).doing(doing)?,
        };
        if !in_place && exists && is_mount(&target).doing(doing)? {
            return Err(Error::usage(doing(), "it is a mount point, which cannot be exchanged").hint(USE_IN_PLACE));
        }
        if in_place {
            fill::check(&target)?;
        }
        let place = Place { target, exists, in_place, paths: outermost(paths) };
        if exists && !place.paths.is_empty() {
            let folder = Folder::straight(&place.target).doing(doing)?;
            place.paths.iter().try_for_each(|path| missing_from(&folder, path).map(drop))?;
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

    /// What there is that will be replaced.
    pub fn replaces(&self) -> Vec<PathBuf> {
        match self.paths.is_empty() {
            _ if !self.exists => Vec::new(),
            true => vec![self.target.clone()],
            false => self.paths.iter().map(|path| self.target.join(path.as_path())).collect(),
        }
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
        if self.in_place && self.exists {
            return Staging::make(Folder::straight(&self.target).doing(doing)?, OsStr::new(""), ctx);
        }
        let above = match self.exists {
            true => Folder::straight(self.parent()),
            // Nothing was there: it is made where the user said, and links on the way are the user's.
            false => {
                fs::create_dir_all(self.parent()).doing(doing)?;
                Folder::open(self.parent())
            }
        };
        let above = above.doing(doing)?;
        if self.in_place {
            let target = above.make_all(Path::new(self.name()?), 0o777).doing(doing)?;
            return Staging::make(target, OsStr::new(""), ctx);
        }
        let (staging, left) = Staging::make(above, self.name()?, ctx)?;
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
        let base = staging.base().clone();
        let aside = self.aside(&base, now)?;
        let mut beside = Vec::new();
        let moved = if self.in_place && self.paths.is_empty() {
            fill::fill(staging, &aside.spot, dress)?
        } else {
            let done = match self.keeps_target() {
                true => self.put_paths(&staging, &aside).map(|(moved, told)| {
                    beside = told;
                    moved
                }),
                false => swap(&staging.tree(), &Spot::new(&base, self.name()?), || Ok(aside.spot.clone())),
            };
            let removed = staging.remove();
            let moved = done?;
            removed?;
            moved
        };
        let doing = |path: &Path| format!("open {}", path.display());
        let target = self.within(&base)?;
        sync_folder(&target)?;
        match self.in_place {
            true => sync_folder(&Folder::open(self.parent()).doing(|| doing(self.parent()))?)?,
            false => sync_folder(&base)?,
        }
        Ok(Replaced { aside: (moved || !beside.is_empty()).then(|| aside.spot.path()), beside })
    }

    /// The target, of the folder in which the staging folder is.
    fn within(&self, base: &Arc<Folder>) -> Result<Arc<Folder>> {
        if self.in_place {
            return Ok(base.clone());
        }
        let target = base.enter(self.name()?).doing(|| format!("open {}", self.target.display()))?;
        Ok(Arc::new(target))
    }

    /// A name that is free, for what was there.
    fn aside(&self, base: &Arc<Folder>, now: Timestamp) -> Result<Aside> {
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let stem = match self.in_place {
            true => OsString::from(format!("{}{time}", fill::REPLACED)),
            false => {
                let mut name = OsString::from(self.name()?);
                name.push(format!(".replaced-{time}"));
                name
            }
        };
        let numbered = (2..1000).map(|n| {
            let mut name = stem.clone();
            name.push(format!("-{n}"));
            name
        });
        let mut names = std::iter::once(stem.clone()).chain(numbered);
        let free = names.find(|name| matches!(base.look(name), Ok(None)));
        let free = free.ok_or_else(|| {
            let stem = base.path().join(&stem);
            Error::failed("move aside what is there", format!("{} and its like exist", stem.display()))
        })?;
        Ok(Aside { spot: Spot::new(base, free), made: OnceCell::new() })
    }

    /// Puts the chosen entries in. Says whether something was moved aside, and which side files.
    fn put_paths(&self, staging: &Staging, aside: &Aside) -> Result<(bool, Vec<EntryPath>)> {
        let target = self.within(staging.base())?;
        let (mut moved, mut beside) = (false, Vec::new());
        for path in &self.paths {
            let (part, above) = missing_from(&target, path)?;
            let at = Spot::new(&Arc::new(above), part.file_name().unwrap_or_default());
            moved |= match in_tree(staging, &part)? {
                Some((new, FileType::RegularFile)) => {
                    // Side files that the new one brings come before it, and nothing of the old one is beside any of them.
                    let own: Vec<_> =
                        beside::sides(path).filter(|side| self.paths.binary_search(side).is_ok()).collect();
                    let cleared = beside::clear(&new, &at, &|| aside.place(path.as_path()), !own.is_empty())?;
                    let put = own.iter().chain([path]).try_fold(!cleared.is_empty(), |moved, path| {
                        let at = Spot::new(&at.folder, OsStr::from_bytes(path.name()));
                        put_part(staging, aside, &at, path.as_path()).map(|some| moved | some)
                    });
                    match put {
                        // What belongs to the old one must not lie beside the new one.
                        Err(why) if matches!(new.look(), Ok(Some(_))) => return Err(cleared.undo(why)),
                        done => {
                            let gone = cleared.sides().filter_map(|from| {
                                let below = from.strip_prefix(target.path()).ok()?;
                                EntryPath::new(below.as_os_str().as_bytes()).ok()
                            });
                            beside.extend(gone);
                            done?
                        }
                    }
                }
                _ => put_part(staging, aside, &at, &part)?,
            };
        }
        Ok((moved, beside))
    }
}

/// The folder for what was in the way, which is made when there is something.
struct Aside {
    spot: Spot,
    made: OnceCell<Arc<Folder>>,
}

impl Aside {
    /// Where that goes which was at `part` of the target; the folders above it are made.
    fn place(&self, part: &Path) -> Result<Spot> {
        let doing = || format!("make {}", self.spot.path().join(part.parent().unwrap_or(part)).display());
        let top = match self.made.get() {
            Some(made) => made,
            None => {
                let made = self.spot.folder.make(&self.spot.name, 0o700).doing(doing)?;
                self.made.get_or_init(|| Arc::new(made))
            }
        };
        let above = top.make_all(part.parent().unwrap_or(Path::new("")), 0o700).doing(doing)?;
        Ok(Spot::new(&Arc::new(above), part.file_name().unwrap_or_default()))
    }
}

/// How much of `path` has to be put in: up to the first folder above it that is missing, or all of it. And the folder that
/// it goes into.
fn missing_from(target: &Folder, path: &EntryPath) -> Result<(PathBuf, Folder)> {
    let mut found = PathBuf::new();
    let mut at = target.enter_all(Path::new("")).doing(|| format!("open {}", target.path().display()))?;
    for part in path.as_path().components() {
        found.push(part);
        if found == path.as_path() {
            break;
        }
        let above = at.path().join(part);
        at = match at.enter(part) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => break,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let why = format!("{} is not a folder, and what is in it cannot be put there", above.display());
                return Err(Error::usage(format!("restore {path}"), why).hint("Move it away and run it again."));
            }
            Err(why) => return Err(why).doing(|| format!("look at {}", above.display())),
        };
    }
    Ok((found, at))
}

/// What the staging folder has at `part`, if anything.
fn in_tree(staging: &Staging, part: &Path) -> Result<Option<(Spot, FileType)>> {
    let tree = staging.tree();
    let doing = || format!("look at {}", tree.path().join(part).display());
    let above = tree.enter().and_then(|tree| tree.enter_all(part.parent().unwrap_or(Path::new(""))));
    let above = match above {
        Err(Errno::NOENT) => return Ok(None),
        above => above.doing(doing)?,
    };
    let new = Spot::new(&Arc::new(above), part.file_name().unwrap_or_default());
    let found = new.look().doing(doing)?;
    Ok(found.map(|stat| (new, FileType::from_raw_mode(stat.st_mode))))
}

/// Puts one file or folder in, and aside what is there. Says whether something was.
fn put_part(staging: &Staging, aside: &Aside, at: &Spot, part: &Path) -> Result<bool> {
    // A folder above was missing for an earlier path too, and is in place with all that is selected in it; or the entry
    // was damaged and left out; or it is a side file, and came with its database.
    let Some((new, _)) = in_tree(staging, part)? else { return Ok(false) };
    // The new one leaves a folder that may not be writable, and that is not used itself.
    let doing = || format!("open {}", new.folder.path().display());
    if fstat(&new.folder).doing(doing)?.st_mode & 0o700 != 0o700 {
        new.folder.set_mode(0o700).doing(doing)?;
    }
    let moved = swap(&new, at, || aside.place(part))?;
    sync_folder(&at.folder)?;
    Ok(moved)
}

/// The path of a folder without symlinks on the way. The last name is taken as it is: somebody may put a link there after it
/// was seen to be none. One that ends in a slash or a dot means what a link leads to.
fn real(target: &Path) -> io::Result<PathBuf> {
    let bytes = target.as_os_str().as_bytes();
    let name = target.file_name().filter(|_| !bytes.ends_with(b"/") && !bytes.ends_with(b"/."));
    let (Some(name), Some(parent)) = (name, target.parent()) else { return target.canonicalize() };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(parent.canonicalize()?.join(name))
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
fn swap(new: &Spot, at: &Spot, aside: impl FnOnce() -> Result<Spot>) -> Result<bool> {
    let doing = || format!("put the restored {} into place", at.path().display());
    if at.look().doing(doing)?.is_none() {
        move_over(new, at).map_err(|why| why.within(doing()))?;
        return Ok(false);
    }
    let aside = aside()?;
    let why = match rename(new, &aside) {
        Ok(()) => {
            let why = match exchange(&aside, at) {
                Ok(()) => return Ok(true),
                Err(why) => why,
            };
            rename(&aside, new).doing(doing)?;
            why
        }
        Err(why) if moves_files_only(why) => Errno::NOSYS,
        Err(why) => return Err(why).doing(doing),
    };
    match why {
        // A filesystem that cannot exchange: the target is missing for a moment.
        Errno::INVAL | Errno::NOSYS | Errno::NOTSUP => {
            let moved = move_over(at, &aside).and_then(|()| {
                move_over(new, at).map_err(|why| match rename(&aside, at) {
                    Ok(()) => why,
                    Err(_) => why.hint(format!("What was there is in {}.", aside.path().display())),
                })
            });
            moved.map_err(|why| why.within(doing())).map(|()| true)
        }
        Errno::BUSY | Errno::XDEV => Err(Error::failed(doing(), "it is a mount point").hint(USE_IN_PLACE)),
        why => Err(why).doing(doing),
    }
}

/// Renames without replacing anything, folder by folder where a filesystem does not rename them.
fn move_over(from: &Spot, to: &Spot) -> Result<()> {
    match rename(from, to) {
        Err(why) if moves_files_only(why) => fill::move_in(from, to),
        done => done.doing(|| format!("move {} to {}", from.path().display(), to.path().display())),
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
