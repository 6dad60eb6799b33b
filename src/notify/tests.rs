use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::events::decoded::EventDecision;
use crate::events::{read, read_message};
use crate::monitor::{CollectingMonitor, system_random};
use crate::path::EntryPath;
use crate::report::{Action, Event, JobOutput, Outcome, ReportedError, RunEnvironment, sample};
use crate::vault::hex::Hex;
use crate::vault::root::{Problem, SnapshotName};
use crate::{replicas, restore};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn snapshot() -> SnapshotName {
    SnapshotName { seq: 12, time: time("2026-11-05T10:00:01Z"), id: Hex([0xab; 8]) }
}

/// The report of a run on the host web-1 that ended with this result, without what was done.
fn report(action: Action, result: Outcome) -> Report {
    Report {
        place: RunEnvironment { host: "web-1".into(), writer: "lastgood 0.1.0".into(), ..RunEnvironment::default() },
        started: time("2026-11-05T10:00:00Z"),
        finished: time("2026-11-05T10:00:03.25Z"),
        snapshot: Some(snapshot()),
        ..sample::report(action, result)
    }
}

fn failed(action: Action, result: Outcome, error: &str) -> Report {
    let error = ReportedError { error: error.into(), kind: "failed".into(), code: "failed".into(), hint: None };
    Report { snapshot: None, error: Some(error), ..report(action, result) }
}

fn restored(not_restored: Vec<Problem>) -> JobOutput {
    let restored = restore::RestoreReport {
        snapshot: snapshot(),
        target: "/srv/data".into(),
        entries: 3,
        files: 2,
        bytes: 3 << 20,
        moved_aside: None,
        moved_beside: Vec::new(),
        kept: Vec::new(),
        in_use: Vec::new(),
        warnings: Vec::new(),
        not_restored,
        stale: Vec::new(),
        missing: Vec::new(),
        torn: Vec::new(),
        passed_over: Vec::new(),
        instead_of: None,
        way_back: None,
        committed_as: None,
        seconds: 3.25,
        traffic: None,
    };
    JobOutput::Restore(Box::new(replicas::restore::ReplicatedRestoreReport { vault: "gs://b/a".into(), restored }))
}

fn critical() -> Event {
    Event {
        identity: Some("cloudevent s 1".into()),
        message: Some("<!channel> a & b\nc".into()),
        service: Some("shop".into()),
        ..Event::default()
    }
}

fn told(report: &Report, reason: Option<BackupReason>) -> (Value, BTreeMap<String, String>, Value) {
    let told = Notification::new(report, reason, "//lastgood.dev/hosts/web-1").unwrap();
    let (data, attributes) = told.message().unwrap();
    (serde_json::from_slice(&data).unwrap(), attributes.into_iter().collect(), told.structured().unwrap())
}

#[test]
fn what_the_app_wrote_stays_in_the_vault() {
    let mut report = sample::report(Action::Backup, Outcome::Complete);
    report.events = vec![Event { output: Some("password is 1234".into()), ..critical() }];
    assert!(String::from_utf8(report.encode().unwrap()).unwrap().contains("1234"));
    let (data, attributes, structured) = told(&report, None);
    assert!(data["events"][0]["message"].is_string() && structured["data"]["events"][0]["message"].is_string());
    assert!(!format!("{data} {attributes:?} {structured}").contains("1234"));
}

#[test]
fn what_a_result_is_called() {
    for (result, kind) in [
        (Outcome::Complete, "completed"),
        (Outcome::Stale, "partial"),
        (Outcome::IncompleteCopies, "partial"),
        (Outcome::Partial, "partial"),
        (Outcome::Suspect, "partial"),
        (Outcome::Unsound, "partial"),
        (Outcome::Damaged, "failed"),
        (Outcome::Failed, "failed"),
        (Outcome::Refused, "failed"),
    ] {
        for action in [Action::Backup, Action::Restore, Action::Verify] {
            let (_, attributes, structured) = told(&report(action, result), None);
            assert_eq!(attributes["ce-type"], format!("dev.lastgood.{}.{kind}", action.name()));
            assert_eq!(attributes["result"], result.name());
            assert_eq!((&structured["type"], &structured["result"]), (&json!(attributes["ce-type"]), &json!(result)));
        }
    }
}

#[test]
fn an_event_is_the_same_in_both_modes() {
    let report = report(Action::Backup, Outcome::Complete);
    let (data, attributes, structured) = told(&report, Some(BackupReason::Schedule));
    let whole = serde_json::to_value(&report).unwrap();
    assert_eq!((&data, &structured["data"]), (&whole, &whole));
    let expected = json!({
        "ce-specversion": "1.0",
        "ce-id": "0102030405060708",
        "ce-source": "//lastgood.dev/hosts/web-1",
        "ce-type": "dev.lastgood.backup.completed",
        "ce-time": attributes["ce-time"],
        "ce-subject": snapshot().to_string(),
        "content-type": "application/json",
        "action": "backup",
        "result": "complete",
        "reason": "schedule",
    });
    assert_eq!(json!(attributes), expected);
    assert_eq!(time(&attributes["ce-time"]), report.finished);
    for (name, value) in &attributes {
        let name = name.strip_prefix("ce-").unwrap_or(if name == "content-type" { "datacontenttype" } else { name });
        match name {
            "time" => assert_eq!(time(structured[name].as_str().unwrap()), report.finished),
            _ => assert_eq!(structured[name], json!(value), "{name}"),
        }
    }
    let (_, attributes, _) = told(&failed(Action::Restore, Outcome::Refused, "no"), None);
    assert!(!attributes.contains_key("ce-subject") && !attributes.contains_key("reason"));
}

#[test]
fn a_program_is_told_the_code_of_an_error_and_what_to_do() {
    let why = Error::failed("write it", "the disk is full").with_code(Code::DiskFull).hint("Free some space.");
    let report = Report { error: Some((&why).into()), ..report(Action::Backup, Outcome::Failed) };
    let (message, _, structured) = told(&report, None);
    let expected = json!({
        "error": "could not write it: the disk is full", "kind": "failed", "code": "disk-full", "hint": "Free some space.",
    });
    assert_eq!((&message["error"], &structured["data"]["error"]), (&expected, &expected));
    let notification = Notification::new(&report, None, "//lastgood.dev/hosts/web-1").unwrap();
    let webhook = Webhook::new("https://example.com/", WebhookFilter::All).unwrap();
    let posted: Value = serde_json::from_slice(&webhook.body("It failed.", &notification).unwrap()).unwrap();
    assert_eq!(posted["event"]["data"]["error"], expected);
}

#[test]
fn where_events_come_from() {
    let host = RunEnvironment { host: "wéb 1".into(), ..RunEnvironment::default() };
    assert_eq!(source(&host, None), "//lastgood.dev/hosts/w%C3%A9b%201");
    assert_eq!(source(&host, Some("nightly")), "//lastgood.dev/jobs/nightly");
    assert_eq!(
        source(&RunEnvironment { service: Some("backup".into()), ..host }, None),
        "//lastgood.dev/services/backup"
    );
    assert_eq!(source(&RunEnvironment::default(), None), "//lastgood.dev/hosts/unknown");
}

#[test]
fn a_report_that_is_too_long_is_told_without_its_longest_lists() {
    let mut long = report(Action::Restore, Outcome::Partial);
    long.events = vec![critical(); 3];
    let problem = |n: usize| Problem::new(EntryPath::new(format!("folder/{n}").as_bytes()).unwrap(), "x".repeat(100));
    long.done = Some(restored((0..10_000).map(problem).collect()));
    let (data, _, _) = told(&long, None);
    assert!(serde_json::to_vec(&data).unwrap().len() <= event::MAX_DATA);
    assert_eq!(data["left_out"], json!(["restore.not_restored"]));
    assert_eq!((&data["restore"]["files"], &data["events"][2]["service"]), (&json!(2), &json!("shop")));
    assert!(data["restore"].get("not_restored").is_none());
    long.events = vec![critical(); 5000];
    assert_eq!(told(&long, None).0["left_out"].as_array().unwrap().len(), 2);
}

#[test]
fn a_result_that_comes_back_starts_no_run() {
    let reports = [
        report(Action::Backup, Outcome::Complete),
        failed(Action::Backup, Outcome::Failed, "could not back up: it does not exist"),
        Report { done: Some(restored(Vec::new())), ..report(Action::Restore, Outcome::Complete) },
        report(Action::Verify, Outcome::Damaged),
    ];
    for report in reports {
        let report = Report { events: vec![critical()], ..report };
        let told = Notification::new(&report, Some(BackupReason::Critical), "//lastgood.dev/hosts/web-1").unwrap();
        let (data, attributes) = told.message().unwrap();
        let attributes: BTreeMap<_, _> = attributes.into_iter().collect();
        let ignored = |asked, how: &str| match asked {
            Ok(EventDecision::Ignored(_)) => {}
            other => panic!("{how}: {other:?}"),
        };
        let subscription = "projects/p/subscriptions/s";
        ignored(read_message(&data, &attributes, "1", None, subscription), "pulled");
        ignored(read_message(&data, &BTreeMap::new(), "1", None, subscription), "pulled without attributes");
        let webhook =
            Webhook::new("https://example.com/", WebhookFilter::All).unwrap().body("The backup …", &told).unwrap();
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &data);
        let wrapped = json!({ "subscription": subscription, "message": { "data": encoded, "attributes": attributes, "messageId": "1" } });
        let header = |(name, value): (&String, &String)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<http::HeaderValue>().unwrap())
        };
        let mut unwrapped: HeaderMap = attributes.iter().map(header).collect();
        let binary = unwrapped.clone();
        unwrapped.insert("x-goog-pubsub-message-id", "1".parse().unwrap());
        let structured = told.structured().unwrap().to_string();
        for path in ["/", "/events", "/events/backup", "/events/critical", "/events/restore", "/events/verify"] {
            ignored(read("POST", path, &HeaderMap::new(), wrapped.to_string().as_bytes()), "pushed");
            ignored(read("POST", path, &unwrapped, &data), "pushed as it is");
            ignored(read("POST", path, &HeaderMap::new(), &data), "pushed without metadata");
            ignored(read("POST", path, &binary, &data), "as a binary event");
            ignored(read("POST", path, &HeaderMap::new(), structured.as_bytes()), "as a structured event");
            ignored(read("POST", path, &HeaderMap::new(), &webhook), "posted by the webhook");
        }
    }
    // An app's own words are not taken for a report.
    let own = br#"{"action":"backup","run":"7","result":"bad","text":"x","event":{"type":"order.failed"}}"#;
    assert!(matches!(read("POST", "/", &HeaderMap::new(), own), Ok(EventDecision::Run(_))));
}

#[test]
fn what_a_person_is_told() {
    let id = snapshot().id;
    let problem = Problem::new(EntryPath::new(b"a").unwrap(), "no");
    let restore = |done| Report { done: Some(done), ..report(Action::Restore, Outcome::Complete) };
    for (report, reason, expected) in [
        (
            restore(restored(Vec::new())),
            None,
            format!("The restore on web-1 is complete: snapshot {id} is in /srv/data: 2 files, 3.00 MiB, in 3.2 s."),
        ),
        (
            Report { result: Outcome::Partial, ..restore(restored(vec![problem])) },
            None,
            format!(
                "The restore on web-1 is partial: snapshot {id} is in /srv/data: 2 files, 3.00 MiB, in 3.2 s. 1 entry could \
                 not be restored."
            ),
        ),
        (
            Report {
                place: RunEnvironment { service: Some("backup".into()), ..RunEnvironment::default() },
                finished: time("2026-11-05T10:00:00Z"),
                ..report(Action::Backup, Outcome::Suspect)
            },
            Some(BackupReason::Schedule),
            format!(
                "The backup by the service backup is suspect: snapshot {id}. It looks like an accident: an unmounted \
                 volume, or a directory that was wiped."
            ),
        ),
        (
            Report {
                events: vec![Event::default(), critical(), critical()],
                finished: time("2026-11-05T10:01:03Z"),
                ..failed(Action::Backup, Outcome::Failed, "could not read <a>: x & y")
            },
            Some(BackupReason::Critical),
            "The backup on web-1 failed after 1m 3s: could not read &lt;a&gt;: x &amp; y. It was made for a critical event of \
             shop (and 1 more): &lt;!channel&gt; a &amp; b\\nc"
                .into(),
        ),
        (
            failed(Action::Restore, Outcome::Refused, "no such snapshot"),
            None,
            "The restore on web-1 was refused after 3.2 s: no such snapshot.".into(),
        ),
    ] {
        assert_eq!(sentence::of(&report, reason), expected);
    }
    let mut long = failed(Action::Backup, Outcome::Failed, &"&".repeat(100_000));
    long.events = vec![Event { message: Some("é".repeat(100_000)), ..critical() }; 20];
    long.place.host = "h".repeat(100_000);
    assert!(sentence::of(&long, Some(BackupReason::Critical)).len() < 10_000);
}

#[test]
fn chats_are_sent_their_text_alone() {
    let told = Notification::new(&report(Action::Backup, Outcome::Complete), None, "//lastgood.dev/hosts/h").unwrap();
    let body = |url: &str| -> Value {
        let webhook = Webhook::new(url, WebhookFilter::All).unwrap();
        serde_json::from_slice(&webhook.body("It is complete.", &told).unwrap()).unwrap()
    };
    for chat in ["https://hooks.slack.com/services/T/B/x", "https://CHAT.googleapis.com/v1/spaces/A/messages?key=k"] {
        assert_eq!(body(chat), json!({ "text": "It is complete." }));
    }
    let other = body("https://example.com/hooks.slack.com");
    assert_eq!((&other["text"], &other["event"]), (&json!("It is complete."), &told.structured().unwrap()));
    let failures = Webhook::new("https://example.com", WebhookFilter::NotComplete).unwrap();
    let wants = |result| failures.wants(&report(Action::Backup, result));
    assert!(wants(Outcome::Suspect) && wants(Outcome::IncompleteCopies));
    assert!(!wants(Outcome::Complete) && !wants(Outcome::Stale));
}

/// Answers each connection with `answer`, whatever is asked.
fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut got = [0; 1 << 16];
            if answer.is_empty() {
                // Such a request is never answered, until the client goes.
                std::thread::spawn(move || while stream.read(&mut got).is_ok_and(|n| n > 0) {});
            } else if stream.read(&mut got).is_ok_and(|n| n > 0) {
                // The client may have gone.
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    address
}

#[test]
fn once_told_to_stop_it_takes_two_seconds() {
    let url = format!("http://{}/secret", server(""));
    let webhook = || Some(Webhook::new(&url, WebhookFilter::All).unwrap());
    let notify = Notifier::new("//lastgood.dev/hosts/h".into(), None, webhook(), None);
    let (stop, heard) = (AtomicBool::new(true), CollectingMonitor::default());
    let ctx = Context { random: &system_random, threads: 1, parallel: 1, stop: &stop, monitor: &heard };
    let began = Instant::now();
    notify.tell(&report(Action::Backup, Outcome::Complete), None, &ctx);
    assert!((LAST_WORDS..TIME).contains(&began.elapsed()), "{:?}", began.elapsed());

    // The same if the stop comes in the middle.
    stop.store(false, Ordering::Relaxed);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::Relaxed);
        });
        notify.tell(&report(Action::Backup, Outcome::Complete), None, &ctx);
    });
    assert!((Duration::from_secs(3)..TIME).contains(&began.elapsed()), "{:?}", began.elapsed());
    let warnings = heard.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for warning in warnings {
        assert!(warning.contains("0102030405060708") && warning.contains("http://127.0.0.1:"), "{warning}");
        assert!(!warning.contains("secret"), "{warning}");
    }
}

#[test]
fn a_ping_that_did_not_count_was_not_told_whatever_its_status() {
    let end = |body: &str| {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let ping = Ping::new(&format!("http://{}/secret", server(answer.leak()))).unwrap();
        let (run, hurry) = (Hex([1; 8]), AtomicBool::new(false));
        ping.end(Outcome::Complete, run, "It is.", &PingStart::default(), Duration::from_secs(5), &hurry)
    };
    for body in ["OK", "", "ok (not found)", "{\"message\":\"OK (\"}"] {
        end(body).unwrap();
    }
    for (body, said) in [
        ("OK (not found)", "it answered 200 OK, OK (not found)"),
        ("OK (rate limited)\n", "it answered 200 OK, OK (rate limited)"),
        ("OK (is secret)", "it answered 200 OK, OK (…)"),
        ("OK (\u{1b}[2J)", "it answered 200 OK, OK (…)"),
    ] {
        let why = end(body).unwrap_err();
        assert!(why.what().ends_with(said) && !why.what().contains("secret"), "{why}");
        assert!(why.advice().unwrap().contains("URL right"), "{why}");
    }
    let long = end(&format!("OK ({}", "x".repeat(1 << 20))).unwrap_err().what();
    assert!(long.len() < 200, "{long}");
    // A webhook's answer is its own.
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nOK (not found)";
    let webhook = Webhook::new(&format!("http://{}/secret", server(answer)), WebhookFilter::All).unwrap();
    webhook.post(b"{}".to_vec(), Duration::from_secs(5)).unwrap();
}

/// Answers each request by its first line, and keeps the connection open; returns also the first lines, as they come.
fn held_open(answer: impl Fn(&str) -> &'static str + Send + Sync + 'static) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, lines) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
    let (keep, answer) = (lines.clone(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, keep, answer) = (stream.unwrap(), keep.clone(), answer.clone());
            std::thread::spawn(move || {
                let mut got = [0; 1 << 16];
                let length = stream.read(&mut got).unwrap_or(0);
                let line = String::from_utf8_lossy(&got[..length]).lines().next().unwrap_or_default().to_owned();
                keep.lock().unwrap().push(line.clone());
                // The client may have gone.
                let _ = stream.write_all(answer(&line).as_bytes());
                while stream.read(&mut got).is_ok_and(|n| n > 0) {}
            });
        }
    });
    (address, lines)
}

#[test]
fn an_answer_counts_as_far_as_it_has_come() {
    let end = |answer: &'static str, within: u64| {
        let (address, lines) = held_open(move |_| answer);
        let ping = Ping::new(&format!("http://{address}/secret")).unwrap();
        let (run, hurry, began) = (Hex([1; 8]), AtomicBool::new(false), Instant::now());
        let within = Duration::from_millis(within);
        let told = ping.end(Outcome::Complete, run, "It is.", &PingStart::default(), within, &hurry);
        assert_eq!(lines.lock().unwrap().len(), 1, "{answer}");
        (told.map_err(|why| why.what()), began.elapsed())
    };
    let soon = Duration::from_millis(900);
    // The time is over before the body is there.
    let (told, _) = end("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nO", 500);
    told.unwrap();
    let (told, took) = end("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nOK, thanks", 5000);
    assert!(told.is_ok() && took < soon, "{told:?} after {took:?}");
    let (told, took) = end("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nOK (not found)", 5000);
    assert!(told.unwrap_err().ends_with("OK (not found)") && took < soon, "{took:?}");
    let (told, _) = end("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nOK (rate", 500);
    assert!(told.unwrap_err().ends_with("OK (rate)"));
}

#[test]
fn no_beginning_is_told_after_its_end() {
    let (address, lines) = held_open(|line| match line.contains("/start") {
        true => "HTTP/1.1 500 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        false => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK",
    });
    let ping = Ping::new(&format!("http://{address}/secret")).unwrap();
    let (run, hurry) = (Hex([1; 8]), AtomicBool::new(true));
    // The program was told to stop: the end does not wait until the beginning is given up.
    let start = ping.start(run);
    ping.end(Outcome::Complete, run, "It is.", &start, Duration::from_secs(2), &hurry).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let mut lines = lines.lock().unwrap();
    // A beginning may be given up between its connection and its request.
    lines.retain(|line| !line.is_empty());
    let (last, starts) = lines.split_last().unwrap();
    assert!(last.starts_with("POST /secret?rid=") && !starts.is_empty(), "{lines:?}");
    assert!(starts.iter().all(|line| line.starts_with("POST /secret/start?rid=")), "{lines:?}");
}

#[test]
fn an_error_has_slacks_word_and_nothing_of_the_url() {
    let post = |answer| {
        let webhook =
            Webhook::new(&format!("http://{}/secret?key=hidden", server(answer)), WebhookFilter::All).unwrap();
        webhook.post(b"{}".to_vec(), Duration::from_secs(10)).unwrap_err()
    };
    for (answer, expected, code) in [
        ("404 Not Found\r\nContent-Length: 10\r\n\r\nno_service", "404 Not Found, no_service", "failed"),
        ("404 Not Found\r\nContent-Length: 19\r\n\r\nCannot POST /secret", "404 Not Found", "failed"),
        ("400 Bad Request\r\nContent-Length: 6\r\n\r\nhidden", "400 Bad Request", "failed"),
        ("403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403 Forbidden", "access-denied"),
        ("302 Found\r\nLocation: /secret\r\nContent-Length: 0\r\n\r\n", "302 Found", "bad-setting"),
    ] {
        let why = post(format!("HTTP/1.1 {answer}").leak());
        assert!(why.what().ends_with(&format!("it answered {expected}")), "{why}");
        assert_eq!(why.word(), code, "{why}");
        assert!(why.advice().is_some(), "{why}");
    }
    // If the answer asks to wait for longer than there is time, it is given up at once.
    let began = Instant::now();
    let why = post("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n");
    assert!(why.what().contains("it asks to wait for 3600 s") && why.what().contains("tried 1 time in"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(!why.to_string().contains("secret"));
}
