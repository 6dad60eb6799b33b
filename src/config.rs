//! Turns flags and environment into one checked [`Config`] of concrete values. Nothing after this asks either again.

mod backup;
mod dispatched;
mod doctor;
mod env;
pub mod example;
pub mod file;
pub mod layers;
pub mod options;
mod hooks;
mod import;
mod keep;
mod places;
mod pubsub;
mod results;
pub mod secret;
mod run;
mod serve;
mod start;
mod switches;
mod variables;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use lastgood::error::{Code, Error, Result};
use lastgood::export::ArchiveFormat;
use lastgood::gcp::cloud::Cloud;
use lastgood::hooks::Hooks;
use lastgood::job::Job;
use lastgood::notify::Notifier;
use lastgood::path::EntryPath;
use lastgood::report::{Outcome, RunEnvironment};
use lastgood::restore::options::Only;
use lastgood::restore::{self, apart};
use lastgood::store::address::Address;
use lastgood::verify;

use crate::cli::{self, Cli, Command};

use self::backup::{backup_options, labels, reason};
pub use self::dispatched::DispatchedConfig;
use self::env::Env;
pub use self::env::{names_of_this_process, of_this_process};
use self::hooks::HookArgs;
pub use self::keep::{ConfiguredPolicy, PinEnd};
use self::places::{address, cloud, place, vaults};
pub use self::pubsub::Publication;
pub use self::serve::ServiceConfig;
pub use self::start::StartConfig;
pub use self::switches::OFF;

const DATA: &str = "./data";
const DATA_IN_CLOUD_RUN: &str = "/app/data";

/// The facts about the host, passed in so that [`Config::new`] has no other input.
pub struct HostEnvironment<'a> {
    /// Returns a variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Returns the absolute path of a file or folder, as it is named. The working folder may be another one later, or have
    /// another name.
    pub absolute: &'a dyn Fn(&Path) -> PathBuf,
    /// Returns the absolute path of a file or folder, symlinks followed as far as it exists.
    pub resolve: &'a dyn Fn(&Path) -> PathBuf,
    /// Returns the same for a vault, which may hang: in time, and then as it is named.
    pub resolve_vault: &'a dyn Fn(&Path) -> PathBuf,
    /// The host's name.
    pub host: String,
    /// The kernel's boot id; empty where there is none.
    pub boot: String,
    /// Returns the content of a file below `/proc/sys`, such as `vm/dirty_expire_centisecs`.
    pub kernel: &'a dyn Fn(&str) -> Option<String>,
}

/// The command, and the settings that it needs.
#[derive(Debug)]
pub struct Config {
    /// The vaults, the preferred one first; at least one.
    pub vaults: Vec<Address>,
    /// How buckets are reached.
    pub cloud: Cloud,
    /// Uploads, and reads, at the same time; `None`: the number of cores decides.
    pub parallel: Option<usize>,
    /// The environment that the run is in, as reports tell it.
    pub place: RunEnvironment,
    /// The notifier that tells how a run ended. That of a service is in its rules.
    pub notify: Notifier,
    /// The commands that are run before and after the run. Those of a service are in its rules.
    pub hooks: Hooks,
    /// Outcomes besides a complete one that exit with 0.
    pub exit_zero_on: Vec<Outcome>,
    /// Messages for the log about variables that are not used.
    pub unused: Vec<String>,
    /// The command.
    pub task: ConfiguredCommand,
}

/// How the program prints and logs what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputOptions {
    /// Prints one JSON document on stdout in place of text.
    pub json: bool,
    /// Prints errors only.
    pub quiet: bool,
    /// Shows a progress bar, where there is a terminal.
    pub progress: bool,
    /// The log's level.
    pub level: tracing::Level,
    /// Whether the log is JSON.
    pub json_log: bool,
}

/// One command with its checked options.
#[derive(Debug)]
pub enum ConfiguredCommand {
    Init,
    /// A backup that is not taken, since backups are switched off; with whether a schedule asks for it.
    SwitchedOff {
        scheduled: bool,
    },
    /// A backup, a restore or a verification: the jobs that can be asked for in other ways, too.
    Run(Job),
    /// A restore that is done only where it is needed, or is only described.
    RestoreIf {
        options: restore::options::RestoreOptions,
        dry_run: bool,
    },
    Runs {
        run: Option<String>,
        limit: usize,
    },
    Copy {
        from: Address,
        to: Address,
        /// Whether a vault may be made there, even elsewhere than at the default place.
        init: bool,
        snapshots: Vec<String>,
    },
    List {
        limit: usize,
    },
    Ls {
        snapshot: String,
        path: EntryPath,
        recursive: bool,
    },
    Cat {
        snapshot: String,
        path: EntryPath,
        torn: bool,
    },
    Diff {
        a: String,
        b: String,
    },
    Export {
        snapshot: String,
        format: ArchiveFormat,
        to: Destination,
    },
    Doctor(Box<lastgood::doctor::check::DoctorSettings>),
    State(Box<StartConfig>),
    Seed {
        data: PathBuf,
    },
    Pin {
        snapshot: String,
        end: PinEnd,
        why: String,
    },
    Unpin {
        snapshot: String,
        why: String,
    },
    /// What a policy would let go.
    Prune(ConfiguredPolicy),
    /// An older snapshot that becomes the newest.
    Rollback(Box<lastgood::run::rollback::RollbackSettings>),
    /// Make snapshots of archives.
    Import(Box<lastgood::import::ImportOptions>),
    /// An app, with backups and restores around it.
    RunApp(Box<lastgood::run::settings::RunSettings>),
    /// A service over HTTP, by pulling, or both.
    Serve(Box<ServiceConfig>),
    Dispatched(Box<DispatchedConfig>),
    Publish(Box<Publication>),
}

/// Where an export goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    File(PathBuf),
}

impl OutputOptions {
    /// Settles how to print and log. This comes first, since what follows may have something to report.
    pub fn new(global: &cli::GlobalFlags, env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let env = Env::new(env);
        let json_log = match (global.log_format, env.get("LASTGOOD_LOG_FORMAT")) {
            (Some(format), _) => format == cli::LogFormat::Json,
            (None, Some(format)) if format.eq_ignore_ascii_case("json") => true,
            (None, Some(format)) if format.eq_ignore_ascii_case("text") => false,
            // `Config::new` reports another word as an error.
            (None, _) => env.in_cloud_run(),
        };
        let level = match (global.quiet, global.verbose) {
            (true, _) => tracing::Level::ERROR,
            (false, 0) if json_log => tracing::Level::INFO,
            (false, 0) => tracing::Level::WARN,
            (false, 1) => tracing::Level::INFO,
            (false, 2) => tracing::Level::DEBUG,
            (false, _) => tracing::Level::TRACE,
        };
        let progress = !(global.quiet || global.json || global.no_progress);
        OutputOptions { json: global.json, quiet: global.quiet, progress, level, json_log }
    }

    /// Returns the same for a command that serves: its log is all that there is to see of it.
    pub fn of_a_service(self) -> Self {
        let level = if self.quiet { self.level } else { self.level.max(tracing::Level::INFO) };
        OutputOptions { progress: false, level, ..self }
    }
}

impl Config {
    /// Settles what the command line and the environment ask for. What a configuration file says is a part of both already:
    /// see [`layers`].
    ///
    /// # Errors
    /// Wrong usage: an address of an unknown kind, a bad path, or a vault and a directory that are in each other's way.
    pub fn new(cli: Cli, outside: &HostEnvironment) -> Result<Config> {
        let json = cli.global.json;
        let env = Env::new(outside.env);
        // `OutputOptions::new` has used the format long ago, so that an error can be reported at all; here it is checked.
        env.choice::<cli::LogFormat>("LASTGOOD_LOG_FORMAT")?;
        let vaults = vaults(cli.global.vaults, &env, outside)?;
        let cloud = cloud(&cli.global.cloud, &env)?;
        let place = place(&env, &outside.host);
        let parallel = match cli.global.cloud.parallel {
            Some(parallel) => Some(parallel),
            None => env.parsed("LASTGOOD_PARALLEL", cli::parallel)?,
        };
        let data = |given: Option<PathBuf>| {
            let default = if env.in_cloud_run() { DATA_IN_CLOUD_RUN } else { DATA };
            let named = given.or_else(|| env.path("LASTGOOD_DATA")).unwrap_or_else(|| default.into());
            let at = (outside.absolute)(&named);
            match at.is_absolute() {
                true => Ok(at),
                false => Err(Error::usage(
                    format!("find the directory {}", named.display()),
                    "the working directory, in which it would be, has been removed",
                )
                .with_code(Code::NotFound)
                .hint("Go to another one, or back to the one that has its name now: `cd \"$PWD\"`.")),
            }
        };
        let pings = matches!(cli.command, Command::Backup(_) | Command::Dispatched(_));
        let tell = |args| results::notify(args, pings, &place, &cloud, &env);
        let (mut exit_zero_on, mut notify, mut hooks) = (Vec::new(), Notifier::default(), HookArgs::default());
        let unused = switches::unused(&cli.command, &env);
        let task = match cli.command {
            Command::Config(_) | Command::Completions(_) | Command::Man(_) => {
                let why = "what the command line itself says is shown before any setting is used";
                return Err(Error::failed("show the settings", why).with_code(Code::Internal));
            }
            Command::Init => ConfiguredCommand::Init,
            Command::Backup(args) if switches::backups_off(&env)? => {
                ConfiguredCommand::SwitchedOff { scheduled: args.reason == cli::ReasonFlag::Schedule }
            }
            Command::Backup(args) => {
                let init = args.taking.init;
                notify = tell(args.results)?;
                hooks = HookArgs { backup: Some(args.backup_hooks), all: Some(args.hooks), ..HookArgs::default() };
                exit_zero_on = args.exit_zero_on.iter().map(|not_good| outcome(*not_good)).collect();
                ConfiguredCommand::Run(Job::Backup {
                    options: Box::new(lastgood::backup::options::BackupOptions {
                        labels: labels(args.labels)?,
                        ..backup_options(data(args.data)?, &vaults, args.taking, reason(args.reason), outside)?
                    }),
                    init,
                })
            }
            Command::Restore(args) => {
                notify = tell(args.results)?;
                hooks = HookArgs { restore: Some(args.restore_hooks), all: Some(args.hooks), ..HookArgs::default() };
                let paths = args.paths.iter().map(|path| entry_path(path)).collect::<Result<_>>()?;
                let options = restore::options::RestoreOptions {
                    snapshot: args.snapshot,
                    in_place: args.replacing.in_place,
                    around_mounts: args.replacing.around_mounts,
                    while_in_use: args.replacing.while_in_use,
                    skip_damaged: args.skip_damaged,
                    only: Only { missing: args.if_missing, older: args.if_older },
                    ..restoring(data(args.target)?, paths, &vaults, outside)?
                };
                match options.only.is_conditional() || args.dry_run {
                    true => ConfiguredCommand::RestoreIf { options, dry_run: args.dry_run },
                    false => ConfiguredCommand::Run(Job::Restore(options)),
                }
            }
            Command::Rollback(args) => ConfiguredCommand::Rollback(Box::new(run::rollback(args, &outside.host, &env)?)),
            Command::Pin(args) => {
                let end = PinEnd::new(args.until, args.length);
                ConfiguredCommand::Pin { snapshot: args.snapshot, end, why: args.why }
            }
            Command::Unpin(args) => ConfiguredCommand::Unpin { snapshot: args.snapshot, why: args.why },
            Command::Prune(args) => keep::prune(args, &vaults, &env)?,
            Command::Import(args) => {
                let data = data(args.data.clone())?;
                ConfiguredCommand::Import(Box::new(import::import(args, data, &vaults, outside)?))
            }
            Command::Copy(args) => copy_job(args, outside)?,
            Command::Doctor(args) => {
                let backups_off = switches::backups_off(&env)?.then(|| switches::OFF.to_owned());
                let max_age = serve::max_age(args.max_age, None, &env)?;
                let settings = doctor::doctor_settings(data(args.data)?, &vaults, &cloud, max_age, outside);
                ConfiguredCommand::Doctor(Box::new(lastgood::doctor::check::DoctorSettings {
                    backups_off,
                    only_age: args.only == Some(cli::DoctorOnly::Age),
                    ..settings
                }))
            }
            Command::State(args) => {
                ConfiguredCommand::State(Box::new(start::start(data(args.data)?, &vaults, args.start, outside)?))
            }
            Command::Seed(args) => ConfiguredCommand::Seed { data: data(Some(args.data))? },
            Command::Run(args) => {
                let (data, to) = (data(args.data.clone())?, (&*vaults, &cloud));
                ConfiguredCommand::RunApp(Box::new(run::run(*args, data, to, place.clone(), &env, outside)?))
            }
            Command::Serve(args) => {
                let data = data(args.data.clone())?;
                let to = (&*vaults, &cloud);
                ConfiguredCommand::Serve(Box::new(serve::service(*args, data, to, place.clone(), &env, outside)?))
            }
            Command::Listen(args) => {
                let data = data(args.data.clone())?;
                let to = (&*vaults, &cloud);
                ConfiguredCommand::Serve(Box::new(serve::listener(*args, data, to, place.clone(), &env, outside)?))
            }
            Command::Publish(args) => {
                let project = cloud.project.as_deref();
                ConfiguredCommand::Publish(Box::new(pubsub::publication(args, project, &outside.host, &env)?))
            }
            Command::Dispatched(args) => {
                exit_zero_on = args.exit_zero_on.iter().map(|not_good| outcome(*not_good)).collect();
                let (data, to) = (data(args.data.clone())?, (&*vaults, &cloud));
                ConfiguredCommand::Dispatched(Box::new(dispatched::dispatched(
                    *args,
                    data,
                    to,
                    place.clone(),
                    &env,
                    outside,
                )?))
            }
            Command::List(args) => ConfiguredCommand::List { limit: args.limit },
            Command::Runs(args) => ConfiguredCommand::Runs { run: args.run, limit: args.limit },
            Command::Ls(args) => ConfiguredCommand::Ls {
                snapshot: args.snapshot,
                path: entry_path(&args.path)?,
                recursive: args.recursive,
            },
            Command::Cat(_) if json => {
                return Err(Error::usage("write a file's content as JSON", "`cat` writes the content itself"));
            }
            Command::Cat(args) => {
                ConfiguredCommand::Cat { snapshot: args.snapshot, path: entry_path(&args.path)?, torn: args.torn }
            }
            Command::Diff(args) => ConfiguredCommand::Diff { a: args.a, b: args.b },
            Command::Export(args) => {
                let to =
                    if args.output == Path::new("-") { Destination::Stdout } else { Destination::File(args.output) };
                if json && to == Destination::Stdout {
                    let why = "the snapshot and the JSON document would both go to stdout";
                    return Err(Error::usage("export to stdout", why).hint("Name a file: `-o snapshot.tar.zst`."));
                }
                let format = match args.format {
                    cli::ExportFormat::Pax => ArchiveFormat::Pax,
                    cli::ExportFormat::Plain => ArchiveFormat::Plain,
                };
                ConfiguredCommand::Export { snapshot: args.snapshot, format, to }
            }
            Command::Verify(args) => {
                notify = tell(args.results)?;
                ConfiguredCommand::Run(Job::Verify(verify::VerifyOptions {
                    read_data: args.read_data,
                    databases: args.databases,
                }))
            }
        };
        let hooks = hooks::hooks(hooks, &env)?;
        Ok(Config { vaults, cloud, parallel, place, notify, hooks, exit_zero_on, unused, task })
    }
}

fn outcome(not_good: cli::NotGood) -> Outcome {
    match not_good {
        cli::NotGood::Stale => Outcome::Stale,
        cli::NotGood::IncompleteCopies => Outcome::IncompleteCopies,
        cli::NotGood::Partial => Outcome::Partial,
        cli::NotGood::Suspect => Outcome::Suspect,
        cli::NotGood::Unsound => Outcome::Unsound,
    }
}

/// Returns the folders among the vaults, and where they really are.
fn folders<'v>(vaults: &'v [Address], outside: &HostEnvironment) -> Vec<(&'v Path, PathBuf)> {
    let folder = |vault: &'v Address| match vault {
        Address::Folder(path) => Some((&**path, (outside.resolve_vault)(path))),
        Address::Bucket { .. } => None,
    };
    vaults.iter().filter_map(folder).collect()
}

/// Returns the options of a restore of the newest good snapshot to a directory, after a check that nothing of it is in a vault's
/// way.
fn restoring(
    target: PathBuf,
    paths: Vec<EntryPath>,
    vaults: &[Address],
    outside: &HostEnvironment,
) -> Result<restore::options::RestoreOptions> {
    let at = (outside.resolve)(&target);
    let vaults: Vec<_> = folders(vaults, outside).into_iter().map(|(_, vault_at)| vault_at).collect();
    // A restore checks this again when it begins.
    apart::check(&at, &paths, &vaults)?;
    // The system resolves no `..` behind a folder that does not exist, and the path that was checked is meant.
    let goes_back = target.components().any(|part| part == Component::ParentDir);
    let target = if goes_back && !target.exists() { at } else { target };
    Ok(restore::options::RestoreOptions { paths, vaults, ..restore::options::RestoreOptions::latest(target) })
}

fn copy_job(args: cli::CopyArgs, outside: &HostEnvironment) -> Result<ConfiguredCommand> {
    let (from, to) = (address(&args.from, outside)?, address(&args.to, outside)?);
    let at = |address: &Address| match address {
        Address::Folder(path) => Address::Folder((outside.resolve_vault)(path)),
        bucket => bucket.clone(),
    };
    if at(&from) == at(&to) {
        return Err(
            Error::usage(format!("copy from {from} to {to}"), "both are the same place").with_code(Code::BadSetting)
        );
    }
    Ok(ConfiguredCommand::Copy { from, to, init: args.init, snapshots: args.snapshots })
}

/// Parses a path in a snapshot.
fn entry_path(text: &OsStr) -> Result<EntryPath> {
    EntryPath::given(text.as_bytes()).map_err(|why| {
        let hint = match text.is_empty() {
            true => "Is a variable unset? `.` is all of the snapshot.",
            false => {
                "Paths in a snapshot are relative to the data directory, as `lastgood ls` shows them: `uploads/a`."
            }
        };
        Error::usage("look into a snapshot", why).with_code(Code::BadSetting).hint(hint)
    })
}

#[cfg(test)]
mod tests;
