//! The restore command that a person is told to run: what is printed does the same wherever it is pasted.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::fs::filesystem::{has_mounts, is_mount};
use crate::fs::volumes;
use crate::path::EntryPath;
use crate::shell::{folder, word};
use crate::store::address::argument;
use crate::text::entry_name;

/// A restore as it is typed: `lastgood restore` with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreCommand<'v> {
    /// The vault's address, where it is known.
    pub vault: Option<&'v str>,
    /// Whether the directory itself is filled.
    pub in_place: bool,
    /// Whether mounts in the directory stay.
    pub around_mounts: bool,
    /// The entries that are put back; empty for all.
    pub paths: Vec<EntryPath>,
    /// The snapshot; `None` for the newest good one.
    pub snapshot: Option<String>,
    /// The directory.
    pub target: PathBuf,
}

impl<'v> RestoreCommand<'v> {
    /// Creates a restore to a directory, in place if the directory is a mount point now. A symlink stands for where it leads: a
    /// restore to the link itself would have to replace it.
    pub fn new(vault: Option<&'v str>, target: PathBuf) -> Self {
        let target = if target.is_symlink() { target.canonicalize().unwrap_or(target) } else { target };
        // An error here is no reason to print nothing: the restore says what is wrong with it.
        let in_place = is_mount(&target).unwrap_or(false);
        RestoreCommand { vault, in_place, around_mounts: false, paths: Vec::new(), snapshot: None, target }
    }

    /// Creates a restore of all of the directory, around what is mounted in it now.
    pub fn of_all(vault: Option<&'v str>, target: &Path) -> Self {
        RestoreCommand { around_mounts: has_mounts(target), ..Self::new(vault, target.to_owned()) }
    }

    /// Creates the restores that bring all of the directory back, one after the other: the first one around what is mounted in it
    /// now, and one for each volume that `holds` says is in the snapshot.
    pub fn with_volumes(
        vault: Option<&'v str>,
        target: &Path,
        snapshot: Option<String>,
        holds: impl Fn(&EntryPath) -> bool,
    ) -> Vec<Self> {
        let all = RestoreCommand { snapshot, ..Self::of_all(vault, target) };
        let volumes = if all.around_mounts { volumes::below(&all.target) } else { Vec::new() };
        let of_volume = |volume: EntryPath| RestoreCommand {
            around_mounts: has_mounts(&all.target.join(volume.as_path())),
            paths: vec![volume],
            ..all.clone()
        };
        let alone: Vec<_> = volumes.into_iter().filter(holds).map(of_volume).collect();
        [all].into_iter().chain(alone).collect()
    }
}

impl fmt::Display for RestoreCommand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lastgood restore")?;
        if let Some(vault) = self.vault {
            write!(f, " --vault {}", argument(vault))?;
        }
        if self.in_place {
            f.write_str(" --in-place")?;
        }
        if self.around_mounts {
            f.write_str(" --around-mounts")?;
        }
        for path in &self.paths {
            write!(f, " {}", path_option(path))?;
        }
        if let Some(snapshot) = &self.snapshot {
            write!(f, " --snapshot {snapshot}")?;
        }
        write!(f, " {}", folder(&self.target))
    }
}

/// Returns the option that names a path in a snapshot, as a shell takes it.
pub fn path_option(path: &EntryPath) -> String {
    // With `./` before it, it is no option, whatever it begins with.
    let dash = if path.bytes().starts_with(b"-") { "./" } else { "" };
    format!("--path {}", word(format!("{dash}{}", entry_name(path.bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_matters_is_named_and_quoted() {
        let mut command = RestoreCommand::of_all(None, Path::new("/no such/data"));
        assert_eq!(command.to_string(), "lastgood restore '/no such/data'");
        command.paths = ["a\n b", "-x/y"].map(|path| EntryPath::new(path).unwrap()).into();
        (command.vault, command.snapshot) = (Some("/my vault"), Some("12ab".into()));
        let paths = "--path 'a\\x0a b' --path ./-x/y";
        let expected = format!("lastgood restore --vault '/my vault' {paths} --snapshot 12ab '/no such/data'");
        assert_eq!(command.to_string(), expected);
        // The folder `/` is a mount point with mounts in it.
        let root = RestoreCommand::of_all(Some("gs://b-1/x"), Path::new("/"));
        assert_eq!(root.to_string(), "lastgood restore --vault gs://b-1/x --in-place --around-mounts /");
    }
}
