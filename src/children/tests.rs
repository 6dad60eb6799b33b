use std::io::Read;
use std::process::Stdio;

use super::*;

/// Starts a script of the shell; returns it with where its end is told.
fn start(script: &str, group: Group) -> (Program, crossbeam_channel::Receiver<ProgramEnd>) {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).stdin(Stdio::null());
    let (tell, told) = unbounded();
    let program = Program::start(command, Vec::new(), group, Box::new(move |end| tell.send(end).unwrap())).unwrap();
    (program, told)
}

/// How long something may take that happens at once.
const SOON: Duration = Duration::from_secs(20);

fn is_alive(pid: Pid) -> bool {
    family::processes().iter().any(|found| found.pid == pid && !found.zombie)
}

#[track_caller]
fn ends_soon(pid: Pid) {
    let began = Instant::now();
    while is_alive(pid) {
        assert!(began.elapsed() < SOON, "{pid:?} is there");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ends_are_told() {
    for (script, end, code, text) in [
        ("exit 0", ProgramEnd::Code(0), 0, "exit code 0"),
        ("exit 7", ProgramEnd::Code(7), 7, "exit code 7"),
        ("kill -9 $$", ProgramEnd::Signal(9), 137, "signal 9 (SIGKILL)"),
        ("kill -15 $$", ProgramEnd::Signal(15), 143, "signal 15 (SIGTERM)"),
    ] {
        let (program, told) = start(script, Group::Own);
        assert_eq!(told.recv_timeout(SOON), Ok(end), "{script}");
        assert_eq!((program.end(), program.wait_for(Duration::ZERO)), (Some(end), Some(end)));
        assert_eq!((end.code(), end.to_string().as_str(), end.is_success()), (code, text, code == 0));
        // Its number may be another's by now.
        program.signal(Signal::KILL);
    }
    assert_eq!(ProgramEnd::Code(300).code(), 255);
}

#[test]
fn signals_reach_a_program_and_what_it_started_is_known() {
    let (program, told) = start("trap 'exit 3' USR2; sleep 600 & (sleep 600 & wait) & wait; wait", Group::OwnAndKilled);
    let began = Instant::now();
    while program.left(|_| false).len() < 3 {
        assert!(began.elapsed() < SOON, "{:?}", program.left(|_| false));
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(program.wait_for(Duration::from_millis(20)), None);
    let left = program.left(|_| false);
    program.signal(Signal::USR2);
    assert_eq!(told.recv_timeout(SOON), Ok(ProgramEnd::Code(3)));
    // All were in its group.
    left.into_iter().for_each(ends_soon);
    assert_eq!(program.left(|_| false), []);
}

#[test]
fn a_program_that_is_not_there_leaves_nothing() {
    let none = Program::start(Command::new("/no/such/program"), Vec::new(), Group::Own, Box::new(|_| panic!()));
    assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn descriptors_are_kept_by_the_program_alone() {
    let (mut reader, writer) = io::pipe().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("echo kept >&{number}")).stdin(Stdio::null());
    Program::start(command, vec![writer.into()], Group::Own, Box::new(drop)).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept\n");
}
