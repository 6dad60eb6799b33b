//! A process of the program that goes on: what it logs, what it takes, and its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long it may take until it says that it has begun.
const START: Duration = Duration::from_secs(60);

/// A process that runs, and ends when it is dropped.
pub struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Running {
    /// Starts a command, and waits until it logs `begun`.
    pub fn start(mut command: Command, begun: &str) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut running = Running { child, log };
        let began = Instant::now();
        while !running.log().contains(begun) {
            assert!(running.child.try_wait().unwrap().is_none(), "it has ended: {}", running.log());
            assert!(began.elapsed() < START, "it does not begin: {}", running.log());
            thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Returns the number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Returns its log once that has the text: lines come through a pipe, and may come after an answer.
    #[track_caller]
    pub fn log_with(&self, text: &str) -> String {
        self.log_with_within(text, 1, Duration::from_secs(20))
    }

    /// Returns the same once it says so that many times, with another time for it.
    #[track_caller]
    pub fn log_with_within(&self, text: &str, times: usize, within: Duration) -> String {
        let began = Instant::now();
        loop {
            let log = self.log();
            let said = log.matches(text).count();
            if said >= times {
                return log;
            }
            assert!(began.elapsed() < within, "{text:?} is {said} times in {log}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS")
    }

    /// Returns resident memory without pages of files, such as the program itself, in bytes: that of a debug build is no larger.
    pub fn own_memory(&self) -> u64 {
        self.status("RssAnon")
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().count()
    }

    /// Sends a signal and waits for the end; the exit code and how long it took.
    pub fn end(&mut self, signal: Signal) -> (Option<i32>, Duration) {
        self.signal(signal);
        self.wait()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; the exit code, which a process that was killed does not have, and how long it took.
    pub fn wait(&mut self) -> (Option<i32>, Duration) {
        let told = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), told.elapsed());
            }
            assert!(told.elapsed() < Duration::from_secs(60), "it does not end: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        // One that waits in the kernel for what is dropped after it, such as a server that is stopped, is left to that.
        let told = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if told.elapsed() > Duration::from_secs(30) {
                eprintln!("process {} was killed, and does not end", self.pid());
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        if thread::panicking() {
            eprintln!("the process said:\n{}", self.log());
        }
    }
}
