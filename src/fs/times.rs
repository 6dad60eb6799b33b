//! Tells when files changed: whether a file is as it was, and how long a filesystem's clock stands still.

use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Stat, fstat};

/// The time now, in ns since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX))
}

/// A file's mtime, in ns since 1970.
pub fn mtime(stat: &Stat) -> i64 {
    nanos(stat.st_mtime, stat.st_mtime_nsec)
}

/// When anything of a file last changed, by the filesystem's own clock, in ns since 1970.
pub fn ctime(stat: &Stat) -> i64 {
    nanos(stat.st_ctime, stat.st_ctime_nsec)
}

/// When a file was last changed, in ns since 1970. Its mtime may have been set by a program, for example to that of a
/// copy; its ctime is the filesystem's.
pub fn changed(stat: &Stat) -> i64 {
    mtime(stat).max(ctime(stat))
}

/// The longest that a local filesystem's clock stands still, in ns: a write within that time does not move a file's
/// time.
pub const TICK: i64 = 12_000_000;

/// As [`TICK`], in ns, for filesystems whose times are whole seconds; FAT counts two at a time.
const COARSE_TICK: i64 = 2_000_000_000;

/// How long the clock of the filesystem that gave this time stands still, in ns; `time` is in ns since 1970.
pub fn tick_of(time: i64) -> i64 {
    if time % 1_000_000_000 == 0 { COARSE_TICK } else { TICK }
}

/// Waits until a file that was written to just now could not be written to once more without its time moving, so that
/// what is read next is known to be whole if the time is the same afterwards. Returns whether it had to wait.
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
/// A file's status directly before its first byte is read, and when that was: whatever happened to the file since it
/// was opened, no length is older than what is read. A file that was written to just now is waited for, once more if
/// that goes on.
///
/// # Errors
/// An error of the system.
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

/// Nanoseconds since 1970, as far as 64 bits reach (to the year 2262).
pub fn nanos(seconds: i64, nanos: u64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add_unsigned(nanos)
}
