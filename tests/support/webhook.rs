//! A server that stands for a webhook: it answers by a script and keeps what was posted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How a request is answered.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// With this status and these whole lines of headers.
    Answer(u16, &'static str),
    /// Not at all, until the client goes.
    Hang,
}

/// A request that was posted.
#[derive(Debug, Clone)]
pub struct Post {
    pub target: String,
    /// Whole lines, in lower case.
    pub headers: String,
    pub body: Vec<u8>,
    pub at: Instant,
}

impl Post {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Heard {
    posts: Mutex<Vec<Post>>,
    more: Condvar,
}

/// A server on loopback, for as long as the process.
pub struct Webhook {
    heard: Arc<Heard>,
    port: u16,
}

impl Webhook {
    /// Creates one that answers 200 after these.
    pub fn new(script: &[Step]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(Heard::default()));
        let (keep, script) = (heard.clone(), script.to_vec());
        std::thread::spawn(move || {
            let mut script = script.into_iter();
            for stream in listener.incoming() {
                let (keep, step) = (keep.clone(), script.next().unwrap_or(Step::Answer(200, "")));
                std::thread::spawn(move || serve(stream.unwrap(), step, &keep));
            }
        });
        Webhook { heard, port }
    }

    /// Returns its address with what must not be seen.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/services/T0/secret?key=secret", self.port)
    }

    /// Returns what was posted so far.
    pub fn posts(&self) -> Vec<Post> {
        self.heard.posts.lock().unwrap().clone()
    }

    /// Returns the same, once there are this many.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Post> {
        let posts = self.heard.posts.lock().unwrap();
        let time = Duration::from_secs(60);
        let (posts, waited) = self.heard.more.wait_timeout_while(posts, time, |posts| posts.len() < count).unwrap();
        assert!(!waited.timed_out(), "{posts:?}");
        posts.clone()
    }
}

fn serve(stream: TcpStream, step: Step, heard: &Heard) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        head.push_str(&line);
        line.clear();
    }
    let (first, headers) = head.split_once("\r\n").expect("no request");
    let target = first.strip_prefix("POST ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")).expect(first).to_owned();
    let headers = headers.to_ascii_lowercase();
    let length =
        headers.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().trim().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    heard.posts.lock().unwrap().push(Post { target, headers, body, at: Instant::now() });
    heard.more.notify_all();
    match step {
        Step::Answer(status, headers) => {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\nConnection: close\r\n{headers}\r\nok");
            // A client that does not wait for the answer has gone.
            let _ = (&stream).write_all(answer.as_bytes());
        }
        Step::Hang => while reader.read(&mut [0; 64]).is_ok_and(|n| n > 0) {},
    }
}
