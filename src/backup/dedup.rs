//! Finds which blocks of large files are stored already, and where.
//!
//! Memory stays small whatever the vault's size. Blocks lie in the vault in the order they had in files, so maps are
//! loaded a frame at a time: the map of the file at the same path from its beginning, others when a *sampled* block
//! (one in 16, and the first of each frame) is met; after a hit its frame and the next one are at hand. This is
//! sparse indexing (Lillibridge et al., 2009). The latest blocks of this run are remembered exactly.

use std::collections::{HashMap, VecDeque};

use super::parent::Parent;
use crate::error::Result;
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, Extent, MapFrame};
use crate::vault::frame::FrameRef;
use crate::vault::hex::Hash;
use crate::vault::list::List;
use crate::vault::tree;

/// Most blocks of this run that are remembered: 4 GiB of content.
const RECENT: usize = 65_536;
/// Most map frames that are held: about 2 GiB of content.
const LOADED: usize = 64;
/// Most samples that are held; when there are more, every other one is dropped.
const SAMPLES: usize = 500_000;
/// Number of successive unknown blocks after which a file's blocks are looked for in all other maps.
const LOST: u32 = 256;

/// Finds stored blocks.
pub struct BlockIndex<'b> {
    base: &'b Parent<'b>,
    decoder: Decoder,
    recent: HashMap<Hash, Extent>,
    recent_order: VecDeque<Hash>,
    /// All known map frames; their positions here are the numbers used below.
    frames: Vec<FrameRef>,
    numbers: HashMap<Hash, u32>,
    loaded: HashMap<Hash, (Extent, u32)>,
    loaded_order: VecDeque<(u32, Vec<Hash>)>,
    samples: HashMap<u64, u32>,
    sample_mask: u8,
    sampled: bool,
    /// The frame to try next: the one after the last hit.
    next: Option<u32>,
    misses: u32,
    warnings: Vec<String>,
}

fn short(hash: &Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl<'b> BlockIndex<'b> {
    /// Creates an index of the blocks that `base` holds.
    ///
    /// # Errors
    /// Fails if there is no memory for a decoder.
    pub fn new(base: &'b Parent<'b>) -> Result<Self> {
        Ok(BlockIndex {
            base,
            decoder: Decoder::new()?,
            recent: HashMap::new(),
            recent_order: VecDeque::new(),
            frames: Vec::new(),
            numbers: HashMap::new(),
            loaded: HashMap::new(),
            loaded_order: VecDeque::new(),
            samples: HashMap::new(),
            sample_mask: 0x0f,
            sampled: false,
            next: None,
            misses: 0,
            warnings: Vec::new(),
        })
    }

    /// Starts a file; `known` is its known entry.
    pub fn begin(&mut self, known: Option<&Entry>) {
        self.misses = 0;
        self.next = None;
        // If the file never comes to rest, its last state lies beside what was carried over.
        if let Some(frames) = known.and_then(|known| self.base.torn_read(&known.path)) {
            let first = self.frames.len() as u32;
            self.register(frames);
            (first..self.frames.len() as u32).for_each(|number| self.sample_frame(number));
        }
        match known.and_then(|known| known.map.as_ref()?.blocks()) {
            Some(frames) => self.next = self.register(frames),
            // A new name may be a file that was moved here.
            None => self.misses = LOST,
        }
    }

    /// Returns the frame with this content, if a known map has it.
    pub fn frame(&self, content: &Hash) -> Option<FrameRef> {
        let frame = self.numbers.get(content).map(|n| self.frames[*n as usize]);
        frame.filter(|frame| self.base.has(frame.pack))
    }

    /// Returns what went wrong while maps were read; the blocks concerned are stored again.
    pub fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Remembers a block that was just stored.
    pub fn remember(&mut self, hash: Hash, extent: Extent) {
        if self.recent_order.len() >= RECENT
            && let Some(old) = self.recent_order.pop_front()
        {
            self.recent.remove(&old);
        }
        if self.recent.insert(hash, extent).is_none() {
            self.recent_order.push_back(hash);
        }
    }

    /// Returns where content of this hash and length is, if this run stored it.
    pub fn recent(&self, hash: &Hash, length: u32) -> Option<Extent> {
        self.recent.get(hash).copied().filter(|extent| extent.length == u64::from(length))
    }

    /// Returns where a block of this hash and length is.
    pub fn find(&mut self, hash: &Hash, length: u32) -> Option<Extent> {
        let found = self.look(hash);
        match found.filter(|extent| extent.length == u64::from(length)) {
            Some(extent) => {
                self.misses = 0;
                Some(extent)
            }
            None => {
                self.misses = self.misses.saturating_add(1);
                None
            }
        }
    }

    fn look(&mut self, hash: &Hash) -> Option<Extent> {
        if let Some(extent) = self.recent.get(hash) {
            return Some(*extent);
        }
        if let Some(extent) = self.hit(hash) {
            return Some(extent);
        }
        if let Some(next) = self.next.take() {
            self.load(next);
            if let Some(extent) = self.hit(hash) {
                return Some(extent);
            }
        }
        if self.misses >= LOST && !self.sampled {
            self.sample();
        }
        let number = *self.samples.get(&short(hash))?;
        self.load(number);
        self.hit(hash)
    }

    fn hit(&mut self, hash: &Hash) -> Option<Extent> {
        let (extent, number) = *self.loaded.get(hash)?;
        let next = number + 1;
        let is_loaded = self.loaded_order.iter().any(|(n, _)| *n == next);
        self.next = (!is_loaded && (next as usize) < self.frames.len()).then_some(next);
        Some(extent)
    }

    /// Makes a map's frames known. Returns the number of the first one.
    fn register(&mut self, frames: &List<MapFrame>) -> Option<u32> {
        let mut refs = Vec::new();
        let read = tree::each_map_frame(&self.base.packs, frames, |frame, _| {
            refs.push(frame);
            Ok(())
        });
        if let Err(why) = read {
            self.warnings
                .push(format!("blocks of an earlier snapshot cannot be looked up, and are stored again: {why}"));
        }
        if refs.iter().all(|frame| self.numbers.contains_key(&frame.hash)) {
            return refs.first().and_then(|first| self.numbers.get(&first.hash)).copied();
        }
        let first = self.frames.len() as u32;
        for frame in refs {
            self.numbers.insert(frame.hash, self.frames.len() as u32);
            self.frames.push(frame);
        }
        (self.frames.len() as u32 > first).then_some(first)
    }

    fn load(&mut self, number: u32) {
        if self.loaded_order.iter().any(|(n, _)| *n == number) {
            return;
        }
        let Some(frame) = self.frames.get(number as usize).copied() else { return };
        let runs = match tree::read_map_frame(&self.base.packs, &frame, &mut self.decoder) {
            Ok(runs) => runs,
            Err(why) => {
                self.warnings
                    .push(format!("blocks of an earlier snapshot cannot be looked up, and are stored again: {why}"));
                return;
            }
        };
        if self.loaded_order.len() >= LOADED
            && let Some((old, hashes)) = self.loaded_order.pop_front()
        {
            for hash in hashes {
                if self.loaded.get(&hash).is_some_and(|(_, n)| *n == old) {
                    self.loaded.remove(&hash);
                }
            }
        }
        let mut hashes = Vec::new();
        for run in runs.into_iter().filter(|run| self.base.has_extent(&run.extent)) {
            let mut offset = run.extent.offset;
            for (length, hash) in run.blocks {
                let extent = Extent { offset, length: u64::from(length), ..run.extent };
                offset += u64::from(length);
                self.loaded.insert(hash, (extent, number));
                hashes.push(hash);
            }
        }
        self.loaded_order.push_back((number, hashes));
    }

    /// Goes through all maps of the known snapshots once and keeps a sample of their blocks.
    fn sample(&mut self) {
        self.sampled = true;
        for hunk in self.base.hunks.iter().filter(|hunk| hunk.maps > 0) {
            match tree::read_hunk(&self.base.packs, hunk, &mut self.decoder) {
                Ok(entries) => {
                    // Blocks of page maps have other boundaries than all other blocks.
                    for map in entries.into_iter().filter_map(|entry| entry.map) {
                        map.blocks().map(|frames| self.register(frames));
                    }
                }
                Err(why) => self
                    .warnings
                    .push(format!("blocks of an earlier snapshot cannot be looked up, and are stored again: {why}")),
            }
        }
        (0..self.frames.len() as u32).for_each(|number| self.sample_frame(number));
    }

    /// Keeps a sample of the blocks of one frame.
    fn sample_frame(&mut self, number: u32) {
        let frame = self.frames[number as usize];
        match tree::read_map_frame(&self.base.packs, &frame, &mut self.decoder) {
            Ok(runs) => {
                for (n, (_, hash)) in runs.iter().flat_map(|run| &run.blocks).enumerate() {
                    let key = short(hash);
                    if (n == 0 || key as u8 & self.sample_mask == 0) && self.samples.len() <= SAMPLES {
                        self.samples.insert(key, number);
                    }
                }
            }
            Err(why) => self
                .warnings
                .push(format!("blocks of an earlier snapshot cannot be looked up, and are stored again: {why}")),
        }
        if self.samples.len() > SAMPLES {
            self.sample_mask = self.sample_mask << 1 | 1;
            let mask = self.sample_mask;
            self.samples.retain(|key, _| *key as u8 & mask == 0);
        }
    }
}
