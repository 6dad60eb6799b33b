//! Has the kernel end a program with this one, also where it forgets the parent-death signal.
//!
//! It forgets that one when a program changes its user, as `setpriv`, `gosu` and `su` do, and when it executes a file with set-user-ID. So
//! a program also gets the read end of a pipe of which this program alone has the write end. The pipe tells its owner, which is that
//! program, of a change by a signal (fcntl(2), `O_ASYNC`), which is SIGKILL. Nothing is ever written, so the one change is that the write
//! end is closed: at the end of this program, however that comes. The kernel asks whether whoever made the program the owner may send it
//! the signal, not what the program's user is by then: root may. A program that closes all descriptors that it inherits, and a container
//! without a root user of its own (rootless), does without.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid};

/// Sets the signal by which the owner of a descriptor is told (fcntl(2)): the same number on all architectures.
const F_SETSIG: libc::c_int = 10;

/// Is kept by this program as long as the other one is to live.
pub struct Held {
    _pipe: PipeWriter,
}

/// Is inherited by the other program.
pub struct Passed(PipeReader);

/// Makes both ends.
///
/// # Errors
/// As `pipe2`.
pub fn new() -> io::Result<(Held, Passed)> {
    let (reader, writer) = io::pipe()?;
    Ok((Held { _pipe: writer }, Passed(reader)))
}

impl Passed {
    /// Ties this process, and the program that it is about to execute, to the one that has the other end. Only system calls are made. Where
    /// the system cannot do it, nothing happens.
    pub fn tie(&self) {
        let fd = self.0.as_fd().as_raw_fd();
        // SAFETY: these calls of `fcntl` take a number, and touch no memory of this process.
        let tied = unsafe {
            libc::fcntl(fd, libc::F_SETOWN, getpid().as_raw_nonzero().get()) == 0
                && libc::fcntl(fd, F_SETSIG, Signal::KILL.as_raw()) == 0
                && libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) == 0
        };
        if tied {
            // An error is that the descriptor is not open: it is.
            let _ = fcntl_setfd(&self.0, FdFlags::empty());
        }
    }
}
