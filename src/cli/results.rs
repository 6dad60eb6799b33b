//! Arguments that say who is told how a run ended.

use clap::{Args, ValueEnum};

/// Who is told how a run ended.
#[derive(Debug, Args)]
pub struct ResultFlags {
    /// Publish how each run ended to this Pub/Sub topic, as a CloudEvent with the run's report; a topic's own name does where
    /// the project is known [env: LASTGOOD_RESULTS_TOPIC]
    #[arg(long, value_name = "projects/P/topics/T", help_heading = "Who is told")]
    pub results_topic: Option<String>,
    /// Post how each run ended to this URL, as JSON with a `text` as Slack shows it. It is tried for 15 s, before a run is
    /// answered, and never changes what a run came to. Others see flags in the list of processes: the variable is the better
    /// place for a secret URL [env: LASTGOOD_WEBHOOK]
    #[arg(long, value_name = "URL", help_heading = "Who is told")]
    pub webhook: Option<String>,
    /// What is posted [env: LASTGOOD_WEBHOOK_ON] [default: all]
    #[arg(long, value_name = "WHICH", value_enum, help_heading = "Who is told")]
    pub webhook_on: Option<WebhookOn>,
}

/// What is posted to the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WebhookOn {
    /// Every result
    All,
    /// What failed, and what is not complete or not good
    Failure,
}
