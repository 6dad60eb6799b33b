//! Arguments of `run`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use lastgood::run::restart::RestartPolicy;

use super::{
    AccessFlags, AllHookFlags, BackupFlags, PullFlags, RestoreFlags, ResultFlags, StartFlags, duration, expression,
    positive,
};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # the app with ./data, saved every half hour, at a crash and at the end
  lastgood run -- python app.py
  # in a Dockerfile
  ENTRYPOINT [\"lastgood\", \"run\", \"--vault\", \"gs://my-state/app\", \"--\"]
  CMD [\"streamlit\", \"run\", \"app.py\"]
  # with health, and backups and restores at a request
  lastgood run --listen 127.0.0.1:9090 --allow-restore -- python app.py
  # a machine whose data is newer than what the vault has, once
  lastgood run --on-unknown keep -- ./server

Before the app starts, the newest good snapshot is put back where the data is missing or older; data that no snapshot holds is \
saved first. One instance at a time runs the app: a second one on the same vault takes over, and the first one saves and stops. \
The exit code is the app's; 128 and the signal's number if a signal ended it.")]
pub struct RunArgs {
    /// The app's data directory [env: LASTGOOD_DATA] [default: ./data; /app/data inside Cloud Run]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The app and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// How often a snapshot is taken while the app runs, or off [env: BACKUP_INTERVAL_MINUTES] [default: 30m]
    #[arg(long, value_name = "DURATION", help_heading = "While it runs")]
    pub every: Option<Every>,
    /// What is done when the app ends: never, on-failure, or on-failure:N for N times at most; a crash is saved first
    #[arg(long, value_name = "WHEN", default_value = "never", help_heading = "While it runs")]
    pub restart: RestartPolicy,
    /// The time for all that is done after SIGTERM: the app's end and the last snapshot
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = "While it runs")]
    pub grace: Duration,
    /// How long the app may take to end after SIGTERM before it is killed
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, help_heading = "While it runs")]
    pub stop_timeout: Duration,

    /// Serve the interface of `lastgood serve` beside the app, at this address: events, backups, restores, health and metrics
    #[arg(long, value_name = "ADDR", help_heading = "Access")]
    pub listen: Option<SocketAddr>,
    #[command(flatten)]
    pub access: AccessFlags,
    /// Allow events and requests to ask for a restore: the app is stopped for it, and started again
    #[arg(long, help_heading = "Access")]
    pub allow_restore: bool,
    #[command(flatten)]
    pub pulling: PullFlags,
    /// Tell when nothing was written to the data directory for so long [env: DATA_FRESHNESS] [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "While it runs")]
    pub data_freshness: Option<Duration>,
    /// Tell when this file vanishes or is emptied: a path below the directory, or a pattern like '*.csv' or 'uploads/**/*.db';
    /// repeatable [env: CRITICAL_FILES, with commas]
    #[arg(long = "critical-file", value_name = "GLOB", help_heading = "While it runs")]
    pub critical_files: Vec<String>,
    /// Take a critical snapshot, too, when --data-freshness or --critical-file tells of something
    #[arg(long, help_heading = "While it runs")]
    pub critical_on_stale: bool,

    #[command(flatten)]
    pub start: StartFlags,

    /// How long an instance that runs already may take to stop its app and save
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = duration, help_heading = "Several instances")]
    pub handover: Duration,
    /// How often it asks whether another instance takes over
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = poll, help_heading = "Several instances")]
    pub handover_poll: Duration,
    /// What is done when another instance has taken over
    #[arg(long, value_name = "WHAT", value_enum, default_value = "wait", help_heading = "Several instances")]
    pub on_superseded: OnSuperseded,
    /// Restore the newest good snapshot, run the app and save nothing: for a look at real data on a laptop
    #[arg(long, help_heading = "Several instances", conflicts_with = "take_over")]
    pub detached: bool,

    /// End a backup that takes longer than this
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, help_heading = "How it is taken")]
    pub run_timeout: Duration,
    /// Critical events within this time after one share the next snapshot
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, help_heading = "While it runs")]
    pub coalesce: Duration,
    /// Take at most this many snapshots for critical events in an hour
    #[arg(long, value_name = "N", default_value = "20", value_parser = positive, help_heading = "While it runs")]
    pub critical_max: NonZeroUsize,
    /// A line of the app's output that matches this regular expression tells of a critical error; repeatable
    #[arg(long, value_name = "REGEX", value_parser = expression, help_heading = "The app's output")]
    pub critical_on: Vec<String>,
    /// How many such lines it takes
    #[arg(long, value_name = "N", default_value = "5", value_parser = positive, help_heading = "The app's output")]
    pub critical_count: NonZeroUsize,
    /// The time within which they come
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, help_heading = "The app's output")]
    pub critical_within: Duration,
    /// What matches this regular expression is masked in the lines of output that a report keeps, beside what looks like a secret
    /// anyway; repeatable
    #[arg(long, value_name = "REGEX", value_parser = expression, help_heading = "The app's output")]
    pub mask: Vec<String>,
    /// Do not read the app's output: it is inherited, and no report keeps its last lines
    #[arg(long, help_heading = "The app's output", conflicts_with = "critical_on")]
    pub no_output: bool,

    #[command(flatten, next_help_heading = "Restores")]
    pub replacing: RestoreFlags,
    #[command(flatten)]
    pub taking: BackupFlags,
    #[command(flatten)]
    pub hooks: AllHookFlags,
    #[command(flatten)]
    pub results: ResultFlags,
}

/// How often a snapshot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// Never by time.
    Off,
    /// After this time, again and again.
    Interval(Duration),
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Every::Off),
            text => duration(text).map(Every::Interval).map_err(|why| format!("{why}; or off")),
        }
    }
}

/// What is done when another instance has taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnSuperseded {
    /// Wait without the app, and come back when the other one has ended or never started its own
    Wait,
    /// End
    Exit,
    /// Go on running the app; what it saves is never restored by itself
    Keep,
}

/// Parses how often an instance asks whether another one takes over: at most a minute, for which a successor waits twice.
fn poll(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        poll if poll > Duration::from_secs(60) => Err("it must not be longer than 60s".into()),
        poll => Ok(poll),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_run() {
        assert_eq!("off".parse(), Ok(Every::Off));
        assert_eq!("30m".parse(), Ok(Every::Interval(Duration::from_secs(1800))));
        assert!("0s".parse::<Every>().is_err_and(|why| why.contains("off")));
        assert_eq!(poll("5s"), Ok(Duration::from_secs(5)));
        assert!(poll("61s").is_err());
    }
}
