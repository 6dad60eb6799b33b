//! What an entry has beside its metadata: extended attributes, and where a symlink points.

use std::fs::File;
use std::path::Path;

use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr, readlink};
use rustix::io::Errno;

use crate::vault::entry::Kind;
use crate::vault::path::Bytes;

/// What a look at an entry adds to its metadata.
#[derive(Debug, Default)]
pub struct Extra {
    /// Extended attributes, by name.
    pub xattrs: Vec<(Bytes, Bytes)>,
    /// Where a symlink points.
    pub target: Option<Bytes>,
}

/// What a path adds to its metadata; no symlink is followed.
///
/// # Errors
/// What the system refuses.
pub fn extra_of(path: &Path, kind: Kind) -> Result<Extra, Errno> {
    let target = match kind {
        Kind::Symlink => Some(Bytes(readlink(path, Vec::new())?.into_bytes())),
        _ => None,
    };
    let xattrs = xattrs(|list| llistxattr(path, list), |name, value| lgetxattr(path, name, value))?;
    Ok(Extra { xattrs, target })
}

/// What an open file adds to its metadata.
///
/// # Errors
/// What the system refuses.
pub fn extra_of_file(file: &File) -> Result<Extra, Errno> {
    Ok(Extra {
        xattrs: xattrs(|list| flistxattr(file, list), |name, value| fgetxattr(file, name, value))?,
        target: None,
    })
}

/// All extended attributes, by name. A filesystem without them has none.
fn xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<(Bytes, Bytes)>, Errno> {
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
                out.push((Bytes(name.to_vec()), Bytes(value)));
            }
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {}
            Err(why) => return Err(why),
        }
    }
    out.sort();
    Ok(out)
}
