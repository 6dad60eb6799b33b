//! Identifies the place of the data directory, and tells whether it is the same as in a snapshot.
//!
//! In the same place, a file of the same inode number, change time, size and mtime has the content that it had: every
//! change moves the change time, which no program sets. In another place numbers and change times mean nothing.
//!
//! A wrong "the same" would trust a file that is another one; a wrong "another" costs that files are read. A directory
//! is told from all others by its inode number together with its time of birth in nanoseconds. Neither a boot nor
//! another machine changes them, while a restore, a new container and an unpacked image create new ones. So a reboot
//! alone is not a new place, and neither is a disk that moves to another machine. Device numbers are not considered:
//! they are given in the order in which disks are found, and change with a boot.
//!
//! The pair comes again where a whole filesystem is copied or set back: a cloned disk, a snapshot of a machine. There
//! the files' numbers and change times come again as well, together with the content that they stood for, so they tell
//! as much as before: what was changed on either side since has another change time, as long as clocks go on. Two kinds
//! of directories are left out:
//!
//! - A birth time in whole seconds was not given by a kernel but by a program that made an image (`mkfs -d`), perhaps
//!   the same for every version of it, with the same inode numbers, and change times, for other content.
//! - Some filesystems tell no time of birth.
//!
//! These are the same only in one boot, on one device.

use rustix::fs::{AtFlags, statx};

use std::path::Path;

use crate::error::{Doing, Result};
use crate::fs::beneath::{Directory, FileIdentity, born};
use crate::fs::filesystem::Mounted;
use crate::vault::parts::Parts;
use crate::vault::root::{Root, SourceIdentity};

/// The place of the data directory now, given all that is mounted; `remote` tells whether its filesystem is another
/// machine's or program's.
///
/// # Errors
/// A directory that cannot be looked at.
pub fn identify(
    data: &Path,
    boot: &str,
    root: &Directory,
    remote: bool,
    mounted: &[Mounted],
) -> Result<SourceIdentity> {
    let doing = || format!("read the data directory {}", data.display());
    let stat = statx(root.folder(), "", AtFlags::EMPTY_PATH, FileIdentity::FLAGS).doing(doing)?;
    let born = born(&stat).map(|(seconds, part)| crate::fs::times::nanos(seconds, part.into()));
    // If several filesystems are mounted over a place, the last one is what is there.
    let on = mounted.iter().filter(|mounted| root.path().starts_with(&mounted.at));
    let on = on.max_by_key(|mounted| mounted.at.components().count()).filter(|_| remote || born.is_none());
    let path = on.and_then(|on| root.path().strip_prefix(&on.at).ok()).map(|path| path.display().to_string());
    Ok(SourceIdentity {
        boot: boot.to_owned(),
        device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        inode: stat.stx_ino,
        born,
        source: on.map(|on| on.source.clone()),
        path,
    })
}

/// How the place of a snapshot compares with the place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// The same place: inode numbers and change times can be compared.
    Same,
    /// A filesystem of another machine or program, which gives out its numbers again at every mount. Files are told
    /// apart by size and time alone, here and there, in every backup.
    Unnumbered,
    /// Another place.
    Another,
}

/// Compares the place of a snapshot with the place now. `numbered` tells whether inode numbers mean something on
/// today's filesystem.
pub fn compare(then: &SourceIdentity, now: &SourceIdentity, numbered: bool) -> Likeness {
    if !numbered {
        // Whether it is the same mount cannot be told yet: nothing of the mount is recorded.
        return Likeness::Unnumbered;
    }
    let same_directory = (then.inode, then.born) == (now.inode, now.born);
    let born_of_a_kernel = now.born.is_some_and(|born| born % 1_000_000_000 != 0);
    let one_boot = !now.boot.is_empty() && (&then.boot, then.device) == (&now.boot, now.device);
    match same_directory && (born_of_a_kernel || one_boot) {
        true => Likeness::Same,
        false => Likeness::Another,
    }
}

/// On which terms a backup relies on what a snapshot says about files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whether inode numbers and change times can be compared.
    pub same_place: bool,
    /// The parts in which files have not been read in this place: they were taken over by path, size and time.
    pub unread: Parts,
}

impl Terms {
    /// The terms for the snapshot `root`, for a backup in the place now.
    pub fn of(root: &Root, now: &SourceIdentity, numbered: bool) -> Self {
        let (same_place, unread) = match compare(&root.place, now, numbered) {
            // Programs that do not know parts may have taken over anything.
            Likeness::Same => (true, root.unread.unwrap_or(Parts::ALL)),
            // Reading everything again because of them would move a whole bucket, and afterwards times would tell as
            // little as before.
            Likeness::Unnumbered => (false, root.unread.unwrap_or(Parts::NONE)),
            Likeness::Another => (false, Parts::ALL),
        };
        Terms { same_place, unread }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_known_again_by_its_directory() {
        let whole = Some(1_700_000_000_000_000_000);
        let born = whole.map(|born| born + 4_000_001);
        let place = |boot: &str, device, inode, born| SourceIdentity {
            boot: boot.into(),
            device,
            inode,
            born,
            ..SourceIdentity::default()
        };
        let was = place("boot", 1, 2, born);
        use Likeness::{Another, Same};
        for (what, then, now, likeness) in [
            ("nothing happened", &was, place("boot", 1, 2, born), Same),
            ("a reboot", &was, place("next", 1, 2, born), Same),
            ("a reboot that found disks in another order", &was, place("next", 9, 2, born), Same),
            ("no boot id", &place("", 1, 2, born), place("", 1, 2, born), Same),
            ("a restore", &was, place("boot", 1, 3, born.map(|born| born + 1)), Another),
            ("its inode was given to another folder", &was, place("boot", 1, 2, born.map(|born| born + 1)), Another),
            ("another folder of the same moment", &was, place("boot", 1, 3, born), Another),
            ("an image", &place("boot", 1, 2, whole), place("boot", 1, 2, whole), Same),
            ("an image after a boot", &place("boot", 1, 2, whole), place("next", 1, 2, whole), Another),
            ("an image, mounted elsewhere", &place("boot", 1, 2, whole), place("boot", 5, 2, whole), Another),
            ("not born", &place("boot", 1, 2, None), place("boot", 1, 2, None), Same),
            ("not born, after a boot", &place("boot", 1, 2, None), place("next", 1, 2, None), Another),
            ("not born, no boot id", &place("", 1, 2, None), place("", 1, 2, None), Another),
            ("its birth can be told now", &place("boot", 1, 2, None), place("boot", 1, 2, born), Another),
        ] {
            assert_eq!(compare(then, &now, true), likeness, "{what}");
            assert_eq!(compare(then, &now, false), Likeness::Unnumbered, "{what}");
        }
    }
}
