//! Reads packs: seek tables, frames, and the lists that roots keep in index frames.
//!
//! Where a request is expensive, as on a bucket, fewer are made: an index frame is read together with those that follow
//! it, a small pack or the end of an index pack together with its seek table, and what was read along is cached for a
//! while. Elsewhere only what is asked for is read.
//!
//! A pack whose seek table is damaged is read without it, frame by frame, since frames tell their own lengths. That is
//! reported all the same, as damage: see [`PackReader::mended`].

mod index;
mod cache;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use self::cache::PackCache;
use self::index::check_no_repeats;
use super::decoder::Decoder;
use super::entry::Extent;
use super::hex::PackId;
use super::pack::{self, FrameAt, PackInfo, PackKind, SeekTable, Tail};
use super::root::{PackBook, Root};
use super::state::PackState;
use crate::error::{Error, Kind, Result};
use crate::parallel::ordered::map_ordered;
use crate::store::Store;
use crate::vault::frames;

/// Bytes that are read from a pack's end to find its seek table: enough for 2,000 frames.
const TAIL: u64 = 16 << 10;
/// Nothing is read along if a request costs no more than this many bytes, as on a disk.
const NEAR: u64 = 128 << 10;

/// Reads content out of the packs that a snapshot names. Threads may share it.
pub struct PackReader<'v> {
    store: &'v dyn Store,
    book: PackBook,
    cache: Arc<PackCache>,
    /// Up to this many bytes are read along with what is asked for, if they are likely to be wanted.
    ahead: u64,
    /// Whether a pack with a damaged seek table is read all the same.
    mends: bool,
    /// Index packs that count as lost for this reader, whether or not the store has them.
    without: Arc<HashSet<PackId>>,
}

/// Reads something that shows by itself whether it is right; the inner result of `read` says what is wrong with it.
/// Bytes can flip on their way, so that something wrong is read once more, and is damage if it is wrong again.
///
/// # Errors
/// The errors of `read`; damage.
pub fn twice<T>(name: &str, mut read: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    match read()? {
        Ok(right) => return Ok(right),
        Err(why) => tracing::info!("{name} is read once more: {why}"),
    }
    read()?.map_err(|why| Error::damage(format!("read {name}"), why))
}

impl<'v> PackReader<'v> {
    /// Returns a reader of the packs of `book`.
    pub fn new(store: &'v dyn Store, book: PackBook) -> Self {
        let worth = store.request_worth();
        let ahead = if worth > NEAR { worth } else { 0 };
        PackReader { store, book, cache: Arc::default(), ahead, mends: true, without: Arc::default() }
    }

    /// Returns this reader, but a pack with a damaged seek table counts as lost for it. This is for writers: what they
    /// build on such a pack would stay damaged with every snapshot that names it, and what they do not find they store
    /// again.
    pub fn strict(self) -> Self {
        PackReader { mends: false, ..self }
    }

    /// Returns this reader, but the index packs among `packs` count as lost for it. This is for writers: a frame that
    /// can still be read may lie in a pack that is damaged elsewhere, and a writer that builds on it would name the
    /// pack once more.
    pub fn without(self, packs: HashSet<PackId>) -> Self {
        PackReader { without: Arc::new(packs), ..self }
    }

    /// Returns what to report of packs, by name, that this reader and those that share its cache found damaged and
    /// could read all the same.
    pub fn mended(&self) -> BTreeMap<String, String> {
        self.cache.mended()
    }

    /// Returns a reader of everything that `root` reaches; reads the root's pack list if that is in frames.
    ///
    /// # Errors
    /// The store fails; damage.
    pub fn for_root(store: &'v dyn Store, root: &Root) -> Result<Self> {
        PackReader::new(store, PackBook::default()).for_another(root)
    }

    /// Like [`PackReader::for_root`], for another root of the vault. The two readers share what either of them has
    /// read.
    ///
    /// # Errors
    /// The store fails; damage.
    pub fn for_another(&self, root: &Root) -> Result<PackReader<'v>> {
        let mut reader = self.of(root.holders().map(|p| (p.id, *p)).collect());
        let mut all = HashMap::new();
        check_no_repeats(&root.packs.list)?;
        reader.each(&root.packs.list, |info: PackInfo| {
            all.insert(info.id, info);
            Ok(())
        })?;
        reader.book.extend(all);
        Ok(reader)
    }

    /// Returns a reader that knows these packs too.
    pub fn with(&self, more: impl IntoIterator<Item = PackInfo>) -> PackReader<'v> {
        let mut reader = self.of(self.book.clone());
        reader.learn(more);
        reader
    }

    fn of(&self, book: PackBook) -> PackReader<'v> {
        let (cache, without) = (self.cache.clone(), self.without.clone());
        PackReader { store: self.store, book, cache, ahead: self.ahead, mends: self.mends, without }
    }

    /// Returns the packs that it knows.
    pub fn book(&self) -> &PackBook {
        &self.book
    }

    /// Adds packs to those that it knows.
    pub fn learn(&mut self, packs: impl IntoIterator<Item = PackInfo>) {
        self.book.extend(packs.into_iter().map(|p| (p.id, p)));
    }

    /// Returns the store that the packs are in.
    pub fn store(&self) -> &'v dyn Store {
        self.store
    }

    fn info(&self, pack: PackId, kind: PackKind) -> Result<&PackInfo> {
        let info = self.book.get(&pack).filter(|info| info.kind == kind);
        info.ok_or_else(|| {
            let name = pack::name(kind, pack);
            Error::damage(format!("read {name}"), "the snapshot refers to it without listing it")
        })
    }

    /// Returns a pack's seek table; a damaged one is rebuilt from the frames. If several threads ask for it at the same
    /// time, one of them reads it.
    ///
    /// # Errors
    /// The store fails; the pack is missing, has another size or no seek table, and its frames are damaged too.
    pub fn table(&self, pack: PackId, kind: PackKind) -> Result<Arc<SeekTable>> {
        self.noting_damage(pack, kind, self.find_table(pack, kind))
    }

    /// Remembers that a pack seems damaged, if that is what reading it came to.
    fn noting_damage<T>(&self, pack: PackId, kind: PackKind, read: Result<T>) -> Result<T> {
        if let Err(why) = &read
            && why.kind() == Kind::Damage
            && let Ok(info) = self.info(pack, kind)
        {
            self.cache.suspect(*info, why.what());
        }
        read
    }

    /// Returns the packs that this reader, or one that shares its cache, could not read because of damage, and why. The
    /// fault may also lie in what refers to them.
    pub fn suspects(&self) -> Vec<(PackInfo, String)> {
        self.cache.suspects()
    }

    fn find_table(&self, pack: PackId, kind: PackKind) -> Result<Arc<SeekTable>> {
        let info = self.info(pack, kind)?;
        let pack = self.cache.pack(info);
        let mut known = pack.table();
        if let Some(table) = &*known {
            return Ok(table.clone());
        }
        let table = match twice(&info.name(), || self.read_table(info)) {
            Ok(table) => Arc::new(table),
            Err(why) if why.kind() == Kind::Damage => match self.rebuilt_table(info, |_| true, &why)? {
                Some(table) => table,
                None => return Err(why),
            },
            Err(why) => return Err(why),
        };
        Ok(known.insert(table).clone())
    }

    /// Returns the table that a pack's frames give, if it `differs` from what the seek table says, which led to `why`.
    /// In this case it also reports that the seek table is not used.
    fn rebuilt_table(
        &self,
        info: &PackInfo,
        differs: impl Fn(&SeekTable) -> bool,
        why: &Error,
    ) -> Result<Option<Arc<SeekTable>>> {
        let Some(table) = self.table_of_frames(info)?.filter(|table| differs(table)) else { return Ok(None) };
        let what = format!(
            "the seek table of {} is damaged ({}); its content was found without it and is checked as always. Put the object back \
             from another copy of the vault, if there is one; what damaged it may damage more",
            info.name(),
            why.what()
        );
        self.cache.note_mended(info.name(), what);
        Ok(Some(table))
    }

    /// Returns the table that a pack's frames give; `None` if they are damaged too. A pack is gone through only once.
    fn table_of_frames(&self, info: &PackInfo) -> Result<Option<Arc<SeekTable>>> {
        if !self.mends {
            return Ok(None);
        }
        let pack = self.cache.pack(info);
        let mut known = pack.walked();
        if let Some(table) = &*known {
            return Ok(table.clone());
        }
        let _one = self.cache.walk();
        let name = info.name();
        let found = match frames::find(info, |at, length| self.store.get_range(&name, at, length)) {
            Ok(found) => found,
            // The pack is missing, or was cut shorter than that.
            Err(why) if why.kind() == Kind::Damage => Err(why.what()),
            Err(why) => return Err(why),
        };
        let table = found.map_err(|why| tracing::info!("the frames of {name} give no seek table: {why}")).ok();
        Ok(known.insert(table.map(Arc::new)).clone())
    }

    /// Reads a pack's end, and caches it if it holds more than the table. The inner error says what is wrong with the
    /// table.
    fn read_table(&self, info: &PackInfo) -> Result<Result<SeekTable, String>> {
        let name = info.name();
        let along = info.kind == PackKind::Index || info.size <= self.ahead;
        let mut wanted = if along { TAIL.max(self.ahead) } else { TAIL }.min(info.size);
        loop {
            let at = info.size - wanted;
            let tail = self.store.get_range(&name, at, wanted);
            let tail = tail.map_err(|e| e.while_doing(format!("read the seek table of {name}")))?;
            match SeekTable::parse(&tail, info.size) {
                Ok(Tail::Longer(length)) if length > wanted => wanted = length,
                Ok(Tail::Table(table)) if table.content() == info.content => {
                    if self.ahead > 0 && along {
                        self.cache.keep(info.id, at, Arc::new(tail));
                    }
                    return Ok(Ok(table));
                }
                Ok(Tail::Table(table)) => {
                    let content = table.content();
                    return Ok(Err(format!("it has {content} bytes of content, and {} were stored", info.content)));
                }
                Ok(Tail::Longer(_)) => return Ok(Err("its seek table is longer than it says".into())),
                Err(why) => return Ok(Err(why)),
            }
        }
    }

    /// Returns the compressed bytes of consecutive frames.
    ///
    /// # Errors
    /// The store fails; the pack is missing or short.
    pub fn compressed(&self, pack: PackId, kind: PackKind, frames: &[FrameAt]) -> Result<Vec<u8>> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(Vec::new()) };
        let length = last.end() - first.at;
        if self.ahead > 0
            && let Some(bytes) = self.cache.bytes(pack, first.at, length)
        {
            return Ok(bytes);
        }
        self.range(pack, kind, first.at, length)
    }

    fn range(&self, pack: PackId, kind: PackKind, at: u64, length: u64) -> Result<Vec<u8>> {
        let name = pack::name(kind, pack);
        self.store.get_range(&name, at, length).map_err(|e| e.while_doing(format!("read {name}")))
    }

    /// Returns the compressed bytes of a frame from the store itself, since those that it gave before are not right.
    ///
    /// # Errors
    /// The store fails; the pack is missing or short.
    pub fn read_again(&self, (pack, kind): (PackId, PackKind), frame: &FrameAt) -> Result<Vec<u8>> {
        self.cache.forget(pack, frame.at);
        self.range(pack, kind, frame.at, u64::from(frame.compressed))
    }

    /// Decompresses `frame`, whose compressed bytes are `compressed`, into `out`. If the bytes are not what they should
    /// be, they are read again, once.
    ///
    /// # Errors
    /// The store fails; damage.
    pub fn decode(
        &self,
        (pack, kind): (PackId, PackKind),
        frame: &FrameAt,
        compressed: &[u8],
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let done = match self.decode_checked((pack, kind), frame, compressed, decoder, out, |_| Ok(())) {
            Err(why) if why.kind() == Kind::Damage => self.decode_by_frames((pack, kind), frame, why, decoder, out),
            done => done,
        };
        self.noting_damage(pack, kind, done)
    }

    /// Puts the content that the seek table claims for `frame` into `out`, after decompressing the frame failed because
    /// of `why`. If the table is wrong although it adds up, the content is in other frames.
    fn decode_by_frames(
        &self,
        (pack, kind): (PackId, PackKind),
        frame: &FrameAt,
        why: Error,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let is_another = |table: &SeekTable| table.beginning(frame.offset) != Some(frame);
        let Some(table) = self.rebuilt_table(self.info(pack, kind)?, is_another, &why)? else { return Err(why) };
        let extent = Extent { pack: Some(pack), offset: frame.offset, length: u64::from(frame.length) };
        let Some(range) = table.covering(extent.offset, extent.length) else { return Err(why) };
        out.clear();
        let mut content = Vec::new();
        for frame in &table.frames()[range] {
            let compressed = self.read_again((pack, kind), frame)?;
            self.decode_checked((pack, kind), frame, &compressed, decoder, &mut content, |_| Ok(()))?;
            out.extend_from_slice(within(frame, &content, &extent));
        }
        Ok(())
    }

    fn decode_checked(
        &self,
        (pack, kind): (PackId, PackKind),
        frame: &FrameAt,
        compressed: &[u8],
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
        check: impl Fn(&[u8]) -> Result<(), String>,
    ) -> Result<()> {
        let mut decode =
            |compressed: &[u8]| decoder.frame(compressed, frame.length, out).and_then(|()| check(out.as_slice()));
        let mut first = Some(compressed);
        twice(&pack::name(kind, pack), || match first.take() {
            Some(compressed) => Ok(decode(compressed)),
            None => Ok(decode(&self.read_again((pack, kind), frame)?)),
        })
    }

    /// Returns the content of an extent of data, at most `limit` bytes.
    ///
    /// # Errors
    /// The store fails; damage; the extent is longer than `limit`.
    pub fn extent(&self, extent: &Extent, limit: u64, decoder: &mut Decoder) -> Result<Vec<u8>> {
        if extent.length > limit {
            let why = format!("a piece of {} bytes where at most {limit} belong", extent.length);
            return Err(Error::damage("read a snapshot", why));
        }
        let Some(pack) = extent.pack else { return Ok(vec![0; extent.length as usize]) };
        let table = self.table(pack, PackKind::Data)?;
        let Some(range) = table.covering(extent.offset, extent.length) else {
            let name = pack::name(PackKind::Data, pack);
            return Err(Error::damage(format!("read {name}"), "an entry refers to bytes beyond its end"));
        };
        let frames = &table.frames()[range];
        let compressed = self.compressed(pack, PackKind::Data, frames)?;
        let (mut out, mut content) = (Vec::with_capacity(extent.length as usize), Vec::new());
        for frame in frames {
            let stored = frame.within(&compressed, frames[0].at);
            self.decode((pack, PackKind::Data), frame, stored, decoder, &mut content)?;
            out.extend_from_slice(within(frame, &content, extent));
        }
        Ok(out)
    }
}

/// Returns the part of a frame's content that lies in an extent, which reaches into the frame.
fn within<'c>(frame: &FrameAt, content: &'c [u8], extent: &Extent) -> &'c [u8] {
    let from = extent.offset.saturating_sub(frame.offset) as usize;
    let to = (extent.end() - frame.offset).min(u64::from(frame.length)) as usize;
    &content[from..to]
}

/// Returns the sizes of all packs in a store, in bytes, by the packs' names.
///
/// # Errors
/// The store fails.
pub fn listed(store: &dyn Store) -> Result<HashMap<String, u64>> {
    let mut sizes = HashMap::new();
    let folders = ["packs/", "index/"];
    map_ordered(
        &folders,
        folders.len(),
        |folder| store.list(folder),
        |folder, listed| {
            let listed = listed.map_err(|e| e.while_doing(format!("list {folder} of {}", store.url())))?;
            sizes.extend(listed.into_iter().map(|object| (object.name, object.size)));
            Ok(())
        },
    )?;
    Ok(sizes)
}

/// Returns the packs that are not present according to a listing: missing, or of another size than they should be.
///
/// # Errors
/// The store fails.
pub fn absent<'p>(store: &dyn Store, packs: impl Iterator<Item = &'p PackInfo>) -> Result<Vec<(PackInfo, PackState)>> {
    Ok(absent_of(&listed(store)?, packs))
}

/// Like [`absent`], with the sizes that [`listed`] returned.
pub fn absent_of<'p>(
    sizes: &HashMap<String, u64>,
    packs: impl Iterator<Item = &'p PackInfo>,
) -> Vec<(PackInfo, PackState)> {
    let states = packs.map(|pack| (*pack, PackState::listed(pack, sizes)));
    let mut wrong: Vec<_> = states.filter(|(_, state)| *state != PackState::Present).collect();
    wrong.sort_by_key(|(pack, _)| pack.name());
    wrong
}

#[cfg(test)]
pub(crate) mod tests;
