//! Several vaults that are replicas of one: where a backup goes and what the others get of it, and which of them a
//! restore takes.
//!
//! Replicas have the same `vault.json`, and a snapshot has the same name and bytes in each that holds it, so that any
//! of them serves when the others cannot. Each holds its own set of snapshots: a vault that was away lacks what was
//! taken meanwhile until it is copied there.

pub mod backup;
mod unheard;
pub mod restore;
pub mod verify;
pub mod copy;
pub mod recommit;
pub mod keep;
pub mod pin;
pub mod pool;

use crate::error::{Code, Error, Kind, Result};
use crate::monitor::Context;
use crate::store::Store;
use crate::vault::Vault;

/// One of the places that hold the vault, or are to hold it.
pub struct Site {
    /// Its address, as it is shown to people.
    pub url: String,
    /// Whether a vault may be made there without being asked for, if nothing lies there.
    pub may_make: bool,
    /// Whether what is there is lost with the Cloud Run instance that this process runs in.
    pub fleeting: bool,
    /// The result of looking there.
    pub found: SiteState,
}

/// The content of a place.
pub enum SiteState {
    /// A vault.
    Vault(Vault),
    /// No vault.
    Nothing(Box<dyn Store>),
    /// It could not be told, or what is there is damaged.
    Failed(Error),
}

impl Site {
    /// Looks at what is there.
    pub fn probe(url: String, may_make: bool, store: Result<Box<dyn Store>>) -> Self {
        let found = match store.and_then(Vault::find) {
            Ok(Ok(vault)) => SiteState::Vault(vault),
            Ok(Err(store)) => SiteState::Nothing(store),
            Err(why) => SiteState::Failed(why),
        };
        Site { url, may_make, fleeting: false, found }
    }

    /// Returns the vault, which must be there.
    ///
    /// # Errors
    /// There is none, or it could not be told.
    pub fn vault(self) -> Result<Vault> {
        match self.found {
            SiteState::Vault(vault) => Ok(vault),
            SiteState::Nothing(store) => Err(Vault::missing(&*store)),
            SiteState::Failed(why) => Err(why),
        }
    }

    /// The vault, if it is there and open.
    pub fn vault_if_open(&self) -> Option<&Vault> {
        match &self.found {
            SiteState::Vault(vault) => Some(vault),
            _ => None,
        }
    }
}

/// A place's address, and why its vault does not serve.
type SiteFailure = (String, Error);

/// Opens the first vault that can be opened. The places after it are not used.
///
/// # Errors
/// None can be opened; the error says why for each.
pub fn first(sites: impl IntoIterator<Item = Site>, ctx: &Context) -> Result<Vault> {
    let mut failures: Vec<SiteFailure> = Vec::new();
    for site in sites {
        let url = site.url.clone();
        match site.vault() {
            Ok(vault) => {
                failures.iter().for_each(|(url, why)| ctx.monitor.warn(&passed_over(url, why)));
                return Ok(vault);
            }
            Err(why) => failures.push((url, why)),
        }
    }
    Err(none_serves("open a vault", failures))
}

/// A place of [`init`], and whether the vault there is new.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct InitReport {
    /// The place's address.
    pub vault: String,
    /// Whether it was made now.
    pub made: bool,
}

/// Makes one vault: a new one in the first place and replicas of it in the others or, if some places have it, replicas
/// of it in those that have none. Returns the vault, and what was done in each place.
///
/// # Errors
/// All have one already; they have different ones; a place that cannot be asked whether it has one, or where something
/// else lies. No vault is made then.
pub fn init(sites: Vec<Site>, ctx: &Context) -> Result<(Vault, Vec<InitReport>)> {
    check_same(&sites)?;
    let (mut vault, mut empty, mut done) = (None, Vec::new(), Vec::new());
    for site in sites {
        done.push(InitReport { vault: site.url, made: matches!(site.found, SiteState::Nothing(_)) });
        match site.found {
            SiteState::Failed(why) => return Err(why),
            SiteState::Nothing(store) => {
                Vault::check_free(&*store)?;
                empty.push(store);
            }
            SiteState::Vault(open) => _ = vault.get_or_insert(open),
        }
    }
    let mut empty = empty.into_iter();
    let vault = match (vault, empty.len()) {
        (Some(vault), 0) => return Err(Vault::exists(&*vault.store)),
        (Some(vault), _) => vault,
        (None, _) => match empty.next() {
            Some(store) => Vault::init(store, ctx.random)?,
            None => return Err(Error::usage("make a vault", "no place is named")),
        },
    };
    for store in empty {
        vault.replicate(store)?;
    }
    Ok((vault, done))
}

/// Checks that all vaults that were found are replicas of one.
pub(crate) fn check_same(sites: &[Site]) -> Result<()> {
    let mut vaults = sites.iter().filter_map(Site::vault_if_open);
    match vaults.next() {
        Some(first) => vaults.try_for_each(|other| first.check_same(other)),
        None => Ok(()),
    }
}

fn passed_over(url: &str, why: &Error) -> String {
    format!("the vault {url} is passed over: {}", why.what_with_code())
}

/// The error that says why each of several vaults could not serve; if there is only one, its own error.
pub(crate) fn none_serves(doing: &str, mut failures: Vec<SiteFailure>) -> Error {
    if failures.len() == 1
        && let Some((_, why)) = failures.pop()
    {
        return why;
    }
    let reasons: Vec<_> = failures.iter().map(|(url, why)| format!("{url}: {}", why.what())).collect();
    let why = format!("none of the {} vaults can be used. {}", reasons.len(), reasons.join(". "));
    let is = |kind| failures.iter().any(|(_, why)| why.kind() == kind);
    let newer_format = failures.iter().any(|(_, why)| why.is_newer_format());
    let error = match () {
        // A vault that comes back may serve, and so may a newer lastgood; after that, what is wrong with the vaults matters
        // more than what was asked.
        () if is(Kind::Unreachable) => Error::unreachable(doing, why),
        () if newer_format => Error::failed(doing, why),
        () if is(Kind::Damage) => Error::damage(doing, why),
        () if !failures.is_empty() && failures.iter().all(|(_, why)| why.kind() == Kind::NothingYet) => {
            Error::nothing_yet(doing, why)
        }
        () if is(Kind::Failed) || is(Kind::NothingYet) || failures.is_empty() => Error::failed(doing, why),
        () => Error::usage(doing, why),
    };
    // Code and hint are of one failure, and of one that has the kind that was chosen: a hint for another vault's failure would
    // be followed in the wrong place. A code that says more than the kind is preferred.
    let of_kind = || failures.iter().filter(|(_, why)| why.kind() == error.kind());
    let of_newer_format = of_kind().find(|(_, why)| why.is_newer_format());
    let with_code = || of_kind().find(|(_, why)| why.code() != Code::from(why.kind()));
    let Some((url, chosen)) = of_newer_format.or_else(with_code).or_else(|| of_kind().next()) else {
        return error;
    };
    let error = error.with_code(chosen.code());
    match chosen.advice() {
        Some(advice) => error.hint(format!("{url}: {advice}")),
        None => error,
    }
}

#[cfg(test)]
mod tests;
