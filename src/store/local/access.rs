//! Who may use what is made in a vault's folder.
//!
//! A vault holds copies of files that were closed to others, so its folders are 0700 and its files 0600, whatever the umask says. A
//! vault that people share has a folder that gives its group what it does not give everybody (2770, 0750): what is made in it
//! gets that group, with the same permissions. It also gets the folder's owner, where the program may give files away: root, beside
//! the app whose vault it is. Nothing is ever made for others.

use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, RawMode, Stat, Uid, fchmod, fchown, fstat};
use rustix::process::geteuid;

use crate::fs::is_folder;

/// Whose something in a vault is, and what its group may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    owner: u32,
    group: u32,
    /// What the group may do, as permissions of the owner: `0o700` is all.
    shared: RawMode,
}

/// What the group may do to a folder of this mode in which a vault is, as permissions of the owner.
fn shared(mode: RawMode) -> RawMode {
    let (group, others) = (mode >> 3 & 0o7, mode & 0o7);
    if group & !others != 0 { group << 6 } else { 0 }
}

/// The mode of the folder of a vault that is made where there was a folder of mode `mode`: without others, and without a group to which
/// it gives no more than to them.
pub fn closed(mode: RawMode) -> RawMode {
    mode & 0o7700 | shared(mode) >> 3
}

impl Access {
    /// Of what is made in a vault whose folder is `top`.
    pub fn in_vault(top: &Stat) -> Self {
        Access { owner: top.st_uid, group: top.st_gid, shared: shared(top.st_mode) }
    }

    /// Sets group, mode and owner of a file or folder that was just made, for its owner alone.
    ///
    /// # Errors
    /// A filesystem without such modes or owners, or a right that root lacks. It is as closed as it was made then, or more open to those who
    /// share the vault, and to nobody else.
    pub fn give(self, made: impl AsFd) -> rustix::io::Result<()> {
        let stat = fstat(&made)?;
        let full = if is_folder(&stat) { 0o700 } else { 0o600 };
        let group = Gid::from_raw(self.group);
        let in_group = stat.st_gid == self.group || self.shared != 0 && fchown(&made, None, Some(group)).is_ok();
        let of_group = if in_group { (self.shared & full) >> 3 } else { 0 };
        let mode = stat.st_mode & 0o7000 | full | of_group;
        if mode != stat.st_mode & 0o7777 {
            fchmod(&made, Mode::from_raw_mode(mode))?;
        }
        // Last: what is another's cannot be changed any more.
        if stat.st_uid != self.owner && geteuid().is_root() {
            fchown(&made, Some(Uid::from_raw(self.owner)), None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!((shared(mode), closed(mode)), (group, made), "{mode:o}");
        }
    }
}
