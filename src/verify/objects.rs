//! Compares whole objects with their checksums.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::store::Store;
use crate::vault::pack::PackInfo;
use crate::vault::read::twice;

/// Bytes of a pack that are read in one step, or fewer if many packs are read at a time.
const STEP: u64 = 4 << 20;
/// Most bytes that are held at the same time.
const HELD: u64 = 32 << 20;

/// Reads packs whole, several at a time; returns those that are not what was stored, and why. If the store fails, that
/// is among them, and the rest is not read.
pub fn check<'p>(store: &dyn Store, packs: &[&'p PackInfo], ctx: &Context) -> Vec<(&'p PackInfo, Error)> {
    ctx.monitor.begin("verifying objects", Some(packs.iter().map(|info| info.size).sum()));
    let readers = ctx.threads.max(ctx.parallel).max(1);
    let step = (HELD / readers as u64).clamp(1 << 20, STEP);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..readers.min(packs.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed)
                    && let Some(info) = packs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    if let Err(why) = check_object(store, info, step, ctx) {
                        failed.fetch_or(why.kind() != Kind::Damage, Ordering::Relaxed);
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push((*info, why));
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Compares an object's bytes with its checksum.
fn check_object(store: &dyn Store, info: &PackInfo, step: u64, ctx: &Context) -> Result<()> {
    let name = info.name();
    let mut again = false;
    twice(&name, || {
        if again {
            // Otherwise the machine's memory would be read once more, and not what lies on the disk.
            store.forget(&name);
        }
        let (mut at, mut crc) = (0, 0);
        while at < info.size {
            ctx.check("verify the vault")?;
            let step = step.min(info.size - at);
            let bytes = store.get_range(&name, at, step).map_err(|e| e.while_doing(format!("verify {name}")))?;
            crc = crc32c::crc32c_append(crc, &bytes);
            at += step;
            ctx.monitor.advance(if again { 0 } else { step });
        }
        again = true;
        Ok(match crc == info.crc32c {
            true => Ok(()),
            false => Err("its bytes are not those that were stored (CRC32C)".into()),
        })
    })
}
