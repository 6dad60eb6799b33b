//! Puts a restored tree where it belongs, without destroying what is there.
//!
//! Existing content is exchanged for the new in one step, so the target is either the old or the new at every moment;
//! the old is then found under another name. A target that cannot be exchanged, such as a mount point, is filled in
//! place (see [`put`](super::put)).
//!
//! The folder in which that happens is opened once, before the staging folder is made in it, and all names are looked up in
//! it and below it without following links. So nothing elsewhere is renamed or changed, whatever is put in the way.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::renameat;
use rustix::io::Errno;

use self::paths::missing_from;
use super::before_exchange::BeforeExchange;
use super::plan::EntrySelection;
use super::put::USE_IN_PLACE;
use super::side_files::SideFilePaths;
use super::{mounts, standing};
use crate::command::path_option;
use crate::error::{Code, Doing, Error, Result};
use crate::fs::filesystem::{self, is_mount};
use crate::fs::{Folder, location, volumes};
use crate::lineage::Lineage;
use crate::path::EntryPath;
use crate::source::marker::{MARKER, Unfinished};
use crate::vault::root::SnapshotName;

mod lineage;
mod paths;
mod put_into_place;
mod staging;
mod unfinished;

/// The result of putting a restored tree into place: what was there before, and what could not be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Where the previous content was moved. `None` if there was none.
    pub aside: Option<PathBuf>,
    /// Side files that were moved aside, of databases that were put back one by one.
    pub beside: Vec<EntryPath>,
    /// Number of folders that stayed in place and could not be given their metadata.
    pub without_attributes: u64,
    /// Entries that were not put in place because the filesystem itself keeps one of that name at its root.
    pub left_out: Vec<EntryPath>,
    /// The unfinished part of an earlier restore that this one, which left out damaged paths, did not complete.
    pub unfinished: Option<Unfinished>,
}

/// How a target is replaced.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplaceMode {
    /// The target itself is filled, as a mount point has to be.
    pub in_place: bool,
    /// Whatever is mounted in the target stays as it is, and everything around it is filled in place.
    pub around_mounts: bool,
    /// The snapshot holds nothing of what was mounted below its directory (`--one-file-system`).
    pub lacks_mounts: bool,
}

/// Where a restore goes.
#[derive(Debug)]
pub struct RestoreTarget {
    /// The target, absolute.
    pub target: PathBuf,
    /// The snapshot that goes there, once it is known.
    pub snapshot: Option<SnapshotName>,
    /// The address of the vault that the snapshot is in, once it is known.
    pub vault: Option<String>,
    /// What the target says afterwards of where its content comes from; `None` if only some paths are put back.
    pub lineage: Option<Lineage>,
    /// Told where the previous content goes, before it does.
    pub before: Option<BeforeExchange>,
    /// The path of the folder that is worked in: the target itself, or a folder that is mounted in it.
    within: EntryPath,
    exists: bool,
    in_place: bool,
    /// Whether the target is filled itself only because this program, or one that started it, works in it.
    stood_in: bool,
    /// Paths in the target at which something is mounted.
    mounts: Vec<EntryPath>,
    /// Paths that stay as they are because something is mounted there.
    kept: Vec<EntryPath>,
    /// The entries that are put back; empty for all.
    paths: Vec<EntryPath>,
    /// Side files that could lie beside them and are not in the snapshot.
    lacking: Vec<EntryPath>,
    /// The marker's path: a file there says that a restore of the folder that is worked in is not finished.
    marker: [EntryPath; 1],
}

impl RestoreTarget {
    /// Checks that `target` can be restored to, before any work is done. `paths` are the entries to put back; empty for
    /// all.
    ///
    /// # Errors
    /// Usage: a target that is not a folder, or is a mount point without `in_place`, or has something mounted in it
    /// that would move away with it; a path below something that is not a folder.
    pub fn check(target: &Path, how: ReplaceMode, paths: &[EntryPath]) -> Result<RestoreTarget> {
        let doing = || format!("restore to {}", target.display());
        let other = "Name the folder itself, or one that does not exist yet.";
        let at = match location::named(target) {
            Err(why) if why.kind() == io::ErrorKind::Other => {
                return Err(Error::usage(doing(), why).with_code(Code::BadTarget).hint(other));
            }
            named => named.doing(doing)?,
        };
        let found = match fs::symlink_metadata(&at) {
            Ok(meta) => Some(meta),
            Err(why) if why.kind() == io::ErrorKind::NotFound => None,
            Err(why) if why.kind() == io::ErrorKind::NotADirectory => {
                let why = "something above it is not a folder";
                return Err(Error::usage(doing(), why).with_code(Code::BadTarget).hint(other));
            }
            Err(why) => return Err(Error::io(doing(), &why)),
        };
        if let Some(meta) = &found
            && !meta.is_dir()
        {
            let what = if meta.is_symlink() { "a symbolic link" } else { "not a folder" };
            return Err(Error::usage(doing(), format!("it is {what}")).with_code(Code::BadTarget).hint(other));
        }
        let (exists, target) = (found.is_some(), at);
        if !how.in_place && exists && is_mount(&target).doing(doing)? {
            let why = "it is a mount point, which cannot be exchanged";
            return Err(Error::usage(doing(), why).with_code(Code::MountPoint).hint(USE_IN_PLACE));
        }
        let mut place = RestoreTarget {
            target,
            snapshot: None,
            vault: None,
            lineage: None,
            before: None,
            within: EntryPath::root(),
            exists,
            in_place: how.in_place,
            stood_in: false,
            mounts: Vec::new(),
            kept: Vec::new(),
            paths: outermost(paths),
            lacking: Vec::new(),
            marker: [EntryPath::root().join(MARKER.as_bytes())],
        };
        if exists {
            place.mounts = mounts::below(&place.target)?;
            place.go_within()?;
            place.keep_mounts(how)?;
            // If the folder stays the same one, a program that works in it and opens a name finds what was restored.
            place.stood_in = !place.keeps_target() && standing::is_in(&place.target);
            place.in_place |= place.stood_in;
        }
        place.marker = [place.within.join(MARKER.as_bytes())];
        if exists && !place.paths.is_empty() {
            let folder = Folder::straight(&place.target).doing(doing)?;
            place.paths.iter().try_for_each(|path| missing_from(&folder, path).map(drop))?;
        }
        Ok(place)
    }

    /// If all paths lie in one folder that is mounted in the target, works in that folder: nothing is renamed across
    /// filesystems.
    fn go_within(&mut self) -> Result<()> {
        let doing = || format!("restore to {}", self.target.display());
        // If folders are mounted in one another, the deepest comes last.
        let on = |path: &EntryPath| self.mounts.iter().rev().find(|mount| path.is_in(mount)).cloned();
        let mut places: Vec<_> = self.paths.iter().map(on).collect();
        places.dedup();
        match &places[..] {
            [] | [None] => {}
            [Some(mount)] if self.target.join(mount.as_path()).is_dir() => {
                self.within = mount.clone();
                self.in_place = true;
            }
            [Some(mount)] => {
                let why = format!("{mount} is a file that is mounted there by itself, which cannot be replaced");
                return Err(Error::usage(doing(), why)
                    .with_code(Code::MountPoint)
                    .hint("Restore it to another folder, and copy its content."));
            }
            _ => {
                let why = "the paths lie on several filesystems that are mounted in it";
                return Err(Error::usage(doing(), why).hint("Restore them one after the other."));
            }
        }
        Ok(())
    }

    /// Notes what is mounted in what is to be replaced: it stays if `around_mounts` is set, and is refused otherwise.
    fn keep_mounts(&mut self, how: ReplaceMode) -> Result<()> {
        let replaced = |mount: &EntryPath| match self.paths.is_empty() {
            true => true,
            false => *mount != self.within && self.paths.iter().any(|path| mount.is_in(path)),
        };
        let inside: Vec<_> = self.mounts.iter().filter(|mount| replaced(mount)).cloned().collect();
        let Some(first) = inside.first() else { return Ok(()) };
        if !how.around_mounts {
            let more = match inside.len() {
                1 => String::new(),
                all => format!(" ({all} in all)"),
            };
            let why = format!("another filesystem is mounted in it, at {first}{more}, and would move away with it");
            let volumes = volumes::below(&self.target);
            let options: Vec<_> = volumes.iter().filter(|at| inside.contains(at)).map(path_option).collect();
            let alone = match &options[..] {
                _ if how.lacks_mounts => {
                    "; the snapshot has nothing of what was mounted there (--one-file-system)".to_owned()
                }
                [] if self.target.join(first.as_path()).is_dir() => String::new(),
                // A mounted file cannot be replaced where it is.
                [] => "; what is mounted by itself can be restored to another folder, and copied from there".to_owned(),
                [one] => format!("; `{one}` restores what is on it"),
                [all @ .., last] => {
                    format!("; `{}` and `{last}` restore what is on them, one after the other", all.join("`, `"))
                }
            };
            return Err(Error::usage(format!("restore to {}", self.target.display()), why).with_code(Code::MountPoint).hint(format!(
                "--around-mounts restores everything else, entry by entry, and leaves what is mounted as it is{alone}."
            )));
        }
        self.kept = mounts::kept(&self.target, &inside);
        self.in_place = true;
        Ok(())
    }

    /// Paths that stay as they are because something is mounted there, in order.
    pub fn kept(&self) -> &[EntryPath] {
        &self.kept
    }

    /// The kept paths that exist: if a database is mounted by itself, not every file that could lie beside it does.
    pub fn kept_there(&self) -> Vec<EntryPath> {
        let is_there = |path: &&EntryPath| self.target.join(path.as_path()).symlink_metadata().is_ok();
        self.kept.iter().filter(is_there).cloned().collect()
    }

    /// The path of the folder that is worked in: the target itself, or the folder mounted in it in which all paths lie.
    pub fn within(&self) -> &EntryPath {
        &self.within
    }

    /// Turns a path of the target into one relative to the folder that is worked in.
    fn below(&self, path: &EntryPath) -> EntryPath {
        path.below(&self.within).unwrap_or_else(|| path.clone())
    }

    /// The folder that is worked in.
    pub fn folder(&self) -> PathBuf {
        self.target.join(self.within.as_path())
    }

    /// Adds to the paths the side files that the snapshot has beside them, and removes from them the side files that it
    /// lacks.
    ///
    /// # Errors
    /// Usage: together, the paths are too long to be named in a marker.
    pub(super) fn add_side_files(&mut self, sides: SideFilePaths) -> Result<()> {
        let all: Vec<_> =
            self.paths.drain(..).chain(sides.there).filter(|path| !sides.lacking.contains(path)).collect();
        self.paths = outermost(&all);
        self.lacking = sides.lacking;
        if Unfinished::can_name(&self.paths_below()) {
            return Ok(());
        }
        let doing = format!("restore {} paths to {}", self.paths.len(), self.target.display());
        let hint = "Restore a part of them at a time, or the folders that they lie in.";
        Err(Error::usage(doing, "together they are too long for the marker of an unfinished restore").hint(hint))
    }

    /// The entries that are put back, none of them inside another; empty for all.
    pub fn paths(&self) -> &[EntryPath] {
        &self.paths
    }

    /// Selects the entries of the snapshot that are restored.
    pub fn wanted(&self) -> EntrySelection<'_> {
        let paths = (!self.paths.is_empty()).then_some(&*self.paths);
        EntrySelection { paths, but: &self.kept, never: &self.marker, without_own: true }
    }

    /// The paths that will be replaced, whether or not something is there.
    pub fn replaces(&self) -> Vec<PathBuf> {
        match self.paths.is_empty() {
            true => vec![self.target.clone()],
            false => self.paths.iter().map(|path| self.target.join(path.as_path())).collect(),
        }
    }

    /// Whether the target is filled itself only because this program, or one that started it, works in it.
    pub fn is_stood_in(&self) -> bool {
        self.stood_in
    }

    /// Whether a folder of the target is still the same folder under the same name afterwards.
    pub fn stays(&self, path: &EntryPath) -> bool {
        let leads_to = |stays: &EntryPath| stays.is_in(path);
        let replaced = match self.paths.is_empty() {
            true => !path.is_root() || !self.keeps_target(),
            false => self.paths.iter().any(|replaced| path.is_in(replaced)),
        };
        !replaced || leads_to(&self.within) || self.kept.iter().any(|kept| path.is_in(kept) || leads_to(kept))
    }

    /// Whether a path is that of the marker by which a restore says that it is not finished.
    pub fn is_marker(&self, path: &EntryPath) -> bool {
        path.is_in_one_of(&self.marker)
    }

    /// The folder in which the staging folder is made.
    pub fn base(&self) -> PathBuf {
        if self.in_place { self.folder() } else { self.parent().to_owned() }
    }

    fn parent(&self) -> &Path {
        self.target.parent().unwrap_or(Path::new("/"))
    }

    fn name(&self) -> Result<&OsStr> {
        self.target.file_name().ok_or_else(|| {
            Error::usage(format!("restore to {}", self.target.display()), "it has no name")
                .with_code(Code::BadTarget)
                .hint(USE_IN_PLACE)
        })
    }

    /// Whether the target itself keeps its place: its metadata is then set at the end, or not at all.
    pub fn keeps_target(&self) -> bool {
        self.in_place || (self.exists && !self.paths.is_empty())
    }

    /// The entries to put back, relative to the folder that is worked in; empty for all of it.
    fn paths_below(&self) -> Vec<EntryPath> {
        let mut paths: Vec<_> = self.paths.iter().map(|path| self.below(path)).collect();
        if paths.iter().any(EntryPath::is_root) {
            paths.clear();
        }
        paths
    }

    /// The side files that could lie beside them and are not in the snapshot, relative to the folder that is worked in.
    fn lacking_below(&self) -> Vec<EntryPath> {
        self.lacking.iter().map(|path| self.below(path)).collect()
    }
}

/// Sorts the paths and drops each one that lies in another. Empty, for all, if the root is among them.
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
    // The root means everything.
    out.retain(|path| !path.is_root());
    out
}

/// Whether a folder can be renamed where it is, without renaming it: on an overlay, a folder of a lower layer cannot,
/// and any other can. It is tried with a folder that is not empty as the new name, which no system replaces.
///
/// # Errors
/// A folder beside which nothing can be made.
pub fn is_exchangeable(folder: &Path) -> io::Result<bool> {
    let is_overlay = filesystem::is_overlay(fs::File::open(folder)?);
    let (Some(parent), Some(name), true) = (folder.parent(), folder.file_name(), is_overlay) else { return Ok(true) };
    let probe = tempfile::Builder::new().prefix(".lastgood-probe-").tempdir_in(parent)?;
    fs::write(probe.path().join("file"), "")?;
    let parent = fs::File::open(parent)?;
    let taken = probe.path().file_name().unwrap_or_default();
    Ok(renameat(&parent, name, &parent, taken) != Err(Errno::XDEV))
}
