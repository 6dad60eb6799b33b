//! Tests packs of earlier snapshots that may be damaged: doubted packs are read whole before anything is built upon
//! them, and a small part of one other pack is looked at each time.
//!
//! A damaged pack counts as absent for the run. Its content is stored again under new names, so that the new
//! snapshot is whole.

use super::lost::LostPacks;
use super::options::BackupOptions;
use super::parent::Parent;
use crate::error::Result;
use crate::monitor::Context;
use crate::store;
use crate::vault::decoder::Decoder;
use crate::vault::doubt::{Doubts, Finding, in_all};
use crate::vault::pack::{FrameAt, PackInfo, SeekTable, Tail};
use crate::vault::state::{self, Tested};
use crate::vault::{Vault, VaultUser, frames};

/// Most bytes of a pack that are looked at if requests are expensive.
const PART: u64 = 960 << 10;
/// Content, in bytes, after which no more of it is decompressed, about.
const CONTENT: u64 = 16 << 20;
/// Bytes that a request may be worth at most, as on a disk, for a pack's seek table to be read as well; then any
/// frame can be looked at.
const NEAR: u64 = 128 << 10;
/// Number of frames of which the smallest is looked at.
const FRAMES: u64 = 4;

/// Returns how a backup appears to readers of its doubts.
pub fn user(options: &BackupOptions) -> VaultUser {
    VaultUser { run: options.run, host: options.host.clone() }
}

/// Reads the doubted packs whole that `base` would build upon, and that no test of this run found sound. Adds the
/// damaged ones to `lost`, gives the warnings about them to `warn`, and returns whether there are any.
///
/// # Errors
/// Fails if the store does, or if the run is told to stop.
pub fn test(
    vault: &Vault,
    base: &Parent,
    doubts: &mut Doubts,
    lost: &mut LostPacks,
    options: &BackupOptions,
    ctx: &Context,
    warn: impl Fn(String),
) -> Result<bool> {
    let go_on = || ctx.check(&super::options::doing(options));
    let wrong = doubts.test_doubted(vault, base.packs.book(), (Finding::Backup, &user(options)), &go_on)?;
    let told: Vec<_> = wrong.iter().filter_map(|(pack, tested)| lost.add(pack, tested)).collect();
    let any = !told.is_empty();
    told.into_iter().for_each(warn);
    Ok(any)
}

/// Finds the packs that `base` would build upon and that this user may not read, as far as the store can tell:
/// another user without that right could not restore from them either. Adds them to `lost`, gives a warning to
/// `warn`, and returns whether there are any.
pub fn closed(vault: &Vault, base: &Parent, lost: &mut LostPacks, warn: impl Fn(String)) -> bool {
    let packs = base.packs.book().values().filter(|pack| base.may_name(pack.id));
    let closed = packs.filter_map(|pack| Some((pack.id, vault.store.denied(&pack.name())?)));
    let closed: Vec<_> = closed.filter(|(id, _)| lost.closed.insert(*id)).collect();
    let Some((_, why)) = closed.first() else { return false };
    let hint = if let store::StoreError::Denied { hint, .. } = why { hint } else { "" };
    let what = "nothing is built upon it, and what it holds is stored again";
    let text = format!("{why}{}; {what}. {hint}", in_all(closed.len()));
    lost.warnings.push(text.clone());
    warn(text);
    true
}

/// Looks at a small part of one of the parent's packs, another one each time. If something seems wrong there, the
/// pack is read whole, and returned if it is damaged. A store that does not deliver is ignored here.
pub fn glance(vault: &Vault, base: &Parent, tested: &Doubts, ctx: &Context) -> Option<(PackInfo, Tested)> {
    base.parent.as_ref()?;
    let is_open = |pack: &&PackInfo| base.has(pack.id) && tested.tested(pack).is_none();
    let packs: Vec<_> = base.packs.book().values().filter(is_open).collect();
    let mut random = [0; 32];
    (ctx.random)(&mut random).ok()?;
    let mut numbers = random.chunks_exact(8).map(|part| part.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)));
    let pack = **packs.get(numbers.next()?.checked_rem(packs.len() as u64)? as usize)?;
    let pick = [numbers.next()?, numbers.next()?];
    let looked = match vault.store.request_worth() > NEAR {
        true => far(vault, &pack, pick),
        false => near(base, &pack, pick),
    };
    let why = match looked {
        Ok(Ok(())) => return None,
        Ok(Err(why)) => why,
        Err(why) => {
            tracing::debug!("a part of {} could not be read for its test: {}", pack.name(), why.what());
            return None;
        }
    };
    damaged(vault, pack, &why)
}

/// Reads the packs whole in which something was wrong when `base` was read, and returns the damaged ones: nothing
/// else in them may be built upon either.
pub fn met(vault: &Vault, base: &Parent) -> Vec<(PackInfo, Tested)> {
    let suspects = base.packs.suspects().into_iter().filter(|(pack, _)| base.may_name(pack.id));
    suspects.filter_map(|(pack, why)| damaged(vault, pack, &why)).collect()
}

/// Reads a pack whole, because of `why`, and returns it if it is damaged.
fn damaged(vault: &Vault, pack: PackInfo, why: &str) -> Option<(PackInfo, Tested)> {
    tracing::info!("{} is read whole, since a part of it looks damaged: {why}", pack.name());
    match state::test(&*vault.store, &pack) {
        Ok(tested) => (!tested.is_sound()).then_some((pack, tested)),
        Err(why) => {
            tracing::info!("{} could not be read whole: {}", pack.name(), why.what());
            None
        }
    }
}

/// Looks at one frame of a pack, found by its seek table.
fn near(base: &Parent, pack: &PackInfo, [pick, _]: [u64; 2]) -> Result<Result<(), String>> {
    let read = base.packs.table(pack.id, pack.kind).and_then(|table| {
        let count = table.frames().len() as u64;
        let some = (0..FRAMES.min(count)).filter_map(|n| table.frames().get((pick.wrapping_add(n) % count) as usize));
        let Some(frame) = some.min_by_key(|frame| frame.compressed) else { return Ok(Ok(())) };
        let compressed = base.packs.compressed(pack.id, pack.kind, std::slice::from_ref(frame))?;
        let mut content = Vec::new();
        Ok(Decoder::new()?.frame(&compressed, frame.length, &mut content))
    });
    match read {
        // This includes what the medium cannot read.
        Err(why) if why.kind() != crate::error::Kind::Unreachable => Ok(Err(why.what())),
        read => read,
    }
}

/// Looks at a part of a pack that one request returns: its beginning, its end, or anything in between.
fn far(vault: &Vault, pack: &PackInfo, [which, place]: [u64; 2]) -> Result<Result<(), String>> {
    let length = pack.size.min(PART);
    let last = pack.size - length;
    let at = match which % 4 {
        0 => 0,
        1 => last,
        _ => place % (last + 1),
    };
    match vault.store.get_range(&pack.name(), at, length) {
        Ok(bytes) => check_part(pack, at, &bytes),
        Err(
            why @ (store::StoreError::Corrupt { .. }
            | store::StoreError::Unreadable { .. }
            | store::StoreError::OutOfRange { .. }),
        ) => Ok(Err(why.to_string())),
        Err(why) => Err(why.while_doing(format!("read {}", pack.name()))),
    }
}

/// Checks the bytes of a pack from `at` on, as far as they show themselves whether they are right.
fn check_part(pack: &PackInfo, at: u64, bytes: &[u8]) -> Result<Result<(), String>> {
    let whole = bytes.len() as u64 == pack.size;
    if whole {
        let right = crc32c::crc32c(bytes) == pack.crc32c;
        return Ok(if right { Ok(()) } else { Err("its bytes are not those that were stored (CRC32C)".into()) });
    }
    let mut decoder = Decoder::new()?;
    if at + bytes.len() as u64 == pack.size {
        return Ok(match SeekTable::parse(bytes, pack.size) {
            Ok(Tail::Table(table)) if table.content() == pack.content => {
                check_frames(table.frames().iter().rev().take_while(|frame| frame.at >= at), at, bytes, &mut decoder)
            }
            Ok(Tail::Table(_)) => Err("its seek table does not say what was stored".into()),
            // Its frames are beyond what was read.
            Ok(Tail::Longer(_)) => Ok(()),
            Err(why) => Err(why),
        });
    }
    Ok(check_found(at == 0, bytes, &mut decoder))
}

fn check_frames<'f>(
    frames: impl Iterator<Item = &'f FrameAt>,
    from: u64,
    bytes: &[u8],
    decoder: &mut Decoder,
) -> Result<(), String> {
    let (mut content, mut decoded) = (Vec::new(), 0);
    for frame in frames {
        decoder.frame(frame.within(bytes, from), frame.length, &mut content)?;
        decoded += u64::from(frame.length);
        if decoded > CONTENT {
            break;
        }
    }
    Ok(())
}

/// Checks the frames that lie whole in `bytes`; `begins` says that `bytes` start with a frame.
fn check_found(begins: bool, bytes: &[u8], decoder: &mut Decoder) -> Result<(), String> {
    if begins && !bytes.starts_with(&frames::MAGIC) {
        return Err("there is no frame at its beginning".into());
    }
    let (mut at, mut decoded, mut content, mut budget) = (0, 0, Vec::new(), CONTENT);
    while decoded <= CONTENT
        && let Some(skip) = bytes[at..].windows(frames::MAGIC.len()).position(|some| some == frames::MAGIC)
    {
        at += skip;
        match frames::look(&bytes[at..], decoder, &mut budget) {
            Ok((compressed, length)) => {
                decoder.frame(&bytes[at..at + compressed as usize], length, &mut content)?;
                (at, decoded) = (at + compressed as usize, decoded + u64::from(length));
            }
            // It ends beyond these bytes, or is not a frame: only its first bytes look like one.
            Err(_) => at += frames::MAGIC.len(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
