//! Requests that cannot be understood.

use super::*;

/// The error of a request that cannot be read names the part, and never quotes the body.
#[test]
fn what_cannot_be_read() {
    let event = [("ce-specversion", "1.0"), ("ce-type", VERIFY_REQUESTED), ("ce-source", "s"), ("ce-id", "1")];
    let without = |name: &str| event.iter().copied().filter(|(header, _)| *header != name).collect::<Vec<_>>();
    let with = |name, value| without(name).into_iter().chain([(name, value)]).collect::<Vec<_>>();
    let cloud = |value: Value| {
        let mut body = json!({"specversion": "1.0", "id": "1", "source": "s", "type": VERIFY_REQUESTED});
        body.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        body.to_string()
    };
    let structured = vec![("content-type", "application/cloudevents+json")];
    let pushed = |message: Value| json!({"subscription": "s", "message": message}).to_string();
    let (none, deep) = (Vec::new(), format!("{}1{}", "[".repeat(200), "]".repeat(200)));
    let mut nested = r#"{"action":"backup"}"#.to_owned();
    for _ in 0..5 {
        nested = pushed(json!({"data": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &nested)}));
    }
    let not_json = vec![event[0], event[1], event[2], event[3], ("content-type", "Application/JSON; charset=utf-8")];
    for (headers, body, part, why) in [
        (&without("ce-specversion"), "", "specversion of the CloudEvent", "missing"),
        (&with("ce-specversion", "0.3"), "", "specversion of the CloudEvent", "1.0"),
        (&without("ce-id"), "", "the CloudEvent", "id"),
        (&without("ce-source"), "", "the CloudEvent", "source"),
        (&without("ce-type"), "", "the CloudEvent", "type"),
        (&with("ce-id", ""), "", "id of the CloudEvent", "empty"),
        (&with("ce-source", ""), "", "source of the CloudEvent", "empty"),
        (&with("ce-type", "\"\""), "", "type of the CloudEvent", "empty"),
        (&with("ce-time", "yesterday"), "", "the CloudEvent", "time"),
        (&with("ce-x", "%C0%A0"), "", "the header ce-x", "UTF-8"),
        (&event.iter().copied().chain([("ce-id", "2")]).collect(), "", "the header ce-id", "more than once"),
        (&not_json, "secret", "data of the CloudEvent", "not JSON"),
        (&structured, "", "the body", "object"),
        (&structured, "[]", "the body", "object"),
        (&structured, &cloud(json!({"id": ""})), "id of the CloudEvent", "empty"),
        (&structured, &cloud(json!({"source": ""})), "source of the CloudEvent", "empty"),
        (&structured, &cloud(json!({"id": null})), "the CloudEvent", "id"),
        (&structured, &cloud(json!({"specversion": 1})), "specversion of the CloudEvent", "1.0"),
        (&structured, &cloud(json!({"data": 1, "data_base64": "MQ=="})), "the CloudEvent", "both"),
        (&structured, &cloud(json!({"data_base64": "***"})), "the CloudEvent", "decode"),
        (
            &structured,
            &cloud(json!({"data_base64": "c2VjcmV0", "datacontenttype": "text/JSON"})),
            "data of the CloudEvent",
            "not JSON",
        ),
        (
            &structured,
            &cloud(json!({"type": "google.cloud.pubsub.topic.v1.messagePublished"})),
            "data of the CloudEvent",
            "no Pub/Sub",
        ),
        (&vec![("content-type", "application/cloudevents+avro")], "", "the content type", "only"),
        (&vec![("content-type", "text/\u{e9}")], "", "", ""),
        (&none, "{", "the body", "EOF"),
        (&none, "secret", "the body", "neither"),
        (&none, "\"backup\"", "the body", "neither"),
        (&none, "[]", "the body", "neither"),
        (&none, &deep, "the body", "recursion"),
        (&none, &pushed(json!({"data": "***"})), "message.data", "base64"),
        (&none, &pushed(json!({"data": 1.5, "messageId": []})), "message.messageId", "not text"),
        (&none, &pushed(json!({"data": {}})), "message.data", "not text"),
        (&none, &pushed(json!({"data": "eyI="})), "data of the message", "not JSON"),
        (&none, &pushed(json!({"attributes": ["action"]})), "message.attributes", "object"),
        (&none, &pushed(json!({"attributes": {"secret": 1}})), "message.attributes", "not text"),
        (&none, &pushed(json!({"publishTime": "secret"})), "message.publishTime", "RFC 3339"),
        (&none, &nested, "the message", "too deep"),
    ] {
        let answer = post("/events/verify", headers, body);
        if part.is_empty() {
            // UTF-8 in a header is no error, and an unknown content type is ignored.
            assert_eq!(answer, "verify manual\nkind: request");
            continue;
        }
        let begin = format!("unreadable: could not read {part}: ");
        assert!(answer.starts_with(&begin) && answer.contains(why), "{headers:?} {body}: {answer}");
        assert!(!answer.contains("secret") && answer.len() < 400, "{answer}");
    }
    assert_eq!(
        told(read("GET", "/events/backup", &HeaderMap::new(), b"")),
        "unreadable: could not read the request: events are sent with POST"
    );
    let mut headers = HeaderMap::new();
    headers.insert("x-goog-pubsub-message-id", HeaderValue::from_static("1"));
    headers.insert("ticket", HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(told(read("POST", "/", &headers, b"")), "unreadable: could not read the header ticket: it is not UTF-8");
}

/// An event that is known to be critical is served all the same: what is wrong with it becomes a label.
#[test]
fn what_cannot_be_read_of_a_critical_event() {
    let event = [("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "s"), ("ce-id", "1")];
    let without = |name: &str| event.iter().copied().filter(|(header, _)| *header != name).collect::<Vec<_>>();
    let with = |name, value| without(name).into_iter().chain([(name, value)]).collect::<Vec<_>>();
    let (none, structured) = (Vec::new(), vec![("content-type", "application/cloudevents+json")]);
    let pushed = |message: Value| json!({"subscription": "premium", "message": message}).to_string();
    for (headers, body, why) in [
        (&without("ce-specversion"), "boom", "specversion of the CloudEvent"),
        (&with("ce-specversion", "0.3"), "boom", "specversion of the CloudEvent"),
        (&without("ce-id"), "boom", "the CloudEvent"),
        (&with("ce-source", ""), "boom", "source of the CloudEvent"),
        (&with("ce-x", "%C0%A0"), "boom", "the header ce-x"),
        (&structured, "boom", "the body"),
        (&structured, "[1]", "the body"),
        (&structured, r#"{"specversion":"0.3","type":"t","action":"restore"}"#, "specversion of the CloudEvent"),
        (&vec![("content-type", "application/cloudevents+avro")], "boom", "the content type"),
        (&none, r#"{"specversion":1,"type":"t","source":"s","id":1}"#, "specversion of the CloudEvent"),
        (&none, &pushed(json!({"data": "no!"})), "message.data"),
        (&none, &pushed(json!({"data": "", "messageId": []})), "message.messageId"),
    ] {
        let answer = post("/events/critical", headers, body);
        let begin = format!("backup critical\nkind: request\nmessage: {body}\n- unread=could not read {why}: ");
        assert!(answer.starts_with(&begin), "{headers:?} {body}: {answer}");
        // The same holds if the type says that it is critical.
        if headers.iter().any(|(name, value)| (*name, *value) == ("ce-type", "t")) {
            let mut headers = headers.clone();
            headers.retain(|(name, _)| *name != "ce-type");
            headers.push(("ce-type", CRITICAL));
            assert!(post("/", &headers, body).starts_with(&begin), "{headers:?}");
        }
    }
    // Without its time, all of the event can be read.
    let untimely = with("ce-time", "yesterday");
    let time =
        json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": "yesterday", "data": "boom"});
    for (headers, body) in [(&untimely, "boom"), (&structured, &*time.to_string())] {
        for (path, reason) in [("/events/critical", "critical"), ("/events/backup", "manual")] {
            let answer = post(path, headers, body);
            let begin = format!("backup {reason}\nkind: t\nid: cloudevent s 1\nmessage: boom\n- unread=");
            assert!(answer.starts_with(&begin) && answer.contains("time"), "{answer}");
        }
        // A restore depends on the time.
        assert!(post("/events/restore", headers, body).starts_with("unreadable: "), "{body}");
    }
    let pushed = pushed(json!({"messageId": "7", "publishTime": "soon", "data": "Ym9vbQ=="}));
    let answer = post("/events/critical", &[], &pushed);
    let begin = "backup critical\nkind: Pub/Sub message\nid: pubsub premium 7\nmessage: boom\n- unread=";
    assert!(answer.starts_with(begin), "{answer}");
    // Several events in one are refused with an error.
    let batch = [("content-type", "application/cloudevents-batch+json")];
    assert!(post("/events/critical", &batch, "[]").starts_with("unreadable: "));
}

/// An app's own word for what it did.
#[test]
fn an_action_that_is_none() {
    for (path, body) in [
        ("/events/critical", r#"{"message":"m","action":"checkout"}"#),
        ("/", r#"{"severity":"FATAL","message":"m","action":"checkout"}"#),
    ] {
        let answer = post(path, &[], body);
        assert!(answer.starts_with("backup critical") && answer.ends_with("\n- action=checkout"), "{answer}");
    }
    assert_eq!(
        post("/events/critical", &[], r#"{"message":"m","action":7}"#),
        "backup critical\nkind: request\nmessage: m\n- action=7"
    );
    let headers = [("x-goog-pubsub-message-id", "1"), ("action", "restore")];
    let answer = post("/events/critical", &headers, r#"{"message":"m","action":"checkout"}"#);
    assert!(answer.starts_with("backup critical") && answer.contains("\n- action=checkout"), "{answer}");
    assert!(post("/events/backup", &[], r#"{"action":"checkout"}"#).starts_with("refused: its action"));
}

/// An event that only its body marks as critical.
#[test]
fn what_only_the_body_says_is_critical() {
    let structured = [("content-type", "application/cloudevents+json")];
    let event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": CRITICAL, "data": {"message": "boom"}});
    for lacks in ["specversion", "id", "source"] {
        let mut event = event.clone();
        event.as_object_mut().unwrap().remove(lacks);
        let body = event.to_string();
        for headers in [&structured[..], &[]] {
            let answer = post("/", headers, &body);
            let begin = format!("backup critical\nkind: {CRITICAL}\nmessage: {body}\n- unread=could not read ");
            assert!(answer.starts_with(&begin), "{answer}");
        }
        // An event of another type is an error, as ever.
        let other = body.replace(CRITICAL, BACKUP_REQUESTED);
        assert!(post("/", &structured, &other).starts_with("unreadable: "), "{other}");
    }
    // The body is cut off.
    let cut = &*format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"{CRITICAL}","data":{{"mess"#);
    assert!(post("/", &structured, cut).starts_with("backup critical\nkind: request\nmessage: {"));
    assert!(post("/events/restore", &structured, cut).starts_with("unreadable: "));
    let severe = r#"{"severity":"CRITICAL","message":"dis"#;
    assert!(
        post("/", &[], severe).starts_with("backup critical\nkind: request\nmessage: {"),
        "{}",
        post("/", &[], severe)
    );
    assert!(post("/", &[], &severe.replace("CRITICAL", "INFO")).starts_with("unreadable: "));
    // A message that says so by its attributes, and is recognised when it comes again.
    let attributes = json!({ "ce-type": CRITICAL, "ce-id": "1" });
    let pushed =
        json!({"subscription": "s", "message": {"messageId": "7", "data": "Ym9vbQ==", "attributes": attributes}});
    let answer = post("/", &[], &pushed.to_string());
    let begin = format!("backup critical\nkind: {CRITICAL}\nid: pubsub s 7\nmessage: boom\n- unread=");
    assert!(answer.starts_with(&begin), "{answer}");
}

/// An app's own `message` may be an object.
#[test]
fn what_is_no_message_of_pubsub_keeps_its_text() {
    for message in [
        json!({"message_id": "m1", "text": "boom"}),
        json!({"message_id": "m1"}),
        json!({"messageId": 7, "data": "boom", "user": "ann"}),
        json!({"data": "boom"}),
    ] {
        for body in [json!({ "message": message }), json!({ "message": message, "subscription": 7 })] {
            let answer = post("/events/critical", &[], &body.to_string());
            assert!(answer.starts_with(&format!("backup critical\nkind: request\nmessage: {message}")), "{answer}");
        }
    }
    let own = json!({"message": {"text": "boom", "data": "x"}, "subscription": "gold"});
    let answer = post("/events/critical", &[], &own.to_string());
    assert!(answer.starts_with("backup critical\nkind: request\nmessage: {") && answer.contains("boom"), "{answer}");
    // As clients of the push format write it, without the rest.
    let pushed = json!({"message": {"messageId": "7", "data": "Ym9vbQ=="}});
    let answer = post("/events/critical", &[], &pushed.to_string());
    assert!(answer.starts_with("backup critical\nkind: Pub/Sub message\nid: pubsub  7\nmessage: boom"), "{answer}");
}
