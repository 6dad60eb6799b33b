//! Vaults for tests, made entry by entry, including ones that no backup makes.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::tests::noise;
use crate::error::Result;
use crate::monitor::{Context, SilentMonitor};
use crate::path::{EntryPath, EscapedBytes};
use crate::store::Store;
use crate::store::testing::memory::MemoryStore;
use crate::vault::entry::{
    CaptureMethod, Database, Entry, EntryKind, Extent, Map, MapForm, MapFrame, PackUse, PageMap, Side, padding,
};
use crate::vault::frame::FrameRef;
use crate::vault::hex::{Hash, Hex, PackId};
use crate::vault::hunk::HunkBuilder;
use crate::vault::lines::FrameBuilder;
use crate::vault::list::List;
use crate::vault::map::MapBuilder;
use crate::vault::pack::{PackInfo, PackKind, name, write_table};
use crate::vault::pages::{LayerBuilder, Placed};
use crate::vault::root::{
    BackupReason, FORMAT, Filters, HunkRef, PackList, Root, SNAPSHOTS, SnapshotName, SnapshotState, SourceIdentity,
    Totals,
};
use crate::vault::{Vault, tar};

static GO_ON: AtomicBool = AtomicBool::new(false);

/// A context with two threads whose monitor hears nothing.
pub fn context() -> Context<'static> {
    Context { random: &crate::monitor::system_random, threads: 2, parallel: 2, stop: &GO_ON, monitor: &SilentMonitor }
}

/// Blocks of these numbers, one after the other in an extent, whose last one may be short.
pub fn pages(extent: Extent, block: u32, numbers: impl IntoIterator<Item = u64>) -> Vec<Placed> {
    let offsets = (0..extent.length).step_by(block as usize);
    let place = |(number, skip): (u64, u64)| {
        let offset = if extent.pack.is_some() { extent.offset + skip } else { 0 };
        let part = Extent { offset, length: (extent.length - skip).min(block.into()), ..extent };
        Placed { block: number, extent: part, tag: Hex(number.to_be_bytes()) }
    };
    numbers.into_iter().zip(offsets).map(place).collect()
}

fn random_id() -> PackId {
    let mut id = [0; 16];
    crate::monitor::system_random(&mut id).unwrap();
    Hex(id)
}

/// Content that becomes a pack, and the pack's kind.
pub struct SamplePack {
    pub id: PackId,
    kind: PackKind,
    frames: Vec<(Vec<u8>, u32)>,
    content: u64,
}

impl SamplePack {
    pub fn new(kind: PackKind) -> Self {
        SamplePack { id: random_id(), kind, frames: Vec::new(), content: 0 }
    }

    /// Adds a frame. Returns where its content begins.
    pub fn frame(&mut self, content: &[u8]) -> u64 {
        let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
        compressor.include_checksum(true).unwrap();
        self.raw_frame(compressor.compress(content).unwrap(), content.len() as u32)
    }

    /// Adds a frame that claims to have `length` bytes of content.
    pub fn raw_frame(&mut self, compressed: Vec<u8>, length: u32) -> u64 {
        self.frames.push((compressed, length));
        self.content += u64::from(length);
        self.content - u64::from(length)
    }

    pub fn store(self, store: &MemoryStore) -> PackInfo {
        let table = write_table(self.frames.iter().map(|(bytes, length)| (bytes.len() as u32, *length)));
        let mut bytes = self.frames.into_iter().flat_map(|(bytes, _)| bytes).collect::<Vec<_>>();
        bytes.extend(table);
        let info = PackInfo {
            id: self.id,
            kind: self.kind,
            size: bytes.len() as u64,
            content: self.content,
            crc32c: crc32c::crc32c(&bytes),
        };
        store.create(&name(self.kind, self.id), &[&bytes]).unwrap();
        info
    }
}

/// Changes the lines of a hunk.
pub type Rewrite = Box<dyn Fn(usize, &mut Vec<String>)>;

/// A vault that is being made, and the next snapshot of it.
pub struct SampleVault {
    pub store: &'static MemoryStore,
    pub vault: Vault,
    pub entries: Vec<Entry>,
    pub packs: Vec<PackInfo>,
    /// Content of a frame, in bytes.
    pub frame: usize,
    /// Entries of a hunk.
    pub hunk: usize,
    /// Hunks of a list frame, each in a pack of its own; 0 for a list in place.
    pub listed: usize,
    /// Where the hunks of the last snapshot are.
    pub hunks: Vec<HunkRef>,
    /// How many checks of databases the root says have failed.
    pub failed_checks: u64,
    /// Changes the lines of each hunk, given its number, to lines that no writer would write; the head is the first
    /// line.
    pub rewrite: Option<Rewrite>,
    /// The last snapshot, which the next one names as the one that it was made from.
    last: Option<SnapshotName>,
    /// The number of the last snapshot.
    pub seq: u64,
}

impl Default for SampleVault {
    fn default() -> Self {
        Self::new()
    }
}

impl SampleVault {
    /// A vault without snapshots; the next one begins with the data directory.
    pub fn new() -> Self {
        let store: &'static MemoryStore = Box::leak(Box::default());
        let vault = Vault::init(Box::new(store), crate::monitor::system_random).unwrap();
        let mut sample = SampleVault {
            store,
            vault,
            entries: Vec::new(),
            packs: Vec::new(),
            frame: 100,
            hunk: 4,
            listed: 0,
            hunks: Vec::new(),
            failed_checks: 0,
            rewrite: None,
            last: None,
            seq: 0,
        };
        sample.folder(".");
        sample
    }

    /// Adds an entry without content.
    pub fn add(&mut self, path: impl AsRef<[u8]>, kind: EntryKind) -> &mut Entry {
        self.entries.push(Entry {
            path: EntryPath::new(path.as_ref()).unwrap(),
            kind,
            size: 0,
            mode: if kind == EntryKind::Folder { 0o755 } else { 0o644 },
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: 1_700_000_000_123_456_789,
            ctime: 0,
            inode: 1,
            target: None,
            xattrs: Vec::new(),
            hash: (kind == EntryKind::File).then(|| Hash::of(&[])),
            link: None,
            racy: false,
            header: 512,
            extents: vec![Extent::zeros(512)],
            map: None,
            database: None,
        });
        self.entries.last_mut().unwrap()
    }

    pub fn folder(&mut self, path: &str) -> &mut Entry {
        self.add(path, EntryKind::Folder)
    }

    pub fn symlink(&mut self, path: &str, target: &[u8]) -> &mut Entry {
        let entry = self.add(path, EntryKind::Symlink);
        entry.target = Some(EscapedBytes(target.to_vec()));
        entry
    }

    /// Adds a file whose content is in these extents.
    pub fn file_at(&mut self, path: impl AsRef<[u8]>, content: &[u8], extents: &[Extent]) -> &mut Entry {
        let entry = self.add(path, EntryKind::File);
        entry.size = content.len() as u64;
        entry.hash = Some(Hash::of(content));
        extents.iter().for_each(|extent| extent.push(&mut entry.extents));
        Extent::zeros(padding(entry.size)).push(&mut entry.extents);
        entry
    }

    /// Stores content in a new pack, as frames.
    pub fn put(&mut self, content: &[u8]) -> Extent {
        let mut pack = SamplePack::new(PackKind::Data);
        content.chunks(self.frame).for_each(|chunk| _ = pack.frame(chunk));
        let extent = Extent { pack: Some(pack.id), offset: 0, length: content.len() as u64 };
        if !content.is_empty() {
            self.packs.push(pack.store(self.store));
        }
        extent
    }

    /// Adds a file with a pack of its own.
    pub fn file(&mut self, path: impl AsRef<[u8]>, content: &[u8]) -> &mut Entry {
        let extent = self.put(content);
        self.file_at(path, content, &[extent])
    }

    /// Adds a file whose content is in the extents of a map.
    pub fn mapped(&mut self, path: &str, content: &[u8], extents: &[Extent]) -> &mut Entry {
        let mut builder = MapBuilder::default();
        let mut parts = Vec::new();
        for extent in extents {
            parts.extend(match extent.pack {
                Some(_) => builder.push(*extent, Hash::of(&extent.offset.to_le_bytes())),
                None => builder.push_hole(extent.length),
            });
        }
        parts.extend(builder.finish());
        let mut pack = SamplePack::new(PackKind::Index);
        let mut frames = Vec::new();
        let mut packs = vec![pack.id];
        for part in parts {
            let offset = pack.frame(&part.bytes);
            let (length, hash) = (part.bytes.len() as u64, Hash::of(&part.bytes));
            frames.push(MapFrame { frame: FrameRef { pack: pack.id, offset, length, hash }, content: part.content });
            packs.extend(part.packs);
        }
        self.packs.push(pack.store(self.store));
        let entry = self.file_at(path, content, &[]);
        entry.map = Some(Map { form: MapForm::Blocks(List::Items(frames)), packs });
        entry
    }

    /// Stores the layers of a page map, three blocks a frame, every other one's frames in list frames. Also returns the
    /// packs that hold them.
    pub fn layers(&mut self, block: u32, layers: &[Vec<Placed>]) -> (Vec<List<MapFrame>>, Vec<PackId>) {
        let mut packs = Vec::new();
        let mut layer = |(number, layer): (usize, &Vec<Placed>)| {
            let mut pack = SamplePack::new(PackKind::Index);
            let mut frame = |bytes: &[u8]| {
                let offset = pack.frame(bytes);
                FrameRef { pack: pack.id, offset, length: bytes.len() as u64, hash: Hash::of(bytes) }
            };
            let mut frames = Vec::new();
            for some in layer.chunks(3) {
                let mut builder = LayerBuilder::new(block);
                assert!(some.iter().all(|placed| builder.push(placed).is_none()));
                let part = builder.finish().unwrap();
                frames.push(MapFrame { frame: frame(&part.bytes), content: part.content });
            }
            let list = if number % 2 == 0 {
                List::Items(frames)
            } else {
                let mut lists = Vec::new();
                for some in frames.chunks(2) {
                    let mut list = FrameBuilder::new("list");
                    some.iter().for_each(|item| list.line(&serde_json::to_vec(item).unwrap()));
                    lists.push(frame(&list.finish(&[])));
                }
                List::Frames(lists)
            };
            if !layer.is_empty() {
                packs.push(pack.id);
                self.packs.push(pack.store(self.store));
            }
            list
        };
        let lists = layers.iter().enumerate().map(&mut layer).collect();
        (lists, packs)
    }

    /// Adds a database whose blocks are in these layers, the oldest first.
    pub fn paged(&mut self, path: &str, content: &[u8], block: u32, layers: &[Vec<Placed>]) -> &mut Entry {
        let (lists, mut packs) = self.layers(block, layers);
        let all = layers.iter().flatten().filter(|placed| placed.block * u64::from(block) < content.len() as u64);
        let newest: BTreeMap<u64, Option<PackId>> = all.map(|placed| (placed.block, placed.extent.pack)).collect();
        let mut live = BTreeMap::new();
        newest.into_values().flatten().for_each(|pack| *live.entry(pack).or_insert(0u64) += 1);
        packs.extend(live.keys());
        let live = live.into_iter().map(|(pack, live)| PackUse { pack, live, stored: live + 1 }).collect();
        let form = MapForm::Pages(PageMap { block, layers: lists, live, credit: 7 });
        let entry = self.file_at(path, content, &[]);
        entry.map = Some(Map { form, packs });
        entry.database = Some(Database { taken: CaptureMethod::Live, wal: None, journal: None, check: None });
        entry
    }

    /// Adds a database of ten blocks, the last of them short. The file had been longer; of its three layers the second is
    /// hidden by the third, and the pack that it names is gone.
    pub fn database(&mut self, path: &str) -> &mut Entry {
        let mut content = noise(9 << 10, 90);
        content.extend(noise(500, 91));
        let mut first = content.clone();
        first.resize(12 << 10, 7);
        let (newer, changed) = (noise(2 << 10, 92), [2, 4, 6, 9]);
        content[2 << 10..3 << 10].copy_from_slice(&newer[..1 << 10]);
        content[3 << 10..4 << 10].fill(0);
        content[6 << 10..7 << 10].copy_from_slice(&newer[1 << 10..]);
        let newer = [&newer[..1 << 10], &content[4 << 10..5 << 10], &newer[1 << 10..], &content[9 << 10..]].concat();
        let (first, newer) = (self.put(&first), self.put(&newer));
        let gone = Extent { pack: Some(random_id()), offset: 0, length: 2 << 10 };
        let mut newest = pages(newer, 1024, changed);
        newest.extend(pages(Extent::zeros(1024), 1024, [3]));
        newest.sort_by_key(|placed| placed.block);
        self.paged(path, &content, 1024, &[pages(first, 1024, 0..12), pages(gone, 1024, [2, 6]), newest])
    }

    /// Adds a database that was captured as a file, and says which side files lie beside it; these are not added.
    pub fn raw(&mut self, path: &str, content: &[u8], journal: bool, wal: bool) -> &mut Entry {
        let side = |there: bool| there.then_some(Side { size: 1, mtime: 0 });
        let entry = self.file(path, content);
        entry.database =
            Some(Database { taken: CaptureMethod::Raw, wal: side(wal), journal: side(journal), check: None });
        entry
    }

    /// Stores tar headers for all entries, which only restoring by hand needs.
    pub fn with_headers(&mut self) {
        for n in 0..self.entries.len() {
            let header = tar::header(&self.entries[n]);
            let stored = self.put(&header);
            let entry = &mut self.entries[n];
            let content = entry.content_extents();
            (entry.header, entry.extents) = (header.len() as u64, Vec::new());
            let padding = Extent::zeros(padding(entry.size));
            [stored].iter().chain(&content).chain([&padding]).for_each(|extent| extent.push(&mut entry.extents));
        }
    }

    /// Stores the entries so far as a snapshot, and goes on with the same ones.
    pub fn commit(&mut self, state: SnapshotState) -> SnapshotName {
        let mut pack = SamplePack::new(PackKind::Index);
        let mut hunks = Vec::new();
        for entries in self.entries.chunks(self.hunk) {
            let mut builder = HunkBuilder::default();
            let mut done = Vec::new();
            for entry in entries {
                done.extend(builder.push(entry).unwrap());
            }
            done.extend(builder.finish());
            hunks.extend(done.into_iter().map(|hunk| (hunk.bytes, hunk.entries, hunk.first)));
        }
        self.hunks.clear();
        for (n, (mut bytes, entries, first)) in hunks.into_iter().enumerate() {
            if let Some(rewrite) = &self.rewrite {
                let mut lines: Vec<_> = String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect();
                rewrite(n, &mut lines);
                bytes = lines.into_iter().map(|line| line + "\n").collect::<String>().into_bytes();
            }
            let offset = pack.frame(&bytes);
            let frame = FrameRef { pack: pack.id, offset, length: bytes.len() as u64, hash: Hash::of(&bytes) };
            self.hunks.push(HunkRef { frame, entries, first, maps: 0 });
        }
        let mut packs = self.packs.clone();
        packs.push(pack.store(self.store));
        self.commit_root(state, packs)
    }

    /// Stores a root over the current hunks.
    pub fn commit_root(&mut self, state: SnapshotState, mut packs: Vec<PackInfo>) -> SnapshotName {
        let mut frames = Vec::new();
        for hunks in self.hunks.chunks(self.listed.max(1)).take_while(|_| self.listed > 0) {
            let (mut list, mut pack) = (FrameBuilder::new("list"), SamplePack::new(PackKind::Index));
            hunks.iter().for_each(|hunk| list.line(&serde_json::to_vec(hunk).unwrap()));
            let bytes = list.finish(&[]);
            let (offset, length, hash) = (pack.frame(&bytes), bytes.len() as u64, Hash::of(&bytes));
            frames.push(FrameRef { pack: pack.id, offset, length, hash });
            packs.push(pack.store(self.store));
        }
        self.seq += 1;
        let hours = i64::from(self.seq as u32);
        let finished = jiff::Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap();
        let root = Root {
            format: FORMAT,
            vault: self.vault.config.id,
            seq: self.seq,
            turn: None,
            parent: self.last,
            started: finished,
            finished,
            reason: BackupReason::Manual,
            run: None,
            labels: BTreeMap::new(),
            state,
            suspect: None,
            diverged: None,
            serial: None,
            origin: None,
            data: "/data".into(),
            host: "here".into(),
            writer: "test".into(),
            place: SourceIdentity { device: 1, inode: 2, ..SourceIdentity::default() },
            mounts: Vec::new(),
            unread: None,
            covers: None,
            totals: Totals::default(),
            hunks: if self.listed > 0 { List::Frames(frames) } else { List::Items(self.hunks.clone()) },
            packs: PackList { list: List::Items(packs), holders: Vec::new() },
            problems: List::default(),
            stale: List::default(),
            torn: List::default(),
            torn_reads: List::default(),
            service: None,
            filters: Filters::default(),
            databases: List::default(),
            failed_checks: self.failed_checks,
        };
        let (name, bytes) = root.encode().unwrap();
        self.store.create(&name.object(SNAPSHOTS), &[&bytes]).unwrap();
        self.last = Some(name);
        name
    }

    /// The name of the last index pack, which holds the hunks.
    pub fn index_pack(&self) -> String {
        name(PackKind::Index, self.hunks[0].frame.pack)
    }

    /// Opens the vault again, as a command does.
    pub fn open(&self) -> Result<Vault> {
        Vault::open(Box::new(self.store))
    }
}
