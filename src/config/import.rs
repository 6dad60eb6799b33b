//! Settles the configuration of `import`.

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use lastgood::backup::packer::DEFAULT_LEVEL;
use lastgood::error::{Code, Error, Result};
use lastgood::import::{ImportOptions, ImportTime};
use lastgood::store::address::Address;
use lastgood::vault::root::BackupReason;

use super::backup::backup_options;
use super::{HostEnvironment, entry_path};
use crate::cli;

/// Settles it for archives of the directory `data`.
///
/// # Errors
/// Wrong usage: one time for several archives, a data directory in the vault.
pub fn import(
    args: cli::ImportArgs,
    data: PathBuf,
    vaults: &[Address],
    outside: &HostEnvironment,
) -> Result<ImportOptions> {
    let at = args.at.filter(|at| !at.is_empty());
    if at.is_some() && args.archives.len() > 1 {
        let why = "--at names one time, and there are several archives";
        return Err(Error::usage("import archives", why)
            .with_code(Code::BadSetting)
            .hint("Import them one by one, or by the dates in their names: `--time-from-name`."));
    }
    let time = match at {
        Some(at) => ImportTime::At(time(&at)?),
        None if args.time_from_name => ImportTime::Name,
        None => ImportTime::File,
    };
    let taking = cli::BackupFlags {
        init: args.init,
        include: Vec::new(),
        exclude: Vec::new(),
        one_file_system: false,
        verify_content: false,
        accept_shrink: true,
        accept_missing: true,
        take_over: false,
        service: args.service,
        no_sqlite: false,
        check_databases: Some(cli::CheckDatabases::Quick),
        busy_timeout: std::time::Duration::from_secs(10),
        level: DEFAULT_LEVEL,
        checkpoint_every: std::time::Duration::MAX,
    };
    let folder = args.folder.as_deref().map(entry_path).transpose()?;
    Ok(ImportOptions {
        archives: args.archives,
        time,
        folder,
        scratch: args.scratch.unwrap_or_else(std::env::temp_dir),
        backup: backup_options(data, vaults, taking, BackupReason::Manual, outside)?,
        init: args.init,
    })
}

/// Reads a time, or a day, which begins at midnight.
fn time(text: &str) -> Result<Timestamp> {
    let of_day = |day: Date| day.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    let time = text.parse().ok().or_else(|| text.parse().ok().and_then(of_day));
    time.ok_or_else(|| {
        Error::usage("import an archive", format!("--at is {text:?}, which is no time"))
            .with_code(Code::BadSetting)
            .hint("Give a time such as 2025-01-15T14:30:00Z, or a day such as 2025-01-15.")
    })
}
