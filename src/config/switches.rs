//! Variables that switch and tune other backup scripts. A warning names those that are not used, so that nobody relies on them.

use lastgood::error::Result;

use super::env::Env;
use crate::cli::Command;

/// The message that backups are switched off.
pub const OFF: &str = "backups are switched off: BACKUP_ENABLED is false";

/// Whether the environment switches backups off.
///
/// # Errors
/// Usage: the value means neither yes nor no.
pub fn backups_off(env: &Env) -> Result<bool> {
    env.parsed("BACKUP_ENABLED", yes_or_no).map(|enabled| enabled == Some(false))
}

/// Reads a truth value.
///
/// # Errors
/// It is none.
pub fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("it must be true or false (also yes or no, on or off, 1 or 0)".into()),
    }
}

/// Returns messages about variables that are set, and that a command would use if it could.
pub fn unused(command: &Command, env: &Env) -> Vec<String> {
    let (is_run, takes_interval) = match command {
        Command::Run(_) => (true, true),
        Command::Serve(_) => (false, true),
        Command::Backup(_) | Command::Restore(_) | Command::Listen(_) | Command::Dispatched(_) => (false, false),
        _ => return Vec::new(),
    };
    let interval = "a scheduler says when backups are taken; `run` takes it for how often it takes one, and `serve` and `doctor` for how \
                    often they expect one";
    let restores = match is_run {
        true => "`run` restores wherever the data is missing or older, and `BACKUP_ENABLED=false` runs the app alone",
        false => "`lastgood run`, or `lastgood restore --if-missing` before the app starts, does that",
    };
    let value = |name: &str| env.get(name).map(|value| yes_or_no(&value.to_string_lossy()));
    let says_yes = |name: &str| value(name).is_some_and(|value| value != Ok(false));
    // `run` does what yes asks for.
    let restore_is_unused = match is_run {
        true => value("AUTO_RESTORE_ON_STARTUP").is_some_and(|value| value != Ok(true)),
        false => says_yes("AUTO_RESTORE_ON_STARTUP"),
    };
    let known = [
        ("AUTO_RESTORE_ON_STARTUP", restores, restore_is_unused),
        ("BACKUP_INTERVAL_MINUTES", interval, !takes_interval && says_yes("BACKUP_INTERVAL_MINUTES")),
        ("MAX_LOCAL_BACKUPS", "nothing is deleted from a vault", says_yes("MAX_LOCAL_BACKUPS")),
    ];
    let unused = known.into_iter().filter(|(_, _, is_unused)| *is_unused);
    unused.map(|(name, why, _)| format!("{name} is set, and is not used by this command: {why}")).collect()
}
