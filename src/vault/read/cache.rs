//! Caches what was read of packs and is likely to be asked for again: seek tables and, where a request is expensive,
//! the stretches of index packs and the small packs that were read along with them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::vault::hex::PackId;
use crate::vault::pack::{PackInfo, SeekTable};

/// How many packs are kept in the cache, each with its seek table.
const PACKS: usize = 1024;
/// The most bytes of stretches that are cached in all.
const BYTES: usize = 8 << 20;
/// The most stretches that are cached.
const STRETCHES: usize = 1024;

/// The cache that all readers of one vault share; threads may share it, too.
#[derive(Default)]
pub struct PackCache {
    packs: Mutex<HashMap<PackId, Arc<Pack>>>,
    stretches: Mutex<Stretches>,
    /// The packs whose seek tables are not used, by name, and what to report of that.
    mended: Mutex<BTreeMap<String, String>>,
    /// The packs that could not be read because of damage, and why.
    suspects: Mutex<HashMap<PackId, (PackInfo, String)>>,
    walk: Mutex<()>,
}

/// The table of the frames that a walk through a pack found, or `None` if it found none; the outer `None` means that
/// there was no walk yet.
pub type Walked = Option<Option<Arc<SeekTable>>>;

/// A pack that was asked for. A thread that holds one of its locks reads for all threads that wait for it; other packs
/// are read meanwhile.
pub struct Pack {
    info: PackInfo,
    table: Mutex<Option<Arc<SeekTable>>>,
    walked: Mutex<Walked>,
    stretch: Mutex<()>,
}

/// A stretch of a pack's object.
struct Stretch {
    pack: PackId,
    at: u64,
    bytes: Arc<Vec<u8>>,
}

/// Stretches in the order of their last use; the one that was used last is at the end.
#[derive(Default)]
struct Stretches {
    all: VecDeque<Stretch>,
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pack {
    /// Returns the pack's seek table, or the right to read it.
    pub fn table(&self) -> MutexGuard<'_, Option<Arc<SeekTable>>> {
        lock(&self.table)
    }

    /// Returns what a walk through its frames found, or the right to walk.
    pub fn walked(&self) -> MutexGuard<'_, Walked> {
        lock(&self.walked)
    }

    /// Returns the right to read a stretch of it.
    pub fn stretch(&self) -> MutexGuard<'_, ()> {
        lock(&self.stretch)
    }
}

impl PackCache {
    /// Returns what is cached of a pack. While two roots disagree on what the pack is, nothing stays cached for either.
    pub fn pack(&self, info: &PackInfo) -> Arc<Pack> {
        let mut packs = lock(&self.packs);
        if let Some(pack) = packs.get(&info.id).filter(|pack| pack.info == *info) {
            return pack.clone();
        }
        if packs.len() >= PACKS {
            packs.clear();
        }
        let (table, walked, stretch) = (Mutex::default(), Mutex::default(), Mutex::default());
        let pack = Arc::new(Pack { info: *info, table, walked, stretch });
        packs.insert(info.id, pack.clone());
        pack
    }

    /// Returns the right to walk through a pack: one walk at a time, since it holds some MiB.
    pub fn walk(&self) -> MutexGuard<'_, ()> {
        lock(&self.walk)
    }

    /// Stores what to report of a pack.
    pub fn note_mended(&self, name: String, what: String) {
        lock(&self.mended).entry(name).or_insert(what);
    }

    /// Returns what to report of packs, by name.
    pub fn mended(&self) -> BTreeMap<String, String> {
        lock(&self.mended).clone()
    }

    /// Remembers that a pack could not be read because of damage.
    pub fn suspect(&self, pack: PackInfo, why: String) {
        let mut suspects = lock(&self.suspects);
        if suspects.len() < PACKS {
            suspects.entry(pack.id).or_insert((pack, why));
        }
    }

    /// Returns the packs that could not be read because of damage, in the order of their names.
    pub fn suspects(&self) -> Vec<(PackInfo, String)> {
        let mut suspects: Vec<_> = lock(&self.suspects).values().cloned().collect();
        suspects.sort_by_key(|(pack, _)| pack.name());
        suspects
    }

    /// Returns these bytes of a pack's object, if they are cached.
    pub fn bytes(&self, pack: PackId, at: u64, length: u64) -> Option<Vec<u8>> {
        let found = {
            let mut stretches = lock(&self.stretches);
            let number = stretches.all.iter().rposition(|stretch| stretch.holds(pack, at, length))?;
            let stretch = stretches.all.remove(number)?;
            let found = (stretch.at, stretch.bytes.clone());
            stretches.all.push_back(stretch);
            found
        };
        let from = (at - found.0) as usize;
        Some(found.1[from..from + length as usize].to_vec())
    }

    /// Returns where the next cached stretch of the pack after `at` begins.
    pub fn next(&self, pack: PackId, at: u64) -> Option<u64> {
        let stretches = lock(&self.stretches);
        stretches.all.iter().filter(|stretch| stretch.pack == pack && stretch.at > at).map(|stretch| stretch.at).min()
    }

    /// Caches a stretch.
    pub fn keep(&self, pack: PackId, at: u64, bytes: Arc<Vec<u8>>) {
        if bytes.len() > BYTES / 2 {
            return;
        }
        let mut stretches = lock(&self.stretches);
        stretches.bytes += bytes.len();
        stretches.all.push_back(Stretch { pack, at, bytes });
        while stretches.bytes > BYTES || stretches.all.len() > STRETCHES {
            let Some(oldest) = stretches.all.pop_front() else { break };
            stretches.bytes -= oldest.bytes.len();
        }
    }

    /// Drops the cached stretches that hold this byte of a pack: they are not what was stored.
    pub fn forget(&self, pack: PackId, at: u64) {
        let mut stretches = lock(&self.stretches);
        stretches.all.retain(|stretch| !stretch.holds(pack, at, 1));
        stretches.bytes = stretches.all.iter().map(|stretch| stretch.bytes.len()).sum();
    }
}

impl Stretch {
    fn holds(&self, pack: PackId, at: u64, length: u64) -> bool {
        self.pack == pack && self.at <= at && at + length <= self.at + self.bytes.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::hex::Hex;

    fn pack(n: u8) -> PackId {
        Hex([n; 16])
    }

    #[test]
    fn what_was_used_last_is_kept() {
        let cache = PackCache::default();
        for n in 0..8 {
            cache.keep(pack(n), 100, Arc::new(vec![n; 1 << 20]));
        }
        assert_eq!(cache.bytes(pack(0), 100, 3), Some(vec![0; 3]));
        cache.keep(pack(8), 0, Arc::new(vec![8; 1 << 20]));
        assert_eq!(cache.bytes(pack(1), 100, 3), None);
        assert_eq!(cache.bytes(pack(0), 99 + (1 << 20), 1), Some(vec![0]));
        for (at, length) in [(99, 1), (99, 2), (99 + (1 << 20), 2), (200 + (1 << 20), 1)] {
            assert_eq!(cache.bytes(pack(0), at, length), None, "{at}");
        }
        assert_eq!((cache.next(pack(0), 99), cache.next(pack(0), 100)), (Some(100), None));
        cache.forget(pack(0), 99);
        cache.forget(pack(2), 500);
        assert_eq!((cache.bytes(pack(0), 100, 1), cache.bytes(pack(2), 100, 1)), (Some(vec![0]), None));
        for n in 0..20 {
            cache.keep(pack(9), n, Arc::new(vec![9; 4 << 20]));
        }
        assert!(cache.bytes(pack(0), 100, 1).is_none() && cache.bytes(pack(9), 18, 4 << 20).is_some());
        cache.keep(pack(10), 0, Arc::new(vec![0; (4 << 20) + 1]));
        assert!(cache.bytes(pack(10), 0, 1).is_none() && cache.bytes(pack(9), 19, 1).is_some());
    }
}
