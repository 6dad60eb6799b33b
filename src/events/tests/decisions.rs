//! Which action, reason and snapshot an event asks for.

use super::*;

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
        ("/", &none, r#"{"action":"Backup"}"#, "refused: its action is not one of backup, restore and verify"),
        ("/events/backup", &none, r#"{"action":""}"#, "refused: its action is not one of backup, restore and verify"),
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
        ("/events/list", &none, r#"{"action":"backup"}"#, "refused: this path takes no events"),
        ("/events//backup", &none, "", "refused: this path takes no events"),
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

/// A restore says which snapshot is meant; a backup has none.
#[test]
fn which_snapshot() {
    let refused = "refused: its snapshot is not an id, a name or a time";
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
        let Event { identity, kind, time, severity, message, service, labels: shown, output: _ } = event;
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
