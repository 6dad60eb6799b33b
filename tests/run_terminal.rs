//! `lastgood run` on a terminal, whose Ctrl-C goes to the app as well.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::counter::{Counters, WITHIN, until};
use crate::support::http::Service;

/// Runs its arguments on a terminal of their own, with this process's stderr, and ends with their code. Types Ctrl-C there once there is
/// a file `ctrl-c`.
const TERMINAL: &str = r#"
import os, pty, select, sys
err = os.dup(2)
pid, terminal = pty.fork()
if pid == 0:
    os.dup2(err, 2)
    os.execvp(sys.argv[1], sys.argv[1:])
typed = False
while True:
    if not typed and os.path.exists("ctrl-c"):
        os.write(terminal, b"\x03")
        typed = True
    if select.select([terminal], [], [], 0.05)[0]:
        try:
            if not os.read(terminal, 4096):
                break
        except OSError:
            break
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

fn on_terminal(command: &Command) -> Command {
    let mut terminal = Command::new("python3");
    terminal.args(["-I", "-S", "-c", TERMINAL]).arg(command.get_program()).args(command.get_args());
    terminal.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    terminal
}

#[test]
fn ctrl_c_while_the_app_is_stopped_for_a_restore_does_not_start_it_again() {
    let counters = Counters::new();
    // The second snapshot of the restore, which is taken when the app is stopped.
    let hold = "test ! -e armed || { test ! -e once || { rm armed; touch held; sleep 60; }; touch once; }";
    let options = ["run", "--init", "--listen", "127.0.0.1:0", "--every", "off", "--allow-restore", "--before-backup"];
    let app = ["--", "python3", "-I", "-S", "counter.py", "a", "5"];
    let mut command = counters.world.command([&options[..], &[hold], &app].concat());
    command.env("LASTGOOD_DATA", counters.world.data());
    let mut run = Service::of(on_terminal(&command));
    counters.begun("a", 1, &run);
    counters.counted_beyond("data", 3, &run);
    let old = run.post("/backup/trigger", "").is(200)["snapshot"].clone();
    counters.counted_beyond("data", counters.saved_in(old.as_str().unwrap()) + 5, &run);
    fs::write(counters.world.path("armed"), "").unwrap();
    run.post("/backup/restore", &json!({ "snapshot": old }).to_string()).is(202);
    until("hook", WITHIN, || run.log(), || counters.world.path("held").exists().then_some(()));
    fs::write(counters.world.path("ctrl-c"), "").unwrap();
    assert_eq!(run.wait().0, Some(5), "{}", run.log());
    assert_eq!((counters.starts("a"), counters.saved()), (1, counters.stopped("a")), "{}", run.log());
    assert!(counters.aside().is_empty(), "{:?}", counters.aside());
}
