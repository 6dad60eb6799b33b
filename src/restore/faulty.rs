//! Tests with vaults that a faulty writer made: everything in them is restored, and both a restore and `verify` say
//! what is wrong.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;

use super::sample::{SampleVault, context};
use super::tests::{expected, look, options, tiny};
use super::*;
use crate::monitor::Monitor;
use crate::path::EntryPath;
use crate::vault::read::PackReader;
use crate::vault::root::{SnapshotName, SnapshotState};
use crate::{export, inspect, verify};

/// Keeps the warnings that it gets.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Monitor for Heard {
    fn warn(&self, what: &str) {
        self.0.lock().unwrap().push(what.into());
    }
}

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).unwrap()
}

/// Returns what verify says: the damage of a snapshot, and warnings.
fn verified(sample: &SampleVault, name: SnapshotName) -> (Vec<String>, Vec<String>) {
    let heard = Heard::default();
    let all = verify::VerifyOptions { read_data: Some(100.0), databases: None };
    let report = verify::verify(&sample.vault, &all, &Context { monitor: &heard, ..context() }).unwrap();
    let hurt = report.damage.into_iter().filter(|damage| damage.snapshots.contains(&name)).map(|damage| damage.why);
    (hurt.collect(), heard.all())
}

/// Restores everything, with tiny windows. Returns what the restore said.
fn restored(sample: &SampleVault, skip_damaged: bool) -> (BTreeMap<Vec<u8>, String>, RestoreReport) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    let chosen = RestoreOptions { skip_damaged, ..options(&target) };
    let report = restore_within(&sample.vault, &chosen, tiny(), &context()).unwrap();
    (look(&target), report)
}

/// A snapshot in which the folders `b` and `b/c` are missing; the hunks end after every entry or after every fourth.
fn orphans(hunk: usize) -> (SampleVault, SnapshotName) {
    let mut sample = SampleVault::new();
    sample.hunk = hunk;
    sample.folder("a");
    sample.file("a/one", b"1");
    sample.file("b/c/two", b"2");
    sample.file("b/c/three", b"3");
    sample.symlink("b/d", b"elsewhere");
    sample.file("e", b"5");
    sample.entries.sort_by(|a, b| a.path.cmp(&b.path));
    sample.with_headers();
    let name = sample.commit(SnapshotState::Complete);
    (sample, name)
}

#[test]
fn what_lies_in_a_folder_without_an_entry_comes_back() {
    for hunk in [1, 4] {
        let (sample, name) = orphans(hunk);
        for skip_damaged in [false, true] {
            let (mut found, report) = restored(&sample, skip_damaged);
            for made in [&b"b"[..], b"b/c"] {
                assert!(found.remove(made).unwrap().starts_with("folder 755"), "{made:?}");
            }
            assert_eq!(found, expected(&sample));
            let told: Vec<_> = report.warnings.iter().map(|w| w.split(" is not").next().unwrap()).collect();
            assert_eq!(told, ["the folder b", "the folder b/c"]);
            assert_eq!((report.not_restored.len(), report.files), (0, 4));
        }
        let (damage, _) = verified(&sample, name);
        assert!(damage.len() == 2 && damage[0].contains("folder b is") && damage[1].contains("b/c"), "{damage:?}");
    }
}

#[test]
fn a_folder_without_an_entry_can_be_asked_for() {
    for hunk in [1, 4] {
        let (sample, name) = orphans(hunk);
        for (wanted, there) in
            [("b", &["b", "b/c", "b/c/three", "b/c/two", "b/d"][..]), ("b/c/two", &["b", "b/c", "b/c/two"])]
        {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("data");
            let chosen = RestoreOptions { paths: vec![path(wanted)], ..options(&target) };
            restore_within(&sample.vault, &chosen, tiny(), &context()).unwrap();
            let found: Vec<_> = look(&target).into_keys().filter(|path| !path.is_empty()).collect();
            assert_eq!(found, there.iter().map(|path| path.as_bytes()).collect::<Vec<_>>(), "{wanted}");
        }
        let root = sample.vault.root(name).unwrap();
        for (folder, recursive, shown, told) in [
            (".", false, &["a", "b", "e"][..], 1),
            (".", true, &["a", "a/one", "b", "b/c", "b/c/three", "b/c/two", "b/d", "e"], 2),
            ("b", false, &["b/c", "b/d"], 2),
            ("b/c", false, &["b/c/three", "b/c/two"], 1),
            ("a", true, &["a/one"], 0),
        ] {
            let (heard, mut found) = (Heard::default(), Vec::new());
            let take = |entry: inspect::Shown| {
                found.push(entry.path.to_string());
                Ok(())
            };
            let ctx = Context { monitor: &heard, ..context() };
            inspect::ls(&sample.vault, &root, &path(folder), recursive, take, &ctx).unwrap();
            assert_eq!(
                (&found[..], heard.all().len()),
                (&shown.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..], told),
                "{folder}"
            );
        }
        for nowhere in ["b/e", "bb", "c"] {
            let said = inspect::ls(&sample.vault, &root, &path(nowhere), true, |_| Ok(()), &context());
            assert_eq!(said.unwrap_err().kind(), Kind::Usage);
        }
        let mut content = Vec::new();
        inspect::cat(&sample.vault, &root, &path("b/c/two"), &mut content, &context()).unwrap();
        assert_eq!(content, b"2");
    }
}

#[test]
fn an_archive_has_the_folders_that_were_missing() {
    let (sample, name) = orphans(4);
    let (heard, mut archive) = (Heard::default(), Vec::new());
    let ctx = Context { monitor: &heard, ..context() };
    export::export(&sample.vault, &sample.vault.root(name).unwrap(), export::ArchiveFormat::Pax, &mut archive, &ctx)
        .unwrap();
    let archive = zstd::decode_all(&archive[..]).unwrap();
    let mut archive = tar::Archive::new(&archive[..]);
    let names: Vec<_> = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names, ["./", "a/", "a/one", "b/", "b/c/", "b/c/three", "b/c/two", "b/d", "e"]);
    assert!(heard.all().len() == 2 && heard.all()[0].contains("the folder b is"), "{:?}", heard.all());
}

#[test]
fn a_snapshot_without_its_own_directory_comes_back() {
    let mut sample = SampleVault::new();
    sample.entries.clear();
    sample.file("a", b"1");
    let name = sample.commit(SnapshotState::Complete);
    let (found, report) = restored(&sample, false);
    assert!(found.contains_key(&b"a"[..]) && report.warnings[0].contains("the folder . is"), "{report:?}");
    assert_eq!(verified(&sample, name).0.len(), 1);
}

/// The same hunk is sound in one snapshot, and not in another, after what comes before it there.
#[test]
fn a_shared_hunk_is_checked_where_it_stands() {
    let mut sample = SampleVault::new();
    sample.hunk = 2;
    sample.folder("a");
    sample.file("a/b", b"1");
    sample.folder("c");
    let first = sample.commit(SnapshotState::Complete);
    // Instead of a folder, a symlink; or nothing.
    let shared = sample.hunks[1].clone();
    let listed = sample.vault.root(first).unwrap();
    let mut others = Vec::new();
    for symlink in [true, false] {
        sample.entries.truncate(1);
        if symlink {
            sample.symlink("a", b"..");
        }
        let mut packs = Vec::new();
        PackReader::for_root(sample.store, &listed).unwrap().book().values().for_each(|pack| packs.push(*pack));
        let lone = sample.commit(SnapshotState::Partial);
        packs.extend(PackReader::for_root(sample.store, &sample.vault.root(lone).unwrap()).unwrap().book().values());
        packs.sort_by_key(|pack| pack.id);
        packs.dedup_by_key(|pack| pack.id);
        sample.hunks.push(shared.clone());
        others.push(sample.commit_root(SnapshotState::Complete, packs));
    }
    assert_eq!(verified(&sample, first).0, [""; 0]);
    for (name, why) in others.iter().zip(["a/b is not in a folder", "the folder a is not"]) {
        let (damage, _) = verified(&sample, *name);
        assert!(damage.len() == 1 && damage[0].contains(why), "{damage:?}");
        let folder = tempfile::tempdir().unwrap();
        let chosen = RestoreOptions { snapshot: name.to_string(), ..options(&folder.path().join("data")) };
        let said = restore(&sample.vault, &chosen, &context());
        let said = said.map_or_else(|why| why.to_string(), |report| report.warnings.join("\n"));
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_database_without_its_side_files_is_told() {
    for (journal, wal, there, lacking) in [
        (true, false, &["db-journal"][..], &[][..]),
        (true, true, &["db-journal"], &["db-wal"]),
        (true, true, &[], &["db-journal", "db-wal"]),
        (false, false, &[], &[]),
    ] {
        for hunk in [1, 4] {
            let mut sample = SampleVault::new();
            sample.hunk = hunk;
            sample.raw("db", b"a database", journal, wal);
            there.iter().for_each(|side| _ = sample.file(side, b"side"));
            sample.file("e", b"");
            let name = sample.commit(SnapshotState::Complete);
            let (found, report) = restored(&sample, false);
            assert_eq!(found, expected(&sample));
            let (damage, _) = verified(&sample, name);
            for told in [&report.warnings, &damage] {
                assert_eq!(told.len(), lacking.len(), "{told:?}");
                assert!(
                    told.iter().zip(lacking).all(|(t, side)| t.contains("database db ") && t.contains(side)),
                    "{told:?}"
                );
            }
        }
    }
    // Another name of the database, with the side files beside the first one.
    let mut sample = SampleVault::new();
    sample.hunk = 1;
    sample.raw("db", b"a database", true, false).link = Some("g".into());
    sample.file("db-journal", b"side");
    sample.raw("other", b"a database", true, false).link = Some("g".into());
    let name = sample.commit(SnapshotState::Complete);
    assert_eq!((verified(&sample, name).0, restored(&sample, false).1.warnings), (vec![], vec![]));
    // Restored alone, it has none.
    let folder = tempfile::tempdir().unwrap();
    let chosen = RestoreOptions { paths: vec![path("other")], ..options(&folder.path().join("data")) };
    let report = restore(&sample.vault, &chosen, &context()).unwrap();
    assert!(report.warnings.len() == 1 && report.warnings[0].contains("other-journal"), "{:?}", report.warnings);
}

#[test]
fn a_link_of_another_content_is_told() {
    let mut sample = SampleVault::new();
    sample.file("a", b"first").link = Some("g".into());
    sample.file("b", b"second").link = Some("g".into());
    sample.with_headers();
    let name = sample.commit(SnapshotState::Complete);
    let (found, report) = restored(&sample, false);
    assert_eq!(found, expected(&sample));
    let (damage, warned) = verified(&sample, name);
    assert_eq!(damage, [""; 0]);
    for told in [report.warnings, warned] {
        assert!(told.len() == 1 && told[0].contains("b is recorded as another name"), "{told:?}");
    }
    let mut archive = Vec::new();
    export::export(
        &sample.vault,
        &sample.vault.root(name).unwrap(),
        export::ArchiveFormat::Pax,
        &mut archive,
        &context(),
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(&zstd::decode_all(&archive[..]).unwrap()[..]).unpack(folder.path()).unwrap();
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"second");
}
