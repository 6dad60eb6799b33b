//! A log or a report that cannot be written: the disk is full, its reader is gone or does not read. Runs go on, and end with
//! the exit code that they came to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{LASTGOOD, World};

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// Creates a pipe whose reader is gone.
fn closed() -> Stdio {
    io::pipe().unwrap().1.into()
}

/// Creates a full pipe whose reader does not read.
fn stuck() -> (io::PipeReader, Stdio) {
    let (reader, mut writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer.into())
}

/// Waits for the end of a program that must not hang.
#[track_caller]
fn ends(mut child: Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn code(mut command: Command, stdout: Stdio, stderr: Stdio) -> Option<i32> {
    ends(command.stdout(stdout).stderr(stderr).spawn().unwrap()).code()
}

#[test]
fn a_log_that_cannot_be_written_changes_nothing() {
    let world = World::with_files();
    // Each run warns of it.
    let _socket = UnixListener::bind(world.data().join("socket")).unwrap();
    for format in ["text", "json"] {
        let (_reader, stuck) = stuck();
        for (what, stderr) in [("full", full()), ("closed", closed()), ("stuck", stuck)] {
            let vault = format!("vault-{format}-{what}");
            let run = |args: &[&str], stderr: Stdio| {
                let common = ["--vault", &vault, "--log-format", format, "-vv"];
                code(world.command(args.iter().chain(&common)), Stdio::null(), stderr)
            };
            assert_eq!(run(&["backup", "--init"], stderr), Some(0), "{vault}");
            let other = || if what == "full" { full() } else { closed() };
            assert_eq!(run(&["backup", "nothing-there"], other()), Some(1), "{vault}");
            assert_eq!(run(&["backup", "--no-such-option"], other()), Some(2), "{vault}");
            assert_eq!(run(&["restore", &format!("back-{vault}")], other()), Some(0), "{vault}");
            let back = world.path(format!("back-{vault}"));
            assert_eq!(std::fs::read(back.join("a.txt")).unwrap(), b"first\n");
        }
    }
}

#[test]
fn a_signal_is_heard_while_the_log_is_stuck() {
    let world = World::with_files();
    world.backup();
    let (_reader, stderr) = stuck();
    let mut command = world.command(["serve", "--listen", "127.0.0.1:0", "-vv"]);
    let child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let handled = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (Signal::TERM.as_raw() - 1) != 0
    };
    while !handled() {
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(ends(child).success());
}

#[test]
fn what_is_done_is_done_though_its_report_cannot_be_written() {
    let world = World::with_files();
    for args in
        [&["backup"][..], &["backup", "--json"], &["restore", "back"], &["verify"], &["export", "latest", "-o", "x"]]
    {
        let mut command = world.command(args);
        let done = command.stdout(full()).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let log = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success() && log.contains("write the report to stdout"), "{args:?}: {log}");
        std::fs::remove_file(world.path("x")).ok();
        std::fs::remove_dir_all(world.path("back")).ok();
        assert_eq!(code(world.command(args), closed(), Stdio::null()), Some(0), "{args:?}");
        std::fs::remove_dir_all(world.path("back")).ok();
    }
    assert_eq!(world.json(["list"], 0).as_array().unwrap().len(), 4);
    // These commands exist only for their output.
    for args in [&["list"][..], &["ls", "latest"], &["cat", "latest", "a.txt"], &["runs"], &["doctor"], &["--help"]] {
        assert_eq!(code(world.command(args), full(), Stdio::null()), Some(1), "{args:?}");
    }
}

#[test]
fn a_limit_of_the_size_of_files_is_an_error_and_no_end() {
    let world = World::with_files();
    let log = || Stdio::from(File::create(world.path("log")).unwrap());
    for (args, expected) in [(["list", "--vault", "none"], 1), (["backup", "--init", "--vault=v"], 1)] {
        let mut shell = Command::new("sh");
        shell.current_dir(world.path("")).args(["-c", "ulimit -f 0; exec \"$@\"", "sh", LASTGOOD]).args(args);
        assert_eq!(code(shell, Stdio::null(), log()), Some(expected), "{args:?}");
    }
}
