//! The log of the requests that the server got.

use std::fmt;
use std::time::Instant;

use super::call::{Call, Kind};
use super::wire::Head;

/// One request.
#[derive(Clone)]
pub struct Request {
    /// When its head had arrived.
    pub at: Instant,
    pub kind: Kind,
    pub method: String,
    /// Path and query, as they were sent.
    pub target: String,
    /// The object's name, or the prefix of a listing.
    pub name: Option<String>,
    /// The `Range` header.
    pub range: Option<String>,
    pub generation: Option<String>,
    pub if_generation_match: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `User-Agent` header.
    pub agent: Option<String>,
    /// Bytes of its body that were read.
    pub body: u64,
    /// Bytes of an object among them.
    pub media: u64,
    /// The answer's status; none where no answer began.
    pub status: Option<u16>,
    /// Bytes of the answer's body that were sent.
    pub sent: u64,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { method, target, body, status, sent, .. } = self;
        let (name, range) = (self.name.as_deref().unwrap_or_default(), self.range.as_deref().unwrap_or_default());
        let status = status.map_or_else(|| "none".into(), |status| status.to_string());
        write!(f, "{method} {target} {name} {range} ({body} bytes): {status} ({sent} bytes)")
    }
}

/// All requests since the start or since they were forgotten.
#[derive(Default)]
pub struct Log {
    pub requests: Vec<Request>,
    begun: usize,
}

impl Log {
    /// Notes a request; its number.
    pub fn begin(&mut self, head: &Head, call: &Call) -> usize {
        let of = |name: &str| head.parameter(name).map(str::to_owned);
        let header = |name: &str| head.header(name).map(str::to_owned);
        self.requests.push(Request {
            at: Instant::now(),
            kind: call.kind,
            method: head.method.clone(),
            target: head.target.clone(),
            name: call.name.clone(),
            range: header("range"),
            generation: of("generation"),
            if_generation_match: of("ifGenerationMatch"),
            authorization: header("authorization"),
            agent: header("user-agent"),
            body: 0,
            media: 0,
            status: None,
            sent: 0,
        });
        self.begun += 1;
        self.begun
    }

    /// Returns the request of a number, unless it was forgotten.
    fn of(&mut self, number: usize) -> Option<&mut Request> {
        let at = (self.requests.len() + number).checked_sub(self.begun + 1)?;
        self.requests.get_mut(at)
    }

    /// Notes how much of a request was read.
    pub fn read(&mut self, number: usize, body: usize, media: usize) {
        if let Some(request) = self.of(number) {
            (request.body, request.media) = (body as u64, media as u64);
        }
    }

    /// Notes what a request was answered.
    pub fn answered(&mut self, number: usize, status: u16, sent: u64) {
        if let Some(request) = self.of(number) {
            (request.status, request.sent) = (Some(status), sent);
        }
    }
}
