//! Arguments of `dispatched`, and of services that start a job for each run.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{AllHookFlags, BackupFlags, NotGood, RestoreFlags, ResultFlags, duration};

/// Where runs are done.
#[derive(Debug, Args)]
pub struct DispatchFlags {
    /// Start this Cloud Run job for each run, in place of doing it here: job=projects/P/locations/L/jobs/J. It is for
    /// directories that take longer than a request may. The job runs `lastgood dispatched` with the same data and the same
    /// vaults; starting it needs the role roles/run.jobsExecutorWithOverrides on it
    #[arg(long, value_name = "job=NAME", help_heading = "Runs")]
    pub dispatch: Option<String>,
    /// With --dispatch: how long a request over HTTP waits for its job before the answer is 409, which means that it is to be
    /// sent again. Keep this below the service's own request timeout. Pulled messages are held until the job is over
    #[arg(long, value_name = "DURATION", default_value = "4m", value_parser = duration, help_heading = "Runs")]
    pub dispatch_wait: Duration,
}

impl DispatchFlags {
    /// Runs are done here.
    pub fn none() -> Self {
        DispatchFlags { dispatch: None, dispatch_wait: Duration::from_secs(1) }
    }
}

/// Arguments of `dispatched`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  gcloud run jobs create backup-job --image IMAGE --args dispatched \\
    --max-retries 1 --task-timeout 6h \\
    --set-env-vars LASTGOOD_VAULT=gs://bucket/app \\
    --add-volume … --add-volume-mount …
  lastgood serve … --run-timeout 6h \\
    --dispatch job=projects/P/locations/L/jobs/backup-job

The service claims what it is asked for, stores the request in the vault and starts the job, with the claim's name in \
LASTGOOD_CLAIM. The stored request says what to do, why and until when. Everything else is set by the options of the job, and \
has to be as the service has it: the same volume with the data, the same vaults, --allow-restore where a restore may be asked \
for. The job's --task-timeout should not be shorter than the service's --run-timeout, which counts from the claim on, and \
again after an attempt that failed.

The exit code is 0 also when there is nothing left to do: another execution has taken the request, or an earlier attempt has \
carried it out.")]
pub struct DispatchedArgs {
    /// The directory to take snapshots of, and to restore into [env: LASTGOOD_DATA] [default: ./data; /app/data inside
    /// Cloud Run]
    pub data: Option<PathBuf>,
    /// Carry out restores, too, where the service allows them
    #[arg(long)]
    pub allow_restore: bool,
    #[command(flatten)]
    pub replacing: RestoreFlags,
    #[command(flatten)]
    pub taking: BackupFlags,
    /// End with 0 also when the snapshot is one of these
    #[arg(long, value_name = "RESULT,…", value_enum, value_delimiter = ',', help_heading = "About the snapshot")]
    pub exit_zero_on: Vec<NotGood>,
    #[command(flatten)]
    pub results: ResultFlags,
    #[command(flatten)]
    pub hooks: AllHookFlags,
}
