//! The subscriber: pulls messages from a Pub/Sub subscription, where nothing can push.
//!
//! ```text
//! stream, which extends leases ──► message ──► what it asks for ──► runner: a run ──► verdict: ack, or nack
//! ```
//!
//! A message is acknowledged when it is done with: served, or never to be served, which is logged. It is given back when another
//! try may succeed. A message that was given back comes again after the time that the subscription's retry policy sets, and
//! without a policy at once; so it is held for a while first, or a failing run would be run again and again without a pause.
//!
//! The stream carries on by itself over transient errors. An error that ends it for good (NOT_FOUND, UNKNOWN, …) may still be
//! over in a minute, when somebody has made the subscription again: then it is subscribed to again. Only a subscription that
//! never gave a stream is an error: there the configuration is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownBehavior};
use google_cloud_pubsub::{Error as Cause, client};
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use crate::error::{Code, Error, Result};
use crate::events::decoded::EventDecision;
use crate::events::{self};
use crate::gcp::cloud::Cloud;
use crate::gcp::error_text::with_causes;
use crate::gcp::pubsub::{PubsubAccess, Subscription};
use crate::report::{Channel, Outcome};
use crate::runner::runner::{Answer, Runner};
use crate::shutdown::Shutdown;

/// How many messages are held at the same time. Messages that wait together share a run, so the number is not smaller.
const OUTSTANDING: usize = 100;
/// The most bytes of messages that are asked for at the same time.
const OUTSTANDING_BYTES: i64 = 16 << 20;
/// The most bytes of one message, as of a request's body.
const MAX_MESSAGE: usize = 1 << 20;
/// For how long a lease is extended, at least. A request that waits for the runner is answered at some point, and this process
/// may die: then the message comes again a minute later.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// A stream that has lasted this long was open: a subscription that is not there is reported at once.
const OPEN: Duration = Duration::from_secs(60);
/// How long to wait before subscribing again the first time; each further wait is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait before subscribing again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a look at the subscription may take.
const LOOK: Duration = Duration::from_secs(10);

/// The configuration of pulling.
#[derive(Debug, Clone)]
pub struct SubscriberSettings {
    /// The subscription to pull from.
    pub subscription: Subscription,
    /// How long a message that could not be served is held, at most, before it is given back.
    pub hold: Duration,
}

/// Pulls messages and has the runner serve them, until the shutdown begins; then finishes what is under way, gives back the rest,
/// and returns whether the time was enough for that.
///
/// # Errors
/// Credentials that cannot be used; a subscription that is not there, may not be pulled from or is pushed, if that is so from the
/// beginning.
pub async fn pull(
    runner: &Arc<Runner>,
    cloud: &Cloud,
    settings: &SubscriberSettings,
    shutdown: &Shutdown,
) -> Result<bool> {
    let doing = || format!("pull from {}", settings.subscription);
    let access = PubsubAccess::new(cloud, doing)?;
    let subscriber = subscriber(&access).await.map_err(|why| Error::failed(doing(), why))?;
    let answered = tokio::select! {
        looked = look(&access, &settings.subscription) => looked?,
        _ = shutdown.wait_until_begun() => return Ok(true),
    };
    let once = if answered { "" } else { ", as soon as Pub/Sub answers" };
    tracing::info!("pulling from {}{once}", settings.subscription);
    let puller = Puller {
        runner: runner.clone(),
        settings: settings.clone(),
        room: Arc::new(Semaphore::new(OUTSTANDING)),
        shutdown: shutdown.clone(),
    };
    let mut open = JoinSet::new();
    tokio::select! {
        pulled = puller.pull(&subscriber, &mut open) => pulled?,
        () = remind(&access, &settings.subscription, answered) => {}
    }
    tokio::select! {
        () = async { while open.join_next().await.is_some() {} } => Ok(true),
        () = shutdown.wait_until_over() => Ok(false),
    }
}

async fn subscriber(access: &PubsubAccess) -> Result<client::Subscriber, String> {
    let mut builder = client::Subscriber::builder();
    if let Some(endpoint) = &access.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(credentials) = &access.credentials {
        builder = builder.with_credentials(credentials.clone());
    }
    builder.build().await.map_err(|why| with_causes(&why))
}

/// Logs again and again that Pub/Sub does not answer, until it does. Never returns.
async fn remind(access: &PubsubAccess, subscription: &Subscription, mut answered: bool) {
    while !answered {
        sleep(LONGEST_WAIT).await;
        // If something is wrong then, the stream says so.
        answered = look(access, subscription).await.unwrap_or(true);
        if answered {
            tracing::info!("Pub/Sub answers");
        }
    }
    std::future::pending().await
}

/// Looks at the subscription once. The stream does not say why it cannot be opened as long as the reason may pass, however long
/// that lasts. An account that may pull need not be allowed to look. Returns whether there was an answer.
async fn look(access: &PubsubAccess, subscription: &Subscription) -> Result<bool> {
    let asked = async {
        let mut builder = client::SubscriptionAdmin::builder();
        if let Some(endpoint) = &access.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(credentials) = &access.credentials {
            builder = builder.with_credentials(credentials.clone());
        }
        let admin = builder.build().await.map_err(|why| (None, with_causes(&why)))?;
        let found = admin.get_subscription().set_subscription(subscription.name()).send().await;
        found.map_err(|why| (Some(code(&why)), with_causes(&why)))
    };
    match timeout(LOOK, asked).await {
        Ok(Ok(found)) => match found.push_config.filter(|config| !config.push_endpoint.is_empty()) {
            None => Ok(true),
            Some(_) => Err(Error::failed(format!("pull from {subscription}"), "it is a push subscription")
                .with_code(Code::BadSetting)
                .hint(
                    "Pub/Sub pushes its messages to a URL: that of `lastgood serve`. Make one without a push endpoint.",
                )),
        },
        Ok(Err((Some("NOT_FOUND"), why))) => Err(wrong(subscription, "NOT_FOUND", &why)),
        Ok(Err((Some("PERMISSION_DENIED"), why))) => {
            tracing::debug!("this account may not look at {subscription}, and need not: {why}");
            Ok(true)
        }
        Ok(Err((_, why))) => {
            let advice = access.advice();
            tracing::warn!("cannot ask Pub/Sub about {subscription}, and tries again: {why}. {advice}");
            Ok(false)
        }
        Err(_) => {
            let (seconds, advice) = (LOOK.as_secs(), access.advice());
            tracing::warn!("Pub/Sub did not answer within {seconds} s, and is asked again. {advice}");
            Ok(false)
        }
    }
}

/// The name of an error's code; empty if it has none.
fn code(why: &Cause) -> &'static str {
    match why.status() {
        Some(status) => status.code.name(),
        None if why.is_authentication() => "UNAUTHENTICATED",
        None => "",
    }
}

/// Whether an error's code says that the configuration is wrong, or that of IAM.
fn is_wrong(code: &str) -> bool {
    ["NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"].contains(&code)
}

/// The error of a subscription that cannot be pulled from.
fn wrong(subscription: &Subscription, code: &str, why: &str) -> Error {
    let (code, hint) = match code {
        "NOT_FOUND" => (
            Code::BadSetting,
            "Is the project right? To make it: `gcloud pubsub subscriptions create NAME --topic TOPIC --ack-deadline 600 \
             --min-retry-delay 60s --max-retry-delay 600s`.",
        ),
        "PERMISSION_DENIED" => (
            Code::AccessDenied,
            "This account needs the role roles/pubsub.subscriber on it: `gcloud pubsub subscriptions add-iam-policy-binding \
             NAME --member serviceAccount:ADDRESS --role roles/pubsub.subscriber`.",
        ),
        "UNAUTHENTICATED" => (
            Code::NoCredentials,
            "Log in with `gcloud auth application-default login`; `lastgood doctor` says which credentials are found.",
        ),
        _ => (Code::BadSetting, "Is it a pull subscription, without an endpoint that its messages are pushed to?"),
    };
    Error::failed(format!("pull from {subscription}"), why).with_code(code).hint(hint)
}

/// Everything that a message's task needs; clones share it.
#[derive(Clone)]
struct Puller {
    runner: Arc<Runner>,
    settings: SubscriberSettings,
    room: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// How a stream ended.
struct StreamEnd {
    /// Why the stream ended; `None` if it just ended.
    why: Option<Cause>,
    /// Whether the stream gave a message.
    gave: bool,
}

impl Puller {
    /// Subscribes, again and again, until the shutdown begins. Streams that are not quite over yet are tasks of `open`.
    async fn pull(&self, subscriber: &client::Subscriber, open: &mut JoinSet<()>) -> Result<()> {
        let subscription = &self.settings.subscription;
        let lease = LEASE.max(self.runner.rules().run_timeout.saturating_mul(2));
        let (mut worked, mut wait) = (false, FIRST_WAIT);
        loop {
            let began = Instant::now();
            let mut stream = subscriber
                .subscribe(subscription.name())
                .set_max_outstanding_messages(OUTSTANDING as i64)
                .set_max_outstanding_bytes(OUTSTANDING_BYTES)
                .set_max_lease(lease)
                .set_shutdown_behavior(ShutdownBehavior::WaitForProcessing)
                .build();
            let over = self.take(&mut stream).await;
            // No more messages are taken; the stream is over when those that it gave are acknowledged or given back, and Pub/Sub
            // knows.
            let token = stream.shutdown_token();
            drop(stream);
            open.spawn(async move { token.shutdown().await });
            while open.try_join_next().is_some() {}
            let Some(over) = over else { return Ok(()) };
            if over.gave || began.elapsed() >= OPEN {
                (worked, wait) = (true, FIRST_WAIT);
            }
            let code = over.why.as_ref().map(code).unwrap_or_default();
            let why = over.why.map_or_else(|| "the stream ended".to_owned(), |why| with_causes(&why));
            match is_wrong(code) {
                true if !worked => return Err(wrong(subscription, code, &why)),
                true => {
                    tracing::error!("{subscription} gives no messages: {why}; trying again in {} s", wait.as_secs())
                }
                false => tracing::warn!("{subscription} is subscribed to again in {} s: {why}", wait.as_secs()),
            }
            tokio::select! {
                () = sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
                _ = self.shutdown.wait_until_begun() => return Ok(()),
            }
        }
    }
    /// Takes messages from a stream until it ends. `None` when the shutdown begins.
    async fn take(&self, stream: &mut MessageStream) -> Option<StreamEnd> {
        let mut gave = false;
        loop {
            let room = tokio::select! {
                room = self.room.clone().acquire_owned() => room,
                _ = self.shutdown.wait_until_begun() => return None,
            };
            let next = tokio::select! {
                next = stream.next() => next,
                _ = self.shutdown.wait_until_begun() => return None,
            };
            let (message, handler) = match next {
                Some(Ok(given)) => given,
                Some(Err(why)) => return Some(StreamEnd { why: Some(why), gave }),
                None => return Some(StreamEnd { why: None, gave }),
            };
            gave = true;
            let (puller, span) = (self.clone(), tracing::info_span!("message", message_id = message.message_id));
            let serving = async move {
                puller.serve(message, handler).await;
                drop(room);
            };
            // If this panics, the handler is dropped, which gives the message back.
            tokio::spawn(serving.instrument(span));
        }
    }

    /// Serves one message to its end.
    async fn serve(&self, message: Message, handler: Handler) {
        let attempt = handler.delivery_attempt();
        match self.verdict(message).await {
            Disposition::Done(what) => {
                tracing::info!("acknowledged: {what}");
                handler.ack();
            }
            Disposition::Ignored(why) => {
                tracing::debug!("a message is ignored: {why}");
                handler.ack();
            }
            Disposition::Hopeless(why) => {
                tracing::error!("a message is given up: {why}");
                handler.ack();
            }
            Disposition::Again { why, after, failed } => {
                let attempt = attempt.map(|attempt| format!(" (delivery {attempt})")).unwrap_or_default();
                // The message did not fail if it was the program that was told to stop.
                match failed && !self.shutdown.stop().load(Ordering::Relaxed) {
                    // The run that failed is the error, and was told.
                    true => tracing::warn!("a message is not served{attempt}, and given back: {why}"),
                    false => tracing::warn!("a message is not served yet{attempt}, and given back: {why}"),
                }
                tokio::select! {
                    () = sleep(after.min(self.settings.hold)) => {}
                    _ = self.shutdown.wait_until_begun() => {}
                }
                handler.nack();
            }
        }
    }

    /// Decides what is to become of a message, once that is known. The message is never quoted.
    async fn verdict(&self, message: Message) -> Disposition {
        let size =
            message.data.len() + message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let large = size > MAX_MESSAGE;
        let time = message.publish_time.and_then(|time| Timestamp::new(time.seconds(), time.nanos()).ok());
        let attributes = BTreeMap::from_iter(message.attributes);
        let too_large = format!("it has {size} bytes, and more than {MAX_MESSAGE} are not read");
        if large && !events::is_critical(&attributes) {
            return Disposition::Hopeless(too_large);
        }
        let subscription = self.settings.subscription.name();
        let data = &message.data[..message.data.len().min(MAX_MESSAGE)];
        let mut asked = events::read_message(data, &attributes, &message.message_id, time, subscription);
        if let Ok(EventDecision::Run(request)) = &mut asked {
            if large {
                request.note(&too_large);
            }
            if let Some(why) = request.unread() {
                tracing::warn!("a message is served though not all of it could be read: {why}");
            }
        }
        let request = match asked {
            Err(why) => return Disposition::Hopeless(why.to_string()),
            Ok(EventDecision::Ignored(why)) => return Disposition::Ignored(why),
            Ok(EventDecision::Refused(why, _)) => return Disposition::Hopeless(why),
            Ok(EventDecision::Run(request)) => request,
        };
        if let Some(why) = self.runner.is_own(&request.event) {
            return Disposition::Ignored(why.to_owned());
        }
        match self.runner.submit(request, Channel::PubSub) {
            Err(now) => Disposition::of(&now, self.settings.hold),
            Ok(ticket) => Disposition::of(&*ticket.answer().await, self.settings.hold),
        }
    }
}

/// How a message is disposed of.
#[derive(Debug, PartialEq, Eq)]
enum Disposition {
    /// The message is served.
    Done(&'static str),
    /// The message asks for nothing.
    Ignored(String),
    /// The message will never be served.
    Hopeless(String),
    /// Another try may serve it.
    Again {
        why: String,
        /// How long to wait before the message is given back.
        after: Duration,
        /// Whether a run for it was tried.
        failed: bool,
    },
}

impl Disposition {
    /// The disposition by the runner's answer; a message whose run failed may be tried again after `hold`.
    fn of(answer: &Answer, hold: Duration) -> Self {
        match answer {
            Answer::Done { outcome, retry, report } => {
                match outcome {
                    _ if *retry => {
                        // The runner has told why.
                        Disposition::Again { why: "its run failed".into(), after: hold, failed: true }
                    }
                    Outcome::Refused | Outcome::Damaged if report.error().is_some() => {
                        Disposition::Hopeless(format!("its run ended as {outcome}"))
                    }
                    _ => Disposition::Done("its run is over"),
                }
            }
            Answer::Before(_) => Disposition::Done("it was served before"),
            Answer::Elsewhere(after) => {
                Disposition::Again { why: "another run is serving it".into(), after: *after, failed: false }
            }
            Answer::Later(why, after) => Disposition::Again { why: why.clone(), after: *after, failed: false },
            Answer::Refused(why) => Disposition::Hopeless(why.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::EncodedReport;
    use serde_json::{Value, json};

    #[test]
    fn what_may_succeed_is_given_back_and_the_rest_acknowledged() {
        let hold = Duration::from_secs(30);
        let report = |value: Value| EncodedReport::read(value.to_string().into()).unwrap();
        let done =
            |outcome, retry, error: Value| Answer::Done { outcome, retry, report: report(json!({ "error": error })) };
        let of = |answer| match Disposition::of(&answer, hold) {
            Disposition::Done(_) => ("ack", None),
            Disposition::Ignored(_) | Disposition::Hopeless(_) => ("give up", None),
            Disposition::Again { after, failed, .. } => {
                (if failed { "failed" } else { "later" }, Some(after.as_secs()))
            }
        };
        for (answer, expected) in [
            (done(Outcome::Complete, false, Value::Null), ("ack", None)),
            (done(Outcome::Partial, false, Value::Null), ("ack", None)),
            (done(Outcome::Damaged, false, Value::Null), ("ack", None)),
            (done(Outcome::Damaged, false, json!({ "error": "damage" })), ("give up", None)),
            (done(Outcome::Refused, false, json!({ "error": "no such snapshot" })), ("give up", None)),
            (done(Outcome::Failed, true, json!({ "error": "the disk" })), ("failed", Some(30))),
            (Answer::Before(report(json!({}))), ("ack", None)),
            (Answer::Elsewhere(Duration::from_secs(500)), ("later", Some(500))),
            (Answer::Later("full".into(), Duration::from_secs(5)), ("later", Some(5))),
            (Answer::Refused("no".into()), ("give up", None)),
        ] {
            let shown = format!("{answer:?}");
            assert_eq!(of(answer), expected, "{shown}");
        }
    }

    #[test]
    fn what_is_wrong_from_the_beginning_is_told_with_what_to_do() {
        let subscription = Subscription::new("events", Some("demo")).unwrap();
        for (code, word, hint) in [
            ("NOT_FOUND", "bad-setting", "subscriptions create"),
            ("PERMISSION_DENIED", "access-denied", "roles/pubsub.subscriber"),
            ("UNAUTHENTICATED", "no-credentials", "application-default login"),
            ("FAILED_PRECONDITION", "bad-setting", "pull subscription"),
        ] {
            assert!(is_wrong(code));
            let why = wrong(&subscription, code, "no");
            assert_eq!(why.what(), "could not pull from projects/demo/subscriptions/events: no");
            assert!(why.advice().unwrap().contains(hint) && why.word() == word, "{why}");
        }
        assert!(!is_wrong("UNKNOWN") && !is_wrong("UNAVAILABLE") && !is_wrong(""));
    }
}
