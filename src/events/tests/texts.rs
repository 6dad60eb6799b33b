//! Data that is text, JSON with small faults, and texts and labels that are too long.

use super::*;

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
