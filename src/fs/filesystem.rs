//! Tells filesystems apart: what cannot be relied on where a filesystem is another program's, or another machine's.
//!
//! There, locks and shared memory do not exist, or bind only this machine while another one writes; inode numbers are
//! given out again at every mount, and are used again for other files; and what was written may fail as late as when it
//! is closed.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, fstatfs, statvfs};
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};

use super::{Folder, is_mount_at};

/// Filesystems over a network or in another program, by the number that `statfs` gives. On these, locks and shared
/// memory either do not exist, or bind only this machine while another one writes.
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

/// The name of the filesystem that a file is on, if it is over a network or in another program.
///
/// # Errors
/// A filesystem that does not say what it is.
pub fn remote(file: impl AsFd) -> Result<Option<&'static str>, Errno> {
    // The kernel's numbers have 32 bits, whatever the type's width and sign.
    let kind = fstatfs(file)?.f_type as u32;
    Ok(REMOTE.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name))
}

/// The folder itself if it exists, or else the nearest folder above it that does.
pub fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"))
}

/// As [`remote`], for the filesystem that a folder is on, or will be on when it is made. `None` also if nothing tells.
pub fn remote_at(folder: &Path) -> Option<&'static str> {
    remote(Folder::open(existing(folder)).ok()?).ok()?
}

/// A filesystem that is mounted somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is mounted.
    pub at: PathBuf,
    /// The device's numbers, such as `8:1`; a filesystem without a device has a pair of its own.
    pub device: String,
    /// The folder or file of that filesystem that is seen there.
    pub root: PathBuf,
    /// The filesystem's type, such as `ext4` or `fuse.gcsfuse`.
    pub filesystem: String,
    /// The source of the mount: a device, a bucket's name, a server's folder.
    pub source: String,
}

/// All mounted filesystems, in the order in which they were mounted.
///
/// # Errors
/// An error of the system, including `NotFound` without `/proc`.
pub fn mounted() -> io::Result<Vec<Mounted>> {
    Ok(parse_mounts(&fs::read("/proc/self/mountinfo")?))
}

/// Parses the lines of `/proc/self/mountinfo`: <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>.
fn parse_mounts(text: &[u8]) -> Vec<Mounted> {
    let line = |line: &[u8]| {
        let mut words = line.split(|&b| b == b' ');
        let path = |word: &[u8]| PathBuf::from(OsString::from_vec(plain(word)));
        let device = String::from_utf8_lossy(words.nth(2)?).into_owned();
        let (root, at) = (path(words.next()?), path(words.next()?));
        // Any number of options follows, and a dash.
        let mut after = words.skip_while(|word| *word != b"-").skip(1);
        let text = |word: &[u8]| String::from_utf8_lossy(&plain(word)).into_owned();
        Some(Mounted { at, device, root, filesystem: text(after.next()?), source: text(after.next()?) })
    };
    text.split(|&b| b == b'\n').filter_map(line).collect()
}

/// Undoes the octal escapes of mountinfo.
fn plain(escaped: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\') {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// The number of ZFS in `statfs`.
const ZFS: u32 = 0x2FC1_2FC1;

/// Whether a file's filesystem may report a hole where an app has written something that has not reached the disk yet:
/// OpenZFS did until 2.2.2, for some seconds after the write (its issue 15526).
pub fn may_invent_holes(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|statfs| statfs.f_type as u32 == ZFS)
}

/// Filesystems of this machine that write a file's pages out and protect them against writing meanwhile, so that the
/// next store through a shared memory map is a fault, at which the kernel moves the file's times. Until then it moves
/// none: a page that is dirty already can be stored to without a fault. All of them are disk filesystems that use the
/// kernel's page cache.
const WRITE_PROTECTS: &[u32] = &[
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683E, // Btrfs
    0xF2F5_2010, // F2FS
    0xCA45_1A4E, // bcachefs
    ZFS,
    0x4D44,      // FAT
    0x2011_BAB0, // exFAT
    0x7366_746E, // NTFS3
    0x3153_464A, // JFS
    0x3434,      // NILFS2
    0x0116_1970, // GFS2
    0x7461_636F, // OCFS2
    // Filesystems that cannot be written to at all.
    0x7371_7368, // SquashFS
    0xE0F5_E1E2, // EROFS
    0x9660,      // ISO 9660
];

/// The number of overlayfs in `statfs`: an overlay of filesystems, such as a container's root.
const OVERLAY: u32 = 0x794C_7630;

/// Whether a file or folder is on an overlay of filesystems.
pub fn is_overlay(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|statfs| statfs.f_type as u32 == OVERLAY)
}

/// Whether a store into a file through a shared memory map moves the file's times, at the latest when what was stored
/// before has been written out. Where it may not, a file's times say nothing about its content.
///
/// On tmpfs and ramfs only the first store of a map moves the times, since their pages are never written out: files
/// that a container keeps in memory are such. Other filesystems that are not known count as these. A filesystem of
/// another machine, or of another program, learns of a store when it is sent there, and moves its own time then: there
/// a store shows late, but is not lost.
pub fn shows_stores(file: impl AsFd) -> bool {
    let Ok(statfs) = fstatfs(&file) else { return false };
    let kind = statfs.f_type as u32;
    match kind {
        // The file lies on another filesystem, which the overlay does not name. The overlay passes on whether that
        // filesystem can tell where on its disk a file is; filesystems in memory cannot.
        OVERLAY => is_on_a_disk(&file),
        _ => WRITE_PROTECTS.contains(&kind) || REMOTE.iter().any(|(number, _)| *number == kind),
    }
}

/// The argument of `FS_IOC_FIEMAP`, with room for no extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// Whether a file's filesystem tells where on its disk the file's first byte is.
fn is_on_a_disk(file: impl AsFd) -> bool {
    const FIEMAP: rustix::ioctl::Opcode = opcode::read_write::<Fiemap>(b'f', 11);
    let mut asked = Fiemap { start: 0, length: 1, flags: 0, mapped_extents: 0, extent_count: 0, reserved: 0 };
    // SAFETY: the number is that of `FS_IOC_FIEMAP`, and the structure is the kernel's `struct fiemap`; the kernel
    // writes nothing beyond its end if room for no extents is offered.
    unsafe { ioctl(file, Updater::<FIEMAP, Fiemap>::new(&mut asked)) }.is_ok()
}

/// How many bytes may be written in a folder that exists; `None` if its filesystem does not say.
///
/// # Errors
/// An error of the system.
pub fn free(folder: &Path) -> io::Result<Option<u64>> {
    let statvfs = statvfs(folder)?;
    Ok((statvfs.f_blocks > 0).then(|| statvfs.f_bavail.saturating_mul(statvfs.f_frsize)))
}

/// Whether a filesystem is mounted at a folder.
///
/// # Errors
/// A folder that cannot be looked at.
pub fn is_mount(folder: &Path) -> io::Result<bool> {
    if let Ok(Some(is_mount)) = is_mount_at(CWD, folder) {
        return Ok(is_mount);
    }
    let Some(parent) = folder.parent() else { return Ok(true) };
    Ok(folder.symlink_metadata()?.dev() != parent.metadata()?.dev())
}

/// Whether a filesystem is mounted below a folder, as far as the system tells.
pub fn has_mounts(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let is_below = |at: &Path| at != folder && at.starts_with(&folder);
    // Another mount may hide this one.
    mounted().is_ok_and(|all| all.iter().any(|mounted| is_below(&mounted.at) && is_mount(&mounted.at).unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_and_without_optional_fields() {
        let text = b"22 1 254:1 / / rw,relatime shared:1 master:2 - ext4 /dev/vda1 rw\n\
            40 22 0:40 /in\\040it /srv/a\\040b rw - fuse.gcsfuse my-bucket rw\nnonsense\n";
        let told: Vec<_> = parse_mounts(text)
            .into_iter()
            .map(|mounted| {
                let place = format!("{}:{} {}", mounted.device, mounted.root.display(), mounted.at.display());
                (place, mounted.filesystem, mounted.source)
            })
            .collect();
        let own =
            |(at, filesystem, source): (&str, &str, &str)| (at.to_owned(), filesystem.to_owned(), source.to_owned());
        assert_eq!(
            told,
            [("254:1:/ /", "ext4", "/dev/vda1"), ("0:40:/in it /srv/a b", "fuse.gcsfuse", "my-bucket")].map(own)
        );
    }

    #[test]
    fn a_local_folder_is_not_remote() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("file")).unwrap();
        let kind = fstatfs(&file).unwrap().f_type as u32;
        assert_eq!(remote(&file).unwrap().is_some(), REMOTE.iter().any(|(number, _)| *number == kind));
        assert_eq!(remote(std::fs::File::open("/proc/self/stat").unwrap()), Ok(None));
    }

    #[test]
    fn only_filesystems_that_are_known_to_show_stores_do() {
        assert!(!shows_stores(std::fs::File::open("/proc/self/stat").unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("file")).unwrap();
        let kind = fstatfs(&file).unwrap().f_type as u32;
        const TMPFS: u32 = 0x0102_1994;
        if kind == 0xEF53 {
            assert!(shows_stores(&file) && is_on_a_disk(&file));
        } else if kind == TMPFS {
            assert!(!shows_stores(&file) && !is_on_a_disk(&file));
        }
        if let Ok(file) = tempfile::tempfile_in("/dev/shm")
            && fstatfs(&file).unwrap().f_type as u32 == TMPFS
        {
            assert!(!shows_stores(&file) && !is_on_a_disk(&file));
        }
    }
}
