use jiff::SignedDuration;

use super::in_store::{TIME, parse};
use super::*;
use crate::store::Store;
use crate::store::testing::memory::MemoryStore;

#[test]
fn names_of_runs_say_what_they_were_for_and_how_they_ended() {
    let store = MemoryStore::default();
    let id = |n: u8| Hex([n; 8]);
    for name in [
        format!("20261129T100000Z-{}.json", id(1)),
        format!("20261129T100001Z-{}-backup-complete.json", id(2)),
        format!("20261129T100002Z-{}-backup-{}.json", id(3), Outcome::IncompleteCopies),
        // A later program may have written this name.
        format!("20261129T100003Z-{}-prune-done-today.json", id(4)),
        "20261129T100004Z.json".into(),
        format!("20261129-{}.json", id(5)),
        "thesis.json".into(),
    ] {
        store.create(&format!("{RUNS}{name}"), &[b"{}"]).unwrap();
    }
    let found: Vec<_> = list(&store).unwrap().into_iter().map(|n| (n.run, n.action, n.result)).collect();
    let expected = [
        (id(4), None, None),
        (id(3), Some(Action::Backup), Some(Outcome::IncompleteCopies)),
        (id(2), Some(Action::Backup), Some(Outcome::Complete)),
        (id(1), None, None),
    ];
    assert_eq!(found, expected);
    assert_eq!(newest(&store, 2).unwrap().iter().map(|named| named.run).collect::<Vec<_>>(), [id(4), id(3)]);
}

/// How the first programs read a name.
fn parsed_by_early_programs(object: &str) -> Option<RunId> {
    let (time, run) = object.strip_prefix(RUNS)?.strip_suffix(".json")?.split_once('-')?;
    jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
    run.parse().ok()
}

#[test]
fn early_programs_pass_over_the_names_that_they_do_not_know() {
    let object = format!("{RUNS}20261129T100001Z-{}-backup-complete.json", Hex([2; 8]));
    assert_eq!(parsed_by_early_programs(&object), None);
    assert_eq!(parsed_by_early_programs(&format!("{RUNS}20261129T100001Z-{}.json", Hex([2; 8]))), Some(Hex([2; 8])));
    assert!(parse(object, 0).is_some());
}

#[test]
fn a_report_is_of_the_run_that_its_name_says() {
    let store = MemoryStore::default();
    let (one, two) = (Hex([1; 8]), Hex([2; 8]));
    let content = format!("{{\"run\":\"{one}\",\"result\":\"complete\"}}");
    for run in [one, two] {
        store.create(&format!("{RUNS}20261129T100000Z-{run}-backup-complete.json"), &[content.as_bytes()]).unwrap();
        let found = find(&store, &run.to_string()).unwrap();
        assert_eq!((&found["run"], &found["result"]), (&run.to_string().into(), &"complete".into()));
    }
    for unknown in ["0", "ff", ""] {
        assert_eq!(find(&store, unknown).unwrap_err().word(), "unknown-run", "{unknown:?}");
    }
    store.create(&format!("{RUNS}20261129T100000Z-{one}.json"), &[b"[]"]).unwrap();
    assert_eq!(read(&store, &format!("{RUNS}20261129T100000Z-{one}.json")).unwrap(), serde_json::json!([]));
}

#[test]
fn a_report_has_the_code_of_its_error_and_one_without_a_code_is_read() {
    let why = Error::failed("write it", "the disk is full").with_code(Code::DiskFull).hint("Free some space.");
    let failed = Report { error: Some((&why).into()), ..sample::report(Action::Backup, Outcome::Failed) };
    let read = EncodedReport::read(failed.encode().unwrap()).unwrap();
    assert_eq!(read.value()["error"]["code"], "disk-full");
    assert_eq!(read.stored().error.as_ref().unwrap().code.as_deref(), Some("disk-full"));
    assert_eq!((EncodedReport::of(&failed).json(), EncodedReport::of(&failed).stored()), (read.json(), read.stored()));

    let mut early = read.value();
    early["error"].as_object_mut().unwrap().remove("code");
    let error: ReportedError = serde_json::from_value(early["error"].clone()).unwrap();
    assert_eq!((error.kind.as_str(), error.code.as_str()), ("failed", ""));
    assert_eq!(serde_json::to_value(&error).unwrap(), early["error"]);
    let stored = EncodedReport::read(early.to_string().into()).unwrap();
    assert_eq!(stored.error(), Some("could not write it: the disk is full"));
    assert_eq!((stored.stored().error.as_ref().unwrap().code.as_deref(), stored.retry()), (None, true));
    assert_eq!(StoredReport::of(&early), *stored.stored());
}

#[test]
fn the_newest_runs_are_listed_without_all_before_them() {
    let store = crate::store::testing::recording::RecordingStore::new(MemoryStore::default());
    let now = Timestamp::now();
    for n in 0..100u8 {
        let started = (now - SignedDuration::from_hours(13 * i64::from(n))).strftime(TIME);
        store.create(&format!("{RUNS}{started}-{}-backup-complete.json", Hex([n; 8])), &[b"{}"]).unwrap();
    }
    for (most, listed) in [(1, 13), (13, 13), (14, 113), (1000, 113)] {
        store.take();
        let found = newest(&store, most).unwrap();
        let expected: Vec<_> = (0..100u8).take(most).map(|n| Hex([n; 8])).collect();
        assert_eq!(found.iter().map(|named| named.run).collect::<Vec<_>>(), expected, "{most}");
        assert_eq!(store.take().iter().map(|call| call.amount).sum::<u64>(), listed, "{most}");
    }
}

#[test]
fn only_what_has_a_reports_name_is_read_as_one() {
    let store = MemoryStore::default();
    store.create("vault.json", &[b"{}"]).unwrap();
    for name in ["vault.json", "runs/", "runs/../vault.json", "runs/a/b.json", "../secret.json", "runs/.hidden"] {
        assert_eq!(read(&store, name).unwrap_err().kind(), crate::error::Kind::Damage, "{name}");
    }
    store.create("runs/thesis.json", &[b"{\"a\":1}"]).unwrap();
    assert_eq!(read(&store, "runs/thesis.json").unwrap()["a"], 1);
}
