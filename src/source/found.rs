//! Describes what is at one path of the data directory, as the system reports it.

use rustix::fs::{FileType, Stat};

use crate::fs::times::nanos;
use crate::path::EntryPath;
use crate::sqlite::side_files::Role;
use crate::vault::entry::EntryKind;

/// One entry that the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceEntry {
    /// Its path below the data directory.
    pub path: EntryPath,
    /// The kind of entry.
    pub kind: EntryKind,
    /// Length of its content in bytes; 0 unless it is a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When its content last changed, in ns since 1970.
    pub mtime: i64,
    /// When anything of it last changed, in ns since 1970.
    pub ctime: i64,
    /// The device that it is on.
    pub device: u64,
    /// Its inode number on that device.
    pub inode: u64,
    /// Whether other names lead to it.
    pub linked: bool,
    /// Whether it takes less space than its size needs, so that it may have holes.
    pub sparse: bool,
    /// How it relates to the files beside it.
    pub role: Role,
    /// Whether it is a folder at which something is mounted that is not walked.
    pub apart: bool,
}

impl SourceEntry {
    /// Describes `path` by its status; `None` for what no snapshot holds.
    pub fn new(path: EntryPath, stat: &Stat) -> Option<SourceEntry> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Folder,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            _ => return None,
        };
        let size = if kind == EntryKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        Some(SourceEntry {
            path,
            kind,
            size,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: nanos(stat.st_mtime, stat.st_mtime_nsec),
            ctime: nanos(stat.st_ctime, stat.st_ctime_nsec),
            device: stat.st_dev,
            inode: stat.st_ino,
            linked: kind == EntryKind::File && stat.st_nlink > 1,
            sparse: kind == EntryKind::File && u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size,
            role: Role::Alone,
            apart: false,
        })
    }
}

/// The paths of the files that were listed beside a database.
pub fn sides(found: &SourceEntry) -> impl Iterator<Item = EntryPath> {
    let beside = match found.role {
        Role::Database { wal, journal, shm } => {
            [("-wal", wal.is_some()), ("-journal", journal.is_some()), ("-shm", shm)]
        }
        _ => Default::default(),
    };
    let beside = beside.into_iter().filter(|(_, there)| *there);
    beside.filter_map(|(ending, _)| EntryPath::new([found.path.bytes(), ending.as_bytes()].concat()).ok())
}
