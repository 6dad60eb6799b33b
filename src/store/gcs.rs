//! A store in Google Cloud Storage: each method is one request of its JSON API.
//!
//! The client is our own, on `reqwest`, with `google-cloud-auth` for the credentials, and not the official
//! `google-cloud-storage`. Measured with version 1.21: its buffered resumable upload finalised corrupt objects after a
//! partial write that was answered by a 503 (googleapis/google-cloud-rust#6683); it adds 12 MB to the program and
//! minutes to a build; and its gRPC half can be tested against no emulator that a package registry has. A vault needs
//! little: objects are immutable, at most 32 MiB and in memory, so that an upload is one multipart request with a
//! precondition and a checksum, and a read is a range.
//!
//! It uses HTTP/1.1 and a connection for each request in flight: on HTTP/2 they would all share one connection's flow
//! control, which is why Cloud Storage FUSE defaults to HTTP/1.1, too.
//!
//! This file is the border between the engine's threads and the asynchronous world: a method enters the runtime, waits for
//! its request there, and gives up when the program is told to stop.

pub(crate) mod answer;
mod exchange;
mod progress;

use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, Client, RequestBuilder};
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use self::answer::{Object, stored_crc32c, total};
use self::exchange::transport_fault;
use self::progress::{BodyProgress, stalled};
use super::requests::{Described, Page, PartialRead, Requests, Span};
use super::{Meta, Result};
use crate::error::{self, Code, Error};
use crate::gcp::cloud::Cloud;
use crate::gcp::credentials::{Authenticator, Scope};
use crate::gcp::http_client;
use crate::retry::Fault;

/// The characters that need no escape in a part of a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The size of the chunks that a body is handed on in, in bytes.
const CHUNK: usize = 256 << 10;
/// The largest difference of the local clock that is accepted. With a larger one, times would be wrong, and signatures
/// are refused.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
const PAGE: u32 = 1000;

/// How long a request may go without progress.
#[derive(Debug, Clone, Copy)]
pub struct RequestTimeouts {
    /// Time without a byte of an answer, or without taking one of a body.
    pub stall: Duration,
    /// Time without an answer after the last byte of a body was handed to the system, whose buffers may still hold much
    /// of it.
    pub answer: Duration,
}

impl Default for RequestTimeouts {
    fn default() -> Self {
        RequestTimeouts { stall: Duration::from_secs(10), answer: Duration::from_secs(60) }
    }
}

/// The time that the store's clock showed last, and when that was.
#[derive(Clone, Copy)]
struct ClockReading {
    time: Timestamp,
    at: Instant,
    /// How far the local clock was ahead of the store's.
    ahead: SignedDuration,
}

/// A prefix in a bucket.
pub struct GcsBucket {
    runtime: Runtime,
    client: Client,
    base: String,
    bucket: String,
    /// The prefix with the slash after it; empty for the bucket itself.
    prefix: String,
    /// The project that is billed, if it is not the bucket's.
    user_project: Option<String>,
    credentials: Authenticator,
    limits: RequestTimeouts,
    clock: Mutex<Option<ClockReading>>,
    stop: Arc<AtomicBool>,
}

impl GcsBucket {
    /// Returns a client for `prefix` in `bucket`; sends no request yet.
    ///
    /// # Errors
    /// The credentials cannot be used; the system has no certificates or threads.
    pub fn new(
        cloud: &Cloud,
        bucket: &str,
        prefix: &str,
        limits: RequestTimeouts,
        stop: Arc<AtomicBool>,
    ) -> error::Result<GcsBucket> {
        let doing = || format!("open the bucket {bucket}");
        let base = cloud.base().to_owned();
        let plain = base.starts_with("http://");
        let client =
            http_client::client(&base, doing, |client| client.connect_timeout(limits.stall).tcp_nodelay(true))?;
        if plain && cloud.emulator.is_none() && !http_client::is_loopback(&base) {
            let why = format!(
                "the endpoint {} is not encrypted: others could read the credentials on the way",
                http_client::origin(&base)
            );
            return Err(Error::usage(doing(), why).with_code(Code::BadSetting).hint("Give an https:// endpoint."));
        }
        let credentials = Authenticator::new(cloud, Scope::Storage).map_err(|fault| fault.while_doing(doing()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(|why| Error::io(doing(), &why))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let clock = Mutex::default();
        let user_project = cloud.user_project.clone();
        Ok(GcsBucket {
            runtime,
            client,
            base,
            bucket: bucket.into(),
            prefix,
            user_project,
            credentials,
            limits,
            clock,
            stop,
        })
    }

    /// Sends the endpoint a request without credentials: whatever it answers, it can be reached.
    ///
    /// # Errors
    /// The network does not let the request through.
    pub fn reach(&self) -> Result<(), Fault> {
        let request = self.request(Method::GET, &format!("{}/", self.base));
        self.wait(async {
            let answer = tokio::time::timeout(self.limits.stall, request.send()).await;
            let answer = answer.map_err(|_| stalled("no answer", self.limits.stall))?;
            self.note_clock(answer.map_err(transport_fault)?.headers());
            Ok(())
        })
    }

    /// Gets a token, if one is needed.
    ///
    /// # Errors
    /// There is no token, because none can be had, or none within `limit`.
    pub fn sign_in(&self, limit: Duration) -> Result<(), Fault> {
        self.wait(async {
            let token = tokio::time::timeout(limit, self.credentials.headers(&self.client)).await;
            token.map_err(|_| stalled("no token", limit))?.map(|_| ())
        })
    }

    /// Returns the account that the credentials belong to, if they or the metadata server name it.
    pub fn account(&self) -> Option<String> {
        self.wait(async { Ok(self.credentials.account(&self.client).await) }).ok().flatten()
    }

    /// Returns how far the local clock was ahead of the store's at its last answer.
    pub fn ahead(&self) -> Option<SignedDuration> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).map(|reading| reading.ahead)
    }

    /// Returns these fields of the bucket's own description.
    ///
    /// # Errors
    /// Any fault: most accounts that read and write objects may not ask.
    pub fn describe_bucket(&self, fields: &str) -> Result<serde_json::Value, Fault> {
        self.wait(async {
            let request = self.request(Method::GET, &self.bucket_url("")).query(&[("fields", fields)]);
            let response = self.send(request, StatusCode::OK).await?;
            self.json(response).await
        })
    }

    /// Returns those of `permissions` on the bucket that the credentials have.
    ///
    /// # Errors
    /// Any fault; [`Fault::NotFound`] if the server does not know this request, as emulators do not.
    pub fn test_permissions(&self, permissions: &[&str]) -> Result<Vec<String>, Fault> {
        #[derive(Deserialize)]
        struct Granted {
            #[serde(default)]
            permissions: Vec<String>,
        }
        let mut query: Vec<_> = permissions.iter().map(|permission| ("permissions", *permission)).collect();
        query.push(("fields", "permissions"));
        self.wait(async {
            let request = self.request(Method::GET, &self.bucket_url("/iam/testPermissions")).query(&query);
            let response = self.send(request, StatusCode::OK).await?;
            let granted: Granted = self.json(response).await?;
            Ok(granted.permissions)
        })
    }

    fn bucket_url(&self, rest: &str) -> String {
        format!("{}/storage/v1/b/{}{rest}", self.base, utf8_percent_encode(&self.bucket, PLAIN))
    }

    fn object_url(&self, name: &str) -> String {
        let name = format!("{}{name}", self.prefix);
        self.bucket_url(&format!("/o/{}", utf8_percent_encode(&name, PLAIN)))
    }

    fn request(&self, method: Method, url: &str) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.user_project {
            Some(project) => request.query(&[("userProject", project)]),
            None => request,
        }
    }

    /// Hands the pieces on in chunks, and notes each time that one was taken.
    async fn feed(pieces: &[&[u8]], to: mpsc::Sender<Bytes>, progress: &BodyProgress) {
        for chunk in pieces.iter().flat_map(|piece| piece.chunks(CHUNK)) {
            if to.send(Bytes::copy_from_slice(chunk)).await.is_err() {
                return;
            }
            progress.note();
        }
        progress.all();
    }
}

impl Requests for GcsBucket {
    fn url(&self) -> String {
        format!("gs://{}/{}", self.bucket, self.prefix).trim_end_matches('/').to_owned()
    }

    fn create(&self, name: &str, body: &[&[u8]], crc32c: u32) -> Result<(), Fault> {
        let crc32c = BASE64.encode(crc32c.to_be_bytes());
        let kind = content_type(name);
        let described = serde_json::json!({
            "name": format!("{}{name}", self.prefix),
            "contentType": kind,
            "crc32c": crc32c,
        });
        // The boundary is random, so no line of a body equals it.
        let mut boundary = [0; 24];
        getrandom::fill(&mut boundary).map_err(|why| Fault::refused(format!("no random bytes: {why}"), ""))?;
        let boundary = boundary.map(|byte| format!("{byte:02x}")).concat();
        let head = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=utf-8\r\n\r\n{described}\r\n--{boundary}\r\n\
             content-type: {kind}\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let pieces: Vec<&[u8]> =
            [head.as_bytes()].into_iter().chain(body.iter().copied()).chain([tail.as_bytes()]).collect();
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let url = format!("{}/upload/storage/v1/b/{}/o", self.base, utf8_percent_encode(&self.bucket, PLAIN));
        let query = [("uploadType", "multipart"), ("ifGenerationMatch", "0"), ("fields", "size,crc32c")];
        self.wait(async {
            let headers = self.credentials.headers(&self.client).await?;
            // Two chunks are on the way at a time; the rest stays where it is until its turn.
            let (to, mut from) = mpsc::channel::<Bytes>(1);
            let stream = futures_util::stream::poll_fn(move |context| {
                from.poll_recv(context).map(|c| c.map(Ok::<_, Infallible>))
            });
            let request = self
                .request(Method::POST, &url)
                .query(&query)
                .headers(headers)
                .header(CONTENT_TYPE, format!("multipart/related; boundary={boundary}"))
                .header(CONTENT_LENGTH, length)
                .body(Body::wrap_stream(stream));
            let progress = BodyProgress::new(self.limits);
            // An answer may come before everything was sent. Then no more of the body is wanted, and nobody may be
            // taking it.
            let feeding = async {
                Self::feed(&pieces, to, &progress).await;
                std::future::pending::<Infallible>().await
            };
            let answer = tokio::select! {
                answer = request.send() => answer,
                fault = progress.watch() => return Err(fault),
                never = feeding => match never {},
            };
            let response = self.checked(answer, StatusCode::OK).await.map_err(|fault| self.no_bucket(fault))?;
            // The store checked the bytes. A server that does not check would store what nobody can read.
            match self.json::<Object>(response).await?.described() {
                None => Err(Fault::passing("the answer does not say what was stored")),
                Some(Described { size, crc32c: Some(stored) })
                    if size == body.iter().map(|piece| piece.len() as u64).sum::<u64>()
                        && BASE64.encode(stored.to_be_bytes()) == crc32c =>
                {
                    Ok(())
                }
                _ => Err(Fault::refused(
                    "the store says that it keeps other bytes than those that were sent",
                    "Is a proxy between here and the bucket? The object is not used.",
                )),
            }
        })
    }

    fn read(&self, name: &str, span: Span, part: &mut PartialRead) -> Result<(), Fault> {
        let from = span.offset + part.bytes.len() as u64;
        let whole = span.offset == 0 && span.length.is_none();
        let end = match span.length {
            Some(length) => Some(span.offset.checked_add(length).ok_or(Fault::OutOfRange { size: 0 })?),
            None => part.size,
        };
        if !part.bytes.is_empty() && end == Some(from) {
            // The stream broke after its last byte.
            return Ok(());
        }
        self.wait(async {
            let mut request = self.request(Method::GET, &self.object_url(name)).query(&[("alt", "media")]);
            if let Some(generation) = part.generation {
                request = request.query(&[("generation", generation)]);
            }
            request = match end {
                Some(end) => request.header(RANGE, format!("bytes={from}-{}", end - 1)),
                None if from > 0 => request.header(RANGE, format!("bytes={from}-")),
                None => request,
            };
            let mut response = match self.send(request, StatusCode::PARTIAL_CONTENT).await {
                Ok(response) => response,
                // The object was replaced while it was read, which nothing of ours does: start again.
                Err(Fault::NotFound) if part.generation.is_some() => {
                    *part = PartialRead::default();
                    return Err(Fault::passing("the object's generation is gone"));
                }
                Err(fault) => return Err(fault),
            };
            let headers = response.headers();
            let number = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
            part.generation = part.generation.or_else(|| number("x-goog-generation"));
            part.crc32c = part.crc32c.or_else(|| stored_crc32c(headers));
            if response.status() == StatusCode::OK && part.crc32c.is_none() {
                // Google sends it with every whole object, so the answer comes from something on the way.
                return Err(Fault::passing("the answer has no checksum (x-goog-hash): it is not the object's"));
            }
            let size = match response.status() {
                StatusCode::PARTIAL_CONTENT => total(headers),
                _ => response.content_length().or_else(|| number("x-goog-stored-content-length")),
            };
            part.size = part.size.or(size);
            if response.status() == StatusCode::OK && (from > 0 || !whole) {
                // A server that does not know ranges sends everything; from the middle on that would be wrong bytes.
                return Err(Fault::refused(
                    "the answer is the whole object, and a range of it was asked for",
                    "Is a proxy between here and the bucket?",
                ));
            }
            if let Some(size) = part.size
                && (size > span.limit && whole || end.is_some_and(|end| end > size))
            {
                return Err(Fault::OutOfRange { size });
            }
            let most = end.map_or(span.limit, |end| end - span.offset);
            if let Some(size) = part.size.filter(|_| part.bytes.capacity() == 0) {
                part.bytes.reserve_exact(most.min(size.saturating_sub(span.offset)) as usize);
            }
            while let Some(chunk) = self.chunk(&mut response).await? {
                if part.bytes.len() as u64 + chunk.len() as u64 > most {
                    return Err(Fault::OutOfRange { size: part.size.unwrap_or(u64::MAX) });
                }
                part.bytes.extend_from_slice(&chunk);
            }
            let wanted = end.or(part.size).map(|end| end - span.offset);
            match wanted {
                Some(wanted) if (part.bytes.len() as u64) < wanted => Err(Fault::passing("the answer was cut short")),
                _ => Ok(()),
            }
        })
    }

    fn describe(&self, name: &str) -> Result<Described, Fault> {
        self.wait(async {
            let request = self.request(Method::GET, &self.object_url(name)).query(&[("fields", "size,crc32c")]);
            let response = self.send(request, StatusCode::OK).await?;
            let object: Object = self.json(response).await?;
            object.described().ok_or_else(|| Fault::passing("the answer does not say the object's size"))
        })
    }

    fn page(&self, folder: &str, from: &str, next: Option<&str>) -> Result<Page, Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ListResponse {
            kind: Option<String>,
            items: Option<Vec<Object>>,
            next_page_token: Option<String>,
        }
        let prefix = format!("{}{folder}", self.prefix);
        let mut query = vec![
            ("prefix", prefix),
            ("maxResults", PAGE.to_string()),
            ("fields", "kind,nextPageToken,items(name,size,timeCreated,customTime)".into()),
        ];
        query.extend(
            Some(from).filter(|from| !from.is_empty()).map(|from| ("startOffset", format!("{}{from}", self.prefix))),
        );
        query.extend(next.map(|token| ("pageToken", token.to_owned())));
        self.wait(async {
            let request = self.request(Method::GET, &self.bucket_url("/o")).query(&query);
            let response = self.send(request, StatusCode::OK).await.map_err(|fault| self.no_bucket(fault))?;
            let listed: ListResponse = self.json(response).await?;
            // An answer without objects is taken for a listing only if it says that it is one: a caller that sees an
            // empty listing may make a new vault.
            let items = match (listed.items, listed.kind) {
                (Some(items), _) => items,
                (None, Some(_)) => Vec::new(),
                (None, None) => return Err(Fault::passing("the answer is no listing")),
            };
            let mut objects = Vec::with_capacity(items.len());
            // Released objects, those that the keeper has let go, are left out: they are about to vanish.
            for object in items.into_iter().filter(|object| object.custom_time.is_none()) {
                let size = object.size.as_deref().and_then(|size| size.parse().ok());
                let name = object.name.as_deref().and_then(|name| name.strip_prefix(&self.prefix));
                match (name, size, object.time_created) {
                    (Some(name), Some(size), Some(created)) => {
                        objects.push(Meta { name: name.to_owned(), size, created });
                    }
                    _ => {
                        return Err(Fault::passing("the listing has an object without name, size or time of creation"));
                    }
                }
            }
            Ok(Page { objects, next: listed.next_page_token.filter(|token| !token.is_empty()) })
        })
    }

    fn time(&self) -> Result<Option<Timestamp>, Fault> {
        let Some(reading) = *self.clock.lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(None) };
        if reading.ahead.abs() > SKEW {
            let direction = if reading.ahead.is_positive() { "ahead" } else { "behind" };
            let off = SignedDuration::from_secs(reading.ahead.abs().as_secs());
            let why = format!("this machine's clock is {off:#} {direction} of the store's ({} there)", reading.time);
            return Err(Fault::refused(
                why,
                "Set the clock (`timedatectl set-ntp true`, or the host's), and run it again.",
            ));
        }
        let passed = SignedDuration::try_from(reading.at.elapsed()).unwrap_or_default();
        Ok(Some(reading.time.saturating_add(passed).unwrap_or(reading.time)))
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("json") => "application/json",
        Some("md") => "text/markdown; charset=utf-8",
        Some("zst") => "application/zstd",
        _ => "application/octet-stream",
    }
}
