//! Arguments of the commands that are run before and after a backup or a restore.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use super::duration;

/// Commands before and after a backup.
#[derive(Debug, Default, Args)]
pub struct BackupHookFlags {
    /// Run this command by `sh -c` before a backup; if it fails, no backup is taken [env: LASTGOOD_BEFORE_BACKUP]
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub before_backup: Option<OsString>,
    /// Run this command after a backup, also one that failed; if it fails, that is a warning [env: LASTGOOD_AFTER_BACKUP]
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub after_backup: Option<OsString>,
}

/// Commands before and after a restore.
#[derive(Debug, Default, Args)]
pub struct RestoreHookFlags {
    /// Run this command by `sh -c` before a restore; if it fails, nothing is restored [env: LASTGOOD_BEFORE_RESTORE]
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub before_restore: Option<OsString>,
    /// Run this command after a restore, also one that failed; if it fails, that is a warning [env: LASTGOOD_AFTER_RESTORE]
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub after_restore: Option<OsString>,
}

/// What is the same for all runs.
#[derive(Debug, Default, Args)]
pub struct HookFlags {
    /// Run this command when a run has failed; LASTGOOD_ERROR says why [env: LASTGOOD_ON_FAILURE]
    #[arg(long, value_name = "COMMAND", help_heading = "Hooks")]
    pub on_failure: Option<OsString>,
    /// How long one of these commands may take; then it is ended, and has failed
    /// [env: LASTGOOD_HOOK_TIMEOUT] [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Hooks")]
    pub hook_timeout: Option<Duration>,
}

/// All of them, of commands that take backups and restore.
#[derive(Debug, Default, Args)]
pub struct AllHookFlags {
    #[command(flatten)]
    pub backup: BackupHookFlags,
    #[command(flatten)]
    pub restore: RestoreHookFlags,
    #[command(flatten)]
    pub all: HookFlags,
}
