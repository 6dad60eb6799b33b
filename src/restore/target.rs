//! Puts a restored tree where it belongs, without destroying what is there.
//!
//! Existing content is exchanged for the new in one step, so the target is either the old or the new at every moment;
//! the old is then found under another name. A target that cannot be exchanged, such as a mount point, is filled in
//! place (see [`put`](super::put)).
//!
//! The folder in which that happens is opened once, before the staging folder is made in it, and all names are looked up in
//! it and below it without following links. So nothing elsewhere is renamed or changed, whatever is put in the way.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use jiff::Timestamp;
use rustix::fs::{Access, FileType, access, renameat, syncfs};
use rustix::io::Errno;

use super::attributes::take_over_none;
use super::capabilities::sync_folder;
use super::lock::lock_target;
use super::plan::EntrySelection;
use super::put::{Putting, USE_IN_PLACE, is_fixed};
use super::side_files::{self, SideFilePaths};
use super::stage::{CreatedFolders, StagingFolder};
use super::staging_names::shortened;
use super::undo::Undone;
use super::{in_place, mounts, standing};
use crate::error::{Doing, Error, Kind, Result};
use crate::fs::filesystem::{self, is_mount};
use crate::fs::{Folder, Spot, is_folder, location};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::shell::word;
use crate::source::marker::{self, MARKER, Unfinished};
use crate::vault::root::SnapshotName;

/// The result of putting a restored tree into place: what was there before, and what could not be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Where the previous content was moved. `None` if there was none.
    pub aside: Option<PathBuf>,
    /// Side files that were moved aside, of databases that were put back one by one.
    pub beside: Vec<EntryPath>,
    /// Number of folders that stayed in place and could not be given their metadata.
    pub undressed: u64,
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
            Err(why) if why.kind() == io::ErrorKind::Other => return Err(Error::usage(doing(), why).hint(other)),
            named => named.doing(doing)?,
        };
        let found = match fs::symlink_metadata(&at) {
            Ok(meta) => Some(meta),
            Err(why) if why.kind() == io::ErrorKind::NotFound => None,
            Err(why) if why.kind() == io::ErrorKind::NotADirectory => {
                return Err(Error::usage(doing(), "something above it is not a folder").hint(other));
            }
            Err(why) => return Err(Error::io(doing(), &why)),
        };
        if let Some(meta) = &found
            && !meta.is_dir()
        {
            let what = if meta.is_symlink() { "a symbolic link" } else { "not a folder" };
            return Err(Error::usage(doing(), format!("it is {what}")).hint(other));
        }
        let (exists, target) = (found.is_some(), at);
        if !how.in_place && exists && is_mount(&target).doing(doing)? {
            return Err(Error::usage(doing(), "it is a mount point, which cannot be exchanged").hint(USE_IN_PLACE));
        }
        let mut place = RestoreTarget {
            target,
            snapshot: None,
            vault: None,
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
                return Err(Error::usage(doing(), why).hint("Restore it to another folder, and copy its content."));
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
            let alone = match self.target.join(first.as_path()).is_dir() {
                true => format!("`--path {}` restores what is on it", word(first.as_path())),
                // A mounted file cannot be replaced where it is.
                false => {
                    "what is mounted by itself can be restored to another folder, and copied from there".to_owned()
                }
            };
            return Err(Error::usage(format!("restore to {}", self.target.display()), why).hint(format!(
                "--around-mounts restores everything else, entry by entry, and leaves what is mounted as it is; {alone}."
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

    /// Checks that something can be made where the staging folder will be, as far as the system can tell beforehand.
    ///
    /// # Errors
    /// Failed: nothing can be made there.
    pub fn check_writable(&self) -> Result<()> {
        let base = self.base();
        let there = filesystem::existing(&base);
        let may = |folder: &Path| access(folder, Access::WRITE_OK | Access::EXEC_OK);
        let Err(why) = may(there) else { return Ok(()) };
        let hint = match why {
            Errno::ROFS => {
                "It is mounted read-only: mount it so that it can be written to, or restore to another folder."
            }
            _ if !self.in_place && self.exists && may(&self.target).is_ok() => {
                "Run it as a user who may write there. Or --in-place fills the folder itself: what is there is then moved into a \
                 folder inside it."
            }
            _ => {
                "Run it as a user who may write there, or change its owner or mode. Where `lsattr -d` shows it as i, `chattr -i` ends that."
            }
        };
        let doing = format!("restore to {}", self.target.display());
        let why = format!("nothing can be made in {}: {}", there.display(), io::Error::from(why));
        Err(Error::failed(doing, why).hint(hint))
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
    pub(super) fn also(&mut self, sides: SideFilePaths) -> Result<()> {
        let all: Vec<_> =
            self.paths.drain(..).chain(sides.there).filter(|path| !sides.lacking.contains(path)).collect();
        self.paths = outermost(&all);
        self.lacking = sides.lacking;
        if Unfinished::can_name(&self.paths_below()) {
            return Ok(());
        }
        let doing = format!("restore {} paths to {}", self.paths.len(), self.target.display());
        let hint = "Restore a part of them at a time, or the folders that they lie in.";
        Err(Error::usage(doing, "together they are longer than what can be noted of an unfinished restore").hint(hint))
    }

    /// The entries that are put back, none of them inside another; empty for all.
    pub fn paths(&self) -> &[EntryPath] {
        &self.paths
    }

    /// Selects the entries of the snapshot that are restored.
    pub fn wanted(&self) -> EntrySelection<'_> {
        EntrySelection { paths: (!self.paths.is_empty()).then_some(&*self.paths), but: &self.kept, never: &self.marker }
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

    /// Returns a message for each restore to this target that was cut off, or whose marker is unclear.
    pub fn broken(&self) -> Vec<String> {
        let mut told = Vec::new();
        let mut said = |of: &str, folder: &Path| match Unfinished::at(folder) {
            Ok(said) => said,
            Err(unclear) => {
                told.push(format!("{of}: {unclear}. {}", unclear.advice));
                None
            }
        };
        let kept = self.kept.iter().map(|kept| (kept, said(&kept.to_string(), &self.target.join(kept.as_path()))));
        let kept: Vec<_> = kept.collect();
        if let Some(unfinished) = said("the target", &self.folder()) {
            let mut of = "an in-place restore".to_owned();
            if !unfinished.is_all() {
                of = format!("a restore of {unfinished}");
            }
            told.push(match unfinished.without(&self.paths_below(), &self.lacking_below()) {
                Some(left) => {
                    let ends = left.command(self.vault.as_deref(), &self.target, &self.within);
                    format!("the target is broken: {of} had been interrupted; `{ends}` ends that")
                }
                None => {
                    let aside = unfinished.was_there(&self.folder());
                    // If the folder is exchanged, it moves along.
                    let told = |at: &PathBuf| match at.strip_prefix(&self.target) {
                        Ok(below) if !self.keeps_target() => format!("{}, in what moves aside now", below.display()),
                        _ => at.display().to_string(),
                    };
                    let aside: String =
                        aside.iter().map(|at| format!("; what was there before is in {}", told(at))).collect();
                    format!("the target was broken: {of} had been interrupted; this one completes it{aside}")
                }
            });
        }
        for (kept, said) in kept {
            if let Some(unfinished) = said {
                let ends = unfinished.command(self.vault.as_deref(), &self.target, kept);
                told.push(format!("{kept} is broken: a restore of it in place was cut off; `{ends}` ends that"));
            }
        }
        told
    }

    /// Adds to the error that the snapshot lacks a path how an interrupted restore can be completed, if there was one
    /// that may have had that path.
    pub(super) fn lacking(&self, why: Error) -> Error {
        let said = Unfinished::at(&self.folder()).unwrap_or_default();
        let Some(unfinished) = said.filter(|said| !said.is_all() && why.kind() == Kind::Usage) else { return why };
        let ends = unfinished.command(self.vault.as_deref(), &self.target, &self.within);
        let hint = format!(
            "A restore of {unfinished} there was cut off: `{ends}` ends that, with the snapshot that it was of, and so \
             does a restore of all of it."
        );
        let both = why.advice().map(|advice| format!("{advice} {hint}"));
        why.hint(both.unwrap_or(hint))
    }

    /// Whether a path is that of the marker by which a restore says that it is not finished.
    pub fn is_marker(&self, path: &EntryPath) -> bool {
        path.is_in_one_of(&self.marker)
    }

    /// Makes the staging folder. Also returns what is to be reported of other staging folders, as
    /// [`StagingFolder::make`] does.
    ///
    /// # Errors
    /// A system call that fails; a target that could not be exchanged there. Nothing that was made for it stays then.
    pub fn stage(&self, ctx: &Context) -> Result<(StagingFolder, Vec<String>)> {
        let doing = || format!("make the folder that {} goes into", self.target.display());
        if self.exists {
            return match self.in_place {
                true => StagingFolder::make(Folder::straight(&self.folder()).doing(doing)?, OsStr::new(""), ctx),
                false => self.stage_in(Folder::straight(self.parent()).doing(doing)?, ctx),
            };
        }
        let there = filesystem::existing(self.parent());
        let within = |path: &Path| path.strip_prefix(there).map(Path::to_owned).unwrap_or_default();
        let mut made: Vec<_> = self.parent().ancestors().take_while(|above| *above != there).map(within).collect();
        if self.in_place {
            made.insert(0, within(&self.target));
        }
        let made = CreatedFolders { base: Folder::open(there).doing(doing)?, folders: made };
        let staged = fs::create_dir_all(self.parent()).doing(doing).and_then(|()| {
            let above = Folder::open(self.parent()).doing(doing)?;
            if !self.in_place {
                return self.stage_in(above, ctx);
            }
            let target = above.make_all(Path::new(self.name()?), 0o777).doing(doing)?;
            take_over_none(target.readable().doing(doing)?).doing(doing)?;
            // Another restore may have made it and be filling it.
            let (locked, note) = lock_target(&self.target, ctx)?;
            let (staging, mut left) = StagingFolder::make(target, OsStr::new(""), ctx)?;
            left.extend(note);
            Ok((staging.locking(locked), left))
        });
        match staged {
            Ok((staging, left)) => Ok((staging.with(made), left)),
            Err(why) => {
                made.remove();
                Err(why)
            }
        }
    }

    /// Makes the staging folder beside the target, if what is made there can be put into place.
    fn stage_in(&self, above: Folder, ctx: &Context) -> Result<(StagingFolder, Vec<String>)> {
        let (staging, left) = StagingFolder::make(above, self.name()?, ctx)?;
        let moves = if self.keeps_target() { Ok(true) } else { staging.moves_folders() };
        let why = match moves {
            Ok(true) => return Ok((staging, left)),
            Ok(false) => {
                let why = "folders cannot be renamed on that filesystem";
                Error::usage(format!("restore to {}", self.target.display()), why).hint(USE_IN_PLACE)
            }
            Err(why) => why,
        };
        staging.abandon();
        left.iter().for_each(|left| tracing::warn!("{left}"));
        Err(why)
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
            Error::usage(format!("restore to {}", self.target.display()), "it has no name").hint(USE_IN_PLACE)
        })
    }

    /// Whether the target itself keeps its place: its metadata is then set at the end, or not at all.
    pub fn keeps_target(&self) -> bool {
        self.in_place || (self.exists && !self.paths.is_empty())
    }

    /// Puts the tree in `staging`, which is whole and verified, into place, and returns what was there. `last` is
    /// called before anything is moved and may refuse; `dress` gives a target that is filled in place the metadata that
    /// the snapshot has for it.
    ///
    /// # Errors
    /// A system call that fails, and any error of `last`: the target is then as it was, or, if a step could not be
    /// undone, the error says what is where. An error after the last step says that what was restored is in place.
    pub fn put(
        &self,
        staging: StagingFolder,
        now: Timestamp,
        ctx: &Context,
        last: &dyn Fn() -> Result<()>,
        dress: &dyn Fn(&OwnedFd) -> Result<()>,
    ) -> Result<Replaced> {
        let since = match staging.sync().and_then(|()| staging.settle()) {
            Ok(since) => since,
            Err(why) => {
                staging.abandon();
                return Err(why);
            }
        };
        let base = staging.base().clone();
        let kept = self.kept.iter().map(|path| self.below(path)).collect();
        let aside = match self.aside(&staging, now) {
            Ok(aside) => aside,
            Err(why) => {
                staging.abandon();
                return Err(why);
            }
        };
        let mut putting = Putting::new(aside, kept, self.paths_below(), ctx);
        putting.steps.staged = Some((staging.name().into(), since));
        putting.notes = Some(staging.folder().clone());
        putting.snapshot = self.snapshot;
        let (moved, beside) = match last().and_then(|()| self.steps(&mut putting, &staging, last)) {
            Ok(done) => done,
            Err(why) => {
                let Undone { why, whole } = putting.undo(why);
                // A step that could not be undone may involve the staging folder.
                if whole {
                    staging.abandon();
                }
                return Err(why);
            }
        };
        let aside = (moved || !beside.is_empty()).then(|| putting.aside.path());
        let ended = self.end(putting, staging, &base, dress).map_err(|why| {
            let place = match &aside {
                Some(aside) => format!("What was restored is in place, what was there in {}.", aside.display()),
                None => "What was restored is in place.".to_owned(),
            };
            let both = why.advice().map(|advice| format!("{place} {advice}"));
            why.hint(both.unwrap_or(place))
        });
        ended.map(|replaced| Replaced { aside, beside, ..replaced })
    }

    /// Makes durable what was put into place, and clears up.
    fn end(
        &self,
        mut putting: Putting,
        staging: StagingFolder,
        base: &Arc<Folder>,
        dress: &dyn Fn(&OwnedFd) -> Result<()>,
    ) -> Result<Replaced> {
        let doing = |path: &Path| format!("open {}", path.display());
        let target = self.opened(base)?;
        let whole = putting.filled && self.paths_below().is_empty();
        let dress = || match whole && self.in_place {
            true => dress(&target.readable().doing(|| doing(target.path()))?),
            false => Ok(()),
        };
        if putting.filled || putting.is_marked() {
            let readable = target.readable().doing(|| doing(target.path()))?;
            syncfs(&readable).doing(|| format!("write {} to the disk", target.path().display()))?;
        }
        // Whichever restore marked it: the target, or at least the paths that were put there, are whole and durable
        // now. A file of that name that is not a marker was reported before.
        let mut gone = self.lacking_below();
        gone.retain(|path| !may_be_there(&target, path));
        let said = Unfinished::read(&target).unwrap_or_default();
        let mut done = self.paths_below();
        let all = done.len();
        done.retain(|path| !putting.damaged.contains(path));
        let left = match done.len() {
            n if n == all => said.as_ref().and_then(|said| said.without(&done, &gone)),
            // Paths that this restore left out are as they were before.
            0 => putting.was_unfinished(said.as_ref()).cloned(),
            _ => putting.was_unfinished(said.as_ref()).and_then(|said| said.without(&done, &gone)),
        };
        let saying = || format!("have {MARKER} in {} say what is left", target.path().display());
        if left.is_some() && left != said {
            marker::set(&target, staging.folder(), left.as_ref()).doing(saying)?;
        }
        let via = staging.folder().clone();
        staging.remove()?;
        dress()?;
        if left.is_none() && said.is_some() {
            marker::set(&target, &via, None).doing(|| format!("remove {MARKER} from {}", target.path().display()))?;
        }
        // At the very end, because everything else changes the times of folders.
        let undressed = putting.dress();
        dress()?;
        sync_folder(&target)?;
        match self.in_place {
            true => sync_folder(&Folder::open(self.parent()).doing(|| doing(self.parent()))?)?,
            false => sync_folder(base)?,
        }
        Ok(Replaced {
            undressed,
            left_out: putting.left_out,
            unfinished: left.filter(|_| done.len() < all),
            ..Replaced::default()
        })
    }

    /// Takes all steps that put what is in `staging` into place. Returns whether something was moved aside, and which
    /// side files were.
    fn steps(
        &self,
        putting: &mut Putting,
        staging: &StagingFolder,
        last: &dyn Fn() -> Result<()>,
    ) -> Result<(bool, Vec<EntryPath>)> {
        if self.exists && mounts::below(&self.target)? != self.mounts {
            let why = "what is mounted in it has changed meanwhile";
            return Err(Error::failed(format!("restore to {}", self.target.display()), why).hint("Run it again."));
        }
        if !self.exists && !self.in_place {
            // The rename replaces nothing, even if something appears there at this moment.
            let tree = staging.tree();
            if !self.has_come(staging)? && putting.steps.rename(&tree, &Spot::new(staging.base(), self.name()?)).is_ok()
            {
                return Ok((false, Vec::new()));
            }
            if self.has_come(staging)? {
                self.lock_what_came(putting)?;
                last()?;
            }
        }
        if !self.paths_below().is_empty() && (self.keeps_target() || self.has_come(staging)?) {
            return self.put_paths(putting, staging);
        }
        let root = EntryPath::root();
        let moved = if self.in_place {
            let tree = staging.tree();
            let tree = Arc::new(tree.enter().doing(|| format!("open {}", tree.path().display()))?);
            putting.fill_folder(&tree, staging.base(), &root)?
        } else {
            putting.replace(&staging.tree(), &Spot::new(staging.base(), self.name()?), &root)?
        };
        putting.forget()?;
        Ok((moved, Vec::new()))
    }

    /// Whether there is a folder at the target now where there was none: an app or another restore may have made it meanwhile.
    fn has_come(&self, staging: &StagingFolder) -> Result<bool> {
        let doing = || format!("look whether {} has come meanwhile", self.target.display());
        Ok(matches!(staging.base().look(self.name()?).doing(doing)?, Some(stat) if is_folder(&stat)))
    }

    /// Locks a target that has appeared meanwhile, and refuses it if something is mounted there.
    fn lock_what_came(&self, putting: &mut Putting) -> Result<()> {
        let doing = || format!("look at {}", self.target.display());
        putting.lock(&self.target)?;
        if !mounts::below(&self.target)?.is_empty() || is_mount(&self.target).doing(doing)? {
            let why = "something was mounted there meanwhile";
            return Err(Error::failed(format!("restore to {}", self.target.display()), why).hint("Run it again."));
        }
        Ok(())
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

    /// Opens the folder that is worked in; `base` is the folder in which the staging folder is.
    fn opened(&self, base: &Arc<Folder>) -> Result<Arc<Folder>> {
        if self.in_place {
            return Ok(base.clone());
        }
        let target = base.enter(self.name()?).doing(|| format!("open {}", self.target.display()))?;
        Ok(Arc::new(target))
    }

    /// Finds a name for what was there: one that is free, and still will be when the tree is in place.
    fn aside(&self, staging: &StagingFolder, now: Timestamp) -> Result<Spot> {
        let (base, tree) = (staging.base(), staging.tree());
        let tree = tree.enter().doing(|| format!("open {}", tree.path().display()))?;
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let stem = match self.in_place {
            true => OsString::from(format!("{}{time}", in_place::REPLACED)),
            false => {
                // Leaves room for a number that may follow.
                let after = format!(".replaced-{time}");
                let mut name = shortened(self.name()?, after.len() + "-999".len());
                name.push(after);
                name
            }
        };
        let numbered = (2..1000).map(|n| {
            let mut name = stem.clone();
            name.push(format!("-{n}"));
            name
        });
        let mut names = std::iter::once(stem.clone()).chain(numbered);
        let is_free = |name: &OsString| matches!((base.look(name), tree.look(name)), (Ok(None), Ok(None)));
        let free = names.find(is_free);
        let free = free.ok_or_else(|| {
            let stem = base.path().join(&stem);
            Error::failed("move aside what is there", format!("{} and its like exist", stem.display()))
        })?;
        Ok(Spot::new(base, free))
    }

    /// Checks, before anything is moved, that the system will not refuse to move any of it.
    fn check_paths_movable(&self, target: &Folder, paths: &[EntryPath]) -> Result<()> {
        for path in paths {
            let (part, above) = missing_from(target, path)?;
            let at = above.path().join(Path::new(OsStr::from_bytes(part.name())));
            let doing = || format!("put the restored {} into place", at.display());
            if access(above.path(), Access::WRITE_OK | Access::EXEC_OK) == Err(Errno::ROFS) {
                return Err(Error::failed(doing(), "it is mounted read-only").hint("Nothing was changed."));
            }
            for name in [OsStr::new(""), OsStr::from_bytes(part.name())] {
                if is_fixed(&above, name).doing(doing)? {
                    let why = format!("{} is immutable or append-only", above.path().join(name).display());
                    let hint = "`lsattr -d` shows it as i or a, and `chattr -i -a` takes it away. Nothing was changed.";
                    return Err(Error::failed(doing(), why).hint(hint));
                }
            }
        }
        Ok(())
    }

    /// Puts the chosen entries into place. Returns whether something was moved aside, and which side files were.
    fn put_paths(&self, putting: &mut Putting, staging: &StagingFolder) -> Result<(bool, Vec<EntryPath>)> {
        let target = self.opened(staging.base())?;
        let (mut moved, mut beside) = (false, Vec::new());
        let paths = self.paths_below();
        putting.within = Some(target.clone());
        for path in &paths {
            if in_tree(staging, path)?.is_none() {
                putting.damaged.push(path.clone());
            }
        }
        if paths.len() > 1 {
            self.check_paths_movable(&target, &paths)?;
            putting.mark(&target)?;
        }
        for path in &paths {
            putting.sides.clear();
            let (part, above) = missing_from(&target, path)?;
            let at = Spot::new(&Arc::new(above), OsStr::from_bytes(part.name()));
            let Some((new, kind)) = in_tree(staging, &part)? else { continue };
            if kind != FileType::RegularFile {
                moved |= put_part(putting, staging, &at, &part)?;
                putting.forget()?;
                continue;
            }
            // Side files that the new file brings go in before it, and nothing of the old file lies beside any of them.
            let own: Vec<_> = side_files::sides(path).filter(|side| paths.binary_search(side).is_ok()).collect();
            let cleared = side_files::clear(putting, &new, &at, path, !own.is_empty())?;
            moved |= !cleared.is_empty();
            beside.extend(cleared.iter().filter_map(|from| {
                let below = from.strip_prefix(target.path()).ok()?;
                EntryPath::new(below.as_os_str().as_bytes()).ok()
            }));
            for path in own.iter().chain([path]) {
                let at = Spot::new(&at.folder, OsStr::from_bytes(path.name()));
                moved |= put_part(putting, staging, &at, path)?;
            }
            putting.forget()?;
        }
        Ok((moved, beside))
    }
}

/// Returns how much of `path` has to be put in (up to the first missing folder above it, or all of it), and the folder
/// that it goes into.
fn missing_from(target: &Folder, path: &EntryPath) -> Result<(EntryPath, Folder)> {
    let mut found = EntryPath::root();
    let mut at = target.enter_all(Path::new("")).doing(|| format!("open {}", target.path().display()))?;
    for part in path.as_path().components() {
        found = found.join(part.as_os_str().as_bytes());
        if found == *path {
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

/// Whether something lies at a path below a folder, or that cannot be determined.
fn may_be_there(folder: &Folder, path: &EntryPath) -> bool {
    let above = path.folder().unwrap_or_default();
    let found = folder.enter_all(above.as_path()).and_then(|above| above.look(OsStr::from_bytes(path.name())));
    !matches!(found, Ok(None) | Err(Errno::NOENT | Errno::NOTDIR))
}

/// Finds what the staging folder has at `part`. `None` if there is nothing.
fn in_tree(staging: &StagingFolder, part: &EntryPath) -> Result<Option<(Spot, FileType)>> {
    let tree = staging.tree();
    let doing = || format!("look at {}", tree.path().join(part.as_path()).display());
    let above = part.folder().unwrap_or_else(EntryPath::root);
    let above = tree.enter().and_then(|tree| tree.enter_all(above.as_path()));
    let above = match above {
        Err(Errno::NOENT) => return Ok(None),
        above => above.doing(doing)?,
    };
    let new = Spot::new(&Arc::new(above), OsStr::from_bytes(part.name()));
    let found = new.look().doing(doing)?;
    Ok(found.map(|stat| (new, FileType::from_raw_mode(stat.st_mode))))
}

/// Puts one file or folder into place, and moves aside what is there. Returns whether something was moved aside.
fn put_part(putting: &mut Putting, staging: &StagingFolder, at: &Spot, part: &EntryPath) -> Result<bool> {
    // A folder above was missing for an earlier path too, and is in place with all that is selected in it; or the entry
    // was damaged and left out; or it is a side file, and came with its database.
    let Some((new, _)) = in_tree(staging, part)? else { return Ok(false) };
    // The new entry moves out of a folder that may not be writable and that is not itself put into place.
    let doing = || format!("open {}", new.folder.path().display());
    if new.folder.mode().doing(doing)? & 0o700 != 0o700 {
        new.folder.set_mode(0o700).doing(doing)?;
    }
    let moved = putting.replace(&new, at, part)?;
    sync_folder(&at.folder)?;
    Ok(moved)
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
