//! Tells a Pub/Sub topic, a webhook and a dead man's switch how a run ended. All are the configuration's alone; no request names
//! one.
//!
//! ```text
//! a run's report ──► CloudEvent (event.rs) ──► topic (topic.rs): a message, for programs
//!                └─► sentence (sentence.rs) ─► webhook (webhook.rs): JSON, for chats and programs
//!                                          └─► ping (ping.rs): begun, complete or failed, for a dead man's switch
//! ```
//!
//! The event that is told has the type `dev.lastgood.<backup|restore|verify>.<completed|partial|failed>`:
//!
//! | result of the run | type ends with |
//! |---|---|
//! | `complete` | `completed` |
//! | `stale`, `incomplete-copies`, `partial`, `suspect`, `unsound` | `partial` |
//! | `damaged`, `failed`, `refused` | `failed` |
//!
//! Telling never changes what a run came to: what goes wrong is a warning, and for a ping an error in the log. It happens before the run's end is answered, since on
//! Cloud Run work stops with the answer; so it is bounded, by [`TIME`], and by [`LAST_WORDS`] once the program was told to stop.
//! All targets are told at the same time.
//!
//! New clients are made each time: between two runs an instance may have had no CPU for hours, after which kept connections and
//! tokens are not worth having.

mod event;
mod ping;
mod post;
mod sentence;
mod topic;
mod webhook;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use self::event::Notification;
pub use self::event::source;
pub use self::ping::{Ping, PingStart};
pub use self::topic::ResultTopic;
pub use self::webhook::{Webhook, WebhookFilter};
use crate::error::{Code, Error, Result};
use crate::monitor::Context;
use crate::report::{Report, RunId};
use crate::text::printable;
use crate::vault::root::BackupReason;

/// How long telling of a run is tried.
pub const TIME: Duration = Duration::from_secs(15);
/// How long telling is tried once the program was told to stop: Cloud Run gives it 10 s for all that is left to do.
pub const LAST_WORDS: Duration = Duration::from_secs(2);
/// The threads that tell know the time that they have; they are waited for this much longer, to hear what they say.
const GRACE: Duration = Duration::from_millis(500);
/// How often the waiting thread checks whether the program was told to stop.
const TICK: Duration = Duration::from_millis(50);

/// The targets that are told. None by default; a clone is cheap.
#[derive(Clone, Default)]
pub struct Notifier(Option<Arc<NotifyTargets>>);

#[derive(Debug)]
struct NotifyTargets {
    /// The source of the events.
    source: String,
    topic: Option<ResultTopic>,
    webhook: Option<Webhook>,
    ping: Option<Ping>,
}

/// A delivery that has begun: what it is called, and where its end is heard of.
struct Delivery {
    doing: String,
    end: Receiver<Result<()>>,
    /// Whether it is an error if it fails, and not just a warning.
    is_ping: bool,
}

/// How much time there is from now on to tell how runs ended.
pub fn time(ctx: &Context) -> Duration {
    if ctx.stop.load(Ordering::Relaxed) { LAST_WORDS } else { TIME }
}

impl Notifier {
    /// Tells these targets, in events of this [`source`].
    pub fn new(source: String, topic: Option<ResultTopic>, webhook: Option<Webhook>, ping: Option<Ping>) -> Self {
        let anybody = topic.is_some() || webhook.is_some() || ping.is_some();
        Notifier(anybody.then(|| Arc::new(NotifyTargets { source, topic, webhook, ping })))
    }

    /// Tells a dead man's switch that a backup begins, and goes on at once.
    pub fn begin_backup(&self, run: RunId) -> PingStart {
        let ping = self.0.as_ref().and_then(|targets| targets.ping.as_ref());
        ping.map(|ping| ping.start(run)).unwrap_or_default()
    }

    /// Tells how a run ended, and for a backup why it was made. Blocks until that is told, or the time is over; what goes wrong
    /// is a warning.
    pub fn tell(&self, report: &Report, reason: Option<BackupReason>, ctx: &Context) {
        self.tell_until(Instant::now() + time(ctx), report, reason, &PingStart::default(), ctx);
    }

    /// Tells how a run ended, like [`Notifier::tell`], until `until` at the latest. `start` is what told that it began.
    pub fn tell_until(
        &self,
        until: Instant,
        report: &Report,
        reason: Option<BackupReason>,
        start: &PingStart,
        ctx: &Context,
    ) {
        let Some(listeners) = &self.0 else { return };
        let stopped = || ctx.stop.load(Ordering::Relaxed);
        let within = until.saturating_duration_since(Instant::now());
        let mut deadline = until + GRACE;
        let warn = |why: &Error, is_ping: bool| {
            let advice = why.advice().map(|advice| format!(". {advice}")).unwrap_or_default();
            let what = format!("how the run {} ended could not be told: {}{advice}", report.run, why.what_with_code());
            match is_ping {
                true => tracing::error!("{}", printable(&what)),
                false => ctx.monitor.warn(&what),
            }
        };
        if within.is_zero() {
            let why = Error::unreachable("tell how the run ended", "no time is left for it").with_code(Code::Stopped);
            return warn(&why, listeners.ping.as_ref().is_some_and(|ping| ping.wants(report)));
        }
        let hurry = Arc::new(AtomicBool::new(false));
        let begun = listeners.begin(report, reason, start, within, &hurry);
        for begun in begun {
            let Delivery { doing, end, is_ping } = match begun {
                Ok(telling) => telling,
                Err(why) => {
                    warn(&why, false);
                    continue;
                }
            };
            let told = loop {
                match end.recv_timeout(TICK) {
                    Ok(told) => break told,
                    Err(RecvTimeoutError::Disconnected) => {
                        break Err(Error::failed(&*doing, "its thread ended in a panic").with_code(Code::Internal));
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
                if stopped() && !hurry.swap(true, Ordering::Relaxed) {
                    deadline = deadline.min(Instant::now() + LAST_WORDS);
                }
                if Instant::now() >= deadline {
                    break Err(Error::unreachable(&*doing, "no answer came in time"));
                }
            };
            match told {
                Ok(()) => tracing::debug!("told how the run {} ended: {doing}", report.run),
                Err(why) => warn(&why, is_ping),
            }
        }
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(listeners) => listeners.fmt(f),
            None => f.write_str("Nobody"),
        }
    }
}

impl NotifyTargets {
    /// Begins to tell all targets.
    fn begin(
        &self,
        report: &Report,
        reason: Option<BackupReason>,
        start: &PingStart,
        within: Duration,
        hurry: &Arc<AtomicBool>,
    ) -> Vec<Result<Delivery>> {
        let told = match Notification::new(report, reason, &self.source) {
            Ok(told) => told,
            Err(why) => return vec![Err(why)],
        };
        let mut begun = Vec::new();
        if let Some(topic) = &self.topic {
            let (topic, message) = (topic.clone(), told.message());
            begun.push(begin(topic.doing(), move || topic.publish(message?, within)));
        }
        if let Some(webhook) = self.webhook.as_ref().filter(|webhook| webhook.wants(report)) {
            let (webhook, body) = (webhook.clone(), webhook.body(&sentence::of(report, reason), &told));
            begun.push(begin(webhook.doing(), move || webhook.post(body?, within)));
        }
        if let Some(ping) = self.ping.as_ref().filter(|ping| ping.wants(report)) {
            let (ping, start, text) = (ping.clone(), start.clone(), sentence::of(report, reason));
            let (outcome, run) = (report.result, report.run);
            let (doing, hurry) = (ping.doing(), hurry.clone());
            let end = begin(doing, move || ping.end(outcome, run, &text, &start, within, &hurry));
            begun.push(end.map(|end| Delivery { is_ping: true, ..end }));
        }
        begun
    }
}

/// Does blocking work in a thread of its own, which is left to itself if it takes too long.
fn begin(doing: String, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Delivery> {
    let (sender, end) = mpsc::sync_channel(1);
    let work = move || {
        // A receiver that no longer waits does not hear it.
        let _ = sender.send(work());
    };
    match std::thread::Builder::new().name("notify".into()).spawn(work) {
        Ok(_) => Ok(Delivery { doing, end, is_ping: false }),
        Err(why) => Err(Error::io(doing, &why)),
    }
}

#[cfg(test)]
mod tests;
