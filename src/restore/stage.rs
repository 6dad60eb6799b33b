//! The staging folder: where a snapshot is made before anything is replaced.
//!
//! It is made in a folder that is held open, and held open itself: all that happens in it, and its end, goes by those
//! descriptors. Who may write around it can move it away, and gains nothing by what is put in its place.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, openat, syncfs};
use rustix::io::Errno;

use super::attributes::pass_nothing_on;
use super::killed::{self, Left};
use super::lacking::{kept, moves_files_only};
use super::write::Tree;
use crate::error::{Doing, Error, Result};
use crate::filesystem::remote;
use crate::fs::{Folder, SAFE, Spot, open_folder, rename};
use crate::monitor::Context;
use crate::vault::hex::Hex;
use crate::vault::path::EntryPath;

/// What a staging folder's name has after the target's name, before random digits.
pub const STAGING: &str = ".lastgood-restoring-";
/// The folder in it that becomes the target.
const TREE: &str = "tree";
/// The folder in it for hard links.
const GROUPS: &str = "groups";

/// A folder that is ours while we hold its lock.
pub struct Staging {
    /// Where it lies.
    spot: Spot,
    folder: Arc<Folder>,
    lock: OwnedFd,
}

impl Staging {
    /// Makes a staging folder in `base` for the target `name` (empty: for the folder itself), and removes those that
    /// killed restores of the same target left. Gives what is to be told of them.
    ///
    /// # Errors
    /// A folder in which none can be made.
    pub fn make(base: Folder, name: &OsStr, ctx: &Context) -> Result<(Staging, Vec<String>)> {
        let prefix = prefix(name);
        let left = sweep(&base, &prefix)?;
        let mut random = [0; 8];
        (ctx.random)(&mut random)?;
        let mut name = prefix;
        name.push(Hex(random).to_string());
        let spot = Spot::new(&Arc::new(base), name);
        let path = spot.path();
        let doing = || format!("make the staging folder {}", path.display());
        let folder = spot.folder.make(&spot.name, 0o700).doing(doing)?;
        let lock = folder.readable().doing(doing)?;
        pass_nothing_on(&lock).doing(doing)?;
        // Where there are no locks, nobody removes what may be in use.
        kept(flock(&lock, FlockOperation::NonBlockingLockExclusive)).doing(doing)?;
        let tree = folder.make(TREE, 0o700).doing(doing)?;
        folder.make(GROUPS, 0o700).doing(doing)?;
        // Between making it and opening it somebody may have put another folder there, and could enter that one. What is
        // made in it says who we are: on some filesystems that is not who runs the program.
        if fstat(&lock).doing(doing)?.st_uid != fstat(&tree).doing(doing)?.st_uid {
            let why = "somebody else has put a folder of their own there meanwhile";
            return Err(Error::failed(doing(), why).hint("Restore to a folder in which only you may write."));
        }
        Ok((Staging { spot, folder: Arc::new(folder), lock }, left))
    }

    /// Whether folders with something in them can be renamed here.
    ///
    /// # Errors
    /// A folder in which nothing can be made.
    pub fn moves_folders(&self) -> Result<bool> {
        let doing = || format!("try to rename a folder in {}", self.folder.path().display());
        let (from, to) = (Spot::new(&self.folder, "probe"), Spot::new(&self.folder, "moved"));
        let probe = self.folder.make(&from.name, 0o700).doing(doing)?;
        let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        openat(&probe, "file", flags, Mode::from_raw_mode(0o600)).doing(doing)?;
        let moved = match rename(&from, &to) {
            Err(why) if moves_files_only(why) => false,
            done => done.doing(doing).map(|()| true)?,
        };
        self.folder.remove_tree(if moved { &to.name } else { &from.name }).doing(doing)?;
        Ok(moved)
    }

    /// The folder that it lies in.
    pub fn base(&self) -> &Arc<Folder> {
        &self.spot.folder
    }

    /// Where the folder is that becomes the target.
    pub fn tree(&self) -> Spot {
        Spot::new(&self.folder, TREE)
    }

    /// The staging folder itself.
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// The staging folder's name in its folder.
    pub fn name(&self) -> &OsStr {
        &self.spot.name
    }

    /// Begins the tree in it, which becomes the entry `top` of the snapshot.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn begin(&self, top: &EntryPath) -> Result<Tree> {
        let doing = || format!("open the staging folder {}", self.folder.path().display());
        let tree = open_folder(&self.lock, OsStr::new(TREE)).doing(doing)?;
        Tree::new(tree, top.clone(), open_folder(&self.lock, OsStr::new(GROUPS)).doing(doing)?)
    }

    /// Makes everything in it durable.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn sync(&self) -> Result<()> {
        syncfs(&self.lock).doing(|| format!("write {} to the disk", self.folder.path().display()))
    }

    /// Removes it and what is still in it.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn remove(self) -> Result<()> {
        let doing = || format!("remove the staging folder {}", self.folder.path().display());
        self.folder.empty().doing(doing)?;
        self.spot.folder.remove_folder(&self.spot.name).doing(doing)
    }
}

/// Whether a name is the prefix and the digits that [`Staging::make`] gives.
fn is_staging(name: &OsStr, prefix: &OsStr) -> bool {
    let digits = name.as_bytes().strip_prefix(prefix.as_bytes());
    digits.is_some_and(|d| d.len() == 16 && d.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')))
}

/// What the names of staging folders for the target `name` begin with.
fn prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::new();
    if !name.is_empty() {
        prefix.push(".");
        prefix.push(name);
    }
    prefix.push(STAGING);
    prefix
}

/// Whether `entry` is the name of a staging folder for the target `name`.
pub fn is_left(entry: &OsStr, name: &OsStr) -> bool {
    is_staging(entry, &prefix(name))
}

/// Removes the staging folders that nobody holds. Gives what is to be told: of those of which that cannot be known, and of what else
/// the restore left that was killed.
fn sweep(base: &Folder, prefix: &OsStr) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for name in base.names().doing(|| format!("look for staging folders in {}", base.path().display()))? {
        if !is_staging(&name, prefix) {
            continue;
        }
        // What is not a folder, or of another user, is not ours.
        let Ok(folder) = base.enter(&name) else { continue };
        let Ok(held) = folder.readable() else { continue };
        let locked = match flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => continue,
            // What a lock says there may be true of this machine only.
            done => done.is_ok() && remote(&held).is_ok_and(|name| name.is_none()),
        };
        if !locked {
            let why = "a restore is under way in it, or one that was killed left it; remove it when none is";
            told.push(format!("{} stays: {why}", folder.path().display()));
        } else {
            tracing::info!("removing {}, which a killed restore left", folder.path().display());
            let folder = Arc::new(folder);
            told.extend(killed::left(base, &folder).map(|left| resolved(left, &folder)));
            let removed = folder.empty().and_then(|()| Ok(base.remove_folder(&name)?));
            removed
                .doing(|| format!("remove {}", folder.path().display()))
                .map_err(|why| why.hint("A killed restore left that folder. Remove it by hand."))?;
        }
    }
    Ok(told)
}

/// Takes what did not come into place back into its staging folder, which is removed. What was in the target stays where it is. Gives what
/// is to be told.
fn resolved(left: Left, staging: &Arc<Folder>) -> String {
    let told = match &left {
        Left::New(aside) => match rename(aside, &Spot::new(staging, "unplaced")) {
            Ok(()) => format!("{left}; it is removed"),
            Err(why) => format!("{left}; it stays: {why}"),
        },
        Left::Old { .. } => left.to_string(),
    };
    // Also where the restore that follows fails: nothing says it again.
    tracing::warn!("{told}");
    told
}
