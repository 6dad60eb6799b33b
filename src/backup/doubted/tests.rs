//! Checks of parts of packs that show that something is wrong.

use super::*;
use crate::restore::sample::SamplePack;
use crate::restore::tests::noise;
use crate::store::Store;
use crate::store::testing::memory::MemoryStore;
use crate::vault::pack::PackKind;

#[test]
fn a_part_of_a_pack_shows_damage_in_its_frames_and_in_its_table() {
    let store = MemoryStore::default();
    let mut pack = SamplePack::new(PackKind::Data);
    (0..20).for_each(|n| _ = pack.frame(&noise(20_000, n)));
    let info = pack.store(&store);
    let right = store.get(&info.name(), info.size).unwrap();
    let part = |bytes: &[u8], at: usize, length: usize| check_part(&info, at as u64, &bytes[at..at + length]).unwrap();
    let size = right.len();
    let parts =
        [(0, size), (0, 100_000), (150_000, 100_000), (size - 100_000, 100_000), (150_000, 10), (size - 40, 40)];
    for (at, length) in parts {
        assert_eq!(part(&right, at, length), Ok(()), "{at} {length}");
    }
    for (spoiled, seen) in [
        (30_000, [true, true, false, false, false, false]),
        (200_000, [true, false, true, false, false, false]),
        (size - 30_000, [true, false, false, true, false, false]),
        (size - 5, [true, false, false, true, false, true]),
        (1, [true, true, false, false, false, false]),
    ] {
        let mut bytes = right.clone();
        bytes[spoiled] ^= 0x10;
        let found = parts.map(|(at, length)| part(&bytes, at, length).is_err());
        assert_eq!(found, seen, "{spoiled}");
    }
}
