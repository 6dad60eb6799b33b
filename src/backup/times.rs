//! When files changed: whether one is as it was, and how long a filesystem's clock stands still.

use std::cmp::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

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
    let same = was == is && read == was && mtime(before) == mtime(after);
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
