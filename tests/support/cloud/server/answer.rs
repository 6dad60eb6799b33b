//! An answer of the server.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

/// Status, headers and body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    content: Arc<Vec<u8>>,
    /// The part of the content that is the body.
    part: Range<usize>,
}

impl Answer {
    /// Creates one with a body of any type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let content = Arc::new(body.into());
        let part = 0..content.len();
        Self::part(status, content_type, content, part)
    }

    /// Creates one whose body is part of what is kept elsewhere, too.
    pub fn part(status: u16, content_type: &str, content: Arc<Vec<u8>>, part: Range<usize>) -> Self {
        Answer { status, headers: vec![("Content-Type".into(), content_type.into())], content, part }
    }

    /// Creates one with a JSON document.
    pub fn json(status: u16, body: &Value) -> Self {
        let text = serde_json::to_string_pretty(body).expect("a value has text");
        Self::new(status, "application/json; charset=UTF-8", text)
    }

    /// Creates one with a line of text, as requests for content get it when they fail.
    pub fn text(status: u16, text: &str) -> Self {
        Self::new(status, "text/html; charset=UTF-8", text)
    }

    /// Creates a JSON error as Google's services word it.
    pub fn error(status: u16, reason: &str, message: &str) -> Self {
        let domain = if reason == "rateLimitExceeded" { "usageLimits" } else { "global" };
        let mut error = json!({"message": message, "domain": domain, "reason": reason});
        let location = match reason {
            "conditionNotMet" => Some("If-Match"),
            "required" | "authError" => Some("Authorization"),
            "requestedRangeNotSatisfiable" => Some("Range"),
            _ => None,
        };
        if let Some(location) = location {
            error["locationType"] = "header".into();
            error["location"] = location.into();
        }
        Self::json(status, &json!({"error": {"code": status, "message": message, "errors": [error]}}))
    }

    /// Returns the same with one more header.
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    /// Returns the same with more headers.
    pub fn with(mut self, headers: &[(&'static str, String)]) -> Self {
        self.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self
    }

    pub fn body(&self) -> &[u8] {
        &self.content[self.part.clone()]
    }

    /// Makes a bit of a byte of the body wrong; of the last one when the body is shorter.
    pub fn flip(&mut self, at: u64) {
        let mut body = self.body().to_vec();
        let at = (at as usize).min(body.len().saturating_sub(1));
        if let Some(byte) = body.get_mut(at) {
            *byte ^= 1;
        }
        self.part = 0..body.len();
        self.content = Arc::new(body);
    }

    /// Returns HTTP's name of the status.
    pub fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            206 => "Partial Content",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            408 => "Request Timeout",
            412 => "Precondition Failed",
            416 => "Requested Range Not Satisfiable",
            429 => "Too Many Requests",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            _ => "Other",
        }
    }
}
