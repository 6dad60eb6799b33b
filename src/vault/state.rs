//! The state of a pack in a vault: one notion for everything that asks about packs.
//!
//! A listing tells whether a pack is there with the size that it was stored with; only reading the whole pack tells
//! whether its bytes are the ones that were stored.

use std::collections::HashMap;
use std::fmt;

use super::decoder::Decoder;
use super::frames;
use super::pack::{MAX_PACK, PackInfo, SeekTable, Tail};
use super::root::PackBook;
use crate::error::Result;
use crate::store::{self, Store};

/// The state of a pack in one vault. Another replica's pack of the same name has its own state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackState {
    /// The pack is there with the right size. Nothing is known against its bytes.
    Present,
    /// There is no object of the pack's name.
    Absent,
    /// No listing shows the pack although its bytes can still be read: it was let go, and the store will delete it. For
    /// a writer that would name it, it counts as absent.
    Released,
    /// The pack is there and is not what was stored: it has another size, or it was read whole and its bytes are wrong.
    Damaged(String),
    /// The pack is there, and no snapshot and no checkpoint names it.
    Orphan,
}

impl fmt::Display for PackState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PackState::Present => "it is there",
            PackState::Absent => "it is missing",
            PackState::Released => "it is released: it was let go, and the store will delete it",
            PackState::Damaged(why) => why,
            PackState::Orphan => "no snapshot and no checkpoint names it",
        })
    }
}

impl PackState {
    /// Returns the state of a pack by the `sizes` of the objects that a store listed, in bytes: present, absent, or
    /// damaged if it has another size.
    pub fn listed(pack: &PackInfo, sizes: &HashMap<String, u64>) -> Self {
        match sizes.get(&pack.name()) {
            None => PackState::Absent,
            Some(size) if *size != pack.size => {
                PackState::Damaged(format!("it has {size} bytes, and {} were stored", pack.size))
            }
            Some(_) => PackState::Present,
        }
    }

    /// Returns the state of the object `name` of `size` bytes that a store listed; `book` has the packs that roots
    /// name.
    pub fn of_object(name: &str, size: u64, book: &PackBook) -> Self {
        let id = name.split_once('/').and_then(|(_, last)| last.split('.').next()?.parse().ok());
        match id.and_then(|id| book.get(&id)).filter(|pack| pack.name() == name) {
            None => PackState::Orphan,
            Some(pack) => Self::listed(pack, &HashMap::from([(name.to_owned(), size)])),
        }
    }

    /// Tells a pack that is gone from one that is released: neither is in a listing. Costs a request for a pack that is
    /// one of them.
    pub fn explained(self, store: &dyn Store, pack: &PackInfo) -> Self {
        match self {
            PackState::Absent if store.get_range(&pack.name(), 0, 1).is_ok() => PackState::Released,
            state => state,
        }
    }
}

/// The result of reading a whole pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// Present, absent or damaged.
    pub state: PackState,
    /// Whether all of its content can be read. That is possible even if the pack is damaged: if only its seek table is.
    pub readable: bool,
}

impl Tested {
    /// Whether the pack is what was stored.
    pub fn is_sound(&self) -> bool {
        self.state == PackState::Present
    }
}

/// Reads the whole pack and checks its size, its CRC32C, and that every frame decompresses. If something is wrong, the
/// pack is read once more from the medium itself, bypassing what the machine caches in memory; it is damaged only if it
/// is wrong twice. A medium that cannot read it, or a store that refuses it, counts as damage too.
///
/// # Errors
/// The store cannot be reached, this process lacks descriptors or memory, or it may not read the pack; no memory for
/// zstd.
pub fn test(store: &dyn Store, pack: &PackInfo) -> Result<Tested> {
    let first = test_once(store, pack)?;
    if first.is_sound() {
        return Ok(first);
    }
    tracing::info!("{} is read once more: {}", pack.name(), first.state);
    store.forget(&pack.name());
    test_once(store, pack)
}

fn test_once(store: &dyn Store, pack: &PackInfo) -> Result<Tested> {
    let name = pack.name();
    let damaged = |why: String| Ok(Tested { state: PackState::Damaged(why), readable: false });
    if pack.size > MAX_PACK {
        return damaged(format!("it would have {} bytes, more than a pack may have", pack.size));
    }
    let bytes = match store.get(&name, pack.size) {
        Ok(bytes) => bytes,
        Err(store::StoreError::NotFound { .. }) => {
            return Ok(Tested { state: PackState::Absent, readable: false });
        }
        Err(store::StoreError::OutOfRange { size, .. }) => {
            return damaged(format!("it has {size} bytes, and {} were stored", pack.size));
        }
        // That this process has no descriptors or memory left says nothing about the pack.
        Err(why @ store::StoreError::Failed { .. }) if why.is_shortage() => {
            return Err(why.while_doing(format!("read {name}")));
        }
        // A pack that somebody else owns is as sound as it was.
        Err(why @ store::StoreError::Denied { .. }) => return Err(why.while_doing(format!("read {name}"))),
        // This includes an object that is not a file any more: nobody can build on that.
        Err(
            why @ (store::StoreError::Corrupt { .. }
            | store::StoreError::Unreadable { .. }
            | store::StoreError::Failed { .. }
            | store::StoreError::Refused { .. }),
        ) => {
            return damaged(format!("it cannot be read: {why}"));
        }
        Err(why) => return Err(why.while_doing(format!("read {name}"))),
    };
    if bytes.len() as u64 != pack.size {
        return damaged(format!("it has {} bytes, and {} were stored", bytes.len(), pack.size));
    }
    let decoded = decode(pack, &bytes)?;
    if crc32c::crc32c(&bytes) != pack.crc32c {
        let state = PackState::Damaged("its bytes are not those that were stored (CRC32C)".into());
        return Ok(Tested { state, readable: decoded.is_ok() });
    }
    match decoded {
        Ok(()) => Ok(Tested { state: PackState::Present, readable: true }),
        Err(why) => damaged(why),
    }
}

/// Decompresses every frame of a pack; the inner error says what is wrong. A damaged seek table is not needed for this.
fn decode(pack: &PackInfo, bytes: &[u8]) -> Result<Result<(), String>> {
    let table = match SeekTable::parse(bytes, pack.size) {
        Ok(Tail::Table(table)) if table.content() == pack.content => table,
        _ => {
            let part = |at: u64, length: u64| {
                let part = bytes.get(at as usize..at.saturating_add(length) as usize).map(<[u8]>::to_vec);
                part.ok_or(store::StoreError::OutOfRange { name: pack.name(), size: pack.size, wanted: at + length })
            };
            match frames::find(pack, part)? {
                Ok(table) => table,
                Err(why) => return Ok(Err(why)),
            }
        }
    };
    let (mut decoder, mut content) = (Decoder::new()?, Vec::new());
    let mut all = table.frames().iter();
    Ok(all.try_for_each(|frame| {
        decoder
            .frame(frame.within(bytes, 0), frame.length, &mut content)
            .map_err(|why| format!("{why} at {}", frame.at))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::sample::SamplePack;
    use crate::restore::tests::noise;
    use crate::store::testing::bitflip::BitflipStore;
    use crate::store::testing::fault::FaultStore;
    use crate::store::testing::memory::MemoryStore;
    use crate::vault::pack::PackKind;

    fn pack(store: &MemoryStore) -> PackInfo {
        let mut pack = SamplePack::new(PackKind::Data);
        pack.frame(&noise(3000, 1));
        pack.frame(&noise(500, 2));
        pack.store(store)
    }

    fn spoiled(how: impl Fn(&mut Vec<u8>)) -> Tested {
        let store = MemoryStore::default();
        let info = pack(&store);
        how(store.objects().get_mut(&info.name()).unwrap());
        test(&store, &info).unwrap()
    }

    #[test]
    fn a_pack_is_sound_or_it_is_told_what_is_wrong() {
        assert_eq!(spoiled(|_| {}), Tested { state: PackState::Present, readable: true });
        for (how, harm, readable) in [
            ("a frame", (|bytes| bytes[100] ^= 1) as fn(&mut Vec<u8>), false),
            ("the table", |bytes| *bytes.last_mut().unwrap() ^= 1, true),
            ("cut short", |bytes| _ = bytes.pop(), false),
            ("longer", |bytes| bytes.push(0), false),
        ] {
            let tested = spoiled(harm);
            assert!(matches!(tested.state, PackState::Damaged(_)), "{how}: {tested:?}");
            assert_eq!(tested.readable, readable, "{how}: {tested:?}");
        }
        let store = MemoryStore::default();
        let info = pack(&store);
        store.objects().clear();
        assert_eq!(test(&store, &info).unwrap().state, PackState::Absent);
        // Frames that were broken before their checksum was made.
        let mut broken = SamplePack::new(PackKind::Data);
        broken.raw_frame(b"no zstd frame".to_vec(), 10);
        let info = broken.store(&store);
        assert!(matches!(test(&store, &info).unwrap().state, PackState::Damaged(_)));
    }

    #[test]
    fn a_test_that_was_stopped_says_nothing_about_the_pack() {
        let memory = MemoryStore::default();
        let info = pack(&memory);
        let store = FaultStore::new(memory, |verb, _| verb == "get").stopped();
        assert_eq!(test(&store, &info).unwrap_err().word(), "stopped");
    }

    #[test]
    fn only_what_is_wrong_twice_is_damaged() {
        struct Once(BitflipStore<MemoryStore>);
        impl Store for Once {
            fn get(&self, name: &str, limit: u64) -> store::Result<Vec<u8>> {
                self.0.get_range(name, 0, limit)
            }

            store::pass_on! {
                self.0;
                fn url(&self) -> String;
                fn create(&self, name: &str, body: &[&[u8]]) -> store::Result<()>;
                fn get_range(&self, name: &str, offset: u64, length: u64) -> store::Result<Vec<u8>>;
                fn list(&self, folder: &str) -> store::Result<Vec<store::Meta>>;
            }
        }
        for (times, sound) in [(1, true), (2, false)] {
            let memory = MemoryStore::default();
            let info = pack(&memory);
            let store = Once(BitflipStore::new(memory, 600, times, 1));
            assert_eq!(test(&store, &info).unwrap().is_sound(), sound, "{times}");
        }
    }

    #[test]
    fn a_listing_tells_what_is_there_and_what_nothing_names() {
        let store = MemoryStore::default();
        let info = pack(&store);
        let book = PackBook::from([(info.id, info)]);
        let sizes = |size| HashMap::from([(info.name(), size)]);
        assert_eq!(PackState::listed(&info, &sizes(info.size)), PackState::Present);
        assert!(matches!(PackState::listed(&info, &sizes(1)), PackState::Damaged(_)));
        assert_eq!(PackState::listed(&info, &HashMap::new()), PackState::Absent);
        assert_eq!(PackState::of_object(&info.name(), info.size, &book), PackState::Present);
        assert_eq!(PackState::of_object(&info.name(), 1, &PackBook::new()), PackState::Orphan);
        assert_eq!(PackState::of_object("packs/x", 1, &book), PackState::Orphan);
        // The pack is in no listing, but can be read: it is released.
        assert_eq!(PackState::Absent.explained(&store, &info), PackState::Released);
        assert_eq!(PackState::Absent.explained(&MemoryStore::default(), &info), PackState::Absent);
    }
}
