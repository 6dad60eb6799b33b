//! Tells when a file counts as unchanged, and what happened to a file while it was read.

use std::cmp::Ordering;
use std::fs::File;
use std::io;

use rustix::fs::{Stat, fstat};

use crate::fs::filesystem;
use crate::fs::times::{self, ctime, mtime};

/// An event that befell a file while it was read.
pub struct Happened {
    /// The text for the user.
    pub what: String,
    /// Whether what was read may be a mixture of states.
    pub torn: bool,
    /// Whether the file has become longer: then what was read may be whole all the same, if that is still what the file
    /// begins with.
    pub grew: bool,
}

/// Compares a file's status before and after `read` bytes of it were read. `None` if the file is as it was; otherwise
/// what happened to it.
pub fn compare(before: &Stat, after: &Stat, read: u64) -> Option<Happened> {
    let size = |s: &Stat| u64::try_from(s.st_size).unwrap_or(0);
    let (was, is) = (size(before), size(after));
    // More than a file's size can be read where nobody knows that size: see [`is_beyond_its_size`].
    let same = was == is && read >= was && mtime(before) == mtime(after);
    let torn = |what: String| Some(Happened { what, torn: true, grew: is > was && read == was });
    match is.cmp(&was) {
        // Its bytes are the file's last ones, and whole: only its ctime has moved.
        _ if same && after.st_nlink == 0 => {
            Some(Happened { what: "it was removed or replaced while it was read".into(), torn: false, grew: false })
        }
        _ if same && ctime(before) == ctime(after) => None,
        Ordering::Greater => torn(format!("it grew from {was} to {is} bytes while it was read")),
        Ordering::Less => torn(format!("it shrank from {was} to {is} bytes while it was read")),
        Ordering::Equal => torn("it was written to while it was read".into()),
    }
}

/// Whether a file of which more than `length` bytes were read does not know its size: some filesystems say 0 until a
/// file is read (`/proc`, FUSE with `direct_io`), and network drives say an older size. Such a file is read to its end.
/// A file that has grown says so.
///
/// # Errors
/// An error of the system.
pub fn is_beyond_its_size(file: &File, length: u64) -> io::Result<bool> {
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or(0) <= length)
}

/// Decides when a file counts as unchanged without being read.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    /// Time in ns within which a change may be followed by another one without the time moving: something that changed
    /// at most this long before it was looked at may change again unseen, since a filesystem's clock stands still for
    /// that long.
    pub window: i64,
    /// A file that changed at most this long before it was read may hold pages that have not been written out, in ns.
    /// Until they are, stores through a shared memory map go into them without the file's time moving.
    pub writeback: i64,
    /// Whether the next store moves a file's time once its pages have been written out.
    pub shows_stores: fn(&File) -> bool,
    /// One in this many of the files that look unchanged is read all the same, another one at each backup: a store
    /// through a memory map may change a file without any time showing it.
    pub sample: u64,
    /// This many bytes of the files that were taken over from another place are read in each backup until none is left,
    /// and at least a sixteenth of them.
    pub at_least: u64,
    /// The machine's clock, in ns since 1970.
    pub now: fn() -> i64,
}

/// How long Linux leaves a dirty page in memory unless it is told otherwise, in ns: 30 s (`vm.dirty_expire_centisecs`),
/// and then up to 5 s until it next looks (`vm.dirty_writeback_centisecs`).
pub const WRITEBACK: i64 = 35_000_000_000;

impl Default for Trust {
    fn default() -> Self {
        let shows_stores = |file: &File| filesystem::shows_stores(file);
        let (window, writeback, at_least) = (2_000_000_000, WRITEBACK, crate::source::stable::AT_LEAST);
        Trust { window, writeback, shows_stores, sample: 64, at_least, now: times::now }
    }
}

impl Trust {
    /// Whether something with this mtime may have been written to again, after it was looked at at the time `began`,
    /// without its time moving.
    pub fn is_racy(&self, mtime: i64, began: i64) -> bool {
        mtime >= began - self.window
    }

    /// As [`Trust::is_racy`], for a file that an app may have mapped into its memory: all but databases that are read
    /// through SQLite, which writes to none through a map.
    pub fn is_file_racy(&self, file: &File, mtime: i64, began: i64) -> bool {
        mtime >= began - self.window.max(self.writeback) || !(self.shows_stores)(file)
    }
}

/// Bytes that a backup reads of files that were taken over unread, if there are as many.
pub const AT_LEAST: u64 = 64 << 20;
