//! HTTP/1.1 on a socket, as far as a client of Google's needs it, and the ways in which it breaks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Shared;
use super::answer::Answer;
use super::line::Line;
use super::script::{Fault, Point};

/// So much is read and sent at once.
const PIECE: usize = 64 << 10;

/// A request up to its body. Names of headers are in lower case; the query is decoded.
#[derive(Debug)]
pub struct Head {
    pub method: String,
    /// As it was sent.
    pub target: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns a parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the client wants the connection to end with this request.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn parse(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        let length = match parsed.parse(bytes).map_err(|e| bad(&e.to_string()))? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        let target = parsed.path.unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = query.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(&key.replace('+', " ")), decoded(&value.replace('+', " ")))
        });
        let header = |header: &httparse::Header| {
            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
        };
        let head = Head {
            method: parsed.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            query: query.collect(),
            headers: parsed.headers.iter().map(header).collect(),
            target,
        };
        if head.header("host").is_none() {
            return Err(bad("no Host header"));
        }
        Ok(Some((head, length)))
    }
}

/// Returns percent-decoded text.
pub fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn bad(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// A request's body, as far as it has been read.
pub struct Body {
    pub bytes: Vec<u8>,
    /// The number of bytes left of the body, or of the chunk.
    left: u64,
    chunked: bool,
    /// Whether this is all.
    pub whole: bool,
}

impl Body {
    /// Creates the reader of a request's body, of which nothing is read yet.
    pub fn of(head: &Head) -> io::Result<Self> {
        let chunked = head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let left = match head.header("content-length") {
            Some(length) if !chunked => length.parse().map_err(|_| bad("Content-Length is not a number"))?,
            _ => 0,
        };
        Ok(Body { bytes: Vec::new(), left, chunked, whole: left == 0 && !chunked })
    }
}

/// How much of an answer's body went out.
pub struct Sent {
    pub bytes: u64,
    /// Whether the answer is as it has to be, so that another one can follow.
    pub whole: bool,
}

/// One client's connection.
pub struct Connection {
    stream: TcpStream,
    /// Bytes that were received and not yet taken, from `at` on.
    buffer: Vec<u8>,
    at: usize,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Connection { stream, buffer: Vec::new(), at: 0 }
    }

    /// Receives more; whether there was more.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let have = self.buffer.len();
        self.buffer.resize(have + PIECE, 0);
        let got = self.stream.read(&mut self.buffer[have..]);
        self.buffer.truncate(have + *got.as_ref().unwrap_or(&0));
        Ok(got? > 0)
    }

    /// Returns the next request's head; `None` if the client has gone between requests.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            match Head::parse(&self.buffer[self.at..]) {
                Ok(Some((head, length))) => {
                    self.at += length;
                    return Ok(Some(head));
                }
                Ok(None) if self.fill()? => {}
                Ok(None) => return Ok(None),
                Err(e) => {
                    let head = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    self.stream.write_all(head.as_bytes())?;
                    return Err(e);
                }
            }
        }
    }

    /// Reads on in a body while it has fewer than `want` bytes; whether there is more.
    pub fn read(&mut self, body: &mut Body, want: usize, line: &Line) -> io::Result<bool> {
        if body.whole {
            return Ok(false);
        }
        if body.chunked && body.left == 0 {
            let size = self.text_line()?;
            body.left = u64::from_str_radix(size.trim(), 16).map_err(|_| bad("the size of a chunk is no number"))?;
            if body.left == 0 {
                while !self.text_line()?.is_empty() {}
                body.whole = true;
                return Ok(false);
            }
        }
        if self.at == self.buffer.len() && !self.fill()? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let some = &self.buffer[self.at..];
        let missing = want.saturating_sub(body.bytes.len()).max(1);
        let some = &some[..some.len().min(missing).min(usize::try_from(body.left).unwrap_or(usize::MAX))];
        line.pass(some.len());
        body.bytes.extend_from_slice(some);
        self.at += some.len();
        body.left -= some.len() as u64;
        if body.left == 0 && body.chunked {
            self.text_line()?;
        }
        body.whole = body.left == 0 && !body.chunked;
        Ok(!body.whole)
    }

    fn text_line(&mut self) -> io::Result<String> {
        loop {
            let rest = &self.buffer[self.at..];
            if let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
                let text = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.at += end + 2;
                return Ok(text);
            }
            if !self.fill()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Ends the connection with a reset: what is under way to the client is thrown away.
    pub fn reset(&mut self) {
        // Where this fails, the connection ends in order, and the test that waits for a reset says so.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Sends an answer, with what goes wrong after the request was read.
    pub fn answer(
        &mut self,
        answer: &Answer,
        head_only: bool,
        date: jiff::Timestamp,
        fault: Option<&Fault>,
        shared: &Shared,
    ) -> io::Result<Sent> {
        let broken = |bytes| Ok(Sent { bytes, whole: false });
        let point = fault.and_then(Fault::point);
        if point == Some(Point::Answer) && self.breaks(fault, shared) {
            return broken(0);
        }
        let body = if head_only { &[] } else { answer.body() };
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, answer.reason());
        head += &format!("Date: {}\r\n", date.strftime("%a, %d %b %Y %H:%M:%S GMT"));
        head += &format!("Content-Length: {}\r\nServer: UploadServer\r\n", answer.body().len());
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.stream.write_all(format!("{head}\r\n").as_bytes())?;
        if point == Some(Point::Head) && self.breaks(fault, shared) {
            return broken(0);
        }
        let stop = match (point, fault) {
            (Some(Point::Body(bytes)), _) | (_, Some(&Fault::Cut(bytes))) => body.len().min(bytes as usize),
            _ => body.len(),
        };
        self.send(&body[..stop], shared)?;
        if let Some(Fault::Cut(_)) = fault {
            return broken(stop as u64);
        }
        if matches!(point, Some(Point::Body(_))) && self.breaks(fault, shared) {
            return broken(stop as u64);
        }
        self.send(&body[stop..], shared)?;
        Ok(Sent { bytes: body.len() as u64, whole: true })
    }

    /// Breaks the connection, or lets it stand still and go on; whether it is over.
    fn breaks(&mut self, fault: Option<&Fault>, shared: &Shared) -> bool {
        if let Some(Fault::Stall(_, time)) = fault {
            shared.pause(*time);
            return false;
        }
        // The bytes that were sent are to arrive: a reset overtakes them.
        shared.pause(Duration::from_millis(20));
        self.reset();
        true
    }

    fn send(&mut self, bytes: &[u8], shared: &Shared) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            shared.down.pass(piece.len());
            self.stream.write_all(piece)?;
        }
        Ok(())
    }
}
