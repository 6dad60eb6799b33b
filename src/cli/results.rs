//! Arguments of the notifications of how a run ended.

use clap::{Args, ValueEnum};

/// Notifications of how a run ended.
#[derive(Debug, Args)]
pub struct ResultFlags {
    /// Publish how each run ended to this Pub/Sub topic, as a CloudEvent with the run's report; the topic's name alone is
    /// enough where the project is known [env: LASTGOOD_RESULTS_TOPIC]
    #[arg(long, value_name = "projects/P/topics/T", help_heading = "Notifications")]
    pub results_topic: Option<String>,
    /// Post how each run ended to this URL, as JSON with a `text` that Slack shows. It is tried for 15 s, before the run is
    /// answered, and never changes the run's result. Other users see options in the list of processes: give a secret URL by
    /// the variable [env: LASTGOOD_WEBHOOK]
    #[arg(long, value_name = "URL", help_heading = "Notifications")]
    pub webhook: Option<String>,
    /// Which results are posted [env: LASTGOOD_WEBHOOK_ON] [default: all]
    #[arg(long, value_name = "WHICH", value_enum, help_heading = "Notifications")]
    pub webhook_on: Option<WebhookOn>,
    /// Ping a dead man's switch when a backup begins, is complete or fails: the URL of a check of Healthchecks.io and the like,
    /// or of a monitor of Cronitor. Each ping is tried for 5 s and never changes the run's result. Give the URL, which is a
    /// secret, by the variable [env: LASTGOOD_PING]
    #[arg(long, value_name = "URL", help_heading = "Notifications")]
    pub ping: Option<String>,
}

/// The results that are posted to the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WebhookOn {
    /// Every result
    All,
    /// Runs that failed, and snapshots that are not complete or not good
    Failure,
}
