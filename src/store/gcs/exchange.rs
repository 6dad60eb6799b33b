//! One request and its answer: sends it, waits, and turns what is no success into a fault.

use std::future::Future;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;

use super::answer::total;
use super::progress::stalled;
use super::{ClockReading, GcsBucket, Result};
use crate::error::Code;
use crate::gcp::error_text::{self, message, retry_after, with_causes};
use crate::retry::Fault;

/// The most bytes that are read of an error's text.
const MESSAGE: usize = 4096;

impl GcsBucket {
    /// Waits for a request on the calling thread, and gives it up when the program is told to stop.
    pub(super) fn wait<T>(&self, request: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        self.runtime.block_on(async {
            let told_to_stop = async {
                while !self.stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::select! {
                biased;
                answer = request => answer,
                () = told_to_stop => Err(Fault::Stopped),
            }
        })
    }

    /// Sends a request without a body; the answer must have the status `good` or 200.
    pub(super) async fn send(&self, request: RequestBuilder, good: StatusCode) -> Result<Response, Fault> {
        let headers = self.credentials.headers(&self.client).await?;
        match tokio::time::timeout(self.limits.stall, request.headers(headers).send()).await {
            Ok(answer) => self.checked(answer, good).await,
            Err(_) => Err(stalled("no answer", self.limits.stall)),
        }
    }

    /// Returns the response if its status is `good` or 200, and otherwise the fault that it means.
    pub(super) async fn checked(&self, answer: reqwest::Result<Response>, good: StatusCode) -> Result<Response, Fault> {
        let response = answer.map_err(transport_fault)?;
        self.note_clock(response.headers());
        let status = response.status();
        if status == good || status == StatusCode::OK {
            return Ok(response);
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(retry_after);
        let range = total(response.headers());
        let text = self.limited(response, MESSAGE).await.unwrap_or_default();
        Err(self.fault(status, &text, (after, range)))
    }

    /// Returns the fault that an unsuccessful answer means; it may have asked to wait (`after`), or told an object's
    /// size in bytes.
    fn fault(&self, status: StatusCode, text: &str, (after, size): (Option<Duration>, Option<u64>)) -> Fault {
        let why = format!("{status}{}", message(text).map(|text| format!(": {text}")).unwrap_or_default());
        match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Fault::Passing { why, after },
            status if status.is_server_error() => Fault::Passing { why, after },
            // The bytes had changed by the time they arrived.
            StatusCode::BAD_REQUEST | StatusCode::PRECONDITION_FAILED
                if text.to_ascii_lowercase().contains("crc32c") =>
            {
                Fault::Passing { why, after }
            }
            StatusCode::FORBIDDEN if text.contains("ateLimitExceeded") => Fault::Passing { why, after },
            StatusCode::UNAUTHORIZED => {
                self.credentials.renew();
                Fault::Token { why }
            }
            // The bucket is missing, not the object: that would be damage.
            StatusCode::NOT_FOUND if text.contains("bucket does not exist") => self.no_bucket(Fault::NotFound),
            StatusCode::NOT_FOUND => Fault::NotFound,
            StatusCode::RANGE_NOT_SATISFIABLE => Fault::OutOfRange { size: size.unwrap_or(0) },
            status if error_text::says_it_exists(status, text) => {
                Fault::Exists { why, hint: self.hint(status, text), code: error_text::code(status, text) }
            }
            status => Fault::refused(why, self.hint(status, text)).with_code(error_text::code(status, text)),
        }
    }

    /// Returns what to do about an answer that will not change.
    fn hint(&self, status: StatusCode, text: &str) -> String {
        match error_text::hint(text) {
            Some(hint) => hint.into(),
            None if status == StatusCode::FORBIDDEN => format!(
                "The credentials ({}) may not do this. Grant roles/storage.objectCreator and roles/storage.objectViewer on the bucket; \
                 `lastgood doctor` shows what is missing.",
                self.credentials.found()
            ),
            None => "Check the address and the bucket; `lastgood doctor` looks at both.".into(),
        }
    }

    /// Remembers the store's time, as a `Date` header tells it.
    pub(super) fn note_clock(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let Some(time) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return };
        let time = time.timestamp();
        let local = Timestamp::try_from(SystemTime::now()).unwrap_or(time);
        let reading = ClockReading { time, at: Instant::now(), ahead: local.duration_since(time) };
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    /// Reads the body of an answer, at most `most` bytes of it.
    async fn limited(&self, mut response: Response, most: usize) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        while bytes.len() < most
            && let Some(chunk) = self.chunk(&mut response).await?
        {
            bytes.extend_from_slice(&chunk[..chunk.len().min(most - bytes.len())]);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, Fault> {
        match tokio::time::timeout(self.limits.stall, response.chunk()).await {
            Ok(chunk) => chunk.map_err(transport_fault),
            Err(_) => Err(stalled("no bytes", self.limits.stall)),
        }
    }

    pub(super) async fn json<T: for<'de> Deserialize<'de>>(&self, response: Response) -> Result<T, Fault> {
        let text = self.limited(response, 16 << 20).await?;
        if let Some(status) = error_text::in_disguise(&text) {
            return Err(self.fault(status, &text, (None, None)));
        }
        serde_json::from_str(&text).map_err(|why| Fault::passing(format!("the answer cannot be read: {why}")))
    }

    /// Turns "not found" into "there is no bucket", for requests that do not ask for an existing object: not an object,
    /// the bucket is missing.
    pub(super) fn no_bucket(&self, fault: Fault) -> Fault {
        match fault {
            Fault::NotFound => Fault::refused(
                format!("there is no bucket {}", self.bucket),
                format!(
                    "Check its name, or make it: `gcloud storage buckets create gs://{} \
                     --uniform-bucket-level-access`.",
                    self.bucket
                ),
            )
            .with_code(Code::NoBucket),
            other => other,
        }
    }
}

/// Returns the fault of a request that broke off, or whose answer did.
pub(super) fn transport_fault(why: reqwest::Error) -> Fault {
    let builder = why.is_builder();
    let text = with_causes(&why.without_url());
    if builder {
        Fault::refused(text, "Check the address of the bucket.").with_code(Code::BadSetting)
    } else {
        Fault::passing(text)
    }
}
