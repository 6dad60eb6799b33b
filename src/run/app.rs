//! The app: a child process like any other, whose end, output and remains are known.
//!
//! - Its environment is the one of this program, as it is: it is the user's, and the app is the user's as well. One variable is
//!   added, by which what it starts is known if this program is killed: [`super::mark::MARK`].
//! - stdin is inherited. stdout and stderr are, too, where nothing watches the output, and on a terminal: programs buffer and colour
//!   their output there in another way than in a pipe. Otherwise each is a pipe, of which every byte is passed on at once. Where
//!   both lead to one place, they share one pipe, which keeps their order.
//! - If the reader of the output is slow, the app waits for it; if it is gone, the app hears of it (SIGPIPE) at its next write: both
//!   are as without this program.
//! - It leads a process group of its own, unless there is a terminal: there it has to be in the group in the foreground, which is
//!   that of this program.
//! - It is killed when this program ends in whatever way: see [`crate::children`].

mod pipes;

use std::collections::HashSet;
use std::fs::File;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use self::pipes::Pipes;
use super::command::AppCommand;
use super::left;
use super::lock::RunLock;
use super::mark::{MARK, is_plainly_unmarked, mark};
use super::output::{Output, OutputMatch};
use super::process::{Process, ProcessIdentity, still_runs};
use crate::children::{Group, Program, ProgramEnd};
use crate::error::{Doing, Result};

/// How long processes that were killed are waited for: those that wait for a disk end later.
const KILLED: Duration = Duration::from_secs(5);
/// How often the processes that the app left are looked for while they end.
const STEP: Duration = Duration::from_millis(20);
/// The shortest pause between two looks for processes that do not have the mark.
const LOOK: Duration = Duration::from_secs(1);
/// The pause is at least this many times as long as a look, which reads a file per process of the machine.
const PAUSES: u32 = 400;

/// How the app is started.
pub struct AppOptions {
    /// Its command.
    pub command: AppCommand,
    /// The lock of its data directory, which it holds together with this program.
    pub lock: Option<Arc<RunLock>>,
    /// What watches its output. `None`: stdout and stderr are inherited.
    pub output: Option<Arc<Output>>,
    /// Where it is told what happens to it.
    pub events: Sender<AppEvent>,
}

/// What happens to the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppEvent {
    /// It has ended. Its last output may still be on its way.
    Exited {
        /// Its process.
        pid: u32,
        /// How.
        end: ProgramEnd,
    },
    /// Its output tells of a critical error.
    OutputMatched(OutputMatch),
}

/// How the app was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedApp {
    /// How it ended. `None` if it has not, in spite of SIGKILL.
    pub end: Option<ProgramEnd>,
    /// Whether it took SIGKILL to end it, or something that it had started.
    pub killed: bool,
    /// Processes that are still there: they may still write to the data.
    pub left: Vec<u32>,
}

/// The app. It is not stopped when this is dropped.
#[derive(Debug)]
pub struct App {
    program: Program,
    family: Arc<AppFamily>,
    started: Instant,
    pipes: Pipes,
}

impl App {
    /// Starts the app.
    ///
    /// # Errors
    /// As `fork` and `exec`, with what is wrong with the program; no pipes, no threads.
    pub fn start(options: &AppOptions) -> Result<App> {
        let doing = || format!("start {}", options.command.name());
        let (program, pipes) = match start(options, options.command.command()) {
            Err(why) if why.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
                let Some(script) = options.command.as_script() else { return Err(options.command.not_started(&why)) };
                start(options, script).doing(doing)?
            }
            Err(why) => return Err(options.command.not_started(&why)),
            Ok(started) => started,
        };
        let pid = number(program.pid());
        if let Some(lock) = &options.lock {
            lock.note_app(pid);
        }
        tracing::info!("the app has started: {} is process {pid}", options.command.name());
        let family = Arc::new(AppFamily { program: program.clone(), seen: Mutex::default() });
        Ok(App { program, family, started: Instant::now(), pipes })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        number(self.program.pid())
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// How it ended. `None` if it has not.
    pub fn end(&self) -> Option<ProgramEnd> {
        self.program.end()
    }

    /// Waits for its end, for this long at most. `None` if it has not ended.
    pub fn wait_for(&self, time: Duration) -> Option<ProgramEnd> {
        self.program.wait_for(time)
    }

    /// Passes a signal on to it; does nothing if it has ended.
    pub fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Ends the app, and all that it has started: it gets the signal `first`, unless that is `None` since it was told already.
    /// When it has ended, what it left gets SIGTERM. What is there after the time gets SIGKILL. Blocks until nothing is left, or
    /// what is left does not end even so. An app that has ended already is stopped by this, too: for what it left.
    pub fn stop(&self, first: Option<Signal>, time: Duration) -> StoppedApp {
        let until = Instant::now() + time;
        if let Some(first) = first {
            self.signal(first);
            // A process that is stopped does nothing with a signal.
            self.signal(Signal::CONT);
        }
        let mut told = false;
        while Instant::now() < until {
            let Some(end) = self.wait_for(until.saturating_duration_since(Instant::now())) else { break };
            let left = self.family.left();
            if left.is_empty() {
                return StoppedApp { end: Some(end), killed: false, left: Vec::new() };
            }
            if !told {
                send(&left, Signal::TERM);
                send(&left, Signal::CONT);
                told = true;
            }
            std::thread::sleep(STEP.min(until.saturating_duration_since(Instant::now())));
        }
        let until = Instant::now() + KILLED;
        loop {
            self.signal(Signal::KILL);
            // Whatever they start meanwhile is found the next time.
            let left = self.family.left();
            send(&left, Signal::KILL);
            let end = self.wait_for(STEP);
            if end.is_some() && left.is_empty() || Instant::now() >= until {
                let left = left.into_iter().map(number).collect();
                return StoppedApp { end, killed: true, left };
            }
        }
    }

    /// Calls `note` again and again while the app runs, with the processes that it has started and that do not have its mark.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn watch_unmarked(&self, note: impl Fn(&[ProcessIdentity]) + Send + 'static) -> Result<()> {
        let family = self.family.clone();
        let work = move || {
            let mut pause = LOOK;
            while family.program.wait_for(pause).is_none() {
                let began = Instant::now();
                let found = left::unmarked(|| family.left().into_iter().map(number).collect());
                family.see(&found);
                note(&found);
                pause = LOOK.max(began.elapsed() * PAUSES);
            }
        };
        std::thread::Builder::new()
            .name("unmarked".into())
            .spawn(work)
            .doing(|| "start a thread that looks at the app")?;
        Ok(())
    }

    /// Waits until all of its output is passed on, for this long at most, and returns whether it is: the reader may be slow, and
    /// what the app left may have it open.
    pub fn finish_output(&self, time: Duration) -> bool {
        self.pipes.finish(time)
    }
}

/// What an app has started.
#[derive(Debug)]
struct AppFamily {
    program: Program,
    /// Those without the mark that were seen while the app was alive: descendants of it.
    seen: Mutex<HashSet<ProcessIdentity>>,
}

impl AppFamily {
    /// Returns those that are there, except for the app. What somebody else has started in a container of which this is process 1 is not the
    /// app's: it has no mark, and was never seen to descend from the app.
    fn left(&self) -> Vec<Pid> {
        self.program.left(|pid| {
            let pid = number(pid);
            is_plainly_unmarked(pid) && Process::look(pid).is_none_or(|found| !self.seen().contains(&found.identity))
        })
    }

    fn see(&self, found: &[ProcessIdentity]) {
        let mut seen = self.seen();
        seen.retain(|found| still_runs(*found));
        seen.extend(found);
    }

    fn seen(&self) -> MutexGuard<'_, HashSet<ProcessIdentity>> {
        // Nothing panics while it holds the lock.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// Starts the app by a command.
fn start(options: &AppOptions, mut command: Command) -> std::io::Result<(Program, Pipes)> {
    command.env(MARK, mark().map_err(std::io::Error::other)?);
    let group = if has_terminal() { Group::Shared } else { Group::Own };
    let keep = options.lock.iter().filter_map(|lock| lock.file()).map(File::try_clone);
    let keep = keep.map(|file| Ok(file?.into())).collect::<std::io::Result<_>>()?;
    let events = options.events.clone();
    let tell = move |told| {
        // If nobody listens any more, nobody wants to know.
        let _ = events.send(AppEvent::OutputMatched(told));
    };
    let mut pipes = Pipes::default();
    if let Some(output) = &options.output {
        pipes = Pipes::open(&mut command, output, &tell)?;
    }
    let (events, ended) = (options.events.clone(), crossbeam_channel::bounded(1));
    let (pid, of) = ended;
    let on_end = move |end| {
        let pid = of.recv().unwrap_or_default();
        let _ = events.send(AppEvent::Exited { pid, end });
    };
    let program = Program::start(command, keep, group, Box::new(on_end))?;
    let _ = pid.send(number(program.pid()));
    Ok((program, pipes))
}

/// Whether this program has a terminal, whose signals go to all of its process group.
pub fn has_terminal() -> bool {
    rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, rustix::fs::Mode::empty()).is_ok()
}

fn send(to: &[Pid], signal: Signal) {
    for pid in to {
        // One that has ended meanwhile gets none, and one of another user may not.
        let _ = kill_process(*pid, signal);
    }
}

#[cfg(test)]
mod tests;
