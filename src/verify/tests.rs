//! Tests what verify finds, and that it invents nothing.

use super::*;
use crate::restore::sample::{SampleVault, context};
use crate::restore::tests::damages;
use crate::vault::entry::{Extent, MapForm};
use crate::vault::hex::Hash;
use crate::vault::list::List;
use crate::vault::root::SnapshotState;

fn all() -> VerifyOptions {
    VerifyOptions { read_data: Some(100.0), databases: None }
}

fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

/// Makes two snapshots that share most of their content; the second has one more file, and one more map.
fn two() -> (SampleVault, SnapshotName, SnapshotName) {
    let mut sample = SampleVault::new();
    sample.file("a", &noise(1000, 1));
    sample.file("b", &noise(50, 2));
    sample.database("d");
    let first = sample.commit(SnapshotState::Complete);
    let (one, two) = (sample.put(&noise(300, 3)), sample.put(&noise(300, 4)));
    let half = |extent: Extent, offset| Extent { offset, length: 150, ..extent };
    // Out of order, so that the hash needs a second reading.
    let parts = [half(two, 150), half(one, 0), Extent::zeros(70_000), half(two, 0), half(one, 150)];
    let (a, b) = (noise(300, 3), noise(300, 4));
    let content = [&b[150..], &a[..150], &[0; 70_000], &b[..150], &a[150..]].concat();
    sample.mapped("m", &content, &parts);
    let second = sample.commit(SnapshotState::Complete);
    (sample, first, second)
}

#[test]
fn a_whole_vault_has_no_damage() {
    let (sample, ..) = two();
    let report = verify(&sample.vault, &all(), &context()).unwrap();
    assert_eq!(report.damage, []);
    assert_eq!((report.snapshots, report.checkpoints, report.unused), (2, 0, 0));
    assert!(report.files_read >= 3, "{report:?}");
    let none = verify(&sample.vault, &VerifyOptions::default(), &context()).unwrap();
    assert_eq!(none.files_read, 0);
    sample.store.create(&format!("packs/{}.tar.zst", "0".repeat(32)), &[b"of a backup under way"]).unwrap();
    let report = verify(&sample.vault, &all(), &context()).unwrap();
    assert_eq!((report.unused, report.unused_bytes, report.damage), (1, 21, vec![]));
    let wrong = verify(&sample.vault, &VerifyOptions { read_data: Some(101.0), databases: None }, &context());
    assert_eq!(wrong.unwrap_err().kind(), Kind::Usage);
}

/// Records the parts of the work: their names, their sizes, and the bytes that were done of them.
#[derive(Default)]
struct Parts(std::sync::Mutex<Vec<(String, Option<u64>, u64)>>);

impl crate::monitor::Monitor for Parts {
    fn begin(&self, what: &str, bytes: Option<u64>) {
        self.0.lock().unwrap().push((what.to_owned(), bytes, 0));
    }
    fn advance(&self, bytes: u64) {
        self.0.lock().unwrap().last_mut().unwrap().2 += bytes;
    }
}

#[test]
fn objects_and_files_are_parts_of_the_work_of_their_own() {
    let (sample, ..) = two();
    for (options, names) in
        [(all(), &["verifying objects", "reading files"][..]), (VerifyOptions::default(), &["verifying objects"])]
    {
        let parts = Parts::default();
        verify(&sample.vault, &options, &Context { monitor: &parts, ..context() }).unwrap();
        let parts = parts.0.into_inner().unwrap();
        assert_eq!(parts.iter().map(|(what, ..)| what.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(parts[0].1, Some(parts[0].2), "{parts:?}");
        assert!(parts.iter().all(|(_, _, done)| *done > 0), "{parts:?}");
    }
}

#[test]
fn damage_is_named_with_the_snapshots_that_it_hurts() {
    for (how, damage) in damages() {
        for what in ["shared pack", "pack", "map", "index", "root", "vault.json"] {
            let (sample, first, second) = two();
            let (object, hurt) = match what {
                "shared pack" => (sample.packs[0].name(), vec![first, second]),
                "pack" => (sample.packs[7].name(), vec![second]),
                // The hunk that names it is sound.
                "map" => (sample.packs.last().unwrap().name(), vec![second]),
                "index" => (sample.index_pack(), vec![second]),
                // If the newest root is gone, nothing else tells; if an older one is gone, that is not damage.
                "root" if how == "delete" => continue,
                "root" => (second.object(SNAPSHOTS), vec![second]),
                _ => (CONFIG.to_owned(), vec![first, second]),
            };
            damage(&sample, &object);
            for options in [VerifyOptions::default(), all()] {
                let report = verify_store(Box::new(sample.store), &options, &context()).unwrap();
                let found: Vec<_> = report.damage.iter().map(|d| (d.object.clone(), d.snapshots.clone())).collect();
                assert_eq!(found, [(object.clone(), hurt.clone())], "{how} {what}: {:?}", report.damage);
            }
        }
    }
}

#[test]
fn snapshots_that_others_were_made_from_and_that_are_gone_are_gaps() {
    let (mut sample, first, second) = two();
    let third = sample.commit(SnapshotState::Complete);
    let verify = || verify(&sample.vault, &VerifyOptions::default(), &context()).unwrap();
    assert_eq!(verify().gaps, []);
    sample.store.objects().remove(&second.object(SNAPSHOTS)).unwrap();
    let (report, parent) = (verify(), sample.vault.root(third).unwrap().parent);
    assert_eq!((report.gaps, report.damage, parent), (vec![second], vec![], Some(second)));
    sample.store.objects().remove(&first.object(SNAPSHOTS)).unwrap();
    assert_eq!(verify().gaps, [second]);
}

#[test]
fn content_that_is_not_what_its_hash_says_is_found_by_reading_it() {
    let mut sample = SampleVault::new();
    sample.file("a", b"content").hash = Some(Hash::of(b"other"));
    let name = sample.commit(SnapshotState::Complete);
    assert_eq!(verify(&sample.vault, &VerifyOptions::default(), &context()).unwrap().damage, []);
    let report = verify(&sample.vault, &all(), &context()).unwrap();
    assert_eq!(report.damage.len(), 1);
    assert!(report.damage[0].why.contains("hash") && report.damage[0].snapshots == [name], "{report:?}");
}

#[test]
fn references_to_what_is_not_listed_or_not_there_are_damage() {
    let mut sample = SampleVault::new();
    let extent = sample.put(b"0123456789");
    let pack = sample.packs.pop();
    sample.file_at("a", b"0123456789", &[extent]);
    sample.commit(SnapshotState::Complete);
    let report = verify(&sample.vault, &VerifyOptions::default(), &context()).unwrap();
    assert!(report.damage[0].why.contains("does not list"), "{report:?}");

    // The same is found through a page map whose entry names one pack less.
    for lost in 0..5 {
        let mut sample = SampleVault::new();
        let map = sample.database("d").map.as_mut().unwrap();
        map.packs.swap(0, lost);
        let stray = map.packs.remove(0);
        if let MapForm::Pages(pages) = &mut map.form {
            pages.live.retain(|used| used.pack != stray);
        }
        sample.commit(SnapshotState::Complete);
        let report = verify(&sample.vault, &VerifyOptions::default(), &context()).unwrap();
        let why = format!("it names the pack {stray}, which its entry does not");
        // A layer that is hidden is read like the others.
        assert!(report.damage.iter().any(|d| d.why.contains(&why)), "{lost}: {report:?}");
    }

    sample.packs.extend(pack);
    sample.file_at("b", b"0123456789", &[Extent { offset: 5, ..extent }]);
    sample.commit(SnapshotState::Complete);
    let report = verify(&sample.vault, &VerifyOptions::default(), &context()).unwrap();
    assert!(report.damage.iter().any(|d| d.why.contains("does not hold")), "{report:?}");
}

#[test]
fn what_one_root_says_wrongly_is_its_own_damage() {
    type Lie = fn(&SampleVault, &mut Root);
    let lies: [(&str, Lie); 4] = [
        ("a count", |_, root| {
            let List::Items(hunks) = &mut root.hunks else { panic!() };
            hunks[0].entries += 1;
        }),
        ("what is stale", |sample, root| {
            let frame = sample.hunks[0].frame;
            root.stale = List::Frames(vec![FrameRef { hash: Hash::of(b"other"), ..frame }]);
        }),
        ("what is torn", |sample, root| root.torn = List::Frames(vec![sample.hunks[0].frame])),
        ("a list of one part", |sample, root| root.problems = List::Frames(vec![sample.hunks[0].frame; 2])),
    ];
    for (what, lie) in lies {
        let mut sample = SampleVault::new();
        sample.file("a", &noise(1000, 1));
        let honest = sample.commit(SnapshotState::Complete);
        let mut root = sample.vault.root(honest).unwrap();
        lie(&sample, &mut root);
        root.seq += 1;
        let (liar, bytes) = root.encode().unwrap();
        sample.store.create(&liar.object(SNAPSHOTS), &[&bytes]).unwrap();
        let report = verify(&sample.vault, &all(), &context()).unwrap();
        assert!(!report.damage.is_empty(), "{what}");
        for damage in &report.damage {
            assert_eq!(
                (&damage.snapshots, &damage.object),
                (&vec![liar], &liar.object(SNAPSHOTS)),
                "{what}: {damage:?}"
            );
        }
    }
}

#[test]
fn snapshots_must_agree_on_a_pack() {
    // Whichever root comes first, the pack shows which of them is right.
    for seq in [0, 9] {
        let (sample, _, second) = two();
        let mut root = sample.vault.root(second).unwrap();
        let List::Items(packs) = &mut root.packs.list else { panic!() };
        packs[0].crc32c ^= 1;
        root.seq = seq;
        let (liar, bytes) = root.encode().unwrap();
        sample.store.create(&liar.object(SNAPSHOTS), &[&bytes]).unwrap();
        let report = verify(&sample.vault, &all(), &context()).unwrap();
        let found: Vec<_> = report.damage.iter().map(|damage| (&damage.object, &damage.snapshots[..])).collect();
        assert_eq!(found, [(&liar.object(SNAPSHOTS), &[liar][..])], "{seq}: {:?}", report.damage);
        assert_eq!(report.doubts, []);
    }
}
