//! Data directories on a mounted bucket: what GCS FUSE does not do must neither stop a backup or restore nor go unsaid.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::bucket::{GCS, Rules};
use crate::support::database::{assert_recovers_same, orders, run, table, taken};
use crate::support::fuse::GcsFuse;
use crate::support::tree::noise;
use crate::support::{World, number};

/// Returns a world whose folder `mnt` is a bucket, which is the folder `bucket`.
fn mount(world: &World, rules: Rules) -> Option<GcsFuse> {
    for name in ["bucket", "mnt"] {
        fs::create_dir_all(world.path(name)).unwrap();
    }
    GcsFuse::mount(&world.path("bucket"), &world.path("mnt"), rules)
}

/// Returns the content of all files below a folder, and its folders.
fn content(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let (path, kind) = entry.map(|e| (e.path(), e.file_type().unwrap())).unwrap();
            let name = path.strip_prefix(folder).unwrap().to_owned();
            // What a restore keeps for itself is no part of the data.
            if name == Path::new(".lastgood") {
                continue;
            }
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
    let inode = |name: &str| at(name).metadata().unwrap().ino();
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

#[test]
fn databases_on_a_bucket_are_taken_raw_and_by_their_pages() {
    let world = World::new();
    let Some(mounted) = mount(&world, GCS) else { return };
    let path = world.path("bucket/app.db");
    orders(&path, 4096, 8_000_000);
    // Another program left a WAL there: what it says is in the bucket and in no page of the database.
    let (other, left) = (world.path("other"), world.path("left"));
    fs::create_dir_all(&other).unwrap();
    fs::create_dir_all(&left).unwrap();
    run(&other.join("logged.db"), &format!("PRAGMA journal_mode=WAL; {}", table(200, 3000)));
    let writer = rusqlite::Connection::open(other.join("logged.db")).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint=0; UPDATE t SET x = randomblob(100) WHERE id < 50").unwrap();
    for name in ["logged.db", "logged.db-wal"] {
        fs::copy(other.join(name), world.path("bucket").join(name)).unwrap();
        fs::copy(other.join(name), left.join(name)).unwrap();
    }
    drop(writer);

    let first = world.json(["backup", "mnt"], 0);
    assert_eq!(taken(&first), BTreeMap::from([("app.db", "raw"), ("logged.db", "raw")]));
    let warnings = first["warnings"].to_string();
    assert!(warnings.contains("raw, unchecked") && warnings.contains("FUSE"), "{warnings}");
    let sent = number(&first, "uploaded_bytes");

    drop(mounted);
    let Some(_mounted) = mount(&world, GCS) else { return };
    let same = world.json(["backup", "mnt"], 0);
    assert!(number(&same, "uploaded_bytes") < 20_000, "{same}");
    run(&path, "PRAGMA synchronous=OFF; UPDATE orders SET amount = 7 WHERE id % 2500 = 7");
    let changed = world.json(["backup", "mnt"], 0);
    assert!(number(&changed, "uploaded_bytes") < sent / 20, "{changed}");

    world.restore("back");
    assert_eq!(content(&world.path("back")), content(&world.path("bucket")));
    assert_recovers_same(&left, &world.path("back"), "logged.db");
    let report = world.json(["verify", "--databases"], 0);
    assert_eq!(report["databases"].as_array().unwrap().len(), 2, "{report}");
}

#[test]
fn databases_are_restored_onto_a_bucket_over_old_ones() {
    let world = World::new();
    let Some(_mounted) = mount(&world, GCS) else { return };
    fs::create_dir_all(world.data()).unwrap();
    let path = world.data().join("app.db");
    orders(&path, 4096, 3_000_000);
    world.backup();
    run(&path, "UPDATE orders SET amount = 5 WHERE id % 100 = 5");
    world.backup();
    for (name, bytes) in [("app.db", "old"), ("app.db-wal", "old WAL"), ("app.db-journal", "old journal"), ("b", "b")] {
        fs::write(world.path("bucket").join(name), bytes).unwrap();
    }
    let done = world.json(["restore", "mnt", "--in-place"], 0);
    let aside = PathBuf::from(done["moved_aside"].as_str().unwrap());
    let aside = world.path("bucket").join(aside.file_name().unwrap());
    assert_eq!(fs::read(aside.join("app.db-wal")).unwrap(), b"old WAL");
    assert_eq!(fs::read(world.path("bucket/app.db")).unwrap(), fs::read(&path).unwrap());
    assert!(!world.path("bucket/app.db-wal").exists() && !world.path("bucket/app.db-journal").exists());

    fs::write(world.path("bucket/app.db-wal"), "a later WAL").unwrap();
    world.json(["restore", "mnt", "--in-place", "--path", "app.db"], 0);
    assert_eq!(fs::read(world.path("bucket/app.db")).unwrap(), fs::read(&path).unwrap());
    assert!(!world.path("bucket/app.db-wal").exists());
}

/// Returns the reasons in a restore's report for what was not restored, by path.
fn left_out(report: &serde_json::Value) -> BTreeMap<&str, &str> {
    let all = report["not_restored"].as_array().unwrap();
    all.iter().map(|problem| (problem["path"].as_str().unwrap(), problem["why"].as_str().unwrap())).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lastgood");
    names.sort();
    names
}

#[test]
fn everything_is_restored_onto_a_bucket_but_what_it_cannot_hold() {
    let world = World::with_everything();
    // More pieces than one, out of order: a database, and a file that many others share content with.
    let database = rusqlite::Connection::open(world.data().join("app.db")).unwrap();
    database.execute_batch("create table t (a, b)").unwrap();
    for n in 0..20u64 {
        database.execute("insert into t values (?1, randomblob(20000))", [n as i64]).unwrap();
        if n % 5 == 4 {
            world.backup();
        }
    }
    drop(database);
    world.backup();
    let expected = content(&world.data());
    for rules in [GCS, Rules { refuses_attributes: true, ..GCS }, Rules { folders_move: true, ..GCS }] {
        let world = &world;
        let Some(mounted) = mount(world, rules) else { return };
        let report = world.json(["restore", "mnt", "--in-place"], 3);
        assert_eq!(content(&world.path("bucket")), expected, "{rules:?}");
        let out = left_out(&report);
        assert_eq!(out["links/to dangling"], "the filesystem there has no symbolic links");
        assert_eq!(out["pipes/fifo"], "the filesystem there has no named pipes");
        let others = |path: &Path| !expected.contains_key(path);
        assert!(out.keys().all(|path| path.contains('\\') || others(Path::new(path))), "{out:?}");
        let warnings = report["warnings"].to_string();
        for said in ["3 hard links are copies", "could not get their mode", "does not support their kind"] {
            assert!(warnings.contains(said), "no {said:?} in {warnings}");
        }
        assert!(!warnings.contains("damaged"), "{warnings}");
        assert!(report["moved_aside"].is_null());
        let ran = world.run(["restore", "mnt", "--in-place"]);
        ran.ended(3).says("did not restore pipes/fifo: the filesystem there has no named pipes");
        let aside = names(&world.path("bucket")).into_iter().find(|name| name.starts_with("lastgood.replaced-"));
        let aside = world.path("bucket").join(aside.unwrap());
        assert_eq!(content(&aside), expected);
        fs::remove_dir_all(aside).unwrap();
        assert_eq!(content(&world.path("bucket")), expected);
        drop(mounted);
        fs::remove_dir_all(world.path("bucket")).unwrap();
    }
}

#[test]
fn a_folder_of_a_bucket_is_exchanged_where_folders_can_be_renamed() {
    let world = World::with_files();
    world.backup();
    let expected = content(&world.data());
    let Some(mounted) = mount(&world, GCS) else { return };
    fs::create_dir(world.path("bucket/app")).unwrap();
    fs::write(world.path("bucket/app/old"), "old").unwrap();
    for target in ["mnt/app", "mnt/new"] {
        world.run(["restore", target]).ended(2).says("folders cannot be renamed").says("--in-place");
    }
    assert_eq!(names(&world.path("bucket")), ["app"]);
    world.json(["restore", "mnt/new", "--in-place"], 0);
    assert_eq!(content(&world.path("bucket/new")), expected);
    drop(mounted);

    let Some(_mounted) = mount(&world, Rules { folders_move: true, ..GCS }) else { return };
    let report = world.json(["restore", "mnt/app"], 0);
    assert_eq!(content(&world.path("bucket/app")), expected);
    let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
    assert_eq!(names(&aside), ["old"]);
}

#[test]
fn single_entries_are_put_back_file_by_file() {
    let world = World::with_files();
    world.backup();
    let Some(_mounted) = mount(&world, GCS) else { return };
    fs::create_dir_all(world.path("bucket/uploads/mine")).unwrap();
    fs::write(world.path("bucket/uploads/mine/old"), "old").unwrap();
    let part = ["restore", "mnt", "--path", "uploads", "--path", "a.txt"];
    world.run(part).ended(2).says("mount point");
    let report = world.json(part.into_iter().chain(["--in-place"]), 0);
    let aside = PathBuf::from(report["moved_aside"].as_str().unwrap());
    assert_eq!(fs::read(aside.join("uploads/mine/old")).unwrap(), b"old");
    assert_eq!(content(&world.path("bucket/uploads")), content(&world.data().join("uploads")));
    assert_eq!(fs::read(world.path("bucket/a.txt")).unwrap(), b"first\n");
}

#[test]
fn what_fails_when_a_file_is_closed_fails_the_restore() {
    let world = World::with_files();
    world.write("large", noise(1, 3_000_000));
    world.backup();
    let Some(_mounted) = mount(&world, Rules { fails_on_close: true, ..GCS }) else { return };
    fs::write(world.path("bucket/old"), "old").unwrap();
    for path in ["a.txt", "large"] {
        world.run(["restore", "mnt", "--in-place", "--path", path]).ended(1).says("Input/output error").says(path);
    }
    assert_eq!(names(&world.path("bucket")), ["old"]);
}

#[test]
fn a_staging_folder_that_may_be_in_use_stays() {
    let world = World::with_files();
    world.backup();
    let Some(_mounted) = mount(&world, GCS) else { return };
    let other = ".lastgood-restoring-0011223344556677";
    fs::create_dir_all(world.path("bucket").join(other).join("tree/half")).unwrap();
    let report = world.json(["restore", "mnt", "--in-place"], 0);
    assert!(report["warnings"].to_string().contains(other), "{report}");
    assert!(world.path("bucket").join(other).join("tree/half").exists());
}
