//! How many requests reading takes, near and far, and what happens to bytes that flip on their way.

use std::time::Duration;

use super::*;
use crate::error::Kind;
use crate::restore::sample::PackWriter;
use crate::restore::tests::noise;
use crate::store::far::FarStore;
use crate::store::flip::FlipStore;
use crate::store::memory::MemoryStore;
use crate::store::record::RecordStore;

fn far(store: &MemoryStore) -> FarStore<&MemoryStore> {
    FarStore::new(store, Duration::ZERO)
}

fn reader<'s>(store: &'s dyn Store, packs: &[PackInfo]) -> PackReader<'s> {
    PackReader::new(store, packs.iter().map(|info| (info.id, *info)).collect())
}

/// A pack of so many frames of noise, and where they are.
fn pack(store: &MemoryStore, kind: PackKind, frames: usize, length: usize) -> (PackInfo, Vec<(FrameRef, Vec<u8>)>) {
    let mut pack = PackWriter::new(kind);
    let contents: Vec<Vec<u8>> = (0..frames).map(|n| noise(length, n as u64)).collect();
    let refs = contents.into_iter().map(|content| {
        let (offset, hash) = (pack.frame(&content), Hash::of(&content));
        (FrameRef { pack: pack.id, offset, length: length as u64, hash }, content)
    });
    let refs = refs.collect();
    (pack.store(store), refs)
}

fn read_all(reader: &PackReader, frames: &[(FrameRef, Vec<u8>)]) {
    let mut decoder = Decoder::new().unwrap();
    for (frame, content) in frames {
        assert!(reader.index_frame(frame, &mut decoder).unwrap() == *content);
    }
}

#[test]
fn index_frames_cost_a_request_for_a_mebibyte() {
    let store = MemoryStore::default();
    // 5 MB, of which the last MiB comes with the table.
    let (info, frames) = pack(&store, PackKind::Index, 100, 50_000);
    let far = far(&store);
    read_all(&reader(&far, &[info]), &frames);
    assert_eq!(far.take().0, 5);
    let some = &frames[30..55];
    read_all(&reader(&far, &[info]), some);
    assert_eq!(far.take().0, 3);
    // Two who read at the same time, and again: it is kept.
    let shared = reader(&far, &[info]);
    let other = shared.with([]);
    std::thread::scope(|scope| {
        scope.spawn(|| read_all(&shared, &frames));
        scope.spawn(|| read_all(&other, &frames));
    });
    read_all(&other, &frames);
    assert_eq!(far.take().0, 5);

    let (small, few) = pack(&store, PackKind::Index, 10, 10_000);
    read_all(&reader(&far, &[small]), &few);
    assert_eq!(far.take().0, 1);
    // Near by, each frame is read alone.
    let near = RecordStore::new(&store);
    read_all(&reader(&near, &[info]), some);
    let sizes: Vec<u64> = near.take().iter().map(|call| call.amount).collect();
    assert!(sizes.len() == 26 && sizes.iter().all(|size| *size < 51_000), "{sizes:?}");
}

#[test]
fn a_small_pack_comes_whole_and_a_large_one_in_one_piece() {
    let store = MemoryStore::default();
    let (small, few) = pack(&store, PackKind::Data, 9, 100_000);
    let (large, many) = pack(&store, PackKind::Data, 20, 100_000);
    let far = far(&store);
    let reader = reader(&far, &[small, large]);
    let mut decoder = Decoder::new().unwrap();
    let extent = |pack: PackInfo, offset, length| Extent { pack: Some(pack.id), offset, length };
    for (n, (frame, content)) in few.iter().enumerate() {
        assert!(reader.extent(&extent(small, frame.offset, 100_000), 100_000, &mut decoder).unwrap() == *content);
        assert_eq!(far.take().0, u64::from(n == 0));
    }
    let all = many.iter().flat_map(|(_, content)| content.iter().copied()).collect::<Vec<u8>>();
    let read = reader.extent(&extent(large, 50_000, 1_900_000), 2_000_000, &mut decoder).unwrap();
    assert!(read == all[50_000..1_950_000]);
    // The table, and all of its frames.
    assert_eq!(far.take().0, 2);
    let refused = reader.extent(&extent(large, 0, 2_000_001), 3_000_000, &mut decoder).unwrap_err();
    assert_eq!(refused.kind(), Kind::Damage);
}

#[test]
fn one_thread_reads_a_table_for_all_and_others_are_read_meanwhile() {
    let store = MemoryStore::default();
    let infos: Vec<PackInfo> = (0..4).map(|_| pack(&store, PackKind::Data, 3, 1000).0).collect();
    let far = far(&store).meeting("packs/", infos.len());
    let reader = reader(&far, &infos);
    std::thread::scope(|scope| {
        for info in infos.iter().cycle().take(16) {
            let reader = &reader;
            scope.spawn(move || assert_eq!(reader.table(info.id, PackKind::Data).unwrap().frames().len(), 3));
        }
    });
    assert_eq!(far.take(), (4, 4));
}

#[test]
fn bytes_that_flip_on_their_way_are_read_once_more() {
    let store = MemoryStore::default();
    let (index, frames) = pack(&store, PackKind::Index, 10, 30_000);
    let (data, contents) = pack(&store, PackKind::Data, 10, 30_000);
    let all: Vec<u8> = contents.iter().flat_map(|(_, content)| content.iter().copied()).collect();
    let extent = Extent { pack: Some(data.id), offset: 0, length: all.len() as u64 };
    // In the table; in the last frame, which is read along, or in the second answer.
    for (at, times, worth, right) in [
        (0, 1, 1 << 20, true),
        (0, 1, 1 << 10, true),
        (0, 2, 1 << 10, false),
        (2000, 1, 1 << 20, true),
        (2000, 2, 1 << 20, false),
        (2000, 2, 1 << 10, true),
        (2000, 3, 1 << 10, false),
    ] {
        let flipping = FlipStore::new(&store, at, times, worth);
        let reader = reader(&flipping, &[index, data]);
        let mut decoder = Decoder::new().unwrap();
        let index = frames.iter().rev().try_for_each(|(frame, content)| {
            assert!(reader.index_frame(frame, &mut decoder)? == *content);
            Ok::<_, Error>(())
        });
        let data = reader.extent(&extent, 1 << 20, &mut decoder).map(|read| assert!(read == all));
        for read in [index, data] {
            match read {
                Ok(()) => assert!(right, "{at} {times}"),
                Err(why) => assert!(!right && why.kind() == Kind::Damage, "{at} {times}: {why}"),
            }
        }
    }
}
