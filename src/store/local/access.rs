//! Decides who may use what is made in a vault's folder.
//!
//! A vault holds copies of files that were closed to others, so its folders have mode 0700 and its files 0600, whatever
//! the umask says. A vault that people share has a folder that gives its group more than it gives everybody (2770,
//! 0750): what is made in it gets that group, with the same permissions. It also gets the folder's owner, if the
//! program may give files away: if it runs as root, next to the app that the vault belongs to. Nothing is ever made
//! accessible to others.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Gid, Mode, RawMode, Stat, Uid, fchmod, fchown, fstat};
use rustix::process::geteuid;

use crate::fs::is_folder;
use crate::path::shown;
use crate::store::{StoreError, Unshared, to_share};

/// The owner and group of something in a vault, and what its group may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    owner: u32,
    group: u32,
    /// The group's permissions, in the owner's bits: `0o700` is everything.
    shared: RawMode,
}

/// Returns what the group may do to a vault's folder of this mode, in the owner's permission bits.
fn shared(mode: RawMode) -> RawMode {
    let (group, others) = (mode >> 3 & 0o7, mode & 0o7);
    if group & !others != 0 { group << 6 } else { 0 }
}

/// Returns the mode of a vault's folder that is made in place of a folder of mode `mode`: without permissions for
/// others, and for the group only if it had more than they had.
pub fn closed_mode(mode: RawMode) -> RawMode {
    mode & 0o7700 | shared(mode) >> 3
}

impl Ownership {
    /// Returns the ownership of what is made in a vault whose folder is `top`.
    pub fn in_vault(top: &Stat) -> Self {
        Ownership { owner: top.st_uid, group: top.st_gid, shared: shared(top.st_mode) }
    }

    /// Whether the group that shares the vault, if one does, may use what is in it.
    pub fn is_shared(&self, there: &Stat) -> bool {
        let full = if is_folder(there) { 0o700 } else { 0o600 };
        let of_group = (self.shared & full) >> 3;
        // The group may use everything that everybody may use.
        let may = if there.st_gid == self.group { there.st_mode } else { (there.st_mode & 0o7) << 3 };
        may & of_group == of_group
    }

    /// Returns the file or folder `name` as something that the vault's owner or the group that shares the vault may not
    /// use; `None` if they may.
    pub fn unshared(&self, there: &Stat, name: String) -> Option<Unshared> {
        if !self.is_shared(there) {
            return Some(Unshared::Group(name));
        }
        let full = if is_folder(there) { 0o700 } else { 0o600 };
        let (group, others) = (there.st_mode << 3, there.st_mode << 6);
        let may = match there.st_gid == self.group {
            // Whether the owner is in that group is not known; it is taken to be so, since it is the group of the
            // owner's folder.
            true => group | others,
            false => others,
        };
        let closed = there.st_uid != self.owner && may & full != full;
        // Root may use everything.
        (closed && self.owner != 0).then_some(Unshared::Owner { name, owner: self.owner, of: there.st_uid })
    }

    /// Sets group, mode and owner of a file or folder that was just made for its owner alone.
    ///
    /// # Errors
    /// The filesystem has no such modes or owners, or root lacks a right. The file or folder is then as closed as it
    /// was made, or open in addition to those who share the vault, and to nobody else.
    pub fn apply_to(self, made: impl AsFd) -> rustix::io::Result<()> {
        let stat = fstat(&made)?;
        let full = if is_folder(&stat) { 0o700 } else { 0o600 };
        let group = Gid::from_raw(self.group);
        let in_group = stat.st_gid == self.group || self.shared != 0 && fchown(&made, None, Some(group)).is_ok();
        let of_group = if in_group { (self.shared & full) >> 3 } else { 0 };
        let mode = stat.st_mode & 0o7000 | full | of_group;
        if mode != stat.st_mode & 0o7777 {
            fchmod(&made, Mode::from_raw_mode(mode))?;
        }
        // This comes last: what belongs to somebody else cannot be changed any more.
        if stat.st_uid != self.owner && geteuid().is_root() {
            fchown(&made, Some(Uid::from_raw(self.owner)), None)?;
        }
        Ok(())
    }
}

/// Returns the error that an object of the vault in `folder` may not be read, or a folder that it lies in: who owns
/// that, and what to do.
pub fn denied(name: &str, folder: &Path, path: &Path) -> StoreError {
    let told =
        path.ancestors().take_while(|at| at.starts_with(folder)).find_map(|at| Some((at, at.symlink_metadata().ok()?)));
    let why = match told {
        None => "permission denied".to_owned(),
        Some((at, there)) => {
            let (what, mode) = (if there.is_dir() { "the folder" } else { "the file" }, there.mode() & 0o7777);
            format!(
                "{what} {} belongs to the user {} and the group {} (mode {mode:04o})",
                shown(at),
                there.uid(),
                there.gid()
            )
        }
    };
    let share = to_share(folder);
    let hint = format!(
        "Run it as that user or as root. If several users share the vault, one of them or root has to give all of it to a group: {share}."
    );
    StoreError::Denied { name: name.into(), why, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_of_the_vault_whatever_it_is_called() {
        let told = to_share(Path::new("/x/my vault"));
        assert_eq!(told, "`chgrp -R GROUP '/x/my vault'` and `chmod -R u+rwX,g+rwX,o-rwx '/x/my vault'`");
    }

    #[test]
    fn what_a_group_may_use_in_its_vault() {
        let stat = |mode: RawMode, group: u32| {
            let mut stat = fstat(tempfile::tempfile().unwrap()).unwrap();
            (stat.st_mode, stat.st_gid) = (mode, group);
            stat
        };
        let (folder, file) = (0o040_000, 0o100_000);
        for (top, there, group, shared) in [
            (0o700, file | 0o600, 1, true),
            (0o2770, file | 0o600, 7, false),
            (0o2770, file | 0o660, 7, true),
            (0o2770, file | 0o660, 1, false),
            (0o2770, folder | 0o755, 7, false),
            (0o2770, folder | 0o770, 7, true),
            (0o750, folder | 0o750, 7, true),
            (0o750, file | 0o644, 1, true),
            (0o755, file | 0o600, 7, true),
        ] {
            let access = Ownership::in_vault(&stat(folder | top, 7));
            assert_eq!(access.is_shared(&stat(there, group)), shared, "{top:o} {there:o} {group}");
        }
    }

    #[test]
    fn what_an_owner_may_not_use_of_a_vault() {
        let stat = |mode: RawMode, user: u32, group: u32| {
            let mut stat = fstat(tempfile::tempfile().unwrap()).unwrap();
            (stat.st_mode, stat.st_uid, stat.st_gid) = (0o040_000 | mode, user, group);
            stat
        };
        for (vault, there, closed) in [
            ((0o700, 7, 7), (0o700, 7, 7), false),
            ((0o700, 7, 7), (0o700, 0, 0), true),
            ((0o700, 0, 0), (0o700, 7, 7), false),
            ((0o2770, 7, 8), (0o2770, 0, 8), false),
            ((0o755, 7, 7), (0o755, 0, 0), true),
            ((0o777, 7, 7), (0o777, 0, 0), false),
        ] {
            let access = Ownership::in_vault(&stat(vault.0, vault.1, vault.2));
            let found = access.unshared(&stat(there.0, there.1, there.2), "packs".into());
            assert_eq!(found.is_some(), closed, "{vault:?} {there:?}: {found:?}");
        }
    }

    #[test]
    fn a_folder_is_shared_with_its_group_if_that_may_do_more_than_everybody() {
        for (mode, group, made) in [
            (0o755, 0o000, 0o700),
            (0o777, 0o000, 0o700),
            (0o700, 0o000, 0o700),
            (0o711, 0o000, 0o700),
            (0o750, 0o500, 0o750),
            (0o2770, 0o700, 0o2770),
            (0o775, 0o700, 0o770),
            (0o3771, 0o700, 0o3770),
        ] {
            assert_eq!((shared(mode), closed_mode(mode)), (group, made), "{mode:o}");
        }
    }
}
