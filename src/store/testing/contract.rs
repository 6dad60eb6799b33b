//! The contract of every store, as one suite that all of them run.

use std::any::Any;
use std::collections::BTreeSet;

use crate::store::{Store, StoreError};

/// Returns a new, empty store, and what must live as long as it.
type Make<'a> = &'a dyn Fn() -> (Box<dyn Store>, Box<dyn Any>);

/// Runs the whole suite, each part on a store of its own.
pub fn run(make: Make) {
    let parts = [
        reads_what_was_created,
        never_overwrites,
        refuses_what_is_not_there,
        lists_in_order,
        tells_when_an_object_was_created,
        tells_whether_anything_lies_there,
        one_creator_wins,
    ];
    for part in parts {
        let (store, _keep) = make();
        part(&*store);
    }
}

fn reads_what_was_created(store: &dyn Store) {
    let big: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    store.create("packs/a", &[b"he", b"", b"llo"]).unwrap();
    store.create("packs/big", &[&big[..7], &big[7..]]).unwrap();
    store.create("top.json", &[]).unwrap();
    assert_eq!(store.get("packs/a", 5).unwrap(), b"hello");
    assert_eq!(store.get("top.json", 0).unwrap(), b"");
    assert_eq!(store.get("packs/big", 1 << 30).unwrap(), big);
    assert_eq!(store.get_range("packs/a", 1, 3).unwrap(), b"ell");
    assert_eq!(store.get_range("packs/a", 5, 0).unwrap(), b"");
    assert_eq!(store.get_range("packs/big", 999_999, 200_001).unwrap(), &big[999_999..]);
}

fn never_overwrites(store: &dyn Store) {
    store.create("packs/a", &[b"first"]).unwrap();
    for body in [&b"second"[..], b"first"] {
        match store.create("packs/a", &[body]) {
            Err(StoreError::AlreadyExists { name }) => assert_eq!(name, "packs/a"),
            other => panic!("expected AlreadyExists, got {other:?}"),
        }
    }
    assert_eq!(store.get("packs/a", 100).unwrap(), b"first");
    assert_eq!(store.list("packs/").unwrap().len(), 1);
}

fn refuses_what_is_not_there(store: &dyn Store) {
    assert!(matches!(store.get("packs/none", 1), Err(StoreError::NotFound { .. })));
    assert!(matches!(store.get_range("packs/none", 0, 1), Err(StoreError::NotFound { .. })));
    store.create("packs/a", &[b"hello"]).unwrap();
    assert!(matches!(store.get("packs/a", 4), Err(StoreError::OutOfRange { size: 5, wanted: 4, .. })));
    assert!(matches!(store.get_range("packs/a", 3, 3), Err(StoreError::OutOfRange { size: 5, wanted: 6, .. })));
    assert!(matches!(store.get_range("packs/a", u64::MAX, 2), Err(StoreError::OutOfRange { .. })));
}

fn lists_in_order(store: &dyn Store) {
    assert_eq!(store.list("packs/").unwrap(), []);
    assert_eq!(store.list_from("packs/", "packs/a").unwrap(), []);
    for name in ["packs/b", "packs/a", "packs/ab", "packsish", "claims/x/2.json", "claims/x/10.json"] {
        store.create(name, &[name.as_bytes()]).unwrap();
    }
    let names = |folder| store.list(folder).unwrap().into_iter().map(|m| (m.name, m.size)).collect::<Vec<_>>();
    assert_eq!(names("packs/"), [("packs/a".into(), 7), ("packs/ab".into(), 8), ("packs/b".into(), 7)]);
    assert_eq!(names("claims/"), [("claims/x/10.json".into(), 16), ("claims/x/2.json".into(), 15)]);
    let all = ["claims/x/10.json", "claims/x/2.json", "packs/a", "packs/ab", "packs/b", "packsish"];
    assert_eq!(names("").into_iter().map(|(name, _)| name).collect::<Vec<_>>(), all);
}

fn tells_when_an_object_was_created(store: &dyn Store) {
    // A filesystem's clock is a few ms behind, and may count whole seconds.
    let around = |time: jiff::Timestamp| {
        let off = jiff::Timestamp::now().duration_since(time).as_secs();
        assert!(off.abs() <= 5, "{off} s off");
    };
    store.create("packs/a", &[b"first"]).unwrap();
    let first = store.list("packs/").unwrap()[0].created;
    around(first);
    std::thread::sleep(std::time::Duration::from_millis(30));
    store.create("packs/b", &[b"second"]).unwrap();
    assert!(store.create("packs/a", &[b"again"]).is_err());
    let [a, b] = &store.list_from("packs/", "packs/a").unwrap()[..] else { panic!() };
    around(b.created);
    assert!(a.created == first && b.created > first, "{a:?} {b:?}");
}

fn tells_whether_anything_lies_there(store: &dyn Store) {
    assert_eq!(store.other_than(&[]).unwrap(), None);
    store.create("README.md", &[b"read"]).unwrap();
    assert_eq!(store.other_than(&["README.md"]).unwrap(), None);
    assert_eq!(store.other_than(&["vault.json"]).unwrap().as_deref(), Some("README.md"));
    store.create("packs/a", &[]).unwrap();
    let found = store.other_than(&["README.md", "pack", "packs/a"]).unwrap().unwrap();
    assert_eq!(found.trim_end_matches('/'), "packs");
}

fn one_creator_wins(store: &dyn Store) {
    let create = |n: u8| match store.create("vault.json", &[&[n; 4096]]) {
        Ok(()) => Some(n),
        // A writer that is told this reads the whole object at once.
        Err(StoreError::AlreadyExists { name }) => {
            assert_eq!(store.get(&name, 4096).unwrap().len(), 4096);
            None
        }
        Err(why) => panic!("{why}"),
    };
    let winners: Vec<u8> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8u8).map(|n| scope.spawn(move || create(n))).collect();
        tries.into_iter().filter_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(winners.len(), 1);
    let body: BTreeSet<u8> = store.get("vault.json", 4096).unwrap().into_iter().collect();
    assert_eq!(body.into_iter().collect::<Vec<_>>(), winners);
    assert_eq!(store.list("").unwrap().len(), 1);
}
