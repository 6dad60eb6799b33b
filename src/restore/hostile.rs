//! Tests with vaults that were made to do harm: each is refused with a clear error, and nothing is made outside the
//! target.

use std::path::Path;

use super::sample::{SamplePack, SampleVault, context, pages};
use super::tests::{expected, look, noise, options, small, tiny};
use super::*;
use crate::path::EntryPath;
use crate::store::Store;
use crate::vault::entry::{Extent, Map, MapForm, MapFrame, PageMap};
use crate::vault::hex::Hash;
use crate::vault::list::List;
use crate::vault::pack::PackKind;
use crate::vault::root::{SnapshotName, SnapshotState};
use crate::verify;

/// Restores what must not be restored; nothing may appear outside the target, and the target stays missing.
fn refuse(what: &str, sample: &mut SampleVault) {
    let name = sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("in/data");
    let chosen = RestoreOptions { snapshot: name.id.to_string(), ..options(&target) };
    let said = restore_within(&sample.vault, &chosen, tiny(), &context()).expect_err(what);
    assert_eq!(said.kind(), Kind::Damage, "{what}: {said}");
    let left: Vec<_> = look(folder.path()).into_keys().collect();
    assert_eq!(left, [b"".to_vec()], "{what}");
    named_by_verify(what, sample);
}

/// Checks that verify reports, as damage of the snapshot, what a restore refuses.
fn named_by_verify(what: &str, sample: &SampleVault) {
    let newest = *sample.vault.snapshots().unwrap().last().unwrap();
    let all = verify::VerifyOptions { read_data: Some(100.0), databases: None };
    let report = verify::verify_store(Box::new(sample.store), &all, &context()).unwrap();
    assert!(report.damage.iter().any(|damage| damage.snapshots.contains(&newest)), "{what}: {:?}", report.damage);
}

#[test]
fn hostile_vaults_do_no_harm() {
    for path in ["../out", "/out", "a/../../out"] {
        assert!(EntryPath::new(path).is_err(), "{path}");
    }
    let mut sample = SampleVault::new();
    sample.symlink("a", b"..");
    sample.file("a/out", b"x");
    refuse("an entry under a symlink", &mut sample);

    let mut sample = SampleVault::new();
    sample.file("a", b"x");
    sample.file("a", b"y");
    refuse("two entries of one path", &mut sample);

    let mut sample = SampleVault::new();
    let mut extent = sample.put(b"0123456789");
    extent.offset = 5;
    sample.file_at("a", b"0123456789", &[extent]);
    refuse("an extent out of range", &mut sample);

    for claimed in [5, 20, 4 << 20] {
        let mut sample = SampleVault::new();
        let mut pack = SamplePack::new(PackKind::Data);
        let bomb = if claimed == 5 { vec![0; 64 << 20] } else { vec![0; 10] };
        pack.raw_frame(zstd::bulk::compress(&bomb, 1).unwrap(), claimed);
        let extent = Extent { pack: Some(pack.id), offset: 0, length: 5 };
        let info = pack.store(sample.store);
        sample.packs.push(info);
        sample.file_at("a", &[0; 5], &[extent]);
        refuse("a frame whose claimed size lies", &mut sample);
    }

    let mut sample = SampleVault::new();
    let extent = sample.put(b"0123456789");
    sample.packs.clear();
    sample.file_at("a", b"0123456789", &[extent]);
    refuse("a pack that is not listed", &mut sample);

    let mut sample = SampleVault::new();
    let extent = sample.put(b"0123456789");
    sample.mapped("a", b"0123456789", &[extent]);
    sample.mapped("b", b"0123456789", &[Extent { length: 9, ..extent }]);
    refuse("a map that does not add up", &mut sample);

    let mut sample = SampleVault::new();
    sample.file("a", b"content").hash = Some(Hash::of(b"other content"));
    refuse("a file of another hash", &mut sample);
    let mut sample = SampleVault::new();
    sample.file("a", &noise(1000, 1)).hash = Some(Hash::of(b"other content"));
    refuse("a large file of another hash", &mut sample);

    let mut sample = SampleVault::new();
    let extent = sample.put(b"0123456789");
    sample.mapped("a", b"0123456789", &[extent]);
    sample.commit(SnapshotState::Complete);
    let before = sample.vault.snapshots().unwrap()[0];
    // The pack of the first snapshot's hunks, listed in the second one too, so that only its kind is wrong.
    sample.packs.extend(sample.vault.root(before).unwrap().holders().last().copied());
    let wrong = sample.hunks[0].frame;
    let map = sample.entries[1].map.as_mut().unwrap();
    map.form = MapForm::Blocks(List::Items(vec![MapFrame { frame: wrong, content: 10 }]));
    refuse("a map whose frame is a hunk", &mut sample);

    hostile_page_maps();

    // Depth: a root that is nothing but brackets, under the name that its bytes make.
    let sample = small();
    let bytes = [&b"{\"format\":1,\"labels\":"[..], &vec![b'['; 1 << 20]].concat();
    let name = SnapshotName::of(9, "2026-11-21T10:00:00Z".parse().unwrap(), &bytes);
    sample.store.create(&name.object("snapshots/"), &[&bytes]).unwrap();
    let said = restore(
        &sample.vault,
        &RestoreOptions { snapshot: name.id.to_string(), ..options(Path::new("/nowhere")) },
        &context(),
    );
    assert_eq!(said.unwrap_err().kind(), Kind::Damage);
}

fn hostile_page_maps() {
    let change = |what, change: &dyn Fn(&mut PageMap)| {
        let mut sample = SampleVault::new();
        match &mut sample.database("a").map.as_mut().unwrap().form {
            MapForm::Pages(map) => change(map),
            MapForm::Blocks(_) => panic!("a database without a page map"),
        }
        refuse(what, &mut sample);
    };
    let first = |map: &mut PageMap| match &map.layers[0] {
        List::Items(items) => items.clone(),
        List::Frames(_) => panic!("the first layer's frames are in place"),
    };
    change("a block in no layer", &|map| _ = map.layers.remove(0));
    change("a block whose pack is gone", &|map| _ = map.layers.remove(2));
    change("no last block", &|map| map.layers = vec![List::Items(first(map)[..3].to_vec())]);
    change("a last block that is too long", &|map| map.layers.truncate(1));
    change("blocks of another size", &|map| (map.block, map.live) = (2048, vec![]));
    change("frames out of order", &|map| {
        let mut items = first(map);
        items.swap(1, 2);
        map.layers[0] = List::Items(items);
    });
    change("a frame that claims more", &|map| {
        let mut items = first(map);
        items[0].content += 1;
        map.layers[0] = List::Items(items);
    });
    change("a frame in a pack that is no index pack", &|map| {
        let mut items = first(map);
        items[0].frame.pack = map.live[0].pack;
        map.layers[0] = List::Items(items);
    });
    change("a frame twice in a layer", &|map| {
        let items = first(map);
        map.layers[0] = List::Items([&items[..2], &items[1..]].concat());
    });

    let mut sample = SampleVault::new();
    let extent = sample.put(&noise(2048, 1));
    sample.mapped("a", &noise(2048, 1), &[extent]);
    let Some(Map { form: MapForm::Blocks(frames), packs }) = sample.entries[1].map.clone() else { panic!("no map") };
    let form = MapForm::Pages(PageMap { block: 1024, layers: vec![frames], live: vec![], credit: 0 });
    sample.entries[1].map = Some(Map { form, packs });
    refuse("a page map whose frame is of another map", &mut sample);

    let mut sample = SampleVault::new();
    let extent = sample.put(&noise(2048, 1));
    sample.paged("a", &noise(2048, 1), 1024, &[pages(Extent { offset: 5, ..extent }, 1024, 0..2)]);
    refuse("a page map with an extent out of range", &mut sample);
}

#[test]
fn a_link_group_of_two_contents_stays_two_files() {
    let mut sample = SampleVault::new();
    sample.file("a", b"first").link = Some("g".into());
    sample.file("b", b"second").link = Some("g".into());
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    restore(&sample.vault, &options(&target), &context()).unwrap();
    assert_eq!(look(&target), expected(&sample));
}

/// Entries that lead through a symlink, in every order, over hunks of any size: skipping damage follows none of them.
#[test]
fn what_skips_damage_leaves_the_target_no_more_than_what_does_not() {
    let parts = [("a", false), ("a", true), ("a/out", false), ("a/deep/out", false), ("z", false)];
    for order in 0..120usize {
        for hunk in [1, 3] {
            let (mut left, mut at, mut sample) = (parts.to_vec(), order, SampleVault::new());
            sample.hunk = hunk;
            while !left.is_empty() {
                let (path, is_folder) = left.remove(at % left.len());
                at /= left.len() + 1;
                match path {
                    "a" if is_folder => _ = sample.folder(path),
                    "a" => _ = sample.symlink(path, b"../../beside"),
                    _ => _ = sample.file(path, b"content"),
                }
            }
            sample.commit(SnapshotState::Complete);
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(folder.path().join("beside/deep")).unwrap();
            let target = folder.path().join("in/data");
            let chosen = RestoreOptions { skip_damaged: true, ..options(&target) };
            let report = restore_within(&sample.vault, &chosen, tiny(), &context()).unwrap();
            let beside: Vec<_> = look(&folder.path().join("beside")).into_keys().collect();
            assert_eq!(beside, [b"".to_vec(), b"deep".to_vec()], "{order}");
            // An entry below is restored if its folder is there, and reported if it is not.
            let told = |path: &str| report.not_restored.iter().any(|problem| problem.path.to_string() == path);
            for path in ["a/out", "a/deep/out", "z"] {
                assert_ne!(told(path), target.join(path).exists(), "{order} {hunk} {path}: {report:?}");
            }
        }
    }
}
