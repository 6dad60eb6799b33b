//! Reading packs: seek tables, frames, and the lists that roots keep in index frames.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;

use super::entry::{Extent, FrameRef};
use super::hex::{Hash, PackId};
use super::list::{self, List};
use super::pack::{self, FrameAt, PackInfo, PackKind, SeekTable, Tail};
use super::root::{PackBook, Root};
use crate::error::{Error, Result};
use crate::store::Store;

/// Read from a pack's end to find its seek table: enough for 2,000 frames.
const TAIL: u64 = 16 << 10;
/// Seek tables that are kept.
const TABLES: usize = 1024;

/// Reads content out of the packs that a snapshot names; shared by threads.
pub struct PackReader<'v> {
    store: &'v dyn Store,
    book: PackBook,
    tables: Mutex<HashMap<PackId, Arc<SeekTable>>>,
}

/// Decompresses frames, reusing its memory.
pub struct Decoder(zstd::bulk::Decompressor<'static>);

impl Decoder {
    /// A new decoder.
    ///
    /// # Errors
    /// No memory for it.
    pub fn new() -> Result<Self> {
        zstd::bulk::Decompressor::new().map(Decoder).map_err(|e| Error::failed("start zstd", e))
    }

    /// Decompresses one frame, which must have exactly `length` bytes of content, into `out`, which is overwritten.
    ///
    /// # Errors
    /// Text that says what is wrong with the frame.
    pub fn frame(&mut self, compressed: &[u8], length: u32, out: &mut Vec<u8>) -> Result<(), String> {
        out.clear();
        out.reserve_exact(length as usize);
        // The buffer's capacity is the limit: a frame that claims or holds more is refused.
        let got = self.0.decompress_to_buffer(compressed, out).map_err(|e| format!("zstd: {e}"))?;
        if got != length as usize {
            return Err(format!("a frame has {got} bytes of content where its pack's table says {length}"));
        }
        Ok(())
    }
}

impl<'v> PackReader<'v> {
    /// Reads the packs of `book`.
    pub fn new(store: &'v dyn Store, book: PackBook) -> Self {
        PackReader { store, book, tables: Mutex::default() }
    }

    /// A reader for everything that `root` reaches; reads the root's pack list where that is in frames.
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn for_root(store: &'v dyn Store, root: &Root) -> Result<Self> {
        let holders = root.holders().map(|p| (p.id, *p)).collect();
        let mut reader = PackReader::new(store, holders);
        let mut all = HashMap::new();
        reader.each(&root.packs.list, |info: PackInfo| {
            all.insert(info.id, info);
            Ok(())
        })?;
        reader.book.extend(all);
        Ok(reader)
    }

    /// A reader that knows more packs.
    pub fn with(&self, more: impl IntoIterator<Item = PackInfo>) -> PackReader<'v> {
        let mut reader = PackReader::new(self.store, self.book.clone());
        reader.learn(more);
        reader
    }

    /// The packs that it knows.
    pub fn book(&self) -> &PackBook {
        &self.book
    }

    /// Makes more packs known.
    pub fn learn(&mut self, packs: impl IntoIterator<Item = PackInfo>) {
        self.book.extend(packs.into_iter().map(|p| (p.id, p)));
    }

    fn info(&self, pack: PackId, kind: PackKind) -> Result<&PackInfo> {
        let info = self.book.get(&pack).filter(|info| info.kind == kind);
        info.ok_or_else(|| {
            let name = pack::name(kind, pack);
            Error::damage(format!("read {name}"), "the snapshot refers to it without listing it")
        })
    }

    /// A pack's seek table.
    ///
    /// # Errors
    /// A store that fails; a pack that is missing, of another size or without a table.
    pub fn table(&self, pack: PackId, kind: PackKind) -> Result<Arc<SeekTable>> {
        let tables = || self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables().get(&pack) {
            return Ok(table.clone());
        }
        let info = self.info(pack, kind)?;
        let name = info.name();
        let damage = |why: String| Error::damage(format!("read {name}"), why);
        let mut wanted = TAIL.min(info.size);
        let table = loop {
            let tail = self.store.get_range(&name, info.size - wanted, wanted);
            let tail = tail.map_err(|e| e.while_doing(format!("read the seek table of {name}")))?;
            match SeekTable::parse(&tail, info.size).map_err(damage)? {
                Tail::Table(table) => break Arc::new(table),
                Tail::Longer(length) => wanted = length,
            }
        };
        if table.content() != info.content {
            let why = format!("it has {} bytes of content, and {} were stored", table.content(), info.content);
            return Err(damage(why));
        }
        let mut tables = tables();
        if tables.len() >= TABLES {
            tables.clear();
        }
        tables.insert(pack, table.clone());
        Ok(table)
    }

    /// The compressed bytes of consecutive frames.
    ///
    /// # Errors
    /// A store that fails; a pack that is missing or short.
    pub fn compressed(&self, pack: PackId, kind: PackKind, frames: &[FrameAt]) -> Result<Vec<u8>> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(Vec::new()) };
        let name = pack::name(kind, pack);
        let length = last.at + u64::from(last.compressed) - first.at;
        self.store.get_range(&name, first.at, length).map_err(|e| e.while_doing(format!("read {name}")))
    }

    /// The content of an index frame, checked against its hash.
    ///
    /// # Errors
    /// A store that fails; damage.
    pub fn index_frame(&self, frame: &FrameRef, decoder: &mut Decoder) -> Result<Vec<u8>> {
        let name = pack::name(PackKind::Index, frame.pack);
        let damage = |why: String| Error::damage(format!("read {name}"), why);
        let table = self.table(frame.pack, PackKind::Index)?;
        let at = table.covering(frame.offset, frame.length).map(|range| &table.frames()[range]);
        let Some([at]) = at.filter(|at| at.len() == 1 && at[0].offset == frame.offset) else {
            return Err(damage(format!("no frame begins at {} of its content", frame.offset)));
        };
        let mut content = Vec::new();
        let compressed = self.compressed(frame.pack, PackKind::Index, std::slice::from_ref(at))?;
        decoder.frame(&compressed, at.length, &mut content).map_err(damage)?;
        if content.len() as u64 != frame.length || Hash::of(&content) != frame.hash {
            return Err(damage(format!("the frame at {} of its content is not the one that was stored", frame.offset)));
        }
        Ok(content)
    }

    /// The content of an extent of data, at most `limit` bytes.
    ///
    /// # Errors
    /// A store that fails; damage; an extent longer than `limit`.
    pub fn extent(&self, extent: &Extent, limit: u64, decoder: &mut Decoder) -> Result<Vec<u8>> {
        if extent.length > limit {
            let why = format!("a piece of {} bytes where at most {limit} belong", extent.length);
            return Err(Error::damage("read a snapshot", why));
        }
        let Some(pack) = extent.pack else { return Ok(vec![0; extent.length as usize]) };
        let table = self.table(pack, PackKind::Data)?;
        let name = pack::name(PackKind::Data, pack);
        let damage = |why: String| Error::damage(format!("read {name}"), why);
        let range = table.covering(extent.offset, extent.length);
        let frames =
            &table.frames()[range.ok_or_else(|| damage("an entry refers to what lies beyond its end".into()))?];
        let (mut out, mut content) = (Vec::with_capacity(extent.length as usize), Vec::new());
        for frame in frames {
            let compressed = self.compressed(pack, PackKind::Data, std::slice::from_ref(frame))?;
            decoder.frame(&compressed, frame.length, &mut content).map_err(damage)?;
            let from = extent.offset.saturating_sub(frame.offset) as usize;
            let to = (extent.end() - frame.offset).min(u64::from(frame.length)) as usize;
            out.extend_from_slice(&content[from..to]);
        }
        Ok(out)
    }

    /// Calls `take` with every item of a list, in order.
    ///
    /// # Errors
    /// A store that fails; damage; those of `take`.
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

/// The packs that are missing or of another size than they should be, and which of both.
///
/// # Errors
/// A store that fails.
pub fn absent<'p>(store: &dyn Store, packs: impl Iterator<Item = &'p PackInfo>) -> Result<Vec<(PackInfo, String)>> {
    let mut sizes = HashMap::new();
    for folder in ["packs/", "index/"] {
        let listed = store.list(folder).map_err(|e| e.while_doing(format!("list {folder} of {}", store.url())))?;
        sizes.extend(listed.into_iter().map(|object| (object.name, object.size)));
    }
    let wrong = packs.filter_map(|pack| match sizes.get(&pack.name()) {
        None => Some((*pack, "it is missing".to_owned())),
        Some(size) if *size != pack.size => {
            Some((*pack, format!("it has {size} bytes, and {} were stored", pack.size)))
        }
        Some(_) => None,
    });
    let mut wrong: Vec<_> = wrong.collect();
    wrong.sort_by_key(|(pack, _)| pack.name());
    Ok(wrong)
}
