//! Works in folders that are held open, so that a symlink put on the way leads nowhere else.
//!
//! The system looks a path up again for every call that is given one. Anybody who may write to a folder on the way can
//! put a symlink there between two calls, and the second call then works elsewhere. So only the place that the user
//! named is reached by its path, symlinks and all ([`Folder::open`]). Everything in it is a name in an open folder: no
//! symlink is followed, and whatever is made, renamed, changed or removed is in that folder, wherever the folder is by
//! now.

pub mod answer;
pub mod beneath;
pub mod filesystem;
pub mod holders;
pub mod location;
pub mod lock;
pub mod pseudo;
pub mod rename;
pub mod times;
pub mod volumes;
mod folder;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawMode, Stat, StatxAttributes, StatxFlags, fstat, openat, statx,
};
use rustix::io::{Errno, Result};

pub use self::folder::{DEEP_TREE, Folder, Listed, Spot};

/// Flags for opening that never follow a symlink, and never give the descriptor to a child process.
pub const SAFE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);
/// How long a program may take to write its content into a pipe that is read here.
const PIPE: Duration = Duration::from_secs(10);
/// The mode bits that let anybody but the owner write.
pub const WRITE_OF_OTHERS: RawMode = 0o022;

/// Opens a folder in a folder, for reading its names.
///
/// # Errors
/// As `openat`; anything but a folder is refused.
pub fn open_folder(at: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    openat(at, name, SAFE | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
}

/// How long another program may keep a file to itself by a lease on it: the kernel takes the lease away after 45 s,
/// unless it is told otherwise (fcntl(2), `/proc/sys/fs/lease-break-time`).
pub const LEASE: Duration = Duration::from_secs(50);

/// Opens what a name in a folder stands for, for reading, and returns its status too: where a file is expected there
/// may be a fifo or a device. Opening does not wait for somebody to write into a fifo.
///
/// # Errors
/// As `openat`; a symlink is refused with `LOOP`.
pub fn open_file(at: impl AsFd, name: &OsStr) -> Result<(File, Stat)> {
    let name = single(name)?;
    let began = Instant::now();
    loop {
        match openat(&at, name, SAFE | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            // The attempt to open it has already begun to take the lease away.
            Err(Errno::AGAIN) if began.elapsed() < LEASE => std::thread::sleep(Duration::from_millis(20)),
            Err(why) => return Err(why),
            Ok(opened) => {
                let stat = fstat(&opened)?;
                return Ok((opened.into(), stat));
            }
        }
    }
}

/// Reads a small file that a user named, or what a program writes into a pipe within 10 s. Symlinks are followed.
///
/// # Errors
/// As `open` and `read`; something other than a file or a pipe; more than `most` bytes; a pipe into which nobody
/// writes.
pub fn read_named(path: &Path, most: usize) -> io::Result<(Vec<u8>, Stat)> {
    let file: File = openat(CWD, path, OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?.into();
    let stat = fstat(&file)?;
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Fifo) {
        return Err(io::Error::other(format!("it is {}", what(&stat))));
    }
    let began = Instant::now();
    let mut bytes = Vec::new();
    let mut rest = file.take(most as u64 + 1);
    while let Err(why) = rest.read_to_end(&mut bytes) {
        // For a pipe: what was read so far stays in `bytes`.
        if why.kind() != io::ErrorKind::WouldBlock || began.elapsed() > PIPE {
            return Err(why);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match bytes.len() > most {
        true => Err(io::Error::other(format!("it has more than {most} bytes"))),
        false => Ok((bytes, stat)),
    }
}

/// Whether this is a regular file, and not a symlink to one.
pub fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether this is a folder, and not a symlink to one.
pub fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Names the kind of what lies where a folder or a file is expected, for messages.
pub fn what(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a folder",
        FileType::RegularFile => "a file",
        _ => "neither a file nor a folder",
    }
}

/// Lets only a single name be looked up in a folder: in a longer path, symlinks before the last name would be followed.
fn single(name: &OsStr) -> Result<&OsStr> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
        _ => Ok(name),
    }
}

/// Reads a file from offset `at` until the buffer is full or the file ends. Returns how many bytes were read.
///
/// # Errors
/// An error of the system.
pub fn read_some(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(read)
}

/// Whether a filesystem is mounted at a path below an open folder, or at the folder itself if the path is empty; `None`
/// where the system does not say.
///
/// # Errors
/// A path that cannot be looked at.
pub fn is_mount_at(folder: impl AsFd, path: &Path) -> rustix::io::Result<Option<bool>> {
    let stat = statx(folder, path, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    let says = stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    Ok(says.then(|| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)))
}
