//! How a run is handed to a Cloud Run job.

use std::sync::Arc;
use std::time::Duration;

use crate::claims::lease::ClaimName;
use crate::error::Result;
use crate::gcp::run_jobs::Starter;
use crate::monitor::Context;

/// Starts a job for a claim; returns the execution's name, if Cloud Run tells it.
pub type StartJob = dyn Fn(&ClaimName, &Context) -> Result<Option<String>> + Send + Sync;

/// The job that does the runs.
#[derive(Clone)]
pub struct Dispatch {
    /// The job's name, for people.
    pub job: String,
    /// Starts the job.
    pub start: Arc<StartJob>,
    /// How long a request waits for its answer.
    pub wait: Duration,
    /// How often a claim is looked at.
    pub poll: Duration,
    /// How long the job may take to begin.
    pub begin: Duration,
}

impl Dispatch {
    /// A job that `starter` starts; a request waits for its answer for `wait` at most.
    pub fn new(starter: Starter, wait: Duration) -> Self {
        let job = starter.target().to_string();
        let start = Arc::new(move |claim: &ClaimName, ctx: &Context| starter.start(&claim.to_string(), ctx));
        Dispatch { job, start, wait, poll: POLL, begin: BEGIN }
    }
}

/// How often, at most, a claim is looked at while somebody may be waiting; more often in the first seconds, and less often later.
pub(crate) const POLL: Duration = Duration::from_secs(2);

/// How long a job may take to begin: Cloud Run finds a place for it, loads the image and mounts the volumes.
pub(crate) const BEGIN: Duration = Duration::from_secs(600);
