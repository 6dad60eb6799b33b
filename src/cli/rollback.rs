//! Arguments of `rollback`.

use std::time::Duration;

use clap::Args;

use super::duration;

/// Arguments of `rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # what there is to go back to
  lastgood list --vault gs://my-state/app
  # as it was on Friday evening
  lastgood rollback 2026-11-20T18:00:00Z --vault gs://my-state/app
  # an app that has a service's name
  lastgood rollback 5f0c --service shop --vault gs://my-state/app

An instance of `lastgood run` that runs the app is asked to hand over: it stops the app and saves once more, and comes back with \
the snapshot (with `--on-superseded wait`, the default). Where none runs, the next one starts with it. The snapshot that was the newest \
stays, and is pinned for 90 days. No data directory is needed, and none is changed here.")]
pub struct RollbackArgs {
    /// The snapshot that becomes the newest: an id or the beginning of one, or a day or time in UTC
    pub snapshot: String,
    /// Take a snapshot that is suspect or diverged: it counts as good from now on
    #[arg(long)]
    pub accept_suspect: bool,
    /// Say what would become the newest, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The app's service, if it has a name: another one's vault is left alone [env: LASTGOOD_SERVICE]
    #[arg(long, value_name = "NAME", help_heading = "Several instances")]
    pub service: Option<String>,
    /// Go on although the vault is of another service
    #[arg(long, help_heading = "Several instances")]
    pub take_over: bool,
    /// How long an instance that runs may take to stop its app and save
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = duration, help_heading = "Several instances")]
    pub handover: Duration,
}
