//! What is said on stderr: one line for one failure, with the time where no terminal shows it; and what a signal leaves.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::World;
use crate::support::cloud::server::{Fault, When};
use crate::support::cloud::vault_in;
use crate::support::http::Service;
use crate::support::process::Running;
use crate::support::requirements::free_port;

/// A line of the log without its time, which it must have.
#[track_caller]
fn untimed(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no time: {line}"));
    assert!(time.len() == 24 && time.parse::<jiff::Timestamp>().is_ok(), "no time: {line}");
    rest
}

#[test]
fn a_failure_is_told_once_and_in_one_line() {
    let world = World::with_files();
    let world = world.on(&format!("http://127.0.0.1:{}", free_port()), "gs://some-bucket/app");
    for command in ["backup", "restore", "verify", "list"] {
        let ran = world.run([command, "--store-timeout", "1s"]);
        let lines: Vec<_> = ran.ended(1).stderr.lines().collect();
        let [line] = lines[..] else { panic!("{ran:?}") };
        let line = untimed(line);
        assert!(line.starts_with("lastgood: could not ") && line.ends_with(" [unreachable]"), "{line}");
        assert_eq!(line.matches("Connection refused").count(), 1, "{line}");
        assert!(!line.contains("error sending request") && !line.contains("client error"), "{line}");
    }
    // So it is where there are several vaults: the one error names all.
    let ran = world.run([
        "backup",
        "--store-timeout",
        "1s",
        "--vault",
        "gs://some-bucket/a",
        "--vault",
        "gs://some-bucket/b",
    ]);
    let lines: Vec<_> = ran.ended(1).stderr.lines().collect();
    let [line] = lines[..] else { panic!("{ran:?}") };
    assert!(line.contains("gs://some-bucket/a: ") && line.contains("gs://some-bucket/b: "), "{line}");
    // Who wants to see each attempt does.
    world.run(["backup", "--store-timeout", "1s", "-v"]).ended(1).says(" INFO could not read").says("trying again");
}

#[test]
fn a_wait_that_is_long_is_told_once() {
    let (server, world) = vault_in(World::with_files());
    // The second failure comes after 11 s, and the third one right after it.
    let read = When::read("vault.json");
    server.script(read, Fault::retry_after(503, 11));
    server.script(When::read("vault.json").times(2), Fault::status(503));
    let ran = world.run(["list"]);
    let [line] = ran.ended(0).stderr.lines().collect::<Vec<_>>()[..] else { panic!("{ran:?}") };
    let line = untimed(line).trim_start();
    assert!(line.starts_with("WARN could not read vault.json of gs://") && line.contains(" for 11 s: "), "{line}");
    assert!(line.contains("; trying again for up to "), "{line}");
    // What passes soon is told with `-v` only.
    server.script(When::read("vault.json"), Fault::status(503));
    assert_eq!(world.run(["list"]).ended(0).stderr, "");
}

#[test]
fn a_vault_that_is_not_there_is_told_once() {
    let world = World::with_files();
    for args in [&["backup", "--vault", "elsewhere"][..], &["restore"], &["verify"]] {
        let ran = world.run(args);
        let told = ran.ended(1).stderr.lines().filter(|line| line.contains("there is no vault")).count();
        assert!(told == 1 && !ran.stderr.contains("WARN"), "{ran:?}");
    }
}

#[test]
fn lines_of_the_log_have_the_time() {
    let world = World::with_files();
    world.run(["backup"]).ended(0);
    world.run(["backup"]).ended(0);
    let ran = world.run(["list", "--limit", "1"]);
    let line = untimed(ran.ended(0).stderr.lines().next().unwrap());
    assert_eq!(line.trim_start(), "WARN 1 older snapshot is not listed: --limit 2 lists all");
    let ran = world.run(["ls", "latest", "nowhere"]);
    assert!(untimed(ran.ended(2).stderr.lines().next().unwrap()).starts_with("lastgood: could not "), "{ran:?}");
    // JSON has it as a field of its own.
    let ran = world.run(["list", "--limit", "1", "--log-format", "json"]);
    let line: serde_json::Value = serde_json::from_str(ran.ended(0).stderr.lines().next().unwrap()).unwrap();
    assert!(line["time"].is_string(), "{line}");
}

/// The command, started by a program that changes what is done at signals and goes over to it.
fn through(program: &[&str], command: &Command) -> Command {
    let mut through = Command::new(program[0]);
    through.args(&program[1..]).arg(command.get_program()).args(command.get_args());
    through.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        through.env(name, value.unwrap_or_default());
    }
    through
}

#[test]
fn a_hangup_ends_a_service_as_other_signals_do() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        let serve = world.command(["serve", "--listen", "127.0.0.1:0", "--auth", "none"]);
        // The tests themselves may have been started by something that ignores it.
        let mut service = Service::of(through(&["env", "--default-signal=HUP"], &serve));
        assert_eq!(service.end(signal).0, Some(0), "{signal:?}");
        service.log_with("all that was asked for is answered");
    }
}

#[test]
fn a_hangup_that_was_to_be_ignored_stays_ignored() {
    let world = World::with_files();
    world.run(["init"]).ended(0);
    let serve = world.command(["serve", "--listen", "127.0.0.1:0", "--auth", "none"]);
    let mut service = Running::start(through(&["nohup"], &serve), "listening on ");
    service.signal(Signal::HUP);
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(!service.log().contains("told to stop"), "{}", service.log());
    assert_eq!(service.end(Signal::TERM).0, Some(0));
}
