//! Restores from damaged vaults: what is refused, passed over or skipped.

use super::*;
use crate::store::testing::fault::FaultStore;
use crate::store::testing::recording::RecordingStore;
use crate::vault::entry::Extent;
use crate::verify;

#[test]
fn damage_fails_before_the_target_is_touched_and_can_be_skipped() {
    for (how, damage) in damages() {
        for what in ["pack", "index", "root", "vault.json"] {
            let mut sample = small();
            let good = sample.commit(SnapshotState::Complete);
            sample.file("c", b"only in the second");
            let second = sample.commit(SnapshotState::Complete);
            let object = match what {
                "pack" => sample.packs[0].name(),
                "index" => sample.index_pack(),
                "root" => second.object("snapshots/"),
                _ => "vault.json".into(),
            };
            damage(&sample, &object);
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("data");
            old_tree(&target);
            let before = look(&target);
            let wanted = |spec: String, skip_damaged| {
                let chosen = RestoreOptions { snapshot: spec, skip_damaged, ..options(&target) };
                sample.open().and_then(|vault| restore(&vault, &chosen, &context()))
            };
            let said = match wanted(second.id.to_string(), false) {
                Err(said) => said,
                Ok(report) => panic!("{how} {what}: {report:?}"),
            };
            let lost_vault = what == "vault.json";
            // Without its root, a snapshot does not exist any more: it may have been let go.
            let gone = (how, what) == ("delete", "root");
            assert_eq!(said.kind(), if gone { Kind::Usage } else { Kind::Damage }, "{how} {what}: {said}");
            let named = object.rsplit('/').next().unwrap().split('.').next().unwrap();
            assert!(gone || said.to_string().contains(named), "{how} {what}: {said}");
            assert_eq!(look(&target), before, "{how} {what}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{how} {what}: staging is left");
            // Verify reports whatever a restore refuses.
            let found =
                verify::verify_store(Box::new(sample.store), &verify::VerifyOptions::default(), &context()).unwrap();
            let hurts = |damage: &verify::Damage| damage.object == object && damage.snapshots.contains(&second);
            assert!(gone || found.damage.iter().any(hurts), "{how} {what}: {:?}", found.damage);
            if lost_vault {
                continue;
            }
            if what == "pack" {
                // Its file is left out, and all others are there.
                let report = wanted("latest".into(), true).unwrap();
                let lost: Vec<_> = report.not_restored.iter().map(|p| p.path.to_string()).collect();
                assert_eq!(lost, ["a/one"], "{how}");
                let mut all = expected(&sample);
                all.remove(&b"a/one"[..]);
                assert_eq!(look(&target), all);
            } else {
                let report = wanted(good.id.to_string(), false).unwrap();
                assert_eq!(report.files, 4);
                let latest = wanted("latest".into(), false);
                match what {
                    "root" => {
                        let over: Vec<_> = latest.unwrap().passed_over.iter().map(|p| p.snapshot).collect();
                        assert_eq!(over, if gone { vec![] } else { vec![second] });
                    }
                    // The older one has an index of its own, and is taken in its place.
                    _ => {
                        let report = latest.unwrap();
                        assert_eq!((report.snapshot, report.instead_of), (good, Some(second)), "{how}");
                        assert!(report.passed_over[0].why.contains("is damaged"), "{how}: {report:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_damaged_pack_that_many_snapshots_share_is_read_once() {
    let read = |shared: usize| {
        let mut sample = SampleVault::new();
        sample.file("a", &noise(300, 1));
        let good = sample.commit(SnapshotState::Complete);
        sample.file("b", &noise(300, 2));
        let newest = (0..shared).map(|_| sample.commit(SnapshotState::Complete)).last();
        let pack = sample.packs[1].name();
        sample.store.objects().get_mut(&pack).unwrap()[20] ^= 1;
        // No doubt can be stored, so no later run would know of the damage either.
        let store = FaultStore::new(sample.store, |verb, name| verb == "create" && name.starts_with("doubts/"));
        let store: &'static RecordingStore<_> = Box::leak(Box::new(RecordingStore::new(store)));
        let vault = Vault::open(Box::new(store)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let report = restore(&vault, &options(&folder.path().join("data")), &context()).unwrap();
        assert_eq!((report.snapshot, report.instead_of, report.passed_over.len()), (good, newest, shared));
        store.take().iter().filter(|call| call.name == pack).count()
    };
    assert_eq!(read(1), read(7));
}

#[test]
fn a_damaged_pack_is_read_where_nothing_else_is_left() {
    // No file needs the damaged part of the pack any more.
    let mut sample = SampleVault::new();
    let extent = sample.put(&noise(600, 1));
    sample.file_at("a", &noise(600, 1)[..100], &[Extent { length: 100, ..extent }]);
    let name = sample.commit(SnapshotState::Complete);
    let pack = sample.packs[0];
    // The last frame: before the seek table of 8 bytes for each of 6 frames and 17 more.
    let at = pack.size as usize - 17 - 6 * 8 - 20;
    sample.store.objects().get_mut(&pack.name()).unwrap()[at] ^= 1;
    assert_eq!(verify::verify(&sample.vault, &Default::default(), &context()).unwrap().doubts.len(), 1);
    let folder = tempfile::tempdir().unwrap();
    for snapshot in ["latest".to_owned(), name.id.to_string()] {
        let wanted = RestoreOptions { snapshot, ..options(&folder.path().join("data")) };
        let report = restore(&sample.vault, &wanted, &context()).unwrap();
        assert_eq!((report.snapshot, report.files, report.instead_of), (name, 1, None));
    }
    // Damage to the part that the file needs is an error.
    let start = 20;
    sample.store.objects().get_mut(&pack.name()).unwrap()[start] ^= 1;
    let why = restore(&sample.vault, &options(&folder.path().join("other")), &context()).unwrap_err();
    assert_eq!(why.kind(), Kind::Damage);
}

#[test]
fn what_cannot_be_read_as_a_snapshot_is_passed_over() {
    for what in ["root", "index", "pack"] {
        let mut sample = small();
        let good = sample.commit(SnapshotState::Complete);
        sample.file("c", b"new");
        let second = sample.commit(SnapshotState::Complete);
        let object = match what {
            "root" => second.object("snapshots/"),
            "index" => sample.index_pack(),
            _ => sample.packs.last().unwrap().name(),
        };
        let name = object.clone();
        let store = FaultStore::new(sample.store, move |verb, asked| verb != "create" && asked == name).unreadable();
        let vault = Vault::open(Box::new(store)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let report = restore(&vault, &options(&folder.path().join("data")), &context()).unwrap();
        assert_eq!((report.snapshot, report.passed_over[0].snapshot), (good, second), "{what}: {report:?}");
        let found = verify::verify(&vault, &Default::default(), &context()).unwrap();
        assert!(found.damage.iter().any(|damage| damage.object == object), "{what}: {:?}", found.damage);
    }
}

#[test]
fn a_damaged_hunk_costs_its_own_entries_only() {
    // Hunks of [., a], [a/one, a/two], [b, b/one] and [b/two]: files in folders whose entries are lost come back too.
    for (lost, left) in [(1, 2), (0, 4), (2, 3)] {
        let mut broken = small();
        broken.hunk = 2;
        broken.commit(SnapshotState::Complete);
        let name = broken.index_pack();
        let mut objects = broken.store.objects();
        let bytes = objects.get_mut(&name).unwrap();
        let starts: Vec<usize> =
            (0..bytes.len() - 4).filter(|&n| bytes[n..n + 4] == [0x28, 0xb5, 0x2f, 0xfd]).collect();
        bytes[starts[lost] + 12] ^= 0xff;
        drop(objects);
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let skipped = RestoreOptions { skip_damaged: true, ..options(&target) };
        let report = restore(&broken.vault, &skipped, &context()).unwrap();
        assert_eq!(report.files, left, "hunk {lost}");
        assert!(report.not_restored[0].why.contains("all entries"), "{:?}", report.not_restored);
    }
}
