//! What cannot be relied on where a filesystem is another program's, or another machine's.
//!
//! There, locks and shared memory do not exist or bind only this machine while another one writes; inode numbers are given
//! anew at every mount, and come again for other files; and what was written may fail as late as when it is closed.

use std::os::fd::AsFd;

use rustix::fs::fstatfs;
use rustix::io::Errno;

/// Filesystems over a network or in another program, by the number that `statfs` gives: locks and shared memory either do not
/// exist, or bind only this machine while another one writes.
const REMOTE: &[(u32, &str)] = &[
    (0x6573_5546, "FUSE"),
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFE53_4D42, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0x0102_1997, "9p"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0xAAD7_AAEA, "PanFS"),
    (0x786F_4256, "a VirtualBox shared folder"),
    (0xBACB_ACBC, "a VMware shared folder"),
    (0x7C7C_6673, "a Parallels shared folder"),
];

/// The name of the filesystem that a file is on, if that is over a network or in another program.
///
/// # Errors
/// A filesystem that does not say what it is.
pub fn remote(file: impl AsFd) -> Result<Option<&'static str>, Errno> {
    // The kernel's numbers have 32 bits, whatever the type's width and sign.
    let kind = fstatfs(file)?.f_type as u32;
    Ok(REMOTE.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name))
}

/// ZFS, as `statfs` names it.
const ZFS: u32 = 0x2FC1_2FC1;

/// Whether a file's filesystem may call a range a hole that an app has written to, and that has not reached the disk: OpenZFS
/// did until 2.2.2, for some seconds after the write (its issue 15526).
pub fn may_invent_holes(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|said| said.f_type as u32 == ZFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_folder_is_not_remote() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("file")).unwrap();
        let kind = fstatfs(&file).unwrap().f_type as u32;
        assert_eq!(remote(&file).unwrap().is_some(), REMOTE.iter().any(|(number, _)| *number == kind));
        assert_eq!(remote(std::fs::File::open("/proc/self/stat").unwrap()), Ok(None));
    }
}
