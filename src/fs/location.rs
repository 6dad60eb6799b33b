//! Finds where folders are, whatever they are called: by symlinks, by `..`, and by several mounts of one folder.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::fs::answer;
use crate::fs::filesystem::{Mounted, existing, mounted};
use crate::path::EntryPath;

/// The absolute path of something that need not exist: symlinks are followed as far as it exists, and the rest is taken
/// as it is written, without `..`.
///
/// # Errors
/// A symbolic link on the way that leads nowhere; an error of the system.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let at = named(path)?;
    match at.canonicalize() {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(at),
        resolved => resolved,
    }
}

/// As [`resolve`], for a place that may hang. One that does not answer in time is where its name says, without `..`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_in_time(path: &Path) -> io::Result<PathBuf> {
    let Some(resolved) = answer::about(path, resolve) else {
        let mut at = PathBuf::from("/");
        for part in std::path::absolute(path)?.components() {
            match part {
                Component::ParentDir => _ = at.pop(),
                Component::Normal(name) => at.push(name),
                _ => {}
            }
        }
        return Ok(at);
    };
    resolved
}

/// As [`resolve`], except for the last name, which may be a link: somebody may put one there after it was seen not to
/// be one. A path that ends in a slash or a dot means what a link leads to.
///
/// # Errors
/// As [`resolve`].
pub fn named(path: &Path) -> io::Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    let means_folder = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    let path = std::path::absolute(path)?;
    let mut at = PathBuf::from("/");
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        match part {
            Component::ParentDir => _ = at.pop(),
            Component::Normal(name) => at.push(name),
            _ => continue,
        }
        let is_last = parts.peek().is_none() && part != Component::ParentDir && !means_folder;
        let is_link = !is_last && at.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
        if is_link {
            at = at.canonicalize().map_err(|why| match why.kind() {
                io::ErrorKind::NotFound => io::Error::other(format!("{} is a link that leads nowhere", at.display())),
                _ => why,
            })?;
        }
    }
    Ok(at)
}

/// Whether one folder is another one or lies in it, by whatever mount each of them is reached. Both are absolute, and
/// without symlinks as far as they exist.
pub fn lies_in(inner: &Path, outer: &Path) -> bool {
    // Without /proc nothing says what else is mounted where.
    inner.starts_with(outer) || names(inner, &mounted().unwrap_or_default()).any(|name| name.starts_with(outer))
}

/// All paths in `outer`, relative to it, by which `inner`, which lies in it as [`lies_in`] tells, is reached.
pub fn names_in(inner: &Path, outer: &Path) -> Vec<EntryPath> {
    let all = mounted().unwrap_or_default();
    let below = |name: PathBuf| EntryPath::new(name.strip_prefix(outer).ok()?.as_os_str().as_bytes()).ok();
    let mut found: Vec<_> = std::iter::once(inner.to_owned()).chain(names(inner, &all)).filter_map(below).collect();
    found.sort();
    found.dedup();
    found
}

/// All paths by which a folder is reached if filesystems, or parts of them, are mounted several times. A folder that does not answer is
/// taken to be there, by every mount that may show it.
fn names(path: &Path, all: &[Mounted]) -> impl Iterator<Item = PathBuf> {
    let identity = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    let seen = answer::about(path, move |path| (existing(path).to_owned(), identity(existing(path))));
    let answers = seen.is_some();
    let (there, is) = seen.unwrap_or_else(|| (path.to_owned(), None));
    let rest = path.strip_prefix(&there).unwrap_or(Path::new("")).to_owned();
    let own = place(&there, all);
    all.iter().filter_map(move |mounted| {
        let (device, at) = own.as_ref()?;
        let name = mounted.at.join(at.strip_prefix(&mounted.root).ok().filter(|_| *device == mounted.device)?);
        // Another mount may hide the folder there.
        (!answers || is.is_some() && identity(&name) == is).then(|| name.join(&rest))
    })
}

/// The place of a path: the device, as [`Mounted`] names it, and the path on that device.
pub fn place<'m>(path: &Path, all: &'m [Mounted]) -> Option<(&'m str, PathBuf)> {
    // Later mounts hide earlier ones.
    let on = all.iter().filter(|mounted| path.starts_with(&mounted.at));
    let on = on.max_by_key(|mounted| mounted.at.components().count())?;
    Some((&on.device, on.root.join(path.strip_prefix(&on.at).ok()?)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_does_not_exist_is_where_it_would_be_made() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("real/deep")).unwrap();
        symlink(top.join("real/deep"), top.join("link")).unwrap();
        symlink("nowhere/at/all", top.join("dangling")).unwrap();
        for (path, is, last) in [
            ("real", "real", "real"),
            ("new/../v/x", "v/x", "v/x"),
            ("new/../../x/..", "", ""),
            ("new/../link/x", "real/deep/x", "real/deep/x"),
            ("link", "real/deep", "link"),
            ("link/", "real/deep", "real/deep"),
            ("link/.", "real/deep", "real/deep"),
            ("link/..", "real", "real"),
            ("new/../link", "real/deep", "link"),
        ] {
            // As the system does it: above the folder is its parent.
            let expected =
                |name: &str| if path == "new/../../x/.." { top.parent().unwrap().into() } else { top.join(name) };
            assert_eq!(resolve(&top.join(path)).unwrap(), expected(is), "{path}");
            assert_eq!(named(&top.join(path)).unwrap(), expected(last), "{path}");
        }
        assert_eq!(named(&top.join("dangling")).unwrap(), top.join("dangling"));
        for path in ["dangling/", "dangling/x", "dangling/../x"] {
            let why = named(&top.join(path)).unwrap_err().to_string();
            assert!(why.ends_with("dangling is a link that leads nowhere"), "{path}: {why}");
        }
    }

    #[test]
    fn a_folder_lies_where_any_mount_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        for at in ["srv/app/vault", "data/vault", "backups", "hidden"] {
            fs::create_dir_all(top.join(at)).unwrap();
        }
        assert!(lies_in(&top.join("srv/app/vault/x"), &top.join("srv/app")));
        assert!(!lies_in(&top.join("backups"), &top.join("srv")));
        let mounted = |at: &str, root: &str| Mounted {
            at: top.join(at),
            device: "8:1".into(),
            root: root.into(),
            filesystem: "ext4".into(),
            source: "/dev/x".into(),
        };
        let all = [mounted("srv", "/s"), mounted("backups", "/s/app/vault")];
        assert_eq!(place(&top.join("backups/x"), &all), Some(("8:1", "/s/app/vault/x".into())));
        // Both mounts say that the folder is there, and it is another folder that is: a mount that came later hides the
        // first one's.
        assert_eq!(names(&top.join("srv/app/vault"), &all).collect::<Vec<_>>(), [top.join("srv/app/vault")]);
        let all = [mounted("srv", "/s"), mounted("srv/app", "/s/app")];
        let found: Vec<_> = names(&top.join("srv/app/vault/new"), &all).collect();
        assert_eq!(found, [top.join("srv/app/vault/new"), top.join("srv/app/vault/new")]);
    }
}
