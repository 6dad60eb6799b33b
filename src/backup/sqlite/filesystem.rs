//! Whether a database's filesystem has what SQLite needs, found out before SQLite opens anything.

use std::fs::File;

use rustix::fs::{StatVfsMountFlags, fstatfs, fstatvfs};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::header::LOCKS_AT;

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

/// Why a database on this file's filesystem cannot be read through SQLite; none where it can. `wal`: it has a write-ahead log.
///
/// # Errors
/// A filesystem that does not say what it is.
pub fn unfit(file: &File, wal: bool) -> Result<Option<String>, Errno> {
    // The kernel's numbers have 32 bits, whatever the type's width and sign.
    let kind = fstatfs(file)?.f_type as u32;
    if let Some((_, name)) = REMOTE.iter().find(|(number, _)| *number == kind) {
        return Ok(Some(format!("it lies on {name}, where locks cannot be relied on")));
    }
    let wanted = Flock { start: LOCKS_AT, length: 512, ..Flock::from(FlockType::ReadLock) };
    match fcntl_getlk(file, &wanted) {
        Ok(_) => {}
        Err(why) => return Ok(Some(format!("its filesystem has no locks: {why}"))),
    }
    if wal && fstatvfs(file)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(Some("it has a write-ahead log, and its filesystem is mounted read-only".into()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_filesystem_has_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        // A test's folder lies on none of those that are told apart here.
        assert_eq!(unfit(&File::open(&path).unwrap(), true).unwrap(), None);
    }
}
