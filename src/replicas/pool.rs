//! Holds the vaults of one configuration, and the connections to them, which last as long as the process.

use std::any::Any;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::{Site, SiteState, first};
use crate::backup::options::LastWords;
use crate::error::{Kind, Result};
use crate::fs::{answer, filesystem};
use crate::monitor::Context;
use crate::panics;
use crate::restore::select;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::awaited::Awaiting;
use crate::store::metered::MeteredStore;
use crate::store::open::Opener;
use crate::store::remembering::{RememberingStore, StoreMemory};
use crate::vault::Vault;
use crate::vault::root::{Root, SNAPSHOTS};

/// How long stores are asked for last words, all of them together, once the program was told to stop: Cloud Run gives
/// it 10 s in all.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// How long a store is asked for a backup's last checkpoint, which comes before the last words.
const LAST_CHECKPOINT: Duration = Duration::from_secs(3);
/// The part of the time for a bucket that one has to answer in which was found unreachable just now.
const GLANCE: u32 = 8;

/// The vaults to use, the preferred one first.
pub struct VaultPool {
    addresses: Vec<Address>,
    opener: Opener,
    stop: Arc<AtomicBool>,
    stores: Mutex<HashMap<Address, Arc<dyn Store>>>,
    /// What was read of buckets, for as long as that is remembered.
    memories: Mutex<HashMap<Address, Arc<StoreMemory>>>,
    /// Becomes true when the time for last words is over, which begins with the first of them.
    silence: OnceLock<Arc<AtomicBool>>,
    /// The stores that are asked for last words: there may be many, and little time.
    last: Mutex<HashMap<Address, Arc<dyn Store>>>,
    /// Set where one store that hangs is not to keep the others from being used.
    awaiting: Option<Arc<Awaiting>>,
    /// The time for a look that is made again and again.
    look: Duration,
    quick: OnceLock<QuickStores>,
    /// When a bucket was found unreachable, after all the time that it has.
    away: Mutex<HashMap<Address, Instant>>,
}

/// The stores for looks that are made again and again.
struct QuickStores {
    calls: Arc<Awaiting>,
    stores: Vec<Option<Arc<dyn Store>>>,
}

/// Has what was read of buckets be remembered, since [`VaultPool::remember`]. When it is dropped, all of it is forgotten.
pub struct ReadMemory {
    all: Vec<Arc<StoreMemory>>,
}

impl Drop for ReadMemory {
    fn drop(&mut self) {
        self.all.iter().for_each(|memory| memory.end());
    }
}

impl VaultPool {
    /// Takes at least one address; the stores give up once `stop` is set.
    pub fn new(addresses: Vec<Address>, opener: impl Into<Opener>, stop: Arc<AtomicBool>) -> Self {
        let opener = opener.into();
        VaultPool {
            addresses,
            look: opener.patience(),
            opener,
            stop,
            stores: Mutex::default(),
            memories: Mutex::default(),
            silence: OnceLock::new(),
            last: Mutex::default(),
            awaiting: None,
            quick: OnceLock::new(),
            away: Mutex::default(),
        }
    }

    /// Returns the same pool. A vault that does not answer is given up in time, so that others can be used, and that the program
    /// can end: see [`awaited`](crate::store::awaited). A look that is made again and again has `look` for each of its calls.
    #[must_use]
    pub fn none_waits_for_another(mut self, look: Duration) -> Self {
        self.look = look;
        self.awaiting = Some(Awaiting::new(self.stop.clone()).with_haste(self.opener.haste().clone()));
        self
    }

    /// All is to be done until then: a vault that does not answer in a share of that time is left out if another one
    /// answers.
    pub fn hurry(&self, until: Instant) {
        self.all_calls().for_each(|awaiting| awaiting.hurry(until));
    }

    /// There is time again.
    pub fn take_time(&self) {
        self.all_calls().for_each(|awaiting| awaiting.take_time());
    }

    /// Whether a vault is being looked into and does not answer.
    pub fn is_unanswered(&self) -> bool {
        self.all_calls().any(|calls| calls.is_unanswered())
    }

    fn all_calls(&self) -> impl Iterator<Item = &Arc<Awaiting>> {
        self.awaiting.iter().chain(self.quick.get().map(|quick| &quick.calls))
    }

    /// Returns stores for looks that are made again and again, in the order of the addresses: each call ends within the time of a look,
    /// and a store that did not answer is asked all the same the next time. `None` for one that cannot be opened.
    pub fn for_quick_looks(&self) -> &[Option<Arc<dyn Store>>] {
        let quick = self.quick.get_or_init(|| {
            let (calls, opener) = (Awaiting::within(self.stop.clone(), self.look), self.opener.within(self.look));
            let open = |address: &Address| {
                let opened = opener.open(address, self.stop.clone()).ok()?.into();
                let ends = matches!(address, Address::Bucket { .. });
                Some(Arc::new(calls.store(opened, ends)) as Arc<dyn Store>)
            };
            let stores = self.addresses.iter().map(open).collect();
            QuickStores { calls, stores }
        });
        &quick.stores
    }

    /// Whether there are other vaults beside the first.
    pub fn are_several(&self) -> bool {
        self.addresses.len() > 1
    }

    /// Opens the store at an address, whose calls are given up in time where that is asked for.
    fn open(&self, opener: &Opener, address: &Address, stop: Arc<AtomicBool>) -> Result<Arc<dyn Store>> {
        let opened: Arc<dyn Store> = opener.open(address, stop)?.into();
        let ends = matches!(address, Address::Bucket { .. });
        Ok(match &self.awaiting {
            // A bucket alone needs no other one's patience, and what it is sent need not be copied: its calls end by themselves, soon
            // once the program is told to stop.
            Some(awaiting) if self.are_several() || !ends => Arc::new(awaiting.store(opened, ends)),
            _ => opened,
        })
    }

    /// The vaults' addresses, the preferred one first.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Returns the store at an address, which counts its traffic from now on.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn store(&self, address: &Address) -> Result<Box<dyn Store>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match stores.get(address) {
            Some(store) => store.clone(),
            None => {
                let opened = self.open(&self.opener, address, self.stop.clone())?;
                stores.insert(address.clone(), opened.clone());
                opened
            }
        };
        let is_bucket = matches!(address, Address::Bucket { .. });
        // A folder costs nothing, and may be one on which a volume is mounted no longer.
        let store = match self.memory(address).filter(|_| is_bucket) {
            Some(memory) => Arc::new(RememberingStore::new(store, memory, SNAPSHOTS)),
            None => store,
        };
        Ok(Box::new(MeteredStore::new(store)))
    }

    fn memory(&self, address: &Address) -> Option<Arc<StoreMemory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }

    /// Remembers what is read of buckets until the value is dropped, so that vaults which are opened several times meanwhile do not
    /// read the same again.
    pub fn remember(&self) -> ReadMemory {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of = |address: &Address| memories.entry(address.clone()).or_default().clone();
        let all: Vec<_> = self.addresses.iter().map(&mut of).collect();
        all.iter().for_each(|memory| memory.remember());
        ReadMemory { all }
    }

    /// What is listed from now on is asked of the stores.
    pub fn forget_lists(&self) {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.values().for_each(|memory| memory.forget_lists());
    }

    /// Forgets what was read so far. Returns whether that was anything.
    pub fn forget_read(&self) -> bool {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.values().map(|memory| memory.forget()).fold(false, |any, some| any | some)
    }

    /// Whether the program was told to stop, so that stores give up what they are asked, and only last words may be
    /// written. A run that takes too long is told to stop, too; its stores go on.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Returns the store of the vault at an address for what is written when the program has been told to stop. It does
    /// not give up at once but soon, and so does a request that is not answered. All stores that are asked for give up
    /// at the same time.
    ///
    /// # Errors
    /// As [`Opener::open`]; there is no vault.
    pub fn store_for_last_words(&self, address: &Address) -> Result<Box<dyn Store>> {
        let opener = self.opener.within(LAST_WORDS);
        let silence = self.silence.get_or_init(|| {
            let silence = Arc::new(AtomicBool::new(false));
            let end = silence.clone();
            // The process does not wait for this thread.
            std::thread::spawn(move || {
                std::thread::sleep(LAST_WORDS);
                end.store(true, Ordering::Relaxed);
            });
            silence
        });
        let mut stores = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match stores.get(address) {
            Some(store) => store.clone(),
            None => {
                let opened = self.open(&opener, address, silence.clone())?;
                let vault = Vault::open(Box::new(opened))?;
                let opened: Arc<dyn Store> = vault.store.into();
                stores.insert(address.clone(), opened.clone());
                opened
            }
        };
        Ok(Box::new(MeteredStore::new(store)))
    }

    /// Opens the store for the last checkpoint of a backup once the program is told to stop, at which a bucket's own
    /// store gives up. This store gives up 3 s after it is asked for.
    pub fn last_checkpoint(&self) -> LastWords {
        let (addresses, stop) = (self.addresses.clone(), self.stop.clone());
        let opener = self.opener.within(LAST_CHECKPOINT);
        LastWords::new(move |url| {
            let fits = |address: &&Address| matches!(address, Address::Bucket { .. }) && address.absolute() == url;
            let address = addresses.iter().filter(|_| stop.load(Ordering::Relaxed)).find(fits)?;
            let over = Arc::new(AtomicBool::new(false));
            let end = over.clone();
            // The process does not wait for this thread.
            std::thread::spawn(move || {
                std::thread::sleep(LAST_CHECKPOINT);
                end.store(true, Ordering::Relaxed);
            });
            Some(opener.open(address, over))
        })
    }

    /// Looks at what is in a place; without `init`, a vault may be made only in the default one.
    ///
    /// A bucket that was found unreachable has an eighth of its time for as long as it had before that: one look after the other would
    /// otherwise take all of it, while an app waits to be started. If it answers, it has all the time again.
    pub fn probe(&self, address: &Address, init: bool) -> Site {
        let look = |store| Site::probe(address.absolute(), init || address.is_default(), store);
        let is_away = |site: &Site| matches!(&site.found, SiteState::Failed(why) if why.kind() == Kind::Unreachable);
        let glance = self.was_away(address).then(|| {
            let opener = self.opener.within(self.opener.patience() / GLANCE);
            look(self.open(&opener, address, self.stop.clone()).map(|store| Box::new(store) as Box<dyn Store>))
        });
        let site = glance.filter(is_away).unwrap_or_else(|| {
            let site = look(self.store(address));
            self.note_away(address, is_away(&site));
            site
        });
        // An instance's disk is its own, and so is its /tmp. A bucket or a share that is mounted belongs to something
        // else.
        // One that hangs is no disk.
        let is_disk =
            |folder: &Path| answer::about(folder, filesystem::remote_at).is_some_and(|remote| remote.is_none());
        let own = |folder: &Path| self.opener.is_in_cloud_run() && is_disk(folder);
        Site { fleeting: matches!(address, Address::Folder(folder) if own(folder)), ..site }
    }

    fn was_away(&self, address: &Address) -> bool {
        // Such a store is not asked again for a while anyway.
        if self.awaiting.is_some() && self.are_several() {
            return false;
        }
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.get(address).is_some_and(|since| since.elapsed() < self.opener.patience())
    }

    fn note_away(&self, address: &Address, is_away: bool) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match address {
            Address::Bucket { .. } if is_away => _ = away.insert(address.clone(), Instant::now()),
            _ => _ = away.remove(address),
        }
    }

    /// Looks at what is in each place, at all of them at the same time.
    ///
    /// # Errors
    /// A thread that ends in a panic.
    pub fn sites(&self, init: bool) -> Result<Vec<Site>> {
        let ended = |panic: Box<dyn Any + Send>| panics::error("open the vaults", &*panic);
        std::thread::scope(|scope| {
            let probe = |address| scope.spawn(move || self.probe(address, init));
            let threads: Vec<_> = self.addresses.iter().map(probe).collect();
            threads.into_iter().map(|thread| thread.join().map_err(ended)).collect()
        })
    }

    /// Opens the first vault that can be opened.
    ///
    /// # Errors
    /// None can be opened.
    pub fn first(&self, ctx: &Context) -> Result<Vault> {
        first(self.addresses.iter().map(|address| self.probe(address, false)), ctx)
    }

    /// Finds a snapshot in the first vault that can be opened.
    ///
    /// # Errors
    /// None can be opened; the snapshot is not there.
    pub fn find(&self, spec: &str, ctx: &Context) -> Result<(Vault, Root)> {
        let vault = self.first(ctx)?;
        let (_, root) = select::find(&vault, spec)?;
        Ok((vault, root))
    }
}
