//! Arguments of `backup`, and of everything else that takes snapshots.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{BackupHookFlags, HookFlags, ResultFlags, duration, label};

/// Arguments of `backup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # ./data into ./backups
  lastgood backup
  # another directory, and another vault, which is made if there is none yet
  lastgood backup /srv/app --vault /mnt/v --init
  # without some of the data
  lastgood backup --exclude '*.tmp' --exclude cache
  # from a timer, with a report for a program
  lastgood backup --reason schedule --json
  # into the first vault that can be reached, then copied to the other
  lastgood backup --vault gs://my-state/app --vault /mnt/b
  # as a job that is run again when it fails
  lastgood backup --exit-zero-on partial,suspect

With several vaults, the exit code is 3 (incomplete-copies) if one of them does not hold the snapshot; stderr and the report \
name those that lack it.")]
pub struct BackupArgs {
    /// The directory to take a snapshot of [env: LASTGOOD_DATA] [default: ./data; /app/data inside Cloud Run]
    pub data: Option<PathBuf>,
    /// Why it is taken; kept with the snapshot
    #[arg(long, value_enum, default_value_t = ReasonFlag::Manual, help_heading = "About the snapshot")]
    pub reason: ReasonFlag,
    /// A label that is kept with the snapshot; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, help_heading = "About the snapshot")]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub taking: BackupFlags,
    /// End with 0 also when the snapshot is one of these, for schedulers that would repeat a failed run again and again, with
    /// the same result
    #[arg(long, value_name = "RESULT,…", value_enum, value_delimiter = ',', help_heading = "About the snapshot")]
    pub exit_zero_on: Vec<NotGood>,
    #[command(flatten)]
    pub results: ResultFlags,
    #[command(flatten)]
    pub backup_hooks: BackupHookFlags,
    #[command(flatten)]
    pub hooks: HookFlags,
}

/// How snapshots are taken.
#[derive(Debug, Args)]
pub struct BackupFlags {
    /// Make the vault if there is none yet; ./backups is made even without this
    #[arg(long, help_heading = "How it is taken")]
    pub init: bool,
    /// Take only what matches, and all that is in a folder that matches: a name like '*.db' or uploads matches at any depth, a
    /// path like 'logs/*.log' only there; repeatable
    #[arg(long, value_name = "GLOB", help_heading = "What is taken")]
    pub include: Vec<String>,
    /// Leave out what matches, by the same rules as --include; repeatable
    #[arg(long, value_name = "GLOB", help_heading = "What is taken")]
    pub exclude: Vec<String>,
    /// Leave out what is mounted below the directory; its folder is in the snapshot, empty
    #[arg(long, help_heading = "What is taken")]
    pub one_file_system: bool,
    /// Read every file again, even those whose size and times say that nothing changed
    #[arg(long, help_heading = "How it is taken")]
    pub verify_content: bool,
    /// Count the snapshot as good although it looks like an accident: empty, much smaller, a mount or a database gone
    #[arg(long, help_heading = "How it is taken")]
    pub accept_shrink: bool,
    /// Count the first snapshot as good although some of it could not be read
    #[arg(long, help_heading = "How it is taken")]
    pub accept_missing: bool,
    /// Count the snapshot as good although another instance of the app has taken over since this directory was restored, or
    /// nothing tells what the directory comes from
    #[arg(long, help_heading = "How it is taken")]
    pub take_over: bool,
    /// The app that the data belongs to: what cannot be read is carried over only from its own snapshots
    /// [env: LASTGOOD_SERVICE] [default: a service's K_SERVICE, RENDER_SERVICE_NAME or FLY_APP_NAME]
    #[arg(long, value_name = "NAME", help_heading = "About the snapshot")]
    pub service: Option<String>,
    /// Read SQLite databases like ordinary files, even while something writes to them
    #[arg(long, help_heading = "SQLite databases")]
    pub no_sqlite: bool,
    /// Have SQLite check every database that is read [default: quick for critical events, else off]
    #[arg(long, value_name = "HOW", value_enum, conflicts_with = "no_sqlite", help_heading = "SQLite databases")]
    pub check_databases: Option<CheckDatabases>,
    /// How long to wait for a locked database before it is taken raw, or as it was before
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = "SQLite databases")]
    pub busy_timeout: Duration,
    /// How hard zstd compresses, from 1 (fast) to 19 (small)
    #[arg(long, value_name = "N", default_value_t = lastgood::backup::packer::DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=19),
          help_heading = "How it is taken")]
    pub level: i32,
    /// How often a long backup saves its progress; if it is cut off, the next one goes on from there
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, help_heading = "How it is taken")]
    pub checkpoint_every: Duration,
}

/// How databases are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckDatabases {
    /// With PRAGMA quick_check: every page, without comparing indexes with tables
    Quick,
    /// With PRAGMA integrity_check
    Full,
    /// Not at all
    Off,
}

/// A result of a backup that is not complete, or not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NotGood {
    /// It is good, but some of it could not be read: that is as it was before, or missing
    Stale,
    /// One of several vaults does not hold it
    IncompleteCopies,
    /// Some of it could not be read, and no good snapshot was there before
    Partial,
    /// It looks like an accident: empty, much smaller, a mount or a database gone; or the data has diverged
    Suspect,
    /// A database in it failed its check
    Unsound,
}

/// The reason for a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReasonFlag {
    /// Somebody asked for it
    Manual,
    /// It was time
    Schedule,
    /// The app reported an error
    Critical,
    /// The machine is going away
    Shutdown,
}
