//! Apps of this program and of another one, which can be killed, be process 1, or have another stdout: it is this test program
//! again, running [`another_process`].

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::*;
use crate::children::adopt_orphans;
use crate::fs::Folder;
use crate::mask::Masker;
use crate::run::lock::LockWait;
use crate::run::output::CriticalRules;
use crate::run::signals::{self, SignalMeaning};
use crate::skipped::skipped;

/// The variable that is set for the other process: what it is to do.
const TOLD: &str = "LASTGOOD_TEST_PEER";
/// What the other process writes before the app may: the test program itself writes something before.
const BEGUN: &[u8] = b"[the app begins]\n";
/// How long something may take that happens soon.
const SOON: Duration = Duration::from_secs(20);

/// What the other process does: it runs an app until that ends or a signal ends it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Runs {
    words: Vec<String>,
    /// Whether its output is watched, and lines with CRITICAL are told.
    watches: bool,
    adopts: bool,
    /// The data directory that is locked.
    lock: Option<PathBuf>,
    /// Where it writes what came of it.
    report: PathBuf,
    stop_timeout: u64,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
struct CameOf {
    killed: bool,
    left: Vec<u32>,
    finished: bool,
    last_lines: Vec<String>,
    matches: Vec<(String, u64, String)>,
}

#[test]
#[ignore = "other tests start it as another process"]
#[expect(clippy::disallowed_methods, reason = "how it is told what to do")]
fn another_process() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let Ok(runs) = serde_json::from_str::<Runs>(&told) else { return };
    if runs.adopts {
        adopt_orphans().unwrap();
    }
    let (tell, happens) = unbounded();
    let (tell_signal, signals) = unbounded();
    signals::watch(has_terminal(), |_| false, move |meaning| tell_signal.send(meaning).unwrap()).unwrap();
    let rules = CriticalRules::new(&["CRITICAL"], 1, Duration::ZERO).unwrap();
    let output = Arc::new(Output::new(rules, Masker::new::<&str>(&[]).unwrap()));
    let words: Vec<_> = runs.words.iter().map(Into::into).collect();
    let options = AppOptions {
        command: AppCommand::find(&words, None).unwrap(),
        lock: runs.lock.as_deref().map(|data| Arc::new(lock(data).unwrap())),
        output: runs.watches.then(|| output.clone()),
        events: tell,
    };
    std::io::stdout().write_all(BEGUN).unwrap();
    std::io::stdout().flush().unwrap();
    let app = App::start(&options).unwrap();
    let mut matches = Vec::new();
    let (mut first, mut end) = (None, None);
    while end.is_none() && first.is_none() {
        crossbeam_channel::select! {
            recv(happens) -> event => match event.unwrap() {
                AppEvent::Exited { pid, end: how } => {
                    assert_eq!(pid, app.pid());
                    end = Some(how);
                }
                AppEvent::OutputMatched(found) => matches.push((found.pattern, found.count, found.line)),
            },
            recv(signals) -> meaning => match meaning.unwrap() {
                SignalMeaning::Stop(signal) => first = Some(signal),
                SignalMeaning::PassOn(signal) => app.signal(signal),
                SignalMeaning::AppWasTold(_) => {}
                SignalMeaning::BackUp => app.signal(Signal::ALARM),
            },
        }
    }
    let stopped = app.stop(first, Duration::from_millis(runs.stop_timeout));
    let finished = app.finish_output(SOON);
    while let Ok(AppEvent::OutputMatched(found)) = happens.try_recv() {
        matches.push((found.pattern, found.count, found.line));
    }
    let (killed, left) = (stopped.killed, stopped.left);
    let came_of = CameOf { killed, left, finished, last_lines: output.last_lines(), matches };
    fs::write(&runs.report, serde_json::to_vec(&came_of).unwrap()).unwrap();
    std::process::exit(stopped.end.unwrap().code().into());
}

fn lock(data: &Path) -> Result<RunLock> {
    let (patience, stop_timeout) = (Duration::ZERO, Duration::from_secs(1));
    let wait = LockWait { host: "web-1", patience, stop_timeout, stop: &AtomicBool::new(false) };
    RunLock::take(&Folder::open(data).unwrap(), &wait)
}

/// Another process, and a scratch folder.
struct Peer {
    scratch: TempDir,
}

/// The other process while it runs. It is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Peer {
    fn new() -> Self {
        Peer { scratch: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// What runs a script of the shell in the scratch folder.
    fn script(&self, script: &str) -> Runs {
        let script = format!("cd '{}'; {script}", self.scratch.path().display());
        let words = vec!["sh".to_owned(), "-c".to_owned(), script];
        Runs { words, report: self.path("report"), stop_timeout: 10_000, watches: true, ..Runs::default() }
    }

    /// A command that runs it, by way of other programs.
    fn command(&self, by: &[&str], runs: &Runs) -> Command {
        let this = std::env::current_exe().unwrap();
        let mut words = by.iter().map(std::ffi::OsStr::new).chain([this.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        let name = "run::app::tests::another_process";
        command.args(words).args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(TOLD, serde_json::to_string(runs).unwrap()).stdin(Stdio::null());
        command
    }

    /// Starts it without a terminal, also where the tests have one.
    fn start(&self, runs: &Runs) -> Running {
        Running(self.command(&["setsid", "-w"], runs).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Runs it; returns its exit code, and what the app wrote to stdout and to stderr.
    fn run(&self, by: &[&str], runs: &Runs) -> (i32, Vec<u8>, Vec<u8>) {
        let ran = self.command(by, runs).output().unwrap();
        let begun = ran.stdout.windows(BEGUN.len()).position(|bytes| bytes == BEGUN);
        let begun = begun.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&ran.stderr))) + BEGUN.len();
        (ran.status.code().unwrap(), ran.stdout[begun..].to_vec(), ran.stderr)
    }

    fn came_of(&self) -> CameOf {
        serde_json::from_slice(&fs::read(self.path("report")).unwrap()).unwrap()
    }

    /// Waits for a line that the script writes into a file.
    #[track_caller]
    fn line(&self, name: &str) -> String {
        let began = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(self.path(name))
                && text.ends_with('\n')
            {
                return text.trim_end().to_owned();
            }
            assert!(began.elapsed() < SOON, "{name} is not written");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Running {
    #[track_caller]
    fn wait(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(began.elapsed() < SOON, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[track_caller]
fn ends_soon(pid: &str) {
    let began = Instant::now();
    let is_alive = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while is_alive() {
        assert!(began.elapsed() < SOON, "process {pid} is there");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts an app in this process, with its output as it is.
fn start(script: &str) -> (App, Receiver<AppEvent>) {
    let (events, happens) = unbounded();
    let words = ["sh", "-c", script].map(Into::into);
    let command = AppCommand::find(&words, None).unwrap();
    (App::start(&AppOptions { command, lock: None, output: None, events }).unwrap(), happens)
}

#[test]
fn every_byte_is_passed_on() {
    let peer = Peer::new();
    let mut bytes = vec![0; 1 << 20];
    getrandom::fill(&mut bytes).unwrap();
    fs::write(peer.path("out"), &bytes).unwrap();
    bytes.reverse();
    fs::write(peer.path("err"), &bytes).unwrap();
    let (code, out, err) = peer.run(&["setsid", "-w"], &peer.script("cat err >&2 & cat out; wait; exit 7"));
    assert!(code == 7 && out == fs::read(peer.path("out")).unwrap() && err == bytes);
    let came_of = peer.came_of();
    assert!(came_of.finished && !came_of.killed && !came_of.last_lines.is_empty(), "{came_of:?}");
}

#[test]
fn the_order_of_stdout_and_stderr_is_kept_where_they_are_one() {
    let peer = Peer::new();
    let script = "n=0; while [ $n -lt 300 ]; do echo out $n; echo CRITICAL err $n >&2; n=$((n+1)); done; printf end";
    let mut command = peer.command(&["setsid", "-w"], &peer.script(script));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    drop(command);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let expected: String = (0..300).map(|n| format!("out {n}\nCRITICAL err {n}\n")).collect();
    assert!(text.ends_with(&format!("{expected}end")), "{text}");
    let came_of = peer.came_of();
    assert_eq!(came_of.matches[0], ("CRITICAL".into(), 1, "CRITICAL err 0".into()));
    assert_eq!((came_of.last_lines.len(), came_of.last_lines.last().unwrap().as_str()), (200, "end"));
}

#[test]
fn its_stdin_is_inherited_and_its_output_is_as_it_is_where_nothing_watches_it() {
    let peer = Peer::new();
    let runs = Runs { watches: false, ..peer.script("cat; [ -p /proc/self/fd/1 ] || echo a file") };
    let (out, input) = (fs::File::create(peer.path("out")).unwrap(), std::io::pipe().unwrap());
    (&input.1).write_all(b"said\n").unwrap();
    let mut child = peer.command(&["setsid", "-w"], &runs).stdin(input.0).stdout(out).spawn().unwrap();
    drop(input.1);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(fs::read_to_string(peer.path("out")).unwrap().ends_with("said\na file\n"));
}

#[test]
fn it_is_killed_with_the_program() {
    let peer = Peer::new();
    let mut running = peer.start(&peer.script("trap '' TERM INT HUP; echo $$ > pid; while :; do sleep 0.1; done"));
    let pid = peer.line("pid");
    // `setsid` waits for the program, and is no part of it.
    let parent = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = parent.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().to_owned();
    kill_process(Pid::from_raw(parent.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    ends_soon(&pid);
    running.0.wait().unwrap();
}

#[test]
fn what_a_killed_program_has_left_ends_before_the_lock_is_taken() {
    // In a session of its own with the lock, and in the app's group without it.
    let python = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)";
    for start in ["setsid sleep 600 & echo $! > left".to_owned(), format!("python3 -I -S -c \"{python}\" > left")] {
        let peer = Peer::new();
        let data = peer.path("data");
        fs::create_dir(&data).unwrap();
        let script = format!("{start}; echo $PPID > program; sleep 600");
        let mut running = peer.start(&Runs { lock: Some(data.clone()), ..peer.script(&script) });
        let (left, program) = (peer.line("left"), peer.line("program"));
        assert!(lock(&data).unwrap_err().to_string().contains("holds the lock"));
        kill_process(Pid::from_raw(program.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        running.0.wait().unwrap();
        assert!(Path::new(&format!("/proc/{left}")).exists(), "{start}");
        lock(&data).unwrap();
        ends_soon(&left);
    }
}

#[test]
fn what_is_not_proven_to_be_left_holds_the_lock_and_is_named() {
    let peer = Peer::new();
    let data = peer.path("data");
    fs::create_dir(&data).unwrap();
    let script = "env -i setsid sleep 600 & echo $! > left; echo $PPID > program; wait";
    let mut running = peer.start(&Runs { lock: Some(data.clone()), ..peer.script(script) });
    let (left, program) = (peer.line("left"), peer.line("program"));
    // The shell may not have become another program yet.
    let environment = || fs::read(format!("/proc/{left}/environ")).unwrap_or_default();
    while !environment().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_raw(program.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    running.0.wait().unwrap();
    let why = lock(&data).unwrap_err().to_string();
    assert!(why.contains(&format!("process {left} sleep, left by process {program} on web-1 since")), "{why}");
    kill_process(Pid::from_raw(left.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    ends_soon(&left);
    lock(&data).unwrap();
}

#[test]
fn signals_are_passed_on_and_the_end_is_the_apps() {
    let peer = Peer::new();
    let traps =
        "for s in HUP USR2 WINCH ALRM; do trap \"echo $s >> got\" $s; done; trap 'echo TERM >> got; exit 5' TERM";
    let mut running = peer.start(&peer.script(&format!("{traps}; echo $PPID > program; while :; do sleep 0.02; done")));
    let program = Pid::from_raw(peer.line("program").parse().unwrap()).unwrap();
    let mut expected = String::new();
    for (signal, name) in
        [(Signal::HUP, "HUP"), (Signal::USR2, "USR2"), (Signal::WINCH, "WINCH"), (Signal::USR1, "ALRM")]
    {
        kill_process(program, signal).unwrap();
        expected.push_str(&format!("{name}\n"));
        let began = Instant::now();
        while fs::read_to_string(peer.path("got")).unwrap_or_default() != expected {
            assert!(began.elapsed() < SOON, "{name} is not passed on");
            thread::sleep(Duration::from_millis(5));
        }
    }
    kill_process(program, Signal::TERM).unwrap();
    assert_eq!(running.wait(), 5);
    assert!(fs::read_to_string(peer.path("got")).unwrap().ends_with("TERM\n"));
    assert!(!peer.came_of().killed);
}

#[test]
fn on_a_terminal_the_app_has_it_and_ctrl_c_comes_once() {
    const TERMINAL: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
text = b''
while True:
    try:
        read = os.read(terminal, 1024)
    except OSError:
        break
    if b'ready' in read:
        os.write(terminal, bytes([3]))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let peer = Peer::new();
    let script = "trap 'echo INT >> got' INT; [ -t 1 ] && [ -t 2 ] && echo yes > tty; echo ready; while ! [ -s got ]; do sleep 0.05; done; sleep 0.3; exit 4";
    let mut command = peer.command(&["python3", "-c", TERMINAL], &peer.script(script));
    let ran = command.output().unwrap();
    assert_eq!(ran.status.code(), Some(4), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!((&*peer.line("got"), &*peer.line("tty")), ("INT", "yes"));
}

#[test]
fn an_app_that_does_not_stop_is_killed_with_all_that_it_started() {
    let scratch = tempfile::tempdir().unwrap();
    let ready = scratch.path().join("ready");
    let script =
        "trap '' TERM; sh -c \"trap '' TERM; sleep 600; sleep 600\" & echo $! > NAME; while :; do sleep 0.1; done";
    let (app, happens) = start(&script.replace("NAME", ready.to_str().unwrap()));
    let began = Instant::now();
    while fs::read_to_string(&ready).map_or(0, |text| text.len()) < 2 {
        assert!(began.elapsed() < SOON);
        thread::sleep(Duration::from_millis(5));
    }
    let began = Instant::now();
    let stopped = app.stop(Some(Signal::TERM), Duration::from_millis(300));
    assert_eq!(stopped, StoppedApp { end: Some(ProgramEnd::Signal(9)), killed: true, left: Vec::new() });
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < KILLED, "{:?}", began.elapsed());
    ends_soon(fs::read_to_string(&ready).unwrap().trim());
    assert_eq!(happens.recv_timeout(SOON), Ok(AppEvent::Exited { pid: app.pid(), end: ProgramEnd::Signal(9) }));
    // Once more changes nothing.
    assert!(!app.stop(Some(Signal::TERM), SOON).killed);
}

#[test]
fn what_an_app_leaves_is_told_to_end() {
    let (app, happens) = start("trap 'exit 0' TERM; sleep 600 & exit 4");
    assert_eq!(happens.recv_timeout(SOON), Ok(AppEvent::Exited { pid: app.pid(), end: ProgramEnd::Code(4) }));
    assert_eq!(happens.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected));
    let stopped = app.stop(None, SOON);
    // What other tests of this process leave at the same moment is found as well, and may have to be killed.
    assert_eq!((stopped.end, stopped.left), (Some(ProgramEnd::Code(4)), Vec::new()));
}

#[test]
fn daemons_of_the_app_end_with_it() {
    let peer = Peer::new();
    // It leaves the group and the session, and its parent ends.
    let script = "setsid sh -c 'echo $$ > daemon; while :; do sleep 0.1; done' & while ! [ -s daemon ]; do sleep 0.02; done; exit 6";
    let (code, ..) = peer.run(&["setsid", "-w"], &Runs { adopts: true, ..peer.script(script) });
    let came_of = peer.came_of();
    assert!(code == 6 && came_of.left.is_empty() && came_of.finished && !came_of.killed, "{code} {came_of:?}");
    ends_soon(&peer.line("daemon"));
}

#[test]
fn as_process_1_it_leaves_no_zombies() {
    let by = ["unshare", "--fork", "--pid", "--mount-proc"];
    if !Command::new(by[0]).args(&by[1..]).arg("true").output().is_ok_and(|ran| ran.status.success()) {
        return skipped("an app of process 1", "this user may not make a PID namespace");
    }
    let peer = Peer::new();
    let script =
        "for n in 1 2 3; do (sleep 0.1 &); done; (exit 3); sleep 3; grep -l '^State:.Z' /proc/[0-9]*/status; exit 9";
    let (code, out, _) = peer.run(&by, &peer.script(script));
    assert_eq!((code, String::from_utf8_lossy(&out).as_ref()), (9, ""));
}

#[test]
fn a_text_without_a_word_of_what_it_is_for_is_a_script() {
    let scratch = tempfile::tempdir().unwrap();
    let script = scratch.path().join("script");
    fs::write(&script, "exit $1\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (events, happens) = unbounded();
    let command = AppCommand::find(&[script.into(), "11".into()], None).unwrap();
    let app = App::start(&AppOptions { command, lock: None, output: None, events }).unwrap();
    assert_eq!(happens.recv_timeout(SOON), Ok(AppEvent::Exited { pid: app.pid(), end: ProgramEnd::Code(11) }));
}
