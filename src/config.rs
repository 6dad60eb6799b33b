//! From flags and environment to one checked [`Config`] of concrete values. Nothing after this asks either again.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use lastgood::error::{Error, Result};
use lastgood::vault::entry::CheckKind;
use lastgood::vault::path::EntryPath;
use lastgood::vault::root::Reason;
use lastgood::{backup, restore, verify};

use crate::cli::{self, Cli, Command};

const DATA: &str = "./data";
const DATA_IN_CLOUD_RUN: &str = "/app/data";
const VAULT: &str = "./backups";

/// What the surroundings tell, passed in so that [`Config::new`] has no other input.
pub struct Outside<'a> {
    /// A variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// The absolute path of a file or folder, symlinks followed as far as it exists.
    pub resolve: &'a dyn Fn(&Path) -> PathBuf,
}

/// What to do, and where.
#[derive(Debug)]
pub struct Config {
    /// The vault's folder.
    pub vault: PathBuf,
    /// What to do.
    pub job: Job,
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
}

/// One command with its checked options.
#[derive(Debug)]
pub enum Job {
    Init,
    Backup(backup::Options),
    Restore(restore::Options),
    List,
    Ls { snapshot: String, path: EntryPath, recursive: bool },
    Cat { snapshot: String, path: EntryPath },
    Diff { a: String, b: String },
    Export { snapshot: String, to: Destination },
    Verify(verify::Options),
}

/// Where an export goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    File(PathBuf),
}

impl Output {
    /// How to tell, from the flags alone.
    pub fn new(global: &cli::Global) -> Self {
        let level = match (global.quiet, global.verbose) {
            (true, _) => tracing::Level::ERROR,
            (false, 0) => tracing::Level::WARN,
            (false, 1) => tracing::Level::INFO,
            (false, 2) => tracing::Level::DEBUG,
            (false, _) => tracing::Level::TRACE,
        };
        let progress = !(global.quiet || global.json || global.no_progress);
        Output { json: global.json, quiet: global.quiet, progress, level }
    }
}

impl Config {
    /// Settles what the command line and the environment ask for.
    ///
    /// # Errors
    /// Wrong usage: an address of an unknown kind, a bad path, a vault and a directory that are in each other's way.
    pub fn new(cli: Cli, outside: &Outside) -> Result<Config> {
        let json = cli.global.json;
        let set = |name: &str| (outside.env)(name).filter(|value| !value.is_empty());
        let vault = cli.global.vault.or_else(|| set("LASTGOOD_VAULT")).unwrap_or_else(|| VAULT.into());
        let vault = vault_folder(&vault)?;
        let data = |given: Option<PathBuf>| {
            given.or_else(|| set("LASTGOOD_DATA").map(PathBuf::from)).unwrap_or_else(|| {
                let in_cloud_run = set("K_SERVICE").is_some() || set("CLOUD_RUN_JOB").is_some();
                PathBuf::from(if in_cloud_run { DATA_IN_CLOUD_RUN } else { DATA })
            })
        };
        let job = match cli.command {
            Command::Init => Job::Init,
            Command::Backup(args) => Job::Backup(backup_options(data(args.data.clone()), &vault, args, outside)?),
            Command::Restore(args) => Job::Restore(restore_options(data(args.target.clone()), &vault, args, outside)?),
            Command::List => Job::List,
            Command::Ls(args) => {
                Job::Ls { snapshot: args.snapshot, path: entry_path(&args.path)?, recursive: args.recursive }
            }
            Command::Cat(_) if json => {
                return Err(Error::usage("write a file's content as JSON", "`cat` writes the content itself"));
            }
            Command::Cat(args) => Job::Cat { snapshot: args.snapshot, path: entry_path(&args.path)? },
            Command::Diff(args) => Job::Diff { a: args.a, b: args.b },
            Command::Export(args) => {
                let to =
                    if args.output == Path::new("-") { Destination::Stdout } else { Destination::File(args.output) };
                if json && to == Destination::Stdout {
                    let why = "the snapshot and the JSON document would both go to stdout";
                    return Err(Error::usage("export to stdout", why).hint("Name a file: `-o snapshot.tar.zst`."));
                }
                Job::Export { snapshot: args.snapshot, to }
            }
            Command::Verify(args) => {
                Job::Verify(verify::Options { read_data: args.read_data, databases: args.databases })
            }
        };
        Ok(Config { vault, job })
    }
}

fn backup_options(data: PathBuf, vault: &Path, args: cli::Backup, outside: &Outside) -> Result<backup::Options> {
    let (at, vault_at) = ((outside.resolve)(&data), (outside.resolve)(vault));
    if at.starts_with(&vault_at) {
        let why = format!("it is the vault {} or lies in it", vault.display());
        return Err(Error::usage(format!("back up {}", data.display()), why)
            .hint("Keep the vault beside the data directory: `--vault URL`."));
    }
    let mut labels = std::collections::BTreeMap::new();
    for (key, value) in args.labels {
        if labels.contains_key(&key) {
            return Err(Error::usage(
                format!("label the snapshot with {key}={value}"),
                format!("{key} is given twice"),
            ));
        }
        labels.insert(key, value);
    }
    Ok(backup::Options {
        data,
        reason: match args.reason {
            cli::Reason::Manual => Reason::Manual,
            cli::Reason::Schedule => Reason::Schedule,
            cli::Reason::Critical => Reason::Critical,
            cli::Reason::Shutdown => Reason::Shutdown,
        },
        labels,
        sqlite: !args.no_sqlite,
        check: match args.check_databases {
            Some(cli::CheckDatabases::Quick) => Some(CheckKind::Quick),
            Some(cli::CheckDatabases::Full) => Some(CheckKind::Full),
            Some(cli::CheckDatabases::Off) => None,
            None if args.reason == cli::Reason::Critical && !args.no_sqlite => Some(CheckKind::Quick),
            None => None,
        },
        busy_timeout: args.busy_timeout,
        include: args.include,
        exclude: args.exclude,
        verify_content: args.verify_content,
        accept_shrink: args.accept_shrink,
        level: args.level,
        checkpoint_every: args.checkpoint_every,
        not_walked: vec![vault_at],
        ..backup::Options::default()
    })
}

fn restore_options(target: PathBuf, vault: &Path, args: cli::Restore, outside: &Outside) -> Result<restore::Options> {
    let (at, vault_at) = ((outside.resolve)(&target), (outside.resolve)(vault));
    let doing = || format!("restore into {}", target.display());
    if at.starts_with(&vault_at) {
        return Err(Error::usage(doing(), format!("it is the vault {} or lies in it", vault.display())));
    }
    if vault_at.starts_with(&at) {
        // What is in the target moves aside, and the vault would go with it.
        let why = format!("the vault {} lies in it, and would move aside with what is there", vault.display());
        return Err(Error::usage(doing(), why)
            .hint("Restore into another directory, or move the vault out of this one first: `--vault URL` names it."));
    }
    let paths = args.paths.iter().map(|path| entry_path(path)).collect::<Result<_>>()?;
    Ok(restore::Options {
        snapshot: args.snapshot,
        target,
        paths,
        in_place: args.in_place,
        skip_damaged: args.skip_damaged,
    })
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

/// The folder that a vault's address names: a bare path or a `file://` URL.
fn vault_folder(address: &OsStr) -> Result<PathBuf> {
    let bytes = address.as_bytes();
    let wrong = |why: &str| Err(Error::usage(format!("use the vault {}", address.display()), why));
    let scheme = bytes.windows(3).position(|part| part == b"://").map(|at| &bytes[..at]);
    let scheme = scheme.filter(|s| !s.is_empty() && s.iter().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(c)));
    let Some(scheme) = scheme else {
        return if bytes.is_empty() { wrong("the address is empty") } else { Ok(address.into()) };
    };
    if !scheme.eq_ignore_ascii_case(b"file") {
        let scheme = String::from_utf8_lossy(scheme);
        let why = format!("this version keeps vaults in local folders, and not at {scheme}://");
        return Err(Error::usage(format!("use the vault {}", address.display()), why)
            .hint("Name a folder: `--vault /mnt/backups` or `--vault file:///mnt/backups`."));
    }
    let rest = &bytes[scheme.len() + 3..];
    let path_at = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(path_at);
    if !(host.is_empty() || host.eq_ignore_ascii_case(b"localhost")) {
        return wrong("a file:// address has no host: write file:///folder, with three slashes");
    }
    match percent_decoded(path) {
        Some(path) if path.contains(&0) => wrong("its path has a NUL byte"),
        Some(path) if !path.is_empty() => Ok(OsString::from_vec(path).into()),
        Some(_) => wrong("it names no folder"),
        None => wrong("a % in it is not followed by two hex digits; write a percent sign as %25"),
    }
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        out.push(match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                (digit(*high)? << 4 | digit(*low)?) as u8
            }
            (b'%', _) => return None,
            _ => *first,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use lastgood::error::Kind;

    /// The config of a command line in `/work`, with variables.
    fn config(line: &str, env: &[(&str, &str)]) -> Result<Config> {
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
        Config::new(cli, &Outside { env: &env, resolve: &resolve })
    }

    fn places(line: &str, env: &[(&str, &str)]) -> (String, String) {
        let config = config(line, env).unwrap();
        let data = match config.job {
            Job::Backup(options) => options.data,
            Job::Restore(options) => options.target,
            other => panic!("{other:?}"),
        };
        (data.to_str().unwrap().to_owned(), config.vault.to_str().unwrap().to_owned())
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
    fn addresses_of_vaults() {
        for (address, folder) in [
            ("b", "b"),
            ("/mnt/b", "/mnt/b"),
            ("file:///mnt/b%20c", "/mnt/b c"),
            ("FILE://localhost/b", "/b"),
            ("./gs:/odd", "./gs:/odd"),
            ("a%20b", "a%20b"),
            ("/odd/x://y", "/odd/x://y"),
        ] {
            assert_eq!(vault_folder(OsStr::new(address)).unwrap(), Path::new(folder), "{address}");
        }
        for (address, why) in [
            ("gs://bucket/prefix", "local folders"),
            ("s3://bucket", "local folders"),
            ("file://host/b", "three slashes"),
            ("file://b", "three slashes"),
            ("file://", "no folder"),
            ("file:///b%2", "hex digits"),
            ("file:///b%zz", "hex digits"),
            ("file:///b%00", "NUL"),
            ("", "empty"),
        ] {
            let said = vault_folder(OsStr::new(address)).unwrap_err();
            assert!(said.kind() == Kind::Usage && said.to_string().contains(why), "{address}: {said}");
        }
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
        let Job::Backup(options) = config("backup data --vault data/b", &[]).unwrap().job else { panic!() };
        assert_eq!(options.not_walked, [PathBuf::from("/work/data/b")]);
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
            Output::new(&Cli::try_parse_from(format!("lastgood {line}").split_whitespace()).unwrap().global)
        };
        assert!(output("list").progress && !output("list --json").progress && !output("-q list").progress);
        assert_eq!(output("list -vv").level, tracing::Level::DEBUG);
        assert_eq!(output("-q list").level, tracing::Level::ERROR);
    }
}
