//! Puts single paths back, each with the side files of its database.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, FileType, access};
use rustix::io::Errno;

use super::RestoreTarget;
use crate::error::{Code, Doing, Error, Result};
use crate::fs::{Folder, Spot};
use crate::path::EntryPath;
use crate::restore::capabilities::sync_folder;
use crate::restore::put::{Putting, is_fixed, refuse_fixed};
use crate::restore::side_files;
use crate::restore::stage::StagingFolder;

impl RestoreTarget {
    /// Checks, before anything is moved, that the system will not refuse to move any of it.
    fn check_paths_movable(&self, target: &Folder, paths: &[EntryPath]) -> Result<()> {
        let mut fixed = BTreeSet::new();
        for path in paths {
            let (part, above) = missing_from(target, path)?;
            let at = above.path().join(Path::new(OsStr::from_bytes(part.name())));
            let doing = || format!("put the restored {} into place", at.display());
            if access(above.path(), Access::WRITE_OK | Access::EXEC_OK) == Err(Errno::ROFS) {
                let why = "the filesystem is mounted read-only";
                return Err(Error::failed(doing(), why).with_code(Code::ReadOnly).hint("Nothing was changed."));
            }
            for name in [OsStr::new(""), OsStr::from_bytes(part.name())] {
                if is_fixed(&above, name).doing(doing)? {
                    fixed.insert(if name.is_empty() { above.path().to_owned() } else { above.path().join(name) });
                }
            }
        }
        let fixed: Vec<_> = fixed.into_iter().collect();
        refuse_fixed(&fixed, || format!("put the restored paths into {}", target.path().display()))
    }

    /// Puts the chosen entries into place. Returns whether something was moved aside, and which side files were.
    pub(super) fn put_paths(&self, putting: &mut Putting, staging: &StagingFolder) -> Result<(bool, Vec<EntryPath>)> {
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
pub(super) fn missing_from(target: &Folder, path: &EntryPath) -> Result<(EntryPath, Folder)> {
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
                return Err(Error::usage(format!("restore {path}"), why)
                    .with_code(Code::BadTarget)
                    .hint("Move it away and run it again."));
            }
            Err(why) => return Err(why).doing(|| format!("look at {}", above.display())),
        };
    }
    Ok((found, at))
}

/// Whether something lies at a path below a folder, or that cannot be determined.
pub(super) fn may_be_there(folder: &Folder, path: &EntryPath) -> bool {
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
