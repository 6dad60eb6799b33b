//! A data directory with every kind of entry that there is.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat};
use rustix::io::Errno;

use super::is_root;
use super::requirements::skipped;

/// Returns bytes that no compressor shortens, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Sets the time of the last change, not following symlinks.
pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Sets permission bits.
pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Lets everybody read a folder and all that is in it.
pub fn open_to_all(folder: &Path) {
    let opened = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(folder).status().unwrap();
    assert!(opened.success());
}

/// Makes a file with holes: data at the given places, `size` bytes in all.
pub fn sparse(path: &Path, size: u64, data: &[(u64, &[u8])]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
}

/// Makes a named pipe.
pub fn fifo(path: &Path, mode: u32) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(mode), 0).unwrap();
}

/// Sets an extended attribute; false where the filesystem has none.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    match lsetxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::NOTSUP) => {
            skipped("xattrs", "the filesystem of the tests has no extended attributes");
            false
        }
        Err(why) => panic!("set an extended attribute of {}: {why}", path.display()),
    }
}

/// Makes `root` with every kind of entry.
pub fn everything(root: &Path) {
    let at = |name: &str| root.join(name);
    let folder = |name: &str| fs::create_dir_all(at(name)).unwrap();
    for name in ["sizes", "names", "modes", "times", "links", "pipes", "sparse", "xattrs", "empty/in/empty"] {
        folder(name);
    }

    for size in [0, 1, 511, 512, 513, 4096, 70_000] {
        fs::write(at(&format!("sizes/{size}")), noise(size as u64, size)).unwrap();
    }
    fs::write(at("sizes/large"), noise(77, 3 << 20)).unwrap();
    fs::write(at("sizes/large text"), "a line that is like the others\n".repeat(100_000)).unwrap();

    let names: [&[u8]; 10] = [
        b"not utf-8 \xff\xfe",
        b"back\\slash",
        b"back\\x41slash",
        b"line\nbreak",
        b"tab\tand \x1b[31mred",
        b" spaces ",
        b"-dash",
        "größe \u{202e}".as_bytes(),
        b"'quotes\" $(x) `y`",
        b"...",
    ];
    for name in names {
        let path = at("names").join(OsStr::from_bytes(name));
        fs::write(path, name).unwrap();
    }
    fs::write(at("names").join("n".repeat(101)), "over 100").unwrap();
    fs::write(at("names").join("m".repeat(255)), "the longest").unwrap();
    let deep = at("names").join("d".repeat(200)).join("e".repeat(200)).join("f".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("g".repeat(200)), "over 255 in all").unwrap();
    fs::create_dir(at("names").join(OsStr::from_bytes(b"folder \xff"))).unwrap();

    for mode in [0o400, 0o600, 0o644, 0o666, 0o755, 0o4755, 0o2755, 0o6711] {
        let path = at(&format!("modes/{mode:o}"));
        fs::write(&path, "mode").unwrap();
        set_mode(&path, mode);
    }
    if is_root() {
        fs::write(at("modes/none"), "only root reads it").unwrap();
        set_mode(&at("modes/none"), 0);
        fs::write(at("modes/owned"), "by somebody else").unwrap();
        std::os::unix::fs::lchown(at("modes/owned"), Some(12_345), Some(54_321)).unwrap();
        symlink("owned", at("modes/owned link")).unwrap();
        std::os::unix::fs::lchown(at("modes/owned link"), Some(3_000_000), Some(4_000_000)).unwrap();
    } else {
        skipped("root", "only root can make files of somebody else");
    }

    for target in ["../sizes/1", "dangling", "/etc/passwd", "../../outside", "."] {
        symlink(target, at("links").join(format!("to {}", target.replace('/', "_")))).unwrap();
    }
    symlink("t".repeat(300), at("links/long")).unwrap();
    symlink(OsStr::from_bytes(b"\xff\\\n"), at("links/odd")).unwrap();
    symlink("../names", at("links/folder")).unwrap();
    fs::write(at("links/hard a"), noise(5, 100_000)).unwrap();
    fs::hard_link(at("links/hard a"), at("links/hard b")).unwrap();
    fs::hard_link(at("links/hard a"), at("empty/hard c")).unwrap();
    fs::write(at("links/pair 1"), "").unwrap();
    fs::hard_link(at("links/pair 1"), at("sizes/pair 2")).unwrap();

    fifo(&at("pipes/fifo"), 0o640);

    sparse(&at("sparse/only a hole"), 5 << 20, &[]);
    sparse(&at("sparse/data at the end"), (8 << 20) + 7, &[(8 << 20, b"the end")]);
    sparse(&at("sparse/between"), 16 << 20, &[(0, &noise(8, 65_536)), (9 << 20, &noise(9, 200_000))]);
    fs::write(at("sparse/zeros that are no hole"), vec![0; 300_000]).unwrap();

    fs::write(at("xattrs/file"), "with attributes").unwrap();
    if set_xattr(&at("xattrs/file"), "user.lastgood.text", b"some text") {
        set_xattr(&at("xattrs/file"), "user.lastgood.bytes", b"\0\xff\n= ");
        set_xattr(&at("xattrs/file"), "user.lastgood.empty", b"");
        set_xattr(&at("xattrs"), "user.lastgood.folder", &noise(3, 2000));
    }

    let times: [(&str, i64, i64); 5] = [
        ("ns", 1_700_000_000, 123_456_789),
        ("almost", 1_700_000_000, 999_999_999),
        ("before 1970", -86_400 * 400, 1),
        ("the start", 0, 0),
        ("far", 4_102_444_800, 500),
    ];
    for (name, seconds, nanoseconds) in times {
        let path = at("times").join(name);
        fs::write(&path, name).unwrap();
        set_mtime(&path, seconds, nanoseconds);
    }
    set_mtime(&at("links/long"), 1_600_000_000, 42);
    set_mtime(&at("pipes/fifo"), 1_600_000_001, 43);
    set_mode(&at("pipes"), 0o1777);
    // Folders last: what is made in them moves their times.
    for (name, seconds) in [("empty/in/empty", 1_500_000_000), ("links", 1_500_000_001), ("", -5)] {
        set_mtime(&at(name), seconds, 999);
    }
}
