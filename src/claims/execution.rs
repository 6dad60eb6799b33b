//! A task of a Cloud Run job, and how its attempts know each other.
//!
//! Cloud Run starts an attempt of a task when the one before has ended: it failed, was killed, or ran into its time limit
//! (<https://cloud.google.com/run/docs/configuring/max-retries>). So an attempt need not wait until the claim of an older one has
//! expired. If an older one goes on all the same, it finds itself superseded before it commits.
//!
//! Nothing in a task's environment says which execution it is but the execution's name: the job's name, and five letters and
//! digits. They are few enough that a job which runs every half hour may see the same name again within months, when the
//! execution that had it first is forgotten. The claims that the old execution left must not be taken for one's own, or a backup
//! would be left out. So a first attempt never goes on with the claims that it finds, and a later one only if they are not too
//! old; they leave alone what is not theirs, and number their own.

use std::time::Duration;

use super::folder::{ClaimFolder, folder};
use crate::error::Result;
use crate::report::RunEnvironment;
use crate::store::Store;

/// The longest that an attempt may take, whatever is configured
/// (<https://cloud.google.com/run/docs/configuring/task-timeout>).
pub const LONGEST_ATTEMPT: Duration = Duration::from_secs(168 * 3600);
/// The time that Cloud Run may take between two attempts, generously.
const BETWEEN: Duration = Duration::from_secs(24 * 3600);

/// An attempt of a task of an execution of a Cloud Run job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The execution's name.
    pub name: String,
    /// The task's index.
    pub task: String,
    /// The attempt's number; 0 is the first.
    pub attempt: u64,
}

impl Execution {
    /// The execution that the environment tells of. `None` outside a Cloud Run job.
    pub fn of(place: &RunEnvironment) -> Option<Self> {
        let name = place.execution.clone()?;
        let number = |text: &Option<String>| text.as_deref().unwrap_or("0").to_owned();
        // An attempt number that cannot be read counts as the first: a first attempt takes nothing over.
        let attempt = number(&place.attempt).parse().unwrap_or(0);
        Some(Execution { name, task: number(&place.task), attempt })
    }

    /// The identity of its claims in a store.
    ///
    /// # Errors
    /// A store that fails.
    pub(super) fn identity(&self, store: &dyn Store) -> Result<String> {
        let plain = format!("cloud-run-job:{}/{}", self.name, self.task);
        let of = |number: u64| if number == 1 { plain.clone() } else { format!("{plain}/{number}") };
        let (mut number, mut latest) = (1, None);
        loop {
            let folder = folder(&of(number));
            let seen = ClaimFolder::of(store, &folder)?;
            if seen.is_empty() {
                break;
            }
            latest = Some((seen, folder));
            number += 1;
        }
        let Some((seen, folder)) = latest.filter(|_| self.attempt > 0) else { return Ok(of(number)) };
        let attempts = u32::try_from(self.attempt).unwrap_or(u32::MAX);
        let oldest = LONGEST_ATTEMPT.saturating_add(BETWEEN).saturating_mul(attempts);
        let now = store.now().map_err(|why| why.while_doing("ask the store for the time"))?;
        let fits = |begun| Duration::try_from(now.duration_since(begun)).unwrap_or_default() <= oldest;
        Ok(of(if seen.begun(store, &folder)?.is_some_and(fits) { number - 1 } else { number }))
    }
}
