//! Arguments of `serve`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::Url;

use super::{AllHookFlags, BackupFlags, DispatchFlags, PullFlags, RestoreFlags, ResultFlags, duration, positive};

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # for programs on this machine
  lastgood serve --listen 127.0.0.1:8080
  # for Cloud Scheduler, Pub/Sub and Eventarc
  lastgood serve --auth oidc --auth-audience https://backup.example.com \\
    --auth-email scheduler@project.iam.gserviceaccount.com
  # for callers with a token, which may download snapshots
  LASTGOOD_TOKEN=… lastgood serve --auth token --allow-download

Events are posted to / or /events, and to /events/backup, /events/critical, /events/restore and /events/verify; \
/openapi.json describes all routes. With --subscription, events are pulled, too. A request chooses what to do, why, with which \
labels and, for a restore, which snapshot; everything else is set by the options above. SIGTERM ends the service within 10 \
seconds.")]
pub struct ServeArgs {
    /// The directory to take snapshots of, and to restore into [env: LASTGOOD_DATA] [default: ./data; /app/data inside
    /// Cloud Run]
    pub data: Option<PathBuf>,
    /// The address to listen on [default: 0.0.0.0:$PORT, with 8080 where PORT is not set]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    #[command(flatten)]
    pub access: AccessFlags,

    /// On Cloud Run: the CPU is always allocated, so that requests may use ?wait=false
    #[arg(long, help_heading = "Runs")]
    pub background: bool,

    /// How old the newest good snapshot may be [default: twice --interval if that is given, else 26h]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Health")]
    pub max_age: Option<Duration>,
    /// How often a backup is expected [env: BACKUP_INTERVAL_MINUTES]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Health")]
    pub interval: Option<Duration>,
    /// How old the newest file in the directory may be [env: DATA_FRESHNESS] [default: 2h]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Health")]
    pub data_freshness: Option<Duration>,
    /// What must be in the directory: a path below it, or a pattern like '*.csv' or 'uploads/**/*.db'; repeatable
    /// [env: CRITICAL_FILES, with commas]
    #[arg(long = "critical-file", value_name = "GLOB", help_heading = "Health")]
    pub critical_files: Vec<String>,

    #[command(flatten)]
    pub pulling: PullFlags,
    #[command(flatten)]
    pub runs: RunFlags,
}

/// Who may ask over HTTP, and for what.
#[derive(Debug, Args)]
pub struct AccessFlags {
    /// At most this many connections at the same time; beyond that, an idle one is closed, and requests wait
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = connections)]
    pub connections: usize,

    /// Who may send requests; required unless it listens on loopback
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Access")]
    pub auth: Option<AuthFlag>,
    /// With --auth oidc: the exact audience that tokens must have
    #[arg(long, value_name = "URL", help_heading = "Access")]
    pub auth_audience: Option<String>,
    /// With --auth oidc: the account whose tokens are accepted; repeatable
    #[arg(long = "auth-email", value_name = "ADDRESS", value_delimiter = ',', help_heading = "Access")]
    pub auth_emails: Vec<String>,
    /// With --auth oidc: where the keys are that tokens are signed with, if not where Google publishes its own
    #[arg(long, value_name = "URL", hide = true)]
    pub auth_keys_url: Option<String>,
    /// With --auth token: the file that holds the token [env: LASTGOOD_TOKEN is the token itself]
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    pub token_file: Option<PathBuf>,
    /// With --auth none: serve everybody who can reach the address, also off loopback
    #[arg(long, help_heading = "Access")]
    pub insecure: bool,
    /// The address at which browsers find the service, behind a proxy that gives it another name: pages of that address may
    /// ask for runs, and a service on loopback answers to that name, too
    #[arg(long, value_name = "URL", value_parser = public_url, help_heading = "Access")]
    pub public_url: Option<Url>,
    /// Allow downloads of files in snapshots and of whole snapshots
    #[arg(long, help_heading = "Access")]
    pub allow_download: bool,
}

/// How runs are done that others ask for, over HTTP or by messages.
#[derive(Debug, Args)]
pub struct RunFlags {
    /// Allow events and requests to ask for a restore
    #[arg(long, help_heading = "Access")]
    pub allow_restore: bool,
    /// End a run that takes longer than this; another one may then take over its request
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, help_heading = "Runs")]
    pub run_timeout: Duration,
    /// Critical events within this time after one share the next snapshot
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, help_heading = "Runs")]
    pub coalesce: Duration,
    /// Take at most this many snapshots for critical events in an hour
    #[arg(long, value_name = "N", default_value = "20", value_parser = positive, help_heading = "Runs")]
    pub critical_max: NonZeroUsize,
    #[command(flatten, next_help_heading = "Restores")]
    pub replacing: RestoreFlags,
    #[command(flatten)]
    pub dispatching: DispatchFlags,
    #[command(flatten)]
    pub taking: BackupFlags,
    #[command(flatten)]
    pub results: ResultFlags,
    #[command(flatten)]
    pub hooks: AllHookFlags,
}

/// The callers that may send requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthFlag {
    /// Callers with an ID token that Google has signed
    Oidc,
    /// Callers with the token of LASTGOOD_TOKEN or --token-file
    Token,
    /// Callers that Cloud Run lets through; never for restores and downloads
    CloudRun,
    /// Everybody; off loopback only with --insecure
    None,
}

fn public_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|why| format!("it is not a URL: {why}"))?;
    match url.scheme() {
        "https" | "http" => Ok(url),
        _ => Err("it must begin with https:// or http://".into()),
    }
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=10_000) => Ok(number),
        _ => Err("it must be a number from 1 to 10000".into()),
    }
}
