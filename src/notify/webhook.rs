//! Posts a run's end as JSON to a webhook.
//!
//! ```json
//! {"text": "The backup on web-1 is complete: …", "event": {"specversion": "1.0", "type": "dev.lastgood.backup.completed", …}}
//! ```
//!
//! `text` is what Slack's incoming webhooks show (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>),
//! and Mattermost's, Rocket.Chat's and Google Chat's. The event is not spread over the same object, which would be a CloudEvent
//! with one more attribute: Mattermost takes a member `type` for one of its own and refuses the message. Google Chat refuses any
//! member that it does not know (as in ansible/awx#4665), and Slack's documentation leaves open what it does with them; so the
//! hosts that are known to be chats are sent `text` alone. They would show nothing else.
//!
//! The URL is a secret: whoever has it may post. No log line and no error has more of it than scheme, host and port.

use std::fmt;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use reqwest::{Client, Response, Url};
use serde_json::json;
use tokio::runtime::Builder;

use super::event::Notification;
use crate::error::{Code, Doing, Error, Result};
use crate::gcp::error_text::{retry_after, with_causes};
use crate::gcp::http_client;
use crate::report::{JobOutput, Outcome, Report};
use crate::retry::{Backoff, random};

/// Hosts of chats: they show `text`, and some refuse anything beside it.
const CHATS: [&str; 4] = ["hooks.slack.com", "hooks.slack-gov.com", "chat.googleapis.com", "discord.com"];
/// A request that is not answered within this time is repeated. Whatever it starts may take some seconds to start.
const TRY: Duration = Duration::from_secs(10);
/// How long the body of an answer that is not a success is waited for.
const WORD_TIME: Duration = Duration::from_secs(1);
/// The most bytes of that body that are looked at.
const WORD: usize = 64;

/// The results of which the webhook is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WebhookFilter {
    /// All results.
    #[default]
    All,
    /// Results that are not complete.
    NotComplete,
}

/// Where to post, and which results.
#[derive(Clone)]
pub struct Webhook {
    url: Url,
    when: WebhookFilter,
}

/// Why a post was not taken.
enum PostFailure {
    /// It may be taken another time, but not before `after`.
    Passing { why: String, after: Option<Duration> },
    /// It will not be taken, however often it is tried.
    Refused { why: String, code: Code, hint: &'static str },
}

impl Webhook {
    /// A webhook at an https URL; http is allowed only on this machine.
    ///
    /// # Errors
    /// A text that says what is wrong with the URL, and holds nothing of it.
    pub fn new(url: &str, when: WebhookFilter) -> Result<Self, String> {
        let url = Url::parse(url.trim()).map_err(|why| why.to_string())?;
        match url.scheme() {
            "https" => Ok(Webhook { url, when }),
            "http" if http_client::is_loopback(url.as_str()) => Ok(Webhook { url, when }),
            "http" => Err("it is not encrypted: only a webhook on this machine may be http://".into()),
            _ => Err("it is not an https:// URL".into()),
        }
    }

    /// Whether the webhook is told of this report. If it is told only of runs that are not complete, it hears of a good snapshot
    /// that is not whole when that state begins, and again when it has lasted for long.
    pub(super) fn wants(&self, report: &Report) -> bool {
        let alert = || match &report.done {
            Some(JobOutput::Backup(done)) => done.taken.news || !done.taken.notices.is_empty(),
            _ => false,
        };
        self.when == WebhookFilter::All
            || match report.result {
                Outcome::Complete | Outcome::Stale => alert(),
                _ => true,
            }
    }

    /// Names the operation in errors and log lines.
    pub(super) fn doing(&self) -> String {
        format!("post to the webhook at {}", self.url.origin().ascii_serialization())
    }

    /// The body that is posted.
    ///
    /// # Errors
    /// The body cannot be written as JSON; that of a run always can.
    pub(super) fn body(&self, text: &str, told: &Notification) -> Result<Vec<u8>> {
        let chat = self.url.host_str().is_some_and(|host| CHATS.contains(&host));
        let body = if chat { json!({ "text": text }) } else { json!({ "text": text, "event": told.structured()? }) };
        let not_encoded = |why| Error::failed("encode the body for the webhook", why).with_code(Code::Internal);
        serde_json::to_vec(&body).map_err(not_encoded)
    }

    /// Posts until it is answered with success, further tries are of no use, or the time is over. Blocks.
    ///
    /// # Errors
    /// The last answer that was not a success.
    pub(super) fn post(&self, body: Vec<u8>, within: Duration) -> Result<()> {
        let began = Instant::now();
        let client = http_client::client(self.url.as_str(), || self.doing(), |client| client)?;
        let runtime = Builder::new_current_thread().enable_all().build().doing(|| self.doing())?;
        let pace = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(5), patience: within };
        let posted = runtime.block_on(async {
            let mut tried = 0;
            loop {
                let time = within.saturating_sub(began.elapsed()).min(TRY);
                let answer = tokio::time::timeout(time, self.once(&client, body.clone())).await;
                tried += 1;
                let (why, after) = match answer {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(PostFailure::Passing { why, after })) => (why, after),
                    Ok(Err(PostFailure::Refused { why, code, hint })) => {
                        return Err(Error::failed(self.doing(), why).with_code(code).hint(hint));
                    }
                    Err(_) => (format!("no answer came within {:.0} s", time.as_secs_f64()), None),
                };
                let pause = pace.pause(tried, random()).max(after.unwrap_or_default());
                let passed = began.elapsed();
                if passed.saturating_add(pause) >= within {
                    let asks = after.map(|after| format!(" (it asks to wait for {} s)", after.as_secs()));
                    let asks = asks.unwrap_or_default();
                    let why = format!("{why}{asks}; tried {tried} times in {:.1} s", passed.as_secs_f64());
                    return Err(Error::unreachable(self.doing(), why));
                }
                tokio::time::sleep(pause).await;
            }
        });
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
        posted
    }

    async fn once(&self, client: &Client, body: Vec<u8>) -> Result<(), PostFailure> {
        let request = client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let answer = request.send().await.map_err(|why| {
            let is_bad_url = why.is_builder();
            let why = with_causes(&why.without_url());
            match is_bad_url {
                true => PostFailure::Refused { why, code: Code::BadSetting, hint: "Check the webhook's URL." },
                false => PostFailure::Passing { why, after: None },
            }
        })?;
        let (status, after) = (answer.status(), wish(answer.headers()));
        if status.is_success() {
            return Ok(());
        }
        let word = tokio::time::timeout(WORD_TIME, self.word(answer)).await.ok().flatten();
        let word = word.map(|word| format!(", {word}")).unwrap_or_default();
        let why = format!("it answered {status}{word}");
        match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(PostFailure::Passing { why, after })
            }
            _ if status.is_server_error() => Err(PostFailure::Passing { why, after }),
            _ if status.is_redirection() => {
                let hint = "Set the webhook's URL to the one that it redirects to: redirects are not followed.";
                Err(PostFailure::Refused { why, code: Code::BadSetting, hint })
            }
            _ => {
                let is_denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
                let code = if is_denied { Code::AccessDenied } else { Code::Failed };
                Err(PostFailure::Refused { why, code, hint: "Is the webhook's URL right, and is it still valid?" })
            }
        }
    }

    /// The word that Slack answers for an error: `no_service`, `channel_is_archived`. Pages of other servers may hold the URL
    /// itself, so that no other text is taken.
    async fn word(&self, mut answer: Response) -> Option<String> {
        let bytes = answer.chunk().await.ok().flatten()?;
        let word = std::str::from_utf8(&bytes).ok()?.trim();
        let plain = (1..=WORD).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (plain && !self.url.as_str().contains(word)).then(|| word.to_owned())
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.url.origin().ascii_serialization();
        f.debug_struct("Webhook").field("origin", &origin).field("when", &self.when).finish()
    }
}

/// How long an answer asks to wait.
fn wish(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?)
}
