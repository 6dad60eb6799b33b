//! Assembles a database: its blocks become layers of a page map, and the side files of a raw one wait for their place
//! in path order.

use std::collections::{HashMap, HashSet};

use super::large::IncomingFile;
use super::{Assembly, ended_early};
use crate::backup::message::{CapturedDatabase, CapturedFile, PageBlocks, ReadEvent, ScanResult, SettledLayer, Why};
use crate::backup::pages::compaction::credit;
use crate::error::Result;
use crate::vault::entry::{CaptureMethod, Entry, Extent, Map, MapForm, MapFrame, PackUse, PageMap, known_pages};
use crate::vault::hex::PackId;
use crate::vault::layers::compact::{blocks_of_layers, compact_layers, suffix_to_compact};
use crate::vault::list::{self, List};
use crate::vault::map::MapPart;
use crate::vault::pages::{LayerBuilder, Placed};

/// A database that is being assembled.
#[derive(Default)]
struct IncomingDatabase {
    builder: Option<LayerBuilder>,
    /// Frames of the layer that is being written.
    frames: Vec<MapFrame>,
    /// Layers that are finished.
    layers: Vec<FinishedLayer>,
    /// Number of blocks that were stored, by pack.
    put: HashMap<PackId, u64>,
    /// The side files, if it is raw.
    sides: Vec<Entry>,
}

/// A layer, and the index packs that hold its frames.
struct FinishedLayer {
    frames: List<MapFrame>,
    packs: HashSet<PackId>,
}

impl Assembly<'_> {
    /// Takes a database's content and the events that follow.
    pub(super) fn database(
        &mut self,
        known: Option<Box<Entry>>,
        sampled: bool,
        events: &mut impl Iterator<Item = ReadEvent>,
    ) -> Result<()> {
        let mut incoming = IncomingDatabase::default();
        loop {
            match events.next() {
                Some(ReadEvent::Pages(blocks)) => self.pages(&mut incoming, &blocks)?,
                Some(ReadEvent::Settle(reply)) => {
                    let settled = self.settle(&mut incoming)?;
                    // If the reader is gone, it has failed and reports that itself.
                    let _ = reply.send(settled);
                }
                Some(ReadEvent::Again) => incoming = IncomingDatabase::default(),
                Some(ReadEvent::Side) => {
                    // Without one of its files the database cannot be taken: its reader has reported why.
                    let Some(side) = self.side(events)? else { return Ok(()) };
                    incoming.sides.push(*side);
                }
                Some(ReadEvent::SidesAgain) => incoming.sides.clear(),
                Some(ReadEvent::Warn(what)) => self.warn(what),
                Some(ReadEvent::DatabaseEnd(ended)) => return self.database_end(incoming, known, sampled, *ended),
                Some(ReadEvent::Later(path, why)) => {
                    self.later.insert(path, why);
                    if !matches!(why, Why::Read(_)) {
                        return Ok(());
                    }
                }
                Some(ReadEvent::Stays(path)) => {
                    self.stays(&path);
                    return Ok(());
                }
                Some(ReadEvent::Failed(path, why, size)) => return self.unreadable(path, why, size),
                _ => return Err(ended_early()),
            }
        }
    }

    fn pages(&mut self, incoming: &mut IncomingDatabase, part: &PageBlocks) -> Result<()> {
        if part.bytes.is_empty() {
            return Ok(());
        }
        let whole = self.data.append(&[&part.bytes])?;
        let mut left = whole;
        for (block, tag) in &part.blocks {
            let length = left.length.min(u64::from(part.size));
            let extent = Extent { length, ..left };
            left = Extent { offset: left.offset + length, length: left.length - length, ..left };
            let builder = incoming.builder.get_or_insert_with(|| LayerBuilder::new(part.size));
            let done = builder.push(&Placed { block: *block, extent, tag: *tag });
            self.layer_part(incoming, done)?;
        }
        if let Some(pack) = whole.pack {
            *incoming.put.entry(pack).or_default() += part.blocks.len() as u64;
        }
        Ok(())
    }

    fn layer_part(&mut self, incoming: &mut IncomingDatabase, part: Option<MapPart>) -> Result<()> {
        if let Some(part) = part {
            let frame = self.index.store(&part.bytes)?;
            incoming.frames.push(MapFrame { frame, content: part.content });
        }
        Ok(())
    }

    /// Ends the layer that is being written. Returns whether it has any blocks.
    fn end_layer(&mut self, incoming: &mut IncomingDatabase) -> Result<bool> {
        let part = incoming.builder.as_mut().and_then(LayerBuilder::finish);
        self.layer_part(incoming, part)?;
        let frames = std::mem::take(&mut incoming.frames);
        if frames.is_empty() {
            return Ok(false);
        }
        let layer = self.layer(frames)?;
        incoming.layers.push(layer);
        Ok(true)
    }

    fn layer(&mut self, frames: Vec<MapFrame>) -> Result<FinishedLayer> {
        let mut packs: HashSet<PackId> = frames.iter().map(|frame| frame.frame.pack).collect();
        let index = &mut self.index;
        let frames = list::write(frames, |frame| {
            let frame = index.store(&frame.finish(&[]))?;
            packs.insert(frame.pack);
            Ok(frame)
        })?;
        Ok(FinishedLayer { frames, packs })
    }

    /// Makes what was sent so far a layer, and durable, so that a reader can compare with it.
    fn settle(&mut self, incoming: &mut IncomingDatabase) -> Result<SettledLayer> {
        let layer =
            if self.end_layer(incoming)? { incoming.layers.last().map(|layer| layer.frames.clone()) } else { None };
        self.data.flush()?;
        self.index.flush()?;
        let stored = self.packer.drain()?;
        self.stored.extend(stored.iter().map(|info| (info.id, *info)));
        self.publish_index()?;
        // Later passes name the packs of all earlier ones.
        Ok(SettledLayer { layer, packs: self.stored.values().copied().collect() })
    }

    /// Takes a side file of a raw database. `None` if the database could not be read.
    fn side(&mut self, events: &mut impl Iterator<Item = ReadEvent>) -> Result<Option<Box<Entry>>> {
        let mut file = IncomingFile::default();
        self.block_index.begin(None);
        loop {
            match events.next() {
                Some(ReadEvent::Blocks(bytes, blocks)) => {
                    self.read_bytes += bytes.len() as u64;
                    self.blocks(&mut file, &bytes, &blocks)?;
                }
                Some(ReadEvent::Hole(length)) => self.hole(&mut file, length)?,
                Some(ReadEvent::SideEnd(content)) => {
                    let CapturedFile { found, extra, hash, racy, .. } = *content;
                    let mut entry = self.entry_of(found, extra, Some(hash));
                    entry.racy |= racy;
                    if entry.size > 0 {
                        entry.map = Some(self.block_map(file)?);
                    }
                    return self.place(entry, None).map(Some);
                }
                Some(ReadEvent::Stays(path)) => {
                    self.stays(&path);
                    return Ok(None);
                }
                Some(ReadEvent::Failed(path, why, size)) => {
                    self.unreadable(path, why, size)?;
                    return Ok(None);
                }
                _ => return Err(ended_early()),
            }
        }
    }

    fn database_end(
        &mut self,
        mut incoming: IncomingDatabase,
        known: Option<Box<Entry>>,
        sampled: bool,
        ended: CapturedDatabase,
    ) -> Result<()> {
        let CapturedDatabase { content, mut database, why, over_known, scanned } = ended;
        // A side file that came and went while it was looked for was not taken.
        let taken = |ending: &str| incoming.sides.iter().any(|side| side.path.bytes().ends_with(ending.as_bytes()));
        if database.taken == CaptureMethod::Raw {
            database.wal = database.wal.filter(|_| taken("-wal"));
            database.journal = database.journal.filter(|_| taken("-journal"));
        }
        self.read_bytes += scanned.read;
        self.end_layer(&mut incoming)?;
        let path = content.found.path.clone();
        if let Some(why) = why.as_ref().filter(|_| !content.torn) {
            self.warn(format!("{path} is taken raw, unchecked: {why}"));
        }
        if let Some(what) = database.check.as_ref().and_then(|check| check.failed.as_ref()).filter(|_| !content.torn) {
            self.warn(format!("{path} failed its check: {what}"));
        }
        let raw = database.taken == CaptureMethod::Raw;
        let untouched = incoming.layers.is_empty() && over_known && !raw;
        let mut checked = known.clone();
        if let Some(checked) = &mut checked {
            checked.database = Some(database.clone());
        }
        let torn = content.torn.then(|| content.note.clone().unwrap_or_default());
        self.databases.retain(|base| path.bytes().starts_with(base.bytes()));
        self.databases.push(path.clone());
        let sides = std::mem::take(&mut incoming.sides);
        // If a sampled database is unchanged, its entry stays; only the result of its check is new.
        let Some(mut entry) = self.read(content, checked.as_deref(), sampled && untouched)? else { return Ok(()) };
        entry.database = Some(database);
        let below = known.as_deref().filter(|_| over_known);
        entry.map = Some(match below.and_then(|known| known.map.as_ref()) {
            Some(map) if incoming.layers.is_empty() && below.is_some_and(|known| known.size == entry.size) => {
                map.clone()
            }
            _ => self.page_map(incoming, below, &entry, &scanned)?,
        });
        let entry = self.place(entry, known.as_deref())?;
        self.reasons.extend(why.map(|why| (entry.path.clone(), why)));
        self.add_read(entry, sides, torn)
    }

    /// Returns the map of a database whose new layers lie over the layers of `below`.
    fn page_map(
        &mut self,
        incoming: IncomingDatabase,
        below: Option<&Entry>,
        entry: &Entry,
        scanned: &ScanResult,
    ) -> Result<Map> {
        let known = below.and_then(known_pages);
        let block = scanned.block;
        let mut layers = match known.zip(below) {
            Some((known, below)) => self.compacted_layers(known, below.size)?,
            None => Vec::new(),
        };
        layers.extend(incoming.layers);
        let mut uses: HashMap<PackId, PackUse> = HashMap::new();
        for used in known.iter().flat_map(|known| &known.live) {
            uses.insert(used.pack, *used);
        }
        for (pack, blocks) in incoming.put {
            let used = uses.entry(pack).or_insert(PackUse { pack, live: 0, stored: 0 });
            (used.live, used.stored) = (used.live + blocks, used.stored + blocks);
        }
        for (pack, blocks) in &scanned.freed {
            if let Some(used) = uses.get_mut(pack) {
                used.live = used.live.saturating_sub(*blocks);
            }
        }
        let mut live: Vec<PackUse> = uses.into_values().filter(|used| used.live > 0).collect();
        live.sort_by_key(|used| used.pack);
        let mut packs: Vec<PackId> = live.iter().map(|used| used.pack).collect();
        let mut index: Vec<PackId> = layers.iter().flat_map(|layer| &layer.packs).copied().collect();
        index.sort();
        index.dedup();
        packs.extend(index);
        let layers = layers.into_iter().map(|layer| layer.frames).collect();
        let blocks = entry.size.div_ceil(u64::from(block));
        let saved = known.map_or(0, |known| credit(known.credit, scanned.changed, scanned.moved, blocks));
        Ok(Map { form: MapForm::Pages(PageMap { block, layers, live, credit: saved }), packs })
    }

    /// Returns the layers of an entry's map; if there are many, the newest ones are compacted into one.
    fn compacted_layers(&mut self, known: &PageMap, size: u64) -> Result<Vec<FinishedLayer>> {
        let packs = &self.base.packs;
        let first = suffix_to_compact(&blocks_of_layers(packs, known)?).unwrap_or(known.layers.len());
        let mut layers = Vec::new();
        for frames in &known.layers[..first] {
            let mut reached = HashSet::new();
            if let List::Frames(frames) = frames {
                reached.extend(frames.iter().map(|frame| frame.pack));
            }
            packs.each(frames, |frame: MapFrame| {
                reached.insert(frame.frame.pack);
                Ok(())
            })?;
            layers.push(FinishedLayer { frames: frames.clone(), packs: reached });
        }
        if first < known.layers.len() {
            let index = &mut self.index;
            let frames = compact_layers(packs, known, first, size, |part| index.store(&part.bytes))?;
            if !frames.is_empty() {
                layers.push(self.layer(frames)?);
            }
        }
        Ok(layers)
    }
}
