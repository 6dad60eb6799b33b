//! Requests that ask for a run: events, and those of the REST interface.

use std::collections::BTreeMap;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::answer::{self, Reply};
use super::auth::Caller;
use super::limits::{self, UnreadBody};
use super::run_answers::{Recipient, reply_for};
use super::{Server, routes};
use crate::backup::MAX_LABELS;
use crate::events::decoded::{EventDecision, RunRequest};
use crate::events::vocabulary::MAX_MESSAGE;
use crate::events::{self, labels};
use crate::monitor::Context;
use crate::replicas;
use crate::report::{self, Action, Channel, RunId};
use crate::runner::runner::{Answer, NotPromised, Runner};
use crate::vault::root::BackupReason;

/// The most characters of a snapshot's name.
pub const MAX_SNAPSHOT: usize = 100;
/// The most characters of a label's name.
pub const MAX_LABEL_NAME: usize = 64;
/// The most characters of a label's value.
pub const MAX_LABEL_VALUE: usize = 1024;

/// The body of `POST /backup/trigger`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BackupRequest {
    #[serde(deserialize_with = "given")]
    reason: Option<BackupReason>,
    #[serde(deserialize_with = "given")]
    message: Option<String>,
    labels: BTreeMap<String, String>,
}

/// The body of `POST /backup/restore`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RestoreRequest {
    #[serde(deserialize_with = "given")]
    snapshot: Option<String>,
}

/// Deserializes a member that may be left out; null is not allowed as its value.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Server {
    /// Serves an event.
    pub(super) async fn event(&self, parts: &Parts, caller: &Caller, body: &mut Incoming) -> Reply {
        let critical = parts.uri.path().trim_end_matches('/') == routes::CRITICAL;
        let limits = &self.settings.limits;
        let critical = critical || events::says_critical(&parts.headers);
        // For a report of a critical error, the beginning of the body is better than nothing; and the beginning of a JSON body
        // may say that it is one.
        let read = match critical || is_json(&parts.headers) {
            true => limits::read_beginning(body, limits).await,
            false => limits::read(body, limits).await.map(|bytes| (bytes, true)),
        };
        let (bytes, whole) = match read {
            Ok(read) => read,
            Err(why) => return unread(&why),
        };
        if !whole && !critical && !events::is_critical_body(&bytes) {
            return unread(&UnreadBody::TooLarge);
        }
        let reply = self.event_of(parts, caller, &bytes, whole).await;
        if whole { reply } else { answer::last(reply) }
    }

    /// Serves the event in a body, or in the beginning of one.
    async fn event_of(&self, parts: &Parts, caller: &Caller, bytes: &[u8], whole: bool) -> Reply {
        // This comes first, since an event may ask for nothing.
        let critical = parts.uri.path().trim_end_matches('/') == routes::CRITICAL;
        let wait = match self.waits(parts) {
            Ok(wait) => wait,
            // The event is served, and answered as if the query had said nothing.
            Err(_) if critical => {
                tracing::warn!("a critical event has a `wait` that cannot be used, and is served as if it had none");
                None
            }
            Err(reply) => return reply,
        };
        let mut asked = events::read(parts.method.as_str(), parts.uri.path(), &parts.headers, bytes);
        if let Ok(EventDecision::Run(request)) = &mut asked {
            if !whole {
                request.note(&format!("the body is too large: only its first {} bytes were read", bytes.len()));
            }
            if let Some(why) = request.unread() {
                tracing::warn!("an event is served though not all of it could be read: {why}");
            }
        }
        match asked {
            Err(why) => answer::error(StatusCode::BAD_REQUEST, why),
            Ok(EventDecision::Ignored(why)) => ignored(&why),
            Ok(EventDecision::Refused(why, _)) => reply_for(&Answer::Refused(why), Recipient::Deliverer),
            Ok(EventDecision::Run(request)) if request.action == Action::Restore && !caller.may_restore() => reply_for(
                &Answer::Refused("with --auth cloud-run nobody may ask for a restore".into()),
                Recipient::Deliverer,
            ),
            Ok(EventDecision::Run(request)) => match self.runner.is_own(&request.event) {
                Some(why) => ignored(why),
                None => {
                    // An app that is about to crash does not wait for the end of a window, and nothing repeats its request.
                    let hurries = critical && !events::is_redelivered(&parts.headers, &request.event);
                    let wait = wait.unwrap_or(!(hurries && self.goes_on()));
                    self.have_run(request, wait, Recipient::Deliverer).await
                }
            },
        }
    }

    /// `POST /backup/trigger`
    pub(super) async fn backup(&self, parts: &Parts, body: &mut Incoming) -> Reply {
        let wanted: BackupRequest = match self.document(&parts.headers, body).await {
            Ok(wanted) => wanted.unwrap_or_default(),
            Err(reply) => return reply,
        };
        match wanted.request() {
            Ok(request) => self.ask(request, parts).await,
            Err(why) => answer::error(StatusCode::BAD_REQUEST, why),
        }
    }

    /// `POST /backup/restore`
    pub(super) async fn restore(&self, parts: &Parts, body: &mut Incoming) -> Reply {
        let chosen: RestoreRequest = match self.document(&parts.headers, body).await {
            Ok(chosen) => chosen.unwrap_or_default(),
            Err(reply) => return reply,
        };
        let spec = chosen.snapshot.unwrap_or_else(|| self.runner.rules().restore.snapshot.clone());
        if spec.is_empty() || spec.chars().count() > MAX_SNAPSHOT {
            let why = format!("the name of a snapshot has 1 to {MAX_SNAPSHOT} characters");
            return answer::error(StatusCode::BAD_REQUEST, why);
        }
        // The snapshot is looked up before a run is made of it: then the status says what is wrong. Any of the vaults may have it, as
        // for the restore itself.
        let wanted = spec.clone();
        let look = move |runner: &Runner, ctx: &Context| {
            replicas::restore::newest_of(runner.vaults().sites(false)?, &wanted, ctx).map(drop)
        };
        let found = self.run_blocking(look).await;
        match found {
            Ok(()) => self.ask(run_request(Action::Restore, Some(spec)), parts).await,
            Err(reply) => reply,
        }
    }

    /// `POST /backup/verify`
    pub(super) async fn verify(&self, parts: &Parts) -> Reply {
        self.ask(run_request(Action::Verify, None), parts).await
    }

    /// Whether work goes on while no request is waiting.
    fn goes_on(&self) -> bool {
        !self.settings.cloud_run || self.settings.background
    }

    /// Reads from the query whether to wait for the run; `None` if it says nothing.
    fn waits(&self, parts: &Parts) -> Result<Option<bool>, Reply> {
        let wrong = |why: &str| Err(answer::error(StatusCode::BAD_REQUEST, why));
        match routes::parameter(parts.uri.query(), "wait").as_deref() {
            None => Ok(None),
            Some(b"true" | b"1") => Ok(Some(true)),
            Some(b"false" | b"0") if !self.goes_on() => wrong(
                "on Cloud Run nothing is done after the answer, unless the CPU is always allocated; if it is, start the service \
                 with --background",
            ),
            Some(b"false" | b"0") => Ok(Some(false)),
            Some(_) => wrong("wait must be true or false"),
        }
    }

    /// Runs what a request of the REST interface asks for, and waits for it as its query says.
    async fn ask(&self, request: RunRequest, parts: &Parts) -> Reply {
        // The app that asks for a restore is stopped before that is over.
        let waits = request.action != Action::Restore || self.runner.rules().app().is_none();
        match self.waits(parts) {
            Ok(wait) => self.have_run(request, wait.unwrap_or(waits), Recipient::Asker).await,
            Err(reply) => reply,
        }
    }

    /// Asks for a run, and waits for it if `wait` is set.
    async fn have_run(&self, request: RunRequest, wait: bool, recipient: Recipient) -> Reply {
        let ticket = match wait {
            true => self.runner.submit(request, Channel::Http).map_err(NotPromised::from),
            false => match self.promised(request).await {
                Ok(run) => {
                    let body = json!({ "run": run, "poll": format!("/runs/{run}") });
                    return answer::json(StatusCode::ACCEPTED, &body);
                }
                Err(NotPromised::Waits(ticket)) => Ok(ticket),
                Err(answered) => Err(answered),
            },
        };
        match ticket {
            Ok(ticket) | Err(NotPromised::Waits(ticket)) => {
                let limit = self.runner.rules().dispatch.as_ref().map(|dispatch| dispatch.wait);
                reply_for(&*ticket.answer_within(limit).await, recipient)
            }
            Err(NotPromised::Answered(now)) => reply_for(&now, recipient),
        }
    }

    /// Asks for a run that nobody waits for; its id is returned once the request is written to a vault.
    async fn promised(&self, request: RunRequest) -> Result<RunId, NotPromised> {
        let permit = self.promises.clone().acquire_owned().await;
        let runner = self.runner.clone();
        let promised = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            runner.promise(request, Channel::Http)
        });
        let ended = |_| Err(Answer::Later("a thread ended early".into(), Duration::from_secs(10)).into());
        promised.await.unwrap_or_else(ended)
    }

    /// Reads the JSON document that a request may carry; `None` if the body is empty.
    async fn document<T: for<'de> Deserialize<'de>>(
        &self,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Option<T>, Reply> {
        let bytes = limits::read(body, &self.settings.limits).await.map_err(|why| unread(&why))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let why = "the body must be JSON, with the header Content-Type: application/json";
            return Err(answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        // Serde's message may quote the body; only its sender sees that.
        let why =
            |why: serde_json::Error| answer::error(StatusCode::BAD_REQUEST, format!("the body cannot be used: {why}"));
        // Without this step, serde would read a struct from a list, too.
        let fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(why)?;
        serde_json::from_value(fields.into()).map(Some).map_err(why)
    }
}

impl BackupRequest {
    fn request(self) -> Result<RunRequest, String> {
        let long = |text: &str, most: usize| text.chars().count() > most;
        if self.message.as_deref().is_some_and(|message| long(message, MAX_MESSAGE)) {
            return Err(format!("the message may have at most {MAX_MESSAGE} characters"));
        }
        if self.labels.len() > MAX_LABELS {
            return Err(format!("there may be at most {MAX_LABELS} labels"));
        }
        for (name, value) in &self.labels {
            if name.is_empty() || long(name, MAX_LABEL_NAME) || long(value, MAX_LABEL_VALUE) {
                return Err(format!(
                    "a label's name has 1 to {MAX_LABEL_NAME} characters, and its value at most {MAX_LABEL_VALUE}"
                ));
            }
        }
        let message = self.message.map(|message| crate::text::one_line(&message, MAX_MESSAGE));
        let own = labels::fit(self.labels, 0);
        let told = message.iter().map(|message| ("message".to_owned(), message.clone()));
        let attached = labels::fit(told.chain(own.clone()), 0);
        let mut request = run_request(Action::Backup, None);
        request.reason = self.reason.unwrap_or_default();
        request.labels = attached;
        (request.event.message, request.event.labels) = (message, own);
        Ok(request)
    }
}

/// Whether the Content-Type says that the body is JSON, which includes the types of CloudEvents.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
    kind.is_some_and(|kind| kind.windows(4).any(|part| part == b"json"))
}

/// Creates the request for a run that was asked for over the REST interface.
fn run_request(action: Action, snapshot: Option<String>) -> RunRequest {
    let event = report::Event { kind: Some("request".into()), ..report::Event::default() };
    RunRequest { action, reason: BackupReason::Manual, labels: BTreeMap::new(), snapshot, event }
}

/// Returns the answer to an event that asks for nothing.
fn ignored(why: &str) -> Reply {
    tracing::debug!("an event is ignored: {why}");
    answer::json(StatusCode::OK, &json!({ "status": "ignored", "why": why }))
}

/// Returns the answer to a body that could not be read.
fn unread(why: &UnreadBody) -> Reply {
    let (status, why) = match why {
        UnreadBody::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        UnreadBody::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        UnreadBody::Broken => (StatusCode::BAD_REQUEST, "the connection broke before the end of the body"),
    };
    answer::last(answer::error(status, why))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use http_body_util::BodyExt;

    use super::super::health;
    use super::*;
    use crate::gcp::cloud::Cloud;
    use crate::monitor::{Context, LogMonitor, system_random};
    use crate::replicas::pool::VaultPool;
    use crate::runner::runner::{Rules, Runner};
    use crate::server::auth::{AuthPolicy, Authorizer};
    use crate::server::download::BodyWriter;
    use crate::server::{ServerLimits, ServerSettings};
    use crate::store::address::Address;
    use crate::vault::Vault;

    /// Returns a service with a vault in this folder.
    fn server(folder: &Path, limits: ServerLimits) -> Server {
        let data = folder.join("data");
        let (addresses, stop) = (vec![Address::Folder(folder.join("vault"))], Arc::<AtomicBool>::default());
        let vaults = Arc::new(VaultPool::new(addresses, Cloud::default(), stop.clone()));
        Vault::init(vaults.store(&vaults.addresses()[0]).unwrap(), system_random).unwrap();
        let runner = Runner::new(Rules::plain(data.clone()), vaults, Arc::new(LogMonitor), system_random, stop);
        let (not_walked, critical) = Default::default();
        let health = health::HealthSettings {
            max_age: Duration::MAX,
            freshness: Duration::MAX,
            backups_off: None,
            place: health::DataProbeSettings { data, not_walked, one_file_system: false, critical },
        };
        let settings = ServerSettings {
            public_url: None,
            allow_download: true,
            cloud_run: false,
            background: false,
            health,
            limits,
        };
        let (listen, auth) = ("127.0.0.1:0".parse().unwrap(), Authorizer::new(AuthPolicy::None).unwrap());
        Server::new(Arc::new(runner), listen, auth, settings)
    }

    #[tokio::test]
    async fn large_reports_that_are_read_for_slow_clients_take_no_more_than_their_room() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path(), ServerLimits { reports: 200, ..ServerLimits::default() });
        let runs = folder.path().join("vault/runs");
        std::fs::create_dir_all(&runs).unwrap();
        let ids = ["01", "02", "03"].map(|id| id.repeat(8));
        for (id, size) in ids.iter().zip([150 << 10, 150 << 10, 10]) {
            let report = json!({ "run": id, "action": "verify", "result": "damaged", "text": "x".repeat(size) });
            std::fs::write(runs.join(format!("20261121T100000Z-{id}-verify-damaged.json")), report.to_string())
                .unwrap();
        }
        let held = server.run(&ids[0]).await;
        let body = server.run(&ids[0]).await;
        assert_eq!((held.status(), body.status()), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        // Small reports are sent all the same, and a large one once the first has been taken.
        assert_eq!(server.run(&ids[2]).await.status(), StatusCode::OK);
        drop(held);
        let told = server.run(&ids[1]).await.into_body().collect().await.unwrap().to_bytes();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((&told["report"]["run"], &told["retry"]), (&json!(ids[1]), &json!(false)));
    }

    #[tokio::test]
    async fn a_promise_is_made_however_many_clients_look() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path(), ServerLimits::default());
        // These clients take nothing of their answers.
        let write = |_: &Runner, _: &Context, out: &mut BodyWriter| loop {
            out.write(&[0; 1 << 16])?;
        };
        let mut slow = Vec::new();
        for _ in 0..server.settings.limits.listings {
            slow.push(server.stream(None, write).await.ok().expect("it begins"));
        }
        let looks = server.looks.available_permits();
        assert_eq!(looks, server.settings.limits.looks);
        let _looks = server.looks.acquire_many(looks as u32).await.unwrap();
        assert!(server.promised(run_request(Action::Backup, None)).await.is_ok());
    }

    #[test]
    fn what_a_request_may_say_of_a_backup() {
        let read = |text: &str| serde_json::from_str::<BackupRequest>(text).map_err(|why| why.to_string())?.request();
        let request = read(r#"{"reason":"critical","message":"a\nb","labels":{"k":"v"}}"#).unwrap();
        assert_eq!((request.action, request.reason), (Action::Backup, BackupReason::Critical));
        assert_eq!(request.labels["k"], "v");
        assert_eq!(request.labels["message"], request.event.message.clone().unwrap());
        assert!(!request.labels["message"].contains('\n') && request.event.labels.len() == 1);
        assert_eq!(read("{}").unwrap().reason, BackupReason::Manual);
        let many = (0..33).map(|n| format!("\"{n}\":\"\"")).collect::<Vec<_>>().join(",");
        for wrong in [
            r#"{"reason":"other"}"#.to_owned(),
            r#"{"vault":"gs://other"}"#.into(),
            r#"{"reason":null}"#.into(),
            r#"{"labels":{"":"v"}}"#.into(),
            r#"{"labels":{"k":1}}"#.into(),
            format!(r#"{{"labels":{{{many}}}}}"#),
            format!(r#"{{"message":"{}"}}"#, "x".repeat(MAX_MESSAGE + 1)),
        ] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
    }
}
