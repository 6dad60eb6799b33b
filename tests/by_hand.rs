//! A vault can be restored without this program: the script that its README.md carries, run as a person would run it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;

use lastgood::backup::{self, backup};
use lastgood::monitor::{Context, Silent, system_random};
use lastgood::store::local::LocalStore;
use lastgood::vault::hex::Hash;
use lastgood::vault::list::List;
use lastgood::vault::pack::{self, PackKind};
use lastgood::vault::root::{Root, SnapshotName, State};
use lastgood::vault::{README, Vault, VaultConfig, hunk};
use tempfile::TempDir;

use crate::support::compare::differences;
use crate::support::tree::{everything, noise, set_mode, set_mtime};

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
        fs::write(world.path("restore.py"), world.script()).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What stands in the one block of Python of README.md.
    fn script(&self) -> String {
        let readme = fs::read_to_string(self.path("vault").join(README)).unwrap();
        let blocks: Vec<&str> = readme.split("```python\n").skip(1).collect();
        assert_eq!(blocks.len(), 1, "README.md has one script");
        blocks[0].split("```").next().unwrap().to_owned()
    }

    fn backup(&self) -> SnapshotName {
        let stop = AtomicBool::new(false);
        let ctx = Context { random: &system_random, threads: 2, stop: &stop, monitor: &Silent };
        let options = backup::Options { data: self.path("data"), ..Default::default() };
        let report = backup(&self.vault, &options, &ctx).unwrap();
        assert_eq!(report.state, State::Complete, "{report:?}");
        report.snapshot
    }

    /// A copy of the data directory as it is now.
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
fn same(expected: &Path, found: &Path) {
    let mut found = differences(expected, found);
    found.retain(|difference| !difference.contains(": holes: "));
    assert!(found.is_empty(), "{found:#?}");
}

/// Entries with paths so long that the root's list of hunks is cut into frames.
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
    fs::write(data.join("sizes/513"), noise(1, 513)).unwrap();
    let second = world.backup();

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

/// What `format.md` shows is what was written, and the checks that it tells of pass.
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

/// A vault whose one snapshot has the given entries, whatever they are.
fn hostile(world: &World, entries: &[String]) {
    let stored = |kind: PackKind, content: &[u8]| {
        let object = zstd::encode_all(content, 3).unwrap();
        let id = Hash::of(content);
        let path = world.path("vault").join(pack::name(kind, id));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &object).unwrap();
        serde_json::json!({"id": id, "kind": kind, "size": object.len(), "content": content.len(), "crc32c": 0})
    };
    let data = stored(PackKind::Data, &tar_header());
    let lines = format!("{{\"lastgood\":\"hunk\",\"packs\":[{}]}}\n{}\n", data["id"], entries.join("\n"));
    let index = stored(PackKind::Index, lines.as_bytes());
    let hunk = serde_json::json!({"pack": index["id"], "offset": 0, "length": lines.len(), "hash": "", "entries": entries.len(), "first": "."});
    let root = serde_json::json!({"format": 1, "state": "complete", "reason": "manual", "data": "",
        "totals": {"entries": entries.len(), "bytes": 0}, "hunks": {"items": [hunk]}, "packs": {"items": [data, index]}});
    fs::create_dir_all(world.path("vault/snapshots")).unwrap();
    fs::write(world.path("vault/snapshots/0000000001-20261121T100000Z-00.json"), root.to_string()).unwrap();
}

/// The header of a folder named `.`.
fn tar_header() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("./").unwrap();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_cksum();
    header.as_bytes().to_vec()
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
        // What a way out through the target would reach.
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
