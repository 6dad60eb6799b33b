//! The configuration of a backup, whoever asks for it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lastgood::backup;
use lastgood::error::{Code, Error, Result};
use lastgood::fs::answer;
use lastgood::fs::location::lies_in;
use lastgood::source::select::Select;
use lastgood::store::address::{Address, argument, of_folder};
use lastgood::vault::CONFIG;
use lastgood::vault::entry::CheckKind;
use lastgood::vault::root::BackupReason;

use super::env::Env;
use super::{HostEnvironment, folders};
use crate::cli;

pub(super) fn reason(reason: cli::ReasonFlag) -> BackupReason {
    match reason {
        cli::ReasonFlag::Manual => BackupReason::Manual,
        cli::ReasonFlag::Schedule => BackupReason::Schedule,
        cli::ReasonFlag::Critical => BackupReason::Critical,
        cli::ReasonFlag::Shutdown => BackupReason::Shutdown,
    }
}

pub(super) fn labels(given: Vec<(String, String)>) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        if labels.contains_key(&key) {
            return Err(Error::usage(
                format!("label the snapshot with {key}={value}"),
                format!("{key} is given twice"),
            )
            .with_code(Code::BadSetting));
        }
        labels.insert(key, value);
    }
    Ok(labels)
}

pub(super) fn backup_options(
    data: PathBuf,
    vaults: &[Address],
    args: cli::BackupFlags,
    reason: BackupReason,
    outside: &HostEnvironment,
) -> Result<backup::options::BackupOptions> {
    // They are read at each backup: a wrong one is to be an error at once, and not while the app runs.
    Select::new(&data, &args.include, &args.exclude, &[], !args.no_sqlite)?;
    let service = match args.service {
        Some(service) => Some(service),
        None => Env::new(outside.env).text("LASTGOOD_SERVICE")?,
    };
    let (at, folders) = ((outside.resolve)(&data), folders(vaults, outside));
    if let Some((vault, _)) = folders.iter().find(|(_, vault_at)| lies_in(&at, vault_at)) {
        let why = format!("it is the vault {} or lies in it", vault.display());
        return Err(Error::usage(format!("back up {}", data.display()), why)
            .with_code(Code::BadSetting)
            .hint("Keep the vault beside the data directory: `--vault URL`."));
    }
    if !args.init {
        folders.iter().try_for_each(|(vault, vault_at)| check_default(vault, vault_at, &at))?;
    }
    Ok(backup::options::BackupOptions {
        data,
        reason,
        sqlite: !args.no_sqlite,
        check: match args.check_databases {
            Some(cli::CheckDatabases::Quick) => Some(CheckKind::Quick),
            Some(cli::CheckDatabases::Full) => Some(CheckKind::Full),
            Some(cli::CheckDatabases::Off) => None,
            None if reason == BackupReason::Critical && !args.no_sqlite => Some(CheckKind::Quick),
            None => None,
        },
        busy_timeout: args.busy_timeout,
        include: args.include,
        exclude: args.exclude,
        one_file_system: args.one_file_system,
        verify_content: args.verify_content,
        accept_shrink: args.accept_shrink,
        accept_missing: args.accept_missing,
        take_over: args.take_over,
        service: service.filter(|service| !service.is_empty()),
        level: args.level,
        checkpoint_every: args.checkpoint_every,
        host: outside.host.clone(),
        boot: outside.boot.clone(),
        trust: lastgood::source::stable::Trust {
            writeback: writeback(outside),
            ..lastgood::source::stable::Trust::default()
        },
        not_walked: folders.into_iter().map(|(_, vault_at)| vault_at).collect(),
        ..backup::options::BackupOptions::default()
    })
}

/// Checks that the default vault exists already if it is in the data directory: whatever destroys that directory would destroy
/// both, and nobody has asked for it.
///
/// # Errors
/// Usage: the vault would be made inside the data that it is to hold.
fn check_default(vault: &Path, vault_at: &Path, data_at: &Path) -> Result<()> {
    let is_gone =
        |at: &Path| matches!(at.join(CONFIG).symlink_metadata(), Err(why) if why.kind() == ErrorKind::NotFound);
    let made = || !answer::about(vault_at, is_gone).unwrap_or_default();
    if !Address::Folder(vault.to_owned()).is_default() || !lies_in(vault_at, data_at) || made() {
        return Ok(());
    }
    let why = format!("it is in the data directory {}, and would be lost with it", data_at.display());
    let beside = data_at.parent().map_or("URL".into(), |above| argument(&of_folder(&above.join("backups"))));
    Err(Error::usage(format!("make a vault in {}", vault.display()), why)
        .hint(format!("Name another place: `--vault {beside} --init`. `--init` alone makes it there all the same.")))
}

/// Returns how long the kernel leaves a dirty page in memory, in ns. It is at least the kernel's default, since the threads that
/// write pages out may have much to do.
fn writeback(outside: &HostEnvironment) -> i64 {
    const HUNDREDTH: i64 = 10_000_000;
    // With a writeback interval of 0, pages are written out only when memory runs short.
    const NEVER: i64 = 86_400 * 100 * HUNDREDTH;
    let said = |name: &str| (outside.kernel)(&format!("vm/dirty_{name}_centisecs"))?.trim().parse::<i64>().ok();
    match (said("expire"), said("writeback")) {
        (_, Some(0)) => NEVER,
        (Some(expire), Some(every)) => {
            expire.saturating_add(every).saturating_mul(HUNDREDTH).clamp(lastgood::source::stable::WRITEBACK, NEVER)
        }
        _ => lastgood::source::stable::WRITEBACK,
    }
}
