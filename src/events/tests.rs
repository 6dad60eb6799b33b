use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::labels::LEFT_OUT;
use super::vocabulary::MAX_MESSAGE;
use super::*;
use crate::backup::{MAX_LABEL, check_labels};
use crate::report::Action;
use crate::vault::root::BackupReason;

mod hostile;
mod unreadable;

/// A request as it is on the wire, after lines that begin with `#`.
struct Wire {
    method: String,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Wire {
    fn parse(text: &str) -> Self {
        let begin = text.split_inclusive('\n').take_while(|line| line.starts_with('#')).map(str::len).sum();
        let (head, body) = text[begin..].split_once("\n\n").unwrap_or((&text[begin..], ""));
        let (first, lines) = head.split_once('\n').unwrap_or((head, ""));
        let mut first = first.split(' ');
        let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
        let mut headers = HeaderMap::new();
        for line in lines.lines() {
            let (name, value) = line.split_once(':').unwrap();
            headers
                .append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.trim().as_bytes()).unwrap());
        }
        Wire { method, path, headers, body: body.as_bytes().to_vec() }
    }

    fn read(&self) -> Result<EventDecision, Unreadable> {
        read(&self.method, &self.path, &self.headers, &self.body)
    }
}

/// Every fixture and its name.
const FIXTURES: [(&str, &str); 21] = [
    ("eventarc-pubsub", include_str!("../../tests/events/eventarc-pubsub.http")),
    ("eventarc-pubsub-cloudevent", include_str!("../../tests/events/eventarc-pubsub-cloudevent.http")),
    ("eventarc-storage", include_str!("../../tests/events/eventarc-storage.http")),
    ("eventarc-audit", include_str!("../../tests/events/eventarc-audit.http")),
    ("scheduler", include_str!("../../tests/events/scheduler.http")),
    ("scheduler-body", include_str!("../../tests/events/scheduler-body.http")),
    ("push-wrapped", include_str!("../../tests/events/push-wrapped.http")),
    ("push-wrapped-cloudevent", include_str!("../../tests/events/push-wrapped-cloudevent.http")),
    ("push-unwrapped", include_str!("../../tests/events/push-unwrapped.http")),
    ("push-unwrapped-cloudevent", include_str!("../../tests/events/push-unwrapped-cloudevent.http")),
    ("cloudevent-binary", include_str!("../../tests/events/cloudevent-binary.http")),
    ("cloudevent-structured", include_str!("../../tests/events/cloudevent-structured.http")),
    ("cloudevent-batch", include_str!("../../tests/events/cloudevent-batch.http")),
    ("push-log-text", include_str!("../../tests/events/push-log-text.http")),
    ("push-log-json", include_str!("../../tests/events/push-log-json.http")),
    ("push-log-request", include_str!("../../tests/events/push-log-request.http")),
    ("push-log-own", include_str!("../../tests/events/push-log-own.http")),
    ("push-incident", include_str!("../../tests/events/push-incident.http")),
    ("webhook-incident", include_str!("../../tests/events/webhook-incident.http")),
    ("push-error-reporting", include_str!("../../tests/events/push-error-reporting.http")),
    ("push-build-failure", include_str!("../../tests/events/push-build-failure.http")),
];

fn fixture(name: &str) -> Wire {
    Wire::parse(FIXTURES.iter().find(|(known, _)| *known == name).unwrap().1)
}

/// Everything that came of a request, line by line.
fn told(asked: Result<EventDecision, Unreadable>) -> String {
    let request = match asked {
        Ok(EventDecision::Run(request)) => request,
        Ok(EventDecision::Ignored(why)) => return format!("ignored: {why}"),
        Ok(EventDecision::Refused(why, None)) => return format!("refused: {why}"),
        Ok(EventDecision::Refused(why, Some(identity))) => return format!("refused: {why}\nid: {identity}"),
        Err(why) => return format!("unreadable: {why}"),
    };
    check_labels(&request.labels).unwrap();
    let event = &request.event;
    let mut out = format!("{} {}", request.action.name(), request.reason);
    for (name, value) in [
        ("kind", event.kind.clone()),
        ("id", event.identity.clone()),
        ("time", event.time.map(|time| time.to_string())),
        ("snapshot", request.snapshot.clone()),
        ("severity", event.severity.clone()),
        ("message", event.message.clone()),
        ("service", event.service.clone()),
    ] {
        if let Some(value) = value {
            write!(out, "\n{name}: {value}").unwrap();
        }
    }
    for (name, value) in &event.labels {
        write!(out, "\n- {name}={value}").unwrap();
    }
    out
}

fn post(path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    told(read("POST", path, &map, body.as_bytes()))
}

/// The requests that Google's services send, and those that apps send as CloudEvents.
#[test]
fn what_services_send() {
    let critical = "severity: CRITICAL\nmessage: database disk image is malformed\nservice: orders\n- attempt=3";
    let orders = "kind: dev.lastgood.critical\nid: cloudevent //orders.example.com/checkout orders-7f3a\n\
                  time: 2026-11-05T10:00:00.5Z";
    for (name, expected) in [
        (
            "eventarc-pubsub",
            format!(
                "backup critical\nkind: Pub/Sub message\n\
                 id: cloudevent //pubsub.googleapis.com/projects/demo/topics/lastgood 2070443601311540\n\
                 time: 2026-11-05T10:00:01.749Z\n{critical}\n- region=europe-west3"
            ),
        ),
        // The event inside counts, whatever it came in.
        ("eventarc-pubsub-cloudevent", format!("backup critical\n{orders}\n{critical}\n- region=europe-west3")),
        ("push-wrapped-cloudevent", format!("backup critical\n{orders}\n{critical}\n- region=europe-west3")),
        ("push-unwrapped-cloudevent", format!("backup critical\n{orders}\n{critical}\n- region=europe-west3")),
        (
            "cloudevent-structured",
            // There are two labels of one name.
            format!("backup critical\n{orders}\n{critical}\n- left_out=1\n- region=europe-west3\n- retries=2"),
        ),
        (
            "eventarc-storage",
            "ignored: an event of the type google.cloud.storage.object.v1.finalized asks for nothing".into(),
        ),
        ("eventarc-audit", "ignored: an event of the type google.cloud.audit.log.v1.written asks for nothing".into()),
        (
            "scheduler",
            "backup schedule\nkind: Cloud Scheduler job\nid: schedule nightly 2026-11-05T02:00:00Z\n\
             time: 2026-11-05T02:00:00Z"
                .into(),
        ),
        (
            "scheduler-body",
            "verify schedule\nkind: Cloud Scheduler job\nid: schedule weekly-verify 2026-11-05T02:00:00Z\n\
             time: 2026-11-05T02:00:00Z"
                .into(),
        ),
        (
            "push-wrapped",
            "backup manual\nkind: Pub/Sub message\n\
             id: pubsub projects/demo/subscriptions/lastgood-push 2070443601311540\n\
             time: 2026-11-05T10:00:01.749Z\nservice: orders\n- ticket=OPS-17"
                .into(),
        ),
        (
            "push-unwrapped",
            "backup manual\nkind: Pub/Sub message\n\
             id: pubsub projects/demo/subscriptions/lastgood-raw 2070443601311541\n\
             time: 2026-11-05T10:00:01.749Z\nservice: orders\n- ticket=OPS-17"
                .into(),
        ),
        (
            "cloudevent-binary",
            "backup critical\nkind: dev.lastgood.critical\nid: cloudevent /mycontext/subcontext 1234-1234-1234\n\
             time: 2026-11-05T10:00:00Z\nseverity: ALERT\nmessage: disk full\nservice: Euro € 😀\n- quoted=a \"b\" 100%"
                .into(),
        ),
        (
            "cloudevent-batch",
            "unreadable: could not read the body: a batch of events is not taken: send each by itself".into(),
        ),
    ] {
        assert_eq!(told(fixture(name).read()), expected, "{name}");
    }
}

/// A pulled message says the same as one that is pushed.
#[test]
fn pulled_messages() {
    let attributes = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let at = "2026-11-05T10:00:01.749Z".parse().ok();
    let pull = |data: &str, pairs: &[(&str, &str)]| {
        told(read_message(data.as_bytes(), &attributes(pairs), "77", at, "projects/p/subscriptions/s"))
    };
    let plain = "kind: Pub/Sub message\nid: pubsub projects/p/subscriptions/s 77\ntime: 2026-11-05T10:00:01.749Z";
    let event = json!({"specversion": "1.0", "id": "é 1", "source": "s", "type": "dev.lastgood.verify.requested"});
    for (data, pairs, expected) in [
        ("", &[("action", "backup")][..], format!("backup manual\n{plain}")),
        (
            "disk full",
            &[("severity", "error")],
            format!("backup critical\n{plain}\nseverity: error\nmessage: disk full"),
        ),
        (r#"{"action":"restore","snapshot":"latest"}"#, &[], format!("restore manual\n{plain}\nsnapshot: latest")),
        (r#"{"action":"backup","reason":"schedule"}"#, &[], format!("backup schedule\n{plain}")),
        // The attributes say enough; the data may be anything but broken JSON.
        ("\u{1}\u{2}", &[("action", "verify")], format!("verify manual\n{plain}\nmessage: \\u{{1}}\\u{{2}}")),
        (
            "[ERROR] disk full",
            &[("severity", "ERROR")],
            format!("backup critical\n{plain}\nseverity: ERROR\nmessage: [ERROR] disk full"),
        ),
        ("{x", &[("action", "backup")], format!("backup manual\n{plain}\nmessage: {{x")),
        ("[1]", &[("action", "verify")], format!("verify manual\n{plain}\nmessage: [1]")),
        (
            "{",
            &[("action", "verify")],
            "unreadable: could not read data of the message: it is not JSON: EOF while \
                                        parsing an object at line 1 column 1"
                .into(),
        ),
        (
            "x",
            &[("action", "verify"), ("Content-Type", "application/json")],
            "unreadable: could not read data of the \
            message: it is not JSON: expected value at line 1 column 1"
                .into(),
        ),
        // Events are known by their fields even if the content type does not say what they are.
        (
            &event.to_string(),
            &[("googclient_schemaencoding", "JSON")],
            "verify manual\nkind: dev.lastgood.verify.requested\nid: cloudevent s %C3%A9%201\n\
             time: 2026-11-05T10:00:01.749Z"
                .into(),
        ),
        (
            "",
            &[("ce-type", "dev.lastgood.critical")],
            "backup critical\nkind: dev.lastgood.critical\nid: pubsub projects/p/subscriptions/s 77\n\
             time: 2026-11-05T10:00:01.749Z\n- unread=could not read specversion of the CloudEvent: it is missing"
                .into(),
        ),
        ("", &[], format!("refused: nothing says what it asks for\n{}", plain.lines().nth(1).unwrap())),
    ] {
        assert_eq!(pull(data, pairs), expected, "{data} {pairs:?}");
    }
    assert_eq!(
        told(read_message(b"", &attributes(&[("action", "backup")]), "", None, "")),
        "backup manual\nkind: Pub/Sub message"
    );
}

/// The rules that decide, in their order.
#[test]
fn what_decides() {
    let event = |kind: &str| {
        let mut headers = vec![("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "s")];
        headers.push(("ce-type", Box::leak(kind.to_owned().into_boxed_str())));
        headers
    };
    let (none, scheduler) = (Vec::new(), vec![("user-agent", "Google-Cloud-Scheduler; x")]);
    let unknown = "refused: nothing says what it asks for";
    for (path, headers, body, expected) in [
        // The field decides, whatever the type and the path say.
        ("/events/restore", &event(RESTORE_REQUESTED), r#"{"action":"backup"}"#, "backup manual"),
        ("/events/critical", &none, r#"{"action":"verify"}"#, "verify critical"),
        (
            "/",
            &none,
            r#"{"action":"Backup"}"#,
            "refused: the action that it names is none of backup, restore and verify",
        ),
        (
            "/events/backup",
            &none,
            r#"{"action":""}"#,
            "refused: the action that it names is none of backup, restore and verify",
        ),
        ("/events/backup", &none, r#"{"action":["backup"]}"#, "refused: the field action is not text"),
        ("/events/backup", &none, r#"{"action":null}"#, "backup manual"),
        // The type decides, whatever the path says.
        ("/events/restore", &event(BACKUP_REQUESTED), "", "backup manual"),
        ("/events/critical", &event(BACKUP_REQUESTED), "", "backup manual"),
        ("/events/backup", &event(CRITICAL), "", "backup critical"),
        ("/", &event(RESTORE_REQUESTED), "", "restore manual"),
        ("/", &event(VERIFY_REQUESTED), "", "verify manual"),
        ("/", &event(CRITICAL), r#"{"reason":"manual"}"#, "backup critical"),
        // The path decides.
        ("/events/backup", &none, "", "backup manual"),
        ("/events/backup/?wait=false", &none, " \n", "backup manual"),
        ("/events/critical", &event("com.example.failed"), "", "backup critical"),
        ("/events/restore", &none, "{}", "restore manual"),
        ("/events/verify", &none, "null", "verify manual"),
        ("/events/verify", &scheduler, "", "verify schedule"),
        ("/events/backup", &none, r#"{"reason":"shutdown"}"#, "backup shutdown"),
        ("/events/backup", &none, r#"{"severity":"ERROR","reason":"manual"}"#, "backup critical"),
        ("/events/list", &none, r#"{"action":"backup"}"#, "refused: no events are taken at this path"),
        ("/events//backup", &none, "", "refused: no events are taken at this path"),
        // Cloud Scheduler decides, with any body.
        ("/", &scheduler, "", "backup schedule"),
        ("/events", &vec![("x-cloudscheduler", "true")], "not JSON", "backup schedule"),
        ("/", &vec![("x-cloudscheduler-jobname", "j")], "{", "backup schedule"),
        ("/", &scheduler, r#"{"severity":"INFO"}"#, "backup schedule"),
        // The severity decides.
        ("/", &none, r#"{"severity":"emergency"}"#, "backup critical"),
        ("/events", &event("com.example.failed"), r#"{"severity":"FATAL"}"#, "backup critical"),
        ("/", &none, r#"{"severity":"Warning"}"#, "ignored: its severity is below ERROR, and it asks for nothing else"),
        ("/", &none, r#"{"severity":3}"#, unknown),
        ("/", &none, r#"{"message":"database is down"}"#, unknown),
        ("/", &none, "", unknown),
        ("/", &none, "{}", unknown),
        ("", &none, r#"{"backup":true}"#, unknown),
        // Results, and events of Google's services, ask for nothing, whatever they hold.
        (
            "/events/backup",
            &event("dev.lastgood.backup.completed"),
            r#"{"action":"backup"}"#,
            "ignored: an event of the type dev.lastgood.backup.completed asks for nothing",
        ),
        (
            "/events",
            &event("google.cloud.storage.object.v1.finalized"),
            "{",
            "ignored: an event of the type google.cloud.storage.object.v1.finalized asks for nothing",
        ),
        // The path says what to do with them, and their data says nothing.
        ("/events/backup", &event("google.cloud.storage.object.v1.finalized"), "{", "backup manual"),
        ("/events/critical", &event("google.cloud.audit.log.v1.written"), r#"{"action":"restore"}"#, "backup critical"),
        ("/events/verify", &event("google.firebase.x"), "", "verify manual"),
    ] {
        let answer = post(path, headers, body);
        assert_eq!(answer.lines().next().unwrap(), expected, "{path} {headers:?} {body}");
    }
}

/// A system that delivers events sends them again; a program that just tells of an error does not.
#[test]
fn who_comes_again() {
    for (name, _) in FIXTURES {
        let wire = fixture(name);
        let Ok(EventDecision::Run(request)) = read(&wire.method, "/events/critical", &wire.headers, &wire.body) else {
            continue;
        };
        assert_eq!(is_redelivered(&wire.headers, &request.event), name != "webhook-incident", "{name}");
    }
    let comes_again = |headers: &[(&'static str, &'static str)], body: &str| {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let headers = HeaderMap::from_iter(headers);
        let Ok(EventDecision::Run(request)) = read("POST", "/events/critical", &headers, body.as_bytes()) else {
            panic!("{body}")
        };
        is_redelivered(&headers, &request.event)
    };
    assert!(
        !comes_again(&[], "[ERROR] disk full")
            && !comes_again(&[("user-agent", "curl/8.5")], r#"{"severity":"ERROR"}"#)
    );
    assert!(comes_again(&[], r#"{"message":{"data":""},"subscription":"s"}"#));
    for (name, value) in
        [("x-cloudscheduler", "true"), ("user-agent", "Google-Cloud-Scheduler"), ("user-agent", "CloudPubSub-Google")]
    {
        assert!(comes_again(&[(name, value)], ""), "{name}: {value}");
    }
}

/// A severity is understood however somebody writes it.
#[test]
fn severities() {
    let answer = |severity: Value| post("/", &[], &json!({ "severity": severity }).to_string());
    for serious in [
        "ERROR",
        "err",
        "Error",
        " critical ",
        "CRIT",
        "alert",
        "emerg",
        "EMERGENCY\n",
        "FATAL",
        "panic",
        "severe",
        "500",
        "800",
    ] {
        assert!(answer(json!(serious)).starts_with("backup critical"), "{serious}");
    }
    for slight in ["DEFAULT", "debug", "Info", "information", "notice", "WARNING", " warn", "trace", "0", "400"] {
        assert!(answer(json!(slight)).starts_with("ignored: its severity is below ERROR"), "{slight}");
    }
    for number in [500, 600, 700, 800] {
        assert!(answer(json!(number)).starts_with("backup critical"), "{number}");
    }
    for number in [0, 100, 200, 300, 400] {
        assert!(answer(json!(number)).starts_with("ignored"), "{number}");
    }
    for unknown in [json!(3), json!(40), json!("bad"), json!(""), json!(1e3), json!([500])] {
        assert!(answer(unknown.clone()).starts_with("refused: nothing says"), "{unknown}");
    }
}

/// The JSON that Google's services publish without saying what it is.
#[test]
fn what_is_published_without_an_envelope() {
    let at = |name: &str, path: &str| {
        let mut wire = fixture(name);
        wire.path = path.to_owned();
        told(wire.read())
    };
    let shop = "service: shop";
    for (name, path, expected) in [
        (
            "push-log-text",
            "/",
            format!(
                "backup critical\nkind: log entry\n\
                 id: log projects/demo/logs/run.googleapis.com%252Fstderr 2026-11-05T10:00:00.953Z%20672b0c01000e8f7a1b2c3d4e\n\
                 time: 2026-11-05T10:00:00.953Z\nseverity: ERROR\n\
                 message: Traceback (most recent call last):\\n  File \"/app/main.py\", line 17\\n\
                 sqlite3.DatabaseError: database disk image is malformed\n{shop}\n\
                 - insertId=672b0c01000e8f7a1b2c3d4e\n- instanceId=00f46b92858a\n- log=run.googleapis.com/stderr\n\
                 - logging.googleapis.com/timestamp=2026-11-05T10:00:00.953Z\n- resource=cloud_run_revision"
            ),
        ),
        (
            "push-log-json",
            "/",
            // A word that the app wrote is a label, whatever its name is.
            format!(
                "backup critical\nkind: log entry\n\
                 id: log projects/demo/logs/run.googleapis.com%252Fstdout 2026-11-05T10:00:02.1Z%20672b0c02000a11aa\n\
                 time: 2026-11-05T10:00:02.1Z\nseverity: CRITICAL\nmessage: the database is gone\n{shop}\n\
                 - action=restore\n- insertId=672b0c02000a11aa\n- instanceId=00f46b92858a\n- log=run.googleapis.com/stdout\n\
                 - logging.googleapis.com/timestamp=2026-11-05T10:00:02.1Z\n- order=17\n- resource=cloud_run_revision\n\
                 - snapshot=latest\n- tier=gold"
            ),
        ),
        (
            "push-log-request",
            "/",
            format!(
                "backup critical\nkind: log entry\n\
                 id: log projects/demo/logs/run.googleapis.com%252Frequests 2026-11-05T10:00:03.1Z%20672b0c03000b\n\
                 time: 2026-11-05T10:00:03.1Z\nseverity: ERROR\n\
                 message: POST https://shop-abcdefghij-ey.a.run.app/orders: 503\n{shop}\n\
                 - insertId=672b0c03000b\n- instanceId=00f46b92858a\n- log=run.googleapis.com/requests\n\
                 - logging.googleapis.com/timestamp=2026-11-05T10:00:03.1Z\n- resource=cloud_run_revision"
            ),
        ),
        ("push-log-own", "/events/critical", "ignored: a line of lastgood's own log asks for nothing".into()),
        ("push-log-own", "/", "ignored: a line of lastgood's own log asks for nothing".into()),
        (
            "push-incident",
            "/events/critical",
            format!(
                "backup critical\nkind: Cloud Monitoring incident\n\
                 id: pubsub projects/demo/subscriptions/lastgood-push 2070443601311550\ntime: 2026-11-10T12:00:00Z\n\
                 message: Request Count for demo shop is above the threshold of 10.000 with a value of 25.000.\n{shop}\n\
                 - condition=Cloud Run Revision - Request Count [5xx]\n- incident=0.opqiw61fsv7p\n- policy=shop fails\n\
                 - severity=Critical\n- url=https://console.cloud.google.com/monitoring/alerting/alerts/0.opqiw61fsv7p?project=demo"
            ),
        ),
        (
            "push-error-reporting",
            "/events/critical",
            format!(
                "backup critical\nkind: Error Reporting\n\
                 id: pubsub projects/demo/subscriptions/lastgood-push 2070443601311550\ntime: 2026-11-05T10:00:01.749Z\n\
                 message: database disk image is malformed\n{shop}\n- exception=sqlite3.DatabaseError\n\
                 - url=https://console.cloud.google.com/errors/CNSgkpmR1ZqFCQ?project=demo\n- version=shop-00007-abc"
            ),
        ),
        (
            "push-build-failure",
            "/events/critical",
            "backup critical\nkind: Cloud Build\n\
             id: pubsub projects/demo/subscriptions/lastgood-push 2070443601311550\ntime: 2026-11-05T10:00:01.749Z\n\
             message: the build 7f3a1c52-0d8e-4d0e-9a5b-6c1d2e3f4a5b ended as FAILURE: Build step failure: build step 0 failed: \
             step exited with non-zero status: 1\nservice: shop-deploy\n- build=7f3a1c52-0d8e-4d0e-9a5b-6c1d2e3f4a5b\n\
             - buildId=7f3a1c52-0d8e-4d0e-9a5b-6c1d2e3f4a5b\n- project=demo\n- status=FAILURE\n\
             - url=https://console.cloud.google.com/cloud-build/builds/7f3a1c52?project=12345"
                .into(),
        ),
    ] {
        assert_eq!(at(name, path), expected, "{name}");
    }
    assert!(
        at("webhook-incident", "/events/critical").starts_with("backup critical\nkind: Cloud Monitoring incident\n")
    );
    for (name, what) in [
        ("push-incident", "a Cloud Monitoring incident"),
        ("webhook-incident", "a Cloud Monitoring incident"),
        ("push-error-reporting", "an error of Error Reporting"),
        ("push-build-failure", "a failure of Cloud Build"),
    ] {
        let refused = format!("refused: nothing says what it asks for: {what} is taken at /events/critical");
        assert_eq!(at(name, "/").lines().next(), Some(&*refused));
        assert!(at(name, "/events/backup").starts_with("backup manual"));
    }
    // An incident that is over, or a build that went well, is no trouble.
    let incident = fixture("webhook-incident");
    let closed = String::from_utf8(incident.body).unwrap().replace("\"open\"", "\"closed\"");
    assert_eq!(post("/events/critical", &[], &closed), "ignored: an incident that is closed asks for nothing");
    for status in ["SUCCESS", "WORKING", "QUEUED", "CANCELLED"] {
        let build = json!({ "id": "1", "projectId": "p", "status": status, "steps": [] }).to_string();
        assert_eq!(post("/events/critical", &[], &build), "ignored: a build that has not failed asks for nothing");
    }
    let entry = |more: Value| {
        let mut entry = json!({ "logName": "projects/p/logs/app", "insertId": "1", "severity": "ERROR" });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post("/", &[], &entry.to_string())
    };
    let own = json!({ "logging.googleapis.com/labels": { WRITER: "lastgood 0.1.0" } });
    assert!(entry(json!({ "jsonPayload": own })).starts_with("ignored: a line of lastgood's own log"));
    assert!(entry(json!({ "severity": "WARNING", "textPayload": "x" })).starts_with("ignored: its severity is below"));
    assert!(entry(json!({ "jsonPayload": { "code": 7 } })).contains("\nmessage: {\"code\":7}\n"));
    assert!(
        entry(json!({ "protoPayload": { "methodName": "m", "status": { "message": "denied" } } }))
            .contains("\nmessage: denied\n")
    );
}

/// A restore says which snapshot is meant; a backup has none.
#[test]
fn which_snapshot() {
    let refused = "refused: what it says is the snapshot is no id, name or time";
    for (snapshot, expected) in [
        (json!("latest"), "restore manual\nkind: request\nsnapshot: latest"),
        (json!("2026-11-05T10:00:00+01:00"), "restore manual\nkind: request\nsnapshot: 2026-11-05T10:00:00+01:00"),
        (json!(null), "restore manual\nkind: request"),
        (json!(""), refused),
        (json!("../../etc"), refused),
        (json!("a\nb"), refused),
        (json!("a".repeat(101)), refused),
        (json!(7), "refused: the field snapshot is not text"),
    ] {
        let answer = post("/events/restore", &[], &json!({ "snapshot": snapshot }).to_string());
        assert_eq!(answer, expected, "{snapshot}");
    }
    assert_eq!(post("/events/backup", &[], r#"{"snapshot":"../x"}"#), "backup manual\nkind: request\n- snapshot=../x");
    // A snapshot that differs between attribute and field is refused.
    let headers = [("x-goog-pubsub-message-id", "1"), ("action", "restore"), ("snapshot", "latest")];
    assert!(post("/", &headers, r#"{"snapshot":"latest"}"#).starts_with("restore manual"));
    let answer = post("/", &headers, r#"{"snapshot":"abc"}"#);
    assert_eq!(answer.lines().next().unwrap(), "refused: the attribute snapshot says one thing and the field another");
    let answer = post("/", &headers, r#"{"action":"backup"}"#);
    assert_eq!(answer.lines().next().unwrap(), "refused: the attribute action says one thing and the field another");
}

/// A thing that no request may choose is a label like any other word.
#[test]
fn places_are_labels() {
    let names = ["vault", "data", "target", "accept_shrink", "force", "init", "webhook", "results_topic", "exclude"];
    let body: Value = names.iter().map(|name| ((*name).to_owned(), json!("gs://evil/x"))).collect();
    for path in ["/events/backup", "/events/restore", "/events/verify"] {
        let Ok(EventDecision::Run(request)) = read("POST", path, &HeaderMap::new(), body.to_string().as_bytes()) else {
            panic!("{path}")
        };
        let RunRequest { action: _, reason, labels, snapshot, event } = request;
        let Event { identity, kind, time, severity, message, service, labels: shown } = event;
        assert_eq!((reason, snapshot, identity, time), (BackupReason::Manual, None, None, None));
        assert_eq!((kind.as_deref(), severity, message, service), (Some("request"), None, None, None));
        assert_eq!(labels, names.iter().map(|name| ((*name).into(), "gs://evil/x".into())).collect());
        assert_eq!(shown, labels);
    }
    // Nor do HTTP's own headers become labels where attributes come as headers.
    let raw = fixture("push-unwrapped");
    let Ok(EventDecision::Run(request)) = raw.read() else { panic!() };
    assert_eq!(request.labels.keys().collect::<Vec<_>>(), ["service", "ticket"]);
}

/// Long texts are cut, many labels counted, control characters shown.
#[test]
fn what_is_over_is_cut() {
    let mut labels: serde_json::Map<String, Value> =
        (0..40).map(|n| (format!("n{n:02}"), json!("é".repeat(2000)))).collect();
    labels.insert(String::new(), json!("no name"));
    labels.insert("long".repeat(100), json!(1));
    labels.insert("list".into(), json!([1]));
    labels.insert("none".into(), json!(null));
    let message = format!("a\r\nb\u{1b}[31m\u{202e}{}", "€".repeat(4000));
    let body = json!({"severity": "CRITICAL", "message": message, "service": "s".repeat(2000), "labels": labels});
    let Ok(EventDecision::Run(request)) = read("POST", "/", &HeaderMap::new(), body.to_string().as_bytes()) else {
        panic!()
    };
    let (event, attached) = (&request.event, &request.labels);
    let message = event.message.as_deref().unwrap();
    assert!(message.starts_with(r"a\r\nb\u{1b}[31m\u{202e}€€"), "{message}");
    assert!(message.ends_with("€… (cut)") && (MAX_MESSAGE - 3..=MAX_MESSAGE).contains(&message.len()));
    check_labels(attached).unwrap();
    check_labels(&event.labels).unwrap();
    assert_eq!((attached.len(), event.labels.len()), (32, 32));
    // Three that are not single values or have no fit name, and those over the limit.
    assert_eq!((attached[LEFT_OUT].as_str(), event.labels[LEFT_OUT].as_str()), ("15", "12"));
    assert!(attached["message"].starts_with(r"a\r\nb") && attached["message"].ends_with("… (cut)"));
    assert_eq!(attached["severity"], "CRITICAL");
    assert!(attached["service"].len() <= 512 && event.service.as_ref() == Some(&attached["service"]));
    assert!((MAX_LABEL - 4..=MAX_LABEL).contains(&("n00".len() + attached["n00"].len())));
    // Labels that were fitted may be joined with others, and fitted again.
    assert_eq!(labels::fit(attached.clone(), 0), *attached);
    let joined = labels::fit([("mine".to_owned(), "1".to_owned())].into_iter().chain(attached.clone()), 0);
    assert_eq!((joined.len(), joined["mine"].as_str(), joined[LEFT_OUT].as_str()), (32, "1", "16"));
}

/// A redelivery has the same identity, and an event that is published twice is one.
#[test]
fn identities() {
    let id = |headers: &[(&str, &str)], body: &str| {
        let answer = post("/events/backup", headers, body);
        answer.lines().find_map(|line| line.strip_prefix("id: ").map(str::to_owned))
    };
    let schedule = |time| [("x-cloudscheduler-jobname", "j b"), ("x-cloudscheduler-scheduletime", time)];
    assert_eq!(id(&schedule("2026-11-05T03:00:00+01:00"), "").as_deref(), Some("schedule j%20b 2026-11-05T02:00:00Z"));
    assert_eq!(id(&schedule("2026-11-05T02:00:00Z"), ""), id(&schedule("2026-11-05T03:00:00+01:00"), ""));
    assert_eq!(id(&schedule("soon"), "").as_deref(), Some("schedule j%20b soon"));
    // The body of a schedule was written once: an id in it is the same every night.
    let event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": BACKUP_REQUESTED}).to_string();
    assert_eq!(id(&schedule("soon"), &event).as_deref(), Some("schedule j%20b soon"));
    assert_eq!(id(&[("x-cloudscheduler", "true")], &event), None);
    assert_eq!(id(&[], &event).as_deref(), Some("cloudevent s 1"));
    assert_eq!(id(&[], ""), None);
    // Kinds and parts do not run into each other.
    let event = |source: &str, id: &str| EventIdentity::CloudEvent { source: source.into(), id: id.into() }.to_string();
    let message = |of: &str, id: &str| EventIdentity::Message { subscription: of.into(), id: id.into() }.to_string();
    assert_ne!(event("a", "b"), message("a", "b"));
    assert_ne!(event("a b", "c"), event("a", "b c"));
    assert_ne!(event("a%20b", "c"), event("a b", "c"));
    assert_ne!(event("", "a"), event("a", ""));
    assert_eq!(message("", "7"), "pubsub  7");
    let long = event("a", &"b".repeat(2000));
    assert!(long.starts_with("cloudevent blake3:") && long.len() < 100);
    assert_ne!(long, event("a", &"b".repeat(2001)));
}

/// Text is an event's message if it is declared as text.
#[test]
fn plain_text() {
    let text = [("content-type", "text/plain; charset=utf-8")];
    assert_eq!(post("/events/critical", &text, "disk full\n"), "backup critical\nkind: request\nmessage: disk full");
    let event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": CRITICAL, "data": "disk full"});
    assert_eq!(
        post("/", &[("content-type", "application/cloudevents+json")], &event.to_string()),
        "backup critical\nkind: dev.lastgood.critical\nid: cloudevent s 1\nmessage: disk full"
    );
    // So is other text, whatever it begins with, whatever it is declared as, and however it is encoded.
    let json = [("content-type", "application/json")];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for (body, message) in [
        ("[ERROR] disk full", "[ERROR] disk full"),
        ("{shop} is down", "{shop} is down"),
        ("{\"message\":\"cut", "{\"message\":\"cut"),
        ("\"quoted\"", "quoted"),
        ("[1,2]", "[1,2]"),
        ("\u{feff}[x]\n", "[x]"),
        ("NaN", "null"),
    ] {
        for headers in [&text[..], &json, &form, &[]] {
            for (path, reason) in [("/events/critical", "critical"), ("/events/backup", "manual")] {
                let message = if body == "NaN" { String::new() } else { format!("\nmessage: {message}") };
                assert_eq!(
                    post(path, headers, body),
                    format!("backup {reason}\nkind: request{message}"),
                    "{headers:?} {body}"
                );
            }
        }
    }
    let bytes = |path: &str, body: &[u8]| told(read("POST", path, &HeaderMap::new(), body));
    assert_eq!(
        bytes("/events/critical", b"Gr\xf6\xdfe"),
        "backup critical\nkind: request\nmessage: Gr\u{fffd}\u{fffd}e"
    );
    assert_eq!(bytes("/events/critical", b"\x1f\x8b\x08\0\xff"), "backup critical\nkind: request");
    // If only JSON could say what is meant, it has to be JSON.
    for (path, body) in
        [("/events/restore", "{\"snapshot\":\"abc"), ("/events/verify", "[x"), ("/", "[ERROR] disk full"), ("/", "{")]
    {
        assert!(
            post(path, &text, body).starts_with("unreadable: could not read the body: it is not JSON"),
            "{path} {body}"
        );
    }
    // The request that `curl -d '{…}'` sends.
    assert_eq!(post("/", &form, r#"{"action":"backup"}"#), "backup manual\nkind: request");
}

/// JSON as Python's `json` writes it, and JSON that begins with a byte-order mark.
#[test]
fn json_that_is_none_to_the_letter() {
    let critical = "backup critical\nkind: request\nseverity: CRITICAL\nmessage: NaN \\\" Infinity";
    for body in [
        r#"{"severity":"CRITICAL","message":"NaN \\\" Infinity","load":NaN,"free":-Infinity,"list":[Infinity, NaN]}"#,
        "\u{feff}{\"severity\":\"CRITICAL\",\"message\":\"NaN \\\\\\\" Infinity\"}",
        r#"{"severity":"CRITICAL","message":"NaN \\\" Infinity","load":1e400,"user":"\ud83d",}"#,
    ] {
        let answer = post("/", &[], body);
        assert!(answer.starts_with(critical), "{body}: {answer}");
    }
}
