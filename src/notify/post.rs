//! Posts to a URL that is a secret: whoever has it may post. No log line and no error has more of it than scheme, host and port.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use reqwest::{Client, Response, Url};
use tokio::runtime::Builder;

use crate::error::{Code, Doing, Error, Result};
use crate::gcp::error_text::{retry_after, with_causes};
use crate::gcp::http_client;
use crate::retry::{Backoff, Fault, random};
use crate::text::count_of;

/// A request that is not answered within this time is repeated. Whatever it starts may take some seconds to start.
const TRY: Duration = Duration::from_secs(10);
/// How long the body of an answer is waited for.
const WORD_TIME: Duration = Duration::from_secs(1);
/// The most bytes of a body that are looked at.
const WORD: usize = 64;
/// How often a post looks whether it was called off.
const TICK: Duration = Duration::from_millis(10);

/// A URL to post to, and what it is called.
#[derive(Clone)]
pub struct PostTarget {
    url: Url,
    noun: &'static str,
    /// The beginning of bodies by which a status of success is none.
    denial: Option<&'static str>,
}

impl PostTarget {
    /// A target at an https URL; http is allowed only on this machine.
    ///
    /// # Errors
    /// A text that says what is wrong with the URL, and holds nothing of it.
    pub fn new(url: &str, noun: &'static str) -> Result<Self, String> {
        let url = Url::parse(url.trim()).map_err(|why| why.to_string())?;
        match url.scheme() {
            "https" => Ok(PostTarget { url, noun, denial: None }),
            "http" if http_client::is_loopback(url.as_str()) => Ok(PostTarget { url, noun, denial: None }),
            "http" => Err(format!("it is not encrypted: only a {noun} on this machine may be http://")),
            _ => Err("it is not an https:// URL".into()),
        }
    }

    /// Returns the URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the same target with another URL of the same place.
    pub fn with_url(&self, url: Url) -> Self {
        PostTarget { url, ..*self }
    }

    /// Returns the same target, of which an answer that begins like this is no success, whatever its status.
    pub fn denied_by(self, denial: &'static str) -> Self {
        PostTarget { denial: Some(denial), ..self }
    }

    /// Returns scheme, host and port, which are no secret.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Names the operation in errors and log lines.
    pub fn doing(&self) -> String {
        format!("post to the {} at {}", self.noun, self.origin())
    }

    /// Posts until it is answered with success, further tries are of no use, or the time is over. Blocks.
    ///
    /// # Errors
    /// The last answer that was not a success.
    pub fn post(&self, content_type: &'static str, body: Vec<u8>, within: Duration) -> Result<()> {
        self.post_unless(None, content_type, body, within)
    }

    /// Posts, like [`PostTarget::post`], until `called_off` is set: then no try begins any more, and one that is under way is
    /// broken off.
    ///
    /// # Errors
    /// As [`PostTarget::post`], and if it was called off.
    pub fn post_unless(
        &self,
        called_off: Option<&AtomicBool>,
        content_type: &'static str,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<()> {
        let began = Instant::now();
        let client = http_client::client(self.url.as_str(), || self.doing(), |client| client)?;
        let runtime = Builder::new_current_thread().enable_all().build().doing(|| self.doing())?;
        let posted = runtime.block_on(async {
            let left = within.saturating_sub(began.elapsed());
            tokio::select! {
                biased;
                () = set(called_off) => {
                    Err(Error::unreachable(self.doing(), "it was called off").with_code(Code::Stopped))
                }
                posted = self.post_within(&client, content_type, body, left) => posted,
            }
        });
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
        posted
    }

    async fn post_within(
        &self,
        client: &Client,
        content_type: &'static str,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<()> {
        let began = Instant::now();
        let pace = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(5), patience: within };
        let mut tried = 0u32;
        loop {
            let time = within.saturating_sub(began.elapsed()).min(TRY);
            let answer = tokio::time::timeout(time, self.send(client, content_type, body.clone())).await;
            tried += 1;
            let judged = match answer {
                // Its body has a time of its own: a success that has come stays one, however late the rest is.
                Ok(Ok(answer)) => self.judge(answer, within.saturating_sub(began.elapsed()).min(WORD_TIME)).await,
                Ok(Err(fault)) => Err(fault),
                Err(_) => Err(Fault::passing(format!("no answer came within {:.0} s", time.as_secs_f64()))),
            };
            let (why, after) = match judged {
                Ok(()) => return Ok(()),
                Err(Fault::Passing { why, after }) => (why, after),
                Err(fault) => return Err(fault.while_doing(self.doing())),
            };
            let pause = pace.pause(tried, random()).max(after.unwrap_or_default());
            let passed = began.elapsed();
            if passed.saturating_add(pause) >= within {
                let asks = after.map(|after| format!(" (it asks to wait for {} s)", after.as_secs()));
                let asks = asks.unwrap_or_default();
                let tries = count_of(u64::from(tried), "time");
                let why = format!("{why}{asks}; tried {tries} in {:.1} s", passed.as_secs_f64());
                return Err(Error::unreachable(self.doing(), why));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn send(&self, client: &Client, content_type: &'static str, body: Vec<u8>) -> Result<Response, Fault> {
        let request = client.post(self.url.clone()).header(CONTENT_TYPE, content_type).body(body);
        request.send().await.map_err(|why| {
            let is_bad_url = why.is_builder();
            let why = with_causes(&why.without_url());
            match is_bad_url {
                true => Fault::refused(why, format!("Check the {}'s URL.", self.noun)).with_code(Code::BadSetting),
                false => Fault::passing(why),
            }
        })
    }

    /// Says what an answer means. Its body is waited for no longer than `time`.
    async fn judge(&self, answer: Response, time: Duration) -> Result<(), Fault> {
        let (status, after) = (answer.status(), wish(answer.headers()));
        if status.is_success() {
            let Some(denial) = self.denial else { return Ok(()) };
            let mut said = Vec::new();
            let is_enough = |said: &[u8]| match said.strip_prefix(denial.as_bytes()) {
                Some(rest) => rest.contains(&b')'),
                None => !denial.as_bytes().starts_with(said),
            };
            // What has come by then counts, and a body that does not come is no denial.
            _ = tokio::time::timeout(time, read_into(&mut said, answer, is_enough)).await;
            return match said.strip_prefix(denial.as_bytes()) {
                None => Ok(()),
                Some(rest) => {
                    let why = format!("it answered {status}, {}", self.denied(denial, rest));
                    Err(Fault::refused(why, self.is_it_right()))
                }
            };
        }
        let word = tokio::time::timeout(time, self.word(answer)).await.ok().flatten();
        let word = word.map(|word| format!(", {word}")).unwrap_or_default();
        let why = format!("it answered {status}{word}");
        match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(Fault::Passing { why, after })
            }
            _ if status.is_server_error() => Err(Fault::Passing { why, after }),
            _ if status.is_redirection() => {
                let hint =
                    format!("Set the {}'s URL to the one that it redirects to: redirects are not followed.", self.noun);
                Err(Fault::refused(why, hint).with_code(Code::BadSetting))
            }
            _ => {
                let is_denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
                let code = if is_denied { Code::AccessDenied } else { Code::Failed };
                Err(Fault::refused(why, self.is_it_right()).with_code(code))
            }
        }
    }

    fn is_it_right(&self) -> String {
        format!("Is the {}'s URL right, and is it still valid?", self.noun)
    }

    /// The word that Slack answers for an error: `no_service`, `channel_is_archived`. Pages of other servers may hold the URL
    /// itself, so that no other text is taken.
    async fn word(&self, answer: Response) -> Option<String> {
        let mut bytes = Vec::new();
        read_into(&mut bytes, answer, |_| false).await;
        let word = std::str::from_utf8(&bytes).ok()?.trim();
        let plain = !word.is_empty() && word.len() < WORD && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (plain && !self.url.as_str().contains(word)).then(|| word.to_owned())
    }

    /// The text of an answer that begins with `denial`, without what may be of the URL.
    fn denied(&self, denial: &str, rest: &[u8]) -> String {
        let plain = |byte: &&u8| byte.is_ascii_lowercase() || **byte == b' ';
        let reason: String = rest.iter().take_while(plain).map(|byte| char::from(*byte)).collect();
        let is_of_url = reason.split(' ').any(|word| self.url.as_str().contains(word));
        format!("{denial}{})", if is_of_url { "…" } else { reason.as_str() })
    }
}

/// Reads the beginning of a body, [`WORD`] bytes at most, until it `is_enough`. If this is broken off, `bytes` has what came.
async fn read_into(bytes: &mut Vec<u8>, mut answer: Response, is_enough: impl Fn(&[u8]) -> bool) {
    while bytes.len() < WORD
        && !is_enough(bytes)
        && let Ok(Some(more)) = answer.chunk().await
    {
        bytes.extend_from_slice(&more[..more.len().min(WORD - bytes.len())]);
    }
}

/// Waits until the flag is set; for ever if there is none.
async fn set(flag: Option<&AtomicBool>) {
    let Some(flag) = flag else { return std::future::pending().await };
    while !flag.load(Ordering::Relaxed) {
        tokio::time::sleep(TICK).await;
    }
}

/// How long an answer asks to wait.
fn wish(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?)
}
