//! Redeliveries: how one is known, and which senders make them.

use super::*;

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
