//! Holds the vaults of one configuration, and the connections to them, which last as long as the process.

use std::any::Any;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::{Site, first};
use crate::backup::options::LastWords;
use crate::error::Result;
use crate::fs::filesystem;
use crate::monitor::Context;
use crate::panics;
use crate::restore::select;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::metered::MeteredStore;
use crate::store::open::Opener;
use crate::vault::Vault;
use crate::vault::root::Root;

/// How long stores are asked for last words, all of them together, once the program was told to stop: Cloud Run gives
/// it 10 s in all.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// How long a store is asked for a backup's last checkpoint, which comes before the last words.
const LAST_CHECKPOINT: Duration = Duration::from_secs(3);

/// The vaults to use, the preferred one first.
pub struct VaultPool {
    addresses: Vec<Address>,
    opener: Opener,
    stop: Arc<AtomicBool>,
    stores: Mutex<HashMap<Address, Arc<dyn Store>>>,
    /// Becomes true when the time for last words is over, which begins with the first of them.
    silence: OnceLock<Arc<AtomicBool>>,
    /// The stores that are asked for last words: there may be many, and little time.
    last: Mutex<HashMap<Address, Arc<dyn Store>>>,
}

impl VaultPool {
    /// Takes at least one address; the stores give up once `stop` is set.
    pub fn new(addresses: Vec<Address>, opener: impl Into<Opener>, stop: Arc<AtomicBool>) -> Self {
        let opener = opener.into();
        VaultPool {
            addresses,
            opener,
            stop,
            stores: Mutex::default(),
            silence: OnceLock::new(),
            last: Mutex::default(),
        }
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
                let opened: Arc<dyn Store> = self.opener.open(address, self.stop.clone())?.into();
                stores.insert(address.clone(), opened.clone());
                opened
            }
        };
        Ok(Box::new(MeteredStore::new(store)))
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
                let vault = opener.open(address, silence.clone()).and_then(Vault::open)?;
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
    pub fn probe(&self, address: &Address, init: bool) -> Site {
        let site = Site::probe(address.absolute(), init || address.is_default(), self.store(address));
        // An instance's disk is its own, and so is its /tmp. A bucket or a share that is mounted belongs to something
        // else.
        let own = |folder: &Path| self.opener.is_in_cloud_run() && filesystem::remote_at(folder).is_none();
        Site { fleeting: matches!(address, Address::Folder(folder) if own(folder)), ..site }
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
