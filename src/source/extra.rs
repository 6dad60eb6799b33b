//! Reads what an entry has besides its metadata: extended attributes, and where a symlink points.

use std::fs::File;

use rustix::fs::{OFlags, fgetxattr, flistxattr, fstat, lgetxattr, llistxattr, readlinkat};
use rustix::io::Errno;

use super::flags::{InodeFlags, flags_at, flags_of};
use crate::fs::beneath::Directory;
use crate::path::{EntryPath, EscapedBytes};
use crate::vault::entry::EntryKind;

/// The parts of an entry that are not in its metadata.
#[derive(Debug, Default)]
pub struct Extra {
    /// The extended attributes: name and value, by name.
    pub xattrs: Vec<(EscapedBytes, EscapedBytes)>,
    /// Where a symlink points.
    pub target: Option<EscapedBytes>,
    /// The number of the inode that the target, or a folder's attributes, were read from.
    pub inode: Option<u64>,
    /// Whether a symlink may have been made again since, without any time showing it.
    pub racy: bool,
    /// The flags of a file or folder, which no snapshot holds.
    pub flags: InodeFlags,
    /// Why the extended attributes are missing: the entry is worth more than they are, and is stored without them.
    pub refused: Option<Errno>,
}

/// Reads the extra parts of an entry; no symlink is followed.
///
/// # Errors
/// An error of the system; `INVAL` for what is no longer a symlink.
pub fn extra_of(root: &Directory, path: &EntryPath, kind: EntryKind) -> Result<Extra, Errno> {
    if kind == EntryKind::Folder {
        let folder = File::from(root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?);
        return Ok(Extra { inode: Some(fstat(&folder)?.st_ino), ..extra_of_file(&folder) });
    }
    let (target, inode) = match kind {
        EntryKind::Symlink => {
            // Read through a descriptor: the name may lead to another symlink for a moment.
            let link = root.open_at(path, OFlags::PATH)?;
            let target = readlinkat(&link, "", Vec::new())?;
            (Some(EscapedBytes(target.into_bytes())), Some(fstat(&link)?.st_ino))
        }
        _ => (None, None),
    };
    // Anything but a file or folder is not opened: a pipe would wait for its writer. Without /proc there is no other
    // way to its attributes, which are rare there.
    let mut flags = InodeFlags::default();
    let xattrs = match root.through_proc(path) {
        Ok((_above, at)) => {
            if kind == EntryKind::File {
                flags = flags_at(&at);
            }
            xattrs(|list| llistxattr(&at, list), |name, value| lgetxattr(&at, name, value))
        }
        Err(Errno::NOSYS) if kind != EntryKind::File => Ok(Vec::new()),
        Err(why) => return Err(why),
    };
    match xattrs {
        Err(why @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => Err(why),
        xattrs => Ok(Extra { target, inode, flags, ..Extra::of(xattrs) }),
    }
}

/// Reads the extra parts of an open file.
pub fn extra_of_file(file: &File) -> Extra {
    let xattrs = xattrs(|list| flistxattr(file, list), |name, value| fgetxattr(file, name, value));
    Extra { flags: flags_of(file), ..Extra::of(xattrs) }
}

impl Extra {
    fn of(xattrs: Result<Vec<(EscapedBytes, EscapedBytes)>, Errno>) -> Self {
        match xattrs {
            Ok(xattrs) => Extra { xattrs, ..Extra::default() },
            Err(why) => Extra { refused: Some(why), ..Extra::default() },
        }
    }
}

/// All extended attributes, by name. A filesystem without them has none. If a file has more than 64 KiB of names, the
/// kernel returns none (xattr(7)).
fn xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<(EscapedBytes, EscapedBytes)>, Errno> {
    let mut small = [0u8; 256];
    let names = match list(&mut small) {
        Ok(0) | Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => return Ok(Vec::new()),
        Ok(length) => small[..length].to_vec(),
        Err(Errno::RANGE) => {
            // The kernel's own limit for a list of names is 64 KiB.
            let mut large = vec![0; 64 << 10];
            let length = list(&mut large)?;
            large.truncate(length);
            large
        }
        Err(why) => return Err(why),
    };
    let mut out = Vec::new();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        match get(name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                out.push((EscapedBytes(name.to_vec()), EscapedBytes(value)));
            }
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {}
            Err(why) => return Err(why),
        }
    }
    out.sort();
    Ok(out)
}
