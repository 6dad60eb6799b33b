//! The configuration of the commands that are run before and after a backup or a restore.

use std::ffi::OsString;
use std::time::Duration;

use lastgood::error::{Code, Error, Result};
use lastgood::hooks::{Hook, Hooks};
use lastgood::mask::Masker;

use super::env::Env;
use crate::cli;

/// How long a hook may take.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The commands of hooks that options name.
#[derive(Debug, Default)]
pub struct HookArgs {
    /// Before and after a backup. `None` for a command that takes none.
    pub backup: Option<cli::BackupHookFlags>,
    /// Before and after a restore. `None` for a command that restores nothing.
    pub restore: Option<cli::RestoreHookFlags>,
    /// What is the same for all. `None` for a command without hooks.
    pub all: Option<cli::HookFlags>,
}

impl From<cli::AllHookFlags> for HookArgs {
    fn from(flags: cli::AllHookFlags) -> Self {
        HookArgs { backup: Some(flags.backup), restore: Some(flags.restore), all: Some(flags.all) }
    }
}

/// Settles the hooks of a command.
///
/// # Errors
/// Usage: the time is no length of time.
pub fn hooks(args: HookArgs, env: &Env) -> Result<Hooks> {
    let Some(all) = args.all else { return Ok(Hooks::default()) };
    let mut commands = Vec::new();
    let mut add = |hook: Hook, option: Option<OsString>, variable: &str| {
        // An empty option is no hook, whatever the variable says.
        let command = option.or_else(|| env.get(variable)).filter(|command| !command.is_empty());
        commands.extend(command.map(|command| (hook, command)));
    };
    if let Some(backup) = args.backup {
        add(Hook::BeforeBackup, backup.before_backup, "LASTGOOD_BEFORE_BACKUP");
        add(Hook::AfterBackup, backup.after_backup, "LASTGOOD_AFTER_BACKUP");
    }
    if let Some(restore) = args.restore {
        add(Hook::BeforeRestore, restore.before_restore, "LASTGOOD_BEFORE_RESTORE");
        add(Hook::AfterRestore, restore.after_restore, "LASTGOOD_AFTER_RESTORE");
    }
    add(Hook::OnFailure, all.on_failure, "LASTGOOD_ON_FAILURE");
    let time = match all.hook_timeout {
        Some(time) => time,
        None => env.duration("LASTGOOD_HOOK_TIMEOUT")?.unwrap_or(TIMEOUT),
    };
    let masker =
        Masker::new::<&str>(&[]).map_err(|why| Error::failed("mask secrets", why).with_code(Code::Internal))?;
    Ok(Hooks::new(commands, time, masker))
}

#[cfg(test)]
mod tests {
    use lastgood::error::Kind;

    use super::super::tests::config;

    #[test]
    fn options_count_before_variables_and_each_command_has_its_own() {
        let all = [
            ("LASTGOOD_BEFORE_BACKUP", "a"),
            ("LASTGOOD_AFTER_BACKUP", "b"),
            ("LASTGOOD_BEFORE_RESTORE", "c"),
            ("LASTGOOD_AFTER_RESTORE", "d"),
            ("LASTGOOD_ON_FAILURE", "e"),
        ];
        let hooks = |line: &str, env: &[(&str, &str)]| format!("{:?}", config(line, env).unwrap().hooks);
        assert_eq!(hooks("backup", &[]), "[]");
        assert_eq!(hooks("backup", &all), r#"["before-backup", "after-backup", "on-failure"]"#);
        assert_eq!(hooks("restore", &all), r#"["before-restore", "after-restore", "on-failure"]"#);
        assert_eq!(hooks("list", &all), "[]");
        assert_eq!(hooks("backup --before-backup=", &all), r#"["after-backup", "on-failure"]"#);
        assert_eq!(hooks("backup --on-failure x --hook-timeout 5s", &[]), r#"["on-failure"]"#);
        let why = config("backup", &[("LASTGOOD_HOOK_TIMEOUT", "soon")]).unwrap_err();
        assert_eq!(why.kind(), Kind::Usage);
    }
}
