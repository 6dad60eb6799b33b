use super::*;
use crate::store::testing::memory::MemoryStore;
use crate::vault::hex::Hex;

const CLAIM: &str = "0123456789abcdef0123456789abcdef/2";

fn claim() -> ClaimName {
    CLAIM.parse().unwrap()
}

fn dispatch_request() -> DispatchRequest {
    let labels = BTreeMap::from([("service".to_owned(), "shop".to_owned())]);
    let event =
        Event { identity: Some("a b".into()), message: Some("\u{1f4a5} \"quoted\"".into()), ..Event::default() };
    let chosen = RunRequest {
        action: Action::Backup,
        reason: BackupReason::Critical,
        labels,
        snapshot: None,
        event: event.clone(),
    };
    let mut dispatch_request = DispatchRequest::new(Hex([7; 8]), chosen, Channel::Http, Duration::from_secs(3600));
    dispatch_request.events.push(event);
    dispatch_request.claims = vec![claim(), "00000000000000000000000000000000/1".parse().unwrap()];
    dispatch_request
}

fn put(store: &MemoryStore, bytes: &[u8]) -> Result<Option<DispatchRequest>> {
    store.objects().remove(&claim().object("order"));
    store.create(&claim().object("order"), &[bytes]).unwrap();
    DispatchRequest::read(store, &claim())
}

#[test]
fn what_is_written_is_read() {
    let store = MemoryStore::default();
    assert_eq!(DispatchRequest::read(&store, &claim()).unwrap(), None);
    dispatch_request().write(&store).unwrap();
    assert_eq!(DispatchRequest::read(&store, &claim()).unwrap(), Some(dispatch_request()));
    assert_eq!(dispatch_request().timeout(), Duration::from_secs(3600));
    // The same again, as when the answer was lost; and something else in its place.
    dispatch_request().write(&store).unwrap();
    let other = DispatchRequest { reason: BackupReason::Manual, ..dispatch_request() };
    assert!(other.write(&store).is_err());
    assert!(DispatchRequest { claims: Vec::new(), ..dispatch_request() }.write(&store).is_err());
}

#[test]
fn what_is_no_order_is_refused() {
    let store = MemoryStore::default();
    let json = serde_json::to_value(dispatch_request()).unwrap();
    let with = |name: &str, value: serde_json::Value| {
        let mut json = json.clone();
        json[name] = value;
        json.to_string()
    };
    assert!(put(&store, json.to_string().as_bytes()).unwrap().is_some());
    let newer = put(&store, with("format", 2.into()).as_bytes()).unwrap_err();
    assert_eq!(newer.word(), "newer-format");
    let newer = newer.to_string();
    assert!(newer.contains("format 2") && newer.contains("knows 1") && newer.contains("same version"), "{newer}");
    let (many, long) = ((0..40).map(|n| (n.to_string(), n.into())), "v".repeat(2000));
    for wrong in [
        String::new(),
        "[]".into(),
        "{".into(),
        with("vault", "gs://other".into()),
        with("action", "destroy".into()),
        with("run", "../../x".into()),
        with("claims", serde_json::json!([])),
        with("claims", serde_json::json!(["00000000000000000000000000000000/1"])),
        with("claims", serde_json::json!([CLAIM, "../vault.json"])),
        with("claims", vec![CLAIM; 1001].into()),
        with("snapshot", "".into()),
        with("snapshot", "x".repeat(401).into()),
        with("labels", serde_json::Value::Object(many.collect())),
        with("labels", serde_json::json!({ "k": long })),
        with("labels", serde_json::json!({ "": "v" })),
        with("timeout_seconds", (-1).into()),
    ] {
        assert!(put(&store, wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn one_takes_an_order_and_may_come_again() {
    let store = MemoryStore::default();
    let taker = |by: &str| TakenBy { run: Hex([7; 8]), by: by.to_owned() };
    assert_eq!(TakenBy::of(&store, &claim()).unwrap(), None);
    assert_eq!(taker("long-abcde/0").take(&store, &claim()).unwrap(), None);
    assert_eq!(taker("long-fghij/0").take(&store, &claim()).unwrap(), Some(taker("long-abcde/0")));
    assert_eq!(taker("long-abcde/0").take(&store, &claim()).unwrap(), None);
    assert_eq!(TakenBy::of(&store, &claim()).unwrap(), Some(taker("long-abcde/0")));
    store.objects().remove(&claim().object("taken"));
    store.create(&claim().object("taken"), &[b"{}"]).unwrap();
    assert!(taker("long-abcde/0").take(&store, &claim()).is_err());
}

#[test]
fn there_is_room_for_many_events_and_not_for_all() {
    let event =
        Event { message: Some("x".repeat(8 << 10)), identity: Some("\u{1}".repeat(1 << 20)), ..Event::default() };
    // Each event is 6 MiB as JSON.
    assert!(2 * size(&event) < ROOM && 3 * size(&event) > ROOM);
    assert!(2 * size(&event) + 1000 * size(&Event::default()) < ROOM);
}
