//! The call that a request makes, by its method, path and query.

use serde_json::Value;

use super::answer::Answer;
use super::multipart;
use super::wire::{Body, Head, decoded};

/// So much of an upload is read to find the object's name in it, at most.
const METADATA_LIMIT: usize = 64 << 10;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An upload.
    Create,
    /// An object's content, or a range of it.
    Read,
    /// Gets the metadata of an object.
    Describe,
    /// A page of a listing.
    List,
    /// Which of some permissions are held.
    Permissions,
    /// Gets the metadata of the bucket.
    Bucket,
    /// A token, or what else credentials need.
    Token,
    /// Anything else: to delete, to overwrite, to change.
    Other,
}

/// A request, understood.
#[derive(Debug)]
pub struct Call {
    pub kind: Kind,
    pub bucket: Option<String>,
    /// The object's name, or the prefix of a listing.
    pub name: Option<String>,
    pub page_token: Option<String>,
    /// The boundary between the parts of an upload.
    pub boundary: Option<String>,
}

impl Call {
    /// Parses the call of a request. Names are one segment of a path: a slash in them is `%2F`.
    pub fn of(head: &Head) -> Self {
        let segments: Vec<&str> = head.path.split('/').skip(1).collect();
        let own = |name: &str| head.parameter(name).map(str::to_owned);
        let media = head.parameter("alt") == Some("media");
        let (kind, bucket, name) = match (head.method.as_str(), segments.as_slice()) {
            ("POST", ["upload", "storage", "v1", "b", bucket, "o"]) => (Kind::Create, Some(*bucket), own("name")),
            (
                "GET",
                ["storage", "v1", "b", bucket, "o", name] | ["download", "storage", "v1", "b", bucket, "o", name],
            ) if !name.is_empty() => {
                (if media { Kind::Read } else { Kind::Describe }, Some(*bucket), Some(decoded(name)))
            }
            ("GET", ["storage", "v1", "b", bucket, "o"]) => {
                (Kind::List, Some(*bucket), Some(own("prefix").unwrap_or_default()))
            }
            ("GET", ["storage", "v1", "b", bucket, "iam", "testPermissions"]) => {
                (Kind::Permissions, Some(*bucket), None)
            }
            ("GET", ["storage", "v1", "b", bucket]) => (Kind::Bucket, Some(*bucket), None),
            // A machine's metadata server is known by its first page.
            ("GET", [""]) if head.header("metadata-flavor").is_some() => (Kind::Token, None, None),
            ("GET", ["computeMetadata", ..]) | ("POST", ["token"] | ["v1", "token"]) => (Kind::Token, None, None),
            ("POST", ["v1", "projects", "-", "serviceAccounts", account])
                if account.ends_with(":generateAccessToken") =>
            {
                (Kind::Token, None, None)
            }
            (_, ["storage", "v1", "b", bucket, "o", name, ..]) => (Kind::Other, Some(*bucket), Some(decoded(name))),
            _ => (Kind::Other, None, None),
        };
        let boundary = head.header("content-type").and_then(|kind| {
            let rest = kind.strip_prefix("multipart/related")?.split_once("boundary=")?.1;
            Some(rest.split(';').next()?.trim().trim_matches('"').to_owned())
        });
        Call {
            kind,
            bucket: bucket.map(decoded),
            name,
            page_token: own("pageToken"),
            boundary: boundary.filter(|_| kind == Kind::Create),
        }
    }

    fn start(&self, body: &[u8]) -> Option<(std::ops::Range<usize>, usize)> {
        multipart::start(body, self.boundary.as_deref()?)
    }

    /// Whether the name of an upload's object has not been read yet.
    pub fn needs_more_of(&self, body: &Body) -> bool {
        self.boundary.is_some() && body.bytes.len() < METADATA_LIMIT && self.start(&body.bytes).is_none()
    }

    /// Takes the name from the metadata of an upload, if the query has none.
    pub fn take_name_from(&mut self, body: &Body) {
        if self.name.is_none()
            && let Some((metadata, _)) = self.start(&body.bytes)
            && let Ok(metadata) = serde_json::from_slice::<Value>(&body.bytes[metadata])
        {
            self.name = metadata["name"].as_str().map(str::to_owned);
        }
    }

    /// Returns how many bytes of the object are in what was read of an upload.
    pub fn media_in(&self, body: &[u8]) -> usize {
        let (Some(boundary), Some((_, from))) = (&self.boundary, self.start(body)) else { return 0 };
        multipart::end(body, from, boundary).unwrap_or(body.len()) - from
    }

    /// Returns Google's answer to such a request with this status.
    pub fn failed(&self, status: u16) -> Answer {
        let object =
            format!("{}/{}", self.bucket.as_deref().unwrap_or_default(), self.name.as_deref().unwrap_or_default());
        match (self.kind, status) {
            (Kind::Read | Kind::Describe, 404) => self.refused(404, "notFound", &format!("No such object: {object}")),
            (_, 400) => self.refused(400, "invalid", "Invalid argument."),
            (_, 401) => self
                .refused(401, "authError", "Invalid Credentials")
                .header("WWW-Authenticate", r#"Bearer realm="https://accounts.google.com/", error="invalid_token""#),
            (_, 403) => self.refused(403, "forbidden", "Access denied."),
            (_, 404) => self.refused(404, "notFound", "The specified bucket does not exist."),
            (_, 408) => Answer::text(408, "Request Timeout"),
            (_, 412) => {
                self.refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
            }
            (_, 416) => self.refused(416, "requestedRangeNotSatisfiable", "Request range not satisfiable"),
            (_, 429) => self.refused(
                429,
                "rateLimitExceeded",
                &format!(
                    "The object {object} exceeded the rate limit for object mutation operations (create, update, and \
                     delete). Please reduce your request rate. See https://cloud.google.com/storage/docs/gcs429."
                ),
            ),
            (_, 502 | 504) => Answer::text(status, "<!DOCTYPE html><title>Error</title><p>That’s an error."),
            (_, 500..) => self.refused(status, "backendError", "We encountered an internal error. Please try again."),
            _ => self.refused(status, "unknown", "An answer of the test."),
        }
    }

    /// Returns an error as Google words it: JSON, but for the content of objects a line of text.
    pub fn refused(&self, status: u16, reason: &str, message: &str) -> Answer {
        if self.kind == Kind::Read { Answer::text(status, message) } else { Answer::error(status, reason, message) }
    }
}
