//! Promises: what a claim says of a request whose sender went away after being told that a run would serve it.
//!
//! Nobody sends such a request again, and so nobody would look at its claim once the instance that gave its word is gone. The
//! claim itself holds what a report of the request needs, and how long the run may take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::folder::{ClaimRecord, Promise, folder, read_claim};
use super::lease::{Claim, ClaimFolder, ClaimIdentity, ClaimName, Claimant, age, create, now};
use super::name::CLAIMS;
use crate::error::Result;
use crate::report::RunId;
use crate::store::Store;

impl Claim {
    /// The same claim, as if it were entered now: under the next number, by the same run. This is for a job, which counts its
    /// time from the claim on, however long the request has waited here. `None` if somebody else has that number.
    ///
    /// # Errors
    /// A store that fails. The claim stands as before.
    pub fn renew(&self, store: &dyn Store, claimant: &Claimant) -> Result<Option<Claim>> {
        let ClaimIdentity::Event(identity) = &claimant.identity else { return Ok(None) };
        let (since, n) = (Instant::now(), self.n.saturating_add(1));
        let (identity, host, promise) = (identity.clone(), claimant.host.clone(), claimant.promise.as_deref().cloned());
        let body = ClaimRecord { identity, run: self.run, started: now(store)?, host, attempt: None, promise };
        let (folder, earlier) = (self.folder.clone(), self.earlier.clone());
        let claim = Claim { folder, n, run: self.run, age: Duration::ZERO, since, timeout: self.timeout, earlier };
        Ok(create(store, &format!("{}{n}.json", self.folder), &body, self.run)?.then_some(claim))
    }
}

/// A promise of which nothing says how it ended.
#[derive(Debug)]
pub struct OpenPromise {
    /// Its claim.
    pub name: ClaimName,
    /// The run that was promised.
    pub run: RunId,
    /// The identity by which the event is known.
    pub identity: String,
    /// The host that promised it.
    pub host: String,
    /// The promise itself.
    pub promise: Promise,
    /// How long its run may still take.
    pub left: Duration,
}

/// The promises in a store of which nothing says how they ended: of instances that are gone, and those that are still to be kept.
/// Lists the names of all claims.
///
/// # Errors
/// A store that fails.
pub fn open(store: &dyn Store) -> Result<Vec<OpenPromise>> {
    let now = now(store)?;
    let objects = store.list(CLAIMS).map_err(|why| why.while_doing(format!("list the claims of {}", store.url())))?;
    let mut folders: BTreeMap<&str, ClaimFolder> = BTreeMap::new();
    for object in &objects {
        let parts = object.name.strip_prefix(CLAIMS).and_then(|name| name.split_once('/'));
        if let Some((hash, name)) = parts {
            folders.entry(hash).or_default().add(name);
        }
    }
    let mut open = Vec::new();
    for (hash, seen) in folders {
        let in_folder = format!("{CLAIMS}{hash}/");
        let Some(n) = seen.claims.last().filter(|n| !seen.done && !seen.failed.contains(n)) else { continue };
        let Some(body) = read_claim(store, &in_folder, *n)? else { continue };
        let left = |promise: &Promise| promise.time().saturating_sub(age(&body, now));
        // A claim of another event than its folder's says nothing.
        if let Some(promise) = body.promise.clone().filter(|_| folder(&body.identity) == in_folder) {
            let (name, left) = (ClaimName::of(&in_folder, *n), left(&promise));
            open.push(OpenPromise { name, run: body.run, identity: body.identity, host: body.host, promise, left });
        }
    }
    Ok(open)
}
