//! Requests that are broken, cut, or made of anything: no panic, and never another action than the one asked for.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const PATHS: [&str; 7] =
    ["/", "/events", "/events/backup", "/events/critical", "/events/restore", "/events/verify", "/x"];

/// Checks what holds for every request, whatever was read.
fn sound(asked: &Result<EventDecision, Unreadable>) {
    let Ok(EventDecision::Run(request)) = asked else { return };
    check_labels(&request.labels).unwrap();
    check_labels(&request.event.labels).unwrap();
    let event = &request.event;
    let message = event.message.as_deref().unwrap_or_default();
    assert!(message.len() <= MAX_MESSAGE);
    let texts = [&event.identity, &event.kind, &event.severity, &event.message, &event.service, &request.snapshot];
    let labels = request.labels.iter().chain(&event.labels).flat_map(|(name, value)| [name, value]);
    for text in texts.into_iter().flatten().chain(labels) {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(text.len() <= MAX_MESSAGE);
    }
    assert!(event.identity.as_ref().is_none_or(|identity| identity.len() <= 1100));
}

/// Any JSON that is not too large, with the words that matter in it.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("action"),
        Just("backup"),
        Just("type"),
        Just("specversion"),
        Just("1.0"),
        Just("id"),
        Just("source"),
        Just(CRITICAL),
        Just("message"),
        Just("data"),
        Just("attributes"),
        Just("messageId"),
        Just("subscription"),
        Just("labels"),
        Just("severity"),
        Just("ERROR"),
        Just("snapshot"),
        Just("reason"),
        Just("vault"),
    ];
    let word = prop_oneof![word.prop_map(str::to_owned), "\\PC{0,8}", ".{0,3}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((word.clone(), inner), 0..8).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Headers with any values; some of them matter.
fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let name = proptest::sample::select(vec![
        "content-type",
        "ce-specversion",
        "ce-id",
        "ce-type",
        "ce-source",
        "ce-time",
        "ce-action",
        "x-goog-pubsub-message-id",
        "x-goog-pubsub-publish-time",
        "x-cloudscheduler-jobname",
        "x-cloudscheduler-scheduletime",
        "user-agent",
        "action",
        "severity",
    ]);
    let known = proptest::sample::select(vec![
        "1.0",
        "backup",
        CRITICAL,
        "google.cloud.pubsub.topic.v1.messagePublished",
        "application/cloudevents+json",
        "application/json",
        "2026-11-05T10:00:00Z",
        "2016-12-31T23:59:60Z",
        "\"a",
        "%",
    ]);
    let value = prop_oneof![known.prop_map(|text| text.as_bytes().to_vec()), vec(any::<u8>(), 0..12)];
    vec((name, value), 0..8).prop_map(|pairs| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        headers
    })
}

/// The action, if a run is asked for.
fn action(asked: &Result<EventDecision, Unreadable>) -> Option<Action> {
    match asked {
        Ok(EventDecision::Run(request)) => Some(request.action),
        _ => None,
    }
}

/// Whether a run, if one is asked for, is one that the path asks for, or a backup.
fn only(asked: &Result<EventDecision, Unreadable>, path: &str) -> bool {
    let may = match path {
        "/events/restore" => Action::Restore,
        "/events/verify" => Action::Verify,
        _ => Action::Backup,
    };
    action(asked).is_none_or(|done| done == may || done == Action::Backup)
}

/// An identity of any kind, with any two parts.
fn any_identity() -> impl Strategy<Value = EventIdentity> {
    (0..4u8, "[ %a-b\u{e9}]{0,3}", "[ %a-b\u{e9}]{0,3}").prop_map(|(kind, a, b)| match kind {
        0 => EventIdentity::CloudEvent { source: a, id: b },
        3 => EventIdentity::LogEntry { log: a, id: b },
        1 => EventIdentity::Message { subscription: a, id: b },
        _ => EventIdentity::Schedule { job: a, time: b },
    })
}

proptest! {
    #[test]
    fn anything_is_read_without_a_panic(
        path in proptest::sample::select(PATHS.to_vec()),
        headers in any_headers(),
        body in vec(any::<u8>(), 0..200),
    ) {
        let asked = read("POST", path, &headers, &body);
        sound(&asked);
        // Nothing but the path says `restore` or `verify`.
        prop_assert!(only(&asked, path), "{:?}", asked);
    }

    #[test]
    fn any_json_is_read_without_a_panic(
        path in proptest::sample::select(PATHS.to_vec()),
        headers in any_headers(),
        body in any_json(),
    ) {
        let asked = read("POST", path, &headers, body.to_string().as_bytes());
        sound(&asked);
        prop_assert!(only(&asked, path), "{:?}", asked);
        let pulled = read_message(body.to_string().as_bytes(), &BTreeMap::new(), "1", None, "s");
        sound(&pulled);
        prop_assert!(action(&pulled).is_none_or(|done| done == Action::Backup));
    }

    #[test]
    fn a_fixture_with_flipped_bytes_asks_for_nothing_else(
        which in 0..FIXTURES.len(),
        flips in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut wire = Wire::parse(FIXTURES[which].1);
        let whole = action(&wire.read());
        for (at, byte) in flips {
            if !wire.body.is_empty() {
                let at = at.index(wire.body.len());
                wire.body[at] = byte;
            }
        }
        let asked = wire.read();
        sound(&asked);
        // A flip may hit `action` itself, which leaves a critical event or a schedule.
        prop_assert!(action(&asked).is_none_or(|done| Some(done) == whole || done == Action::Backup), "{asked:?}");
    }

    #[test]
    fn labels_fit_and_fit_again(pairs in vec((".{0,300}", ".{0,1500}"), 0..50), left_out in 0usize..3) {
        let once = labels::fit(pairs, left_out);
        prop_assert!(check_labels(&once).is_ok());
        prop_assert_eq!(labels::fit(once.clone(), 0), once);
    }

    #[test]
    fn identities_are_told_apart(one in any_identity(), two in any_identity()) {
        prop_assert_eq!(one == two, one.to_string() == two.to_string());
    }
}

/// A body that was cut asks for nothing, unless the path, the headers or what is left of it say enough.
#[test]
fn cut_bodies() {
    for (name, text) in FIXTURES {
        let wire = Wire::parse(text);
        let whole = wire.read();
        let end = wire.body.trim_ascii_end().len();
        for cut in 0..end {
            let asked = read(&wire.method, &wire.path, &wire.headers, &wire.body[..cut]);
            sound(&asked);
            match name {
                // Any body will do, and one that is not JSON is ignored.
                "scheduler" | "scheduler-body" => assert_eq!(action(&asked), Some(Action::Backup), "{name} {cut}"),
                // Their headers say enough, and data that is not JSON is text.
                "cloudevent-binary" | "push-unwrapped" | "push-unwrapped-cloudevent" => {
                    assert_eq!(action(&asked), Some(Action::Backup), "{name} {cut}");
                }
                _ if wire.path == "/events/critical" => {
                    assert_eq!(action(&asked), Some(Action::Backup), "{name} {cut}")
                }
                // No data at all counts as data, too.
                _ if cut == 0 => assert!(action(&asked).is_none_or(|done| Some(done) == action(&whole)), "{name}"),
                "eventarc-storage" | "eventarc-audit" | "cloudevent-batch" => assert_eq!(asked, whole, "{name} {cut}"),
                // A body that says before the cut that it is critical is served.
                _ if is_critical_body(&wire.body[..cut]) => {
                    assert_eq!(action(&asked), Some(Action::Backup), "{name} {cut}");
                }
                _ => assert!(asked.is_err(), "{name} {cut}: {asked:?}"),
            }
        }
    }
}
