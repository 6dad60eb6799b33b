//! Finds volumes: folders below a directory at which another filesystem is mounted.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::filesystem::{Mounted, is_mount, mounted};
use super::pseudo;
use crate::path::EntryPath;

/// Returns the folders below `folder` at which a filesystem is mounted, as far as the system tells: relative to it, and in order.
/// Pseudo filesystems, and what is mounted below them, are not among them.
pub fn below(folder: &Path) -> Vec<EntryPath> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let all = mounted().unwrap_or_default();
    let volumes = of_data(&folder, &all);
    // Another mount may hide this one.
    let is_there = |volume: &EntryPath| {
        let at = folder.join(volume.as_path());
        at.is_dir() && is_mount(&at).unwrap_or(false)
    };
    volumes.into_iter().filter(is_there).collect()
}

/// Returns the mounts below `folder` that are neither pseudo filesystems nor below one.
fn of_data(folder: &Path, all: &[Mounted]) -> Vec<EntryPath> {
    let below = || all.iter().filter(|mounted| mounted.at != folder && mounted.at.starts_with(folder));
    let pseudo: Vec<_> = below().filter(|mounted| pseudo::is_type(&mounted.filesystem)).collect();
    let is_data = |mounted: &&Mounted| !pseudo.iter().any(|above| mounted.at.starts_with(&above.at));
    let path = |mounted: &Mounted| {
        let path = mounted.at.strip_prefix(folder).ok()?;
        EntryPath::new(path.as_os_str().as_bytes()).ok()
    };
    let mut volumes: Vec<_> = below().filter(is_data).filter_map(path).collect();
    volumes.sort();
    volumes.dedup();
    volumes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_data_is_a_volume() {
        let mounted = |at: &str, filesystem: &str| Mounted {
            at: at.into(),
            device: "8:1".into(),
            root: "/".into(),
            filesystem: filesystem.into(),
            source: "/dev/x".into(),
        };
        let all = [
            mounted("/", "ext4"),
            mounted("/data", "ext4"),
            mounted("/data/b", "tmpfs"),
            mounted("/data/b", "ext4"),
            mounted("/data/a/in", "ext4"),
            mounted("/data/proc", "proc"),
            mounted("/data/proc/in", "ext4"),
            mounted("/database", "ext4"),
        ];
        let found: Vec<_> = of_data(Path::new("/data"), &all).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["a/in", "b"]);
        assert!(below(Path::new("/no such folder")).is_empty());
    }
}
