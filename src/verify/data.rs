//! Decoding and hashing files, without writing them.

use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::monitor::Context;
use crate::restore::content::{Output, zeros};
use crate::restore::plan::{Limits, Planner, Wanted, Window};
use crate::restore::read::Reader;
use crate::vault::entry::{Entry, Extent, Kind};
use crate::vault::hex::{Hash, PackId};
use crate::vault::pack::{self, PackKind};
use crate::vault::read::{Decoder, PackReader};
use crate::vault::tree;

/// Decoded frames that are kept while a file is hashed in order.
const FRAMES: usize = 4;

/// Chooses files at random, one version of a file always alike.
pub struct Sample {
    seed: [u8; 32],
    /// Of 2³² files, so many are chosen.
    share: u64,
}

impl Sample {
    /// A sample of so many percent; none without.
    ///
    /// # Errors
    /// Usage: no share of a hundred.
    pub fn new(percent: Option<f64>, ctx: &Context) -> Result<Sample> {
        let percent = percent.unwrap_or(0.0);
        if !(0.0..=100.0).contains(&percent) {
            return Err(Error::usage(format!("verify {percent} % of the data"), "a share is from 0 to 100 %"));
        }
        let mut seed = [0; 32];
        (ctx.random)(&mut seed)?;
        Ok(Sample { seed, share: (percent / 100.0 * 2f64.powi(32)) as u64 })
    }

    /// Whether an entry is a file that is to be read.
    pub fn takes(&self, entry: &Entry) -> bool {
        let Some(hash) = entry.hash.filter(|_| entry.kind == Kind::File && self.share > 0) else { return false };
        let dice = blake3::Hasher::new_keyed(&self.seed).update(&hash.0).update(entry.path.bytes()).finalize();
        dice.as_bytes()[..4].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)) < self.share
    }
}

/// A file that cannot be read.
pub struct Lost {
    /// The packs that hold its content.
    pub objects: Vec<String>,
    /// Its path.
    pub path: String,
    /// Why not.
    pub why: String,
}

/// Plans the reading of files.
pub fn planner<'a>(packs: &'a PackReader<'a>, ctx: &'a Context<'a>) -> Planner<'a> {
    Planner { packs, wanted: Wanted::All, limits: Limits::default(), skip_damaged: true, ctx }
}

/// Reads the files of a window; adds those that cannot be read, and counts all.
///
/// # Errors
/// A store that fails.
pub fn read(planner: &Planner, window: &Window, lost: &mut Vec<Lost>, read: &mut u64) -> Result<()> {
    let reader = Reader { packs: planner.packs, limits: planner.limits, skip_damaged: true, ctx: planner.ctx };
    reader.read(window, &Nowhere { packs: planner.packs, ctx: planner.ctx })?;
    for item in window.items.iter().filter(|item| item.last) {
        *read += 1;
        if let Some(why) = item.lost.get() {
            let content = item.entry.content_extents().into_iter().filter_map(|extent| extent.pack);
            let mapped = item.entry.map.iter().flat_map(|map| map.packs.iter().copied());
            let infos = content.chain(mapped).filter_map(|id| planner.packs.book().get(&id));
            let objects = infos.filter(|info| info.kind == PackKind::Data).map(|info| info.name()).collect();
            let path = item.entry.path.to_string();
            lost.push(Lost { objects, why: format!("{path}: {why}"), path });
        }
    }
    debug_assert!(window.pieces.iter().all(|piece| (piece.item as usize) < window.items.len()));
    debug_assert!(window.items.iter().all(|item| item.left.load(Ordering::Acquire) == 0));
    Ok(())
}

/// Takes content and keeps nothing.
struct Nowhere<'a> {
    packs: &'a PackReader<'a>,
    ctx: &'a Context<'a>,
}

impl Output for Nowhere<'_> {
    fn whole(&self, _: &Entry, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn begin(&self, _: &Entry) -> Result<()> {
        Ok(())
    }
    fn piece(&self, _: &Entry, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn end(&self, _: &Entry) -> Result<()> {
        Ok(())
    }
    fn discard(&self, _: &Entry) -> Result<()> {
        Ok(())
    }

    /// Reads the content once more, in order: there is no copy of it anywhere.
    fn read_back(&self, entry: &Entry) -> Result<Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut frames = Frames { packs: self.packs, decoder: Decoder::new()?, kept: Vec::new() };
        for extent in entry.content_extents() {
            frames.hash(&extent, &mut hasher, self.ctx)?;
        }
        tree::each_run(self.packs, entry, |extent| frames.hash(&extent, &mut hasher, self.ctx))?;
        Ok(Hash::from(&hasher.finalize()))
    }
}

/// The frames that were used last, decoded.
struct Frames<'a> {
    packs: &'a PackReader<'a>,
    decoder: Decoder,
    /// By pack and place of its content, the one used last at the end.
    kept: Vec<(PackId, u64, Vec<u8>)>,
}

impl Frames<'_> {
    fn hash(&mut self, extent: &Extent, hasher: &mut blake3::Hasher, ctx: &Context) -> Result<()> {
        ctx.check("verify the vault")?;
        let Some(pack) = extent.pack else {
            let mut left = extent.length;
            while left > 0 {
                ctx.check("verify the vault")?;
                let step = left.min(1 << 30);
                zeros(hasher, step);
                left -= step;
            }
            return Ok(());
        };
        let table = self.packs.table(pack, PackKind::Data)?;
        let name = pack::name(PackKind::Data, pack);
        let damage = |why: String| Error::damage(format!("read {name}"), why);
        let range = table.covering(extent.offset, extent.length);
        let beyond = || damage("an entry refers to what lies beyond its end".into());
        for at in &table.frames()[range.ok_or_else(beyond)?] {
            let kept = self.kept.iter().position(|(id, offset, _)| (*id, *offset) == (pack, at.offset));
            let frame = match kept {
                Some(n) => self.kept.remove(n),
                None => {
                    let mut content = if self.kept.len() >= FRAMES { self.kept.remove(0).2 } else { Vec::new() };
                    let compressed = self.packs.compressed(pack, PackKind::Data, std::slice::from_ref(at))?;
                    self.decoder.frame(&compressed, at.length, &mut content).map_err(damage)?;
                    (pack, at.offset, content)
                }
            };
            let from = extent.offset.saturating_sub(at.offset) as usize;
            let to = (extent.end() - at.offset).min(u64::from(at.length)) as usize;
            hasher.update(&frame.2[from..to]);
            self.kept.push(frame);
        }
        Ok(())
    }
}
