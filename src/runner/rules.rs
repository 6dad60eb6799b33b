//! The rules that the configuration sets for runs that others ask for, and the job that they make of a request.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::beside::AppBeside;
use super::dispatch::Dispatch;
use super::queue::COUNTED;
use crate::backup::commit::check_labels;
use crate::backup::options::BeforeCommit;
use crate::error::{Code, Error};
use crate::events::decoded::RunRequest;
use crate::events::{AGENT, AUDIT, BUCKET, LOG, LOG_ENTRY, METHOD, RESOURCE, labels};
use crate::hooks::Hooks;
use crate::job::Job;
use crate::notify::Notifier;
use crate::report::{Action, Event, RunEnvironment};
use crate::store::address::Address;
use crate::vault::entry::CheckKind;
use crate::vault::root::BackupReason;
use crate::{backup, restore, verify};

/// The logs in which Cloud Run itself writes about a service or a job.
/// <https://docs.cloud.google.com/run/docs/logging#log_types>
const PLATFORM: [&str; 2] = ["run.googleapis.com/requests", "run.googleapis.com/varlog/system"];
/// The label that names the container of an instance from which a line comes.
const CONTAINER: &str = "container_name";
/// How far the clock of an event's sender may be ahead.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// The rules that the configuration sets for runs that others ask for.
#[derive(Clone)]
pub struct Rules {
    /// How backups are taken.
    pub backup: backup::options::BackupOptions,
    /// What changes from backup to backup: set by whoever runs the app whose data it is.
    pub term: Option<Term>,
    /// Whether a vault may be made in a bucket that has none.
    pub init: bool,
    /// Where and how snapshots are restored; the request names the snapshot.
    pub restore: restore::options::RestoreOptions,
    /// How vaults are verified.
    pub verify: verify::VerifyOptions,
    /// Why no backups are taken; `None` if they are.
    pub backups_off: Option<String>,
    /// Whether a restore may be asked for.
    pub allow_restore: bool,
    /// A restore that was asked for longer ago than this is refused: by now it may do harm.
    pub restore_age: Duration,
    /// A run that takes longer ends, and another one may take over its event.
    pub run_timeout: Duration,
    /// How long further critical events wait after a run for one, to share the next.
    pub coalesce: Duration,
    /// How many runs for critical events there may be in an hour.
    pub critical_max: usize,
    /// The job that does the runs, if they are not done here.
    pub dispatch: Option<Dispatch>,
    /// Where runs take place.
    pub place: RunEnvironment,
    /// `CLOUD_RUN_WORKER_POOL`: the Cloud Run worker pool that this is.
    pub worker_pool: Option<String>,
    /// Whom to tell how the runs ended.
    pub notify: Notifier,
    /// The commands that are run before and after a run.
    pub hooks: Hooks,
    /// Threads for each kind of work.
    pub threads: usize,
    /// How many uploads or reads are made at the same time.
    pub parallel: usize,
}

/// Sets the options of each backup that begins: the epoch in which it is numbered, and what is asked before it commits.
#[derive(Clone)]
pub struct Term {
    set: Arc<dyn Fn(&mut backup::options::BackupOptions) + Send + Sync>,
    app: Option<Arc<dyn AppBeside>>,
}

impl Term {
    /// Wraps a function that changes the options of a backup.
    pub fn new(set: impl Fn(&mut backup::options::BackupOptions) + Send + Sync + 'static) -> Self {
        Term { set: Arc::new(set), app: None }
    }

    /// The same, with the app that runs on the data.
    #[must_use]
    pub fn with_app(self, app: Arc<dyn AppBeside>) -> Self {
        Term { app: Some(app), ..self }
    }
}

impl Rules {
    /// Rules of tests for a data directory: limits that are not met, and no restores.
    #[cfg(test)]
    pub fn plain(data: std::path::PathBuf) -> Rules {
        let limit = Duration::from_secs(600);
        Rules {
            backup: backup::options::BackupOptions { data: data.clone(), ..backup::options::BackupOptions::default() },
            term: None,
            init: false,
            restore: restore::options::RestoreOptions::latest(data),
            verify: verify::VerifyOptions { read_data: None, databases: None },
            backups_off: None,
            allow_restore: false,
            restore_age: limit,
            run_timeout: limit,
            coalesce: Duration::from_secs(60),
            critical_max: 20,
            dispatch: None,
            place: RunEnvironment::default(),
            worker_pool: None,
            notify: Notifier::default(),
            hooks: Hooks::default(),
            threads: 1,
            parallel: 2,
        }
    }

    /// The app that this program runs on the data. `None` if it runs none.
    pub fn app(&self) -> Option<&dyn AppBeside> {
        self.term.as_ref()?.app.as_deref()
    }

    /// Why a request will never be served. `None` if it may be.
    pub fn refusal(&self, request: &RunRequest) -> Option<String> {
        if let Err(why) = check_labels(&request.labels) {
            return Some(why.what());
        }
        match request.action {
            Action::Backup => return self.backups_off.clone(),
            Action::Verify => return None,
            Action::Restore => {}
        }
        if !self.allow_restore {
            return Some("restores are not allowed here (--allow-restore)".into());
        }
        let limit = SignedDuration::try_from(self.restore_age).unwrap_or(SignedDuration::MAX);
        let (time, now) = (request.event.time?, Timestamp::now());
        let age = now.duration_since(time);
        let whole = |duration: SignedDuration| SignedDuration::from_secs(duration.as_secs());
        if age > limit {
            let (age, limit) = (whole(age), whole(limit));
            return Some(format!("the restore was asked for {age:#} ago, and after {limit:#} it may do harm"));
        }
        // Otherwise such an event would stay young enough: for years, if its sender likes.
        let ahead = whole(time.duration_since(now));
        (ahead > CLOCKS)
            .then(|| format!("the restore is dated {ahead:#} ahead of this machine's clock; {CLOCKS:#} are allowed"))
    }

    /// The error of a run that was promised or handed over, and whose request will never be served. `None` if it may be.
    pub fn refusal_error(&self, request: &RunRequest) -> Option<Error> {
        let why = self.refusal(request)?;
        let is_off = request.action == Action::Backup && self.backups_off.as_ref() == Some(&why);
        let error = Error::usage("serve the request", why);
        Some(if is_off { error.with_code(Code::BackupsOff) } else { error })
    }

    /// How long it takes at most until a promised request is served: the window of critical events, or the hour in which they are
    /// counted; a run that is under way; and its own run. Requests for other runs may take longer if many wait.
    pub(super) fn longest_wait(&self) -> Duration {
        self.coalesce.max(COUNTED).saturating_add(self.run_timeout.saturating_mul(2))
    }

    /// Whether an event is about this service, its worker pool or its job, by the name that Cloud Run knows it by. An app beside
    /// it has the same name.
    pub(super) fn is_about_own(&self, event: &Event) -> bool {
        let job = self.dispatch.as_ref().and_then(|dispatch| dispatch.job.rsplit('/').next());
        let own = [self.place.service.as_deref(), self.worker_pool.as_deref(), job];
        own.into_iter().flatten().any(|own| event.service.as_deref() == Some(own))
    }

    /// Why an event tells of what this service did itself: a run for it would be told of as well, and so on without end. Lines of
    /// its own log say whose they are. Events that Cloud Run writes about the service and its job, that Cloud Storage writes
    /// about the vault's bucket, and that audit logs write about either do not.
    pub fn is_own(&self, event: &Event, vaults: &[Address]) -> Option<&'static str> {
        let label = |name: &str| event.labels.get(name).map(String::as_str).unwrap_or_default();
        let ours = self.is_about_own(event);
        let is_entry = event.kind.as_deref() == Some(LOG_ENTRY);
        let is_audit = is_entry && label(LOG).starts_with(AUDIT);
        // If an instance has several containers, one that ended by itself may be the app's: this one is at work.
        let exited = event.message.as_deref().is_some_and(|message| message.starts_with("Container called exit("));
        let of_another = exited && !label(CONTAINER).is_empty();
        if ours && is_entry && !of_another && (is_audit || PLATFORM.contains(&label(LOG))) {
            return Some("what Cloud Run logs about this service asks for nothing");
        }
        if is_audit && label(AGENT).starts_with("lastgood/") {
            return Some("what an audit log tells of lastgood's own requests asks for nothing");
        }
        let bucket = label(BUCKET);
        let is_stored = |object: Option<&str>| object.is_some_and(|object| is_in_a_vault(bucket, object, vaults));
        let of_storage = event.kind.as_deref().is_some_and(|kind| kind.starts_with("google.cloud.storage."));
        if of_storage && is_stored(label("subject").strip_prefix("objects/")) {
            return Some("what is stored in the vault asks for nothing");
        }
        // A listing is a request about the bucket as a whole.
        let whole = format!("projects/_/buckets/{bucket}");
        let object = match label(RESOURCE).strip_prefix(&whole) {
            Some("") => {
                vaults.iter().any(|vault| matches!(vault, Address::Bucket { bucket: own, .. } if own == bucket))
            }
            Some(rest) => is_stored(rest.strip_prefix("/objects/")),
            None => false,
        };
        (is_audit && object && label(METHOD).starts_with("storage."))
            .then_some("what an audit log tells of the vault's bucket asks for nothing")
    }

    /// The job that a request asks for. A backup calls `before` before it commits.
    pub fn job(&self, request: &RunRequest, before: Option<BeforeCommit>) -> Job {
        match request.action {
            Action::Verify => Job::Verify(self.verify.clone()),
            Action::Restore => {
                let mut options = self.restore.clone();
                options.snapshot = request.snapshot.clone().unwrap_or(options.snapshot);
                Job::Restore(options)
            }
            Action::Backup => {
                let mut options = self.backup.clone();
                options.reason = request.reason;
                options.labels = labels::fit(options.labels.into_iter().chain(request.labels.clone()), 0);
                if options.reason == BackupReason::Critical && options.sqlite {
                    options.check = options.check.or(Some(CheckKind::Quick));
                }
                options.before_commit = before;
                if let Some(term) = &self.term {
                    (term.set)(&mut options);
                }
                Job::Backup { options: Box::new(options), init: self.init }
            }
        }
    }
}

/// Whether an object of a bucket belongs to one of the vaults.
fn is_in_a_vault(name: &str, object: &str, vaults: &[Address]) -> bool {
    vaults.iter().any(|vault| match vault {
        Address::Bucket { bucket, prefix } => {
            let rest = object.strip_prefix(&**prefix);
            name == bucket && rest.is_some_and(|rest| prefix.is_empty() || rest.starts_with('/'))
        }
        Address::Folder(_) => false,
    })
}

/// The request with the gravest reason among those that share a run: its reason and labels are the snapshot's. The run's report
/// holds what each event said.
pub(super) fn gravest<'r>(requests: impl Iterator<Item = &'r RunRequest>) -> Option<&'r RunRequest> {
    requests.min_by_key(|request| match request.reason {
        BackupReason::Critical => 0,
        BackupReason::Shutdown => 1,
        BackupReason::Schedule => 2,
        BackupReason::Manual => 3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::decoded::EventDecision;
    use crate::events::read_message;

    #[test]
    fn what_this_service_did_itself_starts_nothing() {
        let mut rules = Rules::plain("data".into());
        rules.place.service = Some("lastgood".into());
        let bucket = |prefix: &str| Address::Bucket { bucket: "b".into(), prefix: prefix.into() };
        let event = |kind: &str, service: Option<&str>, labels: &[(&str, &str)]| Event {
            kind: Some(kind.into()),
            service: service.map(str::to_owned),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..Event::default()
        };
        let log =
            |log: &str, service: &str| rules.is_own(&event(LOG_ENTRY, Some(service), &[(LOG, log)]), &[]).is_some();
        for platform in PLATFORM {
            assert!(log(platform, "lastgood") && !log(platform, "shop"), "{platform}");
        }
        for audit in ["activity", "data_access", "system_event", "policy"] {
            let audit = format!("{AUDIT}{audit}");
            assert!(log(&audit, "lastgood") && !log(&audit, "shop"), "{audit}");
        }
        assert!(!log("run.googleapis.com/stderr", "lastgood"), "an app may share its service with lastgood");
        let exited = |labels: &[(&str, &str)], message: &str| {
            let mut event = event(LOG_ENTRY, Some("lastgood"), labels);
            event.message = Some(message.into());
            rules.is_own(&event, &[]).is_some()
        };
        let (system, app) = ((LOG, PLATFORM[1]), (CONTAINER, "app"));
        assert!(!exited(&[system, app], "Container called exit(1)."), "a container beside it");
        assert!(exited(&[system], "Container called exit(1).") && exited(&[system, app], "Memory limit exceeded"));
        let pool = Rules { worker_pool: Some("pool".into()), ..rules.clone() };
        let of_pool = event(LOG_ENTRY, Some("pool"), &[system]);
        assert!(pool.is_own(&of_pool, &[]).is_some() && rules.is_own(&of_pool, &[]).is_none());
        let stored = |bucket_name: &str, object: &str, vault: &Address| {
            let labels = [("bucket", bucket_name), ("subject", object)];
            let event = event("google.cloud.storage.object.v1.finalized", None, &labels);
            rules.is_own(&event, std::slice::from_ref(vault)).is_some()
        };
        assert!(stored("b", "objects/app/runs/1.json", &bucket("app")) && stored("b", "objects/x", &bucket("")));
        for (name, object) in [("b", "objects/app2/x"), ("c", "objects/app/x"), ("b", "objects/other/app/x"), ("b", "")]
        {
            assert!(!stored(name, object, &bucket("app")), "{name} {object}");
        }
        assert!(!stored("b", "objects/app/x", &Address::Folder("/b/app".into())));
    }

    /// An entry of an audit log, as a sink routes it.
    fn audit(resource: serde_json::Value, payload: serde_json::Value) -> Event {
        let entry = serde_json::json!({
            "logName": "projects/p/logs/cloudaudit.googleapis.com%2Fdata_access", "insertId": "1", "severity": "ERROR",
            "resource": resource, "protoPayload": payload,
        });
        let Ok(EventDecision::Run(request)) =
            read_message(entry.to_string().as_bytes(), &Default::default(), "1", None, "s")
        else {
            panic!("{entry}")
        };
        request.event
    }

    #[test]
    fn what_an_audit_log_tells_of_this_service_starts_nothing() {
        let mut rules = Rules::plain("data".into());
        rules.place.service = Some("lastgood".into());
        let vaults = [Address::Bucket { bucket: "b".into(), prefix: "app".into() }];
        let is_own = |resource, payload| rules.is_own(&audit(resource, payload), &vaults).is_some();
        let run = |kind: &str, label: &str, name: &str| {
            let failed = serde_json::json!({ "status": { "code": 13 }, "methodName": "/InternalServices.ReplaceInternalService" });
            is_own(serde_json::json!({ "type": kind, "labels": { label: name } }), failed)
        };
        assert!(
            run("cloud_run_revision", "service_name", "lastgood") && !run("cloud_run_revision", "service_name", "shop")
        );
        let storage = |bucket: &str, name: &str, agent: &str| {
            let payload = serde_json::json!({
                "status": { "code": 9, "message": "conditionNotMet" }, "methodName": "storage.objects.create",
                "resourceName": name, "requestMetadata": { "callerSuppliedUserAgent": agent },
            });
            is_own(serde_json::json!({ "type": "gcs_bucket", "labels": { "bucket_name": bucket } }), payload)
        };
        assert!(
            storage("b", "projects/_/buckets/b/objects/app/runs/1.json", "x")
                && storage("b", "projects/_/buckets/b", "")
        );
        assert!(storage("c", "projects/_/buckets/c", "lastgood/0.1.0,gzip(gfe)"));
        for (bucket, name) in [
            ("b", "projects/_/buckets/b/objects/app2/x"),
            ("c", "projects/_/buckets/c/objects/app/x"),
            ("b", "projects/_/buckets/bb/objects/app/x"),
            ("b", "app/x"),
        ] {
            assert!(!storage(bucket, name, "gcloud lastgood/1"), "{bucket} {name}");
        }
    }

    #[test]
    fn a_refusal_has_a_code_where_backups_are_off() {
        let off = Rules { backups_off: Some("backups are off".into()), ..Rules::plain("data".into()) };
        let word = |rules: &Rules, action: &str| {
            let attributes = [("action".to_owned(), action.to_owned())].into();
            let Ok(EventDecision::Run(request)) = read_message(b"", &attributes, "1", None, "s") else { panic!() };
            rules.refusal_error(&request).map(|why| why.word())
        };
        assert_eq!((word(&off, "backup"), word(&off, "restore")), (Some("backups-off"), Some("usage")));
        assert_eq!((word(&off, "verify"), word(&Rules::plain("data".into()), "backup")), (None, None));
    }

    #[test]
    fn a_restore_is_of_now() {
        let rules = Rules { allow_restore: true, restore_age: Duration::from_secs(900), ..Rules::plain("data".into()) };
        let refusal = |action: &str, seconds: Option<i64>| {
            let time = seconds.map(|seconds| Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).unwrap());
            let attributes = [("action".to_owned(), action.to_owned())].into();
            let Ok(EventDecision::Run(request)) = read_message(b"", &attributes, "1", time, "s") else { panic!() };
            rules.refusal(&request)
        };
        for seconds in [None, Some(0), Some(-890), Some(240)] {
            assert_eq!(refusal("restore", seconds), None, "{seconds:?}");
        }
        for (seconds, why) in [(-910, "ago"), (-1_000_000_000, "ago"), (320, "ahead"), (1_000_000_000, "ahead")] {
            assert!(refusal("restore", Some(seconds)).is_some_and(|told| told.contains(why)), "{seconds}");
            assert_eq!(refusal("backup", Some(seconds)), None);
        }
    }
}
