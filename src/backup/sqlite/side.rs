//! Files beside a database, by what the system says of them.

use rustix::fs::{FileType, Stat};

use crate::backup::found::nanos;

/// A file's device and inode.
pub type Id = (u64, u64);

/// Which file a status is of.
pub fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

/// What shows that a file was written to, or that another one has its name.
pub type Looks = [i64; 6];

/// How a file looks.
pub fn looks(stat: &Stat) -> Looks {
    let times = [nanos(stat.st_mtime, stat.st_mtime_nsec), nanos(stat.st_ctime, stat.st_ctime_nsec)];
    [stat.st_size, times[0], times[1], stat.st_ino as i64, stat.st_dev as i64, stat.st_nlink as i64]
}

/// Whether it is a regular file.
pub fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}
