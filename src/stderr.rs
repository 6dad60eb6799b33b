//! Standard error. Text that cannot be written there is dropped: there is nowhere else to say so, and no run may fail or wait for
//! ever because a disk with logs is full, or because the program that reads the log is gone or has stopped reading.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a line waits for the reader to read what was written before. After a wait that was too long, lines are dropped until
/// the reader goes on.
const PATIENCE: Duration = Duration::from_secs(2);
/// A pipe that has any room takes this many bytes without blocking.
const AT_ONCE: usize = 4096;

/// How the previous line was written.
struct StderrState {
    /// Whether the reader has stopped reading.
    stuck: bool,
    /// Whether the end of the line is missing.
    cut: bool,
}

static STATE: Mutex<StderrState> = Mutex::new(StderrState { stuck: false, cut: false });

/// Writes text that ends with a newline, or drops it.
pub fn write(text: &[u8]) {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stderr = io::stderr().lock();
    if state.cut && !put(&mut stderr, b"\n", &mut state.stuck) {
        return;
    }
    state.cut = false;
    for part in text.chunks(AT_ONCE) {
        if !put(&mut stderr, part, &mut state.stuck) {
            return;
        }
        state.cut = true;
    }
    state.cut = false;
}

fn put(stderr: &mut io::StderrLock, part: &[u8], stuck: &mut bool) -> bool {
    *stuck = !has_room(stderr, if *stuck { Duration::ZERO } else { PATIENCE });
    !*stuck && stderr.write_all(part).is_ok()
}

/// Whether something can be written at once, or within this time.
fn has_room(stderr: &io::StderrLock, within: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::OUT)];
    let within = Timespec::try_from(within).ok();
    loop {
        match poll(&mut fds, within.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            // If it cannot be waited for, the write is tried.
            Err(_) => return true,
        }
    }
}
