//! Arguments of `state` and `seed`: what a data directory is before an app starts in it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Arguments of `state`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0  the app would start on what is there: fresh or ahead
  1  the app would not start, or it could not be told
  3  something would be restored, or the directory would become the newest
     snapshot: missing, seed, stale, diverged, unknown, broken
  5  the vault has no snapshot yet: first start")]
pub struct StateArgs {
    /// The data directory [env: LASTGOOD_DATA] [default: ./data; /app/data inside Cloud Run]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub start: StartFlags,
}

/// What is done with a data directory before an app starts in it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Before the app starts")]
pub struct StartFlags {
    /// What to do where the directory comes from an older snapshot and has changed since
    #[arg(long, value_name = "HOW", value_enum, default_value_t = OnOther::Restore)]
    pub on_diverged: OnOther,
    /// What to do where nothing tells where the directory's content comes from
    #[arg(long, value_name = "HOW", value_enum, default_value_t = OnOther::Restore)]
    pub on_unknown: OnOther,
    /// What to do while the vault cannot be reached [default: start where there is data, else fail]
    #[arg(long, value_name = "HOW", value_enum)]
    pub on_unreachable: Option<OnUnreachable>,
    /// Fail unless the directory, or a folder above it, is a mount point
    #[arg(long)]
    pub require_mount: bool,
    /// Restore this snapshot where one has to be restored and no good one is newer: an id or the beginning of one, or a
    /// day or time in UTC
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Option<String>,
    /// Have SQLite check every database that is there, and restore if one is damaged [default with no value: quick]
    #[arg(long, value_name = "HOW", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "quick")]
    pub check_at_start: Option<CheckAtStart>,
}

/// What is done about a directory that would be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOther {
    /// Save it as a snapshot that is never the newest, and restore the newest good one
    Restore,
    /// Make it the newest snapshot
    Keep,
    /// Do not start the app
    Fail,
}

/// What is done while the vault cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnUnreachable {
    /// Do not start the app
    Fail,
    /// Start the app on what is there, unless another vault shows it to be older: then that is restored
    Start,
}

/// How databases are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckAtStart {
    /// With PRAGMA quick_check: every page, without comparing indexes with tables
    Quick,
    /// With PRAGMA integrity_check
    Full,
}

/// Arguments of `seed`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # in a Dockerfile, after the data is in place
  COPY data/ /app/data/
  RUN lastgood seed /app/data")]
pub struct SeedArgs {
    /// The directory with the data
    #[arg(value_name = "DIR")]
    pub data: PathBuf,
}
