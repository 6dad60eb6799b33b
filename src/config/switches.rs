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

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("it is neither true nor false".into()),
    }
}

/// Returns messages about variables that are set, and that a command would use if it could.
pub fn unused(command: &Command, env: &Env) -> Vec<String> {
    let serves = match command {
        Command::Serve(_) => true,
        Command::Backup(_) | Command::Restore(_) | Command::Listen(_) | Command::Dispatched(_) => false,
        _ => return Vec::new(),
    };
    let interval =
        "a scheduler says when backups are taken; `serve` and `doctor` take it for how often they expect one";
    let restores = "`lastgood restore --if-missing` before the app starts does that";
    let known = [
        ("AUTO_RESTORE_ON_STARTUP", restores, true),
        ("BACKUP_INTERVAL_MINUTES", interval, !serves),
        ("MAX_LOCAL_BACKUPS", "nothing is deleted from a vault", true),
    ];
    let says = |name: &str| env.get(name).is_some_and(|value| yes_or_no(&value.to_string_lossy()) != Ok(false));
    let set = known.into_iter().filter(|(name, _, unused)| *unused && says(name));
    set.map(|(name, why, _)| format!("{name} is set, and is not used by this command: {why}")).collect()
}
