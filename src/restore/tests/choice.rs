//! Which snapshot is restored.

use super::*;

#[test]
fn snapshots_are_found_by_word_id_and_time() {
    let mut sample = small();
    let none = select::find(&sample.vault, "latest").unwrap_err();
    assert!(none.word() == "no-snapshots" && none.to_string().contains("no snapshots"), "{none}");
    let partial = sample.commit(SnapshotState::Partial);
    let said = select::find(&sample.vault, "latest").unwrap_err();
    assert_eq!((said.kind(), said.word()), (Kind::Failed, "no-good-snapshot"));
    assert!(said.to_string().contains(&format!("by its id, {}", partial.id)), "{said}");
    let good = sample.commit(SnapshotState::Complete);
    let suspect = sample.commit(SnapshotState::Suspect);
    let find = |spec: &str| select::find(&sample.vault, spec).map(|(name, _)| name);
    for (spec, wanted) in [
        ("latest".to_owned(), good),
        (suspect.id.to_string(), suspect),
        (suspect.id.to_string()[..15].to_owned(), suspect),
        (partial.to_string(), partial),
        (good.time.to_string(), good),
        ("2027-01-15".to_owned(), good),
        ("2027-02-01T10:00:00".to_owned(), good),
        ("2027-01-15T10:00".to_owned(), good),
        ("2027-02-01T10:00:00+02:00".to_owned(), good),
    ] {
        assert_eq!(find(&spec).unwrap(), wanted, "{spec}");
    }
    for spec in ["", "nonsense", "2001-01-01", "zz", "../x"] {
        let unknown = find(spec).unwrap_err();
        assert_eq!((unknown.kind(), unknown.word()), (Kind::Usage, "unknown-snapshot"), "{spec:?}");
    }
    // A day is that day, whatever there is before or after it; only the one that was taken in it and is not good was there at 09:30.
    for (spec, said) in [("2027-01-14", "of 2027-01-14 (UTC)"), ("2027-01-16", &*format!("before it is {suspect}"))] {
        let none = find(spec).unwrap_err();
        assert!(none.word() == "unknown-snapshot" && none.to_string().contains(said), "{none}");
    }
    assert_eq!(find("2027-01-15T09:30").unwrap_err().word(), "no-good-snapshot");
    let choice = select::choose(&sample.vault, "latest").unwrap();
    assert_eq!(choice.passed_over.iter().map(|p| p.snapshot).collect::<Vec<_>>(), [suspect]);
    for _ in 0..30 {
        sample.commit(SnapshotState::Complete);
    }
    let twice = sample.vault.snapshots().unwrap().iter().map(|n| n.id.to_string()[..1].to_owned()).collect::<Vec<_>>();
    let digit = twice.iter().find(|d| twice.iter().filter(|e| e == d).count() > 1).unwrap();
    let said = select::find(&sample.vault, digit).unwrap_err();
    assert_eq!((said.kind(), said.word()), (Kind::Usage, "unknown-snapshot"));
    assert!(said.to_string().contains("begin with it"), "{said}");
}

#[test]
fn a_snapshot_with_a_failed_check_is_passed_over() {
    let mut sample = small();
    let good = sample.commit(SnapshotState::Complete);
    sample.failed_checks = 1;
    let unsound = sample.commit(SnapshotState::Complete);
    assert_eq!(select::find(&sample.vault, "latest").unwrap().0, good);
    assert_eq!(select::find(&sample.vault, &unsound.id.to_string()).unwrap().0, unsound);
    let choice = select::choose(&sample.vault, "latest").unwrap();
    let over = &choice.passed_over[0];
    assert!(over.snapshot == unsound && over.why.contains("database"), "{over:?}");
}
