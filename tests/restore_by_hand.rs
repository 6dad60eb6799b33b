//! A vault can be restored without this program: the script that its README.md carries, run as a person would run it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;

use lastgood::backup::{self, backup};
use lastgood::monitor::{Context, SilentMonitor, system_random};
use lastgood::path::EntryPath;
use lastgood::store::local::LocalStore;
use lastgood::vault::entry::{
    CaptureMethod, Database, Entry, EntryKind, Extent, Map, MapForm, MapFrame, PageMap, padding,
};
use lastgood::vault::frame::FrameRef;
use lastgood::vault::hex::{Hash, Hex};
use lastgood::vault::lines::FrameBuilder;
use lastgood::vault::list::List;
use lastgood::vault::pack::{self, PackKind};
use lastgood::vault::pages::{LayerBuilder, Placed};
use lastgood::vault::root::{Root, SnapshotName, SnapshotState};
use lastgood::vault::{README, Vault, VaultConfig, hunk, tar};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::compare::differences;
use crate::support::database;
use crate::support::tree::{everything, noise, set_mode, set_mtime};

/// Returns the one block of Python in a vault's README.md.
pub fn script(vault: &Path) -> String {
    let readme = fs::read_to_string(vault.join(README)).unwrap();
    let blocks: Vec<&str> = readme.split("```python\n").skip(1).collect();
    assert_eq!(blocks.len(), 1, "README.md has one script");
    blocks[0].split("```").next().unwrap().to_owned()
}

/// A data directory, a vault, and the script.
struct World {
    folder: TempDir,
    vault: Vault,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().join("vault"));
        let vault = Vault::init(Box::new(store), system_random).unwrap();
        let world = World { folder, vault };
        fs::write(world.path("restore.py"), script(&world.path("vault"))).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn backup(&self) -> SnapshotName {
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor };
        let options = backup::BackupOptions { data: self.path("data"), ..Default::default() };
        let report = backup(&self.vault, &options, &ctx).unwrap();
        assert_eq!(report.state, SnapshotState::Complete, "{report:?}");
        report.snapshot
    }

    /// Copies the data directory as it is now; returns the path of the copy.
    fn remember(&self, name: &str) -> PathBuf {
        let copy = self.path(name);
        let done = Command::new("cp").args(["-a", "--sparse=always"]).arg(self.path("data")).arg(&copy).status();
        assert!(done.unwrap().success());
        copy
    }

    fn run(&self, args: &[&Path]) -> Output {
        Command::new("python3")
            .arg(self.path("restore.py"))
            .args(args)
            .env("TMPDIR", self.folder.path())
            .output()
            .unwrap()
    }

    /// Restores into the new folder `target`, which must succeed.
    fn restore(&self, target: &str, snapshot: Option<&str>) -> PathBuf {
        let (vault, target) = (self.path("vault"), self.path(target));
        let mut args = vec![vault.as_path(), &target];
        args.extend(snapshot.map(Path::new));
        let output = self.run(&args);
        assert!(output.status.success(), "{}", text(&output));
        target
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asserts that two trees are equal but for holes, which come back as zeros.
#[track_caller]
pub fn same(expected: &Path, found: &Path) {
    let mut found = differences(expected, found);
    found.retain(|difference| !difference.contains(": holes: "));
    assert!(found.is_empty(), "{found:#?}");
}

/// Makes entries with paths so long that the root's list of hunks is cut into frames.
fn long_paths(data: &Path) {
    let deep = (0..13).fold(data.join("long"), |path, n| path.join(format!("{n}").repeat(240 / (1 + n / 10))));
    fs::create_dir_all(&deep).unwrap();
    for n in 0..2000 {
        fs::write(deep.join(format!("{n}")), n.to_string()).unwrap();
    }
}

#[test]
fn every_snapshot_comes_back() {
    let world = World::new();
    let data = world.path("data");
    everything(&data);
    long_paths(&data);
    let orders = data.join("app.db");
    database::orders(&orders, 1024, 1 << 20);
    let change = "UPDATE orders SET amount = amount + 1 WHERE abs(random()) % 20 = 0";
    let first = world.backup();
    let then = world.remember("first");

    // A byte at the start, a block in the middle, more at the end; links that lose a member and gain one; new times and modes.
    let large = fs::read(data.join("sizes/large")).unwrap();
    fs::write(data.join("sizes/large"), [&b"x"[..], &large[..1 << 20], b"y", &large[1 << 20..]].concat()).unwrap();
    fs::remove_file(data.join("empty/hard c")).unwrap();
    fs::hard_link(data.join("links/hard b"), data.join("zz hard d")).unwrap();
    fs::rename(data.join("names/-dash"), data.join("names/moved")).unwrap();
    set_mode(&data.join("modes/644"), 0o604);
    set_mtime(&data.join("times/ns"), 1_700_000_001, 987_654_321);
    database::run(&orders, change);
    fs::write(data.join("sizes/513"), noise(1, 513)).unwrap();
    let second = world.backup();

    database::run(&orders, change);
    fs::remove_dir_all(data.join("names")).unwrap();
    fs::write(data.join("sizes/large text"), "another\n".repeat(200_000)).unwrap();
    fs::write(data.join("new"), noise(2, 700_000)).unwrap();
    let third = world.backup();
    let root = world.vault.root(third).unwrap();
    assert!(matches!(root.hunks, List::Frames(_)), "no list of this vault is in frames");

    same(&data, &world.restore("newest", None));
    same(&then, &world.restore("oldest", Some(&first.to_string())));
    let by_id = world.restore("by id", Some(&second.id.to_string()[..6]));
    assert_eq!(fs::read(by_id.join("sizes/large")).unwrap().len(), large.len() + 2);

    let listed = world.run(&[Path::new("--list"), &world.path("vault")]);
    let listed = text(&listed);
    let names: Vec<&str> = listed.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, [first, second, third].map(|name| name.to_string()));
}

#[test]
fn what_is_there_is_left_alone() {
    let world = World::new();
    fs::create_dir(world.path("data")).unwrap();
    fs::write(world.path("data/a"), "new").unwrap();
    world.backup();
    fs::create_dir(world.path("target")).unwrap();
    fs::write(world.path("target/a"), "old").unwrap();
    let output = world.run(&[&world.path("vault"), &world.path("target")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("not an empty folder"), "{}", text(&output));
    assert_eq!(fs::read(world.path("target/a")).unwrap(), b"old");

    let output = world.run(&[&world.path("vault"), &world.path("other"), Path::new("abcdef")]);
    assert!(!output.status.success() && text(&output).contains("--list"), "{}", text(&output));
    assert!(!world.path("other").exists());
}

#[test]
fn what_is_left_of_a_damaged_vault_comes_back() {
    let world = World::new();
    fs::create_dir(world.path("data")).unwrap();
    fs::write(world.path("data/kept"), noise(1, 400_000)).unwrap();
    world.backup();
    let packs = |kind: &str| -> Vec<PathBuf> {
        fs::read_dir(world.path("vault").join(kind)).unwrap().map(|f| f.unwrap().path()).collect()
    };
    let kept = packs("packs");
    fs::write(world.path("data/small"), "in the lost pack").unwrap();
    let mut grown = noise(1, 400_000);
    grown.extend(noise(2, 400_000));
    fs::write(world.path("data/grown"), &grown).unwrap();
    world.backup();
    for new in packs("packs").iter().filter(|pack| !kept.contains(pack)) {
        let mut bytes = fs::read(new).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(new, bytes).unwrap();
    }
    let target = world.path("target");
    let output = world.run(&[&world.path("vault"), &target]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("NOT WHOLE: small is missing: packs/") && said.contains("is damaged"), "{said}");
    assert!(said.contains("NOT WHOLE: grown"), "{said}");
    assert!(!target.join("small").exists());
    assert_eq!(fs::read(target.join("kept")).unwrap(), noise(1, 400_000));
}

/// The examples in `format.md` are what was written, and the checks that it describes pass.
#[test]
fn the_example_of_the_format_is_real() {
    let text = include_str!("../src/vault/format.md");
    let example = text.split("## An example").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks: Vec<&str> =
        example.split("```json\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    let [config, root, hunk] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let config = VaultConfig::parse(config.as_bytes()).unwrap();
    let name = example.split("snapshots/").nth(1).unwrap().split(".json").next().unwrap();
    let root = Root::parse(name.parse().unwrap(), root.as_bytes()).unwrap();
    assert_eq!(root.vault, config.id);
    let List::Items(hunks) = &root.hunks else { panic!("{:?}", root.hunks) };
    assert_eq!((hunks[0].frame.length, hunks[0].frame.hash), (hunk.len() as u64, Hash::of(hunk.as_bytes())));
    let entries = hunk::parse(hunk.as_bytes()).unwrap();
    assert_eq!(entries.len() as u64, root.totals.entries);
    assert_eq!(entries[1].extents.len(), 3);
    assert_eq!(entries[1].hash, Some(Hash::of(b"hello\n")));
}

/// Stores an object whose content is one zstd frame; gives what a root says of it.
fn stored(world: &World, kind: PackKind, content: &[u8]) -> Value {
    let object = zstd::encode_all(content, 3).unwrap();
    let id = Hash::of(content);
    let path = world.path("vault").join(pack::name(kind, id));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, &object).unwrap();
    json!({"id": id, "kind": kind, "size": object.len(), "content": content.len(), "crc32c": 0})
}

/// Stores a hunk and a root; `more` are fields of the root.
fn commit(world: &World, seq: u64, hunk: &[u8], entries: usize, mut packs: Vec<Value>, more: Value) {
    let index = stored(world, PackKind::Index, hunk);
    let hunk =
        json!({"pack": index["id"], "offset": 0, "length": hunk.len(), "hash": "", "entries": entries, "first": "."});
    packs.push(index);
    let mut root = json!({"format": 1, "state": "complete", "reason": "manual", "data": "",
        "totals": {"entries": entries, "bytes": 0}, "hunks": {"items": [hunk]}, "packs": {"items": packs}});
    root.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fs::create_dir_all(world.path("vault/snapshots")).unwrap();
    let name = format!("vault/snapshots/{seq:010}-20261121T100000Z-0{seq}.json");
    fs::write(world.path(&name), root.to_string()).unwrap();
}

/// Makes a vault whose one snapshot has the given entries, whatever they are.
fn hostile(world: &World, entries: &[String]) {
    let data = stored(world, PackKind::Data, &tar_header());
    let lines = format!("{{\"lastgood\":\"hunk\",\"packs\":[{}]}}\n{}\n", data["id"], entries.join("\n"));
    commit(world, 1, lines.as_bytes(), entries.len(), vec![data], json!({}));
}

/// Returns the header of a folder named `.`.
fn tar_header() -> Vec<u8> {
    let mut header = ::tar::Header::new_gnu();
    header.set_path("./").unwrap();
    header.set_entry_type(::tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Returns a folder, or a file with this content, without where it is.
fn entry(path: &str, content: Option<&[u8]>) -> Entry {
    Entry {
        path: EntryPath::new(path).unwrap(),
        kind: if content.is_some() { EntryKind::File } else { EntryKind::Folder },
        size: content.map_or(0, |content| content.len() as u64),
        mode: 0o755,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: 1_700_000_000_000_000_001,
        ctime: 0,
        inode: 1,
        target: None,
        xattrs: Vec::new(),
        hash: content.map(Hash::of),
        link: None,
        racy: false,
        header: 512,
        extents: Vec::new(),
        map: None,
        database: None,
    }
}

/// Returns the whole vault of a database of seven blocks, the last of them short, in three layers: what the second says is
/// hidden by the third, and its pack is not there. Gives the content, and the objects that hold the layers.
fn layered(world: &World) -> (Vec<u8>, Vec<PathBuf>) {
    let old = noise(1, 9 << 10);
    let new = noise(2, 3 << 10);
    let content = [&new[..1 << 10], &old[1 << 10..3 << 10], &[0; 1 << 10], &old[4 << 10..5 << 10], &new[1 << 10..2500]];
    let content = content.concat();
    let (mut root, mut file) = (entry(".", None), entry("app.db", Some(&content)));
    let headers = [tar::header(&root), tar::header(&file)].concat();
    let pieces = [&headers[..], &old, &new].map(|piece| stored(world, PackKind::Data, piece));
    let extent = |piece: &[u8], offset, length| Extent { pack: Some(Hash::of(piece)), offset, length };
    root.extents = vec![extent(&headers, 0, 512)];
    file.extents = vec![extent(&headers, 512, 512), Extent::zeros(padding(file.size))];

    let place = |block, extent| Placed { block, extent, tag: Hex([0xab; 8]) };
    let layers: [Vec<Placed>; 3] = [
        (0..9).map(|n| place(n, extent(&old, n << 10, 1 << 10))).collect(),
        [3, 5].map(|n| place(n, extent(b"gone", n << 10, 1 << 10))).to_vec(),
        vec![
            place(0, extent(&new, 0, 1 << 10)),
            place(3, Extent::zeros(1 << 10)),
            place(5, extent(&new, 1 << 10, 1 << 10)),
            place(6, extent(&new, 2 << 10, 2500 - (2 << 10))),
        ],
    ];
    let (mut packs, mut objects, mut lists) = (pieces.to_vec(), Vec::new(), Vec::new());
    for (n, layer) in layers.iter().enumerate() {
        let (mut bytes, mut frames) = (Vec::new(), Vec::new());
        for some in layer.chunks(2) {
            let mut builder = LayerBuilder::new(1024);
            assert!(some.iter().all(|placed| builder.push(placed).is_none()));
            let part = builder.finish().unwrap();
            frames.push((bytes.len() as u64, part.bytes.len() as u64, Hash::of(&part.bytes), part.content));
            bytes.extend(part.bytes);
        }
        let pack = Hash::of(&bytes);
        let reference =
            |&(offset, length, hash, content)| MapFrame { frame: FrameRef { pack, offset, length, hash }, content };
        let items: Vec<MapFrame> = frames.iter().map(reference).collect();
        packs.push(stored(world, PackKind::Index, &bytes));
        objects.push(world.path("vault").join(pack::name(PackKind::Index, pack)));
        lists.push(if n == 1 {
            let mut frame = FrameBuilder::new("list");
            items.iter().for_each(|item| frame.line(&serde_json::to_vec(item).unwrap()));
            let bytes = frame.finish(&[]);
            packs.push(stored(world, PackKind::Index, &bytes));
            let (pack, hash) = (Hash::of(&bytes), Hash::of(&bytes));
            List::Frames(vec![FrameRef { pack, offset: 0, length: bytes.len() as u64, hash }])
        } else {
            List::Items(items)
        });
    }
    let map = PageMap { block: 1024, layers: lists, live: Vec::new(), credit: 0 };
    file.map = Some(Map { form: MapForm::Pages(map), packs: Vec::new() });
    file.database = Some(Database { taken: CaptureMethod::Live, wal: None, journal: None, check: None });
    let mut builder = hunk::HunkBuilder::default();
    let mut hunks = [&root, &file].into_iter().filter_map(|entry| builder.push(entry).unwrap()).collect::<Vec<_>>();
    hunks.extend(builder.finish());
    assert_eq!(hunks.len(), 1);
    commit(world, 1, &hunks[0].bytes, 2, packs, json!({}));
    (content, objects)
}

#[test]
fn a_database_comes_back_in_its_newest_layers() {
    let world = World::new();
    let (content, objects) = layered(&world);
    assert!(world.restore("first", None).join("app.db").is_file());
    assert_eq!(fs::read(world.path("first/app.db")).unwrap(), content);

    // A newer snapshot whose check failed is restored when it is named only.
    let empty = format!("{{\"lastgood\":\"hunk\",\"packs\":[{}]}}\n", json!(Hash::of(&tar_header())));
    let line = r#"{"path":".","type":"folder","mode":493,"mtime":0,"extents":[[0,0,512]]}"#;
    let data = stored(&world, PackKind::Data, &tar_header());
    commit(&world, 2, format!("{empty}{line}\n").as_bytes(), 1, vec![data], json!({"failed_checks": 1}));
    assert_eq!(fs::read(world.restore("newest", None).join("app.db")).unwrap(), content);
    assert!(!world.restore("named", Some("0000000002")).join("app.db").exists());
    let listed = text(&world.run(&[Path::new("--list"), &world.path("vault")]));
    assert!(listed.contains("unsound"), "{listed}");

    // Without the newest layer there are older pages; without the oldest one, some are nowhere.
    for (layer, wrong, right) in [(2, 0, 1), (0, 1, 0)] {
        let bytes = fs::read(&objects[layer]).unwrap();
        fs::remove_file(&objects[layer]).unwrap();
        let target = world.path(&format!("without layer {layer}"));
        let output = world.run(&[&world.path("vault"), &target]);
        let said = text(&output);
        assert!(output.status.code() == Some(1) && said.contains("NOT WHOLE: app.db"), "{said}");
        let found = fs::read(target.join("app.db")).unwrap();
        let block = |bytes: &[u8], n: usize| bytes[n << 10..(n + 1) << 10].to_vec();
        assert_eq!(found.len(), content.len());
        assert_ne!(block(&found, wrong), block(&content, wrong));
        assert_eq!(block(&found, right), block(&content, right));
        fs::write(&objects[layer], bytes).unwrap();
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    let entry = |path: &str, kind: &str| {
        format!(r#"{{"path":"{path}","type":"{kind}","mode":493,"mtime":0,"extents":[[0,0,512]]}}"#)
    };
    let root = entry(".", "folder");
    let cases: [&[String]; 7] = [
        &[root.clone(), entry("../evil", "folder")],
        &[root.clone(), entry("a/../../evil", "folder")],
        &[root.clone(), entry("/evil", "folder")],
        &[root.clone(), entry("\\\\x2e./evil", "folder")],
        &[root.clone(), entry("a", "symlink"), entry("a/evil", "folder")],
        &[root.clone(), entry("b", "folder"), entry("a", "folder")],
        &[root.clone(), entry("a", "folder"), entry("a", "symlink")],
    ];
    for entries in cases {
        let world = World::new();
        hostile(&world, entries);
        // A restore that escapes through the target would reach this.
        symlink(world.folder.path(), world.path("beside")).unwrap();
        let output = world.run(&[&world.path("vault"), &world.path("target")]);
        let said = text(&output);
        assert!(output.status.code() == Some(1) && said.contains("Refused: "), "{entries:?}: {said}");
        assert!(!world.path("evil").exists() && !world.path("target/evil").exists());
    }
    let world = World::new();
    hostile(&world, &[root]);
    // The same vault without a bad name is restored: it is the name that was refused.
    world.restore("target", None);
}

/// Returns an entry whose header in the vault has `stored` as its name.
fn named(path: &str, stored: &str) -> (Entry, Vec<u8>) {
    let found = entry(path, Some(path.as_bytes()));
    let mut bytes = tar::header(&Entry { path: EntryPath::new(stored).unwrap(), ..found.clone() });
    let header = bytes.len() as u64;
    bytes.extend(path.as_bytes());
    bytes.resize(bytes.len() + padding(found.size) as usize, 0);
    (Entry { header, ..found }, bytes)
}

/// An older program stored names without `./` before a drive letter: the script gives them to tar with it.
#[test]
fn a_header_gets_the_name_that_tar_does_not_cut() {
    let world = World::new();
    let (short, long) = ("c:b", format!("d:{}", "long ".repeat(40)));
    let mut entries = vec![(entry(".", None), tar_header())];
    entries.extend([named(short, "an older name"), named(&long, &"another name ".repeat(12))]);
    let content: Vec<u8> = entries.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let mut offset = 0;
    let mut builder = hunk::HunkBuilder::default();
    for (entry, bytes) in &mut entries {
        let length = bytes.len() as u64;
        entry.extents = vec![Extent { pack: Some(Hash::of(&content)), offset, length }];
        offset += length;
        assert!(builder.push(entry).unwrap().is_none());
    }
    let hunk = builder.finish().unwrap();
    let pack = stored(&world, PackKind::Data, &content);
    commit(&world, 1, &hunk.bytes, entries.len(), vec![pack], json!({}));
    let target = world.restore("target", None);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
    for name in [short, &long] {
        assert_eq!(fs::read(target.join(name)).unwrap(), name.as_bytes());
    }
}
