//! The program: parses the command line, builds the context, runs the command and returns the exit code.

mod cli;
mod commands;
mod config;
mod console;
mod heap;
mod log;
mod new_file;
mod stderr;
mod stdout;
mod terminal;
mod wrap;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::error::ErrorKind;
use lastgood::error::{Code, Doing, Error, Kind, Result};
use lastgood::fs::location;
use lastgood::job::Job;
use lastgood::monitor::{Context, system_random};
use lastgood::replicas;
use lastgood::replicas::pool::VaultPool;
use lastgood::run::around::Around;
use lastgood::shutdown::Shutdown;
use lastgood::text::printable;
use lastgood::{panics, report};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use self::commands::vaults::{self, Commands};
use self::commands::{config as settings, doctor, export, import, keep, look, manual, publish, rollback, serve, start};
use self::config::layers::{self, Unsettled};
use self::config::{Config, ConfiguredCommand, HostEnvironment, OutputOptions};
use self::console::Console;
use self::log::{CloudLog, LogTime, TextFields};
use self::stdout::Stdout;
use self::terminal::Terminal;

/// The exit code after a second signal: 128 and the number of SIGINT, as a shell has it for programs that such a signal ends.
const INTERRUPTED: u8 = 130;
/// The exit code after the reader of stdout has closed it: 128 and the number of SIGPIPE, as a shell has it.
const PIPE_CLOSED: u8 = 141;
/// Signals within this time count as one.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProgramOutcome {
    Done,
    Failed,
    Usage,
    NotWhole,
    Damage,
    NothingYet,
    /// As the app did that was run.
    App(u8),
}

impl ProgramOutcome {
    /// The exit code.
    fn code(self) -> u8 {
        match self {
            ProgramOutcome::Done => 0,
            ProgramOutcome::Failed => 1,
            ProgramOutcome::Usage => 2,
            ProgramOutcome::NotWhole => 3,
            ProgramOutcome::Damage => 4,
            ProgramOutcome::NothingYet => 5,
            ProgramOutcome::App(code) => code,
        }
    }
}

impl From<report::Outcome> for ProgramOutcome {
    fn from(outcome: report::Outcome) -> Self {
        match outcome {
            report::Outcome::Complete => ProgramOutcome::Done,
            report::Outcome::Stale
            | report::Outcome::IncompleteCopies
            | report::Outcome::Partial
            | report::Outcome::Suspect
            | report::Outcome::Unsound => ProgramOutcome::NotWhole,
            report::Outcome::Damaged => ProgramOutcome::Damage,
            report::Outcome::Failed | report::Outcome::Refused => ProgramOutcome::Failed,
        }
    }
}

impl From<Kind> for ProgramOutcome {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Usage => ProgramOutcome::Usage,
            Kind::Failed | Kind::Unreachable => ProgramOutcome::Failed,
            Kind::Damage => ProgramOutcome::Damage,
            Kind::NothingYet => ProgramOutcome::NothingYet,
            Kind::Unneeded => ProgramOutcome::Done,
        }
    }
}

fn main() -> ExitCode {
    // When a file reaches a size limit (`ulimit -f`), the write to it fails, and the program does not end. Before anything is written.
    let limited = flag::register(SIGXFSZ, Arc::default());
    let out = Stdout::new();
    let args: Vec<_> = std::env::args_os().collect();
    let folder = std::env::current_dir().map(PathBuf::into_os_string).ok();
    let settings = config::names_of_this_process().into_iter().filter(|name| name.starts_with("LASTGOOD_"));
    let settings = settings.filter_map(|name| config::of_this_process(&name));
    wrap::keep_whole(args.iter().cloned().chain(folder).chain(settings));
    let (cli, layers) = match layers::settle(&args, &config::of_this_process, &config::names_of_this_process()) {
        Ok(settled) => settled,
        Err(Unsettled::Arguments(why)) => return explain(&why, &args, out),
        Err(Unsettled::File(why, global)) => {
            let output = OutputOptions::new(&global, &config::of_this_process);
            let terminal = Terminal::new(false);
            start_log(&terminal, output, &config::of_this_process);
            Console::new(out, output, &terminal).fail(&why, None);
            return ExitCode::from(ProgramOutcome::from(why.kind()).code());
        }
    };
    let env = |name: &str| layers.variable(&config::of_this_process, name);
    let output = match &cli.command {
        cli::Command::Serve(_) | cli::Command::Listen(_) | cli::Command::Run(_) => {
            OutputOptions::new(&cli.global, &env).of_a_service()
        }
        _ => OutputOptions::new(&cli.global, &env),
    };
    let terminal = Terminal::new(output.progress);
    heap::settle();
    start_log(&terminal, output, &env);
    log_panics();
    layers.file.warning.iter().chain(&layers.unknown).for_each(|what| tracing::warn!("{}", printable(what)));
    let stop = Arc::new(AtomicBool::new(false));
    let mut console = Console::new(out, output, &terminal);
    let outside = HostEnvironment {
        env: &env,
        absolute: &absolute,
        resolve: &resolve,
        resolve_vault: &|path| location::resolve_in_time(path).unwrap_or_else(|_| absolute(path)),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        // Not every sandbox shows it. Where it does not, and the filesystem does not tell when the data directory was made, each
        // backup is taken as that of a new place, which only costs time.
        boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
        kernel: &|name| std::fs::read_to_string(format!("/proc/sys/{name}")).ok(),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let run = |config: Config, console: &mut Console| {
        let parallel = config.parallel.unwrap_or((2 * threads).clamp(4, 6));
        let ctx = Context { random: &system_random, threads, parallel, stop: &stop, monitor: &terminal };
        panics::caught("do what was asked for", || run(config, console, &stop, &ctx))
    };
    let stopped = match &cli.command {
        cli::Command::Backup(_) => Some("No snapshot was made."),
        cli::Command::Restore(_) => Some("Nothing was restored: what was there is as it was."),
        cli::Command::Export(_) => Some("No whole archive was made."),
        cli::Command::Verify(_) => Some("What was not read yet is not verified."),
        cli::Command::Import(_) => Some("What was imported by then stays."),
        cli::Command::Rollback(_) => Some("Nothing was rolled back."),
        _ => None,
    };
    let done = match &cli.command {
        cli::Command::Completions(args) => manual::completions(args, &mut console),
        cli::Command::Man(args) => manual::man(args, &mut console),
        // It shows settings also where they cannot be used.
        cli::Command::Config(args) => settings::config(&layers, args, &config::of_this_process, &mut console),
        _ => {
            // An app that is run decides what most signals mean.
            let watched = limited.doing(|| "watch for signals").and_then(|_| match cli.command {
                cli::Command::Run(_) => Ok(()),
                _ => watch_signals(&stop),
            });
            watched
                .and_then(|()| Config::new(cli, &outside).map_err(|why| layers.explain(why)))
                .and_then(|config| run(config, &mut console))
        }
    };
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(_) if console.out().closed() => {
            terminal.clear();
            return ExitCode::from(PIPE_CLOSED);
        }
        Err(why) => {
            console.fail(&why, stopped);
            why.kind().into()
        }
    };
    ExitCode::from(outcome.code())
}

/// Runs the command.
fn run(config: Config, console: &mut Console, stop: &Arc<AtomicBool>, ctx: &Context) -> Result<ProgramOutcome> {
    let cloud = config.cloud.clone();
    let vaults = VaultPool::new(config.vaults, config.cloud, stop.clone());
    let commands = Commands(&vaults);
    config.unused.iter().for_each(|what| tracing::warn!("{what}"));
    match config.task {
        // A person who asks for it, or a script that goes on only if there is a snapshot, must not believe that it was taken.
        ConfiguredCommand::SwitchedOff { scheduled: false } => Err(Error::failed("take a snapshot", config::OFF)
            .with_code(Code::BackupsOff)
            .hint("Unset BACKUP_ENABLED to take it. With `--reason schedule` it is no failure that backups are off.")),
        // A scheduler would retry after a failure.
        ConfiguredCommand::SwitchedOff { scheduled: true } => {
            tracing::warn!("no snapshot is taken: {}", config::OFF);
            let skipped = serde_json::json!({ "snapshot": null, "skipped": config::OFF });
            console.report(&skipped, || format!("No snapshot was taken: {}\n", config::OFF));
            Ok(ProgramOutcome::Done)
        }
        ConfiguredCommand::Init => commands.init(console, ctx),
        ConfiguredCommand::Run(job) => {
            commands.run(job, (config.place, config.notify, config.hooks), &config.exit_zero_on, console, ctx)
        }
        ConfiguredCommand::RestoreIf { options, dry_run } => {
            if let Some(why) = commands.unneeded(&options, ctx)? {
                return Ok(vaults::not_restored(&why, console));
            }
            match dry_run {
                true => commands.preview(&options, console, ctx),
                false => {
                    let environment = (config.place, config.notify, config.hooks);
                    let job = Job::Restore(options);
                    commands.run(job, environment, &config.exit_zero_on, console, ctx)
                }
            }
        }
        ConfiguredCommand::Runs { run, limit } => commands.runs(run.as_deref(), limit, console, ctx),
        ConfiguredCommand::Copy { from, to, init, snapshots } => {
            commands.copy((&from, &to), init || to.is_default(), &snapshots, console, ctx)
        }
        ConfiguredCommand::List { limit } => look::list(&vaults.first(ctx)?, limit, console, ctx),
        ConfiguredCommand::Ls { snapshot, path, recursive } => {
            look::ls(&vaults, &snapshot, &path, recursive, console, ctx)
        }
        ConfiguredCommand::Cat { snapshot, path, torn } => look::cat(&vaults, &snapshot, &path, torn, console, ctx),
        ConfiguredCommand::Diff { a, b } => look::diff(&vaults, (&a, &b), console, ctx),
        ConfiguredCommand::Export { snapshot, format, to } => {
            export::export(&vaults, &snapshot, format, to, console, ctx)
        }
        ConfiguredCommand::RunApp(mut settings) => {
            (settings.rules.threads, settings.rules.parallel) = (ctx.threads, ctx.parallel);
            let path = config::of_this_process("PATH");
            let vaults = vaults.none_waits_for_another(settings.look_at_epoch());
            Around::run(*settings, Arc::new(vaults), stop.clone(), path.as_deref(), ignores).map(ProgramOutcome::App)
        }
        ConfiguredCommand::Serve(mut service) => {
            (service.rules.threads, service.rules.parallel) = (ctx.threads, ctx.parallel);
            serve::serve(*service, Arc::new(vaults), &Shutdown::new(stop.clone()), ignores)
        }
        ConfiguredCommand::Dispatched(mut dispatched) => {
            (dispatched.rules.threads, dispatched.rules.parallel) = (ctx.threads, ctx.parallel);
            commands.dispatched(&dispatched, &config.exit_zero_on, console, ctx)
        }
        ConfiguredCommand::Publish(publication) => publish::publish(*publication, &cloud, console, ctx),
        ConfiguredCommand::State(config) => start::state(&config, &vaults, console, ctx),
        ConfiguredCommand::Seed { data } => start::seed(&data, console, ctx),
        ConfiguredCommand::Pin { snapshot, end, why } => {
            let until = end.from(jiff::Timestamp::now())?;
            let work = |sites, name| replicas::keep::pin(sites, name, until, &why, ctx);
            keep::pin(&vaults, &snapshot, work, console, ctx)
        }
        ConfiguredCommand::Unpin { snapshot, why } => {
            keep::pin(&vaults, &snapshot, |sites, name| replicas::keep::unpin(sites, name, &why, ctx), console, ctx)
        }
        ConfiguredCommand::Prune(policy) => keep::prune(&vaults.first(ctx)?, &policy, console, ctx),
        ConfiguredCommand::Import(options) => import::import(&options, &vaults, console, ctx),
        ConfiguredCommand::Rollback(settings) => rollback::rollback(&settings, &vaults, console, ctx),
        ConfiguredCommand::Doctor(place) => doctor::doctor(&place, console, ctx),
    }
}

/// Prints help, the version, or what is wrong with the arguments.
fn explain(why: &clap::Error, args: &[OsString], mut out: Stdout) -> ExitCode {
    let code = why.exit_code();
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let wish = cli::wishes::answer(why, &args);
    let text = why.to_string();
    // Below the message there are a tip, if clap has one, and the usage.
    // A value that is quoted in the message may have empty lines, too.
    let ends = ["\n\n  tip: ", "\n\nUsage: ", "\n\nFor more information"];
    let end = ends.iter().filter_map(|end| text.rfind(end)).min().unwrap_or(text.len());
    let (message, rest) = (text[..end].trim_end(), &text[end..]);
    // Help was asked for, so it has to be printed; an error in the arguments is printed as far as it can be.
    let instead = match wish {
        _ if args.len() == 1 => Some(cli::help::BEGIN.to_owned()),
        Some(answer) => {
            Some(wrap::for_stderr(&format!("{message}\n\n{}", cli::help::wrapped("  ", answer)), wrap::OF_ERROR))
        }
        // What is wider than the terminal is wrapped. Help is no wider: clap wraps it.
        None if why.use_stderr() => Some(wrap::for_stderr(&text, wrap::OF_ERROR)).filter(|wrapped| *wrapped != text),
        None => None,
    };
    let printed = match instead {
        Some(text) => io::Write::write_all(&mut io::stderr(), text.as_bytes()),
        None => why.print(),
    };
    if let Err(closed) = printed
        && !why.use_stderr()
        && closed.kind() != io::ErrorKind::BrokenPipe
    {
        return ExitCode::from(ProgramOutcome::Failed.code());
    }
    // The arguments could not be parsed, so they are searched for the one that matters here.
    if code != 0 && args.iter().any(|arg| arg == "--json") {
        let code = match why.kind() {
            ErrorKind::InvalidValue | ErrorKind::ValueValidation => Code::BadSetting,
            _ => Code::Usage,
        };
        let message = message.strip_prefix("error: ").unwrap_or(message);
        let tip = rest.lines().find_map(|line| line.trim().strip_prefix("tip: "));
        console::write_error(&mut out, Kind::Usage, code.word(), message, wish.or(tip));
    }
    ExitCode::from(if code == 0 { ProgramOutcome::Done } else { ProgramOutcome::Usage }.code())
}

/// Watches for signals: the first SIGINT, SIGTERM or SIGHUP sets `stop`; a second one, a moment later, ends the program at once.
/// `timeout` and shells that pass a signal on send it to the process and to its group: that counts as one.
fn watch_signals(stop: &Arc<AtomicBool>) -> Result<()> {
    let doing = || "watch for signals";
    let impatient = Arc::new(AtomicBool::new(false));
    // A user who starts it with `nohup` wants it to go on without its terminal.
    let signals: Vec<_> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|s| *s != SIGHUP || !ignores(*s)).collect();
    let mut first = Signals::new(&signals).doing(doing)?;
    for signal in signals {
        flag::register_conditional_shutdown(signal, INTERRUPTED.into(), impatient.clone())
            .and_then(|_| flag::register(signal, stop.clone()))
            .doing(doing)?;
    }
    let arm = move || {
        if first.forever().next().is_some() {
            thread::sleep(ONE_SIGNAL);
            impatient.store(true, Ordering::Relaxed);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(arm).doing(doing)?;
    Ok(())
}

/// Whether a signal was to be ignored when the program was started.
fn ignores(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|ignored| ignored >> (signal - 1) & 1 == 1)
}

/// Logs panics. The message that Rust prints by itself would block on a log that nobody reads.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        let trace = if trace.status() == BacktraceStatus::Captured { format!("\n{trace}") } else { String::new() };
        tracing::error!("a thread {}{trace}", printable(&panic.to_string()));
    }));
}

/// Sends the log to stderr, as plain lines or as JSON; `RUST_LOG` has precedence over the configured level.
fn start_log(terminal: &Terminal, output: OutputOptions, env: &dyn Fn(&str) -> Option<OsString>) {
    let filter = EnvFilter::builder().with_default_directive(output.level.into()).from_env_lossy();
    if output.json_log {
        let text = |name: &str| env(name)?.into_string().ok().filter(|value| !value.is_empty());
        let service = ["K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL"].into_iter().find_map(text);
        let project = text("GOOGLE_CLOUD_PROJECT").or_else(|| text("GCP_PROJECT_ID"));
        let layer = CloudLog::new(terminal.stderr(), project, service, text("K_REVISION"));
        tracing_subscriber::registry().with(layer.with_filter(filter)).init();
        return;
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(terminal.lines()).with_target(false);
    let lines = lines.fmt_fields(TextFields::default());
    match io::stderr().is_terminal() {
        true => lines.with_ansi(true).without_time().init(),
        false => lines.with_ansi(false).with_timer(LogTime).init(),
    }
}

/// Returns the absolute path of something, with symlinks as they are.
fn absolute(path: &Path) -> PathBuf {
    let mut whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // The target of a link is meant, as a slash at the end says.
    if path.as_os_str().as_encoded_bytes().ends_with(b"/.") {
        whole.push("");
    }
    whole
}

/// Returns where something is that need not exist, symlinks followed. If that cannot be found out, the error comes where the path
/// is used.
fn resolve(path: &Path) -> PathBuf {
    location::resolve(path).unwrap_or_else(|_| absolute(path))
}
