//! HTTP answers: documents, errors and streams.

use std::collections::VecDeque;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::limits::ServingGuard;
use crate::error::{Error, Kind, Result};
use crate::report::EncodedReport;

/// An answer.
pub type Reply = Response<ReplyBody>;

/// The body of an answer.
pub struct ReplyBody {
    what: BodySource,
    /// Kept until the client has all of it.
    served: Option<ServingGuard>,
    room: Option<OwnedSemaphorePermit>,
}

enum BodySource {
    Whole(VecDeque<Bytes>),
    Stream { first: Option<Bytes>, rest: mpsc::Receiver<BodyChunk>, over: bool },
}

/// A message of the thread that makes a body: bytes; `None` when that was all; or the error that ends it early.
pub type BodyChunk = Result<Option<Bytes>>;

/// The error that ends a connection before its body is complete, so that the client sees that it is not.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub struct BodyAborted;

impl ReplyBody {
    /// Creates a body of bytes that are all there.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        ReplyBody::parts([bytes.into()])
    }

    /// Creates a body of parts that are all there, one after the other.
    pub fn parts(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let parts = parts.into_iter().filter(|bytes| !bytes.is_empty()).collect();
        ReplyBody { what: BodySource::Whole(parts), served: None, room: None }
    }

    /// Creates a body of `first` and all that `rest` still brings.
    pub fn stream(first: Bytes, rest: mpsc::Receiver<BodyChunk>) -> Self {
        ReplyBody { what: BodySource::Stream { first: Some(first), rest, over: false }, served: None, room: None }
    }

    /// Keeps its share of the memory for answers until the client has all of it.
    pub fn hold(&mut self, room: OwnedSemaphorePermit) {
        self.room = Some(room);
    }

    /// Keeps the guard that marks a request as being served.
    pub fn keep(&mut self, served: ServingGuard) {
        self.served = Some(served);
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        Poll::Ready(match &mut self.what {
            BodySource::Whole(parts) => parts.pop_front().map(|bytes| Ok(Frame::data(bytes))),
            BodySource::Stream { over: true, .. } => None,
            BodySource::Stream { first, rest, over } => match first.take() {
                Some(bytes) => Some(Ok(Frame::data(bytes))),
                None => match ready!(rest.poll_recv(cx)) {
                    Some(Ok(Some(bytes))) => Some(Ok(Frame::data(bytes))),
                    end => {
                        *over = true;
                        match end {
                            Some(Ok(_)) => None,
                            Some(Err(why)) => {
                                tracing::warn!("an answer broke off: {}", why.what());
                                Some(Err(BodyAborted))
                            }
                            // The thread ended in a panic.
                            None => Some(Err(BodyAborted)),
                        }
                    }
                },
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.what, BodySource::Whole(parts) if parts.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.what {
            BodySource::Whole(parts) => SizeHint::with_exact(parts.iter().map(|bytes| bytes.len() as u64).sum()),
            BodySource::Stream { .. } => SizeHint::default(),
        }
    }
}

/// Creates an answer of a content type.
pub fn reply(status: StatusCode, kind: &'static str, content: ReplyBody) -> Reply {
    let mut reply = Response::new(content);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// Creates an answer with a JSON document.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(bytes) => reply(status, "application/json", ReplyBody::whole(bytes)),
        Err(why) => {
            tracing::error!("an answer has no JSON form: {why}");
            reply(
                StatusCode::INTERNAL_SERVER_ERROR,
                "application/json",
                ReplyBody::whole(r#"{"error":"no JSON form"}"#),
            )
        }
    }
}

/// Creates an answer with a report, as it is.
pub fn report(status: StatusCode, report: &EncodedReport) -> Reply {
    reply(status, "application/json", ReplyBody::whole(report.json().clone()))
}

/// Creates an answer with an error.
pub fn error(status: StatusCode, why: impl Display) -> Reply {
    json(status, &json!({ "error": why.to_string() }))
}

/// Creates an answer that asks the client to come again after a while.
pub fn later(status: StatusCode, body: &Value, after: Duration) -> Reply {
    let mut reply = json(status, body);
    let seconds = after.as_millis().div_ceil(1000).clamp(1, 86_400) as u32;
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    reply
}

/// Creates the error for a method that the path does not have.
pub fn not_allowed(allow: &str) -> Reply {
    let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes only {allow}"));
    if let Ok(value) = HeaderValue::from_str(allow) {
        reply.headers_mut().insert(ALLOW, value);
    }
    reply
}

/// Makes this the last answer of its connection.
pub fn last(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// Creates the answer for a read of the vault that failed.
pub fn failed(why: &Error) -> Reply {
    let status = match why.kind() {
        Kind::Usage | Kind::NothingYet | Kind::Unneeded => StatusCode::NOT_FOUND,
        Kind::Failed | Kind::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Damage => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if status.is_server_error() {
        tracing::warn!("a request is not served: {}", why.what_with_code());
    }
    let body = match why.advice() {
        Some(advice) => json!({ "error": why.what(), "code": why.word(), "hint": advice }),
        None => json!({ "error": why.what(), "code": why.word() }),
    };
    match status {
        StatusCode::SERVICE_UNAVAILABLE => later(status, &body, Duration::from_secs(30)),
        _ => json(status, &body),
    }
}

/// Bytes that a header's extended value has to escape: all but `attr-char` of RFC 8187.
const NOT_ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Makes the answer a file that is saved under a name, never shown (RFC 6266).
pub fn attached(mut reply: Reply, name: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(&disposition(name)) {
        reply.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    reply
}

fn disposition(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\\' | '/' | '%') { c } else { '_' })
        .collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(name, NOT_ATTR_CHAR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn names_of_files_cannot_break_out_of_their_header() {
        for (name, header) in [
            ("a.db", "attachment; filename=\"a.db\"; filename*=UTF-8''a.db"),
            ("a b", "attachment; filename=\"a b\"; filename*=UTF-8''a%20b"),
            (
                "größe\"\r\nX: y",
                "attachment; filename=\"gr__e___X: y\"; filename*=UTF-8''gr%C3%B6%C3%9Fe%22%0D%0AX%3A%20y",
            ),
        ] {
            assert_eq!(disposition(name), header);
            assert!(HeaderValue::from_str(&disposition(name)).is_ok());
        }
    }

    #[test]
    fn what_failed_says_whether_to_come_again_and_has_a_code() {
        let unreachable = failed(&Error::unreachable("open the vault", "it does not answer").hint("Wait."));
        assert_eq!(unreachable.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(unreachable.headers()[RETRY_AFTER], "30");
        assert_eq!(failed(&Error::usage("find x", "it is not there")).status(), StatusCode::NOT_FOUND);
        assert_eq!(failed(&Error::damage("read x", "it is cut")).status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = |why: &Error| -> Value {
            let BodySource::Whole(parts) = failed(why).into_body().what else { panic!("it is all there") };
            serde_json::from_slice(&Vec::from(parts).concat()).unwrap()
        };
        let hinted =
            Error::usage("find x", "it is not there").with_code(Code::UnknownSnapshot).hint("Look at the list.");
        let expected = json!({
            "error": "could not find x: it is not there", "code": "unknown-snapshot", "hint": "Look at the list.",
        });
        assert_eq!(body(&hinted), expected);
        let plain = json!({ "error": "could not read x: it is cut", "code": "damage" });
        assert_eq!(body(&Error::damage("read x", "it is cut")), plain);
        let soon = later(StatusCode::CONFLICT, &json!({}), Duration::from_millis(1200));
        assert_eq!(soon.headers()[RETRY_AFTER], "2");
    }
}
