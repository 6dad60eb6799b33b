//! Checks for vaults in the way of a restore: what is in a target moves aside, and a vault that lies in it would go
//! along.

use std::path::{Path, PathBuf};

use super::mounts;
use crate::error::{Code, Error, Result};
use crate::fs::location::{lies_in, names_in};
use crate::path::EntryPath;

/// Checks that the vaults in the folders `vaults` stay as they are when `paths`, or everything if it is empty, are
/// restored to `target`. A mount of its own in the target is never moved. All folders are absolute, without symlinks as
/// far as they exist.
///
/// # Errors
/// Usage: a vault that is the target or around it, or that would move aside or be written into.
pub fn check(target: &Path, paths: &[EntryPath], vaults: &[PathBuf]) -> Result<()> {
    let doing = || format!("restore into {}", target.display());
    for vault in vaults {
        if lies_in(target, vault) {
            let why = format!("it is the vault {} or lies in it", vault.display());
            return Err(Error::usage(doing(), why).with_code(Code::BadTarget).hint("Restore to another directory."));
        }
        let names = names_in(vault, target);
        if names.is_empty() {
            continue;
        }
        let mounts = mounts::below(target)?;
        if !names.iter().all(|name| stays(name, paths, &mounts)) {
            let why = format!("the vault {} lies in it, and would move aside with what is there", vault.display());
            return Err(Error::usage(doing(), why).with_code(Code::BadTarget).hint(
                "Restore into another directory, or move the vault out of this one first: `--vault URL` names it.",
            ));
        }
    }
    Ok(())
}

/// Whether the vault at a path of the target stays as it is.
fn stays(vault: &EntryPath, paths: &[EntryPath], mounts: &[EntryPath]) -> bool {
    // A volume that is itself restored does not keep what is on it.
    let keeps = |mount: &EntryPath, path: &EntryPath| mount != path && mount.is_in(path) && vault.is_in(mount);
    let spares = |path: &EntryPath| {
        let moves = vault.is_in(path) && !mounts.iter().any(|mount| keeps(mount, path));
        !moves && !path.is_in(vault)
    };
    match paths.is_empty() {
        true => spares(&EntryPath::root()),
        false => paths.iter().all(spares),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_stays_on_a_mount_of_its_own_and_beside_what_is_put_back() {
        for (vault, paths, mounts, is) in [
            ("v", &[][..], &[][..], false),
            ("v", &[], &["w"], false),
            ("v", &[], &["v"], true),
            ("v/deep", &[], &["v"], true),
            // Only some of it would stay.
            ("v", &[], &["v/packs"], false),
            ("v", &["app.db"], &[], true),
            ("v", &["app.db", "v"], &[], false),
            ("v", &["v/packs"], &["v"], false),
            ("a/v", &["a"], &[], false),
            ("a/v", &["a"], &["a/v"], true),
            ("a/v", &["a"], &["a"], false),
            ("a/v", &["a/b"], &["a"], true),
        ] {
            let path = |name: &&str| EntryPath::new(*name).unwrap();
            let all = |names: &[&str]| names.iter().map(path).collect::<Vec<_>>();
            assert_eq!(stays(&path(&vault), &all(paths), &all(mounts)), is, "{vault} {paths:?} {mounts:?}");
        }
    }
}
