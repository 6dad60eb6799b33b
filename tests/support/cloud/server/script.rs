//! The faults that a test scripts: rules that each say which requests they meet and what happens then.

use std::time::Duration;

use super::answer::Answer;
use super::call::{Call, Kind};

/// Where in a request or its answer something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The head and this many bytes of the request's body have been read, the rest has not, and nothing is done.
    Upload(u64),
    /// All of the request was read and done; nothing of the answer is sent.
    Answer,
    /// The head of the answer was sent.
    Head,
    /// This many bytes of the answer's body were sent.
    Body(u64),
}

/// A fault.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing is done; the answer has this status, these headers and what Google says then.
    Status(u16, Vec<(&'static str, String)>),
    /// Nothing is done; this is the answer.
    Answer(Answer),
    /// The answer has this status and comes when the head has been read; of the body nothing more is read ever.
    Early(u16),
    /// It is done, and the answer has this status all the same.
    DoneBut(u16),
    /// The connection is reset.
    Reset(Point),
    /// No byte passes for this time; then all goes on.
    Stall(Point, Duration),
    /// The connection is closed in order after this many bytes of a body whose head promised more.
    Cut(u64),
    /// A bit of this byte of the answer's body is wrong; of the last one when the body is shorter.
    Flip(u64),
}

impl Fault {
    /// Creates the fault that a request is answered with a status, as Google does it.
    pub fn status(status: u16) -> Self {
        Fault::Status(status, Vec::new())
    }

    /// "Too many requests", and how many seconds the client is to wait.
    pub fn retry_after(status: u16, seconds: u64) -> Self {
        Fault::Status(status, vec![("Retry-After", seconds.to_string())])
    }

    /// Returns where the connection breaks or stands still.
    pub fn point(&self) -> Option<Point> {
        match self {
            Fault::Reset(point) | Fault::Stall(point, _) => Some(*point),
            _ => None,
        }
    }
}

/// Which requests a rule meets.
#[derive(Debug, Clone)]
pub struct When {
    kind: Option<Kind>,
    /// A part of the object's name, or of the prefix of a listing.
    name: String,
    later_pages: bool,
    skip: usize,
    times: usize,
}

impl When {
    fn new(kind: Option<Kind>, name: &str) -> Self {
        When { kind, name: name.into(), later_pages: false, skip: 0, times: 1 }
    }

    /// Meets the first request of any kind.
    pub fn any() -> Self {
        Self::new(None, "")
    }

    /// Meets the first upload of an object whose name contains this.
    pub fn create(name: &str) -> Self {
        Self::new(Some(Kind::Create), name)
    }

    /// Meets the first reading of the content of an object whose name contains this.
    pub fn read(name: &str) -> Self {
        Self::new(Some(Kind::Read), name)
    }

    /// Meets the first request for the metadata of an object whose name contains this.
    pub fn describe(name: &str) -> Self {
        Self::new(Some(Kind::Describe), name)
    }

    /// Meets the first page of a listing whose prefix contains this.
    pub fn list(prefix: &str) -> Self {
        Self::new(Some(Kind::List), prefix)
    }

    /// Meets the first request of a kind.
    pub fn kind(kind: Kind) -> Self {
        Self::new(Some(kind), "")
    }

    /// Meets this many of them.
    pub fn times(self, times: usize) -> Self {
        When { times, ..self }
    }

    /// Meets all of them.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Lets this many pass before.
    pub fn after(self, skip: usize) -> Self {
        When { skip, ..self }
    }

    /// Meets only pages that continue a listing.
    pub fn later_pages(self) -> Self {
        When { later_pages: true, ..self }
    }

    fn meets(&self, call: &Call) -> bool {
        self.kind.is_none_or(|kind| kind == call.kind)
            && call.name.as_deref().unwrap_or_default().contains(&self.name)
            && (!self.later_pages || call.page_token.is_some())
    }
}

/// All rules, and how many requests met one.
#[derive(Default)]
pub struct Script {
    rules: Vec<(When, Fault)>,
    pub met: usize,
}

impl Script {
    pub fn add(&mut self, when: When, fault: Fault) {
        self.rules.push((when, fault));
    }

    /// Counts this request, and returns what happens to it.
    pub fn take(&mut self, call: &Call) -> Option<Fault> {
        for (when, fault) in &mut self.rules {
            if when.times == 0 || !when.meets(call) {
                continue;
            }
            if when.skip > 0 {
                when.skip -= 1;
                continue;
            }
            when.times = when.times.saturating_sub(usize::from(when.times != usize::MAX));
            self.met += 1;
            return Some(fault.clone());
        }
        None
    }
}
