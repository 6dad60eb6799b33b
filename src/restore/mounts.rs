//! Finds filesystems that are mounted in a target: a folder that is moved takes them along, and they cannot be renamed
//! themselves.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::error::{Code, Doing, Error, Result};
use crate::fs::filesystem::{self, Mounted, is_mount};
use crate::fs::location::place;
use crate::path::EntryPath;
use crate::sqlite::side_files::SUFFIXES;

/// Returns the mount points below `target`, an absolute path without symlinks. They are relative to it and in order; a
/// mount that another one hides is not among them.
///
/// # Errors
/// A system call that fails; a folder of the target that is mounted in it once more, so that moving one moves both.
pub fn below(target: &Path) -> Result<Vec<EntryPath>> {
    let doing = || format!("look for what is mounted in {}", target.display());
    let places = match filesystem::mounted() {
        Ok(all) => {
            check_apart(target, &all)?;
            let below = all.into_iter().map(|mounted| mounted.at);
            below.filter(|at| at.starts_with(target) && at != target).filter(|at| is_visible(at)).collect()
        }
        // Without /proc every folder is asked.
        Err(why) if why.kind() == io::ErrorKind::NotFound => found_by_walking(target).doing(doing)?,
        Err(why) => return Err(Error::io(doing(), &why)),
    };
    let relative = |at: &PathBuf| {
        let path = at.strip_prefix(target).unwrap_or(at);
        EntryPath::new(path.as_os_str().as_bytes()).map_err(|why| Error::failed(doing(), why))
    };
    let mut found = places.iter().map(relative).collect::<Result<Vec<_>>>()?;
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether a mount at a path can be seen there. One that another mount hides cannot; one that may not be looked at
/// counts as visible.
fn is_visible(at: &Path) -> bool {
    is_mount(at).unwrap_or_else(|why| !matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

fn found_by_walking(target: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![target.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            match is_mount(&entry.path()) {
                Ok(false) if entry.file_type()?.is_dir() => open.push(entry.path()),
                Ok(false) => {}
                _ => found.push(entry.path()),
            }
        }
    }
    Ok(found)
}

/// Checks that no folder of the target is mounted in it at another place: moving it aside there would move what is to
/// stay here.
fn check_apart(target: &Path, all: &[Mounted]) -> Result<()> {
    let Some((device, own)) = place(target, all) else { return Ok(()) };
    for mounted in all.iter().filter(|mounted| mounted.at.starts_with(target) && mounted.at != target) {
        let covered = target_place(&own, target, &mounted.at);
        if mounted.device == device && mounted.root.starts_with(&own) && mounted.root != covered {
            let at = mounted.at.display();
            let why = format!("{at} shows a folder that lies in it too, {}", mounted.root.display());
            return Err(Error::usage(format!("restore to {}", target.display()), why)
                .with_code(Code::MountPoint)
                .hint("Unmount one of the two, or restore to another folder."));
        }
    }
    Ok(())
}

/// Where the path `at` in the target, at which something is mounted, lies on the target's own filesystem.
fn target_place(own: &Path, target: &Path, at: &Path) -> PathBuf {
    own.join(at.strip_prefix(target).unwrap_or(at))
}

/// Returns the paths that stay as they are because of `mounts`, in order. A mounted file may be a database, so it stays
/// together with its side files.
pub fn kept(target: &Path, mounts: &[EntryPath]) -> Vec<EntryPath> {
    let mut kept = Vec::new();
    for mount in mounts {
        if target.join(mount.as_path()).is_dir() {
            kept.push(mount.clone());
            continue;
        }
        let name = mount.bytes();
        let database = SUFFIXES.iter().find_map(|side| name.strip_suffix(side.as_bytes())).unwrap_or(name);
        let sides = SUFFIXES.iter().map(|side| [database, side.as_bytes()].concat());
        kept.extend(sides.chain([database.to_vec()]).filter_map(|path| EntryPath::new(path).ok()));
        kept.push(mount.clone());
    }
    kept.sort();
    kept.dedup();
    kept
}

/// Whether a name is one that a filesystem itself keeps in its root: such entries are never moved, and are no data.
pub fn is_of_the_filesystem(name: &OsStr) -> bool {
    ["lost+found", "aquota.user", "aquota.group"].iter().any(|own| name == *own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(at: &str, device: &str, root: &str) -> Mounted {
        let (filesystem, source) = ("ext4".into(), "/dev/x".into());
        Mounted { at: at.into(), device: device.into(), root: root.into(), filesystem, source }
    }

    #[test]
    fn a_folder_that_is_mounted_in_the_target_twice_is_refused() {
        let apart = |all: &[Mounted]| check_apart(Path::new("/app/data"), all).is_ok();
        let root = || mounted("/", "8:1", "/");
        assert!(apart(&[root()]));
        assert!(apart(&[root(), mounted("/app/data/uploads", "8:2", "/")]));
        // A folder that is mounted onto itself, and one from elsewhere.
        assert!(apart(&[root(), mounted("/app/data/uploads", "8:1", "/app/data/uploads")]));
        assert!(apart(&[root(), mounted("/app/data/uploads", "8:1", "/srv/uploads")]));
        assert!(!apart(&[root(), mounted("/app/data/b", "8:1", "/app/data/a")]));
        let volume = || mounted("/app/data", "8:1", "/srv/data");
        assert!(apart(&[root(), volume(), mounted("/app/data/b", "8:1", "/srv/data/b")]));
        assert!(!apart(&[root(), volume(), mounted("/app/data/b", "8:1", "/srv/data/a")]));
    }

    #[test]
    fn a_database_that_is_mounted_stays_with_what_lies_beside_it() {
        let target = tempfile::tempdir().unwrap();
        fs::create_dir(target.path().join("uploads")).unwrap();
        let path = |name: &str| EntryPath::new(name).unwrap();
        let all = kept(target.path(), &[path("deep/app.db-wal"), path("uploads")]);
        let expected =
            ["deep/app.db", "deep/app.db-journal", "deep/app.db-shm", "deep/app.db-wal", "uploads"].map(path);
        assert_eq!(all, expected);
    }

    #[test]
    fn folders_are_walked_where_nothing_says_what_is_mounted() {
        let target = tempfile::tempdir().unwrap();
        fs::create_dir_all(target.path().join("a/b")).unwrap();
        assert_eq!(found_by_walking(target.path()).unwrap(), [""; 0].map(PathBuf::from));
    }
}
