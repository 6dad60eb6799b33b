//! Flags of an inode that no snapshot holds: those of `chattr +i` and `chattr +a`.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

/// The flags of a file or folder that keep programs from changing it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InodeFlags {
    /// Nothing of it may be changed (`+i`).
    pub immutable: bool,
    /// Content may only be appended (`+a`).
    pub append_only: bool,
}

impl InodeFlags {
    /// Whether it has one of them.
    pub fn any(self) -> bool {
        self.immutable || self.append_only
    }
}

/// Reads the flags of an open file or folder; none where the filesystem or the kernel tells of none. No other field is asked
/// for, so that a filesystem has nothing to look up.
pub fn flags_of(opened: impl AsFd) -> InodeFlags {
    flags(statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::empty()))
}

/// Reads the flags of what is at an absolute path, which is not opened; a symlink is not followed.
pub fn flags_at(path: &Path) -> InodeFlags {
    flags(statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()))
}

fn flags(stat: Result<Statx, Errno>) -> InodeFlags {
    let Ok(stat) = stat else { return InodeFlags::default() };
    InodeFlags {
        immutable: stat.stx_attributes.contains(StatxAttributes::IMMUTABLE),
        append_only: stat.stx_attributes.contains(StatxAttributes::APPEND),
    }
}
