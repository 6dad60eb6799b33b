//! Commands of the user that are run before and after a backup or a restore, and when a run fails.
//!
//! ```text
//! before-… ──► the work ──► after-… ──► on-failure, if it failed
//!     └─ fails: no work, no after-…  ──┘
//! ```
//!
//! An after-hook is run whenever its before-hook was, if that did not fail: also when the work failed or was stopped, so that it can
//! undo what the before-hook did. A before-hook that fails is the run's error. One of the others that fails is a warning, and a
//! field of the report: what was done stays done.
//!
//! A hook is a child in a process group of its own, and what is left of the group is killed when it ends. See `docs/hooks.md`.

mod output;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use self::output::HookOutput;
use crate::children::{Group, Program, ProgramEnd};
use crate::error::{Code, Error, Result};
use crate::mask::Masker;
use crate::monitor::Context;
use crate::report::{Action, HookFailure, Outcome, RunId};
use crate::text::one_line;

/// The shell.
const SHELL: &str = "/bin/sh";
/// How long a hook may take after the program was told to stop: Cloud Run gives it 10 s for all that is left to do.
const AFTER_STOP: Duration = Duration::from_secs(2);
/// How long a hook whose time is over has to end by itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the waiting thread checks whether the program was told to stop.
const TICK: Duration = Duration::from_millis(20);
/// The most bytes of an error that a hook is told.
const MAX_ERROR: usize = 4 << 10;
/// Variables that a hook does not get: credentials, and what would run hooks for the runs of a hook, without end.
const NOT_GIVEN: [&str; 10] = [
    "GOOGLE_APPLICATION_CREDENTIALS",
    "LASTGOOD_TOKEN",
    "LASTGOOD_WEBHOOK",
    "LASTGOOD_PING",
    "LASTGOOD_CLAIM",
    "LASTGOOD_BEFORE_BACKUP",
    "LASTGOOD_AFTER_BACKUP",
    "LASTGOOD_BEFORE_RESTORE",
    "LASTGOOD_AFTER_RESTORE",
    "LASTGOOD_ON_FAILURE",
];

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before a backup.
    BeforeBackup,
    /// After a backup.
    AfterBackup,
    /// Before a restore.
    BeforeRestore,
    /// After a restore.
    AfterRestore,
    /// After a run that failed.
    OnFailure,
}

impl Hook {
    /// Its name, which is that of the option without its dashes.
    pub fn name(self) -> &'static str {
        match self {
            Hook::BeforeBackup => "before-backup",
            Hook::AfterBackup => "after-backup",
            Hook::BeforeRestore => "before-restore",
            Hook::AfterRestore => "after-restore",
            Hook::OnFailure => "on-failure",
        }
    }
}

/// The commands of hooks. None by default; a clone is cheap.
#[derive(Clone, Default)]
pub struct Hooks(Option<Arc<HookCommands>>);

/// The commands, and how they are run.
struct HookCommands {
    commands: Vec<(Hook, OsString)>,
    /// How long one may take.
    time: Duration,
    masker: Masker,
}

/// The run that hooks are run for.
#[derive(Debug, Clone)]
pub struct HookedRun<'r> {
    /// What it is for.
    pub action: Action,
    /// The run.
    pub run: RunId,
    /// The data directory.
    pub data: Option<&'r Path>,
    /// The vaults, as `LASTGOOD_VAULT` has them.
    pub vault: String,
    /// Why a snapshot is taken.
    pub reason: Option<String>,
}

/// How the work of the run ended.
#[derive(Debug, Clone, Default)]
pub struct HookedEnd<'r> {
    /// The result. `None` if nothing had to be done.
    pub result: Option<Outcome>,
    /// The snapshot that it is about.
    pub snapshot: Option<String>,
    /// Its error.
    pub error: Option<&'r Error>,
}

impl Hooks {
    /// Runs these commands, each for `time` at most.
    pub fn new(commands: Vec<(Hook, OsString)>, time: Duration, masker: Masker) -> Self {
        let any = !commands.is_empty();
        Hooks(any.then(|| Arc::new(HookCommands { commands, time, masker })))
    }

    /// Runs the hook before a run's work.
    ///
    /// # Errors
    /// It fails: there is to be no work.
    pub fn before(&self, run: &HookedRun, ctx: &Context) -> Result<()> {
        let hook = match run.action {
            Action::Backup => Hook::BeforeBackup,
            Action::Restore => Hook::BeforeRestore,
            Action::Verify => return Ok(()),
        };
        self.run(hook, run, &HookedEnd::default(), ctx)
    }

    /// Runs the hooks after a run's work, which began if `began`. Each that fails is a warning.
    pub fn after(&self, run: &HookedRun, end: &HookedEnd, began: bool, ctx: &Context) -> Vec<HookFailure> {
        let after = match run.action {
            Action::Backup => Some(Hook::AfterBackup),
            Action::Restore => Some(Hook::AfterRestore),
            Action::Verify => None,
        };
        let failed = matches!(end.result, Some(Outcome::Damaged | Outcome::Failed | Outcome::Refused));
        let hooks = [after.filter(|_| began), failed.then_some(Hook::OnFailure)];
        let mut failures = Vec::new();
        for hook in hooks.into_iter().flatten() {
            if let Err(why) = self.run(hook, run, end, ctx) {
                ctx.monitor.warn(&why.what_with_code());
                failures.push(HookFailure { hook: hook.name().to_owned(), error: why.what() });
            }
        }
        failures
    }

    /// Runs a hook, if there is one.
    fn run(&self, hook: Hook, run: &HookedRun, end: &HookedEnd, ctx: &Context) -> Result<()> {
        let Some(hooks) = &self.0 else { return Ok(()) };
        let Some((_, text)) = hooks.commands.iter().find(|(of, _)| *of == hook) else { return Ok(()) };
        let mut command = Command::new(SHELL);
        command.arg("-c").arg(text).stdin(Stdio::null());
        NOT_GIVEN.iter().for_each(|name| _ = command.env_remove(name));
        for (name, value) in variables(hook, run, end) {
            match value.filter(|value| !value.as_encoded_bytes().contains(&0)) {
                Some(value) => command.env(name, value),
                // One of this program's own environment would be taken for it.
                None => command.env_remove(name),
            };
        }
        hooks.run(hook, command, ctx)
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A command may have a secret in it.
        let names = self.0.iter().flat_map(|hooks| &hooks.commands).map(|(hook, _)| hook.name());
        f.debug_list().entries(names).finish()
    }
}

impl HookCommands {
    fn run(&self, hook: Hook, mut command: Command, ctx: &Context) -> Result<()> {
        let doing = format!("run the hook {}", hook.name());
        let not_started = |why: &io::Error| match why.kind() {
            io::ErrorKind::NotFound => Error::failed(&*doing, format!("there is no shell ({SHELL})"))
                .with_code(Code::HookFailed)
                .hint("A hook is a command of the shell: use an image that has one, or do without the hook."),
            _ => Error::io(&*doing, why).with_code(Code::HookFailed),
        };
        let began = Instant::now();
        let (reader, writer) = io::pipe().map_err(|why| not_started(&why))?;
        command.stdout(writer.try_clone().map_err(|why| not_started(&why))?).stderr(writer);
        let output = HookOutput::read(reader, hook.name(), self.masker.clone()).map_err(|why| not_started(&why))?;
        tracing::info!(target: "lastgood::hook", "the hook {} begins", hook.name());
        let program = Program::start(command, Vec::new(), Group::OwnAndKilled, Box::new(drop))
            .map_err(|why| not_started(&why))?;
        let ended = self.wait(&program, ctx);
        let last = output.finish();
        let seconds = began.elapsed().as_secs_f64();
        let failed = |why: String| {
            let why = last.map(|last| format!("{why}: {last}")).unwrap_or(why);
            Error::failed(&*doing, why).with_code(Code::HookFailed)
        };
        match ended {
            HookEnd::Ended(end) if end.is_success() => {
                tracing::info!(target: "lastgood::hook", seconds, "the hook {} has ended", hook.name());
                Ok(())
            }
            HookEnd::Ended(end) => Err(failed(format!("it ended with {end}"))),
            HookEnd::TooLong => Err(failed(format!("it took longer than {} s and was ended", self.time.as_secs_f64()))
                .hint("--hook-timeout is the time that a hook has.")),
            HookEnd::Stopped => Err(failed("it was told to stop".to_owned()).with_code(Code::Stopped)),
        }
    }

    /// Waits for the end of a hook, and ends it when its time is over.
    fn wait(&self, program: &Program, ctx: &Context) -> HookEnd {
        let until = Instant::now() + self.time;
        let mut stopped = None;
        let why = loop {
            if let Some(end) = program.wait_for(TICK) {
                return HookEnd::Ended(end);
            }
            if ctx.stop.load(Ordering::Relaxed) {
                stopped.get_or_insert_with(|| Instant::now() + AFTER_STOP);
            }
            let now = Instant::now();
            if stopped.is_some_and(|stopped| now >= stopped) {
                break HookEnd::Stopped;
            }
            if now >= until {
                break HookEnd::TooLong;
            }
        };
        program.signal_group(Signal::TERM);
        if program.wait_for(PATIENCE).is_none() {
            program.signal_group(Signal::KILL);
            // A process that waits for a disk ends later.
            program.wait_for(PATIENCE);
        }
        why
    }
}

/// How a hook ended.
enum HookEnd {
    Ended(ProgramEnd),
    TooLong,
    Stopped,
}

/// The variables that a hook is given. `None` is removed from its environment.
fn variables(hook: Hook, run: &HookedRun, end: &HookedEnd) -> Vec<(&'static str, Option<OsString>)> {
    let text = |text: &str| Some(OsString::from(text));
    let ended = matches!(hook, Hook::AfterBackup | Hook::AfterRestore | Hook::OnFailure);
    let result = ended.then(|| end.result.map_or("unneeded", Outcome::name));
    let error = end.error.map(|why| one_line(&why.what(), MAX_ERROR));
    let data: Option<PathBuf> = run.data.map(Path::to_owned);
    vec![
        ("LASTGOOD_HOOK", text(hook.name())),
        ("LASTGOOD_ACTION", text(run.action.name())),
        ("LASTGOOD_RUN", text(&run.run.to_string())),
        ("LASTGOOD_DATA", data.map(PathBuf::into_os_string)),
        ("LASTGOOD_VAULT", text(&run.vault)),
        ("LASTGOOD_REASON", run.reason.as_deref().and_then(text)),
        ("LASTGOOD_RESULT", result.and_then(text)),
        ("LASTGOOD_SNAPSHOT", end.snapshot.as_deref().and_then(text)),
        ("LASTGOOD_ERROR", error.as_deref().and_then(text)),
        ("LASTGOOD_CODE", end.error.and_then(|why| text(why.word()))),
    ]
}

#[cfg(test)]
mod tests;
