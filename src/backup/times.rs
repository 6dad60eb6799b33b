//! When files changed: whether one is as it was, and how long a filesystem's clock stands still.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Stat, fstat};

use super::found::nanos;

/// Now, in ns since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX))
}

/// What happened to a file while it was read.
pub struct Happened {
    /// What the user is told.
    pub what: String,
    /// Whether what was read may be a mixture of states.
    pub torn: bool,
    /// Whether it has become longer: then what was read may be whole all the same, if what is there up to its end is still that.
    pub grew: bool,
}

/// Whether a file is as it was; if not, what happened to it.
pub fn compare(before: &Stat, after: &Stat, read: u64) -> Option<Happened> {
    let size = |s: &Stat| u64::try_from(s.st_size).unwrap_or(0);
    let (was, is) = (size(before), size(after));
    // More than its size says can be read where nobody knows that size: see [`is_beyond_its_size`].
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

/// A file's mtime, in ns since 1970.
pub fn mtime(stat: &Stat) -> i64 {
    nanos(stat.st_mtime, stat.st_mtime_nsec)
}

/// When anything of a file changed last as the filesystem counts, in ns since 1970.
fn ctime(stat: &Stat) -> i64 {
    nanos(stat.st_ctime, stat.st_ctime_nsec)
}

/// When a file was changed last, in ns since 1970. Its mtime is what a program may have set, to that of a copy for example;
/// its ctime is the filesystem's.
pub fn changed(stat: &Stat) -> i64 {
    mtime(stat).max(ctime(stat))
}

/// The longest that a local filesystem's clock stands still, in ns: what is written within it does not move a file's time.
pub const TICK: i64 = 12_000_000;

/// As [`TICK`], of filesystems whose times are whole seconds; FAT counts two at a time.
const COARSE_TICK: i64 = 2_000_000_000;

/// How long the clock stands still of a filesystem that gave this time, in ns since 1970.
pub fn tick_of(time: i64) -> i64 {
    if time % 1_000_000_000 == 0 { COARSE_TICK } else { TICK }
}

/// Waits until a file that was written to just now could not be written to once more without its time moving, so that what is
/// read next is known to be whole if its time is the same afterwards. Says whether it had to wait.
pub fn wait_a_tick(stat: &Stat, began: i64) -> bool {
    let since = began.saturating_sub(changed(stat));
    let tick = tick_of(mtime(stat)).min(tick_of(ctime(stat)));
    // A time in the future was set by a program.
    let waits = (-TICK..tick).contains(&since);
    if waits {
        std::thread::sleep(Duration::from_nanos((tick - since) as u64));
    }
    waits
}
/// A file's metadata as it is directly before its first byte is read, and when that was: whatever happened to it since it was
/// opened, no length is older than what is read. One that was written to just now is waited for, once more if that goes on.
///
/// # Errors
/// What the system refuses.
pub fn settled(file: &File, now: fn() -> i64) -> io::Result<(Stat, i64)> {
    for _ in 0..2 {
        let (began, stat) = (now(), fstat(file)?);
        if !wait_a_tick(&stat, began) {
            return Ok((stat, began));
        }
    }
    let began = now();
    Ok((fstat(file)?, began))
}

/// Whether a file of which more than `length` bytes were read does not know its size: some filesystems say 0 until a file is
/// read (`/proc`, FUSE with `direct_io`), and network drives an older one. Such a file is read to its end. One that has grown
/// says so.
///
/// # Errors
/// What the system refuses.
pub fn is_beyond_its_size(file: &File, length: u64) -> io::Result<bool> {
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or(0) <= length)
}
