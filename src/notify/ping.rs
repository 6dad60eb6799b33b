//! Pings a dead man's switch: a service that raises the alarm when a backup did not begin, did not end, or failed.
//!
//! Two conventions are spoken, told apart by the host:
//!
//! | host | a backup begins | it is complete | it is anything else |
//! |---|---|---|---|
//! | `cronitor.link` | `?state=run&series=RUN` | `?state=complete&series=RUN` | `?state=fail&series=RUN` |
//! | any other | `URL/start?rid=UUID` | `URL?rid=UUID` | `URL/fail?rid=UUID` |
//!
//! The first is Cronitor's (<https://cronitor.io/docs/telemetry-api>), the second that of Healthchecks.io
//! (<https://healthchecks.io/docs/http_api/>) and of those that follow it. `RUN` is the run's id; `UUID` is made of it, since the
//! second convention takes nothing else. The body of the end is the sentence that the webhook gets; Cronitor, which keeps no body,
//! has its beginning as `message`, too.
//!
//! Healthchecks.io answers 200 also for a check that it does not know, and for pings that are too many: `OK (not found)`,
//! `OK (rate limited)`. Such a ping was not told.
//!
//! An end that could not be told is an error in the log, and no warning like that of a webhook: `--quiet` hides warnings, and a
//! switch that is never reached, or does not know its check, watches nothing without anybody hearing of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use reqwest::Url;

use super::post::PostTarget;
use crate::error::Result;
use crate::report::{Action, Outcome, Report, RunId};

/// How long one ping is tried: nobody's backup waits for a service that only watches it.
pub const PING_TIME: Duration = Duration::from_secs(5);
/// How long the end waits for the ping of the beginning once the program was told to stop: it has less than the time for one ping.
const START_TIME_LEFT: Duration = Duration::from_secs(1);
/// How long the end waits for the ping of the beginning to see that it was called off, which takes it a few milliseconds.
const CALLED_OFF: Duration = Duration::from_millis(100);
/// The beginning of the bodies with which Healthchecks.io says that a ping did not count.
const DENIAL: &str = "OK (";
/// The most bytes of Cronitor's `message` as the URL has it.
const MESSAGE: usize = 2000;
/// How often the ping of an end looks whether that of the beginning is over.
const TICK: Duration = Duration::from_millis(10);
const TEXT: &str = "text/plain; charset=utf-8";
/// The body of a beginning: a request without a body has no length, which some servers refuse.
const BEGINS: &str = "A backup begins.";

/// Where to ping.
#[derive(Clone)]
pub struct Ping(PostTarget);

/// The state of a backup, as the service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PingState {
    Run,
    Complete,
    Fail,
}

/// The ping of a backup's beginning, which is under way or over.
#[derive(Debug, Clone, Default)]
pub struct PingStart {
    thread: Option<Arc<JoinHandle<()>>>,
    /// Set when the end is about to be told: the beginning must not be told after it.
    called_off: Arc<AtomicBool>,
}

impl Ping {
    /// A dead man's switch at an https URL; http is allowed only on this machine.
    ///
    /// # Errors
    /// A text that says what is wrong with the URL, and holds nothing of it.
    pub fn new(url: &str) -> Result<Self, String> {
        PostTarget::new(url, "ping service").map(|target| Ping(target.denied_by(DENIAL)))
    }

    /// Names the operation in errors and log lines.
    pub(super) fn doing(&self) -> String {
        self.0.doing()
    }

    /// Pings that a backup begins, in a thread of its own. What goes wrong is not told: if the service is away, the end cannot be
    /// told either, and that is; and one that knows no beginnings answers 404.
    pub(super) fn start(&self, run: RunId) -> PingStart {
        let target = self.0.with_url(self.url(PingState::Run, run, None));
        let called_off = Arc::<AtomicBool>::default();
        let told = called_off.clone();
        let work = move || {
            if let Err(why) = target.post_unless(Some(&told), TEXT, BEGINS.into(), PING_TIME) {
                tracing::debug!("the beginning of the run {run} could not be told: {}", why.what());
            }
        };
        let thread = Builder::new().name("ping".into()).spawn(work).ok().map(Arc::new);
        PingStart { thread, called_off }
    }

    /// Whether the service is told of this report.
    pub(super) fn wants(&self, report: &Report) -> bool {
        report.action == Action::Backup
    }

    /// Pings how a backup ended, after the ping that it began; `hurry` says whether the program was told to stop. Blocks.
    ///
    /// # Errors
    /// The last answer that was not a success.
    pub(super) fn end(
        &self,
        outcome: Outcome,
        run: RunId,
        text: &str,
        start: &PingStart,
        within: Duration,
        hurry: &AtomicBool,
    ) -> Result<()> {
        let until = Instant::now() + within.min(PING_TIME);
        let (mut wait, mut hurries) = (until, false);
        // A beginning that comes after its end would be a backup that never ends.
        while start.is_under_way() && Instant::now() < wait {
            if !hurries && hurry.load(Ordering::Relaxed) {
                (wait, hurries) = (wait.min(Instant::now() + START_TIME_LEFT), true);
            }
            std::thread::sleep(TICK);
        }
        start.call_off();
        let state = if outcome == Outcome::Complete { PingState::Complete } else { PingState::Fail };
        // Only chats need these escapes.
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1)).min(within);
        self.0.with_url(self.url(state, run, Some(&text))).post(TEXT, text.into_bytes(), left)
    }

    fn url(&self, state: PingState, run: RunId, message: Option<&str>) -> Url {
        let mut url = self.0.url().clone();
        if url.host_str() == Some("cronitor.link") {
            let state = match state {
                PingState::Run => "run",
                PingState::Complete => "complete",
                PingState::Fail => "fail",
            };
            let mut query = url.query_pairs_mut();
            query.append_pair("state", state).append_pair("series", &run.to_string());
            if let Some(message) = message {
                query.append_pair("message", beginning(message));
            }
            drop(query);
            return url;
        }
        let end = match state {
            PingState::Run => Some("start"),
            PingState::Complete => None,
            PingState::Fail => Some("fail"),
        };
        // An https URL always has a path.
        if let (Some(end), Ok(mut path)) = (end, url.path_segments_mut()) {
            path.pop_if_empty().push(end);
        }
        url.query_pairs_mut().append_pair("rid", &uuid(run));
        url
    }
}

impl PingStart {
    fn is_under_way(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Has it sent nothing more. What was sent already, and not answered, cannot be taken back.
    fn call_off(&self) {
        self.called_off.store(true, Ordering::Relaxed);
        let until = Instant::now() + CALLED_OFF;
        while self.is_under_way() && Instant::now() < until {
            std::thread::sleep(TICK);
        }
    }
}

impl fmt::Debug for Ping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ping").field("origin", &self.0.origin()).finish()
    }
}

/// Returns the beginning of a text that has no more than [`MESSAGE`] bytes in a query.
fn beginning(text: &str) -> &str {
    let mut bytes = 0;
    let end = text.char_indices().find(|(_, c)| {
        let plain = c.is_ascii_alphanumeric() || " *-._".contains(*c);
        bytes += if plain { 1 } else { 3 * c.len_utf8() };
        bytes > MESSAGE
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// Returns the UUID of a run: of version 8, whose bits are free (RFC 9562).
fn uuid(run: RunId) -> String {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(&run.0).as_bytes()[..16]);
    (id[6], id[8]) = (id[6] & 0x0f | 0x80, id[8] & 0x3f | 0x80);
    let hex = u128::from_be_bytes(id);
    let part = |shift: u32, digits: usize| format!("{:0digits$x}", hex >> shift & ((1 << (digits * 4)) - 1));
    [part(96, 8), part(80, 4), part(64, 4), part(48, 4), part(0, 12)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hex::Hex;

    #[test]
    fn both_conventions() {
        let run = Hex([1, 2, 3, 4, 5, 6, 7, 8]);
        let urls = |url: &str| {
            let ping = Ping::new(url).unwrap();
            [(PingState::Run, None), (PingState::Complete, Some("100 % é.")), (PingState::Fail, Some("No."))]
                .map(|(state, message)| ping.url(state, run, message).to_string())
        };
        let id = uuid(run);
        for (url, base, query) in [
            ("https://hc-ping.com/0a1b", "https://hc-ping.com/0a1b", "?"),
            ("https://hc-ping.com/key/slug?create=1", "https://hc-ping.com/key/slug", "?create=1&"),
        ] {
            let wanted = ["/start", "", "/fail"].map(|end| format!("{base}{end}{query}rid={id}"));
            assert_eq!(urls(url), wanted);
        }
        assert_eq!(urls("https://ping.example.com/x/")[2], format!("https://ping.example.com/x/fail?rid={id}"));
        let wanted = [("run", ""), ("complete", "&message=100+%25+%C3%A9."), ("fail", "&message=No.")].map(
            |(state, message)| {
                format!("https://cronitor.link/p/key/job?env=prod&state={state}&series=0102030405060708{message}")
            },
        );
        assert_eq!(urls("https://cronitor.link/p/key/job?env=prod"), wanted);
    }

    #[test]
    fn a_message_in_a_url_has_2000_bytes_at_most() {
        for (text, bytes) in
            [("x".repeat(5000), 2000), ("é".repeat(5000), 1998), ("a b".repeat(10), 30), (String::new(), 0)]
        {
            let ping = Ping::new("https://cronitor.link/p/key/job").unwrap();
            let url = ping.url(PingState::Fail, Hex([1; 8]), Some(&text)).to_string();
            let (_, message) = url.split_once("&message=").unwrap();
            assert_eq!(message.len(), bytes, "{message}");
        }
    }

    #[test]
    fn a_run_has_one_uuid_and_another_run_another() {
        let (one, other) = (uuid(Hex([1; 8])), uuid(Hex([2; 8])));
        assert_eq!((one == other, &one), (false, &uuid(Hex([1; 8]))));
        let parts: Vec<_> = one.split('-').map(str::len).collect();
        assert_eq!((&parts[..], &one[14..15]), (&[8, 4, 4, 4, 12][..], "8"));
        assert!("89ab".contains(&one[19..20]) && one.chars().all(|c| c == '-' || c.is_ascii_hexdigit()), "{one}");
    }

    #[test]
    fn a_url_that_is_a_secret_is_not_shown() {
        let ping = Ping::new("https://hc-ping.com/secret").unwrap();
        assert!(!format!("{ping:?} {}", ping.doing()).contains("secret"));
        for wrong in ["http://hc-ping.com/secret", "ftp://hc-ping.com/secret", "secret"] {
            let why = Ping::new(wrong).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
