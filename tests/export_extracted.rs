//! What GNU tar, bsdtar and Python's tarfile extract from an export is what was backed up: content, modes, owners, links, times to
//! the nanosecond, extended attributes, ACLs and holes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::lgetxattr;

use crate::support::compare::differences;
use crate::support::requirements::skipped;
use crate::support::tree::{noise, set_mode, set_mtime, set_xattr, sparse};
use crate::support::{Ran, World, is_root};

/// The sparse files of [`world`] that `everything` does not have.
const SPARSE: [&[u8]; 6] =
    [b"large", b"hole at the end", b"linked", "gr\u{f6}\u{df}e".as_bytes(), b"not utf-8 \xff", b"hundred"];

/// Returns an ACL as the kernel keeps it: tags, permissions, ids.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Returns a data directory with everything that there is, and what a tar header cannot say.
fn world() -> World {
    let world = World::with_everything();
    let data = world.data();
    let none = u32::MAX;
    for name in ["acls", "acls/folder", "holes"] {
        fs::create_dir(data.join(name)).unwrap();
    }
    for name in ["file", "folder/inherits nothing", "folder/other"] {
        world.write(&format!("acls/{name}"), name);
    }
    set_mode(&data.join("acls/folder/inherits nothing"), 0o604);
    let access =
        acl(&[(1, 6, none), (2, 4, 1), (2, 7, 12_345), (4, 4, none), (8, 2, 70_000), (16, 7, none), (32, 0, none)]);
    let default = acl(&[(1, 7, none), (2, 7, 1234), (4, 5, none), (16, 7, none), (32, 5, none)]);
    if set_xattr(&data.join("acls/file"), "system.posix_acl_access", &access) {
        set_xattr(&data.join("acls/folder"), "system.posix_acl_access", &access);
        set_xattr(&data.join("acls/folder"), "system.posix_acl_default", &default);
    }
    let odd = data.join("xattrs/odd names");
    fs::write(&odd, "odd").unwrap();
    for name in ["user.a=b", "user.100%", "user.%3D", "user.%25x"] {
        set_xattr(&odd, name, name.as_bytes());
    }
    if is_root() {
        set_xattr(&data.join("xattrs/file"), "trusted.lastgood", b"of root");
    }
    let hole = |name: &[u8], size, pieces: &[(u64, &[u8])]| {
        sparse(&data.join("holes").join(OsStr::from_bytes(name)), size, pieces);
    };
    hole(SPARSE[0], (2 << 30) + 5, &[(1 << 30, b"little data"), ((1 << 30) + (1 << 20), &noise(3, 5000))]);
    hole(SPARSE[1], (3 << 20) + 7, &[(0, &noise(4, 100))]);
    hole(SPARSE[2], 1 << 20, &[(512 << 10, b"linked")]);
    hole(SPARSE[3], 1 << 20, &[]);
    hole(SPARSE[4], 1 << 20, &[((1 << 20) - 3, b"end")]);
    let pieces: Vec<(u64, Vec<u8>)> = (0..100).map(|n| (n << 17, noise(n, 3000 + n as usize))).collect();
    let pieces: Vec<(u64, &[u8])> = pieces.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    hole(SPARSE[5], 100 << 17, &pieces);
    let long = data.join("holes").join("l".repeat(200));
    sparse(&long, 1 << 20, &[(0, b"begin")]);
    fs::hard_link(data.join("holes/linked"), data.join("holes/other name")).unwrap();
    set_mtime(&data.join("holes/linked"), 1_700_000_000, 987_654_321);
    set_mtime(&data.join("acls"), 1_700_000_001, 1);
    set_mtime(&data.join("acls/folder"), -1_000_000, 0);
    world
}

/// Exports the newest snapshot to `name`, and returns the report.
fn exported(world: &World, name: &str, format: &str) -> serde_json::Value {
    world.json(["export", "latest", "-o", name, "--format", format], 0)
}

/// Makes `out` and extracts into it with a command that gets the archive's path and runs in `out`.
fn extracted(world: &World, program: &str, args: &[&str]) -> Ran {
    fs::create_dir(world.path("out")).unwrap();
    let archive = world.path("archive.tar");
    let content = zstd::decode_all(fs::File::open(world.path("archive.tar.zst")).unwrap()).unwrap();
    fs::write(&archive, content).unwrap();
    let mut command = Command::new(program);
    command.args(args).arg(&archive).current_dir(world.path("out")).env("LC_ALL", "C.UTF-8");
    Ran::of(command)
}

/// Asserts that sparse files take no more space than they did, but for what a filesystem allocates at once.
fn assert_sparse(world: &World) {
    let blocks = |folder: &str, name: &[u8]| {
        fs::metadata(world.path(folder).join("holes").join(OsStr::from_bytes(name))).unwrap().blocks()
    };
    for name in SPARSE {
        let (was, is) = (blocks("data", name), blocks("out", name));
        assert!(is <= was + 128, "{}: {is} blocks where there were {was}", name.escape_ascii());
    }
}

/// Returns the differences between the data and what was extracted that `excused` does not know.
fn differing(world: &World, excused: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = differences(&world.data(), &world.path("out"));
    found.retain(|difference| !excused(difference));
    found
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 100];
    let length = lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn gnu_tar_extracts_what_was_there() {
    let world = world();
    world.backup();
    let report = exported(&world, "archive.tar.zst", "pax");
    let tar = ["--acls", "--xattrs", "--xattrs-include=*", "--sparse", "--numeric-owner", "-xpf"];
    let ran = extracted(&world, "tar", &tar);
    ran.ended(0);
    // It warns of times before 1970, and of nothing else.
    let warned: Vec<_> = ran.text().lines().filter(|line| !line.contains("implausibly old time stamp")).collect();
    assert_eq!(warned, [""; 0]);
    assert_eq!(differing(&world, |_| false), [""; 0]);
    assert_sparse(&world);
    let of_root = |folder: &str| attribute(&world.path(folder).join("xattrs/file"), "trusted.lastgood");
    assert_eq!(of_root("data"), of_root("out"));
    // The hash of what is mostly a hole is not checked.
    assert_eq!(report["files_not_hashed"], 1);
    assert!(report["bytes"].as_u64().unwrap() < 64 << 20, "{report}");

    // Each export of a snapshot has the same bytes.
    exported(&world, "again.tar.zst", "pax");
    let bytes = |name: &str| fs::read(world.path(name)).unwrap();
    assert!(bytes("archive.tar.zst") == bytes("again.tar.zst"));
}

#[test]
fn bsdtar_extracts_what_was_there() {
    if let Err(why) = Command::new("bsdtar").arg("--version").output() {
        return skipped("bsdtar", &format!("the package libarchive-tools has it: {why}"));
    }
    let world = world();
    world.backup();
    exported(&world, "archive.tar.zst", "pax");
    extracted(&world, "bsdtar", &["--acls", "--xattrs", "--numeric-owner", "-xpf"]).ended(0);
    // It sets the time of a folder that exists before what is in it, and the target does. It reads the fraction of a time before
    // 1970 as one after the full second, and leaves names of attributes as they are written.
    let excused = ["\"\": mtime: ", "\"times/before 1970\": mtime: ", "\"xattrs/odd names\": xattrs: "];
    assert_eq!(differing(&world, |difference| excused.iter().any(|one| difference.starts_with(one))), [""; 0]);
    assert_eq!(attribute(&world.path("out/xattrs/odd names"), "user.100%").as_deref(), Some(&b"user.100%"[..]));
    assert_sparse(&world);
}

/// Extracts an archive, and prints its ACLs.
const SCRIPT: &str = "import sys, tarfile\n\
    tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)\n\
    with tarfile.open(sys.argv[1], mode='r|') as archive:\n    \
    archive.extractall('.', numeric_owner=True)\n    \
    for member in archive.getmembers():\n        \
    for keyword in 'SCHILY.acl.access', 'SCHILY.acl.default':\n            \
    if keyword in member.pax_headers:\n                \
    print(member.name, keyword, member.pax_headers[keyword], sep='\\n')\n";

#[test]
fn python_extracts_what_was_there() {
    let world = world();
    world.backup();
    exported(&world, "archive.tar.zst", "pax");
    let ran = extracted(&world, "python3", &["-c", SCRIPT]);
    ran.ended(0);
    // It sets no attributes, no ACLs, and no times of symlinks; it keeps times as floating-point numbers.
    let excused = |difference: &str| {
        let path = difference.split('"').nth(1).unwrap_or_default();
        if difference.contains(": mtime: ") {
            let seconds = |text: &str| text.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
            let (expected, found) = difference.split_once(" expected, ").unwrap();
            let apart = seconds(expected) - seconds(found.trim_end_matches(" found"));
            return world.data().join(path).is_symlink() || apart.abs() < 2e-6;
        }
        difference.contains(": xattrs: ")
    };
    assert_eq!(differing(&world, excused), [""; 0]);
    assert_sparse(&world);
    let printed = String::from_utf8(ran.stdout.clone()).unwrap();
    if attribute(&world.path("data/acls/file"), "system.posix_acl_access").is_none() {
        return;
    }
    // The text of an ACL is that of getfacl.
    let of = |path: &str, options: &[&str]| {
        let mut getfacl = Command::new("getfacl");
        getfacl.args(["-cnpE"]).args(options).arg(world.data().join(path));
        getfacl.output().map(|output| String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    };
    match (of("acls/file", &["-a"]), of("acls/folder", &["-d"])) {
        (Ok(access), Ok(default)) => {
            assert!(printed.contains(&format!("acls/file\nSCHILY.acl.access\n{access}\n")), "{access} {printed}");
            let default = default.replace("default:", "");
            assert!(printed.contains(&format!("acls/folder\nSCHILY.acl.default\n{default}\n")), "{default} {printed}");
        }
        (Err(why), _) | (_, Err(why)) => skipped("getfacl", &format!("the package acl has it: {why}")),
    }
}

#[test]
fn a_plain_archive_has_no_more_than_headers_say() {
    let world = World::with_files();
    sparse(&world.data().join("holes"), 4 << 20, &[(1 << 20, b"data")]);
    set_xattr(&world.data().join("holes"), "user.lastgood", b"text");
    set_mtime(&world.data().join("holes"), 1_700_000_000, 987_654_321);
    world.backup();
    let plain = exported(&world, "archive.tar.zst", "plain");
    assert!(plain["bytes"].as_u64().unwrap() > 4 << 20, "{plain}");
    assert!(exported(&world, "pax.tar.zst", "pax")["bytes"].as_u64().unwrap() < 1 << 20);
    extracted(&world, "tar", &["-xpf"]).ended(0);
    let excused =
        |difference: &str| [": mtime: ", ": holes: ", ": xattrs: "].iter().any(|what| difference.contains(what));
    assert_eq!(differing(&world, excused), [""; 0]);
    assert_eq!(fs::metadata(world.path("out/holes")).unwrap().mtime_nsec(), 0);
    let content = fs::read(world.path("archive.tar")).unwrap();
    let has = |what: &[u8]| content.windows(what.len()).any(|window| window == what);
    assert!(!has(b"GNU.sparse") && !has(b"mtime="));
    world.run(["export", "latest", "-o", "x", "--format", "zip"]).ended(2).says("plain");

    if let Err(why) = Command::new("busybox").output() {
        return skipped("busybox", &format!("the package busybox has it: {why}"));
    }
    fs::remove_dir_all(world.path("out")).unwrap();
    extracted(&world, "busybox", &["tar", "-xpf"]).ended(0);
    assert_eq!(differing(&world, excused), [""; 0]);
}

#[test]
fn what_a_killed_export_left_is_told() {
    let world = World::with_files();
    world.backup();
    for name in [".archive.tar.zst.4194305.part", ".archive.tar.zst.x.part", ".other.tar.zst.1.part"] {
        fs::write(world.path(name), "a part of it").unwrap();
    }
    let ran = world.run(["export", "latest", "-o", "archive.tar.zst"]);
    ran.ended(0).says(".archive.tar.zst.4194305.part is left of an export that was killed");
    assert_eq!(ran.stderr.matches(".part").count(), 1, "{ran:?}");
}
