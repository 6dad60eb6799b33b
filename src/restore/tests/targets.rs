//! What becomes of a target: what was there, staging folders of others, markers, single paths, and targets that are refused.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::*;
use crate::path::EntryPath;
use crate::restore::target::{ReplaceMode, RestoreTarget};
use crate::source::marker::{self, MARKER, Unfinished};

#[test]
fn what_was_there_moves_aside_whole() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let mut before = old_tree(&target);
        let stale = if in_place {
            target.join(".lastgood-restoring-00")
        } else {
            folder.path().join(".data.lastgood-restoring-00")
        };
        let stale = std::path::PathBuf::from(format!("{}11223344556677", stale.display()));
        fs::create_dir_all(stale.join("tree/half")).unwrap();
        fs::set_permissions(&stale, PermissionsExt::from_mode(0o700)).unwrap();
        let report = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        assert!(!stale.exists(), "what a killed restore left is still there");
        let aside = report.moved_aside.unwrap();
        let mut kept = look(&aside);
        let mut now = look(&target);
        // The folder itself is left out: in place it is a new one.
        kept.remove(&b""[..]);
        before.remove(&b""[..]);
        assert_eq!(kept, before);
        now.retain(|path, _| !path.starts_with(b"lastgood.replaced-"));
        assert_eq!(now, expected(&sample));
        assert_eq!(aside.parent().unwrap(), if in_place { &target } else { folder.path() });
        let again = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        assert_ne!(again.moved_aside.unwrap(), aside);
        assert!(aside.join("mine").exists());
    }
}

#[test]
fn what_only_looks_like_a_staging_folder_stays() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        fs::create_dir(&target).unwrap();
        let (beside, prefix) = if in_place { (target.as_path(), "") } else { (folder.path(), ".data") };
        let at = |end: &str| beside.join(format!("{prefix}.lastgood-restoring-{end}"));
        let far = tempfile::tempdir().unwrap();
        fs::write(far.path().join("kept"), "kept").unwrap();
        let folders = ["notes", "00112233445566", "001122334455667", "00112233445566778", "00112233445566AA", ""];
        for end in folders {
            fs::create_dir(at(end)).unwrap();
            fs::write(at(end).join("thesis.txt"), "mine").unwrap();
        }
        fs::write(at("0011223344556600"), "a file").unwrap();
        std::os::unix::fs::symlink(far.path(), at("0011223344556601")).unwrap();
        // A folder of a killed restore, in which somebody has put a link.
        fs::create_dir_all(at("0011223344556602/tree")).unwrap();
        fs::set_permissions(at("0011223344556602"), PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(far.path(), at("0011223344556602/tree/link")).unwrap();
        std::os::unix::fs::symlink(far.path().join("kept"), at("0011223344556602/groups")).unwrap();
        let report = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        for end in folders {
            assert_eq!(fs::read(at(end).join("thesis.txt")).unwrap(), b"mine", "{end}");
        }
        // Anything that is not a folder is data, if it lies in the target.
        let aside = report.moved_aside.unwrap();
        let now = |end: &str| if in_place { aside.join(at(end).file_name().unwrap()) } else { at(end) };
        assert_eq!(fs::read(now("0011223344556600")).unwrap(), b"a file");
        assert!(now("0011223344556601").is_symlink() && !at("0011223344556602").exists());
        assert_eq!(fs::read(far.path().join("kept")).unwrap(), b"kept");
    }
}

#[test]
fn a_staging_folder_that_another_restore_holds_stays() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join(".data.lastgood-restoring-0011223344556677");
    fs::create_dir_all(held.join("tree")).unwrap();
    let lock = fs::File::open(&held).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    restore(&sample.vault, &options(&folder.path().join("data")), &context()).unwrap();
    assert!(held.join("tree").exists());
}

#[test]
fn a_marker_that_is_another_name_of_a_file_is_not_written_to() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let (target, far) = (folder.path().join("data"), folder.path().join("far"));
    fs::create_dir(&target).unwrap();
    let marker = target.join(MARKER);
    let chosen = || RestoreOptions { in_place: true, ..options(&target) };
    std::os::unix::fs::symlink(&far, &marker).unwrap();
    let said = restore(&sample.vault, &chosen(), &context()).unwrap_err().to_string();
    assert!(said.contains("a symbolic link"), "{said}");
    fs::remove_file(&marker).unwrap();
    marker::tests::write_all(&target);
    fs::hard_link(&marker, &far).unwrap();
    let before = fs::read(&far).unwrap();
    restore(&sample.vault, &chosen(), &context()).unwrap();
    assert_eq!(fs::read(&far).unwrap(), before);
    assert!(!marker.exists());
}

#[test]
fn a_name_of_a_restores_own_folders_stops_no_restore_in_place() {
    const OLD: &str = "lastgood.replaced-20260120T180000Z";
    const STAGED: &str = ".lastgood-restoring-0123456789abcdef";
    let mut sample = SampleVault::new();
    sample.file(MARKER, b"no marker");
    sample.file(".lastgood-in-place-next", b"data");
    sample.symlink(STAGED, b"nowhere");
    sample.file("a", b"a");
    sample.file(OLD, b"data");
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let (target, at) = (folder.path().join("data"), |name: &str| folder.path().join("data").join(name));
    fs::create_dir_all(at(OLD)).unwrap();
    fs::write(at(OLD).join("older"), "").unwrap();
    fs::create_dir_all(at("lastgood.replaced-20250101T000000Z")).unwrap();
    fs::write(at("lastgood.replaced-20240101T000000Z"), "data").unwrap();
    for n in 0..2 {
        let report =
            restore(&sample.vault, &RestoreOptions { in_place: true, ..options(&target) }, &context()).unwrap();
        assert_eq!(fs::read(at(OLD)).unwrap(), b"data");
        assert_eq!(fs::read(at(".lastgood-in-place-next")).unwrap(), b"data");
        assert_eq!(fs::read_link(at(STAGED)).unwrap(), Path::new("nowhere"));
        assert!(!at(MARKER).exists());
        let left_out: Vec<_> = report.not_restored.iter().map(|problem| problem.path.to_string()).collect();
        assert_eq!(left_out, [MARKER]);
        // Content that a restore moved aside stays, unless an entry that is restored needs its name.
        assert!(at("lastgood.replaced-20250101T000000Z").is_dir());
        let aside = report.moved_aside.unwrap();
        assert_eq!(aside.join(OLD).join("older").exists(), n == 0);
        assert_eq!(aside.join("lastgood.replaced-20240101T000000Z").exists(), n == 0);
        assert!(!aside.join("lastgood.replaced-20250101T000000Z").exists());
    }
}

#[test]
fn an_interrupted_restore_in_place_is_told_and_completed() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    marker::tests::write_all(folder.path());
    fs::write(folder.path().join("half"), "").unwrap();
    let report =
        restore(&sample.vault, &RestoreOptions { in_place: true, ..options(folder.path()) }, &context()).unwrap();
    assert!(report.warnings.iter().any(|w| w.contains("broken")), "{:?}", report.warnings);
    assert!(!folder.path().join(MARKER).exists());
    assert!(report.moved_aside.unwrap().join("half").exists());
}

#[test]
fn what_was_there_is_told_where_it_will_be() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().canonicalize().unwrap().join("data");
    let aside = "lastgood.replaced-20261121T101112Z";
    fs::create_dir_all(target.join(aside)).unwrap();
    let at = Arc::new(crate::fs::Folder::open(&target).unwrap());
    let left = Unfinished { aside: vec![aside.into()], ..Unfinished::default() };
    marker::mark(&at, &at, &left).unwrap();
    for (in_place, is) in [(true, target.join(aside).display().to_string()), (false, format!("{aside}, in what moves"))]
    {
        let place = RestoreTarget::check(&target, ReplaceMode { in_place, ..ReplaceMode::default() }, &[]).unwrap();
        let told = place.interrupted_restores().concat();
        assert!(told.contains(&format!("what was there before is in {is}")), "{told}");
    }
}

#[test]
fn single_paths_go_back_to_their_places() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let path = |p: &str| EntryPath::new(p).unwrap();
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        old_tree(&target);
        let paths = vec![path("a/one"), path("b/two"), path("b/one")];
        let chosen = RestoreOptions { paths, in_place, ..options(&target) };
        let report = restore_within(&sample.vault, &chosen, tiny(), &context()).unwrap();
        assert_eq!(report.files, 3);
        let (now, wanted) = (look(&target), expected(&sample));
        for path in [&b"a/one"[..], b"b", b"b/one", b"b/two"] {
            assert_eq!(now[path], wanted[path]);
        }
        assert_eq!(fs::read(target.join("mine")).unwrap(), b"mine");
        assert!(!now.contains_key(&b"a/two"[..]));
        assert_eq!(fs::read(report.moved_aside.unwrap().join("a/one")).unwrap(), b"old");

        let before = look(folder.path());
        let wrong = restore(
            &sample.vault,
            &RestoreOptions { paths: vec![path("a/none")], in_place, ..options(&target) },
            &context(),
        );
        let wrong = wrong.unwrap_err();
        assert_eq!((wrong.kind(), wrong.word()), (Kind::Usage, "unknown-path"));
        assert_eq!(look(folder.path()), before);
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new");
    restore(&sample.vault, &RestoreOptions { paths: vec![path("b/two")], ..options(&target) }, &context()).unwrap();
    assert_eq!(look(&target).len(), 3);
}

#[test]
fn a_target_that_is_no_folder_is_refused() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
    for name in ["file", "link"] {
        let said = restore(&sample.vault, &options(&folder.path().join(name)), &context()).unwrap_err();
        assert_eq!((said.kind(), said.word()), (Kind::Usage, "bad-target"));
    }
    // A trailing slash means the folder that the link leads to.
    std::os::unix::fs::symlink("made", folder.path().join("to")).unwrap();
    fs::create_dir_all(folder.path().join("made/data")).unwrap();
    for (named, real) in [
        ("to/", "made"),
        ("to/.", "made"),
        ("to/data", "made/data"),
        ("made/../to/data/..", "made"),
        ("new/../made", "made"),
        ("new/../v/x", "v/x"),
    ] {
        let place = RestoreTarget::check(&folder.path().join(named), ReplaceMode::default(), &[]).unwrap();
        assert_eq!(place.target, folder.path().canonicalize().unwrap().join(real), "{named}");
    }
    std::os::unix::fs::symlink("nowhere", folder.path().join("dangling")).unwrap();
    for (named, why) in [
        ("dangling", "a symbolic link"),
        ("dangling/", "leads nowhere"),
        ("dangling/x/y", "leads nowhere"),
        ("file/x", "above it is not a folder"),
    ] {
        let said = restore(&sample.vault, &options(&folder.path().join(named)), &context()).unwrap_err();
        assert_eq!((said.kind(), said.word()), (Kind::Usage, "bad-target"), "{named}");
        assert!(said.why().contains(why) && said.advice().is_some(), "{named}: {said}");
    }
    let mount = restore(&sample.vault, &options(Path::new("/proc")), &context()).unwrap_err();
    let said = mount.to_string();
    assert!(mount.word() == "mount-point" && said.contains("mount point") && said.contains("--in-place"), "{said}");
}

#[test]
fn a_directory_may_have_the_longest_name_there_is() {
    let mut sample = SampleVault::new();
    sample.file("a", b"new");
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x".repeat(255));
    for there in [false, true] {
        let report = restore(&sample.vault, &options(&target), &context()).unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"new");
        let aside = report.moved_aside.map(|aside| aside.file_name().unwrap().len());
        assert!(aside.is_some() == there && aside.is_none_or(|length| length <= 255), "{aside:?}");
    }
}

#[test]
fn a_restore_that_fails_leaves_no_folder_that_was_made_for_it() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    for in_place in [false, true] {
        let target = folder.path().join("new/deep/data");
        let packs = sample.store.objects().clone();
        sample.store.objects().retain(|name, _| !name.starts_with("packs/"));
        let failed = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context());
        assert_eq!(failed.unwrap_err().kind(), Kind::Damage);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        *sample.store.objects() = packs;
        restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        fs::remove_dir_all(folder.path().join("new")).unwrap();
    }
}
