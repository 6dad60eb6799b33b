//! Assembles a large file: its blocks are looked up, stored if they are new, and recorded in a map.

use super::{Assembly, ended_early};
use crate::backup::message::{CapturedFile, ReadEvent};
use crate::error::Result;
use crate::vault::entry::{Entry, Map, MapForm, MapFrame};
use crate::vault::hex::{Hash, PackId};
use crate::vault::list::{self, List};
use crate::vault::map::{MapBuilder, MapPart};

/// A large file that is being assembled.
#[derive(Default)]
pub(super) struct IncomingFile {
    pub(super) known: Option<Box<Entry>>,
    pub(super) sampled: bool,
    pub(super) map: MapBuilder,
    pub(super) frames: Vec<MapFrame>,
    pub(super) packs: Vec<PackId>,
}

impl Assembly<'_> {
    /// Takes a large file's content, and records it in a map.
    pub(super) fn large(
        &mut self,
        known: Option<Box<Entry>>,
        sampled: bool,
        events: &mut impl Iterator<Item = ReadEvent>,
    ) -> Result<()> {
        let map = MapBuilder::default;
        self.block_index.begin(known.as_deref());
        let mut file = IncomingFile { known, sampled, map: map(), frames: Vec::new(), packs: Vec::new() };
        loop {
            match events.next() {
                Some(ReadEvent::Blocks(bytes, blocks)) => {
                    self.read_bytes += bytes.len() as u64;
                    self.blocks(&mut file, &bytes, &blocks)?;
                }
                Some(ReadEvent::Hole(length)) => self.hole(&mut file, length)?,
                Some(ReadEvent::Again) => {
                    self.block_index.begin(file.known.as_deref());
                    file = IncomingFile { map: map(), frames: Vec::new(), packs: Vec::new(), ..file };
                }
                Some(ReadEvent::Later(path, why)) => _ = self.later.insert(path, why),
                Some(ReadEvent::Shrank) => self.shrank = true,
                Some(ReadEvent::End(content)) => {
                    for warning in self.block_index.warnings() {
                        self.warn(warning);
                    }
                    return self.large_end(file, content);
                }
                Some(ReadEvent::Stays(path)) => {
                    self.stays(&path);
                    return Ok(());
                }
                Some(ReadEvent::Failed(path, why, size)) => {
                    return self.unreadable(path, why, size);
                }
                _ => return Err(ended_early()),
            }
        }
    }

    pub(super) fn hole(&mut self, file: &mut IncomingFile, length: u64) -> Result<()> {
        let part = file.map.push_hole(length);
        self.map_part(file, part)
    }

    pub(super) fn blocks(&mut self, file: &mut IncomingFile, bytes: &[u8], blocks: &[(u32, Hash)]) -> Result<()> {
        let mut at = 0;
        for (length, hash) in blocks {
            let block = &bytes[at..at + *length as usize];
            at += block.len();
            let extent = match self.block_index.find(hash, *length) {
                Some(extent) => extent,
                None => {
                    let extent = self.data.append(&[block])?;
                    self.block_index.remember(*hash, extent);
                    extent
                }
            };
            let part = file.map.push(extent, *hash);
            self.map_part(file, part)?;
        }
        Ok(())
    }

    pub(super) fn map_part(&mut self, file: &mut IncomingFile, part: Option<MapPart>) -> Result<()> {
        let Some(part) = part else { return Ok(()) };
        let frame = match self.block_index.frame(&Hash::of(&part.bytes)) {
            Some(frame) => frame,
            None => self.index.store(&part.bytes)?,
        };
        for pack in part.packs.iter().chain([&frame.pack]) {
            if !file.packs.contains(pack) {
                file.packs.push(*pack);
            }
        }
        file.frames.push(MapFrame { frame, content: part.content });
        Ok(())
    }

    pub(super) fn large_end(&mut self, mut file: IncomingFile, content: CapturedFile) -> Result<()> {
        let torn = content.note.clone().filter(|_| content.torn);
        let Some(mut entry) = self.read(content, file.known.as_deref(), file.sampled)? else { return Ok(()) };
        let same = |k: &&Entry| k.hash == entry.hash && k.size == entry.size && known_blocks(k).is_some();
        if let Some(known) = file.known.as_deref().filter(same) {
            entry.map = known.map.clone();
        } else {
            let known = file.known.take();
            entry.map = Some(self.block_map(file)?);
            let entry = self.place(entry, known.as_deref())?;
            return self.add_read(entry, Vec::new(), torn);
        }
        let entry = self.place(entry, file.known.as_deref())?;
        self.add_read(entry, Vec::new(), torn)
    }

    /// Ends the map of a file whose blocks have all come.
    pub(super) fn block_map(&mut self, mut file: IncomingFile) -> Result<Map> {
        let part = file.map.finish();
        self.map_part(&mut file, part)?;
        let (mut packs, index) = (file.packs, &mut self.index);
        let frames = list::write(file.frames, |frame| {
            let frame = index.store(&frame.finish(&[]))?;
            if !packs.contains(&frame.pack) {
                packs.push(frame.pack);
            }
            Ok(frame)
        })?;
        Ok(Map { form: MapForm::Blocks(frames), packs })
    }
}

/// Returns the frames of a known entry's map. `None` if it has no map, or a page map, whose blocks are of another
/// kind.
pub(super) fn known_blocks(known: &Entry) -> Option<&List<MapFrame>> {
    known.map.as_ref().and_then(Map::blocks)
}
