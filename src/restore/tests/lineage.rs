//! What a restored directory says of where its content comes from.

use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, fstat, openat};

use super::*;
use crate::error::{Code, Error};
use crate::lineage::{self, Lineage, OWN_FOLDER, RUN_LOCK, SEED, STATE};
use crate::path::EntryPath;
use crate::restore::before_exchange::BeforeExchange;
use crate::restore::needed::{TargetContent, target_content};
use crate::vault::hex::Hex;

fn read(target: &Path) -> Lineage {
    lineage::read(target).unwrap().unwrap()
}

#[test]
fn a_restored_directory_says_what_it_comes_from() {
    let mut sample = small();
    let older = sample.commit(SnapshotState::Complete);
    sample.seq += 5 << 32;
    let newest = sample.commit(SnapshotState::Complete);
    let mut serials = Vec::new();
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        for (spec, name, chosen) in [
            ("latest".into(), newest, false),
            (older.id.to_string(), older, true),
            (newest.to_string(), newest, true),
            (older.time.to_string(), older, true),
            ("latest".to_owned(), newest, false),
        ] {
            let chosen_one = RestoreOptions { snapshot: spec.clone(), in_place, ..options(&target) };
            restore(&sample.vault, &chosen_one, &context()).unwrap();
            let found = read(&target);
            assert_eq!((found.snapshot, found.chosen), (Some(name), chosen), "{spec}");
            assert_eq!((found.vault, found.epoch), (sample.vault.config.id, (name.seq >> 32) as u32), "{spec}");
            serials.push(found.serial);
            let mut now = look(&target);
            now.retain(|path, _| !path.starts_with(b"lastgood.replaced-"));
            assert_eq!(now, expected(&sample), "{spec}: also the times of the directory itself");
            let owner = |path: &Path| (path.metadata().unwrap().uid(), path.metadata().unwrap().gid());
            assert_eq!(owner(&target.join(OWN_FOLDER).join(STATE)), owner(&target));
        }
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 10, "each restore has a serial of its own");
}

#[test]
fn a_restore_of_single_paths_leaves_the_lineage_as_it_is() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    let one = |path: &str| RestoreOptions { paths: vec![EntryPath::new(path).unwrap()], ..options(&target) };
    restore(&sample.vault, &one("a"), &context()).unwrap();
    assert_eq!(lineage::read(&target), Ok(None));
    restore(&sample.vault, &one("."), &context()).unwrap();
    let all = read(&target);
    restore(&sample.vault, &one("b/one"), &context()).unwrap();
    assert_eq!(read(&target), all);
    for own in [".lastgood", ".lastgood/state.json"] {
        let refused = restore(&sample.vault, &one(own), &context()).unwrap_err();
        assert_eq!(refused.code(), Code::UnknownPath, "{refused}");
        assert_eq!(read(&target), all);
    }
}

#[test]
fn what_an_old_snapshot_has_in_the_folder_is_left_out_and_told_once() {
    let mut sample = SampleVault::new();
    sample.folder(".lastgood");
    sample.file(".lastgood/run.lock", b"an app's");
    sample.file(".lastgood/state.json", b"an app's");
    sample.folder("a");
    sample.folder("a/.lastgood");
    sample.file("a/.lastgood/kept", b"kept");
    sample.commit(SnapshotState::Complete);
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let report = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        let told =
            report.warnings.iter().filter(|what| what.contains(".lastgood, which the snapshot has, is left out"));
        assert_eq!((told.count(), report.not_restored.len()), (1, 0), "{report:?}");
        assert_eq!(fs::read(target.join("a/.lastgood/kept")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(target.join(OWN_FOLDER)).unwrap().count(), 1);
        assert_eq!(read(&target).epoch, 0);
    }
    let report = crate::verify::verify(&sample.open().unwrap(), &Default::default(), &context()).unwrap();
    assert!(report.damage.is_empty(), "the snapshot is sound: {report:?}");
}

#[test]
fn a_lock_in_the_folder_holds_through_every_restore() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    old_tree(&target);
    let lock = target.join(OWN_FOLDER).join(RUN_LOCK);
    fs::create_dir(target.join(OWN_FOLDER)).unwrap();
    for name in [RUN_LOCK, SEED] {
        fs::write(target.join(OWN_FOLDER).join(name), "").unwrap();
    }
    let inode = |path: &Path| path.metadata().unwrap().ino();
    let held = inode(&lock);
    let called = Arc::new(Mutex::new(Vec::new()));
    let calls = called.clone();
    let before_exchange = Some(BeforeExchange::new(move |own| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let lock = openat(own, RUN_LOCK, flags, Mode::from_raw_mode(0o600)).unwrap();
        calls.lock().unwrap().push(fstat(&lock).unwrap().st_ino);
        Ok(())
    }));
    let chosen = RestoreOptions { in_place: true, before_exchange, ..options(&target) };
    restore(&sample.vault, &chosen, &context()).unwrap();
    assert_eq!((inode(&lock), called.lock().unwrap().len()), (held, 0), "in place, it is the same file");
    assert!(!target.join(OWN_FOLDER).join(SEED).exists(), "what was restored is no seed");
    assert!(!target.join("mine").exists());

    let report = restore(&sample.vault, &RestoreOptions { in_place: false, ..chosen }, &context()).unwrap();
    assert_eq!(*called.lock().unwrap(), [inode(&lock)], "what was locked in staging is in the target now");
    assert_eq!(inode(&report.moved_aside.unwrap().join(OWN_FOLDER).join(RUN_LOCK)), held);
    let refuses = BeforeExchange::new(|_| Err(Error::failed("lock it", "it is locked")));
    let before = read(&target);
    let chosen = RestoreOptions { before_exchange: Some(refuses), ..options(&target) };
    assert!(restore(&sample.vault, &chosen, &context()).unwrap_err().to_string().contains("it is locked"));
    assert_eq!(read(&target), before);
}

#[test]
fn what_was_planted_in_the_folder_s_place_moves_aside() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (target, far) = (folder.path().join("data"), folder.path().join("far"));
        old_tree(&target);
        fs::create_dir(&far).unwrap();
        symlink(&far, target.join(OWN_FOLDER)).unwrap();
        let report = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        assert!(report.moved_aside.unwrap().join(OWN_FOLDER).is_symlink());
        assert!(read(&target).snapshot.is_some());
        assert_eq!(fs::read_dir(far).unwrap().count(), 0);
    }
}

#[test]
fn a_directory_with_nothing_but_the_folder_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let content = || target_content(&options(folder.path()), "/v", &context()).unwrap();
    let written = Lineage {
        format: lineage::FORMAT,
        vault: Hex([0; 16]),
        snapshot: None,
        epoch: 0,
        serial: Hex([0; 16]),
        chosen: false,
        written: jiff::Timestamp::now(),
    };
    lineage::write(folder.path(), &written).unwrap();
    fs::write(folder.path().join(OWN_FOLDER).join(RUN_LOCK), "").unwrap();
    assert_eq!(content(), TargetContent::NoFiles);
    fs::create_dir_all(folder.path().join("a/.lastgood")).unwrap();
    fs::write(folder.path().join("a/.lastgood/data"), "").unwrap();
    assert_ne!(content(), TargetContent::NoFiles);
}
