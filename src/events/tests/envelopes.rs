//! Requests and messages in their envelopes, as services and apps send them.

use super::*;

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
            "unreadable: could not read the body: batches of events are not taken: send each event by itself".into(),
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
    // An incident that is over, or a build that went well, asks for nothing.
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
