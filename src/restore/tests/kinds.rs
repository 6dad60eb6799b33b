//! Every kind of entry comes back.

use super::*;
use crate::path::{EntryPath, EscapedBytes};
use crate::skipped::skipped;
use crate::vault::entry::Extent;

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
        // A path over 4,095 bytes can be made, but not opened by that path: `shallow` checks the deepest one.
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
        } else {
            skipped("xattrs", "the filesystem of the tests has no extended attributes");
        }
        let mut found = shallow(&target);
        found.retain(|path, _| !long(path));
        assert_eq!(found, wanted);
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "staging folders are left");
        crate::fs::Folder::open(target.parent().unwrap()).unwrap().remove_tree("data").unwrap();
    }
}

/// As [`look`], without what lies deeper than one path that the kernel accepts.
fn shallow(folder: &Path) -> BTreeMap<Vec<u8>, String> {
    let cut = folder.join("p");
    let mut deep = cut.clone();
    for n in 0..16 {
        deep = deep.join(format!("{n:0>240}"));
    }
    // What lies deeper is moved away by descriptor while the tree is read; the file must be in it.
    let out = fs::File::open(&deep).unwrap();
    let name = format!("{:0>240}", 16);
    let stat = rustix::fs::stat(&deep).unwrap();
    let aside = tempfile::tempdir_in(folder.parent().unwrap()).unwrap();
    let rest = aside.path().join("rest");
    rustix::fs::renameat(&out, &name, rustix::fs::CWD, &rest).unwrap();
    let bottom = [17, 18, 19].iter().fold(rest.clone(), |at, n| at.join(format!("{n:0>240}")));
    assert_eq!(fs::read(bottom.join("f".repeat(255))).unwrap(), b"a path of 5,000 bytes");
    let mut seen = look(folder);
    rustix::fs::renameat(rustix::fs::CWD, &rest, &out, &name).unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: rustix::fs::Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::futimens(&out, &times).unwrap();
    // The folder's time changed when the rest was moved; before that it was the right one.
    let path = deep.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
    let was = format!("folder 755 {}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
    seen.insert(path, was);
    seen
}
