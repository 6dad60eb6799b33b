//! The command: parse, build the context, run, exit code.

mod cli;
mod config;
mod console;
mod new_file;
mod show;
mod stdout;
mod terminal;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use jiff::Timestamp;
use lastgood::error::{Doing, Error, Kind, Result};
use lastgood::monitor::{Context, system_random};
use lastgood::restore::select;
use lastgood::store::local::LocalStore;
use lastgood::vault::Vault;
use lastgood::vault::root::Root;
use lastgood::{backup, export, inspect, restore, verify};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use self::cli::Cli;
use self::config::{Config, Destination, Job, Output, Outside};
use self::console::Console;
use self::new_file::NewFile;
use self::stdout::Stdout;
use self::terminal::{Terminal, printable};

/// What a second signal, or a reader of stdout that hangs up, ends the program with: 128 and the signal's number, as a shell
/// has it for programs that such a signal ends.
const INTERRUPTED: u8 = 130;
const PIPE_CLOSED: u8 = 141;

/// How a run ended; the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Outcome {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotWhole = 3,
    Damage = 4,
}

impl From<Kind> for Outcome {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Usage => Outcome::Usage,
            Kind::Failed => Outcome::Failed,
            Kind::Damage => Outcome::Damage,
        }
    }
}

fn main() -> ExitCode {
    let out = Stdout::new();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(why) => return explain(&why, out),
    };
    let output = Output::new(&cli.global);
    let terminal = Terminal::new(output.progress);
    start_log(&terminal, output.level);
    let stop = Arc::new(AtomicBool::new(false));
    let ctx = Context {
        random: &system_random,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        stop: &stop,
        monitor: &terminal,
    };
    let mut console = Console::new(out, output, &terminal);
    let outside = Outside { env: &|name| std::env::var_os(name), resolve: &resolve };
    let done = watch_signals(&stop).and_then(|()| Config::new(cli, &outside));
    let outcome = match done.and_then(|config| run(config, &mut console, &ctx)) {
        Ok(outcome) => outcome,
        Err(_) if console.out().closed() => return ExitCode::from(PIPE_CLOSED),
        Err(why) => {
            console.fail(&why);
            why.kind().into()
        }
    };
    ExitCode::from(outcome as u8)
}

/// Does what was asked for.
fn run(config: Config, console: &mut Console, ctx: &Context) -> Result<Outcome> {
    let Config { vault: folder, job } = config;
    let store = || Box::new(LocalStore::new(&folder));
    let find = |spec: &str| -> Result<(Vault, Root)> {
        let vault = Vault::open(store())?;
        let (_, root) = select::find(&vault, spec)?;
        Ok((vault, root))
    };
    match job {
        Job::Init => {
            let vault = Vault::init(store(), ctx.random)?;
            let folder = absolute(&folder);
            let made = serde_json::json!({ "vault": folder.to_string_lossy(), "id": vault.config.id });
            console.report(&made, || format!("Made a new, empty vault in {}\n", show::path(&folder)))?;
            Ok(Outcome::Done)
        }
        Job::Backup(options) => back_up(&folder, options, console, ctx),
        Job::Restore(options) => {
            let done = restore::restore(&Vault::open(store())?, &options, ctx)?;
            done.warnings.iter().for_each(|what| ctx.monitor.warn(what));
            show::some("did not restore", &done.not_restored).iter().for_each(|line| tracing::error!("{line}"));
            console.report(&done, || show::restore(&done, Timestamp::now()))?;
            Ok(if done.not_restored.is_empty() { Outcome::Done } else { Outcome::NotWhole })
        }
        Job::List => list(&Vault::open(store())?, console, ctx),
        Job::Ls { snapshot, path, recursive } => {
            let (vault, root) = find(&snapshot)?;
            let mut items = console.items();
            inspect::ls(&vault, &root, &path, recursive, |entry| items.item(&entry, show::entry), ctx)?;
            items.end()?;
            Ok(Outcome::Done)
        }
        Job::Cat { snapshot, path } => {
            let (vault, root) = find(&snapshot)?;
            inspect::cat(&vault, &root, &path, console.out(), ctx)?;
            Ok(Outcome::Done)
        }
        Job::Diff { a, b } => {
            let vault = Vault::open(store())?;
            let ((_, a), (_, b)) = (select::find(&vault, &a)?, select::find(&vault, &b)?);
            let mut items = console.items();
            inspect::diff(&vault, &a, &b, |difference| items.item(&difference, show::difference), ctx)?;
            items.end()?;
            Ok(Outcome::Done)
        }
        Job::Export { snapshot, to: Destination::Stdout } => {
            if io::stdout().is_terminal() {
                return Err(Error::usage("export to stdout", "it is a terminal").hint(
                    "Name a file (`-o snapshot.tar.zst`), or send it to a program: `… -o - | zstd -dc | tar t`.",
                ));
            }
            let (vault, root) = find(&snapshot)?;
            export::export(&vault, &root, console.out(), ctx)?;
            io::Write::flush(console.out()).doing(|| "write the export to stdout")?;
            Ok(Outcome::Done)
        }
        Job::Export { snapshot, to: Destination::File(path) } => {
            let (vault, root) = find(&snapshot)?;
            let mut file = NewFile::create(&path)?;
            let done = export::export(&vault, &root, &mut file, ctx)?;
            file.finish()?;
            console.report(&done, || format!("Exported to {}\n", show::path(&absolute(&path))))?;
            Ok(Outcome::Done)
        }
        Job::Verify(options) => {
            let done = verify::verify_store(store(), &options, ctx)?;
            console.report(&done, || show::verify(&done))?;
            Ok(if done.sound() { Outcome::Done } else { Outcome::Damage })
        }
    }
}

/// Takes a snapshot, into a new vault where there is none yet.
fn back_up(folder: &Path, mut options: backup::Options, console: &mut Console, ctx: &Context) -> Result<Outcome> {
    // Looked at before a vault is made: a wrong path must leave nothing behind.
    if !options.data.is_dir() {
        let why = if options.data.exists() { "it is not a directory" } else { "it does not exist" };
        return Err(Error::failed(format!("back up {}", options.data.display()), why)
            .hint("Name the directory: `lastgood backup DIR`, or LASTGOOD_DATA. If it is a volume, is it mounted?"));
    }
    options.host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Not every sandbox shows it; without it every start counts as a new machine, which only costs time.
    options.boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let (vault, new) = match Vault::find(Box::new(LocalStore::new(folder)))? {
        Ok(vault) => (vault, false),
        Err(store) => {
            check_free(folder)?;
            (Vault::open_or_init(store, ctx.random)?, true)
        }
    };
    let done = backup::backup(&vault, &options, ctx)?;
    show::not_good(&done).iter().for_each(|line| tracing::error!("{line}"));
    console.report(&done, || show::backup(&done, &absolute(&options.data), &absolute(folder), new))?;
    Ok(if done.good { Outcome::Done } else { Outcome::NotWhole })
}

/// Refuses to make a vault unasked among other things: the path may be wrong, or a vault may have lost its `vault.json`.
fn check_free(folder: &Path) -> Result<()> {
    let doing = || format!("make a vault in {}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why).doing(doing),
    };
    for entry in entries {
        let name = entry.doing(doing)?.file_name();
        // A new filesystem has the first; a vault whose making was cut short has the others.
        let known = ["lost+found", "tmp", lastgood::vault::README].iter().any(|known| name == *known);
        // And another process may have made the vault just now.
        if !known && !folder.join(lastgood::vault::CONFIG).exists() {
            let why = format!("it is not empty ({}), and has no vault.json", printable(&name.to_string_lossy()));
            return Err(Error::failed(doing(), why)
                .hint("Check the address. If a vault shall be made there all the same: `lastgood init`."));
        }
    }
    Ok(())
}

fn list(vault: &Vault, console: &mut Console, ctx: &Context) -> Result<Outcome> {
    let mut items = console.items();
    items.head(&show::list_head())?;
    let damaged = inspect::list(vault, |listed| items.item(&listed, show::listed), ctx)?;
    items.end()?;
    if damaged == 0 {
        return Ok(Outcome::Done);
    }
    tracing::error!("the roots of {damaged} snapshots are damaged; `lastgood verify` says more");
    Ok(Outcome::Damage)
}

/// Prints help, the version, or what is wrong with the arguments.
fn explain(why: &clap::Error, mut out: Stdout) -> ExitCode {
    let code = why.exit_code();
    if let Err(closed) = why.print()
        && closed.kind() != io::ErrorKind::BrokenPipe
    {
        return ExitCode::from(Outcome::Failed as u8);
    }
    // The arguments could not be parsed, so that they are looked through for the one that matters here.
    if code != 0 && std::env::args_os().any(|arg| arg == "--json") {
        console::write_error(&mut out, Kind::Usage, why.to_string().trim_end(), None);
    }
    ExitCode::from(if code == 0 { Outcome::Done } else { Outcome::Usage } as u8)
}

/// The first SIGINT or SIGTERM sets `stop`; a second one ends the program at once.
fn watch_signals(stop: &Arc<AtomicBool>) -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, INTERRUPTED.into(), stop.clone())
            .and_then(|_| flag::register(signal, stop.clone()))
            .doing(|| "watch for signals")?;
    }
    Ok(())
}

/// Sends the log to stderr as plain lines; `RUST_LOG` has the last word on what is in it.
fn start_log(terminal: &Terminal, level: tracing::Level) {
    let filter = tracing_subscriber::EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(terminal.stderr())
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The absolute path of something that need not exist: symlinks are followed as far as it does.
fn resolve(path: &Path) -> PathBuf {
    let path = absolute(path);
    for known in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (known.canonicalize(), path.strip_prefix(known)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path
}
