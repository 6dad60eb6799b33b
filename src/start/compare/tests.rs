use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::{XattrFlags, lremovexattr, lsetxattr};

use super::*;
use crate::skipped::skipped;
use crate::start::testing::{World, changed, copy, run, write};
use crate::vault::root::SnapshotName;

/// A directory with a bit of everything, and its snapshot.
fn world() -> (World, SnapshotName) {
    let world = World::new();
    world.write("a", b"aa");
    world.write("s/b", b"bbb");
    world.write("s/c", b"cc");
    fs::create_dir(world.data.join("empty")).unwrap();
    symlink("a", world.data.join("link")).unwrap();
    let name = world.backup().snapshot;
    (world, name)
}

fn told(comparison: &Comparison) -> String {
    let changes = comparison.differences.iter().map(|(path, change)| format!("{path} {change:?}"));
    changes.collect::<Vec<_>>().join(", ")
}

#[test]
fn what_differs_is_named_in_order() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 9] = [
        ("", |_| {}),
        ("n Added", |data| fs::write(data.join("n"), "").unwrap()),
        ("a Removed", |data| fs::remove_file(data.join("a")).unwrap()),
        ("s/b Modified", |data| write(&data.join("s/b"), b"bbbb", 600)),
        ("s/b Modified", |data| write(&data.join("s/b"), b"xxx", 300)),
        ("empty Removed", |data| fs::remove_dir(data.join("empty")).unwrap()),
        ("link Modified", |data| {
            fs::remove_file(data.join("link")).unwrap();
            symlink("b", data.join("link")).unwrap();
        }),
        ("a Removed, a/x Added", |data| {
            fs::remove_file(data.join("a")).unwrap();
            fs::create_dir(data.join("a")).unwrap();
            fs::write(data.join("a/x"), "").unwrap();
        }),
        ("s Removed, s/b Removed, s/c Removed", |data| fs::remove_dir_all(data.join("s")).unwrap()),
    ];
    for elsewhere in [false, true] {
        for (expected, change) in changes {
            let (world, name) = world();
            if elsewhere {
                world.becomes_a_copy();
            }
            change(&world.data);
            // lastgood's own files are not the app's.
            fs::create_dir(world.data.join(".lastgood")).unwrap();
            fs::write(world.data.join(".lastgood/state.json"), "x").unwrap();
            let found = world.compare(name, Until::Different);
            let expected = expected.replace("a Removed, a/x", "a Modified, a/x");
            assert_eq!((told(&found), found.changed()), (expected.clone(), Some(!expected.is_empty())), "{elsewhere}");
            assert_eq!(told(&world.compare(name, Until::End)), expected, "{elsewhere}");
        }
    }
}

#[test]
fn modes_count_where_the_snapshot_was_taken_and_times_of_folders_nowhere() {
    let (world, name) = world();
    fs::write(world.data.join("s/temporary"), "").unwrap();
    fs::remove_file(world.data.join("s/temporary")).unwrap();
    assert_eq!(world.compare(name, Until::End).changed(), Some(false));
    fs::set_permissions(world.data.join("s/b"), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(told(&world.compare(name, Until::Different)), "s/b Modified");
    world.becomes_a_copy();
    assert_eq!(world.compare(name, Until::Different).changed(), Some(false));
}

/// Sets an attribute of what is at a path of the directory. Returns whether it can be set.
fn label(world: &World, path: &str, name: &str, value: &str) -> bool {
    lsetxattr(world.data.join(path), name, value.as_bytes(), XattrFlags::empty()).is_ok()
}

#[test]
fn an_attribute_is_a_change_of_whatever_has_it() {
    for elsewhere in [false, true] {
        let (world, name) = world();
        if !label(&world, "a", "user.x", "1") {
            return skipped("xattrs", "the filesystem of the tests has no extended attributes");
        }
        let name_with_one = world.backup().snapshot;
        if elsewhere {
            world.becomes_a_copy();
        }
        // It is the snapshot's own.
        assert_eq!(told(&world.compare(name_with_one, Until::Different)), "", "{elsewhere}");
        assert_eq!(told(&world.compare_strictly(name_with_one)), "", "{elsewhere}");
        assert_eq!(told(&world.compare(name, Until::Different)), "a Modified", "{elsewhere}");
        assert_eq!(told(&world.compare_strictly(name)), "a Modified", "{elsewhere}");
        label(&world, "a", "user.x", "2");
        assert_eq!(told(&world.compare(name_with_one, Until::Different)), "a Modified", "{elsewhere}");
        // Where it is gone, a copy may have lost it.
        lremovexattr(world.data.join("a"), "user.x").unwrap();
        let gone = if elsewhere { "" } else { "a Modified" };
        assert_eq!(told(&world.compare(name_with_one, Until::Different)), gone, "{elsewhere}");
        assert_eq!(told(&world.compare_strictly(name_with_one)), "a Modified", "{elsewhere}");
        assert_eq!(world.compare(name, Until::Different).changed(), Some(false), "{elsewhere}");
        for path in [".", "s", "s/b"] {
            label(&world, path, "user.y", "");
            let expected = format!("{path} Modified");
            assert_eq!(told(&world.compare(name, Until::Different)), expected, "{elsewhere}");
            assert_eq!(told(&world.compare_strictly(name)), expected, "{elsewhere}");
            lremovexattr(world.data.join(path), "user.y").unwrap();
        }
        assert_eq!(told(&world.compare_strictly(name)), "", "{elsewhere}");
        // Users cannot set any of a symlink, and an administrator's are not the app's.
        if label(&world, "link", "trusted.x", "1") {
            assert_eq!(world.compare(name, Until::Different).changed(), Some(false), "{elsewhere}");
            assert_eq!(told(&world.compare_strictly(name)), "link Modified", "{elsewhere}");
        }
    }
}

#[test]
fn an_attribute_of_a_database_is_a_change_and_its_app_is_not() {
    let world = World::new();
    let database = Connection::open(world.data.join("app.db")).unwrap();
    database.execute_batch("pragma journal_mode = wal; create table t (a); insert into t values (1)").unwrap();
    database.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).unwrap();
    if !label(&world, "app.db", "user.x", "1") {
        return skipped("xattrs", "the filesystem of the tests has no extended attributes");
    }
    let name = world.backup().snapshot;
    assert_eq!(world.compare(name, Until::Different).changed(), Some(false));
    drop(database);
    world.becomes_a_copy();
    assert_eq!(world.compare(name, Until::Different).changed(), Some(false));
    assert_eq!(world.compare_strictly(name).changed(), Some(false));
    label(&world, "app.db", "user.x", "2");
    assert_eq!(told(&world.compare(name, Until::Different)), "app.db Modified");
}

#[test]
fn names_of_files_that_are_exchanged_are_a_change() {
    let world = World::new();
    for (path, other, content) in [("a", "x", "1"), ("b", "y", "2")] {
        world.write(path, content.as_bytes());
        fs::hard_link(world.data.join(path), world.data.join(other)).unwrap();
    }
    // Nothing but the content tells one from the other.
    let time = fs::metadata(world.data.join("a")).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(world.data.join("b")).unwrap();
    file.set_modified(time).unwrap();
    let name = world.backup().snapshot;
    for elsewhere in [false, true] {
        if elsewhere {
            world.becomes_a_copy();
        }
        let at = |path: &str| world.data.join(path);
        let exchange = || {
            fs::rename(at("x"), at("z")).unwrap();
            fs::rename(at("y"), at("x")).unwrap();
            fs::rename(at("z"), at("y")).unwrap();
        };
        for strict in [false, true] {
            let compare = || match strict {
                true => told(&world.compare_strictly(name)),
                false => told(&world.compare(name, Until::Different)),
            };
            assert_eq!(compare(), "", "{elsewhere} {strict}");
            exchange();
            assert_eq!(compare(), "x Modified, y Modified", "{elsewhere} {strict}");
            exchange();
        }
    }
    // One file of two, each with a name elsewhere, is two files.
    fs::copy(world.data.join("a"), world.folder.path().join("a")).unwrap();
    fs::remove_file(world.data.join("x")).unwrap();
    fs::hard_link(world.folder.path().join("a"), world.data.join("x")).unwrap();
    fs::hard_link(world.data.join("a"), world.folder.path().join("x")).unwrap();
    fs::File::options().write(true).open(world.data.join("x")).unwrap().set_modified(time).unwrap();
    assert_eq!(world.compare(name, Until::Different).changed(), Some(false));
    assert_eq!(told(&world.compare_strictly(name)), "x Modified");
}

#[test]
fn beside_a_database_only_what_sqlite_makes_itself_is_no_difference() {
    let world = World::new();
    let at = |name: &str| world.data.join(name);
    let database = Connection::open(at("app.db")).unwrap();
    database.execute_batch("pragma journal_mode = wal; create table t (a); insert into t values (1)").unwrap();
    drop(database);
    let name = world.backup().snapshot;
    let compare = || told(&world.compare_strictly(name));
    // A program that is killed leaves them behind, here after a checkpoint.
    let database = Connection::open(at("app.db")).unwrap();
    database.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).unwrap();
    assert!(at("app.db-shm").metadata().unwrap().len() > 0 && at("app.db-wal").metadata().unwrap().len() == 0);
    for side in ["app.db-shm", "app.db-wal"] {
        fs::copy(at(side), world.folder.path().join(side)).unwrap();
    }
    drop(database);
    for side in ["app.db-shm", "app.db-wal"] {
        fs::rename(world.folder.path().join(side), at(side)).unwrap();
    }
    assert_eq!(compare(), "");
    if label(&world, "app.db-shm", "user.x", "1") {
        assert_eq!(compare(), "app.db-shm Added");
        lremovexattr(at("app.db-shm"), "user.x").unwrap();
    }
    fs::remove_file(at("app.db-wal")).unwrap();
    let shm = fs::File::options().write(true).open(at("app.db-shm")).unwrap();
    shm.set_len(0).unwrap();
    assert_eq!(compare(), "");
    shm.set_len(32 << 10).unwrap();
    assert_eq!(compare(), "");
    shm.write_all_at(b"nowhere else", 20_000).unwrap();
    assert_eq!(compare(), "app.db-shm Added");
    fs::write(at("app.db-shm"), "of an app").unwrap();
    assert_eq!(compare(), "app.db-shm Added");
    // No backup takes it, so it does not make the directory one that is to be saved.
    assert_eq!(world.compare(name, Until::Different).changed(), Some(false));
}

#[test]
fn where_times_do_not_tell_the_content_does() {
    for elsewhere in [false, true] {
        let world = World::new();
        world.write("whole", b"12345");
        let whole = world.data.join("whole");
        run(Command::new("touch").arg("-d").arg("2026-01-02T03:04:05Z").arg(&whole));
        // Too young to be trusted.
        fs::write(world.data.join("young"), "123").unwrap();
        let name = world.backup().snapshot;
        if elsewhere {
            world.becomes_a_copy();
        }
        assert_eq!(world.compare(name, Until::Different).changed(), Some(false), "{elsewhere}");
        // What must not be read cannot be told: both have to be read in another place, one of them in the same.
        let unread = world.compare_reading(name, Until::Different, if elsewhere { 5 } else { 2 });
        assert_eq!((unread.changed(), unread.unsure.unwrap().0.to_string()), (None, "young".into()), "{elsewhere}");
        // Times are put back, as some tools do.
        for (path, bytes) in [("whole", "54321"), ("young", "321")] {
            let path = world.data.join(path);
            let time = path.metadata().unwrap().modified().unwrap();
            fs::write(&path, bytes).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(told(&world.compare(name, Until::Different)), "whole Modified, young Modified", "{elsewhere}");
    }
}

#[test]
fn a_directory_is_known_again_after_it_was_restored() {
    let (world, name) = world();
    let database = Connection::open(world.data.join("app.db")).unwrap();
    database.execute_batch("pragma journal_mode = wal; create table t (a); insert into t values (1)").unwrap();
    let with_log = world.backup().snapshot;
    drop(database);
    assert_eq!(told(&world.compare(with_log, Until::Different)), "app.db Modified");
    world.restore(&with_log.id.to_string());
    assert_eq!(world.compare(with_log, Until::Different).changed(), Some(false));
    assert_eq!(told(&world.compare(name, Until::Different)), "app.db Added");
    // An app that only looks leaves nothing that counts.
    let database = Connection::open(world.data.join("app.db")).unwrap();
    database.query_row("select count(*) from t", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(world.compare(with_log, Until::Different).changed(), Some(false));
    database.execute_batch("insert into t values (2)").unwrap();
    assert_eq!(told(&world.compare(with_log, Until::Different)), "app.db Modified");
}

#[test]
fn a_database_whose_app_left_a_log_is_known_again() {
    let world = World::new();
    let path = world.data.join("app.db");
    let database = Connection::open(&path).unwrap();
    database.execute_batch("pragma journal_mode = wal; pragma wal_autocheckpoint = 0").unwrap();
    database.execute_batch("create table t (a); insert into t values (1)").unwrap();
    // A program that ends without closing it.
    let files = ["app.db", "app.db-wal", "app.db-shm"].map(|name| (name, fs::read(world.data.join(name)).unwrap()));
    drop(database);
    // Just before the backup, so that their times do not tell.
    files.iter().for_each(|(name, bytes)| fs::write(world.data.join(name), bytes).unwrap());
    let name = world.backup().snapshot;
    assert!(world.data.join("app.db-wal").metadata().unwrap().len() > 0);
    assert_eq!(world.compare(name, Until::Different).changed(), Some(false));
    assert_eq!(world.compare_reading(name, Until::Different, 10).changed(), None, "too large to be read");
    assert_eq!(world.compare(name, Until::Different).changed(), Some(false), "a look changes nothing");
    let database = Connection::open(&path).unwrap();
    database.execute_batch("pragma wal_autocheckpoint = 0; update t set a = 2").unwrap();
    assert_eq!(told(&world.compare(name, Until::Different)), "app.db Modified");
}

#[test]
fn a_journal_that_a_transaction_has_left_tells_nothing() {
    let world = World::new();
    let path = world.data.join("app.db");
    let database = Connection::open(&path).unwrap();
    database.query_row("pragma journal_mode = persist", [], |_| Ok(())).unwrap();
    database.execute_batch("create table t (a); insert into t values (1)").unwrap();
    let name = world.backup().snapshot;
    assert!(world.data.join("app.db-journal").metadata().unwrap().len() > 0);
    for elsewhere in [false, true] {
        if elsewhere {
            world.becomes_a_copy();
        }
        // Somebody else is about to commit, and is not waited for.
        let database = Connection::open(&path).unwrap();
        database.execute_batch("begin immediate").unwrap();
        assert_eq!(world.compare(name, Until::Different).changed(), Some(false), "{elsewhere}");
        assert_eq!(world.compare_strictly(name).changed(), Some(false), "{elsewhere}");
        assert_eq!(world.compare_reading(name, Until::Different, 10).changed(), None, "{elsewhere}");
    }
    let database = Connection::open(&path).unwrap();
    database.query_row("pragma journal_mode = persist", [], |_| Ok(())).unwrap();
    database.execute_batch("update t set a = 2").unwrap();
    assert_eq!(told(&world.compare(name, Until::Different)), "app.db Modified");
    assert_eq!(told(&world.compare_strictly(name)), "app.db Modified");
}

#[test]
fn a_database_with_a_hot_journal_is_known_by_its_bytes() {
    let world = World::new();
    let original = world.folder.path().join("original.db");
    let database = Connection::open(&original).unwrap();
    database.execute_batch("create table t (a); insert into t values (1); pragma cache_size = 1").unwrap();
    database.execute_batch("begin; update t set a = 2").unwrap();
    database.cache_flush().unwrap();
    for (from, to) in [("original.db", "app.db"), ("original.db-journal", "app.db-journal")] {
        fs::copy(world.folder.path().join(from), world.data.join(to)).unwrap();
    }
    let name = world.backup().snapshot;
    for elsewhere in [false, true] {
        if elsewhere {
            world.becomes_a_copy();
        }
        assert_eq!(world.compare(name, Until::Different).changed(), Some(false), "{elsewhere}");
        assert_eq!(told(&world.compare_strictly(name)), "", "{elsewhere}");
    }
    let journal = world.data.join("app.db-journal");
    let bytes = fs::read(&journal).unwrap();
    let mode = fs::metadata(&journal).unwrap().permissions();
    fs::set_permissions(&journal, Permissions::from_mode(mode.mode() ^ 0o007)).unwrap();
    assert_eq!(told(&world.compare_strictly(name)), "app.db-journal Modified");
    fs::set_permissions(&journal, mode).unwrap();
    assert_eq!(told(&world.compare_strictly(name)), "");
    fs::write(&journal, [&bytes[..bytes.len() - 1], b"x"].concat()).unwrap();
    assert_eq!(told(&world.compare(name, Until::Different)), "app.db Modified");
    fs::remove_file(&journal).unwrap();
    assert!(told(&world.compare(name, Until::Different)).starts_with("app.db Modified"));
}

#[test]
fn patterns_are_those_of_the_snapshot() {
    let mut world = World::new();
    world.write("a", b"aa");
    world.write("cache/x", b"x");
    world.options.exclude = vec!["cache".into()];
    let name = world.backup().snapshot;
    world.write("cache/y", b"y");
    assert_eq!(world.compare(name, Until::Different).changed(), Some(false));
}

/// A disk that was put back: a directory as it was some time ago, with its old inodes and change times, of which a
/// snapshot was taken later. What did not change has the same inodes and change times in both. Returns what shows that
/// it is older.
fn put_back(before: fn(&Path), change: fn(&Path)) -> Option<String> {
    let world = World::new();
    world.write("kept", b"old");
    before(&world.data);
    let old = world.aside("old");
    run(Command::new("cp").arg("-al").args([&old, &world.data]));
    std::thread::sleep(Duration::from_millis(20));
    change(&world.data);
    let name = world.backup().snapshot;
    let inode = |path: &Path| path.join("kept").metadata().unwrap().ino();
    let new = world.aside("new");
    fs::rename(old, &world.data).unwrap();
    assert_eq!(inode(&world.data), inode(&new));
    world.compare(name, Until::End).put_back.map(|shown| format!("{} {}", shown.path, shown.why))
}

/// Replaces a file, so that other names of the old one keep what they have.
fn replace(path: &Path, bytes: &[u8], ago: u64) {
    let new = path.with_extension("new");
    write(&new, bytes, ago);
    fs::rename(new, path).unwrap();
    // The old file has changed as well, when it lost a name.
    std::thread::sleep(Duration::from_millis(20));
    changed(path, ago);
}

#[test]
fn a_disk_that_was_put_back_is_older_than_its_snapshot() {
    let older = |shown: Option<String>, path: &str| {
        let expected = format!("{path} has an older change time than the snapshot says");
        assert_eq!(shown, Some(expected));
    };
    assert_eq!(put_back(|_| {}, |_| {}), None);
    let file = |data: &Path| write(&data.join("file"), b"old", 600);
    assert_eq!(put_back(file, |_| {}), None);
    older(put_back(file, |data| replace(&data.join("file"), b"new", 60)), "file");
    // The time of its modification, which programs set, does not matter here.
    older(put_back(file, |data| replace(&data.join("file"), b"new", 6000)), "file");
    // A file that came since is absent, and one that was deleted since is there: their folder tells.
    let folder = |data: &Path| write(&data.join("s/b"), b"old", 600);
    older(put_back(folder, |data| write(&data.join("s/c"), b"new", 60)), "s");
    older(put_back(folder, |data| fs::remove_file(data.join("s/b")).unwrap()), "s");
}

#[test]
fn an_app_that_goes_on_is_not_put_back() {
    let (world, name) = world();
    fs::remove_file(world.data.join("s/b")).unwrap();
    fs::remove_dir(world.data.join("empty")).unwrap();
    write(&world.data.join("a"), b"new", 0);
    // An older file takes the place of a newer one, as when logs are rotated.
    write(&world.data.join("older"), b"xx", 6000);
    fs::rename(world.data.join("older"), world.data.join("s/c")).unwrap();
    let found = world.compare(name, Until::End);
    assert_eq!((found.changed(), found.put_back), (Some(true), None));
}

#[test]
fn an_app_that_has_replaced_every_file_is_not_put_back() {
    let world = World::new();
    world.write("n", b"1");
    // The snapshot was taken just when there was a file that the app renames.
    world.write("n.new", b"2");
    let name = world.backup().snapshot;
    fs::rename(world.data.join("n.new"), world.data.join("n")).unwrap();
    changed(&world.data.join("n"), 0);
    let found = world.compare(name, Until::End);
    assert_eq!((told(&found), found.put_back), ("n Modified, n.new Removed".into(), None));
}

#[test]
fn a_copy_of_an_older_state_is_known_by_what_it_lacks_and_by_older_files() {
    let copied = |change: fn(&Path)| {
        let world = World::new();
        for path in ["kept", "s/b", "s/c"] {
            world.write(path, b"old");
        }
        let old = world.folder.path().join("old");
        copy(&world.data, &old);
        change(&world.data);
        let name = world.backup().snapshot;
        world.aside("new");
        copy(&old, &world.data);
        world.compare(name, Until::End).put_back.map(|shown| format!("{} {}", shown.path, shown.why))
    };
    assert_eq!(copied(|_| {}), None);
    let absent = copied(|data| write(&data.join("s/d"), b"new", 60));
    assert!(absent.as_deref().is_some_and(|absent| absent.starts_with("s/d is not there")), "{absent:?}");
    let older = copied(|data| write(&data.join("s/b"), b"new", 60));
    assert!(older.as_deref().is_some_and(|older| older.starts_with("s/b is older")), "{older:?}");
}

#[test]
fn a_copy_that_goes_on_from_the_snapshot_is_not_put_back() {
    let (world, name) = world();
    world.becomes_a_copy();
    world.write("a", b"more");
    changed(&world.data.join("a"), 0);
    world.write("d", b"new");
    let found = world.compare(name, Until::End);
    assert_eq!((told(&found), found.put_back), ("a Modified, d Added".into(), None));
}
