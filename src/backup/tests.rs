//! Backs up real directories into a store in memory, and reads them back by the format's rules alone.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::options::BeforeCommit;
use super::*;
use crate::monitor::{CollectingMonitor, Monitor, SilentMonitor, system_random};
use crate::source::marker;
use crate::source::stable::WRITEBACK;
use crate::store::Store;
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::recording::{Call, RecordingStore};
use crate::vault::decoder::Decoder;
use crate::vault::entry::{Entry, EntryKind};
use crate::vault::hex::{Hash, Hex};
use crate::vault::parts::Parts;
use crate::vault::read::PackReader;
use crate::vault::root::Root;
use crate::vault::tree;
use jiff::SignedDuration;
use std::time::Duration;

mod moments;
mod unfinished;

/// A store that a test can inspect while a vault owns it.
type Shared = Arc<RecordingStore<MemoryStore>>;

struct World {
    data: tempfile::TempDir,
    store: Shared,
    vault: Vault,
    stop: AtomicBool,
    monitor: Arc<dyn Monitor>,
    options: BackupOptions,
}

impl World {
    fn new() -> Self {
        let store = Shared::new(RecordingStore::new(MemoryStore::default()));
        let vault = Vault::init(Box::new(store.clone()), system_random).unwrap();
        let data = tempfile::tempdir().unwrap();
        // New files count as trusted as old ones do, whatever filesystem holds the temporary files.
        let trust = Trust { writeback: 0, shows_stores: |_| true, ..Trust::default() };
        let options =
            BackupOptions { data: data.path().to_path_buf(), boot: "boot".into(), trust, ..BackupOptions::default() };
        World {
            data,
            store,
            vault,
            stop: AtomicBool::new(false),
            monitor: Arc::new(CollectingMonitor::default()),
            options,
        }
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.data.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        age(&path);
    }

    fn try_backup(&self) -> Result<BackupReport> {
        let ctx =
            Context { random: &system_random, threads: 2, parallel: 2, stop: &self.stop, monitor: &*self.monitor };
        backup(&self.vault, &self.options, &ctx)
    }

    fn backup(&self) -> BackupReport {
        self.try_backup().unwrap()
    }

    /// Moves the data into a new directory at the same path, which is another place.
    fn elsewhere(&self) {
        let data = self.data.path();
        let new = tempfile::tempdir_in(data.parent().unwrap()).unwrap().keep();
        for entry in fs::read_dir(data).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), new.join(entry.file_name())).unwrap();
        }
        fs::rename(new, data).unwrap();
    }

    fn calls(&self) -> Vec<Call> {
        self.store.take()
    }

    /// Returns the entries of a snapshot with their content, read by the format's rules; checks the tar bytes on the
    /// way.
    fn entries(&self, name: SnapshotName) -> Vec<(Entry, Vec<u8>)> {
        let root = self.vault.root(name).unwrap();
        let packs = PackReader::for_root(&self.store, &root).unwrap();
        let mut decoder = Decoder::new().unwrap();
        let mut out = Vec::new();
        tree::each_entry(&packs, &root, |entry| {
            let mut bytes = |extents: &[crate::vault::entry::Extent]| -> Result<Vec<u8>> {
                let parts =
                    extents.iter().map(|e| packs.extent(e, 1 << 30, &mut decoder)).collect::<Result<Vec<_>>>()?;
                Ok(parts.concat())
            };
            assert_eq!(bytes(&entry.header_extents())?, crate::vault::tar::header(&entry).unwrap(), "{}", entry.path);
            let mut content = bytes(&entry.content_extents())?;
            tree::each_run(&packs, &entry, |extent| {
                content.extend(bytes(&[extent])?);
                Ok(())
            })?;
            if entry.kind == EntryKind::File {
                assert_eq!(Some(Hash::of(&content)), entry.hash, "{}", entry.path);
            }
            out.push((entry, content));
            Ok(())
        })
        .unwrap();
        assert_eq!(out.len() as u64, root.totals.entries);
        out
    }

    fn content(&self, name: SnapshotName, path: &str) -> Vec<u8> {
        self.entries(name).into_iter().find(|(e, _)| e.path.to_string() == path).unwrap().1
    }

    /// Returns the bytes of the data packs that were created since the calls were last taken.
    fn sent(&self) -> u64 {
        self.calls().iter().filter(|c| c.verb == "create" && c.name.starts_with("packs/")).map(|c| c.amount).sum()
    }
}

/// Makes a file old enough to be trusted by the next backup.
fn age(path: &Path) {
    let old = SystemTime::now() - Duration::from_secs(3600);
    File::open(path).unwrap().set_modified(old).unwrap();
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
fn a_tree_is_stored_and_an_unchanged_one_sends_a_root() {
    let world = World::new();
    world.write("a/empty", b"");
    world.write("a/small.json", b"{}");
    world.write("b/medium", &noise(1, 200_000));
    world.write("b/large.bin", &noise(2, 3_000_000));
    fs::create_dir(world.data.path().join("c")).unwrap();
    fs::set_permissions(world.data.path().join("c"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../nowhere", world.data.path().join("a/link")).unwrap();
    fs::hard_link(world.data.path().join("b/large.bin"), world.data.path().join("c/same.bin")).unwrap();

    let first = world.backup();
    assert_eq!((first.state, first.entries, first.files, first.parent), (SnapshotState::Complete, 10, 5, None));
    assert_eq!((first.warnings.len(), first.errors.len()), (0, 0));
    let entries = world.entries(first.snapshot);
    let paths: Vec<_> = entries.iter().map(|(e, _)| e.path.to_string()).collect();
    let expected = [".", "a", "a/empty", "a/link", "a/small.json", "b", "b/large.bin", "b/medium", "c", "c/same.bin"];
    assert_eq!(paths, expected);
    assert_eq!(entries[9].1, noise(2, 3_000_000));
    assert!(entries[6].0.link.is_some() && entries[6].0.link == entries[9].0.link);
    // The link's content is not stored twice.
    assert!(first.uploaded_bytes < 3_300_000, "{}", first.uploaded_bytes);

    world.calls();
    let second = world.backup();
    let created: Vec<_> = world.calls().into_iter().filter(|c| c.verb == "create").map(|c| c.name).collect();
    assert_eq!(created, [second.snapshot.object("snapshots/")]);
    assert_eq!((second.parent, second.new_packs), (Some(first.snapshot), 0));
    assert_eq!(world.entries(second.snapshot), entries);
}

#[test]
fn only_what_changed_is_read() {
    let mut world = World::new();
    for n in 0..50 {
        world.write(&format!("f{n}"), &noise(n, 1000));
    }
    world.write("big", &noise(99, 1_000_000));
    world.backup();
    world.write("f7", b"changed");
    let second = world.backup();
    // The changed file, and the files of the sample.
    let sampled = (0..50).filter(|n| u64::from(Hash::of(format!("f{n}").as_bytes()).0[0]) % 64 == 2).count() as u64;
    let big = if Hash::of(b"big").0[0] % 64 == 2 { 1_000_000 } else { 0 };
    assert_eq!(second.read_bytes, 7 + 1000 * sampled + big);
    assert_eq!(world.content(second.snapshot, "f7"), b"changed");

    // A reboot changes nothing.
    world.options.boot = "another".into();
    let third = world.backup();
    assert!(third.read_bytes <= 1_003_000 && third.new_packs == 0, "{third:?}");
    // In another place times and inodes mean nothing: as much is read as takes a moment, which here is everything.
    world.elsewhere();
    let third = world.backup();
    assert!(third.read_bytes == 49 * 1000 + 7 + 1_000_000 && third.uploaded_bytes < 20_000, "{third:?}");
    assert_eq!(world.entries(third.snapshot).len(), 52);
    assert_eq!(world.vault.root(third.snapshot).unwrap().unread, Some(Parts::NONE));

    world.options.verify_content = true;
    let fourth = world.backup();
    assert_eq!(fourth.read_bytes, 49 * 1000 + 7 + 1_000_000);
    assert_eq!(fourth.new_packs, 0);
}

#[test]
fn shifted_grown_and_moved_files_send_a_few_blocks() {
    let world = World::new();
    let log = noise(5, 24 << 20);
    world.write("app.log", &log);
    world.write("other", &noise(6, 300_000));
    world.backup();
    world.sent();

    let shifted = [b"x", &log[..]].concat();
    world.write("app.log", &shifted);
    let second = world.backup();
    assert!(world.sent() < 500_000);
    assert_eq!(world.content(second.snapshot, "app.log"), shifted);

    fs::rename(world.data.path().join("app.log"), world.data.path().join("app.log.1")).unwrap();
    world.write("app.log", &noise(7, 400_000));
    world.write("z/app.log.copy", &[&shifted, &b"more"[..]].concat());
    let third = world.backup();
    let sent = world.sent();
    assert!((400_000..1_200_000).contains(&sent), "{sent}");
    assert!(world.content(third.snapshot, "app.log.1") == shifted);
    assert_eq!(world.content(third.snapshot, "z/app.log.copy").len(), shifted.len() + 4);
}

#[test]
fn holes_are_stored_as_holes() {
    let world = World::new();
    let path = world.data.path().join("sparse");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"begin").unwrap();
    file.seek(SeekFrom::Start(40 << 20)).unwrap();
    file.write_all(b"end").unwrap();
    file.set_len(50 << 20).unwrap();
    drop(file);
    age(&path);
    let report = world.backup();
    assert!(report.uploaded_bytes < 10_000, "{}", report.uploaded_bytes);
    let root = world.vault.root(report.snapshot).unwrap();
    let packs = PackReader::for_root(&world.store, &root).unwrap();
    let mut holes = 0;
    tree::each_entry(&packs, &root, |entry| {
        tree::each_run(&packs, &entry, |extent| {
            holes += if extent.pack.is_none() { extent.length } else { 0 };
            Ok(())
        })
    })
    .unwrap();
    assert!(holes > 49 << 20, "{holes}");
    assert_eq!(world.content(report.snapshot, "sparse").len(), 50 << 20);
}

/// Hashing its holes would take years.
#[test]
fn a_file_without_an_end_is_named_and_holds_nothing_up() {
    let mut world = World::new();
    // A filesystem in memory does not limit the size of files.
    world.data = tempfile::tempdir_in("/dev/shm").unwrap();
    world.options.data = world.data.path().to_path_buf();
    world.write("a.txt", b"content");
    for name in ["endless", "another", "a third", "many"] {
        File::create(world.data.path().join(name)).unwrap().set_len(1 << 62).unwrap();
    }
    let report = world.backup();
    assert_eq!(report.state, SnapshotState::Partial);
    let told: Vec<_> = report.errors.iter().map(|problem| &problem.why).collect();
    assert!(told.len() == 4 && told.iter().all(|told| told.contains("4611686018427387904 bytes")), "{told:?}");
    assert_eq!(world.content(report.snapshot, "a.txt"), b"content");
}

#[test]
fn a_file_is_trusted_once_all_stores_into_it_show() {
    let mut world = World::new();
    world.write("old", b"old");
    fs::write(world.data.path().join("new"), b"new").unwrap();
    let racy = |world: &World, report: &BackupReport| -> Vec<String> {
        let entries = world.entries(report.snapshot);
        entries.into_iter().filter(|(entry, _)| entry.racy).map(|(entry, _)| entry.path.to_string()).collect()
    };
    world.options.trust = Trust { window: 0, sample: 1 << 40, ..world.options.trust };
    world.options.trust.writeback = WRITEBACK;
    let report = world.backup();
    assert_eq!((report.read_bytes, racy(&world, &report)), (6, vec!["new".to_owned()]));
    world.options.trust.writeback = 0;
    let report = world.backup();
    assert_eq!((report.read_bytes, racy(&world, &report)), (3, vec![]));
    assert_eq!(world.backup().read_bytes, 0);

    // An older program trusted them although times do not tell: that is found out when the sample reaches them.
    world.options.trust = Trust { sample: 1, shows_stores: |_| false, ..world.options.trust };
    let report = world.backup();
    assert_eq!((report.read_bytes, racy(&world, &report).len()), (6, 2));
    world.options.trust.sample = 1 << 40;
    // The first time, what is read is stored in another form.
    for new_packs in [1, 0, 0] {
        let report = world.backup();
        assert_eq!((report.read_bytes, report.new_packs, racy(&world, &report).len()), (6, new_packs, 2));
    }
}

/// Writes to a file as tools do that set its time back.
fn edit(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    let stamp = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.set_modified(stamp).unwrap();
}

#[test]
fn what_is_taken_over_in_another_place_is_read_in_sixteen_backups() {
    let mut world = World::new();
    for n in 0..200 {
        world.write(&format!("f{n}"), &noise(n, 1000));
    }
    fs::hard_link(world.data.path().join("f0"), world.data.path().join("link")).unwrap();
    // As if the directory were very large.
    world.options.trust = Trust { at_least: 0, sample: 1 << 40, ..world.options.trust };
    world.backup();
    (0..200).for_each(|n| edit(&world.data.path().join(format!("f{n}")), 3, b"edited"));
    world.elsewhere();
    let edited = |world: &World, report: &BackupReport| {
        let entries = world.entries(report.snapshot);
        entries
            .iter()
            .filter(|(entry, bytes)| entry.kind == EntryKind::File && bytes[3..].starts_with(b"edited"))
            .count()
    };
    let mut read = 0;
    let mut unread = Vec::new();
    for n in 0..16 {
        // The content is the same, whatever place it came from.
        let report = world.backup();
        read += report.read_bytes;
        assert!((1..40_000).contains(&report.read_bytes), "{report:?}");
        assert!(edited(&world, &report) as u64 >= read / 1000, "{n}: {report:?}");
        let root = world.vault.root(report.snapshot).unwrap();
        unread.push(root.unread.unwrap().bits().count_ones());
    }
    assert_eq!(unread, (0..16).rev().collect::<Vec<_>>());
    let report = world.backup();
    assert!(report.read_bytes <= 3000, "a few have their turn in the sample: {report:?}");
    assert_eq!((report.new_packs, edited(&world, &report)), (0, 201));

    // Files that are found unchanged change nothing in the vault except the root.
    world.elsewhere();
    let packs: Vec<_> = (0..16).map(|_| world.backup().new_packs).collect();
    assert!(packs[1..].iter().all(|packs| *packs == 0), "{packs:?}");

    // Each file has its turn even if every backup is made in a new place.
    (0..200).for_each(|n| edit(&world.data.path().join(format!("f{n}")), 3, b"EDITED"));
    let mut report = None;
    for _ in 0..16 {
        world.elsewhere();
        report = Some(world.backup());
    }
    let entries = world.entries(report.unwrap().snapshot);
    let lost = |(entry, bytes): &&(Entry, Vec<u8>)| {
        entry.kind == EntryKind::File && entry.link.is_none() && !bytes[3..].starts_with(b"EDITED")
    };
    assert_eq!(entries.iter().filter(lost).count(), 0);
}

#[test]
fn what_an_older_program_took_over_counts_as_unread() {
    let mut world = World::new();
    world.options.trust.sample = 1 << 40;
    world.write("file", &noise(1, 1000));
    let first = world.backup();
    assert_eq!(world.backup().read_bytes, 0);
    let newer = first.snapshot.seq + 1000;
    let older = Root { unread: None, seq: newer, ..world.vault.root(first.snapshot).unwrap() };
    let (name, bytes) = older.encode().unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("unread"));
    world.store.create(&name.object("snapshots/"), &[&bytes]).unwrap();
    let report = world.backup();
    assert_eq!((report.parent, report.read_bytes, report.new_packs), (Some(name), 1000, 0));
    assert_eq!(world.backup().read_bytes, 0);
}

#[test]
fn an_empty_or_halved_directory_is_suspect_and_no_parent() {
    let mut world = World::new();
    let empty = world.backup();
    assert_eq!(empty.state, SnapshotState::Suspect);
    for n in 0..10 {
        world.write(&format!("f{n}"), &noise(n, 100));
    }
    let good = world.backup();
    assert_eq!((good.state, good.parent), (SnapshotState::Complete, None));
    // In the same place it may become smaller, which is reported.
    for n in 0..7 {
        fs::remove_file(world.data.path().join(format!("f{n}"))).unwrap();
    }
    let halved = world.backup();
    assert_eq!((halved.state, halved.parent), (SnapshotState::Complete, Some(good.snapshot)));
    assert!(halved.warnings[0].contains("less than half"), "{:?}", halved.warnings);
    for n in 0..40 {
        world.write(&format!("g{n}"), &noise(n, 100));
    }
    let good = world.backup();
    for n in 0..40 {
        fs::remove_file(world.data.path().join(format!("g{n}"))).unwrap();
    }
    let mut before = good.snapshot;
    for _ in 0..2 {
        let wiped = world.backup();
        assert_eq!((wiped.state, wiped.parent), (SnapshotState::Suspect, Some(good.snapshot)));
        assert!(wiped.suspect.unwrap().contains("less than a tenth"));
        // It has a turn of its own, so that unread files have their turn even while snapshots are suspect.
        let turn = |name| world.vault.root(name).unwrap().turn.unwrap();
        assert_eq!(turn(wiped.snapshot), turn(before) + 1);
        assert!(before < wiped.snapshot);
        before = wiped.snapshot;
    }
    world.options.accept_shrink = true;
    let meant = world.backup();
    assert_eq!((meant.state, meant.parent), (SnapshotState::Complete, Some(good.snapshot)));
    world.options.accept_shrink = false;
    assert_eq!(world.backup().state, SnapshotState::Complete);

    // Another directory, which holds less than half, was put into its place: it is another place.
    for n in 0..10 {
        world.write(&format!("h{n}"), &noise(n, 100_000));
    }
    world.backup();
    let data = world.data.path();
    fs::rename(data, data.with_extension("was")).unwrap();
    fs::create_dir(data).unwrap();
    for n in 0..5 {
        world.write(&format!("i{n}"), &noise(n, 90_000));
    }
    let other = world.backup();
    assert_eq!(other.state, SnapshotState::Suspect);
    assert!(other.suspect.unwrap().contains("in another place"));
    // Its content is sent once.
    let again = world.backup();
    assert_eq!((again.state, again.read_bytes < 100_000), (SnapshotState::Suspect, true));
    assert!(again.uploaded_bytes < 20_000, "{}", again.uploaded_bytes);
    fs::remove_dir_all(data.with_extension("was")).unwrap();

    fs::remove_dir_all(world.data.path()).unwrap();
    let said = world.try_backup().unwrap_err().to_string();
    assert!(said.contains("does not exist"), "{said}");
    fs::create_dir(world.data.path()).unwrap();
}

/// Changes a file while it is read, when the monitor hears of the progress.
struct Meddler {
    at: u64,
    seen: std::sync::atomic::AtomicU64,
    done: AtomicBool,
    act: Box<dyn Fn() + Send + Sync>,
    inner: CollectingMonitor,
}

impl Monitor for Meddler {
    fn advance(&self, bytes: u64) {
        let seen = self.seen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if seen >= self.at && !self.done.swap(true, Ordering::Relaxed) {
            (self.act)();
        }
    }
    fn warn(&self, what: &str) {
        self.inner.warn(what);
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_taken_as_it_stands() {
    let grow = |path: &Path| File::options().append(true).open(path).unwrap().write_all(&[7; 100_000]).unwrap();
    let shrink = |path: &Path| File::options().write(true).open(path).unwrap().set_len(2_000_000).unwrap();
    let rewrite =
        |path: &Path| File::options().write(true).open(path).unwrap().write_all_at(b"new", 5_000_000).unwrap();
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    type Act = fn(&Path);
    let acts: [(&str, Act); 4] = [("grow", grow), ("shrink", shrink), ("rewrite", rewrite), ("remove", remove)];
    for (what, act) in acts {
        let mut world = World::new();
        world.write("busy", &noise(3, 6_000_000));
        world.write("calm", b"calm");
        let path = world.data.path().join("busy");
        world.monitor = Arc::new(Meddler {
            at: 3_000_000,
            seen: Default::default(),
            done: AtomicBool::new(false),
            act: Box::new(move || act(&path)),
            inner: CollectingMonitor::default(),
        });
        let report = world.backup();
        assert_eq!((report.state, report.errors.len()), (SnapshotState::Complete, 0), "{what}");
        let content = world.content(report.snapshot, "busy");
        match what {
            // The content from before is whole; the next backup takes the rest.
            "grow" => assert!(content == noise(3, 6_000_000) && report.warnings.is_empty() && report.whole),
            // It was read again, and had come to rest.
            "shrink" => assert_eq!((content.len(), report.warnings.len()), (2_000_000, 0)),
            "rewrite" => assert_eq!((&content[5_000_000..5_000_003], report.warnings.len()), (&b"new"[..], 0)),
            _ => {
                assert_eq!(content, noise(3, 6_000_000));
                assert!(report.warnings[0].contains("removed"), "{:?}", report.warnings);
            }
        }
        assert_eq!(world.content(report.snapshot, "calm"), b"calm");
    }
}

/// Writes to a file whenever something was read.
struct Always(std::path::PathBuf, fn(&Path));

impl Monitor for Always {
    fn advance(&self, _: u64) {
        (self.1)(&self.0);
    }
}

#[test]
fn a_file_that_never_stops_growing_is_whole_up_to_its_first_length() {
    let mut world = World::new();
    world.write("busy", &noise(3, 6_000_000));
    let more = |path: &Path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    world.monitor = Arc::new(Always(world.data.path().join("busy"), more));
    let report = world.backup();
    assert!(report.whole && report.warnings.is_empty(), "{report:?}");
    assert!(world.content(report.snapshot, "busy") == noise(3, 6_000_000));
    assert!(world.entries(report.snapshot).remove(1).0.racy);
}

/// Writes into a file of more than 5.9 MB.
fn never_rests(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&crate::fs::times::now().to_le_bytes(), 5_900_000).unwrap();
}

#[test]
fn a_file_that_never_rests_is_torn_until_a_state_of_it_is_known_and_then_as_it_was() {
    let mut world = World::new();
    world.write("busy", &noise(3, 6_000_000));
    world.write("calm", b"calm");
    let path = world.data.path().join("busy");
    // No earlier version is known: it is taken as it is each time, and does not make the snapshot partial.
    let mut last = Vec::new();
    for _ in 0..2 {
        world.monitor = Arc::new(Always(path.clone(), never_rests));
        let report = world.backup();
        assert_eq!((report.state, report.good, report.whole), (SnapshotState::Complete, true, false));
        assert_eq!((report.torn.len(), report.stale.len(), report.errors.len()), (1, 0, 0));
        assert!(report.torn[0].why.contains("written to while it was read"), "{:?}", report.torn);
        let content = world.content(report.snapshot, "busy");
        assert!(content.starts_with(&noise(3, 6_000_000)[..5_900_000]) && content != last);
        last = content;
    }
    world.monitor = Arc::new(SilentMonitor);
    let whole = world.backup();
    assert!(whole.whole);
    let known = world.content(whole.snapshot, "busy");
    for _ in 0..2 {
        world.monitor = Arc::new(Always(path.clone(), never_rests));
        let report = world.backup();
        assert_eq!((report.good, report.whole, report.torn.len()), (true, false, 0));
        assert_eq!(report.stale[0].since, world.vault.root(whole.snapshot).unwrap().started);
        assert!(world.content(report.snapshot, "busy") == known);
        // The content that was read can be reached by name.
        let root = world.vault.root(report.snapshot).unwrap();
        let mut torn = Vec::new();
        let ctx = Context {
            random: &system_random,
            threads: 1,
            parallel: 1,
            stop: &AtomicBool::new(false),
            monitor: &SilentMonitor,
        };
        let busy = EntryPath::new("busy").unwrap();
        crate::inspect::cat_torn(&world.vault, &root, &busy, &mut torn, &ctx).unwrap();
        assert!(torn.len() == 6_000_000 && torn[..5_900_000] == known[..5_900_000] && torn != known);
        let calm = EntryPath::new("calm").unwrap();
        assert!(crate::inspect::cat_torn(&world.vault, &root, &calm, &mut torn, &ctx).is_err());
    }
    // The content that was read is known the next time: only what changed is stored again.
    world.write("busy", &noise(4, 6_000_000));
    let mut reports = Vec::new();
    for _ in 0..3 {
        world.monitor = Arc::new(Always(path.clone(), never_rests));
        reports.push(world.backup());
    }
    let stored: Vec<_> = reports.iter().map(|report| report.uploaded_bytes).collect();
    assert!(stored[0] > 6_000_000 && stored[1..].iter().all(|stored| *stored < 3_000_000), "{stored:?}");
    // A pack that holds nothing else is not needed for a restore.
    let last = reports[2].snapshot;
    let root = world.vault.root(last).unwrap();
    let mut packs = PackReader::for_root(&world.store, &root).unwrap().book().clone();
    let entries = world.entries(last);
    let tree: HashSet<_> = entries.iter().flat_map(|(entry, _)| entry.packs()).collect();
    packs.retain(|id, pack| pack.kind == crate::vault::pack::PackKind::Data && !tree.contains(id));
    let torn = packs.values().next().unwrap().name();
    world.store.inner().objects().get_mut(&torn).unwrap().clear();
    let folder = tempfile::tempdir().unwrap();
    let wanted = crate::restore::tests::options(&folder.path().join("data"));
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
    let report = crate::restore::restore(&world.vault, &wanted, &ctx).unwrap();
    assert_eq!((report.snapshot, report.instead_of), (last, None));
    assert!(report.warnings.iter().any(|what| what.contains("never came to rest")), "{report:?}");
    world.monitor = Arc::new(SilentMonitor);
    assert!(world.backup().whole);
}

#[test]
fn nothing_is_built_on_an_index_pack_in_which_damage_was_met() {
    let world = World::new();
    world.write("large", &noise(1, 3_000_000));
    (0..1500).for_each(|n| world.write(&format!("{n:04}"), &noise(n, 20)));
    world.backup();
    let index: Vec<_> = world.store.list("index/").unwrap().into_iter().map(|pack| (pack.name, pack.size)).collect();
    let healthy = world.store.inner().objects().clone();
    let mut met = 0;
    for (name, size) in &index {
        for part in 0..8 {
            *world.store.inner().objects() = healthy.clone();
            let at = (size * part / 8 + size / 16) as usize;
            world.store.inner().objects().get_mut(name).unwrap()[at] ^= 0x55;
            // Its content is unchanged, and is read.
            age(&world.data.path().join("large"));
            let report = world.backup();
            let ctx =
                Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
            let found = crate::verify::verify(&world.vault, &Default::default(), &ctx).unwrap();
            let hurt = found.damage.iter().any(|damage| damage.snapshots.contains(&report.snapshot));
            assert!(!hurt || report.warnings.is_empty(), "{name} at {at}: {:?} {:?}", report.warnings, found.damage);
            met += u32::from(!report.warnings.is_empty());
        }
    }
    assert!(met > 2, "{met}");
}

#[test]
fn one_object_that_cannot_be_read_keeps_nobody_from_a_backup() {
    for folder in ["snapshots/", "checkpoints/", "index/", "packs/", "doubts/"] {
        let mut world = World::new();
        world.write("busy", &noise(3, 6_000_000));
        world.backup();
        let path = world.data.path().join("busy");
        never_rests(&path);
        world.monitor = Arc::new(Always(path, never_rests));
        assert_eq!(world.backup().stale.len(), 1);
        world.monitor = Arc::new(SilentMonitor);
        let fault = crate::store::testing::fault::FaultStore::new(world.store.clone(), move |verb, name| {
            verb != "create" && verb != "list" && name.starts_with(folder)
        });
        let vault = Vault::open(Box::new(fault.unreadable())).unwrap();
        let ctx =
            Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
        let report = backup(&vault, &world.options, &ctx).unwrap();
        assert_eq!((report.state, report.good), (SnapshotState::Complete, true), "{folder}");
    }
}

#[test]
fn a_restore_that_is_at_work_is_waited_for_and_one_that_was_killed_is_not() {
    let world = World::new();
    world.write("a", b"a");
    marker::tests::write_all(world.data.path());
    let held = Directory::open(world.data.path()).unwrap();
    lock::lock(&held, lock::LockKind::Exclusive, Duration::ZERO, &world.stop).unwrap();
    let stop = AtomicBool::new(true);
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &SilentMonitor };
    let opened = || open_locked(&world.options, "/v", &ctx).map(drop).unwrap_err().to_string();
    assert!(opened().contains("lock the directory"), "{}", opened());
    drop(held);
    assert!(opened().contains("has not been finished"), "{}", opened());
    // The same holds for a restore into a folder around it.
    std::fs::remove_file(world.data.path().join(marker::MARKER)).unwrap();
    let inner = world.data.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let inner = BackupOptions { data: inner, ..world.options.clone() };
    open_locked(&inner, "/v", &ctx).unwrap();
    marker::tests::write_all(world.data.path());
    let said = open_locked(&inner, "/v", &ctx).map(drop).unwrap_err().to_string();
    assert!(said.contains("around it, has not been finished"), "{said}");
}

#[test]
fn checkpoints_that_cannot_be_listed_keep_nobody_from_a_backup() {
    let world = World::new();
    world.write("a", b"a");
    world.backup();
    let plan = |verb: &str, name: &str| verb == "list" && name == "checkpoints/";
    let vault =
        Vault::open(Box::new(crate::store::testing::fault::FaultStore::new(world.store.clone(), plan))).unwrap();
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
    let report = backup(&vault, &world.options, &ctx).unwrap();
    assert!(
        report.good && report.warnings.iter().any(|what| what.contains("no checkpoint is built upon")),
        "{report:?}"
    );
}

#[test]
fn checkpoints_that_cannot_be_written_keep_nobody_from_a_backup() {
    let mut world = World::new();
    for n in 0..200u64 {
        world.write(&format!("{:02}/{n}", n % 40), &noise(n, 3000));
    }
    world.options.checkpoint_every = Duration::ZERO;
    let plan = |verb: &str, name: &str| verb == "create" && name.starts_with("checkpoints/");
    let vault =
        Vault::open(Box::new(crate::store::testing::fault::FaultStore::new(world.store.clone(), plan))).unwrap();
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &SilentMonitor };
    let report = backup(&vault, &world.options, &ctx).unwrap();
    let told = report.warnings.iter().filter(|what| what.contains("commit checkpoints/")).count();
    assert_eq!((report.good, report.files, told), (true, 200, 1), "{report:?}");
}

#[test]
fn what_lasts_is_told_when_it_begins_and_after_a_day_a_week_and_a_month() {
    // It is torn if there is no good snapshot with it, and carried over if there is.
    for carried in [false, true] {
        let mut world = World::new();
        world.write("busy", &noise(3, 6_000_000));
        if carried {
            assert!(!world.backup().news);
        }
        let path = world.data.path().join("busy");
        never_rests(&path);
        world.monitor = Arc::new(Always(path, never_rests));
        let (mut since, mut told) = (HashSet::new(), Vec::new());
        let hours = [0, 12, 30, 47, 24 * 6, 24 * 8, 24 * 29, 24 * 31, 24 * 100];
        for at in hours {
            world.store.inner().set_ahead(SignedDuration::from_hours(at));
            let report = world.backup();
            assert_eq!(
                (report.good, report.torn.len(), report.stale.len()),
                (true, !carried as usize, carried as usize)
            );
            let root = world.vault.root(report.snapshot).unwrap();
            let torn = report.torn.iter().map(|torn| torn.since.unwrap_or(root.started));
            since.extend(torn.chain(report.stale.iter().map(|stale| stale.since)));
            told.extend(report.news.then_some(at));
        }
        assert_eq!((told, since.len()), (vec![0, 30, 24 * 8, 24 * 31], 1), "{carried}");
    }
}

#[test]
fn a_checkpoint_serves_the_next_backup() {
    let mut world = World::new();
    for n in 0..2000u64 {
        world.write(&format!("{:02}/{n}", n % 40), &noise(n, 3000));
    }
    world.options.checkpoint_every = Duration::ZERO;
    struct StopAt(std::sync::atomic::AtomicU64, Arc<AtomicBool>);
    impl Monitor for StopAt {
        fn advance(&self, bytes: u64) {
            if self.0.fetch_add(bytes, Ordering::Relaxed) > 4_000_000 {
                self.1.store(true, Ordering::Relaxed);
            }
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let monitor = StopAt(Default::default(), stop.clone());
    let ctx = Context { random: &system_random, threads: 2, parallel: 2, stop: &stop, monitor: &monitor };
    let said = backup(&world.vault, &world.options, &ctx).unwrap_err().to_string();
    assert!(said.contains("told to stop"), "{said}");
    assert_eq!(world.vault.snapshots().unwrap(), []);
    assert!(!world.vault.checkpoints().unwrap().is_empty());

    world.options.checkpoint_every = Duration::from_secs(600);
    let report = world.backup();
    assert!(report.read_bytes < 5_900_000 && report.read_bytes > 0, "{}", report.read_bytes);
    assert_eq!((report.state, report.parent, report.files), (SnapshotState::Complete, None, 2000));
    for (entry, content) in world.entries(report.snapshot).iter().filter(|(e, _)| e.kind == EntryKind::File) {
        let n: u64 = String::from_utf8_lossy(entry.path.name()).parse().unwrap();
        assert_eq!(*content, noise(n, 3000));
    }
    // Once there is a snapshot, the checkpoint is no longer used.
    let next = world.backup();
    assert_eq!((next.parent, next.new_packs), (Some(report.snapshot), 0));
}

#[test]
fn long_lists_are_cut_and_reused() {
    let world = World::new();
    for n in 0..60_000u64 {
        let path = world.data.path().join(format!("{:03}", n % 300));
        if n < 300 {
            fs::create_dir(&path).unwrap();
        }
        fs::write(path.join(format!("{n}")), n.to_le_bytes()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(2100));
    let first = world.backup();
    world.write("007/extra", b"one more");
    let second = world.backup();
    world.write("200/extra", b"one more");
    let third = world.backup();
    assert_eq!(world.vault.root(third.snapshot).unwrap().totals.files, 60_002);
    // A hunk or two, the list's frame, a header and eight bytes.
    assert!(third.uploaded_bytes < first.uploaded_bytes / 20, "{} {}", first.uploaded_bytes, third.uploaded_bytes);
    let root = world.vault.root(second.snapshot).unwrap();
    let packs = PackReader::for_root(&world.store, &root).unwrap();
    let mut entries = 0;
    tree::each_entry(&packs, &root, |_| {
        entries += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(entries, 60_302);

    // When all lists are lost, the next snapshot is whole, and it is the newest.
    world.store.inner().objects().retain(|name, _| !name.starts_with("index/"));
    let fourth = world.backup();
    assert!(fourth.snapshot > third.snapshot);
    assert_eq!((fourth.parent, fourth.files), (None, 60_002));
    assert_eq!(fourth.read_bytes, first.read_bytes + 16);
    let fifth = world.backup();
    assert!(fifth.snapshot > fourth.snapshot);
    assert_eq!((fifth.parent, fifth.new_packs), (Some(fourth.snapshot), 0));
}

/// Replaces a snapshot's root by a changed one. Returns its name.
fn rewrite(world: &World, name: SnapshotName, change: impl FnOnce(&mut Root)) -> SnapshotName {
    let mut root = world.vault.root(name).unwrap();
    change(&mut root);
    let (new, bytes) = root.encode().unwrap();
    let mut objects = world.store.inner().objects();
    objects.remove(&name.object("snapshots/")).unwrap();
    objects.insert(new.object("snapshots/"), bytes);
    new
}

#[test]
fn numbers_are_times_and_go_on_from_the_greatest() {
    let mut world = World::new();
    world.write("a", b"1");
    const NOW: i64 = 1_990_000_000;
    world.options.trust.now = || NOW * 1_000_000_000;
    let seq = |world: &World| world.backup().snapshot.seq as i64;
    assert_eq!([seq(&world), seq(&world)], [NOW, NOW + 1]);
    // The fastest clock counts: this machine's, the store's, a replica's.
    world.options.clock_ahead = SignedDuration::from_secs(100);
    assert_eq!(seq(&world), NOW + 100);
    world.options.clock_ahead = SignedDuration::from_secs(-100);
    world.options.seq_after = NOW as u64 + 200;
    assert_eq!(seq(&world), NOW + 201);
    assert_eq!(world.backup().warnings, [""; 0]);
    let before = Timestamp::now().as_second();
    world.options = BackupOptions { data: world.options.data.clone(), ..BackupOptions::default() };
    let last = world.backup();
    assert_eq!(last.snapshot.seq as i64, NOW + 203);
    assert!(before < NOW && last.warnings[0].contains("a time in the future, 2033-01-"), "{:?}", last.warnings);
    // An epoch is kept, even when its numbers are used up.
    let in_epoch = rewrite(&world, last.snapshot, |root| root.seq = (7 << 32) + 5);
    let next = world.backup().snapshot;
    assert!(next.seq >> 32 == 7 && next.seq & 0xffff_ffff >= before as u64, "{next}");
    assert!(in_epoch < next);
    let end = rewrite(&world, next, |root| root.seq = (8 << 32) - 1);
    let why = world.try_backup().unwrap_err();
    assert!(why.to_string().contains("no number is greater than 34359738367"), "{why}");
    assert_eq!(world.vault.snapshots().unwrap().last(), Some(&end));
}

#[test]
fn the_sample_turns_beside_programs_that_count() {
    let world = World::new();
    world.write("a", b"1");
    let turn = |name| world.vault.root(name).unwrap().turn;
    let first = world.backup().snapshot;
    assert_eq!(turn(first), Some(0));
    assert_eq!(turn(world.backup().snapshot), Some(1));
    // Another program, whose roots have no turn, makes every second snapshot, or a few in between.
    let mut turns = Vec::new();
    for round in 0..6 {
        for _ in 0..=round {
            let name = world.backup().snapshot;
            rewrite(&world, name, |root| root.turn = None);
        }
        turns.push(turn(world.backup().snapshot).unwrap());
    }
    assert_eq!(turns, [2, 3, 4, 5, 6, 7]);
    // If no root has a turn, the snapshot's number counts.
    let old = World::new();
    old.write("a", b"1");
    let name = old.backup().snapshot;
    rewrite(&old, name, |root| (root.seq, root.turn) = (41, None));
    assert_eq!(old.vault.root(old.backup().snapshot).unwrap().turn, Some(42));
}

#[test]
fn the_root_comes_last() {
    let world = World::new();
    world.write("a", &noise(1, 5_000_000));
    world.calls();
    let first = world.backup();
    let creates: Vec<_> = world.calls().into_iter().filter(|c| c.verb == "create").map(|c| c.name).collect();
    assert_eq!(creates.last().unwrap(), &first.snapshot.object("snapshots/"));
    assert_eq!(creates.iter().filter(|name| name.starts_with("snapshots/")).count(), 1);

    assert!(creates.iter().any(|name| name.starts_with("index/")));
}

#[test]
fn what_lay_in_a_lost_pack_is_stored_anew() {
    for folder in ["packs/", "index/"] {
        let world = World::new();
        world.write("a", &noise(1, 5_000_000));
        world.write("b", &noise(2, 100));
        let first = world.backup();
        let pack = world.store.list(folder).unwrap()[0].name.clone();
        world.store.inner().objects().remove(&pack);
        world.write("c", b"new");
        let second = world.backup();
        assert_eq!((second.state, second.parent), (SnapshotState::Complete, Some(first.snapshot)));
        assert!(second.warnings.iter().any(|w| w.contains("anew")), "{:?}", second.warnings);
        assert!(world.content(second.snapshot, "a") == noise(1, 5_000_000));
        assert_eq!(world.content(second.snapshot, "b"), noise(2, 100));
        let third = world.backup();
        assert_eq!((third.parent, third.new_packs, third.warnings.len()), (Some(second.snapshot), 0, 0));
    }
}

#[test]
fn a_store_that_fails_ends_the_backup_and_nothing_waits_for_ever() {
    let world = World::new();
    for n in 0..3000u64 {
        world.write(&format!("{:02}/{n}", n % 50), &noise(n, 12_000));
    }
    world.write("20/large", &noise(1, 20_000_000));
    let packs = |verb: &str, name: &str| verb == "create" && name.starts_with("packs/");
    for _ in 0..10 {
        let store = crate::store::testing::fault::FaultStore::new(world.store.clone(), packs);
        let vault = Vault::open(Box::new(store)).unwrap();
        let ctx =
            Context { random: &system_random, threads: 2, parallel: 2, stop: &world.stop, monitor: &*world.monitor };
        let said = backup(&vault, &world.options, &ctx).unwrap_err().to_string();
        assert!(said.contains("injected fault"), "{said}");
        assert_eq!(world.vault.snapshots().unwrap(), []);
    }
    assert_eq!(world.backup().files, 3001);
}

#[test]
fn before_it_commits_it_asks_and_a_no_leaves_checkpoints_and_packs_only() {
    let mut world = World::new();
    for n in 0..400u64 {
        world.write(&n.to_string(), &noise(n, 3000));
    }
    world.options.checkpoint_every = Duration::ZERO;
    let (store, asked) = (world.store.clone(), Arc::new(std::sync::atomic::AtomicU64::new(0)));
    let count = asked.clone();
    world.options.before_commit = Some(BeforeCommit::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        // Everything is there, and was checked by two requests at the same time.
        let calls = store.take();
        let mut last: Vec<_> = calls.iter().rev().take(2).map(|call| (call.verb, &call.name[..])).collect();
        last.sort();
        assert_eq!(last, [("list", "index/"), ("list", "packs/")]);
        Err(Error::failed("commit", "another run has taken over"))
    }));
    let said = world.try_backup().unwrap_err();
    assert!(said.what().contains("another run has taken over"), "{said}");
    assert_eq!((asked.load(Ordering::Relaxed), world.vault.snapshots().unwrap()), (1, Vec::new()));
    assert!(!world.vault.checkpoints().unwrap().is_empty());
    let count = asked.clone();
    world.options.before_commit = Some(BeforeCommit::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }));
    world.options.run = Some(Hex([7; 8]));
    let report = world.backup();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(world.vault.root(report.snapshot).unwrap().run, Some(Hex([7; 8])));
    assert_eq!(world.entries(report.snapshot).len(), 401);
}
