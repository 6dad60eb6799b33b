//! Kills a program at a system call.

use std::process::Command;

use super::skipped::skipped;

/// Runs a command, and kills it at the `n`th call of this name that one of its threads makes. Whether it came to its end. `None`, after
/// printing why, if there is no strace.
pub fn killed_at(program: &Command, call: &str, n: usize) -> Option<bool> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=KILL:when={n}")]).arg(program.get_program());
    strace.args(program.get_args()).current_dir(program.get_current_dir().unwrap());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    match strace.output() {
        Ok(ran) if ran.status.code() != Some(1) || !String::from_utf8_lossy(&ran.stderr).contains("ptrace") => {
            Some(ran.status.success())
        }
        refused => {
            skipped("strace", &format!("strace does not run: {refused:?}"));
            None
        }
    }
}
