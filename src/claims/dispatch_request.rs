//! Dispatch requests: what a service leaves in the vault for the Cloud Run job that it starts, and which execution has taken it.
//!
//! Both lie beside the first claim of the run, and like all objects are created once and never changed:
//!
//! - `claims/<hash>/<n>.order.json`: what the run is to do, for which events, under which claims. It is complete: a job is
//!   told the claim's name and nothing else.
//! - `claims/<hash>/<n>.taken.json`: the execution that does it. The request that starts a job may be made twice, when its
//!   answer was lost; then two executions come, under the same claim and run, and the store decides which of them does it.
//!
//! The time limit is part of the dispatch request, so that the service and the job cannot differ in it: whoever follows a claim
//! has to know when it may take over.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::execution::LONGEST_ATTEMPT;
use super::lease::ClaimName;
use crate::backup::commit::check_labels;
use crate::error::{Code, Error, Result};
use crate::events::decoded::RunRequest;
use crate::report::{Action, Channel, Event, MAX_REPORT, RunId};
use crate::store::{self, Store};
use crate::vault::root::BackupReason;

/// The version of a dispatch request's format.
const FORMAT: u32 = 1;
/// The most bytes of a dispatch request: its events end up in a report.
const MAX_ORDER: u64 = MAX_REPORT;
/// The most bytes of everything in it but the events.
const REST: usize = 1 << 20;
/// The most bytes of the object that says who has taken a dispatch request.
const MAX_TAKEN: u64 = 64 << 10;
/// The most claims in a dispatch request.
const MAX_CLAIMS: usize = 1000;
/// The most bytes of a snapshot's name.
const MAX_SNAPSHOT: usize = 400;

/// A run that a job is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DispatchRequest {
    format: u32,
    /// The run, which holds the claims.
    pub run: RunId,
    /// The action to do.
    pub action: Action,
    /// Why it is to be done.
    pub reason: BackupReason,
    /// The labels that are attached to the snapshot.
    pub labels: BTreeMap<String, String>,
    /// The snapshot to restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// How it was asked for.
    pub way: Channel,
    /// The events that asked for it.
    pub events: Vec<Event>,
    /// The claims that the run holds; the first is the one that the dispatch request lies beside.
    pub claims: Vec<ClaimName>,
    /// The run's time limit in seconds, counted from the claim on; an attempt after one that failed enters its own claim.
    pub timeout_seconds: u64,
}

impl DispatchRequest {
    /// A dispatch request for requests that share a run: `chosen` is what the run is to do for all of them.
    pub fn new(run: RunId, chosen: RunRequest, way: Channel, timeout: Duration) -> Self {
        let RunRequest { action, reason, labels, snapshot, .. } = chosen;
        let (events, claims, timeout_seconds) = (Vec::new(), Vec::new(), timeout.as_secs().max(1));
        DispatchRequest { format: FORMAT, run, action, reason, labels, snapshot, way, events, claims, timeout_seconds }
    }

    /// The run's time limit, which no job may exceed; [`LONGEST_ATTEMPT`] at most.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds).min(LONGEST_ATTEMPT)
    }

    /// Writes the dispatch request beside its first claim.
    ///
    /// # Errors
    /// A store that fails; a dispatch request without a claim.
    pub fn write(&self, store: &dyn Store) -> Result<()> {
        let no_claim = || Error::failed("write a dispatch request", "it has no claim").with_code(Code::Internal);
        let claim = self.claims.first().ok_or_else(no_claim)?;
        let name = claim.object("order");
        let doing = || format!("create {name}");
        let mut bytes =
            serde_json::to_vec(self).map_err(|why| Error::failed(doing(), why).with_code(Code::Internal))?;
        bytes.push(b'\n');
        match store.create(&name, &[&bytes]) {
            Ok(()) => Ok(()),
            // The answer was lost: nobody else writes beside this run's claim.
            Err(_) if store.get(&name, MAX_ORDER).is_ok_and(|found| found == bytes) => Ok(()),
            Err(why) => Err(why.while_doing(doing())),
        }
    }

    /// Reads the dispatch request beside a claim. `None` if there is none.
    ///
    /// # Errors
    /// A store that fails; bytes that are not a dispatch request, one of another version, or one that asks for what nothing may
    /// ask for.
    pub fn read(store: &dyn Store, claim: &ClaimName) -> Result<Option<DispatchRequest>> {
        let name = claim.object("order");
        let doing = || format!("read {name}");
        let bytes = match store.get(&name, MAX_ORDER) {
            Ok(bytes) => bytes,
            Err(store::StoreError::NotFound { .. }) => return Ok(None),
            Err(why) => return Err(why.while_doing(doing())),
        };
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let version: FormatOnly = serde_json::from_slice(&bytes).map_err(|why| Error::damage(doing(), why))?;
        if version.format != FORMAT {
            let why = format!("it has the format {}, and this program knows {FORMAT}", version.format);
            let why = Error::failed(doing(), why).hint("Deploy the same version of lastgood as service and as job.");
            return Err(if version.format > FORMAT { why.with_code(Code::NewerFormat) } else { why });
        }
        let dispatch_request: DispatchRequest =
            serde_json::from_slice(&bytes).map_err(|why| Error::damage(doing(), why))?;
        let wrong = |why: &str| Err(Error::damage(doing(), why));
        if dispatch_request.claims.first() != Some(claim) {
            return wrong("the claim that it lies beside is not its first");
        }
        if dispatch_request.claims.len() > MAX_CLAIMS {
            return wrong("it names more claims than there can be requests");
        }
        if dispatch_request
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.is_empty() || snapshot.len() > MAX_SNAPSHOT)
        {
            return wrong("its snapshot cannot be an id, a name or a time");
        }
        check_labels(&dispatch_request.labels).map_err(|why| why.within(doing()))?;
        Ok(Some(dispatch_request))
    }
}

/// How many bytes of events fit in a dispatch request, and in a report, which holds them as well.
pub const ROOM: usize = MAX_ORDER as usize - REST;

/// The bytes that an event and its claim's name take of [`ROOM`].
pub fn size(event: &Event) -> usize {
    serde_json::to_vec(event).map_or(usize::MAX, |text| text.len().saturating_add(100))
}

/// The taker of a dispatch request: a task of an execution of a job, in all its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenBy {
    /// The dispatch request's run.
    pub run: RunId,
    /// The execution and its task; something random outside a Cloud Run job.
    pub by: String,
}

impl TakenBy {
    /// Takes a dispatch request. Returns who had taken it before, if that is somebody else.
    ///
    /// # Errors
    /// A store that fails; an object there that cannot be read.
    pub fn take(&self, store: &dyn Store, claim: &ClaimName) -> Result<Option<TakenBy>> {
        let name = claim.object("taken");
        let doing = || format!("create {name}");
        let mut bytes =
            serde_json::to_vec(self).map_err(|why| Error::failed(doing(), why).with_code(Code::Internal))?;
        bytes.push(b'\n');
        let Err(why) = store.create(&name, &[&bytes]) else { return Ok(None) };
        match (TakenBy::of(store, claim)?, why) {
            (Some(found), _) if found == *self => Ok(None),
            (Some(found), _) => Ok(Some(found)),
            (None, why) => Err(why.while_doing(doing())),
        }
    }

    /// Reads who has taken a dispatch request. `None` if nobody has.
    ///
    /// # Errors
    /// A store that fails; an object that cannot be read.
    pub fn of(store: &dyn Store, claim: &ClaimName) -> Result<Option<TakenBy>> {
        let name = claim.object("taken");
        let doing = || format!("read {name}");
        match store.get(&name, MAX_TAKEN) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|why| Error::damage(doing(), why)),
            Err(store::StoreError::NotFound { .. }) => Ok(None),
            Err(why) => Err(why.while_doing(doing())),
        }
    }
}

#[cfg(test)]
mod tests;
