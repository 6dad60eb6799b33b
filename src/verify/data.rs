//! Decodes and hashes files, without writing them.

use std::sync::atomic::Ordering;

use crate::error::{Code, Error, Result};
use crate::monitor::Context;
use crate::restore::content::ContentSink;
use crate::restore::plan::{EntrySelection, Planner};
use crate::restore::read::ContentReader;
use crate::restore::window::{Window, WindowLimits};
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::pack::PackKind;
use crate::vault::read::PackReader;

/// Chooses files at random; the same version of a file is always treated alike.
pub struct FileSampler {
    seed: [u8; 32],
    /// How many of 2³² files are chosen.
    share: u64,
}

impl FileSampler {
    /// Makes a sampler that chooses this percentage of the files; without a percentage, none.
    ///
    /// # Errors
    /// Usage: a share that is not from 0 to 100 %.
    pub fn new(percent: Option<f64>, ctx: &Context) -> Result<FileSampler> {
        let percent = percent.unwrap_or(0.0);
        if !(0.0..=100.0).contains(&percent) {
            let doing = format!("verify {percent} % of the data");
            return Err(Error::usage(doing, "a share is from 0 to 100 %").with_code(Code::BadSetting));
        }
        let mut seed = [0; 32];
        (ctx.random)(&mut seed)?;
        Ok(FileSampler { seed, share: (percent / 100.0 * 2f64.powi(32)) as u64 })
    }

    /// Whether it chooses files at all.
    pub fn selects_any(&self) -> bool {
        self.share > 0
    }

    /// Whether an entry is a file that is to be read.
    pub fn selects(&self, entry: &Entry) -> bool {
        let Some(hash) = entry.hash.filter(|_| entry.kind == EntryKind::File && self.selects_any()) else {
            return false;
        };
        let dice = blake3::Hasher::new_keyed(&self.seed).update(&hash.0).update(entry.path.bytes()).finalize();
        dice.as_bytes()[..4].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)) < self.share
    }
}

/// A file that cannot be read.
pub struct UnreadableFile {
    /// The packs that hold its content.
    pub objects: Vec<String>,
    /// Its path.
    pub path: String,
    /// The reason why it cannot be read.
    pub why: String,
}

/// Plans the reading of files.
pub fn planner<'a>(packs: &'a PackReader<'a>, ctx: &'a Context<'a>) -> Planner<'a> {
    Planner {
        packs,
        wanted: EntrySelection::default(),
        limits: WindowLimits::suiting(packs.store(), ctx),
        skip_damaged: true,
        ahead: None,
        ctx,
    }
}

/// Reads the files of a window; adds those that cannot be read to `lost`, and counts all in `read`.
///
/// # Errors
/// A store that fails.
pub fn read(planner: &Planner, window: &Window, lost: &mut Vec<UnreadableFile>, read: &mut u64) -> Result<()> {
    let reader = ContentReader { packs: planner.packs, limits: planner.limits, skip_damaged: true, ctx: planner.ctx };
    reader.read(window, &Nowhere)?;
    for item in window.items.iter().filter(|item| item.last) {
        *read += 1;
        if let Some(why) = item.lost.get() {
            let content = item.entry.content_extents().into_iter().filter_map(|extent| extent.pack);
            let mapped = item.entry.map.iter().flat_map(|map| map.packs.iter().copied());
            let infos = content.chain(mapped).filter_map(|id| planner.packs.book().get(&id));
            let objects = infos.filter(|info| info.kind == PackKind::Data).map(|info| info.name()).collect();
            let path = item.entry.path.to_string();
            lost.push(UnreadableFile { objects, why: format!("{path}: {why}"), path });
        }
    }
    debug_assert!(window.pieces.iter().all(|piece| (piece.item as usize) < window.items.len()));
    debug_assert!(window.items.iter().all(|item| item.left.load(Ordering::Acquire) == 0));
    Ok(())
}

/// Takes content and keeps nothing of it.
struct Nowhere;

impl ContentSink for Nowhere {
    fn whole(&self, _: &Entry, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn begin(&self, _: &Entry) -> Result<()> {
        Ok(())
    }
    fn pieces(&self, _: &Entry, _: &[(u64, &[u8])]) -> Result<()> {
        Ok(())
    }
    fn end(&self, _: &Entry) -> Result<()> {
        Ok(())
    }
    fn discard(&self, _: &Entry) -> Result<()> {
        Ok(())
    }
}
