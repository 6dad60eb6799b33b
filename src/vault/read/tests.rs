//! Tests how many requests reading takes, far and near, and what happens to bytes that flip on their way and to packs
//! whose seek table is damaged.

use std::time::Duration;

use super::*;
use crate::error::Kind;
use crate::restore::sample::SamplePack;
use crate::restore::tests::noise;
use crate::store::testing::bitflip::BitflipStore;
use crate::store::testing::latency::LatencyStore;
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::recording::RecordingStore;
use crate::vault::frame::FrameRef;
use crate::vault::hex::Hash;

fn far(store: &MemoryStore) -> LatencyStore<&MemoryStore> {
    LatencyStore::new(store, Duration::ZERO)
}

fn reader<'s>(store: &'s dyn Store, packs: &[PackInfo]) -> PackReader<'s> {
    PackReader::new(store, packs.iter().map(|info| (info.id, *info)).collect())
}

/// Makes a pack of `frames` frames of noise, and returns it with where they are.
fn pack(store: &MemoryStore, kind: PackKind, frames: usize, length: usize) -> (PackInfo, Vec<(FrameRef, Vec<u8>)>) {
    let mut pack = SamplePack::new(kind);
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
    // The pack has 5 MB, of which the last MiB comes with the table.
    let (info, frames) = pack(&store, PackKind::Index, 100, 50_000);
    let far = far(&store);
    read_all(&reader(&far, &[info]), &frames);
    assert_eq!(far.take().0, 5);
    let some = &frames[30..55];
    read_all(&reader(&far, &[info]), some);
    assert_eq!(far.take().0, 3);
    // Two readers that read at the same time, and one of them again: what was read is cached.
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
    // Near by, each frame is read on its own.
    let near = RecordingStore::new(&store);
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
    // One request for the table, and one for all of its frames.
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
    // The bit flips in the table; in the last frame, which is read along; or in the second answer.
    for (at, times, worth, right) in [
        (0, 1, 1 << 20, true),
        (0, 1, 1 << 10, true),
        // The frames are found without the table.
        (0, 2, 1 << 10, true),
        (2000, 1, 1 << 20, true),
        (2000, 2, 1 << 20, false),
        (2000, 2, 1 << 10, true),
        (2000, 3, 1 << 10, false),
    ] {
        let flipping = BitflipStore::new(&store, at, times, worth);
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

/// Damage to the end of a pack, from `table` on, that removes no frame.
pub type TableHarm = fn(pack: &mut Vec<u8>, table: usize);

/// Every way in which a table can be wrong, except for tables that add up. `true`: the object keeps its size, and zstd
/// still takes all of it for frames.
pub fn table_harms() -> [(&'static str, bool, TableHarm); 9] {
    [
        ("a flipped compressed length", true, |pack, table| pack[table + 8] ^= 0x10),
        ("a flipped length of content", true, |pack, table| pack[table + 12] ^= 1),
        ("a flipped count", true, |pack, _| *pack.iter_mut().rev().nth(8).unwrap() ^= 1),
        ("a flipped last byte", true, |pack, _| *pack.last_mut().unwrap() ^= 0xff),
        ("lengths of zero", true, |pack, table| {
            let end = pack.len() - 9;
            pack[table + 8..end].fill(0);
        }),
        ("a flipped first byte", false, |pack, table| pack[table] ^= 0xff),
        ("zeros", false, |pack, table| pack[table..].fill(0)),
        ("cut short", false, |pack, _| pack.truncate(pack.len() - 5)),
        ("cut off", false, |pack, table| pack.truncate(table)),
    ]
}

/// Tables that add up, but lead to other frames.
fn table_lies() -> [(&'static str, TableHarm); 3] {
    fn shift(pack: &mut [u8], at: usize) {
        pack[at] += 1;
        pack[at + 8] -= 1;
    }
    [
        ("two frames changed places", |pack, table| {
            let (first, second) = pack[table + 8..table + 24].split_at_mut(8);
            first.swap_with_slice(second);
        }),
        ("content counted with the frame before", |pack, table| shift(pack, table + 12)),
        ("bytes counted with the frame before", |pack, table| shift(pack, table + 8)),
    ]
}

/// Makes a pack of frames of different lengths, one of which does not say its own.
fn uneven(store: &MemoryStore, kind: PackKind) -> (PackInfo, Vec<(FrameRef, Vec<u8>)>, usize) {
    let mut pack = SamplePack::new(kind);
    let mut refs = Vec::new();
    for (n, length) in [600usize, 700, 20, 3000, 1, 900].into_iter().enumerate() {
        let content = noise(length, n as u64);
        let offset = match n {
            3 => pack.raw_frame(zstd::encode_all(&content[..], 1).unwrap(), length as u32),
            _ => pack.frame(&content),
        };
        refs.push((FrameRef { pack: pack.id, offset, length: length as u64, hash: Hash::of(&content) }, content));
    }
    let table = pack::table_length(refs.len()) as usize;
    let info = pack.store(store);
    (info, refs, info.size as usize - table)
}

#[test]
fn a_damaged_seek_table_costs_no_content() {
    let harms = table_harms().map(|(how, _, harm)| (how, harm));
    for (how, harm) in harms.into_iter().chain(table_lies()) {
        for worth in [1 << 10, 1 << 20] {
            let store = MemoryStore::default();
            let (index, frames, index_table) = uneven(&store, PackKind::Index);
            let (data, contents, data_table) = uneven(&store, PackKind::Data);
            let all: Vec<u8> = contents.into_iter().flat_map(|(_, content)| content).collect();
            harm(store.objects().get_mut(&index.name()).unwrap(), index_table);
            harm(store.objects().get_mut(&data.name()).unwrap(), data_table);
            let store = BitflipStore::new(&store, 0, 0, worth);
            let reader = reader(&store, &[index, data]);
            assert_eq!(reader.mended().len(), 0);
            read_all(&reader, &frames);
            let mut decoder = Decoder::new().unwrap();
            for (from, to) in [(0, all.len()), (599, 602), (1300, 1321), (650, 4000)] {
                let extent = Extent { pack: Some(data.id), offset: from as u64, length: (to - from) as u64 };
                assert!(reader.extent(&extent, 1 << 20, &mut decoder).unwrap() == all[from..to], "{how} {from}");
            }
            let told: Vec<_> = reader.mended().into_iter().collect();
            let named = |n: usize, info: &PackInfo| told[n].0 == info.name() && told[n].1.contains(&info.name());
            assert!(told.len() == 2 && named(0, &index) && named(1, &data), "{how}: {told:?}");

            let strict = self::reader(&store, &[index, data]).strict();
            let refused = frames.iter().find_map(|(frame, _)| strict.with([]).index_frame(frame, &mut decoder).err());
            assert_eq!(refused.unwrap().kind(), Kind::Damage, "{how}");
            assert_eq!(strict.mended().len(), 0);
        }
    }
}

#[test]
fn frames_are_found_in_steps_and_each_pack_is_gone_through_once() {
    let store = MemoryStore::default();
    let (info, _) = pack(&store, PackKind::Data, 6, 3 << 20);
    let whole = store.objects()[&info.name()].clone();
    let recorded = RecordingStore::new(&store);
    let find = |info: &PackInfo| frames::find(info, |at, length| recorded.get_range(&info.name(), at, length)).unwrap();
    let Ok(Tail::Table(stored)) = SeekTable::parse(&whole, info.size) else { panic!("no table") };
    assert_eq!(find(&info).unwrap(), stored);
    let sizes: Vec<u64> = recorded.take().iter().map(|call| call.amount).collect();
    assert!(sizes.iter().all(|size| *size <= 4 << 20) && sizes.iter().sum::<u64>() == info.size, "{sizes:?}");
    assert!(find(&PackInfo { content: info.content - 1, ..info }).is_err());
    assert!(find(&PackInfo { content: info.content + 1, ..info }).is_err());

    // A frame is damaged as well as the table: the pack is lost, which is found out once, with two of the five reads of
    // the walk.
    recorded.take();
    store.objects().get_mut(&info.name()).unwrap()[5] ^= 0xff;
    store.objects().get_mut(&info.name()).unwrap().truncate(info.size as usize - 1);
    let reader = reader(&recorded, &[info]);
    for _ in 0..3 {
        assert_eq!(reader.table(info.id, PackKind::Data).unwrap_err().kind(), Kind::Damage);
    }
    assert_eq!(recorded.take().len(), 3 + 2);
}

/// With any byte changed, with all cut lengths, and with noise: either the table that was stored is found, or nothing.
#[test]
fn no_bytes_give_frames_that_were_not_stored() {
    let store = MemoryStore::default();
    let (info, ..) = uneven(&store, PackKind::Data);
    let whole = store.objects()[&info.name()].clone();
    let Ok(Tail::Table(stored)) = SeekTable::parse(&whole, info.size) else { panic!("no table") };
    let find = |bytes: &[u8], info: &PackInfo| {
        let store = MemoryStore::default();
        store.create("p", &[bytes]).unwrap();
        frames::find(info, |at, length| store.get_range("p", at, length)).unwrap()
    };
    for at in 0..whole.len() {
        for bits in [1, 0x40, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= bits;
            assert!(find(&bytes, &info).is_ok_and(|found| found == stored) || at < whole.len() - 57, "{at}");
            assert!(find(&bytes, &info).is_err() || find(&bytes, &info).unwrap() == stored, "{at} {bits}");
        }
        let cut = find(&whole[..at], &info);
        assert!(if at >= whole.len() - 65 { cut.unwrap() == stored } else { cut.is_err() }, "{at}");
    }
    for seed in 0..200 {
        let bytes = [&whole[..seed as usize], &noise(3000, seed)].concat();
        let info = PackInfo { size: bytes.len() as u64, content: u64::MAX, ..info };
        assert!(find(&bytes, &info).is_err());
    }
    let magic = 0xFD2F_B528_u32.to_le_bytes();
    for size in [0, 17, 18, pack::MAX_PACK, u64::MAX] {
        assert!(find(&magic, &PackInfo { size, content: 1, ..info }).is_err(), "{size}");
    }
}
