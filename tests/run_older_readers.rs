//! What `lastgood run` writes into a vault is read by programs that are older than it: there are new fields in roots, which they ignore,
//! and no new value in a field that they parse.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::World;

/// A field, and whether an older reader takes what is in it.
type Field = (&'static str, fn(&Value) -> bool);

/// The fields of a root that a program read before there was `run`, with a check of the values that it took. Its types are those of
/// `src/vault/root.rs` in version 1 of the format.
const FIELDS: [Field; 29] = [
    ("format", |value| *value == 1),
    ("vault", Value::is_string),
    ("seq", Value::is_u64),
    ("turn", Value::is_u64),
    ("parent", |value| value.is_null() || value.as_str().is_some_and(is_name)),
    ("started", Value::is_string),
    ("finished", Value::is_string),
    ("reason", |value| ["manual", "schedule", "critical", "shutdown"].contains(&value.as_str().unwrap())),
    ("run", Value::is_string),
    ("labels", |value| value.as_object().unwrap().values().all(Value::is_string)),
    ("state", |value| ["complete", "partial", "suspect"].contains(&value.as_str().unwrap())),
    ("suspect", Value::is_string),
    ("data", Value::is_string),
    ("host", Value::is_string),
    ("writer", Value::is_string),
    ("place", |value| has_only(value, &["boot", "device", "inode", "born", "source", "path"])),
    ("mounts", Value::is_array),
    ("unread", |_| true),
    ("totals", |value| {
        let known = ["entries", "files", "bytes", "beside", "changed", "rewritten", "uploaded_bytes", "new_packs"];
        has_only(value, &known) && value.as_object().unwrap().values().all(Value::is_i64)
    }),
    ("hunks", |value| has_only(value, &["items", "frames"])),
    ("packs", |value| has_only(value, &["items", "frames", "holders"])),
    ("problems", |value| has_only(value, &["items", "frames"])),
    ("stale", |value| has_only(value, &["items", "frames"])),
    ("torn", |value| has_only(value, &["items", "frames"])),
    ("torn_reads", |value| has_only(value, &["items", "frames"])),
    ("service", Value::is_string),
    ("filters", |value| has_only(value, &["include", "exclude"])),
    ("databases", |value| has_only(value, &["items", "frames"])),
    ("failed_checks", Value::is_u64),
];

/// The fields that came with `run`.
const NEW: [&str; 3] = ["diverged", "origin", "serial"];

/// Whether it is an object with these fields, or some of them.
fn has_only(value: &Value, fields: &[&str]) -> bool {
    value.as_object().is_some_and(|object| object.keys().all(|key| fields.contains(&&**key)))
}

/// Whether it is the name of a snapshot: a number of at least ten digits that fits into 64 bits, a time, and an id.
fn is_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let [number, time, id] = parts[..] else { return false };
    number.len() >= 10 && number.parse::<u64>().is_ok() && time.len() == 16 && id.len() == 16
}

#[test]
fn roots_have_new_fields_and_no_new_values() {
    let world = World::new();
    world.write("a", "one\n");
    let app = |script: &str, code: i32| {
        world.run(["run", "--init", "--every", "1s", "--", "sh", "-c", script]).ended(code);
    };
    app("sleep 2; echo two >> data/a", 0);
    app("echo three >> data/a; exit 3", 3);
    // Nothing tells where this comes from: it is saved, and replaced.
    fs::remove_dir_all(world.data()).unwrap();
    world.write("b", "of an image");
    app("true", 0);
    assert_eq!(fs::read_to_string(world.data().join("a")).unwrap(), "one\ntwo\nthree\n");

    let seen = |roots: &[Value], field: &str| -> BTreeSet<String> {
        roots.iter().filter_map(|root| root[field].as_str().map(str::to_owned)).collect()
    };
    let mut roots = Vec::new();
    for entry in fs::read_dir(world.vault().join("snapshots")).unwrap() {
        let path = entry.unwrap().path();
        assert!(is_name(path.file_stem().unwrap().to_str().unwrap()), "{path:?}");
        let root: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for (field, value) in root.as_object().unwrap() {
            match FIELDS.iter().find(|(name, _)| name == field) {
                Some((_, is_known)) => assert!(is_known(value), "{field} is {value}"),
                None => assert!(NEW.contains(&&**field), "{field} is {value}"),
            }
        }
        roots.push(root);
    }
    // All that there is was there.
    assert_eq!(seen(&roots, "reason"), ["critical", "manual", "schedule", "shutdown"].map(str::to_owned).into());
    assert_eq!(seen(&roots, "state"), ["complete", "suspect"].map(str::to_owned).into());
    assert_eq!(seen(&roots, "origin"), ["start".to_owned()].into());
    assert!(!seen(&roots, "diverged").is_empty() && !seen(&roots, "serial").is_empty(), "{roots:?}");
    // What is taken at a start is `manual` for whoever does not know the new field.
    assert!(roots.iter().all(|root| root["origin"].is_null() || root["reason"] == "manual"), "{roots:?}");
}
