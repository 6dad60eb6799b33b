//! Tells pseudo filesystems: what they show is the state of the kernel or of a program at that moment, and nothing of it is data.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, major, minor, openat};

use super::SAFE;
use super::filesystem::mounted;

/// These filesystems, by the number that `statfs` gives, with their types in a list of mounts. tmpfs and ramfs are none: a container
/// may keep its data in memory.
const PSEUDO: &[(u32, &str)] = &[
    (0x9FA0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_E0EB, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x1CD1, "devpts"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xF97C_FF8C, "selinuxfs"),
    (0x4341_5D53, "smackfs"),
    (0xCAFE_4A11, "bpf"),
    (0x1980_0202, "mqueue"),
    (0x6165_676C, "pstore"),
    (0x9584_58F6, "hugetlbfs"),
    (0x6573_5543, "fusectl"),
    (0x6265_6570, "configfs"),
    (0x4249_4E4D, "binfmt_misc"),
    (0xDE5E_81E4, "efivarfs"),
    (0x6E73_6673, "nsfs"),
    (0x6759_6969, "rpc_pipefs"),
    (0x6E66_7364, "nfsd"),
    (0x6C6F_6F70, "binder"),
    (0x0765_5821, "resctrl"),
    (0xABBA_1974, "xenfs"),
];
/// The number that `statfs` gives for both tmpfs and devtmpfs.
const TMPFS: u32 = 0x0102_1994;
/// The kernel's folder of devices.
const DEVTMPFS: &str = "devtmpfs";

/// Whether mounts of this type are pseudo filesystems.
pub fn is_type(filesystem: &str) -> bool {
    filesystem == DEVTMPFS || PSEUDO.iter().any(|(_, name)| *name == filesystem)
}

/// The type of the pseudo filesystem that a file or folder is on. `None` if it is on another one, or nothing tells.
pub fn of(file: impl AsFd) -> Option<&'static str> {
    // The kernel's numbers have 32 bits, whatever the type's width and sign.
    match fstatfs(&file).ok()?.f_type as u32 {
        TMPFS => {
            let device = fstat(&file).ok()?.st_dev;
            let device = format!("{}:{}", major(device), minor(device));
            let is_devices = mounted().ok()?.iter().any(|is| is.device == device && is.filesystem == DEVTMPFS);
            is_devices.then_some(DEVTMPFS)
        }
        kind => PSEUDO.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name),
    }
}

/// As [`of`], for a name in an open folder; a symlink is not followed, and nothing is mounted by the look.
pub fn of_name(folder: impl AsFd, name: &OsStr) -> Option<&'static str> {
    of(openat(folder, name, SAFE | OFlags::PATH, Mode::empty()).ok()?)
}

/// As [`of`], for a path.
pub fn at(path: &Path) -> Option<&'static str> {
    of_name(CWD, path.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_shows_is_told_from_what_is_kept() {
        assert_eq!(at(Path::new("/proc")), Some("proc"));
        assert_eq!(at(Path::new("/proc/self/fd")), Some("proc"));
        assert_eq!(at(Path::new("/proc/self")), Some("proc"), "a symlink is itself");
        for mount in mounted().unwrap() {
            // Another mount may hide it, and one that was moved there may be what a program holds.
            let told = at(&mount.at);
            assert!(told.is_none_or(is_type), "{mount:?}");
            if ["tmpfs", "ramfs", "ext4", "overlay"].contains(&mount.filesystem.as_str()) {
                assert!(!is_type(&mount.filesystem));
            }
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!((at(folder.path()), at(&folder.path().join("none"))), (None, None));
    }
}
