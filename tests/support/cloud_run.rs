//! A stand-in for Cloud Run: the one call of its Admin API that starts a job, and executions of that job, which are processes.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The job that there is.
pub const JOB: &str = "projects/p/locations/europe-west1/jobs/long";

/// A fault of a call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// It is answered so, and starts nothing.
    Status(u16),
    /// It starts an execution, and the answer is lost.
    Lost,
    /// It is answered well, and no execution ever begins.
    Nothing,
}

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
}

/// An attempt of an execution: how it ended, and what it said.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub execution: String,
    pub number: u32,
    pub code: Option<i32>,
    pub said: String,
}

/// Says when an attempt is to be killed.
type When = Box<dyn Fn() -> bool + Send>;

/// How the job was deployed.
struct Deployed {
    program: OsString,
    args: Vec<OsString>,
    folder: PathBuf,
    variables: Vec<(OsString, Option<OsString>)>,
    /// How often a task that failed is tried again.
    retries: u32,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    faults: VecDeque<Fault>,
    attempts: Vec<Attempt>,
    begun: usize,
    /// Executions wait while it is so.
    held: bool,
    kill: Option<When>,
}

struct Inner {
    job: Deployed,
    state: Mutex<State>,
    changed: Condvar,
}

/// The stand-in, with one job.
pub struct CloudRun {
    address: SocketAddr,
    inner: Arc<Inner>,
}

impl CloudRun {
    /// Starts one with a job that is this command.
    pub fn with(job: &Command, retries: u32) -> Self {
        let own = |text: &std::ffi::OsStr| text.to_owned();
        let job = Deployed {
            program: own(job.get_program()),
            args: job.get_args().map(own).collect(),
            folder: job.get_current_dir().unwrap().to_owned(),
            variables: job.get_envs().map(|(name, value)| (own(name), value.map(own))).collect(),
            retries,
        };
        let inner = Arc::new(Inner { job, state: Mutex::default(), changed: Condvar::new() });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let inner = serving.clone();
                thread::spawn(move || inner.answer(stream));
            }
        });
        CloudRun { address, inner }
    }

    /// Returns its address as `LASTGOOD_RUN_ENDPOINT` has it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has the next calls answered so, one after the other.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner.state.lock().unwrap().faults.extend(faults);
    }

    /// Executions begin no more, until they are let go.
    pub fn hold(&self) {
        self.inner.state.lock().unwrap().held = true;
    }

    pub fn let_go(&self) {
        self.inner.state.lock().unwrap().held = false;
        self.inner.changed.notify_all();
    }

    /// Kills the next attempt that begins when this is so.
    pub fn kill_when(&self, when: impl Fn() -> bool + Send + 'static) {
        self.inner.state.lock().unwrap().kill = Some(Box::new(when));
    }

    pub fn calls(&self) -> Vec<Call> {
        self.inner.state.lock().unwrap().calls.clone()
    }

    /// Returns the attempts that have ended, once there are this many.
    #[track_caller]
    pub fn attempts(&self, number: usize) -> Vec<Attempt> {
        let began = Instant::now();
        loop {
            let attempts = self.inner.state.lock().unwrap().attempts.clone();
            if attempts.len() >= number {
                return attempts;
            }
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "{} attempts, not {number}: {attempts:?}",
                attempts.len()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Inner {
    /// Answers one call on a connection.
    fn answer(self: &Arc<Self>, mut stream: TcpStream) {
        let Some(call) = read(&mut stream) else { return };
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.calls.push(call.clone());
            state.faults.pop_front()
        };
        let execution = match fault {
            Some(Fault::Status(_) | Fault::Nothing) => "long-00000".to_owned(),
            Some(Fault::Lost) | None => self.execute(&call.body),
        };
        let (status, body) = match fault {
            Some(Fault::Lost) => {
                // The other side may have gone.
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            Some(Fault::Status(status)) => {
                (status, json!({ "error": { "code": status, "message": format!("scripted {status}") } }))
            }
            Some(Fault::Nothing) | None => {
                let kind = "type.googleapis.com/google.cloud.run.v2.Execution";
                let metadata = json!({ "@type": kind, "name": format!("{JOB}/executions/{execution}"), "job": JOB });
                (200, json!({ "name": "projects/p/locations/europe-west1/operations/1", "metadata": metadata }))
            }
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
    }

    /// Begins an execution with the variables that a call overrides; its name.
    fn execute(self: &Arc<Self>, body: &Value) -> String {
        let number = {
            let mut state = self.state.lock().unwrap();
            state.begun += 1;
            state.begun
        };
        let name = format!("long-{number:05}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let overrides = body["overrides"]["containerOverrides"][0]["env"].as_array().unwrap();
        let overrides: Vec<_> = overrides.iter().map(|one| (text(&one["name"]), text(&one["value"]))).collect();
        let (inner, execution) = (self.clone(), name.clone());
        thread::spawn(move || {
            for number in 0..=inner.job.retries {
                let attempt = inner.attempt(&execution, number, &overrides);
                let done = attempt.code == Some(0);
                inner.state.lock().unwrap().attempts.push(attempt);
                if done {
                    break;
                }
            }
        });
        name
    }

    /// Runs one attempt to its end.
    fn attempt(&self, execution: &str, number: u32, overrides: &[(String, String)]) -> Attempt {
        let mut state = self.state.lock().unwrap();
        while state.held {
            state = self.changed.wait(state).unwrap();
        }
        let kill = state.kill.take();
        drop(state);
        let Deployed { program, args, folder, variables, .. } = &self.job;
        let mut command = Command::new(program);
        command.args(args).current_dir(folder);
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("CLOUD_RUN_JOB", "long").env("CLOUD_RUN_EXECUTION", execution);
        command.env("CLOUD_RUN_TASK_INDEX", "0").env("CLOUD_RUN_TASK_COUNT", "1");
        command.env("CLOUD_RUN_TASK_ATTEMPT", number.to_string());
        command.envs(overrides.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = child.stderr.take().unwrap();
        let reader = thread::spawn(move || {
            let mut text = Vec::new();
            said.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        if let Some(when) = kill {
            while child.try_wait().unwrap().is_none() {
                if when() {
                    child.kill().unwrap();
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        let code = child.wait().unwrap().code();
        Attempt { execution: execution.to_owned(), number, code, said: reader.join().unwrap() }
    }
}

/// Reads a whole request.
fn read(stream: &mut TcpStream) -> Option<Call> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let got = stream.read(&mut part).ok().filter(|got| *got > 0)?;
        bytes.extend_from_slice(&part[..got]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = request.parse(&bytes) else { continue };
        let header = |name: &str| {
            let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok().map(str::to_owned)
        };
        let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if bytes.len() < head + length {
            continue;
        }
        assert_eq!(request.method, Some("POST"));
        let body = serde_json::from_slice(&bytes[head..head + length]).unwrap();
        return Some(Call { path: request.path?.to_owned(), authorization: header("authorization"), body });
    }
}
