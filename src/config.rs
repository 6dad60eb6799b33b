//! From flags and environment to one checked [`Config`] of concrete values. Nothing after this asks either again.

mod dispatched;
mod doctor;
mod env;
mod places;
mod pubsub;
mod results;
mod serve;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lastgood::error::{Error, Result};
use lastgood::job::Job;
use lastgood::notify::Notify;
use lastgood::report::{Outcome, Place};
use lastgood::store::address::Address;
use lastgood::store::cloud::Cloud;
use lastgood::vault::entry::CheckKind;
use lastgood::vault::path::EntryPath;
use lastgood::vault::root::Reason;
use lastgood::{backup, restore, verify};

use crate::cli::{self, Cli, Command};

pub use self::dispatched::Dispatched;
use self::env::Env;
use self::places::{cloud, place, vaults};
pub use self::pubsub::Publication;
pub use self::serve::{Http, Service};

const DATA: &str = "./data";
const DATA_IN_CLOUD_RUN: &str = "/app/data";

/// What the surroundings tell, passed in so that [`Config::new`] has no other input.
pub struct Outside<'a> {
    /// A variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// The absolute path of a file or folder, symlinks followed as far as it exists.
    pub resolve: &'a dyn Fn(&Path) -> PathBuf,
    /// The host's name.
    pub host: String,
    /// The kernel's boot id; empty where there is none.
    pub boot: String,
}

/// What to do, and where.
#[derive(Debug)]
pub struct Config {
    /// The vaults, the one to be preferred first; at least one.
    pub vaults: Vec<Address>,
    /// How buckets are reached.
    pub cloud: Cloud,
    /// Uploads, and reads, at the same time; by the number of cores where it is not said.
    pub parallel: Option<usize>,
    /// What the surroundings say of the place where it runs.
    pub place: Place,
    /// Who is told how a run ended; a service's is with its rules.
    pub notify: Notify,
    /// How a run may end, besides well, and be taken for done.
    pub exit_zero_on: Vec<Outcome>,
    /// What to do.
    pub task: Task,
}

/// How the program tells what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// One JSON document on stdout in place of text.
    pub json: bool,
    /// Nothing but errors.
    pub quiet: bool,
    /// A progress bar, where there is a terminal.
    pub progress: bool,
    /// The log's level.
    pub level: tracing::Level,
    /// Whether the log is JSON.
    pub json_log: bool,
}

/// One command with its checked options.
#[derive(Debug)]
pub enum Task {
    Init,
    /// A backup, a restore or a verification: what can be asked for in other ways, too.
    Run(Job),
    Runs {
        run: Option<String>,
        limit: usize,
    },
    Copy {
        from: Address,
        to: Address,
        snapshots: Vec<String>,
    },
    List,
    Ls {
        snapshot: String,
        path: EntryPath,
        recursive: bool,
    },
    Cat {
        snapshot: String,
        path: EntryPath,
    },
    Diff {
        a: String,
        b: String,
    },
    Export {
        snapshot: String,
        to: Destination,
    },
    Doctor(Box<lastgood::doctor::Place>),
    /// Over HTTP, by pulling, or both.
    Serve(Box<Service>),
    Dispatched(Box<Dispatched>),
    Publish(Box<Publication>),
}

/// Where an export goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    File(PathBuf),
}

impl Output {
    /// How to tell, before anything that may have to be told.
    pub fn new(global: &cli::Global, env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let env = Env::new(env);
        let json_log = match (global.log_format, env.get("LASTGOOD_LOG_FORMAT")) {
            (Some(format), _) => format == cli::LogFormat::Json,
            (None, Some(format)) => format.eq_ignore_ascii_case("json"),
            (None, None) => env.in_cloud_run(),
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
        Output { json: global.json, quiet: global.quiet, progress, level, json_log }
    }

    /// The same for a command that serves: its log is what there is to be seen of it.
    pub fn of_a_service(self) -> Self {
        let level = if self.quiet { self.level } else { self.level.max(tracing::Level::INFO) };
        Output { progress: false, level, ..self }
    }
}

impl Config {
    /// Settles what the command line and the environment ask for.
    ///
    /// # Errors
    /// Wrong usage: an address of an unknown kind, a bad path, a vault and a directory that are in each other's way.
    pub fn new(cli: Cli, outside: &Outside) -> Result<Config> {
        let json = cli.global.json;
        let env = Env::new(outside.env);
        let vaults = vaults(cli.global.vaults, &env)?;
        let cloud = cloud(&cli.global.cloud, &env)?;
        let place = place(&env, &outside.host);
        let parallel = match cli.global.cloud.parallel {
            Some(parallel) => Some(parallel),
            None => env.parsed("LASTGOOD_PARALLEL", cli::parallel)?,
        };
        let data = |given: Option<PathBuf>| {
            let default = if env.in_cloud_run() { DATA_IN_CLOUD_RUN } else { DATA };
            given.or_else(|| env.path("LASTGOOD_DATA")).unwrap_or_else(|| default.into())
        };
        let tell = |args| results::notify(args, &place, &cloud, &env);
        let (mut exit_zero_on, mut notify) = (Vec::new(), Notify::default());
        let task = match cli.command {
            Command::Init => Task::Init,
            Command::Backup(args) => {
                let init = args.taking.init;
                notify = tell(args.results)?;
                exit_zero_on = args.exit_zero_on.iter().map(|not_good| outcome(*not_good)).collect();
                Task::Run(Job::Backup {
                    options: Box::new(backup::Options {
                        labels: labels(args.labels)?,
                        ..backup_options(data(args.data), &vaults, args.taking, reason(args.reason), outside)?
                    }),
                    init,
                })
            }
            Command::Restore(args) => {
                notify = tell(args.results)?;
                let paths = args.paths.iter().map(|path| entry_path(path)).collect::<Result<_>>()?;
                Task::Run(Job::Restore(restore::Options {
                    snapshot: args.snapshot,
                    target: target(data(args.target), &vaults, outside)?,
                    paths,
                    in_place: args.in_place,
                    skip_damaged: args.skip_damaged,
                }))
            }
            Command::Copy(args) => copy_job(args, outside)?,
            Command::Doctor(args) => {
                Task::Doctor(Box::new(doctor::place(data(args.data), &vaults, &cloud, args.max_age, outside)))
            }
            Command::Serve(args) => {
                let data = data(args.data.clone());
                let to = (&*vaults, &cloud);
                Task::Serve(Box::new(serve::service(*args, data, to, place.clone(), &env, outside)?))
            }
            Command::Listen(args) => {
                let data = data(args.data.clone());
                let to = (&*vaults, &cloud);
                Task::Serve(Box::new(serve::listener(*args, data, to, place.clone(), &env, outside)?))
            }
            Command::Publish(args) => {
                let project = cloud.project.as_deref();
                Task::Publish(Box::new(pubsub::publication(args, project, &outside.host, &env)?))
            }
            Command::Dispatched(args) => {
                exit_zero_on = args.exit_zero_on.iter().map(|not_good| outcome(*not_good)).collect();
                let (data, to) = (data(args.data.clone()), (&*vaults, &cloud));
                Task::Dispatched(Box::new(dispatched::dispatched(*args, data, to, place.clone(), &env, outside)?))
            }
            Command::List => Task::List,
            Command::Runs(args) => Task::Runs { run: args.run, limit: args.limit },
            Command::Ls(args) => {
                Task::Ls { snapshot: args.snapshot, path: entry_path(&args.path)?, recursive: args.recursive }
            }
            Command::Cat(_) if json => {
                return Err(Error::usage("write a file's content as JSON", "`cat` writes the content itself"));
            }
            Command::Cat(args) => Task::Cat { snapshot: args.snapshot, path: entry_path(&args.path)? },
            Command::Diff(args) => Task::Diff { a: args.a, b: args.b },
            Command::Export(args) => {
                let to =
                    if args.output == Path::new("-") { Destination::Stdout } else { Destination::File(args.output) };
                if json && to == Destination::Stdout {
                    let why = "the snapshot and the JSON document would both go to stdout";
                    return Err(Error::usage("export to stdout", why).hint("Name a file: `-o snapshot.tar.zst`."));
                }
                Task::Export { snapshot: args.snapshot, to }
            }
            Command::Verify(args) => {
                notify = tell(args.results)?;
                Task::Run(Job::Verify(verify::Options { read_data: args.read_data, databases: args.databases }))
            }
        };
        Ok(Config { vaults, cloud, parallel, place, notify, exit_zero_on, task })
    }
}

fn outcome(not_good: cli::NotGood) -> Outcome {
    match not_good {
        cli::NotGood::Partial => Outcome::Partial,
        cli::NotGood::Suspect => Outcome::Suspect,
        cli::NotGood::Unsound => Outcome::Unsound,
    }
}

/// The folders among the vaults, and where they really are.
fn folders<'v>(vaults: &'v [Address], outside: &Outside) -> Vec<(&'v Path, PathBuf)> {
    let folder = |vault: &'v Address| match vault {
        Address::Folder(path) => Some((&**path, (outside.resolve)(path))),
        Address::Bucket { .. } => None,
    };
    vaults.iter().filter_map(folder).collect()
}

fn reason(reason: cli::Reason) -> Reason {
    match reason {
        cli::Reason::Manual => Reason::Manual,
        cli::Reason::Schedule => Reason::Schedule,
        cli::Reason::Critical => Reason::Critical,
        cli::Reason::Shutdown => Reason::Shutdown,
    }
}

fn labels(given: Vec<(String, String)>) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        if labels.contains_key(&key) {
            return Err(Error::usage(
                format!("label the snapshot with {key}={value}"),
                format!("{key} is given twice"),
            ));
        }
        labels.insert(key, value);
    }
    Ok(labels)
}

fn backup_options(
    data: PathBuf,
    vaults: &[Address],
    args: cli::Taking,
    reason: Reason,
    outside: &Outside,
) -> Result<backup::Options> {
    let (at, folders) = ((outside.resolve)(&data), folders(vaults, outside));
    if let Some((vault, _)) = folders.iter().find(|(_, vault_at)| at.starts_with(vault_at)) {
        let why = format!("it is the vault {} or lies in it", vault.display());
        return Err(Error::usage(format!("back up {}", data.display()), why)
            .hint("Keep the vault beside the data directory: `--vault URL`."));
    }
    Ok(backup::Options {
        data,
        reason,
        sqlite: !args.no_sqlite,
        check: match args.check_databases {
            Some(cli::CheckDatabases::Quick) => Some(CheckKind::Quick),
            Some(cli::CheckDatabases::Full) => Some(CheckKind::Full),
            Some(cli::CheckDatabases::Off) => None,
            None if reason == Reason::Critical && !args.no_sqlite => Some(CheckKind::Quick),
            None => None,
        },
        busy_timeout: args.busy_timeout,
        include: args.include,
        exclude: args.exclude,
        verify_content: args.verify_content,
        accept_shrink: args.accept_shrink,
        level: args.level,
        checkpoint_every: args.checkpoint_every,
        host: outside.host.clone(),
        boot: outside.boot.clone(),
        not_walked: folders.into_iter().map(|(_, vault_at)| vault_at).collect(),
        ..backup::Options::default()
    })
}

/// The directory to restore into, which must not be in a vault's way.
fn target(target: PathBuf, vaults: &[Address], outside: &Outside) -> Result<PathBuf> {
    let (at, folders) = ((outside.resolve)(&target), folders(vaults, outside));
    let doing = || format!("restore into {}", target.display());
    if let Some((vault, _)) = folders.iter().find(|(_, vault_at)| at.starts_with(vault_at)) {
        return Err(Error::usage(doing(), format!("it is the vault {} or lies in it", vault.display())));
    }
    if let Some((vault, _)) = folders.iter().find(|(_, vault_at)| vault_at.starts_with(&at)) {
        // What is in the target moves aside, and the vault would go with it.
        let why = format!("the vault {} lies in it, and would move aside with what is there", vault.display());
        return Err(Error::usage(doing(), why)
            .hint("Restore into another directory, or move the vault out of this one first: `--vault URL` names it."));
    }
    Ok(target)
}

fn copy_job(args: cli::Copy, outside: &Outside) -> Result<Task> {
    let (from, to) = (Address::parse(&args.from)?, Address::parse(&args.to)?);
    let at = |address: &Address| match address {
        Address::Folder(path) => Address::Folder((outside.resolve)(path)),
        bucket => bucket.clone(),
    };
    if at(&from) == at(&to) {
        return Err(Error::usage(format!("copy from {from} to {to}"), "both are the same place"));
    }
    Ok(Task::Copy { from, to, snapshots: args.snapshots })
}

/// A path inside a snapshot as a person types it: with `./` before it or `/` after it, too.
fn entry_path(text: &OsStr) -> Result<EntryPath> {
    let mut bytes = text.as_bytes();
    while let Some(rest) = bytes.strip_prefix(b"./") {
        bytes = rest;
    }
    while let Some(rest) = bytes.strip_suffix(b"/")
        && !rest.is_empty()
    {
        bytes = rest;
    }
    let bytes = if bytes.is_empty() { b"." } else { bytes };
    EntryPath::new(bytes).map_err(|why| {
        Error::usage("look into a snapshot", why)
            .hint("Paths in a snapshot are relative to the data directory: `uploads/a`.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use lastgood::error::Kind;

    /// The config of a command line in `/work`, with variables.
    pub fn config(line: &str, env: &[(&str, &str)]) -> Result<Config> {
        let cli = Cli::try_parse_from(std::iter::once("lastgood").chain(line.split_whitespace())).unwrap();
        let resolve = |path: &Path| {
            let mut whole = PathBuf::from("/work");
            path.components().for_each(|part| match part {
                std::path::Component::CurDir => {}
                std::path::Component::ParentDir => drop(whole.pop()),
                part => whole.push(part),
            });
            whole
        };
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Config::new(cli, &Outside { env: &env, resolve: &resolve, host: "host".into(), boot: String::new() })
    }

    fn places(line: &str, env: &[(&str, &str)]) -> (String, String) {
        let config = config(line, env).unwrap();
        let data = match config.task {
            Task::Run(Job::Backup { options, .. }) => options.data,
            Task::Run(Job::Restore(options)) => options.target,
            other => panic!("{other:?}"),
        };
        (data.to_str().unwrap().to_owned(), config.vaults[0].to_string())
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_defaults() {
        let set = &[("LASTGOOD_DATA", "/env/data"), ("LASTGOOD_VAULT", "file:///env/vault"), ("K_SERVICE", "app")];
        for (line, env, data, vault) in [
            ("backup", &[][..], "./data", "./backups"),
            ("restore", &[], "./data", "./backups"),
            ("backup", &[("K_SERVICE", "app")], "/app/data", "./backups"),
            ("restore", &[("CLOUD_RUN_JOB", "nightly")], "/app/data", "./backups"),
            ("backup", &[("K_SERVICE", ""), ("LASTGOOD_DATA", ""), ("LASTGOOD_VAULT", "")], "./data", "./backups"),
            ("backup", set, "/env/data", "/env/vault"),
            ("backup x", set, "x", "/env/vault"),
            ("restore x --vault v", set, "x", "v"),
            ("--vault v restore", set, "/env/data", "v"),
        ] {
            assert_eq!(places(line, env), (data.into(), vault.into()), "{line} {env:?}");
        }
    }

    #[test]
    fn vaults_as_people_configure_them() {
        let gs = "gs://state-1/lastgood";
        for (line, env, vaults) in [
            ("list", &[("BACKUP_BUCKET_NAME", "state-1")][..], &[gs][..]),
            ("list", &[("GCS_BUCKET_NAME", "gs://state-1/")], &[gs]),
            ("list", &[("GCS_BUCKET_NAME", "state-1"), ("BACKUP_BUCKET_NAME", "state-1")], &[gs]),
            ("list", &[("GCS_BUCKET_NAME", "state-1"), ("LASTGOOD_VAULT", "a, gs://b-1/c")], &["a", "gs://b-1/c"]),
            ("list --vault v", &[("GCS_BUCKET_NAME", "a-1"), ("BACKUP_BUCKET_NAME", "b-1")], &["v"]),
            ("list --vault v --vault w", &[("LASTGOOD_VAULT", "a")], &["v", "w"]),
            ("list", &[], &["./backups"]),
        ] {
            let found: Vec<_> = config(line, env).unwrap().vaults.iter().map(Address::to_string).collect();
            assert_eq!(found, vaults, "{line} {env:?}");
        }
        for (env, why) in [
            (&[("GCS_BUCKET_NAME", "a-1"), ("BACKUP_BUCKET_NAME", "b-1")][..], "BACKUP_BUCKET_NAME says b-1"),
            (&[("GCS_BUCKET_NAME", "gs://a-1/x")], "the name alone"),
            (&[("LASTGOOD_VAULT", "a,a")], "given twice"),
            (&[("LASTGOOD_VAULT", "a,")], "empty"),
            (&[("GCP_PROJECT_ID", "a"), ("GOOGLE_CLOUD_PROJECT", "b")], "which project"),
            (&[("LASTGOOD_STORE_TIMEOUT", "soon")], "LASTGOOD_STORE_TIMEOUT=soon"),
            (&[("LASTGOOD_PARALLEL", "0")], "LASTGOOD_PARALLEL=0"),
        ] {
            let said = config("list", env).unwrap_err();
            assert!(said.kind() == Kind::Usage && said.to_string().contains(why), "{env:?}: {said}");
        }
    }

    #[test]
    fn how_buckets_are_reached() {
        let cloud = |line: &str, env: &[(&str, &str)]| config(line, env).unwrap().cloud;
        assert_eq!(cloud("list", &[]), Cloud::default());
        for host in ["127.0.0.1:9000", "http://127.0.0.1:9000/", "http://127.0.0.1:9000/storage/v1/"] {
            let found = cloud("list", &[("STORAGE_EMULATOR_HOST", host)]);
            assert_eq!(found.emulator.as_deref(), Some("http://127.0.0.1:9000"), "{host}");
        }
        let found = cloud("list --store-timeout 5s", &[("LASTGOOD_STORE_TIMEOUT", "1m"), ("GCP_PROJECT_ID", "p")]);
        assert_eq!((found.patience.as_secs(), found.project.as_deref()), (5, Some("p")));
        assert_eq!(cloud("list", &[("LASTGOOD_STORE_TIMEOUT", "1m")]).patience.as_secs(), 60);
        let parallel = |line: &str, env: &[(&str, &str)]| config(line, env).unwrap().parallel;
        assert_eq!(parallel("list --parallel 3", &[("LASTGOOD_PARALLEL", "4")]), Some(3));
        assert_eq!((parallel("list", &[("LASTGOOD_PARALLEL", "4")]), parallel("list", &[])), (Some(4), None));
    }

    #[test]
    fn a_vault_and_a_directory_in_each_others_way_are_refused() {
        for (line, fine) in [
            ("backup data --vault backups", true),
            ("backup data --vault data/backups", true),
            ("backup data --vault data", false),
            ("backup data --vault ./data/.", false),
            ("backup data/in --vault data", false),
            ("backup data --vault ..", false),
            ("backup data --vault database", true),
            ("restore data --vault backups", true),
            ("restore backups/x --vault backups", false),
            ("restore backups --vault backups", false),
            ("restore data --vault data/backups", false),
        ] {
            match config(line, &[]) {
                Ok(_) => assert!(fine, "{line}"),
                Err(why) => assert!(!fine && why.kind() == Kind::Usage, "{line}: {why}"),
            }
        }
        let Task::Run(Job::Backup { options, init: false }) = config("backup data --vault data/b", &[]).unwrap().task
        else {
            panic!()
        };
        assert_eq!(options.not_walked, [PathBuf::from("/work/data/b")]);
    }

    #[test]
    fn a_copy_goes_from_one_place_to_another() {
        let job = config("copy --from a --to gs://bucket/b --snapshot latest --snapshot 12ab", &[]).unwrap().task;
        let Task::Copy { from, to, snapshots } = job else { panic!("{job:?}") };
        assert_eq!((from.to_string().as_str(), to.to_string().as_str()), ("a", "gs://bucket/b"));
        assert_eq!(snapshots, ["latest", "12ab"]);
        for same in ["--from a --to ./a", "--from a/../b --to b", "--from gs://bucket/b/ --to gs://bucket/b"] {
            assert_eq!(config(&format!("copy {same}"), &[]).unwrap_err().kind(), Kind::Usage, "{same}");
        }
        let job = config("backup --init", &[]).unwrap().task;
        assert!(matches!(job, Task::Run(Job::Backup { init: true, .. })), "{job:?}");
        let tolerated = config("backup --exit-zero-on partial,suspect --exit-zero-on unsound", &[]).unwrap();
        assert_eq!(tolerated.exit_zero_on, [Outcome::Partial, Outcome::Suspect, Outcome::Unsound]);
    }

    #[test]
    fn paths_in_snapshots() {
        for (text, path) in [("a/b", "a/b"), ("./a/", "a"), (".", "."), ("./", "."), (".//", "")] {
            let found = entry_path(OsStr::new(text)).map(|p| p.to_string());
            assert_eq!(found.unwrap_or_default(), path, "{text}");
        }
        assert!(entry_path(OsStr::new("/a")).is_err() && entry_path(OsStr::new("a/../..")).is_err());
    }

    #[test]
    fn what_cannot_go_together() {
        for line in ["--json cat latest a", "--json export latest -o -", "backup --label a=1 --label a=2"] {
            assert_eq!(config(line, &[]).unwrap_err().kind(), Kind::Usage, "{line}");
        }
        let output = |line: &str| {
            Output::new(&Cli::try_parse_from(format!("lastgood {line}").split_whitespace()).unwrap().global, &|_| None)
        };
        assert!(output("list").progress && !output("list --json").progress && !output("-q list").progress);
        assert_eq!(output("list -vv").level, tracing::Level::DEBUG);
        assert_eq!(output("-q list").level, tracing::Level::ERROR);
    }
}
