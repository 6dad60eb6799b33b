//! Tests of restores from vaults that are sound, damaged, or made to do harm.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::sample::{SampleVault, context};
use super::*;
use crate::path::EscapedBytes;
use crate::restore::target::ReplaceMode;
use crate::source::marker::{self, MARKER, Unfinished};
use crate::store::testing::fault::FaultStore;
use crate::store::testing::recording::RecordingStore;
use crate::vault::entry::{EntryKind, Extent};
use crate::vault::hex::Hash;
use crate::verify;

pub fn options(target: &Path) -> RestoreOptions {
    RestoreOptions::latest(target.to_path_buf())
}

/// Windows and reads so small that every way of cutting happens.
pub fn tiny() -> WindowLimits {
    WindowLimits { entries: 3, pieces: 2, memory: 4000, read: 150, gap: 30 }
}

/// The content of a tree: for each path, its kind and everything that is kept of it.
pub fn look(folder: &Path) -> BTreeMap<Vec<u8>, String> {
    fn walk(folder: &Path, at: &Path, out: &mut BTreeMap<Vec<u8>, String>) {
        let meta = at.symlink_metadata().unwrap();
        let kind = match meta.file_type() {
            t if t.is_dir() => "folder".to_owned(),
            t if t.is_symlink() => format!("symlink {:?}", fs::read_link(at).unwrap()),
            t if t.is_fifo() => "fifo".to_owned(),
            _ => format!("file {}", Hash::of(&fs::read(at).unwrap())),
        };
        let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
        let path = at.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
        out.insert(path, format!("{kind} {mode:o} {}.{:09}", meta.mtime(), meta.mtime_nsec()));
        if meta.is_dir() {
            fs::read_dir(at).unwrap().for_each(|entry| walk(folder, &entry.unwrap().path(), out));
        }
    }
    let mut out = BTreeMap::new();
    walk(folder, folder, &mut out);
    out
}

pub fn expected(sample: &SampleVault) -> BTreeMap<Vec<u8>, String> {
    let describe = |entry: &Entry| {
        let kind = match entry.kind {
            EntryKind::Folder => "folder".to_owned(),
            EntryKind::Fifo => "fifo".to_owned(),
            EntryKind::Symlink => format!("symlink {:?}", OsStr::from_bytes(&entry.target.as_ref().unwrap().0)),
            EntryKind::File => format!("file {}", entry.hash.unwrap()),
        };
        let mode = if entry.kind == EntryKind::Symlink { 0 } else { entry.mode };
        let (seconds, nanos) = (entry.mtime.div_euclid(1_000_000_000), entry.mtime.rem_euclid(1_000_000_000));
        format!("{kind} {mode:o} {seconds}.{nanos:09}")
    };
    sample.entries.iter().map(|e| (e.path.bytes().to_vec(), describe(e))).collect()
}

pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A tree with every kind of entry.
fn everything() -> SampleVault {
    let mut sample = SampleVault::new();
    sample.entries[0].mode = 0o2750;
    sample.folder("a").mtime = -1_500_000_000;
    sample.file("a/big", &noise(1000, 1)).mode = 0o4711;
    sample.file("a/empty", b"");
    // Pieces out of order, and shared with a file before.
    let one = sample.put(&noise(400, 2));
    let two = sample.put(&noise(300, 3));
    let cut = |e: Extent, offset, length| Extent { offset, length, ..e };
    let parts = [cut(two, 100, 150), cut(one, 250, 150), cut(two, 0, 100), cut(one, 0, 130)];
    let mixed = [&noise(300, 3)[100..250], &noise(400, 2)[250..], &noise(300, 3)[..100], &noise(400, 2)[..130]];
    sample.file_at("a/mixed", &mixed.concat(), &parts).mode = 0o400;
    sample.database("app.db").mode = 0o640;
    sample.folder("deep").mode = 0o555;
    sample.folder("deep/er").mode = 0o500;
    sample.file("deep/er/file", b"in a folder without write permission");
    sample.add("fifo", EntryKind::Fifo).mode = 0o622;
    sample.file("link-1", b"one inode").link = Some("g".into());
    let mut second = sample.entries.last().unwrap().clone();
    second.path = EntryPath::new("link-2").unwrap();
    sample.entries.push(second);
    // Data, a hole, data, a hole at the end.
    let hole = 1 << 20;
    let sparse = [&noise(4096, 4)[..], &vec![0; hole], &noise(4096, 5)[..], &vec![0; hole]].concat();
    let runs = [sample.put(&noise(4096, 4)), sample.put(&noise(4096, 5))];
    let runs = [runs[0], Extent::zeros(hole as u64), runs[1], Extent::zeros(hole as u64)];
    sample.mapped("mapped", &sparse, &runs);
    sample.file_at("only-a-hole", &vec![0; hole], &[Extent::zeros(hole as u64)]);
    sample.folder("p");
    let mut long = "p".to_owned();
    for n in 0..20 {
        long = format!("{long}/{n:0>240}");
        sample.folder(&long);
    }
    sample.file(format!("{long}/{}", "f".repeat(255)), b"a path of 5,000 bytes");
    sample.file_at("sparse", &sparse, &runs);
    sample.symlink("symlink", b"../../etc/\xff passwd");
    sample.file(b"\xff\\not utf-8", b"named in bytes").xattrs =
        vec![(EscapedBytes(b"user.x".to_vec()), EscapedBytes(vec![0, 1, 255]))];
    sample
}

/// Whether the test's own folder supports user attributes (tmpfs of old kernels does not).
fn takes_xattrs(folder: &Path) -> bool {
    let probe = folder.join("probe");
    fs::write(&probe, "").unwrap();
    let taken = rustix::fs::setxattr(&probe, "user.probe", b"", rustix::fs::XattrFlags::empty()).is_ok();
    fs::remove_file(probe).unwrap();
    taken
}

#[test]
fn every_kind_of_entry_comes_back_through_windows_of_any_size() {
    let mut sample = everything();
    sample.commit(SnapshotState::Complete);
    for limits in [WindowLimits::default(), tiny(), WindowLimits { entries: 1, pieces: 1, memory: 1, read: 1, gap: 0 }]
    {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("made/data");
        let report = restore_within(&sample.vault, &options(&target), limits, &context()).unwrap();
        assert_eq!(report.entries, sample.entries.len() as u64);
        assert_eq!((report.moved_aside, report.not_restored.len()), (None, 0));
        // Paths over 4,095 bytes can be made but not looked at: the deepest is checked by its folder's removal below.
        let long = |path: &Vec<u8>| folder.path().as_os_str().len() + path.len() > 4000;
        let mut wanted = expected(&sample);
        wanted.retain(|path, _| !long(path));
        let (first, second) = (target.join("link-1"), target.join("link-2"));
        assert_eq!(first.metadata().unwrap().ino(), second.metadata().unwrap().ino());
        for sparse in ["mapped", "sparse", "only-a-hole"] {
            assert!(target.join(sparse).metadata().unwrap().blocks() < 64, "{sparse} has no holes");
        }
        if takes_xattrs(folder.path()) {
            let mut value = [0; 9];
            let read =
                rustix::fs::getxattr(target.join(OsStr::from_bytes(b"\xff\\not utf-8")), "user.x", &mut value[..]);
            assert_eq!(&value[..read.unwrap()], [0, 1, 255]);
        }
        let mut found = shallow(&target);
        found.retain(|path, _| !long(path));
        assert_eq!(found, wanted);
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "staging folders are left");
        crate::fs::Folder::open(target.parent().unwrap()).unwrap().remove_tree("data").unwrap();
    }
}

/// As [`look`], without what lies deeper than the kernel takes in one path.
fn shallow(folder: &Path) -> BTreeMap<Vec<u8>, String> {
    let cut = folder.join("p");
    let mut deep = cut.clone();
    for n in 0..16 {
        deep = deep.join(format!("{n:0>240}"));
    }
    // The rest is moved away for the look, by descriptor, and must hold the file.
    let out = fs::File::open(&deep).unwrap();
    let name = format!("{:0>240}", 16);
    let stat = rustix::fs::stat(&deep).unwrap();
    let aside = tempfile::tempdir_in(folder.parent().unwrap()).unwrap();
    let rest = aside.path().join("rest");
    rustix::fs::renameat(&out, &name, rustix::fs::CWD, &rest).unwrap();
    let bottom = [17, 18, 19].iter().fold(rest.clone(), |at, n| at.join(format!("{n:0>240}")));
    assert_eq!(fs::read(bottom.join("f".repeat(255))).unwrap(), b"a path of 5,000 bytes");
    let seen = look(folder);
    rustix::fs::renameat(rustix::fs::CWD, &rest, &out, &name).unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: rustix::fs::Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::futimens(&out, &times).unwrap();
    let mut seen = seen;
    // Its time changed when the rest was moved; it had been the right one before.
    let path = deep.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
    let was = format!("folder 755 {}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
    seen.insert(path, was);
    seen
}

/// A small tree: two folders with two files each.
pub fn small() -> SampleVault {
    let mut sample = SampleVault::new();
    for folder in ["a", "b"] {
        sample.folder(folder);
        for name in ["one", "two"] {
            sample.file(format!("{folder}/{name}"), &noise(350, u64::from(folder.as_bytes()[0]) + name.len() as u64));
        }
    }
    sample
}

pub fn old_tree(target: &Path) -> BTreeMap<Vec<u8>, String> {
    fs::create_dir_all(target.join("a")).unwrap();
    fs::write(target.join("a/one"), "old").unwrap();
    fs::write(target.join("mine"), "mine").unwrap();
    look(target)
}

#[test]
fn what_was_there_moves_aside_whole() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let mut before = old_tree(&target);
        let stale = if in_place {
            target.join(".lastgood-restoring-00")
        } else {
            folder.path().join(".data.lastgood-restoring-00")
        };
        let stale = std::path::PathBuf::from(format!("{}11223344556677", stale.display()));
        fs::create_dir_all(stale.join("tree/half")).unwrap();
        fs::set_permissions(&stale, PermissionsExt::from_mode(0o700)).unwrap();
        let report = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        assert!(!stale.exists(), "what a killed restore left is still there");
        let aside = report.moved_aside.unwrap();
        let mut kept = look(&aside);
        let mut now = look(&target);
        // The folder itself is left out: in place it is a new one.
        kept.remove(&b""[..]);
        before.remove(&b""[..]);
        assert_eq!(kept, before);
        now.retain(|path, _| !path.starts_with(b"lastgood.replaced-"));
        assert_eq!(now, expected(&sample));
        assert_eq!(aside.parent().unwrap(), if in_place { &target } else { folder.path() });
        let again = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        assert_ne!(again.moved_aside.unwrap(), aside);
        assert!(aside.join("mine").exists());
    }
}

#[test]
fn what_only_looks_like_a_staging_folder_stays() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        fs::create_dir(&target).unwrap();
        let (beside, prefix) = if in_place { (target.as_path(), "") } else { (folder.path(), ".data") };
        let at = |end: &str| beside.join(format!("{prefix}.lastgood-restoring-{end}"));
        let far = tempfile::tempdir().unwrap();
        fs::write(far.path().join("kept"), "kept").unwrap();
        let folders = ["notes", "00112233445566", "001122334455667", "00112233445566778", "00112233445566AA", ""];
        for end in folders {
            fs::create_dir(at(end)).unwrap();
            fs::write(at(end).join("thesis.txt"), "mine").unwrap();
        }
        fs::write(at("0011223344556600"), "a file").unwrap();
        std::os::unix::fs::symlink(far.path(), at("0011223344556601")).unwrap();
        // A folder of a killed restore, in which somebody has put a link.
        fs::create_dir_all(at("0011223344556602/tree")).unwrap();
        fs::set_permissions(at("0011223344556602"), PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(far.path(), at("0011223344556602/tree/link")).unwrap();
        std::os::unix::fs::symlink(far.path().join("kept"), at("0011223344556602/groups")).unwrap();
        let report = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        for end in folders {
            assert_eq!(fs::read(at(end).join("thesis.txt")).unwrap(), b"mine", "{end}");
        }
        // Anything that is not a folder is data, if it lies in the target.
        let aside = report.moved_aside.unwrap();
        let now = |end: &str| if in_place { aside.join(at(end).file_name().unwrap()) } else { at(end) };
        assert_eq!(fs::read(now("0011223344556600")).unwrap(), b"a file");
        assert!(now("0011223344556601").is_symlink() && !at("0011223344556602").exists());
        assert_eq!(fs::read(far.path().join("kept")).unwrap(), b"kept");
    }
}

#[test]
fn a_staging_folder_that_another_restore_holds_stays() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join(".data.lastgood-restoring-0011223344556677");
    fs::create_dir_all(held.join("tree")).unwrap();
    let lock = fs::File::open(&held).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    restore(&sample.vault, &options(&folder.path().join("data")), &context()).unwrap();
    assert!(held.join("tree").exists());
}

/// Restores while somebody swaps something in `in/` once the staging folder is there. Returns what the restore said and
/// what `far/` is afterwards, which must be what it was.
fn swapped(
    what: &str,
    chosen: RestoreOptions,
    sample: &SampleVault,
    folder: &Path,
    swap: impl Fn(&Path) + Send + Sync + 'static,
) -> Result<RestoreReport> {
    for victim in ["far/data/a", "far/a", "far/tree"] {
        fs::create_dir_all(folder.join(victim)).unwrap();
        fs::write(folder.join(victim).join("one"), "far").unwrap();
        fs::set_permissions(folder.join(victim), PermissionsExt::from_mode(0o555)).unwrap();
    }
    let before = look(&folder.join("far"));
    let (root, done) = (folder.to_path_buf(), std::sync::Mutex::new(false));
    let store = FaultStore::new(sample.store, move |_, _| {
        let mut done = done.lock().unwrap();
        let names = |at: &Path| fs::read_dir(at).map(|all| all.map(|e| e.unwrap().file_name()).collect::<Vec<_>>());
        let all = [names(&root.join("in")), names(&root.join("in/data"))].into_iter().flatten().flatten();
        if !*done && all.into_iter().any(|name| name.to_string_lossy().contains("lastgood-restoring-")) {
            swap(&root);
            *done = true;
        }
        false
    });
    let vault = Vault::open(Box::new(store)).unwrap();
    let said = restore(&vault, &chosen, &context());
    assert_eq!(look(&folder.join("far")), before, "{what}: {said:?}");
    said
}

#[test]
fn who_swaps_a_folder_for_a_link_has_nothing_done_elsewhere() {
    use std::os::unix::fs::symlink;
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let one = || vec![EntryPath::new("a/one").unwrap()];
    let replace = |from: &'static str, with: &'static str| {
        move |root: &Path| {
            fs::rename(root.join(from), root.join("moved")).unwrap();
            symlink(root.join(with), root.join(from)).unwrap();
        }
    };
    let staging = |root: &Path| {
        let mut names = fs::read_dir(root.join("in")).unwrap().map(|e| e.unwrap().path());
        let staging = names.find(|name| name.to_string_lossy().contains("lastgood-restoring-")).unwrap();
        fs::rename(&staging, root.join("moved")).unwrap();
        symlink(root.join("far"), &staging).unwrap();
    };
    let world = || {
        let folder = tempfile::tempdir().unwrap();
        old_tree(&folder.path().join("in/data"));
        let target = folder.path().join("in/data");
        (folder, options(&target))
    };

    let what = "the folder around the target";
    let (folder, chosen) = world();
    swapped(what, chosen, &sample, folder.path(), replace("in", "far")).unwrap();
    assert_eq!(look(&folder.path().join("moved/data")), expected(&sample), "{what}");
    assert_eq!(fs::read_dir(folder.path().join("moved")).unwrap().count(), 2, "{what}");

    let what = "the folder around a target of which a part is put back";
    let (folder, chosen) = world();
    swapped(what, RestoreOptions { paths: one(), ..chosen }, &sample, folder.path(), replace("in", "far")).unwrap();
    assert_eq!(look(&folder.path().join("moved/data"))[&b"a/one"[..]], expected(&sample)[&b"a/one"[..]], "{what}");

    let what = "the target that is filled in place";
    let (folder, chosen) = world();
    swapped(what, RestoreOptions { in_place: true, ..chosen }, &sample, folder.path(), replace("in/data", "far/data"))
        .unwrap();
    assert_eq!(look(&folder.path().join("moved"))[&b"b/two"[..]], expected(&sample)[&b"b/two"[..]], "{what}");

    let what = "the target";
    let (folder, chosen) = world();
    swapped(what, chosen, &sample, folder.path(), replace("in/data", "far/data")).unwrap();
    assert_eq!(look(&folder.path().join("in/data")), expected(&sample), "{what}");

    let what = "the target of which a part is put back";
    let (folder, chosen) = world();
    let chosen = RestoreOptions { paths: one(), ..chosen };
    swapped(what, chosen, &sample, folder.path(), replace("in/data", "far/data")).unwrap_err();
    assert_eq!(fs::read_dir(folder.path().join("in")).unwrap().count(), 1, "{what}");

    for in_place in [false, true] {
        let what = "a folder above the entry";
        let (folder, chosen) = world();
        let chosen = RestoreOptions { paths: one(), in_place, ..chosen };
        let said = swapped(what, chosen, &sample, folder.path(), replace("in/data/a", "far/a")).unwrap_err();
        assert!(said.to_string().contains("not a folder"), "{said}");
        assert_eq!(fs::read(folder.path().join("moved/one")).unwrap(), b"old", "{what}");
    }

    let what = "the staging folder";
    for paths in [Vec::new(), one()] {
        let (folder, chosen) = world();
        swapped(what, RestoreOptions { paths, ..chosen }, &sample, folder.path(), staging).unwrap_err();
        let now = look(&folder.path().join("in/data"));
        assert_eq!(now[&b"a/one"[..]], expected(&sample)[&b"a/one"[..]], "{what}");
        assert_eq!(fs::read_dir(folder.path().join("moved")).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn a_marker_that_is_another_name_of_a_file_is_not_written_to() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let (target, far) = (folder.path().join("data"), folder.path().join("far"));
    fs::create_dir(&target).unwrap();
    let marker = target.join(MARKER);
    let chosen = || RestoreOptions { in_place: true, ..options(&target) };
    std::os::unix::fs::symlink(&far, &marker).unwrap();
    let said = restore(&sample.vault, &chosen(), &context()).unwrap_err().to_string();
    assert!(said.contains("a symbolic link"), "{said}");
    fs::remove_file(&marker).unwrap();
    marker::tests::write_all(&target);
    fs::hard_link(&marker, &far).unwrap();
    let before = fs::read(&far).unwrap();
    restore(&sample.vault, &chosen(), &context()).unwrap();
    assert_eq!(fs::read(&far).unwrap(), before);
    assert!(!marker.exists());
}

#[test]
fn a_name_of_a_restores_own_folders_stops_no_restore_in_place() {
    const OLD: &str = "lastgood.replaced-20260120T180000Z";
    const STAGED: &str = ".lastgood-restoring-0123456789abcdef";
    let mut sample = SampleVault::new();
    sample.file(MARKER, b"no marker");
    sample.file(".lastgood-in-place-next", b"data");
    sample.symlink(STAGED, b"nowhere");
    sample.file("a", b"a");
    sample.file(OLD, b"data");
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let (target, at) = (folder.path().join("data"), |name: &str| folder.path().join("data").join(name));
    fs::create_dir_all(at(OLD)).unwrap();
    fs::write(at(OLD).join("older"), "").unwrap();
    fs::create_dir_all(at("lastgood.replaced-20250101T000000Z")).unwrap();
    fs::write(at("lastgood.replaced-20240101T000000Z"), "data").unwrap();
    for n in 0..2 {
        let report =
            restore(&sample.vault, &RestoreOptions { in_place: true, ..options(&target) }, &context()).unwrap();
        assert_eq!(fs::read(at(OLD)).unwrap(), b"data");
        assert_eq!(fs::read(at(".lastgood-in-place-next")).unwrap(), b"data");
        assert_eq!(fs::read_link(at(STAGED)).unwrap(), Path::new("nowhere"));
        assert!(!at(MARKER).exists());
        let left_out: Vec<_> = report.not_restored.iter().map(|problem| problem.path.to_string()).collect();
        assert_eq!(left_out, [MARKER]);
        // Content that a restore moved aside stays, unless an entry that is restored needs its name.
        assert!(at("lastgood.replaced-20250101T000000Z").is_dir());
        let aside = report.moved_aside.unwrap();
        assert_eq!(aside.join(OLD).join("older").exists(), n == 0);
        assert_eq!(aside.join("lastgood.replaced-20240101T000000Z").exists(), n == 0);
        assert!(!aside.join("lastgood.replaced-20250101T000000Z").exists());
    }
}

#[test]
fn an_interrupted_restore_in_place_is_told_and_completed() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    marker::tests::write_all(folder.path());
    fs::write(folder.path().join("half"), "").unwrap();
    let report =
        restore(&sample.vault, &RestoreOptions { in_place: true, ..options(folder.path()) }, &context()).unwrap();
    assert!(report.warnings.iter().any(|w| w.contains("broken")), "{:?}", report.warnings);
    assert!(!folder.path().join(MARKER).exists());
    assert!(report.moved_aside.unwrap().join("half").exists());
}

#[test]
fn single_paths_go_back_to_their_places() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let path = |p: &str| EntryPath::new(p).unwrap();
    for in_place in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        old_tree(&target);
        let paths = vec![path("a/one"), path("b/two"), path("b/one")];
        let chosen = RestoreOptions { paths, in_place, ..options(&target) };
        let report = restore_within(&sample.vault, &chosen, tiny(), &context()).unwrap();
        assert_eq!(report.files, 3);
        let (now, wanted) = (look(&target), expected(&sample));
        for path in [&b"a/one"[..], b"b", b"b/one", b"b/two"] {
            assert_eq!(now[path], wanted[path]);
        }
        assert_eq!(fs::read(target.join("mine")).unwrap(), b"mine");
        assert!(!now.contains_key(&b"a/two"[..]));
        assert_eq!(fs::read(report.moved_aside.unwrap().join("a/one")).unwrap(), b"old");

        let before = look(folder.path());
        let wrong = restore(
            &sample.vault,
            &RestoreOptions { paths: vec![path("a/none")], in_place, ..options(&target) },
            &context(),
        );
        assert_eq!(wrong.unwrap_err().kind(), Kind::Usage);
        assert_eq!(look(folder.path()), before);
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new");
    restore(&sample.vault, &RestoreOptions { paths: vec![path("b/two")], ..options(&target) }, &context()).unwrap();
    assert_eq!(look(&target).len(), 3);
}

#[test]
fn a_target_that_is_no_folder_is_refused() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
    for name in ["file", "link"] {
        let said = restore(&sample.vault, &options(&folder.path().join(name)), &context()).unwrap_err();
        assert_eq!(said.kind(), Kind::Usage);
    }
    // A trailing slash means the folder that the link leads to.
    std::os::unix::fs::symlink("made", folder.path().join("to")).unwrap();
    fs::create_dir_all(folder.path().join("made/data")).unwrap();
    for (named, real) in [
        ("to/", "made"),
        ("to/.", "made"),
        ("to/data", "made/data"),
        ("made/../to/data/..", "made"),
        ("new/../made", "made"),
        ("new/../v/x", "v/x"),
    ] {
        let place = RestoreTarget::check(&folder.path().join(named), ReplaceMode::default(), &[]).unwrap();
        assert_eq!(place.target, folder.path().canonicalize().unwrap().join(real), "{named}");
    }
    std::os::unix::fs::symlink("nowhere", folder.path().join("dangling")).unwrap();
    for (named, why) in [
        ("dangling", "a symbolic link"),
        ("dangling/", "leads nowhere"),
        ("dangling/x/y", "leads nowhere"),
        ("file/x", "above it is not a folder"),
    ] {
        let said = restore(&sample.vault, &options(&folder.path().join(named)), &context()).unwrap_err();
        assert!(said.kind() == Kind::Usage && said.why().contains(why) && said.advice().is_some(), "{named}: {said}");
    }
    let said = restore(&sample.vault, &options(Path::new("/proc")), &context()).unwrap_err().to_string();
    assert!(said.contains("mount point") && said.contains("--in-place"), "{said}");
}

#[test]
fn a_restore_that_fails_leaves_no_folder_that_was_made_for_it() {
    let mut sample = small();
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    for in_place in [false, true] {
        let target = folder.path().join("new/deep/data");
        let packs = sample.store.objects().clone();
        sample.store.objects().retain(|name, _| !name.starts_with("packs/"));
        let failed = restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context());
        assert_eq!(failed.unwrap_err().kind(), Kind::Damage);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        *sample.store.objects() = packs;
        restore(&sample.vault, &RestoreOptions { in_place, ..options(&target) }, &context()).unwrap();
        fs::remove_dir_all(folder.path().join("new")).unwrap();
    }
}

/// Damages an object.
type Harm = fn(&SampleVault, &str);

/// The ways in which an object can be damaged.
pub fn damages() -> [(&'static str, Harm); 4] {
    [
        ("delete", |sample, name| _ = sample.store.objects().remove(name).unwrap()),
        ("truncate", |sample, name| {
            let mut objects = sample.store.objects();
            let bytes = objects.get_mut(name).unwrap();
            bytes.truncate(bytes.len() / 2);
        }),
        ("flip", |sample, name| {
            let mut objects = sample.store.objects();
            let bytes = objects.get_mut(name).unwrap();
            let at = bytes.len() / 3;
            // All of its bits: zstd's frame header has one that means nothing.
            bytes[at] ^= 0xff;
        }),
        ("replace", |sample, name| {
            let mut objects = sample.store.objects();
            // Another object of its kind with other bytes: some files of the samples are alike.
            let like = |(n, b): &(&String, &Vec<u8>)| n[..4] == name[..4] && **b != objects[name];
            let other = objects.iter().find(like).map(|(_, b)| b.clone());
            objects.insert(name.to_owned(), other.unwrap_or(b"{}".to_vec()));
        }),
    ]
}

#[test]
fn damage_fails_before_the_target_is_touched_and_can_be_skipped() {
    for (how, damage) in damages() {
        for what in ["pack", "index", "root", "vault.json"] {
            let mut sample = small();
            let good = sample.commit(SnapshotState::Complete);
            sample.file("c", b"only in the second");
            let second = sample.commit(SnapshotState::Complete);
            let object = match what {
                "pack" => sample.packs[0].name(),
                "index" => sample.index_pack(),
                "root" => second.object("snapshots/"),
                _ => "vault.json".into(),
            };
            damage(&sample, &object);
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("data");
            old_tree(&target);
            let before = look(&target);
            let wanted = |spec: String, skip_damaged| {
                let chosen = RestoreOptions { snapshot: spec, skip_damaged, ..options(&target) };
                sample.open().and_then(|vault| restore(&vault, &chosen, &context()))
            };
            let said = match wanted(second.id.to_string(), false) {
                Err(said) => said,
                Ok(report) => panic!("{how} {what}: {report:?}"),
            };
            let lost_vault = what == "vault.json";
            // A root that is gone is a snapshot that is not there: keepers let them go.
            let gone = (how, what) == ("delete", "root");
            assert_eq!(said.kind(), if gone { Kind::Usage } else { Kind::Damage }, "{how} {what}: {said}");
            let named = object.rsplit('/').next().unwrap().split('.').next().unwrap();
            assert!(gone || said.to_string().contains(named), "{how} {what}: {said}");
            assert_eq!(look(&target), before, "{how} {what}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{how} {what}: staging is left");
            // Whatever a restore refuses, verify names.
            let found =
                verify::verify_store(Box::new(sample.store), &verify::VerifyOptions::default(), &context()).unwrap();
            let hurts = |damage: &verify::Damage| damage.object == object && damage.snapshots.contains(&second);
            assert!(gone || found.damage.iter().any(hurts), "{how} {what}: {:?}", found.damage);
            if lost_vault {
                continue;
            }
            if what == "pack" {
                // Its file is left out, and all others are there.
                let report = wanted("latest".into(), true).unwrap();
                let lost: Vec<_> = report.not_restored.iter().map(|p| p.path.to_string()).collect();
                assert_eq!(lost, ["a/one"], "{how}");
                let mut all = expected(&sample);
                all.remove(&b"a/one"[..]);
                assert_eq!(look(&target), all);
            } else {
                let report = wanted(good.id.to_string(), false).unwrap();
                assert_eq!(report.files, 4);
                let latest = wanted("latest".into(), false);
                match what {
                    "root" => {
                        let over: Vec<_> = latest.unwrap().passed_over.iter().map(|p| p.snapshot).collect();
                        assert_eq!(over, if gone { vec![] } else { vec![second] });
                    }
                    // The older one has an index of its own, and is taken in its place.
                    _ => {
                        let report = latest.unwrap();
                        assert_eq!((report.snapshot, report.instead_of), (good, Some(second)), "{how}");
                        assert!(report.passed_over[0].why.contains("is damaged"), "{how}: {report:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_damaged_pack_that_many_snapshots_share_is_read_once() {
    let read = |shared: usize| {
        let mut sample = SampleVault::new();
        sample.file("a", &noise(300, 1));
        let good = sample.commit(SnapshotState::Complete);
        sample.file("b", &noise(300, 2));
        let newest = (0..shared).map(|_| sample.commit(SnapshotState::Complete)).last();
        let pack = sample.packs[1].name();
        sample.store.objects().get_mut(&pack).unwrap()[20] ^= 1;
        // No doubt can be stored, so no later run would know of the damage either.
        let store = FaultStore::new(sample.store, |verb, name| verb == "create" && name.starts_with("doubts/"));
        let store: &'static RecordingStore<_> = Box::leak(Box::new(RecordingStore::new(store)));
        let vault = Vault::open(Box::new(store)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let report = restore(&vault, &options(&folder.path().join("data")), &context()).unwrap();
        assert_eq!((report.snapshot, report.instead_of, report.passed_over.len()), (good, newest, shared));
        store.take().iter().filter(|call| call.name == pack).count()
    };
    assert_eq!(read(1), read(7));
}

#[test]
fn a_damaged_pack_is_read_where_nothing_else_is_left() {
    // No file needs the damaged part of the pack any more.
    let mut sample = SampleVault::new();
    let extent = sample.put(&noise(600, 1));
    sample.file_at("a", &noise(600, 1)[..100], &[Extent { length: 100, ..extent }]);
    let name = sample.commit(SnapshotState::Complete);
    let pack = sample.packs[0];
    // The last frame: before the seek table of 8 bytes for each of 6 frames and 17 more.
    let at = pack.size as usize - 17 - 6 * 8 - 20;
    sample.store.objects().get_mut(&pack.name()).unwrap()[at] ^= 1;
    assert_eq!(verify::verify(&sample.vault, &Default::default(), &context()).unwrap().doubts.len(), 1);
    let folder = tempfile::tempdir().unwrap();
    for snapshot in ["latest".to_owned(), name.id.to_string()] {
        let wanted = RestoreOptions { snapshot, ..options(&folder.path().join("data")) };
        let report = restore(&sample.vault, &wanted, &context()).unwrap();
        assert_eq!((report.snapshot, report.files, report.instead_of), (name, 1, None));
    }
    // Damage to the part that it needs is another matter.
    let start = 20;
    sample.store.objects().get_mut(&pack.name()).unwrap()[start] ^= 1;
    let why = restore(&sample.vault, &options(&folder.path().join("other")), &context()).unwrap_err();
    assert_eq!(why.kind(), Kind::Damage);
}

#[test]
fn what_cannot_be_read_as_a_snapshot_is_passed_over() {
    for what in ["root", "index", "pack"] {
        let mut sample = small();
        let good = sample.commit(SnapshotState::Complete);
        sample.file("c", b"new");
        let second = sample.commit(SnapshotState::Complete);
        let object = match what {
            "root" => second.object("snapshots/"),
            "index" => sample.index_pack(),
            _ => sample.packs.last().unwrap().name(),
        };
        let name = object.clone();
        let store = FaultStore::new(sample.store, move |verb, asked| verb != "create" && asked == name).unreadable();
        let vault = Vault::open(Box::new(store)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let report = restore(&vault, &options(&folder.path().join("data")), &context()).unwrap();
        assert_eq!((report.snapshot, report.passed_over[0].snapshot), (good, second), "{what}: {report:?}");
        let found = verify::verify(&vault, &Default::default(), &context()).unwrap();
        assert!(found.damage.iter().any(|damage| damage.object == object), "{what}: {:?}", found.damage);
    }
}

#[test]
fn a_damaged_hunk_costs_its_own_entries_only() {
    // Hunks of [., a], [a/one, a/two], [b, b/one] and [b/two]: files in folders whose entries are lost come back too.
    for (lost, left) in [(1, 2), (0, 4), (2, 3)] {
        let mut broken = small();
        broken.hunk = 2;
        broken.commit(SnapshotState::Complete);
        let name = broken.index_pack();
        let mut objects = broken.store.objects();
        let bytes = objects.get_mut(&name).unwrap();
        let starts: Vec<usize> =
            (0..bytes.len() - 4).filter(|&n| bytes[n..n + 4] == [0x28, 0xb5, 0x2f, 0xfd]).collect();
        bytes[starts[lost] + 12] ^= 0xff;
        drop(objects);
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        let skipped = RestoreOptions { skip_damaged: true, ..options(&target) };
        let report = restore(&broken.vault, &skipped, &context()).unwrap();
        assert_eq!(report.files, left, "hunk {lost}");
        assert!(report.not_restored[0].why.contains("all entries"), "{:?}", report.not_restored);
    }
}

#[test]
fn snapshots_are_found_by_word_id_and_time() {
    let mut sample = small();
    let none = select::find(&sample.vault, "latest").unwrap_err().to_string();
    assert!(none.contains("no snapshots"), "{none}");
    let partial = sample.commit(SnapshotState::Partial);
    let said = select::find(&sample.vault, "latest").unwrap_err();
    assert_eq!(said.kind(), Kind::Failed);
    assert!(said.to_string().contains(&format!("--snapshot {}", partial.id)), "{said}");
    let good = sample.commit(SnapshotState::Complete);
    let suspect = sample.commit(SnapshotState::Suspect);
    let find = |spec: &str| select::find(&sample.vault, spec).map(|(name, _)| name);
    for (spec, wanted) in [
        ("latest".to_owned(), good),
        (suspect.id.to_string(), suspect),
        (suspect.id.to_string()[..15].to_owned(), suspect),
        (partial.to_string(), partial),
        (good.time.to_string(), good),
        ("2027-02-01".to_owned(), good),
        ("2027-02-01T10:00:00".to_owned(), good),
        ("2027-02-01T10:00:00+02:00".to_owned(), good),
    ] {
        assert_eq!(find(&spec).unwrap(), wanted, "{spec}");
    }
    for spec in ["", "nonsense", "2001-01-01", "zz", "../x"] {
        assert_eq!(find(spec).unwrap_err().kind(), Kind::Usage, "{spec:?}");
    }
    let choice = select::choose(&sample.vault, "latest").unwrap();
    assert_eq!(choice.passed_over.iter().map(|p| p.snapshot).collect::<Vec<_>>(), [suspect]);
    for _ in 0..30 {
        sample.commit(SnapshotState::Complete);
    }
    let twice = sample.vault.snapshots().unwrap().iter().map(|n| n.id.to_string()[..1].to_owned()).collect::<Vec<_>>();
    let digit = twice.iter().find(|d| twice.iter().filter(|e| e == d).count() > 1).unwrap();
    let said = select::find(&sample.vault, digit).unwrap_err();
    assert_eq!(said.kind(), Kind::Usage);
    assert!(said.to_string().contains("begin so"), "{said}");
}

#[test]
fn a_snapshot_with_a_failed_check_is_passed_over() {
    let mut sample = small();
    let good = sample.commit(SnapshotState::Complete);
    sample.failed_checks = 1;
    let unsound = sample.commit(SnapshotState::Complete);
    assert_eq!(select::find(&sample.vault, "latest").unwrap().0, good);
    assert_eq!(select::find(&sample.vault, &unsound.id.to_string()).unwrap().0, unsound);
    let choice = select::choose(&sample.vault, "latest").unwrap();
    let over = &choice.passed_over[0];
    assert!(over.snapshot == unsound && over.why.contains("database"), "{over:?}");
}

#[test]
fn what_was_there_is_told_where_it_will_be() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().canonicalize().unwrap().join("data");
    let aside = "lastgood.replaced-20261121T101112Z";
    fs::create_dir_all(target.join(aside)).unwrap();
    let at = Arc::new(crate::fs::Folder::open(&target).unwrap());
    let left = Unfinished { aside: vec![aside.into()], ..Unfinished::default() };
    marker::mark(&at, &at, &left).unwrap();
    for (in_place, is) in [(true, target.join(aside).display().to_string()), (false, format!("{aside}, in what moves"))]
    {
        let place = RestoreTarget::check(&target, ReplaceMode { in_place, ..ReplaceMode::default() }, &[]).unwrap();
        let told = place.broken().concat();
        assert!(told.contains(&format!("what was there before is in {is}")), "{told}");
    }
}

#[test]
fn a_directory_may_have_the_longest_name_there_is() {
    let mut sample = SampleVault::new();
    sample.file("a", b"new");
    sample.commit(SnapshotState::Complete);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x".repeat(255));
    for there in [false, true] {
        let report = restore(&sample.vault, &options(&target), &context()).unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"new");
        let aside = report.moved_aside.map(|aside| aside.file_name().unwrap().len());
        assert!(aside.is_some() == there && aside.is_none_or(|length| length <= 255), "{aside:?}");
    }
}
