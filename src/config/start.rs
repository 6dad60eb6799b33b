//! The configuration of what is done with a data directory before an app starts in it.

use std::path::PathBuf;
use std::time::Duration;

use lastgood::error::{Code, Error, Result};
use lastgood::start::databases::DatabaseChecks;
use lastgood::start::decide::{OnOther, OnUnreachable, StartRules};
use lastgood::start::facts::StartOptions;
use lastgood::store::address::Address;
use lastgood::vault::entry::CheckKind;

use super::{HostEnvironment, folders};
use crate::cli;

/// How long a database may stay locked before it is left unchecked. No app should use it yet.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is decided, and by which rules.
#[derive(Debug, Clone)]
pub struct StartConfig {
    /// What the facts are gathered of.
    pub options: StartOptions,
    /// What somebody asked for.
    pub rules: StartRules,
}

/// Returns the options and the rules.
///
/// # Errors
/// Usage: the name of a snapshot is empty, as that of a variable that is not set is.
pub fn start(
    data: PathBuf,
    vaults: &[Address],
    flags: cli::StartFlags,
    outside: &HostEnvironment,
) -> Result<StartConfig> {
    if flags.snapshot.as_ref().is_some_and(|name| name.trim().is_empty()) {
        return Err(Error::usage("use --snapshot", "the name that was given for it is empty")
            .with_code(Code::BadSetting)
            .hint("Is a variable unset? Without --snapshot the newest good one is restored where that is needed."));
    }
    let other = |how| match how {
        cli::OnOther::Restore => OnOther::Restore,
        cli::OnOther::Keep => OnOther::Keep,
        cli::OnOther::Fail => OnOther::Fail,
    };
    let kind = flags.check_at_start.map(|how| match how {
        cli::CheckAtStart::Quick => CheckKind::Quick,
        cli::CheckAtStart::Full => CheckKind::Full,
    });
    let options = StartOptions {
        data,
        from: vaults.first().map(Address::absolute).unwrap_or_default(),
        not_walked: folders(vaults, outside).into_iter().map(|(_, vault_at)| vault_at).collect(),
        sqlite: true,
        check: kind.map(|kind| DatabaseChecks { kind, patience: PATIENCE }),
        boot: outside.boot.clone(),
    };
    let rules = StartRules {
        on_diverged: other(flags.on_diverged),
        on_unknown: other(flags.on_unknown),
        on_unreachable: flags.on_unreachable.map(|how| match how {
            cli::OnUnreachable::Fail => OnUnreachable::Fail,
            cli::OnUnreachable::Start => OnUnreachable::Start,
        }),
        require_mount: flags.require_mount,
        snapshot: flags.snapshot,
    };
    Ok(StartConfig { options, rules })
}
