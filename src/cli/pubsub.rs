//! Arguments of `listen` and `publish`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{RunFlags, duration, label};

/// Arguments of `listen`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lastgood listen --subscription projects/shop/subscriptions/backups
  # with GOOGLE_CLOUD_PROJECT set
  lastgood listen /srv/app --subscription backups --vault gs://bucket/app
  # make a subscription that suits
  gcloud pubsub subscriptions create NAME --topic TOPIC --ack-deadline 600 \\
    --min-retry-delay 60s --max-retry-delay 600s

Messages are those that `lastgood serve` takes, too: CloudEvents, or JSON and attributes with an action or a severity. A \
message is acknowledged when its run is over, or when it will never be served, which is logged as an error. It is given back \
when another try may succeed: then the subscription's retry policy says when it comes again, and its dead-letter policy how \
often.

Pulling needs the role roles/pubsub.subscriber on the subscription. Whoever may publish to the topic may ask for a backup and, \
with --allow-restore, for a restore: that is IAM's decision.

The exit code is 1 when the subscription cannot be pulled from at the start; one that goes away later is waited for. SIGTERM \
ends it within 10 seconds.")]
pub struct ListenArgs {
    /// The directory to take snapshots of, and to restore into [env: LASTGOOD_DATA] [default: ./data; /app/data inside
    /// Cloud Run]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub pulling: PullFlags,
    #[command(flatten)]
    pub runs: RunFlags,
}

/// The source of messages.
#[derive(Debug, Args)]
pub struct PullFlags {
    /// The subscription to pull events from: projects/PROJECT/subscriptions/NAME, or NAME where GOOGLE_CLOUD_PROJECT is set
    /// [env: LASTGOOD_SUBSCRIPTION]
    #[arg(long, value_name = "NAME", help_heading = "Pub/Sub")]
    pub subscription: Option<String>,
    /// The longest that a message is held after it could not be served; then it is given back, and the subscription's retry
    /// policy applies
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, help_heading = "Pub/Sub")]
    pub hold: Duration,
}

/// The event to publish.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  lastgood publish critical --topic projects/shop/topics/backups \\
    --message 'disk full'
  # in a script of bash, when a command fails
  trap 'lastgood publish critical --topic backups \\
    --message \"$0 failed at line $LINENO\"' ERR

An event is a CloudEvent in binary mode: attributes that begin with ce-, and JSON as data. Its id is random, so that a message \
that is delivered twice is served once. The message's id is printed when Pub/Sub has taken the message; otherwise the exit \
code is 1, after --timeout at the latest. Publishing needs the role roles/pubsub.publisher on the topic.")]
pub enum PublishCommand {
    /// Report an app's critical error, which asks for a backup
    Critical {
        /// What happened; kept with the snapshot, up to 8 KiB of it
        #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
        message: OsString,
        /// How bad it is
        #[arg(long, value_name = "WORD", default_value = "CRITICAL")]
        severity: String,
        #[command(flatten)]
        sending: PublishFlags,
    },
    /// Ask for a backup
    Backup {
        /// Why; kept with the snapshot
        #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
        message: Option<OsString>,
        #[command(flatten)]
        sending: PublishFlags,
    },
    /// Ask for a verification of the vault
    Verify {
        #[command(flatten)]
        sending: PublishFlags,
    },
    /// Ask for a restore, which only a service that allows restores does, and only within 15 minutes
    Restore {
        /// Which snapshot: latest, an id or the beginning of one, or a day or time in UTC [default: latest]
        #[arg(long)]
        snapshot: Option<String>,
        #[command(flatten)]
        sending: PublishFlags,
    },
}

/// How an event is published.
#[derive(Debug, Args)]
pub struct PublishFlags {
    /// The topic: projects/PROJECT/topics/NAME, or NAME where GOOGLE_CLOUD_PROJECT is set [env: LASTGOOD_TOPIC]
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
    /// The app that the event is about
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// A label that is kept with the snapshot; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// The event's id: an event published again from this host, for the same service and with the same id, is the same event
    /// [default: a random one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// How long to try
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}
