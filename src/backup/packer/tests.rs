use super::*;
use crate::monitor::{SilentMonitor, system_random};
use crate::store::Direct;
use crate::store::testing::fault::FaultStore;
use crate::store::testing::memory::MemoryStore;
use crate::vault::decoder::Decoder;
use crate::vault::frame::FrameRef;
use crate::vault::read::PackReader;

fn context<T>(work: impl FnOnce(&Context) -> T) -> T {
    let stop = AtomicBool::new(false);
    work(&Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor })
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
fn many_uploads_take_no_more_memory_than_two() {
    assert_eq!([1, 2].map(uploads), [(1, 16 << 20), (2, 16 << 20)]);
    assert_eq!([3, 64].map(uploads), [(3, 12 << 20), (11, 4 << 20)]);
    for parallel in 1..=64 {
        let (count, size) = uploads(parallel);
        assert!((count as u64 + 1) * size <= PACKS_SIZE && (parallel > 11 || count == parallel), "{parallel}");
    }
}

#[test]
fn what_is_appended_is_read_back_and_packs_keep_their_size() {
    let store = MemoryStore::default();
    let pieces: Vec<Vec<u8>> = (0..220).map(|n| noise(n, 150_000 + n as usize * 1000)).collect();
    let (extents, infos) = context(|ctx| {
        with_packer(&Direct(&store), 1, ctx, |packer| {
            let mut data = PackWriter::new(packer, PackKind::Data);
            let mut extents = Vec::new();
            for piece in &pieces {
                extents.push(data.append(&[&piece[..10], &piece[10..]])?);
            }
            data.flush()?;
            Ok((extents, packer.drain()?))
        })
    })
    .unwrap();
    assert!(infos.len() >= 3, "{}", infos.len());
    for info in &infos {
        assert!(info.size <= 32 << 20, "a pack of {} bytes", info.size);
        let object = store.get(&info.name(), u64::MAX).unwrap();
        assert_eq!((object.len() as u64, crc32c::crc32c(&object)), (info.size, info.crc32c));
    }
    let reader = PackReader::new(&store, infos.iter().map(|i| (i.id, *i)).collect());
    let mut decoder = Decoder::new().unwrap();
    for (piece, extent) in pieces.iter().zip(&extents) {
        assert!(reader.extent(extent, 1 << 20, &mut decoder).unwrap() == *piece);
    }
}

#[test]
fn index_frames_are_frames() {
    let store = MemoryStore::default();
    let contents: Vec<Vec<u8>> = (1..50).map(|n| noise(n, n as usize * 17)).collect();
    let (refs, infos) = context(|ctx| {
        with_packer(&Direct(&store), 3, ctx, |packer| {
            let mut index = PackWriter::new(packer, PackKind::Index);
            let refs = contents.iter().map(|c| index.frame(c)).collect::<Result<Vec<_>>>()?;
            index.flush()?;
            Ok((refs, packer.drain()?))
        })
    })
    .unwrap();
    let reader = PackReader::new(&store, infos.iter().map(|i| (i.id, *i)).collect());
    let mut decoder = Decoder::new().unwrap();
    for (content, frame) in contents.iter().zip(&refs) {
        assert_eq!(reader.index_frame(frame, &mut decoder).unwrap(), *content);
    }
    let too_much = vec![0; MAX_FRAME + 1];
    let refused = context(|ctx| {
        with_packer(&Direct(&store), 3, ctx, |packer| PackWriter::new(packer, PackKind::Index).frame(&too_much))
    });
    assert!(refused.unwrap_err().to_string().contains("4194305"));
    let wrong = FrameRef { hash: refs[1].hash, ..refs[0] };
    assert_eq!(reader.index_frame(&wrong, &mut decoder).unwrap_err().kind(), crate::error::Kind::Damage);
}

#[test]
fn a_compressing_thread_that_panics_ends_the_work() {
    let store = MemoryStore::default();
    // A frame that has no place in its pack makes its thread panic: one of the two threads, or both, so that none
    // is left.
    for broken in [1, 2] {
        let said = context(|ctx| {
            with_packer(&Direct(&store), 1, ctx, |packer| {
                let mut data = PackWriter::new(packer, PackKind::Data);
                data.append(&[&noise(1, 500_000)])?;
                for _ in 0..broken {
                    let job = CompressJob { pack: packer.open(PackKind::Data)?, place: 7, content: vec![1] };
                    // Fails if no thread is left.
                    let _ = packer.jobs.send(job);
                }
                data.flush()?;
                packer.drain()
            })
        });
        let said = said.unwrap_err().to_string();
        assert!(said.contains("panic") || said.contains("ended early"), "{said}");
    }
}

#[test]
fn a_store_that_fails_ends_the_work() {
    let store = FaultStore::new(MemoryStore::default(), |verb, name| verb == "create" && name.starts_with("packs/"));
    let said = context(|ctx| {
        with_packer(&Direct(&store), 1, ctx, |packer| {
            let mut data = PackWriter::new(packer, PackKind::Data);
            for n in 0..400 {
                data.append(&[&noise(n, 500_000)])?;
            }
            data.flush()?;
            packer.drain()
        })
    })
    .unwrap_err()
    .to_string();
    assert!(said.contains("injected fault"), "{said}");
}
