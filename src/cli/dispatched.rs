//! Arguments of `dispatched`, and of what has a job do the runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{BackupFlags, NotGood, RestoreFlags, ResultFlags, duration};

/// Where runs are done.
#[derive(Debug, Args)]
pub struct DispatchFlags {
    /// Start this Cloud Run job for each run, in place of doing it here: job=projects/P/locations/L/jobs/J, for directories
    /// that take longer than a request may. The job runs `lastgood dispatched` on the same data and the same vaults; starting it
    /// needs the role roles/run.jobsExecutorWithOverrides on it
    #[arg(long, value_name = "job=NAME", help_heading = "Runs")]
    pub dispatch: Option<String>,
    /// With --dispatch: how long a request over HTTP waits for its job before it is answered 409, to be sent again; less than
    /// the service's own request timeout. Messages that are pulled are held until it is over
    #[arg(long, value_name = "DURATION", default_value = "4m", value_parser = duration, help_heading = "Runs")]
    pub dispatch_wait: Duration,
}

/// Arguments of `dispatched`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  gcloud run jobs create backup-job --image IMAGE --args dispatched --max-retries 1 --task-timeout 6h \\
    --set-env-vars LASTGOOD_VAULT=gs://bucket/app --add-volume … --add-volume-mount …
  lastgood serve … --run-timeout 6h --dispatch job=projects/P/locations/L/jobs/backup-job

The service claims what it is asked for, leaves an order in the vault and starts the job, with the claim's name in
LASTGOOD_CLAIM. What to do, why and until when is in the order; everything else is said here, and has to be as the service has it: the
same volume with the data, the same vaults, --allow-restore where a restore may be asked for. The job's --task-timeout should not be
shorter than the service's --run-timeout, which counts from the claim on, and after an attempt that failed anew.

It ends with 0 also when there is nothing to do any more: another execution has taken the order, or an earlier attempt has done
what it says.")]
pub struct DispatchedArgs {
    /// The directory to take snapshots of, and to restore into [env: LASTGOOD_DATA] [default: ./data; /app/data inside
    /// Cloud Run]
    pub data: Option<PathBuf>,
    /// The service may ask for a restore, where it allows it, too
    #[arg(long)]
    pub allow_restore: bool,
    #[command(flatten)]
    pub replacing: RestoreFlags,
    #[command(flatten)]
    pub taking: BackupFlags,
    /// End with 0, too, when the snapshot is one of these
    #[arg(long, value_name = "RESULT,…", value_enum, value_delimiter = ',', help_heading = "About the snapshot")]
    pub exit_zero_on: Vec<NotGood>,
    #[command(flatten)]
    pub results: ResultFlags,
}
