//! Restores that take over files which were made beforehand.

use std::sync::Arc;

use super::*;
use crate::error::Code;
use crate::restore::ahead::FilledAhead;
use crate::restore::fill_ahead::fill_ahead;

/// Files of several pieces, empty ones, with other modes, in folders that nobody may write to, and with several names.
fn sample() -> SampleVault {
    let mut sample = SampleVault::new();
    for folder in ["a", "a/b"] {
        sample.folder(folder).mode = 0o555;
    }
    sample.file("a/b/large", &noise(3000, 1)).mode = 0o400;
    sample.file("a/changes", b"old");
    sample.file("a/empty", b"");
    sample.file("a/mode", b"mode").mode = 0o644;
    sample.file("a/time", b"time");
    sample.folder("gone");
    sample.file("gone/file", b"gone");
    for name in ["link-1", "link-2"] {
        sample.file(name, b"one inode").link = Some("g".into());
    }
    for name in ["once-1", "once-2"] {
        sample.file(name, b"one inode, then two").link = Some("h".into());
    }
    sample.symlink("symlink", b"a/empty");
    sample.file("z", b"last");
    sample
}

fn filled(sample: &SampleVault, target: &Path) -> Result<FilledAhead> {
    let (choice, mut doubts) = choose_with_doubts(&sample.vault, "latest").map_err(|unchosen| unchosen.why)?;
    fill_ahead(&sample.vault, &options(target), (choice, &mut doubts), &context())
}

fn staged(target: &Path) -> Vec<std::path::PathBuf> {
    let beside = fs::read_dir(target.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    beside.filter(|path| path.to_string_lossy().contains("lastgood-restoring")).collect()
}

/// Makes another snapshot, in which one file of each kind of change differs.
fn go_on(sample: &mut SampleVault) {
    sample.entries.retain(|entry| !entry.path.bytes().starts_with(b"gone"));
    let old = sample.entries.iter().position(|entry| entry.path.bytes() == b"a/changes").unwrap();
    sample.file("a/changes", b"new");
    let new = sample.entries.pop().unwrap();
    sample.entries[old] = new;
    for entry in &mut sample.entries {
        match entry.path.bytes() {
            b"a/mode" => entry.mode = 0o600,
            b"a/time" => entry.mtime += 1,
            b"once-1" | b"once-2" => entry.link = None,
            _ => {}
        }
    }
    sample.commit(SnapshotState::Complete);
}

#[test]
fn only_what_differs_is_made_again() {
    for limits in [tiny(), WindowLimits::default()] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        old_tree(&target);
        let before = look(&target);
        let mut sample = sample();
        sample.commit(SnapshotState::Complete);
        let ahead = Arc::new(filled(&sample, &target).unwrap());
        assert_eq!((look(&target), staged(&target).len()), (before, 1));
        go_on(&mut sample);
        let with = RestoreOptions { ahead: Some(ahead.clone()), ..options(&target) };
        let report = restore_within(&sample.vault, &with, limits, &context()).unwrap();
        assert_eq!(look(&target), expected(&sample));
        // The large one, the empty one, the first name of the link and of the one that was a link, and the last one.
        assert_eq!(ahead.taken(), (5, 3000 + 9 + 19 + 4), "{report:?}");
        assert_eq!((report.files, report.warnings.len()), (10, 0), "{report:?}");
        let inode = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
        assert_eq!(inode("link-1"), inode("link-2"));
        assert_ne!(inode("once-1"), inode("once-2"));
        assert_eq!(staged(&target).len(), 1);
        drop((ahead, with));
        assert_eq!(staged(&target).len(), 0);
        // Nothing of it is needed.
        restore(&sample.vault, &options(&target), &context()).unwrap();
        assert_eq!(look(&target), expected(&sample));
    }
}

#[test]
fn a_file_that_was_touched_or_is_gone_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    let sample = {
        let mut sample = sample();
        sample.commit(SnapshotState::Complete);
        sample
    };
    let ahead = Arc::new(filled(&sample, &target).unwrap());
    let tree = staged(&target)[0].join("tree");
    let (z, mode) = (tree.join("z"), tree.join("a/mode"));
    let times = fs::metadata(&z).unwrap().modified().unwrap();
    fs::write(&z, "LAST").unwrap();
    fs::File::open(&z).unwrap().set_modified(times).unwrap();
    fs::remove_file(tree.join("a/time")).unwrap();
    fs::hard_link(&mode, tree.join("other name")).unwrap();
    let with = RestoreOptions { ahead: Some(ahead.clone()), ..options(&target) };
    restore(&sample.vault, &with, &context()).unwrap();
    assert_eq!(look(&target), expected(&sample));
    // Of nine files with a content of their own, all but these three.
    assert_eq!(ahead.taken().0, 6, "{ahead:?}");
    // All of it is gone, and so is what was taken.
    let again = RestoreOptions { ahead: Some(ahead.clone()), ..options(&target) };
    ahead.remove();
    restore(&sample.vault, &again, &context()).unwrap();
    assert_eq!(look(&target), expected(&sample));
}

#[test]
fn nothing_is_made_in_the_target_or_of_a_damaged_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    let mut sample = sample();
    sample.commit(SnapshotState::Complete);
    let (choice, mut doubts) = choose_with_doubts(&sample.vault, "latest").map_err(|unchosen| unchosen.why).unwrap();
    let in_place = RestoreOptions { in_place: true, ..options(&target) };
    let refused = fill_ahead(&sample.vault, &in_place, (choice, &mut doubts), &context()).map(drop).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unneeded);
    assert!(!target.exists());
    let pack = sample.store.objects().keys().find(|name| name.starts_with("packs/")).unwrap().clone();
    sample.store.objects().get_mut(&pack).unwrap().truncate(10);
    let refused = filled(&sample, &target).map(drop).unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (Kind::Damage, Code::Damage));
    assert!(!target.exists() && staged(&target).is_empty());
}
