//! Extended attributes and access control lists of folders: a restore must neither take them over from the folders
//! around it nor leave old ones behind.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, XattrFlags, fchmod, flistxattr, fremovexattr, fsetxattr};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::capabilities::not_done;
use crate::path::EscapedBytes;
use crate::source::extra::extra_of_file;

/// The attribute of a folder with the access control list that new files and folders in it get (acl(5)).
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// Prefixes of attributes that are a user's or an administrator's, and that a snapshot holds. All others are the
/// system's or the filesystem's own, such as the labels of SELinux, the lists of NFS, the properties of Btrfs and the
/// layout of Ceph.
const OF_USERS: [&[u8]; 2] = [b"user.", b"system.posix_acl_"];
/// The kernel's own limit for a list of names, in bytes.
const NAMES: usize = 64 << 10;

/// Removes a folder's default access control list, so that what is made in it has only what it is given: the lists of
/// the folder around it would open what the snapshot closes.
///
/// # Errors
/// A system call that fails.
pub fn pass_nothing_on(folder: impl AsFd) -> rustix::io::Result<()> {
    match fremovexattr(folder, DEFAULT_ACL) {
        Err(why) if why == Errno::NODATA || not_done(why) => Ok(()),
        done => done,
    }
}

/// Removes the access control lists of a folder that was just made, and closes it to others if it had any: they come
/// from the folder around it, and so does what its mode says of the group.
///
/// # Errors
/// A system call that fails.
pub fn take_over_none(folder: impl AsFd) -> rustix::io::Result<()> {
    if names(&folder)?.iter().any(|name| name.0.starts_with(b"system.posix_acl_")) {
        fchmod(&folder, Mode::RWXU)?;
        remove_others(folder, &[])?;
    }
    Ok(())
}

/// Removes the attributes of an open folder that `kept` does not have, except the system's own.
///
/// # Errors
/// A system call that fails.
pub fn remove_others(folder: impl AsFd, kept: &[(EscapedBytes, EscapedBytes)]) -> rustix::io::Result<()> {
    remove(folder, |name| kept.iter().all(|(kept, _)| kept != name))
}

fn remove(folder: impl AsFd, is_other: impl Fn(&EscapedBytes) -> bool) -> rustix::io::Result<()> {
    for name in names(&folder)? {
        if !is_other(&name) || !OF_USERS.iter().any(|of_users| name.0.starts_with(of_users)) {
            continue;
        }
        match fremovexattr(&folder, OsStr::from_bytes(&name.0)) {
            Err(why) if why == Errno::NODATA || not_done(why) => {}
            done => done?,
        }
    }
    Ok(())
}

/// The extended attributes of a folder.
pub struct Attributes {
    all: Vec<(EscapedBytes, EscapedBytes)>,
    /// The names of attributes that may not be read: they stay where they are, and no other folder gets them.
    unread: Vec<EscapedBytes>,
}

impl Attributes {
    /// Reads the attributes of an open folder.
    ///
    /// # Errors
    /// Too many open files.
    pub fn read(folder: impl AsFd) -> rustix::io::Result<Self> {
        let mut unread = names(&folder)?;
        let all = extra_of_file(&File::from(fcntl_dupfd_cloexec(folder, 0)?)).xattrs;
        unread.retain(|name| all.iter().all(|(read, _)| read != name));
        Ok(Attributes { all, unread })
    }

    /// Gives these attributes to an open folder and removes its other ones, as far as its filesystem supports such
    /// things.
    ///
    /// # Errors
    /// A system call that fails.
    pub fn apply_to(&self, to: impl AsFd) -> rustix::io::Result<()> {
        remove(&to, |name| !self.unread.contains(name) && self.all.iter().all(|(kept, _)| kept != name))?;
        for (name, value) in &self.all {
            match fsetxattr(&to, OsStr::from_bytes(&name.0), &value.0, XattrFlags::empty()) {
                Err(why) if not_done(why) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

/// The names of an open folder's attributes; empty if they may not be listed.
fn names(folder: impl AsFd) -> rustix::io::Result<Vec<EscapedBytes>> {
    let mut list = vec![0; NAMES];
    match flistxattr(folder, &mut list[..]) {
        Err(Errno::ACCESS) => Ok(Vec::new()),
        Err(why) if not_done(why) => Ok(Vec::new()),
        length => {
            let names = list[..length?].split(|&b| b == 0).filter(|name| !name.is_empty());
            Ok(names.map(|name| EscapedBytes(name.to_vec())).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skipped::skipped;

    #[test]
    fn what_may_not_be_read_stays_and_what_is_the_systems_too() {
        let folder = tempfile::tempdir().unwrap();
        let open = File::open(folder.path()).unwrap();
        let set = |name: &str| fsetxattr(&open, name, b"x", XattrFlags::empty());
        if set("user.a").is_err() {
            return skipped("xattrs", "the filesystem of the tests has no extended attributes");
        }
        let was = Attributes::read(&open).unwrap();
        set("user.b").unwrap();
        let of_the_system = set("trusted.c").is_ok();
        let listed = || {
            let own = |name: &EscapedBytes| !name.0.starts_with(b"security.");
            let mut names: Vec<_> = names(&open).unwrap().into_iter().filter(own).collect();
            names.sort();
            names.into_iter().map(|name| String::from_utf8(name.0).unwrap()).collect::<Vec<_>>()
        };
        let hidden = Attributes { unread: vec![EscapedBytes(b"user.b".to_vec())], all: was.all.clone() };
        hidden.apply_to(&open).unwrap();
        let kept = if of_the_system { &["trusted.c", "user.a", "user.b"][..] } else { &["user.a", "user.b"] };
        assert_eq!(listed(), kept);
        was.apply_to(&open).unwrap();
        assert_eq!(listed().iter().filter(|name| name.starts_with("user.")).collect::<Vec<_>>(), ["user.a"]);
        remove_others(&open, &[]).unwrap();
        assert_eq!(listed(), if of_the_system { vec!["trusted.c"] } else { vec![] });
    }
}
