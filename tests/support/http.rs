//! The service as a process, and a client of bytes, so that a test can be slow or wrong in any way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::World;
use super::process::Running;

/// A service that runs.
pub struct Service {
    process: Running,
    pub address: SocketAddr,
}

impl Deref for Service {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.process
    }
}

impl DerefMut for Service {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.process
    }
}

impl Service {
    /// Starts `lastgood serve` on a free port of loopback.
    pub fn start<'a>(world: &World, args: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(world.command(["serve", "--listen", "127.0.0.1:0"].into_iter().chain(args)))
    }

    /// Starts a command that serves; waits until it listens.
    pub fn of(command: Command) -> Self {
        let process = Running::start(command, "listening on ");
        let log = process.log();
        let address = log.split("listening on ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        let address = address.trim_end_matches(['"', '}']).split('"').next().unwrap().parse().unwrap();
        Service { process, address }
    }

    /// Opens a new connection.
    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(120))).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.connect().ask("GET", path, "", b"").unwrap()
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        let headers = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.connect().ask("POST", path, headers, body.as_bytes()).unwrap()
    }
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// The answer of a service.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub whole: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {} {}", self.status, self.text()))
    }

    /// Returns the document of an answer that must have this status.
    #[track_caller]
    pub fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }
}

impl Client {
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a request; `headers` are whole lines.
    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let address = self.stream.peer_addr()?;
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{length}{headers}\r\n"))?;
        self.send(body)
    }

    /// Sends a request and reads the answer.
    pub fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Answer> {
        self.request(method, path, headers, body)?;
        self.answer(method == "HEAD")
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 << 10];
        let got = self.stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..got]);
        Ok(got)
    }

    fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                let rest = self.buffer.split_off(at + end.len());
                let mut taken = std::mem::replace(&mut self.buffer, rest);
                taken.truncate(at);
                return Ok(Some(taken));
            }
            if self.more()? == 0 {
                return Ok(None);
            }
        }
    }

    fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<bool> {
        while self.buffer.len() < length {
            if self.more()? == 0 {
                body.append(&mut self.buffer);
                return Ok(false);
            }
        }
        body.extend(self.buffer.drain(..length));
        Ok(true)
    }

    /// Reads an answer.
    pub fn answer(&mut self, without_body: bool) -> io::Result<Answer> {
        let Some(head) = self.until(b"\r\n\r\n")? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let head = [&head[..], b"\r\n\r\n"].concat();
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        assert!(parsed.parse(&head).unwrap().is_complete());
        let status = parsed.code.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers: Vec<_> =
            parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
        let mut answer = Answer { status, headers, body: Vec::new(), whole: true };
        if without_body {
            return Ok(answer);
        }
        if let Some(length) = answer.header("content-length").map(|length| length.parse().unwrap()) {
            answer.whole = self.exactly(length, &mut answer.body)?;
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let length = match self.until(b"\r\n") {
                    Ok(Some(line)) => usize::from_str_radix(std::str::from_utf8(&line).unwrap(), 16).unwrap(),
                    Ok(None) | Err(_) => {
                        answer.whole = false;
                        break;
                    }
                };
                answer.whole = self.exactly(length, &mut answer.body)? && self.exactly(2, &mut Vec::new())?;
                if length == 0 || !answer.whole {
                    break;
                }
            }
        }
        Ok(answer)
    }

    /// Whether the other side has closed the connection within a time; what it says before is dropped.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let began = Instant::now();
        while began.elapsed() < time {
            match self.more() {
                Ok(0) => return true,
                Ok(_) => {}
                Err(why) => return !matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            }
        }
        false
    }

    /// Hangs up.
    pub fn hang_up(self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
