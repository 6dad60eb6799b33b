//! Tests what counts as a tree, and that summaries of hunks find what the entries themselves would.

use proptest::prelude::*;

use super::*;
use crate::vault::entry::{Database, Extent, Side};

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: EntryPath::new(path).unwrap(),
        kind,
        size: 0,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        ctime: 0,
        inode: 0,
        target: None,
        xattrs: vec![],
        hash: (kind == EntryKind::File).then(|| Hash::of(&[])),
        link: None,
        racy: false,
        header: 512,
        extents: vec![Extent::zeros(512)],
        map: None,
        database: None,
    }
}

/// Takes all entries, and returns the folders that are missing.
fn check(paths: &[(&str, EntryKind)]) -> Result<Vec<String>> {
    let mut check = TreeCheck::default();
    let mut missing = Vec::new();
    for (path, kind) in paths {
        missing.extend(check.next(&EntryPath::new(*path).unwrap(), *kind == EntryKind::Folder)?);
    }
    Ok(missing.iter().map(EntryPath::to_string).collect())
}

#[test]
fn only_trees_pass() {
    use EntryKind::{File, Folder, Symlink};
    let root = (".", Folder);
    let whole = [root, ("a", Folder), ("a/b", Folder), ("a/b/c", File), ("a/d", File), ("b", File)];
    assert_eq!(check(&whole).unwrap(), [""; 0]);
    for bad in [
        &[root, root][..],
        &[root, ("a", File), ("a", File)],
        &[root, ("b", File), ("a", File)],
        &[root, ("a", Symlink), ("a/b", File)],
        &[root, ("a", Symlink), ("a/b/c", File)],
        &[root, ("a", File), ("a/b", File)],
        &[root, ("a/b", File), ("a", Symlink)],
        &[root, ("a/b", File), ("a", Folder)],
        &[root, ("a", Folder), ("b", Folder), ("a/c", File)],
    ] {
        assert!(check(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_missing_folder_is_told_once() {
    use EntryKind::{File, Folder, Symlink};
    let root = (".", Folder);
    for (paths, missing) in [
        (&[("a", File)][..], &["."][..]),
        (&[root, ("a/b", File), ("a/c", File), ("a/d/e", File)], &["a", "a/d"]),
        (&[root, ("a", Folder), ("a/b/c/d", File), ("a/b/e", Folder)], &["a/b", "a/b/c"]),
        (&[root, ("a", Symlink), ("ab/c", File)], &["ab"]),
        (&[root, ("a/b", Symlink), ("b/b", File)], &["a", "b"]),
    ] {
        assert_eq!(check(paths).unwrap(), missing, "{paths:?}");
    }
}

fn raw(mut entry: Entry, journal: bool, wal: bool) -> Entry {
    let side = |there: bool| there.then_some(Side { size: 0, mtime: 0 });
    entry.database = Some(Database { taken: CaptureMethod::Raw, wal: side(wal), journal: side(journal), check: None });
    entry
}

fn linked(mut entry: Entry, link: &str, content: &[u8]) -> Entry {
    (entry.link, entry.hash) = (Some(link.into()), Some(Hash::of(content)));
    entry
}

#[test]
fn side_files_lie_beside_a_name_of_their_database() {
    let file = |path| entry(path, EntryKind::File);
    let said = |entries: &[Entry]| {
        let mut check = SnapshotCheck::default();
        check.pass_over();
        assert_eq!(check.entries(entries), []);
        check.finish().iter().map(|remark| remark.to_string()).collect::<Vec<_>>()
    };
    let both = raw(file("a"), true, true);
    assert_eq!(said(&[both.clone(), file("a-journal"), file("a-wal")]), [""; 0]);
    let told = said(&[both.clone(), entry("a-journal", EntryKind::Symlink), file("a-wal")]);
    assert!(told.len() == 1 && told[0].contains("a-journal"), "{told:?}");
    assert_eq!(said(&[raw(file("a"), false, false), file("b-wal")]), [""; 0]);
    let mut live = both.clone();
    live.database.as_mut().unwrap().taken = CaptureMethod::Live;
    assert_eq!(said(&[live]), [""; 0]);

    // Another name of the same file needs no side file of its own; one with other content, or without any side file,
    // does.
    let name = |path, link, content: &[u8]| linked(raw(file(path), false, true), link, content);
    assert_eq!(said(&[name("a", "g", b"1"), file("a-wal"), name("b", "g", b"1")]), [""; 0]);
    assert_eq!(said(&[name("a", "g", b"1"), name("b", "g", b"1"), file("b-wal")]), [""; 0]);
    assert_eq!(said(&[name("a", "g", b"1"), file("a-wal"), name("b", "h", b"1")]).len(), 1);
    assert_eq!(said(&[name("a", "g", b"1"), name("b", "g", b"1")]).len(), 2);
}

/// Returns a strategy for entries out of few paths, so that they often lie in each other.
fn any_entry() -> impl Strategy<Value = Entry> {
    let part = || prop_oneof![Just("a"), Just("b"), Just("a-wal"), Just("b-journal")];
    let path = prop::collection::vec(part(), 0..4);
    (path, 0..6u8, 0..3u8, 0..3u8, 0..4u8).prop_map(|(parts, kind, link, content, sides)| {
        let path = if parts.is_empty() { ".".to_owned() } else { parts.join("/") };
        let kind = match kind {
            _ if parts.is_empty() => EntryKind::Folder,
            0..3 => EntryKind::Folder,
            3 => EntryKind::Symlink,
            _ => EntryKind::File,
        };
        match entry(&path, kind) {
            file if kind == EntryKind::File => {
                let file =
                    if link > 0 { linked(file, ["", "x", "y"][usize::from(link)], &[content / 2]) } else { file };
                if content > 0 { raw(file, sides & 1 > 0, sides & 2 > 0) } else { file }
            }
            other => other,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn hunks_wherever_they_are_cut_are_checked_as_their_entries_are(
        mut entries in prop::collection::vec(any_entry(), 0..20),
        sorted in prop_oneof![9 => Just(true), 1 => Just(false)],
        swaps in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..3),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        distinct in any::<bool>(),
    ) {
        if sorted {
            entries.sort_by(|a, b| a.path.cmp(&b.path));
        }
        if distinct {
            entries.dedup_by(|a, b| a.path == b.path);
        }
        if !entries.is_empty() {
            for (a, b) in swaps.iter().skip(usize::from(distinct) * 2) {
                let (a, b) = (a.index(entries.len()), b.index(entries.len()));
                entries.swap(a, b);
            }
        }
        let mut one = SnapshotCheck::default();
        let mut expected = one.entries(&entries);
        expected.extend(one.finish());

        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(entries.len() + 1)).collect();
        ends.extend([0, entries.len()]);
        ends.sort_unstable();
        let (mut other, mut found, mut read) = (SnapshotCheck::default(), Vec::new(), 0);
        for ends in ends.windows(2) {
            let hunk = &entries[ends[0]..ends[1]];
            let entries = || {
                read += 1;
                Ok(hunk.to_vec())
            };
            found.extend(other.hunk(&HunkSummary::of(hunk), entries).unwrap());
        }
        found.extend(other.finish());
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(&one.tree, &other.tree);
        if expected.is_empty() {
            prop_assert_eq!(read, 0);
        }
    }
}
