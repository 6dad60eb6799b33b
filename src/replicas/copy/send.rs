//! Sends packs to a replica: each is read, compared with what its root says, and created there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Copying;
use crate::error::{Error, Result};
use crate::parallel::budget::ByteBudget;
use crate::store::{self, Store};
use crate::vault::Vault;
use crate::vault::hex::PackId;
use crate::vault::pack::{MAX_PACK, PackInfo};
use crate::vault::state::PackState;

/// Most bytes of packs that are in memory at the same time.
const IN_FLIGHT: u64 = MAX_PACK;

impl Copying<'_> {
    /// Sends packs, several at once, and remembers which of them are damaged.
    pub(super) fn send(&mut self, packs: &[PackInfo]) -> Result<()> {
        let (next, budget, summary) =
            (AtomicUsize::new(0), ByteBudget::new(IN_FLIGHT), Mutex::new(PackCopySummary::default()));
        let this = &*self;
        std::thread::scope(|scope| {
            for _ in 0..self.ctx.parallel.clamp(1, packs.len().max(1)) {
                scope.spawn(|| {
                    while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed))
                        && lock(&summary).failure.is_none()
                    {
                        let sent = {
                            let _reserved = budget.reserve(pack.size);
                            this.send_one(pack)
                        };
                        let mut summary = lock(&summary);
                        match sent {
                            Ok((sent, spoiled)) => {
                                match sent {
                                    PackCopyOutcome::Created => summary.created.push(*pack),
                                    PackCopyOutcome::There => {}
                                    PackCopyOutcome::Damaged(why) => summary.damaged.push((pack.id, why)),
                                }
                                summary.spoiled.extend(spoiled.map(|why| (*pack, why)));
                            }
                            Err(why) => _ = summary.failure.get_or_insert(why),
                        }
                    }
                });
            }
        });
        let PackCopySummary { created, damaged, spoiled, failure } =
            summary.into_inner().unwrap_or_else(PoisonError::into_inner);
        for pack in created {
            self.report.objects += 1;
            self.report.bytes += pack.size;
            self.counted.insert(pack.id);
            self.there.insert(pack.name(), pack.size);
        }
        self.damaged.extend(damaged);
        self.spoiled.extend(spoiled);
        failure.map_or(Ok(()), Err)
    }

    /// Reads a pack, compares it with what the root says about it, and creates it in `to`. Also returns how it is
    /// damaged in `from`, if it is.
    fn send_one(&self, pack: &PackInfo) -> Result<(PackCopyOutcome, Option<String>)> {
        self.ctx.check("copy packs")?;
        let name = pack.name();
        let (from, to) = (&self.from.store, &self.to.store);
        let (bytes, spoiled) = match right_bytes(&**from, pack)? {
            Ok(bytes) => (bytes, None),
            Err(state) => {
                let why = format!("{name} in {}: {state}", from.url());
                let spoiled = match state {
                    PackState::Damaged(why) => Some(why),
                    _ => None,
                };
                match self.elsewhere.and_then(|elsewhere| elsewhere(pack)) {
                    Some((bytes, url)) => {
                        self.ctx.monitor.warn(&format!("{why}; it is taken from {url}"));
                        (bytes, spoiled)
                    }
                    None => return Ok((PackCopyOutcome::Damaged(why), spoiled)),
                }
            }
        };
        let created = match to.create(&name, &[&bytes]) {
            Ok(()) => PackCopyOutcome::Created,
            // Another copy made it. Whether it is whole, and has not been released, shows in the listing before the
            // root is created.
            Err(store::StoreError::AlreadyExists { .. }) => PackCopyOutcome::There,
            Err(why) => return Err(why.while_doing(format!("create {name} in {}", to.url()))),
        };
        self.ctx.monitor.advance(pack.size);
        Ok((created, spoiled))
    }
}

/// Returns a pack's bytes in a store if they are what was stored, and otherwise the state of the pack there. Damaged
/// bytes are read once more, from the medium itself.
///
/// # Errors
/// A store that fails.
pub fn right_bytes(store: &dyn Store, pack: &PackInfo) -> Result<Result<Vec<u8>, PackState>> {
    let name = pack.name();
    let read = || {
        let damaged = |why: String| Ok(Err(PackState::Damaged(why)));
        match store.get(&name, pack.size) {
            Ok(bytes) if bytes.len() as u64 == pack.size && crc32c::crc32c(&bytes) == pack.crc32c => Ok(Ok(bytes)),
            Ok(_) => damaged("its bytes are not those that were stored (CRC32C)".into()),
            Err(store::StoreError::NotFound { .. }) => Ok(Err(PackState::Absent)),
            Err(store::StoreError::OutOfRange { size, .. }) => {
                damaged(format!("it has {size} bytes, and {} were stored", pack.size))
            }
            Err(store::StoreError::Corrupt { .. }) => damaged("its bytes are not those that were stored".into()),
            Err(store::StoreError::Unreadable { why, .. }) => damaged(format!("it cannot be read: {why}")),
            Err(why) => Err(why.while_doing(format!("read {name} of {}", store.url()))),
        }
    };
    match read()? {
        Err(PackState::Damaged(why)) => {
            tracing::info!("{name} of {} is read once more: {why}", store.url());
            store.forget(&name);
            read()
        }
        read => Ok(read),
    }
}

/// Asks these replicas in turn for a pack's bytes. A replica that does not give them is passed over.
pub fn from_any<'v>(vaults: impl IntoIterator<Item = &'v Vault>, pack: &PackInfo) -> Option<(Vec<u8>, String)> {
    if pack.size > MAX_PACK {
        return None;
    }
    vaults.into_iter().find_map(|vault| match right_bytes(&*vault.store, pack) {
        Ok(Ok(bytes)) => Some((bytes, vault.store.url())),
        Ok(Err(state)) => {
            tracing::debug!("{} in {}: {state}", pack.name(), vault.store.url());
            None
        }
        Err(why) => {
            tracing::debug!("{}", why.what());
            None
        }
    })
}

/// The outcome for one pack.
enum PackCopyOutcome {
    Created,
    There,
    Damaged(String),
}

/// The outcomes for several packs.
#[derive(Default)]
struct PackCopySummary {
    created: Vec<PackInfo>,
    damaged: Vec<(PackId, String)>,
    /// Packs that are damaged in `from`, even if their content came from elsewhere.
    spoiled: Vec<(PackInfo, String)>,
    failure: Option<Error>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The data that these locks guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
