//! Filling a target in place: for a mount point, which cannot be exchanged as a whole.
//!
//! A marker file says that the folder is being filled. What was there moves into a folder inside the target, then the new
//! entries move out of the staging folder, which is inside the target too. A target with the marker is *broken*; the next
//! restore completes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, fchmod, fchown, futimens, syncfs};
use rustix::io::Errno;

use super::lacking::{kept, sync, sync_folder};
use super::place::rename;
use super::stage::{STAGING, Staging};
use crate::error::{Doing, Error, Result};

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
    let mounts = match fs::read("/proc/self/mountinfo") {
        Ok(mounts) => mounts,
        // Without /proc nobody can tell; a rename that cannot be done fails by itself.
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(Error::io(doing(), &why)),
    };
    for line in mounts.split(|&b| b == b'\n') {
        let Some(point) = line.split(|&b| b == b' ').nth(4) else { continue };
        let point = PathBuf::from(OsString::from_vec(plain(point)));
        if point.starts_with(target) && point != target {
            let why = format!("another filesystem is mounted inside it, at {}", point.display());
            return Err(Error::usage(doing(), why).hint("Unmount that one, or restore to another folder."));
        }
    }
    Ok(())
}

/// Undoes the octal escapes of mountinfo.
fn plain(escaped: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\') {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// Moves what is in `target` to `aside` and the tree of `staging` in; then `dress` gives the target itself what the
/// snapshot says of it. Says whether something was there.
///
/// # Errors
/// What the system refuses; the target keeps its marker then.
pub fn fill(target: &Path, staging: Staging, aside: &Path, dress: &dyn Fn(&OwnedFd) -> Result<()>) -> Result<bool> {
    let doing = || format!("fill {} in place", target.display());
    mark(target).doing(doing)?;
    sync_folder(target)?;
    let moved = exchange(target, &staging, aside).map_err(|why| {
        let old = if aside.is_dir() { format!("What was there is in {}. ", aside.display()) } else { String::new() };
        why.within(doing()).hint(format!("{old}Restore again to complete it: {MARKER} marks the folder as broken."))
    })?;
    let folder = OwnedFd::from(File::open(target).doing(doing)?);
    syncfs(&folder).doing(doing)?;
    staging.remove()?;
    fs::remove_file(target.join(MARKER)).doing(doing)?;
    dress(&folder)?;
    sync(&folder).doing(doing)?;
    Ok(moved)
}

fn exchange(target: &Path, staging: &Staging, aside: &Path) -> Result<bool> {
    let doing = || format!("read the folder {}", target.display());
    let old: Vec<_> = names(target).doing(doing)?.into_iter().filter(|name| !is_reserved(name)).collect();
    if !old.is_empty() {
        DirBuilder::new().mode(0o700).create(aside).doing(|| format!("make {}", aside.display()))?;
        for name in &old {
            move_in(&target.join(name), &aside.join(name))?;
        }
        sync_folder(aside)?;
    }
    let tree = staging.tree();
    for name in names(&tree).doing(doing)? {
        move_in(&tree.join(&name), &target.join(&name))?;
    }
    Ok(!old.is_empty())
}

fn mark(target: &Path) -> io::Result<()> {
    let mut marker = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(target.join(MARKER))?;
    marker
        .write_all(b"lastgood is filling this folder, or was stopped while it did. Restore again to complete it.\n")?;
    marker.sync_all()
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|e| e.file_name())).collect()
}

/// Moves an entry to a free name; a folder that cannot be renamed entry by entry.
///
/// # Errors
/// What the system refuses.
pub fn move_in(from: &Path, to: &Path) -> Result<()> {
    let doing = || format!("move {} to {}", from.display(), to.display());
    let why = match rename(from, to) {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    let final_kinds = [
        io::ErrorKind::AlreadyExists,
        io::ErrorKind::NotFound,
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::ReadOnlyFilesystem,
    ];
    if final_kinds.contains(&why.kind()) || !from.symlink_metadata().doing(doing)?.is_dir() {
        return Err(Error::io(doing(), &why));
    }
    DirBuilder::new().mode(0o700).create(to).doing(doing)?;
    for name in names(from).doing(doing)? {
        move_in(&from.join(&name), &to.join(&name))?;
    }
    like(from, to).doing(doing)?;
    fs::remove_dir(from).doing(doing)
}

/// Gives the folder `to` the owner, mode and time of the folder `from`, as far as their filesystem keeps such things.
fn like(from: &Path, to: &Path) -> rustix::io::Result<()> {
    let meta = from.symlink_metadata().map_err(errno)?;
    let folder = File::open(to).map_err(errno)?;
    let now = folder.metadata().map_err(errno)?;
    if (meta.uid(), meta.gid()) != (now.uid(), now.gid()) {
        kept(fchown(&folder, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid()))))?;
    }
    kept(fchmod(&folder, Mode::from_raw_mode(meta.mode() & 0o7777)))?;
    let time = |seconds, nanos: i64| Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    kept(futimens(&folder, &times)).map(|_| ())
}

fn errno(why: io::Error) -> Errno {
    Errno::from_io_error(&why).unwrap_or(Errno::IO)
}
