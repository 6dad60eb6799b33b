//! Where two trees differ, in anything that a backup has to keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};
use rustix::io::Errno;

/// Data that a filesystem may allocate beyond what was written, in bytes.
const SLACK: u64 = 64 << 10;

/// Asserts that two trees are equal: content, types, modes, owners, times to the ns, link targets, hard-link groups,
/// extended attributes, ACLs, holes.
#[track_caller]
pub fn assert_same(expected: &Path, found: &Path) {
    let differences = differences(expected, found);
    let shown: Vec<_> = differences.iter().take(30).map(String::as_str).collect();
    assert!(
        differences.is_empty(),
        "{} and {} differ in {} ways:\n{}",
        expected.display(),
        found.display(),
        differences.len(),
        shown.join("\n")
    );
}

/// Asserts that two trees are equal but for the times of folders: reading a WAL database that nobody uses needs files beside
/// it for a moment, which moves its folder's time.
#[track_caller]
pub fn assert_same_but_folder_times(expected: &Path, found: &Path) {
    let folders = walk(expected).into_iter().filter(|(_, meta)| meta.is_dir());
    let times: Vec<_> = folders.map(|(path, _)| format!("{path:?}: mtime: ")).collect();
    let mut differences = differences(expected, found);
    differences.retain(|difference| !times.iter().any(|time| difference.starts_with(time)));
    assert_eq!(differences, [""; 0], "{} and {}", expected.display(), found.display());
}

/// Returns every way in which two trees differ, as text.
pub fn differences(expected: &Path, found: &Path) -> Vec<String> {
    let (a, b) = (walk(expected), walk(found));
    let mut out = Vec::new();
    for (path, x) in &a {
        match b.get(path) {
            Some(y) => compare(path, x, y, &expected.join(path), &found.join(path), &mut out),
            None => out.push(format!("{path:?} is missing")),
        }
    }
    out.extend(b.keys().filter(|path| !a.contains_key(*path)).map(|path| format!("{path:?} is too much")));
    let (links_a, links_b) = (links(&a), links(&b));
    out.extend(links_a.difference(&links_b).map(|group| format!("not linked with each other any more: {group:?}")));
    out.extend(links_b.difference(&links_a).map(|group| format!("linked with each other only now: {group:?}")));
    out
}

fn walk(root: &Path) -> BTreeMap<PathBuf, Metadata> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let whole = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let meta = fs::symlink_metadata(&whole).unwrap_or_else(|e| panic!("{}: {e}", whole.display()));
        // A restore's own folder is no part of the data.
        if path == Path::new(".lastgood") {
            continue;
        }
        if meta.is_dir() {
            open.extend(fs::read_dir(&whole).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        found.insert(path, meta);
    }
    found
}

fn links(tree: &BTreeMap<PathBuf, Metadata>) -> BTreeSet<BTreeSet<&Path>> {
    let mut groups = BTreeMap::<_, BTreeSet<_>>::new();
    for (path, meta) in tree.iter().filter(|(_, meta)| !meta.is_dir()) {
        groups.entry((meta.dev(), meta.ino())).or_default().insert(path.as_path());
    }
    groups.into_values().filter(|group| group.len() > 1).collect()
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "folder",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () => "something else",
    }
}

fn compare(path: &Path, x: &Metadata, y: &Metadata, a: &Path, b: &Path, out: &mut Vec<String>) {
    let mut differ = |what: &str, x: String, y: String| {
        if x != y {
            out.push(format!("{path:?}: {what}: {x} expected, {y} found"));
        }
    };
    differ("type", kind(x).into(), kind(y).into());
    if kind(x) != kind(y) {
        return;
    }
    differ("owner", format!("{}:{}", x.uid(), x.gid()), format!("{}:{}", y.uid(), y.gid()));
    differ("mtime", format!("{}.{:09}", x.mtime(), x.mtime_nsec()), format!("{}.{:09}", y.mtime(), y.mtime_nsec()));
    differ("xattrs", format!("{:?}", xattrs(a)), format!("{:?}", xattrs(b)));
    if x.is_symlink() {
        let target = |path| format!("{:?}", fs::read_link(path).unwrap());
        differ("target", target(a), target(b));
        return;
    }
    differ("mode", format!("{:04o}", x.mode() & 0o7777), format!("{:04o}", y.mode() & 0o7777));
    if x.is_file() {
        differ("size", x.len().to_string(), y.len().to_string());
        differ("content", hash(a), hash(b));
        let (data_a, data_b) = (data(a), data(b));
        if data_a < x.len() && data_b > data_a + SLACK {
            out.push(format!("{path:?}: holes: {data_a} of {} bytes are data, {data_b} now", x.len()));
        }
    }
}

/// Returns the hash of a file's content, or enough of it to tell files apart.
pub fn hash(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finalize().to_hex()[..16].to_owned(),
            n => drop(hasher.update(&buffer[..n])),
        }
    }
}

/// Returns how many bytes of a file are not in holes.
pub fn data(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let (mut at, mut sum) = (0, 0);
    loop {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return sum,
            Err(why) => panic!("{}: {why}", path.display()),
        };
        at = seek(&file, SeekFrom::Hole(start)).unwrap();
        sum += at - start;
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = match llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return BTreeMap::new(),
        Err(why) => panic!("{}: {why}", path.display()),
    };
    let names = names[..length].split(|&b| b == 0).map(|name| String::from_utf8_lossy(name).into_owned());
    // Others, as security labels are, belong to the machine.
    let user = names.filter(|name| name.starts_with("user.") || name.starts_with("system.posix_acl_"));
    let value = |name: &str| {
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        value
    };
    user.map(|name| (name.clone(), value(&name))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;
    use std::os::unix::fs::symlink;

    /// A test of the test: each single change must be seen, or no other test here means anything.
    #[test]
    fn it_sees_every_change() {
        type Edit = fn(&Path);
        let edits: [(&str, Edit); 10] = [
            ("mode", |p| tree::set_mode(&p.join("file"), 0o600)),
            ("mtime", |p| tree::set_mtime(&p.join("file"), 1_000_000_000, 6)),
            ("mtime", |p| tree::set_mtime(p, 1_000_000_000, 6)),
            ("content", |p| {
                fs::write(p.join("file"), "conteNt").unwrap();
                tree::set_mtime(&p.join("file"), 1_000_000_000, 5);
            }),
            ("target", |p| {
                fs::remove_file(p.join("link")).unwrap();
                symlink("elsewhere", p.join("link")).unwrap();
                tree::set_mtime(&p.join("link"), 1_000_000_000, 5);
            }),
            ("missing", |p| fs::remove_file(p.join("link")).unwrap()),
            ("too much", |p| fs::write(p.join("new"), "").unwrap()),
            ("type", |p| {
                fs::remove_file(p.join("link")).unwrap();
                fs::create_dir(p.join("link")).unwrap();
            }),
            ("not linked", |p| {
                fs::remove_file(p.join("hard")).unwrap();
                fs::copy(p.join("file"), p.join("hard")).unwrap();
                tree::set_mtime(&p.join("hard"), 1_000_000_000, 5);
            }),
            ("holes", |p| {
                fs::write(p.join("sparse"), vec![0; 1 << 20]).unwrap();
                tree::set_mtime(&p.join("sparse"), 1_000_000_000, 5);
            }),
        ];
        let make = |root: &Path| {
            fs::create_dir(root).unwrap();
            fs::write(root.join("file"), "content").unwrap();
            fs::hard_link(root.join("file"), root.join("hard")).unwrap();
            symlink("somewhere", root.join("link")).unwrap();
            tree::sparse(&root.join("sparse"), 1 << 20, &[]);
            ["file", "link", "sparse", ""].iter().for_each(|p| tree::set_mtime(&root.join(p), 1_000_000_000, 5));
        };
        for (n, (what, edit)) in edits.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let (a, b) = (folder.path().join("a"), folder.path().join("b"));
            make(&a);
            make(&b);
            assert_eq!(differences(&a, &b), [""; 0]);
            edit(&b);
            let found = differences(&a, &b);
            assert!(found.iter().any(|d| d.contains(what)), "edit {n}: no {what} in {found:?}");
        }
    }
}
