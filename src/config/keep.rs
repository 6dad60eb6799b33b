//! Settles `pin`, `unpin` and `prune`.

use jiff::Timestamp;
use lastgood::error::{Code, Error, Result};
use lastgood::retention::policy::Policy;
use lastgood::retention::span::Span;
use lastgood::store::address::Address;

use super::ConfiguredCommand;
use super::env::Env;
use super::switches::yes_or_no;
use crate::cli;

/// The variable of other backup scripts that says how many backups a folder keeps.
const MAX_LOCAL_BACKUPS: &str = "MAX_LOCAL_BACKUPS";

/// A policy, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredPolicy {
    /// The policy; an empty one if nothing says any.
    pub policy: Policy,
    /// What `MAX_LOCAL_BACKUPS` says, if the policy is from there.
    pub max_local_backups: Option<u32>,
}

/// When a pin ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinEnd {
    /// Never.
    Never,
    /// At a time.
    At(Timestamp),
    /// When this much time has passed.
    After(Span),
}

impl PinEnd {
    /// Settles the options of `pin`.
    pub fn new(until: Option<Timestamp>, length: Option<Span>) -> Self {
        match (until, length) {
            (Some(until), _) => PinEnd::At(until),
            (None, Some(length)) => PinEnd::After(length),
            (None, None) => PinEnd::Never,
        }
    }

    /// Returns the time, for a pin that is made `now`; `None` without end.
    ///
    /// # Errors
    /// Usage: it has passed.
    pub fn from(self, now: Timestamp) -> Result<Option<Timestamp>> {
        match self {
            PinEnd::Never => Ok(None),
            PinEnd::At(until) if until <= now => {
                Err(Error::usage(format!("pin until {until}"), "that has passed").with_code(Code::BadSetting))
            }
            PinEnd::At(until) => Ok(Some(until)),
            PinEnd::After(length) => Ok(Some(now.saturating_add(length.duration()).unwrap_or(Timestamp::MAX))),
        }
    }
}

/// Settles `prune`.
///
/// # Errors
/// Usage: it is no dry run; `MAX_LOCAL_BACKUPS` is not a number of snapshots.
pub fn prune(args: cli::PruneArgs, vaults: &[Address], env: &Env) -> Result<ConfiguredCommand> {
    if !args.dry_run {
        let why = "this version of lastgood deletes nothing yet";
        return Err(Error::usage("let snapshots go", why)
            .hint("`lastgood prune --dry-run` shows what a policy would keep and let go."));
    }
    let policy = match args.policy.keep {
        Some(policy) => ConfiguredPolicy { policy, max_local_backups: None },
        None => of_max_local_backups(vaults, env)?,
    };
    Ok(ConfiguredCommand::Prune(policy))
}

/// Returns the policy that `MAX_LOCAL_BACKUPS` stands for where the vault is a folder; `prune` works on the first vault.
fn of_max_local_backups(vaults: &[Address], env: &Env) -> Result<ConfiguredPolicy> {
    let none = ConfiguredPolicy { policy: Policy::default(), max_local_backups: None };
    let Some(value) = env.text(MAX_LOCAL_BACKUPS)? else { return Ok(none) };
    let is_folder = matches!(vaults.first(), Some(Address::Folder(_)));
    if !is_folder || yes_or_no(&value) == Ok(false) {
        return Ok(none);
    }
    let policy = Policy::of_max_local_backups(&value).map_err(|why| {
        Error::usage(format!("use {MAX_LOCAL_BACKUPS}={value}"), why.why).with_code(Code::BadSetting).hint(why.hint)
    })?;
    Ok(ConfiguredPolicy { max_local_backups: policy.last, policy })
}
