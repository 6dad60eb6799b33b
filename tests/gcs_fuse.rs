//! Data directories on a mounted bucket: what GCS FUSE does not do must neither stop a backup or restore nor go unsaid.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::bucket::{GCS, Rules};
use crate::support::fuse::GcsFuse;
use crate::support::tree::noise;
use crate::support::{World, number};

/// A world whose folder `mnt` is a bucket, which is the folder `bucket`.
fn mount(world: &World, rules: Rules) -> Option<GcsFuse> {
    for name in ["bucket", "mnt"] {
        fs::create_dir_all(world.path(name)).unwrap();
    }
    GcsFuse::mount(&world.path("bucket"), &world.path("mnt"), rules)
}

/// The content of all files below a folder, and its folders.
fn content(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let (path, kind) = entry.map(|e| (e.path(), e.file_type().unwrap())).unwrap();
            let name = path.strip_prefix(folder).unwrap().to_owned();
            if kind.is_dir() {
                found.insert(name, None);
                open.push(path);
            } else if kind.is_file() {
                found.insert(name, Some(fs::read(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn the_filesystem_keeps_the_rules() {
    use rustix::fs::{FlockOperation, RenameFlags, flock, renameat_with};
    use std::io::Write;
    let world = World::new();
    let Some(mounted) = mount(&world, GCS) else { return };
    let at = |name: &str| world.path("mnt").join(name);
    let mut file = fs::File::create(at("a")).unwrap();
    file.write_all(b"content").unwrap();
    assert_eq!(fs::read(at("a")).unwrap(), b"", "a write is seen before the file is closed");
    assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
    drop(file);
    assert_eq!(fs::read(at("a")).unwrap(), b"content");
    assert_eq!(fs::read(world.path("bucket/a")).unwrap(), b"content");
    assert!(fs::hard_link(at("a"), at("b")).is_err());
    assert!(std::os::unix::fs::symlink("a", at("b")).is_err());
    let here = rustix::fs::CWD;
    assert!(renameat_with(here, at("a"), here, at("b"), RenameFlags::NOREPLACE).is_err());
    fs::rename(at("a"), at("b")).unwrap();
    fs::create_dir_all(at("folder/in")).unwrap();
    assert!(fs::rename(at("folder"), at("other")).is_err());
    fs::rename(at("folder/in"), at("in")).unwrap();
    assert!(fs::File::open(at("in")).unwrap().sync_all().is_err());
    let database = rusqlite::Connection::open(at("db")).unwrap();
    assert!(database.execute_batch("create table t (a)").is_err(), "a database could be locked");
    drop(database);
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&at(name).metadata().unwrap());
    let before = inode("b");
    drop(mounted);
    assert_eq!(fs::read_dir(world.path("mnt")).unwrap().count(), 0, "it is still mounted");
    let Some(_mounted) = mount(&world, GCS) else { return };
    assert_ne!(inode("b"), before);
    assert_eq!(fs::read(at("b")).unwrap(), b"content");
}

#[test]
fn a_second_backup_after_a_new_mount_sends_next_to_nothing() {
    let world = World::new();
    let Some(mounted) = mount(&world, GCS) else { return };
    for n in 0..20 {
        let path = world.path("bucket").join(format!("folder {}/{n}", n % 3));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(n, 300_000)).unwrap();
    }
    let first = world.json(["backup", "mnt"], 0);
    assert!(number(&first, "uploaded_bytes") > 5_000_000, "{first}");
    drop(mounted);
    let Some(_mounted) = mount(&world, GCS) else { return };
    let second = world.json(["backup", "mnt"], 0);
    assert!(number(&second, "uploaded_bytes") < 20_000, "{second}");
    world.restore("back");
    assert_eq!(content(&world.path("back")), content(&world.path("bucket")));
}
