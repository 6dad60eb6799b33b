//! What an event's folder holds, by the names of its objects.

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

/// No promise stands longer, whatever is written in the vault.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Which objects an event's folder holds.
#[derive(Debug, Default)]
pub struct ClaimFolder {
    pub claims: BTreeSet<u64>,
    pub failed: BTreeSet<u64>,
    pub done: bool,
}

impl ClaimFolder {
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

    /// Takes in an object by its name in the folder.
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

    /// When the event was first served, where that can be read.
    pub fn begun(&self, store: &dyn Store, folder: &str) -> Result<Option<Timestamp>> {
        let Some(first) = self.claims.first() else { return Ok(None) };
        Ok(read_claim(store, folder, *first)?.map(|body| body.started))
    }
}

/// The most bytes of an object there: an identity may come in a request of 1 MiB, and JSON may write a byte of it as six.
pub(crate) const MAX_CLAIM: u64 = 8 << 20;

/// What `<n>.json` says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClaimRecord {
    pub(super) identity: String,
    pub(super) run: RunId,
    /// By the store's clock.
    pub(super) started: Timestamp,
    pub(super) host: String,
    /// Of a task of a Cloud Run job: which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<u64>,
    /// Of a request whose sender does not wait, and sends it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) promise: Option<Promise>,
}

/// The folder of an event's claims.
pub(crate) fn folder(identity: &str) -> String {
    format!("{CLAIMS}{}/", Hash::of(identity.as_bytes()))
}

/// A claim's object. None if it has gone, or is not one that this program wrote: then it hinders nobody.
pub(crate) fn read_claim(store: &dyn Store, folder: &str, n: u64) -> Result<Option<ClaimRecord>> {
    let name = format!("{folder}{n}.json");
    let bytes = match store.get(&name, MAX_CLAIM) {
        Ok(bytes) => bytes,
        Err(store::StoreError::NotFound { .. }) => return Ok(None),
        Err(why @ store::StoreError::OutOfRange { .. }) => {
            tracing::warn!("{why}: it is no claim, and does not count");
            return Ok(None);
        }
        Err(why) => return Err(why.while_doing(format!("read {name}"))),
    };
    let read = serde_json::from_slice(&bytes);
    Ok(read.inspect_err(|why| tracing::warn!("{name} is no claim, and does not count: {why}")).ok())
}

/// What was promised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// What the run is for.
    pub action: Action,
    /// Why.
    pub reason: BackupReason,
    /// How it was asked for.
    pub way: Channel,
    /// By what.
    pub event: Event,
    /// So long after its claim was entered its run is over, unless whoever promised it is gone.
    pub seconds: u64,
}

impl Promise {
    /// How long after its claim was entered its run is over.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds).min(LONGEST)
    }
}
