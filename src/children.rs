//! Programs that this one starts: none outlives it, and one thread waits for each.
//!
//! - **A program ends with this one**, also when this one is killed: the kernel sends it SIGKILL as soon as the *thread* that
//!   started it has ended (prctl(2), `PR_SET_PDEATHSIG`). So one thread, which never ends, starts all programs. The kernel forgets
//!   it when a program changes its user (`su`, `gosu`) or has set-user-ID: such a program ends by a pipe that it inherits (`tether`).
//! - **A number is not used for another process**: a process that has ended keeps its number until its status is taken, and that
//!   happens under the lock under which signals are sent.
//! - **Orphans**: [`adopt_orphans`] makes this program the parent of whatever its programs leave behind, as it is by itself where
//!   it is process 1. The statuses of orphans are taken, so that no zombie stays, and [`Program::left`] finds those that are alive.

mod family;
mod orphans;
mod tether;

use std::fmt;
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, getppid, kill_process, kill_process_group,
    set_parent_process_death_signal, waitid,
};
use signal_hook::consts::SIGCHLD;

use self::family::Adopted;
pub use self::orphans::adopt_orphans;

/// The exit code that shells give to a program that a signal ended is this and the number of the signal.
const SIGNALLED: i32 = 128;

/// The programs that were started here and whose status is not taken yet. Held while one is started, so that a process that is
/// not among them is none of these.
static STARTED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
/// Sends to the thread that starts programs. `None` until the first is started.
static STARTER: Mutex<Option<Sender<Start>>> = Mutex::new(None);

/// Waits for more of a program's output. Returns what there is; `None` at its end, and where it cannot be read any more.
pub fn more_output<'b>(from: &mut PipeReader, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    loop {
        match from.read(buffer) {
            Ok(0) => return None,
            Ok(read) => return Some(&buffer[..read]),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramEnd {
    /// It ended by itself, with this code.
    Code(i32),
    /// A signal with this number ended it.
    Signal(i32),
    /// Its status was taken by something else.
    Unknown,
}

impl ProgramEnd {
    /// Whether it ended by itself with 0.
    pub fn is_success(self) -> bool {
        self == ProgramEnd::Code(0)
    }

    /// The exit code that a shell gives for it: 128 and the signal's number for one that a signal ended; 1 where it is unknown.
    pub fn code(self) -> u8 {
        let code = match self {
            ProgramEnd::Code(code) => code,
            ProgramEnd::Signal(number) => SIGNALLED + number,
            ProgramEnd::Unknown => 1,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for ProgramEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProgramEnd::Code(code) => write!(f, "exit code {code}"),
            ProgramEnd::Signal(number) => match signal_hook::low_level::signal_name(*number) {
                Some(name) => write!(f, "signal {number} ({name})"),
                None => write!(f, "signal {number}"),
            },
            ProgramEnd::Unknown => f.write_str("an unknown status"),
        }
    }
}

/// The process group that a program is started in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// That of this program, as it has to be on a terminal.
    Shared,
    /// A group of its own.
    Own,
    /// A group of its own, of which all are killed when the program ends.
    OwnAndKilled,
}

/// Is called, once, when a program has ended.
pub type OnEnd = Box<dyn FnOnce(ProgramEnd) + Send>;

/// A program that was started.
#[derive(Clone)]
pub struct Program {
    pid: Pid,
    group: Group,
    ended: Arc<Ended>,
}

/// Whether a program has ended.
#[derive(Default)]
struct Ended {
    end: Mutex<Option<ProgramEnd>>,
    told: Condvar,
}

/// A program to start, for the thread that does.
struct Start {
    command: Command,
    answer: Sender<io::Result<Pid>>,
}

impl Program {
    /// Starts a program. It gets the descriptors in `keep` under their own numbers, beside its stdin, stdout and stderr.
    ///
    /// # Errors
    /// As `fork` and `exec`, and what starting a thread may fail with.
    pub fn start(mut command: Command, keep: Vec<OwnedFd>, group: Group, on_end: OnEnd) -> io::Result<Program> {
        if group != Group::Shared {
            command.process_group(0);
        }
        let this = getpid();
        let (held, passed) = tether::new()?;
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // This program may have ended before that.
            if getppid() != Some(this) {
                return Err(Errno::SRCH.into());
            }
            passed.tie();
            // Only here, in the new process: programs that other threads start at this moment do not get them.
            keep.iter().try_for_each(|fd| Ok(fcntl_setfd(fd, FdFlags::empty())?))
        };
        // SAFETY: between fork and exec only async-signal-safe functions may be called. The closure makes system calls, and neither
        // allocates nor locks: an `io::Error` of an error number is that number.
        unsafe { command.pre_exec(prepare) };
        // Before the program is there: if it cannot be waited for, it is not started.
        let ended = Arc::<Ended>::default();
        let (started, pid) = bounded(1);
        let tell = ended.clone();
        let wait = move || {
            if let Ok(pid) = pid.recv() {
                on_end(tell.wait(pid, group));
            }
            drop(held);
        };
        thread::Builder::new().name("child".into()).spawn(wait)?;
        let (answer, answered) = bounded(1);
        let gone = |_| io::Error::other("the thread that starts programs has ended");
        starter()?.send(Start { command, answer }).map_err(|_| gone(()))?;
        let pid = answered.recv().map_err(|_| gone(()))??;
        started.send(pid).map_err(|_| gone(()))?;
        Ok(Program { pid, group, ended })
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended. `None` if it has not.
    pub fn end(&self) -> Option<ProgramEnd> {
        *self.ended.lock()
    }

    /// Waits until it has ended, for this long at most. Returns how it ended; `None` if it has not.
    pub fn wait_for(&self, time: Duration) -> Option<ProgramEnd> {
        let until = Instant::now() + time;
        let mut end = self.ended.lock();
        while end.is_none() {
            let left = until.checked_duration_since(Instant::now())?;
            end = self.ended.told.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *end
    }

    /// Sends it a signal; does nothing if it has ended.
    pub fn signal(&self, signal: Signal) {
        self.send(|pid| kill_process(pid, signal));
    }

    /// Sends a signal to its process group, if that is its own. Does nothing if the program has ended.
    pub fn signal_group(&self, signal: Signal) {
        if self.group != Group::Shared {
            self.send(|pid| kill_process_group(pid, signal));
        }
    }

    fn send(&self, send: impl FnOnce(Pid) -> rustix::io::Result<()>) {
        let end = self.ended.lock();
        if end.is_none()
            && let Err(why) = send(self.pid)
        {
            tracing::debug!("no signal was sent to process {}: {why}", self.pid);
        }
    }

    /// Returns the processes that it has started and that are alive, and those that these have started, also where it has ended
    /// itself. It is not among them. Without [`adopt_orphans`], and where `/proc` is not there, processes are missing whose parents
    /// have ended.
    ///
    /// Process 1 gets the orphans of others, too: of what `docker exec` starts in its container. `is_foreign` says that one that was left to
    /// this program is none of its own, and is asked only there.
    pub fn left(&self, is_foreign: impl Fn(Pid) -> bool) -> Vec<Pid> {
        let others = STARTED.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let adopted = match (orphans::are_adopted(), self.group) {
            (false, _) => Adopted::None,
            (true, Group::Shared) => Adopted::All,
            (true, Group::Own | Group::OwnAndKilled) => Adopted::OfOtherGroups,
        };
        let gets_others = getpid().is_init();
        family::of(self.pid, &others, adopted, |pid| gets_others && is_foreign(pid), &family::processes())
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("pid", &self.pid).field("end", &self.end()).finish()
    }
}

impl Ended {
    fn lock(&self) -> MutexGuard<'_, Option<ProgramEnd>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a program's end, and takes its status.
    fn wait(&self, pid: Pid, group: Group) -> ProgramEnd {
        // The status stays where it is, and the number with it.
        let seen = take(pid, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let mut end = self.lock();
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if seen != ProgramEnd::Unknown && group == Group::OwnAndKilled {
            // An error is that there is no other process in the group, or that it has become another user's.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let ended = match seen {
            ProgramEnd::Unknown => seen,
            _ => take(pid, WaitIdOptions::EXITED),
        };
        started.retain(|other| *other != pid);
        *end = Some(ended);
        self.told.notify_all();
        ended
    }
}

/// Waits for the end of a child.
fn take(pid: Pid, options: WaitIdOptions) -> ProgramEnd {
    loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(Some(status)) => return end(&status),
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return ProgramEnd::Unknown,
        }
    }
}

fn end(status: &WaitIdStatus) -> ProgramEnd {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ProgramEnd::Code(code),
        (None, Some(signal)) => ProgramEnd::Signal(signal),
        (None, None) => ProgramEnd::Unknown,
    }
}

/// Returns the sender to the thread that starts programs, which is started if there is none yet.
fn starter() -> io::Result<Sender<Start>> {
    let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(starter) = &*starter {
        return Ok(starter.clone());
    }
    // Where SIGCHLD is ignored, as some parents leave it, the kernel keeps no status. The flag is of no interest.
    signal_hook::flag::register(SIGCHLD, Arc::default())?;
    if getpid().is_init() {
        // It gets orphans anyway, and nobody else takes their statuses.
        adopt_orphans()?;
    }
    let (sender, starts) = unbounded::<Start>();
    let work = move || {
        for Start { mut command, answer } in starts {
            // An error of the receiver is that the starting thread has ended in a panic: the program is waited for all the same.
            let _ = answer.send(spawn(&mut command));
        }
    };
    thread::Builder::new().name("starter".into()).spawn(work)?;
    Ok(starter.insert(sender).clone())
}

fn spawn(command: &mut Command) -> io::Result<Pid> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(Errno::SRCH)?;
    started.push(pid);
    Ok(pid)
}

#[cfg(test)]
mod tests;
