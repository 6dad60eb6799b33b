//! The staging folder: where a snapshot is made before anything is replaced.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, flock, syncfs};
use rustix::io::Errno;

use super::lacking::{kept, moves_files_only};
use super::write::{Tree, open_folder};
use crate::error::{Doing, Error, Result};
use crate::filesystem::remote;
use crate::monitor::Context;
use crate::vault::hex::Hex;

/// What a staging folder's name has after the target's name, before random digits.
pub const STAGING: &str = ".lastgood-restoring-";

/// A folder that is ours while we hold its lock.
pub struct Staging {
    path: PathBuf,
    lock: OwnedFd,
}

impl Staging {
    /// Makes a staging folder in `folder` for the target `name` (empty: for the folder itself), and removes those that
    /// killed restores of the same target left. Gives those of which it cannot be told whether a restore uses them.
    ///
    /// # Errors
    /// A folder in which none can be made.
    pub fn make(folder: &Path, name: &OsStr, ctx: &Context) -> Result<(Staging, Vec<PathBuf>)> {
        let mut prefix = OsString::new();
        if !name.is_empty() {
            prefix.push(".");
            prefix.push(name);
        }
        prefix.push(STAGING);
        let left = sweep(folder, &prefix)?;
        let mut random = [0; 8];
        (ctx.random)(&mut random)?;
        let mut name = prefix;
        name.push(Hex(random).to_string());
        let path = folder.join(name);
        let doing = || format!("make the staging folder {}", path.display());
        let make = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        make(&path).doing(doing)?;
        let lock = open_folder(CWD, path.as_os_str()).doing(doing)?;
        // Where there are no locks, nobody removes what may be in use.
        kept(flock(&lock, FlockOperation::NonBlockingLockExclusive)).doing(doing)?;
        make(&path.join("tree")).doing(doing)?;
        make(&path.join("groups")).doing(doing)?;
        Ok((Staging { path, lock }, left))
    }

    /// Whether folders with something in them can be renamed here.
    ///
    /// # Errors
    /// A folder in which nothing can be made.
    pub fn moves_folders(&self) -> Result<bool> {
        let doing = || format!("try to rename a folder in {}", self.path.display());
        let (from, to) = (self.path.join("probe"), self.path.join("moved"));
        DirBuilder::new().mode(0o700).create(&from).and_then(|()| fs::write(from.join("file"), "")).doing(doing)?;
        let moved = match fs::rename(&from, &to) {
            Err(why) if moves_files_only(&why) => false,
            done => done.doing(doing).map(|()| true)?,
        };
        remove_tree(if moved { &to } else { &from }).doing(doing)?;
        Ok(moved)
    }

    /// The folder that becomes the target.
    pub fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// The staging folder's name in its folder.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Begins the tree in it.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn begin(&self) -> Result<Tree> {
        let doing = || format!("open the staging folder {}", self.path.display());
        let tree = open_folder(&self.lock, OsStr::new("tree")).doing(doing)?;
        Tree::new(tree, open_folder(&self.lock, OsStr::new("groups")).doing(doing)?)
    }

    /// Makes everything in it durable.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn sync(&self) -> Result<()> {
        syncfs(&self.lock).doing(|| format!("write {} to the disk", self.path.display()))
    }

    /// Removes it and what is still in it.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn remove(self) -> Result<()> {
        remove_tree(&self.path).doing(|| format!("remove the staging folder {}", self.path.display()))
    }
}

/// Removes the staging folders that nobody holds. Gives those of which that cannot be told.
fn sweep(folder: &Path, prefix: &OsStr) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    let doing = || format!("look for staging folders in {}", folder.display());
    for entry in fs::read_dir(folder).doing(doing)? {
        let entry = entry.doing(doing)?;
        let name = entry.file_name();
        let digits = name.as_bytes().strip_prefix(prefix.as_bytes());
        if !digits.is_some_and(|d| d.len() == 16 && d.iter().all(u8::is_ascii_hexdigit)) {
            continue;
        }
        // What is not a folder, or of another user, is not ours.
        let Ok(held) = open_folder(CWD, entry.path().as_os_str()) else { continue };
        let locked = match flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => continue,
            // What a lock says there may be true of this machine only.
            done => done.is_ok() && remote(&held).is_ok_and(|name| name.is_none()),
        };
        if !locked {
            left.push(entry.path());
        } else {
            tracing::info!("removing {}, which a killed restore left", entry.path().display());
            remove_tree(&entry.path())
                .map_err(|why| Error::io(format!("remove {}", entry.path().display()), &why))
                .map_err(|why| why.hint("A killed restore left that folder. Remove it by hand."))?;
        }
    }
    Ok(left)
}

/// Removes a folder and all in it, also folders without write permission.
///
/// # Errors
/// What cannot be removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            unlock(path)?;
            fs::remove_dir_all(path)
        }
        done => done,
    }
}

fn unlock(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}
