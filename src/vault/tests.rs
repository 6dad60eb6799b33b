//! Tests what opening and making a vault are refused for, and with which code.

use std::sync::Arc;

use super::*;
use crate::monitor::system_random;
use crate::store::testing::memory::MemoryStore;

fn word<T>(result: Result<T>) -> &'static str {
    result.err().expect("an error").word()
}

/// Makes a vault in memory.
fn made() -> (Arc<MemoryStore>, Vault) {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::init(Box::new(store.clone()), system_random).unwrap();
    (store, vault)
}

#[test]
fn each_refusal_has_its_code() {
    assert_eq!(word(Vault::open(Box::<MemoryStore>::default())), "no-vault");
    let used = MemoryStore::default();
    used.create("thesis.txt", &[b"text"]).unwrap();
    assert_eq!(word(Vault::init(Box::new(used), system_random)), "not-empty");
    let ((store, vault), (_, other)) = (made(), made());
    assert_eq!(word(Vault::init(Box::new(store.clone()), system_random)), "already-exists");
    assert_eq!(word(vault.check_same(&other)), "different-vaults");
    let config = store.objects()[CONFIG].clone();
    let newer = br#"{"format":2}"#.to_vec();
    for (changed, code, kind) in [(config.repeat(2), "damage", Kind::Damage), (newer, "newer-format", Kind::Failed)] {
        store.objects().insert(CONFIG.into(), changed);
        let why = Vault::open(Box::new(store.clone())).err().expect("an error");
        assert_eq!((why.word(), why.kind()), (code, kind));
        assert_eq!(why.advice().is_some_and(|hint| hint.contains("Put vault.json back")), code == "damage");
    }
    store.objects().clear();
    store.create("snapshots/x", &[b"{}"]).unwrap();
    assert_eq!(word(Vault::open(Box::new(store))), "damage");
}
