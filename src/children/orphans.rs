//! Takes the statuses of processes that were left to this program.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use super::{STARTED, family};

/// How long a child that has ended and was not started by [`super::Program::start`] is left alone: a library may have started it,
/// and takes its status at once.
const OTHERS_TAKE: Duration = Duration::from_secs(1);
/// How often this program looks for children while it has none.
const NO_CHILDREN: Duration = Duration::from_secs(1);

/// Whether this program is the parent of what its programs leave behind.
static ADOPTS: Mutex<bool> = Mutex::new(false);

/// Makes this program the parent of the processes that its programs leave behind, until it ends, and begins to take their
/// statuses. Further calls change nothing.
///
/// # Errors
/// The system gives no thread, or refuses.
pub fn adopt_orphans() -> io::Result<()> {
    let mut adopts = ADOPTS.lock().unwrap_or_else(PoisonError::into_inner);
    if !*adopts {
        set_child_subreaper(Some(getpid()))?;
        thread::Builder::new().name("orphans".into()).spawn(take_orphans)?;
        *adopts = true;
    }
    Ok(())
}

/// Whether [`adopt_orphans`] was called.
pub fn are_adopted() -> bool {
    *ADOPTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_orphans() {
    loop {
        match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => {
                thread::sleep(NO_CHILDREN);
                continue;
            }
        }
        let ended = family::zombies();
        thread::sleep(OTHERS_TAKE);
        ended.into_iter().for_each(take);
    }
}

/// Takes the status of a child that nobody else waits for.
fn take(pid: Pid) {
    // Held, so that no program is being started: what is not in the list is none of them.
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !started.contains(&pid) {
        // An error is that its status was taken meanwhile.
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}
