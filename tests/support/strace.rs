//! Kills a program at a system call.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::skipped::skipped;

/// How long each call is held up before it is made, in microseconds: time enough to read of it, and to kill who makes it.
const HELD: u32 = 60_000;

/// Runs a command, and kills the process that makes the `n`th call of this name, which is not made. All of the command's threads and
/// children count together: strace itself counts for each thread. Whether the command came to its end. `None`, after printing why, if
/// there is no strace.
pub fn killed_at(program: &Command, call: &str, n: usize) -> Option<bool> {
    let calls = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-e", &format!("trace={call}"), "-o"]).arg(calls.path());
    strace.args(["-e", &format!("inject={call}:delay_enter={HELD}")]).arg(program.get_program());
    strace.args(program.get_args()).current_dir(program.get_current_dir().unwrap());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let no_strace = |why: &str| skipped("strace", &format!("strace does not run: {why}"));
    let said = tempfile::NamedTempFile::new().unwrap();
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.reopen().unwrap());
    let mut running = match strace.spawn() {
        Ok(running) => running,
        Err(why) => {
            no_strace(&why.to_string());
            return None;
        }
    };
    let mut is_killed = false;
    let status = loop {
        let ended = running.try_wait().unwrap();
        let made = fs::read_to_string(calls.path()).unwrap();
        if !is_killed && let Some(who) = maker(&made, call, n) {
            // It may have ended, where this comes late.
            let _ = kill_process(who, Signal::KILL);
            is_killed = true;
        }
        if let Some(status) = ended {
            break status;
        }
        sleep(Duration::from_millis(1));
    };
    let said = String::from_utf8_lossy(&fs::read(said.path()).unwrap()).into_owned();
    if status.code() == Some(1) && said.contains("ptrace") {
        no_strace(&said);
        return None;
    }
    Some(status.success())
}

/// Returns the thread that made the `n`th call. A line is `THREAD NAME(ARGUMENTS…`, and is written when the call begins.
fn maker(made: &str, call: &str, n: usize) -> Option<Pid> {
    let mut begun = made.lines().filter_map(|line| {
        let (thread, rest) = line.split_once(' ')?;
        rest.trim_start().strip_prefix(call)?.starts_with('(').then_some(thread)
    });
    Pid::from_raw(begun.nth(n - 1)?.parse().unwrap())
}
