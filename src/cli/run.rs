//! Arguments of `run`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{BackupFlags, RestoreFlags, ResultFlags, duration};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # the app with ./data, saved every half hour, at a crash and at the end
  lastgood run -- python app.py
  # in a Dockerfile
  ENTRYPOINT [\"lastgood\", \"run\", \"--vault\", \"gs://my-state/app\", \"--\"]
  CMD [\"streamlit\", \"run\", \"app.py\"]
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
    pub restart: Restart,
    /// The time for all that is done after SIGTERM: the app's end and the last snapshot
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = "While it runs")]
    pub grace: Duration,
    /// How long the app may take to end after SIGTERM before it is killed
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, help_heading = "While it runs")]
    pub stop_timeout: Duration,

    /// The snapshot to start with, in place of what is there: an id or the beginning of one, or a time
    #[arg(long, help_heading = "The start")]
    pub snapshot: Option<String>,
    /// What is done with data that was changed after another instance went on without it
    #[arg(long, value_name = "WHAT", value_enum, default_value = "restore", help_heading = "The start")]
    pub on_diverged: OnForeign,
    /// What is done with data of which nothing is known, such as what an image brings along
    #[arg(long, value_name = "WHAT", value_enum, default_value = "restore", help_heading = "The start")]
    pub on_unknown: OnForeign,
    /// What is done when no vault answers [default: start where there is data, else fail]
    #[arg(long, value_name = "WHAT", value_enum, help_heading = "The start")]
    pub on_unreachable: Option<OnUnreachable>,
    /// End with an error if nothing is mounted at the data directory
    #[arg(long, help_heading = "The start")]
    pub require_mount: bool,
    /// Have SQLite check the databases before the app starts; data with a broken one counts as broken and is restored
    #[arg(long, help_heading = "The start")]
    pub check_at_start: bool,
    /// How many directories that were moved aside are left there
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "The start")]
    pub keep_replaced: usize,

    /// How long an instance that runs already may take to stop its app and save
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = duration, help_heading = "Several instances")]
    pub handover: Duration,
    /// How often it asks whether another instance takes over
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = poll, help_heading = "Several instances")]
    pub handover_poll: Duration,
    /// What is done when another instance has taken over
    #[arg(long, value_name = "WHAT", value_enum, default_value = "wait", help_heading = "Several instances")]
    pub on_superseded: OnSuperseded,
    /// Start also where the vault belongs to another service, or another machine runs the app
    #[arg(long, help_heading = "Several instances")]
    pub take_over: bool,
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
    #[arg(long, value_name = "N", default_value = "20", help_heading = "While it runs")]
    pub critical_max: NonZeroUsize,
    #[command(flatten, next_help_heading = "Restores")]
    pub replacing: RestoreFlags,
    #[command(flatten)]
    pub taking: BackupFlags,
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

/// When the app is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never: its end is the end of `run`.
    Never,
    /// When it fails, this often at most; `None`: without end.
    OnFailure(Option<u32>),
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "never" => Ok(Restart::Never),
            None if text == "on-failure" => Ok(Restart::OnFailure(None)),
            Some(("on-failure", times)) => {
                let times = times.parse().ok().filter(|times| *times > 0);
                times.map(|times| Restart::OnFailure(Some(times))).ok_or_else(|| "N must be a number from 1".into())
            }
            _ => Err("it must be never, on-failure or on-failure:N".into()),
        }
    }
}

/// What is done with data that the vault does not know as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnForeign {
    /// Save it as a snapshot that is never restored by itself, and restore the newest good one over it
    Restore,
    /// Go on with it: it becomes the newest snapshot
    Keep,
    /// Do not start
    Fail,
}

/// What is done when no vault answers at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnUnreachable {
    /// End with an error
    Fail,
    /// Start the app with what is there
    Start,
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
        assert_eq!("never".parse(), Ok(Restart::Never));
        assert_eq!("on-failure".parse(), Ok(Restart::OnFailure(None)));
        assert_eq!("on-failure:3".parse(), Ok(Restart::OnFailure(Some(3))));
        for wrong in ["always", "on-failure:0", "on-failure:", "never:1", ""] {
            assert!(wrong.parse::<Restart>().is_err(), "{wrong}");
        }
        assert_eq!(poll("5s"), Ok(Duration::from_secs(5)));
        assert!(poll("61s").is_err());
    }
}
