//! Files beside a database, by what the system says of them.

use rustix::fs::{FileType, Stat};

/// A file's device and inode.
pub type Id = (u64, u64);

/// Which file a status is of.
pub fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

/// Whether it is a regular file.
pub fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}
