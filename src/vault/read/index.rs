//! Index frames, checked against their hashes, and the lists that are in them.

use std::collections::HashSet;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::PackReader;
use crate::error::{Error, Kind, Result};
use crate::vault::decoder::Decoder;
use crate::vault::frame::FrameRef;
use crate::vault::hex::{Hash, PackId};
use crate::vault::list::{self, List};
use crate::vault::pack::{self, FrameAt, PackKind, SeekTable};

impl PackReader<'_> {
    /// Returns the content of an index frame, checked against its hash.
    ///
    /// # Errors
    /// The store fails; damage.
    pub fn index_frame(&self, frame: &FrameRef, decoder: &mut Decoder) -> Result<Vec<u8>> {
        if self.without.contains(&frame.pack) {
            let name = pack::name(PackKind::Index, frame.pack);
            return Err(Error::damage(format!("read {name}"), "it is missing or damaged, and nothing is built on it"));
        }
        self.noting_damage(frame.pack, PackKind::Index, self.checked_index_frame(frame, decoder))
    }

    fn checked_index_frame(&self, frame: &FrameRef, decoder: &mut Decoder) -> Result<Vec<u8>> {
        let table = self.table(frame.pack, PackKind::Index)?;
        match self.index_frame_with(&table, frame, decoder) {
            Err(why) if why.kind() == Kind::Damage => {
                let info = self.info(frame.pack, PackKind::Index)?;
                let is_another = |found: &SeekTable| found.beginning(frame.offset) != table.beginning(frame.offset);
                match self.rebuilt_table(info, is_another, &why)? {
                    Some(table) => self.index_frame_with(&table, frame, decoder),
                    None => Err(why),
                }
            }
            read => read,
        }
    }

    fn index_frame_with(&self, table: &SeekTable, frame: &FrameRef, decoder: &mut Decoder) -> Result<Vec<u8>> {
        let range = table.covering(frame.offset, frame.length);
        let number = range.filter(|range| range.len() == 1).map(|range| range.start);
        let Some(number) = number.filter(|&number| table.frames()[number].offset == frame.offset) else {
            let name = pack::name(PackKind::Index, frame.pack);
            let why = format!("no frame begins at {} of its content", frame.offset);
            return Err(Error::damage(format!("read {name}"), why));
        };
        let compressed = self.with_following(frame.pack, &table.frames()[number..])?;
        let mut content = Vec::new();
        let check = |content: &[u8]| match content.len() as u64 == frame.length && Hash::of(content) == frame.hash {
            true => Ok(()),
            false => Err(format!("the frame at {} of its content is not the one that was stored", frame.offset)),
        };
        let (pack, at) = ((frame.pack, PackKind::Index), &table.frames()[number]);
        self.decode_checked(pack, at, &compressed, decoder, &mut content, check)?;
        Ok(content)
    }

    /// Returns the compressed bytes of the first of these frames of an index pack. Where a request is expensive, it is
    /// read together with those that follow: a hunk, map or list is mostly wanted right after the one before it.
    fn with_following(&self, pack: PackId, frames: &[FrameAt]) -> Result<Vec<u8>> {
        let Some((frame, following)) = frames.split_first() else { return Ok(Vec::new()) };
        let length = u64::from(frame.compressed);
        if self.ahead == 0 {
            return self.range(pack, PackKind::Index, frame.at, length);
        }
        let cached = || self.cache.bytes(pack, frame.at, length);
        if let Some(bytes) = cached() {
            return Ok(bytes);
        }
        let info = self.cache.pack(self.info(pack, PackKind::Index)?);
        let _right = info.stretch();
        // Another thread may have read it while this one waited.
        if let Some(bytes) = cached() {
            return Ok(bytes);
        }
        let (until, next) = (frame.at + self.ahead, self.cache.next(pack, frame.at).unwrap_or(u64::MAX));
        let along = following.iter().take_while(|along| along.end() <= until && along.at < next).last();
        let length = along.unwrap_or(frame).end() - frame.at;
        let bytes = self.range(pack, PackKind::Index, frame.at, length)?;
        let bytes = Arc::new(bytes);
        self.cache.keep(pack, frame.at, bytes.clone());
        Ok(bytes.get(..frame.compressed as usize).unwrap_or_default().to_vec())
    }

    /// Returns all items of a list, in order.
    ///
    /// # Errors
    /// The store fails; damage.
    pub fn all<T: DeserializeOwned + Clone>(&self, list: &List<T>) -> Result<Vec<T>> {
        check_no_repeats(list)?;
        let mut all = Vec::new();
        self.each(list, |item| {
            all.push(item);
            Ok(())
        })?;
        Ok(all)
    }

    /// Calls `take` with every item of a list, in order.
    ///
    /// # Errors
    /// The store fails; damage; the errors of `take`.
    pub fn each<T: DeserializeOwned + Clone>(
        &self,
        list: &List<T>,
        mut take: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        match list {
            List::Items(items) => items.iter().cloned().try_for_each(take),
            List::Frames(frames) => {
                let mut decoder = Decoder::new()?;
                for frame in frames {
                    let bytes = self.index_frame(frame, &mut decoder)?;
                    let items = list::parse(&bytes).map_err(|why| {
                        Error::damage(format!("read {}", pack::name(PackKind::Index, frame.pack)), why)
                    })?;
                    items.into_iter().try_for_each(&mut take)?;
                }
                Ok(())
            }
        }
    }
}

/// Refuses a list that names one of its frames twice. No writer makes such a list of items that have a path or an id,
/// and with it a small root could be endless. The maps of files do repeat frames, where the files repeat themselves.
pub(super) fn check_no_repeats<T>(list: &List<T>) -> Result<()> {
    let List::Frames(frames) = list else { return Ok(()) };
    let mut seen = HashSet::new();
    match frames.iter().find(|frame| !seen.insert(**frame)) {
        Some(frame) => {
            let doing = format!("read {}", pack::name(PackKind::Index, frame.pack));
            Err(Error::damage(doing, "a list names a part of it twice"))
        }
        None => Ok(()),
    }
}
