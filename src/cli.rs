//! The command line: clap structs only. What the arguments mean together is settled in `config.rs`.
//!
//! Texts below `after_help` that are wrapped here are examples and tables, of at most 80 columns; everything else is one line for
//! each paragraph, which clap wraps to the width of the terminal.

mod backup;
mod dispatched;
mod export;
pub mod help;
mod hooks;
mod import;
mod keep;
mod manual;
mod pubsub;
mod results;
mod rollback;
mod run;
mod serve;
mod settings;
mod start;
pub mod wishes;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;

pub use self::backup::{BackupArgs, BackupFlags, CheckDatabases, NotGood, ReasonFlag};
pub use self::dispatched::{DispatchFlags, DispatchedArgs};
pub use self::export::{ExportArgs, ExportFormat};
pub use self::hooks::{AllHookFlags, BackupHookFlags, HookFlags, RestoreHookFlags};
pub use self::import::ImportArgs;
pub use self::keep::{PinArgs, PruneArgs, UnpinArgs};
pub use self::manual::{CompletionsArgs, ManArgs};
pub use self::pubsub::{ListenArgs, PublishCommand, PublishFlags, PullFlags};
pub use self::results::{ResultFlags, WebhookOn};
pub use self::rollback::RollbackArgs;
pub use self::run::{Every, OnSuperseded, RunArgs};
pub use self::serve::{AccessFlags, AuthFlag, RunFlags, ServeArgs};
pub use self::settings::{ConfigArgs, ConfigFlags};
pub use self::start::{CheckAtStart, OnOther, OnUnreachable, SeedArgs, StartFlags, StateArgs};

/// Keeps the state of apps that live on disposable machines.
///
/// Takes snapshots of a data directory into a vault, and puts the last good one back. Without any option the data is
/// ./data and the vault is ./backups.
#[derive(Debug, Parser)]
#[command(
    name = "lastgood",
    version,
    max_term_width = 100,
    after_help = "Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  the snapshot is stale, partial or suspect, has a database that failed its
     check, or is not in each of several vaults; or the restore left something
     out, or took an older snapshot because the newest good one cannot be had;
     or the state of a directory calls for a restore
  4  damage found in the vault
  5  the vault has no snapshot yet"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalFlags,
    #[command(subcommand)]
    pub command: Command,
}

/// The options of all commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub struct GlobalFlags {
    /// Where the snapshots are kept: a folder or gs://bucket/prefix; repeatable, the first is preferred
    /// [env: LASTGOOD_VAULT, separated by commas; else BACKUP_BUCKET_NAME or GCS_BUCKET_NAME for gs://NAME/lastgood]
    /// [default: ./backups]
    #[arg(long = "vault", value_name = "URL", global = true)]
    pub vaults: Vec<OsString>,
    /// Print one JSON document on stdout; the log stays on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log what is being done; -vv and -vvv log more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How the log on stderr is written [env: LASTGOOD_LOG_FORMAT] [default: json inside Cloud Run, else text]
    #[arg(long, value_name = "FORMAT", value_enum, global = true)]
    pub log_format: Option<LogFormat>,
    /// Show no progress bar, not even on a terminal
    #[arg(long, global = true)]
    pub no_progress: bool,
    #[command(flatten)]
    pub settings: ConfigFlags,
    #[command(flatten)]
    pub cloud: CloudFlags,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// JSON as Cloud Logging reads it
    Json,
}

/// How buckets are reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Google Cloud Storage")]
pub struct CloudFlags {
    /// How many uploads, and how many reads, run at the same time
    /// [env: LASTGOOD_PARALLEL] [default: twice the number of cores, from 4 to 6]
    #[arg(long, value_name = "N", global = true, value_parser = parallel)]
    pub parallel: Option<usize>,
    /// How long to retry a bucket that does not answer before giving up
    /// [env: LASTGOOD_STORE_TIMEOUT] [default: 2m]
    #[arg(long, value_name = "DURATION", global = true, value_parser = duration)]
    pub store_timeout: Option<Duration>,
    /// The project to bill for requests to a bucket with requester pays [env: LASTGOOD_USER_PROJECT]
    #[arg(long, value_name = "PROJECT", global = true)]
    pub user_project: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an app with its data restored before and saved while it runs, at a crash and at the end
    Run(Box<RunArgs>),
    /// Make a new, empty vault
    ///
    /// `lastgood backup` does this by itself in ./backups, and elsewhere with --init. With several vaults, one is made and
    /// the others become replicas of it; where some exist already, the missing ones become replicas of them.
    Init,
    /// Take a snapshot of a directory
    Backup(BackupArgs),
    /// Put a snapshot back; what is there moves aside
    Restore(RestoreArgs),
    /// Make an older snapshot the newest again, for an app that `lastgood run` runs on any machine
    Rollback(RollbackArgs),
    /// Copy snapshots from one vault to a replica of it
    Copy(CopyArgs),
    /// Keep a snapshot until a time or for good, whatever a policy lets go
    Pin(PinArgs),
    /// Take back the pins of a snapshot
    Unpin(UnpinArgs),
    /// Show which snapshots a policy would keep and let go; nothing is deleted yet
    Prune(PruneArgs),
    /// List the snapshots, newest first
    List(ListArgs),
    /// List the runs, newest first, or show one run's report
    Runs(RunsArgs),
    /// List what is in a snapshot
    Ls(LsArgs),
    /// Write the content of a file in a snapshot to stdout
    Cat(CatArgs),
    /// Show what differs between two snapshots
    Diff(DiffArgs),
    /// Write a snapshot as a .tar.zst file
    Export(ExportArgs),
    /// Make snapshots of old archives: .tar, .tar.gz, .tar.zst, .zip
    Import(ImportArgs),
    /// Check that everything that the snapshots need is there and undamaged
    ///
    /// Damaged packs are recorded in the vault as doubted, so that the next backup stores their content again; doubts that are
    /// wrong are lifted. Both happen only where the vault may be written to.
    Verify(VerifyArgs),
    /// Find out what stands in the way of a backup or a restore, and what to do about it
    ///
    /// Checks the credentials, the buckets and the permissions in them, the vaults with their newest snapshots, and the data
    /// directory. Writes nothing. Ends with 1 when something would stop a backup or a restore.
    Doctor(DoctorArgs),
    /// Show which settings hold, and where each comes from
    Config(ConfigArgs),
    /// Tell what a data directory is before an app starts in it: fresh, stale, diverged, …
    ///
    /// Compares the directory with the newest good snapshot and with the one that it comes from, and says what `lastgood run` would
    /// do with it. Changes nothing.
    State(StateArgs),
    /// Mark a directory as data that an image brings along, so that a snapshot takes precedence over it
    ///
    /// This is for a Dockerfile: at image build there is no vault. Where the vault has a snapshot when the app starts, it is restored
    /// over the directory; where it has none, the app starts with the directory. Once something has written to it, the mark no longer
    /// counts.
    Seed(SeedArgs),
    /// Serve over HTTP: events that ask for backups, a REST interface, health and metrics
    Serve(Box<ServeArgs>),
    /// Pull events that ask for backups from a Pub/Sub subscription
    ///
    /// This is for machines that nothing can push to.
    Listen(Box<ListenArgs>),
    /// Publish an event to a Pub/Sub topic: a critical error, or a request for a backup, a restore or a verification
    #[command(subcommand)]
    Publish(PublishCommand),
    /// Carry out one request of a service, as the command of the Cloud Run job that the service starts
    ///
    /// `lastgood serve --dispatch job=…` starts the job and names the request's claim in LASTGOOD_CLAIM.
    Dispatched(Box<DispatchedArgs>),
    /// Print what a shell completes command lines with
    Completions(CompletionsArgs),
    /// Print the manual page of the program, or of a command
    Man(ManArgs),
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # the newest good snapshot into ./data
  lastgood restore
  # another directory, another vault
  lastgood restore /srv/app --vault /mnt/backups
  # as it was on Friday evening
  lastgood restore --snapshot 2026-11-20T18:00:00Z
  # only some of it, somewhere else
  lastgood restore /tmp/look --path uploads
  # before an app starts: 3 is an older snapshot or one without some entries,
  # and 5 is that there is no snapshot yet
  lastgood restore --if-missing; case $? in 0|3|5) ;; *) exit 1 ;; esac

With several vaults, the snapshot comes from the first one that has a good snapshot that fits and can give it back. Where all \
have it damaged, and it was not named by its id, the newest older good snapshot that is whole is restored in its place (exit \
code 3).")]
pub struct RestoreArgs {
    /// The directory to restore into [env: LASTGOOD_DATA] [default: ./data; /app/data inside Cloud Run]
    pub target: Option<PathBuf>,
    /// Which snapshot: latest (the newest good one), an id or the beginning of one, or a day or time in UTC
    #[arg(long, default_value = "latest")]
    pub snapshot: String,
    /// Restore only this file or folder, named relative to the data directory; repeatable
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<OsString>,
    #[command(flatten)]
    pub replacing: RestoreFlags,
    /// Restore what can be read of a damaged snapshot, and list the rest
    #[arg(long)]
    pub skip_damaged: bool,
    /// Restore only if there is no file in the directory (folders do not count); otherwise do nothing and end with 0
    #[arg(long, conflicts_with = "paths", help_heading = "When")]
    pub if_missing: bool,
    /// Restore only if no file in the directory was changed for this long, nor since the snapshot was begun, or if there is
    /// no file
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "paths", help_heading = "When")]
    pub if_older: Option<Duration>,
    /// Say what would be restored, changed and moved aside, and do nothing
    #[arg(long, help_heading = "When")]
    pub dry_run: bool,
    #[command(flatten)]
    pub results: ResultFlags,
    #[command(flatten)]
    pub restore_hooks: RestoreHookFlags,
    #[command(flatten)]
    pub hooks: HookFlags,
}

/// How a restore replaces what is there.
#[derive(Debug, Clone, Copy, Args)]
pub struct RestoreFlags {
    /// Fill the directory itself, file by file, where it cannot be renamed, such as a mount point
    #[arg(long)]
    pub in_place: bool,
    /// Leave what is mounted in the directory as it is, and fill everything around it
    #[arg(long)]
    pub around_mounts: bool,
    /// Replace the directory even while programs have files in it open: they go on with the old files until they are
    /// restarted
    #[arg(long)]
    pub while_in_use: bool,
}

/// Arguments of `copy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # make a replica where there is none yet
  lastgood copy --from ./backups --to gs://bucket/app --init
  # all snapshots that are not there yet
  lastgood copy --from ./backups --to gs://bucket/app
  # the newest good snapshot only
  lastgood copy --from gs://bucket/app --to /mnt/usb/app --snapshot latest

Only what is missing is sent; a copy that was cut off goes on from there when it is run again. What is damaged in --from is \
taken from another --vault that is a replica and has it; snapshots for which there is none are named and left out (exit code 4).")]
pub struct CopyArgs {
    /// The vault to copy from
    #[arg(long, value_name = "URL")]
    pub from: OsString,
    /// The vault to copy to, a replica of the other one
    #[arg(long, value_name = "URL")]
    pub to: OsString,
    /// Make the replica if there is no vault at --to yet; in ./backups it is made even without this
    #[arg(long)]
    pub init: bool,
    /// Copy only this one: latest, an id or the beginning of one, or a day or time in UTC; repeatable. If the replica has it
    /// already, what it has lost there is sent again [default: all that are not there]
    #[arg(long = "snapshot", value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

/// Arguments of `runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// The run to show: its id or the beginning of it
    pub run: Option<String>,
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Which snapshot: latest, an id or the beginning of one, or a day or time in UTC
    pub snapshot: String,
    /// The file or folder to list
    #[arg(default_value = ".")]
    pub path: OsString,
    /// List folders with all that is in them
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// Arguments of `cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Which snapshot: latest, an id or the beginning of one, or a day or time in UTC
    pub snapshot: String,
    /// The file whose content is written
    pub path: OsString,
    /// Write what was read while the file kept changing, where the snapshot has an older state of it
    #[arg(long)]
    pub torn: bool,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "Lines begin with + (added), - (removed) or M (modified; what changed is in parentheses after the name). \
                  The exit code says whether the comparison worked, not whether the snapshots differ."
)]
pub struct DiffArgs {
    /// The older snapshot
    pub a: String,
    /// The newer snapshot
    pub b: String,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Also decompress the data and compare its hashes, for this many percent of it [default: all of it]
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "100",
          value_parser = percent)]
    pub read_data: Option<f64>,
    /// Also restore each SQLite database of a snapshot to a temporary folder and have SQLite check it [default: of latest]
    #[arg(long, value_name = "SNAPSHOT", num_args = 0..=1, require_equals = true, default_missing_value = "latest")]
    pub databases: Option<String>,
    #[command(flatten)]
    pub results: ResultFlags,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The data directory [env: LASTGOOD_DATA] [default: ./data; /app/data inside Cloud Run]
    pub data: Option<PathBuf>,
    /// How old the newest good snapshot may be before doctor warns [default: twice BACKUP_INTERVAL_MINUTES if that is set,
    /// else 26h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_age: Option<Duration>,
    /// Check only this, and end with 1 if it is not as it should be: for a schedule whose failure somebody is told of
    #[arg(long, value_enum)]
    pub only: Option<DoctorOnly>,
}

/// What `doctor` checks alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DoctorOnly {
    /// How old each vault's newest good snapshot is; a vault that cannot be read, or has none, is a problem, too
    Age,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not KEY=VALUE".into()),
    }
}

/// Parses a number that is not 0.
///
/// # Errors
/// A text that says what is wrong with the value.
pub fn positive(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "it must be a whole number from 1".into())
}

/// Parses a regular expression for lines of the app's output.
///
/// # Errors
/// A text that says what is wrong with the value.
pub fn expression(text: &str) -> Result<String, String> {
    lastgood::mask::expression(text).map(|_| text.to_owned())
}

/// Parses how many uploads, and how many reads, run at the same time.
///
/// # Errors
/// A text that says what is wrong with the value.
pub fn parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=64) => Ok(number),
        _ => Err("it must be a number from 1 to 64".into()),
    }
}

/// The longest length of time: it can be added to any time that a clock shows.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Parses a length of time.
///
/// # Errors
/// A text that says what is wrong with the value.
pub fn duration(text: &str) -> Result<Duration, String> {
    let Ok(duration) = text.parse::<SignedDuration>() else {
        return Err("it is not a length of time such as 90s, 10m or 1h30m".into());
    };
    match Duration::try_from(duration) {
        Ok(duration) if duration > CENTURY => Err("it must not be longer than a hundred years".into()),
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("it must be longer than 0".into()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("it must be a number above 0 and up to 100".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_checked_where_they_are_read() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a="), Ok(("a".into(), String::new())));
        assert!(label("=b").is_err() && label("a").is_err());
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("876001h").is_err() && duration("9223372036854775807s").is_err());
        for (text, wrong) in
            [("0s", "longer than 0"), ("-5m", "longer than 0"), ("ten", "1h30m"), ("2", "1h30m"), ("", "1h30m")]
        {
            assert!(duration(text).is_err_and(|why| why.contains(wrong)), "{text}");
        }
        assert_eq!(percent("2.5%"), Ok(2.5));
        assert!(percent("0").is_err() && percent("101").is_err() && percent("NaN").is_err());
        let read = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
            Command::Verify(verify) => verify.read_data,
            _ => panic!("not verify"),
        };
        // None at all would put every critical event off for good.
        assert!(Cli::try_parse_from(["lastgood", "serve", "--critical-max", "0"]).is_err());
        assert_eq!(read(&["lastgood", "verify"]), None);
        assert_eq!(read(&["lastgood", "verify", "--read-data"]), Some(100.0));
        assert_eq!(read(&["lastgood", "verify", "--read-data=5"]), Some(5.0));
    }
}
