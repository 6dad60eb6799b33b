//! The folder of an event's claims, as far as the names of its objects tell, and the records in it.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::name::CLAIMS;
use crate::error::Result;
use crate::report::{Action, Channel, Event, RunId};
use crate::store::{self, Store};
use crate::vault::hex::Hash;
use crate::vault::root::BackupReason;

/// No promise stands for longer than 7 days, whatever is written in the vault.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The objects that an event's folder holds, by their names.
#[derive(Debug, Default)]
pub struct ClaimFolder {
    /// The numbers of the claims, from `<n>.json`.
    pub claims: BTreeSet<u64>,
    /// The numbers of the claims whose runs ended without serving the event, from `<n>.failed.json`.
    pub failed: BTreeSet<u64>,
    /// Whether there is a `done.json`: the event is served.
    pub done: bool,
}

impl ClaimFolder {
    /// Lists an event's folder.
    ///
    /// # Errors
    /// A store that fails.
    pub fn of(store: &dyn Store, folder: &str) -> Result<ClaimFolder> {
        let objects = store.list(folder).map_err(|why| why.while_doing(format!("list {folder} of {}", store.url())))?;
        let mut seen = ClaimFolder::default();
        for object in objects {
            if let Some(name) = object.name.strip_prefix(folder) {
                seen.add(name);
            }
        }
        Ok(seen)
    }

    /// Adds an object by its name in the folder.
    pub fn add(&mut self, name: &str) {
        let Some(name) = name.strip_suffix(".json") else { return };
        match name.strip_suffix(".failed").map(str::parse) {
            Some(Ok(n)) => _ = self.failed.insert(n),
            Some(Err(_)) => {}
            None if name == "done" => self.done = true,
            None => self.claims.extend(name.parse::<u64>()),
        }
    }

    /// Whether nobody has ever served the event.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty() && !self.done
    }

    /// When the event was first served. `None` if nobody served it, or if that cannot be read.
    pub fn begun(&self, store: &dyn Store, folder: &str) -> Result<Option<Timestamp>> {
        let Some(first) = self.claims.first() else { return Ok(None) };
        Ok(read_claim(store, folder, *first)?.map(|body| body.started))
    }
}

/// The most bytes of an object in the folder: an identity may come in a request of 1 MiB, and JSON may write one byte of it as
/// six.
pub(crate) const MAX_CLAIM: u64 = 8 << 20;

/// The content of `<n>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClaimRecord {
    pub(super) identity: String,
    pub(super) run: RunId,
    /// When the claim was entered, by the store's clock.
    pub(super) started: Timestamp,
    pub(super) host: String,
    /// The number of the attempt, for a task of a Cloud Run job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<u64>,
    /// The promise, for a request whose sender does not wait and does not send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) promise: Option<Promise>,
}

/// The folder of an event's claims.
pub(crate) fn folder(identity: &str) -> String {
    format!("{CLAIMS}{}/", Hash::of(identity.as_bytes()))
}

/// Reads a claim's object. `None` if it is gone, or is not one that this program wrote: then it hinders nobody.
pub(crate) fn read_claim(store: &dyn Store, folder: &str, n: u64) -> Result<Option<ClaimRecord>> {
    let name = format!("{folder}{n}.json");
    let bytes = match store.get(&name, MAX_CLAIM) {
        Ok(bytes) => bytes,
        Err(store::StoreError::NotFound { .. }) => return Ok(None),
        Err(why @ store::StoreError::OutOfRange { .. }) => {
            tracing::warn!("{why}: it is not a claim, and is passed over");
            return Ok(None);
        }
        Err(why) => return Err(why.while_doing(format!("read {name}"))),
    };
    let read = serde_json::from_slice(&bytes);
    Ok(read.inspect_err(|why| tracing::warn!("{name} is not a claim, and is passed over: {why}")).ok())
}

/// A promise to the sender of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// The action that the run is for.
    pub action: Action,
    /// Why the run is done.
    pub reason: BackupReason,
    /// How it was asked for.
    pub way: Channel,
    /// The event that asked for it.
    pub event: Event,
    /// Seconds from the entry of its claim until its run is over, unless the instance that promised it is gone.
    pub seconds: u64,
}

impl Promise {
    /// The time from the entry of its claim until its run is over, 7 days at most.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds).min(LONGEST)
    }
}
