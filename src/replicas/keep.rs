//! Pins a snapshot in several vaults until a time or for good, and takes its pins back.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Site, pin::PINNED};
use crate::error::{Code, Error, Result};
use crate::monitor::Context;
use crate::retention::gather::{self, Pins};
use crate::vault::Vault;
use crate::vault::holds::{self, HOLDS, Hold, MOST_TAKEN_BACK, UNPINS, Unpin};
use crate::vault::pins::{self, PINS, Pin};
use crate::vault::root::SnapshotName;

/// The most by which the store's clock may differ from this machine's.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);

/// What became of a snapshot's pins in one vault.
#[derive(Debug, Serialize)]
pub struct VaultPins {
    /// The vault.
    pub vault: String,
    /// Whether the snapshot is pinned there now; `None` if that is not known.
    pub pinned: Option<bool>,
    /// Until when; `None` without end, and where it is not pinned.
    pub until: Option<Timestamp>,
    /// The objects that were created.
    pub created: Vec<String>,
    /// Why it could not be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A hint at what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// That error itself.
    #[serde(skip)]
    pub failure: Option<Error>,
}

/// Pins a snapshot in each vault until a time, or without end.
pub fn pin(sites: Vec<Site>, name: SnapshotName, until: Option<Timestamp>, why: &str, ctx: &Context) -> Vec<VaultPins> {
    each(sites, |vault| {
        let before = gather::pins(vault, Some(name), ctx)?;
        let (is_pinned, end) = end(&before, name);
        if is_pinned && (end.is_none() || until.is_some() && end >= until) {
            return Ok((true, end, Vec::new()));
        }
        let longest = vault.store.now().map_err(|why| why.while_doing("ask for the store's time"))?;
        let longest = longest.saturating_add(PINNED).unwrap_or(Timestamp::MAX);
        // This machine's clock may be ahead of the store's: 90 days by the one are 90 days by the other.
        let nearly = longest.saturating_add(CLOCKS_DIFFER).unwrap_or(Timestamp::MAX);
        let until = until.map(|until| if until <= nearly { until.min(longest) } else { until });
        let created = match until {
            Some(until) if until <= longest => pins::store(vault, &Pin::new(name, until, why, None), ctx.random)
                .map_err(|why| denied(why, PINS, "as the identity that takes backups, as the keeper or as a person"))?,
            _ => holds::store(vault, &Hold::new(name, until, why), ctx.random).map_err(|why| {
                denied(why, HOLDS, "as the keeper or as a person, or pin it for 90 days or less (`--for 90d`)")
            })?,
        };
        Ok((true, until, vec![created]))
    })
}

/// Takes back all pins and holds of a snapshot, in each vault.
pub fn unpin(sites: Vec<Site>, name: SnapshotName, why: &str, ctx: &Context) -> Vec<VaultPins> {
    each(sites, |vault| {
        let mut before = gather::pins(vault, Some(name), ctx)?;
        let standing = before.standing.remove(&name).unwrap_or_default();
        let objects: Vec<_> = standing.into_iter().map(|standing| standing.object).collect();
        let mut created = Vec::new();
        for part in objects.chunks(MOST_TAKEN_BACK) {
            let stored = holds::store(vault, &Unpin::new(name, part, why), ctx.random);
            created.push(stored.map_err(|why| denied(why, UNPINS, "as the keeper or as a person"))?);
        }
        Ok((false, None, created))
    })
}

/// Whether a snapshot is pinned, and until when; `None` is without end.
fn end(pins: &Pins, name: SnapshotName) -> (bool, Option<Timestamp>) {
    let ends = pins.standing.get(&name).into_iter().flatten().map(|standing| standing.pin.ends());
    match ends.max_by_key(|end| end.unwrap_or(Timestamp::MAX)) {
        Some(end) => (true, end),
        None => (false, None),
    }
}

fn denied(why: Error, folder: &str, who: &str) -> Error {
    match why.code() {
        Code::PermissionDenied | Code::AccessDenied => {
            why.hint(format!("Objects below {folder} are not for everybody who writes here. Run it {who}."))
        }
        _ => why,
    }
}

/// What is known of a snapshot in a vault afterwards: whether it is pinned, until when, and what was created.
type Done = (bool, Option<Timestamp>, Vec<String>);

fn each(sites: Vec<Site>, work: impl Fn(&Vault) -> Result<Done>) -> Vec<VaultPins> {
    let one = |site: Site| {
        let vault = site.url.clone();
        match site.vault().and_then(|vault| work(&vault)) {
            Ok((pinned, until, created)) => {
                VaultPins { vault, pinned: Some(pinned), until, created, error: None, hint: None, failure: None }
            }
            Err(why) => {
                let hint = why.advice().map(str::to_owned);
                VaultPins {
                    vault,
                    pinned: None,
                    until: None,
                    created: Vec::new(),
                    error: Some(why.what()),
                    hint,
                    failure: Some(why),
                }
            }
        }
    };
    sites.into_iter().map(one).collect()
}
