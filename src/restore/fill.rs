//! Filling a target in place: for a mount point, which cannot be exchanged as a whole.
//!
//! A marker file says that the folder is being filled. What was there moves into a folder inside the target, then the new
//! entries move out of the staging folder, which is inside the target too. A target with the marker is *broken*; the next
//! restore completes it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, fchmod, fchown, fstat, futimens, openat, syncfs,
};
use rustix::io::Errno;

use super::attributes;
use super::lacking::{kept, sync, sync_folder};
use super::stage::{STAGING, Staging};
use crate::error::{Doing, Error, Result};
use crate::filesystem;
use crate::fs::{Folder, SAFE, Spot, is_folder, rename, what};

/// The file that says that a folder is being filled.
pub const MARKER: &str = ".lastgood-in-place";
/// What the name of the folder for old entries begins with.
pub const REPLACED: &str = "lastgood.replaced-";

/// Whether a name in the target is ours: it is not moved aside, and no entry may have it.
pub fn is_reserved(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == MARKER.as_bytes() || name.starts_with(STAGING.as_bytes()) || name.starts_with(REPLACED.as_bytes())
}

/// Checks that no other filesystem is mounted inside `target`: it would move aside with its folder.
///
/// # Errors
/// Usage: that there is one.
pub fn check(target: &Path) -> Result<()> {
    let doing = || format!("restore to {} in place", target.display());
    let mounted = match filesystem::mounted() {
        Ok(mounted) => mounted,
        // Without /proc nobody can tell; a rename that cannot be done fails by itself.
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(Error::io(doing(), &why)),
    };
    if let Some(inside) = mounted.iter().find(|mounted| mounted.at.starts_with(target) && mounted.at != target) {
        let why = format!("another filesystem is mounted inside it, at {}", inside.at.display());
        return Err(Error::usage(doing(), why).hint("Unmount that one, or restore to another folder."));
    }
    Ok(())
}

/// Moves what is in the folder of `staging`, the target, to `aside` and the tree of `staging` in; then `dress` gives the
/// target itself what the snapshot says of it. Says whether something was there.
///
/// # Errors
/// What the system refuses; the target keeps its marker then.
pub fn fill(staging: Staging, aside: &Spot, dress: &dyn Fn(&OwnedFd) -> Result<()>) -> Result<bool> {
    let target = staging.base().clone();
    let doing = || format!("fill {} in place", target.path().display());
    mark(&target).doing(doing)?;
    sync_folder(&target)?;
    let moved = exchange(&target, &staging, aside).map_err(|why| {
        let old = match aside.look() {
            Ok(Some(there)) if is_folder(&there) => format!("What was there is in {}. ", aside.path().display()),
            _ => String::new(),
        };
        why.within(doing()).hint(format!("{old}Restore again to complete it: {MARKER} marks the folder as broken."))
    })?;
    let folder = target.readable().doing(doing)?;
    syncfs(&folder).doing(doing)?;
    staging.remove()?;
    target.remove_file(MARKER).doing(doing)?;
    dress(&folder)?;
    sync(&folder).doing(doing)?;
    Ok(moved)
}

fn exchange(target: &Arc<Folder>, staging: &Staging, aside: &Spot) -> Result<bool> {
    let old: Vec<_> = names(target)?.into_iter().filter(|name| !is_reserved(name)).collect();
    if !old.is_empty() {
        let made = aside.folder.make(&aside.name, 0o700);
        let aside = Arc::new(made.doing(|| format!("make {}", aside.path().display()))?);
        for name in &old {
            move_in(&Spot::new(target, name), &Spot::new(&aside, name))?;
        }
        sync_folder(&aside)?;
    }
    let tree = staging.tree();
    let tree = Arc::new(tree.enter().doing(|| format!("open {}", tree.path().display()))?);
    for name in names(&tree)? {
        move_in(&Spot::new(&tree, &name), &Spot::new(target, &name))?;
    }
    Ok(!old.is_empty())
}

fn mark(target: &Folder) -> io::Result<()> {
    let flags = SAFE | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let mut marker = match openat(target, MARKER, flags, Mode::from_raw_mode(0o600)) {
        // An earlier restore left it. It is not written again: it may be another name of some other file.
        Err(Errno::EXIST) => {
            return match target.look(MARKER)? {
                Some(there) if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile => {
                    Err(io::Error::other(format!("{MARKER} in it is {}; remove that first", what(&there))))
                }
                _ => Ok(()),
            };
        }
        made => File::from(made?),
    };
    marker
        .write_all(b"lastgood is filling this folder, or was stopped while it did. Restore again to complete it.\n")?;
    marker.sync_all()
}

fn names(folder: &Folder) -> Result<Vec<OsString>> {
    folder.names().doing(|| format!("read the folder {}", folder.path().display()))
}

/// Moves an entry to a free name; a folder that cannot be renamed entry by entry.
///
/// # Errors
/// What the system refuses.
pub fn move_in(from: &Spot, to: &Spot) -> Result<()> {
    let doing = || format!("move {} to {}", from.path().display(), to.path().display());
    let why = match rename(from, to) {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    let is_final = matches!(why, Errno::EXIST | Errno::NOENT | Errno::NOSPC | Errno::DQUOT | Errno::ROFS);
    let stat = match from.look().doing(doing)? {
        Some(stat) if is_folder(&stat) && !is_final => stat,
        _ => return Err(why).doing(doing),
    };
    let old = Arc::new(from.enter().doing(doing)?);
    let new = Arc::new(to.folder.make(&to.name, 0o700).doing(doing)?);
    for name in names(&old)? {
        move_in(&Spot::new(&old, &name), &Spot::new(&new, &name))?;
    }
    like(&old, &stat, &new).doing(doing)?;
    from.folder.remove_folder(&from.name).doing(doing)
}

/// Gives the folder `to` the attributes of the folder `from`, and the owner, mode and time of `meta`, as far as its filesystem keeps
/// such things.
fn like(from: &Folder, meta: &Stat, to: &Folder) -> rustix::io::Result<()> {
    let folder = to.readable()?;
    let now = fstat(&folder)?;
    if (meta.st_uid, meta.st_gid) != (now.st_uid, now.st_gid) {
        kept(fchown(&folder, Some(Uid::from_raw(meta.st_uid)), Some(Gid::from_raw(meta.st_gid))))?;
    }
    attributes::copy(from.readable()?, &folder)?;
    kept(fchmod(&folder, Mode::from_raw_mode(meta.st_mode & 0o7777)))?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: meta.st_atime as _, tv_nsec: meta.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: meta.st_mtime as _, tv_nsec: meta.st_mtime_nsec as _ },
    };
    kept(futimens(&folder, &times)).map(|_| ())
}
